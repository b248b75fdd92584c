"""The facts projection: what was decided about threads from outside of their conversation.

Two streams, each with tables of its own: the journal, and the `session_index.jsonl` in which the Codex CLI keeps names.
Both are small, and their records set columns of one row a thread, so a catch-up applies what is new behind the watermark
in one transaction with it. A stream that was rewritten is applied anew. An answer takes the later of two records.

Kinds of the journal are `home_event.<tag>`; a tag that is not known here is kept in the journal and passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from engine.clock import Clock
from engine.events.record import time_ms
from engine.options import Options
from engine.stores import watermarks
from engine.stores.digests import BLOCK_BYTES, tail_digest
from engine.stores.files import Files
from engine.stores.journal import Journal
from engine.stores.layout import Home, is_id
from engine.stores.rollouts import Damage, Located, PlainSource, records
from engine.stores.sqlite import Database, Transaction, Value
from engine.stores.watermarks import History, Watermark, chain_at, judge_history

SESSION_INDEX = "session_index.jsonl"
VERSION = 1
_JOURNAL = "facts"
_INDEX = "index_names"

NAMED = "thread_named"
MEMORY_MODE_SET = "memory_mode_set"
ARCHIVE_BEGUN = "archive_begun"
ARCHIVE_DONE = "archive_done"
DISMISSED = "thread_dismissed"
ERASED = "thread_erased"


class _Index(msgspec.Struct):
    """A line of the session index."""

    id: str
    thread_name: str
    updated_at: str | None = None


class Facts:
    """Keeps the facts of one home up to date."""

    def __init__(
        self, home: Home, database: Database, journal: Journal, *, options: Options, clock: Clock, files: Files
    ) -> None:
        self._home = home
        self.database = database
        self._journal = journal
        self._options = options
        self._clock = clock
        self._files = files

    def catch_up(self) -> None:
        """Apply what both streams hold beyond their watermarks; a stat each where nothing is new."""
        segments = [str(segment) for segment in self._journal.segments()]
        streams = [*segments, f"{self._home.path}/{SESSION_INDEX}"]
        with self.database.read() as transaction:
            marks = watermarks.load(transaction, streams)
        for segment in segments:
            if self._follow(segment, _JOURNAL, marks.get(segment, {}).get(_JOURNAL)):
                self._apply_anew(segments)
                break
        index = streams[-1]
        if self._follow(index, _INDEX, marks.get(index, {}).get(_INDEX)):
            self._follow(index, _INDEX, None, clear="DELETE FROM index_names")

    def rebuild(self) -> None:
        """Apply both streams from their beginning."""
        with self.database.write() as transaction:
            transaction.run(
                "DELETE FROM watermarks WHERE projection IN (:journal, :index)", {"journal": _JOURNAL, "index": _INDEX}
            )
            transaction.run("DELETE FROM facts")
            transaction.run("DELETE FROM index_names")
        self.catch_up()

    def _apply_anew(self, segments: Iterable[str]) -> None:
        """The journal is not what was followed (an erasure): its facts are made again from its first record."""
        clear: str | None = "DELETE FROM facts"
        for segment in segments:
            self._follow(segment, _JOURNAL, None, clear=clear)
            clear = None

    def _follow(self, path: str, projection: str, mark: Watermark | None, *, clear: str | None = None) -> bool:
        """Apply one stream from its watermark; whether its history is another, and nothing was applied."""
        stat = self._files.stat(path, op="facts.stat")
        if stat is None or (mark is not None and mark.version == VERSION and mark.stat == stat):
            return False
        with self._files.reading(path, op="facts.read") as fd:
            source = PlainSource(fd, self._files.fstat(fd, op="facts.stat"), self._files)
            if mark is not None and (mark.version != VERSION or judge_history(source, mark) is not History.SAME):
                return True
            start = 0 if mark is None else mark.offset
            effects, end = _effects(source, start, projection, self._options)
            tail_start = max(0, end - BLOCK_BYTES)
            tail = tail_digest(source.read_at(tail_start, end - tail_start))
            now = Watermark(VERSION, end, None, chain_at(source, end).digest, tail, source.stat, b"")
        with self.database.write() as transaction:
            stored = watermarks.load(transaction, [path]).get(path, {}).get(projection)
            if clear is None and stored != mark:
                return False  # somebody else applied it meanwhile
            if clear is not None:
                transaction.run(clear)
            for sql, values in effects:
                transaction.run(sql, values)
            watermarks.advance(transaction, [(path, projection, now)])
        return False


def _effects(
    source: PlainSource, start: int, projection: str, options: Options
) -> tuple[list[tuple[str, dict[str, Value]]], int]:
    """The statements of all whole lines from `start` on, and where the last of them ends."""
    effects: list[tuple[str, dict[str, Value]]] = []
    end = start
    if projection == _INDEX:
        for line, stop in _lines(source, start):
            effects.extend(_index_effect(line))
            end = stop
        return effects, end
    for found in records(source, start, None, options):
        if isinstance(found, Damage) and not found.terminated:
            break
        end = found.offset + found.length + 1
        if isinstance(found, Located):
            effects.extend(_journal_effect(found))
    return effects, end


def _lines(source: PlainSource, start: int) -> Iterator[tuple[bytes, int]]:
    """Lines of the index; a last one without its LF counts when it is JSON, and is read again when more comes."""
    data = source.read_at(start, source.stat.size - start)
    at = 0
    while at < len(data):
        stop = data.find(b"\n", at)
        if stop < 0:
            yield data[at:], start + at
            return
        yield data[at:stop], start + stop + 1
        at = stop + 1


def _index_effect(line: bytes) -> Iterator[tuple[str, dict[str, Value]]]:
    try:
        entry = msgspec.json.decode(line, type=_Index)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if is_id(entry.id):
        values: dict[str, Value] = {
            "thread_id": entry.id.lower(),
            "name": entry.thread_name.strip(),
            "at_ms": time_ms(entry.updated_at) or 0,
        }
        yield _SET_INDEX_NAME, values


def _journal_effect(found: Located) -> Iterator[tuple[str, dict[str, Value]]]:
    try:
        payload = msgspec.json.decode(found.record.payload, type=dict[str, Any])
    except msgspec.DecodeError:
        return
    thread_id = payload.get("thread_id")
    effect = _EFFECTS.get(str(payload.get("type")))
    if found.record.type == "home_event" and effect is not None and isinstance(thread_id, str) and is_id(thread_id):
        sql, more = effect(payload)
        yield sql, {"thread_id": thread_id.lower(), "at_ms": time_ms(found.record.timestamp) or 0, **more}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _named(payload: Mapping[str, Any]) -> tuple[str, dict[str, Value]]:
    return _upsert("name", "name_at_ms"), {"name": _text(payload.get("name"))}


def _memory_mode(payload: Mapping[str, Any]) -> tuple[str, dict[str, Value]]:
    return _upsert("memory_mode", "memory_mode_at_ms"), {"memory_mode": _text(payload.get("memory_mode"))}


def _archive_begun(payload: Mapping[str, Any]) -> tuple[str, dict[str, Value]]:
    return _ARCHIVE, {"archived": int(bool(payload.get("archived"))), "pending": 1}


def _archive_done(payload: Mapping[str, Any]) -> tuple[str, dict[str, Value]]:
    return _ARCHIVE, {"archived": int(bool(payload.get("archived"))), "pending": 0}


def _dismissed(_: Mapping[str, Any]) -> tuple[str, dict[str, Value]]:
    return _upsert("dismissed_at_ms"), {}


def _erased(_: Mapping[str, Any]) -> tuple[str, dict[str, Value]]:
    return _upsert("erased_at_ms"), {}


def _upsert(*columns: str) -> str:
    """Set these columns; one that ends in `_at_ms` takes the record's time."""
    values = [":at_ms" if column.endswith("_at_ms") else f":{column}" for column in columns]
    sets = ", ".join(f"{column} = excluded.{column}" for column in columns)
    return (
        f"INSERT INTO facts (thread_id, {', '.join(columns)}) VALUES (:thread_id, {', '.join(values)})"  # noqa: S608
        f" ON CONFLICT (thread_id) DO UPDATE SET {sets}"
    )


