"""Where the streams are that a follower follows, and which of them have to be looked at.

A rollout is known by its ids: whatever its path becomes, it is the same stream. Of copies of one the file that is
followed counts as long as it is there. What may have changed is found by being told of a path (`touch`) and by looking:
at what changed last, at the newest folders, at all of them. Each look waits for a multiple of what it cost, so that
looking takes a bounded share of the time in a home of any size. A stream that two whole looks did not meet is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from engine.clock import Clock
from engine.options import Options
from engine.stores.files import Files, FileStat
from engine.stores.followed import FollowedStream, end_of
from engine.stores.journal import Journal, Segment
from engine.stores.layout import (
    ARCHIVED_ROOT,
    COMPRESSED,
    ROOTS,
    Found,
    Home,
    Refused,
    RolloutName,
    day_folder,
    locate,
    parse_path,
    walk,
)
from engine.stores.rollouts import Source, open_source

BUSY_MAX = 256
"""How many streams are looked at each time because they changed last."""

_NEWEST_FOLDERS = 3
_WHOLE_LOOK_S = 1.0
_COST_FACTOR = 20
"""A look at folders takes at most the twentieth part of the time."""
_SOON_COST_FACTOR = 4
"""And the fifth where something is known to have happened."""

_MISSES_MAX = 2
_SOON_S = 0.2


class Tracked:
    """A stream and where it is: `found` of a rollout, `segment` of the journal, neither where it was not met yet."""

    __slots__ = ("found", "key", "look_number", "misses", "segment", "stream", "thread_id")

    def __init__(self, key: bytes, stream: FollowedStream) -> None:
        self.key = key
        self.stream = stream
        self.found: Found | None = None
        self.segment: str | None = None
        self.thread_id: str | None = None
        """Which thread its first record says that it is of; None until that was read."""
        self.look_number = 0
        self.misses = 0

    @property
    def path(self) -> str:
        """Its path, as it is shown."""
        return self.found.path if self.found is not None else self.segment or ""

    @property
    def rollout_id(self) -> str | None:
        """The id of a rollout; None for a segment of the journal."""
        if self.found is None:
            return None
        return self.found.name.own_rollout_id or self.found.name.thread_id


class Trouble(NamedTuple):
    """A stream that is gone, or a folder that cannot be read (`tracked` None)."""

    path: str
    reason: str
    tracked: Tracked | None = None


class Finder:
    """Finds the streams of one follower."""

    def __init__(
        self,
        home: Home,
        journal: Journal | None,
        wants: Callable[[Found], bool],
        streams: Mapping[bytes, FollowedStream],
        *,
        options: Options,
        clock: Clock,
        files: Files,
    ) -> None:
        """`streams` are known by a token; `journal` None is not followed."""
        self._home = home
        self._journal = journal
        self._wants = wants
        self._options = options
        self._clock = clock
        self._files = files
        self.streams = {key: Tracked(key, stream) for key, stream in streams.items()}
        self.due: dict[bytes, None] = {}
        """What has to be looked at, in order."""
        self.troubles: list[Trouble] = []
        """What was found on the way and was not told yet."""
        self._busy: dict[bytes, None] = {}
        self._refused: set[str] = set()
        self._refusals = 0
        """What the last look at folders could not read."""
        self._look_number = 0
        self._next_newest_s = self._next_whole_s = self._whole_not_before_s = 0.0

    @property
    def folders(self) -> list[str]:
        """The folders, as far as they are there, in which all that is followed stands."""
        wanted = [f"{self._home.path}/{root}" for root in ROOTS]
        if self._journal is not None and self._home.state is not None:
            wanted.append(f"{self._home.state}/journal")
        return [path for path in wanted if self._is_folder(path)]

    def begin(self, *, at_end: bool) -> None:
        """Meet all that is there, oldest first; `at_end` takes what it holds for old.

        It looks twice, since what is on its way from one folder to another may be missed once.
        """
        met = [found for _ in range(2) for folder in self._walk() for found in folder]
        for found in sorted(met, key=lambda each: each.name.named_at):
            self._meet(found, self._at_end if at_end else _at_beginning)
        self._look_at_journal(at_end=at_end)

    def open(self, tracked: Tracked) -> Source:
        """The stream's bytes. Raises OSError."""
        found = tracked.found
        path = tracked.path if found is None else self._home.absolute(found.path, compressed=found.compressed)
        compressed = found is not None and found.compressed
        return open_source(path, compressed=compressed, files=self._files, options=self._options)

    def touch(self, path: str) -> None:
        """Something became of this path.

        A rollout that is written beside its name is told under that other name for as long as its writer has it open.
        """
        folder, _, base = path.removeprefix(f"{self._home.path}/").rpartition("/")
        is_beside = base.startswith(".")
        file = base[1:].removesuffix(".tmp").removesuffix(".swap") if is_beside else base
        name = parse_path(file)
        if name is not None and folder.startswith(ROOTS):
            self._look_for(f"{folder}/{file.removesuffix(COMPRESSED)}", key_of(name))
        elif not is_beside:
            self._next_newest_s = 0.0  # a folder, most likely the one of a new day
            self._look_soon()

    def look(self, interval_s: float) -> None:
        """Look at what may have changed without a word; `interval_s` is how soon that is to be seen where it is cheap."""
        for key in list(self._busy):
            self.search(self.streams[key])
        self._look_at_journal()
        now_s = self._clock.elapsed_s()
        if now_s >= self._next_whole_s:
            self._look_at_all()
            self._next_whole_s = self._after(now_s, max(_WHOLE_LOOK_S, interval_s), _COST_FACTOR)
            self._whole_not_before_s = self._after(now_s, _SOON_S, _SOON_COST_FACTOR)
            if any(tracked.misses for tracked in self.streams.values()):
                self._look_soon()
        elif now_s >= self._next_newest_s:
            for folder in islice(self._walk(), _NEWEST_FOLDERS):
                self._meet_all(folder)
            self._next_newest_s = self._after(now_s, interval_s, _COST_FACTOR)

    def search(self, tracked: Tracked) -> None:
        """Look where a rollout is now: at its path, then where archiving and bringing back would put it."""
        if tracked.found is None:
            return
        name = tracked.found.path.rpartition("/")[2]
        folders = (ARCHIVED_ROOT, day_folder(tracked.found.name.named_at))
        for path in (tracked.found.path, *(f"{folder}/{name}" for folder in folders)):
            found = self._locate(path)
            if found is not None:
                self._place(tracked, found)
                return
        self._look_soon()

    def leave(self, tracked: Tracked) -> None:
        """It could not be read: until it changes it is not tried again."""
        if tracked.found is not None:
            tracked.stream.doubt()
            tracked.stream.seen = tracked.found.stat

    def expect_change(self) -> None:
        """What happened meanwhile was not told: look at all of it next."""
        self._next_whole_s = 0.0

    def note_change(self, tracked: Tracked) -> None:
        """It has to be looked at: now, and for some time whenever anything is."""
        self.due.setdefault(tracked.key)
        if tracked.found is not None:
            self._busy.pop(tracked.key, None)
            self._busy[tracked.key] = None
            if len(self._busy) > BUSY_MAX:
                del self._busy[next(iter(self._busy))]

    def _look_for(self, path: str, key: bytes) -> None:
        """A rollout of this path changed, came or went."""
        found = self._locate(path)
        tracked = self.streams.get(key)
        if found is not None:
            self._meet(found, _at_beginning)
        elif tracked is not None:
            self.search(tracked)

    def _look_soon(self) -> None:
        soon_s = max(self._clock.elapsed_s() + _SOON_S, self._whole_not_before_s)
        self._next_whole_s = min(self._next_whole_s, soon_s)

    def _after(self, begun_s: float, interval_s: float, factor: int) -> float:
        """When a look that began then may be done again."""
        now_s = self._clock.elapsed_s()
        return now_s + max(interval_s, (now_s - begun_s) * factor)

    def _look_at_all(self) -> None:
        """Meet every rollout there is; one that is missed again and again is gone."""
        self._look_number += 1
        for folder in self._walk():
            self._meet_all(folder)
        for tracked in list(self.streams.values()):
            if tracked.segment is not None or tracked.look_number == self._look_number:
                tracked.misses = 0
            elif not self._refusals:  # else it may stand where nobody can look
                tracked.misses += 1
                if tracked.misses >= _MISSES_MAX:
                    self._give_up(tracked)

    def _give_up(self, tracked: Tracked) -> None:
        """It is gone. Should it come back it is a new one."""
        self.streams.pop(tracked.key)
        self.due.pop(tracked.key, None)
        self._busy.pop(tracked.key, None)
        self.troubles.append(Trouble(tracked.path, "its file is gone", tracked))

    def _walk(self) -> Iterator[list[Found]]:
        """The rollouts of the home, a list a folder, newest first; what cannot be read is told once."""
        self._refusals = 0
        for found in walk(self._home, self._files):
            if not isinstance(found, Refused):
                yield found
            elif not found.link:
                self._refusals += 1
                if found.path not in self._refused:
                    self._refused.add(found.path)
                    self.troubles.append(Trouble(found.path, found.reason))

    def _meet_all(self, folder: list[Found]) -> None:
        for found in folder:
            self._meet(found, _at_beginning)

    def _meet(self, found: Found, start: Callable[[Found], FollowedStream]) -> None:
        """A rollout is there."""
        key = key_of(found.name)
        tracked = self.streams.get(key)
        if tracked is None:
            if not self._wants(found):
                return
            tracked = self.streams[key] = Tracked(key, start(found))
        elif tracked.found is not None and tracked.found.path != found.path and self._stands(tracked.found):
            return  # a copy, or the second name of a file that is being moved
        self._place(tracked, found)

    def _place(self, tracked: Tracked, found: Found) -> None:
        tracked.found = found
        tracked.look_number = self._look_number
        if not tracked.stream.is_known(found.stat, compressed=found.compressed):
            self.note_change(tracked)

    def _stands(self, found: Found) -> bool:
        return self._locate(found.path) is not None

    def _at_end(self, found: Found) -> FollowedStream:
        """All that a rollout holds is old."""
        path = self._home.absolute(found.path, compressed=found.compressed)
        return self._end(path, found.stat, compressed=found.compressed)

    def _end(self, path: str, stat: FileStat, *, compressed: bool) -> FollowedStream:
        try:
            source = open_source(path, compressed=compressed, files=self._files, options=self._options)
        except OSError:  # a look tells what is wrong; compressed, it cannot be known what is old: nothing is lost
            return FollowedStream(0 if compressed else stat.size)
        try:
            stream = end_of(source, self._options)
            stream.seen, stream.proven_ns = source.stat, source.stat.mtime_ns
        except OSError:
            return FollowedStream(0 if compressed else stat.size)
        finally:
            source.close()
        return stream

    def _look_at_journal(self, *, at_end: bool = False) -> None:
        """Segments in their order: that a later one is there means that the one before it is whole."""
        for segment in self._segments():
            stat = self._stat(segment)
            if stat is None:
                continue
            key = b"j" + segment.first.to_bytes(8, "big")
            tracked = self.streams.get(key)
            if tracked is None:
                stream = self._end(segment, stat, compressed=False) if at_end else FollowedStream()
                tracked = self.streams[key] = Tracked(key, stream)
            tracked.segment = segment
            if not tracked.stream.is_known(stat, compressed=False):
                self.note_change(tracked)

    def _locate(self, path: str) -> Found | None:
        """The rollout of this path; where nobody can look there is none."""
        try:
            return locate(self._home, path, self._files)
        except OSError:
            return None

    def _stat(self, path: str) -> FileStat | None:
        try:
            return self._files.stat(path, op="follow.stat")
        except OSError:
            return None

    def _segments(self) -> list[Segment]:
        try:
            return [] if self._journal is None else self._journal.segments()
        except OSError:
            return []

    def _is_folder(self, path: str) -> bool:
        try:
            return self._files.kind(path, op="follow.kind", follow=True) == "folder"
        except OSError:
            return False


def key_of(name: RolloutName) -> bytes:
    """What a rollout is known by: its own id, else its thread's."""
    return bytes.fromhex((name.own_rollout_id or name.thread_id).replace("-", ""))


def _at_beginning(_: Found) -> FollowedStream:
    return FollowedStream()
