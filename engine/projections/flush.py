"""Rows follow appends: late, together, and only when a table changes.

An append tells what it wrote. Where a projection asks for one of the kinds the stream becomes dirty; else only its time
moved, which is a touch, and a thread is touched at most once in `touch_interval_s`; what is held back comes with the next
flush of the stream, or when its writer is closed. A flush folds the dirty streams from their watermarks and writes rows
and watermarks in one transaction for at most `batch_streams`. It is one function, called by the timer, by a query that
wants to read its own writes, and by close; an append never waits for it, and never fails because it does. Side databases
are told of appends and not filled here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from engine.clock import Clock
from engine.errors import EngineError
from engine.events.kinds import above
from engine.options import Options
from engine.projections.breath import give_way
from engine.projections.projection import Projection
from engine.projections.runner import Runner, Stale
from engine.projections.sides import Sides
from engine.stores.files import Files
from engine.stores.layout import Found, Home, locate
from engine.stores.sqlite import Database

_FOREVER_MS = 1 << 62


@dataclass(slots=True)
class FlushCounters:
    """What became of appends, for the tables."""

    flushes: int = 0
    flushes_failed: int = 0
    streams_flushed: int = 0
    touches_written: int = 0
    touches_suppressed: int = 0


class Flush:
    """The dirty streams of one engine."""

    def __init__(
        self,
        home: Home,
        database: Database,
        runner: Runner,
        projections: Iterable[Projection],
        sides: Sides,
        *,
        options: Options,
        clock: Clock,
        files: Files,
    ) -> None:
        self._home = home
        self._database = database
        self._runner = runner
        self._sides = sides
        self._options = options
        self._clock = clock
        self._files = files
        asked = frozenset().union(*(projection.kinds | projection.latest for projection in projections))
        self._is_asked = lru_cache(maxsize=1024)(lambda kind: not asked.isdisjoint((kind, *above(kind))))
        self._mutex = threading.Lock()
        self._state = threading.Lock()
        self._dirty: dict[str, bool] = {}
        """By path, whether a row changes; False is a touch."""
        self._held: set[str] = set()
        """Streams whose touch waits for the interval to end."""
        self._touched_ms: dict[str, int] = {}
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._timer: threading.Thread | None = None
        self.counters = FlushCounters()

    def note(self, path: str, kinds: Iterable[str]) -> None:
        """An append to this stream was acknowledged."""
        changes = any(map(self._is_asked, kinds))
        self._sides.note(path)
        now_ms = self._clock.boot_ms()
        with self._state:
            due_ms = self._touched_ms.get(path, -_FOREVER_MS) + self._options.touch_interval_s * 1000
            if not changes and path not in self._dirty and now_ms < due_ms:
                self._held.add(path)
                self.counters.touches_suppressed += 1
                return
            self._dirty[path] = changes or self._dirty.get(path, False)
            self._touched_ms[path] = now_ms
        self._wake_timer()

    def note_closed(self, path: str) -> None:
        """The stream has no writer here any more: what was held back is written with the next flush."""
        with self._state:
            self._touched_ms.pop(path, None)
            if path not in self._held:
                return
            self._held.discard(path)
            self._dirty.setdefault(path, False)
        self._wake_timer()

    def flush(self, *, wait_s: float | None = None) -> bool:
        """Bring the rows of dirty streams up to date; whether none was dirty afterwards. Raises `StoreError`.

        `wait_s` bounds the wait for a flush under way elsewhere.
        """
        if not self._dirty and not self._mutex.locked():
            return True
        if not self._mutex.acquire(timeout=-1 if wait_s is None else wait_s):
            return False
        try:
            return self._flush()
        finally:
            self._mutex.release()

    def follow(self, moved: Sequence[tuple[str, str]]) -> None:
        """Rollouts moved from one logical path to another: their rows follow at once. Raises `StoreError`."""
        for each in moved:
            for path in each:
                self._sides.note(path)
        with self._mutex:
            self._fold([target for _, target in moved])
            gone = [source for source, _ in moved]
            with self._database.write() as transaction:
                self._runner.note_gone(transaction, gone, fresh=gone, restored=[target for _, target in moved])

    def close(self) -> None:
        """End the timer and write what is left; what cannot be written now is found by the next scan.

        The threads are closed by then, so no touch is held back any more.
        """
        self._closing.set()
        self._wake.set()
        if self._timer is not None:
            self._timer.join()
        with contextlib.suppress(EngineError):
            self.flush()

    def _flush(self) -> bool:
        with self._state:
            dirty, self._dirty = self._dirty, {}
            self._held.difference_update(dirty)
        if not dirty:
            return True
        try:
            self._fold(sorted(dirty))
        except BaseException:
            with self._state:
                for path, changes in dirty.items():
                    self._dirty[path] = changes or self._dirty.get(path, False)
                self.counters.flushes_failed += 1
            raise
        with self._state:
            self.counters.flushes += 1
            self.counters.touches_written += sum(not changes for changes in dirty.values())
            return not self._dirty

    def _fold(self, paths: Sequence[str]) -> None:
        stale = [Stale(found, known=True) for found in map(self._locate, paths) if found is not None]
        jobs = self._runner.jobs(stale)
        self._runner.write(list(self._runner.do(jobs)), {job.path: job for job in jobs})
        self.counters.streams_flushed += len(jobs)

    def _locate(self, path: str) -> Found | None:
        """One that is gone, or that cannot be looked at, is left to the next scan."""
        try:
            return locate(self._home, path, self._files)
        except OSError:
            return None

    def _wake_timer(self) -> None:
        if self._wake.is_set():
            return
        with self._state:
            if self._timer is None and not self._closing.is_set():
                self._timer = threading.Thread(target=self._run, name="rolloutdb-flush", daemon=True)
                self._timer.start()
        self._wake.set()

    def _run(self) -> None:
        """Flush some time after an append, once for all that came meanwhile."""
        give_way(self._clock)
        while True:
            self._wake.wait()
            if self._closing.wait(self._options.flush_delay_ms / 1000):
                return
            self._wake.clear()
            if self._closing.is_set():
                return  # the clear took the wake of a close along, and nobody would send another
            # What failed stays dirty: the next append, query or close tries again.
            with contextlib.suppress(EngineError):
                self.flush()
