"""The command line keeps its words: where data goes, which code it ends with, and what it says when it cannot go on."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest
from rich.cells import cell_len

import engine.runtime
from engine.cli import commands, main, output, tables
from engine.options import Options
from engine.projections.backfill import BackfillReport
from engine.stores import sqlite
from engine.testing import make_rollout

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = "import sys; from engine.cli import main; sys.exit(main())"

OLD = "01990000-0000-7000-8000-00000000000a"
MIDDLE = "01990000-0000-7000-8000-00000000000b"
NEW = "01990000-0000-7000-8000-00000000000c"
NOBODY = "01990000-0000-7000-8000-0000000000ff"

COLUMNS = [
    "id",
    "rollout_path",
    "rollout_id",
    "session_id",
    "created_at_ms",
    "updated_at_ms",
    "recency_at_ms",
    "source",
    "thread_source",
    "originator",
    "history_mode",
    "forked_from_id",
    "parent_thread_id",
    "agent_nickname",
    "agent_role",
    "agent_path",
    "model_provider",
    "model",
    "reasoning_effort",
    "cwd",
    "cli_version",
    "title",
    "preview",
    "first_user_message",
    "sandbox_policy",
    "approval_mode",
    "tokens_used",
    "memory_mode",
    "memory_mode_at_ms",
    "git_sha",
    "git_branch",
    "git_origin_url",
    "archived",
    "archived_at_ms",
    "name",
    "missing",
]


class Result(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ROLLOUTDB_HOME", "CODEX_HOME", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three threads, written down line by line; the middle one is archived."""
    home = tmp_path / "home"
    write_thread(home, OLD, day=5, cwd="/srv/shop", source="cli", provider="openai", says="Paint the shed red")
    write_thread(
        home, MIDDLE, day=6, cwd="/srv/api", source="vscode", provider="local", says="Paint the bridge", archived=True
    )
    write_thread(home, NEW, day=7, cwd="/srv/shop", source="exec", provider="azure", says="Water the plants")
    return home


# What every command answers.


def test_status_answers_with_its_words(run: Run, home: Path) -> None:
    assert run("--home", home, "backfill", "--workers", 0).code == 0
    result = run("--home", home, "status", "--json")
    assert (result.code, result.err) == (0, "")
    found = result.document
    assert list(found) == [
        "home",
        "state_dir",
        "threads",
        "lag",
        "set_aside",
        "backfill",
        "counters",
        "background_error",
        "projections",
    ]
    assert [each["name"] for each in found["projections"]] == ["threads", "turns", "search"]
    assert found["threads"] == {"total": 3, "active": 2, "archived": 1, "missing": 0}
    assert (found["lag"]["files"], found["lag"]["files_total"], found["set_aside"]) == (0, 3, 0)
    assert (found["backfill"]["status"], found["backfill"]["files_done"], found["backfill"]["failed"]) == (
        "complete",
        3,
        [],
    )


def test_backfill_answers_with_its_words_and_a_second_one_finds_nothing_new(run: Run, home: Path) -> None:
    result = run("--home", home, "backfill", "--json")
    assert (result.code, result.err) == (0, "")
    first = result.document
    assert {"status", "threads", "bytes", "failed", "seconds"} <= set(first)
    assert (first["status"], first["threads"], first["files"], first["failed"]) == ("complete", 3, 3, [])
    assert first["bytes"] == sum(path.stat().st_size for path in home.rglob("*.jsonl"))
    again = run("--home", home, "backfill", "--json").document
    assert (again["status"], again["threads"], again["files"], again["bytes"]) == ("complete", 3, 0, 0)


def test_backfill_of_one_projection_leaves_the_others(run: Run, home: Path) -> None:
    result = run("--home", home, "backfill", "--projection", "threads", "--json")
    assert (result.code, result.document["status"], result.document["files"]) == (0, "complete", 3)
    assert not (home / "engine/history_1.sqlite").exists()
    for name, made, other in (("turns", "history_1", "search_1"), ("search", "search_1", "own_1")):
        result = run("--home", home, "backfill", "--projection", name, "--json")
        assert (result.code, result.document["status"], result.document["files"]) == (0, "complete", 3)
        assert (home / f"engine/{made}.sqlite").exists()
        assert not (home / f"engine/{other}.sqlite").exists()
    assert run("--home", home, "backfill", "--projection", "facts", "--json").document["files"] == 0
    assert run("--home", home, "backfill", "--projection", "words", "--json").code == 2


def test_rebuild_folds_every_file_again(run: Run, home: Path) -> None:
    run("--home", home, "backfill")
    edit(home, f"UPDATE threads SET title = 'wrong' WHERE id = '{NEW}'")
    result = run("--home", home, "rebuild", "--json")
    assert (result.code, result.document["files"]) == (0, 3)
    assert run("--home", home, "threads", "show", NEW, "--json").document["title"] == "Water the plants"


