"""The words of the format: which kinds of records there are.

A record's kind is its `type`, or `type.payload_type` where the payload carries a tag (`event_msg.token_count`), or
`event_msg.item_completed.UserMessage` where it completes an item. A kind that is not listed here is no error: it is kept,
counted as unknown, and passed over. Source: the format's own lists, codex_rollout.md 2, 2.3, 2.4.
"""

from __future__ import annotations

TAGGED_TYPES = frozenset({"event_msg", "response_item", "retained_context", "realtime_item"})
"""Types whose payload carries its own `type`."""

ITEM_COMPLETED = "event_msg.item_completed"
"""The kind whose third part is the tag of the item that it completes."""

ALIASES = {"event_msg.task_started": "turn_started", "event_msg.task_complete": "turn_complete"}
"""Kinds with a second tag that means the same; records of it count as the kind itself."""

PLAIN_TYPES = frozenset(
    "session_meta turn_context compacted world_state security_risk_score token_usage_record "
    "inter_agent_communication inter_agent_communication_metadata".split()
)

EVENTS = frozenset(
    "error warning guardian_warning realtime_conversation_started realtime_conversation_realtime "
    "realtime_conversation_closed realtime_conversation_sdp model_reroute model_verification turn_moderation_metadata "
    "safety_buffering context_compacted thread_rolled_back task_started turn_started thread_settings_applied "
    "task_complete turn_complete token_count agent_message user_message agent_reasoning agent_reasoning_raw_content "
    "agent_reasoning_section_break session_configured environment_connected environment_disconnected "
    "thread_goal_updated thread_queue_changed mcp_startup_update mcp_startup_complete mcp_tool_call_begin "
    "mcp_tool_call_end web_search_begin web_search_end image_generation_begin image_generation_end exec_command_begin "
    "exec_command_output_delta terminal_interaction exec_command_end view_image_tool_call exec_approval_request "
    "request_permissions request_user_input dynamic_tool_call_request dynamic_tool_call_response elicitation_request "
    "apply_patch_approval_request guardian_assessment deprecation_notice stream_error patch_apply_begin "
    "patch_apply_updated patch_apply_end turn_diff realtime_conversation_list_voices_response plan_update turn_aborted "
    "shutdown_complete entered_review_mode exited_review_mode raw_response_item raw_response_completed item_started "
    "item_completed hook_started hook_completed agent_message_content_delta plan_delta reasoning_content_delta "
    "reasoning_raw_content_delta collab_agent_spawn_begin collab_agent_spawn_end collab_agent_interaction_begin "
    "collab_agent_interaction_end collab_waiting_begin collab_waiting_end collab_close_begin collab_close_end "
    "collab_resume_begin collab_resume_end sub_agent_activity auth_recovery_started auth_recovery_completed "
    # Retired names that files of older releases hold.
    "thread_name_updated undo_started undo_completed background_event get_history_entry_response "
    "mcp_list_tools_response list_skills_response agent_message_delta agent_reasoning_delta "
    "agent_reasoning_raw_content_delta skills_update_available add_credits_nudge_email_response "
    "injected_message".split()
)

RESPONSE_ITEMS = frozenset(
    "message agent_message reasoning local_shell_call function_call function_call_output tool_search_call "
    "tool_search_output custom_tool_call custom_tool_call_output web_search_call image_generation_call compaction "
    "compaction_summary context_compaction compaction_trigger additional_tools configuration_update "
    "ghost_snapshot".split()
)

TURN_ITEMS = frozenset(
    "UserMessage HookPrompt AgentMessage Plan Reasoning CommandExecution DynamicToolCall CollabAgentToolCall "
    "SubAgentActivity WebSearch ImageView Extension ImageGeneration EnteredReviewMode ExitedReviewMode FileChange "
    "McpToolCall ContextCompaction FunctionCallOutput Sleep".split()
)

_OTHER_TAGGED = frozenset({"retained_context.verified_answer"}) | {
    f"realtime_item.{tag}"
    for tag in ("realtime_session_started", "transcript_segment", "bem_item_promoted", "realtime_session_closed")
}

KNOWN = (
    PLAIN_TYPES
    | {f"event_msg.{tag}" for tag in EVENTS}
    | {f"response_item.{tag}" for tag in RESPONSE_ITEMS}
    | {f"{ITEM_COMPLETED}.{tag}" for tag in TURN_ITEMS}
    | _OTHER_TAGGED
)
"""Every kind that this release can name. Membership changes what is counted, never what is kept."""


def above(kind: str) -> tuple[str, ...]:
    """The kinds that a kind is one of: `event_msg.item_completed` and `event_msg` for an item's."""
    parts = kind.split(".")
    return tuple(".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
