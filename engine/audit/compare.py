"""Compare every row with every file, both ways, and write nothing.

Each rollout is folded anew without the database and held against what the tables said of it just before, field for field at
its watermark; then the whole is looked at: threads without rows, rows without files, what was decided, what a crash left,
the databases themselves. A rollout that cannot be read is a finding and stops nothing.

A busy home gives no false alarm. What lies beyond a watermark is lag, and lag that a live writer explains is told as such,
not as a fault. What moved while it was looked at, and everything where another process has the tables open, is looked at
again: a fault is what stays the same for `busy_wait_ms`, longer than any change takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from engine.audit.decided import Decided
from engine.audit.findings import LAG, AuditReport, Checked, Finding, by_place, finding
from engine.audit.leftovers import Leftovers
from engine.audit.parts import AuditParts, Looked
from engine.audit.sides import side_findings
from engine.audit.store import damage_finding, damaged, empty
from engine.audit.sweep import Sweep
from engine.errors import StoreCorrupt
from engine.projections.backfill import Progress

_FOLLOWS = frozenset({"stale_watermark", "missing_row", "torn_tail"})
"""What a live writer of the thread explains: its rows follow, and its last line may be under way."""

_NO_FILE = frozenset({"lost_truth", "orphan_row"})
"""A file that moved between two folders can be missed by one walk, so these are looked at twice."""

_STAYS = frozenset({"damaged_database", "newer_projection"})


class Auditor:
    """Audits one home."""

    def __init__(self, parts: AuditParts) -> None:
        self._parts = parts

    def run(self, *, deep: bool = False, progress: Callable[[Progress], None] | None = None) -> AuditReport:
        """Check everything. Raises `StoreError` where the tables cannot be read for a reason other than damage."""
        store = list(damaged(self._parts))
        rows = not any(each.field == self._parts.database.name for each in store)
        look = _Look(self._parts, deep=deep, rows=rows)
        try:
            found = look.first(progress)
        except StoreCorrupt as error:  # damage that the check did not see: the files by themselves
            store.append(_corrupt(self._parts, error))
            look = _Look(self._parts, deep=deep, rows=False)
            found = look.first(progress)
        findings = [*store, *_Patience(self._parts, look).settled(found), *side_findings(self._parts)]
        sweep = look.sweep
        unknown = dict(sorted(sweep.unknown_kinds.items())) if deep else None
        checked = Checked(sweep.threads, sweep.records, sweep.bytes)
        return AuditReport(sorted(findings, key=by_place), checked, unknown)


class _Look:
    """Looks at all of a home once, and at some of it again."""

    def __init__(self, parts: AuditParts, *, deep: bool, rows: bool) -> None:
        self._parts = parts
        self._deep = deep
        self._rows = rows
        self.sweep = Sweep(parts, deep=deep, rows=rows)

    def first(self, progress: Callable[[Progress], None] | None) -> list[Finding]:
        return [*self.sweep.run(progress), *self._rest(self.sweep.looked)]

    def again(self, subjects: set[str]) -> list[Finding]:
        """The findings of these threads and paths, and of what is no thread's, as they are now."""
        sweep = Sweep(self._parts, deep=self._deep, rows=self._rows, only=subjects)
        found = [*sweep.run(), *self._rest(sweep.looked)]
        return [each for each in found if _subjects(each) & subjects or not _subjects(each)]

    def _rest(self, looked: Looked) -> Iterator[Finding]:
        decided = Decided(self._parts, looked, deep=self._deep)
        if self._rows and self._parts.home.state is not None:
            with contextlib.closing(empty(self._parts, self._parts.database.name)) as scratch:
                yield from self._told(decided.run(scratch))
            yield from self._told(decided.unfinished())
        yield from self._told(decided.journal())
        yield from self._told(Leftovers(self._parts, looked).run(rows=self._rows))

    def _told(self, found: Iterator[Finding]) -> Iterator[Finding]:
        """A folder of the engine's own that cannot be read is a finding, and ends what is looked for in it."""
        try:
            yield from found
        except OSError as error:
            path = self._parts.shown(str(error.filename or self._parts.home.state))
            yield finding("unreadable", f"{path} cannot be read: {error.strerror}", path=path)


class _Patience:
    """Tells faults from what is on its way."""

    def __init__(self, parts: AuditParts, look: _Look) -> None:
        self._parts = parts
        self._look = look

    def settled(self, found: Sequence[Finding]) -> list[Finding]:
        """The findings that stay, with lag told as lag."""
        parts = self._parts
        found = self._explained(found)
        busy = parts.others_at_work()
        certain = {_key(each): each for each in found if not self._is_doubtful(each, busy=busy)}
        doubtful = {_key(each): each for each in found if self._is_doubtful(each, busy=busy)}
        moving: dict[bytes, Finding] = {}
        deadline_s = parts.clock.elapsed_s() + parts.options.busy_wait_ms / 1000
        while doubtful:
            if busy:
                parts.clock.sleep(parts.options.flush_delay_ms / 1000)
            subjects = {subject for each in doubtful.values() for subject in _subjects(each)}
            now = {_key(each): each for each in self._explained(self._look.again(subjects))}
            doubtful = {key: each for key, each in doubtful.items() if key in now}
            moving |= {key: _moving(each) for key, each in now.items() if key not in doubtful and key not in certain}
            if not busy or parts.clock.elapsed_s() >= deadline_s:
                break
        return _once([*certain.values(), *doubtful.values(), *moving.values()])

    def _is_doubtful(self, each: Finding, *, busy: bool) -> bool:
        if each.class_ in _STAYS or each.class_ == LAG:
            return False
        return busy or each.class_ in _NO_FILE or self._look.sweep.looked.has_moved(each.path)

    def _explained(self, found: Iterable[Finding]) -> list[Finding]:
        """With lag for what a live writer of the thread explains, once a thread."""
        owners: dict[str, str | None] = {}
        result = []
        for each in found:
            thread_id = each.thread_id
            if each.class_ in _FOLLOWS and thread_id is not None:
                if thread_id not in owners:
                    owners[thread_id] = self._parts.live_owner(thread_id)
                if (owner := owners[thread_id]) is not None:
                    each = _lag(each, f"{each.message}; {owner} has the thread")  # noqa: PLW2901 - told as lag
            result.append(each)
        return result


def _lag(each: Finding, message: str) -> Finding:
    return finding(LAG, message, path=each.path, thread_id=each.thread_id, offset=each.offset)


def _moving(each: Finding) -> Finding:
    """What looks another way than before is being worked on."""
    return each if each.class_ == LAG else _lag(each, f"it is being changed (last seen: {each.class_})")


def _once(found: Iterable[Finding]) -> list[Finding]:
    """One lag a path and thread is enough."""
    result: list[Finding] = []
    told: set[tuple[str | None, str | None]] = set()
    for each in found:
        if each.class_ == LAG:
            place = (each.path, each.thread_id)
            if place in told:
                continue
            told.add(place)
        result.append(each)
    return result


def _subjects(each: Finding) -> set[str]:
    return {subject for subject in (each.thread_id, each.path) if subject is not None}


def _key(each: Finding) -> bytes:
    return msgspec.json.encode(each)


def _corrupt(parts: AuditParts, error: StoreCorrupt) -> Finding:
    return damage_finding(parts, parts.database.name, parts.database.path, [error.message])
