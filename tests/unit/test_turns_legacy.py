"""The turns of legacy rollouts, case by case: N1 to N17 of the reducer (codex_rollout.md 10.20), O1 (10.24)."""

from __future__ import annotations

import pytest

from tests.conversing import AT_MS, PARENT, THREAD, Lines, path_of
from tests.indexing import Indexed, rows, written_home


@pytest.fixture
def full(tmp_path):
    """Index these lines, and show all turns with all items."""
    opened = []

    def index(lines):
        written_home(tmp_path, {path_of(): lines.lines if isinstance(lines, Lines) else lines})
        opened.append(Indexed(tmp_path))
        return opened[-1].turns(THREAD, sort_direction="asc", items_view="full", limit=0).turns

    yield index
    for each in opened:
        each.close()


def legacy(**meta):
    return Lines("legacy", **meta)


def brief(turns):
    return [(turn.id, turn.status, [(item["type"], item["id"]) for item in turn.items]) for turn in turns]


def ids(turns):
    return [(turn.id, turn.status, [item["id"] for item in turn.items]) for turn in turns]


def test_n1_several_turns_with_reasoning(full):
    lines = legacy().said("one").event("agent_reasoning", text="hm").answered("1").said("two").answered("2")
    assert brief(full(lines)) == [
        ("rollout-1", "completed", [("userMessage", "item-1"), ("reasoning", "item-2"), ("agentMessage", "item-3")]),
        ("rollout-4", "completed", [("userMessage", "item-4"), ("agentMessage", "item-5")]),
    ]


def test_o1_a_torn_line_and_a_second_meta_count_as_what_they_are(full):
    lines = (
        legacy()
        .said("one")
        .raw(b'{"timestamp":"2026-01')
        .record("session_meta", {"id": THREAD, "memory_mode": "disabled"})
    )
    assert ids(full(lines)) == [("rollout-1", "completed", ["item-1"])]
    lines.said("two")
    assert ids(full(lines)) == [("rollout-1", "completed", ["item-1"]), ("rollout-3", "completed", ["item-2"])]


def test_records_that_nobody_asks_for_count_for_the_numbers_of_implicit_turns(full):
    lines = legacy()
    for _ in range(5):
        lines.record("response_item", {"type": "message", "role": "user", "content": []})
    assert ids(full(lines.raw(b"").said())) == [("rollout-6", "completed", ["item-1"])]


def test_n2_with_explicit_turns_a_user_may_say_more_on_the_way(full):
    lines = (
        legacy()
        .started("t1")
        .said("one")
        .said("and")
        .answered()
        .complete("t1")
        .started("t2")
        .said("two")
        .complete("t2")
    )
    assert ids(full(lines)) == [
        ("t1", "completed", ["item-1", "item-2", "item-3"]),
        ("t2", "completed", ["item-4"]),
    ]


def test_n3_reasoning_is_one_item_until_something_else_comes(full):
    lines = legacy().said().event("agent_reasoning", text="a").event("token_count", info=None)
    lines.event("agent_reasoning_raw_content", text="raw").event("agent_reasoning", text="b").answered()
    lines.event("agent_reasoning", text="c")
    (turn,) = full(lines)
    thoughts = [(item["id"], item["summary"], item["content"]) for item in turn.items if item["type"] == "reasoning"]
    assert thoughts == [("item-2", ["a", "b"], ["raw"]), ("item-4", ["c"], [])]


def ran(lines, call_id, turn_id=None, status="completed", **more):
    named = {} if turn_id is None else {"turn_id": turn_id}
    return lines.event(
        "exec_command_end", call_id=call_id, **named, command=["ls", "a b"], cwd="/w", status=status, **more
    )


def test_n4_a_late_command_goes_to_its_turn_and_one_of_an_unknown_turn_is_dropped(full):
    lines = legacy().started("t1").said().complete("t1").started("t2").said()
    ran(ran(ran(lines, "late", "t1"), "lost", "never"), "own", "t2").complete("t2")
    assert ids(full(lines)) == [("t1", "completed", ["item-1", "late"]), ("t2", "completed", ["item-2", "own"])]


def test_a_command_without_a_turn_is_of_the_turn_at_hand_or_makes_one(full):
    assert ids(full(ran(legacy(), "c", ""))) == [("rollout-1", "completed", ["c"])]


