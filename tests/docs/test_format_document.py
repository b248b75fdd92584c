"""docs/FORMAT.md is enough to read a home by.

The first half of this file is a second reader, written from that page and nothing else, in the standard library. The
second half lets it and the engine read the same homes: made ones of all modes, damaged ones, and one written by hand
whose rows are written down. Where they differ, the page, the reader or the engine is wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
import zstandard
from xxhash import xxh3_128_digest

import engine
from engine.events.record import Rejected, decode
from engine.options import Options
from engine.projections.registry import THREADS
from engine.projections.threads import COLUMNS
from engine.stores.files import Files
from engine.stores.rollouts import TOO_LONG, Damage, open_source, records
from engine.stores.sqlite import Transaction
from engine.testing import HomePlan, make_home
from engine.testing.damage import DAMAGES

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENT = CHECKOUT / "docs/FORMAT.md"
WRITTEN_BY_HAND = Path(__file__).parent / "files"

# --- The second reader. Numbers in brackets are sections of docs/FORMAT.md. Standard library only. ---

ID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
NAME = re.compile(rf"rollout-(\d{{4}}-\d\d-\d\dT\d\d-\d\d-\d\d)-({ID})(?:_({ID}))?\.jsonl(\.zst)?")
HEAD = re.compile(rb'\{"timestamp":"(.{24})"(?:,"ordinal":([0-9]{1,18}))?,"type":"', re.DOTALL)
EVENT = re.compile(rb'event_msg","payload":\{"type":"([^"]*)"')
ITEM = re.compile(
    rb'event_msg","payload":\{"type":"item_completed","thread_id":".{36}","turn_id":".{36}","item":\{"type":"([^"]*)"',
    re.DOTALL,
)
TAGGED = {"event_msg", "response_item", "retained_context", "realtime_item"}
ALIASES = {
    "event_msg.turn_started": "event_msg.task_started",
    "event_msg.turn_complete": "event_msg.task_complete",
}
MARK = "## My request for Codex:"
LINE_BYTES_MAX = 64 * 1024 * 1024
ASKED_FOR = {
    "session_meta", "turn_context", "event_msg.thread_settings_applied", "event_msg.user_message",
    "event_msg.item_completed.UserMessage", "event_msg.thread_goal_updated", "event_msg.token_count",
    "event_msg.task_started",
}  # fmt: skip


@dataclass
class Read:
    """What the reader found in one rollout."""

    path: str
    name: re.Match[str]
    compressed: bool
    thread_id: str
    identity: dict[str, Any] | None = None
    inherited_below: int = 0
    records: int = 0
    damage: list[tuple[int, int, str]] = field(default_factory=list)
    seen_records: int = 0
    seen_damaged: int = 0
    set_aside: list[tuple[int, int, str | None]] = field(default_factory=list)
    followed: int = 0
    ordinal: int | None = None
    first_ms: int | None = None
    last_ms: int | None = None
    turn_ms: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    goal: tuple[Any, ...] | None = None
    deferred_at: int | None = None
    turn_at: int = -1

    @property
    def rollout_id(self) -> str:
        return (self.name[3] or self.thread_id).lower()

    @property
    def base(self) -> str | None:
        base = (self.identity or {}).get("history_base")
        return base["thread_id"] if base else None


def read_home(
    home: str, unpack: Callable[[bytes], bytes] | None = None
) -> tuple[dict[str, dict[str, Any]], list[Read]]:
    """The rows of all threads by id, and every rollout [1, 5, 6]."""
    found = [read_rollout(home, path, unpack) for path in find(home)]
    threads: dict[str, list[Read]] = {}
    for each in found:
        if each.seen_records:
            threads.setdefault(each.thread_id, []).append(each)
    return {thread_id: row_of(head(several)) for thread_id, several in threads.items()}, found


def find(home: str) -> Iterator[str]:
    """The logical path of every rollout [1]."""
    for root in ("sessions", "archived_sessions"):
        for folder, _, names in os.walk(os.path.join(home, root)):
            for name in names:
                full = os.path.join(folder, name)
                hidden = name.endswith(".zst") and name.removesuffix(".zst") in names
                if NAME.fullmatch(name) and not hidden and not os.path.islink(full):
                    yield os.path.relpath(full, home).removesuffix(".zst")


def head(several: list[Read]) -> Read:
    """Which of a thread's rollouts its row is folded from [5]."""
    bases = {each.base for each in several if each.base != each.rollout_id}
    return max(several, key=lambda e: (e.rollout_id not in bases, e.name[1], e.path.startswith("sessions/"), e.path))


