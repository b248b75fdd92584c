"""Which items a rollout keeps, by its history mode.

A pure table; unknown items are kept, because what this release cannot name may matter to the one that wrote it.
Source: codex_rollout.md 3.1 (with what 0.169 adds).
"""

from __future__ import annotations

from functools import lru_cache

from engine.events.kinds import EVENTS, ITEM_COMPLETED

LEGACY = "legacy"
PAGINATED = "paginated"

_BOTH = frozenset(
    f"event_msg.{tag}"
    for tag in (
        "token_count thread_goal_updated thread_rolled_back turn_aborted task_started task_complete turn_started "
        "turn_complete thread_settings_applied"
    ).split()
)
_LEGACY_ONLY = frozenset(
    f"event_msg.{tag}"
    for tag in (
        "user_message agent_message agent_reasoning agent_reasoning_raw_content entered_review_mode "
        "exited_review_mode patch_apply_end context_compacted mcp_tool_call_end web_search_end image_generation_end "
        "sub_agent_activity"
    ).split()
)
_LEGACY_ITEMS = frozenset(f"{ITEM_COMPLETED}.{tag}" for tag in ("Plan", "Sleep", "FunctionCallOutput"))
_NEVER = frozenset({"response_item.compaction_trigger"})
_KNOWN_EVENTS = frozenset(f"event_msg.{tag}" for tag in EVENTS)


@lru_cache(maxsize=1024)  # asked for every item of every append, and there are few kinds
def is_persisted(kind: str, mode: str) -> bool:
    """Whether an item of this kind is written to a rollout of this mode; deltas, begins and approvals are not."""
    if kind in _NEVER or (kind.startswith("realtime_item") and mode == LEGACY):
        return False
    if kind == ITEM_COMPLETED or kind.startswith(f"{ITEM_COMPLETED}."):
        return mode == PAGINATED or kind in _LEGACY_ITEMS
    if kind not in _KNOWN_EVENTS:
        return True
    return kind in _BOTH or (mode == LEGACY and kind in _LEGACY_ONLY)
