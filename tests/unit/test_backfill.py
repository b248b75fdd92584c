"""Back-fill: newest first, in batches, resumable, repeatable, and `complete` never final.

Each test changes a home as people and programs change it, and asks that the next run find it, with the rows that the
making of the home foretold, and that nothing unchanged be opened.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import apsw
import pytest
import zstandard

import engine
from engine.options import Options
from engine.projections.backfill import BackfillReport, Progress
from engine.stores.files import Files
from engine.testing import HomePlan, MadeThread, append_turns, make_home, make_rollout
from engine.testing.damage import DAMAGES
from engine.testing.files import RecordingFiles
from engine.testing.tables import dump

ALWAYS_LOOK = Options(scan_interval_ms=0)


class Opened:
    """A home, an open engine on it, and the files it opens."""

    def __init__(self, home: Path, made: list[MadeThread]) -> None:
        self.home = home
        self.made = made
        self.files = RecordingFiles(Files())
        self.engine = engine.open(str(home), options=ALWAYS_LOOK, files=self.files)

    def path(self, thread: MadeThread) -> Path:
        return self.home / thread.path

    def run(self) -> BackfillReport:
        """Back-fill; answers the report and forgets what was opened before."""
        self.files.forget()
        return self.engine.backfill()

    def read(self) -> list[str]:
        """The rollouts that were opened since, relative to the home."""
        return sorted({os.path.relpath(path, self.home) for path in self.files.paths("open_read", op="rollout.open")})

    def query(self, sql: str) -> list[tuple]:
        connection = apsw.Connection(f"{self.home}/engine/state_1.sqlite", flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            return list(connection.execute(sql))
        finally:
            connection.close()

    def paths(self) -> dict[str, str]:
        """Thread id to the path of its row."""
        return dict(self.query("SELECT id, rollout_path FROM threads"))

    def divergences(self) -> list[tuple[str, str]]:
        return self.query("SELECT class, stream FROM divergences ORDER BY id")

    def as_fresh(self, folder: Path) -> None:
        """The tables are those that an engine makes that sees the home for the first time."""
        with engine.open(str(self.home), state_dir=str(folder)) as fresh:
            fresh.backfill()
        only_here = {"divergences": ("stream", "thread_id", "class", "detail"), "backfill": ("files_done",)}
        assert dump(self.home / "engine/state_1.sqlite", without=only_here) == dump(
            folder / "state_1.sqlite", without=only_here
        )


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Eight threads of one rollout each, back-filled."""
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=8, bytes_max=9_000, archived=0.0, reverted=0.0, forks=0.0, subagents=0.0))
    it = Opened(home, made)
    assert it.run().status == "complete"
    yield it
    it.engine.close()


def test_every_row_shows_what_the_home_was_made_with(tmp_path: Path) -> None:
    """Both modes, old shapes, forks, sub-agents, archived, reverted, compressed: field by field."""
    made = make_home(tmp_path / "home", HomePlan(threads=40, bytes_max=20_000, compressed=0.2, seed=5))
    with engine.open(str(tmp_path / "home")) as opened:
        report = opened.backfill()
        rows = {row.id: row for row in opened.threads.list(limit=0).threads}
    assert (report.status, report.threads, report.failed) == ("complete", 40, ())
    assert sorted(rows) == sorted(thread.id for thread in made)
    for thread in made:
        row = rows[thread.id]
        told = {name: getattr(row, name) for name in thread.row if name != "rollout_path"}
        assert told == {name: value for name, value in thread.row.items() if name != "rollout_path"}, thread.path


def test_newest_first_in_batches_with_a_checkpoint_each(tmp_path: Path) -> None:
    """450 rollouts are three checkpoints, the newest day's first; each is visible to others before the next."""
    made = make_home(tmp_path / "home", HomePlan(threads=450, bytes_max=2_000, archived=0.0, reverted=0.0))
    seen: list[tuple[int, list[str]]] = []
    state = tmp_path / "home/engine/state_1.sqlite"

    def look(progress: Progress) -> None:
        if progress.what is not None:
            return  # a side database
        connection = apsw.Connection(str(state), flags=apsw.SQLITE_OPEN_READWRITE)
        paths = [path for (path,) in connection.execute("SELECT rollout_path FROM threads")]
        connection.close()
        seen.append((progress.files_done, paths))

    with engine.open(str(tmp_path / "home")) as opened:
        opened.backfill(progress=look)
    newest_first = sorted((thread.path for thread in made), reverse=True)
    assert [done for done, _ in seen] == [0, 200, 400, 450]
    assert sorted(seen[1][1]) == sorted(newest_first[:200])
    assert sorted(seen[2][1]) == sorted(newest_first[:400])


