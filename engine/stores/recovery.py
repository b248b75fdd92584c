"""What to do with a rollout's tail before it is appended to: the facts, and a decision table.

The tail is what lies behind the last LF. `examine` finds the facts, `decide` the decision, and the recorder does it.
Nothing before the last LF is ever cut, whatever it looks like: damage in the middle is reported, not removed. What is cut
is kept aside. A file that another program may be writing is not touched until its lock is ours too.

    tail                | meta | owned | decision
    --------------------+------+-------+----------------------------------------------------------------
    any                 | any  | no    | refuse: somebody else may be writing it
    any                 | no   | yes   | refuse: a rollout that does not say who it is takes no records
    none                | yes  | yes   | keep
    complete            | yes  | yes   | close: the line gets the LF that it lacks
    torn, NUL, garbage  | yes  | yes   | trim to the last LF, the bytes kept aside

A line that is complete JSON was not cut by a crash, so it is closed and never trimmed, also where it is no record.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from engine.events.record import BYTE_ORDER_MARK, Rejected, decode
from engine.options import Options
from engine.stores.rollouts import Located, Source, lines_backwards, records

_COMPLETE_LOOKS = frozenset({"foreign", "glued", "surrogate"})
"""Rejected lines with an end: JSON that is no record, records without an LF between them, half a surrogate pair."""


class Tail(Enum):
    """What lies behind the last LF."""

    NONE = "none"
    """Nothing: the file ends with an LF, or has no byte at all."""
    COMPLETE = "complete"
    """A line that only lacks its LF."""
    TORN = "torn"
    """A record that was cut, or a line that is longer than any reader takes."""
    NUL = "NUL"
    """NUL bytes, as a power cut leaves them, or white space."""
    GARBAGE = "garbage"
    """Bytes that are no beginning of a record."""


class Facts(NamedTuple):
    """What was seen of a file.

    `meta` tells whether its first record is a session_meta, `owned` that every lock that guards it is held by us.
    """

    meta: bool
    tail: Tail
    owned: bool


class Seen(NamedTuple):
    """The facts, where the tail begins, and whether the stream has ordinals, which its first record tells."""

    facts: Facts
    tail_start: int
    numbered: bool


class Decision(Enum):
    """What is done before the first append."""

    KEEP = "keep"
    CLOSE = "close"
    TRIM = "trim"
    REFUSE_FOREIGN = "somebody else may be writing it"
    REFUSE_UNKNOWN = "no record in it tells which thread it is of"


def decide(facts: Facts) -> Decision:
    """Exactly one row of the table for every combination of facts."""
    match facts:
        case Facts(owned=False):
            return Decision.REFUSE_FOREIGN
        case Facts(meta=False):
            return Decision.REFUSE_UNKNOWN
        case Facts(tail=Tail.NONE):
            return Decision.KEEP
        case Facts(tail=Tail.COMPLETE):
            return Decision.CLOSE
        case _:
            return Decision.TRIM


def examine(source: Source, *, owned: bool, options: Options) -> Seen:
    """The facts of a plain rollout, by its first record and its last line."""
    meta = numbered = False
    for found in records(source, 0, None, options):
        if isinstance(found, Located):
            meta, numbered = found.record.type == "session_meta", found.record.ordinal is not None
            break
    tail_start, tail = _tail(source, options)
    return Seen(Facts(meta, tail, owned), tail_start, numbered)


def _tail(source: Source, options: Options) -> tuple[int, Tail]:
    size = source.stat.size
    for offset, line, terminated in lines_backwards(source, size, options):
        return (size, Tail.NONE) if terminated else (offset, _look_of(offset, line))
    return size, Tail.NONE


def _look_of(offset: int, line: bytes) -> Tail:
    """What an unterminated line is; one that is too long to be held comes empty."""
    if not line:
        return Tail.TORN
    if not line.strip(b"\0 \t\r"):
        return Tail.NUL
    try:
        decode(line.removeprefix(BYTE_ORDER_MARK) if offset == 0 else line)
    except Rejected as rejected:
        if rejected.look in _COMPLETE_LOOKS:
            return Tail.COMPLETE
        return Tail.TORN if line.startswith(b'{"') else Tail.GARBAGE
    return Tail.COMPLETE
