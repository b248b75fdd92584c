"""Homes as the Codex CLI leaves them: made rollouts, and beside them databases of its shape that agree with them.

The schemas are written from what is known of that program's tables: the columns that are its own, without its indexes.
Rows come from the making of the rollouts (`MadeThread.row`) and from a plain reading of their lines, not from the engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.audit.foreign import CodexAuditor, CodexReport
from engine.clock import Clock, SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.testing import HomePlan, MadeThread, make_home

THREADS = """
    CREATE TABLE threads (
        id TEXT PRIMARY KEY, rollout_path TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        source TEXT NOT NULL, model_provider TEXT NOT NULL, cwd TEXT NOT NULL, title TEXT NOT NULL,
        sandbox_policy TEXT NOT NULL, approval_mode TEXT NOT NULL, tokens_used INTEGER NOT NULL DEFAULT 0,
        archived INTEGER NOT NULL DEFAULT 0, archived_at INTEGER, git_sha TEXT, git_branch TEXT, git_origin_url TEXT,
        cli_version TEXT NOT NULL DEFAULT '', first_user_message TEXT NOT NULL DEFAULT '', agent_nickname TEXT,
        agent_role TEXT, memory_mode TEXT NOT NULL DEFAULT 'enabled', model TEXT, reasoning_effort TEXT, agent_path TEXT,
        created_at_ms INTEGER, updated_at_ms INTEGER, thread_source TEXT, preview TEXT NOT NULL DEFAULT '',
        recency_at_ms INTEGER NOT NULL DEFAULT 0, history_mode TEXT NOT NULL DEFAULT 'legacy', name TEXT,
        thread_section_id TEXT, attached_thread_parent_id TEXT
    )"""
STATE = [
    THREADS,
    "CREATE TABLE thread_sections (id TEXT PRIMARY KEY, name TEXT NOT NULL)",
    """CREATE TABLE backfill_state (id INTEGER PRIMARY KEY CHECK (id = 1), status TEXT NOT NULL, last_watermark TEXT,
       last_success_at INTEGER, updated_at INTEGER NOT NULL)""",
    """CREATE TABLE thread_spawn_edges (parent_thread_id TEXT NOT NULL, child_thread_id TEXT NOT NULL PRIMARY KEY,
       status TEXT NOT NULL)""",
    "INSERT INTO backfill_state VALUES (1, 'complete', NULL, 0, 0)",
]
HISTORY = [
    """CREATE TABLE thread_history_projection_state (thread_id TEXT PRIMARY KEY, next_rollout_byte_offset INTEGER NOT NULL,
       next_rollout_ordinal INTEGER NOT NULL)""",
    "CREATE TABLE thread_turns (thread_id TEXT NOT NULL, turn_id TEXT NOT NULL, PRIMARY KEY (thread_id, turn_id))",
]
GOALS = [
    """CREATE TABLE thread_goals (thread_id TEXT PRIMARY KEY NOT NULL, goal_id TEXT NOT NULL, objective TEXT NOT NULL,
       status TEXT NOT NULL, token_budget INTEGER, tokens_used INTEGER NOT NULL DEFAULT 0,
       time_used_seconds INTEGER NOT NULL DEFAULT 0, created_at_ms INTEGER NOT NULL, updated_at_ms INTEGER NOT NULL)"""
]
SCHEMAS = {"state_5.sqlite": STATE, "thread_history_1.sqlite": HISTORY, "goals_1.sqlite": GOALS}

TEXTS = ("title", "preview", "first_user_message", "cwd", "cli_version")
STATUSES = {"usageLimited": "usage_limited", "budgetLimited": "budget_limited"}


@dataclass
class CodexHome:
    """Such a home; `threads` by what they are good for in a test."""

    path: Path
    made: list[MadeThread]

    def one(self, **wanted: Any) -> MadeThread:
        """The first interactive thread with one rollout that is like this."""
        return next(
            each
            for each in self.made
            if each.row["source"] in ("cli", "vscode")
            and not each.older_paths
            and each.row["forked_from_id"] is None
            and all({**each.row, "mode": each.history_mode}[name] == value for name, value in wanted.items())
        )

    def child(self) -> MadeThread:
        """A spawned sub-agent."""
        return next(each for each in self.made if each.row["parent_thread_id"] is not None)

    def file(self, thread: MadeThread) -> Path:
        return self.path / thread.path

    def run(self, sql: str, *values: Any, database: str = "state_5.sqlite") -> None:
        """Change a database as that program would, and leave no -wal behind."""
        with contextlib.closing(sqlite3.connect(self.path / database)) as connection, connection:
            connection.execute(sql, values)

    def set(self, thread: MadeThread, **columns: Any) -> None:
        """Change columns of a thread's row."""
        assert columns
        sets = ", ".join(f"{name} = ?" for name in columns)
        self.run(f"UPDATE threads SET {sets} WHERE id = ?", *columns.values(), thread.id)

    def name(self, thread_id: str, name: str) -> None:
        """Write a line of the names file."""
        line = {"id": thread_id, "thread_name": name, "updated_at": "2026-06-01T00:00:00Z"}
        with (self.path / "session_index.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def make_codex_home(path: Path, *, seed: int = 3, threads: int = 14) -> CodexHome:
    """A home in which all agrees, with every kind of thread."""
    made = make_home(path, HomePlan(threads=threads, seed=seed, providers=("openai",), bytes_max=20_000))
    home = CodexHome(path, made)
    for name, statements in SCHEMAS.items():
        with contextlib.closing(sqlite3.connect(path / name)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                for statement in statements:
                    connection.execute(statement)
    for each in made:
        add_thread(home, each)
    return home


def add_thread(home: CodexHome, thread: MadeThread) -> None:
    """The rows of one thread in all databases."""
    row = dict(thread.row)
    parent = row.pop("parent_thread_id")
    row.pop("forked_from_id"), row.pop("originator")
    row |= {name: row[name] or "" for name in TEXTS}
    row |= {"rollout_path": str(home.path / thread.path), "archived": int(bool(row["archived"]))}
    row |= {"created_at": row["created_at_ms"] // 1000, "updated_at": row["updated_at_ms"] // 1000}
    home.run(f"INSERT INTO threads ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())
    if parent is not None:
        home.run("INSERT INTO thread_spawn_edges VALUES (?, ?, 'open')", parent, thread.id)
    goal: dict[str, Any] | None = None
    for path in (*thread.older_paths, thread.path):
        last, size = None, 0
        for line in (home.path / path).read_bytes().splitlines(keepends=True):
            last, size = json.loads(line), size + len(line)
            payload = last["payload"]
            if payload.get("type") == "thread_goal_updated" and payload.get("threadId", thread.id) == thread.id:
                goal = payload["goal"]
        if thread.history_mode == "paginated":
            rollout = thread.rollout_id if path == thread.path else thread.id
            home.run(
                "INSERT INTO thread_history_projection_state VALUES (?, ?, ?)",
                *(rollout, size, last["ordinal"] + 1),
                database="thread_history_1.sqlite",
            )
    if goal is not None:
        add_goal(home, thread.id, goal)


def add_goal(home: CodexHome, thread_id: str, goal: dict[str, Any]) -> None:
    """A goal's row, from its record's words."""
    status = STATUSES.get(goal["status"], goal["status"])
    times = (goal["createdAt"] * 1000 + 1, goal["updatedAt"] * 1000 + 1)
    home.run(
        "INSERT INTO thread_goals VALUES (?, ?, ?, ?, ?, 0, 0, ?, ?)",
        *(thread_id, "g", goal["objective"], status, goal.get("tokenBudget"), *times),
        database="goals_1.sqlite",
    )


def auditor(path: Path, *, clock: Clock | None = None) -> CodexAuditor:
    return CodexAuditor(Home(str(path), None), options=Options(), clock=clock or SystemClock(), files=Files())


def audited(path: Path, *, deep: bool = False) -> CodexReport:
    """An audit of a home's databases."""
    return auditor(path).run(deep=deep)


def told(report: CodexReport) -> set[tuple[str, str | None]]:
    """Class and thread of each finding."""
    return {(each.class_, each.thread_id) for each in report.findings}


def seen(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that a look from outside can tell of every name under a folder, and of the folder itself; atime alone may move."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        stat = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        facts = (stat.st_mode, stat.st_ino, stat.st_nlink, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, content)
        found[str(path.relative_to(folder))] = facts
    return found


def build(folder: Path, databases: dict[str, dict[str, list[dict[str, Any]]]], schemas: str) -> None:
    """Databases from a dump of their rows and their schemas, each below a line `-- name`."""
    for part in schemas.split("-- ")[1:]:
        name, _, statements = part.partition("\n")
        if name.strip() not in databases:
            continue
        with contextlib.closing(sqlite3.connect(folder / name.strip())) as connection:
            connection.executescript("\n".join(plain_statements(statements)))
            for table, rows in databases[name.strip()].items():
                insert(connection, table, rows)
            connection.commit()


def plain_statements(text: str) -> Iterator[str]:
    """Tables and indexes; triggers would change what is inserted, and SQLite makes its own tables itself."""
    statement = ""
    for line in text.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            if not statement.lstrip().startswith(("CREATE TRIGGER", "CREATE TABLE sqlite_")):
                yield statement
            statement = ""


def insert(connection: sqlite3.Connection, table: str, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        names = ", ".join(f'"{name}"' for name in row)
        connection.execute(
            f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(row))})',
            [json.dumps(value) if isinstance(value, (dict, list)) else value for value in row.values()],
        )
