"""How far a projection has followed a stream, and which history it followed.

A watermark names a position (offset, ordinal) and the bytes before it (chain and tail digests), with the file's stat as a
short cut. It moves only in the transaction that moves the rows, by compare-and-swap on the one that was folded from; a
watermark that changed meanwhile means: fold again. It is never final: `judge_history` tells what became of the file
since, so a restored, replaced, moved, re-timed or rewritten file is seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from engine.stores.digests import BLOCK_BYTES, Chain, tail_digest
from engine.stores.files import FileStat

if TYPE_CHECKING:
    from engine.stores.rollouts import Source
    from engine.stores.sqlite import Transaction


class Watermark(Struct, frozen=True, array_like=True, gc=False):
    """A position in one stream for one projection, with the fold's state there.

    `offset` is in plain bytes: behind a line's LF, or behind a whole last record without one.
    """

    version: int
    offset: int
    ordinal: int | None
    chain: bytes
    tail: bytes
    stat: FileStat
    state: bytes


def unfinished(stat: FileStat) -> FileStat:
    """The stat of a watermark that is not at the end of what was there: it passes for an earlier one of a file that grew."""
    return stat._replace(size=0)


def is_unfinished(mark: Watermark) -> bool:
    """Whether more of the stream was there when it was folded up to this watermark."""
    return mark.stat.size == 0 and mark.offset > 0


class History(Enum):
    """What became of the bytes that a watermark followed."""

    SAME = "same"
    REWRITTEN = "rewritten"
    TRUNCATED = "truncated"


def judge_history(source: Source, mark: Watermark) -> History:
    """Compare a file with what was followed.

    Same stat: nothing is read. Grown in place: the tail is checked (some µs). Anything else: the whole chain is computed again.
    """
    if source.stat == mark.stat:
        return History.SAME
    tail_start = max(0, mark.offset - BLOCK_BYTES)
    tail = source.read_at(tail_start, mark.offset - tail_start)
    if len(tail) < mark.offset - tail_start:
        return History.TRUNCATED
    if tail_digest(tail) != mark.tail:
        return History.REWRITTEN
    if _grown_in_place(mark.stat, source.stat):
        return History.SAME
    return History.SAME if chain_at(source, mark.offset).digest == mark.chain else History.REWRITTEN


def chain_at(source: Source, offset: int) -> Chain:
    """The digest of a stream's first `offset` bytes, computed from the bytes."""
    chain = Chain()
    at = 0
    while at < offset:
        data = source.read_at(at, min(4 * BLOCK_BYTES, offset - at))
        if not data:
            break
        chain.feed(data, 0, len(data))
        at += len(data)
    return chain


def resume_chain(source: Source, mark: Watermark | None) -> Chain:
    """The digest as it stood at a watermark, ready to go on."""
    if mark is None:
        return Chain()
    whole = mark.offset - mark.offset % BLOCK_BYTES
    return Chain(mark.chain, source.read_at(whole, mark.offset - whole))


def load(transaction: Transaction, streams: Iterable[str]) -> dict[str, dict[str, Watermark]]:
    """The watermarks of these streams: stream, then projection."""
    found: dict[str, dict[str, Watermark]] = {}
    rows = transaction.rows(
        """SELECT stream, projection, version, "offset", ordinal, chain, tail, device, inode, size, mtime_ns, ctime_ns, state
           FROM watermarks WHERE stream IN (SELECT value FROM json_each(:streams))""",
        {"streams": msgspec.json.encode(list(streams)).decode()},
    )
    for stream, projection, version, offset, ordinal, chain, tail, *stat, state in rows:
        mark = Watermark(version, offset, ordinal, chain, tail, FileStat(*stat), state)
        found.setdefault(stream, {})[projection] = mark
    return found


def load_stats(transaction: Transaction) -> dict[str, dict[str, tuple[int, FileStat]]]:
    """Version and stat of every watermark: what a scan needs to pass over unchanged files."""
    known: dict[str, dict[str, tuple[int, FileStat]]] = {}
    for stream, projection, version, *stat in transaction.rows(
        "SELECT stream, projection, version, device, inode, size, mtime_ns, ctime_ns FROM watermarks"
    ):
        known.setdefault(stream, {})[projection] = (version, FileStat(*stat))
    return known


class Kept(NamedTuple):
    """A stream as the tables know it: version and stat by projection, and whether its file is known to be gone."""

    marks: dict[str, tuple[int, FileStat]]
    missing: bool


