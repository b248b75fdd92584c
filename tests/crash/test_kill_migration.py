"""kill -9 between the steps of a migration: the next start finishes it, and no row is lost, made up or built again.

A home with the state database of an older release is opened by a real process, which is killed before each SQL statement
in turn; what it leaves is opened by a plain engine.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

import engine
from engine.testing.tables import dump
from tests.older_shapes import NUMBER, applied, to_older_shape
from tests.writing import opened, said, say

CHECKOUT = Path(__file__).resolve().parents[2]

# argv: the home to copy, the folder for the copies. For each number a child of its own opens a copy and is killed before its
# statement of that number, from the first of a migration on. Tells how each ended.
SERVER = """
import os, shutil, signal, sys
import engine
from tests.older_shapes import at_statement

template, folder = sys.argv[1:]
engine.Engine._finish_what_was_begun = lambda self: None  # only the opening is of interest
at, ended = 0, False
while not ended:
    home = f"{folder}/{at}"
    shutil.copytree(template, home)
    child = os.fork()
    if child == 0:
        with at_statement(at, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            engine.open(home).close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(at, os.waitstatus_to_exitcode(status), flush=True)
    ended = os.waitstatus_to_exitcode(status) == 0
    at += 1
"""


WHERE_IT_LIES = {"watermarks": ("device", "inode", "mtime_ns", "ctime_ns"), "fact_streams": ("followed",)}
"""A copied home has other inodes, and the same bytes."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A home with all that rows can tell, and what they tell."""
    home = tmp_path_factory.mktemp("migration") / "home"
    with opened(home) as e:
        ids = []
        for number, mode in enumerate(["paginated", "legacy", "paginated"]):
            with e.threads.create(cwd="/srv/app", history_mode=mode) as thread:
                say(thread, f"{number} one", f"{number} two")
            ids.append(thread.id)
        e.threads.rename(ids[0], "named")
        e.threads.set_memory_mode(ids[1], "disabled")
        e.threads.archive(ids[2])
        e.threads.fork(ids[0]).close()
        e.backfill()
        with e._database.write() as transaction:  # what no rollout tells, so no rebuild would bring it back
            transaction.run("INSERT INTO divergences VALUES (1, 1, 'stream', 'thread', 'row', 'noted before')")
    with opened(home) as e:
        return home, model(e)


def model(e: engine.Engine) -> dict[str, Any]:
    rows = e.threads.list(limit=0).threads
    return {row.id: (row.name, row.archived, row.memory_mode, row.title, said(e.threads.read(row.id))) for row in rows}


@pytest.mark.parametrize("migrations", range(NUMBER))
def test_a_migration_that_was_killed_before_any_of_its_statements_is_finished_by_the_next_start(
    tmp_path: Path, made: tuple[Path, dict[str, Any]], migrations: int
) -> None:
    source, expected = made
    template = tmp_path / "template"
    shutil.copytree(source, template, ignore=shutil.ignore_patterns("locks"))
    to_older_shape(template / "engine", migrations)
    rows = upgraded(template, tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(template), str(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    ends = [line.split() for line in done.stdout.splitlines()]
    assert {code for _, code in ends[:-1]} == {str(-signal.SIGKILL)}, done.stderr
    assert ends[-1][1] == "0"
    steps = set()
    for at, _ in ends:
        home = tmp_path / at
        steps.add(applied(home / "engine") if (home / "engine/state_1.sqlite").stat().st_size else 0)
        with opened(home) as e:
            assert model(e) == expected
            assert e.audit(deep=True).findings == []
            assert e._database.integrity() == ["ok"]
            assert e._database.quarantined is None
        assert not (home / "engine/quarantine").exists()
        assert dump(home / "engine/state_1.sqlite", without=WHERE_IT_LIES) == rows
        shutil.rmtree(home)
    assert steps == set(range(migrations, NUMBER + 1)), "no kill came between two migrations"


def upgraded(template: Path, home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows after an opening that nobody killed."""
    shutil.copytree(template, home)
    with opened(home) as e:
        model(e)
    rows = dump(home / "engine/state_1.sqlite", without=WHERE_IT_LIES)
    kept = template.joinpath("engine/state_1.sqlite").stat().st_size > 0
    assert rows["divergences"] == ([("stream", "thread", "row", "noted before")] if kept else [])
    return rows


def test_an_older_shape_keeps_the_rows_it_had(tmp_path: Path, made: tuple[Path, dict[str, Any]]) -> None:
    """The double is what it says: fewer tables or columns, and of those it has the rows of today."""
    home = tmp_path / "home"
    shutil.copytree(made[0], home)
    today = dump(home / "engine/state_1.sqlite")
    to_older_shape(home / "engine", NUMBER - 1)
    older = dump(home / "engine/state_1.sqlite")
    assert older["threads"] == today["threads"]
    assert len(older["migrations"]) == NUMBER - 1
    connection = apsw.Connection(str(home / "engine/state_1.sqlite"))
    assert connection.execute("SELECT count(*) FROM streams").fetchone() == (4,)
    connection.close()
