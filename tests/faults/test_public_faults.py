"""Every public call, with each of its file calls failing once: what comes out is an answer or an error of ours.

A home is made once. For each public call a copy of it is used and the file calls are counted; then each of them fails in
a run of its own, with EIO. The list of calls is found by looking, so a new one has to be given here what it is called with.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.errors import EngineError, ThreadNotFound
from engine.options import MemoryOptions, Options
from engine.stores.files import Files
from engine.testing import ManualClock
from engine.testing.files import Call, FaultyFiles
from tests.own import Heads
from tests.public import parts_of, public_calls
from tests.writing import say

OPTIONS = Options(
    busy_wait_ms=200,
    background_scan_s=0,
    flush_delay_ms=3_600_000,
    scan_interval_ms=0,
    memories=MemoryOptions(tools=True),
)
LATER_MS = 4_000_000_000_000
"""After every file's time, so that all are old enough to be compressed."""

KEY = f"dk_hse_{'A' * 43}"
OF_AN_OPEN_THREAD = ("thread.", "turn.")
"""Of these the recorder's own tests make every step fail; here they are used through `threads`."""


@dataclass
class Made:
    """The home that each run gets a copy of, what is in it, and the engine of a run."""

    e: engine.Engine
    home: Path
    bundle: str
    a: str
    b: str
    lost: str
    legacy: str
    agent: str
    turn: str
    note: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("public")
    home, bundle = folder / "home", str(folder / "b.zip")
    home.mkdir()
    with opened(home, Files(), seed=0) as e:
        with e.threads.create(cwd="/") as a, e.threads.create(cwd="/", history_mode="legacy") as legacy:
            turn, _ = say(a, "one", "two")
            say(legacy, "one")
            e.goals.create(a.id, "the goal")
        with e.agents.spawn(a.id, cwd="/") as agent:
            say(agent, "three")
        with e.threads.create(cwd="/") as gone:
            say(gone, "four")
        e.threads.export([gone.id], bundle)
        e.threads.erase(gone.id, grace_s=None)
        with e.threads.create(cwd="/") as b, e.threads.create(cwd="/") as lost:
            say(b, "five")
            say(lost, "six")
        e.threads.archive(b.id)
        e.memories.put(a.id, trace_summary="what was done", memory_summary="what to remember")
        note = e.memories.add_note("a note", slug="first")
        e.backfill()
        e.search("one")
        (home / lost.path).unlink()
    return Made(e, home, bundle, a.id, b.id, lost.id, legacy.id, agent.id, turn, note)


def opened(home: Path, files: Any, seed: int = 1) -> engine.Engine:
    clock = ManualClock(wall_ms=LATER_MS, seed=seed)
    return engine.open(str(home), options=OPTIONS, clock=clock, files=files, projections=[Heads()])


def close(thread: Any) -> None:
    """Use a thread that was opened, and close it."""
    with thread:
        thread.append([{"type": "event_msg", "payload": {"type": "agent_reasoning", "text": "hm"}}])
        thread.add_usage({"total_tokens": 1})
        say(thread, "more")
        list(thread.read())


def follow(m: Made) -> None:
    with m.e.follow(start="beginning", decisions=True) as follower:
        while follower.poll() is not None:
            pass


def rows(m: Made) -> None:
    with m.e.projections["heads"].read(thread_id=m.a) as snapshot:
        list(snapshot.rows("SELECT * FROM heads"))


def explain(m: Made) -> None:
    with contextlib.suppress(ThreadNotFound):  # there is no database of the Codex CLI that would know it
        m.e.explain_codex(m.a)


ASKED: dict[str, dict[str, Any]] = {
    "add_ad_hoc_note": {"file_name": "2096-10-02T07-06-40-more.md", "text": "remember"},
    "list": {},
    "read": {"path": ""},
    "search": {"queries": ["note"]},
}


def use_tools(m: Made) -> None:
    for tool in m.e.memories.tools():
        tool.call({**ASKED[tool.name], **({"path": m.note} if tool.name == "read" else {})})


