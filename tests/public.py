"""Every public call of an open engine, found by looking: a method that is new is in it without being named."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import engine
from engine.thread import Thread

HARMLESS = {
    "engine.close": "a second call does nothing",
    "logs.close": "a second call does nothing",
    "follower.close": "a second call does nothing",
    "thread.close": "a second call does nothing",
    "thread.kept_open": "says whether it is open",
    "thread.new_id": "asks the clock alone",
    "thread.now_ms": "asks the clock alone",
    "device_keys.over": "gives a provider to the same bindings",
    "device_keys.create": "asks the provider; what it keeps in the home is `bindings.put`",
    "device_keys.public": "asks the provider alone",
    "device_keys.sign": "asks `bindings.get` before the provider",
}
"""Calls that a closed engine need not refuse, and why."""

_TEXT = {"type": "event_msg", "payload": {"type": "agent_reasoning", "text": "hm"}}
_KEY = f"dk_hse_{'A' * 43}"
_ARGUMENTS: Mapping[str, tuple[Any, ...]] = {
    "bindings.get": (_KEY,),
    "bindings.put": (_KEY, "user", "client"),
    "thread.append": ([_TEXT],),
    "thread.begin_turn": ([_TEXT],),
    "thread.end_turn": ([_TEXT],),
    "thread.add_usage": ({"total_tokens": 1},),
    "turn.user_message": ("hello",),
    "turn.agent_message": ("hello",),
    "turn.reasoning": ("hm",),
    "turn.tool_call": ("ls", {}),
    "turn.tool_output": ("open", "done"),
    "turn.append": ([_TEXT],),
}
"""Of calls that come to ask whether they may only with arguments; all others ask before they look at any."""


def parts_of(e: engine.Engine, thread: Thread) -> dict[str, Any]:
    """What an application has in its hands, by the name that it goes by here."""
    turn = thread.turn()
    with turn:
        turn.tool_call("ls", {}, call_id="open")
        return {
            "engine": e,
            **{name: getattr(e, name) for name in ("threads", "goals", "agents", "logs", "turns", "items", "memories")},
            "device_keys": e.device_keys,
            "bindings": e.device_keys.bindings,
            "rows": next(iter(e.projections.values())),
            "follower": e.follow(),
            "thread": thread,
            "turn": turn,
        }


def public_calls(parts: Mapping[str, Any]) -> dict[str, Callable[[], object]]:
    """Every public call of these parts, by `part.name`, but for those that are harmless."""
    calls: dict[str, Callable[[], object]] = {}
    for part, thing in parts.items():
        for name in (each for each in dir(thing) if not each.startswith("_")):
            if f"{part}.{name}" in HARMLESS or _is_property(thing, name):
                continue
            method = getattr(thing, name)
            if inspect.ismethod(method) or inspect.isfunction(method):
                calls[f"{part}.{name}"] = _calling(f"{part}.{name}", method)
    return calls


def _is_property(thing: Any, name: str) -> bool:
    return name in dir(type(thing)) and not callable(getattr(type(thing), name))


def _calling(name: str, method: Callable[..., Any]) -> Callable[[], object]:
    arguments = _ARGUMENTS.get(name, ())
    named = {"call_id": "new"} if name == "turn.tool_call" else {}

    def call() -> object:
        answer = method(*arguments, **named)
        return asyncio.run(answer) if inspect.iscoroutine(answer) else answer

    return call
