"""What changes threads: create, resume, fork, and what is decided about them.

Every path here that changes a rollout takes the thread's lock first; what is only decided about a thread goes to the
journal and needs no lock. A thread that was written by another program is resumed only when the caller says `adopt`.
What is in the journal or a rollout is done: rows that cannot follow at once never fail the call.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from engine.archives import Archives
from engine.borrowing import OneByOne
from engine.clock import timestamp_of
from engine.decisions import Decisions
from engine.errors import (
    AppendFailed,
    EngineClosed,
    EngineError,
    ForeignRollout,
    InvalidRequest,
    ReadOnlyHome,
    RolloutUnusable,
    ThreadArchived,
    TruthGone,
)
from engine.events.compose import Raw
from engine.events.goals import Inherit, decide
from engine.events.item import Item, item_of, line_of
from engine.events.payloads import SessionMeta
from engine.events.permissions import sandbox_of
from engine.events.policy import LEGACY, PAGINATED
from engine.projections import thread_facts
from engine.projections.facts import Facts
from engine.projections.forks import Boundary, boundary
from engine.projections.goals import get_goal
from engine.projections.thread_list import ThreadRow
from engine.stores.git import git_facts
from engine.stores.journal import Journal
from engine.stores.layout import Found, RolloutName, day_folder, is_archived, render_name
from engine.stores.lineage import are_foreign, first_meta
from engine.stores.lineage_lock import lineage_held
from engine.stores.recorder import Durability, Recorder, Start
from engine.stores.writer_lock import WriterLock, acquire
from engine.thread import Identity, Thread, WriterParts, changed_settings, check_durability, check_text

ORIGINATOR = "rolloutdb"
OWN_MARK = "rolloutdb"
"""The key of a session_meta by which the engine knows its own rollouts; readers of the format skip it."""

MEMORY_MODES = ("enabled", "disabled", "polluted")

_SETTINGS = {
    "approval_policy": "on-request",
    "sandbox_policy": {"type": "read-only"},
    "permission_profile": None,
    "reasoning_effort": None,
    "context_window": None,
}


class _New(NamedTuple):
    """A thread that is to be."""

    id: str
    created_ms: int
    path: str


class Writers:
    """The changing side of one home's threads."""

    def __init__(self, parts: WriterParts, journal: Journal, facts_: Facts, *, version: str) -> None:
        self._parts = parts
        self._history = parts.history
        self._decisions = Decisions(journal, facts_)
        self._archives = Archives(
            parts.home,
            facts_.database,
            parts.history,
            self._decisions,
            parts.flush,
            self._owned,
            options=parts.options,
            files=parts.files,
        )
        self._facts = facts_
        self._version = version
        self._mutex = threading.Lock()
        self._open: list[Thread] = []
        self._one_by_one = OneByOne()

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
        """A new thread. Its rollout appears with the first append; nothing is in the home before.

        `settings` are those of `Thread.settings`. Raises `InvalidRequest`, `ReadOnlyHome`.
        """
        self._check_writable()
        if history_mode not in (LEGACY, PAGINATED):
            raise InvalidRequest(f"There is no history mode {history_mode!r}.", hint=f"Use {PAGINATED} or {LEGACY}.")
        if memory_mode is not None:
            _check_memory_mode(memory_mode)
        texts = {"originator": originator, "thread_source": thread_source, "base_instructions": base_instructions}
        for name, value in texts.items():
            check_text(name, value)
        if not isinstance(source, str | Mapping):
            raise InvalidRequest(
                f"The source {source!r} is neither text nor an object.", hint='Give "cli", or another.'
            )
        base = {**_SETTINGS, "cwd": cwd, "model": model, "model_provider": model_provider}
        now = changed_settings(base, {"cwd": cwd, **(settings or {})})
        new = self._new()
        meta = self._meta(
            new,
            cwd=cwd,
            originator=originator,
            source=source,
            thread_source=thread_source,
            model_provider=model_provider,
            base_instructions={"text": base_instructions} if base_instructions else None,
            history_mode=history_mode,
            memory_mode=memory_mode,
        )
        item_of(meta)  # what cannot be written is refused now, not by the first append
        start = Start(lambda: item_of(_with_git(meta)), 0 if history_mode == PAGINATED else None)
        return self._opened(Identity(new.id, new.path, history_mode), now, durability, start)

    def resume(
        self,
        thread_id: str,
        *,
        adopt: bool = False,
        durability: Durability = "durable",
        settings: Mapping[str, Any] | None = None,
    ) -> Thread:
        """A thread that is there, open for appending.

        Raises `InvalidRequest`, `ThreadNotFound`, `ThreadArchived`, `ThreadBusy`, `ForeignRollout` (without `adopt`),
        `TruthGone`, `RolloutUnusable`, `ReadOnlyHome`.
        """
        self._check_writable()
        check_durability(durability)
        thread_id = self._history.row(thread_id).id
        with self._one_by_one.holding(thread_id):
            return self._resumed(thread_id, adopt=adopt, durability=durability, settings=settings or {})

    @contextlib.contextmanager
    def borrowed(self, thread_id: str, *, adopt: bool = False) -> Iterator[Thread]:
        """A thread to append to for a moment: the one that is open here, else one that is opened and closed again.

        Raises as `resume` does.
        """
        self._check_writable()
        with self.alone(thread_id) as here:
            if here is not None:
                with here.kept_open() as is_open:
                    if is_open:
                        yield here
                        return
            found = self._resumed(self._history.row(thread_id).id, adopt=adopt, durability="durable", settings={})
            with found:
                yield found

    @contextlib.contextmanager
    def alone(self, thread_id: str) -> Iterator[Thread | None]:
        """Nobody else of this process opens or borrows the thread meanwhile; given is the one that is open here."""
        self._parts.alive.check()
        thread_id = thread_id.lower()
        with self._one_by_one.holding(thread_id):
            with self._mutex:
                here = next((each for each in self._open if each.id == thread_id), None)
            yield here

    def _resumed(self, thread_id: str, *, adopt: bool, durability: Durability, settings: Mapping[str, Any]) -> Thread:
        lock = self._lock(thread_id, "write", foreign=adopt)
        try:
            row, found = self._history.find(thread_id)
            is_own = self._check_appendable(row, found, adopt=adopt)
            found = self._settled(found)
            now = changed_settings(_settings_of(row), settings)
            if found.compressed:
                self._decompress(found)
            identity = Identity(row.id, found.path, row.history_mode)
            return self._opened(identity, now, durability, None, lock, may_be_open=is_own)
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

        A paginated thread is referred to, nothing is copied; a legacy one is copied up to the place. The goal as it is now
        is the new thread's as well. Needs no lock of the source, and syncs it first where it is open here, since the new
        thread lives on what is in it; an erasure waits until the fork is there, and the other way round. Raises
        `InvalidRequest` for a turn that is not there or still open, `ThreadNotFound`, `TruthGone`, `LineageBroken`,
        `RolloutUnreadable`, `AppendFailed` where the source cannot be synced, and `StoreBusy` where an erasure is at work
        for longer than `busy_wait_ms`.
        """
        self._check_writable()
        check_durability(durability)
        parts = self._parts
        with lineage_held(parts.home, "fork", shared=True, options=parts.options, clock=parts.clock, files=parts.files):
            return self._forked(thread_id, through_turn, before_turn, durability)

    def _forked(
        self, thread_id: str, through_turn: str | None, before_turn: str | None, durability: Durability
    ) -> Thread:
        row, found = self._history.find(thread_id)
        self._sync(row.id)
        where = boundary(
            self._parts.home,
            found,
            self._history.resolve,
            through_turn=through_turn,
            before_turn=before_turn,
            options=self._parts.options,
            files=self._parts.files,
        )
        new = self._new()
        meta = self._child_meta(new, row, where)
        identity = Identity(new.id, new.path, row.history_mode)
        goal = self._inherited_goal(row.id, new)
        if where.base is None:
            lock = self._lock(new.id, "fork")
            with _released_on_error(lock):
                self._write_copy(new, item_of(meta), where.copied)
                child = self._opened(identity, _settings_of(row), durability, None, lock, may_be_open=True)
        else:
            start = Start(lambda: item_of(meta), where.base.end_ordinal_exclusive)
            child = self._opened(identity, _settings_of(row), durability, start)
        try:
            if goal:
                child.append(goal)
            else:
                child.begin()
        except BaseException:
            child.close()
            raise
        return child

    def _sync(self, thread_id: str) -> None:
        with self._mutex:
            threads = [thread for thread in self._open if thread.id == thread_id]
        for thread in threads:
            with contextlib.suppress(EngineClosed):
                thread.sync()

    def _inherited_goal(self, parent_id: str, new: _New) -> list[Raw]:
        """What a fork's rollout says of the goal that it was given."""
        if not self._parts.options.goals:
            return []
        with self._facts.database.read() as transaction:
            goal = get_goal(transaction, parent_id)
        return [] if goal is None else decide(new.id, None, Inherit(goal=goal), new.created_ms).records

    def rename(self, thread_id: str, name: str | None) -> None:
        """Give a thread a name, or take it away. Raises `InvalidRequest`, `ThreadNotFound`."""
        check_text("name", name)
        row = self._history.row(thread_id)
        self._decisions.record(thread_facts.NAMED, row.id, name=(name or "").strip() or None)

    def set_memory_mode(self, thread_id: str, memory_mode: str) -> None:
        """Say whether memories may be made of a thread: `enabled`, `disabled` or `polluted`."""
        _check_memory_mode(memory_mode)
        row = self._history.row(thread_id)
        self._decisions.record(thread_facts.MEMORY_MODE_SET, row.id, memory_mode=memory_mode)

    def dismiss(self, thread_id: str) -> None:
        """Stop showing a thread whose rollout is gone. It is shown again when the rollout comes back."""
        row = self._history.row(thread_id)
        with contextlib.suppress(TruthGone):
            self._history.find(row.id)
            raise InvalidRequest(f"The rollout of {row.id} is there.", hint="Archive or erase it instead.")
        self._decisions.record(thread_facts.DISMISSED, row.id)

    def archive(self, thread_id: str) -> None:
        """Move a thread's rollouts into the archive. Raises `ThreadBusy`; archived already is no error."""
        self._check_writable()
        self._archives.move(thread_id, archived=True)

    def unarchive(self, thread_id: str) -> None:
        """Bring a thread's rollouts back. Raises `ThreadBusy`; not archived is no error."""
        self._check_writable()
        self._archives.move(thread_id, archived=False)

    def finish_archives(self) -> None:
        """Finish the moves that a crash left half done."""
        if self._parts.home.state is None:
            return
        with contextlib.suppress(EngineError):
            self._facts.catch_up()
        self._archives.finish()

    def close(self) -> None:
        """Close all threads that are open for appending; every one, whatever fails. Raises the first failure."""
        with self._mutex:
            threads, self._open = self._open, []
        with contextlib.ExitStack() as stack:
            for thread in threads:
                stack.callback(thread.close)

    # --- a thread opens ------------------------------------------------------------------------------------------

    def _opened(
        self,
        identity: Identity,
        settings: Mapping[str, Any],
        durability: Durability,
        start: Start | None,
        lock: WriterLock | None = None,
        *,
        may_be_open: bool = False,
    ) -> Thread:
        check_durability(durability)
        lock = lock or self._lock(identity.id, "write")
        with _released_on_error(lock):
            recorder = self._recorder(identity.path, durability, start)
        thread = Thread(
            identity, recorder, lock, settings, durability, self._parts, self._forget, may_be_open=may_be_open
        )
        try:
            with self._mutex:
                self._parts.alive.check()  # `close` takes what is in the list once: nobody would close this one
                self._open.append(thread)
        except EngineError:
            thread.close()
            raise
        return thread

    def _recorder(self, path: str, durability: Durability, start: Start | None) -> Recorder:
        parts = self._parts
        try:
            return Recorder(
                parts.home.absolute(path),
                start=start,
                owned=True,
                durability=durability,
                quarantine=f"{parts.home.state}/quarantine",
                counters=parts.counters,
                options=parts.options,
                clock=parts.clock,
                files=parts.files,
            )
        except OSError as error:
            raise RolloutUnusable(
                f"The rollout {path} cannot be opened: {error.strerror}.",
                hint="Check the file and who may write it.",
                path=path,
            ) from error

    def _forget(self, thread: Thread) -> None:
        with self._mutex:
            if thread in self._open:
                self._open.remove(thread)

    # --- a thread begins -----------------------------------------------------------------------------------------

    def _new(self) -> _New:
        clock = self._parts.clock
        thread_id, created_ms = clock.new_id(), clock.wall_ms()
        named_at = clock.local_time(created_ms)
        name = render_name(RolloutName(named_at, thread_id, None, compressed=False))
        return _New(thread_id, created_ms, f"{day_folder(named_at)}/{name}")

    def _meta(self, new: _New, **fields: Any) -> dict[str, Any]:
        """The first item of a rollout; a field that is None is left out where readers do not want to see it."""
        payload = {
            "session_id": new.id,
            "id": new.id,
            "timestamp": timestamp_of(new.created_ms),
            "cli_version": f"{ORIGINATOR}-{self._version}",
            **fields,
            OWN_MARK: {"version": self._version},
        }
        kept = {key: value for key, value in payload.items() if value is not None or key in _NULLABLE}
        return {"type": "session_meta", "payload": kept}

    def _child_meta(self, new: _New, row: ThreadRow, where: Boundary) -> dict[str, Any]:
        base = where.base
        meta = self._meta(
            new,
            forked_from_id=row.id,
            forked_from_ordinal_exclusive=None if base is None else base.end_ordinal_exclusive,
            cwd=row.cwd or "/",
            originator=ORIGINATOR,
            source=_source(row.source),
            thread_source=row.thread_source,
            model_provider=row.model_provider,
            base_instructions=None,
            history_mode=row.history_mode,
            history_base=None if base is None else msgspec.to_builtins(base),
        )
        return _with_git(meta)

    def _write_copy(self, new: _New, meta: Item, items: Iterator[Item]) -> None:
        """A rollout of these items, which appears whole or not at all."""
        files, path = self._parts.files, self._parts.home.absolute(new.path)
        folder, _, name = path.rpartition("/")
        beside = f"{folder}/.{name}.tmp"
        try:
            files.ensure_folder(folder, op="fork.folder")
            fd = files.create(beside, op="fork.create")
            try:
                self._write_items(fd, itertools.chain([meta], items))
                files.sync(fd, op="fork.sync")
                files.link(beside, path, op="fork.link")
            finally:
                files.close(fd, op="fork.close")
                files.remove(beside, op="fork.remove")
            for above in (folder, *(folder.rsplit("/", depth)[0] for depth in (1, 2, 3, 4))):
                files.sync_folder(above, op="fork.sync")
        except OSError as error:
            raise AppendFailed(
                f"The fork {new.path} could not be written: {error.strerror}.",
                hint="Make room or mend the disk, then fork again.",
                path=new.path,
            ) from error
        self._parts.flush.note(new.path, {"session_meta"})

    def _write_items(self, fd: int, items: Iterator[Item]) -> None:
        files, timestamp = self._parts.files, self._parts.clock.timestamp()
        bytes_max = self._parts.options.line_bytes_max
        for item in items:
            line = line_of(item, timestamp=timestamp, ordinal=None, key=None, line_bytes_max=bytes_max)
            while line:
                line = line[files.write(fd, line, op="fork.write") :]

    # --- may it be written? --------------------------------------------------------------------------------------

    def _check_appendable(self, row: ThreadRow, found: Found, *, adopt: bool) -> bool:
        """Whether the rollout is one of the engine's own."""
        if is_archived(found.path):
            raise ThreadArchived(
                f"The thread {row.id} is archived.",
                hint=f"Run `rolloutdb threads unarchive {row.id}`.",
                path=found.path,
            )
        meta = self._first_meta(found)
        is_own = bool(bytes(meta.rolloutdb))
        if not adopt and not is_own:
            raise ForeignRollout(
                f"The thread {row.id} was written by {meta.originator or 'another program'}.",
                hint="Resume it with adopt=True, when that program does not use it.",
                path=found.path,
            )
        return is_own

    def _first_meta(self, found: Found) -> SessionMeta:
        try:
            meta = first_meta(self._parts.home, found, options=self._parts.options, files=self._parts.files)
        except OSError as error:
            raise RolloutUnusable(
                f"The rollout {found.path} cannot be read: {error.strerror}.",
                hint="Check the file and who may read it.",
                path=found.path,
            ) from error
        if meta is None:
            raise RolloutUnusable(
                f"The rollout {found.path} does not begin with its session_meta.",
                hint="Run `rolloutdb audit`; fork the thread to go on elsewhere.",
                path=found.path,
            )
        return meta

    def _settled(self, found: Found) -> Found:
        """What a crash left of a compression is finished before anything is written."""
        from engine.stores.compression import settle  # noqa: PLC0415 - as below

        return settle(self._parts.home, found, options=self._parts.options, files=self._parts.files) or found

    def _decompress(self, found: Found) -> None:
        from engine.stores.compression import decompress  # noqa: PLC0415 - few threads need it

        decompress(self._parts.home, found, files=self._parts.files, options=self._parts.options)

    def _lock(self, thread_id: str, purpose: str, *, foreign: bool = False) -> WriterLock:
        parts = self._parts
        return acquire(
            parts.home,
            thread_id,
            purpose,
            foreign=foreign,
            options=parts.options,
            clock=parts.clock,
            files=parts.files,
        )

    @contextlib.contextmanager
    def _owned(self, thread_id: str, purpose: str) -> Iterator[None]:
        parts = self._parts
        rollouts = self._history.rollouts(thread_id)
        foreign = are_foreign(parts.home, rollouts, options=parts.options, files=parts.files)
        lock = self._lock(thread_id, purpose, foreign=foreign)
        try:
            yield
        finally:
            lock.release()

    def _check_writable(self) -> None:
        self._parts.alive.check()
        if self._parts.home.state is None or not self._parts.files.writable(self._parts.home.path, op="home.writable"):
            raise ReadOnlyHome(
                f"The home {self._parts.home.path} cannot be written.", hint="Make it writable, or work on a copy."
            )


