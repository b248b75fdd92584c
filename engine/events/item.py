"""An item on its way into a rollout: checked, encoded once, and given its place when it is written.

An application hands over `{"type", "payload"}` (and `metadata`, for response items), as the format has it. Everything
that could make the line unreadable is refused before a byte is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import orjson
from msgspec import Raw

from engine.errors import InvalidRequest, LineTooLong
from engine.events.record import Record, kind_of

_KEYS = frozenset({"type", "payload", "metadata"})


class Item(NamedTuple):
    """A checked item. `payload` and `metadata` are JSON."""

    kind: str
    type: str
    payload: bytes
    metadata: bytes | None
    timestamp: str | None = None
    """Of an item that is copied: when its record was written. None is the time of writing."""


def item_of(raw: Mapping[str, Any]) -> Item:
    """Check and encode an item. Raises `InvalidRequest` with what is wrong with it."""
    type_, payload = raw.get("type"), raw.get("payload")
    if not isinstance(type_, str) or not type_:
        raise InvalidRequest("An item needs a type that is text.", hint='Give {"type": …, "payload": {…}}.')
    if not isinstance(payload, Mapping):
        raise InvalidRequest(
            f"The payload of a {type_} item is not an object.", hint='Give {"type": …, "payload": {…}}.'
        )
    if unknown := sorted(set(raw) - _KEYS):
        raise InvalidRequest(f"An item has no key {unknown[0]!r}.", hint="The keys are type, payload and metadata.")
    data = _json(type_, payload)
    metadata = _json(type_, raw["metadata"]) if raw.get("metadata") is not None else None
    kind = kind_of(Record(timestamp="", type=type_, payload=Raw(data)))
    return Item(kind, type_, data, metadata)


def line_of(item: Item, *, timestamp: str, ordinal: int | None, key: str | None, line_bytes_max: int) -> bytes:
    """The item's line, its LF included, keys in canonical order. Raises `LineTooLong`."""
    number = b"" if ordinal is None else b',"ordinal":%d' % ordinal
    metadata = b"" if item.metadata is None else b',"metadata":' + item.metadata
    tail = b"" if key is None else b',"key":' + orjson.dumps(key)
    line = b'{"timestamp":"%b"%b,"type":%b,"payload":%b%b%b}\n' % (
        (item.timestamp or timestamp).encode(),
        number,
        orjson.dumps(item.type),
        item.payload,
        metadata,
        tail,
    )
    if len(line) > line_bytes_max:
        raise LineTooLong(
            f"A {item.kind} record of {len(line)} bytes is over the limit of {line_bytes_max}.",
            hint="Store the large part elsewhere and refer to it.",
        )
    return line


class KeyedRecord(msgspec.Struct):
    """What an idempotency look-up needs of a stored line."""

    type: str
    payload: Raw
    ordinal: int | None = None
    key: str | None = None


def _json(type_: str, value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise InvalidRequest(
            f"The {type_} item cannot be written as JSON: {error}.",
            hint="Use text, finite numbers, booleans, None, lists and dicts with text keys.",
        ) from None
