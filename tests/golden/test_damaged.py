"""Every known damage, as the engine meets it: what is listed, what is counted, and what an audit says.

Each damage is written down with all the findings that it gives and no others, once for rollouts that are made here and once
for the homes that were damaged by hand (the fixture `corpora`), whose `expected.json` says what must hold. A damage is
never a lost thread, and one bad line never speaks for another.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest

import engine
from engine.errors import RolloutUnusable
from engine.options import Options
from engine.stores.files import Files
from engine.testing import make_rollout, read_lines
from engine.testing.damage import DAMAGES

STYLES = ("paginated", "legacy", "old")
NONE = {}
TORN = {"torn_tail": 1}
SPAN = {"damaged_span": 1}

FINDINGS = {
    "torn-last-line": TORN,
    "no-final-newline": NONE,
    "garbage-line-in-the-middle": SPAN,
    "non-utf8-line": SPAN,
    "non-utf8-byte-in-a-string": SPAN,
    "nul-tail": SPAN,
    "blank-lines-and-crlf": NONE,
    "bom": {"byte_order_mark": 1},
    "raw-u2028-in-a-string": NONE,
    "empty-file": {"empty_file": 1},
    "only-the-first-line": NONE,
    "first-line-missing": {"missing_meta": 1},
    "garbage-before-the-first-line": SPAN,
    "a-record-twice": NONE,
    "torn-then-written-again": SPAN,
    "glued-records": SPAN,
    "unknown-kind": NONE,
    "same-thread-in-two-files": {"duplicate_id": 1},
    "active-and-archived": {"duplicate_id": 1},
    "id-differs-from-the-name": {"id_differs": 1},
    "odd-file-names": NONE,
    "line-of-50-mb": NONE,
    "shrunk": NONE,
    "rewritten-first-message": NONE,
    "replaced-by-older-copy": NONE,
    "symlink": {"unreadable": 1},
    "control": NONE,
}
"""What an audit of a home with that one damage says, by class."""

DECISIONS = {
    "torn-last-line": "trim",
    "nul-tail": "trim",
    "no-final-newline": "close",
    "first-line-missing": "refuse",
    "empty-file": "there is no thread",
    "symlink": "there is no thread",
}
"""What is done before the first append, by the table of `engine/stores/recovery.py`; with all others nothing."""

SAID_AFTER = {"type": "response_item", "payload": {"type": "message", "role": "assistant", "content": []}}

NUMBERED = {
    "non-utf8-byte-in-a-string": {"ordinal_gap": 1},
    "a-record-twice": {"duplicate_ordinal": 1},
    "glued-records": {"ordinal_gap": 1},
    "unknown-kind": {"missing_ordinal": 1},
}
"""What is said besides where records have numbers: two records that are one line leave a gap, and so on."""


TWICE = {"same-thread-in-two-files": lambda records: records - 1, "active-and-archived": lambda records: records}
"""How many records the second file of the same thread has: an audit looks at both."""

WAITING = ("torn-last-line", "nul-tail")
"""A last line that is no record yet may still be being written: a fold leaves it for the next look."""

LOOKS_WHOLE = ("non-utf8-byte-in-a-string", "torn-then-written-again", "glued-records")
"""A line whose head is a record's is passed over by the skim unless its kind is asked for; only an audit decides on it."""


def expected_findings(name, *, numbered):
    return FINDINGS[name] | (NUMBERED.get(name, NONE) if numbered else NONE)


def seen(home, state_dir):
    """What a fresh engine makes of a home: its threads, an audit, and each thread as it is fetched from its file."""
    with engine.open(str(home), state_dir=str(state_dir)) as opened:
        opened.backfill()
        threads = opened.threads.list(limit=0).threads
        audit = opened.audit()
        fetched = [opened.threads.fetch(thread.id) for thread in threads]
        deep = opened.audit(deep=True)
        assert (deep.findings, deep.checked) == (audit.findings, audit.checked)
        return threads, audit, fetched


