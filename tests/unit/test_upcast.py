"""Old shapes to today's, one function at a time."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from engine.events.payloads import UserItemCompleted, UserMessage
from engine.events.upcast import (
    approval_of,
    compact_json,
    content_of_item,
    content_of_message,
    policy_of,
    preview_text,
    source_of,
    spawn_of,
    word_or_json,
)

ABSENT = Raw()


@pytest.mark.parametrize(
    ("raw", "source"),
    [
        (b'"cli"', "cli"),
        (b'"from_the_future"', "from_the_future"),
        (b'{"custom":"atlas"}', '{"custom":"atlas"}'),
        (b'{ "subagent" : "review" }', '{"subagent":"review"}'),
        (b'{"subagent": {"other": "a b"}}', '{"subagent":{"other":"a b"}}'),
        (b'{"internal":"guardian"}', '{"internal":"guardian"}'),
        (b"null", "vscode"),
        (b"", "vscode"),
        (b'""', "vscode"),
        (b"5", "5"),
    ],
)
def test_a_source_is_a_word_or_compact_json_and_vscode_where_none_is_told(raw, source):
    assert source_of(Raw(raw)) == source


def test_what_a_spawn_says_of_its_parent_is_taken_from_the_source():
    raw = b"""{"subagent":{"thread_spawn":{"parent_thread_id":"p","depth":1,"agent_path":"/root/a",
        "agent_nickname":"Kepler","agent_type":"explorer"}}}"""
    spawn = spawn_of(Raw(raw))
    assert (spawn.parent_thread_id, spawn.agent_path, spawn.agent_nickname) == ("p", "/root/a", "Kepler")
    assert (spawn.agent_role, spawn.agent_type) == (None, "explorer")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'"cli"',
        b'"thread_spawn"',
        b'{"subagent":"thread_spawn"}',
        b'{"subagent":{"thread_spawn":5}}',
        b'{"subagent":{"thread_spawn":null}}',
        b'{"subagent":{"thread_spawn":{"parent_thread_id":5}}}',
        b'{"custom":{"thread_spawn":{"parent_thread_id":"p"}}}',
        b'["thread_spawn"]',
        b'{"subagent":{"thread_spawn":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}}",
    ],
)
def test_any_other_source_says_nothing_of_a_parent(raw):
    assert spawn_of(Raw(raw)).parent_thread_id is None


def test_the_permission_profile_counts_and_the_old_sandbox_policy_where_there_is_none():
    """MD-09; files from before profiles have the policy alone (D16)."""
    profile, sandbox = Raw(b'{"type": "disabled"}'), Raw(b'{"type": "danger-full-access"}')
    assert policy_of(profile, sandbox) == '{"type":"disabled"}'
    assert policy_of(ABSENT, sandbox) == '{"type":"danger-full-access"}'
    assert policy_of(Raw(b"null"), sandbox) == '{"type":"danger-full-access"}'
    assert policy_of(ABSENT, ABSENT) is None


@pytest.mark.parametrize(
    ("raw", "approval"),
    [
        (b'"never"', "never"),
        (b'"on-failure"', "on-request"),
        (b'"on-request"', "on-request"),
        (b'{"granular": {"rules": true}}', '{"granular":{"rules":true}}'),
        (b"null", None),
        (b"", None),
    ],
)
def test_an_approval_policy_is_a_word_or_compact_json_with_old_words_replaced(raw, approval):
    assert approval_of(Raw(raw)) == approval


def test_numbers_keep_the_digits_they_were_written_with():
    """D1: a score or a rate that went through a float would come back as another number."""
    assert compact_json('{"a": 1.10, "b" : 1e400,\n"c":0.30000000000000004, "d": 12345678901234567890123}') == (
        '{"a":1.10,"b":1e400,"c":0.30000000000000004,"d":12345678901234567890123}'
    )
    assert compact_json('"a  b"') == '"a  b"'


def test_json_that_is_nested_too_deep_to_be_taken_apart_stays_as_it_is():
    """A policy may be nested as deep as the decoder's stack holds, and is compacted further down the stack."""
    deep = "[ " + "[" * 100_000 + "]" * 100_000 + "]"
    assert compact_json(deep) == deep


def test_a_word_is_its_text_with_escapes_undone():
    assert word_or_json(Raw(b'"a\\u0062\\n"')) == "ab\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  hello \n", "hello"),
        ("", ""),
        (" \n", ""),
        ("## My request for Codex:\nfix it", "fix it"),
        ("context\n## My request for Codex: fix it \n", "fix it"),
        ("## My request for Codex: a ## My request for Codex: b", "a ## My request for Codex: b"),
        ("context ## My request for Codex: \n", "context ## My request for Codex:"),
        ("## my request for codex: x", "## my request for codex: x"),
    ],
)
def test_a_preview_is_the_request_behind_the_mark(text, shown):
    assert preview_text(text) == shown


@pytest.mark.parametrize(
    ("payload", "content"),
    [
        ('{"message":"hi"}', ("hi", None)),
        ('{"message":"hi","images":["data:"]}', ("hi", "[Image]")),
        ('{"message":"","local_images":["/a.png"]}', ("", "[Image]")),
        ('{"message":"","audio":["data:"]}', ("", "[Audio]")),
        ('{"message":"","local_audio":["/a.wav"],"images":[]}', ("", "[Audio]")),
        ('{"message":"","local_audio":["/a.wav"],"images":["data:"]}', ("", "[Image]")),
        ('{"message":"","images":null,"audio":null}', ("", None)),
        ("{}", ("", None)),
    ],
)
def test_a_user_message_is_its_text_and_what_stands_for_its_media(payload, content):
    """An image before an audio, remote or local (codex_state.md 3.3)."""
    assert content_of_message(msgspec.json.decode(payload, type=UserMessage)) == content


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ('[{"type":"text","text":"a"},{"type":"text","text":"b"}]', ("ab", None)),
        ('[{"type":"image","image_url":"data:"}]', ("", "[Image]")),
        ('[{"type":"localImage","path":"/a"},{"type":"text","text":"a"}]', ("a", "[Image]")),
        ('[{"type":"local_image","path":"/a"}]', ("", "[Image]")),
        ('[{"type":"audio"}]', ("", "[Audio]")),
        ('[{"type":"localAudio"},{"type":"image"}]', ("", "[Image]")),
        ('[{"type":"mention","text":"not words"}]', ("", None)),
        ("[]", ("", None)),
    ],
)
def test_a_user_item_is_the_same_from_its_parts(parts, content):
    item = msgspec.json.decode(f'{{"item":{{"content":{parts}}}}}', type=UserItemCompleted)
    assert content_of_item(item) == content
