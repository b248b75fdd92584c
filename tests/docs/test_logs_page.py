"""The page about logs: its example is run, and the bounds in it are those of the options."""

from __future__ import annotations

import re
from pathlib import Path

from engine.options import Options
from tests.pages import examples_of, printed_by, text_of

PAGE = text_of("LOGS.md")


def test_the_example_of_the_page_logs_and_asks(tmp_path: Path) -> None:
    (block,) = examples_of("LOGS.md")
    (tmp_path / "agent-home").mkdir()
    printed = printed_by(block, tmp_path)
    *records, exported, status = printed
    assert sorted(records) == [
        "ERROR app.net without logging True",
        "INFO app.tools ran grep in 12 ms True",
        "WARN app.tools the model was asked again False",
    ]
    assert exported == "3 lines go along with a report"
    assert status == "4 records, 3 rows, 0 dropped, lag 0"


def test_the_bounds_of_the_page_are_those_of_the_options() -> None:
    options = Options()
    mib = 1024 * 1024
    assert (options.log_segment_bytes_max, options.log_process_bytes_max) == (4 * mib, 64 * mib)
    assert (options.log_store_bytes_max, options.log_segments_max) == (256 * mib, 4_096)
    assert options.log_age_s_max == 10 * 24 * 3600
    assert (options.log_partition_rows_max, options.log_partition_bytes_max) == (1_000, 10 * mib)
    assert (options.log_rows_max, options.wal_bytes_max) == (1_000_000, 16 * mib)
    assert (options.log_interval_ms, options.log_batch_records, options.log_body_bytes_max) == (200, 1_024, 256 * 1024)
    assert {name for name in re.findall(r"`((?:log|wal)_\w+)`", PAGE) if not hasattr(options, name)} == set()
