"""kill -9 at many points of a back-fill: the next start waits for nobody and ends with the rows of a clean run.

Other engines wait here for the lease of the dead process, for up to fifteen minutes, and refuse to start meanwhile. The
lease of these runs lasts ten minutes, so a start that waited for it would not end within the test's time limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import engine
from engine.options import Options
from engine.projections import pool
from engine.projections.backfill import Failure, Progress
from engine.projections.side import Side
from engine.projections.side_check import compare_side
from engine.projections.side_runner import Piece
from engine.testing import HomePlan, MadeThread, make_home
from engine.testing.tables import dump

CHECKOUT = Path(__file__).resolve().parents[2]
THREADS = 240
LEASE_MS = 600_000
OPTIONS = Options(batch_streams=20, lease_ms=LEASE_MS, spawn_bytes_min=0)

# Back-fills and tells its progress, a line a checkpoint; the last line is what it came to.
CHILD = f"""
import sys
import engine
from engine.options import Options
options = Options(background_scan_s=0, batch_streams=20, lease_ms={LEASE_MS}, spawn_bytes_min=0)
print("ready", flush=True)
with engine.open(sys.argv[1], state_dir=sys.argv[2], options=options) as opened:
    report = opened.backfill(workers=int(sys.argv[3]), progress=lambda at: print(at.files_done, flush=True))
    print(report.status, report.threads, report.joined, flush=True)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MadeThread]]:
    folder = tmp_path_factory.mktemp("kill") / "home"
    return folder, make_home(folder, HomePlan(threads=THREADS, bytes_max=6_000, seed=11))


@pytest.fixture(scope="module")
def clean(home: tuple[Path, list[MadeThread]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple]]:
    state = tmp_path_factory.mktemp("clean")
    with engine.open(str(home[0]), state_dir=str(state)) as opened:
        assert opened.backfill().threads == THREADS
    return dump(state / "state_1.sqlite")


