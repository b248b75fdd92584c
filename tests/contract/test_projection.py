"""What every projection must keep, whoever wrote it; run for each built-in one, and for broken ones to see that it fails.

Add a projection to `PROJECTIONS`, or call `check_contract` with your own.
"""

from __future__ import annotations

import copy
import json

import pytest

from engine.events.kinds import KNOWN
from engine.events.record import decode, decode_as, decode_plain, kind_of
from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.own import guarded
from engine.projections.projection import Piece, Projection
from engine.projections.registry import BUILT_IN
from engine.projections.threads import stream_of
from engine.projections.turns import Turns
from engine.stores.files import Files
from engine.testing import rollout_lines
from tests.in_memory import Bytes
from tests.own import Heads, TokensPerDay

PATH = "sessions/2026/01/05/rollout-2026-01-05T09-00-00-01a20464-403f-7170-9722-7a9790eef98c.jsonl"
MODES = ("paginated", "legacy", "old")
NOTHING = Piece(0, 0, None, None)


def conversation(mode, size=60_000):
    return list(rollout_lines(seed=6, mode=mode, size=size))


def asked(projection, mode, decoding=decode_as):
    """The records of a conversation that a projection asks for, decoded: record, kind, offset."""
    found, offset = [], 0
    for line in conversation(mode):
        kind = kind_of(decode(line))
        if kind in projection.kinds | projection.latest:
            found.append((decoding(line, kind), kind, offset))
        offset += len(line)
    return found


def folded(projection, records):
    state = projection.start(stream_of(PATH))
    for record, kind, offset in records:
        projection.apply(state, record, kind, offset)
    return state


def check_contract(projection, decoding=decode_as):
    """Every rule in turn; an AssertionError names the one that is broken.

    `decoding` is `decode_plain` for the records of an application's own projection.
    """
    check_what_it_says_of_itself(projection)
    for mode in MODES:
        records = asked(projection, mode, decoding)
        check_records_are_left_alone(projection, records)
        check_states_are_values(projection, records)
        check_effects_are_told(projection, records)
        check_latest_kinds_move_fields_of_their_own(projection, records)
        check_pieces(projection, b"".join(conversation(mode)), decoding)


def check_what_it_says_of_itself(projection):
    assert projection.name, "it has a name"
    assert projection.version >= 1, "versions begin with 1"
    assert not projection.kinds & projection.latest, "a kind is applied always or as the latest, not both"
    assert projection.kinds | projection.latest <= KNOWN, "it asks for kinds that there are"
    assert len(asked(projection, "paginated")) > 3, "it asks for something that a conversation has"


