"""Which record sets which field of a thread's row: codex_state.md 3.3 and its cases (MD-xx), and where ours differ.

Every case folds the bytes of a rollout; the row is what comes out.
"""

from __future__ import annotations

import json

import pytest

from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.projection import Stream
from engine.projections.registry import THREADS
from engine.projections.threads import COLUMNS, stream_of, thread_row
from tests.in_memory import Bytes

ID = "01a20464-403f-7170-9722-7a9790eef98c"
OTHER = "01a20464-0000-7000-8000-000000000001"
PATH = f"sessions/2026/11/22/rollout-2026-11-22T17-53-28-{ID}.jsonl"
REVERTED = f"sessions/2026/11/23/rollout-2026-11-23T08-00-00-{ID}_{OTHER}.jsonl"
NAMED_MS = 1795370008000
"""2026-11-22T17:53:28Z, the time in the file's name read as UTC."""
T0 = 1795370008700
"""When the made conversations begin: 2026-11-22T17:53:28.700Z."""


def at(seconds):
    return f"2026-11-22T17:{53 + (28 + seconds) // 60:02}:{(28 + seconds) % 60:02}.700Z"


def record(type_, payload, *, second=0, ordinal=None):
    line = {"timestamp": at(second)}
    if ordinal is not None:
        line["ordinal"] = ordinal
    return json.dumps({**line, "type": type_, "payload": payload}, separators=(",", ":")).encode() + b"\n"


def event(type_, second=0, ordinal=None, **fields):
    return record("event_msg", {"type": type_, **fields}, second=second, ordinal=ordinal)


def meta(second=0, ordinal=None, **fields):
    payload = {"id": ID, "timestamp": at(0), "cwd": "/src", "originator": "codex-tui", "cli_version": "0.169.0"}
    payload |= {"source": "cli", "model_provider": "openai", **fields}
    payload = {key: value for key, value in payload.items() if value is not ...}
    return record("session_meta", payload, second=second, ordinal=ordinal)


def context(second=0, **fields):
    return record("turn_context", {"turn_id": "t", **fields}, second=second)


def said(text, **more):
    return event("user_message", message=text, **more)


def item(*parts, second=0, ordinal=None):
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    done = {"type": "UserMessage", "id": "u", "content": content}
    return event("item_completed", second, ordinal, thread_id=ID, turn_id=ID, item=done)


def tokens(total):
    return event("token_count", info={"total_token_usage": {"total_tokens": total}})


def fold(*lines, path=PATH):
    stream = stream_of(path)
    (folded,) = Folder([THREADS], Options()).fold(Stream(path, stream.name), Bytes(b"".join(lines)), {})
    return folded


def row(*lines, path=PATH):
    return dict(zip(COLUMNS, thread_row(path, THREADS.decode(fold(*lines, path=path).mark.state)), strict=True))


def texts(*lines):
    found = row(meta(), *lines)
    return found["first_user_message"], found["preview"], found["title"]


def test_a_session_meta_alone_makes_a_whole_row():
    assert row(meta()) == {
        "id": ID,
        "rollout_path": PATH,
        "rollout_id": ID,
        "session_id": ID,
        "created_at_ms": T0,
        "updated_at_ms": T0,
        "recency_at_ms": T0,
        "source": "cli",
        "thread_source": None,
        "originator": "codex-tui",
        "history_mode": "legacy",
        "forked_from_id": None,
        "parent_thread_id": None,
        "agent_nickname": None,
        "agent_role": None,
        "agent_path": None,
        "model_provider": "openai",
        "model": None,
        "reasoning_effort": None,
        "cwd": "/src",
        "cli_version": "0.169.0",
        "title": None,
        "preview": None,
        "first_user_message": None,
        "sandbox_policy": '{"type":"read-only"}',
        "approval_mode": "on-request",
        "tokens_used": 0,
        "memory_mode": "enabled",
        "memory_mode_at_ms": None,
        "git_sha": None,
        "git_branch": None,
        "git_origin_url": None,
        "archived": 0,
    }


