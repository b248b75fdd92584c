"""Every path and file name in a home: where things stand, and what a rollout's name says.

A rollout's name is `rollout-<local time>-<thread id>[_<rollout id>].jsonl[.zst]`. All of it is a hint but one thing: the
folder decides whether a thread is archived. Paths kept and shown are *logical*: relative to the home, `/` between names,
without `.zst`; a plain file hides its compressed sibling. The walk goes from the newest folder to the oldest, follows no
symbolic link below the two roots, and reports what it cannot use instead of passing it in silence.

Source: codex_rollout.md 1, 1.1, 1.2.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeGuard

from engine.errors import HomeMissing, HomeNotAFolder, HomeUnreadable, StateOfAnotherHome
from engine.stores.files import Entry, Files, FileStat

ROOTS = ("sessions", "archived_sessions")
ARCHIVED_ROOT = ROOTS[1]
COMPRESSED = ".zst"
HOME_NOTE = "home"
"""The file in a state folder outside of the home that names the home."""
_NOTE_BYTES_MAX = 8192
_FOLDERS_DEEP_MAX = 16

_NAME = re.compile(
    r"rollout-(\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3])-[0-5]\d-[0-5]\d)"
    r"-([0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12})"
    r"(?:_([0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}))?"
    r"\.jsonl(\.zst)?",
    re.ASCII,
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", re.ASCII)


class RolloutName(NamedTuple):
    """What a rollout's file name says. `named_at` is local wall-clock time, 19 characters."""

    named_at: str
    thread_id: str
    own_rollout_id: str | None
    compressed: bool


class Found(NamedTuple):
    """A rollout that the walk met. `path` is logical; `stat` is of the physical file."""

    path: str
    name: RolloutName
    compressed: bool
    stat: FileStat


class Refused(NamedTuple):
    """A name that looks like a rollout, or a folder, that the walk did not use, and why."""

    path: str
    reason: str
    link: bool = False
    """Whether it is a symbolic link: not followed by rule, so nothing of the home is unread because of it."""


@dataclass(frozen=True, slots=True)
class Home:
    """A home's folders. `state` is None where nothing may be written: tables are then in memory."""

    path: str
    state: str | None

    def absolute(self, relative: str, *, compressed: bool = False) -> str:
        """The physical path of a logical one."""
        return f"{self.path}/{relative}{COMPRESSED if compressed else ''}"


def open_home(path: str, state_dir: str | None, files: Files) -> Home:
    """Check that the home is a folder that can be listed, and say where the engine's own files go.

    Raises `HomeMissing`, `HomeNotAFolder`, `HomeUnreadable`. Makes nothing.
    """
    path = path and _absolute(path)
    try:
        kind = files.kind(path, op="layout.home", follow=True)
    except OSError as error:
        raise HomeUnreadable(
            f"The home {path} cannot be reached: {error.strerror}.",
            hint="Check the folders and links that lead there.",
            path=path,
        ) from error
    if kind is None:
        raise HomeMissing(
            f"There is no home at {path}.", hint="Name another with --home, or make the folder.", path=path
        )
    if kind != "folder":
        raise HomeNotAFolder(
            f"{path} is a {kind}, not a folder.", hint="Name the folder that holds sessions/.", path=path
        )
    try:
        files.scan(path, op="layout.home")
    except OSError as error:
        raise HomeUnreadable(
            f"The home {path} cannot be read: {error.strerror}.",
            hint="Check who owns the folder and its mode.",
            path=path,
        ) from error
    if state_dir is not None:
        return Home(path, _absolute(state_dir))
    engine = f"{path}/engine"
    try:
        holder = engine if files.kind(engine, op="layout.home", follow=True) == "folder" else path
    except OSError:
        return Home(path, None)  # it cannot even be looked at, so nothing can be kept there
    return Home(path, engine if files.writable(holder, op="layout.home") else None)


def _absolute(path: str) -> str:
    """A path that stays true when the process goes elsewhere; links and `..` are left to the system."""
    path = path.rstrip("/") or "/"
    return path if path.startswith("/") else f"{os.getcwd()}/{path}"


