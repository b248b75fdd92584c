"""The state database as an older release left it: made by the first migrations alone, with the rows that it had by then."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.sqlite import Database

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations" / "state"
NUMBER = len(list(MIGRATIONS.glob("*.sql")))
"""How many migrations today's release carries."""


def to_older_shape(state: Path, migrations: int) -> None:
    """Replace `state_1.sqlite` of a state folder that nobody has open by one of the first `migrations`; 0 is an empty file.

    Of every table and column that it had by then the rows are today's.
    """
    today, older = state / "state_1.sqlite", state / "older"
    if migrations == 0:
        _remove(today)
        today.touch()
        return
    sql = older / "sql"
    sql.mkdir(parents=True)
    for path in sorted(MIGRATIONS.glob("*.sql"))[:migrations]:
        shutil.copy(path, sql)
    parts = {"options": Options(), "clock": SystemClock(), "files": Files()}
    Database.open(str(older), "state", 1, migrations=str(sql), **parts).close()
    connection = apsw.Connection(str(older / "state_1.sqlite"))
    connection.execute("ATTACH ? AS today", (str(today),))
    with connection:
        for table in _names(connection, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'migrations'"):
            columns = ", ".join(
                f'"{name}"' for name in _names(connection, f"SELECT name FROM pragma_table_info('{table}')")
            )
            connection.execute(f'DELETE FROM main."{table}"')
            connection.execute(f'INSERT INTO main."{table}" ({columns}) SELECT {columns} FROM today."{table}"')
    connection.close()
    _remove(today)
    (older / "state_1.sqlite").rename(today)
    shutil.rmtree(older)


@contextlib.contextmanager
def at_statement(number: int, do: Callable[[], None]) -> Iterator[None]:
    """Do something before the statement of this number, counted from the first of a migration of `state_1.sqlite`."""
    count = -1

    def before(event: dict[str, Any]) -> None:
        nonlocal count
        if count >= 0 or "TABLE IF NOT EXISTS migrations" in event["sql"]:
            count += 1
            if count == number:
                do()

    def watch(connection: apsw.Connection) -> None:
        if connection.filename.endswith("state_1.sqlite"):
            connection.trace_v2(apsw.SQLITE_TRACE_STMT, before)

    apsw.connection_hooks.append(watch)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(watch)


def applied(state: Path) -> int:
    """How many migrations the database has."""
    connection = apsw.Connection(str(state / "state_1.sqlite"))
    try:
        there = _names(connection, "SELECT name FROM sqlite_schema WHERE name = 'migrations'")
        return len(connection.execute("SELECT number FROM migrations").fetchall()) if there else 0
    finally:
        connection.close()


def _names(connection: apsw.Connection, sql: str) -> list[str]:
    return [name for (name,) in connection.execute(sql).fetchall()]


def _remove(database: Path) -> None:
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()
