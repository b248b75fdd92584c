"""The newest page of a rollout that is not indexed: read from its end, it is the page that the index would give."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.clock import SystemClock
from engine.options import Options
from engine.projections import turn_index, turn_tail
from engine.projections.turn_list import ItemQuery, TurnQuery, pick_items, pick_turns, read_picked_items, read_turns
from engine.projections.turn_tail import Newest, newest_of, scratch
from engine.stores.bodies import Bodies
from engine.testing import make_rollout
from engine.thread import Thread
from tests.conversing import THREAD, Lines, path_of
from tests.indexing import Indexed, written_home

NO_BACKGROUND = Options(background_scan_s=0)

turns = st.integers(0, 7)
items = st.sampled_from(["1", "2", None])
steps = st.one_of(
    st.tuples(st.just("start")),
    st.tuples(st.just("end"), turns),
    st.tuples(st.just("abort"), turns),
    st.tuples(st.just("user"), turns, items),
    st.tuples(st.just("agent"), turns, items),
    st.tuples(st.just("stray"), st.sampled_from(["x", "y", ""]), items),
    st.tuples(st.just("stray end"), st.sampled_from(["x", "y"])),
)


def rollout(made):
    """Each turn begins once, before its items and its end; those come whenever, also of turns that never began."""
    lines, begun = Lines(), 0
    for what, *rest in made:
        if what == "start":
            lines.started(f"t{begun}")
            begun += 1
        elif what in ("end", "abort"):
            if begun:
                getattr(lines, {"end": "complete", "abort": "aborted"}[what])(f"t{rest[0] % begun}")
        elif what == "stray end":
            lines.complete(rest[0])
        elif what == "stray":
            lines.user(*rest)
        elif begun:
            getattr(lines, what)(f"t{rest[0] % begun}", rest[1], text=f"{len(lines.lines)}")
    return lines.lines


def from_tail(indexed, limit, *, items_wanted):
    """The page, or None where the end does not tell it."""
    how = {"options": indexed.options, "files": indexed.files}
    found = indexed.head(THREAD)
    database = scratch(1, clock=SystemClock(), **how)
    newest = newest_of(indexed.home, found, Newest(limit, items_wanted), database, **how)
    with Bodies(indexed.home, **how) as bodies, newest as transaction:
        if transaction is None:
            return None
        segments = indexed.segments(THREAD)
        if items_wanted:
            picked = pick_items(transaction, THREAD, segments, ItemQuery(limit=limit, sort_direction="desc"))
            return read_picked_items(picked, bodies)
        return read_turns(pick_turns(transaction, THREAD, segments, TurnQuery(limit=limit, items_view="full")), bodies)


@settings(max_examples=150)
@given(st.lists(steps, min_size=4, max_size=40), st.sampled_from([1, 150, 400, 900]), st.integers(1, 4))
def test_a_page_from_the_end_is_that_of_the_index(tmp_path_factory, made, size, limit):
    home = tmp_path_factory.mktemp("home")
    indexed = Indexed(written_home(home, {path_of(): rollout(made)}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(turn_tail, "TAIL_BYTES_MIN", size)
        page = from_tail(indexed, limit, items_wanted=False)
        assert page is None or page == indexed.turns(THREAD, limit=limit, items_view="full")
        page = from_tail(indexed, limit, items_wanted=True)
        assert page is None or page == indexed.items(THREAD, limit=limit, sort_direction="desc")
    indexed.close()


def test_an_end_without_a_beginning_and_an_item_of_an_earlier_turn_make_it_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(turn_tail, "TAIL_BYTES_MIN", 1)
    lines = Lines()
    for name in "abcdefgh":
        lines.turn(name)
    for more, tells_turns, tells_items in (
        (lambda: None, True, True),
        (lambda: lines.user("a", "late"), True, False),
        (lambda: lines.complete("a-turn-of-its-own"), False, False),
    ):
        more()
        indexed = Indexed(written_home(tmp_path, {path_of(): lines.lines}))
        monkeypatch.setattr(turn_tail, "TAIL_BYTES_MAX", sum(map(len, lines.lines)) // 2)
        assert (from_tail(indexed, 2, items_wanted=False) is not None) == tells_turns
        assert (from_tail(indexed, 2, items_wanted=True) is not None) == tells_items
        indexed.close()


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A home with a thread that counts as large."""
    monkeypatch.setattr(turn_index, "BEHIND_BYTES_MIN", 1)
    monkeypatch.setattr(turn_tail, "TAIL_BYTES_MIN", 1_000)
    home = tmp_path / "home"
    return home, make_rollout(home, size=600_000, seed=3).id


