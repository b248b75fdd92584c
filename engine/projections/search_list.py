"""Questions to the index of what was said: a page of the messages, and names, in which all that is sought is there.

A page is a keyset page. By time it is exact while messages come and go. By rank it is of the moment: the rank of a message
(bm25) depends on all others, so where they change between two pages a hit may come twice or not at all. A cursor is of one
query and its filters, carries no number of the index's own, and holds after a rebuild.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from engine.errors import InvalidCursor, InvalidRequest
from engine.projections.cursors import decode_cursor, encode_cursor
from engine.projections.search_query import Sought
from engine.projections.search_rows import AGENT, USER
from engine.stores.digests import id_digest
from engine.stores.sqlite import Transaction, Value

Role = Literal["user", "agent", "name"]
ROLES: tuple[Role, ...] = ("user", "agent", "name")
SearchSort = Literal["rank", "newest", "oldest"]
SEARCH_SORTS: tuple[SearchSort, ...] = ("rank", "newest", "oldest")

_INTEGER_MAX = (1 << 63) - 1
_STORED: dict[str, int] = {"user": USER, "agent": AGENT}
_SAID: dict[int, Role] = {USER: "user", AGENT: "agent"}


class SearchQuery(Struct, frozen=True, kw_only=True):
    """What to search, and where. `limit` 0 is all; None filters nothing; an empty sequence matches nothing."""

    query: str
    thread_id: str | None = None
    roles: Sequence[Role] | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    cwds: Sequence[str] | None = None
    archived: bool | None = None
    sort: SearchSort = "rank"
    limit: int = 25
    cursor: str | None = None


class Within(NamedTuple):
    """Which threads' hits count. `segments` are numbers of rollouts, and where the thread leaves each; `threads` are ids.

    None of both is every thread.
    """

    segments: Sequence[tuple[int, int]] | None
    threads: Sequence[str] | None


class Place(NamedTuple):
    """Where a hit stands among the others, in this order."""

    first: float
    second: int
    rollout_id: str
    offset: int


class PickedHit(NamedTuple):
    """A hit as the index has it. A name has no record: its `rollout_id` is the thread's id and `offset` is -1."""

    place: Place
    role: Role
    thread_id: str
    path: str
    said_offset: int
    length: int
    ordinal: int | None
    at_ms: int | None
    turn_id: str | None

    @property
    def rollout_id(self) -> str:
        """Of the rollout that it is in."""
        return self.place.rollout_id


class PickedHits(NamedTuple):
    """The rows of a page."""

    hits: list[PickedHit]
    next_cursor: str | None


class _Cursor(Struct, frozen=True, array_like=True):
    scope: int
    first: float
    second: int
    rollout_id: str
    offset: int


def check_search(query: SearchQuery) -> None:
    """Raises `InvalidRequest`."""
    if not 0 <= query.limit < _INTEGER_MAX:
        raise InvalidRequest(f"A limit cannot be {query.limit}.", hint="Give a number of hits, or 0 for all.")
    if query.sort not in SEARCH_SORTS:
        raise InvalidRequest(f"There is no sort {query.sort!r}.", hint=f"Use one of {', '.join(SEARCH_SORTS)}.")
    for role in query.roles or ():
        if role not in ROLES:
            raise InvalidRequest(f"There is no role {role!r}.", hint=f"Use some of {', '.join(ROLES)}.")
    for time_ms in (query.since_ms, query.until_ms):
        if time_ms is not None and not -_INTEGER_MAX <= time_ms <= _INTEGER_MAX:
            raise InvalidRequest(f"{time_ms} is no time.", hint="Give Unix milliseconds.")