def read_rollout(home: str, path: str, unpack: Callable[[bytes], bytes] | None) -> Read:
    full = os.path.join(home, path)
    compressed = not os.path.exists(full)
    with open(full + ".zst" * compressed, "rb") as file:
        data = file.read()
    if compressed:
        assert unpack is not None
        data = unpack(data)
    name = NAME.fullmatch(os.path.basename(path))
    assert name is not None
    read = Read(path, name, compressed, name[2].lower())
    for offset, line, ended in lines(data):
        take(read, offset, line, ended=ended)
    return read


def lines(data: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Offset, bytes, and whether a LF ended it [3]."""
    at = 0
    while at < len(data):
        stop = data.find(b"\n", at)
        yield (at, data[at:], False) if stop < 0 else (at, data[at:stop], True)
        at = len(data) if stop < 0 else stop + 1


def take(read: Read, offset: int, line: bytes, *, ended: bool) -> None:
    """One line: count it, judge it, and fold it [3, 6, 8]."""
    text = line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
    end = offset + len(line) + ended
    if not text.strip(b" \t\r"):
        read.followed = end
        return
    too_long = len(line) + ended > LINE_BYTES_MAX
    record, look = (None, "too long") if too_long else judge(text)
    if record is None:
        read.damage.append((offset, len(line), look))
        if not ended:
            return  # the tail
    else:
        read.records += 1
    read.followed = end
    canonical = None if too_long or text is not line else HEAD.match(line)
    kind = kind_by_sight(line[canonical.end() :]) if canonical else None
    if kind is None and record is None:
        read.seen_damaged += 1
        read.set_aside.append((offset, len(line), None))
    else:
        read.seen_records += 1
    if record is not None:
        note_time(read, record["timestamp"][0], record["ordinal"][0])
        kind = kind_of(record) if kind is None else kind
    elif canonical:
        note_time(read, canonical[1].decode("latin-1"), int(canonical[2]) if canonical[2] else None)
    if kind not in ASKED_FOR:
        return
    newest_only = kind in ("event_msg.token_count", "event_msg.task_started")
    if (record is None or not apply(read, record, kind, offset)) and not newest_only:
        read.set_aside.append((offset, len(line), kind))


Fields = dict[str, tuple[Any, str]]
"""Key to value and the text it was written with."""


def judge(line: bytes) -> tuple[Fields | None, str]:
    """The envelope's fields, or what the bytes look like [3]."""
    if not line.strip(b"\0 \t\r"):
        return None, "NUL"
    try:
        value, fields = parse(line.decode())
    except UnicodeDecodeError:
        return None, "not UTF-8"
    except RecursionError:
        return None, "too deep"
    except ValueError:
        return None, look_of(line)
    ordinal = value.setdefault("ordinal", None) if isinstance(value, dict) else None
    fields.setdefault("ordinal", (None, "null"))
    right = (
        isinstance(value, dict)
        and isinstance(value.get("timestamp"), str)
        and isinstance(value.get("type"), str)
        and isinstance(value.get("payload"), dict)
        and (ordinal is None or (type(ordinal) is int and 0 <= ordinal < 1 << 63))
    )
    return (fields, "") if right else (None, "foreign")


def look_of(line: bytes) -> str:
    """What bytes look like that are text and not JSON [3]."""
    glued = re.split(rb'(?<=\})(?=\{"timestamp":")', line)
    if len(glued) > 1 and all(judge(part)[0] is not None for part in glued):
        return "glued"
    if line.rstrip().endswith(b"}") and re.search(rb"\\u[dD][89a-fA-F]", line):
        return "surrogate"
    return "torn" if line.startswith(b'{"timestamp":"') else "garbage"


def refuse(word: str) -> None:
    raise ValueError(word)


DECODER = json.JSONDecoder(parse_constant=refuse)


def parse(text: str) -> tuple[Any, Fields]:
    """A JSON text, strictly, and where it is an object its members as they were written."""
    text = text.strip(" \t\r\n")
    value, end = DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError("something follows")
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # raises where a surrogate is alone
    return value, members(text) if isinstance(value, dict) else {}


def members(text: str) -> Fields:
    found: Fields = {}
    at = text.index("{") + 1
    while True:
        at = skip(text, at, ", \t\r\n")
        if text[at] == "}":
            return found
        key, at = DECODER.raw_decode(text, at)
        at = skip(text, at, ": \t\r\n")
        value, end = DECODER.raw_decode(text, at)
        found[key] = value, text[at:end]
        at = end


def skip(text: str, at: int, characters: str) -> int:
    while text[at] in characters:
        at += 1
    return at


def kind_by_sight(rest: bytes) -> str | None:
    """The kind of a canonical line from what follows `"type":"`, None where it must be decoded, "" where nobody asks [8]."""
    for plain in (b"session_meta", b"turn_context"):
        if rest.startswith(plain + b'"'):
            return plain.decode() if rest.startswith(plain + b'","payload":') else None
    if not rest.startswith(b'event_msg"'):
        return ""
    event = EVENT.match(rest)
    if event is None:
        return None
    tag = event[1].decode("latin-1")
    if tag != "item_completed":
        return ALIASES.get(f"event_msg.{tag}", f"event_msg.{tag}")
    item = ITEM.match(rest)
    return None if item is None else f"event_msg.item_completed.{item[1].decode('latin-1')}"


def kind_of(record: Fields) -> str:
    """A record's kind [4]."""
    type_, payload = record["type"][0], record["payload"][0]
    tag = payload.get("type")
    if type_ not in TAGGED or not isinstance(tag, str):
        return str(type_)
    kind = ALIASES.get(f"{type_}.{tag}", f"{type_}.{tag}")
    item = payload.get("item")
    inner = item.get("type") if isinstance(item, dict) else None
    return f"{kind}.{inner}" if kind == "event_msg.item_completed" and isinstance(inner, str) else kind


def note_time(read: Read, text: str, ordinal: int | None) -> None:
    at_ms = ms(text)
    if at_ms is not None:
        read.first_ms = at_ms if read.first_ms is None else read.first_ms
        read.last_ms, read.ordinal = at_ms, ordinal


def ms(text: str | None) -> int | None:
    """A time in Unix milliseconds [2]."""
    if text and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", text):
        text = text[:13] + ":" + text[14:16] + ":" + text[17:]
    try:
        when = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    past = when - datetime(1970, 1, 1, tzinfo=UTC)
    return (past.days * 86_400 + past.seconds) * 1000 + past.microseconds // 1000


# What a field must be; one that is something else counts as missing [4].

Shape = Callable[[Any], Any]
"""Gives what counts of a value; raises `Missing` where nothing does."""


class Missing(Exception):
    """The value is not what the field should be."""


def anything(value: Any) -> Any:
    return value


def kept(*types: type) -> Shape:
    def clean(value: Any) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise Missing
        return value

    return clean


text = kept(str)
text_or_null = kept(str, type(None))
list_or_null = kept(list, type(None))
number = kept(int, float)


def ordinal_or_null(value: Any) -> Any:
    if value is not None and not 0 <= kept(int)(value) < 1 << 63:
        raise Missing
    return value


def list_of(item: Shape) -> Shape:
    def clean(value: Any) -> Any:
        found = []
        for each in kept(list)(value):
            with contextlib.suppress(Missing):
                found.append(item(each))
        return found

    return clean


def mapping(required: str = "", *, null: bool = False, **shape: Shape) -> Shape:
    def clean(value: Any) -> Any:
        if value is None and null:
            return None
        found = {}
        for key, field_shape in shape.items():
            with contextlib.suppress(Missing):
                if key in kept(dict)(value):
                    found[key] = field_shape(value[key])
        if not isinstance(value, dict) or any(key not in found for key in required.split()):
            raise Missing
        return found

    return clean


SETTINGS = dict.fromkeys("model model_provider_id cwd reasoning_effort".split(), text_or_null)
SHAPES: dict[str, Shape] = {
    "session_meta": mapping(
        "id",
        **dict.fromkeys(
            "session_id timestamp cwd originator cli_version thread_source agent_nickname agent_role agent_type "
            "agent_path model_provider memory_mode history_mode forked_from_id parent_thread_id".split(),
            text_or_null,
        ),
        id=text,
        source=anything,
        history_base=mapping("thread_id", null=True, thread_id=text),
        subagent_history_start_ordinal=ordinal_or_null,
        git=mapping(null=True, commit_hash=text_or_null, branch=text_or_null, repository_url=text_or_null),
    ),
    "turn_context": mapping(
        **dict.fromkeys(("cwd", "model", "effort"), text_or_null),
        **dict.fromkeys(("approval_policy", "permission_profile", "sandbox_policy"), anything),
    ),
    "event_msg.thread_settings_applied": mapping("thread_settings", thread_settings=mapping(**SETTINGS)),
    "event_msg.user_message": mapping(
        message=text, **dict.fromkeys(("images", "local_images", "audio", "local_audio"), list_or_null)
    ),
    "event_msg.item_completed.UserMessage": mapping(
        "item", item=mapping(content=list_of(mapping(type=text, text=text_or_null)))
    ),
    "event_msg.thread_goal_updated": mapping(
        threadId=text_or_null,
        deferred=kept(bool, type(None)),
        goal=mapping(
            null=True,
            **dict.fromkeys(("objective", "status", "threadId", "goalId"), text_or_null),
            **dict.fromkeys(
                "tokenBudget tokensUsed timeUsedSeconds createdAt updatedAt createdAtMs updatedAtMs".split(),
                kept(int, type(None)),
            ),
        ),
    ),
    "event_msg.token_count": mapping(
        info=mapping(null=True, total_token_usage=mapping(null=True, total_tokens=number))
    ),
    "event_msg.task_started": mapping(),
}


def apply(read: Read, record: Fields, kind: str, offset: int) -> bool:
    """Fold one record; False where it is to be set aside [4, 5, 6]."""
    raw = {key: written for key, (_, written) in members(record["payload"][1]).items()}
    try:
        got = SHAPES[kind](record["payload"][0])
    except Missing:
        return False
    if kind == "session_meta":
        return take_meta(read, got, raw, offset, ms(record["timestamp"][0]))
    ordinal = record["ordinal"][0]
    if ordinal is not None and ordinal < read.inherited_below:
        return True
    facts = read.facts
    if kind == "turn_context":
        facts["cwd"] = facts.get("cwd") or got.get("cwd")
        take_settings(facts, got.get("model"), got.get("effort"), raw)
    elif kind == "event_msg.thread_settings_applied":
        settings = got["thread_settings"]
        take_settings(
            facts,
            settings.get("model"),
            settings.get("reasoning_effort"),
            {key: written for key, (_, written) in members(raw["thread_settings"]).items()},
        )
        facts["model_provider"] = settings.get("model_provider_id") or facts.get("model_provider")
        facts["cwd"] = settings.get("cwd") or facts.get("cwd")
    elif kind == "event_msg.token_count":
        usage = (got.get("info") or {}).get("total_token_usage")
        if usage is not None and usage.get("total_tokens") is not None:
            facts["tokens_used"] = max(int(usage["total_tokens"]), 0)
    elif kind == "event_msg.task_started":
        at_ms = ms(record["timestamp"][0])
        read.turn_ms, read.turn_at = (read.turn_ms, read.turn_at) if at_ms is None else (at_ms, offset)
    elif kind == "event_msg.thread_goal_updated":
        objective = cut(((got.get("goal") or {}).get("objective") or "").strip())
        facts["preview"] = facts.get("preview") or objective or None
        take_goal(read, got, offset)
    else:
        take_words(facts, *said(kind, got))
    return True


def take_goal(read: Read, got: dict[str, Any], offset: int) -> None:
    """A record of a goal [13]."""
    goal = got.get("goal") or {}
    objective = (goal.get("objective") or "").strip()
    if not objective or (got.get("threadId") or goal.get("threadId") or read.thread_id).lower() != read.thread_id:
        return

    def count(name: str) -> int:
        return max(goal.get(name) or 0, 0)

    def time(name: str, other: int) -> int:
        if goal.get(f"{name}Ms") is not None:
            return count(f"{name}Ms")
        return other if goal.get(name) is None else count(name) * 1000

    digest = bytearray(sha256(f"{read.thread_id} {count('createdAt')}".encode()).digest()[:16])
    digest[6], digest[8] = 0x80 | digest[6] & 0x0F, 0x80 | digest[8] & 0x3F
    status = (goal.get("status") or "active")[:64]
    created = time("createdAt", 0)
    read.goal = (
        (goal.get("goalId") or "")[:256] or str(UUID(bytes=bytes(digest))),
        objective[:4_000],
        {"usageLimited": "usage_limited", "budgetLimited": "budget_limited"}.get(status, status),
        None if goal.get("tokenBudget") is None else count("tokenBudget"),
        count("tokensUsed"),
        count("timeUsedSeconds"),
        created,
        time("updatedAt", created),
    )
    if got.get("deferred") is not None:
        read.deferred_at = offset if got["deferred"] else None


def take_meta(read: Read, got: dict[str, Any], raw: dict[str, str], offset: int, at_ms: int | None) -> bool:
    if not re.fullmatch(ID, got["id"]):
        return False
    thread_id = got["id"].lower()
    if read.identity is None and (offset == 0 or thread_id == read.thread_id):
        read.identity, read.thread_id = got, thread_id
        read.inherited_below = (got.get("subagent_history_start_ordinal") or 0) if offset == 0 else 0
    elif read.identity is None or thread_id != read.thread_id:
        return True
    facts = read.facts
    source = got.get("source")
    subagent = source.get("subagent") if isinstance(source, dict) else None
    spawn = (subagent.get("thread_spawn") if isinstance(subagent, dict) else None) or {}
    facts["source"] = word(raw.get("source")) or "vscode"
    facts["thread_source"] = got.get("thread_source")
    for key in ("agent_nickname", "agent_path", "parent_thread_id"):
        facts[key] = got.get(key) or spawn.get(key)
    roles = (got.get("agent_role"), got.get("agent_type"), spawn.get("agent_role"), spawn.get("agent_type"))
    facts["agent_role"] = next((role for role in roles if role), None)
    for key in ("originator", "model_provider", "cli_version", "cwd", "memory_mode"):
        facts[key] = got.get(key) or facts.get(key)
    if got.get("memory_mode"):
        facts["memory_mode_at_ms"] = at_ms
    git = got.get("git")
    if git is not None:
        facts["git_sha"], facts["git_branch"] = git.get("commit_hash"), git.get("branch")
        facts["git_origin_url"] = git.get("repository_url")
    return True


def take_settings(facts: dict[str, Any], model: str | None, effort: str | None, raw: dict[str, str]) -> None:
    facts["model"], facts["reasoning_effort"] = model, effort
    facts["sandbox_policy"] = word(raw.get("permission_profile")) or word(raw.get("sandbox_policy"))
    approval = word(raw.get("approval_policy"))
    facts["approval_mode"] = "on-request" if approval == "on-failure" else approval


def said(kind: str, got: dict[str, Any]) -> tuple[str, bool, bool]:
    """A user message's text, and whether it has images and audio [6]."""
    if kind == "event_msg.user_message":
        images = bool(got.get("images") or got.get("local_images"))
        return got.get("message", ""), images, bool(got.get("audio") or got.get("local_audio"))
    content = got["item"].get("content", [])
    tags = {part.get("type", "") for part in content}
    text = "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return (
        text,
        bool(tags & {"image", "localImage", "local_image"}),
        bool(tags & {"audio", "localAudio", "local_audio"}),
    )


