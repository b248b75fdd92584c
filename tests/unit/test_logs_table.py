"""The table of logs: the same rows however it was filled, bounded on disk, and done without at any time."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import SystemClock
from engine.errors import InvalidRequest
from engine.options import Options
from engine.projections import logs
from engine.projections.logs import LogTable
from engine.stores.files import Files
from engine.stores.sqlite import Database
from engine.testing import ManualClock
from tests.log_home import PATIENT, Process, bodies, opened

SECOND_US = 1_000_000
START_US = 1_767_603_600 * SECOND_US
FILE = "engine/logs_1.sqlite"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def process(tmp_path: Path, clock: ManualClock) -> Process:
    return Process(tmp_path, clock=clock)


def small(**how: Any) -> Options:
    return Options(log_fill_budget_ms=60_000, **how)


def segments(home: Path) -> list[Path]:
    return sorted((home / "engine/logs").rglob("*.jsonl"))


def size_of(home: Path) -> int:
    return sum(path.stat().st_size for path in segments(home))


def ids(e: Any, **wanted: Any) -> list[int]:
    return [each.id for each in e.logs.query(newest_first=False, limit=None, **wanted).records]


# Questions


def test_records_of_several_processes_come_in_the_order_of_their_times(tmp_path: Path, clock: ManualClock) -> None:
    one, two = (Process(tmp_path, number, clock=clock) for number in (1, 2))
    for index in range(6):
        (two if index % 2 else one).log(str(index), at_us=START_US + index)
    with opened(tmp_path, clock=clock) as e:
        assert bodies(e) == ["0", "1", "2", "3", "4", "5"]
        assert [each.body for each in e.logs.query(limit=2).records] == ["5", "4"]
        assert ids(e) == [START_US + index for index in range(6)]


def test_what_comes_late_has_a_higher_id_and_its_own_time(tmp_path: Path, clock: ManualClock) -> None:
    """So a client that asks for what came after an id misses nothing, and a span of time is still exact."""
    one, two = (Process(tmp_path, number, clock=clock) for number in (1, 2))
    one.log("on time", at_us=START_US + 10)
    with opened(tmp_path, clock=clock) as e:
        (first,) = ids(e)
        two.log("late", at_us=START_US + 3)
        two.log("later", at_us=START_US + 20)
        assert bodies(e, after_id=first) == ["late", "later"]
        late = e.logs.query(after_id=first, newest_first=False).records[0]
        assert (late.id, late.timestamp) == (START_US + 11, "2026-01-05T09:00:00.000003Z")
        assert bodies(e, from_us=START_US + 4) == ["on time", "later"]
        assert bodies(e, to_us=START_US + 10) == ["on time", "late"]
        assert bodies(e, from_us=START_US + 3, to_us=START_US + 3) == ["late"]


def test_all_filters_at_once(tmp_path: Path, process: Process) -> None:
    process.log("find me", "T-1", level="ERROR", module="my_tools", file="/src/100%/a.py", at_us=START_US + 5)
    for how in (
        {"thread": "t-2"}, {"level": "INFO"}, {"module": "other"}, {"file": "/src/b.py"}, {"at_us": START_US + 9},
    ):  # fmt: skip
        also = {"level": "ERROR", "module": "my_tools", "file": "/src/100%/a.py", "thread": "t-1", **how}
        process.log("find me", **also)
    process.log("other words", "t-1", level="ERROR", module="my_tools", file="/src/100%/a.py")
    wanted = {
        "level": "error", "levels": ["Error"], "modules": ["nothing", "tools"], "files": ["100%"], "search": "find",
        "thread_ids": ["t-1"], "from_us": START_US, "to_us": START_US + 6,
    }  # fmt: skip
    with opened(tmp_path, clock=process.clock) as e:
        assert ids(e, **wanted) == [START_US + 5]
        assert e.logs.max_id(**wanted) == START_US + 5
        assert e.logs.max_id(**{**wanted, "search": "nothing"}) == 0
        assert bodies(e, files=["100_"]) == []
        assert bodies(e, limit=0) == []


def test_the_highest_id_does_not_hang_on_limit_and_order(tmp_path: Path, process: Process) -> None:
    for index in range(3):
        process.log(str(index), at_us=START_US + index)
    with opened(tmp_path, clock=process.clock) as e:
        assert e.logs.max_id(limit=0, newest_first=False) == START_US + 2
        assert e.logs.max_id(search="1") == START_US + 1


def test_threads_beyond_those_that_are_read_side_by_side(tmp_path: Path, clock: ManualClock) -> None:
    several = [Process(tmp_path, number, clock=clock) for number in range(1, 71)]
    for index, each in enumerate(several):
        each.log(f"process {index}", at_us=START_US + 2 * index)
        each.log(f"thread {index}", f"t-{index}", at_us=START_US + 2 * index + 1)
    with opened(tmp_path, clock=clock) as e:
        assert len(bodies(e)) == 140
        assert bodies(e, threadless=True) == [f"process {index}" for index in range(70)]
        found = bodies(e, thread_ids=["t-3", "T-69"], threadless=True)
        assert [body for body in found if body.startswith("thread")] == ["thread 3", "thread 69"]
        assert len(found) == 72
        assert bodies(e, thread_ids=[f"t-{index}" for index in range(70)]) == [f"thread {index}" for index in range(70)]


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as e:
        for wanted in ({"limit": -1}, {"limit": 100_001}, {"level": "loud"}):
            with pytest.raises(InvalidRequest):
                e.logs.query(**wanted)


# Filling


def test_what_is_older_than_a_record_that_found_no_room_goes_too(tmp_path: Path, clock: ManualClock) -> None:
    """An old one stood beside the newest, with a gap between them, where a large one came with others in one batch."""
    options = small(log_partition_rows_max=4, log_partition_bytes_max=60)
    process = Process(tmp_path, 1, clock=clock, options=options)
    with opened(tmp_path, clock=clock, options=options) as e:
        process.log("old", at_us=START_US)
        e.logs.fill()
        for number, body in enumerate(("x" * 50, "new", "newer", "newest"), start=1):
            process.log(body, at_us=START_US + number)
        assert bodies(e) == ["new", "newer", "newest"]


@settings(max_examples=30)
@given(data=st.data())
def test_rows_are_the_newest_that_fit_however_the_table_was_filled(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The model is a list a partition; filling may come at any moment, in batches of any size."""
    home, clock = tmp_path_factory.mktemp("home"), ManualClock()
    options = small(
        log_partition_rows_max=4,
        log_partition_bytes_max=60,
        log_fill_records=data.draw(st.sampled_from([1, 2, 7, 1_000])),
        log_segment_bytes_max=data.draw(st.sampled_from([600, 1 << 20])),
    )
    processes = [Process(home, number, clock=clock, options=options) for number in (1, 2)]
    model: dict[Any, list[str]] = {}
    record = st.tuples(st.integers(0, 1), st.sampled_from([None, "a", "b"]), st.integers(1, 30), st.booleans())
    with opened(home, clock=clock, options=options) as e:
        for number, (which, thread, size, fills) in enumerate(data.draw(st.lists(record, max_size=25))):
            body = str(number).ljust(size, "x")
            processes[which].log(body, thread, at_us=START_US + number)
            model.setdefault(thread or which, []).append(body)
            if fills:
                e.logs.fill()
        kept = sorted((body for said in model.values() for body in fitting(said)), key=number_of)
        assert bodies(e) == kept
        with e._log_table.database().read() as transaction:
            counted = list(transaction.rows("SELECT number, rows, bytes FROM partitions ORDER BY number"))
            sql = "SELECT partition, count(*), sum(bytes) FROM logs GROUP BY partition ORDER BY partition"
            assert counted == list(transaction.rows(sql))
        before = ids(e)
    (home / FILE).unlink()
    with opened(home, clock=clock, options=options) as e:
        assert (bodies(e), ids(e)) == (kept, before)


