"""The index of paginated rollouts: which rows their records come to, and what a page shows of them.

Cases P1 to P16 of the projection (codex_rollout.md 10.16), HI-07 to HI-13 (codex_state.md 10.9).
"""

from __future__ import annotations

import pytest

from engine.projections.turn_state import whole
from tests.conversing import AT_MS, PARENT, THREAD, Lines, path_of
from tests.indexing import Indexed, rows, written_home

OPEN, COMPLETED, INTERRUPTED, FAILED = range(4)


@pytest.fixture
def indexed(tmp_path):
    opened = []

    def index(lines, path=None):
        written_home(tmp_path, {path or path_of(): lines.lines if isinstance(lines, Lines) else lines})
        opened.append(Indexed(tmp_path))
        return opened[-1]

    yield index
    for each in opened:
        each.close()


def shown(index, **query):
    """What a full page shows of each turn: id, status, ids of items."""
    page = index.turns(THREAD, sort_direction="asc", items_view="full", **query)
    return [(turn.id, turn.status, [item["id"] for item in turn.items]) for turn in page.turns]


def test_p1_turns_and_items_are_indexed_with_their_places(indexed):
    lines = Lines().turn("t1").turn("t2")
    index = indexed(lines)
    assert shown(index) == [("t1", "completed", ["t1-u", "t1-a"]), ("t2", "completed", ["t2-u", "t2-a"])]
    found = rows(index.database, path_of())
    assert [(row[0], row[1], row[2], row[4]) for row in found["turns"]] == [
        (lines.offset(1), "t1", 1, lines.offset(4)),
        (lines.offset(5), "t2", 5, lines.offset(8)),
    ]
    assert [(row[0], row[1], row[3]) for row in found["items"]] == [
        (lines.offset(at), len(lines.lines[at]), at) for at in (2, 3, 6, 7)
    ]


def test_p2_a_turn_under_way_has_its_beginning_alone(indexed):
    index = indexed(Lines().started("t1", started_at=1_767_603_601))
    (row,) = rows(index.database, path_of())["turns"]
    assert row[1:] == ("t1", 1, OPEN, None, 1_767_603_601_000, None, None, None, None, None, None, None, row[-1])


def test_p3_a_torn_tail_is_not_taken_in_and_its_whole_line_later_is(indexed):
    lines = Lines().turn("t1").started("t2")
    whole = b"".join(line + b"\n" for line in lines.lines)
    assert shown(indexed(whole[:-20])) == [("t1", "completed", ["t1-u", "t1-a"])]
    assert shown(indexed(whole)) == [("t1", "completed", ["t1-u", "t1-a"]), ("t2", "interrupted", [])]


@pytest.mark.parametrize(
    "junk", [b"", b"   ", b"{not json", b"\xff\xfe", b"{}", b"null", b'{"type":"unknown"}', b"\0" * 50]
)
def test_p4_p5_blank_and_rejected_lines_cost_nothing_but_themselves(indexed, junk):
    lines = Lines().turn("t1")
    whole = [*lines.lines[:3], junk, junk, *lines.lines[3:]]
    assert shown(indexed(whole)) == [("t1", "completed", ["t1-u", "t1-a"])]


def test_p6_hi04_missing_repeated_and_falling_ordinals_stop_nothing(indexed):
    """That program stops its projection there for good; here the place in the file counts."""
    lines = Lines().turn("t1")
    lines.ordinal = 2
    lines.turn("t2")
    lines.ordinal = 900
    lines.turn("t3")
    lines.mode = "legacy"
    lines.turn("t4")
    assert [turn for turn, _, _ in shown(indexed(lines))] == ["t1", "t2", "t3", "t4"]


def test_p11_hi10_a_turn_that_ended_stays_as_it_is(indexed):
    lines = Lines().turn("t1").complete("t1", error={"message": "no"}).aborted("t1").started("t1").agent("t1", "late")
    index = indexed(lines)
    assert shown(index) == [("t1", "completed", ["t1-u", "t1-a", "late"])]
    (turn,) = index.turns(THREAD).turns
    assert [item["id"] for item in turn.items] == ["t1-u", "t1-a"], "a late answer is no part of the summary"


def test_p12_hi11_a_second_completion_replaces_what_the_item_says_and_not_its_place(indexed):
    lines = Lines().started("t1").item("t1", "CommandExecution", "c", command=["ls"], status="in_progress")
    lines.agent("t1", "a").item("t1", "CommandExecution", "c", command=["ls"], status="completed").complete("t1")
    index = indexed(lines)
    assert shown(index) == [("t1", "completed", ["c", "a"])]
    (turn,) = index.turns(THREAD, items_view="full").turns
    assert turn.items[0]["status"] == "completed"
    assert [(row[0], row[7], row[8]) for row in rows(index.database, path_of())["items"]] == [
        (lines.offset(2), lines.offset(4), len(lines.lines[4])),
        (lines.offset(3), None, None),
    ]


