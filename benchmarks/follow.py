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

from _machine import machine, spread, told

PACE_S = 0.05
WRITTEN_TO = 4


class Case(NamedTuple):
    """What one measurement is of."""

    threads: int
    waking: str


def main() -> None:
    """Measure and print; with `--child`, be one follower."""
    asked = arguments()
    if asked.child:
        child(*asked.child)
        return
    folder = Path(tempfile.mkdtemp(prefix="rolloutdb-follow-", dir=asked.folder))
    try:
        found = measure(folder, asked)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found, indent=2) if asked.json else table(found))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--appends", type=int, help="how many each measurement takes (200; quick: 40)")
    parser.add_argument("--rounds", type=int, help="rounds (5; quick: 2)")
    parser.add_argument("--threads", type=numbers, help="how many threads the home has (10,1000,10000; quick: 10,1000)")
    parser.add_argument("--folder", help="where the files are written; else the system's temporary folder")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.appends = asked.appends or (40 if asked.quick else 200)
    asked.rounds = asked.rounds or (2 if asked.quick else 5)
    asked.threads = asked.threads or ((10, 1000) if asked.quick else (10, 1000, 10_000))
    return asked


def numbers(text: str) -> tuple[int, ...]:
    """`10,1000`."""
    return tuple(map(int, text.split(",")))


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All cases, in rounds."""
    from engine.testing.homes import HomePlan, make_home

    cases = [Case(threads, waking) for threads in asked.threads for waking in ("bare", "events", "polling")]
    results: dict[Case, list[dict[str, float]]] = {}
    for threads in asked.threads:
        make_home(folder / str(threads), HomePlan(threads=threads, bytes_max=4_000))
    for number in range(asked.rounds):
        say(f"round {number + 1} of {asked.rounds}")
        for case in random.sample(cases, len(cases)):
            results.setdefault(case, []).append(run(folder / str(case.threads), case, asked.appends))
    return {
        "machine": machine(),
        "asked": {"appends": asked.appends, "rounds": asked.rounds, "pace_s": PACE_S},
        "cases": [
            case._asdict() | {key: spread([each[key] for each in results[case]]) for key in results[case][0]}
            for case in cases
        ],
    }


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


def table(found: dict[str, Any]) -> str:
    """All of it for people."""
    asked = found["asked"]
    lines = [
        ", ".join(f"{key} {value}" for key, value in found["machine"].items()),
        f"median [min–max] of {asked['rounds']} rounds of {asked['appends']} appends, one each {asked['pace_s'] * 1000:.0f} ms",
        "",
        f"{'threads':>8}  {'woken by':10}{'p50 ms':>22}{'p95 ms':>22}{'worst ms':>22}",
    ]
    for case in found["cases"]:
        cells = (told(case[key], 1) for key in ("p50_ms", "p95_ms", "worst_ms"))
        lines.append(f"{case['threads']:>8}  {case['waking']:10}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def say(what: str) -> None:
    """Progress goes to stderr."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
