"""What has to be sent to a model so that it goes on where a thread ended.

That is the replacement history of the last compaction and every item since, or all items where nothing was compacted,
ancestors' before the thread's own; what was rolled back is not in it; each call has its result
(`engine.events.model_items`). With it comes the `turn_context` of the newest turn that somebody began by saying
something.

The history is searched backwards until both are known, so that the cost is what came since the last compaction. A
rollback marker changes what the turns before it are worth: where one is met, the turns are told apart from the
beginning on, as the format's reducer does. Then what counts is read once, forwards; bodies of other records are never
held. A compaction without a replacement history replaces nothing. Source: codex_rollout.md 5.4 and 7.5; of 5.4 this
differs in one place: a compaction with a replacement history counts also where it has no window number, as 0.130 wrote
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from engine.events.model_items import COMPACTED, Item, item_of, replacement_of, well_formed
from engine.events.record import kind_of
from engine.events.rollbacks import CONTEXT, ROLLED_BACK, SAYS, STARTED, Place, Turns
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.recorder import Position
from engine.stores.rollouts import Located
from engine.stores.windows import Part, read_parts


class ModelContext(Struct, frozen=True, kw_only=True):
    """What a resume sends. `items` are as the model's API has them, oldest first.

    `turn_context` is the payload of the newest user turn's, None where there is none; `window_number` that of the compaction
    which the items begin with, `compacted` whether there is one. `interrupted` are the ids of calls that got a result that
    says they were cut short, `dropped_results` counts results whose call is not there. `position` is where the thread ends.
    """

    items: list[dict[str, Any]]
    turn_context: dict[str, Any] | None
    compacted: bool
    window_number: int | None
    interrupted: list[str]
    dropped_results: int
    position: Position


class _Plan(NamedTuple):
    """What counts: from `begin` on, without what `turns` says was rolled back; `begin` None is the history's beginning."""

    begin: Place | None
    turns: Turns
    context: Place | None


class _Newest(Struct):
    """Looks for the newest user turn, backwards."""

    context: Place | None = None
    said: bool = False
    settled: bool = False
    """Whether this turn was seen to its beginning, and is one."""

    def see(self, place: Place, kind: str) -> None:
        """Take in the record before the last one."""
        if self.settled:
            return
        self.said = self.said or kind in SAYS
        if kind == CONTEXT and self.context is None:
            self.context = place
        elif kind == STARTED:
            self.settled = self.said and self.context is not None
            if not self.settled:
                self.said, self.context = False, None


def read_context(home: Home, parts: Sequence[Part], *, options: Options, files: Files) -> ModelContext:
    """The context of a history that consists of these parts. Raises OSError."""
    return _Reader(home, parts, options, files).read()


class _Reader:
    """Reads one history, as far as it went when it was first looked at."""

    def __init__(self, home: Home, parts: Sequence[Part], options: Options, files: Files) -> None:
        self._home = home
        self._parts = parts
        self._options = options
        self._files = files
        self._last: Place | None = None
        self._position = Position(None, 0)

    def read(self) -> ModelContext:
        """The context."""
        plan = self._backwards() or self._forwards()
        compaction: dict[str, Any] = {}
        items: list[Item] = []
        for place, located in self._from(plan.begin):
            if plan.turns.is_cut(place):
                continue
            if place == plan.begin:
                compaction = _payload(located)
                items = replacement_of(compaction) or []
            elif (item := item_of(kind_of(located.record), _payload(located))) is not None:
                items.append(item)
        fitting = well_formed(items)
        return ModelContext(
            items=fitting.items,
            turn_context=self._context(plan.context),
            compacted=plan.begin is not None,
            window_number=_window_number(compaction),
            interrupted=fitting.interrupted,
            dropped_results=fitting.dropped,
            position=self._position,
        )

    def _backwards(self) -> _Plan | None:
        """The plan by the newest records alone; None where something was rolled back."""
        begin: Place | None = None
        newest = _Newest()
        for place, located in self._located(self._parts, reverse=True):
            kind = kind_of(located.record)
            if self._last is None:
                self._last = place
                self._position = Position(located.record.ordinal, located.offset + located.length + 1)
            if kind == ROLLED_BACK:
                return None
            if begin is None and _replaces(kind, located):
                begin = place
            newest.see(place, kind)
            if begin is not None and newest.settled:
                break
        return _Plan(begin, Turns(), newest.context if newest.said else None)

    def _forwards(self) -> _Plan:
        """The plan by every record: what was rolled back is known when the last one was seen."""
        turns = Turns()
        compactions: list[Place] = []
        for place, located in self._from(None):
            kind = kind_of(located.record)
            turns.see(place, kind, _payload(located) if kind in turns.READS else {})
            if _replaces(kind, located):
                compactions.append(place)
        begin = next((place for place in reversed(compactions) if not turns.is_cut(place)), None)
        return _Plan(begin, turns, turns.context)

    def _from(self, begin: Place | None) -> Iterator[tuple[Place, Located]]:
        """The records from a place on, as far as the history went."""
        number, offset = begin or (0, self._parts[0].start)
        parts = [self._parts[number]._replace(start=offset), *self._parts[number + 1 :]]
        for (index, at), located in self._located(parts, reverse=False):
            if self._last is None or (number + index, at) > self._last:
                return
            yield (number + index, at), located

    def _located(self, parts: Sequence[Part], *, reverse: bool) -> Iterator[tuple[Place, Located]]:
        for number, each in read_parts(self._home, parts, reverse=reverse, options=self._options, files=self._files):
            if isinstance(each, Located):
                yield (number, each.offset), each

    def _context(self, place: Place | None) -> dict[str, Any] | None:
        return None if place is None else next((_payload(located) for _, located in self._from(place)), None)


def _replaces(kind: str, located: Located) -> bool:
    return kind == COMPACTED and replacement_of(_payload(located)) is not None


def _payload(located: Located) -> dict[str, Any]:
    """A record's payload; one that is nested too deep to be decoded says nothing."""
    try:
        payload: dict[str, Any] = msgspec.json.decode(located.record.payload)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return payload


def _window_number(compaction: dict[str, Any]) -> int | None:
    """An older number stands where later releases have an id (2.6)."""
    found = compaction.get("window_number", compaction.get("window_id"))
    return found if type(found) is int else None
