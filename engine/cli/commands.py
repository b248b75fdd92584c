"""What each command does: ask the library, and give what it answered in both forms, with the exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.cli import DONE, FINDINGS, output
from engine.cli.asked import Asked, folder, text

if TYPE_CHECKING:
    from rich.console import Console

    from engine.projections.backfill import BackfillReport
    from engine.projections.catchup import Partial
    from engine.projections.thread_list import SortKey


class Answer(NamedTuple):
    """A command's answer: `document` for `--json`, `show` for people."""

    document: Any
    exit_code: int
    show: Callable[[Console], None]


def deliver(asked: Asked, answer: Answer) -> int:
    """Print an answer in the form that was asked for; its exit code."""
    if asked.as_json:
        output.print_json(answer.document)
    else:
        from engine.cli import tables

        answer.show(tables.console())
    return answer.exit_code


def status(asked: Asked) -> Answer:
    """How the home stands."""
    with asked.open() as engine:
        found = engine.status()
    return Answer(found, DONE, lambda console: _tables().show_status(console, found))


def backfill(asked: Asked, *, workers: int | None, projection: str | None = None) -> Answer:
    """Catch up with every rollout, for one projection or all."""
    from engine.cli.progress import Bar

    with asked.open() as engine, Bar("indexing") as bar:
        report = engine.backfill(projection, workers=_workers(workers), progress=bar.show)
    return _filled(report, anew=False)


def rebuild(
    asked: Asked, *, workers: int | None, thread_id: str | None = None, projection: str | None = None
) -> Answer:
    """Fold every rollout anew, or those of one thread or projection."""
    from engine.cli.progress import Bar

    thread_id = None if thread_id is None else text(thread_id, "The id")
    with asked.open() as engine, Bar("rebuilding") as bar:
        report = engine.rebuild(thread_id, projection, workers=_workers(workers), progress=bar.show)
    return _filled(report, anew=True)


def _filled(report: BackfillReport, *, anew: bool) -> Answer:
    code = FINDINGS if report.failed else DONE
    return Answer(report, code, lambda console: _tables().show_backfill(console, report, anew=anew))


def audit(asked: Asked, *, deep: bool) -> Answer:
    """Compare rows and files."""
    from engine.cli.progress import Bar

    with asked.open() as engine, Bar("auditing") as bar:
        report = engine.audit(deep=deep, progress=bar.show)
    code = FINDINGS if report.faults else DONE
    return Answer(report, code, lambda console: _tables().show_audit(console, report))


class Wanted(NamedTuple):
    """Which threads to list, and in which order."""

    limit: int
    cursor: str | None
    sort_key: SortKey
    ascending: bool
    filters: Mapping[str, Any]
    """As `Threads.list` has them; a list is of one or more values."""


def list_threads(asked: Asked, wanted: Wanted) -> Answer:
    """A page of threads; tells on standard error when it does not cover every file yet."""
    with asked.open() as engine:
        page = engine.threads.list(
            limit=wanted.limit,
            cursor=wanted.cursor,
            sort_key=wanted.sort_key,
            sort_direction="asc" if wanted.ascending else "desc",
            counts=True,
            **{name: _wanted(name, value) for name, value in wanted.filters.items()},
        )
        kept = engine.state_dir is not None
    if page.partial is not None:
        _remark_partial(page.partial, kept=kept)
    return Answer(page, DONE, lambda console: _tables().show_page(console, page))


def _remark_partial(partial: Partial, *, kept: bool) -> None:
    """What a list does not cover, and what to run."""
    command = "`rolloutdb backfill`" if kept else "it with --state-dir, since the home cannot be written"
    covered = partial.files_done + partial.newer + partial.outdated
    if covered != partial.files_total:
        total = "" if partial.files_total is None else f" of {partial.files_total:,}"
        output.remark(f"The list covers {covered:,}{total} rollouts so far; run {command}.")
    elif partial.outdated:
        output.remark(f"The rows of {partial.outdated:,} rollouts are to be folded anew; run {command}.")
    if partial.newer:
        output.remark(f"{partial.newer:,} rollouts are behind: a newer rolloutdb keeps their rows; run that one.")
    if partial.unread:
        output.remark(f"{partial.unread:,} rollouts or folders cannot be read or used; `rolloutdb status` names them.")


def show_thread(asked: Asked, thread_id: str) -> Answer:
    """One thread, its row compared with its file."""
    with asked.open() as engine:
        found = engine.threads.fetch(text(thread_id, "The id"))
        goal = engine.goals.get(found.thread.id)
    document = {
        **msgspec.structs.asdict(found.thread),
        "goal": goal,
        "differences": [difference._asdict() for difference in found.differences],
        "history_rewritten": found.history_rewritten,
        "lag_bytes": found.lag_bytes,
        "records": found.records,
        "damaged": found.damaged,
        "set_aside": found.set_aside,
    }
    code = FINDINGS if found.differences or found.history_rewritten else DONE
    return Answer(document, code, lambda console: _tables().show_thread(console, found, goal))


def _tables() -> Any:
    """The tables for people, which take some 50 ms to import."""
    from engine.cli import tables

    return tables


def _wanted(name: str, value: Any) -> Any:
    """A filter's value, checked: text that a row can hold, and folders that are whole."""
    option = _OPTIONS.get(name, f"--{name}")
    if isinstance(value, str):
        return text(value, option)
    if isinstance(value, Sequence):
        return [text(folder(each, option) if name == "cwd" else each, option) for each in value]
    return value


_OPTIONS = {"model_provider": "--provider", "parent_thread_id": "--parent", "ancestor_thread_id": "--ancestor"}


def _workers(wanted: int | None) -> int:
    """As many as were asked for, else as many as this process may use processors."""
    if wanted is not None:
        return wanted
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
