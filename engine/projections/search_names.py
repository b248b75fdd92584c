"""The names of threads in the index of what was said: followed from the tables of facts, which have them from two streams.

A name is no record of a rollout, so no fold meets it. The tables of facts say how far they followed their streams; where that
is what the index has noted, its names are those of the tables, else they are compared one by one, and the new ones are
written in one transaction with the note.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.projections.thread_list import named_threads
from engine.stores.digests import id_digest
from engine.stores.words import folded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.stores.sqlite import Transaction


class Named(NamedTuple):
    """A thread's name, and when it was given."""

    thread_id: str
    name: str
    named_at_ms: int


def mark_of_names(state: Transaction) -> bytes:
    """How far the tables of facts have followed what names threads."""
    return msgspec.msgpack.encode([list(row) for row in state.rows(_FOLLOWED)])


def all_names(state: Transaction) -> list[Named]:
    """The names that there are, but those of threads that were erased."""
    return [Named(*row) for row in named_threads(state)]


def followed_mark(transaction: Transaction) -> bytes | None:
    """Up to where the index has the names; None where it does not know."""
    row = transaction.row("SELECT mark FROM names_followed")
    return None if row is None else row[0]


def write_names(transaction: Transaction, names: Sequence[Named], mark: bytes) -> None:
    """Make the names of the index these."""
    there = {thread_id: rest for thread_id, *rest in transaction.rows("SELECT thread_id, name, named_at_ms FROM names")}
    wanted = {each.thread_id: [id_digest(each.name), each.named_at_ms] for each in names}
    gone = [(thread_id,) for thread_id, rest in there.items() if wanted.get(thread_id) != rest]
    transaction.run_many("DELETE FROM names WHERE thread_id = ?", gone)
    (last,) = transaction.row("SELECT coalesce(min(id), 0) FROM names") or (0,)
    new = [each for each in names if there.get(each.thread_id) != wanted[each.thread_id]]
    numbered = [(last - number, each) for number, each in enumerate(new, 1)]
    transaction.run_many(_ADD, [(each.thread_id, each_id, *wanted[each.thread_id]) for each_id, each in numbered])
    transaction.run_many(_ADD_WORDS, [(each_id, folded(each.name)) for each_id, each in numbered])
    transaction.run(_FOLLOW, {"mark": mark})


def forget_names(transaction: Transaction, thread_ids: Sequence[str]) -> None:
    """Remove the names of these threads; what is left of them is looked up again."""
    named = {"ids": msgspec.json.encode(list(thread_ids)).decode()}
    transaction.run("DELETE FROM names WHERE thread_id IN (SELECT value FROM json_each(:ids))", named)
    transaction.run("DELETE FROM names_followed")


def forget_all_names(transaction: Transaction) -> None:
    """Remove every name, to be followed anew."""
    transaction.run("DELETE FROM names")
    transaction.run("DELETE FROM names_followed")


_FOLLOWED = "SELECT stream, followed FROM fact_streams ORDER BY stream"

_ADD = "INSERT INTO names (thread_id, id, name, named_at_ms) VALUES (?, ?, ?, ?)"

_ADD_WORDS = "INSERT INTO words (rowid, text) VALUES (?, ?)"

_FOLLOW = """
    INSERT INTO names_followed (one, mark) VALUES (1, :mark) ON CONFLICT (one) DO UPDATE SET mark = excluded.mark
"""
