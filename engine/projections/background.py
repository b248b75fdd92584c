"""What an open engine does by itself: chores, one after the other, in a thread that takes a small share of the time.

A chore is a function that is given `rest` and calls it after each bounded piece of its work; `rest` sleeps `REST_SHARE`
times as long as the piece took, and answers whether it is time to stop. Chores run once a moment after the open, so that
the first question need not share the processor with them, and again every `interval_s`. The thread holds nothing while it
rests, so an append, a query or a back-fill never waits for more than one piece. While appends come without a rest the next
piece waits for their end, in each round for at most as long as rounds are apart. A chore that fails is counted, told by
`status`, and run again the next time; closing ends it at its next rest. A forked child has no such thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.clock import Clock
from engine.errors import StoreBusy
from engine.projections.breath import give_way

Chore = Callable[[Callable[[], bool]], None]

REST_SHARE = 4
"""A fifth of one processor is the most that it takes."""

REST_S_MIN = 0.002
REST_S_MAX = 2.0

FIRST_AFTER_S = 0.3
"""How long after the open the first round begins, unless it is asked for: a little longer than a list may look at files."""

LOOK_S = 0.02
APPENDS_A_SECOND = 200
"""As many are writers that do nothing else; whether they still do is looked at so often."""

CLOSE_WAIT_S = 1.0
"""How long closing waits for the piece under way. One that takes longer (a very large rollout) ends by itself, unwritten."""


@dataclass(slots=True)
class BackgroundCounters:
    """Chores that came to their end, and those that failed."""

    chores_done: int = 0
    chores_failed: int = 0


class Background:
    """The thread of one engine. `last_error` is what the last failure said, None where the last round had none."""

    def __init__(
        self, chores: Mapping[str, Chore], appends: Callable[[], int], *, interval_s: float, clock: Clock
    ) -> None:
        """`appends` tells how many there were in this process."""
        self._chores = chores
        self._appends = appends
        self._interval_s = interval_s
        self._clock = clock
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._piece_begun_s = 0.0
        self._patience_s = 0.0
        self.counters = BackgroundCounters()
        self.last_error: str | None = None

    def start(self) -> None:
        """Begin, unless the interval says that there is to be none."""
        if self._interval_s > 0 and self._chores:
            self._thread = threading.Thread(target=self._run, name="rolloutdb-background", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Begin the next round as soon as this one is at its end."""
        self._wake.set()

    def close(self) -> None:
        """End at the next rest; a second call does nothing."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_WAIT_S)

    def _run(self) -> None:
        give_way(self._clock)
        self._wake.wait(FIRST_AFTER_S)
        self._wake.clear()
        while not self._stop.is_set():
            self._patience_s = self._interval_s
            self._sleep(LOOK_S)
            errors = [error for name, chore in self._chores.items() if (error := self._failure_of(name, chore))]
            self.last_error = errors[-1] if errors else None
            # Engines that were opened together look at the home at different times.
            self._wake.wait(self._interval_s * (0.9 + 0.2 * self._clock.fraction()))
            self._wake.clear()

    def _failure_of(self, name: str, chore: Chore) -> str | None:
        """Do it; what went wrong. A lock that somebody else keeps is no failure: it is tried again in the next round."""
        self._piece_begun_s = self._clock.elapsed_s()
        try:
            if not self._stop.is_set():
                chore(self._rest)
        except StoreBusy:
            return None
        except Exception as error:  # noqa: BLE001 - nobody is there to catch it, and a thread that ends tells nobody
            if self._stop.is_set():
                return None  # the engine was closed under it
            self.counters.chores_failed += 1
            return f"{name}: {error}"
        self.counters.chores_done += 1
        return None

    def _rest(self) -> bool:
        worked_s = self._clock.elapsed_s() - self._piece_begun_s
        stopped = self._sleep(min(max(worked_s * REST_SHARE, REST_S_MIN), REST_S_MAX))
        self._piece_begun_s = self._clock.elapsed_s()
        return stopped

    def _sleep(self, seconds: float) -> bool:
        """Rest for so long, and on while appends come without a rest; whether it is time to stop."""
        while True:
            before = self._appends()
            if self._stop.wait(seconds):
                return True
            if self._patience_s <= 0 or self._appends() - before < seconds * APPENDS_A_SECOND:
                return False
            seconds = LOOK_S
            self._patience_s -= LOOK_S
