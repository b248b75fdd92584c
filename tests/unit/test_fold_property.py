"""Rebuild equals incremental: for any log, any damage and any split into appends, at any byte.

A log is drawn line by line: both history modes, shapes of older releases, kinds that nobody knows, copied and missing
first lines, odd key orders; then it is damaged, and cut where no writer would cut it. Folding it piece by piece, each
time from the watermark before, must come to what one fold of the whole comes to: state, position, digests and the
records set aside. The block size must not matter either.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

import engine
from engine.options import Options
from engine.projections.fold import Folded, Folder, SetAside
from engine.projections.projection import Stream
from engine.projections.registry import BUILT_IN, THREADS
from engine.projections.threads import stream_of
from engine.stores.files import FileStat
from engine.stores.watermarks import Watermark
from engine.testing.homes import rollout_lines
from engine.testing.tables import dump

THREAD = "01a20458-0000-7000-8000-000000000001"
PARENT = "01a20458-0000-7000-8000-0000000000ff"
NAME = f"rollout-2026-01-05T09-00-00-{THREAD}.jsonl"
PATH = f"sessions/2026/01/05/{NAME}"
LINE_BYTES_MAX = 90_000
BLOCKS = (16, 85, 100, 513, 700, 4_096, 65_536, 90_000)
REAL_LINES = [line for mode in ("paginated", "legacy", "old") for line in rollout_lines(seed=7, mode=mode, size=12_000)]

texts = st.sampled_from(["fix the tests", "naïve 旅 \\u2028", "raw \u2028 inside", "", "   ", "x" * 300, "é" * 9_000])
times = st.builds(
    "2026-01-05T09:{:02}:{:02}.{:03}Z".format, st.integers(0, 59), st.integers(0, 59), st.integers(0, 999)
)
odd_times = st.sampled_from(
    ["2026-01-05T09:00:00Z", "not a time", "2026-01-05T09:61:00.000Z", "", "2026-01-05 09:00:00.1+01:00"]
)
ids = st.sampled_from([THREAD, THREAD, THREAD.upper(), PARENT, "no id"])

metas = st.builds(
    '"type":"session_meta","payload":{{"id":"{}","timestamp":"{}","cwd":"/w/{}","source":{}{}}}'.format,
    ids,
    times,
    st.integers(0, 2),
    st.sampled_from(
        ['"cli"', '{"subagent":{"thread_spawn":{"parent_thread_id":"' + PARENT + '","depth":1}}}', "7", "null"]
    ),
    st.sampled_from(
        [
            "",
            ',"history_mode":"paginated"',
            ',"subagent_history_start_ordinal":5',
            ',"history_base":{"thread_id":"' + PARENT + '","end_ordinal_exclusive":3,"end_byte_offset":999}',
            ',"git":{"commit_hash":"abc","branch":null}',
            ',"git":null,"memory_mode":"disabled"',
            ',"agent_role":7,"cli_version":"0.130.0"',
        ]
    ),
)
counts = st.builds(
    '"type":"event_msg","payload":{{"type":"token_count","info":{}}}'.format,
    st.sampled_from(["null", "{}", '{"total_token_usage":null}', '"odd"', '{"total_token_usage":{"total_tokens":"x"}}'])
    | st.builds('{{"total_token_usage":{{"total_tokens":{}}}}}'.format, st.integers(-5, 2**70)),
)
messages = st.builds(
    '"type":"event_msg","payload":{{"type":"user_message","message":"{}"{}}}'.format,
    texts,
    st.sampled_from(["", ',"images":["data:"]', ',"images":7']),
)
items = st.builds(
    (
        '"type":"event_msg","payload":{{"type":"item_completed","thread_id":"'
        + THREAD
        + '","turn_id":"'
        + PARENT
        + '",'
        '"item":{{"type":"{}","id":"1","content":[{{"type":"text","text":"{}"}}]}}}}'
    ).format,
    st.sampled_from(["UserMessage", "AgentMessage", "NewItem"]),
    texts,
)
contexts = st.builds(
    '"type":"turn_context","payload":{{"cwd":"/w","model":"{}","effort":{},"approval_policy":{},"sandbox_policy":{}}}'.format,
    st.sampled_from(["gpt-5.5", "o4-mini"]),
    st.sampled_from(['"high"', "null", "7"]),
    st.sampled_from(['"never"', '{"granular":{}}', "null"]),
    st.sampled_from(['{"type":"read-only"}', '{"mode":"danger-full-access"}', "null", "[]"]),
)
others = st.sampled_from(
    [
        '"type":"event_msg","payload":{"type":"task_started","turn_id":"1"}',
        '"type":"event_msg","payload":{"type":"turn_started","turn_id":"1"}',
        '"type":"event_msg","payload":{"type":"thread_settings_applied","thread_settings":{"model":"gpt-6-sol","cwd":"/x"}}',
        '"type":"event_msg","payload":{"type":"thread_settings_applied","thread_settings":7}',
        '"type":"event_msg","payload":{"type":"thread_goal_updated","goal":{"objective":" win "}}',
        '"type":"event_msg","payload":{"type":"from_the_future","a":1}',
        '"type":"event_msg","payload":{"message":"no tag","type":"user_message"}',
        '"type":"event_msg","payload":7',
        '"type":"response_item","payload":{"type":"message","role":"user","content":[]}',
        '"type":"from_the_future","payload":{}',
        '"type":"turn_context","payload":null',
        '"type":"compacted","payload":{"message":""}',
    ]
)
fillers = st.builds(
    '"type":"{}","payload":{{"type":"message","text":"{}"}}'.format,
    st.sampled_from(["response_item", "event_msg", "world_state"]),
    st.sampled_from([40, 600, 5_000, 66_000, 89_800, 95_000]).map(lambda size: "f" * size),
)
bodies = metas | counts | messages | items | contexts | others | fillers

ordinals = st.none() | st.integers(0, 9) | st.sampled_from([2**63, 10**25, -1])


def written(time: str, ordinal: int | None, body: str, order: str) -> bytes:
    number = "" if ordinal is None else f'"ordinal":{ordinal},'
    if order == "odd":
        return f'{{{body},{number}"timestamp":"{time}"}}'.encode()
    if order == "spaced":
        return f'{{ "timestamp": "{time}", {number}{body}}}'.encode()
    if order == "more keys":
        return f'{{"timestamp":"{time}",{number}{body},"key":"K#1/2"}}'.encode()
    return f'{{"timestamp":"{time}",{number}{body}}}'.encode()


orders = st.sampled_from(["canonical"] * 6 + ["odd", "spaced", "more keys"])
records = st.builds(written, times | odd_times, ordinals, bodies, orders)
noise = st.sampled_from(
    [
        b"",
        b" ",
        b"\t\r",
        b"not json",
        b"\xff\xfe\x00junk",
        b"\0" * 40,
        b"{}",
        b"[]",
        b"{",
        b"\xef\xbb\xbf",
        b"\0" * 95_000,
    ]
)


@st.composite
def damaged(draw: st.DrawFn, line: bytes) -> bytes:
    """A line with bytes changed, lost, or put in."""
    at = draw(st.integers(0, len(line)))
    put = draw(
        st.sampled_from([b"", b"\xe6\x87", b"\0", b"\n", b'"', b"}", b"{", b"\r", b"\xef\xbb\xbf", b'{"timestamp":"'])
    )
    return line[:at] + put + line[at + draw(st.integers(0, 60)) :]


lines = (
    st.tuples(
        st.sampled_from(REAL_LINES).map(lambda line: line.rstrip(b"\n")) | records | records | noise | records.flatmap(damaged),
        st.sampled_from([b"\n"] * 8 + [b"\r\n", b"\r", b"", b"\n\n"]),
    )
    .map(b"".join)
)  # fmt: skip
tails = st.sampled_from([b""] * 4 + [b"\0" * 1_728, b'{"timestamp":"2026', b"\xef\xbb", b"  "])
logs = st.builds(
    lambda head, first, body, tail: head + first + b"".join(body) + tail,
    st.sampled_from([b""] * 6 + [b"\xef\xbb\xbf", b"\n\n", b"hello\n"]),
    st.builds(written, times, st.none() | st.just(0), metas, st.just("canonical")).map(lambda line: line + b"\n")
    | st.just(b""),
    st.lists(lines, max_size=12),
    tails,
)


@st.composite
def cut_logs(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """A log, and the sizes it had while it grew: ends of lines, bytes beside them, and any other byte."""
    log = draw(logs)
    ends = [at + 1 for at, byte in enumerate(log) if byte == 0x0A] or [0]
    near = st.builds(lambda end, by: min(max(end + by, 0), len(log)), st.sampled_from(ends), st.integers(-3, 3))
    sizes = draw(st.lists(near | st.integers(0, len(log)), max_size=5))
    return log, sorted({*sizes, len(log)})


class Bytes:
    """A rollout that is in memory."""

    def __init__(self, data: bytes, inode: int, tick: int) -> None:
        self._data = data
        self.stat = FileStat(1, inode, len(data), tick, tick)
        self.broken: str | None = None

    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def close(self) -> None:
        pass


class Came(NamedTuple):
    """What folding came to, the file's stat aside."""

    state: object
    offset: int
    ordinal: int | None
    chain: bytes
    tail: bytes
    set_aside: list[SetAside]


