"""The other seam: what SQLite does to its files, told call by call, journalled for crash images, failed on purpose.

`watched` puts a shim before SQLite's default VFS for as long as a block lasts; every connection made inside of it, by
whatever code, tells its calls to the watch. `CrashHome` is a watch and a `CrashFiles` in one: it notes what is written,
cut, removed and synced by either seam in one journal, in order, so an image is the whole home at one moment. `FaultyStore`
counts the calls and answers the one that a test names with an error of SQLite's.

The -shm is not followed: it is memory that several processes share, and the first one after a crash empties it. The
database must not be mapped (`mmap_size = 0`), for what is read and written through a map passes no seam.
"""

# ruff: noqa: N802 - the methods of a VFS have SQLite's names

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

import apsw

from engine.testing.crash import Change, CrashFiles, Renamed, Step

_Answer = TypeVar("_Answer")
_numbers = itertools.count(1)


class StoreCall(NamedTuple):
    """One call of SQLite's on a file. `file` is the number of the open file, 0 for a call on a name."""

    name: str
    path: str
    file: int = 0
    offset: int = 0
    data: bytes = b""
    flag: bool = False
    """Of `xDelete`, whether the folder is synced; of `xOpen`, whether this is a -wal or -journal that may be made."""


class Watch(Protocol):
    """What is told of every call, and lets it happen, or not."""

    def around(self, call: StoreCall, proceed: Callable[[], _Answer]) -> _Answer:
        """Make the call by `proceed`, and answer what it answered."""
        ...


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Connections made in the block tell `watch` what they do; all of them must be closed when it ends."""
    vfs = _Shim(f"watched-{next(_numbers)}", watch)
    try:
        yield
    finally:
        vfs.unregister()


class CrashHome(CrashFiles):
    """The journal of both seams below one folder. Give it to the engine as `files`, and to `watched`.

    No sync of a database reaches the real disk: the journal says what is synced, so nobody need wait.
    """

    def __init__(self, files: Any, root: str) -> None:
        super().__init__(files, root)
        self._stores: dict[int, int] = {}
        """By open file of SQLite's: its node."""
        self._named_late: set[int] = set()
        """Open files whose first sync is one of their folder too, as SQLite's unix VFS does for a -wal or -journal."""

        self._follow = {
            "xOpen": self._opened_store,
            "xClose": self._closed_store,
            "xWrite": self._wrote,
            "xTruncate": self._cut,
            "xSync": self._synced,
            "xDelete": self._removed,
        }

    def unlock(self, fd: int, *, op: str) -> None:
        self._files.unlock(fd, op=op)

    def around(self, call: StoreCall, proceed: Callable[[], _Answer]) -> _Answer:
        follow = self._follow.get(call.name)
        if follow is None or self._inside(call.path) is None:
            return proceed()
        if call.name == "xSync":
            follow(call)
            return None  # type: ignore[return-value]  # a sync answers nothing
        with self._lock:
            answer = proceed()
            follow(call)
            return answer

    def _opened_store(self, call: StoreCall) -> None:
        self._stores[call.file] = self._nodes[call.path] if call.path in self._nodes else self._born(call.path)
        if call.flag:
            self._named_late.add(call.file)

    def _closed_store(self, call: StoreCall) -> None:
        self._stores.pop(call.file, None)
        self._named_late.discard(call.file)

    def _wrote(self, call: StoreCall) -> None:
        self._changed(self._stores[call.file], Change(call.offset, call.data))

    def _cut(self, call: StoreCall) -> None:
        self._changed(self._stores[call.file], Change(call.offset, None))

    def _synced(self, call: StoreCall) -> None:
        with self._lock:
            node = self._stores[call.file]
            self.journal.append(Step("sync", node, upto=self._changes[node]))
            if call.file in self._named_late:
                self._named_late.discard(call.file)
                self._note_folder(call.path)

    def _removed(self, call: StoreCall) -> None:
        if self._nodes.pop(call.path, None) is None:
            return
        inside = str(self._inside(call.path))
        self.journal.append(Step("name", renamed=Renamed(os.path.dirname(inside), takes=(inside,))))
        if call.flag:
            self._note_folder(call.path)

    def _note_folder(self, path: str) -> None:
        self.journal.append(Step("sync folder", value=os.path.dirname(str(self._inside(path)))))


