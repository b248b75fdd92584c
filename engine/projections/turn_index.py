"""The index of turns and items as a home has it: `history_1.sqlite`, filled for the threads that are asked for.

A question finds the thread's head and what it goes on from, folds what of these rollouts is behind for at most
`FOLLOW_MS`, and is answered in one snapshot; what the picked rows point to is read from the rollouts behind it. So a thread
that was dropped in, forked, reverted or moved is there at the first question, and so is everything after the file was
lost. All other rollouts are left to the background and the back-fill.

`partial` of an answer counts the thread's own rollouts: not all of a large one was folded yet, somebody keeps the file
locked, a rollout cannot be read, or one that the thread goes on from is not there, and the rest is shown without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from engine.events.record import decode_as
from engine.options import Options
from engine.projections.catchup import Partial
from engine.projections.history import History
from engine.projections.shown import Shown
from engine.projections.side import Parts, Side
from engine.projections.turn_list import (
    ItemPage,
    ItemQuery,
    TurnPage,
    TurnQuery,
    pick_items,
    pick_turns,
    read_picked_items,
    read_turns,
)
from engine.projections.turn_rows import STREAM_TABLES
from engine.projections.turns import Turns
from engine.stores import migrate
from engine.stores.bodies import Bodies
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.lineage import Segment
from engine.stores.link import files_translated
from engine.stores.sqlite import Transaction
from engine.stores.writer_lock import live_owner

HISTORY = "history"
HISTORY_SHAPE = 1

FOLLOW_MS = 2_000
"""How long one question may fold the rollouts of its thread: a bound for hundreds of megabytes that nobody indexed yet."""

_Picked = TypeVar("_Picked")
_Asked = Callable[[Transaction, list[Segment], bool], _Picked]
"""Picks rows of a thread's segments, told whether somebody holds the thread."""


def history_side(parts: Parts) -> Side:
    """The side database of turns and items."""
    with files_translated("open", HISTORY):
        schema = migrate.load(HISTORY, parts.files)
    return Side(parts, HISTORY, HISTORY_SHAPE, [Turns()], schema, STREAM_TABLES, decode=decode_as)


class TurnIndex:
    """Answers pages of one thread's turns and items."""

    def __init__(self, home: Home, side: Side, history: History, *, options: Options, files: Files) -> None:
        self._home = home
        self._side = side
        self._history = history
        self._shown = Shown(home, history, options=options, files=files)
        self._options = options
        self._files = files

    def turns(self, thread_id: str, query: TurnQuery) -> TurnPage:
        """A page of turns. Raises as `engine.turns.list` does."""
        picked, partial = self._ask(
            thread_id,
            lambda transaction, segments, running: pick_turns(
                transaction, thread_id, segments, replace(query, running=running)
            ),
        )
        with Bodies(self._home, options=self._options, files=self._files) as bodies:
            return replace(read_turns(picked, bodies), partial=partial)

    def items(self, thread_id: str, query: ItemQuery) -> ItemPage:
        """A page of items. Raises as `engine.items.list` does."""
        picked, partial = self._ask(
            thread_id,
            lambda transaction, segments, running: pick_items(
                transaction, thread_id, segments, replace(query, running=running)
            ),
        )
        with Bodies(self._home, options=self._options, files=self._files) as bodies:
            return replace(read_picked_items(picked, bodies), partial=partial)

    def _ask(self, thread_id: str, pick: _Asked[_Picked]) -> tuple[_Picked, Partial | None]:
        was_held = self._is_held(thread_id)  # a turn that ends while it is looked for was never interrupted
        _, head = self._history.find(thread_id)
        segments, is_broken = self._shown.segments(head)
        picked, partial = self._side.ask_of(
            [segment.found for segment in reversed(segments)],  # where there is no time for all, the newest are first
            lambda transaction: pick(transaction, segments, was_held or self._is_held(thread_id)),
            budget_ms=FOLLOW_MS,
        )
        if is_broken:
            done = len(segments) if partial is None else partial.files_done
            partial = Partial(done, None, 1 + (0 if partial is None else partial.unread))
        return picked, partial

    def _is_held(self, thread_id: str) -> bool:
        """Whether somebody has the thread open for writing; one whose lock cannot be looked at is taken for nobody's."""
        try:
            return live_owner(self._home, thread_id.lower(), self._files) is not None
        except OSError:
            return False
