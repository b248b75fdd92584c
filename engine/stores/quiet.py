"""Where the engine works on logs, nothing is logged: a log that tells of its own writing would never end.

`quiet()` around a block makes every log handler of the engine pass over records that this thread makes inside of it,
whoever makes them: a file layer, an audit hook, a library.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class _Here(threading.local):
    deep = 0


_here = _Here()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, this thread's log records go nowhere."""
    _here.deep += 1
    try:
        yield
    finally:
        _here.deep -= 1


def is_quiet() -> bool:
    """Whether this thread is at work on logs."""
    return _here.deep > 0
