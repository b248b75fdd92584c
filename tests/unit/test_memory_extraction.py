"""Phase 1: which threads are extracted, what an extractor is shown and may answer, and how it ends."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from engine.errors import ContextOverflow, ReadOnlyHome, StoreUnavailable
from engine.memories.budget import cut_middle, estimate_tokens, fit, gather
from engine.memories.contract import SCHEMA, Extraction, read_answer
from engine.memories.items import kept
from engine.memories.parts import EXTRACT
from engine.memories.phase1 import Claims
from engine.stores.jobs import Job
from tests.remembering import DAY_MS, HOUR_MS, IDLE_MS, Bench
from tests.writing import opened, say

MINUTE_MS = 60_000


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "home")
    yield made
    made.close()


def ids(requests):
    return [each.thread_id for each in requests]


# Which threads


def test_c5_me05_idle_for_11_59_is_too_soon_and_for_12_00_is_not_and_31_days_too_late(bench):
    old = bench.thread()
    bench.rest(19 * DAY_MS)
    idle = bench.thread()
    bench.rest(MINUTE_MS)
    busy = bench.thread()
    bench.rest(11 * HOUR_MS + 59 * MINUTE_MS)
    current = bench.thread()
    assert {old, idle, busy, current}  # the oldest is 19 and a half days old
    bench.extracted(exclude=[current])
    assert ids(bench.asked) == [idle, old]
    bench.rest(MINUTE_MS)
    bench.extracted(exclude=[current])
    assert ids(bench.asked) == [idle, old, busy]


def test_c5_31_days_are_too_old(bench):
    bench.thread()
    bench.rest(31 * DAY_MS)
    assert bench.extracted().claimed == 0
    assert bench.memories.status().coverage.too_old == 1


def test_the_age_and_the_idle_time_are_both_included(bench):
    thread = bench.thread()
    bench.rest(30 * DAY_MS)
    bench.extracted()
    assert ids(bench.asked) == [thread]


@pytest.mark.parametrize("how", ["disabled", "polluted", "archived", "exec", "no preview"])
def test_c7_me07_what_is_no_candidate(bench, how):
    thread = bench.thread(source="exec" if how == "exec" else "cli")
    if how == "archived":
        bench.engine.threads.archive(thread)
    elif how == "polluted":
        assert bench.memories.mark_polluted(thread)
    elif how == "disabled":
        bench.engine.threads.set_memory_mode(thread, "disabled")
    elif how == "no preview":
        with bench.engine.threads.create(cwd="/srv") as empty, empty.turn() as turn:
            turn.agent_message("nobody asked")
        bench.engine.threads.archive(thread)
    bench.rest()
    assert bench.extracted().claimed == 0
    assert bench.memories.status().coverage.excluded == (2 if how == "no preview" else 1)


def test_c7_me07_threads_of_both_history_modes_are_candidates(bench):
    threads = [bench.thread(mode, history_mode=mode) for mode in ("paginated", "legacy")]
    bench.rest()
    bench.extracted()
    assert sorted(ids(bench.asked)) == sorted(threads)
    assert {each.thread_id: json.loads(each.text)[0]["content"][0]["text"] for each in bench.asked} == dict(
        zip(threads, ("paginated", "legacy"), strict=True)
    )


def test_c6_me06_threads_that_are_up_to_date_cost_no_place(bench):
    """The Codex CLI counts them against its scan limit; here the filter is in the query, so the older one is found."""
    old = bench.thread()
    bench.rest(HOUR_MS)
    new = bench.thread()
    bench.rest()
    bench.put(new)
    assert bench.extracted(limit=1).claimed == 1
    assert ids(bench.asked) == [old]


def test_c1_a_thread_is_extracted_anew_when_it_says_more(bench):
    thread = bench.thread()
    bench.rest()
    bench.extracted()
    assert bench.extracted().claimed == 0
    bench.say_more(thread, "more")
    assert bench.extracted().claimed == 0  # not idle yet
    bench.rest()
    assert bench.extracted().succeeded == 1
    assert bench.memories.get(thread).raw_memory == f"raw 2 of {thread}"


def test_newest_first_and_no_more_than_asked_for(bench):
    threads = []
    for _ in range(5):
        threads.append(bench.thread())
        bench.rest(HOUR_MS)
    bench.rest()
    assert bench.extracted(limit=2).claimed == 2
    assert ids(bench.asked) == threads[:2:-1]
    assert bench.extracted(limit=0).claimed == 0
    bench.extracted()
    assert ids(bench.asked) == threads[::-1]


def test_claims_go_on_page_by_page_past_what_others_have(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.memories.phase1._PAGE", 2)
    bench = Bench(tmp_path / "home")
    threads = [bench.thread() for _ in range(7)]
    bench.rest()
    others = Claims(bench.memories._parts, limit=4)
    taken = others.take_some(4)
    assert len(taken) == 4
    assert bench.extracted().claimed == 3
    assert sorted(ids(bench.asked)) == sorted(set(threads) - {job.key for job in taken})
    bench.close()


def test_scan_max_bounds_how_many_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.memories.phase1._PAGE", 1)
    bench = Bench(tmp_path / "home", scan_max=2)
    for _ in range(4):
        bench.thread()
        bench.rest(HOUR_MS)
    bench.rest()
    Claims(bench.memories._parts, limit=3).take_some(3)
    assert bench.extracted().claimed == 0  # the newest two are somebody's, and no more are looked at
    bench.close()


def test_no_more_run_at_once_than_may(tmp_path):
    bench = Bench(tmp_path / "home", running_max=2)
    for _ in range(3):
        bench.thread()
    bench.rest()
    claims = Claims(bench.memories._parts, limit=64)
    held = claims.take_some(64)
    assert len(held) == 2
    assert bench.extracted().claimed == 0
    bench.memories._parts.jobs.complete(held[0])
    bench.close()


# What an extractor is shown


def test_p7_k20_secrets_are_gone_before_an_extractor_sees_them_and_from_what_it_answers(bench):
    bench.thread('set {"password": "hunter2hunter2"} and MY_TOKEN=abcdefghijkl')
    bench.rest()

    def extract(request):
        bench.asked.append(request)
        return {
            "raw_memory": "sk-" + "a" * 24,
            "rollout_summary": "Bearer " + "b" * 20,
            "rollout_slug": "ghp_" + "c" * 30,
        }

    bench.extracted(extract=extract)
    text = bench.asked[0].text
    assert "hunter2" not in text
    assert "abcdefghijkl" not in text
    json.loads(text)
    (record,) = bench.outcomes()
    assert record["raw_memory"] == "[REDACTED_SECRET]"
    assert record["rollout_summary"] == "Bearer [REDACTED_SECRET]"
    assert record["rollout_slug"] == "[REDACTED_SECRET]"


def test_p7_a_secret_in_what_a_tool_answered_is_gone(bench):
    with bench.engine.threads.create(cwd="/srv") as thread:
        say(thread, "show it")
        thread.append(
            [
                {
                    "type": "response_item",
                    "payload": {"type": "function_call", "name": "shell", "call_id": "c", "arguments": "{}"},
                },
                {
                    "type": "response_item",
                    "payload": {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": 'API_KEY="abcdefghijklmnop"\n',
                    },
                },
            ]
        )
    bench.rest()
    bench.extracted()
    (output,) = (each["output"] for each in json.loads(bench.asked[0].text) if each["type"] == "function_call_output")
    assert output == 'API_KEY="[REDACTED_SECRET]"\n'


def message(role, *texts):
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text} for text in texts]}


AGENTS = "# AGENTS.md instructions for /repo\n\n<INSTRUCTIONS>\nbe nice\n</INSTRUCTIONS>"


@pytest.mark.parametrize(
    ("payload", "texts"),
    [
        (message("user", "hello", AGENTS), ["hello"]),
        (message("user", "# AGENTS.md instructions\n<INSTRUCTIONS>x</instructions>\n", "a"), ["a"]),
        (message("user", " <skill>\nx\n</SKILL> "), None),
        (
            message("user", "<environment_context>x</environment_context>"),
            ["<environment_context>x</environment_context>"],
        ),
        (message("user", "<subagent_notification>x"), ["<subagent_notification>x"]),
        (message("developer", "x"), None),
        (message("assistant", AGENTS), [AGENTS]),
    ],
)
def test_p6_pasted_instructions_and_skills_are_left_out(payload, texts):
    found = kept("response_item.message", payload)
    assert (None if found is None else [part["text"] for part in found["content"]]) == texts


@pytest.mark.parametrize(
    ("kind", "is_kept"),
    [
        ("function_call", True),
        ("function_call_output", True),
        ("custom_tool_call", True),
        ("local_shell_call", True),
        ("web_search_call", True),
        ("tool_search_output", True),
        ("agent_message", True),
        ("reasoning", False),
        ("image_generation_call", False),
        ("compaction", False),
    ],
)
def test_what_the_model_did_is_kept_and_what_it_thought_is_not(kind, is_kept):
    assert (kept(f"response_item.{kind}", {"type": kind, "call_id": "c"}) is not None) == is_kept


def test_p8_what_agents_said_to_each_other_is_kept_without_its_metadata():
    said = {"author": "a", "recipient": "b", "content": "hi", "encrypted_content": "xyz", "trigger_turn": True}
    found = kept("inter_agent_communication", said)
    assert found["type"] == "agent_message"
    assert found["content"] == [
        {"type": "input_text", "text": "hi"},
        {"type": "encrypted_content", "encrypted_content": "xyz"},
    ]
    assert "trigger_turn" not in found


def test_media_are_named_and_not_shown():
    payload = {
        **message("user", "look"),
        "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}],
    }
    assert kept("response_item.message", payload)["content"] == [{"type": "input_image", "image_url": "[left out]"}]


def test_a_thread_of_which_nothing_is_left_asks_nobody(bench):
    with bench.engine.threads.create(cwd="/srv") as thread, thread.turn() as turn:
        turn.user_message("<skill>x</skill>")
    bench.rest()
    assert bench.extracted().no_output == 1
    assert bench.asked == []


# The budget


@pytest.mark.parametrize("tokens_max", [10, 60, 200, 1_000, 5_000])
def test_p10_a_conversation_is_fitted_as_json_with_both_ends(tokens_max):
    items = [message("user", f"first {'x' * 40}"), *(message("assistant", f"{n} " + "y" * 400) for n in range(40))]
    items.append(message("user", "last"))
    fitted = fit(items, tokens_max)
    found = json.loads(fitted.text)
    assert estimate_tokens(fitted.text) <= tokens_max
    if tokens_max >= 200:
        assert found[0]["content"][0]["text"].startswith("first")
        assert found[-1] == message("user", "last")
        assert [each for each in found if isinstance(each, str)] == [f"… {fitted.left_out} items left out …"]


def test_p10_of_a_conversation_of_any_length_only_the_ends_are_gathered():
    seen = []

    def items():
        for number in range(5_000):
            seen.append(number)
            yield message("user", f"{number} " + "x" * 1_000)

    found = gather(items(), 100_000)
    assert len(seen) == 5_000
    assert len(json.dumps(found.items)) < 120_000
    assert found.head[0]["content"][0]["text"].startswith("0 ")
    assert found.tail[-1]["content"][0]["text"].startswith("4999 ")
    assert found.left_out == 5_000 - len(found.head) - len(found.tail)
    assert found.items[len(found.head)] == f"… {found.left_out} items left out …"
    (long,) = gather([message("user", "y" * 10**6)], 100_000).items
    assert len(long["content"][0]["text"]) < 30_000


def test_a_long_text_loses_its_middle_and_says_so():
    text = "".join(f"{number} " for number in range(5_000))
    cut = cut_middle(text, 100)
    assert cut.startswith("0 1 2 ")
    assert cut.endswith("4998 4999 ")
    assert f"…{estimate_tokens(text) - 100} tokens truncated…" in cut


def test_k22_dense_and_non_latin_text_is_not_underestimated():
    assert estimate_tokens("word " * 100) == 125
    assert estimate_tokens("漢字" * 100) == 200
    assert estimate_tokens("0123456789" * 10) == 50


def test_the_application_s_own_counter_counts(bench):
    bench.thread("word " * 400)
    bench.rest()
    bench.memories.run(bench.extract, consolidating=False, counter=lambda text: len(text) * 1_000)
    assert len(bench.asked[0].text) <= 150


def test_k22_an_overflow_is_answered_with_less(bench):
    bench.thread("word " * 2_000)
    bench.rest()

    def extract(request):
        bench.asked.append(request)
        if request.tokens_max > 50_000:
            raise ContextOverflow("too long")
        return {"raw_memory": "r", "rollout_summary": "s", "rollout_slug": None}

    assert bench.extracted(extract=extract).succeeded == 1
    assert [each.tokens_max for each in bench.asked] == [150_000, 75_000, 37_500]


# What it may answer


@pytest.mark.parametrize(
    "answer",
    [
        {"raw_memory": "r", "rollout_summary": "s", "rollout_slug": "x"},
        {"rawMemory": "r", "summary": "s", "slug": "x"},
        {"traceMemory": "r", "rollout_summary": "s", "rollout_slug": "x"},
        {"raw_memory": "r", "rawMemory": "old", "traceMemory": "older", "rollout_summary": "s", "slug": "x"},
        '{"raw_memory": "r", "rollout_summary": "s", "rollout_slug": "x"}',
        '```json\n{"raw_memory": "r", "rollout_summary": "s", "rollout_slug": "x"}\n```',
        '```\n{"raw_memory": "r", "rollout_summary": "s", "rollout_slug": "x"}\n```\n',
        'Here it is: {"raw_memory": "r", "rollout_summary": "s", "rollout_slug": "x"} done.',
        Extraction(raw_memory="r", rollout_summary="s", rollout_slug="x"),
    ],
)
def test_p16_the_contract_and_its_older_keys_are_accepted(answer):
    found = read_answer(answer)
    assert (found.raw_memory, found.rollout_summary, found.rollout_slug) == ("r", "s", "x")


def test_p5_the_schema_for_models_wants_three_keys_and_no_other():
    assert SCHEMA["required"] == ["raw_memory", "rollout_slug", "rollout_summary"]
    assert SCHEMA["properties"]["rollout_slug"]["type"] == ["string", "null"]
    assert SCHEMA["additionalProperties"] is False
    assert sorted(SCHEMA["properties"]) == sorted(SCHEMA["required"])


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        "no json",
        "[1]",
        {"raw_memory": "r"},
        {"raw_memory": 1, "rollout_summary": "s"},
        {"raw_memory": "r", "rollout_summary": "s", "rollout_slug": 5},
        {"raw_memory": "r", "rollout_summary": "s", "other": 1},
    ],
)
def test_p5_an_answer_that_does_not_keep_the_contract_is_a_failure(bench, answer):
    thread = bench.thread()
    bench.rest()
    report = bench.extracted(extract=lambda _: answer)
    assert [each for each, _ in report.failed] == [thread]
    assert "AnswerUnusable" in report.failed[0][1]
    assert bench.memories.get(thread) is None


@pytest.mark.parametrize("blank", ["", "  \n"])
@pytest.mark.parametrize("which", ["raw_memory", "rollout_summary"])
def test_k25_a_blank_text_is_no_output(bench, blank, which):
    bench.thread()
    bench.rest()
    answer = {"raw_memory": "r", "rollout_summary": "s", which: blank}
    assert bench.extracted(extract=lambda _: answer).no_output == 1


def test_p1_me12_no_output_is_up_to_date_and_starts_no_consolidation(bench):
    bench.thread()
    bench.rest()
    report = bench.run(lambda _: {"raw_memory": "", "rollout_summary": ""})
    assert report.extracted.no_output == 1
    assert report.consolidated.status == "nothing_to_do"
    assert bench.extracted().claimed == 0
    assert bench.memories.status().coverage.empty == 1


def test_p2_me13_no_output_takes_away_what_there_was(bench):
    thread = bench.thread()
    bench.rest()
    bench.run()
    bench.say_more(thread, "forget it")
    bench.rest()
    bench.extracted(extract=lambda _: {"raw_memory": "", "rollout_summary": ""})
    assert bench.memories.get(thread) is None
    assert bench.memories.status().to_forget == [thread]
    assert bench.consolidated().status == "succeeded"


def test_p9_usage_is_summed_and_none_where_nobody_tells(bench):
    for _ in range(2):
        bench.thread()
    bench.rest()
    answer = {"raw_memory": "r", "rollout_summary": "s", "usage": {"total": 7, "input": -5, "odd": "x"}}
    assert bench.extracted(extract=lambda _: answer).usage == {"total": 14, "input": 0}
    bench.thread()
    bench.rest()
    assert bench.extracted().usage is None


# How it is called, and how it ends


def test_a_coroutine_function_is_awaited_in_one_loop(tmp_path):
    bench = Bench(tmp_path / "home", parallel=4)
    threads = [bench.thread() for _ in range(4)]
    bench.rest()
    loops, together = set(), asyncio.Barrier(4)

    async def extract(request):
        loops.add(asyncio.get_running_loop())
        await together.wait()
        return {"raw_memory": "r", "rollout_summary": "s"}

    assert bench.memories.run(extract, consolidating=False).extracted.succeeded == 4
    assert len(loops) == 1
    assert all(bench.memories.get(each) for each in threads)
    bench.close()


def test_as_many_as_may_are_called_at_once_and_no_more(tmp_path):
    bench = Bench(tmp_path / "home", parallel=3)
    for _ in range(9):
        bench.thread()
    bench.rest()
    at_once, most, mutex, together = 0, 0, threading.Lock(), threading.Barrier(3)

    def extract(request):
        nonlocal at_once, most
        with mutex:
            at_once += 1
            most = max(most, at_once)
        together.wait(30)
        with mutex:
            at_once -= 1
        return {"raw_memory": "r", "rollout_summary": "s"}

    assert bench.memories.run(extract, consolidating=False).extracted.succeeded == 9
    assert most == 3
    bench.close()


def test_k11_three_failures_are_recorded_for_good_and_the_coverage_says_why(bench):
    thread, other = bench.thread("bad"), bench.thread("good")

    def extract(request):
        if "bad" in request.text:
            raise ValueError("no way; token=abcdefghijkl")
        return bench.extract(request)

    bench.rest()
    for attempt in range(3):
        report = bench.extracted(extract=extract)
        assert report.failed == [(thread, "ValueError: no way; token=[REDACTED_SECRET]")]
        status = bench.memories.status()
        assert [each.for_good for each in status.failed] == [attempt == 2]
        assert bench.extracted(extract=extract).claimed == 0  # it pauses
        bench.rest(HOUR_MS)
    assert bench.extracted(extract=extract).claimed == 0
    coverage = bench.memories.status().coverage
    assert (coverage.threads, coverage.current, coverage.failed) == (2, 1, 1)
    assert bench.memories.get(other) is not None
    assert [each["outcome"] for each in bench.outcomes()] == ["succeeded", "failed"]
    assert bench.extracted(retry_failed=True).succeeded == 1
    assert bench.memories.status().failed == []


def test_a_failure_for_good_ends_when_the_thread_goes_on(tmp_path):
    bench = Bench(tmp_path / "home", attempts_max=1)
    thread = bench.thread()
    bench.rest()
    bench.extracted(extract=lambda _: 5)
    assert bench.memories.status().coverage.failed == 1
    bench.say_more(thread, "more")
    bench.rest()
    assert bench.extracted().succeeded == 1
    bench.close()


def test_k11_what_kills_its_process_is_given_up_and_recorded(bench):
    thread = bench.thread()
    bench.rest()
    jobs = bench.memories._parts.jobs
    for _ in range(3):
        (job,) = Claims(bench.memories._parts, limit=1).take_some(1)
        with jobs._database.write() as transaction:
            transaction.run("UPDATE jobs SET pid = 0 WHERE token = ?", (job.token,))
    assert bench.extracted().claimed == 0
    (failed,) = bench.memories.status().failed
    assert failed.thread_id == thread
    assert failed.for_good
    assert failed.reason == "its process ended 3 times before it was done"


def test_a_job_that_was_handed_in_is_no_failure_though_its_process_ended_before_it_said_so(bench):
    thread = bench.thread()
    bench.rest()
    (job,) = Claims(bench.memories._parts, limit=1).take_some(1)
    bench.put(thread)
    with bench.memories._parts.jobs._database.write() as transaction:
        transaction.run("UPDATE jobs SET pid = 0 WHERE token = ?", (job.token,))
    assert bench.memories.status().failed == []


def test_with_the_journal_lost_threads_are_extracted_again(bench):
    thread = bench.thread()
    bench.rest()
    bench.extracted()
    bench.engine.close()
    for path in [*(bench.path / "engine").glob("state_1*"), *(bench.path / "engine/journal").iterdir()]:
        path.unlink()
    bench.reopen()
    assert bench.extracted().claimed == 0  # the job says that it is done; that there is no outcome is noticed
    assert bench.extracted().succeeded == 1
    assert bench.memories.get(thread) is not None


def test_an_overtaken_extraction_has_no_effect(bench):
    thread = bench.thread()
    bench.rest()

    def overtaken(request):
        bench.clock.advance(HOUR_MS)
        (job,) = Claims(bench.memories._parts, limit=1).take_some(1)
        assert isinstance(job, Job)
        return {"raw_memory": "late", "rollout_summary": "late"}

    report = bench.extracted(extract=overtaken)
    assert (report.succeeded, report.lost) == (0, 1)
    assert bench.memories.get(thread) is None
    assert bench.outcomes() == []


def test_k10_a_heartbeat_keeps_a_long_extraction(tmp_path):
    bench = Bench(tmp_path / "home", heartbeat_s=0.01)
    bench.thread()
    bench.rest()
    jobs = bench.memories._parts.jobs

    def expires():
        with jobs._database.read() as transaction:
            return transaction.row("SELECT expires_boot_ms FROM jobs")[0]

    def slow(request):
        for _ in range(4):
            before = expires()
            bench.clock.advance(HOUR_MS - 1)
            waited = threading.Event()
            for _ in range(3_000):
                if expires() > before:
                    break
                waited.wait(0.01)
            assert expires() > before
        return {"raw_memory": "r", "rollout_summary": "s"}

    assert bench.extracted(extract=slow).succeeded == 1
    bench.close()


def test_one_that_does_not_answer_in_time_is_left_behind(tmp_path):
    bench = Bench(tmp_path / "home", extract_timeout_s=0.05)
    bench.thread()
    bench.rest()
    done = threading.Event()

    def slow(request):
        done.wait(30)
        return {"raw_memory": "late", "rollout_summary": "late"}

    report = bench.extracted(extract=slow)
    done.set()
    assert "no answer within 0.05 seconds" in report.failed[0][1]
    bench.close()


def test_me40_what_is_newer_already_is_kept(bench):
    thread = bench.thread()
    bench.rest()

    def extract(request):
        # The rows say meanwhile that a newer source was extracted, as after a revert of the thread.
        bench.memories._parts.decisions.record(
            "memory_outcome", thread, generation=1, outcome="given",
            source_updated_at_ms=request.source_updated_at_ms + 1, raw_memory="newer", rollout_summary="s",
        )  # fmt: skip
        return {"raw_memory": "older", "rollout_summary": "s"}

    assert bench.extracted(extract=extract).succeeded == 1
    assert bench.memories.get(thread).raw_memory == "newer"
    assert bench.outcomes()[-1]["keeps_output"] is True


def test_c12_an_erased_thread_leaves_no_job(bench):
    thread = bench.thread()
    bench.rest()
    bench.run()
    bench.engine.threads.erase(thread, grace_s=None)
    with bench.memories._parts.jobs._database.read() as transaction:
        assert transaction.row("SELECT count(*) FROM jobs WHERE kind = ?", (EXTRACT,)) == (0,)


def test_a_rebuild_costs_no_call(bench):
    threads = [bench.thread() for _ in range(3)]
    bench.rest()
    bench.run()
    before = [bench.memories.get(each) for each in threads], bench.memories.status().consolidated
    bench.engine.close()
    for path in (bench.path / "engine").glob("*.sqlite*"):
        path.unlink()
    bench.asked.clear()
    bench.reopen()
    assert bench.run().extracted.claimed == 0
    assert bench.asked == []
    assert ([bench.memories.get(each) for each in threads], bench.memories.status().consolidated) == before


def test_a_fork_s_memory_is_of_its_own_part(bench):
    parent = bench.thread("of the parent")
    with bench.engine.threads.fork(parent) as child:
        say(child, "of the child")
    bench.rest()
    bench.extracted()
    texts = {each.thread_id: each.text for each in bench.asked}
    assert "of the parent" not in texts[child.id]
    assert "of the child" in texts[child.id]
    assert "of the parent" in texts[parent]


def test_p3_me34_each_success_is_told_to_the_next_consolidation_and_the_larger_watermark_stays(bench):
    first = bench.thread()
    bench.rest(HOUR_MS)
    second = bench.thread()
    bench.rest()
    report = bench.run()
    assert (report.extracted.succeeded, report.consolidated.selected) == (2, 2)
    known = bench.memories.status().consolidated
    times = {each: bench.memories.get(each).source_updated_at_ms for each in (first, second)}
    assert times[first] < times[second] == known.success_watermark
    assert dict(known.selected) == times


def test_s2_without_the_database_of_jobs_nothing_is_made_and_nothing_is_touched(bench):
    """The Codex CLI's pipeline ends in silence then; here it says why."""
    thread = bench.thread()
    bench.rest()
    bench.engine.close()
    for path in (bench.path / "engine").glob("jobs_1*"):
        path.unlink()
    (bench.path / "engine/jobs_1.sqlite").mkdir()
    bench.reopen()
    with pytest.raises(StoreUnavailable):
        bench.run()
    assert bench.asked == []
    assert bench.outcomes() == []
    assert not bench.root.exists()
    assert bench.put(thread).raw_memory == "raw"  # what needs no claim works
    assert bench.memories.record_usage([thread]) == 1
    assert [each.thread_id for each in bench.memories.latest()] == [thread]


