"""The projections of the engine, in the order in which their rows are written: what a worker process knows."""

from __future__ import annotations

from engine.projections.projection import Projection
from engine.projections.search import Search
from engine.projections.threads import Threads
from engine.projections.turns import Turns

THREADS = Threads()
BUILT_IN: tuple[Projection, ...] = (THREADS,)
TURNS = Turns()
SEARCH = Search()
INDEXES: tuple[Projection, ...] = (TURNS, SEARCH)
"""Those with a side database each. They ask for the same records, so one pass over a rollout serves both."""
