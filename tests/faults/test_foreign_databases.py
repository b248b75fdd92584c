"""Another program's database is read as it stands, whatever state it is in, and no byte, name or time beside it moves."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.clock import SystemClock
from engine.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreUnavailable
from engine.stores import foreign_db
from engine.stores.files import Files
from engine.stores.foreign_db import ForeignDatabase, read_foreign
from engine.testing import ManualClock
from tests.codex_home import audited, make_codex_home, seen, told

HOLD = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = " + sys.argv[2])
for statement in sys.argv[3:]:
    connection.execute(statement)
print("ready", flush=True)
sys.stdin.read()
"""
"""Another program: does what it is told, and keeps the database open until it is ended."""

WRITE = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("PRAGMA wal_autocheckpoint = 50")
print("ready", flush=True)
n = 0
while True:
    n += 1
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE pairs SET number = ?, text = ? WHERE side = 'a'", (n, "x" * 3000 + str(n)))
    connection.execute("UPDATE pairs SET number = ?, text = ? WHERE side = 'b'", (n, "x" * 3000 + str(n)))
    connection.execute("COMMIT")
"""
"""A program that never rests: both rows always say the same, and the -wal is moved into the file again and again."""


@contextlib.contextmanager
def running(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database in WAL mode, without a -wal."""
    folder = tmp_path / "home"
    folder.mkdir()
    path = folder / "state_5.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        with connection:
            connection.execute("CREATE TABLE words (word TEXT)")
            connection.execute("INSERT INTO words VALUES ('old')")
    assert [each.name for each in folder.iterdir()] == ["state_5.sqlite"]
    return path


def words(path: Path, files: Files | None = None) -> list[Any]:
    def look(found: ForeignDatabase) -> list[Any]:
        return [word for (word,) in found.rows("words", ["word"])]

    return read_foreign(str(path), look, clock=SystemClock(), files=files or Files())


def test_one_at_rest_is_read_where_it_is(database: Path) -> None:
    before = seen(database.parent)
    assert words(database) == ["old"]
    assert seen(database.parent) == before


def test_what_is_in_the_wal_of_a_running_program_is_seen(database: Path) -> None:
    with running(HOLD, database, "WAL", "INSERT INTO words VALUES ('new')"):
        assert (database.parent / "state_5.sqlite-wal").stat().st_size > 0
        before = seen(database.parent)
        assert words(database) == ["old", "new"]
        assert seen(database.parent) == before


def test_what_is_in_the_wal_of_a_killed_program_is_seen_and_stays_there(database: Path) -> None:
    with running(HOLD, database, "WAL", "INSERT INTO words VALUES ('new')", "BEGIN", "DELETE FROM words") as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = seen(database.parent)
        assert {"state_5.sqlite-wal", "state_5.sqlite-shm"} <= before.keys()
        assert words(database) == ["old", "new"]
        assert seen(database.parent) == before


def test_a_wal_alone_would_be_missed_by_a_reader_of_the_file(database: Path) -> None:
    """What the copy is for: opened as immutable the same file has the old rows only."""
    with running(HOLD, database, "WAL", "INSERT INTO words VALUES ('new')"):
        uri = f"file:{database}?immutable=1"
        script = (
            f"import sqlite3; print(len(sqlite3.connect({uri!r}, uri=True).execute('SELECT 1 FROM words').fetchall()))"
        )
        assert subprocess.check_output([sys.executable, "-c", script], text=True) == "1\n"
        assert words(database) == ["old", "new"]


