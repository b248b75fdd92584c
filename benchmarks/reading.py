"""What does a page of a list take in a large home, and the first page of a large thread, beside what bare SQLite takes?

Makes a home of so many small rollouts (or uses again the one in `--folder`), back-fills it, and asks for each page many times
in one process: newest first, in the middle, by each filter, a search, with counts. Beside it, in turns, bare SQLite on a
connection of its own: the same columns of the same 25 threads by the same filter (names, dismissals and missing files come from
other tables), and for a floor below that the columns of the table alone. Then how many lists it takes until one covers every
file in a process that knows nothing yet, and how many files all these lists opened (none: they answer from rows).

Then one rollout of 200 MB, in each history mode: the newest 25 turns and the last 50 items in new processes, the index never
filled, and filled. With `--codex PATH` the `thread/list` of that program's app-server on a home of 10,000 threads, and ours.

    python benchmarks/reading.py [--quick] [--folder F] [--codex PATH] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from _codex import CONFIG, AppServer, median_ms
from _homes import MB, ensure_home, make_small, say, workplace
from _machine import spread
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


def main() -> None:
    """Measure and print."""
    asked = arguments(
        __doc__,
        threads={"type": int, "help": "threads in the home (100,000; quick: 1,000)"},
        times={"type": int, "help": "how often each page is asked for (300; quick: 60)"},
        mb={"type": int, "help": "size of the large rollout (200; quick: 10)"},
        codex={"help": "the Codex CLI's program, to be measured beside; left out without it"},
    )
    asked.threads = asked.threads or (1_000 if asked.quick else 100_000)
    asked.times = asked.times or (60 if asked.quick else 300)
    asked.mb = asked.mb or (10 if asked.quick else 200)
    if asked.codex is not None and not os.access(asked.codex, os.X_OK):
        sys.exit(f"{asked.codex} is no program: name the Codex CLI's, or leave --codex out")
    with workplace(asked.folder) as folder:
        home = ensure_home(folder, f"small-{asked.threads}", lambda home: make_small(home, asked.threads))
        state = tempfile.mkdtemp(prefix="state-", dir=folder)
        try:
            found = measure(home, state, asked)
            found["large"] = {mode: large(folder, mode, asked) for mode in ("paginated", "legacy")}
            found["codex"] = None if asked.codex is None else beside_codex(folder, asked)
        finally:
            shutil.rmtree(state)
    whole = found["until_whole"]
    until = f"{whole['lists']} lists in {whole['seconds']:.1f} s, the longest {whole['longest_ms']:.0f} ms"
    notes = [
        f"A new process, until a list covers every file: {until}.",
        f"Rollouts opened by all these lists: {found['files_opened']}.",
    ]
    shown = {"rounds": asked.rounds, "threads": asked.threads, "times": asked.times, "mb": asked.mb}
    publish(Report(benchmark="reading", mode=asked.mode, asked=shown, rows=rows_of(found), notes=notes), asked)


def measure(home: Path, state: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Everything, in one process; each page in turns with the bare query."""
    import engine
    from engine.options import Options
    from engine.stores.files import Files
    from engine.testing.files import RecordingFiles

    say("back-filling …")
    with engine.open(str(home), state_dir=state, options=Options(background_scan_s=0)) as opened:
        opened.backfill(workers=2)
    with engine.open(str(home), state_dir=state, options=Options(background_scan_s=0)) as opened:
        whole = until_whole(opened)
        half = opened.threads.list(limit=asked.threads // 2)
        PAGES["in the middle"]["cursor"] = half.next_cursor
        place = {"value": half.threads[-1].updated_at_ms, "id": half.threads[-1].id}
        connection = apsw.Connection(f"{state}/state_1.sqlite", flags=apsw.SQLITE_OPEN_READONLY)
        pages = {}
        for name, query in PAGES.items():
            say(name)
            times = max(5, asked.times // 20) if name in SLOW else asked.times
            pages[name] = beside(
                lambda query=query: opened.threads.list(**query),  # type: ignore[misc]
                lambda name=name: connection.execute(bare(name), place).fetchall(),  # type: ignore[misc]
                lambda: connection.execute(TABLE).fetchall(),
                times,
                asked.rounds,
            )
        connection.close()
    files = RecordingFiles(Files())
    with engine.open(str(home), state_dir=state, options=Options(background_scan_s=0), files=files) as opened:  # type: ignore[arg-type]
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
        waits: tuple[list[float], ...] = ([], [], [])
        for _ in range(max(1, times // rounds)):
            for each, ask in zip(waits, (page, same, rows), strict=True):
                at = time.perf_counter()
                ask()
                each.append((time.perf_counter() - at) * 1e6)
        ours = sorted(waits[0])
        p50, bare_p50, table_p50 = map(statistics.median, waits)
        found.append(
            {"p50_us": p50, "p99_us": ours[len(ours) * 99 // 100], "bare_p50_us": bare_p50, "table_p50_us": table_p50}
        )
    return found


FIRST_PAGE = """
import json, sys, time
import engine
from engine.options import Options
home, state, thread, what = sys.argv[1:]
with engine.open(home, state_dir=state, options=Options(background_scan_s=0)) as e:
    while e.threads.list().partial is not None:
        pass
    at = time.perf_counter()
    if what == "turns":
        page = e.turns.list(thread)
        rows = page.turns
    else:
        page = e.items.list(thread, limit=50, sort_direction="desc")
        rows = page.items
    print(json.dumps([(time.perf_counter() - at) * 1e3, len(rows), page.partial is None]))
"""


def large(folder: Path, mode: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The newest page of one large thread, each in a new process, in milliseconds; the median of three."""
    from engine.testing import make_rollout

    say(f"a thread of {asked.mb} MB, {mode} …")
    made = ensure_home(folder, f"one-{mode}-{asked.mb}", lambda home: make_rollout(home, size=asked.mb * MB, mode=mode))
    (rollout,) = made.rglob("*.jsonl")
    thread_id = rollout.stem[-36:]

    def first(state: str, what: str) -> tuple[float, bool]:
        found = subprocess.run(
            [sys.executable, "-c", FIRST_PAGE, str(made), state, thread_id, what],
            check=True,
            capture_output=True,
            text=True,
        )
        ms, rows, whole = json.loads(found.stdout)
        assert rows == (25 if what == "turns" else 50)
        return ms, whole

    times: dict[str, Any] = {}
    for what in ("turns", "items"):
        with tempfile.TemporaryDirectory(dir=folder) as emptied:
            runs = []
            for _ in range(3):
                for path in Path(emptied).glob("history_*"):
                    path.unlink()
                runs.append(first(emptied, what))
            times[f"{what}_never_indexed_ms"] = statistics.median(ms for ms, _ in runs)
            for _ in range(20):
                if _fill(made, emptied, thread_id):
                    break
            times[f"{what}_indexed_ms"] = statistics.median(first(emptied, what)[0] for _ in range(3))
    return times


def _fill(home: Path, state: str, thread_id: str) -> bool:
    """Have the index filled by asking for all; whether it is."""
    import engine
    from engine.options import Options

    with engine.open(str(home), state_dir=state, options=Options(background_scan_s=0)) as opened:
        return opened.turns.list(thread_id, limit=0, items_view="none").partial is None


LISTS: dict[str, dict[str, Any]] = {
    "newest 25": {"sortKey": "created_at", "sortDirection": "desc"},
    "by update time": {"sortKey": "updated_at", "sortDirection": "desc"},
    "oldest first": {"sortKey": "created_at", "sortDirection": "asc"},
}


def beside_codex(folder: Path, asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """That program's `thread/list` as it is by default and ours, in a home of 10,000 threads; medians in milliseconds."""
    import engine
    from engine.options import Options

    count = 1_000 if asked.quick else 10_000
    say(f"the Codex CLI on {count:,} threads …")
    with tempfile.TemporaryDirectory(dir=folder) as home, tempfile.TemporaryDirectory(dir=folder) as state:
        make_small(Path(home), count)
        (Path(home) / "config.toml").write_text(CONFIG)
        with AppServer(asked.codex, home) as server:
            server.initialize()
            found = {
                name: {
                    "codex_ms": median_ms(
                        lambda query=query: server.ask("thread/list", limit=25, modelProviders=[], **query),  # type: ignore[misc]
                        10,
                    )
                }
                for name, query in LISTS.items()
            }
            server.end()
        with engine.open(home, state_dir=state, options=Options(background_scan_s=0)) as opened:
            opened.backfill()
            for name, query in LISTS.items():
                how = {"sort_key": query["sortKey"], "sort_direction": query["sortDirection"]}
                page = opened.threads.list(source=["cli", "vscode"], archived=False, **how)
                assert len(page.threads) == 25
                found[name]["ours_ms"] = median_ms(
                    lambda how=how: opened.threads.list(source=["cli", "vscode"], archived=False, **how),  # type: ignore[misc]
                    asked.times,
                )
                found[name]["times_faster"] = found[name]["codex_ms"] / found[name]["ours_ms"]
    return found


def rows_of(found: dict[str, Any]) -> list[Row]:
    """All of it."""
    rows = []
    for name, rounds in found["pages"].items():
        values = {key: spread([each[key] for each in rounds]) for key in rounds[0]}
        ratios = {
            f"speed_to_{what}": spread([each[f"{what}_p50_us"] / each["p50_us"] for each in rounds])
            for what in ("bare", "table")
        }
        rows.append(Row(group="pages of threads", case=name, values=values, ratios=ratios))
    for mode, times in found["large"].items():
        values = {name: spread([ms]) for name, ms in times.items()}
        rows.append(Row(group="the newest page of one large thread, in new processes", case=mode, values=values))
    for name, each in (found["codex"] or {}).items():
        values = {key: spread([each[key]]) for key in ("codex_ms", "ours_ms")}
        ratio = {"speed_to_codex": spread([each["times_faster"]])}
        rows.append(Row(group="beside the Codex CLI", case=name, values=values, ratios=ratio))
    return rows


if __name__ == "__main__":
    main()
