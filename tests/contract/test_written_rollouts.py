"""What is written here is what the format's readers accept: shown by readers that share no code with the writer.

The first is the one that was built from `docs/FORMAT.md` alone. The second is a table of the keys that readers of the
format require of each kind, with their types (codex_rollout.md 2 and Appendix B).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.events.skim import canonical_envelope
from engine.options import Options
from tests.docs.test_format_document import compare
from tests.writing import kind, opened, records, rollouts, say

TEXT, NUMBER, OBJECT, LIST, MAYBE_TEXT, MAYBE_NUMBER = str, int, dict, list, (str, type(None)), (int, type(None))

REQUIRED: dict[str, dict[str, Any]] = {
    "session_meta": {
        "id": TEXT, "session_id": TEXT, "timestamp": TEXT, "cwd": TEXT, "originator": TEXT, "cli_version": TEXT,
        "source": (str, dict), "model_provider": MAYBE_TEXT, "base_instructions": (dict, type(None)),
        "history_mode": TEXT,
    },
    "turn_context": {
        "turn_id": TEXT, "cwd": TEXT, "approval_policy": (str, dict), "sandbox_policy": OBJECT, "model": TEXT,
        "permission_profile": OBJECT, "collaboration_mode": OBJECT, "realtime_active": bool, "summary": TEXT,
    },
    "event_msg.task_started": {"turn_id": TEXT, "model_context_window": MAYBE_NUMBER, "collaboration_mode_kind": TEXT},
    "event_msg.task_complete": {
        "turn_id": TEXT, "last_agent_message": MAYBE_TEXT, "completed_at": NUMBER, "duration_ms": NUMBER
    },
    "event_msg.turn_aborted": {"turn_id": TEXT, "reason": TEXT},
    "event_msg.token_count": {"info": (dict, type(None)), "rate_limits": (dict, type(None))},
    "event_msg.user_message": {"message": TEXT, "images": LIST, "local_images": LIST, "text_elements": LIST},
    "event_msg.agent_message": {"message": TEXT, "phase": MAYBE_TEXT, "memory_citation": (dict, type(None))},
    "event_msg.agent_reasoning": {"text": TEXT},
    "event_msg.thread_settings_applied": {"thread_settings": OBJECT},
    "event_msg.item_completed.UserMessage": {"thread_id": TEXT, "turn_id": TEXT, "item": OBJECT, "completed_at_ms": NUMBER},
    "event_msg.item_completed.AgentMessage": {"thread_id": TEXT, "turn_id": TEXT, "item": OBJECT},
    "event_msg.item_completed.Reasoning": {"thread_id": TEXT, "turn_id": TEXT, "item": OBJECT},
    "event_msg.item_completed.DynamicToolCall": {"thread_id": TEXT, "turn_id": TEXT, "item": OBJECT},
    "response_item.message": {"role": TEXT, "content": LIST},
    "response_item.reasoning": {"summary": LIST, "content": (list, type(None)), "encrypted_content": MAYBE_TEXT},
    "response_item.function_call": {"name": TEXT, "arguments": TEXT, "call_id": TEXT},
    "response_item.function_call_output": {"call_id": TEXT, "output": (str, list)},
}  # fmt: skip

ITEMS: dict[str, dict[str, Any]] = {
    "UserMessage": {"id": TEXT, "content": LIST},
    "AgentMessage": {"id": TEXT, "content": LIST, "phase": MAYBE_TEXT},
    "Reasoning": {"id": TEXT, "summary_text": LIST, "raw_content": LIST},
    "DynamicToolCall": {"id": TEXT, "tool": TEXT, "status": TEXT, "success": bool},
}
SETTINGS = {
    "model": TEXT, "model_provider_id": TEXT, "approval_policy": (str, dict), "approvals_reviewer": TEXT,
    "permission_profile": OBJECT, "cwd": TEXT, "collaboration_mode": OBJECT,
}  # fmt: skip
USAGE = {
    "input_tokens": NUMBER, "cached_input_tokens": NUMBER, "output_tokens": NUMBER, "reasoning_output_tokens": NUMBER,
    "total_tokens": NUMBER,
}  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def write_everything(home: Path, mode: str) -> None:
    """Every word of the API once, in threads that are resumed, forked, aborted, archived and compressed by others."""
    with opened(home) as e:
        with e.threads.create(
            cwd="/srv/app", model="m", model_provider="p", history_mode=mode, base_instructions="be kind",
            source={"custom": "atlas"}, memory_mode="disabled", thread_source=None,
        ) as thread:  # fmt: skip
            with thread.turn() as turn:
                turn.user_message("hello \u2028 \x00 é", images=["https://example.com/a.png"])
                turn.reasoning("thinking")
                turn.tool_call("shell", {"command": ["ls"]}, call_id="c1")
                turn.tool_output("c1", "README.md", success=False)
                turn.agent_message("wait", phase="commentary")
                turn.agent_message("done")
                turn.token_usage(input_tokens=10, output_tokens=2)
            item = {
                "type": "response_item",
                "payload": {"type": "web_search_call"},
                "metadata": {"client_authored": True},
            }
            thread.append([item, item], key="step-7")
            thread.settings(reasoning_effort="high", sandbox_policy={"type": "workspace-write", "network_access": True})
        with e.threads.resume(thread.id) as thread:
            with pytest.raises(KeyError), thread.turn() as turn:  # noqa: PT012 - a turn is a block
                turn.user_message("", images=["data:,x"])
                turn.tool_call("shell", "{}", call_id="c2")
                raise KeyError
            with e.threads.fork(thread.id, before_turn=turn.id) as child:
                say(child, "mine")
            with e.threads.fork(child.id) as grandchild:
                say(grandchild, "mine too")
        e.threads.archive(thread.id)


def requires(found: dict[str, Any], required: dict[str, Any]) -> None:
    for key, type_ in required.items():
        assert key in found
        assert isinstance(found[key], type_), (key, found[key])


@pytest.mark.parametrize("mode", ["paginated", "legacy"])
def test_every_line_has_the_keys_that_readers_require_in_the_order_they_expect(tmp_path: Path, mode: str) -> None:
    write_everything(tmp_path / "home", mode)
    seen = set()
    for path in rollouts(tmp_path / "home"):
        data = (tmp_path / "home" / path).read_bytes()
        assert data.endswith(b"\n")
        for number, line in enumerate(data.splitlines()):
            assert canonical_envelope(line, 0, len(line)) is not None
            record = json.loads(line)
            keys = (
                ["timestamp", "ordinal", "type", "payload"] if mode == "paginated" else ["timestamp", "type", "payload"]
            )
            assert list(record)[: len(keys)] == keys
            assert set(record) <= {*keys, "metadata", "key"}
            assert TIME.fullmatch(record["timestamp"])
            assert (kind(record) == "session_meta") == (number == 0) or mode == "legacy"
            if kind(record) in REQUIRED:
                requires(record["payload"], REQUIRED[kind(record)])
            else:
                assert kind(record) == "response_item.web_search_call"
            seen.add(kind(record))
            if "item" in record["payload"]:
                requires(record["payload"]["item"], ITEMS[record["payload"]["item"]["type"]])
            if "thread_settings" in record["payload"]:
                requires(record["payload"]["thread_settings"], SETTINGS)
            if record["payload"].get("info"):
                requires(record["payload"]["info"]["total_token_usage"], USAGE)
                requires(record["payload"]["info"]["last_token_usage"], USAGE)
    only_paginated = {each for each in REQUIRED if "item_completed" in each}
    only_legacy = {"event_msg.user_message", "event_msg.agent_message", "event_msg.agent_reasoning"}
    wanted = set(REQUIRED) - (only_legacy if mode == "paginated" else only_paginated)
    assert seen == wanted | {"response_item.web_search_call"}


@pytest.mark.parametrize("mode", ["paginated", "legacy"])
def test_the_reader_that_was_built_from_the_page_reads_it_as_the_engine_does(tmp_path: Path, mode: str) -> None:
    """Rows, records, damage (none): compared field by field."""
    write_everything(tmp_path / "home", mode)
    found = compare(tmp_path / "home", tmp_path / "state")
    assert len(found) == 3
    assert [each.damage for each in found] == [[]] * 3
    assert sum(each.records for each in found) == sum(
        len(records(tmp_path / "home" / path)) for path in rollouts(tmp_path / "home")
    )


def test_ordinals_run_without_a_gap_over_a_fork_and_what_it_goes_on_from(tmp_path: Path) -> None:
    write_everything(tmp_path / "home", "paginated")
    with engine.open(str(tmp_path / "home"), options=Options(scan_interval_ms=0)) as e:
        for row in e.threads.list(limit=0).threads:
            ordinals = [each.ordinal for each in e.threads.read(row.id)]
            assert ordinals == list(range(len(ordinals)))


def test_a_thread_of_a_real_home_that_is_adopted_is_still_one_of_its_program(corpora: Path, tmp_path: Path) -> None:
    """Copied first. Its lines stay byte for byte; ours follow with its ordinals, or none, and its own profile."""
    home = tmp_path / "home"
    shutil.copytree(corpora / "codex-0.169" / "home", home, ignore=shutil.ignore_patterns("*.sqlite*"), symlinks=True)
    with engine.open(str(home), state_dir=str(tmp_path / "state")) as e:
        rows = [row for row in e.threads.list(limit=0).threads if not row.archived]
        adopted = 0
        for row in rows[:8]:
            path = Path(row.rollout_path)
            if not path.exists():
                continue
            before = path.read_bytes()
            with e.threads.resume(row.id, adopt=True) as thread:
                say(thread, "ours")
            after = path.read_bytes()
            assert after.startswith(before)
            added = [json.loads(line) for line in after[len(before) :].splitlines()]
            assert [each["type"] for each in added][1] == "turn_context"
            profile = added[1]["payload"]["permission_profile"]
            assert json.loads(row.sandbox_policy) in (profile, added[1]["payload"]["sandbox_policy"])
            last = json.loads(before.splitlines()[-1]).get("ordinal")
            assert [each.get("ordinal") for each in added] == [
                None if last is None else last + 1 + at for at in range(len(added))
            ]
            adopted += 1
        assert adopted == 8
        assert [finding for finding in e.audit().findings if finding.severity == "error"] == []
