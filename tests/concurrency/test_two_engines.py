"""Two processes on one home: a race to own a thread has one winner, and everybody reads on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ThreadBusy
from engine.testing import ManualClock
from tests.writing import kinds, only, opened, records, said, say

CHECKOUT = Path(__file__).resolve().parents[2]

# Waits for the word, resumes, says who it was, holds until told to end; a loser reads and names instead.
RACER = """
import json, os, sys
import engine
from engine.errors import ThreadBusy
home, thread_id = sys.argv[1:]
with engine.open(home) as e:
    e.threads.list()
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with e.threads.resume(thread_id) as thread:
            with thread.turn() as turn:
                turn.user_message(f"from {os.getpid()}")
            print(json.dumps({"won": True}), flush=True)
            sys.stdin.readline()
    except ThreadBusy as busy:
        heard = [each.kind for each in e.threads.read(thread_id)]
        e.threads.rename(thread_id, f"named by {os.getpid()}")
        listed = [row.id for row in e.threads.list(limit=0).threads]
        told = {"won": False, "owner": busy.owner, "state": busy.state, "heard": heard[:2], "listed": listed}
        print(json.dumps(told), flush=True)
"""

# Writes turns into threads of its own and into the journal, and lists between them.
WRITER = """
import sys
import engine
home, count, shared = sys.argv[1], int(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
with engine.open(home) as e:
    for number in range(count):
        with e.threads.create(cwd="/") as thread:
            with thread.turn() as turn:
                turn.user_message(f"{sys.argv[4]} {number}")
        e.threads.rename(thread.id, f"{sys.argv[4]} {number}")
        e.threads.rename(shared, f"{sys.argv[4]} {number}")
        assert thread.id in {row.id for row in e.threads.list(limit=0).threads}
        if number % 3 == 0:
            e.threads.archive(thread.id)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate(timeout=60)[1]
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate(timeout=60)[1]
    heard: dict[str, Any] = json.loads(line)
    return heard


def test_of_processes_that_race_to_resume_one_wins_and_the_others_hear_its_name(tmp_path: Path) -> None:
    """Ten races of three; the losers read, list and name the thread meanwhile, and the next race starts at once."""
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        say(thread, "hello")
    for _ in range(10):
        racers = [start(RACER, str(home), thread.id) for _ in range(3)]
        for racer in racers:
            tell(racer)
        heard = {racer: hear(racer) for racer in racers}
        (winner,) = (racer for racer in racers if heard[racer]["won"])
        for racer in racers:
            if racer is not winner:
                assert f"process {winner.pid} " in f"{heard[racer]['owner']} ".replace(",", " ")
                assert heard[racer]["state"] == "alive"
                assert heard[racer]["heard"] == ["session_meta", "event_msg.task_started"]
                assert heard[racer]["listed"] == [thread.id]
        tell(winner)
        for racer in racers:
            assert (racer.wait(60), racer.communicate()[1]) == (0, "")
    assert kinds(only(home)).count("task_complete") == 11
    assert [each["ordinal"] for each in records(only(home))] == list(range(8 + 10 * 5))
    with opened(home) as e:
        (row,) = e.threads.list().threads
        assert row.name is not None
        assert row.name.startswith("named by ")
        assert e.audit().findings == []


def test_two_processes_that_write_at_once_lose_nothing_and_agree(tmp_path: Path) -> None:
    """Threads, names and moves of both are there, and each of both has listed what it had just written."""
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as shared:
        say(shared, "shared")
    writers = [start(WRITER, str(home), "12", shared.id, name) for name in ("left", "right")]
    for writer in writers:
        tell(writer)
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert (writer.returncode, errors) == (0, "")
    with opened(home) as e:
        rows = [row for row in e.threads.list(limit=0).threads if row.id != shared.id]
        assert sorted(row.name or "" for row in rows) == sorted(
            f"{name} {number}" for name in ("left", "right") for number in range(12)
        )
        assert all(row.preview == row.name for row in rows)
        assert sum(row.archived for row in rows) == 8
        last = e.threads.get(shared.id)
        assert last is not None
        assert last.name in ("left 11", "right 11")
        assert e.audit().findings == []


def test_an_engine_sees_what_another_one_writes(tmp_path: Path) -> None:
    """The other's rows are in the same tables; the first one's writer still owns its thread."""
    home = tmp_path / "home"
    with opened(home) as one, opened(home, ManualClock(seed=1)) as two:
        thread = one.threads.create(cwd="/")
        say(thread, "hello")
        one.threads.list()
        assert [row.preview for row in two.threads.list().threads] == ["hello"]
        with pytest.raises(ThreadBusy) as caught:
            two.threads.archive(thread.id)
        assert str(os.getpid()) in str(caught.value.owner)
        child = two.threads.fork(thread.id)
        say(child, "world")
        assert said(child.read()) == ["hello", "world"]
        thread.close()
        with two.threads.resume(thread.id) as again:
            say(again, "mine now")
        assert said(one.threads.read(thread.id)) == ["hello", "mine now"]
