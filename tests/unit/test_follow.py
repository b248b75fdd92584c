"""Following a home: each record once, in its stream's order, whatever becomes of the file; what is not a record is told."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

import engine
from engine.errors import EngineClosed, InvalidRequest, InvalidToken
from engine.follow import Followed, Follower, Notice
from engine.options import Options
from engine.stores.compression import compress
from engine.stores.files import Files
from engine.stores.layout import Home, locate
from engine.testing import ManualClock
from engine.testing.files import FaultyFiles, RecordingFiles
from engine.testing.homes import HomePlan, make_home, read_lines
from tests.writing import Faults, only, opened, rollouts, say

QUIET = 40
"""Rounds without anything new after which nothing more is expected; a round takes 100 ms of a clock that does not wait."""


@pytest.fixture(autouse=True)
def polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed, so that time is the clock's alone."""
    monkeypatch.setitem(sys.modules, "watchfiles", None)


def drain(follower: Follower, rounds: int = QUIET) -> list[Followed | Notice]:
    """All that comes until nothing came for so many rounds."""
    found: list[Followed | Notice] = []
    quiet = 0
    while quiet < rounds:
        each = follower.poll()
        quiet = quiet + 1 if each is None else 0
        if each is not None:
            found.append(each)
    return found


def places(found: list[Any]) -> list[tuple[str, int]]:
    assert [each for each in found if isinstance(each, Notice)] == []
    return [(each.rollout_id, each.record.offset) for each in found]


def notices(found: list[Any]) -> list[tuple[str, str | None]]:
    return [(each.what, each.thread_id) for each in found if isinstance(each, Notice)]


def in_files(home: Path, start: dict[str, int] | None = None) -> list[tuple[str, int]]:
    """The places of all lines, by the standard library alone, rollout by rollout; from `start` on."""
    out = []
    for path in rollouts(home):
        rollout = path.partition(".jsonl")[0][-36:]
        offset = 0
        for line in read_lines(home, path.removesuffix(".zst")):
            if offset >= (start or {}).get(rollout, 0) and line.endswith(b"\n"):
                out.append((rollout, offset))
            offset += len(line)
    return out


def sizes(home: Path) -> dict[str, int]:
    return {path.partition(".jsonl")[0][-36:]: (home / path).stat().st_size for path in rollouts(home)}


