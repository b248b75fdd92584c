"""What tests of removals share: a thread with a canary in every place, and a search for its bytes in every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import engine
from engine.testing import ManualClock

CANARY = "canary-7f3a"
START_MS = 1_767_603_600_000
DAY_MS = 86_400_000


def opened(home: Path, *, at_ms: int = START_MS, **how: Any) -> engine.Engine:
    """The home, made where it is not there, at a time that a test sets."""
    home.mkdir(exist_ok=True)
    return engine.open(str(home), clock=ManualClock(wall_ms=at_ms), **how)


def talk(opened_engine: engine.Engine, *words: str, **how: Any) -> str:
    """A new thread with a turn for each word; its id."""
    with opened_engine.threads.create(cwd="/srv/app", **how) as thread:
        for word in words:
            with thread.turn() as turn:
                turn.user_message(word)
                turn.agent_message(f"re {word}")
    return thread.id


def fork(opened_engine: engine.Engine, parent: str, word: str) -> str:
    """A thread that goes on from another by reference; its id."""
    with opened_engine.threads.fork(parent) as child, child.turn() as turn:
        turn.user_message(word)
    return child.id


def holding(folder: Path, word: str = CANARY) -> list[str]:
    """Every file below a folder that holds these bytes in its content or its name, relative to it."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if word in path.name or (path.is_file() and word.encode() in path.read_bytes())
    )


def rollout_of(home: Path, thread_id: str) -> Path:
    """A thread's only rollout."""
    found = [
        path for root in ("sessions", "archived_sessions") for path in (home / root).rglob(f"rollout-*{thread_id}*")
    ]
    (path,) = found
    return path


def tagged(home: Path) -> list[tuple[str, str | None]]:
    """Tag and thread of every record in the journal, in order, read without the engine."""
    lines = [
        line for path in sorted((home / "engine" / "journal").iterdir()) for line in path.read_bytes().splitlines()
    ]
    payloads = [json.loads(line)["payload"] for line in lines]
    return [(payload["type"], payload.get("thread_id")) for payload in payloads]


def with_canary_everywhere(home: Path) -> tuple[str, str]:
    """A home with a thread that left its canary wherever a thread can, and one beside it; their ids."""
    with opened(home) as e:
        other = talk(e, "other words")
        e.threads.rename(other, "other name")
        thread = talk(e, f"{CANARY} prompt", f"{CANARY} again")
        e.threads.rename(thread, f"{CANARY} name")
        e.threads.list()
    index = [
        {"id": other, "thread_name": "kept", "updated_at": "2026-01-01T00:00:00Z"},
        {"id": thread, "thread_name": f"{CANARY} there", "updated_at": "2026-01-01T00:00:00Z"},
    ]
    (home / "session_index.jsonl").write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in index))
    quarantine = home / "engine" / "quarantine"
    (quarantine / "1767603600000-0").mkdir(parents=True)
    (quarantine / "1767603600000-0" / "state_1.sqlite").write_bytes(b"an old row: " + CANARY.encode())
    name = rollout_of(home, thread).name
    (quarantine / f"{name}.120.1767603600000.tail").write_bytes(CANARY.encode())
    torn = f'{{"timestamp":"t","ordinal":9,"type":"home_event","payload":{{"thread_id":"{thread}","name":"{CANARY}'
    (quarantine / "journal-000000000000.jsonl.700.x.tail").write_bytes(torn.encode())
    (quarantine / "journal-000000000000.jsonl.900.y.tail").write_bytes(
        torn.replace(thread, other).replace(CANARY, "o").encode()
    )
    (rollout_of(home, thread).parent / f".{name}.tmp").write_bytes(CANARY.encode())
    return thread, other
