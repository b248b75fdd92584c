"""The search projection: which words were said by user and agent, and where.

It fills `search_1.sqlite`, an index of words without the text they were in; a hit is shown from its rollout
(`search_hits.py`). What counts as a message, and what a rollback takes back, is decided by the fold of turns, so what is
found is what `turns.py` lists: user messages, and an agent's final answers and messages without a phase. Each rollout is
folded by itself: what a fork refers to stands in its parent alone.

`search_rows.py` writes what a fold comes to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from engine.events.record import Record
from engine.events.said import said_by
from engine.events.thread_items import FINAL_AGENT, PLAIN_AGENT, USER_MESSAGE
from engine.events.upcast import preview_text
from engine.projections.projection import Change, Piece, Place, Stream
from engine.projections.search_rows import (
    AGENT,
    OPERATIONS,
    USER,
    Rollout,
    TextSaid,
    Written,
    forget_rollouts,
    write_rollouts,
)
from engine.projections.turn_paginated import created_ms
from engine.projections.turn_state import Again, Begun, Item, Kept, RolledBack, TurnsState
from engine.projections.turns import Turns
from engine.stores.words import folded

if TYPE_CHECKING:
    from engine.stores.sqlite import Transaction

TEXT_CHARS_MAX = 256 * 1024
"""How much of one message is searched."""

_ROLES = {USER_MESSAGE: USER, FINAL_AGENT: AGENT, PLAIN_AGENT: AGENT}
_PLACES = {operation: place for place, operation in enumerate(OPERATIONS)}


class SearchKept(Struct, array_like=True):
    """The part of a state that is stored: that of the turns, and what the rollout goes on from."""

    turns: Kept
    base_rollout_id: str | None = None
    base_end: int | None = None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(SearchKept)


class SearchState:
    """The state of one fold."""

    __slots__ = ("kept", "operations", "turns")

    def __init__(self, kept: SearchKept) -> None:
        self.kept = kept
        self.turns = TurnsState(kept.turns)
        self.operations: list[tuple[Any, ...]] = []


class Search:
    """The projection."""

    name = "search"
    version = 1
    kinds = Turns.kinds
    latest: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._turns = Turns()

    def start(self, stream: Stream) -> SearchState:
        return SearchState(SearchKept(self._turns.start(stream).kept))

    def place(self, state: SearchState, place: Place) -> None:
        self._turns.place(state.turns, place)

    def apply(self, state: SearchState, record: Record[Any], kind: str, offset: int) -> bool:
        if not self._turns.apply(state.turns, record, kind, offset):
            return False
        if kind == "session_meta" and (base := record.payload.history_base) is not None:
            state.kept.base_rollout_id, state.kept.base_end = base.thread_id.lower(), base.end_byte_offset
        for operation in state.turns.operations:
            self._take(state, operation, record, kind)
        state.turns.operations.clear()
        return True

    def close_piece(self, state: SearchState, piece: Piece) -> None:
        self._turns.close_piece(state.turns, piece)

    def emit(self, state: SearchState) -> list[Any]:
        operations, state.operations = state.operations, []
        return [(_PLACES[type(each)], *each) for each in operations]

    def encode(self, state: SearchState) -> bytes:
        return _ENCODER.encode(state.kept)

    def decode(self, blob: bytes) -> SearchState:
        return SearchState(_DECODER.decode(blob))

    def write(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        pieces: list[Written] = []
        for change in changes:
            kept: SearchKept = change.state.kept
            name = change.stream.name
            rollout = Rollout(
                path=change.stream.path,
                thread_id=kept.turns.thread_id,
                rollout_id=name.own_rollout_id or kept.turns.thread_id,
                base_rollout_id=kept.base_rollout_id,
                base_end=kept.base_end,
                archived=change.stream.archived,
            )
            operations = [OPERATIONS[place](*values) for place, *values in change.emitted]
            pieces.append(Written(rollout, operations, change.anew))
        write_rollouts(transaction, pieces)

    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        forget_rollouts(transaction, paths)

    def _take(self, state: SearchState, operation: tuple[Any, ...], record: Record[Any], kind: str) -> None:
        if isinstance(operation, RolledBack) or (isinstance(operation, Begun) and not state.kept.turns.paginated):
            state.operations.append(operation)
        elif isinstance(operation, (Item, Again)):
            text = said_by(kind, record.payload)
            if text is not None:
                said = _said(operation, state.turns.length, record, searched(text))
                if said.role or said.again:
                    state.operations.append(said)


def searched(text: str) -> str:
    """What of a message is searched: the request behind the marker where there is one, and no more than the bound."""
    return preview_text(text)[:TEXT_CHARS_MAX]


def _said(operation: Item | Again, length: int, record: Record[Any], text: str) -> TextSaid:
    """With nothing to search, or of a type that is not searched, it takes away what was said before."""
    return TextSaid(
        offset=operation.offset if isinstance(operation, Item) else operation.first,
        said_offset=operation.offset,
        length=length,
        role=_ROLES.get(operation.type, 0) if text else 0,
        ordinal=record.ordinal,
        created_at_ms=operation.created_at_ms if isinstance(operation, Item) else created_ms(record.payload, record),
        turn=operation.turn if isinstance(operation, Item) and record.ordinal is None else None,
        again=isinstance(operation, Again),
        text=folded(text),
    )
