"""What changes threads: create, resume, decide, fork, archive.

Every path here that changes a rollout takes the thread's lock first; what is only decided about a thread goes to the
journal and needs no lock. A thread that was written by another program is resumed only when the caller says `adopt`.
A move into the archive is announced in the journal, done, and noted as done; one that a crash left half done is finished
when the home is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from engine.clock import timestamp_of
from engine.errors import (
    EngineError,
    ForeignRollout,
    InvalidRequest,
    ReadOnlyHome,
    RolloutUnusable,
    ThreadArchived,
    ThreadNotFound,
    TruthGone,
)
from engine.events.item import Item, item_of
from engine.events.payloads import SessionMeta
from engine.events.policy import LEGACY, PAGINATED
from engine.projections import facts
from engine.projections.facts import Facts, unfinished_archives
from engine.projections.forks import Boundary, boundary
from engine.projections.fresh import Fresh
from engine.projections.thread_list import ThreadRow, get_thread
from engine.stores.git import git_facts
from engine.stores.journal import Journal
from engine.stores.layout import ARCHIVED_ROOT, Found, RolloutName, is_archived, is_id, locate, render_name
from engine.stores.lineage import first_meta
from engine.stores.recorder import Durability, Recorder, Start
from engine.stores.writer_lock import WriterLock, acquire
from engine.thread import Identity, Thread, WriterParts

ORIGINATOR = "rolloutdb"
OWN_MARK = "rolloutdb"
"""The key of a session_meta by which the engine knows its own rollouts; readers of the format skip it."""

_SETTINGS = {
    "approval_policy": "on-request",
    "sandbox_policy": {"type": "read-only"},
    "reasoning_effort": None,
    "context_window": None,
}


class Writers:
    """The changing side of one home's threads."""

    def __init__(
        self,
        parts: WriterParts,
        journal: Journal,
        known: Facts,
        fresh: Fresh,
        *,
        version: str,
    ) -> None:
        self._parts = parts
        self._journal = journal
        self._facts = known
        self._fresh = fresh
        self._version = version
        self._mutex = threading.Lock()
        self._open: list[Thread] = []

    def create(
        self,
        *,
        cwd: str,
        source: str | Mapping[str, Any] = "cli",
        model: str | None = None,
        model_provider: str | None = None,
        originator: str = ORIGINATOR,
        history_mode: str = PAGINATED,
        thread_source: str | None = "user",
        base_instructions: str | None = None,
        memory_mode: str | None = None,
        durability: Durability = "durable",
        settings: Mapping[str, Any] | None = None,
    ) -> Thread:
        """A new thread. Its rollout appears with the first append; nothing is on disk before."""
        self._check_writable()
        if not cwd.startswith("/"):
            raise InvalidRequest(f"The cwd {cwd!r} is not an absolute path.", hint="Give the folder's full path.")
        if history_mode not in (LEGACY, PAGINATED):
            raise InvalidRequest(f"There is no history mode {history_mode!r}.", hint=f"Use {PAGINATED} or {LEGACY}.")
        clock = self._parts.clock
        thread_id = clock.new_id()
        created_ms = clock.wall_ms()
        path = _path(clock.local_time(created_ms), thread_id, None)
        now = {**_SETTINGS, "cwd": cwd, "model": model, "model_provider": model_provider, **(settings or {})}

        def meta() -> Item:
            payload: dict[str, Any] = {
                "session_id": thread_id,
                "id": thread_id,
                "timestamp": timestamp_of(created_ms),
                "cwd": cwd,
                "originator": originator,
                "cli_version": f"{ORIGINATOR}-{self._version}",
                "source": source,
                "thread_source": thread_source,
                "model_provider": model_provider,
                "base_instructions": {"text": base_instructions} if base_instructions else None,
                "history_mode": history_mode,
                OWN_MARK: {"version": self._version},
            }
            if memory_mode is not None:
                payload["memory_mode"] = memory_mode
            if (where := git_facts(cwd)) is not None:
                payload["git"] = {key: value for key, value in where._asdict().items() if value is not None}
            return item_of({"type": "session_meta", "payload": payload})

        lock = self._lock(thread_id, "write")
        ordinal = 0 if history_mode == PAGINATED else None
        return self._opened(Identity(thread_id, path, history_mode), lock, now, durability, Start(meta, ordinal))

    def resume(
        self,
        thread_id: str,
        *,
        adopt: bool = False,
        durability: Durability = "durable",
        settings: Mapping[str, Any] | None = None,
    ) -> Thread:
        """A thread that is there, open for appending.

        Raises `ThreadNotFound`, `ThreadArchived`, `ThreadBusy`, `ForeignRollout` (without `adopt`), `RolloutUnusable`.
        """
        self._check_writable()
        self._row(thread_id)
        lock = self._lock(thread_id.lower(), "write")
        try:
            row = self._row(thread_id)
            found = self._present(row)
            if is_archived(found.path):
                raise ThreadArchived(
                    f"The thread {row.id} is archived.",
                    hint=f"Run `rolloutdb threads unarchive {row.id}`.",
                    path=found.path,
                )
            meta = self._meta(found)
            if not adopt and not self._is_own(found):
                raise ForeignRollout(
                    f"The thread {row.id} was written by {meta.originator or 'another program'}.",
                    hint="Resume it with adopt=True, when that program does not use it.",
                    path=found.path,
                )
            if found.compressed:
                from engine.stores.compression import decompress

                decompress(self._parts.home, found, files=self._parts.files, options=self._parts.options)
            now = {**_settings_of(row), **(settings or {})}
            identity = Identity(row.id, found.path, row.history_mode)
            return self._opened(identity, lock, now, durability, None)
        except BaseException:
            lock.release()
            raise

    def fork(
        self,
        thread_id: str,
        *,
        through_turn: str | None = None,
        before_turn: str | None = None,
        durability: Durability = "durable",
    ) -> Thread:
        """A new thread that goes on from this one: at its end, through a turn, or before one.

        A paginated thread is referred to, nothing is copied; a legacy one is copied up to the place. Needs no lock of the
        source. Raises `InvalidRequest` for a turn that is not there or still open.
        """
        self._check_writable()
        row = self._row(thread_id)
        found = self._present(row)
        where = boundary(
            self._parts.home,
            found,
            self._resolve,
            through_turn=through_turn,
            before_turn=before_turn,
            options=self._parts.options,
            files=self._parts.files,
        )
        child = self._child(row, where, durability)
        try:
            child.begin(where.copied)
        except BaseException:
            child.close()
            raise
        return child

    def rename(self, thread_id: str, name: str | None) -> None:
        """Give a thread a name, or take it away."""
        row = self._row(thread_id)
        self._decide(facts.NAMED, row.id, name=name.strip() if name else None)

    def set_memory_mode(self, thread_id: str, memory_mode: str) -> None:
        """Say whether memories may be made of a thread: `enabled`, `disabled` or `polluted`."""
        row = self._row(thread_id)
        self._decide(facts.MEMORY_MODE_SET, row.id, memory_mode=memory_mode)

    def dismiss(self, thread_id: str) -> None:
        """Stop showing a thread whose rollout is gone. It is shown again when the rollout comes back."""
        row = self._row(thread_id)
        if locate(self._parts.home, row.rollout_path, self._parts.files) is not None:
            raise InvalidRequest(f"The rollout of {row.id} is there.", hint="Archive or erase it instead.")
        self._decide(facts.DISMISSED, row.id)

    def archive(self, thread_id: str) -> None:
        """Move a thread's rollouts into the archive. Raises `ThreadBusy`; archived already is no error."""
        self._move(thread_id, archived=True)

    def unarchive(self, thread_id: str) -> None:
        """Bring a thread's rollouts back. Raises `ThreadBusy`; not archived is no error."""
        self._move(thread_id, archived=False)

    def finish_archives(self) -> None:
        """Finish the moves that a crash left half done; one whose thread is in use waits for the next time."""
        if self._parts.home.state is None:
            return
        self._facts.catch_up()
        with self._facts.database.read() as transaction:
            unfinished = unfinished_archives(transaction)
        for thread_id, archived in unfinished:
            try:
                self._move(thread_id, archived=archived)
            except EngineError:
                continue

    def close(self) -> None:
        """Close all threads that are open for appending."""
        with self._mutex:
            threads, self._open = self._open, []
        for thread in threads:
            thread.close()

    def _opened(
        self,
        identity: Identity,
        lock: WriterLock,
        settings: Mapping[str, Any],
        durability: Durability,
        start: Start | None,
    ) -> Thread:
        home = self._parts.home
        try:
            recorder = Recorder(
                home.absolute(identity.path),
                start=start,
                owned=True,
                durability=durability,
                quarantine=f"{home.state}/quarantine",
                counters=self._parts.counters,
                options=self._parts.options,
                clock=self._parts.clock,
                files=self._parts.files,
            )
        except OSError as error:
            lock.release()
            raise RolloutUnusable(
                f"The rollout {identity.path} cannot be opened: {error.strerror}.",
                hint="Check the file and who may write it.",
                path=identity.path,
            ) from error
        except BaseException:
            lock.release()
            raise
        thread = Thread(identity, recorder, lock, settings, durability, self._parts, self._forget)
        with self._mutex:
            self._open.append(thread)
        return thread

    def _forget(self, thread: Thread) -> None:
        with self._mutex:
            if thread in self._open:
                self._open.remove(thread)

    def _child(self, row: ThreadRow, where: Boundary, durability: Durability) -> Thread:
        clock = self._parts.clock
        thread_id, created_ms = clock.new_id(), clock.wall_ms()
        path = _path(clock.local_time(created_ms), thread_id, None)

        def meta() -> Item:
            payload: dict[str, Any] = {
                "session_id": thread_id,
                "id": thread_id,
                "forked_from_id": row.id,
                "timestamp": timestamp_of(created_ms),
                "cwd": row.cwd,
                "originator": ORIGINATOR,
                "cli_version": f"{ORIGINATOR}-{self._version}",
                "source": _source(row.source),
                "thread_source": row.thread_source,
                "model_provider": row.model_provider,
                "base_instructions": None,
                "history_mode": row.history_mode,
                OWN_MARK: {"version": self._version},
            }
            if where.base is not None:
                payload["forked_from_ordinal_exclusive"] = where.base.end_ordinal_exclusive
                payload["history_base"] = msgspec.to_builtins(where.base)
            return item_of({"type": "session_meta", "payload": payload})

        lock = self._lock(thread_id, "write")
        ordinal = where.base.end_ordinal_exclusive if where.base is not None else None
        identity = Identity(thread_id, path, row.history_mode)
        return self._opened(identity, lock, _settings_of(row), durability, Start(meta, ordinal))

    def _move(self, thread_id: str, *, archived: bool) -> None:
        """Announce, move every rollout of the thread that is not there yet, note that it is done."""
        self._check_writable()
        row = self._row(thread_id)
        with self._owned(row.id, "archive" if archived else "unarchive"):
            todo = [found for found in self._rollouts(row) if is_archived(found.path) != archived]
            if not todo and not self._is_pending(row.id):
                return
            self._decide(facts.ARCHIVE_BEGUN, row.id, archived=archived)
            moved = [(found.path, self._move_file(found, archived=archived)) for found in todo]
            self._decide(facts.ARCHIVE_DONE, row.id, archived=archived)
        self._parts.flush.follow(moved)

    def _move_file(self, found: Found, *, archived: bool) -> str:
        """The file moves whole; a name that is taken is never replaced."""
        home, files = self._parts.home, self._parts.files
        name = render_name(found.name._replace(compressed=False))
        target = f"{ARCHIVED_ROOT}/{name}" if archived else f"{_day(found.name.named_at)}/{name}"
        source_path = home.absolute(found.path, compressed=found.compressed)
        target_path = home.absolute(target, compressed=found.compressed)
        folder = target_path.rpartition("/")[0]
        try:
            files.ensure_folder(folder, op="archive.folder")
            files.link(source_path, target_path, op="archive.link")
            files.sync_folder(folder, op="archive.sync")
            files.remove(source_path, op="archive.remove")
            files.sync_folder(source_path.rpartition("/")[0], op="archive.sync")
        except FileNotFoundError as error:
            raise TruthGone(
                f"The rollout {found.path} went while it was moved.", hint="Run `rolloutdb audit`.", path=found.path
            ) from error
        except OSError as error:
            raise RolloutUnusable(
                f"The rollout {found.path} could not be moved to {target}: {error.strerror}.",
                hint="Mend what the system says, then do it again: nothing is lost.",
                path=found.path,
            ) from error
        return target

    def _rollouts(self, row: ThreadRow) -> list[Found]:
        """All rollouts of a thread that are there: a reverted one has several."""
        with self._facts.database.read() as transaction:
            paths = [path for (path,) in transaction.rows(_PATHS, {"thread_id": row.id})]
        found = [locate(self._parts.home, path, self._parts.files) for path in paths]
        return [each for each in found if each is not None]

    def _is_pending(self, thread_id: str) -> bool:
        with self._facts.database.read() as transaction:
            return any(each == thread_id for each, _ in unfinished_archives(transaction))

    def _decide(self, tag: str, thread_id: str, **fields: Any) -> None:
        """A record in the journal, then the facts that follow from it."""
        payload = {"type": tag, "thread_id": thread_id, **fields}
        self._journal.append([item_of({"type": "home_event", "payload": payload})])
        self._facts.catch_up()

    def _row(self, thread_id: str) -> ThreadRow:
        if not is_id(thread_id):
            raise InvalidRequest(f"{thread_id!r} is not a thread id.", hint="Thread ids are UUIDs.")
        self._fresh.look()
        with self._facts.database.read() as transaction:
            row = get_thread(transaction, thread_id)
        if row is None:
            raise ThreadNotFound(
                f"There is no thread {thread_id} in {self._parts.home.path}.",
                hint="Run `rolloutdb threads list --limit 0` to see all ids.",
            )
        return row

    def _present(self, row: ThreadRow) -> Found:
        found = locate(self._parts.home, row.rollout_path, self._parts.files)
        if found is None:
            raise TruthGone(
                f"The rollout of {row.id} is gone.", hint="Restore it, or dismiss the thread.", path=row.rollout_path
            )
        return found

    def _meta(self, found: Found) -> SessionMeta:
        meta = first_meta(self._parts.home, found, options=self._parts.options, files=self._parts.files)
        if meta is None:
            raise RolloutUnusable(
                f"The rollout {found.path} does not begin with its session_meta.",
                hint="Run `rolloutdb audit`; fork the thread to go on elsewhere.",
                path=found.path,
            )
        return meta

    def _is_own(self, found: Found) -> bool:
        meta = first_meta(self._parts.home, found, options=self._parts.options, files=self._parts.files)
        return meta is not None and bytes(meta.rolloutdb) != b""

    def _resolve(self, rollout_id: str) -> Found | None:
        """The rollout of this id: active before archived, where there are copies."""
        with self._facts.database.read() as transaction:
            paths = [path for (path,) in transaction.rows(_ROLLOUT, {"rollout_id": rollout_id})]
        found = [locate(self._parts.home, path, self._parts.files) for path in sorted(paths, key=is_archived)]
        return next((each for each in found if each is not None), None)

    def _lock(self, thread_id: str, purpose: str) -> WriterLock:
        parts = self._parts
        return acquire(parts.home, thread_id, purpose, options=parts.options, clock=parts.clock, files=parts.files)

    @contextmanager
    def _owned(self, thread_id: str, purpose: str) -> Iterator[None]:
        lock = self._lock(thread_id, purpose)
        try:
            yield
        finally:
            lock.release()

    def _check_writable(self) -> None:
        if self._parts.home.state is None or not self._parts.files.writable(self._parts.home.path, op="home.writable"):
            raise ReadOnlyHome(
                f"The home {self._parts.home.path} cannot be written.", hint="Make it writable, or work on a copy."
            )


def _path(named_at: str, thread_id: str, rollout_id: str | None) -> str:
    return f"{_day(named_at)}/{render_name(RolloutName(named_at, thread_id, rollout_id, compressed=False))}"


def _day(named_at: str) -> str:
    return f"sessions/{named_at[:4]}/{named_at[5:7]}/{named_at[8:10]}"


def _source(text: str) -> object:
    return msgspec.json.decode(text) if text.startswith("{") else text


def _settings_of(row: ThreadRow) -> dict[str, Any]:
    policy = row.sandbox_policy
    return {
        **_SETTINGS,
        "cwd": row.cwd or "/",
        "model": row.model,
        "model_provider": row.model_provider,
        "reasoning_effort": row.reasoning_effort,
        "approval_policy": _source(row.approval_mode),
        "sandbox_policy": msgspec.json.decode(policy) if policy.startswith("{") else {"type": policy},
    }


_ROLLOUT = """
    SELECT path FROM streams WHERE rollout_id = :rollout_id AND rollout_id <> thread_id
    UNION ALL SELECT path FROM streams WHERE thread_id = :rollout_id AND rollout_id = :rollout_id
"""
_PATHS = "SELECT path FROM streams WHERE thread_id = :thread_id"
