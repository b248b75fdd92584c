"""One pass over a home: every rollout by itself, then what only the whole shows.

With `only` a pass looks at some threads and paths again, which costs a look at each folder and these rollouts. Memory is
one rollout's block and a few words a thread.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from engine.audit.findings import BACKFILL, REPAIR, Finding, dismissal, finding, short
from engine.audit.parts import AuditParts, Looked
from engine.audit.streams import Looked as LookedAt
from engine.audit.streams import Streams
from engine.errors import LineageBroken
from engine.projections.backfill import Progress
from engine.projections.threads import COLUMNS, Candidate, head_of
from engine.stores import watermarks
from engine.stores.layout import Found, Refused, is_archived, locate, walk
from engine.stores.lineage import base_segment
from engine.stores.sqlite import Transaction

_PATH = COLUMNS.index("rollout_path")


class _Edge(NamedTuple):
    """A thread that names another."""

    path: str
    thread_id: str
    field: str
    target: str


class Sweep:
    """A pass under way."""

    def __init__(
        self, parts: AuditParts, *, deep: bool, rows: bool = True, only: AbstractSet[str] | None = None
    ) -> None:
        """`only` holds thread ids and logical paths; without `rows` the tables are left out of it."""
        self._parts = parts
        self._streams = Streams(parts, deep=deep, rows=rows)
        self._rows = rows
        self._only = only
        self._candidates: dict[str, list[Candidate]] = defaultdict(list)
        self._refused: list[Refused] = []
        self._elsewhere: dict[str, list[Finding]] = {}
        self._edges: list[_Edge] = []
        self._forks: list[tuple[Found, str]] = []
        self._rollouts: dict[str, Found] = {}
        self.looked = Looked(parts)
        self.unknown_kinds: Counter[str] = Counter()
        self.records = 0
        self.bytes = 0

    @property
    def threads(self) -> int:
        """How many threads have a rollout with a record."""
        return len(self._candidates)

    def run(self, progress: Callable[[Progress], None] | None = None) -> Iterator[Finding]:
        """All findings of this pass, in no order."""
        files_done = 0
        files_total = self._known_files()
        for found in walk(self._parts.home, self._parts.files):
            if isinstance(found, Refused):
                self._refused.append(found)
                yield finding("unreadable", f"{found.path}: {found.reason}", path=found.path)
                continue
            for each in found:
                if self._is_wanted(each):
                    yield from self._rollout(each)
                files_done += 1
                if progress is not None:
                    progress(Progress(files_done, max(files_done, files_total), self.bytes, self.bytes))
        yield from self._lineage()
        if self._rows:
            yield from self._threads()

    def _known_files(self) -> int:
        if not self._rows:
            return 0
        with self._parts.database.read() as transaction:
            (count,) = transaction.row("SELECT count(*) FROM streams") or (0,)
        return int(count)

    def _is_wanted(self, found: Found) -> bool:
        return self._only is None or found.path in self._only or found.name.thread_id in self._only

    def _rollout(self, found: Found) -> Iterator[Finding]:
        try:
            looked = self._streams.look(found)
        except FileNotFoundError:
            return  # it went while we walked: archived or compressed meanwhile
        except OSError as error:
            message = f"{found.path} cannot be read: {error.strerror}"
            yield finding("unreadable", message, path=found.path, thread_id=found.name.thread_id)
            return
        self.records += looked.lines.records
        self.unknown_kinds.update(looked.lines.unknown_kinds)
        self.bytes += looked.lines.bytes
        self._note(looked)
        yield from looked.findings

    def _note(self, looked: LookedAt) -> None:
        """Keep of a rollout what the whole is judged by."""
        state, found = looked.state, looked.found
        if looked.findings or looked.elsewhere:
            self.looked.note(found.path, found.stat)
        if looked.candidate is None:
            return
        self._candidates[state.thread_id].append(looked.candidate)
        if looked.elsewhere:
            self._elsewhere[found.path] = looked.elsewhere
        other = self._rollouts.get(looked.candidate.rollout_id)
        if other is None or is_archived(other.path):
            self._rollouts[looked.candidate.rollout_id] = found
        if state.base_rollout_id is not None:
            self._forks.append((found, state.thread_id))
        for field in ("parent_thread_id", "forked_from_id"):
            target = getattr(state, field)
            if target is not None:
                self._edges.append(_Edge(found.path, state.thread_id, field, target.lower()))

    # --- forks and parents -----------------------------------------------------------------------------------------

    def _lineage(self) -> Iterator[Finding]:
        """Forks whose base is not there, or not as long as it was."""
        for found, thread_id in self._forks:
            try:
                segment = base_segment(
                    self._parts.home, found, self._resolve, options=self._parts.options, files=self._parts.files
                )
            except LineageBroken as broken:
                yield finding("dangling_base", broken.message.rstrip("."), path=found.path, thread_id=thread_id)
            except OSError:
                continue  # unreadable, or gone meanwhile: told by itself
            else:
                if segment is not None and segment.found.path == found.path:
                    yield finding("dangling_base", "the rollout is its own base", path=found.path, thread_id=thread_id)

    def _resolve(self, rollout_id: str) -> Found | None:
        found = self._rollouts.get(rollout_id)
        if found is not None or not self._rows:
            return found
        with self._parts.database.read() as transaction:
            paths = [path for (path,) in transaction.rows(_ROLLOUT, {"id": rollout_id})]
        there = [locate(self._parts.home, path, self._parts.files) for path in paths]
        return next((each for each in there if each is not None), None)

    # --- threads and rows ------------------------------------------------------------------------------------------

    def _threads(self) -> Iterator[Finding]:
        """Rows without a rollout, threads without a row, heads, duplicates, parents, in one snapshot."""
        with self._parts.database.read() as transaction:
            for thread_id, candidates in self._candidates.items():
                yield from self._thread(transaction, thread_id, candidates)
            yield from self._rows_without_rollout(transaction)
            yield from self._orphans(transaction)
            yield from self._dangling(transaction)

    def _thread(self, transaction: Transaction, thread_id: str, candidates: Sequence[Candidate]) -> Iterator[Finding]:
        head = head_of(candidates)
        row = transaction.row(_NAMED, {"id": thread_id})
        if row is None:
            self._note_stat(head.path)
            message = "the rollout is whole and the thread is in no list"
            # A stream with a watermark is passed over by a back-fill, so only a repair brings its row back.
            mend = REPAIR if watermarks.load(transaction, [head.path]) else BACKFILL
            yield finding("missing_row", message, mend=mend, path=head.path, thread_id=thread_id)
        elif head.path in self._elsewhere:
            yield from self._elsewhere[head.path]
        elif row[0] != head.path:
            self._note_stat(head.path)
            yield finding(
                "wrong_path",
                f"the row is filled from {row[0]}, the thread's head is {head.path}",
                mend=REPAIR,
                path=head.path,
                thread_id=thread_id,
                field="rollout_path",
                file_value=head.path,
                row_value=row[0],
            )
        yield from self._duplicates(thread_id, candidates, head, is_moving=self._is_moving(transaction, thread_id))

    def _is_moving(self, transaction: Transaction, thread_id: str) -> bool:
        """A move into the archive that is not finished leaves a file with both names, which is told by itself."""
        return transaction.row(_MOVING, {"id": thread_id}) is not None

    def _duplicates(
        self, thread_id: str, candidates: Sequence[Candidate], head: Candidate, *, is_moving: bool
    ) -> Iterator[Finding]:
        for each in candidates:
            if each is head or each.rollout_id != head.rollout_id or (is_moving and self._is_one(each.path, head.path)):
                continue
            self._note_stat(each.path)
            yield finding(
                "duplicate_id",
                f"{each.path} is the same rollout as {head.path}, which is the one that is listed",
                path=each.path,
                thread_id=thread_id,
                file_value=each.path,
                row_value=head.path,
            )

    def _is_one(self, one: str, other: str) -> bool:
        stats = [found.stat for path in (one, other) if (found := locate(self._parts.home, path, self._parts.files))]
        return len(stats) == 2 and stats[0][:2] == stats[1][:2]

    def _note_stat(self, path: str) -> None:
        with contextlib.suppress(OSError):
            found = locate(self._parts.home, path, self._parts.files)
            self.looked.note(path, None if found is None else found.stat)

    def _rows_without_rollout(self, transaction: Transaction) -> Iterator[Finding]:
        for thread_id, path, known, given_up, *shown in transaction.rows(_ROWS):
            if thread_id in self._candidates or not self._is_asked(thread_id, path) or self._is_under_refused(path):
                continue
            if not known:
                message = f"no rollout was ever followed for the row of {short(shown[0])}"
                yield finding("orphan_row", message, mend=REPAIR, path=path, thread_id=thread_id, field="threads")
            elif not given_up and all(self._is_gone(each) for (each,) in transaction.rows(_PATHS, {"id": thread_id})):
                value = dict(
                    zip(("title", "first_user_message", "updated_at_ms", "archived", "size"), shown, strict=True)
                )
                message = f"the rollout of {short(shown[0])} is gone; only its row is left"
                mend = dismissal(thread_id)
                yield finding("lost_truth", message, mend=mend, path=path, thread_id=thread_id, row_value=value)

    def _orphans(self, transaction: Transaction) -> Iterator[Finding]:
        """Rows of the other tables that nothing stands behind."""
        for table, path in transaction.rows(_ORPHANS):
            if self._is_asked(None, path) and self._is_gone(path) and not self._is_under_refused(path):
                message = f"a row of {table} is of a rollout that is not there and of no thread"
                yield finding("orphan_row", message, mend=REPAIR, path=path, field=table)

    def _dangling(self, transaction: Transaction) -> Iterator[Finding]:
        for each in self._edges:
            known = each.target in self._candidates or transaction.row(_NAMED, {"id": each.target}) is not None
            if not known:
                yield finding(
                    "dangling_edge",
                    f"{each.field} names {each.target}, which is no thread of this home",
                    path=each.path,
                    thread_id=each.thread_id,
                    field=each.field,
                    file_value=each.target,
                )

        for thread_id, parent, path in transaction.rows(_ATTACHED):
            if self._is_asked(thread_id, path):
                yield finding(
                    "dangling_edge",
                    f"it was attached to {parent}, which is no thread of this home",
                    path=path,
                    thread_id=thread_id,
                    field="agents.parent_thread_id",
                    file_value=parent,
                )

    def _is_asked(self, thread_id: str | None, path: str) -> bool:
        return self._only is None or path in self._only or thread_id in self._only

    def _is_gone(self, path: str) -> bool:
        try:
            return locate(self._parts.home, path, self._parts.files) is None
        except OSError:
            return False  # its folder cannot be read, which the walk reports

    def _is_under_refused(self, path: str) -> bool:
        return any(path == refused.path or path.startswith(f"{refused.path}/") for refused in self._refused)


_NAMED = "SELECT rollout_path FROM threads WHERE id = :id"
_MOVING = "SELECT 1 FROM facts WHERE thread_id = :id AND archive_pending = 1"

_ATTACHED = """
    SELECT agents.thread_id, agents.parent_thread_id, threads.rollout_path
    FROM agents JOIN threads ON threads.id = agents.thread_id
    WHERE agents.parent_thread_id IS NOT NULL AND agents.parent_thread_id NOT IN (SELECT id FROM threads)
