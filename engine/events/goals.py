"""A thread's goal: what it is to reach, how far it may go, and what it has used. Pure: ids and times come from the caller.

`decide` says what a command comes to, as records; `said_by` reads such a record. A goal is never changed in any other
way, so what was decided and what a rebuild folds from the records are one. A thread has one goal at a time; its id tells
one goal from the next. Rules: codex_state.md 7; docs/GOALS.md says them for users.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType

from engine.errors import InvalidRequest
from engine.events import compose
from engine.events.payloads import GoalUpdated

KIND = "event_msg.thread_goal_updated"

GoalStatus = Literal["active", "paused", "blocked", "usage_limited", "budget_limited", "complete"]
STATUSES: tuple[str, ...] = get_args(GoalStatus)

AccountMode = Literal["active_status_only", "active_only", "active_or_complete", "active_or_stopped"]
MODES: tuple[str, ...] = get_args(AccountMode)

OBJECTIVE_CHARS_MAX = 4_000
COUNT_MAX = (1 << 63) - 1
"""What a column can hold; no budget and no use comes near it."""

_IN_RECORDS = {"usage_limited": "usageLimited", "budget_limited": "budgetLimited"}
_IN_ROWS = {word: status for status, word in _IN_RECORDS.items()}
_STATUS_CHARS_MAX = 64
_ID_CHARS_MAX = 256


class Goal(Struct, frozen=True, kw_only=True):
    """A thread's goal. Times are Unix milliseconds; `token_budget` None is no bound.

    `status` is one of `STATUSES`, or a word of a later release as its record has it. With `continuation_deferred` the
    thread is not to go on by itself before somebody begins a turn in it.
    """

    thread_id: str
    goal_id: str
    objective: str
    status: str
    token_budget: int | None
    tokens_used: int
    time_used_seconds: int
    created_at_ms: int
    updated_at_ms: int
    continuation_deferred: bool = False

    @property
    def tokens_left(self) -> int | None:
        """How much of the budget is left, 0 where it is used up; None without a budget."""
        return None if self.token_budget is None else max(0, self.token_budget - self.tokens_used)


# --- what is asked for ---------------------------------------------------------------------------------------------------


class Create(Struct, frozen=True, kw_only=True):
    """A new goal where there is none, or the one there is complete."""

    goal_id: str
    objective: str
    status: str = "active"
    token_budget: int | None = None


class Replace(Struct, frozen=True, kw_only=True):
    """A new goal, whatever there is."""

    goal_id: str
    objective: str
    status: str = "active"
    token_budget: int | None = None


class Inherit(Struct, frozen=True, kw_only=True):
    """Another thread's goal as it stands, with its id, counters and times; nothing goes on by itself before a turn."""

    goal: Goal


class Update(Struct, frozen=True, kw_only=True):
    """Change what is given. A budget of None takes it away; `reactivate` lets a goal that is within it again go on."""

    objective: str | UnsetType = UNSET
    status: str | UnsetType = UNSET
    token_budget: int | UnsetType | None = UNSET
    reactivate: bool = False
    expected_id: str | None = None


class Pause(Struct, frozen=True, kw_only=True):
    """An active goal waits."""

    expected_id: str | None = None


class LimitUsage(Struct, frozen=True, kw_only=True):
    """An active goal, or one that is out of budget, waits for the account's limit."""

    expected_id: str | None = None


class Account(Struct, frozen=True, kw_only=True):
    """Count what was used. Less than nothing counts as nothing."""

    tokens: int = 0
    seconds: int = 0
    mode: str = "active_only"
    expected_id: str | None = None


class AllowContinuation(Struct, frozen=True, kw_only=True):
    """Defer no longer."""

    expected_id: str | None = None


Command = Create | Replace | Inherit | Update | Pause | LimitUsage | Account | AllowContinuation


class Outcome(NamedTuple):
    """What a command comes to: whether it was done, the goal as it is then, and the records that say so."""

    done: bool
    goal: Goal | None
    records: list[compose.Raw]


def decide(thread_id: str, goal: Goal | None, command: Command, now_ms: int) -> Outcome:
    """What a command comes to for a thread whose goal is this one. Raises `InvalidRequest` for values that no goal has."""
    if isinstance(command, Create | Replace):
        return _begun(thread_id, goal, command, now_ms)
    if isinstance(command, Inherit):
        mine = msgspec.structs.replace(command.goal, thread_id=thread_id, continuation_deferred=True)
        return Outcome(done=True, goal=mine, records=[record_of(mine, deferred=True)])
    if isinstance(command, Account):
        _check_account(command)
    elif isinstance(command, Update):
        _check_update(command)
    if goal is None or command.expected_id not in (None, goal.goal_id):
        return Outcome(done=False, goal=goal, records=[])
    return _on(command, goal, now_ms)


