"""The agents of one home: who was spawned by whom, and closing and bringing back whole trees of them.

The engine keeps the graph and runs no agent. Closing and reopening are records in the journal, so they need no lock of the
thread: an agent that runs, that another program owns, or whose file is gone can be closed. What runs is stopped and
brought back by a callback that the application gives; the graph tells in which order, and what was told to be done.

`close_tree` goes from the leaves up. An agent is closed when its callback has returned; one below which something could not
be closed is not asked and stays open, since a closed agent hides what is below it, and the next call could not find it.
`resume_tree` goes from the top down, over open edges. Both may be called again, and both leave off where a cycle comes back.

What is decided is done when the journal has it; rows that cannot follow at once never fail a call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from engine.decisions import Decisions
from engine.errors import AgentCycle, InvalidRequest, ReadOnlyHome, ThreadNotFound
from engine.projections import agents as graph
from engine.projections.agents import CLOSED, OPEN, STATUSES, Agent
from engine.projections.catchup import Partial
from engine.projections.fresh import Fresh
from engine.stores.alive import Alive
from engine.stores.boundary import public
from engine.stores.layout import Home, is_id
from engine.stores.recorder import Durability
from engine.stores.sqlite import Transaction
from engine.thread import Thread
from engine.threads import Threads


class AgentList(Struct, frozen=True, kw_only=True):
    """Agents in a stated order. `partial` is None where the rows cover every file."""

    agents: list[Agent]
    partial: Partial | None


class AgentTree(Struct, frozen=True, kw_only=True):
    """Threads with the agents below them: of each root its own, breadth first. `partial` as in `AgentList`."""

    roots: list[Agent]
    agents: list[Agent]
    partial: Partial | None


class AgentFailure(Struct, frozen=True, kw_only=True):
    """An agent whose callback, or whose record, failed. `error` is the exception's class and words."""

    id: str
    error: str


class CascadeReport(Struct, frozen=True, kw_only=True):
    """What came of closing or resuming a tree: ids in the order in which they were come to.

    `done` were closed or resumed; `failed` were tried; `skipped` were not, since one below them (closing) or above them
    (resuming) failed. Doing it again tries what is not done.
    """

    done: list[str]
    failed: list[AgentFailure]
    skipped: list[str]
    partial: Partial | None


