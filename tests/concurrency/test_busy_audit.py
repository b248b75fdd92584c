"""Audits of a home at which other processes are at work: nothing but lag is ever told.

The writers do what changes files and rows: create, append, resume, archive and bring back, compress, fork, name, erase. When
they have ended, the home is clean.
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

# Works until its standard input is closed. A thread that has grown long is erased, so the home stays as small as it is.
WRITER = """
import random, select, sys
import engine
from engine.errors import EngineError, StoreBusy
home, seed, log = sys.argv[1:]
TURNS_MAX = 20  # of one thread
THREADS_MAX = 8
rng = random.Random(seed)

def turn(thread, words):
    with thread.turn() as turn:
        turn.user_message(words)
        turn.tool_call("shell", {"command": ["ls"]}, call_id="c")
        turn.tool_output("c", "x" * rng.randrange(300))
        turn.agent_message("done")

def note(words):
    with open(log, "a") as file:
        print(words, file=file)

# One that waits in vain for all readers of a database to go is not finished, and stays so until the home is opened again.
def erase(e, mine, thread_id):
    reached = e.threads.preview_erase(thread_id, include_children=True).thread_ids
    try:
        e.threads.erase(thread_id, include_children=True, grace_s=None)
    except StoreBusy:
        note("unfinished " + " ".join(reached))
    for each in reached:
        del mine[each]

def step(e, mine, number):
    what = rng.choice(["create", "append", "append", "append", "fork", "archive", "unarchive", "compress", "rename"])
    long = [thread_id for thread_id, turns in mine.items() if turns > TURNS_MAX]
    if long:
        erase(e, mine, long[0])
    if len(mine) >= THREADS_MAX and what in ("create", "fork"):
        what = "append"
    if what == "create" or not mine:
        with e.threads.create(cwd="/", durability="buffered") as thread:
            turn(thread, f"{seed} {number}")
        mine[thread.id] = 1
    elif what == "append":
        chosen = rng.choice(list(mine))
        with e.threads.resume(chosen, durability="buffered") as thread:
            for _ in range(rng.randrange(1, 4)):
                turn(thread, "more")
                mine[chosen] += 1
    elif what == "fork":
        with e.threads.fork(rng.choice(list(mine)), durability="buffered") as thread:
            turn(thread, "forked")
        mine[thread.id] = 1
    elif what == "compress":
        e.compress(older_than_days=-1)
    elif what == "rename":
        e.threads.rename(rng.choice(list(mine)), f"name {number}")
    else:
        getattr(e.threads, what)(rng.choice(list(mine)))

steps = 0
with engine.open(home) as e:
    mine = {}
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], rng.random() / 2)[0]:
        try:
            step(e, mine, steps)
        except EngineError as error:
            if type(error).__name__ not in ("ThreadBusy", "ThreadArchived", "StoreBusy"):
                raise
        steps += 1
        note("step")
"""


def told_by(log: Path) -> list[str]:
    """What the writers noted: `step`, and the ids of threads whose erasure they were refused in the middle."""
    return log.read_text().split() if log.exists() else []


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
                if number >= audits and told_by(log).count("step") > audits:
                    break  # as many audits as were asked for, and the writers were at work beside them
                report = opened.audit(deep=number % 5 == 0)
                words = told_by(log)
                unfinished = [each for each in report.faults if each.class_ == "unfinished" and each.thread_id in words]
                assert [each for each in report.faults if each not in unfinished] == [], number
                seen.update(each.class_ for each in report.findings)
                errors = [process.communicate()[1] for process in started if process.poll() is not None]
                assert errors == [], errors
    finally:
        ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * writers, [error for _, error in ended]
    assert seen.keys() <= {"lag", "unfinished"}
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