def take_words(facts: dict[str, Any], text: str, images: bool, audio: bool) -> None:
    _, mark, request = text.partition(MARK)
    words = cut((request.strip() if mark else "") or text.strip())
    shown = words or ("[Image]" if images else "[Audio]" if audio else None)
    facts["title"] = facts.get("title") or words or None
    for key in ("preview", "first_user_message"):
        facts[key] = facts.get(key) or shown


def cut(text: str) -> str:
    return text.encode()[: 16 * 1024].decode("utf-8", "ignore")


def word(raw: str | None) -> str | None:
    """A text as it is, anything else as compact JSON [6]."""
    if raw is None or raw == "null":
        return None
    if raw.startswith('"'):
        return str(json.loads(raw))
    return re.sub(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+', lambda found: found[1] or "", raw)


def row_of(read: Read) -> dict[str, Any]:
    """A thread's row [6]."""
    facts, identity = read.facts, read.identity or {}
    aged = read.rollout_id != read.thread_id and read.thread_id[14] == "7"
    ages = (
        int(read.thread_id.replace("-", "")[:12], 16) if aged else None,
        ms(identity.get("timestamp")),
        read.first_ms,
        ms(read.name[1]),
    )
    created = next((age for age in ages if age is not None), 0)
    updated = created if read.last_ms is None else read.last_ms
    used = updated if facts.get("first_user_message") else created
    return {
        **dict.fromkeys(
            "thread_source originator parent_thread_id agent_nickname agent_role agent_path model_provider model "
            "reasoning_effort cwd cli_version title preview first_user_message git_sha git_branch git_origin_url".split()
        ),
        **facts,
        "id": read.thread_id,
        "rollout_path": read.path,
        "rollout_id": read.rollout_id,
        "session_id": identity.get("session_id") or read.thread_id,
        "created_at_ms": created,
        "updated_at_ms": updated,
        "recency_at_ms": used if read.turn_ms is None else read.turn_ms,
        "source": facts.get("source", "unknown"),
        "history_mode": identity.get("history_mode") or "legacy",
        "forked_from_id": identity.get("forked_from_id"),
        "sandbox_policy": facts.get("sandbox_policy") or '{"type":"read-only"}',
        "approval_mode": facts.get("approval_mode") or "on-request",
        "tokens_used": facts.get("tokens_used", 0),
        "memory_mode": facts.get("memory_mode") or "enabled",
        "memory_mode_at_ms": facts.get("memory_mode_at_ms"),
        "archived": int(read.path.startswith("archived_sessions/")),
    }


# --- The tests. ---

DEEP = b'{"timestamp":"","type":"","payload":{"a":' + b"[" * 100_000
GLUED = b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"a","payload":{}}' * 2

