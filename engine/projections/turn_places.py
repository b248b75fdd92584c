"""Places in a thread that is read as segments, and the cursors that name them.

A thread's segments, oldest first, are the parts of its bases, each up to the byte where it was left, and its own rollout. A
place is a rollout and an offset in it, so it stays the same place while the thread grows, is archived, compressed or
reverted. A cursor is of one thread and one list, and of a row that has to be there still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from engine.errors import InvalidCursor
from engine.projections.cursors import decode_cursor, encode_cursor
from engine.stores.layout import Found
from engine.stores.lineage import Segment

if TYPE_CHECKING:
    from engine.stores.sqlite import Transaction

OFFSET_END = (1 << 63) - 1
"""Behind every record."""


class Held(NamedTuple):
    """A segment that the index knows: its place among the segments, its rollout's number, and the offset where it ends."""

    order: int
    found: Found
    rollout: int
    end: int

    @property
    def rollout_id(self) -> str:
        """The rollout's id, which says the same when the file has moved."""
        return self.found.name.own_rollout_id or self.found.name.thread_id


class Span(NamedTuple):
    """Offsets of one segment, from `start` to before `end`."""

    held: Held
    start: int
    end: int


class Scope(NamedTuple):
    """Whose list it is and which: what a cursor is of."""

    thread_id: str
    list: str


class _Cursor(Struct, frozen=True, array_like=True):
    thread_id: str
    list: str
    rollout_id: str
    offset: int
    key: int
    inclusive: bool


def held_of(transaction: Transaction, segments: Sequence[Segment]) -> list[Held]:
    """The segments that have been indexed, oldest first."""
    paths = msgspec.json.encode([segment.found.path for segment in segments]).decode()
    numbers: dict[str, int] = dict(transaction.rows(_NUMBERS, {"paths": paths}))
    return [
        Held(order, segment.found, numbers[segment.found.path], OFFSET_END if segment.end is None else segment.end)
        for order, segment in enumerate(segments)
        if segment.found.path in numbers
    ]


def spans_of(
    transaction: Transaction, held: Sequence[Held], scope: Scope, cursor: str | None, *, descending: bool, there: str
) -> list[Span]:
    """What of each segment a page is to be taken from, in the order of reading.

    `there` asks whether the row of `:rollout`, `:offset` and `:key` is there. Raises `InvalidCursor`.
    """
    spans = [Span(each, 0, each.end) for each in held]
    if cursor is not None:
        place = _place_of(cursor, scope)
        at = [span.held.rollout_id for span in spans].index(place.rollout_id) if _has(spans, place) else -1
        if at < 0 or not _is_there(transaction, spans[at], place, there):
            raise InvalidCursor(
                "The row that the cursor names is no longer part of the thread: it was taken back.",
                hint="List from the beginning, without a cursor.",
            )
        if descending:
            spans[at:] = [Span(held[at], 0, place.offset + place.inclusive)]
        else:
            spans[: at + 1] = [Span(held[at], place.offset + (not place.inclusive), held[at].end)]
    return spans[::-1] if descending else spans


def cursor_at(scope: Scope, held: Held, offset: int, key: int, *, inclusive: bool) -> str:
    """The cursor of a row."""
    return encode_cursor(_Cursor(scope.thread_id, scope.list, held.rollout_id, offset, key, inclusive))


def _place_of(cursor: str, scope: Scope) -> _Cursor:
    place = decode_cursor(cursor, _Cursor)
    if place.thread_id != scope.thread_id:
        raise InvalidCursor("The cursor is of another thread.", hint="Use a cursor of a page of this thread.")
    if place.list != scope.list:
        raise InvalidCursor(
            f"The cursor is not of this list ({scope.list}).", hint="Use a cursor of a page of this list."
        )
    return place


def _has(spans: Sequence[Span], place: _Cursor) -> bool:
    return any(span.held.rollout_id == place.rollout_id for span in spans)


def _is_there(transaction: Transaction, span: Span, place: _Cursor, there: str) -> bool:
    if not 0 <= place.offset < span.end or not -OFFSET_END <= place.key <= OFFSET_END:
        return False
    values = {"rollout": span.held.rollout, "offset": place.offset, "key": place.key}
    return transaction.row(there, values) is not None


_NUMBERS = "SELECT path, number FROM rollouts WHERE path IN (SELECT value FROM json_each(:paths))"
