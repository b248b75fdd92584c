"""Mend what an audit found, step by step, from the files; never the files from the rows.

Each step finds for itself what is left to do and can be done again, so a repair that was killed is finished by the next.
No byte of a rollout or of the journal changes but for a torn tail, which its owner's recovery cuts and keeps aside, under
both locks of the thread; a thread that somebody has open is passed over. Rollouts that another program began are touched
only `offline`. Lost truth stays until it is dismissed, and damage in the middle of a file stays as it is: both are told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from msgspec import Struct

from engine.audit.compare import Auditor
from engine.audit.findings import Finding
from engine.audit.parts import AuditParts
from engine.audit.plan import Plan, Step, plan_of, replacing
from engine.errors import EngineError, RolloutUnusable, StoreBusy, StoreCorrupt, ThreadBusy
from engine.projections.backfill import Backfill, Progress
from engine.projections.runner import Runner, Stale
from engine.projections.thread_facts import unfinished_archives, unfinished_erasures, unfinished_redactions
from engine.stores.compression import settle
from engine.stores.layout import Found, locate
from engine.stores.recorder import Counters, Recorder
from engine.stores.recovery import Decision, decide, examine
from engine.stores.rollouts import open_source
from engine.stores.writer_lock import acquire

ROUNDS_MAX = 3
"""How often one repair audits and mends: what is mended may show what was hidden behind it."""

Outcome = Literal["planned", "done", "skipped", "failed"]


class StepResult(Struct, frozen=True, kw_only=True):
    """A step and what became of it; `reason` tells why it was skipped or failed."""

    step: Step
    outcome: Outcome
    reason: str | None = None


class RepairReport(Struct, frozen=True, kw_only=True):
    """What a repair did, or would do. `left` are the findings that remain, each with what mends it or why nothing can."""

    home: str
    dry_run: bool
    steps: list[StepResult]
    left: list[Finding]

    @property
    def plan(self) -> Plan:
        """The steps alone."""
        return Plan(home=self.home, steps=[each.step for each in self.steps])

    @property
    def is_clean(self) -> bool:
        """Whether nothing remains that repair mends."""
        return not any(each.is_mended_by_repair for each in self.left)


class RepairParts(NamedTuple):
    """What a repair works with besides what an audit reads. `finish` ends what was begun, by the tag it was begun with."""

    audit: AuditParts
    auditor: Auditor
    runner: Runner
    backfill: Backfill
    counters: Counters
    finish: Mapping[str, Callable[[], None]]


class Repairer:
    """Repairs one home."""

    def __init__(self, parts: RepairParts) -> None:
        self._parts = parts
        self._met: set[str] = set()
        """Databases whose damage a step met: an index that disagrees with its table shows when it is written to."""
        self._do: dict[str, Callable[[Step], object]] = {
            "replace_database": self._replace_database,
            "finish": self._finish,
            "release_lock": self._release_lock,
            "remove_file": self._remove_file,
            "settle": self._settle,
            "trim_tail": self._trim_tail,
            "trim_journal": lambda _: self._parts.audit.journal.trim(),
            "refold_facts": lambda _: self._parts.audit.facts.rebuild(),
            "remove_row": self._remove_row,
            "fold": self._fold,
            "fold_side": self._fold_side,
            "index": lambda _: self._index(),
        }

    def plan(self, *, deep: bool = False, progress: Callable[[Progress], None] | None = None) -> RepairReport:
        """What `run` would do now; changes nothing."""
        report = self._parts.auditor.run(deep=deep, progress=progress)
        plan = plan_of(self._parts.audit.home.path, report.findings)
        steps = [StepResult(step=step, outcome="planned") for step in plan.steps]
        left = [each for each in report.faults if not each.is_mended_by_repair]
        return RepairReport(home=plan.home, dry_run=True, steps=steps, left=left)

    def run(
        self,
        *,
        wanted: Plan | None = None,
        offline: bool = False,
        deep: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> RepairReport:
        """Do what an audit calls for (of `wanted`, where it is given), then audit again.

        A step that cannot be done is told and stops no other. Raises `StoreError` where the tables cannot be read.
        """
        report = self._parts.auditor.run(deep=deep, progress=progress)
        plan = plan_of(self._parts.audit.home.path, report.findings)
        results = [
            StepResult(step=step, outcome="skipped", reason="it is not called for any more")
            for step in ([] if wanted is None else wanted.steps)
            if step not in plan.steps
        ]
        todo = [step for step in plan.steps if wanted is None or step in wanted.steps]
        done: list[StepResult] = []
        for _ in range(ROUNDS_MAX):
            self._met.clear()
            now = [self._carry_out(step, offline=offline) for step in todo]
            now += [self._carry_out(step, offline=offline) for step in replacing(sorted(self._met))]
            done += now
            if not any(each.outcome == "done" for each in now):
                break
            report = self._parts.auditor.run(deep=deep, progress=progress)
            # Damage may hide other damage: an index that lacks a row shows when the row is right again.
            tried = [each.step for each in done]
            todo = [step for step in plan_of(plan.home, report.findings).steps if step not in tried]
            if wanted is not None or not todo:
                break
        return RepairReport(home=plan.home, dry_run=False, steps=[*results, *done], left=report.faults)

    def _carry_out(self, step: Step, *, offline: bool) -> StepResult:
        if step.offline and not offline:
            reason = "another program may be using it; end that program, then repair with --offline"
            return StepResult(step=step, outcome="skipped", reason=reason)
        try:
            self._do[step.action](step)
        except (ThreadBusy, StoreBusy) as busy:
            return StepResult(step=step, outcome="skipped", reason=busy.message)
        except StoreCorrupt as error:
            self._met.update(self._named(error.path))
            return StepResult(step=step, outcome="failed", reason=error.message)
        except EngineError as error:
            return StepResult(step=step, outcome="failed", reason=error.message)
        except OSError as error:
            reason = f"{error.filename or step.path}: {error.strerror}"
            return StepResult(step=step, outcome="failed", reason=reason)
        return StepResult(step=step, outcome="done")

    # --- files -----------------------------------------------------------------------------------------------------

    def _finish(self, step: Step) -> None:
        """Those that finish leave what is in use for the next time, and say nothing."""
        assert step.target is not None
        self._parts.finish[step.target]()
        if self._is_unfinished(step):
            raise ThreadBusy(
                f"The thread {step.thread_id} is in use, or what was begun cannot be finished now.",
                owner=None,
                state="unknown",
                hint="Repair again when nobody uses it.",
            )

    def _is_unfinished(self, step: Step) -> bool:
        audit = self._parts.audit
        if step.target == "trash":
            return step.path is not None and audit.files.kind(audit.absolute(step.path), op="repair.look") is not None
        with audit.database.read() as transaction:
            left = {
                "archive_begun": [thread_id for thread_id, _ in unfinished_archives(transaction)],
                "erase_begun": [thread_id for thread_id, _ in unfinished_erasures(transaction)],
                "redaction_begun": [thread_id for thread_id, _ in unfinished_redactions(transaction)],
            }
        return step.thread_id in left[step.target or ""]

    def _release_lock(self, step: Step) -> None:
        """Who takes a lock and gives it back removes its files, whoever left them."""
        with self._owned(step):
            pass

    def _remove_file(self, step: Step) -> None:
        """Under the thread's lock nobody is writing it; one that is no thread's names a process that has ended."""
        audit = self._parts.audit
        assert step.path is not None
        path = audit.absolute(step.path)
        with self._owned(step) if step.thread_id is not None else contextlib.nullcontext():
            audit.files.remove(path, op="repair.remove")
            audit.files.sync_folder(path.rpartition("/")[0], op="repair.sync_folder")

    def _settle(self, step: Step) -> None:
        with self._owned(step):
            found = self._found(step)
            if found is not None:
                settle(self._parts.audit.home, found, options=self._parts.audit.options, files=self._parts.audit.files)

    def _trim_tail(self, step: Step) -> None:
        """As the thread's own writer does when it opens the file, and only where that would cut it."""
        audit = self._parts.audit
        with self._owned(step):
            found = self._found(step)
            if found is None or found.compressed or not self._is_torn(found):
                return
            Recorder(
                audit.home.absolute(found.path),
                start=None,
                owned=True,
                durability="durable",
                quarantine=f"{audit.home.state}/quarantine",
                counters=self._parts.counters,
                options=audit.options,
                clock=audit.clock,
                files=audit.files,
            ).close()

    def _is_torn(self, found: Found) -> bool:
        audit = self._parts.audit
        path = audit.home.absolute(found.path)
        source = open_source(path, compressed=False, files=audit.files, options=audit.options)
        try:
            return decide(examine(source, owned=True, options=audit.options).facts) is Decision.TRIM
        finally:
            source.close()

    # --- rows ------------------------------------------------------------------------------------------------------

    def _named(self, path: str | None) -> list[str]:
        """The database of that path."""
        audit = self._parts.audit
        sides = [(side.name, side.path) for side in audit.sides]
        return [name for name, at in (*((each.name, each.path) for each in audit.databases), *sides) if at == path]

    def _replace_database(self, step: Step) -> None:
        for database in self._parts.audit.databases:
            if database.name == step.target:
                database.replace()
        for side in self._parts.audit.sides:
            if side.name == step.target:
                side.replace()

    def _index(self) -> None:
        self._parts.audit.facts.catch_up()
        self._parts.backfill.run()
        self._parts.audit.sides.catch_up()

    def _fold_side(self, step: Step) -> None:
        for side in self._parts.audit.sides:
            if side.name == step.target:
                side.refold(step.path)

    def _remove_row(self, step: Step) -> None:
        """Only where nothing stands behind it now."""
        with self._parts.audit.database.write() as transaction:
            transaction.run(_REMOVE[step.target or ""], {"id": step.thread_id, "path": step.path})

    def _fold(self, step: Step) -> None:
        runner = self._parts.runner
        found = self._found(step)
        if found is None:
            with self._parts.audit.database.write() as transaction:
                transaction.run("DELETE FROM failures WHERE path = :path", {"path": step.path})
            return
        jobs = runner.jobs([Stale(found, known=True)], anew=not _GROWN.issuperset(step.classes))
        (done,) = runner.do(jobs)
        runner.write([done], {job.path: job for job in jobs})
        if done.reason is not None:
            raise RolloutUnusable(f"The rollout {found.path} is left as it is: {done.reason}.", path=found.path)

    # ---------------------------------------------------------------------------------------------------------------

    def _found(self, step: Step) -> Found | None:
        assert step.path is not None
        return locate(self._parts.audit.home, step.path, self._parts.audit.files)

    @contextlib.contextmanager
    def _owned(self, step: Step) -> Iterator[None]:
        """Own the step's thread, by both locks. Raises `ThreadBusy`."""
        audit = self._parts.audit
        assert step.thread_id is not None
        lock = acquire(
            audit.home,
            step.thread_id,
            "repair",
            foreign=step.offline,
            options=audit.options,
            clock=audit.clock,
            files=audit.files,
        )
        try:
            yield
        finally:
            lock.release()


_GROWN = frozenset({"stale_watermark", "stale_failure"})
"""What going on from the watermark mends."""

_REMOVE = {
    "threads": "DELETE FROM threads WHERE id = :id AND NOT EXISTS (SELECT 1 FROM streams WHERE thread_id = :id)",
    "streams": "DELETE FROM streams WHERE path = :path AND NOT EXISTS (SELECT 1 FROM watermarks WHERE stream = :path)",
    "watermarks": "DELETE FROM watermarks WHERE stream = :path AND NOT EXISTS (SELECT 1 FROM streams WHERE path = :path)",
    "set_aside": "DELETE FROM set_aside WHERE stream = :path AND NOT EXISTS (SELECT 1 FROM watermarks WHERE stream = :path)",
    "goals": "DELETE FROM goals WHERE stream = :path AND NOT EXISTS (SELECT 1 FROM watermarks WHERE stream = :path)",
}
"""By table, what removes a row that nothing stands behind."""
