"""What was decided about threads: its rows beside the journal and the session index, and the journal by itself.

The bytes that were followed are folded once more, into a database in memory, and the two are compared row by row. What
the streams hold beyond that is no finding: every answer catches up with them first. Memories, once they are rows, are
compared here as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.audit.findings import REPAIR, UPGRADE, Finding, finding, short
from engine.audit.lines import look
from engine.audit.marks import line_findings
from engine.audit.parts import AuditParts, Looked
from engine.projections.decided import Shape
from engine.projections.facts import INDEX_NAMES, JOURNAL_TABLES, Followed
from engine.projections.thread_facts import unfinished_archives, unfinished_erasures, unfinished_redactions
from engine.stores.rollouts import open_source
from engine.stores.sqlite import Database, Transaction
from engine.stores.trash import Trash

_TABLES = {"journal": JOURNAL_TABLES, "session_index": (INDEX_NAMES,)}
"""Each stream fills tables of its own."""


class Decided:
    """Looks at the home's own records."""

    def __init__(self, parts: AuditParts, looked: Looked, *, deep: bool) -> None:
        self._parts = parts
        self._looked = looked
        self._deep = deep

    def run(self, scratch: Database) -> Iterator[Finding]:
        """All findings; `scratch` is an empty state database in memory."""
        with self._parts.database.read() as transaction:
            followed = self._parts.facts.followed(transaction)
            rows = {shape.table: _rows(transaction, shape) for shapes in _TABLES.values() for shape in shapes}
        untold = self._parts.facts.fold_into(scratch, followed)
        for stream, changed in untold.items():
            yield from self._untold(stream, changed, followed[stream])
        with scratch.read() as transaction:
            for stream, shapes in _TABLES.items():
                for shape in shapes if stream not in untold else ():
                    yield from _compared(shape, _rows(transaction, shape), rows[shape.table])

    def journal(self) -> Iterator[Finding]:
        """Bad lines, and numbers that do not follow, of the journal itself."""
        before = -1
        segments = self._parts.journal.segments()
        for segment in segments:
            path = self._parts.shown(segment)
            try:
                source = open_source(segment, compressed=False, files=self._parts.files, options=self._parts.options)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield finding("unreadable", f"{path} cannot be read: {error.strerror}", path=path)
                continue
            try:
                lines = look(source, self._parts.options, deep=self._deep, before=before)
                self._looked.note_absolute(path, segment, source.stat)
            finally:
                source.close()
            before = segment.first - 1 if lines.last_ordinal is None else lines.last_ordinal
            mend, why = (REPAIR, None) if segment is segments[-1] else (None, "a closed segment is never changed")
            yield from line_findings({"path": path}, lines, mend=mend, why=why)

    def unfinished(self) -> Iterator[Finding]:
        """Changes that were begun and not finished, but for those that somebody is at."""
        with self._parts.database.read() as transaction:
            archives = unfinished_archives(transaction)
            erasures = unfinished_erasures(transaction)
            redactions = unfinished_redactions(transaction)
        for thread_id, archived in archives:
            where = "into the archive" if archived else "out of the archive"
            yield from self._begun(thread_id, f"its move {where}", "archive_begun")
        for thread_id, _ in erasures:
            yield from self._begun(thread_id, "its erasure", "erase_begun")
        for thread_id, _ in redactions:
            yield from self._begun(thread_id, "a redaction", "redaction_begun")
        yield from self._overdue()

    def _begun(self, thread_id: str, what: str, tag: str) -> Iterator[Finding]:
        if self._parts.live_owner(thread_id) is None:
            message = f"{what} was begun and is not finished"
            yield finding("unfinished", message, mend=REPAIR, thread_id=thread_id, field=tag)

    def _overdue(self) -> Iterator[Finding]:
        """Folders in the trash whose time is over."""
        trash = Trash(self._parts.home, options=self._parts.options, files=self._parts.files)
        for due_ms, thread_id, folder in trash.entries():
            if due_ms <= self._parts.clock.wall_ms():
                message = "what was erased is still in the trash, and its time there is over"
                path = self._parts.shown(folder)
                yield finding("unfinished", message, mend=REPAIR, thread_id=thread_id, path=path, field="trash")

    def _untold(self, stream: str, changed: list[str], followed: list[Followed]) -> Iterator[Finding]:
        """Streams whose rows cannot be judged by their bytes."""
        if not changed:
            versions = max(each.mark.version for each in followed)
            message = f"what {stream} says was folded by version {versions}, which is not this release's"
            yield finding("newer_projection", message, mend=UPGRADE, field=stream)
        for name in changed:
            path = self._parts.shown(self._parts.facts.path_of(stream, name))
            message = "the file is not the one that was followed: it was replaced, cut, edited or removed"
            yield finding("rewritten_history", message, mend=REPAIR, path=path, field=_TABLES[stream][0].table)


_Rows = dict[tuple[Any, ...], tuple[Any, ...]]


def _rows(transaction: Transaction, shape: Shape) -> _Rows:
    """The rows of a table: its other columns by its key."""
    columns, keys = ", ".join([*shape.key, *shape.columns]), len(shape.key)
    rows = transaction.rows(f"SELECT {columns} FROM {shape.table}")  # noqa: S608 - names of ours
    return {row[:keys]: row[keys:] for row in rows}


def _compared(shape: Shape, given: _Rows, there: _Rows) -> Iterator[Finding]:
    for key in sorted(given.keys() | there.keys()):
        mine, row = given.get(key), there.get(key)
        if mine == row:
            continue
        which = dict(zip(shape.key, key, strict=True))
        where: dict[str, Any] = {"thread_id": which.pop("thread_id", None), "mend": REPAIR}
        named = "".join(f" ({name} {short(value)})" for name, value in which.items())
        if mine is None:
            message = f"the row of {shape.table}{named} has no record that it comes from"
            yield finding("orphan_row", message, field=shape.table, **where)
        elif row is None:
            message = f"what was recorded has no row in {shape.table}{named}"
            yield finding("wrong_fact", message, field=shape.table, **where)
        else:
            for column, value, stored in zip(shape.columns, mine, row, strict=True):
                if value != stored:
                    message = f"{column} is {short(stored)} in {shape.table}{named} and {short(value)} in the record"
                    values = {"file_value": value, "row_value": stored}
                    yield finding("wrong_fact", message, field=f"{shape.table}.{column}", **values, **where)
