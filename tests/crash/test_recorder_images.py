"""Power cuts: every state that a disk may be in after each file call of a writer, opened by plain calls.

What was acknowledged as durable is there; what is there is a beginning of what was sent; the next append is right. The
same check catches writers with a bug put in on purpose, so it can fail. In scattered images (uncertain writes kept by
chance) only the acknowledged part is promised.
"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.errors import AppendFailed, RolloutUnusable
from engine.stores.files import Files
from engine.stores.recorder import Appended, Recorder
from engine.testing.crash import CrashFiles, Image
from engine.testing.files import Call, FaultyFiles
from tests.recording import NAME, item, numbers, recorder, start

ROLLOUT = f"sessions/2026/01/05/{NAME}"


class Quick(Files):
    """The journal says what is synced, so nobody need wait for the real disk."""

    def sync(self, fd: int, *, op: str) -> None:
        return

    def sync_folder(self, path: str, *, op: str) -> None:
        return


class Sent:
    """What was sent to the file in this order, and how much of it was acknowledged as durable."""

    def __init__(self, files: CrashFiles) -> None:
        self.files = files
        self.numbers: list[int] = []
        self.refused: list[int] = []
        self._next = 0

    def append(self, opened: Recorder, count: int, size: int = 0, **how: Any) -> None:
        batch = list(range(self._next, self._next + count))
        self._next += count
        self.numbers += batch
        try:
            answer = opened.append([item(number, size) for number in batch], **how)
        except AppendFailed:
            # The next append opens the file again, which cuts this batch off; until then it may be there.
            del self.numbers[-count:]
            self.refused += batch
            return
        if answer.durability == "durable":
            self.files.mark(list(self.numbers))

    def sync(self, opened: Recorder) -> None:
        try:
            opened.sync()
        except AppendFailed:
            return
        self.files.mark(list(self.numbers))

    def close(self, opened: Recorder) -> None:
        opened.close()
        self.files.mark(list(self.numbers))


def work(home: Path, files: CrashFiles, kind: type[Recorder], rng: Random, rounds: int) -> Sent:
    """Three times: open, append in batches of some sizes with some durabilities, close; between them a torn tail."""
    sent = Sent(files)
    path = home / ROLLOUT
    for _ in range(3):
        opened = open_it(path, files, kind)
        for _ in range(rounds):
            durability = rng.choice(["durable", "durable", "buffered", "turn"])
            size = rng.choice([0, 0, 50, 3_000])
            sent.append(opened, rng.randrange(1, 5), size, durability=durability)
            if rng.random() < 0.2:
                sent.sync(opened)
        sent.close(opened)
        fd = files.open_append(str(path), op="test.tear")
        files.write(fd, b'{"timestamp":"2026-01-05T09:0', op="test.tear")
        files.close(fd, op="test.tear")
    return sent


def open_it(path: Path, files: CrashFiles, kind: type[Recorder]) -> Recorder:
    """Tried again where opening fails, as whoever wants the thread would."""
    how: dict[str, Any] = {"start": None if path.exists() else start(), "files": files, "kind": kind}
    try:
        return recorder(path, **how)
    except OSError:
        return recorder(path, **how)


class Lost(AssertionError):
    """An image did not hold what was promised."""


def check(image: Image, folder: Path, sent: Sent) -> None:
    image.write(str(folder))
    path = folder / ROLLOUT
    durable = image.marks[-1] if image.marks else []
    if not path.exists():
        ensure(not durable, image, f"the file is gone with {durable}")
        return
    try:
        opened = recorder(path, files=Quick())
    except RolloutUnusable:
        ensure(not durable, image, f"it cannot be opened, with {durable}")
        ensure(image.scattered, image, "a file appeared that is not whole")
        return
    opened.append([item(-1)])
    opened.close()
    try:
        found = numbers(path, damage=image.scattered)
    except AssertionError as error:
        raise Lost(f"{image.how} at step {image.step}: {error}") from error
    ensure(found.pop() == -1, image, "the new record is not the last")
    kept = [number for number in found if number not in sent.refused]
    ensure(kept[: len(durable)] == durable, image, f"{durable} was acknowledged, {found} is there")
    if image.scattered:
        ensure(found == sorted(found), image, f"{found} is not in order")
    else:
        ensure(kept == sent.numbers[: len(kept)], image, f"{found} is no beginning of what was sent")


def ensure(holds: bool, image: Image, what: str) -> None:
    if not holds:
        raise Lost(f"{image.how} at step {image.step}: {what}")


def crash(folder: Path, kind: type[Recorder], seed: int, rounds: int, *, scattered: bool = False) -> int:
    """Run the work once and check its images; how many there were."""
    home = folder / "home"
    home.mkdir()
    files = CrashFiles(Quick(), str(home))
    rng = Random(seed)
    return checked(folder, work(home, files, kind, rng, rounds), rng, scattered=scattered)


def checked(folder: Path, sent: Sent, rng: Random, *, scattered: bool = False) -> int:
    count = 0
    for image in sent.files.images(rng, scattered=scattered):
        count += 1
        target = folder / "image"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        check(image, target, sent)
    return count


def test_what_was_acknowledged_outlives_a_power_cut_at_every_step(tmp_path: Path) -> None:
    """Some hundred images."""
    assert crash(tmp_path, Recorder, seed=1, rounds=10) > 300


def test_whatever_the_disk_keeps_by_chance_the_acknowledged_part_is_there(tmp_path: Path) -> None:
    assert crash(tmp_path, Recorder, seed=2, rounds=6, scattered=True) > 200


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(40))
def test_power_cuts_in_many_runs(tmp_path: Path, seed: int) -> None:
    assert crash(tmp_path, Recorder, seed, rounds=60, scattered=seed % 2 == 1) > 1_000


def test_a_power_cut_after_a_failed_sync_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A sync fails and the kernel drops the pages; the writer goes on; then the power goes."""
    home = tmp_path / "home"
    home.mkdir()
    for struck in range(1, 12):
        shutil.rmtree(home)
        home.mkdir()
        assert failed_sync(tmp_path, home, struck, Recorder) > 50


