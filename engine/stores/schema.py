"""Whether a schema that somebody wrote can live beside the bookkeeping of a side database.

It is tried in a database in memory, behind the bookkeeping, and may do nothing but make tables, indexes and views. Each
table has a column `stream`, and an index that begins with it: by that the engine removes what was written for a stream.
What fails is `ProjectionUnusable`, before any file is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import apsw

from engine.errors import ProjectionUnusable
from engine.stores.migrate import Migration
from engine.stores.quoting import quoted

_MAKES = {apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_INDEX, apsw.SQLITE_CREATE_VIEW}
_READS = {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_REINDEX}
_CATALOGUE = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}

_ALLOWED = "A schema makes tables, indexes and views of its own, and nothing else."
_ACTIONS: dict[int, str] = {
    number: name.removeprefix("SQLITE_")
    for name, number in apsw.mapping_authorizer_function.items()
    if isinstance(name, str) and isinstance(number, int)
}


def tables_of(sql: str, carried: Sequence[Migration]) -> tuple[str, ...]:
    """The tables that a schema makes behind these migrations. Raises `ProjectionUnusable`."""
    with contextlib.closing(apsw.Connection(":memory:")) as connection:
        for migration in carried:
            connection.execute(migration.sql)
        taken = {"migrations", *_tables(connection)}
        refused: list[str] = []
        connection.authorizer = lambda action, first, second, *_: _judge(action, first, second, taken, refused)
        try:
            connection.execute(sql)
        except apsw.Error as error:
            connection.authorizer = None
            if refused:
                raise ProjectionUnusable(f"Its schema {refused[0]}.", hint=_ALLOWED) from error
            raise ProjectionUnusable(f"Its schema cannot be used: {error}.", hint="Mend the SQL.") from error
        connection.authorizer = None
        made = tuple(table for table in _tables(connection) if table not in taken)
        if not made:
            raise ProjectionUnusable("Its schema makes no table.", hint="Give it a table to write its rows to.")
        for table in made:
            _check_table(connection, table)
        return made


def _judge(action: int, first: str | None, second: str | None, taken: set[str], refused: list[str]) -> int:
    """For SQLite: whether a schema may do this."""
    if action in _MAKES:
        table = (second if action == apsw.SQLITE_CREATE_INDEX else first) or ""
        if table.lower() not in taken:
            return apsw.SQLITE_OK
        refused.append(f"uses the name {table}, which is one of the engine's own in that file")
    elif action in _READS or (action in _CATALOGUE and first in ("sqlite_master", "sqlite_schema")):
        return apsw.SQLITE_OK
    else:
        what = " ".join(word for word in (_ACTIONS.get(action, str(action)), first, second) if word)
        refused.append(f"does what it may not: {what}")
    return apsw.SQLITE_DENY


def _tables(connection: apsw.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name"
    )
    return [str(name) for (name,) in rows]


def _check_table(connection: apsw.Connection, table: str) -> None:
    columns = [row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
    if "stream" not in columns:
        raise ProjectionUnusable(
            f"Its table {table} has no column stream.",
            hint="Add `stream TEXT NOT NULL`, and write the path of the row's stream into it.",
        )
    if connection.execute("SELECT 1 FROM pragma_foreign_key_list(?)", (table,)).fetchone() is not None:
        raise ProjectionUnusable(
            f"Its table {table} has a foreign key.", hint="Leave it out: rows are removed stream by stream."
        )
    plan = connection.execute(f"EXPLAIN QUERY PLAN DELETE FROM {quoted(table)} WHERE stream = ?", ("",))  # noqa: S608
    if any(str(step).startswith("SCAN") for *_, step in plan):
        raise ProjectionUnusable(
            f"Its table {table} has no index that begins with stream.",
            hint="Begin the primary key with stream, or make an index on it.",
        )