"""

# A thread that is being erased loses its files before its row; where that was left half done it is told as that.
_ROWS = """
    SELECT id, rollout_path, EXISTS (SELECT 1 FROM streams WHERE thread_id = id),
        facts.dismissed_at_ms IS NOT NULL OR coalesce(facts.erase_pending, 0),
        title, first_user_message, updated_at_ms, threads.archived, watermarks.size
    FROM threads LEFT JOIN facts ON facts.thread_id = id
    LEFT JOIN watermarks ON stream = rollout_path AND projection = 'threads'
"""

_PATHS = "SELECT path FROM streams WHERE thread_id = :id"

_ORPHANS = """
    SELECT 'streams', path FROM streams WHERE NOT EXISTS (SELECT 1 FROM watermarks WHERE stream = path)
        AND NOT EXISTS (SELECT 1 FROM threads WHERE id = streams.thread_id)
    UNION ALL
    SELECT DISTINCT 'watermarks', stream FROM watermarks WHERE NOT EXISTS (SELECT 1 FROM streams WHERE path = stream)
    UNION ALL
    SELECT DISTINCT 'set_aside', stream FROM set_aside
    WHERE NOT EXISTS (SELECT 1 FROM watermarks WHERE watermarks.stream = set_aside.stream)
    UNION ALL
    SELECT 'goals', stream FROM goals WHERE NOT EXISTS (SELECT 1 FROM watermarks WHERE watermarks.stream = goals.stream)
"""

_ROLLOUT = """
    SELECT path FROM streams WHERE rollout_id = :id AND rollout_id <> thread_id
    UNION ALL SELECT path FROM streams WHERE thread_id = :id AND rollout_id = :id
"""
