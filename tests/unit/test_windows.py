"""Reading a window of a thread's history, forwards and backwards, in every form a rollout can have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine.errors import InvalidRequest
from engine.options import Options
from engine.projections.history import StoredRecord
from engine.stores.compression import compress
from engine.stores.files import Files
from engine.stores.layout import Home, locate
from engine.stores.recorder import Position
from engine.testing.files import RecordingFiles
from engine.testing.homes import HomePlan, make_home
from tests.writing import opened, rollouts, say

FORMS = ["plain", "framed", "one frame"]


def put_in_form(home: Path, form: str) -> None:
    """Every rollout of the home as it is, compressed by us, or compressed as the Codex CLI does."""
    for path in rollouts(home):
        full = home / path
        if form == "framed":
            in_home = Home(str(home), None)
            found = locate(in_home, path, Files())
            assert found is not None
            compress(in_home, found, options=Options(), files=Files())
        elif form == "one frame":
            full.with_name(f"{full.name}.zst").write_bytes(
                zstandard.ZstdCompressor(level=3).compress(full.read_bytes())
            )
            full.unlink()


@pytest.fixture(params=["paginated", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=FORMS)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[engine.Engine, str]]:
    """The grandchild of two forks, in each form: an open home and the thread's id."""
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as thread:
            turns = say(thread, "a", "b", "not theirs")
        with e.threads.fork(thread.id, through_turn=turns[1]) as child:
            turns = say(child, "c", "d", "nor this")
        with e.threads.fork(child.id, through_turn=turns[1]) as grandchild:
            say(grandchild, "e", "f")
    put_in_form(home, request.param)
    with opened(home, options=Options(block_bytes=512)) as e:
        yield e, grandchild.id


def words(found: Any) -> list[str]:
    said = (each.payload for each in found if each.kind == "response_item.message")
    return [payload["content"][0]["text"] for payload in said if payload["role"] == "user"]


def test_backwards_is_forwards_the_other_way_round_over_all_ancestors(family: tuple[engine.Engine, str]) -> None:
    e, thread_id = family
    whole = list(e.threads.read(thread_id))
    assert words(whole) == ["a", "b", "c", "d", "e", "f"]
    assert list(e.threads.read(thread_id, reverse=True)) == whole[::-1]
    assert [each.ordinal for each in whole if each.kind != "session_meta"] == sorted(
        each.ordinal for each in whole if each.kind != "session_meta" and each.ordinal is not None
    )


def test_every_window_between_two_records_holds_what_is_between_them(family: tuple[engine.Engine, str]) -> None:
    """Half open: behind `start`, as far as `end`; pages by `before` and by `position` meet without gap or overlap."""
    e, thread_id = family
    whole = list(e.threads.read(thread_id))
    for index in range(0, len(whole), 3):
        assert list(e.threads.read(thread_id, start=whole[index].position)) == whole[index + 1 :]
        assert list(e.threads.read(thread_id, end=whole[index].position)) == whole[: index + 1]
        assert list(e.threads.read(thread_id, end=whole[index].before)) == whole[:index]
        for other in range(index, len(whole), 7):
            between = {"start": whole[index].position, "end": whole[other].position}
            assert list(e.threads.read(thread_id, **between)) == whole[index + 1 : other + 1]
            assert (
                list(e.threads.read(thread_id, **between, reverse=True, limit=2))
                == whole[index + 1 : other + 1][:-3:-1]
            )
        assert list(e.threads.read(thread_id, start=whole[index].position, end=whole[max(index - 1, 0)].position)) == []


def pages(e: engine.Engine, thread_id: str, limit: int) -> Iterator[list[StoredRecord]]:
    end = None
    while page := list(e.threads.read(thread_id, end=end, limit=limit, reverse=True)):
        yield page
        end = page[-1].before


@pytest.mark.parametrize("limit", [1, 4, 1000])
def test_pages_backwards_join_to_the_whole(family: tuple[engine.Engine, str], limit: int) -> None:
    e, thread_id = family
    whole = list(e.threads.read(thread_id))
    assert [each for page in pages(e, thread_id, limit) for each in page] == whole[::-1]


