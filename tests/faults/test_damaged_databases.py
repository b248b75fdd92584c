"""Whatever becomes of a database file: the same rows, or set aside and built again once, or named by audit and mended.

A byte is flipped in every header field and in every page, the file is cut, emptied, replaced by text, its -wal is removed
or replaced; then a home is opened and used, by one process and by four at once. What a user set comes back each time, and
no byte of a rollout or the journal changes. The jobs database may be lost as well: nothing is in it but leases. The indexes of
turns and of words give the same answers as before, and so do the logs, whose rows no audit compares.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import apsw
import msgspec
import pytest

import engine
from engine.clock import SystemClock
from engine.errors import ThreadNotFound
from engine.options import Options
from engine.testing import HomePlan, MadeThread, make_home
from engine.testing.tables import dump
from tests.log_home import Process

CHECKOUT = Path(__file__).resolve().parents[2]
OPTIONS = Options(scan_interval_ms=0, busy_wait_ms=2_000)
PAGE_BYTES = 8_192

NAMES = ("state_1.sqlite", "jobs_1.sqlite", "history_1.sqlite", "search_1.sqlite", "logs_1.sqlite")

KEY = "dk_tpm_" + "A" * 43

NOT_AUDITED = {"fact_streams", "backfill", "migrations"}
"""Bookkeeping that the audit does not compare with the files; a rebuild makes it anew all the same."""

HISTORY = {"divergences", "failures"}
"""Tables that tell what was met, which no file tells again."""

DERIVED = ("history_1.sqlite", "search_1.sqlite")
"""Indexes of their own: by their answers it is told whether they are as they were."""

FOR_PEOPLE = {"migrations": ("name",)}
"""What nothing asks for: a flip in it is no damage to anybody."""

HEADER = {
    "magic": 3, "page size": 16, "write version": 18, "read version": 19, "reserved bytes": 20, "fractions": 21,
    "change counter": 27, "size in pages": 31, "first free page": 35, "free pages": 39, "schema cookie": 43,
    "schema format": 47, "cache size": 51, "largest root": 55, "encoding": 59, "user version": 63, "vacuum mode": 67,
    "application id": 69, "unused": 80, "valid for": 95, "library": 99,
}  # fmt: skip


class Bench:
    """A home that has something in every table, and the bytes of its databases; `restore` brings all back."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.made: list[MadeThread] = make_home(self.home, HomePlan(threads=12, bytes_max=4_000, seed=3))
        self.state = self.home / "engine"
        self.log(30)
        with self.opened() as opened:
            opened.backfill()
            opened.threads.rename(self.made[0].id, "named")
            opened.threads.set_memory_mode(self.made[1].id, "disabled")
            opened.goals.replace(self.made[2].id, "all tests pass", adopt=True)
            opened.agents.attach(self.made[1].id, self.made[0].id)
            opened.agents.close(self.made[1].id)
            asyncio.run(opened.device_keys.bindings.put(KEY, "account", "client"))
            opened.backfill()
            opened.threads.list()
            self.answers = self.asked(opened)
            self.logged = self.read_log(opened)
        self.rows = self.dump()
        self.bytes = {name: (self.state / name).read_bytes() for name in NAMES}
        self.truth = self.digest()

    def opened(self) -> engine.Engine:
        return engine.open(str(self.home), options=OPTIONS)

    def dump(self) -> dict[str, list[tuple]]:
        try:
            return dump(self.state / "state_1.sqlite", without=FOR_PEOPLE)
        except (apsw.CorruptError, UnicodeDecodeError):  # the latter of a column's name
            return {"threads": []}  # other than it was in any case

    def log(self, records: int) -> None:
        """A log of so many records, some of them a thread's."""
        process = Process(self.home, clock=SystemClock())
        for number in range(records):
            process.log(f"record {number}", self.made[0].id if number % 3 else None, level=("INFO", "WARN")[number % 2])

    def asked(self, opened: engine.Engine) -> list[Any]:
        """What the indexes of turns and of words answer, all of it; who meets the damage may be told that it is short."""
        pages: list[Any] = []
        for _ in range(2):
            pages = [opened.turns.list(each.id, limit=0, items_view="full") for each in self.made]
            pages += [opened.search(word, limit=0, sort="oldest") for word in ("the", "test*", "named")]
            if not any(page.partial for page in pages):
                break
        return [msgspec.to_builtins(page) for page in pages]

    def read_log(self, opened: engine.Engine) -> list[Any]:
        """Every record of the log. The answer that meets the damage says that it lacks all, the next one has them."""
        found = opened.logs.query(limit=None)
        if found.lag.bytes:
            found = opened.logs.query(limit=None)
        assert found.lag.bytes == 0
        return [(each.timestamp, each.level, each.thread_id, each.body) for each in found.records]

    def digest(self) -> str:
        """Of everything that is truth."""
        digest = hashlib.sha256()
        for path in sorted(self.home.rglob("*.jsonl*")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def restore(self) -> None:
        shutil.rmtree(self.state / "quarantine", ignore_errors=True)
        for name, content in self.bytes.items():
            for path in self.state.glob(f"{name}*"):
                path.unlink()
            (self.state / name).write_bytes(content)

    def aside(self, name: str) -> int:
        """How many databases of that name were set aside."""
        return len(list(self.state.glob(f"quarantine/*/{name}")))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("damaged"))


