"""What an application reads its own projections by: `engine.projections["tokens_per_day"]`.

A query is any SELECT over the projection's tables. It is answered in one read-only snapshot, after a bounded catch-up, so
it sees what this process appended; where the rows do not cover every file yet, `partial` says how far they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from engine.errors import InvalidRequest, StoreError, StoreReadOnly
from engine.events.record import decode_plain
from engine.projections.catchup import Partial
from engine.projections.own import Guarded
from engine.projections.side import Parts, Side
from engine.projections.side_tables import StreamTable
from engine.projections.sides import OWN_PREFIX
from engine.stores.alive import Alive
from engine.stores.boundary import public
from engine.stores.sqlite import Row, Transaction, Values


class Snapshot:
    """The rows of one moment, inside of `OwnRows.read()`. `partial` is None where they cover every file."""

    def __init__(self, name: str, transaction: Transaction, partial: Partial | None) -> None:
        self.partial = partial
        self._name = name
        self._transaction = transaction

    def rows(self, sql: str, values: Values = ()) -> Iterator[Row]:
        """The rows of a query, one at a time. Values are bound by name (`:day` and a mapping) or by place.

        Raises `InvalidRequest` for a statement that cannot be run, `StoreError`.
        """
        with self._asked():
            yield from self._transaction.rows(sql, values)

    def row(self, sql: str, values: Values = ()) -> Row | None:
        """The first row, or None where there is none. Raises as `rows` does."""
        with self._asked():
            return self._transaction.row(sql, values)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """A statement that SQLite does not take is the caller's mistake; so is one that would write."""
        try:
            yield
        except StoreReadOnly as error:
            raise InvalidRequest(
                f"The rows of {self._name} are only read here.",
                hint="Ask by SELECT; the projection's `write` makes the rows.",
            ) from error
        except StoreError as error:
            if type(error) is not StoreError:
                raise
            raise InvalidRequest(
                f"The rows of {self._name} cannot be asked so: {error.message}.",
                hint="Mend the statement; the tables are those of the projection's `schema`.",
            ) from error


@public
class OwnRows:
    """The rows of one projection."""

    def __init__(self, name: str, side: Side, alive: Alive) -> None:
        self.name = name
        self._side = side
        self._alive = alive

    @contextlib.contextmanager
    def read(self, *, thread_id: str | None = None) -> Iterator[Snapshot]:
        """A read-only snapshot, caught up for at most `list_budget_ms` before.

        With `thread_id` that thread is looked for even where the rows are far behind. Raises `ProjectionFailed` where the
        projection's own code could not fold a rollout, `StoreError`, `EngineClosed`, `ForkedEngine`.
        """
        with self._side.read(thread_id=thread_id) as (transaction, partial):
            yield Snapshot(self.name, transaction, partial)

    def rows(self, sql: str, values: Values = (), *, thread_id: str | None = None) -> list[Row]:
        """All rows of one query. Raises as `read` and `Snapshot.rows` do."""
        found, _ = self._side.ask(
            lambda transaction: list(Snapshot(self.name, transaction, None).rows(sql, values)), thread_id=thread_id
        )
        return found


def side_of(parts: Parts, own: Guarded) -> Side:
    """The side database of one projection of an application's own."""
    tables = [StreamTable(table) for table in own.tables]
    return Side(parts, f"{OWN_PREFIX}{own.name}", own.shape, [own], own.more, tables, decode=decode_plain)


def readers(owned: Sequence[Guarded], sides: Sequence[Side], alive: Alive) -> Mapping[str, OwnRows]:
    """By name, what each projection is read by."""
    return {own.name: OwnRows(own.name, side, alive) for own, side in zip(owned, sides, strict=True)}
