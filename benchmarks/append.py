"""How fast is an append, beside the bare write to the same disk?

Each writer is a process with a thread (a rollout) of its own, all on one home. In rounds, each case runs beside its
bare counterpart, in shuffled order and for the same time: `os.write` of lines of the same length, alone (for `buffered`)
or with `fdatasync` after each batch (for `durable`); the disk drifts by 40 % within minutes, so a ratio is of one round.
A case is a number of writers, a batch, a durability; a `turn` ends, and is synced, with every 50th append. What the bare
writers would do to one file, instead of one each, is told beside.

    python benchmarks/append.py [--quick] [--folder F] [--writers 1,2,4,8] [--json]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from _events import line_of, message
from _homes import say
from _machine import spread
from _pool import Pool, serve
from _report import Report, Row, arguments, numbers, publish

BATCHES = (1, 50)
DURABILITIES = ("buffered", "durable", "turn")
APPENDS_A_TURN = 50
FILLER = "x" * 75
KEPT_BYTES = 64 * 1024 * 1024
"""A writer begins a new file after so much, so that a long run does not fill the disk."""


class Case(NamedTuple):
    """What one measurement is of; `bare` writes the same lines without the engine."""

    writers: int
    batch: int
    durability: str
    bare: bool
    one_file: bool = False
    """All writers append to the same, which only the bare ones do."""


def main() -> None:
    """Measure and print; with `--child`, be one writer."""
    if sys.argv[1:] == ["--child"]:
        serve({"open": open_, "work": work, "close": close})
        return
    asked = arguments(
        __doc__,
        seconds={"type": float, "help": "how long each measurement takes (0.25; quick: 0.1)"},
        writers={"type": numbers, "help": "how many processes (1,2,4,8; quick: 1,4)"},
    )
    asked.seconds = asked.seconds or (0.1 if asked.quick else 0.25)
    asked.writers = asked.writers or ((1, 4) if asked.quick else (1, 2, 4, 8))
    folder = Path(tempfile.mkdtemp(prefix="rolloutdb-append-", dir=asked.folder))
    try:
        rows = measure(folder, asked)
    finally:
        shutil.rmtree(folder)
    shown = {"rounds": asked.rounds, "seconds": asked.seconds, "writers": asked.writers}
    notes = ["Lines of some 240 bytes; a ratio is to os.write of the same lines, with fdatasync for `durable`."]
    publish(Report(benchmark="append", mode=asked.mode, asked=shown, rows=rows, notes=notes), asked)


def measure(folder: Path, asked: argparse.Namespace) -> list[Row]:
    """All cases, in rounds."""
    batches = BATCHES[:1] if asked.quick else BATCHES
    kinds = DURABILITIES[:2] if asked.quick else DURABILITIES
    pairs = [(writers, batch, kind) for writers in asked.writers for batch in batches for kind in kinds]
    results: dict[Case, list[dict[str, Any]]] = {}
    with Pool([sys.executable, __file__, "--child"], max(asked.writers)) as pool:
        for number in range(asked.rounds):
            say(f"append: round {number + 1} of {asked.rounds}")
            for writers, batch, kind in random.sample(pairs, len(pairs)):
                cases = [Case(writers, batch, kind, bare=bare) for bare in (False, True)]
                if writers > 1 and not asked.quick:
                    cases.append(Case(writers, batch, kind, bare=True, one_file=True))
                for case in random.sample(cases, len(cases)):
                    results.setdefault(case, []).append(run(pool, folder, case, asked.seconds))
    return [row_of(pair, results) for pair in pairs]


def run(pool: Pool, folder: Path, case: Case, seconds: float) -> dict[str, Any]:
    """One measurement: every writer opens what it writes to, all write at the same time, and tell."""
    place = tempfile.mkdtemp(dir=folder)
    how = {"do": "open", "batch": case.batch, "durability": case.durability, "bare": case.bare}
    names = [0 if case.one_file else number for number in range(case.writers)]
    pool.ask([{**how, "place": place, "number": number} for number in names])
    told_by = pool.ask([{"do": "work", "seconds": seconds}] * case.writers)
    pool.ask([{"do": "close"}] * case.writers)
    shutil.rmtree(place)
    waits = sorted(wait for each in told_by for wait in each["waits_us"])
    return {
        "records_a_second": sum(each["appends"] * case.batch / each["seconds"] for each in told_by),
        "p50_us": waits[len(waits) // 2],
        "p99_us": waits[len(waits) * 99 // 100],
        "worst_us": waits[-1],
    }


def row_of(pair: tuple[int, int, str], results: dict[Case, list[dict[str, Any]]]) -> Row:
    """A case beside its bare counterpart, over all rounds; ratios and differences are of one round."""
    ours, bare = results[Case(*pair, bare=False)], results[Case(*pair, bare=True)]
    both = list(zip(ours, bare, strict=True))
    values = {key: spread([each[key] for each in ours]) for key in ("records_a_second", "p50_us", "p99_us")}
    values |= {f"bare_{key}": spread([each[key] for each in bare]) for key in ("records_a_second", "p50_us", "p99_us")}
    if one_file := results.get(Case(*pair, bare=True, one_file=True)):
        values["bare_one_file_records_a_second"] = spread([each["records_a_second"] for each in one_file])
    values["worst_ms"] = spread([each["worst_us"] / 1000 for each in ours])
    values["bare_worst_ms"] = spread([each["worst_us"] / 1000 for each in bare])
    values["worst_beyond_bare_ms"] = spread([(one["worst_us"] - other["worst_us"]) / 1000 for one, other in both])
    ratio = spread([one["records_a_second"] / other["records_a_second"] for one, other in both])
    writers, batch, durability = pair
    case = f"{writers} writer{'s' if writers > 1 else ''}, batch {batch}, {durability}"
    return Row(case=case, values=values, ratios={"speed_to_bare": ratio})


_open: list[tuple[Any, Any]] = []


def open_(place: str, number: int, batch: int, durability: str, bare: bool) -> bool:
    """One writer: what it writes to is there, and written to."""
    writer = bare_writer(f"{place}/{number}", batch, durability) if bare else engine_writer(place, batch, durability)
    _open.append(writer)
    for _ in range(20):
        _open[0][0]()
    return True


def work(seconds: float) -> dict[str, Any]:
    """Append for so long."""
    append = _open[0][0]
    waits: list[int] = []
    begun = at = time.perf_counter_ns()
    end = begun + int(seconds * 1e9)
    while at < end:
        append()
        now = time.perf_counter_ns()
        waits.append(now - at)
        at = now
    shown = sorted(waits, reverse=True)[:: len(waits) // 10_000 + 1]
    return {"appends": len(waits), "seconds": (at - begun) / 1e9, "waits_us": [wait / 1e3 for wait in shown]}


def close() -> bool:
    """Let go of it."""
    _open.pop()[1]()
    return True


def engine_writer(place: str, batch: int, durability: str) -> tuple[Any, Any]:
    """A thread of an open home, as an application has it: its items are checked, encoded, written, and noted for the rows."""
    import engine

    items = [message(FILLER)] * batch
    opened = engine.open(place)

    def begin() -> Any:
        return opened.threads.create(cwd=place, source="exec", durability=durability)  # type: ignore[arg-type]

    threads = [begin()]
    appended = 0

    def append() -> None:
        nonlocal appended
        appended += 1
        ends_turn = durability == "turn" and appended % APPENDS_A_TURN == 0
        answer = threads[0].append(items, durability="durable" if ends_turn else None)
        if answer.position.offset > KEPT_BYTES:
            threads[0].close()
            threads[0] = begin()

    return append, opened.close


def bare_writer(place: str, batch: int, durability: str) -> tuple[Any, Any]:
    """The same bytes by `os.write`, and `os.fdatasync` where the engine would sync."""
    data = line_of(message(FILLER)) * batch
    sync = getattr(os, "fdatasync", os.fsync)
    number = size = appended = 0
    fd = -1

    def begin() -> None:
        nonlocal number, size, fd
        number, size = number + 1, 0
        fd = os.open(f"{place}-{number}.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

    def append() -> None:
        nonlocal size, appended
        os.write(fd, data)
        size += len(data)
        appended += 1
        if durability == "durable" or (durability == "turn" and appended % APPENDS_A_TURN == 0):
            sync(fd)
        if size > KEPT_BYTES:
            os.close(fd)
            begin()

    def close() -> None:
        os.close(fd)

    begin()
    return append, close


if __name__ == "__main__":
    main()
