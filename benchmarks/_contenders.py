"""One process of the contention benchmark: opens the home as its variant says, works for a while, tells what it met.

Goals, lists, leases and, on the upper rungs, logs are the engine's own. What it does not do by itself is here: rows written
with every append (`Upserts`), log records and leases in the state database. All of that goes through the engine's own
`Database`, so that every variant waits, retries and syncs alike.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

LOG_BATCH = 128
LOGS_AN_APPEND = 4
THREADS_A_PROCESS = 4
LIST_EVERY, GOAL_EVERY, HEARTBEAT_EVERY = 50, 20, 40
FILLER = "x" * 200

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
            batch, self._waiting = self._waiting, []
            with self._database.write() as transaction:
                transaction.run_many(
                    "INSERT INTO bench_logs (at_ms, level, target, thread_id, message) VALUES (?, ?, ?, ?, ?)", batch
                )

    def close(self) -> None:
        """What waits is lost: the time is over."""


class Worker:
    """The engine of one process, and what it works on."""

    def __init__(self, home: str, upserts: str, logs: str, leases: str, number: int) -> None:
        import engine
        from engine.clock import SystemClock
        from engine.logs import Handler
        from engine.stores.files import Files
        from engine.stores.leases import Leases

        # A list looks at the folders once, before the time runs: all processes write, and would find each other's files.
        self._options = options = engine.Options(background_scan_s=0, scan_interval_ms=3_600_000)
        self._opened = opened = engine.open(home, options=options)
        clock, files = SystemClock(), Files()
        state = opened._database
        self._databases = [state, opened._jobs]
        if upserts != "coalesced":
            opened._flush.note = Upserts(opened, upserts).note  # type: ignore[method-assign]
        self._log = Handler(home, options=options) if logs == "segments" else LogTable(state)
        if leases == "state":
            (sql,) = _lease_table(opened._jobs)
            with state.write() as transaction:
                transaction.run(sql.replace("CREATE TABLE leases", _LEASES))
        kept = state if leases == "state" else opened._jobs
        self._leases = Leases(kept, options=options, clock=clock, files=files)
        self._lease = self._leases.claim(f"bench-{number}", "work")
        self.threads = [opened.threads.create(cwd="/", durability="buffered") for _ in range(THREADS_A_PROCESS)]
        for thread in self.threads:
            thread.append([message()])
            opened.goals.create(thread.id, "to be measured")
        opened.threads.list()

    def append(self, at: int) -> None:
        """One event."""
        thread = self.threads[at % len(self.threads)]
        thread.append([asked_for(at) or message()])

    def rest(self, at: int) -> bool:
        """What goes with it; whether a list is due."""
        thread = self.threads[at % len(self.threads)]
        for number in range(LOGS_AN_APPEND):
            text = f"step {at}.{number}: {FILLER[:80]}"
            self._log.write(text, level="DEBUG", target="agent.turn", thread_id=thread.id)
        if at % GOAL_EVERY == 0:
            self._opened.goals.account(thread.id, tokens=100)
        if at % HEARTBEAT_EVERY == 0:
            self._leases.heartbeat(self._lease, str(at))
        return at % LIST_EVERY == 0

    def list(self) -> None:
        """The newest 25."""
        assert self._opened.threads.list().threads

    def counted(self) -> dict[str, int]:
        """Transactions and pauses of all databases."""
        counters = [database.counters for database in self._databases]
        return {
            "transactions": sum(each.transactions for each in counters),
            "busy_waits": sum(each.busy_waits for each in counters),
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
        head = '{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":12345,"type":"response_item","payload":'
        text = f'{{"type":"message","role":"assistant","content":[{{"type":"output_text","text":"{FILLER}"}}]}}'
        self._line = f"{head}{text}}}\n".encode()

    def append(self, at: int) -> None:
        os.write(self.threads[at % len(self.threads)], self._line)

    def rest(self, at: int) -> bool:
        return False

    def list(self) -> None: ...

    def counted(self) -> dict[str, int]:
        return {"transactions": 0, "busy_waits": 0}

    def close(self) -> None:
        for fd in self.threads:
            os.close(fd)


def message() -> dict[str, Any]:
    """Text of the model: no table asks for it."""
    content = [{"type": "output_text", "text": FILLER}]
    return {"type": "response_item", "payload": {"type": "message", "role": "assistant", "content": content}}


def asked_for(at: int) -> dict[str, Any] | None:
    """Of twenty events one is what a user said, and one a count of tokens."""
    if at % 20 == 0:
        said = [{"type": "text", "text": f"go on with {at}", "text_elements": []}]
        item = {"type": "UserMessage", "id": f"item-{at}", "content": said}
        return {"type": "event_msg", "payload": {"type": "item_completed", "turn_id": f"turn-{at}", "item": item}}
    if at % 20 == 10:
        usage = {"input_tokens": at, "cached_input_tokens": 0, "output_tokens": 1, "reasoning_output_tokens": 0}
        info = {"total_token_usage": {**usage, "total_tokens": at}, "last_token_usage": {**usage, "total_tokens": 1}}
        return {"type": "event_msg", "payload": {"type": "token_count", "info": info}}
    return None


def bytes_written() -> int:
    """What this process gave to write calls so far; 0 where the system does not tell."""
    try:
        with open("/proc/self/io") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("wchar"))
    except OSError:
        return 0


_open: list[Any] = []


def open_(home: str, upserts: str, logs: str, leases: str, number: int) -> bool:
    """Open the home as the variant says."""
    _open.append(Bare(home, number) if upserts == "bare" else Worker(home, upserts, logs, leases, number))
    return True


def work(seconds: float, hz: int) -> dict[str, Any]:
    """Do it for so long."""
    from engine.errors import StoreBusy

    (worker,) = _open
    before, bytes_before = worker.counted(), bytes_written()
    append_us: list[float] = []
    list_us: list[float] = []
    errors = at = 0
    begun = now = time.perf_counter()
    due = begun + random.random() / hz if hz else 0.0
    while now - begun < seconds:
        at += 1
        if hz:
            due += 1 / hz
            time.sleep(max(0.0, due - time.perf_counter()))
        try:
            append_us.append(timed(lambda at=at: worker.append(at)))
            if worker.rest(at):
                list_us.append(timed(worker.list))
        except StoreBusy:
            errors += 1
        now = time.perf_counter()
    took, after = now - begun, worker.counted()
    return {
        "seconds": took,
        "appends": at,
        "threads": len(worker.threads),
        "append_us": thinned(append_us),
        "list_us": list_us,
        "busy_errors": errors,
        "bytes_written": bytes_written() - bytes_before,
        **{name: count - before[name] for name, count in after.items()},
    }


def close() -> bool:
    """Let go of the home."""
    _open.pop().close()
    return True


def timed(call: Callable[[], object]) -> float:
    """Microseconds."""
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e6


def thinned(waits: list[float]) -> list[float]:
    """At most some thousands of them, evenly from the sorted ones and with the worst, so that percentiles stay."""
    step = len(waits) // 4_000 + 1
    return sorted(sorted(waits, reverse=True)[::step])


def _lease_table(jobs: Any) -> Any:
    with jobs.read() as transaction:
        return transaction.row("SELECT sql FROM sqlite_schema WHERE name = 'leases'")


CHILD = {"open": open_, "work": work, "close": close, "nothing": lambda: True}
