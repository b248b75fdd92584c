"""The facts: what was decided about threads from outside of their conversation, and what belongs to no thread.

Two streams, each with tables of its own: the journal (its families of tags: `decided.py`), and the `session_index.jsonl`
in which the Codex CLI keeps names. Their records set columns of rows, so a catch-up applies what is new in one
transaction with the note of what was followed (`fact_streams`), by compare-and-swap on the old note: however many
processes catch up, each effect comes once and in the journal's order. A stream that is not what was followed (a segment
rewritten, gone, or back) is applied anew, in one transaction. An answer takes the later of two records.

Kinds of the journal are `home_event.<tag>`; a tag that is not known here is kept in the journal and passed over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from engine.clock import Clock
from engine.errors import HomeUnreadable
from engine.events.record import time_ms
from engine.options import Options
from engine.projections.agents import AGENTS
from engine.projections.decided import Decided, Decision, Effects, Shape, Values
from engine.projections.device_keys import DEVICE_KEYS
from engine.projections.goal_facts import GOAL_FACTS
from engine.projections.memory_facts import MEMORY_FACTS
from engine.projections.thread_facts import THREAD_FACTS
from engine.stores.digests import BLOCK_BYTES, tail_digest
from engine.stores.files import Files, FileStat
from engine.stores.journal import Journal
from engine.stores.layout import Home, is_id
from engine.stores.rollouts import Located, PlainSource, blocks, line_of, records
from engine.stores.sqlite import Database, Transaction
from engine.stores.watermarks import History, Watermark, chain_at, judge_history, resume_chain

SESSION_INDEX = "session_index.jsonl"
VERSION = 3
LOST_SWAPS_MAX = 3
"""How often a stream is read again because somebody else was faster; then it is read where nobody can come between."""

_OPEN_END = b"open"
"""State of a watermark whose last line counts and has no LF yet: when more comes, the stream is applied anew."""

FAMILIES = (THREAD_FACTS, AGENTS, DEVICE_KEYS, GOAL_FACTS, MEMORY_FACTS)
"""All that the journal decides; a tag more, or one read otherwise, raises `VERSION`."""

INDEX_NAMES = Shape("index_names", ("thread_id",), ("name", "name_at_ms"))

JOURNAL_TABLES = tuple(shape for family in FAMILIES for shape in family.tables)

_FAMILY_OF = {tag: family for family in FAMILIES for tag in family.tags}


class _Index(msgspec.Struct):
    """A line of the session index."""

    id: str
    thread_name: str
    updated_at: str | None = None


class Followed(msgspec.Struct, frozen=True, array_like=True):
    """How far one file of a stream was followed."""

    name: str
    mark: Watermark


_UNREADABLE = [Followed("", Watermark(0, 0, None, b"", b"", FileStat(0, 0, 0, 0, 0), b""))]
"""A note of damaged bytes: a file that no stream has, so the stream is applied anew."""


class _Stream(NamedTuple):
    """One of the two streams. `names` are its files, oldest first."""

    key: str
    folder: str
    names: Callable[[], list[str]]
    tables: Sequence[Shape]
    read: Callable[[PlainSource, int, int | None, Effects, Options], tuple[int, bytes]]


class _Step(NamedTuple):
    """What a catch-up would do."""

    anew: bool
    effects: Effects
    followed: list[Followed]


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
        self._applied: dict[str, tuple[int, list[tuple[str, FileStat | None]]]] = {}
        """How the files of each stream stood when the tables were found to have followed them, and in which file."""
        self._streams = (
            _Stream("journal", f"{home.state}/journal", self._segments, JOURNAL_TABLES, _read_journal),
            _Stream("session_index", home.path, self._index, (INDEX_NAMES,), _read_index),
        )

    def catch_up(self) -> None:
        """Apply what both streams hold beyond what was followed; a stat a file where nothing is new."""
        for stream in self._streams:
            with self._named(stream):
                stats = [
                    (name, self._files.stat(f"{stream.folder}/{name}", op="facts.stat")) for name in stream.names()
                ]
                now = (self.database.opened, stats)
                if self._applied.get(stream.key) != now:
                    self._follow(stream)
                    self._applied[stream.key] = now

    def forget(self) -> None:
        """The tables are not those that were written to: ask them again how far they followed."""
        self._applied.clear()

    def rebuild(self, *, whoever: bool = True) -> int:
        """Apply both streams from their beginning, `whoever` applied them before; how many files they have.

        Without `whoever` what a newer engine applied is left alone.
        """
        files = 0
        for stream in self._streams:
            with self._named(stream):
                files += self._follow(stream, anew=True, whoever=whoever)
        return files

    def followed(self, transaction: Transaction) -> dict[str, list[Followed]]:
        """How far each stream was followed, by its name, file by file."""
        return {stream.key: _load(transaction, stream) for stream in self._streams}

    def fold_into(self, scratch: Database, followed: Mapping[str, Sequence[Followed]]) -> dict[str, list[str]]:
        """Apply to an empty database what was followed, once more and from the beginning.

        Streams that cannot be told, by name: the files of it that are not what was followed, or none where a newer engine
        followed it. Raises `HomeUnreadable`.
        """
        untold: dict[str, list[str]] = {}
        for stream in self._streams:
            effects: Effects = {}
            marks = followed[stream.key]
            with self._named(stream):
                changed = [each.name for each in marks if not self._gather_again(stream, each, effects)]
            if changed or any(each.mark.version != VERSION for each in marks):
                untold[stream.key] = changed
                continue
            with scratch.write() as transaction:
                _write(transaction, stream, _Step(anew=False, effects=effects, followed=[]))
        return untold

    def path_of(self, stream: str, name: str) -> str:
        """Where a file of a stream is."""
        return next(f"{each.folder}/{name}" for each in self._streams if each.key == stream)

    def _gather_again(self, stream: _Stream, each: Followed, effects: Effects) -> bool:
        """Whether the bytes that were followed are still there; their effects are then gathered."""
        path, mark = f"{stream.folder}/{each.name}", each.mark
        if self._files.stat(path, op="facts.stat") is None:
            return False
        with self._files.reading(path, op="facts.read") as fd:
            source = PlainSource(fd, self._files.fstat(fd, op="facts.stat"), self._files)
            if mark.state and source.stat != mark.stat:
                return False  # its last line had no LF: what it said then cannot be told
            tail_start = max(0, mark.offset - BLOCK_BYTES)
            tail = tail_digest(source.read_at(tail_start, mark.offset - tail_start))
            if (chain_at(source, mark.offset).digest, tail) != (mark.chain, mark.tail):
                return False
            stream.read(source, 0, None if mark.state else mark.offset, effects, self._options)
            return True

    @contextlib.contextmanager
    def _named(self, stream: _Stream) -> Iterator[None]:
        """Names and other facts that cannot be read are no list without them: the error says which file it was."""
        try:
            yield
        except OSError as error:
            path = error.filename or stream.folder
            raise HomeUnreadable(
                f"What was decided about threads cannot be read from {path}: {error.strerror}.",
                hint="Check who owns the file and its mode.",
                path=path,
            ) from error

    def _segments(self) -> list[str]:
        return [segment.rpartition("/")[2] for segment in self._journal.segments()]

    def _index(self) -> list[str]:
        there = self._files.stat(f"{self._home.path}/{SESSION_INDEX}", op="facts.stat") is not None
        return [SESSION_INDEX] if there else []

    def _follow(self, stream: _Stream, *, anew: bool = False, whoever: bool = False) -> int:
        """Apply what is new, or all of it `anew`; how many files were followed then."""

        def next_(followed: Sequence[Followed]) -> _Step | None:
            if any(each.mark.version > VERSION for each in followed) and not whoever:
                return None  # a newer engine's business
            return self._from_start(stream, stream.names()) if anew else self._next(stream, followed)

        for _ in range(LOST_SWAPS_MAX):
            with self.database.read() as transaction:
                followed = _load(transaction, stream)
            step = next_(followed)
            if step is None:
                return 0
            with self.database.write() as transaction:
                if _load(transaction, stream) == followed:
                    _write(transaction, stream, step)
                    return len(step.followed)
        with self.database.write() as transaction:
            step = next_(_load(transaction, stream))
            if step is not None:
                _write(transaction, stream, step)
        return 0 if step is None else len(step.followed)

    def _next(self, stream: _Stream, followed: Sequence[Followed]) -> _Step | None:
        """What is to be applied behind what was followed, or None where there is nothing."""
        names = stream.names()
        changed = [each for each in followed if not self._is_current(stream, each)]
        if not changed and names == [each.name for each in followed]:
            return None
        # Only the last file that was followed may have grown: an older one that changed is another history.
        if names[: len(followed)] == [each.name for each in followed] and all(each is followed[-1] for each in changed):
            step = self._go_on(stream, names, followed)
            if step is not None:
                return step
        return self._from_start(stream, names)

    def _is_current(self, stream: _Stream, each: Followed) -> bool:
        stat = self._files.stat(f"{stream.folder}/{each.name}", op="facts.stat")
        return each.mark.version == VERSION and each.mark.stat == stat

    def _go_on(self, stream: _Stream, names: Sequence[str], followed: Sequence[Followed]) -> _Step | None:
        """The files from the last that was followed on; None where that one is not what it was."""
        step = _Step(anew=False, effects={}, followed=list(followed[:-1]))
        for name in names[len(step.followed) :]:
            mark = followed[-1].mark if followed and name == followed[-1].name else None
            now = self._read(stream, name, mark, step.effects)
            if now is None:
                return None
            step.followed.append(Followed(name, now))
        return step

    def _from_start(self, stream: _Stream, names: Sequence[str]) -> _Step:
        step = self._go_on(stream, names, [])
        assert step is not None
        return step._replace(anew=True)

    def _read(self, stream: _Stream, name: str, mark: Watermark | None, effects: Effects) -> Watermark | None:
        """Gather the effects of one file behind its watermark, and where it ends; None where its history is another."""
        with self._files.reading(f"{stream.folder}/{name}", op="facts.read") as fd:
            source = PlainSource(fd, self._files.fstat(fd, op="facts.stat"), self._files)
            if mark is not None and (
                mark.version != VERSION or mark.state or judge_history(source, mark) is not History.SAME
            ):
                return None
            start = 0 if mark is None else mark.offset
            end, state = stream.read(source, start, None, effects, self._options)
            chain = resume_chain(source, mark)
            for at in range(start, end, BLOCK_BYTES):
                data = source.read_at(at, min(BLOCK_BYTES, end - at))
                chain.feed(data, 0, len(data))
            tail_start = max(0, end - BLOCK_BYTES)
            tail = tail_digest(source.read_at(tail_start, end - tail_start))
            return Watermark(VERSION, end, None, chain.digest, tail, source.stat, state)


def _load(transaction: Transaction, stream: _Stream) -> list[Followed]:
    row = transaction.row("SELECT followed FROM fact_streams WHERE stream = :stream", {"stream": stream.key})
    try:
        return [] if row is None else msgspec.msgpack.decode(row[0], type=list[Followed])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _UNREADABLE


def _write(transaction: Transaction, stream: _Stream, step: _Step) -> None:
    if step.anew:
        for shape in stream.tables:
            transaction.run(f"DELETE FROM {shape.table}")  # noqa: S608 - a name of ours
    for (sql, _), values in step.effects.items():
        transaction.run(sql, values)
    if not step.followed:
        transaction.run("DELETE FROM fact_streams WHERE stream = :stream", {"stream": stream.key})
        return
    transaction.run(
        """INSERT INTO fact_streams (stream, followed) VALUES (:stream, :followed)
           ON CONFLICT (stream) DO UPDATE SET followed = excluded.followed""",
        {"stream": stream.key, "followed": msgspec.msgpack.encode(step.followed)},
    )


def _read_journal(
    source: PlainSource, start: int, end_at: int | None, effects: Effects, options: Options
) -> tuple[int, bytes]:
    """Gather the effects of all lines with an LF; where the last of them ends."""
    end = start
    for found in records(source, start, end_at, options):
        if found.offset + found.length >= source.stat.size:
            break
        end = found.offset + found.length + 1
        if isinstance(found, Located):
            _gather_journal(found, effects)
    return end, b""


def _read_index(
    source: PlainSource, start: int, end_at: int | None, effects: Effects, options: Options
) -> tuple[int, bytes]:
    """Gather the names of all lines; the last one counts without its LF, and is not followed yet."""
    end = start
    for block in blocks(source, start, end_at, options):
        at = 0
        while at < block.end and not block.passed:
            stop = block.data.find(b"\n", at, block.end)
            stop = block.end if stop < 0 else stop
            _gather_index(line_of(block, at, stop), effects)
            at = stop + 1
        if not block.terminated:
            return block.offset, _OPEN_END
        end = block.offset + block.length
    return end, b""


def index_names(home: Home, *, options: Options, files: Files) -> dict[str, str]:
    """The names in a home's session index as the file has them now, by thread; '' is one that was taken away."""
    effects: Effects = {}
    path = f"{home.path}/{SESSION_INDEX}"
    if files.stat(path, op="facts.stat") is not None:
        with files.reading(path, op="facts.read") as fd:
            _read_index(PlainSource(fd, files.fstat(fd, op="facts.stat"), files), 0, None, effects, options)
    return {thread_id: str(values["name"]) for (_, thread_id), values in effects.items()}


