"""The commands of goals: what they answer, to people and to programs, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.events.goals import MODES, STATUSES
from tests.writing import opened, say

NOBODY = "01a20458-0000-7000-8000-00000000dead"


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def home(tmp_path: Path) -> tuple[Path, str]:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/srv") as thread:
        say(thread, "hello")
    return tmp_path / "home", thread.id


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], home: tuple[Path, str]) -> Any:
    def go(*words: str, group: str = "goals") -> Said:
        capsys.readouterr()
        code = main(["--home", str(home[0]), group, *words])
        return Said(code, *capsys.readouterr())

    return go


def test_a_goal_from_its_setting_to_its_end(run: Any, home: tuple[Path, str]) -> None:
    id_ = home[1]
    assert run("show", id_, "--json").document == {"thread_id": id_, "goal": None}
    assert run("show", id_).out == "no goal\n"
    made = run("set", id_.upper(), " all [bold]tests ", "--budget", "100", "--json").document
    assert made["changed"] is True
    goal = made["goal"]
    assert (goal["objective"], goal["status"], goal["token_budget"]) == ("all [bold]tests", "active", 100)
    assert set(goal) == {
        "thread_id", "goal_id", "objective", "status", "token_budget", "tokens_used", "time_used_seconds",
        "created_at_ms", "updated_at_ms", "continuation_deferred",
    }  # fmt: skip
    shown = run("show", id_).out
    assert "all [bold]tests" in shown
    assert "0 of 100 (100 left)" in shown
    counted = run("usage", id_, "--add-tokens", "1200", "--add-seconds", "7", "--json").document
    assert (counted["counted"], counted["goal"]["status"]) == (True, "budget_limited")
    assert [(each["tokens"], each["seconds"], each["tokens_used"]) for each in counted["records"]] == [(1200, 7, 1200)]
    assert "+1,200 tokens" in run("usage", id_).out
    assert run("set", id_, "--budget", "5000", "--json").document["goal"]["status"] == "budget_limited"
    assert run("set", id_, "--no-budget", "--reactivate", "--json").document["goal"]["status"] == "active"
    again = run("set", id_, "other words", "--json").document["goal"]
    assert (again["goal_id"], again["tokens_used"], again["objective"]) == (goal["goal_id"], 1200, "other words")
    assert run("pause", id_, "--json").document["goal"]["status"] == "paused"
    refused = run("pause", id_, "--json")
    assert (refused.code, refused.document["changed"], refused.document["goal"]["status"]) == (0, False, "paused")
    assert "nothing was changed" in run("pause", id_).out
    assert run("set", id_, "--status", "active", "--goal", NOBODY, "--json").document["changed"] is False
    assert run("complete", id_, "--goal", goal["goal_id"], "--json").document["goal"]["status"] == "complete"
    new = run("set", id_, "the next", "--json").document["goal"]
    assert new["goal_id"] != goal["goal_id"]
    newer = run("set", id_, "another", "--replace", "--status", "paused", "--json").document["goal"]
    assert (newer["goal_id"] != new["goal_id"], newer["status"]) == (True, "paused")
    assert run("clear", id_, "--json").document == {"thread_id": id_, "removed": newer}
    assert run("clear", id_, "--json").document["removed"] is None
    assert run("clear", id_).out == "no such goal\n"


def test_all_goals_are_shown_and_picked_by_status(run: Any, home: tuple[Path, str]) -> None:
    assert run("show").out == "no goals\n"
    run("set", home[1], "all tests pass")
    assert [goal["thread_id"] for goal in run("show", "--json").document["goals"]] == [home[1]]
    assert run("show", "--status", "paused", "--json").document == {"goals": []}
    assert "all tests pass" in run("show", "--status", "active").out


def test_a_shown_thread_has_its_goal(run: Any, home: tuple[Path, str]) -> None:
    assert run("show", home[1], "--json", group="threads").document["goal"] is None
    made = run("set", home[1], "all tests pass", "--json").document["goal"]
    assert run("show", home[1], "--json", group="threads").document["goal"] == made
    assert "all tests pass (active, 0 tokens used)" in run("show", home[1], group="threads").out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["set", "ID"], "InvalidRequest"),
        (["set", "ID", "--replace", "--budget", "5"], "InvalidRequest"),
        (["set", "ID", "x", "--budget", "5", "--no-budget"], "InvalidRequest"),
        (["set", "ID", "x", "--budget", "0"], "InvalidRequest"),
        (["set", "ID", " "], "InvalidRequest"),
        (["set", "ID", "x" * 4_001], "InvalidRequest"),
        (["show", "ID", "--status", "active"], "InvalidRequest"),
        (["pause", "ID", "--goal", "7"], "InvalidRequest"),
        (["pause", "7"], "InvalidRequest"),
        (["complete", NOBODY], "ThreadNotFound"),
        (["clear", NOBODY], "ThreadNotFound"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    run: Any, home: tuple[Path, str], words: list[str], error: str
) -> None:
    before = {path: path.read_bytes() for path in home[0].rglob("*.jsonl")}
    refused = run(*[home[1] if word == "ID" else word for word in words], "--json")
    assert (refused.code, refused.document["error"]["class"]) == (2, error)
    assert refused.document["error"]["hint"]
    assert {path: path.read_bytes() for path in home[0].rglob("*.jsonl")} == before


def test_the_words_of_the_options_are_those_of_the_library() -> None:
    from engine.cli.goals import Mode, Status

    assert [each.value for each in Status] == list(STATUSES)
    assert [each.value for each in Mode] == list(MODES)
