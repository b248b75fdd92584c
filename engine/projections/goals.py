"""Goals as rows: what the records of each rollout say last of its thread's goal, and the queries on that.

A part of the threads projection, which asks for the records anyhow: `GoalPart` is what it keeps in its state, the row is
emitted. A thread's goal is the one that its head tells of, else the newest that another of its rollouts does, unless the
journal says that this one was deleted. So a reverted thread keeps its goal, as the Codex CLI has it. `GoalFold` is the
same fold by itself: by it the writing side knows how a goal stands in the file, whatever the rows have followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from engine.events.goals import KIND, Goal, said_by
from engine.events.payloads import GoalUpdated
from engine.events.record import Record, time_ms
from engine.projections.projection import Change, Piece, Stream

if TYPE_CHECKING:
    from engine.stores.sqlite import Transaction, Value

TURN_KIND = "event_msg.task_started"

COLUMNS = (
    "goal_id objective status token_budget tokens_used time_used_seconds created_at_ms updated_at_ms deferred"
).split()
"""Of the table `goals`, behind `stream`."""

_SAID = COLUMNS[:-1]


class GoalPart(Struct, array_like=True):
    """What one rollout said of its thread's goal. Offsets are where records begin.

    `said` are the values of `COLUMNS` but the last; a fold that emits them lets go of them.
    """

    said: list[Any] | None = None
    deferred_at: int | None = None
    turn_at: int | None = None

    @property
    def deferred(self) -> bool:
        """Whether going on was deferred, and no turn has begun since."""
        return self.deferred_at is not None and (self.turn_at is None or self.turn_at < self.deferred_at)

    def take_goal(self, payload: GoalUpdated, thread_id: str, offset: int) -> bool:
        """Fold a record of a goal; whether it was of one of this thread's."""
        goal = said_by(payload, thread_id)
        if goal is None:
            return False
        self.said = [getattr(goal, name) for name in _SAID]
        if payload.deferred is not None:
            self.deferred_at = offset if payload.deferred else None
        return True

    def emit(self) -> list[Any]:
        """What was said since the last time, at most one."""
        said, self.said = self.said, None
        return [] if said is None else [said]


