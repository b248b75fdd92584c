"""Whatever befalls the table of logs or its segments: nobody notices but who asks the log, and nothing logged is lost."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

import engine
from engine.clock import SystemClock
from engine.errors import EngineError, StoreBusy, StoreError
from engine.logs import Handler
from engine.options import Options
from engine.stores.files import Files
from engine.testing.files import FaultyFiles, RecordingFiles
from engine.testing.vfs import StoreCall, watched
from tests.log_home import Process, bodies
from tests.writing import say

HURRIED = Options(log_fill_budget_ms=60_000, busy_wait_ms=300, log_close_wait_ms=60_000)
FILE = "logs_1.sqlite"
SAID = ["one", "two", "three"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a thread, and three records in a filled table."""
    folder = tmp_path / "home"
    folder.mkdir()
    with opened(folder) as e:
        with e.threads.create(cwd="/srv/app") as thread:
            say(thread, "first words")
        process = Process(folder, clock=SystemClock(), options=HURRIED)
        for body in SAID:
            process.log(body, thread.id)
        process.writer.close()
        assert bodies(e) == SAID
    return folder


def opened(home: Path, **how: Any) -> engine.Engine:
    return engine.open(str(home), options=how.pop("options", HURRIED), **how)


def check_everything_else(home: Path) -> None:
    """Open, append, log, list, close: with not one call on a file of the table."""
    files = RecordingFiles(Files())
    watch = Watching()
    with watched(watch):
        handler = Handler(str(home), options=HURRIED, files=files)  # type: ignore[arg-type]
        logger = logging.Logger("app")  # noqa: LOG001 - one that no other test has
        logger.addHandler(handler)
        with opened(home, files=files) as e:
            threads = len(e.threads.list(limit=0).threads)
            with e.threads.create(cwd="/srv/app") as thread:
                say(thread, "words")
                logger.info("meanwhile")
                assert thread.position.offset > 0
            handler.flush()
            assert len(e.threads.list(limit=0).threads) == threads + 1
            assert e.turns.list(thread.id).turns
            e.status()
        handler.close()
    assert handler.counters.written == 1
    assert [call for call in files.calls if call.path is not None and "logs_1" in call.path] == []
    assert watch.names == set()


