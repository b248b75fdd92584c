"""How fast is an audit, beside the bare skim and the bare decode of the same files?

Each round runs the bare skim, the bare decode of every line, the audit and the deep audit, in shuffled order, each in a
process of its own; the rows were brought up to date before, which is not in the time. A ratio is of one round. At the
end one large rollout is audited both ways, for the memory that it takes.

    python benchmarks/audit.py [--quick] [--folder F] [--json]
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
from typing import Any

from _homes import MB, ensure_home, make_large, make_many, say, workplace
from _machine import machine, spread, told

MEASURE = Path(__file__).with_name("_measure.py")
CASES = {"skim": "bare skim", "audit": "audit", "decode": "bare decode", "deep": "audit --deep"}
FLOORS = {"audit": "skim", "deep": "decode"}


def main() -> None:
    """Measure and print."""
    asked = arguments()
    with workplace(asked.folder) as folder:
        many = ensure_home(folder, f"many-{asked.files}-50000", lambda home: make_many(home, asked.files, 50_000))
        large = ensure_home(folder, f"large-{asked.large_mb}", lambda home: make_large(home, asked.large_mb * MB))
        found = {
            "machine": machine(),
            "asked": {"files": asked.files, "large_mb": asked.large_mb, "rounds": asked.rounds},
            "many": rounds_of(many, folder, asked.rounds),
            "large": rounds_of(large, folder, 1),
        }
    print(json.dumps(found, indent=2) if asked.json else table(found))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, help="rollouts of 50 kB (4,000; quick: 400)")
    parser.add_argument("--large-mb", type=int, help="size of the one large rollout (2,000; quick: 100)")
    parser.add_argument("--rounds", type=int, help="paired rounds (5; quick: 3)")
    parser.add_argument("--folder", help="where homes are made and kept; else a temporary one, removed at the end")
    parser.add_argument("--quick", action="store_true", help="less of everything; the rates mean less")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    asked = parser.parse_args()
    asked.files = asked.files or (400 if asked.quick else 4_000)
    asked.large_mb = asked.large_mb or (100 if asked.quick else 2_000)
    asked.rounds = asked.rounds or (3 if asked.quick else 5)
    return asked


def rounds_of(home: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Every case once a round, in shuffled order; a ratio is to the floor of the same round."""
    results: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    for number in range(rounds):
        say(f"{home.name}: round {number + 1} of {rounds}")
        for case in random.sample(list(CASES), len(CASES)):
            results[case].append(measure(case, home, folder))
    return {case: summary(case, results) for case in CASES}


def measure(case: str, home: Path, folder: Path) -> dict[str, Any]:
    """One process, with a database of its own."""
    state = tempfile.mkdtemp(prefix="state-", dir=folder)
    try:
        command = [sys.executable, str(MEASURE), case, str(home), state, "0"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=1_200)
    finally:
        shutil.rmtree(state)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def summary(case: str, results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A case over all rounds."""
    found = results[case]
    told_of: dict[str, Any] = {
        "files": found[0]["files"],
        "mb_a_second": spread([each["bytes"] / each["seconds"] / MB for each in found]),
        "peak_mb": max(each["peak_mb"] for each in found),
    }
    if case in FLOORS:
        pairs = zip(found, results[FLOORS[case]], strict=True)
        told_of["speed_to_floor"] = spread([floor["seconds"] / each["seconds"] for each, floor in pairs])
    return told_of


def table(found: dict[str, Any]) -> str:
    """All of it for people."""
    asked = found["asked"]
    titles = {"many": f"{asked['files']:,} rollouts of 50 kB", "large": f"one rollout of {asked['large_mb']:,} MB"}
    lines = [
        ", ".join(f"{key} {value}" for key, value in found["machine"].items()),
        f"median [min–max] of {asked['rounds']} paired rounds (the large rollout: one); warm cache",
    ]
    for key, title in titles.items():
        lines += ["", title, f"  {'':16}{'MB/s':>26}{'speed to its floor':>26}{'peak MB':>9}"]
        for case, name in CASES.items():
            of = found[key][case]
            ratio = told(of["speed_to_floor"], 2) if "speed_to_floor" in of else "1"
            lines.append(f"  {name:16}{told(of['mb_a_second']):>26}{ratio:>26}{of['peak_mb']:9.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