PLANS = {
    "all modes": HomePlan(threads=40, seed=1),
    "legacy": HomePlan(threads=25, seed=2, paginated=0.0, forks=0.3, subagents=0.3),
    "paginated with forks, sub-agents and reverts": HomePlan(
        threads=30, seed=3, paginated=1.0, forks=0.25, subagents=0.3, reverted=0.3
    ),
    "over several blocks of a reader": HomePlan(threads=6, seed=6, bytes_min=600_000, bytes_max=900_000),
    "compressed": HomePlan(threads=20, seed=4, compressed=0.6),
}


def unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
        return reader.read()


def tables(opened: engine.Engine) -> Transaction:
    """A look into the state database, of the kind that the page allows anybody."""
    return opened._database.read()


def engine_rows(opened: engine.Engine) -> dict[str, dict[str, Any]]:
    with tables(opened) as transaction:
        rows = transaction.rows(f"SELECT {', '.join(COLUMNS)} FROM threads")
        return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows}


def compare(home: Path, state: Path) -> list[Read]:
    """Read a home both ways and want the same: rows, counts, what was set aside, and every damaged byte."""
    rows, found = read_home(str(home), unzstd)
    with engine.open(str(home), state_dir=str(state)) as opened:
        opened.backfill()
        assert engine_rows(opened) == rows
        with tables(opened) as transaction:
            streams = transaction.rows(
                "SELECT path, thread_id, rollout_id, base_rollout_id, named_at, archived, compressed, records, damaged"
                " FROM streams"
            )
            assert sorted(streams) == sorted(
                (
                    each.path, each.thread_id, each.rollout_id, each.base, each.name[1],
                    int(each.path.startswith("archived_sessions/")), int(each.compressed), each.seen_records,
                    each.seen_damaged,
                )
                for each in found
            )  # fmt: skip
            told = {
                each.path: (*each.goal, int((each.deferred_at or -1) > each.turn_at)) for each in found if each.goal
            }
            assert {path: tuple(row) for path, *row in transaction.rows("SELECT * FROM goals")} == told
            aside = transaction.rows('SELECT stream, "offset", length, kind FROM set_aside')
            assert sorted(aside, key=str) == sorted(
                ((each.path, *one) for each in found for one in each.set_aside), key=str
            )
        assert opened.audit(deep=True).checked.records == sum(each.records for each in found)
    assert {each.path: engine_damage(home, each) for each in found} == {each.path: each.damage for each in found}
    return found


