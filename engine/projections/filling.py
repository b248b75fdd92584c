"""Fill side databases to their end because somebody asked for it: with progress, and by one process at a time.

The one that works holds the lease `fill <name>`; others look on and then do what is left, or take over when the owner dies.
A lease only spares work: rows and watermarks move by compare-and-swap, so without one (its database is lost or locked) two
processes do the same twice and the rows are right. What was folded stays folded, so a run that is killed is gone on with by
whoever asks next, by the background, and by each question.

Those of `INDEXES` are filled together: a rollout is read once, by worker processes where there is enough to do, and what
it comes to is written here, to each in a transaction of its own. An application's own projections are folded in this
process, which alone has their code. What befalls one, a full disk or a lost lease, is none of the others' business.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec

from engine.clock import Clock
from engine.errors import EngineError, LeaseLost, StoreError
from engine.options import Options
from engine.projections.backfill import HEARTBEATS_A_LEASE, Failure, Progress
from engine.projections.indexes import INDEXES
from engine.projections.pool import Pool
from engine.projections.runner import Scan
from engine.projections.side import Side
from engine.projections.side_runner import Piece
from engine.projections.worker import Done, Hand, Job, behind
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.leases import Held, Lease, Leases
from engine.stores.sqlite import Database

PIECE_MS = 100
PIECES_MAX = 1_000
"""How long the background works on one before it rests, and how often in one round: one that is locked has its end."""

FILL = "fill"
REBUILD = "rebuild"
"""What the lease is held for."""

_TOLD = re.compile(r"(\d+)/(\d+) files, (\d+)/(\d+) bytes")

Show = Callable[[Progress], None]


class Filled(NamedTuple):
    """What filling came to: rollouts and bytes that this process folded, and what could not be used.

    `error` is what ended it before its end.
    """

    files: int
    bytes: int
    failed: list[Failure]
    joined: bool
    error: EngineError | OSError | None


@dataclass(slots=True)
class _Task:
    """One side database that is to be filled. `works` while this process is at it, `is_over` when it is full or failed."""

    side: Side
    rebuild: bool
    lease: Lease | Held | None = None
    works: bool = False
    is_over: bool = False
    joined: bool = False
    error: EngineError | OSError | None = None
    database: Database | None = None
    scan: Scan | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    """By stream, what is still to be folded, from where."""
    files: int = 0
    bytes: int = 0
    failed: list[Failure] = field(default_factory=list)

    @property
    def seen(self) -> set[str]:
        return set() if self.scan is None else self.scan.seen

    @property
    def bytes_seen(self) -> int:
        return 0 if self.scan is None else self.scan.bytes_seen

    def take(self, batch: Sequence[Done]) -> dict[str, Piece]:
        """What of these is its own, each with the job that it is the answer to; what comes next is behind them."""
        pieces: dict[str, Piece] = {}
        for done in batch:
            job = self.jobs.pop(done.path, None)
            if job is None:
                continue
            own = msgspec.structs.replace(done, folded=[each for each in done.folded if each.projection in job.of])
            pieces[done.path] = (job, own)
            if done.is_whole:
                self.files, self.bytes = self.files + 1, self.bytes + job.size
            else:
                self.jobs[done.path] = behind(job, own)
        return pieces

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """What comes up inside ends this one's work: for now where somebody else took over, else for good."""
        try:
            yield
        except LeaseLost:
            self.joined, self.works = True, False
        except (EngineError, OSError) as error:
            self.error, self.works, self.is_over = error, False, True


