"""Rebuild beside appends and lists, killed three times: the number of threads never falls, and the end is that of a fresh home.

The rebuilding process is killed for good (signal 9) behind a random checkpoint, or at any moment. A writer appends and
makes threads all the while, a reader counts them in a loop, from another process each. What the runs refolded together is
little more than the home has: each goes on where the one before was killed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Self

import apsw
import pytest

import engine
from engine.options import Options
from engine.testing import HomePlan, make_home
from engine.testing.tables import dump

CHECKOUT = Path(__file__).resolve().parents[2]

REBUILD = """
import sys
import engine
from engine.options import Options
options = Options(background_scan_s=0, batch_streams=int(sys.argv[2]), lease_ms=600_000)
checkpoints_left = int(sys.argv[3])  # behind the last of them it waits to be killed; 0 is never

def tell(at):
    global checkpoints_left
    print(at.files_done, flush=True)
    checkpoints_left -= 1
    if checkpoints_left == 0:
        sys.stdin.read()

with engine.open(sys.argv[1], options=options) as opened:
    report = opened.rebuild(progress=tell)
    print("ended", report.status, flush=True)
"""

# Makes a thread, appends to an old one, lists; says how many threads there are, until it is told to end.
WRITER = """
import sys, threading
import engine
from engine.options import Options
end = threading.Event()
with engine.open(sys.argv[1], options=Options(background_scan_s=0, flush_delay_ms=20)) as opened:
    old = [row.id for row in opened.threads.list(limit=20, archived=False).threads]
    print("ready", flush=True)
    threading.Thread(target=lambda: (sys.stdin.readline(), end.set()), daemon=True).start()
    made = appended = 0
    while not end.is_set() or not made:
        with opened.threads.create(cwd="/") as thread, thread.turn() as turn:
            turn.user_message(f"new {made}")
        made += 1
        with opened.threads.resume(old[made % len(old)], adopt=True) as thread, thread.turn() as turn:
            turn.user_message(f"more {made}")
        appended += 1
    print(made, appended, flush=True)
