"""Read a rollout from any offset, forwards and backwards, plain or compressed, whatever its bytes are.

A line ends at LF alone. Blank lines, a CR before the LF, a byte order mark at the start and raw U+2028 are no damage. What
cannot be decoded is yielded as `Damage` with its offset, its length, what the bytes look like and why, and reading goes
on behind the next LF. The last line counts without its LF when it decodes; else it is the tail, which somebody may still
be writing.

Offsets are of plain bytes, for compressed rollouts too. Memory is one block, or one line where a line is longer; a line
over `line_bytes_max` is never held. Each byte is looked at once, so the cost is linear in the file for lines of any
length.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Raw

from engine.events.record import BYTE_ORDER_MARK, Record, Rejected, decode
from engine.options import Options
from engine.stores.digests import BLOCK_BYTES
from engine.stores.files import Files, FileStat
from engine.stores.frames import FramedSource, ends_whole, read_table

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionReader


class Source(Protocol):
    """The plain bytes of one rollout."""

    stat: FileStat
    """What the physical file was when it was opened."""

    broken: str | None
    """Why no more bytes come though there were more (a damaged or cut compressed frame), else None."""

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer only at the end."""
        ...

    def close(self) -> None:
        """Give the file back. A close that fails has done so, and what was read was read: it raises nothing."""
        ...


class Block(NamedTuple):
    """A piece of a stream that ends with a line's end, or with the stream's.

    `data[:end]` is whole lines; where `terminated` is False it is the one last line without its LF. A single line
    longer than a block comes alone. `passed` is the length of a long line whose bytes were not wanted or are too many:
    `data` is then only its head.
    """

    offset: int
    data: bytes | bytearray
    end: int
    terminated: bool = True
    passed: int = 0
    too_long: bool = False

    @property
    def length(self) -> int:
        """How many bytes of the stream the block stands for."""
        return self.passed or self.end


class Damage(NamedTuple):
    """Bytes that are no record. `length` is without the LF; `terminated` False means the stream's tail."""

    offset: int
    length: int
    look: str
    reason: str
    terminated: bool = True


class Located(NamedTuple):
    """A record and where it stands; `length` is without the LF. Its payload is raw, where no other decoder was asked for."""

    offset: int
    length: int
    record: Record[Raw]


Decode = Callable[[bytes], Record[Any]]
"""`decode`, or `decode_plain` for those who need every payload."""


def open_source(path: str, *, compressed: bool, files: Files, options: Options) -> Source:
    """Open a physical rollout file. Raises OSError; follows no symbolic link."""
    fd = files.open_read(path, op="rollout.open")
    try:
        stat = files.fstat(fd, op="rollout.stat")
        if not compressed:
            return PlainSource(fd, stat, files)
        frames = read_table(lambda at, size: files.pread(fd, size, at, op="rollout.read"), stat.size)
        return CompressedSource(fd, stat, files, options) if frames is None else FramedSource(fd, stat, frames, files)
    except BaseException:
        files.close(fd, op="rollout.close")
        raise


class PlainSource:
    """A `.jsonl` file as it was when its size was read: what is appended meanwhile waits for the next look."""

    def __init__(self, fd: int, stat: FileStat, files: Files) -> None:
        self._fd = fd
        self.stat = stat
        self._files = files
        self.broken: str | None = None

    @property
    def plain_size(self) -> int:
        return self.stat.size

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self.stat.size - offset)
        if size <= 0:
            return b""
        data = self._files.pread(self._fd, size, offset, op="rollout.read")
        while len(data) < size:
            more = self._files.pread(self._fd, size - len(data), offset + len(data), op="rollout.read")
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._files.close(self._fd, op="rollout.close")


