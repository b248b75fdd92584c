"""What a resume sends: the last compaction and what followed, rollbacks applied, every call with its result.

The judges here are written without the engine: `expected` keeps turns as a list of lists, `check_well_formed` walks the items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import LineageBroken, ThreadNotFound
from engine.events.model_items import ABORTED, replacement_of, well_formed
from engine.options import Options
from engine.projections.model_context import ModelContext, read_context
from engine.stores.compression import compress
from engine.stores.files import Files
from engine.stores.layout import Home, locate
from engine.stores.lineage import lineage
from engine.stores.recorder import Position
from engine.stores.windows import Part
from engine.testing.files import RecordingFiles
from engine.testing.homes import HomePlan, make_home
from tests.writing import opened, say

ID = "01a20458-0000-7000-8000-000000000001"
PATH = f"sessions/2026/01/05/rollout-2026-01-05T09-00-00-{ID}.jsonl"
META = {"type": "session_meta", "payload": {"id": ID, "cwd": "/"}}
Raw = dict[str, Any]


def response(tag: str, **fields: Any) -> Raw:
    return {"type": "response_item", "payload": {"type": tag, **fields}}


def event(tag: str, **fields: Any) -> Raw:
    return {"type": "event_msg", "payload": {"type": tag, **fields}}


def message(text: str, role: str = "user") -> Raw:
    return response("message", role=role, content=[{"type": "input_text", "text": text}])


def call(call_id: str, tag: str = "function_call") -> Raw:
    return response(tag, name="f", arguments="{}", call_id=call_id)


def output(call_id: str, tag: str = "function_call_output") -> Raw:
    return response(tag, call_id=call_id, output="done")


def context(model: str) -> Raw:
    return {"type": "turn_context", "payload": {"model": model}}


def compacted(*items: Raw, window: int | None = 1) -> Raw:
    payload: Raw = {"message": "", "replacement_history": [item["payload"] for item in items]}
    return {"type": "compacted", "payload": payload if window is None else {**payload, "window_number": window}}


def turn(turn_id: str, *middle: Raw, words: str = "", model: str = "m", end: bool = True) -> list[Raw]:
    """An explicit turn that a user began."""
    start = [event("task_started", turn_id=turn_id), context(model), message(words or turn_id)]
    ending = [event("task_complete", turn_id=turn_id)] if end else []
    return [*start, event("user_message", message=words or turn_id), *middle, *ending]


def put(home: Path, items: list[Raw], *, path: str = PATH, first: int | None = None, tail: bytes = b"") -> Path:
    full = home / path
    full.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, item in enumerate(items):
        ordinal = {} if first is None else {"ordinal": first + number}
        lines.append(json.dumps({"timestamp": "2026-01-05T09:00:00.000Z", **ordinal, **item}).encode() + b"\n")
    full.write_bytes(b"".join(lines) + tail)
    return full


def read(home: Path, *, options: Options | None = None, files: Any = None) -> ModelContext:
    found = locate(Home(str(home), None), PATH, Files())
    assert found is not None
    how: Raw = {"options": options or Options(), "files": files or Files()}
    return read_context(Home(str(home), None), [Part(found)], **how)


def texts(found: ModelContext) -> list[str]:
    """The words of messages, and calls and results by their ids."""
    return [
        item["content"][0]["text"] if item["type"] == "message" else f"{item['type']} {item['call_id']}"
        for item in found.items
    ]


def check_well_formed(items: list[Raw]) -> None:
    """Each call is followed by its one result before the same id is called again; no result is without its call."""
    answers = {
        "function_call": "function_call_output",
        "local_shell_call": "function_call_output",
        "custom_tool_call": "custom_tool_call_output",
        "tool_search_call": "tool_search_output",
    }
    waiting: list[tuple[str, str]] = []
    for item in items:
        call_id = item.get("call_id")
        if call_id is None:
            continue
        if item["type"] in answers:
            key = (answers[item["type"]], call_id)
            assert key not in waiting, f"{key} is called twice without a result"
            waiting.append(key)
        elif item["type"] in answers.values():
            assert (item["type"], call_id) in waiting, f"a result without its call: {item}"
            waiting.remove((item["type"], call_id))
    assert waiting == []


# --- calls and results -----------------------------------------------------------------------------------------------


def test_a_call_without_result_gets_one_directly_behind_it_and_a_result_without_call_goes() -> None:
    items = [call("a"), call("b"), output("b"), output("lost"), message("on"), call("c", "custom_tool_call")]
    found = well_formed(item["payload"] for item in items)
    assert [(item["type"], item.get("call_id")) for item in found.items] == [
        ("function_call", "a"),
        ("function_call_output", "a"),
        ("function_call", "b"),
        ("function_call_output", "b"),
        ("message", None),
        ("custom_tool_call", "c"),
        ("custom_tool_call_output", "c"),
    ]
    assert found.items[1] == {"type": "function_call_output", "call_id": "a", "output": ABORTED}
    assert (found.interrupted, found.dropped) == (["a", "c"], 1)


def test_a_result_that_answers_no_call_by_design_stays_and_a_search_of_the_server_wants_none() -> None:
    """A goal's objective is a result that the program itself puts there: it has a name and no call_id."""
    items: list[Raw] = [
        {"type": "function_call_output", "name": "goal_objective", "namespace": "agent", "output": "count"},
        {"type": "tool_search_call", "call_id": None, "execution": "server", "arguments": {}},
        {"type": "tool_search_output", "call_id": None, "execution": "server", "tools": []},
        {"type": "tool_search_call", "call_id": "s", "execution": "client", "arguments": {}},
        {"type": "web_search_call", "id": "w"},
    ]
    found = well_formed(items)
    stand_in = {
        "type": "tool_search_output",
        "call_id": "s",
        "status": "incomplete",
        "execution": "client",
        "tools": [],
    }
    assert found.items == [*items[:4], stand_in, items[4]]


