"""A side database: rows follow the files whatever becomes of them, in pieces of any size, and a fresh fold gives the same."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import apsw
import pytest

import engine
from engine.options import Options
from engine.projections.side import Side
from engine.projections.side_check import SideDifference, compare_side
from engine.stores.files import Files
from engine.stores.layout import parse_path
from engine.testing import HomePlan, make_home, rollout_lines
from engine.testing.files import FaultyFiles
from engine.testing.tables import dump
from tests.own import ALL, FILE, NAME, Heads, TokensPerDay
from tests.removing import CANARY, fork, holding, rollout_of, talk, with_canary_everywhere
from tests.removing import opened as opened_to_remove
from tests.writing import rollouts

EAGER = Options(scan_interval_ms=0, list_budget_ms=60_000)
SMALL = Options(scan_interval_ms=0, list_budget_ms=60_000, piece_bytes=2_000, block_bytes=1_000)
HEADS_FILE = "own_heads_1.sqlite"
PATH = "sessions/2026/01/05/rollout-2026-01-05T09-00-00-01a20464-403f-7170-9722-7a9790eef98c.jsonl"
WITHOUT = {
    "watermarks": ("device", "inode", "mtime_ns", "ctime_ns"),
    "failures": ("attempts", "first_at_ms", "last_at_ms"),
}
"""Columns that tell of the file and not of what is in it."""


def opened(home: Path, **how: Any) -> engine.Engine:
    return engine.open(str(home), projections=[TokensPerDay(), Heads()], options=how.pop("options", EAGER), **how)


def side(e: engine.Engine, name: str = "heads") -> Side:
    (found,) = (each for each in e._sides if each.name == f"own_{name}")
    return found


def look(e: engine.Engine) -> None:
    """Ask both, without an answer that matters."""
    for own in e.projections.values():
        own.rows("SELECT 1")


def differences(e: engine.Engine) -> list[SideDifference]:
    return [difference for each in e._sides for difference in compare_side(e._side_parts, each)]


def of_both(home: Path, state: Path | None = None) -> dict[str, Any]:
    """Everything that is in both files and follows from the rollouts."""
    folder = state or home / "engine"
    return {name: dump(folder / name, without=WITHOUT) for name in (FILE, HEADS_FILE)}


def rebuilt(home: Path) -> dict[str, Any]:
    """What files made from nothing hold."""
    state = home.parent / "rebuilt"
    shutil.rmtree(state, ignore_errors=True)
    with opened(home, state_dir=str(state)) as e:
        look(e)
    return of_both(home, state)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_home(tmp_path / "home", HomePlan(threads=8, seed=4, bytes_max=20_000))
    return tmp_path / "home"


def grow(home: Path, lines: list[bytes], step: int, e: engine.Engine) -> None:
    """Append the lines of one rollout, so many at a time, and look behind each."""
    path = home / PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(lines), step):
        with path.open("ab") as file:
            file.write(b"".join(lines[start : start + step]))
        look(e)


@pytest.mark.parametrize("mode", ["paginated", "legacy", "old"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("options", [EAGER, SMALL], ids=["whole", "in pieces"])
def test_a_rebuild_equals_the_incremental_rows_for_batches_of_any_size(
    tmp_path: Path, mode: str, step: int, options: Options
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    lines = list(rollout_lines(seed=6, mode=mode, size=12_000))
    with opened(home, options=options) as e:
        grow(home, lines, step, e)
        assert e.projections["heads"].rows("SELECT sum(heads) FROM counts")[0][0] >= 5
        assert differences(e) == []
    assert of_both(home) == rebuilt(home)


def test_torn_and_foreign_bytes_are_set_aside_and_a_cut_or_rewritten_file_is_folded_anew(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    lines = list(rollout_lines(seed=6, mode="paginated", size=30_000))
    odd = [
        *lines[:20],
        b"not JSON\n",
        *lines[20:40],
        b'{"timestamp":"x","type":"turn_context","payload":7}\n',
        *lines[40:],
    ]
    with opened(home, options=SMALL) as e:
        grow(home, odd, 9, e)
        assert e.projections["heads"].rows("SELECT count(*) FROM set_aside") != [(0,)]
        os.truncate(home / PATH, 9_000)
        look(e)
        assert of_both(home) == rebuilt(home)
        (home / PATH).write_bytes(b"".join(lines[:10]))
        look(e)
        assert of_both(home) == rebuilt(home)
        with (home / PATH).open("ab") as file:
            file.write(b'{"timestamp":"2026-01-05T09:00:00.000Z","ty')
        look(e)
        assert of_both(home) == rebuilt(home)
        assert differences(e) == []


def move_to_archive(home: Path) -> None:
    path = next(path for path in rollouts(home) if path.startswith("sessions/"))
    (home / "archived_sessions").mkdir(exist_ok=True)
    os.rename(home / path, home / "archived_sessions" / Path(path).name)


def rename_folder(home: Path) -> None:
    os.rename(home / "sessions", home / "elsewhere")
    (home / "sessions").mkdir()
    os.rename(home / "elsewhere", home / "sessions/2020")


def remove_some(home: Path) -> None:
    for path in rollouts(home)[1::2]:
        os.unlink(home / path)


def remove_all(home: Path) -> None:
    shutil.rmtree(home / "sessions")
    shutil.rmtree(home / "archived_sessions")


def copy_over_another(home: Path) -> None:
    first, second, *_ = rollouts(home)
    shutil.copyfile(home / first, home / second)


MORE = (
    b'{"timestamp":"2026-07-01T09:00:00.000Z","type":"turn_context","payload":{"model":"later","cwd":"/w"}}\n'
    b'{"timestamp":"2026-07-01T09:00:01.000Z","type":"event_msg","payload":{"type":"token_count","info":'
    b'{"total_token_usage":{"total_tokens":99000000}}}}\n'
)


def append_to_all(home: Path) -> None:
    for path in rollouts(home):
        with (home / path).open("ab") as file:
            file.write(MORE)


def compress_all(home: Path) -> None:
    with engine.open(str(home), options=EAGER) as e:
        assert e.compress(older_than_days=0).compressed


CHANGES = [move_to_archive, rename_folder, remove_some, remove_all, copy_over_another, append_to_all, compress_all]


@pytest.mark.parametrize("options", [EAGER, SMALL], ids=["whole", "in pieces"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_becomes_of_files_the_rows_are_those_of_a_rebuild(home: Path, change: Any, options: Options) -> None:
    with opened(home, options=options) as e:
        look(e)
        before = of_both(home)
        change(home)
        look(e)
        assert change is compress_all or of_both(home) != before
        assert differences(e) == []
        if change is remove_all:
            assert all(row.missing for row in e.threads.list(limit=0).threads)
    assert of_both(home) == rebuilt(home)


def test_a_large_rollout_is_committed_piece_by_piece_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """Each commit is a little more of it, also where a query has no more time than for one piece."""
    home = tmp_path / "home"
    (home / PATH).parent.mkdir(parents=True)
    (home / PATH).write_bytes(b"".join(rollout_lines(seed=6, mode="paginated", size=60_000)))
    hurried = Options(scan_interval_ms=0, list_budget_ms=1, piece_bytes=4_000, block_bytes=1_000)
    counts, transactions = [], []
    with opened(home, options=hurried) as e:
        for _ in range(200):
            with e.projections["heads"].read() as snapshot:
                counts.append(snapshot.row("SELECT count(*) FROM heads")[0])
                if snapshot.partial is None:
                    break
                assert (snapshot.partial.files_done, snapshot.partial.files_total) in ((0, 1), (0, None))
        assert counts == sorted(counts)
        side(e).database().counters.transactions = 0
        e.rebuild()
        transactions.append(side(e).database().counters.transactions)
    assert len(set(counts)) > 3
    assert transactions[0] > 8
    assert of_both(home)[HEADS_FILE] == rebuilt(home)[HEADS_FILE]


def test_memory_is_that_of_one_piece_however_large_the_rollout_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / PATH).parent.mkdir(parents=True)
    lines = list(rollout_lines(seed=6, mode="paginated", size=60_000))
    with (home / PATH).open("wb") as file:
        for _ in range(100):
            file.write(b"".join(lines))

    class Wordy(Heads):
        def emit(self, state: Any) -> list[Any]:
            return [[*each[:3], each[3] + "." * 5_000 + str(each[0])] for each in super().emit(state)]

    peaks = {}
    for piece_bytes in (500_000, 100_000_000):
        options = Options(list_budget_ms=600_000, piece_bytes=piece_bytes)
        state = str(tmp_path / str(piece_bytes))
        with engine.open(str(home), projections=[Wordy()], options=options, state_dir=state) as e:
            tracemalloc.start()
            assert e.projections["heads"].rows("SELECT count(*) > 1000 FROM heads") == [(1,)]
            peaks[piece_bytes] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert 2 * peaks[500_000] < peaks[100_000_000]


# Two at once


def test_of_two_engines_at_one_stream_each_record_has_its_effect_once(home: Path) -> None:
    """One folds and is stopped before its commit; the other commits; the first finds its swap lost and folds again."""
    with opened(home, options=SMALL) as first, opened(home, options=SMALL) as second:
        runner = side(first)._ready().runner
        plain, times = runner._write_all, []

        def overtaken(waiting: Any) -> None:
            if not times:
                times.append(1)
                append_to_all(home)
                look(second)
            plain(waiting)

        runner._write_all = overtaken  # type: ignore[method-assign]
        look(first)
        look(first)
        assert runner.counters.lost_swaps > 0
        assert differences(first) == []
    assert of_both(home) == rebuilt(home)


def test_engines_that_take_turns_at_the_pieces_of_one_rollout_come_to_the_same_rows(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / PATH).parent.mkdir(parents=True)
    (home / PATH).write_bytes(b"".join(rollout_lines(seed=6, mode="paginated", size=60_000)))
    with opened(home, options=SMALL) as first, opened(home, options=SMALL) as second:
        runner = side(first)._ready().runner
        plain = runner._write_all

        def in_turns(waiting: Any) -> None:
            plain(waiting)
            side(second).catch_up(0)
            side(second)._ready().runner.fold([], lambda: False)

        runner._write_all = in_turns  # type: ignore[method-assign]
        look(first)
    assert of_both(home) == rebuilt(home)


# Erased and redacted


def with_rows(home: Path) -> tuple[str, str]:
    """A home with a canary everywhere, and in the rows, the states and the set-aside records of two projections."""
    thread, other = with_canary_everywhere(home)
    with opened_to_remove(home, projections=[Words(), Aside()]) as e:
        look(e)
    assert any(
        CANARY.encode() in (home / "engine" / f"own_{name}_1.sqlite").read_bytes() for name in ("words", "aside")
    )
    return thread, other


class Words(engine.Projection):
    name = "words"
    kinds = frozenset({"response_item", "event_msg"})
    schema = "CREATE TABLE words (stream TEXT NOT NULL PRIMARY KEY, words TEXT NOT NULL) STRICT"

    def start(self, stream: engine.Stream) -> list[str]:
        return []

    def apply(self, state: Any, record: engine.Record[Any], kind: str, offset: int) -> bool:
        state.append(str(record.payload))
        return True

    def write(self, transaction: engine.Transaction, changes: Any) -> None:
        transaction.run_many(
            "INSERT INTO words (stream, words) VALUES (?, ?) ON CONFLICT (stream) DO UPDATE SET words = excluded.words",
            [(change.stream.path, " ".join(change.state)) for change in changes],
        )


class Aside(Words):
    name = "aside"

    def apply(self, state: Any, record: engine.Record[Any], kind: str, offset: int) -> bool:
        raise ValueError(f"it says {record.payload}")


@pytest.mark.parametrize("given", [[Words(), Aside()], []], ids=["given", "not given to this engine"])
def test_no_byte_of_an_erased_thread_is_left_in_a_side_database(home: Path, given: list[engine.Projection]) -> None:
    shutil.rmtree(home)
    thread, other = with_rows(home)
    with opened_to_remove(home, projections=given) as e:
        receipt = e.threads.erase(thread, grace_s=None)
        taken = {each.store: each.removed for each in receipt.stores if each.store.startswith("own_")}
        assert taken == ({"own_words": 1, "own_aside": 1} if given else {})
        assert holding(home) == []
    assert holding(home) == []
    with opened_to_remove(home, projections=[Words()]) as e:
        assert [parse_path(path).thread_id for (path,) in e.projections["words"].rows("SELECT stream FROM words")] == [
            other
        ]


def test_an_erased_thread_is_out_of_files_of_every_shape(home: Path) -> None:
    shutil.rmtree(home)
    thread, _ = with_rows(home)

    class Reshaped(Words):
        shape = 2

    with opened_to_remove(home, projections=[Reshaped()]) as e:
        look(e)
        e.threads.erase(thread, grace_s=None)
    assert holding(home) == []


def test_an_erased_thread_is_out_of_a_file_that_was_made_with_another_schema(home: Path) -> None:
    shutil.rmtree(home)
    thread, _ = with_rows(home)

    class Changed(Words):
        schema = "CREATE TABLE words (stream TEXT NOT NULL PRIMARY KEY, words TEXT, more TEXT) STRICT"

    with opened_to_remove(home, projections=[Changed(), Aside()]) as e:
        e.threads.erase(thread, grace_s=None)
        assert holding(home) == []
        assert len(e.projections["words"].rows("SELECT * FROM words")) == 1


def test_a_side_database_that_is_garbage_keeps_nothing_from_being_erased(home: Path) -> None:
    shutil.rmtree(home)
    thread, _ = with_rows(home)
    (home / "engine" / "own_words_1.sqlite").write_bytes(b"garbage and " + CANARY.encode())
    with opened_to_remove(home, projections=[Words(), Aside()]) as e:
        e.threads.erase(thread, grace_s=None)
    assert holding(home) == []


def test_what_a_redacted_record_said_is_in_no_byte_of_a_side_database(home: Path) -> None:
    shutil.rmtree(home)
    with opened_to_remove(home, projections=[Words(), Aside()]) as e:
        thread = talk(e, CANARY)
        child = fork(e, thread, "and on")
        look(e)
        for record in list(e.threads.read(thread)):
            if CANARY in str(record.payload):
                e.threads.redact(thread, ordinal=record.ordinal)
        look(e)
        assert holding(home) == []
        assert len(e.projections["words"].rows("SELECT * FROM words")) == 2
        assert child in str(e.projections["words"].rows("SELECT stream FROM words"))


@pytest.mark.parametrize("damage", [None, b"garbage and " + CANARY.encode()], ids=["whole", "garbage"])
def test_a_redaction_reaches_files_of_projections_that_this_engine_was_not_given(
    home: Path, damage: bytes | None
) -> None:
    shutil.rmtree(home)
    with opened_to_remove(home, projections=[Words(), Aside()]) as e:
        thread = talk(e, CANARY)
        look(e)
    if damage is not None:
        (home / "engine" / "own_words_1.sqlite").write_bytes(damage)
    with opened_to_remove(home, projections=[] if damage is None else [Words()]) as e:
        for record in list(e.threads.read(thread)):
            if CANARY in str(record.payload):
                e.threads.redact(thread, ordinal=record.ordinal)
    assert [path for path in holding(home) if "quarantine" not in path or damage is None] == []


def test_an_erasure_that_somebody_else_did_meanwhile_leaves_no_byte_either(home: Path) -> None:
    """Another process folded the rollout just before it went: its next look writes the file anew."""
    shutil.rmtree(home)
    with opened_to_remove(home, projections=[Words()], options=EAGER) as e:
        thread = talk(e, CANARY)
        kept = rollout_of(home, thread)
        bytes_kept = kept.read_bytes()
        with opened_to_remove(home) as other:
            other.threads.erase(thread, grace_s=None)
        kept.write_bytes(bytes_kept)
        look(e)
        os.unlink(kept)
        look(e)
        assert [path for path in holding(home) if "own_" in path] == []


# Compared with the files


def change_rows(home: Path, file: str, *statements: str) -> None:
    connection = apsw.Connection(str(home / "engine" / file))
    for statement in statements:
        connection.execute(statement)
    connection.close()


SEEDS = {
    "a value": ("UPDATE counts SET heads = heads + 1 WHERE rowid = 1", {"wrong_rows"}),
    "a row too many": ("INSERT INTO heads SELECT stream, -1, kind, at, text FROM heads LIMIT 1", {"wrong_rows"}),
    "a row too few": ("DELETE FROM heads WHERE rowid = 5", {"wrong_rows"}),
    "rows of nobody": ("INSERT INTO counts (stream, heads) VALUES ('sessions/nobody.jsonl', 1)", {"wrong_rows"}),
    "rows without a watermark": ("DELETE FROM watermarks WHERE rowid = 3", {"wrong_rows"}),
    "a state": ("UPDATE watermarks SET state = x'80' WHERE rowid = 2", {"lying_watermark"}),
    "a number": ("UPDATE watermarks SET ordinal = 99 WHERE rowid = 2", {"lying_watermark"}),
    "a place in the bytes": ('UPDATE watermarks SET "offset" = "offset" - 1 WHERE rowid = 2', {"lying_watermark"}),
    "a digest": ("UPDATE watermarks SET tail = x'00' WHERE rowid = 2", {"lying_watermark"}),
    "a set-aside record": (
        "INSERT INTO set_aside SELECT stream, projection, 5, 1, NULL, 'nothing', x'00' FROM watermarks LIMIT 1",
        {"wrong_set_aside"},
    ),
    "set aside of nobody": (
        "INSERT INTO set_aside VALUES ('sessions/nobody.jsonl', 'heads', 5, 1, NULL, 'nothing', x'00')",
        {"wrong_rows"},
    ),
}


@pytest.mark.parametrize("by", ["repair", "rebuild"])
@pytest.mark.parametrize("options", [EAGER, SMALL], ids=["whole", "in pieces"])
@pytest.mark.parametrize(("seed", "classes"), SEEDS.values(), ids=SEEDS.keys())
def test_an_audit_names_rows_that_are_not_what_the_files_say_and_a_repair_or_a_rebuild_mends_them(
    home: Path, seed: str, classes: set[str], options: Options, by: str
) -> None:
    with opened(home, options=options) as e:
        e.backfill()
        clean = of_both(home)
    change_rows(home, HEADS_FILE, seed)
    with opened(home, options=options) as e:
        found = e.audit().findings
        assert {each.class_ for each in found} == classes
        assert {each.mend for each in found} == {"Engine.repair()"}
        getattr(e, by)()
        assert e.audit().findings == []
    assert of_both(home) == clean


def test_an_audit_tells_no_lag_and_no_newer_version_as_a_difference(home: Path) -> None:
    with opened(home) as e:
        e.backfill()
    append_to_all(home)
    change_rows(home, FILE, "UPDATE watermarks SET version = 9", "UPDATE tokens SET tokens = 1")
    with opened(home, options=Options(scan_interval_ms=3_600_000)) as e:
        assert {found.class_ for found in e.audit().findings}.isdisjoint({"wrong_rows", "lying_watermark"})


def test_a_folder_that_cannot_be_read_for_a_moment_takes_no_row_away(home: Path) -> None:
    """Its streams are not gone: nothing is known about them."""
    folder = str(home / "archived_sessions")
    blind: list[int] = []
    faulty = FaultyFiles(Files(), lambda _, call: 5 if blind and str(call.path).startswith(folder) else None)
    with opened(home, files=faulty) as e:
        look(e)
        before = of_both(home)
        blind.append(1)
        with e.projections[NAME].read() as snapshot:
            assert snapshot.partial is not None
            assert snapshot.partial.unread > 0
            assert len(list(snapshot.rows(ALL))) == len(before[FILE]["tokens"])
    assert of_both(home) == before
