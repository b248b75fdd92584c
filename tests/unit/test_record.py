"""One line: what is a record, what is not and why, and of which kind it is."""

from __future__ import annotations

import msgspec
import pytest

from engine.events.record import Rejected, decode, decode_as, is_glued, kind_of, time_ms

TIME = '"timestamp":"2026-01-05T09:00:00.000Z"'
THREAD = "019b8d3c-0000-7000-8000-000000000001"


def line(type_, payload, *, ordinal=None, more=""):
    number = "" if ordinal is None else f',"ordinal":{ordinal}'
    return f'{{{TIME}{number},"type":"{type_}","payload":{payload}{more}}}'.encode()


def event(payload, **more):
    return line("event_msg", payload, **more)


def reject(data):
    with pytest.raises(Rejected) as raised:
        decode(data)
    return raised.value.look


def test_a_record_is_its_four_keys():
    record = decode(line("session_meta", '{"id":"a"}', ordinal=7))
    assert (record.timestamp, record.ordinal, record.type) == ("2026-01-05T09:00:00.000Z", 7, "session_meta")
    assert bytes(record.payload) == b'{"id":"a"}'


def test_a_legacy_record_has_no_ordinal():
    assert decode(line("world_state", "{}")).ordinal is None
    assert decode(line("world_state", "{}", ordinal="null")).ordinal is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"payload":{},"type":"compacted","timestamp":"x"}',
        b'  { "type" : "compacted" ,\t"payload" : { } , "timestamp" : "x" }  ',
        b'{"timestamp":"x","type":"compacted","payload":{},"metadata":{"client_authored":true},"key":"K#0/1"}',
        b'{"timestamp":"x","type":"compacted","payload":{}}\r',
        b'{"timestamp":"","type":"compacted","payload":{"type":5}}',
        b'{"timestamp":"x","type":"nonsense","type":"compacted","payload":5,"payload":{}}',
    ],
)
def test_order_white_space_unknown_keys_and_a_cr_are_no_damage(data):
    """Of a key that is there twice the last counts, as every reader of JSON has it."""
    assert decode(data).type == "compacted"