def test_a_result_of_another_kind_of_call_answers_nothing() -> None:
    found = well_formed([call("a")["payload"], output("a", "custom_tool_call_output")["payload"]])
    assert [item["type"] for item in found.items] == ["function_call", "function_call_output"]
    assert (found.interrupted, found.dropped) == (["a"], 1)


def test_a_call_that_is_there_twice_is_answered_twice() -> None:
    """A write that was tried again may leave a line twice."""
    found = well_formed(item["payload"] for item in (call("a"), call("a"), output("a"), output("a")))
    check_well_formed(found.items)
    assert (len(found.items), found.interrupted, found.dropped) == (4, ["a"], 1)


tags = st.sampled_from(
    "function_call function_call_output local_shell_call custom_tool_call custom_tool_call_output tool_search_call "
    "tool_search_output message reasoning".split()
)


@given(
    st.lists(
        st.fixed_dictionaries({"type": tags}, optional={"call_id": st.sampled_from(["a", "b", None, 7])}), max_size=12
    )
)
def test_any_items_come_out_well_formed_and_those_that_were_keep_their_order(items: list[Raw]) -> None:
    found = well_formed(items)
    check_well_formed([item for item in found.items if isinstance(item.get("call_id"), str)])
    kept = iter(items)
    own = [item for item in found.items if any(item is each for each in items)]
    assert all(any(item is each for each in kept) for item in own)
    assert len(own) == len(items) - found.dropped
    assert len(found.items) == len(own) + len(found.interrupted)
    assert well_formed(found.items) == (found.items, [], 0)


# --- compactions -----------------------------------------------------------------------------------------------------


def test_the_last_compaction_stands_for_all_before_it(tmp_path: Path) -> None:
    items = [
        META,
        *turn("1", compacted(message("sum 1"))),
        *turn("2", compacted(message("sum 2"), call("x"), window=2), model="newest"),
        message("more", "assistant"),
    ]
    put(tmp_path, items)
    found = read(tmp_path)
    assert texts(found) == ["sum 2", "function_call x", "function_call_output x", "more"]
    assert (found.compacted, found.window_number, found.turn_context) == (True, 2, {"model": "newest"})
    assert found.interrupted == ["x"]


