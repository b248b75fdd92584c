"""One SQLite database of the engine: opened safely by many processes at once, read in snapshots, written in turn.

A database is `<folder>/<name>_<shape>.sqlite`, in WAL mode, marked with our application id. It is created, switched to
WAL, migrated, quarantined and removed under the exclusive lock `locks/<name>_<shape>.setup`; every connection is made
under the same lock, shared, because SQLite finds the -wal by name: a connection made while the file is being replaced
would pair the old file with the new -wal. The engine never opens a database file itself: closing such a descriptor
would drop every lock that SQLite holds on the file in this process.

All waits are bounded by `busy_wait_ms` and end in `StoreBusy` with the holder's name. A file that is no database is
moved into quarantine, never unlinked; one that was replaced under an open connection is `StoreReplaced` at the next
transaction, since SQLite itself would write on into the removed file. What apsw raises leaves here as a `StoreError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from engine.clock import Clock
from engine.errors import (
    EngineError,
    LibraryTooOld,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNewer,
    StoreReadOnly,
    StoreReplaced,
    StoreUnavailable,
)
from engine.options import Options
from engine.stores import migrate
from engine.stores.files import Files
from engine.stores.locks import locked, pause_s, take_lock, try_lock, wal_writer

Value = int | float | str | bytes | None
Values = Mapping[str, Value] | Sequence[Value]
Row = tuple[Any, ...]

APPLICATION_ID = 0x726C6462
"""'rldb' in ASCII, in bytes 68 to 71 of the file: by it `file` and we tell our databases from others."""

LIBRARY_VERSION = apsw.sqlite_lib_version()
LIBRARY_VERSION_MIN = "3.51.3"
"""Older ones can lose a commit when a WAL is reset while another process reads it (the WAL-reset bug)."""

OLD_SHAPE_KEPT_MS = 7 * 24 * 3600 * 1000
"""How long the file of an older shape stays after it was last touched: a user may go back a release."""

_CONNECTION_PRAGMAS = (
    "PRAGMA synchronous = NORMAL",  # a power cut may cost the last commits, which are folded again; it corrupts nothing
    "PRAGMA wal_autocheckpoint = 10000",  # pages: the checkpoint is the tail of write latency, so it runs when idle
    "PRAGMA journal_size_limit = 16777216",  # bytes that an emptied -wal may keep
    "PRAGMA cache_size = -2048",  # KiB a connection; five connections of four databases stay below 50 MB
    "PRAGMA mmap_size = 0",  # a mapped file that is cut short ends the process with SIGBUS
    "PRAGMA temp_store = MEMORY",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)

_REBUILD = "run `rolloutdb rebuild`: the file is set aside and built again from the rollouts"
_MAKE_ROOM = "make room on the disk, or name another one with --state-dir"
_MAKE_WRITABLE = "make the file and its folder writable, or name another one with --state-dir"
_LOOK_AT_FILE = "look at the file, its folder and their permissions"
_LOOK_AT_DISK = "look at the disk (the system log names its errors), then run the command again"

_ERRORS: dict[type[apsw.Error], tuple[type[StoreError], str]] = {
    apsw.CorruptError: (StoreCorrupt, _REBUILD),
    apsw.NotADBError: (StoreCorrupt, _REBUILD),
    apsw.FullError: (StoreFull, _MAKE_ROOM),
    apsw.ReadOnlyError: (StoreReadOnly, _MAKE_WRITABLE),
    apsw.PermissionsError: (StoreReadOnly, _MAKE_WRITABLE),
    apsw.CantOpenError: (StoreUnavailable, _LOOK_AT_FILE),
    apsw.IOError: (StoreUnavailable, _LOOK_AT_DISK),
}
_BUSY = (apsw.BusyError, apsw.LockedError, apsw.ProtocolError)

_OS_ERRORS: dict[int, tuple[type[StoreError], str]] = {
    errno.EACCES: (StoreReadOnly, _MAKE_WRITABLE),
    errno.EPERM: (StoreReadOnly, _MAKE_WRITABLE),
    errno.EROFS: (StoreReadOnly, _MAKE_WRITABLE),
    errno.ENOSPC: (StoreFull, _MAKE_ROOM),
    errno.EDQUOT: (StoreFull, _MAKE_ROOM),
}


class Transaction:
    """What runs inside of `Database.read()` or `Database.write()`; of no use after it.

    Values are bound by name (`:id` and a mapping) or by place (`?` and a sequence).
    """

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._cursors: set[apsw.Cursor] = set()
        self._ended = False

    def rows(self, sql: str, values: Values = ()) -> Iterator[Row]:
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

    def end(self) -> None:
        """Close what is still being read; called by the database."""
        self._ended = True
        for cursor in list(self._cursors):
            cursor.close(True)

    def _cursor(self) -> apsw.Cursor:
        if self._ended:
            raise StoreError("the transaction has ended", path=self._link.path, hint="use it inside of its with block")
        return self._link.connection.cursor()


class Database:
    """An open database. `quarantined` names the folder where a file was put that was no database, else None."""

    def __init__(self, place: _Place | None, name: str, setup: _Setup) -> None:
        self.name = name
        self.path: str | None = place.path if place is not None else None
        self.quarantined: str | None = None
        self._place = place
        self._setup = setup
        self._closed = False
        self._mutex = threading.RLock()
        self._writer: _Link | None = None
        self._readers: list[_Link] = []
        self._readers_free = threading.BoundedSemaphore(setup.options.read_connections)
        self._identity: tuple[int, int] | None = None
        self._use_fd: int | None = None

    @classmethod
    def open(
        cls,
        folder: str | None,
        name: str,
        shape: int,
        *,
        migrations: str,
        options: Options,
        clock: Clock,
        files: Files,
    ) -> Database:
        """Open the database, made and migrated where need be; `folder` None keeps it in memory, on one connection.

        Raises `StoreNewer`, `MigrationChanged` (nothing was changed), `StoreBusy`, `StoreUnavailable`, `StoreReadOnly`,
        `StoreFull`, `LibraryTooOld`.
        """
        check_library(LIBRARY_VERSION)
        setup = _Setup(shape, migrate.load(migrations, files), options, clock, files)
        place = _Place(os.path.abspath(folder), name, shape) if folder is not None else None
        database = cls(place, name, setup)
        try:
            if place is None:
                database._writer = setup.in_memory()
            else:
                with _files_translated("open", place.path):
                    database._open_file(place)
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
                link.begin("BEGIN IMMEDIATE")
                yield transaction
                transaction.end()
                link.commit()
            finally:
                transaction.end()
                link.rollback()
                if link.failed and self._place is not None:
                    link.close()
                    self._writer = None

    def checkpoint(self) -> None:
        """Move what is in the -wal into the file, as far as readers let it; does nothing while somebody here writes."""
        if self._place is None or not self._mutex.acquire(blocking=False):
            return
        try:
            link = self._writing_link()
            with link.translated("checkpoint"), contextlib.suppress(*_BUSY):
                link.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        finally:
            self._mutex.release()

    def integrity(self) -> list[str]:
        """What SQLite's own check says: `["ok"]`, or one sentence for each damage found."""
        try:
            with self.read() as transaction:
                return [str(row[0]) for row in transaction.rows("PRAGMA integrity_check")]
        except StoreCorrupt as error:
            return [error.message]

    def quarantine(self) -> str | None:
        """Close, and set the file aside where it is still the one that was opened; the folder it went to, else None.

        Of several processes that found the damage, one moves the file, and the new file of that one stays.
        """
        with self._mutex:
            for link in (self._writer, *self._readers):
                if link is not None:
                    link.keep_wal(wanted=True)
            self.close()
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

    def close(self) -> None:
        """Close all connections; those in use by a reader when its block ends. A second call does nothing."""
        with self._mutex:
            self._closed = True
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            while self._readers:
                self._readers.pop().close()
            if self._use_fd is not None:
                self._setup.files.close(self._use_fd, op="sqlite.use")
                self._use_fd = None

    def _open_file(self, place: _Place) -> None:
        setup = self._setup
        place.ensure_folders(setup.files)
        with setup.lock(place, shared=True):
            self._writer = setup.try_ready(place)
            self._hold(place)
        if self._writer is None:
            with setup.lock(place, shared=False):
                self._writer, self.quarantined = setup.make_ready(place)
                self._hold(place)

    def _hold(self, place: _Place) -> None:
        """Under the setup lock: remember which file this is, and show others that it is in use."""
        if self._writer is None:
            return
        self._identity = _identity(place, self._setup.files)
        self._use_fd = take_lock(
            place.use_lock,
            shared=True,
            options=self._setup.options,
            clock=self._setup.clock,
            files=self._setup.files,
            op="sqlite.use",
        )

    @contextlib.contextmanager
    def _in_memory(self) -> Iterator[_Link]:
        """Everything shares one connection: whoever holds it sees a state that nobody changes meanwhile."""
        with self._alone("read"):
            yield self._writing_link()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[_Link]:
        if not self._readers_free.acquire(timeout=self._setup.options.busy_wait_ms / 1000):
            raise self._busy_here("read", f"all {self._setup.options.read_connections} read connections are in use")
        link: _Link | None = None
        try:
            link = self._reading_link()
            link.begin("BEGIN")
            yield link
        finally:
            if link is not None:
                link.rollback()
                self._put_back(link)
            self._readers_free.release()

    @contextlib.contextmanager
    def _alone(self, op: str) -> Iterator[None]:
        if not self._mutex.acquire(timeout=self._setup.options.busy_wait_ms / 1000):
            raise self._busy_here(op, "another thread keeps it")
        try:
            yield
        finally:
            self._mutex.release()

    def _busy_here(self, op: str, reason: str) -> StoreBusy:
        waited_ms = self._setup.options.busy_wait_ms
        return StoreBusy(
            f"{op}: {self.name} was not free for {waited_ms} ms: {reason}",
            waited_ms=waited_ms,
            holder="this process",
            path=self.path,
            hint="end transactions sooner: no waiting and no other work inside of them",
        )

    def _reading_link(self) -> _Link:
        with contextlib.suppress(IndexError):
            return self._readers.pop()
        link = self._connect()
        with link.translated("open"):
            link.connection.execute("PRAGMA query_only = ON")
        return link

    def _put_back(self, link: _Link) -> None:
        if link.failed:
            link.close()
            return
        self._readers.append(link)
        if self._closed:
            self.close()

    def _writing_link(self) -> _Link:
        if self._writer is None:
            self._writer = self._connect()
        return self._writer

    def _connect(self) -> _Link:
        """One more connection to the same file; `StoreReplaced` where another file has taken its name."""
        if self._closed or self._place is None:
            raise StoreUnavailable(f"{self.name} is closed", path=self.path, hint="open it again")
        setup, place = self._setup, self._place
        with _files_translated("open", place.path), setup.lock(place, shared=True):
            if _identity(place, setup.files) != self._identity:
                raise _replaced("open", place.path)
            return setup.attach(place)


