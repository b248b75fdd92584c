"""The only door for time, randomness and new ids.

Everything non-deterministic enters the engine through a `Clock`, so that a test can hand in its own
(`engine.testing.ManualClock`). No other module asks the operating system for the time, a random number or an id.
"""

from __future__ import annotations

import random
import time
from typing import Protocol

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC))
"""Linux counts sleep in CLOCK_BOOTTIME; macOS has CLOCK_UPTIME_RAW, which does not, and is the nearest it offers."""


class Clock(Protocol):
    """What the engine asks of time. All values are integers or seconds as named."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds; may jump either way."""
        ...

    def boot_ms(self) -> int:
        """Milliseconds since boot; never jumps, comparable between processes of one boot."""
        ...

    def elapsed_s(self) -> float:
        """A monotonic number of seconds for measuring how long something took."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def fraction(self) -> float:
        """A random number in [0, 1), for jitter."""
        ...


class SystemClock:
    """The machine's own clock."""

    def __init__(self) -> None:
        self._random = random.Random()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(_BOOTTIME) // 1_000_000

    def elapsed_s(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def fraction(self) -> float:
        return self._random.random()
