"""Every damage does what its name says, and no more.

The expectations are written down here, one line a damage, as they are for the damaged homes that were made from real
rollouts; a reader of this test's own counts what is left. Where those homes are at hand, the same reader finds in them
what it finds in ours.
"""

from __future__ import annotations

import json
import os
import stat
from random import Random

import pytest

from engine.testing import HomePlan, make_home, make_rollout, read_lines
from engine.testing.damage import DAMAGES, LONG_LINE_BYTES

# name: (listed, change in good records, bad lines); None is "fewer, at least one left".
WRITTEN = {
    "torn-last-line": (True, -1, 1),
    "no-final-newline": (True, 0, 0),
    "garbage-line-in-the-middle": (True, 0, 1),
    "non-utf8-line": (True, 0, 1),
    "non-utf8-byte-in-a-string": (True, -1, 1),
    "nul-tail": (True, 0, 1),
    "blank-lines-and-crlf": (True, 0, 0),
    "bom": (True, 0, 0),
    "raw-u2028-in-a-string": (True, 0, 0),
    "empty-file": (False, "all", 0),
    "only-the-first-line": (True, "but one", 0),
    "first-line-missing": (True, -1, 0),
    "garbage-before-the-first-line": (True, 0, 1),
    "a-record-twice": (True, 1, 0),
    "torn-then-written-again": (True, 0, 1),
    "glued-records": (True, -2, 1),
    "unknown-kind": (True, 1, 0),
    "same-thread-in-two-files": (True, 0, 0),
    "active-and-archived": (True, 0, 0),
    "id-differs-from-the-name": (True, 0, 0),
    "odd-file-names": (True, 0, 0),
    "line-of-50-mb": (True, 1, 0),
    "shrunk": (True, None, 0),
    "rewritten-first-message": (True, 0, 0),
    "replaced-by-older-copy": (True, None, 0),
    "unreadable": (False, "all", 0),
    "symlink": (False, "all", 0),
}
IN_THE_FILE = [name for name in WRITTEN if name not in ("unreadable", "symlink")]
STYLES = ("paginated", "legacy", "old")


def count(content):
    """Good records and bad lines: lines end at LF or CR LF, blank ones are neither, a mark at the start is not text."""
    good = bad = 0
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError:
            bad += 1
        else:
            assert isinstance(record["payload"], dict)
            good += 1
    return good, bad


def content_of(home, path):
    with open(os.path.join(home, path), "rb") as file:
        return file.read()


def struck(tmp_path, name, style, seed=1, size=25_000):
    """A home with one rollout, its bytes, and what the damage says of it."""
    thread = make_rollout(tmp_path / "home", size=size, mode=style, seed=seed)
    before = content_of(tmp_path / "home", thread.path)
    return thread, before, DAMAGES[name](tmp_path / "home", thread, Random(seed))


def test_every_damage_has_its_line_above_and_tells_what_must_hold():
    assert list(DAMAGES) == list(WRITTEN)
    for damage in DAMAGES.values():
        assert "listed" in damage.__doc__ or "in the list" in damage.__doc__ or "nothing is wrong" in damage.__doc__


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", IN_THE_FILE)
def test_a_damage_leaves_the_records_that_are_written_down(tmp_path, name, style):
    thread, before, expected = struck(tmp_path, name, style)
    after = content_of(tmp_path / "home", expected.paths[0])
    listed, change, bad = WRITTEN[name]
    good = {"all": 0, "but one": 1, None: expected.good_records}.get(change)
    good = thread.records + change if good is None else good
    assert (expected.listed, expected.good_records, expected.bad_lines) == (listed, good, bad)
    assert count(after) == (good, bad)
    if change is None:
        assert 1 <= good < thread.records
        assert before.startswith(after)
        assert after.endswith(b"\n")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(8))
