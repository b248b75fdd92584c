"""What a thread shows: its own rollout, and before it the parts of those that it goes on from, wherever they are now."""

from __future__ import annotations

from engine.errors import LineageBroken
from engine.options import Options
from engine.projections.history import History, readable
from engine.stores.files import Files
from engine.stores.layout import Found, Home, find
from engine.stores.lineage import Segment, shown_lineage


class Shown:
    """Finds what the threads of one home show."""

    def __init__(self, home: Home, history: History, *, options: Options, files: Files) -> None:
        self._home = home
        self._history = history
        self._options = options
        self._files = files

    def segments(self, head: Found) -> tuple[list[Segment], bool]:
        """What a thread shows, oldest first, and whether the way to what it goes on from is broken."""
        thread_id = head.name.thread_id
        with readable(head):
            try:
                return shown_lineage(
                    self._home,
                    head,
                    lambda each: self._resolve(each, thread_id),
                    options=self._options,
                    files=self._files,
                ), False
            except LineageBroken:
                return [Segment(head, None)], True

    def _resolve(self, rollout_id: str, thread_id: str) -> Found | None:
        """A rollout by its id; by the names of the files where the rows do not know of it yet."""
        found = self._history.resolve(rollout_id)
        if found is not None:
            return found
        named = [*find(self._home, rollout_id, self._files), *find(self._home, thread_id, self._files)]
        return next((each for each in named if (each.name.own_rollout_id or each.name.thread_id) == rollout_id), None)
