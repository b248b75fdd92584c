"""Who a process is, whether it still lives, and short locks that processes take in turn.

An `Owner` names one process of one boot of one host, so that what it left behind (a lease, a lock) can be judged later:
alive, stopped (a stopped process is still an owner), dead, or elsewhere, where this process cannot look. A process id
that was handed out again is told apart by its start time. Where /proc is missing (macOS) there is no start time: the
answer then rests on the process id alone.

`locked` is a flock with a bound: past `busy_wait_ms` it raises `StoreBusy` with the holder's name, it never waits
for ever. A flock ends with its process, so nothing has to be cleaned up after a crash; lock files are never removed
by the engine, and one that somebody else removed meanwhile is noticed and taken again.

A lock must not outlive its owner in a child that the owner forked: the child closes its copies of the descriptors at once,
and no fork comes between taking a lock and noting it. Giving back unlocks before it closes, so a copy that some other
code made keeps nothing.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from engine.clock import Clock
from engine.errors import StoreBusy
from engine.options import Options
from engine.stores.files import Files

State = Literal["alive", "stopped", "dead", "elsewhere"]

WAL_WRITE_BYTE = 120
"""The byte of a -shm file that the writer of a WAL database holds locked (SQLite's file format, 2.3.1)."""

_FILES = Files()
_PROC_LOCKS_BYTES_MAX = 4 * 1024 * 1024
_PROC_STAT_BYTES_MAX = 4096
_PROC_LOCK = re.compile(
    r"\d+: (?P<kind>\w+) +\w+ +(?P<mode>\w+) +(?P<pid>[1-9]\d*) +\w+:\w+:(?P<inode>\d+) +(?P<start>\d+) +(?P<end>\w+)"
)
"""A lock that is held: `1: POSIX  ADVISORY  WRITE 4711 fe:00:1234 120 120`. One that waits has `->` before POSIX."""

_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""The process id namespace every Linux machine starts with (PROC_PID_INIT_INO)."""

_fork_gate = threading.RLock()
_held: dict[int, Files] = {}
"""The descriptors of all locks that this process holds."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One process. `started` is the kernel's own number, only ever compared; "" where it cannot be told."""

    host: str
    boot_id: str
    pid: int
    started: str

    @classmethod
    def here(cls, files: Files = _FILES) -> Owner:
        """This process. Asked anew each time, since a fork changes the answer."""
        pid = os.getpid()
        boot_id = files.read_small("/proc/sys/kernel/random/boot_id", bytes_max=64, op="owner.boot") or b""
        process = _process(pid, files)
        started = process.started if process is not None else ""
        return cls(_host(files), boot_id.decode("ascii", "replace").strip(), pid, started)

    def state(self, files: Files = _FILES) -> State:
        """Whether the process lives, as far as can be told from here. A zombie is dead: it can do nothing more."""
        here = Owner.here(files)
        if self.host != here.host:
            return "elsewhere"
        if self.boot_id != here.boot_id or self.pid <= 0:
            return "dead"
        process = _process(self.pid, files)
        if process is None:
            return "alive" if _exists(self.pid) else "dead"
        if self.started not in ("", process.started):
            return "dead"
        return process.state

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, slots=True)
class _Process:
    name: str
    state: State
    started: str


