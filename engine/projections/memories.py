"""Questions to the rows of memories: which threads want work, what was learned, what a consolidation is made of.

Idle, age, mode and whether a thread is up to date are conditions of the statement, so no limit ever counts a thread that is
filtered out afterwards. A page of candidates goes on behind the last row of the one before. Each answer is one
snapshot; nothing is read twice in the hope that it did not change meanwhile.

Source: codex_memories.md 2.4, 3.2; codex_state.md 6.1, 6.6 to 6.9.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from engine.options import MemoryOptions
from engine.stores.sqlite import Transaction, Value

_DAY_MS = 24 * 3600 * 1000
_INTEGER_MAX = (1 << 63) - 1


class Candidate(Struct, frozen=True):
    """A thread that wants an extraction: how new it is, and the generation of the last one."""

    thread_id: str
    updated_at_ms: int
    generation: int


class Memory(Struct, frozen=True, kw_only=True):
    """What was learned in one thread. Times are Unix milliseconds.

    `selected_source_updated_at_ms` is of the one that the last consolidation was made of, None where it was not.
    """

    thread_id: str
    raw_memory: str
    rollout_summary: str
    rollout_slug: str | None
    source_updated_at_ms: int
    generated_at_ms: int
    generation: int
    usage_count: int
    last_usage_ms: int | None
    selected_source_updated_at_ms: int | None
    rollout_path: str
    cwd: str | None
    git_branch: str | None


class Outcome(Struct, frozen=True, kw_only=True):
    """How the last extraction of a thread ended, for good."""

    thread_id: str
    outcome: str
    source_updated_at_ms: int
    at_ms: int
    generation: int
    reason: str | None


class Consolidated(Struct, frozen=True, kw_only=True):
    """The last consolidation, the last one that succeeded, and the last reset."""

    reset_generation: int = 0
    generation: int = 0
    outcome: str | None = None
    at_ms: int | None = None
    reason: str | None = None
    success_generation: int = 0
    succeeded_at_ms: int | None = None
    success_watermark: int = 0
    selected: list[tuple[str, int]] = []
    threads_max: int = 0


class Coverage(Struct, frozen=True, kw_only=True):
    """How many threads could have a memory, and how they stand; `threads` is the sum of the others.

    `current` have an output of all that they say, `empty` had nothing to remember, `failed` gave up, `waiting` are not idle
    yet, `too_old` are older than the age bound, `pending` are to be extracted. `excluded` could not have one: archived,
    without a preview, of another source, disabled or polluted. `outputs` is how many memories there are.
    """

    threads: int
    current: int
    empty: int
    failed: int
    waiting: int
    too_old: int
    pending: int
    excluded: int
    outputs: int


class Limits(Struct, frozen=True):
    """When a thread is a candidate: last changed between these two times, both included (Unix ms)."""

    oldest_ms: int
    newest_ms: int

    @classmethod
    def at(cls, now_ms: int, options: MemoryOptions) -> Limits:
        """As of now. Negative options count as 0."""
        age_ms, idle_ms = max(options.age_days, 0) * _DAY_MS, max(options.idle_s, 0) * 1000
        return cls(now_ms - age_ms, now_ms - idle_ms)


def candidates(
    transaction: Transaction,
    limits: Limits,
    options: MemoryOptions,
    *,
    after: tuple[int, str] | None = None,
    limit: int,
    exclude: Sequence[str] = (),
    retry_failed: bool = False,
) -> list[Candidate]:
    """The next candidates, newest first, behind `after` (its time and id)."""
    before_ms, before_id = (limits.newest_ms + 1, "") if after is None else after
    values = _values(options) | {
        "before_ms": before_ms,
        "before_id": before_id,
        "oldest_ms": limits.oldest_ms,
        "exclude": msgspec.json.encode([each.lower() for each in exclude]).decode(),
        "limit": limit,
        "retry_failed": int(retry_failed),
    }
    return [Candidate(*row) for row in transaction.rows(_CANDIDATES, values)]


def coverage(transaction: Transaction, limits: Limits, options: MemoryOptions) -> Coverage:
    """How many threads stand how."""
    values = _values(options) | {"oldest_ms": limits.oldest_ms, "newest_ms": limits.newest_ms}
    row = transaction.row(_COVERAGE, values)
    outputs = transaction.row("SELECT count(*) FROM memory_outputs WHERE raw_memory IS NOT NULL")
    assert row is not None
    assert outputs is not None
    excluded, current, empty, failed, waiting, too_old, pending = (int(each or 0) for each in row)
    return Coverage(
        threads=current + empty + failed + waiting + too_old + pending,
        current=current,
        empty=empty,
        failed=failed,
        waiting=waiting,
        too_old=too_old,
        pending=pending,
        excluded=excluded,
        outputs=outputs[0],
    )


def get_memory(transaction: Transaction, thread_id: str) -> Memory | None:
    """What was learned in a thread, whatever its mode; None where there is nothing."""
    row = transaction.row(f"{_MEMORY} WHERE o.thread_id = :id AND o.raw_memory IS NOT NULL", {"id": thread_id.lower()})
    return None if row is None else _memory(row)


def get_outcome(transaction: Transaction, thread_id: str) -> Outcome | None:
    """How the last extraction of a thread ended, or None."""
    row = transaction.row(f"{_OUTCOMES} WHERE thread_id = :id", {"id": thread_id.lower()})
    return None if row is None else _outcome(row)


def failed_outcomes(transaction: Transaction, *, limit: int) -> list[Outcome]:
    """Threads of which the last extraction failed for good, the latest first."""
    sql = f"{_OUTCOMES} WHERE outcome = 'failed' ORDER BY at_ms DESC, thread_id LIMIT :limit"
    return [_outcome(row) for row in transaction.rows(sql, {"limit": limit})]


def latest(transaction: Transaction, *, limit: int, cwd: str | None = None) -> list[Memory]:
    """The newest memories of enabled threads, of one exact working folder or of all."""
    where = "" if cwd is None else "AND t.cwd = :cwd"
    sql = f"""{_MEMORY} WHERE {_SAYS} AND {_ENABLED} {where}
        ORDER BY o.source_updated_at_ms DESC, o.thread_id DESC LIMIT :limit"""
    values: dict[str, Value] = {"limit": limit} if cwd is None else {"limit": limit, "cwd": cwd}
    return [_memory(row) for row in transaction.rows(sql, values)]


def select_inputs(transaction: Transaction, *, limit: int, unused_days: int, now_ms: int) -> list[Memory]:
    """What the next consolidation is made of: the most used, then the newest; by thread id."""
    values: dict[str, Value] = {"limit": max(limit, 0), "cutoff": now_ms - max(unused_days, 0) * _DAY_MS}
    return sorted((_memory(row) for row in transaction.rows(_SELECT, values)), key=lambda each: each.thread_id)


def stale(transaction: Transaction, *, limit: int, unused_days: int, now_ms: int) -> list[tuple[str, int]]:
    """Memories that nobody used for so long and no consolidation is made of: thread and generation, stalest first."""
    values: dict[str, Value] = {"limit": max(limit, 0), "cutoff": now_ms - max(unused_days, 0) * _DAY_MS}
    return [(thread_id, generation) for thread_id, generation in transaction.rows(_STALE, values)]


def sources_of(transaction: Transaction, thread_ids: Sequence[str]) -> dict[str, int]:
    """How new these threads were when an extraction of them last ended for good."""
    values = {"ids": msgspec.json.encode(list(thread_ids)).decode()}
    return dict(transaction.rows(_SOURCES, values))


def outputs_among(transaction: Transaction, thread_ids: Sequence[str]) -> set[str]:
    """Those of these threads that have a memory."""
    values = {"ids": msgspec.json.encode([each.lower() for each in thread_ids]).decode()}
    return {thread_id for (thread_id,) in transaction.rows(_AMONG, values)}


def known_among(transaction: Transaction, thread_ids: Sequence[str]) -> set[str]:
    """Those of these threads of which there is any record: an outcome, a memory, or that it was erased."""
    values = {"ids": msgspec.json.encode([each.lower() for each in thread_ids]).decode()}
    return {thread_id for (thread_id,) in transaction.rows(_KNOWN, values)}


def consolidated(transaction: Transaction) -> Consolidated:
    """The last consolidation."""
    row = transaction.row(
        """SELECT reset_generation, generation, outcome, at_ms, reason, success_generation, succeeded_at_ms,
           success_watermark, selected, threads_max FROM memory_state WHERE id = 1"""
    )
    if row is None:
        return Consolidated()
    selected = msgspec.json.decode(row[8], type=list[tuple[str, int]])
    names = Consolidated.__struct_fields__
    return Consolidated(**{**dict(zip(names, row, strict=True)), "selected": selected})


def to_forget(transaction: Transaction) -> list[str]:
    """Threads that the last consolidation was made of and that may be in none: erased, polluted, disabled, pruned."""
    return [thread_id for (thread_id,) in transaction.rows(_TO_FORGET)]


def memory_mode(transaction: Transaction, thread_id: str) -> str | None:
    """A thread's memory mode, the later of what its rollout and what the journal says; None where there is no thread."""
    row = transaction.row(f"SELECT {_MODE} {_THREADS} WHERE t.id = :id", {"id": thread_id.lower()})
    return None if row is None else row[0]