@pytest.fixture
def bench(shared: Bench) -> Bench:
    shared.restore()
    return shared


def use(opened: engine.Engine, bench: Bench) -> list[str]:
    """What a session does; nothing of it may fail. The threads that it did not find: an index may hide one."""
    opened.threads.list(limit=0, counts=True)
    hidden = []
    for thread in bench.made[:3]:
        try:
            opened.threads.fetch(thread.id)
        except ThreadNotFound:
            hidden.append(thread.id)
    opened.status()
    assert opened.backfill().status == "complete"
    return hidden


def check(bench: Bench, where: object) -> str:
    """One of the outcomes, and which: the same, set aside by itself, named by an audit, or named and the rows differed.

    What is named is mended.
    """
    with bench.opened() as opened:
        hidden = use(opened, bench)
        findings = opened.audit().faults
        assert not hidden or findings, f"hidden, and not told: {where}"
        differing = differing_from(bench)
        aside = bench.aside("state_1.sqlite")
        assert aside <= 1, f"set aside more than once: {where}"
        if differing - HISTORY:
            assert not aside, f"built again, and not the same: {differing} at {where}"
            assert findings or differing <= NOT_AUDITED | HISTORY, f"silent: {differing} at {where}"
        if findings or differing - HISTORY:
            mend(opened, bench, {found.thread_id for found in findings if found.thread_id}, where)
    assert bench.digest() == bench.truth
    return "mended" if differing else "set aside" if aside else "named" if findings else "the same"


def mend(opened: engine.Engine, bench: Bench, threads: set[str], where: object) -> None:
    """A repair mends what is named but for what looks like a newer engine's: that, and bookkeeping, wants a rebuild."""
    report = opened.repair()
    assert report.is_clean, f"named and not repaired: {report.left} at {where}"
    left = {found.class_ for found in report.left} & {"newer_projection"}
    if left or differing_from(bench) - HISTORY:
        assert left or differing_from(bench) <= NOT_AUDITED | HISTORY, f"not repaired: {where}"
        opened.rebuild()
        for thread in threads:
            opened.rebuild(thread)
        opened.rebuild(projection="facts")
    assert differing_from(bench) <= HISTORY, f"not mended: {where}"
    assert [found for found in opened.audit().faults if found.mend] == []


def check_index(bench: Bench, name: str, where: object) -> str:
    """The same of an index of turns or of words, by its answers."""
    with bench.opened() as opened:
        assert use(opened, bench) == []
        answers = bench.asked(opened)
        findings = opened.audit().faults
        aside = bench.aside(name)
        assert aside <= 1, f"set aside more than once: {where}"
        is_silent = not findings and not aside and answers != bench.answers
        if is_silent:  # of a message's words an audit looks up the first four
            assert name == "search_1.sqlite", f"silent: {where}"
            opened.rebuild(projection=TITLES[name])
        if findings:
            report = opened.repair()
            if {found.mend for found in report.left} - {None}:  # names, and what looks like a newer engine's
                opened.rebuild(projection=TITLES[name])
        assert bench.asked(opened) == bench.answers, f"not mended: {where}: {findings}"
        assert [found for found in opened.audit().faults if found.mend] == [], where
    assert bench.digest() == bench.truth
    if is_silent:
        return "a word"
    return "set aside" if aside else "mended" if answers != bench.answers else "named" if findings else "the same"