def test_the_place_of_a_damage_changes_nothing_of_what_holds(tmp_path, style, seed):
    for name in """torn-last-line non-utf8-byte-in-a-string raw-u2028-in-a-string glued-records a-record-twice
            torn-then-written-again garbage-line-in-the-middle""".split():
        folder = tmp_path / name
        _, _, expected = struck(folder, name, style, seed)
        found = count(content_of(folder / "home", expected.paths[0]))
        assert found == (expected.good_records, expected.bad_lines), name


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("garbage-line-in-the-middle", b"not json\n"),
        ("non-utf8-line", b"\xff\xfe\x00junk\n"),
        ("non-utf8-byte-in-a-string", b"\xe6\x87"),
        ("raw-u2028-in-a-string", b"\xe2\x80\xa8"),
        ("nul-tail", bytes(1_728)),
        ("bom", b"\xef\xbb\xbf"),
        ("garbage-before-the-first-line", b"hello\n"),
    ],
)
def test_an_insertion_is_the_only_change(tmp_path, name, added):
    _, before, expected = struck(tmp_path, name, "paginated")
    after = content_of(tmp_path / "home", expected.paths[0])
    at = next((n for n, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), len(before))
    assert after.count(added) == before.count(added) + 1
    assert after.replace(added, b"", 1) == before or (after[:at] + after[at + len(added) :]) == before
    assert (at == 0) == (name in ("bom", "garbage-before-the-first-line"))
    assert (at == len(before)) == (name == "nul-tail")


def test_crlf_and_blank_lines_are_all_that_is_added(tmp_path):
    _, before, expected = struck(tmp_path, "blank-lines-and-crlf", "old")
    after = content_of(tmp_path / "home", expected.paths[0])
    assert after.startswith(b"\n\n{")
    assert after[2:].replace(b"\r\n", b"\n") == before
    assert after.count(b"\r\n") == before.count(b"\n")


def test_tears_and_glue_are_where_they_belong(tmp_path):
    _, before, expected = struck(tmp_path / "a", "torn-last-line", "legacy")
    after = content_of(tmp_path / "a/home", expected.paths[0])
    assert before.startswith(after)
    assert before.rindex(b"\n", 0, -1) < len(after) - 1 < len(before) - 2
    _, before, expected = struck(tmp_path / "b", "no-final-newline", "legacy")
    assert content_of(tmp_path / "b/home", expected.paths[0]) + b"\n" == before
    _, before, expected = struck(tmp_path / "c", "glued-records", "legacy")
    after = content_of(tmp_path / "c/home", expected.paths[0])
    assert (len(after), after.count(b"}{")) == (len(before) - 1, before.count(b"}{") + 1)
    _, before, expected = struck(tmp_path / "d", "torn-then-written-again", "paginated")
    lines = content_of(tmp_path / "d/home", expected.paths[0]).splitlines()
    (at,) = [number for number, line in enumerate(lines) if not line.endswith(b"}")]
    assert lines[at + 1].startswith(lines[at])
    assert b"\n".join([*lines[:at], *lines[at + 1 :]]) + b"\n" == before
    _, before, expected = struck(tmp_path / "e", "a-record-twice", "paginated")
    lines = content_of(tmp_path / "e/home", expected.paths[0]).splitlines()
    (at,) = [number for number in range(1, len(lines)) if lines[number] == lines[number - 1]]
    assert b"\n".join([*lines[:at], *lines[at + 1 :]]) + b"\n" == before


def names_in(home):
    return sorted(os.path.relpath(os.path.join(top, name), home) for top, _, names in os.walk(home) for name in names)


def test_copies_lie_where_the_thread_is_met_twice(tmp_path):
    thread, before, expected = struck(tmp_path / "a", "same-thread-in-two-files", "paginated")
    name = os.path.basename(thread.path)
    assert thread.path == f"sessions/2026/01/05/{name}"
    assert expected.paths == (thread.path, f"sessions/2026/01/04/{name}")
    assert names_in(tmp_path / "a/home") == sorted(expected.paths)
    shorter = content_of(tmp_path / "a/home", expected.paths[1])
    assert (count(shorter), before.startswith(shorter)) == ((thread.records - 1, 0), True)
    thread, before, expected = struck(tmp_path / "b", "active-and-archived", "paginated")
    assert names_in(tmp_path / "b/home") == sorted([thread.path, f"archived_sessions/{name}"]) == sorted(expected.paths)
    assert [content_of(tmp_path / "b/home", path) for path in expected.paths] == [before, before]


