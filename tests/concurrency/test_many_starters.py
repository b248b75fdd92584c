"""Twenty processes start on one home at the same moment: none fails, and they make one database.

Other engines fail here: the switch to WAL does not wait, and two who both find no schema both create it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.sqlite import Database

CHECKOUT = Path(__file__).resolve().parents[2]
STARTERS = 20

# Gets ready, waits for the signal, opens, writes a row of its own, reads, closes; says what it set aside.
STARTER = """
import os, sys
from engine.clock import SystemClock
from engine.options import Options
from engine.stores.files import Files
from engine.stores.sqlite import Database
print("ready", flush=True)
sys.stdin.readline()
arguments = {"options": Options(busy_wait_ms=20_000), "clock": SystemClock(), "files": Files()}
database = Database.open(sys.argv[1], "state", 1, migrations="state", **arguments)
with database.write() as transaction:
    transaction.run("INSERT INTO fences (name, generation) VALUES (?, 1)", (str(os.getpid()),))
with database.read() as transaction:
    assert transaction.row("SELECT 1 FROM fences WHERE name = ?", (str(os.getpid()),)) == (1,)
database.close()
print(database.quarantined)
"""


# Opens, writes and closes for a second, and now and then sets the file aside as if it had found it damaged.
RESTARTER = """
import os, sys, time
from engine.clock import SystemClock
from engine.errors import StoreReplaced
from engine.options import Options
from engine.stores.files import Files
from engine.stores.sqlite import Database
print("ready", flush=True)
sys.stdin.readline()
arguments = {"options": Options(busy_wait_ms=20_000), "clock": SystemClock(), "files": Files()}
clock, turns, moved, until = arguments["clock"], 0, 0, time.monotonic() + 1
while time.monotonic() < until:
    turns += 1
    database = Database.open(sys.argv[1], "state", 1, migrations="state", **arguments)
    assert database.quarantined is None
    try:
        for index in range(10):
            with database.write() as transaction:
                name = f"{os.getpid()}-{turns}-{index}" + "x" * 300
                transaction.run("INSERT INTO fences VALUES (?, ?)", (name, turns))
            with database.read() as transaction:
                assert transaction.row("SELECT 1 FROM fences WHERE name = ?", (name,))
        if clock.fraction() < 0.2:
            moved += database.quarantine() is not None
    except StoreReplaced:
        pass
    database.close()
print(turns, moved)
"""


def start_all(folder: Path, script: str = STARTER) -> tuple[list[int], list[str]]:
    """The process ids, and what each said in the end; none may have failed."""
    command = [sys.executable, "-c", script, str(folder)]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(STARTERS)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120) for process in processes]
    assert [(process.returncode, errors) for process, (_, errors) in zip(processes, ends, strict=True)] == [
        (0, "")
    ] * STARTERS
    return [process.pid for process in processes], [said.strip() for said, _ in ends]


def state(folder: Path) -> Database:
    arguments = {"options": Options(), "clock": SystemClock(), "files": Files()}
    return Database.open(str(folder), "state", 1, migrations="state", **arguments)


def check(folder: Path, pids: list[int]) -> None:
    """One schema, each migration once, and a row of every process."""
    database = state(folder)
    with database.read() as transaction:
        applied = [row[0] for row in transaction.rows("SELECT number FROM migrations ORDER BY number")]
        rows = [row[0] for row in transaction.rows("SELECT name FROM fences")]
        backfill = list(transaction.rows("SELECT id, status FROM backfill"))
    assert applied == list(range(1, len(applied) + 1))
    assert applied
    assert sorted(rows) == sorted(map(str, pids))
    assert backfill == [(1, "pending")]  # inserted by a migration: a second run would have failed or doubled it
    assert database.integrity() == ["ok"]
    database.close()


@pytest.mark.parametrize("attempt", range(3))
def test_twenty_start_on_a_new_home(tmp_path: Path, attempt: int) -> None:
    folder = tmp_path / "engine"
    pids, said = start_all(folder)
    assert said == ["None"] * STARTERS
    check(folder, pids)


def test_twenty_start_on_a_home_whose_database_is_garbage_and_one_sets_it_aside(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "state_1.sqlite").write_bytes(b"this was a database once" * 1_000)
    pids, said = start_all(folder)
    assert sorted(line == "None" for line in said) == [False] + [True] * (STARTERS - 1)
    assert len(list(folder.glob("quarantine/*/*"))) == 1
    check(folder, pids)


def test_twenty_that_open_write_and_set_aside_all_the_time_never_damage_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    _, said = start_all(folder, RESTARTER)
    turns, moved = (sum(column) for column in zip(*(map(int, line.split()) for line in said), strict=True))
    assert moved > 0
    assert turns > moved
    database = state(folder)
    assert database.quarantined is None
    assert database.integrity() == ["ok"]
    database.close()
    for aside in folder.glob("quarantine/*"):
        connection = apsw.Connection(str(aside / "state_1.sqlite"))
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        connection.close()


def test_eight_threads_of_one_process_open_it_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    together = threading.Barrier(8)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        together.wait()
        try:
            database = state(folder)
            for index in range(20):
                with database.write() as transaction:
                    transaction.run("INSERT INTO fences (name, generation) VALUES (?, 1)", (f"{number}-{index}",))
            database.close()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    database = state(folder)
    with database.read() as transaction:
        assert transaction.row("SELECT count(*) FROM fences") == (160,)
    database.close()
