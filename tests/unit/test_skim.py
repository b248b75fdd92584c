"""The skim and a decode of what it hands out find what a full decode of every line finds, for any lines and any cut.

What a line's kind is, is told here by the standard library's json and three rules. Left out on purpose is what the skim
says that it does not look for: a key twice, and an escape in a key or in the word of a kind.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.events.record import Rejected, decode, kind_of
from engine.events.skim import Skim, canonical_envelope
from engine.testing import rollout_lines

TIME = "2026-01-05T09:00:00.000Z"
UUID = "019b8d3c-0000-7000-8000-000000000001"
KINDS = frozenset(
    "session_meta turn_context event_msg.user_message event_msg.item_completed.UserMessage "
    "event_msg.thread_goal_updated response_item.message".split()
)
LATEST = frozenset({"event_msg.token_count", "event_msg.task_started"})

TYPES = "session_meta turn_context turn_context_2 session_met world_state from_the_future compacted".split()
TAGGED = "event_msg response_item realtime_item".split()
TAGS = (
    "user_message token_count task_started turn_started item_completed item_started thread_goal_updated message "
    "user_messages token agent_message item_completed_2"
).split()
ITEMS = "UserMessage UserMessages AgentMessage User Plan".split()


def told(line):
    """The kind of a line, None where it is no record."""
    try:
        record = json.loads(line.decode())
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    type_, payload, number = record.get("type"), record.get("payload"), record.get("ordinal")
    numbered = number is None or (type(number) is int and 0 <= number < 1 << 63)
    if not (
        isinstance(type_, str) and isinstance(record.get("timestamp"), str) and isinstance(payload, dict) and numbered
    ):
        return None
    tag, item = payload.get("type"), payload.get("item")
    if type_ not in ("event_msg", "response_item", "realtime_item", "retained_context") or not isinstance(tag, str):
        return type_
    if type_ == "event_msg":
        tag = {"turn_started": "task_started", "turn_complete": "task_complete"}.get(tag, tag)
        if tag == "item_completed" and isinstance(item, dict) and isinstance(item.get("type"), str):
            tag = f"item_completed.{item['type']}"
    return f"{type_}.{tag}"


def found(block, cuts, skim):
    """Offset and kind of what a skim hands out of `block`, cut at these line ends; and how many lines it told."""
    records, lines = {}, 0
    for start, end in zip([0, *cuts], [*cuts, len(block)], strict=True):
        skimmed = skim.scan(block, start, end)
        lines += skimmed.canonical
        for hit in [*skimmed.hits, *skimmed.latest]:
            kind = hit.kind
            if kind is None:
                lines += 1
                try:
                    kind = kind_of(decode(block[hit.start : hit.end]))
                except Rejected:
                    continue
            assert hit.start not in records, "a line was handed out twice"
            records[hit.start] = kind
    return records, lines


def expected(lines, wanted):
    at, records = 0, {}
    for line in lines:
        kind = told(line)
        if kind is not None and kind in wanted:
            records[at] = kind
        at += len(line) + 1
    return records


def check(lines, cuts, kinds=KINDS, latest=LATEST):
    block = b"".join(line + b"\n" for line in lines)
    ends = [0]
    for line in lines:
        ends.append(ends[-1] + len(line) + 1)
    records, told_lines = found(block, sorted({ends[cut % len(ends)] for cut in cuts}), Skim(kinds, latest))
    good = {at for at, line in zip(ends, lines, strict=False) if told(line) is not None}
    want = expected(lines, kinds | latest)
    assert {at: kind for at, kind in records.items() if at in good and kind in kinds | latest} == want
    assert told_lines == sum(bool(line.strip(b" \t\r")) for line in lines)


@st.composite
def payloads(draw):
    """Payload of a tagged type, its tag first or not, its item first or not, ids of any length."""
    tag = draw(st.sampled_from(TAGS))
    fields = {"type": tag}
    if draw(st.booleans()):
        fields |= {"message": draw(st.text(max_size=5)), "info": None}
    if tag.startswith("item_"):
        ids = st.one_of(st.just(UUID), st.text("0123456789abcdef-_", max_size=40))
        fields |= {"thread_id": draw(ids), "turn_id": draw(ids)}
        item = {"type": draw(st.sampled_from(ITEMS)), "id": "1"}
        fields["item"] = dict(draw(st.permutations(list(item.items())))) if draw(st.booleans()) else item
    if draw(st.integers(0, 3)) == 0:
        return dict(draw(st.permutations(list(fields.items()))))
    return fields


@st.composite
def lines(draw):
    """A line as the format's writers write it, or oddly in one way or several; sometimes with a byte wrong."""
    tagged = draw(st.booleans())
    record = {"timestamp": TIME}
    if draw(st.integers(0, 5)) == 0:
        record["timestamp"] = draw(
            st.sampled_from(["", "2026", "2026-01-05T09:00:00Z", "2026-01-05T10:00:00.000+01:00"])
        )
    if draw(st.booleans()):
        record["ordinal"] = draw(
            st.one_of(st.integers(0, 300), st.sampled_from([None, 10**17, 10**18, 10**19, 10**30]))
        )
    record["type"] = draw(st.sampled_from(TAGGED if tagged else TYPES))
    record["payload"] = draw(payloads()) if tagged else {"id": "x", "type": "user_message"}
    if draw(st.integers(0, 4)) == 0:
        record = dict(draw(st.permutations(list(record.items()))))
    separators = draw(st.sampled_from([(",", ":"), (",", ":"), (",", ":"), (", ", ": "), (" ,", " : ")]))
    text = json.dumps(record, separators=separators, ensure_ascii=draw(st.booleans())).encode()
    text += draw(st.sampled_from([b"", b"", b"", b"\r", b" "]))
    if draw(st.integers(0, 4)) == 0 and text:
        at = draw(st.integers(0, len(text) - 1))
        text = draw(
            st.sampled_from([
                text[:at], text[:at] + text[at + 1 :], text[:at] + b" " + text[at:], text[:at] + b"\xff" + text[at + 1 :],
                text[:at] + b"x" + text[at + 1 :], text[:at] + bytes(1) + text[at:],
            ])
        )  # fmt: skip
    return text


