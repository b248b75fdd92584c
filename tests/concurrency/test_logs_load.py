"""Many processes that log beside one that fills and a reader that sleeps: sizes stay under their bounds, nothing goes silently.

The load is that of `benchmarks/logs.py`, which measures it; what must hold whatever the machine does is asserted here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.options import Options

CHECKOUT = Path(__file__).resolve().parents[2]
OPTIONS = Options()
PROCESSES = 8
MB = 1_000_000


def load(records: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "benchmarks/logs.py", "--load", "--json", "--records", str(records)],
        capture_output=True,
        check=False,
        cwd=CHECKOUT,
        env={"PYTHONPATH": str(CHECKOUT)},
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    return {name: spread["median"] for name, spread in row["values"].items()}


def check(found: dict[str, float], records: int) -> None:
    assert found["accepted"] + found["dropped"] == records
    assert found["written"] == found["accepted"]
    assert found["dropped_and_told"] == found["dropped"]
    # One record made the table; each process may have told several times of what it dropped.
    assert found["records_followed"] >= found["written"] + 1
    assert found["dropped"] or found["records_followed"] == found["written"] + 1
    assert found["lag_bytes"] == 0
    assert found["segments_to_payload"] <= 1.6
    assert found["wal_mb_while_asleep"] * MB <= OPTIONS.wal_bytes_max
    assert found["segments_mb"] * MB <= OPTIONS.log_store_bytes_max + PROCESSES * OPTIONS.log_segment_bytes_max
    assert found["rows"] <= PROCESSES * 11 * OPTIONS.log_partition_rows_max + 1


def test_eight_processes_and_a_reader_that_sleeps() -> None:
    check(load(24_000), 24_000)


@pytest.mark.soak
def test_a_million_records_from_eight_processes_and_a_reader_that_sleeps() -> None:
    found = load(1_000_000)
    check(found, 1_000_000)
    assert found["paused"], (
        "the bound was not met"
    )  # so the filling stopped there, and went on after the reader was gone
    assert found["written_to_passing"] <= 6
    assert found["written_to_the_medium_to_passing"] <= 6