def _gather_index(line: bytes, effects: Effects) -> None:
    try:
        entry = msgspec.json.decode(line, type=_Index)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if is_id(entry.id):
        thread_id = entry.id.lower()
        effects[_SET_INDEX_NAME, thread_id] = {
            "thread_id": thread_id,
            "name": entry.thread_name.strip(),
            "at_ms": time_ms(entry.updated_at) or 0,
        }


def _gather_journal(found: Located, effects: Effects) -> None:
    if found.record.type != "home_event":
        return
    try:
        payload = msgspec.json.decode(found.record.payload, type=dict[str, Any])
    except msgspec.DecodeError:
        return
    family = _FAMILY_OF.get(str(payload.get("type")))
    if family is None:
        return
    decision = Decision(payload, time_ms(found.record.timestamp) or 0, found.record.ordinal)
    for sql, key, values in family.tags[payload["type"]](decision):
        _void(family, effects, sql, key)
        before = effects.pop((sql, key), None)  # the order is that of the last effects
        effects[sql, key] = values if before is None else family.merged.get(sql, _last)(before, values)


def _void(family: Decided, effects: Effects, sql: str, key: str) -> None:
    """Leave out what this effect takes away again: merged with what follows it would come back."""
    voided = family.voids.get(sql)
    if voided is None:
        return
    for each in [each for each in effects if each[0] in voided.statements and (voided.every_key or each[1] == key)]:
        del effects[each]


def _last(_: Values, now: Values) -> Values:
    return now


_SET_INDEX_NAME = """
    INSERT INTO index_names (thread_id, name, name_at_ms) VALUES (:thread_id, :name, :at_ms)
    ON CONFLICT (thread_id) DO UPDATE SET name = excluded.name, name_at_ms = excluded.name_at_ms
"""
