"""Hits as a reader gets them: the text around what was found, cut from the rollout.

The index has no text. A hit's record is read by its byte range (of a compressed rollout the frame that it is in), taken apart
into words as the index does it, and cut around the place with the most of what was sought. Records are read in the order in
which they stand. One that cannot be read says so (`unreadable`) and fails nothing else.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
from msgspec import Raw, Struct

from engine.errors import EngineError
from engine.events.record import Record
from engine.events.said import said_in
from engine.projections.catchup import Partial
from engine.projections.search import searched
from engine.projections.search_list import PickedHit, Role
from engine.projections.search_query import Phrase
from engine.projections.thread_list import ThreadRow
from engine.stores.layout import Found
from engine.stores.words import Word, Words

BEFORE_BYTES, AFTER_BYTES = 60, 140
"""How much is shown before the beginning of what was found, and from it on."""

SNIPPET_BYTES_MAX = 1_000
"""A single word may be longer than all that."""

OCCURRENCES_MAX = 100
"""How many places in one message are told."""


class SearchHit(Struct, frozen=True, kw_only=True):
    """A message, or the name of a thread, in which all that was sought is there. Times are Unix milliseconds.

    `rollout_path`, `offset` and `length` are where its record is, without the LF; None for a name. `snippet` is a part of its
    text, without any mark; `snippet_offset` is how many bytes (UTF-8) of the text come before it, `is_cut` whether the text
    goes on behind it. `matches` are what was found in the snippet, as characters from and before; `occurrences` are what was
    found in the whole text, as bytes of it, the first hundred.
    """

    thread_id: str
    title: str | None
    cwd: str | None
    archived: bool
    role: Role
    at_ms: int | None
    turn_id: str | None
    ordinal: int | None
    rollout_path: str | None
    offset: int | None
    length: int | None
    snippet: str
    snippet_offset: int
    is_cut: bool
    matches: list[tuple[int, int]]
    occurrences: list[tuple[int, int]]
    unreadable: str | None = None


class SearchPage(Struct, frozen=True, kw_only=True):
    """One page of hits. `partial` is None where all rollouts that the search is of are indexed."""

    hits: list[SearchHit]
    next_cursor: str | None
    partial: Partial | None = None


class Bodies(Protocol):
    """Reads one record of a rollout: `engine.stores.bodies.Bodies`."""

    def read(self, found: Found, offset: int, length: int) -> Record[Raw]:
        """Raises an `EngineError` that says why it cannot be read."""
        ...


class Snippet(NamedTuple):
    """A part of a text, and what was found in it and in all of the text."""

    text: str
    offset: int
    is_cut: bool
    matches: list[tuple[int, int]]
    occurrences: list[tuple[int, int]]


class _Said(NamedTuple):
    text: str
    turn_id: str | None
    unreadable: str | None = None


def read_hits(
    hits: Sequence[PickedHit],
    phrases: Sequence[Phrase],
    rows: Mapping[str, ThreadRow],
    bodies: Bodies,
    words: Words,
    *,
    locate: Callable[[PickedHit], Found | None],
    root: str,
) -> list[SearchHit]:
    """What these hits say. `rows` are those of their threads, where there are any; paths are told below `root`."""
    said: dict[tuple[str, int], _Said] = {}
    for hit in sorted(hits, key=lambda each: (each.path, each.said_offset)):
        if hit.role != "name":
            said[hit.path, hit.said_offset] = _read(hit, bodies, locate)
    return [
        _told(hit, said.get((hit.path, hit.said_offset)), phrases, rows.get(hit.thread_id), words, root) for hit in hits
    ]


def _read(hit: PickedHit, bodies: Bodies, locate: Callable[[PickedHit], Found | None]) -> _Said:
    try:
        found = locate(hit)
        if found is None:
            return _Said("", None, "the rollout is not there any more")
        record = bodies.read(found, hit.said_offset, hit.length)
        text = said_in(record)
        if text is None:
            return _Said("", None, "another record stands where it was; the index is behind the rollout")
        return _Said(text, msgspec.json.decode(record.payload, type=_Turn).turn_id)
    except (EngineError, ValueError, OSError) as error:
        return _Said("", None, str(error))


class _Turn(Struct):
    turn_id: str | None = None


def _told(
    hit: PickedHit, said: _Said | None, phrases: Sequence[Phrase], row: ThreadRow | None, words: Words, root: str
) -> SearchHit:
    is_name = said is None
    if said is None:
        said = _Said((row.name if row is not None else None) or "", None)
    snippet = snippet_of(said.text, phrases, words)
    return SearchHit(
        thread_id=hit.thread_id,
        title=None if row is None else row.name or row.title,
        cwd=None if row is None else row.cwd,
        archived=row.archived if row is not None else hit.path.startswith("archived_"),
        role=hit.role,
        at_ms=hit.at_ms,
        turn_id=hit.turn_id or said.turn_id,
        ordinal=hit.ordinal,
        rollout_path=None if is_name else root + hit.path,
        offset=None if is_name else hit.said_offset,
        length=None if is_name else hit.length,
        snippet=snippet.text,
        snippet_offset=snippet.offset,
        is_cut=snippet.is_cut,
        matches=snippet.matches,
        occurrences=snippet.occurrences,
        unreadable=said.unreadable,
    )


def snippet_of(text: str, phrases: Sequence[Phrase], words: Words) -> Snippet:
    """The part of a text that tells most of what was sought."""
    part = searched(text)
    before = len(text[: text.rindex(part)].encode()) if part else 0
    there = words.of(part)
    found = sorted(
        {(start, end, which) for which, phrase in enumerate(phrases) for start, end in _found(phrase, there)}
    )
    data = part.encode()
    start, end = _window(found, there, len(data))
    start, end = _whole(data, start), _whole(data, end)
    ranges = _merged(found)
    shown = data[start:end].decode()
    matches = [
        (len(data[start : max(low, start)].decode()), len(data[start : min(high, end)].decode()))
        for low, high in ranges
        if low < end and high > start
    ]
    occurrences = [(before + low, before + high) for low, high in ranges[:OCCURRENCES_MAX]]
    return Snippet(shown, before + start, before + end < len(text.encode()), matches, occurrences)


def _found(phrase: Phrase, there: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """Where a phrase is among the words of a text, as bytes."""
    *whole, last = phrase.words
    count = len(phrase.words)
    first = phrase.words[0]
    for at in range(len(there) - count + 1):
        if there[at].word != first and whole:
            continue
        end = there[at + count - 1]
        fits = end.word.startswith(last) if phrase.prefix else end.word == last
        if fits and all(there[at + place].word == word for place, word in enumerate(whole)):
            yield there[at].start, end.end


def _window(found: Sequence[tuple[int, int, int]], there: Sequence[Word], size: int) -> tuple[int, int]:
    """Which bytes to show: from a word's beginning to a word's end, around the place with the most phrases."""
    if not found:
        return 0, min(size, BEFORE_BYTES + AFTER_BYTES)
    starts = [start for start, _, _ in found]
    best = max(
        range(min(len(found), OCCURRENCES_MAX)),
        key=lambda at: (len({each[2] for each in found[at : bisect_right(starts, starts[at] + AFTER_BYTES)]}), -at),
    )
    low, high, _ = found[best]
    begins = [word.start for word in there]
    start = begins[min(bisect_left(begins, low - BEFORE_BYTES), bisect_left(begins, low))]
    start = 0 if low <= BEFORE_BYTES else start
    if size - low <= AFTER_BYTES:
        return start, size
    ends = [word.end for word in there]
    end = max(high, ends[max(bisect_right(ends, low + AFTER_BYTES) - 1, 0)])
    return start, min(end, low + SNIPPET_BYTES_MAX)


def _whole(data: bytes, at: int) -> int:
    """The same place, or the nearest before it where a character begins."""
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _merged(found: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """What was found, in order and without overlaps."""
    ranges: list[tuple[int, int]] = []
    for start, end, _ in found:
        if ranges and start < ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((start, end))
    return ranges
