"""Goals of threads: what each is to reach, how far it may go, what it has used.

Every change is a record in the thread's own rollout, decided from what that file says, so it needs the thread: the one that
is open here, else it is opened for the moment (`ThreadBusy` where another process has it; one that another program wrote
needs `adopt`). Changes of one thread come one after the other, from however many threads of the process. The format has no
record for a goal that is deleted, so that one is the journal's, by the goal's id, and needs no lock.

A goal id that is given as `goal_id` must be that of the goal as it is: else nothing is done. docs/GOALS.md has the rules.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec
from msgspec import UNSET, Struct, UnsetType

from engine.decisions import Decisions
from engine.errors import InvalidRequest, StoreError
from engine.events.goals import (
    KIND,
    Account,
    AccountMode,
    AllowContinuation,
    Command,
    Create,
    Goal,
    GoalStatus,
    LimitUsage,
    Outcome,
    Pause,
    Replace,
    Update,
    check_budget,
    check_status,
    decide,
    said_by,
)
from engine.events.payloads import GoalUpdated
from engine.events.record import Rejected, decode_as, time_ms
from engine.projections.facts import Facts
from engine.projections.fold import Folder
from engine.projections.fresh import Fresh
from engine.projections.goal_facts import GOAL_DELETED
from engine.projections.goals import GoalFold, deleted_goals, get_goal, goal_of, list_goals, newest
from engine.projections.history import readable
from engine.projections.threads import stream_of
from engine.stores.boundary import public
from engine.stores.journal import Journal
from engine.stores.layout import Found, is_id, locate
from engine.stores.lineage import open_rollout
from engine.stores.rollouts import Located
from engine.stores.watermarks import Watermark
from engine.thread import Thread, WriterParts
from engine.writers import Writers

_MARK = b'"thread_goal_updated"'
_MARK_WITHIN = 200


class Accounted(Struct, frozen=True, kw_only=True):
    """Whether what was used was counted, and the goal as it is now."""

    counted: bool
    goal: Goal | None


class UsageRecord(Struct, frozen=True, kw_only=True):
    """What one record added to a goal's counters, and what they came to. `at_ms` is None where its time cannot be read."""

    at_ms: int | None
    tokens: int
    seconds: int
    tokens_used: int
    time_used_seconds: int


