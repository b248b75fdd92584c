"""A bounded look at the files before an answer: what a list does so that it need not wait for a back-fill.

It scans newest first and folds what moved until its budget is spent, then says how far it came. The next look goes on
from there, since what was folded is not stale any more. Looks are at most one in `scan_interval_ms`, unless the last one
did not come to its end.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from engine.clock import Clock
from engine.errors import StoreBusy, StoreFull, StoreReadOnly
from engine.options import Options
from engine.projections.runner import Runner, Scan, Stale
from engine.stores.sqlite import Database

_BATCH = 32
"""Streams folded between two looks at the clock."""

_BATCH_BYTES = 16 * 1024 * 1024
"""And bytes: with a few large rollouts the clock is looked at after each."""


@dataclass(frozen=True, slots=True)
class Partial:
    """An answer does not cover every file. `files_total` is None while the walk has not met them all.

    `unread` counts rollouts and folders that cannot be read or used; `status` names each with its reason.
    """

    files_done: int
    files_total: int | None
    unread: int = 0


class CatchUp:
    """Looks at the files of one home, one thread at a time."""

    def __init__(self, runner: Runner, database: Database, *, options: Options, clock: Clock) -> None:
        self._runner = runner
        self._database = database
        self._options = options
        self._clock = clock
        self._mutex = threading.Lock()
        self._partial: Partial | None = None
        self._looked_ms: int | None = None

    def look(self) -> Partial | None:
        """Catch up for at most `list_budget_ms`; None where the rows cover every file as of `scan_interval_ms` ago."""
        deadline_ms = self._clock.boot_ms() + self._options.list_budget_ms
        if not self._mutex.acquire(timeout=self._options.list_budget_ms / 1000):
            return self._partial
        try:
            if self._is_recent() and (self._partial is None or self._partial.files_done == self._partial.files_total):
                return self._partial
            self._partial = self._catch_up(deadline_ms)
        except (StoreBusy, StoreFull):
            # Somebody else writes, or nobody can: a reader does not wait for the rows to come up to date.
            self._partial = Partial(0, None)
        except StoreReadOnly:
            pass  # the rows are as old as they are; what they are behind by, `status` tells
        finally:
            self._looked_ms = self._clock.boot_ms()
            self._mutex.release()
        return self._partial

    def look_for(self, thread_id: str) -> None:
        """Fold what the rollouts of one thread hold, as their names tell; costs a stat a file."""
        stale = [each for each in self._runner.scan() if each.found.name.thread_id == thread_id.lower()]
        if stale:
            self._fold(stale)

    def forget(self) -> None:
        """The rows are not those that were looked at: look anew."""
        with self._mutex:
            self._partial, self._looked_ms = None, None

    def _is_recent(self) -> bool:
        return self._looked_ms is not None and self._clock.boot_ms() - self._looked_ms < self._options.scan_interval_ms

    def _catch_up(self, deadline_ms: int) -> Partial | None:
        """Fold until the deadline; the batch under way then is ended, and it is at most `_BATCH_BYTES` or one rollout."""

        def is_late() -> bool:
            return self._clock.boot_ms() >= deadline_ms

        scan = self._runner.scan(stop=is_late)
        waiting: list[Stale] = []
        behind = unread = 0
        for stale in scan:
            waiting.append(stale)
            if len(waiting) >= _BATCH or sum(each.found.stat.size for each in waiting) >= _BATCH_BYTES:
                if is_late():
                    behind += len(waiting)
                else:
                    unread += self._fold(waiting)
                waiting = []
        if waiting and (behind or is_late()):
            behind += len(waiting)
        else:
            unread += self._fold(waiting)
        return self._close(scan, behind, unread)

    def _fold(self, stale: list[Stale]) -> int:
        """Bring these up to date; how many could not be read."""
        if not stale:
            return 0
        jobs = self._runner.jobs(stale)
        done = list(self._runner.do(jobs))
        self._runner.write(done, {job.path: job for job in jobs})
        return sum(each.reason is not None for each in done)

    def _close(self, scan: Scan, behind: int, unread: int) -> Partial | None:
        unread += sum(not each.link for each in scan.refused)
        if not scan.ended:
            return Partial(len(scan.seen) - behind, None, unread)
        if self._runner.has_vanished(scan):
            with self._database.write() as transaction:
                self._runner.note_vanished(scan, transaction)
        if behind or unread:
            return Partial(len(scan.seen) - behind, len(scan.seen), unread)
        return None
