"""Jobs: who works on what, how often it was tried, and when it may be tried again.

A job is a row of `jobs_1.sqlite`, by kind and key, for one watermark: how new the thing was when work on it began. It can
be claimed when nobody lives who works on it, its watermark is above the last success, its attempts are not used up and no
pause after a failure is on; a newer watermark starts the attempts anew. All of that, and how many of the kind may run at
once, is decided in one write transaction. Every claim is an attempt, so that work which kills its process is not
begun for ever.

A claim has a token, by which its owner heartbeats and ends it, and a generation, higher than any before it, which its
effect carries: what an overtaken owner still does is known by its lower one. Owners that are dead hold nothing; one that
lives loses its job when no heartbeat came for `lease_ms`. Times are those since boot, so no clock that is set changes
anything; after a boot every pause is over. Losing this database costs double work and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from engine.clock import Clock
from engine.errors import LeaseLost
from engine.stores.files import Files
from engine.stores.locks import Owner
from engine.stores.mending import mending
from engine.stores.sqlite import Database, Row, Transaction, Value

_ERROR_CHARS_MAX = 2_000


class Why(StrEnum):
    """Why a job was not claimed."""

    UP_TO_DATE = "up_to_date"
    RUNNING = "running"
    BACKOFF = "backoff"
    EXHAUSTED = "exhausted"
    CAP = "cap"


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job. `attempts` is 1 at the first try of this watermark."""

    kind: str
    key: str
    watermark: int
    generation: int
    token: str
    attempts: int


class Refused(NamedTuple):
    """A job that was not claimed. The rest is of its last claim, where there was one."""

    key: str
    watermark: int
    why: Why
    generation: int = 0
    attempts: int = 0
    last_error: str | None = None


class Wanted(NamedTuple):
    """What is to be claimed; its generation is to be above `above`, that of the last known effect."""

    key: str
    watermark: int
    above: int = 0


class Running(NamedTuple):
    """A job that somebody is at."""

    key: str
    owner: str
    progress: str
    attempts: int


class Failed(NamedTuple):
    """A job whose last try failed."""

    key: str
    watermark: int
    attempts: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class _Stored:
    status: str
    generation: int
    owner: Owner
    attempts: int
    input_watermark: int
    success_watermark: int | None
    expires_boot_ms: int | None
    retry_boot_ms: int | None
    last_error: str | None


class _Seen:
    """What one transaction has found out about processes: this one, and which others live."""

    def __init__(self, here: Owner) -> None:
        self.here = here
        self._states: dict[Owner, str] = {}

    def state(self, owner: Owner, files: Files) -> str:
        """Whether it lives, asked once each."""
        if owner not in self._states:
            self._states[owner] = "alive" if owner == self.here else owner.state(files)
        return self._states[owner]


