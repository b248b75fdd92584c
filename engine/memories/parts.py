"""What the two phases work with, of one engine, and how they say how far they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct

from engine.clock import Clock
from engine.decisions import Decisions
from engine.errors import StoreUnavailable
from engine.options import MemoryOptions, Options
from engine.projections.fresh import Fresh
from engine.projections.history import History
from engine.stores.alive import Alive
from engine.stores.files import Files
from engine.stores.jobs import Jobs
from engine.stores.layout import Home
from engine.stores.sqlite import Database

EXTRACT = "memory_stage1"
CONSOLIDATE = "memory_consolidate_global"
EVERYTHING = "global"
"""The one key of the second kind."""


class MemoryParts(NamedTuple):
    """`found_jobs` is None where the database of jobs cannot be opened: what was learned can be read then, and none made."""

    home: Home
    root: str
    database: Database
    fresh: Fresh
    history: History
    decisions: Decisions
    found_jobs: tuple[Jobs, Jobs] | None
    alive: Alive
    options: Options
    clock: Clock
    files: Files

    @property
    def jobs(self) -> Jobs:
        """Extractions, of which attempts are bounded. Raises `StoreUnavailable`."""
        return self._jobs()[0]

    @property
    def global_jobs(self) -> Jobs:
        """Consolidations, of which they are not. Raises `StoreUnavailable`."""
        return self._jobs()[1]

    def _jobs(self) -> tuple[Jobs, Jobs]:
        if self.found_jobs is None:
            raise StoreUnavailable(
                f"The database of jobs of {self.home.path} cannot be opened.",
                hint="Run `rolloutdb audit`; it says what is wrong with it.",
            )
        return self.found_jobs

    @property
    def limits(self) -> MemoryOptions:
        """The numbers of memories."""
        return self.options.memories


class MemoryProgress(Struct, frozen=True):
    """How far a run is: in `extracting` threads, in `consolidating` steps. `what` is the thread or the step."""

    phase: str
    done: int
    total: int
    what: str


Show = Callable[[MemoryProgress], Any]
