"""What an open engine does by itself: it catches up, gives way, ends when told to, and is never waited for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

import engine
from engine.errors import StoreBusy
from engine.options import Options
from engine.projections.background import FIRST_AFTER_S, LOOK_S, REST_S_MAX, REST_SHARE, Background, Chore
from engine.projections.runner import Runner
from engine.projections.sides import Sides
from engine.projections.threads import Threads
from engine.stores.files import Files
from engine.testing import HomePlan, MadeThread, ManualClock, append_turns, make_home, make_rollout
from engine.testing.files import Call, FaultyFiles, RecordingFiles
from engine.testing.tables import dump

THREADS = 40
NEVER_AGAIN_S = 3_600.0
"""One round at the open, and no second one while a test runs."""

OPTIONS = Options(background_scan_s=NEVER_AGAIN_S, scan_interval_ms=0)
OFTEN = Options(background_scan_s=0.02, scan_interval_ms=0)


def wait_for(what: Callable[[], bool]) -> None:
    """Until it is so; what never comes to be fails the test after a minute."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_home(tmp_path / "home", HomePlan(threads=THREADS, bytes_max=4_000, reverted=0.0))
    return tmp_path / "home"


def rows(home: Path, sql: str = "SELECT count(*) FROM threads") -> list[tuple]:
    """Asked behind the engine's back, since a list would look at the files itself."""
    connection = apsw.Connection(f"{home}/engine/state_1.sqlite", flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(10_000)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def is_complete(home: Path) -> bool:
    return rows(home, "SELECT status FROM backfill WHERE rebuild_begun_at_ms IS NULL") == [("complete",)]


# --- the thread itself -----------------------------------------------------------------------------------------------


@contextmanager
def running(
    *chores: Chore, interval_s: float = NEVER_AGAIN_S, clock: ManualClock | None = None
) -> Iterator[Background]:
    background = Background(
        {f"chore {number}": chore for number, chore in enumerate(chores)},
        lambda: 0,
        interval_s=interval_s,
        clock=clock or ManualClock(),
    )
    background.start()
    try:
        yield background
    finally:
        background.close()


def test_it_rests_many_times_as_long_as_it_works_and_never_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rested = ManualClock(), []

    def chore(rest: Callable[[], bool]) -> None:
        for ms in (10, 100, 10_000):
            clock.advance(ms)
            rest()

    background = Background({"a": chore}, lambda: 0, interval_s=1, clock=clock)
    monkeypatch.setattr(background._stop, "wait", rested.append)
    monkeypatch.setattr(background._wake, "wait", lambda s: background._stop.set() if s != FIRST_AFTER_S else None)
    background._run()
    assert rested[:4] == pytest.approx([LOOK_S, 0.01 * REST_SHARE, 0.1 * REST_SHARE, REST_S_MAX])


def round_beside(appends_a_look: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What one round does beside a writer that appends so often while it rests or looks; and for ever as the last says."""
    seen: list[str] = []
    appends = [0]
    left = list(appends_a_look)

    def wait(seconds: float) -> bool:
        seen.append("look" if seconds == LOOK_S else "rest")
        appends[0] += left.pop(0) if len(left) > 1 else left[0]
        return False

    def chore(rest: Callable[[], bool]) -> None:
        seen.append("piece")
        rest()
        seen.append("piece")

    background = Background({"a": chore}, lambda: appends[0], interval_s=1, clock=ManualClock())
    monkeypatch.setattr(background._stop, "wait", wait)
    monkeypatch.setattr(background._wake, "wait", lambda s: background._stop.set() if s != FIRST_AFTER_S else None)
    background._run()
    return seen


@pytest.mark.parametrize(
    ("appends_a_look", "expected"),
    [
        ([0], "look piece rest piece"),
        ([9, 9, 0], "look look look piece rest piece"),
        ([3], "look piece rest look piece"),  # that is a rest of 2 ms, and then 150 a second
        ([0, 9, 9, 0], "look piece rest look look piece"),
    ],
)
def test_it_lets_appends_that_come_without_a_rest_go_first(
    appends_a_look: list[int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert " ".join(round_beside(appends_a_look, monkeypatch)) == expected


def test_a_writer_that_never_rests_keeps_it_for_one_interval_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = round_beside([9], monkeypatch)
    assert seen[-3:] == ["piece", "rest", "piece"]
    assert len(seen) == pytest.approx(1 / LOOK_S + 4, abs=1)


def test_the_first_round_leaves_a_moment_to_the_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    waits: list[tuple[float, int]] = []
    background = Background({"a": lambda _: done.append(1)}, lambda: 0, interval_s=10, clock=ManualClock())

    def wait(seconds: float) -> None:
        waits.append((seconds, len(done)))
        if done:
            background._stop.set()

    monkeypatch.setattr(background._wake, "wait", wait)
    background._run()
    assert waits[0] == (FIRST_AFTER_S, 0)
    assert len(waits) == 2
    assert waits[1][1] == 1


def test_chores_run_in_turn_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    with running(lambda _: done.append("a"), lambda _: done.append("b"), interval_s=0.001) as background:
        wait_for(lambda: len(done) >= 6)
        assert done[:6] == ["a", "b"] * 3
        assert background.last_error is None


def test_a_round_that_is_asked_for_does_not_wait_for_its_time() -> None:
    done: list[int] = []
    with running(lambda _: done.append(1), interval_s=NEVER_AGAIN_S) as background:
        wait_for(lambda: len(done) == 1)
        background.wake()
        wait_for(lambda: len(done) == 2)


def test_a_chore_that_fails_is_counted_and_told_and_keeps_no_other_from_its_turn() -> None:
    done: list[str] = []

    def failing(_: Callable[[], bool]) -> None:
        raise ZeroDivisionError("by nothing")

    with running(failing, lambda _: done.append("b")) as background:
        wait_for(lambda: background.last_error is not None)
        assert (done, background.last_error) == (["b"], "chore 0: by nothing")
        assert (background.counters.chores_done, background.counters.chores_failed) == (1, 1)


def test_a_lock_that_somebody_keeps_is_no_failure() -> None:
    turns: list[int] = []

    def busy(_: Callable[[], bool]) -> None:
        turns.append(1)
        raise StoreBusy("kept", waited_ms=1)

    with running(busy, interval_s=0.001) as background:
        wait_for(lambda: len(turns) > 2)
        assert (background.last_error, background.counters.chores_failed) == (None, 0)


def test_closing_ends_a_chore_at_its_next_rest_and_no_other_begins() -> None:
    begun, done, after = threading.Event(), threading.Event(), []

    def long(rest: Callable[[], bool]) -> None:
        begun.set()
        while not rest():
            pass
        done.set()

    with running(long, lambda _: after.append(1)) as background:
        assert begun.wait(60)
        background.close()
        assert done.is_set()
        assert background._thread is not None
        assert not background._thread.is_alive()
    assert after == []


def test_without_an_interval_there_is_no_thread() -> None:
    with running(lambda _: None, interval_s=0) as background:
        assert background._thread is None


# --- the engine's own ------------------------------------------------------------------------------------------------


def test_an_open_home_is_indexed_by_itself_and_the_tables_are_those_of_a_backfill(home: Path, tmp_path: Path) -> None:
    with engine.open(str(home), options=OPTIONS) as opened:
        wait_for(lambda: is_complete(home))
        assert opened.threads.list(limit=0).partial is None
        assert opened.status().counters["chores_failed"] == 0
    with engine.open(str(home), state_dir=str(tmp_path / "other")) as other:
        other.backfill()
    assert dump(home / "engine/state_1.sqlite") == dump(tmp_path / "other/state_1.sqlite")


def test_what_changes_later_is_found_by_a_later_round(home: Path) -> None:
    with engine.open(str(home), options=OFTEN):
        wait_for(lambda: is_complete(home))
        new = make_rollout(home, seed=99, size=5_000)
        wait_for(lambda: rows(home, f"SELECT 1 FROM threads WHERE id = '{new.id}'") == [(1,)])
        (home / new.path).unlink()
        wait_for(lambda: rows(home, "SELECT count(*) FROM streams WHERE missing_since_ms IS NOT NULL") == [(1,)])


def test_a_raised_version_is_rebuilt_after_the_next_open_and_lists_never_shrink(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release whose fold gives other titles: all rows become its own, and at no moment is one missing."""
    with engine.open(str(home)) as opened:
        opened.backfill()
    plain = Threads.close_piece

    def close_piece(self, state, piece):
        plain(self, state, piece)
        state.title = "of the next release"

    monkeypatch.setattr(Threads, "version", Threads.version + 1)
    monkeypatch.setattr(Threads, "close_piece", close_piece)
    seen = []

    def is_rebuilt() -> bool:
        seen.append(rows(home)[0][0])
        return rows(home, "SELECT count(*) FROM threads WHERE title = 'of the next release'") == [(THREADS,)]

    with engine.open(str(home), options=OPTIONS) as opened:
        wait_for(is_rebuilt)
        assert set(seen) == {THREADS}
        wait_for(lambda: opened.status().lag.files == 0)
        assert opened.threads.list(limit=0).partial is None


def test_a_rebuild_that_was_stopped_is_ended_by_the_next_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And reads what is left of it alone; what side databases read besides is not counted here."""
    monkeypatch.setattr(Sides, "tend", lambda *_: None)

    def stop(progress):
        if progress.files_done >= 20:
            raise KeyboardInterrupt

    with engine.open(str(home), options=Options(batch_streams=20)) as opened:
        opened.backfill()
        with pytest.raises(KeyboardInterrupt):
            opened.rebuild(progress=stop)
    assert not is_complete(home)
    before = rows(home, "SELECT count(*) FROM watermarks WHERE version = 0")
    files = RecordingFiles(Files())
    with engine.open(str(home), options=OPTIONS, files=files):
        wait_for(lambda: is_complete(home))
    assert [(files.count("open_read", op="rollout.open"),)] == before
    assert rows(home, "SELECT count(*) FROM watermarks WHERE version = 0") == [(0,)]


class Held(FaultyFiles):
    """Rollouts cannot be opened before `go` is set; `reached` tells that somebody waits for it."""

    def __init__(self) -> None:
        self.go, self.reached = threading.Event(), threading.Event()
        super().__init__(Files(), self._hold)

    def _hold(self, _number: int, call: Call) -> None:
        if call.op == "rollout.open" and threading.current_thread().name == "rolloutdb-background":
            self.reached.set()
            assert self.go.wait(60)


def test_open_append_list_and_close_do_not_wait_for_it(home: Path) -> None:
    """It hangs in the middle of a rollout on a disk that does not answer: everything else goes on."""
    files = Held()
    with engine.open(str(home), options=OPTIONS, files=files) as opened:
        assert files.reached.wait(60)
        with opened.threads.create(cwd="/") as thread, thread.turn() as turn:
            turn.user_message("hello")
        assert thread.id in {row.id for row in opened.threads.list(limit=0).threads}
    assert any(each.name == "rolloutdb-background" for each in threading.enumerate())
    files.go.set()  # closed long ago: what it reads now it cannot write any more
    wait_for(lambda: not any(each.name == "rolloutdb-background" for each in threading.enumerate()))


def test_a_list_that_looks_at_the_files_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would fold the same rollouts, each at half the speed."""
    told: list[str] = []

    class Mutex:
        def __enter__(self) -> None:
            told.append("waits for who looks")

        def __exit__(self, *_: object) -> None:
            """Nobody does."""

    def scan(self: Runner, plain: Any = Runner.scan, **how: Any) -> Any:
        told.append("scans")
        return plain(self, **how)

    with engine.open(str(home), options=Options(background_scan_s=0)) as e:
        monkeypatch.setattr(e._catch_up, "_mutex", Mutex())
        monkeypatch.setattr(Runner, "scan", scan)
        e._tend(lambda: False)
    assert told[:2] == ["waits for who looks", "scans"]


def test_a_backfill_of_ones_own_comes_first(home: Path) -> None:
    """The background is in the middle of a piece: the back-fill waits for no more than that, and nobody else worked."""
    files = Held()
    with engine.open(str(home), options=OPTIONS, files=files) as opened:
        assert files.reached.wait(60)
        reports = []
        worker = threading.Thread(target=lambda: reports.append(opened.backfill()))
        worker.start()
        files.go.set()
        worker.join(60)
        (report,) = reports
        assert (report.status, report.threads, report.joined) == ("complete", THREADS, False)
        assert report.files >= THREADS - 16


def test_while_a_run_waits_for_the_lease_nothing_is_tended(home: Path) -> None:
    with engine.open(str(home)) as opened, opened._backfill._untended():
        opened._backfill.tend(lambda: False)
        assert rows(home) == [(0,)]
    with engine.open(str(home)) as opened:
        opened._backfill.tend(lambda: False)
        assert rows(home) == [(THREADS,)]


def test_of_many_engines_on_one_home_one_works_at_a_time_and_nothing_is_done_twice(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six engines begin at once, with many rounds each: every rollout is opened once, by one of them.

    So it is for the threads. Side databases are tended by everybody, without a lease; their files would be counted too.
    """
    monkeypatch.setattr(Sides, "tend", lambda *_: None)
    files = [RecordingFiles(Files()) for _ in range(6)]
    engines = [engine.open(str(home), options=OFTEN, files=each) for each in files]
    try:
        wait_for(lambda: is_complete(home))
        wait_for(lambda: all(each.counters["chores_done"] > 3 for each in engines))
        assert sum(each.counters["chores_failed"] for each in engines) == 0
    finally:
        for each in engines:
            each.close()
    opened = sum(each.count("open_read", op="rollout.open") for each in files)
    assert [(opened,)] == rows(home, "SELECT count(*) FROM streams")


def test_where_nothing_changes_nothing_is_written(home: Path) -> None:
    with engine.open(str(home), options=OFTEN) as opened:
        wait_for(lambda: is_complete(home))
        wait_for(lambda: opened.counters["chores_done"] > 0)
        before = opened.counters
        wait_for(lambda: opened.counters["chores_done"] > before["chores_done"] + 3)
        assert opened.counters["transactions"] == before["transactions"]


def test_a_home_that_cannot_be_written_is_indexed_in_memory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files, "writable", lambda *_, **__: False)
    with engine.open(str(home), options=OPTIONS) as opened:
        assert opened.state_dir is None
        wait_for(lambda: opened.status().backfill.status == "complete")
        assert len(opened.threads.list(limit=0).threads) == THREADS
    assert not (home / "engine").exists()


def test_what_goes_wrong_in_the_background_is_in_the_status(home: Path) -> None:
    failing = {"on": True}

    def fail(_number: int, call: Call) -> int | None:
        in_background = threading.current_thread().name == "rolloutdb-background"
        return 5 if failing["on"] and in_background and call.op == "facts.stat" else None

    with engine.open(str(home), options=OFTEN, files=FaultyFiles(Files(), fail)) as opened:
        wait_for(lambda: opened.status().background_error is not None)
        status = opened.status()
        assert "session_index.jsonl" in str(status.background_error)
        assert status.counters["chores_failed"] >= 1
        failing["on"] = False
        wait_for(lambda: opened.status().background_error is None)


def test_a_database_that_is_lost_is_begun_anew_by_the_background(home: Path) -> None:
    with engine.open(str(home), options=OFTEN):
        wait_for(lambda: is_complete(home))
        for suffix in ("", "-wal", "-shm"):
            (home / f"engine/state_1.sqlite{suffix}").unlink(missing_ok=True)
        wait_for(lambda: (home / "engine/state_1.sqlite").exists() and _is_there(home))


def _is_there(home: Path) -> bool:
    try:
        return is_complete(home) and rows(home) == [(THREADS,)]
    except apsw.SQLError:  # it is being made
        return False


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_none_and_the_parents_goes_on(home: Path) -> None:
    with engine.open(str(home), options=OFTEN) as opened:
        pid = os.fork()
        if pid == 0:
            opened.close()
            os._exit(len(threading.enumerate()) != 1)
        assert os.waitpid(pid, 0)[1] == 0
        wait_for(lambda: is_complete(home))


def test_rounds_beside_appends_of_the_same_engine_lose_nothing(home: Path, tmp_path: Path) -> None:
    made: list[MadeThread] = make_home(tmp_path / "more", HomePlan(threads=3, bytes_max=3_000))
    with engine.open(str(tmp_path / "more"), options=Options(background_scan_s=0.001, flush_delay_ms=1)) as opened:
        longer = [append_turns(tmp_path / "more", thread) for thread in made for _ in range(1)]
        for number in range(40):
            with opened.threads.create(cwd="/") as thread, thread.turn() as turn:
                turn.user_message(f"word {number}")
        listed = {row.preview for row in opened.threads.list(limit=0).threads}
        assert {f"word {number}" for number in range(40)} <= listed
        for thread in longer:
            row = opened.threads.get(thread.id)
            assert row is not None
            assert row.tokens_used == thread.row["tokens_used"]
        assert opened.audit().findings == []
        assert opened.counters["chores_failed"] == 0


def test_a_thread_that_is_erased_while_it_is_folded_for_the_first_time_leaves_no_row(home: Path) -> None:
    """The background had read it before the erasure and writes behind it; the words are in no table."""
    made = make_rollout(home, seed=77, size=5_000)
    with engine.open(str(home)) as opened:
        runner = opened._runner
        jobs = {job.path: job for job in runner.jobs([each for each in runner.scan() if each.found.path == made.path])}
        folded = list(runner.do(jobs.values()))
        assert [len(each.folded) for each in folded] == [1]
        opened.threads.erase(made.id, grace_s=None)
        runner.write(folded, jobs)
        assert opened.threads.get(made.id) is None
        assert rows(home, f"SELECT count(*) FROM streams WHERE path = '{made.path}'") == [(0,)]
        assert rows(home, f"SELECT count(*) FROM watermarks WHERE stream = '{made.path}'") == [(0,)]
