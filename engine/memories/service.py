"""What an application asks of memories: run, status, get and put, usage, notes, reset.

Extractions and consolidations are records of the journal, so the rows of memories can be built again without asking a
model anything. The application brings an extractor and a consolidator; without them the rules of `offline` do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

from engine.errors import EngineError, InvalidRequest, ReadOnlyHome, StoreUnavailable, ThreadNotFound
from engine.memories import artifacts, folder, offline, outputs
from engine.memories.budget import Counter, cut_middle, estimate_tokens
from engine.memories.citations import Citation, parse_citations
from engine.memories.contract import ConsolidateRequest, ExtractRequest
from engine.memories.extensions import Resource, SyncedExtension, sync_extension
from engine.memories.parts import CONSOLIDATE, EXTRACT, MemoryParts, Show
from engine.memories.phase1 import Extracting, ExtractReport
from engine.memories.phase2 import ConsolidateReport, Consolidating
from engine.memories.place import drop_work, folder_lock, workspace_of
from engine.memories.tools import Reading, Tool, resolve
from engine.projections import memories, memory_facts, thread_facts
from engine.projections.catchup import Partial
from engine.projections.memories import Consolidated, Coverage, Limits, Memory
from engine.stores.alive import Alive
from engine.stores.boundary import guarded, public
from engine.stores.jobs import Running
from engine.stores.layout import is_id

_FAILED_MAX = 1_000
_SHOWN_BYTES_MAX = 4 * 1024 * 1024
SUMMARY_TOKENS = 2_500
"""How much of the summary a session is shown."""


class FailedThread(Struct, frozen=True):
    """A thread whose extraction failed, and why; `for_good` once no further try will be made until it changes."""

    thread_id: str
    reason: str | None
    attempts: int | None
    for_good: bool


class MemoryStatus(Struct, frozen=True, kw_only=True):
    """How the memories of a home stand. `to_forget` are threads that the next consolidation has to leave out.

    Without `has_jobs` the database of jobs cannot be opened: who is at work is not known, and nothing can be made.
    `storage_bytes` is what the files in `root` take, its baseline not counted; 0 where the folder is another program's.
    `partial` is None where the rows cover every file.
    """

    root: str
    coverage: Coverage
    failed: list[FailedThread]
    running: list[Running]
    consolidated: Consolidated
    consolidating: list[Running]
    to_forget: list[str]
    is_ready: bool
    has_jobs: bool
    storage_bytes: int
    partial: Partial | None


class RunReport(Struct, kw_only=True):
    """What a run did: how many memories were pruned, and each phase; None for one that was left out.

    `root` is the folder of memories. `held_back` tells that the guard said no.
    """

    root: str
    pruned: int
    extracted: ExtractReport | None
    consolidated: ConsolidateReport | None
    held_back: bool = False


@public
class Memories:
    """The memories of one home."""

    def __init__(self, parts: MemoryParts | None, why_not: EngineError | None = None) -> None:
        self._found = parts
        self._alive = Alive() if parts is None else parts.alive
        self._why_not = why_not

    @property
    def _parts(self) -> MemoryParts:
        if self._found is None:
            assert self._why_not is not None
            raise self._why_not
        return self._found

    def run(
        self,
        extract: Callable[[ExtractRequest], Any] | None = None,
        consolidate: Callable[[ConsolidateRequest], Any] | None = None,
        *,
        extracting: bool = True,
        consolidating: bool = True,
        limit: int | None = None,
        exclude: Sequence[str] = (),
        retry_failed: bool = False,
        now: bool = False,
        allow_mass_deletion: bool = False,
        counter: Counter = estimate_tokens,
        guard: Callable[[], Any] | None = None,
        progress: Show | None = None,
    ) -> RunReport:
        """Prune, extract what has been quiet for a while, consolidate if that changed something.

        Both functions may be coroutine functions; without one the rules of `engine.memories.offline` are used. `limit` is
        how many threads are extracted at most, `exclude` those that are not (the one that goes on now). `now` does not wait for
        the cooldown. `guard` is asked once whether there is room for calls now (`engine.memories.guard.has_room`): with a false
        answer neither is made. Any number of processes may run it at once. Raises `ReadOnlyHome`, `StoreError`.
        """
        parts = self._parts
        pruned = self.prune()
        if guard is not None and not guard():
            return RunReport(root=parts.root, pruned=pruned, extracted=None, consolidated=None, held_back=True)
        extracted = None
        if extracting:
            extracted = Extracting(
                parts,
                extract or offline.extract,
                counter=counter,
                limit=limit,
                exclude=exclude,
                retry_failed=retry_failed,
                show=progress,
            ).run()
        consolidated = None
        if consolidating:
            consolidated = Consolidating(
                parts,
                consolidate or offline.consolidate,
                now=now,
                allow_mass_deletion=allow_mass_deletion,
                show=progress,
            ).run()
        return RunReport(root=parts.root, pruned=pruned, extracted=extracted, consolidated=consolidated)

    def status(self) -> MemoryStatus:
        """How many threads have a memory, which failed and why, and how the last consolidation went."""
        parts = self._parts
        limits = Limits.at(parts.clock.wall_ms(), parts.limits)
        (coverage, gone_wrong, consolidated, to_forget), partial = parts.fresh.ask(
            lambda transaction: (
                memories.coverage(transaction, limits, parts.limits),
                memories.failed_outcomes(transaction, limit=_FAILED_MAX),
                memories.consolidated(transaction),
                memories.to_forget(transaction),
            )
        )
        failed = {each.thread_id: FailedThread(each.thread_id, each.reason, None, for_good=True) for each in gone_wrong}
        jobs = parts.found_jobs
        tried = [] if jobs is None else jobs[0].failed(EXTRACT)
        ended, _ = parts.fresh.ask(lambda transaction: memories.sources_of(transaction, [job.key for job in tried]))
        for job in tried:
            if ended.get(job.key, -1) >= job.watermark:
                continue  # it was given a memory since, or its process ended just behind the record
            failed.setdefault(job.key, FailedThread(job.key, job.last_error, job.attempts, for_good=False))
        workspace = workspace_of(parts)
        return MemoryStatus(
            root=parts.root,
            coverage=coverage,
            failed=list(failed.values()),
            running=[] if jobs is None else jobs[0].running(EXTRACT),
            consolidated=consolidated,
            consolidating=[] if jobs is None else jobs[1].running(CONSOLIDATE),
            has_jobs=jobs is not None,
            storage_bytes=0 if workspace.repository == "foreign" else workspace.size(),
            to_forget=to_forget,
            is_ready=outputs.is_valid(parts.root, parts.limits, parts.files),
            partial=partial,
        )

    def get(self, thread_id: str) -> Memory | None:
        """What was learned in a thread, or None. Raises `InvalidRequest` for what is no id."""
        _check_id(thread_id)
        found, _ = self._parts.fresh.ask(
            lambda transaction: memories.get_memory(transaction, thread_id), thread_id=thread_id
        )
        return found

    def put(
        self, thread_id: str, *, trace_summary: str, memory_summary: str, rollout_slug: str | None = None
    ) -> Memory:
        """Give a thread a memory that the application made. Its time always advances, and what is being extracted is older.

        Raises `InvalidRequest`, `ThreadNotFound`, `ReadOnlyHome` and what the journal raises.
        """
        if not trace_summary.strip() or not memory_summary.strip():
            raise InvalidRequest("A memory has two texts, and neither is blank.", hint="Give both.")
        thread_id = self._known(thread_id)
        parts = self._parts
        now_ms = parts.clock.wall_ms()
        before, _ = parts.fresh.ask(lambda transaction: memories.get_outcome(transaction, thread_id))
        # Above that of whoever is at this thread now, though the clock stood still since, or was set back.
        claimed = 0 if parts.found_jobs is None else parts.jobs.newest_generation(EXTRACT, thread_id)
        parts.decisions.record(
            memory_facts.OUTCOME,
            thread_id,
            generation=max(now_ms, claimed + 1, 0 if before is None else before.generation + 1),
            outcome=memory_facts.GIVEN,
            source_updated_at_ms=now_ms if before is None else max(now_ms, before.source_updated_at_ms + 1),
            raw_memory=trace_summary,
            rollout_summary=memory_summary,
            rollout_slug=rollout_slug,
        )
        found = self.get(thread_id)
        if found is None:
            raise StoreUnavailable(
                f"The memory of {thread_id} was recorded, and its row could not be written yet.",
                hint="Ask for it again once the database is free.",
            )
        return found

    def latest(self, *, limit: int = 20, cwd: str | None = None) -> list[Memory]:
        """The newest memories of enabled threads; `cwd` is one exact working folder."""
        if limit < 0:
            raise InvalidRequest(f"A limit cannot be {limit}.", hint="Give 0 or more.")
        found, _ = self._parts.fresh.ask(lambda transaction: memories.latest(transaction, limit=limit, cwd=cwd))
        return found

    def select(self, limit: int | None = None) -> list[Memory]:
        """What the next consolidation would be made of, by thread id."""
        parts = self._parts
        wanted = parts.limits.selected_max if limit is None else limit
        found, _ = parts.fresh.ask(
            lambda transaction: memories.select_inputs(
                transaction, limit=wanted, unused_days=parts.limits.unused_days, now_ms=parts.clock.wall_ms()
            )
        )
        return found

    def record_usage(self, thread_ids: Iterable[str]) -> int:
        """Count that these memories were used; one that stands there twice counts twice. How many counts were made.

        Threads without a memory, and what is no thread id, are passed over.
        """
        parts = self._parts
        counts: dict[str, int] = {}
        for each in thread_ids:
            if is_id(each):
                counts[each.lower()] = counts.get(each.lower(), 0) + 1
        there, _ = parts.fresh.ask(lambda transaction: memories.outputs_among(transaction, list(counts)))
        payloads = [
            {"type": memory_facts.USED, "thread_id": each, "count": count}
            for each, count in counts.items()
            if each in there
        ]
        if payloads:
            parts.decisions.record_all(payloads)
        return sum(count for each, count in counts.items() if each in there)

    def record_citations(self, text: str) -> Citation | None:
        """Count the memories that an answer says it used; what it cites, or None."""
        found = parse_citations(text)
        if found is not None:
            self.record_usage(found.thread_ids)
        return found

    def mark_polluted(self, thread_id: str) -> bool:
        """Leave a thread out of all memories from now on: it saw what must not be remembered. Whether that is new.

        What it gave to the last consolidation is forgotten by the next, which does not wait for the cooldown.
        """
        thread_id = self._known(thread_id)
        mode, _ = self._parts.fresh.ask(lambda transaction: memories.memory_mode(transaction, thread_id))
        if mode == "polluted":
            return False
        self._parts.decisions.record(thread_facts.MEMORY_MODE_SET, thread_id, memory_mode="polluted")
        return True

    def prune(self) -> int:
        """Take away memories that nobody used for long and no consolidation is made of; how many."""
        parts = self._parts
        found, _ = parts.fresh.ask(
            lambda transaction: memories.stale(
                transaction,
                limit=parts.limits.pruned_max,
                unused_days=parts.limits.unused_days,
                now_ms=parts.clock.wall_ms(),
            )
        )
        payloads = [
            {"type": memory_facts.PRUNED, "thread_id": thread_id, "generation": generation}
            for thread_id, generation in found
        ]
        if payloads:
            parts.decisions.record_all(payloads)
        return len(payloads)

    def summary(self, *, tokens_max: int = SUMMARY_TOKENS, counter: Counter = estimate_tokens) -> str | None:
        """What a session is shown: `memory_summary.md`, its middle cut where it is long; None where there is none."""
        text = self.read(artifacts.SUMMARY)
        text = "" if text is None else text.strip()
        return cut_middle(text, tokens_max, counter) if text else None

    def read(self, path: str) -> str | None:
        """A file of the folder of memories, or None where it is not there. Raises `InvalidRequest` for a path out of it."""
        parts = self._parts
        where = resolve(parts.root, path, parts.files) if path else None
        if where is None or parts.files.kind(where, op="memories.read") != "file":
            return None
        data = parts.files.read_all(where, bytes_max=_SHOWN_BYTES_MAX, op="memories.read")
        return None if data is None else data.decode("utf-8", "replace")

    def tools(self) -> tuple[Tool, ...]:
        """What a model may be given to look at memories by itself; nothing unless `MemoryOptions.tools` says so."""
        parts = self._parts
        if not parts.limits.tools:
            return ()
        tools = Reading(parts.root, parts.files, self._add_note).tools()
        return tuple(each._replace(call=guarded(parts.alive, each.call)) for each in tools)

    def add_note(self, text: str, *, slug: str = "note") -> str:
        """A note for the next consolidation: what to remember, to change or to forget. Its path in the folder.

        Raises `InvalidRequest`, `WorkspaceForeign`.
        """
        at = self._parts.clock.timestamp()[:19].replace(":", "-")
        return self._add_note(f"{at}-{slug}.md", text)

    def _add_note(self, name: str, text: str) -> str:
        parts = self._parts
        workspace_of(parts).refuse_foreign()
        return folder.add_note(parts.root, name, text, files=parts.files)

    def sync_extension(self, name: str, instructions: str, resources: Sequence[Resource]) -> SyncedExtension:
        """Make what another source keeps among the memories what it has now; see `engine.memories.extensions`.

        The next consolidation is told what came and what went. Raises `InvalidRequest`, `WorkspaceForeign`, `StoreBusy`.
        """
        parts = self._parts
        with folder_lock(parts):
            workspace = workspace_of(parts)
            workspace.ensure_folder()
            workspace.ensure()
            return sync_extension(workspace, name, instructions, resources, parts.files)

    def reset(self) -> None:
        """Forget every memory and empty the folder. Threads and their memory modes stay; so recent threads are extracted anew.

        Whoever extracts or consolidates meanwhile loses its job, and what it writes is no effect. Raises `WorkspaceForeign`
        before anything is done where the folder is a link or another program's.
        """
        parts = self._parts
        with folder_lock(parts):
            workspace = workspace_of(parts)
            workspace.ensure_folder()
            known, _ = parts.fresh.ask(memories.consolidated)
            newest = max(known.generation, known.reset_generation, workspace.generation, parts.clock.wall_ms())
            for jobs, kind in ((parts.jobs, EXTRACT), (parts.global_jobs, CONSOLIDATE)):
                newest = max(newest, jobs.newest_generation(kind))
            parts.decisions.record(memory_facts.RESET, None, generation=newest + 1)
            parts.jobs.forget(EXTRACT)
            parts.global_jobs.forget(CONSOLIDATE)
            workspace.drop_list()
            drop_work(parts)
            folder.clear(workspace, parts.files)

    def held(self, thread_ids: Sequence[str]) -> list[tuple[str, int]]:
        """What the folder has of threads: paths below the home, and the bytes that `forget` would take of each."""
        if self._found is None:
            return []
        parts = self._parts
        workspace = workspace_of(parts)
        held = folder.held(workspace, thread_ids, parts.files) if workspace.is_ours else {}
        return [(f"{parts.root}/{path}".removeprefix(f"{parts.home.path}/"), size) for path, size in held.items()]

    def forget(self, thread_ids: Sequence[str]) -> tuple[int, int]:
        """Take the texts of threads that are being erased out of the folder and its baseline; how many files, and bytes.

        What a consolidator made of them stays until the next consolidation, which is told to forget them.
        """
        if self._found is None:
            return 0, 0
        parts = self._parts
        workspace = workspace_of(parts)
        if not workspace.is_ours:
            return 0, 0
        with folder_lock(parts):
            drop_work(parts)
            return folder.forget(workspace, thread_ids, parts.files)

    def forget_jobs(self, thread_ids: Sequence[str]) -> int:
        """Take what is noted of work on threads that are being erased out of the database of jobs; how many rows.

        Raises `StoreUnavailable` where that cannot be opened, and what a busy one raises.
        """
        if self._found is None:
            return 0
        parts = self._parts
        if parts.found_jobs is None:
            raise StoreUnavailable(
                f"{thread_ids[-1]} is erased but for its row in the database of jobs, which cannot be opened.",
                hint="Run `rolloutdb audit` to see what is wrong with it; the erasure is finished once the home opens with it.",
            )
        return parts.jobs.erase(EXTRACT, thread_ids)

    def _known(self, thread_id: str) -> str:
        """The id of a thread that is there."""
        _check_id(thread_id)
        mode, _ = self._parts.fresh.ask(
            lambda transaction: memories.memory_mode(transaction, thread_id), thread_id=thread_id
        )
        if mode is None:
            raise ThreadNotFound(
                f"There is no thread {thread_id} in {self._parts.home.path}.",
                hint="Run `rolloutdb threads list --limit 0` to see all ids.",
            )
        return thread_id.lower()


def unavailable(path: str) -> Memories:
    """The memories of a home that cannot be written."""
    return Memories(
        None,
        ReadOnlyHome(
            f"The home {path} cannot be written, so it has no memories of its own.",
            hint="Name a folder for the engine's own files with --state-dir.",
        ),
    )


def _check_id(thread_id: str) -> None:
    if not is_id(thread_id):
        raise InvalidRequest(
            f"{thread_id!r} is not a thread id.", hint="Thread ids are UUIDs; see `rolloutdb threads list`."
        )
