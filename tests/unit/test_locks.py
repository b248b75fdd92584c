"""Who a process is and whether it lives, and locks with a bound that name who has them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.clock import SystemClock
from engine.errors import StoreBusy
from engine.options import Options
from engine.stores.files import Files
from engine.stores.locks import (
    Owner,
    flock_holder,
    give_back,
    locked,
    pause_s,
    take_lock,
    try_lock,
    wal_writer,
)
from engine.testing.clock import ManualClock

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = Files()
linux = pytest.mark.skipif(sys.platform != "linux", reason="start times and holders are read from /proc")

# Says who it is, and holds the lock file named by the first argument until it is told to end.
CHILD = """
import sys
from dataclasses import astuple
from engine.stores.files import Files
from engine.stores.locks import Owner, try_lock
fd = try_lock(sys.argv[1], shared=False, files=Files(), op="test")
print(*astuple(Owner.here()), sep="|", flush=True)
sys.stdin.readline()
"""


class NoProc(Files):
    """A machine without /proc, such as macOS."""

    def read_small(self, path, *, bytes_max, op):
        return None if path.startswith("/proc") else super().read_small(path, bytes_max=bytes_max, op=op)

    def read_all(self, path, *, bytes_max, op):
        return None if path.startswith("/proc") else super().read_all(path, bytes_max=bytes_max, op=op)

    def read_link(self, path, *, op):
        return None if path.startswith("/proc") else super().read_link(path, op=op)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Owner, str]]:
    path = str(tmp_path / "lock")
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, path], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    host, boot_id, pid, started = process.stdout.readline().rstrip("\n").split("|")
    yield process, Owner(host, boot_id, int(pid), started), path
    process.kill()
    process.communicate()


def bounded(path: str, clock=None, busy_wait_ms: int = 100):
    return locked(
        path,
        shared=False,
        options=Options(busy_wait_ms=busy_wait_ms),
        clock=clock or SystemClock(),
        files=FILES,
        op="test",
    )


def test_this_process_is_alive() -> None:
    owner = Owner.here()
    assert owner.pid == os.getpid()
    assert owner.host
    assert owner.state() == "alive"
    assert owner == Owner.here()


def test_a_child_is_alive_then_stopped_then_alive_then_dead(child) -> None:
    process, owner, _ = child
    assert (owner.pid, owner.state()) == (process.pid, "alive")
    if sys.platform == "linux":
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert owner.state() == "stopped"
        process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        assert owner.state() == "alive"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner.state() == "dead"  # a zombie still has its number, and can do nothing more
    process.kill()
    process.communicate()
    assert owner.state() == "dead"


@linux
def test_a_process_id_that_was_handed_out_again_is_told_by_its_start_time(child) -> None:
    _, owner, _ = child
    assert replace(owner, started=str(int(owner.started) - 1)).state() == "dead"


def test_another_boot_of_this_host_is_dead_and_another_host_cannot_be_told() -> None:
    here = Owner.here()
    assert replace(here, boot_id="another").state() == "dead"
    assert replace(here, host="another").state() == "elsewhere"
    assert replace(here, host="another", boot_id="another").state() == "elsewhere"


@pytest.mark.parametrize("pid", [0, -1])
def test_a_number_that_is_no_process_id_is_dead(pid: int) -> None:
    assert replace(Owner.here(), pid=pid).state() == "dead"


def test_without_proc_the_answer_rests_on_the_process_id_alone(child) -> None:
    process, _, _ = child
    files = NoProc()
    here = Owner.here(files)
    assert (here.boot_id, here.started, here.state(files)) == ("", "", "alive")
    owner = replace(here, pid=process.pid)
    assert owner.state(files) == "alive"
    process.kill()
    process.communicate()
    assert owner.state(files) == "dead"


class Named(Files):
    """A process whose name is made to confuse whoever cuts /proc/<pid>/stat at blanks or at the first parenthesis."""

    def read_small(self, path, *, bytes_max, op):
        found = super().read_small(path, bytes_max=bytes_max, op=op)
        if found is None or not path.endswith("/stat"):
            return found
        head, _, tail = found.partition(b"(")
        return head + b"(a) Z 1 (b" + tail


@linux
def test_an_odd_process_name_hides_nothing() -> None:
    assert Owner.here(Named()) == Owner.here()
    assert Owner.here().state(Named()) == "alive"


class Namespace(Files):
    def read_link(self, path, *, op):
        return "pid:[4026532999]"


@linux
def test_process_ids_of_another_namespace_are_not_judged_by_ours() -> None:
    inside = Owner.here(Namespace())
    assert inside.state() == "elsewhere"
    assert inside.state(Namespace()) == "alive"


def test_a_held_lock_is_busy_at_the_bound_and_names_its_holder(child) -> None:
    process, _, path = child
    with pytest.raises(StoreBusy) as caught, bounded(path):
        pass
    assert 100 <= caught.value.waited_ms < 5_000
    assert caught.value.path == path
    if sys.platform == "linux":
        assert caught.value.holder is not None
        assert caught.value.holder.startswith(f"process {process.pid} (python")
        assert flock_holder(path, NoProc()) is None


def test_a_lock_ends_with_its_process(child) -> None:
    process, _, path = child
    process.kill()
    process.communicate()
    with bounded(path):
        pass


def test_a_lock_is_given_back_also_when_the_block_raises(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with pytest.raises(ZeroDivisionError), bounded(path):
        raise ZeroDivisionError
    with bounded(path):
        assert try_lock(path, shared=False, files=FILES, op="test") is None
    assert flock_holder(path, FILES) is None


def test_many_may_share_and_one_excludes(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    arguments = {"options": Options(busy_wait_ms=0), "clock": SystemClock(), "files": FILES, "op": "test"}
    first, second = (take_lock(path, shared=True, **arguments) for _ in range(2))
    with pytest.raises(StoreBusy):
        take_lock(path, shared=False, **arguments)
    for fd in (first, second):
        give_back(fd, files=FILES, op="test")
    give_back(take_lock(path, shared=False, **arguments), files=FILES, op="test")


# Forks while a thread of its own holds the lock in a block and another one for good; then it is killed, the child lives on.
FORKS = """
import os, signal, sys, threading
from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.locks import locked, take_lock
arguments = {"options": Options(), "clock": SystemClock(), "files": Files(), "op": "test"}
inside, kept = threading.Event(), take_lock(sys.argv[1] + ".kept", shared=True, **arguments)

