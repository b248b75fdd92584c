"""Following a home: every record once, in each stream's order, whatever becomes of its file meanwhile.

A follower takes no lock and writes nothing. It knows rollouts by their ids, so one that is archived, brought back,
compressed, moved or renamed goes on where it was; one that it never met is given from its beginning. A record is given
once it is whole. What is wrong with one stream is told as a `Notice`, and keeps no other one up: damage is passed over
as all readers pass it over, and a file whose given part was rewritten goes on at the place that the notice names.

A follower is iterated by one thread; `close` may be called from any. Memory is a small entry a stream, and one block.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self

from engine.clock import Clock
from engine.errors import InvalidRequest, InvalidToken, StoreError
from engine.options import Options
from engine.projections.history import History, StoredRecord, stored_record
from engine.stores.alive import Alive
from engine.stores.boundary import public, typed
from engine.stores.files import Files
from engine.stores.finder import Finder, Tracked
from engine.stores.follow_token import Token, decode_token, encode_token
from engine.stores.followed import Proof, Rewritten
from engine.stores.journal import Journal
from engine.stores.layout import Found, Home, is_id
from engine.stores.recorder import Position
from engine.stores.rollouts import Damage, Located, Source, records
from engine.stores.watch import Watch

NOW = "now"
BEGINNING = "beginning"

_PROOF_AFTER_S = 1.0
"""How long after it was read all of a stream that grew is compared with what was given."""

What = Literal["damage", "rewritten", "gone", "unreadable"]


class Followed(NamedTuple):
    """A record that is new, and where its stream stands behind it.

    `rollout_id` is None for a decision of the journal; `thread_id` is None for one that is about no thread.
    """

    thread_id: str | None
    rollout_id: str | None
    position: Position
    record: StoredRecord


class Notice(NamedTuple):
    """Something that a follower has to tell that is no record.

    `damage`: bytes that are no record were passed over. `rewritten`: what was given before `position` is not what the file
    holds, so read it anew; following goes on there. `gone`: the file is not in the home any more. `unreadable`: it, or a
    folder (without ids), cannot be read now; it is tried again when it changes.
    """

    what: What
    thread_id: str | None
    rollout_id: str | None
    position: Position | None
    path: str
    reason: str


@public
class Follower:
    """An iterator of `Followed` and `Notice` that waits for the next one, until it is closed."""

    def __init__(
        self,
        home: Home,
        journal: Journal,
        history: History,
        alive: Alive,
        *,
        threads: Sequence[str] | None,
        start: str,
        decisions: bool,
        options: Options,
        clock: Clock,
        files: Files,
    ) -> None:
        """See `Engine.follow`."""
        token = _token(start, threads)
        ids = threads if token is None else token.threads
        self._threads = None if ids is None else frozenset(each.lower() for each in ids)
        self._decisions = decisions if token is None else token.decisions
        self._alive = alive
        self._options = options
        self._clock = clock
        self._elsewhere = _paths_by_rows(history, self._threads or ())
        """Rollouts of theirs; their names may tell another id."""
        self._stop = threading.Event()
        self._watch = Watch(self._stop, options=options, clock=clock)
        known = {} if token is None else token.streams()
        journal_followed = journal if self._decisions else None
        self._finder = Finder(home, journal_followed, self._wants, known, options=options, clock=clock, files=files)
        self._unproven: dict[bytes, float] = {}
        """Streams of which not all was compared since they grew, and when that is due."""
        self._proof: tuple[Tracked, Proof] | None = None
        self._warm: dict[bytes, None] = {}
        self._finder.begin(at_end=start == NOW)
        self._events = self._follow()

    @property
    def token(self) -> str:
        """Where it is, behind the last record that it gave: `start` of a follower that goes on there, at any time.

        To be asked for by the thread that iterates, or by any once it is closed. Some forty characters a rollout.
        """
        streams = {key: tracked.stream for key, tracked in self._finder.streams.items()}
        return encode_token(self._threads, streams, decisions=self._decisions)

    @typed
    def close(self) -> None:
        """End the iteration, also one that waits in another thread; a second call does nothing."""
        self._stop.set()
        with contextlib.suppress(ValueError):  # another thread is in it, and ends it
            self._events.close()

    def poll(self) -> Followed | Notice | None:
        """The next one, or None where none came for a moment. Raises `StopIteration` once it is closed, and as `next` does."""
        if self._stop.is_set():
            self.close()
            raise StopIteration
        return next(self._events)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Followed | Notice:
        """The next one, waited for. Raises `EngineClosed`, `ForkedEngine`."""
        while True:
            found = self.poll()
            if found is not None:
                return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wants(self, found: Found) -> bool:
        if self._threads is None:
            return True
        return found.name.thread_id in self._threads or found.path in self._elsewhere

    def _follow(self) -> Generator[Followed | Notice | None, None, None]:
        """What is new; None each time that nothing was."""
        folders: list[str] = []
        try:
            while not self._stop.is_set():
                yield from self._look_at_due()
                yield from self._troubles()
                yield None
                self._prove()
                if anew := folders != (folders := self._finder.folders):
                    self._watch.begin(folders)
                    yield from self._look_at_all()
                for path in self._watch.wait():
                    self._finder.touch(path)
                if anew:  # nothing tells of what came between the look and the wait
                    self._finder.expect_change()
                self._finder.look(self._watch.poll_s)
        finally:
            self._watch.end()

    def _look_at_all(self) -> Iterator[Followed | Notice]:
        self._finder.expect_change()
        self._finder.look(self._watch.poll_s)
        yield from self._look_at_due()

    def _look_at_due(self) -> Iterator[Followed | Notice]:
        due = self._finder.due
        while due and not self._stop.is_set():
            key = next(iter(due))
            del due[key]
            tracked = self._finder.streams.get(key)
            if tracked is not None:
                yield from self._look(tracked)
                self._note_look(tracked)

    def _look(self, tracked: Tracked) -> Iterator[Followed | Notice]:
        """What is new of one stream."""
        try:
            source = self._finder.open(tracked)
        except FileNotFoundError:
            self._finder.search(tracked)
            return
        except OSError as error:
            self._finder.leave(tracked)
            yield self._notice("unreadable", tracked, f"it cannot be opened: {error.strerror}")
            return
        try:
            if tracked.thread_id is None:
                tracked.thread_id = self._thread_of(tracked, source)
            for each in tracked.stream.look(source, self._options):
                told = self._told(tracked, each)
                if told is not None:
                    yield told
            if source.broken is not None:
                yield self._notice("unreadable", tracked, source.broken)
        except OSError as error:
            self._finder.leave(tracked)
            yield self._notice("unreadable", tracked, f"it cannot be read: {error.strerror}")
        finally:
            source.close()

    def _told(self, tracked: Tracked, found: Located | Damage | Rewritten) -> Followed | Notice | None:
        if isinstance(found, Rewritten):
            return self._notice("rewritten", tracked, "what was given of it is not what it holds now")
        if isinstance(found, Damage):
            return self._notice("damage", tracked, f"{found.length} bytes are no record ({found.look}): {found.reason}")
        record = stored_record(found)
        if record is None:
            return self._notice("damage", tracked, "a record is nested too deep to be read")
        if tracked.segment is None:
            return Followed(tracked.thread_id, tracked.rollout_id, record.position, record)
        thread_id = record.payload.get("thread_id")
        if self._threads is not None and thread_id not in self._threads:
            return None
        return Followed(thread_id if isinstance(thread_id, str) else None, None, record.position, record)

    def _notice(self, what: What, tracked: Tracked, reason: str) -> Notice:
        position = Position(tracked.stream.ordinal, tracked.stream.offset)
        return Notice(what, tracked.thread_id, tracked.rollout_id, position, tracked.path, reason)

    def _troubles(self) -> Iterator[Notice]:
        troubles = self._finder.troubles
        while troubles:
            path, reason, tracked = troubles.pop(0)
            if tracked is None:
                yield Notice("unreadable", None, None, None, path, reason)
            else:
                self._warm.pop(tracked.key, None)
                self._unproven.pop(tracked.key, None)
                yield self._notice("gone", tracked, reason)

    def _thread_of(self, tracked: Tracked, source: Source) -> str | None:
        """The thread that a rollout's first record tells; its name's where it tells none; None where there is no record yet."""
        if tracked.found is None:
            return None
        for each in records(source, 0, None, self._options):
            if isinstance(each, Located):
                record = stored_record(each) if each.record.type == "session_meta" else None
                told = None if record is None else record.payload.get("id")
                return told.lower() if isinstance(told, str) and is_id(told) else tracked.found.name.thread_id
        return None

    def _note_look(self, tracked: Tracked) -> None:
        """Only so many streams keep what it takes to carry their digest on; what only grew is compared later."""
        stream, key = tracked.stream, tracked.key
        if stream.offset == stream.base:
            return
        self._warm.pop(key, None)
        self._warm[key] = None
        if len(self._warm) > self._options.follow_streams_warm:
            oldest = next(iter(self._warm))
            del self._warm[oldest]
            cooled = self._finder.streams.get(oldest)
            if cooled is not None:
                cooled.stream.cool()
        if stream.proven_ns == 0:
            self._unproven.setdefault(key, self._clock.elapsed_s() + _PROOF_AFTER_S)

    def _prove(self) -> None:
        """Go on comparing what was given with what stands there: a piece of the stream that waited longest."""
        if self._proof is None:
            key = next(iter(self._unproven), None)
            if key is None or self._unproven[key] > self._clock.elapsed_s():
                return
            del self._unproven[key]
            tracked = self._finder.streams.get(key)
            if tracked is None or tracked.stream.seen is None:
                return
            self._proof = tracked, Proof(tracked.stream)
        tracked, proof = self._proof
        try:
            source = self._finder.open(tracked)
        except OSError:
            self._proof = None
            self._unproven[tracked.key] = self._clock.elapsed_s() + _PROOF_AFTER_S
            return
        try:
            holds = proof.step(source)
        finally:
            source.close()
        if holds is not None:
            self._proof = None
            self._judge(tracked, proof, holds=holds)

    def _judge(self, tracked: Tracked, proof: Proof, *, holds: bool) -> None:
        if not holds:
            tracked.stream.doubt()
            self._finder.note_change(tracked)  # the look compares it all, and tells
        elif proof.seen is not None and tracked.stream.seen == proof.seen:
            tracked.stream.proven_ns = proof.seen.mtime_ns
        else:
            self._unproven.setdefault(tracked.key, self._clock.elapsed_s() + _PROOF_AFTER_S)


def _token(start: str, threads: Sequence[str] | None) -> Token | None:
    """What `start` says, where it is a token. Raises `InvalidRequest`."""
    for each in threads or ():
        if not is_id(each):
            raise InvalidRequest(
                f"{each!r} is not a thread id.", hint="Thread ids are UUIDs; see `rolloutdb threads list`."
            )
    if start in (NOW, BEGINNING):
        return None
    token = decode_token(start)
    if threads is not None and (token.threads is None or {each.lower() for each in threads} != set(token.threads)):
        raise InvalidToken(
            "The token is of a follower of other threads.", hint="Name the same threads, or none: the token knows them."
        )
    return token


def _paths_by_rows(history: History, thread_ids: Iterable[str]) -> set[str]:
    """Where the rows, which may be behind, say that these threads' rollouts are."""
    with contextlib.suppress(StoreError):
        return {found.path for each in thread_ids for found in history.rollouts(each)}
    return set()
