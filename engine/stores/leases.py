"""Leases: one owner at a time for a piece of work that several processes could do (a back-fill, a consolidation).

A lease is a row of `jobs_1.sqlite`. It is free when nobody has it, when its owner is dead or of another boot, and when
its owner, though alive, has not sent a heartbeat for `lease_ms`. A stopped process may so lose its work, which is why
every effect carries the lease's generation and a later one fences it off (`fence`). Generations rise for ever: each is
the one before plus one, and at least the wall time in ms, so that losing the database hands out no old one again.

Times are milliseconds since boot, so setting the clock neither frees a lease nor keeps one. An owner whose boot time
cannot be compared with ours (another host) is judged by watching: a lease whose heartbeat stood still for `lease_ms` by
our own clock has lapsed. Losing a lease is an ordinary event: `LeaseLost`, and the work is left to the new owner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.clock import Clock
from engine.errors import LeaseLost
from engine.options import Options
from engine.stores.files import Files
from engine.stores.locks import Owner, State
from engine.stores.mending import mending
from engine.stores.sqlite import Database, Row, Transaction, Value

_SELECT = """
SELECT generation, attempts, host, boot_id, pid, started, purpose, progress, expires_boot_ms
FROM leases WHERE name = :name
"""

_CLAIM = """
INSERT INTO leases (name, generation, host, boot_id, pid, started, purpose, progress, claimed_boot_ms, expires_boot_ms,
    attempts)
VALUES (:name, :generation, :host, :boot_id, :pid, :started, :purpose, '', :now, :expires, :attempts)
ON CONFLICT (name) DO UPDATE SET
    generation = excluded.generation, host = excluded.host, boot_id = excluded.boot_id, pid = excluded.pid,
    started = excluded.started, purpose = excluded.purpose, progress = excluded.progress,
    claimed_boot_ms = excluded.claimed_boot_ms, expires_boot_ms = excluded.expires_boot_ms, attempts = excluded.attempts
"""

_HEARTBEAT = """
UPDATE leases SET progress = :progress, expires_boot_ms = :expires
WHERE name = :name AND generation = :generation AND host IS NOT NULL
"""

_RELEASE = """
UPDATE leases SET host = NULL, boot_id = NULL, pid = NULL, started = NULL, purpose = NULL, progress = NULL,
    claimed_boot_ms = NULL, expires_boot_ms = NULL, attempts = 0
WHERE name = :name AND generation = :generation
"""

_FENCE = """
INSERT INTO fences (name, generation) VALUES (:name, :generation)
ON CONFLICT (name) DO UPDATE SET generation = excluded.generation WHERE generation <= excluded.generation
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed lease. `attempts` counts claims since the last release: above 1, an owner before us did not finish."""

    name: str
    generation: int
    owner: Owner
    purpose: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else has the lease: who, what for, how far, and for how long it holds without a new heartbeat."""

    name: str
    generation: int
    owner: Owner
    state: State
    purpose: str
    progress: str
    expires_in_ms: int


@dataclass(frozen=True, slots=True)
class _Found:
    """A row of `leases`; `held` is None where it was released."""

    generation: int
    attempts: int
    held: Held | None


