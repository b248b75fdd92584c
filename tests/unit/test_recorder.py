"""The writer of one rollout: ordinals, keys, positions, durability, threads, forks, and truth that goes away."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.errors import (
    AppendFailed,
    EngineClosed,
    EngineError,
    ForkedEngine,
    InvalidRequest,
    KeyConflict,
    LineTooLong,
    RolloutUnusable,
    StalePosition,
    TruthGone,
)
from engine.events.item import item_of
from engine.options import Options
from engine.stores import recorder as recorder_module
from engine.stores.files import Files
from engine.stores.recorder import Appended, Counters, Position, Recorder
from engine.testing.files import SHORT, Call, FaultyFiles, RecordingFiles
from tests.recording import NAME, item, items, lines, numbers, recorder, start

T = '"timestamp":"2026-01-05T09:00:00.000Z"'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "sessions" / NAME
    found.parent.mkdir()
    return found


def record(ordinal: int | None, type_: str = "event_msg", payload: str = '{"type":"note","number":0}') -> str:
    number = "" if ordinal is None else f'"ordinal":{ordinal},'
    return f'{{{T},{number}"type":"{type_}","payload":{payload}}}\n'


def home_of(path: Path, *written: str) -> Path:
    path.write_text("".join((record(0, "session_meta"), *written)))
    return path


def ordinals(path: Path) -> list[int | None]:
    return [json.loads(line).get("ordinal") for line in lines(path)]


# --- the file and its lines


def test_nothing_is_on_disk_before_the_first_append(path: Path) -> None:
    opened = recorder(path, start=start())
    assert (opened.end, opened.position) == (0, Position(None, 0))
    opened.close()
    assert list(path.parent.iterdir()) == []


def test_the_first_batch_brings_the_meta_and_the_lines_are_as_the_format_has_them(path: Path) -> None:
    opened = recorder(path, start=start())
    answer = opened.append([item_of({"type": "x", "payload": {"a": "ü\u2028"}, "metadata": {"m": 1}})])
    expected = (
        f'{{{T},"ordinal":0,"type":"session_meta","payload":{{"id":"01a20458-0000-7000-8000-000000000001"}}}}\n'
        f'{{{T},"ordinal":1,"type":"x","payload":{{"a":"ü\u2028"}},"metadata":{{"m":1}}}}\n'
    ).encode()
    assert path.read_bytes() == expected
    assert answer == Appended(Position(1, len(expected)), "durable", 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    opened.close()


def test_begin_makes_the_file_with_its_meta_alone_and_once(path: Path) -> None:
    opened = recorder(path, start=start())
    opened.begin()
    opened.begin()
    assert numbers(path) == []
    opened.append(items(1))
    opened.close()
    assert numbers(path) == [1]


def test_a_batch_is_one_write(path: Path) -> None:
    files = RecordingFiles(Files())
    opened = recorder(path, start=start(), files=files)
    opened.append(items(1))
    files.forget()
    opened.append(items(2, 3, 4))
    assert [call.name for call in files.calls] == ["stat", "write", "sync"]
    opened.close()


def test_an_empty_batch_writes_nothing(path: Path) -> None:
    opened = recorder(path, start=start())
    assert opened.append([]) == Appended(Position(None, 0), "durable", 0)
    assert not path.exists()
    opened.close()


def test_a_left_over_file_of_a_broken_creation_goes_when_the_thread_is_opened(path: Path) -> None:
    """It is a second name of the rollout, so erasing the thread would leave its words behind."""
    home_of(path)
    left_over = path.parent / f".{NAME}.tmp"
    os.link(path, left_over)
    recorder(path).close()
    assert list(path.parent.iterdir()) == [path]


# --- ordinals


LAST_AND_NEXT = {
    "an unknown kind": (record(1, "from_the_future"), 2),
    "a known kind with a bad field": (
        record(1, payload='{"type":"token_count","info":{"total_token_usage":{"total_tokens":1.5}},"rate_limits":7}'),
        2,
    ),
    "a gap": (record(7), 8),
    "a repetition": (record(1) + record(2) + record(1), 2),
    "a smaller one": (record(9) + record(3), 4),
    "a record without one": (record(4) + record(None), 5),
    "a damaged line": (record(4) + "garbage\n", 5),
    "many damaged lines": (record(4) + "garbage\n" * 3_000, 5),
    "a torn record": (record(4) + record(5)[:60], 5),
    "a record without its LF": (record(4) + record(5)[:-1], 6),
    "NULs": (record(4) + "\0" * 1_728, 5),
    "a payload that is no object": (record(4) + record(5, payload='"text"'), 5),
    "an ordinal out of range": (record(4) + record(1 << 63), 5),
    "an ordinal that is no number": (record(4) + record(5).replace(":5,", ':"5",'), 5),
}


@pytest.mark.parametrize(("written", "following"), LAST_AND_NEXT.values(), ids=LAST_AND_NEXT)
def test_the_next_ordinal_is_that_of_the_last_readable_record_and_one(path: Path, written: str, following: int) -> None:
    """It comes from the bytes that are there, whatever the last record is."""
    opened = recorder(home_of(path, written))
    opened.append(items(1, 2))
    opened.close()
    assert [json.loads(line)["ordinal"] for line in lines(path)[-2:]] == [following, following + 1]


def test_a_byte_order_mark_does_not_hide_the_only_ordinal(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + record(40, "session_meta").encode())
    opened = recorder(path)
    assert opened.append(items(1)).position.ordinal == 41
    opened.close()


def test_a_legacy_stream_is_never_numbered(path: Path) -> None:
    path.write_text(record(None, "session_meta") + record(None))
    opened = recorder(path)
    assert opened.append(items(1)).position == Position(None, path.stat().st_size)
    opened.close()
    assert ordinals(path) == [None, None, None]


def test_a_new_legacy_stream_has_no_ordinals(path: Path) -> None:
    opened = recorder(path, start=start(None))
    opened.append(items(1))
    opened.append(items(2))
    opened.close()
    assert ordinals(path) == [None, None, None]


def test_a_fork_begins_where_its_base_ends(path: Path) -> None:
    opened = recorder(path, start=start(57))
    assert opened.position == Position(None, 0)
    assert opened.append(items(1)).position.ordinal == 58
    opened.close()
    assert ordinals(path) == [57, 58]


def test_ordinals_that_are_used_up_are_refused_and_nothing_is_written(path: Path) -> None:
    home_of(path, record((1 << 63) - 3))
    before = path.read_bytes()
    opened = recorder(path)
    with pytest.raises(RolloutUnusable, match="no ordinals left"):
        opened.append(items(1, 2, 3))
    assert path.read_bytes() == before
    assert opened.append(items(1, 2)).position.ordinal == (1 << 63) - 1
    with pytest.raises(RolloutUnusable, match="no ordinals left"):
        opened.append(items(3))
    opened.close()


def test_ten_thousand_records_in_batches_over_many_openings_have_no_gap(path: Path) -> None:
    opened = recorder(path, start=start(), durability="buffered")
    written = 0
    for size in range(1, 140):
        opened.append(items(*range(written, written + size)))
        written += size
        if size % 20 == 0:
            opened.close()
            opened = recorder(path, durability="buffered")
    opened.close()
    assert numbers(path) == list(range(139 * 140 // 2))


# --- keys and positions


def test_the_same_batch_under_the_same_key_is_written_once(path: Path) -> None:
    opened = recorder(path, start=start())
    first = opened.append(items(1, 2), key="step-7")
    again = opened.append(items(1, 2), key="step-7")
    assert (first.records, again.records, again.position) == (2, 0, first.position)
    assert [json.loads(line).get("key") for line in lines(path)] == [None, "step-7#0/2", "step-7#1/2"]
    opened.close()
    opened = recorder(path)
    assert opened.append(items(1, 2), key="step-7").records == 0
    opened.close()
    assert numbers(path) == [1, 2]


OTHERS = {
    "another payload": items(1, 3),
    "fewer": items(1),
    "more": items(1, 2, 3),
    "another type": [item(1), replace(item(2), body=item(2).body.replace(b"event_msg", b"response_item"))],
    "other metadata": [item(1), replace(item(2), body=item(2).body + b',"metadata":{}')],
}


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_other_content_under_the_same_key_is_a_conflict(path: Path, other: list[Any], reopened: bool) -> None:
    opened = recorder(path, start=start())
    opened.append(items(1, 2), key="k")
    if reopened:
        opened.close()
        opened = recorder(path)
    with pytest.raises(KeyConflict):
        opened.append(other, key="k")
    assert opened.append(items(1, 2), key="k").records == 0
    opened.close()
    assert numbers(path) == [1, 2]


@pytest.mark.parametrize("there", [0, 1, 2, 3])
def test_half_a_batch_is_completed(path: Path, there: int) -> None:
    """The process died when part of the batch was in the file; the retry adds what is missing, in order."""
    opened = recorder(path, start=start())
    opened.append(items(0))
    opened.append(items(1, 2, 3), key="k")
    opened.close()
    kept = b"".join(line + b"\n" for line in lines(path)[: 2 + there])
    path.write_bytes(kept + b'{"timestamp":"2026')
    opened = recorder(path)
    opened.append(items(9))
    assert opened.append(items(1, 2, 3), key="k").records == 3 - there
    assert opened.append(items(1, 2, 3), key="k").records == 0
    opened.close()
    assert numbers(path) == [0, *range(1, 1 + there), 9, *range(1 + there, 4)]


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize(("between", "written"), [(999, 0), (1_000, 1)])
def test_a_key_is_looked_up_in_the_last_thousand_records(
    path: Path, between: int, written: int, reopened: bool
) -> None:
    """The same bound in a running recorder as in one that was just opened."""
    opened = recorder(path, start=start(), durability="buffered")
    opened.append(items(1), key="k")
    for _ in range(3):
        opened.append(items(*range(between // 3)))
    opened.append(items(*range(between % 3)), key="l" if between % 3 else None)
    if reopened:
        opened.close()
        opened = recorder(path)
    assert opened.append(items(1), key="k").records == written
    opened.close()


def test_the_newest_keys_are_the_last_to_be_forgotten(path: Path) -> None:
    """Keys found at opening are forgotten oldest first, as those of this run are."""
    opened = recorder(path, start=start(), durability="buffered")
    for number in range(1_000):
        opened.append(items(number), key=f"k{number}")
    opened.close()
    opened = recorder(path)
    opened.append(items(1_000), key="k1000")
    assert opened.append(items(999), key="k999").records == 0
    assert opened.append(items(1), key="k1").records == 0
    assert opened.append(items(0), key="k0").records == 1
    opened.close()


def test_a_key_that_was_completed_late_keeps_no_older_one_alive(path: Path) -> None:
    """The first half of `a`, then `b`, then the rest of `a`: a thousand records after it `b` is forgotten, `a` is not."""
    opened = recorder(path, start=start(), durability="buffered")
    opened.append(items(1, 2), key="a")
    opened.close()
    path.write_bytes(b"".join(line + b"\n" for line in lines(path)[:2]))
    opened = recorder(path, durability="buffered")
    opened.append(items(3), key="b")
    assert opened.append(items(1, 2), key="a").records == 1
    opened.append(items(*range(999)))
    assert opened.append(items(1, 2), key="a").records == 0
    assert opened.append(items(3), key="b").records == 1
    opened.close()


def test_a_batch_of_more_than_a_thousand_is_known_by_its_end(path: Path) -> None:
    opened = recorder(path, start=start(), durability="buffered")
    batch = items(*range(1_500))
    opened.append(batch, key="k")
    opened.close()
    opened = recorder(path)
    assert opened.append(batch, key="k").records == 0
    opened.close()
    assert numbers(path) == list(range(1_500))


def test_of_a_batch_of_more_than_a_thousand_the_last_thousand_count_whether_it_was_reopened_or_not(path: Path) -> None:
    opened = recorder(path, start=start(), durability="buffered")
    opened.append(items(*range(1_500)), key="k")
    for _ in range(2):
        assert opened.append(items(9, *range(1, 1_500)), key="k").records == 0
        with pytest.raises(KeyConflict):
            opened.append(items(*range(1_499), 9), key="k")
        opened.close()
        opened = recorder(path)
    opened.close()


@pytest.mark.parametrize("key", ["", "a#b", "half \ud800", "line\nbreak"])
def test_what_cannot_be_a_key_is_refused(path: Path, key: str) -> None:
    opened = recorder(path, start=start())
    with pytest.raises(InvalidRequest):
        opened.append(items(1), key=key)
    assert not path.exists()
    opened.close()


STRANGE_KEYS = ["7", "null", '"k"', '"k#"', '"k#x/1"', '"k#1/1"', '"k#9/2"', '"#0/1"', '"k#\u00b2/3"']


@pytest.mark.parametrize("key", STRANGE_KEYS)
def test_keys_of_other_programs_are_no_keys_of_ours(path: Path, key: str) -> None:
    foreign = record(1).removesuffix("}\n") + f',"key":{key}}}\n'
    opened = recorder(home_of(path, foreign))
    assert opened.append(items(0), key="k").records == 1
    opened.close()


def test_metadata_is_part_of_what_a_key_stands_for(path: Path) -> None:
    batch = [item_of({"type": "response_item", "payload": {"number": 1}, "metadata": {"client_authored": True}})]
    opened = recorder(path, start=start())
    opened.append(batch, key="k")
    opened.close()
    opened = recorder(path)
    assert opened.append(batch, key="k").records == 0
    with pytest.raises(KeyConflict):
        opened.append([item_of({"type": "response_item", "payload": {"number": 1}})], key="k")
    opened.close()


def test_places_that_contradict_each_other_are_a_conflict(path: Path) -> None:
    """Not of our making; the newest counts."""
    opened = recorder(path, start=start())
    opened.append(items(1, 2), key="k")
    opened.close()
    with open(path, "a") as file:
        file.write(record(3).removesuffix("}\n") + ',"key":"k#5/9"}\n')
    opened = recorder(path)
    with pytest.raises(KeyConflict):
        opened.append(items(1, 2), key="k")
    opened.close()


def test_a_position_that_is_not_the_present_one_is_refused(path: Path) -> None:
    opened = recorder(path, start=start())
    first = opened.append(items(1), expected=Position(None, 0)).position
    second = opened.append(items(2), expected=first).position
    for stale in (first, Position(None, second.offset), Position(2, 0), Position(None, 0)):
        with pytest.raises(StalePosition):
            opened.append(items(3), expected=stale)
    assert opened.position == second
    opened.close()
    assert numbers(path) == [1, 2]


def test_the_same_call_with_a_key_and_a_position_can_be_made_again_after_a_lost_answer(path: Path) -> None:
    """The answer was lost, so the caller knows of no other position: the batch that is there is no stale one."""
    opened = recorder(path, start=start())
    before = opened.append(items(1)).position
    call = {"key": "step-7", "expected": before}
    after = opened.append(items(2, 3), **call).position
    assert opened.append(items(2, 3), **call) == (after, "durable", 0)
    opened.close()
    opened = recorder(path)
    opened.append(items(4))
    assert opened.append(items(2, 3), **call).records == 0
    with pytest.raises(KeyConflict):
        opened.append(items(2, 5), **call)
    with pytest.raises(StalePosition):
        opened.append(items(5), key="step-8", expected=before)
    opened.close()
    assert numbers(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("meanwhile", [False, True])
def test_half_a_batch_at_a_position_is_completed_only_where_nothing_came_behind_it(path: Path, meanwhile: bool) -> None:
    opened = recorder(path, start=start())
    before = opened.append(items(0)).position
    opened.append(items(1, 2, 3), key="k", expected=before)
    opened.close()
    path.write_bytes(b"".join(line + b"\n" for line in lines(path)[:4]))
    opened = recorder(path)
    if meanwhile:
        opened.append(items(9))
        with pytest.raises(StalePosition):
            opened.append(items(1, 2, 3), key="k", expected=before)
    else:
        assert opened.append(items(1, 2, 3), key="k", expected=before).records == 1
    opened.close()
    assert numbers(path) == ([0, 1, 2, 9] if meanwhile else [0, 1, 2, 3])


def test_a_line_over_the_limit_leaves_the_batch_unwritten(path: Path) -> None:
    opened = recorder(path, start=start(), options=Options(line_bytes_max=300))
    with pytest.raises(LineTooLong):
        opened.append([item(1), item(2, size=300)])
    assert not path.exists()
    opened.append(items(1))
    with pytest.raises(LineTooLong):
        opened.append([item(2), item(3, size=300)])
    assert opened.append(items(4)).position.ordinal == 2
    opened.close()
    assert numbers(path) == [1, 4]


# --- durability


def test_the_answer_tells_what_is_safe(path: Path) -> None:
    opened = recorder(path, start=start(), durability="turn")
    assert opened.append(items(1)).durability == "buffered"
    assert opened.append(items(2), durability="durable").durability == "durable"
    assert opened.append(items(3), durability="buffered").durability == "buffered"
    assert opened.sync() == opened.position
    assert opened.append([]).durability == "durable"
    opened.close()


@pytest.mark.parametrize("own", ["buffered", "turn", "durable"])
def test_the_first_sync_covers_the_names_up_to_the_home(path: Path, own: Any) -> None:
    """A rollout whose bytes are synced and whose name is not is lost with its folder."""
    deep = path.parent / "2026" / "01" / "05" / NAME
    files = RecordingFiles(Files())
    opened = recorder(deep, start=start(), durability=own, files=files)
    opened.append(items(1), durability="durable")
    assert files.paths("sync_folder") == [str(deep.parents[above]) for above in range(5)]
    files.forget()
    opened.append(items(2), durability="durable")
    assert files.paths("sync_folder") == []
    opened.close()


def test_closing_syncs_what_was_buffered(path: Path) -> None:
    files = RecordingFiles(Files())
    opened = recorder(path, start=start(), durability="buffered", files=files)
    opened.append(items(1))
    opened.append(items(2))
    files.forget()
    opened.close()
    opened.close()
    assert [call.name for call in files.calls] == ["sync", *["sync_folder"] * 5, "close"]


def test_what_waits_for_a_sync_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "UNSYNCED_BYTES_MAX", 1_000)
    files = RecordingFiles(Files())
    opened = recorder(path, start=start(), durability="buffered", files=files)
    opened.append(items(0))
    files.forget()
    for number in range(1, 31):
        opened.append([item(number, size=400)])
        assert len(opened._unsynced) < 2_000
    assert files.count("sync") >= 9
    opened.close()
    assert numbers(path) == list(range(31))


# --- closed, forked, gone


def test_a_closed_recorder_takes_nothing(path: Path) -> None:
    opened = recorder(path, start=start())
    opened.append(items(1))
    opened.close()
    for call in (lambda: opened.append(items(2)), opened.sync, opened.begin):
        with pytest.raises(EngineClosed):
            call()
    assert numbers(path) == [1]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_refused_and_the_parent_goes_on(path: Path) -> None:
    """Also where another thread was inside of the recorder when the process forked."""
    opened = recorder(path, start=start())
    opened.append(items(1))
    with opened._mutex:
        pid = os.fork()
    if pid == 0:
        refused = 0
        for call in (lambda: opened.append(items(2)), opened.sync, lambda: opened.position):
            try:
                call()
            except ForkedEngine:
                refused += 1
        opened.close()
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    opened.append(items(3))
    opened.close()
    assert numbers(path) == [1, 3]


def replaced(path: Path) -> None:
    shutil.copy(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)


def grown(path: Path) -> None:
    with open(path, "a") as file:
        file.write(record(2))


def linked(path: Path) -> None:
    os.rename(path, f"{path}.elsewhere")
    os.symlink(f"{path}.elsewhere", path)


GONE = {
    "removed": os.unlink,
    "moved": lambda path: os.rename(path, f"{path}.elsewhere"),
    "a link": linked,
    "replaced": replaced,
    "grown": grown,
    "shrunk": lambda path: os.truncate(path, 100),
    "emptied": lambda path: os.truncate(path, 0),
    "its folder": lambda path: os.rename(path.parent, f"{path.parent}.elsewhere"),
}


@pytest.mark.parametrize("durability", ["buffered", "durable"])
@pytest.mark.parametrize("change", GONE.values(), ids=GONE)
def test_a_truth_that_somebody_took_away_is_told_at_the_next_append(path: Path, change: Any, durability: Any) -> None:
    """At once, and until the thread is opened anew; nothing is written anywhere, and closing is quiet."""
    opened = recorder(path, start=start(), durability=durability)
    opened.append(items(1))
    change(path)
    before = {found: found.read_bytes() for found in path.parents[1].rglob("*") if found.is_file()}
    for call in (lambda: opened.append(items(2)), lambda: opened.append(items(2)), opened.sync):
        with pytest.raises(TruthGone) as told:
            call()
        assert told.value.path == str(path)
    opened.close()
    assert {found: found.read_bytes() for found in path.parents[1].rglob("*") if found.is_file()} == before


def test_a_rollout_that_was_removed_stays_gone_when_it_comes_back(path: Path) -> None:
    opened = recorder(path, start=start())
    opened.append(items(1))
    os.rename(path, f"{path}.away")
    with pytest.raises(TruthGone):
        opened.append(items(2))
    os.rename(f"{path}.away", path)
    with pytest.raises(TruthGone):
        opened.append(items(2))
    opened.close()
    opened = recorder(path)
    opened.append(items(2))
    opened.close()
    assert numbers(path) == [1, 2]


# --- after failures: stories of one call each; tests/faults fails every call


def failing(kind: str, op: str, code: int = errno.EIO) -> FaultyFiles:
    """Fails the calls of a name and op while its `armed` is set."""
    files = FaultyFiles(Files(), lambda _, call: code if files.armed and (call.name, call.op) == (kind, op) else None)
    files.armed = False
    return files


def test_what_somebody_else_wrote_after_a_failed_write_is_not_cut_off(path: Path) -> None:
    files = failing("write", "recorder.write")
    opened = recorder(path, start=start(), files=files)
    opened.append(items(1))
    files.armed = True
    with pytest.raises(AppendFailed):
        opened.append(items(2))
    files.armed = False
    with open(path, "a") as file:
        file.write(record(2) * 3)
    before = path.read_bytes()
    with pytest.raises(TruthGone):
        opened.append(items(2))
    opened.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize(("kind", "op"), [("write", "recorder.write"), ("sync", "recorder.sync")])
def test_what_somebody_else_wrote_while_ours_failed_is_not_cut_off(path: Path, kind: str, op: str) -> None:
    def strike(_: int, call: Call) -> int | None:
        if not armed or (call.name, call.op) != (kind, op):
            return None
        with open(path, "a") as file:
            file.write(record(2) * 3)
        return errno.EIO

    armed: list[bool] = []
    opened = recorder(path, start=start(), files=FaultyFiles(Files(), strike))
    opened.append(items(1))
    armed.append(True)
    with pytest.raises(AppendFailed):
        opened.append(items(2))
    armed.clear()
    assert path.read_text().endswith(record(2) * 3)
    with pytest.raises(TruthGone):
        opened.append(items(2))
    opened.close()
    assert path.read_text().endswith(record(2) * 3)


def test_a_first_batch_that_failed_to_sync_leaves_no_file(path: Path) -> None:
    """The file appears whole with the next append, its session_meta first."""
    files = failing("sync_folder", "recorder.sync_folder")
    opened = recorder(path, start=start(), files=files)
    files.armed = True
    with pytest.raises(AppendFailed):
        opened.append(items(1))
    files.armed = False
    opened.append(items(2))
    opened.close()
    assert numbers(path) == [2]


def test_half_a_write_is_cut_off_at_once(path: Path) -> None:
    """Not only by the next append, which may never come; and a full disk has its room back."""
    faults: dict[int, int] = {}
    files = FaultyFiles(Files(), lambda at, _: faults.get(at))
    opened = recorder(path, start=start())
    opened.append(items(1))
    opened.close()
    opened = recorder(path, files=files)
    before = path.read_bytes()
    files.forget()
    faults.update({1: SHORT, 2: errno.ENOSPC})
    with pytest.raises(AppendFailed, match="No space left"):
        opened.append(items(2))
    faults.clear()
    assert [call.op for call in files.struck] == ["recorder.write"] * 2
    assert path.read_bytes() == before
    opened.close()


def test_what_failed_to_sync_is_cut_off_at_once(path: Path) -> None:
    """Or a fork of the thread might go on from it, and read something else once the next append took its place."""
    files = failing("sync", "recorder.sync")
    opened = recorder(path, start=start(), files=files)
    opened.append(items(1))
    before = path.read_bytes()
    opened.append(items(2), durability="buffered")
    files.armed = True
    with pytest.raises(AppendFailed):
        opened.append(items(3))
    assert numbers(path) == [1, 2]
    assert path.read_bytes().startswith(before)
    files.armed = False
    opened.append(items(4))
    opened.close()
    assert numbers(path) == [1, 2, 4]


def test_a_first_batch_that_failed_stays_where_somebody_else_wrote_behind_it(path: Path) -> None:
    files = failing("sync_folder", "recorder.sync_folder")
    opened = recorder(path, start=start(), files=files)
    files.armed = True
    with pytest.raises(AppendFailed):
        opened.append(items(1))
    files.armed = False
    with open(path, "a") as file:
        file.write(record(2))
    before = path.read_bytes()
    with pytest.raises(TruthGone):
        opened.append(items(2))
    opened.close()
    assert path.read_bytes() == before


def test_a_first_batch_that_failed_is_gone_after_close(path: Path) -> None:
    files = failing("sync_folder", "recorder.sync_folder")
    opened = recorder(path, start=start(), files=files)
    files.armed = True
    with pytest.raises(AppendFailed):
        opened.append(items(1))
    opened.close()
    assert list(path.parent.iterdir()) == []


def test_closing_after_a_failed_sync_writes_again_what_was_acknowledged(path: Path) -> None:
    """The kernel drops what it could not write, so a second sync that succeeds proves nothing."""
    files = failing("sync", "recorder.sync")
    opened = recorder(path, start=start(), durability="buffered", files=files)
    opened.append(items(1))
    first = path.stat().st_size
    opened.sync()
    opened.append(items(2))
    files.armed = True
    with pytest.raises(AppendFailed):
        opened.sync()
    files.armed = False
    files.forget()
    opened.close()
    assert files.count("pwrite", op="recorder.rewrite") == 1
    assert path.stat().st_size > first
    assert numbers(path) == [1, 2]


def test_closing_says_when_what_was_acknowledged_is_not_safe(path: Path) -> None:
    files = failing("sync", "recorder.sync")
    opened = recorder(path, start=start(), durability="buffered", files=files)
    opened.append(items(1))
    opened.append(items(2))
    files.armed = True
    with pytest.raises(AppendFailed, match="Input/output"):
        opened.close()


def test_a_recorder_whose_close_failed_stays_closed(path: Path) -> None:
    """The disk is well again, and the next append must not open the file behind the one who has it now."""
    files = failing("sync", "recorder.sync")
    opened = recorder(path, start=start(), durability="buffered", files=files)
    opened.append(items(1))
    files.armed = True
    with pytest.raises(AppendFailed):
        opened.close()
    files.armed = False
    files.forget()
    with pytest.raises(EngineClosed):
        opened.append(items(2))
    assert files.calls == []


def test_a_path_that_cannot_be_looked_at_is_a_typed_error_and_no_harm(path: Path) -> None:
    files = failing("stat", "recorder.look")
    opened = recorder(path, start=start(), files=files)
    opened.append(items(1))
    files.armed = True
    with pytest.raises(AppendFailed):
        opened.append(items(2))
    files.armed = False
    opened.append(items(3))
    opened.close()
    assert numbers(path) == [1, 3]


def test_an_interrupt_in_the_middle_of_a_write_costs_only_that_append(path: Path) -> None:
    """Ctrl-C when the bytes are in the file and not yet counted: they are not taken for somebody else's."""

    class Interrupting(Files):
        def write(self, fd: int, data: bytes, *, op: str) -> int:
            written = super().write(fd, data, op=op)
            if b'"number":2' in data:
                raise KeyboardInterrupt
            return written

    opened = recorder(path, start=start(), files=Interrupting())
    opened.append(items(1))
    with pytest.raises(KeyboardInterrupt):
        opened.append(items(2))
    opened.append(items(3))
    opened.close()
    assert numbers(path) == [1, 3]


