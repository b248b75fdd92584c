"""Many processes that make memories at once: each thread once, one consolidation, and kills cost a try each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import engine
from engine.clock import SystemClock
from engine.options import MemoryOptions, Options
from engine.testing import ManualClock
from tests.remembering import DAY_MS, Bench

PROCESSES = 8

RUN = """
import json, sys, time
import engine
from engine.options import MemoryOptions, Options
home, running_max, hold_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
options = Options(background_scan_s=0, busy_wait_ms=30_000, memories=MemoryOptions(running_max=running_max, retry_s=0))
done = []
with engine.open(home, options=options) as e:
    print("ready", flush=True)
    sys.stdin.readline()
    def extract(request):
        running = len(e.memories.status().running)
        time.sleep(hold_s)
        done.append((request.thread_id, running))
        return {"raw_memory": "r", "rollout_summary": "s"}
    report = e.memories.run(extract)
    print(json.dumps({"done": done, "failed": report.extracted.failed, "status": report.consolidated.status}), flush=True)
"""


@pytest.fixture
def home(tmp_path):
    """Forty threads of yesterday."""
    bench = Bench(tmp_path / "home", ManualClock(SystemClock().wall_ms() - DAY_MS))
    for number in range(40):
        bench.thread(f"number {number}")
    bench.close()
    return tmp_path / "home"


def start(home, checkout, running_max, hold_s):
    command = [sys.executable, "-c", RUN, str(home), str(running_max), str(hold_s)]
    process = subprocess.Popen(
        command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def go(processes):
    for each in processes:
        each.stdin.write("\n")
        each.stdin.flush()


def test_each_thread_is_extracted_once_and_never_more_at_once_than_may(home, checkout):
    processes = [start(home, checkout, 5, 0.01) for _ in range(PROCESSES)]
    go(processes)
    answers = []
    for each in processes:
        out, err = each.communicate(timeout=120)
        assert each.returncode == 0, err
        answers.append(json.loads(out))
    done = [thread_id for answer in answers for thread_id, _ in answer["done"]]
    assert len(done) == len(set(done))
    assert max(running for answer in answers for _, running in answer["done"]) <= 5
    assert [answer["failed"] for answer in answers] == [[]] * PROCESSES
    with engine.open(str(home)) as e:
        e.memories.run(lambda _: {"raw_memory": "r", "rollout_summary": "s"}, now=True)
        status = e.memories.status()
        assert (status.coverage.current, status.coverage.pending) == (40, 0)
        assert len(status.consolidated.selected) == 40
        assert e.audit().faults == []


def test_a_killed_run_costs_its_threads_one_try_and_the_next_goes_on_at_once(home, checkout):
    killed = start(home, checkout, 64, 60)
    go([killed])
    with engine.open(str(home), options=Options(memories=MemoryOptions(retry_s=0))) as e:
        deadline = time.monotonic() + 60
        while len(e.memories.status().running) < 8:  # as many as it does at once
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert len(e.memories.status().failed) == 8
        attempts = {}

        def extract(request):
            attempts[request.thread_id] = request.attempt
            return {"raw_memory": "r", "rollout_summary": "s"}

        report = e.memories.run(extract)
        assert report.extracted.succeeded == 40
        assert sorted(attempts.values()) == [1] * 32 + [2] * 8
        assert e.memories.status().failed == []


CONSOLIDATE = """
import sys, time
import engine
from engine.options import Options
def consolidate(request):
    with open(f"{request.root}/MEMORY.md", "w") as file:
        file.write("half")
    print("half", flush=True)
    time.sleep(600)
with engine.open(sys.argv[1], options=Options(background_scan_s=0)) as e:
    e.memories.run(extracting=False, consolidate=consolidate)
"""


def test_a_consolidator_that_is_killed_harms_nothing_and_the_next_begins_at_once(home, checkout):
    with engine.open(str(home)) as e:
        for each in e.threads.list(limit=3).threads:
            e.memories.put(each.id, trace_summary="r", memory_summary="s")
    killed = subprocess.Popen(
        [sys.executable, "-c", CONSOLIDATE, str(home)], cwd=checkout, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout.readline() == "half\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (home / "memories/MEMORY.md").exists()
    with engine.open(str(home)) as e:
        assert e.memories.run(extracting=False).consolidated.status == "succeeded"
    assert os.listdir(home / "engine/work") == []
    assert "half" not in (home / "memories/MEMORY.md").read_text()
