"""Migrations: applied once and whole, checked by what they say, and found in a checkout as in an installed package."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from engine.clock import SystemClock
from engine.errors import MigrationChanged, StoreError, StoreUnavailable
from engine.options import Options
from engine.stores import migrate
from engine.stores.files import Files
from engine.stores.sqlite import Database
from engine.testing.clock import MORNING_MS, ManualClock

FIRST = """-- What it holds.
CREATE TABLE things (
    name TEXT NOT NULL PRIMARY KEY,  -- its name
    note TEXT NOT NULL DEFAULT '--; not a comment'
) STRICT;
"""


class Home:
    """A folder of migrations and a database made from them."""

    def __init__(self, folder: Path) -> None:
        self.sql = folder / "sql"
        self.sql.mkdir()
        self.engine = folder / "engine"
        self.path = self.engine / "things_1.sqlite"
        self.clock = ManualClock()

    def write(self, name: str, text: str) -> None:
        (self.sql / name).write_bytes(text.encode())

    def open(self) -> None:
        """Open and close again, as a start of the engine does."""
        arguments = {"options": Options(busy_wait_ms=500), "clock": self.clock, "files": Files()}
        Database.open(str(self.engine), "things", 1, migrations=str(self.sql), **arguments).close()

    def query(self, sql: str) -> list[tuple]:
        connection = apsw.Connection(str(self.path))
        rows = connection.execute(sql).fetchall()
        connection.close()
        return rows

    @property
    def applied(self) -> list[tuple]:
        return self.query("SELECT number, name FROM migrations ORDER BY number")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.write("0001_create_things.sql", FIRST)
    return home


def test_each_is_applied_once_in_order_and_noted(home: Home) -> None:
    home.write(
        "0002_add_size.sql", "ALTER TABLE things ADD COLUMN size INTEGER;\nINSERT INTO things (name) VALUES ('a');"
    )
    home.open()
    home.open()
    assert home.query("SELECT * FROM things") == [("a", "--; not a comment", None)]
    assert home.query("SELECT number, name, length(checksum), applied_at_ms FROM migrations") == [
        (1, "0001_create_things.sql", 64, MORNING_MS),
        (2, "0002_add_size.sql", 64, MORNING_MS),
    ]


def test_a_later_engine_brings_only_what_is_missing(home: Home) -> None:
    home.open()
    home.clock.advance(5)
    home.write("0002_add_size.sql", "ALTER TABLE things ADD COLUMN size INTEGER;")
    home.open()
    assert home.query("SELECT applied_at_ms - min(applied_at_ms) OVER () FROM migrations ORDER BY number") == [
        (0,),
        (5,),
    ]


@pytest.mark.parametrize(
    "text",
    [
        FIRST.replace("\n", "\r\n"),
        FIRST.replace("\n", "\r"),
        "\ufeff" + FIRST,
        FIRST.replace("\n", "  \t\n"),
        FIRST + "\n\n-- by the way\n",
        FIRST.replace("What it holds.", 'It\'s "quoted" [oddly'),
        FIRST.replace("-- What it holds.", "/* What\nit -- 'holds. */"),
        FIRST.replace("-- its name", ""),
        FIRST.replace("-- its name\n", "/* unused */\n"),
    ],
    ids=["crlf", "cr", "bom", "trailing blanks", "end", "quotes", "block comment", "no comment", "other comment"],
)
def test_line_ends_comments_and_trailing_blanks_do_not_count(home: Home, text: str) -> None:
    home.open()
    home.write("0001_create_things.sql", text)
    home.open()
    assert home.applied == [(1, "0001_create_things.sql")]


@pytest.mark.parametrize(
    "text",
    [
        FIRST.replace("note TEXT", "note BLOB"),
        FIRST.replace("'--; not a comment'", "'--; another text'"),
        FIRST + "CREATE INDEX things_by_note ON things (note);",
        FIRST.replace("name TEXT NOT NULL PRIMARY KEY,  -- its name", "name TEXT NOT NULL, -- PRIMARY KEY"),
    ],
    ids=["type", "text that looks like a comment", "more", "commented out"],
)
def test_a_changed_one_is_refused_and_nothing_is_changed(home: Home, text: str) -> None:
    home.open()
    before = home.path.read_bytes()
    home.write("0001_create_things.sql", text)
    home.write("0002_add_size.sql", "ALTER TABLE things ADD COLUMN size INTEGER;")
    with pytest.raises(MigrationChanged, match=r"0001_create_things\.sql") as caught:
        home.open()
    assert caught.value.path == str(home.path)
    assert caught.value.hint
    assert home.path.read_bytes() == before
    assert not (home.engine / "quarantine").exists()


def test_the_checksum_is_that_of_the_meaning() -> None:
    assert migrate.checksum("SELECT 1;\r\nSELECT '--'; -- two\r\n") == migrate.checksum("SELECT 1;\n\nSELECT '--';")
    assert migrate.checksum("SELECT 1;") != migrate.checksum("SELECT 2;")
    assert migrate.checksum("SELECT 1/**/2;") == migrate.checksum("SELECT 1 2;")
    assert migrate.checksum("SELECT 1/* 2;") == migrate.checksum("SELECT 1 ")


def test_crlf_is_applied_as_plain_line_feeds(home: Home) -> None:
    home.write("0001_create_things.sql", FIRST.replace("\n", "\r\n"))
    home.open()
    assert home.query("SELECT instr(sql, char(13)) FROM sqlite_schema WHERE name = 'things'") == [(0,)]


def test_an_unknown_newer_one_is_left_in_peace(home: Home) -> None:
    home.write("0002_add_size.sql", "ALTER TABLE things ADD COLUMN size INTEGER;")
    home.open()
    (home.sql / "0002_add_size.sql").unlink()
    home.open()
    assert home.applied == [(1, "0001_create_things.sql"), (2, "0002_add_size.sql")]


def test_one_that_is_missing_below_an_unknown_one_is_brought_too(home: Home) -> None:
    home.write("0003_add_weight.sql", "ALTER TABLE things ADD COLUMN weight INTEGER;")
    home.open()
    (home.sql / "0003_add_weight.sql").unlink()
    home.write("0002_add_size.sql", "ALTER TABLE things ADD COLUMN size INTEGER;")
    home.open()
    assert [number for number, _ in home.applied] == [1, 2, 3]
    assert home.query("SELECT name FROM pragma_table_info('things') WHERE cid > 1") == [("weight",), ("size",)]


def test_one_that_fails_leaves_nothing_of_itself_and_what_came_before(home: Home) -> None:
    home.write("0002_add_size.sql", "ALTER TABLE things ADD COLUMN size INTEGER; INSERT INTO nowhere VALUES (1);")
    with pytest.raises(StoreError, match="no such table: nowhere"):
        home.open()
    assert home.applied == [(1, "0001_create_things.sql")]
    assert home.query("SELECT name FROM pragma_table_info('things')") == [("name",), ("note",)]
    home.write("0002_add_size.sql", "ALTER TABLE things ADD COLUMN size INTEGER;")
    home.open()
    assert home.applied[1:] == [(2, "0002_add_size.sql")]


@pytest.mark.parametrize("name", ["1_create.sql", "0002-add.sql", "0001_create_other.sql"])
def test_a_name_that_gives_no_order_is_refused_before_the_database_is_made(home: Home, name: str) -> None:
    home.write(name, "CREATE TABLE more (x);")
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        home.open()
    assert not home.engine.exists()


def test_no_migrations_means_a_broken_installation(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no migrations") as caught:
        migrate.load(str(tmp_path / "nowhere"), Files())
    assert "pip install" in caught.value.hint
    with pytest.raises(StoreUnavailable, match="no migrations"):
        migrate.load("no-such-database", Files())


class Installed(Files):
    """Files as a wheel lays them out: the migrations are inside of the package, and there is no checkout."""

    def __init__(self, inside: Path) -> None:
        self.inside = inside
        self.package = str(Path(migrate.__file__).parents[1])

    def _moved(self, path: str) -> str:
        return path.replace(f"{self.package}/_migrations", str(self.inside))

    def kind(self, path, *, op, follow=False):
        return super().kind(self._moved(path), op=op, follow=follow)

    def scan(self, path, *, op):
        return super().scan(self._moved(path), op=op)

    def read_all(self, path, *, bytes_max, op):
        return super().read_all(self._moved(path), bytes_max=bytes_max, op=op)


def test_those_of_the_installed_package_go_before_those_of_the_checkout(tmp_path: Path) -> None:
    assert migrate.load("state", Files())[0].name == "0001_create_threads.sql"
    (tmp_path / "state").mkdir()
    (tmp_path / "state/0001_create_installed.sql").write_text(FIRST)
    assert [found.name for found in migrate.load("state", Installed(tmp_path))] == ["0001_create_installed.sql"]


@pytest.mark.parametrize("which", ["state", "jobs"])
def test_the_migrations_carried_are_numbered_from_one_without_gaps(which: str) -> None:
    numbers = [found.number for found in migrate.load(which, Files())]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("which", ["state", "jobs"])
def test_the_migrations_carried_make_strict_tables(which: str) -> None:
    arguments = {"options": Options(), "clock": SystemClock(), "files": Files()}
    database = Database.open(None, which, 1, migrations=which, **arguments)
    with database.read() as transaction:
        tables = {
            row[0]: row[1]
            for row in transaction.rows("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'")
        }
    database.close()
    del tables["sqlite_schema"]
    assert "migrations" in tables
    assert set(tables.values()) == {1}
