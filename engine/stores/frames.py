"""Where the frames of a compressed file end, told from their headers, without decompressing.

A decompressor that comes to the end of a file in the middle of a frame gives what it has and says nothing, so a cut file
would read as a shorter one. Walking the frames tells them apart at the cost of one small read a block (at most 128 KiB).

Source: RFC 8878, 3.1.1 and 3.1.2.
"""

from __future__ import annotations

from collections.abc import Callable

_FRAME = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = bytes(range(0x50, 0x60)), b"\x2a\x4d\x18"
_HEADER_BYTES_MAX = 18
_BLOCK_HEADER_BYTES = 3
_CHECKSUM_BYTES = 4
_RUN_LENGTH = 1

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