def test_n5_late_ends_do_not_touch_the_turn_at_hand(full):
    lines = legacy().started("t1").said().started("t2").said().complete("t1").aborted("t1").answered()
    lines.complete("t1", error={"message": "late"})
    assert ids(full(lines)) == [("t1", "failed", ["item-1"]), ("t2", "interrupted", ["item-2", "item-3"])]


def test_an_end_that_nobody_began_ends_the_turn_at_hand_and_an_abort_does_not(full):
    lines = legacy().started("t1").said().aborted("never").complete("never").said()
    assert ids(full(lines)) == [("t1", "completed", ["item-1"]), ("rollout-5", "completed", ["item-2"])]


def test_an_abort_with_the_id_of_a_turn_whose_start_was_not_written_is_of_the_implicit_turn(full):
    assert ids(full(legacy().said().aborted("t1"))) == [("rollout-1", "interrupted", ["item-1"])]


def test_n6_an_error_fails_the_turn_and_completing_it_later_does_not_mend_it(full):
    lines = legacy().started("t1").event("error", message="no", codex_error_info="other").complete("t1", duration_ms=3)
    (turn,) = full(lines)
    assert (turn.status, turn.error, turn.duration_ms) == ("failed", {"message": "no", "codex_error_info": "other"}, 3)


@pytest.mark.parametrize("info", ['"thread_rollback_failed"', '{"active_turn_not_steerable":{"turn_kind":"review"}}'])
def test_n6_errors_that_are_not_of_the_turn_do_not_fail_it(full, info):
    lines = legacy().started("t1").event("error", message="no", codex_error_info=0).complete("t1")
    whole = [line.replace(b'"codex_error_info":0', b'"codex_error_info":' + info.encode()) for line in lines.lines]
    assert ids(full(whole)) == [("t1", "completed", [])]


def test_n6_an_error_outside_of_a_turn_is_nothing(full):
    assert full(legacy().event("error", message="no", codex_error_info="other")) == []


def test_n7_an_abort_interrupts_and_does_not_close(full):
    lines = legacy().started("t1").said().aborted("t1", duration_ms=5).said("more").started("t2").aborted()
    turns = full(lines)
    assert ids(turns) == [("t1", "interrupted", ["item-1", "item-2"]), ("t2", "interrupted", [])]
    assert turns[0].duration_ms == 5


def test_n8_a_rollback_takes_the_last_turns_back_and_numbers_go_on_from_what_is_left(full):
    lines = legacy().said("1").answered().said("2").answered().said("3").answered()
    lines.event("thread_rolled_back", num_turns=2).said("again").answered()
    assert ids(full(lines)) == [
        ("rollout-1", "completed", ["item-1", "item-2"]),
        ("rollout-8", "completed", ["item-3", "item-4"]),
    ]


def test_n8_items_with_ids_of_their_own_count_for_the_numbers_after_a_rollback(full):
    lines = legacy().started("t1").said()
    ran(ran(lines, "c1"), "c2").complete("t1").started("t2").said()
    lines.event("thread_rolled_back", num_turns=1).said().event("thread_rolled_back", num_turns=0).said()
    assert ids(full(lines)) == [
        ("t1", "completed", ["item-1", "c1", "c2"]),
        ("rollout-9", "completed", ["item-4"]),
        ("rollout-11", "completed", ["item-5"]),
    ]


@pytest.mark.parametrize("turns", [2, 99, 2**63, 2**200])
def test_n8_a_rollback_of_more_turns_than_there_are_takes_all(full, turns):
    lines = legacy().started("t1").said().complete("t1").said().event("thread_rolled_back", num_turns=turns)
    assert full(lines) == []
    assert ids(full(lines.said())) == [("rollout-6", "completed", ["item-1"])]


def test_n8_what_comes_late_for_a_turn_that_was_taken_back_is_dropped(full):
    lines = legacy().started("t1").said().complete("t1").started("t2").said().event("thread_rolled_back", num_turns=1)
    ran(lines, "late", "t2").complete("t2")
    assert ids(full(lines)) == [("t1", "completed", ["item-1"])]


