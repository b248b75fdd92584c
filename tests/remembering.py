"""What tests of memories share: a home with a clock that a test moves, and extractors that note what they were asked."""

from __future__ import annotations

import json
import os

from engine.options import MemoryOptions, Options
from engine.testing import ManualClock
from tests.writing import opened, say

HOUR_MS = 3_600_000
IDLE_MS = 12 * HOUR_MS
DAY_MS = 24 * HOUR_MS


def options(**memories):
    memories = {"heartbeat_s": 3_600.0, "parallel": 1, **memories}
    return Options(flush_delay_ms=3_600_000, scan_interval_ms=0, memories=MemoryOptions(**memories))


class Bench:
    """A home, open. `now` is its clock."""

    def __init__(self, path, clock=None, **memories):
        self.path = path
        self.clock = clock or ManualClock()
        self.options = options(**memories)
        self.engine = opened(path, self.clock, options=self.options)
        self.asked = []

    @property
    def memories(self):
        return self.engine.memories

    @property
    def root(self):
        return self.path / "memories"

    def close(self):
        self.engine.close()

    def reopen(self):
        self.engine.close()
        self.engine = opened(self.path, self.clock, options=self.options)

    def thread(self, *words, cwd="/srv", **how):
        """A thread in which this was said; its id. It is idle once twelve hours are over."""
        with self.engine.threads.create(cwd=cwd, **how) as thread:
            say(thread, *(words or ("hello",)))
            return thread.id

    def say_more(self, thread_id, *words):
        with self.engine.threads.resume(thread_id) as thread:
            say(thread, *words)

    def rest(self, ms=IDLE_MS):
        self.clock.advance(ms)

    def extract(self, request):
        """Remembers what was asked; answers with what is in the thread."""
        self.asked.append(request)
        return {
            "raw_memory": f"raw {len(self.asked)} of {request.thread_id}",
            "rollout_summary": "sum",
            "rollout_slug": None,
        }

    def run(self, extract=None, consolidate=None, **how):
        return self.memories.run(extract or self.extract, consolidate or write_both, **how)

    def extracted(self, **how):
        return self.run(consolidating=False, **how).extracted

    def consolidated(self, consolidate=None, **how):
        return self.run(consolidate=consolidate, extracting=False, **how).consolidated

    def put(self, thread_id, raw="raw", summary="sum"):
        return self.memories.put(thread_id, trace_summary=raw, memory_summary=summary)

    def file(self, name):
        return (self.root / name).read_text()

    def outcomes(self):
        """What the journal says of memories, record by record."""
        found = []
        for path in sorted((self.path / "engine/journal").glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                payload = json.loads(line)["payload"]
                if payload["type"].startswith("memory_"):
                    found.append(payload)
        return found


def write_both(request):
    """A consolidator that does what has to be done."""
    listed = sorted(os.listdir(f"{request.root}/rollout_summaries"))
    put(request.root, "MEMORY.md", "\n".join(["# Memories", *listed, ""]))
    put(request.root, "memory_summary.md", "v1\n\n## What's in Memory\n" + "\n".join(listed) + "\n")


def put(root, name, text):
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
