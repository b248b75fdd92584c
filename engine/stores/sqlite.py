"""One SQLite database of the engine: opened safely by many processes at once, read in snapshots, written in turn.

A database is `<folder>/<name>_<shape>.sqlite`, in WAL mode, marked with our application id. Readers see the state of the
moment they entered, and wait for nobody; writers take turns, within this process by a mutex, among processes by SQLite's
write lock, taken at once (a reader that becomes a writer would be refused without any wait). `setup.py` makes the file,
`link.py` is one connection; apsw's errors leave here as `StoreError`s.

All waits are bounded by `busy_wait_ms` and end in `StoreBusy` with the holder's name. A file that was replaced under an
open database is `StoreReplaced` at the next transaction, to be answered by opening again. Without a folder everything is
kept in memory, on one connection that its users share in turn.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from engine.clock import Clock
from engine.errors import ForkedEngine, LibraryTooOld, StoreBusy, StoreCorrupt, StoreError, StoreUnavailable
from engine.options import Options
from engine.stores import migrate
from engine.stores.files import Files
from engine.stores.link import BUSY, Link, Value, files_translated, replaced
from engine.stores.locks import give_back, pause_s, take_lock
from engine.stores.setup import Place, Setup, identity_of, quarantine, remove_older_shapes
from engine.stores.soundness import header_damage, schema_damage

__all__ = [
    "Database",
    "Row",
    "Transaction",
    "Value",
    "Values",
    "check_library",
    "quarantine",
    "remove_older_shapes",
]

Values = Mapping[str, Value] | Sequence[Value]
Row = tuple[Any, ...]

_SWAPS_MAX = 3
"""How often a file is opened again because another one took its place meanwhile."""

LIBRARY_VERSION = apsw.sqlite_lib_version()
LIBRARY_VERSION_MIN = "3.51.3"
"""Older ones can lose a commit when a WAL is reset while another process reads it (the WAL-reset bug)."""


class Transaction:
    """What runs inside of `Database.read()` or `Database.write()`; of no use after it.

    Values are bound by name (`:id` and a mapping) or by place (`?` and a sequence).
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._cursors: set[apsw.Cursor] = set()
        self._ended = False

    def rows(self, sql: str, values: Values = ()) -> Generator[Row]:
        """The rows of a query, one at a time; ends with the transaction."""
        with self._link.translated("read"):
            cursor = self._cursor()
        self._cursors.add(cursor)
        try:
            with self._link.translated("read"):
                yield from cursor.execute(sql, values)
        finally:
            self._cursors.discard(cursor)
            cursor.close(True)

    def row(self, sql: str, values: Values = ()) -> Row | None:
        """The first row, or None where there is none."""
        with self._link.translated("read"), contextlib.closing(self._cursor()) as cursor:
            return next(cursor.execute(sql, values), None)

    def run(self, sql: str, values: Values = ()) -> int:
        """Run a statement to its end; how many rows it inserted, changed or deleted."""
        with self._link.translated("write"):
            connection = self._link.connection
            before = connection.total_changes()
            for _row in self._cursor().execute(sql, values):
                pass
            return connection.changes() if connection.total_changes() != before else 0

    def run_many(self, sql: str, rows: Iterable[Values]) -> None:
        """Run a statement once for each row of values."""
        with self._link.translated("write"):
            for _row in self._cursor().executemany(sql, rows):
                pass

    def damage(self, carried: Sequence[migrate.Migration]) -> list[str]:
        """What is wrong with the header and the schema; asked by the database."""
        connection = self._link.connection
        with self._link.translated("check"):
            return header_damage(connection) + schema_damage(connection, carried)

    def end(self) -> None:
        """Close what is still being read; called by the database."""
        self._ended = True
        for cursor in list(self._cursors):
            cursor.close(True)

    def _cursor(self) -> apsw.Cursor:
        if self._ended:
            raise StoreError("the transaction has ended", path=self._link.path, hint="use it inside of its with block")
        return self._link.connection.cursor()


@dataclass(slots=True)
class DatabaseCounters:
    """What writing cost: transactions that were committed, and pauses because somebody else held the lock."""

    transactions: int = 0
    busy_waits: int = 0


