"""What can go wrong, named for the state of the world.

Owns every exception that the engine raises on purpose. Each says what is, where (`path`, `offset`), and one thing to do
(`hint`); each carries the exit code the command line ends with. A divergence between rows and files is never an
exception: audit returns it as a finding.
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """The root of all errors raised here.

    `str(error)` is one sentence; `hint` is one thing to do; `path` and `offset` (bytes) say where, when that is known.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, hint: str = "", path: str | None = None, offset: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = path
        self.offset = offset


class HomeMissing(EngineError):
    """There is no folder at the home's path."""

    exit_code = 2


class HomeNotAFolder(EngineError):
    """The home's path names a file."""

    exit_code = 2


class StateOfAnotherHome(EngineError):
    """The state folder holds the rows of another home."""

    exit_code = 2


class HomeUnreadable(EngineError):
    """The home, or a folder that everything hangs on, cannot be read."""


class RolloutUnreadable(EngineError):
    """One rollout cannot be read; all others can."""


class SystemRefused(EngineError):
    """The operating system refused a call on a file; `path` is which, where the system says so."""


class ReadOnlyHome(EngineError):
    """Something was to be written, and the home is read-only and no state_dir was given."""


class InvalidRequest(EngineError):
    """A value given by the caller cannot be used (an unknown sort key, a malformed id)."""

    exit_code = 2


class InvalidCursor(InvalidRequest):
    """A page cursor is not one of ours, or belongs to another list."""


class ProjectionUnusable(InvalidRequest):
    """A projection of the caller's own is declared in a way that cannot be used; nothing was opened or made for it."""


class ProjectionFailed(EngineError):
    """The code of a projection of the caller's own raised something; its rows are as they were before.

    `projection` is its name, `path` the rollout that was being folded, `offset` where the record begins, where that is known.
    """

    def __init__(
        self, message: str, *, projection: str, hint: str = "", path: str | None = None, offset: int | None = None
    ) -> None:
        super().__init__(message, hint=hint, path=path, offset=offset)
        self.projection = projection


class InvalidToken(InvalidRequest):
    """A follower's token is not one of ours, or was altered, or is of a follower of other threads."""


class ThreadNotFound(EngineError):
    """No thread has this id."""

    exit_code = 2


class ThreadBusy(EngineError):
    """Another process (or this one) owns the thread; reading, following and forking need no ownership.

    `owner` names who, `state` says whether it runs, is stopped, or cannot be told.
    """

    def __init__(self, message: str, *, owner: str | None, state: str, hint: str = "", path: str | None = None) -> None:
        super().__init__(message, hint=hint, path=path)
        self.owner = owner
        self.state = state


class ForeignRollout(EngineError):
    """The rollout was written by another program; appending to it has to be asked for."""


class ForkedEngine(EngineError):
    """This process is a fork of the one that opened the engine; it has none of its locks."""


class EngineClosed(EngineError):
    """The engine, or the thread, was closed."""


class TruthGone(EngineError):
    """A rollout was removed, replaced or changed by somebody else while it was open for appending."""


class RolloutUnusable(EngineError):
    """A rollout is in no state to be appended to."""


class LineageBroken(EngineError):
    """A fork's or revert's base cannot be read."""


class ThreadHasReaders(EngineError):
    """Other threads go on from this one and would lose their history with it; `readers` are their ids."""

    def __init__(self, message: str, *, readers: list[str], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.readers = readers


class NotRedactable(EngineError):
    """The record cannot be redacted: it is the thread's identity, or no record."""

    exit_code = 2


class BundleUnusable(EngineError):
    """The bundle is cut, altered or no bundle; nothing was written."""


class ImportCutShort(EngineError):
    """An import failed on the way; `imported` are the threads that were in by then, and the cause says why."""

    def __init__(self, message: str, *, imported: list[str], hint: str = "", path: str | None = None) -> None:
        super().__init__(message, hint=hint, path=path)
        self.imported = imported


class AgentPathAmbiguous(InvalidRequest):
    """Several agents have this path; `agents` are their ids."""

    def __init__(self, message: str, *, agents: list[str], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.agents = agents


class AgentCycle(InvalidRequest):
    """An agent would be above itself; nothing was written."""


class DeviceKeyInvalid(InvalidRequest):
    """What was given is no id of a device key; neither provider nor store was asked."""


class DevicePayloadInvalid(InvalidRequest):
    """What is to be signed is not what a device key signs; neither provider nor store was asked."""


class DeviceKeyNotFound(EngineError):
    """No account and client are bound to the device key, or its provider does not have it."""

    exit_code = 2


class DeviceKeyForeign(EngineError):
    """What is to be signed is of another account or client than the key is bound to; nothing was signed."""


class DeviceKeyRefused(EngineError):
    """The policy does not allow a key of such protection; none was kept."""


class DeviceKeyUnsupported(EngineError):
    """There is no provider of device keys here."""


class DeviceKeyUnusable(EngineError):
    """The provider's key, or the file that holds it, is in no state to be used."""


class BindingNotStored(EngineError):
    """A device key was made and could not be bound; `errors` are what failed, the removal of the key among them if it did."""

    def __init__(self, message: str, *, errors: list[Exception], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errors = errors


class ThreadArchived(EngineError):
    """The thread is archived; it has to be brought back before it can be appended to."""


class StalePosition(EngineError):
    """The stream is not at the position that the caller expected; nothing was written."""


class KeyConflict(EngineError):
    """The idempotency key was used for other content; nothing was written."""


class AppendFailed(EngineError):
    """The file could not be written or synced; what was acknowledged before is safe, this was not acknowledged."""


class LineTooLong(EngineError):
    """A line exceeds `line_bytes_max`; no reader decodes it."""


class StoreError(EngineError):
    """A database could not do what was asked."""


class StoreBusy(StoreError):
    """Another process kept the database for longer than the bound.

    `waited_ms` is how long was waited; `holder` names who has it, when that can be told.
    """

    def __init__(
        self, message: str, *, waited_ms: int, holder: str | None = None, hint: str = "", path: str | None = None
    ) -> None:
        super().__init__(message, hint=hint, path=path)
        self.waited_ms = waited_ms
        self.holder = holder


class StoreCorrupt(StoreError):
    """The database file is damaged; everything in it can be built again from the rollouts."""


class StoreFull(StoreError):
    """The disk (or the quota) has no room for the database."""


class StoreReadOnly(StoreError):
    """The database cannot be written."""


class StoreUnavailable(StoreError):
    """The database file could not be opened or read."""


class StoreReplaced(StoreError):
    """The database file was removed or replaced while it was open."""


class StoreNewer(StoreError):
    """The database was made by a newer engine and has a shape that this one does not know."""


class MigrationChanged(StoreError):
    """A migration that was applied differs from the one that this engine carries."""


class LibraryTooOld(EngineError):
    """The SQLite library lacks the WAL-reset fix (3.51.3)."""


class LeaseLost(EngineError):
    """Somebody else owns the lease now; what was under way is left to them."""


class WorkerDied(EngineError):
    """A worker process ended before it answered."""


class ContextOverflow(EngineError):
    """To be raised by an extractor whose model refuses the request for its length: it is asked again with less."""


class AnswerUnusable(EngineError):
    """What an extractor or a consolidator answered does not keep the contract."""


class WorkspaceForeign(EngineError):
    """The folder of memories holds a git repository, or is a link, that this engine did not make; nothing was touched."""


class WorkspaceUnusable(EngineError):
    """The folder of memories cannot be worked with: it is no folder, or holds more than memories."""