class Filling:
    """Fills the side databases of one home."""

    def __init__(self, home: Home, leases: Leases | None, *, options: Options, clock: Clock, files: Files) -> None:
        self._leases = leases
        self._options = options
        self._clock = clock
        self._hand = Hand(home, INDEXES, options, files, piece_bytes=options.piece_bytes)

    def fill(
        self, sides: Sequence[Side], show: Show, *, pool: Pool | None = None, rebuild: bool = False
    ) -> list[Filled]:
        """Bring every row up to date with every rollout; with `rebuild` all streams are folded anew. An answer a side.

        Several are filled together, and are of `INDEXES`.
        """
        tasks = [_Task(side, rebuild) for side in sides]
        while waiting := [task for task in tasks if not task.is_over]:
            try:
                for task in waiting:
                    self._begin(task)
                    if not task.works:
                        self._give_back(task)
                if at_work := [task for task in waiting if task.works]:
                    self._work_all(at_work, show, pool)
                elif held := [task for task in waiting if not task.is_over]:
                    self._look_on(held, show)
            finally:
                for task in waiting:
                    self._give_back(task)
        return [Filled(task.files, task.bytes, task.failed, task.joined, task.error) for task in tasks]

    def tend(self, side: Side, rest: Callable[[], bool]) -> bool:
        """Bring it up to date in pieces, with a rest after each; whether it is time to stop.

        The first piece, which mostly finds that nothing is to be done, takes no lease. Where somebody else is at work it is
        left to them.
        """
        for piece in range(PIECES_MAX):
            lease = self._claim(side, FILL) if piece else self._holder(side)
            if isinstance(lease, Held):
                return False
            try:
                partial = side.catch_up(PIECE_MS)
            finally:
                self._release(lease)
            if rest():
                return True
            if partial is None or partial.files_total is not None:
                return False
        return False

    def _begin(self, task: _Task) -> None:
        """Claim one, and look at what is to be done; where somebody else is at work it waits for them."""
        with task.alone():
            task.lease = self._claim(task.side, REBUILD if task.rebuild else FILL)
            if isinstance(task.lease, Held):
                task.joined = True
                # What another one folds anew is as new.
                task.rebuild = task.rebuild and task.lease.purpose != REBUILD
                return
            if task.rebuild:
                task.side.owe()
                task.rebuild = False
            task.database = task.side.database()
            task.scan = task.side.scan()
            task.jobs = {job.path: job for job in task.side.jobs(list(task.scan))}
            task.works = True

    def _give_back(self, task: _Task) -> None:
        self._release(task.lease)
        task.lease, task.works = None, False

    def _work_all(self, tasks: Sequence[_Task], show: Show, pool: Pool | None) -> None:
        try:
            self._work(tasks, show, pool)
        except (EngineError, OSError):  # none of them can be folded
            for task in tasks:
                with task.alone():
                    raise

    def _work(self, tasks: Sequence[_Task], show: Show, pool: Pool | None) -> None:
        jobs = _merged(tasks)
        sizes = {job.path: job.size for job in jobs}
        what = _named(tasks)
        files_total = len(set().union(*(task.seen for task in tasks)))
        bytes_total = max(task.bytes_seen for task in tasks)
        now = Progress(files_total - len(jobs), files_total, bytes_total - sum(sizes.values()), bytes_total, what=what)
        beaten_ms = self._clock.boot_ms()
        show(now)
        with contextlib.closing(self._folded(tasks, jobs, pool)) as folded:
            for batch in self._batches(folded, sizes):
                self._write(tasks, batch)
                done = [sizes[each.path] for each in batch if each.is_whole]
                now = replace(now, files_done=now.files_done + len(done), bytes_done=now.bytes_done + sum(done))
                if self._clock.boot_ms() - beaten_ms >= self._options.lease_ms // HEARTBEATS_A_LEASE:
                    beaten_ms = self._clock.boot_ms()
                    self._beat(tasks, now)
                if not any(task.works for task in tasks):
                    return
                show(now)
        for task in tasks:
            if task.works:
                self._finish(task)

    def _folded(self, tasks: Sequence[_Task], jobs: Sequence[Job], pool: Pool | None) -> Generator[Done, None, None]:
        if not all(task.side.is_index for task in tasks):
            (task,) = tasks
            return task.side.pieces(jobs)
        if pool is not None and pool.takes(jobs):
            return pool.run(jobs)
        return (done for job in jobs for done in self._hand.pieces(job))

    def _batches(self, folded: Iterator[Done], sizes: Mapping[str, int]) -> Iterator[list[Done]]:
        """What is written in one transaction: at most so many streams and bytes, of each stream one piece."""
        batch: list[Done] = []
        size, piece_bytes = 0, self._options.piece_bytes
        for done in folded:
            batch.append(done)
            size += min(sizes[done.path], piece_bytes)
            if not done.is_whole or size >= piece_bytes or len(batch) >= self._options.batch_streams:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _write(self, tasks: Sequence[_Task], batch: Sequence[Done]) -> None:
        for task in tasks:
            if task.works:
                with task.alone():
                    task.side.write(task.take(batch))

    def _finish(self, task: _Task) -> None:
        with task.alone():
            if task.scan is not None:
                task.side.forget_vanished(task.scan)
                task.failed = [Failure(each.path, each.reason) for each in task.scan.refused if not each.link]
            if task.side.database() is not task.database:
                task.side.catch_up()  # it was begun anew meanwhile, and lacks what was written before
            task.failed = [*(Failure(*each) for each in task.side.failures()), *task.failed]
            task.works, task.is_over = False, True

    def _look_on(self, tasks: Sequence[_Task], show: Show) -> None:
        """Wait while somebody else works on the first of these, showing how far they are."""
        what = _named(tasks)
        while (held := self._holder(tasks[0].side)) is not None:
            told = _TOLD.fullmatch(held.progress)
            files, files_total, size, size_total = (0, 0, 0, 0) if told is None else map(int, told.groups())
            show(Progress(files, files_total, size, size_total, owner=str(held.owner), what=what))
            self._clock.sleep(self._options.spectator_poll_ms / 1000)

    def _beat(self, tasks: Sequence[_Task], now: Progress) -> None:
        told = f"{now.files_done}/{now.files_total} files, {now.bytes_done}/{now.bytes_total} bytes"
        for task in tasks:
            if task.works and isinstance(task.lease, Lease) and self._leases is not None:
                with task.alone(), contextlib.suppress(StoreError):
                    self._leases.heartbeat(task.lease, told)

    def _claim(self, side: Side, purpose: str) -> Lease | Held | None:
        if self._leases is None:
            return None
        try:
            return self._leases.claim(_name(side), purpose)
        except StoreError:
            return None

    def _holder(self, side: Side) -> Held | None:
        try:
            return None if self._leases is None else self._leases.holder(_name(side))
        except StoreError:
            return None

    def _release(self, lease: Lease | Held | None) -> None:
        if not isinstance(lease, Lease) or self._leases is None:
            return
        with contextlib.suppress(StoreError):  # it lapses, or its owner is found dead
            self._leases.release(lease)


def _name(side: Side) -> str:
    return f"fill {side.name}"


def _named(tasks: Sequence[_Task]) -> str:
    return " and ".join(task.side.title for task in tasks)


def _merged(tasks: Sequence[_Task]) -> list[Job]:
    """One job a stream, for all who are behind on it, in the order of the scan."""
    merged: dict[str, Job] = {}
    for task in tasks:
        for path, job in task.jobs.items():
            one = merged.get(path)
            merged[path] = job if one is None else _both(one, job)
    return list(merged.values())


def _both(one: Job, other: Job) -> Job:
    return msgspec.structs.replace(one, marks={**one.marks, **other.marks}, of=(*one.of, *other.of))
