"""Pages of threads: exact under ties, inserts and updates, in both directions; filters, counts, get and fetch."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.errors import InvalidCursor, InvalidRequest, ThreadNotFound
from engine.options import Options
from engine.projections.thread_list import ThreadRow
from engine.projections.threads import COLUMNS
from engine.stores.files import Files
from engine.testing import HomePlan, append_turns, make_home, make_rollout
from engine.testing.clock import ManualClock
from engine.testing.files import RecordingFiles

T0 = 1767603600000
"""2026-01-05T09:00:00Z."""
KEYS = ("created_at", "updated_at", "recency_at")


def thread_id(number):
    return f"019b8d3c-0000-7000-8000-{number:012d}"


def stamp(ms):
    seconds = ms // 1000
    return f"2026-01-05T{9 + seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms % 1000:03}Z"


def line(ms, type_, payload):
    return json.dumps({"timestamp": stamp(ms), "type": type_, "payload": payload}).encode() + b"\n"


def put(home, number, *, created=0, updated=None, turn=None, said=None, archived=False, **meta):
    """A rollout of one thread whose times are these milliseconds after T0."""
    folder = home / ("archived_sessions" if archived else "sessions/2026/01/05")
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "id": thread_id(number),
        "timestamp": stamp(created),
        "cwd": "/a",
        "source": "cli",
        "model_provider": "openai",
    }
    made = [line(created, "session_meta", fields | meta)]
    if turn is not None:
        made.append(line(turn, "event_msg", {"type": "task_started", "turn_id": "t"}))
    if said is not None:
        made.append(line(created, "event_msg", {"type": "user_message", "message": said}))
    made.append(line(created if updated is None else updated, "world_state", {}))
    path = folder / f"rollout-2026-01-05T09-00-00-{thread_id(number)}.jsonl"
    path.write_bytes(b"".join(made))
    return path


@pytest.fixture
def home(tmp_path):
    (tmp_path / "sessions").mkdir()
    return tmp_path


@pytest.fixture
def opened(home):
    with engine.open(str(home), options=Options(scan_interval_ms=0, list_budget_ms=60_000)) as found:
        yield found


def numbers(page):
    return [int(row.id[-12:]) for row in page.threads]


def walk(opened, *, limit, cursor=None, **query):
    """All pages from a cursor on, as numbers."""
    found = []
    while True:
        page = opened.threads.list(limit=limit, cursor=cursor, **query)
        found.append(numbers(page))
        cursor = page.next_cursor
        if cursor is None:
            return found


def test_a_page_is_in_the_order_of_its_key_and_then_of_the_id(home, opened):
    put(home, 1, created=1000, updated=5000, turn=2000)
    put(home, 2, created=2000, updated=5000, turn=4000)
    put(home, 3, created=3000, updated=4000, turn=3000)
    assert [numbers(opened.threads.list(sort_key=key)) for key in KEYS] == [[3, 2, 1], [2, 1, 3], [2, 3, 1]]
    assert [numbers(opened.threads.list(sort_key=key, sort_direction="asc")) for key in KEYS] == [
        [1, 2, 3],
        [3, 1, 2],
        [1, 3, 2],
    ]
    assert numbers(opened.threads.list()) == [2, 1, 3]


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_every_thread_is_on_one_page_whatever_ties(home, opened, limit, direction):
    for number in range(7):
        put(home, number, created=1000 * (number // 4))
    pages = walk(opened, limit=limit, sort_direction=direction)
    found = [number for page in pages for number in page]
    assert found == (list(range(7)) if direction == "asc" else [6, 5, 4, 3, 2, 1, 0])
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert pages[-1] != []


def test_a_limit_of_0_is_all_and_the_usual_one_is_25(home, opened):
    for number in range(30):
        put(home, number)
    everything = opened.threads.list(limit=0)
    assert len(everything.threads) == 30
    assert everything.next_cursor is None
    page = opened.threads.list()
    assert len(page.threads) == 25
    rest = opened.threads.list(limit=0, cursor=page.next_cursor)
    assert numbers(rest) == [4, 3, 2, 1, 0]


def test_a_page_of_nothing_has_no_cursors(opened):
    page = opened.threads.list(counts=True)
    assert (page.threads, page.next_cursor, page.backwards_cursor, page.total, page.hidden, page.partial) == (
        [],
        None,
        None,
        0,
        0,
        None,
    )


def test_the_last_page_that_is_just_full_is_the_last(home, opened):
    for number in range(4):
        put(home, number)
    assert walk(opened, limit=2) == [[3, 2], [1, 0]]


def test_what_comes_between_pages_moves_no_row_onto_two_pages_or_off_all(home, opened):
    for number in range(10, 60, 10):
        put(home, number, created=number * 1000)
    first = opened.threads.list(limit=2, sort_key="created_at")
    assert numbers(first) == [50, 40]
    put(home, 55, created=55_000)
    put(home, 45, created=45_000)
    put(home, 25, created=25_000)
    assert walk(opened, limit=2, sort_key="created_at", cursor=first.next_cursor) == [[30, 25], [20, 10]]


def test_a_row_that_was_updated_between_pages_is_seen_by_paging_back(home, opened):
    """`next_cursor` goes on from the place; `backwards_cursor` finds what moved before the first row, and that row again."""
    for number in range(1, 6):
        put(home, number, updated=number * 1000)
    first = opened.threads.list(limit=2)
    assert numbers(first) == [5, 4]
    put(home, 2, updated=9000)
    assert walk(opened, limit=2, cursor=first.next_cursor) == [[3, 1]]
    back = opened.threads.list(limit=0, cursor=first.backwards_cursor, sort_direction="asc")
    assert numbers(back) == [5, 2]


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_what_came_to_the_time_of_the_first_row_later_is_seen_by_paging_back_too(home, opened, direction):
    """A millisecond has many changes, and an id of any order may come last."""
    for number in (2, 4):
        put(home, number, updated=1000)
    first = opened.threads.list(limit=1, sort_direction=direction)
    other = "asc" if direction == "desc" else "desc"
    for number in (1, 3, 5):
        put(home, number, updated=1000)
    back = opened.threads.list(limit=0, cursor=first.backwards_cursor, sort_direction=other)
    assert sorted(numbers(back)) == [1, 2, 3, 4, 5]
    pages = walk(opened, limit=2, cursor=first.backwards_cursor, sort_direction=other)
    assert pages == ([[1, 2], [3, 4], [5]] if other == "asc" else [[5, 4], [3, 2], [1]])


def test_a_cursor_outlives_the_row_that_it_names(home, opened):
    paths = {number: put(home, number, created=number * 1000) for number in range(1, 6)}
    page = opened.threads.list(limit=2, sort_key="created_at")
    paths[4].unlink()
    put(home, 9, created=4000)
    assert numbers(opened.threads.list(sort_key="created_at", cursor=page.next_cursor)) == [3, 2, 1]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=14), st.integers(1, 5), st.sampled_from(["asc", "desc"]))
def test_pages_are_the_sorted_list_cut_in_pieces(tmp_path_factory, times, limit, direction):
    home = tmp_path_factory.mktemp("home")
    for number, seconds in enumerate(times):
        put(home, number, created=seconds * 1000)
    with engine.open(str(home), options=Options(list_budget_ms=60_000)) as opened:
        wanted = sorted(range(len(times)), key=lambda number: (times[number], number), reverse=direction == "desc")
        found = walk(opened, limit=limit, sort_direction=direction, sort_key="created_at")
        assert found == [wanted[at : at + limit] for at in range(0, len(wanted), limit)]
        last = opened.threads.list(limit=limit, sort_key="created_at", sort_direction=direction)
        other = {"asc": "desc", "desc": "asc"}[direction]
        back = opened.threads.list(limit=0, cursor=last.backwards_cursor, sort_key="created_at", sort_direction=other)
        first = [each for each in wanted if times[each] == times[wanted[0]]]
        assert numbers(back) == first[::-1]


def test_a_cursor_of_another_order_is_refused(home, opened):
    put(home, 1)
    put(home, 2)
    cursor = opened.threads.list(limit=1, sort_key="created_at").next_cursor
    with pytest.raises(InvalidCursor, match="by created_at, not by updated_at"):
        opened.threads.list(cursor=cursor)
    assert numbers(opened.threads.list(cursor=cursor, sort_key="created_at")) == [1]


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "not a cursor",
        "ü",
        "2026-01-05T09:00:00Z|019b8d3c-0000-7000-8000-000000000001",
        encoded("text"),
        encoded([]),
        encoded(["updated_at", 5, "a"]),
        encoded(["updated_at", "5", "a", False]),
        encoded(["updated_at", 5.5, "a", False]),
        encoded(["updated_at", 1 << 63, "a", False]),
        encoded(["updated_at", 10**30, "a", False]),
        encoded({"sort_key": "updated_at"}),
    ],
)
def test_a_foreign_cursor_is_refused_with_a_hint(opened, cursor):
    with pytest.raises(InvalidCursor) as raised:
        opened.threads.list(cursor=cursor)
    assert raised.value.hint


@pytest.mark.parametrize(
    "query",
    [
        {"limit": -1},
        {"limit": 1 << 63},
        {"limit": 10**30},
        {"sort_key": "id"},
        {"sort_direction": "up"},
        {"sort_key": "id; --"},
        {"parent_thread_id": "x"},
        {"parent_thread_id": thread_id(1), "ancestor_thread_id": thread_id(1)},
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_a_hint(opened, query):
    with pytest.raises(InvalidRequest) as raised:
        opened.threads.list(**query)
    assert raised.value.hint


def test_no_filter_applies_that_is_not_asked_for(home, opened):
    put(home, 1, archived=True)
    put(home, 2, source={"subagent": "review"}, model_provider="azure")
    put(home, 3)
    assert sorted(numbers(opened.threads.list())) == [1, 2, 3]


def test_filters_are_met_all_at_once_and_counted(home, opened):
    put(home, 1, archived=True)
    put(home, 2, cwd="/b", source="exec")
    put(home, 3, cwd="/b", model_provider="azure")
    put(home, 4, cwd="/b/c", model_provider=None)
    put(home, 5, cwd=None)

    def asked(**query):
        page = opened.threads.list(counts=True, limit=1, **query)
        everything = opened.threads.list(limit=0, **query)
        assert (page.total, page.hidden) == (len(everything.threads), 5 - len(everything.threads))
        return sorted(numbers(everything))

    assert asked() == [1, 2, 3, 4, 5]
    assert asked(archived=True) == [1]
    assert asked(archived=False) == [2, 3, 4, 5]
    assert asked(cwd="/b") == [2, 3]
    assert asked(cwd=["/b", "/b/c", "/none"]) == [2, 3, 4]
    assert asked(cwd=[]) == []
    assert asked(source="exec") == [2]
    assert asked(cwd="/b", model_provider="azure") == [3]
    assert asked(archived=True, cwd="/b") == []
    assert asked(cwd="' OR 1=1 --") == []


def spawned(parent):
    return {"subagent": {"thread_spawn": {"parent_thread_id": thread_id(parent), "depth": 1}}}


def test_children_are_found_by_their_parent_and_all_below_by_their_ancestor(home, opened):
    """5 and 6 name each other: the walk down ends all the same."""
    put(home, 1)
    for number, parent in ((2, 1), (3, 1), (4, 2), (5, 6), (6, 5)):
        put(home, number, source=spawned(parent))
    assert sorted(numbers(opened.threads.list(parent_thread_id=thread_id(1)))) == [2, 3]
    assert sorted(numbers(opened.threads.list(ancestor_thread_id=thread_id(1).upper()))) == [2, 3, 4]
    assert sorted(numbers(opened.threads.list(ancestor_thread_id=thread_id(5)))) == [5, 6]
    assert numbers(opened.threads.list(parent_thread_id=thread_id(9))) == []
    assert sorted(numbers(opened.threads.list(source="subagent"))) == [2, 3, 4, 5, 6]
    assert sorted(numbers(opened.threads.list(source=["subagent", "cli"]))) == [1, 2, 3, 4, 5, 6]


def test_threads_are_found_by_model_and_by_whether_there_is_anything_to_show(home, opened):
    put(home, 1, said="hello")
    path = put(home, 2)
    with path.open("ab") as file:
        file.write(line(0, "turn_context", {"cwd": "/a", "model": "m2", "approval_policy": "never"}))
    assert numbers(opened.threads.list(model="m2")) == [2]
    assert numbers(opened.threads.list(has_preview=True)) == [1]
    assert numbers(opened.threads.list(has_preview=False)) == [2]


def test_it_is_told_how_many_each_filter_alone_hides(home, opened):
    put(home, 1, archived=True)
    put(home, 2, cwd="/b")
    put(home, 3, cwd="/b", model_provider="azure")
    put(home, 4, said="a bug")
    page = opened.threads.list(counts=True, archived=False, cwd="/b", model_provider="azure")
    assert (numbers(page), page.total, page.hidden) == ([3], 1, 3)
    assert page.hidden_by == {"dismissed": 0, "archived": 1, "cwd": 2, "model_provider": 3}
    assert opened.threads.list(counts=True, has_preview=True).hidden_by == {"dismissed": 0, "has_preview": 3}


def test_counts_are_told_where_they_are_asked_for_alone(home, opened):
    put(home, 1)
    page = opened.threads.list()
    assert (page.total, page.hidden, page.hidden_by) == (None, None, None)


def test_a_cursor_changes_no_count(home, opened):
    for number in range(3):
        put(home, number)
    page = opened.threads.list(limit=1, counts=True)
    rest = opened.threads.list(limit=1, counts=True, cursor=page.next_cursor)
    assert (page.total, rest.total, rest.hidden) == (3, 3, 0)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("bug", [1]),
        ("BUG", [1]),
        ("überholt", [2]),
        ("Überholt", [2]),
        ("ÜBERHOLT", [2]),
        ("strasse", [2]),
        ("プロ", [3]),
        ("100%", [4]),
        ("_", []),
        ("%", [4]),
        ("'", [4]),
        ("fix", [1, 4]),
        ("nothing", []),
        ("", [1, 2, 3, 4]),
    ],
)
def test_a_search_is_for_a_part_of_a_text_in_any_case_and_alphabet(home, opened, search, found):
    """SQLite's lower() knows ASCII alone: a title with an umlaut was once not found even by its own words."""
    put(home, 1, said="Fix the Bug")
    put(home, 2, said="ÜBERHOLT die Straße")
    put(home, 3, said="プロジェクト")
    put(home, 4, said="fix 100% of 'it'")
    assert sorted(numbers(opened.threads.list(search=search))) == found