class Database:
    """An open database. `quarantined` names the folder where a file was put that was no database, else None."""

    def __init__(self, place: Place | None, name: str, setup: Setup) -> None:
        self.name = name
        self.path: str | None = place.path if place is not None else None
        self.quarantined: str | None = None
        self._place = place
        self._setup = setup
        self._pid = os.getpid()
        self._closed = False
        self._is_open = False
        """Whether there is a file: not where it was set aside and no other could be opened yet."""
        self._mutex = threading.RLock()
        self._writer: Link | None = None
        self._readers: list[Link] = []
        self._readers_free = threading.BoundedSemaphore(setup.options.read_connections)
        self._identity: tuple[int, int] | None = None
        self._use_fd: int | None = None
        self._patience = threading.local()
        self.opened = 0
        """How often a file was opened here: 1, and one more each time it was replaced."""
        self.counters = DatabaseCounters()

    @classmethod
    def open(
        cls,
        folder: str | None,
        name: str,
        shape: int,
        *,
        migrations: str,
        more: Sequence[migrate.Migration] = (),
        pragmas: Sequence[str] = (),
        options: Options,
        clock: Clock,
        files: Files,
    ) -> Database:
        """Open the database, made and migrated where need be; `folder` None keeps it in memory, on one connection.

        `migrations` names the folder of its schema, `more` is what comes behind it; `pragmas` are its own, beside those of all.
        Raises `StoreNewer`, `MigrationChanged` (nothing was changed), `StoreBusy`, `StoreUnavailable`, `StoreReadOnly`,
        `StoreFull`, `LibraryTooOld`.
        """
        check_library(LIBRARY_VERSION)
        with files_translated("open", migrations):
            carried = migrate.behind(migrate.load(migrations, files), more)
            setup = Setup(shape, carried, options, clock, files, tuple(pragmas))
        place = Place(_utf8(os.path.abspath(folder)), name, shape) if folder is not None else None
        database = cls(place, name, setup)
        try:
            if place is None:
                database._writer = setup.in_memory()
            else:
                with files_translated("open", place.path):
                    database._open_what_is_there(place)
        except BaseException:
            database.close()
            raise
        return database

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """A consistent snapshot, taken on entering. Up to `read_connections` at once; more wait their turn."""
        with self._in_memory() if self._place is None else self._reader() as link:
            transaction = Transaction(link)
            try:
                yield transaction
            finally:
                transaction.end()

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """The write transaction: committed at the end of the block, rolled back when the block raises."""
        with self._alone("write"):
            link = self._writing_link()
            if link.connection.in_transaction:
                raise StoreError("write() inside of write()", path=self.path, hint="hand the transaction on instead")
            transaction = Transaction(link)
            try:
                link.wait_ms_max = self._wait_ms_max()
                link.begin("BEGIN IMMEDIATE")
                yield transaction
                transaction.end()
                link.commit()
                self.counters.transactions += 1
            finally:
                self.counters.busy_waits += link.take_waits()
                transaction.end()
                link.rollback()
                if link.failed and self._place is not None:
                    link.close()
                    self._writer = None

    @contextlib.contextmanager
    def waiting_at_most(self, wait_ms: int) -> Iterator[None]:
        """Inside, this thread's writes wait no longer than this for anybody, where `busy_wait_ms` is longer."""
        before = self._wait_ms_max()
        self._patience.wait_ms = min(wait_ms, before)
        try:
            yield
        finally:
            self._patience.wait_ms = before

    def checkpoint(self) -> None:
        """Move what is in the -wal into the file, as far as readers let it; does nothing while somebody here writes."""
        if self._place is None or not self._mutex.acquire(blocking=False):
            return
        try:
            link = self._writing_link()
            with link.translated("checkpoint"), contextlib.suppress(*BUSY):
                link.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        finally:
            self._mutex.release()

    def try_empty_wal(self) -> bool:
        """Move all of the -wal into the file and cut it, waiting for nobody; False where a reader still needs it."""
        if self._place is None:
            return True
        with self._alone("checkpoint"):
            link = self._writing_link()
            link.wait_ms_max = 0
            try:
                with link.translated("checkpoint"):
                    link.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except StoreBusy:
                return False
            finally:
                link.wait_ms_max = self._wait_ms_max()
        return True

    def scrub(self) -> None:
        """Write the file anew and empty the -wal, so that no byte of what was removed from it is left in either.

        Raises `StoreBusy` where others read or write for longer than `busy_wait_ms`.
        """
        if self._place is None:
            return
        with self._alone("scrub"):
            link = self._writing_link()
            with link.translated("scrub"):
                link.connection.execute("VACUUM")
                link.empty_wal()

    @property
    def use_lock(self) -> str | None:
        """The lock file that everybody who has this database open holds shared; None in memory."""
        return None if self._place is None else self._place.use_lock

    def integrity(self) -> list[str]:
        """What the header, the schema and SQLite's own check say: `["ok"]`, or one sentence for each damage found.

        Indexes are compared with their tables as well: that costs about as much again as reading the pages, and both
        are little beside the files that the rows come from.
        """
        try:
            has_words = any("USING fts5" in each.sql for each in self._setup.carried)
            with self._checking() if has_words and self._place is not None else self.read() as transaction:
                found = transaction.damage(self._setup.carried)
                return found or [str(row[0]) for row in transaction.rows("PRAGMA integrity_check")]
        except StoreError as error:
            # The check is never a wrong statement: it fails as one where a table of FTS5 is not of the form that it wants.
            if isinstance(error, StoreCorrupt) or isinstance(error.__cause__, apsw.SQLError):
                return [error.message]
            raise

    @contextlib.contextmanager
    def _checking(self) -> Iterator[Transaction]:
        """A snapshot on a connection of its own: FTS5 checks what a connection remembers of an index, not the file."""
        link = self._connect()
        try:
            link.begin("BEGIN")
            transaction = Transaction(link)
            try:
                yield transaction
            finally:
                transaction.end()
        finally:
            link.close()

    def quarantine(self) -> str | None:
        """Close, and set the file aside where it is still the one that was opened; the folder it went to, else None.

        Of several processes that found the damage, one moves the file, and the new file of that one stays.
        """
        with self._mutex:
            self._closed = True
            return self._set_aside()

    def _set_aside(self) -> str | None:
        """Close all connections, and move the file away where it is still the one that was opened."""
        for link in (self._writer, *self._readers):
            if link is not None:
                link.keep_wal(wanted=True)
        self._drop()
        if self._place is None or self._identity is None:
            return None
        place, setup = self._place, self._setup
        return quarantine(
            place.folder,
            place.name,
            place.shape,
            options=setup.options,
            clock=setup.clock,
            files=setup.files,
            identity=self._identity,
        )

    def replace(self) -> str | None:
        """Set the file aside, where it is still the one that was opened, and go on with a new or another's one.

        The folder it went to, else None. Everything that holds this database goes on with it; where no file can be opened
        now, whoever needs it next tries again.
        """
        with self._mutex:
            folder = self._set_aside()
            self._ensure_open()
        return folder

    def replace_once(self, opened: int) -> None:
        """Replace it, unless another thread did since it had been opened so often."""
        with self._mutex:
            if self.opened == opened:
                self.replace()

    def close(self) -> None:
        """Close all connections; those in use by a reader when its block ends. A second call does nothing."""
        with self._mutex:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        """Close what is open; under the mutex."""
        self._is_open = False
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        while self._readers:
            self._readers.pop().close()
        if self._use_fd is not None:
            with contextlib.suppress(OSError):  # a close that fails has given the lock back all the same
                give_back(self._use_fd, files=self._setup.files, op="sqlite.use")
            self._use_fd = None

    def _ensure_open(self) -> None:
        """Open the file where that failed when it was begun anew; waits for whoever is at it."""
        if self._is_open or self._place is None:
            return
        with self._alone("open"):
            if self._closed:
                raise StoreUnavailable(f"{self.name} is closed", path=self.path, hint="open it again")
            if not self._is_open:
                with files_translated("open", self._place.path):
                    self._open_what_is_there(self._place)

    def _open_what_is_there(self, place: Place) -> None:
        """A file that somebody puts another one in the place of, while it is opened, gives errors of all kinds."""
        for tries in range(_SWAPS_MAX):
            with contextlib.suppress(StoreUnavailable):
                return self._open_file(place)
            self._setup.clock.sleep(pause_s(tries, self._setup.clock))
        return self._open_file(place)

    def _open_file(self, place: Place) -> None:
        setup = self._setup
        place.ensure_folders(setup.files)
        with setup.lock(place, shared=True):
            self._writer = setup.try_ready(place)
            self._hold(place)
        if self._writer is None:
            with setup.lock(place, shared=False):
                self._writer, self.quarantined = setup.make_ready(place)
                self._hold(place)
        self._is_open = True
        self.opened += 1

    def _hold(self, place: Place) -> None:
        """Under the setup lock: remember which file this is, and show others that it is in use."""
        if self._writer is None:
            return
        self._identity = identity_of(place, self._setup.files)
        self._use_fd = take_lock(
            place.use_lock,
            shared=True,
            options=self._setup.options,
            clock=self._setup.clock,
            files=self._setup.files,
            op="sqlite.use",
        )

    @contextlib.contextmanager
    def _in_memory(self) -> Iterator[Link]:
        """Everything shares one connection: whoever holds it sees a state that nobody changes meanwhile."""
        with self._alone("read"):
            yield self._writing_link()

    def _check_process(self) -> None:
        """SQLite forbids to use a connection that a forked child has a copy of; `Alive` asks before, where a call begins."""
        if os.getpid() != self._pid:
            raise ForkedEngine(
                f"This process is a fork of the one that opened {self.name}.",
                hint="Open the home again in this process.",
                path=self.path,
            )

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Link]:
        self._check_process()
        if not self._readers_free.acquire(timeout=self._setup.options.busy_wait_ms / 1000):
            raise self._busy_here("read", f"all {self._setup.options.read_connections} read connections are in use")
        link: Link | None = None
        opened = self.opened
        try:
            link = self._reading_link()
            link.begin("BEGIN")
            yield link
        finally:
            if link is not None:
                link.rollback()
                self._put_back(link, opened)
            self._readers_free.release()

    @contextlib.contextmanager
    def _alone(self, op: str) -> Iterator[None]:
        self._check_process()
        if not self._mutex.acquire(timeout=self._wait_ms_max() / 1000):
            raise self._busy_here(op, "another thread keeps it")
        try:
            yield
        finally:
            self._mutex.release()

    def _wait_ms_max(self) -> int:
        wait_ms: int = getattr(self._patience, "wait_ms", self._setup.options.busy_wait_ms)
        return wait_ms

    def _busy_here(self, op: str, reason: str) -> StoreBusy:
        waited_ms = self._wait_ms_max()
        return StoreBusy(
            f"{op}: {self.name} was not free for {waited_ms} ms: {reason}",
            waited_ms=waited_ms,
            holder="this process",
            path=self.path,
            hint="end transactions sooner: no waiting and no other work inside of them",
        )

    def _reading_link(self) -> Link:
        with contextlib.suppress(IndexError):
            return self._readers.pop()
        self._ensure_open()
        link = self._connect()
        with link.translated("open"):
            link.connection.execute("PRAGMA query_only = ON")
        return link

    def _put_back(self, link: Link, opened: int) -> None:
        if (
            link.failed or opened != self.opened
        ):  # another file has its place now: this one would be taken for lost again
            link.close()
            return
        self._readers.append(link)
        if self._closed:
            self.close()

    def _writing_link(self) -> Link:
        self._ensure_open()
        if self._writer is None:
            self._writer = self._connect()
        return self._writer

    def _connect(self) -> Link:
        """One more connection to the same file; `StoreReplaced` where another file has taken its name."""
        if self._closed or self._place is None:
            raise StoreUnavailable(f"{self.name} is closed", path=self.path, hint="open it again")
        setup, place = self._setup, self._place
        with files_translated("open", place.path), setup.lock(place, shared=True):
            if identity_of(place, setup.files) != self._identity:
                raise replaced("open", place.path)
            return setup.attach(place)


def _utf8(folder: str) -> str:
    """SQLite takes names in UTF-8 alone; a folder of another name is refused before anything is made in it."""
    try:
        folder.encode("utf-8")
    except UnicodeEncodeError:
        shown = folder.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise StoreUnavailable(
            f"no database can lie in {shown}, whose path is not UTF-8",
            path=folder,
            hint="name a folder whose path is UTF-8 with --state-dir",
        ) from None
    return folder


def check_library(version: str) -> None:
    """Raises `LibraryTooOld` for a SQLite that lacks the fix of the WAL-reset bug."""
    if _numbers(version) < _numbers(LIBRARY_VERSION_MIN):
        raise LibraryTooOld(
            f"SQLite {version} can lose committed rows; {LIBRARY_VERSION_MIN} or newer is needed",
            hint="pip install -U apsw",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
