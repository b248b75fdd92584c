"""Where the memories of a home are, the lock of their folder, and the copies that consolidators work on.

The folder is `<home>/memories`, or beside the engine's own files where those are elsewhere. Where another program keeps a
repository of its own in `<home>/memories`, ours is `<home>/engine/memories`, and so it stays once that folder is there.

Source: codex_memories.md 1.1, 4 ("Foreign repo in root").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from engine.clock import Clock
from engine.memories import folder
from engine.memories.parts import MemoryParts
from engine.options import MemoryOptions
from engine.stores.baseline import remove_tree
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.locks import locked
from engine.stores.workspace import Workspace


def root_of(home: Home, *, options: MemoryOptions, clock: Clock, files: Files) -> str:
    """The folder of memories. Changes nothing."""
    shared = f"{home.path}/memories"
    if home.state is None:
        return shared
    own = f"{home.state}/memories"
    with contextlib.suppress(OSError):  # what cannot be looked at is met again, and named, by whoever works there
        if home.state != f"{home.path}/engine" or files.kind(own, op="memories.root") is not None:
            return own
        found = workspace_at(shared, home, options=options, clock=clock, files=files)
        # One that was ours before it was another program's is not left in silence: what is in it would be missed.
        return own if found.repository == "foreign" and not found.was_ours else shared
    return shared


def workspace_at(root: str, home: Home, *, options: MemoryOptions, clock: Clock, files: Files) -> Workspace:
    """A folder of memories of a home. What its baseline holds is listed for each place by itself."""
    own = f"{home.state}/memories"
    is_second = root == own and home.state == f"{home.path}/engine"
    return Workspace(
        root,
        manifest=f"{home.state}/{'own_memories' if is_second else 'memories'}.json",
        hidden=folder.is_hidden,
        elsewhere=None if root == own else own,
        options=options,
        clock=clock,
        files=files,
    )


def workspace_of(parts: MemoryParts) -> Workspace:
    """The folder of memories."""
    return workspace_at(parts.root, parts.home, options=parts.limits, clock=parts.clock, files=parts.files)


def work_of(parts: MemoryParts) -> str:
    """Where copies of the folder are worked on, each named by its generation."""
    return f"{parts.home.state}/work"


def drop_work(parts: MemoryParts) -> None:
    """Remove these copies; to be called under the folder's lock."""
    work = work_of(parts)
    if parts.files.kind(work, op="memories.work") == "folder":
        for name, _ in parts.files.names(work, op="memories.work"):
            if name.isdecimal():
                remove_tree(f"{work}/{name}", files=parts.files)


@contextlib.contextmanager
def folder_lock(parts: MemoryParts) -> Iterator[None]:
    """The lock under which alone the engine changes the folder. Raises `StoreBusy`."""
    parts.files.ensure_folder(f"{parts.home.state}/locks", op="memories.lock")
    lock = f"{parts.home.state}/locks/memories.lock"
    with locked(lock, shared=False, options=parts.options, clock=parts.clock, files=parts.files, op="memories.lock"):
        yield
