"""Diagnostics that never disturb the product: a handler for the standard library's `logging`, and a way to ask.

    import logging
    from engine.logs import Handler, belonging_to

    logging.getLogger().addHandler(Handler("/home/me/.codex"))
    with belonging_to(thread.id):
        logging.getLogger("app.tools").info("ran %s in %d ms", "grep", 12)

A record is encoded and queued by whoever logs it, and written by a thread to this process's own segment: no lock that any
other process has, no database. The table of logs is filled from the segments by whoever asks (`Engine.logs`).
"""

from engine.logs.handler import Handler, belonging_to

__all__ = ["Handler", "belonging_to"]
