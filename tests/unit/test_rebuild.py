"""Rebuild: what is owed is marked and folded anew; stopped anywhere it goes on, and nothing that is listed goes meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

import engine
from engine.errors import InvalidRequest, ThreadNotFound
from engine.options import Options
from engine.projections import owed
from engine.projections.backfill import Progress
from engine.stores.files import Files
from engine.testing import HomePlan, MadeThread, append_turns, make_home
from engine.testing.files import RecordingFiles
from engine.testing.tables import dump

THREADS = 60
SMALL = Options(batch_streams=10, scan_interval_ms=0)
NOBODY = "01900000-0000-7000-8000-000000000000"


class Bench:
    """A home with all its rows, an open engine, and the rollouts that it opens."""

    def __init__(self, home: Path, made: list[MadeThread]) -> None:
        self.home = home
        self.made = made
        self.files = RecordingFiles(Files())
        self.engine = self.another(self.files)
        self.engine.backfill()
        self.engine.threads.rename(made[0].id, "named")
        self.engine.threads.list()
        self.rows = self.dump()
        self.files.forget()

    def another(self, files: Files | None = None) -> engine.Engine:
        return engine.open(str(self.home), options=SMALL, files=files)

    def dump(self) -> dict[str, list[tuple]]:
        return dump(self.home / "engine/state_1.sqlite")

    def sql(self, *statements: str) -> list[tuple]:
        connection = apsw.Connection(f"{self.home}/engine/state_1.sqlite", flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            return [row for statement in statements for row in connection.execute(statement)]
        finally:
            connection.close()

    def spoil(self) -> None:
        """Rows that say what no file does, with states that would keep them so: only a fold from the start mends them."""
        self.sql(
            "UPDATE threads SET title = 'spoilt', tokens_used = 1",
            "UPDATE streams SET records = 1",
            f"UPDATE watermarks SET state = (SELECT state FROM watermarks WHERE stream = '{self.made[0].path}')",
        )

    def read(self) -> set[str]:
        """The rollouts that were opened since the last time this was asked."""
        found = {path.removeprefix(f"{self.home}/") for path in self.files.paths("open_read", op="rollout.open")}
        self.files.forget()
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_home(tmp_path / "home", HomePlan(threads=THREADS, bytes_max=4_000, reverted=0.0, archived=0.1))
    found = Bench(tmp_path / "home", made)
    yield found
    found.engine.close()


class Stopped(Exception):
    """What a progress function raises to end a rebuild as a kill would: between two transactions."""


def stopping(when: Callable[[Progress], bool]) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.what is None and when(progress):
            raise Stopped

    return stop


def test_a_rebuild_folds_every_rollout_anew_and_ends_with_the_same_tables(bench: Bench) -> None:
    bench.spoil()
    report = bench.engine.rebuild()
    assert (report.status, report.threads, report.files, report.joined) == ("complete", THREADS, THREADS, False)
    assert bench.read() == {thread.path for thread in bench.made}
    assert bench.dump() == bench.rows


def test_a_rebuild_that_was_stopped_goes_on_where_it_was(bench: Bench) -> None:
    """20 of 60 were folded; the next rebuild, in another engine, reads the other 40 alone."""
    bench.spoil()
    with pytest.raises(Stopped):
        bench.engine.rebuild(progress=stopping(lambda at: at.files_done == 20))
    done = bench.read()
    assert len(done) >= 20
    status = bench.engine.status()
    assert (status.lag.outdated, status.backfill.rebuild_begun_at_ms is not None) == (40, True)
    files = RecordingFiles(Files())
    with bench.another(files) as other:
        assert other.rebuild().files == 40
        assert files.count("open_read", op="rollout.open") == 40 + 60  # turns and words are indexed anew from all 60
        after = other.status()
        assert (after.lag.files, after.backfill.rebuild_begun_at_ms) == (0, None)
        assert other.rebuild().files == 60  # that one came to its end; this is another
    assert bench.dump() == bench.rows


def test_a_backfill_ends_a_rebuild_that_was_stopped(bench: Bench) -> None:
    bench.spoil()
    bench.sql("INSERT INTO streams SELECT 'sessions/gone', 'x', 'x', NULL, '', 0, 0, 1, 0, NULL")
    with pytest.raises(Stopped):
        bench.engine.rebuild(progress=stopping(lambda at: at.files_done == 50))
    assert bench.engine.backfill().files == 10
    assert bench.dump() == bench.rows


def test_a_rebuild_that_was_stopped_while_it_marked_is_begun_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was marked is folded; what was not is as it was, and nothing says that a rebuild is under way."""
    bench.spoil()
    monkeypatch.setattr(owed, "BATCH", 7)
    plain, calls = owed._mark_some, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Stopped
        return plain(*arguments)

    monkeypatch.setattr(owed, "_mark_some", killed)
    with pytest.raises(Stopped):
        bench.engine.rebuild()
    status = bench.engine.status()
    assert (status.lag.outdated, status.backfill.rebuild_begun_at_ms) == (21, None)
    assert bench.engine.rebuild().files == THREADS
    assert bench.dump() == bench.rows


