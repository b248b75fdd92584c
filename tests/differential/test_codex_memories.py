"""The Codex CLI's own memories: its rows come to the very files that it wrote, and a real home goes through both phases."""

from __future__ import annotations

import json
import os
import shutil

import engine
from engine.memories.artifacts import named, raw_memories, rollout_summary
from engine.options import MemoryOptions, Options
from engine.projections.memories import Memory
from engine.testing import ManualClock

NOTICE = "Merged stage-1 raw memories (stable ascending thread-id order):"
DAY_MS = 24 * 3600 * 1000


def codex_memories(folder):
    """The outputs of that program, joined with its threads as it does."""
    rows = json.loads((folder / "rows.json").read_text("utf-8"))
    threads = {each["id"]: each for each in rows["state_5.sqlite"]["threads"]}
    return [
        Memory(
            thread_id=each["thread_id"],
            raw_memory=each["raw_memory"],
            rollout_summary=each["rollout_summary"],
            rollout_slug=each["rollout_slug"],
            source_updated_at_ms=each["source_updated_at"] * 1000,
            generated_at_ms=each["generated_at"] * 1000,
            generation=1,
            usage_count=each["usage_count"] or 0,
            last_usage_ms=each["last_usage"] and each["last_usage"] * 1000,
            selected_source_updated_at_ms=None,
            rollout_path=threads[each["thread_id"]]["rollout_path"],
            cwd=threads[each["thread_id"]]["cwd"],
            git_branch=threads[each["thread_id"]]["git_branch"],
        )
        for each in rows["memories_1.sqlite"]["stage1_outputs"]
        if each["selected_for_phase2"]
    ]


def test_its_rows_give_its_files_byte_for_byte(corpora):
    folder = corpora / "codex-0.169-memories"
    there = folder / "home/memories"
    found = named(codex_memories(folder))
    assert len(found) == 4
    assert {f"{each.stem}.md": rollout_summary(each.memory) for each in found} == {
        path.name: path.read_bytes() for path in (there / "rollout_summaries").iterdir()
    }
    ours = raw_memories(found).decode().splitlines(keepends=True)
    theirs = (there / "raw_memories.md").read_text("utf-8").splitlines(keepends=True)
    assert theirs[2] == f"{NOTICE}\n"
    assert ours[:2] + ours[3:] == theirs[:2] + theirs[3:]  # the third line is a sentence, which nothing parses


def test_a_real_home_goes_through_both_phases_and_a_second_run_does_nothing(corpora, tmp_path):
    for name in ("codex-0.169", "codex-0.169-memories", "codex-0.130-part", "codex-0.169-zst"):
        home = tmp_path / name
        shutil.copytree(corpora / name / "home", home)
        newest_ms = max(os.stat(path).st_mtime_ns for path in home.rglob("*")) // 1_000_000
        options = Options(memories=MemoryOptions(age_days=365))
        clock = ManualClock(max(newest_ms, 1_795_400_000_000) + 2 * DAY_MS)  # all of them are of November 2026
        with engine.open(str(home), options=options, clock=clock) as e:
            e.backfill()
            before = e.memories.status().coverage
            assert before.pending > 0
            report = e.memories.run()
            assert report.extracted.failed == []
            assert report.extracted.claimed == before.pending
            assert report.consolidated.status == "succeeded", report.consolidated
            after = e.memories.status()
            assert after.coverage.pending == 0
            assert after.is_ready
            assert len(after.consolidated.selected) == report.extracted.succeeded == report.consolidated.selected
            clock.advance(DAY_MS)
            again = e.memories.run()
            assert (again.extracted.claimed, again.consolidated.status) == (0, "unchanged")
            assert not [each for each in e.audit().faults if "memor" in (each.field or "")]
        assert (home / "memories/memory_summary.md").read_text("utf-8").startswith("v1\n")
        if name == "codex-0.169-memories":  # what that program had consolidated stands in front of it
            theirs = (corpora / name / "home/memories/MEMORY.md").read_text("utf-8")
            assert (home / "memories/MEMORY.md").read_text("utf-8").startswith(theirs.rstrip())
            slugs = [path.name for path in (home / "memories/rollout_summaries").iterdir() if "fake_slug" in path.name]
            assert slugs == []  # its summaries are of its rows, which this engine has none of
