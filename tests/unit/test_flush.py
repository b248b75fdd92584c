"""Rows follow appends: when a transaction is made, when none is, and what a query and a broken database do."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest

import engine
from engine.errors import StoreCorrupt, StoreFull
from engine.options import Options
from engine.stores.files import Files
from engine.testing import ManualClock
from engine.testing.files import FaultyFiles
from engine.testing.tables import dump
from tests.writing import opened, say

QUIET: dict[str, Any] = {"type": "response_item", "payload": {"type": "web_search_call", "status": "completed"}}
"""An item that no projection asks for."""


def state(home: Path) -> Path:
    return home / "engine" / "state_1.sqlite"


def updated(e: engine.Engine, thread_id: str) -> int:
    row = e.threads.get(thread_id)
    assert row is not None
    return row.updated_at_ms


def test_an_append_that_changes_no_table_makes_no_transaction(tmp_path: Path) -> None:
    """A thousand of them: the first touches the row, all others within the interval touch nothing."""
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/", durability="buffered") as thread:
        say(thread, "hello")
        e.threads.list()
        before = e.counters
        for _ in range(1_000):
            thread.append([QUIET])
            e.threads.list()
        after = e.counters
    assert after["appends"] - before["appends"] == 1_000
    assert after["syncs"] == before["syncs"]
    assert after["transactions"] == before["transactions"]
    assert after["upserts"] == before["upserts"]
    assert after["touches_suppressed"] - before["touches_suppressed"] == 1_000
    assert after["touches_written"] == before["touches_written"]


def test_a_query_that_finds_nothing_new_makes_no_transaction(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        say(thread, "hello")
        e.threads.list()
        before = e.counters["transactions"]
        for _ in range(10):
            e.threads.list()
            e.threads.get(thread.id)
            e.threads.fetch(thread.id)
        assert e.counters["transactions"] == before


def test_a_thread_is_touched_at_most_once_in_the_interval(tmp_path: Path) -> None:
    """In twelve seconds of an append a second: at 5 and at 10, each touch with the time of the append."""
    clock = ManualClock()
    with opened(tmp_path / "home", clock) as e, e.threads.create(cwd="/") as thread:
        say(thread, "hello")
        start = updated(e, thread.id)
        before = e.counters
        seen = []
        for _ in range(12):
            clock.advance(1_000)
            thread.append([QUIET])
            seen.append((updated(e, thread.id) - start) // 1_000)
        assert seen == [0, 0, 0, 0, 5, 5, 5, 5, 5, 10, 10, 10]
        assert e.counters["touches_written"] - before["touches_written"] == 2
        assert e.counters["touches_suppressed"] - before["touches_suppressed"] == 10
        assert e.counters["transactions"] - before["transactions"] == 2
    with opened(tmp_path / "home", clock) as e:
        assert updated(e, thread.id) - start == 12_000


def test_what_was_held_back_is_written_when_the_thread_is_closed_or_changes_a_table(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path / "home", clock) as e:
        thread = e.threads.create(cwd="/")
        say(thread, "hello")
        start = updated(e, thread.id)
        clock.advance(1_000)
        thread.append([QUIET])
        assert updated(e, thread.id) == start
        thread.add_usage({"total_tokens": 1})
        assert updated(e, thread.id) == start + 1_000
        clock.advance(1_000)
        thread.append([QUIET])
        assert updated(e, thread.id) == start + 1_000
        thread.close()
        assert updated(e, thread.id) == start + 2_000


def test_touches_of_many_threads_are_one_transaction_at_close(tmp_path: Path) -> None:
    clock = ManualClock()
    e = opened(tmp_path / "home", clock)
    threads = [e.threads.create(cwd="/", durability="buffered") for _ in range(30)]
    for thread in threads:
        say(thread, "hello")
    e.threads.list()
    clock.advance(1_000)
    for thread in threads:
        thread.append([QUIET])
    before = e.counters
    e.close()
    assert e.counters["transactions"] - before["transactions"] == 1
    assert e.counters["touches_written"] - before["touches_written"] == 30
    with opened(tmp_path / "home", clock) as e:
        assert e.status().lag.files == 0


def test_a_query_reads_its_own_writes_and_one_flush_takes_all_dirty_threads(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        threads = [e.threads.create(cwd="/", durability="buffered") for _ in range(25)]
        before = e.counters["transactions"]
        for number, thread in enumerate(threads):
            say(thread, f"word {number}")
        assert e.counters["transactions"] == before
        found = {row.id: row.preview for row in e.threads.list(limit=0).threads}
        assert found == {thread.id: f"word {number}" for number, thread in enumerate(threads)}
        assert e.counters["transactions"] == before + 1
        assert e.counters["upserts"] == 25


def test_a_flush_under_way_elsewhere_is_waited_for_and_then_not_any_longer(tmp_path: Path) -> None:
    """While one hangs in its fold a query answers with the rows that there are; when it is done, with the new ones."""
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        say(thread, "first")
        e.threads.list()
        folding, go_on = threading.Event(), threading.Event()
        fold = e._runner.write

        def slow(*args: Any, **kwargs: Any) -> None:
            folding.set()
            assert go_on.wait(60)
            fold(*args, **kwargs)

        e._runner.write = slow  # type: ignore[method-assign]
        thread.settings(model="new")
        other = threading.Thread(target=e._flush.flush)
        other.start()
        assert folding.wait(60)
        assert [row.model for row in e.threads.list().threads] == ["unknown"]
        go_on.set()
        other.join()
        assert [row.model for row in e.threads.list().threads] == ["new"]


def test_a_query_sees_what_a_flush_that_is_under_way_just_writes(tmp_path: Path) -> None:
    """The flush goes on when the query has begun to wait for it, so a query that does not wait sees the old rows."""
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        say(thread, "first")
        e.threads.list()
        folding, waiting = threading.Event(), threading.Event()
        fold, mutex = e._runner.write, e._flush._mutex

        class Told:
            def acquire(self, timeout: float = -1) -> bool:
                if folding.is_set():
                    waiting.set()
                return mutex.acquire(timeout=timeout)

            release, locked = staticmethod(mutex.release), staticmethod(mutex.locked)

        def slow(*args: Any, **kwargs: Any) -> None:
            folding.set()
            waiting.wait(5)
            fold(*args, **kwargs)

        e._flush._mutex = Told()  # type: ignore[assignment]
        e._runner.write = slow  # type: ignore[method-assign]
        thread.settings(model="new")
        other = threading.Thread(target=e._flush.flush)
        other.start()
        assert folding.wait(60)
        assert [row.model for row in e.threads.list().threads] == ["new"]
        other.join()


def test_a_fold_that_somebody_else_was_faster_than_is_done_again_and_counted(tmp_path: Path) -> None:
    """Between our fold and our transaction another engine follows the same rollout further."""
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        say(thread, "first")
        e.threads.list()
        before, write = e.counters, e._runner.write

        def overtaken(*args: Any, **kwargs: Any) -> None:
            e._runner.write = write  # type: ignore[method-assign]
            thread.settings(model="further")
            with opened(tmp_path / "home") as other:
                other.backfill()
            write(*args, **kwargs)

        e._runner.write = overtaken  # type: ignore[method-assign]
        thread.settings(model="new")
        assert [row.model for row in e.threads.list().threads] == ["further"]
        assert e.counters["lost_swaps"] - before["lost_swaps"] == 1
        assert e.audit().findings == []


def test_a_lock_that_somebody_keeps_fails_no_append_and_a_query_answers_with_what_there_is(tmp_path: Path) -> None:
    """The query waits by the clock, which moves only when somebody waits: three waits of a quarter second at most."""
    clock = ManualClock()
    with opened(tmp_path / "home", clock) as e, e.threads.create(cwd="/") as thread:
        say(thread, "first")
        e.threads.list()
        holder = apsw.Connection(str(state(tmp_path / "home")), flags=apsw.SQLITE_OPEN_READWRITE)
        holder.execute("BEGIN IMMEDIATE")
        thread.settings(model="new")
        before_ms = clock.boot_ms()
        assert [row.model for row in e.threads.list().threads] == ["unknown"]
        assert 250 <= clock.boot_ms() - before_ms < 1_000
        assert e.counters["busy_waits"] > 0
        e.threads.rename(thread.id, "named meanwhile")
        assert e.counters["flushes_failed"] >= 1
        holder.execute("ROLLBACK")
        holder.close()
        assert [(row.model, row.name) for row in e.threads.list().threads] == [("new", "named meanwhile")]
        assert e.audit().findings == []


LOST = {
    "removed": lambda _: None,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage " * 5_000),
}


@pytest.mark.parametrize("case", LOST)
def test_a_database_that_is_lost_while_threads_are_written_comes_back_with_all_rows(tmp_path: Path, case: str) -> None:
    """Appends, names and turns go on; the next query sees every thread, and what was decided."""
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        with e.threads.create(cwd="/") as other:
            say(other, "older")
        e.threads.rename(other.id, "named")
        e.threads.list()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{state(home)}{suffix}").unlink(missing_ok=True)
        LOST[case](state(home))
        say(thread, "hello")
        page = e.threads.list()
        assert page.partial is None
        assert {(row.preview, row.name) for row in page.threads} == {("older", "named"), ("hello", None)}
        assert e.audit().findings == []
    rows = dump(state(home))
    for path in (home / "engine").glob("state_1.sqlite*"):
        path.unlink()
    with opened(home) as e:
        e.backfill()
    left_out = ("backfill", "divergences")
    assert {table: found for table, found in dump(state(home)).items() if table not in left_out} == {
        table: found for table, found in rows.items() if table not in left_out
    }


def test_a_database_that_is_damaged_in_the_middle_is_begun_anew_by_the_query_that_meets_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        say(thread, "hello")
    with open(state(home), "r+b") as file:
        file.seek(0, 2)
        size = file.tell()
        file.seek(8_192)
        file.write(b"\xff" * (size - 8_192))
    with opened(home) as e:
        assert [row.preview for row in e.threads.list().threads] == ["hello"]
        assert e.audit().findings == []
    assert list((home / "engine" / "quarantine").rglob("state_1.sqlite"))


def test_a_full_disk_under_the_tables_fails_neither_append_nor_query(tmp_path: Path) -> None:
    """A query says that it does not cover every file; the rows follow when there is room."""
    always = Options(flush_delay_ms=3_600_000, scan_interval_ms=0)
    with opened(tmp_path / "home", options=always) as e, e.threads.create(cwd="/") as thread:
        say(thread, "first")
        e.threads.list()
        write = e._runner.write

        def full(*_: Any, **__: Any) -> None:
            raise StoreFull("database or disk is full")

        e._runner.write = full  # type: ignore[method-assign]
        with e.threads.create(cwd="/") as other:
            say(other, "second")
        page = e.threads.list()
        assert [row.preview for row in page.threads] == ["first"]
        assert page.partial is not None
        e._runner.write = write  # type: ignore[method-assign]
        page = e.threads.list()
        assert sorted(row.preview or "" for row in page.threads) == ["first", "second"]
        assert page.partial is None
        assert e.audit().findings == []


def test_a_rollout_that_cannot_be_looked_at_does_not_keep_others_from_their_rows(tmp_path: Path) -> None:
    """Its own row follows with the next back-fill."""
    locked = ["nothing"]
    files = FaultyFiles(
        Files(),
        lambda _, call: (
            errno.EACCES if call.op == "layout.locate" and call.path and call.path.endswith(locked[0]) else None
        ),
    )
    with (
        opened(tmp_path / "home", files=files) as e,
        e.threads.create(cwd="/") as one,
        e.threads.create(cwd="/") as two,
    ):
        e.threads.list()
        say(one, "one")
        say(two, "two")
        locked[0] = f"{two.id}.jsonl"
        assert [row.preview for row in e.threads.list().threads] == ["one"]
        locked[0] = "nothing"
        e.backfill()
        assert sorted(row.preview or "" for row in e.threads.list().threads) == ["one", "two"]


def test_damage_that_only_a_flush_meets_is_mended_by_the_query_that_flushes(tmp_path: Path) -> None:
    """The question itself reads sound pages, and would be answered with old rows for ever."""
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        say(thread, "hello")
        e.threads.list()
        write, replace = e._runner.write, e._database.replace

        def damaged(*_: Any, **__: Any) -> None:
            raise StoreCorrupt("database disk image is malformed")

        def mended() -> str | None:
            e._runner.write = write  # type: ignore[method-assign]
            return replace()

        e._runner.write = damaged  # type: ignore[method-assign]
        e._database.replace = mended  # type: ignore[method-assign]
        thread.settings(model="new")
        assert [row.model for row in e.threads.list().threads] == ["new"]
        assert list((home / "engine" / "quarantine").rglob("state_1.sqlite"))


def test_a_close_that_comes_just_when_the_timer_fires_does_not_wait_for_ever(tmp_path: Path) -> None:
    """Its wake was once cleared together with that of the append, and the close waited for a timer that slept."""
    e = engine.open(str(tmp_path), options=Options(flush_delay_ms=1))
    flush = e._flush
    plain = flush._wake.clear

    def clear() -> None:
        flush._closing.set()
        flush._wake.set()
        plain()

    flush._wake.clear = clear  # type: ignore[method-assign]
    with e.threads.create(cwd="/") as thread:
        thread.append([QUIET])
        assert flush._timer is not None
        flush._timer.join(timeout=20)
        assert not flush._timer.is_alive()
    e.close()
