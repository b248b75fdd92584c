"""Every call that changes a rollout, while another process has the thread: none of them comes between.

The other process is alive, stopped, gone on, killed, killed after it forked; it holds the engine's own lock, or the lock
of the Codex CLI, as that program takes it. Whoever has the thread, the rollout keeps its bytes, its name and its form.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import engine
from engine.errors import ThreadBusy
from engine.options import Options
from engine.stores.files import Files
from engine.testing.clock import ManualClock
from engine.testing.files import Call, FaultyFiles
from engine.thread import Thread
from tests.writing import rollouts, said, say

CHECKOUT = Path(__file__).resolve().parents[2]
NOW_MS = 1_767_603_600_000
CODEX = "thread-writer-locks"
linux = pytest.mark.skipif(sys.platform != "linux", reason="a stopped process is told by /proc")

# Opens the thread for appending with the engine, or takes the lock that the Codex CLI takes; with a child, or without.
HOLDER = """
import fcntl, os, sys
import engine
home, thread_id, how, forks = sys.argv[1:]
if how == "engine":
    held = engine.open(home).threads.resume(thread_id)
else:
    os.makedirs(f"{home}/thread-writer-locks", exist_ok=True)
    held = os.open(f"{home}/thread-writer-locks/{thread_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(held, fcntl.LOCK_EX)
child = os.fork() if forks == "forks" else 0
if forks == "forks" and child == 0:
    if how == "codex":
        os.close(held)
    os.close(1)
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
sys.stdin.readline()
"""


def opened(home: Path, files: Files | None = None) -> engine.Engine:
    """A year later, so that every rollout is cold."""
    clock = ManualClock(wall_ms=NOW_MS + 365 * 86_400_000)
    return engine.open(str(home), clock=clock, options=Options(busy_wait_ms=200), files=files)


def append(e: engine.Engine, thread_id: str) -> None:
    with e.threads.resume(thread_id) as thread:
        say(thread, "more")


def compress(e: engine.Engine, thread_id: str) -> None:
    """Passes over what is in use; told here as the others tell it."""
    report = e.compress(older_than_days=1)
    assert report.failed == []
    if report.skipped["in use"]:
        raise ThreadBusy("passed over", owner=None, state="unknown", hint="")
    assert len(report.compressed) == 1


CHANGES: dict[str, Callable[[engine.Engine, str], object]] = {
    "append": append,
    "trim": append,
    "bring back": append,
    "archive": lambda e, thread_id: e.threads.archive(thread_id),
    "unarchive": lambda e, thread_id: e.threads.unarchive(thread_id),
    "erase": lambda e, thread_id: e.threads.erase(thread_id),
    "redact": lambda e, thread_id: e.threads.redact(thread_id, ordinal=3),
    "compress": compress,
}


def a_home(folder: Path, change: str, *, foreign: bool = False) -> tuple[Path, str]:
    """A home with one thread, as the call finds it."""
    home = folder / "home"
    home.mkdir()
    with engine.open(str(home), clock=ManualClock(wall_ms=NOW_MS)) as e:
        with e.threads.create(cwd="/srv/app") as thread:
            say(thread, "one", "two")
        if change == "unarchive":
            e.threads.archive(thread.id)
        if change == "bring back":
            os.utime(home / rollouts(home)[0], (0, 0))
            with opened(home) as later:
                assert later.compress(older_than_days=1).compressed
    path = home / rollouts(home)[0]
    if change == "trim":
        with path.open("ab") as file:
            file.write(b'{"timestamp":"2026-01-05T09:')
    if foreign:
        path.write_bytes(path.read_bytes().replace(b'"rolloutdb":{"version"', b'"elsewhere":{"version"', 1))
    os.utime(path, (NOW_MS // 1000, NOW_MS // 1000))
    return home, thread.id


def files_of(home: Path) -> dict[str, bytes]:
    return {path: (home / path).read_bytes() for path in rollouts(home)}


class Holder:
    """Another process that has the thread."""

    def __init__(self, home: Path, thread_id: str, how: str, *, forks: bool = False) -> None:
        pipe = subprocess.PIPE
        argv = [sys.executable, "-c", HOLDER, str(home), thread_id, how, "forks" if forks else "alone"]
        self._process = subprocess.Popen(argv, cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate()
        self.child = int(line)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, self._process.pid, os.WCONTINUED)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.kill()
        if self.child:
            os.kill(self.child, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    held: list[Holder] = []
    yield held
    for each in held:
        each.end()


@linux
@pytest.mark.parametrize("how", ["engine", "codex"])
@pytest.mark.parametrize("change", [each for each in CHANGES if each not in ("trim", "unarchive", "bring back")])
def test_a_thread_that_another_process_has_is_left_alone_until_that_process_is_gone(
    tmp_path: Path, holders: list[Holder], change: str, how: str
) -> None:
    """Alive, stopped, gone on: busy. Killed: free at once, also where it had forked a child that lives on."""
    home, thread_id = a_home(tmp_path, change)
    holder = Holder(home, thread_id, how, forks=True)
    holders.append(holder)
    before = files_of(home)
    with opened(home) as e:
        for signalled, state in ((None, "alive"), (holder.stop, "stopped"), (holder.go_on, "alive")):
            if signalled is not None:
                signalled()
            with pytest.raises(ThreadBusy) as busy:
                CHANGES[change](e, thread_id)
            assert busy.value.state in (state, "unknown")
            assert busy.value.state == state or change == "compress"
            assert files_of(home) == before
            assert said(e.threads.read(thread_id)) == ["one", "two"]
        holder.kill()
        os.kill(holder.child, 0)  # it lives
        CHANGES[change](e, thread_id)
    assert files_of(home) != before


@pytest.mark.parametrize("change", ["trim", "unarchive", "bring back"])
def test_what_mends_or_moves_a_rollout_first_waits_for_the_codex_cli_too(
    tmp_path: Path, holders: list[Holder], change: str
) -> None:
    home, thread_id = a_home(tmp_path, change)
    holders.append(Holder(home, thread_id, "codex"))
    before = files_of(home)
    with opened(home) as e:
        with pytest.raises(ThreadBusy):
            CHANGES[change](e, thread_id)
        assert files_of(home) == before
        holders[0].kill()
        CHANGES[change](e, thread_id)
    assert files_of(home) != before


DURING = {
    "append": "recorder.write",
    "archive": "archive.link",
    "erase": "trash.move",
    "redact": "fill.write",
    "compress": "compress.link",
}


@pytest.mark.parametrize("change", DURING)
def test_a_rollout_of_the_codex_cli_is_changed_under_its_lock_also_where_it_kept_none_yet(
    tmp_path: Path, change: str
) -> None:
    """A session of that program which starts meanwhile finds the thread taken. Its folder was not there before."""
    home, thread_id = a_home(tmp_path, change, foreign=True)
    met: list[str] = []

    def meeting(_: int, call: Call) -> None:
        if call.op == DURING[change]:
            lock = os.open(home / CODEX / f"{thread_id}.lock", os.O_RDWR)
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(lock)
            met.append(call.op)

    with opened(home, FaultyFiles(Files(), meeting)) as e:
        if change == "append":
            with e.threads.resume(thread_id, adopt=True) as thread:
                say(thread, "more")
        else:
            CHANGES[change](e, thread_id)
    assert met
    assert list((home / CODEX).glob("*.lock")) == [home / CODEX / ".coordination.lock"]


def test_a_foreign_thread_that_is_refused_is_not_even_tidied(tmp_path: Path) -> None:
    """What lies beside it may be another program's; without both locks nothing of it goes."""
    home, thread_id = a_home(tmp_path, "append", foreign=True)
    path = home / rollouts(home)[0]
    beside = path.with_name(f".{path.name}.swap")
    beside.write_bytes(b"half")
    with opened(home) as e:
        with pytest.raises(engine.errors.ForeignRollout):
            e.threads.resume(thread_id)
        assert beside.exists()
        with e.threads.resume(thread_id, adopt=True) as thread:
            assert isinstance(thread, Thread)
    assert not beside.exists()


def test_a_lock_folder_that_cannot_be_made_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    home, thread_id = a_home(tmp_path, "archive", foreign=True)
    before = files_of(home)

    def fault(_: int, call: Call) -> int | None:
        return errno.EROFS if call.op == "lock.foreign" and call.name == "ensure_folder" else None

    with opened(home, FaultyFiles(Files(), fault)) as e, pytest.raises(engine.errors.StoreError):
        e.threads.archive(thread_id)
    assert files_of(home) == before
