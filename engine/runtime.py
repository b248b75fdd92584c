"""An open home: opens what it needs, hands the parts to each other, and closes them.

The state database is derived, so whatever is wrong with it is set aside and built again; the jobs database only spares
double work, so losing it costs nothing but that. A home that cannot be written is read with tables in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from engine import __version__
from engine.agents import Agents
from engine.bundle import Bundler
from engine.clock import Clock, SystemClock
from engine.decisions import Decisions
from engine.erase import Eraser
from engine.errors import EngineError, ReadOnlyHome, StoreError
from engine.follow import Follower
from engine.goals import Goals
from engine.history import Items, Turns
from engine.holdings import RemovalParts
from engine.logs.reading import Logs
from engine.options import Options
from engine.projections import thread_facts
from engine.projections.backfill import Backfill, BackfillReport, Progress
from engine.projections.background import Background
from engine.projections.catchup import CatchUp
from engine.projections.check import Checker
from engine.projections.facts import Facts
from engine.projections.filling import Filling
from engine.projections.flush import Flush
from engine.projections.fresh import QUERY_WAIT_MS, Fresh
from engine.projections.history import History
from engine.projections.logs import LogParts, LogTable
from engine.projections.own import Guarded, Projection, guarded
from engine.projections.own_rows import OwnRows, readers, side_of
from engine.projections.pool import Pool
from engine.projections.rebuild import FACTS, Rebuild
from engine.projections.registry import BUILT_IN
from engine.projections.runner import Runner, Stale
from engine.projections.search_hits import SearchPage
from engine.projections.search_index import SearchIndex, search_side
from engine.projections.search_list import Role, SearchQuery, SearchSort
from engine.projections.side import Parts, Side
from engine.projections.sides import Sides, erased_among
from engine.projections.status import Status, read_status
from engine.projections.turn_index import TurnIndex, history_side
from engine.redact import Redactor
from engine.stores.alive import Alive
from engine.stores.boundary import public, typed
from engine.stores.compression import ColdReport, compress_cold
from engine.stores.files import Files
from engine.stores.jobs import Jobs
from engine.stores.journal import Journal
from engine.stores.layout import Home, claim_state, open_home
from engine.stores.leases import Leases
from engine.stores.recorder import Counters
from engine.stores.sqlite import Database, remove_older_shapes
from engine.thread import WriterParts
from engine.threads import Threads
from engine.writers import Writers

if TYPE_CHECKING:
    from engine.audit.compare import Auditor
    from engine.audit.findings import AuditReport
    from engine.audit.foreign import CodexAuditor, CodexReport
    from engine.audit.foreign_why import Explanation
    from engine.audit.parts import AuditParts
    from engine.audit.plan import Plan
    from engine.audit.repair import Repairer, RepairReport
    from engine.device_keys import HomeKeys
    from engine.memories.service import Memories

STATE_SHAPE = 1
JOBS_SHAPE = 1


@public
class Engine:
    """One open home. Use it in a `with` block; safe to call from many threads."""

    def __init__(self, home: Home, owned: Sequence[Guarded], *, options: Options, clock: Clock, files: Files) -> None:
        self._home = home
        self._owned = owned
        self._options = options
        self._clock = clock
        self._files = files
        self._alive = Alive()
        self._database = self._open_database("state", STATE_SHAPE)
        self._jobs = self._open_jobs()
        self._wire()
        self._finish_what_was_begun()
        self._background.start()

    @property
    def home(self) -> str:
        """The home's path."""
        return self._home.path

    @property
    def state_dir(self) -> str | None:
        """Where the engine's own files are; None where tables are in memory."""
        return self._home.state

    @property
    def projections(self) -> Mapping[str, OwnRows]:
        """By name, the rows of the projections that were given to `engine.open`."""
        return self._own_rows

    @cached_property
    def device_keys(self) -> HomeKeys:
        """The device keys that are bound in this home; see `engine.device_keys`."""
        from engine.device_keys import Bindings, HomeKeys  # noqa: PLC0415 - asyncio is slow to import, and few need it

        return HomeKeys(Bindings(self._fresh, self._decisions, self._alive), self._clock)

    def backfill(
        self,
        projection: str | None = None,
        *,
        workers: int = 0,
        progress: Callable[[Progress], None] | None = None,
    ) -> BackfillReport:
        """Bring every row up to date with every rollout: first the threads, so that lists are whole, then the indexes.

        Or one projection alone: `threads`, `facts`, `turns`, `search`. With `workers` so many processes read and fold. See
        `engine.projections.backfill` and `engine.projections.filling`. Raises `InvalidRequest`, `StoreError`.
        """
        self._rebuild.check(None, projection)
        started = self._clock.elapsed_s()
        side = None if projection is None else self._sides.of(projection)
        with Pool(workers, self._home, self._options) as pool:
            if side is not None:
                return self._fill_side(side, progress or _show_nothing, pool)
            report = self._fresh.mending(lambda: self._fill(projection, pool, progress))
            with contextlib.suppress(StoreError):  # the rows are committed; moving them into the file can wait
                self._database.checkpoint()
            if report.status == "complete" and self._home.state is not None:
                remove_older_shapes(self._home.state, "state", STATE_SHAPE, clock=self._clock, files=self._files)
            if projection is None:
                self._sides.fill(progress or _show_nothing, pool)
        return replace(report, seconds=self._clock.elapsed_s() - started)

    def rebuild(
        self,
        thread_id: str | None = None,
        projection: str | None = None,
        *,
        workers: int = 0,
        progress: Callable[[Progress], None] | None = None,
    ) -> BackfillReport:
        """Fold anew all there is, one projection (`threads`, `facts`, `turns`, `search`) or one thread.

        See `engine.projections.rebuild`. A damaged database is set aside first. Raises `InvalidRequest`, `ThreadNotFound`.
        """
        started = self._clock.elapsed_s()
        side = None if projection is None else self._sides.of(projection)
        with Pool(workers, self._home, self._options) as pool:
            if side is not None:
                return self._rebuild_side(side, thread_id, progress or _show_nothing, pool)
            opened = self._database.opened
            if not self._is_whole():
                self._database.replace_once(opened)
            report = self._fresh.mending(lambda: self._rebuild.run(thread_id, projection, pool=pool, progress=progress))
            if thread_id is None and projection is None:
                self._sides.fill(progress or _show_nothing, pool, rebuild=True)
            elif projection is None:
                self._sides.owe([each.path for each in self._history.rollouts(str(thread_id))])
        return replace(report, seconds=self._clock.elapsed_s() - started)

    def audit(self, *, deep: bool = False, progress: Callable[[Progress], None] | None = None) -> AuditReport:
        """Compare every row with every rollout; writes nothing but the rows that appends of this engine still owe.

        Tables in memory are filled first. A database that is lost or damaged is begun anew, and its missing rows told.
        """
        if self._home.state is None:
            self._backfill.run()
        with contextlib.suppress(StoreError):
            self._flush.flush()
        return self._fresh.mending(lambda: self._auditor.run(deep=deep, progress=progress))

    def repair(
        self,
        *,
        dry_run: bool = False,
        plan: Plan | None = None,
        offline: bool = False,
        deep: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> RepairReport:
        """Mend what an audit finds, from the files; `dry_run` tells what would be done and changes nothing.

        Of a `plan` (a report's) the steps are done that are still called for. `offline` says that no other program uses
        this home. Raises `ReadOnlyHome`, `StoreError`; a step that cannot be done is in the report.
        """
        if self._home.state is None:
            raise ReadOnlyHome(f"The home {self._home.path} cannot be written.", hint="Make it writable first.")
        with contextlib.suppress(StoreError):
            self._flush.flush()
        if dry_run:
            return self._fresh.mending(lambda: self._repairer.plan(deep=deep, progress=progress))
        return self._fresh.mending(
            lambda: self._repairer.run(wanted=plan, offline=offline, deep=deep, progress=progress)
        )

    def audit_codex(self, *, deep: bool = False, progress: Callable[[Progress], None] | None = None) -> CodexReport:
        """Compare the Codex CLI's own databases with the rollouts; needs no table of ours, and leaves no trace in theirs.

        With `deep` SQLite checks every page of them, too. A database that cannot be read is a finding.
        """
        return self._codex.run(deep=deep, progress=progress)

    def explain_codex(self, thread_id: str) -> Explanation:
        """Why the Codex CLI lists a thread, or does not. Raises `InvalidRequest`, `ThreadNotFound`."""
        from engine.audit.foreign_why import explain  # noqa: PLC0415 - see _audit_parts

        return explain(self._codex.survey(), thread_id, self._files)

    def compress(self, *, older_than_days: float) -> ColdReport:
        """Compress the rollouts that nobody touched for so long; never done unless asked for.

        A rollout that somebody has open is passed over. Raises `ReadOnlyHome`, `StoreBusy`.
        """
        if self._home.state is None:
            raise ReadOnlyHome(f"The home {self._home.path} cannot be written.", hint="Make it writable first.")
        return compress_cold(
            self._home,
            older_than_days=older_than_days,
            now_ms=self._clock.wall_ms(),
            options=self._options,
            clock=self._clock,
            files=self._files,
        )

    def follow(self, threads: Sequence[str] | None = None, *, start: str = "now", decisions: bool = False) -> Follower:
        """What is appended, by whomever, as it comes: an iterator of `Followed` records and `Notice`s, without any lock.

        Of all threads, or of those with the ids in `threads`, also ones that are not there yet. `start` is `now`,
        `beginning`, or the `token` of an earlier follower, which knows its threads. `decisions` adds what is decided
        about the threads, from the journal. See `engine.follow`. Raises `InvalidRequest`, `InvalidToken`.
        """
        return Follower(
            self._home,
            self._journal,
            self._history,
            self._alive,
            threads=threads,
            start=start,
            decisions=decisions,
            options=self._options,
            clock=self._clock,
            files=self._files,
        )

    def search(
        self,
        query: str,
        *,
        thread_id: str | None = None,
        roles: Sequence[Role] | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        cwd: str | Sequence[str] | None = None,
        archived: bool | None = None,
        sort: SearchSort = "rank",
        limit: int = 25,
        cursor: str | None = None,
    ) -> SearchPage:
        """A page of what users and agents said, and of names of threads, in which all that is sought is there.

        `query` is words, "phrases in quotes" and beginnings of words (`word*`); case and accents do not count. `roles` are some
        of user, agent (final answers, and messages without a phase) and name; times are Unix milliseconds, from `since_ms` and
        before `until_ms`; `cwd` is one folder or several. `sort` is rank (of equal ones the newest first), newest or oldest;
        `limit` 0 is all. With `thread_id` it is the messages that this thread shows, those of what it was forked from among
        them; else a message is found in the thread that holds it. `partial` is None where all of it is indexed. Raises
        `InvalidRequest`, `InvalidCursor`, `ThreadNotFound`, `TruthGone`, `RolloutUnreadable`, `StoreError`.
        """
        return self._search.search(
            SearchQuery(
                query=query,
                thread_id=thread_id,
                roles=roles,
                since_ms=since_ms,
                until_ms=until_ms,
                cwds=[cwd] if isinstance(cwd, str) else cwd,
                archived=archived,
                sort=sort,
                limit=limit,
                cursor=cursor,
            )
        )

    def status(self) -> Status:
        """How the home stands: threads, lag, set-aside records, back-fill, counters, background."""
        return self._fresh.mending(
            lambda: read_status(
                self._home,
                self._database,
                self._runner,
                self._sides,
                self._leases,
                self.counters,
                self._background.last_error,
            )
        )

    @cached_property
    @typed
    def memories(self) -> Memories:
        """What was learned in threads; see `engine.memories.service`."""
        from engine.memories import parts, service  # noqa: PLC0415 - most of those who open a home ask for no memories
        from engine.memories.place import root_of  # noqa: PLC0415 - the same

        if self._home.state is None:
            return service.unavailable(self._home.path)
        limits, clock, files, opened = self._options.memories, self._clock, self._files, self._jobs
        return service.Memories(
            parts.MemoryParts(
                self._home,
                root_of(self._home, options=limits, clock=clock, files=files),
                self._database,
                self._fresh,
                self._history,
                Decisions(self._journal, self._facts),
                None if opened is None else (self._jobs_of(opened, limits.attempts_max), self._jobs_of(opened, None)),
                self._alive,
                self._options,
                clock,
                files,
            )
        )

    def _jobs_of(self, database: Database, attempts_max: int | None) -> Jobs:
        lease_ms = self._options.memories.lease_ms
        return Jobs(database, lease_ms=lease_ms, attempts_max=attempts_max, clock=self._clock, files=self._files)

    @property
    def counters(self) -> dict[str, int]:
        """What was done since the home was opened here: appends, syncs, flushes, touches, upserts, transactions, waits."""
        several = (
            self._counters,
            self._flush.counters,
            self._runner.counters,
            self._database.counters,
            self._background.counters,
        )
        return {name: count for counters in several for name, count in asdict(counters).items()}

    @typed
    def close(self) -> None:
        """Close the threads that are open, write what their rows lack, close everything; a second call does nothing.

        In a forked child it does nothing at all: what is open belongs to the parent.
        """
        if self._alive.forked:
            return
        self._alive.close()
        self._background.close()
        try:
            self._writers.close()
        finally:
            self._flush.close()
            self._sides.close()
            self._log_table.close()
            self._database.close()
            self._close_jobs()

    @cached_property
    def _audit_parts(self) -> AuditParts:
        from engine.audit.parts import AuditParts  # noqa: PLC0415 - a tenth of an import of everything, and few need it

        return AuditParts(
            self._home,
            self._database,
            self._jobs,
            self._checker,
            self._facts,
            self._journal,
            self._sides,
            self._log_table,
            self._options,
            self._clock,
            self._files,
        )

    @cached_property
    def _auditor(self) -> Auditor:
        from engine.audit.compare import Auditor  # noqa: PLC0415 - as above

        return Auditor(self._audit_parts)

    @cached_property
    def _repairer(self) -> Repairer:
        from engine.audit.repair import Repairer, RepairParts  # noqa: PLC0415 - as above

        finish = {
            thread_facts.ARCHIVE_BEGUN: self._writers.finish_archives,
            thread_facts.ERASE_BEGUN: self._eraser.finish,
            thread_facts.REDACTION_BEGUN: self._redactor.finish,
            "trash": self._eraser.finish,
        }
        return Repairer(
            RepairParts(self._audit_parts, self._auditor, self._runner, self._backfill, self._counters, finish)
        )

    @cached_property
    def _codex(self) -> CodexAuditor:
        from engine.audit.foreign import CodexAuditor  # noqa: PLC0415 - as above

        return CodexAuditor(self._home, options=self._options, clock=self._clock, files=self._files)

    def _finish_what_was_begun(self) -> None:
        """Erasures, redactions and moves that a crash left half done; what cannot be finished now waits for the next open."""
        for finish in (self._eraser.finish, self._redactor.finish, self._writers.finish_archives):
            with contextlib.suppress(EngineError, OSError):
                self._fresh.mending(finish)

    def _fill(self, projection: str | None, pool: Pool, progress: Callable[[Progress], None] | None) -> BackfillReport:
        started = self._clock.elapsed_s()
        self._facts.catch_up()
        if projection == FACTS:
            return self._backfill.report(started, files=0)
        return self._backfill.run(pool=pool, progress=progress)

    def _fill_side(
        self, side: Side, show: Callable[[Progress], None], pool: Pool, *, rebuild: bool = False
    ) -> BackfillReport:
        """Bring one side database up to date, or fold it anew."""
        started = self._clock.elapsed_s()
        (filled,) = self._filling.fill([side], show, pool=pool, rebuild=rebuild)
        if filled.error is not None:
            raise filled.error
        report = self._backfill.report(
            started, files=filled.files, size=filled.bytes, failed=filled.failed, joined=filled.joined
        )
        return replace(report, status="pending" if filled.failed else "complete")

    def _rebuild_side(
        self, side: Side, thread_id: str | None, show: Callable[[Progress], None], pool: Pool
    ) -> BackfillReport:
        """Fold one side database anew, or one thread in it."""
        if thread_id is None:
            return self._fill_side(side, show, pool, rebuild=True)
        started = self._clock.elapsed_s()
        self._history.row(thread_id)
        found = self._history.rollouts(thread_id)
        side.owe([each.path for each in found])
        side.fold([Stale(each, known=True) for each in found])
        size = sum(each.stat.size for each in found)
        return replace(self._backfill.report(started, files=len(found), size=size), status="complete")

    def _tend(self, rest: Callable[[], bool]) -> None:
        """The chore of the background: what new, changed and outdated files give, politely."""

        def tend() -> None:
            self._catch_up.give_way()
            with self._database.waiting_at_most(QUERY_WAIT_MS):
                self._facts.catch_up()
                self._backfill.tend(rest)

        self._fresh.mending(tend)

    def _is_whole(self) -> bool:
        """Whether the database is sound and has its tables as they should be."""
        try:
            return self._database.integrity() == ["ok"]
        except StoreError:
            return False

    def _close_jobs(self) -> None:
        if self._jobs is not None:
            self._jobs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_database(self, name: str, shape: int) -> Database:
        return Database.open(
            self._home.state,
            name,
            shape,
            migrations=name,
            options=self._options,
            clock=self._clock,
            files=self._files,
        )

    def _open_jobs(self) -> Database | None:
        try:
            return self._open_database("jobs", JOBS_SHAPE) if self._home.state is not None else None
        except StoreError:
            return None

    def _wire(self) -> None:
        home, database, options, clock, files = self._home, self._database, self._options, self._clock, self._files
        self._leases = None if self._jobs is None else Leases(self._jobs, options=options, clock=clock, files=files)
        self._runner = Runner(home, database, BUILT_IN, options=options, clock=clock, files=files)
        self._backfill = Backfill(self._runner, database, self._leases, options=options, clock=clock)
        self._side_parts = Parts(home, options, clock, files, erased_among(database))
        own_sides = [side_of(self._side_parts, own) for own in self._owned]
        history_rows = history_side(self._side_parts)
        search_rows = search_side(self._side_parts)
        self._filling = Filling(home, self._leases, options=options, clock=clock, files=files)
        self._sides = Sides(self._side_parts, [*own_sides, history_rows, search_rows], self._filling)
        self._own_rows = readers(self._owned, own_sides, self._alive)
        self._checker = checker = Checker(home, options, files)
        self._counters = Counters()
        self._flush = Flush(
            home, database, self._runner, BUILT_IN, self._sides, options=options, clock=clock, files=files
        )
        self._journal = journal = Journal(home.state, options=options, clock=clock, files=files)
        self._facts = Facts(home, database, journal, options=options, clock=clock, files=files)
        self._catch_up = CatchUp(home, self._runner, database, options=options, clock=clock, files=files)
        self._fresh = fresh = Fresh(database, self._flush, self._facts, self._catch_up, self._alive)
        self._rebuild = Rebuild(
            home,
            self._runner,
            database,
            self._backfill,
            self._facts,
            others=[side.title for side in self._sides],
            clock=clock,
            files=files,
        )
        self._history = history = History(home, database, fresh, options=options, files=files)
        parts = WriterParts(home, self._flush, history, self._alive, self._counters, options, clock, files)
        self._writers = Writers(parts, journal, self._facts, version=__version__)
        self._log_table = LogTable(LogParts(home, self._leases, options, clock, files))
        self.logs = Logs(self._log_table, self._alive, options=options, files=files)
        removal = RemovalParts(
            home,
            database,
            self._runner,
            BUILT_IN,
            self._sides,
            self._log_table,
            self._facts,
            journal,
            options,
            clock,
            files,
            lambda: self.memories,
        )
        self._eraser, self._redactor, bundler = Eraser(removal), Redactor(removal), Bundler(removal)
        self.threads = Threads(
            home,
            database,
            fresh,
            checker,
            history,
            self._writers,
            self._eraser,
            self._redactor,
            bundler,
            self._alive,
            clock=clock,
            files=files,
        )
        self._decisions = Decisions(journal, self._facts)
        self.agents = Agents(home, fresh, self._decisions, self.threads, self._alive)
        self.goals = Goals(parts, self._writers, fresh, self._facts, journal)
        self._background = Background(
            {"tend": self._tend, "sides": self._sides.tend, "logs": self._log_table.tend},
            lambda: self._counters.appends,
            interval_s=options.background_scan_s,
            clock=clock,
        )
        index = TurnIndex(home, history_rows, history, self._background.wake, options=options, clock=clock, files=files)
        self.turns, self.items = Turns(index, self._alive), Items(index, self._alive)
        self._search = SearchIndex(home, search_rows, history, fresh, options=options, files=files)


def _show_nothing(progress: Progress) -> None:
    """Nobody wants to see it."""


@typed
def open(  # noqa: A001 - `engine.open(home)` reads as it should
    home: str,
    *,
    state_dir: str | None = None,
    projections: Sequence[Projection] = (),
    options: Options | None = None,
    clock: Clock | None = None,
    files: Files | None = None,
) -> Engine:
    """Open a home; rows, locks and quarantine go to `state_dir` where it is given, else to `<home>/engine`.

    `projections` are an application's own; each has a database of its own, filled by its queries and by a back-fill.
    Raises `ProjectionUnusable`, `HomeMissing`, `HomeNotAFolder`, `HomeUnreadable`, `StateOfAnotherHome` and what
    `Database.open` raises; each changes nothing.
    """
    files = files or Files()
    owned = guarded(projections, files)
    found = open_home(home, state_dir, files)
    claim_state(found, files)
    return Engine(found, owned, options=options or Options(), clock=clock or SystemClock(), files=files)
