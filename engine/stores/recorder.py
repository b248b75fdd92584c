"""The writer of one stream: append lines, know where they are, say how safe they are.

The caller's own thread writes: one write call for a batch, then a sync as the durability asks. Appends that wait for a
sync share one. What was acknowledged is never lost by what fails later: a failed write or sync poisons the recorder, and
the next append opens it again, which cuts off what was not acknowledged and writes again, in place, what was acknowledged
and not known to be synced. So writing goes on, in order, when the disk has room again.

Ordinals come from the physical file. The file appears whole or not at all, with its first batch. Before each append the
path is looked at: a file that was removed, replaced or changed by somebody else is `TruthGone`, at once and until the
thread is opened anew. The caller holds the locks that make this the only writer (`writer_lock`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from engine.clock import Clock
from engine.errors import (
    AppendFailed,
    EngineClosed,
    EngineError,
    ForkedEngine,
    KeyConflict,
    RolloutUnusable,
    StalePosition,
    TruthGone,
)
from engine.events.item import Item, KeyedRecord, line_of
from engine.events.record import BYTE_ORDER_MARK, Rejected, decode
from engine.options import Options
from engine.stores.files import Files
from engine.stores.recovery import Decision, Facts, Meta, Tail, decide
from engine.stores.rollouts import Located, PlainSource, lines_backwards, records

Durability = Literal["buffered", "durable", "turn"]
"""buffered: in the kernel, survives the process; durable: synced before the answer; turn: synced at turn ends."""

KEYS_KEPT = 1000
"""How many of the last records an idempotency key is looked up in."""

UNSYNCED_BYTES_MAX = 8 * 1024 * 1024
"""Acknowledged bytes that may wait for a sync; they are held in memory until then, to be written again if one fails."""


class Position(NamedTuple):
    """Where a stream stands: its last record's ordinal (None in legacy streams) and the byte where the next begins."""

    ordinal: int | None
    offset: int


class Appended(NamedTuple):
    """The answer to an append. `records` is 0 where the same batch was there already; `durability` is what is true now."""

    position: Position
    durability: Durability
    records: int


@dataclass(slots=True)
class Counters:
    """What writers did, summed over an engine."""

    appends: int = 0
    appended_records: int = 0
    appended_bytes: int = 0
    syncs: int = 0
    syncs_shared: int = 0
    reopened: int = 0


class Start(NamedTuple):
    """How a new stream begins: its first item, made when the file is, and its first ordinal (None: legacy)."""

    meta: Callable[[], Item]
    ordinal: int | None


class _Keyed(NamedTuple):
    place: int
    places: int
    content: bytes