@given(st.lists(lines(), max_size=12), st.lists(st.integers(0, 50), max_size=6))
def test_no_line_that_matters_is_passed_over_whatever_the_cut(made, cuts):
    check(made, cuts)


@given(st.lists(lines(), max_size=6), st.sets(st.sampled_from(sorted(KINDS | LATEST)), max_size=3))
def test_any_set_of_kinds_is_found(made, kinds):
    check(made, [], kinds=frozenset(kinds), latest=frozenset())


@pytest.mark.parametrize("mode", ["paginated", "legacy", "old"])
def test_nothing_of_a_whole_conversation_is_passed_over(mode):
    made = [line.rstrip(b"\n") for line in rollout_lines(seed=3, mode=mode, size=150_000)]
    assert len(made) > 80
    check(made, [10, 33, 50])
    found_kinds = {told(line) for line in made}
    assert "event_msg.token_count" in found_kinds
    assert KINDS & found_kinds


@pytest.mark.parametrize("tag", ["user_message", "token_count", "turn_started", "item_completed"])
def test_ordinals_of_any_width_may_follow_each_other(tag):
    """The place of the type is remembered from line to line and must be found anew where the width changes."""
    payload = f'{{"type":"{tag}","thread_id":"{UUID}","turn_id":"{UUID}","item":{{"type":"UserMessage"}}}}'
    numbers = ["", *(f'"ordinal":{n},' for n in (9, 10, 99, 7, 10**17, 5, 10**18, 10**19, 1000, 10**40))]
    made = [f'{{"timestamp":"{TIME}",{number}"type":"event_msg","payload":{payload}}}'.encode() for number in numbers]
    check(made + made[::-1], [])
    check(made[1:3] * 5 + made[:1] * 3, [])


