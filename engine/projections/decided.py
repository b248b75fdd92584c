"""What the journal decides, as tables take it in: the shape of a family of tags and of the tables that they set.

A tag is the `type` of a `home_event`. Its gatherer turns one record into effects: a statement, what it is about, and the
values bound in it. Of the effects of one statement about one key only the last is written, so a long journal costs a
row, not a history; where a later effect must know the earlier one, the family merges them. Effects are written in the
order in which each was last decided. The journal is applied anew into empty tables whenever it is not what was followed,
so a statement may rest on nothing but records of the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from engine.stores.layout import is_id
from engine.stores.sqlite import Value

Values = dict[str, Value]
Effects = dict[tuple[str, str], Values]
"""The last effect of each statement on each key."""


class Decision(NamedTuple):
    """A record of the journal: its payload, its time (Unix ms, 0 where it cannot be read), its ordinal."""

    payload: Mapping[str, Any]
    at_ms: int
    ordinal: int | None

    def text(self, name: str) -> str | None:
        """A text that is not empty, or None."""
        value = self.payload.get(name)
        return value if isinstance(value, str) and value else None

    def number(self, name: str) -> int | None:
        """A whole number that SQLite can hold, or None."""
        value = self.payload.get(name)
        is_number = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
        return value if is_number else None

    def id(self, name: str) -> str | None:
        """A UUID in its usual form, or None."""
        value = self.payload.get(name)
        return value.lower() if isinstance(value, str) and is_id(value) else None


class Effect(NamedTuple):
    """A statement, the key that it is about, and the values bound in it."""

    sql: str
    key: str
    values: Values


class Shape(NamedTuple):
    """A table that is filled from the journal alone: its key and its other columns, all of which audit compares."""

    table: str
    key: Sequence[str]
    columns: Sequence[str]


class Decided(NamedTuple):
    """A family of tags: the tables they set, what each record comes to, and how two effects of a statement are one.

    `voids`: a statement that takes away what others wrote, and which: their earlier effects on its key, or on every key.
    """

    tables: Sequence[Shape]
    tags: Mapping[str, Callable[[Decision], list[Effect]]]
    merged: Mapping[str, Callable[[Values, Values], Values]] = {}
    voids: Mapping[str, Voided] = {}


class Voided(NamedTuple):
    """Statements whose earlier effects are void, once another one comes."""

    statements: Sequence[str]
    every_key: bool = False