def check_log(bench: Bench, where: object) -> str:
    """A log is read, whatever becomes of its table; what differs then comes back from the segments."""
    with bench.opened() as opened:
        assert use(opened, bench) == []
        opened.logs.status()
        logged = bench.read_log(opened)
        findings = opened.audit().faults
        if findings:
            assert opened.repair().left == [], where
            assert bench.read_log(opened) == bench.logged, f"not mended: {where}"
    aside = bench.aside("logs_1.sqlite")
    assert aside <= 1, f"set aside more than once: {where}"
    if logged != bench.logged and not findings:  # a value of a row, which no audit compares
        (bench.state / "logs_1.sqlite").unlink()
        with bench.opened() as opened:
            assert bench.read_log(opened) == bench.logged, where
    assert bench.digest() == bench.truth
    return "set aside" if aside else "named" if findings else "the same" if logged == bench.logged else "a value"


def differing_from(bench: Bench) -> set[str]:
    """Tables that are not as they were before the damage."""
    now = bench.dump()
    return {table for table in bench.rows if now.get(table) != bench.rows[table]}


def flip(bench: Bench, name: str, offset: int, mask: int) -> None:
    bench.restore()
    content = bytearray(bench.bytes[name])
    content[offset] ^= mask
    (bench.state / name).write_bytes(content)


@pytest.mark.parametrize("field", HEADER)
def test_a_flip_in_any_field_of_the_header_ends_with_the_same_rows(bench: Bench, field: str) -> None:
    for mask in (0x01, 0xFF):
        flip(bench, "state_1.sqlite", HEADER[field], mask)
        assert check(bench, (field, mask)) in ("the same", "set aside", "named")


def flip_pages(bench: Bench, name: str, each: int, seed: int) -> list[str]:
    found = []
    for offset, mask in places(bench.bytes[name], each, Random(seed)):
        flip(bench, name, offset, mask)
        found.append(CHECKS[name](bench, (name, offset, mask)))
    return found


def places(content: bytes, each: int, rng: Random) -> Iterator[tuple[int, int]]:
    """So many in each page, and a bit of each: most where something is written, since much of a page is free."""
    for start in range(0, len(content), PAGE_BYTES):
        written = [offset for offset in range(start, start + PAGE_BYTES) if content[offset]]
        for _ in range(each):
            anywhere = start + rng.randrange(PAGE_BYTES)
            yield rng.choice(written) if written and rng.random() < 0.8 else anywhere, 1 << rng.randrange(8)


CHECKS: dict[str, Callable[[Bench, object], str]] = {
    "state_1.sqlite": check,
    "jobs_1.sqlite": check,
    "history_1.sqlite": lambda bench, where: check_index(bench, "history_1.sqlite", where),
    "search_1.sqlite": lambda bench, where: check_index(bench, "search_1.sqlite", where),
    "logs_1.sqlite": check_log,
}
TITLES = {"history_1.sqlite": "turns", "search_1.sqlite": "search"}


def test_flips_in_every_page_end_with_the_same_rows_or_are_named_and_mended(bench: Bench) -> None:
    found = flip_pages(bench, "state_1.sqlite", each=2, seed=5)
    assert {"the same", "set aside", "mended"} <= set(found)  # else one of the outcomes was not tried


@pytest.mark.parametrize("name", ["history_1.sqlite", "search_1.sqlite", "logs_1.sqlite"])
def test_flips_in_every_page_of_an_index_end_with_the_same_answers(bench: Bench, name: str) -> None:
    assert len(set(flip_pages(bench, name, each=1, seed=3))) > 1


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 104))
def test_soak_flips_in_every_page(bench: Bench, seed: int) -> None:
    flip_pages(bench, "state_1.sqlite", each=15, seed=seed)


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES[1:])
def test_soak_flips_in_every_page_of_the_other_databases(bench: Bench, name: str) -> None:
    flip_pages(bench, name, each=20, seed=100)


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_soak_every_byte_of_the_header(bench: Bench, name: str) -> None:
    for offset in range(100):
        for mask in (0x01, 0x80, 0xFF):
            flip(bench, name, offset, mask)
            CHECKS[name](bench, (name, offset, mask))


def test_flips_in_the_jobs_database_cost_nothing_but_leases(bench: Bench) -> None:
    for offset in HEADER.values():
        flip(bench, "jobs_1.sqlite", offset, 0xFF)
        assert check(bench, offset) in ("the same", "named")
    assert set(flip_pages(bench, "jobs_1.sqlite", each=6, seed=7)) <= {"the same", "named"}


