"""What does each decision of the engine do against lock contention, when many processes work on one home?

Every process does what an agent product does, in a loop: it appends one event to one of its threads (of twenty, one asks
for a change of its row and one counts tokens, the others are text that no table asks for), and writes four log records; now
and then it accounts a goal's tokens, sends the heartbeat of its lease, and lists the newest threads. A ladder of variants
begins where every event is a transaction on one database, and takes one decision at a time:

    every event upserted      each append writes its thread's row, in a transaction; logs and leases are in that database
    filtered                  only an append that a table asks for writes the row; the others stamp its time
    light touch               a stamp is written once in five seconds a thread
    coalesced flush           rows follow 200 ms later, many threads and appends in one transaction
    logs as segments          each process appends its log records to files of its own; no database
    leases in their own file  as it says: this is the engine as it is

The variants above the last are built here and are no options of the engine. Beside them, in each round, `bare` processes do
nothing but `os.write` the same lines. Rounds run every variant in shuffled order; processes begin together.

    python benchmarks/contention.py [--quick] [--folder F] [--json] [--chart FILE.svg]
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from _chart import Line, Panel, chart
from _contenders import CHILD
from _homes import say
from _machine import spread
from _pool import Pool, serve
from _report import Report, Row, arguments, numbers, publish

PACED_HZ = 50
PACED_PROCESSES = 16


@dataclass(frozen=True)
class Variant:
    """A rung of the ladder. `upserts` says when a row is written, `logs` and `leases` in whose file they are."""

    name: str
    upserts: str
    logs: str
    leases: str


LADDER = (
    Variant("every event upserted", "each", "state", "state"),
    Variant("filtered", "filtered", "state", "state"),
    Variant("light touch", "touch", "state", "state"),
    Variant("coalesced flush", "coalesced", "state", "state"),
    Variant("logs as segments", "coalesced", "segments", "state"),
    Variant("leases in their own file", "coalesced", "segments", "own"),
)
BARE = Variant("bare", "bare", "", "")
FIRST, ENGINE = LADDER[0], LADDER[-1]


class Case(NamedTuple):
    """What one measurement is of; `hz` 0 is as fast as it goes."""

    variant: Variant
    processes: int
    hz: int


def main() -> None:
    """Measure and print; with `--child`, be one process."""
    if sys.argv[1:] == ["--child"]:
        serve(CHILD)
        return
    asked = arguments(
        __doc__,
        seconds={"type": float, "help": "how long each measurement takes (0.25; quick: 0.2)"},
        processes={"type": numbers, "help": "how many (1,2,4,8,16; quick: 4)"},
        chart={"help": "draw the chart into this file"},
    )
    asked.seconds = asked.seconds or (0.2 if asked.quick else 0.25)
    asked.processes = asked.processes or ((4,) if asked.quick else (1, 2, 4, 8, 16))
    folder = tempfile.mkdtemp(prefix="rolloutdb-contention-", dir=asked.folder)
    try:
        found = measure(folder, asked)
    finally:
        shutil.rmtree(folder)
    report = Report(
        benchmark="contention",
        mode=asked.mode,
        asked={"rounds": asked.rounds, "seconds": asked.seconds, "processes": asked.processes},
        rows=rows_of(found),
        notes=notes_of(found),
    )
    if asked.chart:
        Path(asked.chart).write_text(drawn(found))
    publish(report, asked)


def measure(folder: str, asked: Any) -> dict[Case, list[dict[str, float]]]:
    """Every case once a round, in shuffled order."""
    cases = [Case(variant, count, 0) for variant in (*LADDER, BARE) for count in asked.processes]
    if not asked.quick:
        cases += [Case(variant, PACED_PROCESSES, PACED_HZ) for variant in (*LADDER, BARE)]
    found: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    with Pool([sys.executable, __file__, "--child"], max(case.processes for case in cases)) as pool:
        for number in range(asked.rounds):
            say(f"contention: round {number + 1} of {asked.rounds}")
            for case in random.sample(cases, len(cases)):
                found[case].append(run(pool, folder, case, asked.seconds * (2 if case.hz else 1)))
    return found


def run(pool: Pool, folder: str, case: Case, seconds: float) -> dict[str, float]:
    """One measurement on a home of its own: all open it, all work, all close it."""
    home = tempfile.mkdtemp(dir=folder)
    variant = case.variant
    opening = {
        "do": "open",
        "home": home,
        "upserts": variant.upserts,
        "logs": variant.logs,
        "leases": variant.leases,
    }
    pool.ask([{**opening, "number": 0}])
    if case.processes > 1:
        pool.ask([{"do": "nothing"}, *({**opening, "number": number} for number in range(1, case.processes))])
    working = {"do": "work", "seconds": seconds, "hz": case.hz}
    answers = pool.ask([working] * case.processes)
    pool.ask([{"do": "close"}] * case.processes)
    shutil.rmtree(home)
    return summary(answers)


def summary(answers: list[dict[str, Any]]) -> dict[str, float]:
    """What all processes of one measurement did together."""
    appends = sorted(wait for each in answers for wait in each["append_us"])
    lists = sorted(wait for each in answers for wait in each["list_us"])
    count = sum(each["appends"] for each in answers)
    transactions = sum(each["transactions"] / each["seconds"] for each in answers)
    return {
        "events_a_second": sum(each["appends"] / each["seconds"] for each in answers),
        "transactions_a_second": transactions,
        "transactions_a_second_and_thread": transactions / sum(each["threads"] for each in answers),
        "transactions_a_hundred_events": 100 * sum(each["transactions"] for each in answers) / count,
        "busy_waits_a_second": sum(each["busy_waits"] / each["seconds"] for each in answers),
        "busy_waits_a_hundred_events": 100 * sum(each["busy_waits"] for each in answers) / count,
        "busy_errors": sum(each["busy_errors"] for each in answers),
        "append_p50_us": appends[len(appends) // 2],
        "append_p99_us": appends[len(appends) * 99 // 100],
        "append_worst_ms": appends[-1] / 1000,
        "bytes_written_an_event": sum(each["bytes_written"] for each in answers) / count,
        **(_of_lists(lists) if lists else {}),
    }


def _of_lists(lists: list[float]) -> dict[str, float]:
    """Some measurements are over before the first list is due."""
    return {
        "list_p50_ms": lists[len(lists) // 2] / 1000,
        "list_p99_ms": lists[len(lists) * 99 // 100] / 1000,
        "list_worst_ms": lists[-1] / 1000,
    }


def rows_of(found: Mapping[Case, list[dict[str, float]]]) -> list[Row]:
    """A row a case; its speed to the variant where every event is upserted, and how much longer than bare it waited."""
    rows = []
    for case, runs in found.items():
        first = found[Case(FIRST, case.processes, case.hz)]
        bare = found[Case(BARE, case.processes, case.hz)]
        is_bare = case.variant is BARE
        names = [name for name in runs[0] if all(name in each for each in runs)]
        values = {
            name: spread([each[name] for each in runs]) for name in names if not (is_bare and _is_of_tables(name))
        }
        ratios = {}
        if not is_bare:
            more = [one["append_worst_ms"] - other["append_worst_ms"] for one, other in zip(runs, bare, strict=True)]
            values["worst_append_beyond_bare_ms"] = spread(more)
        if case.variant not in (BARE, FIRST) and not case.hz:
            ratios["speed_to_every_event_upserted"] = spread(
                [one["events_a_second"] / other["events_a_second"] for one, other in zip(runs, first, strict=True)]
            )
        rows.append(Row(group=_group(case), case=case.variant.name, values=values, ratios=ratios))
    return sorted(rows, key=lambda row: list(dict.fromkeys(each.group for each in rows)).index(row.group))


def _is_of_tables(name: str) -> bool:
    return not name.startswith(("events", "append", "bytes"))


def _group(case: Case) -> str:
    processes = f"{case.processes} process{'es' if case.processes > 1 else ''}"
    return f"{processes}, {case.hz} events a second each" if case.hz else processes


def notes_of(found: Mapping[Case, list[dict[str, float]]]) -> list[str]:
    """The two aims, as this run has them."""
    errors = sum(run["busy_errors"] for case, runs in found.items() if case.variant is ENGINE for run in runs)
    all_errors = sum(run["busy_errors"] for runs in found.values() for run in runs)
    return [
        f"Busy errors of the engine as it is: {errors:.0f} (aim: none); of all variants: {all_errors:.0f}.",
        "Appends are buffered: this is about locks, not about the disk. bytes_written counts what was given to write calls.",
    ]


def drawn(found: Mapping[Case, list[dict[str, float]]]) -> str:
    """The chart: what each rung gives as processes are added."""

    def lines(name: str) -> list[Line]:
        counts = sorted({case.processes for case in found if not case.hz})
        return [
            Line(
                variant.name, [(n, spread([run[name] for run in found[Case(variant, n, 0)]])["median"]) for n in counts]
            )
            for variant in LADDER
        ]

    return chart(
        "Many processes on one home",
        [
            Panel("events a second", "processes", lines("events_a_second")),
            Panel("transactions a hundred events", "processes", lines("transactions_a_hundred_events")),
            Panel("waits for a lock a hundred events", "processes", lines("busy_waits_a_hundred_events")),
            Panel("worst wait of an append, ms", "processes", lines("append_worst_ms")),
        ],
    )


if __name__ == "__main__":
    main()
