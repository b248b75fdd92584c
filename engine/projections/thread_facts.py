"""What is decided about a thread from outside: its name, its archive, its memory mode, its removal.

One row of `facts` a thread; each record sets columns of it.
"""

from __future__ import annotations

import msgspec

from engine.projections.decided import Decided, Decision, Effect, Shape, Values
from engine.stores.sqlite import Transaction, Value

NAMED = "thread_named"
MEMORY_MODE_SET = "memory_mode_set"
ARCHIVE_BEGUN = "archive_begun"
ARCHIVE_DONE = "archive_done"
DISMISSED = "thread_dismissed"
ERASE_BEGUN = "erase_begun"
ERASED = "thread_erased"
RETURNED = "thread_returned"
"""An erased thread is here again (imported, or put back from the trash): it counts as any other from then on."""
REDACTION_BEGUN = "redaction_begun"
REDACTION_DONE = "redaction_done"


def _archive_after(before: Values, now: Values) -> Values:
    """Two steps of a move as one: the time is that of its beginning."""
    if now["begun"]:
        return now
    if before["archived"] == now["archived"]:
        return {**now, "at_ms": before["at_ms"], "begun": before["begun"]}
    return {**now, "begun": 1}


def _erase_after(before: Values, now: Values) -> Values:
    """Two steps of an erasure as one: one that is only begun leaves what was settled before."""
    if now["settled"] or not before["settled"]:
        return now
    return {**now, "settled": 1, "erased": before["erased"], "at_ms": before["at_ms"]}


def _effect(sql: str, decision: Decision, **values: Value) -> list[Effect]:
    thread_id = decision.id("thread_id")
    if thread_id is None:
        return []
    return [Effect(sql, thread_id, {"thread_id": thread_id, "at_ms": decision.at_ms, **values})]


def _named(decision: Decision) -> list[Effect]:
    return _effect(_NAME, decision, name=decision.text("name"))


def _memory_mode(decision: Decision) -> list[Effect]:
    return _effect(_MEMORY_MODE, decision, memory_mode=decision.text("memory_mode"))


def _archive_begun(decision: Decision) -> list[Effect]:
    return _effect(_ARCHIVE, decision, archived=int(bool(decision.payload.get("archived"))), begun=1, pending=1)


def _archive_done(decision: Decision) -> list[Effect]:
    return _effect(_ARCHIVE, decision, archived=int(bool(decision.payload.get("archived"))), begun=0, pending=0)


def _dismissed(decision: Decision) -> list[Effect]:
    return _effect(_DISMISSED, decision)


def _erase_begun(decision: Decision) -> list[Effect]:
    return _effect(_ERASE, decision, pending=1, due_ms=decision.number("due_ms"), settled=0, erased=0)


def _erased(decision: Decision) -> list[Effect]:
    return _effect(_ERASE, decision, pending=0, due_ms=None, settled=1, erased=1)


def _returned(decision: Decision) -> list[Effect]:
    return _effect(_ERASE, decision, pending=0, due_ms=None, settled=1, erased=0)


def _redaction_begun(decision: Decision) -> list[Effect]:
    return _effect(_REDACTION, decision, redaction=msgspec.json.encode(decision.payload).decode())


def _redaction_done(decision: Decision) -> list[Effect]:
    return _effect(_REDACTION, decision, redaction=None)


def _upsert(*columns: str) -> str:
    """Set these columns; one that ends in `_at_ms` takes the record's time."""
    values = [":at_ms" if column.endswith("_at_ms") else f":{column}" for column in columns]
    sets = ", ".join(f"{column} = excluded.{column}" for column in columns)
    return (
        f"INSERT INTO facts (thread_id, {', '.join(columns)}) VALUES (:thread_id, {', '.join(values)})"  # noqa: S608
        f" ON CONFLICT (thread_id) DO UPDATE SET {sets}"
    )


_NAME = _upsert("name", "name_at_ms")
_MEMORY_MODE = _upsert("memory_mode", "memory_mode_at_ms")
_DISMISSED = _upsert("dismissed_at_ms")
_REDACTION = _upsert("redaction")

_ARCHIVE = """
    INSERT INTO facts (thread_id, archived, archived_at_ms, archive_pending)
    VALUES (:thread_id, :archived, iif(:archived, :at_ms, NULL), :pending)
    ON CONFLICT (thread_id) DO UPDATE SET archived = excluded.archived, archive_pending = excluded.archive_pending,
    archived_at_ms = iif(:begun OR NOT :archived, excluded.archived_at_ms,
                         coalesce(facts.archived_at_ms, excluded.archived_at_ms))
"""

_ERASE = """
    INSERT INTO facts (thread_id, erased_at_ms, erase_pending, erase_due_ms)
    VALUES (:thread_id, iif(:settled AND :erased, :at_ms, NULL), :pending, :due_ms)
    ON CONFLICT (thread_id) DO UPDATE SET erased_at_ms = iif(:settled, excluded.erased_at_ms, facts.erased_at_ms),
    erase_pending = excluded.erase_pending, erase_due_ms = excluded.erase_due_ms
"""

THREAD_FACTS = Decided(
    tables=(
        Shape(
            "facts",
            ("thread_id",),
            (
                "name name_at_ms memory_mode memory_mode_at_ms archived archived_at_ms archive_pending dismissed_at_ms "
                "erased_at_ms erase_pending erase_due_ms redaction"
            ).split(),
        ),
    ),
    tags={
        NAMED: _named,
        MEMORY_MODE_SET: _memory_mode,
        ARCHIVE_BEGUN: _archive_begun,
        ARCHIVE_DONE: _archive_done,
        DISMISSED: _dismissed,
        ERASE_BEGUN: _erase_begun,
        ERASED: _erased,
        RETURNED: _returned,
        REDACTION_BEGUN: _redaction_begun,
        REDACTION_DONE: _redaction_done,
    },
    merged={_ARCHIVE: _archive_after, _ERASE: _erase_after},
)


def unfinished_archives(transaction: Transaction) -> list[tuple[str, bool]]:
    """Threads whose move into or out of the archive was begun and not finished, and which way."""
    rows = transaction.rows("SELECT thread_id, archived FROM facts WHERE archive_pending = 1")
    return [(thread_id, bool(archived)) for thread_id, archived in rows]


def unfinished_erasures(transaction: Transaction) -> list[tuple[str, int | None]]:
    """Threads whose erasure was begun and not finished, and when their files in the trash are due (None: no trash)."""
    rows = transaction.rows("SELECT thread_id, erase_due_ms FROM facts WHERE erase_pending = 1")
    return [(thread_id, due_ms) for thread_id, due_ms in rows]


def unfinished_redactions(transaction: Transaction) -> list[tuple[str, str]]:
    """Threads of which a redaction was begun and not finished, and its announcement (JSON)."""
    rows = transaction.rows("SELECT thread_id, redaction FROM facts WHERE redaction IS NOT NULL")
    return [(thread_id, text) for thread_id, text in rows]
