"""What the commands of memories say to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.cli import output

if TYPE_CHECKING:
    from rich.console import Console

    from engine.cli.progress import Look
    from engine.memories.parts import MemoryProgress
    from engine.memories.phase1 import ExtractReport
    from engine.memories.phase2 import ConsolidateReport
    from engine.memories.service import MemoryStatus, RunReport
    from engine.projections.memories import Memory

_FAILED_SHOWN = 20
_PATHS_SHOWN = 20
_TITLE_MIN = 20


def look(name: str, now: MemoryProgress, _speed: float | None) -> Look:
    """A run, as a bar shows it: threads of an extraction, steps of a consolidation."""
    from engine.cli.progress import Look

    what = output.plain(now.what)
    return Look(f"{name} ({now.phase})", now.done, max(now.total, now.done), f"{now.done}/{now.total}  {what}")


def show_memory(console: Console, memory: Memory) -> None:
    """One thread's memory, all of it."""
    from rich.markup import escape

    used = f"used {memory.usage_count} times" if memory.usage_count else "never used"
    where = output.plain(memory.cwd or "unknown")
    console.print(f"[bold]{memory.thread_id}[/bold]  {escape(where)}  {used}", highlight=False, soft_wrap=True)
    say(console, f"\n{lines(memory.rollout_summary)}\n\n{lines(memory.raw_memory)}")


def show_latest(console: Console, found: Sequence[Memory]) -> None:
    """A line a memory."""
    from engine.cli.tables import ago
    from engine.clock import SystemClock

    now_ms = SystemClock().wall_ms()
    for each in found:
        first = next((line for line in each.rollout_summary.splitlines() if line.strip()), "")
        head = f"{each.thread_id}  {ago(each.source_updated_at_ms, now_ms):<12}  used {each.usage_count:<4} "
        room = max(console.width - len(head), _TITLE_MIN)
        title = output.plain(first.lstrip("# "))
        line = head + (title if len(title) <= room else f"{title[: room - 1]}…")
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not found:
        say(console, "No memories.")


def show_status(console: Console, found: MemoryStatus) -> None:
    """How memories stand."""
    _show_coverage(console, found)
    if not found.has_jobs:
        say(console, "The database of jobs cannot be opened, so none can be made: run `rolloutdb audit`.")
    _show_last(console, found)


def _show_coverage(console: Console, found: MemoryStatus) -> None:
    covered = found.coverage
    done = covered.current + covered.empty
    say(console, f"{done} of {covered.threads} threads are covered; {covered.empty} had nothing to remember.")
    for count, said in (
        (covered.pending, "are to be extracted: `rolloutdb memories run`"),
        (covered.waiting, "are not idle for long enough yet"),
        (covered.too_old, "are too old to be extracted"),
        (covered.failed, "were given up"),
        (covered.excluded, "more are left out: archived, disabled, without a prompt, or of another source"),
    ):
        if count:
            say(console, f"  {count} {said}")
    for failed in found.failed[:_FAILED_SHOWN]:
        tries = "for good" if failed.for_good else f"try {failed.attempts}"
        say(console, f"  {failed.thread_id} failed ({tries}): {output.plain(failed.reason or 'no reason given')}")
    if len(found.failed) > _FAILED_SHOWN:
        say(console, f"  and {len(found.failed) - _FAILED_SHOWN} more failed; --json names them")
    for running in found.running:
        say(console, f"  {running.key} is being extracted by {running.owner}")


def _show_last(console: Console, found: MemoryStatus) -> None:
    from engine.cli import tables
    from engine.clock import SystemClock

    now_ms = SystemClock().wall_ms()
    last = found.consolidated
    if found.consolidating:
        say(console, f"{found.consolidating[0].owner} is consolidating.")
    if last.at_ms is None:
        say(console, "Nothing was consolidated yet.")
    else:
        why = f": {output.plain(last.reason)}" if last.reason else ""
        say(console, f"The last consolidation {last.outcome} ({tables.ago(last.at_ms, now_ms)}){why}.")
    if last.selected:
        size = tables.size(found.storage_bytes)
        say(console, f"{len(last.selected)} memories are in {output.plain(found.root)} ({size}).")
    if found.to_forget:
        say(console, f"{len(found.to_forget)} threads are to be forgotten by the next consolidation.")


def show_run(console: Console, report: RunReport) -> None:
    """What a run did."""
    if report.pruned:
        say(console, f"{report.pruned} memories that nobody used were pruned.")
    if report.extracted is not None:
        _show_extracted(console, report.extracted)
    if report.consolidated is not None:
        _show_consolidated(console, report.consolidated, report.root)


def _show_extracted(console: Console, done: ExtractReport) -> None:
    words = f"{done.succeeded} of {done.claimed} threads gave a memory, {done.no_output} had nothing to remember."
    say(console, words)
    for thread_id, reason in done.failed[:_FAILED_SHOWN]:
        say(console, f"  {thread_id} failed: {output.plain(reason)}")
    if done.lost:
        say(console, f"  {done.lost} were taken over by another process.")


_STATUSES = {
    "unchanged": "Nothing changed, so nothing was consolidated.",
    "nothing_to_do": "There is nothing to consolidate yet.",
    "running": "Another process is consolidating.",
    "backoff": "The last consolidation failed; the next may begin an hour after it.",
    "cooldown": "The last consolidation is less than six hours ago; --now does not wait.",
    "lost": "Another process took the consolidation over; nothing of this one was taken.",
}


def _show_consolidated(console: Console, done: ConsolidateReport, root: str) -> None:
    if done.baseline == "rebuilt":
        say(
            console,
            f"The baseline was damaged and was built again; the old text of {done.baseline_lost} files is lost.",
        )
    if done.status == "failed":
        say(console, f"The consolidation failed, and nothing was changed: {output.plain(done.reason or '')}")
    elif done.status != "succeeded":
        say(console, _STATUSES.get(done.status, done.status))
    else:
        began = "A consolidation that was cut short was finished" if done.recovered else "Consolidated"
        say(console, f"{began}: {done.selected} memories, {len(done.changes)} changes, in {output.plain(root)}.")
        _list(console, "taken", done.taken)
    _list(console, "kept, since somebody changed it meanwhile:", done.kept)
    _list(console, "not taken, since only the handbook, its summary and skills are:", done.ignored)


def _list(console: Console, words: str, paths: list[str]) -> None:
    for path in paths[:_PATHS_SHOWN]:
        say(console, f"  {words} {path}")
    if len(paths) > _PATHS_SHOWN:
        say(console, f"  {words} {len(paths) - _PATHS_SHOWN} more")


def lines(text: str) -> str:
    """Several lines, each with its indent and without what a terminal would obey."""
    return "\n".join(_indent(line) + output.plain(line) for line in text.splitlines())


def _indent(line: str) -> str:
    return " " * (len(line) - len(line.lstrip(" "))) if line.strip() else ""


def say(console: Console, words: str) -> None:
    """Some lines, as they are."""
    console.print(lines(words), markup=False, highlight=False, soft_wrap=True)
