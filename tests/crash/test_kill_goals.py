"""kill -9 of a process that counts what a goal uses: what it was told to be counted is counted, once, and sums up.

The child tells each count when the engine has answered it, and dies by itself before one of its changing file calls, so that
every step of a count is met. At most the one count under way is there without having been told.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine.options import Options
from tests.writing import faults, records

CHECKOUT = Path(__file__).resolve().parents[2]

COUNTING = """
import json, os, signal, sys
import engine
from engine.options import Options
from engine.stores.files import Files
from engine.testing.files import FaultyFiles

home, at, is_open = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "open"
changes = set("write link remove rename sync sync_folder truncate pwrite replace_small ensure_folder create".split())
count = [0]

def strike(_, call):
    if call.name in changes and not call.op.startswith("sqlite."):
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1
    return None

def tell(**what):
    os.write(1, json.dumps(what).encode() + b"\\n")

with engine.open(home, files=FaultyFiles(Files(), strike), options=Options(background_scan_s=0, flush_delay_ms=1)) as e:
    thread = e.threads.create(cwd="/srv")
    thread.begin()
    tell(id=thread.id)
    if not is_open:
        thread.close()
    goal = e.goals.create(thread.id, "all tests pass", token_budget=60)
    tell(goal=goal.goal_id)
    for tokens in (7, 11, 13, 17, 19, 23):
        answer = e.goals.account(thread.id, tokens=tokens, seconds=1)
        tell(tokens=tokens, status=answer.goal.status)
    e.goals.clear(thread.id)
    tell(cleared=True)
tell(calls=count[0])
"""


def run(home: Path, at: int, how: str) -> tuple[int, list[dict[str, object]]]:
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, str(home), str(at), how],
        cwd=CHECKOUT, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def check(home: Path, told: list[dict[str, object]]) -> None:
    counted = [int(str(each["tokens"])) for each in told if "tokens" in each]
    steps = [7, 11, 13, 17, 19, 23]
    with engine.open(str(home), options=Options(scan_interval_ms=0, background_scan_s=0)) as e:
        (row,) = e.threads.list(limit=0).threads or [None]
        if row is None:
            assert told == []
            return
        goal = e.goals.get(row.id)
        lines = records(Path(row.rollout_path))  # a first append that was cut short left its file beside, too
        said = [each["payload"] for each in lines if each["payload"].get("type") == "thread_goal_updated"]
        used = [each["usage"]["tokens"] for each in said if "usage" in each]
        assert used in (counted, [*counted, *steps[len(counted) : len(counted) + 1]]), "more or less than was told"
        if {"cleared": True} in told:
            assert goal is None
        elif goal is not None:
            assert goal.tokens_used == sum(used) == sum(each.tokens for each in e.goals.usage(row.id))
            assert goal.time_used_seconds == len(used)
            assert goal.status == ("budget_limited" if sum(used) >= 60 else "active")
            before = e.goals.account(row.id, tokens=1).goal
            assert before.tokens_used == sum(used) + 1
        else:
            assert len(used) == len(steps) or not any("goal" in each for each in told)
        assert faults(e) == []
        now = e.goals.get(row.id)
    for path in (home / "engine").glob("*.sqlite*"):
        path.unlink()
    with engine.open(str(home), options=Options(background_scan_s=0)) as e:
        assert e.goals.get(row.id) == now


@pytest.mark.parametrize("how", ["open", "for the moment"])
def test_what_was_told_to_be_counted_is_counted_once_wherever_the_process_was_killed(tmp_path: Path, how: str) -> None:
    code, told = run(tmp_path / "whole", -1, how)
    assert code == 0
    check(tmp_path / "whole", told)
    calls = int(str(told[-1]["calls"]))
    assert calls > 20
    step = 3 if how == "open" else 13
    for at in range(1 if how == "open" else 5, calls, step):
        home = tmp_path / f"{at}"
        code, told = run(home, at, how)
        assert code == -signal.SIGKILL
        check(home, told)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["open", "for the moment"])
def test_before_every_changing_call(tmp_path: Path, how: str) -> None:
    _, told = run(tmp_path / "whole", -1, how)
    for at in range(int(str(told[-1]["calls"]))):
        _, told = run(tmp_path / f"{at}", at, how)
        check(tmp_path / f"{at}", told)
