"""Our turns and items beside those that the Codex CLI answered for every thread: the same, in the same order, field by field.

Each difference that is allowed stands below with its reason, and docs/FORMAT.md tells of it; what is not listed must be
equal, and what is listed must differ, so that the list stays true.
"""

from __future__ import annotations

import json
import re
import shlex

import pytest

import engine
from tests.indexing import Indexed, rows

HOMES = ("codex-0.169", "codex-0.169-zst")
WENT_ON = "01a20467-00a2-78c0-bbd5-c767addfdd8f"
MADE_LATER = "01a2049f-cffc-7fb0-938b-cdab8a2a9110"
LEGACY_REVIEW = ("01a2045c-8471-7393-bded-f6b76e0b1e5a", "01a2045c-b60b-7b33-9e8a-10876554518b")

TIME_OF_RECORD = "a turn that no task_started began has no time there; ours is that of its first record"
ALLOWED = {(*LEGACY_REVIEW, "startedAt"): TIME_OF_RECORD}

NULL_IN_0_169 = {"moderation", "questions"}
"""Fields that only 0.169 has, and has null."""

ITS_OWN_WORDS = {"commandExecution": ("source", "status"), "collabAgentToolCall": ("tool", "status")}
"""Fields whose values are words: camelCase there, the file's snake_case here."""


@pytest.fixture(scope="module", params=HOMES)
def home(request, corpora):
    indexed = Indexed(corpora / request.param / "home")
    indexed.name = request.param
    yield indexed
    indexed.close()


@pytest.fixture(scope="module")
def golden(corpora):
    return json.loads((corpora / "codex-0.169" / "golden_by_v169.json").read_text())


def camel(word):
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), word) if isinstance(word, str) else word


def threads_of(home, golden):
    """The threads of a home that its answers are about. The compressed home was made a little earlier."""
    found = dict(golden["threads"])
    if home.name == "codex-0.169-zst":
        del found[MADE_LATER], found[WENT_ON]
    assert len(found) > 50
    return found


def pages(answers, key):
    return [each for page in answers[key] for each in page["result"]["data"]]


def turn_in_its_words(turn):
    """Our turn with that program's names: seconds, camelCase."""
    error = None
    if turn.error is not None:
        error = {"message": turn.error["message"], "codexErrorInfo": camel(turn.error["codex_error_info"])}
    return {
        "id": turn.id,
        "status": camel(turn.status),
        "startedAt": None if turn.started_at_ms is None else turn.started_at_ms // 1000,
        "completedAt": None if turn.completed_at_ms is None else turn.completed_at_ms // 1000,
        "durationMs": turn.duration_ms,
        "error": error,
    }


def its_turn(turn):
    error = turn["error"]
    kept = {name: turn[name] for name in ("id", "status", "startedAt", "completedAt", "durationMs")}
    return {**kept, "error": error and {name: error[name] for name in ("message", "codexErrorInfo")}}


def item_in_its_words(item):
    words = ITS_OWN_WORDS.get(item["type"], ())
    made = {camel(name): camel(value) if name in words else value for name, value in item.items()}
    if made["type"] == "commandExecution":
        made["command"] = shlex.split(made["command"])
    if made["type"] == "collabAgentToolCall":
        made["agentsStates"] = {
            agent: {**state, "status": camel(state["status"])} for agent, state in made["agentsStates"].items()
        }
    return made


def its_item(item):
    """Its quoting of a command's words is another than that of Python; the words are the same."""
    kept = {name: value for name, value in item.items() if name not in NULL_IN_0_169 or value is not None}
    if kept["type"] == "commandExecution":
        kept["command"] = shlex.split(kept["command"])
    return kept


def check_items(thread_id, ours, theirs):
    assert [(item["type"], item["id"]) for item in ours] == [(item["type"], item["id"]) for item in theirs], thread_id
    for mine, its in zip(ours, theirs, strict=True):
        made, wanted = item_in_its_words(mine), its_item(its)
        assert {name: made.get(name, "not there") for name in wanted} == wanted, thread_id


def test_every_thread_has_its_turns_and_items_in_its_order(home, golden):
    differing = set()
    for thread_id, answers in threads_of(home, golden).items():
        for direction in ("asc", "desc"):
            ours = home.turns(thread_id, limit=0, sort_direction=direction, items_view="full").turns
            theirs = pages(answers, f"turns_{direction}")
            assert [turn.id for turn in ours] == [turn["id"] for turn in theirs], thread_id
            for mine, its in zip(ours, theirs, strict=True):
                made, wanted = turn_in_its_words(mine), its_turn(its)
                differing |= {(thread_id, mine.id, name) for name in wanted if made[name] != wanted[name]}
                check_items(thread_id, mine.items, its["items"])
    assert differing == set(ALLOWED)


