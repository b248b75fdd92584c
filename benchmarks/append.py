"""How fast is an append, beside the bare write to the same disk?

Each writer is a process with a thread (a rollout) of its own. In rounds, each case runs beside its bare counterpart, in
shuffled order and for the same time: `os.write` of lines of the same length, alone (for `buffered` and `turn`) or with
`fdatasync` after each batch (for `durable`); the disk drifts by 40 % within minutes, so a ratio is of one round. A case
is a number of writers, a batch, a durability. All writers begin together. A `turn` ends, and is synced, after every
50th append.

    python benchmarks/append.py [--quick] [--folder F] [--writers 1,8] [--json]
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

WRITERS = (1, 2, 4, 8)
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


def main() -> None:
    """Measure and print; with `--child`, be one writer."""
    asked = arguments()
    if asked.child:
        child(*asked.child)
        return
    folder = Path(tempfile.mkdtemp(prefix="rolloutdb-append-", dir=asked.folder))
    try:
        found = measure(folder, asked)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found, indent=2) if asked.json else table(found))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="how long each measurement takes (1; quick: 0.3)")
    parser.add_argument("--rounds", type=int, help="paired rounds (7; quick: 3)")
    parser.add_argument("--writers", type=numbers, help="how many processes (1,2,4,8; quick: 1,8)")
    parser.add_argument("--folder", help="where the files are written; else the system's temporary folder")
    parser.add_argument("--quick", action="store_true", help="less of everything; the rates mean less")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.seconds = asked.seconds or (0.3 if asked.quick else 1.0)
    asked.rounds = asked.rounds or (3 if asked.quick else 7)
    asked.writers = asked.writers or ((1, 8) if asked.quick else WRITERS)
    return asked


def numbers(text: str) -> tuple[int, ...]:
    """`1,8`."""
    return tuple(map(int, text.split(",")))


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All cases, in rounds."""
    pairs = [(writers, batch, kind) for writers in asked.writers for batch in BATCHES for kind in DURABILITIES]
    results: dict[Case, list[dict[str, Any]]] = {}
    for number in range(asked.rounds):
        say(f"round {number + 1} of {asked.rounds}")
        for writers, batch, kind in random.sample(pairs, len(pairs)):
            for bare in random.sample((False, True), 2):
                case = Case(writers, batch, kind, bare)
                results.setdefault(case, []).append(run(folder, case, asked.seconds))
    return {
        "machine": machine(),
        "asked": {"seconds": asked.seconds, "rounds": asked.rounds},
        "cases": [summary(pair, results) for pair in pairs],
    }