@public
class Goals:
    """The goals of one home's threads."""

    def __init__(self, parts: WriterParts, writers: Writers, fresh: Fresh, facts: Facts, journal: Journal) -> None:
        self._parts = parts
        self._alive = parts.alive
        self._writers = writers
        self._fresh = fresh
        self._facts = facts
        self._journal = journal
        self._decisions = Decisions(journal, facts)
        self._followed: WeakKeyDictionary[Thread, _Followed] = WeakKeyDictionary()
        self._mutex = threading.Lock()

    # --- asked -----------------------------------------------------------------------------------------------------

    def get(self, thread_id: str) -> Goal | None:
        """A thread's goal, or None where it has none, or is no thread. Raises `InvalidRequest` for what is not an id."""
        self._check(thread_id)
        goal, _ = self._fresh.ask(lambda transaction: get_goal(transaction, thread_id), thread_id=thread_id)
        return goal

    def list(self, *, status: GoalStatus | None = None, limit: int = 100) -> Sequence[Goal]:
        """The goals of all threads, or those of one status, changed last first; `limit` 0 is all."""
        self._check()
        if status is not None:
            check_status(status)
        if limit < 0:
            raise InvalidRequest(f"A limit of {limit} is below 0.", hint="Give 0 for all, or more.")
        goals, _ = self._fresh.ask(lambda transaction: list_goals(transaction, status=status, limit=limit))
        return goals

    def usage(self, thread_id: str, *, limit: int = 100) -> Sequence[UsageRecord]:
        """What each record of a thread's goal added to its counters, newest first; `limit` 0 is all.

        All together they are what the goal has used: the first has what a fork was given, and the next has what another
        program counted without a record. Read from the files. Raises `ThreadNotFound`, `TruthGone`, `RolloutUnreadable`.
        """
        self._check(thread_id)
        thread_id, found = self._head(thread_id)
        goal = self._in_files(thread_id, found)
        if goal is None:
            return []
        adding = (each for each in self._additions(goal, found) if each.tokens or each.seconds)
        return list(islice(adding, limit or None))

    # --- changed ---------------------------------------------------------------------------------------------------

    def create(
        self,
        thread_id: str,
        objective: str,
        *,
        token_budget: int | None = None,
        status: GoalStatus = "active",
        adopt: bool = False,
    ) -> Goal | None:
        """Give a thread a goal; None where it has one that is not complete, which stays as it is.

        Raises `InvalidRequest` (an objective that is blank or over 4,000 characters, a budget of 0 or less), and what
        `Threads.resume` raises.
        """
        check_budget(token_budget)
        wanted = Create(goal_id=self._new_id(), objective=objective, token_budget=token_budget, status=status)
        return _done(self._command(thread_id, wanted, adopt=adopt))

    def replace(
        self,
        thread_id: str,
        objective: str,
        *,
        token_budget: int | None = None,
        status: GoalStatus = "active",
        adopt: bool = False,
    ) -> Goal:
        """Give a thread another goal, whatever it has. Raises as `create` does."""
        check_budget(token_budget)
        wanted = Replace(goal_id=self._new_id(), objective=objective, token_budget=token_budget, status=status)
        goal = self._command(thread_id, wanted, adopt=adopt).goal
        assert goal is not None
        return goal

    def update(
        self,
        thread_id: str,
        *,
        objective: str | UnsetType = UNSET,
        status: GoalStatus | UnsetType = UNSET,
        token_budget: int | UnsetType | None = UNSET,
        reactivate: bool = False,
        goal_id: str | None = None,
        adopt: bool = False,
    ) -> Goal | None:
        """Change what is given, and nothing else; a `token_budget` of None takes the budget away. None: nothing was done.

        A goal that is over its budget cannot be active, and one that is `budget_limited` is neither paused nor blocked. With
        more budget it goes on only if `reactivate` says so. Raises as `create` does.
        """
        if token_budget is not UNSET:
            check_budget(token_budget)
        wanted = Update(
            objective=objective,
            status=status,
            token_budget=token_budget,
            reactivate=reactivate,
            expected_id=_id(goal_id),
        )
        return _done(self._command(thread_id, wanted, adopt=adopt))

    def pause(self, thread_id: str, *, goal_id: str | None = None, adopt: bool = False) -> Goal | None:
        """Have an active goal wait; None where it is not active."""
        return _done(self._command(thread_id, Pause(expected_id=_id(goal_id)), adopt=adopt))

    def limit_usage(self, thread_id: str, *, goal_id: str | None = None, adopt: bool = False) -> Goal | None:
        """The account's limit is reached: have a goal wait that is active, or over its budget; None for any other."""
        return _done(self._command(thread_id, LimitUsage(expected_id=_id(goal_id)), adopt=adopt))

    def block(self, thread_id: str, *, goal_id: str | None = None, adopt: bool = False) -> Goal | None:
        """The thread cannot go on by itself."""
        return self.update(thread_id, status="blocked", goal_id=goal_id, adopt=adopt)

    def complete(self, thread_id: str, *, goal_id: str | None = None, adopt: bool = False) -> Goal | None:
        """The goal is reached."""
        return self.update(thread_id, status="complete", goal_id=goal_id, adopt=adopt)

    def account(
        self,
        thread_id: str,
        *,
        tokens: int = 0,
        seconds: int = 0,
        mode: AccountMode = "active_only",
        goal_id: str | None = None,
        adopt: bool = False,
    ) -> Accounted:
        """Count what was used; one that reaches its budget becomes `budget_limited`. Less than nothing counts as nothing.

        `mode` says which goals count: active ones (`active_status_only`), also those over budget (`active_only`), also
        complete ones (`active_or_complete`), or all but complete ones (`active_or_stopped`).
        """
        wanted = Account(tokens=tokens, seconds=seconds, mode=mode, expected_id=_id(goal_id))
        outcome = self._command(thread_id, wanted, adopt=adopt)
        return Accounted(counted=outcome.done, goal=outcome.goal)

    def allow_continuation(self, thread_id: str, *, goal_id: str | None = None, adopt: bool = False) -> Goal | None:
        """A fork's goal may go on by itself, without waiting for its first turn; None where nothing was deferred."""
        return _done(self._command(thread_id, AllowContinuation(expected_id=_id(goal_id)), adopt=adopt))

    def clear(self, thread_id: str, *, goal_id: str | None = None) -> Goal | None:
        """Delete a thread's goal, and answer what it was; None where there is none. Works for any thread, also a busy one.

        Raises `ThreadNotFound`, `TruthGone`, `RolloutUnreadable`, `InvalidRequest`, and what a decision raises.
        """
        self._check(thread_id)
        expected = _id(goal_id)
        with self._writers.alone(thread_id) as thread:
            goal = self._in_file(thread) if thread is not None else self._in_files(*self._head(thread_id))
            if goal is None or expected not in (None, goal.goal_id):
                return None
            self._decisions.record(GOAL_DELETED, goal.thread_id, goal_id=goal.goal_id)
            return goal

    # --- decided ---------------------------------------------------------------------------------------------------

    def _command(self, thread_id: str, command: Command, *, adopt: bool) -> Outcome:
        """Decide by what the thread's file says, and write down what was decided."""
        self._check(thread_id)
        decide(thread_id.lower(), None, command, 0)  # what no goal can be is refused before anything is opened
        with self._writers.borrowed(thread_id, adopt=adopt) as thread:
            outcome = decide(thread.id, self._in_file(thread), command, thread.now_ms())
            if outcome.records:
                thread.append(outcome.records)
            return outcome

    def _in_file(self, thread: Thread) -> Goal | None:
        """The goal of a thread that is open here. Nobody else writes its rollout, so only what is new in it is read."""
        with self._mutex:
            followed = self._followed.get(thread)
        if followed is None:
            followed = _Followed(None, self._elsewhere(thread.id, thread.path))
        found = locate(self._parts.home, thread.path, self._parts.files)
        goals = dict(followed.elsewhere)
        if found is not None:
            goal, mark = self._fold(found, thread.id, followed.mark)
            followed = _Followed(mark, followed.elsewhere)
            if goal is not None:
                goals[found.path] = goal
        with self._mutex:
            self._followed[thread] = followed
        return self._standing(newest(goals, thread.path))

    def _in_files(self, thread_id: str, head: Found) -> Goal | None:
        """The goal of any thread, by all of its rollouts."""
        goals = dict(self._elsewhere(thread_id, head.path))
        goal, _ = self._fold(head, thread_id, None)
        if goal is not None:
            goals[head.path] = goal
        return self._standing(newest(goals, head.path))

    def _elsewhere(self, thread_id: str, path: str) -> Mapping[str, Goal]:
        """What the thread's other rollouts say; a reverted thread has several."""
        others = [each for each in self._parts.history.rollouts(thread_id) if each.path != path]
        goals = {each.path: self._fold(each, thread_id, None)[0] for each in others}
        return {other: goal for other, goal in goals.items() if goal is not None}

    def _fold(self, found: Found, thread_id: str, mark: Watermark | None) -> tuple[Goal | None, Watermark]:
        """What a rollout says of its thread's goal, from where it was followed to on."""
        parts = self._parts
        fold = GoalFold(thread_id)
        with readable(found):
            source = open_rollout(parts.home, found, parts.options, parts.files)
            with contextlib.closing(source):
                marks = {} if mark is None else {fold.name: mark}
                (folded,) = Folder([fold], parts.options).fold(stream_of(found.path), source, marks)
        part = fold.decode(folded.mark.state)
        goal = None if part.said is None else goal_of(thread_id, [*part.said, part.deferred])
        return goal, folded.mark

    def _standing(self, goal: Goal | None) -> Goal | None:
        """The goal, unless it was deleted."""
        return None if goal is None or goal.goal_id in self._deleted(goal.thread_id) else goal

    def _deleted(self, thread_id: str) -> set[str]:
        """The ids of a thread's goals that were deleted: by the rows, or where there are none to be had by the journal."""

        def ask() -> set[str]:
            self._facts.catch_up()
            with self._facts.database.read() as transaction:
                return deleted_goals(transaction, thread_id)

        try:
            return self._fresh.mending(ask)
        except StoreError:
            return set(self._deleted_by_journal(thread_id))

    def _deleted_by_journal(self, thread_id: str) -> Iterator[str]:
        for segment in self._journal.segments():
            for found in self._journal.read(segment):
                if not isinstance(found, Located) or GOAL_DELETED.encode() not in bytes(found.record.payload):
                    continue
                with contextlib.suppress(msgspec.DecodeError):
                    said = msgspec.json.decode(found.record.payload, type=_Deletion)
                    if said.type == GOAL_DELETED and said.thread_id.lower() == thread_id:
                        yield said.goal_id

    def _additions(self, goal: Goal, head: Found) -> Iterator[UsageRecord]:
        """What each record of this goal added to the one before it, newest first."""
        later: _Said | None = None
        for said in self._said_backwards(goal.thread_id, head):
            is_same = said.goal.goal_id == goal.goal_id
            if later is not None:
                yield _addition(later, said.goal if is_same else None)
            later = said if is_same else None
            if not is_same:
                return
        if later is not None:
            yield _addition(later, None)

    def _said_backwards(self, thread_id: str, head: Found) -> Iterator[_Said]:
        """What the records of a thread's rollouts say of its goals, newest first."""
        names = {head.name.own_rollout_id}
        rollouts = [head]
        for each in sorted(self._parts.history.rollouts(thread_id), key=lambda each: each.name.named_at, reverse=True):
            if each.name.own_rollout_id not in names:  # not a copy
                names.add(each.name.own_rollout_id)
                rollouts.append(each)
        for line in chain.from_iterable(map(self._parts.history.own_lines_backwards, rollouts)):
            if _MARK not in line[:_MARK_WITHIN]:
                continue
            with contextlib.suppress(Rejected):
                record = decode_as(line, KIND)
                payload: Any = record.payload
                goal = said_by(payload, thread_id) if isinstance(payload, GoalUpdated) else None
                if goal is not None:
                    yield _Said(time_ms(record.timestamp), goal)

    # ---------------------------------------------------------------------------------------------------------------

    def _head(self, thread_id: str) -> tuple[str, Found]:
        row, found = self._parts.history.find(thread_id)
        return row.id, found

    def _new_id(self) -> str:
        return self._parts.clock.new_id()

    def _check(self, thread_id: str | None = None) -> None:
        if not self._parts.options.goals:
            raise InvalidRequest("Goals are switched off here.", hint="Open the home with Options(goals=True).")
        if thread_id is not None and not is_id(thread_id):
            raise InvalidRequest(
                f"{thread_id!r} is not a thread id.", hint="Thread ids are UUIDs; see `rolloutdb threads list`."
            )


