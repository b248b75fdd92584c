"""Where a thread's records are, and what they say, from its first ancestor's on.

Looks threads and rollouts up in the rows, and says what is missing: `ThreadNotFound`, `TruthGone`. Needs no lock, and reads
what is in the files now: a torn or damaged line is passed over, as everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from engine.errors import InvalidRequest, LineageBroken, RolloutUnreadable, ThreadNotFound, TruthGone
from engine.events.record import decode_plain, kind_of_plain
from engine.options import Options
from engine.projections.fresh import Fresh
from engine.projections.model_context import ModelContext, read_context
from engine.projections.thread_list import ThreadRow, get_thread
from engine.stores.files import Files
from engine.stores.layout import Found, Home, is_archived, is_id, locate
from engine.stores.lineage import Segment, lineage, lines_backwards_of
from engine.stores.recorder import Position
from engine.stores.rollouts import Located
from engine.stores.sqlite import Database
from engine.stores.windows import Part, Window, check_window, parts_of, read_parts

WHOLE = Window()
"""A thread's whole history, oldest first."""


class StoredRecord(NamedTuple):
    """A record as it was written, and where. `ordinal` is None in a legacy rollout; `timestamp` is RFC 3339 text.

    `offset` is where its line begins in its rollout, `length` its bytes with the LF.
    """

    ordinal: int | None
    timestamp: str
    kind: str
    payload: Any
    offset: int
    length: int

    @property
    def position(self) -> Position:
        """Where its stream stands behind it: as `start`, what follows it is read."""
        return Position(self.ordinal, self.offset + self.length)

    @property
    def before(self) -> Position:
        """Where its stream stood before it: as `end`, what comes before it is read."""
        return Position(self.ordinal - 1 if self.ordinal else None, self.offset)