def test_a_copy_of_the_first_of_a_month_lies_in_the_month_before(tmp_path):
    thread = make_rollout(tmp_path, size=5_000, created="2026-03-01T12:00:00Z")
    expected = DAMAGES["same-thread-in-two-files"](tmp_path, thread, Random(0))
    assert expected.paths[1].startswith("sessions/2026/02/28/rollout-2026-03-01T")


def test_an_archived_rollout_gets_an_active_copy(tmp_path):
    made = make_home(tmp_path, HomePlan(threads=6, archived=1.0, reverted=0.0))
    expected = DAMAGES["active-and-archived"](tmp_path, made[0].path, Random(0))
    assert expected.paths == (f"sessions/2026/01/05/{os.path.basename(made[0].path)}", made[0].path)
    assert content_of(tmp_path, expected.paths[0]) == content_of(tmp_path, expected.paths[1])


def test_names_that_lie(tmp_path):
    thread, before, expected = struck(tmp_path / "a", "id-differs-from-the-name", "old")
    assert names_in(tmp_path / "a/home") == list(expected.paths)
    assert thread.id not in expected.paths[0]
    assert json.loads(before.splitlines()[0])["payload"]["id"] == thread.id
    assert expected.paths[0].startswith("sessions/2026/01/05/rollout-2026-01-05T09-00-")
    assert len(expected.paths[0]) == len(thread.path)
    thread, before, expected = struck(tmp_path / "b", "odd-file-names", "old")
    name, folder = os.path.basename(thread.path), os.path.dirname(thread.path)
    assert expected.paths == (f"sessions/{name}",)
    assert names_in(tmp_path / "b/home") == sorted([f"sessions/{name}", f"{folder}/notes.jsonl", f"{thread.path}.tmp"])
    assert content_of(tmp_path / "b/home", f"{folder}/notes.jsonl") == before
    assert content_of(tmp_path / "b/home", f"{thread.path}.tmp") == before[:100]


@pytest.mark.parametrize("style", STYLES)
def test_the_long_line_is_one_whole_record_at_the_end(tmp_path, style):
    thread, before, expected = struck(tmp_path, "line-of-50-mb", style)
    after = content_of(tmp_path / "home", expected.paths[0])
    assert after.startswith(before)
    last = json.loads(after[len(before) :])
    assert LONG_LINE_BYTES <= len(after) - len(before) < LONG_LINE_BYTES + 300
    assert last["timestamp"] == json.loads(before.splitlines()[-1])["timestamp"]
    assert last.get("ordinal") == thread.next_ordinal
    assert next(iter(last)) == "timestamp"


def test_shrinking_and_rewriting_keep_the_file_and_a_restored_copy_is_another(tmp_path):
    for name, same in (("shrunk", True), ("rewritten-first-message", True), ("replaced-by-older-copy", False)):
        home = tmp_path / name
        thread = make_rollout(home, size=25_000, seed=1)
        before = os.stat(home / thread.path)
        DAMAGES[name](home, thread, Random(1))
        after = os.stat(home / thread.path)
        assert (after.st_ino == before.st_ino) == same, name
        assert stat.S_IMODE(after.st_mode) == 0o600
        assert (after.st_size == before.st_size) == (name == "rewritten-first-message")
        if name == "rewritten-first-message":
            assert after.st_mtime_ns == before.st_mtime_ns
            assert after.st_ctime_ns > before.st_ctime_ns
        if name == "replaced-by-older-copy":
            assert after.st_mtime_ns == before.st_mtime_ns - 60_000_000_000
        assert names_in(home) == [thread.path]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(10))
