"""A worker process: folds the rollouts it is told, writes nothing, knows no database.

`python -m engine.projections.worker` reads frames from standard input and answers each with one frame on standard output;
a frame is four bytes of length (big endian) and that much msgpack. The first frame is the `Setup`, which has no answer;
every other is a list of `Job`, answered by lists of `Done` in the same order, the last of them empty. It ends at the end
of its input. It is started anew (never forked), so it shares no lock, no connection and no thread with its parent.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import IO

import msgspec
from msgspec import Struct

from engine.errors import HomeUnreadable
from engine.events.record import decode_as
from engine.options import Options
from engine.projections.fold import Decode, Folded, Folder
from engine.projections.projection import Projection, Stream
from engine.projections.registry import BUILT_IN
from engine.stores.files import Files
from engine.stores.layout import Home, locate, parse_path
from engine.stores.rollouts import open_source
from engine.stores.watermarks import Watermark, is_unfinished


class Setup(Struct, frozen=True):
    """What a worker needs to know once. The home is in bytes, since a path need not be UTF-8."""

    home: bytes
    block_bytes: int
    line_bytes_max: int
    set_aside_bytes_max: int
    piece_bytes: int


# Jobs and answers hold no cycles, and a back-fill has so many that looking for some costs a tenth of what writing does:
# so they, and what they are made of, are out of the collector's sight (`gc=False`).


class Job(Struct, frozen=True, array_like=True, gc=False):
    """One stream to be caught up for the projections `of`, from where they stand; `anew` folds from the beginning."""

    path: str
    compressed: bool
    size: int
    marks: dict[str, Watermark]
    of: tuple[str, ...]
    anew: bool = False


class Done(Struct, frozen=True, array_like=True, gc=False):
    """What became of a job: folded, or failed with a reason; neither where the file is no longer there."""

    path: str
    bytes_read: int = 0
    folded: list[Folded] = []
    reason: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the stream, as it was, comes behind this."""
        return not any(is_unfinished(each.mark) for each in self.folded)


def behind(job: Job, done: Done) -> Job:
    """The job of what comes behind a piece."""
    return msgspec.structs.replace(job, marks={each.projection: each.mark for each in done.folded}, anew=False)


class Hand:
    """Does jobs, in this process or in a worker."""

    def __init__(
        self,
        home: Home,
        projections: Sequence[Projection],
        options: Options,
        files: Files,
        *,
        decode: Decode = decode_as,
        piece_bytes: int | None = None,
    ) -> None:
        self._home = home
        self._folder = Folder(projections, options, decode=decode, piece_bytes=piece_bytes)
        self._options = options
        self._files = files

    def do(self, job: Job) -> Done:
        """Fold one stream, or its next piece. What cannot be read is a failure with a reason; what is gone is nothing."""
        with contextlib.closing(self.pieces(job)) as pieces:
            return next(pieces)

    def pieces(self, job: Job) -> Generator[Done, None, None]:
        """Fold one stream to its end, each piece from where the one before ended; one piece where no `piece_bytes` is set."""
        try:
            yield from self._fold(job, compressed=job.compressed)
        except FileNotFoundError:
            yield from self._fold_elsewhere(job)
        except OSError as error:
            yield Done(job.path, reason=f"it cannot be read: {error.strerror}")

    def _fold_elsewhere(self, job: Job) -> Iterator[Done]:
        """The file went between the scan and now: compressed or decompressed meanwhile, or gone."""
        try:
            found = locate(self._home, job.path, self._files)
            if found is None:
                yield Done(job.path)
            else:
                yield from self._fold(job, compressed=found.compressed)
        except FileNotFoundError:
            yield Done(job.path)
        except OSError as error:
            yield Done(job.path, reason=f"it cannot be read: {error.strerror}")

    def _fold(self, job: Job, *, compressed: bool) -> Iterator[Done]:
        name = parse_path(job.path)
        if name is None:
            raise HomeUnreadable(
                f"{job.path} is not a rollout's path.", path=job.path, hint="Name a rollout of this home."
            )
        path = self._home.absolute(job.path, compressed=compressed)
        source = open_source(path, compressed=compressed, files=self._files, options=self._options)
        try:
            marks = {} if job.anew else job.marks
            while True:
                folded = self._folder.fold(Stream(job.path, name), source, marks, of=job.of, compressed=compressed)
                if source.broken is not None and any(each.divergence is not None for each in folded):
                    # What was followed is not all there any more, because of damage to the file: the row keeps what it knew.
                    yield Done(job.path, reason=source.broken)
                    return
                done = Done(job.path, source.stat.size, folded)
                yield done
                if done.is_whole:
                    return
                marks = {each.projection: each.mark for each in folded}
        finally:
            with contextlib.suppress(OSError):  # what was read stands, and a close that fails has closed
                source.close()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame, or None at the end of the stream (a cut one counts as its end)."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    data = stream.read(size)
    return data if len(data) == size else None


def write_frame(stream: IO[bytes], data: bytes) -> None:
    """Send one frame."""
    stream.write(len(data).to_bytes(4, "big"))
    stream.write(data)
    stream.flush()


def main() -> None:
    """Serve the parent on standard input and output until it closes them."""
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    first = read_frame(incoming)
    if first is None:
        return
    setup = msgspec.msgpack.decode(first, type=Setup)
    options = Options(
        block_bytes=setup.block_bytes,
        line_bytes_max=setup.line_bytes_max,
        set_aside_bytes_max=setup.set_aside_bytes_max,
    )
    home, files = Home(os.fsdecode(setup.home), None), Files()
    threads = Hand(home, BUILT_IN, options, files)

    @functools.cache
    def indexes() -> Hand:
        from engine.projections.indexes import INDEXES  # noqa: PLC0415 - a third of what a worker would load for threads

        return Hand(home, INDEXES, options, files, piece_bytes=setup.piece_bytes)

    def hand_of(name: str) -> Hand:
        return threads if name in own else indexes()

    own = {each.name for each in BUILT_IN}
    decoder = msgspec.msgpack.Decoder(list[Job])
    gc.freeze()
    gc.disable()  # a look for cycles goes through all answers that were not sent yet, and a fold makes none
    while (frame := read_frame(incoming)) is not None:
        _answer(outgoing, hand_of, decoder.decode(frame))
        gc.collect()  # but an error may leave one behind


def _answer(outgoing: IO[bytes], hand_of: Callable[[str], Hand], jobs: Sequence[Job]) -> None:
    for answers in _answers(hand_of, jobs):
        write_frame(outgoing, msgspec.msgpack.encode(answers))
    write_frame(outgoing, msgspec.msgpack.encode([]))


def _answers(hand_of: Callable[[str], Hand], jobs: Sequence[Job]) -> Iterator[list[Done]]:
    """What became of all jobs, in order; a piece of a long stream is not kept until there are others."""
    answers: list[Done] = []
    for job in jobs:
        for done in hand_of(job.of[0]).pieces(job):
            answers.append(done)
            if not done.is_whole:
                yield answers
                answers = []
    if answers:
        yield answers


if __name__ == "__main__":
    main()
