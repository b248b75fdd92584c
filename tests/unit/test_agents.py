"""The agent graph: edges, their order and filters, closing and resuming whole trees.

AG-… and H… are the conformance cases of the agent graph; each is named where it is shown.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import engine
from engine.agents import AgentFailure
from engine.errors import (
    AgentCycle,
    AgentPathAmbiguous,
    ForkedEngine,
    InvalidRequest,
    ReadOnlyHome,
    ThreadArchived,
    ThreadNotFound,
)
from engine.options import Options
from engine.projections.agents import ATTACHED, STATUS_SET, Agent
from engine.stores.files import Files
from engine.stores.journal import Journal
from engine.testing import ManualClock
from tests.agents import id_of, journal, number_of, numbers, plant
from tests.writing import Faults, faults, opened, say


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One thread with two agents, of which each has one; the first one's has one again."""
    folder = tmp_path / "home"
    folder.mkdir()
    plant(folder, 1)
    plant(folder, 2, 1, agent_path="/root/a", agent_nickname="Ada", agent_role="explorer")
    plant(folder, 3, 1, agent_path="/root/b")
    plant(folder, 4, 2, agent_path="/root/a/c")
    plant(folder, 5, 3)
    plant(folder, 6, 4)
    return folder


@pytest.fixture
def e(home: Path) -> Iterator[engine.Engine]:
    with opened(home) as it:
        yield it


class Calls:
    """A callback that remembers what it was called for, and fails for some."""

    def __init__(self, *failing: int) -> None:
        self.called: list[int] = []
        self.depths: list[int] = []
        self.failing = set(failing)

    def __call__(self, agent: Agent) -> None:
        number = number_of(agent.id)
        self.called.append(number)
        self.depths.append(agent.depth)
        if number in self.failing:
            raise RuntimeError(f"agent {number} does not answer")


# --- what is there ---------------------------------------------------------------------------------------------------


def test_ag_01_a_chain_of_two_shows_the_closed_child_alone_and_the_open_one_when_asked_from_it(
    tmp_path: Path,
) -> None:
    """AG-01, H1, H2."""
    for number, parent in ((1, None), (2, 1), (3, 2)):
        plant(tmp_path, number, parent)
    with opened(tmp_path) as e:
        assert numbers(e.agents.children(id_of(1))) == [2]
        assert numbers(e.agents.descendants(id_of(1))) == [2, 3]
        assert e.agents.close(id_of(2))
        assert numbers(e.agents.children(id_of(1), "open")) == []
        assert numbers(e.agents.descendants(id_of(1), "open")) == []
        assert numbers(e.agents.descendants(id_of(1), "closed")) == [2]
        assert numbers(e.agents.children(id_of(2), "open")) == [3]
        assert numbers(e.agents.children(id_of(1))) == [2]
        assert numbers(e.agents.descendants(id_of(1))) == [2, 3]
        found = e.agents.get(id_of(2))
        assert found is not None
        assert (found.status, found.status_at_ms) == ("closed", ManualClock().wall_ms())


def test_ag_02_h3_a_status_that_is_not_known_is_shown_where_none_is_asked_for(home: Path, e: engine.Engine) -> None:
    """A newer release may have more of them; the words of those that are known are in snake case."""
    e.agents._decisions.record(STATUS_SET, id_of(2), status="paused_by_user")
    assert [agent.status for agent in e.agents.children(id_of(1)).agents] == ["paused_by_user", "open"]
    assert numbers(e.agents.children(id_of(1), "open")) == [3]
    assert numbers(e.agents.children(id_of(1), "closed")) == []
    assert numbers(e.agents.descendants(id_of(1), "open")) == [3, 5]
    assert numbers(e.agents.descendants(id_of(1))) == [2, 3, 4, 5, 6]


