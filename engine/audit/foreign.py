"""The Codex CLI's own databases beside its rollouts: what its lists lack, and why. Nothing is mended.

Its databases are read first, as one state each, then every rollout is folded by the engine's own fold and held against
them. Findings have classes of their own (`codex_…`, docs/AUDIT.md). No table of the engine's is needed and none is made,
so a home can be audited that was never indexed, and is left as it was found.

A rollout whose last record is some seconds old is in use: that its row, its turns or its edge are not there yet is lag,
and no finding. Where a database was written to meanwhile, a second look must find the same, or it was the writer's haste.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from engine.audit.findings import AuditReport, Checked, Finding, finding
from engine.audit.foreign_rows import (
    TOUCH_MS,
    RowCheck,
    explicit_title,
    fault_of,
    hidden_by,
    is_internal,
    is_legacy,
    stale_ms,
)
from engine.audit.foreign_streams import SeenGoal, is_older, last_goal, next_stop
from engine.audit.foreign_tables import TEXT_CHARS_MAX, Row, Tables, changed, load_tables
from engine.audit.lines import look
from engine.clock import Clock
from engine.events.upcast import spawn_of
from engine.options import Options
from engine.projections.backfill import Progress
from engine.projections.facts import SESSION_INDEX, index_names
from engine.projections.fold import Folder
from engine.projections.registry import THREADS
from engine.projections.threads import Candidate, ThreadState, head_of, stream_of
from engine.stores.files import Files
from engine.stores.layout import COMPRESSED, ROOTS, Found, Home, Refused, is_archived, is_id, parse_path, walk
from engine.stores.rollouts import Source, open_source

_TEXT_SHOWN_MAX = 80


class CodexReport(AuditReport, frozen=True):
    """An audit of that program's databases. `databases` are the names of those that were found."""

    databases: list[str] = msgspec.field(default_factory=list)


class CodexAuditor:
    """Audits the Codex CLI's databases in one home."""

    def __init__(self, home: Home, *, options: Options, clock: Clock, files: Files) -> None:
        self._home = home
        self._options = options
        self._clock = clock
        self._files = files

    def run(self, *, deep: bool = False, progress: Callable[[Progress], None] | None = None) -> CodexReport:
        """Compare everything; with `deep` SQLite checks every page of the databases, too.

        Where there is none of its databases nothing is compared. What cannot be read is a finding.
        """
        first = self.survey(deep=deep, progress=progress)
        findings = first.findings()
        if changed(first.tables, self._files) and any(each.severity != "info" for each in findings):
            again = {_what(each) for each in self.survey(deep=False).findings()}
            findings = [each for each in findings if _what(each) in again or each.class_ == "codex_damaged_database"]
        findings.sort(key=_by_place)
        checked = Checked(len(first.threads), first.records, first.bytes)
        return CodexReport(findings, checked, None, first.tables.databases)

    def survey(self, *, deep: bool = False, progress: Callable[[Progress], None] | None = None) -> Survey:
        """Read the databases, then every rollout."""
        tables = load_tables(self._home, deep=deep, clock=self._clock, files=self._files)
        names: dict[str, str] | None = None
        try:
            names = index_names(self._home, options=self._options, files=self._files)
        except OSError as error:
            message = f"{SESSION_INDEX} cannot be read: {error.strerror}"
            tables.problems.append(finding("codex_unreadable", message, path=SESSION_INDEX))
        found = Survey(self._home, tables, names, options=self._options, clock=self._clock, files=self._files)
        if tables.databases:
            found.walk(progress)
        return found


class Rollout(NamedTuple):
    """What is kept of a rollout until all are known; a few words, however much was said in it.

    `has_title` tells that its own first words are the title of the thread's row, so no name stands there.
    """

    found: Found
    candidate: Candidate
    thread_id: str
    source: str | None
    parent: str | None
    is_paginated: bool
    is_identified: bool
    has_preview: bool
    has_title: bool
    is_live: bool


class Place(NamedTuple):
    """A row's rollout_path: the logical path where it can be one of a home, and the home it is written for.

    `elsewhere` is the folder of that home where it is another one than this, else None.
    """

    path: str
    elsewhere: str | None


