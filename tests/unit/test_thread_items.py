"""What items look like to a reader: shapes that no real home here has an example of, and values that are odd."""

from __future__ import annotations

import pytest

from engine.events.kinds import TURN_ITEMS
from engine.events.payloads import CALLS
from engine.events.thread_items import COMMENTARY, FINAL_AGENT, PLAIN_AGENT, TYPES, item_of, type_number

ITEM = "event_msg.item_completed"


def completed(tag, **fields):
    return item_of(f"{ITEM}.{tag}", [{"type": "item_completed", "item": {"type": tag, "id": "i", **fields}}])


def told(event, **fields):
    return item_of(f"event_msg.{event}", [{"type": event, "call_id": "i", **fields}])


def test_numbers_of_types_are_what_they_were():
    """They are stored: a name may be added at the end, and nothing else may change."""
    assert TYPES == [
        "unknown",
        "userMessage",
        "agentMessage",
        "agentMessage",
        "agentMessage",
        "reasoning",
        "plan",
        "hookPrompt",
        "commandExecution",
        "fileChange",
        "mcpToolCall",
        "dynamicToolCall",
        "collabAgentToolCall",
        "subAgentActivity",
        "webSearch",
        "imageView",
        "imageGeneration",
        "sleep",
        "enteredReviewMode",
        "exitedReviewMode",
        "contextCompaction",
        "functionCallOutput",
    ]


@pytest.mark.parametrize("tag", sorted(TURN_ITEMS - {"Extension"}))
def test_each_item_has_its_type_and_all_fields_of_it_though_the_file_has_none(tag):
    item = completed(tag)
    assert item["type"] == TYPES[type_number(f"{ITEM}.{tag}")] == tag[0].lower() + tag[1:]
    assert item["id"] == "i"
    assert {"started_at_ms", "completed_at_ms"} <= set(item)


@pytest.mark.parametrize("kind", sorted(CALLS))
def test_each_call_of_a_legacy_rollout_is_of_the_type_that_is_indexed(kind):
    assert told(kind.removeprefix("event_msg."))["type"] == TYPES[type_number(kind)] != "unknown"


def test_phases_of_agent_messages_have_numbers_of_their_own():
    numbers = [
        type_number(f"{ITEM}.AgentMessage", phase=phase) for phase in (None, "final_answer", "commentary", "new")
    ]
    assert numbers == [PLAIN_AGENT, FINAL_AGENT, COMMENTARY, COMMENTARY]
    assert type_number("event_msg.agent_message", phase="final_answer") == FINAL_AGENT


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("clock.sleep", "sleep"),
        ("image_gen.generation", "imageGeneration"),
        ("web.search", "webSearch"),
        ("new", "extension"),
    ],
)
def test_extensions_are_what_their_kind_says(kind, type_):
    item = completed("Extension", kind=kind, seconds=5)
    assert (item["type"], item["seconds"]) == (type_, 5)
    number = type_number(f"{ITEM}.Extension", extension=kind)
    assert TYPES[number] == (type_ if kind != "new" else "unknown")


def test_a_command_is_one_shell_line_in_a_plain_folder_with_its_duration_in_milliseconds():
    item = completed(
        "CommandExecution",
        command=["bash", "-lc", "echo 'a b'"],
        cwd="file:///w/na%C3%AFve%20dir",
        parsed_cmd=[
            {"type": "read", "cmd": "cat x", "name": "x", "path": "sub/x"},
            {"type": "search", "cmd": "rg q", "query": "q"},
        ],
        duration={"secs": 2, "nanos": 3_999_999},
        aggregated_output="",
    )
    assert (item["command"], item["cwd"], item["duration_ms"]) == (
        "bash -lc 'echo '\"'\"'a b'\"'\"''",
        "/w/naïve dir",
        2003,
    )
    assert item["command_actions"] == [
        {"type": "read", "command": "cat x", "name": "x", "path": "/w/naïve dir/sub/x"},
        {"type": "search", "command": "rg q", "query": "q"},
    ]
    assert (item["source"], item["aggregated_output"], item["exit_code"]) == ("agent", None, None)


