"""Who folds for nobody in particular lets others have the interpreter, often.

A thread that runs Python keeps the interpreter for 5 ms at a time (`sys.getswitchinterval`), and an append gives it up
three times, so each append beside a fold would wait for 15 ms, and on a busy machine for some times as long. The threads of
the engine's own, the timer of flushes and the background, sleep for a moment after each block instead. A fold that
somebody waits for does not.
"""

from __future__ import annotations

import threading

from engine.clock import Clock

BREATH_S = 0.00005
"""Long enough for a thread that waits for the interpreter to get it; a block is folded in some 0.3 ms and more."""

_mine = threading.local()


def give_way(clock: Clock) -> None:
    """From now on this thread breathes."""
    _mine.clock = clock


def breathe() -> None:
    """After a block: sleep for a moment, in a thread that gives way."""
    clock: Clock | None = getattr(_mine, "clock", None)
    if clock is not None:
        clock.sleep(BREATH_S)
