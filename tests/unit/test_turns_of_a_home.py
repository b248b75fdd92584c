"""Turns and items through the engine: of every kind of thread, at the first question, whatever becomes of their database."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

import engine
from engine.errors import EngineClosed, InvalidCursor, InvalidRequest, ThreadNotFound
from engine.options import Options
from engine.projections import turn_index
from engine.projections.side import Side
from engine.projections.side_check import compare_side
from engine.stores.layout import find
from engine.testing import HomePlan, make_home
from tests.conversing import PARENT, THREAD, Lines, path_of
from tests.indexing import Indexed, written_home
from tests.removing import CANARY, fork, holding, rollout_of, talk
from tests.writing import say

NOBODY = "01990000-0000-7000-8000-0000000000ff"
EAGER = Options(scan_interval_ms=0, list_budget_ms=60_000)
HURRIED = Options(scan_interval_ms=0, busy_wait_ms=300)
FILE = "history_1.sqlite"


def opened(home: Path, **how: Any) -> engine.Engine:
    home.mkdir(exist_ok=True)
    return engine.open(str(home), options=how.pop("options", EAGER), **how)


def ids(page: Any) -> list[str]:
    return [turn.id for turn in page.turns]


def texts(turn: Any) -> list[str]:
    """What the messages of a turn say."""
    return [item["text"] if "text" in item else item["content"][0]["text"] for item in turn.items]


def history(e: engine.Engine) -> Side:
    (side,) = (side for side in e._sides if side.name == "history")
    return side


def counted(e: engine.Engine, table: str = "turns") -> int:
    with history(e).database().read() as transaction:
        return int(transaction.row(f"SELECT count(*) FROM {table}")[0])


def written(home: Path, *rollouts: Lines, folder: str = "sessions/2026/01/05") -> Path:
    written_home(home, {path_of(lines.thread_id, folder=folder): lines.lines for lines in rollouts})
    return home


def many(count: int, first: int = 1, lines: Lines | None = None) -> Lines:
    lines = lines or Lines()
    for number in range(first, first + count):
        lines.turn(f"t{number}")
    return lines


def parent_and_child() -> tuple[Lines, Lines]:
    parent = Lines(thread_id=PARENT).turn("p1").turn("p2")
    child = Lines(ordinal=parent.ordinal, history_base=parent.base).turn("c1")
    return parent, child


# Every kind of thread.


def test_a_thread_that_is_written_here_shows_each_turn_as_soon_as_it_is_begun(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/srv/app") as thread:
        (first,) = say(thread, "one")
        with thread.turn() as turn:
            turn.user_message("two")
            turn.tool_call("shell", {"command": ["ls"]}, call_id="c1")
            page = e.turns.list(thread.id)
            assert [(each.id, each.status) for each in page.turns] == [(turn.id, "in_progress"), (first, "completed")]
            assert texts(page.turns[0]) == ["two"]
            turn.tool_output("c1", "README.md")
            turn.agent_message("done")
        page = e.turns.list(thread.id, sort_direction="asc", items_view="none")
        assert [(each.id, each.status, each.items) for each in page.turns] == [
            (first, "completed", []),
            (turn.id, "completed", []),
        ]
        assert page.partial is None
        assert [each.turn_id for each in e.items.list(thread.id, first).items] == [first, first]
        assert len(e.items.list(thread.id, limit=0).items) == len(
            [item for each in e.turns.list(thread.id, items_view="full").turns for item in each.items]
        )


def test_an_open_turn_is_in_progress_while_somebody_has_the_thread_open_for_writing(tmp_path: Path) -> None:
    lines = Lines(rolloutdb="0.1.0").turn("t1").started("t2").user("t2", "t2-u")
    home = written(tmp_path / "home", lines)
    with opened(home) as e, opened(home) as other:
        assert [turn.status for turn in e.turns.list(THREAD).turns] == ["interrupted", "completed"]
        with other.threads.resume(THREAD, adopt=True):
            assert [turn.status for turn in e.turns.list(THREAD).turns] == ["in_progress", "completed"]
        assert [turn.status for turn in e.turns.list(THREAD).turns] == ["interrupted", "completed"]


@pytest.mark.parametrize("compressed", [0.0, 0.5], ids=["plain", "some compressed"])
def test_every_thread_of_a_home_has_the_pages_of_a_bare_fold(tmp_path: Path, compressed: float) -> None:
    """Legacy and paginated, forks, sub-agents, reverted and archived ones, by an index that is made by another way."""
    home = tmp_path / "home"
    plan = HomePlan(
        threads=14,
        seed=9,
        bytes_max=30_000,
        paginated=0.5,
        archived=0.2,
        forks=0.3,
        reverted=0.2,
        compressed=compressed,
    )
    made = make_home(home, plan)
    bare = Indexed(home)
    with opened(home, state_dir=str(tmp_path / "state")) as e:
        turns = 0
        for each in made:
            for view in ("summary", "full"):
                ours = e.turns.list(each.id, limit=0, items_view=view)
                assert ours == bare.turns(each.id, limit=0, items_view=view)
            assert e.items.list(each.id, limit=0) == bare.items(each.id, limit=0)
            turns += len(ours.turns)
        assert turns > len(made)
        assert e.audit().findings == []
    bare.close()


def test_a_fork_by_reference_shows_what_it_goes_on_from_also_archived_and_compressed(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        parent = talk(e, "one", "two")
        child = fork(e, parent, "three")
        before = e.turns.list(child, sort_direction="asc")
        assert [texts(turn)[0] for turn in before.turns] == ["one", "two", "three"]
        e.threads.archive(parent)
        assert e.turns.list(child, sort_direction="asc") == before
        e.compress(older_than_days=0)
        assert holding(tmp_path / "home", ".zst")
        assert e.turns.list(child, sort_direction="asc") == before
        assert len(e.turns.list(parent).turns) == 2
        e.backfill()
        assert e.audit().findings == []


def test_a_fork_and_its_source_that_were_dropped_in_are_there_at_the_first_question(tmp_path: Path) -> None:
    """No time is left for a look at the home: both are found by the names of their files."""
    home = written(tmp_path / "home", *parent_and_child())
    with opened(home, options=Options(list_budget_ms=0)) as e:
        page = e.turns.list(THREAD, sort_direction="asc")
        assert (ids(page), page.partial) == (["p1", "p2", "c1"], None)


def test_what_another_program_appends_moves_and_takes_back_is_there_at_the_next_question(tmp_path: Path) -> None:
    home = written(tmp_path / "home", many(2))
    with opened(home) as e:
        assert ids(e.turns.list(THREAD)) == ["t2", "t1"]
        written(home, many(3))
        assert ids(e.turns.list(THREAD)) == ["t3", "t2", "t1"]
        shutil.move(home / path_of(), home / path_of(folder="archived_sessions").replace("archived_sessions/", ""))
        (home / "archived_sessions").mkdir()
        shutil.move(home / Path(path_of()).name, home / path_of(folder="archived_sessions"))
        assert ids(e.turns.list(THREAD)) == ["t3", "t2", "t1"]
        written(home, many(1), folder="archived_sessions")
        assert ids(e.turns.list(THREAD)) == ["t1"]
        e.backfill()
        assert counted(e, "rollouts") == 1


def test_a_fork_whose_source_is_gone_shows_its_own_turns_and_says_that_some_are_missing(tmp_path: Path) -> None:
    parent, child = parent_and_child()
    home = written(tmp_path / "home", parent, child)
    with opened(home) as e:
        assert ids(e.turns.list(THREAD)) == ["c1", "p2", "p1"]
        os.unlink(home / path_of(PARENT))
        page = e.turns.list(THREAD)
        assert ids(page) == ["c1"]
        assert (page.partial.files_done, page.partial.files_total, page.partial.unread) == (1, None, 1)


# Pages.


def test_pages_lead_both_ways_while_the_thread_grows(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/srv/app") as thread:
        turns = say(thread, *"abcde")
        page = e.turns.list(thread.id, limit=2)
        first, seen = page, ids(page)
        while page.next_cursor is not None:
            turns += say(thread, "more")
            page = e.turns.list(thread.id, limit=2, cursor=page.next_cursor)
            seen += ids(page)
        assert seen == turns[4::-1]
        newer = e.turns.list(thread.id, limit=0, cursor=first.backwards_cursor, sort_direction="asc")
        assert ids(newer) == turns[4:]
        items = e.items.list(thread.id, limit=3)
        after = e.items.list(thread.id, limit=0, cursor=items.next_cursor)
        assert [*items.items, *after.items] == e.items.list(thread.id, limit=0).items
        assert len(after.items) == 2 * len(turns) - 3


def test_what_cannot_be_asked_is_a_typed_error(tmp_path: Path) -> None:
    home = written(tmp_path / "home", many(3), Lines(thread_id=PARENT).turn("p"))
    with opened(home) as e:
        cursor = e.turns.list(THREAD, limit=1).next_cursor
        for ask in (e.turns.list, e.items.list):
            with pytest.raises(InvalidRequest, match="not a thread id"):
                ask("nobody")
            with pytest.raises(ThreadNotFound):
                ask(NOBODY)
            with pytest.raises(InvalidCursor):
                ask(THREAD, cursor="nonsense")
            with pytest.raises(InvalidRequest, match="limit"):
                ask(THREAD, limit=-1)
        with pytest.raises(InvalidCursor, match="another thread"):
            e.turns.list(PARENT, cursor=cursor)
        with pytest.raises(InvalidRequest, match="view"):
            e.turns.list(THREAD, items_view="some")  # type: ignore[arg-type]
        assert e.items.list(THREAD, "no such turn").items == []
        assert ids(e.turns.list(THREAD.upper())) == ["t3", "t2", "t1"]
    with pytest.raises(EngineClosed):
        e.turns.list(THREAD)


# Bounds.


def test_a_thread_that_is_not_indexed_to_its_end_is_told_as_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large rollout is folded in pieces: until its last one is there the list is short, and says so."""
    home = written(tmp_path / "home", many(60))
    with opened(home, options=Options(piece_bytes=4_000, block_bytes=1_000)) as e:
        runner = history(e)._ready().runner
        late = iter([False, True])
        runner.fold(runner.stale(find(e._home, THREAD, e._files)), lambda: next(late))
        monkeypatch.setattr(turn_index, "FOLLOW_MS", 0)
        page = e.turns.list(THREAD, limit=0)
        assert 0 < len(page.turns) < 60
        assert (page.partial.files_done, page.partial.files_total, page.partial.unread) == (0, 1, 0)
        monkeypatch.undo()
        page = e.turns.list(THREAD, limit=0)
        assert (len(page.turns), page.partial) == (60, None)


