"""The decision table, row by row, and golden tails: what is decided, and which bytes are there afterwards."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from engine.errors import RolloutUnusable
from engine.options import Options
from engine.stores.files import Files
from engine.stores.recovery import Decision, Facts, Tail, decide, examine
from engine.stores.rollouts import open_source
from tests.recording import NAME, items, recorder

TABLE = {
    (False, Tail.NONE, False): Decision.REFUSE_FOREIGN,
    (False, Tail.COMPLETE, False): Decision.REFUSE_FOREIGN,
    (False, Tail.TORN, False): Decision.REFUSE_FOREIGN,
    (False, Tail.NUL, False): Decision.REFUSE_FOREIGN,
    (False, Tail.GARBAGE, False): Decision.REFUSE_FOREIGN,
    (True, Tail.NONE, False): Decision.REFUSE_FOREIGN,
    (True, Tail.COMPLETE, False): Decision.REFUSE_FOREIGN,
    (True, Tail.TORN, False): Decision.REFUSE_FOREIGN,
    (True, Tail.NUL, False): Decision.REFUSE_FOREIGN,
    (True, Tail.GARBAGE, False): Decision.REFUSE_FOREIGN,
    (False, Tail.NONE, True): Decision.REFUSE_UNKNOWN,
    (False, Tail.COMPLETE, True): Decision.REFUSE_UNKNOWN,
    (False, Tail.TORN, True): Decision.REFUSE_UNKNOWN,
    (False, Tail.NUL, True): Decision.REFUSE_UNKNOWN,
    (False, Tail.GARBAGE, True): Decision.REFUSE_UNKNOWN,
    (True, Tail.NONE, True): Decision.KEEP,
    (True, Tail.COMPLETE, True): Decision.CLOSE,
    (True, Tail.TORN, True): Decision.TRIM,
    (True, Tail.NUL, True): Decision.TRIM,
    (True, Tail.GARBAGE, True): Decision.TRIM,
}

META = b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":0,"type":"session_meta","payload":{"id":"t"}}\n'
WORD = b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":1,"type":"event_msg","payload":{"type":"x","number":1}}\n'
LAST = '{"timestamp":"2026-01-05T09:00:01.000Z","ordinal":2,"type":"event_msg","payload":{"number":2,"s":"a\u2028é"}}'.encode()
GOOD = META + WORD
LONG = b'{"timestamp":"2026-01-05T09:00:01.000Z","ordinal":2,"type":"x","payload":{"s":"%b"}}' % (b"y" * 12_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "sessions" / NAME
    found.parent.mkdir()
    return found


def decided(path: Path, options: Options | None = None) -> tuple[Decision, int]:
    source = open_source(str(path), compressed=False, files=Files(), options=options or Options())
    try:
        seen = examine(source, owned=True, options=options or Options())
    finally:
        source.close()
    return decide(seen.facts), seen.tail_start


def quarantined(path: Path) -> list[bytes]:
    folder = path.parents[1] / "quarantine"
    return [found.read_bytes() for found in sorted(folder.iterdir())] if folder.exists() else []


def test_every_combination_of_facts_has_its_one_decision() -> None:
    """The table of the test names all combinations there are, so a new fact or value fails here until it is decided."""
    found = {
        (meta, tail, owned): decide(Facts(meta=meta, tail=tail, owned=owned))
        for meta, tail, owned in itertools.product((False, True), Tail, (False, True))
    }
    assert found == TABLE


NOTHING_CUT = {
    "clean": GOOD,
    "meta only": META,
    "an empty line at the end": GOOD + b"\n",
    "CR LF": GOOD.replace(b"\n", b"\r\n"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "raw U+2028": GOOD + LAST + b"\n",
    "12 MB": GOOD + LONG + b"\n",
    "garbage with an LF": GOOD + b"not json\n",
    "a torn record with an LF": GOOD + LAST[:40] + b"\n",
    "NULs with an LF": GOOD + bytes(100) + b"\n",
    "half a character with an LF": GOOD + b"\xe6\x87\n",
    "a literal newline in a string": GOOD + LAST[:70] + b"\n" + LAST[70:] + b"\n",
    "garbage before the meta": b"hello\n" + GOOD,
}


@pytest.mark.parametrize("content", NOTHING_CUT.values(), ids=NOTHING_CUT)
def test_a_file_that_ends_with_an_lf_is_left_as_it_is(path: Path, content: bytes) -> None:
    """Whatever stands before the last LF: opening changes no byte and no time, and the next line is a line of its own."""
    path.write_bytes(content)
    os.utime(path, ns=(1_000, 2_000))
    assert decided(path) == (Decision.KEEP, len(content))
    opened = recorder(path)
    assert path.stat().st_mtime_ns == 2_000
    assert path.read_bytes() == content
    opened.append(items(3))
    opened.close()
    assert path.read_bytes()[: len(content)] == content
    assert path.read_bytes()[len(content) :].startswith(b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":')
    assert quarantined(path) == []


CLOSED = {
    "a record": LAST,
    "a record and a CR": LAST + b"\r",
    "12 MB": LONG,
    "JSON that is no record": b'{"hello":"world"}',
    "records without an LF between": LAST + LAST,
    "half a surrogate pair": LAST.replace("\u2028".encode(), b"\\ud800"),
}


@pytest.mark.parametrize("tail", CLOSED.values(), ids=CLOSED)
def test_a_complete_last_line_gets_its_lf(path: Path, tail: bytes) -> None:
    """A line with an end was not cut by a crash, so nothing of it is cut here, even where it is no record."""
    path.write_bytes(GOOD + tail)
    assert decided(path) == (Decision.CLOSE, len(GOOD))
    recorder(path).close()
    assert path.read_bytes() == GOOD + tail + b"\n"
    assert quarantined(path) == []


@pytest.mark.parametrize("meta", [META, b"\xef\xbb\xbf" + META], ids=["plain", "with a byte order mark"])
def test_a_meta_without_its_lf_is_closed(path: Path, meta: bytes) -> None:
    path.write_bytes(meta[:-1])
    assert decided(path) == (Decision.CLOSE, 0)
    recorder(path).close()
    assert path.read_bytes() == meta


def trimmed(path: Path, tail: bytes, number: int) -> None:
    path.write_bytes(GOOD + tail)
    assert decided(path) == (Decision.TRIM, len(GOOD)), tail[:100]
    opened = recorder(path)
    assert path.read_bytes() == GOOD
    assert quarantined(path)[-1] == tail
    opened.append(items(2))
    opened.close()
    added = path.read_bytes()[len(GOOD) :]
    assert added.startswith(b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":2,"type":"event_msg"'), number
    for kept in (path.parents[1] / "quarantine").iterdir():
        kept.unlink()


def test_a_record_torn_at_any_byte_is_trimmed_and_kept_aside(path: Path) -> None:
    for length in range(1, len(LAST)):
        trimmed(path, LAST[:length], length)


def test_nuls_are_trimmed(path: Path) -> None:
    """1 to 1728, the length that a power cut left on users' disks."""
    for length in [*range(1, 40), 512, 1727, 1728]:
        trimmed(path, bytes(length), length)


