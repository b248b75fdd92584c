"""Questions to the index of turns and items: pages of one thread, across all that it goes on from.

A page is a keyset page, so it is exact while the thread grows; `next_cursor` goes on in the same direction,
`backwards_cursor` names the page's first row, which comes again when a client pages the other way to see what changed. An
anchor that was taken back, by a rollback or a revert, is an `InvalidCursor` that says so.

A turn without an end is shown as interrupted, unless `running` says that somebody is at the thread and it is the last; so
is a call that it had under way. A turn that a base was left in the middle of is interrupted too. A turn hides one of the
same id in an earlier segment; the items of both are its items.

Reading takes two steps, so that no file is read inside of a transaction: `pick_…` asks the index, `read_…` fetches what the
picked rows point to. An item that cannot be read says why (`unreadable`) and fails nothing else.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from engine.errors import InvalidRequest
from engine.events.thread_items import FINAL_AGENT, PLAIN_AGENT, REASONING, USER_MESSAGE
from engine.projections.catchup import Partial
from engine.projections.turn_bodies import Bodies, ItemRow, Part, read_error, read_items
from engine.projections.turn_places import OFFSET_END, Held, Scope, Span, cursor_at, held_of, spans_of
from engine.projections.turn_state import COMPLETED, FAILED, INTERRUPTED, OPEN
from engine.stores.digests import id_digest
from engine.stores.lineage import Segment
from engine.stores.sqlite import Transaction, Value

ItemsView = Literal["none", "summary", "full"]
SortDirection = Literal["asc", "desc"]
ITEMS_VIEWS: tuple[ItemsView, ...] = ("none", "summary", "full")
SORT_DIRECTIONS: tuple[SortDirection, ...] = ("asc", "desc")

_WORDS = {OPEN: "interrupted", COMPLETED: "completed", INTERRUPTED: "interrupted", FAILED: "failed"}


class TurnQuery(Struct, frozen=True, kw_only=True):
    """Which turns. `limit` 0 is all; `running` tells that a writer is at the thread now."""

    limit: int = 25
    cursor: str | None = None
    sort_direction: SortDirection = "desc"
    items_view: ItemsView = "summary"
    running: bool = False


class ItemQuery(Struct, frozen=True, kw_only=True):
    """Which items: of the whole thread, or of one turn. `limit` 0 is all."""

    limit: int = 25
    cursor: str | None = None
    sort_direction: SortDirection = "asc"
    turn_id: str | None = None
    running: bool = False


class Turn(Struct, frozen=True, kw_only=True):
    """One turn. Times are Unix milliseconds, None where no record tells; `ordinal` is None in legacy rollouts.

    `status` is completed, interrupted, failed or in_progress; `error` is `{"message", "codex_error_info"}`. `items` are as
    `items_view` says: none, the first user message and the final agent message (summary), or all (full).
    """

    id: str
    status: str
    started_at_ms: int | None
    completed_at_ms: int | None
    duration_ms: int | None
    error: dict[str, Any] | None
    ordinal: int | None
    items_view: ItemsView
    items: list[dict[str, Any]]


class ListedItem(Struct, frozen=True, kw_only=True):
    """One item, and the turn that it is of. `created_at_ms`, in Unix milliseconds, is when it began, as far as it is told."""

    turn_id: str | None
    ordinal: int | None
    created_at_ms: int | None
    item: dict[str, Any]


class TurnPage(Struct, frozen=True, kw_only=True):
    """One page of turns. `partial` is None where it is of all that the thread's rollouts hold."""

    turns: list[Turn]
    next_cursor: str | None
    backwards_cursor: str | None
    partial: Partial | None = None


class ItemPage(Struct, frozen=True, kw_only=True):
    """One page of items. `partial` is None where it is of all that the thread's rollouts hold."""

    items: list[ListedItem]
    next_cursor: str | None
    backwards_cursor: str | None
    partial: Partial | None = None


class TurnRow(NamedTuple):
    """A turn as the index has it, and the segment that it stands in."""

    held: Held
    offset: int
    turn: int
    id: str
    ordinal: int | None
    status: int
    end_offset: int | None
    started_at_ms: int | None
    completed_at_ms: int | None
    duration_ms: int | None
    error_offset: int | None
    error_length: int | None
    first_user: int | None
    final_agent: int | None
    plain_agent: int | None

    @property
    def is_cut(self) -> bool:
        """Whether its base was left in the middle of it."""
        return self.held.end < OFFSET_END and (self.end_offset is None or self.end_offset >= self.held.end)

    def seen(self) -> TurnRow:
        """The row as it was where its segment ends."""
        if not self.is_cut:
            return self
        return self._replace(status=OPEN, completed_at_ms=None, duration_ms=None, error_offset=None, error_length=None)


