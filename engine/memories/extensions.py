"""Resources that another source keeps among the memories: written when they differ, removed when the source has them no more.

`manifest.json` of an extension says which files are the source's. Only those are ever removed; what somebody else put beside
them stays. A resource whose name begins with a date is pruned by age like any other.

Source: codex_memories.md 1.8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from engine.errors import InvalidRequest
from engine.memories import artifacts
from engine.stores.baseline import FILE, Entry, blob_id
from engine.stores.files import Files
from engine.stores.workspace import Workspace

_MANIFEST_BYTES_MAX = 16 * 1024 * 1024
_VERSION = 1


class Resource(Struct, frozen=True, kw_only=True):
    """One thing that a source has, and the file that it is to be in."""

    source_id: str
    target_file_name: str
    content: str


class SyncedExtension(Struct, frozen=True, kw_only=True):
    """What was written, removed, and left as it was; names of files."""

    written: list[str]
    removed: list[str]
    unchanged: list[str]


class _Managed(Struct, rename="camel"):
    target_file_name: str
    content_sha256: str


class _Manifest(Struct):
    version: int
    resources: dict[str, _Managed]


def sync_extension(
    workspace: Workspace, name: str, instructions: str, resources: Sequence[Resource], files: Files
) -> SyncedExtension:
    """Make an extension's files those of its source. Raises `InvalidRequest` before anything is written."""
    _check(name, resources)
    folder = f"{artifacts.EXTENSIONS}/{name}"
    _put(workspace, f"{folder}/instructions.md", instructions.encode("utf-8", "replace"))
    before = _load(workspace, f"{folder}/manifest.json", files)
    written: list[str] = []
    unchanged: list[str] = []
    managed: dict[str, _Managed] = {}
    for each in resources:
        data = each.content.encode("utf-8", "replace")
        is_new = _put(workspace, f"{folder}/resources/{each.target_file_name}", data)
        (written if is_new else unchanged).append(each.target_file_name)
        managed[each.source_id] = _Managed(each.target_file_name, hashlib.sha256(data).hexdigest())
    kept = {each.target_file_name for each in resources}
    removed = sorted({each.target_file_name for each in before.values() if _is_name(each.target_file_name)} - kept)
    for target in removed:
        workspace.remove(f"{folder}/resources/{target}".encode())
    manifest = msgspec.json.format(msgspec.json.encode(_Manifest(_VERSION, managed)), indent=2) + b"\n"
    _put(workspace, f"{folder}/manifest.json", manifest)
    return SyncedExtension(written=written, removed=removed, unchanged=unchanged)


def _check(name: str, resources: Sequence[Resource]) -> None:
    targets = [each.target_file_name for each in resources]
    ids = [each.source_id for each in resources]
    if not _is_name(name) or not all(_is_name(each) and each.endswith(".md") for each in targets):
        raise InvalidRequest(
            "An extension and its resources have names without `/`, and resources end in .md.", hint="Name them so."
        )
    if not all(ids) or len(set(ids)) < len(ids) or len(set(targets)) < len(targets):
        raise InvalidRequest("Two resources share an id or a name, or one has no id.", hint="Give each its own.")


def _is_name(text: str) -> bool:
    return bool(text) and not text.startswith(".") and not any(char in text for char in "/\\\0") and text.isprintable()


def _load(workspace: Workspace, path: str, files: Files) -> dict[str, _Managed]:
    """What the source had the last time; nothing where that cannot be read."""
    data = files.read_all(f"{workspace.root}/{path}", bytes_max=_MANIFEST_BYTES_MAX, op="memories.manifest")
    try:
        found = msgspec.json.decode(data or b"", type=_Manifest)
    except msgspec.DecodeError:
        return {}
    return found.resources if found.version == _VERSION else {}


def _put(workspace: Workspace, path: str, data: bytes) -> bool:
    """Whether the file had to be written."""
    entry = workspace.entry_of(path.encode())
    if entry is not None and entry.oid == blob_id(data):
        return False
    workspace.put(path.encode(), data, Entry(FILE, ""))
    return True