def start(home: Path, state: Path, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(home), str(state), str(workers)]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def children(pid: int) -> list[int]:
    """The processes that were started by this one and still run."""
    stats = {int(name): stat_of(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return [found for found, stat in stats.items() if stat is not None and int(stat[1]) == pid and stat[0] != "Z"]


def stat_of(pid: int) -> list[str] | None:
    """State, parent and so on; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def has_ended(pid: int) -> bool:
    stat = stat_of(pid)
    return stat is None or stat[0] == "Z"


def wait_until_ended(pids: list[int]) -> list[int]:
    """Those that have not ended after a minute."""
    deadline = time.monotonic() + 60
    while (left := [pid for pid in pids if not has_ended(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def check_next_start(home: Path, state: Path, workers: int, clean: dict[str, list[tuple]]) -> None:
    """A start right after the kill is complete, waited for nobody, and has the rows of a clean run."""
    process = start(home, state, workers)
    said, errors = process.communicate(timeout=90)
    assert (process.returncode, errors) == (0, "")
    assert said.splitlines()[-1] == f"complete {THREADS} False"
    assert dump(state / "state_1.sqlite") == clean
    with engine.open(str(home), state_dir=str(state)) as opened:
        assert opened.audit().findings == []
        assert opened.backfill().files == 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("checkpoints", [1, 2, 5, 9, 13])
def test_killed_after_a_checkpoint(
    home: tuple[Path, list[MadeThread]], clean: dict[str, list[tuple]], tmp_path: Path, workers: int, checkpoints: int
) -> None:
    """Killed when so many checkpoints were told of (the first is the start, before any row)."""
    process = start(home[0], tmp_path, workers)
    assert process.stdout is not None
    for _ in range(checkpoints):
        process.stdout.readline()
    mine = children(process.pid)
    kill(process)
    assert wait_until_ended(mine) == []
    check_next_start(home[0], tmp_path, workers, clean)


def killed_at_any_moment(home: Path, state: Path, seed: int, kills: int) -> None:
    """Kill run after run on the same tables, each after a short random time, whatever it does then."""
    rng = Random(seed)
    for _ in range(kills):
        process = start(home, state, workers=rng.choice([0, 0, 2]))
        time.sleep(rng.uniform(0, 0.25))  # any moment will do: there is no condition to wait for
        mine = children(process.pid)
        kill(process)
        assert wait_until_ended(mine) == []


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_at_any_moment(
    home: tuple[Path, list[MadeThread]], clean: dict[str, list[tuple]], tmp_path: Path, seed: int
) -> None:
    """While it opens, makes its tables, claims, folds, commits: five kills in a row on the same tables."""
    killed_at_any_moment(home[0], tmp_path, seed, kills=5)
    check_next_start(home[0], tmp_path, 0, clean)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 130))
def test_soak_killed_again_and_again_at_any_moment(
    home: tuple[Path, list[MadeThread]], clean: dict[str, list[tuple]], tmp_path: Path, seed: int
) -> None:
    """The same, for longer."""
    killed_at_any_moment(home[0], tmp_path, seed, kills=20)
    check_next_start(home[0], tmp_path, 2, clean)


@pytest.fixture
def opened(home: tuple[Path, list[MadeThread]], tmp_path: Path) -> Iterator[engine.Engine]:
    with engine.open(str(home[0]), state_dir=str(tmp_path), options=OPTIONS) as found:
        yield found


def test_a_worker_killed_in_the_middle_costs_nothing(
    opened: engine.Engine, clean: dict[str, list[tuple]], tmp_path: Path
) -> None:
    """One of two workers is killed as the work begins: the run ends, complete and with every row."""
    killed: list[int] = []

    def strike(_progress: Progress) -> None:
        if not killed and (mine := children(os.getpid())):
            os.kill(mine[0], signal.SIGKILL)
            killed.append(mine[0])

    report = opened.backfill(workers=2, progress=strike)
    assert (report.status, report.threads, report.failed) == ("complete", THREADS, ())
    assert len(killed) == 1
    assert dump(tmp_path / "state_1.sqlite") == clean
    assert children(os.getpid()) == []


def test_a_rollout_that_ends_its_worker_each_time_is_a_failure_and_the_others_are_there(
    opened: engine.Engine,
    home: tuple[Path, list[MadeThread]],
    clean: dict[str, list[tuple]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an out-of-memory kill would: listed with its reason, tried again by the next run."""
    poison = home[1][7].path
    deadly = (
        "import os, signal, sys; sys.path[:] = sys.argv[1:];"
        "from engine.projections import worker; pieces = worker.Hand.pieces;"
        f"worker.Hand.pieces = lambda hand, job: os.kill(os.getpid(), 9) if job.path == {poison!r} else pieces(hand, job);"
        "worker.main()"
    )
    monkeypatch.setattr(pool, "_RUN", deadly)
    report = opened.backfill(workers=2)
    assert [side.failures() for side in opened._sides] == [[(poison, "a worker process died while reading it")]] * 2
    assert report.failed == (Failure(poison, "a worker process died while reading it"),)
    assert (report.status, report.threads) == ("pending", THREADS - 1)
    assert [failure.path for failure in opened.status().backfill.failed] == [poison]
    monkeypatch.undo()
    report = opened.backfill(workers=2)
    assert (report.status, report.threads, report.files, report.failed) == ("complete", THREADS, 1, ())
    assert opened.status().backfill.failed == []
    assert dump(tmp_path / "state_1.sqlite") == clean


def test_a_worker_killed_in_the_middle_of_a_rollout_loses_nothing_of_the_indexes_and_doubles_nothing(
    home: tuple[Path, list[MadeThread]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies behind a piece that was answered; another goes on behind it, and folds nothing of before again."""
    dying = home[1][150].path
    deadly = (
        "import os, sys; sys.path[:] = sys.argv[1:]; from engine.projections import worker; plain = worker.Hand.pieces\n"
        "def pieces(hand, job):\n"
        "    for done in plain(hand, job):\n"
        "        yield done\n"
        f"        if job.path == {dying!r} and not done.is_whole:\n"
        f"            mark = {str(tmp_path / 'died')!r}\n"
        "            if not os.path.exists(mark):\n"
        "                open(mark, 'w').close()\n"
        "                os.kill(os.getpid(), 9)\n"
        "worker.Hand.pieces = pieces; worker.main()"
    )
    monkeypatch.setattr(pool, "_RUN", deadly)
    options = replace(OPTIONS, piece_bytes=1_500, block_bytes=1_000, background_scan_s=0)
    with engine.open(str(home[0]), state_dir=str(tmp_path / "state"), options=options) as opened:
        written: list[tuple[str, int, bool]] = []

        def write(side: Side, pieces: Mapping[str, Piece], plain: Any = Side.write) -> None:
            written.extend((path, done.folded[0].mark.offset, done.is_whole) for path, (_, done) in pieces.items())
            plain(side, pieces)

        monkeypatch.setattr(Side, "write", write)
        assert opened.backfill(workers=2).status == "complete"
        assert (tmp_path / "died").exists()
        assert len(written) == 2 * len({*written}), "each piece once into each of both"
        for side in opened._sides:
            assert list(compare_side(opened._side_parts, side)) == []
            assert side.failures() == []
            assert side._ready().runner.counters.lost_swaps == 0


def test_an_error_in_mid_run_leaves_no_worker_behind(opened: engine.Engine) -> None:
    """What the caller's own progress function raises comes out, and all workers have ended by then."""

    def fail(progress: Progress) -> None:
        if progress.files_done >= 20:
            raise KeyError("the caller's own fault")

    with pytest.raises(KeyError, match="own fault"):
        opened.backfill(workers=2, progress=fail)
    assert children(os.getpid()) == []
    assert opened.backfill(workers=2).threads == THREADS