IDS = f'"thread_id":"{UUID}","turn_id":"{UUID}"'
ITEM = "event_msg.item_completed.UserMessage"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ('{"message":"x","type":"user_message"}', "event_msg.user_message"),
        ('{ "type":"user_message"}', "event_msg.user_message"),
        ('{"type": "user_message"}', "event_msg.user_message"),
        ('{"type":"user_message" }', "event_msg.user_message"),
        ('{"type":"turn_started"}', "event_msg.task_started"),
        ('{"type":"item_completed",IDS,"item":{"type":"UserMessage","id":"1"}}', ITEM),
        ('{"type":"item_completed",IDS,"item":{"id":"1","type":"UserMessage"}}', ITEM),
        ('{"type":"item_completed","item":{"type":"UserMessage"},IDS}', ITEM),
        ('{"type":"item_completed","thread_id":"UUID","item":{"type":"UserMessage"}}', ITEM),
        ('{"type":"item_completed","thread_id":"UUID","turn_id":"7","item":{"type":"UserMessage"}}', ITEM),
        ('{"type":"item_completed","thread_id":"UUID","turn_id":null,"item":{"type":"UserMessage"}}', ITEM),
        ('{IDS,"type":"item_completed","item":{"type":"UserMessage"}}', ITEM),
        (
            '{"type":"item_completed","thread_id":"UUID","o":{"is":"X36","item":{"type":"Plan"}},"item":{"type":"UserMessage"}}',
            ITEM,
        ),
    ],
)
def test_a_payload_in_another_order_is_decoded_and_not_passed_over(payload, kind):
    """IDS, UUID and X36 stand for ids, one id, and a text that puts another item where the item's tag is looked for."""
    payload = payload.replace("IDS", IDS).replace("UUID", UUID).replace("X36", "x" * 36)
    line = f'{{"timestamp":"{TIME}","ordinal":7,"type":"event_msg","payload":{payload}}}'.encode()
    assert told(line) == kind
    check([line, line], [])


@pytest.mark.parametrize(
    "line",
    [
        b'{"timestamp":"2026","payload":{"id":"x","type":"user_message"},"type":"session_meta"}',
        b'{"timestamp":"2026","ordinal":7,"key":"K","type":"session_meta","payload":{"id":"x"}}',
        b'{"timestamp":"2026-01-05","of":{"i":"x","type":"turn"},"type":"session_meta","payload":{}}',
        b'{"timestamp":"2026-01-05T09:00:00Z","a":"","type":"session_meta","payload":{}}',
    ],
)
def test_a_short_time_does_not_make_another_word_the_type(line):
    """Found by hypothesis: where the time is shorter, something else may stand where the type is looked for."""
    assert told(line) == "session_meta"
    check([line, line], [])


def test_lines_of_kinds_that_nobody_asked_for_are_not_decoded():
    """What makes a skim worth its while: of canonical lines only those asked for are handed out."""
    made = [line.rstrip(b"\n") for line in rollout_lines(seed=1, size=60_000)]
    block = b"\n".join(made)
    skimmed = Skim({"session_meta"}).scan(block, 0, len(block))
    assert [hit.kind for hit in skimmed.hits] == ["session_meta"]
    assert skimmed.canonical == len(made) > 20


def test_a_kind_stands_for_all_that_are_below_it():
    made = [
        b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"event_msg","payload":{"type":"token_count"}}',
        b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"response_item","payload":{"type":"message"}}',
        b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"event_msg","payload":{"message":""}}',
    ]
    block = b"\n".join(made)
    found_lines = [hit.start for hit in Skim({"event_msg"}).scan(block, 0, len(block)).hits]
    assert found_lines == [0, len(made[0]) + len(made[1]) + 2]


def test_blank_lines_are_neither_told_nor_handed_out():
    assert Skim(KINDS).scan(b"\n \t\r\n\r\n", 0, 6) == ([], [], 0)