def _process(pid: int, files: Files) -> _Process | None:
    """What /proc says of a process; None where it says nothing (no such process, no /proc, or not shown to us)."""
    found = files.read_small(f"/proc/{pid}/stat", bytes_max=_PROC_STAT_BYTES_MAX, op="owner.stat")
    if not found:
        return None
    # The name stands in parentheses and may itself hold blanks and parentheses: cut at the last one.
    head, _, tail = found.decode("utf-8", "replace").rpartition(")")
    fields = tail.split()
    states: dict[str, State] = {"T": "stopped", "t": "stopped", "Z": "dead", "X": "dead", "x": "dead"}
    return _Process(head.partition("(")[2], states.get(fields[0], "alive"), fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_running(pid: int, files: Files) -> bool:
    """Whether a process of this number runs here, whoever it is."""
    process = _process(pid, files)
    return process.state != "dead" if process is not None else _exists(pid)


def _host(files: Files) -> str:
    """The host's name; in a process id namespace of its own that too, since process ids mean nothing across them."""
    namespace = files.read_link("/proc/self/ns/pid", op="owner.namespace")
    name = platform.node() or "localhost"
    return name if namespace in (None, _FIRST_PID_NAMESPACE) else f"{name}/{namespace}"


@contextlib.contextmanager
def locked(path: str, *, shared: bool, options: Options, clock: Clock, files: Files, op: str) -> Iterator[None]:
    """Hold the lock file at `path` around a block; raises `StoreBusy` when it was not free within `busy_wait_ms`."""
    fd = take_lock(path, shared=shared, options=options, clock=clock, files=files, op=op)
    pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == pid:  # a child that was forked meanwhile has let go of it
            give_back(fd, files=files, op=op)


def take_lock(path: str, *, shared: bool, options: Options, clock: Clock, files: Files, op: str) -> int:
    """A descriptor that holds the lock until it is given back; raises `StoreBusy` as `locked` does."""
    started_s = clock.elapsed_s()
    tries = 0
    while (fd := try_lock(path, shared=shared, files=files, op=op)) is None:
        waited_ms = int((clock.elapsed_s() - started_s) * 1000)
        if waited_ms >= options.busy_wait_ms:
            holder = flock_holder(path, files)
            raise StoreBusy(
                f"{op}: the lock was held for {waited_ms} ms by {holder or 'another process'}",
                waited_ms=waited_ms,
                holder=holder,
                path=path,
                hint="wait for that process, or end it",
            )
        clock.sleep(pause_s(tries, clock))
        tries += 1
    return fd


def try_lock(path: str, *, shared: bool, files: Files, op: str) -> int | None:
    """A descriptor that holds the lock until it is given back, or None where it is not free now."""
    with _fork_gate:
        fd = files.open_lock(path, op=op)
        try:
            if files.try_flock(fd, shared=shared, op=op):
                held, named = files.fstat(fd, op=op), files.stat(path, op=op)
                # A lock on a file that was removed meanwhile excludes nobody: the next process makes a new one.
                if named is not None and (held.device, held.inode) == (named.device, named.inode):
                    _held[fd] = files
                    return fd
        except BaseException:
            files.close(fd, op=op)
            raise
        files.close(fd, op=op)
        return None


def give_back(fd: int, *, files: Files, op: str) -> None:
    """End a lock that this process took; in a forked child, which has none of them, nothing."""
    with _fork_gate:
        if _held.pop(fd, None) is None:
            return
        try:
            files.unlock(fd, op=op)
        finally:
            files.close(fd, op=op)


def pause_s(tries: int, clock: Clock) -> float:
    """How long to wait before the next try: 0.1 to 0.6 ms, up to eight times that when it lasts.

    Jitter, because equal waits starve one of eight writers for over a second; the growth keeps a long wait cheap.
    """
    return (0.1 + 0.5 * clock.fraction()) * min(1 + tries // 32, 8) / 1000


def flock_holder(path: str, files: Files) -> str | None:
    """Who holds an flock on the file, or None where that cannot be told."""
    return _holder(path, "FLOCK", files)


def others_hold(path: str, files: Files) -> bool:
    """Whether a process other than this one holds an flock on the file; False also where that cannot be told."""
    found = files.stat(path, op="locks.holder")
    listed = files.read_all("/proc/locks", bytes_max=_PROC_LOCKS_BYTES_MAX, op="locks.holder")
    if found is None or listed is None:
        return False
    pids = {_pid_of(line, "FLOCK", found.inode) for line in listed.decode("ascii", "replace").splitlines()}
    return bool(pids - {None, os.getpid()})


def wal_writer(path: str, files: Files) -> str | None:
    """Who is writing the WAL database at `path`, or None where that cannot be told."""
    return _holder(path + "-shm", "POSIX", files)


def _holder(path: str, kind: str, files: Files) -> str | None:
    found = files.stat(path, op="locks.holder")
    listed = files.read_all("/proc/locks", bytes_max=_PROC_LOCKS_BYTES_MAX, op="locks.holder")
    if found is None or listed is None:
        return None
    for line in listed.decode("ascii", "replace").splitlines():
        pid = _pid_of(line, kind, found.inode)
        if pid is not None:
            return _described(pid, files)
    return None


def _pid_of(line: str, kind: str, inode: int) -> int | None:
    """The holder's process id where a line of /proc/locks is about this file.

    The device is not compared: some file systems show another one here than stat does.
    """
    found = _PROC_LOCK.fullmatch(line)
    if found is None or found["kind"] != kind or int(found["inode"]) != inode:
        return None
    if kind == "POSIX":
        end = int(found["end"]) if found["end"] != "EOF" else WAL_WRITE_BYTE
        if found["mode"] != "WRITE" or not int(found["start"]) <= WAL_WRITE_BYTE <= end:
            return None
    return int(found["pid"])


def _described(pid: int, files: Files) -> str:
    process = _process(pid, files)
    if process is None:
        return f"process {pid}"
    return f"process {pid} ({process.name}{', stopped' if process.state == 'stopped' else ''})"


def _after_fork() -> None:
    """In the child: let go of the parent's descriptors, which must not keep its locks alive."""
    for fd, files in _held.items():
        with contextlib.suppress(OSError):
            files.close(fd, op="lock.fork")
    _held.clear()
    _fork_gate.release()


os.register_at_fork(before=_fork_gate.acquire, after_in_parent=_fork_gate.release, after_in_child=_after_fork)
