"""What an audit reports: findings, each of a class, with where it is, what is true, and the command that mends it.

A divergence is never an exception. The words of the classes and of the fields are a contract with other programs. A
finding that no command mends says why in its message.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Severity = Literal["error", "warning", "info"]
"""error: a list or a row is wrong; warning: bytes of a rollout are damaged or rows lag; info: odd, and nothing is lost."""

REPAIR = "rolloutdb repair"
REPAIR_OFFLINE = "rolloutdb repair --offline"
"""For files that a program that takes no lock of ours may be using: not before it has ended."""
BACKFILL = "rolloutdb backfill"
ENGINE_REPAIR = "Engine.repair()"
"""For the rows of an application's own projections, of which the command knows nothing."""
UPGRADE = "pip install -U rolloutdb"
_MENDED_BY_REPAIR = (REPAIR, REPAIR_OFFLINE, BACKFILL, ENGINE_REPAIR)

WORDS = "words"
"""What the `field` of a finding names, behind its database, where the index of what was said lacks words of a message."""

LAG = "lag"
"""The one class that is no fault: rows follow a rollout that is being written."""

CLASSES: dict[str, tuple[Severity, str]] = {
    "missing_row": ("error", "a rollout has a thread that the table does not have"),
    "orphan_row": ("error", "a table has a row that no file stands behind"),
    "lost_truth": ("error", "a thread's rollout is gone"),
    "differing_field": ("error", "a field of the row is not what the file says"),
    "wrong_path": ("error", "the row names another rollout than the thread's head"),
    "wrong_archive_state": ("error", "the row says archived and the folder does not, or the other way round"),
    "wrong_fact": ("error", "what was decided about a thread is not in its row as it was recorded"),
    "stale_watermark": ("warning", "the file goes on beyond what the row has followed"),
    "lying_watermark": ("error", "the watermark's own state is not what the bytes before it give"),
    "wrong_stream": ("error", "what the tables know of a rollout is not what the file says"),
    "wrong_set_aside": ("error", "the list of set-aside records is not what the bytes give"),
    "wrong_rows": ("error", "rows of turns and items, or of a projection of one's own, are not what the file says"),
    "wrong_goal": ("error", "the row of a goal is not what the rollout's records say of it"),
    "rewritten_history": ("error", "the bytes before the watermark are not those that were followed"),
    "truncated_file": ("error", "the file is shorter than what was followed, and is what it was before that"),
    "newer_projection": ("warning", "a newer release wrote these rows, and they are left to it"),
    "lag": ("info", "the rows follow a rollout that is being written now"),
    "duplicate_id": ("warning", "several rollouts claim to be the same one"),
    "damaged_span": ("warning", "bytes that are no record"),
    "torn_tail": ("warning", "the last line is cut, or is still being written"),
    "set_aside": ("warning", "a record that could not be applied"),
    "duplicate_ordinal": ("warning", "two records of a rollout have the same number"),
    "ordinal_gap": ("warning", "numbers are missing between two records"),
    "missing_ordinal": ("warning", "a record without a number in a rollout that has numbers"),
    "missing_meta": ("warning", "a rollout does not begin with its session_meta"),
    "id_differs": ("warning", "the id in the file is not the one in its name"),
    "empty_file": ("info", "a rollout without a record is no thread"),
    "byte_order_mark": ("info", "the file begins with a byte order mark"),
    "unreadable": ("error", "a file or folder that cannot be read or used"),
    "dangling_base": ("warning", "a fork goes on from a place in a rollout that is not there"),
    "dangling_edge": ("info", "a thread names a parent that is not known"),
    "leftover_file": ("info", "a file that a crash left half done"),
    "stale_lock": ("info", "the lock of a writer that has ended"),
    "unfinished": ("warning", "a change of a thread was begun and not finished"),
    "stale_failure": ("warning", "a rollout is listed as unreadable, and it is not"),
    "damaged_database": ("error", "a database is damaged"),
    # What an audit of the Codex CLI's own databases finds; docs/AUDIT.md says of each what it means and what to do.
    "codex_unreadable": ("error", "one of its databases cannot be read"),
    "codex_damaged_database": ("error", "a page of one of its databases is damaged"),
    "codex_missing_row": ("error", "a thread is on disk and not in its database"),
    "codex_lost_truth": ("error", "a row's rollout is gone"),
    "codex_wrong_path": ("error", "a row names another file than the thread is in"),
    "codex_moved_home": ("error", "rows name files in another folder than this home"),
    "codex_wrong_archive_state": ("error", "a row says archived and the folder does not, or the other way round"),
    "codex_bad_row": ("error", "a row that it cannot decode, which fails a whole page of its lists"),
    "codex_differing_field": ("error", "a field of a row is not what the file says"),
    "codex_stale_row": ("warning", "a rollout goes on beyond what its row was made of"),
    "codex_differing_name": ("warning", "a row's name is not the one in session_index.jsonl"),
    "codex_unfinished_backfill": ("warning", "it has not finished its back-fill"),
    "codex_stopped_projection": ("error", "its turns stopped at a record that they will never pass"),
    "codex_projection_lag": ("info", "its turns do not reach the end of a rollout yet"),
    "codex_missing_projection": ("info", "it has no turns of a rollout yet"),
    "codex_dangling_projection": ("info", "it has turns of a rollout that is gone"),
    "codex_missing_edge": ("warning", "a rollout says who spawned it, and its database does not"),
    "codex_differing_edge": ("warning", "its database has another parent than the rollout says"),
    "codex_dangling_edge": ("info", "it has an edge from or to a thread that is gone"),
    "codex_differing_goal": ("warning", "a goal's row is older than the rollout's last word on it"),
    "codex_missing_goal": ("info", "a rollout tells of a goal that its database does not have"),
    "codex_unrecorded_goal": ("info", "a goal is in its database alone"),
    "codex_dangling_goal": ("info", "it has a goal of a thread that is gone"),
    "codex_hidden_by_source": ("info", "its default list leaves the thread out for its source"),
    "codex_hidden_by_provider": ("info", "its default list leaves the thread out for its provider"),
    "codex_hidden_by_preview": ("info", "its lists leave the thread out because its preview is empty"),
}

