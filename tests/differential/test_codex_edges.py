"""Our agent graph beside the edges that the Codex CLI itself kept for the same rollouts.

Who spawned whom must be equal, edge by edge. That an agent was closed is in that program's database and in no rollout, so
those it closed are open here; they are listed, and nothing else may differ.
"""

from __future__ import annotations

import json

import pytest

import engine

EDGES = {"codex-0.169": 10, "codex-0.169-zst": 10, "codex-0.169-memories": 0, "codex-0.130-part": 3}
CLOSED_THERE = {
    "codex-0.169": {"01a20465-435e-75b2-acc8-d6b51d7d140e"},
    "codex-0.169-zst": {"01a20465-435e-75b2-acc8-d6b51d7d140e"},
    "codex-0.169-memories": set(),
    "codex-0.130-part": {"01a20466-78a5-7aa2-8d99-ac792725ebb4"},
}


@pytest.mark.parametrize("name", list(EDGES))
def test_both_have_the_same_edges_and_closed_ones_are_only_in_its_database(corpora, tmp_path, name):
    tables = json.loads((corpora / name / "rows.json").read_text())["state_5.sqlite"]
    theirs = {row["child_thread_id"]: row for row in tables["thread_spawn_edges"]}
    with engine.open(str(corpora / name / "home"), state_dir=str(tmp_path / "state")) as e:
        e.backfill()
        ours = {agent.id: agent for agent in e.agents.tree().agents}
        assert {child: agent.parent_thread_id for child, agent in ours.items()} == {
            child: row["parent_thread_id"] for child, row in theirs.items()
        }
        assert len(ours) == EDGES[name]
        assert {agent.status for agent in ours.values()} <= {"open"}
        assert {child for child, row in theirs.items() if row["status"] != "open"} == CLOSED_THERE[name]
        # Told so here, the graph is that program's to the last status, its children and their order.
        for child in CLOSED_THERE[name]:
            e.agents.close(child)
        for parent in {row["parent_thread_id"] for row in theirs.values()}:
            for status in ("open", "closed"):
                expected = sorted(
                    child
                    for child, row in theirs.items()
                    if (row["parent_thread_id"], row["status"]) == (parent, status)
                )
                assert [agent.id for agent in e.agents.children(parent, status).agents] == expected


def test_its_own_test_data_of_nested_agents_has_their_depth_and_their_names(corpora, tmp_path):
    """The depth that each source tells is that of the graph, in every real home where the parents are there."""
    with engine.open(str(corpora / "codex-0.169" / "home"), state_dir=str(tmp_path / "state")) as e:
        e.backfill()
        for agent in e.agents.tree().agents:
            row = e.threads.get(agent.id)
            assert row is not None
            told = json.loads(row.source)["subagent"]["thread_spawn"]
            assert (agent.depth, agent.agent_path, agent.agent_nickname, agent.agent_role) == (
                told["depth"],
                told["agent_path"],
                told["agent_nickname"],
                told["agent_role"],
            )
            assert len(e.agents.ancestors(agent.id).agents) == agent.depth
