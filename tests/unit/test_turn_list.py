"""Pages of turns and items: Q1 to Q10 (codex_rollout.md 10.17), lineage (P21, P22), cursors, and what cannot be read."""

from __future__ import annotations

import base64
import json
import os

import pytest
import zstandard

from engine.errors import InvalidCursor, InvalidRequest
from engine.options import Options
from tests.conversing import PARENT, THREAD, Lines, path_of
from tests.indexing import Indexed, written_home

REVERT = "01a20470-403f-7170-9722-7a9790eef98c"
GRANDCHILD = "01a20480-403f-7170-9722-7a9790eef98c"


@pytest.fixture
def indexed(tmp_path):
    opened = []

    def index(rollouts):
        written_home(tmp_path, {path: getattr(lines, "lines", lines) for path, lines in rollouts.items()})
        opened.append(Indexed(tmp_path))
        return opened[-1]

    yield index
    for each in opened:
        each.close()


def many(count, lines=None, first=1):
    lines = lines or Lines()
    for number in range(first, first + count):
        lines.turn(f"t{number}")
    return lines


def names(page):
    return [turn.id for turn in page.turns]


def item_ids(page):
    return [item.item["id"] for item in page.items]


def walked(ask, direction, limit, cursor=None):
    """All pages from one cursor on, and the cursor that each page gives to go back."""
    found, back = [], []
    while True:
        page = ask(sort_direction=direction, limit=limit, cursor=cursor)
        found += names(page) if hasattr(page, "turns") else item_ids(page)
        back.append(page.backwards_cursor)
        cursor = page.next_cursor
        if cursor is None:
            return found, back


def test_q1_turns_page_both_ways_and_the_anchor_comes_again_when_the_way_turns(indexed):
    """The reference's worked example: first, second, third; a fourth comes; the kept cursor catches up."""
    index = indexed({path_of(): many(3)})
    page = index.turns(THREAD, limit=2)
    assert names(page) == ["t3", "t2"]
    after = index.turns(THREAD, limit=2, cursor=page.next_cursor)
    assert (names(after), after.next_cursor) == (["t1"], None)
    index = indexed({path_of(): many(4)})
    assert names(index.turns(THREAD, cursor=page.backwards_cursor, sort_direction="asc")) == ["t3", "t4"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 0])
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_pages_of_any_size_hold_each_turn_and_each_item_once(indexed, limit, direction):
    index = indexed({path_of(): many(8)})
    turns = [f"t{number}" for number in range(1, 9)]
    items = [f"{turn}-{end}" for turn in turns for end in "ua"]
    order = slice(None, None, -1 if direction == "desc" else 1)
    assert walked(lambda **query: index.turns(THREAD, **query), direction, limit)[0] == turns[order]
    assert walked(lambda **query: index.items(THREAD, **query), direction, limit)[0] == items[order]


def test_every_backwards_cursor_leads_back_over_its_own_row(indexed):
    index = indexed({path_of(): many(6)})
    _, cursors = walked(lambda **query: index.turns(THREAD, **query), "desc", 2)
    assert [names(index.turns(THREAD, limit=2, sort_direction="asc", cursor=cursor)) for cursor in cursors] == [
        ["t6"],
        ["t4", "t5"],
        ["t2", "t3"],
    ]
    _, cursors = walked(lambda **query: index.items(THREAD, **query), "asc", 5)
    assert [item_ids(index.items(THREAD, limit=2, sort_direction="desc", cursor=cursor)) for cursor in cursors] == [
        ["t1-u"],
        ["t3-a", "t3-u"],
        ["t6-u", "t5-a"],
    ]


def test_q1_views_show_nothing_a_summary_or_all(indexed):
    lines = Lines().started("t1").user("t1", "u").item("t1", "Plan", "p", text="x").user("t1", "v").agent("t1", "a")
    index = indexed({path_of(): lines.complete("t1")})
    shown = {
        view: [item["id"] for item in index.turns(THREAD, items_view=view).turns[0].items]
        for view in ("none", "summary", "full")
    }
    assert shown == {"none": [], "summary": ["u", "a"], "full": ["u", "p", "v", "a"]}


