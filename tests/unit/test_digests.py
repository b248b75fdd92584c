"""What a watermark remembers of the bytes before it: the same however they came, another for other bytes."""

from __future__ import annotations

import random

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from engine.stores.digests import BLOCK_BYTES, Chain, tail_digest

DATA = random.Random(7).randbytes(5 * 65_536 + 1_000)


def chained(data):
    """d = xxh3_128(d ‖ block) over whole blocks of 64 KiB, from sixteen zero bytes on; written down once more."""
    digest = bytes(16)
    for number in range(len(data) // 65_536):
        digest = xxhash.xxh3_128_digest(digest + data[number * 65_536 : (number + 1) * 65_536])
    return digest


def fed(data, cuts):
    chain, at = Chain(), 0
    for cut in [*sorted(cuts), len(data)]:
        chain.feed(data, at, cut)
        at = cut
    return chain


def test_blocks_are_of_64_kib_and_nothing_is_chained_before_the_first_is_whole():
    assert BLOCK_BYTES == 65_536
    assert fed(DATA[:65_535], []).digest == bytes(16)
    assert fed(DATA[:65_536], []).digest.hex() == chained(DATA[:65_536]).hex() != bytes(16).hex()


@given(st.lists(st.integers(0, len(DATA)), max_size=12))
def test_a_chain_does_not_depend_on_how_the_bytes_came(cuts):
    assert fed(DATA, cuts).digest == chained(DATA)


@given(st.integers(0, len(DATA)), st.sampled_from([bytes, bytearray]))
def test_a_chain_is_carried_on_from_any_offset(offset, kind):
    """All that is kept is the digest; the bytes since the last whole block are read again."""
    before = fed(kind(DATA[:offset]), [])
    chain = Chain(before.digest, DATA[offset - offset % 65_536 : offset])
    chain.feed(kind(DATA), offset, len(DATA))
    assert chain.digest == chained(DATA)


def test_a_chain_keeps_no_hold_on_the_block_it_was_fed():
    """Blocks are read into buffers that are used again."""
    buffer = bytearray(DATA[:70_000])
    chain = Chain()
    chain.feed(buffer, 0, 70_000)
    buffer[:] = bytes(70_000)
    chain.feed(DATA, 70_000, len(DATA))
    assert chain.digest == chained(DATA)


def test_a_copy_goes_its_own_way():
    chain = fed(DATA[:100_000], [])
    copy = chain.copy()
    copy.feed(DATA, 100_000, len(DATA))
    assert chain.digest == chained(DATA[:100_000])
    assert copy.digest == chained(DATA)


@given(st.integers(0, 5 * 65_536 - 1), st.integers(1, 255))
def test_any_byte_of_a_whole_block_counts(at, flip):
    changed = bytearray(DATA)
    changed[at] ^= flip
    assert fed(changed, []).digest != chained(DATA)


def test_the_order_of_blocks_counts():
    assert fed(DATA[65_536:131_072] + DATA[:65_536], []).digest != fed(DATA[:131_072], []).digest


def test_a_tail_is_the_digest_of_its_bytes():
    assert tail_digest(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert tail_digest(b"abc") == tail_digest(bytearray(b"abc")) == xxhash.xxh3_128_digest(b"abc")
    assert tail_digest(b"abd") != tail_digest(b"abc")
