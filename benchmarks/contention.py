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
    leases in their own file  as it says, and the background at work: this is the engine as it is

The variants above the last are built here and are no options of the engine. Rounds run every variant in shuffled order;
processes begin together. What appends and log calls owe at the end (rows of threads, log records that wait) is written inside
the time; the rows of log segments follow after it where all processes are at work, and are told apart.

At the pace of busy agents the first and the last work beside `bare` processes that do nothing but `os.write` the same lines as
often: how much longer than theirs the worst append takes is told there. At last the first and the last work for as long as a
wait for a lock may take, three times over, once: whether an error comes of it.

    python benchmarks/contention.py [--quick] [--folder F] [--json] [--chart FILE.svg]
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from _chart import Line, Panel, chart
from _contenders import CHILD
from _homes import say
from _machine import Spread, spread
from _pool import Pool, serve
from _report import Report, Row, arguments, numbers, publish

PACED_HZ = 50


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
    seconds: float
    hz: int = 0


class Run(NamedTuple):
    """What one measurement found: numbers, and what errors said."""

    values: dict[str, float]
    errors: list[str]


Found = Mapping[Case, list[Run]]


def main() -> None:
    """Measure and print; with `--child`, be one process."""
    if sys.argv[1:] == ["--child"]:
        serve(CHILD)
        return
    asked = arguments(
        __doc__,
        seconds={"type": float, "help": "how long each measurement takes (0.4; quick: 0.15)"},
        processes={"type": numbers, "help": "how many (1,2,4,8,16; quick: 4)"},
        paced={"type": float, "help": "how long those take that keep a pace (0.8; quick: 0, none)"},
        long={"type": float, "help": "how long the one takes that looks for errors (15; quick: 0, none)"},
        chart={"help": "draw the chart into this file"},
    )
    asked.seconds = asked.seconds or (0.15 if asked.quick else 0.4)
    asked.paced = (0 if asked.quick else 0.8) if asked.paced is None else asked.paced
    asked.long = (0 if asked.quick else 15) if asked.long is None else asked.long
    asked.processes = asked.processes or ((4,) if asked.quick else (1, 2, 4, 8, 16))
    folder = tempfile.mkdtemp(prefix="rolloutdb-contention-", dir=asked.folder)
    try:
        found = measure(folder, asked)
    finally:
        shutil.rmtree(folder)
    report = Report(
        benchmark="contention",
        mode=asked.mode,
        asked={name: getattr(asked, name) for name in ("rounds", "seconds", "processes", "paced", "long")},
        rows=rows_of(found),
        notes=notes_of(found),
    )
    if asked.chart:
        Path(asked.chart).write_text(drawn(found, asked))
    publish(report, asked)


def measure(folder: str, asked: Any) -> Found:
    """Every case once a round, in shuffled order; the long ones once."""
    cases = [Case(variant, count, asked.seconds) for count in asked.processes for variant in LADDER]
    most = max(asked.processes)
    cases += [Case(variant, most, asked.paced, PACED_HZ) for variant in (FIRST, ENGINE, BARE) if asked.paced]
    long = [Case(variant, most, asked.long) for variant in (FIRST, ENGINE) if asked.long > asked.seconds]
    found: dict[Case, list[Run]] = {case: [] for case in (*cases, *long)}
    with Pool([sys.executable, __file__, "--child"], most) as pool:
        for number in range(asked.rounds):
            say(f"contention: round {number + 1} of {asked.rounds}")
            for case in random.sample(cases, len(cases)):
                fills = case.processes == most and not case.hz
                found[case].append(run(pool, folder, case, fills=fills))
        for case in long:
            say(f"contention: {case.variant.name} for {case.seconds:g} s")
            found[case].append(run(pool, folder, case, fills=False))
    return found


def run(pool: Pool, folder: str, case: Case, *, fills: bool) -> Run:
    """One measurement on a home of its own: all open it, all work, one fills the table of log records, all close it."""
    home = tempfile.mkdtemp(dir=folder)
    variant = case.variant
    opening = {"do": "open", "home": home, "upserts": variant.upserts, "logs": variant.logs, "leases": variant.leases}
    pool.ask([{**opening, "number": 0}])
    if case.processes > 1:
        pool.ask([{"do": "nothing"}, *({**opening, "number": number} for number in range(1, case.processes))])
    answers = pool.ask([{"do": "work", "seconds": case.seconds, "hz": case.hz}] * case.processes)
    filled = pool.ask([{"do": "fill_logs"}] if fills and variant.logs == "segments" else [])
    closed = pool.ask([{"do": "close"}] * case.processes)
    shutil.rmtree(home)
    errors = [error for each in (*answers, *closed) for error in each["errors"]]
    values = summary(answers, closed) | {"busy_errors": len(errors)}
    return Run(values | (with_log_rows(answers, filled) if fills else {}), errors)


