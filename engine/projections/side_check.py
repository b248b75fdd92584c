"""Side databases beside the files: what the rows should be, folded anew into memory, and where they are not that.

Every stream is folded from its beginning up to its watermark, into a database in memory with the same schema; its rows
there and its rows in the file must be the same. What lies beyond a watermark, and a history that was rewritten, are lag
and no difference: the next catch-up folds them. Memory is the rows of one stream, which is also how long a snapshot is
kept: one over all of them would keep an erasure of another process waiting in vain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from engine.errors import ProjectionFailed
from engine.projections.fold import Folder, SetAside
from engine.projections.projection import Change, Projection
from engine.projections.side import BOOKKEEPING, Parts, Side
from engine.projections.side_tables import SET_ASIDE, orphans, query_of, rows_apart
from engine.projections.threads import stream_of
from engine.stores import watermarks
from engine.stores.layout import Found, locate
from engine.stores.rollouts import Source, open_source
from engine.stores.sqlite import Database, Transaction
from engine.stores.watermarks import Watermark


class SideDifference(NamedTuple):
    """Where the rows of a side database are not what the files say.

    `what` is `state` (the watermark is not that of the bytes), `rows` (of one table and stream), `orphans` (rows of a
    stream that was not followed; its `path` is None where nothing names it), `set_aside` (the list of records that could
    not be applied) or `failed` (the projection's own code). `stored` and `folded` are numbers of rows that only one has.
    """

    projection: str
    what: str
    path: str | None
    table: str
    stored: int
    folded: int
    message: str


def compare_side(parts: Parts, side: Side) -> Iterator[SideDifference]:
    """Every difference, each stream in a snapshot of its own. Writes nothing to the file. Raises `StoreError`."""
    memory = Database.open(
        None,
        side.name,
        side.shape,
        migrations=BOOKKEEPING,
        more=side.more,
        options=parts.options,
        clock=parts.clock,
        files=parts.files,
    )
    try:
        yield from _Comparison(parts, side, memory).run()
    finally:
        memory.close()


class _Comparison:
    """One comparison under way."""

    def __init__(self, parts: Parts, side: Side, memory: Database) -> None:
        self._parts = parts
        self._side = side
        self._database = side.database()
        self._memory = memory
        options = parts.options
        with memory.read() as transaction:
            self._queries = {table.name: query_of(transaction, table) for table in side.tables}
        self._folders = {
            each.name: Folder([each], options, decode=side.decode, piece_bytes=options.piece_bytes)
            for each in side.projections
        }

    def run(self) -> Iterator[SideDifference]:
        with self._database.read() as transaction:
            paths = [path for (path,) in transaction.rows("SELECT DISTINCT stream FROM watermarks ORDER BY stream")]
        for path in paths:
            with contextlib.suppress(OSError):  # it cannot be read, or went meanwhile: an audit of the files tells that
                found = locate(self._parts.home, path, self._parts.files)
                if found is not None:
                    with self._database.read() as transaction:
                        different = list(self._stream(transaction, found))
                    yield from different
        with self._database.read() as transaction:
            yield from self._orphans(transaction)

    def _stream(self, transaction: Transaction, found: Found) -> Iterator[SideDifference]:
        marks = watermarks.load(transaction, [found.path]).get(found.path, {})
        path = self._parts.home.absolute(found.path, compressed=found.compressed)
        source = open_source(path, compressed=found.compressed, files=self._parts.files, options=self._parts.options)
        followed = 0
        try:
            for projection in self._side.projections:
                mark = marks.get(projection.name)
                if mark is None or mark.version != projection.version:
                    continue
                last, aside = self._fold(found, source, projection, mark.offset)
                if (last.offset, last.chain, last.tail) == (mark.offset, mark.chain, mark.tail):
                    followed += 1
                    if (last.state, last.ordinal) != (mark.state, mark.ordinal):
                        message = "the stored state is not the fold of the bytes"
                        yield SideDifference(projection.name, "state", found.path, "watermarks", 1, 1, message)
                    yield from self._set_aside(transaction, projection.name, found.path, mark, aside)
                elif mark.stat == source.stat:  # no catch-up would look at it
                    message = "the watermark is not that of the bytes, and the file did not change since"
                    yield SideDifference(projection.name, "state", found.path, "watermarks", 1, 1, message)
        except ProjectionFailed as failure:
            yield SideDifference(failure.projection, "failed", found.path, "watermarks", 0, 0, failure.message)
        else:
            if followed == len(self._side.projections):
                yield from self._rows(transaction, found.path)
        finally:
            source.close()
            with self._memory.write() as memory:
                for projection in self._side.projections:
                    projection.forget(memory, [found.path])

    def _fold(self, found: Found, source: Source, projection: Projection, end: int) -> tuple[Watermark, list[SetAside]]:
        """Write the rows of a stream up to an offset into memory, piece by piece; where that came to, what was set aside."""
        folder, aside = self._folders[projection.name], list[SetAside]()
        stream = stream_of(found.path)
        marks: dict[str, Watermark] = {}
        while True:
            (folded,) = folder.fold(stream, source, marks, compressed=found.compressed, end=end)
            aside += folded.set_aside
            state = projection.decode(folded.mark.state)
            change = Change(stream, found.compressed, state, folded.anew, folded.emitted)
            with self._memory.write() as memory:
                projection.write(memory, [change])
            if not watermarks.is_unfinished(folded.mark):
                return folded.mark, aside
            marks = {projection.name: folded.mark}

    def _rows(self, transaction: Transaction, path: str) -> Iterator[SideDifference]:
        with self._memory.read() as memory:
            for table, query in self._queries.items():
                more, fewer = rows_apart(*(each.rows(query, {"path": path}) for each in (transaction, memory)))
                if more or fewer:
                    message = (
                        f"{more} rows of {table} are not what the rollout says, and {fewer} that it says are missing"
                    )
                    yield SideDifference(self._side.name, "rows", path, table, more, fewer, message)

    def _set_aside(
        self, transaction: Transaction, projection: str, path: str, mark: Watermark, aside: list[SetAside]
    ) -> Iterator[SideDifference]:
        """The list of set-aside records beside what the bytes give."""
        # A compressed file that ends too soon is noted where its bytes end, which the fold up to there does not reach.
        rows = transaction.rows(_ASIDE, {"path": path, "projection": projection})
        stored, folded = (
            {each for each in found if each.length or each.offset != mark.offset}
            for found in ([SetAside(*row) for row in rows], aside)
        )
        more, fewer = len(stored - folded), len(folded - stored)
        if more or fewer:
            message = f"{more} set-aside records that no bytes explain, and {fewer} that are missing"
            yield SideDifference(projection, "set_aside", path, "set_aside", more, fewer, message)

    def _orphans(self, transaction: Transaction) -> Iterator[SideDifference]:
        for table in (*self._side.tables, SET_ASIDE):
            for path, count in orphans(transaction, table):
                message = f"{count} rows of {table.name} are of a rollout that was not followed"
                yield SideDifference(self._side.name, "orphans", path, table.name, count, 0, message)


_ASIDE = """
    SELECT "offset", length, kind, reason, bytes FROM set_aside WHERE stream = :path AND projection = :projection
"""
