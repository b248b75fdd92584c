"""Single records of rollouts by byte range: what an index points to.

A rollout is opened at the first record that is asked of it, in the form that it has then (plain, or compressed by frames),
and stays open until `close`. What cannot be read says so for that record alone.
"""

from __future__ import annotations

from typing import Self

from msgspec import Raw

from engine.errors import RolloutUnreadable
from engine.events.record import BYTE_ORDER_MARK, Record, Rejected, decode
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Found, Home
from engine.stores.lineage import open_rollout
from engine.stores.rollouts import Source


class Bodies:
    """Reads records of one home's rollouts. Use as a context, or close it."""

    def __init__(self, home: Home, *, options: Options, files: Files) -> None:
        self._home = home
        self._options = options
        self._files = files
        self._sources: dict[str, Source] = {}

    def read(self, found: Found, offset: int, length: int) -> Record[Raw]:
        """The record of `length` bytes at `offset`. Raises `RolloutUnreadable` with what is wrong."""
        try:
            line = self._source(found).read_at(offset, length)
        except OSError as error:
            raise _unreadable(found, offset, f"it cannot be read: {error.strerror}") from error
        if len(line) < length:
            raise _unreadable(found, offset, self._sources[found.path].broken or "the rollout ends before it")
        try:
            return decode(line.removeprefix(BYTE_ORDER_MARK) if offset == 0 else line)
        except Rejected as rejected:
            raise _unreadable(found, offset, rejected.reason) from None

    def close(self) -> None:
        """Give the files back."""
        while self._sources:
            self._sources.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _source(self, found: Found) -> Source:
        if found.path not in self._sources:
            self._sources[found.path] = open_rollout(self._home, found, self._options, self._files)
        return self._sources[found.path]


def _unreadable(found: Found, offset: int, what: str) -> RolloutUnreadable:
    return RolloutUnreadable(
        f"A record of {found.path} cannot be shown: {what}.",
        hint="Run `rolloutdb audit`.",
        path=found.path,
        offset=offset,
    )
