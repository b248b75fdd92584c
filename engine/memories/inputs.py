"""What a consolidation is made of: the memories that are chosen, the engine's own files made of them, and the copy to work on.

All of it is done under the folder's lock by whoever holds the consolidation. What is deleted here because its rows are gone is
looked at first: lost rows are no order to forget.

Source: codex_memories.md 3.2, 3.3 steps 4 to 7; 8 K17.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from engine.errors import WorkspaceUnusable
from engine.memories import artifacts, folder, outputs
from engine.memories.artifacts import Named, named
from engine.memories.outputs import Before
from engine.memories.parts import MemoryParts
from engine.memories.plan import shown
from engine.projections import memories
from engine.projections.memories import Memory
from engine.stores.baseline import Entry, State, put_file
from engine.stores.tree_diff import render
from engine.stores.workspace import Workspace, changes_between

_COPY = "tree"
_UNEXPLAINED_MIN = 5
"""Fewer summaries than these may go without a record that says why."""


class Prepared(Struct, kw_only=True):
    """A copy of the folder, and what a consolidator is told of it. `large` are files that are not in the copy."""

    copy: str
    state: dict[bytes, Entry]
    large: set[bytes]
    changes: list[tuple[str, str]]
    memories: list[Memory]
    before: Before

    @property
    def has_extensions(self) -> bool:
        """Whether there is anything of an extension."""
        return any(each.startswith(f"{artifacts.EXTENSIONS}/".encode()) for each in self.state)


def chosen(parts: MemoryParts) -> list[Named]:
    """The memories that are to be consolidated, by thread id, each with the name of its summary."""
    limits, now_ms = parts.limits, parts.clock.wall_ms()
    found, _ = parts.fresh.ask(
        lambda transaction: memories.select_inputs(
            transaction, limit=limits.selected_max, unused_days=limits.unused_days, now_ms=now_ms
        )
    )
    return named([msgspec.structs.replace(each, rollout_path=parts.home.absolute(each.rollout_path)) for each in found])


def guard_against_forgetting(parts: MemoryParts, workspace: Workspace, memories_: Sequence[Named]) -> None:
    """Of a thread whose summary may go there is a record. Raises `WorkspaceUnusable` where many go without one."""
    there = {each for each in folder.summaries(workspace, parts.files).values() if each is not None}
    going = sorted(there - {each.memory.thread_id for each in memories_})
    if len(going) < _UNEXPLAINED_MIN:
        return
    with parts.database.read() as transaction:
        unexplained = len(going) - len(memories.known_among(transaction, going))
    if unexplained >= max(_UNEXPLAINED_MIN, len(there) // 2):
        raise WorkspaceUnusable(
            f"{unexplained} of {len(there)} summaries are of threads of which nothing is recorded, and would be deleted.",
            hint="If the journal was lost, restore it; if they are to go, run with --allow-mass-deletion.",
            path=workspace.root,
        )


def is_worth(state: State) -> bool:
    """Whether there is anything but what the engine itself puts into an empty folder."""
    own = {artifacts.RAW_MEMORIES.encode(), f"{folder.AD_HOC}/instructions.md".encode()}
    return any(path not in own for path in state)


def copied(
    parts: MemoryParts, workspace: Workspace, work: str, memories_: Sequence[Named], baseline: State
) -> Prepared:
    """The folder copied below `work`, all of one reading of each file, with the diff that says what changed."""
    files = parts.files
    copy = f"{work}/{_COPY}"
    files.ensure_folder(f"{copy}/{artifacts.SUMMARIES}", op="memories.work")
    state, large = workspace.capture(copy, baseline)
    changes = changes_between(baseline, state)
    text = render(changes, workspace.content, bytes_max=parts.limits.diff_bytes_max)
    put_file(f"{copy}/{artifacts.DIFF}", text, files=files)
    summaries = [each for each in {*baseline, *state} if each.startswith(f"{artifacts.SUMMARIES}/".encode())]
    sizes = {name: outputs.size_of(name, state, copy, files) for name in (artifacts.HANDBOOK, artifacts.SUMMARY)}
    before = Before(
        sizes,
        skills=sum(each.startswith(f"{artifacts.SKILLS}/".encode()) for each in state),
        summaries=sum(each in baseline for each in summaries),
        summaries_gone=sum(each not in state for each in summaries),
    )
    return Prepared(
        copy=copy,
        state=state,
        large=large,
        changes=[(each.status, shown(each.path)) for each in changes],
        memories=[each.memory for each in memories_],
        before=before,
    )