class Jobs:
    """The jobs of one home, over its open `jobs_1.sqlite`."""

    def __init__(
        self, database: Database, *, lease_ms: int, attempts_max: int | None, clock: Clock, files: Files
    ) -> None:
        self._database = database
        self._lease_ms = lease_ms
        self._attempts_max = attempts_max
        self._clock = clock
        self._files = files
        self._watched: dict[tuple[str, int], tuple[int, int]] = {}
        """Of owners on other hosts: when the heartbeat that stands in the row was first seen."""

    def claim(self, kind: str, wanted: Wanted, *, running_max: int | None = None) -> Job | Refused:
        """Take one job where it is free; `running_max` bounds how many of the kind run at once."""
        (answer,) = self.claim_some(kind, [wanted], limit=1, running_max=running_max)
        return answer

    def claim_some(
        self, kind: str, wanted: Sequence[Wanted], *, limit: int, running_max: int | None = None
    ) -> list[Job | Refused]:
        """Take the first `limit` that are free, in one transaction; an answer for each that was looked at."""
        return mending(self._database, lambda: self._claim_some(kind, wanted, limit, running_max))

    def _claim_some(
        self, kind: str, wanted: Sequence[Wanted], limit: int, running_max: int | None
    ) -> list[Job | Refused]:
        answers: list[Job | Refused] = []
        with self._database.write() as transaction:
            seen = _Seen(Owner.here(self._files))
            running = 0 if running_max is None else self._count_running(transaction, kind, seen)
            for each in wanted:
                if limit <= 0:
                    break
                stored = self._stored(transaction, kind, each.key)
                why = self._refusal(kind, each, stored, seen)
                if why is None and running_max is not None and running >= running_max:
                    why = Why.CAP
                if why is not None:
                    answers.append(_refused(each, why, stored))
                    continue
                answers.append(self._take(transaction, kind, each, stored, seen.here))
                running, limit = running + 1, limit - 1
        return answers

    def heartbeat(self, job: Job, progress: str = "") -> None:
        """Hold the job for another `lease_ms`; raises `LeaseLost`, also where the lease lapsed and nobody has it yet.

        It may not be revived: others may have been let in under the bound of how many run.
        """
        now_ms = self._clock.boot_ms()
        values = {**_named(job), "now": now_ms, "expires": now_ms + self._lease_ms, "progress": progress}
        if not self._end(_HEARTBEAT, values):
            raise _lost(job)

    def confirm(self, job: Job) -> None:
        """That the job is still ours, to be asked before each effect; raises `LeaseLost`. A lapsed one is, until taken."""
        with self._database.read() as transaction:
            if transaction.row(_IS_OURS, _named(job)) is None:
                raise _lost(job)

    def complete(self, job: Job) -> bool:
        """The job is done; False where it is not ours any more."""
        return self._end(_COMPLETE, {**_named(job), "now": self._clock.wall_ms()})

    def fail(self, job: Job, reason: str, *, pause_ms: int) -> bool:
        """The try failed and may be done again after a pause; False where it is not ours any more."""
        retry = self._clock.boot_ms() + max(pause_ms, 0)
        values = {**_named(job), "now": self._clock.wall_ms(), "retry": retry, "reason": reason[:_ERROR_CHARS_MAX]}
        return self._end(_FAIL, values)

    def release(self, job: Job) -> bool:
        """Give the job back as if it had not been claimed: the attempt does not count."""
        return self._end(_RELEASE, _named(job))

    def _end(self, sql: str, values: dict[str, Value]) -> bool:
        with self._database.write() as transaction:
            return transaction.run(sql, values) > 0

    def running(self, kind: str) -> list[Running]:
        """Who is at what now."""
        with self._database.read() as transaction:
            rows = [(row[0], _stored(row[1:])) for row in transaction.rows(_RUNNING, {"kind": kind})]
            progress: dict[str, str] = dict(transaction.rows(_PROGRESS, {"kind": kind}))
        seen = _Seen(Owner.here(self._files))
        return [
            Running(key, str(stored.owner), progress.get(key, ""), stored.attempts)
            for key, stored in rows
            if self._is_live(kind, key, stored, seen)
        ]

    def failed(self, kind: str) -> list[Failed]:
        """Jobs whose last try failed, and those whose owner ended without an answer."""
        with self._database.read() as transaction:
            rows = [(row[0], _stored(row[1:])) for row in transaction.rows(_UNDONE, {"kind": kind})]
        seen = _Seen(Owner.here(self._files))
        return [
            Failed(key, stored.input_watermark, stored.attempts, _reason(stored))
            for key, stored in rows
            if stored.status == "failed" or not self._is_live(kind, key, stored, seen)
        ]

    def newest_generation(self, kind: str, key: str | None = None) -> int:
        """The highest generation that was handed out for a job of the kind, or for this one, as far as is known."""
        with self._database.read() as transaction:
            row = transaction.row(_NEWEST if key is None else _NEWEST_OF, {"kind": kind, "key": key})
        return 0 if row is None else int(row[0])

    def forget(self, kind: str, keys: Iterable[str] | None = None) -> int:
        """Remove jobs by key, or all of the kind; how many. Whoever is at one loses it."""
        with self._database.write() as transaction:
            if keys is None:
                return transaction.run("DELETE FROM jobs WHERE kind = :kind", {"kind": kind})
            return sum(transaction.run(_FORGET, {"kind": kind, "key": key}) for key in keys)

    def erase(self, kind: str, keys: Iterable[str]) -> int:
        """`forget` these, and leave no byte of what stood in their rows, an error's text among it."""
        count = self.forget(kind, keys)
        self._database.scrub()
        return count

    def _count_running(self, transaction: Transaction, kind: str, seen: _Seen) -> int:
        """How many of the kind run: those whose owner is dead or silent do not count."""
        values: dict[str, Value] = {"kind": kind, "boot_id": seen.here.boot_id, "now": self._clock.boot_ms()}
        owners = list(transaction.rows(_RUNNING_HERE, values))
        here: int = sum(count for *owner, count in owners if seen.state(Owner(*owner), self._files) != "dead")
        others = [(row[0], _stored(row[1:])) for row in transaction.rows(_RUNNING_ELSEWHERE, values)]
        return here + sum(self._is_live(kind, key, stored, seen) for key, stored in others)

    def _stored(self, transaction: Transaction, kind: str, key: str) -> _Stored | None:
        row = transaction.row(_SELECT, {"kind": kind, "key": key})
        return None if row is None else _stored(row)

    def _refusal(self, kind: str, wanted: Wanted, stored: _Stored | None, seen: _Seen) -> Why | None:
        if stored is None:
            return None
        if stored.success_watermark is not None and stored.success_watermark >= wanted.watermark:
            return Why.UP_TO_DATE
        if self._is_live(kind, wanted.key, stored, seen):
            return Why.RUNNING
        if wanted.watermark > stored.input_watermark:
            return None
        if self._attempts_max is not None and stored.attempts >= self._attempts_max:
            return Why.EXHAUSTED
        return Why.BACKOFF if self._is_paused(stored, seen.here) else None

    def _is_paused(self, stored: _Stored, here: Owner) -> bool:
        if stored.status != "failed" or stored.retry_boot_ms is None:
            return False
        return stored.owner.boot_id == here.boot_id and stored.retry_boot_ms > self._clock.boot_ms()

    def _is_live(self, kind: str, key: str, stored: _Stored, seen: _Seen) -> bool:
        """Whether somebody works on it: an owner that is dead, or was silent for too long, does not."""
        if stored.status != "running" or stored.expires_boot_ms is None:
            return False
        if seen.state(stored.owner, self._files) == "dead":
            return False
        now_ms = self._clock.boot_ms()
        if stored.owner.boot_id and stored.owner.boot_id == seen.here.boot_id:
            return stored.expires_boot_ms > now_ms
        # Times of another boot cannot be compared with ours; whether the heartbeat moves can be seen.
        watched = self._watched.get((kind + key, stored.generation))
        if watched is None or watched[0] != stored.expires_boot_ms:
            watched = self._watched[kind + key, stored.generation] = (stored.expires_boot_ms, now_ms)
        return watched[1] + self._lease_ms > now_ms

    def _take(self, transaction: Transaction, kind: str, wanted: Wanted, stored: _Stored | None, owner: Owner) -> Job:
        before = 0 if stored is None else stored.generation
        is_newer = stored is None or wanted.watermark > stored.input_watermark
        attempts = 1 if stored is None or is_newer else stored.attempts + 1
        generation = max(before + 1, wanted.above + 1, self._clock.wall_ms())
        job = Job(kind, wanted.key, wanted.watermark, generation, self._clock.new_id(), attempts)
        values: dict[str, Value] = {
            **_named(job),
            "host": owner.host,
            "boot_id": owner.boot_id,
            "pid": owner.pid,
            "started": owner.started,
            "attempts": attempts,
            "watermark": wanted.watermark,
            "expires": self._clock.boot_ms() + self._lease_ms,
        }
        transaction.run(_CLAIM, values)
        return job


