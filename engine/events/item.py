"""An item on its way into a rollout: checked, encoded once, and given its place when it is written.

An application hands over `{"type", "payload"}` (and `metadata`, for response items), as the format has it. Everything
that could make the line unreadable, or other than what was meant, is refused before a byte is written: text with half a
surrogate pair, keys that are not text, NaN and the infinities (which JSON has no word for, and encoders turn into null),
whole numbers over 64 bits, nesting deeper than readers follow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import orjson
from msgspec import Raw

from engine.errors import InvalidRequest, LineTooLong
from engine.events.record import Record, kind_of, kind_of_values

_KEYS = frozenset({"type", "payload", "metadata"})
_SHAPE = 'Give {"type": …, "payload": {…}}.'
_JSON = "Use text, finite numbers, booleans, None, lists and dicts with text keys."


class Item(msgspec.Struct, frozen=True, gc=False):
    """A checked item. `body` is its line from behind the ordinal on: type, payload and metadata, as JSON."""

    kind: str
    body: bytes
    timestamp: str | None = None
    """Of an item that is copied: when its record was written. None is the time of writing."""


def item_of(raw: Mapping[str, Any]) -> Item:
    """Check and encode an item. Raises `InvalidRequest` with what is wrong with it."""
    if type(raw) is not dict and not isinstance(raw, Mapping):  # asking the abstract class costs more than the rest
        raise InvalidRequest(f"An item is no {type(raw).__name__}.", hint=_SHAPE)
    type_, payload, metadata = raw.get("type"), raw.get("payload"), raw.get("metadata")
    if not isinstance(type_, str) or not type_ or not type_.isprintable():
        raise InvalidRequest("An item needs a type that is text.", hint=_SHAPE)
    if type(payload) is not dict and not isinstance(payload, Mapping):
        raise InvalidRequest(f"The payload of a {type_} item is not an object.", hint=_SHAPE)
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidRequest(f"The metadata of a {type_} item is not an object.", hint="Give a dict, or leave it out.")
    if not _KEYS.issuperset(raw):
        unknown = min(map(str, set(raw) - _KEYS))
        raise InvalidRequest(f"An item has no key {unknown!r}.", hint="The keys are type, payload and metadata.")
    data = _json(type_, payload)
    kind = kind_of_values(type_, payload) or kind_of(Record(timestamp="", type=type_, payload=Raw(data)))
    if metadata is None:
        return Item(kind, b"%b%b" % (_head_of(type_), data))
    return Item(kind, body_of(type_, data, _json(type_, metadata)))


def item_of_record(record: Record[Raw]) -> Item:
    """A record that is written elsewhere again, with its own time; its ordinal is not of it."""
    return Item(kind_of(record), body_of(record.type, record.payload), record.timestamp)


def body_of(type_: str, payload: bytes | Raw, metadata: bytes | Raw | None = None) -> bytes:
    """What an item's line has behind its ordinal."""
    if metadata is None:
        return b"%b%b" % (_head_of(type_), payload)
    return b'%b%b,"metadata":%b' % (_head_of(type_), payload, metadata)


@lru_cache(maxsize=64)
def _head_of(type_: str) -> bytes:
    return b',"type":%b,"payload":' % orjson.dumps(type_)


def line_of(item: Item, *, timestamp: str, ordinal: int | None, key: str | None, line_bytes_max: int) -> bytes:
    """The item's line, its LF included, keys in canonical order. Raises `LineTooLong`."""
    number = b"" if ordinal is None else b',"ordinal":%d' % ordinal
    tail = b"" if key is None else b',"key":' + orjson.dumps(key)
    when = b'"%b"' % timestamp.encode() if item.timestamp is None else orjson.dumps(item.timestamp)
    line = b'{"timestamp":%b%b%b%b}\n' % (when, number, item.body, tail)
    _check_length(item, line, line_bytes_max)
    return line


def lines_of(items: Sequence[Item], *, timestamp: str, ordinal: int, line_bytes_max: int) -> list[bytes]:
    """The same for new items in a row, with ordinals and without a key: what most appends are. Raises `LineTooLong`."""
    head = b'{"timestamp":"%b","ordinal":' % timestamp.encode()
    lines = []
    for item in items:
        line = b"%b%d%b}\n" % (head, ordinal, item.body)
        if len(line) > line_bytes_max:
            _check_length(item, line, line_bytes_max)
        lines.append(line)
        ordinal += 1
    return lines


def _check_length(item: Item, line: bytes, line_bytes_max: int) -> None:
    if len(line) - 1 > line_bytes_max:
        raise LineTooLong(
            f"A {item.kind} record of {len(line) - 1} bytes is over the limit of {line_bytes_max}.",
            hint="Store the large part elsewhere and refer to it.",
        )


class KeyedRecord(msgspec.Struct):
    """What an idempotency look-up needs of a stored line."""

    type: str
    payload: Raw
    metadata: Raw = Raw()
    key: str | None = None


def _json(type_: str, value: Any) -> bytes:
    try:
        data = orjson.dumps(value)
    except TypeError as error:
        raise InvalidRequest(f"The {type_} item cannot be written as JSON: {error}.", hint=_JSON) from None
    if b"null" in data and not _is_finite(value):
        raise InvalidRequest(f"The {type_} item cannot be written as JSON: a number is not finite.", hint=_JSON)
    return data


def _is_finite(value: Any) -> bool:
    """Whether no number in a value is NaN or infinite; the encoder writes those as null."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_is_finite, value))
