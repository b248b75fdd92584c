"""One at a time, by thread: who opens a thread for a moment, and who opens it to keep it, do not meet half way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class OneByOne:
    """A lock for each thread that somebody is at."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._places: dict[str, _Place] = {}

    @contextlib.contextmanager
    def holding(self, thread_id: str) -> Iterator[None]:
        """For as long as the block lasts nobody else of this process is in such a block for the thread."""
        with self._mutex:
            place = self._places.setdefault(thread_id, _Place())
            place.wanted += 1
        try:
            with place.lock:
                yield
        finally:
            with self._mutex:
                place.wanted -= 1
                if not place.wanted:
                    del self._places[thread_id]


class _Place:
    __slots__ = ("lock", "wanted")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = 0
