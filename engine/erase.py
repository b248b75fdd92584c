"""Taking threads out of a home, for good and with a receipt.

An erasure is announced in the journal before the first byte goes and noted as done after the last, and every step can be
done twice; one that was cut short is finished when the home is opened. The steps: rollouts to the trash or away, what the
folder of memories holds of the thread, its records in the journal and its names in `session_index.jsonl` filled over, its
log records blanked, what lies in quarantine removed, rows, facts and jobs removed and the databases written anew, so that no
free page keeps what was in them. A thread that others go on from is erased only together with them.

The locks of all of these threads are taken first; no fork begins or is half made while readers are looked for and the rollouts
go (`lineage_lock`). Files are removed, not overwritten: what the medium keeps of them is its
own affair.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from engine.errors import (
    EngineError,
    InvalidRequest,
    ThreadHasReaders,
)
from engine.events.redaction import FILLER, emptied
from engine.holdings import Holdings, RemovalParts, json_of, tells_of, translated
from engine.projections import thread_facts
from engine.projections.facts import SESSION_INDEX
from engine.projections.thread_facts import unfinished_erasures
from engine.receipts import FileReach, Reach, Receipt, StoreReceipt
from engine.stores import watermarks
from engine.stores.fill import fill_lines
from engine.stores.layout import Found
from engine.stores.locks import locked
from engine.stores.sqlite import Transaction
from engine.stores.trash import Trash

GRACE_S = 7 * 24 * 3600
"""How long erased rollouts wait in the trash unless another time is asked for."""

PURGED_AT_OPEN_MAX = 100
"""Trash folders that one start removes at most."""

_EMPTIED = "erased"
_EMPTIED_MARK = b'"payload":{"type":"erased","redacted":true,"filler":"'

_ASIDE = re.compile(r"\d+-\d+", re.ASCII)
"""Folders in quarantine that hold a database: derived, and of all threads."""

_INDEX_TRIES = 3


class _Named(Struct):
    """A line of the session index, as far as it matters here."""

    id: str


class Eraser:
    """Erases threads of one home."""

    def __init__(self, parts: RemovalParts) -> None:
        self._parts = parts
        self._holdings = Holdings(parts)

    def preview(self, thread_id: str, *, include_children: bool = False) -> Reach:
        """What `erase` would take; changes nothing. Raises `InvalidRequest`, `ThreadNotFound`."""
        self._holdings.catch_up()
        thread_ids = self._reached(self._holdings.known(thread_id), include_children=include_children)
        rollouts = [
            file for each in thread_ids for found in self._holdings.rollouts(each) for file in self._forms(found)
        ]
        state = f"{self._parts.home.state}/"
        with self._parts.database.read() as transaction:
            rows = _count_rows(transaction, thread_ids, self._paths(transaction, thread_ids))
            spawned = [each for (each,) in transaction.rows(_SPAWNED, {"ids": json_of(thread_ids)})]
        return Reach(
            thread_ids=thread_ids,
            rollouts=rollouts,
            journal_records=len(self._holdings.journal_lines(thread_ids)),
            session_index_lines=len(self._index_lines(thread_ids)),
            log_records=self._parts.logs.count(thread_ids),
            memories=[FileReach(*each) for each in self._parts.memories().held(thread_ids)],
            rows=rows,
            quarantine=[FileReach(path.removeprefix(state), size) for path, size in self._quarantined(thread_ids)],
            trash=[FileReach(path.removeprefix(state), size) for path, size in self._trashed(thread_ids)],
            readers=[] if include_children else self._holdings.readers(thread_ids),
            spawned=[each for each in spawned if each not in thread_ids],
        )

    def erase(self, thread_id: str, *, include_children: bool = False, grace_s: int | None = GRACE_S) -> Receipt:
        """Take a thread out of every store; with `grace_s` its rollouts wait in the trash for that long.

        Raises `ThreadNotFound`, `ThreadHasReaders` (unless `include_children`), `ThreadBusy`, `ReadOnlyHome`, `StoreBusy`,
        `StoreUnavailable` where all but the row in the database of jobs is gone, which cannot be opened.
        What was begun and failed on the way is finished when the home is opened again.
        """
        self._holdings.check_writable()
        if grace_s is not None and grace_s < 0:
            raise InvalidRequest(f"A grace time of {grace_s} seconds ends before it begins.", hint="Give 0 or more.")
        self._holdings.catch_up()
        thread_ids = self._reached(self._holdings.known(thread_id), include_children=include_children)
        due_ms = self._parts.clock.wall_ms() + grace_s * 1000 if grace_s else None
        with contextlib.ExitStack() as held:
            for each in sorted(thread_ids):
                held.enter_context(self._holdings.owned(each, "erase"))
            with self._holdings.lineage_held("erasure", shared=False):
                self._holdings.catch_up()
                self._refuse_readers(thread_ids)  # only now: a fork may have been made just before
                self._holdings.note(
                    [{"type": thread_facts.ERASE_BEGUN, "thread_id": each, "due_ms": due_ms} for each in thread_ids]
                )
                taken = self._take(thread_ids, due_ms)
            stores = [*taken, *self._forget(thread_ids)]
        return Receipt(thread_ids=thread_ids, due_at_ms=due_ms, stores=stores)

    def finish(self) -> None:
        """Finish what a crash left half done, and remove what is due; what is in use waits for the next time."""
        if self._parts.home.state is None:
            return
        with contextlib.suppress(EngineError, OSError):
            self.purge()
        self._parts.facts.catch_up()
        with self._parts.database.read() as transaction:
            erasures = unfinished_erasures(transaction)
            reappeared = [thread_id for (thread_id,) in transaction.rows(_REAPPEARED)]
        with contextlib.suppress(EngineError, OSError):
            for thread_id, due_ms in self._children_first(erasures):
                with contextlib.suppress(EngineError, OSError), self._holdings.owned(thread_id, "erase"):
                    self._go_on(thread_id, due_ms)
        with contextlib.suppress(EngineError, OSError):
            self._judge_reappeared(reappeared)

    def _children_first(self, erasures: Sequence[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
        """A thread has more readers than any of them has; where all rollouts are gone nobody's order counts."""
        if not any(self._holdings.rollouts(thread_id) for thread_id, _ in erasures):
            return list(erasures)
        with contextlib.suppress(EngineError, OSError):
            self._holdings.catch_up()
        return sorted(
            erasures, key=lambda each: len({reader.thread_id for reader in self._holdings.readers([each[0]])})
        )

    def _go_on(self, thread_id: str, due_ms: int | None) -> None:
        """Finish one erasure; a thread that is there yet, and was forked since, waits until its readers are gone."""
        with self._holdings.lineage_held("erasure", shared=False):
            if self._holdings.rollouts(thread_id):
                self._holdings.catch_up()
                self._refuse_readers([thread_id])
            self._take([thread_id], due_ms)
        self._forget([thread_id])

    def _judge_reappeared(self, thread_ids: Sequence[str]) -> None:
        """Erased threads that have rows: put back, which is noted; else folded just before they went, so the rows go."""
        back = [each for each in thread_ids if self._holdings.rollouts(each)]
        if back:
            self._holdings.note([{"type": thread_facts.RETURNED, "thread_id": each} for each in back])
        left = [each for each in thread_ids if each not in back]
        if left:
            self._forget_in_sides(left)
            self._remove_rows(left)
            self._parts.database.scrub()

    def purge(self) -> tuple[int, int]:
        """Remove what is due in the trash, at most `PURGED_AT_OPEN_MAX` folders; how many files and bytes."""
        now_ms = self._parts.clock.wall_ms()
        trash = self._trash()
        due = [folder for due_ms, _, folder in trash.entries() if due_ms <= now_ms]
        removed = [trash.drop(folder) for folder in due[:PURGED_AT_OPEN_MAX]]
        return sum(count for count, _ in removed), sum(size for _, size in removed)

    def _take(self, thread_ids: Sequence[str], due_ms: int | None) -> list[StoreReceipt]:
        """The rollouts, readers before what they read: nobody can go on from these threads then. Finds what is left to do."""
        with translated(self._parts.home.path):
            rollouts = [(each, found) for each in thread_ids for found in self._holdings.rollouts(each)]
            trash = self._trash()
            if due_ms is None:
                sizes = [trash.remove(found) for _, found in rollouts]
                dropped = [trash.drop(folder) for _, each, folder in trash.entries() if each in thread_ids]
            else:
                for each in thread_ids:
                    trash.keep_records(each, due_ms, self._holdings.journal_lines([each]))
                sizes = [trash.take(found, each, due_ms) for each, found in rollouts]
                dropped = []
        return [
            StoreReceipt("rollouts" if due_ms is None else "rollouts, to the trash", len(sizes), sum(sizes)),
            StoreReceipt("trash", sum(count for count, _ in dropped), sum(size for _, size in dropped)),
        ]

    def _forget(self, thread_ids: Sequence[str]) -> list[StoreReceipt]:
        """Every step behind the rollouts, in order. Each finds for itself what is left to do."""
        with translated(self._parts.home.path):
            memories = self._parts.memories().forget(thread_ids)
            journal = self._parts.journal.fill(lambda line: _journal_filled(line, thread_ids))
            index = self._fill_index(thread_ids)
            sides = self._forget_in_sides(thread_ids)
            logged = self._parts.logs.forget(thread_ids)
            quarantine = [size for path, size in self._quarantined(thread_ids) if self._remove_aside(path)]
            rows = self._remove_rows(thread_ids)
            self._parts.facts.rebuild()
        self._parts.database.scrub()
        # Last, since that database may be one that cannot be opened: all else is gone then, and this is tried at each open.
        jobs = self._parts.memories().forget_jobs(thread_ids)
        self._holdings.note([{"type": thread_facts.ERASED, "thread_id": each} for each in thread_ids])
        return [
            StoreReceipt("memories", *memories),
            StoreReceipt("journal", *journal),
            StoreReceipt(SESSION_INDEX, *index),
            StoreReceipt("logs", *logged),
            StoreReceipt("quarantine", len(quarantine), sum(quarantine)),
            *(StoreReceipt(f"state, {table}", count, 0) for table, count in rows.items()),
            *(StoreReceipt(name, count, 0) for name, count in sides.items()),
            StoreReceipt("jobs", jobs, 0),
        ]

    def _reached(self, thread_id: str, *, include_children: bool) -> list[str]:
        """The threads to be erased, the one that was asked for last."""
        readers = {reader.thread_id for reader in self._holdings.readers([thread_id])} if include_children else set()
        return [*sorted(readers), thread_id]

    def _refuse_readers(self, thread_ids: Sequence[str]) -> None:
        readers = sorted({reader.thread_id for reader in self._holdings.readers(thread_ids)})
        if readers:
            raise ThreadHasReaders(
                f"The thread {thread_ids[-1]} is read by {len(readers)} other(s): {', '.join(readers)}.",
                readers=readers,
                hint="Erase them as well with include_children (--include-children; again where they are new), or leave it.",
            )

    def _paths(self, transaction: Transaction, thread_ids: Sequence[str]) -> list[str]:
        rows = transaction.rows(_PATHS, {"ids": json_of(thread_ids)})
        failed = transaction.rows("SELECT path FROM failures")
        return sorted(
            {path for (path,) in rows}
            | {path for (path,) in failed if any(f"-{each}" in path.lower() for each in thread_ids)}
        )

    def _forms(self, found: Found) -> list[FileReach]:
        forms = [(found.path, False), (f"{found.path}.zst", True)]
        stats = [(path, self._parts.files.stat(self._parts.home.absolute(path), op="erase.stat")) for path, _ in forms]
        return [FileReach(path, stat.size) for path, stat in stats if stat is not None]

    def _trash(self) -> Trash:
        return Trash(self._parts.home, options=self._parts.options, files=self._parts.files)

    def _trashed(self, thread_ids: Sequence[str]) -> list[tuple[str, int]]:
        if self._parts.home.state is None:
            return []
        trash = self._trash()
        return [file for _, each, folder in trash.entries() if each in thread_ids for file in trash.contents(folder)]

    # What is filled over

    def _index_path(self) -> str | None:
        path = f"{self._parts.home.path}/{SESSION_INDEX}"
        return path if self._parts.files.stat(path, op="erase.index") is not None else None

    def _index_lines(self, thread_ids: Sequence[str]) -> list[bytes]:
        found: list[bytes] = []

        def note(line: bytes) -> None:
            if _names(line, thread_ids):
                found.append(line)

        if (path := self._index_path()) is not None:
            fill_lines(path, note, options=self._parts.options, files=self._parts.files)
        return found

    def _fill_index(self, thread_ids: Sequence[str]) -> tuple[int, int]:
        """Blank the names of these threads where they stand; how many lines, and their bytes.

        The Codex CLI appends to this file and may at any time: a line that is blanked in place loses nothing of that, where
        writing the file anew could. Where it has a lock for the file the lock is taken, since it may replace the file itself.
        """
        parts = self._parts
        count = size = 0
        for _ in range(_INDEX_TRIES):
            path = self._index_path()
            if path is None:
                break
            with contextlib.ExitStack() as held:
                lock = f"{path}.lock"
                if parts.files.stat(lock, op="erase.index") is not None:
                    held.enter_context(
                        locked(
                            lock, shared=False, options=parts.options, clock=parts.clock, files=parts.files, op="erase"
                        )
                    )
                before = parts.files.stat(path, op="erase.index")
                lines, taken = fill_lines(
                    path, lambda line: _blanked(line, thread_ids), options=parts.options, files=parts.files
                )
                after = parts.files.stat(path, op="erase.index")
            count, size = count + lines, size + taken
            if before is None or after is None or before.inode == after.inode:
                break
        return count, size

    # What lies in quarantine

    def _quarantined(self, thread_ids: Sequence[str]) -> list[tuple[str, int]]:
        """Tails of these threads' rollouts, tails of the journal that name them, and databases that were set aside."""
        files, folder = self._parts.files, f"{self._parts.home.state}/quarantine"
        if self._parts.home.state is None or files.kind(folder, op="erase.quarantine") != "folder":
            return []
        found: list[tuple[str, int]] = []
        for entry in sorted(files.scan(folder, op="erase.quarantine")):
            path = f"{folder}/{entry.name}"
            if entry.kind == "folder" and _ASIDE.fullmatch(entry.name):
                inside = files.scan(path, op="erase.quarantine")
                found += [(f"{path}/{each.name}", each.stat.size if each.stat else 0) for each in inside]
            elif entry.stat is not None and self._is_about(path, entry.name, thread_ids):
                found.append((path, entry.stat.size))
        return found

    def _is_about(self, path: str, name: str, thread_ids: Sequence[str]) -> bool:
        if any(f"-{each}" in name.lower() for each in thread_ids):
            return True
        if not name.startswith("journal-"):
            return False
        data = self._parts.files.read_all(path, bytes_max=self._parts.options.line_bytes_max, op="erase.quarantine")
        return any(each.encode() in (data or b"").lower() for each in thread_ids)

    def _remove_aside(self, path: str) -> bool:
        self._parts.files.remove(path, op="erase.quarantine")
        folder = path.rpartition("/")[0]
        if _ASIDE.fullmatch(folder.rpartition("/")[2]):
            with contextlib.suppress(OSError):  # it goes with the last of its files
                self._parts.files.remove_folder(folder, op="erase.quarantine")
        return True

    # Rows

    def _forget_in_sides(self, thread_ids: Sequence[str]) -> Mapping[str, int]:
        """Before the rows that know the threads' rollouts go, and before quarantine is looked through."""
        with self._parts.database.read() as transaction:
            paths = self._paths(transaction, thread_ids)
        return self._parts.sides.forget(paths, thread_ids)

    def _remove_rows(self, thread_ids: Sequence[str]) -> dict[str, int]:
        """Every row of these threads; how many, by table."""
        with self._parts.database.write() as transaction:
            paths = self._paths(transaction, thread_ids)
            counts = _count_rows(transaction, thread_ids, paths)
            for projection in self._parts.projections:
                projection.forget(transaction, paths)
            watermarks.drop(transaction, paths)
            named = {"ids": json_of(thread_ids), "paths": json_of(paths)}
            for table, where in _TABLES.items():
                transaction.run(f"DELETE FROM {table} WHERE {where}", named)  # noqa: S608 - the names are ours
        return counts


