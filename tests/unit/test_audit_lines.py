"""What an audit says: each class of finding seeded alone, in pairs and all at once gives itself and nothing else.

A seed breaks one thread of a home in one way, in its file before the engine first sees it, or after that in the file or in
the tables (with a plain connection to the database). The findings are compared whole: class and thread of each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from itertools import combinations

import pytest
import zstandard

import engine
from engine.audit.findings import CLASSES
from engine.audit.lines import NUMBER_TROUBLES_MAX, look
from engine.events.kinds import KNOWN
from engine.options import Options
from engine.testing import make_rollout
from tests.in_memory import Bytes
from tests.seeds import (
    AFTERWARDS,
    OTHER,
    SEEDS,
    Seeding,
    byte_order_mark,
    class_of,
    damaged_span,
    differing_field,
    lying_watermark,
    missing_ordinal,
    missing_row,
    ordinal_gap,
    orphan_row,
    seeded,
    seeded_open,
    set_aside,
    torn_tail,
    unreadable,
    untouched_home,
    wrong_archive_state,
    wrong_path,
)

GOOD = '{"timestamp":"2026-01-05T09:00:00.000Z","type":"world_state","payload":{}}'


HOME_THREADS = len(SEEDS) + 1


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A home of one thread a seed and one more, and the threads."""
    return untouched_home(tmp_path_factory.mktemp("untouched"), HOME_THREADS)


@pytest.fixture
def audited(untouched, tmp_path):
    """Seeds threads (a seed and which thread), audits, and tells the findings; the seeds' own are compared."""
    with contextlib.ExitStack() as afterwards:

        def audit(seeds, *, deep=False):
            home, expected = seeded(untouched, tmp_path / "home", seeds, afterwards)
            with engine.open(str(home)) as opened:
                expected += seeded_open(untouched, home, seeds, opened)
                report = opened.audit(deep=deep)
            assert Counter((each.class_, each.thread_id) for each in report.findings) == expected
            return report

        yield audit


OTHERS = {each for each in CLASSES if each.startswith("codex_")}
"""Found by another audit, with seeds of its own: test_foreign_audit.py."""


def test_every_class_has_its_seed():
    assert {class_of(seed) for seed in SEEDS} == CLASSES.keys() - OTHERS


@pytest.mark.parametrize("deep", [False, True])
def test_an_untouched_home_gives_no_finding(untouched, deep):
    home, threads = untouched
    with engine.open(str(home), state_dir=str(home) + "-state") as opened:
        opened.backfill()
        report = opened.audit(deep=deep)
    assert report.findings == []
    assert report.checked.threads == HOME_THREADS
    assert report.checked.records == sum(thread.records for thread in threads)
    assert report.checked.bytes == sum(thread.bytes for thread in threads)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.__name__)
def test_a_seed_alone_gives_its_finding_and_no_other(audited, seed, deep):
    (found,) = audited([(seed, 0)], deep=deep).findings
    severity, _ = CLASSES[class_of(seed)]
    assert (found.severity, bool(found.message)) == (severity, True)


def test_all_seeds_at_once_give_all_findings(audited):
    report = audited([(seed, number) for number, seed in enumerate(SEEDS)])
    assert len(report.findings) == len(SEEDS)
    places = [(each.path or "", each.thread_id or "") for each in report.findings]
    assert places == sorted(places)


BESIDE = [damaged_span, torn_tail, set_aside, ordinal_gap, missing_ordinal, byte_order_mark, unreadable]
ROWS = [missing_row, orphan_row, differing_field, wrong_path, wrong_archive_state, lying_watermark]


@pytest.mark.parametrize("row", ROWS, ids=lambda seed: seed.__name__)
@pytest.mark.parametrize("line", BESIDE, ids=lambda seed: seed.__name__)
def test_a_damaged_line_and_a_wrong_row_of_one_thread_are_both_told(audited, line, row):
    audited([(line, 0), (row, 0)])


@pytest.mark.parametrize(
    "pair", list(combinations([differing_field, wrong_path, wrong_archive_state, lying_watermark], 2))
)
def test_two_wrong_things_of_one_row_are_both_told(audited, pair):
    audited([(seed, 0) for seed in pair])