# --- threads


class Gate(Files):
    """Holds back the syncs while it is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Semaphore(0)
        self.error: int | None = None
        self.write_error: int | None = None
        self.rewritten: list[tuple[bytes, int]] = []

    def pwrite(self, fd: int, data: bytes, offset: int, *, op: str) -> int:
        self.rewritten.append((data, offset))
        return super().pwrite(fd, data, offset, op=op)

    def write(self, fd: int, data: bytes, *, op: str) -> int:
        if self.write_error is not None:
            code, self.write_error = self.write_error, None
            raise OSError(code, os.strerror(code))
        return super().write(fd, data, op=op)

    def sync(self, fd: int, *, op: str) -> None:
        if not self.open.is_set():
            self.waiting.release()
            assert self.open.wait(30)
        if self.error is not None:
            code, self.error = self.error, None
            raise OSError(code, os.strerror(code))
        super().sync(fd, op=op)


def in_thread(call: Any) -> tuple[threading.Thread, list[Any]]:
    """Run a call beside; its answer, or the error of ours that it raised."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(call())
        except EngineError as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answers


def until(condition: Any) -> None:
    """Wait for what another thread does."""
    deadline = threading.Event()
    for _ in range(3_000):
        if condition():
            return
        deadline.wait(0.01)
    raise AssertionError("it did not come")


