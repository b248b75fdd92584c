"""Two workers at the threads of one home, over the real journal and rows: whatever dies, stalls or sets a clock, the outcome of
the highest generation is the one that stands, no generation has two, and rows built again say the same.

`tests/unit/test_jobs.py` has the same for the jobs alone. The model is a dict and some lists.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import LeaseLost
from engine.memories.contract import Extraction
from engine.memories.phase1 import Claims, Extracting, record_outcome
from engine.testing import ManualClock
from tests.remembering import DAY_MS, options
from tests.writing import opened, say

THREADS = 3
LEASE_MS = 3_600_000
WITH_TEXTS = ("succeeded", "no_output", "given")


class Extractions(RuleBasedStateMachine):
    """`held` are the jobs of each worker, `written` generations with an outcome, by thread."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine"))
        self.clock = ManualClock()
        self.engines = [self.open(), self.open()]
        self.threads = []
        for _ in range(THREADS):
            with self.engines[0].threads.create(cwd="/srv") as thread:
                say(thread, "hello")
                self.threads.append(thread.id)
        self.held = [[], []]
        self.newest = dict.fromkeys(self.threads, 0)
        """The highest generation that was handed out or given."""
        self.written = {each: {} for each in self.threads}

    def open(self):
        how = options(idle_s=0, age_days=36_500, retry_s=0, attempts_max=1_000)
        return opened(self.folder / "home", self.clock, options=how)

    def teardown(self):
        rows = self.rows(self.engines[0])
        for each in self.engines:
            each.close()
        for path in (self.folder / "home/engine").glob("*.sqlite*"):
            path.unlink()
        anew = self.open()
        anew.backfill()
        assert self.rows(anew) == rows
        anew.close()
        shutil.rmtree(self.folder)

    def parts(self, worker):
        return self.engines[worker].memories._parts

    def rows(self, e):
        """Of each thread the generation of its last outcome, and what is remembered."""
        with e._database.read() as transaction:
            outcomes = dict(transaction.rows("SELECT thread_id, generation FROM memory_outcomes"))
        memories = {each: e.memories.get(each) for each in self.threads}
        return outcomes, {each: found and found.raw_memory for each, found in memories.items()}

    def pick(self, data):
        worker = data.draw(st.sampled_from([number for number, held in enumerate(self.held) if held]))
        return worker, data.draw(st.sampled_from(self.held[worker]))

    def note(self, job, outcome, text):
        assert job.generation not in self.written[job.key], "two effects of one generation"
        self.written[job.key][job.generation] = (outcome, text)

    @rule(worker=st.integers(0, 1), count=st.integers(1, THREADS))
    def claim(self, worker, count):
        for job in Claims(self.parts(worker), limit=count).take_some(count):
            assert job.generation > self.newest[job.key]
            self.newest[job.key] = job.generation
            self.held[worker].append(job)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data(), is_empty=st.booleans())
    def finish(self, data, is_empty):
        """As a worker does: it asks whether the job is its own, and writes."""
        self.hand_in(*self.pick(data), "" if is_empty else f"by {self.clock.boot_ms()}")

    def hand_in(self, worker, job, text):
        self.held[worker].remove(job)
        is_current = job.generation in self.current(job.key)
        try:
            Extracting(self.parts(worker), None)._finish(job, Extraction(raw_memory=text, rollout_summary="s"))
        except LeaseLost:
            assert not is_current
        else:
            assert is_current
            self.note(job, "succeeded" if text else "no_output", text or None)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def write_late(self, data):
        """As a stopped process does, which asked long ago and wakes just before it writes."""
        worker, job = self.pick(data)
        self.held[worker].remove(job)
        text = f"by {job.generation}"
        texts = {"raw_memory": text, "rollout_summary": "s", "rollout_slug": None}
        record_outcome(self.parts(worker), job, "succeeded", **texts)
        self.note(job, "succeeded", text)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def fail(self, data):
        worker, job = self.pick(data)
        self.held[worker].remove(job)
        is_current = job.generation in self.current(job.key)
        assert self.parts(worker).jobs.fail(job, "no", pause_ms=0) is is_current

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def die(self, data):
        worker, _ = self.pick(data)
        with self.parts(worker).jobs._database.write() as transaction:
            for job in self.held[worker]:
                transaction.run("UPDATE jobs SET pid = 0 WHERE token = ?", (job.token,))
        self.held[worker].clear()

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def be_overtaken(self, data):
        """A worker stalls until its leases are over, the other takes what it can, and the first hands in all the same."""
        worker, job = self.pick(data)
        self.clock.advance(LEASE_MS)
        self.claim(1 - worker, THREADS)
        self.hand_in(worker, job, "late")

    @rule()
    def lose_the_jobs(self):
        """A power cut that costs the database of jobs: nobody is at work any more, and what was written stands."""
        with self.parts(0).jobs._database.write() as transaction:
            transaction.run("DELETE FROM jobs")
        self.held = [[], []]
        self.newest = {thread: max(written, default=0) for thread, written in self.written.items()}

    @rule(which=st.integers(0, THREADS - 1))
    def give(self, which):
        """The application gives a memory of its own, which is newer than whatever is under way."""
        thread = self.threads[which]
        found = self.engines[0].memories.put(thread, trace_summary="given", memory_summary="s")
        assert found.generation > max(self.written[thread], default=0)
        self.written[thread][found.generation] = ("given", "given")
        self.newest[thread] = max(self.newest[thread], found.generation)

    @rule(which=st.integers(0, THREADS - 1))
    def grow(self, which):
        self.clock.advance(1_000)
        with self.engines[1].threads.resume(self.threads[which]) as thread:
            say(thread, "more")

    @rule(ms=st.sampled_from([1, LEASE_MS // 2, LEASE_MS]))
    def pass_time(self, ms):
        self.clock.advance(ms)

    @rule(days=st.sampled_from([-400, -1, 1, 400]))
    def set_clock(self, days):
        self.clock.set_wall_ms(self.clock.wall_ms() + days * DAY_MS)

    def current(self, thread):
        """The generation that its job has now, if any."""
        with self.parts(0).jobs._database.read() as transaction:
            sql = "SELECT generation FROM jobs WHERE job_key = ? AND status = 'running'"
            return [generation for (generation,) in transaction.rows(sql, (thread,))]

    @invariant()
    def the_highest_generation_stands(self):
        for each in self.engines:
            outcomes, memories = self.rows(each)
            for thread, written in self.written.items():
                assert outcomes.get(thread) == max(written, default=None)
                texts = [written[number][1] for number in sorted(written) if written[number][0] in WITH_TEXTS]
                assert memories[thread] == (texts[-1] if texts else None)

    @invariant()
    def no_generation_has_two_records(self):
        told = [
            (payload["thread_id"], payload["generation"])
            for path in (self.folder / "home/engine/journal").glob("*.jsonl")
            for line in path.read_bytes().splitlines()
            if (payload := json.loads(line)["payload"])["type"] == "memory_outcome"
        ]
        assert len(told) == len(set(told)) == sum(map(len, self.written.values()))


TestExtractions = Extractions.TestCase
TestExtractions.settings = settings(settings.get_profile("test"), max_examples=15, stateful_step_count=15)