def check_states_are_values(projection, records):
    state = folded(projection, records)
    blob = projection.encode(state)
    assert len(blob) <= 64 * 1024, "a state is at most 64 KiB"
    assert projection.encode(projection.decode(blob)) == blob, "a state is what it was encoded from"
    assert projection.encode(folded(projection, records)) == blob, "the same records give the same state"
    fresh = projection.encode(projection.start(stream_of(PATH)))
    assert projection.encode(projection.start(stream_of(PATH))) == fresh, "no fold leaves a trace in the next one"
    half = folded(projection, records[: len(records) // 2])
    resumed = projection.decode(projection.encode(half))
    for record, kind, offset in records[len(records) // 2 :]:
        projection.apply(resumed, record, kind, offset)
    assert projection.encode(resumed) == blob, "a stored state goes on as if it had never been stored"


def check_records_are_left_alone(projection, records):
    before = copy.deepcopy([record for record, _, _ in records])
    folded(projection, records)
    assert [record for record, _, _ in records] == before, "apply changes no record: others are given it too"


def check_effects_are_told(projection, records):
    state = projection.start(stream_of(PATH))
    for record, kind, offset in records:
        blob = projection.encode(state)
        moved = projection.apply(state, record, kind, offset)
        assert isinstance(moved, bool), "apply tells whether it had an effect"
        assert moved or projection.encode(state) == blob, "a record without an effect changes nothing"


def check_latest_kinds_move_fields_of_their_own(projection, records):
    """Of a latest kind all but the newest may be left out, and where it stands among other kinds changes nothing."""
    whole = projection.encode(folded(projection, records))
    for kind in projection.latest:
        of_kind = [each for each in records if each[1] == kind]
        others = [each for each in records if each[1] != kind]
        state = projection.start(stream_of(PATH))
        newest = [each for each in of_kind if projection.apply(state, *each)][-1:]
        assert projection.encode(folded(projection, [*others, *newest])) == whole, f"the newest {kind} is enough"
        if others:
            early = [others[0], *newest, *others[1:]]
            assert projection.encode(folded(projection, early)) == whole, f"it matters where a {kind} stands"


def check_pieces(projection, data, decoding=decode_as):
    """Through the engine's own fold: cut anywhere, in blocks of any size."""
    folder = Folder([projection], Options(), decode=decoding)
    (whole,) = folder.fold(stream_of(PATH), Bytes(data), {})
    for cuts in ([len(data) // 3, len(data) // 2], list(range(0, len(data), max(len(data) // 12, 1)))):
        marks = {}
        for cut in [*cuts, len(data)]:
            small = Folder([projection], Options(block_bytes=1_000), decode=decoding)
            (part,) = small.fold(stream_of(PATH), Bytes(data[:cut]), marks)
            marks = {projection.name: part.mark}
        assert part.mark.state == whole.mark.state, "a rebuild equals the incremental state"
        assert part.mark.offset == whole.mark.offset == len(data)


@pytest.mark.parametrize("projection", [*BUILT_IN, Turns()], ids=lambda projection: projection.name)
def test_a_built_in_projection_keeps_the_contract(projection):
    check_contract(projection)


def test_names_of_built_in_projections_differ():
    names = [projection.name for projection in BUILT_IN]
    assert len(set(names)) == len(names)


class Counts:
    """A user's own projection, as small as one can be: how many turns, and the last time."""

    name = "counts"
    version = 1
    kinds = frozenset({"turn_context"})
    latest = frozenset({"event_msg.token_count"})

    def start(self, stream):
        return {"turns": 0, "at": None}

    def apply(self, state, record, kind, offset):
        if kind == "turn_context":
            state["turns"] += 1
        else:
            state["at"] = record.timestamp
        return True

    def close_piece(self, state, piece):
        pass

    def emit(self, state):
        return []

    def encode(self, state):
        return json.dumps(state).encode()

    def decode(self, blob):
        return json.loads(blob)

    def write(self, transaction, changes):
        pass

    def forget(self, transaction, paths):
        pass


def test_a_users_own_projection_keeps_the_contract():
    projection: Projection = Counts()
    check_contract(projection)
    state = folded(projection, asked(projection, "paginated"))
    assert state["turns"] == sum(b'"type":"turn_context"' in line for line in conversation("paginated")) > 0


@pytest.mark.parametrize("own", [TokensPerDay, Heads])
def test_the_projection_of_the_documents_keeps_the_contract_and_so_does_what_the_engine_runs(own):
    check_contract(own(), decode_plain)
    check_contract(*guarded([own()], Files()), decode_plain)


class TwoOfOneKind(Counts):
    latest = frozenset({"turn_context"})


class UnknownKind(Counts):
    kinds = frozenset({"turn_context", "turn_contexts"})


class LatestCounts(Counts):
    """Counts what is only told the newest of."""

    def apply(self, state, record, kind, offset):
        state["turns"] += 1
        return True


class LatestReadsOthers(Counts):
    """Its newest record's effect depends on what came before it."""

    def apply(self, state, record, kind, offset):
        if kind == "turn_context":
            state["turns"] += 1
        else:
            state["at"] = state["turns"]
        return True


class Liar(Counts):
    def apply(self, state, record, kind, offset):
        super().apply(state, record, kind, offset)
        return False


class Silent(Counts):
    def apply(self, state, record, kind, offset):
        super().apply(state, record, kind, offset)


class Remembering(Counts):
    """Holds state of its own between calls."""

    def __init__(self):
        self.seen = 0

    def apply(self, state, record, kind, offset):
        self.seen += 1
        state["at"] = self.seen
        return True


class Forgetful(Counts):
    def encode(self, state):
        return json.dumps({"turns": state["turns"]}).encode()

    def decode(self, blob):
        return {"turns": 0, "at": None} | json.loads(blob) | {"turns": 1}


class Large(Counts):
    def apply(self, state, record, kind, offset):
        state.setdefault("all", []).append("x" * 40_000)
        return True


class Meddling(Counts):
    def apply(self, state, record, kind, offset):
        record.timestamp = "changed"
        return super().apply(state, record, kind, offset)


class Piecewise(Counts):
    """Its state tells how many pieces there were."""

    def close_piece(self, state, piece):
        state["turns"] += 1


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (TwoOfOneKind, "always or as the latest"),
        (UnknownKind, "kinds that there are"),
        (LatestCounts, "is enough"),
        (LatestReadsOthers, "is enough|it matters where"),
        (Liar, "a record without an effect"),
        (Silent, "apply tells whether"),
        (Remembering, "the same records give the same state"),
        (Forgetful, "what it was encoded from|as if it had never been stored"),
        (Large, "at most 64 KiB"),
        (Meddling, "apply changes no record"),
        (Piecewise, "a rebuild equals"),
    ],
)
def test_a_projection_that_breaks_a_rule_is_caught_by_it(broken, rule):
    with pytest.raises(AssertionError, match=rule):
        check_contract(broken())