class PickedTurns(NamedTuple):
    """The rows of a page of turns, each with those of its items; `running` is the turn that somebody is at."""

    turns: list[tuple[TurnRow, list[ItemRow]]]
    running: int | None
    items_view: ItemsView
    next_cursor: str | None
    backwards_cursor: str | None


class PickedItems(NamedTuple):
    """The rows of a page of items."""

    items: list[ItemRow]
    running: int | None
    next_cursor: str | None
    backwards_cursor: str | None


def pick_turns(transaction: Transaction, thread_id: str, segments: Sequence[Segment], query: TurnQuery) -> PickedTurns:
    """The rows of a page of turns. Raises `InvalidRequest` and `InvalidCursor`."""
    _check(query)
    if query.items_view not in ITEMS_VIEWS:
        raise InvalidRequest(f"There is no view {query.items_view!r}.", hint=f"Use one of {', '.join(ITEMS_VIEWS)}.")
    held = held_of(transaction, segments)
    scope = Scope(thread_id.lower(), "turns")
    descending = query.sort_direction == "desc"
    spans = spans_of(transaction, held, scope, query.cursor, descending=descending, there=_TURN_THERE)
    found = (row for span in spans for row in _turns_in(transaction, held, span, descending=descending))
    rows = list(islice(found, query.limit + 1 if query.limit else None))
    page = rows[: query.limit] if query.limit else rows
    running = _running(transaction, held) if query.running else None
    reader = _Items(transaction, held)
    return PickedTurns(
        turns=[(row, reader.of_view(row, query.items_view, running)) for row in page],
        running=running,
        items_view=query.items_view,
        next_cursor=_turn_cursor(scope, page[-1], inclusive=False) if len(rows) > len(page) else None,
        backwards_cursor=_turn_cursor(scope, page[0], inclusive=True) if page else None,
    )


def read_turns(picked: PickedTurns, bodies: Bodies) -> TurnPage:
    """The page, with what its items say."""
    items = read_items([row for _, rows in picked.turns for row in rows], picked.running, bodies)
    turns = [
        Turn(
            id=row.id,
            status="in_progress" if row.status == OPEN and row.turn == picked.running else _WORDS[row.status],
            started_at_ms=row.started_at_ms,
            completed_at_ms=row.completed_at_ms,
            duration_ms=row.duration_ms,
            error=read_error(row.held.found, row.error_offset, row.error_length, bodies),
            ordinal=row.ordinal,
            items_view=picked.items_view,
            items=[items[each.place].item for each in rows],
        )
        for row, rows in picked.turns
    ]
    return TurnPage(turns=turns, next_cursor=picked.next_cursor, backwards_cursor=picked.backwards_cursor)


def pick_items(transaction: Transaction, thread_id: str, segments: Sequence[Segment], query: ItemQuery) -> PickedItems:
    """The rows of a page of items. Raises `InvalidRequest` and `InvalidCursor`."""
    _check(query)
    held = held_of(transaction, segments)
    turn = None if query.turn_id is None else id_digest(query.turn_id)
    scope = Scope(thread_id.lower(), "items" if turn is None else f"items of {turn}")
    descending = query.sort_direction == "desc"
    spans = spans_of(transaction, held, scope, query.cursor, descending=descending, there=_ITEM_THERE)
    reader = _Items(transaction, held)
    found = (row for span in spans for row in reader.within(span, turn, query.turn_id, descending=descending))
    rows = list(islice(found, query.limit + 1 if query.limit else None))
    page = rows[: query.limit] if query.limit else rows
    return PickedItems(
        items=page,
        running=_running(transaction, held) if query.running else None,
        next_cursor=_item_cursor(scope, page[-1], inclusive=False) if len(rows) > len(page) else None,
        backwards_cursor=_item_cursor(scope, page[0], inclusive=True) if page else None,
    )


def read_picked_items(picked: PickedItems, bodies: Bodies) -> ItemPage:
    """The page, with what its items say."""
    found = read_items(picked.items, picked.running, bodies)
    items = [
        ListedItem(
            turn_id=row.turn_id or found[row.place].turn_id,
            ordinal=row.ordinal,
            created_at_ms=row.created_at_ms,
            item=found[row.place].item,
        )
        for row in picked.items
    ]
    return ItemPage(items=items, next_cursor=picked.next_cursor, backwards_cursor=picked.backwards_cursor)


