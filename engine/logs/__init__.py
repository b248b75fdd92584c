"""Diagnostics that never disturb the product: a handler for the standard library's `logging`, and a way to ask.

    import logging
    from engine.logs import Handler, belonging_to

    logging.getLogger().addHandler(Handler("/home/me/.codex"))
    with belonging_to(thread.id):
        logging.getLogger("app.tools").info("ran %s in %d ms", "grep", 12)

A record is encoded and queued by whoever logs it, and written by a thread to this process's own segment: no lock that any
other process has, no database. The table of logs is filled from the segments by whoever asks (`Engine.logs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.logs.handler import Handler, belonging_to

if TYPE_CHECKING:
    from engine.logs.reading import open_logs as open_logs

__all__ = ["Handler", "belonging_to", "open_logs"]


def __getattr__(name: str) -> Any:
    """What asks needs SQLite, what writes does not: a process that only logs never imports it."""
    if name != "open_logs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from engine.logs.reading import open_logs  # noqa: PLC0415 - see above

    return open_logs
