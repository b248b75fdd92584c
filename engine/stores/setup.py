"""How a database file comes to be, is set aside, and goes: the steps that change which file bears a name.

All of it runs under the exclusive flock `locks/<name>_<shape>.setup`, and every connection is made under the same lock,
shared: SQLite finds the -wal by name, and a connection made while the file is being replaced would pair the old file
with the new -wal. A start that is killed at any step is completed by the next one.

A file that is no database, or one whose header or schema is damaged, is moved to `quarantine/` with its -wal, never
unlinked, and made anew. A newer shape, another program's database and a folder in the file's place are refused, unchanged. The
engine never opens a database file itself: closing such a descriptor would drop every lock that SQLite holds on it in
this process; what a file is, SQLite itself is asked.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apsw

from engine.clock import Clock
from engine.errors import StoreCorrupt, StoreNewer, StoreUnavailable
from engine.options import Options
from engine.stores import migrate
from engine.stores.files import Files
from engine.stores.link import REBUILD, Link, Value, files_translated
from engine.stores.locks import give_back, locked, try_lock
from engine.stores.soundness import has_our_id, has_our_migrations, header_damage

APPLICATION_ID = 0x726C6462
"""'rldb' in ASCII, in bytes 68 to 71 of the file: by it `file` and we tell our databases from others."""

OLD_SHAPE_KEPT_MS = 7 * 24 * 3600 * 1000
"""How long the file of an older shape stays after it was last touched: a user may go back a release."""

_CONNECTION_PRAGMAS = (
    "PRAGMA page_size = 8192",  # bytes, of a new file: a thread's row and its fold state fill a quarter of it
    "PRAGMA synchronous = NORMAL",  # a power cut may cost the last commits, which are folded again; it corrupts nothing
    "PRAGMA wal_autocheckpoint = 10000",  # pages: the checkpoint is the tail of write latency, so it runs when idle
    "PRAGMA journal_size_limit = 16777216",  # bytes that an emptied -wal may keep
    "PRAGMA cache_size = -2048",  # KiB a connection; five connections of four databases stay below 50 MB
    "PRAGMA mmap_size = 0",  # a mapped file that is cut short ends the process with SIGBUS
    "PRAGMA temp_store = MEMORY",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)


def quarantine(
    folder: str,
    name: str,
    shape: int,
    *,
    options: Options,
    clock: Clock,
    files: Files,
    identity: tuple[int, int] | None = None,
) -> str | None:
    """Move a database, its -wal and its -shm into a new folder under `quarantine/`; that folder, or None.

    With an `identity` (device, inode) only that very file is moved. Nothing is unlinked; connections that others still
    have to it raise `StoreReplaced` at their next transaction.
    """
    place = Place(os.path.abspath(folder), name, shape)
    setup = Setup(shape, [], options, clock, files)
    with files_translated("quarantine", place.path):
        place.ensure_folders(files)
        with setup.lock(place, shared=False):
            if identity is not None and identity_of(place, files) != identity:
                return None
            return setup.move_away(place)


def remove_older_shapes(folder: str, name: str, shape: int, *, clock: Clock, files: Files) -> list[str]:
    """Remove the files of lower shapes that nobody has open and nobody touched for 7 days; the paths removed."""
    folder = os.path.abspath(folder)
    named = re.compile(re.escape(name) + r"_(?P<shape>[1-9][0-9]{0,8})\.sqlite(?:-wal|-shm|-journal)?")
    removed: list[str] = []
    with files_translated("remove", folder):
        found = [
            matched for entry in files.scan(folder, op="sqlite.shapes") if (matched := named.fullmatch(entry.name))
        ]
        for number in sorted({int(matched["shape"]) for matched in found}):
            if number < shape:
                removed += _remove_unused(Place(folder, name, number), clock, files)
    return removed


@dataclass(frozen=True, slots=True)
class Place:
    """Where one database is, and its locks."""

    folder: str
    name: str
    shape: int

    @property
    def path(self) -> str:
        return os.path.join(self.folder, f"{self.name}_{self.shape}.sqlite")

    @property
    def paths(self) -> tuple[str, ...]:
        """The database first: once it is gone from its name, all that have it open can see so."""
        return self.path, self.path + "-wal", self.path + "-shm", self.path + "-journal"

    @property
    def locks(self) -> str:
        return os.path.join(self.folder, "locks")

    @property
    def setup_lock(self) -> str:
        return os.path.join(self.locks, f"{self.name}_{self.shape}.setup")

    @property
    def use_lock(self) -> str:
        return os.path.join(self.locks, f"{self.name}_{self.shape}.use")

    def ensure_folders(self, files: Files) -> None:
        """One by one: a folder that is made on the way to another one would get the umask's mode, not 0700."""
        files.ensure_folder(self.folder, op="sqlite.folders")
        files.ensure_folder(self.locks, op="sqlite.folders")


