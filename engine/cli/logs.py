"""The commands of the log: follow it, export what belongs to a report of a fault, tell how it stands.

They open the log alone, so they work whatever is wrong with the rest of a home. What was logged is anybody's text: before a
person sees it, what could move the cursor is replaced; JSON and exports to a file have it as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli import DONE, INTERRUPTED, Told, output
from engine.cli.asked import Asked, folder, text
from engine.cli.commands import Answer
from engine.cli.parsed import Home, Json, StateDir, asked_of, command, epilog, group
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from engine.logs.reading import Logs, LogStatus
    from engine.projections.log_query import LogRecord

_ID = "019ddd9d-f053-7991-a505-b639f6b80c15"
_STYLES = {"TRACE": "dim", "DEBUG": "cyan", "INFO": "green", "WARN": "yellow", "WARNING": "yellow", "ERROR": "bold red"}
_PATCH = "*** Begin Patch"
_POLLED_MAX = 1_000
_SECONDS_MAX = 253_402_300_799


class Level(StrEnum):
    """The least level that is shown."""

    trace = "trace"
    debug = "debug"
    info = "info"
    warn = "warn"
    error = "error"


Database = Annotated[
    str | None,
    typer.Option("--db", metavar="PATH", help="Of the log beside this logs_1.sqlite, whatever home it belongs to."),
]

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def logs_root(context: typer.Context, home: Home = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Follow the log, export it, or tell how it stands."""
    group(context, Asked(home, state_dir, as_json))


@app.command(
    "tail",
    epilog=epilog(
        "rolloutdb logs tail --level warn",
        f"rolloutdb logs tail --thread-id {_ID} --threadless --compact",
        "rolloutdb logs tail --from 2026-01-05T09:00:00Z --search timeout --no-follow --json | jq -r .body",
    ),
)
def logs_tail(
    context: typer.Context,
    level: Annotated[
        Level | None, typer.Option("--level", case_sensitive=False, help="This level and those above it.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Not before: RFC 3339, or seconds since 1970.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Not after.")] = None,
    module: Annotated[
        list[str] | None, typer.Option("--module", metavar="TEXT", help="Part of the module; may be repeated.")
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", metavar="TEXT", help="Part of the source file; may be repeated.")
    ] = None,
    thread_id: Annotated[
        list[str] | None, typer.Option("--thread-id", metavar="ID", help="Of this thread; may be repeated.")
    ] = None,
    search: Annotated[str | None, typer.Option("--search", metavar="TEXT", help="Part of what was said.")] = None,
    threadless: Annotated[
        bool, typer.Option("--threadless", help="Records of no thread: beside those of --thread-id, or these alone.")
    ] = False,
    backfill: Annotated[
        int, typer.Option("--backfill", min=0, metavar="N", help="First the newest N that there are.")
    ] = 200,
    poll_ms: Annotated[
        int, typer.Option("--poll-ms", min=10, max=60_000, metavar="MS", help="How often to look for more.")
    ] = 500,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on until Ctrl-C, or end.")] = True,
    compact: Annotated[bool, typer.Option("--compact", help="Only time of day, level and what was said.")] = False,
    database: Database = None,
    home: Home = None,
    state_dir: StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")] = False,
) -> int:
    """Print the newest log records, oldest first, then what comes.

    Records below the level that rows are kept for (INFO, unless an application says otherwise) are in the segments alone.
    """
    asked = asked_of(context, Asked(home, state_dir, as_json))
    wanted: dict[str, Any] = {
        "level": None if level is None else level.value,
        "from_us": None if since is None else _us(since, "--from"),
        "to_us": None if until is None else _us(until, "--to"),
        "modules": _several(module, "--module"),
        "files": _several(file, "--file"),
        "thread_ids": _several(thread_id, "--thread-id"),
        "threadless": threadless,
        "search": None if search is None else text(search, "--search"),
    }
    printer = _Printer(as_json=asked.as_json, compact=compact)
    with _opened(asked, database) as logs:
        return _tail(logs, wanted, printer, backfill, poll_ms / 1000 if follow else None)


@command(app, "export", f"rolloutdb logs export {_ID}", f"rolloutdb logs export {_ID} --to report.log")
def logs_export(
    asked: Asked,
    thread_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="One thread or more.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="FILE", help="A new file, instead of standard output.")
    ] = None,
    bytes_max: Annotated[
        int | None,
        typer.Option("--bytes-max", min=0, metavar="N", help="The newest so many bytes; 10 MiB if not said."),
    ] = None,
    database: Database = None,
) -> Answer:
    """Put together what threads logged, to go along with a report of a fault.

    With what the process that each was in last logged beside any thread. Whole lines, oldest first.
    """
    with _opened(asked, database) as logs:
        exported = logs.export([text(each, "The id") for each in thread_ids], bytes_max=bytes_max)
    if to is not None:
        place = folder(to, "--to")
        _write_new(place, exported)
        document: dict[str, Any] = {"path": place, "bytes": len(exported)}
        return Answer(document, DONE, lambda console: console.print(f"{len(exported):,} bytes in {place}"))
    document = {"bytes": len(exported), "text": exported.decode()}
    return Answer(document, DONE, lambda _: _print_exported(exported))


def _print_exported(exported: bytes) -> None:
    """A terminal is given nothing that it could take for a command."""
    if sys.stdout.isatty():
        for line in output.plain_lines(exported.decode()) if exported else ():
            output.print_line(line)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(exported)


