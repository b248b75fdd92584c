"""A clock that moves only when a test moves it.

Implements `engine.clock.Clock`. Wall time and boot time are separate, so that a test can set the wall clock back (a
time sync, a changed time zone) while time since boot goes on. `sleep` does not wait: it moves both.
"""

from __future__ import annotations

import random
import threading

from engine.clock import timestamp_of, uuid7

MORNING_MS = 1_767_603_600_000
"""2026-01-05T09:00:00Z, where a plan's home starts too."""


class ManualClock:
    """Time under a test's control; safe to share between threads."""

    def __init__(self, wall_ms: int = MORNING_MS, boot_ms: int = 1_000_000, seed: int = 0) -> None:
        self._wall_ms = wall_ms
        self._boot_ms = boot_ms
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.slept_s: list[float] = []

    def wall_ms(self) -> int:
        return self._wall_ms

    def boot_ms(self) -> int:
        return self._boot_ms

    def elapsed_s(self) -> float:
        return self._boot_ms / 1000

    def sleep(self, seconds: float) -> None:
        """Move time on without waiting; `slept_s` remembers each call."""
        self.slept_s.append(seconds)
        self.advance(round(seconds * 1000))

    def fraction(self) -> float:
        with self._lock:
            return self._random.random()

    def timestamp(self) -> str:
        return timestamp_of(self._wall_ms)

    def new_id(self) -> str:
        with self._lock:
            return uuid7(self._wall_ms, self._random.getrandbits(74))

    def local_time(self, wall_ms: int) -> str:
        """As if the machine were in UTC."""
        return timestamp_of(wall_ms)[:19].replace(":", "-")

    def advance(self, ms: int) -> None:
        """Let time pass: both clocks move on by `ms`."""
        if ms < 0:
            raise ValueError(f"time does not run backwards: advance({ms}); use set_wall_ms to set the wall clock back")
        with self._lock:
            self._wall_ms += ms
            self._boot_ms += ms

    def set_wall_ms(self, wall_ms: int) -> None:
        """Set the wall clock, to any time; time since boot is untouched."""
        with self._lock:
            self._wall_ms = wall_ms

    def reboot(self) -> None:
        """Start counting boot time anew."""
        with self._lock:
            self._boot_ms = 0
