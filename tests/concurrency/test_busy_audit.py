"""Audits of a home at which other processes are at work: nothing but lag is ever told.

The writers do what changes files and rows: create, append, resume, archive and bring back, compress, fork, name. When they have
ended, the home is clean.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import engine
from engine.options import Options

CHECKOUT = Path(__file__).resolve().parents[2]

# Works until its standard input is closed.
WRITER = """
import random, select, sys
import engine
from engine.errors import EngineError
home, seed, log = sys.argv[1:]
rng = random.Random(seed)

def turn(thread, words):
    with thread.turn() as turn:
        turn.user_message(words)
        turn.tool_call("shell", {"command": ["ls"]}, call_id="c")
        turn.tool_output("c", "x" * rng.randrange(300))
        turn.agent_message("done")

def step(e, mine, number):
    grown = len(mine) > 8  # the home does not grow for ever
    what = rng.choice(["create", "append", "append", "append", "fork", "archive", "unarchive", "compress", "rename"])
    if grown and what in ("create", "fork"):
        what = "append"
    if what == "create" or not mine:
        with e.threads.create(cwd="/", durability="buffered") as thread:
            turn(thread, f"{seed} {number}")
        mine.append(thread.id)
    elif what == "append":
        with e.threads.resume(rng.choice(mine), durability="buffered") as thread:
            for _ in range(rng.randrange(1, 4)):
                turn(thread, "more")
    elif what == "fork":
        with e.threads.fork(rng.choice(mine), durability="buffered") as thread:
            turn(thread, "forked")
        mine.append(thread.id)
    elif what == "compress":
        e.compress(older_than_days=-1)
    elif what == "rename":
        e.threads.rename(rng.choice(mine), f"name {number}")
    else:
        getattr(e.threads, what)(rng.choice(mine))

steps = 0
with engine.open(home) as e:
    mine = []
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], rng.random() / 5)[0]:
        try:
            step(e, mine, steps)
        except EngineError as error:
            if type(error).__name__ not in ("ThreadBusy", "ThreadArchived", "StoreBusy"):
                raise
        steps += 1
        with open(log, "a") as file:
            print("step", file=file)
"""


def check_busy(home: Path, *, writers: int, audits: int) -> None:
    home.mkdir()
    log = home.parent / "steps"
    command = [sys.executable, "-c", WRITER, str(home)]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([*command, str(seed), str(log)], cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for seed in range(writers)
    ]
    seen: Counter[str] = Counter()
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate(timeout=60)[1]
        with engine.open(str(home)) as opened:
            for number in itertools.count():
                if number >= audits and log.exists() and len(log.read_text().splitlines()) > audits:
                    break  # as many audits as were asked for, and the writers were at work beside them
                report = opened.audit(deep=number % 5 == 0)
                assert report.faults == [], (number, report.faults)
                seen.update(each.class_ for each in report.findings)
                assert all(process.poll() is None for process in started)
    finally:
        ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * writers, [error for _, error in ended]
    assert seen.keys() <= {"lag"}
    with engine.open(str(home)) as opened:
        opened.backfill()
        assert opened.audit(deep=True).findings == []


def test_a_fault_is_told_although_others_are_at_work(tmp_path: Path) -> None:
    """Patience hides nothing: what stays the same is a fault."""
    home = tmp_path / "home"
    home.mkdir()
    with engine.open(str(home)) as opened, opened.threads.create(cwd="/") as thread:
        thread.append([{"type": "event_msg", "payload": {"type": "user_message", "message": "hello"}}])
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home), "1", str(tmp_path / "steps")],
        cwd=CHECKOUT,
        stdin=pipe,
        stdout=pipe,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with engine.open(str(home), options=Options(busy_wait_ms=2_000)) as opened:
            with opened._database.write() as transaction:  # nothing that the writer does goes over this row again
                transaction.run("INSERT INTO facts (thread_id, name) VALUES (:id, 'x')", {"id": thread.id})
            faults = opened.audit().faults
            assert [(each.class_, each.thread_id, each.field) for each in faults] == [
                ("orphan_row", thread.id, "facts")
            ]
    finally:
        process.communicate(timeout=60)


def test_audits_beside_two_writers_tell_nothing_but_lag(tmp_path: Path) -> None:
    check_busy(tmp_path / "home", writers=2, audits=20)


@pytest.mark.soak
def test_a_thousand_audits_beside_eight_writers_tell_nothing_but_lag(tmp_path: Path) -> None:
    check_busy(tmp_path / "home", writers=8, audits=1000)
