"""Questions to the table of logs: which records, in which order; and the export that goes along with a report of a fault.

Rows say where a record is and by what it can be found; what it says is read from its segment, a block at a time. A record whose
segment is gone, or that was blanked by an erasure, is passed over. Ids rise with the order in which records got rows, and are
never lower than the time of the record in microseconds: so the beginning of a span of time is found by id, and a client that
asks for what came after an id gets it also when the table was thrown away meanwhile.

Source: codex_state.md 8.5.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct

from engine.errors import InvalidRequest
from engine.events.log_lines import RECORD, Line, decode, severity_of, shown, text_of_us
from engine.options import Options
from engine.stores.files import Files
from engine.stores.sqlite import Row, Transaction, Value

LIMIT_MAX = 100_000
LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR")
"""What a least level can be, the least first."""

_BEHIND_BYTES = 48 * 1024
_AHEAD_BYTES = 16 * 1024
_BLOCKS_MAX = 16
_MERGED_MAX = 64
"""More partitions than this are not gone through side by side; all rows are, instead."""

_WORDS = {"WARNING": "WARN"}


class LogQuery(Struct, frozen=True, kw_only=True):
    """Which records. None is no restriction.

    `levels` are words in any case, `level` is the least one; `from_us` and `to_us` are inclusive; of `modules` and `files` a
    record's holds one as it stands, capitals and all; `thread_ids` are joined by records of no thread where `threadless` is
    set, which alone means only these; `search` is part of what was said; `after_id` is exclusive.
    """

    levels: Sequence[str] | None = None
    level: str | None = None
    from_us: int | None = None
    to_us: int | None = None
    modules: Sequence[str] | None = None
    files: Sequence[str] | None = None
    thread_ids: Sequence[str] | None = None
    threadless: bool = False
    search: str | None = None
    after_id: int | None = None
    limit: int | None = 100
    newest_first: bool = True


class LogRecord(Struct, frozen=True, kw_only=True):
    """One record. `cut` is how many bytes the body had where it was cut, else 0; `dropped` counts records that were lost."""

    id: int
    timestamp: str
    level: str
    target: str
    body: str
    thread_id: str | None
    process_uuid: str
    module: str | None
    file: str | None
    line: int | None
    cut: int
    dropped: int

    @property
    def text(self) -> str:
        """Its line in an export: time, level, what was said, one final newline."""
        return shown(self.timestamp, self.level, self.body, self.cut)


class Bodies:
    """Reads lines of segments by their places, and keeps the blocks that they were in."""

    def __init__(self, folder: str, *, options: Options, files: Files) -> None:
        self._folder = folder
        self._options = options
        self._files = files
        self._blocks: dict[str, tuple[int, bytes]] = {}

    def line(self, path: str, offset: int, at_us: int) -> Line | None:
        """The record that stands there and has this time, or None where it is gone."""
        try:
            data = self._cached(path, offset) or self._read(path, offset)
        except FileNotFoundError:  # retention took it
            return None
        line = decode(data)
        return line if line is not None and line.type == RECORD and line.timestamp == text_of_us(at_us) else None

    def _cached(self, path: str, offset: int) -> bytes | None:
        start, block = self._blocks.get(path, (0, b""))
        at = offset - start
        if not 0 <= at < len(block):
            return None
        stop = block.find(b"\n", at)
        return None if stop < 0 else block[at:stop]

    def _read(self, path: str, offset: int) -> bytes:
        start = max(offset - _BEHIND_BYTES, 0)
        size = offset - start + _AHEAD_BYTES
        with self._files.reading(f"{self._folder}/{path}", op="logs.read") as fd:
            while True:
                block = self._files.pread(fd, size, start, op="logs.read")
                stop = block.find(b"\n", offset - start)
                if stop >= 0 or len(block) < size or size > self._options.line_bytes_max:
                    break
                size *= 4
        if len(self._blocks) >= _BLOCKS_MAX:
            self._blocks.pop(next(iter(self._blocks)))
        self._blocks[path] = (start, block)
        return block[offset - start : stop] if stop >= 0 else b""


def check(query: LogQuery) -> None:
    """Raises `InvalidRequest` for what cannot be meant."""
    if query.level is not None and query.level.upper() not in LEVELS:
        raise InvalidRequest(f"{query.level!r} is no level.", hint=f"Say one of {', '.join(LEVELS).lower()}.")
    if query.limit is not None and not 0 <= query.limit <= LIMIT_MAX:
        raise InvalidRequest(f"The limit {query.limit} is not in 0 to {LIMIT_MAX:,}.", hint="Ask for fewer, in pages.")


def pick(transaction: Transaction, query: LogQuery, bodies: Bodies) -> list[LogRecord]:
    """The records of a query, in its order."""
    check(query)
    found: list[LogRecord] = []
    if query.limit == 0:
        return found
    names = _Names(transaction)
    for row in _rows(transaction, query):
        line = _line(row, names, bodies)
        if line is None or (query.search is not None and query.search not in line.payload.body):
            continue
        found.append(_record(row, line, names))
        if query.limit is not None and len(found) >= query.limit:
            break
    return found


def max_id(transaction: Transaction, query: LogQuery, bodies: Bodies) -> int:
    """The highest id among the records of a query, whatever its limit and order; 0 where there are none."""
    newest = msgspec.structs.replace(query, limit=1, newest_first=True)
    found = pick(transaction, newest, bodies)
    return found[0].id if found else 0


def export(transaction: Transaction, thread_ids: Sequence[str], bodies: Bodies, bytes_max: int) -> bytes:
    """What these threads logged, and the processes that they were last in beside any thread: lines, oldest first.

    Whole lines, the newest that are `bytes_max` together. Of no thread it is empty.
    """
    wanted = _partitions_to_export(transaction, thread_ids)
    rows = _merged(transaction, wanted, LogQuery())
    names = _Names(transaction)
    lines: list[bytes] = []
    size = 0
    for row in rows:
        line = _line(row, names, bodies)
        if line is None:
            continue
        text = _record(row, line, names).text.encode("utf-8", "replace")
        size += len(text)
        if size > bytes_max:
            break
        lines.append(text)
    rows.close()
    return b"".join(reversed(lines))


def _partitions_to_export(transaction: Transaction, thread_ids: Sequence[str]) -> list[int]:
    """The threads', and those of the process of each one's newest row."""
    threads = _threads(transaction, thread_ids)
    found = dict.fromkeys(threads)
    for number in threads:
        process = transaction.row(_LATEST_PROCESS, {"partition": number})
        if process is not None:
            found.update(dict.fromkeys(number for (number,) in transaction.rows(_OF_PROCESS, {"process": process[0]})))
    return list(found)


def _rows(transaction: Transaction, query: LogQuery) -> Iterator[Row]:
    """The rows that a query asks for, but for what is said in them."""
    if not query.thread_ids and not query.threadless:
        yield from transaction.rows(_statement(query, ""), _values(transaction, query))
        return
    partitions = _threads(transaction, query.thread_ids or ())
    if query.threadless:
        partitions += [number for (number,) in transaction.rows("SELECT number FROM partitions WHERE thread = ''")]
    if len(partitions) <= _MERGED_MAX:
        yield from _merged(transaction, partitions, query)
        return
    wanted = set(partitions)
    for row in transaction.rows(_statement(query, ""), _values(transaction, query)):
        if row[5] in wanted:
            yield row


def _merged(transaction: Transaction, partitions: Iterable[int], query: LogQuery) -> Generator[Row]:
    """The rows of several partitions in one order, each read from its part of the index."""
    sql, values = _statement(query, "AND partition = :partition"), _values(transaction, query)
    several = [transaction.rows(sql, {**values, "partition": number}) for number in partitions]
    try:
        yield from heapq.merge(*several, key=_id_of, reverse=query.newest_first)
    finally:
        for each in several:
            each.close()


def _statement(query: LogQuery, of_partition: str) -> str:
    """One with the conditions that are there, so that an index is used for them; values are bound."""
    conditions = [of_partition]
    if query.after_id is not None:
        conditions.append("AND id > :after_id")
    if query.from_us is not None:
        conditions.append("AND id >= :from_us AND id - delay >= :from_us")
    if query.to_us is not None:
        conditions.append("AND id - delay <= :to_us")
    if _asks_for_sites(query):
        conditions.append("AND site IN (SELECT value FROM json_each(:sites))")
    order = "DESC" if query.newest_first else "ASC"
    where = " ".join(filter(None, conditions))
    return f"{_COLUMNS} WHERE true {where} ORDER BY id {order}"


def _values(transaction: Transaction, query: LogQuery) -> dict[str, Value]:
    values: dict[str, Value] = {"after_id": query.after_id, "from_us": query.from_us, "to_us": query.to_us}
    if _asks_for_sites(query):
        rows = transaction.rows("SELECT number, severity, level, module, file FROM sites")
        values["sites"] = msgspec.json.encode([number for number, *site in rows if _is_wanted(query, *site)]).decode()
    return {name: value for name, value in values.items() if value is not None}


def _asks_for_sites(query: LogQuery) -> bool:
    return any(each is not None for each in (query.levels, query.level, query.modules, query.files))


def _is_wanted(query: LogQuery, severity: int, level: str, module: str, file: str) -> bool:
    if query.level is not None and severity < severity_of(query.level):
        return False
    if query.levels is not None and _word(level) not in {_word(each) for each in query.levels}:
        return False
    if query.modules is not None and not any(each in module for each in query.modules):
        return False
    return query.files is None or any(each in file for each in query.files)


def _word(level: str) -> str:
    return _WORDS.get(level.upper(), level.upper())


class _Names:
    """What the numbers in rows stand for, each looked up once."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._known: dict[tuple[str, int], Row] = {}

    def of(self, sql: str, number: int, missing: Row) -> Row:
        found = self._known.get((sql, number))
        if found is None:
            found = self._known[sql, number] = self._transaction.row(sql, {"number": number}) or missing
        return found