def _values(options: MemoryOptions) -> dict[str, Value]:
    return {"sources": msgspec.json.encode(list(options.sources)).decode()}


def _memory(row: Sequence[object]) -> Memory:
    return Memory(**dict(zip(Memory.__struct_fields__, row, strict=True)))  # type: ignore[arg-type] # as selected below


def _outcome(row: Sequence[object]) -> Outcome:
    return Outcome(**dict(zip(Outcome.__struct_fields__, row, strict=True)))  # type: ignore[arg-type] # the same


_MODE = """iif(facts.memory_mode IS NOT NULL
    AND coalesce(facts.memory_mode_at_ms, 0) >= coalesce(t.memory_mode_at_ms, 0), facts.memory_mode, t.memory_mode)"""
"""The later of two, as a list has it."""

_ENABLED = f"{_MODE} = 'enabled'"

_THREADS = "FROM threads AS t LEFT JOIN facts ON facts.thread_id = t.id"

_MISSING = """EXISTS (
    SELECT 1 FROM streams WHERE streams.path = t.rollout_path AND streams.missing_since_ms IS NOT NULL
)"""

_FIT = f"""t.archived = 0 AND coalesce(t.preview, '') <> '' AND t.source IN (SELECT value FROM json_each(:sources))
    AND {_ENABLED} AND NOT {_MISSING}"""  # noqa: S608 - the same
