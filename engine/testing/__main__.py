"""`python -m engine.testing FOLDER`: make a home to try things on.

Writes to a folder that is empty or not there yet, says what it made, and changes nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys

from engine.testing.homes import HomePlan, make_home


def main() -> int:
    """Make the home that the arguments ask for; the exit code is 2 where the folder holds something."""
    usual = HomePlan()
    parser = argparse.ArgumentParser(prog="python -m engine.testing", description="Make a home of made-up threads.")
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=usual.threads)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--bytes-min", type=int, default=usual.bytes_min, help="the smallest rollout")
    parser.add_argument("--bytes-max", type=int, default=usual.bytes_max, help="the largest rollout")
    parser.add_argument("--compressed", type=float, default=usual.compressed, help="share of compressed rollouts")
    asked = parser.parse_args()
    if os.path.isdir(asked.folder) and os.listdir(asked.folder):
        sys.stderr.write(f"{asked.folder} is not empty: name a new folder\n")
        return 2
    plan = HomePlan(
        threads=asked.threads,
        seed=asked.seed,
        bytes_min=asked.bytes_min,
        bytes_max=asked.bytes_max,
        compressed=asked.compressed,
    )
    made = make_home(asked.folder, plan)
    records, size = sum(thread.records for thread in made), sum(thread.bytes for thread in made)
    sys.stdout.write(f"{len(made)} threads, {records:,} records, {size:,} bytes in {asked.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
