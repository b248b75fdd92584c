"""What tests of the agent graph share: threads planted as files, so that any edge can be had, and edges read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.agents import AgentList

NAMED_AT = "2026-01-05T09-00-00"


def id_of(number: int) -> str:
    """The id of the thread of this number; ids sort as their numbers do."""
    return f"01a20000-0000-7000-8000-{number:012d}"


def plant(home: Path, number: int, parent: int | None = None, **fields: Any) -> str:
    """A legacy rollout of one line, of a thread that another spawned, or of one that nobody did; its id.

    `fields` are of the spawn, but for those with `meta_` before them, which are of the session_meta.
    """
    thread_id = id_of(number)
    spawn = {"parent_thread_id": None if parent is None else id_of(parent), "depth": 1, **fields}
    of_meta = {name.removeprefix("meta_"): spawn.pop(name) for name in list(spawn) if name.startswith("meta_")}
    meta = {
        "id": thread_id,
        "timestamp": "2026-01-05T09:00:00.000Z",
        "cwd": "/srv",
        "originator": "test",
        "cli_version": "0",
        "source": "cli" if parent is None else {"subagent": {"thread_spawn": spawn}},
        "model_provider": "p",
        **of_meta,
    }
    line = {"timestamp": "2026-01-05T09:00:00.000Z", "type": "session_meta", "payload": meta}
    folder = home / "sessions" / "2026" / "01" / "05"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rollout-{NAMED_AT}-{thread_id}.jsonl"
    path.write_text(json.dumps(line, separators=(",", ":")) + "\n")
    return thread_id


def numbers(found: AgentList) -> list[int]:
    """The numbers of the agents in a list, in its order."""
    return [number_of(agent.id) for agent in found.agents]


def number_of(thread_id: str) -> int:
    """A planted thread's number."""
    return int(thread_id.rpartition("-")[2])


def journal(home: Path) -> list[dict[str, Any]]:
    """What the home's journal says, read without the engine."""
    lines = [
        line for path in sorted((home / "engine" / "journal").glob("*")) for line in path.read_bytes().splitlines()
    ]
    return [json.loads(line)["payload"] for line in lines]
