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
