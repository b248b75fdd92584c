"""Every call of SQLite's on its files is made to fail once, with what a disk, a full disk or a foreign lock answers.

A clean run is recorded: open, write a turn, back-fill, list, rename, list, write a turn. Then each of its calls fails in a
run of its own. What may come of it: an error of ours that names the place and one thing to do, or an answer that was right
a step ago. An append never notices. The same question asked again, in the same engine, gets the answer of the clean run,
and the database is whole.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest

import engine
from engine.errors import EngineError, StoreError
from engine.options import Options
from engine.projections.thread_list import ThreadRow
from engine.testing import ManualClock, make_rollout
from engine.testing.tables import dump
from engine.testing.vfs import FaultyStore, StoreCall, watched
from engine.thread import Thread
from tests.writing import said

_Answer = TypeVar("_Answer")

OPTIONS = Options(flush_delay_ms=3_600_000, scan_interval_ms=0)

FAULTS = {
    "unreadable": ("xRead", apsw.SQLITE_IOERR_READ),
    "unwritable": ("xWrite", apsw.SQLITE_IOERR_WRITE),
    "full": ("xWrite", apsw.SQLITE_FULL),
    "sync fails": ("xSync", apsw.SQLITE_IOERR_FSYNC),
    "size unknown": ("xFileSize", apsw.SQLITE_IOERR_FSTAT),
    "cannot be opened": ("xOpen", apsw.SQLITE_CANTOPEN),
    "cannot be looked for": ("xAccess", apsw.SQLITE_IOERR_ACCESS),
    "cannot be removed": ("xDelete", apsw.SQLITE_IOERR_DELETE),
    "cannot be cut": ("xTruncate", apsw.SQLITE_IOERR_TRUNCATE),
    "locked": ("xLock", apsw.SQLITE_BUSY),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rollouts of another program."""
    folder = tmp_path_factory.mktemp("faults") / "home"
    make_rollout(folder, size=5_000, seed=1)
    make_rollout(folder, size=5_000, seed=2, mode="legacy", created="2026-01-06T09:00:00Z")
    return folder


class StillClock(ManualClock):
    """Waiting for a lock changes neither the wall time nor the ids that come after it."""

    def sleep(self, seconds: float) -> None:
        self._boot_ms += round(seconds * 1000) + 1

    def fraction(self) -> float:
        return 0.5


class Run:
    """One run on a copy of the home, which is always at the same place. `lists` are all answers; `errors` what was told."""

    def __init__(self, home: Path, folder: Path, fault: Callable[[int, StoreCall], int | None] | None = None) -> None:
        self.home = folder
        self.lists: list[list[ThreadRow]] = []
        self.errors: list[EngineError] = []
        self.store = FaultyStore(fault) if fault is not None else FaultyStore()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(home, folder)
        with watched(self.store):
            self._use()

    def _use(self) -> None:
        clock = StillClock()
        with self._told(lambda: self._open(clock)) as opened:
            thread = opened.threads.create(cwd="/srv/app")
            self._say(thread, "one")
            self._list(opened)
            self._told(opened.backfill)
            self._list(opened)
            self._told(lambda: opened.threads.rename(thread.id, "named"))
            self._list(opened)
            self._say(thread, "two")
            self._list(opened)
            self._again(opened)
            self.said = said(thread.read())
            with contextlib.suppress(StoreError):
                opened.close()

    def _open(self, clock: ManualClock) -> engine.Engine:
        return engine.open(str(self.home), options=OPTIONS, clock=clock)

    def _again(self, opened: engine.Engine) -> None:
        """What is asked once more, when nothing fails any more."""
        self.status = self._told(opened.backfill).status
        self.last = self._told(lambda: opened.threads.list(limit=0))
        self.findings = self._told(opened.audit).findings
        if [each.class_ for each in self.findings] == ["unreadable"]:  # the call that failed was one of the audit's own
            self.findings = self._told(opened.audit).findings

    def _say(self, thread: Thread, word: str) -> None:
        """Nothing that happens to a database reaches an append."""
        with thread.turn() as turn:
            turn.user_message(word)
            turn.agent_message(f"re {word}")

    def _list(self, opened: engine.Engine) -> None:
        page = self._told(lambda: opened.threads.list(limit=0))
        self.lists.append(page.threads)

    def _told(self, call: Callable[[], _Answer]) -> _Answer:
        """The answer; where the call fails with an error of ours, that of the second time."""
        try:
            return call()
        except StoreError as error:
            self.errors.append(error)
            return call()


class Clean:
    """The run without a fault: which calls it makes, which rows it ever shows, and its tables."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.run = Run(home, folder)
        self.calls = self.run.store.calls
        self.rows: dict[str, list[ThreadRow]] = defaultdict(list)
        for row in (row for rows in self.run.lists for row in rows):
            self.rows[row.id].append(row)
        self.tables = tables(folder)


def tables(home: Path) -> dict[str, list[Any]]:
    """All but what tells of files by their inode and time, which each copy has of its own."""
    found = dump(
        home / "engine/state_1.sqlite",
        without={
            "watermarks": ("device", "inode", "mtime_ns", "ctime_ns"),
            "fact_streams": ("followed",),
            "failures": ("attempts",),
        },
    )
    connection = apsw.Connection(str(home / "engine/state_1.sqlite"))
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()
    return found


def strike(home: Path, folder: Path, name: str, code: int, *, most: int | None) -> int:
    """Fail calls of this name, `most` of them spread evenly over the run; how many were."""
    clean = Clean(home, folder / "home")
    assert clean.run.errors == []
    numbers = [number for number, call in enumerate(clean.calls) if call.name == name]
    step = 1 if most is None else max(1, -(-len(numbers) // most))
    struck = 0
    for chosen in numbers[::step]:
        run = Run(home, folder / "home", lambda number, _call, chosen=chosen: code if number == chosen else None)
        struck += len(run.store.struck)
        check(run, clean, clean.calls[chosen])
    return struck


def check(run: Run, clean: Clean, call: StoreCall) -> None:
    assert all(error.path and error.hint for error in run.errors), f"no place or nothing to do: {run.errors}"
    for row in (row for rows in run.lists for row in rows):
        assert row in clean.rows[row.id], f"a wrong row after {call}"
    assert run.said == ["one", "two"], f"an append suffered from {call}"
    assert (run.status, run.last.threads, run.findings) == ("complete", clean.run.last.threads, []), f"after {call}"
    assert run.last.partial is None
    assert tables(run.home) == clean.tables, f"not healed after {call}"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_call_of_sqlite_is_told_or_gives_an_older_answer_and_the_next_call_heals(
    home: Path, tmp_path: Path, fault: str
) -> None:
    name, code = FAULTS[fault]
    assert strike(home, tmp_path, name, code, most=16) > 0


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
def test_each_call_of_sqlite_fails_once(home: Path, tmp_path: Path, fault: str) -> None:
    name, code = FAULTS[fault]
    assert strike(home, tmp_path, name, code, most=None) > 0


def test_a_clean_run_makes_every_kind_of_call_that_is_made_to_fail(home: Path, tmp_path: Path) -> None:
    """Else a fault would strike nothing, and its test would hold for nothing."""
    clean = Clean(home, tmp_path / "home")
    assert {call.name for call in clean.calls} == {name for name, _ in FAULTS.values()}
    assert [row.name for row in clean.run.last.threads].count("named") == 1
    assert len(clean.run.last.threads) == 3
