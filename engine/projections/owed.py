"""What a rebuild owes: streams that are to be folded anew though their files are unchanged.

A watermark of version 0 is owed: it is older than any projection, so whoever meets it (a back-fill, a flush, the
background) folds the stream from its beginning and replaces its rows in one transaction, and until then the old rows are
answered with. That is all there is to a rebuild: mark, then catch up. What was folded since is not owed any more, so a
rebuild that is killed goes on where it was, whoever goes on with it.

Marking comes in transactions of `BATCH` streams and takes no reading; the last one notes that a rebuild is under way, and
the catch-up that comes to its end takes the note away. A watermark of a newer engine is not marked, unless it is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from engine.stores.sqlite import Database, Transaction, Value

OWED = 0
"""The version of a watermark that is owed."""

BATCH = 2_000
"""Streams marked in one transaction: some ten megabytes of pages."""


def begin(
    database: Database, versions: Mapping[str, int], *, now_ms: int, inside: Callable[[Transaction], None]
) -> None:
    """Mark every stream of these projections, unless a rebuild is under way: then that one is gone on with.

    `versions` are those of this engine; `inside` is called in each transaction, and what it raises ends the marking.
    """
    after: str | None = ""
    while after is not None:
        with database.write() as transaction:
            inside(transaction)
            if under_way(transaction):
                return
            after = _mark_some(transaction, versions, after)
            if after is None:
                transaction.run(_BEGUN, {"now": now_ms})


def under_way(transaction: Transaction) -> bool:
    """Whether a rebuild was begun and has not come to its end."""
    return transaction.row("SELECT 1 FROM backfill WHERE rebuild_begun_at_ms IS NOT NULL") is not None


def end(transaction: Transaction) -> None:
    """The rebuild has come to its end."""
    transaction.run("UPDATE backfill SET rebuild_begun_at_ms = NULL WHERE id = 1")


def mark(transaction: Transaction, streams: Sequence[str]) -> None:
    """Mark these streams, for every projection and whoever built their rows."""
    transaction.run(_MARK_NAMED, {"owed": OWED, "streams": _json(streams)})


def _mark_some(transaction: Transaction, versions: Mapping[str, int], after: str) -> str | None:
    """Mark the next streams behind this one; the last of them, or None where there are no more."""
    streams = [path for (path,) in transaction.rows(_NEXT, {"after": after, "batch": BATCH})]
    for projection, version in versions.items():
        values: dict[str, Value] = {
            "owed": OWED,
            "projection": projection,
            "version": version,
            "streams": _json(streams),
        }
        transaction.run(_MARK, values)
    return streams[-1] if len(streams) == BATCH else None


def _json(values: Sequence[str]) -> str:
    return msgspec.json.encode(values).decode()


_NEXT = "SELECT DISTINCT stream FROM watermarks WHERE stream > :after ORDER BY stream LIMIT :batch"

_MARK = """
    UPDATE watermarks SET version = :owed
    WHERE stream IN (SELECT value FROM json_each(:streams)) AND projection = :projection AND version <= :version
"""

_MARK_NAMED = "UPDATE watermarks SET version = :owed WHERE stream IN (SELECT value FROM json_each(:streams))"

_BEGUN = """
    INSERT INTO backfill (id, status, updated_at_ms, files_done, files_total, bytes_done, bytes_total, rebuild_begun_at_ms)
    VALUES (1, 'pending', :now, 0, 0, 0, 0, :now)
    ON CONFLICT (id) DO UPDATE SET status = 'running', updated_at_ms = :now, rebuild_begun_at_ms = :now
"""