class Recorder:
    """Appends to one stream. Safe to call from many threads."""

    def __init__(
        self,
        path: str,
        *,
        start: Start | None,
        owned: bool,
        durability: Durability,
        quarantine: str,
        counters: Counters,
        options: Options,
        clock: Clock,
        files: Files,
    ) -> None:
        """Open `path`, or, with `start`, a file that appears with the first append.

        `quarantine` is where trimmed bytes go. Raises `RolloutUnusable`, OSError.
        """
        self._path = path
        self._start = start
        self._owned = owned
        self._durability: Durability = durability
        self._quarantine = quarantine
        self._counters = counters
        self._options = options
        self._clock = clock
        self._files = files
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._sync_mutex = threading.Lock()
        self._fd: int | None = None
        self._identity: tuple[int, int] | None = None
        self._next = start.ordinal if start is not None else None
        """The ordinal of the next line; None in a legacy stream."""
        self._end = 0
        self._acknowledged = 0
        self._synced = 0
        self._unsynced = bytearray()
        self._keys: dict[str, list[_Keyed]] = {}
        self._poison: EngineError | None = None
        self._gone: TruthGone | None = None
        self._closed = False
        if start is None:
            self._open()

    @property
    def position(self) -> Position:
        """Where the stream ends now."""
        with self._mutex:
            return self._position()

    @property
    def exists(self) -> bool:
        """Whether the file is there yet."""
        return self._fd is not None

    def append(
        self,
        items: Sequence[Item],
        *,
        key: str | None = None,
        expected: Position | None = None,
        durability: Durability | None = None,
    ) -> Appended:
        """Write a batch as consecutive lines, all or none. `durability` overrides the recorder's own for this batch.

        A `key` makes it idempotent: the same content again is no append, other content is `KeyConflict`, half a batch is
        completed. `expected` must be the present position, else `StalePosition`. Raises `AppendFailed` with the system's
        error (writing goes on when it is gone), `TruthGone`, `LineTooLong`, `EngineClosed`, `ForkedEngine`.
        """
        wanted = durability or self._durability
        with self._mutex:
            self._check()
            if expected is not None and expected != self._position():
                raise StalePosition(
                    f"The stream is at {self._position()}, not at {expected}.",
                    hint="Read what was written meanwhile, then append again.",
                    path=self._path,
                )
            todo = list(enumerate(items))
            if key is not None:
                todo = self._not_written_yet(key, items)
            if todo:
                self._write(self._lines(todo, key, len(items)), len(todo))
            target, position = self._end, self._position()
            if wanted != "durable":
                self._acknowledged = max(self._acknowledged, target)
        if wanted == "durable" or len(self._unsynced) > UNSYNCED_BYTES_MAX:
            self._sync_to(target)
        with self._mutex:
            self._acknowledged = max(self._acknowledged, target)
        return Appended(position, wanted, len(todo))

    def begin(self) -> None:
        """Make the file, with nothing but its session_meta, where it is not there yet; durable as appends are."""
        with self._mutex:
            self._check()
            if self._fd is None:
                self._write(self._lines([], None, 0), 0)
                self._acknowledged = self._end

    def sync(self) -> Position:
        """Return when everything acknowledged so far is on the medium; the position that is safe."""
        with self._mutex:
            self._check()
            target, position = self._end, self._position()
        self._sync_to(target)
        return position

    def close(self) -> None:
        """Sync and let go of the file; a second call does nothing. Raises `AppendFailed` where the sync fails."""
        if self._closed or os.getpid() != self._pid:
            return
        try:
            if self._fd is not None and self._poison is None and self._gone is None:
                self._sync_to(self._end)
        finally:
            with self._mutex:
                self._closed = True
                self._drop()

    def _check(self) -> None:
        """Whether this recorder may write at all, opening it again after a failure."""
        if os.getpid() != self._pid:
            raise ForkedEngine(
                "This process is a fork of the one that opened the thread.",
                hint="Open the home again in this process.",
                path=self._path,
            )
        if self._closed:
            raise EngineClosed("The thread is closed.", hint="Resume it to go on.", path=self._path)
        if self._gone is not None:
            raise self._gone
        if self._poison is not None:
            self._reopen()
        elif self._fd is not None:
            self._look()

    def _look(self) -> None:
        """The file at the path is still ours, and nobody else wrote to it."""
        found = self._files.stat(self._path, op="recorder.look")
        if found is None:
            raise self._lost("was removed")
        if (found.device, found.inode) != self._identity:
            raise self._lost("was replaced")
        if found.size != self._end:
            raise self._lost(f"is {found.size} bytes long and should be {self._end}: somebody else wrote to it")

    def _lost(self, what: str) -> TruthGone:
        self._gone = TruthGone(
            f"The rollout {self._path} {what} while it was open here.",
            hint="Resume the thread to go on with what is there now.",
            path=self._path,
            offset=self._end,
        )
        return self._gone

    def _position(self) -> Position:
        return Position(self._next - 1 if self._next else None, self._end)

    def _lines(self, todo: Sequence[tuple[int, Item]], key: str | None, count: int) -> list[bytes]:
        timestamp = self._clock.timestamp()
        first = self._next or 0
        lines: list[bytes] = []
        if self._fd is None and self._start is not None:
            lines.append(self._line(self._start.meta(), timestamp, first, None))
            first += 1
        for number, (index, item) in enumerate(todo):
            name = None if key is None else f"{key}#{index}/{count}"
            lines.append(self._line(item, timestamp, first + number, name))
        return lines

    def _line(self, item: Item, timestamp: str, ordinal: int, key: str | None) -> bytes:
        return line_of(
            item,
            timestamp=timestamp,
            ordinal=None if self._next is None else ordinal,
            key=key,
            line_bytes_max=self._options.line_bytes_max,
        )

    def _write(self, lines: Sequence[bytes], count: int) -> None:
        data = b"".join(lines)
        if self._fd is None:
            self._create(data)
        else:
            self._write_all(self._fd, data)
        self._end += len(data)
        self._unsynced += data
        if self._next is not None:
            self._next += len(lines)
        for line in lines:
            self._remember(line)
        self._counters.appends += 1
        self._counters.appended_records += count
        self._counters.appended_bytes += len(data)

    def _write_all(self, fd: int, data: bytes) -> None:
        """The whole batch, or none of it: what was taken before a failure is cut off again."""
        view = memoryview(data)
        try:
            while view:
                view = view[
                    self._files.write(fd, bytes(view) if len(view) < len(data) else data, op="recorder.write") :
                ]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._files.truncate(fd, self._end, op="recorder.undo")
            raise self._poisoned("written", error) from error

    def _create(self, data: bytes) -> None:
        """The file appears with its first batch in it: written beside, synced, given its name, the folder synced."""
        folder = os.path.dirname(self._path)
        beside = f"{folder}/.{os.path.basename(self._path)}.{self._pid}.tmp"
        safe = self._durability == "durable"
        try:
            self._files.ensure_folder(folder, op="recorder.folder")
            self._files.remove(beside, op="recorder.create")
            fd = self._files.create(beside, op="recorder.create")
        except OSError as error:
            raise _failed("created", self._path, error) from error
        try:
            self._write_whole(fd, data)
            if safe:
                self._files.sync(fd, op="recorder.sync")
            self._files.link(beside, self._path, op="recorder.link")
            self._files.remove(beside, op="recorder.create")
            if safe:
                self._sync_folders(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._files.remove(beside, op="recorder.create")
            self._files.close(fd, op="recorder.close")
            raise _failed("created", self._path, error) from error
        self._take(fd)
        if safe:
            self._synced = len(data)

    def _write_whole(self, fd: int, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += self._files.write(fd, data[written:], op="recorder.write")

    def _sync_folders(self, folder: str) -> None:
        """The day's folder, and those above it that may be as new."""
        for _ in range(4):
            self._files.sync_folder(folder, op="recorder.sync_folder")
            folder = os.path.dirname(folder)

    def _sync_to(self, target: int) -> None:
        """Sync unless somebody else's sync covered it: the one who comes first syncs for all who wait."""
        with self._sync_mutex:
            with self._mutex:
                if self._poison is not None:
                    raise self._poison
                if self._synced >= target:
                    self._counters.syncs_shared += 1
                    return
                fd, upto = self._fd, self._end
            if fd is None:
                return
            try:
                self._files.sync(fd, op="recorder.sync")
            except OSError as error:
                with self._mutex:
                    raise self._poisoned("synced", error) from error
            with self._mutex:
                del self._unsynced[: upto - self._synced]
                self._synced = upto
                self._counters.syncs += 1

    def _poisoned(self, what: str, error: OSError) -> EngineError:
        self._poison = _failed(what, self._path, error)
        return self._poison

    def _reopen(self) -> None:
        """After a failure: cut off what was not acknowledged, write again what may not have reached the medium."""
        kept = bytes(self._unsynced[: self._acknowledged - self._synced])
        try:
            found = self._files.stat(self._path, op="recorder.look")
            if found is None or (found.device, found.inode) != self._identity:
                raise self._lost("was removed or replaced")
            fd = self._files.open_update(self._path, op="recorder.reopen")
            try:
                self._files.truncate(fd, self._acknowledged, op="recorder.undo")
                written = 0
                while written < len(kept):
                    written += self._files.pwrite(fd, kept[written:], self._synced + written, op="recorder.rewrite")
                self._files.sync(fd, op="recorder.sync")
            finally:
                self._files.close(fd, op="recorder.close")
            self._drop()
            self._open()
        except OSError as error:
            raise self._poisoned("opened again", error) from error
        self._poison = None
        self._counters.reopened += 1

    def _open(self) -> None:
        """Recover the tail by the decision table, and learn where the stream stands."""
        fd = self._files.open_append(self._path, op="recorder.open")
        try:
            self._recover(fd)
        except BaseException:
            self._files.close(fd, op="recorder.close")
            raise

    def _recover(self, fd: int) -> None:
        source = PlainSource(fd, self._files.fstat(fd, op="recorder.stat"), self._files)
        size = source.stat.size
        meta, numbered = self._meta(source)
        tail_start, tail = self._tail(source, size)
        decision = decide(Facts(meta, tail, self._owned))
        match decision:
            case Decision.REFUSE_FOREIGN | Decision.REFUSE_UNKNOWN:
                raise RolloutUnusable(
                    f"The rollout {self._path} cannot be appended to: {decision.value}.",
                    hint="Run `rolloutdb audit` to see what it holds; fork the thread to go on elsewhere.",
                    path=self._path,
                )
            case Decision.TRIM:
                self._set_aside(source.read_at(tail_start, size - tail_start), tail_start)
                self._files.truncate(fd, tail_start, op="recorder.trim")
                self._files.sync(fd, op="recorder.sync")
                size = tail_start
            case Decision.CLOSE:
                self._write_whole(fd, b"\n")
                self._files.sync(fd, op="recorder.sync")
                size += 1
            case Decision.START | Decision.KEEP:
                pass
        self._take(fd)
        self._next = 0 if numbered else None
        self._end = self._acknowledged = self._synced = size
        self._unsynced.clear()
        self._learn(PlainSource(fd, self._files.fstat(fd, op="recorder.stat"), self._files))

    def _meta(self, source: PlainSource) -> tuple[Meta, bool]:
        """Whether there is a session_meta, and whether the stream is numbered: its first record tells."""
        for found in records(source, 0, None, self._options):
            if isinstance(found, Located):
                whole = found.record.type == "session_meta"
                return (Meta.WHOLE if whole else Meta.GONE), found.record.ordinal is not None
        return Meta.NEW, self._next is not None

    def _tail(self, source: PlainSource, size: int) -> tuple[int, Tail]:
        for offset, line, terminated in lines_backwards(source, size, self._options):
            if terminated:
                return size, Tail.NONE
            if not line.strip(b"\0"):
                return offset, Tail.NUL if line else Tail.NONE
            try:
                decode(line.removeprefix(BYTE_ORDER_MARK) if offset == 0 else line)
            except Rejected as rejected:
                return offset, Tail.TORN if rejected.look == "torn" else Tail.FOREIGN
            return offset, Tail.WHOLE
        return size, Tail.NONE

    def _learn(self, source: PlainSource) -> None:
        """The next ordinal, from the last record that can be read and has one, and the keys of the last records."""
        self._keys.clear()
        seen, last = 0, None
        for offset, line, _ in lines_backwards(source, self._end, self._options):
            try:
                record = decode(line.removeprefix(BYTE_ORDER_MARK) if offset == 0 else line)
            except Rejected:
                continue
            last = record.ordinal if last is None else last
            self._remember(line)
            seen += 1
            if seen >= KEYS_KEPT and (last is not None or self._next is None):
                break
        if self._next is not None:
            self._next = 0 if last is None else last + 1

    def _remember(self, line: bytes) -> None:
        if b'"key":"' not in line:
            return
        try:
            record = msgspec.json.decode(line, type=KeyedRecord)
        except msgspec.DecodeError:
            return
        key, _, place = (record.key or "").rpartition("#")
        index, _, count = place.partition("/")
        if key and index.isdigit() and count.isdigit():
            content = record.type.encode() + b"\0" + bytes(record.payload)
            self._keys.setdefault(key, []).append(_Keyed(int(index), int(count), content))
            while len(self._keys) > KEYS_KEPT:
                del self._keys[next(iter(self._keys))]

    def _not_written_yet(self, key: str, items: Sequence[Item]) -> list[tuple[int, Item]]:
        if "#" in key or not key:
            raise KeyConflict(
                f"{key!r} cannot be a key.", hint="Use text without # that is not empty.", path=self._path
            )
        there = {each.place: each for each in self._keys.get(key, [])}
        for each in there.values():
            item = items[each.place] if each.place < len(items) else None
            if each.places != len(items) or item is None or each.content != item.type.encode() + b"\0" + item.payload:
                raise KeyConflict(
                    f"The key {key!r} was used for other content.",
                    hint="Use a new key for a new batch.",
                    path=self._path,
                )
        return [(index, item) for index, item in enumerate(items) if index not in there]

    def _set_aside(self, data: bytes, offset: int) -> None:
        """Keep what is trimmed, before it is."""
        self._files.ensure_folder(self._quarantine, op="recorder.quarantine")
        name = f"{os.path.basename(self._path)}.{offset}.{self._clock.wall_ms()}.tail"
        fd = self._files.create(f"{self._quarantine}/{name}", op="recorder.quarantine")
        try:
            self._write_whole(fd, data)
            self._files.sync(fd, op="recorder.quarantine")
        finally:
            self._files.close(fd, op="recorder.quarantine")
        self._files.sync_folder(self._quarantine, op="recorder.quarantine")

    def _take(self, fd: int) -> None:
        found = self._files.fstat(fd, op="recorder.stat")
        self._fd, self._identity = fd, (found.device, found.inode)

    def _drop(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._files.close(self._fd, op="recorder.close")
            self._fd = None


def _failed(what: str, path: str, error: OSError) -> AppendFailed:
    return AppendFailed(
        f"{path} could not be {what}: {error.strerror}.",
        hint="Make room or mend the disk, then append again: nothing acknowledged is lost.",
        path=path,
    )
