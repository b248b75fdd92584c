"""A turn being written: its records in order, in both history modes, and how it ends when something goes wrong."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from engine.errors import AppendFailed, InvalidRequest
from tests.writing import Faults, kinds, only, opened, records, say

WHOLE = {
    "paginated": [
        "session_meta",
        "task_started",
        "turn_context",
        "message",
        "UserMessage",
        "Reasoning",
        "reasoning",
        "function_call",
        "DynamicToolCall",
        "function_call_output",
        "AgentMessage",
        "message",
        "token_count",
        "task_complete",
    ],
    "legacy": [
        "session_meta",
        "task_started",
        "turn_context",
        "message",
        "user_message",
        "agent_reasoning",
        "reasoning",
        "function_call",
        "function_call_output",
        "agent_message",
        "message",
        "token_count",
        "task_complete",
    ],
}


@pytest.mark.parametrize("mode", WHOLE)
def test_a_whole_turn_is_written_as_the_mode_has_it(tmp_path: Path, mode: str) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/srv/app", model="m", history_mode=mode) as thread:
        with thread.turn() as turn:
            turn.user_message("hello", images=["https://example.com/a.png"])
            turn.reasoning("thinking")
            turn.tool_call("shell", {"command": ["ls"]}, call_id="c1")
            turn.tool_output("c1", "README.md")
            turn.agent_message("done")
            turn.token_usage(input_tokens=10, output_tokens=2)
        row = e.threads.get(thread.id)
    assert kinds(only(tmp_path / "home")) == WHOLE[mode]
    assert row is not None
    assert (row.first_user_message, row.model, row.tokens_used) == ("hello", "m", 12)
    last = records(only(tmp_path / "home"))[-1]["payload"]
    assert (last["turn_id"], last["last_agent_message"]) == (turn.id, "done")


def test_an_exception_aborts_the_turn_answers_its_open_calls_and_goes_on(tmp_path: Path) -> None:
    """Each open call gets an output before the end, in the order of the calls; an answered one gets no second."""
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        with pytest.raises(ZeroDivisionError), thread.turn() as turn:  # noqa: PT012 - a turn is a block
            for call in ("c1", "c2", "c3"):
                turn.tool_call("shell", {}, call_id=call)
            turn.tool_output("c2", "fine")
            _ = 1 // 0
        say(thread, "next")
    found = records(only(tmp_path / "home"))
    outputs = [
        (each["payload"]["call_id"], each["payload"]["output"])
        for each in found
        if each["payload"].get("type") == "function_call_output"
    ]
    told = "aborted: the turn ended before the tool answered"
    assert outputs == [("c2", "fine"), ("c1", told), ("c3", told)]
    ends = [each["payload"] for each in found if each["payload"].get("type") in ("turn_aborted", "task_complete")]
    assert [end["type"] for end in ends] == ["turn_aborted", "task_complete"]
    assert (ends[0]["turn_id"], ends[0]["reason"]) == (turn.id, "interrupted")
    items = [each["payload"]["item"] for each in found if "item" in each["payload"]]
    calls = [(item["id"], item["status"]) for item in items if item["type"] == "DynamicToolCall"]
    assert calls == [("c2", "completed"), ("c1", "failed"), ("c3", "failed")]


def test_a_call_left_open_at_the_end_of_a_good_turn_is_answered_too(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread, thread.turn() as turn:
        turn.tool_call("shell", "{}", call_id="c1")
    assert kinds(only(tmp_path / "home"))[-3:] == ["DynamicToolCall", "function_call_output", "task_complete"]


def test_outputs_go_to_open_calls_and_open_calls_have_ids_of_their_own(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread, thread.turn() as turn:
        with pytest.raises(InvalidRequest):
            turn.tool_output("c1", "nothing asked")
        turn.tool_call("shell", {}, call_id="c1")
        with pytest.raises(InvalidRequest):
            turn.tool_call("shell", {}, call_id="c1")
        turn.tool_output("c1", "ok")
        turn.tool_call("shell", {}, call_id="c1")
        turn.tool_output("c1", "ok")
    assert kinds(only(tmp_path / "home")).count("function_call_output") == 2


def test_what_the_application_raised_is_told_also_where_the_end_cannot_be_written(tmp_path: Path) -> None:
    """The failure of the disk is a note on it; the thread goes on when the disk does."""
    files = Faults()
    with opened(tmp_path / "home", files=files) as e, e.threads.create(cwd="/") as thread:
        say(thread, "before")
        with pytest.raises(ZeroDivisionError) as caught, thread.turn() as turn:  # noqa: PT012 - a turn is a block
            files.failing = {"recorder.write": errno.ENOSPC}
            _ = 1 // 0
        files.failing = {}
        assert caught.value.__notes__[0].startswith(f"The turn {turn.id} could not be ended in its rollout: ")
        say(thread, "after")
        assert e.audit().findings == []
    assert kinds(only(tmp_path / "home")).count("turn_aborted") == 0
    assert kinds(only(tmp_path / "home")).count("task_complete") == 2


def test_a_full_disk_is_told_by_a_good_turn_and_the_end_can_be_written_again(tmp_path: Path) -> None:
    files = Faults()
    with opened(tmp_path / "home", files=files) as e, e.threads.create(cwd="/") as thread:
        turn = thread.turn()
        turn.__enter__()
        turn.tool_call("shell", {}, call_id="c1")
        files.failing = {"recorder.write": errno.ENOSPC}
        with pytest.raises(AppendFailed):
            turn.__exit__(None, None, None)
        files.failing = {}
        turn.__exit__(None, None, None)
    assert kinds(only(tmp_path / "home"))[3:] == [
        "function_call",
        "DynamicToolCall",
        "function_call_output",
        "task_complete",
    ]


def test_with_durability_turn_the_end_of_a_turn_is_what_syncs(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/", durability="turn") as thread:
        say(thread, "first")
        before = e.counters["syncs"]
        with thread.turn() as turn:
            assert turn.user_message("hello").durability == "buffered"
            assert e.counters["syncs"] == before
        assert e.counters["syncs"] == before + 1


def test_raw_items_of_a_turn_may_have_a_key(tmp_path: Path) -> None:
    item: dict[str, Any] = {"type": "response_item", "payload": {"type": "web_search_call", "status": "completed"}}
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread, thread.turn() as turn:
        assert turn.append([item], key="k").records == 1
        assert turn.append([item], key="k").records == 0
    assert kinds(only(tmp_path / "home")).count("web_search_call") == 1
