"""The threads projection: who a thread is and how it stands, one row a thread, folded from its head rollout.

Which record sets which field is codex_state.md 3.3; where this differs from the Codex CLI's own tables, docs/FORMAT.md
says why. Times come from records, never from the file system. `archived` is the folder the file is in. What was decided
about a thread from outside (its name, say) is not here: that is the journal's to tell.

Its part `goals.py` has what the records say of the thread's goal, a row a rollout.

A thread may have several rollouts: a revert starts a second one, and copies happen. Each is folded by itself and stands
in `streams`; the row shows the head, which is the rollout that no other of the thread's rollouts names as its base,
present before missing, newest name first, active before archived.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, field

from engine.events.payloads import (
    GoalUpdated,
    SessionMeta,
    ThreadSettingsApplied,
    TokenCount,
    TurnContext,
    UserItemCompleted,
    UserMessage,
)
from engine.events.record import Record, time_ms
from engine.events.upcast import (
    approval_of,
    content_of_item,
    content_of_message,
    policy_of,
    preview_text,
    source_of,
    spawn_of,
)
from engine.projections.goals import GoalPart, forget_goals, write_goals
from engine.projections.projection import Change, Piece, Stream
from engine.stores.layout import is_id, parse_path

if TYPE_CHECKING:
    from engine.stores.sqlite import Transaction, Value

TEXT_BYTES_MAX = 16 * 1024
"""Longer texts are cut in the row, so that a pasted file does not become part of every list; the rollout has it all."""

STREAM_COLUMNS = "path thread_id rollout_id base_rollout_id named_at archived records damaged".split()

_WORDS = (
    "base_rollout_id session_id thread_source originator history_mode forked_from_id parent_thread_id agent_nickname "
    "agent_role agent_path model_provider model reasoning_effort cli_version approval_mode memory_mode git_sha "
    "git_branch git_origin_url"
).split()
_WORD_BYTES_MAX = 256
_words_of = attrgetter(*_WORDS)
_LONGER = {"source": 2048, "cwd": 4096, "sandbox_policy": 4096}
_BYTES_MAX = {**dict.fromkeys(_WORDS, _WORD_BYTES_MAX), **_LONGER}
"""What else of a thread is text, and how much of it a row keeps. With the three texts a fold state stays below 64 KiB."""

TOO_LONG_JSON = '{"type":"too long to be kept"}'
DEFAULT_SANDBOX = '{"type":"read-only"}'
DEFAULT_APPROVAL = "on-request"

COLUMNS = (
    "id rollout_path rollout_id session_id created_at_ms updated_at_ms recency_at_ms source thread_source originator "
    "history_mode forked_from_id parent_thread_id agent_nickname agent_role agent_path model_provider model "
    "reasoning_effort cwd cli_version title preview first_user_message sandbox_policy approval_mode tokens_used "
    "memory_mode memory_mode_at_ms git_sha git_branch git_origin_url archived"
).split()


class ThreadState(Struct, array_like=True):
    """What the records of one rollout said so far. None where nothing did."""

    thread_id: str
    identified: bool = False
    base_rollout_id: str | None = None
    inherited_below: int = 0
    records: int = 0
    damaged: int = 0
    created_at_ms: int | None = None
    first_at_ms: int | None = None
    last_at_ms: int | None = None
    turn_at_ms: int | None = None
    session_id: str | None = None
    source: str | None = None
    thread_source: str | None = None
    originator: str | None = None
    history_mode: str = "legacy"
    forked_from_id: str | None = None
    parent_thread_id: str | None = None
    agent_nickname: str | None = None
    agent_role: str | None = None
    agent_path: str | None = None
    model_provider: str | None = None
    model: str | None = None
    reasoning_effort: str | None = None
    cwd: str | None = None
    cli_version: str | None = None
    title: str | None = None
    preview: str | None = None
    first_user_message: str | None = None
    sandbox_policy: str | None = None
    approval_mode: str | None = None
    tokens_used: int = 0
    memory_mode: str | None = None
    git_sha: str | None = None
    git_branch: str | None = None
    git_origin_url: str | None = None
    memory_mode_at_ms: int | None = None
    goal: GoalPart = field(default_factory=GoalPart)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(ThreadState)


class Threads:
    """The projection. It follows the protocol that a user's own projection follows."""

    name = "threads"
    version = 2
    kinds = frozenset(
        {
            "session_meta",
            "turn_context",
            "event_msg.thread_settings_applied",
            "event_msg.user_message",
            "event_msg.item_completed.UserMessage",
            "event_msg.thread_goal_updated",
        }
    )
    latest = frozenset({"event_msg.token_count", "event_msg.task_started"})

    def start(self, stream: Stream) -> ThreadState:
        return ThreadState(thread_id=stream.name.thread_id)

    def apply(self, state: ThreadState, record: Record[Any], kind: str, offset: int) -> bool:
        if kind == "session_meta":
            return _apply_meta(state, record, offset)
        if record.ordinal is not None and record.ordinal < state.inherited_below:
            return False
        if kind in _APPLY_AT:
            return _APPLY_AT[kind](state, record, offset)
        return _APPLY[kind](state, record)

    def close_piece(self, state: ThreadState, piece: Piece) -> None:
        state.records += piece.records
        state.damaged += piece.damaged
        if state.first_at_ms is None:
            state.first_at_ms = piece.first_at_ms
        if piece.last_at_ms is not None:
            state.last_at_ms = piece.last_at_ms
        # Nearly always none of the words is too long, which one look at all of them tells.
        is_long = max(map(len, filter(None, _words_of(state))), default=0) > _WORD_BYTES_MAX // 4
        for name, bytes_max in (_BYTES_MAX if is_long else _LONGER).items():
            value = getattr(state, name)
            if value is not None and len(value) > bytes_max // 4:
                setattr(state, name, _bounded(value, bytes_max))

    def emit(self, state: ThreadState) -> list[Any]:
        return state.goal.emit()  # all but the goal's row is in the state

    def encode(self, state: ThreadState) -> bytes:
        return _ENCODER.encode(state)

    def decode(self, blob: bytes) -> ThreadState:
        return _DECODER.decode(blob)

    def write(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        paths = [change.stream.path for change in changes]
        touched = _threads_of(transaction, paths) | {change.state.thread_id for change in changes}
        transaction.run_many(
            _UPSERT_STREAM, [(*stream_row(change.stream, change.state), int(change.compressed)) for change in changes]
        )
        write_goals(transaction, [(change, change.state.goal) for change in changes])
        self._choose_heads(transaction, touched, {change.stream.path: change for change in changes})

    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        touched = _threads_of(transaction, paths)
        transaction.run(
            "DELETE FROM streams WHERE path IN (SELECT value FROM json_each(:paths))", {"paths": _json(paths)}
        )
        forget_goals(transaction, paths)
        self._choose_heads(transaction, touched, {})

    def rechoose(self, transaction: Transaction, paths: Sequence[str]) -> None:
        """Write the rows of the threads of these streams again, after files came or went."""
        self._choose_heads(transaction, _threads_of(transaction, paths), {})

    def _choose_heads(self, transaction: Transaction, threads: Iterable[str], known: dict[str, Change]) -> None:
        """Write the row of each of these threads from its head's state; remove it where no rollout is left.

        Of a head whose state is not for us to read (a newer engine's, or an older one's in another form) the row is told
        the place alone: whoever folds that rollout next writes the rest.
        """
        named = sorted(threads)
        candidates: dict[str, list[Candidate]] = {thread: [] for thread in named}
        for path, thread, rollout, base, missing in transaction.rows(_STREAMS_OF, {"threads": _json(named)}):
            candidates[thread].append(Candidate(path, rollout, base, missing))
        heads = {thread: head_of(found).path for thread, found in candidates.items() if found}
        states = {path: known[path].state for path in heads.values() if path in known}
        states.update(self._stored_states(transaction, [path for path in heads.values() if path not in known]))
        rows = [thread_row(path, states[path]) for path in heads.values() if path in states]
        transaction.run_many(_UPSERT_THREAD, rows)
        for thread, path in heads.items():
            if path not in states:
                self._place(transaction, thread, path)
        gone = [thread for thread, found in candidates.items() if not found]
        if gone:
            transaction.run(
                "DELETE FROM threads WHERE id IN (SELECT value FROM json_each(:gone))", {"gone": _json(gone)}
            )

    def _place(self, transaction: Transaction, thread: str, path: str) -> None:
        """Say where the thread's head is, and have the engine that can read its state look at it again."""
        stream = stream_of(path)
        values: dict[str, Value] = {
            "id": thread,
            "path": path,
            "rollout_id": stream.name.own_rollout_id or thread,
            "archived": int(stream.archived),
        }
        if transaction.run(_PLACE, values):
            transaction.run(_LOOK_AGAIN, {"projection": self.name, "path": path})

    def _stored_states(self, transaction: Transaction, paths: Sequence[str]) -> dict[str, ThreadState]:
        if not paths:
            return {}
        values: dict[str, Value] = {"projection": self.name, "version": self.version, "paths": _json(paths)}
        states = {}
        for path, blob in transaction.rows(_STATES, values):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                states[path] = self.decode(blob)
        return states


class Candidate(Struct, frozen=True):
    """One of a thread's rollouts, when its head is chosen."""

    path: str
    rollout_id: str
    base_rollout_id: str | None
    missing: bool


def head_of(candidates: Sequence[Candidate]) -> Candidate:
    """A thread's head among its rollouts; the rule is in the module's docstring."""
    if len(candidates) == 1:
        return candidates[0]
    bases = {each.base_rollout_id for each in candidates if each.base_rollout_id not in (None, each.rollout_id)}

    def rank(each: Candidate) -> tuple[bool, bool, str, bool, str]:
        stream = stream_of(each.path)
        return (not each.missing, each.rollout_id not in bases, stream.name.named_at, not stream.archived, each.path)

    return max(candidates, key=rank)


def stream_of(path: str) -> Stream:
    """The stream of a logical path whose name was parsed before."""
    name = parse_path(path)
    assert name is not None, f"{path} was stored and is no rollout's path"
    return Stream(path, name)


def thread_row(path: str, state: ThreadState) -> tuple[Any, ...]:
    """A thread's row, in the order of `COLUMNS`."""
    stream = stream_of(path)
    created = _created_ms(stream, state)
    updated = state.last_at_ms if state.last_at_ms is not None else created
    recency = state.turn_at_ms
    if recency is None:
        # No turn was recorded: a thread that nobody has used yet, or a file from before turns were recorded.
        recency = updated if state.first_user_message else created
    return (
        state.thread_id,
        path,
        stream.name.own_rollout_id or state.thread_id,
        state.session_id or state.thread_id,
        created,
        updated,
        recency,
        state.source or "unknown",
        state.thread_source,
        state.originator,
        state.history_mode,
        state.forked_from_id,
        state.parent_thread_id,
        state.agent_nickname,
        state.agent_role,
        state.agent_path,
        state.model_provider,
        state.model,
        state.reasoning_effort,
        state.cwd,
        state.cli_version,
        state.title,
        state.preview,
        state.first_user_message,
        state.sandbox_policy or DEFAULT_SANDBOX,
        state.approval_mode or DEFAULT_APPROVAL,
        state.tokens_used,
        state.memory_mode or "enabled",
        state.memory_mode_at_ms,
        state.git_sha,
        state.git_branch,
        state.git_origin_url,
        int(stream.archived),
    )


def _created_ms(stream: Stream, state: ThreadState) -> int:
    """A revert's file is younger than its thread, whose age is in its id (a UUIDv7 begins with Unix milliseconds)."""
    if stream.name.own_rollout_id not in (None, state.thread_id) and state.thread_id[14] == "7":
        return int(state.thread_id.replace("-", "")[:12], 16)
    if state.created_at_ms is not None:
        return state.created_at_ms
    return state.first_at_ms if state.first_at_ms is not None else time_ms(stream.name.named_at) or 0


def _apply_meta(state: ThreadState, record: Record[SessionMeta], offset: int) -> bool:
    meta = record.payload
    if not is_id(meta.id):
        raise ValueError(f"session_meta.id is not a UUID: {meta.id[:64]!r}")
    thread_id = meta.id.lower()
    if not state.identified:
        # Only the very first line may name another thread than the file does: behind lost lines it may be a parent's copy.
        if thread_id != state.thread_id and offset != 0:
            return False
        _identify(state, meta, thread_id)
    elif thread_id != state.thread_id:
        return False
    spawn = spawn_of(meta.source)
    state.source = source_of(meta.source)
    state.thread_source = meta.thread_source
    state.agent_nickname = meta.agent_nickname or spawn.agent_nickname
    state.agent_role = meta.agent_role or meta.agent_type or spawn.agent_role or spawn.agent_type
    state.agent_path = meta.agent_path or spawn.agent_path
    state.parent_thread_id = meta.parent_thread_id or spawn.parent_thread_id
    state.originator = meta.originator or state.originator
    state.model_provider = meta.model_provider or state.model_provider
    state.cli_version = meta.cli_version or state.cli_version
    state.cwd = meta.cwd or state.cwd
    if meta.memory_mode:
        state.memory_mode, state.memory_mode_at_ms = meta.memory_mode, time_ms(record.timestamp)
    if meta.git is not UNSET and meta.git is not None:
        state.git_sha = meta.git.commit_hash
        state.git_branch = meta.git.branch
        state.git_origin_url = meta.git.repository_url
    return True


def _identify(state: ThreadState, meta: SessionMeta, thread_id: str) -> None:
    state.identified = True
    state.thread_id = thread_id
    state.session_id = meta.session_id
    state.created_at_ms = time_ms(meta.timestamp)
    state.history_mode = meta.history_mode or "legacy"
    state.forked_from_id = meta.forked_from_id
    state.base_rollout_id = meta.history_base.thread_id if meta.history_base is not None else None
    state.inherited_below = meta.subagent_history_start_ordinal or 0


def _apply_context(state: ThreadState, record: Record[TurnContext]) -> bool:
    context = record.payload
    state.cwd = state.cwd or context.cwd
    state.model = context.model
    state.reasoning_effort = context.effort
    state.sandbox_policy = policy_of(context.permission_profile, context.sandbox_policy)
    state.approval_mode = approval_of(context.approval_policy)
    return True


def _apply_settings(state: ThreadState, record: Record[ThreadSettingsApplied]) -> bool:
    settings = record.payload.thread_settings
    state.model = settings.model
    state.model_provider = settings.model_provider_id or state.model_provider
    state.reasoning_effort = settings.reasoning_effort
    state.cwd = settings.cwd or state.cwd
    state.sandbox_policy = policy_of(settings.permission_profile, settings.sandbox_policy)
    state.approval_mode = approval_of(settings.approval_policy)
    return True


def _apply_user_message(state: ThreadState, record: Record[UserMessage]) -> bool:
    return _take_user_text(state, *content_of_message(record.payload))


def _apply_user_item(state: ThreadState, record: Record[UserItemCompleted]) -> bool:
    return _take_user_text(state, *content_of_item(record.payload))


def _take_user_text(state: ThreadState, text: str, placeholder: str | None) -> bool:
    words = _cut(preview_text(text))
    shown = words or placeholder
    if shown is None:
        return False
    state.first_user_message = state.first_user_message or shown
    state.preview = state.preview or shown
    state.title = state.title or words or None
    return True


def _apply_goal(state: ThreadState, record: Record[GoalUpdated], offset: int) -> bool:
    goal = record.payload.goal
    objective = _cut((goal.objective or "").strip()) if goal is not None else ""
    if not objective:
        return False
    state.preview = state.preview or objective
    state.goal.take_goal(record.payload, state.thread_id, offset)
    return True


def _apply_tokens(state: ThreadState, record: Record[TokenCount]) -> bool:
    info = record.payload.info
    total = info.total_token_usage.total_tokens if info is not None and info.total_token_usage is not None else None
    if total is None:
        return False
    state.tokens_used = min(max(int(total), 0), (1 << 63) - 1)
    return True


def _apply_turn(state: ThreadState, record: Record[Any], offset: int) -> bool:
    at_ms = time_ms(record.timestamp)
    if at_ms is None:
        return False
    state.turn_at_ms, state.goal.turn_at = at_ms, offset
    return True


_APPLY: dict[str, Callable[[ThreadState, Record[Any]], bool]] = {
    "turn_context": _apply_context,
    "event_msg.thread_settings_applied": _apply_settings,
    "event_msg.user_message": _apply_user_message,
    "event_msg.item_completed.UserMessage": _apply_user_item,
    "event_msg.token_count": _apply_tokens,
}

_APPLY_AT: dict[str, Callable[[ThreadState, Record[Any], int], bool]] = {
    "event_msg.thread_goal_updated": _apply_goal,
    "event_msg.task_started": _apply_turn,
}
"""Those for which it matters where the record stands."""


def _cut(text: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """At most that many bytes of UTF-8, cut between characters."""
    if len(text) <= bytes_max // 4:
        return text
    return text.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")


def _bounded(value: str, bytes_max: int) -> str:
    """A text that is cut where it is too long; JSON, of which a part is none, becomes an object that says so."""
    cut = _cut(value, bytes_max)
    return TOO_LONG_JSON if cut != value and value.startswith("{") else cut


def _threads_of(transaction: Transaction, paths: Sequence[str]) -> set[str]:
    found = transaction.rows(
        "SELECT thread_id FROM streams WHERE path IN (SELECT value FROM json_each(:paths))", {"paths": _json(paths)}
    )
    return {thread for (thread,) in found}


def stream_row(stream: Stream, state: ThreadState) -> tuple[Any, ...]:
    """What is known of a rollout, in the order of `STREAM_COLUMNS`."""
    return (
        stream.path,
        state.thread_id,
        stream.name.own_rollout_id or state.thread_id,
        state.base_rollout_id,
        stream.name.named_at,
        int(stream.archived),
        state.records,
        state.damaged,
    )


def _json(values: Sequence[str]) -> str:
    return msgspec.json.encode(values).decode()


_UPSERT_STREAM = """
    INSERT INTO streams
        (path, thread_id, rollout_id, base_rollout_id, named_at, archived, records, damaged, compressed)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (path) DO UPDATE SET
        thread_id = excluded.thread_id, rollout_id = excluded.rollout_id, base_rollout_id = excluded.base_rollout_id,
        named_at = excluded.named_at, archived = excluded.archived, compressed = excluded.compressed,
        records = excluded.records, damaged = excluded.damaged, missing_since_ms = NULL
"""

_STREAMS_OF = """
    SELECT path, thread_id, rollout_id, base_rollout_id, missing_since_ms IS NOT NULL FROM streams
    WHERE thread_id IN (SELECT value FROM json_each(:threads)) AND records > 0
"""

_STATES = """
    SELECT stream, state FROM watermarks
    WHERE projection = :projection AND version <= :version AND stream IN (SELECT value FROM json_each(:paths))
"""

_PLACE = """
    UPDATE threads SET rollout_path = :path, rollout_id = :rollout_id, archived = :archived
    WHERE id = :id AND rollout_path <> :path
"""

_LOOK_AGAIN = "UPDATE watermarks SET mtime_ns = 0 WHERE projection = :projection AND stream = :path"

_UPSERT_THREAD = f"""
    INSERT INTO threads ({", ".join(COLUMNS)}) VALUES ({", ".join("?" * len(COLUMNS))})
    ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "id")}
"""  # noqa: S608 - the names are ours
