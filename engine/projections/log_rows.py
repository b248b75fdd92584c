"""The rows of the table of logs: written, bounded and removed, each time with the counters of the partitions they are in.

Counters spare counting: whether a partition is over its bounds is seen in its own row, and its oldest rows are the first of its
part of the index. Rows that would be removed in the same transaction are not written at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from engine.events.log_lines import Site, is_below, severity_of
from engine.options import Options
from engine.projections.log_lines import Entry, Reading
from engine.stores.sqlite import Database, Transaction, Value

SITES_MAX = 20_000
"""Beyond it sites without rows are removed; targets or files that are made up as a program runs could else be endless."""

_REMOVED_AT_ONCE = 5_000
_PAGES_AT_ONCE = 64
_PAGES_KEPT_SHARE = 8
"""One free page in so many, and one step's more, is left for the next rows."""


class Overtaken(Exception):
    """Another process followed the same segment meanwhile; nothing was written."""


class _Partition(NamedTuple):
    number: int | None
    rows: int
    bytes: int


class Bounds(Struct, frozen=True):
    """Which records get rows, and for how long they keep them: options of the same names without `log_`."""

    levels: tuple[tuple[str, str], ...]
    partition_rows_max: int
    partition_bytes_max: int
    rows_max: int
    age_s_max: int


def bounds_of(options: Options) -> Bounds:
    """What these options ask for."""
    return Bounds(**{name: getattr(options, f"log_{name}") for name in Bounds.__struct_fields__})


