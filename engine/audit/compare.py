"""Compare every row with every rollout, both ways, and write nothing.

The tables are read in one snapshot; every rollout is folded anew without the database and held against what the snapshot
says of it, field for field at its watermark. What lies beyond the watermark is lag. A rollout that cannot be read is a
finding and stops nothing. Memory is one rollout's block and a few words a thread.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.audit.findings import AuditReport, Checked, Finding, finding
from engine.audit.lines import Lines, look
from engine.options import Options
from engine.projections.backfill import Progress
from engine.projections.check import Checked as CheckedStream
from engine.projections.check import Checker, differences
from engine.projections.registry import THREADS
from engine.projections.threads import (
    COLUMNS,
    STREAM_COLUMNS,
    Candidate,
    ThreadState,
    head_of,
    stream_of,
    stream_row,
)
from engine.stores import watermarks
from engine.stores.files import Files
from engine.stores.layout import Found, Home, Refused, locate, walk
from engine.stores.rollouts import Damage, open_source
from engine.stores.sqlite import Database, Transaction
from engine.stores.watermarks import Watermark

_REBUILD = "rolloutdb rebuild"
_BACKFILL = "rolloutdb backfill"
_UPGRADE = "pip install -U rolloutdb"
_OWN_CLASS = {"rollout_path": "wrong_path", "archived": "wrong_archive_state"}


class Auditor:
    """Audits one home."""

    def __init__(self, home: Home, database: Database, checker: Checker, *, options: Options, files: Files) -> None:
        self._home = home
        self._database = database
        self._checker = checker
        self._options = options
        self._files = files

    def run(self, *, deep: bool = False, progress: Callable[[Progress], None] | None = None) -> AuditReport:
        """Check everything. Raises `StoreError` where the tables cannot be read at all."""
        with self._database.read() as transaction:
            audit = _Audit(self._home, self._checker, transaction, self._options, self._files, deep=deep)
            findings = sorted(audit.run(progress), key=_by_place)
            unknown = dict(sorted(audit.unknown_kinds.items())) if deep else None
            return AuditReport(findings, Checked(audit.threads, audit.records, audit.bytes), unknown)


class _Audit:
    """One audit under way, inside of one snapshot."""

    def __init__(
        self, home: Home, checker: Checker, transaction: Transaction, options: Options, files: Files, *, deep: bool
    ) -> None:
        self._home = home
        self._checker = checker
        self._transaction = transaction
        self._options = options
        self._files = files
        self._deep = deep
        self._candidates: dict[str, list[Candidate]] = defaultdict(list)
        self._refused: list[Refused] = []
        self._elsewhere: dict[str, list[Finding]] = {}
        self.threads = 0
        self.unknown_kinds: Counter[str] = Counter()
        self.records = 0
        self.bytes = 0

    def run(self, progress: Callable[[Progress], None] | None) -> Iterator[Finding]:
        files_done = 0
        files_total, *_ = self._transaction.row("SELECT count(*) FROM streams") or (0,)
        for found in walk(self._home, self._files):
            if isinstance(found, Refused):
                self._refused.append(found)
                yield finding("unreadable", f"{found.path}: {found.reason}", path=found.path)
                continue
            marks = watermarks.load(self._transaction, [each.path for each in found])
            for each in found:
                yield from self._rollout(each, marks.get(each.path, {}).get(THREADS.name))
                files_done += 1
                if progress is not None:
                    progress(Progress(files_done, max(files_done, files_total), self.bytes, self.bytes))
        yield from self._threads()

    def _rollout(self, found: Found, mark: Watermark | None) -> Iterator[Finding]:
        """What one rollout says of itself, and whether its row says the same."""
        outdated = mark is not None and mark.version != THREADS.version
        try:
            lines = self._look(found)
            checked = self._checker.check(found, None if outdated else mark)
        except FileNotFoundError:
            return  # it went while we walked: archived or compressed meanwhile
        except OSError as error:
            yield finding(
                "unreadable",
                f"{found.path} cannot be read: {error.strerror}",
                path=found.path,
                thread_id=found.name.thread_id,
            )
            return
        state = checked.state
        self.records += lines.records
        self.unknown_kinds.update(lines.unknown_kinds)
        self.bytes += lines.bytes
        yield from _line_findings(found, state.thread_id, lines)
        yield from _identity_findings(found, state, lines)
        yield from (
            finding(
                "set_aside",
                f"a {aside.kind} record could not be applied: {aside.reason}",
                path=found.path,
                thread_id=state.thread_id,
                offset=aside.offset,
            )
            for aside in checked.set_aside
            if aside.kind is not None and aside.offset not in lines.named
        )
        if state.records == 0:
            return
        candidate = Candidate(found.path, found.name.own_rollout_id or state.thread_id, state.base_rollout_id, False)
        self._candidates[state.thread_id].append(candidate)
        if mark is not None:
            yield from self._watermark_findings(found, checked, mark, outdated=outdated)
        yield from self._row_findings(found, checked, mark)

    def _look(self, found: Found) -> Lines:
        path = self._home.absolute(found.path, compressed=found.compressed)
        source = open_source(path, compressed=found.compressed, files=self._files, options=self._options)
        try:
            return look(source, self._options, deep=self._deep)
        finally:
            source.close()

    def _watermark_findings(
        self, found: Found, checked: CheckedStream, mark: Watermark, *, outdated: bool
    ) -> Iterator[Finding]:
        where: dict[str, Any] = {"path": found.path, "thread_id": checked.state.thread_id, "offset": mark.offset}
        if outdated:
            message = f"the row was folded by version {mark.version} of its projection, not by {THREADS.version}"
            is_newer = mark.version > THREADS.version
            yield finding("stale_watermark", message, mend=_UPGRADE if is_newer else _BACKFILL, **where)
            return  # how far it had come is not asked: all of it is folded anew
        if not checked.same_history:
            yield finding(
                "rewritten_history",
                "the rollout was replaced, cut or edited before the place that the row had followed",
                mend=_REBUILD if found.stat == mark.stat else _BACKFILL,  # a back-fill passes over an unchanged stat
                **where,
            )
        elif checked.state_at_mark != mark.state:
            yield finding("lying_watermark", "the stored state is not the fold of the bytes", mend=_REBUILD, **where)
        else:
            yield from self._stream_findings(found, mark)
        if checked.same_history and checked.lag_bytes:
            message = f"{checked.lag_bytes} bytes behind the watermark are not in the row yet"
            yield finding("stale_watermark", message, mend=_BACKFILL, **where)

    def _stream_findings(self, found: Found, mark: Watermark) -> Iterator[Finding]:
        """What the tables know of the rollout itself: by it the head is chosen, and records are counted."""
        known = dict(zip(STREAM_COLUMNS, stream_row(stream_of(found.path), THREADS.decode(mark.state)), strict=True))
        stored = self._transaction.row(_KNOWN, {"path": found.path})
        if stored is None:
            message = "the rollout is not among the known ones, though it was followed"
            yield finding("wrong_stream", message, mend=_REBUILD, path=found.path, thread_id=known["thread_id"])
            return
        for (column, value), there in zip(known.items(), stored, strict=True):
            if value != there:
                yield finding(
                    "wrong_stream",
                    f"{column} is {_short(there)} in the table and {_short(value)} in the file",
                    mend=_REBUILD,
                    path=found.path,
                    thread_id=known["thread_id"],
                    field=column,
                    file_value=value,
                    row_value=there,
                )

    def _row_findings(self, found: Found, checked: CheckedStream, mark: Watermark | None) -> Iterator[Finding]:
        """The row's fields beside the file's, where the row is this rollout's to fill.

        What a row says that names a file which is none of the thread's rollouts is kept until the head is known.
        """
        row = self._row(checked.state.thread_id)
        if row is None or not checked.same_history:
            return
        named = row[COLUMNS.index("rollout_path")]
        if named == found.path:
            yield from _compared(found, checked, mark, row)
        elif not self._is_rollout_of(named, checked.state.thread_id):
            self._elsewhere[found.path] = list(_compared(found, checked, mark, row))

    def _threads(self) -> Iterator[Finding]:
        """What only the whole shows: rows without a rollout, threads without a row, heads, duplicates."""
        self.threads = len(self._candidates)
        for thread_id, candidates in self._candidates.items():
            head = head_of(candidates)
            row = self._row(thread_id)
            if row is None:
                message = "the rollout is whole and the thread is in no list"
                yield finding(
                    "missing_row",
                    message,
                    mend=_missing_mend(self._transaction, head),
                    path=head.path,
                    thread_id=thread_id,
                )
            elif head.path in self._elsewhere:
                yield from self._elsewhere[head.path]
            elif row[COLUMNS.index("rollout_path")] != head.path:
                named = row[COLUMNS.index("rollout_path")]
                yield finding(
                    "wrong_path",
                    f"the row is filled from {named}, the thread's head is {head.path}",
                    mend=_REBUILD,
                    path=head.path,
                    thread_id=thread_id,
                    field="rollout_path",
                    file_value=head.path,
                    row_value=named,
                )
            yield from _duplicates(thread_id, candidates, head)
        yield from self._rows_without_rollout()

    def _rows_without_rollout(self) -> Iterator[Finding]:
        sql = "SELECT id, rollout_path, title, updated_at_ms, EXISTS (SELECT 1 FROM streams WHERE thread_id = id) FROM threads"
        for thread_id, path, title, updated_at_ms, known in self._transaction.rows(sql):
            if thread_id in self._candidates or self._is_under_refused(path):
                continue
            if known:
                message = f"the rollout of {_short(title)} is gone; only its row is left"
                yield finding("lost_truth", message, path=path, thread_id=thread_id, row_value=updated_at_ms)
            else:
                message = f"no rollout was ever followed for the row of {_short(title)}"
                yield finding("orphan_row", message, mend=_REBUILD, path=path, thread_id=thread_id)

    def _is_rollout_of(self, path: str, thread_id: str) -> bool:
        return self._transaction.row(_STREAM, {"path": path, "id": thread_id}) is not None and self._stands(path)

    def _stands(self, path: str) -> bool:
        try:
            return locate(self._home, path, self._files) is not None
        except OSError:
            return True  # its folder cannot be read, which the walk reports

    def _is_under_refused(self, path: str) -> bool:
        return any(path == refused.path or path.startswith(f"{refused.path}/") for refused in self._refused)

    def _row(self, thread_id: str) -> tuple[Any, ...] | None:
        return self._transaction.row(_ROW, {"id": thread_id})


def _compared(found: Found, checked: CheckedStream, mark: Watermark | None, row: Sequence[Any]) -> Iterator[Finding]:
    """A row's fields beside those of one rollout at its watermark."""
    thread_id = checked.state.thread_id
    if mark is None:
        message = "the thread has a row and its rollout has no watermark"
        yield finding("stale_watermark", message, mend=_BACKFILL, path=found.path, thread_id=thread_id, offset=0)
    for difference in differences(checked.at_mark or checked.row, row):
        yield finding(
            _OWN_CLASS.get(difference.field, "differing_field"),
            f"{difference.field} is {_short(difference.row_value)} in the row and"
            f" {_short(difference.file_value)} in the file",
            mend=_REBUILD,
            path=found.path,
            thread_id=thread_id,
            field=difference.field,
            file_value=difference.file_value,
            row_value=difference.row_value,
        )


