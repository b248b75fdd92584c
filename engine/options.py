"""The numbers that bound the engine, in one frozen place.

Each field says its unit in its name and what breaks when it is changed. The library reads no environment; the command
line does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """How memories are made, in the home's threads and in its folder of memories."""

    idle_s: int = 12 * 3600
    """How long a thread must have been quiet before it is extracted; sooner costs extractions of half a conversation."""

    age_days: int = 30
    """Threads that were last changed longer ago are not extracted any more."""

    sources: Sequence[str] = ("cli", "vscode", '{"custom":"atlas"}', '{"custom":"chatgpt"}')
    """Which threads people talk in, by their source as a list shows it; what programs and sub-agents do is not extracted."""

    claimed_max: int = 64
    """How many threads one run extracts."""

    running_max: int = 64
    """How many extractions run at once over all processes of a home."""

    parallel: int = 8
    """How many extractions one run does at once."""

    scan_max: int = 5_000
    """How many candidates that others have, or that failed just now, one run looks at."""

    lease_ms: int = 3_600_000
    """How long claimed work holds without a heartbeat while its process lives."""

    heartbeat_s: float = 30.0
    """How often work says that it is alive; a lost lease is noticed no sooner."""

    attempts_max: int = 3
    """How often a thread is tried before it counts as failed; a crash is a try."""

    retry_s: int = 3_600
    """The pause after a failure, of an extraction and of a consolidation."""

    extract_timeout_s: float = 1_800.0
    """How long one call of an extractor may take."""

    consolidate_timeout_s: float = 7_200.0
    """How long the call of a consolidator may take."""

    tokens_max: int = 150_000
    """How much of a conversation an extractor is given, counted by its own counter."""

    cooldown_s: int = 6 * 3600
    """How long after a consolidation the next may begin, unless something is to be forgotten."""

    selected_max: int = 256
    """How many memories a consolidation is made of."""

    unused_days: int = 30
    """A memory that nobody used for so long is in no consolidation any more, and is pruned."""

    pruned_max: int = 200
    """How many memories one run prunes."""

    resource_days: int = 7
    """How old a dated resource of an extension may become."""

    file_bytes_max: int = 4 * 1024 * 1024
    """A larger file in the folder of memories is known by its digest alone, and not shown in a diff."""

    files_max: int = 20_000
    """More files than these in the folder of memories are no memories; nothing is done then."""

    diff_bytes_max: int = 4 * 1024 * 1024
    """How much of a diff a consolidator is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How one engine behaves. All waits, queues, batches, lines and retries have their bound here."""

    block_bytes: int = 256 * 1024
    """How much of a rollout is read at a time. Larger costs memory and page faults, smaller costs system calls."""

    line_bytes_max: int = 64 * 1024 * 1024
    """A longer line is set aside unread. Raising it raises the memory that one odd file can take."""

    set_aside_bytes_max: int = 64 * 1024
    """How many bytes of a set-aside record are stored beside its reason; the whole is in the rollout."""

    segment_bytes_max: int = 8 * 1024 * 1024
    """A journal segment that is larger is closed and a new one begun."""

    flush_delay_ms: int = 200
    """How long after an append the rows may wait for it; a query does not wait, it flushes what it asks for."""

    touch_interval_s: float = 5.0
    """How often an append that changes nothing but a thread's time may touch its row."""

    piece_bytes: int = 16 * 1024 * 1024
    """How much of a rollout is folded between two commits of a side database: what its rows take in memory at once."""

    batch_streams: int = 200
    """Streams written in one transaction: also how much work a crash can cost, and how long readers of the lock wait."""

    busy_wait_ms: int = 5_000
    """How long a database lock is waited for before `StoreBusy` names who holds it."""

    read_connections: int = 4
    """Read connections a database keeps; more readers wait their turn."""

    list_budget_ms: int = 250
    """How long a list may spend on catching up with the files before it answers with `partial`."""

    scan_interval_ms: int = 5_000
    """How old a scan of the folders may be before a list looks again."""

    spawn_bytes_min: int = 16 * 1024 * 1024
    """Less than this is folded without worker processes, which take longer to start than it takes to fold."""

    lease_ms: int = 30_000
    """How long a claimed lease holds without a heartbeat while its owner lives. A dead owner's lease is free at once."""

    spectator_poll_ms: int = 100
    """How often a process that waits for somebody else's back-fill looks at its progress."""

    background_scan_s: float = 30.0
    """How often an open engine looks at the home by itself and catches up; 0 is never. More often costs a stat a file."""

    follow_poll_ms: int = 100
    """How often a follower looks at what is busy where no event tells of changes. Lower costs processor time, higher delay."""

    follow_streams_warm: int = 1_000
    """Streams whose digest a follower can carry on; of others it reads again what it gave, once they change."""

    memories: MemoryOptions = MemoryOptions()
    """How memories are made."""
