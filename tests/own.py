"""The projection of docs/PROJECTIONS.md, as it stands there, and what tests of side databases share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import engine

PAGE = Path(__file__).resolve().parents[1] / "docs" / "PROJECTIONS.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
NAME = "tokens_per_day"
FILE = "own_tokens_per_day_1.sqlite"
ALL = "SELECT stream, day, model, tokens FROM tokens ORDER BY stream, day, model"


def _defined() -> Any:
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[0], str(PAGE), "exec"), names)
    return names["TokensPerDay"]


TokensPerDay: Any = _defined()


class Heads(engine.Projection):
    """A row a record: where each one that was asked for begins, and its time."""

    name = "heads"
    kinds = frozenset({"session_meta", "turn_context", "response_item.message", "event_msg.user_message"})
    latest = frozenset({"event_msg.token_count"})
    schema = """
        CREATE TABLE heads (
            stream TEXT NOT NULL, place INTEGER NOT NULL, kind TEXT NOT NULL, at TEXT NOT NULL, text TEXT NOT NULL,
            PRIMARY KEY (stream, place)
        ) STRICT;
        CREATE TABLE counts (stream TEXT NOT NULL PRIMARY KEY, heads INTEGER NOT NULL, last TEXT) STRICT;
        CREATE INDEX heads_by_kind ON heads (kind);
        CREATE VIEW kinds AS SELECT kind, count(*) AS heads FROM heads GROUP BY kind;
    """

    def start(self, stream: engine.Stream) -> dict[str, Any]:
        return {"heads": 0, "last": None, "new": []}

    def apply(self, state: Any, record: engine.Record[Any], kind: str, offset: int) -> bool:
        if kind == "event_msg.token_count":
            state["last"] = record.timestamp
            return True
        state["heads"] += 1
        state["new"].append([offset, kind, record.timestamp, str(record.payload)[:80]])
        return True

    def emit(self, state: Any) -> list[Any]:
        new, state["new"] = state["new"], []
        return new

    def write(self, transaction: engine.Transaction, changes: Any) -> None:
        transaction.run_many(
            "INSERT INTO heads (stream, place, kind, at, text) VALUES (?, ?, ?, ?, ?)",
            [(change.stream.path, *each) for change in changes for each in change.emitted],
        )
        transaction.run_many(
            """INSERT INTO counts (stream, heads, last) VALUES (?, ?, ?)
               ON CONFLICT (stream) DO UPDATE SET heads = excluded.heads, last = excluded.last""",
            [(change.stream.path, change.state["heads"], change.state["last"]) for change in changes],
        )


def rows(home: Path, projection: engine.Projection, sql: str, **how: Any) -> list[Any]:
    """What a fresh engine answers, after a look at all files."""
    with engine.open(str(home), projections=[projection], **how) as e:
        return e.projections[projection.name].rows(sql)
