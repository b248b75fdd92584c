"""Write the turns and items of a rollout: each operation of a fold, in the order of the records.

What one operation does to the rows depends on the rows that the operations before it left, never on where a piece ended.
So operations that do not concern each other, those of other rollouts among them, are written together, many rows a
statement; only a rollback parts them, and a turn
that begins when something was told of it already. A turn that begins and ends in them is one row, written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct

from engine.events.thread_items import FINAL_AGENT, PLAIN_AGENT, USER_MESSAGE
from engine.projections.side_tables import StreamTable
from engine.projections.turn_state import (
    COMPLETED,
    FAILED,
    OPEN,
    Again,
    Begun,
    Ended,
    Failure,
    Item,
    Part,
    RolledBack,
    Said,
)

if TYPE_CHECKING:
    from engine.stores.sqlite import Transaction

TABLES = ("turns", "items", "parts", "rollbacks")
STREAM_TABLES = (
    *(StreamTable(table, "rollout", numbered=True, local=1) for table in TABLES),
    StreamTable("rollouts", "path", local=1),  # behind those that it gives numbers to
)


class Written(NamedTuple):
    """What a piece of a rollout came to; with `anew` it takes the place of all that was written for it before."""

    path: str
    operations: Sequence[Any]
    anew: bool


def write_rollouts(transaction: Transaction, pieces: Sequence[Written]) -> None:
    """Write what pieces of several rollouts came to, many rows a statement."""
    numbers = _numbers_of(transaction, pieces)
    stretch = _Stretch()
    for piece in pieces:
        number = numbers[piece.path]
        for operation in piece.operations:
            if isinstance(operation, RolledBack):
                stretch.write(transaction)
                stretch = _Stretch()
                _roll_back(transaction, number, operation)
                continue
            if isinstance(operation, Begun) and stretch.told_of(number, operation.turn):
                stretch.write(transaction)  # what was told before the turn began is none of its new row's
                stretch = _Stretch()
            stretch.take(number, operation)
    stretch.write(transaction)


def forget_rollouts(transaction: Transaction, paths: Sequence[str]) -> None:
    """Remove all rows of these rollouts."""
    named = {"paths": msgspec.json.encode(list(paths)).decode()}
    numbers = [number for (number,) in transaction.rows(_NUMBERS, named)]
    _clear(transaction, numbers)
    transaction.run("DELETE FROM rollouts WHERE path IN (SELECT value FROM json_each(:paths))", named)


def _numbers_of(transaction: Transaction, pieces: Sequence[Written]) -> dict[str, int]:
    """Their numbers, given now where they had none; nothing is left of what is written anew."""
    named = {"paths": msgspec.json.encode([each.path for each in pieces]).decode()}
    known: dict[str, int] = dict(transaction.rows(_NUMBERED, named))
    if known:
        _clear(transaction, [known[each.path] for each in pieces if each.anew and each.path in known])
    new = [(each.path,) for each in pieces if each.path not in known]
    if not new:
        return known
    transaction.run_many("INSERT INTO rollouts (path) VALUES (?)", new)
    return dict(transaction.rows(_NUMBERED, named))


def _clear(transaction: Transaction, numbers: Sequence[int]) -> None:
    for table in TABLES:
        transaction.run_many(f"DELETE FROM {table} WHERE rollout = ?", [(number,) for number in numbers])  # noqa: S608


class _Turn(Struct):
    """A turn's row that is not written yet; what comes to a turn that has one already is a statement each."""

    rollout: int
    offset: int
    turn: int
    id: str
    ordinal: int | None
    status: int
    started_at_ms: int | None
    end_offset: int | None = None
    completed_at_ms: int | None = None
    duration_ms: int | None = None
    error_offset: int | None = None
    error_length: int | None = None
    first_user: int | None = None
    final_agent: int | None = None
    plain_agent: int | None = None

    def take(self, operation: Said | Failure | Ended) -> None:
        """As `_SAY`, `_FAIL`, `_END` and `_END_LEGACY` have it."""
        if isinstance(operation, Said):
            counts = self.end_offset is None or operation.ended
            if counts and (operation.what != "first_user" or self.first_user is None):
                setattr(self, operation.what, operation.offset)
        elif isinstance(operation, Failure):
            self.status, self.error_offset, self.error_length = FAILED, operation.offset, operation.length
        elif not operation.once or self.end_offset is None:
            self._end(operation)

    def _end(self, ended: Ended) -> None:
        if ended.once or ended.status != COMPLETED or self.status == OPEN:
            self.status = ended.status
        self.end_offset, self.completed_at_ms, self.duration_ms = ended.offset, ended.completed_at_ms, ended.duration_ms
        if self.started_at_ms is None:
            self.started_at_ms = ended.started_at_ms
        if ended.failed:
            self.error_offset, self.error_length = ended.offset, ended.length


