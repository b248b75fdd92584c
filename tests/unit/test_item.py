"""What an application may hand over, and the line that it becomes."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from msgspec.structs import replace

from engine.errors import InvalidRequest, LineTooLong
from engine.events.item import Item, item_of, line_of
from engine.events.record import decode, kind_of

T = "2026-01-05T09:00:00.000Z"


def line(item: Item, ordinal: int | None = 7, key: str | None = None, bytes_max: int = 1_000) -> bytes:
    return line_of(item, timestamp=T, ordinal=ordinal, key=key, line_bytes_max=bytes_max)


def test_a_line_has_the_keys_of_the_format_in_their_order() -> None:
    item = item_of({"payload": {"type": "note", "a": 1}, "metadata": {"m": True}, "type": "event_msg"})
    assert line(item, key="k#0/1") == (
        b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":7,"type":"event_msg",'
        b'"payload":{"type":"note","a":1},"metadata":{"m":true},"key":"k#0/1"}\n'
    )
    bare = item_of({"type": "x", "payload": {}})
    assert line(bare, ordinal=None) == b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"x","payload":{}}\n'


def test_a_copied_item_keeps_its_time_whatever_it_is() -> None:
    item = replace(item_of({"type": "x", "payload": {}}), timestamp='2020 "about"')
    assert line(item, ordinal=None) == b'{"timestamp":"2020 \\"about\\"","type":"x","payload":{}}\n'


class Word(Enum):
    NOTE = "note"


class Letter(str, Enum):  # noqa: UP042 - a StrEnum prints as its value, this one does not
    NOTE = "note"


@dataclass
class Tagged:
    type: str


KINDS = {
    "session_meta": {"type": "session_meta", "payload": {"type": "no tag here"}},
    "event_msg.task_started": {"type": "event_msg", "payload": {"type": "turn_started"}},
    "event_msg.item_completed.Plan": {
        "type": "event_msg",
        "payload": {"type": "item_completed", "item": {"type": "Plan"}},
    },
    "event_msg": {"type": "event_msg", "payload": {}},
    "from_the_future": {"type": "from_the_future", "payload": {"type": "x"}},
    "event_msg.note": {"type": "event_msg", "payload": {"type": Word.NOTE}},
    "response_item.note": {"type": "response_item", "payload": {"type": Letter.NOTE}},
    "event_msg.item_completed.note": {
        "type": "event_msg",
        "payload": {"type": "item_completed", "item": Tagged("note")},
    },
    "event_msg.item_completed": {"type": "event_msg", "payload": {"type": "item_completed", "item": {"type": 1}}},
    "response_item": {"type": "response_item", "payload": {"type": 7}},
}


@pytest.mark.parametrize(("kind", "raw"), KINDS.items(), ids=KINDS)
def test_an_item_knows_its_kind_and_so_does_who_reads_its_line(kind: str, raw: dict[str, Any]) -> None:
    item = item_of(raw)
    assert item.kind == kind
    assert kind_of(decode(line(item)[:-1])) == kind


VALUES = [
    "ü",
    "\u2028\u2029",
    "a\nb\r\0\x7f",
    '"\\',
    "👩\u200d👧",
    0,
    -(1 << 63),
    (1 << 64) - 1,
    1e300,
    None,
    True,
    [[]],
    {},
]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_what_is_written_is_one_line_that_reads_back_as_it_was(value: object) -> None:
    """Read by the engine's decoder and by the standard library."""
    written = line(item_of({"type": "x", "payload": {"a": value}}))
    assert written.count(b"\n") == 1
    assert json.loads(written)["payload"] == {"a": value}
    assert json.loads(bytes(decode(written[:-1]).payload)) == {"a": value}


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"a": value}


REFUSED_PAYLOADS: dict[str, Any] = {
    "none": None,
    "text": "text",
    "a list": [1],
    "NaN": {"a": float("nan")},
    "infinity far inside": {"a": [{"b": (1, [float("-inf")])}]},
    "half a surrogate pair": {"a": "\ud800"},
    "half a pair in a name": {"\udc00": 1},
    "a name that is no text": {1: 1},
    "bytes": {"a": b"x"},
    "a set": {"a": {1}},
    "an object": {"a": object()},
    "a number over 64 bits": {"a": 1 << 64},
    "nested too deep": nested(300),
    "nested without end": nested(100_000),
}


@pytest.mark.parametrize("payload", REFUSED_PAYLOADS.values(), ids=REFUSED_PAYLOADS)
def test_a_payload_that_is_not_json_is_refused(payload: Any) -> None:
    """NaN too: JSON has no word for it, and null in its place would be another value than was meant."""
    with pytest.raises(InvalidRequest) as told:
        item_of({"type": "x", "payload": payload})
    assert told.value.hint
    assert told.value.exit_code == 2


REFUSED_ITEMS: dict[str, Any] = {
    "no item": "text",
    "a list": [],
    "no type": {"payload": {}},
    "an empty type": {"type": "", "payload": {}},
    "a type that is no text": {"type": 5, "payload": {}},
    "half a pair in the type": {"type": "\ud800", "payload": {}},
    "a newline in the type": {"type": "a\nb", "payload": {}},
    "no payload": {"type": "x"},
    "an unknown key": {"type": "x", "payload": {}, "ordinal": 5},
    "a key that is no text": {"type": "x", "payload": {}, 5: 5},
    "metadata that is no object": {"type": "x", "payload": {}, "metadata": 5},
    "metadata that is not JSON": {"type": "x", "payload": {}, "metadata": {"a": float("inf")}},
}


@pytest.mark.parametrize("raw", REFUSED_ITEMS.values(), ids=REFUSED_ITEMS)
def test_what_is_no_item_is_refused(raw: Any) -> None:
    with pytest.raises(InvalidRequest):
        item_of(raw)


def test_null_is_null_and_an_ordered_dict_is_a_dict() -> None:
    """The look for NaN begins where null was written, and must not refuse a null that was meant."""
    item = item_of({"type": "x", "payload": OrderedDict(a=None, b=[None, 1.5, "null"])})
    assert item.body == b',"type":"x","payload":{"a":null,"b":[null,1.5,"null"]}'


def test_a_line_may_be_as_long_as_readers_take_and_not_longer() -> None:
    item = item_of({"type": "x", "payload": {"a": "y" * 100}})
    length = len(line(item)) - 1
    assert len(line(item, bytes_max=length)) == length + 1
    with pytest.raises(LineTooLong):
        line(item, bytes_max=length - 1)
