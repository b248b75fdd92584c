"""The real homes' databases beside their rollouts: what is found, each with its reason, and what their lists showed.

The homes lie in another folder than the one that they were written in, so every row names a path that is not there: one
finding a home. All else that is found stands below with its reason, thread by thread.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from engine.audit.foreign_why import explain
from engine.stores.files import Files
from tests.codex_home import audited, auditor, build, seen, told

THREADS = {"codex-0.169": 60, "codex-0.169-zst": 59, "codex-0.169-memories": 40, "codex-0.130-part": 16}

CLEARED = "01a2045c-8471-7393-bded-f6b76e0b1e5a"
BY_THE_MODEL = ("01a20464-3383-70f3-8841-c30db4acec85", "01a20464-403f-7170-9722-7a9790eef98c")
ATTACHED = "01a2045c-b1d3-7522-87c0-385be0d63345"
OF_0_130 = "01a20485-004f-7c73-8a6b-c45636f3850f"
CHILDREN_OF_OTHERS = ("01a20466-78a5-7aa2-8d99-ac792725ebb4", "01a20484-62f6-77c2-9c2f-f9b67be5dfa5")

REASONS = {
    "codex_moved_home": "the home is not where its rows say",
    "codex_hidden_by_source": "a thread of `codex exec`, which its default list leaves out",
    "codex_missing_goal": "its goal was cleared by a request; no record tells of a goal that is taken away",
    "codex_unrecorded_goal": "the model made the goal by a tool, or the release (0.130) writes no record of goals",
    "codex_dangling_edge": "the part was cut out of a larger home, and the threads of these parents were left out",
    "codex_stale_row": "who made these homes set the rows back by a constant, so that threads looked idle",
}
GOALS = {("codex_missing_goal", CLEARED), *(("codex_unrecorded_goal", each) for each in BY_THE_MODEL)}
EXPECTED = {
    "codex-0.169": GOALS,
    "codex-0.169-zst": GOALS,
    "codex-0.169-memories": {("codex_missing_goal", CLEARED)},
    "codex-0.130-part": {
        ("codex_unrecorded_goal", OF_0_130),
        *(("codex_dangling_edge", each) for each in CHILDREN_OF_OTHERS),
    },
}
SET_BACK = {"codex-0.169-zst": (864_000, 1), "codex-0.169-memories": (10_800, 2)}
"""By how many seconds, and how many of the threads were used since then."""


@pytest.fixture(params=THREADS)
def name(request) -> str:
    return request.param


@pytest.fixture
def home(corpora: Path, tmp_path: Path, name: str) -> Path:
    """The home itself; for the one that has no database files one that links to it, with databases made from the rows."""
    real = corpora / name / "home"
    return real if list(real.glob("*.sqlite")) else with_databases(corpora, name, tmp_path)


def with_databases(corpora: Path, name: str, folder: Path) -> Path:
    home = linked(corpora, name, folder)
    rows = json.loads((corpora / name / "rows.json").read_text())
    build(home, rows, (corpora / name / "schemas.sql").read_text())
    return home


def linked(corpora: Path, name: str, folder: Path) -> Path:
    """A home whose rollouts are those of another."""
    home = folder / "home"
    home.mkdir()
    for root in ("sessions", "archived_sessions"):
        (home / root).symlink_to(corpora / name / "home" / root)
    shutil.copy(corpora / name / "home/session_index.jsonl", home)
    return home


def test_what_is_found_in_a_real_home_is_what_has_a_reason(home: Path, name: str, corpora: Path) -> None:
    rows = json.loads((corpora / name / "rows.json").read_text())["state_5.sqlite"]["threads"]
    report = audited(home, deep=True)
    assert {each.class_ for each in report.findings} <= REASONS.keys()
    expected = {("codex_moved_home", None), *EXPECTED[name]}
    expected |= {("codex_hidden_by_source", row["id"]) for row in rows if row["source"] == "exec"}
    seconds, used_since = SET_BACK.get(name, (0, 0))
    stale = {each.thread_id: each for each in report.findings if each.class_ == "codex_stale_row"}
    assert len(stale) == (THREADS[name] - used_since if seconds else 0)
    for each in stale.values():
        assert abs(each.file_value - each.row_value - seconds * 1000) < 20_000
        assert "differs in" not in each.message
    assert told(report) - {("codex_stale_row", each) for each in stale} == expected
    assert report.checked.threads == THREADS[name]


def test_a_real_home_is_left_as_it_was(home: Path) -> None:
    before = seen(home)
    audited(home)
    assert seen(home) == before


@pytest.fixture(params=["golden_by_v169.json", "golden_backfilled_by_v169.json"])
def golden(request, corpora: Path, tmp_path: Path) -> tuple[Path, dict]:
    """What release 0.169 answered, and the home as its rows then were, at the place that they name."""
    answers = json.loads((corpora / "codex-0.169" / request.param).read_text())
    if "backfilled" in request.param:
        answers["backfilled"] = True
    home = linked(corpora, "codex-0.169", tmp_path)
    tables = {name: answers["rows"][name] for name in ("threads", "backfill_state", "thread_spawn_edges")}
    sections = {row["thread_section_id"]: row for row in tables["threads"] if row["thread_section_id"]}
    tables["thread_sections"] = [{"id": each, "name": "a section"} for each in sections]
    build(home, {"state_5.sqlite": tables}, (corpora / "codex-0.169/schemas.sql").read_text())
    with contextlib.closing(sqlite3.connect(home / "state_5.sqlite")) as connection, connection:
        was = answers["initialize"]["result"]["codexHome"]
        connection.execute("UPDATE threads SET rollout_path = replace(rollout_path, ?, ?)", (was, str(home)))
    return home, answers


def test_why_says_of_every_thread_what_the_lists_of_the_real_program_showed(golden: tuple[Path, dict]) -> None:
    """Its default list, which has the threads that our explanation says it has, and no other: 18 of 60."""
    home, answers = golden
    survey = auditor(home).survey()
    (default,) = (each for each in answers["lists"] if without_nulls(each["params"]) == {"limit": 100})
    shown = {each["id"] for each in default["response"]["data"]}
    assert len(shown) == 18
    why = {each: explain(survey, each, Files()) for each in survey.threads}
    assert {thread for thread, each in why.items() if each.listed_by_scan} == shown
    assert {thread for thread, each in why.items() if each.listed_by_database} == shown
    assert [reason.reason for reason in why[ATTACHED].reasons] == ["attached"]


def test_an_archived_thread_without_words_is_in_the_archived_list_of_the_real_program(
    golden: tuple[Path, dict],
) -> None:
    """Why the empty preview of an archived thread is no finding."""
    home, answers = golden
    archived = {
        each["id"]
        for page in answers["lists"]
        if page["params"].get("archived") is True
        for each in page["response"]["data"]
    }
    rows = {row["id"]: row for row in answers["rows"]["threads"]}
    assert archived == {thread for thread, row in rows.items() if row["archived"]}
    assert [row["preview"] for row in rows.values() if row["archived"]].count("") == 1
    assert not any(each.class_ == "codex_hidden_by_preview" for each in audited(home).findings)


def test_what_a_back_fill_of_the_real_program_lost_is_found(golden: tuple[Path, dict]) -> None:
    """It does not read the names of paginated threads back: 7 of 7 are lost, and in session_index.jsonl still."""
    home, answers = golden
    names = {each.thread_id for each in audited(home).findings if each.class_ == "codex_differing_name"}
    with contextlib.closing(sqlite3.connect(home / "state_5.sqlite")) as connection:
        rows = connection.execute("SELECT id, name FROM threads WHERE history_mode = 'paginated'").fetchall()
    index = (home / "session_index.jsonl").read_text().splitlines()
    named = {json.loads(line)["id"] for line in index}
    lost = {thread for thread, name in rows if name is None and thread in named}
    assert names == lost
    assert len(lost) == (7 if "backfilled" in answers else 0)


def without_nulls(params: dict) -> dict:
    return {name: value for name, value in params.items() if value is not None}
