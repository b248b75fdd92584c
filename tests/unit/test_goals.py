"""Goals, by the conformance cases of the format's description (GO-01 to GO-22), through the whole engine.

Each case looks at the answer, at the row, and at the row after every database was removed: they are one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.errors import EngineClosed, ForeignRollout, InvalidRequest, ThreadBusy, ThreadNotFound
from engine.events.goals import Create, Goal, Replace, decide
from engine.options import Options
from engine.testing import HomePlan, ManualClock, make_home
from engine.testing.tables import dump
from engine.thread import Thread
from tests.writing import NO_TIMER, faults, only, opened, records, say

CHECKOUT = Path(__file__).resolve().parents[2]
NOBODY = "01a20458-0000-7000-8000-00000000dead"


class Bench:
    """A home with one thread that is open, and a clock that goes on with every look at it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = ManualClock()
        self.e = opened(home, self.clock)
        self.thread: Thread = self.e.threads.create(cwd="/srv")
        self.id = self.thread.id
        self.goals = self.e.goals

    def goal(self) -> Goal | None:
        """The goal as it is answered; it is the same from tables that are made anew."""
        self.clock.advance(10)
        found = self.goals.get(self.id)
        state, journal = self.home.parent / "again", self.home / "engine/journal"
        if journal.exists():
            shutil.copytree(journal, state / "journal")
        with engine.open(str(self.home), state_dir=str(state), options=NO_TIMER) as again:
            assert again.goals.get(self.id) == found, "another index of the same files says something else"
        shutil.rmtree(state)
        return found

    def later(self) -> Goals:
        self.clock.advance(10)
        return self.goals

    def records(self) -> list[dict[str, Any]]:
        """The payloads of the goal's records."""
        found = [each["payload"] for each in records(only(self.home))]
        return [each for each in found if each.get("type") == "thread_goal_updated"]


Goals = Any


@pytest.fixture
def bench(tmp_path: Path):
    made = Bench(tmp_path / "home")
    yield made
    made.e.close()


def test_go_01_replacing_starts_from_nothing_and_deleting_answers_what_was_deleted(bench: Bench) -> None:
    say(bench.thread, "hello")
    first = bench.goals.replace(bench.id, "first", token_budget=100)
    assert bench.goals.account(bench.id, tokens=7, seconds=3).counted
    paused = bench.later().update(bench.id, status="paused", token_budget=50)
    assert paused is not None
    assert (paused.status, paused.token_budget, paused.tokens_used) == ("paused", 50, 7)
    second = bench.later().replace(bench.id, "second")
    assert (second.objective, second.status, second.token_budget) == ("second", "active", None)
    assert (second.tokens_used, second.time_used_seconds) == (0, 0)
    assert second.goal_id != first.goal_id
    assert bench.goal() == second
    assert bench.goals.clear(bench.id) == second
    assert bench.goals.clear(bench.id) is None
    assert bench.goal() is None
    row = bench.e.threads.get(bench.id)
    assert row is not None
    assert row.preview == "hello"


@pytest.mark.parametrize("command", [Create, Replace])
def test_go_02_an_active_goal_without_any_budget_begins_out_of_it(command: type) -> None:
    outcome = decide(NOBODY, None, command(goal_id="g", objective="x", token_budget=0), 5)
    assert outcome.goal is not None
    assert outcome.goal.status == "budget_limited"
    paused = decide(NOBODY, None, command(goal_id="g", objective="x", token_budget=0, status="paused"), 5)
    assert paused.goal is not None
    assert paused.goal.status == "paused"


def test_go_03_creating_leaves_a_goal_that_is_not_complete(bench: Bench) -> None:
    first = bench.goals.create(bench.id, "first")
    for status in ("active", "paused", "blocked", "usage_limited", "budget_limited"):
        now = bench.goals.update(bench.id, status=status)
        assert bench.goals.create(bench.id, "second") is None
        assert bench.goals.get(bench.id) == now
    assert bench.goals.complete(bench.id) is not None
    second = bench.goals.create(bench.id, "second")
    assert second is not None
    assert first is not None
    assert second.goal_id != first.goal_id
    assert bench.goal() == second


