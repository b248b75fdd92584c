"""A database file that is no database, or half of one, never keeps the engine from starting and is never destroyed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

import engine
from engine.clock import SystemClock
from engine.errors import StoreBusy, StoreCorrupt, StoreUnavailable
from engine.options import Options
from engine.projections.registry import THREADS
from engine.stores.files import Files
from engine.stores.sqlite import Database
from engine.testing import HomePlan, make_home

PAGE_BYTES = 8_192

CHECKOUT = Path(__file__).resolve().parents[2]


def opened(folder: Path) -> Database:
    arguments = {"options": Options(busy_wait_ms=2_000), "clock": SystemClock(), "files": Files()}
    return Database.open(str(folder), "state", 1, migrations="state", **arguments)


def check_usable(database: Database) -> None:
    """Has its schema, takes a row and gives it back; closes it."""
    with database.write() as transaction:
        transaction.run("INSERT OR REPLACE INTO fences (name, generation) VALUES ('a', 1)")
    with database.read() as transaction:
        assert transaction.row("SELECT generation FROM fences WHERE name = 'a'") == (1,)
        assert transaction.row("SELECT count(*) FROM backfill") == (1,)
    assert database.integrity() == ["ok"]
    database.close()


def whole(folder: Path) -> bytes:
    """The bytes of a database with some rows, closed by its last user."""
    database = opened(folder)
    with database.write() as transaction:
        transaction.run_many("INSERT INTO fences VALUES (?, 1)", ((f"{'x' * 200}{index}",) for index in range(200)))
    database.close()
    return (folder / "state_1.sqlite").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "engine"
    made.mkdir()
    return made


GARBAGE = {
    "two bytes": b"SQ",
    "text": b"hello, I am a text file that somebody saved here\n" * 100,
    "a header and nothing else": b"SQLite format 3\0",
    "a header and garbage": b"SQLite format 3\0" + b"\xa5" * 8_192,
    "zeros, as after a power cut": b"\0" * 65_536,
    "an old SQLite": b"** This file contains an SQLite 2.1 database **" + b"\0" * 4_096,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_set_aside_byte_for_byte_and_the_engine_starts(folder: Path, content: bytes) -> None:
    (folder / "state_1.sqlite").write_bytes(content)
    database = opened(folder)
    assert database.quarantined is not None
    assert Path(database.quarantined).parent == folder / "quarantine"
    assert Path(database.quarantined, "state_1.sqlite").read_bytes() == content
    check_usable(database)
    again = opened(folder)
    assert again.quarantined is None
    check_usable(again)


@pytest.mark.parametrize(
    "length", [0, 1, 2, 15, 16, 99, 100, 511, 512, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 20_000, -PAGE_BYTES]
)
def test_a_file_cut_short_anywhere_lets_the_engine_start(folder: Path, length: int) -> None:
    content = whole(folder)[:length]
    (folder / "state_1.sqlite").write_bytes(content)
    database = opened(folder)
    if length in (
        0,
        1,
    ):  # an empty file is a new database; SQLite takes one byte for one, since it once wrote that itself
        assert database.quarantined is None
    else:
        assert database.quarantined is not None
        assert Path(database.quarantined, "state_1.sqlite").read_bytes() == content
    check_usable(database)


def test_tables_that_do_not_fit_each_other_are_filled_again(tmp_path: Path) -> None:
    """Damage that SQLite does not notice: a rollout is known and its state is gone, as pages that were not synced leave it."""
    home = tmp_path / "home"
    (made,) = make_home(home, HomePlan(threads=1, archived=0, forks=0, seed=4))
    with engine.open(str(home)) as e:
        e.backfill()
        with e._database.write() as transaction:
            transaction.run("DELETE FROM watermarks")
        with e._database.write() as transaction:
            THREADS.rechoose(transaction, [made.path])
        assert [row.id for row in e.threads.list().threads] == [made.id]
        e.backfill()
        assert e.audit().findings == []


def test_a_damaged_schema_is_set_aside_with_its_wal(folder: Path) -> None:
    content = whole(folder)
    (folder / "state_1.sqlite").write_bytes(content[:100] + b"\xff" * (PAGE_BYTES - 100) + content[PAGE_BYTES:])
    (folder / "state_1.sqlite-wal").write_bytes(b"what its wal was")
    database = opened(folder)
    assert database.quarantined is not None
    assert Path(database.quarantined, "state_1.sqlite-wal").read_bytes() == b"what its wal was"
    check_usable(database)


def test_damage_found_while_reading_is_told_and_after_quarantine_the_engine_starts_anew(folder: Path) -> None:
    content = whole(folder)
    root = page_of(folder, "fences")
    (folder / "state_1.sqlite").write_bytes(
        content[: root * PAGE_BYTES] + b"\xff" * PAGE_BYTES + content[(root + 1) * PAGE_BYTES :]
    )
    database = opened(folder)
    with pytest.raises(StoreCorrupt) as caught, database.read() as transaction:
        transaction.row("SELECT count(*) FROM fences")
    assert caught.value.path == str(folder / "state_1.sqlite")
    with database.read() as transaction:  # what is whole can still be read
        assert transaction.row("SELECT status FROM backfill") == ("pending",)
    aside = database.quarantine()
    assert aside is not None
    assert Path(aside, "state_1.sqlite").exists()
    check_usable(opened(folder))


def page_of(folder: Path, table: str) -> int:
    """How many pages are before the table's first one."""
    connection = apsw.Connection(str(folder / "state_1.sqlite"))
    page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    connection.close()
    return page - 1


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "kept").write_text("kept")


