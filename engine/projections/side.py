"""One side database: a file of its own for projections of which nothing else of the engine depends.

It is opened when it is first asked for, and nobody waits for it but who asks: not an open, an append, a list, nor another
side database. No flush fills it. Before an answer it is caught up for a bounded time, appends of this process first, then
whatever a scan finds; `catch_up` does the same for as long as it is given. What is asked of some streams alone (`ask_of`)
catches up those alone. A file that is damaged, removed or replaced is
set aside, begun anew and filled again; what cannot be caught up (a lock, a full disk) makes the answer older and says so.

Rows of a stream that is gone are forgotten. Where that stream's thread was erased by somebody else meanwhile, the file is
written anew, so that no byte of it stays.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, TypedDict, TypeVar

from engine.clock import Clock
from engine.errors import (
    MigrationChanged,
    ProjectionFailed,
    RolloutUnusable,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from engine.options import Options
from engine.projections import owed
from engine.projections.breath import awaited
from engine.projections.catchup import CatchUp, Partial
from engine.projections.fold import Decode
from engine.projections.indexes import INDEXES
from engine.projections.owed import OWED
from engine.projections.projection import Projection
from engine.projections.runner import Left, Scan, Stale
from engine.projections.side_runner import Piece, SideRunner
from engine.projections.side_tables import SET_ASIDE, StreamTable, count, remove_orphans
from engine.projections.worker import Done, Job
from engine.stores import watermarks
from engine.stores.files import Files
from engine.stores.layout import Found, Home, locate
from engine.stores.link import files_translated
from engine.stores.mending import LOST, telling_damage
from engine.stores.migrate import Migration
from engine.stores.sqlite import Database, Transaction, quarantine, remove_older_shapes

BOOKKEEPING = "side"
"""The migrations that every side database begins with."""

_FOREVER_MS = 1 << 62

_NOTED_MAX = 10_000
"""Streams of which appends are remembered by name; beyond it the next answer looks at all files."""

_NOTHING_YET = Partial(0, None)
_OLDER = (StoreBusy, StoreFull, StoreReadOnly, OSError)
_Answer = TypeVar("_Answer")


class Parts(NamedTuple):
    """What every side database of one engine works with. `erased` tells which of some threads were erased."""

    home: Home
    options: Options
    clock: Clock
    files: Files
    erased: Callable[[Sequence[str]], set[str]]


class _How(TypedDict):
    options: Options
    clock: Clock
    files: Files


class _Open(NamedTuple):
    """What there is once the file is open."""

    database: Database
    runner: SideRunner
    catch_up: CatchUp


class Side:
    """A side database, opened or not.

    `name` is that of its file, `more` its schema behind the bookkeeping, `tables` its tables.
    """

    def __init__(
        self,
        parts: Parts,
        name: str,
        shape: int,
        projections: Sequence[Projection],
        more: Sequence[Migration],
        tables: Sequence[StreamTable],
        *,
        decode: Decode,
    ) -> None:
        self.name = name
        self.shape = shape
        self.projections = tuple(projections)
        self.more = tuple(more)
        self.tables = tuple(tables)
        self.decode = decode
        self._parts = parts
        self._opening = threading.Lock()
        self._opened: _Open | None = None
        self._closed = False
        self._mutex = threading.Lock()
        """Held by the one thread that folds."""
        self._partial: Partial | None = _NOTHING_YET
        self._noting = threading.Lock()
        self.noted: set[str] = set()
        """Streams that moved since the last answer; `note` adds to it."""
        self._is_lost = False
        """Whether what is known of the files does not count any more."""
        self._owes_scrub = False

    @property
    def title(self) -> str:
        """What it is called where somebody names it: as its projection."""
        return self.projections[0].name

    @property
    def is_index(self) -> bool:
        """Whether its projections are the engine's own, which worker processes know."""
        return all(each in INDEXES for each in self.projections)

    @property
    def path(self) -> str | None:
        """Where its file belongs; None in memory."""
        state = self._parts.home.state
        return None if state is None else os.path.join(os.path.abspath(state), f"{self.name}_{self.shape}.sqlite")

    @property
    def is_there(self) -> bool:
        """Whether there is anything of it: it is open, or its file is there."""
        if self._opened is not None or self.path is None:
            return self._opened is not None
        return self._parts.files.kind(self.path, op="side.there") is not None

    def note(self, path: str) -> None:
        """An append to this stream was acknowledged, or its file moved: the next answer folds it first, or forgets it."""
        if len(self.noted) < _NOTED_MAX:
            self.noted.add(path)
        else:
            self.look_anew()

    def look_anew(self) -> None:
        """The rows are not those that were looked at: the next answer looks at all files."""
        with self._noting:
            self._is_lost = True

    def ask(
        self, question: Callable[[Transaction], _Answer], *, thread_id: str | None = None
    ) -> tuple[_Answer, Partial | None]:
        """The answer in one snapshot, after a bounded catch-up, and how far the rows are; None where they cover every file.

        With `thread_id` that thread is looked for even where the rows are far behind. Raises what the question raises,
        `ProjectionFailed`, `StoreError`.
        """
        return _answered(lambda: self.read(thread_id=thread_id), question)

    def ask_of(
        self, found: Sequence[Found], question: Callable[[Transaction], _Answer], *, budget_ms: int
    ) -> tuple[_Answer, Partial | None]:
        """The answer in one snapshot, after a catch-up of these streams for at most so long; None where the rows cover them.

        Raises as `ask` does.
        """
        return _answered(lambda: self._read_of(found, budget_ms), question)

    def bytes_behind(self, found: Found) -> int:
        """How much of a rollout the rows have not followed; 0 where that cannot be told. Raises `StoreError`.

        Of a compressed one only that nothing was, and then its bytes as they are stored.
        """
        with contextlib.suppress(*LOST), self._ready().database.read() as transaction:
            marks = watermarks.load(transaction, [found.path]).get(found.path, {})
            followed = [
                marks[each.name].offset
                for each in self.projections
                if each.name in marks and marks[each.name].version == each.version
            ]
            if len(followed) < len(self.projections):
                return found.stat.size
            return 0 if found.compressed else found.stat.size - min(followed)
        return 0

    @contextlib.contextmanager
    def read(self, *, thread_id: str | None = None) -> Iterator[tuple[Transaction, Partial | None]]:
        """A read-only snapshot, after a bounded catch-up, and how far the rows are. Raises as `ask` does."""
        with awaited():
            partial = self._healed(lambda opened: self._look_for_answer(opened, thread_id))
        opened = self._ready()
        _check_failed(opened.runner.failed)
        with self._snapshot(opened) as transaction:
            yield transaction, partial

    def catch_up(self, budget_ms: int | None = None) -> Partial | None:
        """Fold what moved for at most so long (None: to the end); None where the rows then cover every file.

        Raises `StoreError`. A projection's own fault is a failed stream, told by `status`.
        """
        return self._healed(lambda opened: self._look(opened, budget_ms, anew=True))

    def owe(self, paths: Sequence[str] | None = None) -> None:
        """Have these streams folded anew, or all: the next catch-up does, while readers go on. Raises `StoreError`.

        Before all are, a damaged file is set aside.
        """
        opened = self._ready()
        if paths is None and not self._is_whole(opened.database):
            self._replace(opened.database)
            opened = self._ready()
        with self._mutex:
            with opened.database.write() as transaction:
                if paths is not None:
                    owed.mark(transaction, paths)
                    return
                for projection in self.projections:
                    transaction.run(_OWE, {"owed": OWED, "name": projection.name, "version": projection.version})
                self._remove_orphans(transaction)
            self.look_anew()

    def jobs(self, stale: Sequence[Stale]) -> list[Job]:
        """What is to be folded to bring these streams up to date. Raises `StoreError`."""
        return self._ready().runner.jobs(stale)

    def pieces(self, jobs: Sequence[Job]) -> Generator[Done, None, None]:
        """Fold these streams here, writing nothing. Raises `StoreError`."""
        return self._ready().runner.pieces(jobs)

    def write(self, pieces: Mapping[str, Piece]) -> None:
        """Write what these streams were folded to, by whomever. Raises `StoreError`."""

        def write(opened: _Open) -> None:
            with self._mutex:
                opened.runner.commit(pieces)

        self._healed(write)

    def fold(self, stale: Sequence[Stale]) -> None:
        """Bring these streams up to date. Raises `StoreError`."""

        def fold(opened: _Open) -> None:
            with self._mutex:
                opened.runner.fold(stale, lambda: False)

        self._healed(fold)

    def forget_vanished(self, scan: Scan) -> None:
        """Forget the streams that an ended walk did not find any more. Raises `StoreError`."""

        def forget(opened: _Open) -> None:
            with self._mutex:
                gone = [*scan.vanished(), *(path for path, _ in self.failures() if scan.is_gone(path))]
                if gone:
                    with opened.database.write() as transaction:
                        opened.runner.note_gone(transaction, gone, fresh=gone)
                    self._settle(opened)

        self._healed(forget)

    def failures(self) -> list[tuple[str, str]]:
        """The rollouts that could not be folded, each with its reason. Raises `StoreError`."""
        with self._ready().database.read() as transaction:
            return [(path, reason) for path, reason in transaction.rows(_FAILURES)]

    def refold(self, path: str | None) -> None:
        """Remove rows that no followed stream stands behind, and fold one stream anew where it is given and there.

        Cut short, the stream is owed to the next catch-up. Raises `StoreError`, `ProjectionFailed`, `RolloutUnusable`.
        """
        opened, found = self._ready(), None if path is None else locate(self._parts.home, path, self._parts.files)
        with self._mutex:
            with opened.database.write() as transaction:
                for projection in self.projections:
                    transaction.run(
                        _OWE_ONE,
                        {"owed": OWED, "name": projection.name, "version": projection.version, "stream": path},
                    )
                self._remove_orphans(transaction)
            if found is None:
                return
            left = opened.runner.fold([Stale(found, known=True)], lambda: False)
        _check_failed({path: failure for path, failure in opened.runner.failed.items() if path == found.path})
        if left.unread:
            raise RolloutUnusable(f"The rollout {found.path} cannot be read.", path=found.path)

    def replace(self) -> None:
        """Set the file aside, and begin with a new one. Raises `StoreError`."""
        self._replace(self._ready().database)
        self._ready()

    def forget(self, paths: Sequence[str], thread_ids: Sequence[str]) -> int:
        """Remove every row and every byte of these streams, and of those named for these threads; how many rows went.

        Raises `StoreError`. A file that cannot be read is removed whole.
        """
        if not self.is_there:
            return 0
        try:
            return self._forget(self._ready(), paths, thread_ids)
        except (*LOST, MigrationChanged):
            self._drop()
            self.look_anew()
            discard(self._parts, self.name, self.shape)
            return 0

    def remove_older_shapes(self) -> None:
        """Remove files of lower shapes that nobody uses any more."""
        if (state := self._parts.home.state) is not None:
            remove_older_shapes(state, self.name, self.shape, clock=self._parts.clock, files=self._parts.files)

    def scan(self) -> Scan:
        """A walk that tells what is stale; for `status`. Raises `StoreError`."""
        return self._ready().runner.scan()

    def database(self) -> Database:
        """The database, opened where it is not yet. Raises `StoreError`."""
        return self._ready().database

    def close(self) -> None:
        """Close the file, where it is open; it is not opened again."""
        self._closed = True
        self._drop()

    # Opening, and beginning anew

    def _drop(self) -> None:
        with self._opening:
            if self._opened is not None:
                self._opened.database.close()
                self._opened = None

    def _ready(self) -> _Open:
        with self._opening:
            if self._closed:
                raise StoreUnavailable(f"{self.name} is closed", hint="open the home again")
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> _Open:
        parts = self._parts
        how: _How = {"options": parts.options, "clock": parts.clock, "files": parts.files}
        try:
            database = Database.open(
                parts.home.state, self.name, self.shape, migrations=BOOKKEEPING, more=self.more, **how
            )
        except MigrationChanged as error:
            hint = f"raise the shape of {self.name}, so that it gets a new file, or move {error.path} away"
            raise MigrationChanged(
                f"{error.path} was made with another schema than this one", path=error.path, hint=hint
            ) from error
        runner = SideRunner(parts.home, database, self.projections, decode=self.decode, **how)
        return _Open(database, runner, CatchUp(parts.home, runner, database, **how))

    def _healed(self, act: Callable[[_Open], _Answer]) -> _Answer:
        """Do it, once more with a new file where the old one is lost."""
        opened = self._ready()
        try:
            with telling_damage(opened.database):
                return act(opened)
        except LOST:
            self._replace(opened.database)
        return act(self._ready())

    def _replace(self, database: Database) -> None:
        """Go on with a new file, or with that of somebody who found the same loss first."""
        with self._opening:
            if self._opened is None or self._opened.database is not database:
                return
            self._opened = None
            with contextlib.suppress(StoreError):
                database.quarantine()
            database.close()
        self.look_anew()

    def _remove_orphans(self, transaction: Transaction) -> None:
        """Remove what no followed stream stands behind."""
        for table in (*self.tables, SET_ASIDE):
            remove_orphans(transaction, table)

    def _is_whole(self, database: Database) -> bool:
        try:
            return database.integrity() == ["ok"]
        except StoreError:
            return False

    # Reading

    @contextlib.contextmanager
    def _snapshot(self, opened: _Open) -> Iterator[Transaction]:
        try:
            with (
                telling_damage(opened.database),
                opened.database.read() as transaction,
                _reading_only(opened.database, transaction),
            ):
                yield transaction
        except LOST:
            self._replace(opened.database)
            raise

    @contextlib.contextmanager
    def _read_of(self, found: Sequence[Found], budget_ms: int) -> Iterator[tuple[Transaction, Partial | None]]:
        left = self._healed(lambda opened: self._follow(opened, found, budget_ms))
        opened, paths = self._ready(), [each.path for each in found]
        _check_failed({path: failure for path, failure in opened.runner.failed.items() if path in paths})
        with self._snapshot(opened) as transaction:
            # Another process may have begun to fold one of them anew since: its rows are not all there again yet.
            behind = max(left.behind, len(found) - left.unread - opened.runner.count_whole(transaction, paths))
            done = len(found) - behind - left.unread
            yield transaction, None if done == len(found) else Partial(done, len(found), left.unread)

    # Looking at the files

    def _follow(self, opened: _Open, found: Sequence[Found], budget_ms: int) -> Left:
        """Fold these streams; what was not done. Older rows are an answer too, as in `_look_for_answer`."""
        started_ms = self._parts.clock.boot_ms()
        stale: Sequence[Stale] = [Stale(each, known=True) for each in found]
        with opened.database.waiting_at_most(self._parts.options.list_budget_ms), contextlib.suppress(*_OLDER):
            stale = opened.runner.stale(found)
            if not stale:
                return Left(0, 0)
            if self._mutex.acquire(timeout=budget_ms / 1000):
                try:
                    return opened.runner.fold(opened.runner.stale(found), self._deadline(started_ms, budget_ms))
                finally:
                    self._mutex.release()
        return Left(len(stale), 0)

    def _look_for_answer(self, opened: _Open, thread_id: str | None) -> Partial | None:
        """Older rows are an answer too: what cannot be written now is told as `partial`."""
        budget_ms = self._parts.options.list_budget_ms
        with opened.database.waiting_at_most(budget_ms):
            try:
                partial = self._look(opened, budget_ms)
                if partial is not None and thread_id is not None:
                    self._look_for(opened, thread_id.lower(), budget_ms)
            except _OLDER:
                return _NOTHING_YET
        return partial

    def _look(self, opened: _Open, budget_ms: int | None, *, anew: bool = False) -> Partial | None:
        started_ms = self._parts.clock.boot_ms()
        if not self._mutex.acquire(timeout=-1 if budget_ms is None else budget_ms / 1000):
            return self._partial or _NOTHING_YET  # somebody folds: how far the rows are is not known
        try:
            self._partial = self._fold(opened, self._deadline(started_ms, budget_ms), budget_ms, anew=anew)
        except BaseException:
            self._partial = _NOTHING_YET
            self.look_anew()
            raise
        finally:
            self._mutex.release()
        return self._partial

    def _fold(self, opened: _Open, is_late: Callable[[], bool], budget_ms: int | None, *, anew: bool) -> Partial | None:
        """Fold what this process wrote, then what a look at the files finds."""
        noted = sorted(self.noted)
        self.noted.difference_update(noted)  # without a mutex: one that is noted again in between is folded with it
        with self._noting:
            is_lost, self._is_lost = self._is_lost, False
        if is_lost:
            opened.catch_up.forget()
        is_done = self._fold_noted(opened, noted, is_late)
        partial = opened.catch_up.look(_FOREVER_MS if budget_ms is None else budget_ms, anew=anew or not is_done)
        self._settle(opened)
        return partial

    def _fold_noted(self, opened: _Open, paths: Sequence[str], is_late: Callable[[], bool]) -> bool:
        """Whether all of it was folded."""
        found = {path: locate(self._parts.home, path, self._parts.files) for path in paths}
        left = opened.runner.fold([Stale(each, known=True) for each in found.values() if each is not None], is_late)
        gone = [path for path, each in found.items() if each is None]
        if gone:
            with opened.database.write() as transaction:
                opened.runner.note_gone(transaction, gone, fresh=gone)
        return not left.behind and not left.unread

    def _settle(self, opened: _Open) -> None:
        """Where an erased thread's rows were forgotten because its files are gone, no byte of them stays."""
        runner = opened.runner
        if runner.gone:
            self._owes_scrub = self._owes_scrub or bool(self._parts.erased(sorted(runner.gone)))
            runner.gone.clear()
        if self._owes_scrub:
            self._scrub(opened.database)
            self._owes_scrub = False

    def _look_for(self, opened: _Open, thread_id: str, budget_ms: int) -> None:
        """Fold what the rollouts of one thread hold, as their names tell."""
        if not self._mutex.acquire(timeout=budget_ms / 1000):
            return
        try:
            stale = [each for each in opened.runner.scan() if each.found.name.thread_id == thread_id]
            opened.runner.fold(stale, self._deadline(self._parts.clock.boot_ms(), budget_ms))
        finally:
            self._mutex.release()

    def _deadline(self, started_ms: int, budget_ms: int | None) -> Callable[[], bool]:
        return lambda: budget_ms is not None and self._parts.clock.boot_ms() >= started_ms + budget_ms

    def _forget(self, opened: _Open, paths: Sequence[str], thread_ids: Sequence[str]) -> int:
        database, runner, _ = opened
        with self._mutex:
            with database.write() as transaction:
                known = {path for (path,) in transaction.rows(_KNOWN)}
                named = {path for path in known if any(f"-{each}" in path.lower() for each in thread_ids)}
                gone = sorted(named.union(paths))
                removed = sum(count(transaction, table, gone) for table in self.tables)
                runner.forget(transaction, gone)
                self._forget_threads(transaction, thread_ids)
            for path in gone:
                self.note(path)
            self._scrub(database)
        return removed

    # What a side database of another kind does besides

    def _forget_threads(self, transaction: Transaction, thread_ids: Sequence[str]) -> None:
        """Remove what there is of these threads beside the rows of their streams."""

    def _scrub(self, database: Database) -> None:
        """Leave no byte of what was removed."""
        database.scrub()


