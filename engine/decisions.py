"""What is decided about threads from outside of their conversation: a record in the journal each.

A decision needs no lock of the thread and works for any thread: ours or foreign, busy, legacy or compressed. It is made
when the journal has it; the tables of facts follow at once where they can, else with the next query.
"""

from __future__ import annotations

import contextlib
from typing import Any

from engine.errors import EngineError
from engine.events.item import item_of
from engine.projections.facts import Facts
from engine.stores.journal import Journal


class Decisions:
    """Appends to one home's journal."""

    def __init__(self, journal: Journal, facts: Facts) -> None:
        self._journal = journal
        self._facts = facts

    def record(self, tag: str, thread_id: str | None, **fields: Any) -> None:
        """Write down a decision about a thread, or about none. Raises what `Journal.append` does, and `InvalidRequest`."""
        about = {} if thread_id is None else {"thread_id": thread_id}
        self._journal.append([item_of({"type": "home_event", "payload": {"type": tag, **about, **fields}})])
        with contextlib.suppress(EngineError):
            self._facts.catch_up()
