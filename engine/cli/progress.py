"""A bar on standard error for work that takes longer than half a second; nothing where nobody looks on.

It starts by itself when the time is over, so that it also stands there while the first answer is being waited for.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from engine.projections.backfill import Progress

SHOWN_AFTER_S = 0.5


class Look(NamedTuple):
    """What a bar shows of a moment: what is being done, how far of how much (0: not known yet), and the counts in words."""

    what: str
    done: int
    total: int
    counts: str


Looks = Callable[[str, Any, float | None], Look]
"""What a bar of this name shows of what was handed to it, and of how much is done a second, as far as that is known."""


def files_and_bytes(name: str, now: Progress, speed: float | None) -> Look:
    """A back-fill or an audit. Bytes tell the time left where their sum is known, else files do."""
    from engine.cli.tables import size

    what = name if now.what is None else f"{name} ({now.what})"
    if now.owner is not None:
        what = f"{now.owner} is at work"
    files = f"{now.files_done:,}/{now.files_total:,} files"
    if now.bytes_done >= now.bytes_total:
        return Look(what, now.files_done, now.files_total, f"{files}  {size(now.bytes_done)}")
    rate = f"  {size(round(speed))}/s" if speed else ""
    counts = f"{files}  {size(now.bytes_done)} of {size(now.bytes_total)}{rate}"
    return Look(what, now.bytes_done, now.bytes_total, counts)


class Bar:
    """Shows how far long work is. Use it in a `with` block and hand out `show`."""

    def __init__(self, name: str, looks: Looks = files_and_bytes, *, begin: str = "looking at the folders") -> None:
        self._name = name
        self._looks = looks
        self._begin = begin
        self._mutex = threading.Lock()
        self._last: Any = None
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._closed = False
        self._timer: threading.Timer | None = None

    def show(self, progress: Any) -> None:
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
            self._task = self._bar.add_task(self._name, total=None, counts=self._begin)
            if self._last is not None:
                self._update()
            self._bar.start()

    def _update(self) -> None:
        """Under the mutex."""
        assert self._bar is not None
        assert self._task is not None
        now = self._looks(self._name, self._last, self._bar.tasks[0].speed)
        self._bar.update(
            self._task, description=now.what, completed=now.done, total=now.total or None, counts=now.counts
        )
