"""Forks: by reference or by copy, at the end, through a turn or before one, and of every kind of source."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.errors import AppendFailed, InvalidRequest, LineageBroken, TruthGone
from engine.options import Options
from engine.stores.compression import compress
from engine.stores.files import Files
from engine.stores.layout import Home, locate
from engine.testing import HomePlan, ManualClock, append_turns, make_home, read_lines
from engine.testing.files import Call, FaultyFiles
from tests.writing import Faults, kinds, opened, records, rollouts, said, say

LOOK = Options(flush_delay_ms=3_600_000, scan_interval_ms=0)


def path_of(home: Path, thread_id: str) -> Path:
    (path,) = (each for each in rollouts(home) if thread_id in each)
    return home / path


def note(text: str) -> dict[str, Any]:
    return {"type": "response_item", "payload": {"type": "web_search_call", "status": text}}


class Meanwhile(FaultyFiles):
    """Does something else just before the first call of an op, once it is told what."""

    def __init__(self, op: str) -> None:
        super().__init__(Files(), self._look)
        self.then: list[Callable[[], object]] = []
        self._op = op

    def _look(self, _: int, call: Call) -> None:
        if call.op == self._op and self.then:
            self.then.pop()()


ELSEWHERE: dict[str, Callable[[engine.Engine, str], object]] = {
    "compressed": lambda other, _: other.compress(older_than_days=1),
    "archived": lambda other, thread_id: other.threads.archive(thread_id),
    "brought back": lambda other, thread_id: other.threads.unarchive(thread_id),
    "erased": lambda other, thread_id: other.threads.erase(thread_id),
}
USES: dict[str, Callable[[engine.Engine, str], object]] = {
    "fork": lambda e, thread_id: e.threads.fork(thread_id).close(),
    "read": lambda e, thread_id: list(e.threads.read(thread_id)),
    "export": lambda e, thread_id: e.threads.export([thread_id], f"{e.home}/x.zip"),
    "goal": lambda e, thread_id: e.goals.usage(thread_id),
}


MOVED = [("fork", "fork.read"), *((use, "rollout.open") for use in USES)]
"""Who uses it, and the call that meets it elsewhere. An erasure waits for a fork: `test_forks_and_erasures.py`."""


@pytest.mark.parametrize(
    ("use", "op", "what"),
    [(use, op, what) for use, op in MOVED for what in ELSEWHERE if (use, what) != ("fork", "erased")],
)
def test_a_source_that_is_moved_meanwhile_is_found_where_it_is_and_an_erased_one_is_told(
    tmp_path: Path, use: str, op: str, what: str
) -> None:
    """It was located, and before it is opened another engine compresses, moves or erases it."""
    home, files, late = tmp_path / "home", Meanwhile(op), ManualClock(wall_ms=4_000_000_000_000)
    with opened(home, files=files) as e, opened(home, clock=late) as other:
        with e.threads.create(cwd="/") as thread:
            say(thread, "hello")
        if what == "brought back":
            e.threads.archive(thread.id)
        e.threads.list()
        files.then.append(lambda: ELSEWHERE[what](other, thread.id))
        if what == "erased":
            with pytest.raises(TruthGone) as caught:
                USES[use](e, thread.id)
            assert caught.value.hint
            assert caught.value.path
        else:
            USES[use](e, thread.id)
            assert said(other.threads.read(thread.id)) == ["hello"]
        assert files.then == []


def squeeze(home: Path, thread_id: str) -> None:
    """Compress a thread's rollout, as cold ones are."""
    path = str(path_of(home, thread_id).relative_to(home))
    found = locate(Home(str(home), str(home / "engine")), path, Files())
    assert found is not None
    compress(Home(str(home), str(home / "engine")), found, options=Options(), files=Files())


