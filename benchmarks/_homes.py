"""The homes that benchmarks work on: made once, kept where a folder is named, with their pages in memory."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from _machine import cores

MB = 1_000_000


class workplace:  # noqa: N801 - it reads as a verb does in a with statement
    """The folder that was named, or a temporary one that is removed."""

    def __init__(self, folder: str | None) -> None:
        self.path = Path(folder or tempfile.mkdtemp(prefix="rolloutdb-bench-"))
        self.keep = folder is not None

    def __enter__(self) -> Path:
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            shutil.rmtree(self.path)


def ensure_home(folder: Path, name: str, make: Any) -> Path:
    """The home of that name, made where it is not there yet, with its pages in memory."""
    home = folder / name
    if not home.exists():
        say(f"making {name} …")
        unfinished = folder / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        unfinished.rename(home)
    for path in home.rglob("*.jsonl"):
        with open(path, "rb") as file:
            while file.read(MB):
                pass
    return home


def ensure_filled(folder: Path, threads: int) -> tuple[Path, Path]:
    """The home of so many small rollouts, and the folder with its rows; which several benchmarks read and none changes."""
    import engine

    home = ensure_home(folder, f"small-{threads}", lambda home: make_small(home, threads))
    state = folder / f"small-{threads}-state"
    state.mkdir(exist_ok=True)
    say("back-filling …")
    with engine.open(str(home), state_dir=str(state), options=engine.Options(background_scan_s=0)) as opened:
        assert opened.backfill(workers=cores()).status == "complete"
    return home, state


def make_many(home: Path, files: int, size: int) -> None:
    """Rollouts of one size in every shape that the generator knows."""
    from engine.testing import HomePlan, make_home

    make_home(home, HomePlan(threads=files, bytes_min=size, bytes_max=size, seed=1))


def make_large(home: Path, size: int) -> None:
    """One rollout."""
    from engine.testing import make_rollout

    make_rollout(home, size=size)


def make_small(home: Path, files: int) -> None:
    """Rollouts of one turn each, five minutes apart, in day folders; forty folders of work, five models, three sources."""
    from engine.clock import timestamp_of, uuid7

    random = Random(1)
    for number in range(files):
        at_ms = 1_735_689_600_000 + number * 300_000
        thread_id, at = uuid7(at_ms, random.getrandbits(74)), timestamp_of(at_ms)
        folder = home / "sessions" / at[:4] / at[5:7] / at[8:10]
        if number % 50 == 0 or not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
        cwd, topic = f"/srv/p{number % 40}", random.choice(("login", "form", "test", "parser"))
        meta = {
            "session_id": thread_id,
            "id": thread_id,
            "timestamp": at,
            "cwd": cwd,
            "originator": "bench",
            "cli_version": "1",
            "source": random.choice(("cli", "exec", "vscode")),
            "model_provider": "openai",
            "history_mode": "legacy",
        }
        context = {"cwd": cwd, "approval_policy": "never", "model": f"m{number % 5}"}
        said = {"type": "user_message", "message": f"fix the {topic} number {number}, then look at the rest of it"}
        lines = [("session_meta", meta), ("turn_context", context), ("event_msg", said)]
        with open(folder / f"rollout-{at[:19].replace(':', '-')}-{thread_id}.jsonl", "w") as file:
            for type_, payload in lines:
                line = {"timestamp": at, "type": type_, "payload": payload}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")


def say(text: str) -> None:
    """What is being done, for whoever waits."""
    print(text, file=sys.stderr)
