"""What tests of the search share: the index as it can be compared, and what a search found."""

from __future__ import annotations

from engine.clock import SystemClock
from engine.options import Options
from engine.projections.projection import Change
from engine.projections.search import Search
from engine.projections.threads import stream_of
from engine.stores.files import Files
from engine.stores.migrate import load
from engine.stores.sqlite import Database

SEARCH = Search()

_TEXTS = """
    SELECT rollouts.path, "offset", said_offset, length, role, ordinal, created_at_ms, turn
    FROM texts JOIN rollouts ON rollouts.number = texts.rollout ORDER BY 1, 2
"""
_ROLLOUTS = (
    "SELECT path, shown_end, thread_id, rollout_id, base_rollout_id, base_end, archived FROM rollouts ORDER BY 1"
)
_TURNS = """
    SELECT rollouts.path, "offset", turn, id FROM turns JOIN rollouts ON rollouts.number = turns.rollout ORDER BY 1, 2
"""
_WORDS = """
    SELECT coalesce(rollouts.path, names.thread_id), texts."offset", instances."offset" AS place, term
    FROM instances LEFT JOIN texts ON texts.id = instances.doc LEFT JOIN rollouts ON rollouts.number = texts.rollout
    LEFT JOIN names ON names.id = instances.doc ORDER BY 1, 2, 3
"""


def index(options=None):
    """An empty index in memory."""
    how = {"options": options or Options(), "clock": SystemClock(), "files": Files()}
    return Database.open(None, "search", 1, migrations="side", more=load("search", Files()), **how)


def write(database, path, folded):
    """Write what folds of one rollout came to, piece by piece."""
    with database.write() as transaction:
        for each in folded:
            state = SEARCH.decode(each.mark.state)
            SEARCH.write(transaction, [Change(stream_of(path), False, state, each.anew, each.emitted)])


def dumped(transaction):
    """All that the index says, every word at its place among it, without the numbers that happen to name it."""
    transaction.run("CREATE VIRTUAL TABLE IF NOT EXISTS temp.instances USING fts5vocab (main, words, instance)")
    tables = {"texts": _TEXTS, "rollouts": _ROLLOUTS, "turns": _TURNS, "words": _WORDS}
    found = {name: list(transaction.rows(sql)) for name, sql in tables.items()}
    transaction.run("DROP TABLE temp.instances")
    return found


def dump(database):
    """The same, of a database."""
    with database.write() as transaction:
        return dumped(transaction)


def side_of(opened):
    """The side database of the search."""
    (side,) = (side for side in opened._sides if side.name == "search")
    return side


def said(page):
    """What was found, marked in what is around it."""
    shown = []
    for hit in page.hits:
        at, text = 0, ""
        for start, end in hit.matches:
            text += f"{hit.snippet[at:start]}[{hit.snippet[start:end]}]"
            at = end
        shown.append(text + hit.snippet[at:])
    return shown