class RowWriter:
    """Writes batches of entries. Remembers the numbers of sites, as far as nobody removed any."""

    def __init__(self, options: Options) -> None:
        self.bounds = self._asked = bounds_of(options)
        self._sites: dict[Site, int] = {}
        self._passing: dict[Site, bool] = {}
        self._remembered_of = (0, 0)
        """Of which file the numbers are, and from after how many removals of sites."""

    def write(self, transaction: Transaction, batch: Sequence[Entry], *, opened: int) -> None:
        """Rows for what passes, and how far each segment is followed; `opened` tells one file from the next.

        Raises `Overtaken`.
        """
        try:
            self._write(transaction, batch, opened)
        except BaseException:
            self._sites.clear()  # what was given a number may not have been committed
            raise

    def _write(self, transaction: Transaction, batch: Sequence[Entry], opened: int) -> None:
        last_id, cleanups = transaction.row(_FILLED) or (0, 0)
        if self._remembered_of != (opened, cleanups):
            self._sites.clear()
            self._remembered_of = (opened, cleanups)
        for reading in {id(entry.segment): entry.segment for entry in batch}.values():
            if reading.number is None:
                _add_segment(transaction, reading)
        kept, cut = self._fitting([entry for entry in batch if entry.site is not None and self._passes(entry.site)])
        numbers = self._partitions(transaction, kept, cut)
        known = len(self._sites)
        rows: list[dict[str, Value]] = []
        for entry, partition in kept:
            last_id = max(last_id + 1, entry.at_us)
            rows.append(
                {
                    "id": last_id,
                    "segment": entry.segment.number,
                    "offset": entry.offset,
                    "delay": last_id - entry.at_us,
                    "site": self._site(transaction, entry.site),
                    "partition": numbers[partition],
                    "bytes": entry.bytes,
                }
            )
        if rows:
            transaction.run_many(_INSERT, rows)
        _advance(transaction, batch, rows)
        transaction.run(_FILLED_NOW, {"last_id": last_id})
        if len(self._sites) > known and (transaction.row("SELECT count(*) FROM sites") or (0,))[0] > SITES_MAX:
            transaction.run(_DROP_SITES)
            transaction.run(_CLEANED)

    def agree(self, database: Database) -> None:
        """Take the bounds of whoever asked for other than the usual ones, or say those that we were asked for.

        A tool that looks on with the usual options takes nothing from an application that keeps more.
        """
        with database.read() as transaction:
            (told,) = transaction.row(_BOUNDS) or ("",)
        self.bounds = self._asked
        if self._asked == bounds_of(Options()):
            with contextlib.suppress(msgspec.DecodeError):
                self.bounds = msgspec.json.decode(told, type=Bounds) if told else self._asked
        elif told != (asked := msgspec.json.encode(self._asked).decode()):
            with database.write() as transaction:
                transaction.run(_BOUNDS_ARE, {"bounds": asked})
        self._passing.clear()

    def drop_segment(self, transaction: Transaction, number: int) -> None:
        """Forget a segment whose file is not the one that was followed: its rows go, and it is followed anew."""
        while not _remove_segment(transaction, number):
            pass

    def forget(self, database: Database, thread_ids: Sequence[str]) -> None:
        """Remove the rows of these threads."""
        values = {"ids": msgspec.json.encode([each.lower() for each in thread_ids]).decode()}
        with database.write() as transaction:
            transaction.run(_FORGET_ROWS, values)
            transaction.run(_FORGET_PARTITIONS, values)

    # What gets a row

    def _passes(self, site: Site) -> bool:
        """Whether the filter lets records of this site have rows: the longest target that fits decides."""
        found = self._passing.get(site)
        if found is None:
            if len(self._passing) > SITES_MAX:
                self._passing.clear()
            fitting = [each for each in self.bounds.levels if is_below(site.target, each[0])]
            level = max(fitting, key=lambda each: len(each[0]))[1] if fitting else "INFO"
            found = self._passing[site] = level.upper() != "OFF" and site.severity >= severity_of(level)
        return found

    def _fitting(self, passing: Sequence[Entry]) -> tuple[list[tuple[Entry, tuple[str, str]]], set[tuple[str, str]]]:
        """The newest of each partition that its bounds leave room for, in their order, and where others found none."""
        rows: dict[tuple[str, str], list[int]] = {}
        kept, cut = [], set()
        for entry in reversed(passing):
            partition = (entry.thread, "" if entry.thread else entry.segment.segment.process)
            counted = rows.setdefault(partition, [0, 0])
            counted[0] += 1
            counted[1] += entry.bytes
            if counted[0] == 1 or not self._is_over(*counted):
                kept.append((entry, partition))
            else:
                cut.add(partition)
        return kept[::-1], cut

    def _is_over(self, rows: int, size: int) -> bool:
        return rows > self.bounds.partition_rows_max or size > self.bounds.partition_bytes_max

    def _partitions(
        self, transaction: Transaction, kept: Sequence[tuple[Entry, tuple[str, str]]], cut: set[tuple[str, str]]
    ) -> dict[tuple[str, str], int]:
        """Their numbers; those that come over their bounds with these rows lose their oldest.

        Where one that came found no room, what is older than it goes, too: the rows are the newest, without a gap.
        """
        coming: dict[tuple[str, str], list[int]] = {}
        for entry, partition in kept:
            counted = coming.setdefault(partition, [0, 0])
            counted[0] += 1
            counted[1] += entry.bytes
        numbers = {}
        for partition, (rows, size) in coming.items():
            named: dict[str, Value] = {"thread": partition[0], "process": partition[1]}
            found = _Partition(*(transaction.row(_PARTITION, named) or (None, 0, 0)))
            if found.number is None:
                (number,) = transaction.row(_ADD_PARTITION, named) or (None,)
                found = _Partition(number, 0, 0)
            assert found.number is not None
            left = self._make_room(transaction, found, rows, size, whole=partition in cut)
            values: dict[str, Value] = {"number": found.number, "rows": left.rows + rows, "bytes": left.bytes + size}
            transaction.run(_COUNT, values)
            numbers[partition] = found.number
        return numbers

    def _make_room(
        self, transaction: Transaction, found: _Partition, rows: int, size: int, *, whole: bool
    ) -> _Partition:
        """What is left of a partition's rows once so many are to come."""
        old_rows, old_bytes = found.rows, found.bytes
        last_id = None
        if whole or self._is_over(old_rows + rows, old_bytes + size):
            oldest = transaction.rows(_OLDEST, {"number": found.number})
            while whole or self._is_over(old_rows + rows, old_bytes + size):
                row = next(oldest, None)
                if row is None:
                    break
                last_id = row[0]
                old_rows, old_bytes = old_rows - 1, old_bytes - row[1]
            oldest.close()
        if last_id is not None:
            transaction.run(_DROP_OLDEST, {"number": found.number, "id": last_id})
        return _Partition(found.number, old_rows, old_bytes)

    def _site(self, transaction: Transaction, site: Site | None) -> int:
        assert site is not None
        number = self._sites.get(site)
        if number is None:
            values: dict[str, Value] = {
                "severity": site.severity,
                "level": site.level,
                "target": site.target,
                "module": site.module or "",
                "file": site.file or "",
                "line": site.line or 0,
            }
            (number,) = transaction.row(_SITE, values) or transaction.row(_ADD_SITE, values) or (0,)
            self._sites[site] = number
        return number