def test_a_goals_text_is_searched_too(home, opened):
    path = put(home, 1)
    with path.open("ab") as file:
        file.write(line(0, "event_msg", {"type": "thread_goal_updated", "goal": {"objective": "Ship it"}}))
    assert numbers(opened.threads.list(search="ship")) == [1]


def test_get_answers_none_and_fetch_says_that_there_is_none(home, opened):
    put(home, 1, said="hello")
    assert opened.threads.get(thread_id(1)).title == "hello"
    assert opened.threads.get(thread_id(1).upper()).id == thread_id(1)
    assert opened.threads.fetch(thread_id(1).upper()).thread == opened.threads.get(thread_id(1))
    assert opened.threads.get(thread_id(2)) is None
    with pytest.raises(ThreadNotFound, match=thread_id(2)):
        opened.threads.fetch(thread_id(2))
    for call in (opened.threads.get, opened.threads.fetch):
        with pytest.raises(InvalidRequest, match="not a thread id"):
            call("latest")


def test_a_row_in_a_list_is_the_row_that_get_answers(tmp_path):
    made = make_home(tmp_path, HomePlan(threads=12, seed=3, bytes_max=8_000))
    with engine.open(str(tmp_path), options=Options(list_budget_ms=60_000)) as opened:
        page = opened.threads.list(limit=0)
        assert len(page.threads) == len(made)
        for row in page.threads:
            assert opened.threads.get(row.id) == row
            assert opened.threads.fetch(row.id).thread == row
        for earlier, later in pairwise(page.threads):
            assert (earlier.updated_at_ms, earlier.id) > (later.updated_at_ms, later.id)


