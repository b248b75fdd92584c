"""The items of a turn, field by field, and what an agent may do in the format's two languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.events import compose
from engine.events.permissions import profile_of, sandbox_of

SETTINGS: dict[str, Any] = {
    "cwd": "/srv/app",
    "model": None,
    "model_provider": None,
    "approval_policy": "never",
    "sandbox_policy": {"type": "danger-full-access"},
    "permission_profile": None,
    "reasoning_effort": None,
    "context_window": None,
}
ROOT = {"path": {"type": "special", "value": {"kind": "root"}}, "access": "read"}


def test_a_turn_context_has_what_readers_require() -> None:
    assert compose.turn_context("t", SETTINGS) == {
        "type": "turn_context",
        "payload": {
            "turn_id": "t",
            "cwd": "/srv/app",
            "approval_policy": "never",
            "sandbox_policy": {"type": "danger-full-access"},
            "permission_profile": {"type": "disabled"},
            "model": "unknown",
            "collaboration_mode": {
                "mode": "default",
                "settings": {"model": "unknown", "reasoning_effort": None, "developer_instructions": None},
            },
            "realtime_active": False,
            "summary": "auto",
        },
    }
    assert compose.turn_context("t", {**SETTINGS, "reasoning_effort": "high"})["payload"]["effort"] == "high"


def test_changed_settings_have_what_readers_require() -> None:
    """Without a reviewer, a profile and a collaboration mode the line is none to the Codex CLI."""
    settings = {**SETTINGS, "model": "m", "model_provider": "p", "reasoning_effort": "low"}
    assert compose.thread_settings("id", settings)["payload"] == {
        "type": "thread_settings_applied",
        "thread_id": "id",
        "thread_settings": {
            "model": "m",
            "model_provider_id": "p",
            "approval_policy": "never",
            "approvals_reviewer": "user",
            "permission_profile": {"type": "disabled"},
            "cwd": "/srv/app",
            "collaboration_mode": {
                "mode": "default",
                "settings": {"model": "m", "reasoning_effort": "low", "developer_instructions": None},
            },
            "reasoning_effort": "low",
        },
    }


def test_a_profile_that_was_read_is_written_as_it_was() -> None:
    profile = {"type": "external", "network": "enabled", "of": "tomorrow"}
    settings = {**SETTINGS, "permission_profile": profile}
    assert compose.turn_context("t", settings)["payload"]["permission_profile"] == profile


def test_an_image_without_words_has_no_empty_text() -> None:
    model, user = compose.user_message("paginated", "id", "t", "i", 1_000, "", ["data:,x"])
    assert model["payload"]["content"] == [{"type": "input_image", "image_url": "data:,x"}]
    assert user["payload"] == {
        "type": "item_completed",
        "thread_id": "id",
        "turn_id": "t",
        "item": {"type": "UserMessage", "id": "i", "content": [{"type": "image", "image_url": "data:,x"}]},
        "started_at_ms": 1_000,
        "completed_at_ms": 1_000,
    }


def test_the_arguments_of_a_call_are_text_for_the_model() -> None:
    assert compose.tool_call("f", {"a": ["ü"]}, "c")["payload"]["arguments"] == '{"a":["ü"]}'
    assert compose.tool_call("f", '{"a": 1}', "c")["payload"]["arguments"] == '{"a": 1}'


def test_a_turn_that_took_negative_time_took_none() -> None:
    """The wall clock was set back while it ran."""
    assert compose.task_complete("t", 5_000, 3_000, last_agent_message=None)["payload"]["duration_ms"] == 0
    assert compose.turn_aborted("t", 5_000, 6_500, reason="interrupted")["payload"]["duration_ms"] == 1_500


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "everything": ({"type": "danger-full-access"}, {"type": "disabled"}),
    "elsewhere": (
        {"type": "external-sandbox", "network_access": "enabled"},
        {"type": "external", "network": "enabled"},
    ),
    "read": (
        {"type": "read-only"},
        {"type": "managed", "file_system": {"type": "restricted", "entries": [ROOT]}, "network": "restricted"},
    ),
    "read, with the network": (
        {"type": "read-only", "network_access": True},
        {"type": "managed", "file_system": {"type": "restricted", "entries": [ROOT]}, "network": "enabled"},
    ),
    "write": (
        {
            "type": "workspace-write",
            "writable_roots": ["/data"],
            "network_access": False,
            "exclude_tmpdir_env_var": True,
            "exclude_slash_tmp": False,
        },
        {
            "type": "managed",
            "file_system": {
                "type": "restricted",
                "entries": [
                    ROOT,
                    {"path": {"type": "path", "path": "/srv/app"}, "access": "write"},
                    {"path": {"type": "path", "path": "/data"}, "access": "write"},
                    {"path": {"type": "special", "value": {"kind": "slash_tmp"}}, "access": "write"},
                    *[
                        {
                            "path": {"type": "path", "path": f"/srv/app/{name}"},
                            "access": "read",
                            "missing_path_behavior": "skip",
                        }
                        for name in (".git", ".agents", ".codex")
                    ],
                ],
            },
            "network": "restricted",
        },
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_policy_and_its_profile_stand_for_each_other(case: str) -> None:
    sandbox, profile = PAIRS[case]
    assert profile_of(sandbox, "/srv/app") == profile
    assert sandbox_of(profile, "/srv/app") == sandbox
    assert sandbox_of(sandbox, "/srv/app") == sandbox


def test_profiles_of_real_rollouts_become_the_policies_that_stand_beside_them(corpora: Path) -> None:
    """Some entries of a real profile are of later releases, so only what both say is compared."""
    seen = set()
    for path in sorted(corpora.rglob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            if line.startswith(b'{"timestamp"') and b'"type":"turn_context"' in line[:120]:
                try:
                    payload = json.loads(line)["payload"]
                except ValueError:
                    continue
                if "permission_profile" in payload:
                    sandbox = payload["sandbox_policy"]
                    assert sandbox_of(payload["permission_profile"], payload["cwd"]) == sandbox
                    seen.add(sandbox["type"])
    assert "danger-full-access" in seen
