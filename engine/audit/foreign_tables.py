"""What the Codex CLI's own databases say: found, read without a trace, and held in memory for one audit.

Of each database the newest shape is read (`state_5` before `state_4`), in the folder that `config.toml` names as
`sqlite_home`, else in the home. Columns and tables are those that are there: older releases lack some, newer ones have
more. A database that cannot be read becomes a finding and is then as if it were not there; nothing here raises for it.

Texts are cut: an audit compares how they begin. Rows are kept encoded, since as objects they would take five times as much.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from engine.audit.findings import Finding, finding
from engine.clock import Clock
from engine.errors import StoreError
from engine.stores.files import Files, FileStat
from engine.stores.foreign_db import ForeignDatabase, read_foreign
from engine.stores.layout import Home

TEXT_CHARS_MAX = 1024
"""How much of a text is compared."""

COLUMNS = (
    "id rollout_path updated_at updated_at_ms source model_provider cwd title preview first_user_message model "
    "reasoning_effort cli_version approval_mode tokens_used archived history_mode name memory_mode git_sha git_branch "
    "git_origin_url agent_nickname agent_role agent_path thread_section_id attached_thread_parent_id"
).split()
_CUT = dict.fromkeys(("title", "preview", "first_user_message", "name"), TEXT_CHARS_MAX)
_NEEDED = {"id", "rollout_path", "source", "archived"}

_DATABASES = ("state", "thread_history", "goals")
_NAME = re.compile(rf"({'|'.join(_DATABASES)})_([1-9][0-9]{{0,8}})\.sqlite", re.ASCII)
_CONFIG_BYTES_MAX = 1024 * 1024

Row = dict[str, Any]
"""A row of its `threads`, by the names in `COLUMNS`; one that its table does not have is None."""

T = TypeVar("T")


class GoalRow(NamedTuple):
    """A row of its `thread_goals`; times in Unix milliseconds."""

    objective: str
    status: str
    token_budget: int | None
    created_at_ms: int
    updated_at_ms: int


class Edge(NamedTuple):
    """A row of its `thread_spawn_edges`."""

    parent: str
    child: str


class Projection(NamedTuple):
    """How far its turns follow a rollout."""

    offset: int
    ordinal: int


class Config(NamedTuple):
    """What its configuration says that decides what a list shows, and where its databases are. None is not said."""

    provider: str | None = None
    sqlite_home: str | None = None


class Tables(Struct):
    """All that was read. A collection is None where its table is not there or cannot be read."""

    databases: list[str]
    columns: frozenset[str] = frozenset()
    threads: dict[str, bytes] | None = None
    sections: set[str] | None = None
    edges: list[Edge] | None = None
    backfill: str | None = None
    projections: dict[str, Projection] | None = None
    goals: dict[str, GoalRow] | None = None
    provider: str = ""
    """The provider of which its default list shows threads."""
    provider_is_configured: bool = False
    bad_ids: int = 0
    problems: list[Finding] = []
    stats: dict[str, tuple[FileStat | None, FileStat | None]] = {}
    """Of each database the file and its -wal, as they were before they were read."""

    def row(self, thread_id: str) -> Row | None:
        """The row of a thread, or None."""
        data = (self.threads or {}).get(thread_id)
        return None if data is None else dict(zip(COLUMNS, msgspec.msgpack.decode(data), strict=True))

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Every thread's row."""
        for thread_id in self.threads or {}:
            row = self.row(thread_id)
            assert row is not None
            yield thread_id, row


def load_tables(home: Home, *, deep: bool, clock: Clock, files: Files) -> Tables:
    """Read that program's databases; with `deep` SQLite looks at every page of them, too."""
    return _Loader(home, deep=deep, clock=clock, files=files).load()


def changed(tables: Tables, files: Files) -> bool:
    """Whether somebody wrote to a database since it was read."""
    return any(_stat_of(path, files) != before for path, before in tables.stats.items())


