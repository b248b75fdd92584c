"""The database files by themselves: whether SQLite finds them sound, and whether every table and index is there.

Indexes are compared with their tables: a row that is read by a damaged index may look like another thread's, and no fold
of its file would mend it. Damage that SQLite does not notice shows in the rows, which the rest of an audit compares.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.audit.findings import REPAIR, Finding, finding
from engine.audit.parts import AuditParts
from engine.errors import StoreBusy, StoreError
from engine.stores.sqlite import Database

_SENTENCES_MAX = 3


def damaged(parts: AuditParts) -> Iterator[Finding]:
    """A finding for each database that is damaged."""
    for database in parts.databases:
        said = _damage(parts, database)
        if said:
            yield damage_finding(parts, database.name, database.path, said)
    if parts.jobs is None and parts.home.state is not None and not _opens(parts, "jobs"):
        message = "the jobs database cannot be opened; back-fills run without a lease"
        yield finding("damaged_database", message, field="jobs", why="look at what is in its place")


def _opens(parts: AuditParts, name: str) -> bool:
    """Whether a database that could not be opened when the engine was can be now."""
    try:
        Database.open(
            parts.home.state, name, 1, migrations=name, options=parts.options, clock=parts.clock, files=parts.files
        ).close()
    except StoreError:
        return False
    return True


def damage_finding(parts: AuditParts, name: str, path: str | None, said: list[str], *, mend: str = REPAIR) -> Finding:
    """The finding of a damaged database, with the first sentences that were said of it, without SQLite's heading."""
    said = [line.removeprefix("*** in database main ***\n") for line in said]
    more = f" (and {len(said) - _SENTENCES_MAX} more)" if len(said) > _SENTENCES_MAX else ""
    return finding(
        "damaged_database",
        f"the {name} database is damaged: {'; '.join(said[:_SENTENCES_MAX])}{more}",
        mend=mend,
        path=parts.shown(path or name),
        field=name,
        row_value=said,
    )


def _damage(parts: AuditParts, database: Database) -> list[str]:
    """What is wrong with it. What the disk failed to give is asked for once more before it is told."""
    try:
        return _look(parts, database)
    except StoreBusy:
        raise
    except StoreError:
        try:
            return _look(parts, database)
        except StoreBusy:
            raise
        except StoreError as error:
            return [error.message]


def _look(parts: AuditParts, database: Database) -> list[str]:
    said = database.integrity()
    if said != ["ok"]:
        return said
    return [f"{name} is missing" for name in sorted(_wanted(parts, database) - _there(database))]


def _wanted(parts: AuditParts, database: Database) -> set[str]:
    """What the migrations make."""
    scratch = empty(parts, database.name)
    try:
        return _there(scratch)
    finally:
        scratch.close()


def _there(database: Database) -> set[str]:
    with database.read() as transaction:
        return {f"{kind} {name}" for kind, name in transaction.rows("SELECT type, name FROM sqlite_schema")}


def empty(parts: AuditParts, migrations: str) -> Database:
    """A database of the same shape in memory, with nothing in it."""
    return Database.open(
        None, "scratch", 1, migrations=migrations, options=parts.options, clock=parts.clock, files=parts.files
    )