def test_q2_items_page_for_the_thread_and_for_one_turn(indexed):
    lines = Lines().started("t1").user("t1", "1").started("t2").user("t2", "2").agent("t1", "late").agent("t2", "3")
    index = indexed({path_of(): lines.agent("t1", "later")})
    assert item_ids(index.items(THREAD)) == ["1", "2", "late", "3", "later"]
    assert [item.turn_id for item in index.items(THREAD).items] == ["t1", "t2", "t1", "t2", "t1"]
    for limit in (1, 2, 5):
        for direction, expected in (("asc", ["1", "late", "later"]), ("desc", ["later", "late", "1"])):
            found, _ = walked(lambda **query: index.items(THREAD, turn_id="t1", **query), direction, limit)
            assert found == expected
    assert item_ids(index.items(THREAD, turn_id="t2")) == ["2", "3"]
    assert index.items(THREAD, turn_id="t3").items == []


def test_q2_items_of_a_legacy_thread_are_listed_too_without_those_of_turns_that_are_not_there(indexed):
    lines = Lines("legacy").started("t1").said().complete("t1").started("t2").said()
    for call_id, turn_id in (("late", "t1"), ("lost", "never"), ("own", "t2")):
        lines.event("exec_command_end", call_id=call_id, turn_id=turn_id, command=["ls"])
    index = indexed({path_of(): lines.event("agent_reasoning", text="a").event("agent_reasoning", text="b")})
    expected = [("t1", "item-1"), ("t2", "item-2"), ("t1", "late"), ("t2", "own"), ("t2", "item-3")]
    assert [(item.turn_id, item.item["id"]) for item in index.items(THREAD).items] == expected
    assert item_ids(index.items(THREAD, turn_id="t1")) == ["item-1", "late"]


def forked(parent_turns=3, child_turns=2, **at):
    """A parent and a child that goes on from its end, or from where it stood after `at` turns."""
    parent = many(at.get("at", parent_turns))
    parent.thread_id = PARENT
    parent.lines[0] = Lines(thread_id=PARENT).lines[0]
    base = parent.base
    child = Lines(thread_id=THREAD, ordinal=base["end_ordinal_exclusive"], history_base=base, forked_from_id=PARENT)
    many(child_turns, child, first=10)
    many(parent_turns - at.get("at", parent_turns), parent, first=50)
    return parent, child


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 0])
def test_q3_pages_cross_from_a_fork_into_its_base_and_stop_where_it_was_left(indexed, limit):
    parent, child = forked(parent_turns=5, at=3)
    index = indexed({path_of(PARENT): parent, path_of(): child})
    all_of_it = ["t1", "t2", "t3", "t10", "t11"]
    for direction, expected in (("asc", all_of_it), ("desc", all_of_it[::-1])):
        assert walked(lambda **query: index.turns(THREAD, **query), direction, limit)[0] == expected
    items = [f"{turn}-{end}" for turn in all_of_it for end in "ua"]
    assert walked(lambda **query: index.items(THREAD, **query), "asc", limit)[0] == items
    assert names(index.turns(PARENT, sort_direction="asc")) == ["t1", "t2", "t3", "t50", "t51"]
    assert item_ids(index.items(THREAD, turn_id="t2")) == ["t2-u", "t2-a"]
    assert index.items(THREAD, turn_id="t50").items == []


def test_q3_p21_nested_forks_with_an_empty_one_between_and_an_archived_ancestor(indexed):
    parent, child = forked(child_turns=0)
    grandchild = Lines(thread_id=GRANDCHILD, ordinal=child.ordinal, history_base=child.base)
    many(1, grandchild, first=20)
    rollouts = {
        path_of(PARENT, folder="archived_sessions"): parent,
        path_of(): child,
        path_of(GRANDCHILD): grandchild,
    }
    assert names(indexed(rollouts).turns(GRANDCHILD)) == ["t20", "t3", "t2", "t1"]