def test_a_differing_field_is_told_with_both_values_and_what_mends_it(audited):
    (found,) = audited([(differing_field, 0)]).findings
    assert found.field == "tokens_used"
    assert found.row_value == found.file_value + 1
    assert found.mend == "rolloutdb repair"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("title", "another"),
        ("model", None),
        ("cwd", "/elsewhere"),
        ("updated_at_ms", 5),
        ("git_sha", "0"),
        ("session_id", OTHER),
        ("sandbox_policy", "{}"),
    ],
)
def test_each_field_of_a_row_is_compared(audited, untouched, tmp_path, column, value):
    def differing_field(seeding):
        seeding.sql(f"UPDATE threads SET {column} = :value WHERE id = :id", value=value)

    AFTERWARDS.append(differing_field)
    try:
        (found,) = audited([(differing_field, 0)]).findings
    finally:
        AFTERWARDS.remove(differing_field)
    assert (found.field, found.row_value) == (column, value)


def test_a_row_that_names_another_threads_rollout_is_told(untouched, tmp_path):
    """An audit once took any file that is there for a rollout of the thread, and said nothing."""
    home, threads = untouched
    shutil.copytree(home, tmp_path / "home")
    with engine.open(str(tmp_path / "home")) as opened:
        opened.backfill()
    Seeding(tmp_path / "home", threads[0]).sql(
        "UPDATE threads SET rollout_path = :theirs, model = 'none' WHERE id = :id", theirs=threads[1].path
    )
    with engine.open(str(tmp_path / "home")) as opened:
        field, found = opened.audit().findings
    assert (field.class_, field.field, field.row_value) == ("differing_field", "model", "none")
    assert (found.class_, found.thread_id, found.field) == ("wrong_path", threads[0].id, "rollout_path")
    assert (found.file_value, found.row_value) == (threads[0].path, threads[1].path)


def test_a_row_folded_by_an_older_version_is_stale(untouched, tmp_path):
    home, threads = untouched
    shutil.copytree(home, tmp_path / "home")
    with engine.open(str(tmp_path / "home")) as opened:
        opened.backfill()
    Seeding(tmp_path / "home", threads[0]).sql("UPDATE watermarks SET version = 0 WHERE stream = :path")
    with engine.open(str(tmp_path / "home")) as opened:
        (found,) = opened.audit().findings
    assert (found.class_, found.thread_id, found.mend) == ("stale_watermark", threads[0].id, "rolloutdb backfill")


def test_an_audit_writes_nothing(untouched, tmp_path):
    home, threads = untouched
    shutil.copytree(home, tmp_path / "home")
    with engine.open(str(tmp_path / "home")) as opened:
        opened.backfill()
    differing_field(Seeding(tmp_path / "home", threads[0]))

    def everything():
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted((tmp_path / "home").rglob("*"))
            if path.is_file() and not path.name.endswith(("-shm", ".setup", ".use", "-wal"))
        }

    before = everything()
    with engine.open(str(tmp_path / "home")) as opened:
        opened.audit(deep=True)
    assert everything().keys() == before.keys()
    assert {path for path, (_, content) in everything().items() if content != before[path][1]} == set()


# Lines, one rollout at a time.


def numbered(number, type_="world_state", payload="{}"):
    return b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":%d,"type":"%b","payload":%b}\n' % (
        number,
        type_.encode(),
        payload.encode(),
    )


def looked(data, *, deep=False, block_bytes=256 * 1024):
    return look(Bytes(data), Options(block_bytes=block_bytes), deep=deep)


@pytest.mark.parametrize("block_bytes", [30, 100, 256 * 1024])
@pytest.mark.parametrize("deep", [False, True])
def test_records_and_damage_are_counted_for_any_cut(deep, block_bytes):
    data = b"".join(
        [numbered(0), b"garbage\n", b"\n", numbered(1).replace(b"\n", b"\r\n"), b"\xff\n", numbered(2), b"{"]
    )
    lines = looked(data, deep=deep, block_bytes=block_bytes)
    assert (lines.records, lines.bytes, lines.numbers) == (3, len(data), [])
    assert [(each.look, each.terminated) for each in lines.damage] == [
        ("garbage", True),
        ("not UTF-8", True),
        ("garbage", False),
    ]
    assert [data[each.offset : each.offset + each.length] for each in lines.damage] == [b"garbage", b"\xff", b"{"]


def test_a_number_is_compared_with_the_one_before_it():
    data = b"".join(numbered(number) for number in (5, 6, 6, 7, 9, 8, 20)) + GOOD.encode() + b"\n" + numbered(21)
    assert [(each.class_, each.before, each.ordinal) for each in looked(data).numbers] == [
        ("duplicate_ordinal", 6, 6),
        ("ordinal_gap", 7, 9),
        ("duplicate_ordinal", 9, 8),
        ("ordinal_gap", 8, 20),
        ("missing_ordinal", 20, None),
    ]