@dataclass(frozen=True, slots=True)
class Setup:
    """The steps that bring a database up. All but `in_memory` want the setup lock to be held."""

    shape: int
    carried: Sequence[migrate.Migration]
    options: Options
    clock: Clock
    files: Files
    pragmas: Sequence[str] = ()
    """Of this database alone, run before a new file is written to."""

    def lock(self, place: Place, *, shared: bool) -> contextlib.AbstractContextManager[None]:
        return locked(
            place.setup_lock,
            shared=shared,
            options=self.options,
            clock=self.clock,
            files=self.files,
            op=f"set up {place.name}_{place.shape}",
        )

    def in_memory(self) -> Link:
        link = Link(":memory:", 0, self.options, self.clock, self.files)
        with link.closed_on_error(), link.translated("open"):
            self._migrate(link)
        return link

    def try_ready(self, place: Place) -> Link | None:
        """A connection where the database is complete already, else None. The lock may be shared."""
        if self.files.kind(place.path, op="sqlite.kind") != "file":
            return None
        try:
            link = self.attach(place)
            with link.closed_on_error(), link.translated("open"):
                ready = self._is_ready(link)
        except StoreCorrupt:
            return None
        if ready:
            return link
        link.close()
        return None

    def make_ready(self, place: Place) -> tuple[Link, str | None]:
        """A connection to the database, made where need be, and where a file was put that was no database."""
        try:
            return self._built(place), None
        except StoreCorrupt:
            aside = self.move_away(place)
            return self._built(place), aside

    def attach(self, place: Place) -> Link:
        """A connection that may write, and that has read the schema, hence opened the -wal."""
        link = Link(place.path, apsw.SQLITE_OPEN_READWRITE, self.options, self.clock, self.files)
        with link.closed_on_error(), link.translated("open"), _damage_told(link, certain=False):
            link.keep_wal(wanted=True)
            for pragma in (*_CONNECTION_PRAGMAS, *self.pragmas):
                link.connection.execute(pragma)
            link.connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            link.keep_wal(wanted=False)
        return link

    def move_away(self, place: Place) -> str | None:
        """Rename the file, its -wal and its -shm into a new folder under `quarantine/`."""
        present = [path for path in place.paths if self.files.kind(path, op="sqlite.kind") is not None]
        if not present:
            return None
        above = os.path.join(place.folder, "quarantine")
        self.files.ensure_folder(above, op="sqlite.quarantine")
        stamp, sequence = self.clock.wall_ms(), 0
        while not self.files.try_make_folder(aside := f"{above}/{stamp}-{sequence}", op="sqlite.quarantine"):
            sequence += 1
        for path in present:
            self.files.rename(path, os.path.join(aside, os.path.basename(path)), op="sqlite.quarantine")
        return aside

    def _built(self, place: Place) -> Link:
        self._make_file(place)
        link = self.attach(place)
        with link.closed_on_error(), link.translated("open"):
            if not self._is_ready(link):
                self._switch_to_wal(link)
                with _damage_told(link, certain=self._has_gap(link)):
                    self._migrate(link)
        return link

    def _has_gap(self, link: Link) -> bool:
        """Whether a migration is missing before one that was applied, or all are and the tables are there.

        It cannot be so but by damage; one that fails behind all that were applied is at fault itself.
        """
        noted = {number for number, _ in migrate.applied(link.connection)}
        lacking = [migration.number for migration in self.carried if migration.number not in noted]
        return bool(_tables(link)) and bool(lacking) and lacking[0] < max(noted, default=lacking[0] + 1)

    def _make_file(self, place: Place) -> None:
        kind = self.files.kind(place.path, op="sqlite.kind")
        if kind is None:
            # A -wal without its database belongs to a file that is gone; SQLite must not pair it with the new one.
            self.move_away(place)
            # Made here and not by SQLite, so that conversations are never readable by others, whatever the umask.
            self.files.try_create(place.path, op="sqlite.create")
        elif kind != "file":
            raise StoreUnavailable(
                f"there is a {kind} where the database {place.path} belongs",
                path=place.path,
                hint="move it away, or name another folder with --state-dir",
            )

    def _is_ready(self, link: Link) -> bool:
        """Whether the file is ours and complete; raises where it is damaged, or not for us to change."""
        application_id, version = link.pragma("application_id"), link.pragma("user_version")
        if found := header_damage(link.connection):
            raise damaged(link, "; ".join(found))
        ours = has_our_migrations(link.connection, self.carried)
        if application_id not in (0, APPLICATION_ID) or (application_id == 0 and _tables(link)):
            if ours or has_our_id(link.connection, APPLICATION_ID):
                raise damaged(link, "by its header it is another program's, by its content or its file it is ours")
            raise StoreUnavailable(
                f"{link.path} is a database of another program",
                path=link.path,
                hint="move it away, or name another folder with --state-dir",
            )
        if isinstance(version, int) and version > self.shape:
            if ours:
                raise damaged(link, f"the header says shape {version}, and its migrations are those of {self.shape}")
            raise StoreNewer(
                f"{link.path} has shape {version}, this engine knows {self.shape}",
                path=link.path,
                hint="pip install -U rolloutdb",
            )
        with _damage_told(link, certain=True):
            missing = migrate.pending(link.connection, self.carried, link.path)
        return application_id == APPLICATION_ID and not missing and link.pragma("journal_mode") == "wal"

    def _switch_to_wal(self, link: Link) -> None:
        """Done once in the life of a file. SQLite does not ask the busy handler here, so it is tried again by hand."""
        link.waits_from_now()
        while True:
            try:
                mode = link.pragma("journal_mode = WAL")
                break
            except apsw.BusyError:
                if not link.wait():
                    raise
        if mode != "wal":
            raise StoreUnavailable(
                f"the file system of {link.path} cannot hold a WAL database",
                path=link.path,
                hint="name a folder on a local disk with --state-dir",
            )

    def _migrate(self, link: Link) -> None:
        header = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {self.shape}")
        migrate.apply(link.connection, self.carried, link.path, self.clock, header=header)


