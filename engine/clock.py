"""The only door for time, randomness and new ids.

Everything non-deterministic enters the engine through a `Clock`, so that a test can hand in its own
(`engine.testing.ManualClock`). No other module asks the operating system for the time, a random number or an id.
"""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime
from functools import lru_cache
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

    def timestamp(self) -> str:
        """The wall time as records have it: `2026-01-05T09:00:00.000Z`."""
        ...

    def new_id(self) -> str:
        """A new UUIDv7, which begins with the wall time."""
        ...

    def local_time(self, wall_ms: int) -> str:
        """A time as file names have it: local wall-clock time, `2026-01-05T09-00-00`."""
        ...


def timestamp_of(wall_ms: int) -> str:
    """Unix milliseconds as RFC 3339 UTC text with milliseconds, as records have it."""
    return f"{_seconds_text(wall_ms // 1000)}.{wall_ms % 1000:03d}Z"


def uuid7(wall_ms: int, randomness: int) -> str:
    """A UUIDv7 (RFC 9562) of a time and 74 random bits."""
    value = (
        (wall_ms & (1 << 48) - 1) << 80
        | 0x7 << 76
        | (randomness >> 62 & 0xFFF) << 64
        | 0b10 << 62
        | randomness & (1 << 62) - 1
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@lru_cache(maxsize=8)
def _seconds_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")


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

    def timestamp(self) -> str:
        wall_ms = time.time_ns() // 1_000_000
        return f"{_seconds_text(wall_ms // 1000)}.{wall_ms % 1000:03d}Z"  # as `timestamp_of`; asked for by every append

    def new_id(self) -> str:
        return uuid7(self.wall_ms(), int.from_bytes(os.urandom(10), "big"))

    def local_time(self, wall_ms: int) -> str:
        return time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(wall_ms // 1000))
