"""Rows follow appends: late, together, and only when a table changes.

An append tells what it wrote. Where a projection asks for one of the kinds the stream becomes dirty; else only its time
moved, which is a touch, and a thread is touched at most once in `touch_interval_s`; what is held back comes with the next
flush of the stream, or at close. A flush folds the dirty streams from their watermarks and writes rows and watermarks in
one transaction for at most `batch_streams`. It is one function, called by the timer, by a query that wants to read its
own writes, and by close; an append never waits for it, and never fails because it does.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.clock import Clock
from engine.errors import EngineError
from engine.events.kinds import above
from engine.options import Options
from engine.projections.projection import Projection
from engine.projections.runner import Runner, Stale
from engine.stores.files import Files
from engine.stores.layout import Home, locate
from engine.stores.sqlite import Database

QUERY_WAIT_S = 0.25
"""How long a query waits for a flush that somebody else has under way; then it answers with what is there."""


@dataclass(slots=True)
class FlushCounters:
    """What became of appends, for the tables."""

    flushes: int = 0
    streams: int = 0
    touches_written: int = 0
    touches_suppressed: int = 0
    failed: int = 0


class Flush:
    """The dirty streams of one engine."""

    def __init__(
        self,
        home: Home,
        database: Database,
        runner: Runner,
        projections: Iterable[Projection],
        *,
        options: Options,
        clock: Clock,
        files: Files,
    ) -> None:
        self._home = home
        self._database = database
        self._runner = runner
        self._options = options
        self._clock = clock
        self._files = files
        self._asked = frozenset().union(*(projection.kinds | projection.latest for projection in projections))
        self._mutex = threading.Lock()
        self._state = threading.Lock()
        self._dirty: set[str] = set()
        self._held_touches: dict[str, int] = {}
        self._touched_ms: dict[str, int] = {}
        self._wake = threading.Event()
        self._closing = False
        self._timer: threading.Thread | None = None
        self.counters = FlushCounters()

    def note(self, path: str, kinds: Iterable[str]) -> None:
        """An append to this stream was acknowledged."""
        changes = any(kind in self._asked or any(each in self._asked for each in above(kind)) for kind in kinds)
        now_ms = self._clock.boot_ms()
        with self._state:
            if changes:
                self._dirty.add(path)
            elif now_ms - self._touched_ms.get(path, -(1 << 62)) >= self._options.touch_interval_s * 1000:
                self._dirty.add(path)
                self.counters.touches_written += 1
            else:
                self._held_touches[path] = now_ms
                self.counters.touches_suppressed += 1
                return
            self._touched_ms[path] = now_ms
        self._start_timer()
        self._wake.set()

    def flush(self, *, wait_s: float | None = None, touches: bool = False) -> bool:
        """Bring the rows of dirty streams up to date; whether nothing is dirty afterwards.

        `wait_s` bounds the wait for a flush under way elsewhere; `touches` writes those that were held back too.
        """
        with self._state:
            if touches:
                self._dirty.update(self._held_touches)
            if not self._dirty:
                return True
        if not self._mutex.acquire(timeout=-1 if wait_s is None else wait_s):
            return False
        try:
            return self._flush()
        finally:
            self._mutex.release()

    def follow(self, moved: Sequence[tuple[str, str]]) -> None:
        """Rollouts moved from one logical path to another: their rows follow at once. Raises `StoreError`."""
        with self._mutex:
            self._fold([target for _, target in moved])
            gone = [source for source, _ in moved]
            with self._database.write() as transaction:
                self._runner.note_gone(transaction, gone, fresh=gone)

    def close(self) -> None:
        """End the timer and write what is left."""
        self._closing = True
        self._wake.set()
        if self._timer is not None and self._timer is not threading.current_thread():
            self._timer.join()
        with contextlib.suppress(EngineError):
            self.flush(touches=True)

    def _flush(self) -> bool:
        with self._state:
            paths, self._dirty = sorted(self._dirty), set()
            for path in paths:
                self._held_touches.pop(path, None)
        try:
            self._fold(paths)
        except EngineError:
            with self._state:
                self._dirty.update(paths)
            self.counters.failed += 1
            raise
        with self._state:
            return not self._dirty

    def _fold(self, paths: Sequence[str]) -> None:
        found = [locate(self._home, path, self._files) for path in paths]
        jobs = self._runner.jobs([Stale(each, known=True) for each in found if each is not None])
        self._runner.write(list(self._runner.do(jobs)), {job.path: job for job in jobs})
        self.counters.flushes += 1
        self.counters.streams += len(jobs)

    def _start_timer(self) -> None:
        with self._state:
            if self._timer is None and not self._closing:
                self._timer = threading.Thread(target=self._run, name="rolloutdb-flush", daemon=True)
                self._timer.start()

    def _run(self) -> None:
        """Flush some time after an append, once for all that came meanwhile."""
        while not self._closing:
            self._wake.wait()
            if self._closing:
                return
            self._clock.sleep(self._options.flush_delay_ms / 1000)
            self._wake.clear()
            with contextlib.suppress(
                EngineError
            ):  # the streams stay dirty: the next append, query or close tries again
                self.flush()
