"""The items that an agent's turn is made of, as the format's readers accept them, in both history modes.

Pure: ids and times come from the caller. A paginated rollout keeps what happened as completed items, a legacy one as
events; the model's own view (`response_item`) is the same in both. Fields and key order follow codex_rollout.md 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from engine.events.permissions import profile_of
from engine.events.policy import PAGINATED

Raw = dict[str, Any]

_UNKNOWN = "unknown"
"""The format wants a model and its provider by name; this stands where the application gave none."""


def event(tag: str, **fields: Any) -> Raw:
    """An `event_msg` item."""
    return {"type": "event_msg", "payload": {"type": tag, **fields}}


def response(tag: str, **fields: Any) -> Raw:
    """A `response_item` item."""
    return {"type": "response_item", "payload": {"type": tag, **fields}}


def completed(thread_id: str, turn_id: str, at_ms: int, item: Raw) -> Raw:
    """An item's completion."""
    return event(
        "item_completed", thread_id=thread_id, turn_id=turn_id, item=item, started_at_ms=at_ms, completed_at_ms=at_ms
    )


def task_started(turn_id: str, at_ms: int, *, context_window: int | None) -> Raw:
    """A turn begins; nothing else moves a thread's recency."""
    return event(
        "task_started",
        turn_id=turn_id,
        started_at=at_ms // 1000,
        model_context_window=context_window,
        collaboration_mode_kind="default",
    )


def turn_context(turn_id: str, settings: Mapping[str, Any]) -> Raw:
    """Under which settings a turn runs."""
    payload = {
        "turn_id": turn_id,
        "cwd": settings["cwd"],
        "approval_policy": settings["approval_policy"],
        "sandbox_policy": settings["sandbox_policy"],
        "permission_profile": _profile(settings),
        "model": settings["model"] or _UNKNOWN,
        "collaboration_mode": _collaboration(settings),
        "realtime_active": False,
        "summary": "auto",
    }
    if settings.get("reasoning_effort"):
        payload["effort"] = settings["reasoning_effort"]
    return {"type": "turn_context", "payload": payload}


def task_complete(turn_id: str, started_ms: int, at_ms: int, *, last_agent_message: str | None) -> Raw:
    """A turn ended as it should."""
    return event(
        "task_complete",
        turn_id=turn_id,
        last_agent_message=last_agent_message,
        started_at=started_ms // 1000,
        completed_at=at_ms // 1000,
        duration_ms=max(0, at_ms - started_ms),
    )


def turn_aborted(turn_id: str, started_ms: int, at_ms: int, *, reason: str) -> Raw:
    """A turn was cut short."""
    return event(
        "turn_aborted",
        turn_id=turn_id,
        reason=reason,
        started_at=started_ms // 1000,
        completed_at=at_ms // 1000,
        duration_ms=max(0, at_ms - started_ms),
    )


def user_message(
    mode: str, thread_id: str, turn_id: str, item_id: str, at_ms: int, text: str, images: Sequence[str]
) -> list[Raw]:
    """What a user said, for the model and for the reader."""
    content: list[Raw] = [{"type": "input_text", "text": text}] if text else []
    content += [{"type": "input_image", "image_url": image} for image in images]
    said = response("message", role="user", content=content)
    if mode == PAGINATED:
        parts: list[Raw] = [{"type": "text", "text": text, "text_elements": []}] if text else []
        parts += [{"type": "image", "image_url": image} for image in images]
        return [said, completed(thread_id, turn_id, at_ms, {"type": "UserMessage", "id": item_id, "content": parts})]
    return [said, event("user_message", message=text, images=list(images), local_images=[], text_elements=[])]


def agent_message(
    mode: str, thread_id: str, turn_id: str, item_id: str, at_ms: int, text: str, phase: str
) -> list[Raw]:
    """What the agent said."""
    said = response("message", role="assistant", content=[{"type": "output_text", "text": text}], phase=phase)
    if mode == PAGINATED:
        item = {"type": "AgentMessage", "id": item_id, "content": [{"type": "Text", "text": text}], "phase": phase}
        return [completed(thread_id, turn_id, at_ms, item), said]
    return [event("agent_message", message=text, phase=phase, memory_citation=None), said]


def reasoning(mode: str, thread_id: str, turn_id: str, item_id: str, at_ms: int, text: str) -> list[Raw]:
    """What the agent thought."""
    thought = response(
        "reasoning", summary=[{"type": "summary_text", "text": text}], content=None, encrypted_content=None
    )
    if mode == PAGINATED:
        item = {"type": "Reasoning", "id": item_id, "summary_text": [text], "raw_content": []}
        return [completed(thread_id, turn_id, at_ms, item), thought]
    return [event("agent_reasoning", text=text), thought]


def tool_call(name: str, arguments: Any, call_id: str) -> Raw:
    """The model calls a tool. `arguments` is kept as JSON in a string, as models send it."""
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return response("function_call", name=name, arguments=text, call_id=call_id)


def tool_output(
    mode: str,
    thread_id: str,
    turn_id: str,
    at_ms: int,
    name: str,
    arguments: Any,
    call_id: str,
    output: str,
    *,
    success: bool,
) -> list[Raw]:
    """What the tool answered."""
    answer = response("function_call_output", call_id=call_id, output=output)
    if mode != PAGINATED:
        return [answer]
    item = {
        "type": "DynamicToolCall",
        "id": call_id,
        "namespace": None,
        "tool": name,
        "arguments": arguments,
        "status": "completed" if success else "failed",
        "content_items": [{"type": "inputText", "text": output}],
        "success": success,
    }
    return [completed(thread_id, turn_id, at_ms, item), answer]


def token_count(total: Mapping[str, int], last: Mapping[str, int], *, context_window: int | None) -> Raw:
    """How many tokens were used, in all and by the last request."""
    info = {
        "total_token_usage": dict(total),
        "last_token_usage": dict(last),
        "model_context_window": context_window,
    }
    return event("token_count", info=info, rate_limits=None)


def thread_settings(thread_id: str, settings: Mapping[str, Any]) -> Raw:
    """The settings in force from here on."""
    fields = {
        "model": settings["model"] or _UNKNOWN,
        "model_provider_id": settings["model_provider"] or _UNKNOWN,
        "approval_policy": settings["approval_policy"],
        "approvals_reviewer": "user",
        "permission_profile": _profile(settings),
        "cwd": settings["cwd"],
        "collaboration_mode": _collaboration(settings),
    }
    if settings.get("reasoning_effort"):
        fields["reasoning_effort"] = settings["reasoning_effort"]
    return event("thread_settings_applied", thread_id=thread_id, thread_settings=fields)


def _profile(settings: Mapping[str, Any]) -> Raw:
    """The profile that is in force, as it was read where a rollout had one."""
    return settings.get("permission_profile") or profile_of(settings["sandbox_policy"], settings["cwd"])


def _collaboration(settings: Mapping[str, Any]) -> Raw:
    asked = {
        "model": settings["model"] or _UNKNOWN,
        "reasoning_effort": settings.get("reasoning_effort"),
        "developer_instructions": None,
    }
    return {"mode": "default", "settings": asked}
