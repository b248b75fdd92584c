"""How SQLite goes about the statements on the index of turns, planned in the migrated database while they are run."""

from __future__ import annotations

import pytest

from engine.projections.turns import Turns
from tests.conversing import PARENT, THREAD, Lines, path_of
from tests.indexing import Indexed, written_home
from tests.plans.planning import planning, scanned


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Statement (white space made even): its plan, for all that indexing and paging run."""
    with planning() as plans:
        run_all(tmp_path_factory.mktemp("home"))
    return plans


def run_all(home):
    parent = Lines(thread_id=PARENT).turn("a").turn("b")
    child = Lines(ordinal=parent.ordinal, history_base=parent.base).turn("c").aborted("b").user("a", "late")
    child.agent("c", "c-a").complete("never").started("d").complete("d", error={"message": "no"})
    legacy = Lines("legacy", thread_id=THREAD[:-1] + "d").started("t").said().answered()
    legacy.event("agent_reasoning", text="x").event("agent_reasoning", text="y").event("error", message="no").complete(
        "t"
    )
    legacy.started("u").event("exec_command_end", call_id="c", turn_id="t").event(
        "thread_rolled_back", num_turns=1
    ).said()
    rollouts = {path_of(PARENT): parent, path_of(): child, path_of(legacy.thread_id): legacy}
    index = Indexed(written_home(home, {path: lines.lines for path, lines in rollouts.items()}))
    for thread_id in (THREAD, legacy.thread_id):
        for direction in ("asc", "desc"):
            for view in ("summary", "full"):
                page = index.turns(thread_id, limit=1, sort_direction=direction, items_view=view, running=True)
                index.turns(thread_id, limit=1, sort_direction=direction, cursor=page.next_cursor)
            for turn_id in (None, "b"):
                page = index.items(thread_id, limit=1, sort_direction=direction, turn_id=turn_id)
                if page.next_cursor:
                    index.items(thread_id, limit=1, sort_direction=direction, turn_id=turn_id, cursor=page.next_cursor)
    with index.database.write() as transaction:
        Turns().forget(transaction, [path_of()])
    index.close()


def test_what_is_run_is_planned(planned):
    tables = ("rollouts", "turns", "items", "parts", "rollbacks")
    found = {statement: plan for statement, plan in planned.items() if any(table in statement for table in tables)}
    assert len(found) >= 30


def test_no_statement_goes_through_a_table_from_end_to_end(planned):
    assert {statement: scanned(plan) for statement, plan in planned.items() if scanned(plan)} == {}


def test_no_page_is_sorted(planned):
    """Rows come in the order of an index, so a page costs its rows."""
    pages = {statement: plan for statement, plan in planned.items() if "ORDER BY" in statement}
    assert len(pages) >= 8
    assert {statement: plan for statement, plan in pages.items() if any("TEMP B-TREE" in step for step in plan)} == {}


@pytest.mark.parametrize("direction", ["ASC", "DESC"])
@pytest.mark.parametrize("beginning", ['SELECT "offset", turn, id', 'SELECT items."offset", length'])
def test_pages_begin_at_their_place(planned, direction, beginning):
    pages = [
        plan for statement, plan in planned.items() if statement.startswith(beginning) and statement.endswith(direction)
    ]
    assert len(pages) == (1 if "turn, id" in beginning else 3)
    for plan in pages:
        assert (
            "(rollout=? AND offset>? AND offset<?)" in plan[0]
            or "(rollout=? AND turn=? AND offset>? AND offset<?)" in plan[0]
        )