@command(app, "status", "rolloutdb logs status", "rolloutdb logs status --json | jq .lag")
def logs_status(
    asked: Asked,
    database: Database = None,
) -> Answer:
    """Tell how the log stands: segments, rows, what was dropped, what has no row yet."""
    with _opened(asked, database) as logs:
        found = logs.status()
    return Answer(found, DONE, lambda console: _show_status(console, found))


def _opened(asked: Asked, database: str | None) -> Logs:
    from engine.logs.reading import logs_of
    from engine.stores.layout import Home as Place

    if database is None:
        return logs_of(asked.place())
    state = os.path.dirname(folder(database, "--db"))
    return logs_of(Place(state, state))


def _several(values: Sequence[str] | None, name: str) -> list[str] | None:
    """The values of an option that may be repeated; blank ones do not count."""
    return [text(each, name) for each in values or () if each.strip()] or None


def _us(time: str, name: str) -> int:
    """Unix microseconds of a time as people write it."""
    try:
        seconds = float(time)
    except ValueError:
        try:
            found = datetime.fromisoformat(time)
        except ValueError:
            raise InvalidRequest(
                f"{name} {time!r} is no time.", hint="Say it as 2026-01-05T09:00:00Z, or as seconds since 1970."
            ) from None
        seconds = found.replace(tzinfo=found.tzinfo or UTC).timestamp()
    if not 0 <= seconds <= _SECONDS_MAX:
        raise InvalidRequest(f"{name} {time!r} is out of all time.", hint="Say a time from 1970 on.")
    return round(seconds * 1_000_000)


def _tail(logs: Logs, wanted: dict[str, Any], printer: _Printer, backfill: int, poll_s: float | None) -> int:
    from engine.clock import SystemClock

    clock = SystemClock()
    try:
        page = logs.query(**wanted, limit=backfill)
        last_id = 0
        for record in reversed(page.records):
            printer.show(record)
            last_id = record.id
        if page.lag.paused is not None:
            output.remark(f"The newest {page.lag.bytes:,} bytes are not shown: {page.lag.paused}.")
        if poll_s is None:
            return DONE
        last_id = last_id or logs.max_id(**wanted)
        while True:
            found = logs.query(**wanted, after_id=last_id, limit=_POLLED_MAX, newest_first=False).records
            for record in found:
                printer.show(record)
                last_id = record.id
            if len(found) < _POLLED_MAX:
                clock.sleep(poll_s)
    except KeyboardInterrupt:
        return Told(INTERRUPTED)


class _Printer:
    """Prints one record after the other, each at once."""

    def __init__(self, *, as_json: bool, compact: bool) -> None:
        self._as_json = as_json
        self._compact = compact
        self._console: Console | None = None

    def show(self, record: LogRecord) -> None:
        if self._as_json:
            output.print_json_line(record)
            return
        if not sys.stdout.isatty():
            output.print_text("\n".join(line.plain for line in self._lines(record)))
            return
        if self._console is None:
            from engine.cli import tables

            self._console = tables.console()
        for line in self._lines(record):
            self._console.print(line, soft_wrap=True)

    def _lines(self, record: LogRecord) -> list[Text]:
        from rich.text import Text

        cut = f" [cut: it had {record.cut:,} bytes]" if record.cut else ""
        first, *others = output.plain_lines(f"{record.body}{cut}")
        head = Text()
        time = record.timestamp[11:19] if self._compact else f"{record.timestamp[:23]}Z"
        head.append(time, style="dim")
        head.append(f" {output.plain(record.level):<5}", style=_STYLES.get(record.level.upper(), "bold red"))
        if not self._compact:
            head.append(f" [{output.plain(record.thread_id or '-')}]", style="dim")
            head.append(f" {output.plain(record.target)} -")
        head.append(f" {first}")
        is_patch = _PATCH in record.body
        return [head, *(Text(line, style=_patch_style(line) if is_patch else "") for line in others)]


def _patch_style(line: str) -> str:
    """Of a line in a patch: green where it was added, red where it was taken away."""
    if line.startswith("+"):
        return "green"
    return "red" if line.startswith("-") else ""


def _show_status(console: Console, found: LogStatus) -> None:
    from engine.cli.tables import size

    lag = found.lag
    behind = f"{size(lag.bytes)} in {lag.segments:,} segments have no rows yet" if lag.bytes else "all followed"
    rows = [
        ("segments", f"{found.segments:,}, {size(found.bytes)}"),
        ("records", f"{found.records:,} followed, {found.rows:,} of them have rows"),
        ("dropped", f"{found.dropped:,}"),
        ("damaged", f"{found.damaged:,} lines"),
        ("table", f"{size(found.database_bytes)}, and {size(found.wal_bytes)} in its -wal"),
        ("lag", f"{behind}; {lag.paused}" if lag.paused else behind),
    ]
    for name, said in rows:
        console.print(f"{name:<10} {said}")


def _write_new(path: str, data: bytes) -> None:
    """A new file for the export; one that is there is not replaced."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)  # noqa: TID251 - no file of a home
    except FileExistsError:
        raise InvalidRequest(f"{path} is there already.", hint="Name a new file with --to.") from None
    with os.fdopen(fd, "wb") as file:  # noqa: TID251 - the same
        file.write(data)