class GoalFold:
    """How the goal of one thread stands in one rollout."""

    name = "goal"
    version = 1
    kinds = frozenset({KIND})
    latest = frozenset({TURN_KIND})

    def __init__(self, thread_id: str) -> None:
        self._thread_id = thread_id

    def start(self, stream: Stream) -> GoalPart:
        return GoalPart()

    def apply(self, state: GoalPart, record: Record[Any], kind: str, offset: int) -> bool:
        if kind == KIND:
            return state.take_goal(record.payload, self._thread_id, offset)
        if time_ms(record.timestamp) is None:
            return False
        state.turn_at = offset
        return True

    def close_piece(self, state: GoalPart, piece: Piece) -> None:
        pass

    def emit(self, state: GoalPart) -> list[Any]:
        return []  # the state keeps it

    def encode(self, state: GoalPart) -> bytes:
        return msgspec.msgpack.encode(state)

    def decode(self, blob: bytes) -> GoalPart:
        return msgspec.msgpack.decode(blob, type=GoalPart)

    def write(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        pass

    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        pass


def goal_of(thread_id: str, values: Sequence[Any]) -> Goal:
    """A goal of the values of `COLUMNS`."""
    *said, deferred = values
    return Goal(thread_id=thread_id, **dict(zip(_SAID, said, strict=True)), continuation_deferred=bool(deferred))


def goal_row(part: GoalPart, emitted: Sequence[Any]) -> tuple[Any, ...] | None:
    """The row that a fold from the beginning came to, in the order of `COLUMNS`; None where no record said anything."""
    return (*emitted[-1], int(part.deferred)) if emitted else None


def newest(goals: Mapping[str, Goal], head: str) -> Goal | None:
    """The goal that counts among those of a thread's rollouts, by their paths: as `_NEWEST` has it."""
    path = max(goals, key=lambda each: (each == head, goals[each].updated_at_ms, each), default=None)
    return None if path is None else goals[path]


def write_goals(transaction: Transaction, changes: Sequence[tuple[Change, GoalPart]]) -> None:
    """The rows of streams that moved."""
    transaction.run_many(_DELETE, [(change.stream.path,) for change, _ in changes if change.anew])
    transaction.run_many(
        _UPSERT,
        [(change.stream.path, *row) for change, part in changes if (row := goal_row(part, change.emitted)) is not None],
    )
    transaction.run_many(
        _DEFER,
        [
            (int(part.deferred), change.stream.path)
            for change, part in changes
            if part.deferred_at is not None and not change.emitted
        ],
    )


def forget_goals(transaction: Transaction, paths: Sequence[str]) -> None:
    """Remove the rows of streams that are gone."""
    transaction.run_many(_DELETE, [(path,) for path in paths])


def get_goal(transaction: Transaction, thread_id: str) -> Goal | None:
    """A thread's goal."""
    row = transaction.row(_GOAL, {"thread_id": thread_id.lower()})
    return None if row is None or row[-1] else goal_of(row[0], row[1:-1])


def list_goals(transaction: Transaction, *, status: str | None, limit: int) -> list[Goal]:
    """The goals of all threads, or those of one status, newest first; `limit` 0 is all."""
    values: dict[str, Value] = {"status": status, "limit": limit or -1}
    return [goal_of(thread_id, row) for thread_id, *row in transaction.rows(_ALL, values)]


def deleted_goals(transaction: Transaction, thread_id: str) -> set[str]:
    """The ids of a thread's goals that were deleted."""
    rows = transaction.rows("SELECT goal_id FROM goal_deletions WHERE thread_id = :id", {"id": thread_id})
    return {goal_id for (goal_id,) in rows}


_DELETE = "DELETE FROM goals WHERE stream = ?"
_DEFER = "UPDATE goals SET deferred = ? WHERE stream = ?"

_UPSERT = f"""
    INSERT INTO goals (stream, {", ".join(COLUMNS)}) VALUES (?, {", ".join("?" * len(COLUMNS))})
    ON CONFLICT (stream) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in COLUMNS)}
"""  # noqa: S608 - the names are ours

_VALUES = ", ".join(f"goals.{name}" for name in COLUMNS)
_IS_DELETED = "SELECT 1 FROM goal_deletions AS deleted WHERE deleted.thread_id = streams.thread_id"
_NEWEST = "streams.path = threads.rollout_path DESC, goals.updated_at_ms DESC, streams.path DESC"

_GOAL = f"""
    SELECT streams.thread_id, {_VALUES}, EXISTS ({_IS_DELETED} AND deleted.goal_id = goals.goal_id)
    FROM streams JOIN goals ON goals.stream = streams.path JOIN threads ON threads.id = streams.thread_id
    WHERE streams.thread_id = :thread_id ORDER BY {_NEWEST} LIMIT 1
"""  # noqa: S608 - the names are ours

_ALL = f"""
    SELECT thread_id, {", ".join(COLUMNS)} FROM (
        SELECT streams.thread_id AS thread_id, {_VALUES},
        row_number() OVER (PARTITION BY streams.thread_id ORDER BY {_NEWEST}) AS place
        FROM goals JOIN streams ON streams.path = goals.stream JOIN threads ON threads.id = streams.thread_id
    ) AS told
    WHERE place = 1 AND (:status IS NULL OR status = :status) AND NOT EXISTS (
        SELECT 1 FROM goal_deletions AS deleted WHERE deleted.thread_id = told.thread_id AND deleted.goal_id = told.goal_id
    )
    ORDER BY updated_at_ms DESC, thread_id DESC LIMIT :limit
"""  # noqa: S608 - the names are ours
