"""What a power cut leaves: a double of the files seam that keeps a journal, and the images that follow from it.

`CrashFiles` stands before a real `Files` and notes every change below one folder: bytes written, files cut, names given
and taken, syncs. `images` goes through that journal and yields, for every beginning of it, the states of the folder that
a disk may be in when the power goes at that moment:

- bytes are certain when their file was synced after they were written, names when their folder was;
- of the rest nothing, everything, or a beginning may be there, the last write torn: cut, or NUL to its end;
- with `scattered`, any choice of the uncertain writes, and a write whose first part is NULs. Such an image is marked: a
  writer can promise what it acknowledged there, and no more.
- After a sync that failed, what was not certain by then is gone for good, whatever later syncs say, until it is written
  again (Linux drops the pages).

A workload calls `mark` when something was acknowledged; each image carries the marks of its moment.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

_READS = frozenset(
    "open_read read pread seek fstat stat kind folder scan writable read_small read_all read_link try_flock temporary "
    "reading is_local".split()
)
"""Calls that change nothing below the folder."""

_FOLDER = -1
"""What a folder's name stands for, where a file's stands for the number of its bytes' node."""


class Change(NamedTuple):
    """Bytes written at an offset, or, with `data` None, a file cut or grown to `offset` bytes."""

    offset: int
    data: bytes | None


class Renamed(NamedTuple):
    """One change of names: `gives` and `takes` happen together. `folder` is whose sync makes it certain."""

    folder: str
    gives: tuple[tuple[str, int], ...] = ()
    takes: tuple[str, ...] = ()


class Step(NamedTuple):
    """One entry of the journal."""

    kind: str
    node: int = 0
    change: Change | None = None
    renamed: Renamed | None = None
    upto: int = 0
    value: Any = None


class Image(NamedTuple):
    """One state of the folder: bytes by path, None for a folder. `marks` is what had been marked by then."""

    step: int
    how: str
    names: dict[str, bytes | None]
    marks: list[Any]
    scattered: bool

    def write(self, folder: str) -> None:
        """Put it into an empty folder."""
        for path, content in sorted(self.names.items()):
            full = os.path.join(folder, path)
            if content is None:
                os.makedirs(full, exist_ok=True)
            else:
                with open(full, "wb") as file:
                    file.write(content)


