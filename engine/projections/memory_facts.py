"""What the journal says of memories: how extractions ended, what was given, used, pruned, consolidated and reset.

Each record carries the generation of the work that it comes from, and one of a lower generation than the row's changes
nothing: what an overtaken worker still writes is no effect. A reset has a generation too, and nothing older passes it.

`memory_outcome` (thread_id, generation, outcome `succeeded`, `no_output`, `failed` or `given`, source_updated_at_ms, and
raw_memory, rollout_summary, rollout_slug, or reason; `keeps_output` where a newer output is there already),
`memory_used` (thread_id, count), `memory_pruned` (thread_id, generation), `memory_consolidated` (generation, outcome
`succeeded`, `unchanged` or `failed`, watermark, selected as pairs of thread and source_updated_at_ms, reason),
`memory_reset` (generation).
"""

from __future__ import annotations

import msgspec

from engine.projections.decided import Decided, Decision, Effect, Shape, Values, Voided

OUTCOME = "memory_outcome"
USED = "memory_used"
PRUNED = "memory_pruned"
CONSOLIDATED = "memory_consolidated"
RESET = "memory_reset"

SUCCEEDED = "succeeded"
NO_OUTPUT = "no_output"
FAILED = "failed"
GIVEN = "given"
UNCHANGED = "unchanged"

_WITH_OUTPUT = frozenset({SUCCEEDED, NO_OUTPUT, GIVEN})
_ENDS = frozenset({SUCCEEDED, UNCHANGED})
_STATE = "1"


def _outcome(decision: Decision) -> list[Effect]:
    thread_id, generation = decision.id("thread_id"), decision.number("generation")
    source_ms, outcome = decision.number("source_updated_at_ms"), decision.text("outcome")
    if thread_id is None or generation is None or source_ms is None or outcome not in {*_WITH_OUTPUT, FAILED}:
        return []
    named: Values = {"thread_id": thread_id, "generation": generation, "source_ms": source_ms, "at_ms": decision.at_ms}
    effects = [Effect(_OUTCOME, thread_id, {**named, "outcome": outcome, "reason": decision.text("reason")})]
    if outcome in _WITH_OUTPUT and not decision.payload.get("keeps_output"):
        has_output = outcome != NO_OUTPUT
        texts: Values = {
            "raw_memory": (decision.text("raw_memory") or "") if has_output else None,
            "rollout_summary": (decision.text("rollout_summary") or "") if has_output else None,
            "rollout_slug": decision.text("rollout_slug") if has_output else None,
        }
        effects.append(Effect(_OUTPUT, thread_id, {**named, **texts}))
    return effects


def _used(decision: Decision) -> list[Effect]:
    thread_id, count = decision.id("thread_id"), decision.number("count")
    if thread_id is None or count is None or not 0 < count < 2**31:
        return []
    return [Effect(_USED, thread_id, {"thread_id": thread_id, "count": count, "at_ms": decision.at_ms})]


def _pruned(decision: Decision) -> list[Effect]:
    thread_id, generation = decision.id("thread_id"), decision.number("generation")
    if thread_id is None or generation is None:
        return []
    return [
        Effect(_PRUNE, thread_id, {"thread_id": thread_id, "generation": generation}),
        Effect(_PRUNE_USAGE, thread_id, {"thread_id": thread_id}),
    ]


def _consolidated(decision: Decision) -> list[Effect]:
    generation, outcome = decision.number("generation"), decision.text("outcome")
    if generation is None or outcome not in {*_ENDS, FAILED}:
        return []
    tried: Values = {
        "generation": generation,
        "outcome": outcome,
        "at_ms": decision.at_ms,
        "reason": decision.text("reason"),
    }
    effects = [Effect(_TRIED, _STATE, tried)]
    if outcome in _ENDS:
        selected = _pairs(decision.payload.get("selected"))
        made: Values = {
            "generation": generation,
            "at_ms": decision.at_ms,
            "watermark": decision.number("watermark") or 0,
            "selected": msgspec.json.encode(selected).decode(),
            "threads": len(selected),
        }
        # One of another generation may be one that does not pass a reset, so it must not lend its marks to this one.
        effects.append(Effect(_MADE, str(generation), made))
    return effects


def _pairs(value: object) -> list[tuple[str, int]]:
    try:
        return msgspec.convert(value, type=list[tuple[str, int]])
    except msgspec.ValidationError:
        return []


def _reset(decision: Decision) -> list[Effect]:
    generation = decision.number("generation")
    if generation is None:
        return []
    cleared = [Effect(sql, _STATE, {}) for sql in _CLEARED]
    return [*cleared, Effect(_RESET, _STATE, {"generation": generation})]


def _newer(before: Values, now: Values) -> Values:
    """Of two effects of work the one of the higher generation; the later of two alike."""
    return before if _number(before, "generation") > _number(now, "generation") else now


def _sum(before: Values, now: Values) -> Values:
    count = min(_number(before, "count") + _number(now, "count"), 2**62)
    return {**now, "count": count, "at_ms": max(_number(before, "at_ms"), _number(now, "at_ms"))}


def _made_again(before: Values, now: Values) -> Values:
    """Two of one generation: the selection of the later, the highest marks of both."""
    high = {name: max(_number(before, name), _number(now, name)) for name in ("watermark", "threads")}
    return {**now, **high}


def _number(values: Values, name: str) -> int:
    value = values[name]
    assert isinstance(value, int)
    return value


_PAST_RESET = ":generation > coalesce((SELECT max(reset_generation) FROM memory_state), 0)"

