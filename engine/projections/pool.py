"""Jobs done by several worker processes, with the answers in the order in which they come.

Jobs are handed out in chunks of some megabytes, so that a few large files do not leave a worker idle. A worker that dies
costs its chunk one more try, each job of it alone and in a new worker; the job that ends a worker again is answered as
failed. All workers end with the pool.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import msgspec

from engine.errors import WorkerDied
from engine.options import Options
from engine.projections.worker import Done, Job, Setup, read_frame, write_frame
from engine.stores.layout import Home

CHUNK_BYTES = 12 * 1024 * 1024
CHUNK_JOBS = 250
_QUEUED_CHUNKS_MAX = 16
"""Answers that may wait for the writer; workers pause beyond it, so memory stays bounded."""


class Pool:
    """Worker processes, started at once; `close` ends them."""

    def __init__(self, workers: int, home: Home, options: Options) -> None:
        self._setup = Setup(
            os.fsencode(home.path), options.block_bytes, options.line_bytes_max, options.set_aside_bytes_max
        )
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(_Worker(self._setup, self._stop))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers, whatever they are doing; none is started again."""
        self._stop.set()
        for worker in self._workers:
            worker.kill()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.end()

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Do all jobs. Raises what a worker's thread met, `WorkerDied` where no worker can be started at all."""
        chunks: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        for chunk in _chunks(jobs):
            chunks.put(chunk)
        answers: queue.Queue[list[Done] | BaseException | None] = queue.Queue(_QUEUED_CHUNKS_MAX)
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
            _put(answers, worker.do(chunk), stop)
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

    def do(self, chunk: list[Job]) -> list[Done]:
        done = self._ask(chunk)
        if done is not None or self._stop.is_set():
            return done or []
        return [answer for job in chunk for answer in self._do_alone(job)]

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

    def _do_alone(self, job: Job) -> list[Done]:
        return self._ask([job]) or [Done(job.path, reason="a worker process died while reading it")]

    def _ask(self, chunk: list[Job]) -> list[Done] | None:
        """The answers, or None where the worker died; a new one is then there for the next question, unless all end."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_frame(process.stdin, msgspec.msgpack.encode(chunk))
            frame = read_frame(process.stdout)
        except (OSError, ValueError):  # a pipe without a reader, or one that `end` has closed
            frame = None
        if frame is not None:
            return self._decoder.decode(frame)
        with self._lock:
            self.end()
            if not self._stop.is_set():
                self._process = self._start()
        return None

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
