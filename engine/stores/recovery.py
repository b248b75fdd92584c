"""What to do with a rollout's tail before it is appended to: a decision table, and nothing else.

The tail is what lies behind the last LF. Facts come from the recorder, the decision from `decide`, and the recorder does
it. Nothing before the last LF is ever cut, whatever it looks like: damage in the middle is reported, not removed. What is
cut is kept aside. A file that another program may be writing is not touched until its lock is ours too.

    tail      | meta   | owned    | decision
    ----------+--------+----------+--------------------------------------------------------------
    any       | any    | no       | refuse: somebody else may be writing it
    none      | file is new       | start: the file begins with its session_meta
    none      | whole  | yes      | keep
    whole     | whole  | yes      | close: the last record gets the LF that it lacks
    torn, NUL | whole  | yes      | trim to the last LF, the bytes kept aside
    foreign
    any       | gone   | yes      | refuse: a rollout that does not say who it is takes no records
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Tail(Enum):
    """What lies behind the last LF."""

    NONE = "none"
    """Nothing: the file ends with an LF, or has no byte at all."""
    WHOLE = "whole"
    """A record that only lacks its LF."""
    TORN = "torn"
    """A record that was cut."""
    NUL = "NUL"
    """NUL bytes, as a power cut leaves them."""
    FOREIGN = "foreign"
    """Bytes that are no beginning of a record."""


class Meta(Enum):
    """Whether the rollout says who it is."""

    NEW = "new"
    """There is no byte yet."""
    WHOLE = "whole"
    """A session_meta that can be read."""
    GONE = "gone"
    """Records, and no session_meta that can be read."""


class Facts(NamedTuple):
    """What was seen of a file. `owned` tells that every lock that guards it is held by us."""

    meta: Meta
    tail: Tail
    owned: bool


class Decision(Enum):
    """What is done before the first append."""

    START = "start"
    KEEP = "keep"
    CLOSE = "close"
    TRIM = "trim"
    REFUSE_FOREIGN = "somebody else may be writing it"
    REFUSE_UNKNOWN = "it does not say which thread it is of"


def decide(facts: Facts) -> Decision:  # noqa: PLR0911 - a row of the table each
    """Exactly one row of the table for every combination of facts."""
    if not facts.owned:
        return Decision.REFUSE_FOREIGN
    match facts.meta, facts.tail:
        case Meta.GONE, _:
            return Decision.REFUSE_UNKNOWN
        case Meta.NEW, Tail.NONE:
            return Decision.START
        case Meta.NEW, _:
            # A tail and no record: what the very first write left when it was cut.
            return Decision.TRIM
        case Meta.WHOLE, Tail.NONE:
            return Decision.KEEP
        case Meta.WHOLE, Tail.WHOLE:
            return Decision.CLOSE
        case _:
            return Decision.TRIM
