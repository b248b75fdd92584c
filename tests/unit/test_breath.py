"""Folds that nobody waits for give the interpreter away after each block; others do not."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import engine
from engine.clock import SystemClock
from engine.options import Options
from engine.projections.breath import BREATH_S

QUIET: dict[str, Any] = {"type": "response_item", "payload": {"type": "web_search_call", "status": "completed"}}
BLOCK_BYTES = 4096


class Sleeps(SystemClock):
    """Real time; counts the breaths of each thread."""

    def __init__(self) -> None:
        super().__init__()
        self.breaths: Counter[str] = Counter()

    def sleep(self, seconds: float) -> None:
        if seconds == BREATH_S:
            self.breaths[threading.current_thread().name] += 1
        super().sleep(seconds)


def opened(home: Path, clock: Sleeps, **options: Any) -> engine.Engine:
    home.mkdir(exist_ok=True)
    return engine.open(str(home), clock=clock, options=Options(block_bytes=BLOCK_BYTES, **options))


def fill(e: engine.Engine) -> int:
    """A rollout of many blocks; how many."""
    with e.threads.create(cwd="/", durability="buffered") as thread:
        return thread.append([QUIET] * 1_000).position.offset // BLOCK_BYTES


def wait_for_breaths(clock: Sleeps, thread: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while clock.breaths[thread] < count:
        assert time.monotonic() < deadline, f"{clock.breaths} after a minute"
        time.sleep(0.005)


def test_a_flush_of_the_timer_breathes_after_each_block_and_a_query_does_not(tmp_path: Path) -> None:
    clock = Sleeps()
    with opened(tmp_path / "home", clock, flush_delay_ms=1, background_scan_s=0) as e:
        blocks = fill(e)
        assert blocks > 10
        wait_for_breaths(clock, "rolloutdb-flush", blocks)
    again = Sleeps()
    (tmp_path / "home" / "engine" / "state_1.sqlite").unlink()
    with opened(tmp_path / "home", again, background_scan_s=0) as e:
        assert e.backfill().files == 1
        assert e.threads.list().threads
    assert not again.breaths


def test_the_background_breathes(tmp_path: Path) -> None:
    clock = Sleeps()
    with opened(tmp_path / "home", Sleeps(), background_scan_s=0) as e:
        blocks = fill(e)
    (tmp_path / "home" / "engine" / "state_1.sqlite").unlink()
    with opened(tmp_path / "home", clock, background_scan_s=30):
        wait_for_breaths(clock, "rolloutdb-background", blocks)
