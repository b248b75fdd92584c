"""All side databases of one engine, each behind its own errors: what befalls one is none of the others' business.

A side database is asked by its own queries alone. Everything else that concerns all of them comes through here: appends are
noted, the background and a back-fill catch them up, removals reach them, status tells how they stand. What fails meanwhile
stays with the one that it befell; only a removal raises it, since what it should remove would stay.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from engine.errors import EngineError, StoreError
from engine.projections.filling import Filling, Show
from engine.projections.pool import Pool
from engine.projections.side import Parts, Side, discard
from engine.stores.sqlite import Database

OWN_PREFIX = "own_"
"""What the file names of applications' own projections begin with, so that none can be one of the engine's."""

_OWN_FILE = re.compile(r"(?P<name>own_[a-z0-9_]+)_(?P<shape>[1-9][0-9]{0,8})\.sqlite(?:-wal|-shm|-journal)?", re.ASCII)


class Sides:
    """The side databases of one home."""

    def __init__(self, parts: Parts, sides: Sequence[Side], filling: Filling) -> None:
        self.parts = parts
        self._filling = filling
        self._sides = tuple(sides)

    def __iter__(self) -> Iterator[Side]:
        return iter(self._sides)

    def note(self, path: str) -> None:
        """An append to this stream was acknowledged, or its file came, went or moved."""
        for side in self._sides:
            if path not in side.noted:  # most appends follow one to the same stream
                side.note(path)

    def fill(self, show: Show, pool: Pool, *, rebuild: bool = False) -> None:
        """Bring each up to date with every rollout, with `rebuild` anew; raises nothing that one of them met."""
        indexes = [side for side in self._sides if side.is_index]
        for sides in [*([side] for side in self._sides if not side.is_index), indexes]:
            for side, filled in zip(sides, self._filling.fill(sides, show, pool=pool, rebuild=rebuild), strict=True):
                if not filled.failed and filled.error is None:
                    with contextlib.suppress(EngineError, OSError):
                        side.remove_older_shapes()

    def catch_up(self, budget_ms: int | None = None) -> None:
        """Fold what moved into each, for at most so long each (None: to the end); raises nothing that one of them met."""
        for side in self._sides:
            with contextlib.suppress(EngineError, OSError):
                side.catch_up(budget_ms)

    def owe(self, paths: Sequence[str]) -> None:
        """Have these streams folded anew in each that there is; raises nothing that one of them met."""
        for side in self._sides:
            with contextlib.suppress(EngineError, OSError):
                if side.is_there:
                    side.owe(paths)

    def of(self, title: str) -> Side | None:
        """The one of this projection."""
        return next((side for side in self._sides if side.title == title), None)

    def tend(self, rest: Callable[[], bool]) -> None:
        """The chore of the background: bring each up to date piece by piece. Raises what the last one met, after all."""
        met: EngineError | OSError | None = None
        for side in self._sides:
            try:
                if self._filling.tend(side, rest):
                    return
            except (EngineError, OSError) as error:
                met = error
        if met is not None:
            raise met

    def forget(self, paths: Sequence[str], thread_ids: Sequence[str] = ()) -> Mapping[str, int]:
        """Remove every row and every byte of these streams, and of those named for these threads; rows, by database.

        Files of projections that this engine was not given may hold the same: they are removed, to be built again by
        whoever has them. Raises `StoreError`.
        """
        for name, shape in self._others():
            discard(self.parts, name, shape)
        return {side.name: side.forget(paths, thread_ids) for side in self._sides}

    def close(self) -> None:
        """Close all that are open."""
        for side in self._sides:
            side.close()

    def _others(self) -> list[tuple[str, int]]:
        """Files of own projections that none of these is, other shapes of theirs among them."""
        home, files = self.parts.home, self.parts.files
        if home.state is None:
            return []
        ours = {(side.name, side.shape) for side in self._sides}
        matches = (_OWN_FILE.fullmatch(entry.name) for entry in files.scan(home.state, op="sides.others"))
        found = {(each["name"], int(each["shape"])) for each in matches if each is not None}
        return sorted(found - ours)


def erased_among(database: Database) -> Callable[[Sequence[str]], set[str]]:
    """A function that tells which of some threads were erased; all of them, where that cannot be told."""

    def erased(thread_ids: Sequence[str]) -> set[str]:
        named = {"ids": msgspec.json.encode(list(thread_ids)).decode()}
        try:
            with database.read() as transaction:
                return {thread_id for (thread_id,) in transaction.rows(_ERASED, named)}
        except StoreError:
            return set(thread_ids)

    return erased


_ERASED = """
    SELECT thread_id FROM facts
    WHERE thread_id IN (SELECT value FROM json_each(:ids)) AND (erased_at_ms IS NOT NULL OR erase_pending = 1)
"""
