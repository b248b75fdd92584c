"""One rollout as it comes to be, line by line.

A `Conversation` renders records the way released versions of the Codex CLI write them: the same keys in the same order,
compact JSON, UTF-8 as it is. Three styles: `paginated` (0.169: ordinals, completed items), `legacy` (0.169 asked for
the older mode: the same metadata, events instead of items, no ordinals) and `old` (0.130: no ids, no history_mode).
While it renders it keeps `row`: what a thread's row must show after the lines so far, set by whoever writes the line
and never read back from it, so that a reader can be checked against it. Lines are made as they are asked for: memory
does not grow with the rollout. It knows nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from random import Random
from typing import NamedTuple

import orjson

from engine.testing import text

Step = Callable[["Conversation"], Iterator[bytes]]

FULL_TURN_BYTES = 9_000
"""With less than this left, a turn is the last one and is filled up to the size that was asked for."""

SMALL_ROLLOUT_BYTES = 8_000
"""Smaller rollouts leave out what a short one can do without."""

_FILLER_BYTES = {"paginated": 455, "legacy": 430, "old": 150}
_ENDING_BYTES = {"paginated": 2_550, "legacy": 2_290, "old": 1_130}
_SHORT_ENDING_BYTES = {"paginated": 600, "legacy": 390, "old": 390}
_DIRECT = {"type": "disabled"}
_READ_ONLY = {
    "type": "managed",
    "file_system": {
        "type": "restricted",
        "entries": [{"path": {"type": "special", "value": {"kind": "root"}}, "access": "read"}],
    },
    "network": "restricted",
}
_WORKSPACE = {
    "type": "managed",
    "file_system": {
        "type": "restricted",
        "entries": [
            {"path": {"type": "special", "value": {"kind": "root"}}, "access": "read"},
            {"path": {"type": "special", "value": {"kind": "slash_tmp"}}, "access": "write"},
        ],
    },
    "network": "restricted",
}
_POLICIES = (
    (_DIRECT, {"type": "danger-full-access"}),
    (_READ_ONLY, {"type": "read-only"}),
    (
        _WORKSPACE,
        {
            "type": "workspace-write",
            "writable_roots": [],
            "network_access": False,
            "exclude_tmpdir_env_var": False,
            "exclude_slash_tmp": False,
        },
    ),
)


def iso(ms: int) -> str:
    """A record's timestamp."""
    second, rest = divmod(ms, 1000)
    return f"{_iso_second(second)}.{rest:03d}Z"


@lru_cache(maxsize=4096)
def _iso_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def uuid7(rng: Random, ms: int) -> bytes:
    """A version 7 UUID of that millisecond."""
    noise = rng.getrandbits(74)
    return b"%08x-%04x-7%03x-%04x-%012x" % (
        ms >> 16,
        ms & 0xFFFF,
        noise >> 62,
        0x8000 | (noise >> 48) & 0x3FFF,
        noise & 0xFFFFFFFFFFFF,
    )


def sha(rng: Random) -> str:
    """A git commit."""
    return f"{rng.getrandbits(160):040x}"


class Usage(NamedTuple):
    """Tokens of one call to a model, or of several."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def plus(self, other: Usage) -> Usage:
        return Usage(*(one + two for one, two in zip(self, other, strict=True)))

    @property
    def total(self) -> int:
        return self.input + self.output

    def render(self, *, cache_write: bool) -> bytes:
        return (
            b'{"input_tokens":%d,"cached_input_tokens":%d,%s"output_tokens":%d,"reasoning_output_tokens":%d,"total_tokens":%d}'
            % (
                self.input,
                self.cached,
                b'"cache_write_input_tokens":0,' if cache_write else b"",
                self.output,
                self.reasoning,
                self.total,
            )
        )


NO_USAGE = Usage()


@dataclass(slots=True)
class Settings:
    """What a person can change between two turns."""

    model: str
    effort: str | None
    cwd: str
    approval: str
    policy: int
    profiled: bool = True
    """Whether turn contexts carry a permission profile (some of 0.130 do not)."""

    def profile_json(self) -> bytes:
        return orjson.dumps(_POLICIES[self.policy][0])

    def sandbox_json(self) -> bytes:
        return orjson.dumps(_POLICIES[self.policy][1])


@dataclass(frozen=True, slots=True)
class Boundary:
    """A place between two turns where another rollout may branch off, and the row as it was there."""

    offset: int
    ordinal: int | None
    records: int
    row: dict[str, object]
    usage: Usage


@dataclass(slots=True, kw_only=True)
class Habits:
    """What may happen in a conversation; all off gives a plain one."""

    null_counts: bool = False
    """The last token count before each turn's end has no info."""
    second_metas: bool = False
    """Metadata is changed by appending another session_meta (legacy and old)."""
    goal_first: bool = False
    image_first: bool = False
    editor: bool = False
    """Prompts come wrapped in an editor's context."""
    told_by_agent: bool = False
    """The task comes from another agent and not as a user message."""
    changes: bool = True
    """Model, effort, approvals and folder may change between turns."""
    children: tuple[bytes, ...] = ()
    """Ids of the threads that this one starts, in order."""