def folder(block_bytes: int) -> Folder:
    return Folder(BUILT_IN, Options(block_bytes=block_bytes, line_bytes_max=LINE_BYTES_MAX, set_aside_bytes_max=16))


def came_to(folded: Folded, aside: dict[int, SetAside]) -> Came:
    mark = folded.mark
    state = THREADS.decode(mark.state)
    return Came(state, mark.offset, mark.ordinal, mark.chain, mark.tail, [aside[at] for at in sorted(aside)])


def once(log: bytes, block_bytes: int) -> Came:
    (folded,) = folder(block_bytes).fold(stream_of(PATH), Bytes(log, 1, 1), {})
    return came_to(folded, {each.offset: each for each in folded.set_aside})


def step_by_step(log: bytes, sizes: Sequence[int], block_bytes: int, *, copied: bool) -> Came:
    """Fold at each size from the watermark before; with `copied` the file is another inode each time."""
    stream: Stream = stream_of(PATH)
    folds = folder(block_bytes)
    mark: Watermark | None = None
    aside: dict[int, SetAside] = {}
    for tick, size in enumerate(sizes):
        source = Bytes(log[:size], tick if copied else 1, tick)
        (folded,) = folds.fold(stream, source, {} if mark is None else {THREADS.name: mark})
        assert folded.divergence is None, f"grown to {size} bytes, taken for another history: {folded.divergence}"
        aside = ({} if folded.anew else aside) | {each.offset: each for each in folded.set_aside}
        mark = folded.mark
    return came_to(folded, aside)


