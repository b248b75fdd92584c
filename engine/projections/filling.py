"""Fill a side database to its end because somebody asked for it: with progress, and by one process at a time.

The one that works holds the lease `fill <name>`; others look on and then do what is left, or take over when the owner dies.
A lease only spares work: rows and watermarks move by compare-and-swap, so without one (its database is lost or locked) two
processes do the same twice and the rows are right. What was folded stays folded, so a run that is killed is gone on with by
whoever asks next, by the background, and by each question.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from engine.clock import Clock
from engine.errors import LeaseLost, StoreError
from engine.options import Options
from engine.projections.backfill import HEARTBEATS_A_LEASE, Failure, Progress
from engine.projections.side import Side
from engine.stores.leases import Held, Lease, Leases

BATCH_STREAMS = 64
BATCH_BYTES = 4 * 1024 * 1024
"""How much is folded between two looks at the lease; a larger rollout is one batch."""

PIECE_MS = 100
PIECES_MAX = 1_000
"""How long the background works on one before it rests, and how often in one round: one that is locked has its end."""

FILL = "fill"
REBUILD = "rebuild"
"""What the lease is held for."""

_TOLD = re.compile(r"(\d+)/(\d+) files, (\d+)/(\d+) bytes")

Show = Callable[[Progress], None]


class Filled(NamedTuple):
    """What filling came to: rollouts and bytes that this process folded, and what could not be used."""

    files: int
    bytes: int
    failed: list[Failure]
    joined: bool


class Filling:
    """Fills the side databases of one home."""

    def __init__(self, leases: Leases | None, *, options: Options, clock: Clock) -> None:
        self._leases = leases
        self._options = options
        self._clock = clock

    def fill(self, side: Side, show: Show, *, rebuild: bool = False) -> Filled:
        """Bring every row up to date with every rollout; with `rebuild` all streams are folded anew. Raises `StoreError`."""
        joined = False
        while True:
            lease = self._claim(side, REBUILD if rebuild else FILL)
            if isinstance(lease, Held):
                joined = True
                self._look_on(side, show)
                rebuild = rebuild and lease.purpose != REBUILD  # what another one folded anew is as new
                continue
            try:
                if rebuild:
                    side.owe()
                    rebuild = False
                files, size, failed = self._work(side, lease, show)
            except LeaseLost:
                joined = True
                continue
            finally:
                self._release(lease)
            return Filled(files, size, failed, joined)

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

    def _work(self, side: Side, lease: Lease | None, show: Show) -> tuple[int, int, list[Failure]]:
        scan = side.scan()
        stale = list(scan)
        sizes = [each.found.stat.size for each in stale]
        files, size = len(scan.seen) - len(stale), scan.bytes_seen - sum(sizes)
        beaten_ms = self._clock.boot_ms()
        show(Progress(files, len(scan.seen), size, scan.bytes_seen, what=side.title))
        for start, end in _batches(sizes):
            side.fold(stale[start:end])
            files, size = files + end - start, size + sum(sizes[start:end])
            now = Progress(files, len(scan.seen), size, scan.bytes_seen, what=side.title)
            if self._clock.boot_ms() - beaten_ms >= self._options.lease_ms // HEARTBEATS_A_LEASE:
                beaten_ms = self._clock.boot_ms()
                self._beat(lease, now)
            show(now)
        side.catch_up()  # what came, went or moved meanwhile
        failed = [Failure(refused.path, refused.reason) for refused in scan.refused if not refused.link]
        return len(stale), sum(sizes), [*(Failure(*each) for each in side.failures()), *failed]

    def _look_on(self, side: Side, show: Show) -> None:
        """Wait while somebody else works, showing how far they are."""
        while (held := self._holder(side)) is not None:
            told = _TOLD.fullmatch(held.progress)
            files, files_total, size, size_total = (0, 0, 0, 0) if told is None else map(int, told.groups())
            show(Progress(files, files_total, size, size_total, owner=str(held.owner), what=side.title))
            self._clock.sleep(self._options.spectator_poll_ms / 1000)

    def _beat(self, lease: Lease | None, now: Progress) -> None:
        """Raises `LeaseLost`."""
        if lease is None or self._leases is None:
            return
        told = f"{now.files_done}/{now.files_total} files, {now.bytes_done}/{now.bytes_total} bytes"
        with contextlib.suppress(StoreError):
            self._leases.heartbeat(lease, told)

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

    def _release(self, lease: Lease | None) -> None:
        if lease is None or self._leases is None:
            return
        with contextlib.suppress(StoreError):  # it lapses, or its owner is found dead
            self._leases.release(lease)


def _name(side: Side) -> str:
    return f"fill {side.name}"


def _batches(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of at most so many streams and bytes, in order."""
    start = size = 0
    for at, each in enumerate(sizes):
        if at > start and (at - start >= BATCH_STREAMS or size + each > BATCH_BYTES):
            yield start, at
            start, size = at, 0
        size += each
    if start < len(sizes):
        yield start, len(sizes)