def test_positions_of_a_legacy_thread_have_no_ordinal_and_work_alike(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/", history_mode="legacy") as thread:
        say(thread, "a", "b", "c")
        whole = list(thread.read())
        assert {each.ordinal for each in whole} == {None}
        for one, two in pairwise(whole):
            assert one.position == two.before == Position(None, two.offset)
        assert list(thread.read(whole[4].position, whole[7].position)) == whole[5:8]
        assert list(thread.read(end=whole[4].before, limit=2, reverse=True)) == [whole[3], whole[2]]
        assert thread.read(limit=1).__next__() == whole[0]


def test_a_limit_counts_in_the_direction_of_reading_and_none_is_no_record(tmp_path: Path, mode: str) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/", history_mode=mode) as thread:
        say(thread, "a")
        whole = list(thread.read())
        assert list(thread.read(limit=0)) == []
        assert list(thread.read(limit=3)) == whole[:3]
        assert list(thread.read(limit=3, reverse=True)) == whole[:-4:-1]


def test_what_is_no_window_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        say(thread, "a")
        last = list(thread.read())[-1]
        with pytest.raises(InvalidRequest, match="less than none"):
            thread.read(limit=-1)
        with pytest.raises(InvalidRequest, match="no position"):
            thread.read(end=Position(3, -5))
        for place in ({"start": Position(1, 10)}, {"end": Position(1, 10)}, {"end": Position(1, last.offset + 10_000)}):
            with pytest.raises(InvalidRequest, match="begins or ends at byte"):
                list(e.threads.read(thread.id, **place))


def test_a_torn_tail_and_damage_are_passed_over_backwards_as_forwards(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        say(thread, "a")
    (path,) = rollouts(home)
    with (home / path).open("ab") as file:
        file.write(b"\0\0\0\n\xff\xfe\n\r\n{}\n" + b'{"timestamp":"2026-01-05T09:00:00Z","type":"event_msg","pay')
    with opened(home) as e:
        whole = list(e.threads.read(thread.id))
        assert words(whole) == ["a"]
        assert list(e.threads.read(thread.id, reverse=True)) == whole[::-1]


@given(
    lines=st.lists(st.sampled_from([b"", b"x", b"\r", b"y" * 90, b"record", b"long record"]), max_size=12),
    tail=st.sampled_from([b"", b"record", b"torn"]),
    block_bytes=st.sampled_from([16, 100, 256 * 1024]),
)
def test_any_bytes_read_backwards_give_what_they_give_forwards(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], tail: bytes, block_bytes: int
) -> None:
    from engine.stores.windows import Part, read_parts

    forms = {
        b"record": b'{"timestamp":"t","type":"x","payload":{}}',
        b"long record": b'{"timestamp":"t","type":"x","payload":{"f":"%b"}}' % (b"z" * 200),
        b"torn": b'{"timestamp":"t","ty',
    }
    home = tmp_path_factory.mktemp("home")
    path = "sessions/2026/01/05/rollout-2026-01-05T09-00-00-01a20458-0000-7000-8000-000000000001.jsonl"
    (home / path).parent.mkdir(parents=True)
    (home / path).write_bytes(b"".join(forms.get(line, line) + b"\n" for line in lines) + forms.get(tail, tail))
    found = locate(Home(str(home), None), path, Files())
    assert found is not None
    how: dict[str, Any] = {"options": Options(block_bytes=block_bytes), "files": Files()}
    forwards = list(read_parts(Home(str(home), None), [Part(found)], reverse=False, **how))
    assert list(read_parts(Home(str(home), None), [Part(found)], reverse=True, **how)) == forwards[::-1]


@pytest.mark.parametrize("form", ["plain", "framed"])
def test_the_last_records_cost_no_more_than_they_are(tmp_path: Path, form: str) -> None:
    """Of 6 MB the last fifty records are read in a few blocks, and a page far inside is too."""
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        filler = {"type": "response_item", "payload": {"type": "message", "role": "user", "content": ["x" * 3_000]}}
        for _ in range(20):
            thread.append([filler] * 100, durability="buffered")
    put_in_form(home, form)
    files = RecordingFiles(Files())
    with opened(home, files=files) as e:
        e.threads.get(thread.id)
        files.forget()
        last = list(e.threads.read(thread.id, limit=50, reverse=True))
        assert [each.ordinal for each in last] == list(range(2000, 1950, -1))
        assert files.count("pread", op="rollout.read") <= 10
        files.forget()
        middle = e.threads.read(
            thread.id, end=Position(1000, last[0].offset - 999 * last[0].length), limit=2, reverse=True
        )
        assert [each.ordinal for each in middle] == [1000, 999]
        assert files.count("pread", op="rollout.read") <= 10


def test_every_thread_of_a_home_reads_alike_in_both_directions(tmp_path: Path) -> None:
    home = tmp_path / "home"
    plan = HomePlan(threads=16, seed=6, compressed=0.3, forks=0.3, reverted=0.2, subagents=0.2)
    made = make_home(home, plan)
    with opened(home, options=Options(block_bytes=4096)) as e:
        for each in made:
            whole = list(e.threads.read(each.id))
            assert list(e.threads.read(each.id, reverse=True)) == whole[::-1]
            middle = whole[len(whole) // 2]
            assert list(e.threads.read(each.id, start=middle.position)) == whole[len(whole) // 2 + 1 :]
            assert json.dumps(whole[0].payload)
