"""The folder of memories and its baseline: what changed in it since the last consolidation, and by whom it was taken.

The baseline is a git repository in the folder (`baseline.py`), beside it a list of what it holds (`manifest`), kept in the
state folder. Where the repository is lost or damaged it is built again from the list: what had changed still shows as
changed, though what it was before may be lost; nothing pending is ever taken for consolidated. A repository that is not
ours is never touched.

Files are read one at a time; a large one is known by size and digest alone. Links are not followed and not seen, names may
be any bytes, what vanishes while it is looked at was not there. Folders and files of the names in `hidden` do not count.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from engine.clock import Clock
from engine.errors import WorkspaceForeign, WorkspaceUnusable
from engine.options import MemoryOptions
from engine.stores.baseline import (
    EXECUTABLE,
    FILE,
    Baseline,
    Damaged,
    Entry,
    State,
    blob_id,
    put_file,
    remove_tree,
    write_new,
)
from engine.stores.files import Files

_GIT = ".git"
_OURS_BESIDE = ".git.rolloutdb"
"""Beginning of the names of repositories on their way in or out."""

_DEEP_MAX = 32
_MANIFEST_BYTES_MAX = 64 * 1024 * 1024
_LOST = b"What stood here was lost with the baseline.\n"


class Change(NamedTuple):
    """A path that differs from the baseline: added, modified (content or mode), or deleted."""

    status: Literal["A", "M", "D"]
    path: bytes
    before: Entry | None
    after: Entry | None


class Ensured(NamedTuple):
    """How the baseline was found: `kept`, `made` where there was none, or `rebuilt`; of how many files the old text is lost."""

    how: Literal["kept", "made", "rebuilt"]
    lost: int = 0
    reason: str | None = None


class _Manifest(Struct):
    """What the baseline holds. Paths are their bytes as Latin-1, so that JSON can hold any."""

    version: int
    commit: str
    generation: int
    entries: dict[str, tuple[int, str]]


class Workspace:
    """One folder of memories. Its caller sees to it that nobody else of us is at it."""

    def __init__(
        self,
        root: str,
        *,
        manifest: str,
        hidden: Callable[[str], bool],
        options: MemoryOptions,
        clock: Clock,
        files: Files,
        elsewhere: str | None = None,
    ) -> None:
        """`elsewhere` is a folder that would be used instead if it were there; an error says so."""
        self.root = root
        self._elsewhere = elsewhere
        self._manifest = manifest
        self._hidden = hidden
        self._options = options
        self._files = files
        self._clock = clock
        self._baseline = Baseline(f"{root}/{_GIT}", clock=clock, files=files)

    def ensure_folder(self) -> int:
        """The folder, made where it is missing, without links in it; how many were removed, none of them followed.

        Raises `WorkspaceForeign` where the folder itself is a link or has a repository that is not ours, before anything in
        it is touched; `WorkspaceUnusable` where it is a file.
        """
        kind = self._files.kind(self.root, op="workspace.root")
        if kind == "link":
            raise WorkspaceForeign(
                f"The folder of memories {self.root} is a symbolic link, which is not followed.",
                hint=self._way_out("Put a folder there"),
                path=self.root,
            )
        if kind not in (None, "folder"):
            raise WorkspaceUnusable(
                f"The folder of memories {self.root} is a {kind}.", hint="Move it away.", path=self.root
            )
        self.refuse_foreign()
        self._files.ensure_folder(self.root, op="workspace.root")
        return self._remove_links(self.root, 0)

    def _remove_links(self, folder: str, deep: int) -> int:
        count = 0
        for entry in self._scan(folder):
            if deep == 0 and (entry.name == _GIT or self._hidden(entry.name)):
                continue
            path = f"{folder}/{entry.name}"
            if entry.kind == "link":
                self._files.remove(path, op="workspace.link")
                count += 1
            elif entry.kind == "folder" and deep < _DEEP_MAX:
                count += self._remove_links(path, deep + 1)
        return count

    def ensure(self) -> Ensured:
        """A baseline that can be read. Raises `WorkspaceForeign` where there is a repository that is not ours."""
        self.refuse_foreign()
        self._drop_leftovers()
        stored = self._load_manifest()
        if self.repository == "ours":
            try:
                state = self._baseline.state()
            except Damaged as error:
                return self._rebuild(stored, str(error))
            if stored is None or stored.commit != self._baseline.head():
                self._save_manifest(state, 0 if stored is None else stored.generation)
            return Ensured("kept")
        if stored is None:
            self._rebuild(None, "")
            return Ensured("made")
        return self._rebuild(stored, "the repository is gone")

    def baseline(self) -> dict[bytes, Entry]:
        """What was last consolidated. Raises `Damaged`, which `ensure` mends."""
        return self._baseline.state()

    @property
    def generation(self) -> int:
        """Of the consolidation that set the baseline; 0 where none did."""
        stored = self._load_manifest()
        return 0 if stored is None else stored.generation

    def look(self, folder: str | None = None) -> dict[bytes, Entry]:
        """The files of the folder as they are now (or of a copy of it); stores nothing. Raises `WorkspaceUnusable`."""
        root = folder or self.root
        found: dict[bytes, Entry] = {}
        for path in self._walk(root, b"", 0):
            entry = self._entry(root, path)
            if entry is not None:
                found[path] = entry
                self._check_count(len(found))
        return found

    def size(self) -> int:
        """The bytes of the files that are memories: neither the baseline's, nor links, nor what is hidden."""
        return sum(self._sizes(self.root, 0)) if self._files.kind(self.root, op="workspace.root") == "folder" else 0

    def _sizes(self, folder: str, deep: int) -> Iterator[int]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in self._files.scan(folder, op="workspace.scan"):
                if self._is_seen(entry.name, deep):
                    if entry.stat is not None:
                        yield entry.stat.size
                    elif entry.kind == "folder" and deep < _DEEP_MAX:
                        yield from self._sizes(f"{folder}/{entry.name}", deep + 1)

    def _is_seen(self, name: str, deep: int) -> bool:
        """Whether a file or folder of this name counts, so deep in the folder."""
        return name != _GIT and (deep > 0 or not (name.startswith(_OURS_BESIDE) or self._hidden(name)))

    def capture(self, target: str, known: State | None = None) -> tuple[dict[bytes, Entry], set[bytes]]:
        """The same, with every content stored and copied below `target`, all of one reading of each file.

        Also which files were too large for that. Contents of `known`, a state of the baseline, are stored already.
        """
        odb = self._baseline.odb()
        stored = {entry.oid for entry in (known or {}).values()}
        found: dict[bytes, Entry] = {}
        large: set[bytes] = set()
        folders: set[str] = set()
        for path in self._walk(self.root, b"", 0):
            read = self._read(f"{self.root}/{os.fsdecode(path)}")
            if read is None:
                continue
            mode, data, name = read
            content = name if data is None else data
            oid = blob_id(content)
            found[path] = Entry(mode, oid if oid in stored else self._baseline.keep(odb, content))
            self._check_count(len(found))
            if data is None:
                large.add(path)
                continue
            copy = f"{target}/{os.fsdecode(path)}"
            above = os.path.dirname(copy)
            if above not in folders:
                self._files.ensure_folder(above, op="workspace.folder")
                folders.add(above)
            write_new(copy, data, files=self._files, executable=mode == EXECUTABLE)
        return found, large

    def keep(self, folder: str, path: bytes) -> tuple[Entry, bytes] | None:
        """Store the content of one file of a copy; None where it is not there, or too large to be taken."""
        read = self._read(f"{folder}/{os.fsdecode(path)}")
        if read is None or read[1] is None:
            return None
        mode, data, _ = read
        assert data is not None
        return Entry(mode, self._baseline.keep(self._baseline.odb(), data)), data

    def store(self, data: bytes, mode: int) -> Entry:
        """Store a content that is in no file yet."""
        return Entry(mode, self._baseline.keep(self._baseline.odb(), data))

    def entry_of(self, path: bytes) -> Entry | None:
        """One file of the folder as it is now."""
        return self._entry(self.root, path)

    def put(self, path: bytes, data: bytes, entry: Entry) -> None:
        """Put a file into the folder, whole or not at all."""
        name = os.fsdecode(path)
        target = f"{self.root}/{name}"
        self._files.ensure_folder(os.path.dirname(target), op="workspace.folder")
        beside = f"{self._baseline.path}/incoming.tmp"  # not in the folder, where it would be taken for a memory
        put_file(target, data, files=self._files, executable=entry.mode == EXECUTABLE, beside=beside)

    def remove(self, path: bytes) -> None:
        """Take a file out of the folder, and the folders that are empty then."""
        target = f"{self.root}/{os.fsdecode(path)}"
        self._files.remove(target, op="workspace.remove")
        folder = os.path.dirname(target)
        with contextlib.suppress(OSError):
            while len(folder) > len(self.root):
                self._files.remove_folder(folder, op="workspace.remove")
                folder = os.path.dirname(folder)

    def content(self, entry: Entry) -> bytes | None:
        """The bytes that were stored of a file, or None where they are lost."""
        return self._baseline.content(entry.oid)

    def reset(self, state: State, generation: int) -> None:
        """Make this the baseline: one commit without a parent; contents of files that are in no state any more are gone."""
        self._baseline.commit(state, f"The consolidated state of generation {generation}")
        self._save_manifest(state, generation)

    @property
    def repository(self) -> Literal["ours", "foreign", "none"]:
        """Whose repository is in the folder. One without anything in it is nobody's."""
        kind = self._files.kind(self._baseline.path, op="workspace.git")
        if kind == "folder" and self._baseline.is_ours:
            return "ours"
        return "none" if kind is None or (kind == "folder" and self._is_empty(self._baseline.path)) else "foreign"

    def refuse_foreign(self) -> None:
        """Raises `WorkspaceForeign` where there is a repository that is not ours."""
        if self.repository == "foreign":
            raise WorkspaceForeign(
                f"{self._baseline.path} is a repository that rolloutdb did not make; nothing was touched.",
                hint=self._way_out("Move that repository away"),
                path=self._baseline.path,
            )

    @property
    def was_ours(self) -> bool:
        """Whether there ever was a baseline of ours, as far as is known."""
        return self._load_manifest() is not None

    @property
    def is_ours(self) -> bool:
        """Whether what is in the folder is ours: there is our repository, or it was lost and nobody else's is there."""
        return self.repository == "ours" or (self.repository == "none" and self.was_ours)

    def drop_list(self) -> None:
        """Forget what the baseline held, for a folder that is emptied."""
        self._files.remove(self._manifest, op="workspace.manifest")

    def _way_out(self, otherwise: str) -> str:
        if self._elsewhere is None:
            return f"{otherwise}."
        return f"{otherwise}; or make the folder {self._elsewhere}, and the memories of rolloutdb are kept there."

    def scrub(self, replaced: Callable[[bytes, bytes], bytes | None]) -> int:
        """Put other contents into the baseline, where `replaced` gives one for a path and what it holds; how many.

        What is replaced shows as changed if it is in the folder still, and as deleted if not, but its text is gone.
        """
        self.ensure()
        state = self._baseline.state()
        odb = self._baseline.odb()
        changed = {}
        for path, entry in state.items():
            data = self._baseline.content(entry.oid)
            other = None if data is None else replaced(path, data)
            if other is not None and other != data:
                changed[path] = Entry(entry.mode, self._baseline.keep(odb, other))
        if changed:
            self.reset({**state, **changed}, self.generation)
        return len(changed)

    # The walk

    def _walk(self, root: str, above: bytes, deep: int) -> Iterator[bytes]:
        """Every regular file, by path, in the order of names."""
        folder = f"{root}/{os.fsdecode(above)}" if above else root
        for entry in sorted(self._scan(folder), key=lambda each: os.fsencode(each.name)):
            if not self._is_seen(entry.name, deep):
                continue
            path = above + os.fsencode(entry.name)
            if entry.kind == "file":
                yield path
            elif entry.kind == "folder":
                if deep >= _DEEP_MAX:
                    raise self._too_much(f"folders nested deeper than {_DEEP_MAX}")
                yield from self._walk(root, path + b"/", deep + 1)

    def _scan(self, folder: str) -> list[_Name]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return [_Name(entry.name, entry.kind) for entry in self._files.scan(folder, op="workspace.scan")]
        return []

    def _is_empty(self, folder: str) -> bool:
        return not self._scan(folder)

    def _check_count(self, count: int) -> None:
        if count > self._options.files_max:
            raise self._too_much(f"more than {self._options.files_max:,} files")

    def _too_much(self, what: str) -> WorkspaceUnusable:
        return WorkspaceUnusable(
            f"The folder of memories {self.root} has {what}.",
            hint="Move what are no memories out of it.",
            path=self.root,
        )

    def _entry(self, root: str, path: bytes) -> Entry | None:
        read = self._read(f"{root}/{os.fsdecode(path)}")
        if read is None:
            return None
        mode, data, name = read
        return Entry(mode, blob_id(name if data is None else data))

    def _read(self, path: str) -> tuple[int, bytes | None, bytes] | None:
        """Mode, content and, of a large file instead of it, its name by digest; None where it is no file any more."""
        try:
            with self._files.reading(path, op="workspace.read") as fd:
                mode = EXECUTABLE if self._files.is_executable(fd, op="workspace.mode") else FILE
                digest, size, parts = hashlib.sha256(), 0, list[bytes]()
                while block := self._files.read(fd, 256 * 1024, op="workspace.read"):
                    digest.update(block)
                    size += len(block)
                    if size <= self._options.file_bytes_max:
                        parts.append(block)
                if size <= self._options.file_bytes_max:
                    return mode, b"".join(parts), b""
                return mode, None, b"A large file of %d bytes, sha256 %b.\n" % (size, digest.hexdigest().encode())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                return None
            raise WorkspaceUnusable(
                f"The file {os.fsencode(path).decode('utf-8', 'backslashreplace')} cannot be read: {error.strerror}.",
                hint="Check who owns it and its mode.",
                path=path,
            ) from error

    # The baseline

    def _drop_leftovers(self) -> None:
        for entry in self._scan(self.root):
            if entry.name.startswith(_OURS_BESIDE):
                remove_tree(f"{self.root}/{entry.name}", files=self._files)

    def _rebuild(self, stored: _Manifest | None, reason: str) -> Ensured:
        """A repository of what the list says, its contents from where they still are; then in the place of the old one."""
        new_path, old_path = f"{self.root}/{_OURS_BESIDE}-new", f"{self.root}/{_OURS_BESIDE}-old"
        new = Baseline(new_path, clock=self._clock, files=self._files)
        new.make()
        odb = new.odb()
        state: dict[bytes, Entry] = {}
        lost = 0
        for name, (mode, oid) in ({} if stored is None else stored.entries).items():
            path = name.encode("latin-1")
            data = self._salvaged(path, oid)
            lost += data is None
            state[path] = Entry(mode, new.keep(odb, _LOST if data is None else data))
        new.commit(
            state, "The consolidated state, built again" if stored is not None else "Nothing is consolidated yet"
        )
        if self._files.kind(self._baseline.path, op="workspace.git") is not None:
            self._files.rename(self._baseline.path, old_path, op="workspace.swap")
        self._files.rename(new_path, self._baseline.path, op="workspace.swap")
        remove_tree(old_path, files=self._files)
        self._save_manifest(state, 0 if stored is None else stored.generation)
        return Ensured("rebuilt", lost, reason)

    def _salvaged(self, path: bytes, oid: str) -> bytes | None:
        """The content of this id: from what is left of the old repository, or from the file, if that is still it."""
        data = None
        if self._files.kind(f"{self._baseline.path}/objects", op="workspace.git") == "folder":
            data = self._baseline.content(oid)
        if data is None:
            read = self._read(f"{self.root}/{os.fsdecode(path)}")
            data = None if read is None else (read[2] if read[1] is None else read[1])
        return data if data is not None and blob_id(data) == oid else None

    def _load_manifest(self) -> _Manifest | None:
        data = self._files.read_all(self._manifest, bytes_max=_MANIFEST_BYTES_MAX, op="workspace.manifest")
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=_Manifest)
        except msgspec.DecodeError:
            return None

    def _save_manifest(self, state: State, generation: int) -> None:
        entries = {path.decode("latin-1"): (each.mode, each.oid) for path, each in state.items()}
        manifest = _Manifest(1, self._baseline.head() or "", generation, entries)
        self._files.ensure_folder(os.path.dirname(self._manifest), op="workspace.manifest")
        put_file(self._manifest, msgspec.json.encode(manifest), files=self._files)


class _Name(NamedTuple):
    name: str
    kind: str


def changes_between(before: State, after: State) -> list[Change]:
    """What differs, by path."""
    changes: list[Change] = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        status: Literal["A", "M", "D"] = "A" if old is None else "D" if new is None else "M"
        changes.append(Change(status, path, old, new))
    return changes


_NOT_A_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV})
"""What opening says of a link, or of what took a file's place."""
