"""What does the index of turns and items of one large thread cost, and what does a page of it?

Makes a rollout of each history mode, reads it once so that the cache is warm, and then measures in rounds: the bare skim of
its lines for the same kinds, the fold, writing the rows to a new database, and pages of 25 turns and of 50 items from it,
newest first, each with a new reader. All in one process, so a ratio is of one round.

    python benchmarks/turns.py [--quick] [--mb N] [--json]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from _homes import MB, say
from _machine import spread
from _report import Report, Row, arguments, publish

from engine.clock import SystemClock
from engine.events.skim import Skim
from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.projection import Change
from engine.projections.threads import stream_of
from engine.projections.turn_list import ItemQuery, TurnQuery, pick_items, pick_turns, read_picked_items, read_turns
from engine.projections.turns import Turns
from engine.stores.bodies import Bodies
from engine.stores.files import Files
from engine.stores.layout import locate, open_home
from engine.stores.lineage import Segment
from engine.stores.rollouts import open_source
from engine.stores.sqlite import Database
from engine.testing import rollout_lines

THREAD = "01a20464-403f-7170-9722-7a9790eef98c"
PATH = f"sessions/2026/01/05/rollout-2026-01-05T09-00-00-{THREAD}.jsonl"
MODES = ("paginated", "legacy")
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
        rollout = folder / PATH
        rollout.parent.mkdir(parents=True)
        with rollout.open("wb") as file:
            file.writelines(rollout_lines(seed=5, mode=mode, size=size))
        each = [one_round(folder, rollout.stat().st_size) for _ in range(asked.rounds + 1)][1:]
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
        row("25 newest turns, summary", ms="turns_summary_ms"),
        row("25 newest turns with all items", ms="turns_full_ms"),
        row("50 newest items", ms="items_ms"),
    ]


def one_round(folder: Path, size: int) -> dict[str, Any]:
    """Skim, fold, write, and read pages, once."""
    rate = {"bytes": size, "skim_mb_s": size / MB / timed(lambda: skim(folder))[0]}
    seconds, folded = timed(lambda: fold(folder))
    rate["fold_mb_s"] = size / MB / seconds
    place = tempfile.mkdtemp(dir=folder)
    database = open_database(place)
    rate["write_ms"] = 1000 * timed(lambda: write(database, folded))[0]
    with database.read() as transaction:
        for name in ("turns", "items"):
            rate[name] = transaction.row(f"SELECT count(*) FROM {name}")[0]
        pages, page_bytes = (transaction.row(f"PRAGMA {name}")[0] for name in ("page_count", "page_size"))
    database.close()
    rate["index_bytes"] = pages * page_bytes
    rate["index_share"] = rate["index_bytes"] / size
    for name, ask in PAGES.items():
        database = open_database(place)
        rate[f"{name}_ms"] = 1000 * timed(lambda ask=ask, database=database: ask(folder, database))[0]
        database.close()
    return rate


def timed(run: Any) -> tuple[float, Any]:
    """Seconds of the wall clock, and what came of it."""
    begun = time.perf_counter()
    found = run()
    return time.perf_counter() - begun, found


def skim(folder: Path) -> None:
    """Open, read and skim, with no digest, decode or state."""
    skimmer = Skim(TURNS.kinds)
    fd = os.open(folder / PATH, os.O_RDONLY)
    at = 0
    while data := os.pread(fd, OPTIONS.block_bytes, at):
        stop = data.rfind(b"\n") + 1 or len(data)
        skimmer.scan(data, 0, stop)
        at += stop
    os.close(fd)


def fold(folder: Path) -> Any:
    """What the whole rollout comes to."""
    source = open_source(str(folder / PATH), compressed=False, files=FILES, options=OPTIONS)
    (folded,) = Folder([TURNS], OPTIONS).fold(stream_of(PATH), source, {})
    source.close()
    return folded


def open_database(place: str) -> Database:
    """The history database in that folder."""
    return Database.open(place, "history", 1, migrations="history", options=OPTIONS, clock=SystemClock(), files=FILES)


def write(database: Database, folded: Any) -> None:
    """All rows, in one transaction."""
    change = Change(stream_of(PATH), False, TURNS.decode(folded.mark.state), True, folded.emitted)
    with database.write() as transaction:
        TURNS.write(transaction, [change])


def turns_page(folder: Path, database: Database, view: str) -> None:
    """The newest 25 turns."""
    home = open_home(str(folder), None, FILES)
    segments = [Segment(locate(home, PATH, FILES), None)]
    with database.read() as transaction:
        picked = pick_turns(transaction, THREAD, segments, TurnQuery(items_view=view))
    with Bodies(home, options=OPTIONS, files=FILES) as bodies:
        assert len(read_turns(picked, bodies).turns) == 25


def items_page(folder: Path, database: Database) -> None:
    """The newest 50 items."""
    home = open_home(str(folder), None, FILES)
    segments = [Segment(locate(home, PATH, FILES), None)]
    with database.read() as transaction:
        picked = pick_items(transaction, THREAD, segments, ItemQuery(limit=50, sort_direction="desc"))
    with Bodies(home, options=OPTIONS, files=FILES) as bodies:
        assert len(read_picked_items(picked, bodies).items) == 50


PAGES = {
    "turns_summary": lambda folder, database: turns_page(folder, database, "summary"),
    "turns_full": lambda folder, database: turns_page(folder, database, "full"),
    "items": items_page,
}


if __name__ == "__main__":
    main()
