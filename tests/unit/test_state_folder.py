"""A state folder outside of the home holds the rows of one home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import engine
from engine.errors import StateOfAnotherHome
from engine.testing import HomePlan, make_home


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two homes and a state folder for both."""
    for name, seed in (("a", 1), ("b", 2)):
        make_home(tmp_path / name, HomePlan(threads=3, seed=seed))
    return tmp_path / "a", tmp_path / "b", tmp_path / "state"


def test_a_second_home_is_refused_and_changes_nothing(homes):
    first, second, state = homes
    with engine.open(str(first), state_dir=str(state)) as opened:
        ids = {row.id for row in opened.threads.list(limit=0).threads}
    with pytest.raises(StateOfAnotherHome, match=str(first)) as caught:
        engine.open(str(second), state_dir=str(state))
    assert (caught.value.exit_code, bool(caught.value.hint)) == (2, True)
    with engine.open(str(first), state_dir=str(state)) as opened:
        assert {row.id for row in opened.threads.list(limit=0).threads} == ids


def test_a_home_that_moved_takes_its_rows_along(homes):
    first, _, state = homes
    with engine.open(str(first), state_dir=str(state)) as opened:
        ids = {row.id for row in opened.threads.list(limit=0).threads}
    moved = first.rename(first.with_name("moved"))
    with engine.open(str(moved), state_dir=str(state)) as opened:
        page = opened.threads.list(limit=0)
        assert {row.id for row in page.threads} == ids
        assert all(row.rollout_path.startswith(f"{moved}/") for row in page.threads)


def test_a_home_reached_by_a_link_is_the_same_home(homes):
    first, _, state = homes
    link = first.with_name("link")
    link.symlink_to(first)
    for path in (first, link, first):
        with engine.open(str(path), state_dir=str(state)) as opened:
            assert len(opened.threads.list(limit=0).threads) == 3


def test_a_copied_home_keeps_the_rows_inside_of_it(homes):
    first, second, _ = homes
    for path in (first, second):
        with engine.open(str(path)) as opened:
            opened.backfill()
    assert not (first / "engine" / "home").exists()


def test_relative_paths_stay_true_when_the_process_goes_elsewhere(homes, monkeypatch):
    first, _, state = homes
    monkeypatch.chdir(first.parent)
    with engine.open("a", state_dir="state") as opened:
        monkeypatch.chdir("/")
        page = opened.threads.list(limit=0)
        assert len(page.threads) == 3
        assert all(os.path.exists(row.rollout_path) for row in page.threads)
        assert opened.state_dir == str(state)
