"""A bounded look at the files before an answer: what a list does so that it need not wait for a back-fill.

A look goes through the folders, newest first, and folds what moved, until its budget is spent; then it says how far it
came, and the next one goes on from there. A folder that was looked through is remembered by its times: nothing came into
it or went from it while they stand still, so the next look passes over it for one stat. What grows in place does not show
there. So folders are listed again by and by, in a share of the budget, those first that were listed longest ago: those
with a file that changed within `_HOT_MS`, or with something left to do, before the others. Looks are at most one in
`scan_interval_ms`, unless the last one did not come to its end.

Rollouts whose rows are only outdated are counted, and left to the background and the back-fill: their rows can be
answered with, and a rebuild makes no reader wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from engine.clock import Clock
from engine.errors import StoreBusy, StoreFull, StoreReadOnly
from engine.options import Options
from engine.projections.runner import Runner, Stale
from engine.stores.files import Files, FileStat
from engine.stores.layout import ROOTS, Home, Listing, Refused, find, list_folder, roots
from engine.stores.sqlite import Database

_BATCH = 32
"""Streams folded between two looks at the clock."""

_BATCH_BYTES = 16 * 1024 * 1024
"""And bytes: with a few large rollouts the clock is looked at after each."""

_HOT_MS = 3_600_000
"""A folder with a file that changed within this time is likely to change again."""

_SETTLED_MS = 2_000
"""A folder that changed so shortly before it was listed may change again within the same tick of its times."""

_EMPTY = Listing([], [], [])
"""What is in a folder that is not there."""

_SWEEP_SHARE = 0.1
"""How much of its budget a look may spend on folders that show no change: on those that are likely to, and on the others."""


@dataclass(frozen=True, slots=True)
class Partial:
    """An answer does not cover every file. `files_total` is None while the walk has not met them all.

    `unread` counts rollouts and folders that cannot be read or used; `status` names each with its reason. `outdated` of
    those not done have rows of a lower version, and `newer` are behind a newer engine's rows, which only that can mend.
    """

    files_done: int
    files_total: int | None
    unread: int = 0
    outdated: int = 0
    newer: int = 0


class _Seen(NamedTuple):
    """What a look remembers of a folder. `times` is None where they cannot be relied on yet."""

    times: FileStat | None
    deeper: list[str]
    files: int
    unread: int
    outdated: int
    newer: int
    newest_ms: int
    at_ms: int

    @property
    def is_owed(self) -> bool:
        """Whether something of it is left to do."""
        return bool(self.unread or self.outdated or self.newer)


class CatchUp:
    """Looks at the files of one home, one thread at a time."""

    def __init__(
        self, home: Home, runner: Runner, database: Database, *, options: Options, clock: Clock, files: Files
    ) -> None:
        self._home = home
        self._runner = runner
        self._database = database
        self._options = options
        self._clock = clock
        self._files = files
        self._mutex = threading.Lock()
        self._partial: Partial | None = None
        self._cut_short = False
        self._looked_ms: int | None = None
        self._folders: dict[str, _Seen] = {}
        """By path, the one that was looked through longest ago first."""
        self._gone: set[str] = set()
        """Streams whose file was found gone; where one turns up elsewhere, it moved."""

    def look(self, budget_ms: int | None = None, *, anew: bool = False) -> Partial | None:
        """Catch up for at most `budget_ms`, or `list_budget_ms`; None where the rows cover every file.

        As of `scan_interval_ms` ago, that is; as of now with `anew`.
        """
        budget_ms = self._options.list_budget_ms if budget_ms is None else budget_ms
        if not self._mutex.acquire(timeout=self._options.list_budget_ms / 1000):
            return self._partial
        try:
            if not anew and self._is_recent() and not self._cut_short:
                return self._partial
            self._partial = self._catch_up(budget_ms)
        except (StoreBusy, StoreFull):
            # Somebody else writes, or nobody can: a reader does not wait for the rows to come up to date.
            self._partial, self._cut_short = Partial(0, None), True
        except StoreReadOnly:
            pass  # the rows are as old as they are; what they are behind by, `status` tells
        finally:
            self._looked_ms = self._clock.boot_ms()
            self._mutex.release()
        return self._partial

    def give_way(self) -> None:
        """Return when nobody looks: two who fold the same at once take twice as long."""
        with self._mutex:
            pass

    def look_for(self, thread_id: str) -> None:
        """Fold what the rollouts of one thread hold, as their names tell."""
        found = find(self._home, thread_id.lower(), self._files)
        self._fold(self._runner.stale(found), _never)

    def forget(self) -> None:
        """The rows are not those that were looked at: look anew."""
        with self._mutex:
            self._partial, self._cut_short, self._looked_ms = None, False, None
            self._folders.clear()
            self._gone.clear()

    def _is_recent(self) -> bool:
        return self._looked_ms is not None and self._clock.boot_ms() - self._looked_ms < self._options.scan_interval_ms

    def _catch_up(self, budget_ms: int) -> Partial | None:
        begun_ms = self._clock.boot_ms()

        def is_late() -> bool:
            return self._clock.boot_ms() - begun_ms >= budget_ms

        found = list(roots(self._home, self._files))
        here = [each for each in found if isinstance(each, str)]
        there = {each if isinstance(each, str) else each.path for each in found}
        for root in [root for root in ROOTS if root not in there]:
            self._note_gone(self._runner.compare(root, _EMPTY).gone, [], moved=False)
        ended, met = self._go_through(here, is_late)
        if ended:
            for folder in self._folders.keys() - met:
                del self._folders[folder]
            self._sweep(begun_ms, budget_ms * _SWEEP_SHARE)
        refused = sum(isinstance(each, Refused) and not each.link for each in found)
        self._cut_short = not ended
        seen = [self._folders[folder] for folder in met]
        files, unread = sum(each.files for each in seen), refused + sum(each.unread for each in seen)
        outdated, newer = sum(each.outdated for each in seen), sum(each.newer for each in seen)
        if not ended:
            return Partial(files - outdated - newer, None, unread, outdated, newer)
        done = files - unread - outdated - newer
        return Partial(done, files, unread, outdated, newer) if done < files else None

    def _go_through(self, folders: list[str], is_late: Callable[[], bool]) -> tuple[bool, set[str]]:
        """Look through all folders that changed or may have; whether that came to its end, and which it came to."""
        met: set[str] = set()
        waiting = folders[::-1]
        while waiting:
            folder = waiting.pop()
            if not self._is_settled(folder) and (is_late() or not self._look_through(folder, is_late)):
                return False, met
            met.add(folder)
            waiting.extend(reversed(self._folders[folder].deeper))
        return True, met

    def _is_settled(self, folder: str) -> bool:
        seen = self._folders.get(folder)
        if seen is None or seen.times is None:
            return False
        return self._files.folder(f"{self._home.path}/{folder}", op="layout.look") == seen.times

    def _sweep(self, begun_ms: int, share_ms: float) -> None:
        """List folders again that show no change, as many as there is time for, each at most once in a look."""
        waiting = [(folder, seen) for folder, seen in self._folders.items() if seen.at_ms < begun_ms]
        hot_ms = self._clock.wall_ms() - _HOT_MS
        for likely in (True, False):
            until_ms = self._clock.boot_ms() + share_ms

            def is_enough(until_ms: float = until_ms) -> bool:
                return self._clock.boot_ms() >= until_ms

            for folder, seen in waiting:
                if (seen.newest_ms > hot_ms or seen.is_owed) == likely and (
                    is_enough() or not self._look_through(folder, is_enough)
                ):
                    break

    def _look_through(self, folder: str, is_late: Callable[[], bool]) -> bool:
        """List a folder and fold what moved in it; whether all of it was."""
        times = self._files.folder(f"{self._home.path}/{folder}", op="layout.look")
        now_ms, at_ms = self._clock.wall_ms(), self._clock.boot_ms()
        listing = list_folder(self._home, folder, self._files)
        compared = self._runner.compare(folder, listing)
        moved = [each for each in compared.stale if not each.outdated]
        unread = self._fold(moved, is_late)
        if unread is None:
            return False
        self._note_gone(compared.gone, compared.restored, moved=bool(moved))
        unread += sum(not each.link for each in listing.refused)
        newest_ms = max((each.stat.mtime_ns // 1_000_000 for each in listing.found), default=0)
        changed_ms = now_ms if times is None else max(times.mtime_ns, times.ctime_ns) // 1_000_000
        is_sure = times is not None and now_ms - changed_ms >= _SETTLED_MS
        self._folders.pop(folder, None)
        self._folders[folder] = _Seen(
            times=times if is_sure else None,
            deeper=listing.deeper,
            files=len(listing.found),
            unread=unread,
            outdated=len(compared.stale) - len(moved),
            newer=compared.newer_behind,
            newest_ms=newest_ms,
            at_ms=at_ms,
        )
        return True

    def _note_gone(self, gone: list[str], restored: list[str], *, moved: bool) -> None:
        self._gone.update(gone)
        self._gone.difference_update(restored)
        if gone or restored or (moved and self._gone):
            with self._database.write() as transaction:
                self._runner.note_gone(transaction, sorted(self._gone), fresh=gone, restored=restored)

    def _fold(self, stale: list[Stale], is_late: Callable[[], bool]) -> int | None:
        """Bring these up to date, a batch at a time; how many could not be read, None where there was no time for all."""
        unread = at = 0
        while at < len(stale):
            if at and is_late():
                return None
            end, size = at, 0
            while end < len(stale) and end - at < _BATCH and size < _BATCH_BYTES:
                size += stale[end].found.stat.size
                end += 1
            left = self._runner.fold(stale[at:end], is_late)
            if left.behind:
                return None
            unread += left.unread
            at = end
        return unread


def _never() -> bool:
    return False