class FaultyStore:
    """Fails calls of SQLite's as `fault` says, and passes on the others.

    `fault` is given the call's number (from 0) and the call, and answers one of SQLite's result codes, or None to let it
    pass. `calls` are those made, `struck` those that failed.
    """

    def __init__(self, fault: Callable[[int, StoreCall], int | None] = lambda _number, _call: None) -> None:
        self._fault = fault
        self._lock = threading.Lock()
        self.calls: list[StoreCall] = []
        self.struck: list[StoreCall] = []

    def around(self, call: StoreCall, proceed: Callable[[], _Answer]) -> _Answer:
        if call.name in _NEVER_FAIL:
            return proceed()
        with self._lock:
            code = self._fault(len(self.calls), call)
            self.calls.append(call)
            if code is not None:
                self.struck.append(call)
        if code is not None:
            raise apsw.exception_for(code)
        return proceed()


_NEVER_FAIL = frozenset({"xClose"})
"""SQLite cannot be told that a close failed."""

_BELOW = "unix"
"""SQLite's own VFS on every system the engine runs on."""

_LATE = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


class _Shim(apsw.VFS):
    """Passes calls on to the VFS that was the default before."""

    def __init__(self, name: str, watch: Watch) -> None:
        super().__init__(name, _BELOW, makedefault=True)
        self._watch = watch

    def excepthook(
        self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: TracebackType | None
    ) -> bool:
        """An error where SQLite takes none was put there on purpose, and its caller goes on."""
        return True

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        late = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _LATE)
        call = StoreCall("xOpen", path, next(_numbers), flag=late)
        return self._watch.around(call, lambda: _ShimFile(self._watch, call, name, flags))

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001 - apsw's signature
        call = StoreCall("xDelete", filename, flag=bool(syncdir))
        return self._watch.around(call, lambda: super(_Shim, self).xDelete(filename, syncdir))

    def xAccess(self, pathname: str, flags: int) -> bool:
        call = StoreCall("xAccess", pathname)
        return self._watch.around(call, lambda: super(_Shim, self).xAccess(pathname, flags))


class _ShimFile(apsw.VFSFile):
    """One open file of the VFS below."""

    def __init__(self, watch: Watch, opened: StoreCall, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__(_BELOW, name, flags)
        self._watch = watch
        self._opened = opened

    def excepthook(
        self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: TracebackType | None
    ) -> bool:
        """See `_Shim.excepthook`."""
        return True

    def xRead(self, amount: int, offset: int) -> bytes:
        return self._tell("xRead", lambda: super(_ShimFile, self).xRead(amount, offset), offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        data = bytes(data)
        return self._tell("xWrite", lambda: super(_ShimFile, self).xWrite(data, offset), offset, data)

    def xTruncate(self, newsize: int) -> None:
        return self._tell("xTruncate", lambda: super(_ShimFile, self).xTruncate(newsize), newsize)

    def xSync(self, flags: int) -> None:
        return self._tell("xSync", lambda: super(_ShimFile, self).xSync(flags))

    def xFileSize(self) -> int:
        return self._tell("xFileSize", lambda: super(_ShimFile, self).xFileSize())

    def xLock(self, level: int) -> None:
        return self._tell("xLock", lambda: super(_ShimFile, self).xLock(level))

    def xClose(self) -> None:
        return self._tell("xClose", lambda: super(_ShimFile, self).xClose())

    def _tell(self, name: str, proceed: Callable[[], _Answer], offset: int = 0, data: bytes = b"") -> _Answer:
        return self._watch.around(StoreCall(name, self._opened.path, self._opened.file, offset, data), proceed)