def _line(row: Row, names: _Names, bodies: Bodies) -> Line | None:
    number, segment, offset, delay, _site, _partition = row
    path, _process = names.of(_SEGMENT, segment, ("", ""))
    return bodies.line(path, offset, number - delay)


def _record(row: Row, line: Line, names: _Names) -> LogRecord:
    number, segment, _offset, _delay, site, partition = row
    _path, process = names.of(_SEGMENT, segment, ("", ""))
    level, target, module, file, place = names.of(_SITE, site, ("", "", "", "", 0))
    (thread,) = names.of(_THREAD, partition, ("",))
    return LogRecord(
        id=number,
        timestamp=line.timestamp,
        level=level,
        target=target,
        body=line.payload.body,
        thread_id=thread or None,
        process_uuid=process,
        module=module or None,
        file=file or None,
        line=place or None,
        cut=line.payload.cut,
        dropped=line.payload.dropped,
    )


def _threads(transaction: Transaction, thread_ids: Iterable[str]) -> list[int]:
    values = {"ids": msgspec.json.encode([each.lower() for each in thread_ids]).decode()}
    return sorted(number for (number,) in transaction.rows(_OF_THREADS, values))


def _id_of(row: Row) -> int:
    number: int = row[0]
    return number


_COLUMNS = 'SELECT id, segment, "offset", delay, site, partition FROM logs'
_SEGMENT = "SELECT path, process FROM segments WHERE number = :number"
_SITE = "SELECT level, target, module, file, line FROM sites WHERE number = :number"
_THREAD = "SELECT thread FROM partitions WHERE number = :number"
_OF_THREADS = """
    SELECT number FROM partitions WHERE thread IN (SELECT value FROM json_each(:ids)) AND thread <> ''
"""
_OF_PROCESS = "SELECT number FROM partitions WHERE thread = '' AND process = :process"
_LATEST_PROCESS = """
    SELECT process FROM segments WHERE number = (
        SELECT segment FROM logs WHERE partition = :partition ORDER BY id DESC LIMIT 1)
"""
