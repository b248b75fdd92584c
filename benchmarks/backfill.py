"""How fast is a back-fill, beside the bare skim of the same files?

A back-fill writes the rows of threads first, then the indexes of turns and words; each is told against the same skim.
Makes a home (or uses again the one in `--folder`), reads it once so that the cache is warm, and then measures in rounds:
each round runs the bare skim in one process, the back-fill in one process and with all cores, in shuffled order, each in
a process of its own with a new database. A ratio is of one round, so a machine that is busy with something else
disturbs both sides. Import and open are told apart; starting
workers is part of a back-fill with workers, and is told apart too.

    python benchmarks/backfill.py [--quick] [--folder F] [--json]
"""

from __future__ import annotations

import random
from pathlib import Path
from random import Random
from typing import Any

from _homes import MB, ensure_home, make_large, make_many, say, workplace
from _machine import cores, spread
from _pool import measure
from _report import Report, Row, arguments, publish

CASES = {"skim": ("skim", 0), "one": ("backfill", 0), "all": ("backfill", cores())}


def main() -> None:
    """Measure and print."""
    asked = arguments(
        __doc__,
        files={"type": int, "help": "rollouts in the home (4,000; quick: 200)"},
        bytes={"type": int, "default": 50_000, "help": "size of each (50,000)"},
        large_mb={"type": int, "help": "size of the one large rollout (200; quick: 5)"},
    )
    asked.files = asked.files or (200 if asked.quick else 4_000)
    asked.large_mb = asked.large_mb or (5 if asked.quick else 200)
    with workplace(asked.folder) as folder:
        many = ensure_home(
            folder, f"many-{asked.files}-{asked.bytes}", lambda home: make_many(home, asked.files, asked.bytes)
        )
        rows = measure_many(many, folder, asked.rounds, f"{asked.files:,} rollouts of {asked.bytes:,} bytes")
        large = ensure_home(folder, f"large-{asked.large_mb}", lambda home: make_large(home, asked.large_mb * MB))
        rows += measure_rounds(large, folder, ("skim", "one"), asked.rounds, f"one rollout of {asked.large_mb} MB")
        if not asked.quick:
            long_line = ensure_home(folder, "long-line", make_long_line)
            title = "one rollout with a line of 50 MB"
            rows += measure_rounds(long_line, folder, ("skim", "one", "all"), asked.rounds, title)
    shown = {"rounds": asked.rounds, "files": asked.files, "bytes": asked.bytes, "large_mb": asked.large_mb}
    publish(Report(benchmark="backfill", mode=asked.mode, asked=shown, rows=rows, notes=["The cache is warm."]), asked)


def make_long_line(home: Path) -> None:
    """A small rollout whose last record has fifty megabytes."""
    from engine.testing import make_rollout
    from engine.testing.damage import DAMAGES

    DAMAGES["line-of-50-mb"](home, make_rollout(home, size=20_000), Random(1))


def measure_many(home: Path, folder: Path, rounds: int, group: str) -> list[Row]:
    """The three cases in rounds, then what a rescan and a worker's start cost."""
    rows = measure_rounds(home, folder, ("skim", "one", "all"), rounds, group)
    say("rescan, worker start …")
    again = measure("rescan", home, folder, cores())
    starts = [measure("start_workers", home, folder, cores())["seconds"] for _ in range(rounds)]
    pairs = zip(again["seconds"], again["bare_seconds"], strict=True)
    return [
        *rows,
        Row(
            group="what a second look and workers cost",
            case="rescan of unchanged files",
            values={
                "us_a_file": spread([seconds / again["files"] * 1e6 for seconds in again["seconds"]]),
                "bare_us_a_file": spread([seconds / again["files"] * 1e6 for seconds in again["bare_seconds"]]),
            },
            ratios={"speed_to_scandir_and_stat": spread([bare / ours for ours, bare in pairs])},
        ),
        Row(
            group="what a second look and workers cost",
            case=f"{cores()} workers from nothing to their first answer",
            values={"ms": spread([seconds * 1000 for seconds in starts])},
        ),
    ]


def measure_rounds(home: Path, folder: Path, names: tuple[str, ...], rounds: int, group: str) -> list[Row]:
    """Each case once a round, in shuffled order; ratios and differences are to the skim of the same round."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        say(f"{home.name}: round {number + 1} of {rounds}")
        for name in random.sample(names, len(names)):
            case, workers = CASES[name]
            results[name].append(measure(case, home, folder, workers))
    return [row_of(name, found, results["skim"], group) for name, found in results.items()]


def row_of(name: str, found: list[dict[str, Any]], skims: list[dict[str, Any]], group: str) -> Row:
    """A case over all rounds."""
    values = {
        "files_a_second": spread([each["files"] / each["seconds"] for each in found]),
        "mb_a_second": spread([each["bytes"] / each["seconds"] / MB for each in found]),
        "peak_mb": spread([each["peak_mb"] for each in found]),
    }
    ratios = {}
    if found is not skims:
        pairs = list(zip(found, skims, strict=True))
        ratios["speed_to_skim"] = spread([skim["seconds"] / each["seconds"] for each, skim in pairs])
        ratios["threads_speed_to_skim"] = spread([skim["seconds"] / each["threads_seconds"] for each, skim in pairs])
        values["more_than_skim_s"] = spread([each["seconds"] - skim["seconds"] for each, skim in pairs])
        values["import_ms"] = spread([each["import_seconds"] * 1000 for each in found])
        values["open_ms"] = spread([each["open_seconds"] * 1000 for each in found])
    if name == "all":
        values["worker_peak_mb"] = spread([each["workers_peak_mb"] for each in found])
    names = {"skim": "bare skim, 1 process", "one": "back-fill, 1 process", "all": f"back-fill, {cores()} workers"}
    return Row(group=group, case=names[name], values=values, ratios=ratios)


if __name__ == "__main__":
    main()