def test_an_exclusive_lock_is_not_waited_for(database: Path) -> None:
    with running(HOLD, database, "WAL", "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "DELETE FROM words"):
        before = seen(database.parent)
        assert words(database) == ["old"]
        assert seen(database.parent) == before


def test_a_transaction_that_a_kill_left_half_in_the_file_is_taken_back_in_the_copy(database: Path) -> None:
    """The older journal: its pages are in the file already, and the journal has what they were."""
    fill = "INSERT INTO words SELECT hex(randomblob(400)) FROM generate"
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT i FROM n"
    series = f"CREATE TEMP TABLE generate AS {count}"
    steps = ("PRAGMA cache_size = 5", series, fill, "BEGIN", "UPDATE words SET word = 'half'")
    with running(HOLD, database, "DELETE", *steps) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert (database.parent / "state_5.sqlite-journal").stat().st_size > 0
        before = seen(database.parent)
        found = words(database)
        assert len(found) == 3001
        assert "half" not in found
        assert seen(database.parent) == before


def test_a_writer_that_never_rests_is_read_as_one_of_its_states(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE pairs (side TEXT, number INTEGER, text TEXT)")
        connection.execute("INSERT INTO pairs VALUES ('a', 0, ''), ('b', 0, '')")

    def look(found: ForeignDatabase) -> list[Any]:
        return [*found.rows("pairs", ["side", "number", "text"]), found.damage()]

    numbers = []
    with running(WRITE, database):
        for _ in range(60):
            if len(numbers) == 2:
                break
            with contextlib.suppress(StoreBusy):  # a copy during which nobody wrote is a matter of luck
                (_, a, first), (_, b, second), damage = read_foreign(
                    str(database), look, clock=SystemClock(), files=Files()
                )
                assert (a, first) == (b, second)
                assert damage == []
                numbers.append(a)
    assert numbers == sorted(numbers)
    assert len(numbers) >= 1


class Meddled(Files):
    """Somebody writes to the database whenever it was copied."""

    def __init__(self, path: Path, times: int) -> None:
        self.path = path
        self.times = times

    def create(self, path: str, *, op: str) -> int:
        if op == "foreign.copy" and path.endswith("-wal") and self.times > 0:
            self.times -= 1
            stat = self.path.stat()
            os.utime(self.path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 1_000_000))
        return super().create(path, op=op)


def test_one_that_changes_while_it_is_copied_is_copied_again(database: Path) -> None:
    with running(HOLD, database, "WAL", "INSERT INTO words VALUES ('new')"):
        meddled = Meddled(database, times=3)
        assert words(database, meddled) == ["old", "new"]
        assert meddled.times == 0


def test_one_that_never_stands_still_is_told_so(database: Path) -> None:
    with running(HOLD, database, "WAL", "INSERT INTO words VALUES ('new')"):
        meddled = Meddled(database, times=10_000)
        clock = ManualClock(wall_ms=4_000_000_000_000)
        with pytest.raises(StoreBusy, match=f"changed each of the {foreign_db.LOOKS_MAX} times") as caught:
            read_foreign(str(database), lambda _: None, clock=clock, files=meddled)
        assert meddled.times == 10_000 - foreign_db.LOOKS_MAX
        assert caught.value.hint


def test_one_that_is_written_to_while_it_is_read_in_place_is_read_again(database: Path) -> None:
    looks = 0

    def look(found: ForeignDatabase) -> list[Any]:
        nonlocal looks
        looks += 1
        rows = [word for (word,) in found.rows("words", ["word"])]
        if looks == 1:
            change = "UPDATE words SET word = 'new'"
            script = f"import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute({change!r}); c.commit()"
            subprocess.run([sys.executable, "-c", script, str(database)], check=True)
        return rows

    assert read_foreign(str(database), look, clock=SystemClock(), files=Files()) == ["new"]
    assert looks == 2


def test_one_that_was_written_to_this_very_moment_is_looked_at_a_moment_later(database: Path) -> None:
    """Two writes within one tick of the kernel's clock leave the same time, so the second would not be seen."""
    clock = ManualClock(wall_ms=database.stat().st_mtime_ns // 1_000_000 + 5)
    assert read_foreign(str(database), lambda found: found.damage(), clock=clock, files=Files()) == []
    assert len(clock.slept_s) == 1


def test_no_copy_is_left_anywhere(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    modes: list[int] = []

    def look(found: ForeignDatabase) -> None:
        modes.extend(path.stat().st_mode & 0o777 for path in temporary.rglob("*"))
        raise StoreError("stopped in the middle")

    with running(HOLD, database, "WAL", "INSERT INTO words VALUES ('new')"), pytest.raises(StoreError, match="middle"):
        read_foreign(str(database), look, clock=SystemClock(), files=Files())
    assert modes[0] == 0o700
    assert list(temporary.iterdir()) == []


def test_a_process_that_has_it_open_itself_is_refused_since_it_would_lose_its_locks(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="this process has"):
            words(database)
        taken = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", taken, str(database)], capture_output=True, text=True, check=False)
        assert "locked" in done.stderr, "the lock was kept"


class Full(Files):
    """No room where temporary files go."""

    def write(self, fd: int, data: bytes, *, op: str) -> int:
        if op == "foreign.copy":
            raise OSError(28, os.strerror(28))
        return super().write(fd, data, op=op)


def test_no_room_for_a_copy_is_named(database: Path) -> None:
    with running(HOLD, database, "WAL", "INSERT INTO words VALUES ('new')"), pytest.raises(StoreFull) as caught:
        words(database, Full())
    assert "$TMPDIR" in caught.value.hint


@pytest.mark.parametrize("content", [b"garbage " * 1000, b"SQLite format 3\0" + b"\xff" * 4080], ids=["text", "header"])
def test_garbage_is_named_and_stays(database: Path, content: bytes) -> None:
    database.write_bytes(content)
    before = seen(database.parent)
    with pytest.raises(StoreError):
        words(database)
    assert seen(database.parent) == before


def test_a_flipped_page_is_named(database: Path) -> None:
    data = bytearray(database.read_bytes())
    data[4096:4200] = b"\xff" * 104
    database.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        words(database)


@pytest.mark.parametrize("kind", ["nothing", "folder", "link", "pipe"])
def test_what_is_no_file_is_named_and_never_opened(database: Path, kind: str) -> None:
    real = database.rename(database.parent / "real")
    make = {"folder": database.mkdir, "link": lambda: database.symlink_to(real), "pipe": lambda: os.mkfifo(database)}
    make.get(kind, lambda: None)()
    with pytest.raises(StoreUnavailable, match="is not there" if kind == "nothing" else "not a file"):
        words(database)


def test_odd_paths_are_read_where_they_are(tmp_path: Path, database: Path) -> None:
    """What a URI would take apart, and bytes that are not UTF-8."""
    for name in (b"a b?immutable=0&x", b"50%41#", b"\xff\xfe"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        path = os.path.join(folder, b"state_5.sqlite")
        Path(os.fsdecode(path)).write_bytes(database.read_bytes())
        assert words(Path(os.fsdecode(path))) == ["old"]


def test_columns_that_are_not_there_are_none_and_names_cannot_break_out(database: Path) -> None:
    def look(found: ForeignDatabase) -> list[Any]:
        odd = '"; DROP TABLE words; --'
        return [list(found.rows("words", ["word", odd, "x"])), list(found.rows(odd, ["x"])), found.columns(odd)]

    assert read_foreign(str(database), look, clock=SystemClock(), files=Files()) == [
        [("old", None, None)],
        [],
        frozenset(),
    ]


def test_a_home_of_a_running_program_is_audited_and_left_as_it_was(tmp_path: Path) -> None:
    """All three databases have a -wal, one of a living and two of killed programs, and each -wal has what counts."""
    home = make_codex_home(tmp_path / "home")
    thread = home.one(mode="paginated")
    steps = {
        "state_5.sqlite": f"UPDATE threads SET model = 'another' WHERE id = '{thread.id}'",
        "thread_history_1.sqlite": "UPDATE thread_history_projection_state SET next_rollout_ordinal = next_rollout_ordinal + 5"
        f" WHERE thread_id = '{thread.id}'",
        "goals_1.sqlite": "INSERT INTO thread_goals VALUES ('gone', 'g', 'o', 'active', NULL, 0, 0, 1, 1)",
    }
    with contextlib.ExitStack() as held:
        for name, statement in steps.items():
            child = held.enter_context(running(HOLD, home.path / name, "WAL", statement))
            if name != "state_5.sqlite":
                child.kill()
                child.wait()
        before = seen(home.path)
        found = {each for each in told(audited(home.path, deep=True)) if "hidden" not in each[0]}
        assert seen(home.path) == before
    assert found == {
        ("codex_differing_field", thread.id),
        ("codex_stopped_projection", thread.id),
        ("codex_dangling_goal", "gone"),
    }


@pytest.mark.parametrize("name", ["state_5.sqlite", "thread_history_1.sqlite", "goals_1.sqlite"])
@pytest.mark.parametrize("damage", ["garbage", "empty", "cut", "folder", "locked"])
def test_one_database_in_any_state_keeps_nobody_from_comparing_the_others(
    tmp_path: Path, name: str, damage: str
) -> None:
    home = make_codex_home(tmp_path / "home")
    path = home.path / name
    with contextlib.ExitStack() as held:
        if damage == "garbage":
            path.write_bytes(os.urandom(9000))
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:5000])
        elif damage == "folder":
            path.unlink()
            path.mkdir()
        else:
            held.enter_context(running(HOLD, path, "WAL", "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"))
        before = seen(home.path)
        report = audited(home.path, deep=True)
        assert seen(home.path) == before
    unread = {each.path for each in report.findings if each.class_ in ("codex_unreadable", "codex_damaged_database")}
    assert unread == (set() if damage == "locked" else {name})
    others = {each.class_ for each in report.findings} - {"codex_unreadable", "codex_damaged_database"}
    assert others <= {"codex_hidden_by_source", "codex_missing_goal"}
