"""The writer of one process's log segments.

It appends lines with one call a batch, and begins a new segment when the old one is full, the day is over, its file was
removed, or a write failed: what comes after a torn line is in another file. A segment that is being written is locked, so
that retention passes it over; the lock dies with the process. Beginning one is also the moment for retention, so that a
process which does nothing but log stays within the bounds too. Nothing is synced.

Not for several threads at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from engine.clock import Clock
from engine.events.log_lines import Site, process_line, site_line, thread_line
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.locks import give_back, try_lock
from engine.stores.log_segments import retain, segment_path

_DAY_MS = 24 * 3600 * 1000
_NAMES_TRIED_MAX = 100


class Known(NamedTuple):
    """A site or a thread with the number that this process gave it."""

    number: int
    what: Site | str

    def line(self, at_us: int) -> bytes:
        """What explains the number."""
        if isinstance(self.what, Site):
            return site_line(at_us, self.number, self.what)
        return thread_line(at_us, self.number, self.what)


class Entry(NamedTuple):
    """A record's line, and what its numbers stand for."""

    line: bytes
    site: Known
    thread: Known | None


class _Open(NamedTuple):
    """The segment that is being written; `explained` are the numbers that it explains, negative ones for threads."""

    path: str
    fd: int
    lock: int
    inode: tuple[int, int]
    day: int
    explained: set[int]


class LogWriter:
    """Writes for one process into a home's state folder. `process` is `pid:<process id>:<uuid>`."""

    def __init__(self, home: Home, process: str, *, options: Options, clock: Clock, files: Files) -> None:
        assert home.state is not None
        self.process = process
        self.bytes_written = 0
        self._home = home.path
        self._state = home.state
        self._options = options
        self._clock = clock
        self._files = files
        self._open: _Open | None = None
        self._size = 0

    def write(self, entries: Sequence[Entry]) -> None:
        """Append these records. Raises OSError; what was not written then is gone, and the next call begins a new segment."""
        if self._open is not None and not self._is_usable(self._open):
            self.close()
        batch: list[bytes] = []
        size = 0
        for entry in entries:
            if self._open is not None and self._size + size > self._options.log_segment_bytes_max:
                self._put(self._open, batch)
                self.close()
                batch, size = [], 0
            opened = self._open or self._begin()
            for known, mark in ((entry.site, entry.site.number), (entry.thread, -(entry.thread or entry.site).number)):
                if known is not None and mark not in opened.explained:
                    opened.explained.add(mark)
                    batch.append(known.line(self._clock.wall_ms() * 1000))
                    size += len(batch[-1])
            batch.append(entry.line)
            size += len(entry.line)
        if self._open is not None:
            self._put(self._open, batch)

    def close(self) -> None:
        """End the segment; the next write begins another."""
        opened, self._open = self._open, None
        if opened is not None:
            with contextlib.suppress(OSError):
                self._files.close(opened.fd, op="logs.close")
            with contextlib.suppress(OSError):
                give_back(opened.lock, files=self._files, op="logs.close")

    def forget(self) -> None:
        """In a forked child: close what is the parent's. Its lock was given up by the fork already."""
        opened, self._open = self._open, None
        if opened is not None:
            with contextlib.suppress(OSError):
                self._files.close(opened.fd, op="logs.fork")

    def _put(self, opened: _Open, batch: Sequence[bytes]) -> None:
        data = b"".join(batch)
        written = 0
        try:
            while written < len(data):
                written += self._files.write(opened.fd, data[written:] if written else data, op="logs.write")
        except OSError:
            self.close()
            raise
        finally:
            self._size += written
            self.bytes_written += written

    def _is_usable(self, opened: _Open) -> bool:
        """Whether the file still bears its name, and the day is the one it was begun on."""
        if self._clock.wall_ms() // _DAY_MS != opened.day:
            return False
        found = self._files.stat(opened.path, op="logs.stat")
        return found is not None and (found.device, found.inode) == opened.inode

    def _begin(self) -> _Open:
        """A new segment, its first line written."""
        with contextlib.suppress(OSError):  # it is tried again with the next segment
            retain(self._state, options=self._options, clock=self._clock, files=self._files)
        now_ms = self._clock.wall_ms()
        for tried_ms in range(_NAMES_TRIED_MAX):  # another handler of this process may have taken the name
            path = f"{self._state}/{segment_path(self.process, now_ms + tried_ms)}"
            opened = self._try_begin(path, now_ms // _DAY_MS)
            if opened is not None:
                self._open, self._size = opened, 0
                self._put(opened, [process_line(now_ms * 1000, self.process)])
                return opened
        raise FileExistsError(17, "every name for a new log segment is taken", self._state)

    def _try_begin(self, path: str, day: int) -> _Open | None:
        folder = path.rpartition("/")[0]
        try:
            is_new = self._files.try_create(path, op="logs.create")
        except FileNotFoundError:
            if self._files.kind(self._home, op="logs.home", follow=True) is None:
                raise  # a home that was taken away is not brought back by its log
            self._files.ensure_folder(folder, op="logs.folder")
            is_new = self._files.try_create(path, op="logs.create")
        lock = try_lock(path, shared=False, files=self._files, op="logs.lock") if is_new else None
        if lock is None:
            return None
        try:
            fd = self._files.open_append(path, op="logs.open")
        except OSError:
            give_back(lock, files=self._files, op="logs.lock")
            raise
        found = self._files.fstat(fd, op="logs.stat")
        return _Open(path, fd, lock, (found.device, found.inode), day, set())
