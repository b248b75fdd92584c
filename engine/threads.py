"""What an application asks about threads: list, get, fetch.

`list` and `get` answer from the rows, after a bounded look at what changed on disk; an answer that does not cover every
file yet says so (`partial`). `fetch` answers from the file: it folds the rollout anew, compares the row with the file at
the row's watermark, and counts and reports a difference. None of them needs a lock, and none waits for a back-fill.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from engine.clock import Clock
from engine.errors import InvalidRequest, RolloutUnreadable, StoreError, ThreadNotFound
from engine.projections.catchup import Partial
from engine.projections.check import Checked, Checker, Difference, differences
from engine.projections.fresh import Fresh
from engine.projections.history import History, StoredRecord
from engine.projections.model_context import ModelContext
from engine.projections.registry import THREADS
from engine.projections.thread_list import (
    Page,
    SortDirection,
    SortKey,
    Stored,
    ThreadQuery,
    ThreadRow,
    get_stored,
    get_thread,
    list_threads,
    row_of,
)
from engine.receipts import Bundles, Redaction, Removal
from engine.stores import watermarks
from engine.stores.alive import Alive
from engine.stores.boundary import guarded, public
from engine.stores.files import Files
from engine.stores.layout import Home, is_id, locate
from engine.stores.recorder import Position
from engine.stores.sqlite import Database, Transaction
from engine.stores.watermarks import Watermark
from engine.stores.windows import Window
from engine.writers import Writers


class ThreadPage(Struct, frozen=True, kw_only=True):
    """A page of threads. `partial` is None where the rows cover every file; the counts unless asked for, see `Page`."""

    threads: list[ThreadRow]
    next_cursor: str | None
    backwards_cursor: str | None
    total: int | None
    hidden: int | None
    hidden_by: dict[str, int] | None
    partial: Partial | None


class FetchedThread(Struct, frozen=True, kw_only=True):
    """A thread as its file has it now, and where its row differed from the file at the row's watermark.

    `lag_bytes` is what the row had not followed yet; `set_aside` counts records of the file that could not be used.
    """

    thread: ThreadRow
    differences: list[Difference]
    history_rewritten: bool
    lag_bytes: int
    records: int
    damaged: int
    set_aside: int


@public
class Threads:
    """The threads of one home."""

    def __init__(
        self,
        home: Home,
        database: Database,
        fresh: Fresh,
        checker: Checker,
        history: History,
        writers: Writers,
        removal: Removal,
        redaction: Redaction,
        bundles: Bundles,
        alive: Alive,
        *,
        clock: Clock,
        files: Files,
    ) -> None:
        self._home = home
        self._root = home.absolute("")
        self._database = database
        self._fresh = fresh
        self._checker = checker
        self._history = history
        self._alive = alive
        self.create = guarded(alive, writers.create)
        self.resume = guarded(alive, writers.resume)
        self.fork = guarded(alive, writers.fork)
        self.rename = guarded(alive, writers.rename)
        self.set_memory_mode = guarded(alive, writers.set_memory_mode)
        self.dismiss = guarded(alive, writers.dismiss)
        self.archive = guarded(alive, writers.archive)
        self.unarchive = guarded(alive, writers.unarchive)
        self.preview_erase = guarded(alive, removal.preview)
        self.erase = guarded(alive, removal.erase)
        self.redact = guarded(alive, redaction.redact)
        self.export = guarded(alive, bundles.export)
        self.import_bundle = guarded(alive, bundles.import_bundle)
        self._clock = clock
        self._files = files

    def list(
        self,
        *,
        limit: int = 25,
        cursor: str | None = None,
        sort_key: SortKey = "updated_at",
        sort_direction: SortDirection = "desc",
        archived: bool | None = None,
        cwd: str | Sequence[str] | None = None,
        source: str | Sequence[str] | None = None,
        model_provider: str | Sequence[str] | None = None,
        model: str | Sequence[str] | None = None,
        parent_thread_id: str | None = None,
        ancestor_thread_id: str | None = None,
        has_preview: bool | None = None,
        search: str | None = None,
        counts: bool = False,
    ) -> ThreadPage:
        """A page of threads; `limit` 0 is all of them. No filter applies that is not given.

        `archived` None lists both; `cwd`, `source`, `model_provider` and `model` take one value or several, and the source
        `subagent` is every kind of sub-agent; a parent's are its children, an ancestor's all below it; `search` is part of
        the title, preview, first message or name, whatever its case. Raises `InvalidRequest`, `InvalidCursor`, `StoreError`.
        """
        query = ThreadQuery(
            limit=limit,
            cursor=cursor,
            sort_key=sort_key,
            sort_direction=sort_direction,
            archived=archived,
            cwds=_several(cwd),
            sources=_several(source),
            model_providers=_several(model_provider),
            models=_several(model),
            parent_thread_id=parent_thread_id,
            ancestor_thread_id=ancestor_thread_id,
            has_preview=has_preview,
            search=search,
            counts=counts,
        )
        page, partial = self._fresh.ask(lambda transaction: list_threads(transaction, query, self._root))
        return self._answer(page, partial)

    def get(self, thread_id: str) -> ThreadRow | None:
        """One thread's row, or None where no thread has the id. Raises `InvalidRequest` for what is not an id."""
        _check_id(thread_id)
        row, _ = self._fresh.ask(
            lambda transaction: get_thread(transaction, thread_id, self._root),
            thread_id=thread_id,
            is_missing=lambda found: found is None,
        )
        return row

    def fetch(self, thread_id: str) -> FetchedThread:
        """One thread from its file, compared with its row. Raises `ThreadNotFound`, `RolloutUnreadable`."""
        _check_id(thread_id)
        (stored, row, mark), _ = self._fresh.ask(
            lambda transaction: self._stored(transaction, thread_id),
            thread_id=thread_id,
            is_missing=lambda found: found[0] is None,
        )
        if stored is None or row is None:
            raise ThreadNotFound(
                f"There is no thread {thread_id} in {self._home.path}.",
                hint="Run `rolloutdb threads list --limit 0` to see all ids, or `rolloutdb backfill` if it is partial.",
            )
        try:
            checked = self._check(row, mark)
        except OSError as error:
            path = self._home.absolute(row.rollout_path)
            raise RolloutUnreadable(
                f"The rollout {path} cannot be read: {error.strerror}.",
                hint="Check who owns the file and its mode; `rolloutdb threads list` shows what its row says.",
                path=path,
            ) from error
        if checked is None:
            return self._lost(row)
        return self._compared(stored, row, checked, mark)

    def read(
        self,
        thread_id: str,
        *,
        start: Position | None = None,
        end: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[StoredRecord]:
        """A thread's records, oldest first, what it was forked from before its own, without any lock.

        Only those behind `start` and as far as `end`, at most `limit` of them, newest first with `reverse`: positions are
        what an append answered, or the `position` or `before` of a record. The cost is the window's, wherever it lies.
        Raises `ThreadNotFound`, `TruthGone`, `LineageBroken`, `RolloutUnreadable`, `InvalidRequest`.
        """
        _, found = self._history.find(thread_id)
        return self._history.read(found, Window(start, end, limit, reverse))

    def model_context(self, thread_id: str) -> ModelContext:
        """What has to be sent to a model so that it goes on where the thread ends, without any lock; always well-formed.

        Raises `ThreadNotFound`, `TruthGone`, `LineageBroken`, `RolloutUnreadable`.
        """
        _, found = self._history.find(thread_id)
        return self._history.model_context(found)

    def _stored(
        self, transaction: Transaction, thread_id: str
    ) -> tuple[Stored | None, ThreadRow | None, Watermark | None]:
        stored = get_stored(transaction, thread_id)
        row = None if stored is None else row_of(*stored)
        return stored, row, None if row is None else self._mark(transaction, row)

    def _check(self, row: ThreadRow, mark: Watermark | None) -> Checked | None:
        """The rollout folded anew, or None where it is gone. It is looked for twice: compressing moves it meanwhile."""
        for _try in range(2):
            found = locate(self._home, row.rollout_path, self._files)
            if found is None:
                return None
            with contextlib.suppress(FileNotFoundError):
                return self._checker.check(found, mark)
        return None

    def _mark(self, transaction: Transaction, row: ThreadRow) -> Watermark | None:
        mark = watermarks.load(transaction, [row.rollout_path]).get(row.rollout_path, {}).get(THREADS.name)
        return mark if mark is not None and mark.version == THREADS.version else None

    def _compared(self, stored: Stored, row: ThreadRow, checked: Checked, mark: Watermark | None) -> FetchedThread:
        found = [] if checked.at_mark is None else differences(checked.at_mark.row, stored.values)
        rewritten = mark is not None and not checked.same_history
        if found or rewritten:
            self._note_divergence(row, found)
        return FetchedThread(
            thread=row_of(checked.row, stored.decided._replace(missing=False), self._root),
            differences=found,
            history_rewritten=rewritten,
            lag_bytes=checked.lag_bytes,
            records=checked.state.records,
            damaged=checked.state.damaged,
            set_aside=len(checked.set_aside),
        )

    def _lost(self, row: ThreadRow) -> FetchedThread:
        return FetchedThread(
            thread=msgspec.structs.replace(row, rollout_path=self._root + row.rollout_path, missing=True),
            differences=[],
            history_rewritten=False,
            lag_bytes=0,
            records=0,
            damaged=0,
            set_aside=0,
        )

    def _note_divergence(self, row: ThreadRow, found: Sequence[Difference]) -> None:
        """Count it; an answer from the file does not fail because the count cannot be written."""
        fields = ", ".join(difference.field for difference in found) or "history"
        try:
            with self._database.write() as transaction:
                transaction.run(
                    """INSERT INTO divergences (at_ms, stream, thread_id, class, detail)
                       VALUES (:at_ms, :stream, :thread_id, 'row', :detail)""",
                    {
                        "at_ms": self._clock.wall_ms(),
                        "stream": row.rollout_path,
                        "thread_id": row.id,
                        "detail": f"row and file differ in: {fields}",
                    },
                )
        except StoreError:
            return

    def _answer(self, page: Page, partial: Partial | None) -> ThreadPage:
        return ThreadPage(
            threads=page.threads,
            next_cursor=page.next_cursor,
            backwards_cursor=page.backwards_cursor,
            total=page.total,
            hidden=page.hidden,
            hidden_by=page.hidden_by,
            partial=partial,
        )


def _several(value: str | Sequence[str] | None) -> Sequence[str] | None:
    return [value] if isinstance(value, str) else value


def _check_id(thread_id: str) -> None:
    if not is_id(thread_id):
        raise InvalidRequest(
            f"{thread_id!r} is not a thread id.", hint="Thread ids are UUIDs; see `rolloutdb threads list`."
        )
