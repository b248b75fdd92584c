"""How a home stands, in numbers. Reads the tables and the stat of every file; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from engine.errors import StoreError
from engine.projections.backfill import LEASE, Failure
from engine.projections.runner import Runner
from engine.stores.layout import Home
from engine.stores.leases import Leases
from engine.stores.sqlite import Database


class ThreadCounts(Struct, frozen=True):
    """Threads in the list. `missing` are those whose file is gone."""

    total: int
    active: int
    archived: int
    missing: int


class Lag(Struct, frozen=True):
    """Rollouts whose rows are behind their file, and how many rollouts there are.

    `outdated` of those behind are so by their version alone: a raised one, or a rebuild under way. `newer` rollouts have
    rows of a newer engine, which are left alone; those of them that changed since are behind, for that engine to mend.
    """

    files: int
    bytes: int
    files_total: int
    bytes_total: int
    outdated: int
    newer: int


class BackfillState(Struct, frozen=True):
    """The back-fill's last report, and who works on one now.

    `rebuild_begun_at_ms` is None unless a rebuild was begun and has not come to its end.
    """

    status: str
    last_watermark: str | None
    last_success_at_ms: int | None
    files_done: int
    files_total: int
    owner: str | None
    failed: list[Failure]
    rebuild_begun_at_ms: int | None


class Status(Struct, frozen=True):
    """The answer of `status`."""

    home: str
    state_dir: str | None
    threads: ThreadCounts
    lag: Lag
    set_aside: int
    backfill: BackfillState
    counters: dict[str, int]
    background_error: str | None
    """What the background's last round failed with, in the engine that answers."""


def read_status(
    home: Home,
    database: Database,
    runner: Runner,
    leases: Leases | None,
    written: Mapping[str, int],
    background_error: str | None,
) -> Status:
    """Scan the home's stats and read the tables."""
    scan = runner.scan()
    stale = list(scan)
    refused = [Failure(each.path, each.reason) for each in scan.refused]
    with database.read() as transaction:
        total, archived = transaction.row("SELECT count(*), coalesce(sum(archived), 0) FROM threads") or (0, 0)
        (missing,) = transaction.row(_MISSING) or (0,)
        (aside,) = transaction.row('SELECT count(*) FROM (SELECT DISTINCT stream, "offset" FROM set_aside)') or (0,)
        (divergences,) = transaction.row("SELECT count(*) FROM divergences") or (0,)
        records, damaged = transaction.row(
            "SELECT coalesce(sum(records), 0), coalesce(sum(damaged), 0) FROM streams"
        ) or (0, 0)
        status, last, success, done, total_files, rebuild = transaction.row(_BACKFILL) or (
            "pending",
            None,
            None,
            0,
            0,
            None,
        )
        failed = [
            Failure(path, reason)
            for path, reason in transaction.rows("SELECT path, reason FROM failures ORDER BY path")
        ]
    return Status(
        home=home.path,
        state_dir=home.state,
        threads=ThreadCounts(total, total - archived, archived, missing),
        lag=Lag(
            files=len(stale) + scan.newer_behind,
            bytes=sum(each.found.stat.size for each in stale) + scan.newer_behind_bytes,
            files_total=len(scan.seen),
            bytes_total=scan.bytes_seen,
            outdated=sum(each.outdated for each in stale),
            newer=scan.newer,
        ),
        set_aside=aside,
        backfill=BackfillState(
            status=status,
            last_watermark=last,
            last_success_at_ms=success,
            files_done=done,
            files_total=total_files,
            owner=_owner(leases),
            failed=[*failed, *refused],
            rebuild_begun_at_ms=rebuild,
        ),
        counters={"divergences": divergences, "records": records, "damaged_lines": damaged, **written},
        background_error=background_error,
    )


def _owner(leases: Leases | None) -> str | None:
    try:
        held = None if leases is None else leases.holder(LEASE)
    except StoreError:
        return None
    return None if held is None else str(held.owner)


_BACKFILL = """
    SELECT status, last_watermark, last_success_at_ms, files_done, files_total, rebuild_begun_at_ms
    FROM backfill WHERE id = 1
"""

_MISSING = """
    SELECT count(*) FROM threads JOIN streams ON streams.path = threads.rollout_path
    WHERE streams.missing_since_ms IS NOT NULL
"""
