"""The agent graph and the bindings of device keys against two dicts: any sequence of calls, restarts and lost databases.

The model imports nothing of the engine. A kill goes on with a copy of the folder as it is at that moment, sometimes without
any database.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import engine
from engine.errors import AgentCycle
from engine.options import Options
from engine.testing import ManualClock
from tests.unit.test_engine_machine import stable
from tests.writing import say

OPTIONS = Options(flush_delay_ms=3_600_000, scan_interval_ms=60_000, segment_bytes_max=3_000)
PATHS = [None, "/root/a", "/root/b"]
KEYS = ["dk_tpm_" + letter * 42 + "A" for letter in "ABC"]


class Model:
    """Who is whose agent, and which are open. A thread that is not in `parent` is nobody's."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.parent: dict[str, str] = {}
        self.status: dict[str, str] = {}
        self.path: dict[str, str | None] = {}
        self.keys: dict[str, tuple[str, str, int, int]] = {}

    def children(self, thread: str, status: str | None = None) -> list[str]:
        found = [child for child, parent in self.parent.items() if parent == thread]
        return sorted(child for child in found if status in (None, self.status[child]))

    def descendants(self, thread: str, status: str | None = None) -> list[tuple[int, str]]:
        """All below by depth and id; every path from the thread is gone along, and each thread counts where it is nearest."""
        depths = {thread: 0}
        todo = [thread]
        while todo:
            at = todo.pop(0)
            for child in self.children(at, status):
                if child not in depths:
                    depths[child] = depths[at] + 1
                    todo.append(child)
        return sorted((depth, child) for child, depth in depths.items() if child != thread)

    def ancestors(self, thread: str) -> list[str]:
        found: list[str] = []
        while thread in self.parent:
            thread = self.parent[thread]
            found.append(thread)
        return found

    def close_tree(self, thread: str, failing: set[str]) -> tuple[list[str], list[str], list[str]]:
        """What is done, failed and skipped, children first."""
        done: list[str] = []
        failed: list[str] = []
        skipped: list[str] = []

        def close(at: str, is_root: bool = False) -> bool:
            below = [close(child) for child in self.children(at, "open")]
            if is_root and self.status.get(at) == "closed":
                return True
            if not all(below):
                skipped.append(at)
                return False
            (failed if at in failing else done).append(at)
            if at in self.parent and at not in failing:
                self.status[at] = "closed"
            return at not in failing

        close(thread, is_root=True)
        return done, failed, skipped

    def resume_tree(self, thread: str, failing: set[str]) -> tuple[list[str], list[str], list[str]]:
        """The same, parents first and level by level."""
        done: list[str] = []
        failed: list[str] = []
        skipped: list[str] = []
        queue = [thread]
        while queue:
            at = queue.pop(0)
            if at in failing:
                failed.append(at)
                below = self.children(at, "open")
                while below:
                    skipped.append(below.pop(0))
                    below += self.children(skipped[-1], "open")
                continue
            done.append(at)
            if at in self.parent:
                self.status[at] = "open"
            queue += self.children(at, "open")
        return done, failed, skipped


