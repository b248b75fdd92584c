"""Many processes back-fill one home at once: one works, the others look on, and each record has its effect once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

import engine
from engine.options import Options
from engine.projections.backfill import BackfillReport, Progress
from engine.stores.files import Files
from engine.testing import HomePlan, MadeThread, append_turns, make_home
from engine.testing.files import Call, FaultyFiles
from engine.testing.tables import dump

CHECKOUT = Path(__file__).resolve().parents[2]
THREADS = 120
STARTERS = 20

# Gets ready, waits for the signal, back-fills, lists; says what it came to.
STARTER = """
import sys
import engine
from engine.options import Options
print("ready", flush=True)
sys.stdin.readline()
options = Options(background_scan_s=0, busy_wait_ms=30_000, spectator_poll_ms=10, list_budget_ms=60_000)
with engine.open(sys.argv[1], options=options) as opened:
    report = opened.backfill()
    listed = opened.threads.list(limit=0)
    print(report.status, report.threads, report.files, len(report.failed), len(listed.threads), listed.partial, flush=True)
"""

# Back-fills with a short lease and stops itself (as Ctrl-Z or a suspended machine would) behind its second checkpoint.
STOPPER = """
import os, signal, sys
import engine
from engine.options import Options
told = []
def tell(progress):
    told.append(progress)
    if len(told) == 3:
        print("stopping", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
options = Options(background_scan_s=0, batch_streams=10, lease_ms=200, spectator_poll_ms=10)
with engine.open(sys.argv[1], options=options) as opened:
    report = opened.backfill(progress=tell)
    print(report.status, report.threads, report.joined, flush=True)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_home(tmp_path / "home", HomePlan(threads=THREADS, bytes_max=5_000, seed=21))
    return tmp_path / "home"


@pytest.fixture
def clean(home: Path, tmp_path: Path) -> dict[str, list[tuple]]:
    with engine.open(str(home), state_dir=str(tmp_path / "clean")) as opened:
        opened.backfill()
    return dump(tmp_path / "clean/state_1.sqlite")


def child(script: str, home: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", script, str(home)], cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def rollouts(home: Path) -> int:
    return sum(name.endswith(".jsonl") for _, _, names in os.walk(home) for name in names)


def test_twenty_start_on_a_new_home_and_each_rollout_is_folded_once(home: Path, clean: dict[str, list[tuple]]) -> None:
    """All exit 0 with all threads listed; the files folded by all of them together are those of the home."""
    processes = [child(STARTER, home) for _ in range(STARTERS)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120) for process in processes]
    assert [(process.returncode, errors) for process, (_, errors) in zip(processes, ends, strict=True)] == [
        (0, "")
    ] * STARTERS
    said = [out.split() for out, _ in ends]
    assert [(status, threads, failed, listed, partial) for status, threads, _, failed, listed, partial in said] == [
        ("complete", str(THREADS), "0", str(THREADS), "None")
    ] * STARTERS
    assert sum(int(files) for _, _, files, *_ in said) == rollouts(home)
    assert dump(home / "engine/state_1.sqlite") == clean


def test_a_second_one_looks_on_with_progress_and_gets_the_same_answer(home: Path) -> None:
    """While the first works, the second is told how far it is and by whom; no error, and nothing done twice."""
    seen: list[Progress] = []
    looked = threading.Event()
    answers: list[BackfillReport] = []
    options = Options(batch_streams=40, spectator_poll_ms=10)

    def look_on() -> None:
        def tell(progress: Progress) -> None:
            seen.append(progress)
            looked.set()

        with engine.open(str(home), options=options) as second:
            answers.append(second.backfill(progress=tell))

    spectator = threading.Thread(target=look_on)

    def wait_for_the_other(progress: Progress) -> None:
        if progress.what is None and progress.files_done == 40:
            spectator.start()
            assert looked.wait(60)

    with engine.open(str(home), options=options) as first:
        report = first.backfill(progress=wait_for_the_other)
    spectator.join(60)
    (other,) = answers
    assert (report.status, report.threads, report.files, report.joined) == ("complete", THREADS, rollouts(home), False)
    assert (other.status, other.threads, other.files, other.joined) == ("complete", THREADS, 0, True)
    assert (seen[0].files_done, seen[0].files_total) == (40, rollouts(home))
    assert str(os.getpid()) in str(seen[0].owner)


def test_a_stopped_owner_loses_the_work_and_its_late_effects(home: Path, clean: dict[str, list[tuple]]) -> None:
    """Stopped in mid-run, its lease lapses and is taken; continued, it writes nothing more and sees the same end."""
    stopped = child(STOPPER, home)
    assert stopped.stdout.readline() == "stopping\n"
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    try:
        with engine.open(str(home), options=Options(batch_streams=10, lease_ms=200, spectator_poll_ms=10)) as opened:
            report = opened.backfill()
            assert (report.status, report.threads, report.joined) == ("complete", THREADS, True)
            before = dump(home / "engine/state_1.sqlite")
            stopped.send_signal(signal.SIGCONT)
            said, errors = stopped.communicate(timeout=60)
    finally:
        stopped.kill()
    assert (stopped.returncode, errors, said) == (0, "", f"complete {THREADS} True\n")
    assert dump(home / "engine/state_1.sqlite") == before == clean


def test_an_overtaken_owner_that_cannot_give_a_heartbeat_is_stopped_by_the_fence(home: Path) -> None:
    """Its lease lapsed and the work was done by another; then the jobs database locks, and only its own write tells."""
    options = Options(busy_wait_ms=50, batch_streams=40, lease_ms=1)
    with engine.open(str(home), options=options) as first, engine.open(str(home), options=options) as second:
        held = locked(home / "engine/jobs_1.sqlite")
        steps: list[int] = []

        def overtake(progress: Progress) -> None:
            if progress.what is not None:
                return  # a side database
            steps.append(progress.files_done)
            if steps == [0, 40]:
                assert second.backfill().status == "complete"
                held.__enter__()

        report = first.backfill(progress=overtake)
        held.__exit__(None, None, None)
    assert (report.status, report.joined) == ("complete", True)
    assert steps == [0, 40, rollouts(home)]


def test_a_watermark_that_another_moved_meanwhile_is_folded_again(tmp_path: Path) -> None:
    """Another engine writes what the file said, the file grows, and then this one writes: the row has the new turn."""
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=5, bytes_max=5_000, archived=0.0, reverted=0.0))
    longer: list[MadeThread] = []

    def overtake(_number: int, call: Call) -> None:
        if call.name == "open_read" and call.path == f"{home}/{made[1].path}" and not longer:
            with engine.open(str(home)) as other:
                other.threads.list(limit=0)
            longer.append(append_turns(home, made[1]))

    with engine.open(str(home), files=FaultyFiles(Files(), overtake)) as opened:
        assert opened.backfill().status == "complete"
    connection = apsw.Connection(str(home / "engine/state_1.sqlite"), flags=apsw.SQLITE_OPEN_READWRITE)
    row = connection.execute("SELECT tokens_used, updated_at_ms FROM threads WHERE id = ?", (made[1].id,)).fetchone()
    connection.close()
    assert row == (longer[0].row["tokens_used"], longer[0].row["updated_at_ms"])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody keeps the database for good."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_a_locked_jobs_database_does_not_stop_a_backfill(home: Path, clean: dict[str, list[tuple]]) -> None:
    """Leases cannot be claimed: the watermarks' compare-and-swap keeps the rows right without."""
    with engine.open(str(home)):
        pass
    with locked(home / "engine/jobs_1.sqlite"), engine.open(str(home), options=Options(busy_wait_ms=50)) as opened:
        assert opened.backfill().status == "complete"
    assert dump(home / "engine/state_1.sqlite") == clean


