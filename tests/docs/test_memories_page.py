"""The example of docs/MEMORIES.md is run, and prints what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from engine.cli import main

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs/MEMORIES.md").read_text("utf-8")


def test_the_example_of_the_memories_page_extracts_and_consolidates(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "agent-home").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert said[:2] == ["A extensions/ad_hoc/instructions.md", "A raw_memories.md"]
    assert re.fullmatch(r"A rollout_summaries/\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\w{4}-tests\.md", said[2])
    assert said[3:] == [
        "1 succeeded ['MEMORY.md', 'memory_summary.md']",
        "# Tests",
        "v1",
        "",
        "- make test",
    ]


def test_every_command_of_the_page_is_one(tmp_path: Path, capsys) -> None:
    commands = re.findall(r"\$ rolloutdb memories (\w+)", PAGE)
    assert len(commands) == 5
    for command in commands:
        assert main(["memories", command, "--help"]) == 0
        assert f"memories {command}" in capsys.readouterr().out
