"""Cold rollouts as `.jsonl.zst`, and back: the same bytes in another form, and at no moment none.

A compressed rollout is frames of about 1 MiB, cut where a record ends, and a seek table; any zstd reader sees one valid
file. Both ways go alike: written beside, synced, decoded and compared, the source looked at once more, given its
name without replacing anything, the folder synced, and only then the other form goes. A crash leaves both forms at
worst: readers take the plain one, and `settle` removes what is superfluous when it is proven to be.

Callers hold the thread's lock; `compress_cold` takes it itself, and passes over what is in use. Nothing is compressed
unless it is asked for. Permissions and modification time are kept.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xxhash import xxh3_128

from engine.clock import Clock
from engine.errors import EngineError, RolloutUnusable, StoreBusy, ThreadBusy
from engine.events.record import Rejected, decode, time_ms
from engine.options import Options
from engine.stores.files import Files, FileStat
from engine.stores.frames import FRAME_BYTES_MAX, Frame, render_table
from engine.stores.layout import Found, Home, Refused, locate, walk
from engine.stores.lineage import are_foreign
from engine.stores.locks import locked
from engine.stores.rollouts import CompressedSource, Source, lines_backwards, open_source
from engine.stores.writer_lock import acquire

if TYPE_CHECKING:
    from zstandard import ZstdCompressor

LEVEL = 3
FRAME_BYTES = 1024 * 1024
"""Plain bytes of a frame, up to the end of the record it lies in: also what reading one item far inside costs."""

_DAY_MS = 86_400_000
_LAST_LINES_MAX = 100
"""How many lines back the last record with a time is looked for."""

_MAINTENANCE = ".tmp"
_MAINTENANCE_LOCK = "rollout-maintenance.lock"


@dataclass(slots=True)
class ColdReport:
    """What a run did. Sizes in bytes; `skipped` counts by reason; `failed` is (logical path, why)."""

    compressed: list[str] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)


def compress_cold(
    home: Home, *, older_than_days: float, now_ms: int, options: Options, clock: Clock, files: Files
) -> ColdReport:
    """Compress every rollout whose last record and last change are both older than `older_than_days`.

    Raises `StoreBusy` where the Codex CLI keeps its maintenance lock; what is wrong with one rollout is in the report.
    """
    report = ColdReport()
    before_ms = now_ms - int(older_than_days * _DAY_MS)
    with _maintenance(home, options, clock, files):
        for found in walk(home, files):
            for each in [] if isinstance(found, Refused) else found:
                if each.compressed and not _is_left(home, each, files):
                    report.skipped["compressed"] += 1
                elif not each.compressed and each.stat.mtime_ns // 1_000_000 >= before_ms:
                    report.skipped["not old enough"] += 1
                else:
                    _compress_owned(home, each, before_ms, report, options, clock, files)
    return report


def _compress_owned(
    home: Home, found: Found, before_ms: int, report: ColdReport, options: Options, clock: Clock, files: Files
) -> None:
    try:
        foreign = are_foreign(home, [found], options=options, files=files)
        lock = acquire(
            home, found.name.thread_id, "compress", foreign=foreign, options=options, clock=clock, files=files
        )
    except (ThreadBusy, StoreBusy):
        report.skipped["in use"] += 1
        return
    try:
        now = locate(home, found.path, files)
        if now is None or now.stat != found.stat:
            report.skipped["changed"] += 1
            return
        if now.compressed:
            settle(home, now, options=options, files=files)
            report.skipped["compressed"] += 1
            return
        with _failing(now, "be read"):
            last_ms = _last_record_ms(home, now, options, files)
        if last_ms is None or last_ms >= before_ms:
            report.skipped["unreadable" if last_ms is None else "not old enough"] += 1
            return
        after = compress(home, now, options=options, files=files)
        report.compressed.append(now.path)
        report.bytes_before += now.stat.size
        report.bytes_after += after.stat.size
    except EngineError as error:
        report.failed.append((found.path, error.message))
    finally:
        lock.release()


def _is_left(home: Home, found: Found, files: Files) -> bool:
    """Whether a crash left a half-written file beside a rollout."""
    return any(files.kind(_beside(path), op="compress.leftover") is not None for path in _forms(home, found))


def compress(home: Home, found: Found, *, options: Options, files: Files) -> Found:
    """Turn a plain rollout into a compressed one; the caller owns the thread. The compressed one.

    Raises `RolloutUnusable` where it changed meanwhile, or where another file has the name; the plain one is then
    what it was.
    """
    if found.compressed:
        return found
    return settle(home, found, options=options, files=files) or _swap(home, found, options, files)


def decompress(home: Home, found: Found, *, options: Options, files: Files) -> Found:
    """Turn a compressed rollout into a plain one; the caller owns the thread. The plain one.

    Raises `RolloutUnusable` where the compressed data is damaged or cut; it is then what it was.
    """
    return _swap(home, found, options, files) if found.compressed else found


def settle(home: Home, found: Found, *, options: Options, files: Files) -> Found | None:
    """Finish what a crash left: half-written files, a compressed rollout beside a plain one. The caller owns the thread.

    Equal: the plain one goes, and the compressed one is answered. The compressed one is a beginning of the plain one
    (brought back, then appended to): the compressed one goes. Neither: `RolloutUnusable`. None where the plain one stays.
    """
    with _failing(found, "be settled"):
        return _settle(home, found, options, files)


def superfluous(home: Home, found: Found, *, options: Options, files: Files) -> str | None:
    """Which form of a rollout `settle` would remove, `plain` or `compressed`; None where there is one. Changes nothing.

    Raises `RolloutUnusable` where the two differ.
    """
    plain, stored = _forms(home, found)
    with _failing(found, "be looked at"):
        if files.kind(stored, op="compress.stat") is None or files.stat(plain, op="compress.stat") is None:
            return None
        with _opened(plain, options, files, compressed=False) as ours, _opened(stored, options, files) as other:
            size = _common(ours, other, options)
            is_beginning = other.broken is None and not other.read_at(size, 1)
            is_all = is_beginning and size == ours.stat.size
    if not is_beginning:
        raise _unusable(
            found.path,
            "there are a plain and a compressed file of it, and they differ",
            "Look at both; the plain one counts. Remove the other, or keep it elsewhere.",
        )
    return "plain" if is_all else "compressed"


def _settle(home: Home, found: Found, options: Options, files: Files) -> Found | None:
    plain, stored = _forms(home, found)
    for path in (plain, stored):
        files.remove(_beside(path), op="compress.leftover")
    goes = superfluous(home, found, options=options, files=files)
    if goes is None:
        return None
    files.remove(plain if goes == "plain" else stored, op="compress.settle")
    files.sync_folder(plain.rpartition("/")[0], op="compress.sync_folder")
    return locate(home, found.path, files) if goes == "plain" else None


def _forms(home: Home, found: Found) -> tuple[str, str]:
    return home.absolute(found.path), home.absolute(found.path, compressed=True)


def _swap(home: Home, found: Found, options: Options, files: Files) -> Found:
    """From one form to the other."""
    source_path = home.absolute(found.path, compressed=found.compressed)
    target_path = home.absolute(found.path, compressed=not found.compressed)
    folder, beside = target_path.rpartition("/")[0], _beside(target_path)
    with _failing(found, "be brought back" if found.compressed else "be compressed"):
        files.remove(beside, op="compress.leftover")
        fd = files.create(beside, op="compress.create")
        try:
            with _opened(source_path, options, files, compressed=found.compressed) as source:
                if source.stat != found.stat:
                    raise _changed(found)
                _convert(source, fd, found, options, files)
                _look_alike(source_path, fd, files)
                files.sync(fd, op="compress.sync")
                _verify(source, beside, found, options, files)
                _check_same(source_path, source.stat, found, files)
            _publish(fd, beside, target_path, files)
        finally:
            with contextlib.suppress(OSError):
                files.remove(beside, op="compress.leftover")
            files.close(fd, op="compress.close")
        files.sync_folder(folder, op="compress.sync_folder")
        _retire(source_path, target_path, source.stat, found, files)
        files.sync_folder(folder, op="compress.sync_folder")
        now = locate(home, found.path, files)
    if now is None:
        raise _changed(found)
    return now


def _beside(target_path: str) -> str:
    """The name of a file while it is written: no rollout to any reader. Only the thread's owner writes or removes it."""
    folder, _, name = target_path.rpartition("/")
    return f"{folder}/.{name}.swap"


