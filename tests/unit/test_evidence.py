"""A conversation that is too long, fitted by what its parts are worth; and texts in pieces that a model takes."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.memories.budget import estimate_tokens
from engine.memories.contract import ExtractRequest, read_answer
from engine.memories.evidence import Worth, fit, gather, worth_of
from engine.memories.items import kept
from tests.remembering import Bench
from tests.writing import say


def message(role, text, **more):
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}], **more}


def asked(call_id, **more):
    return {"type": "function_call", "name": "request_user_input", "call_id": call_id, "arguments": "which?", **more}


def answered(call_id, output):
    return {"type": "function_call_output", "call_id": call_id, "output": output}


HEADER = "Message Type: task\nTask name: x\nSender: y\nPayload: do it"


@pytest.mark.parametrize(
    ("item", "worth"),
    [
        (message("user", "do it"), Worth.HUMAN),
        (message("assistant", "done"), Worth.FINAL),
        (message("assistant", "done", phase="final_answer"), Worth.FINAL),
        (message("assistant", "looking", phase="commentary"), Worth.COMMENTARY),
        ({"type": "agent_message", "content": "x"}, Worth.OTHER_AGENT),
        (message("user", " <subagent_notification>x"), Worth.OTHER_AGENT),
        (message("user", HEADER), Worth.OTHER_AGENT),
        (message("assistant", HEADER), Worth.OTHER_AGENT),
        (message("user", "<environment_context>x</environment_context>"), Worth.CONTEXT),
        ({"type": "function_call", "name": "shell"}, Worth.TOOL),
        ({"type": "web_search_call"}, Worth.TOOL),
    ],
)
def test_p11_what_an_item_is(item, worth):
    assert worth_of(item) == worth


@pytest.mark.parametrize(
    ("call", "output", "is_human"),
    [
        (asked("1"), '{"answers": {"q": {"answers": ["this one"]}}}', True),
        (asked("1", namespace="functions"), "this one", True),
        (asked("1", namespace="mcp__other"), "this one", False),
        (asked("1"), '{"answers": {"q": {"answers": [" "]}}}', False),
        (asked("1"), " ", False),
        (asked("2"), "this one", False),
        ({**asked("1"), "name": "shell"}, "this one", False),
    ],
)
def test_p11_what_a_person_answered_to_a_question_counts_as_said(call, output, is_human):
    _, row = gather([call, answered("1", output)], 10_000).rows
    assert (row.worth == Worth.HUMAN) is is_human
    assert row.item.get("asked") == ("which?" if is_human else None)


def conversation():
    """Little of worth between much that is not."""
    yield message("user", "<environment_context>here</environment_context> " + "c" * 3_000)
    yield message("user", "please use tabs")
    for number in range(100):
        yield message("assistant", f"looking {number} " + "x" * 4_000, phase="commentary")
        yield answered(f"{number}", "noise " + "y" * 4_000)
    yield {"type": "agent_message", "content": "the other agent says ok"}
    yield asked("q")
    yield answered("q", "yes, all of them")
    for number in range(100):
        yield message("assistant", f"going on {number} " + "x" * 4_000, phase="commentary")
    yield kept(
        "response_item.message",
        {**message("user", "x"), "content": [{"type": "input_image", "image_url": "data:AAAA"}]},
    )
    yield message("assistant", "all done", phase="final_answer")
    for number in range(50):
        yield answered(f"late {number}", "noise " + "y" * 4_000)


def test_p11_what_was_said_survives_two_hundred_big_remarks():
    found = gather(conversation(), 40_000)
    fitted = fit(found, 8_000, estimate_tokens)
    assert estimate_tokens(fitted.text) <= 8_000
    items = json.loads(fitted.text)
    texts = [each if isinstance(each, str) else json.dumps(each) for each in items]
    kinds = [each["evidence"] for each in items if isinstance(each, dict)]
    assert kinds[0] == "human user"
    assert "please use tabs" in next(text for text in texts if "human user" in text)
    assert kinds.count("human user") == 3  # with the answer to a question, and with the picture
    assert "yes, all of them" in fitted.text
    assert '"image_url":"[left out]"' in fitted.text
    assert kinds.count("other agent") == kinds.count("assistant final") == 1
    assert "assistant commentary" in kinds  # the newest, as far as there was room
    assert "going on 99" in fitted.text
    assert "looking 0 " not in fitted.text
    assert "harness context" not in kinds
    assert "tool" not in kinds
    assert "noise" not in fitted.text
    gaps = [int(each.split()[1]) for each in items if isinstance(each, str)]
    assert sum(gaps) == fitted.left_out == found.count - len(kinds)
    order = ["please use tabs", "the other agent", "yes, all of them", "all done"]
    assert [fitted.text.index(each) for each in order] == sorted(fitted.text.index(each) for each in order)


def test_what_fits_is_shown_whole_and_in_order():
    items = [message("user", "one"), message("assistant", "two"), answered("1", "three")]
    fitted = fit(gather(items, 10_000), 10_000, estimate_tokens)
    shown = json.loads(fitted.text)
    assert fitted.left_out == 0
    assert [each.pop("evidence") for each in shown] == ["human user", "assistant final", "tool"]
    assert shown == items


def test_one_that_is_too_long_loses_its_middle_and_keeps_no_smaller_one_out():
    items = [message("user", "small"), message("user", "begin " + "漢" * 60_000 + " end")]
    fitted = fit(gather(items, 10**6), 2_000, estimate_tokens)
    small, big = json.loads(fitted.text)
    assert small["content"][0]["text"] == "small"
    text = big["content"][0]["text"]
    assert text.startswith("begin ")
    assert text.endswith(" end")
    assert "tokens truncated" in text


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.integers(0, 400)), max_size=12),
    st.integers(0, 600),
)
@settings(max_examples=60)
def test_whatever_is_said_it_is_json_within_the_bound_and_counts_what_is_missing(said, tokens_max):
    items = [answered("c", "x" * size) if who == "tool" else message(who, "w " * size) for who, size in said]
    fitted = fit(gather(items, 100_000), tokens_max, estimate_tokens)
    assert estimate_tokens(fitted.text) <= max(tokens_max, 1)
    shown = json.loads(fitted.text)
    missing = sum(int(each.split()[1]) for each in shown if isinstance(each, str))
    assert missing + sum(isinstance(each, dict) for each in shown) == (len(items) if shown else 0)
    assert fitted.left_out == len(items) - sum(isinstance(each, dict) for each in shown)


def test_a_counter_that_finds_more_in_the_whole_than_in_its_parts_is_obeyed():
    def count(text):
        return len(text) ** 2 // 50

    items = [message("user", f"{number} " + "w " * 20) for number in range(12)]
    fitted = fit(gather(items, 100_000), 8_000, count)
    assert count(fitted.text) <= 8_000
    shown = [each for each in json.loads(fitted.text) if isinstance(each, dict)]
    assert shown[-1]["content"][0]["text"].startswith("11 ")
    assert fitted.left_out == 12 - len(shown)


def test_a_conversation_of_any_length_takes_memory_for_what_may_matter_alone():
    tracemalloc.start()
    try:
        found = gather((message("assistant", f"{number} " + "x" * 1_000) for number in range(20_000)), 100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.count == 20_000
    assert found.rows[-1].place == 19_999
    assert peak < 2_000_000


def test_a_run_fits_by_evidence_where_it_is_asked_to(tmp_path):
    bench = Bench(tmp_path / "home", keeps="evidence", tokens_max=400)
    with bench.engine.threads.create(cwd="/srv") as thread:
        for number in range(30):
            say(thread, f"wish {number} " + "please " * 6)
    bench.rest()
    assert bench.extracted().succeeded == 1
    (request,) = bench.asked
    kinds = [each["evidence"] for each in json.loads(request.text) if isinstance(each, dict)]
    assert kinds[:2] == [
        "human user",
        "human user",
    ]  # two that follow each other, though there was an answer between them
    assert "wish 29" in request.text
    assert estimate_tokens(request.text) <= 400
    assert request.left_out > 0
    assert bench.run(None).extracted.failed == []  # the rules that ship along read it as well
    bench.close()


def request_of(text):
    return ExtractRequest(
        thread_id="t", rollout_path="r", cwd=None, git_branch=None, text=text, left_out=0, tokens_max=1, attempt=1,
        source_updated_at_ms=1,
    )  # fmt: skip


def test_p11_p12_no_piece_is_larger_than_a_message_may_be():
    text = fit(gather(conversation(), 10**6), 100_000, estimate_tokens).text
    pieces = request_of(text).pieces()
    assert len(pieces) > 5
    assert max(len(each.encode()) for each in pieces) < 9_000
    assert "".join(pieces) == text


@given(st.text(alphabet=st.sampled_from("aä漢😀"), max_size=40), st.integers(-1, 12))
def test_p12_pieces_are_the_text_whatever_its_characters(text, bytes_max):
    pieces = request_of(text).pieces(bytes_max)
    assert "".join(pieces) == text
    assert all(each and (len(each.encode()) <= bytes_max or len(each) == 1) for each in pieces)


SECRETS = ("sk-" + "a1B2c3D4" * 5 + " ") * 10_000
"""So many that any cut is inside of one: what a cut left of it would be too short to be known for one."""


@pytest.mark.parametrize("keeps", ["ends", "evidence"])
def test_p13_a_secret_at_the_place_of_a_cut_is_redacted_before_it(tmp_path, keeps):
    bench = Bench(tmp_path / "home", keeps=keeps, tokens_max=2_000)
    bench.thread(SECRETS)
    bench.rest()
    bench.extracted()
    assert "truncated" in bench.asked[0].text
    assert "REDACTED" in bench.asked[0].text
    assert "a1" not in bench.asked[0].text
    bench.close()


def test_p13_a_summary_that_is_too_long_is_redacted_and_then_cut():
    found = read_answer({"raw_memory": "r", "rollout_summary": SECRETS})
    assert "tokens truncated" in found.rollout_summary
    assert "a1" not in found.rollout_summary
    assert estimate_tokens(found.rollout_summary) < 16_000
