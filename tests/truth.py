"""Which calls may take a rollout away, over the whole run of the tests (promise L7).

Every removal, renaming and cutting of a rollout that any test brings about is looked at, in this process: its `op` says
which operation of the engine it belongs to, and only those here may do it. Tests themselves use no `Files`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from engine.stores.files import Files

MAY = {
    "archive.remove": "the old name of a rollout that has its new one",
    "compress.remove": "what became the other form of the same rollout, and was read again",
    "compress.settle": "of two forms of a rollout, the one that the other was made from or became",
    "compress.undo": "the other form, when somebody appended meanwhile",
    "erase.remove": "an erasure without grace",
    "trash.move": "an erasure with grace",
    "trash.moved": "the same, after a copy to the trash of another file system",
    "trash.remove": "the trash, when it is due",
    "recorder.undo": "a first append that failed, or what a failed append wrote",
    "recorder.trim": "a torn tail, kept aside before",
}


class Guard:
    """What else was taken away."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def note(self, op: str, path: str) -> None:
        """This path is being removed, renamed or cut."""
        if is_rollout(path) and op not in MAY:
            self.found.add(f"{op}: {path}")


def is_rollout(path: str) -> bool:
    """Whether a path is that of a rollout, in its folder or in the trash."""
    is_named_so = os.path.basename(path).startswith("rollout-") and path.endswith((".jsonl", ".jsonl.zst"))
    return is_named_so and ("/sessions/" in path or "/archived_sessions/" in path)


def watch(guard: Guard, patch: pytest.MonkeyPatch) -> None:
    """Have the guard told of every such call."""

    def told(name: str, path_of: Callable[..., str]) -> None:
        plain = getattr(Files, name)

        @wraps(plain)
        def call(self: Files, *values: Any, op: str) -> Any:
            guard.note(op, path_of(*values))
            return plain(self, *values, op=op)

        patch.setattr(Files, name, call)

    for name in ("remove", "rename", "replace_small"):
        told(name, lambda path, *_: path)
    told("truncate", lambda fd, _: os.readlink(f"/proc/self/fd/{fd}") if os.path.isdir("/proc/self/fd") else "")
