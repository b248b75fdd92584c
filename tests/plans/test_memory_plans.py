"""How SQLite goes about the statements of memories: candidates come from an index, newest first, and nothing scans unasked."""

from __future__ import annotations

import pytest

from tests.plans.planning import planning, scanned
from tests.remembering import DAY_MS, Bench, write_both

SCANS = {
    "WITH each AS": "the coverage counts every thread",
    "SELECT count(*) FROM memory_outputs": "the same",
    "WITH selected AS": "memories, of which there are as many as threads with something to say; a few hundred are selected",
    "SELECT value FROM json_each": "the values of a parameter",
    "SELECT thread_id, outcome": "failures for good, which are few",
    "INSERT INTO memory_": "the one row of its values",
    "SELECT coalesce(max(generation), 0) FROM jobs": "once a reset",
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Statement: its plan, for all that a session with memories runs."""
    with planning() as plans:
        run_a_session(tmp_path_factory.mktemp("plans") / "home")
    return {statement: plan for statement, plan in plans.items() if "memor" in statement or " jobs" in statement}


def run_a_session(path):
    bench = Bench(path, attempts_max=1)
    threads = [bench.thread("a"), bench.thread("b"), bench.thread("bad")]
    bench.rest()

    def extract(request):
        if "bad" in request.text:
            raise ValueError
        return bench.extract(request)

    bench.run(extract, write_both)
    bench.memories.put(threads[0], trace_summary="r", memory_summary="s")
    bench.memories.get(threads[0])
    bench.memories.latest(cwd="/srv")
    bench.memories.latest()
    bench.memories.record_usage(threads)
    bench.memories.mark_polluted(threads[1])
    bench.memories.status()
    bench.rest(40 * DAY_MS)
    bench.memories.prune()
    bench.run(now=True)
    bench.memories.reset()
    bench.close()


def test_no_statement_scans_a_table_without_a_reason(planned):
    assert len(planned) > 25
    found = {statement: scanned(plan) for statement, plan in planned.items()}
    assert {
        statement: steps for statement, steps in found.items() if steps and not statement.startswith(tuple(SCANS))
    } == {}


def test_candidates_come_in_order_from_the_index_of_times(planned):
    (plan,) = [plan for statement, plan in planned.items() if statement.startswith("SELECT t.id, t.updated_at_ms")]
    assert plan[0].startswith("SEARCH t USING INDEX threads_by_updated (updated_at_ms>? AND ")
    assert scanned(plan) == []
    assert not any("TEMP B-TREE" in step for step in plan)


def test_how_many_run_is_told_by_an_index(planned):
    (plan,) = [plan for statement, plan in planned.items() if statement.startswith("SELECT host, boot_id, pid")]
    assert plan[0] == "SEARCH jobs USING INDEX jobs_by_status (kind=? AND status=?)"
