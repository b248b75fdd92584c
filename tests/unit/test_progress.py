"""The bar stands on standard error, for those who look on, when the work takes long enough to wonder."""

from __future__ import annotations

import io
import re

import pytest

from engine.cli import progress
from engine.cli.progress import Bar
from engine.projections.backfill import Progress


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        """What was shown, without the codes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


def a_terminal(monkeypatch: pytest.MonkeyPatch, after_s: float = 0) -> Terminal:
    """Standard error as a terminal; called by the test itself, since pytest puts its own stream there between phases."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", after_s)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


def wait_until_it_stands(bar: Bar) -> None:
    """The timer is a thread that ends when the bar stands."""
    assert bar._timer is not None
    bar._timer.join()


def test_the_bar_tells_files_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with Bar("indexing") as bar:
        wait_until_it_stands(bar)
        bar.show(Progress(1_200, 10_000, 3_000_000, 50_000_000))
    assert "indexing" in terminal.shown()
    assert "1,200/10,000 files  3.0 MB of 50.0 MB" in terminal.shown()


def test_what_happened_before_the_bar_stands_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    bar = Bar("indexing")
    bar.show(Progress(7, 9, 1_000, 2_000))
    with bar:
        wait_until_it_stands(bar)
    assert "7/9 files  1.0 kB of 2.0 kB" in terminal.shown()


def test_an_audit_knows_no_sum_of_bytes_and_counts_files(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with Bar("auditing") as bar:
        wait_until_it_stands(bar)
        bar.show(Progress(30, 40, 5_000, 5_000))
        assert bar._bar is not None
        assert (bar._bar.tasks[0].completed, bar._bar.tasks[0].total) == (30, 40)
    assert "30/40 files  5.0 kB" in terminal.shown()


def test_a_spectator_is_told_who_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with Bar("indexing") as bar:
        wait_until_it_stands(bar)
        bar.show(Progress(1, 2, 10, 20, owner="process 4711 on vm"))
    assert "process 4711 on vm is at work" in terminal.shown()


def test_short_work_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time has not come when the work is done; the timer is stopped and starts nothing later."""
    terminal = a_terminal(monkeypatch, after_s=3_600)
    with Bar("indexing") as bar:
        bar.show(Progress(1, 1, 10, 10))
    wait_until_it_stands(bar)
    bar._start()
    assert terminal.getvalue() == ""


def test_nothing_is_shown_where_nobody_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0)
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    with Bar("indexing") as bar:
        bar.show(Progress(1, 2, 10, 20))
        assert bar._timer is None
    assert log.getvalue() == ""


def test_the_cursor_comes_back_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    bar = Bar("indexing")
    bar.__enter__()
    wait_until_it_stands(bar)
    bar.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")
