"""One zip file of named members, written whole or not at all, and read without trust.

A bundle is a plain zip, so that any tool can open it. The same members give the same bytes: no times, no modes, no order but
that in which they come. What is read is bounded by what the caller says it may be, never by what the file claims. The
`zipfile` module does the format; each byte goes through `Files`.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator

from engine.errors import BundleUnusable
from engine.stores.files import Files

_TIME = (1980, 1, 1, 0, 0, 0)
_LEVEL = 6
_PIECE_BYTES = 256 * 1024
_MEMBERS_MAX = 1_000_000


class ZipWriter:
    """A zip file that is being written beside its name; it gets its name when it is whole."""

    def __init__(self, zip_file: zipfile.ZipFile) -> None:
        self._zip = zip_file

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """One member."""
        info = zipfile.ZipInfo(name, _TIME)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o600 << 16
        with self._zip.open(info, "w", force_zip64=True) as member:
            for piece in pieces:
                member.write(piece)


@contextlib.contextmanager
def writing(path: str, *, files: Files) -> Iterator[ZipWriter]:
    """Write a new zip at an absolute path; a name that is taken is never replaced.

    Raises FileExistsError, OSError; leaves nothing then.
    """
    if files.kind(path, op="bundle.kind") is not None:
        raise FileExistsError(17, "there is something of that name already", path)
    folder, _, name = path.rpartition("/")
    beside = f"{folder}/.{name}.rolloutdb"
    files.remove(beside, op="bundle.leftover")
    fd = files.create(beside, op="bundle.create")
    try:
        try:
            with zipfile.ZipFile(_Out(fd, files), "w", compresslevel=_LEVEL) as zip_file:
                yield ZipWriter(zip_file)
            files.sync(fd, op="bundle.sync")
        finally:
            files.close(fd, op="bundle.close")
        _publish(beside, path, files)
    finally:
        files.remove(beside, op="bundle.remove")
    files.sync_folder(folder or "/", op="bundle.sync_folder")


def _publish(beside: str, path: str, files: Files) -> None:
    """Give the file its name. A medium without links (a stick to carry it on) renames, when nobody took the name meanwhile."""
    try:
        files.link(beside, path, op="bundle.link")
    except FileExistsError:
        raise
    except OSError:
        if files.kind(path, op="bundle.kind") is not None:
            raise
        files.rename(beside, path, op="bundle.rename")


class ZipReader:
    """An open zip. All that is wrong with it is `BundleUnusable`."""

    def __init__(self, zip_file: zipfile.ZipFile, path: str) -> None:
        self._zip = zip_file
        self._path = path

    @property
    def names(self) -> list[str]:
        """The members, in their order. Raises `BundleUnusable` where there are too many, or two of one name."""
        names = [info.filename for info in self._zip.infolist()]
        if len(names) > _MEMBERS_MAX or len(set(names)) < len(names):
            raise unusable(self._path, "it has two members of one name, or too many")
        return names

    def pieces(self, name: str, bytes_max: int) -> Iterator[bytes]:
        """A member's bytes; `BundleUnusable` where it is missing, damaged, or longer than `bytes_max`."""
        size = 0
        with _translated(self._path), self._zip.open(name) as member:
            while data := member.read(_PIECE_BYTES):
                size += len(data)
                if size > bytes_max:
                    raise unusable(self._path, f"{name} is longer than it is said to be")
                yield data


@contextlib.contextmanager
def reading(path: str, *, files: Files) -> Iterator[ZipReader]:
    """Open a zip for reading. All that is wrong with it is `BundleUnusable`."""
    with contextlib.ExitStack() as held:
        with _translated(path):
            fd = held.enter_context(files.reading(path, op="bundle.open"))
            zip_file = zipfile.ZipFile(io.BufferedReader(_In(fd, files.fstat(fd, op="bundle.stat").size, files)))
        with zip_file:
            yield ZipReader(zip_file, path)


def unusable(path: str, what: str) -> BundleUnusable:
    """The error for a file that is not what it should be."""
    return BundleUnusable(
        f"The bundle {path} cannot be used: {what}.",
        hint="Copy it again from where it was made, or export anew.",
        path=path,
    )


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        raise unusable(path, f"it is cut or altered ({error})") from error
    except OSError as error:
        raise BundleUnusable(
            f"The bundle {path} cannot be read: {error.strerror or error}.",
            hint="Check that it is there, who owns it and its mode.",
            path=path,
        ) from error


class _Out(io.RawIOBase):
    """A file that is written from its beginning to its end."""

    def __init__(self, fd: int, files: Files) -> None:
        super().__init__()
        self._fd = fd
        self._files = files

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        written = 0
        while written < len(view):
            written += self._files.write(self._fd, bytes(view[written:]), op="bundle.write")
        return written


class _In(io.RawIOBase):
    """A file that is read anywhere, as long as it was when it was opened."""

    def __init__(self, fd: int, size: int, files: Files) -> None:
        super().__init__()
        self._fd = fd
        self._size = size
        self._files = files
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if self._at < 0:
            self._at = 0
            raise ValueError("a place before the beginning")
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._files.pread(self._fd, min(len(view), max(self._size - self._at, 0)), self._at, op="bundle.read")
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
