"""Write what a fold of what was said comes to: messages and their words, in the order of the records.

The words of a message go with its row (by a trigger of the schema), whichever way the row goes. Which part of a rollout its
thread shows follows from all rollouts of the thread that are here, so it is worked out anew whenever one comes or goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.projections.side_tables import StreamTable
from engine.projections.threads import Candidate, head_of
from engine.projections.turn_places import OFFSET_END
from engine.projections.turn_state import Begun, RolledBack

if TYPE_CHECKING:
    from engine.stores.sqlite import Transaction

USER, AGENT = 1, 2
"""Who said it, as it is stored."""

TABLES = ("texts", "turns")
STREAM_TABLES = (
    StreamTable("texts", "rollout", numbered=True, local=2),
    StreamTable("turns", "rollout", numbered=True, local=1),
    StreamTable("rollouts", "path", local=2),  # behind those that it gives numbers to
)


class TextSaid(NamedTuple):
    """A message is told of; with `again` by a newer record than the one at `offset`. `role` 0 is one that does not count."""

    offset: int
    said_offset: int
    length: int
    role: int
    ordinal: int | None
    created_at_ms: int | None
    turn: int | None
    again: bool
    text: str


OPERATIONS: tuple[type[tuple[Any, ...]], ...] = (TextSaid, Begun, RolledBack)
"""What is emitted of an operation begins with its place here."""


class Rollout(NamedTuple):
    """The columns of a rollout's row."""

    path: str
    thread_id: str
    rollout_id: str
    base_rollout_id: str | None
    base_end: int | None
    archived: bool


class Written(NamedTuple):
    """What a piece of a rollout came to; with `anew` it takes the place of all that was written for it before."""

    rollout: Rollout
    operations: Sequence[Any]
    anew: bool


def write_rollouts(transaction: Transaction, pieces: Sequence[Written]) -> None:
    """Write what pieces of several rollouts came to, many rows a statement."""
    forget_rollouts(transaction, [each.rollout.path for each in pieces if each.anew])
    numbers = _ensure(transaction, [each.rollout for each in pieces])
    stretch: list[tuple[int, Begun | TextSaid]] = []
    for piece in pieces:
        number = numbers[piece.rollout.path]
        for operation in piece.operations:
            if isinstance(operation, RolledBack):
                _write_stretch(transaction, stretch)
                stretch = []
                _roll_back(transaction, number, operation)
            else:
                stretch.append((number, operation))
    _write_stretch(transaction, stretch)


def forget_rollouts(transaction: Transaction, paths: Sequence[str]) -> None:
    """Remove all rows of these rollouts, and let their threads show what is left."""
    named = {"paths": msgspec.json.encode(list(paths)).decode()}
    known = list(transaction.rows(_KNOWN, named))
    for table in TABLES:
        transaction.run_many(f"DELETE FROM {table} WHERE rollout = ?", [(number,) for number, _ in known])  # noqa: S608
    transaction.run_many("DELETE FROM rollouts WHERE number = ?", [(number,) for number, _ in known])
    if known:
        _show(transaction, {thread_id for _, thread_id in known})


def _ensure(transaction: Transaction, rollouts: Sequence[Rollout]) -> dict[str, int]:
    """The rollouts' numbers; their rows are there, and say what is known of them now."""
    named = {"paths": msgspec.json.encode([each.path for each in rollouts]).decode()}
    known = {path: (number, *more) for number, path, *more in transaction.rows(_NUMBERED, named)}
    moved = [each for each in rollouts if known.get(each.path, ())[1:] != (*each[1:-1], int(each.archived))]
    if not moved:
        return {path: row[0] for path, row in known.items()}
    transaction.run_many(_PUT, [(OFFSET_END, *each) for each in moved])
    _show(
        transaction, {each.thread_id for each in moved} | {known[each.path][1] for each in moved if each.path in known}
    )
    return {path: number for number, path, *_ in transaction.rows(_NUMBERED, named)}


def _show(transaction: Transaction, thread_ids: Iterable[str]) -> None:
    """Note which part of each of these threads' rollouts it shows."""
    threads: dict[str, list[Standing]] = {}
    named = {"ids": msgspec.json.encode(sorted(thread_ids)).decode()}
    for thread_id, *row in transaction.rows(_OF_THREADS, named):
        threads.setdefault(thread_id, []).append(Standing(*row))
    moved = [
        (end, each.number)
        for rollouts in threads.values()
        for each, end in zip(rollouts, shown_ends(rollouts).values(), strict=True)
        if each.shown_end != end
    ]
    transaction.run_many("UPDATE rollouts SET shown_end = ? WHERE number = ?", moved)


class Standing(NamedTuple):
    """A rollout among those of its thread."""

    number: int
    path: str
    rollout_id: str
    base_rollout_id: str | None
    base_end: int | None
    shown_end: int


