"""kill -9 of a real process that appends: all that it told of is there, also what was only buffered.

The child writes its acknowledgements into a pipe, one number a line, and is killed in the middle of its work, with one
thread or four on one rollout. The next process opens the rollout and goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recording import NAME, items, numbers, recorder

CHECKOUT = Path(__file__).resolve().parents[2]

# Appends batches of three and tells the last number of each once it is acknowledged; threads have a thousand each.
CHILD = """
import os, sys, threading
sys.path.insert(0, sys.argv[4])
from tests.recording import item, recorder, start
path, durability, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
opened = recorder(path, start=None if os.path.exists(path) else start(), durability=durability)
begin = int(sys.argv[5])

def work(worker):
    number = begin + worker * 1_000_000
    while True:
        opened.append([item(number + at, size=700) for at in range(3)])
        os.write(1, b"%d\\n" % (number + 2))
        number += 3

for worker in range(workers):
    threading.Thread(target=work, args=(worker,)).start()
"""


def killed(path: Path, durability: str, workers: int, begin: int, acknowledgements: int) -> list[int]:
    """Start the child, kill it after so many acknowledgements, and give back all that it told."""
    command = [sys.executable, "-c", CHILD, str(path), durability, str(workers), str(CHECKOUT), str(begin)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    told = b""
    while told.count(b"\n") < acknowledgements:
        more = os.read(process.stdout.fileno(), 65_536)
        assert more, process.communicate(timeout=60)[1].decode()
        told += more
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=60)
    # A line of less than PIPE_BUF bytes goes into a pipe whole.
    return [int(line) for line in (told + rest).split()]


@pytest.mark.parametrize(("durability", "workers"), [("buffered", 1), ("buffered", 4), ("durable", 1), ("durable", 4)])
def test_what_a_killed_process_told_of_is_there(tmp_path: Path, durability: str, workers: int) -> None:
    """Four kills in a row on one rollout; batches are whole or not there, each thread's in its order."""
    path = tmp_path / "sessions" / NAME
    path.parent.mkdir()
    told: list[int] = []
    for round_number, acknowledgements in enumerate((1, 7, 40, 150)):
        told += killed(path, durability, workers, round_number * 100_000, acknowledgements)
        opened = recorder(path)
        opened.append(items(-1))
        opened.close()
    found = [number for number in numbers(path) if number >= 0]
    there = set(found)
    assert len(found) == len(there)
    assert len(told) >= 198
    assert there.issuperset(told)
    for worker in range(workers):
        own = [number for number in found if number // 1_000_000 == worker]
        assert own == sorted(own)
        for last in [number for number in told if number // 1_000_000 == worker]:
            assert {last - 2, last - 1} <= there
    for round_number in range(4):
        for worker in range(workers):
            begin = worker * 1_000_000 + round_number * 100_000
            own = [number for number in found if begin <= number < begin + 100_000]
            assert own == list(range(begin, begin + len(own))), "something in between is missing"
