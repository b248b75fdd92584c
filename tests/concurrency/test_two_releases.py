"""Two releases on one home at once: the rows of the newer stand, neither undoes the other's work, and nothing is lost.

The newer one is a process whose threads projection has version 2 and gives other titles. Both do whatever comes, in turn
and with their backgrounds at work. At every moment a stream that the newer one folded is the newer one's; in the end the
rows are those that the newer one makes of the same files from nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

from engine.testing import HomePlan, make_home
from engine.testing.tables import dump

CHECKOUT = Path(__file__).resolve().parents[2]

# A release: does what it is told, a line of JSON a call, and answers with one.
RELEASE = """
import json, sys
import engine
from engine.options import Options
from engine.projections.threads import Threads
home, state, version, scan_s = sys.argv[1], sys.argv[2] or None, int(sys.argv[3]), float(sys.argv[4])
Threads.version = version
if version > 1:
    plain = Threads.close_piece
    def close_piece(self, state, piece):
        plain(self, state, piece)
        state.title = f"release {version}: {state.preview}"
    Threads.close_piece = close_piece
options = Options(background_scan_s=scan_s, flush_delay_ms=5, scan_interval_ms=0, spectator_poll_ms=5)
with engine.open(home, state_dir=state, options=options) as e:
    def create(word):
        with e.threads.create(cwd="/") as thread, thread.turn() as turn:
            turn.user_message(word)
        return thread.id
    def append(thread_id, word):
        with e.threads.resume(thread_id, adopt=True) as thread, thread.turn() as turn:
            turn.user_message(word)
    def rows():
        return {row.id: [row.title, row.name, row.archived, row.missing] for row in e.threads.list(limit=0).threads}
    def status():
        found = e.status()
        return [found.lag.files, found.lag.outdated, found.lag.newer, found.counters["chores_failed"]]
    def partial():
        found = e.threads.list(limit=0).partial
        return None if found is None else [found.files_total - found.files_done, found.outdated, found.newer]
    calls = {
        "create": create, "append": append, "rows": rows, "status": status, "partial": partial,
        "rename": e.threads.rename, "archive": e.threads.archive, "unarchive": e.threads.unarchive,
        "backfill": lambda: e.backfill().files, "rebuild": lambda *of: e.rebuild(*of).files,
    }
    print("ready", flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(calls[name](*arguments)), flush=True)
