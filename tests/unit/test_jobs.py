"""Jobs: one owner a job, a bound on tries and on how many run, whoever dies, stalls, or sets a clock."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import LeaseLost
from engine.options import Options
from engine.stores.files import Files
from engine.stores.jobs import Job, Jobs, Refused, Wanted, Why
from engine.stores.sqlite import Database
from engine.testing.clock import ManualClock

LEASE_MS = 3_600_000
PAUSE_MS = 3_600_000
KIND = "extract"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def opened(tmp_path, clock):
    databases = []

    def open_(attempts_max=3):
        databases.append(database(tmp_path / "engine", clock))
        return jobs_of(databases[-1], clock, attempts_max)

    yield open_
    for each in databases:
        each.close()


def database(folder, clock):
    return Database.open(
        None if folder is None else str(folder),
        "jobs",
        1,
        migrations="jobs",
        options=Options(),
        clock=clock,
        files=Files(),
    )


def jobs_of(found, clock, attempts_max=3):
    return Jobs(found, lease_ms=LEASE_MS, attempts_max=attempts_max, clock=clock, files=Files())


def claimed(jobs, key="a", watermark=100, **how):
    got = jobs.claim(KIND, Wanted(key, watermark), **how)
    assert isinstance(got, Job), got
    return got


def refused(jobs, key="a", watermark=100, **how):
    got = jobs.claim(KIND, Wanted(key, watermark), **how)
    assert isinstance(got, Refused), got
    return got.why


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def kill(jobs, job):
    """Its owner is a process that is no more."""
    with jobs._database.write() as transaction:
        assert transaction.run("UPDATE jobs SET pid = ? WHERE token = ?", (dead_pid(), job.token)) == 1


def test_c1_me01_a_job_is_done_up_to_its_watermark(opened):
    jobs = opened()
    assert jobs.complete(claimed(jobs, watermark=100))
    assert refused(jobs, watermark=100) == Why.UP_TO_DATE
    claimed(jobs, watermark=101)


def test_c2_me02_a_lease_holds_until_it_lapses_and_one_of_a_dead_owner_not_at_all(opened, clock):
    jobs = opened()
    job = claimed(jobs)
    assert refused(jobs) == Why.RUNNING
    clock.advance(LEASE_MS - 1)
    assert refused(jobs) == Why.RUNNING
    clock.advance(1)
    second = claimed(jobs)
    assert second.generation > job.generation
    assert second.token != job.token
    kill(jobs, second)
    claimed(jobs)


def test_c3_me03_of_two_claims_at_once_one_wins(opened):
    first, second = opened(), opened()
    answers, barrier = [], threading.Barrier(2)

    def claim(jobs):
        barrier.wait()
        answers.append(jobs.claim(KIND, Wanted("a", 100)))

    threads = [threading.Thread(target=claim, args=(each,)) for each in (first, second)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(type(each).__name__ for each in answers) == ["Job", "Refused"]
    assert next(each for each in answers if isinstance(each, Refused)).why == Why.RUNNING


def test_c4_me04_the_cap_is_counted_when_claiming(opened):
    jobs = opened()
    claimed(jobs, "a", running_max=1)
    assert refused(jobs, "b", running_max=1) == Why.CAP


def test_k9_a_dead_owner_takes_no_place_under_the_cap(opened):
    jobs = opened()
    kill(jobs, claimed(jobs, "a", running_max=1))
    claimed(jobs, "b", running_max=1)


def test_c8_me09_ten_run_of_64_so_54_are_claimed_and_then_none(opened):
    jobs = opened()
    for number in range(10):
        claimed(jobs, f"old{number}")
    wanted = [Wanted(f"new{number:02}", 100) for number in range(80)]
    answers = jobs.claim_some(KIND, wanted, limit=64, running_max=64)
    assert [each.key for each in answers if isinstance(each, Job)] == [each.key for each in wanted[:54]]
    assert {each.why for each in answers if isinstance(each, Refused)} == {Why.CAP}
    assert len(jobs.running(KIND)) == 64
    again = jobs.claim_some(KIND, wanted, limit=64, running_max=64)
    assert not [each for each in again if isinstance(each, Job)]


def test_c9_me10_two_full_batches_over_two_passes(opened):
    jobs = opened()
    wanted = [Wanted(f"{number:03}", 100) for number in range(200)]
    for batch in (wanted[:64], wanted[64:128]):
        answers = jobs.claim_some(KIND, wanted, limit=64, running_max=64)
        taken = [each for each in answers if isinstance(each, Job)]
        assert [each.key for each in taken] == [each.key for each in batch]
        assert all(jobs.complete(each) for each in taken)


def test_c10_me14_three_failures_are_enough_until_there_is_something_newer(opened):
    jobs = opened()
    for attempt in (1, 2, 3):
        job = claimed(jobs)
        assert job.attempts == attempt
        assert jobs.fail(job, "no", pause_ms=0)
    assert refused(jobs) == Why.EXHAUSTED
    assert jobs.claim(KIND, Wanted("a", 100)).last_error == "no"
    assert claimed(jobs, watermark=101).attempts == 1


def test_k11_a_crash_is_an_attempt_too(opened):
    jobs = opened()
    for _ in range(3):
        kill(jobs, claimed(jobs))
    assert refused(jobs) == Why.EXHAUSTED
    (found,) = jobs.failed(KIND)
    assert found.last_error == "its process ended 3 times before it was done"


def test_a_pause_follows_a_failure_and_a_newer_watermark_ends_it(opened, clock):
    jobs = opened()
    jobs.fail(claimed(jobs), "no", pause_ms=PAUSE_MS)
    clock.advance(PAUSE_MS - 1)
    assert refused(jobs) == Why.BACKOFF
    jobs.fail(claimed(jobs, watermark=101), "no", pause_ms=PAUSE_MS)
    assert refused(jobs, watermark=101) == Why.BACKOFF
    clock.advance(PAUSE_MS)
    claimed(jobs, watermark=101)


def test_me42_a_negative_pause_is_none(opened):
    jobs = opened()
    jobs.fail(claimed(jobs), "no", pause_ms=-5)
    claimed(jobs)


def test_setting_the_clock_frees_nothing_and_keeps_nothing(opened, clock):
    jobs = opened()
    job = claimed(jobs)
    clock.set_wall_ms(clock.wall_ms() + 10 * LEASE_MS)
    assert refused(jobs) == Why.RUNNING
    clock.set_wall_ms(1)
    clock.advance(LEASE_MS)
    second = claimed(jobs)
    assert second.generation == job.generation + 1


def test_me16_without_a_bound_on_attempts_failures_do_not_end_them(opened):
    jobs = opened(attempts_max=None)
    for _ in range(5):
        jobs.fail(claimed(jobs), "no", pause_ms=0)
    claimed(jobs)


def test_g4_me37_an_overtaken_owner_can_neither_heartbeat_nor_end_it(opened, clock):
    jobs = opened()
    old = claimed(jobs)
    clock.advance(LEASE_MS)
    new = claimed(jobs)
    with pytest.raises(LeaseLost):
        jobs.heartbeat(old)
    assert not jobs.complete(old)
    assert not jobs.fail(old, "no", pause_ms=0)
    assert not jobs.release(old)
    assert jobs.complete(new)
    assert not jobs.complete(new)


def test_k10_a_heartbeat_keeps_a_long_job(opened, clock):
    jobs = opened()
    job = claimed(jobs)
    for _ in range(5):
        clock.advance(LEASE_MS - 1)
        jobs.heartbeat(job, "half")
    assert refused(jobs) == Why.RUNNING
    assert [each.progress for each in jobs.running(KIND)] == ["half"]


def test_a_lapsed_lease_is_not_revived_but_the_work_may_still_be_handed_in(opened, clock):
    jobs = opened()
    job = claimed(jobs, "a", running_max=1)
    clock.advance(LEASE_MS)
    claimed(jobs, "b", running_max=1)
    with pytest.raises(LeaseLost):
        jobs.heartbeat(job)
    jobs.confirm(job)
    assert jobs.complete(job)


def test_what_is_given_back_was_no_attempt(opened):
    jobs = opened()
    for _ in range(5):
        assert jobs.release(claimed(jobs))
    assert claimed(jobs).attempts == 1


def test_a_generation_is_above_the_last_known_effect_though_the_clock_went_back(opened, clock):
    jobs = opened()
    clock.set_wall_ms(5)
    got = jobs.claim(KIND, Wanted("a", 100, above=10**15))
    assert got.generation == 10**15 + 1


def test_forgetting_takes_the_job_from_whoever_is_at_it(opened):
    jobs = opened()
    job = claimed(jobs)
    assert jobs.forget(KIND, ["a", "other"]) == 1
    assert not jobs.complete(job)
    claimed(jobs)


CHILD = """
import sys
from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.jobs import Job, Jobs, Wanted
from engine.stores.sqlite import Database
clock, files = SystemClock(), Files()
database = Database.open(sys.argv[1], "jobs", 1, migrations="jobs", options=Options(), clock=clock, files=files)
jobs = Jobs(database, lease_ms=3_600_000, attempts_max=3, clock=clock, files=files)
print("ready", flush=True)
sys.stdin.readline()
taken = []
for number in range(200):
    got = jobs.claim("extract", Wanted(f"{number:03}", 100), running_max=64)
    if isinstance(got, Job):
        taken.append(got.key)
