"""Look at every line of one rollout: how many records, which bytes are no record, and whether the numbers are in order.

By default a line is told by sight: canonical at its head, closed by its brace, no byte that cannot be in a record. What
does not look right is decoded, and the decoder decides; so a damaged line is found unless it is whole to the eye. With
`deep` every line is decoded, and records of folded kinds into their typed payload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.events.kinds import KNOWN
from engine.events.payloads import TYPED
from engine.events.record import BYTE_ORDER_MARK, Record, Rejected, decode_as, is_utf8, kind_of
from engine.events.skim import canonical_envelope
from engine.options import Options
from engine.stores.rollouts import TOO_LONG, Block, Damage, Located, Source, blocks, judge, line_of

_GLUE = b'}{"timestamp":"'
NUMBER_TROUBLES_MAX = 100
"""Trouble with numbers that is named one by one; the rest is only counted."""


@dataclass(slots=True)
class NumberTrouble:
    """An ordinal that does not follow the one before it."""

    class_: str
    offset: int
    ordinal: int | None
    before: int


@dataclass(slots=True)
class Lines:
    """What was seen. `first_type` is of the first record; `kinds` is filled by a deep look only."""

    records: int = 0
    first_type: str | None = None
    bytes: int = 0
    damage: list[Damage] = field(default_factory=list)
    numbers: list[NumberTrouble] = field(default_factory=list)
    number_troubles: int = 0
    last_ordinal: int | None = None
    byte_order_mark: bool = False
    kinds: Counter[str] = field(default_factory=Counter)
    bad_payloads: list[Damage] = field(default_factory=list)

    @property
    def named(self) -> set[int]:
        """Where a line begins that is damage, or a record that no fold can use."""
        return {each.offset for each in (*self.damage, *self.bad_payloads)}

    @property
    def unknown_kinds(self) -> dict[str, int]:
        """Kinds that this release cannot name, with how many records each."""
        return {kind: count for kind, count in sorted(self.kinds.items()) if kind not in KNOWN}


def look(source: Source, options: Options, *, deep: bool = False, before: int | None = None) -> Lines:
    """Read a rollout to its end; `before` is the number that its first record follows, where that is known. Raises OSError."""
    lines = Lines(byte_order_mark=source.read_at(0, len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK)
    numbers = _Numbers(lines, before)
    for block in blocks(source, 0, None, options):
        lines.bytes += block.length
        if block.passed:
            lines.damage.append(Damage(block.offset, block.length - block.terminated, *TOO_LONG, block.terminated))
        elif deep:
            _look_deep(block, lines, numbers)
        else:
            _look_by_sight(block, lines, numbers)
    if source.broken is not None:
        lines.damage.append(Damage(lines.bytes, 0, "broken", source.broken))
    lines.last_ordinal = numbers.before
    return lines


def _look_by_sight(block: Block, lines: Lines, numbers: _Numbers) -> None:
    data = block.data
    suspicious = not block.terminated or not _is_text(data, block.end) or _GLUE in data or b"\0" in data
    for start, stop in _spans(block):
        if (
            not suspicious
            and lines.records
            and (told := canonical_envelope(data, start, stop)) is not None
            and data[stop - 1 : stop] in (b"}", b"\r")
        ):
            lines.records += 1
            numbers.take(block.offset + start, told[1])
        else:
            _take(block, start, stop, lines, numbers)


def _look_deep(block: Block, lines: Lines, numbers: _Numbers) -> None:
    for start, stop in _spans(block):
        found = _take(block, start, stop, lines, numbers)
        if found is None:
            continue
        kind = kind_of(found.record)
        lines.kinds[kind] += 1
        if kind in TYPED:
            try:
                line = line_of(block, start, stop)
                decode_as(line.removeprefix(BYTE_ORDER_MARK) if found.offset == 0 else line, kind)
            except Rejected as rejected:
                lines.bad_payloads.append(Damage(found.offset, found.length, kind, rejected.reason))


def _take(block: Block, start: int, stop: int, lines: Lines, numbers: _Numbers) -> Located | None:
    """Decode one line and count it as what it is."""
    found = judge(block.offset + start, line_of(block, start, stop), terminated=block.terminated)
    if isinstance(found, Damage):
        lines.damage.append(found)
        return None
    if found is None:
        return None
    record: Record[object] = found.record  # type: ignore[assignment]
    lines.first_type = record.type if lines.records == 0 else lines.first_type
    lines.records += 1
    numbers.take(found.offset, record.ordinal)
    return found


class _Numbers:
    """Follows the ordinals of a rollout. They begin with the first record that has one; a legacy rollout has none."""

    def __init__(self, lines: Lines, before: int | None) -> None:
        self._lines = lines
        self.before = before

    def take(self, offset: int, ordinal: int | None) -> None:
        before = self.before
        if before is None:
            self.before = ordinal
            return
        if ordinal is None:
            self._trouble("missing_ordinal", offset, ordinal, before)
            return
        if ordinal <= before:
            self._trouble("duplicate_ordinal", offset, ordinal, before)
        elif ordinal > before + 1:
            self._trouble("ordinal_gap", offset, ordinal, before)
        self.before = ordinal

    def _trouble(self, class_: str, offset: int, ordinal: int | None, before: int) -> None:
        self._lines.number_troubles += 1
        if len(self._lines.numbers) < NUMBER_TROUBLES_MAX:
            self._lines.numbers.append(NumberTrouble(class_, offset, ordinal, before))


def _spans(block: Block) -> Iterator[tuple[int, int]]:
    at = 0
    while at < block.end:
        stop = block.data.find(b"\n", at, block.end)
        stop = stop if stop >= 0 else block.end
        yield at, stop
        at = stop + 1


def _is_text(data: bytes | bytearray, end: int) -> bool:
    if data.isascii():
        return True
    return is_utf8(memoryview(data)[:end])
