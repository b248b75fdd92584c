"""What `search` does: a page of hits, as JSON or as an outline with what was found marked.

A hit has a line that says whose it is, and lines with the text around what was found; where colours are not shown, what was
found stands between brackets.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from engine.cli import DONE, output
from engine.cli.asked import Asked, folder, text
from engine.cli.commands import Answer
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from engine.projections.catchup import Partial
    from engine.projections.search_hits import SearchHit, SearchPage
    from engine.projections.search_list import Role, SearchSort

Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Only from then on: 2026-01-05, 2026-01-05T09:00Z, or 7d, 12h ago."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only before then; as --since.")]

_SPAN = re.compile(r"(?P<count>\d{1,6})(?P<unit>[mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Wanted(NamedTuple):
    """What to search, as it was typed."""

    words: list[str]
    thread_id: str | None
    roles: list[Role]
    cwds: list[str]
    since: str | None
    until: str | None
    archived: bool | None
    sort: SearchSort
    limit: int
    cursor: str | None


def search(asked: Asked, wanted: Wanted) -> Answer:
    """A page of hits; tells on standard error when not all is indexed yet."""
    from engine.clock import SystemClock

    now_ms = SystemClock().wall_ms()
    with asked.open() as engine:
        page = engine.search(
            " ".join(text(each, "The query") for each in wanted.words),
            thread_id=None if wanted.thread_id is None else text(wanted.thread_id, "--thread"),
            roles=wanted.roles or None,
            since_ms=time_of(wanted.since, "--since", now_ms),
            until_ms=time_of(wanted.until, "--until", now_ms),
            cwd=[text(folder(each, "--cwd"), "--cwd") for each in wanted.cwds] or None,
            archived=wanted.archived,
            sort=wanted.sort,
            limit=wanted.limit,
            cursor=None if wanted.cursor is None else text(wanted.cursor, "--cursor"),
        )
        kept = engine.state_dir is not None
    if page.partial is not None:
        _remark_partial(page.partial, kept=kept)
    return Answer(page, DONE, lambda console: _show(console, page, now_ms))


def time_of(typed: str | None, option: str, now_ms: int) -> int | None:
    """Unix milliseconds of a time that somebody typed; without a zone it is of UTC. Raises `InvalidRequest`."""
    if typed is None:
        return None
    span = _SPAN.fullmatch(typed)
    if span is not None:
        return now_ms - int(timedelta(**{_UNITS[span["unit"]]: int(span["count"])}) / timedelta(milliseconds=1))
    try:
        at = datetime.fromisoformat(typed)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{option} {typed!r} is no time.", hint="Give one such as 2026-01-05, 2026-01-05T09:00Z, 7d, 12h or 30m."
        ) from None


def _remark_partial(partial: Partial, *, kept: bool) -> None:
    command = "`rolloutdb backfill`" if kept else "it with --state-dir, since the home cannot be written"
    total = "" if partial.files_total is None else f" of {partial.files_total:,}"
    if partial.files_done + partial.unread != partial.files_total:
        output.remark(f"The search covers {partial.files_done:,}{total} rollouts so far; run {command}.")
    if partial.unread:
        output.remark(f"{partial.unread:,} rollouts or folders cannot be read or used; `rolloutdb status` names them.")


def _show(console: Console, page: SearchPage, now_ms: int) -> None:
    for hit in page.hits:
        _show_hit(console, hit, now_ms)
    if not page.hits:
        console.print("nothing found", style="dim")
    if page.next_cursor is not None:
        console.print(f"next page: --cursor {page.next_cursor}", style="dim", soft_wrap=True)


def _show_hit(console: Console, hit: SearchHit, now_ms: int) -> None:
    from rich.text import Text

    from engine.cli.tables import ago

    head = Text()
    head.append(hit.thread_id, style="bold")  # first, so that it is never cut
    when = "" if hit.at_ms is None else f", {ago(hit.at_ms, now_ms)}"
    head.append(f"  {hit.role}{when}", style="cyan")
    if hit.archived:
        head.append("  [archived]", style="yellow")
    head.append(f"  {output.plain(hit.title or '-')}", style="dim")
    console.print(head, no_wrap=True, overflow="ellipsis")
    console.print(_cut(hit, marks=console.color_system is None), overflow="fold")


def _cut(hit: SearchHit, *, marks: bool) -> Text:
    """The snippet, with what was found in it marked, and dots where the text goes on."""
    from rich.text import Text

    shown = Text("    ")
    if hit.unreadable is not None:
        return shown.append(f"(cannot be shown: {output.plain(hit.unreadable)})", style="yellow")
    shown.append("… " if hit.snippet_offset else "")
    at = 0
    for start, end in hit.matches:
        shown.append(_even(hit.snippet[at:start]))
        found = _even(hit.snippet[start:end])
        shown.append(f"[{found}]" if marks else found, style="bold yellow")
        at = end
    shown.append(_even(hit.snippet[at:]).rstrip())
    return shown.append(" …" if hit.is_cut else "")


def _even(part: str) -> str:
    """On one line and harmless, with the spaces at its edges, which part it from what stands beside it."""
    before = " " if part[:1].isspace() else ""
    after = " " if part.strip() and part[-1:].isspace() else ""
    return f"{before}{output.plain(part)}{after}"
