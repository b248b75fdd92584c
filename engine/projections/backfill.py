"""Back-fill: bring every row up to date with every rollout, by one process at a time, and say how far it is.

The one that works holds the lease `backfill`; others look on and get the same answer, or take over when the owner dies.
Work goes newest first, in batches with a checkpoint each, and each checkpoint carries the lease's generation, so an owner
who was overtaken cannot write on. What was folded stays folded: a run that is killed anywhere is resumed by the next, at
the cost of a stat for each file that was done. A file that cannot be read is listed with its reason, keeps the status
from being complete, and is tried again by every run. `complete` is a report of the last run, never a reason not to look.

A rebuild is a back-fill of streams that were marked as owed before (`owed`); whichever run comes to its end ends it.
`tend` is a back-fill that gives way: it holds the lease for one small batch at a time, and rests between.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.clock import Clock
from engine.errors import LeaseLost, StoreCorrupt, StoreError
from engine.options import Options
from engine.projections import owed
from engine.projections.pool import Pool
from engine.projections.runner import Runner, Scan, Stale
from engine.projections.worker import Done, Job
from engine.stores.leases import Held, Lease, Leases, fence
from engine.stores.sqlite import Database, Transaction

LEASE = "backfill"
BACK_FILL = "back-fill"
REBUILD = "rebuild"
"""What the lease is held for."""

BATCH_S = 0.5
"""A batch is written at the latest after this long, so that large files show progress and a crash costs little."""

TENDED_STREAMS = 16
TENDED_BYTES = 4 * 1024 * 1024
"""How much is folded and written between two rests: some ten milliseconds, or one large rollout."""

HEARTBEATS_A_LEASE = 6


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a back-fill is. Bytes are of files; `owner` names the process that works when it is not this one.

    `what` names what is filled where it is not the list of threads.
    """

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    owner: str | None = None
    what: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A rollout or folder that could not be used."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What a back-fill came to. `files` and `bytes` were folded by this run; `threads` are in the list now."""

    status: str
    threads: int
    files: int
    bytes: int
    failed: tuple[Failure, ...]
    seconds: float
    last_watermark: str | None
    last_success_at_ms: int | None
    joined: bool = False
    """Whether another process did (part of) the work while this one looked on."""


@dataclass(slots=True)
class _Tally:
    """What this run has done so far."""

    scan: Scan
    files_total: int
    bytes_total: int
    files: int = 0
    bytes: int = 0
    failed: list[Failure] = field(default_factory=list)
    last: str | None = None


