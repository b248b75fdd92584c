"""What of a consolidator's result is taken: found, written down, and carried out path by path.

A path that is live as it was copied takes the result; one that somebody changed meanwhile stays theirs. A plan is written
whole before the first path is touched and may be carried out again from the beginning after a crash anywhere in it: what
is live already counts as taken. Paths are their bytes as Latin-1, so that JSON can hold any.

Source: codex_memories.md 3.7, 8 K1, K3.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec
from msgspec import Struct

from engine.errors import WorkspaceUnusable
from engine.memories import outputs
from engine.memories.redact import redact
from engine.stores.baseline import Entry, State, put_file
from engine.stores.files import Files
from engine.stores.workspace import Workspace, changes_between

_PLAN = "plan.json"
_PLAN_BYTES_MAX = 64 * 1024 * 1024


class Take(Struct, frozen=True, array_like=True):
    """One path: as it was copied, and as the consolidator left it; None where it is not there."""

    path: str
    before: tuple[int, str] | None
    after: tuple[int, str] | None


class Plan(Struct, kw_only=True):
    """What is to be taken over, all of it decided: `state` is the baseline before it, `selected` what it was made of."""

    generation: int
    state: dict[str, tuple[int, str]] = {}
    takes: list[Take] = []
    selected: list[tuple[str, int]]
    watermark: int


class Done(NamedTuple):
    """Which paths took the result, which stayed somebody's, and the baseline that follows."""

    taken: list[str]
    kept: list[str]
    state: dict[bytes, Entry]


def takes_of(workspace: Workspace, copy: str, state: State, large: AbstractSet[bytes]) -> tuple[list[Take], list[str]]:
    """What the consolidator changed where it may, stored; and where it may not. Files that were not copied are neither."""
    takes: list[Take] = []
    ignored: list[str] = []
    for change in changes_between(state, workspace.look(copy)):
        if change.path in large:
            continue
        if not outputs.is_output(change.path):
            ignored.append(shown(change.path))
            continue
        entry = None if change.after is None else _kept(workspace, copy, change.path)
        if entry != change.before:
            takes.append(Take(change.path.decode("latin-1"), change.before, entry))
    return takes, ignored


def _kept(workspace: Workspace, copy: str, path: bytes) -> Entry | None:
    """The content of one result, stored without what looks like a secret."""
    kept = workspace.keep(copy, path)
    if kept is None:
        return None
    entry, data = kept
    try:
        clean = redact(data.decode("utf-8")).encode()
    except UnicodeDecodeError:
        return entry
    return entry if clean == data else workspace.store(clean, entry.mode)


def save(folder: str, plan: Plan, files: Files) -> None:
    """Write a plan down, beside the copy that it is of."""
    put_file(f"{folder}/{_PLAN}", msgspec.json.encode(plan), files=files)
    files.sync_folder(folder, op="memories.plan")


def is_saved(folder: str, files: Files) -> bool:
    """Whether there is a plan in this folder."""
    return files.stat(f"{folder}/{_PLAN}", op="memories.plan") is not None


def load_all(work: str, files: Files, *, above: int) -> list[Plan]:
    """What was decided and perhaps not finished, of generations above this one, the oldest first."""
    plans: list[Plan] = []
    if files.kind(work, op="memories.work") != "folder":
        return plans
    for entry in files.scan(work, op="memories.work"):
        data = files.read_all(f"{work}/{entry.name}/{_PLAN}", bytes_max=_PLAN_BYTES_MAX, op="memories.plan")
        with contextlib.suppress(msgspec.DecodeError):
            plan = msgspec.json.decode(data or b"", type=Plan)
            if plan.generation > above:
                plans.append(plan)
    return sorted(plans, key=lambda each: each.generation)


def carry_out(workspace: Workspace, plan: Plan) -> Done:
    """Make it live, path by path."""
    done = Done([], [], {path.encode("latin-1"): Entry(*entry) for path, entry in plan.state.items()})
    for each in plan.takes:
        path = each.path.encode("latin-1")
        if not take(workspace, path, _entry(each.before), _entry(each.after)):
            done.kept.append(shown(path))
            continue
        done.taken.append(shown(path))
        done.state.pop(path, None)
        if each.after is not None:
            done.state[path] = Entry(*each.after)
    return done


def take(workspace: Workspace, path: bytes, before: Entry | None, after: Entry | None) -> bool:
    """Whether the result is live now; not where somebody changed the path since it was copied."""
    now = workspace.entry_of(path)
    if now == after:
        return True
    if now != before:
        return False
    if after is None:
        workspace.remove(path)
        return True
    data = workspace.content(after)
    if data is None:
        raise WorkspaceUnusable(
            f"What was to stand in {os.fsdecode(path)} is lost.",
            hint="Run `rolloutdb memories run` again.",
            path=workspace.root,
        )
    workspace.put(path, data, after)
    return True


def names(state: State) -> dict[str, tuple[int, str]]:
    """A state as a plan has it."""
    return {path.decode("latin-1"): (entry.mode, entry.oid) for path, entry in state.items()}


def shown(path: bytes) -> str:
    """A path as a report has it."""
    return path.decode("utf-8", "backslashreplace")


def _entry(stored: tuple[int, str] | None) -> Entry | None:
    return None if stored is None else Entry(*stored)
