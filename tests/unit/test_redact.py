"""Redaction: what one record said is gone; its place, its kind, its length and all that lies around it stay."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError, InvalidRequest, NotRedactable, RolloutUnusable, ThreadBusy, ThreadNotFound
from engine.events.record import decode, kind_of
from engine.events.redaction import emptied, redacted
from engine.options import Options
from engine.stores.compression import compress
from engine.stores.files import Files
from engine.stores.layout import Home, locate
from engine.stores.writer_lock import acquire
from engine.testing import ManualClock
from engine.testing.files import Call, FaultyFiles
from tests.removing import CANARY, fork, holding, opened, rollout_of, tagged, talk

HEAD = b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":7,"type":'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def saying(path: Path, word: str = CANARY) -> list[int]:
    """Which lines hold the word; in a paginated thread that is their ordinal."""
    return [number for number, line in enumerate(lines(path)) if word.encode() in line]


def redact_all(e, thread: str, path: Path) -> None:
    for ordinal in saying(path):
        e.threads.redact(thread, ordinal=ordinal)


def test_a_redacted_record_keeps_its_bytes_number_its_ordinal_and_its_kind(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one", "two")
        path = rollout_of(home, thread)
        before = lines(path)
        ordinal = saying(path)[0]
        (done,) = e.threads.redact(thread, ordinal=ordinal)
    after = lines(path)
    assert [len(line) for line in after] == [len(line) for line in before]
    assert [number for number, line in enumerate(after) if line != before[number]] == [ordinal]
    was, now = json.loads(before[ordinal]), json.loads(after[ordinal])
    assert (now["timestamp"], now["ordinal"], now["type"]) == (was["timestamp"], ordinal, was["type"])
    assert now["payload"]["type"] == was["payload"]["type"]
    assert now["payload"]["redacted"] is True
    assert set(now["payload"]["filler"]) == {"x"}
    assert CANARY not in after[ordinal].decode()
    assert (done.offset, done.length) == (sum(len(line) + 1 for line in before[:ordinal]), len(before[ordinal]))


def test_what_a_record_said_is_gone_from_the_rows_and_from_every_byte(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one", "two")
        assert e.threads.get(thread).title == f"{CANARY} one"
        redact_all(e, thread, rollout_of(home, thread))
        row = e.threads.get(thread)
        assert (row.title, row.first_user_message) == ("two", "two")
        assert holding(home) == []
        assert e.audit(deep=True).findings == []
        assert e.threads.fetch(thread).history_rewritten is False
    assert holding(home) == []


def test_a_redaction_is_no_divergence(home: Path) -> None:
    """The file is not what was followed, and that was our own doing."""
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one")
        e.threads.list()
        redact_all(e, thread, rollout_of(home, thread))
        e.backfill()
        with e._database.read() as transaction:
            assert list(transaction.rows("SELECT class, detail FROM divergences")) == []


def test_a_redaction_that_another_process_met_half_way_is_no_divergence(home: Path) -> None:
    """It sees bytes that are not those it followed, and notes that; nobody but us rewrote them."""
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one")
        e.threads.list()
    met = []

    def meeting(_: int, call: Call) -> None:
        if call.op == "fill.close" and not met:
            with opened(home) as elsewhere:
                elsewhere.backfill()
                with elsewhere._database.read() as transaction:
                    met.extend(transaction.rows("SELECT class FROM divergences"))

    with opened(home, files=FaultyFiles(Files(), meeting)) as e:
        e.threads.redact(thread, ordinal=saying(rollout_of(home, thread))[0])
        assert met == [("rewritten",)]
        with e._database.read() as transaction:
            assert list(transaction.rows("SELECT class FROM divergences")) == []


def test_it_is_announced_and_noted_in_the_journal_without_what_was_said(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one")
        e.threads.redact(thread, ordinal=saying(rollout_of(home, thread))[0])
    assert tagged(home) == [("redaction_begun", thread), ("redaction_done", thread)]


def test_a_fork_reads_on_behind_the_redacted_record(home: Path) -> None:
    """The base's byte offset still is a line's end, and the child is told nothing of what was redacted."""
    with opened(home) as e:
        parent = talk(e, f"{CANARY} one", "two")
        child = fork(e, parent, "three")
        before = [each.ordinal for each in e.threads.read(child)]
        redact_all(e, parent, rollout_of(home, parent))
        after = list(e.threads.read(child))
    assert [each.ordinal for each in after] == before
    assert CANARY not in str(after)
    assert "three" in str(after)


def test_a_record_of_the_base_is_redacted_in_the_thread_it_belongs_to(home: Path) -> None:
    with opened(home) as e:
        parent = talk(e, f"{CANARY} one")
        child = fork(e, parent, "two")
        ordinal = saying(rollout_of(home, parent))[0]
        with pytest.raises(InvalidRequest) as caught:
            e.threads.redact(child, ordinal=ordinal)
        assert parent in caught.value.hint
        assert saying(rollout_of(home, parent)) != []


def test_a_thread_goes_on_behind_a_redaction(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one")
        path = rollout_of(home, thread)
        redact_all(e, thread, path)
        count = len(lines(path))
        with e.threads.resume(thread) as again, again.turn() as turn:
            turn.user_message("three")
        assert json.loads(lines(path)[count])["ordinal"] == count
        assert e.audit().findings == []


def test_a_legacy_record_is_named_by_its_offset(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one", "two", history_mode="legacy")
        path = rollout_of(home, thread)
        for number in saying(path):
            e.threads.redact(thread, offset=sum(len(line) + 1 for line in lines(path)[:number]))
        assert saying(path) == []
        assert "ordinal" not in json.loads(lines(path)[2])
        assert e.threads.get(thread).title == "two"


def test_a_compressed_thread_is_brought_back_first(home: Path) -> None:
    """No second form keeps what was said."""
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one")
        path = rollout_of(home, thread)
        ordinals = saying(path)
        place = Home(str(home), f"{home}/engine")
        compress(place, locate(place, str(path.relative_to(home)), Files()), options=Options(), files=Files())
        for ordinal in ordinals:
            e.threads.redact(thread, ordinal=ordinal)
        assert rollout_of(home, thread) == path
        assert saying(path) == []


def test_a_copy_of_the_rollout_is_redacted_as_well(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one")
        path = rollout_of(home, thread)
        copy = home / "archived_sessions" / path.name
        copy.parent.mkdir()
        copy.write_bytes(path.read_bytes())
        done = [e.threads.redact(thread, ordinal=ordinal) for ordinal in saying(path)]
        assert [len(each) for each in done] == [2] * len(done)
    assert holding(home) == []


def test_the_identity_of_a_thread_cannot_be_redacted(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        before = rollout_of(home, thread).read_bytes()
        for where in ({"ordinal": 0}, {"offset": 0}):
            with pytest.raises(NotRedactable):
                e.threads.redact(thread, **where)
    assert rollout_of(home, thread).read_bytes() == before


def test_bytes_that_are_no_record_cannot_be_redacted(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        path = rollout_of(home, thread)
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(b"not a record\n")
        with pytest.raises(NotRedactable):
            e.threads.redact(thread, offset=size)
    assert path.read_bytes().endswith(b"\nnot a record\n")


@pytest.mark.parametrize(
    "where", [{}, {"ordinal": 1, "offset": 1}, {"ordinal": 4_000}, {"offset": 1}, {"offset": 10**9}]
)
def test_a_place_without_a_record_is_refused(home: Path, where: dict[str, int]) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        before = rollout_of(home, thread).read_bytes()
        with pytest.raises(InvalidRequest):
            e.threads.redact(thread, **where)
        with pytest.raises(ThreadNotFound):
            e.threads.redact("01a20458-0000-7000-8000-00000000dead", ordinal=1)
    assert rollout_of(home, thread).read_bytes() == before


def test_a_thread_in_use_is_not_redacted(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one")
        with e.threads.resume(thread), pytest.raises(ThreadBusy):
            e.threads.redact(thread, ordinal=saying(rollout_of(home, thread))[0])
        assert saying(rollout_of(home, thread)) != []


def test_a_half_written_filler_is_finished_by_the_next_start(home: Path) -> None:
    """A crash in the middle leaves a line that is no JSON; the announcement knows what is to stand there, also after a move."""
    with opened(home) as e:
        thread = talk(e, "one", "two " + "wide " * 50 + CANARY)
    path = rollout_of(home, thread)
    ordinal = saying(path)[0]
    broken = FaultyFiles(Files(), lambda _, call: errno.EIO if call.op == "fill.write" else None)
    with opened(home, files=broken) as e, pytest.raises(RolloutUnusable):
        e.threads.redact(thread, ordinal=ordinal)
    content = lines(path)
    content[ordinal] = b"x" * 90 + content[ordinal][90:]
    path.unlink()
    moved = home / "archived_sessions" / path.name
    moved.parent.mkdir()
    moved.write_bytes(b"\n".join(content) + b"\n")
    with opened(home) as e:
        e.backfill()
        assert e.audit(deep=True).findings == []
    assert json.loads(lines(moved)[ordinal])["payload"]["redacted"] is True
    assert tagged(home) == [("redaction_begun", thread), ("redaction_done", thread)]


def test_a_redaction_that_was_left_half_done_is_finished_before_the_next(home: Path) -> None:
    """The start could not finish it, since somebody held the thread; the second announcement must not take its place."""
    with opened(home) as e:
        thread = talk(e, "one", "two " + "wide " * 50 + CANARY)
    path = rollout_of(home, thread)
    first, *rest = saying(path)
    broken = FaultyFiles(Files(), lambda _, call: errno.EIO if call.op == "fill.write" else None)
    with opened(home, files=broken) as e, pytest.raises(RolloutUnusable):
        e.threads.redact(thread, ordinal=first)
    content = lines(path)
    path.write_bytes(b"\n".join([*content[:first], b"x" * 90 + content[first][90:], *content[first + 1 :]]) + b"\n")
    alone = acquire(
        Home(str(home), f"{home}/engine"), thread, "test", options=Options(), clock=ManualClock(), files=Files()
    )
    with opened(home) as e:
        alone.release()
        assert CANARY in path.read_text()
        for ordinal in rest:
            e.threads.redact(thread, ordinal=ordinal)
        assert e.audit(deep=True).findings == []
    assert holding(home) == []
    assert [json.loads(line)["ordinal"] for line in lines(path)] == list(range(len(content)))


@pytest.mark.parametrize("struck", range(7))
def test_of_two_copies_both_are_redacted_or_none_whatever_fails(home: Path, struck: int) -> None:
    with opened(home) as e:
        thread = talk(e, f"{CANARY} one")
        path = rollout_of(home, thread)
        copy = home / "archived_sessions" / path.name
        copy.parent.mkdir()
        copy.write_bytes(path.read_bytes())
    changes = iter(range(100))

    def fault(_: int, call: Call) -> int | None:
        return errno.EIO if call.op in ("journal.write", "fill.open", "fill.sync") and next(changes) == struck else None

    ordinal = saying(path)[0]
    with opened(home, files=FaultyFiles(Files(), fault)) as e:
        if struck < 6:
            with pytest.raises(EngineError):
                e.threads.redact(thread, ordinal=ordinal)
        else:
            assert len(e.threads.redact(thread, ordinal=ordinal)) == 2
    with opened(home):
        pass
    left = [ordinal in saying(each) for each in (path, copy)]
    assert left == ([True, True] if struck == 0 else [False, False])


@pytest.mark.parametrize(
    ("type_and_payload", "kind", "left"),
    [
        (
            b'"event_msg","payload":{"type":"user_message","message":"secret secret secret secret secret secret"}}',
            "event_msg.user_message",
            b'{"type":"user_message","redacted":true,"filler":"',
        ),
        (
            b'"event_msg","payload":{"type":"user_message","message":"secret"}}',
            "event_msg.user_message",
            b'{"type":"user_message","redacted":true}',
        ),
        (
            (
                b'"event_msg","payload":{"turn_id":"t1","thread_id":"h1","item":{"content":"secret secret secret secret",'
                b'"id":"i1","type":"UserMessage"},"type":"item_completed"}}'
            ),
            "event_msg.item_completed.UserMessage",
            b'{"type":"item_completed","thread_id":"h1","turn_id":"t1","item":{"type":"UserMessage","id":"i1"},"redacted"',
        ),
        (
            (
                b'"response_item","payload":{"type":"function_call","name":"secret","arguments":"secret secret secret",'
                b'"call_id":"c1"}}'
            ),
            "response_item.function_call",
            b'{"type":"function_call","call_id":"c1","redacted":true,"filler":"',
        ),
        (
            b'"event_msg","payload":{"type":"thread_settings_applied","thread_settings":{"model":"secret","cwd":"secret/x"}}}',
            "event_msg.thread_settings_applied",
            b'{"type":"thread_settings_applied","thread_settings":{},"redacted":true,"filler":"',
        ),
        (
            b'"compacted","payload":{"message":"secret secret secret secret secret"}}',
            "compacted",
            b'{"redacted":true,"filler":"',
        ),
        (b'"event_msg","payload":{"type":"a","b":"secret"}}', "event_msg.a", b'{"type":"a"}'),
        (b'"odd","payload":{}}', "odd", b"{}"),
    ],
)
def test_what_stays_of_a_line_is_its_kind_and_its_ids(type_and_payload: bytes, kind: str, left: bytes) -> None:
    line = HEAD + type_and_payload
    filled = redacted(line)
    assert filled is not None
    assert len(filled.line) == len(line)
    assert kind_of(decode(filled.line)) == kind
    assert filled.line.split(b'"payload":')[1].startswith(left)
    assert b"secret" not in filled.line


def test_the_key_of_an_append_stays(home: Path) -> None:
    """It is the application's own word for the batch, and needed to know the batch again."""
    line = (
        HEAD + b'"event_msg","payload":{"type":"note","text":"secret secret secret secret secret"},"key":"step-7#0/1"}'
    )
    filled = redacted(line)
    assert filled is not None
    assert json.loads(filled.line)["key"] == "step-7#0/1"
    assert b"secret" not in filled.line