class _Followed(Struct, frozen=True):
    """How far an open thread's rollout was followed, and what its other rollouts say, which nobody writes any more."""

    mark: Watermark | None
    elsewhere: Mapping[str, Goal]


class _Deletion(Struct):
    """A `goal_deleted` of the journal."""

    type: str
    thread_id: str
    goal_id: str


def _done(outcome: Outcome) -> Goal | None:
    return outcome.goal if outcome.done else None


def _id(goal_id: str | None) -> str | None:
    """An id to be compared. Raises `InvalidRequest` for what no goal has."""
    if goal_id is not None and not is_id(goal_id):
        raise InvalidRequest(f"{goal_id!r} is not a goal id.", hint="Take the goal_id of `goals show`.")
    return None if goal_id is None else goal_id.lower()


class _Said(NamedTuple):
    """A goal as one record has it, and that record's time."""

    at_ms: int | None
    goal: Goal


def _addition(said: _Said, before: Goal | None) -> UsageRecord:
    """What a record added to the one before it; the first of a goal begins from nothing."""
    goal = said.goal
    tokens, seconds = (0, 0) if before is None else (before.tokens_used, before.time_used_seconds)
    return UsageRecord(
        at_ms=said.at_ms,
        tokens=goal.tokens_used - tokens,
        seconds=goal.time_used_seconds - seconds,
        tokens_used=goal.tokens_used,
        time_used_seconds=goal.time_used_seconds,
    )