USES: dict[str, Callable[[Made], Any]] = {
    "engine.backfill": lambda m: m.e.backfill(),
    "engine.rebuild": lambda m: (m.e.rebuild(m.a), m.e.rebuild()),
    "engine.audit": lambda m: m.e.audit(deep=True),
    "engine.repair": lambda m: m.e.repair(),
    "engine.audit_codex": lambda m: m.e.audit_codex(),
    "engine.explain_codex": explain,
    "engine.compress": lambda m: m.e.compress(older_than_days=1),
    "engine.follow": follow,
    "engine.search": lambda m: m.e.search("one", thread_id=m.a),
    "engine.status": lambda m: m.e.status(),
    "threads.create": lambda m: close(m.e.threads.create(cwd="/")),
    "threads.resume": lambda m: close(m.e.threads.resume(m.a)),
    "threads.fork": lambda m: (close(m.e.threads.fork(m.a, through_turn=m.turn)), m.e.threads.fork(m.legacy).close()),
    "threads.rename": lambda m: m.e.threads.rename(m.a, "named"),
    "threads.set_memory_mode": lambda m: m.e.threads.set_memory_mode(m.a, "disabled"),
    "threads.dismiss": lambda m: m.e.threads.dismiss(m.lost),
    "threads.archive": lambda m: m.e.threads.archive(m.a),
    "threads.unarchive": lambda m: m.e.threads.unarchive(m.b),
    "threads.preview_erase": lambda m: m.e.threads.preview_erase(m.a),
    "threads.erase": lambda m: m.e.threads.erase(m.b),
    "threads.redact": lambda m: m.e.threads.redact(m.a, ordinal=3),
    "threads.export": lambda m: m.e.threads.export(None, f"{m.e.home}/x.zip"),
    "threads.import_bundle": lambda m: m.e.threads.import_bundle(m.bundle),
    "threads.list": lambda m: m.e.threads.list(),
    "threads.get": lambda m: m.e.threads.get(m.a),
    "threads.fetch": lambda m: m.e.threads.fetch(m.a),
    "threads.read": lambda m: (list(m.e.threads.read(m.a)), list(m.e.threads.read(m.a, reverse=True, limit=2))),
    "threads.model_context": lambda m: m.e.threads.model_context(m.a),
    "goals.get": lambda m: m.e.goals.get(m.a),
    "goals.list": lambda m: m.e.goals.list(),
    "goals.usage": lambda m: m.e.goals.usage(m.a),
    "goals.create": lambda m: m.e.goals.create(m.legacy, "another"),
    "goals.replace": lambda m: m.e.goals.replace(m.a, "another"),
    "goals.update": lambda m: m.e.goals.update(m.a, objective="another"),
    "goals.pause": lambda m: m.e.goals.pause(m.a),
    "goals.limit_usage": lambda m: m.e.goals.limit_usage(m.a),
    "goals.block": lambda m: m.e.goals.block(m.a),
    "goals.complete": lambda m: m.e.goals.complete(m.a),
    "goals.account": lambda m: m.e.goals.account(m.a, tokens=5),
    "goals.allow_continuation": lambda m: m.e.goals.allow_continuation(m.a),
    "goals.clear": lambda m: m.e.goals.clear(m.a),
    "agents.get": lambda m: m.e.agents.get(m.agent),
    "agents.children": lambda m: m.e.agents.children(m.a),
    "agents.descendants": lambda m: m.e.agents.descendants(m.a),
    "agents.ancestors": lambda m: m.e.agents.ancestors(m.agent),
    "agents.tree": lambda m: m.e.agents.tree(),
    "agents.find_child": lambda m: m.e.agents.find_child(m.a, "/root/x"),
    "agents.find_descendant": lambda m: m.e.agents.find_descendant(m.a, "/root/x"),
    "agents.spawn": lambda m: close(m.e.agents.spawn(m.a)),
    "agents.attach": lambda m: m.e.agents.attach(m.legacy, m.a),
    "agents.close": lambda m: m.e.agents.close(m.agent),
    "agents.reopen": lambda m: m.e.agents.reopen(m.agent),
    "agents.close_tree": lambda m: m.e.agents.close_tree(m.a, lambda _: None),
    "agents.resume_tree": lambda m: m.e.agents.resume_tree(m.a, lambda _: None),
    "logs.query": lambda m: m.e.logs.query(),
    "logs.max_id": lambda m: m.e.logs.max_id(),
    "logs.export": lambda m: m.e.logs.export([m.a]),
    "logs.fill": lambda m: m.e.logs.fill(),
    "logs.retain": lambda m: m.e.logs.retain(),
    "logs.status": lambda m: m.e.logs.status(),
    "turns.list": lambda m: m.e.turns.list(m.a, items_view="full"),
    "items.list": lambda m: m.e.items.list(m.a),
    "memories.run": lambda m: m.e.memories.run(now=True),
    "memories.status": lambda m: m.e.memories.status(),
    "memories.get": lambda m: m.e.memories.get(m.a),
    "memories.put": lambda m: m.e.memories.put(m.legacy, trace_summary="done", memory_summary="learned"),
    "memories.latest": lambda m: m.e.memories.latest(),
    "memories.select": lambda m: m.e.memories.select(),
    "memories.record_usage": lambda m: m.e.memories.record_usage([m.a]),
    "memories.record_citations": lambda m: m.e.memories.record_citations("none"),
    "memories.mark_polluted": lambda m: m.e.memories.mark_polluted(m.a),
    "memories.prune": lambda m: m.e.memories.prune(),
    "memories.summary": lambda m: m.e.memories.summary(),
    "memories.read": lambda m: m.e.memories.read("memory_summary.md"),
    "memories.tools": use_tools,
    "memories.add_note": lambda m: m.e.memories.add_note("a note"),
    "memories.sync_extension": lambda m: m.e.memories.sync_extension("source", "what it is", []),
    "memories.reset": lambda m: m.e.memories.reset(),
    "memories.held": lambda m: m.e.memories.held([m.a]),
    "memories.forget": lambda m: m.e.memories.forget([m.a]),
    "memories.forget_jobs": lambda m: m.e.memories.forget_jobs([m.a]),
    "bindings.list": lambda m: m.e.device_keys.bindings.list(),
    "bindings.find": lambda m: m.e.device_keys.bindings.find(KEY),
    "bindings.get": lambda m: asyncio.run(m.e.device_keys.bindings.get(KEY)),
    "bindings.put": lambda m: asyncio.run(m.e.device_keys.bindings.put(KEY, "user", "client")),
    "rows.read": rows,
    "rows.rows": lambda m: m.e.projections["heads"].rows("SELECT * FROM heads"),
    "follower.poll": follow,
}


