"""What an audit works with, and what several of its parts ask: how a path is shown, who is at work, what has moved."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from engine.clock import Clock
from engine.errors import StoreError
from engine.options import Options
from engine.projections.check import Checker
from engine.projections.facts import Facts
from engine.projections.logs import LogTable
from engine.projections.side import Parts as SideParts
from engine.projections.sides import Sides
from engine.stores.files import Files, FileStat
from engine.stores.journal import Journal
from engine.stores.layout import Found, Home, locate
from engine.stores.lineage import first_meta
from engine.stores.locks import others_hold
from engine.stores.sqlite import Database
from engine.stores.writer_lock import live_owner


class AuditParts(NamedTuple):
    """The parts of one engine that an audit reads. `jobs` is None where that database could not be opened."""

    home: Home
    database: Database
    jobs: Database | None
    checker: Checker
    facts: Facts
    journal: Journal
    sides: Sides
    logs: LogTable
    options: Options
    clock: Clock
    files: Files

    @property
    def side_parts(self) -> SideParts:
        """What the side databases are compared with."""
        return self.sides.parts

    @property
    def databases(self) -> Sequence[Database]:
        """The databases that stand in files, but for the side databases."""
        found = [self.database, self.jobs]
        with contextlib.suppress(StoreError):  # whoever asks for logs is told
            if self.logs.is_there:
                found.append(self.logs.database())
        return [each for each in found if each is not None and each.path is not None]

    def shown(self, path: str) -> str:
        """A path as findings have it: relative to the home where it lies there."""
        return path.removeprefix(f"{self.home.path}/")

    def absolute(self, shown: str) -> str:
        """Where a path is that findings have."""
        return shown if shown.startswith("/") else f"{self.home.path}/{shown}"

    def live_owner(self, thread_id: str) -> str | None:
        """Who has the thread open for changing it, or None."""
        return live_owner(self.home, thread_id, self.files)

    def stands(self, path: str, paths: AbstractSet[str]) -> bool:
        """Whether a logical path is one of these, and its file is there."""
        if path not in paths:
            return False
        try:
            return locate(self.home, path, self.files) is not None
        except OSError:
            return True  # its folder cannot be read, which the walk reports

    def others_at_work(self) -> bool:
        """Whether another process has the tables open, so that what is seen may be in the middle of a change."""
        try:
            return self.database.use_lock is not None and others_hold(self.database.use_lock, self.files)
        except OSError:
            return True  # it cannot be told, so nothing is called wrong in haste

    def is_ours(self, found: Found) -> bool:
        """Whether this engine began the rollout; another program may use one that it did not. Raises OSError."""
        meta = first_meta(self.home, found, options=self.options, files=self.files)
        return meta is not None and bool(bytes(meta.rolloutdb))


class Looked:
    """The stat of each file as it was looked at, of those that gave findings."""

    def __init__(self, parts: AuditParts) -> None:
        self._parts = parts
        self._stats: dict[str, FileStat | None] = {}
        self._absolute: dict[str, tuple[str, FileStat]] = {}

    def note(self, path: str, stat: FileStat | None) -> None:
        """A rollout, by its logical path."""
        self._stats[path] = stat

    def note_absolute(self, shown: str, path: str, stat: FileStat) -> None:
        """Any other file, by the path that findings name and where it is."""
        self._absolute[shown] = path, stat

    def has_moved(self, path: str | None) -> bool:
        """Whether the file is not what it was when it was looked at."""
        try:
            if path in self._absolute:
                there, stat = self._absolute[path]
                return self._parts.files.stat(there, op="audit.stat") != stat
            if path in self._stats:
                found = locate(self._parts.home, path, self._parts.files)
                return (None if found is None else found.stat) != self._stats[path]
        except OSError:
            return False
        return False
