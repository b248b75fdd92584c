"""What an audit tells of things that are no rollout's lines or row, each with what a repair makes of it.

The journal and the facts, forks, what a crash left behind, rows of the smaller tables: the cases behind the classes that
`test_audit_lines` seeds once each.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import apsw
import pytest
import zstandard

import engine
from engine.audit.findings import Finding
from engine.errors import StoreBusy
from engine.options import Options
from engine.stores.locks import Owner
from engine.testing import ManualClock
from tests.writing import opened, say

NOBODY = "01a20458-0000-7000-8000-00000000dead"
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def made(home: Path, *words: str) -> str:
    """One thread of a home, its rows up to date; its id."""
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, *words or ("one",))
        e.backfill()
    return thread.id


def sql(home: Path, statement: str, **values: object) -> None:
    with contextlib.closing(apsw.Connection(str(home / "engine/state_1.sqlite"))) as connection:
        connection.execute(statement, values)
        assert connection.changes() == 1


def told(found: list[Finding]) -> list[tuple[str, str | None]]:
    return sorted((each.class_, each.field) for each in found)


def check_mended(home: Path, *expected: tuple[str, str | None]) -> None:
    """The audit says just this, a repair mends it, and nothing is left."""
    with opened(home) as e:
        assert told(e.audit().findings) == sorted(expected)
        assert e.repair().left == []
        assert e.audit().findings == []
        assert e.repair().steps == []


def rollout(home: Path) -> Path:
    (path,) = (path for path in home.rglob("rollout-*.jsonl*") if "quarantine" not in path.parts)
    return path


# The journal and the facts.


def journal(home: Path) -> Path:
    return home / "engine/journal/000000000000.jsonl"


def named(home: Path, *names: str) -> str:
    thread = made(home)
    with opened(home) as e:
        for name in names or ("a name",):
            e.threads.rename(thread, name)
    return thread


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE facts SET name = 'x' WHERE thread_id = :id", ("wrong_fact", "facts.name")),
        ("UPDATE facts SET archived = 1 WHERE thread_id = :id", ("wrong_fact", "facts.archived")),
        ("UPDATE facts SET memory_mode = 'disabled' WHERE thread_id = :id", ("wrong_fact", "facts.memory_mode")),
        ("UPDATE facts SET dismissed_at_ms = 5 WHERE thread_id = :id", ("wrong_fact", "facts.dismissed_at_ms")),
        ("UPDATE facts SET erased_at_ms = 5 WHERE thread_id = :id", ("wrong_fact", "facts.erased_at_ms")),
        ("DELETE FROM facts WHERE thread_id = :id", ("wrong_fact", "facts")),
        ("INSERT INTO facts (thread_id, name) VALUES (:nobody, 'x')", ("orphan_row", "facts")),
        ("UPDATE index_names SET name = 'x' WHERE thread_id = :id", ("wrong_fact", "index_names.name")),
        ("DELETE FROM index_names WHERE thread_id = :id", ("wrong_fact", "index_names")),
        ("INSERT INTO index_names VALUES (:nobody, 'x', 1)", ("orphan_row", "index_names")),
    ],
)
def test_each_fact_is_compared_with_its_record(home: Path, statement: str, expected: tuple[str, str]) -> None:
    thread = named(home)
    line = {"id": thread, "thread_name": "theirs", "updated_at": "2026-01-05T09:00:00Z"}
    (home / "session_index.jsonl").write_text(json.dumps(line) + "\n")
    with opened(home) as e:
        e.threads.list()
    used = {"id": thread} if ":id" in statement else {"nobody": NOBODY}
    if "erased_at_ms" in statement:  # a start would take it for an erasure whose thread came back, and note that
        with opened(home) as e:
            sql(home, statement, **used)
            assert told(e.audit().findings) == [expected]
            assert e.repair().left == []
        return
    sql(home, statement, **used)
    check_mended(home, expected)


def test_what_was_decided_and_not_followed_yet_is_no_finding(home: Path) -> None:
    """Every answer catches up with it first."""
    thread = named(home)
    with opened(home) as e, journal(home).open("ab") as file:
        payload = {"type": "thread_named", "thread_id": thread, "name": "later"}
        record = {"timestamp": "2026-01-05T09:00:00.000Z", "ordinal": 1, "type": "home_event", "payload": payload}
        file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        file.flush()
        assert e.audit().findings == []
        row = e.threads.get(thread)
        assert row is not None
        assert row.name == "later"


def test_damage_of_the_journal_itself_is_told_with_its_place(home: Path) -> None:
    named(home, "one", "two", "three")
    lines = journal(home).read_bytes().splitlines(keepends=True)
    journal(home).write_bytes(lines[0] + b"garbage\n" + lines[2] + lines[2])
    with opened(home) as e:
        found = {each.class_: each for each in e.audit().findings}
        assert found.keys() == {"damaged_span", "ordinal_gap", "duplicate_ordinal"}
        assert {each.path for each in found.values()} == {"engine/journal/000000000000.jsonl"}
        assert (found["damaged_span"].offset, found["ordinal_gap"].file_value) == (len(lines[0]), 2)
        assert all(each.mend is None for each in found.values())
        before = journal(home).read_bytes()
        assert e.repair().steps == []
        assert journal(home).read_bytes() == before


def test_a_segment_of_the_journal_that_is_gone_is_a_gap(home: Path) -> None:
    thread = named(home, "one", "two")
    lines = journal(home).read_bytes().splitlines(keepends=True)
    journal(home).unlink()
    (home / "engine/journal/000000000001.jsonl").write_bytes(lines[1])
    with opened(home) as e:
        (found,) = e.audit().findings
        row = e.threads.get(thread)
        assert row is not None
        assert (found.class_, found.path, row.name) == ("ordinal_gap", "engine/journal/000000000001.jsonl", "two")


def test_a_torn_tail_of_the_journal_is_cut_and_kept_aside(home: Path) -> None:
    named(home)
    whole = journal(home).read_bytes()
    with journal(home).open("ab") as file:
        file.write(b'{"timestamp":"20')
    check_mended(home, ("torn_tail", "bytes"))
    assert journal(home).read_bytes() == whole
    (aside,) = (home / "engine/quarantine").iterdir()
    assert aside.read_bytes() == b'{"timestamp":"20'


def test_a_journal_that_was_edited_under_an_open_engine_is_told_and_followed_anew(home: Path) -> None:
    thread = named(home)
    with opened(home) as e:
        e.threads.list()
        journal(home).write_bytes(journal(home).read_bytes().replace(b"a name", b"b name"))
        (found,) = e.audit().findings
        assert (found.class_, found.path, found.thread_id) == (
            "rewritten_history",
            "engine/journal/000000000000.jsonl",
            None,
        )
        assert e.repair().left == []
        assert e.audit().findings == []
        row = e.threads.get(thread)
        assert row is not None
        assert row.name == "b name"


# Rows of the smaller tables.


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        (
            "streams",
            """INSERT INTO streams (path, thread_id, rollout_id, named_at, archived, compressed, records, damaged)
               VALUES (:path, :id, :id, '2026-01-05T09-00-00', 0, 0, 3, 0)""",
        ),
        (
            "watermarks",
            """INSERT INTO watermarks SELECT :path, projection, version, "offset", ordinal, chain, tail, device, inode, size,
               mtime_ns, ctime_ns, state FROM watermarks""",
        ),
        (
            "set_aside",
            """INSERT INTO set_aside (stream, projection, "offset", length, reason, bytes)
               VALUES (:path, 'threads', 1, 1, 'x', x'00')""",
        ),
    ],
)
def test_a_row_of_any_table_that_no_file_stands_behind_is_removed(home: Path, table: str, statement: str) -> None:
    made(home)
    path = f"sessions/2026/01/05/rollout-2026-01-05T09-00-00-{NOBODY}.jsonl"
    sql(home, statement, path=path, **({"id": NOBODY} if ":id" in statement else {}))
    with opened(home) as e:
        (found,) = e.audit().findings
        assert (found.class_, found.path, found.field) == ("orphan_row", path, table)
    check_mended(home, ("orphan_row", table))


@pytest.mark.parametrize("column", ["thread_id", "rollout_id", "named_at", "records", "damaged"])
def test_each_column_of_a_stream_is_compared(home: Path, column: str) -> None:
    made(home)
    value: object = 77 if column in ("records", "damaged") else NOBODY
    sql(home, f"UPDATE streams SET {column} = :value", value=value)
    expected = [("wrong_stream", column)] + ([("orphan_row", "threads")] if column == "thread_id" else [])
    with opened(home) as e:
        found = e.audit().findings
        assert ("wrong_stream", column) in told(found)
        assert set(told(found)) <= {*expected, ("missing_row", None)}
        assert e.repair().left == []
        assert e.audit().findings == []


def test_a_file_that_is_there_and_is_taken_for_gone_is_told(home: Path) -> None:
    made(home)
    sql(home, "UPDATE streams SET missing_since_ms = 5")
    check_mended(home, ("wrong_stream", "missing"))


def test_a_row_of_a_set_aside_record_that_is_wrong_or_missing_is_told(home: Path) -> None:
    made(home)
    with rollout(home).open("ab") as file:
        file.write(b"garbage\n")
    for statement in ("UPDATE set_aside SET reason = 'x'", "DELETE FROM set_aside"):
        with opened(home) as e:
            e.backfill()
            assert [each.class_ for each in e.audit().findings] == ["damaged_span"]
        sql(home, statement)
        with opened(home) as e:
            found = {each.class_: each for each in e.audit().findings}
            assert found.keys() == {"damaged_span", "wrong_set_aside"}
            assert found["wrong_set_aside"].offset == found["damaged_span"].offset
            assert [each.class_ for each in e.repair().left] == ["damaged_span"]


# Cut and rewritten.


def test_a_file_that_was_cut_is_told_from_one_that_is_another(home: Path) -> None:
    made(home, "one", "two", "three")
    whole = rollout(home).read_bytes()
    lines = whole.splitlines(keepends=True)
    with opened(home) as e:
        rollout(home).write_bytes(b"".join(lines[:5]))
        (found,) = e.audit().findings
        assert (found.class_, found.file_value, found.row_value) == (
            "truncated_file",
            len(b"".join(lines[:5])),
            len(whole),
        )
        rollout(home).write_bytes(b"".join(lines[:5]).replace(b"one", b"ONE"))
        assert [each.class_ for each in e.audit().findings] == ["rewritten_history"]
        rollout(home).write_bytes(whole.replace(b"one", b"ONE"))
        assert [each.class_ for each in e.audit().findings] == ["rewritten_history"]
        rollout(home).write_bytes(whole)
        assert e.audit().findings == []


def test_a_file_that_was_emptied_keeps_its_row_until_a_scan(home: Path) -> None:
    made(home)
    rollout(home).write_bytes(b"")
    with opened(home) as e:
        found = {each.class_: each for each in e.audit().findings}
        assert found.keys() == {"empty_file", "truncated_file"}
        assert "restore it from a backup" in found["truncated_file"].message
        assert e.repair().steps == []


# Forks.


def forked(home: Path) -> tuple[str, str]:
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "one", "two")
        with e.threads.fork(thread.id) as child:
            say(child, "three")
        e.backfill()
    return thread.id, child.id


def test_a_fork_whose_base_is_gone_or_shorter_is_told(home: Path) -> None:
    parent, child = forked(home)
    (path,) = home.rglob(f"rollout-*{parent}.jsonl")
    whole = path.read_bytes()
    with opened(home) as e:
        assert e.audit().findings == []
        path.unlink()
        found = {each.class_: each for each in e.audit().findings}
        assert found.keys() == {"lost_truth", "dangling_base"}
        assert (found["dangling_base"].thread_id, found["dangling_base"].mend) == (child, None)
        assert parent in found["dangling_base"].message
        path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
        found = {each.class_: each for each in e.audit().findings}
        assert found.keys() >= {"dangling_base"}
        assert "ends before byte" in found["dangling_base"].message
        path.write_bytes(whole)
        assert e.audit().findings == []


def test_the_parent_of_an_unknown_thread_is_told_once_a_field(home: Path) -> None:
    parent, child = forked(home)
    with opened(home) as e:
        (path,) = home.rglob(f"rollout-*{parent}.jsonl")
        path.unlink()
        e.threads.dismiss(parent)
        found = e.audit().findings
        assert [each.class_ for each in found] == ["dangling_base"], "the thread is known, though it is gone"
    with opened(home) as e:
        sql(home, "DELETE FROM threads WHERE id = :id", id=parent)
        sql(home, "DELETE FROM streams WHERE thread_id = :id", id=parent)
        sql(home, "DELETE FROM watermarks WHERE stream LIKE :like", like=f"%{parent}%")
        found = e.audit().findings
    assert [(each.class_, each.field, each.file_value, each.thread_id) for each in found if each.field] == [
        ("dangling_edge", "forked_from_id", parent, child)
    ]


# What a crash left.


@pytest.mark.parametrize("suffix", ["tmp", "swap"])
def test_a_half_written_rollout_is_removed_and_one_that_is_being_written_is_not_told(home: Path, suffix: str) -> None:
    thread = made(home)
    beside = rollout(home).with_name(f".{rollout(home).name}.{suffix}")
    beside.write_bytes(b"{")
    with opened(home) as e:
        with e.threads.resume(thread):
            beside.write_bytes(b"{")
            assert e.audit().findings == []
        beside.write_bytes(b"{")
    check_mended(home, ("leftover_file", None))
    assert not beside.exists()


@pytest.mark.parametrize(
    "where",
    [
        "quarantine/x.tail.tmp",
        "trash/99999999999999-{id}/sessions/a.jsonl.tmp",
        "locks/threads/{id}.lock.owner.999999999.tmp",
        "home.999999999.tmp",
    ],
)
def test_a_half_written_file_of_the_engine_is_removed(home: Path, where: str) -> None:
    path = home / "engine" / where.format(id=made(home))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    check_mended(home, ("leftover_file", None))
    assert not path.exists()


def test_a_small_file_that_a_live_process_is_writing_is_not_told(home: Path) -> None:
    made(home)
    (home / f"engine/home.{os.getpid()}.tmp").write_bytes(b"x")
    with opened(home) as e:
        assert e.audit().findings == []


def compressed_too(home: Path, data: bytes) -> Path:
    path = rollout(home)
    path.with_name(f"{path.name}.zst").write_bytes(zstandard.ZstdCompressor().compress(data))
    return path


def test_of_two_forms_that_are_the_same_the_plain_one_goes(home: Path) -> None:
    made(home)
    whole = rollout(home).read_bytes()
    path = compressed_too(home, whole)
    check_mended(home, ("leftover_file", "compressed"))
    assert not path.exists()
    assert zstandard.ZstdDecompressor().decompress(path.with_name(f"{path.name}.zst").read_bytes()) == whole


def test_of_two_forms_that_differ_none_goes(home: Path) -> None:
    made(home)
    path = compressed_too(home, b"something else\n")
    with opened(home) as e:
        (found,) = e.audit().findings
        assert (found.class_, found.mend) == ("leftover_file", None)
        assert "they differ" in found.message
        assert e.repair().steps == []
    assert path.exists()


def card(pid: int) -> bytes:
    here = Owner.here()
    fields = {"host": here.host, "boot_id": here.boot_id, "pid": pid, "started": here.started, "purpose": "write"}
    return json.dumps(fields).encode()


def test_the_lock_of_a_dead_writer_is_removed_and_that_of_a_live_one_is_not_told(home: Path) -> None:
    thread = made(home)
    folder = home / "engine/locks/threads"
    (folder / f"{thread}.lock").write_bytes(b"")
    (folder / f"{thread}.lock.owner").write_bytes(card(os.getpid()))
    with opened(home) as e:
        assert e.audit().findings == []
    (folder / f"{thread}.lock.owner").write_bytes(card(999_999_999))
    check_mended(home, ("stale_lock", None))
    assert list(folder.iterdir()) == []


def test_a_thread_with_both_names_in_the_middle_of_a_move_is_unfinished_and_no_duplicate(home: Path) -> None:
    thread = made(home)
    with opened(home) as e:
        e._writers._decisions.record("archive_begun", thread, archived=True)
        target = home / "archived_sessions" / rollout(home).name
        target.parent.mkdir()
        os.link(rollout(home), target)
        found = e.audit().findings
        assert told(found)[-1] == ("unfinished", "archive_begun")
        assert "duplicate_id" not in {each.class_ for each in found}
        assert e.repair().left == []
        assert e.audit().findings == []
        row = e.threads.get(thread)
        assert row is not None
        assert row.archived
    assert rollout(home) == target


def test_a_thread_whose_erasure_stopped_half_way_is_unfinished_and_not_lost(home: Path) -> None:
    """Its files are gone and its row is not. A thousand audits beside eight writers met it; it is no loss."""
    thread = made(home)
    with opened(home) as reader, opened(home, options=Options(busy_wait_ms=50)) as e:
        e.backfill()
        side = next(each for each in reader._sides if each.name == "history")
        with side.database().read() as transaction:
            assert transaction.row("SELECT count(*) FROM rollouts") == (1,)
            with pytest.raises(StoreBusy):
                e.threads.erase(thread, grace_s=None)
        assert list((home / "sessions").rglob("*.jsonl")) == []
        assert told(e.audit().findings) == [("unfinished", "erase_begun")]
        assert e.repair().left == []
        assert e.audit().findings == []


def test_trash_whose_time_is_over_is_told_and_emptied(home: Path) -> None:
    thread = made(home)
    clock = ManualClock()
    with opened(home, clock) as e:
        e.threads.erase(thread, grace_s=3600)
        assert e.audit().findings == []
        clock.advance(DAY_MS)
        (found,) = e.audit().findings
        assert (found.class_, found.field, found.thread_id) == ("unfinished", "trash", thread)
        assert e.repair().left == []
        assert e.audit().findings == []
    assert list((home / "engine/trash").iterdir()) == []


def test_a_failure_that_is_over_is_taken_off_the_list_also_where_the_file_is_gone(home: Path) -> None:
    made(home)
    path = str(rollout(home).relative_to(home))
    for failed in (path, path.replace("sessions", "sessions/x")):
        sql(home, "INSERT INTO failures VALUES (:path, 'x', 1, 0, 0)", path=failed)
    check_mended(home, ("stale_failure", None), ("stale_failure", None))


def test_a_jobs_database_that_cannot_be_opened_is_told(home: Path) -> None:
    made(home)
    for path in (home / "engine").glob("jobs_1.sqlite*"):
        path.unlink()
    (home / "engine/jobs_1.sqlite").mkdir()
    with opened(home) as e:
        (found,) = e.audit().findings
        assert (found.class_, found.field, found.mend) == ("damaged_database", "jobs", None)


def test_a_home_that_cannot_be_written_is_audited_with_what_is_there(home: Path, tmp_path: Path) -> None:
    from engine.stores.files import Files

    class Locked(Files):
        def writable(self, path: str, *, op: str) -> bool:
            return False

    made(home)
    beside = rollout(home).with_name(f".{rollout(home).name}.tmp")
    beside.write_bytes(b"{")
    with engine.open(str(home), files=Locked()) as e:
        assert e.state_dir is None
        assert told(e.audit().findings) == [("leftover_file", None)]
    shutil.rmtree(home)