def test_numbers_begin_with_the_first_record_that_has_one():
    """A legacy rollout has none, so nothing is missing there."""
    plain = GOOD.encode() + b"\n"
    assert looked(plain * 3).numbers == []
    assert looked(plain + numbered(7) + numbered(8)).numbers == []
    assert [each.class_ for each in looked(plain + numbered(7) + numbered(7)).numbers] == ["duplicate_ordinal"]


def test_of_much_trouble_with_numbers_the_rest_is_counted():
    lines = looked(numbered(3) * 500)
    assert (len(lines.numbers), lines.number_troubles, NUMBER_TROUBLES_MAX) == (100, 499, 100)


def test_a_line_that_looks_whole_is_found_out_by_a_deep_look():
    """By sight a line is told by its head and its last byte; only a decode sees what is between."""
    broken = b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"world_state","payload":{"a":}}\n'
    data = numbered(0) + broken
    assert (looked(data).records, looked(data).damage) == (2, [])
    deep = looked(data, deep=True)
    assert (deep.records, [each.look for each in deep.damage]) == (1, ["torn"])


@pytest.mark.parametrize("added", [b"\0", b"\xff", b"\xe6\x87"])
def test_a_byte_that_cannot_be_in_a_record_is_seen_without_a_deep_look(added):
    data = numbered(0) + numbered(1, payload='{"a":"b"}').replace(b"b", added) + numbered(2)
    assert (looked(data).records, [each.offset for each in looked(data).damage]) == (2, [len(numbered(0))])


def test_a_damaged_record_that_a_fold_asked_for_is_told_once(tmp_path):
    """It was once told as damage and, as the fold had set it aside, a second time."""
    thread = make_rollout(tmp_path, size=6_000, mode="legacy", seed=2)
    lines = (tmp_path / thread.path).read_bytes().splitlines(keepends=True)
    (at, context) = next((at, line) for at, line in enumerate(lines) if b'"type":"turn_context"' in line)
    (tmp_path / thread.path).write_bytes(b"".join([*lines[:at], context[:-20] + b"\n", *lines[at:]]))
    for deep in (False, True):
        with engine.open(str(tmp_path)) as opened:
            opened.backfill()
            found = opened.audit(deep=deep).findings
        assert [(each.class_, each.offset) for each in found] == [("damaged_span", len(b"".join(lines[:at])))]


def test_a_lost_first_line_is_told_though_a_later_one_says_who_the_thread_is(tmp_path):
    thread = make_rollout(tmp_path, size=6_000, mode="legacy", seed=2)
    meta, *lines = (tmp_path / thread.path).read_bytes().splitlines(keepends=True)
    (tmp_path / thread.path).write_bytes(b"".join([*lines[:3], meta, *lines[3:]]))
    with engine.open(str(tmp_path)) as opened:
        opened.backfill()
        (found,) = opened.audit().findings
    assert (found.class_, found.thread_id) == ("missing_meta", thread.id)
    assert "a later one says who" in found.message


def test_a_deep_look_counts_kinds_and_names_those_that_nobody_knows():
    data = b"".join([
        numbered(0, "session_meta", '{"id":5}'),
        numbered(1, "from_the_future"),
        numbered(2, "event_msg", '{"type":"token_count"}'),
        numbered(3, "event_msg", '{"type":"token_count_2"}'),
        numbered(4, "from_the_future"),
    ])  # fmt: skip
    lines = looked(data, deep=True)
    assert lines.unknown_kinds == {"event_msg.token_count_2": 1, "from_the_future": 2}
    assert lines.kinds["event_msg.token_count"] == 1
    assert [(each.offset, each.look) for each in lines.bad_payloads] == [(0, "session_meta")]
    assert "event_msg.token_count" in KNOWN


def test_the_first_records_type_is_told_whatever_stands_before_it():
    assert looked(b"garbage\n\n" + numbered(0, "session_meta", '{"id":"a"}') + numbered(1)).first_type == "session_meta"
    assert looked(numbered(0) + numbered(1, "session_meta", '{"id":"a"}')).first_type == "world_state"
    assert looked(b"garbage\n").first_type is None


def test_a_file_that_cannot_be_read_to_its_end_is_told_once(tmp_path):
    thread = make_rollout(tmp_path, size=30_000, seed=1)
    plain = (tmp_path / thread.path).read_bytes()
    whole = zstandard.ZstdCompressor().compress(plain)
    (tmp_path / f"{thread.path}.zst").write_bytes(whole[: len(whole) // 2])
    os.unlink(tmp_path / thread.path)
    with engine.open(str(tmp_path)) as opened:
        opened.backfill()
        report = opened.audit()
    assert [each.class_ for each in report.findings if "compressed data is cut" in each.message] == ["damaged_span"]
