"""`rolloutdb turns`: its JSON words, its outline, its pages, and what it says where something is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from tests.conversing import PARENT, THREAD, Lines, path_of
from tests.indexing import written_home
from tests.unit.test_cli import Result

NOBODY = "01990000-0000-7000-8000-0000000000ff"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run a command on the home, in this process."""

    def run(*arguments: object) -> Result:
        code = main(["--home", str(tmp_path / "home"), *map(str, arguments)])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A thread of three turns that goes on from another one of two."""
    parent = Lines(thread_id=PARENT).turn("p1").turn("p2")
    child = Lines(ordinal=parent.ordinal, history_base=parent.base).turn("c1")
    child.started("c2").user("c2", "c2-u", "list\x1b[2J files").item("c2", "Plan", "c2-p", text="look first")
    child.complete("c2", error={"message": "no such folder"}).started("c3").user("c3", "c3-u", "again")
    home = tmp_path / "home"
    written_home(home, {path_of(PARENT): parent.lines, path_of(): child.lines})
    return home


def test_its_json_has_turns_with_id_status_and_items_and_the_cursors(run: Any, home: Path) -> None:
    result = run("turns", THREAD, "--json")
    assert (result.code, result.err) == (0, "")
    assert list(result.document) == ["turns", "next_cursor", "backwards_cursor", "partial"]
    turns = result.document["turns"]
    assert [(turn["id"], turn["status"]) for turn in turns] == [
        ("c3", "interrupted"),
        ("c2", "failed"),
        ("c1", "completed"),
        ("p2", "completed"),
        ("p1", "completed"),
    ]
    assert [item["type"] for item in turns[2]["items"]] == ["userMessage", "agentMessage"]
    assert turns[1]["error"] == {"message": "no such folder", "codex_error_info": None}
    assert (result.document["next_cursor"], result.document["partial"]) == (None, None)


def test_its_pages_go_on_by_the_cursor_and_its_views_are_those_of_the_library(run: Any, home: Path) -> None:
    seen, cursor = [], []
    while True:
        page = run("turns", THREAD, "--asc", "--limit", 2, "--items", "none", "--json", *cursor).document
        seen += page["turns"]
        if page["next_cursor"] is None:
            break
        cursor = ["--cursor", page["next_cursor"]]
    assert [turn["id"] for turn in seen] == ["p1", "p2", "c1", "c2", "c3"]
    assert {len(turn["items"]) for turn in seen} == {0}
    full = run("turns", THREAD, "--items", "full", "--limit", 2, "--json").document["turns"]
    assert [item["type"] for item in full[1]["items"]] == ["userMessage", "plan"]


def test_people_get_a_line_a_turn_and_a_line_an_item(run: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    result = run("turns", THREAD, "--limit", 2, "--items", "full")
    lines = result.out.splitlines()
    assert lines[0].startswith("interrupted c3")
    assert lines[1].split() == ["user", "again"]
    assert lines[2].startswith("failed      c2")
    assert lines[3].split() == ["error", "no", "such", "folder"]
    assert "\x1b" not in result.out
    assert lines[5].split() == ["plan", "look", "first"]
    assert lines[-1].startswith("next page: --cursor ")
    assert run("turns", THREAD, "--cursor", lines[-1].split()[-1]).out.splitlines()[0].startswith("completed   c1")


def test_a_thread_without_turns_says_so(run: Any, tmp_path: Path) -> None:
    written_home(tmp_path / "home", {path_of(): Lines().lines})
    assert run("turns", THREAD).out == "no turns\n"


def test_what_is_missing_is_told_beside_what_is_there(run: Any, home: Path) -> None:
    os.unlink(home / path_of(PARENT))
    result = run("turns", THREAD, "--json")
    assert [turn["id"] for turn in result.document["turns"]] == ["c3", "c2", "c1"]
    assert result.document["partial"]["unread"] == 1
    assert "`rolloutdb audit` names it" in result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "not a thread id"),
        ([NOBODY], "There is no thread"),
        ([THREAD, "--cursor", "x"], "not a cursor"),
        (["\udcff"], "not UTF-8"),
        ([THREAD, "--items", "some"], "some"),
        ([], "THREAD"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_and_the_code_of_a_usage_error(
    run: Any, home: Path, arguments: list[str], said: str
) -> None:
    result = run("turns", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