def test_a_list_shows_every_thread_all_the_while_and_folds_nothing_itself(bench: Bench) -> None:
    """Between any two batches: the same threads, at once, with word of how far it is."""
    seen = []

    def look(progress: Progress) -> None:
        if progress.what is not None:
            return  # a side database
        with bench.another(files := RecordingFiles(Files())) as reader:
            page = reader.threads.list(limit=0)
            seen.append((len(page.threads), page.partial and page.partial.outdated))
            assert files.count("open_read", op="rollout.open") == 0

    bench.engine.rebuild(progress=look)
    assert [count for count, _ in seen] == [THREADS] * 7
    assert [outdated for _, outdated in seen] == [60, 50, 40, 30, 20, 10, None]


def test_what_is_appended_meanwhile_is_in_the_rows(bench: Bench, tmp_path: Path) -> None:
    """Both to a rollout that is still owed and to one that was folded already."""
    paths = sorted((thread.path for thread in bench.made), reverse=True)
    first, last = (next(thread for thread in bench.made if thread.path == path) for path in (paths[0], paths[-1]))
    longer: list[MadeThread] = []

    def append(progress: Progress) -> None:
        if progress.what is None and progress.files_done == 30:
            longer.extend(append_turns(bench.home, thread) for thread in (first, last))
            bench.engine.threads.list()

    bench.engine.rebuild(progress=append)
    for thread in longer:
        row = bench.engine.threads.get(thread.id)
        assert (row.tokens_used, row.updated_at_ms) == (thread.row["tokens_used"], thread.row["updated_at_ms"])
    with engine.open(str(bench.home), state_dir=str(tmp_path / "fresh")) as fresh:
        fresh.backfill()
        fresh.threads.list()
    tables = ("threads", "streams", "set_aside", "divergences")
    again = dump(tmp_path / "fresh/state_1.sqlite")
    assert {table: bench.dump()[table] for table in tables} == {table: again[table] for table in tables}


def test_one_thread_is_rebuilt_alone(bench: Bench) -> None:
    bench.spoil()
    thread = bench.made[5]
    bench.read()
    report = bench.engine.rebuild(thread.id.upper())
    assert (report.files, report.bytes, report.threads, report.failed) == (1, thread.bytes, THREADS, ())
    assert bench.read() == {thread.path}
    spoilt = bench.sql("SELECT id FROM threads WHERE title = 'spoilt'")
    assert len(spoilt) == THREADS - 1
    assert (thread.id,) not in spoilt
    assert bench.engine.status().backfill.rebuild_begun_at_ms is None


def test_one_thread_whose_row_is_gone_or_no_rollouts_is_mended_alone(bench: Bench) -> None:
    thread = bench.made[6]
    bench.sql(f"DELETE FROM threads WHERE id = '{thread.id}'")
    bench.engine.rebuild(thread.id)
    bench.sql(f"INSERT INTO threads SELECT * FROM threads WHERE id = '{NOBODY}'")
    columns = [name for _, name, *_ in bench.sql("PRAGMA table_info(threads)")]
    copied = ", ".join(f"'{NOBODY}'" if name == "id" else name for name in columns)
    bench.sql(f"INSERT INTO threads SELECT {copied} FROM threads WHERE id = '{thread.id}'")
    assert bench.engine.rebuild(NOBODY).threads == THREADS
    assert bench.dump() == bench.rows


