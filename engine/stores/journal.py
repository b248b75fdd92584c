"""The home's own stream: what is decided about threads from outside, appended by many processes in turn.

Segments are `journal/<first ordinal>.jsonl` in the state folder; ordinals go on over all of them. An append takes the
journal's lock (with a bound), looks whether others wrote since, writes its lines in one call, syncs, and lets go. A tail
that a crashed process left is cut under that lock, the bytes kept aside. The journal is truth: nothing in it is ever
removed or changed but by `erase`. Reading needs no lock and stops at the last LF.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from engine.clock import Clock
from engine.errors import AppendFailed, ForkedEngine, ReadOnlyHome
from engine.events.item import Item, line_of
from engine.events.record import Rejected, decode
from engine.options import Options
from engine.stores.files import Files
from engine.stores.fill import fill_lines
from engine.stores.locks import locked
from engine.stores.recorder import Position
from engine.stores.rollouts import Damage, Located, PlainSource, lines_backwards, records

_NAME_DIGITS = 12


class Segment(str):
    """The path of a segment; `first` is its first ordinal."""

    __slots__ = ()

    @property
    def first(self) -> int:
        """The ordinal that its name tells."""
        return int(self.rpartition("/")[2].removesuffix(".jsonl"))


class Journal:
    """Appends to and reads the journal of one state folder. Safe to call from many threads."""

    def __init__(self, state: str | None, *, options: Options, clock: Clock, files: Files) -> None:
        self._state = state
        self._folder = f"{state}/journal"
        self._options = options
        self._clock = clock
        self._files = files
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._known: tuple[str, Position] | None = None
        """The newest segment as this process left it, so an append that nobody came between reads nothing."""
        self._named: str | None = None
        """The segment whose name this process has synced: the one that made it may have been killed before it did."""

    def append(self, items: Sequence[Item]) -> list[tuple[str, int]]:
        """Write these records, all or none, synced; each one's timestamp and ordinal.

        A crash on the way may leave the first of them. Raises `ReadOnlyHome`, `StoreBusy` (somebody keeps the lock),
        `LineTooLong`, `AppendFailed`, `ForkedEngine`.
        """
        if self._state is None:
            raise ReadOnlyHome(
                "The home is read-only, so nothing can be decided about its threads.",
                hint="Name a folder for the engine's own files with --state-dir.",
            )
        if os.getpid() != self._pid:
            raise ForkedEngine(
                "This process is a fork of the one that opened the home.", hint="Open the home again in this process."
            )
        with self._mutex:
            try:
                with self._locked():
                    return self._append(items) if items else []
            except OSError as error:
                self._known = None
                raise AppendFailed(
                    f"The journal {self._folder} could not be written: {error.strerror}.",
                    hint="Make room, mend the disk or let this user write there; then do it again.",
                    path=self._folder,
                ) from error

    def fill(self, other: Callable[[bytes], bytes | None]) -> tuple[int, int]:
        """Put other lines of the same length in the place of those that `other` gives one for; how many, and their bytes.

        Only an erasure does this. Raises as `append` does.
        """
        with self._mutex, self._locked():
            filled = [fill_lines(path, other, options=self._options, files=self._files) for path in self.segments()]
        return sum(count for count, _ in filled), sum(size for _, size in filled)

    def trim(self) -> None:
        """Cut what a crash left behind the last LF, kept aside, as the next append would. Raises OSError, `StoreBusy`."""
        with self._mutex, self._locked():
            self._known = None
            if segments := self.segments():
                self._recover(segments[-1])

    def segments(self) -> list[Segment]:
        """The segments that are there, oldest first."""
        if self._state is None or self._files.kind(self._folder, op="journal.segments") != "folder":
            return []
        names = (entry.name for entry in self._files.scan(self._folder, op="journal.segments") if entry.kind == "file")
        return [Segment(f"{self._folder}/{name}") for name in sorted(names) if _is_segment(name)]

    def read(self, segment: Segment, start: int = 0) -> Iterator[Located | Damage]:
        """The records of a segment from a byte offset on; a tail without its LF is left for later."""
        with self._files.reading(segment, op="journal.read") as fd:
            source = PlainSource(fd, self._files.fstat(fd, op="journal.stat"), self._files)
            for found in records(source, start, None, self._options):
                if found.offset + found.length >= source.stat.size:
                    return  # no LF, so it was never acknowledged, and the next append cuts it
                yield found

    def _append(self, items: Sequence[Item]) -> list[tuple[str, int]]:
        self._files.ensure_folder(self._folder, op="journal.folder")
        path, position = self._newest()
        first = 0 if position.ordinal is None else position.ordinal + 1
        if position.offset >= self._options.segment_bytes_max and first > Segment(path).first:
            path, position = self._path(first), Position(position.ordinal, 0)
        offset = position.offset
        timestamp = self._clock.timestamp()
        data = b"".join(
            line_of(
                item,
                timestamp=timestamp,
                ordinal=first + index,
                key=None,
                line_bytes_max=self._options.line_bytes_max,
            )
            for index, item in enumerate(items)
        )
        self._write(path, offset, data)
        self._known = (path, Position(first + len(items) - 1, offset + len(data)))
        return [(timestamp, first + index) for index in range(len(items))]

    def _write(self, path: str, offset: int, data: bytes) -> None:
        """One write at the end, synced with the segment's name; what a failure left is cut off again."""
        fd = self._open(path, is_new=offset == 0)
        try:
            written = 0
            try:
                while written < len(data):
                    written += self._files.write(fd, data[written:], op="journal.write")
                self._files.sync(fd, op="journal.sync")
                if path != self._named:
                    self._sync_folders()
                    self._named = path
            except OSError:
                self._files.truncate(fd, offset, op="journal.undo")
                raise
        finally:
            self._files.close(fd, op="journal.close")

    def _sync_folders(self) -> None:
        """The journal's, and those above it, which may be as new."""
        self._files.sync_folder(self._folder, op="journal.sync_folder")
        for folder in (os.path.dirname(self._folder), os.path.dirname(os.path.dirname(self._folder))):
            with contextlib.suppress(PermissionError):  # a folder that may be passed through and not be listed
                self._files.sync_folder(folder, op="journal.sync_folder")

    def _open(self, path: str, *, is_new: bool) -> int:
        if is_new and self._files.stat(path, op="journal.stat") is None:
            return self._files.create(path, op="journal.create")
        return self._files.open_append(path, op="journal.open")

    def _newest(self) -> tuple[str, Position]:
        """The segment to append to and where it ends; read only where somebody else wrote meanwhile."""
        segments = self.segments()
        if not segments:
            return self._path(0), Position(None, 0)
        path = segments[-1]
        stat = self._files.stat(path, op="journal.stat")
        if (
            self._known is not None
            and stat is not None
            and self._known == (path, Position(self._known[1].ordinal, stat.size))
        ):
            return self._known
        return path, self._recover(path)

    def _path(self, first: int) -> str:
        return f"{self._folder}/{first:0{_NAME_DIGITS}d}.jsonl"

    def _recover(self, path: Segment) -> Position:
        """Cut a tail without its LF, which only a crash leaves, and find the last ordinal."""
        fd = self._files.open_append(path, op="journal.open")
        try:
            source = PlainSource(fd, self._files.fstat(fd, op="journal.stat"), self._files)
            end = source.stat.size
            for offset, line, terminated in lines_backwards(source, end, self._options):
                if not terminated:
                    self._set_aside(path, offset, source.read_at(offset, end - offset))
                    self._files.truncate(fd, offset, op="journal.trim")
                    self._files.sync(fd, op="journal.sync")
                    end = offset
                    continue
                try:
                    ordinal = decode(line).ordinal
                except Rejected:
                    continue
                if ordinal is not None:
                    return Position(ordinal, end)
            return Position(path.first - 1 if path.first else None, end)
        finally:
            self._files.close(fd, op="journal.close")

    def _set_aside(self, path: str, offset: int, data: bytes) -> None:
        """Keep what is cut, before it is."""
        folder = f"{self._state}/quarantine"
        self._files.ensure_folder(folder, op="journal.quarantine")
        name = f"journal-{path.rpartition('/')[2]}.{offset}.{self._clock.new_id()}.tail"
        fd = self._files.create(f"{folder}/{name}", op="journal.quarantine")
        try:
            written = 0
            while written < len(data):
                written += self._files.write(fd, data[written:], op="journal.quarantine")
            self._files.sync(fd, op="journal.quarantine")
        finally:
            self._files.close(fd, op="journal.quarantine")
        self._files.sync_folder(folder, op="journal.quarantine")

    def _locked(self) -> AbstractContextManager[None]:
        self._files.ensure_folder(f"{self._state}/locks", op="journal.folder")
        return locked(
            f"{self._state}/locks/journal.lock",
            shared=False,
            options=self._options,
            clock=self._clock,
            files=self._files,
            op="journal.lock",
        )


def _is_segment(name: str) -> bool:
    stem = name.removesuffix(".jsonl")
    return name.endswith(".jsonl") and len(stem) == _NAME_DIGITS and stem.isascii() and stem.isdigit()
