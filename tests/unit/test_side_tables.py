"""Rows of two tables apart: the counts are those of two bags of rows, whatever the values, and nothing is held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import SystemClock
from engine.options import Options
from engine.projections.side_tables import StreamTable, query_of, rows_apart
from engine.stores.files import Files
from engine.stores.migrate import of_text
from engine.stores.sqlite import Database

NUMBERS = st.integers(-3, 3) | st.just(1 << 62) | st.sampled_from([0.5, -1.25, 1e300])
TEXTS = st.sampled_from(["", "a", "A", "b", "é", "z", "\U0001f600", "\uffff", "a\0b"])
VALUES = st.none() | NUMBERS | TEXTS | st.sampled_from([b"", b"a", b"\xff", b"\0"])
ROWS = st.lists(st.tuples(VALUES, VALUES), max_size=12)
SCHEMA = "CREATE TABLE t (stream TEXT, first ANY COLLATE NOCASE, second ANY) STRICT"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Database, Database]]:
    how: dict[str, Any] = {"options": Options(), "clock": SystemClock(), "files": Files()}
    both = [Database.open(None, "t", 1, migrations="side", more=[of_text("t", SCHEMA)], **how) for _ in range(2)]
    yield both[0], both[1]
    for database in both:
        database.close()


@given(ours=ROWS, theirs=ROWS)
def test_rows_apart_are_counted_as_in_two_bags(
    pair: tuple[Database, Database], ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]
) -> None:
    for database, rows in zip(pair, (ours, theirs), strict=True):
        with database.write() as transaction:
            transaction.run("DELETE FROM t")
            transaction.run_many("INSERT INTO t VALUES ('here', ?, ?)", rows)
            transaction.run("INSERT INTO t VALUES ('elsewhere', 1, 2)")
    with pair[0].read() as one, pair[1].read() as other:
        found = rows_apart(*(each.rows(query_of(each, StreamTable("t")), {"path": "here"}) for each in (one, other)))
    mine, others = Counter(ours), Counter(theirs)
    assert found == ((mine - others).total(), (others - mine).total())
