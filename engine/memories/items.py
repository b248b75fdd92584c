"""What of a conversation an extractor is shown: what was said and done, and nothing that the harness put there.

Of a rollout's records only what the model saw counts, and of that neither developers' messages, nor reasoning, nor
instructions and skills that were pasted into a user's message. Pictures and sound are named, not shown.

Source: codex_memories.md 2.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.events.model_items import item_of

_KEPT = frozenset({
    "agent_message",
    "local_shell_call",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
})  # fmt: skip

_PASTED = (("# agents.md instructions", "</instructions>"), ("<skill>", "</skill>"))
"""How pasted text begins and ends, in lower case."""

_MEDIA = {"input_image": "image_url", "input_audio": "audio", "image": "image_url"}


def kept(kind: str, payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """The item that this record is to an extractor, or None."""
    item = item_of(kind, payload)
    if item is None:
        return None
    if item.get("type") == "message":
        return _message(item)
    return item if item.get("type") in _KEPT else None


def _message(item: dict[str, Any]) -> dict[str, Any] | None:
    role, content = item.get("role"), item.get("content")
    if role == "developer" or not isinstance(content, list):
        return None
    parts = [_without_media(part) for part in content]
    if role == "user":
        parts = [part for part in parts if not _is_pasted(part)]
    return {**item, "content": parts} if parts else None


def _is_pasted(part: Any) -> bool:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "input_text" else None
    if not isinstance(text, str):
        return False
    text = text.strip().lower()
    return any(text.startswith(begin) and text.endswith(end) for begin, end in _PASTED)


def _without_media(part: Any) -> Any:
    field = _MEDIA.get(str(part.get("type"))) if isinstance(part, dict) else None
    return part if field is None else {"type": part["type"], field: "[left out]"}
