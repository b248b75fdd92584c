"""kill -9 of processes that log, and of one that fills, at any moment: what was flushed is there, once, in its order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.clock import SystemClock
from engine.options import Options
from tests.log_home import bodies, opened

CHECKOUT = Path(__file__).resolve().parents[2]

LOGGING = """
import sys, time
from engine.logs import Handler
from engine.options import Options

handler = Handler(sys.argv[1], options=Options(log_interval_ms=1, log_segment_bytes_max=4_000, log_close_wait_ms=60_000))
for index in range(900):
    handler.write(f"{sys.argv[2]} {index}", target="app")
    if index % 5 == 4:
        handler.flush()
        print(index, flush=True)
time.sleep(600)
"""

FILLING = """
import sys
from engine.logs import open_logs
from engine.options import Options

with open_logs(sys.argv[1], options=Options(log_fill_records=3, log_fill_budget_ms=60_000)) as logs:
    print("at work", flush=True)
    while True:
        logs.fill()
        print(logs.status().records, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)


def killed(process: subprocess.Popen[str]) -> list[str]:
    """What it had told when it was killed."""
    process.kill()
    return process.communicate()[0].split("\n")[:-1]


def run(home: Path, generations: int) -> None:
    flushed = {}
    chance = SystemClock()
    for number in range(generations):
        logging, filling = start(LOGGING, home, number), start(FILLING, home)
        assert logging.stdout is not None
        assert filling.stdout is not None
        assert filling.stdout.readline() == "at work\n"
        for _ in range(1 + int(60 * chance.fraction())):
            last = int(logging.stdout.readline())
        first, second = (logging, filling) if number % 2 else (filling, logging)
        told = {each: killed(each) for each in (first, second)}
        flushed[number] = int(told[logging][-1]) if told[logging] else last
    with opened(home, options=Options(log_fill_budget_ms=60_000)) as e:
        found = bodies(e)
        status = e.logs.status()
    for number, last in flushed.items():
        said = [int(body.split()[1]) for body in found if body.startswith(f"{number} ")]
        assert said == list(range(len(said)))
        assert len(said) > last
    assert status.records == len(found)
    assert status.damaged <= generations


def test_killed_at_any_moment(tmp_path: Path) -> None:
    run(tmp_path, 3)


@pytest.mark.soak
def test_killed_again_and_again_at_any_moment(tmp_path: Path) -> None:
    run(tmp_path, 40)
