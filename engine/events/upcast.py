"""Old shapes to today's: pure functions from what a file may hold to what a fold works with.

Source: codex_rollout.md 2.1 to 2.3; preview text codex_state.md 3.3.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from engine.events.payloads import SpawnSource, UserItemCompleted, UserMessage

REQUEST_MARK = "## My request for Codex:"
IMAGE = "[Image]"
AUDIO = "[Audio]"
DEFAULT_SOURCE = "vscode"
_NO_SPAWN = SpawnSource()
_APPROVAL_ALIASES = {"on-failure": "on-request"}


class _SubAgent(Struct):
    thread_spawn: SpawnSource | None = None


class _Source(Struct):
    subagent: _SubAgent | None = None


_SOURCE = msgspec.json.Decoder(_Source)
_TEXT = msgspec.json.Decoder(str)


def compact_json(text: str) -> str:
    """JSON text without white space between its parts; numbers keep the digits they were written with.

    What is nested too deep to be taken apart stays as it is.
    """
    if " " not in text and "\n" not in text and "\t" not in text and "\r" not in text:
        return text
    try:
        return msgspec.json.format(text, indent=-1)
    except RecursionError:
        return text


def json_text(raw: Raw) -> str:
    """Raw JSON as compact text."""
    return compact_json(bytes(raw).decode("utf-8", "replace"))


def word_or_json(raw: Raw) -> str | None:
    """A JSON string's text, or the compact JSON of anything else; None for null and for a field that is not there."""
    data = bytes(raw)
    if data in (b"", b"null"):
        return None
    return _TEXT.decode(data) if data.startswith(b'"') else json_text(raw)


def source_of(raw: Raw) -> str:
    """Where a thread came from: a bare word (`cli`) or compact JSON (`{"subagent":"review"}`)."""
    return word_or_json(raw) or DEFAULT_SOURCE


def spawn_of(raw: Raw) -> SpawnSource:
    """What a spawned sub-agent's source says of its parent; all None for every other source."""
    if b'"thread_spawn"' not in bytes(raw):
        return _NO_SPAWN
    try:
        subagent = _SOURCE.decode(raw).subagent
    except (msgspec.DecodeError, RecursionError):
        return _NO_SPAWN
    return subagent.thread_spawn or _NO_SPAWN if subagent is not None else _NO_SPAWN


def policy_of(profile: Raw, sandbox: Raw) -> str | None:
    """The permission profile as JSON; files from before profiles have the sandbox policy instead."""
    return word_or_json(profile) or word_or_json(sandbox)


def approval_of(raw: Raw) -> str | None:
    """The approval policy: a word, with old words replaced, or the compact JSON of a granular one."""
    word = word_or_json(raw)
    return _APPROVAL_ALIASES.get(word, word) if word is not None else None


def preview_text(text: str) -> str:
    """What a list shows of a user's text: the request behind the marker where there is one, without outer space."""
    _, mark, request = text.partition(REQUEST_MARK)
    return (request.strip() if mark else "") or text.strip()


def content_of_message(message: UserMessage) -> tuple[str, str | None]:
    """Text of a user message, and the placeholder that stands for it where it has media and no text."""
    return message.message, _placeholder(
        images=bool(message.images or message.local_images), audio=bool(message.audio or message.local_audio)
    )


def content_of_item(completed: UserItemCompleted) -> tuple[str, str | None]:
    """The same of a completed user item, whose content comes in parts."""
    parts = completed.item.content
    kinds = {part.type.replace("_", "").lower() for part in parts}
    text = "".join(part.text or "" for part in parts if part.type == "text")
    return text, _placeholder(images=bool(kinds & {"image", "localimage"}), audio=bool(kinds & {"audio", "localaudio"}))


def _placeholder(*, images: bool, audio: bool) -> str | None:
    if images:
        return IMAGE
    return AUDIO if audio else None