@pytest.mark.parametrize("field", ["write version", "read version", "schema format"])
def test_a_flip_in_the_format_of_a_log_is_set_aside(bench: Bench, field: str) -> None:
    """Its own pragma writes to the file, which SQLite then took for one that cannot be written to: no question was answered."""
    flip(bench, "logs_1.sqlite", HEADER[field], 0x80)
    assert check_log(bench, field) == "set aside"


def test_a_damaged_index_of_the_log_is_named_and_mended(bench: Bench) -> None:
    """No question to the log needs meet it: an audit once did not look at that database at all."""
    change = "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = 'logs_by_partition'"
    right, wrong = "(partition)", "(-partition)"
    for sql, values in ((change, (right, wrong)), ("REINDEX logs_by_partition", ()), (change, (wrong, right))):
        connection = apsw.Connection(str(bench.state / "logs_1.sqlite"))
        connection.execute("PRAGMA writable_schema = ON").fetchall()
        connection.execute(sql, values)
        connection.close()
    with bench.opened() as opened:
        assert [(found.class_, found.field) for found in opened.audit().faults] == [("damaged_database", "logs")]
        assert opened.repair().left == []
        assert bench.read_log(opened) == bench.logged
    assert bench.aside("logs_1.sqlite") == 1


def with_wal(path: Path) -> None:
    """As a process leaves it that is killed: part of what was committed is in the -wal alone."""
    copy = path.with_name("copy")
    connection = apsw.Connection(str(path))
    connection.wal_autocheckpoint(0)
    connection.execute("UPDATE threads SET title = title || ' '; UPDATE threads SET title = rtrim(title)")
    shutil.copy(path, copy)
    shutil.copy(f"{path}-wal", f"{copy}-wal")
    connection.close()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.move(copy, path)
    shutil.move(f"{copy}-wal", f"{path}-wal")


def without_its_wal(path: Path) -> None:
    with_wal(path)
    Path(f"{path}-wal").unlink()


