"""The writer of one stream: append lines, know where they are, say how safe they are.

The caller's own thread writes: one write call for a batch, then a sync as the durability asks. Appends that wait for a
sync share one. What was acknowledged is never lost by what fails later: a failed write or sync poisons the recorder, and
the next append (or `close`) opens it again, which cuts off what was not acknowledged and writes again, in place, what was
acknowledged and not known to be synced. So writing goes on, in order, when the disk has room again. Whoever still
waited for the sync of a record that was cut off is told so. An append that failed may, where the process ends
before that, be there whole; a key makes it safe to append it again.

Ordinals come from the physical file. The file appears whole or not at all, with its first batch. Before each append the
path is looked at: a file that was removed, replaced or changed by somebody else is `TruthGone`, at once and until the
thread is opened anew. The caller holds the locks that make this the only writer (`writer_lock`).

Locks: `_sync_mutex` before `_mutex`. The descriptor is closed under both, so nobody syncs a number that means another
file by then.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from engine.clock import Clock
from engine.errors import (
    AppendFailed,
    EngineClosed,
    ForkedEngine,
    RolloutUnusable,
    StalePosition,
    TruthGone,
)
from engine.events.item import Item, line_of, lines_of
from engine.events.payloads import ORDINAL_MAX
from engine.events.record import BYTE_ORDER_MARK, Rejected, decode
from engine.options import Options
from engine.stores.files import Files
from engine.stores.keys import RECORDS_KEPT, Keyed, Keys, check_key, digest_of, keyed_of
from engine.stores.recovery import Decision, decide, examine
from engine.stores.rollouts import PlainSource, lines_backwards

Durability = Literal["buffered", "durable", "turn"]
"""buffered: in the kernel, survives the process; durable: synced before the answer; turn: synced at turn ends."""

UNSYNCED_BYTES_MAX = 8 * 1024 * 1024
"""With more acknowledged bytes than this waiting for a sync, an append begins with one. They are held in memory until
then, to be written again if it fails."""

_new_tuple = tuple.__new__
"""Makes a named tuple without its Python constructor: after a sync the caches are cold, and a call costs over 1 µs."""

_FOLDERS_ABOVE = 4
"""sessions/YYYY/MM/DD, and the home, may all be as new as the rollout."""


class Position(NamedTuple):
    """Where a stream stands: its last record's ordinal and the byte where the next begins.

    The ordinal is None in legacy streams, and where there is no record yet.
    """

    ordinal: int | None
    offset: int


class Appended(NamedTuple):
    """The answer to an append: where the stream ended with it, and how safe it is now (`buffered` or `durable`).

    `records` is how many were written: 0 where the same batch was there already.
    """

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
        self._beside = f"{os.path.dirname(path)}/.{os.path.basename(path)}.tmp"
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
        self.end = 0
        """Where the next line begins; 0 while there is no file."""
        self._reach = 0
        """How long a write of ours may have made the file; more is somebody else's."""
        self._acknowledged = 0
        self._synced = 0
        self._name_synced = True
        self._unsynced = bytearray()
        """The bytes from `_synced` to `_end`."""
        self._cuts: list[int] = []
        """Where each opening again cut the stream; an append from before it that reaches further is gone."""
        self._keys = Keys()
        self._poison: tuple[str, BaseException] | None = None
        self._gone: str | None = None
        self._closed = False
        if start is None:
            self._open()

    @property
    def position(self) -> Position:
        """Where the stream ends now."""
        self._check_process()
        with self._mutex:
            return self._position()

    def begin(self) -> None:
        """Make the file, with nothing but its session_meta, where it is not there yet; durable as appends are."""
        self._ready()
        with self._mutex:
            self._check()
            if self.end == 0:
                self._write([], 0, None)
            target, cuts = self.end, len(self._cuts)
            if self._durability != "durable":
                self._acknowledged = target
        if self._durability == "durable":
            self._sync_to(target, cuts)

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
        completed. `expected` must be the present position, else `StalePosition`; of a batch that is there already it was
        checked then, so the same call can be made again after a lost answer. Raises `AppendFailed` with the system's
        error (writing goes on when it is gone), `TruthGone`, `LineTooLong`, `InvalidRequest`, `EngineClosed`,
        `ForkedEngine`, and `RolloutUnusable` where the ordinals are used up.
        """
        synced = (durability or self._durability) == "durable"
        if self._poison is not None or len(self._unsynced) > UNSYNCED_BYTES_MAX or os.getpid() != self._pid:
            self._ready()
        first = 0
        with self._mutex:
            self._check()
            if key is not None:
                first = self._written(key, items)
            if expected is not None and expected != self._position() and not self._went_on(key, first, len(items)):
                raise self._stale(expected)
            if first < len(items):
                self._write(items, first, key)
            target, position, cuts = self.end, self._position(), len(self._cuts)
            if not synced:
                self._acknowledged = target
        if synced:
            self._sync_to(target, cuts)
        is_safe = synced or (self._synced >= target and self._name_synced)
        return _new_tuple(Appended, (position, "durable" if is_safe else "buffered", len(items) - first))

    def sync(self) -> Position:
        """Return when everything appended so far is on the medium; the position that is safe. Raises as `append` does."""
        self._ready()
        with self._mutex:
            self._check()
            target, position, cuts = self.end, self._position(), len(self._cuts)
        self._sync_to(target, cuts)
        return position

    def close(self) -> None:
        """Sync and let go of the file; a second call does nothing.

        After a failure the file is opened once more, as an append would. Raises `AppendFailed` where what was
        acknowledged cannot be synced.
        """
        if os.getpid() != self._pid:
            return
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            target, cuts = self.end, len(self._cuts)
        try:
            if self._gone is None:
                self._settle(target, cuts)
        finally:
            with self._sync_mutex, self._mutex:
                self._drop()

    def _settle(self, target: int, cuts: int) -> None:
        with contextlib.suppress(AppendFailed):
            self._sync_to(target, cuts)
            return
        self._mend(closing=True)

    # --- may we write? -------------------------------------------------------------------------------------------

    def _check_process(self) -> None:
        """Before any mutex: in a forked child it may be held by a thread that is not there."""
        if os.getpid() != self._pid:
            raise ForkedEngine(
                "This process is a fork of the one that opened the thread.",
                hint="Open the home again in this process.",
                path=self._path,
            )

    def _ready(self) -> None:
        """Mend what failed before, and keep what waits for a sync bounded: both before anything is written."""
        if os.getpid() != self._pid:
            self._check_process()
        if self._poison is not None:
            self._mend()
        if len(self._unsynced) > UNSYNCED_BYTES_MAX:
            self._sync_to(self._acknowledged, len(self._cuts))

    def _check(self) -> None:
        """The stream may be written: it is open, and the file at the path is ours, with nothing of anybody else's in it."""
        if self._closed:
            raise EngineClosed("The thread is closed.", hint="Resume it to go on.", path=self._path)
        if self._gone is not None:
            raise self._lost(self._gone)
        if self._poison is not None:
            raise self._failed()
        if self._fd is None:
            return
        try:
            found = self._files.stat(self._path, op="recorder.look")
        except OSError as error:
            raise _failed("looked at", self._path, error) from error
        if found is None:
            raise self._lost("was removed")
        if (found.device, found.inode) != self._identity:
            raise self._lost("was replaced")
        if found.size != self.end:
            raise self._lost(f"is {found.size} bytes long and should be {self.end}: somebody else wrote to it")

    def _stale(self, expected: Position) -> StalePosition:
        return StalePosition(
            f"The stream is at {self._position()}, not at {expected}.",
            hint="Read what was written meanwhile, then append again.",
            path=self._path,
        )

    def _written(self, key: str, items: Sequence[Item]) -> int:
        """How many of a keyed batch's items are there already."""
        check_key(key)
        return self._keys.written(key, items)

    def _lost(self, what: str) -> TruthGone:
        self._gone = what
        return TruthGone(
            f"The rollout {self._path} {what} while it was open here.",
            hint="Resume the thread to go on with what is there now.",
            path=self._path,
            offset=self.end,
        )

    def _went_on(self, key: str | None, first: int, count: int) -> bool:
        """Whether this batch itself is what moved the stream: it is there whole, or half and nothing behind it."""
        return key is not None and first > 0 and (first == count or self._keys.is_newest(key))

    def _position(self) -> Position:
        return _new_tuple(Position, (self._next - 1 if self._next and self.end else None, self.end))

    # --- write ---------------------------------------------------------------------------------------------------

    def _write(self, items: Sequence[Item], first: int, key: str | None) -> None:
        """The items from `first` on, behind a session_meta where the file is new."""
        if key is None and self.end and self._next is not None and self._next + len(items) - 1 <= ORDINAL_MAX:
            lines = lines_of(
                items,
                timestamp=self._clock.timestamp(),
                ordinal=self._next,
                line_bytes_max=self._options.line_bytes_max,
            )
        else:
            lines = self._lines(items, first, key)
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        self._reach = self.end + len(data)
        try:
            if self._fd is None:
                self._create(data)
            else:
                try:
                    written = self._files.write(self._fd, data, op="recorder.write")
                    if written < len(data):
                        self._write_whole(self._fd, data[written:])
                except OSError as error:
                    raise self._undone(self._fd, error) from error
            self.end = self._reach
            self._unsynced += data
            if self._next is not None:
                self._next += len(lines)
            if key is None:
                self._keys.records += len(lines)
            else:
                self._keys.note([Keyed(key, at, len(items), digest_of(items[at])) for at in range(first, len(items))])
        except AppendFailed:
            raise
        except BaseException as error:
            # Ctrl-C between a write and our account of it: what the file holds is found out by opening it again.
            self._poison = ("written", error)
            raise
        counters = self._counters
        counters.appends += 1
        counters.appended_records += len(items) - first
        counters.appended_bytes += len(data)

    def _lines(self, items: Sequence[Item], first: int, key: str | None) -> list[bytes]:
        is_new = self.end == 0 and self._start is not None
        if self._next is not None and self._next + len(items) - first + is_new - 1 > ORDINAL_MAX:
            raise RolloutUnusable(
                f"The rollout {self._path} has no ordinals left after {self._next - 1}.",
                hint="Fork the thread to go on elsewhere.",
                path=self._path,
            )
        timestamp, bytes_max = self._clock.timestamp(), self._options.line_bytes_max
        batch = [(items[place], key and f"{key}#{place}/{len(items)}") for place in range(first, len(items))]
        if is_new and self._start is not None:
            batch.insert(0, (self._start.meta(), None))
        return [
            line_of(
                item,
                timestamp=timestamp,
                ordinal=None if self._next is None else self._next + number,
                key=name,
                line_bytes_max=bytes_max,
            )
            for number, (item, name) in enumerate(batch)
        ]

    def _undone(self, fd: int, error: OSError) -> AppendFailed:
        """The whole batch, or none of it: what was taken before a failure is cut off again."""
        self._cut(fd, self.end)
        return self._poisoned("written", error)

    def _cut(self, fd: int, end: int) -> None:
        """Cut off what we wrote behind `end`, where nobody else wrote behind it; else, and where that fails, it waits."""
        with contextlib.suppress(OSError):
            if self._files.fstat(fd, op="recorder.look").size <= self._reach:
                self._files.truncate(fd, end, op="recorder.undo")

    def _write_whole(self, fd: int, data: bytes) -> None:
        written = self._files.write(fd, data, op="recorder.write")
        while written < len(data):
            written += self._files.write(fd, data[written:], op="recorder.write")

    def _create(self, data: bytes) -> None:
        """The file appears with its first batch in it: written beside, synced, then given its name.

        That the name is on the medium is part of the first sync.
        """
        fd: int | None = None
        try:
            self._files.ensure_folder(os.path.dirname(self._path), op="recorder.folder")
            self._files.remove(self._beside, op="recorder.create")
            fd = self._files.create(self._beside, op="recorder.create")
            self._write_whole(fd, data)
            self._files.sync(fd, op="recorder.sync")
            found = self._files.fstat(fd, op="recorder.stat")
            self._identity = (found.device, found.inode)
            self._files.link(self._beside, self._path, op="recorder.link")
        except OSError as error:
            with contextlib.suppress(OSError):
                self._files.remove(self._beside, op="recorder.create")
            if fd is not None:
                with contextlib.suppress(OSError):
                    self._files.close(fd, op="recorder.close")
            raise _failed("created", self._path, error) from error
        self._fd, self._name_synced = fd, False
        with contextlib.suppress(OSError):  # one that stays is removed when the thread is opened again
            self._files.remove(self._beside, op="recorder.create")

    # --- sync ----------------------------------------------------------------------------------------------------

    def _sync_to(self, target: int, cuts: int) -> None:
        """Sync unless somebody else's sync covered it: the one who comes first syncs for all who wait.

        `cuts` is how often the file had been opened again when `target` was written.
        """
        with (
            self._sync_mutex
        ):  # with it alone, descriptor and cuts stand still; what is written meanwhile waits for the next
            if len(self._cuts) > cuts and self._cuts[cuts] < target:
                raise _failed("synced", self._path, None)
            if self._poison is not None:
                raise self._failed()
            if self._synced >= target and self._name_synced:
                self._counters.syncs_shared += 1
                return
            fd, upto, name_synced = self._fd, self.end, self._name_synced
            assert fd is not None
            try:
                self._files.sync(fd, op="recorder.sync")
                if not name_synced:
                    self._sync_folders(os.path.dirname(self._path))
            except OSError as error:
                with self._mutex:
                    # At once, so that nobody reads it, or forks from what the next append would cut off.
                    if self._acknowledged:
                        self._cut(fd, self._acknowledged)
                    raise self._poisoned("synced", error) from error
            with self._mutex:
                del self._unsynced[: upto - self._synced]
                self._synced = upto
                self._acknowledged = max(self._acknowledged, upto)
                self._name_synced = True
                self._counters.syncs += 1

    def _sync_folders(self, folder: str) -> None:
        """The rollout's folder, and those above it that may be as new."""
        self._files.sync_folder(folder, op="recorder.sync_folder")
        for _ in range(_FOLDERS_ABOVE):
            folder = os.path.dirname(folder)
            with contextlib.suppress(PermissionError):  # a folder that we may not read is none that we made
                self._files.sync_folder(folder, op="recorder.sync_folder")

    # --- after a failure -----------------------------------------------------------------------------------------

    def _poisoned(self, what: str, error: OSError) -> AppendFailed:
        self._poison = (what, error)
        return _failed(what, self._path, error)

    def _failed(self) -> AppendFailed:
        assert self._poison is not None
        return _failed(self._poison[0], self._path, self._poison[1])

    def _mend(self, *, closing: bool = False) -> None:
        """Open again after a failure. Raises `AppendFailed` where that fails too, `TruthGone`."""
        with self._sync_mutex, self._mutex:
            if self._poison is None or (self._closed and not closing):
                return
            if self._gone is not None:
                raise self._lost(self._gone)
            try:
                cut = self._acknowledged
                if cut:
                    self._reopen(cut)
                else:
                    self._take_back()
            except OSError as error:
                raise self._poisoned("opened again", error) from error
            self._cuts.append(cut)
            self._poison = None
            self._counters.reopened += 1

    def _reopen(self, cut: int) -> None:
        """Cut off what was not acknowledged, write again what may not have reached the medium."""
        found = self._files.stat(self._path, op="recorder.look")
        if found is None or (found.device, found.inode) != self._identity:
            raise self._lost("was removed or replaced")
        if not cut <= found.size <= self._reach:
            raise self._lost(f"is {found.size} bytes long: somebody else wrote to it")
        kept = bytes(self._unsynced[: cut - self._synced])
        fd = self._files.open_update(self._path, op="recorder.reopen")
        try:
            self._files.truncate(fd, cut, op="recorder.undo")
            written = 0
            while written < len(kept):
                written += self._files.pwrite(fd, kept[written:], self._synced + written, op="recorder.rewrite")
            self._files.sync(fd, op="recorder.sync")
        finally:
            self._files.close(fd, op="recorder.close")
        self._drop()
        self._open()

    def _take_back(self) -> None:
        """Nothing was acknowledged yet: the file that our first batch made goes, and may appear with the next."""
        assert self._start is not None
        found = self._files.stat(self._path, op="recorder.look")
        if found is not None and (found.device, found.inode) == self._identity:
            if found.size > self._reach:
                raise self._lost(f"is {found.size} bytes long: somebody else wrote to it")
            self._files.remove(self._path, op="recorder.undo")
        self._drop()
        self._identity, self._name_synced = None, True
        self._next, self._keys = self._start.ordinal, Keys()
        self._stands_at(0)

    # --- open ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Recover the tail by the decision table, and learn where the stream stands."""
        fd = self._files.open_append(self._path, op="recorder.open")
        try:
            numbered, size = self._recover(fd)
            source = PlainSource(fd, self._files.fstat(fd, op="recorder.stat"), self._files)
            self._learn(source, size, numbered=numbered)
            if self._start is None:
                self._files.remove(self._beside, op="recorder.create")
            self._sync_what_is_there(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.close(fd, op="recorder.close")
            raise
        self._fd, self._identity = fd, (source.stat.device, source.stat.inode)
        self._stands_at(size)

    def _recover(self, fd: int) -> tuple[bool, int]:
        """Mend the tail; whether the stream is numbered, and where it ends now."""
        source = PlainSource(fd, self._files.fstat(fd, op="recorder.stat"), self._files)
        size = source.stat.size
        seen = examine(source, owned=self._owned, options=self._options)
        match decision := decide(seen.facts):
            case Decision.REFUSE_FOREIGN | Decision.REFUSE_UNKNOWN:
                raise RolloutUnusable(
                    f"The rollout {self._path} cannot be appended to: {decision.value}.",
                    hint="Run `rolloutdb audit` to see what it holds; fork the thread to go on elsewhere.",
                    path=self._path,
                )
            case Decision.TRIM:
                self._set_aside(source, seen.tail_start)
                size = seen.tail_start
                self._files.truncate(fd, size, op="recorder.trim")
                self._files.sync(fd, op="recorder.sync")
            case Decision.CLOSE:
                self._write_whole(fd, b"\n")
                self._files.sync(fd, op="recorder.sync")
                size += 1
            case Decision.KEEP:
                pass
        return seen.numbered, size

    def _learn(self, source: PlainSource, end: int, *, numbered: bool) -> None:
        """The next ordinal, from the last record that can be read and has one, and the keys of the last records."""
        found: list[Keyed | None] = []
        last: int | None = None
        for offset, line, _ in lines_backwards(source, end, self._options):
            try:
                record = decode(line.removeprefix(BYTE_ORDER_MARK) if offset == 0 else line)
            except Rejected:
                continue
            last = record.ordinal if last is None else last
            if len(found) < RECORDS_KEPT:
                found.append(keyed_of(line))
            elif last is not None or not numbered:
                break
        self._keys = Keys()
        self._keys.note(found[::-1])
        self._next = (0 if last is None else last + 1) if numbered else None

    def _sync_what_is_there(self, fd: int) -> None:
        """A process that was killed may have left bytes and a name that were never synced, which a key finds again."""
        self._files.sync(fd, op="recorder.sync")
        self._sync_folders(os.path.dirname(self._path))

    def _set_aside(self, source: PlainSource, start: int) -> None:
        """Keep what is trimmed, before it is."""
        self._files.ensure_folder(self._quarantine, op="recorder.quarantine")
        name = f"{self._quarantine}/{os.path.basename(self._path)}.{start}.{self._clock.wall_ms()}.tail"
        self._files.remove(f"{name}.tmp", op="recorder.quarantine")
        fd = self._files.create(f"{name}.tmp", op="recorder.quarantine")
        try:
            while data := source.read_at(start, self._options.block_bytes):
                self._write_whole(fd, data)
                start += len(data)
            self._files.sync(fd, op="recorder.quarantine")
        finally:
            self._files.close(fd, op="recorder.quarantine")
        self._files.rename(f"{name}.tmp", name, op="recorder.quarantine")
        self._files.sync_folder(self._quarantine, op="recorder.quarantine")
        self._files.sync_folder(os.path.dirname(self._quarantine), op="recorder.quarantine")

    def _stands_at(self, size: int) -> None:
        self.end = self._reach = self._acknowledged = self._synced = size
        self._unsynced.clear()

    def _drop(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._files.close(self._fd, op="recorder.close")
            self._fd = None


def _failed(what: str, path: str, error: BaseException | None) -> AppendFailed:
    reason = getattr(error, "strerror", None) or (str(error) or repr(error) if error is not None else "a sync failed")
    return AppendFailed(
        f"{path} could not be {what}: {reason}.",
        hint="Make room or mend the disk, then append again: nothing acknowledged is lost.",
        path=path,
    )
