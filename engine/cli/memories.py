"""The commands of memories: how they stand, make them, what was used, look at them, forget them all.

`run` uses the rules that ship with the engine, which need no model; an application that has one calls
`engine.memories.run` with functions of its own (docs/MEMORIES.md).
"""

from __future__ import annotations

import sys
from enum import StrEnum
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli import DONE, FINDINGS, output
from engine.cli.asked import Asked, text
from engine.cli.commands import Answer
from engine.cli.parsed import Home, Json, StateDir, command, group
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from engine.memories.service import MemoryStatus
    from engine.projections.memories import Memory

_ID = "019ddd9d-f053-7991-a505-b639f6b80c15"

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
    return Answer(found, DONE, lambda console: _shown().show_status(console, found))


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
    from engine.cli.progress import Bar

    with asked.open() as engine:
        with Bar("indexing") as bar:
            engine.backfill(progress=bar.show)  # threads that nobody indexed yet have memories, too
        with Bar("making memories", _shown().look, begin="looking for threads") as bar:
            report = engine.memories.run(progress=bar.show, **how)
    failed = report.extracted is not None and bool(report.extracted.failed)
    refused = report.consolidated is not None and report.consolidated.status == "failed"
    return Answer(report, FINDINGS if failed or refused else DONE, lambda console: _shown().show_run(console, report))


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
    return Answer({"counted": counted, "thread_ids": known}, DONE, lambda console: _shown().say(console, words))


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
        found = engine.memories.latest(limit=limit, cwd=None if cwd is None else text(cwd, "--cwd"))
    return Answer({"memories": found}, DONE, lambda console: _shown().show_latest(console, found))


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
            return Answer({"reset": False}, DONE, lambda console: _shown().say(console, "Nothing was forgotten."))
        engine.memories.reset()
    return Answer({"reset": True}, DONE, lambda console: _shown().say(console, f"{found.root} is empty."))


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
    return Answer({"path": path, "text": content}, DONE, lambda console: _shown().say(console, content.rstrip("\n")))


def _show_one(found: Memory | None, thread_id: str) -> Answer:
    if found is None:
        raise InvalidRequest(
            f"The thread {thread_id} has no memory.", hint="`rolloutdb memories status` says how many have one."
        )
    memory: Memory = found
    return Answer(memory, DONE, lambda console: _shown().show_memory(console, memory))


def _shown() -> ModuleType:
    from engine.cli import memories_shown

    return memories_shown