def test_r11_a_memory_mode_survives_what_is_said_later_and_comes_back_from_the_rollout(bench):
    with bench.engine.threads.create(cwd="/srv", memory_mode="disabled") as thread:
        say(thread, "hello")
    bench.say_more(thread.id, "more")
    other = bench.thread()
    bench.memories.mark_polluted(other)
    bench.say_more(other, "more")
    modes = {thread.id: "disabled", other: "polluted"}
    assert {each: bench.engine.threads.get(each).memory_mode for each in modes} == modes
    bench.engine.close()
    for path in (bench.path / "engine").glob("*.sqlite*"):
        path.unlink()
    bench.reopen()
    bench.engine.backfill()
    assert {each: bench.engine.threads.get(each).memory_mode for each in modes} == modes
    bench.rest()
    assert bench.extracted().claimed == 0


def test_a_home_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setattr("engine.stores.files.Files.writable", lambda *_, **__: False)
    with opened(home) as e, pytest.raises(ReadOnlyHome):
        e.memories.run()


def test_progress_is_told(bench):
    for _ in range(2):
        bench.thread()
    bench.rest()
    told = []
    bench.run(progress=told.append)
    assert [(each.phase, each.done) for each in told if each.phase == "extracting"] == [
        ("extracting", 1),
        ("extracting", 2),
    ]
    assert [each.what for each in told if each.phase == "consolidating"] == ["prepare", "sync", "consolidate", "take"]
    assert told[1].total == 2


assert IDLE_MS == 12 * HOUR_MS