def test_a_question_folds_the_rollouts_of_its_thread_alone(tmp_path: Path) -> None:
    home = written(tmp_path / "home", *parent_and_child(), Lines(thread_id=THREAD[:-1] + "d").turn("other"))
    with opened(home) as e:
        e.turns.list(THREAD)
        assert counted(e, "rollouts") == 2
        e.backfill()
        assert counted(e, "rollouts") == 3


def test_the_background_and_a_back_fill_fill_it_and_status_tells_how_it_stands(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home, HomePlan(threads=6, seed=4, bytes_max=12_000))

    def stands(e: engine.Engine) -> tuple[str, str, bool]:
        (found,) = (each for each in e.status().projections if each.name == "turns")
        assert found.lag is not None
        return found.name, found.database, found.lag.files == 0

    for state, fill in (("a", lambda e: e.backfill()), ("b", lambda e: e._sides.tend(lambda: False))):
        with opened(home, state_dir=str(tmp_path / state)) as e:
            assert stands(e) == ("turns", "history", False)
            fill(e)
            assert stands(e) == ("turns", "history", True)
            assert counted(e) > 6


# Whatever becomes of the file.


def remove(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def garble(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 1_000)


def cut(path: Path) -> None:
    os.truncate(path, 20_000)


@pytest.mark.parametrize("damage", [remove, garble, cut])
@pytest.mark.parametrize("while_open", [True, False], ids=["while it is open", "while nobody has it"])
def test_after_the_database_was_lost_the_first_question_has_all_turns(
    tmp_path: Path, damage: Callable[[Path], None], while_open: bool
) -> None:
    home = written(tmp_path / "home", *parent_and_child(), many(40, lines=Lines(thread_id=THREAD[:-1] + "d")))
    with opened(home) as e:
        before = e.turns.list(THREAD)
        assert len(before.turns) == 3
        e.backfill()
        if while_open:
            damage(home / "engine" / FILE)
            assert e.turns.list(THREAD) == before
    if not while_open:
        damage(home / "engine" / FILE)
    with opened(home) as e:
        assert len(e.threads.list().threads) == 3
        assert e.turns.list(THREAD) == before


@contextmanager
def locked(path: Path) -> Iterator[None]:
    connection = apsw.Connection(str(path))
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def test_while_somebody_keeps_it_locked_the_rows_answer_and_nothing_else_notices(tmp_path: Path) -> None:
    home = written(tmp_path / "home", Lines(thread_id=PARENT).turn("p1"))
    with opened(home, options=HURRIED) as e, e.threads.create(cwd="/srv/app") as thread:
        turns = say(thread, "one")
        assert ids(e.turns.list(thread.id)) == turns
        with locked(home / "engine" / FILE):
            more = say(thread, "two")
            page = e.turns.list(thread.id)
            assert (ids(page), page.partial.files_done, page.partial.files_total) == (turns, 0, 1)
            assert len(e.threads.list().threads) == 2
            assert e.backfill().status == "complete"
            with opened(home, options=HURRIED) as other:
                assert len(other.threads.list().threads) == 2
        page = e.turns.list(thread.id)
        assert (ids(page), page.partial) == (more + turns, None)


# Removals, audit and repair.


def test_an_erased_thread_has_no_row_in_it_and_the_receipt_says_how_many_went(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        kept, gone = talk(e, "kept"), talk(e, "gone", "as well")
        assert len(e.turns.list(gone).turns) == 2
        e.turns.list(kept)
        receipt = e.threads.erase(gone)
        (told,) = (store for store in receipt.stores if store.store == "history")
        assert told.removed == 2 + 4 + 1  # turns, items, and the rollout
        assert (counted(e), counted(e, "items"), counted(e, "rollouts")) == (1, 2, 1)
        with pytest.raises(ThreadNotFound):
            e.turns.list(gone)
    assert gone.encode() not in (home / "engine" / FILE).read_bytes()


def test_a_redacted_record_is_shown_as_what_it_says_now(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        thread = talk(e, f"{CANARY} said")
        assert CANARY in texts(e.turns.list(thread).turns[0])[0]
        lines = rollout_of(home, thread).read_bytes().splitlines(keepends=True)
        for place, line in enumerate(lines):
            if CANARY.encode() in line:
                e.threads.redact(thread, offset=sum(map(len, lines[:place])))
        (turn,) = e.turns.list(thread, items_view="full").turns
        assert CANARY not in str(turn)
        assert CANARY not in str(e.items.list(thread, limit=0))
        assert list(compare_side(e._side_parts, history(e))) == []


WRONG = {
    "a changed row": "UPDATE turns SET status = 2 WHERE status = 1",
    "a lost row": "DELETE FROM items WHERE type = 1",
    "a row too many": "INSERT INTO parts VALUES ((SELECT min(number) FROM rollouts), 1, 2, 3)",
    "rows of no rollout": "INSERT INTO rollbacks VALUES (99, 1, 2)",
    "a rollout without its number": "DELETE FROM rollouts",
    "rows of a rollout that was not followed": "DELETE FROM watermarks",
}


@pytest.mark.parametrize("by", ["repair", "rebuild"])
@pytest.mark.parametrize("sql", WRONG.values(), ids=WRONG)
def test_an_audit_names_wrong_rows_and_a_repair_or_a_rebuild_mends_them(tmp_path: Path, sql: str, by: str) -> None:
    home = written(tmp_path / "home", *parent_and_child())
    with opened(home) as e:
        e.backfill()
        before = e.turns.list(THREAD)
        assert e.audit().findings == []
        with history(e).database().write() as transaction:
            transaction.run(sql)
        found = e.audit().findings
        assert {(each.class_, each.mend) for each in found} == {("wrong_rows", "rolloutdb repair")}
        report = getattr(e, by)()
        if by == "repair":
            assert {(each.step.action, each.step.target, each.outcome) for each in report.steps} == {
                ("fold_side", "history", "done")
            }
            assert report.left == []
        assert e.audit().findings == []
        assert e.turns.list(THREAD) == before
        assert counted(e, "rollouts") == 2


DAMAGED = {
    "an index is gone": ["DROP INDEX items_by_turn"],
    "a column has another name": [
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, 'plain_agent', 'plajn_agent') WHERE name = 'turns'",
    ],
}


@pytest.mark.parametrize("statements", DAMAGED.values(), ids=DAMAGED)
def test_an_audit_names_a_damaged_index_and_a_repair_sets_it_aside_and_fills_a_new_one(
    tmp_path: Path, statements: list[str]
) -> None:
    home = written(tmp_path / "home", *parent_and_child())
    with opened(home) as e:
        e.backfill()
        before = e.turns.list(THREAD)
    connection = apsw.Connection(str(home / "engine" / FILE))
    for statement in statements:
        connection.execute(statement)
    connection.close()
    with opened(home) as e:
        (found,) = e.audit().findings
        assert (found.class_, found.field, found.mend) == ("damaged_database", "history", "rolloutdb repair")
        report = e.repair()
        assert [(each.step.action, each.outcome) for each in report.steps] == [
            ("replace_database", "done"),
            ("index", "done"),
        ]
        assert (report.left, e.audit().findings) == ([], [])
        assert counted(e, "rollouts") == 2  # filled by the repair, not by the question below
        assert e.turns.list(THREAD) == before
    assert len(list((home / "engine/quarantine").glob(f"*/{FILE}"))) == 1