"""


class Counting:
    """Counts the rows, over and over, behind the engine's back and through a list of another engine's."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.counts: list[int] = []
        self.listed: list[int] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._count)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _count(self) -> None:
        connection = apsw.Connection(f"{self.home}/engine/state_1.sqlite", flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(10_000)
        with engine.open(str(self.home)) as opened:
            while not self._end.is_set():
                self.counts.append(connection.execute("SELECT count(*) FROM threads").get)
                self.listed.append(opened.threads.list(limit=1, counts=True).total)
        connection.close()


@contextmanager
def child(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def killed(home: Path, batch: int, rng: Random) -> int:
    """Start a rebuild, kill it behind some checkpoints, one more at most than it told of; how far it was."""
    checkpoints = rng.randint(1, 3)
    with child(REBUILD, str(home), str(batch), str(checkpoints + 1)) as process:
        assert process.stdout is not None
        done = [int(process.stdout.readline()) for _ in range(checkpoints)][-1]
        time.sleep(rng.uniform(0, 0.02))  # at any moment of the next batch
        process.send_signal(signal.SIGKILL)
    return done


def rebuilt_beside_work(home: Path, batch: int, seed: int, tmp_path: Path) -> None:
    rng, state = Random(seed), home / "engine/state_1.sqlite"
    with engine.open(str(home)) as opened:
        before = opened.backfill().threads
    with child(WRITER, str(home)) as writer, Counting(home) as counting:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        progress = [killed(home, batch, rng) for _ in range(3)]
        with child(REBUILD, str(home), str(batch), "0") as last:
            said, errors = last.communicate(timeout=900)
            assert (last.returncode, errors) == (0, "")
            assert said.splitlines()[-1] == "ended complete"
        told, errors = writer.communicate("end\n", timeout=60)
        assert (writer.returncode, errors) == (0, "")
    made, appended = map(int, told.split())
    for seen in (counting.counts, counting.listed):
        assert seen[0] >= before
        assert seen == sorted(seen), "a list shrank"
    # The next run began behind what the killed one had done, not before it.
    assert 0 < max(progress) < before, "no run was killed between its first checkpoint and its last"
    assert int(said.splitlines()[0]) >= max(progress) - made - appended - batch
    check_end(home, state, before + made, tmp_path)


def check_end(home: Path, state: Path, threads: int, tmp_path: Path) -> None:
    """The rows are those that a home gives which was never seen before."""
    with engine.open(str(home)) as opened:
        assert opened.backfill().threads == threads
        status = opened.status()
        assert (status.lag.files, status.backfill.rebuild_begun_at_ms) == (0, None)
    with engine.open(str(home), state_dir=str(tmp_path / "fresh")) as fresh:
        fresh.backfill()
    tables = ("threads", "streams", "set_aside", "divergences")
    ours, theirs = dump(state), dump(tmp_path / "fresh/state_1.sqlite")
    assert {table: ours[table] for table in tables} == {table: theirs[table] for table in tables}


@pytest.mark.parametrize("seed", range(2))
def test_a_rebuild_killed_three_times_beside_appends_and_lists(tmp_path: Path, seed: int) -> None:
    make_home(tmp_path / "home", HomePlan(threads=300, bytes_max=2_000, seed=seed))
    rebuilt_beside_work(tmp_path / "home", 20, seed, tmp_path)


@pytest.mark.soak
def test_soak_a_large_rebuild_killed_three_times_beside_appends_and_lists(tmp_path: Path) -> None:
    make_home(tmp_path / "home", HomePlan(threads=20_000, bytes_max=3_000, seed=1))
    rebuilt_beside_work(tmp_path / "home", 200, 1, tmp_path)


def test_a_second_process_that_asks_for_a_rebuild_joins_the_first(tmp_path: Path) -> None:
    """It looks on, is told how far the other is and by whom, and folds nothing itself."""
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=200, bytes_max=2_000, reverted=0.0))
    with engine.open(str(home)) as opened:
        opened.backfill()
    options = Options(batch_streams=10, spectator_poll_ms=5)
    reports, seen, looked = [], [], threading.Event()

    def join() -> None:
        def tell(progress):
            seen.append(progress.owner)
            looked.set()

        with engine.open(str(home), options=options) as second:
            reports.append(second.rebuild(progress=tell))

    joiner = threading.Thread(target=join)

    def wait_for_the_other(progress):
        if progress.files_done == 50 and not looked.is_set():  # of the threads; the indexes come after
            joiner.start()
            assert looked.wait(60)

    with engine.open(str(home), options=options) as first:
        report = first.rebuild(progress=wait_for_the_other)
    joiner.join(60)
    assert (report.status, report.files, report.joined) == ("complete", len(made), False)
    assert [(other.status, other.threads, other.files, other.joined) for other in reports] == [
        ("complete", len(made), 0, True)
    ]
    assert seen[0] is not None


def test_a_rebuild_goes_on_when_the_one_that_was_joined_dies(tmp_path: Path) -> None:
    """The joiner takes over behind the last checkpoint of the dead one, at once, and ends it."""
    home = tmp_path / "home"
    make_home(home, HomePlan(threads=400, bytes_max=2_000, reverted=0.0))
    with engine.open(str(home)) as opened:
        opened.backfill()
    with child(REBUILD, str(home), "5", "0") as first:
        assert first.stdout is not None
        while int(first.stdout.readline()) < 20:
            pass
        first.send_signal(signal.SIGSTOP)  # it holds the lease, for ten minutes

        def kill(progress):
            if progress.owner is not None:
                first.send_signal(signal.SIGKILL)

        with engine.open(str(home), options=Options(spectator_poll_ms=5)) as second:
            report = second.rebuild(progress=kill)
    assert (report.status, report.threads, report.joined) == ("complete", 400, True)
    assert 0 < report.files <= 380
    with engine.open(str(home)) as opened:
        assert opened.status().backfill.rebuild_begun_at_ms is None
        assert opened.audit().findings == []
