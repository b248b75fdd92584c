"""The database layer: snapshots, writing in turn, bounded waits, and files that are not what they should be."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from engine.clock import SystemClock
from engine.errors import (
    ForkedEngine,
    LibraryTooOld,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNewer,
    StoreReadOnly,
    StoreReplaced,
    StoreUnavailable,
)
from engine.options import Options
from engine.stores import sqlite
from engine.stores.files import Files
from engine.stores.sqlite import Database, check_library, quarantine, remove_older_shapes
from engine.testing.clock import ManualClock

CHECKOUT = Path(__file__).resolve().parents[2]
QUICK = Options(busy_wait_ms=150)
DAY_MS = 24 * 3600 * 1000

Opener = Callable[..., Database]


@pytest.fixture
def sql(tmp_path: Path) -> str:
    folder = tmp_path / "sql"
    folder.mkdir()
    (folder / "0001_create_things.sql").write_text(
        "CREATE TABLE things (name TEXT NOT NULL PRIMARY KEY, size INTEGER) STRICT;\n"
    )
    return str(folder)


@pytest.fixture
def opened(tmp_path: Path, sql: str) -> Iterator[Opener]:
    """Opens `things_<shape>.sqlite` under `engine/`; all are closed at the end."""
    databases: list[Database] = []

    def _open(
        folder: str | None = str(tmp_path / "engine"),
        shape: int = 1,
        options: Options = QUICK,
        files: Files | None = None,
    ) -> Database:
        files = files or Files()
        database = Database.open(
            folder, "things", shape, migrations=sql, options=options, clock=SystemClock(), files=files
        )
        databases.append(database)
        return database

    yield _open
    for database in databases:
        database.close()


def put(database: Database, name: str, size: int = 0) -> None:
    with database.write() as transaction:
        transaction.run("INSERT INTO things (name, size) VALUES (:name, :size)", {"name": name, "size": size})


def run_and_raise(database: Database, sql: str) -> None:
    with database.write() as transaction:
        transaction.run(sql)
        raise ZeroDivisionError


def names(database: Database) -> list[str]:
    with database.read() as transaction:
        return [row[0] for row in transaction.rows("SELECT name FROM things ORDER BY name")]


def test_what_is_written_is_read_here_and_after_opening_again(opened: Opener) -> None:
    database = opened()
    put(database, "a", 1)
    assert names(database) == ["a"]
    database.close()
    assert names(opened()) == ["a"]


def test_files_are_private_whatever_the_umask(opened: Opener, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        put(opened(), "a")
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "engine", *tmp_path.glob("engine/**/*")]
    }
    assert modes == {
        "engine": 0o700,
        "locks": 0o700,
        "things_1.setup": 0o600,
        "things_1.use": 0o600,
        "things_1.sqlite": 0o600,
        "things_1.sqlite-wal": 0o600,
        "things_1.sqlite-shm": 0o600,
    }


def test_every_connection_is_set_up_alike(opened: Opener) -> None:
    database = opened()
    wanted = {
        "application_id": 0x726C6462,
        "user_version": 1,
        "journal_mode": "wal",
        "synchronous": 1,
        "wal_autocheckpoint": 10_000,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "temp_store": 2,
        "mmap_size": 0,
    }
    for transaction_of in (database.read, database.write):
        with transaction_of() as transaction:
            assert {name: transaction.row(f"PRAGMA {name}")[0] for name in wanted} == wanted


def test_a_snapshot_is_taken_on_entering_and_stays(opened: Opener) -> None:
    database = opened()
    put(database, "before")
    with database.read() as transaction:
        put(database, "after")
        assert [row[0] for row in transaction.rows("SELECT name FROM things")] == ["before"]
    assert names(database) == ["after", "before"]


def test_a_block_that_raises_leaves_nothing_behind(opened: Opener) -> None:
    database = opened()
    with pytest.raises(ZeroDivisionError):
        run_and_raise(database, "INSERT INTO things (name) VALUES ('lost')")
    assert names(database) == []
    put(database, "next")
    assert names(database) == ["next"]


def test_run_tells_how_many_rows_it_changed(opened: Opener) -> None:
    with opened().write() as transaction:
        transaction.run_many("INSERT INTO things VALUES (?, ?)", [("a", 1), ("b", 2), ("c", 3)])
        assert transaction.run("UPDATE things SET size = 9 WHERE size > ?", (1,)) == 2
        assert transaction.run("CREATE TABLE more (x)") == 0
        assert transaction.run("DELETE FROM things WHERE name = 'nobody'") == 0
        assert transaction.row("SELECT count(*) FROM things WHERE size = 9") == (2,)
        assert transaction.row("SELECT 1 FROM things WHERE name = 'nobody'") is None


def test_rows_come_one_at_a_time_and_end_with_the_transaction(opened: Opener) -> None:
    database = opened()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    with database.read() as transaction:
        rows = transaction.rows(endless)
        assert [next(rows), next(rows)] == [(1,), (2,)]
    with pytest.raises(StoreError):
        next(rows)
    with pytest.raises(StoreError, match="has ended"):
        transaction.run("SELECT 1")
    put(database, "a")


def test_a_read_transaction_cannot_write(opened: Opener) -> None:
    with pytest.raises(StoreReadOnly), opened().read() as transaction:
        transaction.run("INSERT INTO things (name) VALUES ('x')")


def test_a_broken_constraint_is_an_error_of_ours_and_the_connection_stays(opened: Opener) -> None:
    database = opened()
    put(database, "a")
    with pytest.raises(StoreError, match="UNIQUE"):
        put(database, "a")
    put(database, "b")
    assert names(database) == ["a", "b"]


def test_more_readers_than_connections_wait_up_to_the_bound(opened: Opener) -> None:
    database = opened(options=replace(QUICK, read_connections=2))
    busy = pytest.raises(StoreBusy, match="all 2 read connections")
    with database.read(), database.read(), busy as caught, database.read():
        pass
    assert (caught.value.waited_ms, caught.value.holder) == (150, "this process")
    with database.read(), database.read():
        pass


def test_writers_of_one_process_take_turns_and_give_up_at_the_bound(opened: Opener) -> None:
    database = opened()
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with database.write() as transaction:
            transaction.run("INSERT INTO things (name) VALUES ('held')")
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    with pytest.raises(StoreBusy) as caught:
        put(database, "x")
    leave.set()
    thread.join()
    assert caught.value.holder == "this process"
    assert names(database) == ["held"]


def test_write_inside_of_write_is_refused_and_the_outer_one_goes_on(opened: Opener) -> None:
    database = opened()
    with database.write() as transaction:
        with pytest.raises(StoreError, match="inside"):
            put(database, "inner")
        transaction.run("INSERT INTO things (name) VALUES ('outer')")
    assert names(database) == ["outer"]


HOLDER = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


@pytest.fixture
def holder(opened: Opener) -> Iterator[tuple[Database, subprocess.Popen[str]]]:
    """A database, and another process that holds its write lock until it reads a line."""
    database = opened()
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(database.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    yield database, child
    child.kill()
    child.communicate()


def test_a_write_lock_of_another_process_is_waited_for_and_then_its_holder_named(holder) -> None:
    database, child = holder
    with pytest.raises(StoreBusy) as caught:
        put(database, "x")
    assert 150 <= caught.value.waited_ms < 5_000
    assert caught.value.path == database.path
    if sys.platform == "linux":
        assert caught.value.holder is not None
        assert caught.value.holder.startswith(f"process {child.pid} (python")
        assert f"process {child.pid}" in str(caught.value)


def test_a_write_lock_that_is_given_back_in_time_is_taken(opened: Opener, holder) -> None:
    database = opened(options=Options(busy_wait_ms=10_000))
    _, child = holder
    timer = threading.Timer(0.1, child.stdin.write, ("\n",))
    timer.start()
    threading.Timer(0.15, child.stdin.flush).start()
    put(database, "patient")
    timer.join()
    assert names(database) == ["patient"]


def test_a_reader_does_not_wait_for_a_writer_of_another_process(holder) -> None:
    assert names(holder[0]) == []


def test_opening_does_not_wait_for_a_writer_of_another_process(opened: Opener, holder) -> None:
    assert names(opened()) == []


def test_opening_a_complete_database_needs_the_setup_lock_only_shared(opened: Opener, tmp_path: Path) -> None:
    opened()
    files = Files()
    fd = files.open_lock(str(tmp_path / "engine/locks/things_1.setup"), op="test")
    try:
        assert files.try_flock(fd, shared=True, op="test")
        opened()
        assert files.try_flock(fd, shared=False, op="test")
        with pytest.raises(StoreBusy, match=f"process {os.getpid()}" if sys.platform == "linux" else "held"):
            opened()
    finally:
        files.close(fd, op="test")


def test_a_connection_is_never_made_while_the_file_is_being_replaced(opened: Opener, tmp_path: Path) -> None:
    database, files = opened(), Files()
    fd = files.open_lock(str(tmp_path / "engine/locks/things_1.setup"), op="test")
    try:
        assert files.try_flock(fd, shared=False, op="test")
        with pytest.raises(StoreBusy):  # this reader would be the first one, hence a new connection
            names(database)
        put(database, "over the connection that is there")
    finally:
        files.close(fd, op="test")
    assert names(database) == ["over the connection that is there"]


@pytest.mark.parametrize("transaction_of", ["read", "write"])
def test_a_file_that_was_moved_away_is_noticed_by_the_next_transaction(
    opened: Opener, tmp_path, transaction_of
) -> None:
    database = opened()
    put(database, "old")
    for path in (tmp_path / "engine").glob("*.sqlite*"):
        path.rename(tmp_path / path.name)
    with pytest.raises(StoreReplaced), getattr(database, transaction_of)():
        pass
    fresh = opened()
    assert names(fresh) == []
    with pytest.raises(StoreReplaced):
        put(database, "into the moved file")
    database.close()
    # Closing the last connection of the moved file must not take the new file's -wal along.
    put(fresh, "new")
    assert names(opened()) == ["new"]


def test_a_new_connection_is_never_made_to_another_file_than_the_first(opened: Opener, tmp_path: Path) -> None:
    database = opened()
    for path in (tmp_path / "engine").glob("*.sqlite*"):
        path.rename(tmp_path / path.name)
    put(opened(), "new")
    with pytest.raises(StoreReplaced):  # this reader would be the first one, hence a new connection
        names(database)


def test_quarantine_moves_all_three_files_and_the_next_start_is_fresh(opened: Opener, tmp_path: Path) -> None:
    database = opened()
    put(database, "a")
    folder = str(tmp_path / "engine")
    clock = ManualClock(wall_ms=1_000)
    arguments = {"options": QUICK, "clock": clock, "files": Files()}
    first = quarantine(folder, "things", 1, **arguments)
    assert first == f"{folder}/quarantine/1000-0"
    assert sorted(os.listdir(first)) == ["things_1.sqlite", "things_1.sqlite-shm", "things_1.sqlite-wal"]
    assert quarantine(folder, "things", 1, **arguments) is None
    assert names(opened()) == []
    assert quarantine(folder, "things", 1, **arguments) == f"{folder}/quarantine/1000-1"


def test_of_two_who_found_the_damage_one_moves_the_file(opened: Opener) -> None:
    first, second = opened(), opened()
    assert first.quarantine() is not None
    put(opened(), "rebuilt")
    assert second.quarantine() is None
    assert names(opened()) == ["rebuilt"]


def test_a_newer_shape_is_refused_and_nothing_is_changed(opened: Opener, tmp_path: Path) -> None:
    opened(shape=1).close()
    path = tmp_path / "engine/things_1.sqlite"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 2; INSERT INTO migrations VALUES (2, '0002_x.sql', 'theirs', 0)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreNewer, match="shape 2") as caught:
        opened(shape=1)
    assert caught.value.hint
    assert path.read_bytes() == before
    assert not (tmp_path / "engine/quarantine").exists()


def test_a_database_of_another_program_is_refused_and_nothing_is_changed(opened: Opener, tmp_path: Path) -> None:
    path = tmp_path / "engine/things_1.sqlite"
    path.parent.mkdir()
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="another program"):
        opened()
    assert path.read_bytes() == before


def test_in_memory_everything_works_on_one_connection(opened: Opener) -> None:
    database = opened(folder=None)
    assert (database.path, database.quarantined) == (None, None)
    with database.read() as outer:
        put(database, "written while reading")
        assert outer.row("SELECT count(*) FROM things") == (1,)
    with database.write() as transaction:
        transaction.run("INSERT INTO things (name) VALUES ('x')")
        with database.read() as inner:
            assert inner.row("SELECT count(*) FROM things") == (2,)
    with pytest.raises(ZeroDivisionError):
        run_and_raise(database, "DELETE FROM things")
    assert names(database) == ["written while reading", "x"]
    assert database.integrity() == ["ok"]
    database.checkpoint()
    assert database.quarantine() is None


def test_in_memory_threads_share_the_connection_in_turn(opened: Opener) -> None:
    database = opened(folder=None, options=Options(busy_wait_ms=20_000))

    def work(number: int) -> None:
        for index in range(50):
            put(database, f"{number}-{index}")
            names(database)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(database)) == 200


def test_an_old_library_is_refused(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    check_library("3.51.3")
    check_library("3.100.0")
    for version in ("3.51.2", "3.9.0", "2.99.99"):
        with pytest.raises(LibraryTooOld, match=version) as caught:
            check_library(version)
        assert caught.value.hint == "pip install -U apsw"
    monkeypatch.setattr(sqlite, "LIBRARY_VERSION", "3.50.4")
    with pytest.raises(LibraryTooOld, match=r"3\.50\.4"):
        opened()


def test_a_full_disk_is_told_as_such_and_the_database_goes_on_when_there_is_room(opened: Opener) -> None:
    database = opened()
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
    fill = f"{numbers} INSERT INTO things SELECT hex(randomblob(500)), i FROM n"
    with pytest.raises(StoreFull) as caught, database.write() as transaction:
        transaction.run(f"PRAGMA max_page_count = 8; {fill}")
    assert caught.value.path == database.path
    with database.write() as transaction:  # by a new connection: what failed may hold on to what made it fail
        assert transaction.row("PRAGMA max_page_count") > (8,)
    put(database, "small")
    assert names(database) == ["small"]


READ_ONLY = """
import os, sys
from engine.clock import SystemClock
from engine.errors import StoreReadOnly
from engine.options import Options
from engine.stores.files import Files
from engine.stores.sqlite import Database
if os.getuid() == 0:  # root may write anywhere, whatever the mode
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for attempt in ("a", "b"):
    try:
        arguments = {"options": Options(), "clock": SystemClock(), "files": Files()}
        Database.open(sys.argv[1], attempt, 1, migrations=sys.argv[2], **arguments)
    except StoreReadOnly as error:
        print(bool(error.hint), os.path.commonpath([error.path, sys.argv[1]]) == sys.argv[1])