def _convert(source: Source, fd: int, found: Found, options: Options, files: Files) -> None:
    if found.compressed:
        at = 0
        while data := source.read_at(at, options.block_bytes):
            _write(fd, data, files)
            at += len(data)
        return
    import zstandard  # noqa: PLC0415 - most homes have no compressed rollouts

    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    _write(fd, render_table([_write_frame(piece, compressor, fd, files) for piece in _pieces(source, options)]), files)


def _write_frame(piece: bytes, compressor: ZstdCompressor, fd: int, files: Files) -> Frame:
    data = compressor.compress(piece)
    _write(fd, data, files)
    return Frame(len(data), len(piece))


def _pieces(source: Source, options: Options) -> Iterator[bytes]:
    """The stream in pieces of `FRAME_BYTES` and what then lacks to a record's end; a record of many MiB is cut."""
    at = 0
    while piece := source.read_at(at, FRAME_BYTES):
        at += len(piece)
        if len(piece) == FRAME_BYTES and not piece.endswith(b"\n"):
            rest = _rest_of_line(source, at, FRAME_BYTES_MAX - FRAME_BYTES, options)
            piece += rest
            at += len(rest)
        yield piece


def _rest_of_line(source: Source, start: int, bytes_max: int, options: Options) -> bytes:
    rest = bytearray()
    while data := source.read_at(start + len(rest), min(options.block_bytes, bytes_max - len(rest))):
        end = data.find(b"\n") + 1
        rest += data[:end] if end else data
        if end:
            break
    return bytes(rest)