class CompressedSource:
    """A `.jsonl.zst` file, decompressed as it is read.

    Reading goes forwards; a window behind the front is kept, so the small steps back that readers make cost nothing.
    A step further back starts again from the beginning.
    """

    def __init__(self, fd: int, stat: FileStat, files: Files, options: Options) -> None:
        self._fd = fd
        self.stat = stat
        self._files = files
        self._keep_bytes = 2 * options.block_bytes + BLOCK_BYTES
        self._piece_bytes = options.block_bytes
        self.broken: str | None = None
        self._start()

    def read_at(self, offset: int, size: int) -> bytes:
        if offset < self._base:
            self._start()
        while self._base + len(self._window) < offset + size and not self._ended:
            self._pull(offset)
        start = offset - self._base
        return bytes(memoryview(self._window)[start : start + size]) if start < len(self._window) else b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._files.close(self._fd, op="rollout.close")

    def _start(self) -> None:
        import zstandard  # noqa: PLC0415 - most homes have no compressed rollouts

        self._files.seek(self._fd, 0, op="rollout.seek")
        reader = _Reading(self._fd, self._files)
        self._error = zstandard.ZstdError
        self._stream: ZstdDecompressionReader = zstandard.ZstdDecompressor().stream_reader(
            reader,  # type: ignore[arg-type]
            read_across_frames=True,
        )
        self._window = bytearray()
        self._base = 0
        self._ended = False

    def _pull(self, wanted: int) -> None:
        try:
            piece = self._stream.read(self._piece_bytes)
        except self._error as error:
            self.broken = f"the compressed data is damaged: {error}"
            piece = b""
        if not piece:
            self._ended = True
            if self.broken is None and not ends_whole(self._stored, self.stat.size):
                self.broken = "the compressed data is cut: its last frame has no end"
            return
        self._window += piece
        surplus = min(wanted - self._base, len(self._window)) - self._keep_bytes
        if surplus > self._keep_bytes:
            del self._window[:surplus]
            self._base += surplus

    def _stored(self, offset: int, size: int) -> bytes:
        return self._files.pread(self._fd, size, offset, op="rollout.read")


class _Reading:
    """The file object that the decompressor reads from."""

    def __init__(self, fd: int, files: Files) -> None:
        self._fd = fd
        self._files = files

    def read(self, size: int) -> bytes:
        return self._files.read(self._fd, size, op="rollout.read")


def blocks(
    source: Source,
    start: int,
    end: int | None,
    options: Options,
    wants: Callable[[bytes], bool] | None = None,
    passing: Callable[[bytes], None] | None = None,
) -> Iterator[Block]:
    """The stream from `start` (a line's beginning) to `end` or its end, cut at line ends.

    `wants` is asked, with the head of a line that is longer than a block, whether its bytes are needed at all. Those of
    one that is not wanted go by `passing`, piece by piece, before its block comes.
    """
    at = start
    while end is None or at < end:
        size = options.block_bytes if end is None else min(options.block_bytes, end - at)
        data = source.read_at(at, size)
        if not data:
            return
        stop = data.rfind(b"\n") + 1
        if stop:
            yield Block(at, data, stop)
            at += stop
        elif len(data) < options.block_bytes:
            yield Block(at, data, len(data), terminated=False)
            return
        else:
            keep = wants is None or wants(data)
            block = _long_line(source, at, data, end, options, keep=keep, passing=None if keep else passing)
            yield block
            at += block.length


def records(
    source: Source, start: int, end: int | None, options: Options, by: Decode = decode
) -> Iterator[Located | Damage]:
    """Every line from `start` on, decoded, in order; blank lines are passed over."""
    for block in blocks(source, start, end, options):
        if block.passed:
            yield Damage(block.offset, block.length - block.terminated, *TOO_LONG, block.terminated)
            continue
        at = 0
        while at < block.end:
            stop = block.data.find(b"\n", at, block.end)
            terminated = stop >= 0
            stop = stop if terminated else block.end
            found = judge(block.offset + at, line_of(block, at, stop), terminated=terminated, by=by)
            if found is not None:
                yield found
            at = stop + 1


def line_of(block: Block, start: int, stop: int) -> bytes:
    """The bytes of one line of a block, copied once."""
    data = block.data
    return data[start:stop] if isinstance(data, bytes) else bytes(memoryview(data)[start:stop])


_BLANK = b" \t\r\n"
_BLANK_BYTES = 64
"""Stripping copies, so the whole of a line is stripped only where its beginning is blank."""

TOO_LONG = ("too long", "the line is longer than line_bytes_max")


