"""kill -9 of a real process in a repair, before and after every step that changes anything: the next repair finishes it.

The child counts its steps (each changing file call, each commit) and kills itself at one of them, in a copy of a home with
every damage that a repair mends. At the end rows and files agree, and the files of the truth are the same whether or not
anything was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from tests.seeds import MENDED, SEEDS, class_of, seeded, untouched_home

CHECKOUT = Path(__file__).resolve().parents[2]
BROKEN = [seed for seed in SEEDS if class_of(seed) in MENDED - {"unfinished", "wrong_fact"}]

DRIVER = """
import os, shutil, signal, sys
template, folder, checkout, every = sys.argv[1:5]
sys.path.insert(0, checkout)
import engine, tests.preloaded
from engine.stores.files import Files
from engine.stores.link import Link
from engine.testing.files import RecordingFiles

CHANGING = {"create", "write", "pwrite", "truncate", "rename", "remove", "remove_folder", "link", "sync", "sync_folder",
            "replace_small"}
left = None

def step():
    global left
    if left is not None:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

class Killing(RecordingFiles):
    def _around(self, number, call, args, proceed):
        if call.name in CHANGING:
            step()
        return proceed()

def counted(plain):
    def run(*args, **named):
        step()
        answer = plain(*args, **named)
        step()
        return answer
    return run

Link.commit = counted(Link.commit)

number, homes = 0, 0
while True:
    home = f"{folder}/{number}"
    shutil.copytree(template, home, symlinks=True)
    pid = os.fork()
    if pid == 0:
        try:
            e = engine.open(home, files=Killing(Files()))
            left = number
            e.repair(offline=True)
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    homes += 1
    if os.WIFSIGNALED(status) and number < 3_000:
        number += int(every)
        continue
    print(homes)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def truth(home: Path) -> dict[str, str]:
    paths = [path for folder in ("sessions", "archived_sessions") for path in (home / folder).rglob("rollout-*")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def check_killed(tmp_path: Path, every: int) -> None:
    (tmp_path / "plain").mkdir()
    with contextlib.ExitStack() as afterwards:
        untouched = untouched_home(tmp_path / "plain", len(BROKEN) + 1)
        template, _ = seeded(
            untouched, tmp_path / "template", [(seed, at) for at, seed in enumerate(BROKEN)], afterwards
        )
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", DRIVER, str(template), str(tmp_path / "killed"), str(CHECKOUT), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3_000, check=False)
    assert done.returncode == 0, done.stderr
    homes = sorted((tmp_path / "killed").iterdir(), key=lambda path: int(path.name))
    assert len(homes) == int(done.stdout) > 4
    wanted = truth(homes[-1])
    for home in homes:
        with engine.open(str(home)) as opened:
            report = opened.repair(offline=True)
            assert all(each.outcome == "done" for each in report.steps), (home.name, report.steps)
            again = opened.repair(offline=True)
            assert (again.steps, again.left) == ([], []), home.name
        assert truth(home) == wanted, home.name
        shutil.rmtree(home)


def test_a_repair_that_was_killed_at_some_steps_is_finished_by_the_next(tmp_path: Path) -> None:
    check_killed(tmp_path, every=13)


@pytest.mark.soak
def test_a_repair_that_was_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    check_killed(tmp_path, every=1)
