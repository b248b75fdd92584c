"""Which memories an answer says that it used.

A model marks them in a hidden block, `<oai-mem-citation>` (older: `<citation>`), with `<citation_entries>`, a line each
`path:first-last|note=[why]`, and `<rollout_ids>` (older: `<thread_ids>`), an id a line. A line that is something else is
passed over; ids are told once each, in the order in which they first stand there. A block without an end goes to the end of
the answer. `CitationStream` takes an answer in pieces and gives what may be shown of it so far.

Source: codex_memories.md 5.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NAMES = ("oai-mem-citation", "citation")
_OPENINGS = tuple(f"<{name}>" for name in _NAMES)
_BLOCK = re.compile(rf"<({'|'.join(_NAMES)})>(.*?)(?:</\1>|\Z)", re.DOTALL)
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


class CitationStream:
    """An answer that comes in pieces, cut anywhere: what of it is shown, and at its end what it cites.

    All that was shown, put together, is what `without_citations` makes of the whole.
    """

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._held = ""
        """What may be the beginning of a block, or is one without its end so far."""
        self._closing: str | None = None

    def feed(self, piece: str) -> str:
        """The text of this and earlier pieces that can be shown now."""
        self._held += piece
        shown: list[str] = []
        while True:
            if self._closing is not None:
                at = self._held.find(self._closing)
                if at < 0:
                    return "".join(shown)
                self._end_block(at + len(self._closing))
                continue
            at, opening = min((self._at(each), each) for each in _OPENINGS)
            shown.append(self._held[:at])
            self._held = self._held[at:]
            if not self._held.startswith(opening):
                return "".join(shown)
            self._closing = f"</{opening[1:]}"

    def finish(self) -> tuple[str, Citation | None]:
        """The rest of the text that is shown, and what the whole answer cites."""
        if self._closing is not None:
            self._end_block(len(self._held))
        rest, self._held = self._held, ""
        return rest, parse_citations("\n".join(self._blocks))

    def _end_block(self, end: int) -> None:
        self._blocks.append(self._held[:end])
        self._held, self._closing = self._held[end:], None

    def _at(self, opening: str) -> int:
        """Where this stands, or may begin with what is still to come; else the end of what is held."""
        found = self._held.find(opening)
        if found >= 0:
            return found
        for size in range(min(len(opening) - 1, len(self._held)), 0, -1):
            if self._held.endswith(opening[:size]):
                return len(self._held) - size
        return len(self._held)


def _place(line: str) -> CitedPlace | None:
    where, _, note = line.strip().rpartition("|note=[")
    path, _, lines = where.rpartition(":")
    first, _, last = lines.partition("-")
    if not path or not note.endswith("]") or not all(each.isascii() and each.isdigit() for each in (first, last)):
        return None
    return CitedPlace(path, int(first), int(last), note[:-1])
