"""What was seen to go wrong with real homes in another program, and what happens here instead.

There, one bad byte loses a whole rollout, a moved home lists nothing, a copy lists twice, a kill blocks starts for a
quarter of an hour (that one is in `tests/crash`), and a damaged table stays so. Each test is one of those, on a home
whose right rows are known from its making.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import apsw
import pytest

import engine
from engine.errors import StoreError, StoreUnavailable
from engine.options import Options
from engine.testing import HomePlan, MadeThread, append_turns, make_home
from engine.testing.damage import DAMAGES
from engine.testing.tables import dump

ALWAYS_LOOK = Options(scan_interval_ms=0)
PLAN = HomePlan(threads=6, bytes_min=8_000, bytes_max=12_000, archived=0.0, forks=0.0, subagents=0.0, reverted=0.0)
NAMED = ("active-and-archived", "same-thread-in-two-files", "id-differs-from-the-name", "odd-file-names")
"""Damages after which the thread stands elsewhere, or in more than one place."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def made(home: Path) -> list[MadeThread]:
    return make_home(home, PLAN)


def ids(opened: engine.Engine) -> list[str]:
    page = opened.threads.list(limit=0)
    assert page.partial is None
    return sorted(row.id for row in page.threads)


def every(made: list[MadeThread]) -> list[str]:
    return sorted(thread.id for thread in made)


def read_by_a_deep_audit(opened: engine.Engine, paths: tuple[str, ...], others: int) -> tuple[int, int]:
    """Whole records and bad lines of the damaged thread, where every line is decoded."""
    report = opened.audit(deep=True)
    bad = [found for found in report.findings if found.class_ in ("damaged_span", "torn_tail")]
    assert {found.path for found in bad} <= set(paths)
    return report.checked.records - others, len(bad)


@pytest.mark.parametrize("name", [name for name in DAMAGES if name not in ("unreadable", *NAMED)])
@pytest.mark.parametrize("before", [False, True], ids=["found so", "damaged later"])
def test_a_damage_costs_the_damaged_records_and_nothing_else(
    home: Path, made: list[MadeThread], name: str, before: bool
) -> None:
    """The other threads are listed; this one is, with exactly the records that are whole and lines that are not."""
    others = sum(thread.records for thread in made) - made[2].records
    with engine.open(str(home), options=ALWAYS_LOOK) as opened:
        if before:
            opened.backfill()
        expected = DAMAGES[name](home, made[2], Random(4))
        report = opened.backfill()
        assert report.failed == () or name == "symlink"
        kept = before and name == "symlink"  # its file is gone from the home; the row stays, as missing
        gone = set() if expected.listed or kept else {made[2].id}
        assert ids(opened) == sorted(set(every(made)) - gone)
        if expected.listed:
            fetched = opened.threads.fetch(made[2].id)
            assert (fetched.differences, fetched.history_rewritten) == ([], False)
            assert read_by_a_deep_audit(opened, expected.paths, others) == (expected.good_records, expected.bad_lines)
            row = opened.threads.get(made[2].id)
            assert {field: getattr(row, field) for field in expected.row} == expected.row


def test_a_home_that_was_moved_lists_the_same(home: Path, made: list[MadeThread], tmp_path: Path) -> None:
    """Tables and all: paths in them are relative, so nothing is read again."""
    with engine.open(str(home)) as opened:
        opened.backfill()
    home.rename(tmp_path / "elsewhere")
    with engine.open(str(tmp_path / "elsewhere")) as opened:
        assert ids(opened) == every(made)
        assert opened.backfill().files == 0
        paths = {row.rollout_path for row in opened.threads.list(limit=0).threads}
        assert paths == {f"{tmp_path}/elsewhere/{thread.path}" for thread in made}
        assert opened.threads.fetch(made[0].id).differences == []


def test_a_home_that_was_copied_to_another_disk_lists_the_same(
    home: Path, made: list[MadeThread], tmp_path: Path
) -> None:
    """Every inode and ctime is another: looked at once more, no divergence."""
    with engine.open(str(home)) as opened:
        opened.backfill()
    shutil.copytree(home, tmp_path / "copy")
    with engine.open(str(tmp_path / "copy")) as opened:
        assert ids(opened) == every(made)
        assert opened.status().counters["divergences"] == 0
        assert opened.status().lag.files == 0


