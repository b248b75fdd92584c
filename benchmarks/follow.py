"""How long after an append does a follower in another process have the record?

The writer stamps each record with the system's monotonic clock, which all processes of one boot share, and appends at a
pace that an agent has; the follower takes the time when it is given the record. Each case is a home of a number of
threads (of which a few are written to, in turn), woken by events or by polling. Beside it, in the same round, what
nothing can be faster than: a process that stats the one file that is written to in a loop without a pause, and reads
what is new.

    python benchmarks/follow.py [--quick] [--folder F] [--threads 10,1000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from _homes import say
from _machine import Spread, spread
from _report import Report, Row, arguments, numbers, publish

PACE_S = 0.05
WRITTEN_TO = 4


class Case(NamedTuple):
    """What one measurement is of."""

    threads: int
    waking: str


def main() -> None:
    """Measure and print; with `--child`, be one follower."""
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    asked = arguments(
        __doc__,
        appends={"type": int, "help": "how many each measurement takes (30; quick: 10)"},
        threads={"type": numbers, "help": "how many threads the home has (10,1000; quick: 10)"},
    )
    asked.appends = asked.appends or (10 if asked.quick else 30)
    asked.threads = asked.threads or ((10,) if asked.quick else (10, 1000))
    folder = Path(tempfile.mkdtemp(prefix="rolloutdb-follow-", dir=asked.folder))
    try:
        rows = measure(folder, asked)
    finally:
        shutil.rmtree(folder)
    shown = {"rounds": asked.rounds, "appends": asked.appends, "threads": asked.threads, "pace_s": PACE_S}
    notes = [
        "`bare` looks at one file without a pause, at the price of a core: its delay is shown, and no ratio to it."
    ]
    publish(Report(benchmark="follow", mode=asked.mode, asked=shown, rows=rows, notes=notes), asked)


def measure(folder: Path, asked: argparse.Namespace) -> list[Row]:
    """All cases, in rounds."""
    from engine.testing.homes import HomePlan, make_home

    cases = [] if asked.quick else [Case(asked.threads[0], "bare")]
    cases += [Case(threads, waking) for threads in asked.threads for waking in ("events", "polling")]
    results: dict[Case, list[dict[str, float]]] = {}
    for threads in asked.threads:
        make_home(folder / str(threads), HomePlan(threads=threads, bytes_max=4_000))
    for number in range(asked.rounds):
        say(f"follow: round {number + 1} of {asked.rounds}")
        for case in random.sample(cases, len(cases)):
            results.setdefault(case, []).append(run(folder / str(case.threads), case, asked.appends))
    return [
        Row(
            group=f"{case.threads:,} threads",
            case=case.waking,
            values={key: spread([each[key] for each in runs]) for key in runs[0]},
            ratios={} if case.waking != "events" else {"speed_to_polling": _speeds(results, case)},
        )
        for case, runs in ((case, results[case]) for case in cases)
    ]


def _speeds(results: dict[Case, list[dict[str, float]]], case: Case) -> Spread:
    """Of the medians of one round: how much sooner than by looking."""
    both = zip(results[case], results[Case(case.threads, "polling")], strict=True)
    return spread([polling["p50_ms"] / events["p50_ms"] for events, polling in both])


def run(home: Path, case: Case, appends: int) -> dict[str, float]:
    """One measurement: the follower is ready, records are appended at their pace, the follower tells."""
    import engine

    with engine.open(str(home)) as opened:
        threads = [opened.threads.create(cwd="/") for _ in range(1 if case.waking == "bare" else WRITTEN_TO)]
        for thread in threads:
            thread.append([{"type": "x", "payload": {}}])
        path = next(home.rglob(f"sessions/**/*{threads[0].id}.jsonl"))
        command = [
            sys.executable,
            __file__,
            "--child",
            str(path if case.waking == "bare" else home),
            case.waking,
            str(appends),
        ]
        follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert follower.stdout is not None
            assert follower.stdout.readline() == "ready\n", "the follower did not start"
            time.sleep(0.5)
            for number in range(appends):
                at = {"type": "stamp", "payload": {"at_ns": time.monotonic_ns()}}
                threads[number % len(threads)].append([at], durability="buffered")
                time.sleep(PACE_S * (0.5 + random.random()))
            delays = sorted(json.loads(follower.communicate(timeout=120)[0]))
        finally:
            follower.kill()
            follower.wait()
    return {
        "p50_ms": delays[len(delays) // 2],
        "p95_ms": delays[len(delays) * 95 // 100],
        "worst_ms": delays[-1],
    }


def child(place: str, waking: str, appends: str) -> None:
    """One follower: `ready`, take so many stamped records, tell each one's delay."""
    delays: list[float] = []
    stamps = bare(place) if waking == "bare" else followed(place, waking)
    print("ready", flush=True)
    for at_ns in stamps:
        delays.append((time.monotonic_ns() - at_ns) / 1e6)
        if len(delays) == int(appends):
            break
    print(json.dumps(delays))


def followed(home: str, waking: str) -> Any:
    """The stamps as a follower has them."""
    if waking == "polling":
        sys.modules["watchfiles"] = None  # type: ignore[assignment]
    import engine

    follower = engine.open(home).follow()
    for _ in range(3):
        assert follower.poll() is None  # it is at work before the first append: starting is not what is asked about
    return (each.record.payload["at_ns"] for each in follower if each.record.kind == "stamp")


def bare(path: str) -> Any:
    """The stamps as somebody has them who does nothing but look at one file."""
    fd = os.open(path, os.O_RDONLY)
    at = os.fstat(fd).st_size

    def stamps() -> Any:
        nonlocal at
        while True:
            size = os.stat(path).st_size
            if size > at:
                data = os.pread(fd, size - at, at)
                data = data[: data.rfind(b"\n") + 1]  # a large write becomes visible piece by piece
                at += len(data)
                yield from (json.loads(line)["payload"]["at_ns"] for line in data.splitlines())

    return stamps()


if __name__ == "__main__":
    main()
