"""Waits until something may have changed in some folders, at most for a moment.

Where the `watchfiles` package is installed (the extra `watch`) and the system tells of changes, waiting ends with the
names of what changed; else it ends when the moment is over. Nothing is certain: events get lost when a queue overflows,
when folders are as new as what is in them, or where a network file system has none. Whoever waits must look for itself
now and then, and the less often the more is told: `poll_s` says how often.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from engine.clock import Clock
from engine.options import Options

_TICK_MS = 250
"""How long one wait for events lasts at most."""

_STEP_MS = 10
_GATHER_MS = 50
"""Events come when there was none for a step, or when they were gathered for so long."""

_SPARSE = 10
"""How many times less often what events tell of has to be looked at."""


class Watch:
    """Waits for one follower; `stop` set from any thread ends every wait soon."""

    def __init__(self, stop: threading.Event, *, options: Options, clock: Clock) -> None:
        self._stop = stop
        self._clock = clock
        self._poll_s = options.follow_poll_ms / 1000
        self._events: Iterator[set[tuple[Any, str]]] | None = None

    @property
    def poll_s(self) -> float:
        """How often what is known to be busy has to be looked at."""
        return self._poll_s if self._events is None else self._poll_s * _SPARSE

    def begin(self, folders: Sequence[str]) -> None:
        """Be told of what changes in and below these folders from the next wait on, where that can be."""
        self.end()
        try:
            from watchfiles import watch  # noqa: PLC0415 - an extra, and slow to import
        except ImportError:
            return
        if folders:
            self._events = watch(
                *folders,
                watch_filter=None,
                debounce=_GATHER_MS,
                step=_STEP_MS,
                stop_event=self._stop,
                rust_timeout=_TICK_MS,
                yield_on_timeout=True,
                debug=False,
                raise_interrupt=True,
                force_polling=False,
                recursive=True,
                ignore_permission_denied=True,
            )

    def wait(self) -> set[str]:
        """The absolute paths that are known to have changed."""
        if self._events is None:
            self._clock.sleep(self._poll_s)
            return set()
        try:
            return {path for _, path in next(self._events, ())}
        except Exception:  # noqa: BLE001 - whatever it is that cannot be watched (a limit, a name), it can be looked at
            self.end()
            return set()

    def end(self) -> None:
        """Let go of what the system keeps for it."""
        events, self._events = self._events, None
        if events is not None:
            events.close()  # type: ignore[attr-defined]  # a generator, whose protocol says only that it is iterated
