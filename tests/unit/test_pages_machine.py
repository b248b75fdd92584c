"""Clients that page through a home while it changes: every page is what a sorted list says, and no client misses anything.

Hypothesis makes threads, gives them turns and records, renames, archives, brings back, erases and forks them, puts files of
another program beside them with times of its own, and lets clients take one page at a time in between: by every sort key,
in both directions, filtered or not (by state, by folder). The clock seldom moves, so many threads have the same times.

The model is a list of rows, sorted; it imports nothing of the engine, and knows no cursor: a place is a row that was seen.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import engine
from engine.options import Options
from engine.testing import ManualClock

OPTIONS = Options(flush_delay_ms=3_600_000, scan_interval_ms=0, list_budget_ms=600_000, background_scan_s=0)
FOLDERS = ("/", "/srv")
KEYS = ("created_at", "updated_at", "recency_at")
BASE_MS = 1_767_603_600_000
"""2026-01-05T09:00:00Z."""
DROPPED_MS_MAX = 3
"""The clock begins this much later, so that what is written is never older than what another program wrote before."""


class Row(NamedTuple):
    """A thread of the model, as a list shows it."""

    id: str
    created_at: int
    updated_at: int
    recency_at: int
    cwd: str
    archived: bool = False
    name: str | None = None

    def place(self, key: str) -> tuple[int, str]:
        """Where it stands in the order of a key."""
        return getattr(self, key), self.id


class Sees(NamedTuple):
    """What a client asks for: of `archived` None all threads, False the active ones; of `cwd` None all folders."""

    key: str
    direction: str
    archived: bool | None
    cwd: str | None

    def rows(self, model: dict[str, Row], direction: str) -> list[Row]:
        """The sorted list."""
        found = [row for row in model.values() if self.archived in (None, row.archived) and self.cwd in (None, row.cwd)]
        return sorted(found, key=lambda row: row.place(self.key), reverse=direction == "desc")


def is_behind(place: tuple[int, str], last: tuple[int, str], direction: str) -> bool:
    return place < last if direction == "desc" else place > last


class Client:
    """Lists all threads page by page, and from then on only what changed: it keeps a `backwards_cursor`.

    `last` is the row that the walk under way has come to, `kept` the cursor and the key of the row that it names. `begun`
    are the rows at the beginning of the walk, `moved` what changed since then, `written` what was written to since the walk
    before.
    """

    def __init__(self, sees: Sees, limit: int) -> None:
        self.sees = sees
        self.limit = limit
        self.kept: tuple[str, int] | None = None
        self.walking = False
        self.written: set[str] = set()

    def note(self, row: Row, *, written: bool) -> None:
        """This row changed, or was written to so that its key is the time of now.

        What comes into a millisecond that a walk under way has passed already is behind its cursors; READING.md says so.
        """
        if self.walking:
            self.moved.add(row.id)
        if written and not (self.walking and self.catching_up and self.last is not None and not self.is_ahead(row)):
            self.written.add(row.id)

    def step(self, e: engine.Engine, model: dict[str, Row]) -> None:
        """Ask for the next page, and see that it is the model's."""
        if not self.walking:
            self.begin(model)
        page = e.threads.list(
            limit=self.limit,
            cursor=self.cursor,
            sort_key=self.sees.key,
            sort_direction=self.direction,
            archived=self.sees.archived,
            cwd=self.sees.cwd,
        )
        assert page.partial is None
        rest = [row for row in self.sees.rows(model, self.direction) if self.is_ahead(row)]
        shown = [
            Row(row.id, row.created_at_ms, row.updated_at_ms, row.recency_at_ms, row.cwd or "", row.archived, row.name)
            for row in page.threads
        ]
        assert shown == rest[: self.limit]
        assert (page.next_cursor is None) == (len(rest) <= self.limit)
        assert (page.backwards_cursor is None) == (not shown)
        if page.backwards_cursor is not None and (self.catching_up or not self.seen):
            self.next_kept = page.backwards_cursor, getattr(shown[0], self.sees.key)
        self.seen += shown
        self.written -= {row.id for row in shown}  # seen as it is now
        self.cursor = page.next_cursor
        self.last = shown[-1].place(self.sees.key) if shown else self.last
        if page.next_cursor is None:
            self.end()

    def begin(self, model: dict[str, Row]) -> None:
        """From the beginning; and where there is a cursor, back from there."""
        self.walking, self.catching_up = True, self.kept is not None
        self.cursor, self.from_key = self.kept or (None, None)
        other = "desc" if self.sees.direction == "asc" else "asc"
        self.direction = other if self.catching_up else self.sees.direction
        self.last: tuple[int, str] | None = None
        self.seen: list[Row] = []
        self.begun, self.due = dict(model), self.written
        self.moved: set[str] = set()
        self.written = set()
        self.next_kept = self.kept

    def is_ahead(self, row: Row) -> bool:
        if self.last is not None:
            return is_behind(row.place(self.sees.key), self.last, self.direction)
        if self.from_key is None:
            return True
        key: int = getattr(row, self.sees.key)
        return key <= self.from_key if self.direction == "desc" else key >= self.from_key

    def end(self) -> None:
        """A client's own view of it: what did not change meanwhile came once; what changed before it began, came too."""
        ids = [row.id for row in self.seen]
        still = self.sees.rows({id_: row for id_, row in self.begun.items() if id_ not in self.moved}, self.direction)
        last, self.last = self.last, None
        for row in filter(self.is_ahead, still):
            assert ids.count(row.id) == 1
        self.last = last
        if self.sees.direction == "desc" and self.catching_up:
            shown = {row.id for row in self.sees.rows(self.begun, "asc")}
            assert (self.due - self.moved) & shown <= set(ids)
        self.kept, self.walking = self.next_kept, False


