"""The turns of a legacy rollout, told from the events of a conversation as they come.

A turn is explicit (`task_started` begins it) or implicit (something was said outside of one). A user message goes into an
explicit turn, and ends an implicit one. The end of a turn closes it; a late end of a turn that was left behind does not
touch the one at hand. `thread_rolled_back` takes the last turns back. Items without an id of their own are numbered.

Source: codex_rollout.md 7.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.events.kinds import ITEM_COMPLETED
from engine.events.payloads import (
    CALLS,
    AgentMessage,
    Call,
    Failed,
    ItemCompleted,
    Mark,
    Reasoning,
    Review,
    TaskEnded,
    TaskStarted,
    ThreadRolledBack,
    UserMessage,
)
from engine.events.record import Record
from engine.events.thread_items import REASONING, USER_MESSAGE, type_number
from engine.projections.turn_paginated import completed_of, created_ms, ended_of, type_of
from engine.projections.turn_state import (
    COMPLETED,
    FAILED,
    INTERRUPTED,
    OPEN,
    Again,
    Current,
    Failure,
    Item,
    Part,
    RolledBack,
    Said,
    TurnsState,
    record_ms,
    seconds_as_ms,
)

TURNS_MAX = 1 << 31
"""More turns than that are all."""

_LIFECYCLE_ITEMS = frozenset(
    f"{ITEM_COMPLETED}.{tag}"
    for tag in (
        "Plan HookPrompt CommandExecution DynamicToolCall CollabAgentToolCall SubAgentActivity Extension Sleep "
        "EnteredReviewMode ExitedReviewMode FunctionCallOutput"
    ).split()
)
"""Items that legacy rollouts tell of by `item_completed`; of all others there are events of their own."""

_HARMLESS_ERRORS = (b"thread_rollback_failed", b"active_turn_not_steerable")


def apply_legacy(state: TurnsState, record: Record[Any], kind: str, offset: int) -> bool:
    """Whether the record had an effect. Raises ValueError to have it set aside."""
    rule = _RULES.get(kind)
    if rule is not None:
        return rule(state, record, offset)
    if kind in CALLS:
        return _called(state, record, kind, offset)
    if kind in _LIFECYCLE_ITEMS:
        return _completed(state, record, kind, offset)
    return False


def _started(state: TurnsState, record: Record[TaskStarted], offset: int) -> bool:
    kept, turn_id = state.kept, record.payload.turn_id
    if not turn_id:
        return False
    turn = state.digest_of(turn_id)
    if kept.current is not None and kept.current.turn == turn:
        return False
    if turn not in kept.turns:
        started = seconds_as_ms(record.payload.started_at)
        at_ms = record_ms(record) if started is None else started
        state.begin(turn_id, turn, record, offset, status=OPEN, at_ms=at_ms)
    kept.current = Current(turn, explicit=True)
    return True


def _complete(state: TurnsState, record: Record[TaskEnded], offset: int) -> bool:
    failed = bytes(record.payload.error) not in (b"", b"null")
    turn_id = record.payload.turn_id
    if not turn_id:
        return False
    turn, current = state.digest_of(turn_id), state.kept.current
    if current is not None and (turn == current.turn or turn not in state.kept.turns):
        turn = current.turn
        state.kept.current = None
    elif turn not in state.kept.turns:
        return False
    status = FAILED if failed else COMPLETED
    state.operations.append(ended_of(record, offset, state.length, turn, status, failed=failed))
    return True


def _aborted(state: TurnsState, record: Record[TaskEnded], offset: int) -> bool:
    turn_id, current = record.payload.turn_id or "", state.kept.current
    turn = state.digest_of(turn_id)
    if not turn_id or (turn not in state.kept.turns and current is not None and not current.explicit):
        if current is None:
            return False
        turn = current.turn
    elif turn not in state.kept.turns:
        return False
    state.operations.append(ended_of(record, offset, state.length, turn, INTERRUPTED, failed=False))
    return True


def _user(state: TurnsState, record: Record[UserMessage], offset: int) -> bool:
    current = state.kept.current
    if current is not None and not current.explicit and current.items:
        current = None
    if current is None:
        current = _begin_implicit(state, record, offset)
    _add(state, record, offset, USER_MESSAGE)
    state.operations.append(Said("first_user", current.turn, offset, ended=True))
    return True


def _agent(state: TurnsState, record: Record[AgentMessage], offset: int) -> bool:
    if not record.payload.message:
        return False
    current = _ensure(state, record, offset)
    _add(state, record, offset, type_number("event_msg.agent_message", phase=record.payload.phase))
    state.operations.append(Said("final_agent", current.turn, offset, ended=True))
    return True


def _reasoned(state: TurnsState, record: Record[Reasoning], offset: int) -> bool:
    if not record.payload.text:
        return False
    current = _ensure(state, record, offset)
    if current.reasoning is not None:
        state.operations.append(Part(current.reasoning, offset, state.length))
        return True
    _add(state, record, offset, REASONING)
    current.reasoning = offset
    return True


def _compacted(state: TurnsState, record: Record[Mark], offset: int) -> bool:
    """The record of a compaction keeps its turn, though nothing else may be in it; the event of it is an item."""
    if state.kept.current is not None:
        return False
    _begin_implicit(state, record, offset)
    return True


def _compaction_told(state: TurnsState, record: Record[Mark], offset: int) -> bool:
    _add(state, record, offset, type_number("event_msg.context_compacted"))
    return True


def _error(state: TurnsState, record: Record[Failed], offset: int) -> bool:
    current, info = state.kept.current, bytes(record.payload.codex_error_info)
    if current is None or any(each in info[:64] for each in _HARMLESS_ERRORS):
        return False
    state.operations.append(Failure(current.turn, offset, state.length))
    return True


def _rolled_back(state: TurnsState, record: Record[ThreadRolledBack], offset: int) -> bool:
    kept = state.kept
    turns = min(max(record.payload.num_turns, 0), TURNS_MAX)
    state.operations.append(RolledBack(offset, turns))
    del kept.turns[max(len(kept.turns) - turns, 0) :]
    kept.current = kept.row = None
    kept.items.clear()
    kept.number, kept.since = 0, offset
    return True


def _entered_review(state: TurnsState, record: Record[Review], offset: int) -> bool:
    turn_id, current = record.payload.turn_id, state.kept.current
    if turn_id and state.digest_of(turn_id) not in state.kept.turns and (current is None or not current.explicit):
        _begin_implicit(state, record, offset, turn_id)
    return _reviewed(state, record, offset, "event_msg.entered_review_mode")


def _exited_review(state: TurnsState, record: Record[Review], offset: int) -> bool:
    return _reviewed(state, record, offset, "event_msg.exited_review_mode")


def _reviewed(state: TurnsState, record: Record[Review], offset: int, kind: str) -> bool:
    review = record.payload
    turn = state.digest_of(review.turn_id) if review.turn_id else None
    named = None if turn not in state.kept.turns else turn
    _add(state, record, offset, type_number(kind), turn=named, item_id=review.item_id)
    return True


def _called(state: TurnsState, record: Record[Call], kind: str, offset: int) -> bool:
    call = record.payload
    item_id = call.call_id or call.event_id or call.target_item_id
    if not item_id:
        return False
    turn = state.digest_of(call.turn_id) if call.turn_id else None
    _add(state, record, offset, type_number(kind), turn=turn, item_id=item_id)
    return True


def _completed(state: TurnsState, record: Record[ItemCompleted], kind: str, offset: int) -> bool:
    completed = completed_of(record)
    if kind.endswith(".Plan") and not getattr(completed.item, "text", None):
        return False
    turn = state.digest_of(completed.turn_id) if completed.turn_id else None
    at_ms = created_ms(completed, record)
    _add(state, record, offset, type_of(kind, completed), turn=turn, item_id=completed.item.id, at_ms=at_ms)
    return True


def _add(
    state: TurnsState,
    record: Record[Any],
    offset: int,
    number: int,
    *,
    turn: int | None = None,
    item_id: str | None = None,
    at_ms: int | None = None,
) -> None:
    """An item of the turn that it names, else of the one at hand. Of a turn that is not there it is dropped when written."""
    kept = state.kept
    current = kept.current if turn is not None else _ensure(state, record, offset)
    if current is not None and turn in (None, current.turn):
        turn = current.turn
        current.items, current.reasoning = True, None
    else:
        current = None
    is_known = current is not None or turn in kept.turns
    if not item_id and not is_known:
        return  # it would take a number, and whether it is dropped is not known here
    if item_id and is_known:
        first = state.remember_item(turn, item_id, offset)
        if first is not None:
            state.operations.append(Again(first, offset, state.length, number))
            return
    if not item_id:
        kept.number += 1
    state.operations.append(
        Item(
            offset=offset,
            length=state.length,
            type=number,
            ordinal=record.ordinal,
            created_at_ms=record_ms(record) if at_ms is None else at_ms,
            turn=None if current is not None and turn == kept.row else turn,
            number=None if item_id else kept.number,
            since=None if item_id else kept.since,
            late=current is None,
        )
    )


def _ensure(state: TurnsState, record: Record[Any], offset: int) -> Current:
    return state.kept.current or _begin_implicit(state, record, offset)


def _begin_implicit(state: TurnsState, record: Record[Any], offset: int, turn_id: str | None = None) -> Current:
    """A turn that nobody announced: it has the number of the record that it begins with, and counts as completed."""
    turn_id = turn_id or f"rollout-{state.kept.records + state.before}"
    turn = state.digest_of(turn_id)
    state.begin(turn_id, turn, record, offset, status=COMPLETED, at_ms=record_ms(record))
    state.kept.current = Current(turn, explicit=False)
    return state.kept.current


_RULES: dict[str, Callable[[TurnsState, Record[Any], int], bool]] = {
    "event_msg.task_started": _started,
    "event_msg.task_complete": _complete,
    "event_msg.turn_aborted": _aborted,
    "event_msg.user_message": _user,
    "event_msg.agent_message": _agent,
    "event_msg.agent_reasoning": _reasoned,
    "event_msg.agent_reasoning_raw_content": _reasoned,
    "event_msg.entered_review_mode": _entered_review,
    "event_msg.exited_review_mode": _exited_review,
    "event_msg.context_compacted": _compaction_told,
    "compacted": _compacted,
    "event_msg.error": _error,
    "event_msg.thread_rolled_back": _rolled_back,
}

LEGACY_KINDS = frozenset(_RULES) | CALLS
