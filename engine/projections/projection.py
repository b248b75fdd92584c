"""The protocol of a projection: a fold over one stream at a time, and how its rows are written.

A projection names the kinds it asks for; lines of other kinds are passed over without being decoded. `apply` takes one
record at a time, in the stream's order, and answers whether it had an effect. Of its `latest` kinds only the newest
record that has an effect is applied, once for each piece that is folded; such a kind must move fields that no other kind
moves, so that the cut into pieces cannot change the state. Fold state is encoded beside the watermark, so a catch-up
never reads again what was folded. Where a stream gives many rows the state cannot hold them: a piece emits what it came
to, and `write` upserts it by keys of the stream's own, so that the cut into pieces cannot change the rows either. One
that needs to know where its records stand is `Placed` as well.

A fold is pure: the same bytes give the same state, for any split into pieces. Built-in projections use nothing that this
protocol does not offer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from engine.events.record import Record
from engine.stores.layout import RolloutName, is_archived

if TYPE_CHECKING:
    from engine.stores.sqlite import Transaction


class Stream(NamedTuple):
    """The file that is folded: its logical path and what its name says."""

    path: str
    name: RolloutName

    @property
    def archived(self) -> bool:
        """The folder decides."""
        return is_archived(self.path)


class Piece(NamedTuple):
    """What a fold saw in one piece of a stream, whatever the kinds.

    Times are of record timestamps in Unix milliseconds, None where no record had one that can be read.
    """

    records: int
    damaged: int
    first_at_ms: int | None
    last_at_ms: int | None


class Place(NamedTuple):
    """Where a record stands: its first byte, its bytes without the LF, and how many records of its piece are before it."""

    offset: int
    length: int
    before: int


class Change(NamedTuple):
    """A stream whose state moved, as the projection is to write it.

    With `anew` it was folded from its beginning, and nothing that was written for it before counts. `emitted` is what
    `emit` gave, in order.
    """

    stream: Stream
    compressed: bool
    state: Any
    anew: bool
    emitted: list[Any]


class Projection(Protocol):
    """What a projection is. Implementations hold no state of their own between calls."""

    @property
    def name(self) -> str:
        """The name under which its watermarks stand."""
        ...

    @property
    def version(self) -> int:
        """Raised whenever the same bytes would give other rows: older watermarks are then folded anew."""
        ...

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that are always decoded and applied."""
        ...

    @property
    def latest(self) -> frozenset[str]:
        """The kinds of which only the newest with an effect counts."""
        ...

    def start(self, stream: Stream) -> Any:
        """The state before the first record."""
        ...

    def apply(self, state: Any, record: Record[Any], kind: str, offset: int) -> bool:
        """Fold one record that begins at `offset`; whether it had an effect. Raises ValueError to have it set aside."""
        ...

    def close_piece(self, state: Any, piece: Piece) -> None:
        """Take in what a piece held, after its records were applied."""
        ...

    def emit(self, state: Any) -> list[Any]:
        """What this piece came to beyond the state, as values that msgpack knows; the state lets go of it."""
        ...

    def encode(self, state: Any) -> bytes:
        """The state as bytes, at most 64 KiB."""
        ...

    def decode(self, blob: bytes) -> Any:
        """The state of those bytes."""
        ...

    def write(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        """Upsert the rows of streams that moved, in the transaction that advances their watermarks."""
        ...

    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        """Remove what was written for streams that are gone."""
        ...


class Placed(Protocol):
    """What a projection may offer besides: to be told of each record that is to be applied where it stands."""

    def place(self, state: Any, place: Place) -> None:
        """Called before `apply` for each record of `kinds`."""
        ...
