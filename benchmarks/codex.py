"""The same home back-filled and listed by the Codex CLI and by the engine, in one run.

The Codex CLI is not part of this project: `--codex PATH` names its binary (the native one, not a wrapper script). It runs as
`app-server` on a copy of the home, offline: its model provider and every proxy are a port of the loopback where nobody
listens. Its answer to `initialize` waits for its back-fill, so the time from its start to that answer is the time of a first
start. The engine's time begins with its interpreter, too, and ends where it says that all is filled. Rounds run both in
shuffled order, each from nothing; then each is started again on what it filled, and lists: the Codex CLI answers over a pipe,
the engine in its caller's process. At the end every rollout must be as it was.

    python benchmarks/codex.py --codex PATH [--quick] [--files 10000] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _codex import CONFIG, AppServer, median_ms, program, used
from _homes import MB, ensure_home, make_many, say, workplace
from _machine import cores, io, spread
from _measure import peak_mb
from _report import Report, Row, arguments, publish

KINDS = ["cli", "vscode", "exec", "appServer"]
LISTS = {
    "newest": ("created_at", "desc"),
    "by_update": ("updated_at", "desc"),
    "oldest": ("created_at", "asc"),
}
"""What its default list may be sorted by: it looks at the files for each."""
ROLLOUTS = ("sessions", "archived_sessions", "session_index.jsonl")


def main() -> None:
    """Measure and print; with `--child`, be the engine."""
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    asked = arguments(
        __doc__,
        codex={"type": program, "help": "the Codex CLI's binary", "required": True},
        files={"type": int, "help": "rollouts in the home (10,000; quick: 200)"},
        bytes={"type": int, "default": 50_000, "help": "size of each (50,000)"},
    )
    asked.files = asked.files or (200 if asked.quick else 10_000)
    with workplace(asked.folder) as folder:
        name = f"many-{asked.files}-{asked.bytes}"
        made = ensure_home(folder, name, lambda home: make_many(home, asked.files, asked.bytes))
        place = Path(tempfile.mkdtemp(prefix="codex-", dir=folder))
        try:
            report = measure(made, place, asked)
        finally:
            shutil.rmtree(place)
    publish(report, asked)


def measure(made: Path, place: Path, asked: argparse.Namespace) -> Report:
    """All rounds."""
    home = place / "home"
    for name in ROLLOUTS:
        if (made / name).is_dir():
            shutil.copytree(made / name, home / name)
        elif (made / name).exists():
            shutil.copy2(made / name, home / name)
    before = fingerprint(home)
    cases: dict[str, Callable[[], dict[str, float]]] = {
        "codex": lambda: codex_round(asked.codex, home),
        "engine, 1 process": lambda: engine_round(home, place, 0),
        f"engine, {cores()} workers": lambda: engine_round(home, place, cores()),
        f"engine, {cores()} workers, threads alone": lambda: engine_round(home, place, cores(), what="threads"),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for number in range(asked.rounds):
        say(f"codex: round {number + 1} of {asked.rounds}")
        for name in random.sample(list(cases), len(cases)):
            found[name].append(cases[name]())
    assert fingerprint(home) == before, "a rollout was changed"
    version = subprocess.run([asked.codex, "--version"], stdout=subprocess.PIPE, check=False).stdout.decode().strip()
    return Report(
        benchmark="codex",
        mode=asked.mode,
        asked={"rounds": asked.rounds, "files": asked.files, "bytes": asked.bytes},
        rows=rows_of(found, asked),
        notes=[
            "first_start_s is from the start of the process to the end of its back-fill, start_again_s on what was filled.",
            "peak_mb is that of all processes: of workers, as many as there are times the largest.",
            "A list is of 25, `rows` of tables alone, others as each does by default; Codex's over a pipe, ours by a call.",
            "Threads that the tables list: "
            + ", ".join(f"{name} {runs[0]['threads']:,.0f}" for name, runs in found.items()),
        ],
        versions={"codex": version},
    )


def codex_round(binary: str, home: Path) -> dict[str, float]:
    """From nothing, and again."""
    for path in home.iterdir():
        if path.name not in ROLLOUTS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (home / "config.toml").write_text(CONFIG)
    begun = time.perf_counter()
    with AppServer(binary, str(home)) as server:
        server.initialize()
        first = time.perf_counter() - begun
        used_first = server.end()
    begun = time.perf_counter()
    with AppServer(binary, str(home)) as server:
        server.initialize()
        again = time.perf_counter() - begun
        page: dict[str, Any] = {"limit": 25, "sortKey": "updated_at", "modelProviders": [], "sourceKinds": KINDS}
        lists = {}
        for name, (key, direction) in LISTS.items():
            how = {"limit": 25, "modelProviders": [], "sortKey": key, "sortDirection": direction}
            lists[f"list_{name}_ms"] = median_ms(partial(server.ask, "thread/list", **how), 3)
        rows = median_ms(lambda: server.ask("thread/list", **page, useStateDbOnly=True), 30)
        threads = count_all(server)
        server.end()
    return {
        "first_start_s": first,
        **used_first,
        "start_again_s": again,
        "list_rows_ms": rows,
        **lists,
        "threads": threads,
    }


def count_all(server: AppServer) -> int:
    """How many threads its tables list, archived ones too."""
    count = 0
    for archived in (False, True):
        cursor = None
        while True:
            page = server.ask(
                "thread/list",
                limit=100,
                cursor=cursor,
                archived=archived,
                modelProviders=[],
                sourceKinds=KINDS,
                useStateDbOnly=True,
            )
            count += len(page["data"])
            cursor = page.get("nextCursor")
            if cursor is None:
                break
    return count


def engine_round(home: Path, place: Path, workers: int, *, what: str = "fill") -> dict[str, float]:
    """From nothing, and again; `threads` leaves out the indexes of turns and words, which the other program has not either."""
    state = tempfile.mkdtemp(dir=place)
    first, used_first, filled = timed_child(what, str(home), state, str(workers))
    _, _, listed = timed_child("list", str(home), state, "0")
    shutil.rmtree(state)
    return {
        "first_start_s": first,
        **used_first,
        **filled,
        **listed,
    }


def timed_child(*what: str) -> tuple[float, dict[str, float], dict[str, float]]:
    """Seconds from its start to what it tells, what it and its workers used, what it told."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, "--child", *what], stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = json.loads(process.stdout.readline() or "null")
    seconds = time.perf_counter() - begun
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or told is None:
        sys.exit(f"The engine's process ended with {process.returncode}.")
    return seconds, used(usage), told


