"""One writer a thread: what is taken, what is told of the owner, what is left when something fails on the way."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.clock import SystemClock
from engine.errors import StoreBusy, StoreError, StoreReadOnly, ThreadBusy
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.locks import Owner
from engine.stores.writer_lock import acquire
from engine.testing.clock import ManualClock
from engine.testing.files import FaultyFiles, RecordingFiles, fail_once

THREAD = "019b8d63-3aa4-79ca-b017-baf18cb08e1b"
FOREIGN = "thread-writer-locks"


def take(home: Path, *, thread: str = THREAD, purpose: str = "write", files=None, clock=None, busy_wait_ms: int = 50):
    return acquire(
        Home(str(home), f"{home}/engine"),
        thread,
        purpose,
        options=Options(busy_wait_ms=busy_wait_ms),
        clock=clock or SystemClock(),
        files=files or Files(),
    )


def is_free(home: Path, thread: str = THREAD) -> bool:
    try:
        take(home, thread=thread).release()
    except ThreadBusy:
        return False
    return True


def flocked(path: Path) -> int:
    """A lock as another program takes it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def test_a_busy_thread_names_its_owner_state_and_purpose(tmp_path: Path) -> None:
    lock = take(tmp_path, purpose="compress")
    with pytest.raises(ThreadBusy) as raised:
        take(tmp_path)
    lock.release()
    assert raised.value.owner == f"process {os.getpid()} on {Owner.here().host}"
    assert raised.value.state == "alive"
    assert "compress" in str(raised.value)
    assert raised.value.path == f"{tmp_path}/engine/locks/threads/{THREAD}.lock"
    assert raised.value.hint == "Read, follow or fork it meanwhile, or end that process."


def test_what_was_given_back_leaves_nothing_and_is_free(tmp_path: Path) -> None:
    lock = take(tmp_path)
    lock.release()
    lock.release()
    assert list((tmp_path / "engine/locks/threads").iterdir()) == []
    assert is_free(tmp_path)


def test_a_second_release_does_not_free_the_next_owner(tmp_path: Path) -> None:
    first = take(tmp_path)
    first.release()
    second = take(tmp_path)
    first.release()
    assert not is_free(tmp_path)
    second.release()