def _on(command: Command, goal: Goal, now_ms: int) -> Outcome:
    """What a command comes to for the goal that it is about."""
    match command:
        case Update():
            return _updated(command, goal, now_ms)
        case Account():
            return _accounted(command, goal, now_ms)
        case Pause() if goal.status == "active":
            return _changed(goal, now_ms, status="paused")
        case LimitUsage() if goal.status in ("active", "budget_limited"):
            return _changed(goal, now_ms, status="usage_limited")
        case AllowContinuation() if goal.continuation_deferred:
            now = msgspec.structs.replace(goal, continuation_deferred=False)
            return Outcome(done=True, goal=now, records=[record_of(now, deferred=False)])
    return _left(goal)


def _updated(command: Update, goal: Goal, now_ms: int) -> Outcome:
    if command.objective is UNSET and command.status is UNSET and command.token_budget is UNSET:
        return Outcome(done=True, goal=goal, records=[])
    budget = goal.token_budget if command.token_budget is UNSET else command.token_budget
    return _changed(
        goal,
        now_ms,
        objective=goal.objective if command.objective is UNSET else command.objective.strip(),
        status=_status_after(command, goal, budget),
        token_budget=budget,
    )


def _accounted(command: Account, goal: Goal, now_ms: int) -> Outcome:
    tokens, seconds = max(0, command.tokens), max(0, command.seconds)
    if not (tokens or seconds) or not _accepts(command.mode, goal.status):
        return _left(goal)
    used = min(goal.tokens_used + tokens, COUNT_MAX)
    may_end = command.mode == "active_or_stopped" or goal.status == "active"
    now = msgspec.structs.replace(
        goal,
        tokens_used=used,
        time_used_seconds=min(goal.time_used_seconds + seconds, COUNT_MAX),
        status="budget_limited" if may_end and _is_over(used, goal.token_budget) else goal.status,
        updated_at_ms=now_ms,
    )
    usage = {"tokens": used - goal.tokens_used, "seconds": now.time_used_seconds - goal.time_used_seconds}
    return Outcome(done=True, goal=now, records=[record_of(now, usage=usage)])


def _begun(thread_id: str, goal: Goal | None, command: Create | Replace, now_ms: int) -> Outcome:
    objective = checked_objective(command.objective)
    check_status(command.status)
    check_budget(command.token_budget, least=0)
    if isinstance(command, Create) and goal is not None and goal.status != "complete":
        return _left(goal)
    starts_over = command.status == "active" and _is_over(0, command.token_budget)
    now = Goal(
        thread_id=thread_id,
        goal_id=command.goal_id,
        objective=objective,
        status="budget_limited" if starts_over else command.status,
        token_budget=command.token_budget,
        tokens_used=0,
        time_used_seconds=0,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        continuation_deferred=goal is not None and goal.continuation_deferred,
    )
    # Of a goal that was deleted the records remain: with the first after it nothing of that one's counts any more.
    deferred = False if goal is None else None
    return Outcome(done=True, goal=now, records=[record_of(now, deferred=deferred)])


def _status_after(command: Update, goal: Goal, budget: int | None) -> str:
    wanted, over = command.status, _is_over(goal.tokens_used, budget)
    if wanted is UNSET and command.reactivate and goal.status == "budget_limited" and not over:
        return "active"
    if wanted is UNSET:
        is_spent = command.token_budget is not UNSET and goal.status == "active" and over
        return "budget_limited" if is_spent else goal.status
    if goal.status == "budget_limited" and wanted in ("paused", "blocked"):
        return goal.status
    return "budget_limited" if wanted == "active" and over else wanted


def _accepts(mode: str, status: str) -> bool:
    if mode == "active_or_stopped":
        return status != "complete"
    accepted = {
        "active_status_only": ("active",),
        "active_only": ("active", "budget_limited"),
        "active_or_complete": ("active", "budget_limited", "complete"),
    }
    return status in accepted[mode]


def _is_over(used: int, budget: int | None) -> bool:
    return budget is not None and used >= budget


def _changed(goal: Goal, now_ms: int, **fields: Any) -> Outcome:
    now = msgspec.structs.replace(goal, updated_at_ms=now_ms, **fields)
    return Outcome(done=True, goal=now, records=[record_of(now)])


def _left(goal: Goal) -> Outcome:
    return Outcome(done=False, goal=goal, records=[])


# --- what may be asked for -----------------------------------------------------------------------------------------------