def discard(parts: Parts, name: str, shape: int) -> None:
    """Remove the file of a side database, whoever has it open: they go on with a new one. Raises `StoreError`."""
    state = parts.home.state
    if state is None:
        return
    aside = quarantine(state, name, shape, options=parts.options, clock=parts.clock, files=parts.files)
    if aside is not None:
        with files_translated("remove", aside):
            for entry in parts.files.scan(aside, op="side.discard"):
                parts.files.remove(f"{aside}/{entry.name}", op="side.discard")
            parts.files.remove_folder(aside, op="side.discard")


def _answered(
    read: Callable[[], AbstractContextManager[tuple[Transaction, Partial | None]]],
    question: Callable[[Transaction], _Answer],
) -> tuple[_Answer, Partial | None]:
    """The answer in a snapshot, in another one where the file was lost meanwhile."""
    for _ in range(2):
        with contextlib.suppress(*LOST), read() as (transaction, partial):
            return question(transaction), partial
    with read() as (transaction, partial):
        return question(transaction), partial


def _check_failed(failed: Mapping[str, ProjectionFailed]) -> None:
    """An answer without what a projection's own fault left out would look like all there is."""
    for path, failure in failed.items():
        more = "" if len(failed) == 1 else f" ({len(failed)} rollouts in all)"
        raise ProjectionFailed(
            f"{failure.message.removesuffix('.')}, folding {path}{more}.",
            projection=failure.projection,
            hint=failure.hint,
            path=path,
            offset=failure.offset,
        ) from failure


@contextlib.contextmanager
def _reading_only(database: Database, transaction: Transaction) -> Iterator[None]:
    """A file's read connections refuse writes by themselves; the one connection to memory has to be told."""
    if database.path is not None:
        yield
        return
    transaction.run("PRAGMA query_only = ON")
    try:
        yield
    finally:
        transaction.run("PRAGMA query_only = OFF")


_KNOWN = "SELECT stream FROM watermarks UNION SELECT path FROM failures"
_OWE = "UPDATE watermarks SET version = :owed WHERE projection = :name AND version <= :version"
_FAILURES = "SELECT path, reason FROM failures ORDER BY path"
_OWE_ONE = f"{_OWE} AND stream = :stream"