def test_a_context_older_than_the_last_compaction_is_found_and_one_of_a_turn_that_nobody_began_does_not_count(
    tmp_path: Path,
) -> None:
    """K2, K5: the program's own words in the user's role make no user turn."""
    own = [event("task_started", turn_id="2"), context("not this"), message("<environment_context>")]
    put(tmp_path, [META, *turn("1", model="this"), compacted(message("sum")), *own])
    found = read(tmp_path)
    assert (texts(found), found.turn_context) == (["sum", "<environment_context>"], {"model": "this"})


@pytest.mark.parametrize(
    "said",
    [
        response("agent_message", author="/root/a", recipient="/root", content=[]),
        {"type": "inter_agent_communication", "payload": {"author": "/root/a", "recipient": "/root", "content": "go"}},
        event("item_completed", item={"type": "UserMessage", "id": "u", "content": []}),
    ],
)
def test_a_turn_that_another_agent_or_a_completed_item_began_has_a_context_that_counts(
    tmp_path: Path, said: Raw
) -> None:
    """K6."""
    put(tmp_path, [META, *turn("1"), event("task_started", turn_id="2"), context("this"), said])
    assert read(tmp_path).turn_context == {"model": "this"}


def test_what_another_agent_said_is_an_item_in_either_form(tmp_path: Path) -> None:
    older = {"id": "i", "author": "/root/a", "recipient": "/root", "other_recipients": [], "content": "ok"}
    said = [{"type": "input_text", "text": "ok"}]
    put(tmp_path, [META, {"type": "inter_agent_communication", "payload": {**older, "trigger_turn": True}}])
    item = {"type": "agent_message", "id": "i", "author": "/root/a", "recipient": "/root", "content": said}
    assert read(tmp_path).items == [item]


def test_a_compaction_without_replacement_or_with_metadata_of_another_length_replaces_nothing(tmp_path: Path) -> None:
    """K4, D10."""
    bare = {"type": "compacted", "payload": {"message": "sum"}}
    skewed = compacted(message("sum"))
    skewed["payload"]["replacement_history_metadata"] = []
    put(tmp_path, [META, *turn("1"), bare, skewed, *turn("2")])
    found = read(tmp_path)
    assert (texts(found), found.compacted, found.window_number) == (["1", "2"], False, None)


def test_a_compaction_of_0_130_has_no_window_number_and_counts(tmp_path: Path) -> None:
    put(tmp_path, [META, *turn("1"), compacted(message("sum"), window=None), *turn("2")])
    found = read(tmp_path)
    assert (texts(found), found.compacted, found.window_number) == (["sum", "2"], True, None)


def test_snapshots_and_redacted_items_are_not_sent(tmp_path: Path) -> None:
    """A redacted call has lost its result too, since nothing may answer what is not there."""
    ghost = response("ghost_snapshot", ghost_commit={})
    gone = [response("message", redacted=True, filler="x"), response("function_call", call_id="r", redacted=True)]
    put(tmp_path, [META, ghost, compacted(ghost, message("sum"), *gone), ghost, *gone, output("r"), message("on")])
    found = read(tmp_path)
    assert (texts(found), found.dropped_results) == (["sum", "on"], 1)


def test_replacements_that_are_no_list_of_items_are_none() -> None:
    assert replacement_of({}) is replacement_of({"replacement_history": 3}) is None
    assert replacement_of({"replacement_history": ["x"]}) is None
    assert replacement_of({"replacement_history": []}) == []


def test_the_cost_is_what_came_since_the_last_compaction(tmp_path: Path) -> None:
    """K1: of three megabytes only the last blocks are read."""
    bulk = [each for number in range(300) for each in turn(f"b{number}", message("x" * 10_000, "assistant"))]
    path = put(tmp_path, [META, *bulk, *turn("1", compacted(message("sum"))), *turn("2")])
    assert path.stat().st_size > 3_000_000
    files = RecordingFiles(Files())
    found = read(tmp_path, options=Options(block_bytes=8 * 1024), files=files)
    assert texts(found) == ["sum", "2"]
    assert files.count("pread", op="rollout.read") < 12


