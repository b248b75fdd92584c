"""Archive and unarchive: whole or not at all, whatever stops them; and what is decided about threads from outside."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import engine
from engine.errors import EngineClosed, RolloutUnusable, ThreadBusy
from engine.options import Options
from engine.stores.files import Files
from engine.testing import HomePlan, ManualClock, make_home
from engine.testing.files import Call, FaultyFiles
from tests.writing import Faults, opened, records, rollouts, said, say

LOOK = Options(flush_delay_ms=3_600_000, scan_interval_ms=0)
STEPS = ["archive.folder", "archive.link", "archive.sync", "archive.remove"]


def journal(home: Path) -> list[tuple[str, object]]:
    """What was decided, as the journal has it."""
    (segment,) = (home / "engine" / "journal").iterdir()
    found = [record["payload"] for record in records(segment)]
    return [(each["type"], each.get("archived", each.get("name", each.get("memory_mode")))) for each in found]


def written(e: engine.Engine, *words: str) -> str:
    with e.threads.create(cwd="/") as thread:
        say(thread, *words)
    return thread.id


def row_of(e: engine.Engine, thread_id: str) -> tuple[bool, int | None, str]:
    row = e.threads.get(thread_id)
    assert row is not None
    return row.archived, row.archived_at_ms, os.path.relpath(row.rollout_path, e.home)


def test_a_thread_moves_into_the_archive_and_back_with_the_same_bytes(tmp_path: Path) -> None:
    home, clock = tmp_path / "home", ManualClock()
    with opened(home, clock) as e:
        thread_id = written(e, "hello")
        (active,) = rollouts(home)
        name = active.rpartition("/")[2]
        kept = (home / active).read_bytes()
        clock.advance(5_000)
        e.threads.archive(thread_id)
        assert rollouts(home) == [f"archived_sessions/{name}"]
        assert row_of(e, thread_id) == (True, clock.wall_ms(), f"archived_sessions/{name}")
        assert said(e.threads.read(thread_id)) == ["hello"]
        e.threads.archive(thread_id)
        assert journal(home) == [("archive_begun", True), ("archive_done", True)]
        e.threads.unarchive(thread_id)
        assert rollouts(home) == [active]
        assert (home / active).read_bytes() == kept
        assert row_of(e, thread_id) == (False, None, active)
        with e.threads.resume(thread_id) as thread:
            say(thread, "again")
        assert e.audit().findings == []


def test_a_thread_that_is_in_use_is_not_moved(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        say(thread, "hello")
        before = rollouts(home)
        with pytest.raises(ThreadBusy) as caught:
            e.threads.archive(thread.id)
        assert caught.value.hint
        assert caught.value.owner
        assert rollouts(home) == before
        assert not (home / "engine" / "journal").exists()


def test_a_reverted_thread_moves_with_all_its_rollouts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=8, reverted=0.2, paginated=1.0, archived=0.0, seed=2))
    thread = next(each for each in made if each.older_paths)
    with opened(home) as e:
        words = said(e.threads.read(thread.id))
        e.threads.archive(thread.id)
        names = sorted(path.rpartition("/")[2] for path in (thread.path, *thread.older_paths))
        assert [each for each in rollouts(home) if each.startswith("archived")] == [
            f"archived_sessions/{n}" for n in names
        ]
        assert said(e.threads.read(thread.id)) == words
        e.threads.unarchive(thread.id)
        assert set(rollouts(home)) >= {thread.path, *thread.older_paths}
        assert not [each for each in rollouts(home) if each.startswith("archived")]
        assert said(e.threads.read(thread.id)) == words


@pytest.mark.parametrize("op", STEPS)
@pytest.mark.parametrize("back", [False, True])
def test_a_move_that_fails_at_any_step_loses_nothing_and_is_done_again(tmp_path: Path, op: str, back: bool) -> None:
    """The call says what the system said; the thread is read meanwhile; the next try finishes with exactly one file."""
    home, files = tmp_path / "home", Faults()
    with opened(home, files=files, options=LOOK) as e:
        thread_id = written(e, "hello")
        if back:
            e.threads.archive(thread_id)
        move = e.threads.unarchive if back else e.threads.archive
        files.failing = {op: errno.EIO}
        with pytest.raises(RolloutUnusable, match="Input/output error") as caught:
            move(thread_id)
        assert caught.value.hint
        files.failing = {}
        assert said(e.threads.read(thread_id)) == ["hello"]
        move(thread_id)
        (path,) = rollouts(home)
        assert path.startswith("archived") != back
        assert row_of(e, thread_id)[0] != back
        assert e.audit().findings == []


class Stopped(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("back", [False, True])
def test_a_move_that_a_crash_stopped_at_any_step_is_finished_when_the_home_is_opened(
    tmp_path: Path, back: bool
) -> None:
    """The process stops before one of its writing calls: after the announcement the next open has to go on."""
    step, ended = 1, False
    while not ended:
        home = tmp_path / str(step)
        with opened(home) as e:
            thread_id = written(e, "hello")
            if back:
                e.threads.archive(thread_id)
        ended = not moved_until(home, thread_id, step, back=back)
        announced = step > 1
        with opened(home, options=LOOK) as e:
            (path,) = rollouts(home)
            assert path.startswith("archived") == (announced != back)
            assert row_of(e, thread_id)[0] == (announced != back)
            assert said(e.threads.read(thread_id)) == ["hello"]
            assert e.audit().findings == []
            with e._database.read() as transaction:
                assert transaction.row("SELECT count(*) FROM facts WHERE archive_pending = 1") == (0,)
        step += 1
    assert step > 12


def moved_until(home: Path, thread_id: str, step: int, *, back: bool) -> bool:
    """Move the thread, to stop before the writing call of this number; whether there was one."""
    calls = [0]

    def stop(_: int, call: Call) -> int | None:
        steps = ("write", "sync", "link", "remove", "sync_folder")
        if call.op.startswith(("archive.", "journal.")) and call.name in steps:
            calls[0] += 1
            if calls[0] >= step:
                raise Stopped
        return None

    e = opened(home, files=FaultyFiles(Files(), stop))
    try:
        (e.threads.unarchive if back else e.threads.archive)(thread_id)
    except Stopped:
        return True
    finally:
        e._database.close()
    return False


def test_a_move_that_is_finished_later_has_the_time_at_which_it_was_asked_for(tmp_path: Path) -> None:
    home, files, clock = tmp_path / "home", Faults(), ManualClock()
    with opened(home, clock, files=files) as e:
        thread_id = written(e, "hello")
        files.failing = {"archive.link": errno.EIO}
        asked_ms = clock.wall_ms()
        with pytest.raises(RolloutUnusable):
            e.threads.archive(thread_id)
    later = ManualClock(wall_ms=asked_ms + 86_400_000)
    with opened(home, later) as e:
        assert e.threads.get(thread_id).archived_at_ms == asked_ms
        e.threads.unarchive(thread_id)
        e.threads.archive(thread_id)
        assert e.threads.get(thread_id).archived_at_ms == later.wall_ms()


def test_an_unfinished_move_of_a_thread_that_is_in_use_waits_for_the_next_time(tmp_path: Path) -> None:
    home, files = tmp_path / "home", Faults()
    with opened(home, files=files) as e:
        thread_id = written(e, "hello")
        files.failing = {"archive.link": errno.EIO}
        with pytest.raises(RolloutUnusable):
            e.threads.archive(thread_id)
        files.failing = {}
        with e.threads.resume(thread_id), opened(home):
            assert rollouts(home)[0].startswith("sessions/")
        with opened(home):
            assert rollouts(home)[0].startswith("archived_sessions/")


def test_a_file_that_has_the_name_already_is_never_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        thread_id = written(e, "hello")
        (active,) = rollouts(home)
        kept = (home / active).read_bytes()
        taken = home / "archived_sessions" / active.rpartition("/")[2]
        taken.parent.mkdir()
        taken.write_bytes(b"somebody else's\n")
        with pytest.raises(RolloutUnusable, match="File exists"):
            e.threads.archive(thread_id)
        assert taken.read_bytes() == b"somebody else's\n"
        assert (home / active).read_bytes() == kept


def test_a_thread_that_somebody_else_moved_by_hand_is_seen_where_it_is(tmp_path: Path) -> None:
    """The rows are up to date for the next hour, as far as they know: the call looks again before it says gone."""
    home = tmp_path / "home"
    with opened(home) as e:
        thread_id = written(e, "hello")
        e.threads.list()
        (active,) = rollouts(home)
        (home / "archived_sessions").mkdir()
        os.rename(home / active, home / "archived_sessions" / active.rpartition("/")[2])
        e.threads.unarchive(thread_id)
        assert rollouts(home) == [active]
        assert row_of(e, thread_id)[0] is False


def test_decisions_are_records_and_come_back_when_every_database_is_deleted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        thread_id = written(e, "hello")
        e.threads.rename(thread_id, "first")
        e.threads.rename(thread_id, "  second ")
        e.threads.set_memory_mode(thread_id, "polluted")
        e.threads.rename(thread_id.upper(), "third")
    assert journal(home) == [
        ("thread_named", "first"),
        ("thread_named", "second"),
        ("memory_mode_set", "polluted"),
        ("thread_named", "third"),
    ]
    for path in (home / "engine").glob("*.sqlite*"):
        path.unlink()
    with opened(home) as e:
        (row,) = e.threads.list().threads
        assert (row.id, row.name, row.memory_mode) == (thread_id, "third", "polluted")
        e.threads.rename(thread_id, None)
        (row,) = e.threads.list().threads
        assert row.name is None


@pytest.mark.parametrize("way", ["create", "resume", "fork"])
def test_a_thread_that_opens_while_the_engine_closes_is_refused_and_gives_its_lock_back(
    tmp_path: Path, way: str
) -> None:
    """`close` comes when the lock is taken: the list of what it closes has been read by then."""
    waiting: list[engine.Engine] = []

    def closing(_: int, call: Call) -> None:
        if call.op == "lock.take" and waiting:
            waiting.pop().close()

    home = tmp_path / "home"
    e = opened(home, files=FaultyFiles(Files(), closing))
    with e.threads.create(cwd="/") as thread:
        say(thread, "hello")
    waiting.append(e)
    with pytest.raises(EngineClosed):
        e.threads.create(cwd="/") if way == "create" else getattr(e.threads, way)(thread.id)
    assert waiting == []
    assert list((home / "engine" / "locks" / "threads").glob("*.lock")) == []
    with opened(home) as again, again.threads.resume(thread.id) as resumed:
        assert said(resumed.read()) == ["hello"]


def test_all_threads_are_closed_though_one_of_them_cannot_be(tmp_path: Path) -> None:
    files = Faults()
    e = opened(tmp_path / "home", files=files)
    threads = [e.threads.create(cwd="/", durability="buffered") for _ in range(3)]
    for thread in threads:
        say(thread, "hello")
    files.failing = {"recorder.sync": errno.EIO}
    with pytest.raises(engine.EngineError):
        e.close()
    files.failing = {}
    with opened(tmp_path / "home") as e:
        for thread in threads:
            e.threads.resume(thread.id).close()
