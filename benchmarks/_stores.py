"""The stores that `peers.py` compares, each doing the same work by its own means: `python _stores.py NAME` does what is asked.

A store's library is imported once; everything else happens in forked children, so that eight writers are eight processes
and nothing of one measurement is left in the next. Every store runs as its documents have it, durable: what its settings are is
in `settings`, and where it is SQLite its own connection is asked. The engine runs in our environment, the others in theirs.

What a store has no method for is written here in the best way that its own tables or calls allow, and said in `settings`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from _events import Event, events, id_of
from _pool import serve

PAGE = 5_000
ASKED = ("event_msg",)
"""The types of event that a row of `write_rows` is made of."""


class Ready(NamedTuple):
    """What one writer works with."""

    append: Callable[[list[Event]], object]
    close: Callable[[], object]


class Store:
    """What a store does. `folder` is one that nobody used before, or that `fill` filled."""

    settings = ""
    packages: tuple[str, ...] = ()

    @contextlib.contextmanager
    def running(self, folder: str) -> Iterator[None]:
        """Whatever must run while the store is used."""
        yield

    def prepare(self, folder: str) -> None:
        """Make the schema, before writers start at the same time."""

    def writer(self, folder: str, thread: int) -> Ready:
        """For one process, on a thread of its own."""
        raise NotImplementedError

    def fill(self, folder: str, threads: int, each: int) -> None:
        """So many threads with so many events each, in any way that is quick."""
        raise NotImplementedError

    def log(self, folder: str, types: Sequence[str] = ()) -> Iterator[tuple[str, Event]]:
        """Every event, decoded, in the order of its thread; where types are named and the store can, those alone."""
        raise NotImplementedError

    def rebuild(self, folder: str, into: str) -> tuple[int, int]:
        """A row a thread, from all events; how many threads, and the sum of their tokens."""
        return write_rows(self.log(folder, ASKED), into)

    @contextlib.contextmanager
    def connection(self, folder: str) -> Iterator[sqlite3.Connection | sqlite3.Cursor | None]:
        """What it uses itself to ask its database; None where that is not SQLite."""
        yield None

    def newest(self, folder: str, home: str) -> tuple[Callable[[], int], Callable[[], object]]:
        """A function that lists the newest 25 threads and says how many they are, and one that ends it."""
        raise NotImplementedError


class Engine(Store):
    """This engine."""

    settings = "durability `durable`: fdatasync before each answer, shared by writers of one thread"
    packages = ("rolloutdb",)

    def __init__(self) -> None:
        import engine
        import engine.runtime

        self._engine = engine
        self._options = engine.Options(background_scan_s=0)  # what is measured is the call, not what comes behind it

    def prepare(self, folder: str) -> None:
        self._engine.open(folder).close()

    def writer(self, folder: str, thread: int) -> Ready:
        opened = self._engine.open(folder)
        own = opened.threads.create(cwd="/srv", source="exec", durability="durable")
        return Ready(own.append, opened.close)

    def fill(self, folder: str, threads: int, each: int) -> None:
        with self._engine.open(folder) as opened:
            for number in range(threads):
                with opened.threads.create(cwd="/srv", source="exec", durability="buffered") as thread:
                    for batch in batches(events(number, each), 1_000):
                        thread.append(batch)

    def log(self, folder: str, types: Sequence[str] = ()) -> Iterator[tuple[str, Event]]:
        with self._engine.open(folder, options=self._options) as opened:
            for row in opened.threads.list(limit=0).threads:
                yield from (
                    (row.id, each.payload) for each in opened.threads.read(row.id) if each.kind != "session_meta"
                )

    def rebuild(self, folder: str, into: str) -> tuple[int, int]:
        with self._engine.open(folder, options=self._options) as opened:
            opened.rebuild(projection="threads")
            rows = opened.threads.list(limit=0).threads
            return len(rows), sum(row.tokens_used for row in rows)

    def newest(self, folder: str, home: str) -> tuple[Callable[[], int], Callable[[], object]]:
        opened = self._engine.open(home, state_dir=folder, options=self._options)
        while opened.threads.list().partial is not None:
            pass
        return lambda: len(opened.threads.list(limit=25).threads), opened.close


class EventSourcing(Store):
    """The SQLite recorder of `eventsourcing`; a thread is an originator."""

    settings = (
        "SQLite recorder, {sqlite}; events as JSON. It lists no originators: the newest 25 are the tail "
        "of its log, which suffices here because each has one event"
    )
    packages = ("eventsourcing",)

    def __init__(self) -> None:
        import eventsourcing.sqlite as library
        from eventsourcing.persistence import StoredEvent

        self._library, self._event = library, StoredEvent

    def _recorder(self, folder: str) -> Any:
        env = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": f"{folder}/events.db"}
        return self._library.SQLiteFactory.construct(env).application_recorder()

    def prepare(self, folder: str) -> None:
        self._recorder(folder)

    def writer(self, folder: str, thread: int) -> Ready:
        recorder = self._recorder(folder)
        written = [0]
        return Ready(lambda batch: recorder.insert_events(self._stored(id_of(thread), batch, written)), lambda: None)

    def _stored(self, thread: str, batch: Iterable[Event], written: list[int]) -> list[Any]:
        import orjson

        found = []
        for event in batch:
            written[0] += 1
            found.append(self._event(thread, written[0], event["type"], orjson.dumps(event)))
        return found

    def fill(self, folder: str, threads: int, each: int) -> None:
        recorder = self._recorder(folder)
        stored = (one for n in range(threads) for one in self._stored(id_of(n), events(n, each), [0]))
        for batch in batches(stored, PAGE):
            recorder.insert_events(batch)

    def log(self, folder: str, types: Sequence[str] = ()) -> Iterator[tuple[str, Event]]:
        import orjson

        recorder, at = self._recorder(folder), 1
        while page := recorder.select_notifications(at, PAGE, topics=types):
            yield from ((each.originator_id, orjson.loads(each.state)) for each in page)
            at = page[-1].id + 1

    @contextlib.contextmanager
    def connection(self, folder: str) -> Iterator[sqlite3.Connection | sqlite3.Cursor | None]:
        with self._recorder(folder).datastore.transaction(commit=False) as cursor:
            yield cursor.sqlite_cursor

    def newest(self, folder: str, home: str) -> tuple[Callable[[], int], Callable[[], object]]:
        recorder = self._recorder(folder)

        def ask() -> int:
            end = recorder.max_notification_id()
            return len({each.originator_id for each in recorder.select_notifications(end - 24, 25)})

        return ask, lambda: None


class UmaDB(Store):
    """The server of `umadb` on the loopback; a thread is a tag."""

    settings = (
        "its server on the loopback with its own settings (it syncs each commit, and commits together what waits); events as "
        "JSON with the thread as a tag. It lists no tags: the newest 25 are the tail of its log, one event each"
    )
    packages = ("umadb",)

    def __init__(self) -> None:
        import umadb

        self._library = umadb
        self._address = ""

    @contextlib.contextmanager
    def running(self, folder: str) -> Iterator[None]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._address = f"http://127.0.0.1:{port}"
        server = "import sys; from umadb.umadb_server_cli import main; main()"
        command = [sys.executable, "-c", server, "--db-path", folder, "--listen", f"127.0.0.1:{port}"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            give_up = time.monotonic() + 20
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert time.monotonic() < give_up, "the server did not start"
                time.sleep(0.01)
            yield
        finally:
            child.terminate()
            child.wait()

    def writer(self, folder: str, thread: int) -> Ready:
        client = self._library.Client(self._address)
        return Ready(lambda batch: client.append(self._stored(id_of(thread), batch)), client.close)

    def _stored(self, thread: str, batch: Iterable[Event]) -> list[Any]:
        import orjson

        return [self._library.Event(each["type"], orjson.dumps(each), tags=[thread]) for each in batch]

    def fill(self, folder: str, threads: int, each: int) -> None:
        client = self._library.Client(self._address)
        stored = (one for n in range(threads) for one in self._stored(id_of(n), events(n, each)))
        for batch in batches(stored, PAGE):
            client.append(batch)

    def log(self, folder: str, types: Sequence[str] = ()) -> Iterator[tuple[str, Event]]:
        import orjson

        client = self._library.Client(self._address, batch_size=PAGE)  # reading ends when nobody keeps it
        query = self._library.Query([self._library.QueryItem(types=list(types))]) if types else None
        for each in client.read(query=query):
            yield each.event.tags[0], orjson.loads(each.event.data)

    def newest(self, folder: str, home: str) -> tuple[Callable[[], int], Callable[[], object]]:
        client = self._library.Client(self._address)
        return lambda: len({each.event.tags[0] for each in client.read(backwards=True, limit=25)}), client.close


class LangGraph(Store):
    """The SQLite saver of LangGraph; an append is a checkpoint with the new events."""

    settings = (
        "SqliteSaver, {sqlite}; an append is one checkpoint that holds the new events alone, so it cannot ask by type of "
        "event"
    )
    packages = ("langgraph-checkpoint-sqlite",)

    def __init__(self) -> None:
        from langgraph.checkpoint.base import empty_checkpoint
        from langgraph.checkpoint.sqlite import SqliteSaver

        self._saver_of, self._empty = SqliteSaver, empty_checkpoint

    def _saver(self, folder: str) -> Any:
        return self._saver_of(sqlite3.connect(f"{folder}/checkpoints.db", check_same_thread=False))

    def prepare(self, folder: str) -> None:
        self._saver(folder).setup()

    def writer(self, folder: str, thread: int) -> Ready:
        saver = self._saver(folder)
        config = [{"configurable": {"thread_id": id_of(thread), "checkpoint_ns": ""}}]
        return Ready(lambda batch: self._put(saver, config, batch), saver.conn.close)

    def _put(self, saver: Any, config: list[Any], batch: list[Event]) -> None:
        checkpoint = self._empty()
        checkpoint["channel_values"] = {"events": batch}
        config[0] = saver.put(config[0], checkpoint, {"source": "loop", "step": 1}, {})

    def fill(self, folder: str, threads: int, each: int) -> None:
        saver = self._saver(folder)
        saver.conn.execute("PRAGMA synchronous = OFF")
        for number in range(threads):
            config = [{"configurable": {"thread_id": id_of(number), "checkpoint_ns": ""}}]
            for event in events(number, each):
                self._put(saver, config, [event])

    def log(self, folder: str, types: Sequence[str] = ()) -> Iterator[tuple[str, Event]]:
        saver = self._saver(folder)
        for (thread,) in saver.conn.execute("SELECT DISTINCT thread_id FROM checkpoints").fetchall():
            found = list(saver.list({"configurable": {"thread_id": thread}}))
            for each in reversed(found):
                yield from ((thread, event) for event in each.checkpoint["channel_values"]["events"])

    @contextlib.contextmanager
    def connection(self, folder: str) -> Iterator[sqlite3.Connection | sqlite3.Cursor | None]:
        yield self._saver(folder).conn

    def newest(self, folder: str, home: str) -> tuple[Callable[[], int], Callable[[], object]]:
        saver = self._saver(folder)
        return (
            lambda: len({each.config["configurable"]["thread_id"] for each in saver.list(None, limit=25)}),
            saver.conn.close,
        )


class Agents(Store):
    """The SQLite session of the OpenAI Agents SDK."""

    settings = (
        "SQLiteSession, {sqlite}; events are its items, which it cannot ask for by type. It lists no sessions: its table is "
        "asked"
    )
    packages = ("openai-agents",)

    def __init__(self) -> None:
        import asyncio

        from agents.memory.sqlite_session import SQLiteSession

        self._asyncio, self._session_of = asyncio, SQLiteSession

    def _session(self, folder: str, thread: str) -> Any:
        return self._session_of(thread, f"{folder}/sessions.db")

    def prepare(self, folder: str) -> None:
        self._session(folder, "none").close()

    def writer(self, folder: str, thread: int) -> Ready:
        loop, session = self._asyncio.new_event_loop(), self._session(folder, id_of(thread))

        def close() -> None:
            session.close()
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

        return Ready(lambda batch: loop.run_until_complete(session.add_items(batch)), close)

    def fill(self, folder: str, threads: int, each: int) -> None:
        self._session(folder, "none").close()
        connection = sqlite3.connect(f"{folder}/sessions.db")
        connection.execute("PRAGMA synchronous = OFF")
        filler = self._session(folder, "filler")
        for numbers in batches(range(threads), 100):
            for number in numbers:
                filler.session_id = id_of(number)
                filler._insert_items(connection, list(events(number, each)))
            connection.commit()
        connection.close()
        filler.close()

    def log(self, folder: str, types: Sequence[str] = ()) -> Iterator[tuple[str, Event]]:
        loop = self._asyncio.new_event_loop()
        with contextlib.closing(sqlite3.connect(f"{folder}/sessions.db")) as connection:
            names = connection.execute("SELECT session_id FROM agent_sessions").fetchall()
        for (thread,) in names:
            session = self._session(folder, thread)
            yield from ((thread, event) for event in loop.run_until_complete(session.get_items()))
            session.close()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    @contextlib.contextmanager
    def connection(self, folder: str) -> Iterator[sqlite3.Connection | sqlite3.Cursor | None]:
        session = self._session(folder, "none")
        yield session._get_connection()
        session.close()

    def newest(self, folder: str, home: str) -> tuple[Callable[[], int], Callable[[], object]]:
        connection = sqlite3.connect(f"{folder}/sessions.db")
        sql = "SELECT session_id, updated_at FROM agent_sessions ORDER BY updated_at DESC LIMIT 25"
        return lambda: len(connection.execute(sql).fetchall()), connection.close


STORES: Mapping[str, type[Store]] = {
    "engine": Engine,
    "eventsourcing": EventSourcing,
    "umadb": UmaDB,
    "langgraph": LangGraph,
    "openai-agents": Agents,
}


# --- the work ------------------------------------------------------------------------------------------------------


def write_rows(log: Iterable[tuple[str, Event]], into: str) -> tuple[int, int]:
    """The read model of a store that has none: title and tokens; a commit has with it how far the log was followed."""
    rows: dict[str, list[Any]] = {}
    at = 0
    for thread, event in log:
        at += 1
        row = rows.get(thread)
        if row is None:
            row = rows[thread] = [None, 0]
        payload = event["payload"]
        kind = payload["type"]
        if kind == "item_completed" and row[0] is None:
            row[0] = payload["item"]["content"][0]["text"]
        elif kind == "token_count":
            row[1] = payload["info"]["total_token_usage"]["total_tokens"]
    with contextlib.closing(sqlite3.connect(into)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE threads (id TEXT PRIMARY KEY, title TEXT, tokens INTEGER)")
        connection.execute("CREATE TABLE place (at INTEGER)")
        for batch in batches(rows.items(), 1_000):
            connection.executemany("INSERT INTO threads VALUES (?, ?, ?)", [(str(name), *row) for name, row in batch])
            connection.execute("INSERT INTO place VALUES (?)", (at,))
            connection.commit()
    return len(rows), sum(row[1] for row in rows.values())


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of so many."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


# --- a store's process ---------------------------------------------------------------------------------------------


class Serving:
    """Does what `peers.py` asks of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._context = multiprocessing.get_context("fork")

    def work(self) -> dict[str, Callable[..., Any]]:
        """By the name that is asked for."""
        names = ("about", "append", "fill", "replay", "rebuild", "newest")
        return {name: getattr(self, name) for name in names}

    def about(self, folder: str) -> dict[str, Any]:
        """Versions, and the settings in which it runs."""
        with self._store.running(folder):
            self._in_children([lambda _: self._store.prepare(folder)])
            (sqlite,) = self._in_children([lambda _: settings_of(self._store, folder)])
        return {
            "versions": {name: version(name) for name in self._store.packages},
            "settings": self._store.settings.format(sqlite=sqlite),
        }

    def append(self, folder: str, writers: int, batch: int, seconds: float) -> dict[str, float]:
        """All writers at the same time."""
        with self._store.running(folder):
            self._in_children([lambda _: self._store.prepare(folder)])
            jobs = [lambda barrier, n=n: self._append(folder, n, batch, seconds, barrier) for n in range(writers)]
            told = self._in_children(jobs)
        waits = sorted(wait for each in told for wait in each["waits_us"])
        return {
            "events_a_second": sum(each["appends"] * batch / each["seconds"] for each in told),
            "p50_us": waits[len(waits) // 2],
            "p99_us": waits[len(waits) * 99 // 100],
            "worst_ms": waits[-1] / 1000,
        }

    def _append(self, folder: str, number: int, batch: int, seconds: float, barrier: Any) -> dict[str, Any]:
        ready = self._store.writer(folder, number)
        items = list(events(number, 20 + batch))[20 - (batch == 1) :][:batch]
        ready.append(items)
        barrier.wait()
        waits = []
        begun = at = time.perf_counter()
        while at - begun < seconds:
            ready.append(items)
            now = time.perf_counter()
            waits.append((now - at) * 1e6)
            at = now
        ready.close()
        return {"appends": len(waits), "seconds": at - begun, "waits_us": waits}

    def fill(self, folder: str, threads: int, each: int) -> bool:
        """What the others read."""
        with self._store.running(folder):
            self._in_children([lambda _: self._store.fill(folder, threads, each)])
        return True

    def replay(self, folder: str) -> dict[str, float]:
        """Every event of every thread, decoded."""

        def read(_: Any) -> dict[str, float]:
            begun = time.perf_counter()
            count = sum(1 for _ in self._store.log(folder))
            return {"seconds": time.perf_counter() - begun, "events": count}

        with self._store.running(folder):
            return self._in_children([read])[0]  # type: ignore[no-any-return]

    def rebuild(self, folder: str, into: str) -> dict[str, float]:
        """The rows from nothing."""

        def build(_: Any) -> dict[str, float]:
            begun = time.perf_counter()
            threads, tokens = self._store.rebuild(folder, into)
            return {"seconds": time.perf_counter() - begun, "threads": threads, "tokens": tokens}

        with self._store.running(folder):
            return self._in_children([build])[0]  # type: ignore[no-any-return]

    def newest(self, folder: str, home: str, times: int) -> dict[str, float]:
        """The median of so many lists, the first not counted."""

        def ask(_: Any) -> dict[str, float]:
            lists, end = self._store.newest(folder, home)
            assert lists() == 25
            waits = []
            for _ in range(times):
                begun = time.perf_counter()
                lists()
                waits.append((time.perf_counter() - begun) * 1e6)
            end()
            return {"p50_us": sorted(waits)[times // 2]}

        with self._store.running(folder):
            return self._in_children([ask])[0]  # type: ignore[no-any-return]

    def _in_children(self, jobs: list[Callable[[Any], Any]]) -> list[Any]:
        """What each job answers in a process of its own, all at the same time; `barrier.wait()` is where they begin."""
        barrier = self._context.Barrier(len(jobs))

        def run(job: Callable[[Any], Any], pipe: Any) -> None:
            try:
                pipe.send((job(barrier), None))
            except BaseException:  # noqa: BLE001 - told to the parent, which raises it
                barrier.abort()
                pipe.send((None, traceback.format_exc()))

        started = []
        for job in jobs:
            ours, theirs = self._context.Pipe(duplex=False)
            child = self._context.Process(target=run, args=(job, theirs), daemon=True)
            child.start()
            theirs.close()
            started.append((child, ours))
        answers = []
        for child, pipe in started:
            try:
                answers.append(pipe.recv())
            except EOFError:
                answers.append((None, "the process ended without an answer"))
            child.join()
        for _, failed in answers:
            if failed is not None:
                raise RuntimeError(failed)
        return [answer for answer, _ in answers]


def settings_of(store: Store, folder: str) -> str:
    """How a connection of this store journals and syncs, and the SQLite that it is of."""
    with store.connection(folder) as connection:
        if connection is None:
            return ""
        asked = ("SELECT sqlite_version()", "PRAGMA journal_mode", "PRAGMA synchronous")
        library, journal, sync = (connection.execute(each).fetchone()[0] for each in asked)
    return f"SQLite {library}, {journal.upper()}, synchronous={('OFF', 'NORMAL', 'FULL', 'EXTRA')[sync]}"


if __name__ == "__main__":
    serve(Serving(STORES[sys.argv[1]]()).work())
