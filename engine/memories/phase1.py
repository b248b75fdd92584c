"""Phase 1: what is worth remembering of each thread that has been quiet for a while.

A worker claims the next thread, reads and redacts what its rollout holds, asks the application's extractor, and writes
the outcome into the journal; then its job is done. Claims are made one at a time, when a worker is free, so that a crash
costs the threads that were really worked on one attempt each and no others anything. While the extractor thinks, a
heartbeat keeps the claim. Before the outcome is written the claim is confirmed, and the outcome carries its generation,
so what an overtaken worker writes is no effect.

Outcomes are succeeded, no output, and failed: for good, once the attempts are used up; before that a failure is a pause.

Source: codex_memories.md 2; 8 K9 to K11, K20 to K22, K25 for what is done otherwise.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from msgspec import Struct

from engine.errors import ContextOverflow, EngineError, LeaseLost, LineageBroken
from engine.memories import evidence
from engine.memories.budget import Counter, Fitted, estimate_tokens, fit, gather
from engine.memories.calls import Calls
from engine.memories.contract import Extraction, ExtractRequest, read_answer
from engine.memories.items import kept
from engine.memories.parts import EXTRACT, MemoryParts, MemoryProgress, Show
from engine.memories.redact import redact, redact_values
from engine.projections import memories, memory_facts
from engine.projections.history import stored_record
from engine.projections.memories import Candidate, Limits
from engine.projections.thread_list import ThreadRow
from engine.stores.jobs import Job, Refused, Wanted, Why
from engine.stores.layout import Found
from engine.stores.lineage import Segment, lineage, open_rollout
from engine.stores.rollouts import Located, records

_PAGE = 256
_OVERFLOWS_MAX = 3
_BYTES_A_TOKEN = 8
"""More than any tokenizer makes of a token on average: what is gathered of a conversation before it is counted."""
_REASON_CHARS_MAX = 500


class ExtractReport(Struct, kw_only=True):
    """What one run of phase 1 did. `usage` sums what extractors said of their cost; None where none did."""

    claimed: int = 0
    succeeded: int = 0
    no_output: int = 0
    failed: list[tuple[str, str]] = []
    """Threads of which this try failed, and why."""
    lost: int = 0
    usage: dict[str, int] | None = None


class Extracting:
    """One run of phase 1."""

    def __init__(
        self,
        parts: MemoryParts,
        extract: Callable[[ExtractRequest], Any],
        *,
        counter: Counter = estimate_tokens,
        limit: int | None = None,
        exclude: Sequence[str] = (),
        retry_failed: bool = False,
        show: Show | None = None,
    ) -> None:
        self._parts = parts
        self._extract = extract
        self._counter = counter
        self._limit = parts.limits.claimed_max if limit is None else limit
        self._claims = Claims(parts, limit=self._limit, exclude=exclude, retry_failed=retry_failed)
        self._show = show
        self._mutex = threading.Lock()
        self._held: dict[str, Job] = {}
        self._stop = threading.Event()
        self.report = ExtractReport()

    def run(self) -> ExtractReport:
        """Extract until nothing is left, or as many as may be claimed. Raises `StoreError`."""
        workers = min(max(self._parts.limits.parallel, 1), max(self._limit, 1))
        beats = threading.Thread(target=self._beat, daemon=True, name="rolloutdb-memory-heartbeat")
        with Calls(self._extract, timeout_s=self._parts.limits.extract_timeout_s) as calls:
            beats.start()
            try:
                with ThreadPoolExecutor(workers, thread_name_prefix="rolloutdb-memory") as pool:
                    futures = [pool.submit(self._work, calls) for _ in range(workers)]
                    try:
                        wait(futures)
                    except BaseException:
                        self._stop.set()  # Ctrl-C: what is under way is finished, nothing new is begun
                        raise
                for future in futures:
                    future.result()
            finally:
                self._stop.set()
                beats.join()
        return self.report

    def _work(self, calls: Calls) -> None:
        while not self._stop.is_set() and (job := self._claims.take()) is not None:
            with self._mutex:
                self._held[job.key] = job
                self.report.claimed += 1
            try:
                self._one(job, calls)
            finally:
                with self._mutex:
                    del self._held[job.key]
            self._tell(job.key)

    def _one(self, job: Job, calls: Calls) -> None:
        """One thread, whatever becomes of it."""
        try:
            extraction = self._extracted(job, calls)
            self._finish(job, extraction)
        except LeaseLost:
            with self._mutex:
                self.report.lost += 1
        except Exception as error:  # noqa: BLE001 - whatever the application's code raises, the other threads go on
            self._failed(job, error)

    def _extracted(self, job: Job, calls: Calls) -> Extraction:
        row, found = self._parts.history.find(job.key)
        tokens_max = self._parts.limits.tokens_max
        fit_into = self._gathered(found, max(tokens_max, 1) * _BYTES_A_TOKEN)
        if fit_into is None:
            return Extraction()
        for _ in range(_OVERFLOWS_MAX):
            with contextlib.suppress(ContextOverflow):
                return read_answer(calls.call(_request(job, row, fit_into(tokens_max), tokens_max)))
            tokens_max //= 2
        return read_answer(calls.call(_request(job, row, fit_into(tokens_max), tokens_max)))

    def _gathered(self, found: Found, bytes_max: int) -> Callable[[int], Fitted] | None:
        """What fits a conversation into so many tokens; None where there is nothing to show of it."""
        redacted = (redact_values(item) for item in conversation(self._parts, found))
        if self._parts.limits.keeps == "evidence":
            rows = evidence.gather(redacted, bytes_max)
            return (lambda tokens_max: evidence.fit(rows, tokens_max, self._counter)) if rows.count else None
        ends = gather(redacted, bytes_max)

        def fit_ends(tokens_max: int) -> Fitted:
            text, left_out = fit(ends.items, tokens_max, self._counter)
            return Fitted(text, ends.left_out + left_out)

        return fit_ends if ends.items else None

    def _finish(self, job: Job, extraction: Extraction) -> None:
        outcome = memory_facts.NO_OUTPUT if extraction.is_empty else memory_facts.SUCCEEDED
        texts = {
            "raw_memory": extraction.raw_memory,
            "rollout_summary": extraction.rollout_summary,
            "rollout_slug": extraction.rollout_slug,
        }
        with self._parts.database.read() as transaction:
            there = memories.get_memory(transaction, job.key)
        keeps = {"keeps_output": True} if there is not None and there.source_updated_at_ms > job.watermark else {}
        self._parts.jobs.confirm(job)
        record_outcome(self._parts, job, outcome, **({} if extraction.is_empty else texts), **keeps)
        self._parts.jobs.complete(job)
        with self._mutex:
            if extraction.is_empty:
                self.report.no_output += 1
            else:
                self.report.succeeded += 1
            for name, count in (extraction.usage or {}).items():
                self.report.usage = self.report.usage or {}
                self.report.usage[name] = self.report.usage.get(name, 0) + count

    def _failed(self, job: Job, error: Exception) -> None:
        reason = reason_of(error)
        with self._mutex:
            self.report.failed.append((job.key, reason))
        if job.attempts >= self._parts.limits.attempts_max:
            with contextlib.suppress(LeaseLost):
                self._parts.jobs.confirm(job)
                record_outcome(self._parts, job, memory_facts.FAILED, reason=reason)
        self._parts.jobs.fail(job, reason, pause_ms=self._parts.limits.retry_s * 1000)

    def _beat(self) -> None:
        while not self._stop.wait(self._parts.limits.heartbeat_s):
            with self._mutex:
                held = list(self._held.values())
            for job in held:
                with contextlib.suppress(EngineError):  # one that is lost is noticed when its outcome is to be written
                    self._parts.jobs.heartbeat(job)

    def _tell(self, thread_id: str) -> None:
        if self._show is not None:
            with self._mutex:
                done = self.report.claimed - len(self._held)
                self._show(MemoryProgress("extracting", done, self._claims.expected, thread_id))


class Claims:
    """The next thread to extract, newest first, page by page, until as many as may be are claimed."""

    def __init__(
        self, parts: MemoryParts, *, limit: int, exclude: Sequence[str] = (), retry_failed: bool = False
    ) -> None:
        self._parts = parts
        self._left = limit
        self._exclude = exclude
        self._retry_failed = retry_failed
        self._limits = Limits.at(parts.clock.wall_ms(), parts.limits)
        self._mutex = threading.Lock()
        self._after: tuple[int, str] | None = None
        self._page: list[Candidate] = []
        self._seen = 0
        if retry_failed:
            parts.jobs.forget(EXTRACT, [each.key for each in parts.jobs.failed(EXTRACT)])
        self.expected = 0
        """How many will be claimed, as far as can be told."""

    def take(self) -> Job | None:
        """The next job, or None where there is none to be had."""
        return next(iter(self.take_some(1)), None)

    def take_some(self, count: int) -> list[Job]:
        """The next jobs."""
        with self._mutex:
            taken: list[Job] = []
            while len(taken) < count and self._left > 0 and self._fill():
                taken += self._claim(min(count - len(taken), self._left))
            return taken

    def _fill(self) -> bool:
        """Whether there is a candidate to look at."""
        if self._page:
            return True
        if self._seen >= self._parts.limits.scan_max:
            return False
        page, _ = self._parts.fresh.ask(
            lambda transaction: memories.candidates(
                transaction,
                self._limits,
                self._parts.limits,
                after=self._after,
                limit=_PAGE,
                exclude=self._exclude,
                retry_failed=self._retry_failed,
            )
        )
        self._page = page
        self.expected = min(self.expected + len(page), self._parts.limits.claimed_max)
        if page:
            self._after = (page[-1].updated_at_ms, page[-1].thread_id)
        return bool(page)

    def _claim(self, count: int) -> list[Job]:
        wanted = [Wanted(each.thread_id, each.updated_at_ms, each.generation) for each in self._page]
        answers = self._parts.jobs.claim_some(EXTRACT, wanted, limit=count, running_max=self._parts.limits.running_max)
        del self._page[: len(answers)]
        taken = [each for each in answers if isinstance(each, Job)]
        for refused in (each for each in answers if isinstance(each, Refused)):
            self._refused(refused)
        self._left -= len(taken)
        return taken

    def _refused(self, refused: Refused) -> None:
        self._seen += 1
        self.expected = max(self.expected - 1, 0)
        if refused.why is Why.CAP:
            self._left = 0  # as many as may are at work, here or in other processes
        elif refused.why is Why.UP_TO_DATE:
            self._forget_if_lost(refused)
        elif refused.why is Why.EXHAUSTED:
            job = Job(EXTRACT, refused.key, refused.watermark, refused.generation, "", refused.attempts)
            record_outcome(self._parts, job, memory_facts.FAILED, reason=refused.last_error)

    def _forget_if_lost(self, refused: Refused) -> None:
        """A job that is done while its outcome is not recorded: the journal was lost. The next run does it again."""
        found, _ = self._parts.fresh.ask(lambda transaction: memories.get_outcome(transaction, refused.key))
        if found is None or found.source_updated_at_ms < refused.watermark:
            self._parts.jobs.forget(EXTRACT, [refused.key])


def conversation(parts: MemoryParts, found: Found) -> Iterator[dict[str, Any]]:
    """What an extractor is shown of a thread: of its own rollouts, since what it was forked from has its own memory."""
    for segment in _own_segments(parts, found):
        source = open_rollout(parts.home, segment.found, parts.options, parts.files)
        try:
            for each in records(source, 0, segment.end, parts.options):
                record = stored_record(each) if isinstance(each, Located) else None
                item = None if record is None else kept(record.kind, record.payload)
                if item is not None:
                    yield item
        finally:
            source.close()


def _own_segments(parts: MemoryParts, found: Found) -> list[Segment]:
    try:
        segments = lineage(parts.home, found, parts.history.resolve, options=parts.options, files=parts.files)
    except LineageBroken:
        return [Segment(found, None)]
    return [each for each in segments if each.found.name.thread_id == found.name.thread_id]


def _request(job: Job, row: ThreadRow, fitted: Fitted, tokens_max: int) -> ExtractRequest:
    return ExtractRequest(
        thread_id=job.key,
        rollout_path=row.rollout_path,
        cwd=row.cwd,
        git_branch=row.git_branch,
        text=fitted.text,
        left_out=fitted.left_out,
        tokens_max=tokens_max,
        attempt=job.attempts,
        source_updated_at_ms=job.watermark,
    )


def record_outcome(parts: MemoryParts, job: Job, outcome: str, **fields: Any) -> None:
    """Write down how an extraction ended."""
    parts.decisions.record(
        memory_facts.OUTCOME,
        job.key,
        generation=job.generation,
        outcome=outcome,
        source_updated_at_ms=job.watermark,
        attempts=job.attempts,
        **fields,
    )


def reason_of(error: BaseException) -> str:
    """An error in one line, with what to do where it says that, without secrets."""
    hint = error.hint if isinstance(error, EngineError) else ""
    said = " ".join(f"{error} {hint}".split())
    return redact(f"{type(error).__name__}: {said}" if said else type(error).__name__)[:_REASON_CHARS_MAX]
