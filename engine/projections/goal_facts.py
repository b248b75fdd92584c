"""Which goals were deleted: the format has no record for that, so the journal tells it, by the goal's id.

A row a goal; it hides the goal whatever the rollouts say of it since.
"""

from __future__ import annotations

from engine.projections.decided import Decided, Decision, Effect, Shape, Values

GOAL_DELETED = "goal_deleted"


def _deleted(decision: Decision) -> list[Effect]:
    thread_id, goal_id = decision.id("thread_id"), decision.text("goal_id")
    if thread_id is None or goal_id is None:
        return []
    values: Values = {"thread_id": thread_id, "goal_id": goal_id, "at_ms": decision.at_ms}
    return [Effect(_DELETION, f"{thread_id} {goal_id}", values)]


_DELETION = """
    INSERT INTO goal_deletions (thread_id, goal_id, deleted_at_ms) VALUES (:thread_id, :goal_id, :at_ms)
    ON CONFLICT (thread_id, goal_id) DO UPDATE SET deleted_at_ms = excluded.deleted_at_ms
"""

GOAL_FACTS = Decided(
    tables=(Shape("goal_deletions", ("thread_id", "goal_id"), ("deleted_at_ms",)),),
    tags={GOAL_DELETED: _deleted},
)
