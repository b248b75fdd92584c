"""How SQLite goes about the statements on the table of logs, planned in the migrated database while they are run."""

from __future__ import annotations

import pytest

from engine.clock import SystemClock
from engine.options import Options
from tests.log_home import Process, opened
from tests.plans.planning import planning, scanned

SCANS = {
    'SELECT number, path, "offset", device, inode FROM segments': "once a filling, which has to stat every segment",
    "SELECT coalesce(sum(rows), 0) FROM partitions": "a total, of at most a row a thread and a process",
    "SELECT coalesce(sum(records), 0), coalesce(sum(dropped), 0)": "asked for by status, a row a segment",
    "SELECT number, severity, level, module, file FROM sites": "a filter by level or place looks at every place",
    "SELECT count(*) FROM sites": "only where a place is new",
    "DELETE FROM sites WHERE number NOT IN": "once in 20,000 places",
    "DELETE FROM logs WHERE id IN (SELECT id FROM logs ORDER BY id LIMIT :limit)": "the first so many",
    'SELECT id, segment, "offset", delay, site, partition FROM logs WHERE true': "in the order of ids, until the page is full",
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Statement (white space made even): its plan, for all that filling, asking, bounding and erasing run."""
    with planning() as plans, pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.projections.log_rows.SITES_MAX", 3)
        run_all(tmp_path_factory.mktemp("home"))
    return plans


def run_all(home):
    options = Options(log_partition_rows_max=3, log_rows_max=6, log_segment_bytes_max=900, log_fill_budget_ms=60_000)
    process = Process(home, clock=SystemClock(), options=options)
    with opened(home, options=options) as e:
        for index in range(12):
            process.log("x", f"t-{index % 3}" if index % 2 else None, target=f"t{index}", module="m", file="f")
            e.logs.fill()
        e.logs.query(after_id=1, from_us=1, to_us=1 << 60, level="info", modules=["m"], files=["f"], search="x")
        e.logs.query(thread_ids=["t-1"], threadless=True, after_id=1, level="info", newest_first=False)
        e.logs.export(["t-0", "t-1"])
        e.logs.status()
        min((home / "engine/logs").rglob("*.jsonl")).unlink()
        e.logs.fill()
        e._log_table.forget(["t-1"])


def test_what_is_run_is_planned(planned):
    assert len([statement for statement in planned if "logs" in statement]) >= 12
    for beginning in SCANS:
        assert any(statement.startswith(beginning) for statement in planned), f"nothing runs {beginning!r} any more"


def test_no_statement_scans_a_table_without_a_reason(planned):
    tables = ("logs", "segments", "sites", "partitions", "filled")
    ours = {statement: plan for statement, plan in planned.items() if any(table in statement for table in tables)}
    found = {statement: scanned(plan) for statement, plan in ours.items()}
    assert {
        statement: steps for statement, steps in found.items() if steps and not statement.startswith(tuple(SCANS))
    } == {}


def test_no_rows_are_sorted(planned):
    assert [plan for plan in planned.values() if any("TEMP B-TREE" in step for step in plan)] == []


def test_a_thread_is_read_from_its_part_of_the_index(planned):
    found = [plan for statement, plan in planned.items() if "AND partition = :partition" in statement]
    assert len(found) >= 2
    for plan in found:
        assert plan[0].startswith("SEARCH logs USING INDEX logs_by_partition (partition=?")
