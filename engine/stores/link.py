"""One connection to a database: waits with a bound, knows whether its file still bears the name, speaks our errors.

What apsw raises becomes a `StoreError` here and nowhere else, with the path and one thing to do; a lock that was not
free within `busy_wait_ms` becomes `StoreBusy` with the name of who holds it. SQLite writes on without error into a file
that was removed or replaced; so each transaction begins by asking whether that happened, and ends as `StoreReplaced`.

A connection that met a damaged file leaves the -wal as it is when it closes: SQLite would else write what is in it into
the damaged file and remove it. One that met an error of the disk is `failed`, and its owner makes a new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
from collections.abc import Iterator

import apsw

from engine.clock import Clock
from engine.errors import (
    EngineError,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreReplaced,
    StoreUnavailable,
)
from engine.options import Options
from engine.stores.files import Files
from engine.stores.locks import pause_s, wal_writer

Value = int | float | str | bytes | None

BUSY = (apsw.BusyError, apsw.LockedError, apsw.ProtocolError)

REBUILD = "run `rolloutdb rebuild`: the file is set aside and built again from the rollouts"
_MAKE_ROOM = "make room on the disk, or name another one with --state-dir"
_MAKE_WRITABLE = "make the file and its folder writable, or name another one with --state-dir"
_LOOK_AT_FILE = "look at the file, its folder and their permissions"
_LOOK_AT_DISK = "look at the disk (the system log names its errors), then run the command again"

_ERRORS: dict[type[apsw.Error], tuple[type[StoreError], str]] = {
    apsw.CorruptError: (StoreCorrupt, REBUILD),
    apsw.NotADBError: (StoreCorrupt, REBUILD),
    apsw.FullError: (StoreFull, _MAKE_ROOM),
    apsw.ReadOnlyError: (StoreReadOnly, _MAKE_WRITABLE),
    apsw.PermissionsError: (StoreReadOnly, _MAKE_WRITABLE),
    apsw.CantOpenError: (StoreUnavailable, _LOOK_AT_FILE),
    apsw.IOError: (StoreUnavailable, _LOOK_AT_DISK),
}

_STRANGE = (apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError)
"""What a connection meets whose file was replaced: the -wal is found by name, and is the new file's as well."""

_OS_ERRORS: dict[int, tuple[type[StoreError], str]] = {
    errno.EACCES: (StoreReadOnly, _MAKE_WRITABLE),
    errno.EPERM: (StoreReadOnly, _MAKE_WRITABLE),
    errno.EROFS: (StoreReadOnly, _MAKE_WRITABLE),
    errno.ENOSPC: (StoreFull, _MAKE_ROOM),
    errno.EDQUOT: (StoreFull, _MAKE_ROOM),
}


def _casefold(*values: Value) -> str:
    """A text in a form that is the same for all ways of writing it in capitals and small letters."""
    return str(values[0]).casefold()


class Link:
    """One connection with its busy handler; translates what apsw raises."""

    def __init__(self, path: str, flags: int, options: Options, clock: Clock, files: Files) -> None:
        self.path = path
        self.failed = False
        self._clock = clock
        self._files = files
        self._waiting_since_s = 0.0
        self._tries = 0
        self._waits = 0
        self.wait_ms_max = options.busy_wait_ms
        self._moved = ctypes.c_int()
        flags = flags or apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        with self.translated("open"):
            self.connection = apsw.Connection(path, flags=flags)
            self.connection.transaction_mode = "IMMEDIATE"
            self.connection.set_busy_handler(self._busy)
            # Else a statement whose plan looked at a bound value (every `LIMIT :limit`) is planned anew at each run.
            self.connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            # SQLite's own lower() knows ASCII alone, so a search for an accented word would not find even itself.
            self.connection.create_scalar_function("casefold", _casefold, 1, deterministic=True)

    def begin(self, sql: str) -> None:
        """Begin, fix the snapshot, and make sure that it is the snapshot of the file that bears the name."""
        with self.translated("begin"):
            self.connection.execute(sql)
            self.connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
            if self._has_moved():
                raise replaced("begin", self.path)

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

    def empty_wal(self) -> None:
        """Move all of the -wal into the file and cut it. SQLite asks no busy handler where another one is moving it."""
        self.waits_from_now()
        while True:
            try:
                self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except BUSY:
                if not self.wait():
                    raise
            else:
                break

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
        except UnicodeDecodeError as error:  # nothing but UTF-8 was ever written
            self.failed = True
            self.keep_wal(wanted=True)
            raise StoreCorrupt(
                f"{op}: {self.path}: a text is not UTF-8: {error}", path=self.path, hint=REBUILD
            ) from error

    def waits_from_now(self) -> None:
        self._waiting_since_s = self._clock.elapsed_s()
        self._tries = 0

    def wait(self) -> bool:
        """Sleep a little; False when the bound is reached."""
        if self._waited_ms() >= self.wait_ms_max:
            return False
        self._clock.sleep(pause_s(self._tries, self._clock))
        self._tries += 1
        self._waits += 1
        return True

    def take_waits(self) -> int:
        """How often it slept since this was asked last."""
        waits, self._waits = self._waits, 0
        return waits

    def _busy(self, calls_before: int) -> bool:
        if calls_before == 0:
            self.waits_from_now()
        return self.wait()

    def _waited_ms(self) -> int:
        return int((self._clock.elapsed_s() - self._waiting_since_s) * 1000)

    def _has_moved(self) -> bool:
        """Whether the file does not bear its name any more; asked of SQLite, which knows the file by its descriptor."""
        self.connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(self._moved))
        return bool(self._moved.value)

    def _translation(self, op: str, error: apsw.Error) -> EngineError:
        if isinstance(error, BUSY):
            return self._busy_error(op)
        with contextlib.suppress(apsw.Error, AttributeError):  # one that is not open, or not yet
            if isinstance(error, _STRANGE) and self._has_moved():
                self.failed = True
                return replaced(op, self.path)
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
def files_translated(op: str, path: str) -> Iterator[None]:
    """Where an error of the operating system becomes the same error of ours as if SQLite had met it."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        kind, hint = _OS_ERRORS.get(error.errno or 0, (StoreUnavailable, _LOOK_AT_FILE))
        raise kind(f"{op}: {where}: {error.strerror}", path=path, hint=hint) from error


def replaced(op: str, path: str) -> StoreReplaced:
    """The error for a file that no longer bears its name."""
    return StoreReplaced(
        f"{op}: {path} was removed or replaced while it was open", path=path, hint="open the home again"
    )
