"""Threads in one file: exported with what others need to read them, checked, and brought into another home.

A bundle is a zip of `manifest.json`, rollouts in plain bytes under their logical paths, and for each thread its records of
the journal. The manifest names every member with its size and SHA-256, and is believed only so far: a member it does not name,
a size or a digest that differs, a cut file, and nothing is written. No path of a bundle is followed: a rollout's
place comes from its name, and its name must parse.

An import changes nothing that is there. A thread whose rollouts are all here, byte for byte, is unchanged; one that is here
with anything else is a clash, told and left alone: neither is locked, whoever has it open. One that lacks something is locked;
where somebody has it, it is busy, told and left alone. Else its files appear one by one, each whole, and its journal records
follow. So an import that was cut short is finished by doing it again, and a second one changes nothing. Meanwhile no erasure
takes away what the threads of the bundle go on from (`lineage_lock`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from engine.errors import (
    BundleUnusable,
    EngineError,
    ImportCutShort,
    InvalidRequest,
    LineageBroken,
    ThreadBusy,
    TruthGone,
)
from engine.events.item import Item, item_of_record
from engine.events.record import Rejected, decode
from engine.holdings import Holdings, RemovalParts, translated
from engine.projections import thread_facts
from engine.projections.history import readable
from engine.projections.runner import Stale
from engine.receipts import BundledRollout, BundledThread, BundleReport, ImportReport
from engine.stores.archive_file import ZipReader, ZipWriter, reading, unusable, writing
from engine.stores.files import Files
from engine.stores.layout import (
    ARCHIVED_ROOT,
    ROOTS,
    Found,
    is_archived,
    is_id,
    locate,
    parse_name,
    render_name,
)
from engine.stores.rollouts import Source
from engine.stores.writer_lock import live_owner

FORMAT = "rolloutdb-bundle"
VERSION = 1
MANIFEST = "manifest.json"
_MANIFEST_BYTES_MAX = 256 * 1024 * 1024
_PIECE_BYTES = 256 * 1024
_NOT_EXPORTED = frozenset({thread_facts.REDACTION_BEGUN, thread_facts.REDACTION_DONE})
"""Records about the bytes of a file here, which say nothing of the thread elsewhere."""


class _Manifest(msgspec.Struct, kw_only=True):
    format: str
    version: int
    threads: list[BundledThread]
    missing_bases: list[str]


class Bundler:
    """Exports from and imports into one home."""

    def __init__(self, parts: RemovalParts) -> None:
        self._parts = parts
        self._holdings = Holdings(parts)

    def export(self, thread_ids: Sequence[str] | None, path: str, *, bases: bool = True) -> BundleReport:
        """Pack these threads, or all where it is None, into the new file `path`; needs no lock and changes no thread.

        With `bases` the rollouts that they go on from come along, as others' threads. A thread that is being written is
        packed as it is now. Raises `ThreadNotFound`, `TruthGone`, `InvalidRequest` (nothing to pack, a name that is taken).
        """
        _check_path(path)
        if not path.startswith("/"):
            raise InvalidRequest(f"The path {path!r} is not absolute.", hint="Give the bundle's full path.")
        folder = path.rpartition("/")[0] or "/"
        if self._parts.files.kind(folder, op="bundle.folder", follow=True) != "folder":
            raise InvalidRequest(f"There is no folder {folder}.", hint="Make it first, or give another path.")
        self._holdings.catch_up()
        asked = self._all() if thread_ids is None else [self._holdings.known(each) for each in thread_ids]
        if not asked:
            raise InvalidRequest("There is no thread to export.", hint="Name threads; see `rolloutdb threads list`.")
        rollouts = {each: self._holdings.rollouts(each) for each in sorted(set(asked))}
        for each, found in rollouts.items():
            if not found:
                raise TruthGone(f"The rollout of {each} is gone.", hint="Leave it out, or restore its file.")
        more, missing = self._bases(rollouts) if bases else ({}, [])
        try:
            with writing(path, files=self._parts.files) as packed:
                every = sorted({*rollouts, *more})
                threads = [self._pack(packed, each, rollouts.get(each), more.get(each, [])) for each in every]
                manifest = _Manifest(format=FORMAT, version=VERSION, threads=threads, missing_bases=missing)
                packed.add(MANIFEST, [msgspec.json.format(msgspec.json.encode(manifest), indent=1)])
        except FileExistsError as error:
            raise InvalidRequest(f"There is something at {path}.", hint="Give another name.") from error
        return BundleReport(path=path, threads=threads, missing_bases=missing)

    def import_bundle(self, path: str, *, dry_run: bool = False) -> ImportReport:
        """Bring the threads of a bundle into this home; `dry_run` writes nothing and says what would be.

        The whole bundle is checked first. Raises `BundleUnusable`, `ReadOnlyHome`, `StoreBusy` where an erasure is at work
        for longer than `busy_wait_ms`, and `ImportCutShort`, which names what was imported before it failed.
        """
        _check_path(path)
        if not dry_run:
            self._holdings.check_writable()
        report = verify_bundle(path, files=self._parts.files)
        self._holdings.catch_up()
        done = _Done(dry_run)
        with contextlib.nullcontext() if dry_run else self._holdings.lineage_held("import", shared=True):
            failure = self._bring_all(path, report.threads, done)
        self._index(done)
        if failure is not None and dry_run:
            raise failure
        if failure is not None:
            raise ImportCutShort(
                f"The import failed when {len(done.imported)} thread(s) had come: {failure.message}",
                imported=done.imported,
                hint="Mend that, then import again: what is here by then is passed over.",
                path=failure.path,
            ) from failure
        return done.report()

    # Export

    def _all(self) -> list[str]:
        with self._parts.database.read() as transaction:
            return [thread_id for (thread_id,) in transaction.rows(_PRESENT)]

    def _bases(self, rollouts: dict[str, list[Found]]) -> tuple[dict[str, list[Found]], list[str]]:
        """The rollouts of other threads that these go on from, by thread, and rollout ids that are not there."""
        more: dict[str, dict[str, Found]] = {}
        missing: set[str] = set()
        own = {found.path for each in rollouts.values() for found in each}
        for found in [found for each in rollouts.values() for found in each]:
            try:
                segments = self._holdings.lineage(found)
            except LineageBroken:
                missing.add(found.name.own_rollout_id or found.name.thread_id)
                continue
            for segment in segments:
                if segment.found.path not in own:
                    more.setdefault(segment.found.name.thread_id, {})[segment.found.path] = segment.found
        return {each: [found[path] for path in sorted(found)] for each, found in more.items()}, sorted(missing)

    def _pack(self, packed: ZipWriter, thread_id: str, own: list[Found] | None, bases: list[Found]) -> BundledThread:
        found = sorted([*(own or []), *bases], key=lambda each: each.path)
        rollouts = [self._pack_rollout(packed, each) for each in found]
        lines = [] if own is None else _exported(self._holdings.journal_lines([thread_id]))
        data = b"".join(line + b"\n" for line in lines)
        if lines:
            packed.add(_journal_name(thread_id), [data])
        return BundledThread(
            id=thread_id,
            is_base=own is None,
            rollouts=rollouts,
            journal_records=len(lines),
            journal_bytes=len(data),
            journal_sha256=hashlib.sha256(data).hexdigest(),
        )

    def _pack_rollout(self, packed: ZipWriter, found: Found) -> BundledRollout:
        digest, size = hashlib.sha256(), 0

        def pieces(source: Source) -> Iterator[bytes]:
            nonlocal size
            with readable(found):
                for data in _pieces(source):
                    digest.update(data)
                    size += len(data)
                    yield data

        with self._holdings.opened(found) as source:
            packed.add(found.path, pieces(source))
            if source.broken is not None:
                raise InvalidRequest(
                    f"The rollout {found.path} cannot be read to its end: {source.broken}.",
                    hint="Leave the thread out, or restore the file from a backup.",
                )
        return BundledRollout(path=found.path, bytes=size, sha256=digest.hexdigest())

    # Import

    def _bring_all(self, path: str, threads: Sequence[BundledThread], done: _Done) -> EngineError | None:
        """One thread after the other; what ended it before the last one, or None."""
        try:
            with translated(path), reading(path, files=self._parts.files) as packed:
                for thread in threads:
                    self._bring(packed, thread, done)
        except EngineError as error:
            return error
        return None

    def _bring(self, packed: ZipReader, thread: BundledThread, done: _Done) -> None:
        """One thread: nothing, its files and records, a clash, or somebody who has it open."""
        plan = self._plan(packed, thread)
        with contextlib.ExitStack() as held:
            if plan.is_work and not self._is_free(thread.id, plan, held, dry_run=done.dry_run):
                owner = live_owner(self._parts.home, thread.id, self._parts.files)
                done.busy[thread.id] = owner or "another process"
                return
            if plan.is_work and not done.dry_run:
                plan = self._plan(packed, thread)  # once more, now that nobody changes it
                self._carry_out(packed, thread, plan, done)
        if plan.clash is not None:
            done.clashes[thread.id] = plan.clash
            return
        if done.dry_run:
            done.note(plan.missing)
        done.journal_records += len(plan.items)
        (done.imported if plan.is_work else done.unchanged).append(thread.id)

    def _is_free(self, thread_id: str, plan: _Plan, held: contextlib.ExitStack, *, dry_run: bool) -> bool:
        """Whether nobody has the thread open; it is locked until `held` ends, but for a dry run, which only looks."""
        if dry_run:
            return live_owner(self._parts.home, thread_id, self._parts.files) is None
        try:
            held.enter_context(self._holdings.owned(thread_id, "import", plan.here))
        except ThreadBusy:
            return False
        return True

    def _plan(self, packed: ZipReader, thread: BundledThread) -> _Plan:
        """What of a thread is missing here, or why it cannot come."""
        rollouts = self._holdings.rollouts(thread.id)
        here = {_stem(found.path): found for found in rollouts}
        wanted = {_stem(rollout.path): rollout for rollout in thread.rollouts}
        other = [name for name in here if name in wanted and not self._is_same(here[name], wanted[name])]
        if other or (set(here) - set(wanted) and set(wanted) - set(here)):
            return _Plan(rollouts, clash=f"{other[0]} differs" if other else "it has other rollouts here")
        missing = [wanted[name] for name in sorted(set(wanted) - set(here))]
        taken = [rollout for rollout in missing if self._is_taken(rollout)]
        if taken:
            return _Plan(rollouts, clash=f"the name {_target(taken[0].path)} is taken")
        return _Plan(rollouts, missing, [] if set(here) - set(wanted) else self._items(packed, thread))

    def _carry_out(self, packed: ZipReader, thread: BundledThread, plan: _Plan, done: _Done) -> None:
        for rollout in plan.missing:
            self._write(packed, rollout)
            done.note([rollout])
        if plan.items:
            self._parts.journal.append(plan.items)
        if plan.missing and self._is_erased(thread.id):
            self._holdings.note([{"type": thread_facts.RETURNED, "thread_id": thread.id}])

    def _is_same(self, found: Found, rollout: BundledRollout) -> bool:
        digest, size = hashlib.sha256(), 0
        with readable(found), self._holdings.opened(found) as source:
            for data in _pieces(source):
                digest.update(data)
                size += len(data)
        return (size, digest.hexdigest()) == (rollout.bytes, rollout.sha256)

    def _is_taken(self, rollout: BundledRollout) -> bool:
        return locate(self._parts.home, _target(rollout.path), self._parts.files) is not None

    def _is_erased(self, thread_id: str) -> bool:
        with self._parts.database.read() as transaction:
            return transaction.row(_ERASED, {"id": thread_id}) is not None

    def _items(self, packed: ZipReader, thread: BundledThread) -> list[Item]:
        """The records that the journal here lacks; none where more was decided here since."""
        if not thread.journal_records:
            return []
        data = b"".join(packed.pieces(_journal_name(thread.id), thread.journal_bytes))
        bundled = [item_of_record(decode(line)) for line in data.split(b"\n")[:-1]]
        here = [item_of_record(decode(line)) for line in _exported(self._holdings.journal_lines([thread.id]))]
        if any(item not in bundled for item in here):
            return []
        return [item for item in bundled if item not in here]

    def _write(self, packed: ZipReader, rollout: BundledRollout) -> None:
        """The file appears whole, under its own name; a name that is taken is never replaced."""
        files = self._parts.files
        inside = _target(rollout.path)
        target = self._parts.home.absolute(inside)
        folder, _, name = target.rpartition("/")
        beside = f"{folder}/.{name}.tmp"
        files.ensure_folder(folder, op="import.folder")
        files.remove(beside, op="import.leftover")
        fd = files.create(beside, op="import.create")
        try:
            digest = hashlib.sha256()
            for data in packed.pieces(rollout.path, rollout.bytes):
                digest.update(data)
                written = 0
                while written < len(data):
                    written += files.write(fd, data[written:], op="import.write")
            if digest.hexdigest() != rollout.sha256:
                raise BundleUnusable(
                    f"The bundle changed while it was read: {rollout.path} is not what it was.",
                    hint="Import it when nobody writes to it.",
                    path=rollout.path,
                )
            files.sync(fd, op="import.sync")
            files.link(beside, target, op="import.link")
        finally:
            files.close(fd, op="import.close")
            files.remove(beside, op="import.remove")
        for depth in range(inside.count("/") + 1):  # the folders above may be as new, up to the home's own
            files.sync_folder(target.rsplit("/", depth + 1)[0], op="import.sync_folder")

    def _index(self, done: _Done) -> None:
        """Rows follow at once; where they cannot, the next look brings them."""
        if done.dry_run:
            return
        with contextlib.suppress(EngineError, OSError):
            found = [locate(self._parts.home, path, self._parts.files) for path in done.written]
            self._holdings.fold([Stale(each, known=True) for each in found if each is not None])
            self._parts.facts.catch_up()


def _check_path(path: object) -> None:
    if not isinstance(path, str):
        raise InvalidRequest(f"{path!r} is no path.", hint="Give the bundle's path as text.")


def verify_bundle(path: str, *, files: Files | None = None) -> BundleReport:
    """Read a bundle from its first byte to its last, and compare all with its manifest. Raises `BundleUnusable`."""
    with reading(path, files=files or Files()) as packed:
        manifest = _manifest(packed, path)
        named = {MANIFEST}
        seen: set[str] = set()
        for thread in manifest.threads:
            _check_thread(thread, path, seen)
            members = [(each.path, each.bytes, each.sha256) for each in thread.rollouts]
            if thread.journal_records:
                members.append((_journal_name(thread.id), thread.journal_bytes, thread.journal_sha256))
            for name, size, sha256 in members:
                _check_member(packed, path, name, size, sha256)
                named.add(name)
            if thread.journal_records:
                _check_journal(packed, path, thread)
        if more := sorted(set(packed.names) - named):
            raise unusable(path, f"its manifest does not name {more[0]!r}")
    return BundleReport(path=path, threads=manifest.threads, missing_bases=manifest.missing_bases)


def _manifest(packed: ZipReader, path: str) -> _Manifest:
    if MANIFEST not in packed.names:
        raise unusable(path, "it has no manifest, so it is no bundle")
    try:
        manifest = msgspec.json.decode(b"".join(packed.pieces(MANIFEST, _MANIFEST_BYTES_MAX)), type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unusable(path, f"its manifest cannot be read: {error}") from None
    if manifest.format != FORMAT or manifest.version != VERSION:
        raise unusable(path, f"it is a {manifest.format} of version {manifest.version}; this engine reads {VERSION}")
    return manifest


def _check_thread(thread: BundledThread, path: str, seen: set[str]) -> None:
    """Ids are ids, names parse, belong to the thread, and come once in a bundle."""
    if not is_id(thread.id) or thread.id != thread.id.lower() or thread.id in seen:
        raise unusable(path, f"{thread.id!r} is no thread id, or is there twice")
    seen.add(thread.id)
    for rollout in thread.rollouts:
        root, _, rest = rollout.path.partition("/")
        name = parse_name(rollout.path.rpartition("/")[2])
        if root not in ROOTS or not rest or name is None or name.compressed or rollout.bytes < 0:
            raise unusable(path, f"{rollout.path!r} is no rollout's path")
        if (target := _target(rollout.path)) in seen:
            raise unusable(path, f"{target!r} is there twice")
        seen.add(target)


def _check_member(packed: ZipReader, path: str, name: str, size: int, sha256: str) -> None:
    digest, length = hashlib.sha256(), 0
    for data in packed.pieces(name, size):
        digest.update(data)
        length += len(data)
    if length != size or digest.hexdigest() != sha256:
        raise unusable(path, f"{name} is not what its manifest says")


def _check_journal(packed: ZipReader, path: str, thread: BundledThread) -> None:
    data = b"".join(packed.pieces(_journal_name(thread.id), thread.journal_bytes))
    lines = data.split(b"\n")[:-1]
    try:
        records = [decode(line) for line in lines]
        owners = {
            str(msgspec.json.decode(each.payload, type=dict[str, Any]).get("thread_id")).lower() for each in records
        }
    except (Rejected, msgspec.DecodeError):
        raise unusable(path, f"the journal of {thread.id} holds what is no record") from None
    if (
        len(lines) != thread.journal_records
        or owners - {thread.id}
        or any(each.type != "home_event" for each in records)
    ):
        raise unusable(path, f"the journal of {thread.id} holds what is not about it")


class _Plan(NamedTuple):
    """What a thread with these rollouts `here` lacks: `missing` and `items`; neither, where there is a `clash`."""

    here: Sequence[Found]
    missing: Sequence[BundledRollout] = ()
    items: Sequence[Item] = ()
    clash: str | None = None

    @property
    def is_work(self) -> bool:
        return bool(self.missing or self.items)


class _Done:
    """What an import did so far."""

    def __init__(self, dry_run: bool) -> None:  # noqa: FBT001 - one place makes it
        self.dry_run = dry_run
        self.imported: list[str] = []
        self.unchanged: list[str] = []
        self.clashes: dict[str, str] = {}
        self.busy: dict[str, str] = {}
        self.written: list[str] = []
        self.bytes = 0
        self.journal_records = 0

    def note(self, rollouts: Sequence[BundledRollout]) -> None:
        self.written += [_target(rollout.path) for rollout in rollouts]
        self.bytes += sum(rollout.bytes for rollout in rollouts)

    def report(self) -> ImportReport:
        return ImportReport(
            dry_run=self.dry_run,
            imported=self.imported,
            unchanged=self.unchanged,
            clashes=self.clashes,
            busy=self.busy,
            written=self.written,
            bytes=self.bytes,
            journal_records=self.journal_records,
        )


def _pieces(source: Source) -> Iterator[bytes]:
    at = 0
    while data := source.read_at(at, _PIECE_BYTES):
        yield data
        at += len(data)


def _journal_name(thread_id: str) -> str:
    return f"journal/{thread_id}.jsonl"


def _exported(lines: Iterable[bytes]) -> list[bytes]:
    """Records that mean something elsewhere."""
    return [line for line in lines if msgspec.json.decode(decode(line).payload)["type"] not in _NOT_EXPORTED]


def _stem(path: str) -> str:
    return path.rpartition("/")[2].lower()


def _target(path: str) -> str:
    """Where a rollout of this name belongs in any home. Nothing of the path counts but its root and its name."""
    name = parse_name(path.rpartition("/")[2])
    assert name is not None
    file = render_name(name._replace(compressed=False))
    if is_archived(path):
        return f"{ARCHIVED_ROOT}/{file}"
    return f"{ROOTS[0]}/{name.named_at[:4]}/{name.named_at[5:7]}/{name.named_at[8:10]}/{file}"


_ERASED = "SELECT 1 FROM facts WHERE thread_id = :id AND erased_at_ms IS NOT NULL AND erase_pending = 0"

_PRESENT = """
    SELECT id FROM threads WHERE EXISTS (
        SELECT 1 FROM streams WHERE streams.thread_id = threads.id AND streams.missing_since_ms IS NULL)
    ORDER BY id
"""
