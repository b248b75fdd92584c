"""The handler: nothing that goes wrong reaches the caller, nothing is lost in silence, and its own work is never logged."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.errors import HomeMissing, ReadOnlyHome
from engine.logs import Handler
from engine.options import Options
from engine.stores.files import Files
from engine.stores.quiet import quiet
from engine.testing import ManualClock
from engine.testing.files import FaultyFiles, RecordingFiles
from tests.log_home import bodies, opened

CHECKOUT = Path(__file__).resolve().parents[2]
SLOW = Options(log_interval_ms=600_000, log_close_wait_ms=60_000)


def lines_of(home: Path) -> list[list[dict[str, Any]]]:
    """The lines of every segment, segments in their order."""
    return [
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in sorted((home / "engine/logs").rglob("*.jsonl"))
    ]


def said(home: Path) -> list[list[str]]:
    """What the records of every segment say."""
    return [[line["payload"]["body"] for line in segment if line["type"] == "log"] for segment in lines_of(home)]


def test_a_segment_says_once_what_records_share(tmp_path: Path) -> None:
    handler = Handler(str(tmp_path), clock=ManualClock())
    for body in ("one", "two"):
        handler.write(body, target="app", module="m", file="/f.py", line=3, thread_id="t-1")
    handler.close()
    ((process, site, thread, *records),) = lines_of(tmp_path)
    time = "2026-01-05T09:00:00.000000Z"
    assert process == {"timestamp": time, "type": "log_process", "payload": {"process": handler.process}}
    assert site["payload"] == {
        "site": 1, "severity": 20, "level": "INFO", "target": "app", "module": "m", "file": "/f.py", "line": 3,
    }  # fmt: skip
    assert (thread["type"], thread["payload"]) == ("log_thread", {"thread": 2, "id": "t-1"})
    assert records == [
        {"timestamp": time, "type": "log", "payload": {"site": 1, "thread": 2, "body": body}} for body in ("one", "two")
    ]


def test_nothing_is_made_before_the_first_record(tmp_path: Path) -> None:
    Handler(str(tmp_path)).close()
    assert list(tmp_path.iterdir()) == []


def test_the_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    handler = Handler(str(tmp_path))
    handler.write("x")
    handler.close()
    for path in (tmp_path / "engine").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_full_segment_the_next_day_and_a_removed_file_begin_another(tmp_path: Path) -> None:
    clock = ManualClock()
    handler = Handler(str(tmp_path), clock=clock, options=Options(log_segment_bytes_max=1_500))
    for index in range(10):
        handler.write(f"{index} " + "x" * 200, target="app", thread_id="t")
        handler.flush()
    assert [len(segment) for segment in said(tmp_path)] == [4, 4, 2]
    clock.advance(24 * 3600 * 1000)
    handler.write("next day", target="app", thread_id="t")
    handler.flush()
    assert said(tmp_path)[3] == ["next day"]
    assert sorted(os.listdir(tmp_path / "engine/logs/2026/01")) == ["05", "06"]
    for path in (tmp_path / "engine/logs/2026/01/06").iterdir():
        path.unlink()
    handler.write("after the removal", target="app", thread_id="t")
    handler.close()
    assert said(tmp_path)[3] == ["after the removal"]
    for segment in lines_of(tmp_path):  # each is to be read alone
        assert [line["type"] for line in segment[:3]] == ["log_process", "log_site", "log_thread"]


@pytest.mark.parametrize(
    "op", ["logs.write", "logs.create", "logs.folder", "logs.lock", "logs.open", "logs.stat", "logs.scan"]
)
def test_a_disk_that_fails_costs_the_batch_and_is_told_when_it_is_well_again(tmp_path: Path, op: str) -> None:
    broken = threading.Event()
    broken.set()
    files = FaultyFiles(Files(), lambda _, call: errno.ENOSPC if call.op == op and broken.is_set() else None)
    handler = Handler(str(tmp_path), files=files, options=SLOW)
    handler.write("lost, or not")
    handler.flush()
    was_lost = handler.counters.dropped == 1
    broken.clear()
    handler.write("well again")
    handler.close()
    assert handler.counters.failures == was_lost
    with opened(tmp_path) as e:
        found = e.logs.query(newest_first=False).records
        said = [each.body for each in found]
        assert "well again" in said
        assert ("lost, or not" in said) == (not was_lost)
        assert sum(each.dropped for each in found) == was_lost
        assert e.logs.status().dropped == was_lost
    assert was_lost == (op != "logs.scan")


def test_half_a_write_is_followed_by_another_segment(tmp_path: Path) -> None:
    calls = []

    class Half(Files):
        def write(self, fd: int, data: bytes, *, op: str) -> int:
            calls.append(op)
            if len(calls) == 2:
                return super().write(fd, data[: len(data) - 5], op=op)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(fd, data, op=op)

    handler = Handler(str(tmp_path), files=Half(), options=SLOW)
    handler.write("torn")
    handler.flush()
    handler.write("whole")
    handler.close()
    with opened(tmp_path) as e:
        assert bodies(e) == [
            "whole",
            "1 log record was dropped: the queue was full, or the segment could not be written",
        ]
        assert e.logs.status().damaged == 1


def test_a_message_that_cannot_be_formatted_is_counted_and_raises_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = Handler(str(tmp_path))
    logger = logging.Logger("app")  # noqa: LOG001 - one that no other test has
    logger.addHandler(handler)
    logger.info("%d", "no number")
    logger.info("fine")
    handler.close()
    assert handler.counters.dropped == 1
    assert "no number" in capsys.readouterr().err  # as every handler of the standard library tells it
    assert said(tmp_path)[0][0] == "fine"


def test_odd_texts_are_kept_as_far_as_utf_8_has_them(tmp_path: Path) -> None:
    handler = Handler(str(tmp_path))
    odd = ['a "quoted"\nline\u2028\x00\x1b', "lone \ud800 surrogate", "", "\\", "🧵" * 3]
    for body in odd:
        handler.write(body, target="t\udcffarget", thread_id="thr\udcffead", level="\ud800")
    handler.close()
    with opened(tmp_path) as e:
        found = e.logs.query(newest_first=False).records
    assert [each.body for each in found] == [odd[0], "lone \\ud800 surrogate", *odd[2:]]
    assert {(each.target, each.thread_id, each.level) for each in found} == {
        ("t\\udcffarget", "thr\\udcffead", "\\ud800")
    }


def test_names_are_bounded_and_made_up_ones_cost_no_memory(tmp_path: Path) -> None:
    handler = Handler(str(tmp_path), options=Options(log_queue_records_max=100_000))
    for index in range(10_000):
        handler.write("x", target=f"{index} " + "y" * 2_000, thread_id=f"thread {index}")
    assert len(handler._sites) <= 4_096
    assert len(handler._threads) <= 4_096
    handler.close()
    with opened(tmp_path, options=Options(log_fill_budget_ms=60_000)) as e:
        (last,) = e.logs.query(limit=1).records
        assert (len(last.target), last.target[:5], last.thread_id) == (512, "9999 ", "thread 9999")
        assert e.logs.status().rows == 10_000


def test_the_queue_is_bounded_by_bytes_as_well(tmp_path: Path) -> None:
    handler = Handler(str(tmp_path), options=Options(log_interval_ms=600_000, log_queue_bytes_max=10_000))
    for _ in range(20):
        handler.write("x" * 2_000)
    assert (handler.counters.accepted, handler.counters.dropped) == (5, 15)
    handler.flush()
    handler.write("room again")
    handler.close()
    assert said(tmp_path)[0][-1] == "room again"


def test_what_the_engine_does_for_the_log_is_never_logged(tmp_path: Path) -> None:
    """A file layer that logs every call: without a guard each write of the log would be a reason for the next."""
    handler: Handler

    class Talking(RecordingFiles):
        def _around(self, number: int, call: Any, args: Any, proceed: Any) -> Any:
            logger.info("file call %s", call.op)
            return super()._around(number, call, args, proceed)

    logger = logging.Logger("app")  # noqa: LOG001 - one that no other test has
    handler = Handler(str(tmp_path), files=Talking(Files()))
    logger.addHandler(handler)
    handler.write("one")
    handler.flush()
    with opened(tmp_path, files=Talking(Files())) as e:
        before = handler.counters.accepted
        # Records of the opening may be written meanwhile, so there may be a lag.
        assert "one" in [each.body for each in e.logs.query(newest_first=False, limit=10).records]
        e.logs.status()
        e.logs.export(["t"])
        e.logs.retain()
        e._log_table.tend(lambda: False)
        assert handler.counters.accepted == before
        e.threads.list()
        assert handler.counters.accepted > before  # what else it does is
    with quiet():
        logger.info("never")
        handler.write("never")
    handler.close()
    assert not any("logs." in body or body == "never" for segment in said(tmp_path) for body in segment)


def test_a_redactor_sees_each_text_before_it_is_queued_and_its_failure_leaves_the_text_out(tmp_path: Path) -> None:
    def redact(text: str) -> str:
        if "broken" in text:
            raise ValueError(text)
        return text.replace("hunter2", "[redacted]")

    handler = Handler(str(tmp_path), redact=redact, options=SLOW)
    logger = logging.Logger("app")  # noqa: LOG001 - one that no other test has
    logger.addHandler(handler)
    logger.info("the password is %s", "hunter2")
    handler.write("hunter2 again")
    handler.write("hunter2 broken")
    assert not any(b"hunter2" in entry.line for entry in handler._queue)
    handler.close()
    assert said(tmp_path) == [
        ["the password is [redacted]", "[redacted] again", "(left out: the redactor failed with ValueError)"]
    ]


def test_it_wants_a_home_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HomeMissing):
        Handler(str(tmp_path / "none"))
    monkeypatch.setattr(Files, "writable", lambda *_, **__: False)
    with pytest.raises(ReadOnlyHome) as caught:
        Handler(str(tmp_path))
    assert "state_dir" in caught.value.hint


def test_after_a_fork_the_child_has_a_segment_of_its_own_and_the_parents_queue_is_not_written_twice(
    tmp_path: Path,
) -> None:
    code = """
