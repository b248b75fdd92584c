"""The agent graph: which thread was spawned by which, and which agents are open.

An edge leads from a parent to its child; a child has one. It follows from the child's own rollout, whose session_meta
names the thread that spawned it; where the journal attached the child to a parent since, that one counts. Its status is
the journal's alone, and open where the journal says nothing: closing an agent needs no lock and works for any thread.

A fork of an agent is no agent, though it has its source: it is known by being forked from another thread than the parent.
A review and other helpers of the agent's program are no agents either; lists of threads by parent have them.

A status filter holds for every edge on the way, so a closed agent hides what is below it. Cycles, which only foreign or
damaged homes have, end where they come back. A status that is not known here is shown where no status is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from engine.errors import AgentPathAmbiguous
from engine.projections.decided import Decided, Decision, Effect, Shape
from engine.stores.sqlite import Transaction, Value

STATUS_SET = "agent_status_set"
ATTACHED = "agent_attached"

OPEN = "open"
CLOSED = "closed"
STATUSES = (OPEN, CLOSED)


class Agent(Struct, frozen=True, kw_only=True):
    """A thread in the graph. Times are Unix milliseconds; None is unknown.

    `parent_thread_id` and `status` are None for a thread that is nobody's agent. `depth` counts the edges from the thread
    that was asked for. `missing` tells that the thread's rollout is gone, or that no thread of the home has the id.
    """

    id: str
    parent_thread_id: str | None = None
    status: str | None = None
    status_at_ms: int | None = None
    depth: int = 0
    agent_path: str | None = None
    agent_nickname: str | None = None
    agent_role: str | None = None
    title: str | None = None
    updated_at_ms: int | None = None
    archived: bool = False
    missing: bool = False


class Tree(Struct, frozen=True, kw_only=True):
    """Threads with the agents below them: of each root its own, breadth first."""

    roots: list[Agent]
    agents: list[Agent]


def agent_of(transaction: Transaction, thread_id: str) -> Agent | None:
    """A thread and the edge to it, or None where no thread has the id."""
    found = _nodes(transaction, [thread_id])
    return found.get(thread_id.lower())


def children(transaction: Transaction, parent: str, status: str | None = None) -> list[Agent]:
    """The agents whose parent a thread is, by id."""
    found = _below(transaction, [parent.lower()])
    return [_placed(each, 1) for each in found if status in (None, each.status)]


def descendants(transaction: Transaction, root: str, status: str | None = None) -> list[Agent]:
    """All agents below a thread, by depth and id."""
    return _walk(root.lower(), lambda parents: _below(transaction, parents), status)


def ancestors(transaction: Transaction, thread_id: str) -> list[Agent]:
    """An agent's parent, the parent's own, and so on to the top; `depth` counts the edges up to each."""
    found: list[Agent] = []
    seen = {thread_id.lower()}
    at = agent_of(transaction, thread_id)
    while at is not None and at.parent_thread_id is not None and at.parent_thread_id not in seen:
        above = at.parent_thread_id
        seen.add(above)
        at = agent_of(transaction, above)
        found.append(_placed(at or Agent(id=above, missing=True), len(found) + 1))
    return found


def tree(transaction: Transaction, root: str | None, status: str | None = None) -> Tree:
    """The agents below a thread, or below every thread that has some and is nobody's agent itself.

    Of a cycle, which has no top, the lowest id stands for it.
    """
    if root is not None:
        found = agent_of(transaction, root) or Agent(id=root.lower(), missing=True)
        return Tree(roots=[found], agents=descendants(transaction, root, status))
    below: dict[str, list[Agent]] = defaultdict(list)
    for agent in _below(transaction, None):
        below[agent.parent_thread_id or ""].append(agent)
    tops = _tops(below)
    walked = {top: _walk(top, lambda parents: _of_all(below, parents), status) for top in tops}
    shown = [top for top in tops if walked[top] or any(agent.id == top for agent in below[top])]
    nodes = _nodes(transaction, shown)
    return Tree(
        roots=[nodes.get(top) or Agent(id=top, missing=True) for top in shown],
        agents=[agent for top in shown for agent in walked[top]],
    )


def with_path(agents: Iterable[Agent], agent_path: str) -> Agent | None:
    """The one of these agents with a path, or None. Raises `AgentPathAmbiguous` where there are several."""
    found = [agent for agent in agents if agent.agent_path == agent_path]
    if len(found) > 1:
        ids = [agent.id for agent in found]
        raise AgentPathAmbiguous(
            f"{len(ids)} agents have the path {agent_path!r}: {', '.join(ids)}.",
            agents=ids,
            hint="Name the agent by its id; `rolloutdb agents tree` shows them.",
        )
    return found[0] if found else None


def _walk(root: str, below: Callable[[Sequence[str]], list[Agent]], status: str | None) -> list[Agent]:
    found: list[Agent] = []
    seen, level, depth = {root}, [root], 0
    while level:
        depth += 1
        new = [
            _placed(agent, depth) for agent in below(level) if agent.id not in seen and status in (None, agent.status)
        ]
        level = [agent.id for agent in new]
        seen.update(level)
        found += new
    return found


def _tops(below: dict[str, list[Agent]]) -> list[str]:
    """Parents that are nobody's agents, and for each cycle the lowest id in it or hanging on it."""
    agents = {agent.id for found in below.values() for agent in found}
    tops = sorted(below.keys() - agents)
    reached = {agent.id for top in tops for agent in _walk(top, lambda parents: _of_all(below, parents), None)}
    for each in sorted(agents & below.keys()):
        if each not in reached:
            tops.append(each)
            reached |= {each, *(agent.id for agent in _walk(each, lambda parents: _of_all(below, parents), None))}
    return tops


