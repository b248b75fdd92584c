"""A history database filled by the bare fold, and pages read from it: the index of turns without the engine around it."""

from __future__ import annotations

import contextlib
import os

from engine.clock import SystemClock
from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.projection import Change
from engine.projections.threads import Candidate, head_of, stream_of
from engine.projections.turn_list import ItemQuery, TurnQuery, pick_items, pick_turns, read_picked_items, read_turns
from engine.projections.turns import Turns
from engine.stores.bodies import Bodies
from engine.stores.files import Files
from engine.stores.layout import Refused, open_home, walk
from engine.stores.lineage import first_meta, shown_lineage
from engine.stores.rollouts import open_source
from engine.stores.sqlite import Database

TURNS = Turns()
TABLES = {
    "turns": "id ordinal status end_offset started_at_ms completed_at_ms duration_ms error_offset error_length "
    "first_user final_agent plain_agent turn",
    "items": "length type ordinal created_at_ms turn number last_offset last_length",
    "parts": "item length",
    "rollbacks": "items",
}


def history(options=None):
    """An empty history database in memory."""
    return Database.open(
        None, "history", 1, migrations="history", options=options or Options(), clock=SystemClock(), files=Files()
    )


def write(database, path, folded):
    """Write what folds of one rollout came to, piece by piece."""
    with database.write() as transaction:
        for each in folded:
            state = TURNS.decode(each.mark.state)
            TURNS.write(transaction, [Change(stream_of(path), False, state, each.anew, each.emitted)])


def rows(database, path):
    """All rows of a rollout, without the number that it happens to have."""
    with database.read() as transaction:
        return {
            table: list(
                transaction.rows(
                    f'SELECT "offset", {", ".join(columns.split())} FROM {table}'
                    ' WHERE rollout = (SELECT rollouts.number FROM rollouts WHERE path = :path) ORDER BY "offset"',
                    {"path": path},
                )
            )
            for table, columns in TABLES.items()
        }


class Indexed:
    """A home whose rollouts are all indexed."""

    def __init__(self, home, options=None):
        self.options = options or Options()
        self.files = Files()
        self.home = open_home(str(home), None, self.files)
        self.database = history(self.options)
        self.found = {}
        self.metas = {}
        self.index()

    def index(self):
        """Fold every rollout anew, from its beginning."""
        folder = Folder([TURNS], self.options)
        for batch in walk(self.home, self.files):
            for found in [] if isinstance(batch, Refused) else batch:
                path = self.home.absolute(found.path, compressed=found.compressed)
                source = open_source(path, compressed=found.compressed, files=self.files, options=self.options)
                with contextlib.closing(source):
                    write(self.database, found.path, folder.fold(stream_of(found.path), source, {}))
                self.found[found.path] = found
                self.metas[found.path] = first_meta(self.home, found, options=self.options, files=self.files)

    def rollouts(self, thread_id):
        return [found for found in self.found.values() if found.name.thread_id == thread_id.lower()]

    def head(self, thread_id):
        """The rollout that a thread is made of."""
        candidates = {}
        for found in self.rollouts(thread_id):
            base = self.metas[found.path].history_base if self.metas[found.path] else None
            candidates[found.path] = Candidate(found.path, rollout_id(found), base and base.thread_id, False)
        return self.found[head_of(list(candidates.values())).path]

    def segments(self, thread_id):
        return shown_lineage(self.home, self.head(thread_id), self.resolve, options=self.options, files=self.files)

    def resolve(self, rollout):
        found = [each for each in self.found.values() if rollout_id(each) == rollout]
        return found[0] if found else None

    def turns(self, thread_id, **query):
        segments = self.segments(thread_id)
        with self.database.read() as transaction:
            picked = pick_turns(transaction, thread_id, segments, TurnQuery(**query))
        with Bodies(self.home, options=self.options, files=self.files) as bodies:
            return read_turns(picked, bodies)

    def items(self, thread_id, **query):
        segments = self.segments(thread_id)
        with self.database.read() as transaction:
            picked = pick_items(transaction, thread_id, segments, ItemQuery(**query))
        with Bodies(self.home, options=self.options, files=self.files) as bodies:
            return read_picked_items(picked, bodies)

    def close(self):
        self.database.close()


def rollout_id(found):
    return found.name.own_rollout_id or found.name.thread_id


def written_home(folder, rollouts):
    """A home with these rollouts: logical path to lines without LF, or to bytes."""
    for path, content in rollouts.items():
        full = os.path.join(folder, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(content if isinstance(content, bytes) else b"".join(line + b"\n" for line in content))
    return folder