def test_the_same_item_id_in_another_turn_is_another_item(indexed):
    lines = Lines().started("t1").user("t1", "same").complete("t1").started("t2").user("t2", "same").complete("t2")
    assert shown(indexed(lines)) == [("t1", "completed", ["same"]), ("t2", "completed", ["same"])]


@pytest.mark.parametrize(
    ("phases", "final"),
    [
        (["commentary", "final_answer", "commentary"], 1),
        (["final_answer", "final_answer"], 1),
        ([None, "commentary", None], 2),
        ([None, "final_answer", None], 1),
        (["commentary"], None),
    ],
)
def test_p13_hi12_a_summary_shows_the_last_final_answer_else_the_last_without_a_phase(indexed, phases, final):
    lines = Lines().started("t1").user("t1", "u")
    for number, phase in enumerate(phases):
        lines.agent("t1", str(number), phase=phase)
    lines.event("token_count", info=None, rate_limits={"primary": {"used_percent": 1.5}}).complete("t1")
    (turn,) = indexed(lines).turns(THREAD).turns
    assert [item["id"] for item in turn.items] == ["u", *([] if final is None else [str(final)])]


def test_while_a_turn_is_under_way_a_message_without_a_phase_is_not_its_final_one(indexed):
    index = indexed(Lines().started("t1").user("t1", "u").agent("t1", "a", phase=None))
    (running,) = index.turns(THREAD, running=True).turns
    assert (running.status, [item["id"] for item in running.items]) == ("in_progress", ["u"])
    (left,) = index.turns(THREAD).turns
    assert (left.status, [item["id"] for item in left.items]) == ("interrupted", ["u", "a"])


def test_p14_hi09_times_that_cannot_be_read_cost_no_turn_and_times_of_events_come_first(indexed):
    lines = (
        Lines()
        .started("t1", started_at=0)
        .item("t1", "Plan", "p", started_at_ms=0, text="x")
        .complete("t1", completed_at=7)
    )
    lines.lines = [line.replace(b"2026-01-05T09", b"the fifth of J", 1) for line in lines.lines]
    index = indexed(lines)
    (turn,) = index.turns(THREAD).turns
    assert (turn.started_at_ms, turn.completed_at_ms) == (0, 7_000)
    (item,) = index.items(THREAD).items
    assert item.created_at_ms == 0


def test_times_that_no_event_has_are_those_of_the_records(indexed):
    index = indexed(Lines().turn("t1"))
    (turn,) = index.turns(THREAD).turns
    assert (turn.started_at_ms, turn.completed_at_ms, turn.duration_ms) == (AT_MS + 1_000, AT_MS + 4_000, None)
    assert [item.created_at_ms for item in index.items(THREAD).items] == [AT_MS + 2_000, AT_MS + 3_000]


@pytest.mark.parametrize(
    "number", ["1e400", "-1e308", "99999999999999999999999999", "9223372036854775807", '"soon"', "[]"]
)
def test_times_beyond_what_a_column_holds_are_as_if_they_were_not_there(indexed, number):
    lines = Lines().started("t1", started_at=41).complete("t1", completed_at=41, duration_ms=41)
    whole = [line.replace(b":41", b":" + number.encode()) for line in lines.lines]
    (turn,) = indexed(whole).turns(THREAD).turns
    assert (turn.id, turn.status) == ("t1", "completed")


def test_p15_hi13_what_was_copied_into_a_sub_agents_rollout_is_not_its_own(indexed):
    lines = Lines(subagent_history_start_ordinal=6)
    lines.record("session_meta", {"id": PARENT, "history_mode": "paginated"}).turn("copied").turn("own")
    assert lines.ordinal == 10
    assert shown(indexed(lines)) == [("own", "completed", ["own-u", "own-a"])]


def test_an_end_without_a_beginning_makes_a_turn_at_its_place_with_the_items_that_name_it(indexed):
    """Seen in a review thread: its turn has no start, and its items stand around those of the turn that it ran."""
    lines = Lines().item("review", "EnteredReviewMode", "in", target={"type": "uncommittedChanges"})
    lines.started("inner").user("inner", "u").item("review", "ExitedReviewMode", "out", review_output=None)
    lines.user("review", "asked").agent("review", "a").complete("review", started_at=5).agent("inner", "later")
    index = indexed(lines)
    assert shown(index) == [
        ("inner", "interrupted", ["u", "later"]),
        ("review", "completed", ["in", "out", "asked", "a"]),
    ]
    summary = index.turns(THREAD).turns[0]
    assert ([item["id"] for item in summary.items], summary.started_at_ms) == (["asked", "a"], 5_000)