@pytest.fixture
def gated(path: Path) -> Iterator[tuple[Recorder, Gate, Counters]]:
    gate, counters = Gate(), Counters()
    opened = recorder(path, start=start(), files=gate, counters=counters)
    opened.append(items(0))
    yield opened, gate, counters
    gate.open.set()
    opened.close()


def test_appends_that_wait_for_a_sync_share_the_next_one(path: Path, gated: tuple[Recorder, Gate, Counters]) -> None:
    """Eight appends: the first has a sync of its own, the seven that came during it have one together."""
    opened, gate, counters = gated
    before = counters.syncs
    gate.open.clear()
    threads = [in_thread(lambda: opened.append(items(1)))]
    assert gate.waiting.acquire(timeout=30)
    threads += [in_thread(lambda number=number: opened.append(items(number))) for number in range(2, 9)]
    until(lambda: opened.position.ordinal == 9)
    gate.open.set()
    for thread, answers in threads:
        thread.join()
        assert answers[0].durability == "durable"
    assert counters.syncs - before == 2
    assert counters.syncs_shared == 6
    assert sorted(numbers(path)) == list(range(9))


def test_whoever_waits_for_a_sync_that_fails_is_told_even_when_the_file_is_opened_again_before(
    path: Path, gated: tuple[Recorder, Gate, Counters]
) -> None:
    """One append syncs and fails, one waits behind it, a third opens again and writes in their place.

    The second must not take the third's sync for its own: its record was cut off.
    """
    opened, gate, _ = gated
    gate.open.clear()
    first = in_thread(lambda: opened.append(items(1)))
    assert gate.waiting.acquire(timeout=30)
    with opened._mutex:  # as if the second had been written, and were about to wait
        opened._write(items(2), 0, None)
        target, cuts = opened.end, len(opened._cuts)
    gate.error = errno.EIO
    gate.open.set()
    first[0].join()
    assert isinstance(first[1][0], AppendFailed)
    opened.append([item(3, size=500)])
    assert opened.position.offset > target
    with pytest.raises(AppendFailed):
        opened._sync_to(target, cuts)
    assert numbers(path) == [0, 3]