def test_a_file_that_cannot_be_used_is_a_finding_of_the_backfill(run: Run, home: Path) -> None:
    """The code is 1, and the file is named with its reason; all others are indexed."""
    link = rollout(home, NEW).with_name(rollout(home, NEW).name.replace(NEW, NOBODY))
    link.symlink_to(rollout(home, NEW))
    for command in ("backfill", "rebuild"):
        result = run("--home", home, command, "--json")
        assert result.code == 1
        failed = result.document["failed"]
        assert [sorted(each) for each in failed] == [["path", "reason"]]
        assert (failed[0]["path"], "symbolic link" in failed[0]["reason"]) == (str(link.relative_to(home)), True)
        assert result.document["threads"] == 3
    assert link.name in run("--home", home, "backfill").out.replace("\n", "")


def test_audit_of_an_agreeing_home_has_no_findings(run: Run, home: Path) -> None:
    run("--home", home, "backfill")
    result = run("--home", home, "audit", "--json")
    assert result.code == 0
    assert result.document["findings"] == []
    size = sum(path.stat().st_size for path in home.rglob("*.jsonl"))
    assert result.document["checked"] == {"threads": 3, "records": 9, "bytes": size}
    assert "agree" in run("--home", home, "audit").out


def test_audit_names_a_differing_field_with_both_values(run: Run, home: Path) -> None:
    run("--home", home, "backfill")
    edit(home, f"UPDATE threads SET title = 'wrong' WHERE id = '{NEW}'")
    result = run("--home", home, "audit", "--json")
    assert result.code == 1
    (finding,) = result.document["findings"]
    assert finding.pop("message")
    assert finding == {
        "class": "differing_field",
        "severity": "error",
        "thread_id": NEW,
        "path": str(rollout(home, NEW).relative_to(home)),
        "offset": None,
        "field": "title",
        "file_value": "Water the plants",
        "row_value": "wrong",
        "mend": "rolloutdb repair",
    }
    told = run("--home", home, "audit")
    assert told.code == 1
    assert "differing_field" in told.out
    assert "rolloutdb repair" in told.out


def test_repair_shows_its_plan_saves_it_and_carries_it_out(run: Run, home: Path, tmp_path: Path) -> None:
    run("--home", home, "backfill")
    edit(home, f"UPDATE threads SET title = 'wrong' WHERE id = '{NEW}'")
    plan = tmp_path / "plan.json"
    planned = run("--home", home, "repair", "--dry-run", "--save", plan, "--json")
    assert planned.code == 1
    (step,) = planned.document["steps"]
    assert (step["step"]["action"], step["step"]["classes"], step["outcome"]) == (
        "fold",
        ["differing_field"],
        "planned",
    )
    assert json.loads(plan.read_bytes())["steps"] == [step["step"]]
    assert "planned differing_field" in run("--home", home, "repair", "--dry-run").out
    done = run("--home", home, "repair", "--plan", plan)
    assert done.code == 0
    assert "done differing_field: fold the rollout" in done.out
    assert run("--home", home, "audit").code == 0
    again = run("--home", home, "repair", "--json")
    assert (again.code, again.document["steps"], again.document["left"]) == (0, [], [])
    assert run("--home", home, "repair").out == "There is nothing to mend.\n"


def test_repair_leaves_the_code_1_while_something_waits_for_offline(run: Run, home: Path) -> None:
    run("--home", home, "backfill")
    with rollout(home, NEW).open("a") as file:
        file.write('{"timestamp":"20')
    skipped = run("--home", home, "repair")
    assert skipped.code == 1
    assert "end that program, then repair with --offline" in skipped.out
    assert run("--home", home, "repair", "--offline").code == 0
    assert run("--home", home, "audit").code == 0