def test_threads_that_release_at_once_do_it_once(tmp_path: Path) -> None:
    closed: list[str] = []
    both = threading.Barrier(2)

    class Met(Files):
        def remove(self, path, *, op):
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(timeout=0.2)  # only where two are inside at once do they meet
            super().remove(path, op=op)

        def close(self, fd, *, op):
            if op == "lock.give_back":
                closed.append(op)
            super().close(fd, op=op)

    lock = take(tmp_path, files=Met())
    racers = [threading.Thread(target=lock.release) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert closed == ["lock.give_back"]


def test_threads_of_one_home_do_not_exclude_each_other_and_letters_of_an_id_do_not_matter(tmp_path: Path) -> None:
    other = THREAD.replace("019b", "029b")
    held = take(tmp_path), take(tmp_path, thread=other)
    assert not is_free(tmp_path, THREAD.upper())
    for lock in held:
        lock.release()


@pytest.mark.parametrize("card", [b"", b"{", b"\xff\xfe", b"[]", b'{"host":1}', b"x" * 10_000, None])
def test_a_torn_or_missing_card_is_told_by_the_system(tmp_path: Path, card: bytes | None) -> None:
    lock = take(tmp_path)
    path = tmp_path / f"engine/locks/threads/{THREAD}.lock.owner"
    path.unlink()
    if card is not None:
        path.write_bytes(card)
    with pytest.raises(ThreadBusy) as raised:
        take(tmp_path, clock=ManualClock())
    lock.release()
    if sys.platform == "linux":
        assert raised.value.owner is not None
        assert raised.value.owner.startswith(f"process {os.getpid()} (")
        assert raised.value.state == "alive"


def test_the_card_of_a_dead_owner_does_not_speak_for_the_present_one(tmp_path: Path) -> None:
    lock = take(tmp_path)
    here = Owner.here()
    card = {"host": here.host, "boot_id": "another", "pid": 1, "started": "1", "purpose": "old"}
    (tmp_path / f"engine/locks/threads/{THREAD}.lock.owner").write_text(json.dumps(card), "utf-8")
    with pytest.raises(ThreadBusy) as raised:
        take(tmp_path, clock=ManualClock())
    lock.release()
    assert "old" not in str(raised.value)
    assert raised.value.state != "dead"


def test_what_a_killed_owner_left_is_taken_over_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "engine/locks/threads"
    folder.mkdir(parents=True)
    (folder / f"{THREAD}.lock").touch()
    (folder / f"{THREAD}.lock.owner").write_text(
        '{"host":"h","boot_id":"b","pid":1,"started":"","purpose":"x"}', "utf-8"
    )
    take(tmp_path).release()


def test_the_codex_lock_is_taken_where_its_folder_is_and_given_back(tmp_path: Path) -> None:
    (tmp_path / FOREIGN).mkdir()
    lock = take(tmp_path)
    path = tmp_path / FOREIGN / f"{THREAD}.lock"
    with pytest.raises(BlockingIOError):
        flocked(path)
    lock.release()
    assert not path.exists()
    assert (tmp_path / FOREIGN / ".coordination.lock").exists()


def test_the_codex_lock_is_taken_and_given_back_under_its_coordination_lock(tmp_path: Path) -> None:
    (tmp_path / FOREIGN).mkdir()
    files = RecordingFiles(Files())
    lock = take(tmp_path, files=files)
    taking = [call.op for call in files.calls if call.name in ("try_flock", "unlock")]
    assert taking == ["lock.take", "lock.coordination", "lock.foreign", "lock.coordination"]
    files.forget()
    lock.release()
    giving = [(call.name, call.op) for call in files.calls if call.name in ("try_flock", "unlock", "remove")]
    assert giving[:3] == [
        ("try_flock", "lock.coordination"),
        ("remove", "lock.foreign"),
        ("unlock", "lock.coordination"),
    ]


def test_no_folder_for_the_codex_lock_is_made(tmp_path: Path) -> None:
    take(tmp_path).release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine"]


def test_a_thread_that_the_codex_cli_uses_is_busy_and_our_own_lock_is_free_again(tmp_path: Path) -> None:
    (tmp_path / FOREIGN).mkdir()
    fd = flocked(tmp_path / FOREIGN / f"{THREAD}.lock")
    with pytest.raises(ThreadBusy) as raised:
        take(tmp_path)
    assert "Codex CLI" in str(raised.value)
    assert list((tmp_path / "engine/locks/threads").iterdir()) == []
    os.close(fd)
    assert is_free(tmp_path)


def test_a_coordination_lock_that_is_kept_is_named_within_the_bound(tmp_path: Path) -> None:
    (tmp_path / FOREIGN).mkdir()
    fd = flocked(tmp_path / FOREIGN / ".coordination.lock")
    clock = ManualClock()
    started_ms = clock.boot_ms()
    with pytest.raises(StoreBusy) as raised:
        take(tmp_path, clock=clock, busy_wait_ms=50)
    assert 50 <= clock.boot_ms() - started_ms < 100
    assert raised.value.path == f"{tmp_path}/{FOREIGN}/.coordination.lock"
    assert list((tmp_path / "engine/locks/threads").iterdir()) == []
    os.close(fd)


def test_giving_back_never_fails_for_a_coordination_lock_that_is_kept(tmp_path: Path) -> None:
    (tmp_path / FOREIGN).mkdir()
    lock = take(tmp_path)
    fd = flocked(tmp_path / FOREIGN / ".coordination.lock")
    lock.release()
    os.close(fd)
    assert is_free(tmp_path)


def test_a_linked_folder_of_the_codex_cli_counts(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    (home / FOREIGN).symlink_to(elsewhere)
    fd = flocked(elsewhere / f"{THREAD}.lock")
    with pytest.raises(ThreadBusy):
        take(home)
    os.close(fd)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("foreign", [False, True])
def test_whatever_call_fails_the_error_is_typed_and_nothing_stays_held(tmp_path: Path, error: int, foreign) -> None:
    surfaced: set[str] = set()
    number = 0
    while True:
        home = tmp_path / str(number)
        home.mkdir()
        if foreign:
            (home / FOREIGN).mkdir()
        files = FaultyFiles(Files(), fail_once(number, error))
        try:
            lock = take(home, files=files)
        except StoreError:
            surfaced.update(call.op for call in files.struck)
        else:
            lock.release()
        assert is_free(home), files.struck
        if not files.struck:
            break
        number += 1
    assert {"lock.folder", "lock.take", "lock.owner"} <= surfaced
    assert not foreign or {"lock.foreign", "lock.coordination"} <= surfaced


def test_a_folder_that_cannot_be_written_is_told_with_one_thing_to_do(tmp_path: Path) -> None:
    def denied(_number, call):
        return errno.EROFS if call.name == "open_lock" else None

    with pytest.raises(StoreReadOnly) as raised:
        take(tmp_path, files=FaultyFiles(Files(), denied))
    assert "--state-dir" in raised.value.hint


@pytest.mark.parametrize("name", ["with space", "プロジェクト", "quote'\"", "new\nline", "x" * 200, "bad\udcff"])
def test_odd_paths_of_homes_work(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    (home / FOREIGN).mkdir(parents=True)
    lock = take(home)
    assert not is_free(home)
    lock.release()
    assert is_free(home)


FORKS = """
import os, sys, threading
from engine.clock import SystemClock
from engine.errors import ThreadBusy
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.writer_lock import acquire
home = Home(sys.argv[1], sys.argv[1] + "/engine")
def take():
    return acquire(home, sys.argv[2], "write", options=Options(), clock=SystemClock(), files=Files())
lock = take()
gone, alive = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(alive[1])
    assert lock.forked
    lock.release()
    try:
        take()
        os._exit(1)
    except ThreadBusy:
        pass
    os.write(gone[1], b"x")
    os.read(alive[0], 1)
    os._exit(0)
os.read(gone[0], 1)
lock.release()
take().release()
os.close(alive[1])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_holds_nothing_and_frees_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path), THREAD],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_an_interrupted_taking_holds_nothing(tmp_path: Path) -> None:
    class Interrupted(Files):
        def replace_small(self, path, data, *, op):
            signal.raise_signal(signal.SIGINT)
            super().replace_small(path, data, op=op)

    with pytest.raises(KeyboardInterrupt):
        take(tmp_path, files=Interrupted())
    assert is_free(tmp_path)


def test_a_rollout_of_the_codex_cli_is_locked_its_way_also_where_it_kept_no_lock_yet(tmp_path: Path) -> None:
    """A session that is started meanwhile finds the thread taken."""
    home = Home(str(tmp_path), str(tmp_path / "engine"))
    parts = {"options": Options(), "clock": SystemClock(), "files": Files()}
    lock = acquire(home, THREAD, "write", foreign=True, **parts)
    path = tmp_path / "thread-writer-locks" / f"{THREAD}.lock"
    with path.open("r+b") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.release()
    assert not path.exists()