def test_a_lost_rollouts_row_is_written_again_from_what_was_known_of_it(bench: Bench) -> None:
    thread = bench.made[7]
    (bench.home / thread.path).unlink()
    bench.engine.backfill()
    known = bench.dump()
    for scope in ({}, {"thread_id": thread.id}):
        bench.sql(f"UPDATE threads SET title = 'spoilt' WHERE id = '{thread.id}'")
        assert bench.engine.rebuild(**scope).threads == THREADS
        lost = bench.engine.threads.get(thread.id)
        assert (lost.missing, lost.title) == (True, thread.row["title"])
        assert bench.dump()["threads"] == known["threads"]


def test_the_facts_are_rebuilt_alone(bench: Bench) -> None:
    bench.sql("UPDATE facts SET name = 'wrong'", "UPDATE threads SET title = 'spoilt'")
    report = bench.engine.rebuild(projection="facts")
    assert (report.files, bench.read()) == (1, set())
    assert [row.name for row in bench.engine.threads.list(limit=0).threads if row.name] == ["named"]
    assert bench.sql("SELECT count(*) FROM threads WHERE title = 'spoilt'") == [(THREADS,)]


def test_the_threads_projection_is_rebuilt_alone(bench: Bench) -> None:
    bench.spoil()
    bench.sql("UPDATE facts SET name = 'wrong'")
    assert bench.engine.rebuild(projection="threads").files == THREADS
    assert bench.sql("SELECT name FROM facts") == [("wrong",)]
    bench.engine.rebuild()
    assert bench.dump() == bench.rows


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"thread_id": "x"}, InvalidRequest),
        ({"thread_id": NOBODY}, ThreadNotFound),
        ({"projection": "turnips"}, InvalidRequest),
        ({"projection": "facts", "thread_id": NOBODY}, InvalidRequest),
    ],
)
def test_what_is_not_there_is_told_and_nothing_is_marked(
    bench: Bench, asked: dict[str, str], error: type[engine.EngineError]
) -> None:
    with pytest.raises(error) as caught:
        bench.engine.rebuild(**asked)
    assert caught.value.hint
    assert bench.dump() == bench.rows


def test_a_rollout_that_cannot_be_read_keeps_its_row_and_does_not_keep_a_rebuild_from_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.sql("UPDATE threads SET title = 'spoilt'")
    path, plain = f"{bench.home}/{bench.made[3].path}", bench.files.open_read

    def refusing(name, *, op):
        if name == path:
            raise PermissionError(13, "Permission denied", name)
        return plain(name, op=op)

    monkeypatch.setattr(bench.files, "open_read", refusing)
    report = bench.engine.rebuild()
    assert ([failure.path for failure in report.failed], report.threads) == ([bench.made[3].path], THREADS)
    assert bench.engine.status().backfill.rebuild_begun_at_ms is None
    assert bench.sql("SELECT id FROM threads WHERE title = 'spoilt'") == [(bench.made[3].id,)]
    monkeypatch.undo()
    assert bench.engine.rebuild().files == THREADS
    assert bench.dump() == bench.rows


def test_a_back_fill_whose_own_row_is_lost_begins_the_database_anew(bench: Bench) -> None:
    """A flipped bit took the only row of its table: each back-fill changed nothing, and said that it was pending."""
    bench.sql("DELETE FROM backfill")
    with bench.another() as opened:
        assert opened.backfill().status == "complete"
    assert bench.dump() == bench.rows


@pytest.mark.parametrize(
    ("followed", "state"),
    [
        ("x'c1'", "x'c1'"),
        # A flipped bit in a name: no home with such a note could be opened.
        ("unhex(replace(hex(followed), '6A736F6E6C', '6A736F6EEC'))", "unhex(replace(hex(state), '2F', 'FF'))"),
    ],
    ids=["not of the form", "not UTF-8"],
)
def test_notes_and_states_that_cannot_be_decoded_cost_a_fold_from_the_start(
    bench: Bench, followed: str, state: str
) -> None:
    """Damage that is no damage to SQLite: what is noted of a stream is bytes to it."""
    bench.sql(f"UPDATE fact_streams SET followed = {followed}", f"UPDATE watermarks SET state = {state}")
    longer = append_turns(bench.home, bench.made[0])
    with bench.another() as opened:
        assert [row.name for row in opened.threads.list(limit=0).threads if row.name] == ["named"]
        row = opened.threads.get(longer.id)
        assert row is not None
        assert row.tokens_used == longer.row["tokens_used"]
        opened.rebuild()
        assert [found for found in opened.audit().findings if found.severity == "error"] == []