def test_fetch_answers_from_the_file_and_tells_where_the_row_differs(tmp_path):
    thread = make_rollout(tmp_path, size=20_000, seed=2)
    clock = ManualClock()
    with engine.open(str(tmp_path), clock=clock) as opened:
        opened.backfill()
        assert opened.threads.get(thread.id).title == thread.row["title"]
        grown = append_turns(tmp_path, thread)
        fetched = opened.threads.fetch(thread.id)
        assert fetched.records == grown.records
        assert fetched.thread.updated_at_ms == grown.row["updated_at_ms"]
        assert fetched.lag_bytes == grown.bytes - thread.bytes
        assert (fetched.differences, fetched.history_rewritten) == ([], False)


def test_a_list_is_caught_up_before_it_is_answered(home, opened):
    put(home, 1, updated=1000)
    assert numbers(opened.threads.list()) == [1]
    path = put(home, 2, updated=2000)
    assert numbers(opened.threads.list()) == [2, 1]
    path.unlink()
    rows = opened.threads.list().threads
    assert [(row.id, row.missing) for row in rows] == [(thread_id(2), True), (thread_id(1), False)]


def test_a_list_that_has_no_time_says_that_it_is_partial(home):
    for number in range(3):
        put(home, number)
    with engine.open(str(home), options=Options(list_budget_ms=0)) as opened:
        page = opened.threads.list(counts=True)
        assert page.partial is not None
        assert page.partial.files_done == len(page.threads) == 0
        opened.backfill()
        assert len(opened.threads.list().threads) == 3


def test_a_row_begins_with_the_columns_of_its_table_in_their_order():
    """It is made of them by place."""
    names = ThreadRow.__struct_fields__
    assert list(names[: len(COLUMNS)]) == COLUMNS
    assert names[len(COLUMNS) :] == ("archived_at_ms", "name", "missing")


def test_a_list_opens_no_rollout(tmp_path):
    """It answers from rows, once every rollout has been indexed."""
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=12, seed=3, bytes_max=6_000))
    files = RecordingFiles(Files())
    with engine.open(str(home), files=files) as opened:
        while opened.threads.list().partial is not None:
            pass
        assert files.count("open_read") >= len(made)
        files.forget()
        pages = [
            opened.threads.list(limit=0),
            opened.threads.list(limit=5, archived=False, search="a", counts=True),
            opened.threads.list(limit=2, cwd="/a", sort_key="created_at"),
        ]
        opens = [call.path for call in files.calls if call.name == "open_read"]
    assert len(pages[0].threads) == len({each.id for each in made})
    assert opens == []
