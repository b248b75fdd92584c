"""The journal: ordinals go on, half a line is cut and kept aside, failures leave what was acknowledged."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from random import Random

import pytest

from engine.clock import SystemClock
from engine.errors import AppendFailed, LineTooLong, ReadOnlyHome, StoreBusy
from engine.events.item import item_of
from engine.options import Options
from engine.stores.files import Files
from engine.stores.journal import Journal
from engine.stores.rollouts import Located
from engine.testing.clock import ManualClock
from engine.testing.files import Call, FaultyFiles, RecordingFiles, fail_once
from engine.testing.vfs import CrashHome

THREAD = "019b8d63-3aa4-79ca-b017-baf18cb08e1b"


def journal(state: Path, *, files=None, clock=None, **options) -> Journal:
    return Journal(str(state), options=Options(**options), clock=clock or ManualClock(), files=files or Files())


def named(*names: str):
    return [
        item_of({"type": "home_event", "payload": {"type": "thread_named", "thread_id": THREAD, "name": name}})
        for name in names
    ]


def content(state: Path) -> list[tuple[int, str]]:
    """What the files say, by the standard library alone."""
    found = []
    for path in sorted((state / "journal").iterdir()):
        for line in path.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            found.append((record["ordinal"], record["payload"]["name"]))
    return found


def seen(of: Journal) -> list[tuple[int | None, str]]:
    found = []
    for segment in of.segments():
        for each in of.read(segment):
            assert isinstance(each, Located)
            found.append((each.record.ordinal, json.loads(bytes(each.record.payload))["name"]))
    return found


def test_the_first_record_makes_the_first_segment(tmp_path: Path) -> None:
    assert journal(tmp_path).append(named("a")) == [("2026-01-05T09:00:00.000Z", 0)]
    assert (tmp_path / "journal/000000000000.jsonl").read_bytes() == (
        b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":0,"type":"home_event","payload":'
        b'{"type":"thread_named","thread_id":"019b8d63-3aa4-79ca-b017-baf18cb08e1b","name":"a"}}\n'
    )


def test_ordinals_go_on_over_writers_and_restarts(tmp_path: Path) -> None:
    first, second = journal(tmp_path), journal(tmp_path)
    first.append(named("a", "b"))
    second.append(named("c"))
    first.append(named("d"))
    assert journal(tmp_path).append(named("e")) == [("2026-01-05T09:00:00.000Z", 4)]
    assert content(tmp_path) == seen(first) == [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e")]


def test_no_records_are_no_append(tmp_path: Path) -> None:
    assert journal(tmp_path).append([]) == []
    assert not (tmp_path / "journal").exists()


def test_a_full_segment_is_followed_by_one_named_by_its_first_ordinal(tmp_path: Path) -> None:
    of = journal(tmp_path, segment_bytes_max=400)
    for name in "abcdefg":
        of.append(named(name))
    names = sorted(path.name for path in (tmp_path / "journal").iterdir())
    assert names == ["000000000000.jsonl", "000000000003.jsonl", "000000000006.jsonl"]
    assert seen(of) == [(index, name) for index, name in enumerate("abcdefg")]


def test_a_process_with_another_bound_goes_on_where_the_last_segment_ends(tmp_path: Path) -> None:
    large, small = journal(tmp_path), journal(tmp_path, segment_bytes_max=100)
    large.append(named("a"))
    small.append(named("b"))
    large.append(named("c"))
    assert content(tmp_path) == [(0, "a"), (1, "b"), (2, "c")]
    assert sorted(path.name for path in (tmp_path / "journal").iterdir()) == [
        "000000000000.jsonl",
        "000000000001.jsonl",
    ]


WHOLE = b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":1,"type":"home_event","payload":{"type":"x","name":"half"}}'


@pytest.mark.parametrize("tail", [b"{", WHOLE, WHOLE[:40], b"\0" * 5000, b"\xff\xfe", b"x" * 700_000])
def test_what_stands_behind_the_last_lf_is_not_read_and_is_cut_and_kept_aside(tmp_path: Path, tail: bytes) -> None:
    of = journal(tmp_path)
    of.append(named("a"))
    path = tmp_path / "journal/000000000000.jsonl"
    with path.open("ab") as file:
        file.write(tail)
    assert seen(of) == [(0, "a")]
    assert path.read_bytes().endswith(tail)  # reading cuts nothing
    of.append(named("b"))
    assert content(tmp_path) == [(0, "a"), (1, "b")]
    assert [kept.read_bytes() for kept in (tmp_path / "quarantine").iterdir()] == [tail]


def test_tails_cut_at_one_place_are_all_kept(tmp_path: Path) -> None:
    of = journal(tmp_path)
    of.append(named("a"))
    path = tmp_path / "journal/000000000000.jsonl"
    end = path.stat().st_size
    for tail in (b"first", b"second"):
        os.truncate(path, end)
        with path.open("ab") as file:
            file.write(tail)
        of.append(named("b"))
    assert sorted(kept.read_bytes() for kept in (tmp_path / "quarantine").iterdir()) == [b"first", b"second"]


def test_garbage_with_an_lf_stays_and_ordinals_go_on_from_the_last_record(tmp_path: Path) -> None:
    of = journal(tmp_path)
    of.append(named("a", "b"))
    path = tmp_path / "journal/000000000000.jsonl"
    with path.open("ab") as file:
        file.write(b"garbage\n\0\0\n")
    assert of.append(named("c"))[0][1] == 2
    assert b"garbage\n\0\0\n" in path.read_bytes()


def test_a_truncated_segment_goes_on_from_what_is_left(tmp_path: Path) -> None:
    of = journal(tmp_path)
    of.append(named("a", "b"))
    path = tmp_path / "journal/000000000000.jsonl"
    first_line = path.read_bytes().index(b"\n") + 1
    os.truncate(path, first_line)
    of.append(named("c"))
    assert content(tmp_path) == [(0, "a"), (1, "c")]


def test_an_emptied_segment_goes_on_from_its_name(tmp_path: Path) -> None:
    of = journal(tmp_path, segment_bytes_max=100)
    of.append(named("a"))
    of.append(named("b"))
    os.truncate(tmp_path / "journal/000000000001.jsonl", 0)
    of.append(named("c"))
    assert content(tmp_path) == [(0, "a"), (1, "c")]


def test_a_segment_of_nothing_but_garbage_is_neither_cut_nor_taken_for_new(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    garbage = b"garbage\n" * 50
    path = tmp_path / "journal/000000000000.jsonl"
    path.write_bytes(garbage)
    full = FaultyFiles(Files(), lambda _, call: errno.ENOSPC if call.op == "journal.write" else None)
    with pytest.raises(AppendFailed):
        journal(tmp_path, segment_bytes_max=100, files=full).append(named("a"))
    assert path.read_bytes() == garbage
    of = journal(tmp_path, segment_bytes_max=100)
    of.append(named("a"))
    of.append(named("b"))
    assert path.read_bytes().startswith(garbage + b'{"timestamp"')
    assert [each[0] for each in content_of(path.read_bytes()[len(garbage) :])] == [0]
    assert (tmp_path / "journal/000000000001.jsonl").exists()


def content_of(data: bytes) -> list[tuple[int, str]]:
    return [(json.loads(line)["ordinal"], json.loads(line)["payload"]["name"]) for line in data.split(b"\n")[:-1]]


def test_other_names_in_the_folder_are_not_segments(tmp_path: Path) -> None:
    of = journal(tmp_path)
    of.append(named("a"))
    folder = tmp_path / "journal"
    for name in ("notes.txt", "1.jsonl", "000000000009.jsonl.bak", "99999999999x.jsonl", "٠٠٠٠٠٠٠٠٠٠٠٩.jsonl"):
        (folder / name).write_text("x", "utf-8")
    (folder / "000000000007.jsonl").mkdir()
    (folder / "000000000008.jsonl").symlink_to("notes.txt")
    assert [segment.first for segment in of.segments()] == [0]
    assert of.append(named("b"))[0][1] == 1


def test_without_a_state_folder_nothing_can_be_decided_and_nothing_is_there() -> None:
    of = Journal(None, options=Options(), clock=ManualClock(), files=Files())
    assert of.segments() == []
    with pytest.raises(ReadOnlyHome) as raised:
        of.append(named("a"))
    assert "--state-dir" in raised.value.hint


def test_a_record_over_the_limit_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    of = journal(tmp_path, line_bytes_max=300)
    of.append(named("a"))
    with pytest.raises(LineTooLong):
        of.append(named("b", "x" * 400))
    of.append(named("c"))
    assert content(tmp_path) == [(0, "a"), (1, "c")]


def test_nothing_is_read_where_nobody_wrote_meanwhile(tmp_path: Path) -> None:
    files = RecordingFiles(Files())
    of = journal(tmp_path, files=files)
    of.append(named("a"))
    files.forget()
    of.append(named("b"))
    assert (files.count("pread"), files.count("read"), files.count("truncate")) == (0, 0, 0)
    assert (files.count("write"), files.count("sync"), files.count("sync_folder")) == (1, 1, 0)
    assert len(files.calls) <= 16
    journal(tmp_path).append(named("c"))
    files.forget()
    of.append(named("d"))
    assert files.count("pread") >= 1  # the last line, for its ordinal
    assert content(tmp_path) == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]


def test_looking_for_the_last_ordinal_reads_one_block_of_a_large_segment(tmp_path: Path) -> None:
    journal(tmp_path).append(named(*["x" * 1000] * 3000))
    files = RecordingFiles(Files())
    assert journal(tmp_path, files=files).append(named("b"))[0][1] == 3000
    assert files.count("pread") == 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_whatever_call_fails_nothing_acknowledged_is_lost_and_writing_goes_on(tmp_path: Path, error: int) -> None:
    surfaced: set[str] = set()
    number = 0
    while True:
        state = tmp_path / str(number)
        journal(state, segment_bytes_max=100).append(named("a"))  # the next append begins a segment
        with (state / "journal/000000000000.jsonl").open("ab") as file:
            file.write(b"torn")
        files = FaultyFiles(Files(), fail_once(number, error))
        of = journal(state, files=files, segment_bytes_max=100)
        try:
            of.append(named("b"))
            told = [(0, "a"), (1, "b")]
        except AppendFailed:
            surfaced.update(call.op for call in files.struck)
            told = [(0, "a")]
        struck = list(files.struck)
        if not struck:
            break
        of.append(named("c"))
        assert [name for _, name in content(state) if name != "b"] == ["a", "c"], struck
        assert [ordinal for ordinal, _ in content(state)] == list(range(len(content(state)))), struck
        assert content(state)[: len(told)] == told, struck
        number += 1
    assert {"journal.lock", "journal.trim", "journal.quarantine", "journal.create", "journal.write"} <= surfaced
    assert {"journal.sync", "journal.sync_folder"} <= surfaced


def test_a_write_that_the_disk_took_half_of_is_undone(tmp_path: Path) -> None:
    class Full(Files):
        def __init__(self):
            self.full = False

        def write(self, fd, data, *, op):
            if not self.full:
                return super().write(fd, data, op=op)
            if len(data) > 30:
                return super().write(fd, data[:30], op=op)
            raise OSError(errno.ENOSPC, "No space left on device")

    files = Full()
    of = journal(tmp_path, files=files)
    of.append(named("a"))
    files.full = True
    before = (tmp_path / "journal/000000000000.jsonl").read_bytes()
    with pytest.raises(AppendFailed, match="No space left"):
        of.append(named("b"))
    assert (tmp_path / "journal/000000000000.jsonl").read_bytes() == before
    files.full = False
    of.append(named("c"))
    assert content(tmp_path) == [(0, "a"), (1, "c")]


def test_a_lock_that_somebody_keeps_is_told_within_the_bound(tmp_path: Path) -> None:
    clock = ManualClock()
    of = journal(tmp_path, clock=clock, busy_wait_ms=50)
    of.append(named("a"))
    fd = os.open(tmp_path / "locks/journal.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    started_ms = clock.boot_ms()
    with pytest.raises(StoreBusy):
        of.append(named("b"))
    assert 50 <= clock.boot_ms() - started_ms < 100
    os.close(fd)
    of.append(named("c"))
    assert content(tmp_path) == [(0, "a"), (1, "c")]


def test_an_append_returns_when_its_bytes_and_its_names_are_synced(tmp_path: Path) -> None:
    files = RecordingFiles(Files())
    state = tmp_path / "engine"
    journal(state, files=files).append(named("a"))
    names = [call.name for call in files.calls]
    assert names.index("write") < names.index("sync") < names.index("sync_folder")
    assert files.paths("sync_folder") == [f"{state}/journal", str(state), str(tmp_path)]


def test_the_name_of_a_segment_whose_maker_was_killed_is_synced_by_the_next(tmp_path: Path) -> None:
    """The first process is killed before each of its calls, the next decides something; then the power goes."""
    at, ended, count = 0, False, 0
    while not ended:
        state = tmp_path / str(at) / "engine"
        state.mkdir(parents=True)
        files = CrashHome(Files(), str(state.parent))
        ended = killed_before(at, state, files)
        journal(state, files=files).append(named("b"))
        for image in files.images(Random(at)):
            if image.step == len(files.journal):  # the acknowledgement was the last thing that happened
                assert any(b'"name":"b"' in (data or b"") for data in image.names.values()), (at, image.how)
                count += 1
        at += 1
    assert at > 8
    assert count >= at


class Killed(BaseException):
    """The process ends before this call."""


def killed_before(at: int, state: Path, files: CrashHome) -> bool:
    """Append, to be killed before the journal's call of this number; whether there was none of that number."""
    calls = iter(range(1_000))

    def fault(_: int, call: Call) -> None:
        if call.op.startswith("journal.") and call.name != "close" and next(calls) == at:
            raise Killed

    try:
        journal(state, files=FaultyFiles(files, fault)).append(named("a"))
    except Killed:
        return False
    return True


def test_the_timestamp_is_the_clocks(tmp_path: Path) -> None:
    timestamp, _ = journal(tmp_path, clock=SystemClock()).append(named("a"))[0]
    line = (tmp_path / "journal/000000000000.jsonl").read_text("utf-8")
    assert json.loads(line)["timestamp"] == timestamp