class CrashFiles:
    """Passes calls on to `files` and keeps the journal of what they change below `root`; safe to share by threads."""

    def __init__(self, files: Any, root: str) -> None:
        """`root` is there, and what it holds is certain."""
        self._files = files
        self._root = root
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._nodes: dict[str, int] = {}
        self._open: dict[int, tuple[int, bool]] = {}
        """By descriptor: its node, and whether it writes at the end."""
        self._sizes: dict[int, int] = {}
        self._changes: dict[int, int] = {}
        self._start = _Disk()
        self.journal: list[Step] = []
        self._take_in()

    def mark(self, value: Any) -> None:
        """Note that something is true from here on (an append was acknowledged)."""
        with self._lock:
            self.journal.append(Step("mark", value=value))

    def images(self, rng: Random, *, share: float = 1.0, scattered: bool = False) -> Iterator[Image]:
        """The states that a crash may leave, at every step of the journal or at a random share of them."""
        disk, marks = self._start.copy(), list[Any]()
        for number, step in enumerate([Step("start"), *self.journal]):
            disk.take(step)
            if step.kind == "mark":
                marks.append(step.value)
            if rng.random() >= share:
                continue
            seen: list[dict[str, bytes | None]] = []
            for how, names in disk.states(rng, scattered=scattered):
                if names not in seen:
                    seen.append(names)
                    yield Image(number, how, names, list(marks), how.startswith("scattered"))

    def __getattr__(self, name: str) -> Any:
        if name in _READS:
            return getattr(self._files, name)
        raise AttributeError(f"{name} is no call that a crash image can follow; teach it to CrashFiles")

    def close(self, fd: int, *, op: str) -> None:
        with self._lock:
            self._open.pop(fd, None)
            self._files.close(fd, op=op)

    def create(self, path: str, *, op: str) -> int:
        with self._lock:
            fd: int = self._files.create(path, op=op)
            self._open[fd] = (self._born(path), True)
            return fd

    def open_append(self, path: str, *, op: str) -> int:
        return self._opened(path, self._files.open_append, op, at_end=True)

    def open_update(self, path: str, *, op: str) -> int:
        return self._opened(path, self._files.open_update, op, at_end=False)

    def open_lock(self, path: str, *, op: str) -> int:
        return self._opened(path, self._files.open_lock, op, at_end=False)

    def try_create(self, path: str, *, op: str) -> bool:
        with self._lock:
            made: bool = self._files.try_create(path, op=op)
            if made:
                self._born(path)
            return made

    def write(self, fd: int, data: bytes, *, op: str) -> int:
        with self._lock:
            written: int = self._files.write(fd, data, op=op)
            if fd in self._open:
                node, at_end = self._open[fd]
                if not at_end:
                    raise AttributeError("a write at a descriptor's own position is not followed; use pwrite")
                self._changed(node, Change(self._sizes[node], data[:written]))
            return written

    def pwrite(self, fd: int, data: bytes, offset: int, *, op: str) -> int:
        with self._lock:
            written: int = self._files.pwrite(fd, data, offset, op=op)
            if fd in self._open:
                self._changed(self._open[fd][0], Change(offset, data[:written]))
            return written

    def truncate(self, fd: int, size: int, *, op: str) -> None:
        with self._lock:
            self._files.truncate(fd, size, op=op)
            if fd in self._open:
                self._changed(self._open[fd][0], Change(size, None))

    def sync(self, fd: int, *, op: str) -> None:
        """Other calls go on meanwhile; only what was written before is certain afterwards."""
        with self._lock:
            node = self._open[fd][0] if fd in self._open else None
            upto = self._changes.get(node, 0) if node is not None else 0
        try:
            self._files.sync(fd, op=op)
        except OSError:
            if node is not None:
                self.journal.append(Step("sync failed", node, upto=upto))
            raise
        if node is not None:
            self.journal.append(Step("sync", node, upto=upto))

    def sync_folder(self, path: str, *, op: str) -> None:
        with self._lock:
            self._files.sync_folder(path, op=op)
            if (inside := self._inside(path)) is not None:
                self.journal.append(Step("sync folder", value=inside))

    def ensure_folder(self, path: str, *, op: str) -> None:
        with self._lock:
            missing = []
            at = path
            while self._inside(at) and not os.path.isdir(at):
                missing.append(at)
                at = os.path.dirname(at)
            self._files.ensure_folder(path, op=op)
            for folder in reversed(missing):
                self._named(folder, _FOLDER)

    def try_make_folder(self, path: str, *, op: str) -> bool:
        with self._lock:
            made: bool = self._files.try_make_folder(path, op=op)
            if made:
                self._named(path, _FOLDER)
            return made

    def link(self, source: str, target: str, *, op: str) -> None:
        with self._lock:
            self._files.link(source, target, op=op)
            self._named(target, self._nodes[source])

    def rename(self, source: str, target: str, *, op: str) -> None:
        with self._lock:
            self._files.rename(source, target, op=op)
            self._moved(source, target)

    def remove(self, path: str, *, op: str) -> None:
        with self._lock:
            self._files.remove(path, op=op)
            if self._nodes.pop(path, None) is not None and (inside := self._inside(path)) is not None:
                self.journal.append(Step("name", renamed=Renamed(os.path.dirname(inside), takes=(inside,))))

    def replace_small(self, path: str, data: bytes, *, op: str) -> None:
        """Written beside and renamed, with no sync."""
        with self._lock:
            self._files.replace_small(path, data, op=op)
            beside = f"{path}.beside"
            self._changed(self._born(beside), Change(0, data))
            self._moved(beside, path)

    def _opened(self, path: str, opener: Any, op: str, *, at_end: bool) -> int:
        with self._lock:
            fd: int = opener(path, op=op)
            if self._inside(path):
                self._open[fd] = (self._nodes[path] if path in self._nodes else self._born(path), at_end)
            return fd

    def _inside(self, path: str) -> str | None:
        """The path below the root ("" is the root itself), None outside."""
        if path == self._root:
            return ""
        return path[len(self._root) + 1 :] if path.startswith(f"{self._root}/") else None

    def _born(self, path: str) -> int:
        node = next(self._numbers)
        self._sizes[node] = self._changes[node] = 0
        self._named(path, node)
        return node

    def _named(self, path: str, node: int) -> None:
        if (inside := self._inside(path)) is not None:
            self._nodes[path] = node
            self.journal.append(Step("name", renamed=Renamed(os.path.dirname(inside), gives=((inside, node),))))

    def _moved(self, source: str, target: str) -> None:
        old, new = self._inside(source), self._inside(target)
        if old is None or new is None:
            raise AttributeError("a rename that leaves or enters the folder is not followed")
        moved = {path: node for path, node in self._nodes.items() if path == source or path.startswith(f"{source}/")}
        for path, node in moved.items():
            del self._nodes[path]
            self._nodes[target + path[len(source) :]] = node
        gives = tuple((new + path[len(source) :], node) for path, node in moved.items())
        takes = tuple(old + path[len(source) :] for path in moved)
        self.journal.append(Step("name", renamed=Renamed(os.path.dirname(new), gives, takes)))

    def _changed(self, node: int, change: Change) -> None:
        self._changes[node] += 1
        end = change.offset + len(change.data or b"")
        self._sizes[node] = end if change.data is None else max(self._sizes[node], end)
        self.journal.append(Step("change", node, change))

    def _take_in(self) -> None:
        for folder, folders, files in os.walk(self._root):
            for name in folders:
                path = os.path.join(folder, name)
                self._nodes[path] = self._start.names[str(self._inside(path))] = _FOLDER
            for name in files:
                path, node = os.path.join(folder, name), next(self._numbers)
                with open(path, "rb") as file:
                    content = file.read()
                self._nodes[path] = self._start.names[str(self._inside(path))] = node
                self._sizes[node], self._changes[node] = len(content), 0
                self._start.nodes[node] = _Node(content)