TRIMMED = {
    "half a character": b"\xe6\x87",
    "garbage": b"not json",
    "white space": b"  \t\r",
    "a record and NULs": LAST + bytes(7),
    "NULs and a record": bytes(7) + LAST,
    "a record torn in a character": LAST[: LAST.index(b"\xc3") + 1],
    "not UTF-8 inside": LAST.replace(b"\xc3\xa9", b"\xc3"),
    "12 MB torn": LONG[:-2],
}


@pytest.mark.parametrize("tail", TRIMMED.values(), ids=TRIMMED)
def test_a_tail_that_is_no_line_is_trimmed(path: Path, tail: bytes) -> None:
    trimmed(path, tail, 0)


def test_an_unterminated_line_over_the_limit_is_trimmed(path: Path) -> None:
    """Left in place, the next record would be glued to a line that no reader holds; it is copied aside in pieces."""
    options = Options(line_bytes_max=1_000, block_bytes=256)
    tail = LAST[:-3] + b"z" * 2_000 + b'"}}'
    path.write_bytes(GOOD + tail)
    assert decided(path, options) == (Decision.TRIM, len(GOOD))
    recorder(path, options=options).close()
    assert path.read_bytes() == GOOD
    assert quarantined(path) == [tail]


REFUSED = {
    "empty": b"",
    "blank": b"\n",
    "garbage alone": b"hello\n",
    "a torn meta": META[:50],
    "NULs alone": bytes(100),
    "no meta": WORD,
    "the meta second": WORD + META,
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_a_rollout_that_does_not_say_who_it_is_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(RolloutUnusable, match="which thread"):
        recorder(path)
    assert path.read_bytes() == content
    assert quarantined(path) == []


@pytest.mark.parametrize("tail", [b"", LAST, LAST[:30], bytes(9), b"garbage"])
def test_a_file_that_somebody_else_may_be_writing_is_not_touched(path: Path, tail: bytes) -> None:
    """A line that is half written now is whole in a moment."""
    path.write_bytes(GOOD + tail)
    with pytest.raises(RolloutUnusable, match="somebody else"):
        recorder(path, owned=False)
    assert path.read_bytes() == GOOD + tail


def test_what_is_trimmed_is_on_the_medium_before_the_cut(path: Path) -> None:
    """The order of calls is written down: copy, sync, name, sync of the folders, and only then the cut."""
    from engine.testing.files import RecordingFiles

    path.write_bytes(GOOD + LAST[:30])
    files = RecordingFiles(Files())
    recorder(path, files=files).close()
    changing = ("create", "write", "sync", "rename", "sync_folder", "truncate")
    assert [(call.name, call.op) for call in files.calls if call.name in changing] == [
        ("create", "recorder.quarantine"),
        ("write", "recorder.write"),
        ("sync", "recorder.quarantine"),
        ("rename", "recorder.quarantine"),
        ("sync_folder", "recorder.quarantine"),
        ("sync_folder", "recorder.quarantine"),
        ("truncate", "recorder.trim"),
        ("sync", "recorder.sync"),
        ("sync", "recorder.sync"),
        *[("sync_folder", "recorder.sync_folder")] * 5,
    ]


def test_a_recovery_that_was_interrupted_is_done_again(path: Path) -> None:
    """The copy was made, the cut was not: the same name in quarantine is no obstacle, in the same millisecond."""
    import errno

    from engine.testing.files import FaultyFiles

    path.write_bytes(GOOD + LAST[:30])
    faulty = FaultyFiles(Files(), lambda _, call: errno.EIO if call.op == "recorder.trim" else None)
    with pytest.raises(OSError, match="Input/output"):
        recorder(path, files=faulty)
    assert path.read_bytes() == GOOD + LAST[:30]
    recorder(path).close()
    assert path.read_bytes() == GOOD
    assert quarantined(path) == [LAST[:30]]
