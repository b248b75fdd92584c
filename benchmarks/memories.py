"""What does claiming a thread cost among 100,000, and what do the folder's diff and reset cost beside bare pygit2?

Claims: a home whose table has so many idle threads; threads are claimed 64 at a time and one at a time, then with all but the
oldest 1,000 up to date, so that the query has to pass over the others. Beside it, in turns, the bare insert of as many
rows into an SQLite database of the same settings, committed as often.

Folder: 2,000 files of 4 KiB, 100 of them changed. The diff (walk, hash, compare, render) beside pygit2 hashing the same files;
the reset (store, trees, commit, index, prune, list) beside pygit2 storing the same files in a new repository with a commit.

    python benchmarks/memories.py [--quick] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pygit2
from _homes import say, workplace
from _machine import spread
from _report import Report, Row, arguments, publish

DAY_MS = 24 * 3600 * 1000
FILE_BYTES = 4_096
CHANGED = 100


def main() -> None:
    """Measure and print."""
    asked = arguments(
        __doc__,
        threads={"type": int, "help": "threads in the table (100,000; quick: 5,000)"},
        files={"type": int, "help": "files in the folder (2,000; quick: 300)"},
    )
    asked.threads = asked.threads or (5_000 if asked.quick else 100_000)
    asked.files = asked.files or (300 if asked.quick else 2_000)
    with workplace(asked.folder) as folder:
        place = Path(tempfile.mkdtemp(prefix="memories-", dir=folder))
        try:
            rows = [*claims(place, asked), *workspace(place, asked)]
        finally:
            shutil.rmtree(place)
    shown = {"rounds": asked.rounds, "threads": asked.threads, "files": asked.files}
    publish(Report(benchmark="memories", mode=asked.mode, asked=shown, rows=rows), asked)


def claims(folder: Path, asked: argparse.Namespace) -> list[Row]:
    """Rates of claims, and what the first takes behind threads that are up to date."""
    import engine
    from engine.clock import SystemClock
    from engine.memories.parts import EXTRACT
    from engine.memories.phase1 import Claims
    from engine.options import MemoryOptions, Options

    home = folder / "home"
    home.mkdir()
    limits = MemoryOptions(running_max=10**9, scan_max=10**9, idle_s=0, age_days=3_650)
    with engine.open(str(home), options=Options(background_scan_s=0, memories=limits)) as e:
        say(f"making {asked.threads:,} threads …")
        fill(e._database, asked.threads, SystemClock().wall_ms())
        parts = e.memories._parts
        bare = Bare(folder / "bare.sqlite")
        count = min(1_024, asked.threads // 4 // 64 * 64)

        def of(batch: int) -> Callable[[], float]:
            def run() -> float:
                parts.jobs.forget(EXTRACT)
                taker = Claims(parts, limit=count)
                begun = time.perf_counter()
                done = sum(len(taker.take_some(batch)) for _ in range(count // batch))
                assert done == count
                return count / (time.perf_counter() - begun)

            return run

        rows, group = [], "claims"
        for name, batch in (("64 at a time", 64), ("one at a time", 1)):
            rounds = [(of(batch)(), bare.rate(count, batch)) for _ in range(asked.rounds)]
            rows.append(
                Row(
                    group=group,
                    case=name,
                    values={"claims_a_second": spread([ours for ours, _ in rounds])},
                    ratios={"speed_to_bare_inserts": spread([ours / floor for ours, floor in rounds])},
                )
            )
        with e._database.write() as transaction:
            transaction.run(
                "INSERT INTO memory_outcomes SELECT id, 1, 'succeeded', updated_at_ms, 1, NULL FROM threads "
                "ORDER BY updated_at_ms DESC LIMIT (SELECT max(count(*) - 1000, 1) FROM threads)"
            )
        firsts = []
        for _ in range(asked.rounds):
            parts.jobs.forget(EXTRACT)
            begun = time.perf_counter()
            assert Claims(parts, limit=1).take() is not None
            firsts.append((time.perf_counter() - begun) * 1000)
        rows.append(Row(group=group, case="the first behind up-to-date ones", values={"ms": spread(firsts)}))
        bare.close()
    return rows


def fill(database: Any, count: int, now_ms: int) -> None:
    """Rows of threads, a minute apart, the newest an hour old."""
    with database.write() as transaction:
        transaction.run(
            """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
            INSERT INTO threads (id, rollout_path, rollout_id, created_at_ms, updated_at_ms, recency_at_ms, source,
            history_mode, cwd, preview, sandbox_policy, approval_mode, tokens_used, memory_mode, archived)
            SELECT printf('%08x-0000-7000-8000-000000000000', i), 'sessions/r-' || i, i, 1, :now - 3600000 - i * 60000, 1,
            'cli', 'paginated', '/srv/p' || (i % 50), 'hello ' || i, '{}', 'never', 0, 'enabled', 0 FROM n""",
            {"count": count, "now": now_ms},
        )


class Bare:
    """As many rows inserted, committed as often, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
        self._connection.execute(
            "CREATE TABLE jobs (kind TEXT, key TEXT, a, b, c, d, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )

    def rate(self, count: int, batch: int) -> float:
        self._connection.execute("DELETE FROM jobs")
        begun = time.perf_counter()
        for start in range(0, count, batch):
            with self._connection:
                for number in range(start, start + batch):
                    values = ("extract", f"{number:08x}-0000-7000-8000-000000000000", 1, "host", "boot", "token")
                    self._connection.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?)", values)
        return count / (time.perf_counter() - begun)

    def close(self) -> None:
        self._connection.close()


