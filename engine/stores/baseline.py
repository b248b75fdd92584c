"""The git repository that holds one state of a folder: a single commit without a parent, and nothing of before.

It is written object by object, so names that are no UTF-8 are kept and no `.gitignore`, attribute or hook has a say. A new
state is written beside the old one, the branch is moved to it by one rename, and then every object that it does not need
is removed: what is gone from the state is gone from the disk. Any git program can read it.

A repository is ours where our mark is in it. One without it is never opened for writing, changed or removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from engine.clock import Clock
from engine.stores.files import Files

if TYPE_CHECKING:
    from pygit2 import Odb

MARK = "rolloutdb"
FILE = 0o100644
EXECUTABLE = 0o100755
_FOLDER = 0o40000
_REF = "refs/heads/main"
_CONFIG = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = false\n"
_SMALL_BYTES = 4096
_COMMIT, _TREE, _BLOB = 1, 2, 3
_DEEP_MAX = 64


class Entry(NamedTuple):
    """A file of a state: its mode, and the id of its content (of a large file: of what names it)."""

    mode: int
    oid: str


State = Mapping[bytes, Entry]
"""The files of a folder by path, `/` between names."""


class Damaged(Exception):
    """The repository cannot be read as far as it has to be."""


class Baseline:
    """The repository at `path`, which is a `.git` folder."""

    def __init__(self, path: str, *, clock: Clock, files: Files) -> None:
        self.path = path
        self._clock = clock
        self._files = files

    @property
    def is_ours(self) -> bool:
        """Whether it has our mark."""
        return self._files.stat(f"{self.path}/{MARK}", op="baseline.mark") is not None

    def make(self) -> None:
        """An empty repository, with our mark before anything else."""
        for folder in ("objects/pack", "refs/heads"):
            self._files.ensure_folder(f"{self.path}/{folder}", op="baseline.folder")
        self.put(f"{self.path}/{MARK}", b"This repository holds the last consolidated state. rolloutdb rewrites it.\n")
        self.put(f"{self.path}/config", _CONFIG)
        self.put(f"{self.path}/HEAD", f"ref: {_REF}\n".encode())

    def head(self) -> str | None:
        """The id of the commit, or None where there is none yet. Raises `Damaged`."""
        found = self._files.read_small(f"{self.path}/{_REF}", bytes_max=_SMALL_BYTES, op="baseline.head")
        if found is None:
            return None
        text = found.decode("ascii", "replace").strip()
        if len(text) != 40 or any(digit not in "0123456789abcdef" for digit in text):
            raise Damaged(f"{_REF} does not name a commit")
        return text

    def state(self) -> dict[bytes, Entry]:
        """What the commit holds; all of its objects are there. Raises `Damaged`."""
        head = self.head()
        if head is None:
            raise Damaged("there is no commit")
        tree = (
            self._read(self.odb(), head, _COMMIT).partition(b"\n")[0].removeprefix(b"tree ").decode("ascii", "replace")
        )
        found: dict[bytes, Entry] = {}
        odb = self.odb()
        for path, entry in self._walk(odb, tree, b"", 0):
            if not _has(odb, entry.oid):
                raise Damaged(f"the content of {path!r} is missing")
            found[path] = entry
        return found

    def content(self, oid: str) -> bytes | None:
        """The bytes of a file, or None where they cannot be read."""
        try:
            return self._read(self.odb(), oid, _BLOB)
        except Damaged:
            return None

    def keep(self, odb: Odb, data: bytes) -> str:
        """Store the content of a file; its id."""
        return str(odb.write(_BLOB, data))

    def odb(self) -> Odb:
        """Its objects. Raises `Damaged`."""
        import pygit2  # noqa: PLC0415 - it takes long to import, and few commands need it

        try:
            return pygit2.Odb(f"{self.path}/objects")
        except pygit2.GitError as error:
            raise Damaged(str(error)) from None

    def commit(self, state: State, message: str) -> str:
        """Make this the one state there is; its contents are stored already. The commit's id. Raises OSError, GitError."""
        odb = self.odb()
        trees: set[str] = set()
        tree = self._write_tree(odb, state, trees)
        now_s = self._clock.wall_ms() // 1000
        who = f"rolloutdb <noreply@rolloutdb.invalid> {now_s} +0000"
        head = str(odb.write(_COMMIT, f"tree {tree}\nauthor {who}\ncommitter {who}\n\n{message}\n".encode()))
        self.put(f"{self.path}/{_REF}", f"{head}\n".encode())
        self.put(f"{self.path}/index", _index(state))
        self._prune({head, *trees, *(entry.oid for entry in state.values())})
        return head

    def put(self, path: str, data: bytes) -> None:
        """A small file, there whole or not at all."""
        put_file(path, data, files=self._files)

    def _walk(self, odb: Odb, tree: str, above: bytes, deep: int) -> Iterator[tuple[bytes, Entry]]:
        if deep > _DEEP_MAX:
            raise Damaged("folders are nested too deep")
        data = self._read(odb, tree, _TREE)
        at = 0
        while at < len(data):
            blank, end = data.find(b" ", at), data.find(b"\0", at)
            if not at < blank < end or end + 21 > len(data):
                raise Damaged("a tree cannot be read")
            mode, path, oid = int(data[at:blank], 8), above + data[blank + 1 : end], data[end + 1 : end + 21].hex()
            at = end + 21
            if mode == _FOLDER:
                yield from self._walk(odb, oid, path + b"/", deep + 1)
            else:
                yield path, Entry(mode, oid)

    def _read(self, odb: Odb, oid: str, kind: int) -> bytes:
        import pygit2  # noqa: PLC0415 - the same

        try:
            found, data = odb.read(oid)
        except (pygit2.GitError, KeyError, ValueError, OSError) as error:
            raise Damaged(f"the object {oid} cannot be read: {error}") from None
        if int(found) != kind:
            raise Damaged(f"the object {oid} is of another kind")
        return bytes(data)

    def _write_tree(self, odb: Odb, state: State, trees: set[str]) -> str:
        """Trees from the deepest folder up. Git sorts a folder as if its name ended in `/`."""
        folders: dict[bytes, dict[bytes, tuple[int, str]]] = {b"": {}}
        for path, entry in state.items():
            folder, _, name = path.rpartition(b"/")
            folders.setdefault(folder, {})[name] = (entry.mode, entry.oid)
            while folder and folder.rpartition(b"/")[0] not in folders:
                folder = folder.rpartition(b"/")[0]
                folders[folder] = {}
        for folder in sorted(folders, key=lambda each: each.count(b"/") if each else -1, reverse=True):
            names = sorted(folders[folder].items(), key=lambda each: each[0] + (b"/" if each[1][0] == _FOLDER else b""))
            data = b"".join(b"%o %b\0%b" % (mode, name, bytes.fromhex(oid)) for name, (mode, oid) in names)
            oid = str(odb.write(_TREE, data))
            trees.add(oid)
            if not folder:
                return oid
            above, _, name = folder.rpartition(b"/")
            folders[above][name] = (_FOLDER, oid)
        raise AssertionError("the root is among the folders")

    def _prune(self, needed: set[str]) -> None:
        """Remove every object but these."""
        objects = f"{self.path}/objects"
        if any(entry.name.endswith(".pack") for entry in self._files.scan(f"{objects}/pack", op="baseline.prune")):
            self._unpack(objects, needed)
            return
        for entry in self._files.scan(objects, op="baseline.prune"):
            if entry.kind != "folder" or len(entry.name) != 2:
                continue
            for item in self._files.scan(f"{objects}/{entry.name}", op="baseline.prune"):
                if entry.name + item.name not in needed:
                    self._files.remove(f"{objects}/{entry.name}/{item.name}", op="baseline.prune")

    def _unpack(self, objects: str, needed: set[str]) -> None:
        """Somebody packed the objects: copy what is needed and let go of the rest. A crash on the way is damage, and mended."""
        import pygit2  # noqa: PLC0415 - the same

        new, old = f"{self.path}/objects.new", f"{self.path}/objects.old"
        for folder in (new, old):
            remove_tree(folder, files=self._files)
        self._files.ensure_folder(f"{new}/pack", op="baseline.unpack")
        source, target = pygit2.Odb(objects), pygit2.Odb(new)
        for oid in needed:
            kind, data = source.read(oid)
            target.write(kind, data)
        self._files.rename(objects, old, op="baseline.unpack")
        self._files.rename(new, objects, op="baseline.unpack")
        remove_tree(old, files=self._files)


