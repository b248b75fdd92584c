"""Many processes fill the side databases of one home at once: the work is done once, and whoever is killed is replaced."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.errors import LeaseLost
from engine.options import Options
from engine.projections import filling
from engine.projections.backfill import Progress
from engine.projections.side import Side
from engine.projections.side_check import compare_side
from engine.stores.leases import Lease
from engine.testing import HomePlan, append_turns, make_home
from tests.searching import dump, side_of

CHECKOUT = Path(__file__).resolve().parents[2]
THREADS = 40
OPTIONS = Options(
    background_scan_s=0, busy_wait_ms=30_000, spectator_poll_ms=10, list_budget_ms=60_000, scan_interval_ms=0
)

FILLER = """
import sys
sys.path.insert(0, sys.argv[2])
import engine
from engine.options import Options
from engine.projections.side import Side
folded = {}
def write(self, pieces, plain=Side.write):
    folded[self.name] = folded.get(self.name, 0) + len(pieces)
    if sys.argv[3:] == ["hang"] and self.name == "search" and folded[self.name] > 8:
        print("hangs", flush=True)
        sys.stdin.readline()
    plain(self, pieces)
Side.write = write
print("ready", flush=True)
sys.stdin.readline()
options = Options(background_scan_s=0, busy_wait_ms=30_000, spectator_poll_ms=10, list_budget_ms=60_000,
    batch_streams=4, spawn_bytes_min=0)
with engine.open(sys.argv[1], options=options) as opened:
    opened.backfill(workers=int(sys.argv[3] if len(sys.argv) > 3 and sys.argv[3] != "hang" else 0))
    print(folded.get("history", 0), folded.get("search", 0), len(opened.search("the", limit=0).hits), flush=True)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_home(tmp_path / "home", HomePlan(threads=THREADS, seed=8, bytes_max=20_000))
    return tmp_path / "home"


@pytest.fixture
def start(home: Path) -> Iterator[Any]:
    """Start a process that gets ready to fill, and waits for a line."""
    started: list[subprocess.Popen[str]] = []

    def start(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", FILLER, str(home), str(CHECKOUT), *more]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def said(child: subprocess.Popen[str]) -> list[int]:
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    return [int(word) for word in out.split()]


def rollouts(home: Path) -> int:
    return len([*home.rglob("rollout-*.jsonl"), *home.rglob("rollout-*.jsonl.zst")])


def filled_alone(home: Path) -> dict[str, Any]:
    """What the index of words is where one process fills it, alone."""
    with engine.open(str(home), state_dir=str(home.parent / "other"), options=OPTIONS) as e:
        e.backfill()
        return dump(side_of(e).database())


def test_of_many_fillers_one_works_at_a_time_and_no_rollout_is_folded_twice(home: Path, start: Any) -> None:
    children = [start(workers) for workers in ("0", "2", "0", "2")]
    for child in children:
        go(child)
    told = [said(child) for child in children]
    assert sum(history for history, _, _ in told) == rollouts(home)
    assert sum(search for _, search, _ in told) == rollouts(home)
    assert len({hits for _, _, hits in told}) == 1
    with engine.open(str(home), options=OPTIONS) as e:
        assert e.audit().findings == []
        filled = dump(side_of(e).database())
    assert filled == filled_alone(home)


def test_a_killed_filler_is_replaced_at_once_and_what_it_folded_stays(home: Path, start: Any) -> None:
    killed = start("hang")
    go(killed)
    assert killed.stdout.readline() == "hangs\n"
    with engine.open(str(home), options=OPTIONS) as e:
        shown: list[Progress] = []
        looked = threading.Event()

        def show(progress: Progress) -> None:
            shown.append(progress)
            if progress.what == "turns and search" and progress.owner is not None:
                looked.set()

        thread = threading.Thread(target=lambda: e.backfill(progress=show))
        thread.start()
        assert looked.wait(60), "it looks on while the other one works"
        killed.send_signal(signal.SIGKILL)
        thread.join(60)
        assert not thread.is_alive()
        mine = [each for each in shown if each.what == "turns and search" and each.owner is None]
        assert mine[0].files_done >= 8, "what the other one folded is not folded again"
        assert (mine[-1].files_done, mine[-1].bytes_done) == (rollouts(home), mine[-1].bytes_total)
        filled = dump(side_of(e).database())
    assert filled_alone(home) == filled


def test_one_who_lost_the_lease_goes_on_as_a_spectator(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "HEARTBEATS_A_LEASE", 1 << 40)  # a heartbeat behind each batch
    lost: list[str] = []

    def lose(self: Any, lease: Lease, progress: str, plain: Any = filling.Leases.heartbeat) -> None:
        if lease.name == "fill search" and not lost:
            lost.append(progress)
            raise LeaseLost("Somebody has it.", hint="Leave it.")
        plain(self, lease, progress)

    monkeypatch.setattr(filling.Leases, "heartbeat", lose)
    with engine.open(str(home), options=replace(OPTIONS, batch_streams=4)) as e:
        e.backfill()
        assert lost
        assert e.search("the").partial is None
        assert e.audit().findings == []


def test_the_background_leaves_it_to_who_fills(home: Path, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = start("hang")
    go(other)
    assert other.stdout.readline() == "hangs\n"
    asked: list[str] = []

    def catch_up(self: Side, budget_ms: int | None = None, plain: Any = Side.catch_up) -> Any:
        asked.append(self.name)
        return plain(self, budget_ms)

    monkeypatch.setattr(Side, "catch_up", catch_up)
    with engine.open(str(home), options=OPTIONS) as e:
        e._sides.tend(lambda: False)
        assert asked == []
        other.kill()
        other.wait()
        e._sides.tend(lambda: False)
        assert {*asked} == {"history", "search"}
        assert e.search("the").partial is None


def test_two_that_fill_at_once_without_leases_come_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has folded what came to a filled home before either writes: of each stream one writes, and the other does not."""
    home, both = tmp_path / "home", threading.Barrier(2)
    made = make_home(home, HomePlan(threads=12, seed=8, bytes_max=8_000))
    with engine.open(str(home), options=OPTIONS) as first:
        first.backfill()
    for thread in made:
        append_turns(home, thread)

    def write(self: Side, pieces: Any, plain: Any = Side.write) -> None:
        both.wait(60)
        plain(self, pieces)

    monkeypatch.setattr(Side, "write", write)
    with engine.open(str(home), options=OPTIONS) as one, engine.open(str(home), options=OPTIONS) as other:
        for each in (one, other):
            monkeypatch.setattr(each._filling, "_leases", None)
        fillers = [threading.Thread(target=each.backfill) for each in (one, other)]
        for filler in fillers:
            filler.start()
        for filler in fillers:
            filler.join(60)
        for side, same in zip(one._sides, other._sides, strict=True):
            assert sum(each._ready().runner.counters.upserts for each in (side, same)) == len(made)
            assert list(compare_side(one._side_parts, side)) == []
        filled = dump(side_of(one).database())
    monkeypatch.undo()
    assert filled == filled_alone(home)


def test_without_leases_it_is_filled_all_the_same(home: Path) -> None:
    with engine.open(str(home), options=OPTIONS) as e:
        (home / "engine" / "jobs_1.sqlite").unlink()
        (home / "engine" / "jobs_1.sqlite").mkdir()
        report = e.rebuild(projection="search")
        assert (report.status, report.files) == ("complete", rollouts(home))
        assert e.search("the").partial is None
