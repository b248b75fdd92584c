"""A projection that asks for it is told where its records stand; and of two that ask, each gets what it asked for."""

from __future__ import annotations

import pytest

from engine.events.record import Rejected, decode
from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.threads import stream_of
from engine.testing import rollout_lines
from tests.contract.test_projection import PATH, Bytes, Counts

ITEM = "event_msg.item_completed"


class Seeing(Counts):
    """Writes down where each record stands, as a part of its whole stream."""

    name = "seeing"
    kinds = frozenset({"session_meta", "turn_context", ITEM})
    latest = frozenset()

    def __init__(self):
        self.seen = []
        self.records = 0

    def place(self, state, place):
        self.at = place

    def apply(self, state, record, kind, offset):
        self.seen.append((offset, self.at.length, self.records + self.at.before))
        assert self.at.offset == offset
        return True

    def close_piece(self, state, piece):
        self.records += piece.records


class Naming(Counts):
    """Asks for one item by its name."""

    name = "naming"
    kinds = frozenset({f"{ITEM}.UserMessage"})
    latest = frozenset()

    def __init__(self):
        self.seen = []

    def apply(self, state, record, kind, offset):
        self.seen.append(offset)
        return True


def rollout():
    """Lines with odd ones among them: blank, broken, of another key order, and a mark at the beginning."""
    made = [line.rstrip(b"\n") for line in rollout_lines(seed=6, size=60_000)]
    odd = b'{"type":"turn_context","timestamp":"2026-01-05T09:00:00.000Z","payload":{}}'
    return b"\n".join([b"\xef\xbb\xbf" + made[0], b"", odd, *made[1:9], b"{broken", *made[9:], odd])


def expected(data, wanted):
    found, offset, records = [], 0, 0
    for line in data.split(b"\n"):
        try:
            record = decode(line.removeprefix(b"\xef\xbb\xbf"))
        except Rejected:
            pass
        else:
            if wanted(line):
                found.append((offset, len(line), records))
            records += record is not None
        offset += len(line) + 1
    return found


@pytest.mark.parametrize("block_bytes", [200, 5_000, 256 * 1024])
def test_a_record_is_told_with_its_place_and_the_records_before_it(block_bytes):
    data = rollout()
    marks = {}
    projection = Seeing()
    for end in (len(data) // 3, len(data) // 2, len(data)):
        (folded,) = Folder([projection], Options(block_bytes=block_bytes)).fold(
            stream_of(PATH), Bytes(data[:end]), marks
        )
        marks = {projection.name: folded.mark}
    kinds = (b'"type":"session_meta"', b'"type":"turn_context"', b'"type":"item_completed"')
    whole = expected(data, lambda line: any(kind in line[:160] for kind in kinds))
    assert len(whole) > 10
    assert projection.seen == whole


def test_a_projection_gets_what_it_asked_for_whatever_others_asked_for():
    data = rollout()
    alone, beside, named = Seeing(), Seeing(), Naming()
    Folder([alone], Options()).fold(stream_of(PATH), Bytes(data), {})
    Folder([beside, named], Options()).fold(stream_of(PATH), Bytes(data), {})
    assert beside.seen == alone.seen
    assert 0 < len(named.seen) < len(alone.seen)
