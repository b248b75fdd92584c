"""Being woken: by events where there are some, by time where there are none; nothing depends on which."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.finder import Finder
from engine.stores.layout import Home
from engine.stores.watch import Watch
from engine.testing import ManualClock
from tests.writing import say


def watch(**options: Any) -> Watch:
    return Watch(threading.Event(), options=Options(**options), clock=SystemClock())


def test_events_name_what_changed_in_and_below_the_folders(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    waiting = watch()
    waiting.begin([str(tmp_path)])
    assert waiting.wait() == set()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("x")
    seen: set[str] = set()
    while str(tmp_path / "a") not in seen:
        seen |= waiting.wait()
    (tmp_path / "a" / "b").write_text("y")
    while str(tmp_path / "a" / "b") not in seen:
        seen |= waiting.wait()
    assert waiting.poll_s == 1.0
    waiting.end()
    assert waiting.poll_s == 0.1


@pytest.mark.parametrize("folders", [[], ["/\udcff"]])
def test_what_cannot_be_watched_is_polled(folders: list[str]) -> None:
    clock = ManualClock()
    waiting = Watch(threading.Event(), options=Options(follow_poll_ms=70), clock=clock)
    waiting.begin(folders)
    for _ in range(3):
        assert waiting.wait() == set()
    assert clock.slept_s[-1] == 0.07
    assert waiting.poll_s == 0.07


def test_without_the_extra_nothing_is_missing_but_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    waiting = watch(follow_poll_ms=1)
    waiting.begin([str(tmp_path)])
    assert waiting.wait() == set()
    assert waiting.poll_s == 0.001


def test_the_extra_is_not_imported_before_somebody_follows() -> None:
    import subprocess

    code = "import sys, engine, engine.runtime, engine.cli.app; print('watchfiles' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_with_events_a_home_that_comes_to_be_is_followed_and_stopping_ends_the_wait(tmp_path: Path) -> None:
    """From a home without any folder on; new days, the archive, the journal."""
    pytest.importorskip("watchfiles")
    home = tmp_path / "home"
    home.mkdir()
    with engine.open(str(home)) as e:
        follower = e.follow(decisions=True)
        found: list[Any] = []
        following = threading.Thread(target=lambda: found.extend(follower))
        following.start()
        for name in ("a", "b"):
            with e.threads.create(cwd="/") as thread:
                say(thread, name)
            e.threads.rename(thread.id, name)
            e.threads.archive(thread.id)
            e.threads.unarchive(thread.id)
            with e.threads.resume(thread.id) as thread:
                say(thread, "again")
        limit = time.monotonic() + 60
        while len(found) < 2 * (8 + 5 + 2 + 5) and time.monotonic() < limit:
            time.sleep(0.01)
        follower.close()
        following.join(10)
        assert not following.is_alive()
        ordinals = [each.record.ordinal for each in found if each.rollout_id == thread.id]
        assert ordinals == list(range(len(ordinals)))
        expected = sum(path.read_bytes().count(b"\n") for path in home.rglob("*.jsonl"))
        assert len(found) == expected


def test_a_writer_that_made_its_file_beside_its_name_is_followed_by_its_events(tmp_path: Path) -> None:
    """What is written by a descriptor is told under the name that it was opened by, which is not there any more."""
    pytest.importorskip("watchfiles")
    home = tmp_path / "home"
    home.mkdir()
    with engine.open(str(home)) as e, e.threads.create(cwd="/") as thread:
        thread.begin()
        folder = str(next(home.glob("sessions/*/*/*")))
        waiting = watch()
        waiting.begin([folder])
        waiting.wait()
        thread.append([{"type": "x", "payload": {}}])
        named: set[str] = set()
        while not named:
            named |= waiting.wait()
        waiting.end()
        finder = Finder(
            Home(str(home), None), None, lambda _: True, {}, options=Options(), clock=SystemClock(), files=Files()
        )
        for path in named:
            finder.touch(path)
        assert len(finder.due) == 1
