"""The search of a home: `search_1.sqlite`, caught up for a bounded time before each answer, and hits cut from the rollouts.

It has a file of its own: it is some times as large as the index of turns, and whoever asks for turns shall not wait for it,
nor lose it when it is damaged. A search of all threads looks at the files as a list does and says in `partial` how far the
index is; one of a thread folds what that thread shows, and finds what it took over from its parents as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from engine.errors import StoreBusy, StoreFull, StoreReadOnly
from engine.events.record import decode_as
from engine.options import Options
from engine.projections import indexes
from engine.projections.catchup import Partial
from engine.projections.fresh import Fresh
from engine.projections.history import History
from engine.projections.search_hits import SearchPage, read_hits
from engine.projections.search_list import (
    PickedHit,
    PickedHits,
    SearchQuery,
    Within,
    check_search,
    numbers_of,
    pick_hits,
)
from engine.projections.search_names import (
    all_names,
    followed_mark,
    forget_all_names,
    forget_names,
    mark_of_names,
    write_names,
)
from engine.projections.search_query import Sought, sought
from engine.projections.search_rows import STREAM_TABLES
from engine.projections.shown import Shown
from engine.projections.side import Parts, Side
from engine.projections.thread_list import get_threads, threads_in
from engine.projections.turn_index import FOLLOW_MS
from engine.projections.turn_places import OFFSET_END
from engine.stores import migrate
from engine.stores.bodies import Bodies
from engine.stores.files import Files
from engine.stores.layout import Found, Home, locate
from engine.stores.lineage import Segment
from engine.stores.link import files_translated
from engine.stores.sqlite import Database, Transaction
from engine.stores.words import Words

SEARCH = "search"
SEARCH_SHAPE = 1


class SearchSide(Side):
    """The side database of what was said. It has names of threads beside its streams, and words that outlive their rows."""

    def _forget_threads(self, transaction: Transaction, thread_ids: Sequence[str]) -> None:
        if thread_ids:
            forget_names(transaction, thread_ids)

    def _remove_orphans(self, transaction: Transaction) -> None:
        super()._remove_orphans(transaction)
        transaction.run(_NOBODYS_WORDS)
        forget_all_names(transaction)

    def _scrub(self, database: Database) -> None:
        """FTS5 keeps the words of a removed row until its index is written anew."""
        with database.write() as transaction:
            transaction.run("INSERT INTO words (words) VALUES ('optimize')")
        super()._scrub(database)


def search_side(parts: Parts) -> SearchSide:
    """The side database of what was said."""
    with files_translated("open", SEARCH):
        schema = migrate.load(SEARCH, parts.files)
    return SearchSide(parts, SEARCH, SEARCH_SHAPE, [indexes.SEARCH], schema, STREAM_TABLES, decode=decode_as)


class SearchIndex:
    """Answers searches of one home."""

    def __init__(
        self, home: Home, side: SearchSide, history: History, fresh: Fresh, *, options: Options, files: Files
    ) -> None:
        self._home = home
        self._side = side
        self._history = history
        self._fresh = fresh
        self._shown = Shown(home, history, options=options, files=files)
        self._options = options
        self._files = files

    def search(self, query: SearchQuery) -> SearchPage:
        """A page of hits. Raises as `Engine.search` does."""
        check_search(query)
        with Words() as words:
            found = sought(query.query, words)
            picked, partial = self._picked(query, found)
            ids = sorted({hit.thread_id for hit in picked.hits})
            rows, _ = self._fresh.ask(lambda state: get_threads(state, ids))
            hits = [hit for hit in picked.hits if hit.role != "name" or hit.thread_id in rows]
            with Bodies(self._home, options=self._options, files=self._files) as bodies:
                told = read_hits(
                    hits, found.phrases, rows, bodies, words, locate=self._locate, root=f"{self._home.path}/"
                )
        return SearchPage(hits=told, next_cursor=picked.next_cursor, partial=partial)

    def _picked(self, query: SearchQuery, found: Sought) -> tuple[PickedHits, Partial | None]:
        if query.roles is None or "name" in query.roles:
            self._follow_names()
        threads = None
        if query.cwds is not None:
            cwds = list(query.cwds)
            threads, _ = self._fresh.ask(lambda state: threads_in(state, cwds))
        if query.thread_id is None:
            return self._side.ask(lambda transaction: pick_hits(transaction, query, found, Within(None, threads)))
        _, head = self._history.find(query.thread_id)
        segments, is_broken = self._shown.segments(head)
        picked, partial = self._side.ask_of(
            [segment.found for segment in reversed(segments)],
            lambda transaction: pick_hits(transaction, query, found, _within(transaction, segments, threads)),
            budget_ms=FOLLOW_MS,
        )
        if is_broken:
            done = len(segments) if partial is None else partial.files_done
            partial = Partial(done, None, 1 + (0 if partial is None else partial.unread))
        return picked, partial

    def _follow_names(self) -> None:
        """Names that were given since; where they cannot be written now, the older ones are searched."""
        mark, _ = self._fresh.ask(mark_of_names)
        with contextlib.suppress(StoreBusy, StoreFull, StoreReadOnly):
            followed, _ = self._side.ask_of([], followed_mark, budget_ms=0)
            if followed == mark:
                return
            (mark, names), _ = self._fresh.ask(lambda state: (mark_of_names(state), all_names(state)))
            database = self._side.database()
            with database.waiting_at_most(self._options.list_budget_ms), database.write() as transaction:
                write_names(transaction, names, mark)

    def _locate(self, hit: PickedHit) -> Found | None:
        """Where its rollout is now: somebody may have moved it since it was indexed."""
        return locate(self._home, hit.path, self._files) or self._history.resolve(hit.rollout_id)


def _within(transaction: Transaction, segments: Sequence[Segment], threads: Sequence[str] | None) -> Within:
    numbers = numbers_of(transaction, [segment.found.path for segment in segments])
    held = [
        (numbers[segment.found.path], OFFSET_END if segment.end is None else segment.end)
        for segment in segments
        if segment.found.path in numbers
    ]
    return Within(held, threads)


_NOBODYS_WORDS = """
    DELETE FROM words WHERE rowid IN (
        SELECT id FROM words_docsize WHERE id NOT IN (SELECT id FROM texts) AND id NOT IN (SELECT id FROM names)
    )
"""
