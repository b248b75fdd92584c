"""Another program's SQLite database, read without leaving a trace.

Opening such a file the usual way would make a -shm beside it, take locks in it, and at the end move its -wal into it. So
a file without a -wal is opened `immutable`, which does none of that; one with a -wal (or a hot journal) is copied with it
into a private temporary folder, and the copy is opened. Either way what is read is one committed state: when the file
changed meanwhile, all of it is read again, a bounded number of times, then it is `StoreBusy`. Locks of others are neither
asked for nor waited for.

A WAL only grows until it is reset, and its frames carry checksums, so a copy of it is good while the database itself and
the head of the WAL stay as they are, however busy the writer is.

Closing a file drops every POSIX lock that this process has on it. A process that has the database open itself is
therefore refused, and within this module one database is read at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import apsw

from engine.clock import Clock
from engine.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreUnavailable
from engine.stores.files import Files, FileStat
from engine.stores.quoting import quoted

LOOKS_MAX = 40
"""How often a database is looked at that changes while it is read; with the pauses some two seconds."""

PAUSE_S = 0.05
SETTLED_NS = 20_000_000
"""Two writes within a tick of the kernel's clock leave the same time: a younger file is not told from a changed one."""

_COPY_BYTES = 1024 * 1024
_WAL_HEAD_BYTES = 32
_DESCRIPTORS = "/proc/self/fd"
_AGAIN = "close that program, then run the command again"
_ROOM = "make room where temporary files go ($TMPDIR)"
_LOOK = "look at the file, its folder and their permissions"

T = TypeVar("T")
Row = tuple[Any, ...]

_alone = threading.Lock()


class ForeignDatabase:
    """What may be asked of an open one. Tables and columns that are not there are told, not met as errors."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def columns(self, table: str) -> frozenset[str]:
        """The columns of a table or view; empty where there is none."""
        found = self._connection.execute("SELECT name FROM pragma_table_info(:table)", {"table": table})
        return frozenset(name for (name,) in found)

    def rows(self, table: str, columns: Sequence[str], *, chars_max: Mapping[str, int] | None = None) -> Iterator[Row]:
        """All rows, in the order of `columns`; a column that is not there is None in each.

        Texts are cut where `chars_max` names their column, and what is not UTF-8 in them is replaced: SQLite keeps any
        bytes as text.
        """
        known, cuts = self.columns(table), chars_max or {}
        if not known:
            return
        asked = ", ".join(_expression(column, cuts.get(column)) if column in known else "NULL" for column in columns)
        for row in self._connection.execute(f"SELECT {asked} FROM {quoted(table)}"):  # noqa: S608 - names are quoted
            yield tuple(value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in row)

    def damage(self) -> list[str]:
        """What SQLite's quick check finds wrong, one sentence each."""
        found = [str(row[0]) for row in self._connection.execute("PRAGMA quick_check(10)")]
        return [] if found == ["ok"] else found


class _Stats(NamedTuple):
    """What tells that a database changed. `head` begins the WAL: it is another one after a reset."""

    main: FileStat
    wal: FileStat | None
    journal: FileStat | None
    head: bytes

    @property
    def has_company(self) -> bool:
        return bool((self.wal and self.wal.size) or (self.journal and self.journal.size))

    def allows(self, now: _Stats) -> bool:
        """Whether what was read at this state is whole: nothing was moved into the database, no WAL begun anew."""
        return (self.main, self.journal, self.head) == (now.main, now.journal, now.head)


def read_foreign(path: str, look: Callable[[ForeignDatabase], T], *, clock: Clock, files: Files) -> T:
    """What `look` makes of one committed state of the database at `path`; it is called again where that state passed.

    Raises `StoreBusy` where it never stood still, `StoreCorrupt` where it is no database, `StoreUnavailable` where it
    cannot be opened or this process has it open, `StoreFull` where there is no room for a copy.
    """
    with _alone, _translated(path):
        for _ in range(LOOKS_MAX):
            before = _stats(path, files)
            if _is_settled(before, clock):
                _refuse_own(path, before, files)
                try:
                    with _opened(path, before, files) as database:
                        if database is not None:
                            found = look(database)
                            if before.has_company or before.allows(_stats(path, files)):
                                return found
                except StoreError:
                    if before.allows(_stats(path, files)):
                        raise
            clock.sleep(PAUSE_S * (0.5 + clock.fraction() / 2))
    waited_ms = int(LOOKS_MAX * PAUSE_S * 1000)
    message = f"{path} changed each of the {LOOKS_MAX} times that it was read"
    raise StoreBusy(message, waited_ms=waited_ms, path=path, hint=_AGAIN)


