"""Two processes, one forks a thread while the other erases it: whoever comes second sees what the first did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.lineage_lock import lineage_held
from tests.writing import opened, said, say

CHECKOUT = Path(__file__).resolve().parents[2]

# For each line a thread's id and a number: lets that many looks pass, then forks or erases it, and says what came of it.
RACER = """
import json, sys
import engine
from engine.errors import EngineError
home, what = sys.argv[1:]
e = engine.open(home, options=engine.Options(background_scan_s=0))
e.threads.list()
print("ready", flush=True)
for line in sys.stdin:
    thread_id, looks = json.loads(line)
    try:
        for _ in range(looks):
            e.threads.get(thread_id)
        if what == "fork":
            with e.threads.fork(thread_id) as child:
                told = {"done": child.id}
        else:
            told = {"done": e.threads.erase(thread_id, grace_s=None).thread_ids}
    except EngineError as error:
        told = {"refused": type(error).__name__, "readers": getattr(error, "readers", None)}
    print(json.dumps(told), flush=True)
"""

# Holds the lock, forks a child that lives on, says the child's number.
PARENT = """
import os, sys
from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.lineage_lock import lineage_held
home, shared = Home(sys.argv[1], sys.argv[1] + "/engine"), sys.argv[2] == "shared"
with lineage_held(home, "fork", shared=shared, options=Options(), clock=SystemClock(), files=Files()):
    child = os.fork()
    if child == 0:
        os.close(1)
        sys.stdin.read()
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
"""


class Racer:
    """Another process with the home open."""

    def __init__(self, home: Path, what: str) -> None:
        self._process = start(RACER, str(home), what)
        assert self._line() == "ready\n"

    def tell(self, thread_id: str, looks: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([thread_id, looks]) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(self._line())
        return heard

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate(timeout=60)[1]
        return line


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


@pytest.fixture
def racers() -> Iterator[list[Racer]]:
    here: list[Racer] = []
    yield here
    for each in here:
        each.end()


def race(home: Path, racers: list[Racer], rounds: int) -> set[str]:
    """As many races for a thread each; the fork starts a little later every time. Who has won."""
    with opened(home) as e:
        parents = []
        for _ in range(rounds):
            with e.threads.create(cwd="/") as thread:
                say(thread, "one")
            parents.append(thread.id)
        e.threads.list()
    forker, eraser = Racer(home, "fork"), Racer(home, "erase")
    racers += [forker, eraser]
    won = set()
    for number, parent in enumerate(parents):
        eraser.tell(parent, 0)
        forker.tell(parent, number % 40)
        forked, erased = forker.hear(), eraser.hear()
        if "done" in forked:
            won.add("fork")
            assert erased == {"refused": "ThreadHasReaders", "readers": [forked["done"]]}
            with opened(home) as e:
                assert said(e.threads.read(forked["done"])) == ["one"]
        else:
            won.add("erasure")
            assert forked["refused"] in ("ThreadNotFound", "TruthGone")
            assert erased == {"done": [parent]}
    with opened(home) as e:
        assert [each.class_ for each in e.audit(deep=True).faults] == []
    return won


def test_of_a_fork_and_an_erasure_in_two_processes_one_sees_the_other(tmp_path: Path, racers: list[Racer]) -> None:
    race(tmp_path / "home", racers, 20)


@pytest.mark.soak
def test_of_many_forks_and_erasures_in_two_processes_one_sees_the_other(tmp_path: Path, racers: list[Racer]) -> None:
    assert race(tmp_path / "home", racers, 1000) == {"fork", "erasure"}


@pytest.mark.parametrize("held", ["shared", "alone"])
def test_a_holder_that_forked_and_was_killed_keeps_nobody_out(tmp_path: Path, held: str) -> None:
    process = start(PARENT, str(tmp_path), held)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    os.kill(child, 0)  # it lives
    home = Home(str(tmp_path), f"{tmp_path}/engine")
    options = Options()  # the child gives its copy back as soon as it runs, which may be a moment after its birth
    with lineage_held(home, "erasure", shared=False, options=options, clock=SystemClock(), files=Files()):
        pass
    os.kill(child, signal.SIGKILL)
    process.communicate()