class Backfill:
    """Runs back-fills of one home into one database."""

    def __init__(
        self,
        runner: Runner,
        database: Database,
        leases: Leases | None,
        *,
        options: Options,
        clock: Clock,
    ) -> None:
        self._runner = runner
        self._database = database
        self._leases = leases
        self._options = options
        self._clock = clock
        self._tending = threading.Lock()
        self._counting = threading.Lock()
        self._runs = 0

    def run(
        self,
        *,
        pool: Pool | None = None,
        rebuild: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> BackfillReport:
        """Catch everything up; with `rebuild`, owe every stream before, or go on with what is owed. Returns when it is done.

        With a `pool` its workers read and fold; this process writes. Raises `StoreError`, `WorkerDied`.
        """
        with self._untended():
            return self._run(pool, rebuild=rebuild, show=progress or _show_nothing)

    def _run(self, pool: Pool | None, *, rebuild: bool, show: Callable[[Progress], None]) -> BackfillReport:
        started = self._clock.elapsed_s()
        joined = False
        while True:
            lease = self._claim(REBUILD if rebuild else BACK_FILL)
            if isinstance(lease, Held):
                joined = True
                self._look_on(show)
                # What another rebuild wrote is as new; a back-fill passes over what it takes for unchanged.
                rebuild = rebuild and lease.purpose != REBUILD
                continue
            keeper = _Keeper(self._leases, lease, self._options, self._clock)
            try:
                if rebuild:
                    owed.begin(self._database, self._runner.versions, now_ms=self._clock.wall_ms(), inside=keeper.fence)
                    rebuild = False
                tally = self._work(keeper, pool, show)
            except LeaseLost:
                joined = True
                continue
            finally:
                self._release(lease)
            return self.report(started, files=tally.files, size=tally.bytes, failed=tally.failed, joined=joined)

    def tend(self, rest: Callable[[], bool]) -> None:
        """Catch up a little at a time, calling `rest` between, until all is done or it answers that it is time to stop.

        Leaves the work to whoever has the lease, and to a run of this process. Raises `StoreError`.
        """
        with contextlib.suppress(LeaseLost):
            self._tend(rest)

    def _tend(self, rest: Callable[[], bool]) -> None:
        with self._database.read() as transaction:
            rebuilding = owed.under_way(transaction)
        scan = self._runner.scan(stop=rest)
        tally = _Tally(scan, 0, 0)
        for batch in _bounded(scan):
            self._tend_batch(batch, tally)
            if rest():
                return
        if scan.ended and (tally.files or rebuilding or self._runner.has_vanished(scan) or not self._is_complete()):
            tally.files_total, tally.bytes_total = len(scan.seen), scan.bytes_seen
            tally.failed.extend(Failure(refused.path, refused.reason) for refused in scan.refused)
            with self._leased() as keeper:
                self._finish(tally, keeper, rebuilding=rebuilding)

    def _tend_batch(self, batch: Sequence[Stale], tally: _Tally) -> None:
        """Fold and write these, but for what somebody else did since the scan."""
        with self._leased() as keeper:
            jobs = self._runner.due(batch)
            done = list(self._runner.do(jobs))
            self._runner.write(done, {job.path: job for job in jobs}, inside=keeper.fence)
        tally.files += sum(bool(each.folded) for each in done)
        tally.failed.extend(Failure(each.path, each.reason) for each in done if each.reason is not None)

    @contextlib.contextmanager
    def _leased(self) -> Iterator[_Keeper]:
        """The lease for one batch. Raises `LeaseLost` where somebody else is at work, or a run of this process waits."""
        with self._tending:
            lease = None if self._runs else self._claim(BACK_FILL)
            if self._runs or isinstance(lease, Held):
                raise LeaseLost("Somebody else is at work on this home.", hint="Leave it to them.")
            try:
                yield _Keeper(self._leases, lease, self._options, self._clock)
            finally:
                self._release(lease)

    @contextlib.contextmanager
    def _untended(self) -> Iterator[None]:
        """Inside, nothing tends the home in this process: it would hold the lease against a run of our own."""
        with self._counting:
            self._runs += 1
        try:
            with self._tending:
                pass  # the batch under way has ended
            yield
        finally:
            with self._counting:
                self._runs -= 1

    def _is_complete(self) -> bool:
        with self._database.read() as transaction:
            return transaction.row("SELECT 1 FROM backfill WHERE status = 'complete'") is not None

    def _claim(self, purpose: str) -> Lease | Held | None:
        """The lease, its holder, or None where leases cannot be had: the compare-and-swap keeps rows right without."""
        if self._leases is None:
            return None
        try:
            with self._database.read() as transaction:
                (generation,) = transaction.row(
                    "SELECT generation FROM fences WHERE name = :name", {"name": LEASE}
                ) or (0,)
            return self._leases.claim(LEASE, purpose, above=generation)
        except StoreError:
            return None

    def _release(self, lease: Lease | None) -> None:
        if lease is None or self._leases is None:
            return
        try:
            self._leases.release(lease)
        except StoreError:
            return  # it lapses, or its owner is found dead

    def _look_on(self, show: Callable[[Progress], None]) -> None:
        """Wait while somebody else works, showing how far they are."""
        while (held := self._holder()) is not None:
            with self._database.read() as transaction:
                row = transaction.row(
                    "SELECT files_done, files_total, bytes_done, bytes_total FROM backfill WHERE id = 1"
                )
            if row is not None:
                files_done, files_total, bytes_done, bytes_total = row
                show(Progress(files_done, files_total, bytes_done, bytes_total, str(held.owner)))
            self._clock.sleep(self._options.spectator_poll_ms / 1000)

    def _holder(self) -> Held | None:
        """Who works; None also where that cannot be told any more, and then the work is done without a lease."""
        try:
            return None if self._leases is None else self._leases.holder(LEASE)
        except StoreError:
            return None

    def _work(self, keeper: _Keeper, pool: Pool | None, show: Callable[[Progress], None]) -> _Tally:
        with self._database.read() as transaction:
            rebuilding = owed.under_way(transaction)
            is_first = transaction.row("SELECT 1 FROM streams LIMIT 1") is None
        if pool is not None and (rebuilding or is_first):
            pool.start()  # there is everything to do, so they start while the folders are walked
        scan = self._runner.scan()
        stale: list[Stale] = list(scan)
        tally = self._fold(scan, self._runner.jobs(stale), pool, keeper, show=show)
        self._finish(tally, keeper, rebuilding=rebuilding)
        return tally

    def _fold(
        self, scan: Scan, jobs: Sequence[Job], pool: Pool | None, keeper: _Keeper, *, show: Callable[[Progress], None]
    ) -> _Tally:
        tally = _Tally(scan, len(scan.seen), scan.bytes_seen)
        bytes_stale = sum(job.size for job in jobs)
        ahead = Progress(len(scan.seen) - len(jobs), len(scan.seen), scan.bytes_seen - bytes_stale, scan.bytes_seen)
        done = pool.run(jobs) if pool is not None and pool.takes(jobs) else self._runner.do(jobs)
        with contextlib.closing(done):
            self._checkpoint_batches(done, jobs, tally, ahead, keeper, show)
        tally.failed.extend(Failure(refused.path, refused.reason) for refused in scan.refused)
        return tally

    def _checkpoint_batches(
        self,
        done: Iterable[Done],
        jobs: Sequence[Job],
        tally: _Tally,
        ahead: Progress,
        keeper: _Keeper,
        show: Callable[[Progress], None],
    ) -> None:
        by_path = {job.path: job for job in jobs}
        show(ahead)
        for batch in self._batches(done):
            tally.files += len(batch)
            tally.bytes += sum(by_path[each.path].size for each in batch)
            tally.failed.extend(Failure(each.path, each.reason) for each in batch if each.reason is not None)
            tally.last = min(each.path for each in batch)
            now = Progress(
                ahead.files_done + tally.files, ahead.files_total, ahead.bytes_done + tally.bytes, ahead.bytes_total
            )

            def checkpoint(transaction: Transaction, now: Progress = now, last: str = tally.last) -> None:
                keeper.fence(transaction)
                self._checkpoint(transaction, now, last)

            self._runner.write(batch, by_path, inside=checkpoint)
            keeper.beat(now)
            show(now)

    def _batches(self, done: Iterable[Done]) -> Iterator[list[Done]]:
        """At most `batch_streams` at a time, and what there is after `BATCH_S`."""
        batch: list[Done] = []
        begun_s = self._clock.elapsed_s()
        for each in done:
            batch.append(each)
            if len(batch) >= self._options.batch_streams or self._clock.elapsed_s() - begun_s >= BATCH_S:
                yield batch
                batch = []
                begun_s = self._clock.elapsed_s()
        if batch:
            yield batch

    def _checkpoint(self, transaction: Transaction, now: Progress, last: str) -> None:
        transaction.run(
            """UPDATE backfill SET status = 'running', last_watermark = :last, updated_at_ms = :at,
               files_done = :files, files_total = :files_total, bytes_done = :bytes, bytes_total = :bytes_total
               WHERE id = 1""",
            {
                "last": last,
                "at": self._clock.wall_ms(),
                "files": now.files_done,
                "files_total": now.files_total,
                "bytes": now.bytes_done,
                "bytes_total": now.bytes_total,
            },
        )

    def _finish(self, tally: _Tally, keeper: _Keeper, *, rebuilding: bool) -> None:
        """The last transaction: what vanished, which folders failed, the status, and the end of a rebuild.

        Of a rebuild that was under way before the scan: one that was begun since owes what this scan did not see.
        """
        with self._database.write() as transaction:
            keeper.fence(transaction)
            self._runner.note_vanished(tally.scan, transaction)
            if rebuilding:
                self._runner.sweep(transaction)
                owed.end(transaction)
            changed = transaction.run(
                """UPDATE backfill SET status = :status, updated_at_ms = :at, files_done = :done, files_total = :total,
                   bytes_done = :bytes, bytes_total = :bytes,
                   last_success_at_ms = iif(:status = 'complete', :at, last_success_at_ms) WHERE id = 1""",
                {
                    "status": "pending" if self._is_unread(tally) else "complete",
                    "at": self._clock.wall_ms(),
                    "done": tally.files_total - len(tally.failed),
                    "total": tally.files_total,
                    "bytes": tally.bytes_total,
                },
            )
            if not changed:
                # A migration makes it, and nothing removes it: each back-fill would be told to be under way.
                path = self._database.path
                raise StoreCorrupt(
                    f"{path} has lost the row of its back-fill", path=path, hint="run `rolloutdb rebuild`"
                )

    def _is_unread(self, tally: _Tally) -> bool:
        """Whether something of the home could not be read; a link that is not followed by rule keeps nothing back."""
        links = {refused.path for refused in tally.scan.refused if refused.link}
        return any(failure.path not in links for failure in tally.failed)

    def report(
        self,
        started: float,
        *,
        files: int,
        size: int = 0,
        failed: Sequence[Failure] = (),
        joined: bool = False,
    ) -> BackfillReport:
        """How the tables stand after work that was begun at `started` (of the clock's `elapsed_s`)."""
        with self._database.read() as transaction:
            status, last, success = transaction.row(
                "SELECT status, last_watermark, last_success_at_ms FROM backfill WHERE id = 1"
            ) or ("pending", None, None)
            (threads,) = transaction.row("SELECT count(*) FROM threads") or (0,)
        return BackfillReport(
            status=status,
            threads=threads,
            files=files,
            bytes=size,
            failed=tuple(failed),
            seconds=self._clock.elapsed_s() - started,
            last_watermark=last,
            last_success_at_ms=success,
            joined=joined,
        )


def _bounded(scan: Scan) -> Iterator[list[Stale]]:
    """What is stale, in batches of some streams and bytes."""
    batch: list[Stale] = []
    for stale in scan:
        batch.append(stale)
        if len(batch) >= TENDED_STREAMS or sum(each.found.stat.size for each in batch) >= TENDED_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


class _Keeper:
    """Keeps the lease of a run, where there is one."""

    def __init__(self, leases: Leases | None, lease: Lease | None, options: Options, clock: Clock) -> None:
        self._leases = leases
        self._lease = lease
        self._every_ms = options.lease_ms // HEARTBEATS_A_LEASE
        self._clock = clock
        self._last_ms = clock.boot_ms()

    def fence(self, transaction: Transaction) -> None:
        if self._lease is not None:
            fence(transaction, LEASE, self._lease.generation)

    def beat(self, now: Progress) -> None:
        """A heartbeat, when one is due; raises `LeaseLost`. Where it cannot be given, the fence still guards the rows."""
        if self._lease is None or self._leases is None or self._clock.boot_ms() - self._last_ms < self._every_ms:
            return
        self._last_ms = self._clock.boot_ms()
        with contextlib.suppress(StoreError):
            self._leases.heartbeat(self._lease, f"{now.files_done} of {now.files_total} files")


def _show_nothing(progress: Progress) -> None:
    """Nobody wants to see it."""
