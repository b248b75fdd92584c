"""What a home's log says: records by what they are looked for, an export to go along with a report, and how it all stands.

Each question first gives rows to what has none, for a bounded time, and says what is left (`lag`). Nothing else in a home
waits for this: it is asked here and nowhere else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from msgspec import Struct

from engine.clock import Clock, SystemClock
from engine.options import Options
from engine.projections.log_query import Bodies, LogQuery, LogRecord, check, export, max_id, pick
from engine.projections.logs import LogLag, LogParts, LogTable
from engine.stores.alive import Alive
from engine.stores.boundary import public, typed
from engine.stores.files import Files
from engine.stores.layout import Home, open_home
from engine.stores.link import files_translated
from engine.stores.log_segments import Removed
from engine.stores.sqlite import Transaction

_NO_LAG = LogLag(0, 0, None)


class LogPage(Struct, frozen=True):
    """Records of a query, in its order, and what of the segments they do not cover."""

    records: list[LogRecord]
    lag: LogLag


class LogStatus(Struct, frozen=True, kw_only=True):
    """How the log stands. `bytes` are those of the segments, `database_bytes` of the table and its -wal.

    `dropped` are records that handlers could not take or write, as far as the segments that are there tell; `damaged` are
    lines that are none; `records` are all that were followed, whether the filter gave them rows or not.
    """

    segments: int
    bytes: int
    rows: int
    records: int
    dropped: int
    damaged: int
    database_bytes: int
    wal_bytes: int
    lag: LogLag


@typed
def open_logs(
    home: str,
    *,
    state_dir: str | None = None,
    options: Options | None = None,
    clock: Clock | None = None,
    files: Files | None = None,
) -> Logs:
    """The log of a home and nothing else of it: to be closed, or used in a `with` block.

    For tools that look on: no other database is opened, and none made where nothing was ever logged. Raises `HomeMissing`,
    `HomeNotAFolder`, `HomeUnreadable`.
    """
    files = files or Files()
    return logs_of(open_home(home, state_dir, files), options=options, clock=clock, files=files)


def logs_of(
    home: Home, *, options: Options | None = None, clock: Clock | None = None, files: Files | None = None
) -> Logs:
    """The same, for a home that was looked at."""
    options, files = options or Options(), files or Files()
    table = LogTable(LogParts(home, None, options, clock or SystemClock(), files))
    return Logs(table, Alive(), options=options, files=files)


@public
class Logs:
    """The log of one home."""

    def __init__(self, table: LogTable, alive: Alive, *, options: Options, files: Files) -> None:
        self._table = table
        self._alive = alive
        self._options = options
        self._files = files

    def query(self, **wanted: Any) -> LogPage:
        """The records that are asked for by the fields of `LogQuery`, the newest 100 where nothing is.

        Raises `InvalidRequest`, `StoreError`.
        """
        query = LogQuery(**wanted)
        check(query)
        with self._asking() as is_empty:
            if is_empty:
                return LogPage([], _NO_LAG)
            return LogPage(*self._table.ask(lambda transaction: pick(transaction, query, self._bodies())))

    def max_id(self, **wanted: Any) -> int:
        """The highest id among the records that are asked for; 0 where there are none. Raises as `query` does."""
        query = LogQuery(**wanted)
        check(query)
        with self._asking() as is_empty:
            if is_empty:
                return 0
            return self._table.ask(lambda transaction: max_id(transaction, query, self._bodies()))[0]

    def export(self, thread_ids: Sequence[str], *, bytes_max: int | None = None) -> bytes:
        """What these threads logged, with what their latest processes logged beside any thread; whole lines, oldest first.

        The newest `bytes_max` bytes of it (`log_export_bytes_max` where none are given). Raises `StoreError`.
        """
        most = self._options.log_export_bytes_max if bytes_max is None else bytes_max
        with self._asking() as is_empty:
            if is_empty or not thread_ids:
                return b""
            return self._table.ask(lambda transaction: export(transaction, thread_ids, self._bodies(), most))[0]

    def fill(self) -> LogLag:
        """Give rows to all that has none; what is left where that was kept from going on. Raises `StoreError`."""
        with self._asking() as is_empty:
            return _NO_LAG if is_empty else self._table.fill()

    def retain(self) -> Removed:
        """Remove the segments that are beyond a bound, as each process does that begins one. Raises `StoreError`."""
        with self._asking():
            return self._table.retain()

    def status(self) -> LogStatus:
        """How the log stands. Raises `StoreError`."""
        with self._asking() as is_empty:
            counts, lag = ((0, 0, 0, 0), _NO_LAG) if is_empty else self._table.ask(_counts)
            sizes, found = self._table.sizes(), self._table.segments()
        rows, records, dropped, damaged = counts
        return LogStatus(
            segments=len(found),
            bytes=sum(segment.stat.size for segment in found),
            rows=rows,
            records=records,
            dropped=dropped,
            damaged=damaged,
            database_bytes=sizes[0],
            wal_bytes=sizes[1],
            lag=lag,
        )

    @typed
    def close(self) -> None:
        """Close the table; a second call does nothing."""
        if not self._alive.forked:
            self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _asking(self) -> Iterator[bool]:
        """Around a question: whether there is nothing to be asked, so that no file is made for the answer."""
        with files_translated("logs", self._table.folder):
            yield not self._table.is_there and not self._table.segments()

    def _bodies(self) -> Bodies:
        return Bodies(self._table.folder, options=self._options, files=self._files)


def _counts(transaction: Transaction) -> tuple[int, int, int, int]:
    (rows,) = transaction.row("SELECT coalesce(sum(rows), 0) FROM partitions") or (0,)
    records, dropped, damaged = transaction.row(_OF_SEGMENTS) or (0, 0, 0)
    return rows, records, dropped, damaged


_OF_SEGMENTS = """
    SELECT coalesce(sum(records), 0), coalesce(sum(dropped), 0), coalesce(sum(damaged), 0) FROM segments
"""