@pytest.mark.parametrize(
    ("data", "look"),
    [
        (b'{"type":"compacted","payload":{}}', "foreign"),
        (b'{"timestamp":"x","payload":{}}', "foreign"),
        (b'{"timestamp":"x","type":"compacted"}', "foreign"),
        (b'{"timestamp":5,"type":"compacted","payload":{}}', "foreign"),
        (b'{"timestamp":null,"type":"compacted","payload":{}}', "foreign"),
        (b'{"timestamp":"x","type":null,"payload":{}}', "foreign"),
        (b'{"timestamp":"x","type":"compacted","payload":null}', "foreign"),
        (b'{"timestamp":"x","type":"compacted","payload":[]}', "foreign"),
        (b'{"timestamp":"x","type":"compacted","payload":"{"}', "foreign"),
        (b'{"timestamp":"x","type":"compacted","payload":5}', "foreign"),
        (b'{"timestamp":"x","ordinal":"5","type":"compacted","payload":{}}', "foreign"),
        (b'{"timestamp":"x","ordinal":5.0,"type":"compacted","payload":{}}', "foreign"),
        (b'{"timestamp":"x","ordinal":-1,"type":"compacted","payload":{}}', "foreign"),
        (b'{"timestamp":"x","ordinal":9223372036854775808,"type":"compacted","payload":{}}', "foreign"),
        (b"[]", "foreign"),
        (b'"text"', "foreign"),
        (b"null", "foreign"),
        (b"0", "foreign"),
        (b"", "NUL"),
        (bytes(100), "NUL"),
        (b"\0 \t\r\0", "NUL"),
        (b"hello", "garbage"),
        (b'{"type":"compacted"', "garbage"),
        (b'\xef\xbb\xbf{"timestamp":"x","type":"compacted","payload":{}}', "garbage"),
        (b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"compa', "torn"),
        (b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"compacted","payload":{}', "torn"),
        (b'{"timestamp":"x","type":"compacted","payload":{}}\0', "torn"),
        (b'{"timestamp":"x","type":"compacted","payload":{"a":NaN}}', "torn"),
        (b'{"timestamp":"x","type":"compacted","payload":{"a":01}}', "torn"),
        (b'{"timestamp":"x","type":"compacted","payload":{"a":"\t"}}', "torn"),
        (b'{"timestamp":"x","type":"compacted","payload":{"a":"\xff"}}', "not UTF-8"),
        (b'{"timestamp":"x","type":"compacted","payload":{"a":"\xe6\x87"}}', "not UTF-8"),
        (b'{"timestamp":"x","type":"compacted","payload":{"a":"\xed\xa0\x80"}}', "not UTF-8"),
        (b"\xff\xfe\x00junk", "not UTF-8"),
        (b'{"timestamp":"x","type":"compacted","payload":{"a":"\\ud800"}}', "surrogate"),
        (b'{"timestamp":"x","type":"compacted","payload":{"\\uDfff":1}}', "surrogate"),
        (b'{"timestamp":"x","type":"compacted","payload":{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}}", "too deep"),
    ],
)
def test_what_is_no_record_is_rejected_with_its_look(data, look):
    assert reject(data) == look


def test_a_rejection_says_what_is_wrong():
    with pytest.raises(Rejected, match="missing required field `type`"):
        decode(b'{"timestamp":"x","payload":{}}')
    with pytest.raises(Rejected, match="the payload is not an object"):
        decode(b'{"timestamp":"x","type":"a","payload":[]}')


def test_a_bad_byte_is_found_wherever_in_a_large_line_it_stands():
    """The text is looked at in pieces of 1 MiB; a character may be cut by the end of a piece."""
    head = b'{"timestamp":"x","type":"compacted","payload":{"a":"'
    euro = "€".encode()
    for size in range(1024 * 1024 - len(head) - 3, 1024 * 1024 - len(head) + 2):
        good = head + b"a" * size + euro + b'"}}'
        assert decode(good).type == "compacted"
        assert reject(head + b"a" * size + euro[:2] + b'"}}') == "not UTF-8"


def test_the_largest_ordinal_is_what_a_column_holds():
    assert decode(line("compacted", "{}", ordinal=9223372036854775807)).ordinal == 9223372036854775807


def test_records_without_a_newline_between_them_are_told_to_be_whole():
    one = event('{"type":"token_count","info":null}')
    assert reject(one + one) == "glued"
    assert reject(one + one + one) == "glued"
    assert reject(one[:-9] + one) == "torn"
    assert is_glued(one + one[:-1]) is False
    assert is_glued(one) is False
    quoted = event('{"type":"agent_message","message":"}{\\"timestamp\\":\\"x"}')
    assert decode(quoted).type == "event_msg"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (line("session_meta", '{"id":"a"}'), "session_meta"),
        (line("session_meta", '{"type":"odd","id":"a"}'), "session_meta"),
        (line("from_the_future", '{"type":"x"}'), "from_the_future"),
        (event('{"type":"token_count"}'), "event_msg.token_count"),
        (event('{"info":null,"type":"token_count"}'), "event_msg.token_count"),
        (event('{"type":"from_the_future"}'), "event_msg.from_the_future"),
        (event('{"type":"task_started"}'), "event_msg.task_started"),
        (event('{"type":"turn_started"}'), "event_msg.task_started"),
        (event('{"type":"turn_complete"}'), "event_msg.task_complete"),
        (line("response_item", '{"type":"turn_started"}'), "response_item.turn_started"),
        (event("{}"), "event_msg"),
        (event('{"type":null}'), "event_msg"),
        (event('{"type":5}'), "event_msg"),
        (event('{"type":"item_completed"}'), "event_msg.item_completed"),
        (event('{"type":"item_completed","item":null}'), "event_msg.item_completed"),
        (event('{"type":"item_completed","item":[]}'), "event_msg.item_completed"),
        (event('{"type":"item_completed","item":{"type":5}}'), "event_msg.item_completed"),
        (event('{"type":"item_completed","item":{}}'), "event_msg.item_completed"),
        (event('{"item":{"id":"1","type":"Plan"},"type":"item_completed"}'), "event_msg.item_completed.Plan"),
        (event('{"type":"item_started","item":{"type":"Plan"}}'), "event_msg.item_started"),
        (event('{"type":"token_count","item":"odd"}'), "event_msg.token_count"),
        (line("response_item", '{"type":"ghost_snapshot"}'), "response_item.ghost_snapshot"),
        (line("realtime_item", '{"id":"1","type":"transcript_segment"}'), "realtime_item.transcript_segment"),
        (line("retained_context", '{"type":"verified_answer"}'), "retained_context.verified_answer"),
    ],
)
def test_a_kind_is_type_tag_and_item_tag(data, kind):
    assert kind_of(decode(data)) == kind


@pytest.mark.parametrize(
    "data",
    [
        event('{"type":"token_count","rate_limits":{"primary":{"used_percent":12.30000000000000000001}}}'),
        line("response_item", '{"type":"ghost_snapshot","ghost_commit":{"id":"a"}}'),
        event('{"type":"guardian_assessment","score":0.1}'),
        line("security_risk_score", '{"scores":{"a":0.30000000000000004}}'),
        line("compacted", '{"message":"","window_id":7}'),
        line("compacted", '{"message":"","window_id":"7"}'),
        line("compacted", '{"message":"","replacement_history":[],"replacement_history_metadata":[{}]}'),
        line("response_item", '{"type":"message","role":"user","content":[]}', more=',"metadata":{"new":1}'),
        line("inter_agent_communication_metadata", '{"trigger_turn":true}'),
        line("token_usage_record", '{"usage":{"total_tokens":1e400}}'),
    ],
)
def test_a_payload_that_nobody_folds_keeps_every_byte(data):
    """D1, D4 to D7, D9 to D12: such records load, and their decimals survive because nothing parses them."""
    record = decode(data)
    assert bytes(record.payload) in data
    assert msgspec.json.encode(record.payload) == bytes(record.payload)


def meta(more):
    return decode_as(line("session_meta", f'{{"id":"{THREAD}"{more}}}'), "session_meta").payload


def test_a_session_meta_needs_its_id_alone():
    """Keys of all releases are optional (0.130 wrote no session_id, no history_mode); the id is who the thread is."""
    found = meta("")
    assert found.id == THREAD
    assert (found.session_id, found.cwd, found.history_mode, found.memory_mode) == (None, None, None, None)
    assert bytes(found.source) == b""
    assert found.git is msgspec.UNSET
    with pytest.raises(Rejected, match="id"):
        decode_as(line("session_meta", '{"cwd":"/"}'), "session_meta")
    with pytest.raises(Rejected, match="id"):
        decode_as(line("session_meta", '{"id":5,"cwd":"/"}'), "session_meta")
    with pytest.raises(Rejected):
        decode_as(line("session_meta", "[]"), "session_meta")


def test_git_that_is_cleared_is_not_git_that_is_absent():
    assert meta(',"git":{}').git.commit_hash is None
    assert meta(',"git":null').git is None
    assert meta("").git is msgspec.UNSET


def test_a_field_of_the_wrong_type_is_dropped_and_the_rest_is_kept():
    """An odd setting never hides a thread."""
    found = meta(
        ',"cwd":5,"model_provider":"azure","git":"none","history_base":{"thread_id":"a","end_ordinal_exclusive":"x"}'
    )
    assert (found.cwd, found.model_provider, found.git) == (None, "azure", msgspec.UNSET)
    assert (found.history_base.thread_id, found.history_base.end_ordinal_exclusive) == ("a", None)
    assert meta(',"subagent_history_start_ordinal":1e3,"cwd":"/a"').cwd == "/a"
    for odd in ("-1", "9223372036854775808", "1" + "0" * 400, "4.0", '"4"'):
        assert meta(f',"subagent_history_start_ordinal":{odd}').subagent_history_start_ordinal is None, odd


def test_a_field_inside_of_settings_is_dropped_alone():
    settings = '{"type":"thread_settings_applied","thread_settings":{"model":5,"cwd":"/a","approval_policy":"never"}}'
    found = decode_as(event(settings), "event_msg.thread_settings_applied").payload.thread_settings
    assert (found.model, found.cwd, bytes(found.approval_policy)) == (None, "/a", b'"never"')
    with pytest.raises(Rejected, match="thread_settings"):
        decode_as(event('{"type":"thread_settings_applied","thread_settings":5}'), "event_msg.thread_settings_applied")


def test_an_odd_part_of_a_message_leaves_the_others():
    item = '{"type":"UserMessage","content":[5,{"type":"text","text":7},{"type":"text","text":"hello"},{"type":9}]}'
    found = decode_as(event(f'{{"type":"item_completed","item":{item}}}'), "event_msg.item_completed.UserMessage")
    assert [(part.type, part.text) for part in found.payload.item.content] == [
        ("text", None),
        ("text", "hello"),
        ("", None),
    ]


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        ("7", 7),
        ("-7", -7),
        ("7.9", 7.9),
        ("1e3", 1000.0),
        ("1" + "0" * 30, 10**30),
        ("1" + "0" * 400, 10**400),
        ("1e400", None),
        ('"7"', None),
        ("null", None),
    ],
)
def test_a_token_total_is_any_number_that_can_be_held(total, expected):
    """A total that is none is as if it were not there."""
    info = f'{{"type":"token_count","info":{{"total_token_usage":{{"total_tokens":{total}}}}}}}'
    assert decode_as(event(info), "event_msg.token_count").payload.info.total_token_usage.total_tokens == expected


