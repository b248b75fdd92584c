"""What does a search of a large home take, beside the bare FTS5 query, and how large is its index?

Makes a home of so many small rollouts (or uses again the one in `--folder`), back-fills it, and asks each search many times in
one process; beside it, in turns, FTS5's own query of the same words for the ids of the 25 best, on a connection of its own.
Then a home of rollouts as the generator makes them: what its indexes of turns and of words come to of its bytes, and how fast
both are filled.

    python benchmarks/search.py [--quick] [--threads N] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from _homes import ensure_home, make_many, make_small, say, workplace
from _machine import machine

MB = 1_000_000
BARE = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT 25"
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "a word of one thread": ("777", {}),
    "a word of a quarter": ("login", {}),
    "a word of all": ("look", {}),
    "a phrase of a quarter": ('"fix the parser number"', {}),
    "the beginning of a word": ("77*", {}),
    "a word of a quarter, newest": ("login", {"sort": "newest"}),
    "in a folder": ("login", {"cwd": "/srv/p3"}),
    "in one thread": ("look", {"thread_id": None}),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads in the home (100,000; quick: 2,000)")
    parser.add_argument("--times", type=int, help="how often each search is asked (100; quick: 30)")
    parser.add_argument("--folder", help="where homes are made and kept; else a temporary one, removed at the end")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the rates mean less")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    asked = parser.parse_args()
    threads, times = asked.threads or (2_000 if asked.quick else 100_000), asked.times or (30 if asked.quick else 100)
    files = 40 if asked.quick else 400
    with workplace(asked.folder) as folder:
        home = ensure_home(folder, f"small-{threads}", lambda home: make_small(home, threads))
        made = ensure_home(folder, f"many-{files}", lambda home: make_many(home, files, 500_000))
        state = tempfile.mkdtemp(prefix="state-", dir=folder)
        try:
            found = {
                "machine": machine(),
                "threads": threads,
                "searches": searches(home, f"{state}/small", times),
                "index": index(made, f"{state}/many"),
            }
        finally:
            shutil.rmtree(state)
    print(json.dumps(found, indent=2) if asked.json else table(found))


def searches(home: Path, state: str, times: int) -> dict[str, dict[str, float]]:
    """Each search, in turns with the bare query, in microseconds; `ratio` is of the medians."""
    import engine
    from engine.options import Options

    say("back-filling …")
    os.makedirs(state)
    with engine.open(str(home), state_dir=state, options=Options(background_scan_s=0, list_budget_ms=60_000)) as opened:
        opened.backfill()
        assert opened.search("look").partial is None
        (newest,) = opened.threads.list(limit=1).threads
        connection = apsw.Connection(f"{state}/search_1.sqlite", flags=apsw.SQLITE_OPEN_READONLY)
        found = {}
        for name, (query, filters) in SEARCHES.items():
            say(name)
            how = {"thread_id": newest.id} if "thread_id" in filters else filters
            found[name] = beside(
                lambda query=query, how=how: opened.search(query, **how),  # type: ignore[misc]
                lambda query=query: connection.execute(BARE, (query,)).fetchall(),  # type: ignore[misc]
                times,
            )
        connection.close()
    return found


def beside(search: Callable[[], Any], bare: Callable[[], Any], times: int) -> dict[str, float]:
    """Both in turns."""
    ours, theirs = [], []
    for _ in range(times):
        for waits, ask in ((ours, search), (theirs, bare)):
            at = time.perf_counter()
            ask()
            waits.append((time.perf_counter() - at) * 1e6)
    ours.sort()
    theirs.sort()
    p50, floor = ours[len(ours) // 2], theirs[len(theirs) // 2]
    return {"p50_us": p50, "p99_us": ours[len(ours) * 99 // 100], "bare_p50_us": floor, "ratio": p50 / floor}


def index(home: Path, state: str) -> dict[str, float]:
    """What both indexes come to, in bytes and as a share of the rollouts', and how long they take."""
    import engine
    from engine.options import Options

    os.makedirs(state)
    rollouts = sum(path.stat().st_size for path in home.rglob("rollout-*"))
    seconds = {}
    with engine.open(str(home), state_dir=state, options=Options(background_scan_s=0)) as opened:
        for name in ("turns", "search"):
            at = time.perf_counter()
            opened.rebuild(projection=name)
            seconds[name] = time.perf_counter() - at
    turns, words = (os.path.getsize(f"{state}/{name}_1.sqlite") for name in ("history", "search"))
    return {
        "rollout_bytes": rollouts,
        "turns_bytes": turns,
        "search_bytes": words,
        "turns_share": turns / rollouts,
        "search_share": words / rollouts,
        "turns_mb_s": rollouts / MB / seconds["turns"],
        "search_mb_s": rollouts / MB / seconds["search"],
    }


def table(found: dict[str, Any]) -> str:
    """All of it for people."""
    lines = [
        ", ".join(f"{key} {value}" for key, value in found["machine"].items()),
        f"{found['threads']:,} threads of one message each; 25 hits with their snippets",
        "",
        f"{'':30}{'p50 µs':>10}{'p99 µs':>10}{'bare p50':>10}{'ratio':>8}",
    ]
    for name, each in found["searches"].items():
        cells = f"{each['p50_us']:10,.0f}{each['p99_us']:10,.0f}{each['bare_p50_us']:10,.0f}{each['ratio']:8.1f}"
        lines.append(f"{name:30}{cells}")
    size = found["index"]
    lines.append("")
    lines += [
        f"{name:8}{size[f'{name}_bytes'] / MB:8.1f} MB, {100 * size[f'{name}_share']:.2f} % of "
        f"{size['rollout_bytes'] / MB:,.0f} MB of rollouts, filled at {size[f'{name}_mb_s']:,.0f} MB/s"
        for name in ("turns", "search")
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
