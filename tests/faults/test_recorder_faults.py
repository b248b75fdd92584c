"""Every file call of a writer is made to fail once, or in pairs, or to take half a write.

A clean run is recorded: a thread is created, appended to with each durability and with a key, closed, opened with a torn
tail, appended to, closed. Then each call fails in a run of its own. The caller goes on with its next append, as an
application does. Afterwards the file, opened by plain calls, holds what was acknowledged, in order and once, each failed batch
whole or not at all, and no damage.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.errors import AppendFailed
from engine.stores.files import Files
from engine.stores.recorder import Recorder
from engine.testing.files import SHORT, Call, FaultyFiles, RecordingFiles, fail_once
from tests.recording import NAME, item, items, lines, numbers, recorder, start

TORN = b'{"timestamp":"2026-01-05T09:00:00.000Z","ordi'

QUIET = frozenset({"remove", "close"})
"""Their failure may go untold: a left-over name is removed by the next opening, and what was closed was synced."""


class Run:
    """One use of a rollout by an application that goes on after an error."""

    def __init__(self, path: Path, files: Any) -> None:
        self.path = path
        self.files = files
        self.acknowledged: list[int] = []
        self.refused: list[list[int]] = []
        self.failures = 0
        self._numbers = 0

    def all(self) -> None:
        opened = recorder(self.path, start=start(), files=self.files)
        self.append(opened, 2)
        self.append(opened, 1, durability="buffered")
        self.append(opened, 3, durability="buffered", key="k")
        self.tell(opened.sync)
        self.append(opened, 2, durability="turn", size=3_000)
        self.append(opened, 1, key="l")
        self.append(opened, 1, durability="buffered")
        self.tell(opened.close)
        if self.path.exists():
            with open(self.path, "ab") as file:
                file.write(TORN)
        again = self.opened()
        for count in (1, 3):
            self.append(again, count)
        self.append(again, 1, durability="buffered")
        self.tell(again.close)

    def opened(self) -> Recorder:
        """Opening fails by itself, and is tried again by whoever wants the thread."""
        for _ in range(5):
            try:
                return recorder(self.path, start=None if self.path.exists() else start(), files=self.files)
            except OSError:
                self.failures += 1
        raise AssertionError("it cannot be opened any more")

    def append(self, opened: Recorder, count: int, size: int = 0, **how: Any) -> None:
        batch = list(range(self._numbers, self._numbers + count))
        self._numbers += count
        if self.tell(lambda: opened.append([item(number, size) for number in batch], **how)):
            self.acknowledged += batch
        else:
            self.refused.append(batch)

    def tell(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except AppendFailed:
            self.failures += 1
            return False
        return True

    def check(self, where: object) -> None:
        if not self.path.exists():
            assert self.acknowledged == [], where
            return
        recorder(self.path).close()
        found = numbers(self.path)
        assert [number for number in found if number in self.acknowledged] == self.acknowledged, where
        assert len(found) == len(set(found)), f"twice: {found} after {where}"
        for batch in self.refused:
            assert [number for number in found if number in batch] in ([], batch), where
        left_over = [path.name for path in self.path.parent.iterdir() if path != self.path]
        assert left_over == [], where


def run(folder: Path, files: Any) -> Run:
    folder.joinpath("sessions").mkdir(parents=True)
    found = Run(folder / "sessions" / NAME, files)
    found.all()
    return found


@pytest.fixture
def calls(tmp_path: Path) -> list[Call]:
    files = RecordingFiles(Files())
    clean = run(tmp_path / "clean", files)
    assert clean.failures == 0
    assert numbers(clean.path) == clean.acknowledged == list(range(15))
    assert [path.read_bytes() for path in (tmp_path / "clean" / "quarantine").iterdir()] == [TORN]
    assert len(lines(clean.path)) == 16
    return files.calls


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_call_that_fails_is_told_to_one_append_and_the_next_goes_on(
    tmp_path: Path, calls: list[Call], error: int
) -> None:
    assert len(calls) > 50
    told, healed = 0, []
    for number, call in enumerate(calls):
        files = FaultyFiles(Files(), fail_once(number, error))
        found = run(tmp_path / str(number), files)
        assert [each[:2] for each in files.struck] == [call[:2]]
        assert found.failures <= 1, f"{call} was told more than once"
        told += found.failures
        if not found.failures and call.name not in QUIET:
            healed.append((call.name, call.op))
        found.check(call)
    assert told > 40
    assert healed == [("sync", "recorder.sync")] * 2, "only the syncs of the two closes are made good without a word"


def test_a_write_that_takes_half_is_gone_on_with(tmp_path: Path, calls: list[Call]) -> None:
    struck = 0
    for number, call in enumerate(calls):
        if call.name == "write":
            files = FaultyFiles(Files(), fail_once(number, SHORT))
            found = run(tmp_path / str(number), files)
            struck += len(files.struck)
            assert found.failures == 0
            found.check(call)
            assert numbers(found.path) == list(range(15))
    assert struck == 10


@pytest.mark.parametrize("undone", [True, False], ids=["cut at once", "cut later"])
def test_half_a_write_and_then_no_room_leaves_no_half_record(tmp_path: Path, calls: list[Call], undone: bool) -> None:
    """As a disk that fills up does it; also where the cut that follows fails."""
    for number, call in enumerate(calls):
        if call.name != "write":
            continue
        faults = {number: SHORT, number + 1: errno.ENOSPC} | ({} if undone else {number + 2: errno.EIO})
        found = run(tmp_path / str(number), FaultyFiles(Files(), lambda at, _, faults=faults: faults.get(at)))
        assert found.failures >= 1
        found.check(call)


def pairs(folder: Path, chosen: list[tuple[int, int]]) -> None:
    for first, second in chosen:
        faults = {first: errno.EIO, second: errno.ENOSPC}
        found = run(folder / f"{first}-{second}", FaultyFiles(Files(), lambda at, _, faults=faults: faults.get(at)))
        assert found.failures <= 2
        found.check(f"calls {first} and {second}")


def test_calls_that_fail_in_pairs_lose_nothing(tmp_path: Path, calls: list[Call]) -> None:
    """The second is near the first: mending what the first broke fails too."""
    rng = Random(5)
    near = [(first, first + rng.randrange(1, 12)) for first in range(len(calls))]
    pairs(tmp_path, near)


@pytest.mark.soak
def test_all_pairs_of_calls_that_fail_lose_nothing(tmp_path: Path, calls: list[Call]) -> None:
    pairs(tmp_path, [(first, second) for first in range(len(calls)) for second in range(first + 1, len(calls) + 12)])


def test_a_disk_that_stays_broken_refuses_each_append_and_loses_nothing(tmp_path: Path) -> None:
    """From some call on everything that writes fails, for a while."""
    path = tmp_path / "sessions" / NAME
    path.parent.mkdir()
    writes = {"write", "pwrite", "sync", "truncate"}
    files = FaultyFiles(Files(), lambda _, call: errno.EIO if files.broken and call.name in writes else None)
    files.broken = False
    opened = recorder(path, start=start(), files=files, durability="buffered")
    opened.append(items(1))
    opened.sync()
    opened.append(items(2))
    for number in range(3, 6):
        files.broken = True
        for _ in range(3):
            with pytest.raises(AppendFailed):
                opened.append(items(99))
        files.broken = False
        opened.append(items(number))
    opened.close()
    assert numbers(path) == [1, 2, 3, 4, 5]
