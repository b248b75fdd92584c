"""kill -9 of a real process in an erasure and in a redaction, before and after every step that changes anything.

The child counts its steps (each changing file call, each commit, each emptying of the -wal) and kills itself at one of them;
a copy of the home for every step. The next start finds the thread whole and untouched, or finishes the work.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.removing import CANARY, START_MS, holding, opened, rollout_of, tagged, with_canary_everywhere
from tests.writing import faults

CHECKOUT = Path(__file__).resolve().parents[2]

# Forks a child for each step, so that Python starts once; the child is killed at its step, and the copy of the home stays.
DRIVER = """
import json, os, shutil, signal, sys
template, folder, checkout, call, start_ms = sys.argv[1:6]
sys.path.insert(0, checkout)
import engine, tests.preloaded
from engine.stores.files import Files
from engine.stores.link import Link
from engine.stores.sqlite import Database
from engine.testing import ManualClock
from engine.testing.files import RecordingFiles

CHANGING = {"create", "write", "pwrite", "truncate", "rename", "remove", "remove_folder", "link", "sync", "sync_folder"}
left = None
options = engine.Options(background_scan_s=0)

def step():
    global left
    if left is not None:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

class Killing(RecordingFiles):
    def _around(self, number, call, args, proceed):
        if call.name in CHANGING and not call.op.startswith("lock."):
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
Database.scrub = counted(Database.scrub)

number = 0
while True:
    home = f"{folder}/{number}"
    shutil.copytree(template, home)
    pid = os.fork()
    if pid == 0:
        try:
            e = engine.open(home, clock=ManualClock(wall_ms=int(start_ms)), files=Killing(Files()), options=options)
            e.threads.list()
            left = number
            thread_id, how = json.loads(call)
            getattr(e.threads, how.pop("do"))(thread_id, **how)
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


def killed_everywhere(template: Path, folder: Path, thread: str, **how: object) -> list[Path]:
    """A home for every step at which the child was killed; the last one is where it came to its end."""
    folder.mkdir()
    command = [
        sys.executable,
        "-c",
        DRIVER,
        str(template),
        str(folder),
        str(CHECKOUT),
        json.dumps([thread, how]),
        str(START_MS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [folder / str(number) for number in range(int(done.stdout))]


@pytest.fixture
def template(tmp_path: Path) -> tuple[Path, str, str]:
    """A home with the canary in every place, that stands still."""
    home = tmp_path / "template"
    thread, other = with_canary_everywhere(home)
    with opened(home) as e:
        e.threads.list()
    return home, thread, other


def is_whole(home: Path, template: Path, thread: str) -> bool:
    """Whether nothing was begun: the thread is as it was, with its name."""
    with opened(home) as e:
        row = e.threads.get(thread)
        if row is None:
            return False
        assert (row.title, row.name, row.missing) == (f"{CANARY} prompt", f"{CANARY} name", False)
        assert "erase_begun" not in dict(tagged(home))
    assert rollout_of(home, thread).read_bytes() == rollout_of(template, thread).read_bytes()
    return True


def test_a_killed_erasure_took_nothing_or_is_finished_by_the_next_start(tmp_path: Path, template) -> None:
    """After the announcement there is no way back, and no byte left after the next start; what belongs to others stays."""
    home, thread, other = template
    kept = rollout_of(home, other).read_bytes()
    homes = killed_everywhere(home, tmp_path / "killed", thread, do="erase", grace_s=None)
    assert len(homes) > 25
    whole = [is_whole(each, home, thread) for each in homes]
    assert whole == sorted(whole, reverse=True), "it went back after it had begun"
    assert 0 < sum(whole) < 10
    for each in homes[sum(whole) :]:
        assert holding(each) == [], each.name
        with opened(each) as e:
            assert [(row.id, row.name) for row in e.threads.list().threads] == [(other, "other name")], each.name
            assert faults(e) == [], each.name
        assert tagged(each)[-1] == ("thread_erased", thread), each.name
        assert rollout_of(each, other).read_bytes() == kept
        shutil.rmtree(each)


def test_a_killed_move_to_the_trash_loses_nothing(tmp_path: Path, template) -> None:
    """At no step is the rollout in neither place, and the next start brings it and its decisions into the trash."""
    home, thread, other = template
    path = rollout_of(home, thread)
    content, relative = path.read_bytes(), path.relative_to(home)
    homes = killed_everywhere(home, tmp_path / "killed", thread, do="erase", grace_s=86_400)
    assert len(homes) > 25
    begun = 0
    for each in homes:
        trash = each / "engine" / "trash" / f"{START_MS + 86_400_000}-{thread}"
        assert content in [place.read_bytes() for place in (each / relative, trash / relative) if place.exists()], (
            each.name
        )
        if is_whole(each, home, thread):
            continue
        begun += 1
        assert (trash / relative).read_bytes() == content, each.name
        assert json.loads((trash / "journal.jsonl").read_bytes())["payload"]["name"] == f"{CANARY} name", each.name
        assert not (each / relative).exists()
        with opened(each) as e:
            assert [row.id for row in e.threads.list().threads] == [other], each.name
        shutil.rmtree(each)
    assert begun > 20


def test_a_killed_redaction_did_nothing_or_is_finished_by_the_next_start(tmp_path: Path, template) -> None:
    home, thread, _ = template
    before = rollout_of(home, thread).read_bytes().split(b"\n")
    ordinal = next(number for number, line in enumerate(before) if CANARY.encode() in line)
    homes = killed_everywhere(home, tmp_path / "killed", thread, do="redact", ordinal=ordinal)
    assert len(homes) > 10
    done = []
    for each in homes:
        with opened(each) as e:
            assert faults(e, deep=True) == [], each.name
            assert e.threads.fetch(thread).differences == []
        after = rollout_of(each, thread).read_bytes().split(b"\n")
        assert [len(line) for line in after] == [len(line) for line in before], each.name
        assert [line for number, line in enumerate(after) if number != ordinal] == [
            line for number, line in enumerate(before) if number != ordinal
        ], each.name
        done.append(after[ordinal] != before[ordinal])
        if done[-1]:
            assert json.loads(after[ordinal])["payload"]["redacted"] is True, each.name
            assert tagged(each)[-1] == ("redaction_done", thread), each.name
        shutil.rmtree(each)
    assert done == sorted(done)
    assert 5 < sum(done) < len(done)
