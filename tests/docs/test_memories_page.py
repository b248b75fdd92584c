"""The example of docs/MEMORIES.md is run, and prints what it should."""

from __future__ import annotations

import re
from pathlib import Path

from engine.cli import main
from tests.pages import examples_of, printed_by, text_of

PAGE = text_of("MEMORIES.md")


def test_the_example_of_the_memories_page_extracts_and_consolidates(tmp_path: Path) -> None:
    (block,) = examples_of("MEMORIES.md")
    (tmp_path / "agent-home").mkdir()
    printed = printed_by(block, tmp_path)
    said = printed
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