_EFFECTS: dict[str, Callable[[Mapping[str, Any]], tuple[str, dict[str, Value]]]] = {
    NAMED: _named,
    MEMORY_MODE_SET: _memory_mode,
    ARCHIVE_BEGUN: _archive_begun,
    ARCHIVE_DONE: _archive_done,
    DISMISSED: _dismissed,
    ERASED: _erased,
}

_ARCHIVE = """
    INSERT INTO facts (thread_id, archived, archived_at_ms, archive_pending)
    VALUES (:thread_id, :archived, :at_ms, :pending)
    ON CONFLICT (thread_id) DO UPDATE SET archived = excluded.archived, archive_pending = excluded.archive_pending,
    archived_at_ms = iif(:pending, excluded.archived_at_ms, coalesce(facts.archived_at_ms, excluded.archived_at_ms))
"""

_SET_INDEX_NAME = """
    INSERT INTO index_names (thread_id, name, name_at_ms) VALUES (:thread_id, :name, :at_ms)
    ON CONFLICT (thread_id) DO UPDATE SET name = excluded.name, name_at_ms = excluded.name_at_ms
"""


def unfinished_archives(transaction: Transaction) -> list[tuple[str, bool]]:
    """Threads whose move into or out of the archive was begun and not finished, and which way."""
    rows = transaction.rows("SELECT thread_id, archived FROM facts WHERE archive_pending = 1")
    return [(thread_id, bool(archived)) for thread_id, archived in rows]
