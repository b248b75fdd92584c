"""Typed payloads of the kinds that a projection folds; all other payloads stay raw.

Each struct names only the fields that somebody uses: skipping the rest is what makes decoding fast. Every field but an
identity is optional, since old releases did not write it; keys that are not named are skipped, never an error. Values
that are stored as JSON text (`sandbox_policy`, `approval_policy`, `source`) stay `Raw`, so decimals survive; an empty
`Raw` is a field that is not there (msgspec cannot hold `Raw | None`).

Source: codex_rollout.md 2.1 to 2.3 and Appendix B.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from engine.events.kinds import ITEM_COMPLETED, TURN_ITEMS

ORDINAL_MAX = (1 << 63) - 1
"""The largest number of a record that a signed column can hold; no file comes near it."""


class Git(Struct):
    """Where the working folder stood. `{}` means: explicitly cleared."""

    commit_hash: str | None = None
    branch: str | None = None
    repository_url: str | None = None


class HistoryBase(Struct):
    """Where a fork or a revert begins. `thread_id` holds the base's *rollout* id."""

    thread_id: str
    end_ordinal_exclusive: int | None = None
    end_byte_offset: int | None = None


class SessionMeta(Struct):
    """Who a thread is. The first one of a file is its identity; later ones of the same id only update."""

    id: str
    session_id: str | None = None
    timestamp: str | None = None
    cwd: str | None = None
    originator: str | None = None
    cli_version: str | None = None
    source: Raw = Raw()
    thread_source: str | None = None
    agent_nickname: str | None = None
    agent_role: str | None = None
    agent_type: str | None = None
    agent_path: str | None = None
    model_provider: str | None = None
    memory_mode: str | None = None
    history_mode: str | None = None
    forked_from_id: str | None = None
    parent_thread_id: str | None = None
    history_base: HistoryBase | None = None
    attached_thread: bool | None = None
    subagent_history_start_ordinal: Annotated[int, Meta(ge=0, le=ORDINAL_MAX)] | None = None
    rolloutdb: Raw = Raw()
    git: Git | UnsetType | None = UNSET


class TurnContext(Struct):
    """Under which settings a turn ran."""

    cwd: str | None = None
    model: str | None = None
    effort: str | None = None
    approval_policy: Raw = Raw()
    permission_profile: Raw = Raw()
    sandbox_policy: Raw = Raw()


class ThreadSettings(Struct):
    """The settings in force after somebody changed them."""

    model: str | None = None
    model_provider_id: str | None = None
    cwd: str | None = None
    reasoning_effort: str | None = None
    approval_policy: Raw = Raw()
    permission_profile: Raw = Raw()
    sandbox_policy: Raw = Raw()


class ThreadSettingsApplied(Struct):
    """`event_msg.thread_settings_applied`."""

    thread_settings: ThreadSettings


class TokenUsage(Struct):
    """How many tokens; only the total is stored."""

    total_tokens: int | float | None = None


class TokenInfo(Struct):
    """The running totals of a thread."""

    total_token_usage: TokenUsage | None = None


class TokenCount(Struct):
    """`event_msg.token_count`; one without info says nothing about tokens (rate limits only)."""

    info: TokenInfo | None = None


class TaskStarted(Struct):
    """`event_msg.task_started` (alias `turn_started`). Times here are Unix seconds."""

    turn_id: str | None = None
    started_at: int | float | None = None


class TaskEnded(Struct):
    """`event_msg.task_complete` (alias `turn_complete`), and `event_msg.turn_aborted`, which has no error."""

    turn_id: str | None = None
    error: Raw = Raw()
    started_at: int | float | None = None
    completed_at: int | float | None = None
    duration_ms: int | float | None = None


class ThreadRolledBack(Struct):
    """`event_msg.thread_rolled_back`: the last turns count no more."""

    num_turns: int = 0


class Failed(Struct):
    """`event_msg.error`."""

    codex_error_info: Raw = Raw()


class Mark(Struct):
    """A record whose being there is all that is looked at."""


class AgentMessage(Struct):
    """`event_msg.agent_message`."""

    message: str = ""
    phase: str | None = None


class Reasoning(Struct):
    """`event_msg.agent_reasoning`, and `event_msg.agent_reasoning_raw_content`."""

    text: str = ""


class Review(Struct):
    """`event_msg.entered_review_mode` and `event_msg.exited_review_mode`; old releases wrote neither id."""

    turn_id: str | None = None
    item_id: str | None = None


class Call(Struct):
    """The end of a tool's call, by the names that the kinds have for its ids."""

    call_id: str | None = None
    event_id: str | None = None
    target_item_id: str | None = None
    turn_id: str | None = None


