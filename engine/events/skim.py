"""Which lines matter, told from the head of the line, without decoding JSON.

Most bytes of a rollout are of kinds that no projection asks for. A record that the format's writers wrote has its keys
in canonical order, so its kind stands at its beginning; the skim finds the newline, matches the head, and passes on. A
line whose head is not canonical is never judged by its looks: it is handed out to be decoded. So a skim may decode too
much and never too little, and its answer does not depend on how the bytes were cut into blocks. Not looked for is what
no writer of JSON for this format does: a key twice, or an escape in a key or in the word of a kind.

The technique: find the newline, then match one regular expression for the head and all kinds, with no slicing. Of those that
were measured before, `startswith` with a tuple at an offset was the fastest; it does not tell the kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from engine.events.kinds import ALIASES, ITEM_COMPLETED, TAGGED_TYPES

_HEAD_FORM = rb'\{"timestamp":"%s"(?:,"ordinal":%s)?,"type":"'
_ORDINAL = rb"[0-9]{1,18}"
"""A longer number may be beyond what an ordinal can be; such a line is decoded."""
_HEAD = _HEAD_FORM % (rb'[^"]{24}', _ORDINAL)
_ITEM_PATTERN = rb',"thread_id":"[^"]{36}","turn_id":"[^"]{36}","item":\{"type":"'
"""These match within one line alone: to rule out a newline as well would cost a fifth of the skim."""
_BLANK = b" \t\r\n"


class Hit(NamedTuple):
    """A line somebody asked for: its bytes are `block[start:end]`, without the newline.

    `kind` is None where the head is not canonical and only a decode can tell. `before` counts the canonical lines before
    it in the same skim.
    """

    start: int
    end: int
    kind: str | None
    before: int = 0


class Skimmed(NamedTuple):
    """What a skim of whole lines found. Offsets are within the block."""

    hits: list[Hit]
    latest: list[Hit]
    canonical: int


class Skim:
    """A compiled set of kinds.

    `kinds` are handed out whenever they come; `latest` are those of which only the newest with an effect counts. A kind
    may be `type`, `type.tag`, or `event_msg.item_completed.ItemTag`; a kind stands for all that are below it, and lines
    of a kind that has others below it are handed out with kind None, unless the one below was asked for by its own name.
    """

    def __init__(self, kinds: Iterable[str], latest: Iterable[str] = ()) -> None:
        # The latest kinds are the most frequent ones, so they are told apart first.
        first = sorted(frozenset(latest))
        heads = _Heads([*first, *sorted(frozenset(kinds) - frozenset(first))])
        self._match = re.compile(heads.pattern()).match
        self._kinds = heads.told
        self._latest = tuple(number for number, kind in enumerate(heads.told) if kind in first)

    def scan(self, block: bytes | bytearray, start: int, end: int) -> Skimmed:
        """Skim the lines of `block[start:end]`, which ends just after a newline (or is one unterminated line).

        Blank lines are passed over. `canonical` counts the lines passed over or handed out by their head; lines handed
        out with kind None are not in it.
        """
        hits: list[Hit] = []
        latest: list[Hit] = []
        find, match, kinds, latest_numbers, new = block.find, self._match, self._kinds, self._latest, tuple.__new__
        canonical = 0
        at = start
        while at < end:
            stop = find(b"\n", at, end)
            if stop < 0:
                stop = end
            told = match(block, at, stop)
            if told is None:
                if block[at:stop].strip(_BLANK):
                    hits.append(Hit(at, stop, None, canonical))
            elif (number := told.lastindex) is None:
                canonical += 1
            elif (kind := kinds[number]) is None:
                hits.append(Hit(at, stop, None, canonical))
            else:
                # By way of `Hit` it would cost three times as much.
                (latest if number in latest_numbers else hits).append(new(Hit, (at, stop, kind, canonical)))
                canonical += 1
            at = stop + 1
        return Skimmed(hits, latest, canonical)


class _Heads:
    """The regular expression that tells a line by its head.

    It matches every canonical head; the number of its one group that took part, if any did, is the place in `told` of the
    line's kind, or of None where only a decode can tell.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.told: list[str | None] = [None]
        """By the number of a group, which begins at 1."""
        self._kinds = kinds

    def pattern(self) -> bytes:
        types = dict.fromkeys(kind.partition(".")[0] for kind in self._kinds)
        return _HEAD + _any_of([*map(self._of_type, types), b""])

    def _of_type(self, type_: str) -> bytes:
        """A line of a type that was asked for, or whose tags were."""
        if type_ not in TAGGED_TYPES:
            goes_on = self._group(b',"payload":', type_ if type_ in self._kinds else None)
        else:
            tags = [kind for kind in self._kinds if kind.startswith(f"{type_}.") and kind.count(".") == 1]
            known = [self._tag(kind) for kind in tags if kind != ITEM_COMPLETED]
            items = [self._items()] if type_ == ITEM_COMPLETED.partition(".")[0] else []
            goes_on = b',"payload":\\{"type":"' + _any_of([*known, *items, self._rest(type_)])
        return _literal(type_) + b'"' + _any_of([goes_on, self._group(b"", None)])

    def _tag(self, kind: str) -> bytes:
        words = [kind.partition(".")[2], *([ALIASES[kind]] if kind in ALIASES else [])]
        return self._group(_any_of([_literal(word) for word in words]) + b'"', kind)

    def _items(self) -> bytes:
        """A completed item, by the item's own tag where that stands at its known offset."""
        kinds = [kind for kind in self._kinds if kind.startswith(f"{ITEM_COMPLETED}.")]
        tags = [self._group(_literal(kind.removeprefix(f"{ITEM_COMPLETED}.")) + b'"', kind) for kind in kinds]
        rest = self._rest(ITEM_COMPLETED, ITEM_COMPLETED.partition(".")[0])
        goes_on = _any_of([_ITEM_PATTERN + _any_of([*tags, rest]), self._group(b"", None)]) if tags else rest
        return _literal(ITEM_COMPLETED.partition(".")[2]) + b'"' + goes_on

    def _rest(self, *kinds: str) -> bytes:
        """What was not asked for by its own name: to be decoded where one of these stands for it, else passed over."""
        return self._group(b"", None) if any(kind in self._kinds for kind in kinds) else b""

    def _group(self, pattern: bytes, kind: str | None) -> bytes:
        self.told.append(kind)
        return b"(" + pattern + b")"


def _literal(word: str) -> bytes:
    return re.escape(word.encode())


def _any_of(patterns: Sequence[bytes]) -> bytes:
    return b"(?:" + b"|".join(patterns) + b")"


_envelope = re.compile(_HEAD_FORM % (rb'([^"\n]{24})', b"(" + _ORDINAL + b")")).match


def canonical_envelope(block: bytes | bytearray, start: int, end: int) -> tuple[str, int | None] | None:
    """The timestamp's text, unchecked, and the ordinal of a line, without decoding it; None where its head is not canonical."""
    head = _envelope(block, start, end)
    if head is None:
        return None
    at, ordinal = head.groups()
    return at.decode("ascii", "replace"), None if ordinal is None else int(ordinal)