def pick_hits(transaction: Transaction, query: SearchQuery, found: Sought, within: Within) -> PickedHits:
    """The rows of a page. Raises `InvalidCursor`."""
    scope = _scope(query, found)
    after = None if query.cursor is None else _decode(query.cursor, scope)
    roles = set(ROLES if query.roles is None else query.roles)
    parts = []
    if roles & _STORED.keys():
        parts.append(
            _texts(transaction, query, found, within, after, sorted(_STORED[each] for each in roles - {"name"}))
        )
    if "name" in roles:
        parts.append(_names(transaction, query, found, within, after))
    hits = list(islice(heapq.merge(*parts, key=lambda hit: hit.place), query.limit + 1 if query.limit else None))
    page = hits[: query.limit] if query.limit else hits
    more = len(hits) > len(page)
    return PickedHits(page, encode_cursor(_Cursor(scope, *page[-1].place)) if more else None)


def numbers_of(transaction: Transaction, paths: Sequence[str]) -> dict[str, int]:
    """The numbers of those of these rollouts that are in the index, by path."""
    return dict(transaction.rows(_NUMBERS, {"paths": msgspec.json.encode(list(paths)).decode()}))


def _texts(
    transaction: Transaction,
    query: SearchQuery,
    found: Sought,
    within: Within,
    after: Place | None,
    roles: Sequence[int],
) -> Iterator[PickedHit]:
    where, values = _common(query, found, within, after)
    if len(roles) < len(_STORED):
        where.append("texts.role = :role")
        values["role"] = roles[0]
    if query.archived is not None:
        where.append("rollouts.archived = :archived")
        values["archived"] = int(query.archived)
    if query.since_ms is not None:
        where.append("texts.created_at_ms >= :since_ms")
    if query.until_ms is not None:
        where.append("texts.created_at_ms < :until_ms")
    if within.segments is None:
        where += ["words.rowid > 0", "texts.said_offset < rollouts.shown_end"]
    else:
        values["segments"] = segments = msgspec.json.encode(within.segments).decode()
        low, high = transaction.row(_EXTENT, {"segments": segments}) or (None, None)
        values |= {"low": low, "high": high}
        where += ["words.rowid BETWEEN :low AND :high", f"texts.said_offset < {_SEGMENT_END}"]
    if within.threads is not None:
        where.append(f"rollouts.thread_id IN {_OF_THREADS}")
    keys = _keys(query.sort, "texts.created_at_ms", 'texts."offset"')
    sql = f"""
        SELECT * FROM (
            SELECT {keys}, rollouts.rollout_id AS tie, texts."offset" AS place, texts.role,
                rollouts.thread_id, rollouts.path, texts.said_offset, texts.length, texts.ordinal, texts.created_at_ms,
                texts.rollout, texts.turn
            FROM words CROSS JOIN texts ON texts.id = words.rowid
            CROSS JOIN rollouts ON rollouts.number = texts.rollout
            WHERE {" AND ".join(where)}
        ) {_BEHIND if after is not None else ""} ORDER BY first, second, tie, place LIMIT :limit
    """  # noqa: S608 - what is put in is ours, values are bound
    for row in list(transaction.rows(sql, values)):
        *place, role, thread_id, path, said_offset, length, ordinal, at_ms, rollout, turn = row
        turn_id = None if ordinal is not None else _turn_of(transaction, rollout, place[3], turn)
        yield PickedHit(Place(*place), _SAID[role], thread_id, path, said_offset, length, ordinal, at_ms, turn_id)


def _names(
    transaction: Transaction, query: SearchQuery, found: Sought, within: Within, after: Place | None
) -> Iterator[PickedHit]:
    where, values = _common(query, found, within, after)
    where.append("words.rowid < 0")
    if query.thread_id is not None:
        where.append("names.thread_id = :thread_id")
        values["thread_id"] = query.thread_id.lower()
    if query.archived is not None:
        where.append(_NAMED_THREAD_ARCHIVED)
        values["archived"] = int(query.archived)
    if query.since_ms is not None:
        where.append("names.named_at_ms >= :since_ms")
    if query.until_ms is not None:
        where.append("names.named_at_ms < :until_ms")
    if within.threads is not None:
        where.append(f"names.thread_id IN {_OF_THREADS}")
    keys = _keys(query.sort, "names.named_at_ms", "0")
    sql = f"""
        SELECT * FROM (
            SELECT {keys}, names.thread_id AS tie, -1 AS place, names.named_at_ms
            FROM words CROSS JOIN names ON names.id = words.rowid WHERE {" AND ".join(where)}
        ) {_BEHIND if after is not None else ""} ORDER BY first, second, tie, place LIMIT :limit
    """  # noqa: S608 - the same
    for *place, at_ms in transaction.rows(sql, values):
        yield PickedHit(Place(*place), "name", place[2], "", -1, 0, None, at_ms, None)


