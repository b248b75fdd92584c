"""Whatever befalls a side database, nobody notices but who asks it, and it comes back by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace as with_options
from pathlib import Path
from typing import Any

import apsw
import pytest

import engine
from engine.errors import ProjectionFailed, StoreBusy, StoreError
from engine.options import Options
from engine.projections.backfill import Progress
from engine.projections.side import Side
from engine.projections.side_check import compare_side
from engine.stores.setup import Setup
from engine.testing import HomePlan, make_home
from engine.testing.vfs import StoreCall, watched
from tests.own import ALL, FILE, NAME, Heads, TokensPerDay
from tests.writing import rollouts, say

HURRIED = Options(scan_interval_ms=0, list_budget_ms=60_000, busy_wait_ms=300)
NO_BACKGROUND = Options(background_scan_s=0)
COUNT = "SELECT count(*) FROM heads"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_home(tmp_path / "home", HomePlan(threads=6, seed=4, bytes_max=12_000))
    return tmp_path / "home"


def opened(home: Path, **how: Any) -> engine.Engine:
    return engine.open(str(home), projections=[TokensPerDay(), Heads()], options=HURRIED, **how)


def check_everything_else(home: Path, e: engine.Engine) -> None:
    """Open, append, list, back-fill and the other side database."""
    threads = len(e.threads.list(limit=0).threads) + 1
    with e.threads.create(cwd="/srv/app") as thread:
        say(thread, "one")
        assert thread.position.offset > 0
    assert len(e.threads.list(limit=0).threads) == threads
    assert e.backfill().status == "complete"
    assert e.projections["heads"].rows(COUNT)[0][0] > 10
    assert len(e.status().projections) == 5
    with opened(home) as another:
        assert len(another.threads.list(limit=0).threads) == threads


@contextmanager
def locked(path: Path) -> Iterator[None]:
    connection = apsw.Connection(str(path))
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def test_a_locked_side_database_keeps_nobody_waiting_and_answers_with_what_it_has(home: Path) -> None:
    with opened(home) as e:
        before = e.projections[NAME].rows(ALL)
        with locked(home / "engine" / FILE), e.threads.create(cwd="/srv/app") as thread:
            say(thread, "appended here, so the next answer folds it first")
            assert e.projections[NAME].rows(ALL) == before
            check_everything_else(home, e)
            with e.projections[NAME].read() as snapshot:
                assert list(snapshot.rows(ALL)) == before
                assert snapshot.partial is not None
        with e.projections[NAME].read() as snapshot:
            assert snapshot.partial is None


def test_one_that_cannot_be_set_up_for_somebody_elses_lock_is_busy_for_who_asks_it_alone(home: Path) -> None:
    import fcntl

    with opened(home) as e:
        e.projections["heads"].rows(COUNT)
    (home / "engine" / "locks" / "own_tokens_per_day_1.setup").touch()
    with (home / "engine" / "locks" / "own_tokens_per_day_1.setup").open() as held, opened(home) as e:
        fcntl.flock(held, fcntl.LOCK_EX)
        check_everything_else(home, e)
        with pytest.raises(StoreBusy):
            e.projections[NAME].rows(ALL)
        fcntl.flock(held, fcntl.LOCK_UN)
        assert e.projections[NAME].rows(ALL)


def garble(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 1_000)


def zero_the_middle(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8_192] + bytes(len(data) - 8_192))


def cut(path: Path) -> None:
    os.truncate(path, 20_000)


def remove(path: Path) -> None:
    os.unlink(path)


def replace(path: Path) -> None:
    other = path.with_suffix(".other")
    apsw.Connection(str(other)).execute("CREATE TABLE x (y)")
    os.replace(other, path)


def folder_instead(path: Path) -> None:
    os.unlink(path)
    path.mkdir()


@pytest.mark.parametrize("damage", [garble, zero_the_middle, cut, remove])
@pytest.mark.parametrize("while_open", [True, False], ids=["while it is open", "while nobody has it"])
def test_a_side_database_that_is_damaged_or_removed_is_filled_again(home: Path, damage: Any, while_open: bool) -> None:
    with opened(home) as e:
        e.backfill()
        before = e.projections[NAME].rows(ALL)
        if while_open:
            damage(home / "engine" / FILE)
            answers: list[Any] = []
            for _ in range(3):
                with suppress(StoreError):
                    answers.append(e.projections[NAME].rows(ALL))
            assert answers[-1] == before
            check_everything_else(home, e)
    if not while_open:
        damage(home / "engine" / FILE)
    with opened(home) as e:
        check_everything_else(home, e)
        with suppress(StoreError):
            e.projections[NAME].rows(ALL)
        assert e.projections[NAME].rows(ALL) == before
        assert {found.class_ for found in e.audit().findings} <= {"rewritten_history"}


@pytest.mark.parametrize("damage", [replace, folder_instead])
def test_what_is_not_ours_in_its_place_is_a_typed_error_for_who_asks_it_and_is_left_alone(
    home: Path, damage: Any
) -> None:
    with opened(home) as e:
        e.projections[NAME].rows(ALL)
    damage(home / "engine" / FILE)
    with opened(home) as e:
        check_everything_else(home, e)
        with pytest.raises(StoreError) as caught:
            e.projections[NAME].rows(ALL)
        assert caught.value.hint
        told = {each.name: each.error for each in e.status().projections}
        assert told[NAME] is not None
        assert told["heads"] is None
        assert [found.class_ for found in e.audit().findings] == ["unreadable"]


class Failing:
    """Fails every call that changes a file of one database."""

    def __init__(self, file: str, error: type[apsw.Error]) -> None:
        self.file = file
        self.error = error
        self.on = False
        self.failures = 0

    def around(self, call: StoreCall, proceed: Any) -> Any:
        if self.on and self.file in call.path and call.name in ("xWrite", "xTruncate"):
            self.failures += 1
            raise self.error(call.name)
        return proceed()


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError], ids=["full disk", "disk error"])
def test_a_full_or_failing_disk_under_a_side_database_is_its_own_affair(home: Path, error: type[apsw.Error]) -> None:
    failing = Failing(FILE, error)
    with watched(failing):
        with opened(home) as e:
            e.projections[NAME].rows(ALL)
            failing.on = True
            check_everything_else(home, e)
            for path in (home / "sessions").rglob("*.jsonl"):
                os.utime(path)
            with suppress(StoreError):
                e.projections[NAME].rows(ALL)
            assert failing.failures > 0
            failing.on = False
            before = e.projections[NAME].rows(ALL)
            assert before
            assert e.audit().findings == []
        with opened(home, state_dir=str(home.parent / "fresh")) as e:
            assert e.projections[NAME].rows(ALL) == before


def test_a_folder_that_cannot_be_opened_for_it_fails_its_own_query_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Setup.try_ready

    def refused(self: Setup, place: Any) -> Any:
        if place.name.startswith("own_tokens"):
            raise PermissionError(13, "Permission denied", place.path)
        return plain(self, place)

    monkeypatch.setattr(Setup, "try_ready", refused)
    with opened(home) as e:
        check_everything_else(home, e)
        with pytest.raises(StoreError):
            e.projections[NAME].rows(ALL)


def test_a_reader_that_stays_keeps_no_other_query_from_what_is_new(home: Path) -> None:
    with opened(home) as e, e.projections["heads"].read() as old:
        before = old.row(COUNT)
        with e.threads.create(cwd="/srv/app") as thread:
            say(thread, "one")
        assert e.projections["heads"].rows(COUNT)[0][0] > before[0]
        assert old.row(COUNT) == before


def test_code_that_fails_beside_a_lock_is_told_as_what_it_is(home: Path) -> None:
    class Failing(Heads):
        name = "failing"

        def write(self, transaction: Any, changes: Any) -> None:
            raise LookupError("broken")

    with engine.open(str(home), projections=[Failing()], options=HURRIED) as e:
        with pytest.raises(ProjectionFailed, match="LookupError"):
            e.projections["failing"].rows(COUNT)
        with locked(home / "engine" / "own_failing_1.sqlite"), pytest.raises(ProjectionFailed, match="LookupError"):
            e.projections["failing"].rows(COUNT)


def test_a_full_disk_under_the_words_keeps_no_turns_back(home: Path) -> None:
    """Both indexes are filled in one pass: what befalls one is not the other's."""
    failing = Failing("search_1", apsw.FullError)
    options = with_options(NO_BACKGROUND, batch_streams=2)
    with watched(failing), engine.open(str(home), options=options) as e:
        history, search = e._sides
        for side in (history, search):
            side.database()
        failing.on = True
        assert e.backfill().status == "complete"
        assert failing.failures > 0
        assert (behind(history), behind(search)) == (0, len(rollouts(home)))
        with pytest.raises(StoreError):
            e.backfill("search")
        failing.on = False
        report = e.backfill("search")
        assert (report.status, report.files, behind(search)) == ("complete", len(rollouts(home)), 0)
        assert [list(compare_side(e._side_parts, side)) for side in (history, search)] == [[], []]


def test_an_index_that_is_removed_while_it_is_filled_is_whole_at_the_end(home: Path) -> None:
    def remove(progress: Progress) -> None:
        if progress.what == "turns and search" and progress.files_done == 2:
            (home / "engine/search_1.sqlite").unlink()

    with engine.open(str(home), options=with_options(NO_BACKGROUND, batch_streams=2)) as e:
        e.backfill(progress=remove)
        assert [behind(side) for side in e._sides] == [0, 0]
        assert [list(compare_side(e._side_parts, side)) for side in e._sides] == [[], []]


def behind(side: Side) -> int:
    """How many rollouts its rows do not cover."""
    return len(list(side.scan()))