@dataclass
class _Node:
    """One file's bytes: what is certain, and what was changed since, with the number of each change."""

    certain: bytes = b""
    pending: list[tuple[int, Change]] = field(default_factory=list)
    changes: int = 0


@dataclass
class _Disk:
    """A folder on a medium: what is certain of it, and what is on its way."""

    nodes: dict[int, _Node] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    pending: list[Renamed] = field(default_factory=list)

    def copy(self) -> _Disk:
        nodes = {number: _Node(node.certain) for number, node in self.nodes.items()}
        return _Disk(nodes, dict(self.names), list(self.pending))

    def take(self, step: Step) -> None:
        """Go one step on."""
        if step.change is not None:
            node = self.nodes.setdefault(step.node, _Node())
            node.changes += 1
            node.pending.append((node.changes, step.change))
        elif step.renamed is not None:
            self.pending.append(step.renamed)
        elif step.kind in {"sync", "sync failed"}:
            node = self.nodes.setdefault(step.node, _Node())
            done = [change for number, change in node.pending if number <= step.upto]
            node.pending = [each for each in node.pending if each[0] > step.upto]
            if step.kind == "sync":
                node.certain = _applied(node.certain, done)
        elif step.kind == "sync folder":
            _rename(self.names, [each for each in self.pending if each.folder == step.value])
            self.pending = [each for each in self.pending if each.folder != step.value]

    def states(self, rng: Random, *, scattered: bool) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        """What the medium may hold now, each with a word for how."""
        some = self.pending[: rng.randrange(len(self.pending) + 1)]
        bytes_of = {
            "kept": {number: _applied(node.certain, _changes(node)) for number, node in self.nodes.items()},
            "lost": {number: node.certain for number, node in self.nodes.items()},
            "cut": {number: _torn(node, rng, nul=False) for number, node in self.nodes.items()},
            "NUL": {number: _torn(node, rng, nul=True) for number, node in self.nodes.items()},
        }
        if scattered:
            bytes_of["scattered"] = {number: _scattered(node, rng) for number, node in self.nodes.items()}
        for how, contents in bytes_of.items():
            choices = {"all names": self.pending, "no names": [], "some names": some}
            for which, pending in choices.items():
                if which == "all names" or self.pending:
                    yield f"{how}, {which}", self._tree(pending, contents)

    def _tree(self, pending: Sequence[Renamed], contents: dict[int, bytes]) -> dict[str, bytes | None]:
        names = dict(self.names)
        _rename(names, pending)
        found: dict[str, bytes | None] = {}
        for path, node in sorted(names.items()):
            folder = os.path.dirname(path)
            if not folder or folder in found:  # below a folder whose name is lost all is lost
                found[path] = None if node == _FOLDER else contents.get(node, b"")
        return found


def _rename(names: dict[str, int], changes: Sequence[Renamed]) -> None:
    for change in changes:
        for path in change.takes:
            names.pop(path, None)
        names.update(change.gives)


def _changes(node: _Node) -> list[Change]:
    return [change for _, change in node.pending]


def _torn(node: _Node, rng: Random, *, nul: bool) -> bytes:
    """A beginning of what is on its way, the last write of it torn."""
    if not node.pending:
        return node.certain
    *whole, last = _changes(node)[: rng.randrange(len(node.pending)) + 1]
    content = _applied(node.certain, whole)
    if last.data is None:
        return content
    at = rng.randrange(len(last.data) + 1)
    return _applied(content, [Change(last.offset, last.data[:at] + (bytes(len(last.data) - at) if nul else b""))])


def _scattered(node: _Node, rng: Random) -> bytes:
    """Any choice of what is on its way; of the last one only its end."""
    if not node.pending:
        return node.certain
    *chosen, last = [change for change in _changes(node) if rng.random() < 0.7] or [node.pending[-1][1]]
    if last.data is not None:
        at = rng.randrange(len(last.data) + 1)
        last = Change(last.offset, bytes(at) + last.data[at:])
    return _applied(node.certain, [*chosen, last])


def _applied(content: bytes, changes: Sequence[Change]) -> bytes:
    if not changes:
        return content
    held = bytearray(content)
    for offset, data in changes:
        if len(held) < offset:
            held += bytes(offset - len(held))
        if data is None:
            del held[offset:]
        else:
            held[offset : offset + len(data)] = data
    return bytes(held)
