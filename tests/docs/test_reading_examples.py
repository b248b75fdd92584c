"""The example of docs/READING.md is run, and prints what it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_example_of_the_reading_page_reads_and_follows(tmp_path: Path) -> None:
    block, _ = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs/READING.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "agent-home").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "newest [15, 14, 13]",
        "older [12, 11, 10]",
        "since [13, 14, 15]",
        "context ['message', 'message', 'message'] some-model",
        "followed 20",
        "new None",
    ]


def test_the_example_of_the_search_finds_what_it_says(tmp_path: Path) -> None:
    _, block = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs/READING.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "searched-home").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "user Why does the write lock time out? ['lock']",
        "agent The second process holds the lock while it waits for the disk. ['lock']",
        "user Then give the lock back first. ['lock']",
        "phrase 1",
        "beginning 1",
        "name ['Lock time-outs']",
        "fork 3",
        "next 2 None",
    ]