@pytest.mark.parametrize("mode", ["paginated", "legacy"])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("latest", ["a", "b", "c"]),
        ("through 1", ["a", "b"]),
        ("before 1", ["a"]),
        ("before 0", []),
        ("through 2", ["a", "b", "c"]),
    ],
)
def test_a_fork_has_what_was_said_before_its_place_and_goes_on_alone(
    tmp_path: Path, mode: str, place: str, words: list[str]
) -> None:
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/", history_mode=mode) as parent:
        turns = say(parent, "a", "b", "c")
        where, _, number = place.partition(" ")
        child = e.threads.fork(parent.id, **({f"{where}_turn": turns[int(number)]} if number else {}))
        assert said(child.read()) == words
        say(child, "mine")
        say(parent, "theirs")
        assert said(child.read()) == [*words, "mine"]
        assert said(e.threads.read(child.id)) == [*words, "mine"]
        assert said(parent.read()) == ["a", "b", "c", "theirs"]
        row = e.threads.get(child.id)
        assert row is not None
        assert (row.forked_from_id, row.history_mode) == (parent.id, mode)
        assert e.audit(deep=True).findings == []


def test_a_fork_by_reference_copies_nothing_and_its_ordinals_go_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/srv", model="m") as parent:
        say(parent, "a")
        end = parent.position
        with e.threads.fork(parent.id) as child:
            say(child, "b")
    meta = records(path_of(home, child.id))[0]
    assert meta["ordinal"] == 8
    assert meta["payload"]["history_base"] == {
        "thread_id": parent.id,
        "end_ordinal_exclusive": 8,
        "end_byte_offset": end.offset,
    }
    assert meta["payload"]["forked_from_ordinal_exclusive"] == 8
    assert meta["payload"]["cwd"] == "/srv"
    assert kinds(path_of(home, child.id)).count("task_started") == 1


@pytest.mark.parametrize("squeezed", [False, True])
def test_the_token_total_of_a_fork_goes_on_from_where_its_source_was(tmp_path: Path, squeezed: bool) -> None:
    """As the Codex CLI's own forks do: its first count is what was used before its place and by itself."""
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as parent:
            with parent.turn() as first:
                first.token_usage(input_tokens=100, cached_input_tokens=7)
            with parent.turn():
                pass
            with parent.turn() as last:
                last.token_usage(input_tokens=1_000)
        if squeezed:
            squeeze(home, parent.id)
        totals = {}
        for place, before in {"latest": None, "before": last.id}.items():
            with e.threads.fork(parent.id, before_turn=before) as child:
                assert e.threads.get(child.id).tokens_used == 0
                with e.threads.fork(child.id) as grandchild, grandchild.turn() as turn:
                    turn.token_usage(output_tokens=3)
                usage = records(path_of(home, grandchild.id))[-2]["payload"]["info"]["total_token_usage"]
                totals[place] = (usage["total_tokens"], usage["cached_input_tokens"])
                assert e.threads.get(grandchild.id).tokens_used == usage["total_tokens"]
    assert totals == {"latest": (1_103, 7), "before": (103, 7)}


def test_the_token_total_of_a_fork_without_its_source_begins_at_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        with e.threads.create(cwd="/") as parent, parent.turn() as turn:
            turn.token_usage(input_tokens=100)
        child = e.threads.fork(parent.id)
        path_of(home, parent.id).unlink()
        with child.turn() as turn:
            turn.token_usage(input_tokens=2)
        assert e.threads.get(child.id).tokens_used == 2


def test_a_legacy_copy_keeps_the_times_of_what_it_copies(tmp_path: Path) -> None:
    home, clock = tmp_path / "home", ManualClock()
    with opened(home, clock) as e, e.threads.create(cwd="/", history_mode="legacy") as parent:
        say(parent, "a")
        clock.advance(60_000)
        with e.threads.fork(parent.id) as child:
            say(child, "b")
    old, new = "2026-01-05T09:00:00.000Z", "2026-01-05T09:01:00.000Z"
    assert [each["timestamp"] for each in records(path_of(home, child.id))] == [new] + [old] * 8 + [new] * 7
    assert not any("ordinal" in each for each in records(path_of(home, child.id)))


