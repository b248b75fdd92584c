"""The edge of the engine's own code: what every public call does first, and what never comes out of one.

A call first asks whether the engine may be used (`alive`). An error of the operating system that nothing below could say
more about comes out as `SystemRefused`, so that a caller has one root of errors to catch. Those of the caller's own
callbacks do as well, but for broken pipes and the like: no file call raises these.
"""

from __future__ import annotations

import errno
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from engine.errors import SystemRefused
from engine.stores.alive import Alive

_P = ParamSpec("_P")
_R = TypeVar("_R")
_C = TypeVar("_C", bound=type)

_MARK = "__typed__"

_DENIED = "Check who owns it and its mode, also of the folders above."
_FULL = "Make room, then call again."
_GONE = "Somebody removed or moved it: call again; `rolloutdb audit` tells what is amiss."
_TOO_MANY = "Raise the limit of open files (`ulimit -n`), or open fewer homes at once."
_HINTS = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: "Make the file system writable, or work on a copy.",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY,
}
_LOOK = "Look at the disk and at the system's log, then call again."


def typed(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """The call, out of which an error of the operating system comes as `SystemRefused`."""

    @functools.wraps(call)
    def edge(*args: _P.args, **named: _P.kwargs) -> _R:
        try:
            return call(*args, **named)
        except ConnectionError:
            raise
        except OSError as error:
            raise _refused(error) from error

    setattr(edge, _MARK, True)
    return edge


def guarded(alive: Alive, call: Callable[_P, _R]) -> Callable[_P, _R]:
    """The call, made only while the engine may be used, and `typed`. Raises `ForkedEngine`, `EngineClosed`."""
    edge = typed(call)

    @functools.wraps(call)
    def guard(*args: _P.args, **named: _P.kwargs) -> _R:
        alive.check()
        return edge(*args, **named)

    return guard


def public(cls: _C) -> _C:
    """A class whose every public method is guarded by its `_alive`; what is `typed` by itself stays as it is.

    Of a coroutine function nothing is done before it is awaited, so what it does is guarded where it does it.
    """
    for name, method in list(vars(cls).items()):
        if name.startswith("_") or not inspect.isfunction(method) or inspect.iscoroutinefunction(method):
            continue
        if not hasattr(method, _MARK):
            setattr(cls, name, _guarded_method(method))
    return cls


def _guarded_method(method: Callable[..., _R]) -> Callable[..., _R]:
    edge = typed(method)

    @functools.wraps(method)
    def guard(self: _HasAlive, *args: object, **named: object) -> _R:
        self._alive.check()
        return edge(self, *args, **named)

    return guard


class _HasAlive:
    _alive: Alive


def _refused(error: OSError) -> SystemRefused:
    path = error.filename if isinstance(error.filename, str) else None
    what = "a call" if path is None else path
    hint = _HINTS.get(error.errno or 0, _LOOK)
    return SystemRefused(f"The system refused {what}: {error.strerror or error}.", hint=hint, path=path)
