"""How fast is a back-fill, beside the bare skim of the same files?

Makes a home (or uses again the one in `--folder`), reads it once so that the cache is warm, and then measures in rounds:
each round runs the bare skim in one process, the back-fill in one process and with all cores, in shuffled order, each in
a process of its own with a new database. A ratio is of one round, so a machine that is busy with something else
disturbs both sides. Import and open are told apart; starting
workers is part of a back-fill with workers, and is told apart too.

    python benchmarks/backfill.py [--quick] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from _homes import ensure_home, make_large, make_many, say, workplace
from _machine import cores, machine, spread, told

MB = 1_000_000
MEASURE = Path(__file__).with_name("_measure.py")
CASES = {"skim": ("skim", 0), "one": ("backfill", 0), "all": ("backfill", cores())}


def main() -> None:
    """Measure and print."""
    asked = arguments()
    with workplace(asked.folder) as folder:
        sizes = {"files": asked.files, "bytes": asked.bytes, "large_mb": asked.large_mb, "rounds": asked.rounds}
        found: dict[str, Any] = {"machine": machine(), "asked": sizes}
        many = ensure_home(
            folder, f"many-{asked.files}-{asked.bytes}", lambda home: make_many(home, asked.files, asked.bytes)
        )
        found["many"] = measure_many(many, folder, asked.rounds)
        large = ensure_home(folder, f"large-{asked.large_mb}", lambda home: make_large(home, asked.large_mb * MB))
        found["large"] = measure_rounds(large, folder, ("skim", "one"), asked.rounds)
        found["long_line"] = measure_rounds(
            ensure_home(folder, "long-line", make_long_line), folder, ("skim", "one", "all"), asked.rounds
        )
    print(json.dumps(found, indent=2) if asked.json else table(found))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, help="rollouts in the home (10,000; quick: 500)")
    parser.add_argument("--bytes", type=int, default=50_000, help="size of each (50,000)")
    parser.add_argument("--large-mb", type=int, help="size of the one large rollout (200; quick: 20)")
    parser.add_argument("--rounds", type=int, help="paired rounds (5; quick: 3)")
    parser.add_argument("--folder", help="where homes are made and kept; else a temporary one, removed at the end")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the rates mean less")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    asked = parser.parse_args()
    asked.files = asked.files or (500 if asked.quick else 10_000)
    asked.large_mb = asked.large_mb or (20 if asked.quick else 200)
    asked.rounds = asked.rounds or (3 if asked.quick else 5)
    return asked


def make_long_line(home: Path) -> None:
    """A small rollout whose last record has fifty megabytes."""
    from engine.testing import make_rollout
    from engine.testing.damage import DAMAGES

    DAMAGES["line-of-50-mb"](home, make_rollout(home, size=20_000), Random(1))


def measure_many(home: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """The three cases in rounds, then what a rescan and a worker's start cost."""
    found = measure_rounds(home, folder, ("skim", "one", "all"), rounds)
    say("rescan, worker start …")
    again = measure("rescan", home, folder, cores())
    for name, key in (("rescan", "seconds"), ("scandir_stat", "bare_seconds")):
        found[f"{name}_us_a_file"] = spread([seconds / again["files"] * 1e6 for seconds in again[key]])
    starts = [measure("start_workers", home, folder, cores())["seconds"] for _ in range(3)]
    found["worker_start_ms"] = spread([seconds * 1000 for seconds in starts])
    return found


def measure_rounds(home: Path, folder: Path, names: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Each case once a round, in shuffled order; ratios and differences are to the skim of the same round."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        say(f"{home.name}: round {number + 1} of {rounds}")
        for name in random.sample(names, len(names)):
            case, workers = CASES[name]
            results[name].append(measure(case, home, folder, workers))
    return {name: summary(found, results["skim"]) for name, found in results.items()}


def measure(case: str, home: Path, folder: Path, workers: int) -> dict[str, Any]:
    """One process, with a database that nobody used before."""
    state = tempfile.mkdtemp(prefix="state-", dir=folder)
    try:
        command = [sys.executable, str(MEASURE), case, str(home), state, str(workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600)
    finally:
        shutil.rmtree(state)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def summary(found: list[dict[str, Any]], skims: list[dict[str, Any]]) -> dict[str, Any]:
    """A case over all rounds."""
    told_of: dict[str, Any] = {
        "files": found[0]["files"],
        "seconds": spread([each["seconds"] for each in found]),
        "files_a_second": spread([each["files"] / each["seconds"] for each in found]),
        "mb_a_second": spread([each["bytes"] / each["seconds"] / MB for each in found]),
        "peak_mb": max(each["peak_mb"] for each in found),
        "workers_peak_mb": max(each["workers_peak_mb"] for each in found),
    }
    if found is not skims:
        pairs = list(zip(found, skims, strict=True))
        told_of["speed_to_skim"] = spread([skim["seconds"] / each["seconds"] for each, skim in pairs])
        told_of["more_than_skim_seconds"] = spread([each["seconds"] - skim["seconds"] for each, skim in pairs])
        told_of["import_ms"] = spread([each["import_seconds"] * 1000 for each in found])
        told_of["open_ms"] = spread([each["open_seconds"] * 1000 for each in found])
    return told_of


def table(found: dict[str, Any]) -> str:
    """All of it for people."""
    asked, many = found["asked"], found["many"]
    starts = (
        f"  import {told(many['one']['import_ms'])} ms, open with a new database {told(many['one']['open_ms'])} ms, "
        f"{cores()} workers from nothing to their first answer {told(many['worker_start_ms'])} ms"
    )
    rescans = (
        f"  rescan of unchanged files {told(many['rescan_us_a_file'], 1)} µs a file; "
        f"scandir and stat alone {told(many['scandir_stat_us_a_file'], 1)} µs"
    )
    lines = [
        ", ".join(f"{key} {value}" for key, value in found["machine"].items()),
        f"median [min–max] of {asked['rounds']} paired rounds; warm cache",
        *_rows(f"{many['skim']['files']:,} rollouts of {asked['bytes']:,} bytes", many),
        starts,
        rescans,
        *_rows(f"one rollout of {asked['large_mb']} MB", found["large"]),
        *_rows("one rollout with a line of 50 MB", found["long_line"]),
    ]
    return "\n".join(lines)


def _rows(title: str, cases: dict[str, Any]) -> list[str]:
    names = {"skim": "bare skim, 1 process", "one": "back-fill, 1 process", "all": f"back-fill, {cores()} workers"}
    heads = ("files/s", "MB/s", "speed to skim", "more than skim, s", "peak MB", "workers MB")
    lines = ["", title, f"  {'':24}" + "".join(f"{head:>26}" for head in heads[:4]) + f"{heads[4]:>9}{heads[5]:>12}"]
    for key, name in names.items():
        if (case := cases.get(key)) is None:
            continue
        cells = [told(case["files_a_second"], 0 if case["files"] > 1 else 2), told(case["mb_a_second"])]
        bare = key == "skim"
        cells += ["1", ""] if bare else [told(case["speed_to_skim"], 2), told(case["more_than_skim_seconds"], 2)]
        workers = f"{case['workers_peak_mb']:12.0f}" if key == "all" else ""
        lines.append(f"  {name:24}" + "".join(f"{cell:>26}" for cell in cells) + f"{case['peak_mb']:9.0f}{workers}")
    return lines


if __name__ == "__main__":
    main()