@public
class Agents:
    """The agent graph of one home. Safe to call from many threads."""

    def __init__(self, home: Home, fresh: Fresh, decisions: Decisions, threads: Threads, alive: Alive) -> None:
        self._home = home
        self._fresh = fresh
        self._decisions = decisions
        self._threads = threads
        self._alive = alive

    # --- what is there -------------------------------------------------------------------------------------------

    def get(self, thread_id: str) -> Agent | None:
        """A thread and the edge to it, or None where no thread has the id; nobody's agent has no parent."""
        _check_id(thread_id)
        found, _ = self._fresh.ask(lambda transaction: graph.agent_of(transaction, thread_id), thread_id=thread_id)
        return found

    def children(self, thread_id: str, status: str | None = None) -> AgentList:
        """The agents whose parent a thread is, by id; with a status only those that have it.

        The thread need not be there. Raises `InvalidRequest`.
        """
        return self._list(thread_id, status, lambda transaction: graph.children(transaction, thread_id, status))

    def descendants(self, thread_id: str, status: str | None = None) -> AgentList:
        """All agents below a thread, by depth and id. A status counts on every edge: what is below another is not there."""
        return self._list(thread_id, status, lambda transaction: graph.descendants(transaction, thread_id, status))

    def ancestors(self, thread_id: str) -> AgentList:
        """An agent's parent, the parent's own, and so on to the top; the last may be a thread that is not there."""
        return self._list(thread_id, None, lambda transaction: graph.ancestors(transaction, thread_id))

    def tree(self, thread_id: str | None = None, status: str | None = None) -> AgentTree:
        """The agents below a thread, or all of the home, each below the thread at its top."""
        if thread_id is not None:
            _check_id(thread_id)
        _check_status(status)
        found, partial = self._fresh.ask(lambda transaction: graph.tree(transaction, thread_id, status))
        return AgentTree(roots=found.roots, agents=found.agents, partial=partial)

    def find_child(self, thread_id: str, agent_path: str, status: str | None = None) -> Agent | None:
        """The child with a path (`/root/task`), or None. Raises `AgentPathAmbiguous` where several have it."""
        return graph.with_path(self.children(thread_id, status).agents, agent_path)

    def find_descendant(self, thread_id: str, agent_path: str, status: str | None = None) -> Agent | None:
        """The agent below a thread with a path, or None. Raises `AgentPathAmbiguous` where several have it."""
        return graph.with_path(self.descendants(thread_id, status).agents, agent_path)

    # --- one edge ------------------------------------------------------------------------------------------------

    def spawn(
        self,
        parent_thread_id: str,
        *,
        cwd: str | None = None,
        agent_path: str | None = None,
        agent_nickname: str | None = None,
        agent_role: str | None = None,
        model: str | None = None,
        model_provider: str | None = None,
        durability: Durability = "durable",
        settings: Mapping[str, Any] | None = None,
    ) -> Thread:
        """A new thread that is an agent of another; it works in the parent's folder unless told otherwise.

        The edge is in the agent's own rollout, so it is there with the first append, and not before. Raises
        `ThreadNotFound`, `InvalidRequest`, `ReadOnlyHome`.
        """
        _check_id(parent_thread_id)
        parent = self._threads.get(parent_thread_id)
        if parent is None:
            raise self._not_found(parent_thread_id)
        spawned = {
            "parent_thread_id": parent.id,
            "depth": len(self.ancestors(parent.id).agents) + 1,
            "agent_path": agent_path,
            "agent_nickname": agent_nickname,
            "agent_role": agent_role,
        }
        return self._threads.create(
            cwd=parent.cwd or "/" if cwd is None else cwd,
            source={"subagent": {"thread_spawn": spawned}},
            thread_source="subagent",
            model=model,
            model_provider=model_provider,
            durability=durability,
            settings=settings,
        )

    def attach(self, thread_id: str, parent_thread_id: str, status: str = OPEN) -> None:
        """Make a thread the agent of another, whosever it was before, and open or closed as told.

        Raises `ThreadNotFound`, `AgentCycle` (nothing is written), `InvalidRequest`, `ReadOnlyHome`.
        """
        if status not in STATUSES:
            raise _unknown_status(status)
        child, parent = self._known(thread_id), self._known(parent_thread_id)
        above = [parent.id, *(agent.id for agent in self.ancestors(parent.id).agents)]
        if child.id in above:
            raise AgentCycle(
                f"{child.id} is above {parent.id}, or the same thread, so it cannot be below it.",
                hint=f"`rolloutdb agents tree {child.id}` shows what is below it.",
            )
        self._decisions.record(graph.ATTACHED, child.id, parent_thread_id=parent.id, status=status)

    def close(self, thread_id: str) -> bool:
        """Note that an agent is closed, and nothing else; what is below it is hidden with it, and stays as it is.

        False, and nothing is written, for a thread that is nobody's agent. Raises `ThreadNotFound`, `ReadOnlyHome`.
        """
        return self._set_status(self._known(thread_id), CLOSED)

    def reopen(self, thread_id: str) -> bool:
        """Note that an agent is open again, as `close` notes the opposite."""
        return self._set_status(self._known(thread_id), OPEN)

    # --- whole trees ---------------------------------------------------------------------------------------------

    def close_tree(self, thread_id: str, shut_down: Callable[[Agent], object]) -> CascadeReport:
        """Close the open agents below a thread, children first, and then the thread itself.

        `shut_down` is called for each before it is noted as closed; an exception from it is in the report, and keeps
        open what is above. It may be called again for an agent that it was called for before. Agents that are spawned
        meanwhile are closed as well. A thread that is closed already is not asked, nor is one noted that is nobody's agent.
        Raises `ThreadNotFound`, `ReadOnlyHome`.
        """
        self._check_writable()
        return _Closing(self._known(thread_id), shut_down, self._open_below, self._set_status).run()

    def resume_tree(self, thread_id: str, resume: Callable[[Agent], object]) -> CascadeReport:
        """Bring back a thread and the open agents below it, parents first, level by level.

        `resume` is called for each; an exception from it is in the report, and what is below is skipped. The thread itself is
        noted as open again if it was closed; closed agents below stay so. `depth` counts from the thread. Raises as
        `close_tree` does.
        """
        self._check_writable()
        return _Resuming(self._known(thread_id), resume, self._open_below, self._set_status).run()

    # --- parts ---------------------------------------------------------------------------------------------------

    def _open_below(self, agent: Agent) -> AgentList:
        return self.children(agent.id, OPEN)

    def _list(self, thread_id: str, status: str | None, question: Callable[[Transaction], list[Agent]]) -> AgentList:
        _check_id(thread_id)
        _check_status(status)
        found, partial = self._fresh.ask(question, thread_id=thread_id)
        return AgentList(agents=found, partial=partial)

    def _known(self, thread_id: str) -> Agent:
        found = self.get(thread_id)
        if found is None:
            raise self._not_found(thread_id)
        return found

    def _set_status(self, agent: Agent, status: str) -> bool:
        if agent.parent_thread_id is None:
            return False
        self._decisions.record(graph.STATUS_SET, agent.id, status=status)
        return True

    def _check_writable(self) -> None:
        """Before the first callback: what cannot be noted as closed is not to be shut down."""
        if self._home.state is None:
            raise ReadOnlyHome(
                "The home is read-only, so nothing can be decided about its agents.",
                hint="Name a folder for the engine's own files with --state-dir.",
            )

    def _not_found(self, thread_id: str) -> ThreadNotFound:
        return ThreadNotFound(
            f"There is no thread {thread_id} in {self._home.path}.",
            hint="Run `rolloutdb threads list --limit 0` to see all ids, or `rolloutdb backfill` if it is partial.",
        )