class _Items:
    """The items of one thread."""

    def __init__(self, transaction: Transaction, held: Sequence[Held]) -> None:
        self._transaction = transaction
        self._held = held
        self._segments = msgspec.json.encode([(each.rollout, each.end) for each in held]).decode()

    def of_view(self, row: TurnRow, view: ItemsView, running: int | None) -> list[ItemRow]:
        """The items of a turn that a view shows."""
        if view == "none":
            return []
        held = self._holding(row)
        if view == "summary" and held == [row.held] and not row.is_cut:
            return self._told(row, running)
        items = [
            item for each in held for item in self.within(Span(each, 0, each.end), row.turn, row.id, descending=False)
        ]
        return items if view == "full" else _summary(items)

    def within(self, span: Span, turn: int | None, turn_id: str | None, *, descending: bool) -> Iterator[ItemRow]:
        """The items of a turn, or of all, in one span, in order."""
        order = "DESC" if descending else "ASC"
        if turn is None:
            yield from self._rows(span.held, _ITEMS_WITH_TURN + order, {"start": span.start, "end": span.end})
            return
        named: dict[str, Value] = {"rollout": span.held.rollout, "turn": turn}
        bounds = [
            (max(start, span.start), min(end or OFFSET_END, span.end))
            for start, end in self._transaction.rows(_EXTENTS, named)
        ]
        told: dict[str, Value] = {"turn": turn, "turn_id": turn_id}
        parts = [
            self._rows(span.held, _ITEMS_HERE + order, {**told, "start": start, "end": end}) for start, end in bounds
        ]
        parts.append(self._rows(span.held, _ITEMS_OF_TURN + order, {**told, "start": span.start, "end": span.end}))
        yield from heapq.merge(*parts, key=lambda row: row.offset, reverse=descending)

    def _told(self, row: TurnRow, running: int | None) -> list[ItemRow]:
        """The two items of a summary, as the turn's row names them."""
        final = row.final_agent
        if final is None and not (row.status == OPEN and row.turn == running):
            final = row.plain_agent
        return [
            item
            for offset in sorted(offset for offset in (row.first_user, final) if offset is not None)
            for item in self._rows(row.held, _ITEM, {"start": offset, "turn": row.turn, "turn_id": row.id})
        ]

    def _holding(self, row: TurnRow) -> list[Held]:
        """The segments in which a turn, or an item of it, is."""
        if len(self._held) == 1:
            return [row.held]
        places = self._transaction.rows(_HOLDING, {"segments": self._segments, "turn": row.turn})
        return [self._held[place] for (place,) in places]

    def _rows(self, held: Held, sql: str, values: dict[str, Value]) -> Iterator[ItemRow]:
        for row in self._transaction.rows(sql, {"rollout": held.rollout, **values}):
            item = ItemRow(held, *row)
            if item.type == REASONING and item.ordinal is None:
                parts = self._transaction.rows(_PARTS, {"rollout": held.rollout, "item": item.offset})
                item = item._replace(parts=tuple(Part(*part) for part in parts))
            yield item


def _summary(items: Sequence[ItemRow]) -> list[ItemRow]:
    """The first user message, and the last final answer, or where there is none the last message without a phase."""
    users = [item for item in items if item.type == USER_MESSAGE]
    finals = [item for item in items if item.type == FINAL_AGENT] or [
        item for item in items if item.type == PLAIN_AGENT
    ]
    return users[:1] + finals[-1:]


def _turns_in(transaction: Transaction, held: Sequence[Held], span: Span, *, descending: bool) -> Iterator[TurnRow]:
    """The turns of a span, in order, without those that a later segment hides."""
    newer = [(each.rollout, each.end) for each in held if each.order > span.held.order]
    hides: dict[str, Value] = {"newer": msgspec.json.encode(newer).decode()}
    bounds = {"rollout": span.held.rollout, "start": span.start, "end": span.end}
    for values in transaction.rows(_TURNS + ("DESC" if descending else "ASC"), bounds):
        row = TurnRow(span.held, *values)
        if not newer or transaction.row(_HIDES, {**hides, "turn": row.turn}) is None:
            yield row.seen()


