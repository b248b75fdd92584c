"""What is said when a command does not come to its end: one sentence, one thing to do, and a code."""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple

from engine.cli import FAILED, INTERRUPTED, USAGE
from engine.errors import EngineError


class Failure(NamedTuple):
    """A command's failure: for people by `lines`, for programs by `document`."""

    exit_code: int
    class_: str
    message: str
    hint: str
    path: str | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The value of `error` in a JSON answer."""
        return {"class": self.class_, "message": self.message, "hint": self.hint or None, "path": self.path}

    @property
    def lines(self) -> list[str]:
        """What standard error shows."""
        return [f"error: {self.message}", *([f"hint: {self.hint}"] if self.hint else [])]


def describe(error: BaseException) -> Failure:
    """The failure behind an exception, whatever it is."""
    if isinstance(error, EngineError):
        return Failure(error.exit_code, type(error).__name__, error.message, error.hint, error.path)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        hint = "What was done is kept; run the command again to go on."
        return Failure(INTERRUPTED, "Interrupted", "Stopped before the end.", hint)
    usage = _usage(error)
    if usage is not None:
        return usage
    if isinstance(error, OSError):
        path = error.filename if isinstance(error.filename, str) else None
        what = f"{path}: " if path else ""
        hint = "Look at the file and its folder." if path else "Look at the disk, and at where the output goes."
        return Failure(FAILED, "OSError", f"{what}{error.strerror or error}.", hint, path)
    return _unexpected(error)


def _usage(error: BaseException) -> Failure | None:
    """A usage error, told by sight: typer does not say where it keeps the class of its own."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "rolloutdb"
    message = format_message().replace("Value error, ", "")  # pydantic's words, which say nothing here
    return Failure(USAGE, "UsageError", message, f"`{command} --help` tells how it is used.")


def _unexpected(error: BaseException) -> Failure:
    """A fault of ours. The place is in the sentence, since no traceback is shown."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    message = f"{type(error).__name__}{place}: {error}"
    hint = "This is a fault of rolloutdb: please report this line and the command. The rollouts are as they were."
    return Failure(FAILED, type(error).__name__, message, hint)
