"""The turns of a paginated rollout: records name their turn, and every item has one of its own.

A turn begins with `task_started` and ends with `task_complete` or `turn_aborted`; an end whose beginning is not in the
rollout makes a turn at its own place. What ended stays as it is, but for items that come late. The first completion of an
item gives it its place, a later one of the same id replaces what it says.

Source: codex_rollout.md 7.6, codex_state.md 9.6; seen in the Codex CLI's own tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from engine.events.kinds import ITEM_COMPLETED
from engine.events.payloads import AgentItemCompleted, ItemCompleted, TaskEnded, TaskStarted, UserItemCompleted
from engine.events.record import Record
from engine.events.thread_items import FINAL_AGENT, PLAIN_AGENT, USER_MESSAGE, type_number
from engine.projections.turn_state import (
    COMPLETED,
    FAILED,
    ID_CHARS_MAX,
    INTERRUPTED,
    OPEN,
    Again,
    Ended,
    Item,
    Said,
    TurnsState,
    record_ms,
    seconds_as_ms,
    whole,
)

Completed = ItemCompleted | AgentItemCompleted | UserItemCompleted

_COMPLETED = msgspec.json.Decoder(ItemCompleted)
_SAID = {USER_MESSAGE: "first_user", FINAL_AGENT: "final_agent", PLAIN_AGENT: "plain_agent"}


def apply_paginated(state: TurnsState, record: Record[Any], kind: str, offset: int) -> bool:
    """Whether the record had an effect. Raises ValueError to have it set aside."""
    rule = _RULES.get(kind)
    if rule is not None:
        return rule(state, record, offset)
    if kind.startswith(ITEM_COMPLETED):
        return _completed(state, completed_of(record), record, kind, offset)
    return False


def completed_of(record: Record[Any]) -> Completed:
    """The payload of a completed item, also of a tag that is not known here."""
    payload = record.payload
    if not isinstance(payload, Raw):
        completed: Completed = payload
        return completed
    try:
        return _COMPLETED.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the item cannot be read: {error}") from None


def type_of(kind: str, completed: Completed) -> int:
    """The number of a completed item's type."""
    item = completed.item
    return type_number(kind, phase=getattr(item, "phase", None), extension=getattr(item, "kind", None))


def created_ms(completed: Completed, record: Record[Any]) -> int | None:
    """When an item began, or was written down."""
    started = whole(completed.started_at_ms)
    return record_ms(record) if started is None else started


def _started(state: TurnsState, record: Record[TaskStarted], offset: int) -> bool:
    turn_id = record.payload.turn_id
    if not turn_id or state.knows(turn := state.digest_of(turn_id)):
        return False
    started = seconds_as_ms(record.payload.started_at)
    at_ms = record_ms(record) if started is None else started
    state.begin(turn_id, turn, record, offset, status=OPEN, at_ms=at_ms)
    return True


def _complete(state: TurnsState, record: Record[TaskEnded], offset: int) -> bool:
    failed = bytes(record.payload.error) not in (b"", b"null")
    return _ended(state, record, offset, FAILED if failed else COMPLETED, failed=failed)


def _aborted(state: TurnsState, record: Record[TaskEnded], offset: int) -> bool:
    return _ended(state, record, offset, INTERRUPTED, failed=False)


def _ended(state: TurnsState, record: Record[TaskEnded], offset: int, status: int, *, failed: bool) -> bool:
    turn_id = record.payload.turn_id
    if not turn_id:
        return False
    turn = state.digest_of(turn_id)
    operation = ended_of(record, offset, state.length, turn, status, failed=failed)
    alone = not state.knows(turn)
    state.operations.append(operation._replace(id=turn_id[:ID_CHARS_MAX], once=True, alone=alone))
    if alone:
        # Whether this made a row depends on turns that are no longer known.
        state.kept.row = None
        state.remember_turn(turn)
    return True


def ended_of(record: Record[TaskEnded], offset: int, length: int, turn: int, status: int, *, failed: bool) -> Ended:
    """The operation that a turn's last record comes to, where the turn has a row and may end more than once."""
    payload = record.payload
    completed = seconds_as_ms(payload.completed_at)
    return Ended(
        offset=offset,
        length=length,
        turn=turn,
        id="",
        ordinal=record.ordinal,
        status=status,
        started_at_ms=seconds_as_ms(payload.started_at),
        completed_at_ms=record_ms(record) if completed is None else completed,
        duration_ms=whole(payload.duration_ms),
        failed=failed,
        once=False,
        alone=False,
    )


def _completed(state: TurnsState, completed: Completed, record: Record[Any], kind: str, offset: int) -> bool:
    turn = state.digest_of(completed.turn_id) if completed.turn_id else state.kept.row
    number = type_of(kind, completed)
    item_id = completed.item.id
    first = None if not item_id else state.remember_item(turn, item_id, offset)
    if first is None:
        state.operations.append(
            Item(
                offset,
                state.length,
                number,
                record.ordinal,
                created_ms(completed, record),
                turn=None if turn == state.kept.row else turn,
            )
        )
    else:
        state.operations.append(Again(first, offset, state.length, number))
    if turn is not None and number in _SAID:
        state.operations.append(Said(_SAID[number], turn, offset if first is None else first, ended=False))
    return True


_RULES: dict[str, Callable[[TurnsState, Record[Any], int], bool]] = {
    "event_msg.task_started": _started,
    "event_msg.task_complete": _complete,
    "event_msg.turn_aborted": _aborted,
}