def _running(transaction: Transaction, held: Sequence[Held]) -> int | None:
    """The turn that is not at its end, if the thread's last is."""
    if not held:
        return None
    row = transaction.row(_LAST_TURN, {"rollout": held[-1].rollout})
    return row[0] if row is not None and row[1] == OPEN else None


def _turn_cursor(scope: Scope, row: TurnRow, *, inclusive: bool) -> str:
    return cursor_at(scope, row.held, row.offset, row.turn, inclusive=inclusive)


def _item_cursor(scope: Scope, row: ItemRow, *, inclusive: bool) -> str:
    return cursor_at(scope, row.held, row.offset, row.length, inclusive=inclusive)


def _check(query: TurnQuery | ItemQuery) -> None:
    if not 0 <= query.limit < OFFSET_END:
        raise InvalidRequest(f"A limit cannot be {query.limit}.", hint="Give a number of rows, or 0 for all.")
    if query.sort_direction not in SORT_DIRECTIONS:
        raise InvalidRequest(f"There is no sort direction {query.sort_direction!r}.", hint="Use asc or desc.")


_TURN_THERE = 'SELECT 1 FROM turns WHERE rollout = :rollout AND "offset" = :offset AND turn = :key'

_ITEM_THERE = 'SELECT 1 FROM items WHERE rollout = :rollout AND "offset" = :offset AND length = :key'

_LAST_TURN = 'SELECT turn, status FROM turns WHERE rollout = :rollout ORDER BY "offset" DESC LIMIT 1'

_TURNS = """
    SELECT "offset", turn, id, ordinal, status, end_offset, started_at_ms, completed_at_ms, duration_ms,
        error_offset, error_length, first_user, final_agent, plain_agent
    FROM turns WHERE rollout = :rollout AND "offset" >= :start AND "offset" < :end ORDER BY "offset" """

_HIDES = """
    SELECT 1 FROM json_each(:newer) AS segment CROSS JOIN turns
    ON turns.rollout = segment.value ->> 0 AND turns.turn = :turn AND turns."offset" < segment.value ->> 1 LIMIT 1
"""

_HOLDING = """
    SELECT segment.key FROM json_each(:segments) AS segment
    WHERE EXISTS (
        SELECT 1 FROM turns WHERE turns.rollout = segment.value ->> 0 AND turns.turn = :turn
        AND turns."offset" < segment.value ->> 1
    ) OR EXISTS (
        SELECT 1 FROM items WHERE items.rollout = segment.value ->> 0 AND items.turn = :turn
        AND items."offset" < segment.value ->> 1
    )
"""

_EXTENTS = """
    SELECT turns."offset", (
        SELECT min(next."offset") FROM turns AS next
        WHERE next.rollout = turns.rollout AND next."offset" > turns."offset"
    ) FROM turns WHERE turns.rollout = :rollout AND turns.turn = :turn
"""
"""Where a turn's row stands, and where the next one does: an item in between that names no turn is of it."""

_ITEM_COLUMNS = 'items."offset", length, type, items.ordinal, created_at_ms, number, last_offset, last_length'

_SELECT_ITEMS = f"SELECT {_ITEM_COLUMNS}, :turn, :turn_id FROM items WHERE rollout = :rollout"  # noqa: S608

_ITEM = f'{_SELECT_ITEMS} AND "offset" = :start'

_ITEMS_HERE = f'{_SELECT_ITEMS} AND "offset" >= :start AND "offset" < :end AND turn IS NULL ORDER BY "offset" '

_ITEMS_OF_TURN = f'{_SELECT_ITEMS} AND turn = :turn AND "offset" >= :start AND "offset" < :end ORDER BY "offset" '

_BEFORE = (
    'FROM turns WHERE turns.rollout = items.rollout AND turns."offset" <= items."offset" ORDER BY turns."offset" DESC'
)

_ITEMS_WITH_TURN = f"""
    SELECT {_ITEM_COLUMNS},
        iif(turn IS NULL, (SELECT turns.turn {_BEFORE} LIMIT 1), turn),
        iif(turn IS NULL, (SELECT id {_BEFORE} LIMIT 1),
            (SELECT id FROM turns WHERE turns.rollout = items.rollout AND turns.turn = items.turn LIMIT 1))
    FROM items WHERE rollout = :rollout AND "offset" >= :start AND "offset" < :end ORDER BY "offset" """  # noqa: S608

_PARTS = 'SELECT "offset", length FROM parts WHERE rollout = :rollout AND item = :item ORDER BY "offset"'
