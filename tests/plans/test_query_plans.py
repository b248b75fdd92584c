"""How SQLite goes about each statement that the engine runs, planned in the migrated database that it runs in.

The statements are not listed here: whatever a session with a home runs is planned at the moment when it runs it. A table
may be gone through from end to end by the statements below, each for its reason, and by no other.
"""

from __future__ import annotations

import asyncio
import os

import pytest

import engine
from engine.audit.plan import Step
from engine.options import Options
from engine.testing import HomePlan, make_home
from tests.own import Heads, TokensPerDay
from tests.plans.planning import planning, scanned

A_SCAN_LOOKS_AT_EVERY_FILE = "once a scan of the home, which asks for the stat of every file"
COUNTED = "a total of everything, asked for by status or counts=True"
ONCE_A_REBUILD = "once a rebuild, which reads every rollout"
AN_AUDIT_READS_ALL = "an audit, which reads every rollout"
A_REMOVAL_LOOKS_EVERYWHERE = "once a removal, which looks for the thread in the journal and in every folder as well"

SCANS = {
    "SELECT stream, projection, version, device": A_SCAN_LOOKS_AT_EVERY_FILE,
    "SELECT path FROM streams WHERE missing_since_ms IS NOT NULL": A_SCAN_LOOKS_AT_EVERY_FILE,
    "SELECT path FROM failures": A_SCAN_LOOKS_AT_EVERY_FILE,
    "SELECT path, reason FROM failures": "every failure is told; they are few",
    "SELECT 1 FROM ": "ends with the first row",
    "SELECT thread_id, archived FROM facts WHERE archive_pending = 1": "an index of the pending ones alone",
    "SELECT count(*)": COUNTED,
    "SELECT coalesce(sum(records), 0), coalesce(sum(damaged), 0) FROM streams": COUNTED,
    "DELETE FROM streams WHERE path NOT IN": ONCE_A_REBUILD,
    "DELETE FROM threads WHERE id NOT IN": ONCE_A_REBUILD,
    "DELETE FROM set_aside WHERE stream NOT IN": ONCE_A_REBUILD,
    "DELETE FROM goals WHERE stream NOT IN": ONCE_A_REBUILD,
    "SELECT thread_id, goal_id, deleted_at_ms FROM goal_deletions": AN_AUDIT_READS_ALL,
    "SELECT thread_id, goal_id, objective": "a list of the goals of all threads, which are few",
    "DELETE FROM names": ONCE_A_REBUILD,
    "DELETE FROM words WHERE rowid IN ( SELECT id FROM words_docsize": ONCE_A_REBUILD,
    "SELECT stream, followed FROM fact_streams": "two rows at most",
    "SELECT mark FROM names_followed": "one row at most",
    "SELECT * FROM ( SELECT ids.thread_id": "a search, when a name was given since the last one",
    "SELECT path FROM rollouts ORDER BY path": AN_AUDIT_READS_ALL,
    "SELECT DISTINCT thread_id FROM rollouts": AN_AUDIT_READS_ALL,
    "SELECT id, rollout_path, EXISTS": AN_AUDIT_READS_ALL,
    "SELECT 'streams', path FROM streams": AN_AUDIT_READS_ALL,
    "SELECT thread_id, name": AN_AUDIT_READS_ALL,
    "SELECT thread_id, status, status_at_ms": AN_AUDIT_READS_ALL,
    "SELECT agents.thread_id, agents.parent_thread_id": AN_AUDIT_READS_ALL,
    "SELECT threads.id, threads.parent_thread_id AS parent": "the graph of a whole home, asked for by `agents tree`",
    "SELECT key_id, account_user_id": "every device key is listed; they are few",
    "SELECT type, name FROM sqlite_schema": AN_AUDIT_READS_ALL,
    "SELECT thread_id, generation": AN_AUDIT_READS_ALL,
    "SELECT thread_id, usage_count": AN_AUDIT_READS_ALL,
    "SELECT id, reset_generation": AN_AUDIT_READS_ALL,
    "SELECT thread_id, erase_due_ms FROM facts WHERE erase_pending = 1": "an index of the pending ones alone",
    "SELECT thread_id, redaction FROM facts WHERE redaction IS NOT NULL": "an index of the pending ones alone",
    "SELECT thread_id FROM facts WHERE erased_at_ms IS NOT NULL": "an index of the erased ones alone",
    "WITH RECURSIVE reading": A_REMOVAL_LOOKS_EVERYWHERE,
    "SELECT id FROM threads WHERE parent_thread_id": A_REMOVAL_LOOKS_EVERYWHERE,
    "DELETE FROM divergences": A_REMOVAL_LOOKS_EVERYWHERE,
    "SELECT id FROM threads WHERE EXISTS": "an export of all threads",
    "SELECT stream FROM watermarks UNION SELECT path FROM failures": A_REMOVAL_LOOKS_EVERYWHERE,
    "SELECT DISTINCT stream FROM watermarks ORDER BY stream": AN_AUDIT_READS_ALL,
    "SELECT stream AS path, count(*) FROM": AN_AUDIT_READS_ALL,
    "SELECT path AS path, count(*) FROM": AN_AUDIT_READS_ALL,
    "SELECT (SELECT path FROM rollouts WHERE number = rollout) AS path, count(*) FROM": AN_AUDIT_READS_ALL,
    'DELETE FROM "tokens" WHERE stream NOT IN': ONCE_A_REBUILD,
    'DELETE FROM "heads" WHERE stream NOT IN': ONCE_A_REBUILD,
    'DELETE FROM "counts" WHERE stream NOT IN': ONCE_A_REBUILD,
    'DELETE FROM "rollouts" WHERE path NOT IN': ONCE_A_REBUILD,
    'DELETE FROM "turns" WHERE rollout NOT IN': ONCE_A_REBUILD,
    'DELETE FROM "items" WHERE rollout NOT IN': ONCE_A_REBUILD,
    'DELETE FROM "parts" WHERE rollout NOT IN': ONCE_A_REBUILD,
    'DELETE FROM "texts" WHERE rollout NOT IN': ONCE_A_REBUILD,
    'DELETE FROM "rollbacks" WHERE rollout NOT IN': ONCE_A_REBUILD,
    'DELETE FROM "set_aside" WHERE stream NOT IN': ONCE_A_REBUILD,
    "UPDATE watermarks SET version = :owed WHERE projection = :name": ONCE_A_REBUILD,
}
"""Beginnings of statements that may scan a table."""

