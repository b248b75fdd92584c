"""What happens in a thread, for every benchmark that appends: the same events each time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Event = dict[str, Any]
TEXT = "The parser keeps the position of each token, so that an error can say where it is; the tests cover both cases. "


def events(thread: int, count: int) -> Iterator[Event]:
    """What happens in a thread: of twenty events one is what a user says and one is a count of tokens."""
    for at in range(count):
        if at % 20 == 0:
            said = [{"type": "text", "text": f"thread {thread}: go on with step {at}", "text_elements": []}]
            item = {"type": "UserMessage", "id": f"item-{at}", "content": said}
            payload: Event = {
                "type": "item_completed",
                "thread_id": id_of(thread),
                "turn_id": f"turn-{at}",
                "item": item,
            }
            yield {"type": "event_msg", "payload": payload}
        elif at % 20 == 10:
            usage = {
                "input_tokens": at * 90,
                "cached_input_tokens": 0,
                "output_tokens": at * 10,
                "total_tokens": at * 100,
            }
            usage["reasoning_output_tokens"] = 0
            payload = {"type": "token_count", "info": {"total_token_usage": usage, "last_token_usage": usage}}
            yield {"type": "event_msg", "payload": payload}
        else:
            yield message(f"{thread}.{at} {TEXT * (1 + at % 5)}")


def message(text: str) -> Event:
    """What the model says: no table asks for it."""
    content = [{"type": "output_text", "text": text}]
    return {"type": "response_item", "payload": {"type": "message", "role": "assistant", "content": content}}


def line_of(event: Event) -> bytes:
    """As it is in a rollout."""
    record = {"timestamp": "2026-01-05T09:00:00.000Z", "ordinal": 12345, **event}
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def id_of(thread: int) -> str:
    """A thread's id, the same every time."""
    return f"0199a000-0000-7000-8000-{thread:012d}"
