"""What a query does before it answers: see one's own writes, what was decided, and what changed on disk, each bounded.

A failure of any of the three makes the answer older, never fails it.
"""

from __future__ import annotations

import contextlib

from engine.errors import StoreBusy, StoreReadOnly
from engine.projections.catchup import CatchUp, Partial
from engine.projections.facts import Facts
from engine.projections.flush import QUERY_WAIT_S, Flush


class Fresh:
    """Brings rows up to date for one answer."""

    def __init__(self, flush: Flush, facts: Facts, catch_up: CatchUp) -> None:
        self._flush = flush
        self._facts = facts
        self._catch_up = catch_up

    def look(self) -> Partial | None:
        """None where the rows cover every file, else how far they are."""
        with contextlib.suppress(StoreBusy, StoreReadOnly):
            self._flush.flush(wait_s=QUERY_WAIT_S)
        with contextlib.suppress(StoreBusy, StoreReadOnly, OSError):
            self._facts.catch_up()
        return self._catch_up.look()
