"""One process of the contention benchmark: opens the home as its variant says, works for a while, tells what it met.

Goals, lists, leases and, on the upper rungs, logs are the engine's own. What it does not do by itself is here: rows written
with every append (`Upserts`), log records and leases in the state database. All of that goes through the engine's own
`Database`, so that every variant waits, retries and syncs alike. An open that fails ends the benchmark; what fails later is
counted, timed, and told.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from _events import TEXT, events, line_of, message
from _machine import io

LOG_BATCH = 128
LOGS_AN_APPEND = 4
THREADS_A_PROCESS = 4
LIST_EVERY, GOAL_EVERY, HEARTBEAT_EVERY = 50, 20, 40
CYCLE = 20

_LOGS = """
CREATE TABLE IF NOT EXISTS bench_logs (
    id INTEGER NOT NULL PRIMARY KEY, at_ms INTEGER NOT NULL, level TEXT NOT NULL, target TEXT NOT NULL,
    thread_id TEXT NOT NULL, message TEXT NOT NULL
) STRICT
"""
_LOGS_INDEX = "CREATE INDEX IF NOT EXISTS bench_logs_by_thread ON bench_logs (thread_id, at_ms)"
_LEASES = "CREATE TABLE IF NOT EXISTS leases"


class Upserts:
    """Rows that follow each append at once, in a transaction: what the engine's flush is there to avoid."""

    def __init__(self, opened: Any, when: str) -> None:
        from engine.projections.registry import THREADS
        from engine.projections.threads import ThreadState, stream_of

        self._projection, self._state_of, self._stream_of = THREADS, ThreadState, stream_of
        self._database, self._flush, self._when = opened._database, opened._flush, when
        self._states: dict[str, Any] = {}
        self._touched: dict[str, float] = {}

    def note(self, path: str, kinds: Iterable[str]) -> None:
        """An append was written: the row follows before the caller goes on."""
        from engine.projections.projection import Change

        stream = self._stream_of(path)
        state = self._states.get(path)
        if state is None:
            state = self._states[path] = self._state_of(stream.name.thread_id, cwd="/", title="bench", preview="bench")
        state.last_at_ms = int(time.time() * 1000)
        state.records += 1
        if self._when == "each" or any(map(self._flush._is_asked, kinds)):
            state.tokens_used += 100
            with self._database.write() as transaction:
                self._projection.write(transaction, [Change(stream, False, state, False, [])])
        elif self._when == "filtered" or time.monotonic() - self._touched.get(path, -9.0) > 5:
            self._touched[path] = time.monotonic()
            with self._database.write() as transaction:
                transaction.run(
                    "UPDATE threads SET updated_at_ms = :at WHERE id = :id",
                    {"at": state.last_at_ms, "id": state.thread_id},
                )


class LogTable:
    """Log records in batches, as rows of the database that it is given."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self._waiting: list[tuple[int, str, str, str, str]] = []
        with database.write() as transaction:
            transaction.run(_LOGS)
            transaction.run(_LOGS_INDEX)

    def write(self, body: str, *, level: str, target: str, thread_id: str) -> None:
        """One record; every so many are written together."""
        self._waiting.append((int(time.time() * 1000), level, target, thread_id, body))
        if len(self._waiting) >= LOG_BATCH:
            self.flush()

    def flush(self) -> None:
        """What waits is written."""
        batch, self._waiting = self._waiting, []
        if batch:
            with self._database.write() as transaction:
                transaction.run_many(
                    "INSERT INTO bench_logs (at_ms, level, target, thread_id, message) VALUES (?, ?, ?, ?, ?)", batch
                )

    def close(self) -> None:
        """It was flushed."""


class Worker:
    """The engine of one process, and what it works on."""

    def __init__(self, home: str, upserts: str, logs: str, leases: str, number: int) -> None:
        import engine
        from engine.clock import SystemClock
        from engine.logs import Handler
        from engine.stores.files import Files
        from engine.stores.leases import Leases

        # The background is part of the engine as it is; beside rows that are written here it would write them again.
        options = engine.Options() if leases == "own" else engine.Options(background_scan_s=0)
        self._opened = opened = engine.open(home, options=options)
        clock, files = SystemClock(), Files()
        state = opened._database
        self._databases = [state, opened._jobs]
        if upserts != "coalesced":
            opened._flush.note = Upserts(opened, upserts).note  # type: ignore[method-assign]
        self._log = Handler(home, options=options) if logs == "segments" else LogTable(state)
        if logs == "segments" and number == 0:
            self._log.write("so that there is a table")
            self._log.flush()
            opened.logs.fill()
        if leases == "state":
            (sql,) = _lease_table(opened._jobs)
            with state.write() as transaction:
                transaction.run(sql.replace("CREATE TABLE leases", _LEASES))
        kept = state if leases == "state" else opened._jobs
        self._leases = Leases(kept, options=options, clock=clock, files=files)
        self._lease = self._leases.claim(f"bench-{number}", "work")
        self.threads = [opened.threads.create(cwd="/", durability="buffered") for _ in range(THREADS_A_PROCESS)]
        self._events = list(events(number, CYCLE))
        for thread in self.threads:
            thread.append([message("begun")])
            opened.goals.create(thread.id, "to be measured")
        opened.threads.list()

    def append(self, at: int) -> None:
        """One event."""
        thread = self.threads[at % len(self.threads)]
        thread.append([self._events[at % CYCLE]])

    def rest(self, at: int) -> None:
        """What goes with it."""
        thread = self.threads[at % len(self.threads)]
        for number in range(LOGS_AN_APPEND):
            text = f"step {at}.{number}: {TEXT[:80]}"
            self._log.write(text, level="INFO", target="agent.turn", thread_id=thread.id)
        if at % GOAL_EVERY == 0:
            self._opened.goals.account(thread.id, tokens=100)
        if at % HEARTBEAT_EVERY == 0:
            self._leases.heartbeat(self._lease, str(at))

    def list(self) -> None:
        """The newest 25."""
        assert self._opened.threads.list().threads

    def settle(self) -> None:
        """What appends and log calls still owe: rows of threads, and log records out of this process."""
        self._opened._flush.flush()
        self._log.flush()

    def fill_logs(self) -> int:
        """What segments still owe: the rows of all processes' log records; how many there are then."""
        self._opened.logs.fill()
        return self._opened.logs.status().rows

    def counted(self) -> dict[str, int]:
        """Transactions and pauses of all databases, flushes that failed behind appends, log records that found no room."""
        counters = [database.counters for database in self._databases]
        return {
            "transactions": sum(each.transactions for each in counters),
            "busy_waits": sum(each.busy_waits for each in counters),
            "flushes_failed": self._opened._flush.counters.flushes_failed,
            "logs_dropped": 0 if isinstance(self._log, LogTable) else self._log.counters.dropped,
        }

    def close(self) -> None:
        """Close everything."""
        self._log.close()
        self._opened.close()