def test_a_run_that_ends_half_way_is_resumed_and_reads_nothing_twice(tmp_path: Path) -> None:
    """An error after the first checkpoint: the next run opens the other 50 rollouts only, and is complete."""
    make_home(tmp_path / "home", HomePlan(threads=250, bytes_max=2_000, archived=0.0, reverted=0.0))

    def stop(progress: Progress) -> None:
        if progress.what is None and progress.files_done == 200:
            raise KeyboardInterrupt

    with engine.open(str(tmp_path / "home")) as first, pytest.raises(KeyboardInterrupt):
        first.backfill(progress=stop)
    files = RecordingFiles(Files())
    with engine.open(str(tmp_path / "home"), files=files) as second:
        status = second.status().backfill
        assert (status.status, status.files_done, status.owner) == ("running", 200, None)
        report = second.backfill()
    assert (report.status, report.threads, report.files) == ("complete", 250, 50)
    assert files.count("open_read", op="rollout.open") == 50 + 250  # the indexes come behind, from all of them


def test_unchanged_files_are_not_opened(opened: Opened) -> None:
    """A second run, and a list, cost a stat a file and open none."""
    report = opened.run()
    opened.engine.threads.list(limit=0)
    assert (report.status, report.files, report.bytes, opened.read()) == ("complete", 0, 0, [])


def test_a_new_file_is_found(opened: Opened) -> None:
    """`complete` is no reason not to look."""
    new = make_rollout(opened.home, seed=99, size=5_000)
    assert opened.run().files == 1
    assert opened.read() == [new.path]
    assert opened.paths()[new.id] == new.path


def test_an_appended_turn_is_found_and_only_it_is_read(opened: Opened, tmp_path: Path) -> None:
    """The row is that of the longer file; the fold began at the watermark, so no divergence is recorded."""
    longer = append_turns(opened.home, opened.made[3])
    assert opened.run().files == 1
    row = opened.engine.threads.get(longer.id)
    assert (row.tokens_used, row.updated_at_ms) == (longer.row["tokens_used"], longer.row["updated_at_ms"])
    assert opened.divergences() == []
    opened.as_fresh(tmp_path / "fresh")


def test_a_restored_file_with_an_older_time_is_found(opened: Opened, tmp_path: Path) -> None:
    """Taken away, then put back from a backup with last year's mtime: missing, and then not."""
    thread = opened.made[0]
    shutil.copy2(opened.path(thread), tmp_path / "backup")
    opened.path(thread).unlink()
    opened.run()
    assert opened.engine.threads.get(thread.id).missing is True
    assert opened.engine.status().threads.missing == 1
    shutil.copy2(tmp_path / "backup", opened.path(thread))
    os.utime(opened.path(thread), (1_600_000_000, 1_600_000_000))
    opened.run()
    assert opened.engine.threads.get(thread.id).missing is False
    assert opened.divergences() == []
    opened.as_fresh(tmp_path / "fresh")


def test_a_file_replaced_by_an_older_copy_is_found_and_told(opened: Opened, tmp_path: Path) -> None:
    """Another inode with fewer records: the row goes back to what the copy says, and a divergence says so."""
    thread = opened.made[1]
    DAMAGES["replaced-by-older-copy"](opened.home, thread, Random(1))
    assert opened.run().files == 1
    assert opened.divergences() == [("truncated", thread.path)]
    opened.as_fresh(tmp_path / "fresh")


def test_a_file_replaced_by_another_history_of_the_same_size_is_found_and_told(opened: Opened, tmp_path: Path) -> None:
    """Same length, same mtime, another inode, other bytes far from its end."""
    thread = opened.made[1]
    before = opened.path(thread).stat()
    data = opened.path(thread).read_bytes()
    changed = data.replace(b"0.169.0", b"0.170.0", 1).replace(b"0.130.0", b"0.170.0", 1)
    assert changed != data
    (tmp_path / "other").write_bytes(changed)
    os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(tmp_path / "other", opened.path(thread))
    opened.run()
    assert opened.engine.threads.get(thread.id).cli_version == "0.170.0"
    assert opened.divergences() == [("rewritten", thread.path)]
    opened.as_fresh(tmp_path / "fresh")