PAGES = "SELECT threads.id, threads.rollout_path"
KEY = "dk_tpm_" + "A" * 43
KEYS = ("created_at", "updated_at", "recency_at")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Statement (white space made even): its plan, for all that a session runs."""
    home = tmp_path_factory.mktemp("home")
    made = make_home(home, HomePlan(threads=15, seed=1, bytes_max=8_000))
    with planning() as plans:
        run_a_session(home, made)
    return plans


def run_a_session(home, made):
    options = Options(scan_interval_ms=0, list_budget_ms=60_000)
    with engine.open(str(home), options=options, projections=[TokensPerDay(), Heads()]) as opened:
        opened.backfill()
        for key in KEYS:
            for direction in ("asc", "desc"):
                for archived in (None, False):
                    query = {"limit": 2, "sort_key": key, "sort_direction": direction, "archived": archived}
                    page = opened.threads.list(**query)
                    opened.threads.list(**query, cursor=page.next_cursor)
                    opened.threads.list(**query, cursor=page.backwards_cursor)
        folder = opened.threads.list(limit=1).threads[0].cwd
        for direction in ("asc", "desc"):
            query = {"limit": 1, "cwd": folder, "sort_direction": direction}
            page = opened.threads.list(**query)
            opened.threads.list(**query, cursor=page.next_cursor)
            opened.threads.list(**query, cursor=page.backwards_cursor)
        for key in KEYS:
            opened.threads.list(cwd=["/a", "/b"], sort_key=key)
            opened.threads.list(cwd="/a", sort_key=key)
        opened.threads.list(cwd=["/a", "/b"], source="cli", model_provider="x", search="x", counts=True)
        opened.threads.list(counts=True)
        opened.threads.get(made[0].id)
        opened.goals.get(made[0].id)
        opened.goals.list(status="active")
        opened.goals.replace(made[0].id, "all tests pass", adopt=True)
        opened.goals.clear(made[0].id)
        for own in opened.projections.values():
            own.rows("SELECT 1 FROM watermarks")
        opened.threads.fetch(made[0].id)
        for each in made:
            opened.turns.list(each.id, limit=1)
            opened.items.list(each.id, limit=1)
            for how in (
                {},
                {"sort": "newest", "archived": True},
                {"roles": ["user"], "since_ms": 1, "until_ms": 1 << 50},
            ):
                page = opened.search("the", limit=1, **how)
                opened.search("the", limit=1, cursor=page.next_cursor, **how)
            opened.search("the", thread_id=each.id, cwd="/a")
        ask_the_graph(opened, made)
        opened.threads.rename(made[0].id, "the name")
        opened.search("the")
        opened.audit()
        opened.status()
        os.unlink(home / made[3].path)
        opened.threads.list()
        opened.status()
        opened.rebuild()
        opened.rebuild(made[0].id)
        opened.rebuild(projection="facts")
        opened.audit(deep=True)
        opened.repair()
        repair_all(opened)
        opened.threads.preview_erase(made[1].id)
        opened.threads.erase(made[1].id, include_children=True)
        opened.threads.redact(opened.threads.list().threads[0].id, offset=opened_at(opened))
        opened.threads.export(None, str(home / "all.zip"))


def ask_the_graph(opened, made):
    """With an agent that was attached, one that was closed, and a device key, so that each statement finds something."""
    opened.agents.attach(made[1].id, made[0].id)
    opened.agents.close(made[1].id)
    for status in (None, "open"):
        opened.agents.descendants(made[0].id, status)
    opened.agents.ancestors(made[1].id)
    opened.agents.tree()
    asyncio.run(opened.device_keys.bindings.put(KEY, "account", "client"))
    opened.device_keys.bindings.find(KEY)
    opened.device_keys.bindings.list()


def repair_all(opened):
    """A repair has a statement for each table that rows are removed from, and one for what it finds unreadable no more."""
    for table in ("threads", "streams", "watermarks", "set_aside", "goals"):
        step = Step(action="remove_row", classes=[], does="", thread_id="none", path="none", target=table)
        opened._repairer._carry_out(step, offline=False)
    step = Step(action="fold", classes=[], does="", path="sessions/none")
    opened._repairer._carry_out(step, offline=False)


def opened_at(opened):
    """Where the second line of the newest thread's rollout begins."""
    with open(opened.threads.list().threads[0].rollout_path, "rb") as file:
        return len(file.readline())


