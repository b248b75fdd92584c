"""The commands of goals: show, set, pause, complete, clear, and what was used.

A goal is kept in its thread's rollout, so a change needs the thread: one that another program wrote is changed with
`--adopt`, when that program does not use it. Only `clear` works for any thread.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli import DONE
from engine.cli.asked import Asked, text
from engine.cli.commands import Answer
from engine.cli.parsed import Home, Json, StateDir, ThreadId, command, group
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from engine.events.goals import Goal
    from engine.goals import UsageRecord
    from engine.runtime import Engine

_ID = "019ddd9d-f053-7991-a505-b639f6b80c15"
_STYLES = {"active": "green", "complete": "cyan", "budget_limited": "yellow", "usage_limited": "yellow"}
_OBJECTIVE_SHOWN = 60

app = typer.Typer(rich_markup_mode=None)

Adopt = Annotated[
    bool, typer.Option("--adopt", help="The thread was written by another program, which does not use it now.")
]
GoalId = Annotated[
    str | None, typer.Option("--goal", metavar="GOAL", help="Only if this is its goal still: the goal_id of `show`.")
]


class Status(StrEnum):
    """How a goal stands."""

    active = "active"
    paused = "paused"
    blocked = "blocked"
    usage_limited = "usage_limited"
    budget_limited = "budget_limited"
    complete = "complete"


class Mode(StrEnum):
    """Which goals count what was used."""

    active_status_only = "active_status_only"
    active_only = "active_only"
    active_or_complete = "active_or_complete"
    active_or_stopped = "active_or_stopped"


@app.callback(invoke_without_command=True)
def goals_root(context: typer.Context, home: Home = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Show what threads are to reach, and change it."""
    group(context, Asked(home, state_dir, as_json))


@command(
    app,
    "show",
    "rolloutdb goals show",
    f"rolloutdb goals show {_ID}",
    "rolloutdb goals show --status active --json | jq -r '.goals[].thread_id'",
)
def goals_show(
    asked: Asked,
    thread_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The thread's id; else the goals of all threads.")
    ] = None,
    status: Annotated[Status | None, typer.Option("--status", help="Of all goals only these.")] = None,
) -> Answer:
    """Show the goal of a thread, or those of all."""
    if thread_id is not None and status is not None:
        raise InvalidRequest("A status picks among all goals, not of one thread.", hint="Leave the ID or --status out.")
    with asked.open() as engine:
        return _of_all(engine, status) if thread_id is None else _of_one(engine, text(thread_id, "The id"))


