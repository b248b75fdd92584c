"""What a thread's items look like to a reader: one shape for both history modes.

A paginated rollout tells of an item by `item_completed`, a legacy one by an event of the item's own; both come to the same
dict: `type` (a ThreadItem's, as `agentMessage`), `id`, and the fields of that type, all of them there, None where nothing
was said. Field names are in snake_case, words that are values stay as the file has them (`in_progress`), durations are
`duration_ms`. A type that is not known here keeps all its fields. Pure; what it is given is JSON that anybody may have
written, so a value of another type than it should be raises ValueError, which costs that item alone.

Source: codex_rollout.md 2.3, 7.4, 7.5.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from engine.events.kinds import ITEM_COMPLETED

Fields = Mapping[str, Any]
Item = dict[str, Any]

TYPES = (
    "unknown userMessage agentMessage agentMessage agentMessage reasoning plan hookPrompt commandExecution fileChange "
    "mcpToolCall dynamicToolCall collabAgentToolCall subAgentActivity webSearch imageView imageGeneration sleep "
    "enteredReviewMode exitedReviewMode contextCompaction functionCallOutput"
).split()
"""What an index's numbers for types mean; only ever added to."""

UNKNOWN = 0
USER_MESSAGE = 1
PLAIN_AGENT, FINAL_AGENT, COMMENTARY = 2, 3, 4
"""An agent message without a phase, a final answer, and one of any other phase."""
REASONING = 5

_TAGS = {
    "AgentMessage": "agentMessage",
    "Plan": "plan",
    "Reasoning": "reasoning",
    "UserMessage": "userMessage",
    "HookPrompt": "hookPrompt",
    "CommandExecution": "commandExecution",
    "FileChange": "fileChange",
    "McpToolCall": "mcpToolCall",
    "DynamicToolCall": "dynamicToolCall",
    "CollabAgentToolCall": "collabAgentToolCall",
    "SubAgentActivity": "subAgentActivity",
    "WebSearch": "webSearch",
    "ImageView": "imageView",
    "ImageGeneration": "imageGeneration",
    "Sleep": "sleep",
    "EnteredReviewMode": "enteredReviewMode",
    "ExitedReviewMode": "exitedReviewMode",
    "ContextCompaction": "contextCompaction",
    "FunctionCallOutput": "functionCallOutput",
}
_EXTENSIONS = {"image_gen.generation": "imageGeneration", "clock.sleep": "sleep", "web.search": "webSearch"}
_MEDIA = {"image": "image", "local_image": "localImage", "localImage": "localImage"}
_COLLAB_TOOLS = {
    "collab_agent_spawn_end": "spawn_agent",
    "collab_agent_interaction_end": "send_input",
    "collab_waiting_end": "wait",
    "collab_close_end": "close_agent",
    "collab_resume_end": "resume_agent",
}
_EVENTS = {
    "agent_message": "agentMessage",
    "user_message": "userMessage",
    "agent_reasoning": "reasoning",
    "agent_reasoning_raw_content": "reasoning",
    "exec_command_end": "commandExecution",
    "guardian_assessment": "commandExecution",
    "patch_apply_end": "fileChange",
    "mcp_tool_call_end": "mcpToolCall",
    "dynamic_tool_call_request": "dynamicToolCall",
    "dynamic_tool_call_response": "dynamicToolCall",
    **dict.fromkeys(_COLLAB_TOOLS, "collabAgentToolCall"),
    "sub_agent_activity": "subAgentActivity",
    "web_search_end": "webSearch",
    "view_image_tool_call": "imageView",
    "image_generation_end": "imageGeneration",
    "entered_review_mode": "enteredReviewMode",
    "exited_review_mode": "exitedReviewMode",
    "context_compacted": "contextCompaction",
}
_ITEM_PREFIX = f"{ITEM_COMPLETED}."
_EXTENSION = f"{ITEM_COMPLETED}.Extension"
_KINDS = {
    **{f"{_ITEM_PREFIX}{tag}": TYPES.index(name) for tag, name in _TAGS.items()},
    **{f"event_msg.{event}": TYPES.index(name) for event, name in _EVENTS.items()},
}
"""Which number stands for what a record of a kind tells of."""
_FAILED_AGENT = frozenset({"errored", "not_found"})