def test_a_record_whose_sync_was_shared_outlives_the_failure_of_the_next_write(
    path: Path, gated: tuple[Recorder, Gate, Counters]
) -> None:
    """A sync covers a record whose thread has not heard of it yet; then a write fails and the file is opened again."""
    opened, _, _ = gated
    with opened._mutex:
        opened._write(items(1), 0, None)
        target, cuts = opened.end, len(opened._cuts)
    opened.append(items(2))
    opened._poison = ("written", OSError(errno.EIO, "made up"))
    opened.append(items(3))
    opened._sync_to(target, cuts)
    assert numbers(path) == [0, 1, 2, 3]


def test_closing_waits_for_a_sync_that_is_under_way(path: Path, gated: tuple[Recorder, Gate, Counters]) -> None:
    """The descriptor would be closed under it, and its number may be another file's by then."""
    opened, gate, _ = gated
    gate.open.clear()
    append = in_thread(lambda: opened.append(items(1)))
    assert gate.waiting.acquire(timeout=30)
    closing = in_thread(opened.close)
    until(lambda: opened._closed)
    assert opened._fd is not None
    gate.open.set()
    append[0].join()
    closing[0].join()
    assert append[1][0].durability == "durable"
    assert opened._fd is None
    assert numbers(path) == [0, 1]


