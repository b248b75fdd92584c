"""Processes that measure: one for each measurement, and such as are started once and then told, so that no import is in it.

`measure` runs a case of `_measure.py`. Of a pool the parent sends a line of JSON to each of the processes that take part,
`{"do": NAME, …}`, and reads a line from each. `serve` is the child's side: it calls the function of that name. Something that
fails in a child fails in the parent, with the child's own words.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def measure(case: str, home: Path, folder: Path, workers: int = 0) -> dict[str, Any]:
    """What a case of `_measure.py` finds, in a process of its own, with databases that nobody used before."""
    script = Path(__file__).with_name("_measure.py")
    with tempfile.TemporaryDirectory(prefix="state-", dir=folder) as state:
        command = [sys.executable, str(script), case, str(home), state, str(workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=1_200)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class ChildFailed(RuntimeError):
    """What a child said when it failed."""


class Pool:
    """So many processes of one command."""

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)
        ]

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The answers of the first so many processes, which work at the same time."""
        asked = self._children[: len(messages)]
        for child, message in zip(asked, messages, strict=True):
            assert child.stdin is not None
            child.stdin.write(json.dumps(message).encode() + b"\n")
            child.stdin.flush()
        answers = []
        for child in asked:
            assert child.stdout is not None
            line = child.stdout.readline()
            answers.append(json.loads(line) if line else {"failed": f"the process ended with {child.wait()}"})
        for answer in answers:
            if isinstance(answer, dict) and "failed" in answer:
                raise ChildFailed(answer["failed"])
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if kind is not None:
                child.kill()
            child.communicate()


def serve(work: Mapping[str, Callable[..., Any]]) -> None:
    """Do what is asked until nobody asks any more."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = work[message.pop("do")](**message)
        except Exception:  # noqa: BLE001 - told to the parent, which raises it
            answer = {"failed": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
