"""What the two phases work with, of one engine, and how they say how far they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct

from engine.clock import Clock
from engine.decisions import Decisions
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
    """`jobs` bounds attempts, for extractions; `global_jobs` does not, for consolidations."""

    home: Home
    root: str
    database: Database
    fresh: Fresh
    history: History
    decisions: Decisions
    jobs: Jobs
    global_jobs: Jobs
    alive: Alive
    options: Options
    clock: Clock
    files: Files

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
