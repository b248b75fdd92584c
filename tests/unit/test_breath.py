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
from engine.projections import breath
from engine.projections.breath import BREATH_S, awaited, breathe, give_way
from engine.stores.files import Files, FileStat

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


def opened(home: Path, clock: Sleeps, files: Files | None = None, **options: Any) -> engine.Engine:
    home.mkdir(exist_ok=True)
    return engine.open(str(home), clock=clock, files=files, options=Options(block_bytes=BLOCK_BYTES, **options))


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


def test_nobody_breathes_while_somebody_waits_for_an_answer() -> None:
    clock = Sleeps()

    def fold() -> None:
        give_way(clock)
        breathe()
        with awaited(), awaited():
            breathe()
        breathe()

    thread = threading.Thread(target=fold, name="one")
    thread.start()
    thread.join()
    assert clock.breaths["one"] == 2
    breathe()
    assert clock.breaths.total() == 2


class Looks(Files):
    """Tells whether somebody was known to wait when folders were looked at."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def folder(self, path: str, *, op: str) -> FileStat | None:
        self.seen.append(bool(breath._waiting))
        return super().folder(path, op=op)


def test_a_query_is_waited_for_whether_it_is_of_the_rows_or_of_an_index(tmp_path: Path) -> None:
    files = Looks()
    with opened(tmp_path / "home", Sleeps(), background_scan_s=0, scan_interval_ms=0) as e:
        fill(e)
    with opened(tmp_path / "home", Sleeps(), files, background_scan_s=0, scan_interval_ms=0) as e:
        for ask in (e.threads.list, lambda: e.search("word")):
            files.seen.clear()
            ask()
            assert files.seen
            assert all(files.seen)
    assert not breath._waiting


def test_the_background_breathes(tmp_path: Path) -> None:
    clock = Sleeps()
    with opened(tmp_path / "home", Sleeps(), background_scan_s=0) as e:
        blocks = fill(e)
    (tmp_path / "home" / "engine" / "state_1.sqlite").unlink()
    with opened(tmp_path / "home", clock, background_scan_s=30):
        wait_for_breaths(clock, "rolloutdb-background", blocks)