def run(folder: Path, case: Case, seconds: float) -> dict[str, Any]:
    """One measurement: the writers are started, wait for each other, write, and tell."""
    place = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, __file__, "--child"]
    how = [str(case.batch), case.durability, "bare" if case.bare else "engine", str(seconds)]
    children = [
        subprocess.Popen([*command, str(place / f"writer-{number}"), *how], stdin=-1, stdout=-1)
        for number in range(case.writers)
    ]
    try:
        for each in children:
            assert each.stdout is not None
            assert each.stdout.readline() == b"ready\n", "a writer did not start"
        for each in children:
            assert each.stdin is not None
            each.stdin.write(b"go\n")
            each.stdin.flush()
        told_by = [json.loads(each.communicate(timeout=120)[0]) for each in children]
    finally:
        for each in children:
            if each.poll() is None:
                each.kill()
                each.wait()
        shutil.rmtree(place)
    waits = sorted(wait for each in told_by for wait in each["waits_us"])
    return {
        "records_a_second": sum(each["appends"] * case.batch / each["seconds"] for each in told_by),
        "p50_us": waits[len(waits) // 2],
        "p99_us": waits[len(waits) * 99 // 100],
        "worst_us": waits[-1],
    }


def summary(pair: tuple[int, int, str], results: dict[Case, list[dict[str, Any]]]) -> dict[str, Any]:
    """A case and its bare counterpart over all rounds; ratios and differences are of one round."""
    ours, bare = results[Case(*pair, bare=False)], results[Case(*pair, bare=True)]
    both = list(zip(ours, bare, strict=True))
    found: dict[str, Any] = {"writers": pair[0], "batch": pair[1], "durability": pair[2]}
    for key in ("records_a_second", "p50_us", "p99_us", "worst_us"):
        found[key] = spread([each[key] for each in ours])
        found[f"bare_{key}"] = spread([each[key] for each in bare])
    found["ratio"] = spread([one["records_a_second"] / other["records_a_second"] for one, other in both])
    found["worse_us"] = spread([one["worst_us"] - other["worst_us"] for one, other in both])
    return found


def child(place: str, batch: str, durability: str, kind: str, seconds: str) -> None:
    """One writer: `ready`, wait for `go`, append for so long, tell."""
    os.makedirs(place)
    append, close = (bare_writer if kind == "bare" else engine_writer)(place, int(batch), durability)
    for _ in range(20):
        append()
    print("ready", flush=True)
    sys.stdin.readline()
    waits: list[int] = []
    begun = at = time.perf_counter_ns()
    end = begun + int(float(seconds) * 1e9)
    while at < end:
        append()
        now = time.perf_counter_ns()
        waits.append(now - at)
        at = now
    close()
    waits.sort()
    told_waits = waits if len(waits) < 20_000 else [*waits[:: len(waits) // 10_000], *waits[-200:]]
    answer = {"appends": len(waits), "seconds": (at - begun) / 1e9, "waits_us": [wait / 1e3 for wait in told_waits]}
    print(json.dumps(answer))


def engine_writer(place: str, batch: int, durability: str) -> tuple[Any, Any]:
    """A thread of an open home, as an application has it: its items are checked, encoded, written, and noted for the rows."""
    import engine

    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": FILLER}]}
    items = [{"type": "response_item", "payload": message}] * batch
    opened = engine.open(place)
    appended = [0]

    def begin() -> Any:
        return opened.threads.create(cwd=place, source="exec", durability=durability)  # type: ignore[arg-type]

    threads = [begin()]

    def append() -> None:
        appended[0] += 1
        ends_turn = durability == "turn" and appended[0] % APPENDS_A_TURN == 0
        answer = threads[0].append(items, durability="durable" if ends_turn else None)
        if answer.position.offset > KEPT_BYTES:
            threads[0].close()
            threads[0] = begin()

    return append, opened.close


def bare_writer(place: str, batch: int, durability: str) -> tuple[Any, Any]:
    """The same bytes by `os.write`, and `os.fdatasync` where the engine would sync."""
    head = '{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":12345,"type":"response_item","payload":'
    message = f'{{"type":"message","role":"assistant","content":[{{"type":"output_text","text":"{FILLER}"}}]}}'
    line = f"{head}{message}}}\n".encode()
    data = line * batch
    state = [0, 0, -1, 0]
    sync = getattr(os, "fdatasync", os.fsync)

    def begin() -> None:
        state[0] += 1
        state[2] = os.open(f"{place}/{state[0]}.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        state[3] = 0

    def append() -> None:
        state[1] += 1
        os.write(state[2], data)
        state[3] += len(data)
        if durability == "durable" or (durability == "turn" and state[1] % APPENDS_A_TURN == 0):
            sync(state[2])
        if state[3] > KEPT_BYTES:
            os.close(state[2])
            begin()

    def close() -> None:
        os.close(state[2])

    begin()
    return append, close


def table(found: dict[str, Any]) -> str:
    """All of it for people."""
    asked = found["asked"]
    heads = ("records/s", "bare", "ratio", "p50 µs", "p99 µs", "worst ms", "worse than bare, ms")
    widths = (32, 32, 18, 9, 9, 10, 24)
    lines = [
        ", ".join(f"{key} {value}" for key, value in found["machine"].items()),
        f"median [min–max] of {asked['rounds']} paired rounds of {asked['seconds']} s; lines of some 240 bytes",
        "",
        f"{'writers':>8}{'batch':>6}  {'durability':10}"
        + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)),
    ]
    for case in found["cases"]:
        worse = {key: value / 1000 for key, value in case["worse_us"].items()}
        cells = (
            told(case["records_a_second"]),
            told(case["bare_records_a_second"]),
            told(case["ratio"], 2),
            f"{case['p50_us']['median']:,.0f}",
            f"{case['p99_us']['median']:,.0f}",
            f"{case['worst_us']['max'] / 1000:,.1f}",
            told(worse, 1),
        )
        lines.append(
            f"{case['writers']:>8}{case['batch']:>6}  {case['durability']:10}"
            + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        )
    return "\n".join(lines)


def say(what: str) -> None:
    """Progress goes to stderr."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