def by_rollout(found: list[tuple[str, int]]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for rollout, offset in found:
        out.setdefault(rollout, []).append(offset)
    return out


def recode(home: Path, form: str) -> None:
    """Every plain rollout compressed, by the engine or as the Codex CLI does it."""
    for path in rollouts(home):
        if path.endswith(".zst"):
            continue
        if form == "framed":
            found = locate(Home(str(home), None), path, Files())
            assert found is not None
            compress(Home(str(home), None), found, options=Options(), files=Files())
        else:
            full = home / path
            full.with_name(f"{full.name}.zst").write_bytes(zstandard.ZstdCompressor().compress(full.read_bytes()))
            shutil.copystat(full, f"{full}.zst")
            full.unlink()


# --- each record once -------------------------------------------------------------------------------------------------


def test_what_is_appended_comes_once_in_order_at_the_place_that_the_append_answered(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        say(thread, "before")
        with e.follow() as follower:
            assert drain(follower) == []
            ends = [thread.append([{"type": "x", "payload": {"at": at}}]).position for at in range(3)]
            found = drain(follower)
            assert [(each.thread_id, each.rollout_id) for each in found] == [(thread.id, thread.id)] * 3
            assert [each.position for each in found if isinstance(each, Followed)] == ends
            assert [each.record.payload for each in found if isinstance(each, Followed)] == [
                {"at": at} for at in range(3)
            ]
            assert list(thread.read(found[1].position)) == [found[2].record]
            with opened(tmp_path / "home", ManualClock(seed=1)) as other, other.threads.create(cwd="/") as theirs:
                say(theirs, "by another")
            assert {each.thread_id for each in drain(follower)} == {theirs.id}


def test_from_the_beginning_all_of_a_home_comes(tmp_path: Path) -> None:
    """Every style, forked, reverted, archived and compressed: each rollout's own records, once."""
    home = tmp_path / "home"
    plan = HomePlan(threads=24, seed=4, compressed=0.2, archived=0.2, reverted=0.1, forks=0.2, subagents=0.2)
    made = make_home(home, plan)
    with opened(home) as e, e.follow(start="beginning") as follower:
        found = drain(follower)
    assert by_rollout(places(found)) == by_rollout(in_files(home))
    reverted = next(each for each in made if each.older_paths)
    rollouts_of_it = {each.rollout_id for each in found if each.thread_id == reverted.id}
    assert len(rollouts_of_it) == 1 + len(reverted.older_paths)
    first = {each.rollout_id: each.record for each in reversed(found) if isinstance(each, Followed)}
    assert all(first[each.rollout_id].payload["id"] == each.thread_id for each in found)


@pytest.mark.parametrize("form", ["framed", "one frame"])
def test_archive_compression_and_back_lose_and_repeat_nothing(tmp_path: Path, form: str) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        with e.follow(start="now") as follower:
            old = sizes(home)
            found = drain(follower)
            for round_number in range(2):
                e.threads.archive(thread.id)
                found += drain(follower)
                recode(home, form)
                found += drain(follower)
                e.threads.unarchive(thread.id)
                with e.threads.resume(thread.id) as thread:
                    say(thread, f"b{round_number}")
                    found += drain(follower, 1)
                    say(thread, f"c{round_number}")
                found += drain(follower)
            assert by_rollout(places(found)) == by_rollout(in_files(home, old))


def test_a_compressed_rollout_whose_end_was_now_goes_on_behind_it_once_it_is_plain_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for form in ("framed", "one frame"):
        with opened(home) as e:
            with e.threads.create(cwd="/") as thread:
                say(thread, "a")
            old = sizes(home)
            recode(home, form)
            with e.follow(start="now") as follower:
                with e.threads.resume(thread.id) as thread:
                    say(thread, "b")
                assert by_rollout(places(drain(follower))) == by_rollout(in_files(home, {**old}))
            shutil.rmtree(home / "sessions")


def test_new_rollouts_of_new_days_and_of_reverted_threads_are_found(tmp_path: Path) -> None:
    home, clock = tmp_path / "home", ManualClock()
    with opened(home, clock) as e, e.follow() as follower:
        assert drain(follower) == []
        for _ in range(3):
            with e.threads.create(cwd="/") as thread:
                say(thread, "x")
            clock.advance(86_400_000)
        revert = thread.id[:-1] + ("0" if thread.id[-1] != "0" else "1")
        meta = {
            "id": thread.id,
            "history_base": {"thread_id": thread.id, "end_ordinal_exclusive": 3, "end_byte_offset": 9},
        }
        path = home / f"sessions/2026/01/09/rollout-2026-01-09T09-00-00-{thread.id}_{revert}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"timestamp": "t", "ordinal": 3, "type": "session_meta", "payload": meta}) + "\n")
        found = drain(follower)
        assert by_rollout(places(found)) == by_rollout(in_files(home))
        assert [each.thread_id for each in found if each.rollout_id == revert] == [thread.id]


def test_a_copy_of_a_rollout_is_not_followed_and_takes_over_when_the_other_goes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        path = only(home)
        (home / "archived_sessions").mkdir()
        copy = home / "archived_sessions" / path.name
        with e.follow(start="beginning") as follower:
            found = drain(follower)
            shutil.copyfile(path, copy)
            assert drain(follower) == []
            with copy.open("ab") as file:
                file.write(b'{"timestamp":"t","type":"x","payload":{}}\n')
            assert drain(follower) == []
            path.unlink()
            (extra,) = drain(follower)
            assert (extra.rollout_id, extra.position.offset) == (thread.id, copy.stat().st_size)
            assert len(places([*found, extra])) == len(set(places([*found, extra])))


# --- tails ------------------------------------------------------------------------------------------------------------

LINE = b'{"timestamp":"t","type":"x","payload":{"n":1}}\n'


def test_a_record_comes_once_it_is_whole_and_what_its_owner_trims_never_does(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        path = only(home)
        with e.follow(start="beginning") as follower:
            drain(follower)
            size = path.stat().st_size
            with path.open("ab", buffering=0) as file:
                for piece in (LINE[:9], LINE[9:30]):
                    file.write(piece)
                    assert drain(follower) == []
                file.write(LINE[30:] + LINE[:5])
            (whole,) = drain(follower)
            assert whole.record.offset == size
            with e.threads.resume(thread.id) as thread:  # cuts the five bytes off
                (position,) = {thread.append([{"type": "y", "payload": {}}]).position}
            (behind,) = drain(follower)
            assert (behind.record.kind, behind.record.offset, behind.position) == ("y", size + len(LINE), position)


def test_a_line_that_is_open_when_one_begins_is_new_when_it_is_whole(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        path = only(home)
        size = path.stat().st_size
        for tail, rest in ((LINE[:7], LINE[7:]), (LINE[:-1], b"\n")):
            with path.open("ab", buffering=0) as file:
                file.write(tail)
                with e.follow() as follower:
                    assert drain(follower) == []
                    token = follower.token
                    file.write(rest)
                    (found,) = drain(follower)
                    assert found.record.offset == size
                with e.follow(start=token) as follower:
                    assert places(drain(follower)) == [(thread.id, size)]
            size += len(LINE)


def test_a_tail_that_is_open_when_one_begins_and_is_trimmed_leaves_no_trace(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        path = only(home)
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(LINE[:30])
        with e.follow() as follower:
            with e.threads.resume(thread.id) as thread:
                thread.append([{"type": "y", "payload": {}}])
            assert places(drain(follower)) == [(thread.id, size)]


def test_damage_is_told_and_passed_over_and_odd_ordinals_are_given_as_they_stand(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home, options=Options(line_bytes_max=2000, block_bytes=512)) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        with e.follow() as follower, only(home).open("ab") as file:
            file.write(b"\0\0\n\r\n\n{}\n" + b"x" * 3000 + b"\n")
            for ordinal in (7, 7, 3, 90):
                file.write(b'{"timestamp":"t","ordinal":%d,"type":"x","payload":{}}\n' % ordinal)
            file.write(b'{"timestamp":"t","type":"x","payload":{"deep":' + b"[" * 1500 + b"]" * 400 + b"}}\n")
            file.flush()
            found = drain(follower)
    told = [each.reason.partition(":")[0] for each in found if isinstance(each, Notice)]
    *others, deep = told
    assert others == [
        "2 bytes are no record (NUL)",
        "2 bytes are no record (foreign)",
        "3000 bytes are no record (too long)",
    ]
    assert deep.startswith("1948 bytes are no record")  # how deep is too deep differs between releases of Python
    assert {each[0] for each in notices(found)} == {"damage"}
    assert [each.record.ordinal for each in found if isinstance(each, Followed)] == [7, 7, 3, 90]


# --- what is rewritten, gone, unreadable -------------------------------------------------------------------------------


def grown(home: Path, e: engine.Engine, kilobytes: int = 200) -> str:
    """A thread whose rollout is longer than the piece of its end that is compared at each look."""
    with e.threads.create(cwd="/") as thread:
        for _ in range(kilobytes):
            thread.append([{"type": "x", "payload": {"filler": "x" * 1000}}], durability="buffered")
    return thread.id


def test_a_redaction_is_told_once_and_following_goes_on_at_the_same_place(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        thread_id = grown(home, e)
        with e.follow(start="beginning") as follower:
            given = drain(follower)
            e.threads.redact(thread_id, ordinal=5)
            (told,) = drain(follower)
            assert isinstance(told, Notice)
            assert (told.what, told.thread_id, told.position) == ("rewritten", thread_id, given[-1].position)
            with e.threads.resume(thread_id) as thread:
                position = thread.append([{"type": "y", "payload": {}}]).position
            assert [each.position for each in drain(follower)] == [position]


def test_a_rewrite_far_back_that_an_append_hides_is_told_all_the_same(tmp_path: Path) -> None:
    """Grown in place, and the end is as it was: only all of it, read again, shows it."""
    home = tmp_path / "home"
    with opened(home) as e:
        thread_id = grown(home, e)
        with e.follow(start="beginning") as follower:
            given = drain(follower)
            e.threads.redact(thread_id, ordinal=5)
            with e.threads.resume(thread_id) as thread:
                thread.append([{"type": "y", "payload": {}}])
            record, told = drain(follower)
            assert record.position.ordinal == given[-1].position.ordinal + 1
            assert (told.what, told.position) == ("rewritten", record.position)
            assert drain(follower) == []


def test_an_append_is_compared_and_found_whole_so_that_a_token_need_not_read_it_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    files = RecordingFiles(Files())
    with opened(home, files=files) as e:
        thread_id = grown(home, e)
        with e.follow(start="beginning") as follower:
            drain(follower)
            with e.threads.resume(thread_id) as thread:
                thread.append([{"type": "y", "payload": {}}])
            drain(follower, 1)
            fresh = follower.token
            drain(follower)
            proven = follower.token
        for token, reads in ((fresh, True), (proven, False)):
            files.forget()
            with e.follow(start=token) as follower:
                assert drain(follower) == []
            assert (files.count("pread", op="rollout.read") > 0) == reads


def same(_: bytes) -> bytes:
    return _


REWRITES: dict[str, tuple[Callable[[bytes], bytes], list[str]]] = {
    "other bytes of the same length": (lambda data: data.replace(b'"a"', b'"b"'), ["rewritten"]),
    "cut": (lambda data: data[: data.index(b"\n") + 1], ["rewritten"]),
    "cut in mid-line": (lambda data: data[:100], ["rewritten"]),
    "emptied": (lambda _: b"", ["rewritten"]),
    "other and longer": (lambda data: data.replace(b'"a"', b'"bcd"'), ["rewritten"]),
    "the same": (same, []),
}


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize("away", [True, False])
def test_a_file_that_is_not_what_was_given_is_told_and_what_comes_then_is_given(
    tmp_path: Path, rewrite: str, in_place: bool, away: bool
) -> None:
    """While it follows, and while nobody did: what the notice's position is behind is to be read anew."""
    home = tmp_path / "home"
    change, expected = REWRITES[rewrite]
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            for _ in range(3):
                thread.append([{"type": "x", "payload": {"what": "a"}}])
        path = only(home)
        follower = e.follow(start="beginning")
        drain(follower)
        if away:
            token = follower.token
            follower.close()
        data = change(path.read_bytes())
        if in_place:
            with path.open("r+b") as file:
                file.write(data)
                file.truncate()
        else:
            path.with_name("other").write_bytes(data)
            path.with_name("other").replace(path)
        os.utime(path, ns=(1, 1_900_000_000_000_000_000))
        if away:
            follower = e.follow(start=token)
        found = drain(follower)
        assert [each.what for each in found if isinstance(each, Notice)] == expected
        if expected:
            start = found[0].position.offset
            assert data[:start].endswith(b"\n") or start == 0
            lines = data[start:].count(b"\n")
            assert len(found) == 1 + lines
        size = data.rfind(b"\n") + 1
        with path.open("r+b") as file:
            file.truncate(size)
            file.seek(size)
            file.write(LINE)
        assert [each.record.offset for each in drain(follower)] == [size]
        follower.close()


def test_what_is_erased_is_told_as_gone_and_what_comes_back_is_new(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        threads = [e.threads.create(cwd="/") for _ in range(2)]
        for thread in threads:
            say(thread, "a")
            thread.close()
        kept = next(path for path in rollouts(home) if threads[0].id in path)
        with e.follow(start="beginning") as follower:
            given = drain(follower)
            e.threads.erase(threads[1].id, grace_s=None)
            assert notices(drain(follower)) == [("gone", threads[1].id)]
            shutil.move(home / kept, tmp_path / "aside")
            assert notices(drain(follower)) == [("gone", threads[0].id)]
            token = follower.token
            shutil.move(tmp_path / "aside", home / kept)
            again = [each for each in given if each.thread_id == threads[0].id]
            assert drain(follower) == again
        with e.follow(start=token) as follower:
            assert drain(follower) == again


def test_what_went_while_nobody_followed_is_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        with e.follow(start="beginning") as follower:
            drain(follower)
            token = follower.token
        only(home).unlink()
        with e.follow(start=token) as follower:
            (told,) = drain(follower)
            assert isinstance(told, Notice)
            assert told.what == "gone"
            assert drain(follower) == []


def test_what_cannot_be_read_is_told_once_and_followed_when_it_can(tmp_path: Path) -> None:
    home = tmp_path / "home"
    files = Faults()
    with opened(home, files=files) as e:
        for name in ("first", "second"):
            with e.threads.create(cwd="/") as thread:
                say(thread, name)
        files.failing["rollout.open"] = errno.EACCES
        with e.follow(start="beginning") as follower:
            assert [each for each, _ in notices(drain(follower))] == ["unreadable"] * 2
            del files.failing["rollout.open"]
            for path in rollouts(home):
                os.utime(home / path)
            files.failing["rollout.read"] = errno.EIO
            assert [each for each, _ in notices(drain(follower))] == ["unreadable"] * 2
            del files.failing["rollout.read"]
            for path in rollouts(home):
                os.utime(home / path)
            assert by_rollout(places(drain(follower))) == by_rollout(in_files(home))


def test_a_folder_that_cannot_be_read_is_told_and_takes_nothing_for_gone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    files = Faults()
    with opened(home, files=files) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        with e.follow(start="beginning") as follower:
            drain(follower)
            files.failing["layout.scan"] = errno.EACCES
            told = drain(follower)
            assert [(each.what, each.thread_id, each.path) for each in told if isinstance(each, Notice)] == [
                ("unreadable", None, "sessions"),
                ("unreadable", None, "archived_sessions"),
            ]
            files.failing.clear()
            with e.threads.resume(thread.id) as thread:
                thread.append([{"type": "y", "payload": {}}])
            assert len(drain(follower)) == 1


def test_damaged_compressed_data_is_told_and_gives_what_can_be_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        thread_id = grown(home, e, 20)
        data = only(home).read_bytes()
        only(home).unlink()
        cut = home / f"sessions/2026/01/05/rollout-2026-01-05T09-00-00-{thread_id}.jsonl.zst"
        with e.follow(start="beginning") as follower:
            drain(follower)
            cut.write_bytes(zstandard.ZstdCompressor().compress(data)[:-9])
            found = drain(follower)
            assert [each for each, _ in notices(found)] == ["unreadable"]
            cut.write_bytes(zstandard.ZstdCompressor().compress(data))
            found += drain(follower)
            given = [each.record.offset for each in found if isinstance(each, Followed)]
            assert given == [offset for _, offset in in_files(home)]


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_follower_that_is_lost_anywhere_goes_on_without_gap_or_repetition(tmp_path: Path) -> None:
    """Stopped behind every record in turn; between them the files move and change their form."""
    home = tmp_path / "home"
    with opened(home) as e:
        threads = [e.threads.create(cwd="/") for _ in range(2)]
        for thread in threads:
            say(thread, "a", "b")
            thread.close()
        expected = by_rollout(in_files(home))
        changes: Iterator[Any] = iter(
            [
                lambda: e.threads.archive(threads[0].id),
                lambda: recode(home, "framed"),
                lambda: e.threads.unarchive(threads[0].id),
                lambda: e.threads.resume(threads[1].id).close(),
                lambda: e.threads.archive(threads[1].id),
            ]
        )
        token, found = "beginning", []
        while True:
            with opened(home) as another, another.follow(start=token) as follower:
                one = next((each for each in (follower.poll() for _ in range(QUIET)) if each is not None), None)
                token = follower.token
            if one is None:
                break
            found.append(one)
            if len(found) % 3 == 0:
                next(changes, lambda: None)()
        assert by_rollout(places(found)) == expected


def test_a_token_is_one_word_of_printable_text_and_any_harm_to_it_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        with e.follow([thread.id], start="beginning") as follower:
            drain(follower)
            token = follower.token
        assert token.isascii()
        assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        harmed = [token[:-2], token + "A", token[1:], "", "yesterday", "\udcff", token.swapcase()]
        harmed += [
            token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(0, len(token) - 1, 3)
        ]
        for each in harmed:
            with pytest.raises(InvalidToken):
                e.follow(start=each)
        with e.follow(start=f" {token}\n") as follower:
            assert drain(follower) == []


def test_a_token_knows_its_threads_and_says_so_to_those_who_name_others(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        threads = [e.threads.create(cwd="/") for _ in range(2)]
        with e.follow([threads[0].id.upper()], decisions=True) as follower:
            token = follower.token
            everything = e.follow().token
        for thread in threads:
            say(thread, "a")
            e.threads.rename(thread.id, "n")
            thread.close()
        for how in (None, [threads[0].id]):
            with e.follow(how, start=token) as follower:
                found = drain(follower)
                assert {each.thread_id for each in found} == {threads[0].id}
                assert {each.rollout_id for each in found} == {threads[0].id, None}
        for wrong in (token, everything):
            with pytest.raises(InvalidToken):
                e.follow([threads[1].id], start=wrong)


# --- which threads ----------------------------------------------------------------------------------------------------


def test_some_threads_are_followed_also_those_that_are_not_there_yet(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        threads = [e.threads.create(cwd="/") for _ in range(3)]
        with e.follow([threads[0].id, threads[1].id]) as follower:
            assert drain(follower) == []
            for thread in threads:
                say(thread, "a")
                thread.close()
            found = drain(follower)
            assert {each.thread_id for each in found} == {threads[0].id, threads[1].id}
            with e.threads.fork(threads[0].id) as child:
                say(child, "b")
            assert drain(follower) == []
        with pytest.raises(InvalidRequest):
            e.follow(["no id"])


def test_a_rollout_whose_name_tells_another_id_is_its_threads(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        say(thread, "a")
    path = only(home)
    path.rename(path.with_name(path.name.replace(thread.id, thread.id[:-4] + "abcd")))
    with opened(home) as e:
        e.backfill()
        for how in (None, [thread.id]):
            with e.follow(how, start="beginning") as follower:
                assert {each.thread_id for each in drain(follower)} == {thread.id}


# --- the journal ------------------------------------------------------------------------------------------------------


def test_decisions_come_too_when_asked_for_through_every_new_segment(tmp_path: Path) -> None:
    home = tmp_path / "home"
    options = Options(segment_bytes_max=300)
    with opened(home, options=options) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        e.threads.rename(thread.id, "before")
        with e.follow(decisions=True) as follower, e.follow([thread.id], decisions=True) as some, e.follow() as none:
            for number in range(6):
                e.threads.rename(thread.id, f"name {number}")
            with e.threads.create(cwd="/") as other:
                say(other, "a")
                e.threads.rename(other.id, "other")
            found = [each for each in drain(follower) if each.rollout_id is None]
            assert [each.record.payload.get("name") for each in found] == [f"name {number}" for number in range(6)] + [
                "other"
            ]
            assert [each.position.ordinal for each in found] == list(range(1, 8))
            assert [each.thread_id for each in drain(some)] == [thread.id] * 6
            assert {each.rollout_id for each in drain(none)} == {other.id}
            token = follower.token
        assert len(list((home / "engine/journal").iterdir())) > 2
        e.threads.rename(thread.id, "after")
        with e.follow(start=token) as follower:
            assert [each.record.payload["name"] for each in drain(follower)] == ["after"]


# --- how it behaves ---------------------------------------------------------------------------------------------------


def test_it_takes_no_lock_and_writes_nothing(tmp_path: Path) -> None:
    """On a home that cannot be written, too; the only calls are those that look and read."""
    home = tmp_path / "home"
    make_home(home, HomePlan(threads=8, seed=2, compressed=0.3))
    files = Faults()
    files.failing["layout.home"] = errno.EACCES
    looking = {"scan", "stat", "fstat", "kind", "open_read", "pread", "read", "seek", "close"}
    read_only = RecordingFiles(files)
    state = Home(str(home), None)
    with opened(tmp_path / "elsewhere") as e:
        follower = Follower(
            state,
            e._journal,
            e._history,
            e._alive,
            threads=None,
            start="beginning",
            decisions=False,
            options=Options(),
            clock=ManualClock(),
            files=read_only,
        )
        with follower:
            assert by_rollout(places(drain(follower))) == by_rollout(in_files(home))
        assert {call.name for call in read_only.calls} <= looking


def test_few_digests_are_kept_and_all_is_right_with_the_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home, options=Options(follow_streams_warm=2, flush_delay_ms=3_600_000)) as e:
        threads = [e.threads.create(cwd="/") for _ in range(5)]
        with e.follow() as follower:
            found: list[Any] = []
            for round_number in range(3):
                for thread in threads:
                    say(thread, f"{round_number}")
                found += drain(follower)
            assert by_rollout(places(found)) == by_rollout(in_files(home))
            assert len(follower._warm) == 2
            for thread in threads:
                thread.close()
            e.threads.redact(threads[0].id, ordinal=3)
            assert notices(drain(follower)) == [("rewritten", threads[0].id)]


def test_closing_from_another_thread_ends_the_wait_and_gives_the_token(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with engine.open(str(home)) as e:
        follower = e.follow()
        found: list[Any] = []
        waiting = threading.Thread(target=lambda: found.extend(follower))
        waiting.start()
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        while len(found) < 5:
            assert waiting.is_alive()
        follower.close()
        follower.close()
        waiting.join(30)
        assert not waiting.is_alive()
        with pytest.raises(StopIteration):
            next(follower)
        with e.follow(start=follower.token) as after:
            rest = drain(after, 5)
        assert len(found) + len(rest) == len(in_files(home))


def test_a_follower_that_is_closed_in_the_middle_of_a_rollout_gives_its_file_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        grown(home, e, 20)
        before = len(os.listdir("/proc/self/fd"))
        follower = e.follow(start="beginning")
        next(follower)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        follower.close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_home_ends_its_followers_with_an_error(tmp_path: Path) -> None:
    e = opened(tmp_path / "home")
    follower = e.follow()
    e.close()
    with pytest.raises(EngineClosed):
        next(follower)
    follower.close()
    with pytest.raises(EngineClosed):
        e.follow()


def test_a_rollout_that_is_between_two_folders_when_one_begins_is_old_all_the_same(tmp_path: Path) -> None:
    """Brought back just when the active folders were read and the archive was not: the second look meets it."""
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
        path = only(home)
        archived = home / "archived_sessions" / path.name
        archived.parent.mkdir()
        path.rename(archived)
        moved = []

        def move(_: int, call: Any) -> None:
            if call.name == "scan" and str(call.path).endswith("archived_sessions") and not moved:
                moved.append(archived.rename(path))

        with opened(home, ManualClock(seed=1), files=FaultyFiles(Files(), move)) as other, other.follow() as follower:
            assert moved
            assert drain(follower) == []