def workspace(folder: Path, asked: argparse.Namespace) -> list[Row]:
    """Times of diff and reset, each in turns with pygit2 alone."""
    from engine.clock import SystemClock
    from engine.memories.folder import is_hidden
    from engine.options import MemoryOptions
    from engine.stores.files import Files
    from engine.stores.tree_diff import render
    from engine.stores.workspace import Workspace, changes_between

    root = folder / "memories"
    say(f"making {asked.files:,} files …")
    for number in range(asked.files):
        write(root, number, "old")
    found = Workspace(
        str(root),
        manifest=str(folder / "memories.json"),
        hidden=is_hidden,
        options=MemoryOptions(),
        clock=SystemClock(),
        files=Files(),
    )
    found.ensure()
    copy = folder / "copy"
    found.reset(found.capture(str(copy))[0], 1)
    shutil.rmtree(copy)
    diffs, resets, captures = [], [], []
    for turn in range(asked.rounds):
        for number in range(0, asked.files, max(asked.files // CHANGED, 1)):
            write(root, number, f"new {turn}")
        begun = time.perf_counter()
        changes = changes_between(found.baseline(), found.look())
        looked = time.perf_counter() - begun
        begun = time.perf_counter()
        for number in range(asked.files):
            pygit2.hashfile(str(path_of(root, number)))
        diffs.append((looked, (time.perf_counter() - begun) / looked))
        begun = time.perf_counter()
        baseline = found.baseline()
        state, _ = found.capture(str(copy), baseline)
        text = render(changes_between(baseline, state), found.content, bytes_max=4 << 20)
        captures.append(time.perf_counter() - begun)
        assert len(changes) >= min(CHANGED, asked.files)
        assert text.endswith(b"```\n")
        begun = time.perf_counter()
        found.reset(state, turn + 2)
        reset = time.perf_counter() - begun
        resets.append((reset, bare_commit(folder, root, asked.files) / reset))
        shutil.rmtree(copy)
    group = f"{asked.files:,} files"
    return [
        Row(
            group=group,
            case="diff",
            values={"ms": spread([ours * 1000 for ours, _ in diffs])},
            ratios={"speed_to_pygit2": spread([ratio for _, ratio in diffs])},
        ),
        Row(group=group, case="copy, diff and its text", values={"ms": spread([ours * 1000 for ours in captures])}),
        Row(
            group=group,
            case="reset",
            values={"ms": spread([ours * 1000 for ours, _ in resets])},
            ratios={"speed_to_pygit2": spread([ratio for _, ratio in resets])},
        ),
    ]


def bare_commit(folder: Path, root: Path, files: int) -> float:
    """Store every file in a new repository, and commit."""
    path = folder / "bare.git"
    begun = time.perf_counter()
    repository = pygit2.init_repository(str(path), bare=True)
    index = pygit2.Index()
    for number in range(files):
        oid = repository.create_blob_fromdisk(str(path_of(root, number)))
        index.add(pygit2.IndexEntry(str(path_of(root, number).relative_to(root)), oid, pygit2.enums.FileMode.BLOB))
    who = pygit2.Signature("bench", "bench@example.invalid")
    repository.create_commit("refs/heads/main", who, who, "all", index.write_tree(repository), [])
    seconds = time.perf_counter() - begun
    repository.free()
    shutil.rmtree(path)
    return seconds


def path_of(root: Path, number: int) -> Path:
    return root / "rollout_summaries" / f"{number:06}.md"


def write(root: Path, number: int, word: str) -> None:
    path = path_of(root, number)
    os.makedirs(path.parent, exist_ok=True)
    line = f"{number} {word} said and done\n"
    path.write_text(line * (FILE_BYTES // len(line)))


if __name__ == "__main__":
    main()