def test_ag_03_h1_descendants_come_level_by_level_and_a_filter_counts_on_every_edge(e: engine.Engine) -> None:
    found = e.agents.descendants(id_of(1))
    assert [(number_of(agent.id), agent.depth) for agent in found.agents] == [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3)]
    e.agents.close(id_of(3))
    e.agents.close(id_of(5))
    e.agents.close(id_of(6))
    assert numbers(e.agents.descendants(id_of(1), "open")) == [2, 4], "5 is hidden below 3, 6 is closed"
    assert numbers(e.agents.descendants(id_of(1), "closed")) == [3, 5], "6 is hidden below open ones"


def test_ag_04_h8_an_agent_that_is_attached_anew_moves_with_its_status_and_its_source_counts_no_more(
    home: Path, e: engine.Engine
) -> None:
    e.agents.attach(id_of(4), id_of(3), "closed")
    assert numbers(e.agents.children(id_of(2))) == []
    assert numbers(e.agents.children(id_of(3))) == [4, 5]
    assert numbers(e.agents.descendants(id_of(3), "open")) == [5]
    e.agents.attach(id_of(4), id_of(1))
    assert numbers(e.agents.children(id_of(1), "open")) == [2, 3, 4]
    assert numbers(e.agents.ancestors(id_of(6))) == [4, 1]
    assert numbers(e.agents.tree()) == [2, 3, 4, 5, 6]  # type: ignore[arg-type]


def test_h8_the_later_of_two_session_metas_of_an_agent_counts(tmp_path: Path) -> None:
    """AG-04 by the rollout alone: a legacy rollout may have its session_meta again, with another parent."""
    for number, parent in ((1, None), (2, None), (3, 1)):
        plant(tmp_path, number, parent)
    path = next((tmp_path / "sessions").rglob(f"*{id_of(3)}.jsonl"))
    path.write_text(path.read_text() + path.read_text().replace(id_of(1), id_of(2)))
    with opened(tmp_path) as e:
        assert numbers(e.agents.children(id_of(1))) == []
        assert numbers(e.agents.children(id_of(2))) == [3]


def test_ag_05_a_path_finds_none_one_or_is_refused(home: Path) -> None:
    plant(home, 7, 3, agent_path="/root/a/c")
    with opened(home) as e:
        assert e.agents.find_child(id_of(1), "/root/nobody") is None
        found = e.agents.find_child(id_of(1), "/root/a")
        assert found is not None
        assert (found.id, found.agent_nickname, found.agent_role) == (id_of(2), "Ada", "explorer")
        assert e.agents.find_child(id_of(1), "/root/a/c") is None, "it is further below"
        below = e.agents.find_descendant(id_of(2), "/root/a/c")
        assert below is not None
        assert below.id == id_of(4)
        with pytest.raises(AgentPathAmbiguous) as refused:
            e.agents.find_descendant(id_of(1), "/root/a/c")
        assert refused.value.agents == [id_of(4), id_of(7)]
        e.agents.close(id_of(7))
        still = e.agents.find_descendant(id_of(1), "/root/a/c", "open")
        assert still is not None
        assert still.id == id_of(4), "a path may be given again once its agent is closed"


def test_h4_an_agent_that_was_never_written_to_is_no_agent(home: Path, e: engine.Engine) -> None:
    with e.agents.spawn(id_of(1)) as agent:
        assert numbers(e.agents.children(id_of(1))) == [2, 3]
        say(agent, "go on")
        assert agent.id in [each.id for each in e.agents.children(id_of(1)).agents]
    with e.agents.spawn(id_of(1)):
        pass
    assert len(e.agents.children(id_of(1)).agents) == 3


def test_h5_a_subtree_has_closed_agents_those_without_a_name_and_those_of_a_parent_that_is_gone(home: Path) -> None:
    plant(home, 8, 9)
    with opened(home) as e:
        e.agents.close(id_of(4))
        assert numbers(e.agents.descendants(id_of(1))) == [2, 3, 4, 5, 6]
        assert numbers(e.agents.children(id_of(9))) == [8]
        (above,) = e.agents.ancestors(id_of(8)).agents
        assert (above.id, above.missing, above.parent_thread_id) == (id_of(9), True, None)
        with e.agents.spawn(id_of(6)) as running:
            say(running, "hello")
            assert e.agents.descendants(id_of(1)).agents[-1].id == running.id, "one that runs is there as well"


