"""What does a page of a list take in a large home, beside what bare SQLite takes?

Makes a home of so many small rollouts (or uses again the one in `--folder`), back-fills it, and asks for each page many times
in one process: newest first, in the middle, by each filter, a search, with counts. Beside it, in turns, bare SQLite on a
connection of its own: the same columns of the same 25 threads by the same filter (names, dismissals and missing files come from
other tables), and for a floor below that the columns of the table alone. Then how many lists it takes until one covers every
file in a process that knows nothing yet, and how many files all these lists opened (none: they answer from rows).

    python benchmarks/reading.py [--quick] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from _homes import ensure_filled, say, workplace
from _machine import in_turns, spread
from _report import Report, Row, arguments, publish

TABLE = "SELECT * FROM threads ORDER BY updated_at_ms DESC, id DESC LIMIT 25"
SAME = """
    SELECT threads.*, EXISTS (SELECT 1 FROM streams WHERE path = rollout_path AND missing_since_ms IS NOT NULL),
        iif(coalesce(facts.name_at_ms, -1) >= coalesce(index_names.name_at_ms, -1), facts.name, index_names.name),
        facts.archived_at_ms, facts.memory_mode, facts.memory_mode_at_ms
    FROM threads LEFT JOIN facts ON facts.thread_id = threads.id LEFT JOIN index_names ON index_names.thread_id = threads.id
    WHERE (facts.dismissed_at_ms IS NULL OR NOT EXISTS (
        SELECT 1 FROM streams WHERE path = rollout_path AND missing_since_ms IS NOT NULL
    )) AND {where} ORDER BY {order} LIMIT 25
"""
NEWEST = "updated_at_ms DESC, id DESC"
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
BARE = {
    "by creation": ("1", "created_at_ms DESC, id DESC"),
    "oldest first": ("1", "updated_at_ms, id"),
    "in the middle": ("(updated_at_ms, id) < (:value, :id)", NEWEST),
    "active": ("threads.archived = 0", NEWEST),
    "of a folder": ("cwd = '/srv/p3'", NEWEST),
    "of a source": ("source = 'cli'", NEWEST),
    "of a model": ("model = 'm2'", NEWEST),
    "of a provider": ("model_provider = 'openai'", NEWEST),
}
"""Of each page what the bare query filters and sorts by; of those that are not here it is the newest 25."""
SLOW = ("search", "newest 25, with counts")
"""Asked for less often, and told beside the table alone: the bare query is not the same there."""


def main() -> None:
    """Measure and print."""
    asked = arguments(
        __doc__,
        threads={"type": int, "help": "threads in the home (100,000; quick: 1,000)"},
        times={"type": int, "help": "how often each page is asked for (300; quick: 40)"},
    )
    asked.threads = asked.threads or (1_000 if asked.quick else 100_000)
    asked.times = asked.times or (40 if asked.quick else 300)
    with workplace(asked.folder) as folder:
        found = measure(*ensure_filled(folder, asked.threads), asked)
    whole = found["until_whole"]
    until = f"{whole['lists']} lists in {whole['seconds']:.1f} s, the longest {whole['longest_ms']:.0f} ms"
    notes = [
        f"A new process, until a list covers every file: {until}.",
        f"Rollouts opened by all these lists: {found['files_opened']}.",
    ]
    shown = {"rounds": asked.rounds, "threads": asked.threads, "times": asked.times}
    publish(Report(benchmark="reading", mode=asked.mode, asked=shown, rows=rows_of(found), notes=notes), asked)


def measure(home: Path, state: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Everything, in one process; each page in turns with the bare query."""
    import engine
    from engine.options import Options
    from engine.stores.files import Files
    from engine.testing.files import RecordingFiles

    with engine.open(str(home), state_dir=str(state), options=Options(background_scan_s=0)) as opened:
        whole = until_whole(opened)
        half = opened.threads.list(limit=asked.threads // 2)
        PAGES["in the middle"]["cursor"] = half.next_cursor
        place = {"value": half.threads[-1].updated_at_ms, "id": half.threads[-1].id}
        connection = apsw.Connection(f"{state}/state_1.sqlite", flags=apsw.SQLITE_OPEN_READONLY)
        pages = {}
        for name, query in PAGES.items():
            say(name)
            times = max(3 * asked.rounds, asked.times // 20) if name in SLOW else asked.times
            pages[name] = beside(
                lambda query=query: opened.threads.list(**query),  # type: ignore[misc]
                lambda name=name: connection.execute(bare(name), place).fetchall(),  # type: ignore[misc]
                lambda: connection.execute(TABLE).fetchall(),
                times,
                asked.rounds,
            )
        connection.close()
    files = RecordingFiles(Files())
    with engine.open(str(home), state_dir=str(state), options=Options(background_scan_s=0), files=files) as opened:  # type: ignore[arg-type]
        until_whole(opened)
        files.forget()
        for query in PAGES.values():
            opened.threads.list(**query)
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


def bare(name: str) -> str:
    """The same page in SQL."""
    where, order = BARE.get(name, ("1", NEWEST))
    return SAME.format(where=where, order=order)


def beside(
    page: Callable[[], object], same: Callable[[], object], rows: Callable[[], object], times: int, rounds: int
) -> list[dict[str, float]]:
    """All in turns, so many times in all; what each round of them took, in microseconds."""
    found = []
    for _ in range(rounds):
        waits = in_turns((page, same, rows), max(1, times // rounds))
        ours = sorted(waits[0])
        p50, bare_p50, table_p50 = map(statistics.median, waits)
        found.append(
            {"p50_us": p50, "p99_us": ours[len(ours) * 99 // 100], "bare_p50_us": bare_p50, "table_p50_us": table_p50}
        )
    return found


def rows_of(found: dict[str, Any]) -> list[Row]:
    """All of it."""
    rows = []
    for name, rounds in found["pages"].items():
        values = {key: spread([each[key] for each in rounds]) for key in rounds[0]}
        ratios = {
            f"speed_to_{what}": spread([each[f"{what}_p50_us"] / each["p50_us"] for each in rounds])
            for what in (("table",) if name in SLOW else ("bare", "table"))
        }
        rows.append(Row(group="pages of threads", case=name, values=values, ratios=ratios))
    return rows


if __name__ == "__main__":
    main()
