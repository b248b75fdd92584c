"""Fitting a conversation into a number of tokens by what its parts are worth, not by where they stand.

What people said comes first, then final answers, what other agents said, remarks on the way, what the harness put there, and
what tools did; of one worth the newest first. What is taken stands in its own order again, each item with `evidence`,
which says what it is, and a line in the place of each run of items that gave way. A long item loses its middle; one that
has no room does not keep smaller, older ones out.

The alternative, `budget.fit`, keeps both ends of a conversation. `MemoryOptions.keeps` says which.

Source: codex_memories.md 2.6 ("V2 body"). Kinds of a harness in a message's metadata are not looked at: no rollout has them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from engine.memories.budget import Counter, Fitted, cut_chars, cut_texts, encoded, gap

_ITEM_BYTES_MAX = 10_000
_OUTPUT_TOKENS_MAX = 2_000
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output", "tool_search_output"})
_GAP_TOKENS = 16
"""More than a line takes that stands for what gave way."""
_LEAST_TOKENS = 24
"""Less room than this is left empty."""

_HEADER = re.compile(r"\s*Message Type:.*\n\s*Task name:.*\n\s*Sender:.*\n\s*Payload:", re.IGNORECASE)
_NOTIFICATION = "<subagent_notification>"
_CONTEXT = "<environment_context>"
_ASKING = "request_user_input"
_OWN_NAMESPACES = (None, "", "functions")


class Worth(IntEnum):
    """What an item is, the worthiest first."""

    HUMAN = 0
    FINAL = 1
    OTHER_AGENT = 2
    COMMENTARY = 3
    CONTEXT = 4
    TOOL = 5

    @property
    def label(self) -> str:
        """As an extractor is told."""
        return _LABELS[self]


_LABELS = {
    Worth.HUMAN: "human user",
    Worth.FINAL: "assistant final",
    Worth.OTHER_AGENT: "other agent",
    Worth.COMMENTARY: "assistant commentary",
    Worth.CONTEXT: "harness context",
    Worth.TOOL: "tool",
}


class Row(NamedTuple):
    """An item, its place in the conversation, and what it is."""

    place: int
    worth: Worth
    item: dict[str, Any]


class Evidence:
    """The newest items of each worth, as many as a budget could take, of a conversation of any length."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._rows: dict[Worth, deque[tuple[int, Row]]] = {each: deque() for each in Worth}
        self._sizes = dict.fromkeys(Worth, 0)
        self._asked: dict[str, Any] = {}
        """What was asked of people, by call."""
        self.count = 0

    @property
    def rows(self) -> list[Row]:
        """In the order of the conversation."""
        return sorted(row for rows in self._rows.values() for _, row in rows)

    def add(self, item: dict[str, Any]) -> None:
        """The next item."""
        row = self._row(cut_chars(item, self._bytes_max // 4))
        size = len(encoded(row.item))
        rows = self._rows[row.worth]
        rows.append((size, row))
        self._sizes[row.worth] += size
        while len(rows) > 1 and self._sizes[row.worth] > self._bytes_max:
            self._sizes[row.worth] -= rows.popleft()[0]
        self.count += 1

    def _row(self, item: dict[str, Any]) -> Row:
        tag, call_id = item.get("type"), item.get("call_id")
        if tag == "function_call" and item.get("name") == _ASKING and item.get("namespace") in _OWN_NAMESPACES:
            self._asked[str(call_id)] = item.get("arguments")
        elif tag == "function_call_output" and str(call_id) in self._asked:
            asked = self._asked.pop(str(call_id))
            if _is_answered(item.get("output")):
                return Row(self.count, Worth.HUMAN, {**item, "asked": asked})
        return Row(self.count, worth_of(item), item)


def gather(items: Iterable[dict[str, Any]], bytes_max: int) -> Evidence:
    """All items of a conversation, as far as they may matter."""
    found = Evidence(bytes_max)
    for each in items:
        found.add(each)
    return found


def worth_of(item: Mapping[str, Any]) -> Worth:
    """What an item by itself is."""
    if item.get("type") == "agent_message":
        return Worth.OTHER_AGENT
    if item.get("type") != "message":
        return Worth.TOOL
    text = _text(item)
    if text.lstrip().startswith(_NOTIFICATION) or _HEADER.match(text):
        return Worth.OTHER_AGENT
    if item.get("role") == "assistant":
        return Worth.COMMENTARY if item.get("phase") == "commentary" else Worth.FINAL
    return Worth.CONTEXT if _CONTEXT in text else Worth.HUMAN


def fit(found: Evidence, tokens_max: int, count: Counter) -> Fitted:
    """What is worth most, as one compact JSON array that takes at most `tokens_max` tokens; at least an empty one."""
    ranked = sorted(found.rows, key=lambda each: (each.worth, -each.place))
    taken: dict[int, str] = {}
    left = tokens_max - _GAP_TOKENS
    for row in ranked:
        room = left - _GAP_TOKENS
        if room < _LEAST_TOKENS:
            break
        text = _shortened(row, room, count)
        size = count(text) + 1
        if size <= room:
            taken[row.place] = text
            left -= size + _GAP_TOKENS
    for row in reversed(ranked):  # a counter may find more in the whole than in its parts: the least goes first
        if count(text := _rendered(taken, found.count)) <= tokens_max:
            return Fitted(text, found.count - len(taken))
        taken.pop(row.place, None)
    return Fitted("[]", found.count)


def _rendered(taken: Mapping[int, str], count: int) -> str:
    parts: list[str] = []
    next_place = 0
    for place, text in sorted(taken.items()):
        if place > next_place:
            parts.append(encoded(gap(place - next_place)))
        parts.append(text)
        next_place = place + 1
    if count > next_place and taken:
        parts.append(encoded(gap(count - next_place)))
    return f"[{','.join(parts)}]"


def _shortened(row: Row, room: int, count: Counter) -> str:
    """An item with its label, its texts cut so far that it takes neither more than it may nor more than there is room for."""
    item = {"evidence": row.worth.label, **row.item}
    limit = min(room, _OUTPUT_TOKENS_MAX) if row.item.get("type") in _OUTPUTS else room
    text = encoded(item)
    texts_max = limit
    while (count(text) >= limit or len(text.encode()) > _ITEM_BYTES_MAX) and texts_max > 1:
        texts_max = texts_max * 2 // 3
        text = encoded(cut_texts(item, texts_max, count))
    return text


def _text(item: Mapping[str, Any]) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(
        str(part["text"]) for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)
    )


def _is_answered(output: Any) -> bool:
    """Whether a person said anything: a text, or in the JSON that it is some answer that is not blank."""
    if isinstance(output, str):
        try:
            return _is_said(msgspec.json.decode(output.encode("utf-8", "replace")))
        except (msgspec.DecodeError, RecursionError):
            return bool(output.strip())
    return _is_said(output)


def _is_said(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list):
        return any(_is_said(each) for each in value)
    return isinstance(value, dict) and any(_is_said(each) for each in value.values())
