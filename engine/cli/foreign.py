"""`audit --codex`: the Codex CLI's own databases, of which nothing is opened the usual way and nothing is changed.

No engine is opened for it, since that would make a folder in the home.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.cli import DONE, FINDINGS
from engine.cli.asked import Asked, text
from engine.cli.commands import Answer

if TYPE_CHECKING:
    from rich.console import Console

    from engine.audit.foreign import CodexAuditor, CodexReport
    from engine.audit.foreign_why import Explanation
    from engine.stores.layout import Home


def audit(asked: Asked, *, deep: bool) -> Answer:
    """Compare that program's databases with the rollouts."""
    from engine.cli.progress import Bar

    home = asked.look()
    with Bar("auditing") as bar:
        report = _auditor(home).run(deep=deep, progress=bar.show)
    return Answer(report, FINDINGS if report.findings else DONE, lambda console: _show_report(console, report, home))


def why(asked: Asked, thread_id: str) -> Answer:
    """Why that program lists a thread, or does not."""
    from engine.audit.foreign_why import explain
    from engine.cli.progress import Bar
    from engine.stores.files import Files

    thread_id = text(thread_id, "The id")
    with Bar("looking") as bar:
        found = explain(_auditor(asked.look()).survey(progress=bar.show), thread_id, Files())
    listed = found.listed_by_database and found.listed_by_scan
    return Answer(found, DONE if listed else FINDINGS, lambda console: _show_why(console, found))


def _auditor(home: Home) -> CodexAuditor:
    from engine.audit.foreign import CodexAuditor
    from engine.clock import SystemClock
    from engine.options import Options
    from engine.stores.files import Files

    return CodexAuditor(home, options=Options(), clock=SystemClock(), files=Files())


def _show_report(console: Console, report: CodexReport, home: Home) -> None:
    from engine.cli import tables
    from engine.cli.output import plain

    if not report.databases and not report.findings:
        console.print(
            f"There is no database of the Codex CLI in {plain(home.path)}: nothing to compare.", soft_wrap=True
        )
        return
    console.print(f"Compared with the rollouts: {', '.join(report.databases)}", style="dim", soft_wrap=True)
    tables.show_audit(console, report, agree="The Codex CLI's databases and the rollouts agree")


def _show_why(console: Console, found: Explanation) -> None:
    from engine.cli.output import plain

    for name, listed in (("default list", found.listed_by_scan), ("lists from the database", found.listed_by_database)):
        style = "green" if listed else "yellow"
        console.print(f"{name}: {'shown' if listed else 'not shown'}", style=style)
    if not found.reasons:
        console.print(plain(found.summary), soft_wrap=True)
    for each in found.reasons:
        which = {"database": " (lists from the database)", "scan": " (default list)"}.get(each.list, "")
        console.print(f"  {each.reason}{which}: {plain(each.message)}", soft_wrap=True)
    for finding in found.findings:
        console.print(f"  besides: {plain(finding.message)}", soft_wrap=True)
    for path in found.rollouts:
        console.print(f"  file: {plain(path)}", style="dim", soft_wrap=True)