def claim_state(home: Home, files: Files) -> None:
    """Note in a state folder outside of the home whose rows it holds; raises `StateOfAnotherHome`.

    A home that moved takes its rows along: only a folder that is still there, and another, is another home.
    """
    if home.state is None or home.state == f"{home.path}/engine":
        return
    note = f"{home.state}/{HOME_NOTE}"
    here = os.fsencode(home.path)
    known = files.read_small(note, bytes_max=_NOTE_BYTES_MAX, op="layout.claim")
    if known == here:
        return
    if known:
        there = files.identity(os.fsdecode(known), op="layout.claim")
        if there is not None and there != files.identity(home.path, op="layout.claim"):
            other = _shown(os.fsdecode(known))
            raise StateOfAnotherHome(
                f"The state folder {_shown(home.state)} holds the rows of {other}.",
                hint="Give each home a --state-dir of its own.",
                path=_shown(home.state),
            )
    with contextlib.suppress(OSError):  # the databases tell what is wrong with the folder
        files.ensure_folder(home.state, op="layout.claim")
        files.replace_small(note, here, op="layout.claim")


@lru_cache(maxsize=4096)
def parse_name(name: str) -> RolloutName | None:
    """The parts of a rollout's file name, or None where it is not one. Ids come in lower case."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    named_at, thread_id, rollout_id, compressed = match.groups()
    return RolloutName(named_at, thread_id.lower(), rollout_id and rollout_id.lower(), compressed is not None)


def render_name(name: RolloutName) -> str:
    """The file name of its parts; `parse_name` of it gives them back."""
    own = f"_{name.own_rollout_id}" if name.own_rollout_id else ""
    return f"rollout-{name.named_at}-{name.thread_id}{own}.jsonl{COMPRESSED if name.compressed else ''}"


def is_id(text: object) -> TypeGuard[str]:
    """Whether something is a text, and a UUID as threads have them."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


def day_folder(named_at: str) -> str:
    """The folder of an active rollout that is named for this local time."""
    return f"{ROOTS[0]}/{named_at[:4]}/{named_at[5:7]}/{named_at[8:10]}"


def is_archived(path: str) -> bool:
    """Whether a logical path is under the archived root; nothing else decides that."""
    return path.startswith(f"{ARCHIVED_ROOT}/")


def parse_path(path: str) -> RolloutName | None:
    """The name's parts of a logical or physical path."""
    return parse_name(path.rpartition("/")[2])


class Listing(NamedTuple):
    """What is in one folder, newest first: rollouts, names that cannot be used, and folders (as paths)."""

    found: list[Found]
    refused: list[Refused]
    deeper: list[str]


def walk(home: Home, files: Files) -> Iterator[list[Found] | Refused]:
    """All rollouts of a home, a list a folder, newest first: `sessions` by descending path, then `archived_sessions`.

    Folders are listed when they are reached, so a caller may stop early. A root that is itself a symbolic link is
    followed (the owner of the home laid it so); no link below a root is. What cannot be used comes as `Refused`.
    """
    for root in roots(home, files):
        if isinstance(root, Refused):
            yield root
        else:
            yield from _walk_folder(home, root, files)


def roots(home: Home, files: Files) -> Iterator[str | Refused]:
    """The folders in which rollouts are, as far as they are there."""
    for root in ROOTS:
        path = f"{home.path}/{root}"
        try:
            kind = files.kind(path, op="layout.scan", follow=True) or files.kind(path, op="layout.scan")
        except OSError as error:
            yield Refused(root, f"it cannot be reached: {error.strerror}")
            continue
        if kind == "folder":
            yield root
        elif kind == "link":
            yield Refused(root, "it is a symbolic link to nothing")
        elif kind is not None:
            yield Refused(root, f"it is a {kind}, not a folder")