def test_what_was_written_during_a_sync_is_not_taken_for_synced(
    path: Path, gated: tuple[Recorder, Gate, Counters]
) -> None:
    """When the next sync fails it is written again, in its place."""
    opened, gate, _ = gated
    gate.open.clear()
    syncing = in_thread(lambda: opened.append(items(1)))
    assert gate.waiting.acquire(timeout=30)
    begin = opened.position.offset
    assert opened.append(items(2), durability="buffered").durability == "buffered"
    gate.open.set()
    syncing[0].join()
    gate.error = errno.EIO
    with pytest.raises(AppendFailed):
        opened.sync()
    opened.append(items(3))
    assert gate.rewritten == [(path.read_bytes()[begin:].splitlines(keepends=True)[0], begin)]
    assert numbers(path) == [0, 1, 2, 3]


def test_the_file_is_not_opened_again_under_a_sync(path: Path, gated: tuple[Recorder, Gate, Counters]) -> None:
    """A write fails while another append syncs; the third mends it, and has to wait: the number that is being synced
    would mean another file by then.
    """
    opened, gate, _ = gated
    gate.open.clear()
    syncing = in_thread(lambda: opened.append(items(1)))
    assert gate.waiting.acquire(timeout=30)
    gate.write_error = errno.ENOSPC
    with pytest.raises(AppendFailed):
        opened.append(items(2))
    mending = in_thread(lambda: opened.append(items(3)))
    assert not gate.waiting.acquire(timeout=0.5), "it was opened again, and synced, while a sync was under way"
    gate.open.set()
    syncing[0].join()
    mending[0].join()
    assert [type(answer[0]) for _, answer in (syncing, mending)] == [Appended, Appended]
    assert numbers(path) == [0, 1, 3]


