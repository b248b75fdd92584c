"""Rebuild: fold anew what is suspected, all of it or a part, while readers and writers go on.

All threads, or the threads projection alone: every stream is marked as owed, then a back-fill folds them newest first; a
second process that asks joins, and a rebuild that was killed is gone on with (`owed`). The facts: both of their streams
are applied again, each in one transaction. One thread: its own rollouts, at once. Rows are replaced, never removed before
there are others, so a list does not shrink meanwhile.

What a newer engine built is left alone, unless the thread or the facts are named: a watermark may also be damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.clock import Clock
from engine.errors import InvalidRequest, ThreadNotFound
from engine.projections import owed
from engine.projections.backfill import Backfill, BackfillReport, Failure, Progress
from engine.projections.facts import Facts
from engine.projections.pool import Pool
from engine.projections.runner import Runner, Stale
from engine.stores.files import Files
from engine.stores.layout import Found, Home, find, is_id, locate
from engine.stores.sqlite import Database

FACTS = "facts"


class Rebuild:
    """Rebuilds the rows of one home."""

    def __init__(
        self,
        home: Home,
        runner: Runner,
        database: Database,
        backfill: Backfill,
        facts: Facts,
        *,
        others: Sequence[str],
        clock: Clock,
        files: Files,
    ) -> None:
        self._home = home
        self._files = files
        self._runner = runner
        self._database = database
        self._backfill = backfill
        self._facts = facts
        self._clock = clock
        self._others = tuple(others)

    def run(
        self,
        thread_id: str | None,
        projection: str | None,
        *,
        pool: Pool,
        progress: Callable[[Progress], None] | None,
    ) -> BackfillReport:
        """Raises `InvalidRequest`, `ThreadNotFound`, `StoreError`, `WorkerDied`."""
        self.check(thread_id, projection)
        if thread_id is not None:
            return self._one(thread_id.lower())
        if projection == FACTS:
            started = self._clock.elapsed_s()
            return self._backfill.report(started, files=self._facts.rebuild())
        if projection is None:
            self._facts.rebuild(whoever=False)
        return self._backfill.run(pool=pool, rebuild=True, progress=progress)

    def check(self, thread_id: str | None, projection: str | None) -> None:
        """Raises `InvalidRequest` where there is no such projection, or no thread of such an id can be."""
        names = [*self._runner.versions, FACTS, *self._others]
        if projection is not None and projection not in names:
            raise InvalidRequest(f"There is no projection {projection!r}.", hint=f"Name one of: {', '.join(names)}.")
        if thread_id is None:
            return
        if not is_id(thread_id):
            raise InvalidRequest(
                f"{thread_id!r} is not a thread id.", hint="Thread ids are UUIDs; see `rolloutdb threads list`."
            )
        if projection == FACTS:
            raise InvalidRequest(
                "The facts of all threads are rebuilt together.", hint="Leave the thread out, or the projection."
            )

    def _one(self, thread_id: str) -> BackfillReport:
        """Its rollouts by the names of files and by what is stored; where neither knows one there is no such thread."""
        started = self._clock.elapsed_s()
        streams = self._streams(thread_id)
        if not streams and not self._has_row(thread_id):
            raise ThreadNotFound(
                f"There is no thread {thread_id}.", hint="Run `rolloutdb threads list --limit 0` to see all ids."
            )
        with self._database.write() as transaction:
            owed.mark(transaction, [each.found.path for each in streams])
        jobs = self._runner.jobs(streams)
        done = list(self._runner.do(jobs))
        self._runner.write(done, {job.path: job for job in jobs})
        with self._database.write() as transaction:
            self._runner.sweep_thread(transaction, thread_id)
        failed = [Failure(each.path, each.reason) for each in done if each.reason is not None]
        return self._backfill.report(started, files=len(done), size=sum(job.size for job in jobs), failed=failed)

    def _streams(self, thread_id: str) -> list[Stale]:
        """Its rollouts: those whose names tell so, and those of which the tables do."""
        with self._database.read() as transaction:
            known = {path for (path,) in transaction.rows(_KNOWN, {"thread_id": thread_id})}
        named = find(self._home, thread_id, self._files)
        others = [self._locate(path) for path in sorted(known - {each.path for each in named})]
        return [Stale(each, known=True) for each in [*named, *others] if each is not None]

    def _locate(self, path: str) -> Found | None:
        """One that is gone, or that cannot be looked at, keeps what is known of it."""
        try:
            return locate(self._home, path, self._files)
        except OSError:
            return None

    def _has_row(self, thread_id: str) -> bool:
        with self._database.read() as transaction:
            return transaction.row("SELECT 1 FROM threads WHERE id = :id", {"id": thread_id}) is not None


_KNOWN = "SELECT path FROM streams WHERE thread_id = :thread_id"
