"""The commands of agents and device keys: what they print, to people and to programs, and how they refuse."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from tests.agents import id_of, plant
from tests.unit.test_cli_decide import Said
from tests.unit.test_device_keys import KEY
from tests.writing import opened


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    plant(folder, 1)
    plant(folder, 2, 1, agent_path="/root/a", agent_nickname="[bold]Ada\x1b[31m", agent_role="explorer")
    plant(folder, 3, 2)
    plant(folder, 4, 1)
    plant(folder, 9, 8)
    return folder


def run(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> Said:
    capsys.readouterr()
    code = main(["--home", str(home), *words])
    return Said(code, *capsys.readouterr())


def test_the_tree_is_drawn_with_every_agent_below_its_own(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    said = run(capsys, home, "agents", "tree")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        id_of(1),
        f"├── {id_of(2)}  open  /root/a  [bold]Ada\ufffd[31m  explorer",
        f"│   └── {id_of(3)}  open",
        f"└── {id_of(4)}  open",
        f"{id_of(8)}  gone",
        f"└── {id_of(9)}  open",
    ]


def test_the_tree_of_one_thread_and_of_one_status(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    run(capsys, home, "agents", "close", id_of(2), "--only")
    assert run(capsys, home, "agents", "tree", id_of(1), "--status", "open").out.splitlines() == [
        id_of(1),
        f"└── {id_of(4)}  open",
    ]
    document = run(capsys, home, "agents", "tree", id_of(1), "--json").document
    assert set(document) == {"roots", "agents", "partial"}
    assert [(each["id"], each["parent_thread_id"], each["status"], each["depth"]) for each in document["agents"]] == [
        (id_of(2), id_of(1), "closed", 1),
        (id_of(4), id_of(1), "open", 1),
        (id_of(3), id_of(2), "open", 2),
    ]
    (root,) = document["roots"]
    assert (root["id"], root["status"], root["parent_thread_id"]) == (id_of(1), None, None)


def test_a_tree_is_closed_children_first_and_what_is_left_is_said(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    said = run(capsys, home, "agents", "close", id_of(1).upper())
    assert (said.code, said.out.split()) == (0, ["closed", id_of(3), "closed", id_of(2), "closed", id_of(4)])
    assert run(capsys, home, "agents", "close", id_of(1)).out.startswith("nothing to do")
    document = run(capsys, home, "agents", "close", id_of(1), "--json").document
    assert document == {"done": [], "failed": [], "skipped": [], "partial": None}


def test_an_agent_is_opened_again_and_what_is_open_below_it_listed(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    run(capsys, home, "agents", "close", id_of(2), "--only")
    assert run(capsys, home, "agents", "resume", id_of(2), "--json").document["done"] == [id_of(2), id_of(3)]
    said = run(capsys, home, "agents", "resume", id_of(1))
    assert said.out.split() == ["open", id_of(2), "open", id_of(4), "open", id_of(3)]


def test_a_record_that_cannot_be_written_is_a_finding_that_names_the_agent(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    run(capsys, home, "backfill")
    (home / "engine" / "journal").write_text("a file where a folder should be")
    said = run(capsys, home, "agents", "close", id_of(2))
    assert said.code == 1
    assert said.out.splitlines()[0].startswith(f"failed  {id_of(3)}  AppendFailed: ")
    assert said.out.splitlines()[1] == f"skipped {id_of(2)}"


@pytest.mark.parametrize(
    ("words", "code", "class_"),
    [
        (["agents", "close", id_of(77)], 2, "ThreadNotFound"),
        (["agents", "resume", id_of(77)], 2, "ThreadNotFound"),
        (["agents", "close", "nobody"], 2, "InvalidRequest"),
        (["agents", "tree", "nobody"], 2, "InvalidRequest"),
        (["agents", "tree", "--status", "asleep"], 2, "UsageError"),
        (["agents"], 2, "InvalidRequest"),
        (["devicekeys"], 2, "InvalidRequest"),
        (["devicekeys", "show", "nothing"], 2, "DeviceKeyInvalid"),
        (["devicekeys", "show", KEY], 2, "DeviceKeyNotFound"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], home: Path, words: list[str], code: int, class_: str
) -> None:
    said = run(capsys, home, *words, "--json")
    assert (said.code, said.document["error"]["class"]) == (code, class_)
    assert said.document["error"]["hint"]
    assert not (home / "engine" / "journal").exists()


def test_bindings_are_listed_and_shown(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert run(capsys, home, "devicekeys", "list").out == "no device keys\n"
    with opened(home) as e:
        asyncio.run(e.device_keys.bindings.put(KEY, "account [red]1\x1b", "client-1"))
    expected: dict[str, Any] = {
        "key_id": KEY,
        "account_user_id": "account [red]1\x1b",
        "client_id": "client-1",
        "created_at_ms": 1_767_603_600_000,
        "updated_at_ms": 1_767_603_600_000,
        "protection": "hardware_tpm",
    }
    assert run(capsys, home, "devicekeys", "list", "--json").document == {"device_keys": [expected]}
    assert run(capsys, home, "devicekeys", "show", KEY, "--json").document == expected
    shown = run(capsys, home, "devicekeys", "show", KEY).out
    assert "account_user_id account [red]1\ufffd\n" in shown
    assert "2026-01-05T09:00:00.000Z" in shown
    assert KEY in run(capsys, home, "devicekeys", "list").out


@pytest.mark.parametrize(
    "command",
    [["agents", "tree"], ["agents", "close"], ["agents", "resume"], ["devicekeys", "list"], ["devicekeys", "show"]],
)
def test_every_help_has_an_example(capsys: pytest.CaptureFixture[str], home: Path, command: list[str]) -> None:
    said = run(capsys, home, *command, "--help")
    assert (said.code, said.err) == (0, "")
    assert f"rolloutdb {' '.join(command)}" in said.out.partition("Examples:")[2]
    assert "..." not in run(capsys, home, command[0], "--help").out.partition("Commands:")[2], "a summary is cut"


def test_an_id_is_never_cut_and_a_tree_in_a_pipe_has_no_colours(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = run(capsys, home, "agents", "tree").out
    assert all(id_of(number) in out for number in (1, 2, 3, 4, 8, 9))
    assert "\x1b" not in out
    monkeypatch.setenv("COLUMNS", "80")
    with opened(home) as e:
        asyncio.run(e.device_keys.bindings.put(KEY, "a" * 200, "c"))
    assert KEY in run(capsys, home, "devicekeys", "list").out
    assert json.loads(run(capsys, home, "--json", "agents", "tree").out)["partial"] is None