def type_number(kind: str, *, phase: str | None = None, extension: str | None = None) -> int:
    """The number in `TYPES` of what a record of this kind tells of."""
    number = _KINDS.get(kind, UNKNOWN)
    if number == PLAIN_AGENT and phase is not None:
        return FINAL_AGENT if phase == "final_answer" else COMMENTARY
    if kind == _EXTENSION:
        return TYPES.index(_EXTENSIONS.get(extension or "", "unknown"))
    return number


def item_of(kind: str, payloads: Sequence[Fields]) -> Item:
    """The item that these records (of one kind, or of the two kinds of reasoning) tell of. Raises ValueError.

    `id` is None where the item has none of its own.
    """
    try:
        if kind.startswith(_ITEM_PREFIX) or kind == ITEM_COMPLETED:
            return _of_completed(payloads[0])
        return _of_event(kind.removeprefix("event_msg."), payloads)
    except (AttributeError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"a field of the item is not what it should be: {error}") from None


def _of_completed(payload: Fields) -> Item:
    item = payload["item"]
    tag = item.get("type")
    name = _TAGS.get(tag)
    if name is None:
        name = _EXTENSIONS.get(item.get("kind"), "extension") if tag == "Extension" else _lower_first(str(tag))
    shape = _SHAPES.get(name)
    fields = shape(_snake(item)) if shape is not None and tag != "Extension" else _others(_snake(item))
    times = {"started_at_ms": payload.get("started_at_ms"), "completed_at_ms": payload.get("completed_at_ms")}
    return {"type": name, "id": item.get("id"), **fields, **times}


def _of_event(event: str, payloads: Sequence[Fields]) -> Item:
    payload = payloads[0]
    if event not in _EVENTS:
        raise ValueError(f"{event} tells of no item")
    if event == "agent_message":
        name, fields = "agentMessage", _agent_message({**payload, "text": payload.get("message")})
    elif event in ("agent_reasoning", "agent_reasoning_raw_content"):
        name, fields = "reasoning", _reasoning_of(payloads)
    else:
        name = _EVENTS[event]
        fields = _SHAPES[name](_FROM_EVENT.get(event, dict)(payload))
    own = payload.get("item_id") or payload.get("call_id") or payload.get("event_id") or payload.get("target_item_id")
    return {"type": name, "id": own, **fields, "started_at_ms": None, "completed_at_ms": None}


def _user_message(item: Fields) -> Item:
    return {"client_id": item.get("client_id"), "content": [_content(part) for part in item.get("content") or []]}


def _content(part: Fields) -> Item:
    """A part of a user message; media come with the detail that was asked for, if any."""
    kind = _MEDIA.get(part["type"])
    return dict(part) if kind is None else {**part, "type": kind, "detail": part.get("detail")}


def _agent_message(item: Fields) -> Item:
    text = item.get("text")
    if text is None:
        text = "".join(part.get("text") or "" for part in item.get("content") or [])
    return {"text": text, **{name: item.get(name) for name in ("phase", "memory_citation", "delivery")}}


def _reasoning(item: Fields) -> Item:
    return {"summary": item.get("summary_text") or [], "content": item.get("raw_content") or []}


def _command(item: Fields) -> Item:
    cwd = _path(item.get("cwd"))
    return {
        "plugin_id": item.get("plugin_id"),
        "script_path": item.get("script_path"),
        "command": _shell_line(item.get("command") or []),
        "cwd": cwd,
        "process_id": item.get("process_id"),
        "source": item.get("source") or "agent",
        "status": item.get("status"),
        "command_actions": [_action(parsed, cwd) for parsed in item.get("parsed_cmd") or []],
        "aggregated_output": item.get("aggregated_output") or None,
        "exit_code": item.get("exit_code"),
        "duration_ms": _duration_ms(item.get("duration")),
    }


