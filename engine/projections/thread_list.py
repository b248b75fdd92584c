"""Questions to the threads table: one row, or a page of them in a stated order.

A page is a keyset page of (key, id), so it is exact under ties and inserts. `next_cursor` goes on in the same direction;
`backwards_cursor` names the page's first row, which comes again when a client pages the other way to see what changed, and
with it all of the same key: one that came to the same millisecond later has any id.
No filter is applied that the request does not name. Order is by record time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from engine.errors import InvalidCursor, InvalidRequest
from engine.projections.cursors import decode_cursor, encode_cursor
from engine.projections.threads import COLUMNS
from engine.stores.layout import is_id
from engine.stores.sqlite import Transaction, Value

SortKey = Literal["created_at", "updated_at", "recency_at"]
SortDirection = Literal["asc", "desc"]
SORT_KEYS: tuple[SortKey, ...] = ("created_at", "updated_at", "recency_at")
SORT_DIRECTIONS: tuple[SortDirection, ...] = ("asc", "desc")


class ThreadRow(Struct, frozen=True):
    """A thread as a list shows it. Times are Unix milliseconds; None is unknown.

    Its first fields are those of `COLUMNS`, in their order. `rollout_path` is absolute in answers, relative to the home
    inside of the engine. `missing` tells that the rollout's
    file is gone. `name` and `archived_at_ms` are what was decided from outside, `memory_mode` is the later of both.
    """

    id: str
    rollout_path: str
    rollout_id: str
    session_id: str | None
    created_at_ms: int
    updated_at_ms: int
    recency_at_ms: int
    source: str
    thread_source: str | None
    originator: str | None
    history_mode: str
    forked_from_id: str | None
    parent_thread_id: str | None
    agent_nickname: str | None
    agent_role: str | None
    agent_path: str | None
    model_provider: str | None
    model: str | None
    reasoning_effort: str | None
    cwd: str | None
    cli_version: str | None
    title: str | None
    preview: str | None
    first_user_message: str | None
    sandbox_policy: str
    approval_mode: str
    tokens_used: int
    memory_mode: str
    memory_mode_at_ms: int | None
    git_sha: str | None
    git_branch: str | None
    git_origin_url: str | None
    archived: bool
    archived_at_ms: int | None = None
    name: str | None = None
    missing: bool = False


class ThreadQuery(Struct, frozen=True, kw_only=True):
    """What to list. `limit` 0 is all; None filters nothing; an empty sequence matches nothing."""

    limit: int = 25
    cursor: str | None = None
    sort_key: SortKey = "updated_at"
    sort_direction: SortDirection = "desc"
    archived: bool | None = None
    cwds: Sequence[str] | None = None
    sources: Sequence[str] | None = None
    model_providers: Sequence[str] | None = None
    models: Sequence[str] | None = None
    parent_thread_id: str | None = None
    ancestor_thread_id: str | None = None
    has_preview: bool | None = None
    search: str | None = None
    counts: bool = False


class Page(Struct, frozen=True, kw_only=True):
    """One page. `total` matches the filters, `hidden` does not; `hidden_by` tells how many each filter alone hides.

    All three are None unless counts were asked for.
    """

    threads: list[ThreadRow]
    next_cursor: str | None
    backwards_cursor: str | None
    total: int | None
    hidden: int | None
    hidden_by: dict[str, int] | None


_INTEGER_MAX = (1 << 63) - 1
"""What SQLite counts with; one row more than the limit is asked for."""


class _Cursor(Struct, frozen=True, array_like=True):
    sort_key: str
    value: Annotated[int, Meta(ge=-_INTEGER_MAX, le=_INTEGER_MAX)]
    id: str
    inclusive: bool


def list_threads(transaction: Transaction, query: ThreadQuery, root: str = "") -> Page:
    """A page of threads, with their paths below `root`. Raises `InvalidRequest` and `InvalidCursor`."""
    _check(query)
    filters, values = _filters(query)
    counted = _count(transaction, filters, values) if query.counts else _Counted(None, None, None)
    where = list(filters.values())
    key = f"threads.{query.sort_key}_ms"
    if query.cursor is not None:
        cursor = _decode_cursor(query.cursor, query.sort_key)
        sign = "<" if query.sort_direction == "desc" else ">"
        values["cursor_value"] = cursor.value
        if cursor.inclusive:
            where = [*where, f"{key} {sign}= :cursor_value"]
        else:
            where = [*where, f"({key}, threads.id) {sign} (:cursor_value, :cursor_id)"]
            values["cursor_id"] = cursor.id
    sql = f"""{_SELECT} {_where(where)} ORDER BY {key} {query.sort_direction}, threads.id {query.sort_direction} LIMIT :limit"""
    values["limit"] = query.limit + 1 if query.limit else -1
    width = len(COLUMNS)
    rows = [_row(row[:width], root, *row[width:]) for row in transaction.rows(sql, values)]
    more = bool(query.limit) and len(rows) > query.limit
    rows = rows[: query.limit] if more else rows
    return Page(
        threads=rows,
        next_cursor=_encode_cursor(rows[-1], query.sort_key, inclusive=False) if more else None,
        backwards_cursor=_encode_cursor(rows[0], query.sort_key, inclusive=True) if rows else None,
        total=counted.total,
        hidden=counted.hidden,
        hidden_by=counted.hidden_by,
    )


class Stored(NamedTuple):
    """A thread as the tables have it: its row in the order of `COLUMNS`, and what was decided from outside."""

    values: tuple[Any, ...]
    decided: Decided


class Decided(NamedTuple):
    """What other streams say of a thread."""

    missing: bool = False
    name: str | None = None
    archived_at_ms: int | None = None
    memory_mode: str | None = None
    memory_mode_at_ms: int | None = None


def get_stored(transaction: Transaction, thread_id: str) -> Stored | None:
    """One thread as it is stored, or None."""
    row = transaction.row(f"{_SELECT} WHERE threads.id = :id", {"id": thread_id.lower()})
    return None if row is None else Stored(row[: len(COLUMNS)], Decided(*row[len(COLUMNS) :]))


def get_thread(transaction: Transaction, thread_id: str, root: str = "") -> ThreadRow | None:
    """One thread's row, or None."""
    stored = get_stored(transaction, thread_id)
    return None if stored is None else row_of(*stored, root)


