"""The rows of turns and items are those of one fold of the whole: for any log, any damage, any cut into pieces, any blocks.

The logs are those of the first property test, with records of turns among them in both history modes.
"""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.threads import stream_of
from engine.testing import rollout_lines
from tests.conversing import PARENT, Lines, path_of
from tests.indexing import TURNS, history, rows, write
from tests.unit.test_fold_property import BLOCKS, LINE_BYTES_MAX, Bytes, damaged, lines, noise

PATH = path_of()
MODES = ("paginated", "legacy")

turn_ids = st.sampled_from(["a", "b", "c", None, "", PARENT])
item_ids = st.sampled_from(["1", "2", "3", None])
texts = st.sampled_from(["", "x", "é" * 40])
seconds = st.sampled_from([None, 0, 7.5, 1_767_603_600, "soon", 2**70])


def event(tag, **fields):
    strategies = {
        name: value if isinstance(value, st.SearchStrategy) else st.just(value) for name, value in fields.items()
    }
    return st.fixed_dictionaries({"type": st.just(tag), **strategies}).map(lambda payload: ("event_msg", payload))


records = st.one_of(
    event("task_started", turn_id=turn_ids, started_at=seconds),
    event("task_complete", turn_id=turn_ids, error=st.sampled_from([None, {"message": "no"}]), completed_at=seconds),
    event("turn_aborted", turn_id=turn_ids, duration_ms=seconds),
    event(
        "item_completed",
        turn_id=turn_ids,
        item=st.fixed_dictionaries(
            {
                "type": st.sampled_from("UserMessage AgentMessage Plan CommandExecution Extension NewThing".split()),
                "id": item_ids,
                "phase": st.sampled_from([None, "final_answer", "commentary"]),
                "text": texts,
            }
        ),
        started_at_ms=seconds,
    ),
    event("user_message", message=texts),
    event("agent_message", message=texts, phase=st.sampled_from([None, "commentary"])),
    event("agent_reasoning", text=texts),
    event("agent_reasoning_raw_content", text=texts),
    event("exec_command_end", call_id=item_ids, turn_id=turn_ids),
    event("entered_review_mode", turn_id=turn_ids, item_id=item_ids),
    event("exited_review_mode", turn_id=turn_ids, item_id=item_ids),
    event("error", message="m", codex_error_info=st.sampled_from(["other", "thread_rollback_failed", None])),
    event("context_compacted"),
    event("thread_rolled_back", num_turns=st.sampled_from([0, 1, 2, 5, -1, 2**80, None])),
    st.just(("compacted", {"message": "", "replacement_history": []})),
    st.just(("response_item", {"type": "message", "role": "user", "content": []})),
)


@st.composite
def logs(draw):
    """A rollout, and the sizes it had while it grew: ends of lines, bytes beside them, and any other byte."""
    made = Lines(draw(st.sampled_from(MODES)), subagent_history_start_ordinal=draw(st.sampled_from([None, None, 3])))
    for kind, payload in draw(st.lists(records, max_size=25)):
        made.record(kind, payload)
    whole = [line + b"\n" for line in made.lines]
    for at, line in draw(
        st.lists(st.tuples(st.integers(0, len(whole)), lines | noise.map(lambda n: n + b"\n")), max_size=2)
    ):
        whole.insert(at, line)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(whole) - 1))
        whole[at] = draw(damaged(whole[at]))
    if draw(st.sampled_from([False, False, False, True])):
        del whole[0]
    log = b"".join(whole)
    ends = [at + 1 for at, byte in enumerate(log) if byte == 0x0A] or [0]
    near = st.builds(lambda end, by: min(max(end + by, 0), len(log)), st.sampled_from(ends), st.integers(-2, 2))
    sizes = draw(st.lists(near | st.integers(0, len(log)), max_size=6))
    return log, sorted({*sizes, len(log)})


def indexed(log, sizes, block_bytes):
    """The rows of a log that was folded and written at each of these sizes."""
    options = Options(block_bytes=block_bytes, line_bytes_max=LINE_BYTES_MAX, set_aside_bytes_max=16)
    folder, database, marks = Folder([TURNS], options), history(), {}
    try:
        for tick, size in enumerate(sizes):
            (folded,) = folder.fold(stream_of(PATH), Bytes(log[:size], 1, tick), marks)
            write(database, PATH, [folded])
            assert len(folded.mark.state) <= 64 * 1024
            marks = {TURNS.name: folded.mark}
        return rows(database, PATH)
    finally:
        database.close()