class Session:
    """An engine in use, and beside it what must be true of it."""

    def __init__(self, seed: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agents"))
        self.home = self.folder / "home 0"
        self.home.mkdir()
        self.clock = ManualClock(seed=seed)
        self.e = engine.open(str(self.home), clock=self.clock, options=OPTIONS)
        self.model = Model()
        self.restarts = 0

    def any_of(self, number: int) -> str:
        return self.model.threads[number % len(self.model.threads)]

    # --- what an application does --------------------------------------------------------------------------------

    def begin(self) -> None:
        with self.e.threads.create(cwd="/srv", durability="buffered") as thread:
            say(thread, "begin")
        self.model.threads.append(thread.id)
        self.clock.advance(7)

    def spawn(self, parent: str, number: int) -> None:
        path = PATHS[number % len(PATHS)]
        with self.e.agents.spawn(parent, agent_path=path, durability="buffered") as thread:
            if number % 5:
                say(thread, str(number))
        if number % 5:  # else nothing was written, and it is not there
            self.model.threads.append(thread.id)
            self.model.parent[thread.id], self.model.status[thread.id] = parent, "open"
            self.model.path[thread.id] = path
        self.clock.advance(number % 50)

    def set_status(self, thread: str, number: int) -> None:
        status, call = [("closed", self.e.agents.close), ("open", self.e.agents.reopen)][number % 2]
        assert call(thread) == (thread in self.model.parent)
        if thread in self.model.parent:
            self.model.status[thread] = status

    def attach(self, thread: str, parent: str, number: int) -> None:
        status = ("open", "closed")[number % 2]
        if thread == parent or thread in self.model.ancestors(parent):
            with pytest.raises(AgentCycle):
                self.e.agents.attach(thread, parent, status)
            return
        self.e.agents.attach(thread, parent, status)
        self.model.parent[thread], self.model.status[thread] = parent, status

    def cascade(self, thread: str, number: int) -> None:
        failing = {each for each in self.model.threads if Random(f"{number} {each}").random() < 0.2}
        asked: list[str] = []

        def call(agent: Any) -> None:
            asked.append(agent.id)
            if agent.id in failing:
                raise RuntimeError("no")

        if number % 2:
            expected = self.model.close_tree(thread, failing)
            report = self.e.agents.close_tree(thread, call)
        else:
            expected = self.model.resume_tree(thread, failing)
            report = self.e.agents.resume_tree(thread, call)
        found = (report.done, [each.id for each in report.failed], report.skipped)
        assert found == expected
        assert sorted(asked) == sorted(report.done + found[1])

    def move(self, thread: str, number: int) -> None:
        (self.e.threads.archive if number % 2 else self.e.threads.unarchive)(thread)

    def bind(self, number: int) -> None:
        key, account = KEYS[number % len(KEYS)], f"account {number % 7}"
        asyncio.run(self.e.device_keys.bindings.put(key, account, "client"))
        now = self.clock.wall_ms()
        created = self.model.keys[key][2] if key in self.model.keys else now
        self.model.keys[key] = (account, "client", created, now)
        self.clock.advance(11)

    # --- what happens to it --------------------------------------------------------------------------------------

    def kill(self, *, databases: bool) -> None:
        self.restarts += 1
        copy = self.folder / f"home {self.restarts}"
        ignored = ["locks", "*-shm"] if databases else ["locks", "*.sqlite*"]
        shutil.copytree(self.home, copy, ignore=shutil.ignore_patterns(*ignored))
        self.e.close()
        shutil.rmtree(self.home)
        self.home = copy
        self.e = engine.open(str(copy), clock=self.clock, options=OPTIONS)

    # --- what must hold ------------------------------------------------------------------------------------------

    def check(self, threads: list[str]) -> None:
        agents, model = self.e.agents, self.model
        for thread in threads:
            for status in (None, "open", "closed"):
                assert [each.id for each in agents.children(thread, status).agents] == model.children(thread, status)
                found = agents.descendants(thread, status)
                assert found.partial is None
                assert [(each.depth, each.id) for each in found.agents] == model.descendants(thread, status)
            assert [each.id for each in agents.ancestors(thread).agents] == model.ancestors(thread)
            one = agents.get(thread)
            assert one is not None
            assert (one.parent_thread_id, one.status) == (model.parent.get(thread), model.status.get(thread))

    def check_whole(self) -> None:
        tree = self.e.agents.tree()
        parents = set(self.model.parent.values())
        assert [each.id for each in tree.roots] == sorted(parents - self.model.parent.keys())
        expected = [each for root in tree.roots for each in self.model.descendants(root.id)]
        assert [(each.depth, each.id) for each in tree.agents] == expected
        bound = {
            each.key_id: (each.account_user_id, each.client_id, each.created_at_ms, each.updated_at_ms)
            for each in self.e.device_keys.bindings.list()
        }
        assert bound == self.model.keys

    def end(self) -> None:
        """Rows are those of a fresh index of the same files, and audit has nothing to say."""
        try:
            self.check(self.model.threads)
            self.check_whole()
            assert self.e.audit(deep=True).findings == []
            self.e.close()
            rows = stable(self.home)
            for path in (self.home / "engine").glob("*.sqlite*"):
                path.unlink()
            self.e = engine.open(str(self.home), clock=self.clock, options=OPTIONS)
            self.e.backfill()
            self.check(self.model.threads)
            self.check_whole()
            self.e.close()
            assert stable(self.home) == rows
        finally:
            self.e.close()
            shutil.rmtree(self.folder, ignore_errors=True)


NUMBER = st.integers(0, 999)


class AgentsMachine(RuleBasedStateMachine):
    """Hypothesis chooses the calls and shortens a sequence that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session()
        self.session.begin()

    @rule()
    def begin(self) -> None:
        self.session.begin()

    @rule(which=NUMBER, number=NUMBER)
    def spawn(self, which: int, number: int) -> None:
        self.session.spawn(self.session.any_of(which), number)

    @rule(which=NUMBER, number=NUMBER)
    def set_status(self, which: int, number: int) -> None:
        self.session.set_status(self.session.any_of(which), number)

    @rule(which=NUMBER, parent=NUMBER, number=NUMBER)
    def attach(self, which: int, parent: int, number: int) -> None:
        self.session.attach(self.session.any_of(which), self.session.any_of(parent), number)

    @rule(which=NUMBER, number=NUMBER)
    def cascade(self, which: int, number: int) -> None:
        self.session.cascade(self.session.any_of(which), number)

    @rule(which=NUMBER, number=NUMBER)
    def move(self, which: int, number: int) -> None:
        self.session.move(self.session.any_of(which), number)

    @rule(number=NUMBER)
    def bind(self, number: int) -> None:
        self.session.bind(number)

    @precondition(lambda self: self.session.restarts < 3)
    @rule(databases=st.booleans())
    def kill(self, databases: bool) -> None:
        self.session.kill(databases=databases)

    @invariant()
    def the_graph_is_the_model_s(self) -> None:
        self.session.check(self.session.model.threads[-3:])

    def teardown(self) -> None:
        self.session.end()


TestAgentsMachine = AgentsMachine.TestCase
TestAgentsMachine.settings = settings(settings.get_profile("test"), max_examples=20, stateful_step_count=15)


def wander(operations: int, seed: int) -> None:
    """Random calls, in the proportions of a home in use; all databases are deleted at the end, and the rows come back."""
    random, session = Random(seed), Session(seed)
    model = session.model
    session.begin()
    for count in range(operations):
        thread, number = random.choice(model.threads), random.randrange(1_000)
        step = random.random()
        if step < 0.02 and len(model.threads) < 300:
            session.begin()
        elif step < 0.12 and len(model.threads) < 300:
            session.spawn(thread, number)
        elif step < 0.60:
            session.set_status(thread, number)
        elif step < 0.75:
            session.attach(thread, random.choice(model.threads), number)
        elif step < 0.80:
            session.cascade(thread, number)
        elif step < 0.83:
            session.move(thread, number)
        else:
            session.bind(number)
        if count % (operations // 4 + 1) == operations // 8:
            session.kill(databases=count % 2 == 0)
        if count % 50 == 0:
            session.check([thread])
    session.end()


def test_after_two_hundred_calls_every_database_can_be_deleted_and_the_rows_come_back() -> None:
    wander(200, seed=6)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_after_ten_thousand_calls_every_database_can_be_deleted_and_the_rows_come_back(seed: int) -> None:
    wander(10_000, seed)