def test_forks_of_forks_read_through_all_of_their_ancestors(tmp_path: Path) -> None:
    """The place may lie in a grandparent: then the fork refers to that one."""
    home = tmp_path / "home"
    with opened(home) as e:
        one = e.threads.create(cwd="/")
        first, second = say(one, "1", "2")
        two = e.threads.fork(one.id)
        say(two, "3")
        three = e.threads.fork(two.id)
        say(three, "4")
        four = e.threads.fork(three.id, before_turn=second)
        say(four, "5")
        assert said(three.read()) == ["1", "2", "3", "4"]
        assert said(four.read()) == ["1", "5"]
        five = e.threads.fork(four.id, through_turn=first)
        assert said(five.read()) == ["1"]
        assert records(path_of(home, four.id))[0]["payload"]["history_base"]["thread_id"] == one.id
        usage = [each.kind for each in three.read()].count("session_meta")
        assert usage == 3


@pytest.mark.parametrize("mode", ["paginated", "legacy"])
def test_the_source_may_be_archived_compressed_or_both_before_and_after(tmp_path: Path, mode: str) -> None:
    home = tmp_path / "home"
    with opened(home, options=LOOK) as e:
        with e.threads.create(cwd="/", history_mode=mode) as parent:
            turns = say(parent, "a", "b")
        before = e.threads.fork(parent.id, through_turn=turns[0])
        e.threads.archive(parent.id)
        archived = e.threads.fork(parent.id, through_turn=turns[0])
        squeeze(home, parent.id)
        both = e.threads.fork(parent.id, before_turn=turns[1])
        latest = e.threads.fork(parent.id)
        e.threads.unarchive(parent.id)
        compressed = e.threads.fork(parent.id)
        for child, words in (
            (before, ["a"]),
            (archived, ["a"]),
            (both, ["a"]),
            (latest, ["a", "b"]),
            (compressed, ["a", "b"]),
        ):
            assert said(child.read()) == words
            say(child, "own")
            assert said(child.read()) == [*words, "own"]
        assert path_of(home, parent.id).name.endswith(".zst")
        with e.threads.resume(parent.id) as parent:
            say(parent, "c")
            assert said(parent.read()) == ["a", "b", "c"]
        assert said(latest.read()) == ["a", "b", "own"]
        assert e.audit().findings == []


def test_every_kind_of_foreign_thread_can_be_forked_and_reads_the_same(tmp_path: Path) -> None:
    """Reverted, forked, sub-agents, both modes, compressed: of each what its own lineage reads, and no line more."""
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=24, seed=5, reverted=0.1, forks=0.2, compressed=0.2, archived=0.2))
    assert {bool(each.older_paths) for each in made} == {True, False}
    with opened(home, options=LOOK) as e:
        for each in made:
            whole = [record[:4] for record in e.threads.read(each.id)]
            assert len(whole) >= each.records
            with e.threads.fork(each.id) as child:
                forked = [record[:4] for record in child.read()]
            if e.goals.get(each.id) is not None:
                *forked, (_, _, kind, payload) = forked
                assert (kind, payload["threadId"]) == ("event_msg.thread_goal_updated", child.id)
            assert (forked[1:] if each.history_mode == "legacy" else forked[:-1]) == whole
        assert [finding for finding in e.audit().findings if finding.severity == "error"] == []


def test_a_turn_that_is_open_or_unknown_or_two_places_at_once_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as parent:
        (done,) = say(parent, "a")
        turn = parent.turn()
        turn.__enter__()
        turn.user_message("b")
        wrong: list[dict[str, Any]] = [
            {"through_turn": turn.id},
            {"through_turn": "no such turn"},
            {"before_turn": "no such turn"},
            {"through_turn": done, "before_turn": done},
            {"durability": "fast"},
        ]
        for how in wrong:
            with pytest.raises(InvalidRequest) as caught:
                e.threads.fork(parent.id, **how)
            assert caught.value.hint
        assert len(rollouts(home)) == 1
        assert said(e.threads.fork(parent.id, before_turn=turn.id).read()) == ["a"]
        assert said(e.threads.fork(parent.id).read()) == ["a", "b"]


