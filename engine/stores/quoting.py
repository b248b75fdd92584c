"""Names in SQL. A worker process reads this, and loads no SQLite."""

from __future__ import annotations


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
