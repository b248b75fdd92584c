"""The commands that change threads: what they answer, to people and to programs, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.testing import HomePlan, MadeThread, make_home
from tests.writing import opened, rollouts, said, say


@pytest.fixture
def home(tmp_path: Path) -> tuple[Path, MadeThread]:
    folder = tmp_path / "home"
    made = make_home(folder, HomePlan(threads=5, archived=0.0, paginated=1.0))
    return folder, made[0]


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def run(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> Said:
    capsys.readouterr()
    code = main(["--home", str(home), "threads", *words])
    return Said(code, *capsys.readouterr())


def test_a_name_is_given_shown_and_taken_away(
    capsys: pytest.CaptureFixture[str], home: tuple[Path, MadeThread]
) -> None:
    folder, made = home
    assert run(capsys, folder, "rename", made.id, " the [bold]fix ").out == f"{made.id} is named 'the [bold]fix'.\n"
    assert run(capsys, folder, "show", made.id, "--json").document["name"] == "the [bold]fix"
    cleared = run(capsys, folder, "rename", made.id, "--clear", "--json")
    assert (cleared.code, cleared.document["id"], cleared.document["name"]) == (0, made.id, None)


@pytest.mark.parametrize("words", [[], ["a name", "--clear"], [" "]])
def test_a_rename_wants_one_of_a_name_and_clear(
    capsys: pytest.CaptureFixture[str], home: tuple[Path, MadeThread], words: list[str]
) -> None:
    refused = run(capsys, home[0], "rename", home[1].id, *words, "--json")
    assert (refused.code, refused.document["error"]["class"]) == (2, "InvalidRequest")
    assert "--clear" in refused.document["error"]["hint"]
    assert not (home[0] / "engine" / "journal").exists()


def test_a_thread_is_archived_and_brought_back(
    capsys: pytest.CaptureFixture[str], home: tuple[Path, MadeThread]
) -> None:
    folder, made = home
    assert run(capsys, folder, "archive", made.id).out == f"{made.id} is archived.\n"
    assert f"archived_sessions/{made.path.rpartition('/')[2]}" in rollouts(folder)
    back = run(capsys, folder, "unarchive", made.id, "--json").document
    assert (back["archived"], back["archived_at_ms"], back["rollout_path"]) == (False, None, f"{folder}/{made.path}")


def test_a_fork_is_a_new_thread_that_is_told_by_its_id(
    capsys: pytest.CaptureFixture[str], home: tuple[Path, MadeThread]
) -> None:
    folder, made = home
    child = run(capsys, folder, "fork", made.id, "--json").document
    assert child["forked_from_id"] == made.id
    told = run(capsys, folder, "fork", made.id.upper()).out
    assert told.endswith(f" goes on from {made.id}.\n")
    with opened(folder) as e:
        assert said(e.threads.read(child["id"])) == said(e.threads.read(made.id))
        assert e.threads.fetch(told.split()[0]).thread.forked_from_id == made.id


def test_a_fork_begins_where_it_was_told_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        turns = say(thread, "a", "b", "c")
    through = run(capsys, home, "fork", thread.id, "--through", turns[1], "--json").document
    before = run(capsys, home, "fork", thread.id, "--before", turns[1], "--json").document
    with opened(home) as e:
        assert said(e.threads.read(through["id"])) == ["a", "b"]
        assert said(e.threads.read(before["id"])) == ["a"]


@pytest.mark.parametrize("words", [["rename", "{}", "x"], ["archive", "{}"], ["unarchive", "{}"], ["fork", "{}"]])
def test_an_unknown_thread_is_a_usage_error_with_a_hint(
    capsys: pytest.CaptureFixture[str], home: tuple[Path, MadeThread], words: list[str]
) -> None:
    unknown = [word.format("019b8d63-3aa4-79ca-b017-baf18cb08e1b") for word in words]
    refused = run(capsys, home[0], *unknown, "--json")
    assert (refused.code, refused.document["error"]["class"]) == (2, "ThreadNotFound")
    assert refused.document["error"]["hint"]


def test_a_thread_that_is_in_use_is_named_forked_and_not_moved(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        say(thread, "a")
        refused = run(capsys, home, "archive", thread.id)
        assert (refused.code, refused.out) == (3, "")
        assert refused.err.startswith(f"error: The thread {thread.id} is in use by process ")
        assert run(capsys, home, "rename", thread.id, "x").code == 0
        assert run(capsys, home, "fork", thread.id).code == 0