def remove_superfluous(transaction: Transaction, gone: Sequence[int], now_ms: int, bounds: Bounds) -> bool:
    """Remove some rows: of segments that are gone, too old, or too many in all; whether there are no more."""
    for number in gone:
        if not _remove_segment(transaction, number):
            return False
    cutoff_us = (now_ms - bounds.age_s_max * 1000) * 1000
    if _remove(transaction, _DROP_OLD, {"cutoff": cutoff_us, "limit": _REMOVED_AT_ONCE}) == _REMOVED_AT_ONCE:
        return False
    total: int = (transaction.row(_TOTAL) or (0,))[0]
    extra = min(max(total - bounds.rows_max, 0), _REMOVED_AT_ONCE)
    if extra:
        _remove(transaction, _DROP_FIRST, {"limit": extra})
    return extra < _REMOVED_AT_ONCE


def vacuum(transaction: Transaction) -> bool:
    """Give some free pages back to the file system; whether no more are to be given back, or can be."""
    free = _pages(transaction, "freelist_count")
    spare = free - _pages(transaction, "page_count") // _PAGES_KEPT_SHARE - _PAGES_AT_ONCE
    if spare <= 0:
        return True
    transaction.run(f"PRAGMA incremental_vacuum({min(spare, _PAGES_AT_ONCE)})")
    return spare <= _PAGES_AT_ONCE or _pages(transaction, "freelist_count") >= free


def _pages(transaction: Transaction, name: str) -> int:
    count: int = (transaction.row(f"PRAGMA {name}") or (0,))[0]
    return count


def _add_segment(transaction: Transaction, reading: Reading) -> None:
    segment = reading.segment
    values: dict[str, Value] = {
        "path": segment.path,
        "process": segment.process,
        "device": segment.stat.device,
        "inode": segment.stat.inode,
    }
    row = transaction.row(_ADD_SEGMENT, values)
    if row is None:
        raise Overtaken
    reading.number = row[0]


def _advance(transaction: Transaction, batch: Sequence[Entry], rows: Iterable[dict[str, Value]]) -> None:
    """How far each segment is followed now, where it was followed as far as we thought."""
    span: dict[Value, tuple[Value, Value]] = {}
    for row in rows:
        span[row["segment"]] = (span.get(row["segment"], (row["id"], None))[0], row["id"])
    moved: dict[int, dict[str, Value]] = {}
    for entry in batch:
        reading = entry.segment
        assert reading.number is not None
        values = moved.get(reading.number)
        if values is None:
            first_id, last_id = span.get(reading.number, (None, None))
            values = moved[reading.number] = {
                "number": reading.number,
                "before": reading.filled,
                "offset": reading.filled,
                "first_id": first_id,
                "last_id": last_id,
                "records": 0,
                "dropped": 0,
                "damaged": 0,
            }
        values["offset"] = entry.end
        values["records"] += entry.site is not None  # type: ignore[operator]
        values["dropped"] += entry.dropped  # type: ignore[operator]
        values["damaged"] += entry.damaged  # type: ignore[operator]
    for values in moved.values():
        if not transaction.run(_ADVANCE, values):
            raise Overtaken
    for entry in batch:
        entry.segment.filled = entry.end


def _remove_segment(transaction: Transaction, number: int) -> bool:
    """Remove some rows of a segment, and its own with the last of them; whether that was all."""
    if _remove(transaction, _DROP_OF_SEGMENT, {"number": number, "limit": _REMOVED_AT_ONCE}) == _REMOVED_AT_ONCE:
        return False
    transaction.run("DELETE FROM segments WHERE number = :number", {"number": number})
    return True


