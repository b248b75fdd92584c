"""One rollout beside what the tables say of it: its lines, its watermark, its stream, its thread's row.

Row and watermark are read in one read transaction, before the file: the file may only have grown since, and is folded
anew up to that very watermark. What lies beyond is lag.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from engine.audit.findings import BACKFILL, REPAIR, REPAIR_OFFLINE, UPGRADE, Finding, finding, short
from engine.audit.lines import Lines, look
from engine.audit.marks import is_cut, line_findings
from engine.audit.parts import AuditParts
from engine.projections.check import Checked, differences
from engine.projections.fold import SetAside
from engine.projections.goals import COLUMNS as GOAL_COLUMNS
from engine.projections.registry import THREADS
from engine.projections.threads import COLUMNS, STREAM_COLUMNS, Candidate, ThreadState, stream_of, stream_row
from engine.stores import watermarks
from engine.stores.layout import Found
from engine.stores.rollouts import open_source
from engine.stores.sqlite import Transaction
from engine.stores.watermarks import History, Watermark

_OWN_CLASS = {"rollout_path": "wrong_path", "archived": "wrong_archive_state"}
_EARLY = ("thread_id", "created_at_ms", "first_at_ms", "session_id", "history_mode", "base_rollout_id")
_PATH = COLUMNS.index("rollout_path")


class Stored(NamedTuple):
    """What the tables said of one rollout at one moment. `rows` and `paths` are by thread id."""

    mark: Watermark | None
    known: tuple[Any, ...] | None
    missing: bool
    aside: list[SetAside]
    goal: tuple[Any, ...] | None
    rows: dict[str, tuple[Any, ...]]
    paths: dict[str, set[str]]


class Looked(NamedTuple):
    """A rollout that was looked at. `candidate` is None where it has no record that can be read."""

    found: Found
    lines: Lines
    state: ThreadState
    candidate: Candidate | None
    findings: list[Finding]
    elsewhere: list[Finding]
    """What a row says that names a file which is none of the thread's: it counts where this rollout is the head."""


class Streams:
    """Looks at rollouts one by one."""

    def __init__(self, parts: AuditParts, *, deep: bool, rows: bool) -> None:
        """Without `rows` the files alone are looked at: the tables cannot be trusted."""
        self._parts = parts
        self._deep = deep
        self._rows = rows

    def look(self, found: Found) -> Looked:
        """All that one rollout and its rows show. Raises OSError."""
        ids = {found.name.thread_id}
        stored = self._stored(found.path, ids)
        lines = self._lines(found)
        checked = self._check(found, stored)
        if self._rows and checked.state.thread_id not in stored.paths:
            stored, before = self._stored(found.path, ids | {checked.state.thread_id}), stored
            checked = checked if stored.mark == before.mark else self._check(found, stored)
        state = checked.state
        findings = [*self._of_the_file(found, state, lines), *_set_aside(found, checked, lines)]
        candidate, elsewhere = None, []
        if self._rows:
            findings += _watermark_findings(found, checked, stored, lines.bytes)
        if state.records:
            rollout_id = found.name.own_rollout_id or state.thread_id
            candidate = Candidate(found.path, rollout_id, state.base_rollout_id, missing=False)
            rows = list(self._row_findings(found, checked, stored))
            row = stored.rows.get(state.thread_id)
            if row is not None and row[_PATH] != found.path:
                elsewhere = rows
            else:
                findings += rows
        return Looked(found, lines, state, candidate, findings, elsewhere)

    def _check(self, found: Found, stored: Stored) -> Checked:
        mark = stored.mark if stored.mark is not None and stored.mark.version == THREADS.version else None
        return self._parts.checker.check(found, mark)

    def _stored(self, path: str, ids: set[str]) -> Stored:
        if not self._rows:
            return Stored(None, None, missing=False, aside=[], goal=None, rows={}, paths={})
        with self._parts.database.read() as transaction:
            mark = watermarks.load(transaction, [path]).get(path, {}).get(THREADS.name)
            known = transaction.row(_KNOWN, {"path": path})
            threads = ids if known is None else ids | {known[1]}
            return Stored(
                mark,
                None if known is None else known[:-1],
                known is not None and known[-1] is not None,
                _aside_rows(transaction, path),
                transaction.row(_GOAL, {"path": path}),
                {each: row for each in threads if (row := transaction.row(_ROW, {"id": each})) is not None},
                {each: {at for (at,) in transaction.rows(_PATHS, {"id": each})} for each in threads},
            )

    def _lines(self, found: Found) -> Lines:
        path = self._parts.home.absolute(found.path, compressed=found.compressed)
        source = open_source(path, compressed=found.compressed, files=self._parts.files, options=self._parts.options)
        try:
            return look(source, self._parts.options, deep=self._deep)
        finally:
            source.close()

    def _of_the_file(self, found: Found, state: ThreadState, lines: Lines) -> Iterator[Finding]:
        mend = why = None
        if any(is_cut(each) for each in lines.damage):
            mend, why = self._cut_by(found, lines)
        yield from line_findings({"path": found.path, "thread_id": state.thread_id}, lines, mend=mend, why=why)
        yield from _identity_findings(found, state, lines)

    def _cut_by(self, found: Found, lines: Lines) -> tuple[str | None, str | None]:
        """The command that cuts a torn tail, or why none does."""
        if found.compressed:
            return None, "a compressed file is not cut; its thread cuts it when it is resumed"
        if lines.first_type != "session_meta":
            return None, "a rollout that does not say who it is is not changed"
        return REPAIR if self._parts.is_ours(found) else REPAIR_OFFLINE, None

    def _row_findings(self, found: Found, checked: Checked, stored: Stored) -> Iterator[Finding]:
        """The row's fields beside the file's, where the row is this rollout's to fill."""
        thread_id, mark = checked.state.thread_id, stored.mark
        row = stored.rows.get(thread_id)
        if row is None or not checked.same_history or (mark is not None and mark.version != THREADS.version):
            return
        if row[_PATH] != found.path and self._parts.stands(row[_PATH], stored.paths.get(thread_id, set())):
            return  # another rollout of the thread fills it
        if mark is None:
            message = "the thread has a row and its rollout has no watermark"
            yield finding("stale_watermark", message, mend=BACKFILL, path=found.path, thread_id=thread_id, offset=0)
        for difference in differences(checked.row if checked.at_mark is None else checked.at_mark.row, row):
            yield finding(
                _OWN_CLASS.get(difference.field, "differing_field"),
                f"{difference.field} is {short(difference.row_value)} in the row and"
                f" {short(difference.file_value)} in the file",
                mend=REPAIR,
                path=found.path,
                thread_id=thread_id,
                field=difference.field,
                file_value=difference.file_value,
                row_value=difference.row_value,
            )