def _line_findings(found: Found, thread_id: str, lines: Lines) -> Iterator[Finding]:
    where: dict[str, Any] = {"path": found.path, "thread_id": thread_id}
    for damage in lines.damage:
        yield _damage_finding(damage, where)
    for bad in lines.bad_payloads:
        yield finding(
            "set_aside", f"a {bad.look} record that no fold can use: {bad.reason}", offset=bad.offset, **where
        )
    for trouble in lines.numbers:
        message = f"number {trouble.ordinal} follows {trouble.before}"
        yield finding(
            trouble.class_, message, offset=trouble.offset, field="ordinal", file_value=trouble.ordinal, **where
        )
    if lines.number_troubles > len(lines.numbers):
        message = f"{lines.number_troubles} records in all have a number that does not follow the one before"
        yield finding("ordinal_gap", message, field="ordinal", **where)
    if lines.byte_order_mark:
        yield finding("byte_order_mark", "the file begins with a byte order mark; nothing is lost", offset=0, **where)


def _damage_finding(damage: Damage, where: dict[str, Any]) -> Finding:
    torn = not damage.terminated and damage.look in ("torn", "garbage", "not UTF-8")
    message = f"{damage.length} bytes are no record ({damage.look}): {damage.reason}"
    return finding("torn_tail" if torn else "damaged_span", message, offset=damage.offset, **where)


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


def _duplicates(thread_id: str, candidates: Sequence[Candidate], head: Candidate) -> Iterator[Finding]:
    for each in candidates:
        if each is not head and each.rollout_id == head.rollout_id:
            yield finding(
                "duplicate_id",
                f"{each.path} is the same rollout as {head.path}, which is the one that is listed",
                path=each.path,
                thread_id=thread_id,
                file_value=each.path,
                row_value=head.path,
            )


def _missing_mend(transaction: Transaction, head: Candidate) -> str:
    """A stream with a watermark is passed over by a back-fill, so only a rebuild brings its row back."""
    return _REBUILD if watermarks.load(transaction, [head.path]) else _BACKFILL


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _by_place(each: Finding) -> tuple[str, str, int, str]:
    return (each.path or "", each.thread_id or "", each.offset if each.offset is not None else -1, each.class_)


_KNOWN = f"SELECT {', '.join(STREAM_COLUMNS)} FROM streams WHERE path = :path"  # noqa: S608 - the names are ours
_ROW = f"SELECT {', '.join(COLUMNS)} FROM threads WHERE id = :id"  # noqa: S608 - the names are ours
_STREAM = "SELECT 1 FROM streams WHERE path = :path AND thread_id = :id"
