"""The projections of the database of threads, in the order in which their rows are written."""

from __future__ import annotations

from engine.projections.projection import Projection
from engine.projections.threads import Threads

THREADS = Threads()
BUILT_IN: tuple[Projection, ...] = (THREADS,)