def with_half_its_wal(path: Path) -> None:
    with_wal(path)
    content = Path(f"{path}-wal").read_bytes()
    Path(f"{path}-wal").write_bytes(content[: len(content) // 2])


def with_a_garbage_wal(path: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"this is no wal at all " * 3_000)


def with_a_wal_of_another(path: Path) -> None:
    other = path.with_name("other.sqlite")
    connection = apsw.Connection(str(other))
    connection.execute("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL").fetchall()
    connection.execute("CREATE TABLE threads (x); INSERT INTO threads VALUES (1)")
    shutil.copy(f"{other}-wal", f"{path}-wal")
    connection.close()
    other.unlink()


def with_a_page_of_ones(number: Callable[[Path], int]) -> Callable[[Path], None]:
    def overwrite(path: Path) -> None:
        content, at = path.read_bytes(), (number(path) - 1) * PAGE_BYTES
        path.write_bytes(content[:at] + b"\xff" * PAGE_BYTES + content[at + PAGE_BYTES :])

    return overwrite


def first_page_of_its_largest_table(path: Path) -> int:
    connection = apsw.Connection(str(path))
    table = "threads" if path.name.startswith("state") else "leases"
    page: int = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    connection.close()
    return page


def page_in_the_middle(path: Path) -> int:
    return path.stat().st_size // PAGE_BYTES // 2 + 1


def cut_at(share: float) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return cut


def overwritten(content: bytes) -> Callable[[Path], None]:
    def overwrite(path: Path) -> None:
        path.write_bytes(content)

    return overwrite


def with_another_application_id(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[68:72] = b"rlxb"
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": lambda path: path.unlink(),
    "empty": overwritten(b""),
    "one byte": overwritten(b"S"),
    "text": overwritten(b"# notes\n" * 4_000),
    "zeros": overwritten(bytes(200_000)),
    "cut in the header": cut_at(0.0003),
    "cut behind the first page": cut_at(0.05),
    "cut in half": cut_at(0.5),
    "cut near its end": cut_at(0.97),
    "a page of ones": with_a_page_of_ones(first_page_of_its_largest_table),
    "a page of ones that few look at": with_a_page_of_ones(page_in_the_middle),
    "another application's id": with_another_application_id,
    "killed": with_wal,
    "no -wal": without_its_wal,
    "half a -wal": with_half_its_wal,
    "a garbage -wal": with_a_garbage_wal,
    "another's -wal": with_a_wal_of_another,
}


@pytest.mark.parametrize(
    "wrong",
    [
        "UPDATE sqlite_schema SET sql = replace(sql, 'preview', 'prevjew') WHERE name = 'threads'",
        "UPDATE sqlite_schema SET name = 'thrfads', tbl_name = 'thrfads' WHERE name = 'threads'",
        "UPDATE sqlite_schema SET sql = replace(sql, 'running', 'runnjng') WHERE name = 'backfill'",
        "UPDATE migrations SET number = 129 WHERE number = 1",
        "UPDATE migrations SET checksum = 'x' || substr(checksum, 2) WHERE number = 1",
        "UPDATE migrations SET checksum = substr(name, -8) || substr(checksum, 1, 56) WHERE number = 1",
        "UPDATE migrations SET checksum = (SELECT checksum FROM migrations WHERE number = 2) WHERE number = 1",
        "DELETE FROM migrations WHERE number = (SELECT max(number) FROM migrations)",
    ],
    ids=[
        "column",
        "table",
        "constraint",
        "number of a migration",
        "checksum of a migration",
        "what stands before a checksum",
        "another's checksum",
        "last note of a migration",
    ],
)
def test_a_schema_or_a_note_of_migrations_that_is_damaged_ends_with_the_same_rows(bench: Bench, wrong: str) -> None:
    """SQLite takes each for what was meant, and its own check finds nothing."""
    connection = apsw.Connection(str(bench.state / "state_1.sqlite"))
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    connection.execute(wrong)
    assert connection.changes() == 1
    connection.close()
    # No query meets a constraint's words, so it is an audit that compares them with what the migrations make.
    assert check(bench, wrong) == ("named" if "runnjng" in wrong else "set aside")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (
            "history_1.sqlite",
            "UPDATE sqlite_schema SET sql = replace(sql, 'completed_at', 'compldted_at') WHERE name = 'turns'",
        ),
        ("search_1.sqlite", "UPDATE sqlite_schema SET sql = replace(sql, 'said_off', 'said_nff') WHERE name = 'texts'"),
        ("search_1.sqlite", "UPDATE words_config SET v = 0 WHERE k = 'version'"),
    ],
    ids=["column of turns", "column of texts", "version of FTS5"],
)
def test_a_schema_of_an_index_that_is_damaged_ends_with_the_same_answers(bench: Bench, name: str, wrong: str) -> None:
    """Every statement on it failed as if it were wrong, and went on failing: nothing took that for damage."""
    connection = apsw.Connection(str(bench.state / name))
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    connection.execute(wrong)
    assert connection.changes() == 1
    connection.close()
    assert check_index(bench, name, wrong) == "set aside"


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_ends_with_the_same_rows_or_is_named_and_mended(bench: Bench, damage: str) -> None:
    DAMAGES[damage](bench.state / "state_1.sqlite")
    check(bench, damage)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if "-wal" not in name and name != "killed"])
def test_any_damage_of_the_jobs_database_costs_nothing_but_leases(bench: Bench, damage: str) -> None:
    """And there are leases again afterwards."""
    DAMAGES[damage](bench.state / "jobs_1.sqlite")
    assert check(bench, damage) in ("the same", "named")
    with bench.opened() as again:
        again.backfill()
    connection = apsw.Connection(str(bench.state / "jobs_1.sqlite"))
    assert connection.execute("SELECT count(*) FROM leases WHERE name = 'backfill'").get == 1
    connection.close()


@pytest.mark.parametrize("damage", ["removed", "empty", "text", "overwritten"])
def test_a_jobs_database_that_is_lost_while_open_is_begun_anew_by_the_next_claim(bench: Bench, damage: str) -> None:
    path = bench.state / "jobs_1.sqlite"
    with bench.opened() as opened:
        opened.backfill()
        if damage == "overwritten":
            path.write_bytes(b"\xff" * path.stat().st_size)
        else:
            path.unlink()
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            if damage != "removed":
                DAMAGES[damage](path)
        assert opened.backfill().status == "complete"
        assert damage == "overwritten" or leases(path) == [("backfill",), ("fill history",), ("fill search",)]
    with bench.opened() as again:  # what was overwritten under it SQLite may only meet now
        assert again.backfill().status == "complete"
    assert leases(path) == [("backfill",), ("fill history",), ("fill search",)]


