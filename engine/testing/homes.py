"""Makes homes: folders of rollouts as years of use would leave them, of any number and size.

`make_home` writes a whole home by a plan, `make_rollout` one file of a wanted size, `append_turns` goes on with a
thread that is there, `rollout_lines` gives lines without any file. The same plan gives the same bytes, names and file
times, on every machine (names and folders are in UTC, while a real agent's are in local time). Every made thread comes
with `row`: what a thread's row must show, known from making it and not from reading it. Files are 0600 and folders
0700. Memory does not grow with the size of a rollout; ten thousand rollouts of 50 KB take some seconds.

    python -m engine.testing FOLDER --threads 100
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import orjson
import zstandard

from engine.testing import text
from engine.testing.conversation import Boundary, Conversation, Habits, Settings, iso, note_meta, sha, uuid7
from engine.testing.steps import STEPS, STRANGE_STEPS

_Record = dict[str, Any]

_DAY_MS = 86_400_000
_VERSIONS = {"paginated": "0.169.0", "legacy": "0.169.0", "old": "0.130.0"}
_NAMES = ("Dalton", "Huygens", "Kepler", "Lovelace", "Ampère", "Noether", "Hypatia")
_SOURCES = ("cli", "cli", "cli", "vscode", "vscode", "exec", "mcp")
_ORIGINATORS = {"cli": "codex-tui", "vscode": "codex_vscode", "exec": "codex_exec", "mcp": "codex_app_server"}
_INHERITED_KINDS = {"session_meta", "turn_context", "response_item", "world_state"}
_INHERITED_EVENTS = {"task_started", "task_complete"}
_INHERITED_BYTES_MAX = 256_000
_INHERITING_BYTES_MIN = 15_000


@dataclass(frozen=True, kw_only=True)
class HomePlan:
    """What a home is to contain.

    Shares are parts of all threads; a share that is not 0 gives at least one thread once there are five or more.
    """

    threads: int = 20
    seed: int = 0
    bytes_min: int = 2_000
    """Smallest rollout, before compression; sizes are spread evenly over the magnitudes up to `bytes_max`."""
    bytes_max: int = 60_000
    """Largest rollout. Up to some hundred million; equal to `bytes_min` all are of that size, to within one line."""
    paginated: float = 0.7
    """Share in the newer history mode. Of the others two in three have the shapes of 0.130."""
    archived: float = 0.1
    forks: float = 0.08
    subagents: float = 0.08
    reverted: float = 0.02
    """Share with a second rollout that replaces the first from some turn on: paginated, active, not compressed."""
    compressed: float = 0.0
    start: str = "2026-01-05T09:00:00Z"
    days: int = 120
    """The span over which creation times are spread evenly from `start`."""
    providers: tuple[str, ...] = ("openai", "openai", "openai", "azure", "local")
    models: tuple[str, ...] = ("gpt-5.5", "gpt-5.4", "gpt-6-sol", "o4-mini")
    cwds: tuple[str, ...] = (
        "/home/dev/shop",
        "/home/dev/shop/api",
        "/srv/build/agent",
        "/home/dev/プロジェクト",
        "/home/dev/my notes",
    )


@dataclass(frozen=True, kw_only=True)
class MadeThread:
    """A thread that was made: where its rollout is and what its row must show.

    `path` is relative to the home with '/' and without `.zst`; of a reverted thread all is told of its newest rollout,
    and `older_paths` names those it replaced. `next_ordinal` is None where the mode has no ordinals.
    """

    id: str
    path: str
    rollout_id: str
    history_mode: str
    records: int
    bytes: int
    row: dict[str, object]
    compressed: bool = False
    older_paths: tuple[str, ...] = ()
    next_ordinal: int | None = None
    style: str = "paginated"


@dataclass(slots=True)
class _Seat:
    """One thread of a plan, before it is made."""

    index: int
    style: str
    kind: str
    thread_id: bytes
    created_ms: int
    bytes_wanted: int
    archived: bool
    compressed: bool
    reverted: bool
    begins_with_words: bool = False
    parent: _Seat | None = None
    depth: int = 0
    children: list[_Seat] = field(default_factory=list)
    rollout_id: bytes = b""
    path: str = ""
    boundaries: list[Boundary] = field(default_factory=list)
    meta: dict[str, object] = field(default_factory=dict)


def make_home(
    folder: str | Path, plan: HomePlan | None = None, *, progress: Callable[[int, int], None] | None = None
) -> list[MadeThread]:
    """Write a home and tell what is in it, in order of making. `progress` is told (threads made, threads in all)."""
    plan = plan or HomePlan()
    home = str(folder)
    seats = _plan_seats(plan)
    for top in ("sessions", "archived_sessions"):
        ensure_folder(os.path.join(home, top))
    made: list[MadeThread] = []
    for seat in seats:
        made.append(_make_thread(home, plan, seat))
        if progress is not None:
            progress(len(made), len(seats))
    return made


def make_rollout(
    home: str | Path, *, size: int, mode: str = "paginated", seed: int = 0, created: str = "2026-01-05T09:00:00Z"
) -> MadeThread:
    """Write one rollout of `size` bytes into a home; `mode` is `paginated`, `legacy`, or `old` (legacy, of 0.130)."""
    plan = HomePlan(
        threads=1, seed=seed, bytes_min=size, bytes_max=size, start=created, days=0, paginated=1.0, archived=0.0
    )
    return _make_thread(str(home), plan, _only_seat(plan, mode))


def rollout_lines(*, seed: int = 0, mode: str = "paginated", size: int = 20_000) -> Iterator[bytes]:
    """The lines of one rollout, each with its newline, made as they are asked for."""
    plan = HomePlan(threads=1, seed=seed, bytes_min=size, bytes_max=size, days=0, paginated=1.0, archived=0.0)
    talk = _conversation(plan, _only_seat(plan, mode), Random(f"{seed}:0"))
    yield from talk.opening()
    yield from talk.turns()


def append_turns(home: str | Path, thread: MadeThread, *, seed: int = 1, size: int = 4_000) -> MadeThread:
    """Write one more turn or several, some `size` bytes, to a thread that is not compressed; tell how it is now."""
    rng = Random(f"append:{seed}:{thread.rollout_id}")
    row = dict(thread.row)
    talk = Conversation(
        rng=rng,
        style=thread.style,
        thread_id=thread.id.encode(),
        rollout_id=thread.rollout_id.encode(),
        meta={"model_provider": row["model_provider"]},
        settings=Settings(str(row["model"] or "gpt-5.5"), None, str(row["cwd"]), "never", 0),
        row=row,
        bytes_wanted=thread.bytes + size,
        now_ms=int(str(row["updated_at_ms"])) + 60_000,
        ordinal=thread.next_ordinal,
        steps=STEPS[thread.style],
        habits=Habits(changes=False),
    )
    talk.size, talk.records, talk.turn_count, talk.calls = thread.bytes, thread.records, 1, thread.records
    with open(os.path.join(home, thread.path), "ab") as file:
        file.writelines(talk.turns())
    _set_time(os.path.join(home, thread.path), talk.now_ms)
    return replace(thread, records=talk.records, bytes=talk.size, row=talk.row, next_ordinal=talk.ordinal)


def _only_seat(plan: HomePlan, mode: str) -> _Seat:
    """The one thread of a plan for one; it begins with words, so that a test can count on them."""
    if mode not in STEPS:
        raise ValueError(f"no such mode: {mode!r}; one of {', '.join(STEPS)}")
    (seat,) = _plan_seats(plan)
    seat.style, seat.begins_with_words = mode, True
    return seat


# The plan: who is whose child, before anything is written.


def _plan_seats(plan: HomePlan) -> list[_Seat]:
    rng = Random(f"plan:{plan.seed}")
    start_ms = round(datetime.fromisoformat(plan.start).timestamp() * 1000)
    count = plan.threads
    chosen = {
        "paginated": _choose(rng, plan.paginated, range(count), count),
        "archived": _choose(rng, plan.archived, range(count), count),
        "compressed": _choose(rng, plan.compressed, range(count), count),
    }
    forks = _choose(rng, plan.forks, range(1, count), count)
    subagents = _choose(rng, plan.subagents, [index for index in range(1, count) if index not in forks], count)
    roots = [index for index in sorted(chosen["paginated"]) if index not in forks and index not in subagents]
    reverted = _choose(rng, plan.reverted, roots, count)
    seats: list[_Seat] = []
    for index in range(count):
        kind = "fork" if index in forks else "subagent" if index in subagents else "root"
        created_ms = start_ms + (index * plan.days * _DAY_MS) // max(count, 1) + int(rng.random() * 60_000)
        seat = _Seat(
            index=index,
            style="paginated" if index in chosen["paginated"] else rng.choice(("legacy", "old", "old")),
            kind=kind,
            thread_id=b"",
            created_ms=created_ms,
            bytes_wanted=_bytes_wanted(rng, plan),
            archived=index in chosen["archived"] and index not in reverted,
            compressed=index in chosen["compressed"] and index not in reverted,
            reverted=index in reverted,
        )
        _find_parent(rng, seat, seats)
        seat.thread_id = seat.rollout_id = uuid7(rng, seat.created_ms)
        seats.append(seat)
    return seats


def _choose(rng: Random, share: float, candidates: Iterable[int], count: int) -> set[int]:
    among = list(candidates)
    wanted = max(round(share * count), 1 if share > 0 and count >= 5 else 0)
    return set(rng.sample(among, min(wanted, len(among))))


def _bytes_wanted(rng: Random, plan: HomePlan) -> int:
    low, high = math.log(plan.bytes_min), math.log(plan.bytes_max)
    return round(math.exp(low + rng.random() * (high - low)))


def _find_parent(rng: Random, seat: _Seat, seats: list[_Seat]) -> None:
    """A fork or sub-agent takes an earlier thread and its style; a sub-agent starts soon after its parent."""
    if seat.kind == "root":
        return
    near = [other for other in seats[-40:] if not other.reverted and other.depth < 3]
    parent = rng.choice(near) if near else None
    if parent is None:
        seat.kind = "root"
        return
    seat.parent, seat.style, seat.depth = parent, parent.style, parent.depth + 1
    parent.children.append(seat)
    if seat.kind == "subagent":
        seat.created_ms = parent.created_ms + 5_000 + rng.randrange(600_000)


# One thread.


def _make_thread(home: str, plan: HomePlan, seat: _Seat) -> MadeThread:
    rng = Random(f"{plan.seed}:{seat.index}")
    talk = _conversation(plan, seat, rng)
    prefix = _inherited_context(home, seat, talk)
    if seat.reverted:
        return _make_reverted(home, plan, seat, talk)
    seat.path = _path(seat)
    _write(home, seat.path, _lines(home, seat, talk, prefix), talk, compressed=seat.compressed)
    seat.boundaries = talk.boundaries if seat.children else []
    seat.meta = talk.meta if seat.children else {}
    return _made(seat, talk)


def _made(seat: _Seat, talk: Conversation, older: tuple[str, ...] = ()) -> MadeThread:
    return MadeThread(
        id=seat.thread_id.decode(),
        path=seat.path,
        rollout_id=seat.rollout_id.decode(),
        history_mode=str(talk.row["history_mode"]),
        records=talk.records,
        bytes=talk.size,
        row=talk.row,
        compressed=seat.compressed,
        older_paths=older,
        next_ordinal=talk.ordinal,
        style=seat.style,
    )


def _lines(home: str, seat: _Seat, talk: Conversation, prefix: list[_Record]) -> Iterator[bytes]:
    yield from talk.opening()
    if seat.kind == "fork" and seat.style != "paginated":
        yield from _copied_history(home, seat, talk)
    for record in prefix:
        yield _again(talk, record)
    yield from talk.turns()


def _make_reverted(home: str, plan: HomePlan, seat: _Seat, talk: Conversation) -> MadeThread:
    """A first rollout, then a second that goes on from one of its turns: the row is the second one's, the age the thread's."""
    talk.bytes_wanted //= 2
    seat.path = _path(seat)
    _write(home, seat.path, _lines(home, seat, talk, []), talk, compressed=False)
    base = talk.rng.choice(talk.boundaries)
    older = seat.path
    thread_created_ms, first_id, created_ms = seat.created_ms, seat.rollout_id, talk.now_ms + 60_000
    seat.created_ms, seat.rollout_id = created_ms, uuid7(talk.rng, created_ms)
    seat.path = _path(seat)
    again = _conversation(plan, seat, Random(f"{plan.seed}:{seat.index}:reverted"))
    again.meta = {
        **{key: value for key, value in talk.meta.items() if key not in ("context_window", "git")},
        "timestamp": iso(created_ms),
        "history_base": _base(first_id, base),
        **{key: talk.meta[key] for key in ("context_window", "git") if key in talk.meta},
    }
    again.ordinal, again.usage, again.settings = base.ordinal, base.usage, talk.settings
    again.bytes_wanted = max(seat.bytes_wanted - talk.size, seat.bytes_wanted // 4)
    again.row = _first_row(again.meta, thread_created_ms, archived=False)
    _write(home, seat.path, _lines(home, seat, again, []), again, compressed=False)
    return _made(seat, again, (older,))


def _base(rollout_id: bytes, boundary: Boundary) -> dict[str, object]:
    return {
        "thread_id": rollout_id.decode(),
        "end_ordinal_exclusive": boundary.ordinal,
        "end_byte_offset": boundary.offset,
    }


def _conversation(plan: HomePlan, seat: _Seat, rng: Random) -> Conversation:
    settings = Settings(
        model=rng.choice(plan.models),
        effort=rng.choice((None, None, "low", "medium", "high")),
        cwd=rng.choice(plan.cwds),
        approval=rng.choice(("never", "on-request", "on-request", "untrusted")),
        policy=rng.randrange(3),
        profiled=rng.random() < 0.8,
    )
    ordinal: int | None = 0 if seat.style == "paginated" else None
    meta = _meta(plan, seat, rng, settings)
    base = meta.get("history_base")
    if isinstance(base, dict):
        ordinal = base["end_ordinal_exclusive"]
    return Conversation(
        rng=rng,
        style=seat.style,
        thread_id=seat.thread_id,
        rollout_id=seat.rollout_id,
        meta=meta,
        settings=settings,
        row=_first_row(meta, seat.created_ms, archived=seat.archived),
        bytes_wanted=seat.bytes_wanted,
        now_ms=seat.created_ms + 20,
        ordinal=ordinal,
        steps=(STRANGE_STEPS if rng.random() < 0.15 else STEPS)[seat.style],
        habits=_habits(seat, rng),
    )


def _habits(seat: _Seat, rng: Random) -> Habits:
    return Habits(
        null_counts=rng.random() < 0.15,
        second_metas=seat.style != "paginated" and rng.random() < 0.4,
        goal_first=rng.random() < 0.04,
        image_first=rng.random() < 0.03 and seat.bytes_wanted > 6_000 and not seat.begins_with_words,
        editor=rng.random() < 0.15,
        told_by_agent=seat.kind == "subagent" and seat.style == "paginated" and rng.random() < 0.5,
        children=tuple(child.thread_id for child in seat.children if child.kind == "subagent"),
    )


def _first_row(meta: dict[str, object], created_ms: int, *, archived: bool) -> dict[str, object]:
    """What a row shows after the first line alone."""
    source = meta["source"]
    row: dict[str, object] = {
        "id": meta["id"],
        "created_at_ms": created_ms,
        "updated_at_ms": created_ms,
        "recency_at_ms": created_ms,
        "source": source if isinstance(source, str) else orjson.dumps(source).decode(),
        "thread_source": meta.get("thread_source"),
        "originator": meta["originator"],
        "cli_version": meta["cli_version"],
        "model_provider": meta["model_provider"],
        "model": None,
        "reasoning_effort": None,
        "cwd": meta["cwd"],
        "title": None,
        "preview": None,
        "first_user_message": None,
        "sandbox_policy": '{"type":"read-only"}',
        "approval_mode": "on-request",
        "tokens_used": 0,
        "memory_mode": "enabled",
        "git_sha": None,
        "git_branch": None,
        "git_origin_url": None,
        "agent_nickname": meta.get("agent_nickname"),
        "agent_role": meta.get("agent_role"),
        "agent_path": meta.get("agent_path"),
        "history_mode": meta.get("history_mode", "legacy"),
        "forked_from_id": meta.get("forked_from_id"),
        "parent_thread_id": meta.get("parent_thread_id") or _spawner(source),
        "archived": archived,
    }
    note_meta(row, meta)
    return row


def _spawner(source: object) -> object:
    """The parent that a spawn names in its source: the only place where 0.130 has it."""
    try:
        return source["subagent"]["thread_spawn"]["parent_thread_id"]  # type: ignore[index]
    except (TypeError, KeyError):
        return None


# The first line, key by key in the order that real files have.


def _meta(plan: HomePlan, seat: _Seat, rng: Random, settings: Settings) -> dict[str, object]:
    modern, agent = seat.style != "old", _agent(seat, rng)
    source = agent.pop("source", None) or ({"custom": "atlas"} if rng.random() < 0.03 else rng.choice(_SOURCES))
    parent = seat.parent
    identity: dict[str, object] = {"id": seat.thread_id.decode()}
    if modern:
        session = parent.thread_id if parent and seat.kind == "subagent" else seat.thread_id
        identity = {"account_scoped": True, "session_id": session.decode(), **identity}
    lineage, window = _lineage(seat, rng), uuid7(rng, seat.created_ms)
    return {
        **identity,
        **{key: value for key, value in lineage.items() if key != "history_base"},
        "timestamp": iso(seat.created_ms),
        "cwd": settings.cwd,
        **({"runtime_workspace_roots": [settings.cwd]} if modern else {}),
        "originator": _ORIGINATORS.get(source, "codex_app_server") if isinstance(source, str) else "codex-tui",
        "cli_version": _VERSIONS[seat.style],
        "source": source,
        **agent,
        "model_provider": rng.choice(plan.providers),
        "base_instructions": _instructions(seat, rng, settings),
        **({"memory_mode": "disabled"} if rng.random() < 0.06 else {}),
        **({"history_mode": "paginated" if seat.style == "paginated" else "legacy"} if modern else {}),
        **({"history_base": lineage["history_base"]} if "history_base" in lineage else {}),
        **({"multi_agent_version": "v1", "context_window": {"window_id": window.decode()}} if modern else {}),
        **_git(rng),
    }


def _agent(seat: _Seat, rng: Random) -> dict[str, object]:
    """What a sub-agent's first line says of itself, or how the thread came about."""
    if seat.kind != "subagent" or seat.parent is None:
        return {"thread_source": "user"} if rng.random() < 0.5 else {}
    if rng.random() < 0.15:
        return {"source": {"subagent": "review"}, "thread_source": "subagent"}
    name, role = rng.choice(_NAMES), rng.choice((None, None, "explorer"))
    path = f"/root/task_{seat.index}" if rng.random() < 0.5 else None
    spawn = {
        "parent_thread_id": seat.parent.thread_id.decode(),
        "depth": seat.depth,
        "agent_path": path,
        "agent_nickname": name,
        "agent_role": role,
    }
    own = {"agent_nickname": name, "agent_role": role, "agent_path": path}
    return {
        "source": {"subagent": {"thread_spawn": spawn}},
        "thread_source": "subagent",
        **{key: value for key, value in own.items() if value is not None},
    }