def made(tmp_path, name, style, seed=9):
    thread = make_rollout(tmp_path / "home", size=70_000, mode=style, seed=seed)
    return thread, DAMAGES[name](tmp_path / "home", thread, Random(seed))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", [name for name in DAMAGES if name not in ("unreadable", "line-of-50-mb")])
def test_a_damage_gives_its_findings_and_no_other(tmp_path, name, style):
    thread, expected = made(tmp_path, name, style)
    threads, audit, fetched = seen(tmp_path / "home", tmp_path / "state")
    assert [each.id for each in threads] == [thread.id] * expected.listed
    assert Counter(each.class_ for each in audit.findings) == expected_findings(name, numbered=style == "paginated")
    assert audit.checked.records == expected.good_records + TWICE.get(name, lambda _: 0)(thread.records)
    check_counts(name, fetched, expected.good_records, expected.bad_lines)
    for each in threads:
        assert each.rollout_path in [f"{tmp_path}/home/{path}" for path in expected.paths]
        assert {field: getattr(each, field) for field in expected.row} == expected.row


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", [name for name in DAMAGES if name not in ("unreadable", "line-of-50-mb")])
def test_what_is_done_with_a_damaged_rollout_before_it_is_appended_to(tmp_path, name, style):
    """Not a byte before its last LF changes, and what is cut behind it is kept."""
    thread, _ = made(tmp_path, name, style)
    with engine.open(str(tmp_path / "home"), state_dir=str(tmp_path / "state")) as opened:
        row = opened.threads.get(thread.id)
        decision = DECISIONS.get(name, "keep")
        assert (row is None) == (decision == "there is no thread")
        if row is None:
            return
        path = Path(row.rollout_path)
        before = path.read_bytes()
        if decision == "refuse":
            with pytest.raises(RolloutUnusable):
                opened.threads.resume(thread.id, adopt=True)
            assert path.read_bytes() == before
            return
        with opened.threads.resume(thread.id, adopt=True) as resumed:
            resumed.append([SAID_AFTER])
            *_, last = resumed.read()
            assert last.payload == SAID_AFTER["payload"]
    kept = before[: before.rindex(b"\n") + 1] if decision == "trim" else before
    line = path.read_bytes().removeprefix(kept + (b"\n" if decision == "close" else b""))
    assert json.loads(line)["payload"] == SAID_AFTER["payload"]
    assert line.index(b"\n") == len(line) - 1
    aside = [each.read_bytes() for each in (tmp_path / "state" / "quarantine").glob("*.tail")]
    assert aside == ([before[len(kept) :]] if decision == "trim" else [])


def check_counts(name, fetched, good_records, bad_lines):
    """The counts that stand beside a row."""
    for each in fetched:
        if name in LOOKS_WHOLE:
            assert each.records - good_records in (0, 1)
        else:
            assert (each.records, each.damaged) == (good_records, 0 if name in WAITING else bad_lines)


def test_a_line_of_50_mb_is_a_record_as_any(tmp_path):
    thread, expected = made(tmp_path, "line-of-50-mb", "paginated")
    threads, audit, (fetched,) = seen(tmp_path / "home", tmp_path / "state")
    assert [each.id for each in threads] == [thread.id]
    assert audit.findings == []
    assert (audit.checked.records, fetched.records) == (expected.good_records, expected.good_records)


class Denied(Files):
    """Nobody may open the rollouts; root's tests cannot take that right away by a file's mode."""

    def open_read(self, path, *, op):
        if op == "rollout.open":
            raise PermissionError(13, "Permission denied", path)
        return super().open_read(path, op=op)


