"""Goals against a small model: any sequence of calls, on threads that are open or not, with restarts, kills and forks.

The model is a dict a thread and imports nothing of the engine. A kill is simulated by going on with a copy of the folder as
it is at that moment, sometimes without any database.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import engine
from engine.events.goals import (
    KIND,
    MODES,
    STATUSES,
    Account,
    AllowContinuation,
    Create,
    Inherit,
    LimitUsage,
    Pause,
    Replace,
    Update,
    decide,
)
from engine.events.item import item_of, line_of
from engine.events.record import decode_as
from engine.options import Options
from engine.projections.goals import GoalFold, goal_of
from engine.projections.threads import stream_of
from engine.stores.files import Files
from engine.testing import ManualClock
from engine.testing.tables import dump

OPTIONS = Options(flush_delay_ms=3_600_000, scan_interval_ms=60_000, segment_bytes_max=4_000, background_scan_s=0)
GIVEN = object()
NUMBER = st.integers(0, 9_999)

ACCEPTED = {
    "active_status_only": {"active"},
    "active_only": {"active", "budget_limited"},
    "active_or_complete": {"active", "budget_limited", "complete"},
    "active_or_stopped": {"active", "paused", "blocked", "usage_limited", "budget_limited"},
}


# --- the model -----------------------------------------------------------------------------------------------------


def over(goal: dict[str, Any]) -> bool:
    return goal["budget"] is not None and goal["tokens"] >= goal["budget"]


def new(objective: str, status: str, budget: int | None, *, deferred: bool) -> dict[str, Any]:
    return {
        "objective": objective, "status": status, "budget": budget, "tokens": 0, "seconds": 0, "deferred": deferred,
    }  # fmt: skip


def updated(goal: dict[str, Any], status: Any, budget: Any, *, reactivate: bool) -> None:
    if budget is not GIVEN:
        goal["budget"] = budget
    if status is not GIVEN:
        if not (goal["status"] == "budget_limited" and status in ("paused", "blocked")):
            goal["status"] = "budget_limited" if status == "active" and over(goal) else status
    elif reactivate and goal["status"] == "budget_limited" and not over(goal):
        goal["status"] = "active"
    elif budget is not GIVEN and goal["status"] == "active" and over(goal):
        goal["status"] = "budget_limited"


def counted(goal: dict[str, Any], tokens: int, seconds: int, mode: str) -> bool:
    tokens, seconds = max(tokens, 0), max(seconds, 0)
    if goal["status"] not in ACCEPTED[mode] or tokens + seconds == 0:
        return False
    goal["tokens"] += tokens
    goal["seconds"] += seconds
    if over(goal) and (goal["status"] == "active" or mode == "active_or_stopped"):
        goal["status"] = "budget_limited"
    return True


# --- the engine beside it ------------------------------------------------------------------------------------------


class Unsynced(Files):
    """What a kill leaves is what the kernel has, so nothing here is about the medium."""

    def sync(self, fd: int, *, op: str) -> None:
        pass

    def sync_folder(self, path: str, *, op: str) -> None:
        pass


class Session:
    """An engine in use, and beside it what must be true of it."""

    def __init__(self, seed: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="goals"))
        self.home = self.folder / "home 0"
        self.home.mkdir()
        self.clock = ManualClock(seed=seed)
        self.restarts = 0
        self.model: dict[str, dict[str, Any] | None] = {}
        self._open(self.home)

    def _open(self, home: Path) -> None:
        self.home, self.open = home, dict[str, Any]()
        self.e = engine.open(str(home), clock=self.clock, options=OPTIONS, files=Unsynced())

    def thread(self, number: int) -> None:
        mode = ("paginated", "legacy")[number % 2]
        thread = self.e.threads.create(cwd="/srv", history_mode=mode, durability="buffered")
        with thread.turn() as turn:
            turn.user_message("hello")
        self.open[thread.id], self.model[thread.id] = thread, None

    def fork(self, id_: str, number: int) -> None:
        child = self.e.threads.fork(id_, durability="buffered")
        known = self.model[id_]
        self.model[child.id] = None if known is None else {**known, "deferred": True}
        if number % 2:
            self.open[child.id] = child
        else:
            child.close()

    def turn(self, id_: str, number: int) -> None:
        if id_ not in self.open:
            self.open[id_] = self.e.threads.resume(id_, durability="buffered")
        with self.open[id_].turn() as turn:
            turn.user_message(f"{number}")
        if (known := self.model[id_]) is not None:
            known["deferred"] = False

    def close_thread(self, id_: str, number: int) -> None:
        if id_ in self.open:
            self.open.pop(id_).close()

    def begin(self, id_: str, number: int) -> None:
        """Create or replace."""
        known, status = self.model[id_], STATUSES[number % 6]
        budget = None if number % 3 == 0 else number % 50 + 1
        call = self.e.goals.replace if number % 7 == 0 else self.e.goals.create
        goal = call(id_, f" goal {number} ", token_budget=budget, status=status)
        if number % 7 and known is not None and known["status"] != "complete":
            assert goal is None
        else:
            deferred = known is not None and known["deferred"]
            self.model[id_] = {**new(f"goal {number}", status, budget, deferred=deferred), "id": goal.goal_id}

    def update(self, id_: str, number: int) -> None:
        known = self.model[id_]
        status = STATUSES[number % 6] if number % 4 < 2 else GIVEN
        budget = (None if number % 5 == 0 else number % 80 + 1) if number % 3 else GIVEN
        how: dict[str, Any] = {} if status is GIVEN else {"status": status}
        how |= {} if budget is GIVEN else {"token_budget": budget}
        how |= {"objective": f"words {number}"} if number % 2 else {}
        stale = number % 11 == 0
        reactivate = number % 13 < 4
        goal = self.e.goals.update(
            id_, **how, reactivate=reactivate, goal_id=self.clock.new_id() if stale else known and known["id"]
        )
        if known is None or stale:
            assert goal is None
            return
        if number % 2:
            known["objective"] = f"words {number}"
        if how:
            updated(known, status, budget, reactivate=reactivate)

    def step(self, id_: str, number: int) -> None:
        """Pause, limit or end the deferral."""
        known = self.model[id_]
        if number % 3 == 0:
            done, wanted = self.e.goals.pause(id_), known is not None and known["status"] == "active"
            status = "paused"
        elif number % 3 == 1:
            done = self.e.goals.limit_usage(id_)
            wanted, status = known is not None and known["status"] in ("active", "budget_limited"), "usage_limited"
        else:
            done = self.e.goals.allow_continuation(id_)
            assert (done is not None) == (known is not None and known["deferred"])
            if known is not None:
                known["deferred"] = False
            return
        assert (done is not None) == wanted
        if wanted and known is not None:
            known["status"] = status

    def account(self, id_: str, number: int) -> None:
        known, mode = self.model[id_], MODES[number % 4]
        tokens, seconds = number % 23 - 4, number // 10 % 6 - 1
        answer = self.e.goals.account(id_, tokens=tokens, seconds=seconds, mode=mode)
        assert answer.counted == (known is not None and counted(known, tokens, seconds, mode))

    def clear(self, id_: str, number: int) -> None:
        known, stale = self.model[id_], number % 3 == 0
        gone = self.e.goals.clear(id_, goal_id=self.clock.new_id() if stale else None)
        assert (gone is not None) == (known is not None and not stale)
        if gone is not None:
            assert known is not None
            assert gone.goal_id == known["id"]
            self.model[id_] = None

    def archive(self, id_: str, number: int) -> None:
        self.close_thread(id_, number)
        self.e.threads.archive(id_)
        self.check()
        self.e.threads.unarchive(id_)

    # --- what happens to it ----------------------------------------------------------------------------------------

    def restart(self) -> None:
        self.e.close()
        self._open(self.home)

    def kill(self, *, databases: bool) -> None:
        self.restarts += 1
        copy = self.folder / f"home {self.restarts}"
        ignored = ["locks", "*-shm"] if databases else ["locks", "*.sqlite*"]
        shutil.copytree(self.home, copy, ignore=shutil.ignore_patterns(*ignored))
        self.e.close()
        shutil.rmtree(self.home)
        self._open(copy)

    # --- what must hold --------------------------------------------------------------------------------------------

    def check(self) -> None:
        found = {id_: self.e.goals.get(id_) for id_ in self.model}
        assert {id_: goal and told(goal) for id_, goal in found.items()} == self.model
        there = {goal.thread_id: goal for goal in found.values() if goal is not None}
        assert {goal.thread_id: goal for goal in self.e.goals.list(limit=0)} == there

    def end(self) -> None:
        """Usage is the sum of its records, audit has nothing to say, and a fresh index of the files has the same rows."""
        try:
            self.check()
            for id_, known in self.model.items():
                used = self.e.goals.usage(id_, limit=0)
                assert sum(each.tokens for each in used) == (0 if known is None else known["tokens"])
                assert sum(each.seconds for each in used) == (0 if known is None else known["seconds"])
            assert self.e.audit(deep=True).findings == []
            self.e.close()
            rows = stable(self.home)
            for path in (self.home / "engine").glob("*.sqlite*"):
                path.unlink()
            self._open(self.home)
            self.e.backfill()
            self.check()
            self.e.close()
            assert stable(self.home) == rows
        finally:
            self.e.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def told(goal: Any) -> dict[str, Any]:
    return {
        "objective": goal.objective, "status": goal.status, "budget": goal.token_budget, "tokens": goal.tokens_used,
        "seconds": goal.time_used_seconds, "deferred": goal.continuation_deferred, "id": goal.goal_id,
    }  # fmt: skip


def stable(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows without those that tell how they came to be."""
    found = dump(home / "engine" / "state_1.sqlite")
    return {table: rows for table, rows in found.items() if table not in ("backfill", "divergences")}


