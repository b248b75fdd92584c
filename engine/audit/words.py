"""The index of what was said, beyond its rows: whether it has the words of each message, and what a thread shows of it.

The rows of messages are compared as those of any side database. What stands beside them is compared here, each rollout's in
a snapshot of its own: each message has words and no words are of none, they are as many as its record has and begin as it
does, each rollout is shown as far as the others of its thread say, and the names are those of the tables of facts. A
record that cannot be read is passed over, since an audit of the files tells of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from engine.audit.findings import REPAIR, WORDS, Finding, finding
from engine.errors import EngineError, StoreError
from engine.events.said import said_in
from engine.projections.fold import Folder
from engine.projections.search import searched
from engine.projections.search_names import all_names, followed_mark, mark_of_names
from engine.projections.search_rows import Standing, shown_ends
from engine.projections.side import Parts, Side
from engine.projections.threads import stream_of
from engine.stores import watermarks
from engine.stores.bodies import Bodies
from engine.stores.digests import id_digest
from engine.stores.layout import locate
from engine.stores.lineage import open_rollout
from engine.stores.sqlite import Database, Transaction
from engine.stores.words import Words

_REBUILD = "rolloutdb rebuild --projection search"
_PROBED = 4
"""How many words of a message are looked up, as a phrase."""


class _Stored(NamedTuple):
    """A message as the index has it. `size` is the number of its words as FTS5 writes it; None where it has none."""

    path: str
    thread_id: str
    id: int
    offset: int
    length: int
    size: bytes | None


def word_findings(parts: Parts, side: Side, state: Database) -> Iterator[Finding]:
    """Every difference; nothing where there is no index, and where it cannot be read somebody else tells so."""
    try:
        if not side.is_there:
            return
        database = side.database()
        with database.read() as transaction:
            yield from _unnamed(transaction)
        yield from _messages(parts, side, database)
        with database.read() as transaction:
            yield from _shown(transaction)
            yield from _names(transaction, state)
    except StoreError:
        return


def _unnamed(transaction: Transaction) -> Iterator[Finding]:
    (count,) = transaction.row(_NOBODYS) or (0,)
    if count:
        yield _wrong(f"{count} entries of words are of no message and no name", None, None)


def _messages(parts: Parts, side: Side, database: Database) -> Iterator[Finding]:
    with database.read() as transaction:
        paths = [path for (path,) in transaction.rows("SELECT path FROM rollouts ORDER BY path")]
    with Words() as words, Bodies(parts.home, options=parts.options, files=parts.files) as bodies:
        for path in paths:
            with database.read() as transaction:
                rows = [_Stored(*row) for row in transaction.rows(_STORED, {"path": path})]
                wrong = [each for each in rows if not _has_its_words(parts, transaction, each, words, bodies)]
                with contextlib.suppress(OSError):  # what was read counts, whatever becomes of the descriptor
                    bodies.close()
                if wrong and not _is_followed(parts, side, transaction, path):
                    wrong = []
            if wrong:
                yield _wrong(
                    f"the words of {len(wrong)} messages are not what the rollout says", path, wrong[0].thread_id
                )


def _is_followed(parts: Parts, side: Side, transaction: Transaction, path: str) -> bool:
    """Whether the rollout still begins with the bytes that the index is of: a history that was rewritten is lag."""
    (projection,) = side.projections
    mark = watermarks.load(transaction, [path]).get(path, {}).get(projection.name)
    try:
        found = locate(parts.home, path, parts.files)
        if found is None or mark is None or mark.version != projection.version:
            return False
        folder = Folder([projection], parts.options, decode=side.decode)
        with contextlib.closing(open_rollout(parts.home, found, parts.options, parts.files)) as source:
            (folded,) = folder.fold(stream_of(path), source, {}, compressed=found.compressed, end=mark.offset)
    except (EngineError, OSError):
        return False
    return (folded.mark.offset, folded.mark.chain, folded.mark.tail) == (mark.offset, mark.chain, mark.tail)


def _has_its_words(parts: Parts, transaction: Transaction, row: _Stored, words: Words, bodies: Bodies) -> bool:
    if not isinstance(row.size, bytes):  # FTS5 declares no types, so SQLite's own check takes a damaged one for another
        return False
    try:
        found = locate(parts.home, row.path, parts.files)
        text = None if found is None else said_in(bodies.read(found, row.offset, row.length))
    except (EngineError, ValueError, OSError):
        return True
    if text is None:
        return True  # the rollout says something else now: that is lag
    spelt = [each.word for each in words.of(searched(text))]
    if _number(row.size) != len(spelt):
        return False
    probe = " ".join(spelt[:_PROBED])
    return not spelt or transaction.row(_PROBE, {"match": f'"{probe}"', "id": row.id}) is not None


def _shown(transaction: Transaction) -> Iterator[Finding]:
    for (thread_id,) in list(transaction.rows("SELECT DISTINCT thread_id FROM rollouts ORDER BY thread_id")):
        rows = [Standing(*row) for row in transaction.rows(_STANDING, {"thread_id": thread_id})]
        ends = shown_ends(rows)
        for row in rows:
            if row.shown_end != ends[row.number]:
                message = "another part of the rollout is searched than its thread shows"
                yield _wrong(message, row.path, thread_id, table="rollouts")


def _names(transaction: Transaction, state: Database) -> Iterator[Finding]:
    with state.read() as facts:
        if followed_mark(transaction) != mark_of_names(facts):
            return  # the next search follows them
        wanted = {each.thread_id: (id_digest(each.name), each.named_at_ms) for each in all_names(facts)}
    there = {thread_id: (name, at_ms) for thread_id, name, at_ms in transaction.rows(_NAMED)}
    for thread_id in sorted(wanted.keys() | there.keys()):
        if wanted.get(thread_id) != there.get(thread_id):
            yield _wrong("its name is not that of the tables of facts", None, thread_id)


def _number(data: bytes) -> int:
    """A number as SQLite writes it in few bytes."""
    value = 0
    for place, byte in enumerate(data):
        if place == 8:
            return value << 8 | byte
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            break
    return value


def _wrong(message: str, path: str | None, thread_id: str | None, *, table: str = WORDS) -> Finding:
    """What is of a rollout is mended by a repair; names, and words of nobody, by a rebuild."""
    mend = _REBUILD if path is None else REPAIR
    return finding(
        "wrong_rows", f"search: {message}", path=path, thread_id=thread_id, field=f"search.{table}", mend=mend
    )


_NOBODYS = """
    SELECT count(*) FROM words_docsize
    WHERE id NOT IN (SELECT id FROM texts) AND id NOT IN (SELECT id FROM names)
"""

_STORED = """
    SELECT path, thread_id, texts.id, said_offset, length, words_docsize.sz
    FROM rollouts CROSS JOIN texts ON texts.rollout = rollouts.number
    LEFT JOIN words_docsize ON words_docsize.id = texts.id WHERE path = :path ORDER BY said_offset
"""

_PROBE = "SELECT 1 FROM words WHERE words MATCH :match AND words.rowid = :id"

_STANDING = """
    SELECT number, path, rollout_id, base_rollout_id, base_end, shown_end FROM rollouts
    WHERE thread_id = :thread_id ORDER BY path
"""

_NAMED = """
    SELECT names.thread_id, names.name, names.named_at_ms FROM names
    WHERE names.id IN (SELECT id FROM words_docsize)
"""