def test_p22_a_reverted_thread_hides_what_was_taken_back_and_old_cursors_into_it_say_so(indexed):
    lines = many(2)
    left_at = lines.base
    many(2, lines, first=3)
    index = indexed({path_of(): lines})
    whole = index.turns(THREAD, limit=1)
    kept = index.turns(THREAD, limit=1, sort_direction="asc")
    taken = index.items(THREAD, limit=1, sort_direction="desc")
    assert names(whole) == ["t4"]
    again = Lines(ordinal=left_at["end_ordinal_exclusive"], history_base=left_at)
    index = indexed({path_of(): lines, path_of(rollout_id=REVERT): many(1, again, first=9)})
    assert names(index.turns(THREAD)) == ["t9", "t2", "t1"]
    assert names(index.turns(THREAD, sort_direction="asc", cursor=kept.next_cursor)) == ["t2", "t9"]
    for ask, cursor in ((index.turns, whole.next_cursor), (index.items, taken.backwards_cursor)):
        with pytest.raises(InvalidCursor, match="taken back"):
            ask(THREAD, cursor=cursor)


def test_q6_an_anchor_that_was_rolled_back_is_an_error_of_its_own(indexed):
    lines = Lines("legacy").said("1").answered().said("2").answered()
    index = indexed({path_of(): lines})
    turns, items = index.turns(THREAD, limit=1), index.items(THREAD, limit=1, sort_direction="desc")
    index = indexed({path_of(): lines.event("thread_rolled_back", num_turns=1).said("3")})
    for ask, cursor in ((index.turns, turns.next_cursor), (index.items, items.next_cursor)):
        with pytest.raises(InvalidCursor, match="taken back"):
            ask(THREAD, cursor=cursor)


def test_a_turn_that_its_base_was_left_in_is_interrupted_there_and_ended_in_its_own_thread(indexed):
    parent = many(1, Lines(thread_id=PARENT)).started("cut").user("cut", "asked").agent("cut", "so far", phase=None)
    base = parent.base
    parent.agent("cut", "after").item("cut", "AgentMessage", "so far", content=[{"type": "Text", "text": "changed"}])
    parent.complete("cut", error={"message": "no"}, duration_ms=9)
    child = many(1, Lines(ordinal=base["end_ordinal_exclusive"], history_base=base), first=10)
    index = indexed({path_of(PARENT): parent, path_of(): child})
    cut = index.turns(THREAD, items_view="full").turns[1]
    assert (cut.id, cut.status, cut.error, cut.completed_at_ms, cut.duration_ms) == (
        "cut",
        "interrupted",
        None,
        None,
        None,
    )
    assert [(item["id"], item.get("text")) for item in cut.items] == [("asked", None), ("so far", "done")]
    assert [item["id"] for item in index.turns(THREAD).turns[1].items] == ["asked", "so far"]
    ended = index.turns(PARENT, items_view="full").turns[0]
    assert (ended.status, [item.get("text") for item in ended.items]) == ("failed", [None, "changed", "done"])


def test_a_turn_of_a_fork_hides_its_bases_turn_of_the_same_id_and_takes_its_items(indexed):
    """A fork of a thread that is at work ends the turn that it took over: its summary comes from where it was asked."""
    parent = many(1, Lines(thread_id=PARENT)).started("open").user("open", "asked").agent("open", "a", phase=None)
    base = parent.base
    child = Lines(ordinal=base["end_ordinal_exclusive"], history_base=base).aborted("open")
    index = indexed({path_of(PARENT): parent, path_of(): many(1, child, first=10)})
    page = index.turns(THREAD, sort_direction="asc")
    assert [(turn.id, turn.status) for turn in page.turns] == [
        ("t1", "completed"),
        ("open", "interrupted"),
        ("t10", "completed"),
    ]
    assert [item["id"] for item in page.turns[1].items] == ["asked", "a"]


def test_an_attached_fork_shows_its_own_turns_alone(indexed):
    parent, child = forked()
    head = json.loads(child.lines[0])
    head["payload"]["attached_thread"] = True
    child.lines[0] = json.dumps(head, separators=(",", ":")).encode()
    assert names(indexed({path_of(PARENT): parent, path_of(): child}).turns(THREAD)) == ["t11", "t10"]