def test_h13_rows_kept_in_memory_have_the_relations_of_those_on_disk(home: Path, tmp_path: Path) -> None:
    with opened(home) as e:
        on_disk = e.agents.tree()
    shutil.rmtree(home / "engine")
    with engine.open(str(home), clock=ManualClock(), files=ReadOnly()) as e:
        assert e.state_dir is None
        e.backfill()
        assert e.agents.tree() == on_disk


def test_ancestors_come_from_the_nearest_to_the_top(e: engine.Engine) -> None:
    found = e.agents.ancestors(id_of(6))
    assert [(number_of(agent.id), agent.depth) for agent in found.agents] == [(4, 1), (2, 2), (1, 3)]
    assert e.agents.ancestors(id_of(1)).agents == []
    assert e.agents.ancestors(id_of(99)).agents == []


def test_a_cycle_ends_wherever_it_is_looked_at(tmp_path: Path) -> None:
    """1 → 2 → 3 → 1, with 4 hanging on 3, and 5 its own parent: only damaged or foreign homes have such."""
    for number, parent in ((1, 3), (2, 1), (3, 2), (4, 3), (5, 5)):
        plant(tmp_path, number, parent)
    with opened(tmp_path) as e:
        assert numbers(e.agents.descendants(id_of(1))) == [2, 3, 4]
        assert numbers(e.agents.descendants(id_of(3))) == [1, 4, 2]
        assert numbers(e.agents.ancestors(id_of(4))) == [3, 2, 1]
        assert numbers(e.agents.descendants(id_of(5))) == []
        tree = e.agents.tree()
        assert [number_of(root.id) for root in tree.roots] == [1, 5]
        assert [number_of(agent.id) for agent in tree.agents] == [2, 3, 4]
        calls = Calls()
        assert [number_of(each) for each in e.agents.close_tree(id_of(2), calls).done] == [1, 4, 3, 2]
        assert [number_of(each) for each in e.agents.resume_tree(id_of(2), Calls()).done] == [2]


def test_reviews_forks_of_agents_and_threads_without_a_parent_are_no_agents(home: Path) -> None:
    """A fork has its source's source, so it is known by what it was forked from; a spawn may begin with its parent's words."""
    plant(home, 7, None, meta_source={"subagent": "review"}, meta_parent_thread_id=id_of(1))
    plant(home, 8, 1, meta_forked_from_id=id_of(2))
    plant(home, 9, 1, meta_forked_from_id=id_of(1))
    with opened(home) as e:
        assert numbers(e.agents.children(id_of(1))) == [2, 3, 9]
        assert not e.agents.close(id_of(7))
        assert not e.agents.close(id_of(8))
        assert not (home / "engine" / "journal").exists(), "nothing is written of what is no agent"
        with e.threads.resume(id_of(9), adopt=True) as thread:
            say(thread, "words")
        with e.threads.fork(id_of(9)) as fork:
            say(fork, "else")
        assert numbers(e.agents.children(id_of(1))) == [2, 3, 9]


def test_the_tree_of_a_home_has_every_top_and_of_one_thread_its_own(home: Path) -> None:
    plant(home, 11, 10)
    plant(home, 12)
    with opened(home) as e:
        tree = e.agents.tree()
        assert [(number_of(root.id), root.missing) for root in tree.roots] == [(1, False), (10, True)]
        assert [(number_of(each.id), each.depth) for each in tree.agents] == [
            (2, 1),
            (3, 1),
            (4, 2),
            (5, 2),
            (6, 3),
            (11, 1),
        ]
        one = e.agents.tree(id_of(2))
        assert ([number_of(root.id) for root in one.roots], numbers(one)) == ([2], [4, 6])  # type: ignore[arg-type]
        assert e.agents.tree(id_of(12)).agents == []
        e.agents.close(id_of(11))
        assert [number_of(root.id) for root in e.agents.tree(status="open").roots] == [1]


# --- one edge --------------------------------------------------------------------------------------------------------


