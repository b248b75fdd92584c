"""Our decoder beside the standard library's json on the same bytes: one accepts a line exactly when the other does.

The rules of what a record is are written down here once more, on top of json. The differences on purpose, each with its
test: NaN and Infinity are no JSON; half of a surrogate pair is no text (SQLite and UTF-8 cannot hold it); a whole number
with more digits than Python converts is a number like any; nesting is bounded by each decoder's own stack.
"""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.events.payloads import TYPED
from engine.events.record import Rejected, decode, decode_as, decode_plain, kind_of, kind_of_plain
from engine.testing import rollout_lines

WORDS = st.one_of(st.text(max_size=8), st.sampled_from(["event_msg", "token_count", "\u2028", "\0", "\x7f", "é", "😀"]))
SCALARS = st.one_of(
    st.none(), st.booleans(), WORDS, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.just(10**300)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=8
)


@st.composite
def lines(draw):
    """A line that is a record, or nearly."""
    record = {
        "timestamp": draw(st.one_of(st.just("2026-01-05T09:00:00.000Z"), WORDS, SCALARS)),
        "ordinal": draw(st.one_of(st.none(), st.integers(-2, 1 << 64), SCALARS)),
        "type": draw(st.one_of(st.sampled_from(["session_meta", "event_msg", "response_item"]), WORDS, SCALARS)),
        "payload": draw(
            st.one_of(st.dictionaries(st.sampled_from(["type", "item", "id"]) | WORDS, VALUES, max_size=4), VALUES)
        ),
        draw(WORDS): draw(VALUES),
    }
    for key in draw(st.lists(st.sampled_from(sorted(record)), max_size=1)):
        del record[key]
    return json.dumps(
        dict(draw(st.permutations(list(record.items())))),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 1])),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])),
    ).encode("utf-8", "surrogatepass")


