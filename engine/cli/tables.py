"""Answers for people: tables that fit the terminal, colours where there is one that shows them.

Nothing but text goes into a pipe. Ids and paths are never cut, since they are there to be copied; titles are.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import IO, Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.audit.findings import AuditReport, Finding, Severity
from engine.cli.output import plain
from engine.clock import SystemClock
from engine.events.goals import Goal
from engine.projections.backfill import BackfillReport, Failure
from engine.projections.status import Status
from engine.projections.thread_list import ThreadRow
from engine.threads import FetchedThread, ThreadPage

FINDINGS_SHOWN_MAX = 100
_WIDTH_WITHOUT_TERMINAL = 120
_WIDE = 100
_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "info": "dim"}
_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS
_MONTH_MS = 30 * _DAY_MS


def console(file: IO[str] | None = None) -> Console:
    """Where tables go. A pipe gets no escape codes, and lines as wide as the terminal at which the command was typed."""
    file = file or sys.stdout
    is_terminal = file.isatty()
    dull = not is_terminal or bool(os.environ.get("NO_COLOR"))  # noqa: TID251 - the command line reads the environment
    return Console(
        file=file,
        force_terminal=is_terminal,
        color_system=None if dull else "auto",
        width=_width(is_terminal=is_terminal),
        markup=False,
        emoji=False,
        highlight=False,
    )


def _width(*, is_terminal: bool) -> int | None:
    """$COLUMNS, else None where rich can ask the stream itself, else the terminal of standard error, else a fixed one."""
    columns = os.environ.get("COLUMNS", "")  # noqa: TID251 - the command line reads the environment
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    if is_terminal:
        return None
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _WIDTH_WITHOUT_TERMINAL
    except (OSError, ValueError):
        return _WIDTH_WITHOUT_TERMINAL


def show_status(console: Console, found: Status) -> None:
    """How the home stands, a line a matter."""
    threads, lag, fill, now = found.threads, found.lag, found.backfill, SystemClock().wall_ms()
    gone = f", {threads.missing:,} whose file is gone" if threads.missing else ""
    behind = f"{lag.files:,} behind ({size(lag.bytes)}): run `rolloutdb backfill`" if lag.files else "all followed"
    newer = f"; {lag.newer:,} kept by a newer rolloutdb, and left alone" if lag.newer else ""
    done = "" if fill.last_success_at_ms is None else f", last complete {ago(fill.last_success_at_ms, now)}"
    at_work = (
        "" if fill.owner is None else f", {fill.owner} is at work ({fill.files_done:,}/{fill.files_total:,} files)"
    )
    state = "interrupted" if fill.status == "running" and fill.owner is None else fill.status
    rebuild = "" if fill.rebuild_begun_at_ms is None else f", a rebuild goes on ({lag.outdated:,} files left)"
    damaged, records = found.counters["damaged_lines"], found.counters["records"]
    show_pairs(
        console,
        [
            ("home", found.home),
            ("state", found.state_dir or "in memory: the home cannot be written; keep it with --state-dir"),
            ("threads", f"{threads.total:,} ({threads.active:,} active, {threads.archived:,} archived{gone})"),
            ("rollouts", f"{_many(lag.files_total, 'file')}, {size(lag.bytes_total)}; {behind}{newer}"),
            ("records", f"{records:,}; {_many(damaged, 'damaged line')}, {found.set_aside:,} set aside"),
            ("back-fill", f"{state}{done}{rebuild}{at_work}"),
            ("divergences", f"{found.counters['divergences']:,}"),
        ],
    )
    _failures(console, fill.failed)


def show_backfill(console: Console, report: BackfillReport, *, anew: bool) -> None:
    """What a back-fill or a rebuild came to."""
    rate = f", {size(round(report.bytes / report.seconds))}/s" if report.seconds > 0 and report.bytes else ""
    what = "folded anew" if anew else "new or changed"
    joined = "  Another process did part of the work." if report.joined else ""
    console.print(
        f"{report.status}: {_many(report.threads, 'thread')}; {_many(report.files, 'file')} {what}, "
        f"{size(report.bytes)} in {report.seconds:.2f} s{rate}.{joined}",
        style="green" if not report.failed else "yellow",
    )
    _failures(console, report.failed)


def show_page(console: Console, page: ThreadPage) -> None:
    """A page of threads, a line each, and how to go on."""
    now = SystemClock().wall_ms()
    wide = console.width >= _WIDE
    table = _table()
    table.add_column("id", no_wrap=True)
    table.add_column("updated", no_wrap=True, justify="right")
    if wide:
        table.add_column("tokens", no_wrap=True, justify="right")
        table.add_column("folder", no_wrap=True, max_width=18)
    table.add_column("title")  # the one column that gives way: its cells are cut, the others are not
    for row in page.threads:
        more = [f"{row.tokens_used:,}", plain(os.path.basename(row.cwd or "") or row.cwd or "-")] if wide else []
        table.add_row(row.id, ago(row.updated_at_ms, now), *more, _title(row))
    console.print(table)
    by = [f"{name} {count:,}" for name, count in (page.hidden_by or {}).items() if count]
    hidden = f" ({page.hidden:,} hidden by filters{': ' + ', '.join(by) if len(by) > 1 else ''})" if page.hidden else ""
    console.print(f"{len(page.threads):,} of {_many(page.total or 0, 'thread')}{hidden}", style="dim")
    if page.next_cursor is not None:
        console.print(f"next page: --cursor {page.next_cursor}", style="dim", soft_wrap=True)


def show_thread(console: Console, found: FetchedThread, goal: Goal | None) -> None:
    """All that is known of one thread, and where row and file differ."""
    row, now = found.thread, SystemClock().wall_ms()
    values: dict[str, Any] = msgspec.structs.asdict(row)
    pairs = [(name, _value(name, value, now)) for name, value in values.items() if value is not None]
    pairs.append(("records", f"{found.records:,}; {found.damaged:,} damaged, {found.set_aside:,} set aside"))
    if goal is not None:
        pairs.append(("goal", f"{goal.objective} ({goal.status}, {goal.tokens_used:,} tokens used)"))
    if found.lag_bytes:
        pairs.append(("lag", f"{size(found.lag_bytes)} that the row had not followed"))
    show_pairs(console, pairs)
    if found.history_rewritten:
        console.print(
            "The file was replaced, cut or edited before the place that the row had followed.", style="bold red"
        )
    if not found.differences:
        return
    console.print("The row differs from the file; `rolloutdb rebuild` mends it.", style="bold red")
    table = _table()
    for title in ("field", "in the file", "in the row"):
        table.add_column(title)
    for difference in found.differences:
        table.add_row(difference.field, plain(str(difference.file_value)), plain(str(difference.row_value)))
    console.print(table)


def show_audit(console: Console, report: AuditReport, *, agree: str = "Rows and files agree") -> None:
    """Findings, the worst first and equal ones together, then what was looked at and what to do."""
    checked = report.checked
    looked = f"{_many(checked.threads, 'thread')}, {_many(checked.records, 'record')}, {size(checked.bytes)}"
    if not report.findings:
        console.print(f"{agree}: {looked}.", style="green")
        return
    worst_first = sorted(report.findings, key=lambda finding: list(_STYLES).index(finding.severity))
    together: dict[tuple[str, str], list[Finding]] = {}
    for finding in worst_first:
        together.setdefault((finding.class_, finding.message), []).append(finding)
    groups = list(together.values())
    for group in groups[:FINDINGS_SHOWN_MAX]:
        _findings(console, group)
    left = sum(map(len, groups[FINDINGS_SHOWN_MAX:]))
    if left > 0:
        console.print(f"… and {_many(left, 'finding')} more; --json has all.", style="dim")
    counts = Counter(finding.severity for finding in report.findings)
    said = ", ".join(_many(counts[severity], severity) for severity in _STYLES if counts[severity])
    console.print(f"{_many(len(report.findings), 'finding')} ({said}) in {looked}.")
    for mend in sorted({finding.mend for finding in report.findings if finding.mend}):
        console.print(f"To mend {_mended(report.findings, mend):,} of them: {mend}")


def size(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{count:,} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} TB"


def ago(then_ms: int, now_ms: int) -> str:
    """How long ago a time was; its date where that says more."""
    passed_ms = now_ms - then_ms
    if not -_MINUTE_MS < passed_ms < _MONTH_MS:
        return _date(then_ms)[:10]
    if passed_ms < _MINUTE_MS:
        return "just now"
    if passed_ms < _HOUR_MS:
        return f"{passed_ms // _MINUTE_MS} min ago"
    if passed_ms < _DAY_MS:
        return f"{passed_ms // _HOUR_MS} h ago"
    days = passed_ms // _DAY_MS
    return f"{_many(days, 'day')} ago"


def _findings(console: Console, group: Sequence[Finding]) -> None:
    """What, where, and how it shows, a line each. Printed unwrapped, so that a path can be copied."""
    finding, others = group[0], len(group) - 1
    head = Text()
    head.append(f"{finding.severity:<8}", style=_STYLES[finding.severity])
    head.append(finding.class_, style="bold")
    if finding.offset is not None:
        head.append(f" at byte {finding.offset:,}")
    console.print(head, soft_wrap=True)
    where = finding.path or finding.thread_id
    if where is not None:
        more = f" and {others:,} more" if others else ""
        console.print(f"        {plain(where)}{more}", style="dim", soft_wrap=True)
    console.print(f"        {plain(finding.message)}", soft_wrap=True)


def _mended(findings: Iterable[Finding], mend: str) -> int:
    return sum(finding.mend == mend for finding in findings)


def _failures(console: Console, failed: Sequence[Failure]) -> None:
    if not failed:
        return
    console.print(f"{_many(len(failed), 'file or folder', 'files or folders')} could not be used; each is tried again:")
    for each in failed:
        console.print(f"  {plain(each.path)}: {plain(each.reason)}", soft_wrap=True)


def _title(row: ThreadRow) -> Text:
    marks = [word for word, wanted in (("archived", row.archived), ("file gone", row.missing)) if wanted]
    shown = Text(overflow="ellipsis", no_wrap=True)
    if marks:
        shown.append(f"[{', '.join(marks)}] ", style="yellow")
    return shown.append(plain(row.title or row.preview or "") or "-")


def _value(name: str, value: object, now_ms: int) -> str:
    if name.endswith("_at_ms") and isinstance(value, int):
        return f"{_date(value)} ({ago(value, now_ms)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else plain(str(value))


def _date(at_ms: int) -> str:
    """UTC, as in the rollouts; a time that no calendar has comes as the number it is."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return str(at_ms)


def show_pairs(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """Names and what they stand for, a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name.removesuffix("_ms"), plain(value))
    console.print(grid)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")


def _many(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"