def engine_damage(home: Path, read: Read) -> list[tuple[int, int, str]]:
    path = str(home / read.path) + ".zst" * read.compressed
    source = open_source(path, compressed=read.compressed, files=Files(), options=Options())
    try:
        found = records(source, 0, None, Options())
        return [(each.offset, each.length, each.look) for each in found if isinstance(each, Damage)]
    finally:
        source.close()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_a_reader_built_from_the_page_finds_what_the_engine_finds(tmp_path: Path, plan: HomePlan) -> None:
    """Both history modes, forks, sub-agents, reverts and compressed rollouts: all columns of all threads are equal."""
    make_home(tmp_path / "home", plan)
    found = compare(tmp_path / "home", tmp_path / "state")
    assert len(found) >= plan.threads
    assert sum(len(each.damage) for each in found) == 0


# As root a file of mode 000 can be read; elsewhere this reader, which has no rule for it, would stop.
@pytest.mark.parametrize("damage", sorted(DAMAGES.keys() - {"unreadable"}))
def test_the_page_says_what_every_damage_leaves(tmp_path: Path, damage: str) -> None:
    """Three rollouts of different kinds are damaged in one way: rows, counts, set-aside records and spans are equal."""
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=14, seed=7, forks=0.2, subagents=0.2, reverted=0.1, bytes_min=4_000))
    struck = 0
    for thread in made:
        try:
            DAMAGES[damage](home, thread, Random(thread.id))
        except (ValueError, FileExistsError):
            continue  # it has no place for this damage, or a neighbour has had it
        struck += 1
        if struck == (1 if damage == "line-of-50-mb" else 3):
            break
    assert struck
    compare(home, tmp_path / "state")