class Run:
    """One use of a copy of the home, in which the file call of this number fails; None for none."""

    def __init__(self, made: Made, home: Path, use: Callable[[Made], Any]) -> None:
        self._made = made
        self._home = home
        self._use = use

    def once(self, number: int | None) -> tuple[list[Call], str]:
        """The calls that there were, and what came out that is not ours: a sentence, or nothing."""
        shutil.rmtree(self._home, ignore_errors=True)
        shutil.copytree(self._made.home, self._home)
        is_on = False
        files = FaultyFiles(Files(), lambda at, _: errno.EIO if is_on and at == number else None)
        told = ""
        with opened(self._home, files) as e:
            files.forget()
            is_on = True
            try:
                self._use(replace(self._made, e=e))
            except EngineError as error:
                if number is None:
                    raise
                told = "" if error.hint else f"{error!r} says nothing to do"
            except OSError as error:
                told = f"{error!r} at {files.struck}"
            is_on = False
            return files.calls, told

    def each(self, numbers: Iterable[int]) -> list[str]:
        """Fail these calls, one in each run, and say what came out that is not ours."""
        found = [self.once(number)[1] for number in numbers]
        return [each for each in found if each]


def test_every_public_call_is_here(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.home, tmp_path / "home")
    with opened(tmp_path / "home", Files()) as e, e.threads.create(cwd="/") as thread:
        calls = {name for name in public_calls(parts_of(e, thread)) if not name.startswith(OF_AN_OPEN_THREAD)}
    assert calls == set(USES)


SAMPLED = (
    "threads.resume",
    "threads.fork",
    "threads.archive",
    "threads.erase",
    "threads.redact",
    "threads.export",
    "threads.import_bundle",
    "threads.preview_erase",
    "threads.read",
    "engine.compress",
    "follower.poll",
)
"""Calls with the most files of their own; of the others the soak makes each step fail."""


TYPED = ("facts", "home", "journal", "lock", "logs", "migrate", "owner", "recorder", "set up", "sqlite", "workspace")
"""Calls under these op names are of databases, locks and writers, whose own tests make each of them fail."""


@pytest.mark.parametrize("name", SAMPLED)
def test_nothing_but_our_errors_comes_out_of_a_call_whatever_fails(made: Made, tmp_path: Path, name: str) -> None:
    """Of each kind of step the last."""
    run = Run(made, tmp_path / "copy", USES[name])
    calls, _ = run.once(None)
    last = {(call.name, call.op): number for number, call in enumerate(calls) if not call.op.startswith(TYPED)}
    assert len(last) > 5
    assert run.each(last.values()) == []


@pytest.mark.soak
@pytest.mark.parametrize("name", USES)
def test_soak_nothing_but_our_errors_comes_out_of_a_call_whatever_fails(made: Made, tmp_path: Path, name: str) -> None:
    run = Run(made, tmp_path / "copy", USES[name])
    calls, _ = run.once(None)
    assert run.each(range(len(calls))) == []
