"""What tests of the recorder share: recorders with plain parts, items with a number each, and a reader of their own.

`numbers` reads a rollout with the standard library alone, so the engine's decoder is not the judge of its own writing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from engine.events.item import Item, item_of
from engine.options import Options
from engine.stores.files import Files
from engine.stores.recorder import Counters, Durability, Recorder, Start
from engine.testing.clock import ManualClock

NAME = "rollout-2026-01-05T09-00-00-01a20458-0000-7000-8000-000000000001.jsonl"
META = {"type": "session_meta", "payload": {"id": "01a20458-0000-7000-8000-000000000001"}}


def start(ordinal: int | None = 0) -> Start:
    return Start(lambda: item_of(META), ordinal)


def recorder(
    path: str | os.PathLike[str],
    *,
    start: Start | None = None,
    owned: bool = True,
    durability: Durability = "durable",
    files: Any = None,
    counters: Counters | None = None,
    options: Options | None = None,
    kind: Callable[..., Recorder] = Recorder,
) -> Recorder:
    """`path` is `<home>/sessions/…`; the quarantine is `<home>/quarantine`."""
    home = os.fspath(path).partition("/sessions/")[0]
    return kind(
        os.fspath(path),
        start=start,
        owned=owned,
        durability=durability,
        quarantine=f"{home}/quarantine",
        counters=counters or Counters(),
        options=options or Options(),
        clock=ManualClock(),
        files=files or Files(),
    )


def item(number: int, size: int = 0) -> Item:
    return item_of({"type": "event_msg", "payload": {"type": "note", "number": number, "filler": "x" * size}})


def items(*numbers: int) -> list[Item]:
    return [item(number) for number in numbers]


def lines(path: str | os.PathLike[str]) -> list[bytes]:
    """Without their LF; the file must end with one."""
    with open(path, "rb") as file:
        content = file.read()
    assert content.endswith(b"\n"), f"no LF at the end: {content[-80:]!r}"
    return content.split(b"\n")[:-1]


def numbers(path: str | os.PathLike[str], *, damage: bool = False, first: int | None = 0) -> list[int]:
    """The numbers of the items, in order; asserts a session_meta first and ordinals without a gap or repetition."""
    found, expected = [], first
    for line in lines(path):
        try:
            record = json.loads(line)
        except ValueError:
            assert damage, f"damage: {line[:200]!r}"
            continue
        if not damage:
            assert record.get("ordinal") == expected, f"{record} should have the ordinal {expected}"
            expected = None if expected is None else expected + 1
        if record["type"] == "session_meta":
            assert not found, "a session_meta behind other records"
        else:
            found.append(record["payload"]["number"])
    return found