def summary(answers: list[dict[str, Any]], closed: list[dict[str, Any]]) -> dict[str, float]:
    """What all processes of one measurement did together."""
    waits = {
        name: sorted(wait for each in answers for wait in each[f"{name}_us"]) for name in ("append", "rest", "list")
    }
    appends, lists = waits["append"], waits["list"]
    count = max(1, sum(each["appends"] for each in answers))
    transactions = sum(each["transactions"] / each["seconds"] for each in answers)
    values = {
        "events_a_second": sum(each["appends"] / each["seconds"] for each in answers),
        "transactions_a_second_and_thread": transactions / sum(each["threads"] for each in answers),
        "transactions_a_hundred_events": 100 * sum(each["transactions"] for each in answers) / count,
        "busy_waits_a_hundred_events": 100 * sum(each["busy_waits"] for each in answers) / count,
        "flushes_failed": sum(each["flushes_failed"] for each in (*answers, *closed)),
        "logs_dropped": sum(each["logs_dropped"] for each in answers),
        "append_p50_us": appends[len(appends) // 2],
        "append_p99_us": appends[len(appends) * 99 // 100],
        "append_worst_ms": appends[-1] / 1000,
        "rest_worst_ms": waits["rest"][-1] / 1000,
        "bytes_written_an_event": sum(each["bytes_written"] for each in answers) / count,
    }
    if lists:  # some measurements are over before the first one is due
        values["list_p50_ms"] = lists[len(lists) // 2] / 1000
        values["list_p99_ms"] = lists[len(lists) * 99 // 100] / 1000
        values["list_worst_ms"] = lists[-1] / 1000
    return values


def with_log_rows(answers: list[dict[str, Any]], filled: list[dict[str, Any]]) -> dict[str, float]:
    """The same where the rows of log records are counted in; nothing was filled where they were written at once."""
    count = max(1, sum(each["appends"] for each in answers))
    seconds = max(each["seconds"] for each in answers) + sum(each["seconds"] for each in filled)
    written = sum(each["bytes_written"] for each in (*answers, *filled))
    values = {"events_a_second_with_log_rows": count / seconds, "bytes_with_log_rows_an_event": written / count}
    if filled:
        values["log_rows"] = filled[0]["log_rows"]
    return values


def rows_of(found: Found) -> list[Row]:
    """A row a case; its speed to the variant where every event is upserted, and how much longer than bare it waited."""
    rows = []
    for case, runs in found.items():
        names = [name for name in runs[0].values if all(name in run.values for run in runs)]
        if case.variant is BARE:
            names = [name for name in names if name.startswith("append")]
        values = {name: spread([run.values[name] for run in runs]) for name in names}
        ratios = {}
        if case.hz and case.variant is not BARE:
            bare = found[case._replace(variant=BARE)]
            values["worst_append_beyond_bare_ms"] = paired(
                runs, bare, "append_worst_ms", lambda one, other: one - other
            )
        elif case.variant not in (FIRST, BARE):
            first = found[case._replace(variant=FIRST)]
            above = found.get(case._replace(variant=LADDER[LADDER.index(case.variant) - 1]))
            if above is not None:
                ratios["speed_to_the_one_above"] = paired(
                    runs, above, "events_a_second", lambda one, other: one / other
                )
            for name, ratio in SPEEDS.items():
                if name in values:
                    ratios[ratio] = paired(runs, first, name, lambda one, other: one / other)
        rows.append(Row(group=group_of(case), case=case.variant.name, values=values, ratios=ratios))
    return rows


SPEEDS = {
    "events_a_second": "speed_to_every_event_upserted",
    "events_a_second_with_log_rows": "speed_with_log_rows_to_it",
}


def paired(runs: list[Run], others: list[Run], name: str, of: Callable[[float, float], float]) -> Spread:
    """Of the same round."""
    return spread([of(one.values[name], other.values[name]) for one, other in zip(runs, others, strict=True)])


def group_of(case: Case) -> str:
    """Its table."""
    processes = f"{case.processes} process{'es' if case.processes > 1 else ''} for {case.seconds:g} s"
    return f"{processes}, {case.hz} events a second each" if case.hz else processes


def notes_of(found: Found) -> list[str]:
    """The aims, as this run has them, and what errors said."""

    def count(name: str, variants: tuple[Variant, ...]) -> str:
        runs = [run.values for case, runs in found.items() if case.variant in variants for run in runs]
        return f"{sum(values[name] for values in runs):.0f}"

    said = Counter(
        f"{case.variant.name}: {error}" for case, runs in found.items() for run in runs for error in run.errors
    )
    ours, all_ = (
        [count(name, variants) for name in ("busy_errors", "flushes_failed")] for variants in ((ENGINE,), LADDER)
    )
    return [
        f"Busy errors of the engine as it is: {ours[0]} (aim: none), of all variants: {all_[0]}.",
        f"Flushes that failed and were left to the next: {ours[1]} and {all_[1]}.",
        *(f"{number} times {text}" for text, number in said.most_common(10)),
        "Appends are buffered: this is about locks, not about the disk. bytes_written counts what was given to write calls.",
    ]


def drawn(found: Found, asked: Any) -> str:
    """The chart: what each rung gives as processes are added."""

    def lines(name: str) -> list[Line]:
        def median(variant: Variant, count: int) -> float:
            return spread([run.values[name] for run in found[Case(variant, count, asked.seconds)]])["median"]

        return [Line(each.name, [(n, median(each, n)) for n in sorted(asked.processes)]) for each in LADDER]

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
