"""The files that the engine writes into the folder of memories, as bytes of rows: the same rows, the same bytes.

Source: codex_memories.md 1.3, 1.4, 1.6.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from engine.clock import timestamp_of
from engine.projections.memories import Memory

RAW_MEMORIES = "raw_memories.md"
SUMMARIES = "rollout_summaries"
HANDBOOK = "MEMORY.md"
SUMMARY = "memory_summary.md"
SKILLS = "skills"
EXTENSIONS = "extensions"
DIFF = "phase2_workspace_diff.md"
SUMMARY_FIRST_LINE = "v1"

_SLUG_CHARS_MAX = 60
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HASHES = len(_DIGITS) ** 4
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII)
_OWN_NAME = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?:--.*)?\.md", re.ASCII)
_THREAD_LINE = re.compile(rb"thread_id: ([0-9a-f-]{36})\n")


class Named(NamedTuple):
    """A memory and the file that its summary is in, without `.md`."""

    memory: Memory
    stem: str


def named(memories: Sequence[Memory]) -> list[Named]:
    """Each memory with its stem, by thread id; those that would share one have their whole id in it."""
    ordered = sorted(memories, key=lambda each: each.thread_id)
    stems = [stem(each.thread_id, each.source_updated_at_ms, each.rollout_slug) for each in ordered]
    shared = Counter(stems)
    return [
        Named(each, found if shared[found] == 1 else f"{found[:19]}-{each.thread_id}")
        for each, found in zip(ordered, stems, strict=True)
    ]


def stem(thread_id: str, source_updated_at_ms: int, slug: str | None = None) -> str:
    """`<UTC time>-<4 digits of the id>[-<slug>]`: the time is that of the id where it tells one."""
    at_ms = source_updated_at_ms
    if _UUID.fullmatch(thread_id):
        number = int(thread_id.replace("-", ""), 16)
        seed = number & 0xFFFFFFFF
        if number >> 76 & 0xF == 7:
            at_ms = number >> 80
    else:
        seed = 0
        for byte in thread_id.encode("utf-8", "surrogateescape"):
            seed = (seed * 31 + byte) & 0xFFFFFFFF
    text = f"{_file_time(at_ms)}-{_base62(seed % _HASHES)}"
    ending = _slug(slug)
    return f"{text}-{ending}" if ending else text


def _slug(slug: str | None) -> str:
    plain = [char.lower() if char.isascii() and char.isalnum() else "_" for char in (slug or "")[:_SLUG_CHARS_MAX]]
    return "".join(plain).rstrip("_")


def _base62(number: int) -> str:
    digits = ""
    for _ in range(4):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits


def _file_time(at_ms: int) -> str:
    try:
        return timestamp_of(at_ms)[:19].replace(":", "-")
    except (OverflowError, ValueError, OSError):
        return timestamp_of(0)[:19].replace(":", "-")


def raw_memories(memories: Sequence[Named]) -> bytes:
    """`raw_memories.md`: every memory in the order of thread ids."""
    if not memories:
        return b"# Raw Memories\n\nNo memories yet.\n"
    lines = ["# Raw Memories", "", "What was learned in each thread, by ascending thread id:", ""]
    for memory, name in memories:
        lines += [
            f"## Thread `{memory.thread_id}`",
            f"updated_at: {_time(memory.source_updated_at_ms)}",
            f"cwd: {_line(memory.cwd)}",
            f"rollout_path: {_line(memory.rollout_path)}",
            f"rollout_summary_file: {name}.md",
            "",
            memory.raw_memory.strip(),
            "",
        ]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def rollout_summary(memory: Memory) -> bytes:
    """`rollout_summaries/<stem>.md`."""
    lines = [
        f"thread_id: {memory.thread_id}",
        f"updated_at: {_time(memory.source_updated_at_ms)}",
        f"rollout_path: {_line(memory.rollout_path)}",
        f"cwd: {_line(memory.cwd)}",
    ]
    if memory.git_branch:
        lines.append(f"git_branch: {_line(memory.git_branch)}")
    return ("\n".join([*lines, "", memory.rollout_summary]) + "\n").encode("utf-8", "replace")


def thread_of(summary: bytes) -> str | None:
    """The thread that a file among the summaries is of, or None for a file that is not ours."""
    found = _THREAD_LINE.match(summary)
    return None if found is None else found[1].decode()


def is_old_summary(name: str) -> bool:
    """Whether a name among the summaries is one that earlier layouts gave."""
    return _OWN_NAME.fullmatch(name) is not None


def _time(at_ms: int) -> str:
    return f"{timestamp_of(at_ms)[:19]}+00:00"


def _line(text: str | None) -> str:
    """On one line, whatever a folder is called."""
    return "".join(" " if ord(char) < 32 else char for char in text or "unknown")
