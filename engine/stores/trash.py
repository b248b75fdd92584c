"""Files on their way out: removed at once, or kept in the trash until they are due.

A trash folder is `trash/<Unix ms when it is due>-<thread id>/` in the state folder; below it a file stands as it stood in the
home, so bringing one back is moving it back. The name says all that a purge needs. A state folder on another file system
is met by copying: the copy is whole and synced before the file goes. Every step can be done again after a crash.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from engine.options import Options
from engine.stores.files import Entry, Files
from engine.stores.layout import Found, Home

RECORDS = "journal.jsonl"
"""In a trash folder: what the journal said of the thread before it was filled over."""

_FOLDER = re.compile(r"(?P<due_ms>\d{1,16})-(?P<thread_id>[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})", re.ASCII)
_FOLDERS_DEEP_MAX = 16


class Trash:
    """The trash of one state folder."""

    def __init__(self, home: Home, *, options: Options, files: Files) -> None:
        assert home.state is not None
        self._home = home
        self._folder = f"{home.state}/trash"
        self._options = options
        self._files = files

    def entries(self) -> list[tuple[int, str, str]]:
        """(due, thread id, path) of every folder in the trash, the one that is due first in front."""
        if self._files.kind(self._folder, op="trash.list") != "folder":
            return []
        found = []
        for entry in self._files.scan(self._folder, op="trash.list"):
            match = _FOLDER.fullmatch(entry.name) if entry.kind == "folder" else None
            if match is not None:
                found.append((int(match["due_ms"]), match["thread_id"], f"{self._folder}/{entry.name}"))
        return sorted(found)

    def contents(self, folder: str) -> list[tuple[str, int]]:
        """The files of a trash folder with their sizes."""
        return [(f"{above}/{entry.name}", entry.stat.size if entry.stat else 0) for above, entry in self._walk(folder)]

    def take(self, found: Found, thread_id: str, due_ms: int) -> int:
        """Move a rollout into the trash, in every form it has; how many bytes."""
        self._remove_leftovers(found)
        folder = f"{self._folder}/{due_ms}-{thread_id}"
        size = 0
        for compressed in (False, True):
            source = self._home.absolute(found.path, compressed=compressed)
            stat = self._files.stat(source, op="trash.stat")
            if stat is not None:
                target = f"{folder}/{source.removeprefix(self._home.path + '/')}"
                self._files.ensure_folder(target.rpartition("/")[0], op="trash.folder")
                self._move(source, target)
                size += stat.size
        self._files.sync_folder(self._home.absolute(found.path).rpartition("/")[0], op="erase.sync_folder")
        return size

    def remove(self, found: Found) -> int:
        """Remove a rollout, in every form it has; how many bytes."""
        self._remove_leftovers(found)
        size = 0
        for compressed in (False, True):
            path = self._home.absolute(found.path, compressed=compressed)
            stat = self._files.stat(path, op="erase.stat")
            if stat is not None:
                self._files.remove(path, op="erase.remove")
                size += stat.size
        self._files.sync_folder(self._home.absolute(found.path).rpartition("/")[0], op="erase.sync_folder")
        return size

    def keep_records(self, thread_id: str, due_ms: int, lines: list[bytes]) -> None:
        """Put the journal's records of a thread beside its files, once: a second time they may be filled over already."""
        folder = f"{self._folder}/{due_ms}-{thread_id}"
        path = f"{folder}/{RECORDS}"
        if not lines or self._files.stat(path, op="trash.stat") is not None:
            return
        self._files.ensure_folder(folder, op="trash.folder")
        self._files.remove(f"{path}.tmp", op="trash.leftover")
        fd = self._files.create(f"{path}.tmp", op="trash.create")
        try:
            _write(fd, b"".join(line + b"\n" for line in lines), self._files)
            self._files.sync(fd, op="trash.sync")
        finally:
            self._files.close(fd, op="trash.close")
        self._files.rename(f"{path}.tmp", path, op="trash.rename")
        self._files.sync_folder(folder, op="trash.sync_folder")

    def drop(self, folder: str) -> tuple[int, int]:
        """Remove a trash folder with all that is in it; how many files and bytes."""
        count = size = 0
        for above, entry in list(self._walk(folder)):
            self._files.remove(f"{above}/{entry.name}", op="trash.remove")
            count += 1
            size += entry.stat.size if entry.stat else 0
        self._drop_folders(folder, 0)
        self._files.sync_folder(self._folder, op="trash.sync_folder")
        return count, size

    def _drop_folders(self, folder: str, depth: int) -> None:
        for entry in self._files.scan(folder, op="trash.list"):
            if entry.kind == "folder" and depth < _FOLDERS_DEEP_MAX:
                self._drop_folders(f"{folder}/{entry.name}", depth + 1)
        self._files.remove_folder(folder, op="trash.remove_folder")

    def _walk(self, folder: str, depth: int = 0) -> Iterator[tuple[str, Entry]]:
        """Every name below a trash folder that is no folder, with the folder that it is in."""
        for entry in self._files.scan(folder, op="trash.list"):
            if entry.kind != "folder":
                yield folder, entry
            elif depth < _FOLDERS_DEEP_MAX:
                yield from self._walk(f"{folder}/{entry.name}", depth + 1)

    def _move(self, source: str, target: str) -> None:
        try:
            self._files.rename(source, target, op="trash.move")
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(source, target)
            self._files.sync_folder(target.rpartition("/")[0], op="trash.sync_folder")
            self._files.remove(source, op="trash.moved")
        self._files.sync_folder(target.rpartition("/")[0], op="trash.sync_folder")

    def _copy(self, source: str, target: str) -> None:
        self._files.remove(f"{target}.tmp", op="trash.leftover")
        fd = self._files.create(f"{target}.tmp", op="trash.create")
        try:
            with self._files.reading(source, op="trash.read") as source_fd:
                while data := self._files.read(source_fd, self._options.block_bytes, op="trash.read"):
                    _write(fd, data, self._files)
                self._files.copy_looks(source_fd, fd, op="trash.looks")
            self._files.sync(fd, op="trash.sync")
        finally:
            self._files.close(fd, op="trash.close")
        self._files.rename(f"{target}.tmp", target, op="trash.rename")

    def _remove_leftovers(self, found: Found) -> None:
        """What a crash left beside a rollout while it was written, compressed or brought in goes before it.

        Behind it nobody would find them: the rollout's name is how they are found.
        """
        path = self._home.absolute(found.path)
        folder, _, name = path.rpartition("/")
        if self._files.kind(folder, op="erase.leftovers") != "folder":
            return
        for entry in self._files.scan(folder, op="erase.leftovers"):
            if entry.name.startswith(f".{name}") and entry.kind == "file":
                self._files.remove(f"{folder}/{entry.name}", op="erase.leftovers")


def _write(fd: int, data: bytes, files: Files) -> None:
    written = 0
    while written < len(data):
        written += files.write(fd, data[written:], op="trash.write")
