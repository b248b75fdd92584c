"""What tests of the writing side share: an engine with a clock that a test moves, and a look at the bytes it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import engine
from engine.options import Options
from engine.stores.files import Files
from engine.testing import ManualClock
from engine.testing.files import FaultyFiles
from engine.thread import Thread

NO_TIMER = Options(flush_delay_ms=3_600_000, scan_interval_ms=3_600_000)
"""Rows follow when they are asked for, or at close; a list does not look at the files again."""


class Faults(FaultyFiles):
    """Calls with an op in `failing` fail with the errno that stands there."""

    def __init__(self) -> None:
        super().__init__(Files(), lambda _, call: self.failing.get(call.op))
        self.failing: dict[str, int] = {}


def opened(home: Path, clock: ManualClock | None = None, **how: Any) -> engine.Engine:
    """The home, made where it is not there, with no timer at work and a clock that stands still."""
    home.mkdir(exist_ok=True)
    return engine.open(str(home), clock=clock or ManualClock(), options=how.pop("options", NO_TIMER), **how)


def say(thread: Thread, *words: str) -> list[str]:
    """One turn for each word, which the user says and the agent answers; their ids."""
    ids = []
    for word in words:
        with thread.turn() as turn:
            turn.user_message(word)
            turn.agent_message(f"re {word}")
        ids.append(turn.id)
    return ids


def faults(e: engine.Engine, *, deep: bool = False) -> list[Any]:
    """What an audit finds but for lag; what a killed process leaves (its lock, half-written files) is to go by a repair."""
    found = e.audit(deep=deep).faults
    left = [each for each in found if each.class_ in ("stale_lock", "leftover_file")]
    if not left:
        return found
    e.repair()
    return [*(each for each in found if each not in left), *e.audit(deep=deep).faults]


def rollouts(home: Path) -> list[str]:
    """Every file below the two folders of rollouts, relative to the home."""
    found = [path for root in ("sessions", "archived_sessions") for path in (home / root).rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(home)) for path in found)


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, read without the engine."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def only(home: Path) -> Path:
    """The one rollout of a home."""
    (path,) = rollouts(home)
    return home / path


def kind(record: dict[str, Any]) -> str:
    """A record's type, with the tag of its payload and that of the item it completes."""
    payload = record["payload"]
    tags = [payload.get("type"), (payload.get("item") or {}).get("type") if isinstance(payload, dict) else None]
    return ".".join(
        [record["type"], *(tag for tag in tags if tag and record["type"] in ("event_msg", "response_item"))]
    )


def kinds(path: Path) -> list[str]:
    """The kinds of a file's records, shortened to their last word."""
    return [kind(record).rpartition(".")[2] for record in records(path)]


def said(thread_or_records: Any) -> list[str]:
    """What users said, in the order of the records that `read` gives."""
    found = (each for each in thread_or_records if each.kind == "response_item.message")
    return [each.payload["content"][0]["text"] for each in found if each.payload["role"] == "user"]