# --- rollbacks -------------------------------------------------------------------------------------------------------


def test_what_was_rolled_back_is_not_sent_and_neither_is_its_compaction(tmp_path: Path) -> None:
    """Z4: cumulative, across a compaction, and more than there are."""
    back = [event("thread_rolled_back", num_turns=1)]
    items = [META, message("first"), *turn("1", model="one"), *turn("2", compacted(message("sum"))), *turn("3")]
    put(tmp_path, [*items, *back])
    assert (texts(read(tmp_path)), read(tmp_path).compacted) == (["sum"], True)
    put(tmp_path, [*items, *back, *back])
    found = read(tmp_path)
    assert (texts(found), found.compacted, found.turn_context) == (["first", "1"], False, {"model": "one"})
    put(tmp_path, [*items, *back, *turn("4"), event("thread_rolled_back", num_turns=2), *turn("5")])
    assert texts(read(tmp_path)) == ["first", "1", "5"]
    put(tmp_path, [*items, event("thread_rolled_back", num_turns=99)])
    assert (texts(read(tmp_path)), read(tmp_path).turn_context) == (["first"], None)
    put(tmp_path, [*items, event("thread_rolled_back", num_turns="all")])
    assert texts(read(tmp_path)) == ["sum", "3"]


def test_a_turn_that_no_record_began_begins_with_the_items_of_what_its_user_said(tmp_path: Path) -> None:
    said = [[message("<context>"), message(word), event("user_message", message=word)] for word in ("a", "b")]
    answers = [message("re", "assistant"), event("agent_message", message="re")]
    put(tmp_path, [META, *said[0], *answers, *said[1], *answers, event("thread_rolled_back", num_turns=1)])
    assert texts(read(tmp_path)) == ["<context>", "a", "re"]


def test_what_the_user_says_in_a_turn_begins_no_other(tmp_path: Path) -> None:
    steering = [message("also"), event("user_message", message="also")]
    put(tmp_path, [META, *turn("1"), *turn("2", *steering), event("thread_rolled_back", num_turns=1)])
    assert texts(read(tmp_path)) == ["1"]


def test_the_late_end_of_a_turn_closes_no_other(tmp_path: Path) -> None:
    """The steering words behind it are of the open turn, and go with it."""
    late = [event("task_complete", turn_id="1"), message("also"), event("user_message", message="also")]
    put(tmp_path, [META, *turn("1"), *turn("2", *late, end=False), event("thread_rolled_back", num_turns=1)])
    assert texts(read(tmp_path)) == ["1"]


# --- any log, cut anywhere -------------------------------------------------------------------------------------------

ITEMS = [message("w", "assistant"), response("reasoning", summary=[]), event("token_count", info=None)]


class Log:
    """Records as they come, and beside them the turns as a list of lists: what a rollback drops is popped."""

    def __init__(self, *, explicit: bool) -> None:
        self.explicit = explicit
        self.records: list[Raw] = [META]
        self.turns: list[list[Any]] = [[]]
        self.numbers = iter(range(1, 1000))
        self.open: str | None = None
        self.is_in_turn = False

    def write(self, record: Raw, step: Any = None) -> None:
        self.records.append(record)
        if step is not None:
            self.turns[-1].append(step)

    def begin(self) -> None:
        number = str(next(self.numbers))
        if self.explicit:
            self.turns.append([])
            self.open = number
            self.write(event("task_started", turn_id=number))
            self.write(context(number))
        else:
            self.turns.append([])
        self.is_in_turn = True
        said = message(number)
        self.write(said, said["payload"])
        self.write(event("user_message", message=number))

    def end(self) -> None:
        if self.open is not None:
            self.write(event("task_complete", turn_id=self.open))
            self.open, self.is_in_turn = None, False

    def item(self, record: Raw) -> None:
        self.write(record, record["payload"] if record["type"] == "response_item" else None)

    def compact(self, *, whole: bool) -> None:
        if self.is_in_turn:  # outside of every turn it would make one of its own
            number = next(self.numbers)
            if whole:
                new = [message(f"sum {number}"), call("r")]
                self.write(compacted(*new), [item["payload"] for item in new])
            else:
                self.write({"type": "compacted", "payload": {"message": "sum"}})

    def roll_back(self, count: int) -> None:
        self.open, self.is_in_turn = None, False
        self.write(event("thread_rolled_back", num_turns=count))
        del self.turns[max(1, len(self.turns) - count) :]

    def expected(self) -> list[Raw]:
        """The items before calls and results are made to fit."""
        items: list[Raw] = []
        for step in (step for each in self.turns for step in each):
            items = list(step) if isinstance(step, list) else [*items, step]
        return items


