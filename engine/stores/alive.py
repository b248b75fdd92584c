"""Whether an engine may still be used: it is open, and this is the process that opened it.

A forked child has copies of the parent's descriptors, connections and mutexes, and none of its locks or threads: nothing of
the engine works there, and SQLite forbids to use its connections. So every call asks first, before it takes a mutex that
may be held by a thread that is not there.
"""

from __future__ import annotations

import os

from engine.errors import EngineClosed, ForkedEngine


class Alive:
    """The state of one engine, shared by all that belongs to it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._closed = False

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a forked child."""
        return os.getpid() != self._pid

    def close(self) -> None:
        """Refuse every later call."""
        self._closed = True

    def check(self) -> None:
        """Raises `ForkedEngine` or `EngineClosed`."""
        if os.getpid() != self._pid:
            raise ForkedEngine(
                "This process is a fork of the one that opened the home.", hint="Open the home again in this process."
            )
        if self._closed:
            raise EngineClosed("The home is closed here.", hint="Open it again.")