class Leases:
    """The leases of one home, over its open `jobs_1.sqlite`."""

    def __init__(self, database: Database, *, options: Options, clock: Clock, files: Files) -> None:
        self._database = database
        self._options = options
        self._clock = clock
        self._files = files
        self._watched: dict[str, tuple[int, int, int]] = {}

    def claim(self, name: str, purpose: str, *, above: int = 0) -> Lease | Held:
        """Take the lease where it is free, else say who has it. Not re-entrant: what this process holds is held.

        The generation is higher than `above`, the one that fences the effect: the clock may have been set back while
        this database was lost.
        """
        return mending(self._database, lambda: self._claim(name, purpose, above))

    def _claim(self, name: str, purpose: str, above: int) -> Lease | Held:
        owner = Owner.here(self._files)
        with self._database.write() as transaction:
            found = self._found(transaction, name)
            if found is not None and found.held is not None and not self._is_free(found.held):
                return found.held
            before, attempts = (found.generation, found.attempts) if found is not None else (0, 0)
            lease = Lease(name, max(before + 1, above + 1, self._clock.wall_ms()), owner, purpose, attempts + 1)
            transaction.run(_CLAIM, self._values(lease))
            return lease

    def heartbeat(self, lease: Lease, progress: str) -> None:
        """Hold the lease for another `lease_ms` and tell others how far the work is; raises `LeaseLost`."""
        values: dict[str, Value] = {
            "name": lease.name,
            "generation": lease.generation,
            "progress": progress,
            "expires": self._clock.boot_ms() + self._options.lease_ms,
        }
        with self._database.write() as transaction:
            if transaction.run(_HEARTBEAT, values):
                return
            found = self._found(transaction, lease.name)
        now = found.held.owner if found is not None and found.held is not None else "nobody"
        raise _lost(lease.name, lease.generation, f"{now} has it now")

    def release(self, lease: Lease) -> None:
        """Give the lease back. Does nothing where it was lost already."""
        with self._database.write() as transaction:
            transaction.run(_RELEASE, {"name": lease.name, "generation": lease.generation})

    def holder(self, name: str) -> Held | None:
        """Who has the lease, or None where it could be claimed now."""
        found = mending(self._database, lambda: self._stored(name))
        if found is None or found.held is None or self._is_free(found.held):
            return None
        return found.held

    def _stored(self, name: str) -> _Found | None:
        with self._database.read() as transaction:
            return self._found(transaction, name)

    def _found(self, transaction: Transaction, name: str) -> _Found | None:
        row = transaction.row(_SELECT, {"name": name})
        if row is None:
            return None
        return _Found(row[0], row[1], self._held(name, row) if row[2] is not None else None)

    def _held(self, name: str, row: Row) -> Held:
        generation, _attempts, host, boot_id, pid, started, purpose, progress, expires_boot_ms = row
        owner = Owner(host, boot_id, pid, started)
        held = Held(name, generation, owner, owner.state(self._files), purpose, progress, 0)
        return replace(held, expires_in_ms=self._expires_in_ms(held, expires_boot_ms))

    def _expires_in_ms(self, held: Held, expires_boot_ms: int) -> int:
        now_ms = self._clock.boot_ms()
        if held.owner.boot_id and held.owner.boot_id == Owner.here(self._files).boot_id:
            return expires_boot_ms - now_ms
        # Times of another or an unknown boot cannot be compared with ours; whether the heartbeat moves can be seen.
        watched = self._watched.get(held.name)
        if watched is None or watched[:2] != (held.generation, expires_boot_ms):
            watched = self._watched[held.name] = (held.generation, expires_boot_ms, now_ms)
        return watched[2] + self._options.lease_ms - now_ms

    def _is_free(self, held: Held) -> bool:
        return held.state == "dead" or held.expires_in_ms <= 0

    def _values(self, lease: Lease) -> dict[str, Value]:
        now_ms = self._clock.boot_ms()
        return {
            "name": lease.name,
            "generation": lease.generation,
            "host": lease.owner.host,
            "boot_id": lease.owner.boot_id,
            "pid": lease.owner.pid,
            "started": lease.owner.started,
            "purpose": lease.purpose,
            "now": now_ms,
            "expires": now_ms + self._options.lease_ms,
            "attempts": lease.attempts,
        }


def fence(transaction: Transaction, name: str, generation: int) -> None:
    """Let no effect of an older owner pass from here on; raises `LeaseLost` where this one is the older.

    To be called first in each write transaction that is an effect of the lease, on the database of the effect.
    """
    if not transaction.run(_FENCE, {"name": name, "generation": generation}):
        raise _lost(name, generation, "an effect of a later owner is in the database")


def _lost(name: str, generation: int, reason: str) -> LeaseLost:
    return LeaseLost(
        f"the lease {name} (generation {generation}) is lost: {reason}",
        hint="leave the work to the new owner, or claim the lease again",
    )