def check_library(version: str) -> None:
    """Raises `LibraryTooOld` for a SQLite that lacks the fix of the WAL-reset bug."""
    if _numbers(version) < _numbers(LIBRARY_VERSION_MIN):
        raise LibraryTooOld(
            f"SQLite {version} can lose committed rows; {LIBRARY_VERSION_MIN} or newer is needed",
            hint="pip install -U apsw",
        )


def quarantine(
    folder: str,
    name: str,
    shape: int,
    *,
    options: Options,
    clock: Clock,
    files: Files,
    identity: tuple[int, int] | None = None,
) -> str | None:
    """Move a database, its -wal and its -shm into a new folder under `quarantine/`; that folder, or None.

    With an `identity` (device, inode) only that very file is moved. Nothing is unlinked; connections that others still
    have to it raise `StoreReplaced` at their next transaction.
    """
    place = _Place(os.path.abspath(folder), name, shape)
    setup = _Setup(shape, [], options, clock, files)
    with _files_translated("quarantine", place.path):
        place.ensure_folders(files)
        with setup.lock(place, shared=False):
            if identity is not None and _identity(place, files) != identity:
                return None
            return setup.move_away(place)


def remove_older_shapes(folder: str, name: str, shape: int, *, clock: Clock, files: Files) -> list[str]:
    """Remove the files of lower shapes that nobody has open and nobody touched for 7 days; the paths removed."""
    folder = os.path.abspath(folder)
    named = re.compile(re.escape(name) + r"_(?P<shape>[1-9][0-9]{0,8})\.sqlite(?:-wal|-shm)?")
    removed: list[str] = []
    with _files_translated("remove", folder):
        found = [
            matched for entry in files.scan(folder, op="sqlite.shapes") if (matched := named.fullmatch(entry.name))
        ]
        for number in sorted({int(matched["shape"]) for matched in found}):
            if number < shape:
                removed += _remove_unused(_Place(folder, name, number), clock, files)
    return removed


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one database is, and its locks."""

    folder: str
    name: str
    shape: int

    @property
    def path(self) -> str:
        return os.path.join(self.folder, f"{self.name}_{self.shape}.sqlite")

    @property
    def paths(self) -> tuple[str, ...]:
        """The database first: once it is gone from its name, all that have it open can see so."""
        return self.path, self.path + "-wal", self.path + "-shm", self.path + "-journal"

    @property
    def locks(self) -> str:
        return os.path.join(self.folder, "locks")

    @property
    def setup_lock(self) -> str:
        return os.path.join(self.locks, f"{self.name}_{self.shape}.setup")

    @property
    def use_lock(self) -> str:
        return os.path.join(self.locks, f"{self.name}_{self.shape}.use")

    def ensure_folders(self, files: Files) -> None:
        """One by one: a folder that is made on the way to another one would get the umask's mode, not 0700."""
        files.ensure_folder(self.folder, op="sqlite.folders")
        files.ensure_folder(self.locks, op="sqlite.folders")