def test_go_04_an_update_for_another_goal_does_nothing(bench: Bench) -> None:
    old = bench.goals.replace(bench.id, "old")
    new = bench.goals.replace(bench.id, "new")
    before = bench.records()
    for stale in (old.goal_id, NOBODY):
        assert bench.goals.update(bench.id, objective="x", goal_id=stale) is None
        assert bench.goals.update(bench.id, goal_id=stale) is None
        assert bench.goals.pause(bench.id, goal_id=stale) is None
        assert bench.goals.complete(bench.id, goal_id=stale) is None
        assert bench.goals.limit_usage(bench.id, goal_id=stale) is None
        assert bench.goals.clear(bench.id, goal_id=stale) is None
    assert bench.records() == before
    assert bench.goal() == new
    done = bench.goals.update(bench.id, objective="newer", goal_id=new.goal_id.upper())
    assert done is not None
    assert done.objective == "newer"


def test_go_05_use_of_another_goal_is_not_counted(bench: Bench) -> None:
    old, new = bench.goals.replace(bench.id, "old"), bench.goals.replace(bench.id, "new")
    answer = bench.goals.account(bench.id, tokens=5, goal_id=old.goal_id)
    assert (answer.counted, answer.goal) == (False, new)
    assert bench.goal() == new


def test_go_06_an_update_keeps_what_was_used_and_when_it_began(bench: Bench) -> None:
    made = bench.goals.replace(bench.id, "first")
    bench.later().account(bench.id, tokens=9, seconds=4)
    now = bench.later().update(bench.id, objective=" second ", status="blocked", token_budget=40)
    assert now is not None
    assert (now.objective, now.status, now.token_budget) == ("second", "blocked", 40)
    assert (now.goal_id, now.created_at_ms) == (made.goal_id, made.created_at_ms)
    assert (now.tokens_used, now.time_used_seconds) == (9, 4)
    assert now.updated_at_ms == made.updated_at_ms + 20
    assert bench.goal() == now