def child(what: str, home: str, state: str, workers: str) -> None:
    """The engine: fill everything or the threads alone from nothing, or list what was filled."""
    begun = time.perf_counter()
    import engine

    with engine.open(home, state_dir=state, options=engine.Options(background_scan_s=0)) as opened:
        if what != "list":
            report = opened.backfill("threads" if what == "threads" else None, workers=int(workers))
            assert report.status == "complete", report.status
            peak = peak_mb(resource.RUSAGE_SELF) + int(workers) * peak_mb(resource.RUSAGE_CHILDREN)
            print(json.dumps({"peak_mb": peak, "written_mb": io()[0] / MB}), flush=True)
            return
        assert opened.threads.list(limit=25).threads
        ready = time.perf_counter() - begun
        while opened.threads.list(limit=25).partial is not None:
            pass
        told = {"start_again_s": ready, "list_rows_ms": median_ms(lambda: opened.threads.list(limit=25), 30)}
        for name, (key, direction) in LISTS.items():
            how = {"sort_key": key, "sort_direction": direction, "source": ["cli", "vscode"], "archived": False}
            told[f"list_{name}_ms"] = median_ms(partial(opened.threads.list, **how), 30)
        told["threads"] = len(opened.threads.list(limit=0).threads)
        print(json.dumps(told))


def rows_of(found: dict[str, list[dict[str, float]]], asked: argparse.Namespace) -> list[Row]:
    """A row a case; the engine's ratios are to the Codex CLI in the same round."""
    group = f"{asked.files:,} rollouts of {asked.bytes:,} bytes"
    return [
        Row(
            group=group,
            case=name,
            values={key: spread([each[key] for each in runs]) for key in runs[0] if key != "threads"},
            ratios={} if name == "codex" else ratios_of(runs, found["codex"]),
        )
        for name, runs in found.items()
    ]


def ratios_of(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """How many times as fast, and how many times less is used."""
    names = {
        "first_start_speed": "first_start_s",
        "cpu_less": "cpu_s",
        "memory_less": "peak_mb",
        "written_less": "written_mb",
        **{f"list_{name}_speed": f"list_{name}_ms" for name in ("rows", *LISTS)},
    }
    pairs = list(zip(ours, theirs, strict=True))
    return {
        f"{name}_to_codex": spread([other[key] / one[key] for one, other in pairs])
        for name, key in names.items()
        if all(one[key] > 0 for one, _ in pairs)
    }


def fingerprint(home: Path) -> list[tuple[str, int, int]]:
    """Every rollout by name, size and time."""
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in home.rglob("rollout-*"))


if __name__ == "__main__":
    main()