@dataclass(slots=True, kw_only=True)
class Conversation:
    """The state of one rollout; `opening` and `turns` give its lines.

    `bytes_wanted` is how large the rollout gets, to within one line where it is not tiny.
    """

    rng: Random
    style: str
    thread_id: bytes
    rollout_id: bytes
    meta: dict[str, object]
    settings: Settings
    row: dict[str, object]
    bytes_wanted: int
    now_ms: int
    ordinal: int | None
    steps: tuple[tuple[Step, ...], tuple[float, ...]]
    habits: Habits = field(default_factory=Habits)
    size: int = 0
    records: int = 0
    usage: Usage = NO_USAGE
    boundaries: list[Boundary] = field(default_factory=list)
    turn_id: bytes = b""
    turn_count: int = 0
    sequence: int = 0
    calls: int = 0
    turn_usage: Usage = NO_USAGE
    last_usage: Usage = NO_USAGE
    recent: list[str] = field(default_factory=list)
    closing_bytes: int = 0
    started_s: int = 0
    next_child: int = 0

    @property
    def modern(self) -> bool:
        """Whether this is the style of 0.169 (ids, metadata), in either mode."""
        return self.style != "old"

    @property
    def paginated(self) -> bool:
        return self.style == "paginated"

    @property
    def small(self) -> bool:
        return self.bytes_wanted < SMALL_ROLLOUT_BYTES

    def left(self) -> int:
        """Bytes left until the turn's ending must begin."""
        return self.bytes_wanted - self.size - self.closing_bytes

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def wait(self, low_ms: int, high_ms: int) -> None:
        """Let time pass before the next record."""
        self.now_ms += low_ms + int(self.rng.random() * (high_ms - low_ms))

    # Lines, from the envelope inwards.

    def line(self, kind: bytes, payload: bytes, after: bytes = b"") -> bytes:
        """One record; `payload` is what stands between its braces."""
        self.now_ms += 1 + int(self.rng.random() * 8)
        when = iso(self.now_ms).encode()
        if self.ordinal is None:
            made = b'{"timestamp":"%b","type":"%b","payload":{%b}%b}\n' % (when, kind, payload, after)
        else:
            made = b'{"timestamp":"%b","ordinal":%d,"type":"%b","payload":{%b}%b}\n' % (
                when,
                self.ordinal,
                kind,
                payload,
                after,
            )
        return self.count(made)

    def count(self, made: bytes) -> bytes:
        """Book a line as written at the present time."""
        if self.ordinal is not None:
            self.ordinal += 1
        self.size += len(made)
        self.records += 1
        self.row["updated_at_ms"] = self.now_ms
        return made

    def event(self, kind: bytes, body: bytes) -> bytes:
        """An event_msg; `body` begins with a comma where it is not empty."""
        return self.line(b"event_msg", b'"type":"%b"%b' % (kind, body))

    def item(self, kind: bytes, item_id: bytes, body: bytes) -> bytes:
        """A completed item of a paginated turn; `body` begins with a comma where it is not empty."""
        return self.event(
            b"item_completed",
            b',"thread_id":"%b","turn_id":"%b","item":{"type":"%b","id":"%b"%b},"started_at_ms":%d,"completed_at_ms":%d'
            % (self.thread_id, self.turn_id, kind, item_id, body, self.now_ms, self.now_ms),
        )

    def response(self, kind: bytes, item_id: bytes, body: bytes, *, dated: bool = False) -> bytes:
        """A response_item; ids and metadata only where the style has them."""
        if not self.modern:
            return self.line(b"response_item", b'"type":"%b",%b' % (kind, body))
        self.sequence += 1
        created = b',"create_time":%d.%06d' % (self.now_ms // 1000, self.now_ms % 1000 * 1000 + 152) if dated else b""
        return self.line(
            b"response_item",
            b'"type":"%b","id":"%b",%b,"internal_chat_message_metadata_passthrough":{"turn_id":"%b"%b}'
            % (kind, item_id, body, self.turn_id, created),
            b',"metadata":{"history_sequence":%d,"sampled_through_sequence":%d,"client_authored":false}'
            % (self.sequence, max(self.sequence - 1, 0)),
        )

    def new_id(self, prefix: bytes = b"") -> bytes:
        return prefix + uuid7(self.rng, self.now_ms)

    def call_number(self) -> int:
        self.calls += 1
        return self.calls

    # The conversation.

    def opening(self) -> Iterator[bytes]:
        """The first line."""
        yield self.session_meta(self.meta)

    def turns(self) -> Iterator[bytes]:
        """Turns until `bytes_wanted` is reached; at least one."""
        first = True
        while first or self.bytes_wanted - self.size > FULL_TURN_BYTES // 2:
            first = False
            yield from self.turn()

    def turn(self) -> Iterator[bytes]:
        """One turn, from task_started to its end; the last one fills the rollout up."""
        self._plan_turn()
        aborted = self.chance(0.04)
        said = text.answer(self.rng) if not self.small else text.commentary(self.rng)
        self.closing_bytes = self._closing_bytes(said, aborted=aborted)
        if self.habits.second_metas and self.turn_count > 1 and self.chance(0.3):
            yield self._changed_meta()
        yield self._task_started()
        yield from self._context()
        yield from self._asked()
        for _ in range(1 + int(self.rng.random() * 10)):
            if self.left() < FULL_TURN_BYTES // 2:
                break
            yield from self._step()
        yield from self._filler()
        yield from self._aborted() if aborted else self._ending(said)
        self._remember_boundary()

    def _plan_turn(self) -> None:
        if self.turn_count:
            self.wait(20_000, 900_000)
        self.turn_count += 1
        self.turn_id = self.new_id()
        self.turn_usage = NO_USAGE

    def _closing_bytes(self, said: str, *, aborted: bool) -> int:
        if aborted:
            return 330
        quoted = len(orjson.dumps(said)) - 2
        return _SHORT_ENDING_BYTES[self.style] + 2 * quoted if self.small else _ENDING_BYTES[self.style] + 3 * quoted

    def _task_started(self) -> bytes:
        root = b""
        if self.modern:
            attribution = (
                b',"turn_attribution":{"turn_id":"%b","turn_trigger":null,"parent_turn_id":null,"initiating_agent_path":null,"root_turn_id":"%b"}'
                % (self.turn_id, self.turn_id)
            )
            root = attribution if not self.small else b""
        self.started_s = self.now_ms // 1000
        made = self.event(
            b"task_started",
            b'%b,"turn_id":"%b"%b,"started_at":%d,"model_context_window":258400,"collaboration_mode_kind":"default"'
            % (root, self.turn_id, b',"root_turn_id":"%b"' % self.turn_id if self.modern else b"", self.started_s),
        )
        self.row["recency_at_ms"] = self.now_ms
        return made

    def _context(self) -> Iterator[bytes]:
        """What the harness tells the model before the person's own words."""
        first = self.turn_count == 1
        # A copy ends with the parent's settings, its folder among them: the thread's own must follow, room or not.
        follows_a_copy = first and self.records > 2
        if first and self.habits.goal_first:
            yield self.goal(text.objective(self.rng))
        changed = not first and self.habits.changes and self.chance(0.15)
        if changed:
            self._change_settings()
        if first and self.left() > 15_000:
            yield from self._first_context()
        if self.left() > 2_000:
            yield self.turn_context()
        if self.modern and (changed or follows_a_copy or (first and self.left() > 6_000)):
            yield self.settings_applied()

    def _first_context(self) -> Iterator[bytes]:
        manual = orjson.dumps(text.manual(self.rng, min(4_600, self.left() // 8)))
        yield self.response(
            b"message",
            self.new_id(b"msg_"),
            b'"role":"developer","content":[{"type":"input_text","text":%b}]' % manual,
            dated=True,
        )
        cwd = orjson.dumps(
            f"<environment_context>\n  <cwd>{self.settings.cwd}</cwd>\n  <shell>bash</shell>\n</environment_context>"
        )
        yield self.response(
            b"message",
            self.new_id(b"msg_"),
            b'"role":"user","content":[{"type":"input_text","text":%b}]' % cwd,
            dated=True,
        )
        if self.modern:
            yield self.world_state(full=True)

    def world_state(self, *, full: bool) -> bytes:
        """What the model is told about its surroundings: all of it, or what changed."""
        if not full:
            return self.line(
                b"world_state",
                b'"full":false,"state":{"environments":{"current_date":"%b"}}' % iso(self.now_ms)[:10].encode(),
            )
        state = orjson.dumps({
            "agents_md": {},
            "apps_instructions": False,
            "collaboration_mode": {"mode": "default", "model": self.settings.model, "instructions": sha(self.rng)},
            "environments": {
                "environments": {"local": {"cwd": self.settings.cwd, "status": "available", "shell": "bash"}},
                "current_date": iso(self.now_ms)[:10],
                "timezone": "Etc/UTC",
            },
            "host_skills": {"body": text.manual(self.rng, min(4_600, self.left() // 8)), "includeInstructions": True},
            "model": self.settings.model,
            "permissions": {"instructions": sha(self.rng), "approved_command_prefixes": []},
            "realtime": {"active": False},
            "tools": {"multi_agent_v1": "Tools for spawning and managing sub-agents."},
        })  # fmt: skip
        return self.line(b"world_state", b'"full":true,"state":%b' % state)

    def turn_context(self) -> bytes:
        """The settings that this turn runs with."""
        now = self.settings
        mode = b'{"mode":"default","settings":{"model":%b,"reasoning_effort":%b,"developer_instructions":null}}' % (
            orjson.dumps(now.model),
            orjson.dumps(now.effort),
        )
        shared = b'"model":%b,"collaboration_mode":%b,' % (orjson.dumps(now.model), mode)
        effort = b'"effort":%b,' % orjson.dumps(now.effort) if now.effort else b""
        made = self._modern_context(shared, effort) if self.modern else self._old_context(shared, effort)
        self.row.update(
            model=now.model, reasoning_effort=now.effort, approval_mode=now.approval, sandbox_policy=self._policy_fact()
        )
        return made

    def _modern_context(self, shared: bytes, effort: bytes) -> bytes:
        now = self.settings
        return self.line(
            b"turn_context",
            b'"turn_id":"%b","root_turn_id":"%b","disabled_plugin_ids":[],"cwd":%b,"approval_policy":"%b","approvals_reviewer":"user",'
            b'"permission_profile":%b,%b"multi_agent_version":"v1","realtime_active":false,%b"summary":"none","sandbox_policy":%b'
            % (
                self.turn_id, self.turn_id, orjson.dumps(now.cwd), now.approval.encode(), now.profile_json(),
                shared, effort, now.sandbox_json(),
            ),
        )  # fmt: skip

    def _old_context(self, shared: bytes, effort: bytes) -> bytes:
        now = self.settings
        profile = b'"permission_profile":%b,' % now.profile_json() if now.profiled else b""
        return self.line(
            b"turn_context",
            b'"turn_id":"%b","cwd":%b,"current_date":"%b","timezone":"Etc/UTC","approval_policy":"%b","sandbox_policy":%b,%b'
            b'%b"realtime_active":false,%b"summary":"none","truncation_policy":{"mode":"tokens","limit":10000}'
            % (
                self.turn_id, orjson.dumps(now.cwd), iso(self.now_ms)[:10].encode(), now.approval.encode(),
                now.sandbox_json(), profile, shared, effort,
            ),
        )  # fmt: skip

    def _policy_fact(self) -> str:
        profiled = self.modern or self.settings.profiled
        return (self.settings.profile_json() if profiled else self.settings.sandbox_json()).decode()

    def settings_applied(self) -> bytes:
        """The event that the settings are these now."""
        now = self.settings
        body = orjson.dumps({
            "model": now.model,
            "model_provider_id": self.meta["model_provider"],
            "approval_policy": now.approval,
            "approvals_reviewer": "user",
            "permission_profile": _POLICIES[now.policy][0],
            "cwd": now.cwd,
            **({"reasoning_effort": now.effort} if now.effort else {}),
            "collaboration_mode": {
                "mode": "default",
                "settings": {"model": now.model, "reasoning_effort": now.effort, "developer_instructions": None},
            },
            "disabled_plugin_ids": [],
        })  # fmt: skip
        made = self.event(
            b"thread_settings_applied", b',"thread_id":"%b","thread_settings":%b' % (self.thread_id, body)
        )
        self.row.update(
            model=now.model,
            reasoning_effort=now.effort,
            model_provider=self.meta["model_provider"],
            cwd=now.cwd,
            approval_mode=now.approval,
            sandbox_policy=now.profile_json().decode(),
        )
        return made

    def _change_settings(self) -> None:
        now = self.settings
        dice = self.rng.random()
        if dice < 0.4:
            now.effort = self.rng.choice((None, "low", "medium", "high", "xhigh"))
        elif dice < 0.6:
            now.approval = self.rng.choice(("never", "on-request", "untrusted"))
            now.policy = self.rng.randrange(len(_POLICIES))
        elif self.modern and not self.habits.second_metas:
            now.cwd = now.cwd.split("/.worktrees/")[0] + f"/.worktrees/{self.rng.randrange(9)}"

    def _asked(self) -> Iterator[bytes]:
        if self.turn_count == 1 and self.habits.told_by_agent:
            yield from self._told_by_agent()
            return
        wish = text.prompt(self.rng) if not self.small else text.query(self.rng)
        if self.turn_count == 1 and self.habits.image_first:
            yield from self.user_message("", "", image=True)
            return
        dice = self.rng.random()
        if self.habits.editor and not self.small and dice < 0.7:
            yield from self.user_message(text.editor_prompt(self.rng, wish), wish)
        elif dice > 0.97:
            yield from self.user_message(f"\n {wish}  \n", wish)
        else:
            yield from self.user_message(wish, wish, image=dice < 0.03 and self.left() > 60_000)

    def user_message(self, sent: str, wish: str, *, image: bool = False) -> Iterator[bytes]:
        """What a person sent; `wish` is what a list shows of it."""
        quoted = orjson.dumps(sent)
        url = (
            b'"data:image/png;base64,%b"' % text.opaque(self.rng, max(64, min(2_000, self.left() // 4))).encode()
            if image
            else b""
        )
        yield from self._user_response(quoted, url)
        self._note_user_message(wish, image=image)
        if self.paginated:
            content = [b'{"type":"text","text":%b,"text_elements":[]}' % quoted] if sent else []
            content += [b'{"type":"image","image_url":%b}' % url] if url else []
            yield self.item(b"UserMessage", self.new_id(), b',"content":[%b]' % b",".join(content))
        else:
            audio = b',"audio":[],"local_audio":[]' if self.modern else b""
            yield self.event(
                b"user_message",
                b',"message":%b,"images":[%b],"local_images":[]%b,"text_elements":[]' % (quoted, url, audio),
            )

    def _user_response(self, quoted: bytes, url: bytes) -> Iterator[bytes]:
        if self.small or self.left() < 2 * len(quoted) + len(url) + 1_200:
            return
        image = b',{"type":"input_image","image_url":%b}' % url if url else b""
        yield self.response(
            b"message",
            self.new_id(b"msg_"),
            b'"role":"user","content":[{"type":"input_text","text":%b}%b]' % (quoted, image),
            dated=True,
        )

    def _note_user_message(self, wish: str, *, image: bool) -> None:
        shown = wish or ("[Image]" if image else None)
        self.recent = [*self.recent[-4:], wish]
        if shown is None:
            return
        if self.row["first_user_message"] is None:
            self.row["first_user_message"] = shown
        if self.row["preview"] is None:
            self.row["preview"] = shown
        if self.row["title"] is None and wish:
            self.row["title"] = wish

    def _told_by_agent(self) -> Iterator[bytes]:
        task = orjson.dumps(
            f"Message Type: TASK\nTask name: /root/task\nSender: /root\nPayload:\n{text.prompt(self.rng)}"
        )
        yield self.line(b"inter_agent_communication_metadata", b'"trigger_turn":true')
        yield self.response(
            b"agent_message",
            self.new_id(b"amsg_"),
            b'"author":"/root","recipient":"/root/task","content":[{"type":"input_text","text":%b}]' % task,
            dated=True,
        )

    def agent_message(self, said: str, phase: bytes, *, both: bool = True) -> Iterator[bytes]:
        """What the agent says: as an item or event, and as the model's own item."""
        quoted = orjson.dumps(said)
        message_id = b"msg_%d" % self.call_number()
        if self.paginated:
            yield self.item(
                b"AgentMessage", message_id, b',"content":[{"type":"Text","text":%b}],"phase":"%b"' % (quoted, phase)
            )
        else:
            yield self.event(b"agent_message", b',"message":%b,"phase":"%b","memory_citation":null' % (quoted, phase))
        if both:
            notes = b',"annotations":[]' if self.modern else b""
            yield self.response(
                b"message",
                message_id,
                b'"role":"assistant","content":[{"type":"output_text","text":%b%b}],"phase":"%b"'
                % (quoted, notes, phase),
            )

    def _step(self) -> Iterator[bytes]:
        self.wait(400, 9_000)
        functions, weights = self.steps
        (step,) = self.rng.choices(functions, cum_weights=weights)
        yield from step(self)

    def sampled(self) -> Iterator[bytes]:
        """The model was called once more: its usage, as a record where the style has one."""
        used = Usage(
            2_000 + int(self.rng.random() * 9_000), int(self.rng.random() * 2_000), 20 + int(self.rng.random() * 900), 0
        )
        self.last_usage, self.usage, self.turn_usage = used, self.usage.plus(used), self.turn_usage.plus(used)
        if self.modern:
            yield self.line(
                b"token_usage_record",
                b'"thread_id":"%b","turn_id":"%b","session_id":"%b","root_turn_id":"%b",'
                b'"response_id":"resp_%06d",'
                b'"usage":%b,"turn_token_usage":%b,"thread_token_usage":%b'
                % (
                    self.thread_id, self.turn_id, self.thread_id, self.turn_id, self.calls,
                    used.render(cache_write=True), self.turn_usage.render(cache_write=True),
                    self.usage.render(cache_write=True),
                ),
            )  # fmt: skip

    def token_count(self, *, null: bool = False) -> bytes:
        """What was used so far; now and then without any info, which must not reset what is known."""
        limits = (
            b'{"used_percent":%d.5,"window_minutes":300,"resets_at":%d}'
            % (int(self.rng.random() * 90), self.now_ms // 1000 + 9_000)
            if self.chance(0.1)
            else b"null"
        )
        rates = (
            b'{"limit_id":"codex","limit_name":null,"primary":%b,"secondary":null,"credits":null,%b"plan_type":null,"rate_limit_reached_type":null}'
            % (limits, b'"individual_limit":null,"spend_control_reached":null,' if self.modern else b"")
        )
        if null:
            return self.event(b"token_count", b',"info":null,"rate_limits":%b' % rates)
        made = self.event(
            b"token_count",
            b',"info":{"total_token_usage":%b,"last_token_usage":%b%b,"model_context_window":258400},"rate_limits":%b'
            % (
                self.usage.render(cache_write=self.modern),
                self.last_usage.render(cache_write=self.modern),
                b',"last_usage_includes_reasoning":false' if self.modern else b"",
                rates,
            ),
        )
        self.row["tokens_used"] = self.usage.total
        return made

    def goal(self, wanted: str) -> bytes:
        """The thread's goal is set or changed; before any message it is what a list shows."""
        seconds = self.now_ms // 1000
        goal = {
            "threadId": self.thread_id.decode(),
            "objective": wanted,
            "status": self.rng.choice(("active", "paused", "complete")),
            "tokenBudget": 60_000,
            "tokensUsed": self.usage.total,
            "timeUsedSeconds": 0,
            "createdAt": seconds,
            "updatedAt": seconds,
        }
        made = self.event(b"thread_goal_updated", b',"threadId":"%b","goal":%b' % (self.thread_id, orjson.dumps(goal)))
        if self.row["preview"] is None:
            self.row["preview"] = wanted
        return made

    def _filler(self) -> Iterator[bytes]:
        """The rest, where less than a turn is left: a piece of encrypted reasoning of just that length."""
        rest = self.left() - _FILLER_BYTES[self.style]
        if rest > 0 and self.left() < FULL_TURN_BYTES:
            yield self.response(
                b"reasoning",
                b"rs_%d" % self.call_number(),
                b'"summary":[],"content":null,"encrypted_content":"%b"' % text.opaque(self.rng, rest).encode(),
            )

    def _ending(self, said: str) -> Iterator[bytes]:
        self.wait(900, 20_000)
        yield from self.agent_message(said, b"final_answer", both=not self.small)
        if not self.small:
            yield from self.sampled()
            yield self.token_count(null=self.habits.null_counts)
        root = b',"root_turn_id":"%b"' % self.turn_id if self.modern else b""
        begun = b',"started_at":%d' % self.started_s if self.modern else b""
        now_s = self.now_ms // 1000
        yield self.event(
            b"task_complete",
            b'%b,"turn_id":"%b","last_agent_message":%b%b,"completed_at":%d,"duration_ms":%d,"time_to_first_token_ms":%d'
            % (root, self.turn_id, orjson.dumps(said), begun, now_s, (now_s - self.started_s) * 1000, 42),
        )

    def _aborted(self) -> Iterator[bytes]:
        root = b',"root_turn_id":"%b"' % self.turn_id if self.modern else b""
        begun = b',"started_at":%d' % self.started_s if self.modern else b""
        yield self.event(
            b"turn_aborted",
            b'%b,"turn_id":"%b","reason":"interrupted"%b,"completed_at":%d,"duration_ms":109'
            % (root, self.turn_id, begun, self.now_ms // 1000),
        )

    def _remember_boundary(self) -> None:
        if len(self.boundaries) < 8:
            self.boundaries.append(Boundary(self.size, self.ordinal, self.records, dict(self.row), self.usage))

    # The session's own metadata.

    def session_meta(self, meta: dict[str, object]) -> bytes:
        """The line that says what this thread is."""
        return self.line(b"session_meta", orjson.dumps(meta)[1:-1])

    def _changed_meta(self) -> bytes:
        """Another session_meta of the same thread: its memory mode or its git facts changed."""
        meta = dict(self.meta)
        if self.chance(0.5):
            git = {"git": meta.pop("git")} if "git" in meta else {}
            meta.update(memory_mode=self.rng.choice(("disabled", "enabled", "polluted")), **git)
        else:
            meta["git"] = self.rng.choice(({}, {"commit_hash": sha(self.rng), "branch": "fix/größe"}))
        if self.left() < 60_000:
            meta["base_instructions"] = None
        self.meta = meta
        made = self.session_meta(meta)
        note_meta(self.row, meta)
        return made


def note_meta(row: dict[str, object], meta: dict[str, object]) -> None:
    """What a session_meta of the thread itself says about git and memory."""
    if "memory_mode" in meta:
        row["memory_mode"] = meta["memory_mode"]
    git = meta.get("git")
    if isinstance(git, dict):
        row.update(
            git_sha=git.get("commit_hash"), git_branch=git.get("branch"), git_origin_url=git.get("repository_url")
        )
