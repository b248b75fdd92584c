"""The log segments of a home: which there are, reading them, removing old ones, and taking a thread out of them.

A segment is `logs/YYYY/MM/DD/log-<UTC time>-<process id>-<uuid>.jsonl` in the state folder, written by one process and, while
it is written, locked by it (`log_writer`). Only whole segments are removed: of one process beyond `log_process_bytes_max`, of
all beyond `log_store_bytes_max`, more than `log_segments_max`, older than `log_age_s_max`; the oldest first, and none that
somebody writes. Several processes may do that at once. Logs are diagnostics, not truth: nothing in here is synced but an
erasure, which blanks a thread's records where they stand.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from engine.clock import Clock, timestamp_of
from engine.events.log_lines import MARKS, RECORD, THREAD, Line, decode
from engine.options import Options
from engine.stores.files import Files, FileStat
from engine.stores.fill import fill_lines
from engine.stores.locks import give_back, try_lock

FOLDER = "logs"

_NAME = re.compile(
    r"log-(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)\.(\d{3})-(\d+)-([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\.jsonl",
    re.ASCII,
)
_PART = re.compile(r"\d{2,4}", re.ASCII)
_FUTURE_MS = 24 * 3600 * 1000
"""A segment that claims to be this much younger than now was made under another clock, or ours is wrong now: it is the first to
go when there are too many, and never for its age."""
_BLOCK_BYTES = 256 * 1024


class Segment(NamedTuple):
    """A segment that is there. `path` is relative to the state folder; `process` names the process as rows have it."""

    path: str
    started_ms: int
    process: str
    stat: FileStat


class Removed(NamedTuple):
    """What a retention took away."""

    segments: int
    bytes: int


def segment_path(process: str, started_ms: int) -> str:
    """Where a process's segment of this time belongs. `process` is `pid:<process id>:<uuid>`."""
    time = timestamp_of(started_ms)
    day = time[:10].replace("-", "/")
    stamp = time[:23].replace(":", "-")
    return f"{FOLDER}/{day}/log-{stamp}-{process.removeprefix('pid:').replace(':', '-')}.jsonl"


def segments(state: str, files: Files) -> list[Segment]:
    """All segments, oldest first. Raises OSError where a folder cannot be read: what is in it is not to be taken for gone."""
    found: list[Segment] = []
    for folder in _folders(state, FOLDER, 3, files):
        with contextlib.suppress(FileNotFoundError):  # retention took it
            for entry in files.scan(f"{state}/{folder}", op="logs.scan"):
                matched = _NAME.fullmatch(entry.name)
                if matched is None or entry.stat is None:
                    continue
                time, milli, pid, uuid = matched.groups()
                started_ms = _ms_of(time) + int(milli)
                found.append(Segment(f"{folder}/{entry.name}", started_ms, f"pid:{pid}:{uuid}", entry.stat))
    return sorted(found)


def read_block(state: str, path: str, offset: int, *, options: Options, files: Files) -> tuple[bytes, int]:
    """Whole lines from `offset` on, and how many bytes they are, with a line too long to be read as bytes without a line.

    b"" and 0 where no line is whole yet. Raises OSError. Nothing is open between two calls, however many segments are read.
    """
    with files.reading(f"{state}/{path}", op="logs.read") as fd:
        size = _BLOCK_BYTES
        while True:
            data = files.pread(fd, size, offset, op="logs.read")
            end = data.rfind(b"\n") + 1
            if end:
                return data[:end], end
            if len(data) < size:
                return b"", 0
            if size >= options.line_bytes_max:
                return b"", _end_of_line(fd, offset + len(data), files) - offset
            size *= 2


def explained(state: str, path: str, end: int, *, options: Options, files: Files) -> Iterator[Line]:
    """The lines before `end` that explain numbers; the others are not decoded."""
    at = 0
    while at < end:
        data, length = read_block(state, path, at, options=options, files=files)
        if not length:
            return
        for mark in MARKS.values():
            place = data.find(mark)
            while 0 <= place < end - at:
                begin, stop = data.rfind(b"\n", 0, place) + 1, data.find(b"\n", place)
                line = decode(data[begin:stop])
                if line is not None:
                    yield line
                place = data.find(mark, stop)
        at += length


def retain(state: str, *, options: Options, clock: Clock, files: Files) -> Removed:
    """Remove the segments that are beyond one of the bounds, but none that a process is writing. Raises OSError."""
    now_ms = clock.wall_ms()
    removed, size = 0, 0
    for segment in _superfluous(segments(state, files), now_ms, options):
        with contextlib.suppress(OSError):
            if _remove(state, segment, now_ms, files):
                removed, size = removed + 1, size + segment.stat.size
    return Removed(removed, size)