class ThroughTheEngine:
    """The same questions to a whole engine, which keeps its files elsewhere."""

    def __init__(self, name, opened):
        self.name = name
        self.turns = opened.turns.list
        self.items = opened.items.list


@pytest.mark.parametrize("name", HOMES)
def test_an_engine_on_its_home_answers_the_same(corpora, golden, tmp_path, name):
    with engine.open(str(corpora / name / "home"), state_dir=str(tmp_path / "state")) as opened:
        asked = ThroughTheEngine(name, opened)
        test_every_thread_has_its_turns_and_items_in_its_order(asked, golden)
        test_pages_begin_and_end_where_its_pages_do(asked, golden)
        test_items_of_paginated_threads_are_listed_as_it_lists_them(asked, golden)
        assert {opened.turns.list(thread_id).partial for thread_id in threads_of(asked, golden)} == {None}


def test_pages_begin_and_end_where_its_pages_do(home, golden):
    """Its pages are of three turns; our cursors lead from one to the next as its own do."""
    for thread_id, answers in threads_of(home, golden).items():
        for direction in ("asc", "desc"):
            cursor, backwards = None, None
            for page in answers[f"turns_{direction}"]:
                result = page["result"]
                ours = home.turns(thread_id, limit=3, sort_direction=direction, cursor=cursor)
                assert [turn.id for turn in ours.turns] == [turn["id"] for turn in result["data"]]
                assert (ours.next_cursor is None) == (result["nextCursor"] is None), thread_id
                cursor, backwards = ours.next_cursor, ours.backwards_cursor
            if backwards is not None:
                other = "desc" if direction == "asc" else "asc"
                again = home.turns(thread_id, limit=1, sort_direction=other, cursor=backwards)
                assert again.turns[0].id == result["data"][0]["id"]


def test_items_of_paginated_threads_are_listed_as_it_lists_them(home, golden):
    listed = 0
    for thread_id, answers in threads_of(home, golden).items():
        if "error" in answers["items"]:
            assert answers["items"]["error"]["message"] == "thread/items/list is not supported yet"
            assert home.items(thread_id).items, "ours lists those of legacy threads too"
            continue
        ours, theirs = home.items(thread_id, limit=0).items, answers["items"]["result"]["data"]
        assert [item.turn_id for item in ours] == [item["turnId"] for item in theirs], thread_id
        check_items(thread_id, [item.item for item in ours], [item["item"] for item in theirs])
        listed += len(theirs)
    assert listed > 200


def test_rows_are_at_the_places_that_its_own_tables_have(home, golden):
    """Its index of each rollout: ordinals, bytes, times, and which items a summary shows."""
    by_rollout = {found.name.own_rollout_id or found.name.thread_id: path for path, found in home.found.items()}
    turns, items = golden["rows"]["thread_turns"], golden["rows"]["thread_items"]
    compared = 0
    for rollout_id, path in by_rollout.items():
        theirs = sorted(
            (row for row in turns if row["thread_id"] == rollout_id), key=lambda row: row["rollout_byte_offset"]
        )
        if not theirs or (home.name == "codex-0.169-zst" and rollout_id in (WENT_ON, MADE_LATER)):
            continue
        ours = rows(home.database, path)
        ids = {row["rollout_ordinal"]: row["item_id"] for row in items if row["thread_id"] == rollout_id}
        by_offset = {item[0]: ids[item[3]] for item in ours["items"]}
        assert [item[3] for item in ours["items"]] == sorted(ids), rollout_id
        words = ("inProgress", "completed", "interrupted", "failed")
        assert [
            (turn[0], turn[1], turn[2], words[turn[3]], by_offset.get(turn[10]), by_offset.get(turn[11] or turn[12]))
            for turn in ours["turns"]
        ] == [
            (
                row["rollout_byte_offset"],
                row["turn_id"],
                row["rollout_ordinal"],
                row["status"],
                row["first_user_item_id"],
                row["final_agent_item_id"],
            )
            for row in theirs
        ], rollout_id
        created = {row["item_id"]: row["created_at_ms"] for row in items if row["thread_id"] == rollout_id}
        assert {ids[item[3]]: item[4] for item in ours["items"]} == created
        compared += len(theirs)
    assert compared > 100
