"""A turn being written: its records in order, in both history modes, and how it ends when something goes wrong."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.errors import AppendFailed, InvalidRequest
from engine.events import compose
from engine.testing import ManualClock
from tests.writing import Faults, kind, kinds, only, opened, records, say

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
    """The failure of the disk is a note on it; the thread goes on when the disk does, and the next turn ends this one."""
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
    found = [each for each in kinds(only(tmp_path / "home")) if each.startswith(("task_", "turn_a"))]
    assert found == ["task_started", "task_complete", "task_started", "turn_aborted", "task_started", "task_complete"]
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


# --- a turn that a crash left open


def left_open(home: Path, mode: str) -> str:
    """A home as a killed process leaves it in the middle of its second turn; the thread's id."""
    with opened(home.parent / "before") as e, e.threads.create(cwd="/", history_mode=mode, durability="buffered") as t:
        with t.turn() as turn:
            turn.tool_call("shell", {}, call_id="c1")
            turn.tool_output("c1", "fine")
        turn = t.turn()
        turn.__enter__()
        turn.user_message("two")
        turn.tool_call("shell", {"n": 1}, call_id="c1")
        turn.tool_call("shell", {"n": 2}, call_id="c2")
        turn.tool_output("c1", "fine")
        turn.append([{"type": "response_item", "payload": {"type": "custom_tool_call", "call_id": "c3", "name": "n"}}])
        shutil.copytree(home.parent / "before", home, ignore=shutil.ignore_patterns("locks", "*.sqlite*"))
    return t.id


ENDED = {
    "paginated": ["DynamicToolCall", "function_call_output", "custom_tool_call_output", "turn_aborted", "task_started"],
    "legacy": ["function_call_output", "custom_tool_call_output", "turn_aborted", "task_started"],
}


@pytest.mark.parametrize("mode", ENDED)
def test_a_turn_that_a_crash_left_open_is_ended_in_front_of_the_next(tmp_path: Path, mode: str) -> None:
    """Its open calls are answered and it is aborted, at the time of the last that is known of it; once."""
    home = tmp_path / "home"
    thread_id = left_open(home, mode)
    before = records(only(home))
    with opened(home, ManualClock(wall_ms=1_800_000_000_000)) as e:
        with e.threads.resume(thread_id) as thread:
            say(thread, "three", "four")
        with e.threads.resume(thread_id) as thread:
            say(thread, "five")
        assert e.threads.get(thread_id).recency_at_ms >= 1_800_000_000_000
        assert e.audit(deep=True).findings == []
    found = records(only(home))
    assert found[: len(before)] == before
    behind = found[len(before) :]
    assert [kind(each).rpartition(".")[2] for each in behind[: len(ENDED[mode])]] == ENDED[mode]
    outputs = [each["payload"] for each in behind if each["payload"].get("type", "").endswith("_output")]
    told = "aborted: the turn ended before the tool answered"
    assert [(each["call_id"], each["output"]) for each in outputs] == [("c2", told), ("c3", told)]
    (aborted,) = [each["payload"] for each in behind if each["payload"].get("type") == "turn_aborted"]
    started = [each["payload"] for each in before if each["payload"].get("type") == "task_started"][-1]
    assert (aborted["turn_id"], aborted["reason"]) == (started["turn_id"], "interrupted")
    assert aborted["started_at"] == started["started_at"] <= aborted["completed_at"] < 1_800_000_000


def test_nothing_is_ended_before_a_turn_begins_nor_where_no_turn_is_open(tmp_path: Path) -> None:
    """Whoever goes on by items of its own may still mean to end that turn; a resume alone writes nothing."""
    home = tmp_path / "home"
    thread_id = left_open(home, "paginated")
    before = only(home).read_bytes()
    with opened(home) as e:
        e.threads.resume(thread_id).close()
        assert only(home).read_bytes() == before
        with e.threads.resume(thread_id) as thread:
            started = [each.payload for each in thread.read() if each.kind == "event_msg.task_started"][-1]
            thread.append([compose.task_complete(started["turn_id"], 0, 0, last_agent_message=None)])
            say(thread, "next")
    assert b"turn_aborted" not in only(home).read_bytes()


def test_the_open_turn_of_another_program_is_its_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    thread_id = left_open(home, "paginated")
    path = only(home)
    path.write_bytes(path.read_bytes().replace(b'"rolloutdb":{"version"', b'"elsewhere":{"version"', 1))
    with opened(home) as e, e.threads.resume(thread_id, adopt=True) as thread:
        say(thread, "three")
    assert b"turn_aborted" not in path.read_bytes()


def test_a_turn_whose_end_found_no_room_is_ended_in_front_of_the_next(tmp_path: Path) -> None:
    """The end was written and could not be synced, so it is cut off again: the next turn must not take it for there."""
    files = Faults()
    with opened(tmp_path / "home", files=files) as e, e.threads.create(cwd="/") as thread:
        say(thread, "one")
        with pytest.raises(AppendFailed), thread.turn() as turn:  # noqa: PT012 - a turn is a block
            turn.user_message("two")
            files.failing["recorder.sync"] = errno.EIO
        files.failing.clear()
        say(thread, "three")
    found = kinds(only(tmp_path / "home"))
    marks = [each for each in found if each.startswith(("task_", "turn_a"))]
    assert marks == ["task_started", "task_complete", "task_started", "turn_aborted", "task_started", "task_complete"]