@pytest.mark.parametrize("name", ["same-thread-in-two-files", "active-and-archived"])
def test_a_copy_is_listed_once(home: Path, made: list[MadeThread], name: str) -> None:
    """One row, and audit names both paths."""
    expected = DAMAGES[name](home, made[1], Random(4))
    with engine.open(str(home)) as opened:
        opened.backfill()
        assert ids(opened) == every(made)
        assert opened.threads.get(made[1].id).rollout_path == f"{home}/{expected.paths[0]}"
        assert opened.threads.fetch(made[1].id).records == expected.good_records
        named = {(finding.class_, finding.path) for finding in opened.audit().findings}
        assert named == {("duplicate_id", expected.paths[1])}


def test_a_file_that_says_another_id_than_its_name_is_listed_by_what_it_says(
    home: Path, made: list[MadeThread]
) -> None:
    """Under the id inside, and it can be fetched."""
    DAMAGES["id-differs-from-the-name"](home, made[1], Random(4))
    with engine.open(str(home)) as opened:
        opened.backfill()
        assert ids(opened) == every(made)
        assert opened.threads.fetch(made[1].id).differences == []
        assert [finding.class_ for finding in opened.audit().findings] == ["id_differs"]


def test_odd_names_are_passed_over_and_a_rollout_in_the_top_folder_is_not(home: Path, made: list[MadeThread]) -> None:
    """`foo-<id>.jsonl` and a name that is no date are no rollouts; where a rollout lies does not matter."""
    data = (home / made[0].path).read_bytes()
    (home / f"sessions/foo-{made[0].id}.jsonl").write_bytes(data)
    (home / f"sessions/rollout-notadate-{made[0].id}.jsonl").write_bytes(data)
    (home / "sessions/.hidden").write_bytes(data)
    target = home / "sessions" / os.path.basename(made[0].path)
    (home / made[0].path).rename(target)
    with engine.open(str(home)) as opened:
        assert opened.backfill().threads == len(made)
        assert ids(opened) == every(made)
        assert opened.threads.get(made[0].id).rollout_path == str(target)


@pytest.mark.parametrize("change", ["deleted", "dropped in", "appended", "first message edited", "archived by hand"])
def test_the_next_list_sees_what_was_done_by_hand(home: Path, made: list[MadeThread], change: str) -> None:
    """Without a back-fill, without a watcher: a list looks at the files first."""
    with engine.open(str(home), options=ALWAYS_LOOK) as opened:
        aside = home.parent / "aside.jsonl"
        full = home / made[0].path
        if change == "dropped in":
            full.rename(aside)
        opened.backfill()
        if change == "deleted":
            full.unlink()
            found: tuple[Callable[[object], object], object] = (lambda row: row.missing, True)
        elif change == "dropped in":
            aside.rename(full)
            found = (lambda row: row.rollout_path, str(full))
        elif change == "appended":
            longer = append_turns(home, made[0])
            found = (lambda row: row.updated_at_ms, longer.row["updated_at_ms"])
        elif change == "first message edited":
            expected = DAMAGES["rewritten-first-message"](home, made[0], Random(1))
            found = (lambda row: row.first_user_message, expected.row["first_user_message"])
        else:
            full.rename(home / "archived_sessions" / full.name)
            found = (lambda row: row.archived, True)
        rows = {row.id: row for row in opened.threads.list(limit=0).threads}
        assert sorted(rows) == every(made)
        assert found[0](rows[made[0].id]) == found[1]


def test_file_times_say_nothing_about_a_thread(home: Path, made: list[MadeThread]) -> None:
    """An mtime in the year 2100 does not bring a thread to the top."""
    for thread in made[:3]:
        os.utime(home / thread.path, (4_102_444_800, 4_102_444_800))
    with engine.open(str(home)) as opened:
        opened.backfill()
        updated = {row.id: row.updated_at_ms for row in opened.threads.list(limit=0).threads}
    assert updated == {thread.id: thread.row["updated_at_ms"] for thread in made}


def test_links_inside_a_home_are_named_and_not_followed_and_a_linked_root_is(
    home: Path, made: list[MadeThread], tmp_path: Path
) -> None:
    """`sessions` may be a link to another disk; a folder below it may not lead out of the home."""
    outside = tmp_path / "outside"
    make_home(outside, HomePlan(threads=1, seed=77))
    (home / "sessions").rename(tmp_path / "other disk")
    (home / "sessions").symlink_to(tmp_path / "other disk")
    (home / "sessions/linked").symlink_to(outside / "sessions")
    with engine.open(str(home)) as opened:
        report = opened.backfill()
        assert ids(opened) == every(made)
    assert [failure.path for failure in report.failed] == ["sessions/linked"]
    assert report.status == "complete"


