"""Owning a thread with real processes: stopped, gone on, killed, forked, raced for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.clock import SystemClock
from engine.errors import ThreadBusy
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.writer_lock import acquire

CHECKOUT = Path(__file__).resolve().parents[2]
THREAD = "019b8d63-3aa4-79ca-b017-baf18cb08e1b"
linux = pytest.mark.skipif(sys.platform != "linux", reason="a stopped process is told by /proc")

PREAMBLE = """
import ctypes, os, sys
from engine.clock import SystemClock
from engine.errors import ThreadBusy
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.writer_lock import acquire
home = Home(sys.argv[1], sys.argv[1] + "/engine")
def take(purpose="write"):
    return acquire(home, sys.argv[2], purpose, options=Options(), clock=SystemClock(), files=Files())
"""

# Takes the thread, says so, gives it back when told to.
HOLDER = (
    PREAMBLE
    + """
lock = take()
print("holds", flush=True)
sys.stdin.readline()
lock.release()
print("gave back", flush=True)
sys.stdin.readline()
"""
)

# Takes the thread, forks a child that lives on, says the child's number.
PARENT = (
    PREAMBLE
    + """
lock = take()
child = os.fork()
if child == 0:
    os.close(1)
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
sys.stdin.readline()
"""
)

# Both wait for the same line, then try once.
RACER = (
    PREAMBLE
    + """
print("ready", flush=True)
sys.stdin.readline()
try:
    lock = take()
    print("won", os.getpid(), flush=True)
    sys.stdin.readline()
except ThreadBusy as busy:
    print("lost", busy.owner, "|", busy.state, flush=True)
"""
)

# Takes and gives back; while it holds the thread it alone may write to the file, and looks whether it did.
LOOPER = (
    PREAMBLE
    + """
path, turns, lost = sys.argv[1] + "/witness", 0, 0
print("ready", flush=True)
sys.stdin.readline()
while turns < 25:
    try:
        lock = take()
    except ThreadBusy as busy:
        lost += 1
        assert busy.state in ("alive", "unknown"), busy
        continue
    with open(path, "w") as witness:
        witness.write(str(os.getpid()))
    for _ in range(50):
        with open(path) as witness:
            assert witness.read() == str(os.getpid()), "two owners"
    lock.release()
    turns += 1
print(turns, flush=True)
"""
)


def start(script: str, home: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", script, str(home), THREAD], cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def hears(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()
    return line.rstrip("\n")


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def take(home: Path):
    return acquire(
        Home(str(home), f"{home}/engine"), THREAD, "test", options=Options(), clock=SystemClock(), files=Files()
    )


def busy(home: Path) -> ThreadBusy:
    with pytest.raises(ThreadBusy) as raised:
        take(home)
    return raised.value


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(HOLDER, tmp_path)
    assert hears(process) == "holds"
    yield process
    end(process)


@linux
def test_a_stopped_owner_is_an_owner_and_goes_on(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    assert busy(tmp_path).state == "alive"
    holder.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
    told = busy(tmp_path)
    assert told.state == "stopped"
    assert told.owner is not None
    assert told.owner.startswith(f"process {holder.pid} on ")
    assert "follow or fork" in told.hint
    holder.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, holder.pid, os.WCONTINUED)
    assert busy(tmp_path).state == "alive"
    tell(holder)
    assert hears(holder) == "gave back"
    take(tmp_path).release()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_owner_is_replaced_at_once(holder: subprocess.Popen[str], tmp_path: Path, stopped: bool) -> None:
    if stopped:
        holder.send_signal(signal.SIGSTOP)
    holder.kill()
    holder.wait()
    take(tmp_path).release()


def test_an_owner_that_forked_and_was_killed_is_replaced_at_once(tmp_path: Path) -> None:
    process = start(PARENT, tmp_path)
    child = int(hears(process))
    assert busy(tmp_path).state == "alive"
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.kill(child, 0)  # it lives
    take(tmp_path).release()
    os.kill(child, signal.SIGKILL)
    process.communicate()


@linux
def test_a_stopped_codex_cli_is_told_as_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "thread-writer-locks"
    folder.mkdir()
    script = f"""
import fcntl, os, sys
fd = os.open({str(folder / THREAD)!r} + ".lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
print("holds", flush=True)
sys.stdin.readline()
"""
    process = start(script, tmp_path)
    assert hears(process) == "holds"
    assert busy(tmp_path).state == "alive"
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    told = busy(tmp_path)
    assert (told.state, str(process.pid) in str(told.owner)) == ("stopped", True)
    end(process)
    take(tmp_path).release()


def test_of_two_racers_one_wins_and_the_other_gets_its_name(tmp_path: Path) -> None:
    for _ in range(3):
        racers = [start(RACER, tmp_path), start(RACER, tmp_path)]
        for racer in racers:
            assert hears(racer) == "ready"
        for racer in racers:
            tell(racer)
        said = sorted(hears(racer) for racer in racers)
        for racer in racers:
            end(racer)
        lost, won = said
        pid = won.removeprefix("won ")
        assert lost.startswith(f"lost process {pid} "), said
        assert lost.endswith("| alive"), said


def test_eight_processes_that_take_and_give_back_are_never_two(tmp_path: Path) -> None:
    loopers = [start(LOOPER, tmp_path) for _ in range(8)]
    for looper in loopers:
        assert hears(looper) == "ready"
    for looper in loopers:
        tell(looper)
    results = [looper.communicate(timeout=120) for looper in loopers]
    assert [out for out, _ in results] == ["25\n"] * 8, results
    assert list((tmp_path / "engine/locks/threads").iterdir()) == []
