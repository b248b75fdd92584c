"""What a forked or reverted thread reads: its own rollout, and before it the part of its base that it goes on from.

`history_base` names a rollout, the ordinal where the base's part ends and the byte where it ends; nothing is copied. The
chain is followed to the rollout without a base. A base that is missing, that is shorter than the place named, that has no
line's end there, or that leads back to itself is `LineageBroken`: what can be read of the rest is still read by those who
ask for the own part only. Bases may be archived or compressed, also since they were found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from engine.errors import LineageBroken
from engine.events.payloads import SessionMeta
from engine.events.record import BYTE_ORDER_MARK, Rejected, decode_as
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Found, Home, relocate
from engine.stores.rollouts import Located, Source, lines_backwards, open_source, records, seekable

GENERATIONS_MAX = 1000
"""Longer chains are taken for damage."""

_LOOKS_MAX = 3

_Answer = TypeVar("_Answer")

Resolve = Callable[[str], Found | None]
"""Finds a rollout by its rollout id."""


class Segment(NamedTuple):
    """A part of a thread's history. `end` is the byte before which it ends, None for the whole rollout."""

    found: Found
    end: int | None


def lineage(home: Home, found: Found, resolve: Resolve, *, options: Options, files: Files) -> list[Segment]:
    """The segments of a rollout's history, oldest first, its own last. Raises `LineageBroken`, OSError."""
    segments = [Segment(found, None)]
    seen = {found.path}
    while (base := _base_of(home, segments[-1].found, options, files)) is not None:
        segment = _resolved(home, found, base, resolve, options, files)
        if segment.found.path in seen or len(segments) > GENERATIONS_MAX:
            raise _broken(found, "its bases lead back to themselves", "Look at the history_base of its session_meta.")
        seen.add(segment.found.path)
        segments.append(segment)
    return segments[::-1]


def base_segment(home: Home, found: Found, resolve: Resolve, *, options: Options, files: Files) -> Segment | None:
    """The part of its base that a rollout goes on from, or None. Raises `LineageBroken`, OSError."""
    base = _base_of(home, found, options, files)
    return None if base is None else _resolved(home, found, base, resolve, options, files)


def shown_lineage(home: Home, found: Found, resolve: Resolve, *, options: Options, files: Files) -> list[Segment]:
    """The segments whose turns a thread shows: a fork that is attached to its source shows its own alone.

    Raises as `lineage` does.
    """
    meta = first_meta(home, found, options=options, files=files)
    if meta is not None and meta.attached_thread:
        return [Segment(found, None)]
    return lineage(home, found, resolve, options=options, files=files)


def lines_backwards_of(home: Home, segments: Sequence[Segment], *, options: Options, files: Files) -> Iterator[bytes]:
    """The lines of a history without their LF, newest first, blank and damaged ones too. Raises OSError."""
    for segment in reversed(segments):
        source = open_rollout(home, segment.found, options, files)
        try:
            with seekable(source, files, options) as (plain, size):
                end = size if segment.end is None else segment.end
                for _, line, _ in lines_backwards(plain, end, options):
                    yield line
        finally:
            source.close()


def first_meta(home: Home, found: Found, *, options: Options, files: Files) -> SessionMeta | None:
    """The session_meta that a rollout begins with, or None. Reads its head only."""
    source = open_rollout(home, found, options, files)
    try:
        for each in records(source, 0, None, options):
            if isinstance(each, Located):
                if each.record.type != "session_meta":
                    return None
                line = source.read_at(each.offset, each.length)
                meta: SessionMeta = decode_as(line.removeprefix(BYTE_ORDER_MARK), "session_meta").payload
                return meta
    except Rejected:
        return None
    finally:
        source.close()
    return None


def are_foreign(home: Home, rollouts: Iterable[Found], *, options: Options, files: Files) -> bool:
    """Whether another program wrote one of these rollouts; one that does not say who it is may be anybody's."""
    try:
        metas = [first_meta(home, found, options=options, files=files) for found in rollouts]
    except OSError:
        return True
    return any(meta is None or not bytes(meta.rolloutdb) for meta in metas)


class _Base(NamedTuple):
    thread_id: str
    end_byte_offset: int | None


def _base_of(home: Home, found: Found, options: Options, files: Files) -> _Base | None:
    meta = first_meta(home, found, options=options, files=files)
    if meta is None or meta.history_base is None:
        return None
    return _Base(meta.history_base.thread_id.lower(), meta.history_base.end_byte_offset)


def _resolved(home: Home, found: Found, base: _Base, resolve: Resolve, options: Options, files: Files) -> Segment:
    parent = resolve(base.thread_id)
    if parent is None:
        what = f"its base {base.thread_id} is not in the home"
        raise _broken(found, what, "Restore that rollout, or read the own part only.")
    if base.end_byte_offset is not None:
        _check_end(home, found, parent, base.end_byte_offset, options, files)
    return Segment(parent, base.end_byte_offset)


def _check_end(home: Home, found: Found, parent: Found, end: int, options: Options, files: Files) -> None:
    """A base ends where one of its lines does, else it is not the file that the fork was made of."""
    source = open_rollout(home, parent, options, files)
    try:
        around = source.read_at(max(end - 1, 0), 2)
    finally:
        source.close()
    if end < 0 or (end > 0 and not around):
        what = f"its base {parent.path} ends before byte {end}, where it goes on from"
    elif end > 0 and b"\n" not in around and len(around) == 2:
        what = f"its base {parent.path} has no line's end at byte {end}, where it goes on from"
    else:
        return
    raise _broken(found, what, "Restore that rollout from a backup, or read the own part only.")


def open_rollout(home: Home, found: Found, options: Options, files: Files) -> Source:
    """The rollout wherever it is now, and in the form that it has now. Raises OSError."""

    def opened(now: Found) -> Source:
        path = home.absolute(now.path, compressed=now.compressed)
        return open_source(path, compressed=now.compressed, files=files, options=options)

    return where_it_is(home, found, files, opened)


def where_it_is(home: Home, found: Found, files: Files, use: Callable[[Found], _Answer]) -> _Answer:
    """What `use` answers for a rollout, which may have been compressed, archived or brought back since it was found.

    Raises what `use` raises; FileNotFoundError where the rollout is gone.
    """
    for _ in range(_LOOKS_MAX):
        try:
            return use(found)
        except FileNotFoundError:
            found = relocate(home, found, files) or found
    return use(found)


def _broken(found: Found, what: str, hint: str) -> LineageBroken:
    return LineageBroken(f"The history of {found.path} cannot be read: {what}.", hint=hint, path=found.path)
