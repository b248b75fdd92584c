"""kill -9 of a real process between all steps of a session: what it told of is there, and the rows are those of the files.

The child tells each step when the engine has answered it, and each call of the files seam that changes something on the
way; it is killed at one of them (by itself, so that it is the very one). What the dead process told of must be there after
the home is opened; a fresh index of the same files must have the same rows.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.options import Options
from engine.testing.tables import dump
from tests.writing import faults, rollouts, said

CHECKOUT = Path(__file__).resolve().parents[2]
CHANGES = "write link remove rename sync sync_folder truncate pwrite replace_small ensure_folder create".split()

# argv: home, the number of the changing call to die before (-1: none), the history mode
SESSION = """
import json, os, signal, sys
import engine
from engine.options import Options
from engine.stores.files import Files
from engine.testing.files import FaultyFiles

home, at, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
changes = set(sys.argv[4].split())
count = [0]

def strike(_, call):
    if call.name in changes and not call.op.startswith(("lock.", "sqlite.")):
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1
    return None

def tell(step, **what):
    os.write(1, json.dumps({"step": step, **what}).encode() + b"\\n")

options = Options(background_scan_s=0, flush_delay_ms=3_600_000, segment_bytes_max=400)
with engine.open(home, files=FaultyFiles(Files(), strike), options=options) as e:
    thread = e.threads.create(cwd="/srv/app", model="m", history_mode=mode)
    tell("create", id=thread.id)
    for word in ("one", "two"):
        with thread.turn() as turn:
            turn.user_message(word)
            tell("said", id=thread.id, word=word)
            turn.tool_call("shell", {}, call_id=word)
            turn.tool_output(word, "x" * 2_000)
        tell("turn", id=thread.id)
    e.threads.rename(thread.id, "named")
    tell("named", id=thread.id)
    e.threads.list()
    child = e.threads.fork(thread.id, before_turn=turn.id)
    tell("fork", id=child.id, parent=thread.id)
    with child.turn() as turn:
        turn.user_message("three")
        tell("said", id=child.id, word="three")
    thread.close()
    e.threads.archive(thread.id)
    tell("archive", id=thread.id)
    e.threads.fork(thread.id)
    e.threads.set_memory_mode(child.id, "disabled")
    tell("memory", id=child.id)
    e.threads.unarchive(thread.id)
    tell("unarchive", id=thread.id)
    with e.threads.resume(thread.id) as thread, thread.turn() as turn:
        turn.user_message("four")
        tell("said", id=thread.id, word="four")
tell("end", calls=count[0])
"""


def session(home: Path, at: int, mode: str) -> tuple[int, list[dict[str, Any]]]:
    """Run it, to be killed before the call of this number; its end, and what it told."""
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SESSION, str(home), str(at), mode, " ".join(CHANGES)],
        cwd=CHECKOUT,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def check(home: Path, told: list[dict[str, Any]]) -> None:
    """Everything told of is there after the next open, once; rows and files agree; a fresh index is the same."""
    with engine.open(str(home), options=Options(scan_interval_ms=0)) as e:
        rows = {row.id: row for row in e.threads.list(limit=0).threads}
        for step in told:
            what, id_ = step["step"], step.get("id", "")
            if what == "said":
                assert said(e.threads.read(id_)).count(step["word"]) == 1
            elif what == "named":
                assert rows[id_].name == "named"
            elif what == "fork":
                assert rows[id_].forked_from_id == step["parent"]
                assert said(e.threads.read(id_))[:1] == ["one"]
            elif what == "memory":
                assert rows[id_].memory_mode == "disabled"
        steps = [step["step"] for step in told]
        if "archive" in steps and "memory" not in steps:
            assert rows[told[0]["id"]].archived
        if "unarchive" in steps:
            assert not rows[told[0]["id"]].archived
        assert faults(e, deep=True) == []
        names = [path.rpartition("/")[2] for path in rollouts(home) if not path.endswith(".tmp")]
        assert len(names) == len(set(names)) == len(rows)
        for row in rows.values():
            with e.threads.fork(row.id) as again:
                assert said(again.read()) == said(e.threads.read(row.id))
    found = dump(home / "engine" / "state_1.sqlite")
    for path in (home / "engine").glob("*.sqlite*"):
        path.unlink()
    with engine.open(str(home)) as e:
        e.backfill()
    left_out = ("backfill", "divergences")
    fresh = dump(home / "engine" / "state_1.sqlite")
    assert {name: each for name, each in fresh.items() if name not in left_out} == {
        name: each for name, each in found.items() if name not in left_out
    }


@pytest.mark.parametrize("mode", ["paginated", "legacy"])
def test_a_session_that_is_not_killed_tells_every_step(tmp_path: Path, mode: str) -> None:
    code, told = session(tmp_path / "home", -1, mode)
    assert code == 0
    assert [step["step"] for step in told] == (
        "create said turn said turn named fork said archive memory unarchive said end".split()
    )
    assert told[-1]["calls"] > 80
    check(tmp_path / "home", told[:-1])


@pytest.mark.parametrize("mode", ["paginated", "legacy"])
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.soak) for part in range(1, 6))])
def test_a_session_that_is_killed_before_any_of_its_writing_calls_keeps_what_it_told(
    tmp_path: Path, mode: str, part: int
) -> None:
    """Every call of a run in turn, a sixth of them in each part."""
    at, ended = part, False
    while not ended:
        home = tmp_path / f"home {at}"
        code, told = session(home, at, mode)
        ended = code == 0
        check(home, [step for step in told if step["step"] != "end"])
        shutil.rmtree(home)
        at += 6
    assert at > 80