def _identity_findings(found: Found, state: ThreadState, lines: Lines) -> Iterator[Finding]:
    where: dict[str, Any] = {"path": found.path, "thread_id": state.thread_id}
    if lines.records == 0:
        what = "is empty" if lines.bytes == 0 and not lines.damage else "has no record that can be read"
        yield finding("empty_file", f"the rollout {what}; it is no thread", **where)
    elif not state.identified:
        message = "its session_meta is gone; the thread is listed under the id in its file name"
        yield finding("missing_meta", message, offset=0, **where)
    elif lines.first_type != "session_meta":
        message = "it does not begin with its session_meta; a later one says who the thread is"
        yield finding("missing_meta", message, offset=0, **where)
    if state.thread_id != found.name.thread_id:
        yield finding(
            "id_differs",
            f"the file says {state.thread_id}, its name says {found.name.thread_id}; the file counts",
            field="id",
            file_value=state.thread_id,
            row_value=found.name.thread_id,
            **where,
        )


def _set_aside(found: Found, checked: Checked, lines: Lines) -> Iterator[Finding]:
    for aside in checked.set_aside:
        if aside.kind is not None and aside.offset not in lines.named:
            message = f"a {aside.kind} record could not be applied: {aside.reason}"
            yield finding("set_aside", message, path=found.path, thread_id=checked.state.thread_id, offset=aside.offset)


def _watermark_findings(found: Found, checked: Checked, stored: Stored, size: int) -> Iterator[Finding]:
    mark = stored.mark
    if mark is None:
        return
    where: dict[str, Any] = {"path": found.path, "thread_id": checked.state.thread_id, "offset": mark.offset}
    if mark.version > THREADS.version:
        message = f"the row was folded by version {mark.version} of its projection; this release has {THREADS.version}"
        yield finding("newer_projection", message, mend=UPGRADE, **where)
    elif mark.version < THREADS.version:
        message = f"the row was folded by version {mark.version} of its projection, not by {THREADS.version}"
        yield finding("stale_watermark", message, mend=BACKFILL, **where)
    elif not checked.same_history:
        yield _other_history(checked, mark, size, where)
    else:
        if checked.at_mark is not None and (checked.at_mark.state, checked.at_mark.ordinal) != (
            mark.state,
            mark.ordinal,
        ):
            yield finding("lying_watermark", "the stored state is not the fold of the bytes", mend=REPAIR, **where)
        else:
            yield from _stream_findings(found, mark, stored)
            yield from _aside_findings(checked, stored, where)
            yield from _goal_findings(checked, stored, where)
        if checked.lag_bytes:
            message = f"{checked.lag_bytes} bytes behind the watermark are not in the row yet"
            yield finding("stale_watermark", message, mend=BACKFILL, **where)


