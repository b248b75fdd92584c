"""One writer a thread: the lock that every path that changes a rollout takes first.

The lock is an flock on `locks/threads/<thread id>.lock`, so it ends with its process, however that ends. Who holds it is
written beside it for others to read: busy is `ThreadBusy` with that owner and its state, and a stopped holder is still a
holder, never taken over. Where the Codex CLI keeps locks of its own in a home (`thread-writer-locks/`), its lock is taken
as well, by its own rules (codex_rollout.md 4.7), so neither program writes what the other is writing. A child that the
owner forked holds neither (`locks`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from contextlib import AbstractContextManager

import msgspec

from engine.clock import Clock
from engine.errors import StoreBusy, ThreadBusy
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home, is_id
from engine.stores.link import files_translated
from engine.stores.locks import Owner, flock_holder, give_back, locked, pause_s, try_lock

FOREIGN_FOLDER = "thread-writer-locks"
_OWNER_BYTES_MAX = 4096
_TRIES = 20


class _Card(msgspec.Struct):
    """What stands beside a lock."""

    host: str
    boot_id: str
    pid: int
    started: str
    purpose: str


class WriterLock:
    """Both locks of one thread, held until `release`."""

    def __init__(self, home: Home, thread_id: str, *, options: Options, clock: Clock, files: Files) -> None:
        """Nothing is held yet; `acquire` makes one and takes the locks."""
        self._path = _lock_path(home, thread_id)
        self._foreign_folder = f"{home.path}/{FOREIGN_FOLDER}"
        self._foreign_path = f"{self._foreign_folder}/{thread_id}.lock"
        self._thread_id = thread_id
        self._options = options
        self._clock = clock
        self._files = files
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._fd: int | None = None
        self._foreign_fd: int | None = None

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a forked child, where nothing is held."""
        return os.getpid() != self._pid

    def release(self) -> None:
        """Give both locks back, whatever fails on the way; a second call does nothing."""
        if self.forked:
            return
        with self._mutex:
            if self._foreign_fd is not None:
                self._release_foreign(self._foreign_fd)
            if self._fd is not None:
                self._remove(f"{self._path}.owner")
                self._remove(self._path)
                self._let_go(self._fd)
            self._fd = self._foreign_fd = None

    def take(self, purpose: str, *, foreign: bool) -> None:
        """Take the engine's own lock, then the Codex CLI's. Raises `ThreadBusy`, `StoreError`, and holds nothing then."""
        try:
            with files_translated("lock", self._path):
                self._files.ensure_folder(self._path.rpartition("/")[0], op="lock.folder")
                self._take_own()
                self._files.replace_small(f"{self._path}.owner", _card(purpose, self._files), op="lock.owner")
                if foreign:
                    self._files.ensure_folder(self._foreign_folder, op="lock.foreign")
                if self._files.kind(self._foreign_folder, op="lock.foreign", follow=True) == "folder":
                    self._take_foreign()
        except BaseException:
            self.release()
            raise

    def _take_own(self) -> None:
        """Try again where the holder gave back just now, or died, or has not said yet who it is."""
        for tries in range(_TRIES):
            self._fd = try_lock(self._path, shared=False, files=self._files, op="lock.take")
            if self._fd is not None:
                return
            owner, purpose = self._owner()
            state = owner.state(self._files) if owner is not None else "dead"
            if state != "dead":
                raise self._busy(str(owner), state, f": {purpose}")
            self._clock.sleep(pause_s(tries, self._clock))
        raise self._busy(*self._seen(self._path), "")

    def _take_foreign(self) -> None:
        with self._coordinated():
            self._foreign_fd = try_lock(self._foreign_path, shared=False, files=self._files, op="lock.foreign")
        if self._foreign_fd is None:
            raise self._busy(*self._seen(self._foreign_path), " (by the Codex CLI's lock)")

    def _release_foreign(self, fd: int) -> None:
        """Its lock file goes under its coordination lock; where that is not to be had a stale file stays, as after a crash."""
        with contextlib.suppress(OSError, StoreBusy), self._coordinated():
            self._files.remove(self._foreign_path, op="lock.foreign")
        self._let_go(fd)

    def _let_go(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            give_back(fd, files=self._files, op="lock.give_back")

    def _remove(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self._files.remove(path, op="lock.remove")

    def _coordinated(self) -> AbstractContextManager[None]:
        """The other program takes this lock around every taking and giving back."""
        return locked(
            f"{self._foreign_folder}/.coordination.lock",
            shared=False,
            options=self._options,
            clock=self._clock,
            files=self._files,
            op="lock.coordination",
        )

    def _owner(self) -> tuple[Owner | None, str]:
        return _noted(self._path, self._files)

    def _seen(self, path: str) -> tuple[str | None, str]:
        """Who holds a lock that says nothing of its owner, as the system sees it, and its state."""
        who = flock_holder(path, self._files)
        if who is None:
            return None, "unknown"
        return who, "stopped" if who.endswith(", stopped)") else "alive"

    def _busy(self, who: str | None, state: str, more: str) -> ThreadBusy:
        return ThreadBusy(
            f"The thread {self._thread_id} is in use by {who or 'another process'} ({state}){more}.",
            owner=who,
            state=state,
            hint="Read, follow or fork it meanwhile, or end that process.",
            path=self._path,
        )


def acquire(
    home: Home,
    thread_id: str,
    purpose: str,
    *,
    foreign: bool = False,
    options: Options,
    clock: Clock,
    files: Files,
) -> WriterLock:
    """Take the thread's lock, and the Codex CLI's where the home has such, or where the rollout is that program's.

    Waits for nobody who holds the thread. Raises `ThreadBusy`; `StoreError` where the lock's folder cannot be written;
    `StoreBusy` where the Codex CLI keeps its coordination lock for longer than `busy_wait_ms`.
    """
    assert home.state is not None
    lock = WriterLock(home, thread_id.lower(), options=options, clock=clock, files=files)
    lock.take(purpose, foreign=foreign)
    return lock


def live_owner(home: Home, thread_id: str, files: Files) -> str | None:
    """Who has a thread open for changing it, as a sentence's part, or None. Takes no lock, so it disturbs nobody."""
    if home.state is not None:
        owner, purpose = _noted(_lock_path(home, thread_id), files)
        if owner is not None and owner.state(files) != "dead":
            return f"{owner}, to {purpose}"
    foreign = f"{home.path}/{FOREIGN_FOLDER}/{thread_id}.lock"
    return flock_holder(foreign, files) if files.stat(foreign, op="lock.look") is not None else None


def left_behind(home: Home, files: Files) -> list[str]:
    """The threads whose lock files belong to nobody who lives: a crash left them, and they keep nobody out."""
    folder = f"{home.state}/locks/threads"
    if home.state is None or files.kind(folder, op="lock.look") != "folder":
        return []
    names = {entry.name.partition(".")[0] for entry in files.scan(folder, op="lock.look") if entry.kind == "file"}
    return [each for each in sorted(names) if is_id(each) and _is_left(home, each, files)]


def _is_left(home: Home, thread_id: str, files: Files) -> bool:
    path = _lock_path(home, thread_id)
    owner, _ = _noted(path, files)
    if owner is not None:
        return owner.state(files) == "dead"
    there = any(files.stat(each, op="lock.look") is not None for each in (path, f"{path}.owner"))
    return there and flock_holder(path, files) is None


def _lock_path(home: Home, thread_id: str) -> str:
    return f"{home.state}/locks/threads/{thread_id}.lock"


def _noted(path: str, files: Files) -> tuple[Owner | None, str]:
    """Who noted beside a lock that it is theirs, and what for."""
    data = files.read_small(f"{path}.owner", bytes_max=_OWNER_BYTES_MAX, op="lock.owner")
    try:
        card = msgspec.json.decode(data or b"", type=_Card)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, ""
    return Owner(card.host, card.boot_id, card.pid, card.started), card.purpose


def _card(purpose: str, files: Files) -> bytes:
    owner = Owner.here(files)
    return msgspec.json.encode(_Card(owner.host, owner.boot_id, owner.pid, owner.started, purpose))
