"""The conformance cases of the log, LG-01 to LG-23 (codex_state.md 10.8), by their ids.

Where the engine differs on purpose the test's text says so; docs/LOGS.md has the list.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine.errors import InvalidRequest
from engine.events.log_lines import Site, severity_of
from engine.logs import Handler, belonging_to
from engine.options import Options
from engine.projections.log_rows import RowWriter
from engine.stores.files import Files
from engine.testing import ManualClock
from tests.log_home import PATIENT, Process, bodies, opened

MIB = 1024 * 1024
WIDE = Options(log_fill_budget_ms=60_000, log_body_bytes_max=12 * MIB, log_segment_bytes_max=64 * MIB)
"""A body of the reference's size is kept whole."""

PARTITIONS = [("t-1", 1), (None, 1)]
"""Thread, and process of a record that belongs to none. A record without a process cannot be: LG-08."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def process(tmp_path: Path, clock: ManualClock) -> Process:
    return Process(tmp_path, clock=clock)


def records_of(handler: Handler, home: Path, **wanted: Any) -> list[Any]:
    handler.flush()
    with opened(home) as e:
        return e.logs.query(newest_first=False, **wanted).records


@pytest.fixture
def handler(tmp_path: Path):
    found = Handler(str(tmp_path))
    yield found
    found.close()


@pytest.fixture
def logger(handler: Handler) -> logging.Logger:
    found = logging.Logger("app.tools")  # noqa: LOG001 - one that no other test has
    found.addHandler(handler)
    return found


def test_lg_01_rows_land_in_the_log_database(tmp_path: Path, process: Process) -> None:
    process.log("alpha", "t-1")
    with opened(tmp_path, clock=process.clock) as e:
        assert bodies(e) == ["alpha"]
    logs = apsw.Connection(str(tmp_path / "engine/logs_1.sqlite"))
    state = apsw.Connection(str(tmp_path / "engine/state_1.sqlite"))
    try:
        assert logs.execute("SELECT count(*) FROM logs").get == 1
        assert state.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'logs'").get == 0
    finally:
        logs.close()
        state.close()


def test_lg_02_a_line_has_time_level_body_and_one_final_newline(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=2_000)
    process = Process(tmp_path, clock=clock)
    process.log("alpha", "t-1", at_us=1_123_456)
    process.log("beta\n", "t-1", at_us=1_123_457, level="ERROR")
    with opened(tmp_path, clock=clock) as e:
        assert e.logs.export(["t-1"]) == (
            b"1970-01-01T00:00:01.123456Z  INFO alpha\n1970-01-01T00:00:01.123457Z ERROR beta\n"
        )


def test_lg_03_a_search_looks_at_what_was_rendered(tmp_path: Path, handler: Handler, logger: logging.Logger) -> None:
    logger.info("foo=%d", 2)
    logger.info("bar=%d", 3)
    assert [each.body for each in records_of(handler, tmp_path, search="foo=2")] == ["foo=2"]
    assert records_of(handler, tmp_path, search="foo=%d") == []
    assert records_of(handler, tmp_path, search="FOO=2") == []


def test_lg_04_levels_match_in_any_case_and_stay_as_they_are(tmp_path: Path, process: Process) -> None:
    for level in ("warn", "ERROR", "INFO"):
        process.log(level, level=level)
    with opened(tmp_path, clock=process.clock) as e:
        found = e.logs.query(levels=["Warn", "error"], newest_first=False).records
        assert [(each.level, each.body) for each in found] == [("warn", "warn"), ("ERROR", "ERROR")]


@pytest.mark.parametrize("at_once", [True, False])
def test_lg_05_of_two_rows_that_are_too_much_the_newer_stays(tmp_path: Path, clock: ManualClock, at_once: bool) -> None:
    process = Process(tmp_path, clock=clock, options=WIDE)
    with opened(tmp_path, clock=clock, options=WIDE) as e:
        process.log("a" * 6 * MIB, "t-1")
        if not at_once:
            assert len(bodies(e)) == 1
        process.log("b" * 6 * MIB, "t-1")
        assert [body[0] for body in bodies(e)] == ["b"]


@pytest.mark.parametrize(("thread", "number"), PARTITIONS)
def test_lg_06_one_row_over_the_cap_is_cut_and_marked_and_takes_no_other_along(
    tmp_path: Path, clock: ManualClock, thread: str | None, number: int
) -> None:
    """Differs: the reference deletes it, and its whole partition with it."""
    process = Process(tmp_path, number, clock=clock)
    process.log("before", thread)
    process.log("é" * 6 * MIB, thread)
    with opened(tmp_path, clock=clock) as e:
        before, large = e.logs.query(newest_first=False).records
    assert (before.body, before.cut) == ("before", 0)
    assert (len(large.body.encode()), large.cut) == (PATIENT.log_body_bytes_max, 12 * MIB)
    assert set(large.body) == {"é"}
    assert large.text.endswith("é [cut: it had 12,582,912 bytes]\n")


def test_lg_06_a_row_over_the_cap_that_nobody_cut_is_kept_alone(tmp_path: Path, clock: ManualClock) -> None:
    process = Process(tmp_path, clock=clock, options=WIDE)
    process.log("before", "t-1")
    process.log("b" * 11 * MIB, "t-1")
    process.log("elsewhere", "t-2")
    with opened(tmp_path, clock=clock, options=WIDE) as e:
        assert [body[:9] for body in bodies(e)] == ["bbbbbbbbb", "elsewhere"]


def test_lg_07_the_cap_without_a_thread_is_a_processs_own(tmp_path: Path, clock: ManualClock) -> None:
    options = Options(log_fill_budget_ms=60_000, log_partition_rows_max=2)
    first, second = (Process(tmp_path, number, clock=clock) for number in (1, 2))
    for index in range(3):
        first.log(f"first {index}")
        second.log(f"second {index}")
        first.log(f"of a thread {index}", "t-1")
    with opened(tmp_path, clock=clock, options=options) as e:
        assert sorted(bodies(e, threadless=True)) == ["first 1", "first 2", "second 1", "second 2"]
        assert bodies(e, thread_ids=["t-1"]) == ["of a thread 1", "of a thread 2"]


def test_lg_08_every_row_has_a_process(tmp_path: Path, process: Process) -> None:
    """Differs: a segment is one process's, so there is no partition of rows without one."""
    process.log("alpha")
    with opened(tmp_path, clock=process.clock) as e:
        (found,) = e.logs.query().records
        assert found.process_uuid == process.id == "pid:1:01a20464-403f-7170-9722-7a9790eef901"


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("thread", "number"), PARTITIONS)
def test_lg_09_of_1001_rows_the_oldest_goes(
    tmp_path: Path, clock: ManualClock, thread: str | None, number: int, at_once: bool
) -> None:
    process = Process(tmp_path, number, clock=clock)
    with opened(tmp_path, clock=clock) as e:
        for index in range(1001):
            process.log(str(index), thread)
            if index == 999 and not at_once:
                assert len(bodies(e)) == 1000
        found = bodies(e)
        assert (len(found), found[0], found[-1]) == (1000, "1", "1000")


