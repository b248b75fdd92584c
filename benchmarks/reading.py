"""What does a page of a list take in a large home, beside the bare query of its rows?

Makes a home of so many small rollouts (or uses again the one in `--folder`), back-fills it, and asks for each page many times
in one process: newest first, in the middle, by each filter, a search, with counts. Beside it, in turns, the bare SQLite query
of the same 25 rows on a connection of its own. Then how many lists it takes until one covers every file in a process that
knows nothing yet, and how many files all these lists opened (none: they answer from rows).

    python benchmarks/reading.py [--quick] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from _homes import ensure_home, make_small, say, workplace
from _machine import spread
from _report import Report, Row, arguments, publish

BARE = "SELECT * FROM threads ORDER BY updated_at_ms DESC, id DESC LIMIT 25"
PAGES: dict[str, dict[str, Any]] = {
    "newest 25": {},
    "by creation": {"sort_key": "created_at"},
    "oldest first": {"sort_direction": "asc"},
    "in the middle": {"cursor": None},
    "active": {"archived": False},
    "of a folder": {"cwd": "/srv/p3"},
    "of a source": {"source": "cli"},
    "of a model": {"model": "m2"},
    "of a provider": {"model_provider": "openai"},
    "search": {"search": "number 777,"},
    "newest 25, with counts": {"counts": True},
}
SLOW = ("search", "newest 25, with counts")


def main() -> None:
    """Measure and print."""
    asked = arguments(
        __doc__,
        threads={"type": int, "help": "threads in the home (100,000; quick: 1,000)"},
        times={"type": int, "help": "how often each page is asked for (300; quick: 60)"},
    )
    asked.threads = asked.threads or (1_000 if asked.quick else 100_000)
    asked.times = asked.times or (60 if asked.quick else 300)
    with workplace(asked.folder) as folder:
        home = ensure_home(folder, f"small-{asked.threads}", lambda home: make_small(home, asked.threads))
        state = tempfile.mkdtemp(prefix="state-", dir=folder)
        try:
            found = measure(home, state, asked)
        finally:
            shutil.rmtree(state)
    shown = {"rounds": asked.rounds, "threads": asked.threads, "times": asked.times}
    whole = found["until_whole"]
    until = f"{whole['lists']} lists in {whole['seconds']:.1f} s, the longest {whole['longest_ms']:.0f} ms"
    notes = [
        f"A new process, until a list covers every file: {until}.",
        f"Rollouts opened by all these lists: {found['files_opened']}.",
    ]
    rows = [page_row(name, page) for name, page in found["pages"].items()]
    publish(Report(benchmark="reading", mode=asked.mode, asked=shown, rows=rows, notes=notes), asked)


def measure(home: Path, state: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Everything, in one process; each page in turns with the bare query."""
    import engine
    from engine.options import Options
    from engine.stores.files import Files
    from engine.testing.files import RecordingFiles

    say("back-filling …")
    with engine.open(str(home), state_dir=state, options=Options(background_scan_s=0)) as opened:
        opened.backfill(workers=2)
    files = RecordingFiles(Files())
    with engine.open(str(home), state_dir=state, options=Options(background_scan_s=0), files=files) as opened:  # type: ignore[arg-type]
        whole = until_whole(opened)
        PAGES["in the middle"]["cursor"] = middle(opened, asked.threads)
        files.forget()
        connection = apsw.Connection(f"{state}/state_1.sqlite", flags=apsw.SQLITE_OPEN_READONLY)
        pages = {}
        for name, query in PAGES.items():
            say(name)
            times = max(5, asked.times // 20) if name in SLOW else asked.times
            pages[name] = beside(
                lambda query=query: opened.threads.list(**query),  # type: ignore[misc]
                lambda: connection.execute(BARE).fetchall(),
                times,
                asked.rounds,
            )
        connection.close()
        opens = files.count("open_read")
    return {"pages": pages, "until_whole": whole, "files_opened": opens}


def until_whole(opened: Any) -> dict[str, float]:
    """How many lists it takes until one covers every file, and how long the longest of them takes."""
    begun, longest, lists = time.perf_counter(), 0.0, 0
    while True:
        at = time.perf_counter()
        page = opened.threads.list()
        longest, lists = max(longest, time.perf_counter() - at), lists + 1
        if page.partial is None:
            return {"lists": lists, "seconds": time.perf_counter() - begun, "longest_ms": longest * 1000}


def middle(opened: Any, threads: int) -> str | None:
    """A cursor half way down."""
    cursor: str | None = opened.threads.list(limit=threads // 2).next_cursor
    return cursor


def beside(page: Callable[[], object], bare: Callable[[], object], times: int, rounds: int) -> list[dict[str, float]]:
    """Both in turns, so many times in all; what each round of them took, in microseconds."""
    found = []
    for _ in range(rounds):
        ours, theirs = [], []
        for _ in range(max(1, times // rounds)):
            for waits, ask in ((ours, page), (theirs, bare)):
                at = time.perf_counter()
                ask()
                waits.append((time.perf_counter() - at) * 1e6)
        ours.sort()
        theirs.sort()
        p50, floor = ours[len(ours) // 2], theirs[len(theirs) // 2]
        found.append({"p50_us": p50, "p99_us": ours[len(ours) * 99 // 100], "bare_p50_us": floor, "speed": floor / p50})
    return found


def page_row(name: str, rounds: list[dict[str, float]]) -> Row:
    """A page, over all rounds."""
    values = {key: spread([each[key] for each in rounds]) for key in ("p50_us", "p99_us", "bare_p50_us")}
    return Row(case=name, values=values, ratios={"speed_to_bare_query": spread([each["speed"] for each in rounds])})


if __name__ == "__main__":
    main()