import logging, os, sys
from engine.logs import Handler
from engine.options import Options

handler = Handler(sys.argv[1], options=Options(log_interval_ms=50, log_close_wait_ms=60_000))
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(logging.INFO)
logging.info("before the fork, written")
handler.flush()
logging.info("before the fork, queued")
pid = os.fork()
logging.info("after the fork, %s", "parent" if pid else "child")
if pid:
    assert os.waitpid(pid, 0)[1] == 0
else:
    logging.shutdown()
    os._exit(0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, tmp_path], check=True, cwd=CHECKOUT, timeout=120)
    assert sorted(said(tmp_path)) == [
        ["after the fork, child"],
        ["before the fork, written", "before the fork, queued", "after the fork, parent"],
    ]
    processes = [segment[0]["payload"]["process"] for segment in lines_of(tmp_path)]
    assert len(set(processes)) == 2


def test_what_waits_is_written_at_the_end_of_the_process_also_when_it_logs_there(tmp_path: Path) -> None:
    code = """
import atexit, logging, sys
from engine.logs import Handler
from engine.options import Options

handler = Handler(sys.argv[1], options=Options(log_interval_ms=600_000, log_close_wait_ms=60_000))
logging.getLogger().addHandler(handler)
atexit.register(logging.warning, "while it ends")
if sys.argv[2] == "early":
    logging.warning("at work")
"""
    for when in ("early", "late"):  # late: the first record comes when no thread can be begun any more
        home = tmp_path / when
        home.mkdir()
        subprocess.run([sys.executable, "-c", code, home, when], check=True, cwd=CHECKOUT, timeout=120)
        assert said(home) == [["at work", "while it ends"] if when == "early" else ["while it ends"]]