@dataclass(frozen=True, slots=True)
class _Setup:
    """The steps that bring a database up. All but `in_memory` want the setup lock to be held."""

    shape: int
    carried: Sequence[migrate.Migration]
    options: Options
    clock: Clock
    files: Files

    def lock(self, place: _Place, *, shared: bool) -> contextlib.AbstractContextManager[None]:
        return locked(
            place.setup_lock,
            shared=shared,
            options=self.options,
            clock=self.clock,
            files=self.files,
            op=f"set up {place.name}_{place.shape}",
        )

    def in_memory(self) -> _Link:
        link = _Link(":memory:", 0, self.options, self.clock, self.files)
        with link.closed_on_error(), link.translated("open"):
            self._migrate(link)
        return link

    def try_ready(self, place: _Place) -> _Link | None:
        """A connection where the database is complete already, else None. The lock may be shared."""
        if self.files.kind(place.path, op="sqlite.kind") != "file":
            return None
        try:
            link = self.attach(place)
            with link.closed_on_error(), link.translated("open"):
                ready = self._is_ready(link)
        except StoreCorrupt:
            return None
        if ready:
            return link
        link.close()
        return None

    def make_ready(self, place: _Place) -> tuple[_Link, str | None]:
        """A connection to the database, made where need be, and where a file was put that was no database."""
        try:
            return self._built(place), None
        except StoreCorrupt:
            aside = self.move_away(place)
            return self._built(place), aside

    def attach(self, place: _Place) -> _Link:
        """A connection that may write, and that has read the schema, hence opened the -wal."""
        link = _Link(place.path, apsw.SQLITE_OPEN_READWRITE, self.options, self.clock, self.files)
        with link.closed_on_error(), link.translated("open"):
            link.keep_wal(wanted=True)
            for pragma in _CONNECTION_PRAGMAS:
                link.connection.execute(pragma)
            link.connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            link.keep_wal(wanted=False)
        return link

    def move_away(self, place: _Place) -> str | None:
        """Rename the file, its -wal and its -shm into a new folder under `quarantine/`."""
        present = [path for path in place.paths if self.files.kind(path, op="sqlite.kind") is not None]
        if not present:
            return None
        above = os.path.join(place.folder, "quarantine")
        self.files.ensure_folder(above, op="sqlite.quarantine")
        stamp, sequence = self.clock.wall_ms(), 0
        while not self.files.try_make_folder(aside := f"{above}/{stamp}-{sequence}", op="sqlite.quarantine"):
            sequence += 1
        for path in present:
            self.files.rename(path, os.path.join(aside, os.path.basename(path)), op="sqlite.quarantine")
        return aside

    def _built(self, place: _Place) -> _Link:
        self._make_file(place)
        link = self.attach(place)
        with link.closed_on_error(), link.translated("open"):
            if not self._is_ready(link):
                self._switch_to_wal(link)
                self._migrate(link)
        return link

    def _make_file(self, place: _Place) -> None:
        kind = self.files.kind(place.path, op="sqlite.kind")
        if kind is None:
            # A -wal without its database belongs to a file that is gone; SQLite must not pair it with the new one.
            self.move_away(place)
            # Made here and not by SQLite, so that conversations are never readable by others, whatever the umask.
            self.files.try_create(place.path, op="sqlite.create")
        elif kind != "file":
            raise StoreUnavailable(
                f"there is a {kind} where the database {place.path} belongs",
                path=place.path,
                hint="move it away, or name another folder with --state-dir",
            )

    def _is_ready(self, link: _Link) -> bool:
        """Whether the file is ours and complete; raises where it is not for us to change."""
        application_id, version = link.pragma("application_id"), link.pragma("user_version")
        tables = link.one("SELECT count(*) FROM sqlite_schema")
        if application_id not in (0, APPLICATION_ID) or (application_id == 0 and tables):
            raise StoreUnavailable(
                f"{link.path} is a database of another program",
                path=link.path,
                hint="move it away, or name another folder with --state-dir",
            )
        if isinstance(version, int) and version > self.shape:
            raise StoreNewer(
                f"{link.path} has shape {version}, this engine knows {self.shape}",
                path=link.path,
                hint="pip install -U rolloutdb",
            )
        missing = migrate.pending(link.connection, self.carried, link.path)
        return application_id == APPLICATION_ID and not missing and link.pragma("journal_mode") == "wal"

    def _switch_to_wal(self, link: _Link) -> None:
        """Done once in the life of a file. SQLite does not ask the busy handler here, so it is tried again by hand."""
        link.waits_from_now()
        while True:
            try:
                mode = link.pragma("journal_mode = WAL")
                break
            except apsw.BusyError:
                if not link.wait():
                    raise
        if mode != "wal":
            raise StoreUnavailable(
                f"the file system of {link.path} cannot hold a WAL database",
                path=link.path,
                hint="name a folder on a local disk with --state-dir",
            )

    def _migrate(self, link: _Link) -> None:
        header = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {self.shape}")
        migrate.apply(link.connection, self.carried, link.path, self.clock, header=header)


