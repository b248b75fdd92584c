"""The example of docs/GOALS.md is run, and prints what it should; the page names every call."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from engine.events.goals import MODES, STATUSES
from engine.goals import Goals

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs/GOALS.md").read_text("utf-8")


def test_the_example_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(CHECKOUT)},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
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