def test_q10_only_the_last_turn_of_a_thread_at_work_is_in_progress(indexed):
    lines = Lines().started("t1").item("t1", "CommandExecution", "c1", command=["x"], status="in_progress")
    lines.started("t2").item("t2", "CommandExecution", "c2", command=["x"], status="in_progress")
    index = indexed({path_of(): lines})
    for running, statuses in ((False, ["interrupted", "interrupted"]), (True, ["in_progress", "interrupted"])):
        turns = index.turns(THREAD, running=running, items_view="full").turns
        assert [turn.status for turn in turns] == statuses
        assert [turn.items[0]["status"] for turn in turns] == statuses, "nor does a call stay open"
        items = index.items(THREAD, running=running, sort_direction="desc").items
        assert [item.item["status"] for item in items] == statuses
    index = indexed({path_of(): lines.complete("t2")})
    assert [turn.status for turn in index.turns(THREAD, running=True).turns] == ["completed", "interrupted"]


@pytest.mark.parametrize("at", range(1, 9))
def test_r7_cut_anywhere_no_view_holds_an_open_turn_or_call(indexed, at):
    lines = (
        Lines().started("t1").user("t1", "u").item("t1", "CommandExecution", "c", command=["x"], status="in_progress")
    )
    lines.item("t1", "CommandExecution", "c", command=["x"], status="completed").agent("t1", "a").complete("t1").turn(
        "t2"
    )
    index = indexed({path_of(): lines.lines[:at]})
    for turn in index.turns(THREAD, items_view="full").turns:
        assert turn.status in {"completed", "interrupted"}
        assert {item.get("status") for item in turn.items} <= {None, "completed", "interrupted"}


def test_q7_a_thread_that_is_not_indexed_has_no_turns_and_its_cursors_no_row(indexed):
    index = indexed({path_of(): many(2)})
    cursor = index.turns(THREAD, limit=1).next_cursor
    with index.database.write() as transaction:
        from engine.projections.turns import Turns

        Turns().forget(transaction, [path_of()])
    assert (index.turns(THREAD).turns, index.turns(THREAD).backwards_cursor) == ([], None)
    assert index.items(THREAD).items == []
    with pytest.raises(InvalidCursor):
        index.turns(THREAD, cursor=cursor)


def test_a_cursor_is_of_one_thread_and_one_list(indexed):
    parent, child = forked()
    index = indexed({path_of(PARENT): parent, path_of(): child})
    turns = index.turns(PARENT, limit=1).next_cursor
    items = index.items(PARENT, limit=1).next_cursor
    of_turn = index.items(PARENT, limit=1, turn_id="t1").next_cursor
    for ask, cursor, why in (
        (lambda cursor: index.turns(THREAD, cursor=cursor), turns, "another thread"),
        (lambda cursor: index.items(PARENT, cursor=cursor), turns, "not of this list"),
        (lambda cursor: index.turns(PARENT, cursor=cursor), items, "not of this list"),
        (lambda cursor: index.items(PARENT, cursor=cursor), of_turn, "not of this list"),
        (lambda cursor: index.items(PARENT, cursor=cursor, turn_id="t2"), of_turn, "not of this list"),
    ):
        with pytest.raises(InvalidCursor, match=why):
            ask(cursor)
    assert names(index.turns(PARENT.upper(), cursor=turns)) == ["t2", "t1"], "an id is one in any case"


def made_up(*values):
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "naïve",
        "=",
        "e30",
        made_up(THREAD, "turns", THREAD),
        made_up(THREAD, "turns", THREAD, 2**70, 1, True),
        made_up(THREAD, "turns", THREAD, 1, 2**70, True),
        made_up(THREAD, "turns", THREAD, -5, 1, True),
        made_up(THREAD, "turns", PARENT, 1, 1, True),
        made_up(THREAD, "turns", THREAD, 3, 3, False),
        '{"turnId":"t1","includeAnchor":true}',
    ],
)
def test_what_is_no_cursor_of_ours_is_refused(indexed, cursor):
    index = indexed({path_of(): many(2)})
    with pytest.raises(InvalidCursor) as caught:
        index.turns(THREAD, cursor=cursor)
    assert caught.value.hint


@pytest.mark.parametrize("query", [{"limit": -1}, {"limit": 2**63}, {"sort_direction": "up"}, {"items_view": "some"}])
def test_a_query_that_cannot_be_is_refused(indexed, query):
    with pytest.raises(InvalidRequest):
        indexed({path_of(): many(1)}).turns(THREAD, **query)


