"""Every benchmark, one after the other, in one document; and whether a ratio became worse than the committed one.

Each benchmark is a process of its own and prints its report (`_report.py`). They share a folder, so that a home which
several of them use is made once. A benchmark that fails is told at the end, and the exit code is 1. What is compared, or
is what to compare with, has five rounds.

    python benchmarks/run.py                      # all of them; tables
    python benchmarks/run.py append peers         # some
    python benchmarks/run.py --out found.json     # and the document
    python benchmarks/run.py --quick --check      # compare with expected.json: exit code 1 on a regression
    python benchmarks/run.py --quick --expect     # what was found is what is expected from now on
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _check import EXPECTED, expected_of, regressions
from _codex import program
from _homes import say, workplace
from _report import text_of

HERE = Path(__file__).parent
BENCHMARKS = (
    "append",
    "audit",
    "backfill",
    "contention",
    "follow",
    "logs",
    "memories",
    "peers",
    "reading",
    "search",
    "turns",
)
NEEDS_A_PROGRAM = "codex"
ROUNDS_COMPARED = 5


def main() -> None:
    """Run, print, compare."""
    asked = arguments()
    documents: list[dict[str, Any]] = []
    failed: list[str] = []
    with workplace(asked.folder) as folder:
        for name in asked.benchmarks or (*BENCHMARKS, *[NEEDS_A_PROGRAM] * bool(asked.codex)):
            begun = time.monotonic()
            document = run(name, folder, asked)
            say(f"== {name}: {time.monotonic() - begun:.0f} s")
            if document is None:
                failed.append(name)
                continue
            documents.append(document)
            print(f"== {name}\n{text_of(document, markdown=asked.markdown)}\n", flush=True)
    if asked.out:
        Path(asked.out).write_text(json.dumps(documents, indent=1) + "\n")
    if asked.expect:
        EXPECTED.write_text(json.dumps(expected_of(documents, json.loads(EXPECTED.read_text())), indent=1) + "\n")
    if failed:
        print(f"failed: {', '.join(failed)}")
    if asked.check:
        worse = regressions(documents, json.loads(EXPECTED.read_text()))
        if worse or not failed:
            print("\n".join(worse) or "No ratio is worse than expected.")
        failed += worse
    sys.exit(bool(failed))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", help="which; else all, `codex` where --codex is given")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the rates mean less")
    parser.add_argument("--rounds", type=int, help="paired rounds of each (5; quick, not compared: 2)")
    parser.add_argument("--folder", help="where homes are made and kept; else a temporary one, removed at the end")
    parser.add_argument("--out", help="write the documents to this file")
    parser.add_argument("--markdown", action="store_true", help="tables as documents have them")
    parser.add_argument("--codex", type=program, help="the Codex CLI's binary: measure beside it, too")
    parser.add_argument("--check", action="store_true", help="compare ratios with the expected ones")
    parser.add_argument("--expect", action="store_true", help="write the ratios of this run as the expected ones")
    asked = parser.parse_args()
    if asked.check or asked.expect:
        asked.rounds = asked.rounds or ROUNDS_COMPARED
    return asked


def run(name: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any] | None:
    """One benchmark's document; None where it failed."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", "--folder", str(folder)]
    command += ["--quick"] * asked.quick
    command += ["--rounds", str(asked.rounds)] if asked.rounds else []
    command += ["--codex", asked.codex] if name == NEEDS_A_PROGRAM and asked.codex else []
    # Users have byte code; without it every process of a measurement would compile what it imports.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(folder / "byte-code")
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, env=env)
    if done.returncode:
        return None
    document: dict[str, Any] = json.loads(done.stdout)
    return document


if __name__ == "__main__":
    main()