def shown_ends(rollouts: Sequence[Standing]) -> dict[int, int]:
    """Where a thread leaves each of its rollouts: its head, and what that goes on from; 0 for the others."""
    ends = dict.fromkeys((each.number for each in rollouts), 0)
    if not rollouts:
        return ends
    head = head_of([Candidate(each.path, each.rollout_id, each.base_rollout_id, False) for each in rollouts]).path
    chain, end = [each for each in rollouts if each.path == head], OFFSET_END
    while chain and not ends[chain[0].number]:
        ends[chain[0].number] = end
        end = OFFSET_END if chain[0].base_end is None else chain[0].base_end
        base = chain[0].base_rollout_id
        # Of two copies of a rollout the active one.
        chain = sorted((each for each in rollouts if each.rollout_id == base), key=lambda each: each.path, reverse=True)
    return ends


def _write_stretch(transaction: Transaction, operations: Sequence[tuple[int, Begun | TextSaid]]) -> None:
    """Operations, of any rollouts, between which nothing was rolled back."""
    turns = [(number, each.offset, each.turn, each.id) for number, each in operations if isinstance(each, Begun)]
    transaction.run_many(_BEGIN, turns)
    texts = [(number, each) for number, each in operations if isinstance(each, TextSaid)]
    _add(transaction, [each for each in texts if not each[1].again])
    for number, each in texts:
        if each.again:
            _say_again(transaction, number, each)


def _add(transaction: Transaction, texts: Sequence[tuple[int, TextSaid]]) -> None:
    """Messages, each with the number of its rollout."""
    (last,) = transaction.row("SELECT coalesce(max(id), 0) FROM texts") or (0,)
    numbered = list(enumerate(texts, last + 1))
    transaction.run_many(_ADD, [(each_id, number, *each[:-2]) for each_id, (number, each) in numbered])
    transaction.run_many(_ADD_WORDS, [(each_id, each.text) for each_id, (_, each) in numbered])


def _say_again(transaction: Transaction, number: int, said: TextSaid) -> None:
    """What it says now takes the place of what it said; when it was begun stays."""
    at = {"rollout": number, "offset": said.offset}
    row = transaction.row(_AT, at)
    transaction.run('DELETE FROM texts WHERE rollout = :rollout AND "offset" = :offset', at)
    if said.role:
        first = said if row is None else said._replace(ordinal=row[0], created_at_ms=row[1], turn=row[2])
        _add(transaction, [(number, first)])


def _roll_back(transaction: Transaction, number: int, rollback: RolledBack) -> None:
    """Remove the last turns, and what was said in them."""
    if rollback.turns <= 0:
        return
    values: dict[str, Any] = {"rollout": number}
    row = transaction.row(_LAST_TURN, {**values, "skipped": rollback.turns - 1})
    values["start"] = -1 if row is None else row[0]
    for sql in _REMOVE_FROM:
        transaction.run(sql, values)


_KNOWN = "SELECT number, thread_id FROM rollouts WHERE path IN (SELECT value FROM json_each(:paths))"

_NUMBERED = """
    SELECT number, path, thread_id, rollout_id, base_rollout_id, base_end, archived FROM rollouts
    WHERE path IN (SELECT value FROM json_each(:paths))
"""

_PUT = """
    INSERT INTO rollouts (shown_end, path, thread_id, rollout_id, base_rollout_id, base_end, archived)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (path) DO UPDATE SET thread_id = excluded.thread_id, rollout_id = excluded.rollout_id,
    base_rollout_id = excluded.base_rollout_id, base_end = excluded.base_end, archived = excluded.archived
"""

_OF_THREADS = """
    SELECT thread_id, number, path, rollout_id, base_rollout_id, base_end, shown_end FROM rollouts
    WHERE thread_id IN (SELECT value FROM json_each(:ids)) ORDER BY path
"""

_BEGIN = 'INSERT OR REPLACE INTO turns (rollout, "offset", turn, id) VALUES (?, ?, ?, ?)'

_ADD = """
    INSERT INTO texts (id, rollout, "offset", said_offset, length, role, ordinal, created_at_ms, turn)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_ADD_WORDS = "INSERT INTO words (rowid, text) VALUES (?, ?)"

_AT = 'SELECT ordinal, created_at_ms, turn FROM texts WHERE rollout = :rollout AND "offset" = :offset'

_LAST_TURN = """
    SELECT "offset" FROM turns WHERE rollout = :rollout ORDER BY "offset" DESC LIMIT 1 OFFSET :skipped
"""

_REMOVE_FROM = (
    """DELETE FROM texts WHERE rollout = :rollout AND turn IN (
        SELECT turn FROM turns WHERE turns.rollout = :rollout AND turns."offset" >= :start
    )""",
    'DELETE FROM texts WHERE rollout = :rollout AND "offset" >= :start AND turn IS NULL',
    'DELETE FROM turns WHERE rollout = :rollout AND "offset" >= :start',
)