@command(
    app,
    "set",
    f'rolloutdb goals set {_ID} "All tests pass" --budget 200000',
    f"rolloutdb goals set {_ID} --budget 400000 --reactivate",
    f"rolloutdb goals set {_ID} --status active",
)
def goals_set(
    asked: Asked,
    thread_id: ThreadId,
    objective: Annotated[
        str | None, typer.Argument(metavar="[OBJECTIVE]", help="What is to be reached; at most 4,000 characters.")
    ] = None,
    budget: Annotated[int | None, typer.Option("--budget", metavar="TOKENS", help="How many it may use.")] = None,
    no_budget: Annotated[bool, typer.Option("--no-budget", help="As many as it takes.")] = False,
    status: Annotated[Status | None, typer.Option("--status", help="How it stands.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="A new goal, with nothing used yet, also while one is not complete.")
    ] = False,
    reactivate: Annotated[
        bool, typer.Option("--reactivate", help="A goal that was over its budget, and is not any more, goes on.")
    ] = False,
    goal_id: GoalId = None,
    adopt: Adopt = False,
) -> Answer:
    """Give a thread a goal, or change the one it has: what is not given stays.

    With an OBJECTIVE a thread without a goal, or whose goal is complete, gets a new one. A goal keeps what it has used.
    """
    if budget is not None and no_budget:
        raise InvalidRequest("A goal has a budget, or none.", hint="Give --budget or --no-budget.")
    if objective is None and (replace or not (budget is not None or no_budget or status)):
        raise InvalidRequest("Nothing was given to set.", hint="Give an OBJECTIVE, --budget, --no-budget or --status.")
    wanted = None if objective is None else text(objective, "The objective")
    known = text(thread_id, "The id")
    with asked.open() as engine:
        goal = None
        if wanted is not None and goal_id is None:
            begin = engine.goals.replace if replace else engine.goals.create
            how: dict[str, Any] = {"token_budget": budget, "adopt": adopt}
            how |= {} if status is None else {"status": status.value}
            goal = begin(known, wanted, **how)
        if goal is None:
            changes: dict[str, Any] = {"objective": wanted, "status": None if status is None else status.value}
            changes = {name: value for name, value in changes.items() if value is not None}
            if budget is not None or no_budget:
                changes["token_budget"] = budget
            goal = engine.goals.update(known, **changes, reactivate=reactivate, goal_id=_id(goal_id), adopt=adopt)
        return _changed(engine, known, goal)


@command(app, "pause", f"rolloutdb goals pause {_ID}")
def goals_pause(
    asked: Asked,
    thread_id: ThreadId,
    goal_id: GoalId = None,
    adopt: Adopt = False,
) -> Answer:
    """Have an active goal wait. `set --status active` lets it go on."""
    known = text(thread_id, "The id")
    with asked.open() as engine:
        return _changed(engine, known, engine.goals.pause(known, goal_id=_id(goal_id), adopt=adopt))


@command(app, "complete", f"rolloutdb goals complete {_ID}")
def goals_complete(
    asked: Asked,
    thread_id: ThreadId,
    goal_id: GoalId = None,
    adopt: Adopt = False,
) -> Answer:
    """Say that a goal is reached."""
    known = text(thread_id, "The id")
    with asked.open() as engine:
        return _changed(engine, known, engine.goals.complete(known, goal_id=_id(goal_id), adopt=adopt))


@command(app, "clear", f"rolloutdb goals clear {_ID}")
def goals_clear(
    asked: Asked,
    thread_id: ThreadId,
    goal_id: GoalId = None,
) -> Answer:
    """Delete a thread's goal. Works for any thread, also one that is in use."""
    known = text(thread_id, "The id")
    with asked.open() as engine:
        removed = engine.goals.clear(known, goal_id=_id(goal_id))
    document = {"thread_id": known.lower(), "removed": removed}

    def show(console: Console) -> None:
        if removed is None:
            console.print("no such goal", style="dim")
        else:
            _show(console, removed, title="removed")

    return Answer(document, DONE, show)


@command(
    app, "usage", f"rolloutdb goals usage {_ID}", f"rolloutdb goals usage {_ID} --add-tokens 1200 --add-seconds 30"
)
def goals_usage(
    asked: Asked,
    thread_id: ThreadId,
    tokens: Annotated[int, typer.Option("--add-tokens", metavar="N", help="Count so many tokens more.")] = 0,
    seconds: Annotated[int, typer.Option("--add-seconds", metavar="N", help="Count so many seconds more.")] = 0,
    mode: Annotated[Mode, typer.Option("--mode", help="Count only if the goal is one of these.")] = Mode.active_only,
    limit: Annotated[int, typer.Option("--limit", min=0, metavar="N", help="How many records; 0 is all.")] = 20,
    goal_id: GoalId = None,
    adopt: Adopt = False,
) -> Answer:
    """Show what a goal has used, record by record, newest first; or count more."""
    known = text(thread_id, "The id")
    with asked.open() as engine:
        counted = None
        if tokens or seconds:
            how: dict[str, Any] = {"mode": mode.value, "goal_id": _id(goal_id), "adopt": adopt}
            counted = engine.goals.account(known, tokens=tokens, seconds=seconds, **how).counted
        goal, records = engine.goals.get(known), engine.goals.usage(known, limit=limit)
    document = {"thread_id": known.lower(), "counted": counted, "goal": goal, "records": records}
    return Answer(document, DONE, lambda console: _show_usage(console, goal, records, counted))


def _id(goal_id: str | None) -> str | None:
    return None if goal_id is None else text(goal_id, "--goal")


def _of_one(engine: Engine, thread_id: str) -> Answer:
    goal = engine.goals.get(thread_id)
    return Answer({"thread_id": thread_id.lower(), "goal": goal}, DONE, lambda console: _show(console, goal))


def _of_all(engine: Engine, status: Status | None) -> Answer:
    goals = engine.goals.list(status=None if status is None else status.value, limit=0)
    return Answer({"goals": goals}, DONE, lambda console: _show_all(console, goals))


def _changed(engine: Engine, thread_id: str, goal: Goal | None) -> Answer:
    """The goal as it is now; `changed` tells whether what was asked for was done."""
    now = engine.goals.get(thread_id) if goal is None else goal
    document = {"thread_id": thread_id.lower(), "changed": goal is not None, "goal": now}
    return Answer(document, DONE, lambda console: _show(console, now, title=None if goal else "nothing was changed"))


def _show(console: Console, goal: Goal | None, *, title: str | None = None) -> None:
    from engine.cli import tables
    from engine.clock import SystemClock

    if title is not None:
        console.print(title, style="yellow")
    if goal is None:
        console.print("no goal", style="dim")
        return
    now_ms = SystemClock().wall_ms()
    left = "" if goal.tokens_left is None else f" of {goal.token_budget:,} ({goal.tokens_left:,} left)"
    waits = " (waits for a turn)" if goal.continuation_deferred else ""
    tables.show_pairs(
        console,
        [
            ("objective", goal.objective),
            ("status", f"{goal.status}{waits}"),
            ("tokens", f"{goal.tokens_used:,}{left}"),
            ("seconds", f"{goal.time_used_seconds:,}"),
            ("created", tables.ago(goal.created_at_ms, now_ms)),
            ("updated", tables.ago(goal.updated_at_ms, now_ms)),
            ("goal_id", goal.goal_id),
        ],
    )


def _show_all(console: Console, goals: Sequence[Goal]) -> None:
    from rich.text import Text

    from engine.cli import output, tables
    from engine.clock import SystemClock

    now_ms = SystemClock().wall_ms()
    for goal in goals:
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{output.plain(goal.status):<15}", style=_STYLES.get(goal.status, ""))
        line.append(goal.thread_id, style="bold")
        line.append(
            f"  {tables.ago(goal.updated_at_ms, now_ms):<12}  {output.plain(goal.objective)[:_OBJECTIVE_SHOWN]}"
        )
        console.print(line, soft_wrap=True)
    if not goals:
        console.print("no goals", style="dim")


def _show_usage(console: Console, goal: Goal | None, records: Sequence[UsageRecord], counted: bool | None) -> None:
    from engine.cli import tables
    from engine.clock import SystemClock

    _show(console, goal, title="nothing was counted" if counted is False else None)
    now_ms = SystemClock().wall_ms()
    for each in records:
        when = "-" if each.at_ms is None else tables.ago(each.at_ms, now_ms)
        console.print(f"  {when:<14} {each.tokens:>+12,} tokens {each.seconds:>+9,} s", highlight=False)