def test_the_session_runs_what_there_is_to_plan(planned):
    assert len(planned) > 60
    for beginning in SCANS:
        assert any(statement.startswith(beginning) for statement in planned), f"nothing runs {beginning!r} any more"


def test_no_statement_scans_a_table_without_a_reason(planned):
    found = {statement: scanned(plan) for statement, plan in planned.items() if not statement.startswith(PAGES)}
    assert {
        statement: steps for statement, steps in found.items() if steps and not statement.startswith(tuple(SCANS))
    } == {}


def pages(planned, *, with_cursor, of_folder=False):
    return {
        statement: plan
        for statement, plan in planned.items()
        if statement.startswith(PAGES)
        and "ORDER BY" in statement
        and (":cursor_value" in statement) == with_cursor
        and ("threads.cwd = :cwd" in statement) == of_folder
    }


def test_a_first_page_is_the_beginning_of_an_index(planned):
    """The rows come in order, so a page of 25 of 100,000 reads 25; a filter reads on until the page is full."""
    found = pages(planned, with_cursor=False)
    assert len(found) >= 12
    for statement, plan in found.items():
        key = next(key for key in KEYS if f"ORDER BY threads.{key}_ms" in statement)
        assert scanned(plan) == [f"SCAN threads USING INDEX threads_by_{key.removesuffix('_at')}"]
        assert not any("TEMP B-TREE" in step for step in plan)


def test_a_page_by_cursor_begins_at_its_place_in_the_index(planned):
    found = pages(planned, with_cursor=True)
    assert len(found) >= 24
    for statement, plan in found.items():
        key = next(key for key in KEYS if f"ORDER BY threads.{key}_ms" in statement)
        sign = "<" if "desc" in statement else ">"
        place = f"{key}_ms{sign}?" if f"{sign}= :cursor_value" in statement else f"({key}_ms,id){sign}(?,?)"
        assert plan[0] == f"SEARCH threads USING INDEX threads_by_{key.removesuffix('_at')} ({place})"
        assert scanned(plan) == []
        assert not any("TEMP B-TREE" in step for step in plan)


def test_a_page_of_a_folder_reads_that_folder_alone(planned):
    """However few of the home's threads are in it: they stand together in an index, in the order of the list."""
    first = pages(planned, with_cursor=False, of_folder=True)
    later = pages(planned, with_cursor=True, of_folder=True)
    assert (len(first), len(later)) == (2, 4)
    for statement, plan in {**first, **later}.items():
        assert plan[0].startswith("SEARCH threads USING INDEX threads_by_folder (cwd=?"), statement
        assert ("updated_at_ms" in plan[0]) == (statement in later)
        assert not any("TEMP B-TREE" in step for step in plan)


def test_one_thread_is_found_by_its_id(planned):
    (plan,) = [
        plan for statement, plan in planned.items() if statement.startswith(PAGES) and "threads.id = :id" in statement
    ]
    assert plan[0] == "SEARCH threads USING INDEX sqlite_autoindex_threads_1 (id=?)"
    assert scanned(plan) == []


def test_a_search_goes_through_its_words_alone(planned):
    """Each message that has them is looked up by its id, each rollout by its number."""
    found = {
        statement: plan for statement, plan in planned.items() if "words MATCH" in statement and "LIMIT" in statement
    }
    assert len(found) >= 7
    for statement, plan in found.items():
        assert plan[0].startswith("SCAN words VIRTUAL TABLE INDEX 0:M1"), statement
        assert all(step.startswith("SEARCH") for step in plan if " texts " in step or " rollouts " in step), statement


def test_every_value_is_bound(planned):
    """No text of a file or of a request is part of a statement."""
    for statement in planned:
        for value in ("/home/dev", "019b", "gpt-", "cli'"):
            assert value not in statement


def test_children_of_agents_are_found_by_both_parents(planned):
    """The one that the rollout names, and the one that the agent was attached to."""
    (plan,) = [plan for statement, plan in planned.items() if ":parents" in statement]
    assert any("threads USING INDEX threads_by_parent (parent_thread_id=?)" in step for step in plan)
    assert any("agents USING" in step and "agents_by_parent (parent_thread_id=?)" in step for step in plan)
    assert scanned(plan) == []
