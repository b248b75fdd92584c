"""Lines filled over where they stand: the one way in which bytes of a stream are ever changed.

A line is replaced by one of the same length, so every offset behind it holds, whoever appends meanwhile keeps what was
appended, and no reader ever meets a moment without the file. Each file is synced before the call returns. A crash on the
way can leave a line that is half old and half new: the caller announces what it is about to do, and does it again.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.options import Options
from engine.stores.files import Files
from engine.stores.rollouts import PlainSource, blocks, line_of


def fill_lines(path: str, other: Callable[[bytes], bytes | None], *, options: Options, files: Files) -> tuple[int, int]:
    """Replace each line (without its LF) for which `other` gives another of the same length; how many, and their bytes.

    Lines too long to be decoded by anybody are left. Raises OSError.
    """
    found: list[tuple[int, bytes]] = []
    with files.reading(path, op="fill.read") as fd:
        source = PlainSource(fd, files.fstat(fd, op="fill.stat"), files)
        for block in blocks(source, 0, None, options):
            at = 0
            while at < block.end and not block.passed:
                stop = block.data.find(b"\n", at, block.end)
                stop = block.end if stop < 0 else stop
                line = line_of(block, at, stop)
                filled = other(line)
                if filled is not None and filled != line:
                    assert len(filled) == len(line)
                    found.append((block.offset + at, filled))
                at = stop + 1
    if found:
        fill(path, found, files=files)
    return len(found), sum(len(data) for _, data in found)


def fill(path: str, pieces: list[tuple[int, bytes]], *, files: Files) -> None:
    """Write these bytes at these offsets, and sync. The file keeps its length. Raises OSError."""
    fd = files.open_update(path, op="fill.open")
    try:
        for offset, data in pieces:
            written = 0
            while written < len(data):
                written += files.pwrite(fd, data[written:], offset + written, op="fill.write")
        files.sync(fd, op="fill.sync")
    finally:
        files.close(fd, op="fill.close")
