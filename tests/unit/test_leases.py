"""Leases: one owner at a time, whoever dies, stalls, or sets a clock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.clock import SystemClock
from engine.errors import LeaseLost
from engine.options import Options
from engine.stores.files import Files
from engine.stores.leases import Held, Lease, Leases, fence
from engine.stores.locks import Owner
from engine.stores.sqlite import Database
from engine.testing.clock import MORNING_MS, ManualClock

CHECKOUT = Path(__file__).resolve().parents[2]
LEASE_MS = 30_000
DAY_MS = 24 * 3600 * 1000

# Claims the lease and says what it got; holds on until it reads a line.
CHILD = """
import sys
from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.leases import Lease, Leases
from engine.stores.sqlite import Database
arguments = {"options": Options(), "clock": SystemClock(), "files": Files()}
database = Database.open(sys.argv[1], "jobs", 1, migrations="jobs", **arguments)
leases = Leases(database, **arguments)
print("ready", flush=True)
sys.stdin.readline()
got = leases.claim("backfill", "child")
print("won" if isinstance(got, Lease) else got.owner.pid, flush=True)
sys.stdin.readline()
"""


class Elsewhere(Files):
    """The files of a process on another host: it names itself so, whatever the kernel says."""

    def __init__(self, boot: str = "another-boot") -> None:
        self.boot = boot

    def read_small(self, path, *, bytes_max, op):
        if op == "owner.boot":
            return self.boot.encode()
        return super().read_small(path, bytes_max=bytes_max, op=op)

    def read_link(self, path, *, op):
        return "pid:[4026532999]"


Opener = Callable[..., Leases]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Each call is one more process's view of the same leases."""
    databases: list[Database] = []

    def _open(clock: ManualClock | SystemClock, files: Files | None = None) -> Leases:
        arguments = {"options": Options(lease_ms=LEASE_MS), "clock": clock, "files": files or Files()}
        databases.append(Database.open(str(tmp_path / "engine"), "jobs", 1, migrations="jobs", **arguments))
        return Leases(databases[-1], **arguments)

    yield _open
    for database in databases:
        database.close()


@pytest.fixture
def leases(opened: Opener, clock: ManualClock) -> Leases:
    return opened(clock)


def claimed(leases: Leases, name: str = "backfill", purpose: str = "back-fill") -> Lease:
    got = leases.claim(name, purpose)
    assert isinstance(got, Lease), got
    return got


def rewritten(leases: Leases, **columns: str | int) -> None:
    """Make the row say something else about its owner."""
    with leases._database.write() as transaction:
        for column, value in columns.items():
            assert transaction.run(f"UPDATE leases SET {column} = ?", (value,)) == 1