class _Loader:
    """Reads one home's databases."""

    def __init__(self, home: Home, *, deep: bool, clock: Clock, files: Files) -> None:
        self._home = home
        self._deep = deep
        self._clock = clock
        self._files = files
        self._tables = Tables(databases=[])

    def load(self) -> Tables:
        tables = self._tables
        config = read_config(self._home, self._files)
        paths = self._find(config.sqlite_home or self._home.path)
        tables.databases = [path.rpartition("/")[2] for path in paths.values()]
        tables.stats = {path: _stat_of(path, self._files) for path in paths.values()}
        for name, take in (("state", self._state), ("thread_history", self._history), ("goals", self._goals)):
            if name in paths:
                self._read(paths[name], take)
        tables.provider_is_configured = config.provider is not None
        tables.provider = config.provider or _usual_provider(tables)
        return tables

    def _find(self, folder: str) -> dict[str, str]:
        """The newest shape of each database."""
        newest: dict[str, int] = {}
        try:
            names = [entry.name for entry in self._files.scan(folder, op="foreign.scan")]
        except OSError as error:
            message = f"the folder of its databases, {folder}, cannot be read: {error.strerror}"
            self._tables.problems.append(finding("codex_unreadable", message))
            return {}
        for found in filter(None, map(_NAME.fullmatch, names)):
            newest[found[1]] = max(newest.get(found[1], 0), int(found[2]))
        return {name: f"{folder}/{name}_{newest[name]}.sqlite" for name in _DATABASES if name in newest}

    def _read(self, path: str, take: Callable[[ForeignDatabase], str | None]) -> None:
        name = path.rpartition("/")[2]
        try:
            problem, damage = read_foreign(
                path, lambda found: self._look(found, take), clock=self._clock, files=self._files
            )
        except StoreError as error:
            message = f"{error.message}; {error.hint}" if error.hint else error.message
            self._tables.problems.append(finding("codex_unreadable", message, path=name))
            return
        if problem is not None:
            self._tables.problems.append(finding("codex_unreadable", f"{name} {problem}", path=name))
        for each in damage:
            self._tables.problems.append(finding("codex_damaged_database", f"{name}: {each}", path=name))

    def _look(
        self, found: ForeignDatabase, take: Callable[[ForeignDatabase], str | None]
    ) -> tuple[str | None, list[str]]:
        return take(found), found.damage() if self._deep else []

    def _state(self, found: ForeignDatabase) -> str | None:
        tables = self._tables
        columns = found.columns("threads")
        if not columns >= _NEEDED:
            return _unknown_shape("threads", columns)
        threads: dict[str, bytes] = {}
        bad_ids = 0
        for row in found.rows("threads", COLUMNS, chars_max=_CUT):
            if isinstance(row[0], str):
                threads[row[0].lower()] = msgspec.msgpack.encode(row)
            else:
                bad_ids += 1
        tables.columns, tables.threads, tables.bad_ids = columns, threads, bad_ids
        if found.columns("thread_sections"):
            tables.sections = {each for (each,) in found.rows("thread_sections", ["id"])}
        if found.columns("thread_spawn_edges"):
            edges = found.rows("thread_spawn_edges", ["parent_thread_id", "child_thread_id"])
            tables.edges = [Edge(str(parent).lower(), str(child).lower()) for parent, child in edges]
        tables.backfill = next((str(word) for (word,) in found.rows("backfill_state", ["status"])), None)
        self._goals(found)  # before 0.150 goals were kept here
        return None

    def _history(self, found: ForeignDatabase) -> str | None:
        wanted = ["thread_id", "next_rollout_byte_offset", "next_rollout_ordinal"]
        columns = found.columns("thread_history_projection_state")
        if not columns >= set(wanted):
            return _unknown_shape("thread_history_projection_state", columns)
        rows = found.rows("thread_history_projection_state", wanted)
        self._tables.projections = {
            str(rollout).lower(): Projection(offset, ordinal)
            for rollout, offset, ordinal in rows
            if isinstance(offset, int) and isinstance(ordinal, int)
        }
        return None

    def _goals(self, found: ForeignDatabase) -> str | None:
        wanted = ["thread_id", *GoalRow._fields]
        columns = found.columns("thread_goals")
        if not columns >= set(wanted):
            return _unknown_shape("thread_goals", columns)
        rows = found.rows("thread_goals", wanted, chars_max={"objective": TEXT_CHARS_MAX})
        self._tables.goals = {str(thread).lower(): _goal(values) for thread, *values in rows}
        return None


def read_config(home: Home, files: Files) -> Config:
    """`config.toml` as far as it matters here; one that cannot be read says nothing."""
    text = files.read_all(f"{home.path}/config.toml", bytes_max=_CONFIG_BYTES_MAX, op="foreign.config")
    try:
        said = tomllib.loads((text or b"").decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return Config()
    profiles = said.get("profiles")
    chosen = profiles.get(said.get("profile")) if isinstance(profiles, dict) else None
    provider = (chosen.get("model_provider") if isinstance(chosen, dict) else None) or said.get("model_provider")
    folder = said.get("sqlite_home")
    return Config(
        provider if isinstance(provider, str) and provider else None,
        folder.rstrip("/") if isinstance(folder, str) and folder.startswith("/") else None,
    )


def _usual_provider(tables: Tables) -> str:
    """Where no configuration names one (it may be given on its command line), the one that most threads have."""
    counts = Counter(row["model_provider"] for _, row in tables.rows() if row["model_provider"])
    return str(max(counts, key=lambda name: (counts[name], name))) if counts else ""


def _unknown_shape(table: str, columns: Sequence[str] | frozenset[str]) -> str:
    if not columns:
        return f"has no table {table}: it is empty, or of a release that keeps this elsewhere"
    return f"has a table {table} of a shape that is not known here"


def _goal(values: Sequence[Any]) -> GoalRow:
    objective, status, budget, created, updated = values
    return GoalRow(
        str(objective),
        str(status),
        budget if isinstance(budget, int) else None,
        created if isinstance(created, int) else 0,
        updated if isinstance(updated, int) else 0,
    )


def _stat_of(path: str, files: Files) -> tuple[FileStat | None, FileStat | None]:
    return files.stat(path, op="foreign.stat"), files.stat(path + "-wal", op="foreign.stat")
