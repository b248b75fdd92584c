"""What does a page of a list take in a large home, beside the bare query of its rows?

Makes a home of so many small rollouts (or uses again the one in `--folder`), back-fills it, and asks for each page many times
in one process: newest first, in the middle, by each filter, a search, with counts. Beside it, in turns, the bare SQLite query
of the same 25 rows on a connection of its own. Then how many lists it takes until one covers every file in a process that
knows nothing yet, and how many files all these lists opened (none: they answer from rows).

    python benchmarks/reading.py [--quick] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from _homes import ensure_home, make_small, say, workplace
from _machine import machine

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
    asked = arguments()
    with workplace(asked.folder) as folder:
        home = ensure_home(folder, f"small-{asked.threads}", lambda home: make_small(home, asked.threads))
        state = tempfile.mkdtemp(prefix="state-", dir=folder)
        try:
            found = measure(home, state, asked)
        finally:
            shutil.rmtree(state)
    print(json.dumps(found, indent=2) if asked.json else table(found))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads in the home (100,000; quick: 2,000)")
    parser.add_argument("--times", type=int, help="how often each page is asked for (500; quick: 100)")
    parser.add_argument("--folder", help="where homes are made and kept; else a temporary one, removed at the end")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the rates mean less")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    asked = parser.parse_args()
    asked.threads = asked.threads or (2_000 if asked.quick else 100_000)
    asked.times = asked.times or (100 if asked.quick else 500)
    return asked


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
            )
        connection.close()
        opens = files.count("open_read")
    return {
        "machine": machine(),
        "asked": {"threads": asked.threads, "times": asked.times},
        "pages": pages,
        "until_whole": whole,
        "files_opened": opens,
    }


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


def beside(page: Callable[[], object], bare: Callable[[], object], times: int) -> dict[str, float]:
    """Both in turns, in microseconds; `ratio` is of the medians."""
    ours, theirs = [], []
    for _ in range(times):
        for waits, ask in ((ours, page), (theirs, bare)):
            at = time.perf_counter()
            ask()
            waits.append((time.perf_counter() - at) * 1e6)
    ours.sort()
    theirs.sort()
    p50, floor = ours[len(ours) // 2], theirs[len(theirs) // 2]
    return {"p50_us": p50, "p99_us": ours[len(ours) * 99 // 100], "bare_p50_us": floor, "ratio": p50 / floor}


def table(found: dict[str, Any]) -> str:
    """All of it for people."""
    whole = found["until_whole"]
    lines = [
        ", ".join(f"{key} {value}" for key, value in found["machine"].items()),
        f"{found['asked']['threads']:,} threads; each page {found['asked']['times']} times (slow ones fewer)",
        "",
        f"{'':24}{'p50 µs':>10}{'p99 µs':>10}{'bare p50':>10}{'ratio':>8}",
    ]
    for name, page in found["pages"].items():
        cells = f"{page['p50_us']:10,.0f}{page['p99_us']:10,.0f}{page['bare_p50_us']:10,.0f}{page['ratio']:8.1f}"
        lines.append(f"{name:24}{cells}")
    until = f"{whole['lists']} lists in {whole['seconds']:.1f} s, the longest {whole['longest_ms']:.0f} ms"
    lines += [
        "",
        f"a new process, until a list covers every file: {until}",
        f"rollouts opened by all these lists: {found['files_opened']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