def test_lg_10_an_export_is_oldest_to_newest(tmp_path: Path, process: Process) -> None:
    for index in range(3):
        process.log(f"line {index}", "t-1")
    with opened(tmp_path, clock=process.clock) as e:
        assert [line.split()[-1] for line in e.logs.export(["t-1"]).splitlines()] == [b"0", b"1", b"2"]


def test_lg_11_an_oversized_newest_row_does_not_empty_the_export(tmp_path: Path, process: Process) -> None:
    """Differs: the reference has nothing left then."""
    process.log("before", "t-1")
    process.log("b" * 11 * MIB, "t-1")
    with opened(tmp_path, clock=process.clock) as e:
        lines = e.logs.export(["t-1"]).splitlines()
    assert lines[0].endswith(b" INFO before")
    assert lines[1].endswith(b"[cut: it had 11,534,336 bytes]")


def test_lg_12_rows_of_the_same_process_before_and_after_are_exported(tmp_path: Path, clock: ManualClock) -> None:
    first, second = (Process(tmp_path, number, clock=clock) for number in (1, 2))
    first.log("before")
    first.log("of the thread", "t-1")
    first.log("after")
    first.log("of another thread", "t-2")
    second.log("of another process")
    with opened(tmp_path, clock=clock) as e:
        assert said(e.logs.export(["t-1"])) == ["before", "of the thread", "after"]


def test_lg_13_after_a_restart_rows_of_the_old_process_are_not_exported(tmp_path: Path, clock: ManualClock) -> None:
    old, new = (Process(tmp_path, number, clock=clock) for number in (1, 2))
    old.log("old, of no thread")
    old.log("old, of the thread", "t-1")
    clock.advance(1_000)
    new.log("new, of no thread")
    new.log("new, of the thread", "t-1")
    with opened(tmp_path, clock=clock) as e:
        assert said(e.logs.export(["t-1"])) == ["old, of the thread", "new, of no thread", "new, of the thread"]