def test_a_last_line_without_its_newline_is_skimmed_too():
    line = f'{{"timestamp":"{TIME}","type":"session_meta","payload":{{"id":"a"}}}}'.encode()
    ((start, end, kind, _),) = Skim(KINDS).scan(line, 0, len(line)).hits
    assert (start, end, kind) == (0, len(line), "session_meta")


def test_a_hit_is_its_line_without_the_newline():
    block = b'garbage\n{"timestamp":"2026-01-05T09:00:00.000Z","type":"turn_context","payload":{}}\r\nmore'
    hits = Skim(KINDS).scan(block, 0, len(block)).hits
    assert [(block[hit.start : hit.end], hit.kind) for hit in hits] == [
        (b"garbage", None),
        (b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"turn_context","payload":{}}\r', "turn_context"),
        (b"more", None),
    ]


def test_time_and_ordinal_of_a_canonical_line_are_read_in_place():
    block = b'xx\n{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":41,"type":"a","payload":{}}\n'
    assert canonical_envelope(block, 3, len(block) - 1) == (TIME, 41)
    plain = block.replace(b'"ordinal":41,', b"")
    assert canonical_envelope(plain, 3, len(plain) - 1) == (TIME, None)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":41',
        b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":x,"type":"a","payload":{}}',
        b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":1234567890123456789,"type":"a","payload":{}}',
        b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":,"type":"a","payload":{}}',
        b'{"timestamp":"2026-01-05T09:00:00.000Z","payload":{},"type":"a"}',
        b'{"timestamp":"2026-01-05T09:00:00Z","type":"a","payload":{}}',
        b'{ "timestamp":"2026-01-05T09:00:00.000Z","type":"a","payload":{}}',
    ],
)
def test_a_head_that_is_not_canonical_is_not_judged_by_its_looks(line):
    assert canonical_envelope(line, 0, len(line)) is None
    if line:
        assert Skim(KINDS).scan(line, 0, len(line)).hits == [(0, len(line), None, 0)]


def test_an_item_that_was_asked_for_by_name_is_told_by_its_head_and_all_others_are_decoded():
    def item(tag):
        head = f'{{"timestamp":"{TIME}","type":"event_msg","payload":{{"type":"item_completed","thread_id":"{UUID}"'
        return f'{head},"turn_id":"{UUID}","item":{{"type":"{tag}","id":"1"}}}}}}\n'.encode()

    block = item("Plan") + item("NewThing") + item("Plan")
    both = Skim({"event_msg.item_completed", "event_msg.item_completed.Plan"}).scan(block, 0, len(block))
    assert [hit.kind for hit in both.hits] == ["event_msg.item_completed.Plan", None, "event_msg.item_completed.Plan"]
    one = Skim({"event_msg.item_completed.Plan"}).scan(block, 0, len(block))
    assert [hit.kind for hit in one.hits] == ["event_msg.item_completed.Plan"] * 2


def test_an_item_of_a_kind_of_which_the_newest_counts_is_told_apart():
    """It was handed out among those that always count, for which nobody had asked, and so it was lost."""
    head = f'{{"timestamp":"{TIME}","type":"event_msg","payload":{{"type":"item_completed","thread_id":"{UUID}"'
    line = f'{head},"turn_id":"{UUID}","item":{{"type":"Plan","id":"1"}}}}}}\n'.encode()
    skimmed = Skim({"turn_context"}, {"event_msg.item_completed.Plan"}).scan(line, 0, len(line))
    assert skimmed.hits == []
    assert [hit.kind for hit in skimmed.latest] == ["event_msg.item_completed.Plan"]


def test_a_hit_knows_how_many_lines_were_told_by_their_head_before_it():
    made = list(rollout_lines(seed=1, size=60_000))
    block = b"".join([*made[:5], b"garbage\n", *made[5:]])
    skimmed = Skim({"turn_context", "event_msg.token_count"}, {"event_msg.task_started"}).scan(block, 0, len(block))
    assert len(skimmed.hits) + len(skimmed.latest) > 4
    for hit in [*skimmed.hits, *skimmed.latest]:
        at = block.count(b"\n", 0, hit.start)
        assert hit.before == at - (at > 5)