def get_threads(transaction: Transaction, thread_ids: Sequence[str]) -> dict[str, ThreadRow]:
    """Those of these threads that are listed, by id."""
    sql = f"{_SELECT} WHERE threads.id IN (SELECT value FROM json_each(:ids)) AND {_NOT_DISMISSED}"  # noqa: S608 - names of ours
    rows = transaction.rows(sql, {"ids": msgspec.json.encode(list(thread_ids)).decode()})
    found = (row_of(row[: len(COLUMNS)], Decided(*row[len(COLUMNS) :])) for row in rows)
    return {row.id: row for row in found}


def threads_in(transaction: Transaction, cwds: Sequence[str]) -> list[str]:
    """The ids of the threads of these folders."""
    wanted = {"cwds": msgspec.json.encode(list(cwds)).decode()}
    return [thread_id for (thread_id,) in transaction.rows(_IN_FOLDERS, wanted)]


def named_threads(transaction: Transaction) -> Iterator[tuple[str, str, int]]:
    """The threads that somebody named, but erased ones: id, name, when."""
    yield from transaction.rows(_NAMED)


def row_of(values: Sequence[Any], decided: Decided, root: str = "") -> ThreadRow:
    """The answer: what the rollout says, and what was decided; of two memory modes the later."""
    return _row(values, root, *decided)


