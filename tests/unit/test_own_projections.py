"""Projections of an application's own: declared wrongly, failing, asked, and kept apart from everything else."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.errors import (
    EngineClosed,
    InvalidRequest,
    MigrationChanged,
    ProjectionFailed,
    ProjectionUnusable,
)
from engine.options import Options
from engine.stores.layout import parse_path
from engine.testing import HomePlan, make_home
from tests.own import ALL, FILE, NAME, Heads, TokensPerDay, rows
from tests.writing import opened, rollouts, say

EAGER = Options(scan_interval_ms=0, list_budget_ms=60_000)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_home(tmp_path / "home", HomePlan(threads=8, seed=4, bytes_max=20_000))
    return tmp_path / "home"


def declared(**members: Any) -> Any:
    return type("Declared", (TokensPerDay,), members)()


TABLE = "CREATE TABLE t (stream TEXT NOT NULL PRIMARY KEY, n INTEGER) STRICT;"

WRONG = {
    "no name": ({"name": ""}, "cannot be its name"),
    "a name that is no word": ({"name": "Tokens per day"}, "cannot be its name"),
    "a name that leads out of the folder": ({"name": "../x"}, "cannot be its name"),
    "a name of the engine's own": ({"name": "threads"}, "cannot be its name"),
    "a version that is no number": ({"version": "2"}, "count from 1"),
    "a version below one": ({"version": 0}, "count from 1"),
    "a shape that is a bool": ({"shape": True}, "count from 1"),
    "kinds that are one word": ({"kinds": "turn_context"}, "no set of words"),
    "no kinds": ({"kinds": frozenset()}, "asks for no kind"),
    "a kind twice": ({"latest": frozenset({"turn_context"})}, "its kinds and in its latest"),
    "no schema": ({"schema": ""}, "makes no table"),
    "a schema that is no SQL": ({"schema": "CREATE TABEL t (x)"}, "syntax error"),
    "a table without a stream": ({"schema": "CREATE TABLE t (x INTEGER PRIMARY KEY) STRICT"}, "no column stream"),
    "a table without an index": ({"schema": "CREATE TABLE t (stream TEXT, x INTEGER) STRICT"}, "no index that begins"),
    "a table of the engine's": (
        {"schema": TABLE + "CREATE TABLE watermarks (stream TEXT PRIMARY KEY)"},
        "engine's own",
    ),
    "the same, if it is not there": (
        {"schema": TABLE + "CREATE TABLE IF NOT EXISTS Set_Aside (stream TEXT PRIMARY KEY)"},
        "engine's own",
    ),
    "the table of migrations": (
        {"schema": TABLE + "CREATE TABLE migrations (stream TEXT PRIMARY KEY)"},
        "engine's own",
    ),
    "an index on a table of the engine's": ({"schema": TABLE + "CREATE INDEX i ON watermarks (size)"}, "engine's own"),
    "a trigger": (
        {"schema": TABLE + "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; END"},
        "may not: CREATE_TRIGGER",
    ),
    "a virtual table": ({"schema": TABLE + "CREATE VIRTUAL TABLE v USING fts5(stream)"}, "may not: CREATE_VTABLE"),
    "rows": ({"schema": TABLE + "INSERT INTO t VALUES ('x', 1)"}, "may not: INSERT t"),
    "a removal": ({"schema": TABLE + "DROP TABLE watermarks"}, "may not"),
    "another file": ({"schema": TABLE + "ATTACH 'x.sqlite' AS x"}, "may not: ATTACH"),
    "a setting": ({"schema": "PRAGMA synchronous = OFF;" + TABLE}, "may not: PRAGMA"),
    "an end of the transaction": ({"schema": TABLE + "COMMIT"}, "may not: TRANSACTION"),
    "a temporary table": ({"schema": TABLE + "CREATE TEMP TABLE u (stream TEXT PRIMARY KEY)"}, "may not"),
    "a foreign key": (
        {"schema": TABLE + "CREATE TABLE u (stream TEXT PRIMARY KEY REFERENCES t (stream)) STRICT"},
        "foreign key",
    ),
}


@pytest.mark.parametrize(("members", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_is_declared_wrongly_is_refused_before_anything_is_made(
    home: Path, members: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ProjectionUnusable, match=reason) as caught:
        engine.open(str(home), projections=[declared(**members)])
    assert caught.value.hint
    assert not (home / "engine").exists()


def test_two_of_one_name_and_what_is_no_projection_are_refused(home: Path) -> None:
    with pytest.raises(ProjectionUnusable, match="Two projections are called tokens_per_day"):
        engine.open(str(home), projections=[TokensPerDay(), TokensPerDay()])
    for other in (TokensPerDay, object(), "tokens_per_day"):
        with pytest.raises(ProjectionUnusable, match=r"no engine\.Projection"):
            engine.open(str(home), projections=[other])  # type: ignore[list-item]


def test_nothing_of_it_is_made_before_it_is_asked(home: Path) -> None:
    with engine.open(str(home), projections=[TokensPerDay()]) as e:
        e.threads.list()
        assert not (home / "engine" / FILE).exists()
        told = e.status().projections
        assert [(each.name, each.lag.files == each.lag.files_total) for each in told] == [
            ("threads", False),
            (NAME, True),
            ("turns", True),
            ("search", True),
        ]
        e.projections[NAME].rows(ALL)
        assert (home / "engine" / FILE).exists()


def test_the_first_question_is_answered_and_status_tells_how_it_stands(home: Path) -> None:
    with engine.open(str(home), projections=[TokensPerDay(), Heads()], options=EAGER) as e:
        assert len(e.projections[NAME].rows(ALL)) > 1
        with e.projections["heads"].read() as snapshot:
            assert snapshot.partial is None
            assert snapshot.row("SELECT count(*) FROM heads")[0] > 20
        threads, tokens, heads, *_ = e.status().projections
        assert (tokens.name, tokens.database, tokens.version, tokens.error) == (NAME, "own_tokens_per_day", 1, None)
        assert (tokens.lag.files, tokens.set_aside, tokens.lag.newer, tokens.failed) == (0, 0, 0, [])
        assert heads.lag.files_total == threads.lag.files_total == len(rollouts(home))


def test_a_query_sees_what_was_appended_here_and_no_flush_fills_it(tmp_path: Path) -> None:
    """Without a look at the files: the clock stands still."""
    home = tmp_path / "home"
    with opened(home, projections=[Heads()]) as e, e.threads.create(cwd="/srv/app") as thread:
        say(thread, "one")
        count = "SELECT count(*) FROM heads WHERE kind = 'event_msg.user_message' OR kind = 'response_item.message'"
        before = e.projections["heads"].rows(count)[0][0]
        say(thread, "two", "three")
        e.threads.list()
        e.status()
        assert e.projections["heads"].rows(count)[0][0] > before > 0
        mark = "SELECT \"offset\" FROM watermarks WHERE projection = 'heads'"
        (((followed,),)) = e.projections["heads"].rows(mark)
        say(thread, "four")
        e._flush.flush()
        with next(iter(e._sides)).database().read() as transaction:
            assert transaction.row(mark) == (followed,)
        assert e.projections["heads"].rows(mark)[0][0] > followed


def test_an_open_engine_fills_it_by_itself(home: Path) -> None:
    expected = rows(home, TokensPerDay(), ALL, state_dir=str(home.parent / "state"))
    own = [failing("apply", KeyError("x")), TokensPerDay()]
    with engine.open(str(home), projections=own, options=Options(background_scan_s=3_600)) as e:
        deadline = time.monotonic() + 60
        while e.status().projections[2].lag.files and time.monotonic() < deadline:
            time.sleep(0.02)
        with [*e._sides][1].database().read() as transaction:
            assert list(transaction.rows(ALL)) == expected


def test_what_moved_here_is_not_counted_twice(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home, projections=[Heads()]) as e:
        with e.threads.create(cwd="/srv/app") as thread:
            say(thread, "one")
        before = e.projections["heads"].rows("SELECT place, kind, at FROM heads ORDER BY place")
        e.threads.archive(thread.id)
        assert e.projections["heads"].rows("SELECT place, kind, at FROM heads ORDER BY place") == before
        assert e.projections["heads"].rows("SELECT DISTINCT stream LIKE 'archived%' FROM heads") == [(1,)]


def test_a_statement_that_cannot_be_run_or_would_write_is_the_callers_mistake(home: Path) -> None:
    with engine.open(str(home), projections=[TokensPerDay()]) as e:
        own = e.projections[NAME]
        for sql in ("SELECT nothing FROM tokens", "SELEC 1"):
            with pytest.raises(InvalidRequest, match=NAME) as caught:
                own.rows(sql)
            assert caught.value.hint
        for sql in ("DELETE FROM tokens", "SELECT 1; DROP TABLE tokens"):
            with pytest.raises(InvalidRequest, match="only read"):
                own.rows(sql)
        assert own.rows(ALL)
        with pytest.raises(KeyError):
            e.projections["another"]
    with pytest.raises(EngineClosed):
        own.rows(ALL)


def test_an_answer_that_does_not_cover_every_file_says_so_and_names_the_thread_that_was_asked_for(home: Path) -> None:
    options = Options(list_budget_ms=0, scan_interval_ms=0)
    name = parse_path(min(rollouts(home)))  # in the archive, where a look comes last
    assert name is not None
    with engine.open(str(home), projections=[Heads()], options=options) as e, e.projections["heads"].read() as snapshot:
        assert snapshot.partial is not None
        assert snapshot.partial.files_total is None
        assert snapshot.row("SELECT count(*) FROM heads") == (0,)
    with engine.open(str(home), projections=[Heads()], options=Options(list_budget_ms=1, scan_interval_ms=0)) as e:
        found = e.projections["heads"].rows("SELECT DISTINCT stream FROM heads", thread_id=name.thread_id)
        assert any(name.thread_id in stream for (stream,) in found)


def test_a_home_that_cannot_be_written_is_folded_into_memory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows(home, TokensPerDay(), ALL, state_dir=str(home.parent / "state"))
    monkeypatch.setattr("engine.stores.files.Files.writable", lambda *_, **__: False)
    with engine.open(str(home), projections=[TokensPerDay()]) as e:
        assert e.state_dir is None
        assert e.projections[NAME].rows(ALL) == expected != []
        with pytest.raises(InvalidRequest, match="only read"):
            e.projections[NAME].rows("DELETE FROM tokens")
        assert e.projections[NAME].rows(ALL) == expected
        assert e.audit().findings == []
    assert not (home / "engine").exists()


# Code that fails


def failing(step: str, error: BaseException, when: str = "") -> Any:
    """Fails in this step; in `apply` and `write` only for streams (or kinds) whose name holds `when`."""

    class Failing(Heads):
        name = "failing"

    def fail(self: Any, *args: Any, **_: Any) -> Any:
        if step == "write" and not any(when in change.stream.path for change in args[1]):
            return Heads.write(self, *args)
        if step == "start" and when not in args[0].path:
            return Heads.start(self, *args)
        raise error

    setattr(Failing, step, fail)
    return Failing()


@pytest.mark.parametrize("step", ["start", "apply", "close_piece", "emit", "encode", "decode", "write"])
@pytest.mark.parametrize("error", [TypeError("broken here"), OSError(5, "broken here"), RecursionError("broken here")])
def test_code_that_fails_fails_its_own_query_and_nothing_else(home: Path, step: str, error: Exception) -> None:
    with engine.open(str(home), projections=[failing(step, error), TokensPerDay()], options=EAGER) as e:
        assert e.backfill().status == "complete"
        assert len(e.threads.list(limit=0).threads) == 8
        with e.threads.create(cwd="/srv/app") as thread:
            say(thread, "one")
        assert e.projections[NAME].rows(ALL)
        with pytest.raises(
            ProjectionFailed, match=f"failing failed in {step}.*broken here.*folding sessions"
        ) as caught:
            e.projections["failing"].rows("SELECT 1")
        assert (caught.value.projection, caught.value.hint != "") == ("failing", True)
        assert caught.value.path is not None
        told = {each.name: each for each in e.status().projections}
        assert {failure.path for failure in told["failing"].failed} == {*rollouts(home)} - {
            path for path in rollouts(home) if (home / path).stat().st_size == 0
        }
        assert all("broken here" in failure.reason for failure in told["failing"].failed)
        assert told[NAME].failed == []
        e.rebuild()
        assert [found.class_ for found in e.audit().findings] == []


@pytest.mark.parametrize("step", ["start", "write"])
def test_one_rollout_that_cannot_be_folded_stops_no_other_and_comes_when_the_code_is_mended(
    home: Path, step: str
) -> None:
    bad = rollouts(home)[3]
    with engine.open(str(home), projections=[failing(step, KeyError("x"), bad)], options=EAGER) as e:
        with pytest.raises(ProjectionFailed, match=bad):
            e.projections["failing"].rows("SELECT 1")
        side = next(iter(e._sides))
        with side.database().read() as transaction:
            followed = {path for (path,) in transaction.rows("SELECT stream FROM watermarks")}
        assert followed == {*rollouts(home)} - {bad}

    class Mended(Heads):
        name = "failing"

    assert {stream for (stream,) in rows(home, Mended(), "SELECT stream FROM counts")} == {*rollouts(home)}
    with engine.open(str(home), projections=[Mended()]) as e:
        assert e.status().projections[1].failed == []


def test_a_rollout_that_cannot_be_folded_is_forgotten_with_its_file(home: Path) -> None:
    bad = rollouts(home)[3]
    with engine.open(str(home), projections=[failing("start", KeyError("x"), bad)], options=EAGER) as e:
        with pytest.raises(ProjectionFailed):
            e.projections["failing"].rows("SELECT 1")
        os.unlink(home / bad)
        assert len(e.projections["failing"].rows("SELECT * FROM counts")) == len(rollouts(home))


def test_what_somebody_elses_mended_code_has_folded_is_no_failure_here_any_more(home: Path) -> None:
    bad = rollouts(home)[3]
    with engine.open(str(home), projections=[failing("start", KeyError("x"), bad)], options=EAGER) as e:
        with pytest.raises(ProjectionFailed):
            e.projections["failing"].rows("SELECT 1")
        rows(home, type("Mended", (Heads,), {"name": "failing"})(), "SELECT 1")
        assert (bad,) in e.projections["failing"].rows("SELECT stream FROM counts")


def test_a_value_error_sets_one_record_aside(home: Path) -> None:
    class Picky(Heads):
        name = "picky"

        def apply(self, state: Any, record: Any, kind: str, offset: int) -> bool:
            if kind == "session_meta":
                raise ValueError("no metas, please")
            return super().apply(state, record, kind, offset)

    with engine.open(str(home), projections=[Picky()], options=EAGER) as e:
        assert e.projections["picky"].rows("SELECT count(*) FROM heads WHERE kind = 'session_meta'") == [(0,)]
        assert e.projections["picky"].rows("SELECT count(*) > 8 FROM heads") == [(1,)]
        aside = e.projections["picky"].rows("SELECT DISTINCT kind, reason, projection FROM set_aside")
        assert aside == [("session_meta", "no metas, please", "picky")]
        assert e.status().projections[1].set_aside >= 8


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"apply": lambda *_: None}, "answered None in apply"),
        ({"encode": lambda *_: b"x" * 65_537}, "state of 65537 bytes"),
        ({"write": lambda _, transaction, __: transaction.run("INSERT INTO nowhere VALUES (1)")}, "no such table"),
        ({"write": lambda _, transaction, __: transaction.run("INSERT INTO tokens VALUES (1, 2, 3, 'x')")}, "in write"),
    ],
    ids=["no answer", "too large", "no table", "wrong type"],
)
def test_a_wrong_answer_is_a_failure_like_an_exception(home: Path, members: dict[str, Any], reason: str) -> None:
    with (
        engine.open(str(home), projections=[declared(**members)], options=EAGER) as e,
        pytest.raises(ProjectionFailed, match=reason),
    ):
        e.projections[NAME].rows(ALL)


# Versions and shapes


def test_a_raised_version_folds_anew_by_itself_and_a_higher_one_is_left_alone(home: Path) -> None:
    before = rows(home, TokensPerDay(), ALL)

    class Doubled(TokensPerDay):
        version = 2

        def emit(self, state: Any) -> list[Any]:
            return [(day, model, 2 * tokens) for day, model, tokens in super().emit(state)]

    doubled = [(stream, day, model, 2 * tokens) for stream, day, model, tokens in before]
    assert rows(home, Doubled(), ALL) == doubled
    with engine.open(str(home), projections=[TokensPerDay()], options=EAGER) as e:
        assert e.projections[NAME].rows(ALL) == doubled
        e.backfill()
        e.rebuild()
        assert e.projections[NAME].rows(ALL) == doubled
        told = e.status().projections[1]
        assert (told.version, told.lag.newer, told.lag.files) == (1, len(rollouts(home)), 0)
        assert e.audit().findings == []


def test_another_schema_is_another_shape_and_another_file(home: Path) -> None:
    before = rows(home, TokensPerDay(), ALL)
    other = TokensPerDay.schema.replace("day    TEXT", "day TEXT /* of the record */").replace(
        "model  TEXT NOT NULL", "model TEXT NOT NULL, more TEXT"
    )
    with engine.open(str(home), projections=[declared(schema=other)]) as e:
        with pytest.raises(MigrationChanged) as caught:
            e.projections[NAME].rows(ALL)
        assert "raise the shape" in caught.value.hint
        assert e.status().projections[1].error is not None
        assert len(e.threads.list(limit=0).threads) == 8
    assert rows(home, declared(schema=other, shape=2), ALL) == before
    assert {FILE, "own_tokens_per_day_2.sqlite"} <= set(os.listdir(home / "engine"))
    assert rows(home, TokensPerDay(), ALL) == before


def test_a_class_that_is_moved_to_another_block_keeps_its_schema(home: Path) -> None:
    import textwrap

    before = rows(home, TokensPerDay(), ALL)
    moved = textwrap.indent(textwrap.dedent(TokensPerDay.schema), "            ").replace("\n", "\r\n")
    assert rows(home, declared(schema=moved), ALL) == before