"""


class Release:
    """One running release; call what it offers by name."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._hear() == "ready"

    def __call__(self, *call: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        return json.loads(self._hear())

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate(timeout=60)[1]
        return line.strip()


@contextmanager
def release(home: Path, version: int, state: Path | str = "", scan_s: float = 0) -> Iterator[Release]:
    command = [sys.executable, "-c", RELEASE, str(home), str(state), str(version), str(scan_s)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield Release(process)
        assert process.stdin is not None
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_home(tmp_path / "home", HomePlan(threads=12, bytes_max=3_000, seed=8))
    return tmp_path / "home"


def versions(home: Path) -> dict[str, int]:
    connection = apsw.Connection(f"{home}/engine/state_1.sqlite", flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(10_000)
    try:
        return dict(connection.execute("SELECT stream, version FROM watermarks"))
    finally:
        connection.close()


class Mixed:
    """Whatever comes, done by one release or the other; `words` is the model: what the newer one's rows must say."""

    def __init__(self, home: Path, releases: list[Release], seed: int) -> None:
        self.home = home
        self.releases = releases
        self.random = Random(seed)
        self.made: dict[str, list[Any]] = {}
        self.known = versions(home)

    def run(self, steps: int) -> None:
        for step in range(steps):
            self._step(step, self.random.choice(self.releases))
            now = versions(self.home)
            lowered = {path for path, version in now.items() if version < self.known.get(path, 0)}
            assert lowered == set(), f"what was the newer one's is the older one's, at step {step}"
            self.known = now

    def _step(self, step: int, by: Release) -> None:
        call = self.random.choice(["create", "append", "append", "rename", "move", "backfill", "rows", "rebuild"])
        thread = self.random.choice(sorted(self.made)) if self.made else None
        if call == "create" or thread is None:
            self.made[by("create", f"word {step}")] = [f"word {step}", None, False, False]
        elif call == "append" and not self.made[thread][2]:
            by("append", thread, f"more {step}")
        elif call == "rename":
            by("rename", thread, f"name {step}")
            self.made[thread][1] = f"name {step}"
        elif call == "move":
            by("unarchive" if self.made[thread][2] else "archive", thread)
            self.made[thread][2] = not self.made[thread][2]
        elif call == "rebuild":
            # What is named is rebuilt whoever built it; the older one is asked for all of it only.
            by("rebuild")
        else:
            by(call if call in ("backfill", "rows") else "rows")


def check_end(home: Path, tmp_path: Path, mixed: Mixed) -> None:
    """The newer release alone: its rows are all there, and those that it makes of the same files from nothing."""
    with release(home, 2) as newer, release(home, 2, tmp_path / "fresh") as fresh:
        newer("backfill")
        rows = newer("rows")
        wanted = {thread: [f"release 2: {word}", *rest] for thread, (word, *rest) in mixed.made.items()}
        assert {thread: row for thread, row in rows.items() if thread in wanted} == wanted
        assert newer("status") == [0, 0, 0, 0]
        fresh("backfill")
        assert fresh("rows") == {thread: [row[0], None, *row[2:]] for thread, row in rows.items()}
    tables = ("threads", "streams", "set_aside")
    ours, theirs = dump(home / "engine/state_1.sqlite"), dump(tmp_path / "fresh/state_1.sqlite")
    assert {table: ours[table] for table in tables} == {table: theirs[table] for table in tables}
    assert set(versions(home).values()) == {2}


def side_by_side(home: Path, tmp_path: Path, first: int, steps: int) -> None:
    with release(home, first, scan_s=0.02) as one:
        one("backfill")
        with release(home, 3 - first, scan_s=0.02) as other:
            mixed = Mixed(home, [one, other], seed=first)
            mixed.run(steps)
            assert one("status")[3] == other("status")[3] == 0
    check_end(home, tmp_path, mixed)
    # Down to the older release alone, and back.
    with release(home, 1, scan_s=0.02) as older:
        mixed.releases = [older]
        mixed.known = versions(home)
        mixed.run(steps // 4)
        assert older("status")[2] > 0
    shutil.rmtree(tmp_path / "fresh")
    check_end(home, tmp_path, mixed)


@pytest.mark.parametrize("first", [1, 2], ids=["the older first", "the newer first"])
def test_two_releases_side_by_side_and_down_and_back(home: Path, tmp_path: Path, first: int) -> None:
    side_by_side(home, tmp_path, first, steps=80)


@pytest.mark.soak
@pytest.mark.parametrize("first", [1, 2], ids=["the older first", "the newer first"])
def test_soak_two_releases_side_by_side_and_down_and_back(home: Path, tmp_path: Path, first: int) -> None:
    side_by_side(home, tmp_path, first, steps=1_000)


def test_the_older_release_leaves_the_newer_ones_rows_alone_and_says_so(home: Path) -> None:
    """It lists them as they are, and counts them; what it appends to such a thread is in the file and told as lag."""
    with release(home, 2) as newer:
        thread = newer("create", "hello")
        newer("backfill")
        rows = newer("rows")
    files = len(versions(home))
    with release(home, 1) as older:
        assert older("rows") == rows
        assert (older("status"), older("partial")) == ([0, 0, files, 0], None)
        assert older("backfill") == 0
        assert older("rebuild") == 0
        older("append", thread, "more")
        assert (older("status"), older("partial")) == ([1, 0, files, 0], [1, 0, 1])
        assert older("rows") == rows
        mine = older("create", "mine")
        assert older("rows")[mine][0] == "mine"
        assert set(versions(home).values()) == {1, 2}
    with release(home, 2) as newer:
        assert newer("status") == [2, 1, 0, 0]
        assert newer("backfill") == 2
        assert newer("rows")[mine][0] == "release 2: mine"
        assert set(versions(home).values()) == {2}


def test_a_thread_that_is_named_is_rebuilt_whoever_built_its_row(home: Path) -> None:
    """A version may also be damaged: then nothing else would ever mend that thread."""
    with release(home, 1) as older:
        older("backfill")
        thread, row = next(iter(older("rows").items()))
        connection = apsw.Connection(f"{home}/engine/state_1.sqlite", flags=apsw.SQLITE_OPEN_READWRITE)
        connection.execute("UPDATE watermarks SET version = 129 WHERE stream LIKE ?", (f"%{thread}%",))
        connection.execute("UPDATE threads SET title = 'spoilt' WHERE id = ?", (thread,))
        connection.close()
        older("rebuild")
        assert older("rows")[thread][0] == "spoilt"
        assert older("rebuild", thread) >= 1
        assert older("rows")[thread] == row
        assert older("status") == [0, 0, 0, 0]


def test_a_file_that_goes_while_the_older_release_looks_on_is_noted_by_the_newer(home: Path) -> None:
    with release(home, 2) as newer:
        thread = newer("create", "hello")
        newer("backfill")
    with release(home, 1) as older:
        (path,) = home.rglob(f"*{thread}.jsonl")
        path.unlink()
        older("backfill")
        assert thread in older("rows")
    with release(home, 2) as newer:
        newer("backfill")
        assert newer("rows")[thread] == ["release 2: hello", None, False, True]


def test_a_thread_whose_head_goes_is_told_by_the_older_release_where_it_is_and_by_the_newer_all_of_it(
    home: Path,
) -> None:
    """A reverted thread has two rollouts, both the newer one's: the older one cannot read what it made of the other."""
    make_home(home, HomePlan(threads=4, bytes_max=3_000, seed=9, reverted=1.0, archived=0.0))
    with release(home, 2) as newer:
        newer("backfill")
    connection = apsw.Connection(f"{home}/engine/state_1.sqlite", flags=apsw.SQLITE_OPEN_READWRITE)
    several = "SELECT thread_id FROM streams GROUP BY thread_id HAVING count(*) > 1"
    thread, head = connection.execute(f"SELECT id, rollout_path FROM threads WHERE id IN ({several})").fetchone()
    connection.close()
    (home / head).unlink()
    with release(home, 1) as older:
        older("backfill")
        title, *_, missing = older("rows")[thread]
        assert (title.startswith("release 2: "), missing) == (True, False)
    with release(home, 2) as newer:
        assert newer("backfill") == 1
    tables = []
    for name in ("engine", "fresh"):
        with release(home, 2, home.parent / name if name == "fresh" else "") as newest:
            newest("backfill")
        path = home / "engine" if name == "engine" else home.parent / "fresh"
        tables.append([row for row in dump(path / "state_1.sqlite")["threads"] if row[0] == thread])
    assert tables[0] == tables[1]