class _Stretch:
    """Operations, of any rollouts, between which nothing was rolled back."""

    def __init__(self) -> None:
        self._turns: list[_Turn] = []
        self._newest: dict[tuple[int, int], _Turn] = {}
        self._items: list[tuple[Any, ...]] = []
        self._checked: list[dict[str, Any]] = []
        self._again: list[dict[str, Any]] = []
        self._parts: list[tuple[int, ...]] = []
        self._others: list[tuple[int, Said | Failure | Ended]] = []
        self._told: set[tuple[int, int]] = set()
        """Of which turns the others tell."""

    def told_of(self, number: int, turn: int) -> bool:
        """Whether something is to be written to a row that this turn has already, or has not."""
        return (number, turn) in self._told

    def take(self, number: int, operation: Any) -> None:
        """Take one in, behind all before it."""
        if isinstance(operation, Item):
            if operation.since is None and not operation.late:
                self._items.append(_item_values(number, operation))
            else:
                self._checked.append({"rollout": number, **operation._asdict()})
        elif isinstance(operation, Begun):
            begun = _Turn(number, *operation)
            self._turns.append(begun)
            self._newest[number, operation.turn] = begun
        elif isinstance(operation, Again):
            self._again.append({"rollout": number, **operation._asdict()})
        elif isinstance(operation, Part):
            self._parts.append((number, *operation))
        elif (row := self._newest.get((number, operation.turn))) is not None:
            row.take(operation)
        else:
            self._others.append((number, operation))
            self._told.add((number, operation.turn))

    def write(self, transaction: Transaction) -> None:
        """Turns and items first: they have keys of their own, and what comes after names them."""
        transaction.run_many(_BEGIN, [msgspec.structs.astuple(each) for each in self._turns])
        transaction.run_many(_ADD_ITEM, self._items)
        transaction.run_many(_ADD_CHECKED, self._checked)
        transaction.run_many(_REPLACE, self._again)
        transaction.run_many(_ADD_PART, self._parts)
        for number, operation in self._others:
            if isinstance(operation, Said):
                transaction.run(_SAY[operation.what], {"rollout": number, **operation._asdict()})
            elif isinstance(operation, Failure):
                transaction.run(_FAIL, {"rollout": number, **operation._asdict()})
            else:
                _end(transaction, number, operation)


def _item_values(number: int, item: Item) -> tuple[Any, ...]:
    return (
        number,
        item.offset,
        item.length,
        item.type,
        item.ordinal,
        item.created_at_ms,
        item.turn,
        item.number,
    )


def _end(transaction: Transaction, number: int, ended: Ended) -> None:
    values = {"rollout": number, **ended._asdict()}
    if ended.alone:
        transaction.run(_BEGIN_WITH_END, values)
    transaction.run(_END if ended.once else _END_LEGACY, values)


def _roll_back(transaction: Transaction, number: int, rollback: RolledBack) -> None:
    """Remove the last turns and what is in them, and remember how many items are left."""
    values: dict[str, Any] = {"rollout": number, "offset": rollback.offset}
    if rollback.turns > 0:
        row = transaction.row(_LAST_TURN, {"rollout": number, "skipped": rollback.turns - 1})
        values["start"] = -1 if row is None else row[0]
        for sql in _REMOVE_FROM:
            transaction.run(sql, values)
    transaction.run(_REMEMBER, values)


_NUMBERS = "SELECT number FROM rollouts WHERE path IN (SELECT value FROM json_each(:paths))"

_NUMBERED = "SELECT path, number FROM rollouts WHERE path IN (SELECT value FROM json_each(:paths))"

_BEGIN = """
    INSERT OR REPLACE INTO turns (rollout, "offset", turn, id, ordinal, status, started_at_ms, end_offset, completed_at_ms,
    duration_ms, error_offset, error_length, first_user, final_agent, plain_agent)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_ADD_ITEM = """
    INSERT OR REPLACE INTO items (rollout, "offset", length, type, ordinal, created_at_ms, turn, number)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

