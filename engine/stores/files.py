"""The one seam between the engine and the operating system's files.

Every call that opens, reads, lists, writes, renames or locks a file goes through a `Files`, and each call carries an op
name (`"rollout.read"`, `"layout.scan"`), so that a test can record, delay or fail any of them, and an error can say
what was being done. Nothing here interprets a byte.

Reading never follows a symbolic link in the last component (O_NOFOLLOW): a link inside a home is not a way out of it.
Files are made 0600 and folders 0700, since they hold conversations.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat as stat_module
from collections.abc import Iterator
from typing import IO, NamedTuple

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_SQLITE_INTEGER = (1 << 63) - 1
"""Some file systems number devices and inodes with all 64 bits, which a signed column cannot hold."""
_sync_data = getattr(os, "fdatasync", os.fsync)
_READ = os.O_RDONLY | os.O_CLOEXEC | _NOFOLLOW


class FileStat(NamedTuple):
    """What identifies a file's content without reading it. Sizes in bytes, times in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Entry(NamedTuple):
    """One name in a folder. `stat` is None for anything but a regular file; `kind` is file, folder, link or other."""

    name: str
    kind: str
    stat: FileStat | None


class Files:
    """The real file system."""

    def open_read(self, path: str, *, op: str) -> int:
        """A descriptor for reading; raises OSError (ELOOP where the path is a symbolic link)."""
        return os.open(path, _READ)

    def read(self, fd: int, size: int, *, op: str) -> bytes:
        """Up to `size` bytes from the descriptor's position; b"" at the end."""
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int, *, op: str) -> bytes:
        """Up to `size` bytes from `offset`."""
        return os.pread(fd, size, offset)

    def seek(self, fd: int, offset: int, *, op: str) -> None:
        """Move the descriptor's position."""
        os.lseek(fd, offset, os.SEEK_SET)

    def fstat(self, fd: int, *, op: str) -> FileStat:
        """What the open file is."""
        return _stat(os.fstat(fd))

    def mode(self, fd: int, *, op: str) -> int:
        """Who may do what with the open file: its permission bits."""
        return stat_module.S_IMODE(os.fstat(fd).st_mode)

    def stat(self, path: str, *, op: str) -> FileStat | None:
        """What the file at `path` is, or None where there is none. Follows no link."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat_module.S_ISREG(found.st_mode):
            return None
        return tuple.__new__(  # `_stat` without its calls; before every append its file is looked at
            FileStat,
            (
                found.st_dev & _SQLITE_INTEGER,
                found.st_ino & _SQLITE_INTEGER,
                found.st_size,
                found.st_mtime_ns,
                found.st_ctime_ns,
            ),
        )

    def folder(self, path: str, *, op: str) -> FileStat | None:
        """What the folder at `path` is, links followed, or None where there is none; its times move with its names."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return _stat(found) if stat_module.S_ISDIR(found.st_mode) else None

    def kind(self, path: str, *, op: str, follow: bool = False) -> str | None:
        """`file`, `folder`, `link`, `other`, or None where there is nothing."""
        try:
            mode = (os.stat if follow else os.lstat)(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _kind(mode)

    def identity(self, path: str, *, op: str) -> tuple[int, int] | None:
        """Device and inode of what a path leads to, links followed, or None where there is nothing."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def is_executable(self, fd: int, *, op: str) -> bool:
        """Whether somebody may execute the open file."""
        return bool(os.fstat(fd).st_mode & 0o111)

    def make_executable(self, fd: int, *, op: str) -> None:
        """Let the owner of the open file execute it."""
        os.fchmod(fd, 0o700)

    def scan(self, path: str, *, op: str) -> list[Entry]:
        """All names in a folder, unsorted, each regular file with its stat. Names that vanish meanwhile are left out."""
        entries: list[Entry] = []
        with os.scandir(path) as found:
            for item in found:
                with contextlib.suppress(FileNotFoundError):
                    if item.is_file(follow_symlinks=False):
                        entries.append(Entry(item.name, "file", _stat(item.stat(follow_symlinks=False))))
                    else:
                        entries.append(Entry(item.name, _kind(item.stat(follow_symlinks=False).st_mode), None))
        return entries

    def names(self, path: str, *, op: str) -> list[tuple[str, bool]]:
        """All names in a folder, unsorted, and whether each is a folder itself; asks for no stat of any."""
        with os.scandir(path) as found:
            return [(item.name, item.is_dir(follow_symlinks=False)) for item in found]

    def close(self, fd: int, *, op: str) -> None:
        """Give the descriptor back."""
        os.close(fd)

    def ensure_folder(self, path: str, *, op: str) -> None:
        """Make a folder (0700) and those above it, where they are missing."""
        missing: list[str] = []
        while path and not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for folder in reversed(missing):  # makedirs gives the mode to the last folder only
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, mode=0o700)

    def writable(self, path: str, *, op: str) -> bool:
        """Whether this process may create names in the folder."""
        return os.access(path, os.W_OK | os.X_OK)

    def rename(self, source: str, target: str, *, op: str) -> None:
        """Move a name within one file system, replacing the target."""
        os.rename(source, target)

    def remove(self, path: str, *, op: str) -> None:
        """Remove a name, where it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_folder(self, path: str, *, op: str) -> None:
        """Remove an empty folder, where it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)

    def open_lock(self, path: str, *, op: str) -> int:
        """A descriptor on a lock file (0600), made where it is missing, never truncated."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | _NOFOLLOW, 0o600)

    def try_flock(self, fd: int, *, shared: bool, op: str) -> bool:
        """Take an advisory lock without waiting; whether it was free."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int, *, op: str) -> None:
        """Give an advisory lock back now, also where a forked child still has a copy of the descriptor."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    def read_small(self, path: str, *, bytes_max: int, op: str) -> bytes | None:
        """The first `bytes_max` bytes of a small file (a lock's owner, /proc), or None where it cannot be read."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.read(fd, bytes_max)
        except OSError:
            return None
        finally:
            os.close(fd)

    def read_all(self, path: str, *, bytes_max: int, op: str) -> bytes | None:
        """A small file to its end, at most `bytes_max` bytes, or None where it cannot be read.

        /proc hands out a page at a time, so one read is not enough for a list such as /proc/locks.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        parts: list[bytes] = []
        left = bytes_max
        try:
            while left > 0 and (part := os.read(fd, left)):
                parts.append(part)
                left -= len(part)
        except OSError:
            return None
        finally:
            os.close(fd)
        return b"".join(parts)

    def read_link(self, path: str, *, op: str) -> str | None:
        """Where a symbolic link points, or None where there is none to read."""
        try:
            return os.readlink(path)
        except OSError:
            return None

    def try_make_folder(self, path: str, *, op: str) -> bool:
        """Make one new folder (0700); False where the name is taken."""
        try:
            os.mkdir(path, mode=0o700)
        except FileExistsError:
            return False
        return True

    def try_create(self, path: str, *, op: str) -> bool:
        """Make one new, empty file (0600); False where the name is taken."""
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _NOFOLLOW, 0o600))
        except FileExistsError:
            return False
        return True

    def open_append(self, path: str, *, op: str) -> int:
        """A descriptor that reads anywhere and writes at the end; raises OSError, ELOOP for a symbolic link."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | _NOFOLLOW)

    def open_update(self, path: str, *, op: str) -> int:
        """A descriptor that reads and writes anywhere."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | _NOFOLLOW)

    def create(self, path: str, *, op: str) -> int:
        """A new file (0600) open for appending; raises FileExistsError."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _NOFOLLOW, 0o600)

    def write(self, fd: int, data: bytes, *, op: str) -> int:
        """Write at the descriptor's end (or position); how many bytes were taken, which may be fewer."""
        return os.write(fd, data)

    def pwrite(self, fd: int, data: bytes, offset: int, *, op: str) -> int:
        """Write at an offset (never with a descriptor for appending, which ignores it)."""
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, size: int, *, op: str) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(fd, size)

    def copy_looks(self, source: int, target: int, *, op: str) -> None:
        """Give an open file the permissions and the modification time of another."""
        found = os.fstat(source)
        os.fchmod(target, stat_module.S_IMODE(found.st_mode))
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))

    def sync(self, fd: int, *, op: str) -> None:
        """Return when the file's bytes, and what is needed to find them, are on the medium."""
        _sync_data(fd)

    def sync_folder(self, path: str, *, op: str) -> None:
        """Return when the names in a folder are on the medium."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def link(self, source: str, target: str, *, op: str) -> None:
        """Give a file a second name; raises FileExistsError rather than replace."""
        os.link(source, target)

    def replace_small(self, path: str, data: bytes, *, op: str) -> None:
        """Put a small file in place whole: written beside it, then renamed over it."""
        beside = f"{path}.{os.getpid()}.tmp"
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | _NOFOLLOW, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(beside, path)

    def temporary(self, *, op: str) -> IO[bytes]:
        """A nameless file in the system's temporary folder, gone when it is closed."""
        import tempfile  # noqa: PLC0415 - few readers need it

        return tempfile.TemporaryFile()

    @contextlib.contextmanager
    def temporary_folder(self, *, op: str) -> Iterator[str]:
        """A folder (0700) in the system's temporary folder, gone with all that is in it at the end of the block."""
        import tempfile  # noqa: PLC0415 - few readers need it

        with tempfile.TemporaryDirectory(prefix="rolloutdb-") as folder:
            yield folder

    @contextlib.contextmanager
    def reading(self, path: str, *, op: str) -> Iterator[int]:
        """`open_read` and `close` around a block."""
        fd = self.open_read(path, op=op)
        try:
            yield fd
        finally:
            self.close(fd, op=op)


def _stat(found: os.stat_result) -> FileStat:
    return FileStat(
        found.st_dev & _SQLITE_INTEGER,
        found.st_ino & _SQLITE_INTEGER,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def _kind(mode: int) -> str:
    if stat_module.S_ISREG(mode):
        return "file"
    if stat_module.S_ISDIR(mode):
        return "folder"
    return "link" if stat_module.S_ISLNK(mode) else "other"
