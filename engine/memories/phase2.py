"""Phase 2: what all memories come to, in the folder of memories.

One process at a time holds the consolidation (a job of one key). Under the folder's lock it brings the engine's own files up
to date with the rows and reads the whole folder once, into a copy. The application's consolidator works on the copy, without
any lock; what it does is looked at, and only then, under the lock and with its claim confirmed, taken over path by path. A
path that is live as it was copied takes the result; one that somebody changed meanwhile stays theirs. The new baseline is
what was copied and what was taken, nothing else, so a note or an edit that came meanwhile is still a change.

What is to be taken is written down first (a plan, beside the copy). A crash before that leaves the folder as it was; a crash
after it is finished by whoever runs next. An overtaken owner fails at the confirmation, and the plan of a generation that
is not above the baseline's is dropped.

    claim · prepare · sync · copy | consolidate | check · plan · take · baseline · record · done

Source: codex_memories.md 3; 8 K1 to K7, K12, K17, K18 for what is done otherwise.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from engine.errors import EngineError, LeaseLost, StoreError
from engine.memories import folder, inputs, outputs
from engine.memories import plan as plans
from engine.memories.artifacts import DIFF, Named
from engine.memories.calls import Calls
from engine.memories.contract import ConsolidateRequest
from engine.memories.inputs import Prepared
from engine.memories.parts import CONSOLIDATE, EVERYTHING, MemoryParts, MemoryProgress, Show
from engine.memories.phase1 import reason_of
from engine.memories.place import drop_work, folder_lock, work_of, workspace_of
from engine.memories.plan import Plan
from engine.projections import memories, memory_facts
from engine.projections.memories import Consolidated
from engine.stores.baseline import remove_tree
from engine.stores.jobs import Job, Wanted, Why
from engine.stores.workspace import Ensured, changes_between


class ConsolidateReport(Struct, kw_only=True):
    """What one run of phase 2 did.

    `status` is `succeeded`, `unchanged`, `failed`, `lost`, `nothing_to_do`, or why it was not begun: `running`, `backoff`,
    `cooldown`. `taken` are the paths whose result is live, `kept` those that somebody changed meanwhile, `ignored` those that a
    consolidator may not change. `recovered` tells that a crashed run was finished. `baseline` is not `kept` where it had to be
    made or rebuilt, of which `baseline_lost` files without their old text.
    """

    status: str
    reason: str | None = None
    generation: int | None = None
    selected: int = 0
    changes: list[tuple[str, str]] = []
    taken: list[str] = []
    kept: list[str] = []
    ignored: list[str] = []
    recovered: bool = False
    baseline: str | None = None
    baseline_lost: int = 0
    links_removed: int = 0
    resources_pruned: list[str] = []


class Consolidating:
    """One run of phase 2."""

    def __init__(
        self,
        parts: MemoryParts,
        consolidate: Callable[[ConsolidateRequest], Any],
        *,
        now: bool = False,
        allow_mass_deletion: bool = False,
        show: Show | None = None,
    ) -> None:
        self._parts = parts
        self._consolidate = consolidate
        self._now = now
        self._allow_mass_deletion = allow_mass_deletion
        self._show = show
        self._files = parts.files
        self._work = work_of(parts)
        self.workspace = workspace_of(parts)
        self._lost = threading.Event()
        self._stop = threading.Event()
        self.report = ConsolidateReport(status="nothing_to_do")

    def run(self) -> ConsolidateReport:
        """Consolidate, where it is time and there is something to do. Raises `StoreError` where the claim cannot be made."""
        job = self._claim()
        if job is None:
            return self.report
        self.report.generation = job.generation
        beats = threading.Thread(target=self._beat, args=(job,), daemon=True, name="rolloutdb-memory-heartbeat")
        beats.start()
        try:
            self._run(job)
        except LeaseLost as error:
            self._end("lost", error.message)
        except Exception as error:  # noqa: BLE001 - whatever the application's code raises is a failed consolidation
            self._failed(job, error)
        except BaseException:
            self._parts.global_jobs.release(job)
            raise
        finally:
            self._stop.set()
            beats.join()
        return self.report

    # Step by step

    def _claim(self) -> Job | None:
        """Why not is in the report. A pause after a failure is over by itself, and by nothing else."""
        known, to_forget = self._known()
        if self._is_cooling(known, to_forget):
            self._end("cooldown")
            return None
        above = max(known.generation, known.reset_generation, self.workspace.generation)
        answer = self._parts.global_jobs.claim(CONSOLIDATE, Wanted(EVERYTHING, known.success_generation, above))
        if not isinstance(answer, Job):
            self._end("backoff" if answer.why is Why.BACKOFF else "running", answer.last_error)
            return None
        known, to_forget = self._known()
        if self._is_cooling(known, to_forget):  # somebody was done just before
            self._parts.global_jobs.release(answer)
            self._end("cooldown")
            return None
        return answer

    def _known(self) -> tuple[Consolidated, list[str]]:
        answer, _ = self._parts.fresh.ask(lambda each: (memories.consolidated(each), memories.to_forget(each)))
        return answer

    def _is_cooling(self, known: Consolidated, to_forget: Sequence[str]) -> bool:
        """Whether the last one is too fresh; what is to be forgotten or finished does not wait. A clock set back ends it."""
        if self._now or to_forget or known.succeeded_at_ms is None:
            return False
        if any(plan.generation > known.success_generation for plan in self._plans(known)):
            return False
        return 0 <= self._parts.clock.wall_ms() - known.succeeded_at_ms < self._parts.limits.cooldown_s * 1000

    def _run(self, job: Job) -> None:
        self._tell("prepare")
        with self._locked():
            self._parts.global_jobs.confirm(job)
            self._prepare()
            if self._recover() and not self._now:
                self._parts.global_jobs.complete(job)
                self._end("succeeded")
                return
            prepared = self._synced(job)
        if prepared is None:
            return
        self._tell("consolidate")
        self._call(job, prepared)
        self._tell("take")
        with self._locked():
            plan = self._checked(job, prepared)
            self._carry_out(plan)
            self._parts.global_jobs.complete(job)
            drop_work(self._parts)
        self._end("succeeded")

    def _prepare(self) -> None:
        self.report.links_removed = self.workspace.ensure_folder()
        ensured: Ensured = self.workspace.ensure()
        self.report.baseline, self.report.baseline_lost = ensured.how, ensured.lost
        folder.drop_shown(self.workspace, self._files)

    def _recover(self) -> bool:
        """Finish what a crashed run had decided, and drop what others left; whether there was anything to finish."""
        recovered = False
        known, _ = self._known()
        for plan in self._plans(known):
            if plan.generation <= known.success_generation:
                continue
            if plan.generation > self.workspace.generation:
                self._carry_out(plan)
                recovered = True
            elif plan.generation == self.workspace.generation:  # all is done but the record
                self._record(plan.generation, memory_facts.SUCCEEDED, plan)
                recovered = True
        drop_work(self._parts)
        self.report.recovered = recovered
        return recovered

    def _plans(self, known: Consolidated) -> list[Plan]:
        """What was decided and perhaps not finished, since the last reset."""
        return plans.load_all(self._work, self._files, above=known.reset_generation)

    def _synced(self, job: Job) -> Prepared | None:
        """The folder brought up to date, and copied where there is something to do."""
        workspace, limits, files = self.workspace, self._parts.limits, self._files
        folder.adopt_legacy(workspace, files)
        folder.seed_notes(workspace, files)
        chosen = inputs.chosen(self._parts)
        self.report.selected = len(chosen)
        if not self._allow_mass_deletion:
            inputs.guard_against_forgetting(self._parts, workspace, chosen)
        self._tell("sync")
        folder.sync(workspace, chosen, files)
        self.report.resources_pruned = folder.prune_resources(
            workspace, files, now_ms=self._parts.clock.wall_ms(), days=limits.resource_days
        )
        baseline, state = workspace.baseline(), workspace.look()
        is_valid = outputs.is_valid(workspace.root, limits, files)
        if not chosen and not is_valid and not inputs.is_worth(state):
            self._parts.global_jobs.release(job)
            self._end("nothing_to_do")
            return None
        if is_valid and not changes_between(baseline, state):
            self._unchanged(job, chosen)
            return None
        prepared = inputs.copied(self._parts, workspace, self._own_work(job), chosen, baseline)
        self.report.changes = prepared.changes
        return prepared

    def _unchanged(self, job: Job, chosen: Sequence[Named]) -> None:
        self._parts.global_jobs.confirm(job)
        selected = [(each.memory.thread_id, each.memory.source_updated_at_ms) for each in chosen]
        self._record(job.generation, memory_facts.UNCHANGED, _plan(job, selected))
        self._parts.global_jobs.complete(job)
        self._end("unchanged")

    def _call(self, job: Job, prepared: Prepared) -> None:
        request = ConsolidateRequest(
            root=prepared.copy,
            diff_path=f"{prepared.copy}/{DIFF}",
            generation=job.generation,
            changes=prepared.changes,
            memories=prepared.memories,
            has_extensions=prepared.has_extensions,
            is_lost=self._lost.is_set,
        )
        with Calls(self._consolidate, timeout_s=self._parts.limits.consolidate_timeout_s) as calls:
            calls.call(request)

    def _checked(self, job: Job, prepared: Prepared) -> Plan:
        """What may be taken, written down. Ours alone: asked under the lock, under which alone anything is taken."""
        self._parts.global_jobs.confirm(job)
        self._check_fence(job)
        outputs.check(prepared.copy, prepared.before, self._parts.limits, self._files)
        takes, self.report.ignored = plans.takes_of(self.workspace, prepared.copy, prepared.state, prepared.large)
        plan = _plan(job, [(each.thread_id, each.source_updated_at_ms) for each in prepared.memories])
        plan.state, plan.takes = plans.names(prepared.state), takes
        plans.save(self._own_work(job), plan, self._files)
        return plan

    def _check_fence(self, job: Job) -> None:
        if self.workspace.generation > job.generation or self._known()[0].reset_generation > job.generation:
            raise LeaseLost(
                f"the consolidation of generation {job.generation} was overtaken", hint="leave it to the later one"
            )

    def _carry_out(self, plan: Plan) -> None:
        """Take over, make the baseline, and record it. May be done again from the beginning after a crash anywhere in it."""
        done = plans.carry_out(self.workspace, plan)
        self.report.taken, self.report.kept = done.taken, done.kept
        self.workspace.reset(done.state, plan.generation)
        self._record(plan.generation, memory_facts.SUCCEEDED, plan)

    def _record(self, generation: int, outcome: str, plan: Plan | None = None, reason: str | None = None) -> None:
        fields: dict[str, Any] = {} if reason is None else {"reason": reason}
        if plan is not None:
            with self._parts.database.read() as transaction:
                current = {
                    (each.thread_id, each.source_updated_at_ms)
                    for thread_id, _ in plan.selected
                    if (each := memories.get_memory(transaction, thread_id)) is not None
                }
            # One that was extracted anew meanwhile is in no baseline yet.
            fields |= {
                "selected": [each for each in plan.selected if tuple(each) in current],
                "watermark": plan.watermark,
            }
        self._parts.decisions.record(memory_facts.CONSOLIDATED, None, generation=generation, outcome=outcome, **fields)

    def _failed(self, job: Job, error: Exception) -> None:
        reason = reason_of(error)
        try:
            self._parts.global_jobs.confirm(job)
            self._record(job.generation, memory_facts.FAILED, reason=reason)
        except LeaseLost as lost:  # whoever took over removed the copy, so it had to fail
            self._end("lost", lost.message)
            return
        except StoreError:
            pass  # the job's row keeps the reason
        self._parts.global_jobs.fail(job, reason, pause_ms=self._parts.limits.retry_s * 1000)
        with contextlib.suppress(EngineError, OSError), self._locked():
            if not plans.is_saved(self._own_work(job), self._files):  # what was decided is finished by the next run
                remove_tree(self._own_work(job), files=self._files)
        self._end("failed", reason)

    def _beat(self, job: Job) -> None:
        while not self._stop.wait(self._parts.limits.heartbeat_s):
            try:
                self._parts.global_jobs.heartbeat(job)
            except LeaseLost:
                self._lost.set()
                return
            except EngineError:
                continue  # a busy database is no lost lease: the next beat tells

    def _end(self, status: str, reason: str | None = None) -> None:
        self.report.status, self.report.reason = status, reason

    def _tell(self, step: str) -> None:
        if self._show is not None:
            steps = ("prepare", "sync", "consolidate", "take")
            self._show(MemoryProgress("consolidating", steps.index(step), len(steps), step))

    def _own_work(self, job: Job) -> str:
        return f"{self._work}/{job.generation}"

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return folder_lock(self._parts)


def _plan(job: Job, selected: list[tuple[str, int]]) -> Plan:
    watermark = max((source_ms for _, source_ms in selected), default=0)
    return Plan(generation=job.generation, selected=selected, watermark=watermark)