def _lost(job: Job) -> LeaseLost:
    return LeaseLost(
        f"the job {job.kind} {job.key} (generation {job.generation}) is lost: its lease lapsed, or it was ended",
        hint="leave the work to the new owner",
    )


def _named(job: Job) -> dict[str, Value]:
    return {"kind": job.kind, "key": job.key, "token": job.token, "generation": job.generation}


def _stored(row: Row) -> _Stored:
    status, generation, host, boot_id, pid, started, *rest = row
    return _Stored(status, generation, Owner(host, boot_id, pid, started), *rest)


def _reason(stored: _Stored) -> str | None:
    return (
        f"its process ended {stored.attempts} times before it was done"
        if stored.status == "running"
        else stored.last_error
    )


def _refused(wanted: Wanted, why: Why, stored: _Stored | None) -> Refused:
    if stored is None:
        return Refused(wanted.key, wanted.watermark, why)
    return Refused(wanted.key, wanted.watermark, why, stored.generation, stored.attempts, _reason(stored))


_COLUMNS = """status, generation, host, boot_id, pid, started, attempts, input_watermark, success_watermark,
    expires_boot_ms, retry_boot_ms, last_error"""

_BY_STATUS = "jobs INDEXED BY jobs_by_status"
"""Left to itself SQLite goes through all jobs of the kind, of which there is one a thread."""

