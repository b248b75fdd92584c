"""What a crash left open at the end of a rollout, and the items that end it.

A turn that began and has no end was interrupted. Each of its tool calls that has no output gets one that says so, so that a
model which is given the history finds an answer to every call; then the turn is aborted. The time is that of the last that
is known of it. Pure: the lines come from the caller, newest first, and only as many are asked for as are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Raw

from engine.events import compose
from engine.events.record import Record, Rejected, decode, kind_of, time_ms

NO_OUTPUT = "aborted: the turn ended before the tool answered"
"""What stands for the output of a tool that was never heard of again."""

LOOKED_BYTES_MAX = 64 * 1024 * 1024
"""A turn that began further back is left as it is."""

_STARTED = "event_msg.task_started"
_ENDED = ("event_msg.task_complete", "event_msg.turn_aborted")
_CALLS = {
    "response_item.function_call": "function_call_output",
    "response_item.local_shell_call": "function_call_output",
    "response_item.custom_tool_call": "custom_tool_call_output",
}
_OUTPUTS = frozenset(f"response_item.{tag}" for tag in _CALLS.values())
_MARKS = (b'"task_', b'"turn_', b"_call")
_HEAD_BYTES = 200
"""The tag of a record stands this far in front."""


def ends_of_open_turn(lines: Iterable[bytes], mode: str, thread_id: str) -> list[compose.Raw]:
    """The items that end the turn which is open behind these lines; none where the last one that began has ended."""
    open_calls: list[tuple[str, dict[str, Any]]] = []
    answered: set[str] = set()
    last_ms = 0
    for record in _marked(lines):
        kind, payload = kind_of(record), _fields(record)
        last_ms = max(last_ms, time_ms(record.timestamp) or 0)
        call_id = payload.get("call_id")
        if kind in _ENDED:
            return []
        if kind == _STARTED:
            return _ends(payload, open_calls[::-1], last_ms, mode, thread_id)
        if isinstance(call_id, str) and kind in _OUTPUTS:
            answered.add(call_id)
        elif isinstance(call_id, str) and kind in _CALLS:
            if call_id not in answered:
                open_calls.append((kind, payload))
            answered.discard(call_id)
    return []


def _marked(lines: Iterable[bytes]) -> Iterator[Record[Raw]]:
    """The records that may begin or end a turn or a call."""
    looked = 0
    for line in lines:
        looked += len(line)
        if looked > LOOKED_BYTES_MAX:
            return
        head = line[:_HEAD_BYTES]
        if any(mark in head for mark in _MARKS):
            try:
                yield decode(line)
            except Rejected:
                continue


def _ends(
    started: dict[str, Any], calls: list[tuple[str, dict[str, Any]]], at_ms: int, mode: str, thread_id: str
) -> list[compose.Raw]:
    turn_id, started_s = started.get("turn_id"), started.get("started_at")
    if not isinstance(turn_id, str):
        return []
    items: list[compose.Raw] = []
    for kind, call in calls:
        items += _output(kind, call, mode, thread_id, turn_id, at_ms)
    started_ms = started_s * 1000 if isinstance(started_s, int) else at_ms
    return [*items, compose.turn_aborted(turn_id, started_ms, at_ms, reason="interrupted")]


def _output(kind: str, call: dict[str, Any], mode: str, thread_id: str, turn_id: str, at_ms: int) -> list[compose.Raw]:
    name, call_id = call.get("name"), call["call_id"]
    if kind != "response_item.function_call" or not isinstance(name, str):
        return [compose.response(_CALLS[kind], call_id=call_id, output=NO_OUTPUT)]
    arguments = _decoded(call.get("arguments"))
    return compose.tool_output(mode, thread_id, turn_id, at_ms, name, arguments, call_id, NO_OUTPUT, success=False)


def _decoded(arguments: object) -> object:
    """Arguments are JSON in a string, where the model kept to it."""
    try:
        return msgspec.json.decode(arguments) if isinstance(arguments, str) else arguments
    except msgspec.DecodeError:
        return arguments


def _fields(record: Record[Raw]) -> dict[str, Any]:
    try:
        return msgspec.json.decode(record.payload, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {}
