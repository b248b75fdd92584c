"""What the model saw of a record, and how its calls and results are made to fit.

A model's history is a list of items: the `response_item` payloads, what other agents said, and, from a compaction on,
its replacement. Cut anywhere, by a crash, a fork or a compaction, it is made well-formed: a call that nothing answers
gets a result that says so, directly behind it, and a result without its call is left out. Calls and results belong
together by `call_id`, in their order; an item without one (a result that the program itself put there, a search that
the server did) neither asks nor answers. A redacted item says nothing any more and is left out.

Source: codex_rollout.md 2.4, 2.6, 5.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from engine.events.kinds import RESPONSE_ITEMS

Item = dict[str, Any]

COMPACTED = "compacted"
ABORTED = "aborted"
"""What stands in the place of a result that never came, as the Codex CLI words it."""

_PREFIX = "response_item."
_UNSEEN = frozenset({"ghost_snapshot", "compaction_trigger"})
_SEEN = RESPONSE_ITEMS - _UNSEEN
_ASKS = {
    "function_call": "function_call_output",
    "local_shell_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "tool_search_call": "tool_search_output",
}
"""The calls that want a result, and what it is called."""
_ANSWERS = frozenset(_ASKS.values())


class WellFormed(NamedTuple):
    """Items of which each call has its result. `interrupted` are the calls that got one here, `dropped` results left out."""

    items: list[Item]
    interrupted: list[str]
    dropped: int


def item_of(kind: str, payload: Mapping[str, Any]) -> Item | None:
    """The item that a record is to the model, or None."""
    if payload.get("redacted") is True:
        return None
    if kind == "inter_agent_communication":
        return _said_by_agent(payload)
    return dict(payload) if kind.startswith(_PREFIX) and kind.removeprefix(_PREFIX) in _SEEN else None


def replacement_of(payload: Mapping[str, Any]) -> list[Item] | None:
    """What a compaction puts in the place of everything before it; None where it replaces nothing, or cannot be used."""
    history, metadata = payload.get("replacement_history"), payload.get("replacement_history_metadata")
    if not isinstance(history, list) or not all(isinstance(item, dict) for item in history):
        return None
    if metadata is not None and (not isinstance(metadata, list) or len(metadata) != len(history)):
        return None
    return [item for item in history if item.get("type") not in _UNSEEN and item.get("redacted") is not True]


def well_formed(items: Iterable[Item]) -> WellFormed:
    """The same items, with a result for each call and a call for each result."""
    kept: list[Item | None] = []
    waiting: dict[tuple[str, str], int] = {}
    """Where behind each open call its stand-in is, which goes when the result comes."""
    stand_ins: set[int] = set()
    dropped = 0
    for item in items:
        tag, call_id = item.get("type"), item.get("call_id")
        if not isinstance(tag, str) or not isinstance(call_id, str) or (tag not in _ASKS and tag not in _ANSWERS):
            kept.append(item)
        elif tag in _ASKS:
            kept += [item, _stand_in(item)]
            waiting[_ASKS[tag], call_id] = len(kept) - 1
            stand_ins.add(len(kept) - 1)
        elif (place := waiting.pop((tag, call_id), None)) is None:
            dropped += 1
        else:
            kept[place] = None
            stand_ins.remove(place)
            kept.append(item)
    interrupted = [str((kept[place] or {})["call_id"]) for place in sorted(stand_ins)]
    return WellFormed([item for item in kept if item is not None], interrupted, dropped)


def _stand_in(call: Item) -> Item:
    """The result of a call that nothing answered."""
    answer = {"type": _ASKS[call["type"]], "call_id": call["call_id"]}
    if call["type"] == "tool_search_call":
        return {**answer, "status": "incomplete", "execution": call.get("execution") or "client", "tools": []}
    return {**answer, "output": ABORTED}


def _said_by_agent(payload: Mapping[str, Any]) -> Item:
    """What another agent said, as the item that later releases write for it."""
    text, encrypted = payload.get("content"), payload.get("encrypted_content")
    content = [{"type": "input_text", "text": text}] if isinstance(text, str) and text else []
    if isinstance(encrypted, str):
        content.append({"type": "encrypted_content", "encrypted_content": encrypted})
    named = {name: payload[name] for name in ("id", "author", "recipient") if payload.get(name) is not None}
    return {"type": "agent_message", **named, "content": content}
