"""A runner for the projections of a side database: what is gone is forgotten, and large streams come in pieces.

It differs from that of the state database in this: no table tells which files are missing, since rows of a stream that is
gone go with it; rows of a stream that is folded anew are removed before the new ones are written; and a stream longer
than `piece_bytes` is committed piece by piece, so that what its rows take in memory is bounded. Where a projection's own
code fails, that stream is a failure with a reason, kept until it is folded, and all other streams go on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

import msgspec

from engine.clock import Clock
from engine.errors import ProjectionFailed
from engine.options import Options
from engine.projections.fold import Decode, Folded
from engine.projections.projection import Projection
from engine.projections.runner import Compared, Left, Runner, Stale
from engine.projections.worker import Done, Hand, Job, behind
from engine.stores import watermarks
from engine.stores.files import Files
from engine.stores.layout import Home, Listing, parse_path
from engine.stores.sqlite import Database, Transaction

Piece = tuple[Job, Done]
"""What a stream was folded to, and the job that it is the answer to: where the piece before ended."""


class SideRunner(Runner):
    """Catches the projections of one side database up. One thread at a time calls `fold`."""

    _keeps_missing = False

    def __init__(
        self,
        home: Home,
        database: Database,
        projections: Sequence[Projection],
        *,
        decode: Decode,
        options: Options,
        clock: Clock,
        files: Files,
    ) -> None:
        super().__init__(home, database, projections, options=options, clock=clock, files=files)
        self._piece_bytes = options.piece_bytes
        self._hand = Hand(home, projections, options, files, decode=decode, piece_bytes=options.piece_bytes)
        self.failed: dict[str, ProjectionFailed] = {}
        """By stream, where a projection's own code failed when it was folded last."""
        self.gone: set[str] = set()
        """Threads of which rows were forgotten because the file was gone."""

    def fold(self, stale: Sequence[Stale], is_late: Callable[[], bool]) -> Left:
        """Bring these streams up to date, until it is late: asked before each stream and behind each piece."""
        left = unread = size = 0
        lost = self.counters.lost_swaps
        waiting: dict[str, Piece] = {}
        for job in self.jobs(stale):
            if is_late():
                left += 1
                continue
            for part, done in self._pieces(job):
                unread += done.reason is not None
                waiting[job.path] = (part, done)
                size += min(job.size, self._piece_bytes)
                if done.is_whole and size < self._piece_bytes and len(waiting) < self._options.batch_streams:
                    continue
                unread += self.commit(waiting)
                waiting, size = {}, 0
                if not done.is_whole and (is_late() or self.counters.lost_swaps > lost):
                    left += 1  # it is for the next time, or somebody else is at it
                    break
        unread += self.commit(waiting)
        return Left(left + self.counters.lost_swaps - lost, unread)

    def pieces(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        """Fold these streams in this process, piece by piece; where a projection's own code fails that is the answer."""
        return (done for job in jobs for _, done in self._pieces(job))

    def count_whole(self, transaction: Transaction, paths: Sequence[str]) -> int:
        """How many of these streams have rows of every projection that are all there, as of their watermarks."""
        marks = watermarks.load(transaction, paths)
        return sum(
            all(name in found and not watermarks.is_unfinished(found[name]) for name in self.versions)
            for found in marks.values()
        )

    def compare(self, folder: str, listing: Listing) -> Compared:
        """What is to be done about one folder; a failure is over when its file is gone, or is not stale any more."""
        compared = super().compare(folder, listing)
        # Nobody else folds what is outdated, and until it is folded an answer is partial.
        compared.stale[:] = [each._replace(outdated=False) for each in compared.stale]
        stale = {each.found.path for each in compared.stale}
        there = {each.path for each in listing.found}
        for path in [path for path in self.failed if path.startswith(f"{folder}/")]:
            if path not in there and self._is_gone(path):
                compared.gone.append(path)
            elif path in there and path not in stale:
                del self.failed[path]
        return compared

    def note_gone(
        self, transaction: Transaction, gone: Sequence[str], *, fresh: Sequence[str], restored: Sequence[str] = ()
    ) -> None:
        self.forget(transaction, fresh)
        self.gone.update(name.thread_id for path in fresh if (name := parse_path(path)) is not None)

    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        """Remove all that there is of these streams."""
        for projection in self._projections.values():
            projection.forget(transaction, paths)
        watermarks.drop(transaction, paths)
        transaction.run(
            "DELETE FROM failures WHERE path IN (SELECT value FROM json_each(:paths))", {"paths": _json(paths)}
        )
        for path in paths:
            self.failed.pop(path, None)

    def _pieces(self, job: Job) -> Iterator[Piece]:
        """Each piece of a stream, behind the one before."""
        pieces = self._hand.pieces(job)
        try:
            for done in pieces:
                yield job, done
                job = behind(job, done)
        except ProjectionFailed as failure:
            yield job, self._failure(job.path, failure)
        finally:
            pieces.close()

    def commit(self, waiting: Mapping[str, Piece]) -> int:
        """Write these, a piece a stream; how many could not be written because a projection's own code failed."""
        if not waiting:
            return 0
        try:
            self._write_all(waiting)
        except ProjectionFailed:
            return sum(self._commit_alone(path, *each) for path, each in waiting.items())
        return 0

    def _commit_alone(self, path: str, job: Job, done: Done) -> int:
        try:
            self._write_all({path: (job, done)})
        except ProjectionFailed as failure:
            self.write([self._failure(path, failure)], {path: job})
            return 1
        return 0

    def _write_all(self, waiting: Mapping[str, Piece]) -> None:
        self.write([done for _, done in waiting.values()], {path: job for path, (job, _) in waiting.items()})
        for path, (_, done) in waiting.items():
            if done.reason is None:
                self.failed.pop(path, None)

    def _failure(self, path: str, failure: ProjectionFailed) -> Done:
        failure.path = path
        self.failed[path] = failure
        where = "" if failure.offset is None else f" at byte {failure.offset}"
        return Done(path, reason=f"{failure.message}{where}")

    def _write_rows(self, transaction: Transaction, accepted: Sequence[Folded]) -> None:
        for name, projection in self._projections.items():
            anew = [each.path for each in accepted if each.anew and each.projection == name]
            if anew:
                projection.forget(transaction, anew)
        super()._write_rows(transaction, accepted)

    def _note_divergences(self, transaction: Transaction, accepted: Sequence[Folded]) -> None:
        """The state database follows the same files, and records it."""


def _json(values: Sequence[str]) -> str:
    return msgspec.json.encode(list(values)).decode()