def test_an_edited_copy_is_found_though_its_last_64_kib_are_the_same(tmp_path: Path) -> None:
    """300 KB, another inode, one byte near the beginning: only the digest of the whole can tell."""
    home = tmp_path / "home"
    (thread,) = make_home(home, HomePlan(threads=1, bytes_min=300_000, bytes_max=300_000, archived=0.0, reverted=0.0))
    full = home / thread.path
    with engine.open(str(home)) as opened:
        opened.backfill()
        expected = DAMAGES["rewritten-first-message"](home, thread, Random(2))
        shutil.copy2(full, tmp_path / "copy")
        os.replace(tmp_path / "copy", full)
        append_turns(home, thread)
        opened.backfill()
        assert opened.threads.get(thread.id).first_user_message == expected.row["first_user_message"]
        assert opened.status().counters["divergences"] == 1
        assert opened.audit().findings == []


def test_a_renamed_file_leaves_no_old_row(opened: Opened, tmp_path: Path) -> None:
    """Another day's folder and another time in the name, the same thread: one row, the new path."""
    thread = opened.made[2]
    target = opened.home / "sessions/2027/03/04" / f"rollout-2027-03-04T05-06-07-{thread.id}.jsonl"
    target.parent.mkdir(parents=True)
    opened.path(thread).rename(target)
    report = opened.run()
    assert report.threads == 8
    assert opened.paths()[thread.id] == str(target.relative_to(opened.home))
    assert opened.query("SELECT count(*) FROM streams") == [(8,)]
    assert opened.query("SELECT count(*) FROM watermarks") == [(8,)]
    opened.as_fresh(tmp_path / "fresh")


def test_a_retimed_file_is_the_same_file(opened: Opened, tmp_path: Path) -> None:
    """`touch`: looked at once, nothing told, times in the row are the records'."""
    thread = opened.made[4]
    os.utime(opened.path(thread), (4_102_444_800, 4_102_444_800))
    opened.run()
    assert opened.read() == [thread.path]
    assert opened.engine.threads.get(thread.id).updated_at_ms == thread.row["updated_at_ms"]
    assert opened.divergences() == []
    assert opened.run().files == 0
    opened.as_fresh(tmp_path / "fresh")


def test_a_file_moved_to_archived_sessions_is_archived_and_back(opened: Opened, tmp_path: Path) -> None:
    """The folder decides; one row all the way."""
    thread = opened.made[5]
    archived = opened.home / "archived_sessions" / opened.path(thread).name
    opened.path(thread).rename(archived)
    assert opened.run().threads == 8
    row = opened.engine.threads.get(thread.id)
    assert (row.archived, row.missing, row.rollout_path) == (True, False, str(archived))
    opened.as_fresh(tmp_path / "fresh")
    archived.rename(opened.path(thread))
    assert opened.run().threads == 8
    row = opened.engine.threads.get(thread.id)
    assert (row.archived, row.missing, row.rollout_path) == (False, False, str(opened.path(thread)))
    assert opened.divergences() == []


def test_a_compressed_file_is_the_same_stream_and_back(opened: Opened, tmp_path: Path) -> None:
    """Digests are of plain bytes: no divergence either way, and the row is unchanged."""
    thread = opened.made[6]
    plain = opened.path(thread)
    before = opened.query(f"SELECT * FROM threads WHERE id = '{thread.id}'")
    packed = plain.with_name(plain.name + ".zst")
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    plain.unlink()
    opened.run()
    assert opened.query(f"SELECT compressed FROM streams WHERE path = '{thread.path}'") == [(1,)]
    assert opened.query(f"SELECT * FROM threads WHERE id = '{thread.id}'") == before
    opened.as_fresh(tmp_path / "fresh")
    plain.write_bytes(zstandard.decompress(packed.read_bytes()))
    packed.unlink()
    opened.run()
    assert opened.query(f"SELECT compressed FROM streams WHERE path = '{thread.path}'") == [(0,)]
    assert opened.query(f"SELECT * FROM threads WHERE id = '{thread.id}'") == before
    assert opened.divergences() == []


