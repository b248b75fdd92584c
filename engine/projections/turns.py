"""The turns projection: where the turns and items of a rollout are, for both history modes.

It fills `history_1.sqlite`, which is an index: ids, types, times and byte ranges; what was said is read from the rollout
(`turn_list.py`). Each rollout is folded by itself: what a fork or a revert took over is not copied but read along its
lineage, and of a sub-agent's file what was copied into it is passed over. `turn_paginated.py` and `turn_legacy.py` say what
a record means, `turn_rows.py` writes it, `turn_state.py` has the words in between.

A turn that was left open stays open here: whether somebody is still at it is for the reader to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from engine.events.kinds import ITEM_COMPLETED, TURN_ITEMS
from engine.events.payloads import SessionMeta
from engine.events.policy import PAGINATED
from engine.events.record import Record
from engine.projections.projection import Change, Piece, Place, Stream
from engine.projections.turn_legacy import LEGACY_KINDS, apply_legacy
from engine.projections.turn_paginated import apply_paginated
from engine.projections.turn_rows import Written, forget_rollouts, write_rollouts
from engine.projections.turn_state import OPERATIONS, Kept, TurnsState
from engine.stores.layout import is_id

if TYPE_CHECKING:
    from engine.stores.sqlite import Transaction

_PLACES = {operation: place for place, operation in enumerate(OPERATIONS)}
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Kept)


class Turns:
    """The projection. It follows the protocol that a user's own projection follows, and is told where records stand."""

    name = "turns"
    version = 1
    kinds = (
        frozenset({"session_meta", ITEM_COMPLETED}) | {f"{ITEM_COMPLETED}.{tag}" for tag in TURN_ITEMS} | LEGACY_KINDS
    )
    latest: frozenset[str] = frozenset()

    def start(self, stream: Stream) -> TurnsState:
        return TurnsState(Kept(thread_id=stream.name.thread_id))

    def place(self, state: TurnsState, place: Place) -> None:
        state.length, state.before = place.length, place.before

    def apply(self, state: TurnsState, record: Record[Any], kind: str, offset: int) -> bool:
        kept = state.kept
        if kind == "session_meta":
            return _identify(kept, record.payload, offset)
        if record.ordinal is not None and record.ordinal < kept.inherited_below:
            return False
        # Without the line that says so, a record with an ordinal is of a paginated rollout.
        if kept.paginated or (not kept.identified and record.ordinal is not None):
            return apply_paginated(state, record, kind, offset)
        return apply_legacy(state, record, kind, offset)

    def close_piece(self, state: TurnsState, piece: Piece) -> None:
        state.kept.records += piece.records

    def emit(self, state: TurnsState) -> list[Any]:
        operations, state.operations = state.operations, []
        return [(_PLACES[type(each)], *each) for each in operations]

    def encode(self, state: TurnsState) -> bytes:
        return _ENCODER.encode(state.kept)

    def decode(self, blob: bytes) -> TurnsState:
        return TurnsState(_DECODER.decode(blob))

    def write(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        pieces = [
            Written(each.stream.path, [OPERATIONS[place](*values) for place, *values in each.emitted], each.anew)
            for each in changes
        ]
        write_rollouts(transaction, pieces)

    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        forget_rollouts(transaction, paths)


def _identify(kept: Kept, meta: SessionMeta, offset: int) -> bool:
    """The first line says who the thread is; later ones are copies of a parent's, or update what is none of ours."""
    # Only the very first line may name another thread than the file does: behind lost lines it may be a parent's copy.
    if kept.identified or not is_id(meta.id) or (meta.id.lower() != kept.thread_id and offset != 0):
        return False
    kept.identified = True
    kept.thread_id = meta.id.lower()
    kept.paginated = meta.history_mode == PAGINATED
    kept.inherited_below = meta.subagent_history_start_ordinal or 0
    return True