def number_of(body: str) -> int:
    return int(body.rstrip("x"))


def fitting(said: list[str]) -> list[str]:
    """The newest of a partition: at most 4, of 60 bytes at most (7 of each are level and target), but always one."""
    kept: list[str] = []
    size = 0
    for body in reversed(said):
        size += len(body) + 7
        if kept and (len(kept) == 4 or size > 60):
            break
        kept.append(body)
    return kept


def test_the_table_may_be_thrown_away_at_any_time(tmp_path: Path, process: Process) -> None:
    for index in range(5):
        process.log(str(index), "t-1" if index % 2 else None)
    with opened(tmp_path, clock=process.clock) as e:
        before = e.logs.query(newest_first=False).records
        for path in (tmp_path / "engine").glob("logs_1.sqlite*"):
            path.unlink()
        assert e.logs.query(newest_first=False).records == before
        process.log("more")
        assert bodies(e)[-1] == "more"


def test_two_that_fill_at_once_give_each_record_one_row(tmp_path: Path) -> None:
    options, clock = small(log_fill_records=10, busy_wait_ms=60_000), SystemClock()
    process = Process(tmp_path, clock=clock, options=options)
    process.log_many([str(index) for index in range(300)])
    with (
        opened(tmp_path, options=options, clock=clock) as one,
        opened(tmp_path, options=options, clock=clock) as two,
    ):
        fillers = [threading.Thread(target=e.logs.fill) for e in (one, two) for _ in range(2)]
        for each in fillers:
            each.start()
        for each in fillers:
            each.join()
        assert bodies(one, threadless=True) == [str(index) for index in range(300)]
        assert two.logs.status().records == 300


