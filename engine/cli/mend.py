"""What the command does that mends a home."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from engine.cli import DONE, FINDINGS, output
from engine.cli.asked import Asked, folder
from engine.cli.commands import Answer
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.console import Console

    from engine.audit.repair import RepairReport, StepResult

_SHOWN_MAX = 100


class Wanted(NamedTuple):
    """How to repair. `save` and `plan` are files."""

    dry_run: bool
    save: str | None
    plan: str | None
    offline: bool
    deep: bool


def repair(asked: Asked, wanted: Wanted) -> Answer:
    """Plan and mend, or plan alone."""
    from engine.audit.plan import load, save
    from engine.cli.progress import Bar
    from engine.stores.files import Files

    if wanted.save is not None and not wanted.dry_run:
        raise InvalidRequest("A plan is saved by a dry run.", hint="Add --dry-run.")
    if wanted.plan is not None and wanted.dry_run:
        raise InvalidRequest("A dry run makes a plan and takes none.", hint="Leave out --plan, or --dry-run.")
    with asked.open() as engine, Bar("auditing") as bar:
        plan = None if wanted.plan is None else load(folder(wanted.plan, "--plan"), engine.home, files=Files())
        report = engine.repair(
            dry_run=wanted.dry_run, plan=plan, offline=wanted.offline, deep=wanted.deep, progress=bar.show
        )
    if wanted.save is not None:
        save(report.plan, folder(wanted.save, "--save"), files=Files())
    clean = not report.steps if wanted.dry_run else report.is_clean
    return Answer(report, DONE if clean else FINDINGS, _says(_told(report)))


def _told(report: RepairReport) -> list[str]:
    if not report.steps:
        lines = ["There is nothing to mend."]
    else:
        lines = [line for each in report.steps[:_SHOWN_MAX] for line in _step(each)]
        if len(report.steps) > _SHOWN_MAX:
            lines.append(f"… and {len(report.steps) - _SHOWN_MAX:,} steps more; --json has all.")
        counts = {name: sum(each.outcome == name for each in report.steps) for name in _OUTCOMES}
        lines.append(", ".join(f"{count:,} {name}" for name, count in counts.items() if count) + ".")
    left = [each for each in report.left if not each.is_mended_by_repair]
    if left:
        lines.append(f"{len(left):,} findings that a repair does not mend; `rolloutdb audit` names them.")
    return lines


_OUTCOMES = ("planned", "done", "skipped", "failed")


def _step(each: StepResult) -> list[str]:
    step = each.step
    what = step.path or step.thread_id or step.target or ""
    truth = " (changes a rollout's file)" if step.touches_truth else ""
    offline = " (only with --offline)" if step.offline and each.outcome == "planned" else ""
    lines = [f"{each.outcome} {', '.join(step.classes)}: {step.does}{truth}{offline}"]
    if what:
        lines.append(f"        {output.plain(what)}")
    return lines if each.reason is None else [*lines, f"        {output.plain(each.reason)}"]


def _says(lines: list[str]) -> Callable[[Console], None]:
    return lambda console: console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
