"""What a consolidator may hand in, and whether it may be taken: checked on its copy, before anything of it is.

Taken are the handbook, its summary and the skills, nothing else of what it changed. Refused as a whole is what lacks the two
files, does not begin as a summary does, has a link in it, is too large, or shrinks what is there to next to nothing while
the inputs did not.

Source: codex_memories.md 1.6, 3.3 H4, 8 K4, K32.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from engine.errors import AnswerUnusable
from engine.memories import artifacts
from engine.options import MemoryOptions
from engine.stores.baseline import Entry
from engine.stores.files import Files

_GUARDED_BYTES_MIN = 2_048
"""A smaller handbook may become anything."""
_SHRUNK_TO = 0.25
_SKILLS_MIN = 4
_DEEP_MAX = 32


class Before(NamedTuple):
    """What a consolidation began with, for the guards: bytes of a file by path, and of how many summaries how many went."""

    sizes: Mapping[str, int]
    skills: int
    summaries: int
    summaries_gone: int


def is_output(path: bytes) -> bool:
    """Whether a consolidator may change this path."""
    return path in (artifacts.HANDBOOK.encode(), artifacts.SUMMARY.encode()) or path.startswith(
        f"{artifacts.SKILLS}/".encode()
    )


def check(folder: str, before: Before, options: MemoryOptions, files: Files) -> None:
    """Raises `AnswerUnusable` for what may not be taken."""
    links = list(_links(folder, files, 0))
    if links:
        raise _refused(f"it left symbolic links: {', '.join(links[:3])}")
    read_valid(folder, options, files)
    for name, size in before.sizes.items():
        now = files.stat(f"{folder}/{name}", op="memories.check")
        if (
            size >= _GUARDED_BYTES_MIN
            and now is not None
            and now.size < size * _SHRUNK_TO
            and not _inputs_shrank(before)
        ):
            raise _refused(f"{name} would shrink from {size:,} to {now.size:,} bytes, and no inputs went away")
    skills = sum(1 for _ in _files(f"{folder}/{artifacts.SKILLS}", files, 0))
    if before.skills >= _SKILLS_MIN and skills * 2 < before.skills:
        raise _refused(f"of {before.skills} files of skills {skills} would be left")


def read_valid(folder: str, options: MemoryOptions, files: Files) -> None:
    """Raises `AnswerUnusable` where the two files that have to be there are not, or are not what they should be."""
    for name in (artifacts.HANDBOOK, artifacts.SUMMARY):
        found = files.stat(f"{folder}/{name}", op="memories.check")
        if found is None:
            raise _refused(f"there is no file {name}")
        if found.size > options.file_bytes_max:
            raise _refused(f"{name} has {found.size:,} bytes, more than {options.file_bytes_max:,}")
    data = files.read_all(f"{folder}/{artifacts.SUMMARY}", bytes_max=options.file_bytes_max, op="memories.check") or b""
    try:
        first = data.decode("utf-8").partition("\n")[0].removesuffix("\r")
    except UnicodeDecodeError:
        raise _refused(f"{artifacts.SUMMARY} is not UTF-8") from None
    if first != artifacts.SUMMARY_FIRST_LINE:
        raise _refused(f"the first line of {artifacts.SUMMARY} is not {artifacts.SUMMARY_FIRST_LINE}")


def is_valid(folder: str, options: MemoryOptions, files: Files) -> bool:
    """Whether both files are there as they should be."""
    try:
        read_valid(folder, options, files)
    except AnswerUnusable:
        return False
    return True


def size_of(path: str, state: Mapping[bytes, Entry], folder: str, files: Files) -> int:
    """The bytes of a file that is in this state."""
    if os.fsencode(path) not in state:
        return 0
    found = files.stat(f"{folder}/{path}", op="memories.check")
    return 0 if found is None else found.size


def _inputs_shrank(before: Before) -> bool:
    return before.summaries_gone * 2 >= max(before.summaries, 1)


def _links(folder: str, files: Files, deep: int) -> Iterator[str]:
    if deep > _DEEP_MAX:
        raise _refused("its folders are nested too deep")
    for entry in files.scan(folder, op="memories.check"):
        if entry.kind == "link":
            yield entry.name
        elif entry.kind == "folder":
            yield from _links(f"{folder}/{entry.name}", files, deep + 1)


def _files(folder: str, files: Files, deep: int) -> Iterator[str]:
    if files.kind(folder, op="memories.check") != "folder" or deep > _DEEP_MAX:
        return
    for entry in files.scan(folder, op="memories.check"):
        if entry.kind == "folder":
            yield from _files(f"{folder}/{entry.name}", files, deep + 1)
        elif entry.kind == "file":
            yield f"{folder}/{entry.name}"


def _refused(reason: str) -> AnswerUnusable:
    return AnswerUnusable(
        f"What the consolidator made cannot be taken: {reason}.",
        hint="Nothing was changed; look at the consolidator, then run `rolloutdb memories run` again.",
    )