def test_one_who_was_overtaken_goes_on_from_where_the_other_one_is(
    tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.log("one")
    with opened(tmp_path, clock=process.clock) as e, opened(tmp_path, clock=process.clock) as other:
        e.logs.fill()
        process.log("two")
        plain, overtaken = logs._batch, []

        def batch(entries: Any, records_max: int) -> Any:
            found = plain(entries, records_max)
            if not overtaken:
                overtaken.append(len(found))
                other.logs.fill()  # between what we read and what we are about to write
            return found

        monkeypatch.setattr(logs, "_batch", batch)
        e.logs.fill()
        assert overtaken == [2]
        assert bodies(e) == ["one", "two"]
        process.log("three")
        assert bodies(e) == ["one", "two", "three"]
        assert bodies(other) == ["one", "two", "three"]


def test_a_numbers_meaning_is_found_again_in_the_middle_of_a_segment(tmp_path: Path, process: Process) -> None:
    process.log('the text "type":"log_site" is no site', "t-1", target="early")
    with opened(tmp_path, clock=process.clock) as e:
        e.logs.fill()
    process.log("later", "t-1", target="early")
    with opened(tmp_path, clock=process.clock) as e:
        found = e.logs.query(newest_first=False).records
        assert [(each.target, each.thread_id, each.level) for each in found] == [("early", "t-1", "INFO")] * 2


def test_damage_is_counted_and_stops_nothing(tmp_path: Path, process: Process) -> None:
    process.log("before")
    process.writer.close()
    (path,) = segments(tmp_path)
    with path.open("ab") as file:
        file.write(b"\x00\xff garbage\n{}\n[]\n\n   \n" + b"y" * 3_000_000 + b"\n")
        file.write(b'{"timestamp":"nonsense","type":"log","payload":{"site":99,"thread":99,"body":"odd"}}\n{"torn":')
    with opened(tmp_path, clock=process.clock, options=small(line_bytes_max=500_000)) as e:
        # A record without a time that can be read is there for the level it has, which nobody knows.
        assert bodies(e) == ["before"]
        found = e.logs.status()
        assert (found.records, found.damaged, found.lag.bytes) == (2, 5, 0)
        assert e.logs.status().damaged == 5


def test_a_tail_that_is_being_written_is_waited_for(tmp_path: Path, process: Process) -> None:
    process.log("before")
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"timestamp":')
    with opened(tmp_path, clock=process.clock) as e:
        found = e.logs.query()
        assert ([each.body for each in found.records], found.lag.bytes) == (["before"], 13)
        assert e.logs.status().damaged == 0
        os.truncate(path, len(whole))
        process.log("after")
        assert bodies(e) == ["before", "after"]


def test_a_segment_that_was_replaced_or_cut_is_followed_anew(tmp_path: Path, process: Process) -> None:
    for index in range(3):
        process.log(str(index))
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    with opened(tmp_path, clock=process.clock) as e:
        assert bodies(e) == ["0", "1", "2"]
        beside = path.with_name("beside")
        beside.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
        beside.rename(path)
        assert bodies(e) == ["0", "1"]
        os.truncate(path, len(b"".join(whole.splitlines(keepends=True)[:-2])))
        assert bodies(e) == ["0"]
        path.unlink()
        assert bodies(e) == []
        assert e.logs.status().rows == 0


# Bounds


def test_rows_go_with_their_segment_and_counters_stay_right(tmp_path: Path, clock: ManualClock) -> None:
    options = small(log_segment_bytes_max=600)
    process = Process(tmp_path, clock=clock, options=options)
    for index in range(10):
        clock.advance(1_000)
        process.log(str(index), "t-1" if index % 2 else None)
    with opened(tmp_path, clock=clock, options=options) as e:
        assert len(bodies(e)) == 10
        oldest = segments(tmp_path)[0]
        gone = oldest.read_bytes().count(b'"body"')
        oldest.unlink()
        assert bodies(e) == [str(index) for index in range(gone, 10)]
        with e._log_table.database().read() as transaction:
            assert transaction.row("SELECT sum(rows) FROM partitions") == (10 - gone,)
            assert transaction.row("SELECT count(*) FROM segments") == (len(segments(tmp_path)),)


@pytest.mark.parametrize(
    ("bound", "kept"),
    [
        ({"log_store_bytes_max": 1_200}, ["6", "7", "8", "9"]),
        ({"log_process_bytes_max": 1_200}, ["6", "7", "8", "9"]),
        ({"log_segments_max": 2}, ["6", "7", "8", "9"]),
    ],
)
def test_whole_segments_go_the_oldest_first(tmp_path: Path, clock: ManualClock, bound: Any, kept: list[str]) -> None:
    process = Process(tmp_path, clock=clock, options=small(log_segment_bytes_max=500))
    for index in range(10):
        clock.advance(1_000)
        process.log(str(index))
    process.writer.close()
    with opened(tmp_path, clock=clock, options=small(**bound)) as e:
        removed = e.logs.retain()
        assert removed.segments == 2
        assert size_of(tmp_path) <= 1_200
        assert bodies(e) == kept
        assert e.logs.retain().segments == 0


def test_a_process_alone_is_bounded_by_its_own_bytes(tmp_path: Path, clock: ManualClock) -> None:
    options = small(log_segment_bytes_max=500, log_process_bytes_max=1_200)
    loud, low = (Process(tmp_path, number, clock=clock, options=options) for number in (1, 2))
    low.log("low")
    for index in range(30):
        clock.advance(1_000)
        loud.log(str(index))
    assert size_of(tmp_path) <= 1_200 + 600 + 500  # nobody but the writers themselves removed anything
    with opened(tmp_path, clock=clock, options=options) as e:
        assert bodies(e)[0] == "low"
        assert bodies(e)[-1] == "29"


def test_what_is_too_old_goes_but_not_what_somebody_writes(tmp_path: Path, clock: ManualClock) -> None:
    now_ms = int(os.stat(tmp_path).st_mtime * 1000)
    clock.set_wall_ms(now_ms)
    over, under_way = (Process(tmp_path, number, clock=clock) for number in (1, 2))
    over.log("over")
    over.writer.close()
    under_way.log("under way")
    clock.advance(10 * 24 * 3600 * 1000 - 60_000)
    with opened(tmp_path, clock=clock) as e:
        assert bodies(e) == ["over", "under way"]
        clock.advance(120_000)
        e.logs.retain()
        assert bodies(e) == []  # rows are of the last ten days
        assert [path.read_bytes().count(b"under way") for path in segments(tmp_path)] == [1]
        under_way.writer.close()
        e.logs.retain()
        assert segments(tmp_path) == []
        assert os.listdir(tmp_path / "engine/logs") == [] or len(os.listdir(tmp_path / "engine/logs")) == 1


def test_a_clock_that_was_set_back_removes_nothing_for_its_age(tmp_path: Path, clock: ManualClock) -> None:
    clock.set_wall_ms(int(os.stat(tmp_path).st_mtime * 1000))
    process = Process(tmp_path, clock=clock)
    process.log("before")
    process.writer.close()
    clock.set_wall_ms(clock.wall_ms() - 365 * 24 * 3600 * 1000)
    process.log("under the old time", at_us=clock.wall_ms() * 1000)
    with opened(tmp_path, clock=clock) as e:
        assert sorted(bodies(e)) == ["before", "under the old time"]


def test_all_rows_together_are_bounded(tmp_path: Path, clock: ManualClock) -> None:
    options = small(log_rows_max=5)
    process = Process(tmp_path, clock=clock, options=options)
    for index in range(12):
        process.log(str(index), f"t-{index}")
    with opened(tmp_path, clock=clock, options=options) as e:
        e.logs.fill()
        e.logs.fill()
        assert e.logs.status().rows == 5
        assert bodies(e) == ["7", "8", "9", "10", "11"]


def test_a_tool_with_the_usual_options_takes_nothing_from_who_keeps_more(tmp_path: Path, clock: ManualClock) -> None:
    """`logs tail` fills the table too; it is not for it to decide that details have no rows."""
    keeping = small(log_levels=(("", "DEBUG"),), log_partition_rows_max=5_000)
    process = Process(tmp_path, clock=clock)
    process.log("usual")
    process.log("before anybody asked for details", level="DEBUG")
    with opened(tmp_path, clock=clock) as tool, opened(tmp_path, clock=clock, options=keeping) as e:
        assert bodies(tool) == ["usual"]
        assert bodies(e) == ["usual"]
        process.log_many(["many"] * 2_000, "t-1")
        process.log("in detail", level="DEBUG")
        assert len(bodies(tool)) == 2_002
        assert bodies(e, search="detail") == ["in detail"]


def test_a_home_that_was_taken_away_is_not_brought_back_by_its_log(tmp_path: Path, clock: ManualClock) -> None:
    home = tmp_path / "home"
    home.mkdir()
    process = Process(home, clock=clock)
    process.log("one")
    shutil.rmtree(home)
    with pytest.raises(FileNotFoundError):
        process.log("two")
    assert not home.exists()
    home.mkdir()
    process.log("three")
    assert [path.read_bytes().count(b"three") for path in segments(home)] == [1]


def test_sites_that_were_made_up_go_when_their_rows_are_gone(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.projections.log_rows.SITES_MAX", 20)
    process = Process(tmp_path, clock=clock)
    options = small(log_partition_rows_max=10)
    with opened(tmp_path, clock=clock, options=options) as e, opened(tmp_path, clock=clock, options=options) as other:
        for index in range(100):
            process.log(str(index), target=f"made up {index}")
            if index % 7 == 0:
                (e if index % 2 else other).logs.fill()
        found = e.logs.query(newest_first=False, limit=None).records
        assert [(each.body, each.target) for each in found] == [(str(n), f"made up {n}") for n in range(90, 100)]
        with e._log_table.database().read() as transaction:
            assert transaction.row("SELECT count(*) FROM sites")[0] <= 31


def test_freed_pages_go_back_to_the_file_system_a_few_at_a_time(tmp_path: Path, clock: ManualClock) -> None:
    process = Process(tmp_path, clock=clock)
    with opened(tmp_path, clock=clock, options=small(log_partition_rows_max=200_000)) as e:
        process.log_many(["x"] * 40_000)
        e.logs.fill()
        database = e._log_table.database()
        assert database.try_empty_wal()
        full = (tmp_path / FILE).stat().st_size
        for path in segments(tmp_path):
            path.unlink()
        clock.advance(1_000)
        process.log("y")
        assert bodies(e) == ["y"]
        assert database.try_empty_wal()
        assert full > 1_500_000
        assert (tmp_path / FILE).stat().st_size < 800_000


def test_a_reader_that_sleeps_stops_the_filling_at_the_bound_and_it_goes_on_after(
    tmp_path: Path, clock: ManualClock
) -> None:
    options = small(wal_bytes_max=400_000, log_fill_records=500, log_partition_rows_max=100_000)
    process = Process(tmp_path, clock=clock, options=options)
    process.log("first")
    with opened(tmp_path, clock=clock, options=options) as e:
        e.logs.fill()
        sleeper = apsw.Connection(str(tmp_path / FILE))
        sleeper.execute("BEGIN")
        sleeper.execute("SELECT count(*) FROM logs").fetchall()
        process.log_many([f"{index} ".ljust(40, "x") for index in range(12_000)])
        lag = e.logs.fill()
        assert lag.bytes > 500_000
        assert lag.paused is not None
        assert "a reader keeps the -wal" in lag.paused
        found = e.logs.status()
        assert found.wal_bytes < 400_000 + 200_000
        assert found.lag.bytes == lag.bytes
        # Who asks gets what there is, and is told; who logs notices nothing.
        page = e.logs.query(limit=1)
        assert page.records
        assert page.lag.paused == lag.paused
        process.log("logged meanwhile")
        sleeper.close()
        assert bodies(e, search="meanwhile") == ["logged meanwhile"]
        assert e.logs.status().records == 12_002
        assert e._log_table.database().try_empty_wal()
        assert e.logs.status().wal_bytes == 0


def test_the_table_is_made_with_pages_that_can_be_given_back(tmp_path: Path, process: Process) -> None:
    process.log("x")
    with opened(tmp_path, clock=process.clock) as e:
        e.logs.fill()
        with e._log_table.database().read() as transaction:
            assert transaction.row("PRAGMA auto_vacuum") == (2,)


# The background


def test_the_background_fills_where_there_is_enough_to_do_and_one_process_does_it(
    tmp_path: Path, clock: ManualClock
) -> None:
    process = Process(tmp_path, clock=clock)
    process.log("little")
    with opened(tmp_path, clock=clock, options=small(log_fill_bytes_min=5_000)) as e:
        e.logs.fill()
        with e._log_table.database().read() as transaction:
            table_bytes = transaction.row("PRAGMA page_count")[0] * 8_192
        assert table_bytes > 50_000
        process.log_many(["x" * 200] * (table_bytes // 300 - 10))
        before = e._log_table.lag().bytes
        e._log_table.tend(lambda: False)
        assert e._log_table.lag().bytes == before > 5_000  # less than the pages that it might write
        process.log_many(["x" * 200] * 40)
        with opened(tmp_path, clock=clock) as other:
            assert other._leases is not None
            lease = other._leases.claim("logs", "test")
            e._log_table.tend(lambda: False)
            assert e._log_table.lag().bytes > before
            other._leases.release(lease)
        e._log_table.tend(lambda: False)
        assert e._log_table.lag().bytes == 0


def test_a_background_that_is_to_stop_stops_after_a_batch(tmp_path: Path, clock: ManualClock) -> None:
    process = Process(tmp_path, clock=clock)
    process.log_many(["x" * 200] * 1_000)
    with opened(tmp_path, clock=clock, options=small(log_fill_records=10, log_fill_bytes_min=1)) as e:
        e._log_table.tend(lambda: True)
        with e._log_table.database().read() as transaction:
            assert transaction.row("SELECT count(*) FROM logs")[0] in range(1, 11)


def test_an_open_engine_makes_no_table_where_nothing_was_logged(tmp_path: Path) -> None:
    with opened(tmp_path) as e:
        e._log_table.tend(lambda: False)
        assert bodies(e) == []
        assert e.logs.status().segments == 0
        assert e.logs.fill().bytes == 0
        assert e.logs.max_id() == 0
        assert e.logs.export(["t"]) == b""
    assert not (tmp_path / FILE).exists()


def test_a_home_that_cannot_be_written_is_read_with_the_table_in_memory(
    tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.log("alpha")
    monkeypatch.setattr(Files, "writable", lambda *_, **__: False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with opened(tmp_path, clock=process.clock) as e:
        assert e.state_dir is None
        assert bodies(e) == ["alpha"]
        assert e.logs.retain().segments == 0
        assert e.logs.status().rows == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_it_is_opened_when_it_is_asked_and_not_before(tmp_path: Path, process: Process) -> None:
    process.log("alpha")
    with opened(tmp_path, clock=process.clock) as e:
        assert isinstance(e._log_table, LogTable)
        assert e._log_table._opened is None
        e.threads.list()
        e.status()
        assert e._log_table._opened is None
        bodies(e)
        assert isinstance(e._log_table._opened, Database)
    assert PATIENT.log_fill_budget_ms == 60_000
