"""Which kinds are written, kind by kind, as the format's own writer chooses (its table, written down here)."""

from __future__ import annotations

import pytest

from engine.events.kinds import EVENTS, KNOWN, RESPONSE_ITEMS, TURN_ITEMS
from engine.events.policy import LEGACY, PAGINATED, is_persisted

BOTH = (
    "token_count thread_goal_updated thread_rolled_back turn_aborted task_started task_complete thread_settings_applied"
).split()
LEGACY_ONLY = (
    "user_message agent_message agent_reasoning agent_reasoning_raw_content entered_review_mode exited_review_mode "
    "patch_apply_end context_compacted mcp_tool_call_end web_search_end image_generation_end sub_agent_activity"
).split()
NEITHER = (
    "error warning exec_command_begin exec_command_end exec_command_output_delta exec_approval_request "
    "agent_message_delta agent_message_content_delta item_started turn_diff plan_update patch_apply_begin "
    "collab_waiting_end session_configured shutdown_complete stream_error raw_response_item thread_name_updated"
).split()


@pytest.mark.parametrize("tag", BOTH)
def test_what_both_modes_keep(tag: str) -> None:
    assert is_persisted(f"event_msg.{tag}", LEGACY)
    assert is_persisted(f"event_msg.{tag}", PAGINATED)


@pytest.mark.parametrize("tag", LEGACY_ONLY)
def test_what_only_legacy_rollouts_keep(tag: str) -> None:
    """A paginated rollout has the completed item instead."""
    assert is_persisted(f"event_msg.{tag}", LEGACY)
    assert not is_persisted(f"event_msg.{tag}", PAGINATED)


@pytest.mark.parametrize("tag", NEITHER)
def test_what_no_rollout_keeps(tag: str) -> None:
    assert not is_persisted(f"event_msg.{tag}", LEGACY)
    assert not is_persisted(f"event_msg.{tag}", PAGINATED)


def test_of_the_known_events_the_table_keeps_these_and_no_others() -> None:
    kept = {mode: {tag for tag in EVENTS if is_persisted(f"event_msg.{tag}", mode)} for mode in (LEGACY, PAGINATED)}
    assert kept[LEGACY] == {*BOTH, *LEGACY_ONLY, "turn_started", "turn_complete"}
    assert kept[PAGINATED] == {*BOTH, "turn_started", "turn_complete", "item_completed"}


def test_a_paginated_rollout_keeps_every_completed_item_and_a_legacy_one_few() -> None:
    legacy = {tag for tag in TURN_ITEMS if is_persisted(f"event_msg.item_completed.{tag}", LEGACY)}
    assert legacy == {"Plan", "Sleep", "FunctionCallOutput"}
    for tag in [*TURN_ITEMS, "FromTheFuture"]:
        assert is_persisted(f"event_msg.item_completed.{tag}", PAGINATED)
    assert not is_persisted("event_msg.item_completed.FromTheFuture", LEGACY)


@pytest.mark.parametrize("mode", [LEGACY, PAGINATED])
def test_response_items_are_kept_but_for_the_trigger(mode: str) -> None:
    dropped = {tag for tag in RESPONSE_ITEMS if not is_persisted(f"response_item.{tag}", mode)}
    assert dropped == {"compaction_trigger"}


def test_realtime_items_are_kept_in_paginated_rollouts_alone() -> None:
    kinds = [kind for kind in KNOWN if kind.startswith("realtime_item.")]
    assert len(kinds) == 4
    assert all(is_persisted(kind, PAGINATED) and not is_persisted(kind, LEGACY) for kind in kinds)


@pytest.mark.parametrize("kind", ["from_the_future", "event_msg.from_the_future", "response_item.new", "event_msg"])
@pytest.mark.parametrize("mode", [LEGACY, PAGINATED])
def test_what_nobody_knows_is_kept(kind: str, mode: str) -> None:
    assert is_persisted(kind, mode)


@pytest.mark.parametrize("kind", ["session_meta", "turn_context", "compacted", "world_state", "token_usage_record"])
@pytest.mark.parametrize("mode", [LEGACY, PAGINATED])
def test_what_every_rollout_keeps(kind: str, mode: str) -> None:
    assert is_persisted(kind, mode)
