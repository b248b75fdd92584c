"""The demo shows the main job, finds each damage that it does, and leaves nothing behind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from engine.cli import commands, main


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("COLUMNS", raising=False)
    return folder


def play(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """The document of all steps."""
    assert main(["demo", "--json", *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document: dict[str, Any] = json.loads(out)
    return document


def test_every_damage_is_found_and_a_rebuild_leaves_only_those_of_the_files(
    capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    document = play(capsys)
    assert list(document) == ["home", "kept", "steps"]
    steps = document["steps"]
    assert all(list(step) == ["step", "command", "exit_code", "answer"] for step in steps)
    home = document["home"]
    done = [(step["command"] or "").removeprefix(f"rolloutdb --home {home} ") for step in steps]
    assert done == [
        "",
        "backfill",
        "threads list --limit 6",
        "audit",
        "",
        "audit",
        "rebuild",
        "audit",
        "threads list --limit 6",
        "memories run",
    ]
    assert [step["exit_code"] for step in steps] == [None, 0, 0, 0, None, 1, 0, 1, 0, 0]
    answers = [step["answer"] for step in steps]
    assert (answers[1]["status"], answers[1]["threads"], answers[1]["failed"]) == ("complete", 24, [])
    assert answers[3]["findings"] == []
    assert len(answers[4]) == 5
    assert sorted(finding["class"] for finding in answers[5]["findings"]) == [
        "damaged_span",
        "differing_field",
        "duplicate_id",
        "missing_row",
        "rewritten_history",
        "stale_watermark",
        "torn_tail",
    ]
    assert sorted(finding["class"] for finding in answers[7]["findings"]) == [
        "damaged_span",
        "duplicate_id",
        "torn_tail",
    ]
    assert (len(answers[2]["threads"]), answers[2]["total"], answers[8]["total"]) == (6, 24, 24)
    learned = answers[9]
    assert learned["extracted"]["succeeded"] == learned["consolidated"]["selected"] > 0
    assert learned["consolidated"]["status"] == "succeeded"
    assert list(temporary.iterdir()) == []


def test_each_damage_is_found_where_it_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines that tell of the damages begin with the thread's id: torn, spoilt, copied, edited, removed."""
    steps = play(capsys)["steps"]
    torn, spoilt, copied, edited, removed = [line.split()[0] for line in steps[4]["answer"]]
    found = {finding["class"]: finding for finding in steps[5]["answer"]["findings"]}
    assert {class_: finding["thread_id"] for class_, finding in found.items()} == {
        "torn_tail": torn,
        "stale_watermark": torn,
        "rewritten_history": spoilt,
        "damaged_span": spoilt,
        "duplicate_id": copied,
        "differing_field": edited,
        "missing_row": removed,
    }
    assert (found["differing_field"]["field"], found["differing_field"]["row_value"]) == ("title", "Somebody was here")


def test_people_are_told_each_step_and_the_line_to_type(capsys: pytest.CaptureFixture[str], temporary: Path) -> None:
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert [line.split(". ")[0] for line in lines if line.split(". ")[0].isdigit()] == [*"123456789", "10"]
    typed = [line.split(" ", 4)[-1] for line in lines if line.startswith("$ rolloutdb --home ")]
    assert typed == [
        "backfill",
        "threads list --limit 6",
        "audit",
        "audit",
        "rebuild",
        "audit",
        "threads list --limit 6",
        "memories run",
    ]
    assert sum("Rows and files agree" in line for line in lines) == 1
    assert "The folder is removed." in out
    assert list(temporary.iterdir()) == []


def test_the_folder_is_kept_where_asked_for_and_is_a_home_to_go_on_with(
    capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    document = play(capsys, "--keep")
    assert document["kept"] is True
    assert [str(path) for path in temporary.iterdir()] == [document["home"]]
    assert main(["--home", document["home"], "threads", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 24


def test_the_folder_is_removed_when_the_demo_is_stopped(
    capsys: pytest.CaptureFixture[str], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **named: object) -> None:
        assert list(temporary.iterdir()) != []
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "audit", stop)
    assert main(["demo"]) == 130
    assert "Stopped before the end." in capsys.readouterr().err
    assert list(temporary.iterdir()) == []
