"""The commands of memories: how they stand, make them, what was used, look at them, forget them all.

`run` uses the rules that ship with the engine, which need no model; an application that has one calls
`engine.memories.run` with functions of its own (docs/MEMORIES.md).
"""

from __future__ import annotations

import sys
import threading
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from engine.cli import DONE, FINDINGS, output
from engine.cli.asked import Asked, text
from engine.cli.commands import Answer
from engine.cli.parsed import Home, Json, StateDir, command, group
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    from engine.memories.parts import MemoryProgress
    from engine.memories.phase1 import ExtractReport
    from engine.memories.phase2 import ConsolidateReport
    from engine.memories.service import MemoryStatus, RunReport
    from engine.projections.memories import Memory

_ID = "019ddd9d-f053-7991-a505-b639f6b80c15"
_SHOWN_AFTER_S = 0.5
_FAILED_SHOWN = 20
_PATHS_SHOWN = 20
_TITLE_MIN = 20

app = typer.Typer(rich_markup_mode=None)


class Phase(StrEnum):
    """Which half of a run to do."""

    extract = "extract"
    consolidate = "consolidate"


@app.callback(invoke_without_command=True)
def root(context: typer.Context, home: Home = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """What was learned in threads, kept across threads."""
    group(context, Asked(home, state_dir, as_json))


@command(app, "status", "rolloutdb memories status", "rolloutdb memories status --json | jq .coverage")
def status(asked: Asked) -> Answer:
    """Tell how many threads have a memory, which failed and why, and how the last consolidation went."""
    with asked.open() as engine:
        found = engine.memories.status()
    if found.partial is not None:
        output.remark("Not all threads are indexed yet, so some are not counted; run `rolloutdb backfill`.")
    return Answer(found, DONE, lambda console: _show_status(console, found))


@command(
    app,
    "run",
    "rolloutdb memories run",
    "rolloutdb memories run --phase extract --limit 10",
    "rolloutdb memories run --now --json",
)
def run(
    asked: Asked,
    phase: Annotated[Phase | None, typer.Option("--phase", help="Only this half.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=0, metavar="N", help="Extract at most N threads.")] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Consolidate though the last time is less than six hours ago.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also threads that were given up after three tries.")
    ] = False,
    allow_mass_deletion: Annotated[
        bool,
        typer.Option("--allow-mass-deletion", help="Delete summaries of threads of which nothing is recorded."),
    ] = False,
) -> Answer:
    """Extract threads that have been idle for 12 hours, then consolidate what they came to.

    It uses the rules that ship with the engine, and no model. Any number of processes may run it; each thread is extracted
    by one of them, and one consolidates. It may be stopped at any time.
    Findings (exit code 1) are threads that failed and a consolidation that could not be taken; `memories status` tells why.
    """
    return make(
        asked,
        extracting=phase is not Phase.consolidate,
        consolidating=phase is not Phase.extract,
        limit=limit,
        now=now,
        retry_failed=retry_failed,
        allow_mass_deletion=allow_mass_deletion,
    )


def make(asked: Asked, **how: Any) -> Answer:
    """One run, as `Memories.run` takes its keywords."""
    with asked.open() as engine, _Bar() as bar:
        engine.backfill()  # threads that nobody indexed yet have memories, too
        report = engine.memories.run(progress=bar.show, **how)
    failed = report.extracted is not None and bool(report.extracted.failed)
    refused = report.consolidated is not None and report.consolidated.status == "failed"
    return Answer(report, FINDINGS if failed or refused else DONE, lambda console: _show_run(console, report))


@command(app, "usage", f"rolloutdb memories usage {_ID}", "rolloutdb memories usage --answer answer.txt")
def usage(
    asked: Asked,
    thread_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Threads whose memory was used.")
    ] = None,
    answer_file: Annotated[
        str | None,
        typer.Option("--answer", metavar="FILE", help="A model's answer, with its citations; - is standard input."),
    ] = None,
) -> Answer:
    """Count that memories were used; what is used more is consolidated first and kept longer."""
    if (answer_file is None) == (not thread_ids):
        raise InvalidRequest("Nothing says what was used.", hint="Give one or more IDs, or --answer FILE.")
    known = [text(each, "The id") for each in thread_ids or []]
    if answer_file is not None:
        from engine.memories.citations import parse_citations

        cited = parse_citations(_read(answer_file))
        known = [] if cited is None else cited.thread_ids
    with asked.open() as engine:
        counted = engine.memories.record_usage(known)
    words = f"{counted} of {len(known)} were counted."
    return Answer({"counted": counted, "thread_ids": known}, DONE, lambda console: _print(console, words))


