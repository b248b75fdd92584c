"""What the journal says of memories: a lower generation changes nothing, and how catch-ups are cut changes nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.test_facts import NINE, A, B, Bench

TABLES = ("memory_outcomes", "memory_outputs", "memory_usage", "memory_state")
OUTPUT = {"raw_memory": "raw", "rollout_summary": "sum", "rollout_slug": "slug"}


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path, in_memory=True)
    yield made
    made.database.close()


def rows(bench, columns, table):
    bench.facts.catch_up()
    with bench.database.read() as transaction:
        return list(transaction.rows(f"SELECT {columns} FROM {table} ORDER BY 1"))


def succeeded(bench, generation, source_ms=100, thread=A, raw="raw", **more):
    bench.tell(
        "memory_outcome",
        thread,
        generation=generation,
        outcome="succeeded",
        source_updated_at_ms=source_ms,
        **{**OUTPUT, "raw_memory": raw},
        **more,
    )


def output(bench):
    return rows(bench, "generation, source_updated_at_ms, raw_memory", "memory_outputs")


def test_an_outcome_and_its_texts_are_rows(bench):
    succeeded(bench, 5)
    assert rows(bench, "*", "memory_outcomes") == [(A, 5, "succeeded", 100, NINE, None)]
    assert rows(bench, "*", "memory_outputs") == [(A, 5, 0, 100, NINE, "raw", "sum", "slug")]


def test_what_an_overtaken_worker_writes_is_no_effect(bench):
    succeeded(bench, 7, raw="new")
    for caught_up_before in (False, True):
        if caught_up_before:
            bench.facts.catch_up()
        succeeded(bench, 6, 200, raw="late")
        assert output(bench) == [(7, 100, "new")]
        assert rows(bench, "generation", "memory_outcomes") == [(7,)]


def test_a_failure_keeps_the_last_texts_and_no_output_takes_them(bench):
    succeeded(bench, 5)
    bench.tell("memory_outcome", generation=6, outcome="failed", source_updated_at_ms=200, reason="why")
    assert rows(bench, "outcome, source_updated_at_ms, reason", "memory_outcomes") == [("failed", 200, "why")]
    assert output(bench) == [(5, 100, "raw")]
    bench.tell("memory_outcome", generation=7, outcome="no_output", source_updated_at_ms=300)
    assert output(bench) == [(7, 300, None)]


def test_me40_an_older_source_finishes_and_the_newer_texts_stay(bench):
    succeeded(bench, 5, 200)
    succeeded(bench, 6, 100, raw="old", keeps_output=True)
    assert output(bench) == [(5, 200, "raw")]
    assert rows(bench, "generation", "memory_outcomes") == [(6,)]


def test_usage_is_summed_and_goes_with_what_is_pruned(bench):
    succeeded(bench, 5)
    bench.tell("memory_used", count=2)
    bench.tell("memory_used", count=1, at="09:00:01.000")
    assert rows(bench, "*", "memory_usage") == [(A, 3, NINE + 1000)]
    bench.tell("memory_pruned", generation=5)
    bench.tell("memory_used", count=1, at="09:00:02.000")
    assert rows(bench, "*", "memory_usage") == [(A, 1, NINE + 2000)]
    assert output(bench) == [(5, 100, None)]
    succeeded(bench, 6, raw="again")
    assert output(bench) == [(6, 100, "again")]


def test_k8_nothing_older_passes_a_reset(bench):
    succeeded(bench, 5)
    bench.tell("memory_consolidated", generation=6, outcome="succeeded", selected=[[A, 100]], watermark=100)
    bench.tell("memory_reset", generation=8)
    bench.tell("memory_consolidated", generation=7, outcome="succeeded", selected=[[A, 100]], watermark=100)
    succeeded(bench, 7)
    assert output(bench) == []
    assert rows(bench, "reset_generation, selected, threads_max", "memory_state") == [(8, "[]", 0)]
    succeeded(bench, 9)
    assert output(bench) == [(9, 100, "raw")]


def test_r9_the_most_threads_that_were_ever_consolidated_falls_by_a_reset_alone(bench):
    for generation, count in ((1, 3), (2, 1)):
        bench.tell(
            "memory_consolidated", generation=generation, outcome="succeeded", selected=[[A, 1]] * count, watermark=5
        )
    assert rows(bench, "success_generation, threads_max, selected", "memory_state") == [(2, 3, f'[["{A}",1]]')]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"generation": "5"},
        {"generation": 2**70},
        {"generation": 5, "outcome": "odd", "source_updated_at_ms": 1},
        {"generation": 5, "outcome": "succeeded"},
        {"generation": 5, "outcome": "succeeded", "source_updated_at_ms": True},
    ],
)
def test_a_record_that_cannot_be_used_changes_nothing(bench, fields):
    bench.tell("memory_outcome", **fields)
    bench.tell("memory_used", **fields)
    bench.tell("memory_consolidated", **{**fields, "outcome": "odd"})
    assert [rows(bench, "*", table) for table in TABLES] == [[], [], [], []]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "succeeded",
                "no_output",
                "failed",
                "given",
                "used",
                "pruned",
                "consolidated",
                "unchanged",
                "gave_up",
                "reset",
            ]
        ),
        st.sampled_from([A, A, B]),
        st.integers(1, 5),
        st.sampled_from("..c."),
    ),
    max_size=14,
)


def record(step, thread, generation):
    if step == "used":
        return "memory_used", {"count": generation}
    if step in ("pruned", "reset"):
        return f"memory_{step}", {"generation": generation}
    if step in ("consolidated", "unchanged", "gave_up"):
        outcome = {"consolidated": "succeeded", "gave_up": "failed"}.get(step, step)
        selected = [[thread, generation]] * generation
        return "memory_consolidated", {
            "generation": generation,
            "outcome": outcome,
            "selected": selected,
            "watermark": 7 - generation,
        }
    texts = {"raw_memory": f"r{generation}", "rollout_summary": "s"}
    return "memory_outcome", {"generation": generation, "outcome": step, "source_updated_at_ms": generation, **texts}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@example(steps=[("used", A, 3, "."), ("pruned", A, 3, "."), ("used", A, 1, ".")])
@example(steps=[("succeeded", A, 5, "."), ("pruned", A, 5, "."), ("succeeded", A, 4, ".")])
@example(steps=[("succeeded", A, 1, "."), ("reset", A, 3, "."), ("succeeded", A, 2, ".")])
@example(steps=[("succeeded", A, 4, "c"), ("failed", A, 5, "."), ("succeeded", A, 3, ".")])
@example(steps=[("used", B, 3, "c"), ("reset", A, 3, "."), ("used", B, 1, ".")])
@example(steps=[("reset", A, 1, "."), ("consolidated", A, 1, "."), ("consolidated", A, 2, ".")])
@given(steps=STEPS)
def test_any_split_into_catch_ups_gives_what_one_gives(tmp_path_factory, steps):
    benches = [Bench(tmp_path_factory.mktemp("facts"), in_memory=True) for _ in range(3)]
    split, at_once, each_alone = benches
    for number, (step, thread, generation, then) in enumerate(steps):
        tag, fields = record(step, thread, generation)
        for each in benches:
            each.tell(tag, thread, at=f"09:00:{number:02d}.000", **fields)
        each_alone.facts.catch_up()
        if then == "c":
            split.facts.catch_up()
    expected = [rows(each_alone, "*", table) for table in TABLES]
    assert [rows(split, "*", table) for table in TABLES] == expected
    assert [rows(at_once, "*", table) for table in TABLES] == expected
    for each in benches:
        each.database.close()
    json.dumps(expected)