def state(home: Path) -> Path:
    return home / "engine/state_1.sqlite"


def with_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "keep").touch()


DATABASE_FAULTS: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "zero bytes": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage " * 5_000),
    "garbage header": lambda path: path.write_bytes(b"x" * 100 + path.read_bytes()[100:]),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut in the header": lambda path: os.truncate(path, 50),
    "text": lambda path: path.write_text("# notes\n"),
    "another file's pages": lambda path: path.write_bytes(path.read_bytes()[:4096] + os.urandom(60_000)),
}


@pytest.mark.parametrize("name", DATABASE_FAULTS)
def test_a_database_that_is_broken_before_a_start_ends_with_the_same_rows(
    home: Path, made: list[MadeThread], name: str
) -> None:
    """A start, and where the damage shows only later a rebuild, which the error names; what was there is kept aside."""
    with engine.open(str(home)) as opened:
        opened.rebuild()
        assert ids(opened) == every(made)
    rows = dump(state(home))
    for suffix in ("-wal", "-shm"):
        Path(f"{state(home)}{suffix}").unlink(missing_ok=True)
    DATABASE_FAULTS[name](state(home))
    broken = state(home).read_bytes() if state(home).exists() else b""
    with engine.open(str(home)) as opened:
        hint = "rolloutdb rebuild"
        try:
            opened.backfill()
            ids(opened)
        except StoreError as error:
            hint = error.hint
        assert "rolloutdb rebuild" in hint
        opened.rebuild()
        assert ids(opened) == every(made)
        assert opened.audit().findings == []
    assert dump(state(home)) == rows
    aside = [path.read_bytes() for path in home.glob("engine/quarantine/*/state_1.sqlite")]
    assert aside == ([] if name in ("deleted", "zero bytes") else [broken])


def test_a_folder_in_the_place_of_the_database_is_an_error_that_names_it(home: Path, made: list[MadeThread]) -> None:
    """It is nobody's to move; nothing in it changes."""
    with engine.open(str(home)) as opened:
        opened.backfill()
    with_folder(state(home))
    with pytest.raises(StoreUnavailable, match="folder") as caught:
        engine.open(str(home))
    assert caught.value.path == str(state(home))
    assert caught.value.hint
    assert (state(home) / "keep").exists()


NEXT_CALLS = {
    "list": lambda opened: opened.threads.list(limit=0),
    "backfill": lambda opened: opened.backfill(),
    "rebuild": lambda opened: opened.rebuild(),
    "rebuild of facts": lambda opened: opened.rebuild(projection="facts"),
    "audit": lambda opened: opened.audit(),
    "status": lambda opened: opened.status(),
}


@pytest.mark.parametrize("call", NEXT_CALLS.values(), ids=NEXT_CALLS.keys())
@pytest.mark.parametrize("instead", [None, b"", b"garbage " * 5_000], ids=["nothing", "zero bytes", "garbage"])
def test_a_database_deleted_or_replaced_while_open_is_begun_anew_by_whatever_meets_it_first(
    home: Path, made: list[MadeThread], instead: bytes | None, call: Callable[[engine.Engine], object]
) -> None:
    """Nothing is written on into the removed file: the call is done in a new one, and a list has all rows there."""
    with engine.open(str(home), options=ALWAYS_LOOK) as opened:
        opened.backfill()
        rows = dump(state(home))
        for suffix in ("", "-wal", "-shm"):
            Path(f"{state(home)}{suffix}").unlink(missing_ok=True)
        if instead is not None:
            state(home).write_bytes(instead)
        call(opened)
        assert sorted(thread.id for thread in opened.threads.list(limit=0).threads) == every(made)
        assert opened.threads.fetch(made[0].id).differences == []
        opened.backfill()
    assert dump(state(home)) == rows


def test_rows_that_somebody_deleted_are_named_by_audit_and_come_back_by_a_rebuild(
    home: Path, made: list[MadeThread]
) -> None:
    """A complete back-fill passes over them, since the files did not change; the audit says which command mends it."""
    with engine.open(str(home)) as opened:
        opened.backfill()
        connection = apsw.Connection(str(state(home)), flags=apsw.SQLITE_OPEN_READWRITE)
        connection.execute("DELETE FROM threads WHERE id = ?", (made[0].id,))
        connection.close()
        found = [(finding.class_, finding.thread_id, finding.mend) for finding in opened.audit().findings]
        assert found == [("missing_row", made[0].id, "rolloutdb repair")]
        opened.rebuild()
        assert ids(opened) == every(made)
        assert opened.audit().findings == []