_SELECT = f"SELECT {_COLUMNS} FROM jobs WHERE kind = :kind AND job_key = :key"  # noqa: S608 - names of ours
_RUNNING = f"SELECT job_key, {_COLUMNS} FROM {_BY_STATUS} WHERE kind = :kind AND status = 'running'"  # noqa: S608 - the same
_RUNNING_HERE = f"""
SELECT host, boot_id, pid, started, count(*) FROM {_BY_STATUS}
WHERE kind = :kind AND status = 'running' AND boot_id = :boot_id AND boot_id <> '' AND expires_boot_ms > :now
GROUP BY host, boot_id, pid, started
"""  # noqa: S608 - the same
_RUNNING_ELSEWHERE = f"{_RUNNING} AND (boot_id <> :boot_id OR boot_id = '')"
_UNDONE = f"SELECT job_key, {_COLUMNS} FROM {_BY_STATUS} WHERE kind = :kind AND status IN ('running', 'failed')"  # noqa: S608 - the same
_NEWEST = "SELECT coalesce(max(generation), 0) FROM jobs WHERE kind = :kind"
_NEWEST_OF = "SELECT generation FROM jobs WHERE kind = :kind AND job_key = :key"
_PROGRESS = f"SELECT job_key, progress FROM {_BY_STATUS} WHERE kind = :kind AND status = 'running'"  # noqa: S608 - the same
_FORGET = "DELETE FROM jobs WHERE kind = :kind AND job_key = :key"

_CLAIM = """
INSERT INTO jobs (kind, job_key, status, generation, token, host, boot_id, pid, started, progress, attempts,
    input_watermark, expires_boot_ms)
VALUES (:kind, :key, 'running', :generation, :token, :host, :boot_id, :pid, :started, '', :attempts, :watermark, :expires)
ON CONFLICT (kind, job_key) DO UPDATE SET
    status = excluded.status, generation = excluded.generation, token = excluded.token, host = excluded.host,
    boot_id = excluded.boot_id, pid = excluded.pid, started = excluded.started, progress = excluded.progress,
    attempts = excluded.attempts, input_watermark = excluded.input_watermark,
    expires_boot_ms = excluded.expires_boot_ms, retry_boot_ms = NULL, finished_at_ms = NULL, last_error = NULL
"""

_OURS = "kind = :kind AND job_key = :key AND status = 'running' AND token = :token AND generation = :generation"

_IS_OURS = f"SELECT 1 FROM jobs WHERE {_OURS}"  # noqa: S608 - names of ours

_HEARTBEAT = f"""
UPDATE jobs SET expires_boot_ms = :expires, progress = :progress WHERE {_OURS} AND expires_boot_ms > :now
"""  # noqa: S608 - the same

_COMPLETE = f"""
UPDATE jobs SET status = 'done', token = NULL, expires_boot_ms = NULL, finished_at_ms = :now, attempts = 0,
    success_watermark = max(coalesce(success_watermark, input_watermark), input_watermark)
WHERE {_OURS}
"""  # noqa: S608 - the same

_FAIL = f"""
UPDATE jobs SET status = 'failed', token = NULL, expires_boot_ms = NULL, finished_at_ms = :now, retry_boot_ms = :retry,
    last_error = :reason
WHERE {_OURS}
"""  # noqa: S608 - the same

_RELEASE = f"""
UPDATE jobs SET status = 'released', token = NULL, expires_boot_ms = NULL, attempts = max(attempts - 1, 0)
WHERE {_OURS}
"""  # noqa: S608 - the same