def _is_settled(stats: _Stats, clock: Clock) -> bool:
    """A file of a clock that is ahead never gets old enough; its changes still change its size or its times."""
    age_ns = clock.wall_ms() * 1_000_000 - stats.main.mtime_ns
    return age_ns >= SETTLED_NS or age_ns < -SETTLED_NS


def _stats(path: str, files: Files) -> _Stats:
    main = files.stat(path, op="foreign.stat")
    if main is None:
        kind = files.kind(path, op="foreign.stat")
        what = f"is a {kind}, not a file" if kind else "is not there"
        raise StoreUnavailable(f"{path} {what}", path=path, hint=_LOOK)
    wal, journal = (files.stat(path + suffix, op="foreign.stat") for suffix in ("-wal", "-journal"))
    head = files.read_small(path + "-wal", bytes_max=_WAL_HEAD_BYTES, op="foreign.read") if wal and wal.size else None
    return _Stats(main, wal, journal, head or b"")


def _refuse_own(path: str, stats: _Stats, files: Files) -> None:
    """Reading the file and closing it would drop the locks that another SQLite in this process holds on it."""
    if files.kind(_DESCRIPTORS, op="foreign.own", follow=True) != "folder":
        return
    own = files.scan(_DESCRIPTORS, op="foreign.own")
    mine = (files.identity(f"{_DESCRIPTORS}/{entry.name}", op="foreign.own") for entry in own)
    if (stats.main.device, stats.main.inode) in mine:
        raise StoreUnavailable(f"this process has {path} open", path=path, hint="read it from another process")


@contextlib.contextmanager
def _opened(path: str, before: _Stats, files: Files) -> Iterator[ForeignDatabase | None]:
    """The database or its copy; None where it changed while it was copied."""
    if not before.has_company:
        with _connected(path, "?immutable=1", apsw.SQLITE_OPEN_READONLY, path) as database:
            yield database
        return
    with files.temporary_folder(op="foreign.copy") as folder:
        copy = os.path.join(folder, "copy.sqlite")
        for suffix, there in (("", before.main), ("-wal", before.wal), ("-journal", before.journal)):
            if there is not None:
                _copy(path + suffix, copy + suffix, files)
        if not before.allows(_stats(path, files)):
            yield None
            return
        with _connected(copy, "", apsw.SQLITE_OPEN_READWRITE, path) as database:
            yield database


def _copy(source: str, target: str, files: Files) -> None:
    with contextlib.suppress(FileNotFoundError), files.reading(source, op="foreign.copy") as fd:
        into = files.create(target, op="foreign.copy")
        try:
            while data := files.read(fd, _COPY_BYTES, op="foreign.copy"):
                at = 0
                while at < len(data):
                    at += files.write(into, data[at:], op="foreign.copy")
        finally:
            files.close(into, op="foreign.copy")


@contextlib.contextmanager
def _connected(file: str, parameters: str, flags: int, path: str) -> Iterator[ForeignDatabase]:
    """A connection, and the one place where what SQLite says of that file becomes an error of ours."""
    connection: apsw.Connection | None = None
    try:
        connection = apsw.Connection(f"file:{quote(os.fsencode(file))}{parameters}", flags=flags | apsw.SQLITE_OPEN_URI)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        yield ForeignDatabase(connection)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreCorrupt(
            f"{path} is damaged: {error}", path=path, hint="start that program: it sets it aside"
        ) from error
    except apsw.Error as error:
        raise StoreError(f"{path} cannot be read: {error}", path=path, hint=_LOOK) from error
    finally:
        if connection is not None:
            connection.close()


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Errors of the operating system as errors of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"there is no room to copy {path}", path=path, hint=_ROOM) from error
        raise StoreUnavailable(f"{path} cannot be read: {error.strerror}", path=path, hint=_LOOK) from error


def _expression(column: str, chars_max: int | None) -> str:
    """A text as the bytes that it is: it need not be UTF-8, and then cannot be fetched as text."""
    name = quoted(column)
    text = f"substr({name}, 1, {chars_max})" if chars_max is not None else name
    return f"iif(typeof({name}) = 'text', CAST({text} AS BLOB), {name})"
