"""What a removal or a bundle reaches, and what it did: plain facts to be shown, kept or counted. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class FileReach(Struct, frozen=True):
    """A file. `path` is relative to the home, or to the state folder for the engine's own."""

    path: str
    bytes: int


class Reader(Struct, frozen=True):
    """A thread that goes on from another by `history_base`: without that one's rollout its own history is broken."""

    thread_id: str
    base_rollout_id: str


class Reach(Struct, frozen=True, kw_only=True):
    """What an erasure would take, and who stands in its way.

    `readers` are threads outside of `thread_ids` that go on from them: not empty means that the erasure is refused.
    `spawned` are sub-agents that read nothing of theirs and stay. `memories` are files that go from the folder of memories or
    lose what is of these threads, with the bytes that go.
    """

    thread_ids: list[str]
    rollouts: list[FileReach]
    journal_records: int
    session_index_lines: int
    log_records: int
    memories: list[FileReach]
    rows: dict[str, int]
    quarantine: list[FileReach]
    trash: list[FileReach]
    readers: list[Reader]
    spawned: list[str]


class StoreReceipt(Struct, frozen=True):
    """What was taken out of one store. `removed` counts files, records, lines or rows, as the store has them."""

    store: str
    removed: int
    bytes: int


class Receipt(Struct, frozen=True, kw_only=True):
    """What an erasure did. With a grace time the rollouts wait in the trash until `due_at_ms`."""

    thread_ids: list[str]
    due_at_ms: int | None
    stores: list[StoreReceipt]


class RedactedRecord(Struct, frozen=True):
    """A record that was replaced. `length` is that of its line without the LF, before and after."""

    thread_id: str
    path: str
    offset: int
    length: int
    ordinal: int | None
    kind: str


class BundledRollout(Struct, frozen=True, kw_only=True):
    """A rollout in a bundle: its logical path, how many plain bytes it has, and their SHA-256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


class BundledThread(Struct, frozen=True, kw_only=True):
    """A thread in a bundle. Of one that is there only because others go on from it (`is_base`) there is no journal.

    `journal_bytes` and `journal_sha256` are of its lines in the journal.
    """

    id: str
    is_base: bool
    rollouts: list[BundledRollout]
    journal_records: int
    journal_bytes: int
    journal_sha256: str


class BundleReport(Struct, frozen=True, kw_only=True):
    """What a bundle holds. `missing_bases` are rollout ids that threads of it go on from and that were not there."""

    path: str
    threads: list[BundledThread]
    missing_bases: list[str]


class ImportReport(Struct, frozen=True, kw_only=True):
    """What an import did, or would do. `written` are logical paths.

    `clashes` are threads that are here with other content, each with why; `busy` are those that lack something here while
    somebody has them open, each with who. Nothing of either was written.
    """

    dry_run: bool
    imported: list[str]
    unchanged: list[str]
    clashes: dict[str, str]
    busy: dict[str, str]
    written: list[str]
    bytes: int
    journal_records: int


class Bundles(Protocol):
    """What packs threads and brings them in."""

    def export(self, thread_ids: Sequence[str] | None, path: str, *, bases: bool = ...) -> BundleReport:
        """Pack threads (None: all) into one new file."""
        ...

    def import_bundle(self, path: str, *, dry_run: bool = False) -> ImportReport:
        """Bring the threads of a bundle into this home."""
        ...


class Removal(Protocol):
    """What takes threads out of a home."""

    def preview(self, thread_id: str, *, include_children: bool = False) -> Reach:
        """What `erase` would take; changes nothing."""
        ...

    def erase(self, thread_id: str, *, include_children: bool = False, grace_s: int | None = ...) -> Receipt:
        """Take a thread out of every store."""
        ...


class Redaction(Protocol):
    """What replaces records."""

    def redact(self, thread_id: str, *, ordinal: int | None = None, offset: int | None = None) -> list[RedactedRecord]:
        """Replace what one record says by filler."""
        ...
