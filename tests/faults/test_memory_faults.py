"""File calls of a consolidation made to fail once: nothing half is live, nothing pending is lost, the next run is whole."""

from __future__ import annotations

import errno
import os

import pytest

import engine
from engine.stores.files import Files
from engine.stores.workspace import changes_between
from engine.testing.files import FaultyFiles, RecordingFiles
from tests.remembering import Bench, options, put, write_both

OURS = ("workspace.", "memories.", "baseline.")
WRITING = {"create", "write", "sync", "rename", "remove", "ensure_folder", "scan", "open_read", "sync_folder"}


def prepared(path):
    """A home that is consolidated once, with a memory more and an edit by hand; its threads."""
    bench = Bench(path)
    threads = [bench.thread("one"), bench.thread("two")]
    bench.put(threads[0])
    bench.consolidated()
    bench.put(threads[1])
    put(str(bench.root), "MEMORY.md", bench.file("MEMORY.md") + "by hand\n")
    bench.close()
    return bench


def consolidate(path, clock, files):
    with engine.open(str(path), clock=clock, options=options(), files=files) as e:
        return e.memories.run(extracting=False, consolidate=write_both, now=True).consolidated


def calls_of(path):
    bench = prepared(path)
    files = RecordingFiles(Files())
    consolidate(path, bench.clock, files)
    return [
        (number, call) for number, call in enumerate(files.calls) if call.op.startswith(OURS) and call.name in WRITING
    ]


@pytest.mark.parametrize("share", range(4))
def test_any_call_that_fails_leaves_what_the_next_run_understands(tmp_path, share):
    calls = calls_of(tmp_path / "clean")
    assert len(calls) > 40
    struck = 0
    seen = set()
    for number, (_, call) in enumerate(calls):
        # Of calls of one name and op the first, the second and the last are struck: the others are the same line of code.
        same = [at for at, (_, each) in enumerate(calls) if (each.name, each.op) == (call.name, call.op)]
        which = (call.name, call.op, same.index(number))
        if number not in (same[0], same[min(1, len(same) - 1)], same[-1]) or number % 4 != share or which in seen:
            continue
        seen.add(which)
        home = tmp_path / f"home{number}"
        bench = prepared(home)
        hand = (home / "memories/MEMORY.md").read_text()
        count = iter(range(1_000_000))
        nth = same.index(number)

        def fault(_, each, call=call, count=count, nth=nth):
            return errno.ENOSPC if (each.name, each.op) == (call.name, call.op) and next(count) == nth else None

        files = FaultyFiles(Files(), fault)
        first = consolidate(home, bench.clock, files)
        struck += bool(files.struck)
        live = (home / "memories/MEMORY.md").read_text()
        assert live == hand or live.startswith("# Memories\n2"), (call, live)  # the person's, or the whole result
        bench.clock.advance(3_600_000)
        second = consolidate(home, bench.clock, Files())
        assert second.status in ("succeeded", "unchanged"), (call, first, second)
        check(home, bench, call)
    assert struck > 3


def check(home, bench, call):
    with engine.open(str(home), clock=bench.clock, options=options()) as e:
        from engine.memories.place import workspace_of

        workspace = workspace_of(e.memories._parts)
        assert changes_between(workspace.baseline(), workspace.look()) == [], call
        assert len(e.memories.status().consolidated.selected) == 2, call
    listed = sorted(os.listdir(home / "memories/rollout_summaries"))
    assert (home / "memories/MEMORY.md").read_text() == "\n".join(["# Memories", *listed, ""]), call
    assert os.listdir(home / "engine/work") == [], call
