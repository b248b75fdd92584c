"""Citations in an answer that comes in pieces: shown is what the whole would show, cited what the whole cites."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.memories.citations import CitationStream, parse_citations, without_citations

BLOCK = "<oai-mem-citation><rollout_ids>\n{id}\n</rollout_ids></oai-mem-citation>"


def streamed(pieces):
    stream = CitationStream()
    shown = [stream.feed(piece) for piece in pieces]
    rest, cited = stream.finish()
    return shown, rest, cited


def test_r2_a_block_that_is_cut_anywhere_is_not_shown():
    text = f"before {BLOCK.format(id='one')}after"
    for cut in range(len(text) + 1):
        shown, rest, cited = streamed([text[:cut], text[cut:]])
        assert "".join(shown) + rest == "before after"
        assert cited.thread_ids == ["one"]


def test_r2_text_is_shown_as_soon_as_it_can_be_no_block():
    shown, rest, cited = streamed(["a <", "oai", " b", "<cit"])
    assert (shown, rest, cited) == (["a ", "", "<oai b", ""], "<cit", None)


def test_r2_several_blocks_and_one_without_an_end():
    text = f"a{BLOCK.format(id='one')}b{BLOCK.format(id='two')}c<citation><thread_ids>\nthree"
    shown, rest, cited = streamed(list(text))
    assert "".join(shown) + rest == "abc"
    assert cited.thread_ids == ["one", "two", "three"]


@pytest.mark.parametrize("text", ["", "plain", "<", "a<oai-mem-citatio"])
def test_r2_an_opening_that_is_not_whole_stays_visible(text):
    shown, rest, cited = streamed([text])
    assert "".join(shown) + rest == text
    assert cited is None


PIECES = st.lists(
    st.sampled_from(
        "< oai-mem-citation citation > </ <citation> </citation> <oai-mem-citation> </oai-mem-citation> x <cit <oai "
        "<rollout_ids> </rollout_ids> id \n".split(" ")
    ),
    max_size=14,
)


@given(PIECES)
@example(["<", "<citation>", "x", "</citation>", "<"])
def test_r2_any_pieces_show_and_cite_what_the_whole_does(pieces):
    shown, rest, cited = streamed(pieces)
    whole = "".join(pieces)
    assert "".join(shown) + rest == without_citations(whole)
    assert cited == parse_citations(whole)