def _remove(transaction: Transaction, sql: str, values: dict[str, Value]) -> int:
    """Run a removal that tells partition and bytes of each row; how many rows went."""
    counts: dict[int, list[int]] = {}
    removed = 0
    for partition, size in list(transaction.rows(sql, values)):
        counted = counts.setdefault(partition, [0, 0])
        counted[0] += 1
        counted[1] += size
        removed += 1
    for number, (rows, size) in counts.items():
        transaction.run(_COUNT_OFF, {"number": number, "rows": rows, "bytes": size})
        transaction.run("DELETE FROM partitions WHERE number = :number AND rows <= 0", {"number": number})
    return removed


_FILLED = "SELECT last_id, cleanups FROM filled WHERE id = 1"
_FILLED_NOW = "UPDATE filled SET last_id = :last_id WHERE id = 1"
_CLEANED = "UPDATE filled SET cleanups = cleanups + 1 WHERE id = 1"
_BOUNDS = "SELECT bounds FROM filled WHERE id = 1"
_BOUNDS_ARE = "UPDATE filled SET bounds = :bounds WHERE id = 1"
_TOTAL = "SELECT coalesce(sum(rows), 0) FROM partitions"

_ADD_SEGMENT = """
    INSERT INTO segments (path, process, device, inode, "offset", records, dropped, damaged)
    VALUES (:path, :process, :device, :inode, 0, 0, 0, 0) ON CONFLICT (path) DO NOTHING RETURNING number
"""

_ADVANCE = """
    UPDATE segments SET "offset" = :offset, first_id = coalesce(first_id, :first_id), last_id = coalesce(:last_id, last_id),
        records = records + :records, dropped = dropped + :dropped, damaged = damaged + :damaged
    WHERE number = :number AND "offset" = :before
"""

_SITE = """
    SELECT number FROM sites WHERE target = :target AND file = :file AND line = :line AND level = :level
    AND severity = :severity AND module = :module
"""
_ADD_SITE = """
    INSERT INTO sites (severity, level, target, module, file, line)
    VALUES (:severity, :level, :target, :module, :file, :line) RETURNING number
"""
_DROP_SITES = "DELETE FROM sites WHERE number NOT IN (SELECT site FROM logs)"

_PARTITION = "SELECT number, rows, bytes FROM partitions WHERE thread = :thread AND process = :process"
_ADD_PARTITION = """
    INSERT INTO partitions (thread, process, rows, bytes) VALUES (:thread, :process, 0, 0) RETURNING number
"""
_COUNT = "UPDATE partitions SET rows = :rows, bytes = :bytes WHERE number = :number"
_COUNT_OFF = "UPDATE partitions SET rows = rows - :rows, bytes = bytes - :bytes WHERE number = :number"

_INSERT = """
    INSERT INTO logs (id, segment, "offset", delay, site, partition, bytes)
    VALUES (:id, :segment, :offset, :delay, :site, :partition, :bytes)
"""

_OLDEST = "SELECT id, bytes FROM logs WHERE partition = :number ORDER BY id"
_DROP_OLDEST = "DELETE FROM logs WHERE partition = :number AND id <= :id"
_DROP_OLD = """
    DELETE FROM logs WHERE id IN (SELECT id FROM logs WHERE id < :cutoff ORDER BY id LIMIT :limit)
    RETURNING partition, bytes
"""
_DROP_FIRST = """
    DELETE FROM logs WHERE id IN (SELECT id FROM logs ORDER BY id LIMIT :limit) RETURNING partition, bytes
"""
_DROP_OF_SEGMENT = """
    DELETE FROM logs WHERE id IN (
        SELECT id FROM logs WHERE segment = :number
        AND id BETWEEN (SELECT first_id FROM segments WHERE number = :number)
        AND (SELECT last_id FROM segments WHERE number = :number) LIMIT :limit)
    RETURNING partition, bytes
"""

_FORGET_ROWS = """
    DELETE FROM logs WHERE partition IN (
        SELECT number FROM partitions WHERE thread IN (SELECT value FROM json_each(:ids)))
"""
_FORGET_PARTITIONS = "DELETE FROM partitions WHERE thread IN (SELECT value FROM json_each(:ids))"