def _lineage(seat: _Seat, rng: Random) -> dict[str, object]:
    parent = seat.parent
    if parent is None:
        return {}
    parent_id = parent.thread_id.decode()
    if seat.kind == "subagent":
        return {"parent_thread_id": parent_id} if seat.style != "old" else {}
    found: dict[str, object] = {"forked_from_id": parent_id}
    if seat.style == "paginated":
        boundary = rng.choice(parent.boundaries)
        found["forked_from_ordinal_exclusive"] = boundary.ordinal
        found["history_base"] = _base(parent.rollout_id, boundary)
    return found


def _instructions(seat: _Seat, rng: Random, settings: Settings) -> dict[str, object] | None:
    if seat.bytes_wanted < 6_000 or rng.random() < 0.1:
        return None
    large = seat.bytes_wanted >= 30_000 and rng.random() < 0.6
    words = text.manual(rng, rng.randrange(10_000, 20_000) if large else rng.randrange(200, 1_000))
    return {
        "text": words,
        **({"provenance": {"type": "model", "model": settings.model}} if seat.style != "old" else {}),
    }


def _git(rng: Random) -> dict[str, object]:
    dice = rng.random()
    if dice < 0.3:
        return {}
    if dice < 0.35:
        return {"git": {"branch": "main"}}
    branch, repository = rng.choice(("main", "main", "fix/rounding", "feature/ünïcode")), rng.randrange(9)
    return {
        "git": {
            "commit_hash": sha(rng),
            "branch": branch,
            "repository_url": f"https://git.example/shop-{repository}.git",
        }
    }