def _journal_filled(line: bytes, thread_ids: Iterable[str]) -> bytes | None:
    if tells_of(line, thread_ids):
        filled = emptied(line, _EMPTIED)
        return None if filled is None else filled.line
    half = line.find(_EMPTIED_MARK)  # filler that a crash cut short: the old half goes as well
    if half < 0:
        return None
    head = line[: half + len(_EMPTIED_MARK)]
    return head + FILLER * (len(line) - len(head) - 3) + b'"}}' if len(line) >= len(head) + 3 else None


def _names(line: bytes, thread_ids: Iterable[str]) -> bool:
    try:
        return msgspec.json.decode(line, type=_Named).id.lower() in thread_ids
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _blanked(line: bytes, thread_ids: Iterable[str]) -> bytes | None:
    """Blanks for a name of these threads, and for what a crash left half blank."""
    return b" " * len(line) if line[:1] == b" " or _names(line, thread_ids) else None


def _count_rows(transaction: Transaction, thread_ids: Sequence[str], paths: Sequence[str]) -> dict[str, int]:
    named = {"ids": json_of(thread_ids), "paths": json_of(paths)}
    counts = {}
    for table, where in _TABLES.items():
        row = transaction.row(f"SELECT count(*) FROM {table} WHERE {where}", named)  # noqa: S608 - the names are ours
        counts[table] = 0 if row is None else row[0]
    return counts


_TABLES = {
    "threads": "id IN (SELECT value FROM json_each(:ids))",
    "streams": "path IN (SELECT value FROM json_each(:paths))",
    "watermarks": "stream IN (SELECT value FROM json_each(:paths))",
    "set_aside": "stream IN (SELECT value FROM json_each(:paths))",
    "goals": "stream IN (SELECT value FROM json_each(:paths))",
    "divergences": "thread_id IN (SELECT value FROM json_each(:ids))",
    "failures": "path IN (SELECT value FROM json_each(:paths))",
}
"""Where rows of a thread are, and by what they are found. Facts follow the journal."""

_PATHS = "SELECT path FROM streams WHERE thread_id IN (SELECT value FROM json_each(:ids))"
_SPAWNED = """
    SELECT id FROM threads WHERE parent_thread_id IN (SELECT value FROM json_each(:ids))
    UNION SELECT thread_id FROM agents WHERE parent_thread_id IN (SELECT value FROM json_each(:ids)) ORDER BY 1
"""


_REAPPEARED = """
    SELECT thread_id FROM facts WHERE erased_at_ms IS NOT NULL AND erase_pending = 0
    AND EXISTS (SELECT 1 FROM streams WHERE streams.thread_id = facts.thread_id)
"""