def stored_record(found: Located) -> StoredRecord | None:
    """A record with its payload decoded; None where that cannot be, because it is nested too deep."""
    record = found.record
    try:
        payload = msgspec.json.decode(record.payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    return _stored(found, payload)


def _stored(found: Located, payload: dict[str, Any]) -> StoredRecord:
    record = found.record
    kind = kind_of_plain(record.type, payload)
    return StoredRecord(record.ordinal, record.timestamp, kind, payload, found.offset, found.length + 1)


class History:
    """The rollouts of one home's threads."""

    def __init__(self, home: Home, database: Database, fresh: Fresh, *, options: Options, files: Files) -> None:
        self._home = home
        self._database = database
        self._fresh = fresh
        self._options = options
        self._files = files

    def row(self, thread_id: str, *, anew: bool = False) -> ThreadRow:
        """A thread's row. Raises `InvalidRequest` for what is not an id, `ThreadNotFound`.

        `anew` looks at all files again before, however short ago they were looked at.
        """
        if not is_id(thread_id):
            raise InvalidRequest(
                f"{thread_id!r} is not a thread id.", hint="Thread ids are UUIDs; see `rolloutdb threads list`."
            )
        if anew:
            self._fresh.forget()
        row, _ = self._fresh.ask(
            lambda transaction: get_thread(transaction, thread_id),
            thread_id=thread_id,
            is_missing=lambda found: found is None,
        )
        if row is None:
            raise ThreadNotFound(
                f"There is no thread {thread_id} in {self._home.path}.",
                hint="Run `rolloutdb threads list --limit 0` to see all ids.",
            )
        return row

    def find(self, thread_id: str) -> tuple[ThreadRow, Found]:
        """A thread's row, and the rollout that it is made of. Raises as `row` does, and `TruthGone`."""
        for anew in (False, True):  # somebody may have moved the file since it was looked at
            row = self.row(thread_id, anew=anew)
            found = locate(self._home, row.rollout_path, self._files)
            if found is not None:
                return row, found
        raise TruthGone(
            f"The rollout of {row.id} is gone.", hint="Restore it, or dismiss the thread.", path=row.rollout_path
        )

    def rollouts(self, thread_id: str) -> list[Found]:
        """All rollouts of a thread that are there: a reverted one has several."""
        return self._located(_PATHS, thread_id)

    def resolve(self, rollout_id: str) -> Found | None:
        """The rollout of this id: active before archived, where there are copies."""
        found = sorted(self._located(_ROLLOUT, rollout_id), key=lambda each: is_archived(each.path))
        return found[0] if found else None

    def read(self, found: Found, window: Window = WHOLE) -> Iterator[StoredRecord]:
        """The records of a thread whose head this is, ancestors' before its own; a window of them, in its order.

        Raises `LineageBroken` and `InvalidRequest`, and on the way `RolloutUnreadable`, and `InvalidRequest` where no
        record begins at an edge of the window. Memory does not grow with the window.
        """
        check_window(window)
        with readable(found):
            parts = parts_of(self._home, found, window, self.resolve, options=self._options, files=self._files)
        return islice(self._decoded(found, parts, reverse=window.reverse), window.limit)

    def lines_backwards(self, found: Found) -> Iterator[bytes]:
        """The lines of the thread whose head this is, newest first, its ancestors' behind its own.

        Its own alone where the way to them is broken. Raises `RolloutUnreadable`.
        """
        with readable(found):
            try:
                segments = lineage(self._home, found, self.resolve, options=self._options, files=self._files)
            except LineageBroken:
                segments = [Segment(found, None)]
            yield from lines_backwards_of(self._home, segments, options=self._options, files=self._files)

    def own_lines_backwards(self, found: Found) -> Iterator[bytes]:
        """The lines of this rollout alone, newest first. Raises `RolloutUnreadable`."""
        with readable(found):
            segments = [Segment(found, None)]
            yield from lines_backwards_of(self._home, segments, options=self._options, files=self._files)

    def model_context(self, found: Found) -> ModelContext:
        """What a model is sent to go on where this rollout ends. Raises `LineageBroken`, `RolloutUnreadable`."""
        with readable(found):
            parts = parts_of(self._home, found, WHOLE, self.resolve, options=self._options, files=self._files)
            return read_context(self._home, parts, options=self._options, files=self._files)

    def _decoded(self, head: Found, parts: Sequence[Part], *, reverse: bool) -> Iterator[StoredRecord]:
        with readable(head):
            stored = read_parts(
                self._home, parts, reverse=reverse, options=self._options, files=self._files, by=decode_plain
            )
            for _, each in stored:
                if isinstance(each, Located):
                    payload: Any = each.record.payload  # decoded by then
                    yield _stored(each, payload)

    def _located(self, sql: str, value: str) -> list[Found]:
        with self._database.read() as transaction:
            paths = [path for (path,) in transaction.rows(sql, {"id": value.lower()})]
        found = [locate(self._home, path, self._files) for path in paths]
        return [each for each in found if each is not None]


@contextlib.contextmanager
def readable(found: Found) -> Iterator[None]:
    """What the operating system raises as `RolloutUnreadable`, or `TruthGone`, for a rollout or what it goes on from."""
    try:
        yield
    except FileNotFoundError as error:
        raise TruthGone(
            f"A rollout of the history of {found.path} went while it was read.",
            hint="Restore it, or dismiss the thread.",
            path=error.filename or found.path,
        ) from error
    except OSError as error:
        raise RolloutUnreadable(
            f"A rollout of the history of {found.path} cannot be read: {error.strerror}.",
            hint="Check who owns the files and their mode.",
            path=error.filename or found.path,
        ) from error


_PATHS = "SELECT path FROM streams WHERE thread_id = :id"
_ROLLOUT = """
    SELECT path FROM streams WHERE rollout_id = :id AND rollout_id <> thread_id
    UNION ALL SELECT path FROM streams WHERE thread_id = :id AND rollout_id = :id
"""