def damaged(link: Link, what: str) -> StoreCorrupt:
    """The error for a file that SQLite reads and that cannot be as it was made; its -wal is left as it is."""
    link.keep_wal(wanted=True)
    return StoreCorrupt(f"open: {link.path}: {what}", path=link.path, hint=REBUILD)


_MADE_BEFORE = ("already exists", "duplicate column name")
"""What a migration is told that was applied: its note is in the same transaction, so only damage can have taken that."""


@contextlib.contextmanager
def _damage_told(link: Link, *, certain: bool) -> Iterator[None]:
    """A statement of ours that fails as if it were wrong tells of damage: for `certain`, or where the header shows it."""
    try:
        yield
    except apsw.ReadOnlyError as error:  # a pragma that writes, in a file whose format is damaged
        if found := header_damage(link.connection):
            raise damaged(link, "; ".join(found)) from error
        raise
    except apsw.SQLError as error:
        found = header_damage(link.connection)
        if found or certain or any(words in str(error) for words in _MADE_BEFORE):
            raise damaged(link, "; ".join(found) or str(error)) from error
        raise


def _tables(link: Link) -> Value:
    return link.one("SELECT count(*) FROM sqlite_schema")


def identity_of(place: Place, files: Files) -> tuple[int, int] | None:
    """Device and inode of the file that bears the name now, by stat; None where there is none."""
    found = files.stat(place.path, op="sqlite.identity")
    return None if found is None else (found.device, found.inode)


def _remove_unused(place: Place, clock: Clock, files: Files) -> list[str]:
    """Under both locks of that shape, taken without waiting: whoever holds one uses the file."""
    with contextlib.ExitStack() as held:
        place.ensure_folders(files)
        for lock in (place.setup_lock, place.use_lock):
            fd = try_lock(lock, shared=False, files=files, op="sqlite.remove")
            if fd is None:
                return []
            held.callback(give_back, fd, files=files, op="sqlite.remove")
        stats = {path: files.stat(path, op="sqlite.remove") for path in place.paths}
        present = {path: found for path, found in stats.items() if found is not None}
        touched_ms = max((found.mtime_ns // 1_000_000 for found in present.values()), default=0)
        if clock.wall_ms() - touched_ms < OLD_SHAPE_KEPT_MS:
            return []
        for path in present:
            files.remove(path, op="sqlite.remove")
        return list(present)