def _verify(source: Source, beside: str, found: Found, options: Options, files: Files) -> None:
    """Decode what was written, from its first byte to its last, as any reader would."""
    with _opened(beside, options, files, compressed=not found.compressed, framed=False) as written:
        same = _digest(source, options) == _digest(written, options)
        if not same or written.broken is not None:
            raise _unusable(
                found.path,
                "what was written does not read back as it should",
                "Check the disk and the memory of this machine; the rollout is what it was.",
            )
    _check_whole(source, found)


def _publish(fd: int, beside: str, target_path: str, files: Files) -> None:
    """Give the file its name; one that is there already is never replaced."""
    ours, named = files.fstat(fd, op="compress.stat"), files.stat(beside, op="compress.stat")
    if named is None or (ours.device, ours.inode) != (named.device, named.inode):
        raise FileNotFoundError(None, "somebody else removed the file that was being written", beside)
    files.link(beside, target_path, op="compress.link")


def _retire(source_path: str, target_path: str, stat: FileStat, found: Found, files: Files) -> None:
    """The old form goes, unless it was written to at the last moment: then the new one does. Never both."""
    if _is_same(source_path, stat, files):
        files.remove(source_path, op="compress.remove")
        return
    if files.stat(source_path, op="compress.stat") is not None:
        files.remove(target_path, op="compress.undo")
    raise _changed(found)


def _check_same(path: str, stat: FileStat, found: Found, files: Files) -> None:
    if not _is_same(path, stat, files):
        raise _changed(found)


def _changed(found: Found) -> RolloutUnusable:
    return _unusable(found.path, "it changed meanwhile", "Do it again when nobody writes to it.")


def _is_same(path: str, stat: FileStat, files: Files) -> bool:
    return files.stat(path, op="compress.stat") == stat


def _check_whole(source: Source, found: Found) -> None:
    if source.broken is not None:
        raise _unusable(found.path, source.broken, "Run `rolloutdb audit`; fork the thread to go on elsewhere.")


def _look_alike(source_path: str, fd: int, files: Files) -> None:
    with files.reading(source_path, op="compress.look") as source_fd:
        files.copy_looks(source_fd, fd, op="compress.look")


def _last_record_ms(home: Home, found: Found, options: Options, files: Files) -> int | None:
    """The time of the last record that has one."""
    with _opened(home.absolute(found.path), options, files, compressed=False) as source:
        for number, (_, line, _) in enumerate(lines_backwards(source, source.stat.size, options)):
            if number >= _LAST_LINES_MAX:
                return None
            with contextlib.suppress(Rejected):
                at_ms = time_ms(decode(line).timestamp)
                if at_ms is not None:
                    return at_ms
    return None


def _common(ours: Source, other: Source, options: Options) -> int:
    """How many bytes two streams begin alike, to within a block."""
    at = 0
    while (data := other.read_at(at, options.block_bytes)) and data == ours.read_at(at, len(data)):
        at += len(data)
    return at


def _digest(source: Source, options: Options) -> bytes:
    digest = xxh3_128()
    at = 0
    while data := source.read_at(at, options.block_bytes):
        digest.update(data)
        at += len(data)
    return digest.digest()


def _write(fd: int, data: bytes, files: Files) -> None:
    written = files.write(fd, data, op="compress.write")
    while written < len(data):
        written += files.write(fd, data[written:], op="compress.write")


@contextlib.contextmanager
def _opened(
    path: str, options: Options, files: Files, *, compressed: bool = True, framed: bool = True
) -> Iterator[Source]:
    """A physical file as its plain bytes; without `framed` the seek table is not used, as other readers do not."""
    if framed or not compressed:
        source = open_source(path, compressed=compressed, files=files, options=options)
    else:
        fd = files.open_read(path, op="rollout.open")
        source = CompressedSource(fd, files.fstat(fd, op="rollout.stat"), files, options)
    try:
        yield source
    finally:
        source.close()


@contextlib.contextmanager
def _maintenance(home: Home, options: Options, clock: Clock, files: Files) -> Iterator[None]:
    """Where the Codex CLI keeps house in this home, its lock against two who do."""
    folder = f"{home.path}/{_MAINTENANCE}"
    if files.kind(folder, op="compress.maintenance", follow=True) != "folder":
        yield
        return
    path = f"{folder}/{_MAINTENANCE_LOCK}"
    with locked(path, shared=False, options=options, clock=clock, files=files, op="compress.maintenance"):
        yield


@contextlib.contextmanager
def _failing(found: Found, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Mend what the system says, then do it again: nothing is lost."
        raise _unusable(found.path, f"it could not {what}: {error.strerror}", hint) from error


def _unusable(path: str, what: str, hint: str) -> RolloutUnusable:
    return RolloutUnusable(f"The rollout {path} is left as it is: {what}.", hint=hint, path=path)
