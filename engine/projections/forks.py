"""Where a fork leaves its source: at the end, through a turn, or before one.

A paginated source is referred to by rollout, ordinal and byte, and the place may lie in a rollout that the source itself
goes on from. A legacy source has no ordinals to refer to, so its records up to the place are copied, with their own times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from engine.errors import InvalidRequest, RolloutUnusable
from engine.events.item import Item, item_of_record
from engine.events.payloads import HistoryBase
from engine.events.record import Record, Rejected, decode, kind_of
from engine.events.skim import Skim
from engine.options import Options
from engine.projections.history import readable
from engine.stores.files import Files
from engine.stores.layout import Found, Home
from engine.stores.lineage import Resolve, Segment, lineage, open_rollout, where_it_is
from engine.stores.rollouts import Located, PlainSource, Source, blocks, lines_backwards, records

_STARTED = "event_msg.task_started"
_ENDED = ("event_msg.task_complete", "event_msg.turn_aborted")


class Boundary(NamedTuple):
    """Where the fork begins: `base` for a source that is referred to, else the source's items to be copied."""

    base: HistoryBase | None
    copied: Iterator[Item]


class _Turn(Struct):
    """Where a turn begins and ends: (segment, ordinal, byte). An end is where the next record begins."""

    start: tuple[int, int | None, int]
    end: tuple[int, int | None, int] | None = None


def boundary(
    home: Home,
    found: Found,
    resolve: Resolve,
    *,
    through_turn: str | None,
    before_turn: str | None,
    options: Options,
    files: Files,
) -> Boundary:
    """The place that was asked for; neither turn means the end.

    Raises `InvalidRequest`, `LineageBroken`, `TruthGone`, `RolloutUnreadable`.
    """
    if through_turn is not None and before_turn is not None:
        raise InvalidRequest("A fork is through a turn or before one, not both.", hint="Give one of the two.")
    reader = _Reader(home, options, files)
    with readable(found):
        segments = lineage(home, found, resolve, options=options, files=files)
        if through_turn is None and before_turn is None:
            index, ordinal, offset = len(segments) - 1, *reader.end_of(segments[-1])
        else:
            index, ordinal, offset = _at_turn(reader.turns(segments), through_turn, before_turn)
        at = segments[index].found
        if ordinal is None:
            return Boundary(None, reader.items(at, offset))
        reader.sync(at)
    return Boundary(HistoryBase(reader.rollout_id(at), ordinal, offset), iter(()))


def _at_turn(turns: dict[str, _Turn], through_turn: str | None, before_turn: str | None) -> tuple[int, int | None, int]:
    turn_id = through_turn or before_turn or ""
    turn = turns.get(turn_id)
    if turn is None:
        raise InvalidRequest(
            f"The thread has no turn {turn_id}.", hint="Read the thread: its task_started records name its turns."
        )
    if before_turn is not None:
        return turn.start
    if turn.end is None:
        raise InvalidRequest(f"The turn {turn_id} is still open.", hint="Fork before it, or at the end of the thread.")
    return turn.end


class _Reader:
    """Reads rollouts for their boundaries."""

    def __init__(self, home: Home, options: Options, files: Files) -> None:
        self._home = home
        self._options = options
        self._files = files
        self._skim = Skim((_STARTED, *_ENDED))

    def rollout_id(self, found: Found) -> str:
        return found.name.own_rollout_id or found.name.thread_id

    def sync(self, found: Found) -> None:
        """What a fork goes on from must not be lost by a power cut that the fork survives."""

        def sync(now: Found) -> None:
            if not now.compressed:  # what is compressed was synced before it got its name
                with self._files.reading(self._home.absolute(now.path), op="fork.read") as fd:
                    self._files.sync(fd, op="fork.sync")

        where_it_is(self._home, found, self._files, sync)

    def end_of(self, segment: Segment) -> tuple[int | None, int]:
        """The ordinal and byte behind the last whole record."""
        source = self._open(segment.found)
        try:
            if not isinstance(source, PlainSource):
                last = None
                for each in records(source, 0, segment.end, self._options):
                    last = each if isinstance(each, Located) else last
                if last is not None:
                    return _after(last.record), last.offset + last.length + 1
            for offset, line, terminated in lines_backwards(source, source.stat.size, self._options):
                try:
                    record = decode(line.lstrip(b"\xef\xbb\xbf"))
                except Rejected:
                    continue
                return _after(record), offset + len(line) + terminated
        finally:
            source.close()
        raise RolloutUnusable(
            f"The rollout {segment.found.path} has no record.", hint="Run `rolloutdb audit`.", path=segment.found.path
        )

    def turns(self, segments: list[Segment]) -> dict[str, _Turn]:
        """Every turn of a history; one of the same id in a later rollout hides the earlier."""
        turns: dict[str, _Turn] = {}
        for index, segment in enumerate(segments):
            source = self._open(segment.found)
            try:
                for offset, length, record in self._marks(source, segment.end):
                    payload = _Payload.of(record)
                    if payload.turn_id is None:
                        continue
                    if kind_of(record) == _STARTED:
                        turns[payload.turn_id] = _Turn((index, record.ordinal, offset))
                    elif payload.turn_id in turns:
                        turns[payload.turn_id].end = (index, _after(record), offset + length + 1)
            finally:
                source.close()
        return turns

    def items(self, found: Found, end: int) -> Iterator[Item]:
        """The records before a byte, as items with their own times."""
        with readable(found), contextlib.closing(self._open(found)) as source:
            for each in records(source, 0, end, self._options):
                if isinstance(each, Located):
                    yield item_of_record(each.record)

    def _marks(self, source: Source, end: int | None) -> Iterator[tuple[int, int, Record[Raw]]]:
        for block in blocks(source, 0, end, self._options):
            if block.passed:
                continue
            for hit in self._skim.scan(block.data, 0, block.end).hits:
                try:
                    record = decode(bytes(block.data[hit.start : hit.end]))
                except Rejected:
                    continue
                if kind_of(record) in (_STARTED, *_ENDED):
                    yield block.offset + hit.start, hit.end - hit.start, record

    def _open(self, found: Found) -> Source:
        return open_rollout(self._home, found, self._options, self._files)


class _Payload(Struct):
    turn_id: str | None = None

    @classmethod
    def of(cls, record: Record[Raw]) -> _Payload:
        try:
            return msgspec.json.decode(record.payload, type=cls)
        except msgspec.DecodeError:
            return cls()


def _after(record: Record[Any]) -> int | None:
    return None if record.ordinal is None else record.ordinal + 1
