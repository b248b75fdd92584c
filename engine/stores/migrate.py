"""Numbered SQL files, applied once each and in order, that make a database what this engine expects.

A migration is `NNNN_verb_noun.sql`, in `engine/_migrations/<which>/` of an installed package or in the checkout's
`migrations/<which>/`. Each is applied in one transaction together with its row in `migrations`; a crash leaves it
wholly applied or not at all. A checksum over the text, deaf to line ends, comments and trailing blanks (git and editors
change those), proves that what was applied is what is carried: a difference is `MigrationChanged`, and nothing is
touched. Numbers that this engine does not know were applied by a newer one and are left in peace, since migrations only
add.

Nothing here locks out other starters; `sqlite.Database.open` calls `apply` under the setup lock.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import apsw

from engine.clock import Clock
from engine.errors import MigrationChanged, StoreCorrupt, StoreUnavailable
from engine.stores.files import Files

BEHIND = 10_000
"""What is carried behind the numbered files of a folder (the tables of one projection) has its numbers from here on."""

_NAME = re.compile(r"(?P<number>[0-9]{4})_[a-z0-9_]+\.sql")
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_FILE_BYTES_MAX = 1024 * 1024

_QUOTED_OR_COMMENT = re.compile(
    r"""(?P<quoted>'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\])|--[^\n]*|/\*.*?(?:\*/|\Z)""", flags=re.DOTALL
)

_FLIPPED_MAX = 8
"""Digits of a checksum that damage may have changed; of two texts' checksums some sixty differ."""

_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (
    number        INTEGER NOT NULL PRIMARY KEY,
    name          TEXT    NOT NULL,
    checksum      TEXT    NOT NULL,
    applied_at_ms INTEGER NOT NULL
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file. `sql` has plain line feeds; `checksum` is that of its meaning, not of its bytes."""

    number: int
    name: str
    sql: str
    checksum: str


def load(which: str, files: Files) -> list[Migration]:
    """The migrations of one database in their order. `which` is a name (`state`), or the path of a folder of your own.

    Raises `StoreUnavailable` where there is none, or where two bear one number.
    """
    folder = _locate(which, files)
    found: list[Migration] = []
    try:
        names = sorted(entry.name for entry in files.scan(folder, op="migrate.scan") if entry.name.endswith(".sql"))
    except OSError as error:
        raise _incomplete(folder) from error
    for name in names:
        matched = _NAME.fullmatch(name)
        text = files.read_all(os.path.join(folder, name), bytes_max=_FILE_BYTES_MAX, op="migrate.read")
        if matched is None or text is None or len(text) == _FILE_BYTES_MAX:
            raise _unusable(folder, name, "it is no readable NNNN_verb_noun.sql")
        number = int(matched["number"])
        if found and found[-1].number == number:
            raise _unusable(folder, name, f"{found[-1].name} bears the same number")
        sql = _plain(text)
        found.append(Migration(number, name, sql, checksum(sql)))
    if not found:
        raise _incomplete(folder)
    return found


def of_text(name: str, sql: str) -> Migration:
    """A schema that is one text and no file."""
    plain = _plain(sql.encode("utf-8", "replace"))
    return Migration(1, name, plain, checksum(plain))


def behind(carried: Sequence[Migration], more: Sequence[Migration]) -> list[Migration]:
    """The migrations of a folder, and those of one projection behind them, whatever is added to the folder later."""
    return [*carried, *(replace(migration, number=BEHIND + migration.number) for migration in more)]


def checksum(sql: str) -> str:
    """The same for two texts that differ in nothing but comments, empty lines and trailing blanks (so, CRLF too)."""
    bare = _QUOTED_OR_COMMENT.sub(lambda found: found["quoted"] or " ", sql)
    lines = (line.rstrip() for line in bare.split("\n"))
    return hashlib.sha256("\n".join(line for line in lines if line).encode()).hexdigest()


def pending(connection: apsw.Connection, carried: Sequence[Migration], path: str) -> list[Migration]:
    """Which migrations the database still lacks.

    Raises `MigrationChanged` where an applied one differs, `StoreCorrupt` where the note of it is damaged.
    """
    noted = dict(applied(connection))
    known = {migration.checksum for migration in carried}
    for migration in carried:
        checksum = noted.get(migration.number, migration.checksum)
        if checksum != migration.checksum and (checksum in known or _is_flipped(checksum, migration.checksum)):
            raise StoreCorrupt(
                f"the checksum of migration {migration.name} is damaged in {path}", path=path, hint=f"move {path} away"
            )
        if checksum != migration.checksum:
            raise MigrationChanged(
                f"migration {migration.name} was applied to {path} in another wording than this engine carries",
                path=path,
                hint=f"move {path} away to have it built again, or install the engine that made it",
            )
    return [migration for migration in carried if migration.number not in noted]


def apply(
    connection: apsw.Connection, carried: Sequence[Migration], path: str, clock: Clock, *, header: Sequence[str] = ()
) -> list[Migration]:
    """Apply what is missing, each in its own transaction, and say what that was. The setup lock must be held.

    `header` are statements that mark the file as ours, run in the first of these transactions.
    """
    with connection:
        connection.execute(_CREATE_TABLE)
        for statement in header:
            connection.execute(statement)
    missing = pending(connection, carried, path)
    for migration in missing:
        with connection:
            connection.execute(migration.sql)
            connection.execute(
                "INSERT INTO migrations (number, name, checksum, applied_at_ms) VALUES (?, ?, ?, ?)",
                (migration.number, migration.name, migration.checksum, clock.wall_ms()),
            )
    return missing


def applied(connection: apsw.Connection) -> list[tuple[int, str]]:
    """Number and checksum of each migration that was applied; none where there is no table of them."""
    if (
        connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'").fetchone()
        is None
    ):
        return []
    rows: list[Any] = connection.execute("SELECT number, checksum FROM migrations").fetchall()
    return rows


def _is_flipped(checksum: str, carried: str) -> bool:
    """Whether a noted checksum is a damaged copy of the one that is carried: those of two texts differ nearly everywhere.

    Of a row whose lengths are damaged a part of what stands before or behind it is read, which is no checksum at all.
    """
    if _CHECKSUM.fullmatch(str(checksum)) is None:
        return True
    return sum(ours != noted for ours, noted in zip(carried, checksum, strict=True)) <= _FLIPPED_MAX


def _plain(text: bytes) -> str:
    """UTF-8 with plain line feeds; a byte order mark is an editor's doing too."""
    return text.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _locate(which: str, files: Files) -> str:
    if os.path.isabs(which):
        return which
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.join(package, "_migrations", which)
    if files.kind(installed, op="migrate.locate", follow=True) == "folder":
        return installed
    return os.path.join(os.path.dirname(package), "migrations", which)


def _incomplete(folder: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"there are no migrations in {folder}",
        path=folder,
        hint="the installation is incomplete: pip install --force-reinstall rolloutdb",
    )


def _unusable(folder: str, name: str, reason: str) -> StoreUnavailable:
    return StoreUnavailable(f"migration {name} cannot be used: {reason}", path=folder, hint=f"rename or remove {name}")