_NULLABLE = ("model_provider", "base_instructions")
"""Fields of a session_meta that readers want to see, if as null."""


def _with_git(meta: dict[str, Any]) -> dict[str, Any]:
    """With where the working folder stands in its repository now."""
    where = git_facts(meta["payload"]["cwd"])
    if where is None:
        return meta
    git = {key: value for key, value in where._asdict().items() if value is not None}
    return {**meta, "payload": {**meta["payload"], "git": git}}


def _check_memory_mode(memory_mode: str) -> None:
    if memory_mode not in MEMORY_MODES:
        raise InvalidRequest(f"There is no memory mode {memory_mode!r}.", hint=f"Use one of {', '.join(MEMORY_MODES)}.")


@contextlib.contextmanager
def _released_on_error(lock: WriterLock) -> Iterator[None]:
    try:
        yield
    except BaseException:
        lock.release()
        raise


def _source(text: str) -> Any:
    """A value that is stored as a word, or as JSON."""
    return msgspec.json.decode(text) if text.startswith("{") else text


def _settings_of(row: ThreadRow) -> dict[str, Any]:
    """What a thread's next turn runs under, as its rollout tells."""
    cwd = row.cwd or "/"
    policy = _source(row.sandbox_policy)
    policy = {"type": policy} if isinstance(policy, str) else policy
    sandbox = sandbox_of(policy, cwd)
    return {
        **_SETTINGS,
        "cwd": cwd,
        "model": row.model,
        "model_provider": row.model_provider,
        "reasoning_effort": row.reasoning_effort,
        "approval_policy": _source(row.approval_mode),
        "sandbox_policy": sandbox,
        "permission_profile": policy if sandbox != policy else None,
    }