"""What a thread has to be, whenever it was last changed."""

_CANDIDATES = f"""
    SELECT t.id, t.updated_at_ms, coalesce(m.generation, 0) {_THREADS} LEFT JOIN memory_outcomes AS m ON m.thread_id = t.id
    WHERE (t.updated_at_ms, t.id) < (:before_ms, :before_id) AND t.updated_at_ms >= :oldest_ms
    AND (m.source_updated_at_ms IS NULL OR m.source_updated_at_ms < t.updated_at_ms
        OR (:retry_failed AND m.outcome = 'failed'))
    AND {_FIT} AND t.id NOT IN (SELECT value FROM json_each(:exclude))
    ORDER BY t.updated_at_ms DESC, t.id DESC LIMIT :limit
"""  # noqa: S608 - conditions of ours

_STANDS = """CASE WHEN NOT fit THEN 'excluded'
    WHEN source_ms >= updated_at_ms AND outcome = 'failed' THEN 'failed'
    WHEN source_ms >= updated_at_ms AND outcome = 'no_output' THEN 'empty'
    WHEN source_ms >= updated_at_ms THEN 'current'
    WHEN updated_at_ms > :newest_ms THEN 'waiting'
    WHEN updated_at_ms < :oldest_ms THEN 'too_old' ELSE 'pending' END"""

