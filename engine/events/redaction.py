"""A record without what it said: the same kind, time, ordinal and key, the same length, and filler in place of the rest.

What stays is what the record is and what it belongs to (its tag, ids of turn, item and call), and fields without which its
kind cannot be read. The filler is a text of `x`; where a record is too short for one, ids go first, then the mark, then blanks
fill the line. Every line of the format has room for that, since the parts that stay are its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from engine.events.kinds import ITEM_COMPLETED, TAGGED_TYPES
from engine.events.record import decode

FILLER = b"x"
_IDS = ("thread_id", "turn_id", "call_id", "id")
_ID_BYTES_MAX = 64
_NEEDED: dict[str, Any] = {"thread_settings": {}}
"""Fields without which a kind cannot be read, as empty as they may be."""


class Filled(NamedTuple):
    """A line in three parts: `head`, so many bytes of filler, `tail`."""

    head: bytes
    filler: int
    tail: bytes

    @property
    def line(self) -> bytes:
        """The whole line, without its LF."""
        return self.head + FILLER * self.filler + self.tail


class _Key(Struct):
    key: Any = None


def redacted(line: bytes) -> Filled | None:
    """What takes the place of this line (without its LF), of the same length. None where it has no room for it.

    Raises `Rejected` where the line is no record.
    """
    record = decode(line)
    payload = msgspec.json.decode(record.payload, type=dict[str, Any])
    needed = _needed(record.type, payload)
    whole = {**needed, **{name: payload[name] for name in _IDS if _is_id(payload.get(name))}}
    item = payload.get("item")
    if "item" in needed and isinstance(item, dict) and _is_id(item.get("id")):
        whole["item"] = {**needed["item"], "id": item["id"]}
    return _fitting(line, (whole, needed))


def emptied(line: bytes, tag: str) -> Filled | None:
    """The line as a record of which nothing is left but this tag, its time and ordinal."""
    return _fitting(line, ({"type": tag},))


def _needed(type_: str, payload: dict[str, Any]) -> dict[str, Any]:
    tag = payload.get("type")
    needed: dict[str, Any] = {"type": tag} if type_ in TAGGED_TYPES and isinstance(tag, str) else {}
    item = payload.get("item")
    if f"{type_}.{tag}" == ITEM_COMPLETED and isinstance(item, dict) and isinstance(item.get("type"), str):
        needed["item"] = {"type": item["type"]}
    return needed | {name: empty for name, empty in _NEEDED.items() if name in payload}


def _is_id(value: object) -> bool:
    return isinstance(value, str) and len(value.encode("utf-8", "replace")) <= _ID_BYTES_MAX


def _fitting(line: bytes, kept: tuple[dict[str, Any], ...]) -> Filled | None:
    """The fullest form that is not longer than the line."""
    record = decode(line)
    key = msgspec.json.decode(line, type=_Key).key
    number = b"" if record.ordinal is None else b',"ordinal":%d' % record.ordinal
    front = b'{"timestamp":%b%b,"type":%b,"payload":' % (
        msgspec.json.encode(record.timestamp),
        number,
        msgspec.json.encode(record.type),
    )
    for end in [b',"key":%b}' % msgspec.json.encode(key), b"}"] if isinstance(key, str) else [b"}"]:
        for mark, is_filled in ({"redacted": True, "filler": ""}, True), ({"redacted": True}, False), ({}, False):
            for fields in kept:
                body = msgspec.json.encode(_in_order({**fields, **mark}))
                room = len(line) - len(front) - len(body) - len(end)
                if room >= 0 and is_filled:
                    return Filled(front + body[:-2], room, body[-2:] + end)
                if room >= 0:
                    return Filled(front + body + b" " * room + end, 0, b"")
    return None


def _in_order(fields: dict[str, Any]) -> dict[str, Any]:
    """Tag, thread, turn and item first, so that the line's kind can be told without decoding it."""
    first = [name for name in ("type", "thread_id", "turn_id", "item") if name in fields]
    return {name: fields[name] for name in [*first, *(name for name in fields if name not in first)]}