def _other_history(checked: Checked, mark: Watermark, size: int, where: dict[str, Any]) -> Finding:
    if checked.history is History.TRUNCATED and _begins_alike(checked.state, mark):
        message = f"the rollout ends at byte {size}; {mark.offset - size} bytes behind that were followed and are gone"
        place = {**where, "field": "size", "file_value": size, "row_value": mark.offset}
        if checked.state.records == 0:
            return finding("truncated_file", message, why="restore it from a backup", **place)
        return finding("truncated_file", message, mend=REPAIR, **place)
    message = "the rollout was replaced, cut or edited before the place that the row had followed"
    return finding("rewritten_history", message, mend=REPAIR, **where)


def _begins_alike(now: ThreadState, mark: Watermark) -> bool:
    """Whether what stands at a rollout's beginning is what it was: no digest tells of a part of what was followed."""
    if now.records == 0:
        return True
    try:
        then = THREADS.decode(mark.state)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # its bytes are damaged
    same = all(getattr(now, name) == getattr(then, name) for name in _EARLY)
    return same and now.records <= then.records and now.first_user_message in (None, then.first_user_message)


def _stream_findings(found: Found, mark: Watermark, stored: Stored) -> Iterator[Finding]:
    """What the tables know of the rollout itself: by it the head is chosen, and records are counted."""
    known = dict(zip(STREAM_COLUMNS, stream_row(stream_of(found.path), THREADS.decode(mark.state)), strict=True))
    where: dict[str, Any] = {"mend": REPAIR, "path": found.path, "thread_id": known["thread_id"]}
    if stored.known is None:
        yield finding("wrong_stream", "the rollout is not among the known ones, though it was followed", **where)
        return
    pairs = [
        *((column, value, there) for (column, value), there in zip(known.items(), stored.known, strict=True)),
        ("missing", False, stored.missing),
    ]
    for column, value, there in pairs:
        if value != there:
            message = f"{column} is {short(there)} in the table and {short(value)} in the file"
            yield finding("wrong_stream", message, field=column, file_value=value, row_value=there, **where)


def _aside_findings(checked: Checked, stored: Stored, where: dict[str, Any]) -> Iterator[Finding]:
    """The list of set-aside records beside those that the bytes before the watermark give."""
    assert checked.at_mark is not None
    given = {each.offset: each for each in checked.at_mark.set_aside}
    there = {each.offset: each for each in stored.aside}
    # A compressed file that ends too soon is noted where its bytes end, which the fold up to there does not reach.
    given |= {each.offset: each for each in checked.set_aside if each.offset == where["offset"] and not each.length}
    for offset in sorted(given.keys() | there.keys()):
        mine, row = given.get(offset), there.get(offset)
        if mine == row:
            continue
        what = "that no bytes explain" if mine is None else "has no row" if row is None else "that the bytes contradict"
        message = f"a set-aside record {what}" if row is None else f"a row of a set-aside record {what}"
        place = {**where, "offset": offset, "file_value": mine and mine.reason, "row_value": row and row.reason}
        yield finding("wrong_set_aside", message, mend=REPAIR, **place)


def _goal_findings(checked: Checked, stored: Stored, where: dict[str, Any]) -> Iterator[Finding]:
    """The row of the goal that the rollout tells of."""
    mine, row = None if checked.at_mark is None else checked.at_mark.goal, stored.goal
    where = {"mend": REPAIR, "path": where["path"], "thread_id": where["thread_id"]}
    if mine is None or row is None:
        if mine != row:
            what = "that no record tells of" if mine is None else "that the rollout tells of is not there"
            yield finding("wrong_goal", f"the row of a goal {what}", field="goals", **where)
        return
    for column, value, there in zip(GOAL_COLUMNS, mine, row, strict=True):
        if value != there:
            message = f"the goal's {column} is {short(there)} in its row and {short(value)} in the file"
            values = {"file_value": value, "row_value": there}
            yield finding("wrong_goal", message, field=f"goals.{column}", **values, **where)


def _aside_rows(transaction: Transaction, path: str) -> list[SetAside]:
    rows = transaction.rows(_ASIDE, {"path": path, "projection": THREADS.name})
    return [SetAside(offset, length, kind, reason, data) for offset, length, kind, reason, data in rows]


_KNOWN = f"SELECT {', '.join(STREAM_COLUMNS)}, missing_since_ms FROM streams WHERE path = :path"  # noqa: S608
_ROW = f"SELECT {', '.join(COLUMNS)} FROM threads WHERE id = :id"  # noqa: S608 - the names are ours
_PATHS = "SELECT path FROM streams WHERE thread_id = :id"
_GOAL = f"SELECT {', '.join(GOAL_COLUMNS)} FROM goals WHERE stream = :path"  # noqa: S608 - the names are ours
_ASIDE = """
    SELECT "offset", length, kind, reason, bytes FROM set_aside WHERE stream = :path AND projection = :projection
"""
