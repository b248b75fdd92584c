"""What the Codex CLI's turns, goals and names say of a rollout, beside the rollout.

Its turns are a projection that goes on from a byte and an ordinal. Behind the file's end, or where the next record has
another number than it waits for, it stops for good: what follows is never shown. A line that it cannot decode may stand
for one number. Its goals are counted on without a record, so a row may be younger than the last record, and never older.

Source: codex_rollout.md 7.6, codex_state.md 7 and 9.6.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from engine.audit.foreign_tables import TEXT_CHARS_MAX, GoalRow, Projection
from engine.events.kinds import KNOWN
from engine.events.payloads import GoalUpdated
from engine.events.record import Rejected, decode, decode_as, kind_of
from engine.events.skim import Skim
from engine.options import Options
from engine.stores.rollouts import Damage, Source, blocks, line_of, records

GOAL_KIND = "event_msg.thread_goal_updated"
_SKIM = Skim((GOAL_KIND,))
_STATUSES = {"usageLimited": "usage_limited", "budgetLimited": "budget_limited"}


class Stopped(NamedTuple):
    """Where a projection cannot go on, and why."""

    offset: int
    message: str


class SeenGoal(NamedTuple):
    """The last goal record of a thread in one rollout, in the words of `GoalRow`; times in Unix seconds."""

    objective: str
    status: str
    token_budget: int | None
    created_at: int
    updated_at: int


def next_stop(source: Source, at: Projection, end: int, last_ordinal: int | None, options: Options) -> Stopped | None:
    """Whether the projection will refuse what comes next in its rollout, whose whole records end at `end`."""
    if at.offset > 0 and not source.read_at(at.offset - 1, 1):
        return Stopped(at.offset, f"it stands at byte {at.offset}, and the rollout ends before that")
    pending = 0
    for each in records(source, at.offset, None, options):
        if isinstance(each, Damage) or (each.record.ordinal is None and kind_of(each.record) not in KNOWN):
            pending += 1
            continue
        ordinal = each.record.ordinal
        if ordinal is None:
            return Stopped(each.offset, "the record there has no number")
        if not at.ordinal <= ordinal <= at.ordinal + pending:
            return Stopped(each.offset, f"the record there has number {ordinal}, and it waits for {at.ordinal}")
        return None
    if at.offset == end and last_ordinal is not None and at.ordinal != last_ordinal + 1:
        message = f"it waits for number {at.ordinal}, and the next record will have {last_ordinal + 1}"
        return Stopped(at.offset, message)
    return None


def last_goal(source: Source, thread_id: str, options: Options) -> SeenGoal | None:
    """The newest goal record that is the thread's own: a fork may hold copies of its parent's."""
    newest: SeenGoal | None = None
    for block in blocks(source, 0, None, options):
        if block.passed:
            continue
        for hit in _SKIM.scan(block.data, 0, block.end).hits:
            line = line_of(block, hit.start, hit.end)
            try:
                if hit.kind is not None or kind_of(decode(line)) == GOAL_KIND:
                    newest = _goal_of(decode_as(line, GOAL_KIND).payload, thread_id) or newest
            except Rejected:
                continue
    return newest


def is_older(row: GoalRow, seen: SeenGoal) -> bool:
    """Whether a row was written before the record, and says something else."""
    said = (seen.objective[:TEXT_CHARS_MAX], seen.status, seen.token_budget)
    before = (row.created_at_ms // 1000, row.updated_at_ms // 1000) < (seen.created_at, seen.updated_at)
    return before and said != (row.objective, row.status, row.token_budget)


def _goal_of(payload: Any, thread_id: str) -> SeenGoal | None:
    if not isinstance(payload, GoalUpdated) or payload.goal is None or payload.goal.objective is None:
        return None
    if payload.thread_id is not None and payload.thread_id.lower() != thread_id:
        return None
    goal = payload.goal
    status = goal.status or ""
    created = goal.created_at or 0
    return SeenGoal(
        goal.objective or "", _STATUSES.get(status, status), goal.token_budget, created, goal.updated_at or created
    )
