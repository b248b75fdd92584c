"""What `turns` does: a page of a thread's turns, as JSON or as an outline.

The outline has a line a turn and a line an item: who or what it is, and the beginning of what was said. Nothing of it is
longer than a line; the whole is in the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.cli import DONE, output
from engine.cli.asked import Asked, text
from engine.cli.commands import Answer

if TYPE_CHECKING:
    from rich.console import Console

    from engine.projections.catchup import Partial
    from engine.projections.turn_list import ItemsView, Turn, TurnPage

_WHO = {"userMessage": "user", "agentMessage": "agent"}
_STYLES = {"completed": "green", "failed": "bold red", "interrupted": "yellow", "in_progress": "cyan"}
_TELLING = ("text", "command", "tool", "query", "path", "review", "name", "prompt", "kind")
"""Of an item without a text, the field that tells most is the first of these."""


def list_turns(
    asked: Asked, thread_id: str, *, limit: int, cursor: str | None, ascending: bool, items_view: ItemsView
) -> Answer:
    """A page of turns; tells on standard error when it is not of all that the thread's rollouts hold."""
    with asked.open() as engine:
        page = engine.turns.list(
            text(thread_id, "The id"),
            limit=limit,
            cursor=None if cursor is None else text(cursor, "--cursor"),
            sort_direction="asc" if ascending else "desc",
            items_view=items_view,
        )
    if page.partial is not None:
        _remark_partial(page.partial)
    return Answer(page, DONE, lambda console: _show(console, page))


def _remark_partial(partial: Partial) -> None:
    if partial.unread:
        output.remark("A rollout of this thread cannot be read, or is not there; `rolloutdb audit` names it.")
    if partial.files_total is not None and partial.files_done + partial.unread < partial.files_total:
        output.remark(
            "Not all of this thread is indexed yet, so turns may be missing; run it again, or `rolloutdb backfill`."
        )


def _show(console: Console, page: TurnPage) -> None:
    from engine.clock import SystemClock

    now_ms = SystemClock().wall_ms()
    for turn in page.turns:
        _show_turn(console, turn, now_ms)
    if not page.turns:
        console.print("no turns", style="dim")
    if page.next_cursor is not None:
        console.print(f"next page: --cursor {page.next_cursor}", style="dim", soft_wrap=True)


def _show_turn(console: Console, turn: Turn, now_ms: int) -> None:
    from rich.text import Text

    from engine.cli.tables import ago

    head = Text()
    head.append(f"{turn.status:<12}", style=_STYLES.get(turn.status, ""))
    head.append(output.plain(turn.id), style="bold")
    if turn.started_at_ms is not None:
        head.append(f"  {ago(turn.started_at_ms, now_ms)}")
    if turn.duration_ms is not None:
        head.append(f"  {turn.duration_ms / 1000:,.1f} s")
    console.print(head, soft_wrap=True)
    if turn.error is not None:
        said = turn.error.get("message") or turn.error.get("unreadable") or "no message"
        _show_line(console, "error", str(said))
    for item in turn.items:
        _show_line(console, _WHO.get(item["type"], str(item["type"])), _told(item))


def _show_line(console: Console, who: str, told: str) -> None:
    from rich.text import Text

    line = Text("  ")
    line.append(f"{output.plain(who):<18}", style="dim")
    line.append(output.plain(told))
    console.print(line, no_wrap=True, overflow="ellipsis")


def _told(item: Mapping[str, Any]) -> str:
    """What an item says, in one line. Its fields are anybody's JSON."""
    if "unreadable" in item:
        return f"(cannot be shown: {item['unreadable']})"
    said = _texts(item.get("content")) or _texts(item.get("summary"))
    if not said:
        said = next((str(item[name]) for name in _TELLING if item.get(name)), "")
    status = item.get("status")
    return f"{said} ({status})" if status else said


def _texts(parts: object) -> str:
    """The texts of a message's parts, and of any other part its type."""
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        return ""
    found = [
        str(part.get("text") or f"[{part.get('type')}]") if isinstance(part, Mapping) else str(part) for part in parts
    ]
    return " ".join(found)
