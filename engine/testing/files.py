"""Doubles of the files seam: one that remembers every call, one that fails the call that a test names.

Both stand before a real `engine.stores.files.Files` (or before each other) and have its methods, so they go wherever it
goes: `engine.open(home, files=RecordingFiles(Files()))`. A failure is what the operating system would have done: the
methods that answer None or False instead of raising do so here, a name that is not there (ENOENT) is None to `stat` and
`kind`, and a `close` that fails has closed.
"""

from __future__ import annotations

import contextlib
import errno as errno_module
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

_ANSWERS: dict[str, object] = {
    "folder": None,
    "read_small": None,
    "read_all": None,
    "read_link": None,
    "writable": False,
}
"""What methods that never raise answer where the operating system fails."""

_ABSENT_IS_NONE = frozenset({"stat", "kind", "remove"})
_OPENERS = frozenset({"open_read", "open_lock", "open_append", "open_update", "create"})
_WRITES = frozenset({"write", "pwrite"})

SHORT = -1
"""A fault of `FaultyFiles`: a write takes half of its bytes, and says so; other calls pass."""


class Call(NamedTuple):
    """One call of the seam. `path` is that of the open file where the call was given a descriptor, None for neither."""

    name: str
    op: str
    path: str | None


class RecordingFiles:
    """Passes every call on and keeps it in `calls`, in order; safe to share between threads."""

    def __init__(self, files: Any) -> None:
        """`files` is the double's real thing: a `Files`, or another double."""
        self._files = files
        self._paths: dict[int, str] = {}
        self._lock = threading.Lock()
        self.calls: list[Call] = []

    def forget(self) -> None:
        """Begin to record anew."""
        with self._lock:
            self.calls = []

    def count(self, name: str, *, op: str | None = None) -> int:
        """How often a method was called, with this op name or any."""
        return sum(call.name == name and op in (None, call.op) for call in self.calls)

    def paths(self, name: str, *, op: str | None = None) -> list[str]:
        """The paths that a method was called with, in order."""
        return [call.path or "" for call in self.calls if call.name == name and op in (None, call.op)]

    @contextlib.contextmanager
    def reading(self, path: str, *, op: str) -> Iterator[int]:
        """`open_read` and `close` around a block, each a call of its own."""
        fd = self.open_read(path, op=op)
        try:
            yield fd
        finally:
            self.close(fd, op=op)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        real = getattr(self._files, name)

        def call(*args: Any, op: str, **named: Any) -> Any:
            return self._pass_on(name, real, args, op, named)

        return call

    def _pass_on(self, name: str, real: Callable[..., Any], args: Sequence[Any], op: str, named: dict[str, Any]) -> Any:
        first = args[0] if args else None
        path = first if isinstance(first, str) else self._paths.get(first) if isinstance(first, int) else None
        with self._lock:
            number = len(self.calls)
            self.calls.append(Call(name, op, path))

        def proceed(*others: Any) -> Any:
            return real(*(others or args), op=op, **named)

        answer = self._around(number, Call(name, op, path), args, proceed)
        if name in _OPENERS:
            self._paths[answer] = str(path)
        return answer

    def _around(self, number: int, call: Call, args: Sequence[Any], proceed: Callable[..., Any]) -> Any:
        """Make the call; `proceed` takes other arguments instead of its own."""
        return proceed()


class FaultyFiles(RecordingFiles):
    """Fails calls as `fault` says, and passes on the others.

    `fault` is given the number of the call (from 0, since the last `forget`) and the call, and answers an errno, `SHORT`, or
    None to let it pass. `struck` are the calls that failed.
    """

    def __init__(self, files: Any, fault: Callable[[int, Call], int | None]) -> None:
        super().__init__(files)
        self._fault = fault
        self.struck: list[Call] = []

    def _around(self, number: int, call: Call, args: Sequence[Any], proceed: Callable[..., Any]) -> Any:
        errno = self._fault(number, call)
        if errno is None or (errno == SHORT and call.name not in _WRITES):
            return proceed()
        self.struck.append(call)
        if errno == SHORT:
            fd, data, *rest = args
            return proceed(fd, data[: (len(data) + 1) // 2], *rest)
        if call.name == "close":
            proceed()
        if call.name in _ANSWERS:
            return _ANSWERS[call.name]
        if call.name in _ABSENT_IS_NONE and errno == errno_module.ENOENT:
            return None
        raise OSError(errno, os.strerror(errno), call.path)


def fail_once(number: int, errno: int) -> Callable[[int, Call], int | None]:
    """A fault for `FaultyFiles`: the call of this number fails, all others pass."""
    return lambda at, _call: errno if at == number else None