def test_a_shrunk_file_is_found_and_told(opened: Opened, tmp_path: Path) -> None:
    """Cut in place: the row goes back to what is left."""
    thread = opened.made[7]
    os.truncate(opened.path(thread), thread.bytes // 2)
    opened.run()
    assert opened.divergences() == [("truncated", thread.path)]
    opened.as_fresh(tmp_path / "fresh")


@pytest.mark.parametrize("grown", [False, True], ids=["same length", "grown"])
def test_a_first_message_edited_in_place_is_found_and_told(opened: Opened, tmp_path: Path, grown: bool) -> None:
    """The row shows the edited words, though the file has its old mtime."""
    thread = opened.made[0]
    expected = DAMAGES["rewritten-first-message"](opened.home, thread, Random(2))
    if grown:
        append_turns(opened.home, thread)
    opened.run()
    row = opened.engine.threads.get(thread.id)
    assert row.first_user_message == expected.row["first_user_message"]
    assert opened.divergences() == [("rewritten", thread.path)]
    opened.as_fresh(tmp_path / "fresh")


def test_an_edit_far_before_the_end_of_a_file_that_grew_is_told_by_fetch_and_mended_by_rebuild(tmp_path: Path) -> None:
    """300 KB, its first message edited and a turn appended: growth in place is judged by the last 64 KiB alone.

    A back-fill so takes it for growth. Whoever reads the thread is answered from the file and told.
    """
    home = tmp_path / "home"
    (thread,) = make_home(home, HomePlan(threads=1, bytes_min=300_000, bytes_max=300_000, archived=0.0, reverted=0.0))
    with engine.open(str(home), options=ALWAYS_LOOK) as opened:
        opened.backfill()
        expected = DAMAGES["rewritten-first-message"](home, thread, Random(2))
        append_turns(home, thread)
        opened.backfill()
        fetched = opened.threads.fetch(thread.id)
        assert fetched.thread.first_user_message == expected.row["first_user_message"]
        assert fetched.history_rewritten
        errors = [found for found in opened.audit().findings if found.severity == "error"]
        assert {found.mend for found in errors} == {"rolloutdb repair"}
        assert sorted((found.class_, found.field) for found in errors if found.field is not None) == [
            ("lying_watermark", "history.watermarks"),
            ("lying_watermark", "search.watermarks"),
        ]
        assert [found.class_ for found in errors if found.field is None] == ["rewritten_history"]
        opened.rebuild()
        assert opened.threads.get(thread.id).first_user_message == expected.row["first_user_message"]
        assert opened.audit().findings == []


def test_the_same_thread_in_two_files_is_listed_once(opened: Opened, tmp_path: Path) -> None:
    """A copy in another folder: one row, of the file whose name is the newest, until that is gone."""
    thread = opened.made[3]
    expected = DAMAGES["same-thread-in-two-files"](opened.home, thread, Random(3))
    report = opened.run()
    assert report.threads == 8
    assert [row.id for row in opened.engine.threads.list(limit=0).threads].count(thread.id) == 1
    assert opened.engine.threads.fetch(thread.id).records == expected.good_records
    opened.as_fresh(tmp_path / "fresh")


def test_a_thread_whose_newest_rollout_is_deleted_is_shown_by_the_one_before(tmp_path: Path) -> None:
    """A reverted thread has two: what is there goes before what is gone."""
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=8, bytes_max=9_000, archived=0.0, reverted=0.3))
    thread = next(each for each in made if each.older_paths)
    with engine.open(str(home)) as opened:
        opened.backfill()
        assert opened.threads.get(thread.id).rollout_path == f"{home}/{thread.path}"
        (home / thread.path).unlink()
        opened.backfill()
        row = opened.threads.get(thread.id)
        assert (row.rollout_path, row.missing) == (f"{home}/{thread.older_paths[0]}", False)
        assert opened.backfill().threads == 8


def test_a_deleted_file_keeps_its_row_as_missing_and_is_not_counted_again(opened: Opened) -> None:
    """What was lost is still shown; the list says that it is gone."""
    thread = opened.made[0]
    opened.path(thread).unlink()
    for _ in range(2):
        report = opened.run()
        assert (report.status, report.threads) == ("complete", 8)
        assert opened.engine.threads.get(thread.id).missing is True
        assert opened.engine.threads.fetch(thread.id).thread.missing is True
        assert opened.engine.status().threads.missing == 1


def test_a_home_without_sessions_is_complete_and_empty(tmp_path: Path) -> None:
    """A home that has no sessions yet is complete at once."""
    (tmp_path / "home").mkdir()
    with engine.open(str(tmp_path / "home")) as opened:
        report = opened.backfill()
        assert (report.status, report.threads, report.files, report.failed) == ("complete", 0, 0, ())
        assert opened.threads.list().threads == []
