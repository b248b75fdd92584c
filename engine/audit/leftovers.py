"""What a crash left behind: half-written files, two forms of one rollout, locks of the dead, failures that are over.

A file that a live owner of its thread is writing is no leftover. Nothing is told about files whose names are not ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from engine.audit.findings import BACKFILL, REPAIR, REPAIR_OFFLINE, Finding, finding
from engine.audit.parts import AuditParts, Looked
from engine.errors import RolloutUnusable
from engine.stores.compression import superfluous
from engine.stores.files import Entry
from engine.stores.layout import COMPRESSED, ROOTS, Found, locate, parse_name
from engine.stores.locks import is_running
from engine.stores.rollouts import open_source
from engine.stores.writer_lock import left_behind

_BESIDE = re.compile(r"\.(?P<rollout>rollout-.+\.jsonl(?:\.zst)?)\.(?:tmp|swap)", re.ASCII)
"""A rollout while it is written, brought in, compressed or brought back."""

_SMALL = re.compile(r".+\.(?P<pid>[1-9][0-9]{0,9})\.tmp", re.ASCII)
"""A small file while it is replaced, by whom."""

_THREAD = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII)
_OWN_FOLDERS = ("", "locks", "locks/threads", "quarantine", "trash", "work")
_DEEP = ("trash",)
_FOLDERS_DEEP_MAX = 16


class Leftover(NamedTuple):
    """A half-written file: where, and whose it is where its name tells."""

    path: str
    thread_id: str | None


class Leftovers:
    """Looks for what was left behind."""

    def __init__(self, parts: AuditParts, looked: Looked) -> None:
        self._parts = parts
        self._looked = looked

    def run(self, *, rows: bool) -> Iterator[Finding]:
        """All findings; without `rows` the tables are left out of it."""
        for leftover in self.files():
            if leftover.thread_id is None or self._parts.live_owner(leftover.thread_id) is None:
                yield self._half(leftover)
        yield from self._two_forms()
        for thread_id in left_behind(self._parts.home, self._parts.files):
            path = self._parts.shown(f"{self._parts.home.state}/locks/threads/{thread_id}.lock")
            message = "the lock's owner has ended; it keeps nobody out"
            yield finding("stale_lock", message, mend=REPAIR, path=path, thread_id=thread_id)
        if rows:
            yield from self._failures()

    def files(self) -> Iterator[Leftover]:
        """Every half-written file that nobody is at, by absolute path."""
        for folder, entry in self._entries():
            beside = _BESIDE.fullmatch(entry.name)
            name = None if beside is None else parse_name(beside["rollout"])
            if name is not None and entry.kind == "file":
                yield Leftover(f"{folder}/{entry.name}", name.thread_id)
        state = self._parts.home.state
        for above in () if state is None else _OWN_FOLDERS:
            yield from self._own(f"{state}/{above}".rstrip("/"), above in _DEEP, 0)

    def _own(self, folder: str, deep: bool, depth: int) -> Iterator[Leftover]:  # noqa: FBT001 - one caller, itself
        files = self._parts.files
        if files.kind(folder, op="audit.leftovers") != "folder":
            return
        for entry in files.scan(folder, op="audit.leftovers"):
            path = f"{folder}/{entry.name}"
            if entry.kind == "folder" and deep and depth < _FOLDERS_DEEP_MAX:
                yield from self._own(path, deep, depth + 1)
            elif entry.kind == "file" and entry.name.endswith(".tmp"):
                small = _SMALL.fullmatch(entry.name)
                if small is None or not is_running(int(small["pid"]), files):
                    thread = _THREAD.search(path.removeprefix(f"{self._parts.home.state}/"))
                    yield Leftover(path, None if thread is None else thread[0])

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        """Every name below the two folders of rollouts."""
        files = self._parts.files
        waiting = [(f"{self._parts.home.path}/{root}", 0) for root in ROOTS]
        while waiting:
            folder, depth = waiting.pop()
            try:
                entries = files.scan(folder, op="audit.leftovers")
            except OSError:
                continue  # the walk reports it
            for entry in entries:
                if entry.kind == "folder" and depth < _FOLDERS_DEEP_MAX:
                    waiting.append((f"{folder}/{entry.name}", depth + 1))
                yield folder, entry

    def _half(self, leftover: Leftover) -> Finding:
        path = self._parts.shown(leftover.path)
        message = "a half-written file; nothing in it was ever told to be safe"
        return finding("leftover_file", message, mend=REPAIR, path=path, thread_id=leftover.thread_id)

    def _two_forms(self) -> Iterator[Finding]:
        """Plain and compressed files of one rollout: a crash left both, or they differ."""
        names: dict[str, set[str]] = {}
        for folder, entry in self._entries():
            if entry.kind == "file" and parse_name(entry.name) is not None:
                names.setdefault(folder, set()).add(entry.name)
        for folder, there in names.items():
            for name in sorted(there):
                if f"{name}{COMPRESSED}" in there:
                    yield from self._both(f"{folder}/{name}".removeprefix(f"{self._parts.home.path}/"))

    def _both(self, path: str) -> Iterator[Finding]:
        parts = self._parts
        found = locate(parts.home, path, parts.files)
        if found is None or parts.live_owner(found.name.thread_id) is not None:
            return
        self._looked.note(path, found.stat)
        where = {"path": path, "thread_id": found.name.thread_id, "field": "compressed"}
        try:
            goes = superfluous(parts.home, found, options=parts.options, files=parts.files)
        except RolloutUnusable as unusable:
            yield finding("leftover_file", unusable.message.rstrip("."), **where)
            return
        if goes is not None:
            message = f"the rollout is there plain and compressed; the {goes} one is superfluous"
            yield finding("leftover_file", message, mend=self._settled_by(found), **where)

    def _settled_by(self, found: Found) -> str:
        try:
            return REPAIR if self._parts.is_ours(found) else REPAIR_OFFLINE
        except OSError:
            return REPAIR_OFFLINE

    def _failures(self) -> Iterator[Finding]:
        """Rollouts that are listed as unreadable and can be read, or are not there any more."""
        with self._parts.database.read() as transaction:
            failures = list(transaction.rows("SELECT path, reason FROM failures ORDER BY path"))
        for path, reason in failures:
            if self._reads(path):
                message = f"it is listed as unreadable ({reason}) and is not"
                yield finding("stale_failure", message, mend=BACKFILL, path=path)

    def _reads(self, path: str) -> bool:
        parts = self._parts
        try:
            found = locate(parts.home, path, parts.files)
            if found is None:
                return True
            source = open_source(
                parts.home.absolute(path, compressed=found.compressed),
                compressed=found.compressed,
                files=parts.files,
                options=parts.options,
            )
        except OSError:
            return False
        try:
            at = 0
            while data := source.read_at(at, parts.options.block_bytes):
                at += len(data)
        except OSError:
            return False
        else:
            return source.broken is None
        finally:
            source.close()