def erase(state: str, thread_ids: Iterable[str], *, options: Options, files: Files) -> tuple[int, int]:
    """Blank every record of these threads, where it stands; how many, and their bytes. Raises OSError."""
    wanted = {thread_id.lower() for thread_id in thread_ids}
    count = size = 0
    for segment in segments(state, files):
        numbers = _numbers(state, segment, wanted, options, files)
        if numbers:
            with contextlib.suppress(FileNotFoundError):  # retention took it
                path = f"{state}/{segment.path}"
                lines, filled = fill_lines(path, partial(_blank, numbers), options=options, files=files)
                count, size = count + lines, size + filled
    return count, size


def records_of(state: str, thread_ids: Iterable[str], *, options: Options, files: Files) -> int:
    """How many records of these threads the segments hold. Raises OSError."""
    wanted = {thread_id.lower() for thread_id in thread_ids}
    count = 0
    for segment in segments(state, files):
        if numbers := _numbers(state, segment, wanted, options, files):
            with contextlib.suppress(FileNotFoundError):
                lines = _lines(state, segment.path, options, files)
                count += sum(_blank(numbers, line) not in (None, line) for line in lines)
    return count


def _lines(state: str, path: str, options: Options, files: Files) -> Iterator[bytes]:
    at = 0
    while True:
        data, length = read_block(state, path, at, options=options, files=files)
        if not length:
            return
        yield from data.splitlines()
        at += length


def _numbers(state: str, segment: Segment, thread_ids: set[str], options: Options, files: Files) -> set[int]:
    """By which numbers a segment names these threads."""
    with contextlib.suppress(FileNotFoundError):
        return {
            line.payload.thread
            for line in explained(state, segment.path, segment.stat.size, options=options, files=files)
            if line.type == THREAD and line.payload.id.lower() in thread_ids
        }
    return set()


def _blank(numbers: set[int], line: bytes) -> bytes | None:
    """Blanks for a record of these threads, and for what a crash left half blank."""
    if line[:1] == b" ":
        return b" " * len(line)
    found = decode(line)
    if found is None or found.type != RECORD or found.payload.thread not in numbers:
        return None
    return b" " * len(line)


def _superfluous(found: Sequence[Segment], now_ms: int, options: Options) -> list[Segment]:
    """Which segments are beyond a bound, when the newest are kept: whatever is older than one that is beyond is, too."""
    by_age = sorted(found, key=lambda each: (_believed_ms(each, now_ms) or 0, each.path), reverse=True)
    of_process: dict[str, int] = {}
    total = 0
    gone: list[Segment] = []
    for count, segment in enumerate(by_age, 1):
        total += segment.stat.size
        of_process[segment.process] = of_process.get(segment.process, 0) + segment.stat.size
        if (
            _is_old(segment, now_ms, options)
            or of_process[segment.process] > options.log_process_bytes_max
            or total > options.log_store_bytes_max
            or count > options.log_segments_max
        ):
            gone.append(segment)
    return gone[::-1]


def _is_old(segment: Segment, now_ms: int, options: Options) -> bool:
    last_ms = _believed_ms(segment, now_ms)
    return last_ms is not None and now_ms - last_ms > options.log_age_s_max * 1000


def _believed_ms(segment: Segment, now_ms: int) -> int | None:
    """When it was last written; None where the clock cannot be believed."""
    last_ms = max(segment.started_ms, segment.stat.mtime_ns // 1_000_000)
    return last_ms if last_ms <= now_ms + _FUTURE_MS else None


def _remove(state: str, segment: Segment, now_ms: int, files: Files) -> bool:
    path = f"{state}/{segment.path}"
    if files.stat(path, op="logs.retain") is None:
        return False
    fd = try_lock(path, shared=False, files=files, op="logs.retain")
    if fd is None:
        return False
    try:
        files.remove(path, op="logs.retain")
    finally:
        give_back(fd, files=files, op="logs.retain")
    folder = segment.path.rpartition("/")[0]
    while folder != FOLDER and folder not in segment_path("", now_ms):
        try:
            files.remove_folder(f"{state}/{folder}", op="logs.retain")
        except OSError:  # not empty
            break
        folder = folder.rpartition("/")[0]
    return True


def _folders(state: str, folder: str, deep: int, files: Files) -> Iterator[str]:
    """The folders of days."""
    if not deep:
        yield folder
        return
    try:
        names = files.names(f"{state}/{folder}", op="logs.scan")
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, is_folder in sorted(names):
        if is_folder and _PART.fullmatch(name):
            yield from _folders(state, f"{folder}/{name}", deep - 1, files)


def _end_of_line(fd: int, offset: int, files: Files) -> int:
    """Where the next line begins, or the end where there is none yet."""
    while data := files.pread(fd, _BLOCK_BYTES, offset, op="logs.read"):
        found = data.find(b"\n")
        if found >= 0:
            return offset + found + 1
        offset += len(data)
    return offset


def _ms_of(time: str) -> int:
    try:
        found = datetime.strptime(time, "%Y-%m-%dT%H-%M-%S").replace(tzinfo=UTC)
    except ValueError:
        return 0
    return int(found.timestamp()) * 1000