class Survey:
    """One look at everything. `threads` are those that the rollouts have, with all their rollouts."""

    def __init__(
        self, home: Home, tables: Tables, names: dict[str, str] | None, *, options: Options, clock: Clock, files: Files
    ) -> None:
        self.tables = tables
        self.threads: dict[str, list[Rollout]] = defaultdict(list)
        self.records = 0
        self.bytes = 0
        self._home = home
        self._names = names
        self._options = options
        self._files = files
        self._clock = clock
        self._read_at_ms = clock.wall_ms()
        self._folder = Folder([THREADS], options)
        self._check = RowCheck(tables, files)
        self._findings: list[Finding] = []
        self._fields: dict[str, list[Finding]] = {}
        self._goals: dict[str, SeenGoal] = {}
        self._rollouts: set[str] = set()
        self._refused: list[Refused] = []
        self._places: dict[str, str | None] = {}

    def walk(self, progress: Callable[[Progress], None] | None) -> None:
        """Look at every rollout."""
        done, total = 0, len(self.tables.threads or ())
        for found in walk(self._home, self._files):
            if isinstance(found, Refused):
                self._refused.append(found)
                continue
            for each in found:
                self._rollout(each)
                done += 1
                if progress is not None:
                    progress(Progress(done, max(done, total), self.bytes, self.bytes))

    def findings(self) -> list[Finding]:
        """All that differs."""
        found = [*self.tables.problems, *self._findings]
        if self.tables.threads is not None:
            found += [*self._home_findings(), *self._row_findings(), *self._missing_rows()]
        if self.tables.edges is not None:
            found += self._edge_findings(self.tables.edges)
        if self.tables.goals is not None:
            found += self._goal_findings()
        if self.tables.databases:
            found += self._projection_findings()
        return found

    def place_of(self, row: Row) -> Place:
        """Where a row says that its rollout is."""
        text = str(row["rollout_path"]).removesuffix(COMPRESSED)
        for root in ROOTS:
            before, middle, after = text.rpartition(f"/{root}/")
            if middle and (parse_path(after) is not None or not self._is_below(text)):
                return Place(f"{root}/{after}", None if self._is_home(before) else before)
        if self._is_below(text):
            return Place(text.removeprefix(f"{self._home.path}/"), None)
        return Place(text, None)

    def head(self, thread_id: str) -> Rollout:
        """The rollout that a thread is shown by."""
        rollouts = self.threads[thread_id]
        head = head_of([each.candidate for each in rollouts])
        return next(each for each in rollouts if each.candidate is head)

    def why_no_row(self, rollout: Rollout) -> str:
        """Why that program may have made no row of a rollout."""
        source = self._open(rollout.found)
        try:
            lines = look(source, self._options)
        finally:
            source.close()
        if any(damage.look == "not UTF-8" for damage in lines.damage):
            return "a line of it is not UTF-8, and that program then makes no row of the whole file"
        if self.tables.backfill is not None and self.tables.backfill != "complete":
            return f"its back-fill is {self.tables.backfill!r} and may not have come to it"
        return "it came after that program's back-fill; a list that scans the folders adds it when it comes to it"

    def _is_below(self, path: str) -> bool:
        return path.startswith(f"{self._home.path}/")

    def _is_home(self, folder: str) -> bool:
        if folder not in self._places:
            same = folder == self._home.path or (
                (there := self._files.identity(folder, op="foreign.home")) is not None
                and there == self._files.identity(self._home.path, op="foreign.home")
            )
            self._places[folder] = None if same else folder
        return self._places[folder] is None

    def _open(self, found: Found) -> Source:
        path = self._home.absolute(found.path, compressed=found.compressed)
        return open_source(path, compressed=found.compressed, files=self._files, options=self._options)

    def _rollout(self, found: Found) -> None:
        try:
            source = self._open(found)
        except FileNotFoundError:
            return  # it went while we walked
        except OSError as error:
            self._refused.append(Refused(found.path, str(error.strerror)))
            return
        try:
            self._look(found, source)
        except OSError as error:
            self._refused.append(Refused(found.path, str(error.strerror)))
        finally:
            source.close()

    def _look(self, found: Found, source: Source) -> None:
        (folded,) = self._folder.fold(stream_of(found.path), source, {}, compressed=found.compressed)
        state: ThreadState = THREADS.decode(folded.mark.state)
        self.records += state.records
        self.bytes += folded.mark.offset
        if state.records == 0:
            return
        rollout_id = found.name.own_rollout_id or state.thread_id
        candidate = Candidate(found.path, rollout_id, state.base_rollout_id, False)
        rollout = self._kept(found, candidate, state)
        self._rollouts.add(rollout_id)
        self.threads[state.thread_id].append(rollout)
        if self.tables.goals is not None:
            goal = last_goal(source, state.thread_id, self._options)
            before = self._goals.get(state.thread_id)
            if goal is not None and (before is None or goal.updated_at > before.updated_at):
                self._goals[state.thread_id] = goal
        if not rollout.is_live:
            if differing := list(self._compared(rollout, state)):
                self._fields[found.path] = differing
            self._findings += self._turns(rollout, source, folded.mark.offset, folded.mark.ordinal)

    def _kept(self, found: Found, candidate: Candidate, state: ThreadState) -> Rollout:
        row = self.tables.row(state.thread_id)
        title = None if state.title is None else state.title[:TEXT_CHARS_MAX].strip()
        return Rollout(
            found,
            candidate,
            state.thread_id,
            state.source,
            _parent_of(state),
            is_paginated=state.history_mode == "paginated",
            is_identified=state.identified,
            has_preview=state.preview is not None,
            has_title=row is not None and explicit_title(row) == title,
            is_live=self._is_live(state),
        )

    def _is_live(self, state: ThreadState) -> bool:
        last_ms = state.last_at_ms
        return last_ms is not None and self._read_at_ms - TOUCH_MS < last_ms <= self._clock.wall_ms() + TOUCH_MS

    def _compared(self, rollout: Rollout, state: ThreadState) -> Iterator[Finding]:
        """The fields of the row that was made of this rollout."""
        path = rollout.found.path
        row = self.tables.row(state.thread_id)
        if row is None or self.place_of(row).path != path:
            return
        goal = (self.tables.goals or {}).get(state.thread_id)
        differing = self._check.differences(row, stream_of(path), state, goal)
        behind_ms = stale_ms(row, state)
        if behind_ms > TOUCH_MS:
            fields = f"; it differs in {', '.join(each.field for each in differing)}" if differing else ""
            message = f"the rollout goes on {behind_ms // 1000} s beyond its row{fields}"
            yield finding(
                "codex_stale_row",
                message,
                path=path,
                thread_id=state.thread_id,
                field="updated_at_ms",
                file_value=state.last_at_ms,
                row_value=row["updated_at_ms"],
            )
            return
        for each in differing:
            yield finding(
                "codex_differing_field",
                f"{each.field} is {_short(each.row_value)} in its row and {_short(each.file_value)} in the file",
                path=path,
                thread_id=state.thread_id,
                field=each.field,
                file_value=each.file_value,
                row_value=each.row_value,
            )

    def _turns(self, rollout: Rollout, source: Source, end: int, last_ordinal: int | None) -> Iterator[Finding]:
        """How far its turns of this rollout came."""
        at = (self.tables.projections or {}).get(rollout.candidate.rollout_id)
        if at is None or not rollout.is_paginated:
            return
        where: dict[str, Any] = {"path": rollout.found.path, "thread_id": rollout.thread_id}
        stopped = next_stop(source, at, end, last_ordinal, self._options)
        if stopped is not None:
            yield finding(
                "codex_stopped_projection",
                f"its turns stopped at byte {at.offset}: {stopped.message}; what follows is not shown",
                offset=stopped.offset,
                field="next_rollout_ordinal",
                row_value=at.ordinal,
                **where,
            )
        elif at.offset < end:
            yield finding(
                "codex_projection_lag",
                f"the last {end - at.offset} bytes are not among its turns until the thread is resumed",
                offset=at.offset,
                field="next_rollout_byte_offset",
                file_value=end,
                row_value=at.offset,
                **where,
            )

    def _home_findings(self) -> Iterator[Finding]:
        """What concerns all rows."""
        if self.tables.backfill is not None and self.tables.backfill != "complete":
            message = (
                f"its back-fill is {self.tables.backfill!r}: it waits for that at each start, and rows may be missing"
            )
            yield finding("codex_unfinished_backfill", message, field="status", row_value=self.tables.backfill)
        if self.tables.bad_ids:
            message = f"{self.tables.bad_ids} rows have no id that is text"
            yield finding("codex_bad_row", message, field="id")
        moved: Counter[str] = Counter()
        for thread_id, row in self.tables.rows():
            place = self.place_of(row)
            if place.elsewhere is not None and thread_id in self.threads:
                moved[place.elsewhere] += 1
        for folder, count in sorted(moved.items()):
            message = (
                f"{count} rows of threads that are here name files in {folder}:"
                " lists that read the database alone look there, and miss them"
            )
            yield finding(
                "codex_moved_home", message, field="rollout_path", file_value=self._home.path, row_value=folder
            )

    def _row_findings(self) -> Iterator[Finding]:
        for thread_id, row in self.tables.rows():
            fault = "its id is not a UUID" if not is_id(thread_id) else fault_of(row, self.tables)
            if fault is not None:
                message = f"{fault}: that program fails every page of a list that this row is on"
                yield finding("codex_bad_row", message, thread_id=thread_id)
            if thread_id in self.threads:
                yield from self._present(thread_id, row)
            else:
                yield from self._absent(thread_id, row)

    def _present(self, thread_id: str, row: Row) -> Iterator[Finding]:
        """A row of a thread that is there."""
        place, head = self.place_of(row), self.head(thread_id)
        named = next((each for each in self.threads[thread_id] if each.found.path == place.path), None)
        if named is None or named.candidate.rollout_id != head.candidate.rollout_id:
            what = "is not there" if named is None else "is an older rollout of the thread"
            yield finding(
                "codex_wrong_path",
                f"its row names {place.path}, which {what}; the thread is in {head.found.path}",
                path=head.found.path,
                thread_id=thread_id,
                field="rollout_path",
                file_value=head.found.path,
                row_value=row["rollout_path"],
            )
        else:
            yield from self._fields.get(place.path, [])
        path = (named or head).found.path
        if bool(row["archived"]) != is_archived(path):
            yield finding(
                "codex_wrong_archive_state",
                f"its row says {'archived' if row['archived'] else 'active'}, and the file is in {path.split('/')[0]}",
                path=path,
                thread_id=thread_id,
                field="archived",
                file_value=int(is_archived(path)),
                row_value=row["archived"],
            )
        yield from self._name_findings(thread_id, row, path)
        if not is_internal(row["source"]):
            yield from (
                finding(
                    f"codex_hidden_by_{each.filter}",
                    each.message,
                    path=path,
                    thread_id=thread_id,
                    field="model_provider" if each.filter == "provider" else each.filter,
                    row_value=each.value,
                )
                for each in hidden_by(row, self.tables)
                if each.filter != "attached"  # shown with the thread that it is attached to
            )

    def _absent(self, thread_id: str, row: Row) -> Iterator[Finding]:
        """A row whose thread no rollout has."""
        place = self.place_of(row)
        if any(place.path == each.path or place.path.startswith(f"{each.path}/") for each in self._refused):
            return  # it is there and cannot be read or is a link, which the audit of the rollouts tells
        where: dict[str, Any] = {"path": place.path, "thread_id": thread_id, "row_value": row["rollout_path"]}
        if place.elsewhere is None and self._files.kind(self._home.absolute(place.path), op="foreign.kind") is not None:
            if parse_path(place.path) is None:
                what = "is no rollout's name: lists that scan the folders pass over it"
            elif any(each.found.path == place.path for rollouts in self.threads.values() for each in rollouts):
                what = "is the rollout of another thread"
            else:
                what = "holds no record"
            yield finding(
                "codex_wrong_path", f"its row names {place.path}, which {what}", field="rollout_path", **where
            )
            return
        there = f" (nor is this its home: {place.elsewhere} is)" if place.elsewhere else ""
        title = _short(row["title"] or row["preview"] or "")
        message = f"the rollout of {title} is gone; only its row is left{there}"
        yield finding("codex_lost_truth", message, **where)

    def _missing_rows(self) -> Iterator[Finding]:
        threads = self.tables.threads or {}
        for thread_id in sorted(self.threads.keys() - threads.keys()):
            head = self.head(thread_id)
            if head.is_live:
                continue
            try:
                why = self.why_no_row(head)
            except OSError:
                continue  # it went while we looked
            message = f"the rollout is there and the database has no row of it: {why}"
            yield finding("codex_missing_row", message, path=head.found.path, thread_id=thread_id)

    def _name_findings(self, thread_id: str, row: Row, path: str) -> Iterator[Finding]:
        """Its three places for a name: the column of paginated threads, the title of legacy ones, the names file."""
        if self._names is None:
            return
        named = self._names.get(thread_id)
        if is_legacy(row):
            field, in_row = "title", explicit_title(row)
            differs = in_row is not None and in_row != named and not self.head(thread_id).has_title
        else:
            field, in_row = "name", (row["name"] or "").strip() or None
            differs = in_row != (named or None) and "name" in self.tables.columns
        if differs:
            message = f"it is named {_short(named or None)} in session_index.jsonl and {_short(in_row)} in its row"
            where: dict[str, Any] = {"path": path, "thread_id": thread_id, "field": field}
            yield finding("codex_differing_name", message, file_value=named or None, row_value=in_row, **where)

    def _edge_findings(self, edges: list[Any]) -> Iterator[Finding]:
        """Who spawned whom: the child's own rollout says it first."""
        known = {child: parent for parent, child in edges}
        rows = self.tables.threads or {}
        for thread_id in sorted(self.threads.keys() & rows.keys()):
            head = self.head(thread_id)
            said = head.parent
            if said is not None and not head.is_live and known.get(thread_id) != said:
                there = known.get(thread_id)
                class_ = "codex_missing_edge" if there is None else "codex_differing_edge"
                message = f"its rollout says that {said} spawned it, its database says {there or 'nothing of it'}"
                where: dict[str, Any] = {"path": head.found.path, "thread_id": thread_id, "field": "parent_thread_id"}
                yield finding(class_, message, file_value=said, row_value=there, **where)
        for parent, child in edges:
            gone = [each for each in (child, parent) if each not in self.threads and each not in rows]
            if gone:
                message = f"it has an edge from {parent} to {child}, and {' and '.join(gone)} is no thread"
                yield finding("codex_dangling_edge", message, thread_id=child, row_value=parent)

    def _goal_findings(self) -> Iterator[Finding]:
        goals, rows = self.tables.goals or {}, self.tables.threads
        for thread_id, goal in sorted(goals.items()):
            where: dict[str, Any] = {"thread_id": thread_id, "row_value": goal.objective}
            seen = self._goals.get(thread_id)
            if thread_id not in self.threads and thread_id not in (rows or {}):
                yield finding("codex_dangling_goal", f"its goal {_short(goal.objective)} is of no thread", **where)
            elif thread_id in self.threads and seen is None:
                message = f"its goal {_short(goal.objective)} is in the database alone: no record tells of it"
                yield finding("codex_unrecorded_goal", message, path=self.head(thread_id).found.path, **where)
            elif seen is not None and is_older(goal, seen) and not self.head(thread_id).is_live:
                message = f"its goal is {_short(_words(goal))}, and the rollout says since then {_short(_words(seen))}"
                path = self.head(thread_id).found.path
                yield finding("codex_differing_goal", message, path=path, file_value=_words(seen), **where)
        for thread_id in sorted(self._goals.keys() - goals.keys()):
            head, seen = self.head(thread_id), self._goals[thread_id]
            if not head.is_live:
                message = (
                    f"the rollout tells of the goal {_short(seen.objective)}, its database has none: cleared, or lost"
                )
                where = {"thread_id": thread_id, "path": head.found.path, "file_value": seen.objective}
                yield finding("codex_missing_goal", message, **where)

    def _projection_findings(self) -> Iterator[Finding]:
        """Rollouts without turns, and turns without a rollout."""
        known = self.tables.projections
        unseen = [
            each for rollouts in self.threads.values() for each in rollouts if each.is_paginated and not each.is_live
        ]
        if known is None:
            if unseen and not any("thread_history" in str(each.path) for each in self.tables.problems):
                message = f"there are no turns of {len(unseen)} rollouts: that program shows none until each is resumed"
                yield finding("codex_missing_projection", message)
            return
        for each in unseen:
            if each.candidate.rollout_id not in known:
                message = "it has no turns of this rollout: that program shows none until the thread is resumed"
                where: dict[str, Any] = {"path": each.found.path, "thread_id": each.thread_id}
                yield finding("codex_missing_projection", message, **where)
        for rollout_id in sorted(known.keys() - self._rollouts):
            if rollout_id not in (self.tables.threads or {}) and not self._refused:
                message = f"it has turns of rollout {rollout_id}, which is not there"
                yield finding("codex_dangling_projection", message, thread_id=rollout_id)


def _parent_of(state: ThreadState) -> str | None:
    parent = spawn_of(Raw((state.source or "").encode())).parent_thread_id
    return parent.lower() if parent is not None and is_id(parent) else None


def _words(goal: Any) -> str:
    budget = f", budget {goal.token_budget}" if goal.token_budget is not None else ""
    return f"{goal.objective} ({goal.status}{budget})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _TEXT_SHOWN_MAX else f"{text[: _TEXT_SHOWN_MAX - 3]}..."


def _what(each: Finding) -> tuple[str, str | None, str | None, str | None]:
    return each.class_, each.thread_id, each.path, each.field


def _by_place(each: Finding) -> tuple[str, str, int, str, str]:
    return (each.path or "", each.thread_id or "", each.offset or -1, each.class_, each.field or "")