def test_an_abort_without_a_turn_and_a_start_without_one_are_nothing(indexed):
    """N17."""
    lines = Lines().started("t1").aborted().event("task_started").event("task_complete", turn_id="")
    assert shown(indexed(lines)) == [("t1", "interrupted", [])]


def test_items_of_a_turn_that_has_no_row_are_listed_all_the_same(indexed):
    index = indexed(Lines().user("gone", "u"))
    assert shown(index) == []
    assert [(item.turn_id, item.item["id"]) for item in index.items(THREAD).items] == [("gone", "u")]


def test_an_item_of_a_kind_that_nobody_knows_is_shown_with_all_it_has(indexed):
    index = indexed(Lines().started("t1").item("t1", "NewThing", "n", wonder={"a": 1.5}).complete("t1"))
    (turn,) = index.turns(THREAD, items_view="full").turns
    assert turn.items == [
        {"type": "newThing", "id": "n", "wonder": {"a": 1.5}, "started_at_ms": None, "completed_at_ms": None}
    ]


def test_a_failed_turn_says_why_and_an_aborted_one_is_interrupted(indexed):
    lines = (
        Lines().started("t1").complete("t1", error={"message": "too much", "codex_error_info": "other"}, duration_ms=7)
    )
    lines.started("t2").aborted("t2")
    failed, aborted = indexed(lines).turns(THREAD, sort_direction="asc").turns
    assert (failed.status, failed.error, failed.duration_ms) == (
        "failed",
        {"message": "too much", "codex_error_info": "other"},
        7,
    )
    assert (aborted.status, aborted.error) == ("interrupted", None)


def test_p16_a_rollout_that_goes_on_from_another_has_rows_for_its_own_part_alone(indexed):
    lines = Lines(ordinal=40, history_base={"thread_id": PARENT, "end_ordinal_exclusive": 40, "end_byte_offset": 5})
    lines.turn("t9")
    index = indexed(lines)
    assert [row[1:3] for row in rows(index.database, path_of())["turns"]] == [("t9", 41)]


def test_without_its_first_line_a_rollout_with_ordinals_is_read_as_paginated(indexed):
    lines = Lines().turn("t1")
    assert shown(indexed(lines.lines[1:])) == [("t1", "completed", ["t1-u", "t1-a"])]


def test_ids_may_be_of_any_length_and_text(indexed):
    for turn_id in ("x" * 100_000, "naïve 旅\0", "'; DROP TABLE turns; --"):
        index = indexed(Lines().turn(turn_id))
        (turn,) = index.turns(THREAD, items_view="full").turns
        assert (turn.id, len(turn.items)) == (turn_id[:256], 2)


def test_p17_p7_what_was_forgotten_leaves_no_row(indexed):
    index = indexed(Lines().turn("t1"))
    with index.database.write() as transaction:
        from engine.projections.turns import Turns

        Turns().forget(transaction, [path_of()])
        left = [transaction.row(f"SELECT count(*) FROM {table}")[0] for table in ("rollouts", "turns", "items")]
    assert left == [0, 0, 0]
    assert shown(index) == []


def test_a_rollout_that_is_folded_anew_has_no_row_of_what_it_was_before(indexed, tmp_path):
    index = indexed(Lines().turn("t1").turn("t2"))
    written_home(tmp_path, {path_of(): Lines().turn("other").lines})
    index.index()
    assert shown(index) == [("other", "completed", ["other-u", "other-a"])]


def test_a_mark_before_an_item_that_is_the_first_line_is_no_part_of_it(indexed):
    lines = Lines().started("t1").user("t1", "u").complete("t1")
    index = indexed([b"\xef\xbb\xbf" + lines.lines[2], lines.lines[3]])
    assert shown(index) == [("t1", "completed", ["u"])]


@pytest.mark.parametrize(
    ("value", "kept"),
    [(None, None), (7, 7), (7.9, 7), (-7.9, -7), (2.0**63, None), (1 << 63, None), (float("inf"), None)],
)
def test_a_number_of_a_file_is_kept_as_a_whole_one_that_a_column_holds(value, kept):
    found = whole(value)
    assert (found, type(found)) == (kept, type(kept))
