"""Replacing what one record says by filler of the same length.

Every offset, ordinal and fork base holds, and so does the record's kind; what it said is gone from the rollout and, once
that is folded anew, from the rows. The redaction is announced in the journal with the line that is to stand there, so one
that a crash left half written is written again when the home is opened. The rollout is not copied and never missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from engine.errors import EngineError, InvalidRequest, NotRedactable, TruthGone
from engine.events.record import BYTE_ORDER_MARK, kind_of
from engine.events.redaction import Filled, redacted
from engine.holdings import Holdings, RemovalParts, translated
from engine.projections import thread_facts
from engine.projections.history import readable
from engine.projections.runner import Stale
from engine.projections.thread_facts import unfinished_redactions
from engine.projections.thread_list import get_thread
from engine.receipts import RedactedRecord
from engine.stores.compression import decompress
from engine.stores.fill import fill
from engine.stores.layout import Found, locate
from engine.stores.lineage import Segment
from engine.stores.rollouts import Damage, Located, records


class _Announced(Struct):
    """What a `redaction_begun` record says: the line at `offset` of these rollouts is to be head, filler and tail."""

    thread_id: str
    path: str
    offset: int
    head: str
    filler: int
    tail: str
    copies: list[str] = []

    @property
    def line(self) -> bytes:
        return Filled(self.head.encode(), self.filler, self.tail.encode()).line


class Redactor:
    """Redacts records of one home."""

    def __init__(self, parts: RemovalParts) -> None:
        self._parts = parts
        self._holdings = Holdings(parts)

    def redact(self, thread_id: str, *, ordinal: int | None = None, offset: int | None = None) -> list[RedactedRecord]:
        """Replace one record of a thread's own by filler, in each of its rollouts that holds that very line.

        It is named by its ordinal, or by its byte offset in the newest rollout. Raises `InvalidRequest`, `ThreadNotFound`,
        `NotRedactable`, `ThreadBusy`, `ReadOnlyHome`, `RolloutUnreadable`, `RolloutUnusable`.
        """
        self._holdings.check_writable()
        if (ordinal is None) == (offset is None):
            raise InvalidRequest("A record is named by its ordinal or by its offset.", hint="Give one of the two.")
        self._holdings.catch_up()
        thread_id = self._holdings.known(thread_id)
        with self._holdings.owned(thread_id, "redact"):
            self._finish_earlier(thread_id)
            for found in self._holdings.rollouts(thread_id):
                if found.compressed:
                    decompress(self._parts.home, found, options=self._parts.options, files=self._parts.files)
            head = self._head(thread_id)
            target, place = self._find(thread_id, head, ordinal, offset)
            line = self._line(target, place.offset, place.length)
            filled = self._filled(target, place, line)
            same = [
                found
                for found in self._holdings.rollouts(thread_id)
                if found.name.own_rollout_id == target.name.own_rollout_id
                and self._line(found, place.offset, place.length) == line
            ]
            start = place.offset + len(line) - len(line.removeprefix(BYTE_ORDER_MARK))
            self._redact(same, thread_id, start, filled)
        length, kind = place.length, kind_of(place.record)
        return [
            RedactedRecord(thread_id, found.path, place.offset, length, place.record.ordinal, kind) for found in same
        ]

    def finish(self) -> None:
        """Finish what a crash left half done; a thread that is in use waits for the next time."""
        for announced in self._unfinished():
            with contextlib.suppress(EngineError, OSError), self._holdings.owned(announced.thread_id, "redact"):
                self._finish(announced)

    def _finish_earlier(self, thread_id: str) -> None:
        """A thread has one announcement at a time: what was begun before, and left, is done before the next."""
        self._parts.facts.catch_up()
        for announced in self._unfinished():
            if announced.thread_id == thread_id:
                self._finish(announced)

    def _unfinished(self) -> Iterator[_Announced]:
        with self._parts.database.read() as transaction:
            redactions = unfinished_redactions(transaction)
        for _, text in redactions:
            with contextlib.suppress(msgspec.DecodeError):
                yield msgspec.json.decode(text, type=_Announced)

    def _head(self, thread_id: str) -> Found:
        with self._parts.database.read() as transaction:
            row = get_thread(transaction, thread_id)
        found = None if row is None else locate(self._parts.home, row.rollout_path, self._parts.files)
        if found is None:
            raise TruthGone(f"The rollout of {thread_id} is gone.", hint="Restore it, or dismiss the thread.")
        return found

    def _find(self, thread_id: str, head: Found, ordinal: int | None, offset: int | None) -> tuple[Found, Located]:
        """The record that was asked for, and the rollout that holds it."""
        matches: list[tuple[Found, Located]] = []
        for segment in self._holdings.segments(head) if offset is None else [Segment(head, None)]:
            for each in self._records(segment):
                if offset is not None and each.offset == offset:
                    if isinstance(each, Damage):
                        raise NotRedactable(
                            f"What stands at byte {offset} is no record: {each.reason}.",
                            hint="Run `rolloutdb audit --deep`.",
                        )
                    return segment.found, each
                if isinstance(each, Located) and ordinal is not None and each.record.ordinal == ordinal:
                    matches.append((segment.found, each))
        if len(matches) != 1:
            name = f"ordinal {ordinal}" if offset is None else f"offset {offset}"
            raise InvalidRequest(
                f"The thread {thread_id} has {'no' if not matches else 'more than one'} record with the {name}.",
                hint="Name it by the byte offset of its line in the newest rollout.",
            )
        found, located = matches[0]
        if not any(found.path == own.path for own in self._holdings.rollouts(thread_id)):
            owner = found.name.thread_id
            raise InvalidRequest(
                f"The record {ordinal} belongs to the thread {owner}, which this one goes on from.",
                hint=f"Redact it there, for all that go on from it: `rolloutdb threads redact {owner}`.",
            )
        return found, located

    def _records(self, segment: Segment) -> Iterator[Located | Damage]:
        with readable(segment.found), self._holdings.opened(segment.found) as source:
            yield from records(source, 0, segment.end, self._parts.options)

    def _line(self, found: Found, offset: int, length: int) -> bytes:
        with readable(found), self._holdings.opened(found) as source:
            return source.read_at(offset, length)

    def _filled(self, found: Found, place: Located, line: bytes) -> Filled:
        """The line that is to stand there."""
        if place.record.type == "session_meta":
            raise NotRedactable(
                "A session_meta is the thread's identity and cannot be redacted.",
                hint=f"Erase the thread: `rolloutdb threads erase {found.name.thread_id}`.",
                path=found.path,
                offset=place.offset,
            )
        filled = redacted(line.removeprefix(BYTE_ORDER_MARK))
        if filled is None:
            raise NotRedactable(
                f"The record at byte {place.offset} has no room for what a record needs.",
                hint="Report this line: it is a fault of rolloutdb.",
                path=found.path,
                offset=place.offset,
            )
        return filled

    def _redact(self, same: list[Found], thread_id: str, offset: int, filled: Filled) -> None:
        """It is done when the rows follow: till then the next start does it again."""
        since_ms = self._parts.clock.wall_ms()
        done = {"thread_id": thread_id, "path": same[0].path, "offset": offset}
        words = {"head": filled.head.decode(), "filler": filled.filler, "tail": filled.tail.decode()}
        copies = [found.path for found in same[1:]]
        self._holdings.note([{"type": thread_facts.REDACTION_BEGUN, **done, **words, "copies": copies}])
        for found in same:
            with translated(found.path):
                fill(self._parts.home.absolute(found.path), [(offset, filled.line)], files=self._parts.files)
            self._refold(found, since_ms)
        self._holdings.note([{"type": thread_facts.REDACTION_DONE, **done}])

    def _refold(self, changed: Found, since_ms: int) -> None:
        """Rows follow what the file says now; that it differs from what was followed is our own doing, and no divergence."""
        now = locate(self._parts.home, changed.path, self._parts.files)
        if now is not None:
            self._holdings.fold([Stale(now, known=True)], anew=True)
        with self._parts.database.write() as transaction:
            transaction.run(_OWN_DOING, {"path": changed.path, "since_ms": since_ms})
        self._parts.database.scrub()
        self._parts.sides.forget([changed.path])  # the next question folds what the file says now

    def _finish(self, announced: _Announced) -> None:
        """Write the announced line again, wherever its rollouts stand now, and fold. The caller owns the thread."""
        since_ms = self._parts.clock.wall_ms()
        for path in (announced.path, *announced.copies):
            found = self._now_at(announced.thread_id, path)
            if found is not None and found.stat.size >= announced.offset + len(announced.line):
                with translated(found.path):
                    where = self._parts.home.absolute(found.path)
                    fill(where, [(announced.offset, announced.line)], files=self._parts.files)
                self._refold(found, since_ms)
        done = {"thread_id": announced.thread_id, "path": announced.path, "offset": announced.offset}
        self._holdings.note([{"type": thread_facts.REDACTION_DONE, **done}])

    def _now_at(self, thread_id: str, path: str) -> Found | None:
        """The rollout that was announced by this path, in plain form; one that was moved since has its name still."""
        name = path.rpartition("/")[2]
        same = [each for each in self._holdings.rollouts(thread_id) if each.path.rpartition("/")[2] == name]
        found = next((each for each in same if each.path == path), same[0] if same else None)
        if found is None or not found.compressed:
            return found
        return decompress(self._parts.home, found, options=self._parts.options, files=self._parts.files)


_OWN_DOING = """
    DELETE FROM divergences WHERE class = 'rewritten' AND at_ms >= :since_ms AND stream = :path
"""
