"""Where a thread's records are, and what they say, from its first ancestor's on.

Looks threads and rollouts up in the rows, and says what is missing: `ThreadNotFound`, `TruthGone`. Needs no lock, and reads
what is in the files now: a torn or damaged line is passed over, as everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from engine.errors import InvalidRequest, LineageBroken, RolloutUnreadable, ThreadNotFound, TruthGone
from engine.events.record import kind_of
from engine.options import Options
from engine.projections.fresh import Fresh
from engine.projections.thread_list import ThreadRow, get_thread
from engine.stores.files import Files
from engine.stores.layout import Found, Home, is_archived, is_id, locate
from engine.stores.lineage import Segment, lineage, lines_backwards_of, read_lineage
from engine.stores.recorder import Position
from engine.stores.rollouts import Damage, Located, open_source, records
from engine.stores.sqlite import Database


class StoredRecord(NamedTuple):
    """A record as it was written. `ordinal` is None in a legacy rollout; `timestamp` is RFC 3339 text."""

    ordinal: int | None
    timestamp: str
    kind: str
    payload: Any


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
        row, _ = self._fresh.ask(lambda transaction: get_thread(transaction, thread_id), thread_id=thread_id)
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

    def read(self, found: Found, start: Position | None = None) -> Iterator[StoredRecord]:
        """The records of a thread whose head this is, oldest first, ancestors' before its own.

        With `start`, a position that an append answered, only its own from there on. Raises `LineageBroken`, and on the
        way `RolloutUnreadable`, and `InvalidRequest` where no record begins at `start`.
        """
        with readable(found):
            if start is not None:
                return self._decoded(found, self._behind(found, start.offset))
            segments = lineage(self._home, found, self.resolve, options=self._options, files=self._files)
        stored = read_lineage(self._home, segments, options=self._options, files=self._files)
        return self._decoded(found, (each for _, each in stored))

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

    def _behind(self, found: Found, offset: int) -> Iterator[Located | Damage]:
        path = self._home.absolute(found.path, compressed=found.compressed)
        source = open_source(path, compressed=found.compressed, files=self._files, options=self._options)
        try:
            if offset < 0 or (offset > 0 and source.read_at(offset - 1, 1) != b"\n"):
                raise InvalidRequest(
                    f"No record of {found.path} begins at byte {offset}.",
                    hint="Give the position that an append or a turn answered.",
                    path=found.path,
                    offset=offset,
                )
            yield from records(source, offset, None, self._options)
        finally:
            source.close()

    def _decoded(self, head: Found, stored: Iterator[Located | Damage]) -> Iterator[StoredRecord]:
        with readable(head):
            for each in stored:
                if isinstance(each, Located):
                    record = each.record
                    try:
                        payload = msgspec.json.decode(record.payload)
                    except (msgspec.DecodeError, RecursionError):
                        continue
                    yield StoredRecord(record.ordinal, record.timestamp, kind_of(record), payload)

    def _located(self, sql: str, value: str) -> list[Found]:
        with self._database.read() as transaction:
            paths = [path for (path,) in transaction.rows(sql, {"id": value.lower()})]
        found = [locate(self._home, path, self._files) for path in paths]
        return [each for each in found if each is not None]


@contextlib.contextmanager
def readable(found: Found) -> Iterator[None]:
    """What the operating system raises as `RolloutUnreadable`, for a rollout or what it goes on from."""
    try:
        yield
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