@given(
    payload=st.dictionaries(
        st.sampled_from(["type", "turn_id", "item", "message", "thread_settings", "id"]),
        st.one_of(
            st.text(max_size=30), st.none(), st.dictionaries(st.sampled_from(["type", "id", "a"]), st.text(max_size=9))
        ),
        max_size=5,
    ),
    type_=st.sampled_from(["event_msg", "response_item", "compacted"]),
    ordinal=st.one_of(st.none(), st.integers(0, 2**63 - 1)),
    spaced=st.booleans(),
    more=st.dictionaries(
        st.sampled_from(["key", "metadata", "zzz"]), st.one_of(st.text(max_size=20), st.integers()), max_size=2
    ),
)
def test_every_record_has_room_for_what_stays_of_it(payload, type_, ordinal, spaced, more) -> None:
    record = {"timestamp": "2026-01-05T09:00:00.000Z", "type": type_, "payload": payload, **more}
    if ordinal is not None:
        record["ordinal"] = ordinal
    line = json.dumps(record, separators=None if spaced else (",", ":"), ensure_ascii=spaced).encode()
    filled = redacted(line)
    assert filled is not None
    assert len(filled.line) == len(line)
    now = json.loads(filled.line)
    assert (now["timestamp"], now["type"], now.get("ordinal")) == ("2026-01-05T09:00:00.000Z", type_, ordinal)
    assert kind_of(decode(filled.line)) == kind_of(decode(line))
    assert "message" not in now["payload"]


def test_an_emptied_line_tells_nothing_but_its_tag_time_and_ordinal() -> None:
    line = HEAD + b'"home_event","payload":{"type":"thread_named","thread_id":"secret","name":"secret secret"}}'
    filled = emptied(line, "erased")
    assert filled is not None
    assert json.loads(filled.line) == {
        "timestamp": "2026-01-05T09:00:00.000Z",
        "ordinal": 7,
        "type": "home_event",
        "payload": {"type": "erased", "redacted": True, "filler": "x" * 22},
    }