class Machine(RuleBasedStateMachine):
    """Changes of all kinds, and clients that page between them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="pages"))
        self.clock = ManualClock(BASE_MS + DROPPED_MS_MAX)
        self.e = engine.open(str(self.folder), clock=self.clock, options=OPTIONS)
        self.model: dict[str, Row] = {}
        self.foreign: dict[str, Path] = {}
        self.clients: list[Client] = []

    def any_of(self, number: int) -> Row:
        return list(self.model.values())[number % len(self.model)]

    def set(self, row: Row, *, written: bool = False) -> None:
        self.model[row.id] = row
        for client in self.clients:
            client.note(row, written=written and getattr(row, client.sees.key) == self.clock.wall_ms())

    @rule(
        key=st.sampled_from(KEYS),
        direction=st.sampled_from(["asc", "desc"]),
        archived=st.sampled_from([None, False]),
        cwd=st.sampled_from([None, None, *FOLDERS]),
    )
    @precondition(lambda self: len(self.clients) < 8)
    def add_client(self, key: str, direction: str, archived: bool | None, cwd: str | None) -> None:
        self.clients.append(Client(Sees(key, direction, archived, cwd), 1 + len(self.clients) % 3))

    @rule(which=st.integers(0, 7))
    @precondition(lambda self: self.clients)
    def take_page(self, which: int) -> None:
        self.clients[which % len(self.clients)].step(self.e, self.model)

    @rule()
    def all_take_pages(self) -> None:
        for client in self.clients:
            client.step(self.e, self.model)
            while client.walking:
                client.step(self.e, self.model)

    @rule(ms=st.sampled_from([1, 1, 1_000]))
    def wait(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule(turn=st.booleans(), cwd=st.sampled_from(FOLDERS))
    def create(self, turn: bool, cwd: str) -> None:
        with self.e.threads.create(cwd=cwd, durability="buffered") as thread:
            self.write(thread, turn)
        now = self.clock.wall_ms()
        self.set(Row(thread.id, now, now, now, cwd), written=True)

    def write(self, thread: Any, turn: bool) -> None:
        if turn:
            with thread.turn() as begun:
                begun.user_message("hello")
        else:
            thread.append([{"type": "world_state", "payload": {}}])

    @rule(which=st.integers(0, 99), turn=st.booleans())
    @precondition(lambda self: self.model)
    def touch(self, which: int, turn: bool) -> None:
        row = self.any_of(which)
        if row.archived or row.id in self.foreign:
            return
        with self.e.threads.resume(row.id, durability="buffered") as thread:
            self.write(thread, turn)
        now = self.clock.wall_ms()
        self.set(row._replace(updated_at=now, recency_at=now if turn else row.recency_at), written=True)

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: self.model)
    def fork(self, which: int) -> None:
        row = self.any_of(which)
        if row.id in self.foreign:
            return
        child = self.e.threads.fork(row.id, durability="buffered")
        child.close()
        now = self.clock.wall_ms()
        self.set(Row(child.id, now, now, now, row.cwd), written=True)

    @rule(which=st.integers(0, 99), name=st.sampled_from(["one", "two", None]))
    @precondition(lambda self: self.model)
    def rename(self, which: int, name: str | None) -> None:
        row = self.any_of(which)
        self.e.threads.rename(row.id, name)
        self.set(row._replace(name=name))

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: self.model)
    def move(self, which: int) -> None:
        row = self.any_of(which)
        if row.id in self.foreign:
            return
        (self.e.threads.unarchive if row.archived else self.e.threads.archive)(row.id)
        self.set(row._replace(archived=not row.archived))

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: self.model)
    def erase(self, which: int) -> None:
        """With all that were forked from it."""
        row = self.any_of(which)
        if row.id in self.foreign:
            return
        for each in self.e.threads.erase(row.id, include_children=True, grace_s=None).thread_ids:
            erased = self.model.pop(each)
            for client in self.clients:
                client.note(erased, written=False)

    @rule(created=st.integers(0, DROPPED_MS_MAX), updated=st.integers(0, DROPPED_MS_MAX), number=st.integers(0, 0xFFFF))
    def drop_in(self, created: int, updated: int, number: int) -> None:
        """Another program's rollout, made or written to at these milliseconds after the beginning."""
        thread_id = f"{number * 2_654_435_761 % (1 << 32):08x}-403f-7170-9722-7a9790eef98c"
        if thread_id in self.model and thread_id not in self.foreign:
            return
        path = self.folder / f"sessions/2026/01/05/rollout-2026-01-05T09-00-00-{thread_id}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if thread_id in self.foreign:
            row = self.model[thread_id]
        else:
            meta = {"id": thread_id, "timestamp": stamp(created), "cwd": "/", "source": "cli"}
            put(path, created, "session_meta", meta)
            row = Row(thread_id, BASE_MS + created, 0, BASE_MS + created, "/")
            self.foreign[thread_id] = path
        put(path, updated, "world_state", {})
        self.set(row._replace(updated_at=BASE_MS + updated))

    @rule()
    def restart(self) -> None:
        """Cursors outlive the process, and every table."""
        self.e.close()
        for path in (self.folder / "engine").glob("*.sqlite*"):
            path.unlink()
        self.e = engine.open(str(self.folder), clock=self.clock, options=OPTIONS)

    def teardown(self) -> None:
        try:
            self.all_take_pages()
            self.all_take_pages()
        finally:
            self.e.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def stamp(ms: int) -> str:
    return f"2026-01-05T09:00:00.{ms:03}Z"


def put(path: Path, ms: int, type_: str, payload: dict[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps({"timestamp": stamp(ms), "type": type_, "payload": payload}).encode() + b"\n")


TestPages = Machine.TestCase
TestPages.settings = settings(settings.get_profile("test"), max_examples=20, stateful_step_count=40)
