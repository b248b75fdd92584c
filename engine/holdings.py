"""What a home holds of its threads, for those that take threads out or bring them in, and the right to change it.

A list may answer from rows that are behind; a removal may not. So `catch_up` here has no budget, who reads a thread is known
before anything of it goes, and a thread's rollouts are looked for both in the rows and by their names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import Struct

from engine.clock import Clock
from engine.errors import InvalidRequest, LineageBroken, ReadOnlyHome, RolloutUnusable, ThreadNotFound
from engine.events.item import item_of
from engine.events.record import Rejected, decode
from engine.options import Options
from engine.projections import thread_facts
from engine.projections.facts import Facts
from engine.projections.history import readable
from engine.projections.logs import LogTable
from engine.projections.projection import Projection
from engine.projections.runner import Runner, Stale
from engine.projections.sides import Sides
from engine.projections.thread_list import get_thread
from engine.receipts import Reader
from engine.stores.files import Files
from engine.stores.fill import fill_lines
from engine.stores.journal import Journal
from engine.stores.layout import Found, Home, Refused, is_archived, is_id, locate, walk
from engine.stores.lineage import Segment, are_foreign, lineage, open_rollout
from engine.stores.lineage_lock import lineage_held
from engine.stores.rollouts import Source
from engine.stores.sqlite import Database
from engine.stores.writer_lock import acquire

OWN_TAGS = frozenset({thread_facts.ERASE_BEGUN, thread_facts.ERASED, thread_facts.RETURNED})
"""Records about an erasure itself say nothing of the thread but its id, and stay."""

_BATCH = 200


class Remembered(Protocol):
    """What was learned in threads, as a removal sees it."""

    def held(self, thread_ids: Sequence[str]) -> list[tuple[str, int]]:
        """What the folder of memories has of threads: paths, and the bytes that are of them."""

    def forget(self, thread_ids: Sequence[str]) -> tuple[int, int]:
        """Take that out of it; how many files, and bytes."""

    def forget_jobs(self, thread_ids: Sequence[str]) -> int:
        """Take what is noted of work on threads out of the database of jobs; how many rows."""


class RemovalParts(NamedTuple):
    """What removals and bundles work with, of one engine."""

    home: Home
    database: Database
    runner: Runner
    projections: Sequence[Projection]
    sides: Sides
    logs: LogTable
    facts: Facts
    journal: Journal
    options: Options
    clock: Clock
    files: Files
    memories: Callable[[], Remembered]


class _Tag(Struct):
    """A record of the journal, as far as it matters here."""

    type: str | None = None
    thread_id: str | None = None


class Holdings:
    """The threads of one home, as a removal or a bundle sees them."""

    def __init__(self, parts: RemovalParts) -> None:
        self._parts = parts

    def check_writable(self) -> None:
        home = self._parts.home
        if home.state is None or not self._parts.files.writable(home.path, op="home.writable"):
            raise ReadOnlyHome(f"The home {home.path} cannot be written.", hint="Make it writable, or work on a copy.")

    def catch_up(self) -> None:
        """Bring every row up to date, however long it takes: who reads a thread is not to be guessed."""
        runner = self._parts.runner
        self._parts.facts.catch_up()
        scan = runner.scan()
        waiting: list[Stale] = []
        for stale in scan:
            waiting.append(stale)
            if len(waiting) >= _BATCH:
                self.fold(waiting)
                waiting = []
        self.fold(waiting)
        if runner.has_vanished(scan):
            with self._parts.database.write() as transaction:
                runner.note_vanished(scan, transaction)

    def fold(self, stale: Sequence[Stale], *, anew: bool = False) -> None:
        runner = self._parts.runner
        for each in stale:
            self._parts.sides.note(each.found.path)
        jobs = runner.jobs(stale, anew=anew)
        runner.write(list(runner.do(jobs)), {job.path: job for job in jobs})

    def known(self, thread_id: str) -> str:
        """The id of a thread that is there, as it is stored."""
        if not is_id(thread_id):
            raise InvalidRequest(f"{thread_id!r} is not a thread id.", hint="Thread ids are UUIDs.")
        with self._parts.database.read() as transaction:
            row = get_thread(transaction, thread_id)
        if row is not None:
            return row.id
        if self.rollouts(thread_id.lower()):  # a rollout without a record, or one that cannot be read
            return thread_id.lower()
        raise ThreadNotFound(
            f"There is no thread {thread_id} in {self._parts.home.path}.",
            hint="Run `rolloutdb threads list --limit 0` to see all ids.",
        )

    def readers(self, thread_ids: Sequence[str]) -> list[Reader]:
        """Threads outside of these that go on from a rollout of theirs, and from those again."""
        with self._parts.database.read() as transaction:
            return [Reader(*row) for row in transaction.rows(_READERS, {"ids": json_of(thread_ids)})]

    def rollouts(self, thread_id: str) -> list[Found]:
        """Every rollout of a thread: by its rows, and by its name where no row says that it is another's."""
        home, files = self._parts.home, self._parts.files
        with self._parts.database.read() as transaction:
            owned = [path for (path,) in transaction.rows(_OWNED, {"thread_id": thread_id})]
            named = [
                found
                for folder in walk(home, files)
                if not isinstance(folder, Refused)
                for found in folder
                if found.name.thread_id == thread_id
            ]
            others: dict[str, str] = dict(
                transaction.rows(_OWNERS_OF, {"paths": json_of([found.path for found in named])})
            )
        there = {found.path: found for found in named if others.get(found.path, thread_id) == thread_id}
        for path in owned:
            found = locate(home, path, files)
            if found is not None:
                there[path] = found
        return [there[path] for path in sorted(there)]

    def resolve(self, rollout_id: str) -> Found | None:
        with self._parts.database.read() as transaction:
            paths = [path for (path,) in transaction.rows(_ROLLOUT, {"rollout_id": rollout_id})]
        found = [locate(self._parts.home, path, self._parts.files) for path in sorted(paths, key=is_archived)]
        return next((each for each in found if each is not None), None)

    def segments(self, head: Found) -> list[Segment]:
        """A rollout's history, or its own part where that is all that can be read."""
        try:
            return self.lineage(head)
        except LineageBroken:
            return [Segment(head, None)]

    def lineage(self, head: Found) -> list[Segment]:
        """A rollout's history, oldest part first. Raises `LineageBroken`, `TruthGone`, `RolloutUnreadable`."""
        parts = self._parts
        with readable(head):
            return lineage(parts.home, head, self.resolve, options=parts.options, files=parts.files)

    @contextlib.contextmanager
    def opened(self, found: Found) -> Iterator[Source]:
        """A rollout to be read, wherever it is now. Raises `TruthGone`, `RolloutUnreadable`."""
        with readable(found):
            source = open_rollout(self._parts.home, found, self._parts.options, self._parts.files)
        with contextlib.closing(source):
            yield source

    def journal_lines(self, thread_ids: Sequence[str]) -> list[bytes]:
        """The journal's records of these threads, but for those of erasures."""
        found: list[bytes] = []

        def note(line: bytes) -> None:
            if tells_of(line, thread_ids):
                found.append(line)

        for segment in self._parts.journal.segments():
            fill_lines(segment, note, options=self._parts.options, files=self._parts.files)
        return found

    def note(self, payloads: Sequence[dict[str, Any]]) -> None:
        self._parts.journal.append([item_of({"type": "home_event", "payload": payload}) for payload in payloads])
        self._parts.facts.catch_up()

    def lineage_held(self, purpose: str, *, shared: bool) -> contextlib.AbstractContextManager[None]:
        """Around what makes a reader of threads (shared), or takes threads away. Raises `StoreBusy`, `StoreError`."""
        parts = self._parts
        return lineage_held(
            parts.home, purpose, shared=shared, options=parts.options, clock=parts.clock, files=parts.files
        )

    @contextlib.contextmanager
    def owned(self, thread_id: str, purpose: str, rollouts: Sequence[Found] | None = None) -> Iterator[None]:
        """Own a thread around a block; `rollouts` are its rollouts, where they are known. Raises `ThreadBusy`."""
        parts = self._parts
        rollouts = self.rollouts(thread_id) if rollouts is None else rollouts
        foreign = are_foreign(parts.home, rollouts, options=parts.options, files=parts.files)
        lock = acquire(
            parts.home,
            thread_id,
            purpose,
            foreign=foreign,
            options=parts.options,
            clock=parts.clock,
            files=parts.files,
        )
        try:
            yield
        finally:
            lock.release()


