"""kill -9 before and after every commit of the index of what was said, while it is filled, folded anew and scrubbed.

The child forks once for each step, so that Python starts once; it is killed at that step, and the copy of the home stays.
Whatever was committed, the next look comes to the rows of a clean run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.options import Options
from engine.projections.search import Search
from engine.projections.side_check import compare_side
from engine.testing import HomePlan, make_home
from tests.searching import dump, side_of

CHECKOUT = Path(__file__).resolve().parents[2]

DRIVER = """
import os, shutil, signal, sys
template, folder, checkout = sys.argv[1:4]
sys.path.insert(0, checkout)
import engine, tests.preloaded
from engine.options import Options
from engine.stores.link import Link
from engine.projections.search import Search

left = None

def step():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def commit(self, plain=Link.commit):
    if "search_1" not in self.path:
        return plain(self)
    step()
    plain(self)
    step()

Link.commit = commit

number = 0
while True:
    home = f"{folder}/{number}"
    shutil.copytree(template, home)
    pid = os.fork()
    if pid == 0:
        try:
            left = number
            options = Options(scan_interval_ms=0, list_budget_ms=60_000, piece_bytes=3_000, block_bytes=1_000, batch_streams=2)
            for Search.version in (1, 2):
                with engine.open(home, options=options) as e:
                    e.search("the")
                    if Search.version == 2:
                        e._sides.forget([thread.rollout_path[len(home) + 1:] for thread in e.threads.list(limit=2).threads])
                        e.search("the")
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    number += 1
    if os.WIFSIGNALED(status) and number < 400:
        continue
    print(number)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def look(home: Path, **how: Any) -> dict[str, Any]:
    """What the index says after the next search, which is what an audit folds anew."""
    options = Options(scan_interval_ms=0, list_budget_ms=60_000)
    with engine.open(str(home), options=options, **how) as e:
        e.search("the")
        side = side_of(e)
        assert list(compare_side(e._side_parts, side)) == []
        return dump(side.database())


def test_killed_at_any_commit_it_comes_to_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "template"
    make_home(template, HomePlan(threads=4, seed=4, bytes_max=20_000))
    (tmp_path / "homes").mkdir()
    command = [sys.executable, "-c", DRIVER, str(template), str(tmp_path / "homes"), str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    steps = int(done.stdout)
    assert steps > 20
    monkeypatch.setattr(Search, "version", 2)
    clean = look(template, state_dir=str(tmp_path / "clean"))
    assert len(clean["words"]) > 50
    for number in range(steps):
        home = tmp_path / "homes" / str(number)
        assert look(home) == clean, f"killed at step {number}"
