"""The table of logs: filled from the segments by batches, off every hot path, bounded, and done without at any time.

Whoever asks fills it first for a bounded time, and so does the background of an open engine where there is enough to do. What
the filter lets pass (`log_levels`) gets a row, of the newest that its partition has room for: older ones lose theirs in the
same transaction, or never get one. A partition is a thread, or the records of a process that belong to no thread. How far a
segment was followed is swapped in that transaction as well, so two that fill at once give each record one row.

No open, append or list of threads ever waits for this file. Damaged, removed or replaced, it is begun anew and filled from the
segments; locked or full, answers are older and say how much. While a reader keeps the -wal from shrinking, filling stops at
`wal_bytes_max`. Freed pages go back to the file system a few at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from msgspec import Struct

from engine.clock import Clock
from engine.errors import StoreBusy, StoreError, StoreFull, StoreReadOnly
from engine.options import Options
from engine.projections.log_lines import Entry, Reading, merged
from engine.projections.log_rows import Overtaken, RowWriter, remove_superfluous, vacuum
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.leases import Lease, Leases
from engine.stores.link import files_translated
from engine.stores.log_segments import Removed, Segment, erase, records_of, retain, segments
from engine.stores.mending import mending
from engine.stores.quiet import quiet
from engine.stores.sqlite import Database, Transaction

NAME = "logs"
SHAPE = 1
LEASE = "logs"

_PRAGMAS = (
    "PRAGMA auto_vacuum = INCREMENTAL",
    # A batch touches the index in many places again and again: a page that were spilled would be written each time.
    "PRAGMA cache_spill = OFF",
)
_OLDER = (StoreBusy, StoreFull, StoreReadOnly, OSError)
_OVERTAKEN_MAX = 5
_WORTH_BYTES_MAX = 16 * 1024 * 1024
_BATCH_BYTES = 16 * 1024 * 1024
_BUSY_WAIT_MS = 250
_EMPTIED_SHARE = 0.6
"""Of `wal_bytes_max`: at this size the -wal is emptied, where no reader needs it."""
_Answer = TypeVar("_Answer")


class LogLag(Struct, frozen=True):
    """What of the segments has no rows yet, and why: `paused` says what keeps it from being filled, None where nothing does."""

    segments: int
    bytes: int
    paused: str | None


class LogParts(NamedTuple):
    """What the table works with. `leases` is None where there is no jobs database."""

    home: Home
    leases: Leases | None
    options: Options
    clock: Clock
    files: Files


class _Known(NamedTuple):
    """A row of `segments`, as far as filling goes."""

    number: int
    path: str
    offset: int
    device: int
    inode: int


class LogTable:
    """The table of one home; its file is opened when it is first needed. Safe to use from many threads."""

    def __init__(self, parts: LogParts) -> None:
        self._parts = parts
        self._opening = threading.Lock()
        self._filling = threading.Lock()
        self._opened: Database | None = None
        self._closed = False
        self._rows = RowWriter(parts.options)
        self._paused: str | None = None
        self._wal_bytes = self._grows_by = 0
        """The size of the -wal when it was looked at last, and the most by which it was larger the next time."""

    @property
    def folder(self) -> str:
        """Where `logs/` is: the state folder, or where it would be."""
        return self._parts.home.state or f"{self._parts.home.path}/engine"

    @property
    def is_there(self) -> bool:
        """Whether there is anything of it: it is open, or its file is there."""
        return self._opened is not None or (self._parts.home.state is not None and self._size("") is not None)

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file and of its -wal; 0 in memory."""
        return self._size("") or 0, self._size("-wal") or 0

    def retain(self) -> Removed:
        """Remove the segments that are beyond a bound."""
        with quiet():
            parts = self._parts
            if parts.home.state is None:
                return Removed(0, 0)
            return retain(self.folder, options=parts.options, clock=parts.clock, files=parts.files)

    def segments(self) -> list[Segment]:
        """The segments that are there, oldest first."""
        with quiet():
            return segments(self.folder, self._parts.files)

    def ask(self, question: Callable[[Transaction], _Answer]) -> tuple[_Answer, LogLag]:
        """The answer in one snapshot, after filling for `log_fill_budget_ms` at most, and what has no row yet.

        Raises what the question raises, `StoreError`.
        """
        with quiet():
            with contextlib.suppress(*_OLDER):
                self.fill(self._parts.options.log_fill_budget_ms)
            return mending(self._database(), lambda: self._answer(question)), self.lag()

    def fill(self, budget_ms: int | None = None, rest: Callable[[], bool] | None = None) -> LogLag:
        """Give rows to what has none, for at most so long (None: to the end); what is left. Raises `StoreError`, OSError.

        `rest` is called between two transactions and says whether it is time to stop.
        """
        with quiet():
            patience = -1 if budget_ms is None else budget_ms / 1000
            if not self._filling.acquire(timeout=patience):
                return self.lag()
            try:
                deadline_ms = None if budget_ms is None else self._parts.clock.boot_ms() + budget_ms
                database = self._database()
                is_asked_for = budget_ms is None and rest is None
                with database.waiting_at_most(self._parts.options.busy_wait_ms if is_asked_for else _BUSY_WAIT_MS):
                    mending(database, lambda: self._fill(database, deadline_ms, rest))
            finally:
                self._filling.release()
            return self.lag()

    def lag(self) -> LogLag:
        """What has no row yet. Raises `StoreError`."""
        known = mending(self._database(), self._known)
        count = size = 0
        for segment in self.segments():
            row = known.get(segment.path)
            behind = segment.stat.size - (row.offset if row is not None and _is_same(row, segment) else 0)
            if behind > 0:
                count, size = count + 1, size + behind
        return LogLag(count, size, self._paused if size else None)

    def tend(self, rest: Callable[[], bool]) -> None:
        """The background's chore: retention, and filling where enough has gathered; of many processes one does it."""
        with quiet():
            if self._parts.home.state is None:
                return
            self.retain()
            if not self.segments() and not self.is_there:
                return
            with _claimed(self._parts.leases) as is_ours:
                if is_ours and (self.lag().bytes >= self._worth_filling() or self._has_superfluous()):
                    self.fill(rest=rest)

    def count(self, thread_ids: Sequence[str]) -> int:
        """How many records of these threads the segments hold."""
        with quiet():
            return records_of(self.folder, thread_ids, options=self._parts.options, files=self._parts.files)

    def forget(self, thread_ids: Sequence[str]) -> tuple[int, int]:
        """Take every record of these threads out of the segments, and their rows; how many records, and their bytes.

        Raises OSError, `StoreError`.
        """
        with quiet():
            erased = erase(self.folder, thread_ids, options=self._parts.options, files=self._parts.files)
            if self.is_there:
                with self._filling:
                    database = self._database()
                    mending(database, lambda: self._rows.forget(database, thread_ids))
            return erased

    def database(self) -> Database:
        """The database, opened where it is not yet. Raises `StoreError`."""
        return self._database()

    def close(self) -> None:
        """Close the file; it is not opened again."""
        with self._opening:
            self._closed = True
            if self._opened is not None:
                self._opened.close()

    # Opening

    def _database(self) -> Database:
        with self._opening:
            if self._closed:
                raise StoreError("the table of logs is closed", hint="open the home again")
            if self._opened is None:
                parts = self._parts
                self._opened = Database.open(
                    parts.home.state,
                    NAME,
                    SHAPE,
                    migrations=NAME,
                    pragmas=_PRAGMAS,
                    options=parts.options,
                    clock=parts.clock,
                    files=parts.files,
                )
            return self._opened

    def _answer(self, question: Callable[[Transaction], _Answer]) -> _Answer:
        with self._database().read() as transaction:
            return question(transaction)

    # Filling

    def _fill(self, database: Database, deadline_ms: int | None, rest: Callable[[], bool] | None) -> None:
        self._paused = None
        self._wal_bytes = self._size("-wal") or 0
        for _ in range(_OVERTAKEN_MAX):
            try:
                self._rows.agree(database)
                there = self.segments()
                self._remove_superfluous(database, there, deadline_ms, rest)
                self._fill_from(database, there, deadline_ms, rest)
            except Overtaken:
                continue
            return

    def _fill_from(
        self, database: Database, there: Sequence[Segment], deadline_ms: int | None, rest: Callable[[], bool] | None
    ) -> None:
        """Batches of entries, each in a transaction of its own."""
        parts = self._parts
        entries = merged(self._readings(database, there), self.folder, parts.options, parts.files)
        while not self._must_pause(database):
            batch = _batch(entries, parts.options.log_fill_records)
            if not batch:
                return
            with database.write() as transaction:
                self._rows.write(transaction, batch, opened=database.opened)
            if self._is_over(deadline_ms, rest):
                return

    def _readings(self, database: Database, there: Sequence[Segment]) -> list[Reading]:
        """The segments that have something without a row."""
        known = self._known()
        found = []
        for segment in there:
            row = known.get(segment.path)
            if row is not None and not _is_same(row, segment):
                with database.write() as transaction:
                    self._rows.drop_segment(transaction, row.number)
                row = None
            filled = 0 if row is None else row.offset
            if segment.stat.size > filled:
                found.append(Reading(segment, None if row is None else row.number, filled))
        return found

    def _known(self) -> dict[str, _Known]:
        with self._database().read() as transaction:
            return {row[1]: _Known(*row) for row in transaction.rows(_SEGMENTS)}

    def _must_pause(self, database: Database) -> bool:
        """Whether the -wal has no room for another transaction, and a reader keeps it from being emptied.

        It is emptied well before that.
        """
        if database.path is None:
            return False
        before, size = self._wal_bytes, self._size("-wal") or 0
        self._grows_by = max(self._grows_by, size - before)
        if size >= self._parts.options.wal_bytes_max * _EMPTIED_SHARE and database.try_empty_wal():
            size = self._size("-wal") or 0
        self._wal_bytes = size
        if size + self._grows_by < self._parts.options.wal_bytes_max or not size:
            return False
        self._paused = f"a reader keeps the -wal at {size:,} bytes"
        return True

    def _size(self, suffix: str) -> int | None:
        """Of the file of that name, None where there is none."""
        if self._parts.home.state is None:
            return None
        path = f"{self._parts.home.state}/{NAME}_{SHAPE}.sqlite{suffix}"
        with quiet(), files_translated("look at", path):
            found = self._parts.files.stat(path, op="logs.size")
        return None if found is None else found.size

    def _is_over(self, deadline_ms: int | None, rest: Callable[[], bool] | None) -> bool:
        if deadline_ms is not None and self._parts.clock.boot_ms() >= deadline_ms:
            return True
        return rest is not None and rest()

    # Removing

    def _remove_superfluous(
        self, database: Database, there: Sequence[Segment], deadline_ms: int | None, rest: Callable[[], bool] | None
    ) -> None:
        """Rows of segments that are gone, rows that are too old or too many, and pages that are free."""
        paths = {segment.path for segment in there}
        while not self._must_pause(database):
            gone = [row.number for path, row in self._known().items() if path not in paths]
            with database.write() as transaction:
                is_done = remove_superfluous(transaction, gone, self._parts.clock.wall_ms(), self._rows.bounds)
                is_done = vacuum(transaction) and is_done
            if is_done or self._is_over(deadline_ms, rest):
                return

    def _worth_filling(self) -> int:
        """How many bytes of the segments a transaction is worth: at worst it changes each page that there is."""
        with self._database().read() as transaction:
            pages: int = (transaction.row("PRAGMA page_count") or (0,))[0]
            page_bytes: int = (transaction.row("PRAGMA page_size") or (0,))[0]
        return max(self._parts.options.log_fill_bytes_min, min(pages * page_bytes, _WORTH_BYTES_MAX))

    def _has_superfluous(self) -> bool:
        paths = {segment.path for segment in self.segments()}
        return any(path not in paths for path in self._known())


@contextlib.contextmanager
def _claimed(leases: Leases | None) -> Iterator[bool]:
    """Hold the lease around a block, where there are leases; whether it is ours. Only double work hangs on it."""
    lease = None
    with contextlib.suppress(StoreError):
        lease = None if leases is None else leases.claim(LEASE, "fill the table of logs")
    try:
        yield lease is None or isinstance(lease, Lease)
    finally:
        if leases is not None and isinstance(lease, Lease):
            with contextlib.suppress(StoreError):
                leases.release(lease)


def _batch(entries: Iterator[Entry], records_max: int) -> list[Entry]:
    """The next entries: so many, or so many bytes of the segments."""
    batch: list[Entry] = []
    size = 0
    for entry in islice(entries, records_max):
        batch.append(entry)
        size += entry.end - entry.offset
        if size >= _BATCH_BYTES:
            break
    return batch


def _is_same(row: _Known, segment: Segment) -> bool:
    stat = segment.stat
    return (row.device, row.inode) == (stat.device, stat.inode) and row.offset <= stat.size


_SEGMENTS = 'SELECT number, path, "offset", device, inode FROM segments'
