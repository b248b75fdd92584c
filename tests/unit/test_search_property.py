"""The index of what was said is that of one fold of the whole: for any log, any damage, any cut into pieces, any blocks.

The logs are those of the same test of turns: user and agent speak in them, again and anew, and take turns back.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.threads import stream_of
from engine.testing import rollout_lines
from tests.conversing import Lines, path_of
from tests.searching import SEARCH, dump, index, write
from tests.unit.test_fold_property import BLOCKS, LINE_BYTES_MAX, Bytes
from tests.unit.test_turns_property import logs

PATH = path_of()


def indexed(log, sizes, block_bytes):
    """What the index says of a log that was folded and written at each of these sizes."""
    options = Options(block_bytes=block_bytes, line_bytes_max=LINE_BYTES_MAX, set_aside_bytes_max=16)
    folder, database, marks = Folder([SEARCH], options), index(), {}
    try:
        for tick, size in enumerate(sizes):
            (folded,) = folder.fold(stream_of(PATH), Bytes(log[:size], 1, tick), marks)
            write(database, PATH, [folded])
            assert len(folded.mark.state) <= 64 * 1024
            marks = {SEARCH.name: folded.mark}
        return dump(database)
    finally:
        database.close()


def check(cut, block_bytes):
    log, sizes = cut
    whole = indexed(log, [len(log)], block_bytes)
    assert indexed(log, sizes, block_bytes) == whole
    places = {(path, offset) for path, offset, *_ in whole["texts"]}
    assert {(path, offset) for path, offset, *_ in whole["words"]} == places, "each message has words, and no other"


def joined(made):
    return b"".join(line + b"\n" for line in made.lines)


AGAIN = (
    Lines().started("a").agent("a", "1", "x", "commentary").agent("a", "1", "y z").agent("a", "1", "w", "commentary")
)
BACK = (
    Lines("legacy")
    .started("a")
    .said("x")
    .started("b")
    .said("y")
    .started("a")
    .said("z")
    .event("thread_rolled_back", num_turns=1)
)


@example((joined(AGAIN), list(itertools.accumulate(len(line) + 1 for line in AGAIN.lines))), 100)
@example((joined(BACK), list(itertools.accumulate(len(line) + 1 for line in BACK.lines))), 100)
@settings(max_examples=100)
@given(logs(), st.sampled_from(BLOCKS))
def test_indexing_words_in_any_pieces_is_indexing_them_once(cut, block_bytes):
    check(cut, block_bytes)


@pytest.mark.soak
@settings(max_examples=2_000)
@given(logs(), st.sampled_from(BLOCKS))
def test_soak_indexing_words_in_any_pieces_is_indexing_them_once(cut, block_bytes):
    check(cut, block_bytes)


@pytest.mark.parametrize("mode", ["paginated", "legacy", "old"])
@pytest.mark.parametrize("pieces", [2, 40])
def test_a_made_rollout_in_pieces_has_the_words_of_the_whole(mode, pieces):
    log = b"".join(rollout_lines(seed=4, mode=mode, size=150_000))
    sizes = [len(log) * number // pieces for number in range(1, pieces + 1)]
    whole = indexed(log, [len(log)], 256 * 1024)
    assert len(whole["texts"]) > 5
    assert indexed(log, sizes, 10_000) == whole
