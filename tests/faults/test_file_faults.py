"""Every file call of a run is made to fail once, with each error that a disk or a permission gives.

A clean run is recorded: open, back-fill, list, fetch, audit. Then each of its calls fails in a run of its own. What may
come of it: an error of ours that names the place, a file listed as failed, or nothing at all, and then everything must
be there all the same. A difference without a word is the one thing that must not happen. The next run, without the
fault, has the same rows as a clean one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

import engine
from engine.errors import EngineError
from engine.options import Options
from engine.stores.files import Files
from engine.testing import HomePlan, make_home
from engine.testing.files import Call, FaultyFiles, RecordingFiles, fail_once
from engine.testing.tables import dump

OPTIONS = Options(busy_wait_ms=200)
SAMPLED = ("rollout.", "layout.")
"""Calls under these op names decide what is read; all others are about databases, locks and owners."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "home"
    make_home(
        folder, HomePlan(threads=5, bytes_max=2_500, compressed=0.2, forks=0.0, subagents=0.0, reverted=0.0, seed=3)
    )
    return folder


class Outcome:
    """What a user was told in one run; `said` is everything that was not as usual."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.answers: list[object] = []
        self.errors: list[EngineError] = []


def use(home: Path, state: Path, files: object) -> Outcome:
    """Open, back-fill, list, fetch each, audit. An error of ours is noted and ends the run; no other is caught."""
    outcome = Outcome()
    try:
        with engine.open(str(home), state_dir=str(state), options=OPTIONS, files=files) as opened:
            report = opened.backfill()
            outcome.said += [f"{failure.path}: {failure.reason}" for failure in report.failed]
            page = opened.threads.list(limit=0)
            outcome.answers.append(page.threads)
            if page.partial is not None:
                outcome.said.append(f"partial: {page.partial}")
            fetched = [opened.threads.fetch(thread.id) for thread in page.threads]
            outcome.answers.append(fetched)
            outcome.said += [f"missing: {each.thread.id}" for each in fetched if each.thread.missing]
            audit = opened.audit()
            outcome.said += [f"{finding.path}: {finding.message}" for finding in audit.findings]
    except EngineError as error:
        outcome.said.append(str(error))
        outcome.errors.append(error)
    return outcome


def recorded(home: Path, state: Path) -> tuple[list[Call], Outcome]:
    files = RecordingFiles(Files())
    outcome = use(home, state, files)
    return files.calls, outcome


def check_each(
    home: Path, folder: Path, error: int, chosen: Callable[[Call], bool]
) -> tuple[int, list[tuple[int, Call, Outcome]]]:
    """Fail each chosen call once; how many were, and those that changed an answer without a word."""
    calls, clean = recorded(home, folder / "clean")
    assert clean.said == []
    rows = dump(folder / "clean" / "state_1.sqlite")
    struck, silent = 0, []
    for number, call in enumerate(calls):
        if not chosen(call):
            continue
        state = folder / str(number)
        files = FaultyFiles(Files(), fail_once(number, error))
        outcome = use(home, state, files)
        struck += len(files.struck)
        assert all(error.path and error.hint for error in outcome.errors), f"no place or nothing to do: {outcome.said}"
        if not outcome.said and outcome.answers != clean.answers:
            silent.append((number, call, outcome))
        after = use(home, state, Files())
        assert (after.said, after.answers) == ([], clean.answers), f"not healed after {call}"
        assert dump(state / "state_1.sqlite") == rows, f"not healed after {call}"
    return struck, silent


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ENOENT], ids=errno.errorcode.get)
def test_a_failing_read_is_told_and_healed_by_the_next_run(home: Path, tmp_path: Path, error: int) -> None:
    """Walking and reading rollouts: each call fails once with each error."""
    struck, silent = check_each(home, tmp_path, error, lambda call: call.op.startswith(SAMPLED))
    assert struck > 40
    assert silent == []


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_failing_call_for_a_database_or_a_lock_is_told_and_healed(home: Path, tmp_path: Path, error: int) -> None:
    """Folders, locks, migrations, owners: each call fails once with each error."""
    struck, silent = check_each(home, tmp_path, error, lambda call: not call.op.startswith(SAMPLED))
    assert struck > 40
    assert silent == []