def test_a_rewritten_first_message_is_what_the_row_must_show(tmp_path, style, seed):
    thread, before, expected = struck(tmp_path, "rewritten-first-message", style, seed)
    after = content_of(tmp_path / "home", thread.path)
    changed = [line for line in zip(before.splitlines(), after.splitlines(), strict=True) if line[0] != line[1]]
    ((_, line),) = changed
    payload = json.loads(line)["payload"]
    said = payload["message"] if "message" in payload else payload["item"]["content"][0]["text"]
    assert said.startswith("rewritten")
    assert expected.row == {"first_user_message": said, "title": said}
    assert thread.row["first_user_message"] != said


def test_a_rollout_without_words_to_rewrite_is_refused(tmp_path):
    thread = make_rollout(tmp_path, size=9_000)
    DAMAGES["only-the-first-line"](tmp_path, thread, Random(0))
    before = content_of(tmp_path, thread.path)
    with pytest.raises(ValueError, match="choose a rollout"):
        DAMAGES["rewritten-first-message"](tmp_path, thread, Random(0))
    with pytest.raises(ValueError, match="four or more"):
        DAMAGES["glued-records"](tmp_path, thread, Random(0))
    assert content_of(tmp_path, thread.path) == before


def test_a_first_message_of_an_image_alone_is_not_rewritten(tmp_path):
    lines = [
        {"type": "session_meta", "payload": {"id": "x"}},
        {"type": "event_msg", "payload": {"type": "user_message", "message": "", "images": ["data:"]}},
        {"type": "event_msg", "payload": {"type": "user_message", "message": "and now words", "images": []}},
    ]
    (tmp_path / "r.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    before = content_of(tmp_path, "r.jsonl")
    with pytest.raises(ValueError, match="choose a rollout"):
        DAMAGES["rewritten-first-message"](tmp_path, "r.jsonl", Random(0))
    assert content_of(tmp_path, "r.jsonl") == before


def test_an_unreadable_rollout_has_no_permissions_at_all(tmp_path):
    thread, _, expected = struck(tmp_path, "unreadable", "paginated")
    assert stat.S_IMODE(os.stat(tmp_path / "home" / thread.path).st_mode) == 0
    assert (expected.listed, expected.good_records, expected.bad_lines) == (False, 0, 0)


def test_a_link_leads_out_of_the_home_to_the_whole_rollout(tmp_path):
    thread, before, expected = struck(tmp_path, "symlink", "paginated")
    link = tmp_path / "home" / thread.path
    assert link.is_symlink()
    assert not str(link.resolve()).startswith(f"{(tmp_path / 'home').resolve()}/")
    assert link.read_bytes() == before
    assert (expected.listed, expected.good_records, expected.bad_lines) == (False, 0, 0)


def test_only_the_rollout_that_is_named_is_damaged(tmp_path):
    for name in WRITTEN:
        if name == "line-of-50-mb":
            continue
        home = tmp_path / name / "home"
        made = make_home(home, HomePlan(threads=5, seed=11, bytes_min=9_000, bytes_max=20_000))
        others = {thread.path: b"".join(read_lines(home, thread.path)) for thread in made[1:]}
        DAMAGES[name](home, made[0], Random(2))
        assert {path: b"".join(read_lines(home, path)) for path in others} == others, name


def test_the_damaged_homes_made_from_real_rollouts_hold_what_is_written_above(corpora):
    cases = json.loads((corpora / "damaged" / "expected.json").read_text())
    controls = {case["case"].split("-")[0]: case["good_records"] for case in cases if case["case"].endswith("-control")}
    compared = set()
    for case in cases:
        mode, name = case["case"].split("-", 1)
        if name == "control":
            continue
        compared.add(name)
        listed, change, bad = WRITTEN[name]
        good = {"all": 0, "but one": 1}.get(change)
        good = controls[mode] + change if good is None else good
        assert (case["thread_listed"], case["good_records"], case["bad_lines"]) == (listed, good, bad), case
        home = corpora / "damaged" / case["case"]
        found = sorted(home.rglob("rollout-*.jsonl"), key=lambda path: (-path.stat().st_size, str(path)))
        assert count(found[0].read_bytes()) == (good, bad), case
    assert compared == set(list(WRITTEN)[:21])
