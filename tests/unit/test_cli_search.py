"""`rolloutdb search`: its JSON words, its outline, its filters, and what it says where something is missing."""

from __future__ import annotations

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
    """A thread that goes on from another one; in both somebody speaks of a door."""
    parent = Lines(thread_id=PARENT, cwd="/srv/app").started("p1").user("p1", "p1-u", "where is\x1b[2J the green door")
    parent.agent("p1", "p1-a", "The door is " + "very " * 80 + "far.").complete("p1")
    child = Lines(ordinal=parent.ordinal, history_base=parent.base, cwd="/srv/other").turn("c1")
    child.started("c2").user("c2", "c2-u", "open the door")
    home = tmp_path / "home"
    written_home(home, {path_of(PARENT): parent.lines, path_of(): child.lines})
    return home


def test_its_json_has_hits_with_record_and_snippet_and_the_cursor(run: Any, home: Path) -> None:
    result = run("search", "door", "--sort", "oldest", "--limit", 2, "--json")
    assert (result.code, result.err) == (0, "")
    assert list(result.document) == ["hits", "next_cursor", "partial"]
    user, agent = result.document["hits"]
    assert (user["thread_id"], user["role"], user["turn_id"], user["ordinal"]) == (PARENT, "user", "p1", 2)
    assert (user["snippet"], user["matches"], user["is_cut"]) == ("where is\x1b[2J the green door", [[23, 27]], False)
    assert (agent["role"], agent["snippet_offset"], agent["is_cut"], agent["matches"]) == ("agent", 0, True, [[4, 8]])
    assert user["rollout_path"] == str(home / path_of(PARENT))
    (last,) = run("search", "door", "--sort", "oldest", "--cursor", result.document["next_cursor"], "--json").document[
        "hits"
    ]
    assert (last["thread_id"], last["snippet"]) == (THREAD, "open the door")


def test_its_outline_marks_what_was_found_and_obeys_no_terminal_code(run: Any, home: Path) -> None:
    result = run("search", "door", "--sort", "oldest", "--limit", 2)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].startswith(f"{PARENT}  user, 2026-01-05")
    assert lines[1] == "    where is\N{REPLACEMENT CHARACTER}[2J the green [door]"
    assert lines[3].startswith("    The [door] is very very")
    assert "\x1b" not in result.out
    assert " …" in result.out
    assert lines[-1].startswith("next page: --cursor ")
    assert run("search", "nowhere").out == "nothing found\n"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--role", "agent"], 1),
        (["--role", "agent", "--role", "user"], 3),
        (["--role", "name"], 0),
        (["--thread", THREAD], 3),
        (["--thread", PARENT], 2),
        (["--cwd", "/srv/other"], 1),
        (["--since", "2026-01-05"], 3),
        (["--since", "2026-01-05T09:00:03Z"], 2),
        (["--until", "2026-01-05T09:00:03+00:00"], 1),
        (["--since", "1m"], 0),
        (["--archived"], 0),
        (["--active"], 3),
    ],
)
def test_its_filters_are_those_of_the_library(run: Any, home: Path, options: list[str], found: int) -> None:
    assert len(run("search", "door", *options, "--json").document["hits"]) == found


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--", "-"], 2, "no word to search for"),
        (["door", "--since", "tomorrow"], 2, "--since 'tomorrow' is no time"),
        (["door", "--since", "999999d"], 0, ""),
        (["door", "--cursor", "x"], 2, "is not a cursor"),
        (["door", "--thread", NOBODY], 2, "There is no thread"),
        (["door", "--role", "system"], 2, "system"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_line(
    run: Any, home: Path, arguments: list[str], code: int, said: str
) -> None:
    result = run("search", *arguments)
    assert result.code == code
    assert said in result.err


def test_a_rebuild_of_the_index_alone_and_a_name_that_there_is_not(run: Any, home: Path) -> None:
    assert run("rebuild", "--projection", "search").code == 0
    assert run("rebuild", "--projection", "turns", "--json").document["files"] == 2
    assert run("rebuild", "--projection", "search", "--thread", THREAD, "--json").document["files"] == 1
    result = run("rebuild", "--projection", "words")
    assert result.code == 2
    assert "threads, facts, turns, search" in result.err
    assert run("rebuild", "--projection", "search", "--thread", NOBODY).code == 2