steps = st.one_of(
    st.just(("begin",)),
    st.just(("end",)),
    st.tuples(st.just("item"), st.sampled_from(ITEMS)),
    st.tuples(st.just("item"), st.sampled_from(["a", "b"]).map(call)),
    st.tuples(st.just("item"), st.sampled_from(["a", "b", "lost"]).map(output)),
    st.tuples(st.just("compact"), st.booleans()),
    st.tuples(st.just("roll_back"), st.integers(0, 3)),
)


def written(plan: list[tuple[Any, ...]], *, explicit: bool) -> Iterator[Log]:
    """The log after each step."""
    log = Log(explicit=explicit)
    for name, *arguments in plan:
        match name:
            case "compact":
                log.compact(whole=arguments[0])
            case _:
                getattr(log, name)(*arguments)
        yield log


@given(st.lists(steps, max_size=14), st.booleans(), st.sampled_from([64, 300, 256 * 1024]))
def test_the_context_of_any_log_is_what_a_list_of_turns_says(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[Any, ...]], explicit: bool, block_bytes: int
) -> None:
    home = tmp_path_factory.mktemp("home")
    for log in written(plan, explicit=explicit):
        put(home, log.records)
        found = read(home, options=Options(block_bytes=block_bytes))
        check_well_formed(found.items)
        stand_ins = [{"type": "function_call_output", "call_id": each, "output": ABORTED} for each in found.interrupted]
        own = [item for item in found.items if item not in stand_ins]
        wanted = log.expected()
        assert [item for item in own if not item["type"].endswith("output")] == [
            item for item in wanted if not item["type"].endswith("output")
        ]
        assert len(own) == len(wanted) - found.dropped_results


def made_home(tmp_path: Path) -> Path:
    shares = {"paginated": 0.3, "forks": 0.2, "reverted": 0.1, "subagents": 0.2}
    make_home(tmp_path, HomePlan(threads=20, seed=9, bytes_min=20_000, **shares))
    return tmp_path


def test_a_log_that_is_cut_behind_any_record_gives_a_well_formed_context(tmp_path: Path) -> None:
    """Of every thread of a made-up home, in all three styles, with forks; torn in mid-line too."""
    home = made_home(tmp_path)
    heads = 0
    seen = {"interrupted": 0, "compacted": 0, "rolled back": 0}
    for path in sorted(home.rglob("*.jsonl")):
        whole = path.read_bytes()
        found = locate(Home(str(home), None), str(path.relative_to(home)), Files())
        assert found is not None
        parts = [Part(each.found, 0, each.end) for each in _lineage(home, found)]
        heads += 1
        end = 0
        for line in whole.splitlines(keepends=True):
            end += len(line)
            for torn in (b"", b'{"timestamp":"2026-01-05T09:0') if heads % 4 == 0 else (b"",):
                path.write_bytes(whole[:end] + torn)
                context = read_context(Home(str(home), None), parts, options=Options(), files=Files())
                check_well_formed(context.items)
                assert context.position.offset == end
                seen["interrupted"] += bool(context.interrupted)
                seen["compacted"] += context.compacted
                seen["rolled back"] += b'"thread_rolled_back"' in whole[:end]
        path.write_bytes(whole)
    assert heads >= 14
    assert all(count > 10 for count in seen.values()), seen