class _Cascade:
    """What closing and resuming share: who was come to, and the report."""

    def __init__(
        self,
        root: Agent,
        call: Callable[[Agent], object],
        open_below: Callable[[Agent], AgentList],
        note: Callable[[Agent, str], bool],
    ) -> None:
        self._root = root
        self._call = call
        self._open_below = open_below
        self._note = note
        self._seen = {root.id}
        self._done: list[str] = []
        self._failed: list[AgentFailure] = []
        self._skipped: list[str] = []
        self._partial: Partial | None = None

    def _report(self) -> CascadeReport:
        return CascadeReport(done=self._done, failed=self._failed, skipped=self._skipped, partial=self._partial)

    def _new_below(self, agent: Agent) -> list[Agent]:
        """Open agents of a thread that nobody came to yet."""
        found = self._open_below(agent)
        self._partial = found.partial
        new = [
            msgspec.structs.replace(each, depth=agent.depth + 1) for each in found.agents if each.id not in self._seen
        ]
        self._seen.update(each.id for each in new)
        return new

    def _carried_out(self, agent: Agent, status: str | None) -> bool:
        """Call for one agent, and note its new status; whether both went well."""
        try:
            self._call(agent)
            if status is not None:
                self._note(agent, status)
        except Exception as error:  # noqa: BLE001 - whatever an application raises is told, and costs one agent
            self._failed.append(AgentFailure(id=agent.id, error=f"{type(error).__name__}: {error}"))
            return False
        self._done.append(agent.id)
        return True


class _Closing(_Cascade):
    """Children first, by a stack of its own: a tree may be deeper than Python's."""

    def run(self) -> CascadeReport:
        path: list[tuple[Agent, Iterator[Agent]]] = [(self._root, iter(()))]
        """From the root down to the agent that is being closed, each with its children that nobody came to yet."""
        kept: set[str] = set()
        """Agents with something below them that stays open."""
        while path:
            agent, waiting = path[-1]
            below = next(waiting, None)
            if below is not None:
                path.append((below, iter(())))
            elif new := self._new_below(agent):
                path[-1] = (agent, iter(new))
            else:
                path.pop()
                if not self._close(agent, kept=agent.id in kept) and path:
                    kept.add(path[-1][0].id)
        return self._report()

    def _close(self, agent: Agent, *, kept: bool) -> bool:
        if agent.status == CLOSED:
            return True  # the root: those below it were open, and came first
        if kept:
            self._skipped.append(agent.id)
            return False
        return self._carried_out(agent, CLOSED)


class _Resuming(_Cascade):
    """Parents first, level by level."""

    def run(self) -> CascadeReport:
        queue = deque([msgspec.structs.replace(self._root, depth=0)])
        while queue:
            agent = queue.popleft()
            if self._carried_out(agent, OPEN if agent.status == CLOSED else None):
                queue.extend(self._new_below(agent))
            else:
                self._skip_below(agent)
        return self._report()

    def _skip_below(self, agent: Agent) -> None:
        skipped = deque(self._new_below(agent))
        while skipped:
            below = skipped.popleft()
            self._skipped.append(below.id)
            skipped.extend(self._new_below(below))


def _check_id(thread_id: str) -> None:
    if not is_id(thread_id):
        raise InvalidRequest(
            f"{thread_id!r} is not a thread id.", hint="Thread ids are UUIDs; see `rolloutdb threads list`."
        )


def _check_status(status: str | None) -> None:
    if status is not None and status not in STATUSES:
        raise _unknown_status(status)


def _unknown_status(status: str) -> InvalidRequest:
    return InvalidRequest(f"There is no status {status!r}.", hint=f"Use one of {', '.join(STATUSES)}.")