@pytest.mark.parametrize(
    "arguments", [["--save", "x.json"], ["--dry-run", "--plan", "x.json"], ["--plan", "/nowhere/x.json"]]
)
def test_a_repair_that_cannot_be_meant_is_a_usage_error(run: Run, home: Path, arguments: list[str]) -> None:
    result = run("--home", home, "repair", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")


def test_a_lost_thread_is_dismissed_by_the_command_that_the_audit_names(run: Run, home: Path) -> None:
    run("--home", home, "backfill")
    rollout(home, NEW).unlink()
    (finding,) = run("--home", home, "audit", "--json").document["findings"]
    assert (finding["class"], finding["mend"]) == ("lost_truth", f"rolloutdb threads dismiss {NEW}")
    assert finding["row_value"]["title"] == "Water the plants"
    assert run("--home", home, "repair").code == 0, "nothing that a repair mends"
    dismissed = run("--home", home, *finding["mend"].split()[1:])
    assert (dismissed.code, dismissed.out) == (0, f"{NEW} is not shown any more.\n")
    assert run("--home", home, "audit").code == 0
    assert NEW not in run("--home", home, "threads", "list", "--json").out


def test_a_deep_audit_sees_a_record_that_an_audit_by_sight_passes_over(run: Run, home: Path) -> None:
    """The line is JSON from its head to its brace to the eye alone."""
    line = '{"timestamp":"2026-01-07T10:00:09.000Z","ordinal":3,"type":"response_item","payload":{"a":}}\n'
    with rollout(home, NEW).open("a") as file:
        file.write(line)
    run("--home", home, "backfill")
    assert run("--home", home, "audit", "--json").document["findings"] == []
    result = run("--home", home, "audit", "--deep", "--json")
    assert (result.code, [finding["class"] for finding in result.document["findings"]]) == (1, ["damaged_span"])


# Lists.


def test_a_list_has_every_column_and_null_where_nothing_is_known(run: Run, home: Path) -> None:
    page = run("--home", home, "threads", "list", "--json").document
    assert list(page) == [
        "threads",
        "next_cursor",
        "backwards_cursor",
        "total",
        "hidden",
        "hidden_by",
        "partial",
    ]
    assert [list(row) for row in page["threads"]] == [COLUMNS] * 3
    newest = page["threads"][0]
    assert newest["rollout_path"] == str(rollout(home, NEW))
    assert (newest["id"], newest["title"], newest["created_at_ms"]) == (NEW, "Water the plants", 1_767_780_000_000)
    assert (newest["git_sha"], newest["archived"], newest["archived_at_ms"]) == (None, False, None)
    assert (page["total"], page["hidden"], page["partial"], page["next_cursor"]) == (3, 0, None, None)


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ((), [NEW, MIDDLE, OLD]),
        (("--asc",), [OLD, MIDDLE, NEW]),
        (("--active",), [NEW, OLD]),
        (("--archived",), [MIDDLE]),
        (("--limit", "1"), [NEW]),
        (("--limit", "0"), [NEW, MIDDLE, OLD]),
        (("--sort", "created_at", "--asc"), [OLD, MIDDLE, NEW]),
        (("--sort", "recency_at"), [NEW, MIDDLE, OLD]),
        (("--cwd", "/srv/shop"), [NEW, OLD]),
        (("--cwd", "/srv/shop/../api/"), [MIDDLE]),
        (("--cwd", "/srv/shop", "--cwd", "/srv/api"), [NEW, MIDDLE, OLD]),
        (("--cwd", "/nowhere"), []),
        (("--source", "cli", "--source", "exec"), [NEW, OLD]),
        (("--provider", "local"), [MIDDLE]),
        (("--search", "pAiNt"), [MIDDLE, OLD]),
        (("--with-preview",), [NEW, MIDDLE, OLD]),
        (("--without-preview",), []),
        (("--ancestor", NEW), []),
        (("--parent", NEW), []),
        (("--model", "no such model"), []),
        (("--search", "paint", "--cwd", "/srv/shop"), [OLD]),
    ],
)
def test_a_list_shows_what_was_asked_for_in_the_order_asked_for(
    run: Run, home: Path, options: tuple[str, ...], ids: list[str]
) -> None:
    while (page := run("--home", home, "threads", "list", "--json", *options).document)["partial"] is not None:
        pass  # a list waits for the index for a moment only
    assert [row["id"] for row in page["threads"]] == ids


def test_filters_say_how_many_they_hide(run: Run, home: Path) -> None:
    page = run("--home", home, "threads", "list", "--json", "--archived").document
    assert (page["total"], page["hidden"]) == (1, 2)
    assert "2 hidden" in run("--home", home, "threads", "list", "--archived").out


