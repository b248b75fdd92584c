"""What a query does before it answers: see one's own writes, what was decided, and what changed on disk, each bounded.

A failure of any of the three makes the answer older, never fails it. A database that was removed, replaced or damaged is
set aside and begun anew, and the query is asked again: its rows follow from the files. Whatever else works on the tables
is begun again in the same way (`mending`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from engine.errors import StoreError
from engine.projections.breath import awaited
from engine.projections.catchup import CatchUp, Partial
from engine.projections.facts import Facts
from engine.projections.flush import Flush
from engine.stores.alive import Alive
from engine.stores.mending import LOST, mending
from engine.stores.sqlite import Database, Transaction

QUERY_WAIT_MS = 250
"""How long a query waits for a flush that is under way elsewhere, or for a lock that another process keeps."""

_Answer = TypeVar("_Answer")


class Fresh:
    """Brings rows up to date for one answer."""

    def __init__(self, database: Database, flush: Flush, facts: Facts, catch_up: CatchUp, alive: Alive) -> None:
        self._database = database
        self._flush = flush
        self._facts = facts
        self._catch_up = catch_up
        self._alive = alive
        self._opened = database.opened

    def ask(
        self,
        question: Callable[[Transaction], _Answer],
        *,
        thread_id: str | None = None,
        is_missing: Callable[[_Answer], bool] | None = None,
    ) -> tuple[_Answer, Partial | None]:
        """The answer in one snapshot, and how far the rows are; None where they cover every file.

        With `thread_id` that thread is looked for even where the rows are far behind, and, where the answer `is_missing`, in
        case it came since the files were looked at. Raises what the question raises, `EngineClosed`, `ForkedEngine`,
        `StoreError`.
        """
        self._alive.check()
        return self.mending(lambda: self._ask(question, thread_id, is_missing))

    def ask_decided(self, question: Callable[[Transaction], _Answer]) -> _Answer:
        """The answer to a question about the journal alone, with all that it holds: no rollout is looked at.

        What cannot follow the journal fails the question. Raises `StoreError`, `HomeUnreadable`, and as `ask` does.
        """
        self._alive.check()

        def asked() -> _Answer:
            self._facts.catch_up()
            with self._database.read() as transaction:
                return question(transaction)

        return self.mending(asked)

    def mending(self, call: Callable[[], _Answer]) -> _Answer:
        """What the call answers; where it meets a database that is lost or damaged, it is called again on a new one."""

        def again() -> _Answer:
            if self._opened != self._database.opened:
                self._opened = self._database.opened
                self.forget()
            return call()

        return mending(self._database, again)

    def forget(self) -> None:
        """The files have changed for sure: the next answer looks at them anew."""
        self._catch_up.forget()
        self._facts.forget()

    def _ask(
        self,
        question: Callable[[Transaction], _Answer],
        thread_id: str | None,
        is_missing: Callable[[_Answer], bool] | None,
    ) -> tuple[_Answer, Partial | None]:
        with awaited():
            with self._database.waiting_at_most(QUERY_WAIT_MS):
                partial = self._look(thread_id)
            with self._database.read() as transaction:
                answer = question(transaction)
            if partial is not None or thread_id is None or is_missing is None or not is_missing(answer):
                return answer, partial
            with self._database.waiting_at_most(QUERY_WAIT_MS), _or_older():
                self._catch_up.look_for(thread_id)
            with self._database.read() as transaction:
                return question(transaction), partial

    def _look(self, thread_id: str | None) -> Partial | None:
        with _or_older():
            self._flush.flush(wait_s=QUERY_WAIT_MS / 1000)
        with _or_older():
            self._facts.catch_up()
        partial = self._catch_up.look()
        if partial is not None and thread_id is not None:
            with _or_older():
                self._catch_up.look_for(thread_id)
        return partial


@contextlib.contextmanager
def _or_older() -> Iterator[None]:
    try:
        yield
    except (StoreError, OSError) as error:
        if isinstance(error, LOST) or type(error) is StoreError:
            raise
