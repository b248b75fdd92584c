"""The README's examples are run: each block of commands in a shell, the Python as it stands, and the output is what it shows.

Times, rates and how long ago something was are not compared. What installs or runs `make` is left out.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine.testing import HomePlan, MadeThread, make_home

CHECKOUT = Path(__file__).resolve().parents[2]
README = (CHECKOUT / "README.md").read_text("utf-8")
BLOCKS = [block for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) if "rolloutdb" in block]
LEFT_OUT = ("make ", "pip install ")


@pytest.fixture
def made(tmp_path: Path) -> list[MadeThread]:
    """A user's usual home, five threads in it."""
    return make_home(tmp_path / "user" / ".codex", HomePlan(threads=5, seed=2))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user's environment: `rolloutdb` and `python` are those of this checkout."""
    programs = tmp_path / "bin"
    programs.mkdir()
    command = "import sys; from engine.cli import main; sys.exit(main())"
    scripts = {
        "python": f'exec {shlex.quote(sys.executable)} "$@"',
        "rolloutdb": f'exec {shlex.quote(sys.executable)} -c {shlex.quote(command)} "$@"',
    }
    for name, line in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in ("ROLLOUTDB_HOME", "CODEX_HOME")}
    paths = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path / "user")}
    return {**kept, **paths, "COLUMNS": "100", "TERM": "dumb"}


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_commands_of_the_readme_end_well_and_show_what_it_shows(
    block: str, made: list[MadeThread], environment: dict[str, str], tmp_path: Path
) -> None:
    lines = [line for line in block.splitlines() if not line.startswith(tuple(f"$ {word}" for word in LEFT_OUT))]
    shows_output = any(not line.startswith("$ ") for line in lines)
    script = ["shopt -s expand_aliases", "set -o pipefail"]
    for line in (line for line in lines if line.startswith("$ ")):
        script += [f"printf '%s\\n' {shlex.quote(line)}", line[2:], 'code=$?; [ $code = 0 ] || echo "exit code $code"']
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    shown = done.stdout.splitlines()
    if shows_output:
        assert [settled(line) for line in shown] == [settled(line) for line in lines]
    else:
        assert [line for line in shown if line.startswith(("exit code", "error", "bash:"))] == []
        assert [line for line in shown if line.startswith("$ ")] == lines


def python(number: int, environment: dict[str, str], folder: Path) -> str:
    """Run a block of Python of the README; what it printed."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks[number]],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_python_of_the_readme_lists_the_threads(
    made: list[MadeThread], environment: dict[str, str], tmp_path: Path
) -> None:
    said = python(0, environment, tmp_path)
    assert [thread.id for thread in made if thread.id not in said] == []
    assert not (tmp_path / "user" / ".codex" / "engine").exists()


def test_the_python_of_the_readme_that_writes_has_written_what_it_says(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The thread is named and archived; its fork has all of it and goes on under another model."""
    (tmp_path / "agent-home").mkdir()
    said = python(1, environment, tmp_path).splitlines()
    assert re.fullmatch(r"Position\(ordinal=11, offset=\d+\) durable", said[0])
    kinds = [line.split()[1] for line in said[1:]]
    assert [line.split()[0] for line in said[1:]] == [str(ordinal) for ordinal in range(len(kinds))]
    assert kinds.count("session_meta") == 2
    assert kinds[-1] == "event_msg.thread_settings_applied"
    with engine.open(str(tmp_path / "agent-home")) as e:
        rows = e.threads.list(sort_key="created_at", sort_direction="asc").threads
        assert [(row.name, row.archived, row.model) for row in rows] == [
            ("the readme", True, "some-model"),
            (None, False, "another-model"),
        ]
        assert e.audit(deep=True).findings == []


def test_every_command_in_the_table_of_the_readme_is_one(environment: dict[str, str], tmp_path: Path) -> None:
    cells = re.findall(r"^\| (`rolloutdb .*?) \|", README, re.MULTILINE)
    commands = [command for cell in cells for command in re.findall(r"`rolloutdb ([a-z ]+?)(?: ID| WORDS)?`", cell)]
    assert {"backfill", "demo", "threads list", "threads rename", "threads archive", "threads fork"} <= set(commands)
    assert {"goals show", "search"} <= set(commands)
    for command in commands:
        done = subprocess.run(
            ["rolloutdb", *command.split(), "--help"], capture_output=True, check=False, env=environment, timeout=60
        )
        assert done.returncode == 0


def settled(line: str) -> str:
    """A line without what differs from run to run: speed, and how long ago something was."""
    line = re.sub(r"in \d+\.\d\d s, [\d.,]+ \w+/s", "in T, R", line)
    return re.sub(r" +(\d{4}-\d\d-\d\d|\d+ (?:days?|h|min) ago|just now|updated) ", " WHEN ", line).rstrip()
