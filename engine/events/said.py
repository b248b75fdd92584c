"""What a user or an agent said in a record: the one text that is searched and shown, for both history modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from engine.events.payloads import TYPED, AgentItemCompleted, AgentMessage, UserItemCompleted, UserMessage
from engine.events.record import Record, kind_of
from engine.events.upcast import content_of_item


class _Part(Struct):
    text: str | None = None


_PARTS = msgspec.json.Decoder(list[_Part])


def said_by(kind: str, payload: Any) -> str | None:
    """The text of a message, given its typed payload; None for a record of any other kind."""
    say = _SAYS.get(kind)
    return None if say is None else say(payload)


def said_in(record: Record[Raw]) -> str | None:
    """The text of a message, given its record. Raises ValueError where it cannot be decoded."""
    kind = kind_of(record)
    if kind not in _SAYS:
        return None
    try:
        return said_by(kind, msgspec.json.decode(record.payload, type=TYPED[kind]))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"its payload cannot be read: {error}") from None


def _user_item(completed: UserItemCompleted) -> str:
    return content_of_item(completed)[0]


def _agent_item(completed: AgentItemCompleted) -> str:
    """A content that is no list of parts says nothing."""
    if completed.item.text is not None or not completed.item.content:
        return completed.item.text or ""
    try:
        return "".join(part.text or "" for part in _PARTS.decode(completed.item.content))
    except (msgspec.DecodeError, RecursionError):
        return ""


def _message(message: UserMessage | AgentMessage) -> str:
    return message.message


_SAYS: dict[str, Callable[[Any], str]] = {
    "event_msg.item_completed.UserMessage": _user_item,
    "event_msg.item_completed.AgentMessage": _agent_item,
    "event_msg.user_message": _message,
    "event_msg.agent_message": _message,
}