def hold():
    with locked(sys.argv[1], shared=False, **arguments):
        inside.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
inside.wait()
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)  # by now it has given up what it inherited
    os.close(1)
    sys.stdin.read()
    os._exit(0)
sys.stdin.readline()
"""


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_locks_of_a_killed_owner(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", FORKS, path], cwd=CHECKOUT, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        assert try_lock(path, shared=False, files=FILES, op="test") is None
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        for each in (path, f"{path}.kept"):
            fd = try_lock(each, shared=False, files=FILES, op="test")
            assert fd is not None
            give_back(fd, files=FILES, op="test")
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


class Removing(Files):
    """Somebody removes the lock file between opening and locking it, the first time."""

    def __init__(self) -> None:
        self.opened: list[int] = []

    def open_lock(self, path, *, op):
        fd = super().open_lock(path, op=op)
        if not self.opened:
            self.remove(path, op=op)
        self.opened.append(fd)
        return fd


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_not_taken_for_one(tmp_path: Path) -> None:
    path, files = str(tmp_path / "lock"), Removing()
    arguments = {"options": Options(busy_wait_ms=1_000), "clock": SystemClock(), "op": "test"}
    fd = take_lock(path, shared=False, files=files, **arguments)
    assert len(files.opened) == 2
    assert try_lock(path, shared=False, files=FILES, op="test") is None
    give_back(fd, files=files, op="test")


def test_pauses_are_jittered_and_grow_eightfold_at_most() -> None:
    clock = ManualClock()
    early = [pause_s(0, clock) for _ in range(200)]
    late = [pause_s(10_000, clock) for _ in range(200)]
    assert (min(early), max(early)) == (pytest.approx(0.0001, abs=2e-5), pytest.approx(0.0006, abs=2e-5))
    assert (min(late), max(late)) == (pytest.approx(0.0008, abs=16e-5), pytest.approx(0.0048, abs=16e-5))


PROC_LOCKS = """\
1: FLOCK  ADVISORY  WRITE 11 fe:00:{inode} 0 EOF
2: POSIX  ADVISORY  READ 12 fe:00:{inode} 120 120
3: POSIX  ADVISORY  WRITE 13 fe:00:{inode} 121 128
4: POSIX  ADVISORY  WRITE 14 fe:00:1{inode} 120 120
5: -> POSIX  ADVISORY  WRITE 15 fe:00:{inode} 120 120
6: OFDLCK ADVISORY  WRITE -1 fe:00:{inode} 120 120
7: POSIX  ADVISORY  WRITE 0 fe:00:{inode} 120 120
8: POSIX  ADVISORY  WRITE 16 fe:00:{inode} 0 119
"""


class Listing(NoProc):
    def __init__(self, text: str) -> None:
        self.text = text

    def read_all(self, path, *, bytes_max, op):
        return self.text.encode()


def test_only_the_one_who_writes_the_wal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    shm = tmp_path / "x.sqlite-shm"
    assert wal_writer(str(path), FILES) is None
    shm.touch()
    others = PROC_LOCKS.format(inode=shm.stat().st_ino)
    assert wal_writer(str(path), Listing(others)) is None
    found = f"9: POSIX  ADVISORY  WRITE 4711 00:1f:{shm.stat().st_ino} 120 120\n"
    assert wal_writer(str(path), Listing(others + found)) == "process 4711"
    assert wal_writer(str(path), Listing(others + found.replace("120 120", "0 EOF"))) == "process 4711"
    assert flock_holder(str(shm), Listing(others)) == "process 11"
