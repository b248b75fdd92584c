"""`audit --codex` on the command line: its words, its exit codes, and that the home is left as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import engine
from engine.cli import main
from tests.codex_home import CodexHome, make_codex_home, seen

NOBODY = "01990000-0000-7000-8000-0000000000ff"
FINDING = ["class", "severity", "thread_id", "path", "offset", "field", "file_value", "row_value", "message", "mend"]


@pytest.fixture
def home(tmp_path: Path) -> CodexHome:
    """One that agrees, with no thread that a default list leaves out."""
    made = make_codex_home(tmp_path / "home", seed=3, threads=8)
    assert {str(each.row["source"])[:1] for each in made.made} <= {"c", "v", "{"}
    return made


def run(capsys: pytest.CaptureFixture[str], home: CodexHome, *words: str) -> tuple[int, str, str]:
    before = seen(home.path)
    code = main(["--home", str(home.path), *words])
    assert seen(home.path) == before
    out, err = capsys.readouterr()
    return code, out, err


def test_databases_that_agree_end_with_0(capsys: pytest.CaptureFixture[str], home: CodexHome) -> None:
    code, out, _ = run(capsys, home, "audit", "--codex")
    assert code == 0
    assert "state_5.sqlite, thread_history_1.sqlite, goals_1.sqlite" in out
    assert "The Codex CLI's databases and the rollouts agree: 8 threads" in out
    code, out, _ = run(capsys, home, "audit", "--codex", "--deep", "--json")
    document = json.loads(out)
    assert (code, document["findings"], document["checked"]["threads"]) == (0, [], 8)
    assert document["databases"] == ["state_5.sqlite", "thread_history_1.sqlite", "goals_1.sqlite"]


def test_findings_end_with_1_and_have_the_words_of_every_audit(
    capsys: pytest.CaptureFixture[str], home: CodexHome
) -> None:
    thread = home.one(mode="paginated")
    home.run("DELETE FROM threads WHERE id = ?", thread.id)
    code, out, _ = run(capsys, home, "audit", "--codex", "--json")
    (found,) = json.loads(out)["findings"]
    assert code == 1
    assert list(found) == FINDING
    assert (found["class"], found["severity"], found["thread_id"]) == ("codex_missing_row", "error", thread.id)
    code, out, _ = run(capsys, home, "audit", "--codex")
    assert code == 1
    assert "codex_missing_row" in out
    assert thread.path in out


def test_findings_that_say_the_same_are_shown_as_one(capsys: pytest.CaptureFixture[str], home: CodexHome) -> None:
    home.run("UPDATE threads SET model_provider = 'azure' WHERE source = 'cli'")
    (home.path / "config.toml").write_text('model_provider = "openai"')
    code, out, _ = run(capsys, home, "audit", "--codex")
    count = sum(each.row["source"] == "cli" for each in home.made)
    assert code == 1
    assert count > 2
    assert out.count("codex_hidden_by_provider") == 1
    assert f"and {count - 1} more" in out


def test_without_a_database_it_says_so_and_ends_with_0(capsys: pytest.CaptureFixture[str], home: CodexHome) -> None:
    for path in home.path.glob("*.sqlite"):
        path.unlink()
    code, out, _ = run(capsys, home, "audit", "--codex")
    assert (code, out) == (0, f"There is no database of the Codex CLI in {home.path}: nothing to compare.\n")
    code, out, _ = run(capsys, home, "audit", "--codex", "--json")
    assert code == 0
    assert json.loads(out) == {
        "findings": [],
        "checked": {"threads": 0, "records": 0, "bytes": 0},
        "unknown_kinds": None,
        "databases": [],
    }


def test_why_tells_in_words_and_as_a_document(capsys: pytest.CaptureFixture[str], home: CodexHome) -> None:
    thread = home.one(mode="paginated", archived=False)
    code, out, _ = run(capsys, home, "audit", "--codex", "--why", thread.id)
    assert code == 0
    assert "It is in that program's list" in out
    home.set(thread, archived=1, source="exec")
    code, out, _ = run(capsys, home, "audit", "--codex", "--why", thread.id)
    assert code == 1
    assert "default list: not shown" in out
    assert "its source is exec" in out
    assert thread.path in out
    home.run("UPDATE threads SET model = 'another' WHERE id = ?", thread.id)
    assert "besides: model is 'another' in its row" in run(capsys, home, "audit", "--codex", "--why", thread.id)[1]
    code, out, _ = run(capsys, home, "--json", "audit", "--codex", "--why", thread.id)
    document = json.loads(out)
    assert code == 1
    assert list(document) == [
        "thread_id",
        "listed_by_database",
        "listed_by_scan",
        "summary",
        "reasons",
        "rollouts",
        "row",
        "databases",
        "findings",
    ]
    assert [each["reason"] for each in document["reasons"]] == ["source", "archived"]
    assert document["row"]["source"] == "exec"


@pytest.mark.parametrize(
    "words", [["audit", "--why", NOBODY], ["audit", "--codex", "--why", NOBODY], ["audit", "--codex", "--why", "x"]]
)
def test_what_cannot_be_meant_ends_with_2_and_a_hint(
    capsys: pytest.CaptureFixture[str], home: CodexHome, words: list[str]
) -> None:
    code, out, err = run(capsys, home, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "\nhint: " in err


def test_a_home_that_is_not_there_ends_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--home", str(tmp_path / "gone"), "audit", "--codex"]) == 2
    assert "There is no home" in capsys.readouterr().err


def test_a_database_that_cannot_be_read_is_a_finding_and_no_failure(
    capsys: pytest.CaptureFixture[str], home: CodexHome
) -> None:
    (home.path / "state_5.sqlite").write_bytes(b"garbage " * 1000)
    code, out, _ = run(capsys, home, "audit", "--codex", "--json")
    assert code == 1
    (found,) = (each for each in json.loads(out)["findings"] if each["class"] == "codex_unreadable")
    assert found["path"] == "state_5.sqlite"


def test_the_output_that_cannot_be_written_ends_with_3(home: CodexHome, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["--home", str(home.path), "audit", "--codex"]) == 3
        monkeypatch.undo()


def test_the_help_teaches_both(capsys: pytest.CaptureFixture[str]) -> None:
    main(["audit", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "rolloutdb audit --codex --why" in out
    assert "no index is needed and none is made" in out
    assert "docs/AUDIT.md" in out


def test_the_library_answers_the_same(home: CodexHome, tmp_path: Path) -> None:
    thread = home.one(mode="paginated", archived=False)
    home.set(thread, archived=1)
    before = seen(home.path)
    with engine.open(str(home.path), state_dir=str(tmp_path / "state")) as opened:
        report = opened.audit_codex(deep=True)
        why = opened.explain_codex(thread.id)
    assert [(each.class_, each.thread_id) for each in report.findings] == [("codex_wrong_archive_state", thread.id)]
    assert [each.reason for each in why.reasons] == ["archived"]
    assert seen(home.path) == before