def _common(
    query: SearchQuery, found: Sought, within: Within, after: Place | None
) -> tuple[list[str], dict[str, Value]]:
    values: dict[str, Value] = {"match": found.match, "limit": query.limit + 1 if query.limit else -1}
    values |= {"since_ms": query.since_ms, "until_ms": query.until_ms}
    if within.threads is not None:
        values["threads"] = msgspec.json.encode(list(within.threads)).decode()
    if after is not None:
        values |= {f"after_{name}": value for name, value in after._asdict().items()}
    return ["words MATCH :match"], values


def _keys(sort: SearchSort, time: str, offset: str) -> str:
    """What hits are ordered by: of equal ranks the newest first, and of one millisecond as they stand in their rollout."""
    if sort == "rank":
        return f"bm25(words) AS first, -coalesce({time}, 0) AS second"
    sign = "-" if sort == "newest" else ""
    return f"{sign}coalesce({time}, 0) AS first, {sign}{offset} AS second"


def _turn_of(transaction: Transaction, rollout: int, offset: int, turn: int | None) -> str | None:
    """The id of the turn that a message of a legacy rollout is in."""
    values: dict[str, Value] = {"rollout": rollout, "offset": offset, "turn": turn}
    row = transaction.row(_TURN_BEFORE if turn is None else _TURN_NAMED, values)
    return None if row is None else row[0]


def _scope(query: SearchQuery, found: Sought) -> int:
    """What a cursor is of, in a few bytes."""
    of: list[Any] = [sorted(found.phrases), (query.thread_id or "").lower(), query.since_ms, query.until_ms, query.sort]
    of += [query.archived, *(None if each is None else sorted(each) for each in (query.roles, query.cwds))]
    return id_digest(msgspec.json.encode(of).decode("utf-8"))


def _decode(text: str, scope: int) -> Place:
    cursor = decode_cursor(text, _Cursor)
    if cursor.scope != scope:
        raise InvalidCursor(
            "The cursor is of another search.", hint="Keep the query, its filters and its sort while paging."
        )
    if not (-_INTEGER_MAX <= cursor.second <= _INTEGER_MAX and -_INTEGER_MAX <= cursor.offset <= _INTEGER_MAX):
        raise InvalidCursor(f"{text!r} is not a cursor.", hint="Use next_cursor of a page.")
    return Place(cursor.first, cursor.second, cursor.rollout_id, cursor.offset)


_NUMBERS = "SELECT path, number FROM rollouts WHERE path IN (SELECT value FROM json_each(:paths))"

_EXTENT = """
    SELECT min(texts.id), max(texts.id) FROM json_each(:segments) AS segment
    CROSS JOIN texts ON texts.rollout = segment.value ->> 0
"""

_SEGMENT_END = """(
    SELECT segment.value ->> 1 FROM json_each(:segments) AS segment WHERE segment.value ->> 0 = texts.rollout
)"""

_OF_THREADS = "(SELECT value FROM json_each(:threads))"

_BEHIND = "WHERE (first, second, tie, place) > (:after_first, :after_second, :after_rollout_id, :after_offset)"

_NAMED_THREAD_ARCHIVED = """EXISTS (
    SELECT 1 FROM rollouts
    WHERE rollouts.thread_id = names.thread_id AND rollouts.archived = :archived AND rollouts.shown_end > 0
)"""

_TURN_BEFORE = """
    SELECT id FROM turns WHERE rollout = :rollout AND "offset" <= :offset ORDER BY "offset" DESC LIMIT 1
"""

_TURN_NAMED = "SELECT id FROM turns WHERE rollout = :rollout AND turn = :turn LIMIT 1"