print(" ".join(taken), flush=True)
sys.stdin.readline()
"""


def test_64_at_most_run_over_8_processes_and_none_twice(tmp_path, checkout):
    command = [sys.executable, "-c", CHILD, str(tmp_path / "engine")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, cwd=checkout, **pipes) for _ in range(8)]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        taken = [key for child in children for key in child.stdout.readline().split()]
        assert len(taken) == 64
        assert len(set(taken)) == 64
    finally:
        for child in children:
            child.communicate("\n", timeout=60)


class Work(RuleBasedStateMachine):
    """Two workers at three jobs. `effects` is what reached the outside, as a fold that ignores lower generations keeps it."""

    KEYS = ("a", "b", "c")
    CAP = 2

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.database = database(None, self.clock)
        self.workers = [jobs_of(self.database, self.clock), jobs_of(self.database, self.clock)]
        self.held = [[], []]
        self.beaten = {}
        """Boot time of the last heartbeat, by token."""
        self.dead = set()
        self.effects = {}
        self.begun = dict.fromkeys(self.KEYS, 0)
        """Attempts of the current watermark, counted by the model."""
        self.watermark = dict.fromkeys(self.KEYS, 1)
        self.done = dict.fromkeys(self.KEYS, 0)
        self.generations = dict.fromkeys(self.KEYS, 0)
        self.effected = set()

    def teardown(self):
        self.database.close()

    def live(self, job):
        return job.token not in self.dead and self.beaten[job.token] + LEASE_MS > self.clock.boot_ms()

    @rule(worker=st.integers(0, 1), key=st.sampled_from(KEYS))
    def claim(self, worker, key):
        got = self.workers[worker].claim(KIND, Wanted(key, self.watermark[key]), running_max=self.CAP)
        others = [job for held in self.held for job in held if self.live(job)]
        if isinstance(got, Job):
            assert key not in {job.key for job in others}
            assert len(others) < self.CAP
            assert self.done[key] < got.watermark
            self.begun[key] += 1
            assert got.attempts == self.begun[key] <= 3
            assert got.generation > self.generations[key]
            self.generations[key] = got.generation
            self.held[worker].append(got)
            self.beaten[got.token] = self.clock.boot_ms()
        elif got.why == Why.RUNNING:
            assert key in {job.key for job in others}
        elif got.why == Why.CAP:
            assert len(others) >= self.CAP
        elif got.why == Why.EXHAUSTED:
            assert self.begun[key] >= 3
        elif got.why == Why.UP_TO_DATE:
            assert self.done[key] >= self.watermark[key]

    def current(self, job):
        """Whether nobody has claimed the job since."""
        return job.generation == self.generations[job.key]

    def pick(self, data):
        worker = data.draw(st.sampled_from([number for number, held in enumerate(self.held) if held]))
        return worker, data.draw(st.sampled_from(self.held[worker]))

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def heartbeat(self, data):
        worker, job = self.pick(data)
        try:
            self.workers[worker].heartbeat(job)
        except LeaseLost:
            assert not (self.current(job) and self.live(job))
        else:
            assert self.current(job)
            assert self.live(job)
            self.beaten[job.token] = self.clock.boot_ms()

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def have_an_effect(self, data):
        """As phase 1 does: ask whether it is ours, then write; and as a stopped process does, which asked long ago."""
        worker, job = self.pick(data)
        asked = data.draw(st.booleans())
        if job.token in self.effected or (asked and not self.is_ours(self.workers[worker], job)):
            return
        self.effected.add(job.token)
        if job.generation > self.effects.get(job.key, 0):
            self.effects[job.key] = job.generation
        else:
            assert not self.current(job), "an effect of the newest owner counts"

    @precondition(lambda self: any(self.held))
    @rule(data=st.data(), how=st.sampled_from(["complete", "fail", "release"]))
    def end(self, data, how):
        worker, job = self.pick(data)
        jobs = self.workers[worker]
        self.held[worker].remove(job)
        is_newest = job.watermark == self.watermark[job.key]
        if how == "complete":
            ended = jobs.complete(job)
            self.done[job.key] = max(self.done[job.key], job.watermark if ended else 0)
            self.begun[job.key] = 0 if ended and is_newest else self.begun[job.key]
        elif how == "fail":
            ended = jobs.fail(job, "no", pause_ms=0)
        else:
            ended = jobs.release(job)
            self.begun[job.key] -= ended and is_newest
        assert ended == self.current(job)

    def is_ours(self, jobs, job):
        try:
            jobs.confirm(job)
        except LeaseLost:
            return False
        return True

    @rule(key=st.sampled_from(KEYS))
    def grow(self, key):
        self.watermark[key] += 1
        self.begun[key] = 0

    @rule(ms=st.sampled_from([1, LEASE_MS // 2, LEASE_MS]))
    def pass_time(self, ms):
        self.clock.advance(ms)

    @rule(ms=st.sampled_from([5, 10**12, 10**13]))
    def set_clock(self, ms):
        self.clock.set_wall_ms(ms)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def die(self, data):
        """A worker's process ends: it does nothing more, and its jobs are free at once."""
        worker = data.draw(st.sampled_from([number for number, held in enumerate(self.held) if held]))
        with self.database.write() as transaction:
            for job in self.held[worker]:
                transaction.run("UPDATE jobs SET pid = 0 WHERE token = ?", (job.token,))
                self.dead.add(job.token)
        self.held[worker].clear()

    @invariant()
    def no_more_run_than_may(self):
        assert len(self.workers[0].running(KIND)) <= self.CAP


Work.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestWork = Work.TestCase