def test_a_torn_tail_is_not_part_of_a_fork(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home, options=LOOK) as e:
        with e.threads.create(cwd="/") as parent:
            say(parent, "a")
        with open(path_of(home, parent.id), "ab") as file:
            file.write(b'{"timestamp":"2026-')
        with e.threads.fork(parent.id) as child:
            say(child, "b")
            with e.threads.resume(parent.id) as parent:
                say(parent, "c")
            assert said(child.read()) == ["a", "b"]


def test_a_fork_whose_source_is_gone_says_so_and_what_is_its_own_is_still_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home, options=LOOK) as e:
        with e.threads.create(cwd="/") as parent:
            say(parent, "a")
        child = e.threads.fork(parent.id)
        start = child.position
        say(child, "b")
        path_of(home, parent.id).unlink()
        with pytest.raises(LineageBroken) as caught:
            child.read()
        assert caught.value.hint
        assert said(child.read(start)) == ["b"]
        with pytest.raises(LineageBroken):
            e.threads.fork(child.id)
        assert len(rollouts(home)) == 1


def test_a_source_that_another_program_writes_is_forked_where_it_ended(tmp_path: Path) -> None:
    """What that program writes afterwards is not the fork's."""
    home = tmp_path / "home"
    made = next(each for each in make_home(home, HomePlan(threads=4, paginated=1.0)) if not each.row["archived"])
    with opened(home, options=LOOK) as e:
        before = list(e.threads.read(made.id))
        child = e.threads.fork(made.id)
        append_turns(home, made)
        assert list(child.read())[:-1] == before
        assert len(list(read_lines(home, made.path))) > made.records


@pytest.mark.parametrize("op", ["fork.create", "fork.write", "fork.sync", "fork.link"])
def test_a_copy_that_fails_leaves_nothing_and_can_be_made_again(tmp_path: Path, op: str) -> None:
    home, files = tmp_path / "home", Faults()
    with opened(home, files=files) as e, e.threads.create(cwd="/", history_mode="legacy") as parent:
        say(parent, "a")
        before = rollouts(home)
        files.failing = {op: errno.ENOSPC}
        with pytest.raises(AppendFailed) as caught:
            e.threads.fork(parent.id)
        assert caught.value.hint
        assert rollouts(home) == before
        files.failing = {}
        assert said(e.threads.fork(parent.id).read()) == ["a"]
        assert len(list((home / "engine" / "locks" / "threads").glob("*.lock"))) == 2


def test_what_a_fork_goes_on_from_is_synced_before_the_fork_is_there(tmp_path: Path) -> None:
    """The source was only buffered: after a power cut the fork would point behind its end."""
    home, files = tmp_path / "home", Faults()
    with opened(home, files=files) as e, e.threads.create(cwd="/", durability="buffered") as parent:
        say(parent, "a")
        files.forget()
        e.threads.fork(parent.id)
        ops = [call.op for call in files.calls if call.name in ("sync", "link")]
        assert ops.index("fork.sync") < ops.index("recorder.link")
        assert files.paths("sync", op="fork.sync") == [str(path_of(home, parent.id))]


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut at once", "not even cut"])
def test_what_was_not_acknowledged_is_not_part_of_a_fork(tmp_path: Path, *, is_cut: bool) -> None:
    """Once it was, and the fork read what the next append put in its place."""
    files = Faults()
    with opened(tmp_path / "home", files=files) as e, e.threads.create(cwd="/") as parent:
        say(parent, "a")
        files.failing = {"recorder.sync": errno.EIO} | ({} if is_cut else {"recorder.undo": errno.EIO})
        with pytest.raises(AppendFailed):
            parent.append([note("b")])
        files.failing.clear()
        child = e.threads.fork(parent.id)
        parent.append([note("c")])
        notes = [[record.payload for record in each.read() if record.kind.endswith("call")] for each in (child, parent)]
        assert notes == [[], [note("c")["payload"]]]


def test_a_fork_needs_no_lock_of_its_source(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as parent:
        say(parent, "a")
        with engine.open(str(tmp_path / "home")) as other, other.threads.fork(parent.id) as child:
            assert said(child.read()) == ["a"]
