"""Catch-up: find the streams that moved, fold them, and write rows and watermarks together.

A scan compares the stat of every rollout with its watermarks; unchanged ones cost that stat. What moved is folded outside
of any transaction, then written by at most `batch_streams` in one IMMEDIATE transaction, which first compares each
stream's watermark with the one it was folded from. A watermark that somebody else moved meanwhile means that the fold is
thrown away and done again; so any number of processes may catch up at once and each record has its effect once. A
watermark of a higher version than ours belongs to a newer engine: it is left alone, and counted. One of a lower version
is outdated: its rows stand until the stream is folded anew, by whoever has the time.

Nothing here is ever final: what a scan finds new, changed, restored, moved or gone decides what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from engine.clock import Clock
from engine.options import Options
from engine.projections.fold import Folded
from engine.projections.projection import Change, Projection
from engine.projections.threads import Threads, stream_of
from engine.projections.worker import Done, Hand, Job
from engine.stores import watermarks
from engine.stores.files import Files, FileStat
from engine.stores.layout import Found, Home, Listing, Refused, locate, walk
from engine.stores.sqlite import Database, Transaction, Value
from engine.stores.watermarks import Watermark

LOST_SWAPS_MAX = 5
"""How often one stream is folded again because somebody else moved its watermark; then it is left to them."""


class Stale(NamedTuple):
    """A rollout whose watermarks are behind; `outdated` where by their version alone, so that its rows cover the file."""

    found: Found
    known: bool
    outdated: bool = False


class Scan:
    """One walk over a home. Iterate it for what is stale, newest first; the rest is known when it has ended."""

    def __init__(
        self,
        home: Home,
        files: Files,
        known: Mapping[str, Mapping[str, tuple[int, FileStat]]],
        flagged: AbstractSet[str],
        versions: Mapping[str, int],
        *,
        stop: Callable[[], bool] | None,
    ) -> None:
        self._home = home
        self._files = files
        self._known = known
        self._versions = versions
        self._stop = stop
        self.flagged = flagged
        self.seen: set[str] = set()
        self.refused: list[Refused] = []
        self.bytes_seen = 0
        self.newer = 0
        """Rollouts that a newer engine keeps; of them `newer_behind` changed since (and have `newer_behind_bytes`)."""
        self.newer_behind = 0
        self.newer_behind_bytes = 0
        self.ended = False

    def __iter__(self) -> Iterator[Stale]:
        for found in walk(self._home, self._files):
            if isinstance(found, Refused):
                self.refused.append(found)
                continue
            for each in found:
                self.seen.add(each.path)
                self.bytes_seen += each.stat.size
                stale = self._judge(each)
                if stale is not None:
                    yield stale
            if self._stop is not None and self._stop():
                return
        self.ended = True

    def vanished(self) -> list[str]:
        """Streams that were known and that the ended walk did not meet, each looked for once more by itself."""
        return [path for path in self._known if self.is_gone(path)]

    def is_gone(self, path: str) -> bool:
        """Whether the ended walk did not meet a rollout, and a look for it alone does not find it either."""
        if not self.ended or path in self.seen:
            return False
        try:
            return locate(self._home, path, self._files) is None
        except OSError:
            return False  # its folder cannot be read: nothing is known about it

    def _judge(self, found: Found) -> Stale | None:
        marks = self._known.get(found.path)
        standing = _standing(self._versions, marks, found.stat)
        self.newer += standing.newer
        if standing.newer_behind:
            self.newer_behind += 1
            self.newer_behind_bytes += found.stat.size
        if not standing.behind and not standing.outdated:
            return None
        return Stale(found, known=marks is not None, outdated=not standing.behind)


class _Standing(NamedTuple):
    """How the watermarks of a rollout stand to its file, as far as its stat tells.

    One of ours is behind it; one is outdated, of a lower version; one is of a newer engine, and that engine is behind.
    """

    behind: bool
    outdated: bool
    newer: bool
    newer_behind: bool


def _standing(
    versions: Mapping[str, int], marks: Mapping[str, tuple[int, FileStat]] | None, stat: FileStat
) -> _Standing:
    behind = outdated = newer = moved = False
    for name, version in versions.items():
        mark = None if marks is None else marks.get(name)
        if mark is None:
            behind = True
        elif mark[0] > version:
            newer, moved = True, moved or mark[1] != stat
        else:
            behind = behind or mark[1] != stat
            outdated = outdated or mark[0] < version
    return _Standing(behind, outdated, newer, moved and not behind)


class Compared(NamedTuple):
    """One folder beside what the tables know of it: what is stale, whose file is gone since, and whose is back.

    `newer_behind` of its rollouts are behind, and a newer engine's to follow.
    """

    stale: list[Stale]
    gone: list[str]
    restored: list[str]
    newer_behind: int


class Left(NamedTuple):
    """What a fold did not do: streams that are still behind, and streams that could not be folded."""

    behind: int
    unread: int


@dataclass(slots=True)
class RunnerCounters:
    """What was written: streams, each with its rows and watermark, and folds that somebody else was faster than."""

    upserts: int = 0
    lost_swaps: int = 0


class Runner:
    """Catches projections of one database up with the rollouts of one home."""

    _keeps_missing = True
    """Whether the table `streams` tells which files are gone, and their rows stay."""

    def __init__(
        self,
        home: Home,
        database: Database,
        projections: Sequence[Projection],
        *,
        options: Options,
        clock: Clock,
        files: Files,
    ) -> None:
        self._home = home
        self._database = database
        self._projections = {projection.name: projection for projection in projections}
        self._options = options
        self._clock = clock
        self._files = files
        self.versions = {projection.name: projection.version for projection in projections}
        """The version of each projection, by name."""
        self._hand = Hand(home, projections, options, files)
        self.counters = RunnerCounters()

    def scan(self, *, stop: Callable[[], bool] | None = None) -> Scan:
        """A walk that has not begun yet; `stop` is asked after each folder."""
        with self._database.read() as transaction:
            known = watermarks.load_stats(transaction)
            flagged = self._flagged(transaction)
        return Scan(self._home, self._files, known, flagged, self.versions, stop=stop)

    def compare(self, folder: str, listing: Listing) -> Compared:
        """What is to be done about one folder, folders that vanished from it included."""
        with self._database.read() as transaction:
            known, deeper = watermarks.load_folder(transaction, folder, keeps_missing=self._keeps_missing)
            lost = [
                path
                for name in deeper - set(listing.deeper)
                for path in watermarks.load_below(transaction, name, keeps_missing=self._keeps_missing)
            ]
        stale: list[Stale] = []
        newer_behind = 0
        for each in listing.found:
            kept = known.get(each.path)
            standing = _standing(self.versions, None if kept is None else kept.marks, each.stat)
            newer_behind += standing.newer_behind
            if standing.behind or standing.outdated:
                stale.append(Stale(each, kept is not None, not standing.behind))
        compared = Compared(stale, [], [], newer_behind)
        there = {each.path for each in listing.found}
        lost += [path for path, kept in known.items() if path not in there and not kept.missing]
        compared.gone.extend(path for path in lost if self._is_gone(path))
        compared.restored.extend(path for path in there & known.keys() if known[path].missing)
        return compared

    def stale(self, found: Sequence[Found]) -> list[Stale]:
        """Those of these rollouts whose rows are behind their file, or outdated."""
        with self._database.read() as transaction:
            known = watermarks.load(transaction, [each.path for each in found])
        stale: list[Stale] = []
        for each in found:
            marks = {name: (mark.version, mark.stat) for name, mark in known.get(each.path, {}).items()}
            standing = _standing(self.versions, marks, each.stat)
            if standing.behind or standing.outdated:
                stale.append(Stale(each, each.path in known))
        return stale

    def jobs(self, stale: Sequence[Stale], *, anew: bool = False) -> list[Job]:
        """What is to be done for these streams; `anew` folds from the beginning whatever the watermark says."""
        marks: dict[str, dict[str, Watermark]] = {}
        of = tuple(self.versions)
        known = [each.found.path for each in stale if each.known]
        if known:
            with self._database.read() as transaction:
                marks = watermarks.load(transaction, known)
        return [
            Job(found.path, found.compressed, found.stat.size, self._own(marks.get(found.path, {})), of, anew)
            for found, *_ in stale
        ]

    def due(self, stale: Sequence[Stale]) -> list[Job]:
        """The same, without what somebody else brought up to date since the scan."""
        stats = {each.found.path: each.found.stat for each in stale}
        jobs = self.jobs([each._replace(known=True) for each in stale])
        return [job for job in jobs if self._is_due(job, stats[job.path])]

    def _is_due(self, job: Job, stat: FileStat) -> bool:
        marks = {name: (mark.version, mark.stat) for name, mark in job.marks.items()}
        standing = _standing(self.versions, marks, stat)
        return standing.behind or standing.outdated

    def do(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        """Fold in this process."""
        return (self._hand.do(job) for job in jobs)

    def fold(self, stale: Sequence[Stale], is_late: Callable[[], bool]) -> Left:
        """Bring these streams up to date. They are few and small enough for one go, so it is not asked whether it is late."""
        jobs = self.jobs(stale)
        done = list(self.do(jobs))
        self.write(done, {job.path: job for job in jobs})
        return Left(0, sum(each.reason is not None for each in done))

    def write(
        self,
        done: Sequence[Done],
        jobs: Mapping[str, Job],
        inside: Callable[[Transaction], None] | None = None,
    ) -> None:
        """Write what was folded, in transactions of at most `batch_streams`, refolding what somebody else moved.

        `inside` is called in each transaction (a checkpoint, a fence); what it raises undoes the transaction.
        """
        for start in range(0, len(done), self._options.batch_streams):
            batch = done[start : start + self._options.batch_streams]
            lost = self._write_batch(batch, jobs, inside)
            tries = 0
            while lost and tries < LOST_SWAPS_MAX:
                tries += 1
                again = self._reload(lost, jobs)
                lost = self._write_batch([self._hand.do(job) for job in again.values()], again, inside)

    def has_vanished(self, scan: Scan) -> bool:
        """Whether an ended walk found files gone, or back, that the tables do not know of yet."""
        return bool(scan.flagged & scan.seen) or bool(set(scan.vanished()) - scan.flagged)

    def note_vanished(self, scan: Scan, transaction: Transaction) -> None:
        """After an ended walk: forget streams that stand elsewhere now or had no record, and mark those whose file is gone.

        The row of a thread whose only file is gone stays, so that what was lost is still shown.
        """
        gone = scan.vanished()
        self.note_gone(
            transaction, gone, fresh=sorted(set(gone) - scan.flagged), restored=sorted(scan.flagged & scan.seen)
        )
        unread = [path for (path,) in transaction.rows("SELECT path FROM failures") if scan.is_gone(path)]
        transaction.run(
            "DELETE FROM failures WHERE path IN (SELECT value FROM json_each(:gone))", {"gone": _json(unread)}
        )

    def note_gone(
        self, transaction: Transaction, gone: Sequence[str], *, fresh: Sequence[str], restored: Sequence[str] = ()
    ) -> None:
        """These streams' files are gone (`fresh`: since now), and those are back."""
        values: dict[str, Value] = {"now": self._clock.wall_ms(), "fresh": _json(fresh), "restored": _json(restored)}
        transaction.run(
            "UPDATE streams SET missing_since_ms = :now WHERE path IN (SELECT value FROM json_each(:fresh))", values
        )
        transaction.run(
            "UPDATE streams SET missing_since_ms = NULL WHERE path IN (SELECT value FROM json_each(:restored))", values
        )
        moved = [path for (path,) in transaction.rows(_STANDS_ELSEWHERE, {"gone": _json(gone)})]
        for projection in self._projections.values():
            projection.forget(transaction, moved)
        self._rewrite(transaction, [*fresh, *restored])
        watermarks.drop(transaction, moved)

    def sweep(self, transaction: Transaction) -> None:
        """After a rebuild: remove rows that no watermark stands behind, and write those of lost files from their state."""
        transaction.run("DELETE FROM streams WHERE path NOT IN (SELECT stream FROM watermarks)")
        transaction.run("DELETE FROM threads WHERE id NOT IN (SELECT thread_id FROM streams WHERE records > 0)")
        for table in ("set_aside", "goals"):
            transaction.run(f"DELETE FROM {table} WHERE stream NOT IN (SELECT stream FROM watermarks)")  # noqa: S608
        self._rewrite(transaction, [path for (path,) in transaction.rows(_MISSING)])

    def sweep_thread(self, transaction: Transaction, thread_id: str) -> None:
        """The same for one thread, with its row written again whether or not one of its rollouts could be read."""
        paths = [path for (path,) in transaction.rows(_STREAMS_OF, {"thread_id": thread_id})]
        transaction.run(_ORPHAN, {"thread_id": thread_id})
        self._rewrite(transaction, paths)

    def _rewrite(self, transaction: Transaction, paths: Sequence[str]) -> None:
        for projection in self._projections.values():
            if isinstance(projection, Threads):
                projection.rechoose(transaction, paths)

    def _is_gone(self, path: str, *, compressed: bool = False) -> bool:
        """Whether it is nowhere; most stand where they stood, and one look is enough."""
        try:
            here = self._home.absolute(path, compressed=compressed)
            return self._files.stat(here, op="layout.locate") is None and locate(self._home, path, self._files) is None
        except OSError:
            return False  # its folder cannot be read: nothing is known about it

    def _flagged(self, transaction: Transaction) -> set[str]:
        """Streams that are known to be gone, and whose rows stay."""
        return {path for (path,) in transaction.rows(_MISSING)} if self._keeps_missing else set()

    def _own(self, marks: Mapping[str, Watermark]) -> dict[str, Watermark]:
        return {name: mark for name, mark in marks.items() if name in self._projections}

    def _reload(self, paths: Sequence[str], jobs: Mapping[str, Job]) -> dict[str, Job]:
        with self._database.read() as transaction:
            marks = watermarks.load(transaction, paths)
        return {
            path: msgspec.structs.replace(jobs[path], marks=self._own(marks.get(path, {})), anew=False)
            for path in paths
        }

    def _write_batch(
        self,
        done: Sequence[Done],
        jobs: Mapping[str, Job],
        inside: Callable[[Transaction], None] | None,
    ) -> list[str]:
        """One transaction; the streams whose watermark had been moved by somebody else."""
        paths = [each.path for each in done]
        with self._database.write() as transaction:
            stored = watermarks.load(transaction, paths)
            accepted: list[Folded] = []
            lost: set[str] = set()
            for each in done:
                for folded in each.folded:
                    now = stored.get(each.path, {}).get(folded.projection)
                    if now is not None and now.version > folded.mark.version:
                        continue
                    if now == jobs[each.path].marks.get(folded.projection):
                        # A stream that was erased while it was folded has no watermark either; its file went before.
                        if now is not None or not self._is_gone(each.path, compressed=folded.compressed):
                            accepted.append(folded)
                    elif now != folded.mark:
                        lost.add(each.path)
            self._write_accepted(transaction, accepted)
            self._note_failures(transaction, done)
            if inside is not None:
                inside(transaction)
        self.counters.upserts += len({each.path for each in accepted})
        self.counters.lost_swaps += len(lost)
        return sorted(lost)

    def _write_accepted(self, transaction: Transaction, accepted: Sequence[Folded]) -> None:
        watermarks.advance(transaction, ((each.path, each.projection, each.mark) for each in accepted))
        anew = [(each.path, each.projection) for each in accepted if each.anew]
        transaction.run_many("DELETE FROM set_aside WHERE stream = ? AND projection = ?", anew)
        transaction.run_many(_SET_ASIDE, [
            (each.path, each.projection, aside.offset, aside.length, aside.kind, aside.reason, aside.data)
            for each in accepted
            for aside in each.set_aside
        ])  # fmt: skip
        self._write_rows(transaction, accepted)
        self._note_divergences(transaction, accepted)

    def _write_rows(self, transaction: Transaction, accepted: Sequence[Folded]) -> None:
        for name, projection in self._projections.items():
            changes = [
                Change(
                    stream_of(each.path),
                    each.compressed,
                    projection.decode(each.mark.state),
                    each.anew,
                    each.emitted,
                )
                for each in accepted
                if each.projection == name
            ]
            if changes:
                projection.write(transaction, changes)

    def _note_divergences(self, transaction: Transaction, accepted: Sequence[Folded]) -> None:
        now_ms = self._clock.wall_ms()
        transaction.run_many(_DIVERGENCE, [
            {"at_ms": now_ms, "stream": each.path, "class": each.divergence}
            for each in accepted
            if each.divergence is not None
        ])  # fmt: skip

    def _note_failures(self, transaction: Transaction, done: Sequence[Done]) -> None:
        now_ms = self._clock.wall_ms()
        transaction.run(
            "DELETE FROM failures WHERE path IN (SELECT value FROM json_each(:paths))",
            {"paths": _json([each.path for each in done if each.reason is None])},
        )
        transaction.run_many(_FAILURE, [(each.path, each.reason, now_ms, now_ms) for each in done if each.reason])


