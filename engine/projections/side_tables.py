"""Which rows of a side database's tables are of which stream: what removals, rebuilds and comparisons go by.

A row is of a stream by one column: the stream's path, or, where a table has many small rows, the number that the table
`rollouts` of the same file gives that path. Such numbers are the file's own: the same rollout has another one elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.stores.quoting import quoted

if TYPE_CHECKING:
    from engine.stores.sqlite import Row, Transaction


class StreamTable(NamedTuple):
    """A table whose rows are of streams. The first `local` columns hold numbers that mean nothing in another file."""

    name: str
    column: str = "stream"
    numbered: bool = False
    local: int = 0


SET_ASIDE = StreamTable("set_aside")
"""Part of the bookkeeping, and yet rows of streams."""


def query_of(transaction: Transaction, table: StreamTable) -> str:
    """What gives the rows of the stream `:path` in the order of `rows_apart`, without the file's own numbers."""
    names = [name for (name,) in transaction.rows("SELECT name FROM pragma_table_info(:table)", {"table": table.name})]
    shown = [f"{quoted(name)} COLLATE BINARY" for name in names[table.local :]]
    key = "(SELECT number FROM rollouts WHERE path = :path)" if table.numbered else ":path"
    columns = ", ".join(shown)
    return f"SELECT {columns} FROM {quoted(table.name)} WHERE {table.column} = {key} ORDER BY {columns}"  # noqa: S608


def rows_apart(ours: Iterator[Row], theirs: Iterator[Row]) -> tuple[int, int]:
    """How many rows only one of two has, each in SQLite's order. Memory is two rows."""
    more = fewer = 0
    mine, other = next(ours, None), next(theirs, None)
    while mine is not None or other is not None:
        if mine == other:
            mine, other = next(ours, None), next(theirs, None)
        elif other is None or (mine is not None and _order(mine) < _order(other)):
            more, mine = more + 1, next(ours, None)
        else:
            fewer, other = fewer + 1, next(theirs, None)
    return more, fewer


def _order(row: Row) -> list[tuple[int, Any]]:
    """As SQLite has it: nothing, numbers, texts, bytes."""
    return [
        (0, 0)
        if value is None
        else (1, value)
        if isinstance(value, int | float)
        else (2 + (type(value) is bytes), value)
        for value in row
    ]


def count(transaction: Transaction, table: StreamTable, paths: Sequence[str]) -> int:
    """How many rows are of these streams."""
    row = transaction.row(f"SELECT count(*) {_of_paths(table)}", _named(paths))
    return 0 if row is None else int(row[0])


def orphans(transaction: Transaction, table: StreamTable) -> Iterator[tuple[str | None, int]]:
    """Streams that were not followed, None for one that has no name, and how many rows are of them all the same."""
    stream = f"(SELECT path FROM rollouts WHERE number = {table.column})" if table.numbered else table.column  # noqa: S608
    yield from transaction.rows(
        f"SELECT {stream} AS path, count(*) FROM {quoted(table.name)}"  # noqa: S608 - the same
        f" WHERE {_not_followed(table)} GROUP BY 1 ORDER BY 1"
    )


def remove_orphans(transaction: Transaction, table: StreamTable) -> None:
    """Remove the rows of streams that were not followed."""
    transaction.run(f"DELETE FROM {quoted(table.name)} WHERE {_not_followed(table)}")  # noqa: S608 - the same


def _of_paths(table: StreamTable) -> str:
    paths = "SELECT value FROM json_each(:paths)"
    keys = f"SELECT number FROM rollouts WHERE path IN ({paths})" if table.numbered else paths  # noqa: S608 - the same
    return f"FROM {quoted(table.name)} WHERE {table.column} IN ({keys})"


def _not_followed(table: StreamTable) -> str:
    followed = "SELECT stream FROM watermarks"
    if table.numbered:
        followed = f"SELECT number FROM rollouts WHERE path IN ({followed})"  # noqa: S608 - the same
    return f"{table.column} NOT IN ({followed})"


def _named(paths: Sequence[str]) -> dict[str, str]:
    return {"paths": msgspec.json.encode(list(paths)).decode()}