def test_lg_14_the_bound_keeps_the_newest_lines(tmp_path: Path, process: Process) -> None:
    for index in range(6):
        process.log(f"line {index}", "t-1" if index % 2 else None)
    with opened(tmp_path, clock=process.clock) as e:
        whole = e.logs.export(["t-1"])
        line = len(whole) // 6
        assert said(e.logs.export(["t-1"], bytes_max=3 * line)) == ["line 3", "line 4", "line 5"]
        assert said(e.logs.export(["t-1"], bytes_max=3 * line - 1)) == ["line 4", "line 5"]
        assert e.logs.export(["t-1"], bytes_max=0) == b""


def test_lg_15_several_threads_come_with_their_own_processes(tmp_path: Path, clock: ManualClock) -> None:
    one, two, three = (Process(tmp_path, number, clock=clock) for number in (1, 2, 3))
    for index, each in enumerate((one, two, three), 1):
        clock.advance(1)
        each.log(f"thread {index}", f"t-{index}")
        clock.advance(1)
        each.log(f"process {index}")
    with opened(tmp_path, clock=clock) as e:
        assert said(e.logs.export(["t-1", "t-3"])) == ["thread 1", "process 1", "thread 3", "process 3"]


def test_lg_16_of_no_thread_the_export_is_empty(tmp_path: Path, process: Process) -> None:
    process.log("alpha")
    with opened(tmp_path, clock=process.clock) as e:
        assert e.logs.export([]) == b""
        assert e.logs.export(["nobody"]) == b""


def test_lg_17_a_body_is_what_a_formatter_gives(tmp_path: Path, handler: Handler, logger: logging.Logger) -> None:
    """Differs: the standard library has no spans; a formatter of the application's own says what else is to be in it."""
    kept: list[logging.LogRecord] = []
    logger.addFilter(lambda record: kept.append(record) or True)
    try:
        {}["missing"]
    except KeyError:
        logger.exception("it failed for %s", "reasons", stack_info=True)
    logger.info("plain")
    handler.setFormatter(logging.Formatter("%(levelname)s{%(lineno)d}: %(message)s"))
    logger.info("formatted")
    found = [each.body for each in records_of(handler, tmp_path)]
    assert found[0] == logging.Formatter().format(kept[0])
    assert "Traceback" in found[0]
    assert "KeyError: 'missing'" in found[0]
    assert found[1] == "plain"
    assert found[2] == f"INFO{{{kept[2].lineno}}}: formatted"


def test_lg_18_a_flush_makes_rows_and_so_does_a_full_batch_or_a_short_interval(tmp_path: Path) -> None:
    def seen(**how: Any) -> bool:
        options = Options(**{"log_interval_ms": 600_000, **how})
        handler = Handler(str(tmp_path), options=options)
        try:
            handler.write("one")
            handler.write("two")
            return _comes_true(lambda: handler.counters.written == 2)
        finally:
            handler.close()

    assert seen(log_batch_records=2)
    assert seen(log_interval_ms=10)
    handler = Handler(str(tmp_path), options=Options(log_interval_ms=600_000))
    handler.write("three")
    handler.flush()
    with opened(tmp_path) as e:
        assert "three" in bodies(e)
    handler.close()


def test_lg_19_a_full_queue_drops_the_new_record_and_says_so(tmp_path: Path) -> None:
    """Differs: the reference does not count."""
    handler = Handler(str(tmp_path), options=Options(log_queue_records_max=2, log_interval_ms=600_000))
    try:
        for index in range(5):
            handler.write(f"record {index}")
        assert (handler.counters.accepted, handler.counters.dropped) == (2, 3)
        found = records_of(handler, tmp_path)
        assert [each.body for each in found][:2] == ["record 0", "record 1"]
        assert (found[2].level, found[2].target, found[2].dropped) == ("WARN", "rolloutdb.logs", 3)
        assert found[2].body.startswith("3 log records were dropped")
        handler.write("again")
        assert [each.body for each in records_of(handler, tmp_path)][3:] == ["again"]
        with opened(tmp_path) as e:
            assert e.logs.status().dropped == 3
    finally:
        handler.close()