def test_a_home_written_by_hand_gives_the_rows_written_beside_it(tmp_path: Path) -> None:
    """Odd shapes that no generator makes.

    Aliases, other key orders, wrong types, cleared git, a lost first line, a revert by a clock that was off.
    """
    shutil.copytree(WRITTEN_BY_HAND / "home", tmp_path / "home")
    expected = json.loads((WRITTEN_BY_HAND / "expected.json").read_text("utf-8"))
    found = compare(tmp_path / "home", tmp_path / "state")
    rows, _ = read_home(str(tmp_path / "home"))
    for thread_id, row in expected["threads"].items():
        assert {key: rows[thread_id][key] for key in row} == row, thread_id
    assert rows.keys() == expected["threads"].keys()
    by_name = {each.path.rpartition("/")[2]: each for each in found}
    for name, (records_, damage, aside) in expected["rollouts"].items():
        read = by_name[name]
        assert (read.records, [list(each) for each in read.damage]) == (records_, damage), name
        assert [kind for _, _, kind in read.set_aside] == aside, name
    assert by_name.keys() == expected["rollouts"].keys()


def test_a_watermark_can_be_computed_from_the_bytes_as_the_page_says(tmp_path: Path) -> None:
    """Offset, ordinal, chain and tail of rollouts over and under 64 KiB, of one with a torn tail and of an empty one."""
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=12, seed=5, bytes_min=3_000, bytes_max=400_000, compressed=0.2))
    plain = [thread for thread in made if not thread.compressed]
    DAMAGES["torn-last-line"](home, plain[0], Random(0))
    DAMAGES["empty-file"](home, plain[1], Random(0))
    _, found = read_home(str(home), unzstd)
    wanted = {}
    for each in found:
        data = (home / (each.path + ".zst" * each.compressed)).read_bytes()
        data = (unzstd(data) if each.compressed else data)[: each.followed]
        chain = bytes(16)
        for start in range(0, len(data) - 65_535, 65_536):
            chain = xxh3_128_digest(chain + data[start : start + 65_536])
        wanted[each.path] = (2, each.followed, each.ordinal, chain, xxh3_128_digest(data[-65_536:]))
    with engine.open(str(home), state_dir=str(tmp_path / "state")) as opened:
        opened.backfill()
        with tables(opened) as transaction:
            sql = 'SELECT stream, version, "offset", ordinal, chain, tail FROM watermarks WHERE projection = :name'
            assert {path: tuple(rest) for path, *rest in transaction.rows(sql, {"name": "threads"})} == wanted
    assert sum(mark[1] >= 65_536 for mark in wanted.values()) >= 2
    assert {wanted[plain[1].path][1], (home / plain[0].path).stat().st_size - wanted[plain[0].path][1]} > {0}


