"""Jobs done by several worker processes, with the answers in the order in which they come.

Jobs are handed out in chunks of some megabytes, so that a few large files do not leave a worker idle. A worker that dies
costs what it did not answer of its chunk one more try, each job of it alone and in a new worker, behind the pieces that
were answered; the job that ends a worker again is answered as failed. All workers end with the pool.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import Self

import msgspec

from engine.errors import WorkerDied
from engine.options import Options
from engine.projections.worker import Done, Job, Setup, behind, read_frame, write_frame
from engine.stores.layout import Home

CHUNK_BYTES = 12 * 1024 * 1024
CHUNK_JOBS = 250
_QUEUED_ANSWERS_MAX = 4
"""Answers that may wait for the writer; workers pause beyond it, so memory stays bounded."""


class Pool:
    """Worker processes, started when there is work for them and kept for the next; `close`, or the `with` block, ends them."""

    def __init__(self, workers: int, home: Home, options: Options) -> None:
        self._wanted = workers
        self._bytes_min = options.spawn_bytes_min
        self._setup = Setup(
            os.fsencode(home.path),
            options.block_bytes,
            options.line_bytes_max,
            options.set_aside_bytes_max,
            options.piece_bytes,
        )
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._workers: list[_Worker] = []

    def start(self) -> bool:
        """Start the workers now; False where none are wanted or can be had: the caller then does the work."""
        try:
            while len(self._workers) < self._wanted:
                self._workers.append(_Worker(self._setup, self._stop))
        except WorkerDied:
            self.close()
        except BaseException:
            self.close()
            raise
        return bool(self._workers)

    def takes(self, jobs: Sequence[Job]) -> bool:
        """Whether there are workers, started now where need be, and enough to do for them."""
        return sum(job.size for job in jobs) >= self._bytes_min and self.start()

    def close(self) -> None:
        """End all workers, whatever they are doing. Others can be started after."""
        self._stop.set()
        for worker in self._workers:
            worker.kill()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.end()
        self._threads, self._workers, self._stop = [], [], threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, jobs: Sequence[Job]) -> Generator[Done, None, None]:
        """Do all jobs, each by one or more pieces in order; one run at a time. Not run to its end it ends the workers.

        Raises what a worker's thread met, `WorkerDied` where no worker can be started at all.
        """
        try:
            yield from self._run(jobs)
        except BaseException:
            self.close()
            raise
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        chunks: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        for chunk in _chunks(jobs):
            chunks.put(chunk)
        answers: queue.Queue[list[Done] | BaseException | None] = queue.Queue(_QUEUED_ANSWERS_MAX)
        for worker in self._workers:
            arguments = (worker, chunks, answers, self._stop)
            thread = threading.Thread(target=_serve, args=arguments, daemon=True)
            chunks.put(None)
            thread.start()
            self._threads.append(thread)
        running = len(self._workers)
        while running:
            answer = answers.get()
            if answer is None:
                running -= 1
            elif isinstance(answer, BaseException):
                raise answer
            else:
                yield from answer


def _serve(
    worker: _Worker,
    chunks: queue.SimpleQueue[list[Job] | None],
    answers: queue.Queue[list[Done] | BaseException | None],
    stop: threading.Event,
) -> None:
    """One worker's thread: hand it chunks, pass its answers on."""
    try:
        while not stop.is_set() and (chunk := chunks.get()) is not None:
            for done in worker.do(chunk):
                _put(answers, done, stop)
        _put(answers, None, stop)
    except BaseException as error:  # noqa: BLE001 - it is raised where the answers are taken
        _put(answers, error, stop)


def _put(
    answers: queue.Queue[list[Done] | BaseException | None],
    answer: list[Done] | BaseException | None,
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            answers.put(answer, timeout=0.1)
        except queue.Full:
            continue
        return


class _Worker:
    """One process, started again when it dies, unless the pool is to stop."""

    def __init__(self, setup: Setup, stop: threading.Event) -> None:
        self._setup = setup
        self._stop = stop
        self._lock = threading.Lock()
        self._decoder = msgspec.msgpack.Decoder(list[Done])
        self._process = self._start()

    def do(self, chunk: list[Job]) -> Iterator[list[Done]]:
        left = {job.path: job for job in chunk}
        yield from self._ask(chunk, left)
        for job in list(left.values()):  # the worker died
            alone = {job.path: job}
            yield from self._ask([job], alone)
            if alone and not self._stop.is_set():
                yield [Done(job.path, reason="a worker process died while reading it")]

    def kill(self) -> None:
        """End the process now; whoever waits for its answer gets none."""
        with self._lock:
            self._process.kill()

    def end(self) -> None:
        """Kill, and give everything back. To be called by the thread that asks, or after it has ended."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # closing flushes into a pipe whose reader is dead
                    stream.close()

    def _ask(self, jobs: list[Job], left: dict[str, Job]) -> Iterator[list[Done]]:
        """The answers; what was not answered stays `left`, from where it stands.

        Then the worker died, and a new one is there for the next question, unless all end.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_frame(process.stdin, msgspec.msgpack.encode(jobs))
            while (frame := read_frame(process.stdout)) is not None:
                answers = self._decoder.decode(frame)
                if not answers:
                    return
                for done in answers:
                    job = left.pop(done.path)
                    if not done.is_whole:
                        left[done.path] = behind(job, done)
                yield answers
        except (OSError, ValueError):  # a pipe without a reader, or one that `end` has closed
            pass
        with self._lock:
            self.end()
            if not self._stop.is_set():
                self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _RUN, *sys.path]
        try:
            # In a group of their own: a Ctrl-C goes to the terminal's whole group, and it is the parent's to answer.
            process = subprocess.Popen(  # noqa: S603 - our own code
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
            )
        except OSError as error:
            raise WorkerDied(
                f"A worker process cannot be started: {error.strerror}.",
                hint="Run with --workers 0.",
                path=sys.executable,
            ) from error
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it died at once; the first question finds out
            write_frame(process.stdin, msgspec.msgpack.encode(self._setup))
        return process


_RUN = "import sys; sys.path[:] = sys.argv[1:]; from engine.projections.worker import main; main()"
"""The child finds the engine where its parent found it, whatever the environment says."""


def _chunks(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    chunk: list[Job] = []
    size = 0
    for job in jobs:
        chunk.append(job)
        size += job.size
        if size >= CHUNK_BYTES or len(chunk) >= CHUNK_JOBS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
