"""Why a thread is, or is not, in the Codex CLI's list, in words.

That program has two kinds of list. One is read from its database alone (sorted by recency, or asked for so); the default
one scans the folders, and shows what the heads of the rollouts say. Both leave out what does not pass their filters, and
neither says so. Being archived is not being lost: there is a list of the archived ones. What else is wrong with the thread
(turns that stopped, an edge or a goal that disagrees) is told as an audit tells it.
"""

from __future__ import annotations

import re

from msgspec import Struct

from engine.audit.findings import Finding
from engine.audit.foreign import Rollout, Survey
from engine.audit.foreign_rows import INTERACTIVE, fault_of, hidden_by
from engine.audit.foreign_tables import Row, Tables
from engine.errors import InvalidRequest, ThreadNotFound
from engine.stores.files import Files
from engine.stores.layout import COMPRESSED, is_archived, is_id

_DATED = re.compile(r"sessions/\d{4}/\d{2}/\d{2}/[^/]+", re.ASCII)


class Reason(Struct, frozen=True):
    """What keeps a thread out of a list. `list` is `database`, `scan` or `both`; `reason` one word."""

    list: str
    reason: str
    message: str


class Explanation(Struct, frozen=True):
    """Whether that program lists a thread, and what is in the way. `row` is its row as far as it matters here.

    `findings` are those of an audit that concern the thread and no list.
    """

    thread_id: str
    listed_by_database: bool
    listed_by_scan: bool
    summary: str
    reasons: list[Reason]
    rollouts: list[str]
    row: Row | None
    databases: list[str]
    findings: list[Finding]


_OF_LISTS = frozenset(
    {
        "codex_missing_row",
        "codex_lost_truth",
        "codex_wrong_path",
        "codex_wrong_archive_state",
        "codex_bad_row",
        "codex_hidden_by_source",
        "codex_hidden_by_provider",
        "codex_hidden_by_preview",
    }
)
"""What the reasons tell."""


def explain(survey: Survey, thread_id: str, files: Files) -> Explanation:
    """Why. Raises `InvalidRequest` for what is no id, `ThreadNotFound` where neither a rollout nor a row is there."""
    if not is_id(thread_id):
        raise InvalidRequest(f"{thread_id!r} is not a thread's id.", hint="Give the id as `threads list` shows it.")
    thread_id = thread_id.lower()
    row = survey.tables.row(thread_id)
    head = survey.head(thread_id) if thread_id in survey.threads else None
    if row is None and head is None:
        raise ThreadNotFound(
            f"There is neither a rollout nor a row of the thread {thread_id}.", hint="Look it up with `threads list`."
        )
    reasons = [*_shared(row, head, survey.tables), *_of_database(row, head, survey, files), *_of_scan(row, head)]
    by_database = all(each.list == "scan" for each in reasons)
    by_scan = all(each.list == "database" for each in reasons)
    return Explanation(
        thread_id,
        by_database,
        by_scan,
        _summary(reasons, by_database=by_database, by_scan=by_scan),
        reasons,
        sorted(each.found.path for each in survey.threads.get(thread_id, [])),
        row,
        survey.tables.databases,
        [each for each in survey.findings() if each.thread_id == thread_id and each.class_ not in _OF_LISTS],
    )


def _shared(row: Row | None, head: Rollout | None, tables: Tables) -> list[Reason]:
    """Filters of both lists, by the row where there is one, else by the rollout."""
    if row is None:
        return []
    found = [Reason("both", each.filter, each.message) for each in hidden_by(row, tables)]
    if row["archived"] and (head is None or is_archived(head.found.path)):
        found.insert(0, Reason("both", "archived", "it is archived; the list of archived threads has it"))
    return found


def _of_database(row: Row | None, head: Rollout | None, survey: Survey, files: Files) -> list[Reason]:
    if survey.tables.threads is None:
        problem = next((each.message for each in survey.tables.problems), None)
        what = f"its database cannot be read: {problem}" if problem else "there is no database of that program here"
        return [Reason("database", "no_database", what)]
    if row is None:
        assert head is not None
        return [Reason("database", "no_row", f"the database has no row of it: {survey.why_no_row(head)}")]
    found: list[Reason] = []
    if row["archived"] and head is not None and not is_archived(head.found.path):
        found.append(Reason("database", "archived", "its row says archived, though its file is among the active ones"))
    path = str(row["rollout_path"])
    if all(files.kind(each, op="foreign.kind", follow=True) is None for each in (path, path + COMPRESSED)):
        where = f"; the thread is in {head.found.path}" if head is not None else ", nor any other rollout of it"
        found.append(Reason("database", "no_file", f"its row names {path}, which is not there{where}"))
    active = [(other, fault_of(each, survey.tables)) for other, each in survey.tables.rows() if not each["archived"]]
    found += [
        Reason("database", "bad_row", f"the row of {other} cannot be decoded ({fault}), which fails the page it is on")
        for other, fault in active
        if fault is not None
    ]
    return found


def _of_scan(row: Row | None, head: Rollout | None) -> list[Reason]:
    if head is None:
        return [Reason("scan", "no_file", "no rollout of it is here: only its row is left")]
    found: list[Reason] = []
    if is_archived(head.found.path):
        if row is None or not row["archived"]:
            found.append(Reason("scan", "archived", "its file is among the archived ones"))
    elif _DATED.fullmatch(head.found.path) is None:
        found.append(Reason("scan", "folder", "its file is in no folder of a day, and a scan looks in those only"))
    if not head.is_identified:
        found.append(Reason("scan", "no_meta", "its file has lost the record that says who it is"))
    if row is None and not head.has_preview:
        found.append(Reason("scan", "preview", "no user's words are in it, and lists leave such threads out"))
    if row is None and head.source not in INTERACTIVE:
        message = f"its source is {head.source}, and a list that names no sources shows those of cli and vscode"
        found.append(Reason("both", "source", message))
    return found


def _summary(reasons: list[Reason], *, by_database: bool, by_scan: bool) -> str:
    why = "; ".join(each.message for each in reasons)
    if by_database and by_scan:
        return "It is in that program's list: its file and its row are fine, and no default filter leaves it out."
    if by_scan:
        return f"The default list, which scans the folders, shows it; lists from the database alone do not: {why}."
    if by_database:
        return f"Lists from the database show it; the default list, which scans the folders, does not: {why}."
    return f"It is in none of that program's default lists: {why}."
