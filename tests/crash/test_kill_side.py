"""kill -9 before and after every commit of a side database that is filled, grows and is folded anew.

The child forks once for each step, so that Python starts once; it is killed at that step, and the copy of the home stays.
Whatever was committed, the next look comes to the rows of a clean run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import engine
from engine.options import Options
from engine.projections.side_check import compare_side
from engine.testing import HomePlan, make_home
from engine.testing.tables import dump
from tests.own import Heads

CHECKOUT = Path(__file__).resolve().parents[2]
FILE = "own_heads_1.sqlite"
WITHOUT = {"watermarks": ("device", "inode", "mtime_ns", "ctime_ns")}

DRIVER = """
import os, shutil, signal, sys
template, folder, checkout = sys.argv[1:4]
sys.path.insert(0, checkout)
import engine, tests.preloaded
from engine.options import Options
from engine.stores.link import Link
from tests.own import Heads

left = None

def step():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def commit(self, plain=Link.commit):
    if "own_heads" not in self.path:
        return plain(self)
    step()
    plain(self)
    step()

Link.commit = commit

class Raised(Heads):
    version = 2

number = 0
while True:
    home = f"{folder}/{number}"
    shutil.copytree(template, home)
    pid = os.fork()
    if pid == 0:
        try:
            left = number
            options = Options(scan_interval_ms=0, list_budget_ms=60_000, piece_bytes=3_000, block_bytes=1_000, batch_streams=2)
            for own in (Heads(), Raised()):
                with engine.open(home, projections=[own], options=options) as e:
                    e.projections["heads"].rows("SELECT 1")
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


class Raised(Heads):
    version = 2


def look(home: Path, **how: Any) -> None:
    options = Options(scan_interval_ms=0, list_budget_ms=60_000)
    with engine.open(str(home), projections=[Raised()], options=options, **how) as e:
        e.projections["heads"].rows("SELECT 1")
        assert [each for side in e._sides for each in compare_side(e._side_parts, side)] == []


def test_killed_at_any_commit_each_record_has_its_effect_once(tmp_path: Path) -> None:
    template = tmp_path / "template"
    make_home(template, HomePlan(threads=4, seed=4, bytes_max=20_000))
    (tmp_path / "homes").mkdir()
    command = [sys.executable, "-c", DRIVER, str(template), str(tmp_path / "homes"), str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    steps = int(done.stdout)
    assert steps > 20
    look(template, state_dir=str(tmp_path / "clean"))
    clean = dump(tmp_path / "clean" / FILE, without=WITHOUT)
    assert len(clean["heads"]) > 5
    for number in range(steps):
        home = tmp_path / "homes" / str(number)
        look(home)
        assert dump(home / "engine" / FILE, without=WITHOUT) == clean, f"killed at step {number}"