class Watching:
    """Notes the calls of SQLite on files of the table."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def around(self, call: StoreCall, proceed: Any) -> Any:
        if FILE in call.path:
            self.names.add(call.name)
        return proceed()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held so that not even a reader is let in."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("CREATE TABLE x (y)")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_an_exclusive_lock_is_noticed_by_who_asks_the_log_alone(home: Path) -> None:
    with locked(home / "engine" / FILE):
        check_everything_else(home)
        with opened(home) as e:
            for ask in (e.logs.query, e.logs.status, e.logs.fill):
                with pytest.raises(StoreBusy):
                    ask()
    with opened(home) as e:
        assert bodies(e) == [*SAID, "meanwhile"]


def test_while_somebody_writes_into_the_table_answers_are_older_and_say_so(home: Path) -> None:
    with opened(home) as e:
        assert bodies(e) == SAID
        writer = apsw.Connection(str(home / "engine" / FILE))
        writer.execute("BEGIN IMMEDIATE")
        check_everything_else(home)
        page = e.logs.query(newest_first=False)
        assert [each.body for each in page.records] == SAID
        assert page.lag.segments == 1
        assert page.lag.bytes > 0
        writer.close()
        assert bodies(e) == [*SAID, "meanwhile"]


def test_the_setup_lock_of_the_table_keeps_nobody_else_waiting(home: Path) -> None:
    with (home / "engine/locks/logs_1.setup").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        check_everything_else(home)
        with opened(home) as e, pytest.raises(StoreBusy):
            e.logs.query()


def test_a_background_that_meets_the_lock_fails_alone_and_does_it_later(home: Path) -> None:
    options = Options(background_scan_s=0.02, log_fill_bytes_min=1, busy_wait_ms=100)
    with locked(home / "engine" / FILE):
        check_everything_else(home)
        with opened(home, options=options) as e:
            clock, until = SystemClock(), SystemClock().elapsed_s() + 30
            while e.counters["chores_done"] < 6 and clock.elapsed_s() < until:
                clock.sleep(0.01)
            assert e.counters["chores_done"] >= 6  # the others go on
            with e.threads.create(cwd="/srv/app") as thread:
                say(thread, "words")
            assert any(row.id == thread.id for row in e.threads.list(limit=0).threads)


def garble(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 1_000)


def zero_the_middle(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8_192] + bytes(len(data) - 8_192))


def cut(path: Path) -> None:
    os.truncate(path, 20_000)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    os.unlink(path)


@pytest.mark.parametrize("damage", [garble, zero_the_middle, cut, empty, remove])
@pytest.mark.parametrize("while_open", [True, False], ids=["while it is open", "while nobody has it"])
def test_a_table_that_is_damaged_or_removed_is_filled_again(home: Path, damage: Any, while_open: bool) -> None:
    with opened(home) as e:
        before = e.logs.query().records
        assert e._log_table.database().try_empty_wal()
        if while_open:
            damage(home / "engine" / FILE)
            check_everything_else(home)
            answers = []
            for _ in range(3):
                with suppress(StoreError):
                    answers.append(e.logs.query(search="e", limit=4, newest_first=False).records)
            assert [each.body for each in answers[-1]] == ["one", "three", "meanwhile"]
    if not while_open:
        damage(home / "engine" / FILE)
        check_everything_else(home)
    with opened(home) as e:
        assert e.logs.query(newest_first=False, limit=3).records == before[::-1]
        assert bodies(e)[3:] == ["meanwhile"]
        assert {found.class_ for found in e.audit().findings} == set()


def test_a_database_of_another_program_in_its_place_is_left_alone(home: Path) -> None:
    path = home / "engine" / FILE
    os.unlink(path)
    with apsw.Connection(str(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    check_everything_else(home)
    with opened(home) as e, pytest.raises(StoreError) as caught:
        e.logs.query()
    assert caught.value.hint
    assert path.read_bytes() == before


class Failing:
    """Fails every call that changes a file of the table, while it is on."""

    def __init__(self, error: type[apsw.Error]) -> None:
        self.error = error
        self.on = True
        self.failures = 0

    def around(self, call: StoreCall, proceed: Any) -> Any:
        if self.on and FILE in call.path and call.name in ("xWrite", "xTruncate", "xSync"):
            self.failures += 1
            raise self.error(call.name)
        return proceed()


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError], ids=["full disk", "disk error"])
def test_a_full_or_failing_disk_under_the_table_is_its_own_affair(home: Path, error: type[apsw.Error]) -> None:
    failing = Failing(error)
    check_everything_else(home)
    with watched(failing), opened(home) as e:
        with suppress(StoreError):
            assert [each.body for each in e.logs.query(newest_first=False).records] == SAID  # an older answer
        assert failing.failures > 0
        failing.on = False
        assert bodies(e) == [*SAID, "meanwhile"]


def test_each_call_on_a_file_may_fail_once_and_nothing_is_lost_or_told_twice(home: Path, tmp_path: Path) -> None:
    """Faults enumerated: a clean run's calls are counted, then each of those for the log fails once."""

    def session(folder: Path, files: Any) -> None:
        with opened(folder, files=files) as e:
            with suppress(EngineError):
                e.logs.retain()
            with suppress(EngineError):
                found = [each.body for each in e.logs.query(newest_first=False).records]
                assert found == SAID[: len(found)]
            with suppress(EngineError):
                e.logs.status()
            with suppress(EngineError):
                e.logs.export(["t"])

    clean = RecordingFiles(Files())
    for name in ("logs_1.sqlite", "logs_1.sqlite-wal", "logs_1.sqlite-shm"):
        (home / "engine" / name).unlink(missing_ok=True)
    first = tmp_path / "clean"
    shutil.copytree(home, first)
    session(first, clean)
    ours = [number for number, call in enumerate(clean.calls) if call.op.startswith("logs.")]
    assert len(ours) > 15
    for number in ours:
        folder = tmp_path / f"fault-{number}"
        shutil.copytree(home, folder)
        failed: list[int] = []

        def fault(count: int, call: Any, wanted: int = ours.index(number), failed: list[int] = failed) -> int | None:
            if not call.op.startswith("logs."):
                return None
            failed.append(count)
            return errno.EIO if len(failed) == wanted + 1 else None

        session(folder, FaultyFiles(Files(), fault))
        assert len(failed) > ours.index(number)
        with opened(folder) as e:
            assert bodies(e) == SAID
        shutil.rmtree(folder)