def _json(values: Sequence[str]) -> str:
    return msgspec.json.encode(values).decode()


_MISSING = "SELECT path FROM streams WHERE missing_since_ms IS NOT NULL"

_STREAMS_OF = "SELECT path FROM streams WHERE thread_id = :thread_id"

_ORPHAN = """
    DELETE FROM threads
    WHERE id = :thread_id AND NOT EXISTS (SELECT 1 FROM streams WHERE thread_id = :thread_id AND records > 0)
"""

_STANDS_ELSEWHERE = """
    SELECT gone.path FROM streams AS gone
    WHERE gone.path IN (SELECT value FROM json_each(:gone)) AND (gone.records = 0 OR EXISTS (
        SELECT 1 FROM streams AS other
        WHERE other.thread_id = gone.thread_id AND other.rollout_id = gone.rollout_id
        AND other.path <> gone.path AND other.missing_since_ms IS NULL
    ))
"""

_SET_ASIDE = """
    INSERT INTO set_aside (stream, projection, "offset", length, kind, reason, bytes) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (stream, projection, "offset") DO UPDATE
    SET length = excluded.length, kind = excluded.kind, reason = excluded.reason, bytes = excluded.bytes
"""

_DIVERGENCE = """
    INSERT INTO divergences (at_ms, stream, thread_id, class, detail)
    SELECT :at_ms, path, thread_id, :class, 'the bytes before the watermark are not those that were followed'
    FROM streams WHERE path = :stream
"""

_FAILURE = """
    INSERT INTO failures (path, reason, attempts, first_at_ms, last_at_ms) VALUES (?, ?, 1, ?, ?)
    ON CONFLICT (path) DO UPDATE SET reason = excluded.reason, attempts = attempts + 1, last_at_ms = excluded.last_at_ms
"""