def test_the_page_names_every_table_and_column(tmp_path: Path) -> None:
    """A column that is added without a word here fails this."""
    text = DOCUMENT.read_text("utf-8")
    own_files = text.partition("## 8. The engine's own files")[2]
    missing = []
    with engine.open(str(make_empty_home(tmp_path)), state_dir=str(tmp_path / "state")) as opened:
        for database in (opened._database, opened._jobs):
            assert database is not None
            with database.read() as transaction:
                for (table,) in list(transaction.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")):
                    where = text if table == "threads" else own_files
                    names = [table, *(row[1] for row in transaction.rows(f"PRAGMA table_info({table})"))]
                    missing += [f"{table}.{name}" for name in names if f"`{name}`" not in where]
    assert missing == []


def make_empty_home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_page_names_the_kinds_columns_and_looks_that_there_are() -> None:
    """Kinds that the projection asks for, its version, the columns of a row, and the words for damage."""
    text = DOCUMENT.read_text("utf-8")
    kinds = text.partition("The threads table asks for")[2].partition("## 5.")[0]
    assert set(re.findall(r"^\| `([\w.]+)` \|", kinds, re.MULTILINE)) == THREADS.kinds | THREADS.latest == ASKED_FOR
    row = text.partition("## 6. A thread's row")[2].partition("**What a user message shows.**")[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", row, re.MULTILINE)
    named_columns = [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named_columns) == sorted(COLUMNS)
    assert f"section 6 are version {THREADS.version}" in text
    table = text.partition("| look |")[2].partition("## 4.")[0]
    looks = set(re.findall(r"^\| `([\w -]+)` \| [^|]+\|$", table, re.MULTILINE))
    found: set[str] = {"broken", TOO_LONG[0]}
    for line in (b"\0\0", b"\xff", b"{}", b"no", b'{"timestamp":"', b'{"timestamp":"\\ud800"}', DEEP, GLUED):
        with pytest.raises(Rejected) as caught:
            decode(line)
        found.add(caught.value.look)
    assert looks == found


def test_the_page_is_enough_to_read_goals_by(tmp_path: Path) -> None:
    """Those of the engine, a fork's that waits and one whose turn began, and odd ones of another program."""
    with engine.open(str(make_empty_home(tmp_path)), state_dir=str(tmp_path / "own")) as e:
        parent = e.threads.create(cwd="/")
        with parent.turn() as turn:
            turn.user_message("hello")
        e.goals.replace(parent.id, "all tests pass", token_budget=5)
        e.goals.account(parent.id, tokens=7, seconds=2)
        e.threads.fork(parent.id)
        with e.threads.fork(parent.id) as begun, begun.turn() as turn:
            turn.user_message("go on")
        goal = {"objective": " x ", "status": "someLaterStatus", "createdAt": 1_795_369_505, "tokensUsed": -4}
        for more in ({}, {"updatedAt": 1_795_369_507, "tokenBudget": 9}, {"goalId": "", "createdAtMs": None}):
            thread = e.threads.create(cwd="/")
            said = {"type": "thread_goal_updated", "goal": {**goal, **more}}
            thread.append([{"type": "event_msg", "payload": said}])
            thread.append([{"type": "event_msg", "payload": {**said, "threadId": parent.id}}])
    found = compare(tmp_path / "home", tmp_path / "state")
    assert [each.goal is not None for each in found] == [True] * 6
    assert sorted((each.deferred_at or -1) > each.turn_at for each in found) == [False] * 5 + [True]