def test_an_agent_is_spawned_into_its_own_rollout_one_deeper_than_its_parent(home: Path, e: engine.Engine) -> None:
    with e.agents.spawn(
        id_of(6), agent_path="/root/d", agent_nickname="Eve", agent_role="worker", model="m", model_provider="p"
    ) as agent:
        say(agent, "hello")
    row = e.threads.get(agent.id)
    assert row is not None
    assert row.source == (
        '{"subagent":{"thread_spawn":{"parent_thread_id":"' + id_of(6) + '","depth":4,"agent_path":"/root/d",'
        '"agent_nickname":"Eve","agent_role":"worker"}}}'
    )
    assert (row.cwd, row.thread_source, row.parent_thread_id) == ("/srv", "subagent", id_of(6))
    assert [each.id for each in e.agents.ancestors(agent.id).agents] == [id_of(6), id_of(4), id_of(2), id_of(1)]
    assert not (home / "engine" / "journal").exists(), "the edge is in the rollout alone"
    assert faults(e) == []


def test_an_agent_that_runs_or_is_another_program_s_is_closed_and_reopened(home: Path, e: engine.Engine) -> None:
    with e.agents.spawn(id_of(1)) as running:
        say(running, "hello")
        before = [path.read_bytes() for path in sorted((home / "sessions").rglob("*.jsonl"))]
        assert e.agents.close(running.id)
        assert e.agents.close(id_of(2))
        assert numbers(e.agents.children(id_of(1), "open")) == [3]
        assert e.agents.reopen(running.id)
        assert e.agents.reopen(id_of(2))
        assert len(e.agents.children(id_of(1), "open").agents) == 3
        assert [path.read_bytes() for path in sorted((home / "sessions").rglob("*.jsonl"))] == before
    assert [(each["type"], each["status"]) for each in journal(home)] == [
        (STATUS_SET, "closed"),
        (STATUS_SET, "closed"),
        (STATUS_SET, "open"),
        (STATUS_SET, "open"),
    ]


def test_what_cannot_be_decided_is_a_typed_error_and_nothing_is_written(home: Path, e: engine.Engine) -> None:
    refused: list[tuple[type[engine.EngineError], Callable[[], object]]] = [
        (AgentCycle, lambda: e.agents.attach(id_of(1), id_of(6))),
        (AgentCycle, lambda: e.agents.attach(id_of(2), id_of(2))),
        (AgentCycle, lambda: e.agents.attach(id_of(2), id_of(4).upper())),
        (ThreadNotFound, lambda: e.agents.attach(id_of(2), id_of(99))),
        (ThreadNotFound, lambda: e.agents.attach(id_of(99), id_of(2))),
        (InvalidRequest, lambda: e.agents.attach(id_of(2), id_of(3), "asleep")),
        (ThreadNotFound, lambda: e.agents.close(id_of(99))),
        (ThreadNotFound, lambda: e.agents.reopen(id_of(99))),
        (ThreadNotFound, lambda: e.agents.close_tree(id_of(99), Calls())),
        (ThreadNotFound, lambda: e.agents.resume_tree(id_of(99), Calls())),
        (ThreadNotFound, lambda: e.agents.spawn(id_of(99))),
        (InvalidRequest, lambda: e.agents.spawn("nobody")),
        (InvalidRequest, lambda: e.agents.close("nobody")),
        (InvalidRequest, lambda: e.agents.children("nobody")),
        (InvalidRequest, lambda: e.agents.children(id_of(1), "asleep")),
        (InvalidRequest, lambda: e.agents.descendants(id_of(1), "")),
        (InvalidRequest, lambda: e.agents.tree("nobody")),
        (InvalidRequest, lambda: e.agents.tree(None, "asleep")),
    ]
    for error, call in refused:
        with pytest.raises(error) as raised:
            call()
        assert raised.value.hint
    assert not (home / "engine" / "journal").exists()
    assert e.agents.get(id_of(99)) is None