def test_a_relative_cwd_is_that_of_the_caller(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "desk" / "tool"
    here.mkdir(parents=True)
    write_thread(home, NOBODY, day=8, cwd=str(here), source="cli", provider="openai", says="Here")
    monkeypatch.chdir(here.parent)
    for given in ("tool", "./tool/", "../desk/tool"):
        page = run("--home", home, "threads", "list", "--json", "--cwd", given).document
        assert [row["id"] for row in page["threads"]] == [NOBODY]


def test_cursors_lead_through_all_pages(run: Run, home: Path) -> None:
    ids: list[str] = []
    cursor: list[str] = []
    for _ in range(3):
        page = run("--home", home, "threads", "list", "--json", "--limit", 1, *cursor).document
        ids += [row["id"] for row in page["threads"]]
        cursor = ["--cursor", page["next_cursor"]]
    assert (ids, page["next_cursor"]) == ([NEW, MIDDLE, OLD], None)


def test_a_list_that_does_not_cover_every_file_says_so_and_what_to_run(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.cli.asked.Options", lambda **how: Options(**how, list_budget_ms=0))
    result = run("--home", home, "threads", "list", "--json")
    assert result.code == 0
    assert result.document["partial"] == {
        "files_done": 0,
        "files_total": None,
        "unread": 0,
        "outdated": 0,
        "newer": 0,
    }
    assert len(result.err.splitlines()) == 1
    assert "0 rollouts" in result.err
    assert "`rolloutdb backfill`" in result.err


def test_show_is_the_row_with_what_the_file_says(run: Run, home: Path) -> None:
    result = run("--home", home, "threads", "show", NEW, "--json")
    assert (result.code, result.err) == (0, "")
    shown = result.document
    more = ["goal", "differences", "history_rewritten", "lag_bytes", "records", "damaged", "set_aside"]
    assert list(shown) == [*COLUMNS, *more]
    assert [shown[name] for name in ("id", "title", *more)] == [NEW, "Water the plants", None, [], False, 0, 3, 0, 0]


def test_show_ends_with_1_when_row_and_file_differ_and_answers_from_the_file(run: Run, home: Path) -> None:
    run("--home", home, "backfill")
    edit(home, f"UPDATE threads SET title = 'wrong', tokens_used = 5 WHERE id = '{NEW}'")
    result = run("--home", home, "threads", "show", NEW, "--json")
    assert result.code == 1
    assert result.document["title"] == "Water the plants"
    assert result.document["differences"] == [
        {"field": "title", "file_value": "Water the plants", "row_value": "wrong"},
        {"field": "tokens_used", "file_value": 0, "row_value": 5},
    ]
    told = run("--home", home, "threads", "show", NEW)
    assert (told.code, "wrong" in told.out, "rolloutdb rebuild" in told.out) == (1, True, True)


# Where options may stand, and which home is meant.


@pytest.mark.parametrize(
    "order",
    [
        ("--home", "H", "--state-dir", "S", "--json", "threads", "list"),
        ("threads", "--json", "--home", "H", "--state-dir", "S", "list"),
        ("threads", "list", "--state-dir", "S", "--json", "--home", "H"),
        ("--home=H", "threads", "--json", "list", "--state-dir=S"),
        ("--home", "/nowhere", "threads", "--state-dir", "S", "list", "--json", "--home", "H"),
    ],
)
def test_global_options_stand_before_or_after_the_command(
    run: Run, home: Path, tmp_path: Path, order: tuple[str, ...]
) -> None:
    """The one furthest right counts. With a state folder nothing is written into the home."""
    before = contents(home)
    state = tmp_path / "state"
    result = run(*(word.replace("H", str(home)).replace("S", str(state)) for word in order))
    assert (result.code, result.document["total"]) == (0, 3)
    assert contents(home) == before
    assert (state / "state_1.sqlite").is_file()


def test_the_home_is_the_option_else_a_variable_else_the_usual_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable is one that is not set."""
    names = ["option", "rolloutdb", "codex", "user/.codex"]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("ROLLOUTDB_HOME", str(tmp_path / "rolloutdb"))
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "codex"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    seen = [run("status", "--json", "--home", tmp_path / "option").document["home"]]
    seen.append(run("status", "--json").document["home"])
    monkeypatch.setenv("ROLLOUTDB_HOME", "")
    seen.append(run("status", "--json").document["home"])
    monkeypatch.delenv("CODEX_HOME")
    seen.append(run("status", "--json").document["home"])
    assert seen == [str(tmp_path / name) for name in names]


def test_paths_are_absolute_however_the_home_is_named(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("home", "./home/", "~/home"):
        page = run("--home", name, "threads", "list", "--json").document
        assert page["threads"][0]["rollout_path"] == str(rollout(home, NEW))


def test_backfill_uses_every_processor_it_may_unless_told(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[int] = []

    def backfill(self: object, projection: object, *, workers: int, progress: object) -> BackfillReport:
        asked_for.append(workers)
        return BackfillReport("complete", 0, 0, 0, (), 0.0, None, None)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 2, 5}, raising=False)
    monkeypatch.setattr(engine.runtime.Engine, "backfill", backfill)
    assert run("--home", home, "backfill").code == 0
    assert run("--home", home, "backfill", "--workers", 0).code == 0
    assert run("--home", home, "backfill", "--workers", 7).code == 0
    assert asked_for == [3, 0, 7]


# What goes wrong, and what is said.

BAD_INPUT = {
    "a missing home": (["--home", "{tmp}/none", "status"], 2, "HomeMissing", "{tmp}/none"),
    "a home that is a file": (["--home", "{tmp}/file", "status"], 2, "HomeNotAFolder", "{tmp}/file"),
    "an empty home": (["--home", "", "status"], 2, "InvalidRequest", "--home is empty"),
    "an empty state folder": (["--home", "{home}", "--state-dir", "", "status"], 2, "InvalidRequest", "--state-dir"),
    "a state folder that is a file": (
        ["--home", "{home}", "--state-dir", "{tmp}/file", "status"],
        3,
        None,
        "{tmp}/file",
    ),
    "an unknown id": (["--home", "{home}", "threads", "show", NOBODY], 2, "ThreadNotFound", NOBODY),
    "what is no id": (["--home", "{home}", "threads", "show", "abc"], 2, "InvalidRequest", "'abc'"),
    "an id that is not UTF-8": (["--home", "{home}", "threads", "show", "\udcff"], 2, "InvalidRequest", "UTF-8"),
    "a bad cursor": (["--home", "{home}", "threads", "list", "--cursor", "%%"], 2, "InvalidCursor", "'%%'"),
    "a cursor of another order": (
        [
            "--home",
            "{home}",
            "threads",
            "list",
            "--sort",
            "created_at",
            "--cursor",
            "WyJ1cGRhdGVkX2F0IiwxLCJ4IixmYWxzZV0",
        ],
        2,
        "InvalidCursor",
        "updated_at",
    ),
    "a bad sort key": (["--home", "{home}", "threads", "list", "--sort", "size"], 2, "UsageError", "created_at"),
    "a negative limit": (["--home", "{home}", "threads", "list", "--limit", "-1"], 2, "UsageError", "--limit"),
    "a search that is not UTF-8": (
        ["--home", "{home}", "threads", "list", "--search", "\udcff"],
        2,
        "InvalidRequest",
        "--search",
    ),
    "a cwd that is not UTF-8": (
        ["--home", "{home}", "threads", "list", "--cwd", "/\udcff"],
        2,
        "InvalidRequest",
        "--cwd",
    ),
    "too few workers": (["--home", "{home}", "backfill", "--workers", "-1"], 2, "UsageError", "--workers"),
    "an unknown command": (["--home", "{home}", "shred"], 2, "UsageError", "shred"),
    "an unknown option": (["--home", "{home}", "status", "--loud"], 2, "UsageError", "--loud"),
    "no command": (["--home", "{home}", "threads"], 2, "InvalidRequest", "No command"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_sentence_and_a_hint_and_changes_nothing(
    run: Run, home: Path, tmp_path: Path, case: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    run("--home", home, "backfill")
    before = contents(tmp_path)
    words, code, class_, said = BAD_INPUT[case]
    command = [word.format(home=home, tmp=tmp_path) for word in words]
    result = run(*command, "--json")
    assert result.code == code
    assert list(result.document) == ["error"]
    error = result.document["error"]
    assert list(error) == ["class", "message", "hint", "path"]
    assert class_ in (None, error["class"])
    assert said.format(tmp=tmp_path) in error["message"]
    assert error["hint"]
    assert result.err == f"error: {output.plain(error['message'])}\nhint: {output.plain(error['hint'])}\n"
    assert contents(tmp_path) == before
    if case != "no command":  # which shows its help to people
        assert run(*command) == (code, "", result.err)


@pytest.mark.parametrize("words", [[], ["threads"]])
def test_a_command_that_is_left_out_shows_what_there_is(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert "Commands:" in result.err


def test_a_database_of_a_newer_shape_is_left_alone(run: Run, home: Path) -> None:
    run("--home", home, "backfill")
    edit(home, "PRAGMA user_version = 2")
    edit(home, "INSERT INTO migrations VALUES (99, '0099_of_a_newer_shape.sql', 'theirs', 0)")
    before = contents(home)
    result = run("--home", home, "threads", "list", "--json")
    assert (result.code, result.document["error"]["class"]) == (3, "StoreNewer")
    assert result.document["error"]["path"] == str(home / "engine" / "state_1.sqlite")
    assert "hint: pip install -U rolloutdb" in result.err
    assert contents(home) == before


def test_a_library_that_is_too_old_is_named(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(home)
    monkeypatch.setattr(sqlite, "LIBRARY_VERSION", "3.51.2")
    result = run("--home", home, "status", "--json")
    assert (result.code, result.document["error"]["class"]) == (3, "LibraryTooOld")
    assert "3.51.2" in result.err
    assert "hint: pip install -U apsw" in result.err
    assert contents(home) == before


@pytest.mark.parametrize("closed", ["home", "above"])
def test_a_home_that_may_not_be_read_is_named(closed: str) -> None:
    """Root may read everything, so as root the command runs as another user."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        home = top / "above" / "home"
        (home / "sessions").mkdir(parents=True)
        for path in (top, top / "above", home):
            path.chmod(0o755)
        shut = home if closed == "home" else top / "above"
        shut.chmod(0o700 if os.geteuid() == 0 else 0)
        try:
            done = as_somebody("--home", str(home), "status", "--json")
        finally:
            shut.chmod(0o700)
        assert (done.returncode, json.loads(done.stdout)["error"]["class"]) == (3, "HomeUnreadable"), done.stderr
        assert str(home) in done.stderr
        assert "Permission denied" in done.stderr
        assert len(done.stderr.splitlines()) == 2
        assert sorted(top.rglob("*")) == [top / "above", home, home / "sessions"]


def test_a_fault_of_ours_is_a_sentence_with_its_place(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(commands, "status", fail)
    result = run("--home", home, "status", "--json")
    assert (result.code, result.document["error"]["class"]) == (3, "ZeroDivisionError")
    assert "by nothing" in result.err
    assert f"{__file__}:" in result.err
    assert "Traceback" not in result.err


def test_a_damaged_database_is_built_again_and_the_command_goes_on(run: Run, home: Path) -> None:
    run("--home", home, "backfill")
    (home / "engine" / "state_1.sqlite").write_bytes(b"no database" * 1000)
    result = run("--home", home, "threads", "list", "--json")
    assert (result.code, result.document["total"]) == (0, 3)


# Text of others, and paths that are no text.


def test_a_title_cannot_move_the_cursor_nor_reorder_the_line(run: Run, home: Path) -> None:
    """The table shows a sign in place of each; JSON has them escaped."""
    says = "a\x1b[31mred\x07 b\u202ec\u2066d\x9be"
    write_thread(home, NOBODY, day=8, cwd="/srv/\x1b]0;x\x07", source="cli", provider="openai", says=says)
    shown = run("--home", home, "threads", "list").out
    assert "a\ufffd[31mred\ufffd b\ufffdc\ufffdd\ufffde" in shown
    for result in (shown, run("--home", home, "threads", "show", NOBODY).out):
        assert not {"\x1b", "\x07", "\u202e", "\u2066", "\x9b"} & set(result)
    raw = run("--home", home, "threads", "show", NOBODY, "--json")
    assert raw.document["title"] == says
    assert "\x1b" not in raw.out


def test_markup_in_a_title_is_text(run: Run, home: Path) -> None:
    write_thread(
        home, NOBODY, day=8, cwd="/srv/[red]y", source="cli", provider="openai", says="[red]x[/] :smile: [/nope]"
    )
    shown = run("--home", home, "threads", "list").out
    assert "[red]x[/] :smile: [/nope]" in shown
    assert "[red]y" in shown


def test_the_path_of_a_home_that_is_not_utf8_comes_through_json(run: Run, home: Path, tmp_path: Path) -> None:
    """As an escaped lone surrogate, from which Python gives the very bytes back."""
    odd = os.fsencode(tmp_path) + b"/h\xff\xfe"
    os.rename(home, odd)
    options = ("--home", os.fsdecode(odd), "--state-dir", tmp_path / "state")
    for command in (["threads", "list"], ["threads", "show", NEW], ["status"], ["backfill"], ["audit"]):
        result = run(*options, *command, "--json")
        assert (result.code, result.err, result.out.isascii()) == (0, "", True)
        assert run(*options, *command).code == 0
    shown = run(*options, "threads", "show", NEW, "--json").document
    assert os.path.isfile(os.fsencode(shown["rollout_path"]))
    assert r"h\xff\xfe" in run(*options, "status").out


def test_workers_read_a_home_whose_path_is_not_utf8(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path goes to them in bytes: as text it could not be sent, and the back-fill ended in a traceback."""
    monkeypatch.setattr("engine.cli.asked.Options", lambda **how: Options(**how, spawn_bytes_min=0))
    odd = os.fsencode(tmp_path) + b"/h\xff"
    os.rename(home, odd)
    options = ("--home", os.fsdecode(odd), "--state-dir", tmp_path / "state", "--json")
    result = run(*options, "backfill", "--workers", 1)
    assert (result.code, result.err, result.document["threads"], result.document["files"]) == (0, "", 3, 3)


def test_no_database_is_made_under_a_path_that_is_not_utf8(run: Run, home: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/h\xff"
    os.rename(home, odd)
    result = run("--home", os.fsdecode(odd), "status", "--json")
    assert (result.code, result.document["error"]["class"]) == (3, "StoreUnavailable")
    assert "--state-dir" in result.err
    assert sorted(os.listdir(odd)) == [b"archived_sessions", b"sessions"]


# What people see.


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_a_list_fits_its_width_and_cuts_nothing_but_titles(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    write_thread(home, NOBODY, day=8, cwd="/srv/プロジェクト", source="cli", provider="openai", says="長い題 " * 60)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run("--home", home, "threads", "list").out.splitlines()
    assert max(cell_len(line) for line in lines) <= width
    rows = lines[2:6]
    assert [row[:36] for row in rows] == [NOBODY, NEW, MIDDLE, OLD]
    assert all("2026-01-0" in row for row in rows)
    assert "…" in rows[0]
    assert lines[-1].strip() == "4 of 4 threads"


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_for_terminals_that_want_them(home: Path, variables: dict[str, str], *, coloured: bool) -> None:
    shown = on_a_terminal(["--home", str(home), "threads", "list"], variables)
    assert "Water the plants" in shown
    assert ("\x1b[" in shown) is coloured


def test_a_pipe_is_as_wide_as_the_terminal_of_standard_error(home: Path) -> None:
    """`| head` shows lines that fit; without any terminal a line has at most 120 columns."""
    write_thread(home, NOBODY, day=8, cwd="/srv", source="cli", provider="openai", says="word " * 60)
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 72))
    command = [sys.executable, "-c", COMMAND, "--home", str(home), "threads", "list"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=follower, text=True, check=True, cwd=CHECKOUT)
    os.close(follower)
    os.close(leader)
    assert max(cell_len(line) for line in shown.stdout.splitlines()) == 72
    bare = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert max(cell_len(line) for line in bare.stdout.splitlines()) == 120


def test_a_pipe_gets_text_alone(home: Path) -> None:
    for command in (["threads", "list"], ["status"], ["backfill"], ["audit"], ["threads", "show", NEW]):
        done = start("--home", str(home), *command, FORCE_COLOR="1").communicate(timeout=60)
        assert "\x1b" not in "".join(done)


def test_every_help_has_an_example_and_the_exit_codes(run: Run) -> None:
    words = [
        ["status"],
        ["backfill"],
        ["rebuild"],
        ["audit"],
        ["repair"],
        ["demo"],
        ["threads", "list"],
        ["threads", "show"],
    ]
    for command in [[], *words]:
        result = run(*command, "--help")
        assert (result.code, result.err) == (0, "")
        assert f"rolloutdb {' '.join(command)}".strip() in result.out.partition("Examples:")[2]
        assert "Exit codes: 0 done, 1 findings, 2 usage, 3 failed" in result.out
    assert all(f"  {command[0]} " in run("--help").out for command in words)
    assert "..." not in run("--help").out.partition("Commands:")[2], "a summary is cut"


def test_help_and_json_start_without_what_they_do_not_need(home: Path) -> None:
    """Each of these takes 30 to 100 ms to import."""
    code = "import sys; from engine.cli import main; main(sys.argv[1:]); print(*sorted(sys.modules), file=sys.stderr)"
    _, modules = start("--help", code=code).communicate(timeout=60)
    assert not {"rich", "engine.runtime", "apsw", "engine.testing", "pydantic"} & set(modules.split())
    _, modules = start("--home", str(home), "threads", "list", "--json", code=code).communicate(timeout=60)
    assert "engine.runtime" in modules.split()
    assert not {"rich", "engine.testing"} & set(modules.split())


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2_000_000_000, "2.0 GB"),
        (5 * 10**15, "5,000.0 TB"),
    ],
)
def test_sizes_read_well(count: int, shown: str) -> None:
    assert tables.size(count) == shown


@pytest.mark.parametrize(
    ("passed_s", "shown"),
    [
        (-3600, "2026-01-07"),
        (-5, "just now"),
        (59, "just now"),
        (60, "1 min ago"),
        (3_599, "59 min ago"),
        (3_600, "1 h ago"),
        (86_399, "23 h ago"),
        (86_400, "1 day ago"),
        (29 * 86_400, "29 days ago"),
        (30 * 86_400, "2026-01-07"),
    ],
)
def test_times_are_told_from_now_and_long_ago_by_their_date(passed_s: int, shown: str) -> None:
    then_ms = 1_767_780_000_000
    assert tables.ago(then_ms, then_ms + passed_s * 1000) == shown


def test_a_time_that_no_calendar_has_is_its_number() -> None:
    assert tables.ago(10**18, 0) == "1000000000"


# How it ends.


def test_ctrl_c_ends_with_130_and_takes_the_workers_along(tmp_path: Path) -> None:
    """A terminal sends the signal to the whole group: no process shows a traceback, and none is left."""
    home = tmp_path / "home"
    made = make_rollout(home, size=17_000_000)
    code = """
import os, sys, threading
from engine.projections.runner import Runner
def write(*arguments, **named):
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as children:
        print("ready", children.read(), flush=True)
    threading.Event().wait()
Runner.write = write
from engine.cli import main
sys.exit(main())
"""
    child = start("--home", str(home), "backfill", "--workers", "2", code=code, start_new_session=True)
    assert child.stdout is not None
    word, *workers = child.stdout.readline().split()
    assert (word, len(workers)) == ("ready", 2)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err.splitlines() == [
        "error: Stopped before the end.",
        "hint: What was done is kept; run the command again to go on.",
    ]
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    again = start("--home", str(home), "backfill", "--json").communicate(timeout=60)[0]
    assert (json.loads(again)["status"], json.loads(again)["threads"]) == ("complete", 1)
    assert made.records > 0


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    for command in (["threads", "list", "--limit", "0", "--json"], ["threads", "list"], ["--help"]):
        child = start("--home", str(home), *command, stdout=write)
        _, err = child.communicate(timeout=60)
        assert (child.returncode, err) == (0, "")
    os.close(write)


def test_a_full_disk_behind_the_output_is_a_sentence(home: Path) -> None:
    with open("/dev/full", "wb") as full:
        for options in ([], ["--json"]):
            child = start("--home", str(home), "status", *options, stdout=full.fileno())
            _, err = child.communicate(timeout=60)
            assert child.returncode == 3
            assert "No space left on device" in err
            assert "Traceback" not in err
            assert "Exception" not in err


def test_closed_streams_are_no_error(home: Path) -> None:
    """A file that was opened under the number of a closed stream would get what the stream was to show."""
    line = f"exec {sys.executable} -c '{COMMAND}' --home {home} backfill >&- 2>&-"
    done = subprocess.run(["bash", "-c", line], check=False, cwd=CHECKOUT, timeout=60)
    assert done.returncode == 0
    assert run_state(home) == [("complete",)]


# Helpers.


def record(day: int, ordinal: int, kind: str, payload: dict[str, object]) -> str:
    line = {"timestamp": f"2026-01-0{day}T10:00:0{ordinal}.000Z", "ordinal": ordinal, "type": kind, "payload": payload}
    return json.dumps(line, separators=(",", ":")) + "\n"


def write_thread(
    home: Path, thread_id: str, *, day: int, cwd: str, source: str, provider: str, says: str, archived: bool = False
) -> None:
    """One thread of three records: who it is, what was said, and the end of its turn."""
    meta = {
        "id": thread_id,
        "timestamp": f"2026-01-0{day}T10:00:00.000Z",
        "cwd": cwd,
        "originator": "test",
        "cli_version": "0.169.0",
        "source": source,
        "model_provider": provider,
        "history_mode": "paginated",
    }
    item = {"type": "UserMessage", "id": "item-1", "content": [{"type": "text", "text": says}]}
    lines = [
        record(day, 0, "session_meta", meta),
        record(day, 1, "event_msg", {"type": "item_completed", "thread_id": thread_id, "turn_id": "t", "item": item}),
        record(day, 2, "event_msg", {"type": "task_complete", "turn_id": "t", "last_agent_message": "Done."}),
    ]
    name = f"rollout-2026-01-0{day}T10-00-00-{thread_id}.jsonl"
    folder = home / "archived_sessions" if archived else home / "sessions" / "2026" / "01" / f"0{day}"
    (home / "archived_sessions").mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(lines), "utf-8")


def rollout(home: Path, thread_id: str) -> Path:
    """The rollout of a thread."""
    (path,) = home.rglob(f"rollout-*-{thread_id}.jsonl")
    return path


def edit(home: Path, sql: str) -> None:
    """Tamper with the table behind the engine's back."""
    database = apsw.Connection(str(home / "engine" / "state_1.sqlite"))
    try:
        database.execute(sql)
    finally:
        database.close()


def run_state(home: Path) -> list[tuple[str]]:
    database = apsw.Connection(str(home / "engine" / "state_1.sqlite"))
    try:
        return database.execute("SELECT status FROM backfill").fetchall()
    finally:
        database.close()


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every name in a folder, with the bytes of the files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def start(
    *arguments: str,
    code: str = COMMAND,
    stdout: int = subprocess.PIPE,
    start_new_session: bool = False,
    **variables: str,
) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        start_new_session=start_new_session,
        env={**os.environ, **variables},
    )


def as_somebody(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command run by a user who is not root; everything is imported while the checkout can still be read."""
    code = """
import contextlib, io, os, sys
import engine.cli.failures, engine.cli.output, engine.runtime
with contextlib.redirect_stderr(io.StringIO()):
    engine.cli.main(["--home", "/nowhere/at/all", "status"])
if os.geteuid() == 0:
    os.setgroups([])
    os.setuid(65534)
sys.exit(engine.cli.main())
"""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=60
    )


def on_a_terminal(arguments: list[str], variables: dict[str, str]) -> str:
    """What a terminal gets to show."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", **variables}
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments], stdout=follower, stderr=follower, cwd=CHECKOUT, env=environment
    )
    os.close(follower)
    shown = b"".join(parts(leader))
    os.close(leader)
    assert child.wait(timeout=60) == 0
    return shown.decode()


def parts(leader: int) -> Iterator[bytes]:
    """What comes until the other side is closed, which Linux tells by an error."""
    while True:
        try:
            part = os.read(leader, 65_536)
        except OSError:
            return
        if not part:
            return
        yield part
