"""What indexed items say: read from the rollouts by byte range, and made into the one shape that readers get.

Records are read in the order in which they stand, so that of a compressed rollout each frame is unpacked once. A record that
cannot be read, or is not of the item that was indexed, costs that item alone: it says what is wrong as `unreadable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import Raw

from engine.errors import EngineError
from engine.events.record import Record, kind_of
from engine.events.thread_items import TYPES, UNKNOWN, item_of
from engine.projections.turn_places import Held
from engine.stores.layout import Found


class Bodies(Protocol):
    """Reads one record of a rollout: `engine.stores.bodies.Bodies`."""

    def read(self, found: Found, offset: int, length: int) -> Record[Raw]:
        """Raises an `EngineError` that says why it cannot be read."""
        ...


class Part(NamedTuple):
    """One more record of an item."""

    offset: int
    length: int


class ItemRow(NamedTuple):
    """An item as the index has it, and the segment that it stands in."""

    held: Held
    offset: int
    length: int
    type: int
    ordinal: int | None
    created_at_ms: int | None
    number: int | None
    last_offset: int | None
    last_length: int | None
    turn: int | None
    turn_id: str | None
    parts: tuple[Part, ...] = ()

    @property
    def place(self) -> tuple[int, int]:
        """What it is told apart by, in the order of reading."""
        return self.held.order, self.offset

    @property
    def records(self) -> list[Part]:
        """Where what it says stands: its newest record that its segment has, or all that make it up."""
        if self.last_offset is not None and self.last_length is not None and self.last_offset < self.held.end:
            return [Part(self.last_offset, self.last_length)]
        return [Part(self.offset, self.length), *(part for part in self.parts if part.offset < self.held.end)]


class Told(NamedTuple):
    """An item as a reader gets it, and the turn that its record names."""

    item: dict[str, Any]
    turn_id: str | None


def read_items(rows: Sequence[ItemRow], running: int | None, bodies: Bodies) -> dict[tuple[int, int], Told]:
    """The items of these rows, by their `place`. A call under way is one of the turn `running`; any other was interrupted."""
    told: dict[tuple[int, int], Told] = {}
    for row in sorted(rows, key=lambda each: (each.held.order, each.records[0].offset)):
        told[row.place] = each = _read_item(row, bodies)
        if each.item.get("status") == "in_progress" and (running is None or row.turn != running):
            each.item["status"] = "interrupted"
    return told


def read_error(found: Found, offset: int | None, length: int | None, bodies: Bodies) -> dict[str, Any] | None:
    """Why a turn failed, by the record that says so; None where none does."""
    if offset is None or length is None:
        return None
    try:
        payload = _payload(bodies.read(found, offset, length))
        error = payload.get("error", payload)
        return {"message": error.get("message"), "codex_error_info": error.get("codex_error_info")}
    except (EngineError, ValueError, AttributeError) as error:
        return {"message": None, "codex_error_info": None, "unreadable": str(error)}


def _read_item(row: ItemRow, bodies: Bodies) -> Told:
    number = None if row.number is None else f"item-{row.number}"
    try:
        records = [bodies.read(row.held.found, *part) for part in row.records]
        payloads = [_payload(record) for record in records]
        item = item_of(kind_of(records[0]), payloads)
        if row.type != UNKNOWN and item["type"] != TYPES[row.type]:
            raise ValueError("another record stands where it was; the index is behind the rollout")  # noqa: TRY301
    except (EngineError, ValueError) as error:
        return Told({"type": TYPES[row.type], "id": number, "unreadable": str(error)}, None)
    item["id"] = number or item["id"]
    return Told(item, payloads[0].get("turn_id"))


def _payload(record: Record[Raw]) -> dict[str, Any]:
    try:
        payload: dict[str, Any] = msgspec.json.decode(record.payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"its payload cannot be read: {error}") from None
    return payload