def leases(path: Path) -> list[tuple]:
    connection = apsw.Connection(str(path))
    try:
        return connection.execute("SELECT name FROM leases").fetchall()
    finally:
        connection.close()


def test_a_folder_in_the_place_of_the_jobs_database_costs_the_leases_alone(bench: Bench) -> None:
    path = bench.state / "jobs_1.sqlite"
    path.unlink()
    path.mkdir()
    try:
        assert check(bench, "folder") == "named"
        assert path.is_dir()
    finally:
        path.rmdir()


# Waits for the word, opens the home, uses it as a program does, and says what it lists.
STARTER = """
import json, sys
import engine
from engine.options import Options
print("ready", flush=True)
sys.stdin.readline()
with engine.open(sys.argv[1], options=Options(scan_interval_ms=0, busy_wait_ms=30_000, spectator_poll_ms=10)) as e:
    e.threads.list(limit=0)
    status = e.backfill().status
    e.status()
    listed = {row.id: row.name for row in e.threads.list(limit=0).threads}
print(json.dumps([status, listed]), flush=True)
"""


def start_four(bench: Bench) -> None:
    """All four end well, with every thread and every name."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", STARTER, str(bench.home)]
    starters = [
        subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)
    ]
    for starter in starters:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("\n")
        starter.stdin.flush()
    for starter in starters:
        said, errors = starter.communicate(timeout=120)
        assert (starter.returncode, errors) == (0, "")
        names = {thread.id: None for thread in bench.made} | {bench.made[0].id: "named"}
        assert json.loads(said) == ["complete", names]


@pytest.mark.parametrize(
    "damage", ["text", "cut in half", "a page of ones", "another application's id", "a garbage -wal", "removed"]
)
def test_of_four_starters_one_sets_the_file_aside_and_all_have_every_row(bench: Bench, damage: str) -> None:
    DAMAGES[damage](bench.state / "state_1.sqlite")
    start_four(bench)
    assert bench.aside("state_1.sqlite") <= 1
    assert check(bench, damage) != "mended"


@pytest.mark.soak
@pytest.mark.parametrize("damage", DAMAGES)
def test_soak_four_starters_on_any_damage_of_both_databases(bench: Bench, damage: str) -> None:
    DAMAGES[damage](bench.state / "state_1.sqlite")
    if "-wal" not in damage and damage != "killed":
        DAMAGES[damage](bench.state / "jobs_1.sqlite")
    start_four(bench)
    assert bench.aside("state_1.sqlite") <= 1
    check(bench, damage)


# Is open all the while, and lists until it is told to end.
LISTER = """
import sys, threading
import engine
from engine.options import Options
with engine.open(sys.argv[1], options=Options(scan_interval_ms=0, busy_wait_ms=30_000, background_scan_s=0.05)) as e:
    e.threads.list()
    print("ready", flush=True)
    end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), end.set()), daemon=True).start()
    while not end.is_set():
        e.threads.list(limit=0)
        e.status()
    e.backfill()
    print(len(e.threads.list(limit=0).threads), e.status().background_error, flush=True)
"""


@pytest.mark.parametrize("instead", [None, b"", b"garbage " * 5_000], ids=["removed", "emptied", "replaced"])
def test_four_that_have_it_open_go_on_when_the_file_goes(bench: Bench, instead: bytes | None) -> None:
    """Removed or replaced three times while all of them work; nobody fails, and in the end there is one file, complete."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", LISTER, str(bench.home)]
    listers = [
        subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)
    ]
    path = bench.state / "state_1.sqlite"
    for lister in listers:
        assert lister.stdout is not None
        assert lister.stdout.readline() == "ready\n"
    for _ in range(3):
        replacement = path.with_name("replacement")
        if instead is None:
            path.unlink(missing_ok=True)
        else:
            replacement.write_bytes(instead)
            replacement.rename(path)
        with bench.opened() as opened:
            opened.backfill()
    for lister in listers:
        said, errors = lister.communicate("end\n", timeout=120)
        assert (lister.returncode, errors, said) == (0, "", f"{len(bench.made)} None\n")
    # Each file once. Where garbage takes its place the old -wal stays beside it, and may cost the successor too.
    assert bench.aside("state_1.sqlite") <= (6 if instead else 3)
    shutil.rmtree(bench.state / "quarantine", ignore_errors=True)
    assert check(bench, "all went on") == "the same"