def test_the_newest_page_is_there_at_once_and_its_cursor_leads_on_into_the_index(large: tuple[Path, str]) -> None:
    home, thread_id = large
    with engine.open(str(home), options=NO_BACKGROUND) as e:
        first = e.turns.list(thread_id, limit=3)
        newest = e.items.list(thread_id, limit=3, sort_direction="desc")
        assert first.partial is not None
        assert newest.partial is not None
        (side,) = (side for side in e._sides if side.name == "history")
        with side.database().read() as transaction:
            assert transaction.row("SELECT count(*) FROM turns") == (0,)
        rest = e.turns.list(thread_id, limit=0, cursor=first.next_cursor)
        assert rest.partial is None
        every = e.turns.list(thread_id, limit=0)
        assert first.turns + rest.turns == every.turns
        assert len(every.turns) > 10
        again = e.turns.list(thread_id, limit=3)
        assert (again.partial, again.turns, again.next_cursor) == (None, first.turns, first.next_cursor)
        assert e.items.list(thread_id, limit=3, sort_direction="desc").items == newest.items


@pytest.mark.parametrize("turns", [2, 12])
def test_a_fork_is_read_from_its_end_where_it_is_long_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """With too few turns of its own the page goes on in its parent, and the index has to tell."""
    monkeypatch.setattr(turn_index, "BEHIND_BYTES_MIN", 1)
    monkeypatch.setattr(turn_tail, "TAIL_BYTES_MIN", 500)
    with engine.open(str(tmp_path), options=NO_BACKGROUND) as e:
        with e.threads.create(cwd="/srv/app") as thread:
            for number in range(3):
                said(thread, f"parent {number}")
        with e.threads.fork(thread.id) as child:
            for number in range(turns):
                said(child, f"child {number}")
    with engine.open(str(tmp_path), options=NO_BACKGROUND) as e:
        first = e.turns.list(child.id, limit=3)
        newest = e.items.list(child.id, limit=3, sort_direction="desc")
        assert (first.partial is not None) == (turns > 3)
        rest = e.turns.list(child.id, limit=0, cursor=first.next_cursor)
        every = e.turns.list(child.id, limit=0)
        assert len(every.turns) == turns + 3
        assert first.turns + rest.turns == every.turns
        assert e.turns.list(child.id, limit=3).turns == first.turns
        assert e.items.list(child.id, limit=3, sort_direction="desc").items == newest.items


def test_a_rollout_that_this_engine_compressed_is_read_from_its_end_too(large: tuple[Path, str]) -> None:
    home, thread_id = large
    with engine.open(str(home), options=NO_BACKGROUND) as e:
        assert len(e.compress(older_than_days=-1).compressed) == 1
        first = e.turns.list(thread_id, limit=3)
        assert first.partial is not None
        rest = e.turns.list(thread_id, limit=0, cursor=first.next_cursor)
        assert first.turns + rest.turns == e.turns.list(thread_id, limit=0).turns
        assert e.turns.list(thread_id, limit=3).partial is None


def said(thread: Thread, word: str) -> None:
    with thread.turn() as turn:
        turn.user_message(word)
        turn.agent_message(f"answer to {word}")


def test_the_index_is_filled_behind_without_being_asked_for(large: tuple[Path, str]) -> None:
    home, thread_id = large
    with engine.open(str(home), options=Options(background_scan_s=3_600)) as e:
        first = e.turns.list(thread_id, limit=3)
        for _ in range(600):
            page = e.turns.list(thread_id, limit=3)
            if page.partial is None:
                break
            e._background._stop.wait(0.05)
        assert (page.partial, page.turns) == (None, first.turns)


def test_a_legacy_rollout_is_folded_before_it_is_answered_of(large: tuple[Path, str], tmp_path: Path) -> None:
    home = tmp_path / "legacy"
    thread_id = make_rollout(home, size=200_000, mode="legacy").id
    with engine.open(str(home), options=NO_BACKGROUND) as e:
        assert e.turns.list(thread_id, limit=3).partial is None
