"""The idempotency keys of a stream's last records: which batch was written, and how much of it.

A record of a keyed batch carries `"key":"K#i/n"`: the key, its place, and how many the batch has. Only the last 1,000
records count, in a running recorder as in one that was just opened, so an answer does not hang on a restart. Of the
content a digest is kept. A batch is written in order, so what is there of it is its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from xxhash import xxh3_128_digest

from engine.errors import InvalidRequest, KeyConflict
from engine.events.item import Item, KeyedRecord, body_of

RECORDS_KEPT = 1000
"""How many of the last records a key is looked up in."""


class Keyed(NamedTuple):
    """What a record says of the batch that it is of."""

    key: str
    place: int
    places: int
    digest: bytes


class _Batch:
    __slots__ = ("digests", "last", "places")

    def __init__(self, places: int) -> None:
        self.places = places
        self.digests: dict[int, tuple[bytes, int]] = {}
        """By place, the content's, and the number of its record, counted from when the stream was opened."""
        self.last = 0
        """The number of its last record."""


class Keys:
    """What is known of one stream's keys."""

    def __init__(self) -> None:
        self.records = 0
        """How many there were since the stream was opened; whoever appends some without a key counts them here."""
        self._batches: dict[str, _Batch] = {}
        """By key, the one that was written to longest ago first."""

    def note(self, found: Sequence[Keyed | None]) -> None:
        """Records follow, in order; None is one without a key."""
        for keyed in found:
            self.records += 1
            if keyed is not None:
                batch = self._batches.pop(keyed.key, None)
                if batch is None or batch.places != keyed.places:
                    batch = _Batch(keyed.places)
                self._batches[keyed.key] = batch
                batch.digests[keyed.place] = keyed.digest, self.records
                batch.last = self.records
        self._forget()

    def written(self, key: str, items: Sequence[Item]) -> int:
        """How many of the batch's items are there already. Raises `KeyConflict` where they are others."""
        self._forget()
        batch = self._batches.get(key)
        if batch is None:
            return 0
        oldest = self.records - RECORDS_KEPT
        if batch.places != len(items) or any(
            number > oldest and digest != digest_of(items[place]) for place, (digest, number) in batch.digests.items()
        ):
            raise KeyConflict(f"The key {key!r} was used for other content.", hint="Use a new key for a new batch.")
        return max(batch.digests) + 1

    def is_newest(self, key: str) -> bool:
        """Whether the stream's last record is of this key's batch."""
        return key in self._batches and self._batches[key].last == self.records

    def _forget(self) -> None:
        oldest = self.records - RECORDS_KEPT
        while self._batches and self._batches[key := next(iter(self._batches))].last <= oldest:
            del self._batches[key]


def check_key(key: str) -> None:
    """Raises `InvalidRequest` for text that cannot be a key."""
    if not key or "#" in key or not key.isprintable():
        raise InvalidRequest(f"{key!r} cannot be a key.", hint="Use printable text without # that is not empty.")


def keyed_of(line: bytes) -> Keyed | None:
    """What a stored line says of a batch; None where it is of none, or of another program's making."""
    if b'"key":"' not in line:
        return None
    try:
        record = msgspec.json.decode(line, type=KeyedRecord)
    except msgspec.DecodeError:
        return None
    key, _, where = (record.key or "").rpartition("#")
    place, _, places = where.partition("/")
    if not key or not place.isdecimal() or not places.isdecimal() or int(place) >= int(places):
        return None
    metadata = record.metadata if bytes(record.metadata) else None
    return Keyed(key, int(place), int(places), xxh3_128_digest(body_of(record.type, record.payload, metadata)))


def digest_of(item: Item) -> bytes:
    """The same for an item as for the line that it became."""
    return xxh3_128_digest(item.body)
