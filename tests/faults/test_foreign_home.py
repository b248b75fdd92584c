"""A foreign home is left as it was found: with a state_dir no name, byte, time, mode or inode under it changes.

Times are compared to the nanosecond, ctime included, which no program can set back; only atime may move.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import engine
from engine.errors import EngineError
from engine.options import Options
from engine.testing import HomePlan, make_home
from engine.testing.damage import DAMAGES

OPTIONS = Options(spawn_bytes_min=0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Both modes, compressed, archived, damaged in many ways, links, and another program's own files."""
    folder = tmp_path / "home"
    made = make_home(folder, HomePlan(threads=24, bytes_max=9_000, compressed=0.2, seed=8))
    plain = [
        thread for thread in made if not thread.compressed and not thread.older_paths and not thread.row["archived"]
    ]
    damages = ["torn-last-line", "nul-tail", "no-final-newline", "bom", "glued-records", "same-thread-in-two-files"]
    for name, thread in zip(damages, plain, strict=False):
        DAMAGES[name](folder, thread, Random(1))
    (folder / "sessions/link").symlink_to(tmp_path)
    (folder / "state_5.sqlite").write_bytes(b"another program's")
    (folder / "session_index.jsonl").write_text("{}\n")
    (folder / "thread-writer-locks").mkdir()
    (folder / "thread-writer-locks/x.lock").touch()
    return folder


def seen(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that a look from outside can tell of every name under a folder, and of the folder itself."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        stat = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        facts = (
            stat.st_mode,
            stat.st_ino,
            stat.st_nlink,
            stat.st_uid,
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
        )
        found[str(path.relative_to(folder))] = (*facts, content)
    return found


def use_it(home: Path, state: Path | None) -> tuple[int, set[str]]:
    """Everything that reads; how many threads, and the classes of the findings."""
    with engine.open(str(home), state_dir=None if state is None else str(state), options=OPTIONS) as opened:
        opened.backfill(workers=2)
        rows = opened.threads.list(limit=0, counts=True).threads
        for row in rows:
            opened.threads.get(row.id)
            assert opened.threads.fetch(row.id).differences == []
        classes = {finding.class_ for finding in opened.audit(deep=True).findings}
        opened.status()
        assert opened.rebuild(workers=2).threads == len(rows)
        assert opened.state_dir == (None if state is None else str(state))
    return len(rows), classes


def test_reading_a_home_leaves_it_as_it_was_found(home: Path, tmp_path: Path) -> None:
    """Open, back-fill with workers, list, get, fetch, deep audit, status, rebuild: nothing moved."""
    before = seen(home)
    threads, classes = use_it(home, tmp_path / "state")
    assert seen(home) == before
    assert threads == 24
    assert {"torn_tail", "duplicate_id", "byte_order_mark"} <= classes


def test_a_home_in_which_nothing_can_be_opened_is_left_as_it_was_found_too(home: Path, tmp_path: Path) -> None:
    """A state_dir that cannot be made is an error, and not a reason to write into the home."""
    (tmp_path / "state").write_text("a file")
    before = seen(home)
    with pytest.raises(EngineError):
        engine.open(str(home), state_dir=str(tmp_path / "state"))
    assert seen(home) == before


@pytest.fixture
def read_only(home: Path, tmp_path: Path) -> Iterator[Path]:
    """The home, mounted a second time so that nobody can write."""
    target = tmp_path / "mounted"
    target.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a read-only bind mount wants root")
    made = subprocess.run(["mount", "--bind", str(home), str(target)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no bind mounts here: {made.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(target)], check=True)
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


def test_a_read_only_home_is_indexed_into_a_state_dir(read_only: Path, home: Path, tmp_path: Path) -> None:
    """All reads work, rows outlive the process, and the second run reads nothing."""
    before = seen(home)
    assert use_it(read_only, tmp_path / "state")[0] == 24
    with engine.open(str(read_only), state_dir=str(tmp_path / "state")) as opened:
        assert opened.backfill().files == 0
    assert seen(home) == before


def test_a_read_only_home_without_a_state_dir_is_read_with_tables_in_memory(read_only: Path, home: Path) -> None:
    """The same answers, and no file appears."""
    before = seen(home)
    assert use_it(read_only, None)[0] == 24
    assert seen(home) == before