def child(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_what_is_claimed_is_held_until_it_is_released(leases: Leases, opened: Opener, clock: ManualClock) -> None:
    other = opened(clock)
    assert leases.holder("backfill") is None
    lease = claimed(leases)
    assert lease == Lease("backfill", MORNING_MS, Owner.here(), "back-fill", 1)
    leases.heartbeat(lease, "7 of 9")
    clock.advance(1_000)
    held = Held("backfill", MORNING_MS, Owner.here(), "alive", "back-fill", "7 of 9", LEASE_MS - 1_000)
    assert other.claim("backfill", "also") == held
    assert leases.claim("backfill", "again") == held  # not re-entrant
    assert other.holder("backfill") == held
    leases.release(lease)
    assert other.holder("backfill") is None
    assert claimed(other, purpose="next").purpose == "next"


def test_leases_of_different_names_do_not_meet(leases: Leases) -> None:
    first, second = claimed(leases, "backfill"), claimed(leases, "consolidation")
    leases.release(first)
    leases.heartbeat(second, "")


def test_generations_rise_over_releases_while_the_clock_stands_still(leases: Leases) -> None:
    generations = []
    for _ in range(3):
        lease = claimed(leases)
        leases.release(lease)
        generations.append(lease.generation)
    assert generations == [MORNING_MS, MORNING_MS + 1, MORNING_MS + 2]


def test_losing_the_database_hands_out_no_old_generation(leases: Leases, opened: Opener, clock: ManualClock) -> None:
    before = claimed(leases)
    leases._database.quarantine()
    clock.advance(5)
    assert claimed(opened(clock)).generation == before.generation + 5


def test_a_generation_is_above_the_fence_even_when_the_clock_was_set_back_too(leases: Leases) -> None:
    lease = leases.claim("backfill", "back-fill", above=MORNING_MS + DAY_MS)
    assert isinstance(lease, Lease)
    assert lease.generation == MORNING_MS + DAY_MS + 1


def test_a_lease_lapses_without_a_heartbeat_and_its_owner_learns_of_it(
    leases: Leases, opened: Opener, clock: ManualClock
) -> None:
    lease = claimed(leases)
    clock.advance(LEASE_MS - 1)
    assert isinstance(opened(clock).claim("backfill", "early"), Held)
    clock.advance(1)
    assert leases.holder("backfill") is None
    taken = claimed(opened(clock), purpose="after")
    assert (taken.attempts, taken.generation) == (2, lease.generation + LEASE_MS)
    with pytest.raises(LeaseLost, match=f"process {os.getpid()}"):
        leases.heartbeat(lease, "still here")
    leases.release(lease)  # lost already: must not free the new owner's
    held = leases.holder("backfill")
    assert held is not None
    assert (held.purpose, held.progress) == ("after", "")


def test_a_heartbeat_keeps_it_and_one_after_the_end_does_so_if_nobody_came(leases: Leases, clock: ManualClock) -> None:
    lease = claimed(leases)
    for _ in range(3):
        clock.advance(LEASE_MS - 1)
        leases.heartbeat(lease, "on")
        assert isinstance(leases.claim("backfill", "no"), Held)
    clock.advance(10 * LEASE_MS)
    leases.heartbeat(lease, "late")
    assert isinstance(leases.claim("backfill", "no"), Held)


def test_a_heartbeat_on_a_released_or_vanished_lease_is_lost(leases: Leases) -> None:
    lease = claimed(leases)
    leases.release(lease)
    with pytest.raises(LeaseLost, match="nobody has it now"):
        leases.heartbeat(lease, "on")
    with pytest.raises(LeaseLost, match="nobody has it now"):
        leases.heartbeat(replace(lease, name="never"), "on")


@pytest.mark.parametrize("shift_ms", [-DAY_MS, DAY_MS])
def test_setting_the_wall_clock_neither_frees_nor_keeps_a_lease(
    leases: Leases, clock: ManualClock, shift_ms: int
) -> None:
    lease = claimed(leases)
    clock.set_wall_ms(MORNING_MS + shift_ms)
    assert isinstance(leases.claim("backfill", "no"), Held)
    leases.heartbeat(lease, "on")
    clock.advance(LEASE_MS)
    taken = claimed(leases)
    assert taken.generation == (lease.generation + 1 if shift_ms < 0 else MORNING_MS + DAY_MS + LEASE_MS)


def test_an_owner_killed_with_signal_9_is_free_at_once(opened: Opener, tmp_path: Path) -> None:
    leases = opened(SystemClock())
    process = child(tmp_path / "engine")
    go(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "won\n"
    held = leases.claim("backfill", "parent")
    assert isinstance(held, Held)
    assert (held.owner.pid, held.state, held.purpose) == (process.pid, "alive", "child")
    process.kill()
    process.communicate()
    assert leases.holder("backfill") is None
    assert claimed(leases).attempts == 2


def test_of_ten_who_claim_at_once_exactly_one_wins_and_the_others_know_who(tmp_path: Path) -> None:
    processes = [child(tmp_path / "engine") for _ in range(10)]
    for process in processes:
        go(process)
    answers = {process.pid: process.stdout.readline().strip() for process in processes if process.stdout is not None}
    for process in processes:
        process.kill()
        process.communicate()
    winner = next(pid for pid, answer in answers.items() if answer == "won")
    assert answers == {pid: "won" if pid == winner else str(winner) for pid in answers}


def test_an_owner_whose_process_id_was_handed_out_again_is_dead(leases: Leases) -> None:
    claimed(leases)
    rewritten(leases, started="1")
    if sys.platform == "linux":
        assert claimed(leases).attempts == 2


def test_an_owner_of_another_boot_is_dead(leases: Leases) -> None:
    claimed(leases)
    rewritten(leases, boot_id="before the power cut")
    assert claimed(leases).attempts == 2


def test_an_owner_elsewhere_is_judged_by_whether_its_heartbeat_moves(opened: Opener, clock: ManualClock) -> None:
    theirs = ManualClock(boot_ms=9_000_000_000)  # up for months
    far = opened(theirs, Elsewhere())
    lease = claimed(far)
    near = opened(clock)
    held = near.claim("backfill", "near")
    assert isinstance(held, Held)
    assert (held.state, held.expires_in_ms) == ("elsewhere", LEASE_MS)
    clock.advance(LEASE_MS - 1)
    theirs.advance(LEASE_MS - 1)
    far.heartbeat(lease, "on")
    assert isinstance(near.claim("backfill", "near"), Held)
    clock.advance(LEASE_MS - 1)
    assert isinstance(near.claim("backfill", "near"), Held)
    clock.advance(1)
    assert claimed(near).attempts == 2
    with pytest.raises(LeaseLost):
        far.heartbeat(lease, "on")


def test_an_owner_in_another_container_of_this_machine_lapses_by_the_common_clock(
    opened: Opener, clock: ManualClock
) -> None:
    far = opened(clock, Elsewhere(Owner.here().boot_id))
    claimed(far)
    clock.advance(LEASE_MS - 1)
    assert isinstance(opened(clock).claim("backfill", "near"), Held)
    clock.advance(1)
    assert claimed(opened(clock)).attempts == 2


def test_a_fence_lets_pass_the_latest_owner_and_nobody_before(tmp_path: Path) -> None:
    arguments = {"options": Options(), "clock": ManualClock(), "files": Files()}
    database = Database.open(str(tmp_path / "engine"), "state", 1, migrations="state", **arguments)

    def pass_fence(name: str, generation: int) -> None:
        with database.write() as transaction:
            fence(transaction, name, generation)

    pass_fence("backfill", 5)
    pass_fence("backfill", 5)
    pass_fence("other", 1)
    pass_fence("backfill", 7)
    with pytest.raises(LeaseLost, match="generation 5"):
        pass_fence("backfill", 5)
    with database.read() as transaction:
        assert list(transaction.rows("SELECT * FROM fences ORDER BY name")) == [("backfill", 7), ("other", 1)]
    database.close()
