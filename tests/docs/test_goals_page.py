"""The example of docs/GOALS.md is run, and prints what it should; the page names every call."""

from __future__ import annotations

from pathlib import Path

from engine.events.goals import MODES, STATUSES
from engine.goals import Goals
from tests.pages import examples_of, printed_by, text_of

PAGE = text_of("GOALS.md")


def test_the_example_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    (block,) = examples_of("GOALS.md")
    printed = printed_by(block, tmp_path)
    assert printed == [
        "active 1000",
        "active",
        "budget_limited",
        "budget_limited",
        "active",
        "True",
        "[300, 700]",
        "complete 1000 None",
    ]


def test_the_page_names_every_call_status_and_mode() -> None:
    calls = [name for name in vars(Goals) if not name.startswith("_")]
    assert [name for name in (*calls, *STATUSES, *MODES) if f"`{name}" not in PAGE] == []