def _row(
    values: Sequence[Any],
    root: str,
    missing: bool,  # noqa: FBT001 - the columns behind, in their order: a list has many rows
    name: str | None,
    archived_at_ms: int | None,
    memory_mode: str | None,
    memory_mode_at_ms: int | None,
) -> ThreadRow:
    """A row of a list."""
    fields = list(values)
    fields[_PATH] = root + fields[_PATH]
    archived = fields[_ARCHIVED] = bool(fields[_ARCHIVED])
    if memory_mode is not None and (memory_mode_at_ms or 0) >= (fields[_MODE_AT] or 0):
        fields[_MODE], fields[_MODE_AT] = memory_mode, memory_mode_at_ms
    fields += (archived_at_ms if archived else None, name, bool(missing))
    return ThreadRow(*fields)


_PATH, _ARCHIVED, _MODE, _MODE_AT = map(COLUMNS.index, ("rollout_path", "archived", "memory_mode", "memory_mode_at_ms"))


def _check(query: ThreadQuery) -> None:
    if not 0 <= query.limit < _INTEGER_MAX:
        raise InvalidRequest(f"A limit cannot be {query.limit}.", hint="Give a number of threads, or 0 for all.")
    if query.sort_key not in SORT_KEYS:
        raise InvalidRequest(f"There is no sort key {query.sort_key!r}.", hint=f"Use one of {', '.join(SORT_KEYS)}.")
    if query.sort_direction not in SORT_DIRECTIONS:
        raise InvalidRequest(f"There is no sort direction {query.sort_direction!r}.", hint="Use asc or desc.")
    if query.parent_thread_id is not None and query.ancestor_thread_id is not None:
        raise InvalidRequest("A parent and an ancestor are not both asked for.", hint="Give one of them.")
    for thread_id in (query.parent_thread_id, query.ancestor_thread_id):
        if thread_id is not None and not is_id(thread_id):
            raise InvalidRequest(f"{thread_id!r} is not a thread id.", hint="Thread ids are UUIDs.")


def _filters(query: ThreadQuery) -> tuple[dict[str, str], dict[str, Value]]:
    """The conditions, by the name of what was asked for, and what is bound in them."""
    where: dict[str, str] = {"dismissed": _NOT_DISMISSED}
    values: dict[str, Value] = {}
    if query.archived is not None:
        where["archived"] = "threads.archived = :archived"
        values["archived"] = int(query.archived)
    for column, wanted in _several(query):
        if column == "cwd" and len(wanted) == 1 and query.sort_key == "updated_at":
            where[column], values[column] = "threads.cwd = :cwd", wanted[0]
            continue
        # The + keeps the order's own index: that of folders has no order for several of them, or by another key.
        where[column] = f"+threads.{column} IN (SELECT value FROM json_each(:{column}))"  # noqa: S608 - names of ours
        values[column] = msgspec.json.encode(list(wanted)).decode()
    if query.sources is not None and SUBAGENT in query.sources:
        where["source"] = f"({where['source']} OR {_OF_SUBAGENT})"
    if query.parent_thread_id is not None:
        where["parent_thread_id"] = "threads.parent_thread_id = :parent"
        values["parent"] = query.parent_thread_id.lower()
    if query.ancestor_thread_id is not None:
        where["ancestor_thread_id"] = f"threads.id IN ({_BELOW})"
        values["ancestor"] = query.ancestor_thread_id.lower()
    if query.has_preview is not None:
        where["has_preview"] = "(coalesce(threads.preview, '') <> '') = :has_preview"
        values["has_preview"] = int(query.has_preview)
    if query.search:
        where["search"] = _FOUND
        values["search"] = query.search.casefold()
    return where, values


def _several(query: ThreadQuery) -> Iterator[tuple[str, Sequence[str]]]:
    """The filters that take several values, by column."""
    for column, wanted in (
        ("cwd", query.cwds),
        ("source", query.sources),
        ("model_provider", query.model_providers),
        ("model", query.models),
    ):
        if wanted is not None:
            yield column, wanted


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


