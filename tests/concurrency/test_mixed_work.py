"""Many processes do all kinds of work on one home: no call of any fails with a lock, and what each was told is there (S2).

A process has two threads of its own. It appends, takes turns, counts what a goal uses, names threads of others, lists, asks
for turns, and logs, in an order of its own; it ends with what it has done, or dies of the first error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine.options import Options
from tests.writing import faults

CHECKOUT = Path(__file__).resolve().parents[2]

WORKING = """
import json, random, sys
import engine
from engine.logs import Handler
from engine.options import Options

home, seed, operations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chosen = random.Random(seed)
with engine.open(home, options=Options(scan_interval_ms=100)) as e:
    print("ready", flush=True)
    sys.stdin.readline()
    handler = Handler(home)
    threads = [e.threads.create(cwd=f"/srv/{seed}", durability="buffered") for _ in range(2)]
    for thread in threads:
        thread.begin()
        e.goals.create(thread.id, "all of it")
    done = {thread.id: {"records": 0, "tokens": 0, "turns": 0} for thread in threads}
    for number in range(operations):
        thread = chosen.choice(threads)
        what = chosen.choice(["append"] * 6 + ["turn", "goal", "goal", "list", "list", "rename", "turns", "log", "log", "log"])
        if what == "append":
            thread.append([{"type": "world_state", "payload": {}}] * 3)
            done[thread.id]["records"] += 3
        elif what == "turn":
            with thread.turn() as turn:
                turn.user_message(f"step {number}")
            done[thread.id]["turns"] += 1
        elif what == "goal":
            assert e.goals.account(thread.id, tokens=7).counted
            done[thread.id]["tokens"] += 7
        elif what == "list":
            ids = {row.id for row in e.threads.list(limit=0).threads}
            assert set(done) <= ids
        elif what == "rename":
            e.threads.rename(chosen.choice(sorted(ids)) if number % 2 and "ids" in globals() else thread.id, f"name {number}")
        elif what == "turns":
            page = e.turns.list(thread.id, limit=0)
            assert page.partial is not None or len(page.turns) == done[thread.id]["turns"]
        else:
            handler.write(f"step {number}", thread_id=thread.id)
    handler.flush()
    assert handler.counters.dropped == handler.counters.failures == 0
    handler.close()
    for thread in threads:
        thread.close()
print(json.dumps(done))
"""


def check(home: Path, processes: int, operations: int) -> None:
    command = [sys.executable, "-c", WORKING, str(home)]
    pipe = subprocess.PIPE
    working = [
        subprocess.Popen([*command, str(seed), str(operations)], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=CHECKOUT)
        for seed in range(processes)
    ]  # fmt: skip
    for each in working:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n", each.communicate()
    for each in working:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    done = {}
    for each in working:
        said, errors = each.communicate()
        assert each.returncode == 0, errors
        done.update(json.loads(said))
    with engine.open(str(home), options=Options(background_scan_s=0, scan_interval_ms=0, list_budget_ms=60_000)) as e:
        assert {row.id for row in e.threads.list(limit=0).threads} == set(done)
        for thread_id, counts in done.items():
            goal = e.goals.get(thread_id)
            assert goal is not None
            assert goal.tokens_used == counts["tokens"]
            kinds = [record.kind for record in e.threads.read(thread_id)]
            assert kinds.count("world_state") == counts["records"]
            assert kinds.count("event_msg.task_complete") == counts["turns"]
        assert faults(e) == []


def test_four_processes_do_all_kinds_of_work(tmp_path: Path) -> None:
    check(tmp_path, processes=4, operations=60)


@pytest.mark.soak
def test_sixteen_processes_do_a_thousand_operations_each(tmp_path: Path) -> None:
    check(tmp_path, processes=16, operations=1_000)
