"""A window on a thread's history: which bytes of which rollouts it is, and its records, oldest or newest first.

A history is the parts of its ancestors and then its own rollout. A position names a place in it by the ordinal of the
record before it, which tells the rollout, and by the byte where the next record begins. Positions of legacy rollouts
have no ordinal: they are of the thread's own. Reading costs what the window holds, wherever in the history it lies:
plain files and files with a seek table are read where the window is; one that another program compressed in one piece
is unpacked into a temporary file before it is read backwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from engine.errors import InvalidRequest
from engine.events.record import decode
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Found, Home
from engine.stores.lineage import Resolve, Segment, first_meta, lineage, open_rollout
from engine.stores.recorder import Position
from engine.stores.rollouts import Damage, Decode, Located, Source, records, records_backwards, seekable


class Part(NamedTuple):
    """The bytes of one rollout from `start` to `end`, both beginnings of lines; `end` None is the rollout's end."""

    found: Found
    start: int = 0
    end: int | None = None


class Window(NamedTuple):
    """What is read of a history: records behind `start`, as far as `end`, at most `limit`; newest first with `reverse`.

    `start` is where a record ends, as an append answered it, and `end` likewise; None is the history's beginning and end.
    """

    start: Position | None = None
    end: Position | None = None
    limit: int | None = None
    reverse: bool = False


def check_window(window: Window) -> None:
    """Raises `InvalidRequest`."""
    if window.limit is not None and window.limit < 0:
        raise InvalidRequest(f"A limit of {window.limit} records is less than none.", hint="Give 0 or more.")
    for place in (window.start, window.end):
        if place is not None and place.offset < 0:
            raise InvalidRequest(f"{place} is no position.", hint="Give one that an append or a record answered.")


def parts_of(
    home: Home, found: Found, window: Window, resolve: Resolve, *, options: Options, files: Files
) -> list[Part]:
    """The parts of a rollout's history that lie in a window, oldest first. Raises `LineageBroken`, `InvalidRequest`, OSError.

    Ancestors are not looked for where the window begins in the rollout itself.
    """
    first = _first_ordinal(home, found, options, files)
    if window.start is not None and _is_in(window.start, first):
        if window.end is not None and not _is_in(window.end, first):
            return []  # it ends before it begins
        segments = [Segment(found, None)]
    else:
        segments = lineage(home, found, resolve, options=options, files=files)
    firsts = [_first_ordinal(home, each.found, options, files) for each in segments[:-1]] + [first]
    low, start = (0, 0) if window.start is None else _place(window.start, firsts)
    high, end = (len(segments) - 1, None) if window.end is None else _place(window.end, firsts)
    if window.end == (None, 0):
        high = end = 0  # before the first record of the first ancestor
    return [
        Part(each.found, start if index == low else 0, end if index == high and end is not None else each.end)
        for index, each in enumerate(segments)
        if low <= index <= high
    ]


def _first_ordinal(home: Home, found: Found, options: Options, files: Files) -> int:
    """The ordinal that a rollout's own records begin with."""
    meta = first_meta(home, found, options=options, files=files)
    base = None if meta is None else meta.history_base
    return 0 if base is None else base.end_ordinal_exclusive or 0


def _is_in(position: Position, first: int) -> bool:
    """Whether a position lies in a rollout whose first ordinal this is; it may lie before its first record."""
    if position.ordinal is None:
        return True
    return position.ordinal >= first or (position.ordinal == first - 1 and position.offset == 0)


def _place(position: Position, firsts: Sequence[int]) -> tuple[int, int]:
    """Which segment a position is in, and at which byte of it; `firsts` are their first ordinals."""
    for index in range(len(firsts) - 1, -1, -1):
        if _is_in(position, firsts[index]):
            return index, position.offset
    return 0, position.offset


def read_parts(
    home: Home, parts: Sequence[Part], *, reverse: bool, options: Options, files: Files, by: Decode = decode
) -> Iterator[tuple[int, Located | Damage]]:
    """The records of the parts with the number of their part, in order; with `reverse` all of it the other way round.

    Raises OSError, and `InvalidRequest` where a part does not begin and end between two records.
    """
    numbers = range(len(parts) - 1, -1, -1) if reverse else range(len(parts))
    for number in numbers:
        part = parts[number]
        source = open_rollout(home, part.found, options, files)
        try:
            _check_edges(source, part)
            found = _backwards(source, part, options, files, by) if reverse else _forwards(source, part, options, by)
            for each in found:
                yield number, each
        finally:
            source.close()


def _forwards(source: Source, part: Part, options: Options, by: Decode) -> Iterator[Located | Damage]:
    return records(source, part.start, part.end, options, by)


def _backwards(source: Source, part: Part, options: Options, files: Files, by: Decode) -> Iterator[Located | Damage]:
    with seekable(source, files, options) as (plain, size):
        yield from records_backwards(plain, part.start, size if part.end is None else min(part.end, size), options, by)


def _check_edges(source: Source, part: Part) -> None:
    """A part begins behind an LF. It may end before one: the last record of a base may have had none yet."""
    if part.start > 0 and source.read_at(part.start - 1, 1) != b"\n":
        raise _no_edge(part, part.start)
    if part.end:
        around = source.read_at(part.end - 1, 2)
        if b"\n" not in around and len(around) != 1:
            raise _no_edge(part, part.end)


def _no_edge(part: Part, offset: int) -> InvalidRequest:
    return InvalidRequest(
        f"No record of {part.found.path} begins or ends at byte {offset}.",
        hint="Give the position that an append, a turn or a record answered.",
        path=part.found.path,
        offset=offset,
    )