class UserMessage(Struct):
    """`event_msg.user_message`. Media lists are looked at for being empty or not."""

    message: str = ""
    images: list[Raw] | None = None
    local_images: list[Raw] | None = None
    audio: list[Raw] | None = None
    local_audio: list[Raw] | None = None


class ContentPart(Struct):
    """A part of a completed user item: text, image, localImage, audio, localAudio."""

    type: str = ""
    text: str | None = None


class CompletedItem(Struct):
    """What every item has; an agent's message has a phase, a plan a text, an extension a kind."""

    id: str | None = None
    phase: str | None = None
    text: str | None = None
    kind: str | None = None


class ItemCompleted(Struct):
    """`event_msg.item_completed`, whatever the item."""

    item: CompletedItem
    turn_id: str | None = None
    started_at_ms: int | float | None = None


class AgentItem(CompletedItem):
    """The item of `event_msg.item_completed.AgentMessage`; its text comes as such, or in parts."""

    content: Raw = Raw()


class AgentItemCompleted(Struct):
    """`event_msg.item_completed` that holds an agent's message."""

    item: AgentItem
    turn_id: str | None = None
    started_at_ms: int | float | None = None


class UserItem(Struct):
    """The item of `event_msg.item_completed.UserMessage`."""

    content: list[ContentPart] = []
    id: str | None = None


class UserItemCompleted(Struct):
    """`event_msg.item_completed` that holds a user message."""

    item: UserItem
    turn_id: str | None = None
    started_at_ms: int | float | None = None


class Goal(Struct, rename="camel"):
    """What a thread is to reach, and how that stood. Times are Unix seconds, where their names do not say milliseconds.

    `goal_id` and the times in milliseconds are this engine's own.
    """

    objective: str | None = None
    status: str | None = None
    token_budget: int | None = None
    created_at: int | None = None
    updated_at: int | None = None
    thread_id: str | None = None
    tokens_used: int | None = None
    time_used_seconds: int | None = None
    goal_id: str | None = None
    created_at_ms: int | None = None
    updated_at_ms: int | None = None


class GoalUpdated(Struct, rename="camel"):
    """`event_msg.thread_goal_updated`. A copy in a fork still names the thread that it was said in.

    `deferred` is this engine's own: the thread is not to go on by itself, or may again.
    """

    thread_id: str | None = None
    goal: Goal | None = None
    deferred: bool | None = None


class SpawnSource(Struct):
    """`{"thread_spawn": …}` of a sub-agent's source."""

    parent_thread_id: str | None = None
    agent_path: str | None = None
    agent_nickname: str | None = None
    agent_role: str | None = None
    agent_type: str | None = None


CALLS = frozenset(
    f"event_msg.{tag}"
    for tag in (
        "exec_command_end patch_apply_end mcp_tool_call_end web_search_end image_generation_end view_image_tool_call "
        "dynamic_tool_call_request dynamic_tool_call_response collab_agent_spawn_end collab_agent_interaction_end "
        "collab_waiting_end collab_close_end collab_resume_end sub_agent_activity guardian_assessment"
    ).split()
)
"""Events of legacy rollouts that tell of one call of a tool; a call's later event replaces its earlier one."""

TYPED: dict[str, type[Struct]] = {
    **{f"{ITEM_COMPLETED}.{tag}": ItemCompleted for tag in TURN_ITEMS},
    **dict.fromkeys(CALLS, Call),
    "session_meta": SessionMeta,
    "turn_context": TurnContext,
    "event_msg.thread_settings_applied": ThreadSettingsApplied,
    "event_msg.token_count": TokenCount,
    "event_msg.task_started": TaskStarted,
    "event_msg.user_message": UserMessage,
    "event_msg.item_completed.UserMessage": UserItemCompleted,
    "event_msg.item_completed.AgentMessage": AgentItemCompleted,
    "event_msg.thread_goal_updated": GoalUpdated,
    "event_msg.task_complete": TaskEnded,
    "event_msg.turn_aborted": TaskEnded,
    "event_msg.thread_rolled_back": ThreadRolledBack,
    "event_msg.error": Failed,
    "event_msg.context_compacted": Mark,
    "compacted": Mark,
    "event_msg.agent_message": AgentMessage,
    "event_msg.agent_reasoning": Reasoning,
    "event_msg.agent_reasoning_raw_content": Reasoning,
    "event_msg.entered_review_mode": Review,
    "event_msg.exited_review_mode": Review,
}
"""Which struct a kind's payload decodes to; a kind that is not here keeps its payload raw."""
