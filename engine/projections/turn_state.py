"""What a fold of turns carries from record to record, and what it hands on to be written.

The state of one rollout is bounded whatever the rollout: it knows the turn that was last begun, the last `TURNS_KEPT` turns
and the last `ITEMS_KEPT` items by their digests, and nothing of what they say. What a record comes to is an operation on the
rows (`Begun`, `Item`, …); operations are applied in the order of the records, so that the rows follow from the records
alone, however they were cut into pieces.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Struct

from engine.events.record import Record, time_ms
from engine.stores.digests import id_digest

TURNS_KEPT = 512
"""How many turns later a turn's late end, or its second beginning, is still known as such."""

ITEMS_KEPT = 1024
"""How many items later a second record of an item still replaces the first; a later one is listed as an item of its own."""

ID_CHARS_MAX = 256
"""A longer id is cut in the row; its digest is of the whole."""

OPEN, COMPLETED, INTERRUPTED, FAILED = range(4)
"""A turn's status, as it is stored."""

_INTEGER_MAX = (1 << 63) - 1


class Begun(NamedTuple):
    """A turn begins."""

    offset: int
    turn: int
    id: str
    ordinal: int | None
    status: int
    started_at_ms: int | None


class Item(NamedTuple):
    """An item is told of for the first time. `turn` None is the turn whose row stands before it.

    `number` counts the items without id since `since`, the offset of the last rollback. With `late` it belongs to a turn
    that was left behind, and is nothing where that turn is not there.
    """

    offset: int
    length: int
    type: int
    ordinal: int | None
    created_at_ms: int | None
    turn: int | None = None
    number: int | None = None
    since: int | None = None
    late: bool = False


class Again(NamedTuple):
    """A newer record of the item at `first`."""

    first: int
    offset: int
    length: int
    type: int


class Part(NamedTuple):
    """One more record of the item at `item`."""

    item: int
    offset: int
    length: int


class Said(NamedTuple):
    """The item at `offset` is what a summary of its turn shows as `what`; with `ended` also of a turn that has ended."""

    what: str
    turn: int
    offset: int
    ended: bool


class Ended(NamedTuple):
    """A turn has come to its end. With `once` one that ended before stays as it is; with `alone` it may have no row yet."""

    offset: int
    length: int
    turn: int
    id: str
    ordinal: int | None
    status: int
    started_at_ms: int | None
    completed_at_ms: int | None
    duration_ms: int | None
    failed: bool
    once: bool
    alone: bool


class Failure(NamedTuple):
    """The turn has failed; the record says why."""

    turn: int
    offset: int
    length: int


class RolledBack(NamedTuple):
    """The last `turns` turns count no more."""

    offset: int
    turns: int


OPERATIONS: tuple[type[tuple[Any, ...]], ...] = (Begun, Item, Again, Part, Said, Ended, Failure, RolledBack)
"""What is emitted of an operation begins with its place here."""


class Current(Struct, array_like=True):
    """The turn that a legacy rollout is in.

    An explicit one was begun by a record of its own. `reasoning` is the offset of its last item where that is reasoning.
    """

    turn: int
    explicit: bool
    items: bool = False
    reasoning: int | None = None


class Kept(Struct, array_like=True):
    """The part of a state that is stored. `row` is the digest of the turn whose row is the last one, where that is known."""

    thread_id: str
    identified: bool = False
    paginated: bool = False
    inherited_below: int = 0
    records: int = 0
    row: int | None = None
    turns: list[int] = []
    items: dict[int, int] = {}
    current: Current | None = None
    number: int = 0
    since: int | None = None


class TurnsState:
    """The state of one fold: what is kept, where the record at hand stands, and the operations that were not emitted yet."""

    __slots__ = ("_digest", "_turn_id", "before", "kept", "length", "operations")

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self._turn_id, self._digest = "", 0
        self.operations: list[tuple[Any, ...]] = []
        self.length = 0
        self.before = 0

    def digest_of(self, turn_id: str) -> int:
        """The digest of a turn's id; record after record is of the same turn."""
        if turn_id != self._turn_id:
            self._turn_id, self._digest = turn_id, id_digest(turn_id)
        return self._digest

    def begin(self, turn_id: str, turn: int, at: Record[Any], offset: int, *, status: int, at_ms: int | None) -> None:
        """Make a turn's row."""
        self.operations.append(Begun(offset, turn, turn_id[:ID_CHARS_MAX], at.ordinal, status, at_ms))
        self.kept.row = turn
        self.remember_turn(turn)

    def knows(self, turn: int) -> bool:
        """Whether this is one of the last turns."""
        return turn == self.kept.row or turn in self.kept.turns

    def remember_turn(self, turn: int) -> None:
        """Know this turn as the newest."""
        turns = self.kept.turns
        turns.append(turn)
        if len(turns) > TURNS_KEPT:
            del turns[0]

    def remember_item(self, turn: int | None, item_id: str, offset: int) -> int | None:
        """Know an item by its turn and id; where it was known already, the offset of its first record."""
        key = id_digest(f"{turn} {item_id}")
        items = self.kept.items
        first = items.get(key)
        if first is None:
            items[key] = offset
            if len(items) > ITEMS_KEPT:
                del items[next(iter(items))]
        return first


def whole(value: float | None) -> int | None:
    """A number of a file as an integer that a column can hold, else None."""
    if value is None or not -_INTEGER_MAX <= value <= _INTEGER_MAX:
        return None
    return value if type(value) is int else min(max(int(value), -_INTEGER_MAX), _INTEGER_MAX)


def seconds_as_ms(value: float | None) -> int | None:
    """Unix seconds of a file as milliseconds."""
    return None if value is None else whole(value * 1000)


def record_ms(record: Record[Any]) -> int | None:
    """A record's own time."""
    return time_ms(record.timestamp)
