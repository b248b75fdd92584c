"""A rollout that is no file."""

from __future__ import annotations

from engine.stores.files import FileStat


class Bytes:
    """Read as an open rollout is."""

    broken = None

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stat = FileStat(1, 2, len(data), 3, 4)

    def read_at(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + max(size, 0)]

    def close(self) -> None: ...