def list_folder(home: Home, folder: str, files: Files) -> Listing:
    """What is in one folder of a home. One that cannot be read, or that is nested too deep, is refused itself."""
    try:
        entries = files.scan(f"{home.path}/{folder}", op="layout.scan")
    except OSError as error:
        return Listing([], [Refused(_shown(folder), f"the folder cannot be read: {error.strerror}")], [])
    # A folder or a link of the plain name is no rollout, so it hides none.
    plain = {entry.name for entry in entries if entry.stat is not None and entry.name.endswith(".jsonl")}
    listing = Listing([], [], [])
    for entry in sorted(entries, key=_by_name, reverse=True):
        path = f"{folder}/{entry.name}"
        if entry.kind == "folder":
            listing.deeper.append(path)
            continue
        judged = _judge(path, entry, plain)
        if isinstance(judged, Found):
            listing.found.append(judged)
        elif judged is not None:
            listing.refused.append(judged)
    if folder.count("/") >= _FOLDERS_DEEP_MAX and listing.deeper:
        reason = f"folders are nested deeper than {_FOLDERS_DEEP_MAX}"
        return listing._replace(refused=[*listing.refused, Refused(_shown(folder), reason)], deeper=[])
    return listing


def find(home: Home, thread_id: str, files: Files) -> list[Found]:
    """The rollouts whose names are of one thread, by names alone; folders that cannot be read are passed over."""
    folders = [root for root in roots(home, files) if isinstance(root, str)]
    paths: set[str] = set()
    while folders:
        folder = folders.pop()
        with contextlib.suppress(OSError):
            for name, is_folder in files.names(f"{home.path}/{folder}", op="layout.find"):
                if is_folder and folder.count("/") < _FOLDERS_DEEP_MAX:
                    folders.append(f"{folder}/{name}")
                elif thread_id in name.lower() and _is_of(name, thread_id):
                    paths.add(f"{folder}/{name}".removesuffix(COMPRESSED))
    return [found for path in sorted(paths) if (found := locate(home, path, files)) is not None]


def _is_of(name: str, thread_id: str) -> bool:
    parsed = parse_name(name)
    return parsed is not None and parsed.thread_id == thread_id


def locate(home: Home, path: str, files: Files) -> Found | None:
    """The physical file of a logical path, plain before compressed, or None where neither is there."""
    name = parse_path(path)
    if name is None:
        return None
    for compressed in (False, True, False):  # one that was brought back between the first two looks is plain again
        stat = files.stat(home.absolute(path, compressed=compressed), op="layout.locate")
        if stat is not None:
            return Found(path, name._replace(compressed=compressed), compressed, stat)
    return None


def relocate(home: Home, found: Found, files: Files) -> Found | None:
    """A rollout that was found before, in the form and the place that it has now: it may have been archived or brought back."""
    name = render_name(found.name._replace(compressed=False))
    for path in (found.path, f"{ARCHIVED_ROOT}/{name}", f"{day_folder(found.name.named_at)}/{name}"):
        now = locate(home, path, files)
        if now is not None:
            return now
    return None


def _walk_folder(home: Home, folder: str, files: Files) -> Iterator[list[Found] | Refused]:
    listing = list_folder(home, folder, files)
    yield from listing.refused
    if listing.found:
        yield listing.found
    for path in listing.deeper:
        yield from _walk_folder(home, path, files)


def _judge(path: str, entry: Entry, plain: set[str]) -> Found | Refused | None:
    """What a name in a folder is: a rollout, something that looks like one and cannot be used, or nothing to us."""
    name = parse_name(entry.name)
    if entry.kind == "link" and (name is not None or not entry.name.startswith(".")):
        return Refused(_shown(path), "it is a symbolic link, and links inside a home are not followed", link=True)
    if name is None or (name.compressed and entry.name.removesuffix(COMPRESSED) in plain):
        return None
    if entry.stat is None:
        return Refused(_shown(path), f"it is a {entry.kind}, not a file")
    if _shown(path) != path:
        return Refused(_shown(path), "its path is not UTF-8; rename the folder")
    return Found(path.removesuffix(COMPRESSED), name, name.compressed, entry.stat)


def _by_name(entry: Entry) -> str:
    return entry.name


def _shown(path: str) -> str:
    """A path that is safe to print and to store: bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
