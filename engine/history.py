"""What an application asks about the turns and items of one thread: pages, in either direction.

Pages come from an index of the rollouts, caught up with the thread's own rollouts first; what was said is read from them.
Neither needs a lock, and neither waits for a back-fill or for whoever writes the thread.
"""

from __future__ import annotations

from engine.projections.turn_index import TurnIndex
from engine.projections.turn_list import ItemPage, ItemQuery, ItemsView, SortDirection, TurnPage, TurnQuery
from engine.stores.alive import Alive
from engine.stores.boundary import public


@public
class Turns:
    """The turns of one home's threads."""

    def __init__(self, index: TurnIndex, alive: Alive) -> None:
        self._index = index
        self._alive = alive

    def list(
        self,
        thread_id: str,
        *,
        limit: int = 25,
        cursor: str | None = None,
        sort_direction: SortDirection = "desc",
        items_view: ItemsView = "summary",
    ) -> TurnPage:
        """A page of a thread's turns, those that it was forked from among them; `limit` 0 is all.

        `items_view` says which items a turn comes with: `none`, the first user and the final agent message (`summary`),
        or all (`full`). A turn without an end is `in_progress` while somebody has the thread open for writing, else
        `interrupted`. `partial` is None where the page is of all that the thread's rollouts hold. Raises `ThreadNotFound`,
        `TruthGone`, `RolloutUnreadable`, `InvalidRequest`, `InvalidCursor`, `StoreError`.
        """
        query = TurnQuery(limit=limit, cursor=cursor, sort_direction=sort_direction, items_view=items_view)
        return self._index.turns(thread_id, query)


@public
class Items:
    """The items of one home's threads."""

    def __init__(self, index: TurnIndex, alive: Alive) -> None:
        self._index = index
        self._alive = alive

    def list(
        self,
        thread_id: str,
        turn_id: str | None = None,
        *,
        limit: int = 25,
        cursor: str | None = None,
        sort_direction: SortDirection = "asc",
    ) -> ItemPage:
        """A page of a thread's items, or of one turn's; `limit` 0 is all. A turn that is not there has none.

        An item that cannot be read says why (`unreadable`). Raises as `Turns.list` does.
        """
        query = ItemQuery(limit=limit, cursor=cursor, sort_direction=sort_direction, turn_id=turn_id)
        return self._index.items(thread_id, query)
