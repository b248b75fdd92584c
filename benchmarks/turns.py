"""What does the index of turns and items of one large thread cost, and what does a page of it?

Makes a rollout of each history mode, reads it once so that the cache is warm, and then measures in rounds: the bare skim of
its lines for the same kinds, the fold, and writing the rows to a new database, all in one process; then the newest 25 turns
and the newest 50 items of that thread as a caller asks for them, each of an engine that was just opened, the index never
filled, and filled.

    python benchmarks/turns.py [--quick] [--mb N] [--json]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from _homes import MB, say
from _machine import spread
from _measure import skim_file
from _report import Report, Row, arguments, publish

import engine
from engine.clock import SystemClock
from engine.events.skim import Skim
from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.projection import Change, Stream
from engine.projections.threads import stream_of
from engine.projections.turns import Turns
from engine.stores.files import Files
from engine.stores.rollouts import open_source
from engine.stores.sqlite import Database
from engine.testing import make_rollout

MODES = ("paginated", "legacy")


class Page(NamedTuple):
    """What is asked, and how many rows that has."""

    ask: Callable[[engine.Engine, str], Sequence[object]]
    count: int


PAGES = {
    "turns": Page(lambda opened, thread: opened.turns.list(thread).turns, 25),
    "items": Page(lambda opened, thread: opened.items.list(thread, limit=50, sort_direction="desc").items, 50),
}
BY_ITSELF = Options(background_scan_s=0)
TURNS, OPTIONS, FILES = Turns(), Options(), Files()


def main() -> None:
    """Measure and print."""
    asked = arguments(__doc__, mb={"type": int, "help": "size of the rollout (100; quick: 4)"})
    asked.mb = asked.mb or (4 if asked.quick else 100)
    rows = [row for mode in MODES for row in measured(mode, asked.mb * MB, asked)]
    shown = {"rounds": asked.rounds, "mb": asked.mb}
    publish(Report(benchmark="turns", mode=asked.mode, asked=shown, rows=rows), asked)


def measured(mode: str, size: int, asked: argparse.Namespace) -> list[Row]:
    """All rounds of one history mode."""
    say(f"turns: {mode} …")
    folder = Path(tempfile.mkdtemp(prefix="rolloutdb-bench-", dir=asked.folder))
    try:
        make_rollout(folder, size=size, mode=mode)
        (rollout,) = folder.rglob("*.jsonl")
        skim(rollout)
        each = [one_round(folder, rollout) for _ in range(asked.rounds)]
    finally:
        shutil.rmtree(folder)
    found = each[0]
    title = f"{mode}: {found['bytes'] / MB:,.0f} MB, {found['turns']:,} turns, {found['items']:,} items"

    def row(case: str, **names: str) -> Row:
        return Row(group=title, case=case, values={name: spread([e[key] for e in each]) for name, key in names.items()})

    ratio = spread([e["fold_mb_s"] / e["skim_mb_s"] for e in each])
    return [
        row("bare skim", mb_a_second="skim_mb_s"),
        replace(row("fold", mb_a_second="fold_mb_s"), ratios={"speed_to_skim": ratio}),
        row("writing rows", ms="write_ms", index_bytes="index_bytes", index_share="index_share"),
        *(
            row(f"newest {page.count} {what}", never_indexed_ms=f"{what}_never_ms", indexed_ms=f"{what}_ms")
            for what, page in PAGES.items()
        ),
    ]


def one_round(folder: Path, rollout: Path) -> dict[str, Any]:
    """Skim, fold, write, and ask for pages, once."""
    size, stream = rollout.stat().st_size, stream_of(str(rollout.relative_to(folder)))
    rate = {"bytes": size, "skim_mb_s": size / MB / timed(lambda: skim(rollout))[0]}
    seconds, folded = timed(lambda: fold(stream, rollout))
    rate["fold_mb_s"] = size / MB / seconds
    place = tempfile.mkdtemp(dir=folder)
    database = open_database(place)
    rate["write_ms"] = 1000 * timed(lambda: write(database, stream, folded))[0]
    with database.read() as transaction:
        for name in ("turns", "items"):
            rate[name] = transaction.row(f"SELECT count(*) FROM {name}")[0]
        pages, page_bytes = (transaction.row(f"PRAGMA {name}")[0] for name in ("page_count", "page_size"))
    database.close()
    rate["index_bytes"] = pages * page_bytes
    rate["index_share"] = rate["index_bytes"] / size
    return {**rate, **pages_of(folder)}


def pages_of(folder: Path) -> dict[str, float]:
    """The newest page of turns and of items, before there is an index, and after; milliseconds."""
    found = {}
    with tempfile.TemporaryDirectory(dir=folder) as state:
        for what in PAGES:
            for path in Path(state).glob("history_*"):
                path.unlink()
            found[f"{what}_never_ms"] = first_page(folder, state, what)
        with engine.open(str(folder), state_dir=state, options=BY_ITSELF) as opened:
            (thread,) = opened.threads.list().threads
            while opened.turns.list(thread.id, limit=0, items_view="none").partial is not None:
                pass
        for what in PAGES:
            found[f"{what}_ms"] = first_page(folder, state, what)
    return found


def first_page(folder: Path, state: str, what: str) -> float:
    """What an engine that was just opened, and has listed its threads, takes for it."""
    with engine.open(str(folder), state_dir=state, options=BY_ITSELF) as opened:
        while (page := opened.threads.list()).partial is not None:
            pass
        (thread,) = page.threads
        ask, count = PAGES[what].ask, PAGES[what].count
        seconds, rows = timed(lambda: ask(opened, thread.id))
        assert len(rows) == count
        return seconds * 1000


def timed(run: Any) -> tuple[float, Any]:
    """Seconds of the wall clock, and what came of it."""
    begun = time.perf_counter()
    found = run()
    return time.perf_counter() - begun, found


def skim(rollout: Path) -> None:
    """Open, read and skim, with no digest, decode or state."""
    skim_file(rollout, Skim(TURNS.kinds), OPTIONS.block_bytes)


def fold(stream: Stream, rollout: Path) -> Any:
    """What the whole rollout comes to."""
    source = open_source(str(rollout), compressed=False, files=FILES, options=OPTIONS)
    (folded,) = Folder([TURNS], OPTIONS).fold(stream, source, {})
    source.close()
    return folded


def open_database(place: str) -> Database:
    """The history database in that folder."""
    return Database.open(place, "history", 1, migrations="history", options=OPTIONS, clock=SystemClock(), files=FILES)


def write(database: Database, stream: Stream, folded: Any) -> None:
    """All rows, in one transaction."""
    change = Change(stream, False, TURNS.decode(folded.mark.state), True, folded.emitted)
    with database.write() as transaction:
        TURNS.write(transaction, [change])


if __name__ == "__main__":
    main()
