"""A home with a log: processes that write segments under a clock of the test's, and the engine's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engine
from engine.clock import Clock
from engine.events.log_lines import Site, record_line, severity_of
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.log_writer import Entry, Known, LogWriter

PATIENT = Options(log_fill_budget_ms=60_000)
UUID = "01a20464-403f-7170-9722-7a9790eef9{:02d}"
SECOND_US = 1_000_000


class Process:
    """One process that logs. Times are microseconds; where none is given, one more than the last."""

    def __init__(self, home: Path, number: int = 1, *, clock: Clock, options: Options = PATIENT) -> None:
        self.id = f"pid:{number}:{UUID.format(number)}"
        self.clock = clock
        self.options = options
        self.writer = LogWriter(Home(str(home), f"{home}/engine"), self.id, options=options, clock=clock, files=Files())
        self._known: dict[Any, Known] = {}
        self._last_us = 0

    def log(
        self,
        body: str,
        thread: str | None = None,
        *,
        level: str = "INFO",
        target: str = "app",
        module: str | None = None,
        file: str | None = None,
        at_us: int | None = None,
        dropped: int = 0,
    ) -> int:
        """Write one record; its time."""
        entry, at_us = self._entry(body, thread, level, target, module, file, at_us, dropped)
        self.writer.write([entry])
        return at_us

    def log_many(self, bodies: list[str], thread: str | None = None) -> None:
        """Write these in one call."""
        self.writer.write([self._entry(body, thread, "INFO", "app", None, None, None, 0)[0] for body in bodies])

    def _entry(
        self,
        body: str,
        thread: str | None,
        level: str,
        target: str,
        module: str | None,
        file: str | None,
        at_us: int | None,
        dropped: int,
    ) -> tuple[Entry, int]:
        at_us = max(self._last_us + 1, self.clock.wall_ms() * 1000) if at_us is None else at_us
        self._last_us = max(self._last_us, at_us)
        site = self._number(Site(severity_of(level), level, target, module, file, 7 if file else None))
        of_thread = None if thread is None else self._number(thread)
        line = record_line(
            at_us,
            site.number,
            of_thread.number if of_thread else 0,
            body,
            body_bytes_max=self.options.log_body_bytes_max,
            dropped=dropped,
        )
        return Entry(line, site, of_thread), at_us

    def _number(self, what: Site | str) -> Known:
        return self._known.setdefault(what, Known(len(self._known) + 1, what))


def opened(home: Path, *, options: Options = PATIENT, clock: Any = None, files: Any = None) -> engine.Engine:
    return engine.open(str(home), options=options, clock=clock, files=files)


def bodies(e: engine.Engine, **wanted: Any) -> list[str]:
    """What the records said, oldest first unless told."""
    found = e.logs.query(**{"newest_first": False, "limit": None, **wanted})
    assert found.lag.bytes == 0
    return [record.body for record in found.records]