# History that is taken over from a parent by copying.


def _copied_history(home: str, seat: _Seat, talk: Conversation) -> Iterator[bytes]:
    """What a fork of the older mode does: the parent's lines, its session_meta too, with the time of the copying."""
    boundary = _copied_to(seat, talk)
    if boundary is None or seat.parent is None:
        return
    told = "title preview first_user_message sandbox_policy approval_mode tokens_used model reasoning_effort".split()
    for record in islice(_records(home, seat.parent), boundary.records):
        yield _again(talk, record)
        if record["payload"].get("type") == "task_started":
            talk.row["recency_at_ms"] = talk.now_ms
    talk.row.update({key: boundary.row[key] for key in told})
    talk.usage = boundary.usage


def _copied_to(seat: _Seat, talk: Conversation) -> Boundary | None:
    """Where the copy ends. No memory mode is copied: readers differ in whose thread such a line speaks of."""
    if seat.parent is None or "memory_mode" in talk.meta or "memory_mode" in seat.parent.meta:
        return None
    room = (seat.bytes_wanted - talk.size) // 2
    fitting = [at for at in seat.parent.boundaries if at.offset < room]
    return talk.rng.choice(fitting) if fitting else None


def _inherited_context(home: str, seat: _Seat, talk: Conversation) -> list[_Record]:
    """What some paginated sub-agents begin with: their parent's context, without what happened to the parent.

    The first line is told where it ends (`subagent_history_start_ordinal`).
    """
    parent = seat.parent
    if (
        parent is None
        or seat.kind != "subagent"
        or seat.style != "paginated"
        or seat.bytes_wanted < _INHERITING_BYTES_MIN
    ):
        return []
    if talk.chance(0.4) or "memory_mode" in parent.meta:
        return []
    budget = min((seat.bytes_wanted - len(orjson.dumps(talk.meta))) // 2, _INHERITED_BYTES_MAX)
    prefix: list[_Record] = []
    for record in _records(home, parent):
        if record["type"] in _INHERITED_KINDS or record["payload"].get("type") in _INHERITED_EVENTS:
            budget -= len(orjson.dumps(record)) + 10
            if budget < 0:
                break
            prefix.append(record)
    if prefix:
        parent_id = parent.thread_id.decode()
        talk.meta = _with_inheritance(talk.meta, parent_id, len(prefix) + 1)
        talk.row["forked_from_id"] = parent_id
    return prefix


def _with_inheritance(meta: dict[str, object], parent_id: str, start_ordinal: int) -> dict[str, object]:
    """The same metadata with the two keys of inherited context in their places."""
    made: dict[str, object] = {}
    for key, value in meta.items():
        if key == "parent_thread_id":
            made["forked_from_id"] = parent_id
        made[key] = value
        if key == "history_mode":
            made["subagent_history_start_ordinal"] = start_ordinal
    return made


def _records(home: str, seat: _Seat) -> Iterator[_Record]:
    for line in read_lines(home, seat.path):
        yield orjson.loads(line)


def read_lines(home: str | Path, path: str) -> Iterator[bytes]:
    """The lines of a rollout, each with its newline, from the plain file or the compressed one."""
    plain = os.path.join(home, path)
    if os.path.exists(plain):
        with open(plain, "rb") as file:
            yield from file
        return
    with (
        open(plain + ".zst", "rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader,
    ):
        rest = b""
        while block := reader.read(1 << 18):
            *lines, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in lines)
        if rest:
            yield rest


def _again(talk: Conversation, record: _Record) -> bytes:
    """A record that was copied: the same but for its time and ordinal."""
    talk.now_ms += 1
    made: _Record = {"timestamp": iso(talk.now_ms), **({} if talk.ordinal is None else {"ordinal": talk.ordinal})}
    made.update((key, value) for key, value in record.items() if key not in ("timestamp", "ordinal"))
    return talk.count(orjson.dumps(made) + b"\n")


# Files.


def _path(seat: _Seat) -> str:
    stamp = iso(seat.created_ms)[:19].replace(":", "-")
    name = seat.thread_id.decode()
    if seat.rollout_id != seat.thread_id:
        name += "_" + seat.rollout_id.decode()
    folder = "archived_sessions" if seat.archived else f"sessions/{stamp[:4]}/{stamp[5:7]}/{stamp[8:10]}"
    return f"{folder}/rollout-{stamp}-{name}.jsonl"


def _write(home: str, path: str, lines: Iterator[bytes], talk: Conversation, *, compressed: bool) -> None:
    full = os.path.join(home, path) + (".zst" if compressed else "")
    ensure_folder(os.path.dirname(full))
    with os.fdopen(os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=1 << 18) as file:
        if compressed:
            with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as packed:
                for line in lines:
                    packed.write(line)
        else:
            file.writelines(lines)
    _set_time(full, talk.now_ms)


def ensure_folder(path: str) -> None:
    """Make a folder and those above it, each 0700 (`os.makedirs` gives its mode to the last alone)."""
    if not os.path.isdir(path):
        ensure_folder(os.path.dirname(os.path.abspath(path)))
        os.mkdir(path, 0o700)


def _set_time(full: str, ms: int) -> None:
    """A file is as old as its last record."""
    os.utime(full, ns=(ms * 1_000_000, ms * 1_000_000))
