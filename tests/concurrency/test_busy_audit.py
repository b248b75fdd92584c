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

# Works until its standard input is closed. A thread that has grown long is erased, so the home stays as small as it is: what
# an audit costs grows with it, and there are a thousand of them. Who is refused in the middle of a change (the databases are
# busy for longer than it waits) opens the home again, which finishes the change; so do all now and then.
WRITER = """
import random, select, sys
import engine
from engine.errors import StoreBusy, ThreadArchived, ThreadBusy
home, seed, log = sys.argv[1:]
TURNS_MAX = 12  # of one thread
THREADS_MAX = 4
STEPS_MAX = 30  # of one opening
rng = random.Random(seed)
mine, at = {}, []  # turns by thread; the threads that are being changed

def turn(thread, words):
    with thread.turn() as turn:
        turn.user_message(words)
        turn.tool_call("shell", {"command": ["ls"]}, call_id="c")
        turn.tool_output("c", "x" * rng.randrange(300))
        turn.agent_message("done")

def note(words):
    with open(log, "a") as file:
        print(words, file=file)

def chosen():
    at[:] = [rng.choice(list(mine))]
    return at[0]

def erase(e, thread_id):
    at[:] = e.threads.preview_erase(thread_id, include_children=True).thread_ids
    try:
        e.threads.erase(thread_id, include_children=True, grace_s=None)
    except ThreadBusy:
        return  # nothing was begun
    except StoreBusy:
        forget()
        raise
    forget()

def forget():
    for each in at:
        mine.pop(each, None)

def begin(thread, words):
    with thread:
        mine[thread.id] = 1
        turn(thread, words)

def step(e, number):
    what = rng.choice(["create", "append", "append", "append", "fork", "archive", "unarchive", "compress", "rename"])
    long = [thread_id for thread_id, turns in mine.items() if turns > TURNS_MAX]
    if long:
        erase(e, long[0])
    if len(mine) >= THREADS_MAX and what in ("create", "fork"):
        what = "append"
    if what == "create" or not mine:
        begin(e.threads.create(cwd="/", durability="buffered"), f"{seed} {number}")
    elif what == "append":
        with e.threads.resume(chosen(), durability="buffered") as thread:
            for _ in range(rng.randrange(1, 4)):
                turn(thread, "more")
                mine[thread.id] += 1
    elif what == "fork":
        begin(e.threads.fork(chosen(), durability="buffered"), "forked")
    elif what == "compress":
        e.compress(older_than_days=-1)
    elif what == "rename":
        e.threads.rename(chosen(), f"name {number}")
    else:
        getattr(e.threads, what)(chosen())

# Whether the standard input was closed.
def work(e):
    for number in range(STEPS_MAX):
        if select.select([sys.stdin], [], [], rng.random() / 2)[0]:
            return True
        try:
            step(e, number)
        except (ThreadBusy, ThreadArchived):
            pass
        except StoreBusy:
            note("unfinished " + " ".join(at))
            return False
        note("step")
    return False

ended = False
while not ended:
    with engine.open(home) as e:
        print("ready", flush=True)
        ended = work(e)
"""


class Writers:
    """Processes at work on a home; what they say of their own failures is in files, so that nothing of it is lost."""

    def __init__(self, folder: Path, home: Path, count: int) -> None:
        self.log = folder / "steps"
        self._errors = [folder / f"errors-{number}" for number in range(count)]
        self._processes: list[subprocess.Popen[str]] = []
        for number, path in enumerate(self._errors):
            with path.open("w") as errors:
                command = [sys.executable, "-c", WRITER, str(home), str(number), str(self.log)]
                pipe = subprocess.PIPE
                self._processes.append(
                    subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=errors, text=True)
                )

    def wait_until_ready(self) -> None:
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", self.errors()

    def errors(self) -> list[str]:
        return [text for path in self._errors if (text := path.read_text())]

    def told(self) -> list[str]:
        """What they noted: `step`, and the ids of threads of which they were refused a change in the middle of it."""
        return self.log.read_text().split() if self.log.exists() else []

    def all_are_at_work(self) -> bool:
        return all(process.poll() is None for process in self._processes)

    def end(self) -> list[int]:
        """Their exit codes."""
        for process in self._processes:
            process.communicate(timeout=120)
        return [process.returncode for process in self._processes]


def check_busy(home: Path, *, writers: int, audits: int) -> None:
    home.mkdir()
    at_work = Writers(home.parent, home, writers)
    seen: Counter[str] = Counter()
    codes: list[int] = []
    try:
        at_work.wait_until_ready()
        with engine.open(str(home)) as opened:
            for number in itertools.count():
                if number >= audits and at_work.told().count("step") > audits:
                    break  # as many audits as were asked for, and the writers were at work beside them
                report = opened.audit(deep=number % 5 == 0)
                words = at_work.told()
                unfinished = [each for each in report.faults if each.class_ == "unfinished" and each.thread_id in words]
                assert [each for each in report.faults if each not in unfinished] == [], number
                seen.update(each.class_ for each in report.findings)
                assert at_work.all_are_at_work(), at_work.errors()
    finally:
        codes = at_work.end()
    assert (codes, at_work.errors()) == ([0] * writers, [])
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
    at_work = Writers(tmp_path, home, 1)
    try:
        at_work.wait_until_ready()
        with engine.open(str(home), options=Options(busy_wait_ms=2_000)) as opened:
            with opened._database.write() as transaction:  # nothing that the writer does goes over this row again
                transaction.run("INSERT INTO facts (thread_id, name) VALUES (:id, 'x')", {"id": thread.id})
            faults = opened.audit().faults
            assert [(each.class_, each.thread_id, each.field) for each in faults] == [
                ("orphan_row", thread.id, "facts")
            ]
    finally:
        at_work.end()


def test_audits_beside_two_writers_tell_nothing_but_lag(tmp_path: Path) -> None:
    check_busy(tmp_path / "home", writers=2, audits=20)


@pytest.mark.soak
def test_a_thousand_audits_beside_eight_writers_tell_nothing_but_lag(tmp_path: Path) -> None:
    check_busy(tmp_path / "home", writers=8, audits=1000)
