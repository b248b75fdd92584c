"""The lines of segments in the order of their times, with what their numbers stand for: what the table of logs is filled from.

Of the segments that were written at one time a block each is held; the others wait. A segment's own order is never changed. A
line that is none is counted; a tail without its LF is left to the one who writes it, and counted once that one is gone.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from engine.events.log_lines import RECORD, SITE, THREAD, Line, Payload, Site, decode, explained_by, us_of_text
from engine.options import Options
from engine.stores.files import Files
from engine.stores.locks import give_back, try_lock
from engine.stores.log_segments import Segment, explained, read_block

UNKNOWN = Site(0, "", "", None, None, None)
"""Where a record comes from whose site nobody explained."""


_QUEUED_US_MAX = 10_000_000
"""A segment is named for when it was begun, and its first records may have waited for that in their queue."""


class Entry(NamedTuple):
    """A record, or with `site` None the news that a segment was read up to `end`. `thread` is "" where it belongs to none."""

    at_us: int
    segment: Reading
    offset: int
    end: int
    site: Site | None
    thread: str
    bytes: int
    dropped: int
    damaged: int
    """Lines that are none, since the entry before of the same segment."""


class Reading:
    """One segment while it is read. `number` is None for one without a row; `filled` is what the rows cover."""

    def __init__(self, segment: Segment, number: int | None, filled: int) -> None:
        self.segment = segment
        self.number = number
        self.filled = filled
        self._damaged = 0
        self._sites: dict[int, tuple[Site, int]] = {}
        """Sites by their numbers, each with what it adds to the size of a record."""
        self._threads: dict[int, str] = {}

    @property
    def begins_us(self) -> int:
        """From when on its lines can be; 0 where it is known to be under way."""
        return self.segment.started_ms * 1000 - _QUEUED_US_MAX if self.filled == 0 else 0

    def entries(self, state: str, options: Options, files: Files) -> Iterator[Entry]:
        """What is in it behind `filled`, up to its size when it was listed."""
        if self.filled:
            for line in explained(state, self.segment.path, self.filled, options=options, files=files):
                self._learn(line.type, line.payload)
        at = self.filled
        while at < self.segment.stat.size:
            data, length = read_block(state, self.segment.path, at, options=options, files=files)
            if not length:
                if self._is_torn(state, files):
                    self._damaged += 1
                    yield self._news(self.segment.stat.size)
                return
            if data:
                yield from self._of_block(data, at)
            else:
                self._damaged += 1
            at += length
            yield self._news(at)

    def _of_block(self, data: bytes, start: int) -> Iterator[Entry]:
        at = 0
        while at < len(data):
            stop = data.find(b"\n", at)
            line = decode(data[at:stop])
            if line is None:
                self._damaged += bool(data[at:stop].strip())  # blanks are where an erasure was
            elif line.type == RECORD:
                yield self._record(line, start + at, start + stop + 1)
            else:
                self._learn(line.type, line.payload)
            at = stop + 1

    def _record(self, line: Line, offset: int, end: int) -> Entry:
        said = line.payload
        site, size = self._sites.get(said.site, (UNKNOWN, 0))
        size += len(said.body) if said.body.isascii() else len(said.body.encode())
        thread = self._threads.get(said.thread, "") if said.thread else ""
        at_us = us_of_text(line.timestamp)
        return Entry(at_us, self, offset, end, site, thread, size, said.dropped, self._take_damaged())

    def _learn(self, kind: str, said: Payload) -> None:
        if kind == SITE:
            site = explained_by(said)
            self._sites[said.site] = site, site.bytes
        elif kind == THREAD:
            self._threads[said.thread] = said.id.lower()

    def _news(self, end: int) -> Entry:
        return Entry(0, self, end, end, None, "", 0, 0, self._take_damaged())

    def _take_damaged(self) -> int:
        damaged, self._damaged = self._damaged, 0
        return damaged

    def _is_torn(self, state: str, files: Files) -> bool:
        """Whether nobody writes it any more, so its last line will not be ended."""
        path = f"{state}/{self.segment.path}"
        try:
            fd = try_lock(path, shared=True, files=files, op="logs.torn") if files.stat(path, op="logs.torn") else None
        except OSError:  # a home that cannot be written
            return False
        if fd is None:
            return False
        give_back(fd, files=files, op="logs.torn")
        return True


def merged(readings: Sequence[Reading], state: str, options: Options, files: Files) -> Iterator[Entry]:
    """The entries of all of them, oldest first as far as each segment's own order has it."""
    waiting = deque(sorted(readings, key=lambda each: each.begins_us))
    heap: list[tuple[int, int, Entry, Iterator[Entry]]] = []
    begun = 0
    while heap or waiting:
        while waiting and (not heap or waiting[0].begins_us <= heap[0][0]):
            entries = waiting.popleft().entries(state, options, files)
            begun += 1
            _push(heap, begun, entries)
        if not heap:
            continue
        _, number, entry, entries = heapq.heappop(heap)
        yield entry
        _push(heap, number, entries)


def _push(heap: list[tuple[int, int, Entry, Iterator[Entry]]], number: int, entries: Iterator[Entry]) -> None:
    try:
        entry = next(entries, None)
    except FileNotFoundError:  # retention took it
        return
    if entry is not None:
        heapq.heappush(heap, (entry.at_us, number, entry, entries))
