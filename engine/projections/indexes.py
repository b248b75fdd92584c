"""The projections with a side database each. A worker process loads them only when one of them is asked for."""

from __future__ import annotations

from engine.projections.projection import Projection
from engine.projections.search import Search
from engine.projections.turns import Turns

TURNS = Turns()
SEARCH = Search()
INDEXES: tuple[Projection, ...] = (TURNS, SEARCH)
"""They ask for the same records, so one pass over a rollout serves both."""