CALLS = ["begin", "update", "step", "account", "clear", "turn", "fork", "close_thread", "archive"]


class GoalMachine(RuleBasedStateMachine):
    """Hypothesis chooses the calls and shortens a sequence that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session()
        self.session.thread(0)

    @rule(number=NUMBER)
    def thread(self, number: int) -> None:
        self.session.thread(number)

    @precondition(lambda self: self.session.model)
    @rule(which=NUMBER, number=NUMBER, what=st.sampled_from(CALLS + ["account", "update"] * 2))
    def call(self, which: int, number: int, what: str) -> None:
        ids = list(self.session.model)
        getattr(self.session, what)(ids[which % len(ids)], number)

    @rule()
    def restart(self) -> None:
        self.session.restart()

    @rule(databases=st.booleans())
    def kill(self, databases: bool) -> None:
        self.session.kill(databases=databases)

    @invariant()
    def are_as_they_should_be(self) -> None:
        self.session.check()

    def teardown(self) -> None:
        self.session.end()


TestGoalMachine = GoalMachine.TestCase
TestGoalMachine.settings = settings(settings.get_profile("test"), max_examples=12, stateful_step_count=20)


@pytest.mark.parametrize("operations", [400, pytest.param(10_000, marks=pytest.mark.soak)])
def test_after_any_operations_every_database_can_be_deleted_and_the_goals_come_back(operations: int) -> None:
    random, session = Random(operations), Session(seed=operations)
    words = ["begin"] * 3 + ["update"] * 4 + ["step"] * 2 + ["account"] * 8 + ["clear", "turn", "close_thread"]
    for at in range(operations):
        number, chance = random.randrange(10_000), random.random()
        if len(session.model) < 3 or chance < 0.01:
            session.thread(number)
        elif chance < 0.02:
            session.restart()
        elif chance < 0.03:
            session.kill(databases=number % 2 == 0)
        else:
            what = "fork" if chance < 0.04 else "archive" if chance < 0.05 else random.choice(words)
            getattr(session, what)(random.choice(list(session.model)[-8:]), number)
        if at % 50 == 0:
            session.check()
    session.end()


# --- decided and folded --------------------------------------------------------------------------------------------

THREAD = "01a20458-0000-7000-8000-00000000000a"
STREAM = stream_of(f"sessions/2026/01/05/rollout-2026-01-05T09-00-00-{THREAD}.jsonl")
BUDGETS = st.none() | st.integers(0, 30)
NEW = st.fixed_dictionaries({
    "goal_id": st.uuids().map(str),
    "objective": st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda text: text.strip()),
    "status": st.sampled_from(STATUSES),
    "token_budget": BUDGETS,
})  # fmt: skip
COMMANDS = st.one_of(
    NEW.map(lambda how: Create(**how)),
    NEW.map(lambda how: Replace(**how)),
    st.builds(Update, objective=st.just("y"), status=st.sampled_from(STATUSES), token_budget=BUDGETS),
    st.builds(Update, token_budget=BUDGETS, reactivate=st.booleans()),
    st.builds(Account, tokens=st.integers(-3, 1 << 62), seconds=st.integers(-3, 20), mode=st.sampled_from(MODES)),
    st.builds(Account, tokens=st.integers(-3, 20), mode=st.sampled_from(MODES)),
    st.sampled_from([Pause(), LimitUsage(), AllowContinuation(), None]),
)


@given(st.lists(COMMANDS, max_size=30))
def test_what_is_decided_is_what_its_records_fold_to(commands: list[Any]) -> None:
    """`None` stands for a turn that begins. Whatever is inherited, decided and begun: record and answer are one."""
    fold = GoalFold(THREAD)
    state, goal = fold.start(STREAM), None
    for at, command in enumerate(commands):
        if command is None:
            state.turn_at = at
            if goal is not None:
                (goal,) = [type(goal)(**{**{name: getattr(goal, name) for name in goal.__struct_fields__},
                                         "continuation_deferred": False})]  # fmt: skip
            continue
        given_ = Inherit(goal=goal) if goal is not None and at % 9 == 8 else command
        before = goal
        outcome = decide(THREAD, goal, given_, 1_000 + at)
        goal = outcome.goal
        assert outcome.records or goal == before
        for raw in outcome.records:
            item = item_of(raw)
            assert item.kind == KIND
            line = line_of(item, timestamp="2026-01-05T09:00:00.000Z", ordinal=at, key=None, line_bytes_max=99_999)
            assert fold.apply(state, decode_as(line[:-1], KIND), KIND, at)
        state = fold.decode(fold.encode(state))
        assert goal == (None if state.said is None else goal_of(THREAD, [*state.said, state.deferred]))
