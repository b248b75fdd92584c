"""The newest turns or items of a large rollout that nobody indexed yet: what a first question is answered from at once.

The end of the rollout is folded as the index folds all of it, and written to a database in memory, of which pages are asked
as of the index. Only what is the same there is taken from it: rows of turns that begin in that piece, and of those alone. So
their places are those that the index will have, and a cursor leads on into it. Where so many are not in the last
`TAIL_BYTES_MAX`, or an earlier turn reaches in between them, the answer has to wait for the index. It is taken
for granted that a turn begins once, and before its items; where it is otherwise, only the index shows what came before.

For paginated rollouts alone, and such as can be read anywhere: what a record of a legacy one means depends on all before it,
and so do the ids of its items, which are counted from its beginning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from engine.clock import Clock
from engine.events.policy import PAGINATED
from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.threads import stream_of
from engine.projections.turn_rows import Written, write_rollouts
from engine.projections.turn_state import OPERATIONS, Begun, Ended, Item, Kept, TurnsState
from engine.projections.turns import Turns
from engine.stores.files import Files
from engine.stores.frames import FramedSource
from engine.stores.layout import Found, Home, is_id
from engine.stores.lineage import first_meta, open_rollout
from engine.stores.rollouts import PlainSource
from engine.stores.sqlite import Database, Transaction

TAIL_BYTES_MIN = 256 << 10
TAIL_BYTES_MAX = 16 << 20
"""How much of the end is looked at, at first and at most."""

_MORE = 1.25
"""How much more than seems enough is looked at next."""

_TURNS = Turns()


class Newest(NamedTuple):
    """How many of the newest are asked for; turns, or items of all turns."""

    limit: int
    items: bool


@contextlib.contextmanager
def newest_of(
    home: Home, found: Found, newest: Newest, database: Database, *, options: Options, files: Files
) -> Iterator[Transaction | None]:
    """The rows of one more than that many, or None where they cannot be told from the end. Raises OSError."""
    operations = _operations(home, found, newest, options=options, files=files)
    if operations is None:
        yield None
        return
    with database.write() as transaction:
        write_rollouts(transaction, [Written(found.path, operations, anew=True)])
    with database.read() as transaction:
        yield transaction


def scratch(shape: int, *, options: Options, clock: Clock, files: Files) -> Database:
    """An empty database in memory, of the index's form."""
    return Database.open(None, "tail", shape, migrations="history", options=options, clock=clock, files=files)


def _operations(
    home: Home, found: Found, newest: Newest, *, options: Options, files: Files
) -> Sequence[tuple[Any, ...]] | None:
    meta = first_meta(home, found, options=options, files=files)
    if meta is None or meta.history_mode != PAGINATED or not is_id(meta.id):
        return None
    below = meta.subagent_history_start_ordinal or 0
    source = open_rollout(home, found, options, files)
    try:
        if not isinstance(source, PlainSource | FramedSource):
            return None
        size, plain_size = TAIL_BYTES_MIN, source.plain_size
        while size < plain_size:
            kept = Kept(meta.id.lower(), identified=True, paginated=True, inherited_below=below)
            operations = _folded(source, found, size, kept, options)
            certain = _certain(operations, newest)
            if certain is not None or size >= TAIL_BYTES_MAX:
                return certain
            there = sum(isinstance(each, Item if newest.items else Begun) for each in operations)
            size = min(int(size * max(2, _MORE * (newest.limit + 1) / max(there, 1))), TAIL_BYTES_MAX)
    finally:
        source.close()
    return None


def _folded(
    source: PlainSource | FramedSource, found: Found, size: int, kept: Kept, options: Options
) -> list[tuple[Any, ...]]:
    """What the lines that begin in the last `size` bytes come to."""
    start = source.plain_size - size
    line_end = source.read_at(start, size).find(b"\n")
    if line_end < 0:
        return []
    folder = Folder([_TURNS], options)
    folded = folder.fold_part(stream_of(found.path), source, start + line_end + 1, TurnsState(kept))
    return [OPERATIONS[place](*values) for place, *values in folded.emitted]


def _certain(operations: Sequence[tuple[Any, ...]], newest: Newest) -> list[tuple[Any, ...]] | None:
    """What is the same in the index, where it is enough."""
    turns = [each for each in operations if isinstance(each, Begun)]
    begun = {each.turn for each in turns}
    ends = [each for each in operations if isinstance(each, Ended) and each.turn not in begun]
    if newest.items:
        items = [each for each in operations if isinstance(each, Item)][-newest.limit - 1 :]
        first = turns[0].offset if turns else 0
        enough = len(items) > newest.limit and all(
            each.turn in begun or (each.turn is None and each.offset > first) for each in items
        )
        from_offset = items[0].offset if items else 0
    else:
        enough = len(turns) > newest.limit
        from_offset = turns[-newest.limit - 1].offset if enough else 0
    if not enough or any(end.offset > from_offset for end in ends):
        return None  # an end without a beginning may be a turn of its own
    return [each for each in operations if each not in ends]