@command(
    app, "show", "rolloutdb memories show", f"rolloutdb memories show {_ID}", "rolloutdb memories show --file MEMORY.md"
)
def show(
    asked: Asked,
    thread_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One thread's memory.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="PATH", help="A file of the folder of memories.")
    ] = None,
    cwd: Annotated[
        str | None, typer.Option("--cwd", metavar="FOLDER", help="Only of threads in exactly this folder.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, metavar="N", help="At most N of the newest.")] = 20,
) -> Answer:
    """Show the newest memories, one thread's, or a file that a consolidation made."""
    if thread_id is not None and file is not None:
        raise InvalidRequest("A thread and a file are not shown at once.", hint="Give one of them.")
    with asked.open() as engine:
        if file is not None:
            return _show_file(engine.memories.read(text(file, "--file")), file)
        if thread_id is not None:
            return _show_one(engine.memories.get(text(thread_id, "The id")), thread_id)
        return _show_latest(engine.memories.latest(limit=limit, cwd=None if cwd is None else text(cwd, "--cwd")))


@command(app, "reset", "rolloutdb memories reset --yes")
def reset(
    asked: Asked,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> Answer:
    """Forget every memory, and empty the folder of memories with its notes and skills.

    Threads and their memory modes stay, so threads of the last 30 days are extracted anew by the next run.
    """
    with asked.open() as engine:
        found = engine.memories.status()
        if not yes and not _confirmed(asked, found):
            return Answer({"reset": False}, DONE, lambda console: _print(console, "Nothing was forgotten."))
        engine.memories.reset()
    return Answer({"reset": True}, DONE, lambda console: _print(console, f"{found.root} is empty."))


def _confirmed(asked: Asked, found: MemoryStatus) -> bool:
    if asked.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidRequest("Nobody is there to be asked.", hint="Add --yes to forget every memory.")
    output.remark(f"{found.coverage.outputs} memories and all of {found.root} would be gone.")
    return typer.confirm("Forget them?", err=True)


def _read(path: str) -> str:
    from engine.stores.files import Files

    if path == "-":
        return sys.stdin.read()
    data = Files().read_all(path, bytes_max=64 * 1024 * 1024, op="memories.answer")
    if data is None:
        raise InvalidRequest(f"{path} cannot be read.", hint="Name a file, or - for standard input.")
    return data.decode("utf-8", "replace")


def _show_file(found: str | None, path: str) -> Answer:
    if found is None:
        raise InvalidRequest(f"There is no file {path} among the memories.", hint="MEMORY.md is the handbook.")
    content: str = found
    return Answer({"path": path, "text": content}, DONE, lambda console: _print(console, content.rstrip("\n")))


def _show_one(found: Memory | None, thread_id: str) -> Answer:
    if found is None:
        raise InvalidRequest(
            f"The thread {thread_id} has no memory.", hint="`rolloutdb memories status` says how many have one."
        )
    memory: Memory = found

    def show_memory(console: Console) -> None:
        from rich.markup import escape

        used = f"used {memory.usage_count} times" if memory.usage_count else "never used"
        where = output.plain(memory.cwd or "unknown")
        console.print(f"[bold]{memory.thread_id}[/bold]  {escape(where)}  {used}", highlight=False, soft_wrap=True)
        _print(console, f"\n{_lines(memory.rollout_summary)}\n\n{_lines(memory.raw_memory)}")

    return Answer(memory, DONE, show_memory)


def _show_latest(found: list[Memory]) -> Answer:
    def show_all(console: Console) -> None:
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
            _print(console, "No memories.")

    return Answer({"memories": found}, DONE, show_all)


def _show_status(console: Console, found: MemoryStatus) -> None:
    from engine.cli.tables import ago
    from engine.clock import SystemClock

    now_ms, covered = SystemClock().wall_ms(), found.coverage
    done = covered.current + covered.empty
    _print(console, f"{done} of {covered.threads} threads are covered; {covered.empty} had nothing to remember.")
    for count, said in (
        (covered.pending, "are to be extracted: `rolloutdb memories run`"),
        (covered.waiting, "are not idle for long enough yet"),
        (covered.too_old, "are too old to be extracted"),
        (covered.failed, "were given up"),
        (covered.excluded, "more are left out: archived, disabled, without a prompt, or of another source"),
    ):
        if count:
            _print(console, f"  {count} {said}")
    for failed in found.failed[:_FAILED_SHOWN]:
        tries = "for good" if failed.for_good else f"try {failed.attempts}"
        _print(console, f"  {failed.thread_id} failed ({tries}): {output.plain(failed.reason or 'no reason given')}")
    if len(found.failed) > _FAILED_SHOWN:
        _print(console, f"  and {len(found.failed) - _FAILED_SHOWN} more failed; --json names them")
    for running in found.running:
        _print(console, f"  {running.key} is being extracted by {running.owner}")
    last = found.consolidated
    if found.consolidating:
        _print(console, f"{found.consolidating[0].owner} is consolidating.")
    if last.at_ms is None:
        _print(console, "Nothing was consolidated yet.")
    else:
        why = f": {output.plain(last.reason)}" if last.reason else ""
        _print(console, f"The last consolidation {last.outcome} ({ago(last.at_ms, now_ms)}){why}.")
    if last.selected:
        _print(console, f"{len(last.selected)} memories are in {output.plain(found.root)}.")
    if found.to_forget:
        _print(console, f"{len(found.to_forget)} threads are to be forgotten by the next consolidation.")


def _show_run(console: Console, report: RunReport) -> None:
    if report.pruned:
        _print(console, f"{report.pruned} memories that nobody used were pruned.")
    if report.extracted is not None:
        _show_extracted(console, report.extracted)
    if report.consolidated is not None:
        _show_consolidated(console, report.consolidated)


def _show_extracted(console: Console, done: ExtractReport) -> None:
    words = f"{done.succeeded} of {done.claimed} threads gave a memory, {done.no_output} had nothing to remember."
    _print(console, words)
    for thread_id, reason in done.failed[:_FAILED_SHOWN]:
        _print(console, f"  {thread_id} failed: {output.plain(reason)}")
    if done.lost:
        _print(console, f"  {done.lost} were taken over by another process.")


_STATUSES = {
    "unchanged": "Nothing changed, so nothing was consolidated.",
    "nothing_to_do": "There is nothing to consolidate yet.",
    "running": "Another process is consolidating.",
    "backoff": "The last consolidation failed; the next may begin an hour after it.",
    "cooldown": "The last consolidation is less than six hours ago; --now does not wait.",
    "lost": "Another process took the consolidation over; nothing of this one was taken.",
}


def _show_consolidated(console: Console, done: ConsolidateReport) -> None:
    if done.baseline == "rebuilt":
        _print(
            console,
            f"The baseline was damaged and was built again; the old text of {done.baseline_lost} files is lost.",
        )
    if done.status == "failed":
        _print(console, f"The consolidation failed, and nothing was changed: {output.plain(done.reason or '')}")
    elif done.status != "succeeded":
        _print(console, _STATUSES.get(done.status, done.status))
    else:
        began = "A consolidation that was cut short was finished" if done.recovered else "Consolidated"
        _print(console, f"{began}: {done.selected} memories, {len(done.changes)} changes.")
        _list(console, "taken", done.taken)
    _list(console, "kept, since somebody changed it meanwhile:", done.kept)
    _list(console, "not taken, since only the handbook, its summary and skills are:", done.ignored)


def _list(console: Console, words: str, paths: list[str]) -> None:
    for path in paths[:_PATHS_SHOWN]:
        _print(console, f"  {words} {path}")
    if len(paths) > _PATHS_SHOWN:
        _print(console, f"  {words} {len(paths) - _PATHS_SHOWN} more")


def _lines(text_: str) -> str:
    """Several lines, each with its indent and without what a terminal would obey."""
    return "\n".join(_indent(line) + output.plain(line) for line in text_.splitlines())


def _indent(line: str) -> str:
    return " " * (len(line) - len(line.lstrip(" "))) if line.strip() else ""


def _print(console: Console, words: str) -> None:
    console.print(_lines(words), markup=False, highlight=False, soft_wrap=True)


class _Bar:
    """Shows how far a run is, where somebody looks on and it takes longer than half a second."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._last: MemoryProgress | None = None
        self._bar: RichProgress | None = None
        self._task: Any = None
        self._timer: threading.Timer | None = None
        self._closed = False

    def show(self, progress: MemoryProgress) -> None:
        """Take note of how far it is."""
        with self._mutex:
            self._last = progress
            if self._bar is not None:
                self._update()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._timer = threading.Timer(_SHOWN_AFTER_S, self._start)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._mutex:
            self._closed = True
            if self._bar is not None:
                self._bar.stop()

    def _start(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        from engine.cli import tables

        with self._mutex:
            if self._closed:
                return
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[what]}", markup=False),
                console=tables.console(sys.stderr),
                transient=True,
            )
            self._task = self._bar.add_task("indexing", total=1, what="")
            self._update()
            self._bar.start()

    def _update(self) -> None:
        if self._bar is None or self._last is None:
            return
        now = self._last
        self._bar.update(self._task, description=now.phase, completed=now.done, total=max(now.total, 1), what=now.what)