def _of_all(below: dict[str, list[Agent]], parents: Sequence[str]) -> list[Agent]:
    return sorted((agent for parent in parents for agent in below.get(parent, ())), key=lambda agent: agent.id)


def _placed(agent: Agent, depth: int) -> Agent:
    return msgspec.structs.replace(agent, depth=depth)


def _nodes(transaction: Transaction, ids: Sequence[str]) -> dict[str, Agent]:
    rows = transaction.rows(_NODES, {"ids": _json(ids)})
    return {agent.id: agent for agent in map(_agent, rows)}


def _below(transaction: Transaction, parents: Sequence[str] | None) -> list[Agent]:
    """The agents of these parents, or of all, by id."""
    if parents is None:
        return [_agent(row) for row in transaction.rows(_EDGES)]
    return [_agent(row) for row in transaction.rows(_CHILDREN, {"parents": _json(parents)})]


def _agent(row: Sequence[Any]) -> Agent:
    """A row of one of the statements below."""
    thread_id, parent, status, status_at_ms, path, nickname, role, title, updated_at_ms, archived, missing = row
    return Agent(
        id=thread_id,
        parent_thread_id=None if parent is None else parent.lower(),
        status=status,
        status_at_ms=status_at_ms,
        agent_path=path,
        agent_nickname=nickname,
        agent_role=role,
        title=title,
        updated_at_ms=updated_at_ms,
        archived=bool(archived),
        missing=bool(missing),
    )


def _json(values: Sequence[str]) -> str:
    return msgspec.json.encode([value.lower() for value in values]).decode()


def _status_set(decision: Decision) -> list[Effect]:
    thread_id, status = decision.id("thread_id"), decision.text("status")
    if thread_id is None or status is None:
        return []
    return [Effect(_STATUS, thread_id, {"thread_id": thread_id, "status": status, "at_ms": decision.at_ms})]


def _attached(decision: Decision) -> list[Effect]:
    thread_id, parent = decision.id("thread_id"), decision.id("parent_thread_id")
    if thread_id is None or parent is None:
        return []
    values: dict[str, Value] = {"thread_id": thread_id, "parent": parent, "at_ms": decision.at_ms}
    return [Effect(_PARENT, thread_id, values), *_status_set(decision)]


_STATUS = """
    INSERT INTO agents (thread_id, status, status_at_ms) VALUES (:thread_id, :status, :at_ms)
    ON CONFLICT (thread_id) DO UPDATE SET status = excluded.status, status_at_ms = excluded.status_at_ms
"""

_PARENT = """
    INSERT INTO agents (thread_id, parent_thread_id, parent_at_ms) VALUES (:thread_id, :parent, :at_ms)
    ON CONFLICT (thread_id) DO UPDATE SET parent_thread_id = excluded.parent_thread_id, parent_at_ms = excluded.parent_at_ms
"""

AGENTS = Decided(
    tables=(Shape("agents", ("thread_id",), "status status_at_ms parent_thread_id parent_at_ms".split()),),
    tags={STATUS_SET: _status_set, ATTACHED: _attached},
)

_SPAWN_SOURCE = '{"subagent":{"thread_spawn":'

_SPAWNED = f"""(
    threads.parent_thread_id IS NOT NULL AND instr(threads.source, '{_SPAWN_SOURCE}') = 1
    AND (threads.forked_from_id IS NULL OR threads.forked_from_id = threads.parent_thread_id)
)"""
"""A thread that an agent's program spawned for another: its source says so, and it is no fork of such a thread."""


def _select(parent: str, tables: str) -> str:
    """Agents whose parent is this expression; one that is NULL makes a thread nobody's agent."""
    return f"""
        SELECT threads.id, {parent} AS parent, iif({parent} IS NULL, NULL, coalesce(agents.status, '{OPEN}')),
        iif({parent} IS NULL, NULL, agents.status_at_ms), threads.agent_path, threads.agent_nickname,
        threads.agent_role, threads.title, threads.updated_at_ms, threads.archived, EXISTS (
            SELECT 1 FROM streams WHERE streams.path = threads.rollout_path AND streams.missing_since_ms IS NOT NULL)
        FROM {tables}
    """  # noqa: S608 - the words are ours


_THREADS = "threads LEFT JOIN agents ON agents.thread_id = threads.id"
_PARENT_OF = f"coalesce(agents.parent_thread_id, iif({_SPAWNED}, threads.parent_thread_id, NULL))"

_NODES = f"{_select(_PARENT_OF, _THREADS)} WHERE threads.id IN (SELECT value FROM json_each(:ids))"  # noqa: S608 - the same

_OWN = _select("threads.parent_thread_id", f"{_THREADS} WHERE agents.parent_thread_id IS NULL AND {_SPAWNED}")
_GIVEN = _select(
    "agents.parent_thread_id",
    "agents JOIN threads ON threads.id = agents.thread_id WHERE agents.parent_thread_id IS NOT NULL",
)

_EDGES = f"{_OWN} UNION ALL {_GIVEN} ORDER BY 1"

_CHILDREN = f"""
    {_OWN} AND threads.parent_thread_id IN (SELECT value FROM json_each(:parents))
    UNION ALL {_GIVEN} AND agents.parent_thread_id IN (SELECT value FROM json_each(:parents)) ORDER BY 1
"""  # noqa: S608 - the words are ours
"""By the parent that the rollout names, but for those that were attached to another; and by that other."""