class _Link:
    """One connection with its busy handler; translates what apsw raises."""

    def __init__(self, path: str, flags: int, options: Options, clock: Clock, files: Files) -> None:
        self.path = path
        self.failed = False
        self._options = options
        self._clock = clock
        self._files = files
        self._waiting_since_s = 0.0
        self._tries = 0
        self._moved = ctypes.c_int()
        flags = flags or apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        with self.translated("open"):
            self.connection = apsw.Connection(path, flags=flags)
            self.connection.transaction_mode = "IMMEDIATE"
            self.connection.set_busy_handler(self._busy)

    def begin(self, sql: str) -> None:
        """Begin, fix the snapshot, and make sure that it is the snapshot of the file that bears the name."""
        with self.translated("begin"):
            self.connection.execute(sql)
            self.connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
            address = ctypes.addressof(self._moved)
            self.connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, address)
        if self._moved.value:
            raise _replaced("begin", self.path)

    def commit(self) -> None:
        with self.translated("commit"):
            self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """End the transaction, where one is open; a connection that cannot even do this is not used again."""
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except apsw.Error:
            self.failed = True

    def pragma(self, text: str) -> Value:
        return self.one(f"PRAGMA {text}")

    def one(self, sql: str) -> Value:
        value: Value = self.connection.execute(sql).get
        return value

    def keep_wal(self, *, wanted: bool) -> None:
        """Whether closing leaves the -wal as it is. The last to close a damaged file would else write into it."""
        self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(wanted))

    def close(self) -> None:
        with contextlib.suppress(apsw.Error):
            self.connection.close()

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def translated(self, op: str) -> Iterator[None]:
        """The one place where an error of SQLite becomes one of ours."""
        try:
            yield
        except apsw.Error as error:
            raise self._translation(op, error) from error

    def waits_from_now(self) -> None:
        self._waiting_since_s = self._clock.elapsed_s()
        self._tries = 0

    def wait(self) -> bool:
        """Sleep a little; False when the bound is reached."""
        if self._waited_ms() >= self._options.busy_wait_ms:
            return False
        self._clock.sleep(pause_s(self._tries, self._clock))
        self._tries += 1
        return True

    def _busy(self, calls_before: int) -> bool:
        if calls_before == 0:
            self.waits_from_now()
        return self.wait()

    def _waited_ms(self) -> int:
        return int((self._clock.elapsed_s() - self._waiting_since_s) * 1000)

    def _translation(self, op: str, error: apsw.Error) -> EngineError:
        if isinstance(error, _BUSY):
            return self._busy_error(op)
        kind, hint = _ERRORS.get(type(error), (StoreError, ""))
        self.failed = self.failed or kind is not StoreError
        if kind is StoreCorrupt:
            self.keep_wal(wanted=True)
        return kind(f"{op}: {self.path}: {error}", path=self.path, hint=hint)

    def _busy_error(self, op: str) -> StoreBusy:
        waited_ms = self._waited_ms()
        holder = wal_writer(self.path, self._files)
        return StoreBusy(
            f"{op}: {self.path} was held for {waited_ms} ms by {holder or 'another process'}",
            waited_ms=waited_ms,
            holder=holder,
            path=self.path,
            hint="wait for that process, or end it",
        )


