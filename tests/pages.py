"""The examples of the documents, to be run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def text_of(page: str) -> str:
    """A page of `docs/`."""
    return (CHECKOUT / "docs" / page).read_text("utf-8")


def examples_of(page: str) -> list[str]:
    """Its blocks of Python."""
    return re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)


def printed_by(block: str, folder: Path) -> list[str]:
    """The lines that it prints in this folder; any warning, word on standard error or exit code but 0 fails the test."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
