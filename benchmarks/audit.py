"""How fast is an audit, beside the bare skim and the bare decode of the same files?

Each round runs the bare skim, the bare decode of every line, the audit and the deep audit, in shuffled order, each in a
process of its own; the rows were brought up to date before, which is not in the time. A ratio is of one round. At the
end one large rollout is audited both ways, for the memory that it takes.

    python benchmarks/audit.py [--quick] [--folder F] [--json]
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from _homes import MB, ensure_home, make_large, make_many, say, workplace
from _machine import spread
from _pool import measure
from _report import Report, Row, arguments, publish

CASES = {"skim": "bare skim", "audit": "audit", "decode": "bare decode", "deep": "audit --deep"}
FLOORS = {"audit": "skim", "deep": "decode"}


def main() -> None:
    """Measure and print."""
    asked = arguments(
        __doc__,
        files={"type": int, "help": "rollouts of 50 kB (400; quick: 20)"},
        large_mb={"type": int, "help": "size of the one large rollout (100; quick: 4)"},
    )
    asked.files = asked.files or (20 if asked.quick else 400)
    asked.large_mb = asked.large_mb or (4 if asked.quick else 100)
    with workplace(asked.folder) as folder:
        many = ensure_home(folder, f"many-{asked.files}-50000", lambda home: make_many(home, asked.files, 50_000))
        large = ensure_home(folder, f"large-{asked.large_mb}", lambda home: make_large(home, asked.large_mb * MB))
        rows = [
            *rounds_of(many, folder, asked.rounds, f"{asked.files:,} rollouts of 50 kB"),
            *rounds_of(large, folder, asked.rounds, f"one rollout of {asked.large_mb:,} MB"),
        ]
    shown = {"rounds": asked.rounds, "files": asked.files, "large_mb": asked.large_mb}
    publish(Report(benchmark="audit", mode=asked.mode, asked=shown, rows=rows, notes=["The cache is warm."]), asked)


def rounds_of(home: Path, folder: Path, rounds: int, group: str) -> list[Row]:
    """Every case once a round, in shuffled order; a ratio is to the floor of the same round."""
    results: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    for number in range(rounds):
        say(f"{home.name}: round {number + 1} of {rounds}")
        for case in random.sample(list(CASES), len(CASES)):
            results[case].append(measure(case, home, folder))
    return [row_of(case, results, group) for case in CASES]


def row_of(case: str, results: dict[str, list[dict[str, Any]]], group: str) -> Row:
    """A case over all rounds."""
    found = results[case]
    values = {
        "mb_a_second": spread([each["bytes"] / each["seconds"] / MB for each in found]),
        "peak_mb": spread([each["peak_mb"] for each in found]),
    }
    ratios = {}
    if case in FLOORS:
        pairs = zip(found, results[FLOORS[case]], strict=True)
        ratios["speed_to_its_floor"] = spread([floor["seconds"] / each["seconds"] for each, floor in pairs])
    return Row(group=group, case=CASES[case], values=values, ratios=ratios)


if __name__ == "__main__":
    main()