_OUTCOME = f"""
    INSERT INTO memory_outcomes (thread_id, generation, outcome, source_updated_at_ms, at_ms, reason)
    SELECT :thread_id, :generation, :outcome, :source_ms, :at_ms, :reason WHERE {_PAST_RESET}
    ON CONFLICT (thread_id) DO UPDATE SET generation = excluded.generation, outcome = excluded.outcome,
    source_updated_at_ms = excluded.source_updated_at_ms, at_ms = excluded.at_ms, reason = excluded.reason
    WHERE excluded.generation >= memory_outcomes.generation
"""

_OUTPUT = f"""
    INSERT INTO memory_outputs (thread_id, generation, pruned_generation, source_updated_at_ms, generated_at_ms,
        raw_memory, rollout_summary, rollout_slug)
    SELECT :thread_id, :generation, 0, :source_ms, :at_ms, :raw_memory, :rollout_summary, :rollout_slug WHERE {_PAST_RESET}
    ON CONFLICT (thread_id) DO UPDATE SET generation = excluded.generation,
    source_updated_at_ms = excluded.source_updated_at_ms, generated_at_ms = excluded.generated_at_ms,
    raw_memory = iif(excluded.generation > pruned_generation, excluded.raw_memory, NULL),
    rollout_summary = iif(excluded.generation > pruned_generation, excluded.rollout_summary, NULL),
    rollout_slug = iif(excluded.generation > pruned_generation, excluded.rollout_slug, NULL)
    WHERE excluded.generation >= memory_outputs.generation
"""

_PRUNE = f"""
    INSERT INTO memory_outputs (thread_id, generation, pruned_generation, source_updated_at_ms, generated_at_ms)
    SELECT :thread_id, 0, :generation, 0, 0 WHERE {_PAST_RESET}
    ON CONFLICT (thread_id) DO UPDATE SET pruned_generation = max(pruned_generation, excluded.pruned_generation),
    raw_memory = iif(generation > excluded.pruned_generation, raw_memory, NULL),
    rollout_summary = iif(generation > excluded.pruned_generation, rollout_summary, NULL),
    rollout_slug = iif(generation > excluded.pruned_generation, rollout_slug, NULL)
"""

_PRUNE_USAGE = "DELETE FROM memory_usage WHERE thread_id = :thread_id"

_USED = """
    INSERT INTO memory_usage (thread_id, usage_count, last_usage_ms) VALUES (:thread_id, :count, :at_ms)
    ON CONFLICT (thread_id) DO UPDATE SET usage_count = usage_count + excluded.usage_count,
    last_usage_ms = max(last_usage_ms, excluded.last_usage_ms)
"""

_TRIED = f"""
    INSERT INTO memory_state (id, generation, outcome, at_ms, reason)
    SELECT 1, :generation, :outcome, :at_ms, :reason WHERE {_PAST_RESET}
    ON CONFLICT (id) DO UPDATE SET generation = excluded.generation, outcome = excluded.outcome,
    at_ms = excluded.at_ms, reason = excluded.reason WHERE excluded.generation >= memory_state.generation
"""

_MADE = f"""
    INSERT INTO memory_state (id, success_generation, succeeded_at_ms, success_watermark, selected, threads_max)
    SELECT 1, :generation, :at_ms, :watermark, :selected, :threads WHERE {_PAST_RESET}
    ON CONFLICT (id) DO UPDATE SET success_generation = max(success_generation, excluded.success_generation),
    succeeded_at_ms = iif(excluded.success_generation >= success_generation, excluded.succeeded_at_ms, succeeded_at_ms),
    selected = iif(excluded.success_generation >= success_generation, excluded.selected, selected),
    success_watermark = max(success_watermark, excluded.success_watermark),
    threads_max = max(threads_max, excluded.threads_max)
"""

_RESET = """
    INSERT INTO memory_state (id, reset_generation) VALUES (1, :generation)
    ON CONFLICT (id) DO UPDATE SET reset_generation = max(reset_generation, excluded.reset_generation), generation = 0,
    outcome = NULL, at_ms = NULL, reason = NULL, success_generation = 0, succeeded_at_ms = NULL, success_watermark = 0,
    selected = '[]', threads_max = 0
"""

_CLEARED = {
    "DELETE FROM memory_outcomes": (_OUTCOME,),
    "DELETE FROM memory_outputs": (_OUTPUT, _PRUNE),
    "DELETE FROM memory_usage": (_USED, _PRUNE_USAGE),
}
"""What a reset empties, and which statements had filled it."""

MEMORY_FACTS = Decided(
    tables=(
        Shape("memory_outcomes", ("thread_id",), "generation outcome source_updated_at_ms at_ms reason".split()),
        Shape(
            "memory_outputs",
            ("thread_id",),
            (
                "generation pruned_generation source_updated_at_ms generated_at_ms raw_memory rollout_summary rollout_slug"
            ).split(),
        ),
        Shape("memory_usage", ("thread_id",), "usage_count last_usage_ms".split()),
        Shape(
            "memory_state",
            ("id",),
            (
                "reset_generation generation outcome at_ms reason success_generation succeeded_at_ms success_watermark "
                "selected threads_max"
            ).split(),
        ),
    ),
    tags={
        OUTCOME: _outcome,
        USED: _used,
        PRUNED: _pruned,
        CONSOLIDATED: _consolidated,
        RESET: _reset,
    },
    merged={
        _RESET: _newer,
        _OUTCOME: _newer,
        _OUTPUT: _newer,
        _PRUNE: _newer,
        _USED: _sum,
        _TRIED: _newer,
        _MADE: _made_again,
    },
    voids={
        **{sql: Voided(others, every_key=True) for sql, others in _CLEARED.items()},
        _RESET: Voided((_TRIED, _MADE), every_key=True),
        _PRUNE_USAGE: Voided((_USED,)),
    },
)
