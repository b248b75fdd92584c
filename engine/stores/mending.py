"""Going on where a database was lost or damaged: it is set aside, begun anew, and what was asked is asked again.

For databases whose content can be done without, or comes back from elsewhere. SQLite tells of a removed, a replaced and
of most damaged files; damage may also show as a value that cannot be, a statement that fails, or a file that is taken for
read-only. Such a failure is asked about, and is damage only where the file's own check says so. Of many threads and
processes that meet the damage one sets the file aside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from engine.errors import EngineError, StoreCorrupt, StoreError, StoreReadOnly, StoreReplaced
from engine.stores.link import REBUILD
from engine.stores.sqlite import Database

LOST = (StoreReplaced, StoreCorrupt)

LOSSES_MAX = 3
"""How often one call begins the database anew; more is no accident."""

_Answer = TypeVar("_Answer")


def mending(database: Database, call: Callable[[], _Answer]) -> _Answer:
    """What the call answers, in the end on a new database. Raises what it raises for any other reason."""
    for _ in range(LOSSES_MAX):
        opened = database.opened
        try:
            return call()
        except Exception as error:
            if not isinstance(error, LOST) and (not _is_odd(error) or _is_sound(database)):
                raise
        database.replace_once(opened)
    return call()


@contextlib.contextmanager
def telling_damage(database: Database) -> Iterator[None]:
    """A failure that could come of damage is `StoreCorrupt` where the file's own check finds some."""
    try:
        yield
    except Exception as error:
        if isinstance(error, LOST) or not _is_odd(error) or _is_sound(database):
            raise
        raise StoreCorrupt(f"{database.path} is damaged: {error}", path=database.path, hint=REBUILD) from error


def _is_odd(error: Exception) -> bool:
    """Whether it could come of damage; other errors of ours say what they are."""
    return not isinstance(error, EngineError) or type(error) in (StoreError, StoreReadOnly)


def _is_sound(database: Database) -> bool:
    try:
        return database.integrity() == ["ok"]
    except StoreError as error:
        return not isinstance(error, LOST)
