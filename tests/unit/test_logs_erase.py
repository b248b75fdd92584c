"""An erased thread is in no byte of the log: not in a segment, not in a row; what others logged stays where it is."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from engine.clock import SystemClock
from engine.errors import RolloutUnusable
from engine.options import Options
from engine.stores.files import Files
from engine.testing.files import FaultyFiles
from tests.log_home import PATIENT, Process, bodies
from tests.removing import CANARY, holding, opened, talk

NOW = {"at_ms": SystemClock().wall_ms()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def logged(home: Path, thread: str, other: str) -> Process:
    """Records of both threads and of none, in two segments; of the first one with a canary, also one below INFO."""
    process = Process(home, clock=SystemClock(), options=Options(log_segment_bytes_max=1_200))
    for index in range(4):
        process.log(f"{CANARY} {index}", thread.upper() if index % 2 else thread)
        process.log(f"other {index}", other)
        process.log(f"nobody's {index}")
        process.log(f"{CANARY} in detail {index}", thread, level="DEBUG")
    return process


def test_no_byte_of_what_it_logged_is_left(home: Path) -> None:
    with opened(home, **NOW, options=PATIENT) as e:
        thread, other = talk(e, "words"), talk(e, "other words")
        process = logged(home, thread, other)
        assert len(bodies(e)) == 12
        before = {path: path.stat().st_size for path in (home / "engine/logs").rglob("*.jsonl")}
        assert len(before) > 1
        assert e.threads.preview_erase(thread).log_records == 8
        receipt = e.threads.erase(thread, grace_s=None)
        (store,) = (each for each in receipt.stores if each.store == "logs")
        assert store.removed == 8
        assert store.bytes > 8 * len(CANARY)
        assert holding(home) == []
        assert {path: path.stat().st_size for path in before} == before  # filled over where it stood
        kept = [f"{who} {index}" for index in range(4) for who in ("other", "nobody's")]
        assert bodies(e) == kept
        assert bodies(e, thread_ids=[thread]) == []
        assert e.logs.export([thread]) == b""
        assert e.logs.status().damaged == 0
        # Who logs on is not disturbed, and a table that is filled anew has the same.
        process.log("later", other)
        (home / "engine/logs_1.sqlite").unlink()
        assert bodies(e) == [*kept, "later"]
        assert e.threads.preview_erase(other).log_records == 5


def test_a_row_that_a_slow_filler_wrote_after_the_erasure_shows_nothing(home: Path) -> None:
    with opened(home, **NOW, options=PATIENT) as e:
        thread, other = talk(e, "words"), talk(e, "other words")
        logged(home, thread, other)
        e.logs.fill()
        with e._log_table.database().read() as transaction:
            rows = list(transaction.rows('SELECT id, segment, "offset", delay, site, partition, bytes FROM logs'))
            partitions = list(transaction.rows("SELECT * FROM partitions"))
        e.threads.erase(thread, grace_s=None)
        with e._log_table.database().write() as transaction:
            transaction.run_many("INSERT OR IGNORE INTO logs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            transaction.run_many("INSERT OR IGNORE INTO partitions VALUES (?, ?, ?, ?, ?)", partitions)
        assert not any(CANARY in body for body in bodies(e))
        assert e.logs.export([thread]).count(b"\n") == 4  # what the process logged beside any thread


def test_one_that_a_full_disk_stopped_is_finished_by_the_next_open(home: Path) -> None:
    writes = []

    def fault(_: int, call: Any) -> int | None:
        if call.op == "fill.write" and call.path is not None and "/logs/" in call.path:
            writes.append(call)
            return errno.EIO if len(writes) > 2 else None
        return None

    with opened(home, **NOW, options=PATIENT) as e:
        thread, other = talk(e, "words"), talk(e, "other words")
        logged(home, thread, other)
        e.logs.fill()
    with opened(home, **NOW, options=PATIENT, files=FaultyFiles(Files(), fault)) as e, pytest.raises(RolloutUnusable):
        e.threads.erase(thread, grace_s=None)
    assert any("/logs/" in path or path.startswith("engine/logs") for path in holding(home))
    with opened(home, **NOW, options=PATIENT) as e:
        assert holding(home) == []
        assert len(bodies(e)) == 8


def test_where_nothing_was_logged_an_erasure_makes_no_log(home: Path) -> None:
    with opened(home, **NOW) as e:
        thread = talk(e, "words")
        receipt = e.threads.erase(thread, grace_s=None)
        assert [each.removed for each in receipt.stores if each.store == "logs"] == [0]
    assert not (home / "engine/logs").exists()
    assert not (home / "engine/logs_1.sqlite").exists()
