"""What was decided about threads: from the journal and the session index, each effect once, whatever happens between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.clock import SystemClock
from engine.options import Options
from engine.projections.facts import Facts
from engine.projections.thread_facts import unfinished_archives
from engine.stores.files import Files
from engine.stores.journal import Journal
from engine.stores.layout import Home
from engine.stores.sqlite import Database
from engine.testing.files import RecordingFiles

CHECKOUT = Path(__file__).resolve().parents[2]
A = "019b8d63-3aa4-79ca-b017-baf18cb08e1b"
B = "019c5b61-0d6b-7416-b541-c30ec03d3076"
NINE = 1_767_603_600_000  # 2026-01-05T09:00:00Z


class Bench:
    """A home with its database, its journal written by the test itself."""

    def __init__(self, path: Path, files=None, *, in_memory: bool = False) -> None:
        self.in_memory = in_memory
        self.path = path
        self.files = files or Files()
        self.options = Options(busy_wait_ms=20_000)
        self.ordinal = 0
        self.segment = "000000000000.jsonl"
        (path / "engine/journal").mkdir(parents=True, exist_ok=True)
        self.open()

    def open(self) -> None:
        clock = SystemClock()
        parts = {"options": self.options, "clock": clock, "files": self.files}
        state = f"{self.path}/engine"
        self.database = Database.open(None if self.in_memory else state, "state", 1, migrations="state", **parts)
        self.facts = Facts(Home(str(self.path), state), self.database, Journal(state, **parts), **parts)

    def forget(self) -> None:
        """Delete the database, as anybody may."""
        self.database.close()
        for path in (self.path / "engine").glob("state_1.sqlite*"):
            path.unlink()
        self.open()

    def tell(self, tag: str, thread: str = A, *, at: str = "09:00:00.000", **fields) -> None:
        line = {
            "timestamp": f"2026-01-05T{at}Z",
            "ordinal": self.ordinal,
            "type": "home_event",
            "payload": {"type": tag, "thread_id": thread, **fields},
        }
        self.raw(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self.ordinal += 1

    def raw(self, data: bytes) -> None:
        with (self.path / "engine/journal" / self.segment).open("ab") as file:
            file.write(data)

    def rotate(self) -> None:
        self.segment = f"{self.ordinal:012d}.jsonl"

    def index(self, data: bytes, mode: str = "ab") -> None:
        with (self.path / "session_index.jsonl").open(mode) as file:
            file.write(data)

    def rows(self, columns: str, table: str = "facts") -> list[tuple]:
        self.facts.catch_up()
        return self.stored(columns, table)

    def stored(self, columns: str, table: str = "facts") -> list[tuple]:
        with self.database.read() as transaction:
            return list(transaction.rows(f"SELECT {columns} FROM {table} ORDER BY thread_id"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.database.close()


def entry(thread: str, name: str, at: str = "2026-01-05T09:00:00Z") -> bytes:
    return json.dumps({"id": thread, "thread_name": name, "updated_at": at}).encode() + b"\n"


def test_the_last_name_counts_and_none_takes_it_away(bench: Bench) -> None:
    bench.tell("thread_named", name="one")
    bench.tell("thread_named", B, name="kept")
    bench.tell("thread_named", name="two", at="09:00:01.500")
    assert bench.rows("thread_id, name, name_at_ms") == [(A, "two", NINE + 1500), (B, "kept", NINE)]
    bench.tell("thread_named", name=None, at="09:00:02.000")
    assert bench.rows("name, name_at_ms") == [(None, NINE + 2000), ("kept", NINE)]


def test_memory_mode_dismissal_and_erasure_have_columns_of_their_own(bench: Bench) -> None:
    bench.tell("thread_named", name="n")
    bench.tell("memory_mode_set", memory_mode="disabled", at="09:00:01.000")
    bench.tell("thread_dismissed", at="09:00:02.000")
    bench.tell("thread_erased", at="09:00:03.000")
    assert bench.rows("name, name_at_ms, memory_mode, memory_mode_at_ms, dismissed_at_ms, erased_at_ms") == [
        ("n", NINE, "disabled", NINE + 1000, NINE + 2000, NINE + 3000)
    ]


ARCHIVE = "archived, archived_at_ms, archive_pending"


def test_an_archive_has_the_time_it_was_asked_for_and_is_pending_until_it_is_done(bench: Bench) -> None:
    bench.tell("archive_begun", archived=True)
    assert bench.rows(ARCHIVE) == [(1, NINE, 1)]
    with bench.database.read() as transaction:
        assert unfinished_archives(transaction) == [(A, True)]
    bench.tell("archive_done", archived=True, at="09:00:05.000")
    assert bench.rows(ARCHIVE) == [(1, NINE, 0)]
    bench.tell("archive_begun", archived=False, at="09:00:06.000")
    assert bench.rows(ARCHIVE) == [(0, None, 1)]
    bench.tell("archive_done", archived=False, at="09:00:07.000")
    assert bench.rows(ARCHIVE) == [(0, None, 0)]
    bench.tell("archive_begun", archived=True, at="09:00:08.000")
    bench.tell("archive_done", archived=True, at="09:00:09.000")
    assert bench.rows(ARCHIVE) == [(1, NINE + 8000, 0)]
    with bench.database.read() as transaction:
        assert unfinished_archives(transaction) == []


def test_an_archive_that_was_noted_as_undone_and_done_again_has_the_later_time(bench: Bench) -> None:
    bench.tell("archive_begun", archived=True)
    bench.facts.catch_up()
    bench.tell("archive_done", archived=False, at="09:00:01.000")
    bench.tell("archive_done", archived=True, at="09:00:02.000")
    assert bench.rows(ARCHIVE) == [(1, NINE + 2000, 0)]


def test_what_is_not_known_or_not_right_is_passed_over(bench: Bench) -> None:
    bench.tell("thread_named", name="good")
    bench.tell("agent_closed_in_a_later_release", name="x")
    bench.tell("thread_named", "no id", name="x")
    bench.raw(
        b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":7,"type":"event_msg","payload":{"type":"thread_named",'
    )
    bench.raw(b'"thread_id":"%s","name":"x"}}\n' % A.encode())
    for payload in (
        b"{}",
        b'{"type":7}',
        b'{"type":{}}',
        b'{"type":"thread_named"}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ):
        bench.raw(b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"home_event","payload":%b}\n' % payload)
    bench.raw(b"garbage\n\n\xff\xfe\n\0\0\n")
    bench.tell("thread_named", B.upper(), name=["not", "text"])
    assert bench.rows("thread_id, name") == [(A, "good"), (B, None)]


def test_half_a_line_waits_for_its_end(bench: Bench) -> None:
    bench.tell("thread_named", name="one")
    whole = json.dumps(
        {
            "timestamp": "2026-01-05T09:00:00Z",
            "type": "home_event",
            "payload": {"type": "thread_named", "thread_id": A, "name": "two"},
        }
    ).encode()
    bench.raw(whole[:50])
    assert bench.rows("name") == [("one",)]
    bench.raw(whole[50:])
    assert bench.rows("name") == [("one",)]  # whole, but never acknowledged: the next writer would cut it
    bench.raw(b"\n")
    assert bench.rows("name") == [("two",)]


def test_times_with_nanoseconds_and_with_an_offset_are_read(bench: Bench) -> None:
    bench.raw(
        b'{"timestamp":"2026-01-05T10:00:00.123456789+01:00","type":"home_event","payload":'
        b'{"type":"thread_named","thread_id":"%s","name":"n"}}\n' % A.encode()
    )
    bench.index(entry(A, "i", "2026-01-05T09:00:00.987654321Z"))
    assert bench.rows("name_at_ms") == [(NINE + 123,)]
    assert bench.rows("name_at_ms", "index_names") == [(NINE + 987,)]


def test_of_the_index_the_last_line_of_a_thread_counts_and_an_empty_name_clears(bench: Bench) -> None:
    bench.index(entry(A, "one") + entry(B, "other") + entry(A, "two"))
    assert bench.rows("thread_id, name", "index_names") == [(A, "two"), (B, "other")]
    bench.index(entry(A, "") + entry(B, "   "))
    assert bench.rows("name", "index_names") == [("",), ("",)]


def test_lines_of_the_index_that_cannot_be_read_are_passed_over(bench: Bench) -> None:
    bench.index(b'garbage\n{}\n{"id":"x","thread_name":"n"}\n{"id":7}\n\xff\n\n')
    bench.index(b'{"id":"%s","thread_name":null,"updated_at":"x"}\n' % A.encode())
    bench.index(entry(A.upper(), "good", "no time"))
    bench.index(b'{"id":"%s","thread_name":"deep","x":%b}\n' % (A.encode(), b"[" * 500_000 + b"]" * 500_000))
    bench.index(b'{"id":"%s","thread_name":"torn' % B.encode())
    assert bench.rows("thread_id, name, name_at_ms", "index_names") == [(A, "good", 0)]


def test_the_last_line_of_the_index_counts_without_its_lf_and_once_more_when_it_goes_on(bench: Bench) -> None:
    bench.index(entry(A, "one") + entry(A, "two").rstrip(b"\n"))
    assert bench.rows("name", "index_names") == [("two",)]
    bench.index(b"\n" + entry(A, "three"))
    assert bench.rows("name", "index_names") == [("three",)]


def test_a_last_line_that_turns_out_to_be_another_is_taken_back(bench: Bench) -> None:
    bench.index(entry(A, "one") + entry(B, "two").rstrip(b"\n"))
    assert bench.rows("thread_id, name", "index_names") == [(A, "one"), (B, "two")]
    bench.index(entry(B, "glued"))  # as 0.130 appends: two records on one line, which no reader can read
    assert bench.rows("thread_id, name", "index_names") == [(A, "one")]


def test_an_index_that_was_rewritten_or_removed_is_read_anew(bench: Bench) -> None:
    bench.index(entry(A, "one") + entry(B, "two"))
    assert len(bench.rows("name", "index_names")) == 2
    beside = bench.path / "session_index.jsonl.tmp"
    beside.write_bytes(entry(B, "two"))
    beside.rename(bench.path / "session_index.jsonl")
    assert bench.rows("thread_id, name", "index_names") == [(B, "two")]
    (bench.path / "session_index.jsonl").unlink()
    assert bench.rows("thread_id", "index_names") == []


def test_deleting_the_database_loses_nothing(bench: Bench) -> None:
    bench.tell("thread_named", name="one")
    bench.rotate()
    bench.tell("archive_begun", B, archived=True)
    bench.tell("archive_done", B, archived=True, at="09:01:00.000")
    bench.index(entry(A, "i"))
    before = bench.rows("*"), bench.rows("*", "index_names")
    assert len(before[0]) == 2
    bench.forget()
    assert bench.stored("*") == []
    assert (bench.rows("*"), bench.rows("*", "index_names")) == before


def test_a_rebuild_while_open_gives_the_same(bench: Bench) -> None:
    bench.tell("thread_named", name="one")
    bench.index(entry(A, "i"))
    before = bench.rows("*"), bench.rows("*", "index_names")
    with bench.database.write() as transaction:
        transaction.run("UPDATE facts SET name = 'wrong'")
        transaction.run("DELETE FROM index_names")
    bench.facts.rebuild()
    assert (bench.stored("*"), bench.stored("*", "index_names")) == before


def test_a_segment_that_was_rewritten_takes_back_its_facts_and_keeps_those_of_later_ones(bench: Bench) -> None:
    bench.tell("thread_named", name="first")
    bench.tell("memory_mode_set", memory_mode="disabled")
    first = bench.path / "engine/journal/000000000000.jsonl"
    bench.rotate()
    bench.tell("thread_named", B, name="later")
    assert bench.rows("name, memory_mode") == [("first", "disabled"), ("later", None)]
    first.write_bytes(first.read_bytes().replace(b'"name":"first"', b'"name":"erased"'))
    assert bench.rows("name, memory_mode") == [("erased", "disabled"), ("later", None)]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_segment_that_is_gone_takes_its_facts_along_and_brings_them_back(bench: Bench, which: int) -> None:
    paths = []
    for name in "abc":
        bench.tell("thread_named", name=name)
        paths.append(bench.path / "engine/journal" / bench.segment)
        bench.rotate()
    assert bench.rows("name") == [("c",)]
    aside = paths[which].with_suffix(".aside")
    paths[which].rename(aside)
    assert bench.rows("name") == [("b",) if which == 2 else ("c",)]
    aside.rename(paths[which])
    assert bench.rows("name") == [("c",)]


def test_a_home_that_moved_keeps_its_facts_and_reads_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    bench = Bench(tmp_path / "old")
    bench.tell("thread_named", name="n")
    assert bench.rows("name") == [("n",)]
    bench.database.close()
    (tmp_path / "old").rename(tmp_path / "new")
    files = RecordingFiles(Files())
    moved = Bench(tmp_path / "new", files)
    files.forget()
    assert moved.rows("name") == [("n",)]
    assert files.paths("open_read", op="facts.read") == []
    moved.database.close()


def test_where_nothing_is_new_nothing_is_opened_or_written(tmp_path: Path) -> None:
    files = RecordingFiles(Files())
    bench = Bench(tmp_path, files)
    bench.tell("thread_named", name="n")
    bench.index(entry(A, "i"))
    bench.facts.catch_up()
    files.forget()
    with bench.database.read() as transaction:
        before = transaction.row("SELECT data_version FROM pragma_data_version")
    bench.facts.catch_up()
    assert files.count("open_read") == 0
    with bench.database.read() as transaction:
        assert transaction.row("SELECT data_version FROM pragma_data_version") == before
    bench.database.close()


def test_what_is_new_is_all_that_is_read_but_for_the_digests(tmp_path: Path) -> None:
    files = RecordingFiles(Files())
    bench = Bench(tmp_path, files)
    for _ in range(9000):
        bench.tell("thread_named", name="n" * 20)
    assert (tmp_path / "engine/journal/000000000000.jsonl").stat().st_size > 1_500_000
    bench.facts.catch_up()
    bench.tell("thread_named", name="new")
    files.forget()
    assert bench.rows("name") == [("new",)]
    assert files.count("pread", op="rollout.read") <= 6  # of at most 64 KiB each, not the 1.5 MB
    bench.database.close()


def test_the_tables_of_rollouts_know_nothing_of_these_streams(bench: Bench) -> None:
    # A scan takes each stream with a watermark for a rollout, and one that it does not meet for one that is gone.
    bench.tell("thread_named", name="n")
    bench.index(entry(A, "i"))
    bench.facts.catch_up()
    with bench.database.read() as transaction:
        assert transaction.row("SELECT count(*) FROM watermarks") == (0,)


def test_what_a_newer_engine_followed_is_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.tell("thread_named", name="n")
    monkeypatch.setattr("engine.projections.facts.VERSION", 2)
    assert bench.rows("name") == [("n",)]
    monkeypatch.setattr("engine.projections.facts.VERSION", 1)
    bench.tell("thread_named", name="later")
    assert bench.rows("name") == [("n",)]
    monkeypatch.setattr("engine.projections.facts.VERSION", 3)  # a raised version folds anew
    bench.facts.forget()  # as a new process would
    assert bench.rows("name") == [("later",)]


TAGS = st.sampled_from(
    ["thread_named", "memory_mode_set", "archive_begun", "archive_done", "thread_dismissed", "other"]
)
STEPS = st.lists(st.tuples(TAGS, st.sampled_from([A, B]), st.integers(0, 3), st.sampled_from("..c.r")), max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@example(steps=[("archive_begun", A, 0, "c"), ("archive_done", A, 0, ".")])
@example(steps=[("archive_begun", A, 0, "c"), ("archive_done", A, 1, ".")])
@example(steps=[("archive_done", A, 0, "c"), ("archive_done", A, 0, ".")])
@example(steps=[("archive_done", A, 1, "c"), ("archive_done", A, 0, ".")])
@given(steps=STEPS)
def test_any_split_into_catch_ups_gives_what_one_gives(tmp_path_factory: pytest.TempPathFactory, steps) -> None:
    split, at_once = (Bench(tmp_path_factory.mktemp("facts"), in_memory=True) for _ in range(2))
    for number, (tag, thread, value, then) in enumerate(steps):
        fields = {"name": f"n{value}", "memory_mode": f"m{value}", "archived": value % 2 == 0}
        for each in (split, at_once):
            each.tell(tag, thread, at=f"09:00:{number:02d}.000", **fields)
            if then == "r":
                each.rotate()
        if then == "c":
            split.facts.catch_up()
    assert split.rows("*") == at_once.rows("*")
    split.database.close()
    at_once.database.close()


# Catches up again and again, and counts what the table says each time.
FOLLOWER = """
import sys
sys.path.insert(0, sys.argv[3])
from test_facts import Bench
from pathlib import Path
bench = Bench(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
newest = -1
while newest < int(sys.argv[2]) - 1:
    [(name,)] = bench.rows("coalesce(max(cast(name AS INTEGER)), -1)")
    assert name >= newest, (name, newest)
    newest = name
bench.database.close()
print(newest, flush=True)
"""


def test_processes_that_catch_up_at_once_apply_in_order_and_never_go_back(tmp_path: Path) -> None:
    """Seen: who lost the race for an old segment went on with the newer one, and the old names came back later."""
    count = 400
    bench = Bench(tmp_path)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", FOLLOWER, str(tmp_path), str(count), str(Path(__file__).parent)]
    followers = [
        subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)
    ]
    for follower in followers:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "ready\n"
    for follower in followers:
        assert follower.stdin is not None
        follower.stdin.write("\n")
        follower.stdin.flush()
    for number in range(count):
        bench.tell("thread_named", name=str(number))
        if number % 7 == 0:
            bench.rotate()
        if number % 5 == 0:
            bench.facts.catch_up()
    results = [follower.communicate(timeout=60) for follower in followers]
    assert [out for out, _ in results] == [f"{count - 1}\n"] * 3, results
    assert bench.rows("name") == [(str(count - 1),)]
    bench.database.close()


def test_one_s_own_decision_is_in_the_table_after_a_lost_race(tmp_path: Path) -> None:
    """Seen: who lost the swap left it to the winner, who had read less."""
    loser = Bench(tmp_path)
    winner = Bench(tmp_path)
    loser.tell("thread_named", name="old")
    real = loser.facts._next
    raced: list[int] = []

    def race(stream, followed):
        step = real(stream, followed)
        if stream.key == "journal" and len(raced) < 3:
            raced.append(1)
            with (tmp_path / "engine/journal/000000000000.jsonl").open("rb+") as file:
                whole = file.read()
                half = whole[: whole.index(b"\n") + 1]
                os.truncate(file.fileno(), len(half))
                winner.facts.catch_up()
                file.seek(0)
                file.write(whole)
        return step

    loser.facts._next = race
    loser.tell("thread_named", name="own")
    assert loser.rows("name") == [("own",)]
    loser.database.close()
    winner.database.close()


def test_a_read_only_home_has_the_names_of_its_index(tmp_path: Path) -> None:
    (tmp_path / "session_index.jsonl").write_bytes(entry(A, "i"))
    parts = {"options": Options(), "clock": SystemClock(), "files": Files()}
    database = Database.open(None, "state", 1, migrations="state", **parts)
    Facts(Home(str(tmp_path), None), database, Journal(None, **parts), **parts).catch_up()
    with database.read() as transaction:
        assert list(transaction.rows("SELECT name FROM index_names")) == [("i",)]
    database.close()


def test_names_of_a_real_home_are_those_of_its_index(corpora: Path, tmp_path: Path) -> None:
    found = sorted(corpora.rglob("session_index.jsonl"))
    assert found
    for number, path in enumerate(found):
        last: dict[str, str] = {}
        for line in path.read_text("utf-8").split("\n"):
            if line.strip():
                record = json.loads(line)
                last[record["id"]] = record["thread_name"].strip()
        home = tmp_path / str(number)
        home.mkdir()
        bench = Bench(home)
        bench.index(path.read_bytes())
        assert dict(bench.rows("thread_id, name", "index_names")) == last
        bench.database.close()