META = f'{{"timestamp":"2026-01-05T09:00:00.000Z","type":"session_meta","payload":{{"id":"{THREAD}"}}}}'.encode()
COUNT = b'{"timestamp":"2026-01-05T09:00:01.000Z","type":"event_msg","payload":{"type":"token_count","info":%s}}'
TOKENS = b'{"total_token_usage":{"total_tokens":11}}'


# What earlier versions of this engine, or engines before it, got wrong.
@example((META + b"\n" + COUNT % TOKENS + b"\n" + COUNT % b"null" + b"\n", [len(META) + 1]), 100, False)
@example((META + b"\rfoo\n", [len(META), len(META) + 5]), 100, False)
@example((META + META + b"\n", [len(META), 2 * len(META) + 1]), 100, False)
@example((META + b"\n" + COUNT % TOKENS, [len(META) + 1 + len(COUNT % TOKENS)]), 16, False)
@example((META + b"\n" + COUNT[:-2] % b"f" * 3_000, [len(META) + 1]), 700, True)
@settings(max_examples=250)
@given(cut_logs(), st.sampled_from(BLOCKS), st.booleans())
def test_folding_in_any_pieces_is_folding_once(cut: tuple[bytes, list[int]], block_bytes: int, copied: bool) -> None:
    """Append by append from the watermark, and the whole at once: the same state, position, digests and set-aside."""
    log, sizes = cut
    sizes = [*[size for size in sizes if size < len(log)], len(log)]
    whole = once(log, block_bytes)
    event(f"{len(sizes)} pieces, {'some' if whole.set_aside else 'none'} set aside")
    assert step_by_step(log, sizes, block_bytes, copied=copied) == whole


@example(META + b"\n" + COUNT % TOKENS, (16, 90_000))
@example(META + b"\n" + COUNT % TOKENS + b"\n", (85, 90_000))  # a block that ends inside of the kind
@settings(max_examples=150)
@given(logs, st.tuples(st.sampled_from(BLOCKS), st.sampled_from(BLOCKS)))
def test_the_block_size_changes_nothing(log: bytes, block_bytes: tuple[int, int]) -> None:
    """Blocks of 16 bytes and of 90 KB give the same fold."""
    assert once(log, block_bytes[0]) == once(log, block_bytes[1])


PLACES = (
    PATH,
    f"sessions/2026/01/06/rollout-2026-01-06T09-00-00-{THREAD}_{PARENT}.jsonl",
    f"archived_sessions/rollout-2026-01-05T09-00-00-{THREAD}.jsonl",
    f"sessions/2026/02/05/rollout-2026-02-05T09-00-00-{PARENT}.jsonl",
)
"""One thread in several rollouts, a copy of it that is archived, and another thread."""

steps = st.sampled_from(["backfill", "backfill", "list", "open again", "compress", "move"])


