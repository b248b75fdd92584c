"""A home of another user: what may not be written is not, what may not be read is listed and tried again.

Root is above file modes, so these run in a process that gives its rights away first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.testing import HomePlan, MadeThread, make_home

CHECKOUT = Path(__file__).resolve().parents[2]
NOBODY = 65_534

# Uses a home as root, so that all is imported (another user may not reach the interpreter's own files), then becomes
# somebody else, uses it again, and prints what it saw then.
AS_NOBODY = """
import contextlib, json, os, sys, tempfile
import engine
from engine.errors import EngineError
from engine.options import Options

home, state, fetched = sys.argv[1], sys.argv[2] or None, sys.argv[3]

def use(state):
    said = {}
    with engine.open(home, state_dir=state, options=Options(background_scan_s=0, scan_interval_ms=0)) as opened:
        report = opened.backfill()
        said["status"], said["threads"], said["files"] = report.status, report.threads, report.files
        said["failed"] = [(failure.path, failure.reason) for failure in report.failed]
        said["listed"] = sorted(row.id for row in opened.threads.list(limit=0).threads)
        said["missing"] = sorted(row.id for row in opened.threads.list(limit=0).threads if row.missing)
        said["state_dir"] = opened.state_dir
        said["told"] = sorted(failure.path for failure in opened.status().backfill.failed)
        said["turns"] = []
        with contextlib.suppress(EngineError):
            said["turns"] = [turn.id for turn in opened.turns.list(fetched, limit=0).turns]
        page = opened.search("the", limit=0)
        said["found"], said["covered"] = len(page.hits), page.partial is None
        said["findings"] = sorted((found.class_, found.path) for found in opened.audit().findings)
        try:
            said["records"] = opened.threads.fetch(fetched).records
        except EngineError as error:
            said["records"] = f"{type(error).__name__}: {error.path}"
    return said

with tempfile.TemporaryDirectory() as scratch:
    use(scratch)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(json.dumps(use(state)))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others can reach, which pytest's own are not."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user wants root")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def made(place: Path) -> list[MadeThread]:
    """A home that everybody may read and only root may write."""
    made = make_home(
        place / "home", HomePlan(threads=6, bytes_max=5_000, archived=0.0, reverted=0.0, forks=0.0, subagents=0.0)
    )
    for path in [place / "home", *(place / "home").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return made


def use(place: Path, fetched: str, state: Path | None) -> dict[str, Any]:
    command = [sys.executable, "-c", AS_NOBODY, str(place / "home"), str(state or ""), fetched]
    child = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)
    if "there are no migrations" in child.stderr:
        pytest.skip("another user cannot read the folder that the engine is installed in")
    assert (child.returncode, child.stderr[-3_000:]) == (0, "")
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def own_state(place: Path) -> Path:
    state = place / "state"
    state.mkdir(exist_ok=True)
    os.chown(state, NOBODY, NOBODY)
    return state


def names(folder: Path) -> list[tuple[str, int, int]]:
    return sorted(
        (str(path), path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in [folder, *folder.rglob("*")]
    )


def every(made: list[MadeThread]) -> list[str]:
    return sorted(thread.id for thread in made)


def test_another_users_home_is_read_with_tables_in_memory(place: Path, made: list[MadeThread]) -> None:
    """All threads, no failure, and not one file or time under the home is another."""
    before = names(place / "home")
    said = use(place, made[0].id, None)
    assert (said["status"], said["listed"], said["failed"]) == ("complete", every(made), [])
    assert (said["state_dir"], said["records"], said["findings"]) == (None, made[0].records, [])
    assert len(said["turns"]) > 0
    assert (said["found"] > 0, said["covered"]) == (True, True)
    assert names(place / "home") == before


def test_another_users_home_is_indexed_into_a_folder_of_ones_own(place: Path, made: list[MadeThread]) -> None:
    """The second process finds the rows of the first."""
    before = names(place / "home")
    state = own_state(place)
    assert use(place, made[0].id, state)["files"] == 6
    again = use(place, made[0].id, state)
    assert (again["files"], again["listed"], again["records"]) == (0, every(made), made[0].records)
    assert names(place / "home") == before


def test_an_unreadable_rollout_is_listed_as_failed_and_tried_again(place: Path, made: list[MadeThread]) -> None:
    """Mode 000: named with its reason, never complete; readable again, it is there at the next run."""
    state = own_state(place)
    full = place / "home" / made[2].path
    full.chmod(0)
    for _ in range(2):
        said = use(place, made[0].id, state)
        assert said["failed"] == [[made[2].path, "it cannot be read: Permission denied"]]
        assert (said["status"], said["threads"], said["told"]) == ("pending", 5, [made[2].path])
        assert said["findings"] == [["unreadable", made[2].path]]
        assert (said["found"] > 0, said["covered"]) == (True, False)
    full.chmod(0o644)
    said = use(place, made[2].id, state)
    assert (said["status"], said["listed"], said["failed"], said["told"]) == ("complete", every(made), [], [])
    assert said["records"] == made[2].records


def test_a_rollout_that_became_unreadable_keeps_its_row(place: Path, made: list[MadeThread]) -> None:
    """It is not gone, so it is not missing; to fetch it is an error that names the file."""
    state = own_state(place)
    use(place, made[0].id, state)
    full = place / "home" / made[2].path
    full.chmod(0)
    said = use(place, made[2].id, state)
    assert (said["status"], said["listed"], said["missing"]) == ("pending", every(made), [])
    assert said["records"] == f"RolloutUnreadable: {full}"


@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["no rights", "no search"])
def test_an_unreadable_folder_is_listed_as_failed_and_tried_again(
    place: Path, made: list[MadeThread], mode: int
) -> None:
    """Its threads keep their rows and are not called missing; the status is not complete."""
    state = own_state(place)
    use(place, made[0].id, state)
    folder = (place / "home" / made[2].path).parent
    folder.chmod(mode)
    said = use(place, made[0].id, state)
    shown = str(folder.relative_to(place / "home"))
    assert said["failed"] == [[shown, "the folder cannot be read: Permission denied"]]
    assert (said["status"], said["listed"], said["missing"]) == ("pending", every(made), [])
    folder.chmod(0o755)
    said = use(place, made[2].id, state)
    assert (said["status"], said["failed"], said["records"]) == ("complete", [], made[2].records)


def test_a_failed_rollout_that_is_then_deleted_is_no_failure_any_more(place: Path, made: list[MadeThread]) -> None:
    """Nothing can be tried again where nothing is."""
    state = own_state(place)
    full = place / "home" / made[2].path
    full.chmod(0)
    assert use(place, made[0].id, state)["told"] == [made[2].path]
    full.unlink()
    said = use(place, made[0].id, state)
    assert (said["status"], said["threads"], said["failed"], said["told"]) == ("complete", 5, [], [])
