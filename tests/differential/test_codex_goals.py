"""Goals beside those in the Codex CLI's own database, for the same rollouts: every thread, every column.

What differs stands below with its reason, and must differ, so that the list stays true (docs/FORMAT.md 13).
"""

from __future__ import annotations

import json

import pytest

import engine

HOMES = ["codex-0.169", "codex-0.169-zst", "codex-0.169-memories", "codex-0.130-part"]
COLUMNS = "objective status token_budget tokens_used time_used_seconds created_at_s updated_at_s".split()

CLEARED = "01a2045c-8471-7393-bded-f6b76e0b1e5a"
LEFT_ACTIVE = "01a20464-54ab-7982-8c61-4c3b4b3697aa"

COUNTED = "what it counted since the record is in its database alone"
BY_THE_MODEL = "the model set it by its tool, which writes no record"
OF_0_130 = "0.130 writes no records of goals"
ALLOWED = {
    (CLEARED, "goal"): "it was cleared, which no record tells",
    (LEFT_ACTIVE, "tokens_used"): COUNTED,
    ("01a20464-3383-70f3-8841-c30db4acec85", "goal"): BY_THE_MODEL,
    ("01a20464-403f-7170-9722-7a9790eef98c", "goal"): BY_THE_MODEL,
}
"""Of the homes of 0.169."""


@pytest.fixture(scope="module", params=HOMES)
def both(request, corpora, tmp_path_factory):
    """The home's name; of its threads that program's goals and ours."""
    tables = json.loads((corpora / request.param / "rows.json").read_text())
    rows = [row for of in tables.values() for row in of.get("thread_goals", [])]
    with engine.open(str(corpora / request.param / "home"), state_dir=str(tmp_path_factory.mktemp("state"))) as opened:
        opened.backfill()
        ids = {row.id for row in opened.threads.list(limit=0).threads}
        ours = {goal.thread_id: goal for goal in opened.goals.list(limit=0)}
        assert ours == {id_: goal for id_ in ids if (goal := opened.goals.get(id_)) is not None}
        assert [each for each in opened.audit().findings if each.class_ != "dangling_edge"] == []
    return request.param, {row["thread_id"]: row for row in rows if row["thread_id"] in ids}, ours


def test_every_goal_is_as_that_program_has_it_but_for_those_listed(both):
    name, theirs, ours = both
    differing = {(thread, "goal") for thread in theirs.keys() ^ ours.keys()}
    for thread in theirs.keys() & ours.keys():
        for column in COLUMNS:
            if value(ours[thread], column) != value(theirs[thread], column):
                differing.add((thread, column))
    if name == "codex-0.130-part":
        assert (ours, differing) == ({}, {(thread, "goal") for thread in theirs}), OF_0_130
        return
    there = theirs.keys() | ours.keys()
    assert there
    known = {each for each in ALLOWED if each[0] in there}
    assert differing == known


def value(goal, column):
    """Times in seconds: records have no more."""
    get = goal.get if isinstance(goal, dict) else lambda name: getattr(goal, name)
    return get(f"{column[:-2]}_ms") // 1000 if column.endswith("_s") and "at" in column else get(column)
