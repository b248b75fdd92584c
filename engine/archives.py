"""Into the archive and back: announced in the journal, the files moved whole, noted as done.

The folder decides whether a thread is archived. A file gets its new name before it loses the old one, so a crash leaves it
with both at worst, and never with none; a move that a crash left half done is finished when the home is opened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from engine.decisions import Decisions
from engine.errors import EngineError, RolloutUnusable, StoreError, TruthGone
from engine.options import Options
from engine.projections import thread_facts
from engine.projections.flush import Flush
from engine.projections.history import History
from engine.projections.thread_facts import unfinished_archives
from engine.stores.compression import settle
from engine.stores.files import Files
from engine.stores.layout import ARCHIVED_ROOT, Found, Home, day_folder, is_archived, render_name
from engine.stores.sqlite import Database

Owned = Callable[[str, str], AbstractContextManager[None]]
"""Owns a thread, by its id and for a purpose, for as long as the block lasts."""


class Archives:
    """Moves the rollouts of one home's threads."""

    def __init__(
        self,
        home: Home,
        database: Database,
        history: History,
        decisions: Decisions,
        flush: Flush,
        owned: Owned,
        *,
        options: Options,
        files: Files,
    ) -> None:
        self._home = home
        self._options = options
        self._database = database
        self._history = history
        self._decisions = decisions
        self._flush = flush
        self._owned = owned
        self._files = files

    def move(self, thread_id: str, *, archived: bool) -> None:
        """Move every rollout of a thread that is not there yet; a reverted thread has several."""
        row, _ = self._history.find(thread_id)
        with self._owned(row.id, "archive" if archived else "unarchive"):
            here = [self._settled(found) for found in self._history.rollouts(row.id)]
            todo = [found for found in here if is_archived(found.path) != archived]
            announced = dict(self._unfinished()).get(row.id)
            if not todo and announced is None:
                return
            if announced is not archived:  # one that a crash left half done keeps the time at which it was asked for
                self._decisions.record(thread_facts.ARCHIVE_BEGUN, row.id, archived=archived)
            moved = [(found.path, self._move_file(found, archived=archived)) for found in todo]
            self._decisions.record(thread_facts.ARCHIVE_DONE, row.id, archived=archived)
        with contextlib.suppress(StoreError):  # the next scan sees where the files are
            self._flush.follow(moved)

    def finish(self) -> None:
        """Finish the moves that a crash left half done; one whose thread is in use waits for the next time."""
        with contextlib.suppress(EngineError):
            for thread_id, archived in self._unfinished():
                with contextlib.suppress(EngineError, OSError):
                    self.move(thread_id, archived=archived)

    def _unfinished(self) -> list[tuple[str, bool]]:
        with self._database.read() as transaction:
            return unfinished_archives(transaction)

    def _settled(self, found: Found) -> Found:
        """What a crash left of a compression is finished first: moved along, it would be a second rollout."""
        return settle(self._home, found, options=self._options, files=self._files) or found

    def _move_file(self, found: Found, *, archived: bool) -> str:
        """Move one rollout, and answer its new logical path."""
        name = render_name(found.name._replace(compressed=False))
        target = f"{ARCHIVED_ROOT if archived else day_folder(found.name.named_at)}/{name}"
        source_path = self._home.absolute(found.path, compressed=found.compressed)
        target_path = self._home.absolute(target, compressed=found.compressed)
        with _explained(found, target):
            folder = target_path.rpartition("/")[0]
            self._files.ensure_folder(folder, op="archive.folder")
            self._ensure_linked(source_path, target_path)
            self._sync_folders(folder)
            self._files.remove(source_path, op="archive.remove")
            self._files.sync_folder(source_path.rpartition("/")[0], op="archive.sync")
        return target

    def _sync_folders(self, folder: str) -> None:
        """The target's folder and those above it, up to the home's: each may be as new as the name in it."""
        self._files.sync_folder(folder, op="archive.sync")
        while len(folder) > len(self._home.path) and "/" in folder:
            folder = folder.rpartition("/")[0]
            with contextlib.suppress(PermissionError):  # a folder that we may not read is none that we made
                self._files.sync_folder(folder, op="archive.sync")

    def _ensure_linked(self, source: str, target: str) -> None:
        """A name that is taken by another file is never replaced; by this very file, a crash came after the link."""
        try:
            self._files.link(source, target, op="archive.link")
        except FileExistsError:
            one, other = (self._files.stat(path, op="archive.stat") for path in (source, target))
            if one is None or other is None or (one.device, one.inode) != (other.device, other.inode):
                raise


@contextlib.contextmanager
def _explained(found: Found, target: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise TruthGone(
            f"The rollout {found.path} went while it was moved.", hint="Run `rolloutdb audit`.", path=found.path
        ) from error
    except OSError as error:
        raise RolloutUnusable(
            f"The rollout {found.path} could not be moved to {target}: {error.strerror}.",
            hint="Mend what the system says, then do it again: nothing is lost.",
            path=found.path,
        ) from error
