"""The index of turns and items as a home has it: `history_1.sqlite`, filled for the threads that are asked for.

A question finds the thread's head and what it goes on from, folds what of these rollouts is behind for at most
`FOLLOW_MS`, and is answered in one snapshot; what the picked rows point to is read from the rollouts behind it. So a thread
that was dropped in, forked, reverted or moved is there at the first question, and so is everything after the file was
lost. All other rollouts are left to the background and the back-fill.

Where a large paginated rollout is not indexed yet, its newest turns and items are read from its end (`turn_tail.py`) and the
index is filled behind: nobody waits for megabytes to see the first page.

`partial` of an answer counts the thread's own rollouts: not all of a large one was folded yet, somebody keeps the file
locked, a rollout cannot be read, or one that the thread goes on from is not there, and the rest is shown without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from msgspec.structs import replace

from engine.clock import Clock
from engine.events.record import decode_as
from engine.options import Options
from engine.projections.catchup import Partial
from engine.projections.history import History, readable
from engine.projections.indexes import TURNS
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
from engine.projections.turn_tail import Newest, newest_of, scratch
from engine.stores import migrate
from engine.stores.bodies import Bodies
from engine.stores.files import Files
from engine.stores.layout import Found, Home, is_id
from engine.stores.lineage import Segment
from engine.stores.link import files_translated
from engine.stores.sqlite import Transaction
from engine.stores.writer_lock import live_owner

HISTORY = "history"
HISTORY_SHAPE = 1

FOLLOW_MS = 2_000
"""How long one question may fold the rollouts of its thread: a bound for hundreds of megabytes that nobody indexed yet."""

BEHIND_BYTES_MIN = 8 << 20
"""What is not indexed of a rollout whose newest turns are read from its end: less is folded as fast."""

_Picked = TypeVar("_Picked")
_Asked = Callable[[Transaction, list[Segment], bool], _Picked]
"""Picks rows of a thread's segments, told whether somebody holds the thread."""


def history_side(parts: Parts) -> Side:
    """The side database of turns and items."""
    with files_translated("open", HISTORY):
        schema = migrate.load(HISTORY, parts.files)
    return Side(parts, HISTORY, HISTORY_SHAPE, [TURNS], schema, STREAM_TABLES, decode=decode_as)


class TurnIndex:
    """Answers pages of one thread's turns and items."""

    def __init__(
        self,
        home: Home,
        side: Side,
        history: History,
        fill: Callable[[], None],
        *,
        options: Options,
        clock: Clock,
        files: Files,
    ) -> None:
        """`fill` has the background go on filling the index now."""
        self._home = home
        self._side = side
        self._history = history
        self._shown = Shown(home, history, options=options, files=files)
        self._fill = fill
        self._options = options
        self._clock = clock
        self._files = files

    def turns(self, thread_id: str, query: TurnQuery) -> TurnPage:
        """A page of turns. Raises as `engine.turns.list` does."""
        picked, partial = self._ask(
            thread_id,
            lambda transaction, segments, running: pick_turns(
                transaction, thread_id, segments, replace(query, running=running)
            ),
            None if _is_elsewhere(query) else Newest(query.limit, items=False),
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
            None if _is_elsewhere(query) or query.turn_id is not None else Newest(query.limit, items=True),
        )
        with Bodies(self._home, options=self._options, files=self._files) as bodies:
            return replace(read_picked_items(picked, bodies), partial=partial)

    def _ask(self, thread_id: str, pick: _Asked[_Picked], newest: Newest | None) -> tuple[_Picked, Partial | None]:
        was_held = self._is_held(thread_id)  # a turn that ends while it is looked for was never interrupted
        _, head = self._history.find(thread_id)
        segments, is_broken = self._shown.segments(head)
        if newest is not None and self._side.bytes_behind(head) >= BEHIND_BYTES_MIN:
            with self._newest(head, newest) as transaction:
                if transaction is not None:
                    self._fill()
                    running = was_held or self._is_held(thread_id)
                    return pick(transaction, segments, running), Partial(0, len(segments), unread=int(is_broken))
        picked, partial = self._side.ask_of(
            [segment.found for segment in reversed(segments)],  # where there is no time for all, the newest are first
            lambda transaction: pick(transaction, segments, was_held or self._is_held(thread_id)),
            budget_ms=FOLLOW_MS,
        )
        if is_broken:
            done = len(segments) if partial is None else partial.files_done
            partial = Partial(done, None, 1 + (0 if partial is None else partial.unread))
        return picked, partial

    @contextlib.contextmanager
    def _newest(self, head: Found, newest: Newest) -> Iterator[Transaction | None]:
        """Rows from the rollout's end, in a database of their own."""
        options, files = self._options, self._files
        with (
            contextlib.closing(scratch(HISTORY_SHAPE, options=options, clock=self._clock, files=files)) as database,
            readable(head),
            newest_of(self._home, head, newest, database, options=options, files=files) as transaction,
        ):
            yield transaction

    def _is_held(self, thread_id: str) -> bool:
        """Whether somebody has the thread open for writing; one whose lock cannot be looked at is taken for nobody's."""
        try:
            return is_id(thread_id) and live_owner(self._home, thread_id.lower(), self._files) is not None
        except OSError:
            return False


def _is_elsewhere(query: TurnQuery | ItemQuery) -> bool:
    """Whether a page is not the newest one."""
    return query.cursor is not None or query.sort_direction != "desc" or not query.limit
