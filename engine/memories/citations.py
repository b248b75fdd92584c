"""Which memories an answer says that it used.

A model marks them in a hidden block, `<oai-mem-citation>` (older: `<citation>`), with `<citation_entries>`, a line each
`path:first-last|note=[why]`, and `<rollout_ids>` (older: `<thread_ids>`), an id a line. A line that is something else is
passed over; ids are told once each, in the order in which they first stand there.

Source: codex_memories.md 5.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BLOCK = re.compile(r"<(oai-mem-citation|citation)>(.*?)(?:</\1>|\Z)", re.DOTALL)
_INNER = {
    name: re.compile(rf"<{name}>(.*?)(?:</{name}>|\Z)", re.DOTALL)
    for name in ("citation_entries", "rollout_ids", "thread_ids")
}


class CitedPlace(NamedTuple):
    """Lines of a file of memories, both included, and why they were of use."""

    path: str
    first: int
    last: int
    note: str


class Citation(NamedTuple):
    """What was used: places, and threads whose memory it was."""

    places: list[CitedPlace]
    thread_ids: list[str]


def parse_citations(text: str) -> Citation | None:
    """The citations of an answer, or None where it has none that can be read."""
    places: list[CitedPlace] = []
    ids: dict[str, None] = {}
    for block in _BLOCK.finditer(text):
        inner = {name: found[1] for name, pattern in _INNER.items() if (found := pattern.search(block[2]))}
        for line in inner.get("citation_entries", "").splitlines():
            place = _place(line)
            if place is not None:
                places.append(place)
        for line in inner.get("rollout_ids", inner.get("thread_ids", "")).splitlines():
            if line.strip():
                ids[line.strip()] = None
    return Citation(places, list(ids)) if places or ids else None


def without_citations(text: str) -> str:
    """The answer as a person is shown it."""
    return _BLOCK.sub("", text)


def _place(line: str) -> CitedPlace | None:
    where, _, note = line.strip().rpartition("|note=[")
    path, _, lines = where.rpartition(":")
    first, _, last = lines.partition("-")
    if not path or not note.endswith("]") or not all(each.isascii() and each.isdigit() for each in (first, last)):
        return None
    return CitedPlace(path, int(first), int(last), note[:-1])
