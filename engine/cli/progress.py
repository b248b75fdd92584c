"""A bar on standard error for work that takes longer than half a second; nothing where nobody looks on.

It starts by itself when the time is over, so that it also stands there while the first answer is being waited for.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from engine.projections.backfill import Progress

SHOWN_AFTER_S = 0.5


class Bar:
    """Shows how far a back-fill or an audit is. Use it in a `with` block and hand out `show`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._mutex = threading.Lock()
        self._last: Progress | None = None
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._closed = False
        self._timer: threading.Timer | None = None

    def show(self, progress: Progress) -> None:
        """Take note of how far it is."""
        with self._mutex:
            self._last = progress
            if self._bar is not None:
                self._update()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._timer = threading.Timer(SHOWN_AFTER_S, self._start)
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
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        from engine.cli import tables

        with self._mutex:
            if self._closed:
                return
            self._bar = RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[counts]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=tables.console(sys.stderr),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=None, counts="looking at the folders")
            if self._last is not None:
                self._update()
            self._bar.start()

    def _update(self) -> None:
        """Under the mutex. Bytes tell the time left where their sum is known, else files do."""
        assert self._bar is not None
        assert self._task is not None
        assert self._last is not None
        now = self._last
        by_bytes = now.bytes_done < now.bytes_total
        done, total = (now.bytes_done, now.bytes_total) if by_bytes else (now.files_done, now.files_total)
        self._bar.update(
            self._task,
            description=self._described(now),
            completed=done,
            total=total or None,
            counts=self._counts(now, by_bytes=by_bytes),
        )

    def _described(self, now: Progress) -> str:
        if now.owner is not None:
            return f"{now.owner} is at work"
        return self._what if now.what is None else f"{self._what} ({now.what})"

    def _counts(self, now: Progress, *, by_bytes: bool) -> str:
        from engine.cli.tables import size

        assert self._bar is not None
        files = f"{now.files_done:,}/{now.files_total:,} files"
        if not by_bytes:
            return f"{files}  {size(now.bytes_done)}"
        speed = self._bar.tasks[0].speed
        rate = f"  {size(round(speed))}/s" if speed else ""
        return f"{files}  {size(now.bytes_done)} of {size(now.bytes_total)}{rate}"
