"""One stream that is followed: which of its bytes were given, and what is new.

A record is given once its LF is there; a tail without one may still be written, or be trimmed by its owner, and waits.
What was given is remembered by a digest of its bytes from `base` on, so that a rewritten file is told and never passed
over: at once where the file was replaced, shrank, did not grow, or ends otherwise before the place that was reached;
for a rewrite further back that an append hides, as soon as the whole of what was given has been read again (`Proof`).
Digests are of plain bytes, and so is the place: it holds through moves, compression and a restart.

Each record counts as given when it is yielded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from xxhash import xxh3_128

from engine.options import Options
from engine.stores.digests import BLOCK_BYTES, tail_digest
from engine.stores.files import FileStat
from engine.stores.frames import FramedSource
from engine.stores.rollouts import TOO_LONG, Block, Damage, Located, PlainSource, Source, blocks, judge, line_of

_PIECE_BYTES = 256 * 1024


class Rewritten(NamedTuple):
    """What was given before `offset` is not what the file holds; reading goes on there."""

    offset: int


class FollowedStream:
    """What was given of one stream."""

    __slots__ = ("_digest", "_hasher", "_tail", "base", "offset", "ordinal", "proven_ns", "seen")

    def __init__(self, offset: int = 0) -> None:
        """Begin at `offset`, where a line begins."""
        self.base = offset
        self.offset = offset
        self.ordinal: int | None = None
        """The last ordinal that was given."""
        self.seen: FileStat | None = None
        """What the file was when it was last read to its end."""
        self.proven_ns = 0
        """The modification time of the file when all that was given was known to stand there, or 0."""
        self._hasher: xxh3_128 | None = None
        """Of the bytes that were given; None where there are none, or where only their digest is known."""
        self._digest = b""
        self._tail: bytes | None = None
        """Of the last bytes that were given; None where they have to be compared all."""

    @classmethod
    def resumed(cls, base: int, offset: int, digest: bytes, proven_ns: int) -> FollowedStream:
        """A stream as a token has it."""
        stream = cls(base)
        stream.offset, stream.proven_ns, stream._digest = offset, proven_ns, digest
        return stream

    @property
    def digest(self) -> bytes:
        """The digest of what was given; empty where nothing was."""
        if self.offset == self.base:
            return b""
        return self._digest if self._hasher is None else self._hasher.digest()

    def is_known(self, stat: FileStat, *, compressed: bool) -> bool:
        """Whether a file need not be read, because it is what it was when it was last read."""
        if self.seen is not None or self.proven_ns == 0:
            return self.seen == stat
        return stat.mtime_ns == self.proven_ns and (compressed or stat.size == self.offset)

    def cool(self) -> None:
        """Keep the digest alone: the next look reads again what was given."""
        self._digest, self._hasher, self._tail = self.digest, None, None

    def doubt(self) -> None:
        """Have the next look compare all that was given."""
        self.seen = self._tail = None
        self.proven_ns = 0

    def look(self, source: Source, options: Options) -> Iterator[Located | Damage | Rewritten]:
        """What is new. Raises OSError."""
        proven = self.offset == self.base
        if self._is_doubtful(source):
            proven, holds = True, self._holds(source)
            if not holds and source.broken is not None:
                self.seen = source.stat
                return  # it cannot be told yet whether it is another
            if not holds:
                self._adopt(source, options)
                yield Rewritten(self.offset)
        self._tail, self.proven_ns = None, 0
        yield from self._lines(source, options)
        start = max(self.base, self.offset - BLOCK_BYTES)
        self._tail = tail_digest(source.read_at(start, self.offset - start))
        self.seen = source.stat
        self.proven_ns = source.stat.mtime_ns if proven else 0

    def _lines(self, source: Source, options: Options) -> Iterator[Located | Damage]:
        for block in blocks(source, self.offset, None, options):
            if not block.terminated:
                return
            if block.passed:
                self._read(source, block.offset + block.length)
                yield Damage(block.offset, block.length - 1, *TOO_LONG)
            else:
                yield from self._lines_of(block)

    def _lines_of(self, block: Block) -> Iterator[Located | Damage]:
        at = 0
        while at < block.end:
            stop = block.data.find(b"\n", at, block.end)
            found = judge(block.offset + at, line_of(block, at, stop), terminated=True)
            self._give(memoryview(block.data)[at : stop + 1])
            if isinstance(found, Located):
                self.ordinal = found.record.ordinal
            if found is not None:
                yield found
            at = stop + 1

    def _give(self, data: memoryview | bytes) -> None:
        if self._hasher is None:
            self._hasher = xxh3_128()  # nothing was given before, or `look` would have made it
        self._hasher.update(data)
        self.offset += len(data)

    def _read(self, source: Source, end: int) -> None:
        """Count bytes as given that no reader holds."""
        while self.offset < end and (data := source.read_at(self.offset, min(_PIECE_BYTES, end - self.offset))):
            self._give(data)

    def _is_doubtful(self, source: Source) -> bool:
        """Whether a file may be another than the one that was read: whether it did anything but grow, by all that is seen."""
        seen, stat = self.seen, source.stat
        if self.offset == self.base:
            return not self._is_at_line(source)
        if self._hasher is None or self._tail is None or seen is None or not isinstance(source, PlainSource):
            return True
        if (seen.device, seen.inode) != (stat.device, stat.inode) or stat.size <= seen.size:
            return True
        start = max(self.base, self.offset - BLOCK_BYTES)
        return tail_digest(source.read_at(start, self.offset - start)) != self._tail

    def _is_at_line(self, source: Source) -> bool:
        """Whether a line begins at `offset`, as one did when it was reached."""
        return self.offset == 0 or source.read_at(self.offset - 1, 1) == b"\n"

    def _holds(self, source: Source) -> bool:
        """Whether what was given stands there; read from beginning to end. Nothing holds where no line begins now."""
        proof = Proof(self)
        while proof.step(source) is None:
            pass
        if proof.holds:
            self._hasher = proof.hasher
        return proof.holds

    def _adopt(self, source: Source, options: Options) -> None:
        """Go on in a file that is another: at the same byte where a line begins there, else behind its last line."""
        if not self._is_at_line(source):
            self.base = self.offset = sum(
                block.length for block in blocks(source, 0, None, options) if block.terminated
            )
        proof = Proof(self)
        while proof.step(source) is None:
            pass
        self._hasher = proof.hasher


class Proof:
    """The bytes that were given of a stream, read once more, a piece at a time."""

    def __init__(self, stream: FollowedStream) -> None:
        self.seen = stream.seen
        """What the file was when what is compared had been read."""
        self._digest = stream.digest
        self._end = stream.offset
        self._at = stream.base
        self.hasher = xxh3_128()
        self.holds = False

    def step(self, source: Source, bytes_max: int = 64 * _PIECE_BYTES) -> bool | None:
        """Read on for so many bytes; whether what was given stands there, None where that is not known yet."""
        stop = min(self._end, self._at + bytes_max)
        while self._at < stop:
            data = source.read_at(self._at, min(_PIECE_BYTES, stop - self._at))
            if not data:
                return False
            self.hasher.update(data)
            self._at += len(data)
        if self._at < self._end:
            return None
        self.holds = self.hasher.digest() == self._digest
        return self.holds


def end_of(source: Source, options: Options) -> FollowedStream:
    """A stream of which every line that is whole now counts as old; one that is open is new when it is whole."""
    if not isinstance(source, PlainSource | FramedSource):
        return FollowedStream(sum(block.length for block in blocks(source, 0, None, options) if block.terminated))
    at = source.plain_size if isinstance(source, FramedSource) else source.stat.size
    if at > 0 and source.read_at(at - 1, 1) == b"\n":
        return FollowedStream(at)
    while at > 0:
        start = max(0, at - BLOCK_BYTES)
        stop = source.read_at(start, at - start).rfind(b"\n") + 1
        at = start + stop
        if stop:
            break
    return FollowedStream(at)
