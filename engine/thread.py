"""A thread in the hand of an application: append to it, write turns, decide things about it.

Open for writing means owning the thread's lock until `close`. What happened in the conversation goes into the rollout;
what is decided about the thread (its name, its memory mode) goes into the journal. An append is acknowledged by the file;
the rows follow later. Safe to call from many threads; one turn at a time is the caller's to keep.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, get_args

import msgspec

from engine.clock import Clock
from engine.errors import EngineClosed, InvalidRequest
from engine.events import compose
from engine.events.interrupted import ends_of_open_turn
from engine.events.item import item_of
from engine.events.policy import is_persisted
from engine.events.record import Rejected, decode_as
from engine.options import Options
from engine.projections.flush import Flush
from engine.projections.history import History, StoredRecord
from engine.stores.alive import Alive
from engine.stores.boundary import typed
from engine.stores.files import Files
from engine.stores.layout import Home, locate
from engine.stores.recorder import Appended, Counters, Durability, Position, Recorder
from engine.stores.windows import Window
from engine.stores.writer_lock import WriterLock
from engine.turn import Turn

_USAGE = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens", "total_tokens")
_TOKEN_MARK = b'"token_count"'
_MARK_WITHIN = 200

SETTINGS = (
    "cwd model model_provider reasoning_effort approval_policy sandbox_policy permission_profile context_window".split()
)
"""What a turn runs under. `permission_profile` follows from `sandbox_policy` where it is not given."""


@dataclass(frozen=True, slots=True)
class WriterParts:
    """What writers share in one engine."""

    home: Home
    flush: Flush
    history: History
    alive: Alive
    counters: Counters
    options: Options
    clock: Clock
    files: Files


@dataclass(frozen=True, slots=True)
class Identity:
    """Which thread this is. `path` is logical."""

    id: str
    path: str
    history_mode: str


class Thread:
    """One thread, open for appending; made by `Threads.create` and `Threads.resume`."""

    def __init__(
        self,
        identity: Identity,
        recorder: Recorder,
        lock: WriterLock,
        settings: Mapping[str, Any],
        durability: Durability,
        parts: WriterParts,
        closed: Callable[[Thread], None],
        *,
        may_be_open: bool,
    ) -> None:
        """`may_be_open`: a crash may have left a turn of this engine's open, which the next turn ends."""
        self._identity = identity
        self._recorder = recorder
        self._lock = lock
        self._settings = dict(settings)
        self._durability: Durability = durability
        self._parts = parts
        self._usage: dict[str, int] | None = None
        self._mutex = threading.Lock()
        """Guards the settings and the usage."""
        self._closed = False
        self._closing = threading.RLock()
        """Held while it is closed, and by who needs it open for a moment."""
        self._tell_closed = closed
        self._may_be_open = may_be_open

    @property
    def id(self) -> str:
        """The thread's id."""
        return self._identity.id

    @property
    def path(self) -> str:
        """Its rollout's logical path; with the first append there is a file."""
        return self._identity.path

    @property
    def history_mode(self) -> str:
        """`paginated` or `legacy`; a thread keeps its mode."""
        return self._identity.history_mode

    @property
    def position(self) -> Position:
        """Where the thread ends now; to be given as `expected`."""
        return self._recorder.position

    @property
    def current_settings(self) -> Mapping[str, Any]:
        """What the next turn runs under."""
        return self._settings

    @property
    def context_window(self) -> int | None:
        """How many tokens the model can take, where the application said so."""
        window: int | None = self._settings.get("context_window")
        return window

    def append(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        key: str | None = None,
        expected: Position | None = None,
        durability: Durability | None = None,
    ) -> Appended:
        """Append raw items (`{"type", "payload"}`) as one batch; those that this history mode does not keep are left out.

        See `Recorder.append` for `key`, `expected` and the errors; `InvalidRequest` where an item is not one. Items that
        are left out do not count for the key.
        """
        if self._closed:
            self._check()
        if durability is not None:
            check_durability(durability)
        if key is not None and type(key) is not str:
            check_text("key", key)
        if type(items) is not list and not isinstance(items, Iterable):
            raise InvalidRequest(f"Items are no {type(items).__name__}.", hint="Give a list of items.")
        mode = self._identity.history_mode
        kept, kinds = [], set()
        for raw in items:
            item = item_of(raw)
            if is_persisted(item.kind, mode):
                kept.append(item)
                kinds.add(item.kind)
        if not self._recorder.end:
            kinds.add("session_meta")
        answer = self._recorder.append(kept, key=key, expected=expected, durability=durability)
        if answer.records:
            self._parts.flush.note(self._identity.path, kinds)
        return answer

    @typed
    def begin(self) -> None:
        """Make the rollout now, with nothing but its session_meta; nothing where it is there already."""
        self._check()
        if not self._recorder.end:
            self._recorder.begin()
            self._parts.flush.note(self._identity.path, {"session_meta"})

    @typed
    def read(
        self,
        start: Position | None = None,
        end: Position | None = None,
        *,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[StoredRecord]:
        """The thread's records, oldest first, what it was forked from before its own; see `Threads.read`."""
        self._check()
        found = locate(self._parts.home, self._identity.path, self._parts.files)
        window = Window(start, end, limit, reverse)
        return iter(()) if found is None else self._parts.history.read(found, window)

    def turn(self) -> Turn:
        """A new turn, to be used in a `with` block."""
        self._check()
        return Turn(self, self.new_id())

    def settings(self, **changes: Any) -> Appended:
        """Change what the next turns run under; each of `SETTINGS` may be given. Raises `InvalidRequest` for others."""
        self._check()
        with self._mutex:
            settings = changed_settings(self._settings, changes)
            answer = self.append([compose.thread_settings(self.id, settings)])
            self._settings = settings
            return answer

    def add_usage(self, usage: Mapping[str, int]) -> Appended:
        """Add what one request used to the thread's running total, and write both."""
        self._check()
        with self._mutex:
            total = self._usage if self._usage is not None else self._stored_usage()
            total = {name: total.get(name, 0) + usage.get(name, 0) for name in _USAGE}
            answer = self.append([compose.token_count(total, usage, context_window=self.context_window)])
            self._usage = total
            return answer

    def begin_turn(self, items: Sequence[Mapping[str, Any]]) -> Appended:
        """Write that a turn begins, behind the end of one that was left open."""
        if not self._may_be_open:
            return self.append(items)
        with self._mutex:
            answer = self.append([*self._ends_of_open_turn(), *items])
            self._may_be_open = False
            return answer

    def end_turn(self, items: Sequence[Mapping[str, Any]]) -> Appended:
        """Write how a turn ended; with durability `turn` this is where the sync is."""
        try:
            return self.append(items, durability="durable" if self._durability == "turn" else None)
        except BaseException:
            self._may_be_open = True
            raise

    @typed
    def sync(self) -> Position:
        """Return when everything acknowledged so far is on the medium."""
        self._check()
        return self._recorder.sync()

    @typed
    def close(self) -> None:
        """Sync, give the lock back; a second call does nothing. In a forked child it only lets go of the copy."""
        if self._closed or self._lock.forked:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
            try:
                self._recorder.close()
            finally:
                self._lock.release()
                self._parts.flush.note_closed(self._identity.path)
                self._tell_closed(self)

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[bool]:
        """Whether it is open; where it is, another thread of the process that closes it waits for the block to end."""
        with self._closing:
            yield not self._closed

    def new_id(self) -> str:
        """A new id for a turn or an item."""
        return self._parts.clock.new_id()

    def now_ms(self) -> int:
        """The wall time in Unix milliseconds."""
        return self._parts.clock.wall_ms()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        self._parts.alive.check()
        if self._closed:
            raise EngineClosed(f"The thread {self.id} is closed.", hint="Resume it to go on.")

    @typed
    def _ends_of_open_turn(self) -> list[compose.Raw]:
        """What ends a turn that a crash, or a disk that was full, left without its end."""
        if not self._may_be_open:  # another thread was here first
            return []
        self._recorder.sync()  # what a failed append may have left is cut off before the file is looked at
        found = locate(self._parts.home, self._identity.path, self._parts.files)
        if found is None:
            return []
        return ends_of_open_turn(self._parts.history.own_lines_backwards(found), self.history_mode, self.id)

    @typed
    def _stored_usage(self) -> dict[str, int]:
        """The running total in the newest token_count that has one. A fork goes on from its source's, as other writers do."""
        found = locate(self._parts.home, self._identity.path, self._parts.files)
        for line in _token_lines(self._parts.history.lines_backwards(found)) if found is not None else ():
            info = msgspec.json.decode(line)["payload"].get("info")
            if info and info.get("total_token_usage"):
                return {name: _count(info["total_token_usage"].get(name)) for name in _USAGE}
        return {}


def changed_settings(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with these changes, as they can be written. Raises `InvalidRequest`."""
    if unknown := sorted(set(changes) - set(SETTINGS)):
        raise InvalidRequest(f"There is no setting {unknown[0]!r}.", hint=f"The settings are {', '.join(SETTINGS)}.")
    changed = {**settings, **changes}
    if "sandbox_policy" in changes or "cwd" in changes:
        changed["permission_profile"] = changes.get("permission_profile")
    for name in ("model", "model_provider", "reasoning_effort"):
        check_text(name, changed[name])
    if not isinstance(changed["sandbox_policy"], Mapping):
        raise InvalidRequest("A sandbox_policy is an object.", hint='Give {"type": "read-only"} or another.')
    if not isinstance(changed["cwd"], str) or not changed["cwd"].startswith("/"):
        raise InvalidRequest(
            f"The cwd {changed['cwd']!r} is not an absolute path.", hint="Give the folder's full path."
        )
    return changed


def check_text(name: str, value: object) -> None:
    """Raises `InvalidRequest` for what is neither text nor None."""
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"The {name} {value!r} is no text.", hint=f"Give a {name} that is text, or none.")


def check_durability(durability: str) -> None:
    """Raises `InvalidRequest` for a word that is none of the three."""
    if durability not in get_args(Durability):
        words = ", ".join(get_args(Durability))
        raise InvalidRequest(f"There is no durability {durability!r}.", hint=f"Use one of {words}.")


def _token_lines(lines: Iterator[bytes]) -> Iterator[bytes]:
    for line in lines:
        if _TOKEN_MARK in line[:_MARK_WITHIN]:
            try:
                decode_as(line, "event_msg.token_count")
            except Rejected:
                continue
            yield line


def _count(value: object) -> int:
    """A number of tokens, as far as another program wrote one."""
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0