"""


@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_folder_is_told_as_such(there: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        home, sql_folder = Path(folder, "home"), Path(folder, "sql")
        home.mkdir()
        sql_folder.mkdir(mode=0o755)
        (sql_folder / "0001_create_things.sql").write_text("CREATE TABLE things (x);")
        target = home / "engine"
        if there:
            arguments = {"options": QUICK, "clock": SystemClock(), "files": Files()}
            Database.open(str(target), "a", 1, migrations=str(sql_folder), **arguments).close()
            for path in (target, target / "locks"):
                path.chmod(0o555)
            for path in target.glob("**/*.*"):
                path.chmod(0o444)
        home.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY, str(target), str(sql_folder)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
        home.chmod(0o755)
        for path in (target, target / "locks") if there else ():
            path.chmod(0o755)
        assert done.stdout.splitlines() == ["True True", "True True"], done.stderr


def test_a_checkpoint_empties_the_wal_and_does_not_wait_for_a_writer_here(opened: Opener, tmp_path: Path) -> None:
    database = opened()
    path = tmp_path / "engine/things_1.sqlite"
    put(database, "x" * 100_000)
    before = path.stat().st_size  # by stat: reading the file here would drop SQLite's locks on it
    assert before < 100_000
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with database.write():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    database.checkpoint()
    assert path.stat().st_size == before
    leave.set()
    thread.join()
    database.checkpoint()
    assert path.stat().st_size > 100_000


# Holds the lock of whoever moves a -wal into its file, as SQLite takes it: a byte of the -shm.
CHECKPOINTER = """
import fcntl, sys
with open(sys.argv[1] + "-shm", "r+b") as shm:
    fcntl.lockf(shm, fcntl.LOCK_EX, 1, 121)
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_scrub_waits_for_another_process_that_moves_the_wal_into_the_file(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite asks no busy handler then: of eight processes that erased at once some were refused after 0 ms."""
    database = opened(options=Options(busy_wait_ms=10_000))
    put(database, "x" * 100_000)
    child = subprocess.Popen(
        [sys.executable, "-c", CHECKPOINTER, str(database.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()
    slept: list[float] = []

    def end_the_other(_: SystemClock, seconds: float) -> None:
        slept.append(seconds)
        child.communicate("\n", timeout=10)

    monkeypatch.setattr(SystemClock, "sleep", end_the_other)
    database.scrub()
    assert len(slept) == 1
    assert os.stat(f"{database.path}-wal").st_size == 0


def test_integrity_tells_damage_that_opening_did_not_see(opened: Opener, tmp_path: Path) -> None:
    database = opened()
    with database.write() as transaction:
        transaction.run_many("INSERT INTO things VALUES (?, 1)", ((f"{'x' * 500}{index}",) for index in range(500)))
    assert database.integrity() == ["ok"]
    database.close()
    path = tmp_path / "engine/things_1.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[:40_960] + b"\xff" * 8_192 + whole[49_152:])
    damaged = opened()
    assert damaged.integrity() != ["ok"]
    with pytest.raises(StoreCorrupt) as caught:
        names(damaged)
    assert "rebuild" in caught.value.hint
    assert damaged.quarantine() is not None
    assert opened().integrity() == ["ok"]


def test_close_may_be_called_twice_and_ends_all_use(opened: Opener) -> None:
    database = opened()
    with database.read() as transaction:
        database.close()
        database.close()
        assert transaction.row("SELECT count(*) FROM things") == (0,)
    for transaction_of in (database.read, database.write):
        with pytest.raises(StoreUnavailable, match="closed"), transaction_of():
            pass


def test_the_last_to_close_leaves_one_file(opened: Opener, tmp_path: Path) -> None:
    database = opened()
    put(database, "a")
    names(database)
    database.close()
    assert [path.name for path in (tmp_path / "engine").glob("*.sqlite*")] == ["things_1.sqlite"]


def test_a_wal_that_lost_its_database_is_set_aside_and_not_paired_with_a_new_one(
    opened: Opener, tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "things_1.sqlite-wal").write_bytes(b"left over")
    assert names(opened()) == []
    assert [path.read_bytes() for path in folder.glob("quarantine/*/*")] == [b"left over"]


class Aged(ManualClock):
    """Says that it is so many days later than it is."""

    def __init__(self, days: float) -> None:
        super().__init__(wall_ms=SystemClock().wall_ms() + int(days * DAY_MS))


def test_an_older_shape_is_removed_when_unused_and_untouched_for_7_days(opened: Opener, tmp_path: Path) -> None:
    folder = str(tmp_path / "engine")
    first, second = opened(shape=1), opened(shape=2)
    third = opened(shape=3)
    put(first, "a")
    second.close()
    (tmp_path / "engine/others_1.sqlite").write_bytes(b"")
    (tmp_path / "engine/things_x.sqlite").write_bytes(b"")
    assert remove_older_shapes(folder, "things", 3, clock=Aged(6.9), files=Files()) == []
    assert remove_older_shapes(folder, "things", 3, clock=Aged(7.1), files=Files()) == [second._place.path]
    put(first, "still in use, therefore still there")
    first.close()
    assert remove_older_shapes(folder, "things", 3, clock=Aged(7.1), files=Files()) == [first.path]
    put(third, "b")
    third.close()
    assert remove_older_shapes(folder, "things", 3, clock=Aged(700), files=Files()) == []
    assert sorted(path.name for path in (tmp_path / "engine").glob("*.sqlite")) == [
        "others_1.sqlite",
        "things_3.sqlite",
        "things_x.sqlite",
    ]


def test_a_forked_child_is_given_no_transaction(opened: Opener) -> None:
    """SQLite forbids to use a connection that was opened before the fork; the parent's goes on."""
    database = opened()
    child = os.fork()
    if child == 0:
        refused = 0
        try:
            for transaction in (database.read, database.write):
                try:
                    with transaction():
                        pass
                except ForkedEngine as error:
                    refused += bool(error.hint)
        finally:
            os._exit(0 if refused == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with database.write() as transaction:
        transaction.run("INSERT INTO things VALUES ('a', 1)")
    with database.read() as transaction:
        assert list(transaction.rows("SELECT name FROM things")) == [("a",)]
