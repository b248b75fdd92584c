"""How SQLite goes about statements, planned in the migrated database at the moment when they are run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.stores.sqlite import Transaction


@contextmanager
def planning() -> Iterator[dict[str, list[str]]]:
    """Within it, each statement that is run (its white space made even) gets its plan."""
    plans: dict[str, list[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rows", "row", "run", "run_many"):
            patch.setattr(Transaction, name, _planned(getattr(Transaction, name), plans, many=name == "run_many"))
        yield plans


def scanned(plan: list[str]) -> list[str]:
    """Steps that go through a table from end to end; the values of a parameter and one row of constants are no table."""
    no_tables = ("VIRTUAL TABLE", "(subquery", "CONSTANT ROW")
    return [step for step in plan if step.startswith("SCAN ") and not any(word in step for word in no_tables)]


def _planned(plain, plans, *, many):
    def run(self, sql, values=()):
        values = list(values) if many else values
        statement = " ".join(sql.split())
        if statement not in plans and (values or not many):
            bound = values[0] if many else values
            plans[statement] = [row[3] for row in self._link.connection.execute(f"EXPLAIN QUERY PLAN {sql}", bound)]
        return plain(self, sql, values)

    return run