def _lineage(home: Path, found: Any) -> Any:
    by_id = {}
    for path in home.rglob("*.jsonl"):
        each = locate(Home(str(home), None), str(path.relative_to(home)), Files())
        if each is not None:
            by_id[each.name.own_rollout_id or each.name.thread_id] = each
    return lineage(Home(str(home), None), found, by_id.get, options=Options(), files=Files())


def test_real_threads_have_well_formed_contexts(corpora: Path, tmp_path: Path) -> None:
    """Two sub-agents were made in the middle of a call of their parent's; reviews begin with no user's words."""
    interrupted: dict[str, list[str]] = {}
    count = without = 0
    for name in ("codex-0.169", "codex-0.169-zst", "codex-0.130-part", "codex-0.169-memories"):
        with opened(corpora / name / "home", state_dir=str(tmp_path / name)) as e:
            e.backfill()
            for row in e.threads.list(limit=0).threads:
                found = e.threads.model_context(row.id)
                check_well_formed(found.items)
                assert found.dropped_results == 0
                interrupted[row.id] = found.interrupted
                without += bool(found.items) and found.turn_context is None
                count += 1
    assert count > 130
    assert without == 4
    assert sorted(each for ids in interrupted.values() for each in ids) == ["call_28", "call_45"]


# --- of an open home -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["paginated", "legacy"])
def test_a_turn_cut_short_in_mid_call_is_sent_with_an_interruption(tmp_path: Path, mode: str) -> None:
    """R7: the process died while the tool ran; the context is the same for its owner, for others and for a fork."""
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/", history_mode=mode) as thread:
        say(thread, "hello")
        turn_in_hand = thread.turn().__enter__()
        turn_in_hand.user_message("list it")
        turn_in_hand.tool_call("shell", {"command": ["ls"]}, call_id="c1")
        found = e.threads.model_context(thread.id)
        assert [item["type"] for item in found.items[-2:]] == ["function_call", "function_call_output"]
        assert (found.items[-1]["output"], found.interrupted) == (ABORTED, ["c1"])
        assert found.position == thread.position
        turn_in_hand.tool_output("c1", "README.md")
        assert e.threads.model_context(thread.id).interrupted == []
        with e.threads.fork(thread.id) as child:
            say(child, "and now")
            theirs = e.threads.model_context(child.id)
            assert [*e.threads.model_context(thread.id).items, *theirs.items[-2:]] == theirs.items
            assert theirs.items[-2]["content"][0]["text"] == "and now"


def test_ancestors_count_as_far_as_the_fork_and_may_be_archived_and_compressed(tmp_path: Path) -> None:
    """K7, K8."""
    with opened(tmp_path / "home") as e:
        with e.threads.create(cwd="/") as thread:
            (first, _) = say(thread, "a", "b")
            with e.threads.fork(thread.id, through_turn=first) as child:
                say(child, "c")
        e.threads.archive(thread.id)
        (archived,) = (tmp_path / "home" / "archived_sessions").iterdir()
        in_home = Home(e.home, e.state_dir)
        found = locate(in_home, f"archived_sessions/{archived.name}", Files())
        assert found is not None
        compress(in_home, found, options=Options(), files=Files())
        found = e.threads.model_context(child.id)
        words = [item["content"][0]["text"] for item in found.items]
        assert words == ["a", "re a", "c", "re c"]


def test_a_thread_that_is_not_there_or_whose_base_is_gone_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        with pytest.raises(ThreadNotFound):
            e.threads.model_context(ID)
        with e.threads.create(cwd="/") as thread:
            say(thread, "a")
            with e.threads.fork(thread.id) as child:
                say(child, "b")
        for path in (tmp_path / "home" / "sessions").rglob(f"*{thread.id}*"):
            path.unlink()
        with pytest.raises(LineageBroken):
            e.threads.model_context(child.id)


def test_a_thread_without_a_record_has_an_empty_context(tmp_path: Path) -> None:
    put(tmp_path, [], tail=b"torn")
    found = read(tmp_path)
    assert (found.items, found.turn_context, found.position) == ([], None, Position(None, 0))
