"""rolloutdb: an embedded, event-sourced store for the threads of AI agents.

    import engine

    with engine.open("/home/me/.codex", state_dir="/tmp/index") as e:
        e.backfill()
        for thread in e.threads.list(limit=10).threads:
            print(thread.id, thread.title)

JSONL rollouts are the truth; SQLite tables are projections that can be thrown away and built again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.errors import EngineError as EngineError
    from engine.events.record import Record as Record
    from engine.follow import Followed as Followed
    from engine.follow import Notice as Notice
    from engine.options import Options as Options
    from engine.projections.own import Projection as Projection
    from engine.projections.projection import Change as Change
    from engine.projections.projection import Piece as Piece
    from engine.projections.projection import Stream as Stream
    from engine.runtime import Engine as Engine
    from engine.runtime import open as open  # noqa: A004 - `engine.open(home)` reads as it should
    from engine.stores.sqlite import Transaction as Transaction

__version__ = "0.1.0"
__all__ = [
    "Change",
    "Engine",
    "EngineError",
    "Followed",
    "Notice",
    "Options",
    "Piece",
    "Projection",
    "Record",
    "Stream",
    "Transaction",
    "__version__",
    "open",
]

_WHERE = {
    "Change": "engine.projections.projection",
    "Engine": "engine.runtime",
    "EngineError": "engine.errors",
    "Followed": "engine.follow",
    "Notice": "engine.follow",
    "Options": "engine.options",
    "Piece": "engine.projections.projection",
    "Projection": "engine.projections.own",
    "Record": "engine.events.record",
    "Stream": "engine.projections.projection",
    "Transaction": "engine.stores.sqlite",
    "open": "engine.runtime",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: a worker process needs a third of what an engine does."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - not needed by those who import a module of ours directly

    return getattr(importlib.import_module(_WHERE[name]), name)