def check(cut, block_bytes):
    log, sizes = cut
    whole = indexed(log, [len(log)], block_bytes)
    assert indexed(log, sizes, block_bytes) == whole
    check_sense(whole)


def check_sense(found):
    """What holds of the rows of any log."""
    places = [turn[0] for turn in found["turns"]]
    items = {item[0]: item for item in found["items"]}
    assert len(set(places)) == len(places)
    for turn in found["turns"]:
        assert set(turn[10:13]) - {None} <= set(items), "a summary names items that there are"
    assert {part[1] for part in found["parts"]} <= set(items), "a part is of an item that there is"
    numbers = [item[6] for item in found["items"] if item[6] is not None]
    if not found["rollbacks"]:
        assert numbers == list(range(1, len(numbers) + 1)), "items without ids are numbered one by one"


A = b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"event_msg","payload":%s}\n'
USER = A % b'{"type":"user_message","message":"x"}'
PLAN = A % b'{"type":"item_completed","turn_id":"a","item":{"type":"Plan","id":"1","text":"x"}}'
START = A % b'{"type":"task_started","turn_id":"a"}'
THOUGHT = A % b'{"type":"agent_reasoning","text":"x"}'


@example((USER + THOUGHT + THOUGHT, [len(USER + THOUGHT), len(USER + THOUGHT * 2)]), 100)
@example((USER + THOUGHT + USER + USER, [len(USER) - 1, len(USER), len(USER + THOUGHT), len(USER * 3 + THOUGHT)]), 16)
# What the first version got wrong: an item before the beginning of its turn, in one piece with it.
@example((PLAN + START, [len(PLAN), len(PLAN + START)]), 100)
@settings(max_examples=150)
@given(logs(), st.sampled_from(BLOCKS))
def test_indexing_in_any_pieces_is_indexing_once(cut, block_bytes):
    check(cut, block_bytes)


@pytest.mark.soak
@settings(max_examples=4_000)
@given(logs(), st.sampled_from(BLOCKS))
def test_soak_indexing_in_any_pieces_is_indexing_once(cut, block_bytes):
    check(cut, block_bytes)


@pytest.mark.parametrize("mode", ["paginated", "legacy", "old"])
@pytest.mark.parametrize("pieces", [2, 7, 40])
def test_a_made_rollout_in_pieces_has_the_rows_of_the_whole(mode, pieces):
    log = b"".join(rollout_lines(seed=4, mode=mode, size=150_000))
    sizes = [len(log) * number // pieces for number in range(1, pieces + 1)]
    whole = indexed(log, [len(log)], 256 * 1024)
    assert len(whole["turns"]) > 3
    assert len(whole["items"]) > 10
    assert indexed(log, sizes, 10_000) == whole


def test_the_state_stays_small_whatever_is_left_open():
    """5,000 turns that nobody ends, 5,000 items of one turn, ids as long as a line."""
    made = Lines()
    for number in range(5_000):
        made.started(f"turn {number} " + "x" * 200).user("one", f"item {number}")
    log = b"".join(line + b"\n" for line in made.lines)
    (folded,) = Folder([TURNS], Options()).fold(stream_of(PATH), Bytes(log, 1, 1), {})
    assert len(folded.mark.state) <= 24 * 1024
    assert len(folded.emitted) >= 10_000


def test_pieces_of_one_record_come_to_the_same_rows():
    made = Lines("legacy").said().answered().event("agent_reasoning", text="a").event("agent_reasoning", text="b")
    made.started("t").said().event("thread_rolled_back", num_turns=1).said().complete("t")
    log = b"".join(line + b"\n" for line in made.lines)
    ends = list(itertools.accumulate(len(line) + 1 for line in made.lines))
    assert indexed(log, ends, 100) == indexed(log, [len(log)], 100)


def test_what_is_told_of_a_turn_before_it_begins_is_not_of_its_row() -> None:
    """Once the row of an open turn had a message from before it, where both came in one piece."""
    meta = {"id": "01a20464-403f-7170-9722-7a9790eef98c", "history_mode": "paginated"}
    early = {"type": "item_completed", "turn_id": "b", "item": {"type": "UserMessage", "id": "1", "text": ""}}
    events = [
        ("session_meta", meta),
        *(("event_msg", each) for each in (early, {"type": "task_started", "turn_id": "b"})),
    ]
    records = [
        {"timestamp": f"2026-01-05T09:00:0{at}.000Z", "ordinal": at, "type": type_, "payload": payload}
        for at, (type_, payload) in enumerate(events)
    ]
    written = [msgspec.json.encode(record) + b"\n" for record in records]
    check((b"".join(written), list(itertools.accumulate(map(len, written)))), 16)