@st.composite
def mutated(draw):
    """The same with some bytes changed, left out, put in or doubled."""
    line = bytearray(draw(st.one_of(lines(), st.sampled_from(SAMPLES))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(line)))
        how = draw(st.integers(0, 3))
        if how == 0:
            line[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif how == 1:
            del line[at : at + draw(st.integers(1, 8))]
        elif how == 2:
            line[at:at] = draw(
                st.sampled_from(
                    [b'"', b"{", b"}", b",", b"\\", b"\\u12", b"\0", b" ", b"\xef\xbb\xbf", b"-", b"0", b"e9"]
                )
            )
        else:
            line[at:at] = line[at : at + 12]
    return bytes(line)


SAMPLES = [
    line.rstrip(b"\n") for mode in ("paginated", "old") for line in rollout_lines(seed=2, mode=mode, size=15_000)
]


def nothing_else(word):
    raise ValueError(f"{word} is no JSON")


def told(line):
    """The record that json and our rules make of a line, or None."""
    try:
        record = json.loads(line.decode("utf-8"), parse_constant=nothing_else)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    ordinal = record.get("ordinal")
    good = (
        isinstance(record.get("timestamp"), str)
        and isinstance(record.get("type"), str)
        and isinstance(record.get("payload"), dict)
        and (ordinal is None or (type(ordinal) is int and 0 <= ordinal < 1 << 63))
    )
    return (record["timestamp"], record["type"], record["payload"], ordinal) if good else None


def has_half_a_pair(value):
    """Whether json let a lone surrogate through."""
    return any("\ud800" <= letter <= "\udfff" for letter in json.dumps(value, ensure_ascii=False))


def ours(line):
    try:
        record = decode(line)
    except Rejected:
        return None
    return (record.timestamp, record.type, json.loads(bytes(record.payload)), record.ordinal)


def whole(line):
    """The line as json has it, whatever it is; None where it is none."""
    try:
        return json.loads(line.decode("utf-8"))
    except ValueError:
        return None


@given(lines())
def test_both_accept_the_same_lines_and_read_the_same_from_them(line):
    assume(not has_half_a_pair(whole(line)))
    assert ours(line) == told(line)


@given(mutated())
def test_both_reject_the_same_damaged_lines(line):
    assume(not has_half_a_pair(whole(line)))
    assert ours(line) == told(line)


@given(st.binary(max_size=60))
def test_both_reject_bytes_of_no_kind(line):
    assert ours(line) == told(line)


@given(st.one_of(lines(), mutated()), st.sampled_from(sorted(TYPED)))
def test_a_typed_decode_accepts_nothing_that_the_raw_one_rejects(line, kind):
    """And it never fails otherwise than by rejecting."""
    try:
        record = decode_as(line, kind)
    except Rejected:
        return
    plain = decode(line)
    assert (record.timestamp, record.type, record.ordinal) == (plain.timestamp, plain.type, plain.ordinal)
    assert isinstance(kind_of(plain), str)


def in_two(line):
    """Envelope first, then the payload."""
    try:
        record = decode(line)
        return (record.timestamp, record.type, msgspec.json.decode(record.payload), record.ordinal, kind_of(record))
    except (Rejected, msgspec.DecodeError):
        return None


def at_once(line):
    try:
        record = decode_plain(line)
    except Rejected:
        return None
    kind = kind_of_plain(record.type, record.payload)
    return (record.timestamp, record.type, record.payload, record.ordinal, kind)


@given(st.one_of(lines(), mutated()))
def test_a_line_that_is_decoded_at_once_is_what_its_envelope_and_payload_are(line):
    assert at_once(line) == in_two(line)


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b'{"type":"item_completed","item":{"type":"UserMessage"}}', "event_msg.item_completed.UserMessage"),
        (b'{"type":"item_completed","item":{"type":5}}', "event_msg.item_completed"),
        (b'{"type":"item_completed","item":[]}', "event_msg.item_completed"),
        (b'{"type":"item_completed"}', "event_msg.item_completed"),
        (b'{"type":5}', "event_msg"),
        (b'{"type":null}', "event_msg"),
        (b"{}", "event_msg"),
        (b'5,"payload":{"type":"token_count"}', "event_msg.token_count"),
    ],
)
def test_the_kind_of_a_decoded_payload_is_that_of_the_raw_one(payload, kind):
    line = b'{"timestamp":"x","type":"event_msg","payload":%b}' % payload
    assert at_once(line) == in_two(line)
    assert at_once(line)[-1] == kind


@pytest.mark.parametrize("mode", ["paginated", "legacy", "old"])
def test_every_line_of_a_conversation_reads_the_same(mode):
    made = [line.rstrip(b"\n") for line in rollout_lines(seed=4, mode=mode, size=60_000)]
    assert len(made) > 20
    for line in made:
        assert ours(line) == told(line) is not None


def payload(text):
    return b'{"timestamp":"x","type":"a","payload":{"v":%b}}' % text


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"-Infinity"])
def test_words_that_are_no_json_are_rejected_though_json_takes_them(word):
    assert json.loads(payload(word))["type"] == "a"
    assert ours(payload(word)) is None


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udc00 \\ud800"', b'{"\\uDbFf":1}'])
def test_half_of_a_surrogate_pair_is_rejected_though_json_takes_it(text):
    """The format's own reader rejects it too."""
    assert json.loads(payload(text))["type"] == "a"
    assert ours(payload(text)) is None
    assert ours(payload(b'"\\ud83d\\ude00"')) == ("x", "a", {"v": "😀"}, None)


def test_a_number_of_any_length_is_kept_though_json_cannot_convert_it():
    long = payload(b"1" * 5_000)
    assert bytes(decode(long).payload) == b'{"v":' + b"1" * 5_000 + b"}"
    with pytest.raises(ValueError, match="limit"):
        json.loads(long)


def test_nesting_beyond_the_stack_is_rejected_and_not_an_error():
    assert ours(payload(b"[" * 200_000 + b"]" * 200_000)) is None
    assert ours(payload(b"[" * 300 + b"]" * 300)) is not None