def _shell_line(command: object) -> str:
    if isinstance(command, list):
        return shlex.join(command)
    if isinstance(command, str):
        return command
    raise TypeError("a command is a text or a list of them")


def _action(parsed: Fields, cwd: object) -> Item:
    """What a command does; what it reads is named from the root."""
    if parsed.get("type") == "read" and isinstance(cwd, str) and isinstance(parsed.get("path"), str):
        parsed = {**parsed, "path": posixpath.join(cwd, parsed["path"])}
    told = {name: parsed[name] for name in ("name", "query", "path") if parsed.get(name) is not None}
    return {"type": parsed.get("type"), "command": parsed.get("cmd"), **told}


def _file_change(item: Fields) -> Item:
    changes = item.get("changes") or {}
    return {"changes": [_change(path, change) for path, change in changes.items()], "status": item.get("status")}


def _change(path: str, change: Fields) -> Item:
    kind: Item = {"type": change.get("type")}
    if kind["type"] == "update":
        kind["move_path"] = change.get("move_path")
    return {"path": path, "kind": kind, "diff": change.get("content", change.get("unified_diff"))}


def _tool_call(*names: str) -> Callable[[Fields], Item]:
    def fields(item: Fields) -> Item:
        return {**{name: item.get(name) for name in names}, "duration_ms": _duration_ms(item.get("duration"))}

    return fields


def _collab(item: Fields) -> Item:
    names = ("tool", "status", "sender_thread_id", "receiver_thread_ids", "prompt", "model", "reasoning_effort")
    states = item.get("agents_states") or {}
    return {
        **{name: item.get(name) for name in names},
        "agents_states": {agent: _agent_state(state) for agent, state in states.items()},
    }


def _agent_state(state: object) -> Item:
    """`"running"`, or `{"completed": "its last words"}`."""
    if isinstance(state, dict):
        ((word, message),) = state.items()
        return {"status": word, "message": message}
    return {"status": state, "message": None}


def _picked(*names: str) -> Callable[[Fields], Item]:
    return lambda item: {name: item.get(name) for name in names}


def _entered_review(item: Fields) -> Item:
    target = item.get("target") or {}
    hints = {
        "uncommittedChanges": "current changes",
        "baseBranch": f"changes against '{target.get('branch')}'",
        "commit": " ".join(str(part) for part in ("commit", target.get("sha"), target.get("title")) if part),
        "custom": target.get("instructions"),
    }
    return {"review": item.get("user_facing_hint") or hints.get(str(target.get("type"))), "target": target or None}


def _exited_review(item: Fields) -> Item:
    output = item.get("review_output")
    explanation = (output or {}).get("overall_explanation")
    return {"review": explanation or None, "review_output": output}


def _others(item: Fields) -> Item:
    """All fields of an item that are not part of every item."""
    return {name: value for name, value in item.items() if name not in ("type", "id")}


_SHAPES: dict[str, Callable[[Fields], Item]] = {
    "userMessage": _user_message,
    "agentMessage": _agent_message,
    "reasoning": _reasoning,
    "plan": _picked("text"),
    "hookPrompt": _picked("fragments"),
    "commandExecution": _command,
    "fileChange": _file_change,
    "mcpToolCall": _tool_call(
        *"server tool status arguments result error connector_id mcp_app_resource_uri link_id app_name action_name "
        "plugin_id read_only_hint".split()
    ),
    "dynamicToolCall": _tool_call(*"namespace tool arguments status content_items success error".split()),
    "collabAgentToolCall": _collab,
    "subAgentActivity": _picked("kind", "agent_thread_id", "agent_path", "model", "reasoning_effort"),
    "webSearch": _picked("query", "action", "results"),
    "imageView": _picked("path"),
    "imageGeneration": _picked("status", "revised_prompt", "result", "saved_path"),
    "enteredReviewMode": _entered_review,
    "exitedReviewMode": _exited_review,
    "contextCompaction": _picked(),
}
"""By type, the fields of an item from those that the file has for it."""