def make_link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"theirs")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(("make", "kind"), [(make_folder, "folder"), (make_link, "link")])
def test_what_is_no_file_is_refused_with_a_hint_and_left_alone(folder: Path, make, kind: str) -> None:
    make(folder / "state_1.sqlite")
    before = sorted((path.name, path.is_file() and path.read_bytes()) for path in folder.glob("[!l]*/**/*"))
    with pytest.raises(StoreUnavailable, match=f"there is a {kind}") as caught:
        opened(folder)
    assert caught.value.hint
    assert sorted((path.name, path.is_file() and path.read_bytes()) for path in folder.glob("[!l]*/**/*")) == before
    assert not (folder / "quarantine").exists()


def test_a_file_where_the_folder_belongs_is_told(tmp_path: Path) -> None:
    (tmp_path / "engine").write_text("not a folder")
    with pytest.raises(StoreUnavailable) as caught:
        opened(tmp_path / "engine")
    assert caught.value.hint
    assert (tmp_path / "engine").read_text() == "not a folder"


def test_a_wal_mode_that_was_switched_off_is_switched_on_again(folder: Path) -> None:
    whole(folder)
    connection = apsw.Connection(str(folder / "state_1.sqlite"))
    assert connection.pragma("journal_mode", "delete") == "delete"
    connection.close()
    database = opened(folder)
    with database.read() as transaction:
        assert transaction.row("PRAGMA journal_mode") == ("wal",)
    check_usable(database)


@pytest.mark.parametrize("busy", ["BEGIN; SELECT * FROM fences", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_the_switch_to_wal_waits_for_a_foreign_program_up_to_the_bound(folder: Path, busy: str) -> None:
    whole(folder)
    connection = apsw.Connection(str(folder / "state_1.sqlite"))
    assert connection.pragma("journal_mode", "delete") == "delete"
    connection.execute(busy)
    with pytest.raises(StoreBusy) as caught:
        opened(folder)
    assert 2_000 <= caught.value.waited_ms < 3_000
    connection.close()
    check_usable(opened(folder))


# Opens the database, and ends itself with signal 9 right before its n-th step: an SQL statement or a call on files.
DYING = """
import os, signal, sys
import apsw
from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.sqlite import Database
left = int(sys.argv[2])
def step(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
class Dying(Files):
    pass
def counted(name):
    plain = getattr(Files, name)
    def call(self, *args, **kwargs):
        step()
        return plain(self, *args, **kwargs)
    return call
for name in ("ensure_folder", "open_lock", "try_create", "try_flock", "try_make_folder", "rename", "close"):
    setattr(Dying, name, counted(name))
apsw.connection_hooks.append(lambda connection: connection.trace_v2(apsw.SQLITE_TRACE_STMT, step))
arguments = {"options": Options(), "clock": SystemClock(), "files": Dying()}
database = Database.open(sys.argv[1], "state", 1, migrations="state", **arguments)
print("opened", database.quarantined)
"""


@pytest.mark.parametrize("before", ["new", "garbage"])
def test_a_start_that_is_killed_at_any_step_is_completed_by_the_next(tmp_path: Path, before: str) -> None:
    step = 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        if before == "garbage":
            folder.mkdir()
            (folder / "state_1.sqlite").write_bytes(b"garbage" * 1_000)
            (folder / "state_1.sqlite-wal").write_bytes(b"its wal")
        command = [sys.executable, "-c", DYING, str(folder), str(step)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        check_usable(opened(folder))
        aside = sorted(path.read_bytes() for path in folder.glob("quarantine/*/*") if not path.name.endswith("-shm"))
        assert aside == ([b"garbage" * 1_000, b"its wal"] if before == "garbage" else [])
    assert done.stdout.startswith("opened")
    assert step > 30  # else the steps were not seen
