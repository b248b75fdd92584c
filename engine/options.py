"""The numbers that bound the engine, in one frozen place.

Each field says its unit in its name and what breaks when it is changed. The library reads no environment; the command
line does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


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

    keeps: Literal["ends", "evidence"] = "ends"
    """What stays of a conversation that is too long: its beginning and end, or what people said and how it ended before what
    tools did, from wherever in it."""

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

    tools: bool = False
    """Whether `Memories.tools` gives a model tools to list, read and search memories, beside the summary that it is shown."""


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

    goals: bool = True
    """Whether threads have goals: without, every call of `engine.goals` is refused, and a fork is given none."""

    follow_poll_ms: int = 100
    """How often a follower looks at what is busy where no event tells of changes. Lower costs processor time, higher delay."""

    follow_streams_warm: int = 1_000
    """Streams whose digest a follower can carry on; of others it reads again what it gave, once they change."""

    log_queue_records_max: int = 8_192
    """Log records that may wait for the writer thread; a full queue drops the newest, and the log says how many."""

    log_queue_bytes_max: int = 16 * 1024 * 1024
    """What they may take in memory."""

    log_batch_records: int = 1_024
    """So many waiting log records are written at once, without waiting for `log_interval_ms`."""

    log_interval_ms: int = 200
    """How long a log record may wait for others to be written with: what a killed process loses of its log."""

    log_close_wait_ms: int = 2_000
    """How long closing a log handler, and the end of the process, waits for what is still to be written."""

    log_body_bytes_max: int = 256 * 1024
    """What a log record says beyond this is cut, and marked."""

    log_segment_bytes_max: int = 4 * 1024 * 1024
    """A log segment that is larger is closed and a new one begun; whole segments are what retention removes."""

    log_process_bytes_max: int = 64 * 1024 * 1024
    """Log segments of one process beyond this are removed, the oldest first."""

    log_store_bytes_max: int = 256 * 1024 * 1024
    """Log segments of a home beyond this are removed, the oldest first; those being written are never."""

    log_segments_max: int = 4_096
    """Log segments of a home: of many short processes each leaves a small one."""

    log_age_s_max: int = 10 * 24 * 3600
    """Older log segments and rows are removed."""

    log_levels: tuple[tuple[str, str], ...] = (("", "INFO"),)
    """Which log records get a row: (target, least level), the longest target that fits decides; the empty one fits all."""

    log_partition_bytes_max: int = 10 * 1024 * 1024
    """Estimated bytes of the log records of a thread, or of a process beside threads, that keep their rows."""

    log_partition_rows_max: int = 1_000
    """Rows of the log records of a thread, or of a process beside threads."""

    log_rows_max: int = 1_000_000
    """Rows of all log records of a home: some 50 bytes each."""

    log_fill_records: int = 50_000
    """Log records that are looked at between two transactions on the table of logs. More write less: what would be removed
    again in the same transaction is not written at all."""

    log_fill_bytes_min: int = 256 * 1024
    """The background leaves less than this, and less than the table has (up to 16 MiB), to whoever asks: a transaction writes
    whole pages, whatever it is for."""

    log_fill_budget_ms: int = 1_000
    """How long a question about logs may fill the table before it answers with what there is, and tells the lag."""

    log_export_bytes_max: int = 10 * 1024 * 1024
    """A feedback export is no longer than this."""

    wal_bytes_max: int = 16 * 1024 * 1024
    """At this size of its -wal the table of logs is not filled on, until the reader who keeps it from shrinking is done."""

    memories: MemoryOptions = MemoryOptions()
    """How memories are made."""