def test_go_07_status_and_budget_that_are_set_at_once_both_hold(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x")
    run_all([
        lambda: bench.goals.update(bench.id, status="paused"),
        lambda: bench.goals.update(bench.id, token_budget=77),
    ])  # fmt: skip
    now = bench.goal()
    assert now is not None
    assert (now.status, now.token_budget) == ("paused", 77)


def test_go_08_a_complete_goal_is_not_paused(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x")
    done = bench.goals.complete(bench.id)
    assert bench.goals.pause(bench.id) is None
    assert bench.goal() == done


def test_go_09_a_limit_of_use_stops_active_and_spent_goals(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x", token_budget=5)
    assert bench.goals.limit_usage(bench.id).status == "usage_limited"
    assert bench.goals.limit_usage(bench.id) is None
    bench.goals.update(bench.id, status="active")
    assert bench.goals.account(bench.id, tokens=5).goal.status == "budget_limited"
    assert bench.goals.limit_usage(bench.id).status == "usage_limited"
    for status in ("paused", "blocked", "complete"):
        bench.goals.replace(bench.id, "x", status=status)
        assert bench.goals.limit_usage(bench.id) is None


def test_go_10_a_budget_ends_a_goal_and_the_count_goes_on(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x", token_budget=20)
    steps = [bench.goals.account(bench.id, tokens=tokens).goal for tokens in (5, 15, 5)]
    assert [(goal.status, goal.tokens_used) for goal in steps] == [
        ("active", 5),
        ("budget_limited", 20),
        ("budget_limited", 25),
    ]
    assert bench.goal() == steps[-1]


def test_go_11_only_the_status_active_counts_where_that_is_asked_for(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x", token_budget=20)
    assert bench.goals.account(bench.id, tokens=20, mode="active_status_only").goal.status == "budget_limited"
    answer = bench.goals.account(bench.id, tokens=5, mode="active_status_only")
    assert (answer.counted, answer.goal.tokens_used) == (False, 20)


def test_go_12_a_stopped_goal_that_is_over_its_budget_is_out_of_it(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x", token_budget=20, status="paused")
    answer = bench.goals.account(bench.id, tokens=25, mode="active_or_stopped")
    assert (answer.counted, answer.goal.status, answer.goal.tokens_used) == (True, "budget_limited", 25)


def test_go_13_a_budget_below_what_was_used_ends_a_goal(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x", token_budget=20)
    bench.goals.account(bench.id, tokens=10)
    assert bench.goals.update(bench.id, token_budget=10).status == "budget_limited"


def test_go_14_a_spent_goal_stays_so_when_it_is_made_active_and_takes_its_new_objective(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x", token_budget=5)
    bench.goals.account(bench.id, tokens=5)
    now = bench.goals.update(bench.id, objective="y", status="active")
    assert (now.objective, now.status) == ("y", "budget_limited")
    assert bench.goals.update(bench.id, status="active", token_budget=6).status == "active"


@pytest.mark.parametrize("status", ["paused", "blocked"])
def test_go_15_a_spent_goal_is_neither_paused_nor_blocked(bench: Bench, status: Any) -> None:
    bench.goals.replace(bench.id, "x", token_budget=5)
    spent = bench.goals.account(bench.id, tokens=5).goal
    now = bench.later().update(bench.id, status=status)
    assert now.status == "budget_limited"
    assert now.updated_at_ms == spent.updated_at_ms + 10
    assert bench.goal() == now


def test_go_16_what_a_complete_goal_used_last_is_counted_where_that_is_asked_for(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x", token_budget=5)
    bench.goals.complete(bench.id)
    assert not bench.goals.account(bench.id, tokens=9).counted
    answer = bench.goals.account(bench.id, tokens=9, mode="active_or_complete")
    assert (answer.counted, answer.goal.status, answer.goal.tokens_used) == (True, "complete", 9)
    assert not bench.goals.account(bench.id, tokens=9, mode="active_or_stopped").counted


def test_go_17_what_a_paused_goal_used_last_is_counted_where_that_is_asked_for(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x", token_budget=50, status="paused")
    assert not bench.goals.account(bench.id, tokens=9).counted
    answer = bench.goals.account(bench.id, tokens=9, mode="active_or_stopped")
    assert (answer.counted, answer.goal.status, answer.goal.tokens_used) == (True, "paused", 9)


def test_go_18_what_many_count_at_once_is_counted_all(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x")
    run_all([
        lambda: bench.goals.account(bench.id, tokens=40, seconds=4),
        lambda: bench.goals.account(bench.id, tokens=60, seconds=6),
    ])  # fmt: skip
    now = bench.goal()
    assert now is not None
    assert (now.tokens_used, now.time_used_seconds) == (100, 10)


@pytest.mark.parametrize("is_open", [True, False])
def test_many_threads_of_a_process_count_exactly(bench: Bench, *, is_open: bool) -> None:
    """Whether the thread is open here, or opened by each of them for the moment."""
    bench.goals.replace(bench.id, "x")
    if not is_open:
        bench.thread.close()
    each, counters = 6, 8

    def count(number: int) -> None:
        for _ in range(each):
            assert bench.goals.account(bench.id, tokens=number, seconds=1).counted

    run_all([lambda number=number: count(number) for number in range(1, counters + 1)])
    now = bench.goal()
    assert now is not None
    assert now.tokens_used == each * sum(range(1, counters + 1))
    assert now.time_used_seconds == each * counters
    used = [said["usage"] for said in bench.records() if "usage" in said]
    assert sum(each["tokens"] for each in used) == now.tokens_used
    assert sum(each.tokens for each in bench.goals.usage(bench.id, limit=0)) == now.tokens_used


def test_a_thread_that_is_closed_under_a_count_is_opened_again(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x")
    stop = threading.Event()

    def open_and_close() -> None:
        thread = bench.thread
        while not stop.is_set():
            thread.close()
            thread = bench.e.threads.resume(bench.id)
        thread.close()

    def count() -> None:
        try:
            for _ in range(30):
                assert bench.goals.account(bench.id, tokens=1).counted
        finally:
            stop.set()

    run_all([open_and_close, count])
    assert bench.goals.get(bench.id).tokens_used == 30


def test_go_19_an_erased_thread_has_no_goal(bench: Bench) -> None:
    say(bench.thread, "hello")
    bench.goals.replace(bench.id, "x")
    bench.goals.clear(bench.id)
    bench.goals.replace(bench.id, "y")
    bench.goals.get(bench.id)
    bench.thread.close()
    receipt = bench.e.threads.erase(bench.id, grace_s=None)
    assert {each.store: each.removed for each in receipt.stores}["state, goals"] == 1
    assert bench.goals.get(bench.id) is None
    assert bench.goals.list() == []
    tables = dump(bench.home / "engine/state_1.sqlite")
    assert (tables["goals"], tables["goal_deletions"]) == ([], [])
    with pytest.raises(ThreadNotFound):
        bench.goals.replace(bench.id, "z")


def test_go_20_less_than_nothing_counts_as_nothing(bench: Bench) -> None:
    made = bench.goals.replace(bench.id, "x")
    for tokens, seconds in ((0, 0), (-5, 0), (0, -5), (-5, -5)):
        answer = bench.later().account(bench.id, tokens=tokens, seconds=seconds)
        assert (answer.counted, answer.goal) == (False, made)
    answer = bench.goals.account(bench.id, tokens=-5, seconds=2)
    assert (answer.goal.tokens_used, answer.goal.time_used_seconds) == (0, 2)


@pytest.mark.parametrize("mode", ["paginated", "legacy"])
def test_go_21_a_fork_is_given_the_goal_as_it_is_and_waits_for_a_turn(tmp_path: Path, mode: str) -> None:
    with opened(tmp_path / "home") as e:
        parent = e.threads.create(cwd="/srv", history_mode=mode)
        say(parent, "hello")
        e.goals.replace(parent.id, "x", token_budget=5)
        told = e.goals.account(parent.id, tokens=7, seconds=3).goal
        child = e.threads.fork(parent.id)
        given = e.goals.get(child.id)
        assert given == Goal(**{
            **{name: getattr(told, name) for name in Goal.__struct_fields__},
            "thread_id": child.id,
            "continuation_deferred": True,
        })  # fmt: skip
        e.goals.replace(child.id, "y")
        assert e.goals.get(child.id).continuation_deferred, "plain replacing leaves it deferred"
        e.goals.clear(child.id)
        assert e.goals.get(child.id) is None
        assert not e.goals.replace(child.id, "z").continuation_deferred, "it went with the goal that was deleted"
        assert not e.goals.get(child.id).continuation_deferred
        assert e.goals.get(parent.id) == told
        second = e.threads.fork(child.id)
        assert e.goals.get(second.id).continuation_deferred
        say(second, "go on")
        assert not e.goals.get(second.id).continuation_deferred, "a turn began"
        third = e.threads.fork(second.id)
        assert not e.goals.allow_continuation(third.id).continuation_deferred
        assert e.goals.allow_continuation(third.id) is None
        assert not e.goals.get(third.id).continuation_deferred
        rows = [e.goals.get(each.id) for each in (parent, child, second, third)]
        assert faults(e) == []
    for path in (tmp_path / "home/engine").glob("*.sqlite*"):
        path.unlink()
    with opened(tmp_path / "home") as e:
        assert [e.goals.get(each.id) for each in (parent, child, second, third)] == rows


def test_go_22_more_budget_lets_a_goal_go_on_only_if_that_is_said(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x", token_budget=5)
    bench.goals.account(bench.id, tokens=5)
    assert bench.goals.update(bench.id, token_budget=50).status == "budget_limited"
    assert bench.goals.update(bench.id, token_budget=None).status == "budget_limited"
    assert bench.goals.update(bench.id, token_budget=5, reactivate=True).status == "budget_limited"
    assert bench.goals.update(bench.id, token_budget=50, reactivate=True).status == "active"
    bench.goals.pause(bench.id)
    assert bench.goals.update(bench.id, token_budget=60, reactivate=True).status == "paused"
    assert bench.goal().status == "paused"


# --- what no goal can be -------------------------------------------------------------------------------------------


REFUSED = {
    "a blank objective": lambda goals, id_: goals.create(id_, " \n "),
    "no text": lambda goals, id_: goals.create(id_, None),
    "half a character": lambda goals, id_: goals.replace(id_, "\ud800"),
    "a long objective": lambda goals, id_: goals.replace(id_, "x" * 4_001),
    "a long new objective": lambda goals, id_: goals.update(id_, objective="é" * 4_001),
    "an empty new objective": lambda goals, id_: goals.update(id_, objective=""),
    "no budget at all": lambda goals, id_: goals.create(id_, "x", token_budget=0),
    "a budget below 0": lambda goals, id_: goals.update(id_, token_budget=-1),
    "a budget that is no number": lambda goals, id_: goals.update(id_, token_budget=True),
    "a budget over 63 bits": lambda goals, id_: goals.update(id_, token_budget=1 << 63),
    "an unknown status": lambda goals, id_: goals.update(id_, status="usageLimited"),
    "an unknown first status": lambda goals, id_: goals.replace(id_, "x", status="done"),
    "an unknown mode": lambda goals, id_: goals.account(id_, tokens=1, mode="all"),
    "half a token": lambda goals, id_: goals.account(id_, tokens=0.5),
    "a goal id that is none": lambda goals, id_: goals.update(id_, objective="x", goal_id="7"),
    "a goal id to delete that is none": lambda goals, id_: goals.clear(id_, goal_id="7"),
    "a thread id that is none": lambda goals, _: goals.get("7"),
    "an unknown status to list": lambda goals, _: goals.list(status="done"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_goal_can_be_is_refused_and_nothing_is_written(bench: Bench, case: str) -> None:
    say(bench.thread, "hello")
    bench.goals.replace(bench.id, "x")
    before = only(bench.home).read_bytes()
    with pytest.raises(InvalidRequest) as caught:
        REFUSED[case](bench.goals, bench.id)
    assert caught.value.hint
    assert only(bench.home).read_bytes() == before
    assert not (bench.home / "engine/journal").exists()


def test_an_objective_of_4000_characters_is_kept_whole(bench: Bench) -> None:
    for objective in ("é" * 4_000, "\U0001f600" * 4_000):
        bench.goals.replace(bench.id, f"  {objective}\n")
        assert bench.goal().objective == objective


def test_a_thread_that_is_not_there_has_no_goal_and_is_given_none(bench: Bench) -> None:
    assert bench.goals.get(NOBODY) is None
    for call in (bench.goals.complete, bench.goals.clear, bench.goals.usage):
        with pytest.raises(ThreadNotFound):
            call(NOBODY)


@pytest.mark.parametrize("mode", ["paginated", "legacy"])
def test_without_the_option_there_are_no_goals(tmp_path: Path, mode: str) -> None:
    """A legacy fork has a copy of what its parent said of a goal, which is not its own."""
    with opened(tmp_path / "home") as e:
        thread = e.threads.create(cwd="/srv", history_mode=mode)
        e.goals.replace(thread.id, "x")
    with opened(tmp_path / "home", options=Options(goals=False)) as e:
        with pytest.raises(InvalidRequest):
            e.goals.get(thread.id)
        with pytest.raises(InvalidRequest):
            e.goals.replace(thread.id, "y")
        child = e.threads.fork(thread.id)
    with opened(tmp_path / "home") as e:
        assert e.goals.get(thread.id).objective == "x"
        assert e.goals.get(child.id) is None


# --- whose thread it is --------------------------------------------------------------------------------------------


def test_a_foreign_thread_is_given_a_goal_only_when_it_is_adopted(tmp_path: Path) -> None:
    thread_id = make_home(tmp_path / "home", HomePlan(threads=1, seed=3))[0].id
    with opened(tmp_path / "home") as e:
        with pytest.raises(ForeignRollout):
            e.goals.replace(thread_id, "x")
        made = e.goals.replace(thread_id, "x", adopt=True)
        assert e.goals.get(thread_id) == made
        with pytest.raises(ForeignRollout):
            e.goals.pause(thread_id)
        assert e.goals.clear(thread_id) == made, "deleting needs no lock"
        assert e.goals.get(thread_id) is None


OTHER = """
import sys, engine
from engine.errors import ThreadBusy
with engine.open(sys.argv[1]) as e:
    try:
        e.goals.account(sys.argv[2], tokens=1)
    except ThreadBusy as busy:
        print("busy", busy.owner is not None)
    print(e.goals.get(sys.argv[2]).objective)
    print(e.goals.clear(sys.argv[2]).objective)
"""


def test_another_process_may_delete_a_goal_and_change_none(bench: Bench) -> None:
    say(bench.thread, "hello")
    bench.goals.replace(bench.id, "x")
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(bench.home), bench.id],
        capture_output=True, text=True, check=False, timeout=120, cwd=CHECKOUT,
    )  # fmt: skip
    assert (done.stdout.split("\n"), done.stderr) == (["busy True", "x", "x", ""], "")
    assert bench.goals.account(bench.id, tokens=5).goal is None, "what another process deleted counts here"
    assert bench.goals.get(bench.id) is None
    made = bench.goals.create(bench.id, "y")
    assert bench.goal() == made


def test_a_goal_is_as_the_file_says_whatever_the_rows_have_followed(bench: Bench) -> None:
    """The tables are gone, and a raw record was appended beside: what is decided next is decided by the file."""
    bench.goals.replace(bench.id, "x")
    bench.goals.account(bench.id, tokens=5)
    raw = bench.records()[-1]
    raw["goal"]["tokensUsed"] = 1_000
    bench.thread.append([{"type": "event_msg", "payload": raw}])
    for path in (bench.home / "engine").glob("state_1.sqlite*"):
        path.unlink()
    assert bench.goals.account(bench.id, tokens=5).goal.tokens_used == 1_005
    assert bench.goals.get(bench.id).tokens_used == 1_005


def test_a_deleted_goal_is_known_from_the_journal_where_the_tables_cannot_be_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.errors import StoreBusy

    old = bench.goals.replace(bench.id, "x")
    bench.goals.clear(bench.id)

    def busy() -> None:
        raise StoreBusy("busy", waited_ms=1)

    monkeypatch.setattr(bench.goals._facts, "catch_up", busy)
    assert bench.goals.account(bench.id, tokens=5).goal is None
    new = bench.goals.create(bench.id, "y")
    assert new.goal_id != old.goal_id
    assert bench.goals.account(bench.id, tokens=5).counted


def test_a_closed_engine_says_so(bench: Bench) -> None:
    bench.e.close()
    for call in (bench.goals.get, bench.goals.pause, bench.goals.clear, bench.goals.usage):
        with pytest.raises(EngineClosed):
            call(bench.id)


def test_a_thread_that_somebody_else_of_the_process_has_open_with_its_lock_is_busy(bench: Bench) -> None:
    say(bench.thread, "hello")
    with opened(bench.home) as other, pytest.raises(ThreadBusy):
        other.goals.replace(bench.id, "x")


# --- rows ----------------------------------------------------------------------------------------------------------


def test_the_goals_of_all_threads_are_listed_changed_last_first(bench: Bench) -> None:
    others = [bench.e.threads.create(cwd="/srv") for _ in range(3)]
    for number, thread in enumerate([bench.thread, *others]):
        bench.later().replace(thread.id, f"{number}", status="paused" if number == 2 else "active")
    bench.goals.clear(others[0].id)
    assert [goal.objective for goal in bench.goals.list()] == ["3", "2", "0"]
    assert [goal.objective for goal in bench.goals.list(status="active")] == ["3", "0"]
    assert [goal.objective for goal in bench.goals.list(limit=1)] == ["3"]


def test_a_reverted_thread_keeps_its_goal(tmp_path: Path) -> None:
    """Its newest rollout says nothing of it; what that one says later counts, whatever the clock says."""
    with opened(tmp_path / "home") as e:
        thread = e.threads.create(cwd="/srv")
        say(thread, "hello")
        e.goals.replace(thread.id, "x")
        told = e.goals.account(thread.id, tokens=4).goal
        thread.close()
    old = only(tmp_path / "home")
    meta = json.loads(old.read_bytes().splitlines()[0])
    meta["payload"]["history_base"] = {"thread_id": thread.id, "end_ordinal_exclusive": 1, "end_byte_offset": None}
    newer = old.with_name(old.name.replace(thread.id, f"{thread.id}_01a30000-0000-7000-8000-000000000001"))
    newer.write_text(json.dumps(meta, separators=(",", ":")) + "\n")
    with opened(tmp_path / "home", ManualClock(wall_ms=1_000_000_000_000)) as e:
        assert e.threads.get(thread.id).rollout_path == str(newer)
        assert e.goals.get(thread.id) == told
        assert [each.objective for each in e.goals.list()] == ["x"]
        now = e.goals.account(thread.id, tokens=3).goal
        assert (now.tokens_used, now.goal_id) == (7, told.goal_id)
        assert e.goals.get(thread.id) == now
        assert sum(each.tokens for each in e.goals.usage(thread.id)) == 7
        assert [each for each in faults(e) if each.class_ != "dangling_base"] == []


def test_a_record_without_an_id_is_of_a_goal_whose_id_is_derived(bench: Bench) -> None:
    def foreign(created: int, **more: Any) -> dict[str, Any]:
        goal = {"threadId": bench.id, "objective": "o", "status": "usageLimited", "createdAt": created, **more}
        return {
            "type": "event_msg",
            "payload": {"type": "thread_goal_updated", "threadId": bench.id, "goal": goal},
        }

    bench.thread.append([foreign(1_795_369_505, tokensUsed=9, timeUsedSeconds=2, updatedAt=1_795_369_507)])
    first = bench.goal()
    assert (first.status, first.tokens_used, first.time_used_seconds) == ("usage_limited", 9, 2)
    assert (first.created_at_ms, first.updated_at_ms) == (1_795_369_505_000, 1_795_369_507_000)
    bench.thread.append([foreign(1_795_369_505, objective="same")])
    assert bench.goal().goal_id == first.goal_id
    bench.thread.append([foreign(1_795_369_506)])
    assert bench.goal().goal_id != first.goal_id
    bench.goals.clear(bench.id, goal_id=bench.goal().goal_id)
    assert bench.goal() is None


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "  "}, {"objective": None}, {"threadId": NOBODY, "objective": "of another thread"},
    ],
)  # fmt: skip
def test_a_record_that_says_nothing_of_this_threads_goal_changes_nothing(bench: Bench, change: dict[str, Any]) -> None:
    made = bench.goals.replace(bench.id, "x")
    raw = bench.records()[-1]
    raw["goal"] |= change
    raw |= {key: value for key, value in change.items() if key in raw}
    bench.thread.append([{"type": "event_msg", "payload": raw}])
    assert bench.goal() == made


def test_odd_numbers_of_another_program_fit_into_the_row(bench: Bench) -> None:
    made = bench.goals.replace(bench.id, "x")
    raw = bench.records()[-1]
    raw["goal"] |= {"tokensUsed": -5, "timeUsedSeconds": (1 << 63) - 1, "createdAt": 1 << 62, "createdAtMs": None}
    raw["goal"] |= {"status": "someLaterStatus", "goalId": None, "updatedAtMs": None, "updatedAt": 1 << 62}
    bench.thread.append([{"type": "event_msg", "payload": raw}])
    now = bench.goal()
    assert (now.tokens_used, now.time_used_seconds) == (0, (1 << 63) - 1)
    assert (now.status, now.created_at_ms, now.updated_at_ms) == ("someLaterStatus", (1 << 63) - 1, (1 << 63) - 1)
    assert now.goal_id != made.goal_id
    assert bench.goals.account(bench.id, tokens=(1 << 63) - 1, seconds=5, mode="active_or_stopped").counted
    assert bench.goal().tokens_used == bench.goal().time_used_seconds == (1 << 63) - 1
    assert faults(bench.e) == []


SPOILT = {
    "a lost row": ("DELETE FROM goals", "goals"),
    "other words": ("UPDATE goals SET objective = 'y'", "goals.objective"),
    "another count": ("UPDATE goals SET tokens_used = 99", "goals.tokens_used"),
    "a deferral": ("UPDATE goals SET deferred = 1", "goals.deferred"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_an_audit_names_a_goal_that_is_not_as_its_record_says_and_repair_mends_it(bench: Bench, case: str) -> None:
    bench.goals.replace(bench.id, "x")
    made = bench.goals.account(bench.id, tokens=3).goal
    bench.goals.get(bench.id)
    bench.thread.close()
    sql, field = SPOILT[case]
    spoil(bench, sql)
    assert [(each.class_, each.field) for each in bench.e.audit().faults] == [("wrong_goal", field)]
    assert bench.e.repair().is_clean
    assert bench.goals.get(bench.id) == made
    assert faults(bench.e) == []


def test_an_audit_names_a_goal_that_no_record_tells_of(bench: Bench) -> None:
    say(bench.thread, "hello")
    bench.goals.list()
    bench.thread.close()
    values = "'g', 'o', 'active', NULL, 0, 0, 1, 1, 0"
    path = str(only(bench.home).relative_to(bench.home))
    spoil(bench, f"INSERT INTO goals VALUES ('{path}', {values}), ('{LOST}', {values})")
    found = {(each.class_, each.field, each.path) for each in bench.e.audit().faults}
    assert found == {("wrong_goal", "goals", path), ("orphan_row", "goals", LOST)}
    assert bench.e.repair().is_clean
    assert dump(bench.home / "engine/state_1.sqlite")["goals"] == []


def test_an_audit_names_a_deletion_that_is_not_as_it_was_recorded(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x")
    bench.goals.clear(bench.id)
    bench.thread.close()
    spoil(bench, "DELETE FROM goal_deletions")
    assert [(each.class_, each.field) for each in bench.e.audit().faults] == [("wrong_fact", "goal_deletions")]
    assert bench.e.repair().is_clean
    assert bench.goals.get(bench.id) is None


def test_a_redacted_goal_leaves_the_one_before(bench: Bench) -> None:
    before = bench.goals.replace(bench.id, "before")
    bench.goals.replace(bench.id, "secret")
    bench.thread.close()
    (*_, last) = records(only(bench.home))
    bench.e.threads.redact(bench.id, ordinal=last["ordinal"])
    assert bench.goal() == before
    assert b"secret" not in (bench.home / "engine/state_1.sqlite").read_bytes()
    assert faults(bench.e) == []


def test_a_goal_goes_along_into_the_archive_and_into_another_home(bench: Bench, tmp_path: Path) -> None:
    bench.goals.replace(bench.id, "old")
    bench.goals.clear(bench.id)
    other = bench.e.threads.create(cwd="/srv")
    kept = bench.goals.replace(other.id, "kept")
    bench.thread.close()
    other.close()
    bench.e.threads.archive(other.id)
    assert bench.goals.get(other.id) == kept
    bench.e.threads.export(None, str(tmp_path / "all.zip"))
    with opened(tmp_path / "other") as e:
        e.threads.import_bundle(str(tmp_path / "all.zip"))
        assert (e.goals.get(bench.id), e.goals.get(other.id)) == (None, kept)
        assert faults(e) == []


def test_a_compressed_thread_is_opened_for_its_goal(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x")
    bench.thread.close()
    bench.clock.advance(1_000 * 24 * 3_600_000)
    assert bench.e.compress(older_than_days=7).compressed
    assert bench.goals.get(bench.id).objective == "x"
    assert bench.goals.account(bench.id, tokens=2).goal.tokens_used == 2


def test_followers_are_told_of_a_deletion(bench: Bench) -> None:
    bench.goals.replace(bench.id, "x")
    with bench.e.follow([bench.id], decisions=True) as follower:
        gone = bench.goals.clear(bench.id)
        told = next(each for each in follower if getattr(each, "rollout_id", "") is None)
    assert told.record.payload["goal_id"] == gone.goal_id


LOST = "sessions/2026/01/01/rollout-2026-01-01T00-00-00-01a20458-0000-7000-8000-00000000dead.jsonl"


def spoil(bench: Bench, sql: str) -> None:
    with bench.e._database.write() as transaction:
        transaction.run(sql)


def run_all(calls: list[Any]) -> None:
    """All at once; the first failure is raised."""
    failed: list[BaseException] = []
    gate = threading.Barrier(len(calls))

    def run(call: Any) -> None:
        try:
            gate.wait(60)
            call()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    running = [threading.Thread(target=run, args=(call,)) for call in calls]
    for each in running:
        each.start()
    for each in running:
        each.join()
    if failed:
        raise failed[0]