def test_a_rollout_that_nobody_may_read_is_named_and_tried_again(tmp_path):
    thread, expected = made(tmp_path, "unreadable", "paginated")
    with engine.open(str(tmp_path / "home"), state_dir=str(tmp_path / "state"), files=Denied()) as opened:
        report = opened.backfill()
        assert [(each.path, each.reason) for each in report.failed] == [
            (thread.path, "it cannot be read: Permission denied")
        ]
        assert report.status != "complete"
        assert opened.threads.list(limit=0).threads == []
        assert [each.class_ for each in opened.audit().findings] == ["unreadable"]
        assert opened.audit().findings[0].path == thread.path
    os.chmod(tmp_path / "home" / thread.path, 0o600)
    threads, audit, _ = seen(tmp_path / "home", tmp_path / "state")
    assert [each.id for each in threads] == [thread.id]
    assert audit.findings == []
    assert not expected.listed


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["garbage-line-in-the-middle", "torn-then-written-again", "non-utf8-byte-in-a-string"])
def test_a_damaged_span_is_named_with_its_place(tmp_path, name, style):
    thread, expected = made(tmp_path, name, style)
    _, audit, _ = seen(tmp_path / "home", tmp_path / "state")
    (found,) = [each for each in audit.findings if each.class_ == "damaged_span"]
    assert (found.path, found.thread_id, found.severity) == (thread.path, thread.id, "warning")
    content = (tmp_path / "home" / thread.path).read_bytes()
    line = content[found.offset : content.index(b"\n", found.offset)]
    assert found.offset == 0 or content[found.offset - 1 : found.offset] == b"\n"
    with pytest.raises(ValueError):
        json.loads(line.decode())
    assert f"{len(line)} bytes are no record" in found.message
    assert expected.bad_lines == 1


def test_records_that_are_one_line_are_told_to_be_whole(tmp_path):
    made(tmp_path, "glued-records", "legacy")
    (found,) = seen(tmp_path / "home", tmp_path / "state")[1].findings
    assert "whole records follow each other without a newline" in found.message


@pytest.mark.parametrize("name", ["same-thread-in-two-files", "active-and-archived"])
def test_a_duplicate_is_named_with_both_paths(tmp_path, name):
    _, expected = made(tmp_path, name, "paginated")
    (found,) = seen(tmp_path / "home", tmp_path / "state")[1].findings
    assert (found.row_value, found.file_value) == expected.paths
    assert found.path == expected.paths[1]


def test_a_torn_tail_becomes_lag_and_then_the_record_when_its_writer_goes_on(tmp_path):
    """What somebody is still writing is no damage: the fold waits for it."""
    thread, _ = made(tmp_path, "torn-last-line", "paginated")
    whole = list(read_lines(tmp_path / "home", thread.path))
    other = make_rollout(tmp_path / "other", size=70_000, seed=9)
    last = list(read_lines(tmp_path / "other", other.path))[-1]
    assert last.startswith(whole[-1])
    with engine.open(str(tmp_path / "home"), options=Options(scan_interval_ms=0)) as opened:
        opened.backfill()
        assert [each.class_ for each in opened.audit().findings] == ["torn_tail"]
        with open(tmp_path / "home" / thread.path, "ab") as file:
            file.write(last[len(whole[-1]) :])
        assert [each.class_ for each in opened.audit().findings] == ["stale_watermark"]
        opened.backfill()
        assert opened.audit().findings == []
        assert opened.threads.fetch(thread.id).records == thread.records


# The homes that were damaged by hand.

CASES = [f"{mode}-{name}" for mode in ("legacy", "paginated") for name in [*list(DAMAGES)[:21], "control"]]


@pytest.fixture(scope="module")
def written_down(corpora):
    return {case["case"]: case for case in json.loads((corpora / "damaged/expected.json").read_text())}


def test_every_damaged_home_is_tested(written_down):
    assert sorted(CASES) == sorted(written_down)


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_home_is_what_its_expectation_says(tmp_path, corpora, written_down, name):
    case = written_down[name]
    mode, _, damage = name.partition("-")
    threads, audit, fetched = seen(corpora / "damaged" / case["home"], tmp_path)
    assert [each.id for each in threads] == [case["thread_id"]] * case["thread_listed"]
    found = Counter(each.class_ for each in audit.findings)
    assert found["damaged_span"] + found["torn_tail"] == case["bad_lines"]
    twice = TWICE.get(damage, lambda _: 0)(case["good_records"])
    assert audit.checked.records == case["good_records"] + twice
    check_counts(damage, fetched, case["good_records"], case["bad_lines"])
    assert found == expected_findings(damage, numbered=mode == "paginated")