def test_a_response_item_of_a_user_changes_nothing():
    """MD-01: what the model is sent is not what the user said."""
    message = record(
        "response_item", {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    )
    assert texts(message) == (None, None, None)


@pytest.mark.parametrize("say", [said, item])
def test_a_first_message_with_the_request_mark_shows_the_request(say):
    """MD-02, MD-03."""
    assert texts(say("ctx\n## My request for Codex:\n fix it ")) == ("fix it", "fix it", "fix it")


def test_media_alone_is_shown_by_a_placeholder_and_never_becomes_the_title():
    """MD-04, MD-05."""
    assert texts(said("", images=["data:"])) == ("[Image]", "[Image]", None)
    assert texts(item({"type": "localImage", "path": "/a"})) == ("[Image]", "[Image]", None)
    assert texts(said(" ", local_audio=["/a"])) == ("[Audio]", "[Audio]", None)


def test_the_first_words_after_media_become_the_title():
    assert texts(said("", images=["data:"]), said("hello")) == ("[Image]", "[Image]", "hello")


def test_blank_words_without_media_change_nothing():
    """MD-06."""
    assert texts(said(" \n\t"), item(" ")) == (None, None, None)


def test_later_messages_change_nothing():
    assert texts(item("one"), item("two"), said("three")) == ("one", "one", "one")


def goal(objective):
    return event("thread_goal_updated", threadId=ID, goal={"threadId": ID, "objective": objective, "status": "active"})


def test_a_goal_is_the_preview_until_words_come_and_stays_it():
    """MD-07: a later message fills first message and title."""
    assert texts(goal(" ship it ")) == (None, "ship it", None)
    assert texts(goal("ship it"), said("hello")) == ("hello", "ship it", "hello")
    assert texts(said("hello"), goal("ship it")) == ("hello", "hello", "hello")
    assert texts(goal("  ")) == (None, None, None)
    assert texts(event("thread_goal_updated", threadId=ID, goal=None)) == (None, None, None)


def test_a_turn_context_fills_the_folder_only_where_none_is_known():
    """MD-08, MD-10."""
    turn = context(cwd="/elsewhere", approval_policy="never", sandbox_policy={"type": "danger-full-access"})
    assert row(meta(), turn)["cwd"] == "/src"
    assert row(meta(cwd=""), turn)["cwd"] == "/elsewhere"
    assert row(meta(cwd=...), turn)["cwd"] == "/elsewhere"
    assert row(meta(), turn)["approval_mode"] == "never"
    assert row(meta(), turn)["sandbox_policy"] == '{"type":"danger-full-access"}'


def test_a_turn_context_sets_and_clears_model_and_effort():
    """MD-09, MD-11, MD-20: an effort that nobody knows is kept as it is."""
    first = context(
        model="gpt-5.5", effort="future", permission_profile={"type": "disabled"}, sandbox_policy={"type": "x"}
    )
    found = row(meta(), first)
    assert (found["model"], found["reasoning_effort"]) == ("gpt-5.5", "future")
    assert found["sandbox_policy"] == '{"type":"disabled"}'
    assert row(meta(), first, context(model="o4-mini"))["reasoning_effort"] is None


def test_applied_settings_overwrite_all_that_they_tell():
    """MD-12."""
    settings = {
        "model": "o4-mini",
        "model_provider_id": "azure",
        "cwd": "/new",
        "reasoning_effort": "high",
        "approval_policy": {"granular": {"rules": True}},
        "permission_profile": {"type": "managed", "file_system": {}},
    }
    found = row(
        meta(), context(model="gpt-5.5", effort="low"), event("thread_settings_applied", thread_settings=settings)
    )
    assert {key: found[key] for key in ("model", "model_provider", "cwd", "reasoning_effort", "approval_mode")} == {
        "model": "o4-mini",
        "model_provider": "azure",
        "cwd": "/new",
        "reasoning_effort": "high",
        "approval_mode": '{"granular":{"rules":true}}',
    }
    assert found["sandbox_policy"] == '{"type":"managed","file_system":{}}'


def test_a_later_session_meta_updates_and_never_changes_who_the_thread_is():
    """MD-13: neither model, effort, mode of history nor time of creation."""
    later = meta(
        60, timestamp="2030-01-01T00:00:00Z", history_mode="paginated", cli_version="9", cwd="/b", source="exec"
    )
    found = row(meta(), context(model="gpt-5.5", effort="low"), later)
    assert (found["model"], found["reasoning_effort"], found["history_mode"]) == ("gpt-5.5", "low", "legacy")
    assert (found["created_at_ms"], found["updated_at_ms"]) == (T0, T0 + 60_000)
    assert (found["cli_version"], found["cwd"], found["source"]) == ("9", "/b", "exec")


def test_a_later_session_meta_with_empty_words_keeps_what_is_known():
    found = row(meta(), meta(cli_version="", cwd="", model_provider=None, originator=""))
    assert (found["cli_version"], found["cwd"], found["model_provider"], found["originator"]) == (
        "0.169.0",
        "/src",
        "openai",
        "codex-tui",
    )


def test_a_session_meta_of_another_thread_changes_nothing():
    """MD-14: a copying fork holds its parent's."""
    parent = meta(id=OTHER, cwd="/parent", git={"commit_hash": "abc"}, memory_mode="disabled", source="exec")
    assert row(meta(), parent) == row(meta(), record("world_state", {}))


def test_git_is_kept_without_a_block_and_replaced_whole_by_one():
    """MD-15: `{}` clears."""
    git = {"commit_hash": "abc", "branch": "main", "repository_url": "https://git.example/x"}
    found = row(meta(git=git), meta())
    assert (found["git_sha"], found["git_branch"], found["git_origin_url"]) == ("abc", "main", "https://git.example/x")
    assert row(meta(git=git), meta(git={"commit_hash": "def"}))["git_branch"] is None
    assert row(meta(git=git), meta(git={}))["git_sha"] is None
    assert row(meta(git=git), meta(git=None))["git_sha"] == "abc"


@pytest.mark.parametrize(
    ("totals", "used"),
    [
        ([], 0),
        ([5, 9], 9),
        ([9, 5], 5),
        ([-3], 0),
        ([7.9], 7),
        ([2**63 - 1], 2**63 - 1),
        ([2**63], 2**63 - 1),
        ([10**400], 2**63 - 1),
        ([5, "odd"], 5),
    ],
)
def test_tokens_are_the_last_total_within_what_a_column_holds(totals, used):
    """MD-16."""
    assert row(meta(), *map(tokens, totals))["tokens_used"] == used


def test_a_token_count_without_a_total_changes_nothing():
    assert row(meta(), tokens(5), event("token_count", info=None))["tokens_used"] == 5
    assert row(meta(), tokens(5), event("token_count", info={}), event("token_count"))["tokens_used"] == 5
    assert row(meta(), tokens(5), event("token_count", info="odd"))["tokens_used"] == 5


def test_a_provider_that_nobody_named_is_unknown():
    """MD-17 puts a configured default here; the engine knows no configuration and says what the file says."""
    assert row(meta(model_provider=None))["model_provider"] is None
    assert row(meta(model_provider=""))["model_provider"] is None


def test_without_a_session_meta_name_and_records_tell_who_and_when():
    """MD-23: and a file with no record that can be read has its name alone."""
    found = row(said("hello"))
    assert (found["id"], found["created_at_ms"], found["source"], found["title"]) == (ID, T0, "unknown", "hello")
    assert row(b"garbage\n")["created_at_ms"] == NAMED_MS
    assert row(b'{"timestamp":"odd","type":"a","payload":{}}\n')["updated_at_ms"] == NAMED_MS


def test_an_unknown_history_mode_is_told_and_hides_nothing():
    """MD-24 and D8 refuse the thread; here it is listed, with the mode that its file names."""
    assert row(meta(history_mode="future"), said("hello"))["history_mode"] == "future"
    assert row(meta(history_mode="paginated"), meta(history_mode="future"))["history_mode"] == "paginated"
    assert row(meta(history_mode=None))["history_mode"] == "legacy"


def test_the_last_memory_mode_that_was_told_counts():
    """MD-25, M2."""
    assert row(meta(memory_mode="disabled"), meta(), meta(memory_mode="polluted"), meta())["memory_mode"] == "polluted"


def test_a_session_id_that_is_missing_is_the_threads():
    """D3: 0.130 wrote none."""
    assert row(meta())["session_id"] == ID
    assert row(meta(session_id=OTHER))["session_id"] == OTHER


def test_the_creation_time_may_have_the_look_of_a_file_name():
    assert row(meta(timestamp="2026-11-22T17-53-28"))["created_at_ms"] == NAMED_MS
    assert row(meta(timestamp="odd"), said("x"))["created_at_ms"] == T0


def test_a_spawned_agent_has_its_parent_and_names_from_its_source():
    """0.130 has them there alone; `agent_type` is an older word for the role."""
    spawn = {
        "parent_thread_id": OTHER,
        "depth": 1,
        "agent_path": "/root/a",
        "agent_nickname": "Kepler",
        "agent_type": "x",
    }
    found = row(meta(source={"subagent": {"thread_spawn": spawn}}))
    assert (found["parent_thread_id"], found["agent_path"]) == (OTHER, "/root/a")
    assert (found["agent_nickname"], found["agent_role"]) == ("Kepler", "x")
    own = row(meta(source={"subagent": {"thread_spawn": spawn}}, agent_nickname="Noether", agent_type="reviewer"))
    assert (own["agent_nickname"], own["agent_role"]) == ("Noether", "reviewer")


def test_a_source_that_is_missing_is_vscode():
    assert row(meta(source=...))["source"] == "vscode"


def test_inherited_context_derives_nothing():
    """S13: records numbered below the agent's own are its parent's."""
    totals = {"total_token_usage": {"total_tokens": 9}}
    inherited = [item("the parent's words", ordinal=1), event("token_count", ordinal=2, info=totals)]
    found = row(meta(ordinal=0, subagent_history_start_ordinal=3), *inherited, item("mine", ordinal=3))
    assert (found["title"], found["tokens_used"]) == ("mine", 0)


def test_a_turns_start_is_recency_and_nothing_else_is():
    """S6."""
    turns = [event("task_started", 10, turn_id="a"), event("turn_started", 20, turn_id="b"), event("agent_message", 30)]
    found = row(meta(), *turns)
    assert (found["recency_at_ms"], found["updated_at_ms"]) == (T0 + 20_000, T0 + 30_000)


def test_without_a_turn_recency_is_creation_until_words_were_said():
    assert row(meta(), record("world_state", {}, second=9))["recency_at_ms"] == T0
    assert row(meta(), item("hello", second=9))["recency_at_ms"] == T0 + 9_000


def test_times_are_of_records_and_one_that_cannot_be_read_is_passed_over():
    odd = b'{"timestamp":"yesterday","type":"compacted","payload":{}}\n'
    found = row(odd, meta(), record("compacted", {}, second=5), odd)
    assert (found["created_at_ms"], found["updated_at_ms"]) == (T0, T0 + 5_000)


def test_the_folder_decides_whether_a_thread_is_archived():
    archived = f"archived_sessions/rollout-2026-11-22T17-53-28-{ID}.jsonl"
    assert row(meta(), path=archived)["archived"] == 1


def test_a_reverted_thread_is_as_old_as_its_id():
    """The file that a revert starts is younger than its thread; a UUIDv7 begins with Unix milliseconds."""
    found = row(meta(timestamp="2026-11-23T08:00:00Z"), path=REVERTED)
    assert (found["id"], found["rollout_id"]) == (ID, OTHER)
    assert found["created_at_ms"] == 0x01A20464403F


def test_the_id_inside_counts_where_the_name_has_another():
    assert row(meta(id=OTHER))["id"] == OTHER
    assert row(meta(id=OTHER.upper()))["id"] == OTHER


def test_behind_lost_lines_a_foreign_id_is_a_parents_copy():
    assert row(b"garbage\n", meta(id=OTHER))["id"] == ID


def test_an_id_that_is_none_is_set_aside_and_the_name_counts():
    folded = fold(meta(id="not an id"), said("hello"))
    assert [(aside.offset, aside.kind) for aside in folded.set_aside] == [(0, "session_meta")]
    assert THREADS.decode(folded.mark.state).thread_id == ID


def test_an_odd_setting_hides_nothing():
    turn = context(model=5, effort=["x"], approval_policy="never")
    folded = fold(meta(cwd=5, git="odd"), turn, said("hello"))
    assert folded.set_aside == []
    found = row(meta(cwd=5, git="odd"), turn, said("hello"))
    assert (found["cwd"], found["model"], found["approval_mode"], found["title"]) == (None, None, "never", "hello")


def test_long_texts_are_cut_between_characters():
    """A pasted file does not become part of every list: 16 KiB of UTF-8 are kept."""
    first, preview, title = texts(said("é" * 20_000))
    assert first == preview == title == "é" * 8192
    assert texts(said("a" + "é" * 20_000))[0] == "a" + "é" * 8191
    assert texts(said("x" * 16_384))[0] == "x" * 16_384


def test_a_nul_in_a_text_is_kept():
    assert texts(said("a\0b"))[0] == "a\0b"


@pytest.mark.parametrize("depth", range(700, 1000, 7))
def test_a_policy_nested_nearly_too_deep_stops_nothing(depth):
    """What decodes at one height of the stack may not at another: such a record is used or set aside, never an error."""
    deep = b'{"a": ' * depth + b"1" + b"}" * depth
    line = b'{"timestamp":"%b","type":"turn_context","payload":{"model":"m","sandbox_policy":%b}}\n' % (
        at(0).encode(),
        deep,
    )
    found = row(meta(), line, said("hello"))
    assert found["title"] == "hello"
    assert found["model"] in ("m", None)


@pytest.mark.parametrize("lead", [b"", b"\n\n", b"\xef\xbb\xbf", b"garbage\n", bytes(50) + b"\n"])
def test_what_stands_before_the_first_line_changes_no_field(lead):
    lines = [meta(ordinal=0, subagent_history_start_ordinal=2), item("parent", ordinal=1), item("mine", ordinal=2)]
    assert row(lead, *lines) == row(*lines)


def test_a_total_that_is_missing_or_odd_leaves_the_one_before():
    """The newest total that is a number counts; one odd number does not wipe a good one."""
    before = event("token_count", info={"total_token_usage": {"total_tokens": 7}})
    for odd in ({}, {"total_tokens": None}, {"total_tokens": "9"}, {"total_tokens": True}):
        assert row(meta(), before, event("token_count", info={"total_token_usage": odd}))["tokens_used"] == 7


def test_a_fold_state_is_bounded_whatever_a_file_says():
    """DESIGN: at most 64 KiB. What is cut stays text; JSON that is cut says so."""
    long = "x" * 500_000
    policy = {"type": "managed", "entries": [long]}
    found = row(
        meta(originator=long, source={"custom": long}, cwd=""),
        context(cwd="/" + long, model=long, permission_profile=policy),
        said(long),
    )
    assert len(found["model"]) == len(found["originator"]) == 256
    assert len(found["cwd"]) == 4096
    assert found["sandbox_policy"] == found["source"] == '{"type":"too long to be kept"}'
    assert len(found["title"]) == 16 * 1024
