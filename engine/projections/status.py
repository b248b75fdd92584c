"""How a home stands, in numbers. Reads the tables and the stat of every file; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from engine.errors import StoreError
from engine.projections.backfill import LEASE, Failure
from engine.projections.registry import THREADS
from engine.projections.runner import Runner, Scan, Stale
from engine.projections.side import Side
from engine.projections.sides import Sides
from engine.stores.layout import Home
from engine.stores.leases import Leases
from engine.stores.sqlite import Database, Transaction


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


class ProjectionStatus(Struct, frozen=True):
    """How one projection stands in the database of that name; of one that cannot be read `error` says why.

    `failed` are streams that could not be read, or where the projection's own code failed.
    """

    name: str
    database: str
    version: int
    lag: Lag | None
    set_aside: int
    failed: list[Failure]
    error: str | None


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
    projections: list[ProjectionStatus]


def read_status(
    home: Home,
    database: Database,
    runner: Runner,
    sides: Sides,
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
        failed = _failed(transaction)
    lag = _lag(scan, stale)
    threads = ProjectionStatus(THREADS.name, database.name, THREADS.version, lag, aside, failed, None)
    return Status(
        home=home.path,
        state_dir=home.state,
        threads=ThreadCounts(total, total - archived, archived, missing),
        lag=lag,
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
        projections=[threads, *(each for side in sides for each in _side_status(side, lag))],
    )


def _side_status(side: Side, lag: Lag) -> list[ProjectionStatus]:
    """How the projections of one side database stand. One that was never asked has all before it; `lag` counts the files."""
    try:
        if side.is_there:
            return _opened_status(side)
        behind, error = Lag(lag.files_total, lag.bytes_total, lag.files_total, lag.bytes_total, 0, 0), None
    except StoreError as caught:
        behind, error = None, caught.message
    return [ProjectionStatus(each.name, side.name, each.version, behind, 0, [], error) for each in side.projections]


def _opened_status(side: Side) -> list[ProjectionStatus]:
    scan = side.scan()
    lag = _lag(scan, list(scan))
    with side.database().read() as transaction:
        failed = _failed(transaction)
        aside = [transaction.row(_ASIDE, {"name": each.name}) or (0,) for each in side.projections]
    return [
        ProjectionStatus(each.name, side.name, each.version, lag, count, failed, None)
        for each, (count,) in zip(side.projections, aside, strict=True)
    ]


def _lag(scan: Scan, stale: Sequence[Stale]) -> Lag:
    """Of a walk that has ended."""
    return Lag(
        files=len(stale) + scan.newer_behind,
        bytes=sum(each.found.stat.size for each in stale) + scan.newer_behind_bytes,
        files_total=len(scan.seen),
        bytes_total=scan.bytes_seen,
        outdated=sum(each.outdated for each in stale),
        newer=scan.newer,
    )


def _failed(transaction: Transaction) -> list[Failure]:
    rows = transaction.rows("SELECT path, reason FROM failures ORDER BY path")
    return [Failure(path, reason) for path, reason in rows]


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

_ASIDE = "SELECT count(*) FROM set_aside WHERE projection = :name"

_MISSING = """
    SELECT count(*) FROM threads JOIN streams ON streams.path = threads.rollout_path
    WHERE streams.missing_since_ms IS NOT NULL
"""