def test_lg_20_a_flush_waits_for_all_that_was_accepted_before_it(tmp_path: Path) -> None:
    holding, going_on = threading.Event(), threading.Event()

    class Slow(Files):
        def write(self, fd: int, data: bytes, *, op: str) -> int:
            holding.set()
            assert going_on.wait(30)
            return super().write(fd, data, op=op)

    options = Options(log_queue_records_max=2, log_interval_ms=10, log_close_wait_ms=60_000)
    handler = Handler(str(tmp_path), options=options, files=Slow())
    try:
        handler.write("one")
        assert holding.wait(30)
        handler.write("two")
        flushed = threading.Thread(target=handler.flush)
        flushed.start()
        flushed.join(0.05)
        assert flushed.is_alive()
        going_on.set()
        flushed.join(30)
        assert not flushed.is_alive()
        assert handler.counters.written == 2
    finally:
        going_on.set()
        handler.close()


@pytest.mark.parametrize(
    ("target", "level", "passes"),
    [
        ("opentelemetry_sdk", "DEBUG", False),
        ("opentelemetry_sdk.trace", "TRACE", False),
        ("opentelemetry_sdk", "INFO", True),
        ("rmcp", "DEBUG", False),
        ("rmcp::service", "DEBUG", False),
        ("rmcp", "INFO", True),
        ("codex_rmcp_client", "DEBUG", False),
        ("codex_api::websocket_timing", "ERROR", False),
        ("app", "TRACE", True),
        ("rmcp_other", "TRACE", True),
    ],
)
def test_lg_21_the_filter_goes_by_target_and_level(target: str, level: str, passes: bool) -> None:
    """Differs: it decides which records get rows; their default is INFO. What is captured is the handler's level."""
    levels = (("", "TRACE"), ("opentelemetry_sdk", "INFO"), ("rmcp", "INFO"), ("codex_rmcp_client", "INFO"))
    writer = RowWriter(Options(log_levels=(*levels, ("codex_api::websocket_timing", "OFF"))))
    assert writer._passes(Site(severity_of(level), level, target, None, None, None)) is passes


def test_lg_21_by_default_what_is_below_info_has_no_row(tmp_path: Path, process: Process) -> None:
    for level in ("TRACE", "DEBUG", "INFO", "WARN"):
        process.log(level, level=level)
    with opened(tmp_path, clock=process.clock) as e:
        assert bodies(e) == ["INFO", "WARN"]
        assert e.logs.status().records == 4


LEVELS = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]


@pytest.mark.parametrize(
    ("least", "found"), [("warn", LEVELS[3:]), ("WARN", LEVELS[3:]), ("trace", LEVELS), ("error", LEVELS[4:])]
)
def test_lg_22_a_least_level(tmp_path: Path, process: Process, least: str, found: list[str]) -> None:
    for level in LEVELS:
        process.log(level, level=level)
    options = Options(log_fill_budget_ms=60_000, log_levels=(("", "TRACE"),))
    with opened(tmp_path, clock=process.clock, options=options) as e:
        assert bodies(e, level=least) == found


@pytest.mark.parametrize("least", ["warning", "err", "warn,error", ""])
def test_lg_22_other_words_are_no_level(tmp_path: Path, least: str) -> None:
    with opened(tmp_path) as e, pytest.raises(InvalidRequest):
        e.logs.query(level=least)


def test_a_record_belongs_to_the_thread_that_it_names_else_to_that_of_its_context(
    tmp_path: Path, handler: Handler, logger: logging.Logger
) -> None:
    """8.1: the field of the record, else that of the innermost span; here a context variable."""
    logger.info("none")
    with belonging_to("outer"):
        logger.info("outer")
        with belonging_to("inner"):
            logger.info("inner")
            logger.info("named", extra={"thread_id": "other"})
            handler.write("direct")
            handler.write("direct, named", thread_id="other")
        logger.info("outer again")
    found = [(each.body, each.thread_id) for each in records_of(handler, tmp_path)]
    assert sorted(found) == sorted([
        ("none", None), ("outer", "outer"), ("inner", "inner"), ("named", "other"), ("direct", "inner"),
        ("direct, named", "other"), ("outer again", "outer"),
    ])  # fmt: skip


def said(exported: bytes) -> list[str]:
    """The bodies of an export's lines."""
    return [line[len("2026-01-05T09:00:00.000000Z  INFO ") :].decode() for line in exported.splitlines()]


def _comes_true(condition: Any) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.005)
    return False
