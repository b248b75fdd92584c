"""The page about projections of one's own: its Python is run as it stands, block behind block."""

from __future__ import annotations

import re
from pathlib import Path

from engine.testing import HomePlan, make_home
from tests.own import BLOCKS, PAGE
from tests.pages import printed_by


def test_the_python_of_the_page_prints_what_each_model_used(tmp_path: Path) -> None:
    made = make_home(tmp_path / "home", HomePlan(threads=40, seed=2))
    printed = printed_by("\n".join(BLOCKS), tmp_path)
    *used, rollouts, covered = printed
    assert all(re.fullmatch(r"2026-\d\d-\d\d \S+ \d+", line) for line in used)
    assert len(used) >= 3
    assert {line.split()[0] for line in used} == {max(line.split()[0], "2026-04-01") for line in used}
    assert covered == "all of them"
    assert 3 <= int(rollouts.split()[0]) <= len(made) + sum(len(thread.older_paths) for thread in made)


def test_the_page_names_every_member_that_a_projection_has() -> None:
    import engine

    members = {name for name in vars(engine.Projection) if not name.startswith("_")}
    table = PAGE.read_text("utf-8").split("## What you write")[1].split("Rules, which")[0]
    assert {name for name in members if f"`{name}" not in table} == {"encode", "decode"}
    assert "`encode` and `decode`" in PAGE.read_text("utf-8")
