"""One writer a thread: the lock that every path that changes a rollout takes first.

The lock is an flock on `locks/threads/<thread id>.lock`, so it ends with its process, however that ends. Who holds it is
written beside it for others to read: busy is `ThreadBusy` with that owner and its state, and a stopped holder is still a
holder, never taken over. Where the Codex CLI keeps locks of its own in a home (`thread-writer-locks/`), its lock is taken
as well, by its own rules (codex_rollout.md 4.7), so neither program writes what the other is writing.

A lock must not outlive its owner in a child that the owner forked: the child closes its copies of the descriptors at once
(closing does not unlock what the parent still has open).
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import msgspec

from engine.clock import Clock
from engine.errors import ThreadBusy
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.locks import Owner, flock_holder, locked, pause_s, try_lock

FOREIGN_FOLDER = "thread-writer-locks"
_OWNER_BYTES_MAX = 4096
_TRIES = 3
_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


class _Card(msgspec.Struct):
    """What stands beside a lock."""

    host: str
    boot_id: str
    pid: int
    started: str
    purpose: str


class WriterLock:
    """Both locks of one thread, held until `release`."""

    def __init__(self, fds: list[int], lock_path: str, foreign_path: str | None, home: Home, parts: _Parts) -> None:
        self._fds = fds
        self._lock_path = lock_path
        self._foreign_path = foreign_path
        self._home = home
        self._parts = parts
        self._pid = os.getpid()
        _held.add(self)

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a forked child, where nothing is held."""
        return os.getpid() != self._pid

    def release(self) -> None:
        """Give both locks back; a second call does nothing."""
        if self.forked or not self._fds:
            return
        files = self._parts.files
        if self._foreign_path is not None:
            with _coordinated(self._home, self._parts):
                files.remove(self._foreign_path, op="lock.foreign")
                files.close(self._fds.pop(), op="lock.foreign")
        files.remove(f"{self._lock_path}.owner", op="lock.owner")
        files.remove(self._lock_path, op="lock.remove")
        files.close(self._fds.pop(), op="lock.close")

    def close_copies(self) -> None:
        """In a forked child: let go of the parent's descriptors, which must not keep its locks alive."""
        for fd in self._fds:
            try:
                self._parts.files.close(fd, op="lock.fork")
            except OSError:
                continue
        self._fds = []


class _Parts(msgspec.Struct, frozen=True):
    """What the functions here work with."""

    options: Any
    clock: Any
    files: Any


def acquire(home: Home, thread_id: str, purpose: str, *, options: Options, clock: Clock, files: Files) -> WriterLock:
    """Take the thread's lock, and the Codex CLI's where the home has such. Raises `ThreadBusy`; waits for nobody."""
    assert home.state is not None
    parts = _Parts(options, clock, files)
    folder = f"{home.state}/locks/threads"
    files.ensure_folder(folder, op="lock.folder")
    path = f"{folder}/{thread_id}.lock"
    fd = _try_own(path, parts)
    if fd is None:
        raise _busy(thread_id, path, files)
    fds = [fd]
    try:
        files.replace_small(f"{path}.owner", _card(purpose, files), op="lock.owner")
        foreign = _acquire_foreign(home, thread_id, parts)
        if foreign is not None:
            fds.append(foreign[0])
    except BaseException:
        files.remove(f"{path}.owner", op="lock.owner")
        files.close(fd, op="lock.close")
        raise
    return WriterLock(fds, path, foreign[1] if foreign is not None else None, home, parts)


def _try_own(path: str, parts: _Parts) -> int | None:
    """A holder removes its lock file when it gives the lock back; one that went between open and flock is tried again."""
    for tries in range(_TRIES):
        fd = try_lock(path, shared=False, files=parts.files, op="lock.take")
        if fd is not None:
            return fd
        parts.clock.sleep(pause_s(tries, parts.clock))
    return None


def _acquire_foreign(home: Home, thread_id: str, parts: _Parts) -> tuple[int, str] | None:
    if parts.files.kind(f"{home.path}/{FOREIGN_FOLDER}", op="lock.foreign") != "folder":
        return None
    path = f"{home.path}/{FOREIGN_FOLDER}/{thread_id}.lock"
    with _coordinated(home, parts):
        fd = try_lock(path, shared=False, files=parts.files, op="lock.foreign")
    if fd is None:
        raise ThreadBusy(
            f"The Codex CLI is using the thread {thread_id}.",
            owner=flock_holder(path, parts.files),
            state="alive",
            hint="Read, follow or fork it meanwhile, or end that session.",
            path=path,
        )
    return fd, path


def _coordinated(home: Home, parts: _Parts) -> Any:
    """The other program takes this lock around every taking and giving back."""
    path = f"{home.path}/{FOREIGN_FOLDER}/.coordination.lock"
    return locked(
        path, shared=False, options=parts.options, clock=parts.clock, files=parts.files, op="lock.coordination"
    )


def _busy(thread_id: str, path: str, files: Files) -> ThreadBusy:
    data = files.read_small(f"{path}.owner", bytes_max=_OWNER_BYTES_MAX, op="lock.owner")
    try:
        card = msgspec.json.decode(data or b"", type=_Card)
    except msgspec.DecodeError:
        who, state, purpose = flock_holder(path, files), "unknown", "it"
    else:
        owner = Owner(card.host, card.boot_id, card.pid, card.started)
        who, state, purpose = str(owner), owner.state(files), card.purpose
    return ThreadBusy(
        f"The thread {thread_id} is in use by {who or 'another process'} ({state}): {purpose}.",
        owner=who,
        state=state,
        hint="Read, follow or fork it meanwhile, or end that process.",
        path=path,
    )


def _card(purpose: str, files: Files) -> bytes:
    owner = Owner.here(files)
    return msgspec.json.encode(_Card(owner.host, owner.boot_id, owner.pid, owner.started, purpose))


def _after_fork() -> None:
    for lock in list(_held):
        lock.close_copies()


os.register_at_fork(after_in_child=_after_fork)