_WHY_NOT = {
    "set_aside": "it stays in its rollout, whose bytes are never changed",
    "duplicate_id": "which one to keep is yours to say: move the other one out of the home",
    "damaged_span": "bytes of a rollout are never changed; all records around it count",
    "torn_tail": "its thread cuts it before the next append",
    "duplicate_ordinal": "numbers of a rollout are never changed; both records count",
    "ordinal_gap": "what is missing is in no file here",
    "missing_ordinal": "numbers of a rollout are never changed; the record counts",
    "missing_meta": "what it said is in no file here",
    "id_differs": "the file's name is yours to change",
    "empty_file": "remove it, if no program uses it",
    "byte_order_mark": "nothing has to be done",
    "unreadable": "look at the file, its owner and its mode",
    "dangling_base": "restore that rollout from a backup; the own part can be read",
    "dangling_edge": "nothing has to be done",
    "leftover_file": "look at the two and keep one of them",
    "lag": "the rows follow by themselves",
}
"""Why a finding that has no command cannot have one."""


class Finding(Struct, frozen=True, kw_only=True, rename={"class_": "class"}):
    """One thing an audit saw. `path` is relative to the home, absolute for what lies elsewhere; `offset` in plain bytes."""

    class_: str
    severity: Severity
    thread_id: str | None = None
    path: str | None = None
    offset: int | None = None
    field: str | None = None
    file_value: Any = None
    row_value: Any = None
    message: str
    mend: str | None = None

    @property
    def is_mended_by_repair(self) -> bool:
        """Whether `repair` is what takes this finding away."""
        return self.mend in _MENDED_BY_REPAIR


class Checked(Struct, frozen=True):
    """How much an audit looked at. `records` are good ones; bytes are plain."""

    threads: int
    records: int
    bytes: int


class AuditReport(Struct, frozen=True):
    """All findings, by thread and place, and what was checked.

    `unknown_kinds` are kinds that this release cannot name, with how many records each; only a deep audit counts them.
    """

    findings: list[Finding]
    checked: Checked
    unknown_kinds: dict[str, int] | None = None

    @property
    def faults(self) -> list[Finding]:
        """The findings but for mere lag."""
        return [each for each in self.findings if each.class_ != LAG]


def finding(class_: str, message: str, *, mend: str | None = None, why: str | None = None, **where: Any) -> Finding:
    """A finding with the severity of its class; `why` tells, where nothing mends it, what keeps it from being mended."""
    severity, _ = CLASSES[class_]
    if mend is None and (why := why or _WHY_NOT.get(class_)):
        message = f"{message}; {why}"
    return Finding(class_=class_, severity=severity, message=message, mend=mend, **where)


def dismissal(thread_id: str) -> str:
    """The command that ends a lost thread's being shown."""
    return f"rolloutdb threads dismiss {thread_id}"


def short(value: object) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def by_place(each: Finding) -> tuple[str, str, int, str]:
    """The order of a report."""
    return (each.path or "", each.thread_id or "", each.offset if each.offset is not None else -1, each.class_)