def test_n8_the_late_items_of_an_earlier_turn_stay_when_later_turns_are_taken_back(full):
    lines = legacy().started("t1").said().complete("t1").started("t2").said()
    ran(lines, "late", "t1").event("agent_reasoning", text="x").event("agent_reasoning", text="y").complete("t2")
    lines.event("thread_rolled_back", num_turns=1).said()
    assert ids(full(lines)) == [("t1", "completed", ["item-1", "late"]), ("rollout-11", "completed", ["item-3"])]


def test_n9_a_turn_of_nothing_but_a_compaction_is_kept_and_taken_up_by_what_is_said_next(full):
    lines = legacy().record("compacted", {"message": "so far", "replacement_history": []})
    assert ids(full(lines)) == [("rollout-1", "completed", [])]
    assert ids(full(lines.said())) == [("rollout-1", "completed", ["item-1"])]


def test_the_event_of_a_compaction_is_an_item_and_its_record_is_none(full):
    lines = legacy().started("t1").record("compacted", {"message": ""}).event("context_compacted").complete("t1")
    assert brief(full(lines)) == [("t1", "completed", [("contextCompaction", "item-1")])]


N10 = [
    ("exec_command_end", {"command": ["ls"], "status": "completed"}, "commandExecution"),
    ("patch_apply_end", {"changes": {"/a": {"type": "add", "content": "x"}}, "success": True}, "fileChange"),
    (
        "mcp_tool_call_end",
        {"invocation": {"server": "s", "tool": "t"}, "result": {"Ok": {"content": []}}},
        "mcpToolCall",
    ),
    ("web_search_end", {"query": "q", "action": {"type": "search"}}, "webSearch"),
    ("image_generation_end", {"status": "completed", "result": "r"}, "imageGeneration"),
    ("view_image_tool_call", {"path": "/a.png"}, "imageView"),
    ("dynamic_tool_call_response", {"tool": "t", "arguments": {}, "success": True}, "dynamicToolCall"),
    ("collab_agent_spawn_end", {"new_thread_id": PARENT, "status": "pending_init"}, "collabAgentToolCall"),
    ("collab_resume_end", {"receiver_thread_id": PARENT, "status": "running"}, "collabAgentToolCall"),
    ("collab_agent_interaction_end", {"receiver_thread_id": PARENT, "status": "interrupted"}, "collabAgentToolCall"),
    ("guardian_assessment", {"status": "denied", "action": {"type": "command", "command": "rm"}}, "commandExecution"),
]


@pytest.mark.parametrize(("event", "fields", "type_"), N10, ids=[event for event, _, _ in N10])
def test_n10_tool_items_are_told_by_their_ends_alone(full, event, fields, type_):
    named = {"target_item_id": "c"} if event == "guardian_assessment" else {"call_id": "c"}
    assert brief(full(legacy().event(event, **named, **fields))) == [("rollout-1", "completed", [(type_, "c")])]


def test_n10_items_that_legacy_rollouts_complete_like_paginated_ones(full):
    lines = legacy().started("t1")
    lines.item("t1", "Extension", "s", kind="clock.sleep").item("t1", "Extension", "i", kind="image_gen.generation")
    lines.item("t1", "Plan", "p", text="1. go").item("t1", "Plan", "empty", text="").item(
        "t9", "Plan", "lost", text="x"
    )
    lines.event("sub_agent_activity", event_id="e", kind="started", agent_thread_id=PARENT, agent_path="/root/a")
    assert brief(full(lines)) == [
        (
            "t1",
            "interrupted",
            [("sleep", "s"), ("imageGeneration", "i"), ("plan", "p"), ("subAgentActivity", "e")],
        )
    ]


def test_n11_declined_commands_and_patches_say_so(full):
    lines = ran(legacy(), "c", status="declined").event("patch_apply_end", call_id="p", changes={}, status="declined")
    (turn,) = full(lines)
    assert [item["status"] for item in turn.items] == ["declined", "declined"]


def test_n12_a_review_keeps_its_ids_and_needs_no_start(full):
    """Seen: the review's turn has no start and ends late; the turn that it ran is left open."""
    lines = (
        legacy().event("entered_review_mode", target={"type": "custom"}, turn_id="r", item_id="in").started("t1").said()
    )
    lines.event("exited_review_mode", turn_id="r", item_id="out", review_output=None).answered().complete(
        "r", duration_ms=80
    )
    turns = full(lines)
    assert ids(turns) == [("r", "completed", ["in", "out"]), ("t1", "interrupted", ["item-1", "item-2"])]
    assert (turns[0].duration_ms, turns[0].started_at_ms) == (80, AT_MS + 1_000)