def test_records_of_the_journal_that_are_not_right_set_nothing(home: Path, e: engine.Engine) -> None:
    decisions = e.agents._decisions
    decisions.record(STATUS_SET, id_of(2))
    decisions.record(STATUS_SET, id_of(2), status=7)
    decisions.record(STATUS_SET, None, status="closed")
    decisions.record(STATUS_SET, "nobody", status="closed")
    decisions.record(ATTACHED, id_of(2), status="closed")
    decisions.record(ATTACHED, id_of(2), parent_thread_id="nobody", status="closed")
    decisions.record(ATTACHED, id_of(2).upper(), parent_thread_id=id_of(3).upper())
    found = e.agents.get(id_of(2))
    assert found is not None
    assert (found.parent_thread_id, found.status, found.status_at_ms) == (id_of(3), "open", None)
    assert faults(e, deep=True) == []


def test_a_read_only_home_is_looked_at_and_nothing_is_decided_or_shut_down(home: Path) -> None:
    with engine.open(str(home), clock=ManualClock(), files=ReadOnly()) as e:
        e.backfill()
        assert numbers(e.agents.descendants(id_of(1))) == [2, 3, 4, 5, 6]
        calls = Calls()
        for refused in (
            lambda: e.agents.close(id_of(2)),
            lambda: e.agents.attach(id_of(5), id_of(1)),
            lambda: e.agents.close_tree(id_of(1), calls),
            lambda: e.agents.resume_tree(id_of(1), calls),
        ):
            with pytest.raises(ReadOnlyHome):
                refused()
        assert calls.called == []


# --- whole trees -----------------------------------------------------------------------------------------------------


def test_h11_closing_from_the_top_closes_every_open_agent_children_first(home: Path, e: engine.Engine) -> None:
    calls = Calls()
    report = e.agents.close_tree(id_of(1), calls)
    assert calls.called == [6, 4, 2, 5, 3, 1]
    assert calls.depths == [3, 2, 1, 2, 1, 0]
    assert ([number_of(each) for each in report.done], report.failed, report.skipped) == (calls.called, [], [])
    assert numbers(e.agents.descendants(id_of(1), "open")) == []
    assert [number_of(each["thread_id"]) for each in journal(home)] == [6, 4, 2, 5, 3], "1 is nobody's agent"


def test_h11_closing_from_a_child_leaves_its_siblings(e: engine.Engine) -> None:
    calls = Calls()
    e.agents.close_tree(id_of(2), calls)
    assert calls.called == [6, 4, 2]
    assert numbers(e.agents.descendants(id_of(1), "open")) == [3, 5]


def test_what_could_not_be_closed_stays_in_sight_and_is_closed_the_next_time(home: Path, e: engine.Engine) -> None:
    """4 fails, so 2 above it stays open as well: below a closed 2 nobody would find 4 again."""
    report = e.agents.close_tree(id_of(1), Calls(4))
    assert [number_of(each) for each in report.done] == [6, 5, 3]
    assert report.failed == [AgentFailure(id=id_of(4), error="RuntimeError: agent 4 does not answer")]
    assert [number_of(each) for each in report.skipped] == [2, 1]
    assert numbers(e.agents.descendants(id_of(1), "open")) == [2, 4]
    again = Calls()
    report = e.agents.close_tree(id_of(1), again)
    assert again.called == [4, 2, 1]
    assert report.failed == []
    assert e.agents.close_tree(id_of(1), Calls()).done == [id_of(1)], "of a third time nothing is left but the top"
    assert len(journal(home)) == 5


def test_a_tree_below_a_closed_thread_is_closed_and_the_thread_is_not_asked(e: engine.Engine) -> None:
    e.agents.close(id_of(2))
    calls = Calls()
    assert e.agents.close_tree(id_of(2), calls).done == [id_of(6), id_of(4)]
    assert calls.called == [6, 4]
    failed = Calls(6)
    e.agents.reopen(id_of(6))
    e.agents.reopen(id_of(4))
    report = e.agents.close_tree(id_of(2), failed)
    assert (report.done, report.skipped) == ([], [id_of(4)])