def test_a_disk_that_hangs_keeps_nobody_from_ending(tmp_path: Path) -> None:
    hanging = threading.Event()

    class Hanging(Files):
        def write(self, fd: int, data: bytes, *, op: str) -> int:
            assert hanging.wait(60)
            return super().write(fd, data, op=op)

    handler = Handler(str(tmp_path), files=Hanging(), options=Options(log_interval_ms=1, log_close_wait_ms=20))
    handler.write("x")
    handler.flush()
    handler.close()
    handler.write("too late")
    assert handler.counters.dropped == 1
    hanging.set()
    assert handler._thread is not None
    handler._thread.join(60)
    assert not handler._thread.is_alive()


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    handler = Handler(str(tmp_path), options=Options(log_queue_records_max=100_000, log_close_wait_ms=60_000))
    logger = logging.Logger("app")  # noqa: LOG001 - one that no other test has
    logger.addHandler(handler)
    several = [
        threading.Thread(target=lambda of=of: [logger.info("%d %d", of, index) for index in range(2_000)])
        for of in range(4)
    ]
    for each in several:
        each.start()
    for each in several:
        each.join()
    handler.close()
    (records,) = said(tmp_path)
    assert len(records) == 8_000
    for of in range(4):
        assert [body for body in records if body.startswith(f"{of} ")] == [f"{of} {index}" for index in range(2_000)]


def test_two_handlers_of_one_process_have_a_segment_each(tmp_path: Path) -> None:
    clock = ManualClock()
    first, second = (Handler(str(tmp_path), clock=clock) for _ in range(2))
    first.write("first")
    second.write("second")
    first.close()
    second.close()
    assert sorted(said(tmp_path)) == [["first"], ["second"]]
    assert first.process == second.process