def test_an_item_that_cannot_be_read_says_why_and_costs_nothing_else(indexed, tmp_path):
    lines = many(2).started("t3").complete("t3", error={"message": "no"})
    index = indexed({path_of(): lines})
    with open(tmp_path / path_of(), "r+b") as file:
        file.seek(lines.offset(2))
        file.write(b"x" * 20)
        file.seek(lines.offset(3))
        file.write(lines.lines[4].ljust(len(lines.lines[3])))
        file.seek(lines.offset(6))
        file.write(Lines().item("t2", "Plan", "p", text="").lines[1].ljust(len(lines.lines[6])))
    os.truncate(tmp_path / path_of(), lines.offset(10) + 10)
    page = index.turns(THREAD, sort_direction="asc", items_view="full")
    assert names(page) == ["t1", "t2", "t3"]
    assert page.turns[1].items[1]["id"] == "t2-a"
    assert "another record stands where it was" in page.turns[1].items[0]["unreadable"]
    user, agent = page.turns[0].items
    assert (user["type"], user["id"]) == ("userMessage", None)
    assert "cannot be shown" in user["unreadable"]
    assert "tells of no item" in agent["unreadable"]
    assert "the rollout ends before it" in page.turns[2].error["unreadable"]
    os.unlink(tmp_path / path_of())
    found = index_without_lineage(index)
    assert all("cannot be read" in item["unreadable"] for turn in found.turns for item in turn.items)


def index_without_lineage(index):
    """A page of a thread whose file went away since its segments were found."""
    from engine.projections.turn_list import TurnQuery, pick_turns, read_turns
    from engine.stores.bodies import Bodies
    from engine.stores.lineage import Segment

    with index.database.read() as transaction:
        picked = pick_turns(transaction, THREAD, [Segment(index.head(THREAD), None)], TurnQuery(items_view="full"))
    with Bodies(index.home, options=index.options, files=index.files) as bodies:
        return read_turns(picked, bodies)


@pytest.mark.parametrize(
    "item",
    [
        {"command": 7},
        {"command": [1, 2]},
        {"command": ["x"], "duration": "long"},
        {"command": ["x"], "parsed_cmd": [7]},
        {"command": ["x"], "cwd": ["no"], "status": {"a": 1}},
    ],
)
def test_fields_of_an_item_that_are_not_what_they_should_be_cost_that_item_alone(indexed, item):
    lines = Lines().started("t1").item("t1", "CommandExecution", "c", **item).agent("t1", "a").complete("t1")
    (turn,) = indexed({path_of(): lines}).turns(THREAD, items_view="full").turns
    assert [entry["type"] for entry in turn.items] == ["commandExecution", "agentMessage"]
    assert turn.items[1]["text"] == "done"


@pytest.mark.parametrize("framed", [False, True])
def test_bodies_of_compressed_rollouts_are_read(indexed, tmp_path, framed):
    """Two frames with a seek table, as we write them, and one frame without, as that program does."""
    lines = many(40)
    content = b"".join(line + b"\n" for line in lines.lines)
    half = lines.offset(80)
    if framed:
        from engine.stores.frames import Frame, render_table

        parts = [zstandard.compress(part) for part in (content[:half], content[half:])]
        table = render_table([Frame(len(parts[0]), half), Frame(len(parts[1]), len(content) - half)])
        packed = b"".join(parts) + table
    else:
        packed = zstandard.compress(content)
    index = indexed({path_of() + ".zst": packed})
    for direction in ("asc", "desc"):
        page = index.turns(THREAD, limit=0, items_view="full", sort_direction=direction)
        assert [item["id"] for turn in page.turns for item in turn.items] == [
            f"{turn.id}-{end}" for turn in page.turns for end in "ua"
        ]
        assert len(page.turns) == 40


def test_small_blocks_and_a_mark_at_the_start_move_nothing(indexed, tmp_path):
    lines = many(3)
    content = b"\xef\xbb\xbf" + b"".join(line + b"\n" for line in lines.lines)
    indexed({path_of(): content})
    small = Indexed(tmp_path, Options(block_bytes=100))
    assert names(small.turns(THREAD)) == ["t3", "t2", "t1"]
    assert [item["id"] for item in small.turns(THREAD).turns[0].items] == ["t3-u", "t3-a"]
    small.close()