def checked_objective(objective: Any) -> str:
    """An objective without outer white space. Raises `InvalidRequest`."""
    words = objective.strip() if isinstance(objective, str) else ""
    if not words:
        raise InvalidRequest("An objective is a text that is not blank.", hint="Say what the thread is to reach.")
    if len(words) > OBJECTIVE_CHARS_MAX:
        raise InvalidRequest(
            f"The objective has {len(words):,} characters, and at most {OBJECTIVE_CHARS_MAX:,} are kept.",
            hint="Put the long part into a file, and name it in the objective.",
        )
    return words


def check_status(status: str) -> None:
    """Raises `InvalidRequest` for a word that is no status."""
    if status not in STATUSES:
        raise InvalidRequest(f"There is no goal status {status!r}.", hint=f"Use one of {', '.join(STATUSES)}.")


def check_budget(budget: int | None, *, least: int = 1) -> None:
    """Raises `InvalidRequest` for what is no number of tokens from `least` on."""
    if budget is not None and (not _is_count(budget) or not least <= budget <= COUNT_MAX):
        raise InvalidRequest(
            f"A token budget of {budget!r} cannot be kept.", hint="Give a whole number above 0, or None for no bound."
        )


def _check_update(command: Update) -> None:
    if command.objective is not UNSET:
        checked_objective(command.objective)
    if command.status is not UNSET:
        check_status(command.status)
    if command.token_budget is not UNSET:
        check_budget(command.token_budget, least=0)


def _check_account(command: Account) -> None:
    if command.mode not in MODES:
        raise InvalidRequest(f"There is no mode {command.mode!r}.", hint=f"Use one of {', '.join(MODES)}.")
    for name, value in (("tokens", command.tokens), ("seconds", command.seconds)):
        if not _is_count(value) or value > COUNT_MAX:
            raise InvalidRequest(f"{value!r} is no number of {name}.", hint="Give a whole number.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# --- records -------------------------------------------------------------------------------------------------------------


def record_of(goal: Goal, *, usage: dict[str, int] | None = None, deferred: bool | None = None) -> compose.Raw:
    """The item that says how a goal stands.

    The format's own words, in its order, and behind them what it has none for: `goalId`, times in milliseconds, `usage`
    (what this record adds to the counters) and `deferred` (where it changes). Readers of the format skip those.
    """
    budget = {} if goal.token_budget is None else {"tokenBudget": goal.token_budget}
    said = {
        "threadId": goal.thread_id,
        "objective": goal.objective,
        "status": _IN_RECORDS.get(goal.status, goal.status),
        **budget,
        "tokensUsed": goal.tokens_used,
        "timeUsedSeconds": goal.time_used_seconds,
        "createdAt": goal.created_at_ms // 1000,
        "updatedAt": goal.updated_at_ms // 1000,
        "goalId": goal.goal_id,
        "createdAtMs": goal.created_at_ms,
        "updatedAtMs": goal.updated_at_ms,
    }
    more: dict[str, Any] = {} if usage is None else {"usage": usage}
    if deferred is not None:
        more["deferred"] = deferred
    return compose.event("thread_goal_updated", threadId=goal.thread_id, goal=said, **more)


def said_by(payload: GoalUpdated, thread_id: str) -> Goal | None:
    """The goal that a record of this thread tells of; None where it tells of none, or of another thread's.

    Whether it is deferred is not in it: records say only when that changes.
    """
    goal = payload.goal
    objective = (goal.objective or "").strip() if goal is not None else ""
    owner = payload.thread_id or (goal.thread_id if goal is not None else None)
    if goal is None or not objective or (owner is not None and owner.lower() != thread_id):
        return None
    created_s = _count(goal.created_at)
    created_ms = created_s * 1000 if goal.created_at_ms is None else _count(goal.created_at_ms)
    updated_ms = created_ms if goal.updated_at is None else _count(goal.updated_at) * 1000
    status = (goal.status or "active")[:_STATUS_CHARS_MAX]
    return Goal(
        thread_id=thread_id,
        goal_id=(goal.goal_id or "")[:_ID_CHARS_MAX] or derived_id(thread_id, created_s),
        objective=objective[:OBJECTIVE_CHARS_MAX],
        status=_IN_ROWS.get(status, status),
        token_budget=None if goal.token_budget is None else _count(goal.token_budget),
        tokens_used=_count(goal.tokens_used),
        time_used_seconds=_count(goal.time_used_seconds),
        created_at_ms=min(created_ms, COUNT_MAX),
        updated_at_ms=min(updated_ms if goal.updated_at_ms is None else _count(goal.updated_at_ms), COUNT_MAX),
    )


def derived_id(thread_id: str, created_s: int) -> str:
    """The id of a goal whose records have none: a UUIDv8 of the thread and the second in which it was made."""
    digest = bytearray(hashlib.sha256(f"{thread_id} {created_s}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _count(value: int | None) -> int:
    """A number that somebody wrote, as a column can hold it."""
    return min(max(value or 0, 0), COUNT_MAX)
