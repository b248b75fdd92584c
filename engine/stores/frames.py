"""The frames of a compressed rollout: where they end, and which one holds a byte.

A decompressor that comes to the end of a file in the middle of a frame gives what it has and says nothing, so a cut file
would read as a shorter one. Walking the frames tells them apart at the cost of one small read a block (at most 128 KiB).

A file of the engine's own ends with a seek table, a frame that every decompressor skips. With it `FramedSource` reads
any place for the price of the frames that it lies in. A table that does not fit its file is as if it were not there.

Source: RFC 8878, 3.1.1 and 3.1.2; Zstandard Seekable Format 0.1.0 (contrib/seekable_format of the zstd project).
"""

from __future__ import annotations

import contextlib
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from engine.stores.files import Files, FileStat

_FRAME = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = bytes(range(0x50, 0x60)), b"\x2a\x4d\x18"
_HEADER_BYTES_MAX = 18
_BLOCK_HEADER_BYTES = 3
_CHECKSUM_BYTES = 4
_RUN_LENGTH = 1

FRAME_BYTES_MAX = 8 * 1024 * 1024
"""No frame of ours holds more; a table that speaks of larger ones is not used."""

_TABLE_MAGIC = b"\x5e\x2a\x4d\x18"
_SEEKABLE_MAGIC = b"\xb1\xea\x92\x8f"
_FOOTER_BYTES = 9
_ENTRY = struct.Struct("<II")
_SIZE_UNTOLD = -1
_TABLE_BYTES_MAX = 16 * 1024 * 1024

Read = Callable[[int, int], bytes]
"""Gives `size` bytes from an offset of the file as it is stored; fewer only at its end."""


def ends_whole(read: Read, size: int) -> bool:
    """Whether a file of `size` bytes ends where a frame ends. An empty one does."""
    at = 0
    while at < size:
        end = _frame_end(read, at, size)
        if end is None or end > size:
            return False
        at = end
    return True


def _frame_end(read: Read, at: int, size: int) -> int | None:
    """Where the frame that begins at `at` ends, which may be beyond the file; None where no frame begins there."""
    head = read(at, _HEADER_BYTES_MAX)
    if len(head) >= 8 and head[0] in _SKIPPABLE[0] and head[1:4] == _SKIPPABLE[1]:
        return at + 8 + int.from_bytes(head[4:8], "little")
    if len(head) < 5 or not head.startswith(_FRAME):
        return None
    descriptor = head[4]
    at += 5 + _fields_bytes(descriptor)
    last = False
    while not last:
        header = read(at, _BLOCK_HEADER_BYTES)
        if len(header) < _BLOCK_HEADER_BYTES:
            return None
        block = int.from_bytes(header, "little")
        last = bool(block & 1)
        at += _BLOCK_HEADER_BYTES + (1 if block >> 1 & 3 == _RUN_LENGTH else block >> 3)
        if at > size:
            return None
    return at + (_CHECKSUM_BYTES if descriptor & 4 else 0)


def _fields_bytes(descriptor: int) -> int:
    """How long the window, dictionary and content size fields of a frame's header are."""
    single_segment = bool(descriptor & 0x20)
    content = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    return (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3] + content


class Frame(NamedTuple):
    """The sizes of one frame, as stored and decompressed."""

    stored: int
    plain: int


def render_table(frames: Sequence[Frame]) -> bytes:
    """The seek table that ends a file of these frames."""
    entries = b"".join(_ENTRY.pack(*frame) for frame in frames)
    footer = len(frames).to_bytes(4, "little") + b"\0" + _SEEKABLE_MAGIC
    return _TABLE_MAGIC + (len(entries) + _FOOTER_BYTES).to_bytes(4, "little") + entries + footer


def read_table(read: Read, size: int) -> list[Frame] | None:
    """The frames of a file by its seek table; None where there is none, or one that does not fit the file."""
    footer = read(size - _FOOTER_BYTES, _FOOTER_BYTES) if size >= _FOOTER_BYTES else b""
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_SEEKABLE_MAGIC) or footer[4] != 0:
        return None
    length = 8 + int.from_bytes(footer[:4], "little") * _ENTRY.size + _FOOTER_BYTES
    if length > min(size, _TABLE_BYTES_MAX):
        return None
    table = read(size - length, length)
    if table[:8] != _TABLE_MAGIC + (length - 8).to_bytes(4, "little"):
        return None
    frames = [Frame(*entry) for entry in _ENTRY.iter_unpack(table[8:-_FOOTER_BYTES])]
    fits = sum(frame.stored for frame in frames) + length == size
    return frames if fits and all(0 < frame.plain <= FRAME_BYTES_MAX for frame in frames) else None


class FramedSource:
    """The plain bytes of a compressed rollout that has a seek table; the last frame that was needed is kept."""

    def __init__(self, fd: int, stat: FileStat, frames: Sequence[Frame], files: Files) -> None:
        self._fd = fd
        self.stat = stat
        self.broken: str | None = None
        self._frames = frames
        self._files = files
        self._stored_at = [0, *accumulate(frame.stored for frame in frames)]
        self._plain_at = [0, *accumulate(frame.plain for frame in frames)]
        self._held: tuple[int, bytes] = (-1, b"")

    @property
    def plain_size(self) -> int:
        """How many plain bytes there are, by the table."""
        return self._plain_at[-1]

    def read_at(self, offset: int, size: int) -> bytes:
        return self.read_range(offset, offset + size)

    def read_range(self, start: int, end: int) -> bytes:
        """The plain bytes from `start` to `end`; fewer at the stream's end, and before a frame that is damaged."""
        end = min(end, self._plain_at[-1])
        parts: list[bytes] = []
        while start < end:
            index = bisect_right(self._plain_at, start) - 1
            plain = self._frame(index)
            if plain is None:
                break
            base = self._plain_at[index]
            parts.append(plain[start - base : end - base])
            start = base + len(plain)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._files.close(self._fd, op="rollout.close")

    def _frame(self, index: int) -> bytes | None:
        if self._held[0] == index:
            return self._held[1]
        import zstandard  # noqa: PLC0415 - most homes have no compressed rollouts

        frame = self._frames[index]
        stored = self._files.pread(self._fd, frame.stored, self._stored_at[index], op="rollout.read")
        try:
            # A frame that says another size than the table is not even begun: it could be of any size.
            told = zstandard.frame_content_size(stored)
            whole = told in (_SIZE_UNTOLD, frame.plain)
            plain = zstandard.ZstdDecompressor().decompress(stored, max_output_size=frame.plain) if whole else b""
        except zstandard.ZstdError as error:
            self.broken = f"the compressed data is damaged: {error}"
            return None
        if len(plain) != frame.plain:
            self.broken = "the compressed data is damaged: a frame is not as long as the table says"
            return None
        self._held = (index, plain)
        return plain