def test_n12_a_review_of_an_old_release_is_numbered_in_the_turn_at_hand(full):
    lines = legacy().started("t1").event("entered_review_mode", target={"type": "commit", "sha": "abc", "title": "T"})
    lines.event("exited_review_mode", review_output={"overall_explanation": "fine"}).complete("t1")
    (turn,) = full(lines)
    assert [(item["id"], item["review"]) for item in turn.items] == [("item-1", "commit abc T"), ("item-2", "fine")]


def test_n13_plain_response_items_and_lifecycles_of_messages_are_no_items(full):
    lines = legacy().started("t1").record("response_item", {"type": "message", "role": "user", "content": []})
    lines.user("t1", "u").agent("t1", "a").item("t1", "HookPrompt", "h", fragments=[{"text": "x", "hookRunId": "1"}])
    assert brief(full(lines)) == [("t1", "interrupted", [("hookPrompt", "h")])]


def test_n14_attachments_phase_and_delivery_are_kept(full):
    lines = legacy().event(
        "user_message", message="see", client_id="c1", images=["data:x"], local_images=["/p.png"], text_elements=[]
    )
    lines.event("agent_message", message="ok", phase="commentary", delivery="async")
    (turn,) = full(lines)
    assert turn.items[0]["client_id"] == "c1"
    assert [part["type"] for part in turn.items[0]["content"]] == ["text", "image", "localImage"]
    assert (turn.items[1]["phase"], turn.items[1]["delivery"]) == ("commentary", "async")


def test_n16_a_second_end_of_a_call_replaces_the_first(full):
    lines = ran(ran(legacy().started("t1"), "c", "t1", status="in_progress"), "c", "t1", status="failed").complete("t1")
    (turn,) = full(lines)
    assert [(item["id"], item["status"]) for item in turn.items] == [("c", "failed")]


def test_a_copied_history_is_the_forks_own(full):
    lines = legacy(forked_from_id=PARENT).record("session_meta", {"id": PARENT, "history_mode": "legacy"})
    lines.started("t1").said().complete("t1").started("t2").said().complete("t2")
    assert ids(full(lines)) == [("t1", "completed", ["item-1"]), ("t2", "completed", ["item-2"])]


def test_empty_messages_and_thoughts_are_no_items(full):
    assert full(legacy().answered("").event("agent_reasoning", text="")) == []


def test_a_turn_that_is_begun_again_goes_on(full):
    lines = legacy().started("t1").said().started("t1").said().started("t2").said().started("t1").said().complete("t1")
    assert ids(full(lines)) == [
        ("t1", "completed", ["item-1", "item-2", "item-4"]),
        ("t2", "interrupted", ["item-3"]),
    ]


def test_explicit_turns_stay_when_they_are_empty_and_summaries_show_the_last_message(full, tmp_path):
    lines = (
        legacy()
        .started("t0")
        .started("t1")
        .said("a")
        .answered("1", "final_answer")
        .answered("2", "commentary")
        .said("b")
    )
    assert ids(full(lines))[0] == ("t0", "interrupted", [])
    index = Indexed(tmp_path)
    turn = index.turns(THREAD).turns[0]
    index.close()
    assert [item.get("text") or item["content"][0]["text"] for item in turn.items] == ["a", "2"]


def test_n8_nothing_of_a_turn_that_was_taken_back_is_left(full, tmp_path):
    """Thoughts of several records, and an item that came for it after another turn had begun."""
    lines = legacy().started("t1").said().complete("t1").started("t2").event("agent_reasoning", text="a")
    lines.event("agent_reasoning", text="b").started("t3").said()
    ran(lines, "late", "t2").event("thread_rolled_back", num_turns=2).said()
    assert ids(full(lines)) == [("t1", "completed", ["item-1"]), ("rollout-11", "completed", ["item-2"])]
    index = Indexed(tmp_path)
    found = rows(index.database, path_of())
    index.close()
    assert [item[0] for item in found["items"]] == [lines.offset(2), lines.offset(11)]
    assert found["parts"] == []
