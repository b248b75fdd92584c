"""The commands of the agent graph: draw it, close a tree of agents, or open one again.

The command line runs no agent and stops none: it notes what is closed or open, and tells in which order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from engine.cli import DONE, FINDINGS, output
from engine.cli.asked import Asked, text
from engine.cli.commands import Answer
from engine.cli.parsed import Home, Json, StateDir, ThreadId, command, group

if TYPE_CHECKING:
    from rich.console import Console

    from engine.agents import AgentTree, CascadeReport
    from engine.projections.agents import Agent
    from engine.projections.catchup import Partial
    from engine.runtime import Engine

_ID = "019ddd9d-f053-7991-a505-b639f6b80c15"
_TITLE_MIN = 8
_GUIDE = 4
"""How far each level of a tree is moved in."""
_UNCUT = 100_000
_STYLES = {"open": "green", "closed": "dim"}


class Only(StrEnum):
    """Which agents are shown."""

    open = "open"
    closed = "closed"


app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def agents_root(context: typer.Context, home: Home = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Draw the tree of agents, close or reopen some."""
    group(context, Asked(home, state_dir, as_json))


@command(
    app,
    "tree",
    "rolloutdb agents tree",
    f"rolloutdb agents tree {_ID} --status open",
    "rolloutdb agents tree --json | jq -r '.agents[] | select(.status == \"open\") | .id'",
)
def agents_tree(
    asked: Asked,
    thread_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Only what is below this thread; else all of the home.")
    ] = None,
    status: Annotated[
        Only | None, typer.Option("--status", help="Only these; what is below others is left out with them.")
    ] = None,
) -> Answer:
    """Draw the agents below their threads."""
    with asked.open() as engine:
        found = engine.agents.tree(
            None if thread_id is None else text(thread_id, "The id"), None if status is None else status.value
        )
    _remark_partial(found.partial)
    return Answer(found, DONE, lambda console: _draw(console, found))


@command(app, "close", f"rolloutdb agents close {_ID}", f"rolloutdb agents close {_ID} --only --json")
def agents_close(
    asked: Asked,
    thread_id: ThreadId,
    only: Annotated[
        bool, typer.Option("--only", help="Close this agent alone; those below it are hidden, and stay open.")
    ] = False,
) -> Answer:
    """Close an agent and the open ones below it.

    They are noted as closed, children first. It stops no process, and works for agents of other programs. It may be repeated.
    """
    known = text(thread_id, "The id")
    with asked.open() as engine:
        if only:
            done = engine.agents.close(known)
            report = _alone(known.lower(), done=done)
        else:
            report = _of_agents(engine, known, engine.agents.close_tree(known, _nothing))
    _remark_partial(report.partial)
    return _reported(report, "closed")


@command(app, "resume", f"rolloutdb agents resume {_ID}", f"rolloutdb agents resume {_ID} --json")
def agents_resume(
    asked: Asked,
    thread_id: ThreadId,
) -> Answer:
    """Reopen an agent; list the open ones below it.

    It starts no process: the list, parents first, is the order in which a program brings them
    back. Closed agents below stay closed.
    """
    with asked.open() as engine:
        known = text(thread_id, "The id")
        report = _of_agents(engine, known, engine.agents.resume_tree(known, _nothing))
    _remark_partial(report.partial)
    return _reported(report, "open")


def _nothing(_: Agent) -> None:
    """No process is stopped or started."""


def _of_agents(engine: Engine, thread_id: str, report: CascadeReport) -> CascadeReport:
    """Without the thread itself where it is nobody's agent: nothing was noted of it."""
    found = engine.agents.get(thread_id)
    if found is None or found.parent_thread_id is not None:
        return report
    return msgspec.structs.replace(report, done=[each for each in report.done if each != found.id])


def _alone(thread_id: str, *, done: bool) -> CascadeReport:
    from engine.agents import CascadeReport

    return CascadeReport(done=[thread_id] if done else [], failed=[], skipped=[], partial=None)


def _remark_partial(partial: Partial | None) -> None:
    if partial is not None:
        output.remark("Not every rollout is indexed yet, so agents may be missing; run `rolloutdb backfill`.")


def _reported(report: CascadeReport, said: str) -> Answer:
    return Answer(report, FINDINGS if report.failed else DONE, lambda console: _show(console, report, said))


def _show(console: Console, report: CascadeReport, said: str) -> None:
    for each in report.done:
        console.print(f"{said:<8}{each}", style=_STYLES[said], soft_wrap=True)
    for failure in report.failed:
        console.print(f"{'failed':<8}{failure.id}  {output.plain(failure.error)}", style="bold red", soft_wrap=True)
    for each in report.skipped:
        console.print(f"{'skipped':<8}{each}", style="yellow", soft_wrap=True)
    if not report.done and not report.failed:
        console.print("nothing to do: it is closed already, or nobody's agent", style="dim", soft_wrap=True)


def _draw(console: Console, found: AgentTree) -> None:
    """Each thread with agents, and below it its own; deep trees are drawn without calls of calls."""
    from rich.tree import Tree

    below: dict[str, list[Agent]] = defaultdict(list)
    for agent in found.agents:
        below[agent.parent_thread_id or ""].append(agent)
    width = console.width
    console.width = max(
        width, _UNCUT
    )  # rich would cut ids; a line that is longer than the terminal is the terminal's to wrap
    for root in found.roots:
        drawn = Tree(_line(root, width), guide_style="dim")
        waiting: list[tuple[Any, str]] = [(drawn, root.id)]
        come_to = {root.id}
        while waiting:
            branch, thread_id = waiting.pop()
            for agent in below[thread_id]:
                if agent.id not in come_to:
                    come_to.add(agent.id)
                    waiting.append((branch.add(_line(agent, width)), agent.id))
        console.print(drawn)
    if not found.roots:
        console.print("no agents", style="dim")


def _line(agent: Agent, width: int) -> Any:
    """Who an agent is; of its title as much as the terminal has room for."""
    from rich.text import Text

    line = Text(output.plain(agent.id), style="bold", no_wrap=True, overflow="ignore")
    if agent.status is not None:
        line.append(f"  {output.plain(agent.status)}", style=_STYLES.get(agent.status, "yellow"))
    for word in _words(agent):
        line.append(f"  {word}", style="")
    if agent.missing:
        line.append("  gone", style="yellow")
    room = width - _GUIDE * agent.depth - len(line) - 2
    title = output.plain(agent.title or "")
    if title and room >= _TITLE_MIN:
        line.append(f"  {title if len(title) <= room else title[: room - 1] + '…'}", style="dim")
    return line


def _words(agent: Agent) -> Iterator[str]:
    told: Sequence[str | None] = (agent.agent_path, agent.agent_nickname, agent.agent_role)
    for word in told:
        if word:
            yield output.plain(word)
    if agent.archived:
        yield "archived"