def test_closing_a_thread_whose_rollout_is_gone_waits_for_a_sync_too(
    path: Path, gated: tuple[Recorder, Gate, Counters]
) -> None:
    opened, gate, _ = gated
    gate.open.clear()
    syncing = in_thread(lambda: opened.append(items(1)))
    assert gate.waiting.acquire(timeout=30)
    path.unlink()
    with pytest.raises(TruthGone):
        opened.append(items(2))
    closing = in_thread(opened.close)
    closing[0].join(timeout=0.5)
    assert closing[0].is_alive(), "the descriptor was closed while a sync was under way"
    gate.open.set()
    syncing[0].join()
    closing[0].join()


def test_eight_threads_lose_nothing_and_ordinals_have_no_gap(path: Path) -> None:
    counters = Counters()
    opened = recorder(path, start=start(), counters=counters)

    def work(worker: int) -> list[tuple[int, int | None]]:
        return [(worker * 1_000 + at, opened.append(items(worker * 1_000 + at)).position.ordinal) for at in range(60)]

    threads = [in_thread(lambda worker=worker: work(worker)) for worker in range(8)]
    for thread, _ in threads:
        thread.join()
    opened.close()
    found = numbers(path)
    assert len(found) == 480
    for _, answers in threads:
        for number, ordinal in answers[0]:
            assert ordinal is not None
            assert found[ordinal - 1] == number, "an answer names another record's place"
    for worker in range(8):
        own = [number for number in found if number // 1_000 == worker]
        assert own == list(range(worker * 1_000, worker * 1_000 + 60))
    assert counters.appends == 480
    assert counters.syncs + counters.syncs_shared >= 480


def test_recorders_of_different_threads_sync_side_by_side(tmp_path: Path) -> None:
    """One's sync is held back, and the other's append is answered."""
    (tmp_path / "sessions").mkdir()
    gate = Gate()
    slow = recorder(tmp_path / "sessions" / "a.jsonl", start=start(), files=gate)
    slow.append(items(0))
    gate.open.clear()
    waiting = in_thread(lambda: slow.append(items(1)))
    assert gate.waiting.acquire(timeout=30)
    other = recorder(tmp_path / "sessions" / "b.jsonl", start=start())
    assert other.append(items(1)).durability == "durable"
    assert waiting[1] == []
    gate.open.set()
    waiting[0].join()
    slow.close()
    other.close()


# --- a file system that is full


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a file system of 8 MB is mounted for this, which only root may do")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("durability", ["buffered", "durable"])
def test_a_full_disk_is_told_and_writing_goes_on_when_there_is_room(small: Path, durability: Any) -> None:
    """Fill, free, go on, three times: the file is what a list of the acknowledged appends says."""
    filler = small / "filler"
    opened = recorder(small / "sessions" / NAME, start=start(), durability=durability)
    model: list[int] = []
    number = refused = 0
    for _ in range(3):
        filler.write_bytes(bytes(1_500_000))
        for _ in range(1_000):
            batch = [number, number + 1, number + 2]
            number += 3
            try:
                opened.append([item(each, size=20_000) for each in batch])
            except AppendFailed:
                refused += 1
                break
            model += batch
        with pytest.raises(AppendFailed, match="No space left"):
            opened.append([item(number, size=100_000)])
        filler.unlink()
        opened.append(items(number))
        model.append(number)
        number += 1
    opened.close()
    assert refused == 3
    assert len(model) > 100
    assert numbers(small / "sessions" / NAME) == model
