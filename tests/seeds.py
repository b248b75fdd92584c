"""Every class of finding as something that can be done to a home, and what is known of it.

A seed breaks one thread in one way: in its file before the engine first sees it (`IN_THE_FILE`), after that in files or tables
with the engine closed (`AFTERWARDS`), or while an engine has the home open (`OPEN`). A seed gives one finding of its class and
no other. Most seeds are named for that class; the others say it (`class_of`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from random import Random

import apsw

import engine
from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.writer_lock import acquire
from engine.testing import append_turns, make_rollout
from engine.testing.damage import DAMAGES

OTHER = "01a20464-0000-7000-8000-000000000001"


class Seeding:
    """The thread that a seed breaks, and where."""

    def __init__(self, home, thread, opened=None, afterwards=None):
        self.opened = opened
        self.afterwards = afterwards
        self.home = home
        self.thread = thread
        self.path = home / thread.path

    def damage(self, name):
        return DAMAGES[name](self.home, self.thread, Random(4))

    def append(self, type_, payload, *, ahead=0, numbered=True):
        """One more record, its number as many ahead as wanted."""
        last = json.loads(self.path.read_bytes().splitlines()[-1])
        record = {
            "timestamp": last["timestamp"],
            "ordinal": last["ordinal"] + 1 + ahead,
            "type": type_,
            "payload": payload,
        }
        if not numbered:
            del record["ordinal"]
        with self.path.open("ab") as file:
            file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def sql(self, statement, *, database="state", **values):
        # By the library that the engine uses: two of them in one process take each other's POSIX locks away.
        with contextlib.closing(apsw.Connection(str(self.home / f"engine/{database}_1.sqlite"))) as connection:
            values = {"id": self.thread.id, "path": self.thread.path, "other": OTHER, **values}
            connection.execute(statement, values)
            assert connection.changes() == 1


def missing_row(seeding):
    seeding.sql("DELETE FROM threads WHERE id = :id")


def orphan_row(seeding):
    columns = (
        "created_at_ms, updated_at_ms, recency_at_ms, source, history_mode, sandbox_policy, approval_mode, tokens_used"
    )
    columns += ", memory_mode, archived, rollout_id"
    number = f"{Random(seeding.thread.id).getrandbits(48):012x}"
    seeding.sql(
        f"INSERT INTO threads (id, rollout_path, {columns}) SELECT :orphan, :gone, {columns} FROM threads WHERE id = :id",
        orphan=OTHER[:24] + number,
        gone=f"sessions/rollout-2026-01-05T09-00-00-{OTHER[:24]}{number}.jsonl",
    )
    return OTHER[:24] + number


def lost_truth(seeding):
    seeding.path.unlink()


def differing_field(seeding):
    seeding.sql("UPDATE threads SET tokens_used = tokens_used + 1 WHERE id = :id")


def wrong_path(seeding):
    gone = seeding.thread.path.replace(seeding.thread.id, OTHER)
    seeding.sql("UPDATE threads SET rollout_path = :gone WHERE id = :id", gone=gone)


def wrong_archive_state(seeding):
    seeding.sql("UPDATE threads SET archived = 1 - archived WHERE id = :id")


def stale_watermark(seeding):
    append_turns(seeding.home, seeding.thread)


def lying_watermark(seeding):
    seeding.sql("UPDATE watermarks SET state = CAST(state || x'00' AS BLOB) WHERE stream = :path")


def wrong_stream(seeding):
    seeding.sql("UPDATE streams SET records = records + 1 WHERE path = :path")


def rewritten_history(seeding):
    seeding.damage("rewritten-first-message")


def duplicate_id(seeding):
    folder = seeding.home / "sessions/2020/01/01"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(seeding.path, folder / seeding.path.name)


def damaged_span(seeding):
    seeding.damage("garbage-line-in-the-middle")


def torn_tail(seeding):
    with seeding.path.open("ab") as file:
        file.write(b'{"timestamp":"2026-01-05T09:0')


def set_aside(seeding):
    seeding.append("session_meta", {"id": "no id"})


def duplicate_ordinal(seeding):
    seeding.damage("a-record-twice")


def ordinal_gap(seeding):
    seeding.append("world_state", {}, ahead=1)


def missing_ordinal(seeding):
    seeding.append("world_state", {}, numbered=False)


def missing_meta(seeding):
    seeding.damage("first-line-missing")


def id_differs(seeding):
    content = seeding.path.read_bytes()
    seeding.path.unlink()
    seeding.path.with_name(seeding.path.name.replace(seeding.thread.id, OTHER)).write_bytes(content)


def empty_file(seeding):
    seeding.path.write_bytes(b"")


def byte_order_mark(seeding):
    seeding.damage("bom")


def unreadable(seeding):
    (seeding.path.parent / seeding.path.name.replace("T0", "T1")).symlink_to(seeding.path)


def wrong_fact(seeding):
    seeding.opened._writers._decisions.record("thread_named", seeding.thread.id, name="as it was recorded")
    seeding.sql("UPDATE facts SET name = 'as it was not' WHERE thread_id = :id")


def wrong_set_aside(seeding):
    seeding.sql(
        """INSERT INTO set_aside (stream, projection, "offset", length, kind, reason, bytes)
           VALUES (:path, 'threads', 5, 1, NULL, 'nothing', x'00')"""
    )


def wrong_goal(seeding):
    """A goal that no record tells of; where the thread has one, another count."""
    seeding.sql(
        """INSERT INTO goals VALUES (:path, 'g', 'o', 'active', NULL, 0, 0, 1, 1, 0)
           ON CONFLICT (stream) DO UPDATE SET tokens_used = goals.tokens_used + 1"""
    )


def truncated_file(seeding):
    """What is left begins as it did, and nothing of the end is told by digests of what is left."""
    content = seeding.path.read_bytes()
    os.truncate(seeding.path, content.rindex(b"\n", 0, -1) + 1)


def of_class(name):
    """Marks a seed that gives a class which others give, too."""

    def marked(seed):
        seed.class_ = name
        return seed

    return marked


def class_of(seed):
    """The class of the finding that a seed gives."""
    return getattr(seed, "class_", seed.__name__)


_ITS_ROLLOUT = "rollout = (SELECT number FROM rollouts WHERE path = :path)"


def wrong_rows(seeding):
    seeding.sql(
        f'UPDATE turns SET completed_at_ms = completed_at_ms + 1 WHERE {_ITS_ROLLOUT} AND "offset" ='
        f' (SELECT max("offset") FROM turns WHERE {_ITS_ROLLOUT})',
        database="history",
    )


@of_class("wrong_rows")
def missing_item_row(seeding):
    first = f'(SELECT min("offset") FROM items WHERE {_ITS_ROLLOUT})'
    seeding.sql(f'DELETE FROM items WHERE {_ITS_ROLLOUT} AND "offset" = {first}', database="history")


@of_class("wrong_rows")
def orphan_item_row(seeding):
    """A row of a rollout that nothing names, so no thread is told."""
    seeding.sql("INSERT INTO rollbacks SELECT max(number) + 1, 1, 2 FROM rollouts", database="history")


@of_class("lying_watermark")
def lying_turns_watermark(seeding):
    seeding.sql("UPDATE watermarks SET ordinal = ordinal + 1 WHERE stream = :path", database="history")


@of_class("wrong_set_aside")
def wrong_turns_set_aside(seeding):
    seeding.sql(
        """INSERT INTO set_aside (stream, projection, "offset", length, kind, reason, bytes)
           VALUES (:path, 'turns', 5, 1, NULL, 'nothing', x'00')""",
        database="history",
    )


def newer_projection(seeding):
    seeding.sql("UPDATE watermarks SET version = 99 WHERE stream = :path")


def lag(seeding):
    """The writer lives: it is this process, which holds the lock until the seeding is over."""
    parts = {"options": Options(), "clock": SystemClock(), "files": Files()}
    home = str(seeding.home)
    lock = acquire(Home(home, f"{home}/engine"), seeding.thread.id, "write", **parts)
    seeding.afterwards.callback(lock.release)
    append_turns(seeding.home, seeding.thread)


def with_meta(seeding, **fields):
    meta, *lines = seeding.path.read_bytes().splitlines(keepends=True)
    record = json.loads(meta)
    record["payload"] |= fields
    seeding.path.write_bytes(json.dumps(record, separators=(",", ":")).encode() + b"\n" + b"".join(lines))


def dangling_base(seeding):
    base = {"thread_id": OTHER, "end_ordinal_exclusive": 0, "end_byte_offset": 0}
    with_meta(seeding, history_base=base)


def dangling_edge(seeding):
    with_meta(seeding, forked_from_id=OTHER)


def leftover_file(seeding):
    (seeding.path.parent / f".{seeding.path.name}.tmp").write_bytes(b'{"timestamp":')


def stale_lock(seeding):
    folder = seeding.home / "engine/locks/threads"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{seeding.thread.id}.lock").write_bytes(b"")


def unfinished(seeding):
    seeding.opened._writers._decisions.record("archive_begun", seeding.thread.id, archived=True)


def stale_failure(seeding):
    seeding.sql(
        """INSERT INTO failures (path, reason, attempts, first_at_ms, last_at_ms)
           VALUES (:path, 'it could not be read', 1, 0, 0)"""
    )


def damaged_database(seeding):
    with contextlib.closing(apsw.Connection(str(seeding.home / "engine/jobs_1.sqlite"))) as connection:
        connection.execute("DROP TABLE leases")


IN_THE_FILE = [
    damaged_span,
    torn_tail,
    set_aside,
    duplicate_ordinal,
    ordinal_gap,
    missing_ordinal,
    missing_meta,
    id_differs,
    empty_file,
    byte_order_mark,
    unreadable,
    dangling_base,
    dangling_edge,
]
"""Seeds that are there before the engine comes."""

AFTERWARDS = [
    missing_row,
    orphan_row,
    lost_truth,
    differing_field,
    wrong_path,
    wrong_archive_state,
    stale_watermark,
    lying_watermark,
    wrong_stream,
    wrong_set_aside,
    wrong_goal,
    rewritten_history,
    truncated_file,
    wrong_rows,
    missing_item_row,
    orphan_item_row,
    lying_turns_watermark,
    wrong_turns_set_aside,
    newer_projection,
    duplicate_id,
    leftover_file,
    stale_lock,
    stale_failure,
    damaged_database,
    lag,
]

OPEN = [wrong_fact, unfinished]
"""A start finishes what was begun, so this is only met where it was begun since."""

SEEDS = [*IN_THE_FILE, *AFTERWARDS, *OPEN]
WITHOUT_THREAD = ("unreadable", "stale_failure", "damaged_database", "orphan_item_row")
"""Seeds whose finding names no thread."""

MENDED = {
    "missing_row",
    "orphan_row",
    "differing_field",
    "wrong_path",
    "wrong_archive_state",
    "wrong_fact",
    "stale_watermark",
    "lying_watermark",
    "wrong_stream",
    "wrong_set_aside",
    "wrong_goal",
    "wrong_rows",
    "rewritten_history",
    "truncated_file",
    "torn_tail",
    "leftover_file",
    "stale_lock",
    "unfinished",
    "stale_failure",
    "damaged_database",
}
"""What a repair takes away; of the others it says why not."""


def untouched_home(home, count):
    """A home of so many threads, and the threads."""
    threads = [
        make_rollout(home, size=6_000, seed=seed, created=f"2026-0{1 + seed // 28}-{seed % 28 + 1:02}T09:00:00Z")
        for seed in range(count)
    ]
    return home, threads


def seeded(untouched, copied, seeds, afterwards):
    """A copy of those threads of a home that seeds (a seed and which thread) break, broken; what an audit must find."""
    home, threads = untouched
    for number in {number for _, number in seeds} | {len(threads) - 1}:
        target = copied / threads[number].path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(home / threads[number].path, target)
    expected = _seed(IN_THE_FILE, threads, copied, seeds, None, afterwards)
    with engine.open(str(copied)) as opened:
        assert opened.backfill().status in ("complete", "running", "pending")
    return copied, expected + _seed(AFTERWARDS, threads, copied, seeds, None, afterwards)


def seeded_open(untouched, copied, seeds, opened):
    """Do those seeds that want an open engine; what an audit must find of them."""
    return _seed(OPEN, untouched[1], copied, seeds, opened, None)


def _seed(phase, threads, copied, seeds, opened, afterwards):
    expected = Counter()
    for seed, number in seeds:
        if seed in phase:
            thread = seed(Seeding(copied, threads[number], opened, afterwards)) or threads[number].id
            expected[class_of(seed), None if seed.__name__ in WITHOUT_THREAD else thread] += 1
    return expected