class Grown:
    """A home whose rollouts grow, and an engine that follows them."""

    def __init__(self, folder: Path, logs: Sequence[bytes], options: Options) -> None:
        self.home = folder / "home"
        self.options = options
        self.logs = dict(zip(PLACES, logs, strict=False))
        self.moved: dict[str, str] = {}
        self.engine = None
        self.open()

    def open(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.home.mkdir(exist_ok=True)
        self.engine = engine.open(str(self.home), options=self.options)

    def write(self, place: str, size: int) -> None:
        """Let a rollout grow to this size, wherever it is by now."""
        plain = self.home / self.moved.get(place, place)
        packed = plain.with_name(plain.name + ".zst")
        plain.parent.mkdir(parents=True, exist_ok=True)
        with plain.open("ab") as file:
            file.write(self.logs[place][:size] if packed.exists() else self.logs[place][file.tell() : size])
        packed.unlink(missing_ok=True)

    def take(self, step: str) -> None:
        if step == "backfill":
            self.engine.backfill()
        elif step == "list":
            self.engine.threads.list(limit=0)
        elif step == "open again":
            self.open()
        elif step == "compress":
            self._compress(PLACES[0])
        else:
            self._move(PLACES[0], f"archived_sessions/rollout-2026-01-07T09-00-00-{THREAD}.jsonl")

    def _compress(self, place: str) -> None:
        plain = self.home / self.moved.get(place, place)
        if plain.exists():
            plain.with_name(plain.name + ".zst").write_bytes(zstandard.compress(plain.read_bytes()))
            plain.unlink()

    def _move(self, place: str, target: str) -> None:
        plain = self.home / self.moved.get(place, place)
        if plain.exists():
            self.moved[place] = target
            (self.home / target).parent.mkdir(exist_ok=True)
            plain.rename(self.home / target)


def grows_like_fresh(cuts: Sequence[tuple[bytes, list[int]]], taken: Sequence[str], block_bytes: int) -> None:
    """Grow a home in pieces, taking a step after each; in the end its tables are those of a fresh engine."""
    options = Options(
        block_bytes=block_bytes, line_bytes_max=LINE_BYTES_MAX, set_aside_bytes_max=16, scan_interval_ms=0
    )
    with tempfile.TemporaryDirectory() as folder:
        grown = Grown(Path(folder), [log for log, _ in cuts], options)
        for number, step in enumerate(taken):
            for place, (_, sizes) in zip(PLACES, cuts, strict=False):
                if number < len(sizes):
                    grown.write(place, sizes[number])
            grown.take(step)
        for place, (log, _) in zip(PLACES, cuts, strict=False):
            grown.write(place, len(log))
        report = grown.engine.backfill()
        assert (report.status, report.failed) == ("complete", ())
        with engine.open(str(grown.home), state_dir=f"{folder}/fresh", options=options) as fresh:
            fresh.backfill()
            assert fresh.audit().findings == grown.engine.audit().findings
        grown.engine.close()
        assert dump(grown.home / "engine/state_1.sqlite") == dump(f"{folder}/fresh/state_1.sqlite")


engines = (
    st.lists(cut_logs(), min_size=1, max_size=4),
    st.lists(steps, min_size=1, max_size=6),
    st.sampled_from([100, 4_096, 65_536]),
)


# An empty rollout that was followed by its name, then moved, then found to be another thread's.
@example([(META.replace(THREAD.encode(), PARENT.encode()) + b"\n", [0])], ["backfill", "move"], 4_096)
@settings(max_examples=30)
@given(*engines)
def test_a_home_that_grew_has_the_tables_of_one_that_was_found(
    cuts: list[tuple[bytes, list[int]]], taken: list[str], block_bytes: int
) -> None:
    """Appended, compressed, moved, listed, closed, in any order: rows, watermarks and set-aside are a fresh engine's."""
    grows_like_fresh(cuts, taken, block_bytes)


@pytest.mark.soak
@settings(max_examples=3_000)
@given(*engines)
def test_soak_a_home_that_grew_has_the_tables_of_one_that_was_found(
    cuts: list[tuple[bytes, list[int]]], taken: list[str], block_bytes: int
) -> None:
    """The same, for longer."""
    grows_like_fresh(cuts, taken, block_bytes)


@pytest.mark.soak
@settings(max_examples=20_000)
@given(cut_logs(), st.sampled_from(BLOCKS), st.booleans())
def test_soak_folding_in_any_pieces_is_folding_once(
    cut: tuple[bytes, list[int]], block_bytes: int, copied: bool
) -> None:
    """The first property, for longer."""
    log, sizes = cut
    assert step_by_step(log, [*sizes, len(log)], block_bytes, copied=copied) == once(log, block_bytes)
