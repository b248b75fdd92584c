"""Whether a database file is what it was made to be, where SQLite itself does not ask: header, schema, migrations.

SQLite checks pages when it meets them. A flipped bit in the header can make a file read-only, of an unknown format, or
another program's; one in the schema renames a column; one in the notes of migrations makes an applied one look like
another. Each is told apart here from the real thing, so that damage is set aside and built again while a newer shape,
another program's file and a changed migration stay untouched. Everything is read by SQLite's own handle.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from engine.stores import migrate
from engine.stores.migrate import Migration

_WRITE_VERSION, _READ_VERSION = 18, 19
_SCHEMA_FORMAT = slice(44, 48)
_APPLICATION_ID = slice(68, 72)

_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"


def header_damage(connection: apsw.Connection) -> list[str]:
    """What is wrong with the versions in the file's header; they never change after the switch to WAL."""
    header = _header(connection)
    if not header:
        return []
    found = []
    if header[_WRITE_VERSION] > 2 or header[_READ_VERSION] > 2:
        found.append(f"the header names file format {header[_WRITE_VERSION]}/{header[_READ_VERSION]}")
    schema_format = int.from_bytes(header[_SCHEMA_FORMAT], "big")
    if schema_format > 4:
        found.append(f"the header names schema format {schema_format}")
    return found


def schema_damage(connection: apsw.Connection, carried: Sequence[Migration]) -> list[str]:
    """What the schema has that the migrations do not make, and the other way; nothing is said of a newer engine's."""
    known = {migration.number for migration in carried}
    if any(number not in known for number, _ in migrate.applied(connection)):
        return []
    wanted, found = _made_by(carried), _schema(connection)
    return [
        f"{name} is not as its migration makes it" for name in sorted(wanted.keys()) if found.get(name) != wanted[name]
    ]


def has_our_migrations(connection: apsw.Connection, carried: Sequence[Migration]) -> bool:
    """Whether every migration that was applied is one that we carry, and there is one."""
    try:
        applied = migrate.applied(connection)
    except apsw.SQLError:
        return False
    checksums = {migration.number: migration.checksum for migration in carried}
    return bool(applied) and all(checksums.get(number) == checksum for number, checksum in applied)


def has_our_id(connection: apsw.Connection, application_id: int) -> bool:
    """Whether the file itself has our id: where SQLite reads another, that is of a -wal that belongs to another file."""
    return int.from_bytes(_header(connection)[_APPLICATION_ID], "big") == application_id


def _header(connection: apsw.Connection) -> bytes:
    """The first 100 bytes of the file, which the -wal may hold newer ones of; nothing in memory and of a new file."""
    whole, header = connection.read("main", 0, 0, 100) if connection.filename else (False, b"")
    return header if whole else b""


def _made_by(carried: Sequence[Migration]) -> dict[str, tuple[str, str, str]]:
    fresh = apsw.Connection(":memory:")
    try:
        for migration in carried:
            fresh.execute(migration.sql)
        return _schema(fresh)
    finally:
        fresh.close()


def _schema(connection: apsw.Connection) -> dict[str, tuple[str, str, str]]:
    """By name what each table and index is: white space made even, since releases of SQLite set it differently."""
    rows = connection.execute(_SCHEMA).fetchall()
    return {str(name): (str(kind), str(table), " ".join(str(sql).split())) for kind, name, table, sql in rows}
