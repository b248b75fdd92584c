"""The numbers that bound the engine, in one frozen place.

Each field says its unit in its name and what breaks when it is changed. The library reads no environment; the command
line does.
"""

from __future__ import annotations

from dataclasses import dataclass


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