def failed_sync(folder: Path, home: Path, struck: int, kind: type[Recorder]) -> int:
    syncs = iter(range(1_000))

    def fault(_: int, call: Call) -> int | None:
        return errno.EIO if call.name == "sync" and next(syncs) == struck else None

    files = CrashFiles(FaultyFiles(Quick(), fault), str(home))
    return checked(folder, work(home, files, kind, Random(struck), 4), Random(struck))


class Killed(BaseException):
    """The process ends before this call."""


def takeover(folder: Path, kind: type[Recorder], at: int) -> tuple[bool, int]:
    """One process is killed before its call `at`, the next does again what had no answer; then the power goes.

    Whether the first one ended before it was killed, and how many images there were.
    """
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    files = CrashFiles(Quick(), str(home))
    calls = iter(range(1_000))

    def fault(_: int, call: Call) -> None:
        if call.op.startswith("recorder.") and call.name != "close" and next(calls) == at:
            raise Killed

    path, sent = home / ROLLOUT, Sent(files)
    try:
        first = open_it(path, FaultyFiles(files, fault), kind)  # type: ignore[arg-type]
        first.append([item(0)], key="first", durability="buffered")
        first.append([item(1)], key="second", durability="durable")
        first.close()
        ended = True
    except Killed:
        ended = False
    opened = open_it(path, files, kind)
    for number, key in enumerate(["first", "second"]):
        sent.numbers.append(number)
        answer = opened.append([item(number)], key=key, durability="durable")
        assert answer.durability == "durable"
        files.mark(list(sent.numbers))
    sent.numbers = [0, 1]
    return ended, checked(folder, sent, Random(at))


def test_what_a_killed_process_left_unsynced_is_synced_before_it_is_acknowledged(tmp_path: Path) -> None:
    """A retry finds its batch in the file: the kernel has it, and nobody has asked the disk yet for it or for its name."""
    at, ended, count = 0, False, 0
    while not ended:
        ended, images = takeover(tmp_path, Recorder, at)
        at, count = at + 1, count + images
    assert at > 15
    assert count > 200


# --- bugs put in on purpose


class NoSync(Recorder):
    """Acknowledges without a sync."""

    def _sync_to(self, target: int, cuts: int) -> None:
        self._synced, self._name_synced = target, True
        self._unsynced.clear()


class NoFolderSync(Recorder):
    """Syncs bytes and not the name."""

    def _sync_folders(self, folder: str) -> None:
        return


class OneFolderSync(Recorder):
    """Syncs the name in its folder, and not the folder's own."""

    def _sync_folders(self, folder: str) -> None:
        self._files.sync_folder(folder, op="test.one")


class AcknowledgeFirst(Recorder):
    """Answers before it writes."""

    def append(self, items: Any, **how: Any) -> Appended:
        self._files.mark(sent_so_far(items))
        return super().append(items, **how)


class NoTrim(Recorder):
    """Appends behind a torn tail."""

    def _recover(self, fd: int) -> tuple[bool, int]:
        return True, self._files.fstat(fd, op="test.no_trim").size


class InPlace(Recorder):
    """Writes the first batch into the file under its own name, so that half of it can be seen."""

    def _create(self, data: bytes) -> None:
        self._beside = self._path
        self._files.link, link = (lambda *_, **__: None), self._files.link
        self._files.remove, remove = (lambda *_, **__: None), self._files.remove
        try:
            super()._create(data)
        finally:
            self._files.link, self._files.remove = link, remove


class NoRewrite(Recorder):
    """After a failed sync trusts the next one."""

    def _reopen(self, cut: int) -> None:
        self._unsynced.clear()
        super()._reopen(cut)


class TrustWhatIsThere(Recorder):
    """Takes what another process wrote for synced."""

    def _sync_what_is_there(self, fd: int) -> None:
        return


def sent_so_far(items: Any) -> list[int]:
    last = json.loads(b"{" + items[-1].body.removeprefix(b",") + b"}")["payload"]["number"]
    return list(range(last + 1))


WRONG: dict[type[Recorder], str] = {
    NoSync: "the file is gone|was acknowledged",
    NoFolderSync: "the file is gone",
    OneFolderSync: "the file is gone",
    AcknowledgeFirst: "the file is gone|was acknowledged",
    NoTrim: "damage",
    InPlace: "not whole|cannot be opened",
}


@pytest.mark.parametrize(("kind", "told"), WRONG.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_writer_with_a_bug_is_caught(tmp_path: Path, kind: type[Recorder], told: str) -> None:
    with pytest.raises(Lost, match=told):
        crash(tmp_path, kind, seed=1, rounds=10)


def test_trusting_the_next_sync_after_one_that_failed_is_caught(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def all_of_them() -> None:
        for struck in range(1, 12):
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            failed_sync(tmp_path, home, struck, NoRewrite)

    with pytest.raises(Lost, match=r"was acknowledged|damage|no beginning"):
        all_of_them()


def test_taking_what_a_killed_process_left_for_synced_is_caught(tmp_path: Path) -> None:
    def all_of_them() -> None:
        for at in range(30):
            takeover(tmp_path, TrustWhatIsThere, at)

    with pytest.raises(Lost, match=r"the file is gone|was acknowledged"):
        all_of_them()