def test_a_kind_that_nobody_folds_decodes_raw_by_its_kind_too():
    assert bytes(decode_as(line("world_state", '{"a": 1}'), "world_state").payload) == b'{"a": 1}'


def test_a_typed_decode_rejects_what_the_raw_one_rejects():
    for damaged in (b"\xff", b"", b"hello", event('{"type":"token_count","info":{')):
        with pytest.raises(Rejected):
            decode_as(damaged, "event_msg.token_count")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00.000Z", 0),
        ("2026-01-05T09:00:00.000Z", 1767603600000),
        ("2026-01-05T09:00:00.001Z", 1767603600001),
        ("2026-01-05T09:00:00.999Z", 1767603600999),
        ("2026-01-05T09:00:00.000999Z", 1767603600000),
        ("2026-01-05T09:00:00.001999Z", 1767603600001),
        ("2026-01-05T09:00:00Z", 1767603600000),
        ("2026-01-05T10:30:00.5+01:30", 1767603600500),
        ("2026-01-05T09:00:00.123456789Z", 1767603600123),
        ("2026-01-05 09:00:00", 1767603600000),
        ("2026-01-05T09-00-00", 1767603600000),
        ("1969-12-31T23:59:59.999Z", -1),
        ("9999-12-31T23:59:59.999Z", 253402300799999),
        ("0001-01-01T00:00:00.000Z", -62135596800000),
        ("2026-02-30T09:00:00.000Z", None),
        ("2026-01-05T09:00:60.000Z", None),
        ("2026-13-05T09-00-00", None),
        ("yesterday", None),
        ("1767603600", None),
        ("", None),
        (None, None),
    ],
)
def test_times_are_unix_milliseconds_cut_not_rounded(text, ms):
    """RFC 3339, or as in file names (taken as UTC); what is neither is unknown."""
    assert time_ms(text) == ms


def test_every_millisecond_of_a_second_is_exact():
    assert [time_ms(f"2026-07-14T23:59:58.{ms:03}Z") for ms in range(1000)] == list(range(1784073598000, 1784073599000))