def _user_event(payload: Fields) -> Item:
    """Text first, then media, each as a part of the content."""
    content: list[Item] = []
    if payload.get("message"):
        content.append(
            {"type": "text", "text": payload["message"], "text_elements": payload.get("text_elements") or []}
        )
    for name, kind, key in (
        ("images", "image", "url"),
        ("local_images", "localImage", "path"),
        ("audio", "audio", "url"),
        ("local_audio", "localAudio", "path"),
    ):
        content += [{"type": kind, key: value} for value in payload.get(name) or []]
    return {"client_id": payload.get("client_id"), "content": content}


def _reasoning_of(payloads: Sequence[Fields]) -> Item:
    def texts(event: str) -> list[str]:
        return [payload.get("text") or "" for payload in payloads if payload.get("type") == event]

    return {"summary": texts("agent_reasoning"), "content": texts("agent_reasoning_raw_content")}


def _patch_event(payload: Fields) -> Item:
    return {**payload, "status": payload.get("status") or ("completed" if payload.get("success") else "failed")}


def _mcp_event(payload: Fields) -> Item:
    answer = payload.get("result") or {}
    result, error = answer.get("Ok"), answer.get("Err")
    failed = result is None or bool(result.get("is_error") or result.get("isError"))
    told = {"result": result, "error": error, "status": "failed" if failed else "completed"}
    return {**payload, **(payload.get("invocation") or {}), **told}


def _dynamic_request(payload: Fields) -> Item:
    return {**_snake(payload), "status": "in_progress"}


def _dynamic_response(payload: Fields) -> Item:
    return {**_snake(payload), "status": "completed" if payload.get("success") else "failed"}


def _collab_event(payload: Fields) -> Item:
    receiver = payload.get("new_thread_id") or payload.get("receiver_thread_id")
    states = payload.get("statuses") or ({receiver: payload.get("status")} if receiver else {})
    failed = any(_agent_state(state)["status"] in _FAILED_AGENT for state in states.values())
    if payload.get("type") == "collab_agent_spawn_end" and not receiver:
        failed = True
    return {
        **payload,
        "tool": _COLLAB_TOOLS[payload["type"]],
        "status": "failed" if failed else "completed",
        "receiver_thread_ids": list(states) if receiver is None else [receiver],
        "agents_states": states,
    }


def _guardian_event(payload: Fields) -> Item:
    """A command that the guardian was asked about; one that was let pass is told of by its own events."""
    action = payload.get("action") or {}
    command = action.get("argv") or action.get("command")
    status = "in_progress" if payload.get("status") in ("in_progress", "approved") else "declined"
    return {"command": command, "cwd": action.get("cwd"), "source": action.get("source"), "status": status}


_FROM_EVENT: dict[str, Callable[[Fields], Fields]] = {
    "user_message": _user_event,
    "patch_apply_end": _patch_event,
    "mcp_tool_call_end": _mcp_event,
    "dynamic_tool_call_request": _dynamic_request,
    "dynamic_tool_call_response": _dynamic_response,
    **dict.fromkeys(_COLLAB_TOOLS, _collab_event),
    "guardian_assessment": _guardian_event,
}
"""What an event says, with the names that its item's fields have."""


def _path(cwd: object) -> object:
    return unquote(cwd.removeprefix("file://")) if isinstance(cwd, str) and cwd.startswith("file://") else cwd


def _duration_ms(duration: Any) -> int | None:
    """Milliseconds of `{"secs", "nanos"}`."""
    return None if duration is None else int(duration["secs"]) * 1000 + int(duration.get("nanos") or 0) // 1_000_000


def _snake(fields: Fields) -> Item:
    return {"".join(f"_{c.lower()}" if c.isupper() else c for c in name): value for name, value in fields.items()}


def _lower_first(word: str) -> str:
    return word[:1].lower() + word[1:]
