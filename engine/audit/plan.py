"""A plan of repair: what would be done about each finding that something can be done about, in the order of doing it.

A plan comes from an audit and from nothing else. Applying one that was saved audits anew and does those of its steps that
are still called for, so an old plan, or one that somebody wrote, does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
from msgspec import Struct

from engine.audit.findings import REPAIR_OFFLINE, WORDS, Finding
from engine.errors import InvalidRequest
from engine.projections.facts import INDEX_NAMES, JOURNAL_TABLES
from engine.stores.files import Files

Action = Literal[
    "replace_database",
    "finish",
    "release_lock",
    "remove_file",
    "settle",
    "trim_tail",
    "trim_journal",
    "refold_facts",
    "remove_row",
    "fold",
    "fold_side",
    "index",
]
"""In the order in which steps are done: files before the rows that follow them."""

ORDER: tuple[Action, ...] = Action.__args__  # type: ignore[attr-defined]

VERSION = 1
_FILE_BYTES_MAX = 1024 * 1024 * 1024

_DOES: dict[Action, str] = {
    "replace_database": "set the database aside in quarantine, and begin a new one",
    "finish": "finish what was begun",
    "release_lock": "remove the lock that a writer left which has ended",
    "remove_file": "remove the half-written file",
    "settle": "remove the form of the rollout that is superfluous, when it is proven to be",
    "trim_tail": "cut the torn tail; its bytes are kept in quarantine",
    "trim_journal": "cut the journal's torn tail; its bytes are kept in quarantine",
    "refold_facts": "write what was decided about threads anew, from its records",
    "remove_row": "remove the row",
    "fold": "fold the rollout from its beginning, and write its rows anew",
    "fold_side": "remove the rows there that no rollout stands behind, and fold this one anew",
    "index": "bring all rows up to date",
}
_FACTS = frozenset(shape.table for shape in (*JOURNAL_TABLES, INDEX_NAMES))
_TOUCHES_TRUTH: frozenset[Action] = frozenset({"settle", "trim_tail", "trim_journal"})


class Step(Struct, frozen=True, kw_only=True):
    """One thing that is done. `classes` are those of the findings it mends; `target` is the table, database or intent.

    `touches_truth` tells that it changes files of rollouts or of the journal; `offline`, that another program may be using
    them, so that it is done only when asked for.
    """

    action: Action
    classes: list[str]
    does: str
    thread_id: str | None = None
    path: str | None = None
    target: str | None = None
    touches_truth: bool = False
    offline: bool = False


class Plan(Struct, frozen=True, kw_only=True):
    """The steps for one home."""

    home: str
    steps: list[Step]
    version: int = VERSION


def plan_of(home: str, findings: Iterable[Finding]) -> Plan:
    """What to do about these findings; several that one step mends give that one step."""
    found: dict[tuple[object, ...], tuple[Step, set[str]]] = {}
    for each in findings:
        if not each.is_mended_by_repair:
            continue
        step = _step(each)
        key = (step.action, step.path if step.action == "fold" else step.thread_id, step.path, step.target)
        _, classes = found.setdefault(key, (step, set()))
        classes.add(each.class_)
    steps = [msgspec.structs.replace(step, classes=sorted(classes)) for step, classes in found.values()]
    return Plan(home=home, steps=_with_index(steps))


def replacing(databases: Iterable[str]) -> list[Step]:
    """What to do about databases that turned out to be damaged when they were written to."""
    steps = [_make("replace_database", classes=["damaged_database"], target=name) for name in databases]
    return _with_index(steps)


def save(plan: Plan, path: str, *, files: Files) -> None:
    """Write a plan as JSON. Raises OSError."""
    files.replace_small(path, msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n", op="plan.save")


def load(path: str, home: str, *, files: Files) -> Plan:
    """A saved plan. Raises `InvalidRequest` where it is none, or of another home."""
    data = files.read_all(path, bytes_max=_FILE_BYTES_MAX, op="plan.load")
    if data is None:
        raise InvalidRequest(f"The plan {path} cannot be read.", hint="Make one with `repair --dry-run --save FILE`.")
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"{path} is no plan: {error}.", hint="Make one with `repair --dry-run --save FILE`."
        ) from None
    if plan.home != home or plan.version != VERSION:
        raise InvalidRequest(
            f"The plan {path} is of {plan.home}, version {plan.version}.",
            hint="Plan and apply with one release and home.",
        )
    return plan


def _with_index(steps: list[Step]) -> list[Step]:
    """In their order; new databases are filled, but for that of leases."""
    if any(step.action == "replace_database" and step.target != "jobs" for step in steps):
        steps = [*steps, _make("index", classes=["damaged_database"])]
    return sorted(steps, key=_in_order)


def _step(each: Finding) -> Step:
    return _PLANNED.get(each.class_, _folded)(each)


def _make(action: Action, **about: object) -> Step:
    return Step(action=action, does=_DOES[action], touches_truth=action in _TOUCHES_TRUTH, **about)  # type: ignore[arg-type]


def _about(action: Action, each: Finding, *, target: str | None = None) -> Step:
    offline = each.mend == REPAIR_OFFLINE
    return _make(
        action, classes=[each.class_], thread_id=each.thread_id, path=each.path, target=target, offline=offline
    )


def _folded(each: Finding) -> Step:
    """One step a rollout, whichever of its rows are wrong."""
    return _make("fold", classes=[each.class_], path=each.path, thread_id=each.thread_id)


def _tail(each: Finding) -> Step:
    return _about("trim_journal" if each.thread_id is None else "trim_tail", each)


def _row(each: Finding) -> Step:
    return _facts(each) if each.field in _FACTS else _about("remove_row", each, target=each.field)


def _history(each: Finding) -> Step:
    return _facts(each) if each.field in _FACTS else _folded(each)


def _aside(each: Finding) -> Step:
    """Rows of the thread list have no field named here; those of a side database have its name before the table's."""
    return _folded(each) if each.field is None else _side(each)


def _side(each: Finding) -> Step:
    database, _, table = (each.field or "").partition(".")
    if table == WORDS:
        # They lie in blocks with those of other rollouts, and a block stays wrong when one rollout is folded anew.
        return _make("replace_database", classes=[each.class_], target=database)
    return _make("fold_side", classes=[each.class_], path=each.path, thread_id=each.thread_id, target=database)


def _facts(each: Finding) -> Step:
    return _make("refold_facts", classes=[each.class_])


def _left(each: Finding) -> Step:
    return _about("settle" if each.field == "compressed" else "remove_file", each)


_PLANNED: dict[str, Callable[[Finding], Step]] = {
    "torn_tail": _tail,
    "damaged_span": _tail,
    "orphan_row": _row,
    "rewritten_history": _history,
    "wrong_fact": _facts,
    "wrong_rows": _side,
    "wrong_set_aside": _aside,
    "lying_watermark": _aside,
    "leftover_file": _left,
    "stale_lock": lambda each: _about("release_lock", each),
    "unfinished": lambda each: _about("finish", each, target=each.field),
    "damaged_database": lambda each: _about("replace_database", each, target=each.field),
}
"""How a finding is mended; the others are of rows, which are folded anew."""


def _in_order(step: Step) -> tuple[int, str, str, str]:
    return ORDER.index(step.action), step.path or "", step.thread_id or "", step.target or ""
