"""Who folds for nobody in particular lets others have the interpreter, often.

A thread that runs Python keeps the interpreter for 5 ms at a time (`sys.getswitchinterval`), and an append gives it up
three times, so each append beside a fold would wait for 15 ms, and on a busy machine for some times as long. The threads of
the engine's own, the timer of flushes and the background, sleep for a moment after each block instead. A fold that
somebody waits for does not, nor do theirs while somebody waits for an answer, which may need what they hold.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from engine.clock import Clock

BREATH_S = 0.00005
"""Long enough for a thread that waits for the interpreter to get it; a block is folded in some 0.3 ms and more."""

_mine = threading.local()
_waiting: list[None] = []
"""One for each answer that is waited for in this process; a list, since its append and pop need no mutex."""


def give_way(clock: Clock) -> None:
    """From now on this thread breathes."""
    _mine.clock = clock


@contextlib.contextmanager
def awaited() -> Iterator[None]:
    """Somebody waits for an answer: nobody breathes meanwhile."""
    _waiting.append(None)
    try:
        yield
    finally:
        _waiting.pop()


def breathe() -> None:
    """After a block: sleep for a moment, in a thread that gives way."""
    clock: Clock | None = getattr(_mine, "clock", None)
    if clock is not None and not _waiting:
        clock.sleep(BREATH_S)