_COVERAGE = f"""
    WITH each AS (
        SELECT t.updated_at_ms, ({_FIT}) AS fit, m.outcome, coalesce(m.source_updated_at_ms, -1) AS source_ms
        {_THREADS} LEFT JOIN memory_outcomes AS m ON m.thread_id = t.id
    ), stands AS (SELECT {_STANDS} AS how FROM each)
    SELECT sum(how = 'excluded'), sum(how = 'current'), sum(how = 'empty'), sum(how = 'failed'), sum(how = 'waiting'),
    sum(how = 'too_old'), sum(how = 'pending') FROM stands
"""  # noqa: S608 - the same

_SELECTED = """selected AS MATERIALIZED (
    SELECT each.value ->> 0 AS thread_id, each.value ->> 1 AS source_ms
    FROM memory_state, json_each(memory_state.selected) AS each
)"""

_MEMORY = f"""
    WITH {_SELECTED}
    SELECT o.thread_id, o.raw_memory, o.rollout_summary, o.rollout_slug, o.source_updated_at_ms, o.generated_at_ms,
    o.generation, coalesce(u.usage_count, 0), u.last_usage_ms, selected.source_ms, t.rollout_path, t.cwd, t.git_branch
    FROM memory_outputs AS o JOIN threads AS t ON t.id = o.thread_id LEFT JOIN facts ON facts.thread_id = t.id
    LEFT JOIN memory_usage AS u ON u.thread_id = o.thread_id LEFT JOIN selected ON selected.thread_id = o.thread_id
"""  # noqa: S608 - the same

_SAYS = "o.raw_memory IS NOT NULL AND trim(o.raw_memory || o.rollout_summary, char(32, 9, 10, 13)) <> ''"

_SELECT = f"""{_MEMORY} WHERE {_SAYS} AND {_ENABLED}
    AND coalesce(u.last_usage_ms, o.source_updated_at_ms) >= :cutoff
    ORDER BY coalesce(u.usage_count, 0) DESC, coalesce(u.last_usage_ms, o.source_updated_at_ms) DESC,
    o.source_updated_at_ms DESC, o.thread_id DESC LIMIT :limit
"""

_STALE = f"""
    WITH {_SELECTED}
    SELECT o.thread_id, o.generation FROM memory_outputs AS o LEFT JOIN memory_usage AS u ON u.thread_id = o.thread_id
    WHERE o.raw_memory IS NOT NULL AND o.thread_id NOT IN (SELECT thread_id FROM selected)
    AND coalesce(u.last_usage_ms, o.source_updated_at_ms) < :cutoff
    ORDER BY coalesce(u.last_usage_ms, o.source_updated_at_ms), o.source_updated_at_ms, o.thread_id LIMIT :limit
"""  # noqa: S608 - the same

_SOURCES = """
    SELECT thread_id, source_updated_at_ms FROM memory_outcomes
    WHERE thread_id IN (SELECT value FROM json_each(:ids))
"""

_AMONG = """
    SELECT thread_id FROM memory_outputs
    WHERE thread_id IN (SELECT value FROM json_each(:ids)) AND raw_memory IS NOT NULL
"""

_KNOWN = """
    SELECT value FROM json_each(:ids) AS each WHERE
    EXISTS (SELECT 1 FROM memory_outcomes WHERE thread_id = each.value)
    OR EXISTS (SELECT 1 FROM memory_outputs WHERE thread_id = each.value)
    OR EXISTS (SELECT 1 FROM facts WHERE thread_id = each.value AND (erased_at_ms IS NOT NULL OR erase_pending = 1))
"""

_TO_FORGET = f"""
    WITH {_SELECTED}
    SELECT selected.thread_id FROM selected
    LEFT JOIN threads AS t ON t.id = selected.thread_id LEFT JOIN facts ON facts.thread_id = selected.thread_id
    LEFT JOIN memory_outputs AS o ON o.thread_id = selected.thread_id
    WHERE t.id IS NULL OR o.raw_memory IS NULL OR NOT {_ENABLED} ORDER BY selected.thread_id
"""  # noqa: S608 - the same

_OUTCOMES = "SELECT thread_id, outcome, source_updated_at_ms, at_ms, generation, reason FROM memory_outcomes"
