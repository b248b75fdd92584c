"""What is in a database, as plain values that compare: for "the same rows" in tests.

`dump` reads every table of one SQLite file. Times at which something was written down, counts of attempts and the
generations of leases differ from run to run by nature; `UNSTABLE` names those columns, and `dump` leaves them out. All
else that the engine stores follows from the rollouts alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import apsw

Row = tuple[Any, ...]

UNSTABLE: Mapping[str, Collection[str]] = {
    "backfill": ("last_watermark", "last_success_at_ms", "updated_at_ms"),
    "divergences": ("id", "at_ms"),
    "failures": ("attempts", "first_at_ms", "last_at_ms"),
    "fences": ("name", "generation"),
    "migrations": ("applied_at_ms",),
    "streams": ("missing_since_ms",),
}
"""Columns that tell of the writing and not of the rollouts."""


def dump(path: str | os.PathLike[str], *, without: Mapping[str, Collection[str]] | None = None) -> dict[str, list[Row]]:
    """Every table's rows, sorted, without the columns of `UNSTABLE` and those of `without` (table: columns).

    A table all of whose columns are left out is left out. Of `missing_since_ms` it is kept whether it is set. A damaged
    table with text that is not UTF-8 has one row that says so.
    """
    left_out = {table: {*columns, *(without or {}).get(table, ())} for table, columns in UNSTABLE.items()}
    left_out |= {table: set(columns) for table, columns in (without or {}).items() if table not in left_out}
    connection = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute("BEGIN")
        found: dict[str, list[Row]] = {}
        for (table,) in list(connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")):
            columns = [name for _, name, *_ in connection.execute(f'PRAGMA table_info("{table}")')]
            wanted = [f'"{name}"' for name in columns if name not in left_out.get(table, ())]
            if "missing_since_ms" in columns:
                wanted.append("missing_since_ms IS NOT NULL")
            if wanted:
                rows = connection.execute(f'SELECT {", ".join(wanted)} FROM "{table}"')  # noqa: S608 - from the schema
                try:
                    found[table] = sorted(map(tuple, rows), key=repr)
                except UnicodeDecodeError:
                    found[table] = [("not UTF-8",)]
        return found
    finally:
        connection.close()