def judge(offset: int, line: bytes, *, terminated: bool, by: Decode = decode) -> Located | Damage | None:
    """One line without its LF: a record, damage, or None where it is blank."""
    length = len(line)
    line = line.removeprefix(BYTE_ORDER_MARK) if offset == 0 else line
    if not line.startswith(b"{") and not line[:_BLANK_BYTES].strip(_BLANK) and not line.strip(_BLANK):
        return None
    try:
        return Located(offset, length, by(line))
    except Rejected as rejected:
        return Damage(offset, length, rejected.look, rejected.reason, terminated)


def lines_backwards(source: Source, end: int, options: Options) -> Iterator[tuple[int, bytes, bool]]:
    """The lines before `end`, last first, as (offset, bytes without the LF, terminated).

    `end` may be anywhere in the stream; the piece of a line before it counts as an unterminated line. Blank lines come
    too. A line over `line_bytes_max` comes as an empty one at its offset: too long to be held.
    """
    pieces: list[bytes] = []
    held = 0
    terminated = False
    at = end
    while at > 0:
        start = max(0, at - options.block_bytes)
        data = source.read_at(start, at - start)
        stop = len(data)
        while True:
            newline = data.rfind(b"\n", 0, stop)
            if newline < 0:
                break
            offset = start + newline + 1
            if offset < end:
                pieces.append(data[newline + 1 : stop])
                yield offset, _joined(pieces, held + stop - newline - 1, options), terminated
            pieces, held, terminated, stop = [], 0, True, newline
        held += stop
        if held <= options.line_bytes_max:
            pieces.append(data[:stop])
        else:
            pieces = []
        at = start
    if end > 0 and (held or terminated):
        yield 0, _joined(pieces, held, options), terminated


def records_backwards(
    source: Source, start: int, end: int, options: Options, by: Decode = decode
) -> Iterator[Located | Damage]:
    """The lines between `start` (a line's beginning) and `end`, decoded, last first; those too long to be held are left out."""
    for offset, line, terminated in lines_backwards(source, end, options):
        if offset < start:
            return
        found = judge(offset, line, terminated=terminated, by=by)
        if found is not None:
            yield found


def _joined(pieces: list[bytes], held: int, options: Options) -> bytes:
    return b"" if held > options.line_bytes_max else b"".join(reversed(pieces))


def _long_line(
    source: Source,
    at: int,
    head: bytes,
    end: int | None,
    options: Options,
    *,
    keep: bool,
    passing: Callable[[bytes], None] | None,
) -> Block:
    """A line that does not end in its first block: read on to its LF, holding it only where it is wanted."""
    held = bytearray(head) if keep else bytearray()
    if passing is not None:
        passing(head)
    length = len(head)
    terminated = False
    while not terminated:
        size = options.block_bytes if end is None else min(options.block_bytes, end - at - length)
        data = source.read_at(at + length, size) if size > 0 else b""
        if not data:
            break
        stop = data.find(b"\n") + 1
        terminated = stop > 0
        piece = data[:stop] if terminated else data
        length += len(piece)
        if keep and length - terminated <= options.line_bytes_max:
            held += piece
        if passing is not None:
            passing(piece)
    if length - terminated > options.line_bytes_max:
        return Block(at, head, len(head), terminated, passed=length, too_long=True)
    if not keep:
        return Block(at, head, len(head), terminated, passed=length)
    return Block(at, held, length, terminated)


@contextlib.contextmanager
def seekable(source: Source, files: Files, options: Options) -> Iterator[tuple[Source, int]]:
    """The same plain bytes in a form that may be read anywhere at a bounded price, and how many they are."""
    if isinstance(source, PlainSource | FramedSource):
        yield source, source.plain_size
    else:
        with spooled(source, files, options) as spool:
            yield spool, spool.stat.size


@contextlib.contextmanager
def spooled(source: Source, files: Files, options: Options) -> Iterator[Source]:
    """The plain bytes of a compressed rollout in a nameless temporary file; its `stat.size` is their number.

    For readers that go backwards; plain sources need none.
    """
    with files.temporary(op="rollout.spool") as spool:
        size = 0
        while data := source.read_at(size, options.block_bytes):
            spool.write(data)
            size += len(data)
        spool.flush()
        yield PlainSource(spool.fileno(), files.fstat(spool.fileno(), op="rollout.stat"), files)