class Bare:
    """The same lines by `os.write`, and nothing else."""

    def __init__(self, home: str, number: int) -> None:
        self.threads = [
            os.open(f"{home}/{number}-{each}.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            for each in range(THREADS_A_PROCESS)
        ]
        self._lines = [line_of(event) for event in events(number, CYCLE)]

    def append(self, at: int) -> None:
        os.write(self.threads[at % len(self.threads)], self._lines[at % CYCLE])

    def rest(self, at: int) -> None: ...

    def list(self) -> None: ...

    def settle(self) -> None: ...

    def counted(self) -> dict[str, int]:
        return {"transactions": 0, "busy_waits": 0, "flushes_failed": 0, "logs_dropped": 0}

    def close(self) -> None:
        for fd in self.threads:
            os.close(fd)


_open: list[Any] = []


def open_(home: str, upserts: str, logs: str, leases: str, number: int) -> bool:
    """Open the home as the variant says."""
    _open.append(Bare(home, number) if upserts == "bare" else Worker(home, upserts, logs, leases, number))
    return True


def work(seconds: float, hz: int) -> dict[str, Any]:
    """Do it for so long, and then what it owes."""
    (worker,) = _open
    before, written = worker.counted(), io()[0]
    waits: dict[str, list[float]] = {"append": [], "rest": [], "list": []}
    errors: list[str] = []
    at = appends = 0
    begun = now = time.perf_counter()
    due = begun + random.random() / hz if hz else 0.0
    while now - begun < seconds:
        at += 1
        if hz:
            due += 1 / hz
            time.sleep(max(0.0, due - time.perf_counter()))
        appends += attempt(partial(worker.append, at), waits["append"], errors)
        attempt(partial(worker.rest, at), waits["rest"], errors)
        if at % LIST_EVERY == 0:
            attempt(worker.list, waits["list"], errors)
        now = time.perf_counter()
    attempt(worker.settle, [], errors)
    after = worker.counted()
    return {
        "seconds": time.perf_counter() - begun,
        "appends": appends,
        "threads": len(worker.threads),
        **{f"{name}_us": thinned(each) for name, each in waits.items()},
        "errors": errors,
        "bytes_written": io()[0] - written,
        **{name: count - before[name] for name, count in after.items()},
    }


def fill_logs() -> dict[str, Any]:
    """Give rows to the log records of all: seconds, rows, and bytes written."""
    begun, written = time.perf_counter(), io()[0]
    rows = _open[0].fill_logs()
    return {"seconds": time.perf_counter() - begun, "log_rows": rows, "bytes_written": io()[0] - written}


def close() -> dict[str, Any]:
    """Let go of the home; what failed on the way."""
    worker, errors = _open.pop(), []
    before = worker.counted()["flushes_failed"]
    attempt(worker.close, [], errors)
    return {"errors": errors, "flushes_failed": worker.counted()["flushes_failed"] - before}


def attempt(call: Callable[[], object], waits_us: list[float], errors: list[str]) -> bool:
    """Whether it was done. How long it took is told of one that failed, too."""
    from engine.errors import StoreBusy

    begun = time.perf_counter()
    try:
        call()
    except StoreBusy as error:
        errors.append(str(error))
        return False
    finally:
        waits_us.append((time.perf_counter() - begun) * 1e6)
    return True


def thinned(waits: list[float]) -> list[float]:
    """At most some thousands of them, evenly from the sorted ones and with the worst, so that percentiles stay."""
    step = len(waits) // 4_000 + 1
    return sorted(sorted(waits, reverse=True)[::step])


def _lease_table(jobs: Any) -> Any:
    with jobs.read() as transaction:
        return transaction.row("SELECT sql FROM sqlite_schema WHERE name = 'leases'")


CHILD = {"open": open_, "work": work, "fill_logs": fill_logs, "close": close, "nothing": lambda: True}