def test_an_agent_that_is_spawned_while_its_tree_is_closed_is_closed_as_well(e: engine.Engine) -> None:
    late: list[str] = []

    def shut_down(agent: Agent) -> None:
        if agent.id == id_of(6):
            with e.agents.spawn(id_of(4)) as thread:
                say(thread, "one more")
            late.append(thread.id)

    report = e.agents.close_tree(id_of(1), shut_down)
    assert report.done[:2] == [id_of(6), late[0]]
    assert e.agents.descendants(id_of(1), "open").agents == []


def test_an_agent_that_cannot_be_noted_as_closed_is_told_and_comes_again(home: Path) -> None:
    files = Faults()
    with opened(home, files=files) as e:
        assert numbers(e.agents.children(id_of(1))) == [2, 3]
        files.failing["journal.write"] = errno.ENOSPC
        calls = Calls()
        report = e.agents.close_tree(id_of(2), calls)
        assert calls.called == [6]
        assert [(each.id, each.error.split(":")[0]) for each in report.failed] == [(id_of(6), "AppendFailed")]
        assert [number_of(each) for each in report.skipped] == [4, 2]
        files.failing.clear()
        assert [number_of(each) for each in e.agents.close_tree(id_of(2), calls).done] == [6, 4, 2]


def test_ctrl_c_in_a_callback_ends_the_call_and_what_was_closed_is_closed(home: Path, e: engine.Engine) -> None:
    def shut_down(agent: Agent) -> None:
        if agent.id == id_of(4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        e.agents.close_tree(id_of(1), shut_down)
    assert numbers(e.agents.descendants(id_of(1), "open")) == [2, 3, 4, 5]
    assert [number_of(each) for each in e.agents.close_tree(id_of(1), Calls()).done] == [4, 2, 5, 3, 1]


def test_h6_resuming_a_top_brings_back_open_agents_parents_first_and_no_closed_one(e: engine.Engine) -> None:
    e.agents.close(id_of(3))
    calls = Calls()
    report = e.agents.resume_tree(id_of(1), calls)
    assert calls.called == [1, 2, 4, 6]
    assert [number_of(each) for each in report.done] == [1, 2, 4, 6]
    assert numbers(e.agents.children(id_of(1), "closed")) == [3], "a closed child stays closed, and hides 5"


def test_h7_below_an_agent_that_cannot_be_resumed_all_are_skipped_and_told(e: engine.Engine) -> None:
    calls = Calls(2)
    report = e.agents.resume_tree(id_of(1), calls)
    assert calls.called == [1, 2, 3, 5]
    assert [number_of(each) for each in report.done] == [1, 3, 5]
    assert [number_of(each.id) for each in report.failed] == [2]
    assert [number_of(each) for each in report.skipped] == [4, 6]
    again = Calls()
    assert e.agents.resume_tree(id_of(2), again).skipped == []
    assert again.called == [2, 4, 6]


def test_h8_depth_and_parent_are_those_of_the_graph_and_not_of_a_stale_source(home: Path) -> None:
    plant(home, 7, 6, depth=9, meta_parent_thread_id=id_of(5))
    with opened(home) as e:
        calls = Calls()
        e.agents.resume_tree(id_of(1), calls)
        assert list(zip(calls.called, calls.depths, strict=True)) == [
            (1, 0),
            (2, 1),
            (3, 1),
            (4, 2),
            (5, 2),
            (6, 3),
            (7, 3),
        ]


def test_h9_resuming_a_closed_agent_reopens_its_edge_and_comes_to_its_own_open_ones(e: engine.Engine) -> None:
    e.agents.close(id_of(2))
    calls = Calls()
    e.agents.resume_tree(id_of(2), calls)
    assert calls.called == [2, 4, 6]
    assert numbers(e.agents.descendants(id_of(1), "open")) == [2, 3, 4, 5, 6]


def test_h9_one_that_could_not_be_resumed_stays_closed(e: engine.Engine) -> None:
    e.agents.close(id_of(2))
    report = e.agents.resume_tree(id_of(2), Calls(2))
    assert [number_of(each) for each in report.skipped] == [4, 6]
    assert numbers(e.agents.children(id_of(1), "open")) == [3]


def test_h10_an_archived_agent_is_come_to_and_can_be_written_to_once_it_is_unarchived(e: engine.Engine) -> None:
    e.threads.archive(id_of(4))
    resumed: list[str] = []

    def resume(agent: Agent) -> None:
        if agent.archived:
            with pytest.raises(ThreadArchived):
                e.threads.resume(agent.id, adopt=True)
            e.threads.unarchive(agent.id)
        e.threads.resume(agent.id, adopt=True).close()
        resumed.append(agent.id)

    report = e.agents.resume_tree(id_of(2), resume)
    assert resumed == report.done == [id_of(2), id_of(4), id_of(6)]


def test_h12_an_application_s_own_bound_counts_as_a_failure_and_holds_up_nobody_else(e: engine.Engine) -> None:
    """How many run at once is the application's to bound: its callback refuses, and a closed one makes room."""
    running: list[str] = []

    def resume(agent: Agent) -> None:
        if len(running) >= 4:
            raise RuntimeError("4 agents run already")
        running.append(agent.id)

    report = e.agents.resume_tree(id_of(1), resume)
    assert [number_of(each) for each in running] == [1, 2, 3, 4]
    assert ([number_of(each.id) for each in report.failed], report.skipped) == ([5, 6], [])
    e.agents.close_tree(id_of(2), lambda agent: running.remove(agent.id) if agent.id in running else None)
    assert [number_of(each) for each in running] == [1, 3]


def test_a_tree_deeper_than_python_s_stack_is_closed_and_resumed(tmp_path: Path) -> None:
    plant(tmp_path, 1)
    deep = 1200
    for number in range(2, deep):
        plant(tmp_path, number, number - 1)
    with opened(tmp_path, options=Options(list_budget_ms=60_000, scan_interval_ms=3_600_000)) as e:
        assert numbers(e.agents.descendants(id_of(1))) == list(range(2, deep))
        assert len(e.agents.ancestors(id_of(deep - 1)).agents) == deep - 2
        calls = Calls()
        e.agents.resume_tree(id_of(1), calls)
        assert calls.called == list(range(1, deep))


# --- with the rest of the engine -------------------------------------------------------------------------------------


def test_every_database_may_be_deleted_and_the_graph_is_the_same(home: Path) -> None:
    with opened(home) as e:
        e.agents.close(id_of(2))
        e.agents.attach(id_of(5), id_of(4), "closed")
        e.agents.reopen(id_of(5))
        before = e.agents.tree()
    for path in (home / "engine").glob("*.sqlite*"):
        path.unlink()
    with opened(home) as e:
        e.backfill()
        assert e.agents.tree() == before
        assert faults(e, deep=True) == []


def test_audit_tells_of_rows_that_are_not_as_recorded_and_repair_mends_them(home: Path, e: engine.Engine) -> None:
    e.agents.close(id_of(2))
    e.agents.attach(id_of(5), id_of(4))
    with e._database.write() as transaction:
        transaction.run("UPDATE agents SET status = 'open' WHERE thread_id = :id", {"id": id_of(2)})
        transaction.run("DELETE FROM agents WHERE thread_id = :id", {"id": id_of(5)})
        transaction.run("INSERT INTO agents (thread_id, status) VALUES (:id, 'closed')", {"id": id_of(3)})
    assert sorted((each.class_, each.field, each.thread_id) for each in e.audit().findings) == [
        ("orphan_row", "agents", id_of(3)),
        ("wrong_fact", "agents", id_of(5)),
        ("wrong_fact", "agents.status", id_of(2)),
    ]
    assert e.repair().left == []
    assert e.audit().findings == []
    assert numbers(e.agents.children(id_of(1), "open")) == [3]


def test_an_edge_to_a_thread_that_is_gone_is_told_whether_it_is_open_or_closed_or_was_attached(home: Path) -> None:
    plant(home, 8, 9)
    plant(home, 10)
    with opened(home) as e:
        e.agents.close(id_of(8))
        e.agents.attach(id_of(5), id_of(10))
        next((home / "sessions").rglob(f"*{id_of(10)}*")).unlink()
        e.backfill()
        found = {(each.class_, each.field, each.thread_id, each.file_value) for each in e.audit().findings}
        assert ("dangling_edge", "parent_thread_id", id_of(8), id_of(9)) in found
        assert ("lost_truth", None, id_of(10), None) in found, "its row is left, so the edge to it is none that dangles"
        e.threads.dismiss(id_of(10))
        e.threads.erase(id_of(10), grace_s=None)
        found = {(each.class_, each.field, each.thread_id, each.file_value) for each in e.audit().findings}
        assert ("dangling_edge", "agents.parent_thread_id", id_of(5), id_of(10)) in found


def test_an_erased_agent_takes_its_records_along_and_a_preview_names_what_was_spawned(home: Path) -> None:
    with opened(home) as e:
        e.agents.close(id_of(4))
        e.agents.attach(id_of(5), id_of(4))
        reach = e.threads.preview_erase(id_of(4))
        assert (reach.journal_records, reach.spawned) == (1, [id_of(5), id_of(6)])
        e.threads.erase(id_of(4), grace_s=None)
        assert [each["type"] for each in journal(home)] == ["erased", ATTACHED, "erase_begun", "thread_erased"]
        with e._database.read() as transaction:
            assert list(transaction.rows("SELECT thread_id FROM agents")) == [(id_of(5),)]
        assert numbers(e.agents.descendants(id_of(1))) == [2, 3]
        assert numbers(e.agents.children(id_of(4))) == [5, 6]
        assert {each.class_ for each in e.audit(deep=True).findings} == {"dangling_edge"}


def test_a_bundle_brings_status_and_parent_along(home: Path, tmp_path: Path) -> None:
    with opened(home) as e:
        e.agents.close(id_of(4))
        e.agents.attach(id_of(5), id_of(4), "closed")
        before = e.agents.tree()
        e.threads.export(None, str(tmp_path / "all.zip"))
    with opened(tmp_path / "other") as other:
        other.threads.import_bundle(str(tmp_path / "all.zip"))
        after = other.agents.tree()
        assert [(each.id, each.parent_thread_id, each.status, each.depth) for each in after.agents] == [
            (each.id, each.parent_thread_id, each.status, each.depth) for each in before.agents
        ]
        assert other.threads.import_bundle(str(tmp_path / "all.zip")).journal_records == 0


def test_a_list_of_the_graph_says_when_it_does_not_cover_every_file(home: Path) -> None:
    with opened(home, options=Options(list_budget_ms=0, scan_interval_ms=0)) as e:
        assert e.agents.tree().partial is not None
        assert e.agents.close_tree(id_of(1), Calls()).partial is not None
        e.backfill()
    with opened(home) as e:
        assert e.agents.tree().partial is None


def test_a_closed_engine_and_one_in_a_forked_child_answer_nothing(home: Path) -> None:
    e = opened(home)
    e._alive._pid += 1
    with pytest.raises(ForkedEngine):
        e.agents.children(id_of(1))
    e._alive._pid -= 1
    e.close()
    with pytest.raises(engine.EngineError):
        e.agents.close(id_of(2))


def test_a_journal_of_ten_thousand_closings_of_one_agent_costs_one_row(home: Path) -> None:
    with opened(home) as e:
        e.agents.close(id_of(2))
        there = Journal(str(home / "engine"), options=Options(), clock=ManualClock(), files=Files())
        from engine.events.item import item_of

        items = [
            item_of(
                {
                    "type": "home_event",
                    "payload": {
                        "type": STATUS_SET,
                        "thread_id": id_of(2),
                        "status": ("open", "closed")[number % 2],
                    },
                }
            )
            for number in range(10_000)
        ]
        there.append(items)
        assert numbers(e.agents.children(id_of(1), "closed")) == [2]
        with e._database.read() as transaction:
            assert transaction.row("SELECT count(*) FROM agents") == (1,)


class ReadOnly(Files):
    """A home that cannot be written."""

    def writable(self, path: str, *, op: str) -> bool:
        return False
