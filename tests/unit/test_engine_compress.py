"""Cold rollouts are compressed when asked, and nobody sees a difference."""

from __future__ import annotations

from pathlib import Path

import engine
from engine.testing import HomePlan, make_home


def rows(opened: engine.Engine) -> dict[str, tuple[object, ...]]:
    listed = opened.threads.list(limit=0).threads
    return {row.id: (row.title, row.tokens_used, row.updated_at_ms, row.archived) for row in listed}


def test_compressed_rollouts_are_listed_read_and_written_as_before(tmp_path: Path) -> None:
    """The rows stay, no history is taken for another, and a resumed thread is plain again."""
    made = make_home(tmp_path, HomePlan(threads=6, seed=5, archived=0.0))
    with engine.open(str(tmp_path)) as opened:
        opened.backfill()
        before, history = rows(opened), [list(opened.threads.read(thread.id)) for thread in made]
        report = opened.compress(older_than_days=0)
        assert len(report.compressed) == len(made) + sum(len(thread.older_paths) for thread in made)
        assert report.bytes_after < report.bytes_before
        assert not list(tmp_path.glob("sessions/**/*.jsonl"))
        assert opened.backfill().status == "complete"
        assert rows(opened) == before
        assert [list(opened.threads.read(thread.id)) for thread in made] == history
        assert (opened.status().counters["divergences"], opened.audit().findings) == (0, [])
        with opened.threads.resume(made[0].id, adopt=True) as thread, thread.turn() as turn:
            turn.user_message("awake again")
        assert [path.name for path in tmp_path.glob("sessions/**/*.jsonl")] == [Path(made[0].path).name]
        assert opened.audit().findings == []


def test_a_thread_that_is_open_is_passed_over(tmp_path: Path) -> None:
    make_home(tmp_path, HomePlan(threads=1, seed=5, archived=0.0, reverted=0.0))
    with engine.open(str(tmp_path)) as opened:
        (row,) = opened.threads.list(limit=0).threads
        with opened.threads.resume(row.id, adopt=True):
            report = opened.compress(older_than_days=0)
        assert (report.compressed, sum(report.skipped.values())) == ([], 1)
