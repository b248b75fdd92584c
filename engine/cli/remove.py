"""What the commands do that take threads and records out of a home, pack threads, and bring them in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.cli import DONE, FINDINGS
from engine.cli.asked import Asked, folder, text
from engine.cli.commands import Answer
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.console import Console

    from engine.receipts import BundleReport, ImportReport, Reach, Receipt

_DAY_S = 24 * 3600


def erase(asked: Asked, thread_id: str, *, include_children: bool, grace_days: int, dry_run: bool, yes: bool) -> Answer:
    """Take a thread out of every store; a person at a terminal is asked first, anybody else says `--yes`."""
    with asked.open() as engine:
        known = text(thread_id, "The id")
        reach = engine.threads.preview_erase(known, include_children=include_children)
        if dry_run:
            return Answer(reach, DONE, _says(*_reached(reach)))
        if not yes and not reach.readers and not _confirmed(asked, reach):
            return Answer(None, DONE, _says("Nothing was erased."))
        grace_s = grace_days * _DAY_S if grace_days else None
        receipt = engine.threads.erase(known, include_children=include_children, grace_s=grace_s)
    return Answer(receipt, DONE, _says(*_received(receipt, grace_days)))


def redact(asked: Asked, thread_id: str, *, ordinal: int | None, offset: int | None) -> Answer:
    """Replace what one record says by filler."""
    with asked.open() as engine:
        redacted = engine.threads.redact(text(thread_id, "The id"), ordinal=ordinal, offset=offset)
    lines = [f"{each.path}: the {each.kind} record of {each.length} bytes at byte {each.offset}" for each in redacted]
    return Answer({"redacted": redacted}, DONE, _says("Filled over:", *lines))


def export(asked: Asked, thread_ids: Sequence[str] | None, *, to: str, every: bool, bases: bool) -> Answer:
    """Pack threads into one new file."""
    if every == bool(thread_ids):
        raise InvalidRequest("Threads are exported by id, or all of them.", hint="Give one or more IDs, or --all.")
    with asked.open() as engine:
        wanted = None if every else [text(each, "The id") for each in thread_ids or ()]
        report = engine.threads.export(wanted, folder(to, "--to"), bases=bases)
    return Answer(report, DONE, _says(*_exported(report)))


def import_(asked: Asked, path: str, *, dry_run: bool) -> Answer:
    """Bring the threads of a bundle in; a clash is a finding, and so is a thread that somebody has open."""
    place = folder(path, "The bundle's path")
    if not os.path.isfile(place):  # noqa: TID251 - no file of a home
        raise InvalidRequest(f"There is no file {place}.", hint="Name a file that `threads export` made.")
    with asked.open() as engine:
        report = engine.threads.import_bundle(place, dry_run=dry_run)
    return Answer(report, FINDINGS if report.clashes or report.busy else DONE, _says(*_imported(report)))


def _confirmed(asked: Asked, reach: Reach) -> bool:
    if asked.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidRequest(
            "An erasure has to be confirmed, and nobody is here to be asked.",
            hint="Look at it with --dry-run, then say --yes.",
        )
    import typer

    for line in _reached(reach):
        typer.echo(line, err=True)
    return typer.confirm("Erase this?", err=True)


def _reached(reach: Reach) -> list[str]:
    size = sum(each.bytes for each in reach.rollouts)
    lines = [
        f"Reached: {', '.join(reach.thread_ids)}",
        f"{len(reach.rollouts)} rollout file(s) of {size:,} bytes",
        *(f"  {each.path}" for each in reach.rollouts),
        f"{reach.journal_records} record(s) in the journal, {reach.session_index_lines} name(s) in session_index.jsonl",
        f"{reach.log_records} record(s) in the log, {len(reach.memories)} file(s) of memories",
        f"{sum(reach.rows.values())} row(s), {len(reach.quarantine)} file(s) in quarantine, {len(reach.trash)} in the trash",
    ]
    if reach.readers:
        lines.append(f"In the way, since they go on from it: {', '.join(each.thread_id for each in reach.readers)}")
    if reach.spawned:
        lines.append(f"Sub-agents that stay: {', '.join(reach.spawned)}")
    return lines


def _received(receipt: Receipt, grace_days: int) -> list[str]:
    lines = [f"Erased: {', '.join(receipt.thread_ids)}"]
    lines += [f"  {each.store}: {each.removed} ({each.bytes:,} bytes)" for each in receipt.stores if each.removed]
    if receipt.due_at_ms is not None:
        lines.append(f"The rollouts wait in the trash for {grace_days} day(s).")
    return lines


def _exported(report: BundleReport) -> list[str]:
    size = sum(rollout.bytes for thread in report.threads for rollout in thread.rollouts)
    bases = sum(thread.is_base for thread in report.threads)
    lines = [f"Packed {len(report.threads) - bases} thread(s) and {bases} that they go on from: {size:,} bytes"]
    return lines + [f"The base of {each} is not in this home." for each in report.missing_bases] + [report.path]


def _imported(report: ImportReport) -> list[str]:
    will = "Would import" if report.dry_run else "Imported"
    lines = [
        f"{will} {len(report.imported)} thread(s), {report.bytes:,} bytes; {len(report.unchanged)} are here already."
    ]
    lines += [
        f"Left alone, since it is here with other content: {each} ({why})" for each, why in report.clashes.items()
    ]
    return lines + [f"Left alone, since it is in use: {each} (by {who})" for each, who in report.busy.items()]


def _says(*lines: str) -> Callable[[Console], None]:
    from engine.cli import output

    shown = "\n".join(output.plain(line) if line[:1] != " " else f"  {output.plain(line)}" for line in lines)
    return lambda console: console.print(shown, markup=False, highlight=False, soft_wrap=True)