@contextlib.contextmanager
def _files_translated(op: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        kind, hint = _OS_ERRORS.get(error.errno or 0, (StoreUnavailable, _LOOK_AT_FILE))
        raise kind(f"{op}: {where}: {error.strerror}", path=path, hint=hint) from error


def _replaced(op: str, path: str) -> StoreReplaced:
    return StoreReplaced(
        f"{op}: {path} was removed or replaced while it was open", path=path, hint="open the home again"
    )


def _identity(place: _Place, files: Files) -> tuple[int, int] | None:
    found = files.stat(place.path, op="sqlite.identity")
    return None if found is None else (found.device, found.inode)


def _remove_unused(place: _Place, clock: Clock, files: Files) -> list[str]:
    """Under both locks of that shape, taken without waiting: whoever holds one uses the file."""
    with contextlib.ExitStack() as held:
        place.ensure_folders(files)
        for lock in (place.setup_lock, place.use_lock):
            fd = try_lock(lock, shared=False, files=files, op="sqlite.remove")
            if fd is None:
                return []
            held.callback(files.close, fd, op="sqlite.remove")
        stats = {path: files.stat(path, op="sqlite.remove") for path in place.paths}
        present = {path: found for path, found in stats.items() if found is not None}
        touched_ms = max((found.mtime_ns // 1_000_000 for found in present.values()), default=0)
        if clock.wall_ms() - touched_ms < OLD_SHAPE_KEPT_MS:
            return []
        for path in present:
            files.remove(path, op="sqlite.remove")
        return list(present)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
