"""Write the turns and items of a rollout: each operation of a fold, in the order of the records.

What one operation does to the rows depends on the rows that the operations before it left, never on where a piece ended.
So operations that do not concern each other are written together, many rows a statement; only a rollback parts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

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

T = TypeVar("T")
TABLES = ("turns", "items", "parts", "rollbacks")
STREAM_TABLES = (
    *(StreamTable(table, "rollout", numbered=True, local=1) for table in TABLES),
    StreamTable("rollouts", "path", local=1),  # behind those that it gives numbers to
)


def write_rollout(transaction: Transaction, path: str, operations: Sequence[Any], *, anew: bool) -> None:
    """Write what a piece of a rollout came to; with `anew` in place of all that was written for it before."""
    number = _number_of(transaction, path)
    if anew:
        _clear(transaction, [number])
    for stretch, rollback in _stretches(operations):
        _write_stretch(transaction, number, stretch)
        if rollback is not None:
            _roll_back(transaction, number, rollback)


def forget_rollouts(transaction: Transaction, paths: Sequence[str]) -> None:
    """Remove all rows of these rollouts."""
    named = {"paths": msgspec.json.encode(list(paths)).decode()}
    numbers = [number for (number,) in transaction.rows(_NUMBERS, named)]
    _clear(transaction, numbers)
    transaction.run("DELETE FROM rollouts WHERE path IN (SELECT value FROM json_each(:paths))", named)


def _number_of(transaction: Transaction, path: str) -> int:
    transaction.run("INSERT INTO rollouts (path) VALUES (:path) ON CONFLICT (path) DO NOTHING", {"path": path})
    row = transaction.row("SELECT number FROM rollouts WHERE path = :path", {"path": path})
    assert row is not None
    number: int = row[0]
    return number


def _clear(transaction: Transaction, numbers: Sequence[int]) -> None:
    for table in TABLES:
        transaction.run_many(f"DELETE FROM {table} WHERE rollout = ?", [(number,) for number in numbers])  # noqa: S608


def _stretches(operations: Sequence[Any]) -> Iterator[tuple[list[Any], RolledBack | None]]:
    stretch: list[Any] = []
    for operation in operations:
        if isinstance(operation, RolledBack):
            yield stretch, operation
            stretch = []
        else:
            stretch.append(operation)
    yield stretch, None


def _write_stretch(transaction: Transaction, number: int, operations: Sequence[Any]) -> None:
    """Turns and items first: they have keys of their own, and what comes after names them."""
    transaction.run_many(
        _BEGIN, [(number, each.offset, each.turn, *each[2:]) for each in _of(operations, Begun)]
    )  # fmt: skip
    items = _of(operations, Item)
    transaction.run_many(
        _ADD_ITEM, [_item_values(number, each) for each in items if each.since is None and not each.late]
    )
    transaction.run_many(_ADD_CHECKED, [
        {"rollout": number, **each._asdict()} for each in items if each.since is not None or each.late
    ])  # fmt: skip
    transaction.run_many(_REPLACE, [
        {"rollout": number, **each._asdict()} for each in _of(operations, Again)
    ])  # fmt: skip
    transaction.run_many(_ADD_PART, [(number, *each) for each in _of(operations, Part)])
    said: dict[tuple[str, int], Said] = {}
    for each in operations:
        if isinstance(each, Said):
            # Of a turn's messages the first of the user and the last of the agent count; an end comes in between.
            if each.what != "first_user" or (each.what, each.turn) not in said:
                said[each.what, each.turn] = each
        elif isinstance(each, Failure):
            transaction.run(_FAIL, {"rollout": number, **each._asdict()})
        elif isinstance(each, Ended):
            _say(transaction, number, said)
            _end(transaction, number, each)
    _say(transaction, number, said)


def _say(transaction: Transaction, number: int, said: dict[tuple[str, int], Said]) -> None:
    for each in said.values():
        transaction.run(_SAY[each.what], {"rollout": number, **each._asdict()})
    said.clear()


def _of(operations: Sequence[Any], wanted: type[T]) -> list[T]:
    return [each for each in operations if isinstance(each, wanted)]


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

_BEGIN = """
    INSERT OR REPLACE INTO turns (rollout, "offset", turn, id, ordinal, status, started_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)
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