class _Counted(NamedTuple):
    total: int | None
    hidden: int | None
    hidden_by: dict[str, int] | None


def _count(transaction: Transaction, filters: Mapping[str, str], values: dict[str, Value]) -> _Counted:
    hides = ", ".join(f"coalesce(sum(NOT coalesce({condition}, 0)), 0)" for condition in filters.values())
    met = " AND ".join(f"coalesce({condition}, 0)" for condition in filters.values())
    sql = f"SELECT count(*), coalesce(sum({met}), 0), {hides} {_FROM}"
    everything, total, *hidden = transaction.row(sql, values) or (0, 0)
    return _Counted(total, everything - total, dict(zip(filters, hidden, strict=False)))


def _encode_cursor(row: ThreadRow, sort_key: str, *, inclusive: bool) -> str:
    value: int = getattr(row, f"{sort_key}_ms")
    return encode_cursor(_Cursor(sort_key, value, row.id, inclusive))


def _decode_cursor(text: str, sort_key: str) -> _Cursor:
    cursor = decode_cursor(text, _Cursor)
    if cursor.sort_key != sort_key:
        raise InvalidCursor(
            f"The cursor is of a list by {cursor.sort_key}, not by {sort_key}.", hint="Keep the sort key while paging."
        )
    return cursor


_MISSING = """EXISTS (
    SELECT 1 FROM streams WHERE streams.path = threads.rollout_path AND streams.missing_since_ms IS NOT NULL
)"""

_NOT_DISMISSED = f"(facts.dismissed_at_ms IS NULL OR NOT {_MISSING})"
"""A dismissed thread is one whose rollout is gone; it comes back with its rollout."""

_NAME = """iif(
    coalesce(facts.name_at_ms, -1) >= coalesce(index_names.name_at_ms, -1), facts.name, nullif(index_names.name, '')
)"""
"""Two streams may name a thread: the later record counts, also one that takes the name away."""

_NAMED = f"""
    SELECT * FROM (
        SELECT ids.thread_id, {_NAME} AS name,
            max(coalesce(facts.name_at_ms, -1), coalesce(index_names.name_at_ms, -1)) AS at_ms
        FROM (
            SELECT thread_id FROM facts WHERE name IS NOT NULL UNION SELECT thread_id FROM index_names
        ) AS ids
        LEFT JOIN facts ON facts.thread_id = ids.thread_id
        LEFT JOIN index_names ON index_names.thread_id = ids.thread_id
        WHERE facts.erased_at_ms IS NULL AND coalesce(facts.erase_pending, 0) = 0
    ) WHERE name IS NOT NULL AND name <> ''
"""  # noqa: S608 - names of ours

_IN_FOLDERS = "SELECT id FROM threads WHERE cwd IN (SELECT value FROM json_each(:cwds))"

_FOUND = f"instr(casefold(concat_ws(char(31), title, preview, first_user_message, {_NAME})), :search)"

SUBAGENT = "subagent"
"""As a source it stands for every kind of sub-agent, whose sources are JSON."""

_OF_SUBAGENT = """threads.source LIKE '{"subagent"%'"""

_BELOW = """
    WITH RECURSIVE below (id) AS (
        SELECT id FROM threads WHERE parent_thread_id = :ancestor
        UNION SELECT threads.id FROM below JOIN threads ON threads.parent_thread_id = below.id
    ) SELECT id FROM below
"""
"""Children and theirs; UNION ends cycles."""

_FROM = """FROM threads LEFT JOIN facts ON facts.thread_id = threads.id
    LEFT JOIN index_names ON index_names.thread_id = threads.id"""

_SELECT = f"""
    SELECT {", ".join(f"threads.{column}" for column in COLUMNS)},
    {_MISSING}, {_NAME}, facts.archived_at_ms, facts.memory_mode, facts.memory_mode_at_ms {_FROM}
"""