def blob_id(data: bytes) -> str:
    """The id that git gives to the content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def put_file(path: str, data: bytes, *, files: Files, executable: bool = False, beside: str | None = None) -> None:
    """A file that is there whole or not at all, synced; written at `beside` first, on the same file system."""
    beside = beside or f"{path}.tmp"
    files.remove(beside, op="workspace.leftover")
    write_new(beside, data, files=files, executable=executable, sync=True)
    files.rename(beside, path, op="workspace.rename")


def write_new(path: str, data: bytes, *, files: Files, executable: bool = False, sync: bool = False) -> None:
    """A new file, which a crash may leave half written. Raises FileExistsError."""
    fd = files.create(path, op="workspace.create")
    try:
        written = 0
        while written < len(data):
            written += files.write(fd, data[written:], op="workspace.write")
        if executable:
            files.make_executable(fd, op="workspace.mode")
        if sync:
            files.sync(fd, op="workspace.sync")
    finally:
        files.close(fd, op="workspace.close")


def remove_tree(folder: str, *, files: Files, deep: int = 0) -> None:
    """Remove a folder and all that is in it, following no link; nothing where it is not there."""
    kind = files.kind(folder, op="workspace.remove")
    if kind is None:
        return
    if kind != "folder" or deep > _DEEP_MAX:
        files.remove(folder, op="workspace.remove")
        return
    with contextlib.suppress(FileNotFoundError):
        for name, is_folder in files.names(folder, op="workspace.remove"):
            if is_folder:
                remove_tree(f"{folder}/{name}", files=files, deep=deep + 1)
            else:
                files.remove(f"{folder}/{name}", op="workspace.remove")
    files.remove_folder(folder, op="workspace.remove")


def _has(odb: Odb, oid: str) -> bool:
    return bool(odb.exists(oid))


def _index(state: State) -> bytes:
    """The index of a state (version 2), with no stat of any file, so git compares contents."""
    parts = [struct.pack(">4sLL", b"DIRC", 2, len(state))]
    for path in sorted(state):
        entry = state[path]
        fixed = struct.pack(
            ">10L20sH", 0, 0, 0, 0, 0, 0, entry.mode, 0, 0, 0, bytes.fromhex(entry.oid), min(len(path), 0xFFF)
        )
        filler = 8 - (len(fixed) + len(path)) % 8
        parts.append(fixed + path + b"\0" * filler)
    data = b"".join(parts)
    return data + hashlib.sha1(data, usedforsecurity=False).digest()