def test_changes_of_files_are_a_list_of_what_became_of_each():
    changes = {
        "/a": {"type": "add", "content": "x\n"},
        "/b": {"type": "delete", "content": "y\n"},
        "/c": {"type": "update", "unified_diff": "@@", "move_path": "/d"},
    }
    assert completed("FileChange", changes=changes, status="completed")["changes"] == [
        {"path": "/a", "kind": {"type": "add"}, "diff": "x\n"},
        {"path": "/b", "kind": {"type": "delete"}, "diff": "y\n"},
        {"path": "/c", "kind": {"type": "update", "move_path": "/d"}, "diff": "@@"},
    ]
    assert told("patch_apply_end", changes={}, success=False)["status"] == "failed"


def test_calls_of_mcp_tools_have_one_shape_in_both_modes():
    one = completed(
        "McpToolCall", server="s", tool="t", arguments={"a": 1}, pluginId="p", mcpAppResourceUri="u", status="completed"
    )
    assert (one["server"], one["plugin_id"], one["mcp_app_resource_uri"]) == ("s", "p", "u")
    call = {"server": "s", "tool": "t", "arguments": {"a": 1}}
    good = told("mcp_tool_call_end", invocation=call, result={"Ok": {"content": [1]}}, duration={"secs": 1, "nanos": 0})
    bad = told("mcp_tool_call_end", invocation=call, result={"Err": "no"})
    soft = told("mcp_tool_call_end", invocation=call, result={"Ok": {"content": [], "isError": True}})
    assert (good["tool"], good["result"], good["status"], good["duration_ms"]) == (
        "t",
        {"content": [1]},
        "completed",
        1000,
    )
    assert (bad["error"], bad["status"], soft["status"]) == ("no", "failed", "failed")


def test_states_of_agents_are_a_word_and_a_message():
    item = completed("CollabAgentToolCall", agents_states={"a": "running", "b": {"completed": "done"}})
    assert item["agents_states"] == {
        "a": {"status": "running", "message": None},
        "b": {"status": "completed", "message": "done"},
    }
    failed = told("collab_agent_interaction_end", receiver_thread_id="a", status={"errored": "no"})
    assert (failed["tool"], failed["status"], failed["receiver_thread_ids"]) == ("send_input", "failed", ["a"])
    assert told("collab_agent_spawn_end", new_thread_id=None)["status"] == "failed"
    assert told("collab_waiting_end", statuses={"a": "running"})["receiver_thread_ids"] == ["a"]


@pytest.mark.parametrize(
    ("target", "review"),
    [
        ({"type": "uncommittedChanges"}, "current changes"),
        ({"type": "baseBranch", "branch": "main"}, "changes against 'main'"),
        ({"type": "commit", "sha": "abc", "title": "Fix"}, "commit abc Fix"),
        ({"type": "custom", "instructions": "look"}, "look"),
        ({"type": "new"}, None),
    ],
)
def test_a_review_says_what_it_is_of(target, review):
    assert completed("EnteredReviewMode", target=target)["review"] == review
    assert completed("EnteredReviewMode", target=target, user_facing_hint="hint")["review"] == "hint"


def test_media_of_a_user_message_are_parts_of_its_content():
    item = told("user_message", message="", images=["u"], local_images=["/p"], audio=["a"], local_audio=["/b"])
    assert [part["type"] for part in item["content"]] == ["image", "localImage", "audio", "localAudio"]
    part = {"type": "local_image", "path": "p"}
    assert completed("UserMessage", content=[part])["content"] == [{"type": "localImage", "path": "p", "detail": None}]


@pytest.mark.parametrize(
    ("tag", "fields"),
    [
        ("UserMessage", {"content": 7}),
        ("UserMessage", {"content": ["x"]}),
        ("AgentMessage", {"content": [7]}),
        ("CommandExecution", {"command": {"a": 1}}),
        ("CommandExecution", {"duration": {"secs": 1e400}}),
        ("CommandExecution", {"duration": []}),
        ("FileChange", {"changes": ["x"]}),
        ("CollabAgentToolCall", {"agents_states": {"a": {}}}),
        ("EnteredReviewMode", {"target": "x"}),
    ],
)
def test_a_value_of_another_type_than_it_should_be_is_one_error(tag, fields):
    with pytest.raises(ValueError, match=r"not what it should be|not enough values|too many"):
        completed(tag, **fields)


def test_a_record_that_tells_of_no_item_says_so():
    for kind, payload in (("event_msg.task_started", {}), (f"{ITEM}.Plan", {}), (ITEM, {"item": 7})):
        with pytest.raises(ValueError):
            item_of(kind, [payload])