def tells_of(line: bytes, thread_ids: Iterable[str]) -> bool:
    """Whether a line of the journal is a record of one of these threads, and not of an erasure."""
    try:
        record = decode(line)
        tag = msgspec.json.decode(record.payload, type=_Tag)
    except (Rejected, msgspec.DecodeError):
        return False
    return record.type == "home_event" and (tag.thread_id or "").lower() in thread_ids and tag.type not in OWN_TAGS


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Where an error of the operating system becomes one of ours."""
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        raise RolloutUnusable(
            f"{where} could not be changed: {error.strerror}.",
            hint="Mend what the system says, then open the home again: what was begun is finished then.",
            path=where,
        ) from error


def json_of(values: Sequence[str]) -> str:
    """A list of texts, to be bound to a statement."""
    return msgspec.json.encode(list(values)).decode()


_OWNED = "SELECT path FROM streams WHERE thread_id = :thread_id"
_OWNERS_OF = "SELECT path, thread_id FROM streams WHERE path IN (SELECT value FROM json_each(:paths)) AND records > 0"

_READERS = """
    WITH RECURSIVE reading (thread_id, base) AS (
        SELECT child.thread_id, lower(child.base_rollout_id) FROM streams AS child
        WHERE child.base_rollout_id IS NOT NULL AND child.missing_since_ms IS NULL
        AND lower(child.base_rollout_id) IN (
            SELECT rollout_id FROM streams WHERE thread_id IN (SELECT value FROM json_each(:ids)))
        UNION
        SELECT child.thread_id, lower(child.base_rollout_id) FROM reading
        JOIN streams AS parent ON parent.thread_id = reading.thread_id
        JOIN streams AS child ON lower(child.base_rollout_id) = parent.rollout_id AND child.missing_since_ms IS NULL
    )
    SELECT DISTINCT thread_id, base FROM reading WHERE thread_id NOT IN (SELECT value FROM json_each(:ids))
    ORDER BY thread_id, base
"""

_ROLLOUT = """
    SELECT path FROM streams WHERE rollout_id = :rollout_id AND rollout_id <> thread_id
    UNION ALL SELECT path FROM streams WHERE thread_id = :rollout_id AND rollout_id = :rollout_id
"""
