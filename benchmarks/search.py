"""What does a search of a large home take, beside the bare FTS5 query, and how large is its index?

Makes a home of so many small rollouts (or uses again the one in `--folder`), back-fills it, and asks each search many times in
one process; beside it, in turns, FTS5's own query of the same words for the ids of the 25 best, on a connection of its own.
Then a home of rollouts as the generator makes them: what its indexes of turns and of words come to of its bytes, and how fast
both are filled.

    python benchmarks/search.py [--quick] [--threads N] [--folder F] [--json]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from _homes import MB, ensure_filled, ensure_home, make_many, say, workplace
from _machine import in_turns, spread
from _report import Report, Row, arguments, publish

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


INDEXES = {"turns": "history", "search": "search"}
"""The projections, and their databases."""


def main() -> None:
    """Measure and print."""
    asked = arguments(
        __doc__,
        threads={"type": int, "help": "threads in the home (100,000; quick: 1,000)"},
        times={"type": int, "help": "how often each search is asked (50; quick: 20)"},
    )
    asked.threads = asked.threads or (1_000 if asked.quick else 100_000)
    asked.times = asked.times or (20 if asked.quick else 50)
    files = 10 if asked.quick else 200
    with workplace(asked.folder) as folder:
        rows = searches(*ensure_filled(folder, asked.threads), asked.times, asked.rounds)
        made = ensure_home(folder, f"many-{files}-500000", lambda home: make_many(home, files, 500_000))
        with tempfile.TemporaryDirectory(prefix="state-", dir=folder) as state:
            rows += index(made, Path(state), asked.rounds)
    shown = {"rounds": asked.rounds, "threads": asked.threads, "times": asked.times}
    notes = ["A search is of 25 hits with their snippets, in a home of threads of one message each."]
    publish(Report(benchmark="search", mode=asked.mode, asked=shown, rows=rows, notes=notes), asked)


def searches(home: Path, state: Path, times: int, rounds: int) -> list[Row]:
    """Each search, in turns with the bare query."""
    import engine
    from engine.options import Options

    options = Options(background_scan_s=0, list_budget_ms=60_000)
    with engine.open(str(home), state_dir=str(state), options=options) as opened:
        assert opened.search("look").partial is None
        (newest,) = opened.threads.list(limit=1).threads
        connection = apsw.Connection(f"{state}/search_1.sqlite", flags=apsw.SQLITE_OPEN_READONLY)
        rows = []
        for name, (query, filters) in SEARCHES.items():
            say(name)
            how = {"thread_id": newest.id} if "thread_id" in filters else filters
            found = [
                beside(
                    lambda query=query, how=how: opened.search(query, **how),  # type: ignore[misc]
                    lambda query=query: connection.execute(BARE, (query,)).fetchall(),  # type: ignore[misc]
                    max(1, times // rounds),
                )
                for _ in range(rounds)
            ]
            ratios = {"speed_to_bare": spread([each["bare_p50_us"] / each["p50_us"] for each in found])}
            values = {key: spread([each[key] for each in found]) for key in found[0]}
            rows.append(Row(group="searches", case=name, values=values, ratios=ratios))
        connection.close()
    return rows


def beside(search: Callable[[], Any], bare: Callable[[], Any], times: int) -> dict[str, float]:
    """Both in turns, in microseconds."""
    ours, theirs = in_turns((search, bare), times)
    ours.sort()
    p50, p99 = statistics.median(ours), ours[len(ours) * 99 // 100]
    return {"p50_us": p50, "p99_us": p99, "bare_p50_us": statistics.median(theirs)}


def index(home: Path, folder: Path, rounds: int) -> list[Row]:
    """What both indexes come to, in bytes and as a share of the rollouts', and how fast they are filled."""
    import engine
    from engine.options import Options

    rollouts = sum(path.stat().st_size for path in home.rglob("rollout-*"))
    rates: dict[str, list[float]] = {"turns": [], "search": []}
    sizes = {}
    for number in range(rounds):
        state = folder / f"many-{number}"
        state.mkdir()
        with engine.open(str(home), state_dir=str(state), options=Options(background_scan_s=0)) as opened:
            for name, each in rates.items():
                at = time.perf_counter()
                opened.rebuild(projection=name)
                each.append(rollouts / MB / (time.perf_counter() - at))
        sizes = {name: (state / f"{file}_1.sqlite").stat().st_size for name, file in INDEXES.items()}
    return [
        Row(
            group=f"indexes of {rollouts / MB:,.0f} MB of rollouts",
            case=name,
            values={
                "mb": spread([sizes[name] / MB]),
                "percent_of_the_rollouts": spread([100 * sizes[name] / rollouts]),
                "filled_mb_a_second": spread(rates[name]),
            },
        )
        for name in INDEXES
    ]


if __name__ == "__main__":
    main()