def load_folder(transaction: Transaction, folder: str, *, keeps_missing: bool) -> tuple[dict[str, Kept], set[str]]:
    """The streams that are known directly in a folder, and the folders in it below which some are (as paths).

    What lies in those is passed over, not read. `keeps_missing` tells whether there is a table of the streams' files.
    """
    streams: dict[str, Kept] = {}
    deeper: set[str] = set()
    start: str | None = f"{folder}/"
    while start is not None:
        start = _load_until_deeper(
            transaction, _IN_FOLDER if keeps_missing else _ALL_IN_FOLDER, folder, start, streams, deeper
        )
    return streams, deeper


def _load_until_deeper(
    transaction: Transaction, sql: str, folder: str, start: str, streams: dict[str, Kept], deeper: set[str]
) -> str | None:
    """Read on from a path; where to go on behind the folder that was met, None at the end."""
    named = {"start": start, "end": f"{folder}{_BEHIND_SLASH}"}
    with contextlib.closing(transaction.rows(sql, named)) as rows:
        for stream, projection, version, missing, *stat in rows:
            name, slash, _ = stream[len(folder) + 1 :].partition("/")
            if slash:
                deeper.add(f"{folder}/{name}")
                return f"{folder}/{name}{_BEHIND_SLASH}"
            streams.setdefault(stream, Kept({}, bool(missing))).marks[projection] = (version, FileStat(*stat))
    return None


def load_below(transaction: Transaction, folder: str, *, keeps_missing: bool) -> list[str]:
    """The streams anywhere below a folder whose files are not known to be gone."""
    named = {"start": f"{folder}/", "end": f"{folder}{_BEHIND_SLASH}"}
    return [stream for (stream,) in transaction.rows(_BELOW if keeps_missing else _ALL_BELOW, named)]


def advance(transaction: Transaction, marks: Iterable[tuple[str, str, Watermark]]) -> None:
    """Store watermarks (stream, projection, mark), new or moved. The caller compared them in this same transaction."""
    transaction.run_many(
        """INSERT INTO watermarks
           (stream, projection, version, "offset", ordinal, chain, tail, device, inode, size, mtime_ns, ctime_ns, state)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
           ON CONFLICT (stream, projection) DO UPDATE SET version = excluded.version, "offset" = excluded."offset",
           ordinal = excluded.ordinal, chain = excluded.chain, tail = excluded.tail, device = excluded.device,
           inode = excluded.inode, size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,
           state = excluded.state""",
        [
            (stream, projection, m.version, m.offset, m.ordinal, m.chain, m.tail, *m.stat, m.state)
            for stream, projection, m in marks
        ],
    )


def drop(transaction: Transaction, streams: Iterable[str]) -> None:
    """Forget streams whose file is gone, for every projection."""
    named = {"streams": msgspec.json.encode(list(streams)).decode()}
    for table in ("watermarks", "set_aside"):
        transaction.run(f"DELETE FROM {table} WHERE stream IN (SELECT value FROM json_each(:streams))", named)  # noqa: S608


def _grown_in_place(then: FileStat, now: FileStat) -> bool:
    return then.device == now.device and then.inode == now.inode and then.size < now.size


_BEHIND_SLASH = chr(ord("/") + 1)
"""What lies in a folder lies between its name with a slash and its name with this."""

_IN_FOLDER = """
    SELECT watermarks.stream, projection, version, streams.missing_since_ms IS NOT NULL,
    device, inode, size, mtime_ns, ctime_ns
    FROM watermarks LEFT JOIN streams ON streams.path = watermarks.stream
    WHERE watermarks.stream >= :start AND watermarks.stream < :end ORDER BY watermarks.stream
"""

_ALL_IN_FOLDER = """
    SELECT stream, projection, version, 0, device, inode, size, mtime_ns, ctime_ns FROM watermarks
    WHERE stream >= :start AND stream < :end ORDER BY stream
"""

_ALL_BELOW = "SELECT DISTINCT stream FROM watermarks WHERE stream >= :start AND stream < :end"

_BELOW = """
    SELECT DISTINCT watermarks.stream FROM watermarks JOIN streams ON streams.path = watermarks.stream
    WHERE watermarks.stream >= :start AND watermarks.stream < :end AND streams.missing_since_ms IS NULL
"""
