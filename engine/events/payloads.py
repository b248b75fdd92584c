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
    """`event_msg.task_started` (alias `turn_started`)."""

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


class UserItem(Struct):
    """The item of `event_msg.item_completed.UserMessage`."""

    content: list[ContentPart] = []


class UserItemCompleted(Struct):
    """`event_msg.item_completed` that holds a user message."""

    item: UserItem


class Goal(Struct, rename="camel"):
    """What a thread is to reach, and how that stood. Times are Unix seconds."""

    objective: str | None = None
    status: str | None = None
    token_budget: int | None = None
    created_at: int | None = None
    updated_at: int | None = None


class GoalUpdated(Struct, rename="camel"):
    """`event_msg.thread_goal_updated`. A copy in a fork still names the thread that it was said in."""

    thread_id: str | None = None
    goal: Goal | None = None


class SpawnSource(Struct):
    """`{"thread_spawn": …}` of a sub-agent's source."""

    parent_thread_id: str | None = None
    agent_path: str | None = None
    agent_nickname: str | None = None
    agent_role: str | None = None
    agent_type: str | None = None


TYPED: dict[str, type[Struct]] = {
    "session_meta": SessionMeta,
    "turn_context": TurnContext,
    "event_msg.thread_settings_applied": ThreadSettingsApplied,
    "event_msg.token_count": TokenCount,
    "event_msg.task_started": TaskStarted,
    "event_msg.user_message": UserMessage,
    "event_msg.item_completed.UserMessage": UserItemCompleted,
    "event_msg.thread_goal_updated": GoalUpdated,
}
"""Which struct a kind's payload decodes to; a kind that is not here keeps its payload raw."""
