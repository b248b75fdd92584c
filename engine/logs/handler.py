"""The handler: from a log call to a line in this process's segment, without waiting for anything.

A log call formats and encodes its record and puts it into a bounded queue; a thread of the handler's own writes what is
there, a batch a call. A full queue drops the newest, and what cannot be written (a full disk) is dropped with its batch:
both are counted, and the count is itself a record once there is room. Nothing here raises into the application. Records that
the engine's own work on logs gives rise to are passed over.

After a fork the child's handler is a new one: its own process id, its own segment, an empty queue (what waits there is the
parent's to write). Closing, and the end of the process, wait for the writing for `log_close_wait_ms` at most.

Source: codex_state.md 8.1, 8.2; what differs is in docs/LOGS.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from msgspec import Struct

from engine.clock import Clock, SystemClock
from engine.errors import ReadOnlyHome
from engine.events.log_lines import Site, named, record_line, severity_of
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import open_home
from engine.stores.log_writer import Entry, Known, LogWriter
from engine.stores.quiet import is_quiet, quiet

OWN_TARGET = "rolloutdb.logs"
"""The target of records about the log itself."""

_LEVELS = {5: "TRACE", logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN", logging.ERROR: "ERROR"}
_KNOWN_MAX = 4_096
"""Sites, and threads, that are remembered with their numbers; beyond it all get new ones."""

_thread_id: ContextVar[str | None] = ContextVar("rolloutdb_thread_id", default=None)
_handlers: weakref.WeakSet[Handler] = weakref.WeakSet()
_processes: dict[int, str] = {}
"""The name of this process, by its process id: a fork changes that."""


@contextlib.contextmanager
def belonging_to(thread_id: str | None) -> Iterator[None]:
    """Inside, log records belong to this thread of an agent, where they do not say otherwise (`extra={"thread_id": …}`)."""
    token = _thread_id.set(thread_id)
    try:
        yield
    finally:
        _thread_id.reset(token)


class HandlerCounters(Struct):
    """What became of the records of one handler. `failures` are batches that could not be written."""

    accepted: int = 0
    written: int = 0
    dropped: int = 0
    failures: int = 0


class Handler(logging.Handler):
    """Writes log records into a home. Give it to `logger.addHandler`; safe to use from many threads.

    `state_dir` is as with `engine.open`. `redact` is given each text before it is queued, and answers what may be stored;
    where it fails the text is left out. With a formatter, what that makes is stored; else the message, with the traceback
    where there is one. Raises `ReadOnlyHome`, `HomeMissing`, `HomeNotAFolder`, `HomeUnreadable`.
    """

    def __init__(
        self,
        home: str,
        *,
        state_dir: str | None = None,
        level: int | str = logging.NOTSET,
        redact: Callable[[str], str] | None = None,
        options: Options | None = None,
        clock: Clock | None = None,
        files: Files | None = None,
    ) -> None:
        super().__init__(level)
        self._files = files or Files()
        found = open_home(home, state_dir, self._files)
        if found.state is None:
            raise ReadOnlyHome(
                f"The home {found.path} cannot be written, so no log can be kept there.",
                hint="Name a folder for the engine's own files with state_dir.",
                path=found.path,
            )
        self._home = found
        self._redact = redact
        self._options = options or Options()
        self._clock = clock or SystemClock()
        self._is_closed = False
        self._begin()
        _handlers.add(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; called by `logging`, under the handler's lock."""
        if is_quiet():
            return
        try:
            thread_id = record.__dict__.get("thread_id") or _thread_id.get()
            place = (record.name, record.levelno, record.pathname, record.lineno)
            site = self._sites.get(place) or self._site(place, _site_of(record))
            if self.formatter is None and not (record.exc_info or record.exc_text or record.stack_info):
                body = record.getMessage()
            else:
                body = self.format(record)
            self._put(site, thread_id, body, int(record.created * 1_000_000))
        except Exception:  # noqa: BLE001 - a log call never fails its caller
            self._lost += 1
            with quiet():
                self.handleError(record)

    def write(
        self,
        body: str,
        *,
        level: str = "INFO",
        target: str = "",
        thread_id: str | None = None,
        module: str | None = None,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        """Queue one record without `logging`. `level` is any word; TRACE, DEBUG, INFO, WARN, ERROR are understood."""
        if is_quiet():
            return
        assert self.lock is not None
        with self.lock:
            place = (target, level, file or module, line)
            site = self._sites.get(place)
            if site is None:
                site = self._site(place, _checked(Site(severity_of(level), level, target, module, file, line)))
            self._put(site, thread_id or _thread_id.get(), body, self._clock.wall_ms() * 1000)

    def flush(self) -> None:
        """Wait until what was accepted before is written, or dropped because it cannot be; `log_close_wait_ms` at most."""
        self._wait(self._queued)

    def close(self) -> None:
        """Write what waits, end the segment, and refuse what comes later; bounded as `flush` is. A second call does nothing."""
        if not self._is_closed:
            assert self.lock is not None
            with self.lock:
                self._is_closed = True
                queued = self._queued
            self._wait(queued)
            self._stop.set()
            self._wake.set()
            self._hurry.set()
            if self._thread is not None:
                self._thread.join(self._options.log_close_wait_ms / 1000)
            if self._thread is None or not self._thread.is_alive():
                with quiet():
                    self._writer.close()
        super().close()

    @property
    def counters(self) -> HandlerCounters:
        """What became of the records so far, in this process."""
        return HandlerCounters(self._queued, self._written, self._dropped, self._failures)

    @property
    def process(self) -> str:
        """The process as its records name it: `pid:<process id>:<uuid>`."""
        return self._writer.process

    # The caller's side

    def _begin(self) -> None:
        """An empty queue and a segment to come, of this very process."""
        self._queue: deque[Entry] = deque()
        self._queued = self._queued_bytes = 0
        self._full = self._lost = 0
        self._taken = self._taken_bytes = self._written = self._unwritten = self._failures = 0
        self._told = 0
        self._sites: dict[object, Known] = {}
        self._threads: dict[object, Known] = {}
        self._numbered = 0
        self._thread: threading.Thread | None = None
        self._wake, self._hurry, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._done = threading.Condition()
        self._drains = threading.Lock()
        self._writer = LogWriter(
            self._home, _process(self._clock), options=self._options, clock=self._clock, files=self._files
        )

    def _site(self, place: object, site: Site) -> Known:
        return self._remember(self._sites, place, site)

    def _remember(self, known: dict[object, Known], name: object, what: Site | str) -> Known:
        if len(known) >= _KNOWN_MAX:
            known.clear()
        self._numbered += 1
        found = known[name] = Known(self._numbered, what)
        return found

    def _put(self, site: Known, thread_id: object, body: str, at_us: int) -> None:
        options = self._options
        if (
            self._is_closed
            or self._queued - self._taken >= options.log_queue_records_max
            or self._queued_bytes - self._taken_bytes >= options.log_queue_bytes_max
        ):
            self._full += 1
            return
        if self._redact is not None:
            body = self._redacted(body)
        thread = None
        if thread_id is not None:
            name = str(thread_id)
            thread = self._threads.get(name) or self._remember(self._threads, name, named(name) or "")
        line = record_line(
            at_us,
            site.number,
            thread.number if thread is not None else 0,
            body,
            body_bytes_max=options.log_body_bytes_max,
        )
        self._queue.append(Entry(line, site, thread))
        self._queued_bytes += len(line)
        self._queued += 1
        if self._thread is None:
            self._start()
        if not self._wake.is_set():
            self._wake.set()
        if len(self._queue) >= options.log_batch_records and not self._hurry.is_set():
            self._hurry.set()

    def _redacted(self, body: str) -> str:
        assert self._redact is not None
        try:
            return self._redact(body)
        except Exception as error:  # noqa: BLE001 - what may be secret is never stored because its redactor fails
            return f"(left out: the redactor failed with {type(error).__name__})"

    # The writer's side

    def _start(self) -> None:
        try:
            thread = threading.Thread(target=self._run, name="rolloutdb-logs", daemon=True)
            thread.start()
        except RuntimeError:  # the interpreter is ending: `close` writes what waits
            return
        self._thread = thread

    def _run(self) -> None:
        with quiet():
            while True:
                self._wake.wait()
                self._wake.clear()
                if not self._stop.is_set():
                    self._hurry.wait(self._options.log_interval_ms / 1000)
                self._hurry.clear()
                self._drain()
                if self._stop.is_set():
                    self._writer.close()
                    return

    def _drain(self) -> None:
        """Write all that waits, and what is to be said of what was dropped."""
        with self._drains:
            while True:
                batch: list[Entry] = []
                size = 0
                while self._queue and len(batch) < self._options.log_queue_records_max:
                    batch.append(self._queue.popleft())
                    size += len(batch[-1].line)
                if not batch and self._dropped <= self._told:
                    return
                is_written = self._put_down(batch)
                self._taken_bytes += size
                self._taken += len(batch)
                with self._done:
                    self._done.notify_all()
                if not is_written and not self._queue:
                    return  # what was dropped is told with the next record that can be written

    @property
    def _dropped(self) -> int:
        return self._full + self._lost + self._unwritten

    def _put_down(self, batch: list[Entry]) -> bool:
        dropped = self._dropped
        telling = [self._about(dropped - self._told)] if dropped > self._told else []
        try:
            self._writer.write([*batch, *telling])
        except Exception:  # noqa: BLE001 - a full disk, a folder that is gone: the thread goes on, and counts
            self._failures += 1
            self._unwritten += len(batch)
            return False
        self._written += len(batch)
        self._told = dropped
        return True

    def _about(self, dropped: int) -> Entry:
        """The record that tells of records which were dropped since the last such record."""
        why = "the queue was full, or the segment could not be written"
        body = f"{dropped} log record{'s were' if dropped > 1 else ' was'} dropped: {why}"
        site = Known(0, Site(logging.WARNING, "WARN", OWN_TARGET, None, None, None))
        line = record_line(
            self._clock.wall_ms() * 1000, 0, 0, body, body_bytes_max=self._options.log_body_bytes_max, dropped=dropped
        )
        return Entry(line, site, None)

    def _wait(self, queued: int) -> None:
        """Until so many were taken from the queue; written here where there is no thread to do it."""
        if self._thread is None or not self._thread.is_alive():
            with quiet():
                self._drain()
            return
        self._wake.set()
        self._hurry.set()
        with self._done:
            self._done.wait_for(lambda: self._taken >= queued, self._options.log_close_wait_ms / 1000)

    def _forked(self) -> None:
        """In the child of a fork."""
        with contextlib.suppress(Exception):  # nobody is there to hear of it
            self._writer.forget()
        self._begin()


def _site_of(record: logging.LogRecord) -> Site:
    level = _LEVELS.get(record.levelno) or record.levelname
    return _checked(Site(record.levelno, level, record.name, record.module, record.pathname, record.lineno))


def _checked(site: Site) -> Site:
    """A site as it may be stored."""
    return Site(
        site.severity,
        named(site.level) or "",
        named(site.target) or "",
        named(site.module),
        named(site.file),
        site.line,
    )


def _process(clock: Clock) -> str:
    """This process as records name it; the same for all handlers in it."""
    pid = os.getpid()
    if pid not in _processes:
        _processes.clear()
        _processes[pid] = f"pid:{pid}:{clock.new_id()}"
    return _processes[pid]


def _after_fork() -> None:
    for handler in list(_handlers):
        handler._forked()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_after_fork)
