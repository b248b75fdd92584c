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


CASES = {"s": 9, "c": 12, "p": 16, "l": 13, "g": 9, "f": 15, "w": 11, "a": 6, "r": 12, "me": 42}
"""How many cases of each letter the Codex CLI's behaviour is written down in."""


def test_every_case_has_a_test_with_its_id_or_a_row_that_says_why_not() -> None:
    names = {
        part
        for path in Path(__file__).parents[1].rglob("test_*.py")
        if re.search("memor|stores.jobs", path.read_text("utf-8"))
        for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
        for part in name.split("_")
    }
    table = PAGE.partition("## Cases not kept, and why")[2]
    told = {
        each.lower().replace("-", "")
        for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
        for each in re.findall(r"[A-Z]+-?\d+", row)
    }
    wanted = {
        f"{letter}{number:02}" if letter == "me" else f"{letter}{number}"
        for letter, count in CASES.items()
        for number in range(1, count + 1)
    }
    assert sorted(wanted - names - told) == []
    assert sorted(told - wanted) == []