_ADD_CHECKED = """
    INSERT OR REPLACE INTO items (rollout, "offset", length, type, ordinal, created_at_ms, turn, number)
    SELECT :rollout, :offset, :length, :type, :ordinal, :created_at_ms, :turn,
        :number + coalesce((SELECT items FROM rollbacks WHERE rollout = :rollout AND "offset" = :since), 0)
    WHERE NOT :late OR EXISTS (SELECT 1 FROM turns WHERE rollout = :rollout AND turn = :turn AND "offset" < :offset)
"""

_REPLACE = """
    UPDATE items SET last_offset = :offset, last_length = :length, type = :type
    WHERE rollout = :rollout AND "offset" = :first
"""

_ADD_PART = 'INSERT OR REPLACE INTO parts (rollout, item, "offset", length) VALUES (?, ?, ?, ?)'

_ITS_ROW = """rollout = :rollout AND "offset" = (
    SELECT max(same."offset") FROM turns AS same WHERE same.rollout = :rollout AND same.turn = :turn
)"""

_SAY = {
    column: f"""
    UPDATE turns SET {column} = :offset
    WHERE {_ITS_ROW} AND (end_offset IS NULL OR :ended) {"AND first_user IS NULL" if column == "first_user" else ""}
"""  # noqa: S608 - names of ours
    for column in ("first_user", "final_agent", "plain_agent")
}

_FAIL = f"""
    UPDATE turns SET status = {FAILED}, error_offset = :offset, error_length = :length WHERE {_ITS_ROW}
"""  # noqa: S608

_BEFORE = 'rollout = :rollout AND turn = :turn AND "offset" < :offset'

_END_VALUES = """
    end_offset = :offset, completed_at_ms = :completed_at_ms, duration_ms = :duration_ms,
    started_at_ms = coalesce(started_at_ms, :started_at_ms),
    error_offset = iif(:failed, :offset, error_offset), error_length = iif(:failed, :length, error_length)
"""

_BEGIN_WITH_END = f"""
    INSERT INTO turns (rollout, "offset", turn, id, ordinal, status, first_user, final_agent, plain_agent)
    SELECT :rollout, :offset, :turn, :id, :ordinal, {OPEN},
        (SELECT min("offset") FROM items WHERE {_BEFORE} AND type = {USER_MESSAGE}),
        (SELECT max("offset") FROM items WHERE {_BEFORE} AND type = {FINAL_AGENT}),
        (SELECT max("offset") FROM items WHERE {_BEFORE} AND type = {PLAIN_AGENT})
    WHERE NOT EXISTS (SELECT 1 FROM turns WHERE rollout = :rollout AND turn = :turn)
"""  # noqa: S608
"""A turn whose beginning is not in the rollout: its items so far were stored by its digest."""

_END = f"""
    UPDATE turns SET {_END_VALUES}, status = :status WHERE {_ITS_ROW} AND end_offset IS NULL
"""  # noqa: S608

_END_LEGACY = f"""
    UPDATE turns SET {_END_VALUES}, status = iif(:status = {COMPLETED} AND status <> {OPEN}, status, :status)
    WHERE {_ITS_ROW}
"""  # noqa: S608
"""A turn that has failed or was interrupted does not become completed."""

_LAST_TURN = """
    SELECT "offset" FROM turns WHERE rollout = :rollout ORDER BY "offset" DESC LIMIT 1 OFFSET :skipped
"""

_REMOVE_FROM = (
    """DELETE FROM items WHERE rollout = :rollout AND turn IN (
        SELECT turn FROM turns WHERE turns.rollout = :rollout AND turns."offset" >= :start
    )""",
    'DELETE FROM items WHERE rollout = :rollout AND "offset" >= :start AND turn IS NULL',
    """DELETE FROM parts WHERE rollout = :rollout AND item >= :start AND NOT EXISTS (
        SELECT 1 FROM items WHERE items.rollout = :rollout AND items."offset" = parts.item
    )""",
    'DELETE FROM turns WHERE rollout = :rollout AND "offset" >= :start',
)

_REMEMBER = """
    INSERT OR REPLACE INTO rollbacks (rollout, "offset", items)
    SELECT :rollout, :offset, count(*) FROM items WHERE rollout = :rollout
"""