def test_a_jobs_database_that_locks_in_mid_run_does_not_stop_a_backfill(
    home: Path, clean: dict[str, list[tuple]]
) -> None:
    """No heartbeat can be given and the lease cannot be released: the run ends all the same."""
    options = Options(busy_wait_ms=50, batch_streams=40, lease_ms=1)
    with engine.open(str(home), options=options) as opened:
        held = locked(home / "engine/jobs_1.sqlite")

        def lock(progress: Progress) -> None:
            if progress.what is None and progress.files_done == 40:
                held.__enter__()

        report = opened.backfill(progress=lock)
        held.__exit__(None, None, None)
    assert (report.status, report.threads) == ("complete", THREADS)
    assert dump(home / "engine/state_1.sqlite") == clean


@pytest.mark.parametrize("garbage", [b"", b"no database" * 999], ids=["zero bytes", "garbage"])
def test_a_garbage_jobs_database_is_made_anew(home: Path, clean: dict[str, list[tuple]], garbage: bytes) -> None:
    """It is worth nothing but the leases, so nothing is lost."""
    (home / "engine").mkdir()
    (home / "engine/jobs_1.sqlite").write_bytes(garbage)
    with engine.open(str(home)) as opened:
        assert opened.backfill().status == "complete"
    assert dump(home / "engine/state_1.sqlite") == clean


def test_a_jobs_database_deleted_while_open_does_not_stop_a_backfill(home: Path, clean: dict[str, list[tuple]]) -> None:
    """Each open engine goes on without leases."""
    with engine.open(str(home)) as opened:
        for name in ("jobs_1.sqlite", "jobs_1.sqlite-wal", "jobs_1.sqlite-shm"):
            (home / "engine" / name).unlink(missing_ok=True)
        assert opened.backfill().status == "complete"
        assert opened.status().backfill.owner is None
    assert dump(home / "engine/state_1.sqlite") == clean
