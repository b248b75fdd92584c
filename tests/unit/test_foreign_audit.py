"""The Codex CLI's databases beside its rollouts: each class of finding, made alone, is found alone and where it was made."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.audit.findings import CLASSES
from engine.audit.foreign import CodexAuditor
from engine.audit.foreign_why import explain
from engine.clock import timestamp_of
from engine.errors import InvalidRequest, ThreadNotFound
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.testing import ManualClock, append_turns
from tests.codex_home import CodexHome, add_goal, audited, auditor, make_codex_home, seen, told

NOBODY = "01990000-0000-7000-8000-0000000000ff"
OTHER = "01990000-0000-7000-8000-0000000000fe"
Seeded = tuple[str, str | None]


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> CodexHome:
    """Made once; a test works on a copy at the same place."""
    path = tmp_path_factory.mktemp("codex") / "home"
    path.mkdir()
    return make_codex_home(path)


@pytest.fixture
def home(kept: CodexHome, tmp_path: Path) -> CodexHome:
    aside = tmp_path / "aside"
    shutil.copytree(kept.path, aside)
    yield kept
    shutil.rmtree(kept.path)
    shutil.copytree(aside, kept.path)


def hidden(home: CodexHome) -> set[Seeded]:
    """What an agreeing home has all the same: threads that its default list leaves out by their source."""
    return {("codex_hidden_by_source", each.id) for each in home.made if each.row["source"] in ("exec", "mcp")}


def test_databases_that_agree_give_nothing_but_what_is_hidden(home: CodexHome) -> None:
    report = audited(home.path, deep=True)
    assert told(report) == hidden(home)
    assert hidden(home)
    assert report.databases == ["state_5.sqlite", "thread_history_1.sqlite", "goals_1.sqlite"]
    assert report.checked.threads == len(home.made)


@pytest.mark.parametrize("seed", range(20, 26))
def test_no_home_that_agrees_gives_a_false_alarm(tmp_path: Path, seed: int) -> None:
    """Forks, sub-agents, reverted and archived threads, goals, all three shapes of rollouts."""
    home = make_codex_home(tmp_path, seed=seed, threads=24)
    assert told(audited(tmp_path)) == hidden(home)


def missing_row(home: CodexHome) -> Seeded:
    thread = home.one(mode="paginated")
    home.run("DELETE FROM threads WHERE id = ?", thread.id)
    return "codex_missing_row", thread.id


def lost_truth(home: CodexHome) -> Seeded:
    thread = home.one(mode="legacy")
    home.file(thread).unlink()
    return "codex_lost_truth", thread.id


def emptied(home: CodexHome) -> Seeded:
    thread = home.one(mode="legacy")
    home.file(thread).write_bytes(b"")
    return "codex_wrong_path", thread.id


def moved_file(home: CodexHome) -> Seeded:
    thread = home.one(mode="paginated")
    folder = home.path / "sessions/2025/01/01"
    folder.mkdir(parents=True)
    home.file(thread).rename(folder / home.file(thread).name)
    return "codex_wrong_path", thread.id


def path_of_the_reverted_rollout(home: CodexHome) -> Seeded:
    thread = next(each for each in home.made if each.older_paths)
    home.set(thread, rollout_path=str(home.path / thread.older_paths[0]))
    return "codex_wrong_path", thread.id


def name_that_is_none(home: CodexHome) -> Seeded:
    thread = home.one(mode="legacy")
    odd = home.file(thread).with_name(f"rollout-notadate-{thread.id}.jsonl")
    home.file(thread).rename(odd)
    home.set(thread, rollout_path=str(odd))
    return "codex_wrong_path", thread.id


def moved_home(home: CodexHome) -> Seeded:
    home.run("UPDATE threads SET rollout_path = replace(rollout_path, ?, '/gone/home')", str(home.path))
    return "codex_moved_home", None


def archived_in_the_row(home: CodexHome) -> Seeded:
    thread = home.one(archived=False)
    home.set(thread, archived=1)
    return "codex_wrong_archive_state", thread.id


def active_in_the_row(home: CodexHome) -> Seeded:
    thread = next(each for each in home.made if each.row["archived"])
    home.set(thread, archived=0)
    return "codex_wrong_archive_state", thread.id


def unknown_mode(home: CodexHome) -> Seeded:
    thread = home.one(mode="legacy")
    home.file(thread).write_bytes(
        home.file(thread).read_bytes().replace(b'"history_mode":"legacy"', b'"history_mode":"future"')
    )
    home.set(thread, history_mode="future")
    return "codex_bad_row", thread.id


def section_that_is_gone(home: CodexHome) -> Seeded:
    thread = home.one()
    home.set(thread, thread_section_id="gone")
    return "codex_bad_row", thread.id


def field(**columns: object) -> Callable[[CodexHome], Seeded]:
    def seed(home: CodexHome) -> Seeded:
        thread = home.one(mode="paginated")
        home.set(thread, **columns)
        return "codex_differing_field", thread.id

    seed.__name__ = "_".join(columns)
    return seed


def stale(home: CodexHome) -> Seeded:
    thread = home.one(mode="legacy")
    append_turns(home.path, thread)
    return "codex_stale_row", thread.id


def name_lost_in_the_row(home: CodexHome) -> Seeded:
    thread = home.one(mode="paginated")
    home.name(thread.id, "an older one")
    home.name(thread.id, "the login fix")
    return "codex_differing_name", thread.id


def name_in_the_row_alone(home: CodexHome) -> Seeded:
    thread = home.one(mode="paginated")
    home.set(thread, name="the login fix")
    return "codex_differing_name", thread.id


def another_name_over_the_title(home: CodexHome) -> Seeded:
    thread = home.one(mode="legacy")
    home.name(thread.id, "the login fix")
    home.set(thread, title="the logout fix")
    return "codex_differing_name", thread.id


def unfinished(home: CodexHome) -> Seeded:
    home.run("UPDATE backfill_state SET status = 'running'")
    return "codex_unfinished_backfill", None


def projection(offset: str, ordinal: str) -> Callable[[CodexHome], None]:
    def seed(home: CodexHome) -> None:
        home.run(
            f"UPDATE thread_history_projection_state SET next_rollout_byte_offset = {offset}, next_rollout_ordinal = {ordinal}"
            " WHERE thread_id = ?",
            home.one(mode="paginated").id,
            database="thread_history_1.sqlite",
        )

    return seed


def ordinal_ahead(home: CodexHome) -> Seeded:
    projection("next_rollout_byte_offset", "next_rollout_ordinal + 3")(home)
    return "codex_stopped_projection", home.one(mode="paginated").id


def ordinal_that_comes_twice(home: CodexHome) -> Seeded:
    """Records of our own with numbers that were taken: it stands before them, and they are lower than it waits for."""
    thread = home.one(mode="paginated")
    lines = home.file(thread).read_bytes().splitlines(keepends=True)
    home.file(thread).write_bytes(b"".join([*lines, lines[-1]]))
    return "codex_stopped_projection", thread.id


def behind_the_end(home: CodexHome) -> Seeded:
    projection("next_rollout_byte_offset + 1000", "next_rollout_ordinal")(home)
    return "codex_stopped_projection", home.one(mode="paginated").id


def projection_lag(home: CodexHome) -> Seeded:
    thread = home.one(mode="paginated")
    first = home.file(thread).read_bytes().index(b"\n") + 1
    projection(str(first), "1")(home)
    return "codex_projection_lag", thread.id


def no_projection(home: CodexHome) -> Seeded:
    thread = home.one(mode="paginated")
    home.run(
        "DELETE FROM thread_history_projection_state WHERE thread_id = ?", thread.id, database="thread_history_1.sqlite"
    )
    return "codex_missing_projection", thread.id


def no_history_database(home: CodexHome) -> Seeded:
    (home.path / "thread_history_1.sqlite").unlink()
    return "codex_missing_projection", None


def projection_of_nothing(home: CodexHome) -> Seeded:
    home.run("INSERT INTO thread_history_projection_state VALUES (?, 1, 1)", NOBODY, database="thread_history_1.sqlite")
    return "codex_dangling_projection", NOBODY


def no_edge(home: CodexHome) -> Seeded:
    home.run("DELETE FROM thread_spawn_edges WHERE child_thread_id = ?", home.child().id)
    return "codex_missing_edge", home.child().id


def another_parent(home: CodexHome) -> Seeded:
    parent = home.one().id
    assert parent != home.child().row["parent_thread_id"]
    home.run("UPDATE thread_spawn_edges SET parent_thread_id = ? WHERE child_thread_id = ?", parent, home.child().id)
    return "codex_differing_edge", home.child().id


def edge_of_nobody(home: CodexHome) -> Seeded:
    home.run("INSERT INTO thread_spawn_edges VALUES (?, ?, 'open')", home.one().id, NOBODY)
    return "codex_dangling_edge", NOBODY


def said_goal(home: CodexHome) -> tuple[str, dict[str, object]]:
    """A thread with a goal in its rollout, whose row and turns know of it."""
    thread = home.one(mode="legacy")
    goal = {
        "threadId": thread.id,
        "objective": "all green",
        "status": "active",
        "tokenBudget": 500,
        "createdAt": 1_700_000_000,
        "updatedAt": 1_700_000_100,
    }
    payload = {"type": "thread_goal_updated", "threadId": thread.id, "goal": goal}
    at_ms = int(str(thread.row["updated_at_ms"])) + 1
    with home.file(thread).open("a") as file:
        file.write(json.dumps({"timestamp": timestamp_of(at_ms), "type": "event_msg", "payload": payload}) + "\n")
    add_goal(home, thread.id, goal)
    return thread.id, goal


def older_goal(home: CodexHome) -> Seeded:
    thread_id, _ = said_goal(home)
    home.run(
        "UPDATE thread_goals SET status = 'paused', updated_at_ms = updated_at_ms - 60000 WHERE thread_id = ?",
        thread_id,
        database="goals_1.sqlite",
    )
    return "codex_differing_goal", thread_id


def no_goal(home: CodexHome) -> Seeded:
    thread_id, _ = said_goal(home)
    home.run("DELETE FROM thread_goals WHERE thread_id = ?", thread_id, database="goals_1.sqlite")
    return "codex_missing_goal", thread_id


def goal_without_record(home: CodexHome) -> Seeded:
    thread = home.one(mode="legacy")
    goal = {"objective": "by the model", "status": "complete", "createdAt": 1, "updatedAt": 2}
    add_goal(home, thread.id, goal)
    return "codex_unrecorded_goal", thread.id


def goal_of_nobody(home: CodexHome) -> Seeded:
    add_goal(home, NOBODY, {"objective": "gone", "status": "complete", "createdAt": 1, "updatedAt": 2})
    return "codex_dangling_goal", NOBODY


def other_provider(home: CodexHome) -> Seeded:
    thread = home.one(mode="paginated")
    text = home.file(thread).read_bytes()
    assert b'"model_provider":"openai"' in text
    text = text.replace(b'"model_provider":"openai"', b'"model_provider":"azurea"')
    home.file(thread).write_bytes(text.replace(b'"model_provider_id":"openai"', b'"model_provider_id":"azurea"'))
    home.set(thread, model_provider="azurea")
    return "codex_hidden_by_provider", thread.id


def other_source(home: CodexHome) -> Seeded:
    thread = home.one(source="vscode")
    home.file(thread).write_bytes(home.file(thread).read_bytes().replace(b'"source":"vscode"', b'"source":"exec"  '))
    home.set(thread, source="exec")
    return "codex_hidden_by_source", thread.id


def garbage(home: CodexHome) -> Seeded:
    (home.path / "goals_1.sqlite").write_bytes(b"no database at all, and long enough to have a header " * 40)
    return "codex_unreadable", None


def bad_page(home: CodexHome) -> Seeded:
    """A page that nothing of ours reads: only a look at every page sees it."""
    path = home.path / "thread_history_1.sqlite"
    data = bytearray(path.read_bytes())
    data[-4096:-4000] = b"\xff" * 96
    path.write_bytes(data)
    return "codex_damaged_database", None


SEEDS: list[Callable[[CodexHome], Seeded]] = [
    missing_row,
    lost_truth,
    emptied,
    moved_file,
    path_of_the_reverted_rollout,
    name_that_is_none,
    moved_home,
    archived_in_the_row,
    active_in_the_row,
    unknown_mode,
    section_that_is_gone,
    field(model="another"),
    field(tokens_used=999_999_999),
    field(title="another"),
    field(cwd="/elsewhere"),
    field(first_user_message="another"),
    field(approval_mode="another"),
    stale,
    name_lost_in_the_row,
    name_in_the_row_alone,
    another_name_over_the_title,
    unfinished,
    ordinal_ahead,
    ordinal_that_comes_twice,
    behind_the_end,
    projection_lag,
    no_projection,
    no_history_database,
    projection_of_nothing,
    no_edge,
    another_parent,
    edge_of_nobody,
    older_goal,
    no_goal,
    goal_without_record,
    goal_of_nobody,
    other_provider,
    other_source,
    garbage,
    bad_page,
]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.__name__)
def test_what_was_made_wrong_is_found_alone_and_nothing_is_changed(
    home: CodexHome, seed: Callable[[CodexHome], Seeded]
) -> None:
    wrong = seed(home)
    before = seen(home.path)
    report = audited(home.path, deep=True)
    assert told(report) - hidden(home) == {wrong}
    assert seen(home.path) == before
    found = next(each for each in report.findings if each.class_ == wrong[0] and each.thread_id == wrong[1])
    assert found.severity == CLASSES[wrong[0]][0]
    assert found.message
    assert found.mend is None


def test_every_class_is_made_by_some_seed(kept: CodexHome) -> None:
    """But for the empty preview, which a test of its own makes with a row that is right."""
    text = Path(__file__).read_text("utf-8")
    assert [name for name in CLASSES if name.startswith("codex_") and f'"{name}"' not in text] == []


def test_the_document_names_every_class_with_its_severity() -> None:
    document = (Path(__file__).parents[2] / "docs/AUDIT.md").read_text("utf-8")
    named = dict(re.findall(r"^\| `(codex_\w+)` \| (\w+) \|", document, re.MULTILINE))
    assert named == {name: severity for name, (severity, _) in CLASSES.items() if name.startswith("codex_")}


def test_an_empty_preview_is_told_as_such_and_as_a_field_that_differs(home: CodexHome) -> None:
    """The file has the words that the row lacks: the thread is in no list of active ones, and the row is wrong."""
    thread = home.one(mode="paginated")
    home.set(thread, preview="")
    wanted = {("codex_hidden_by_preview", thread.id), ("codex_differing_field", thread.id)}
    assert told(audited(home.path)) - hidden(home) == wanted


def test_an_archived_thread_without_a_preview_is_listed_all_the_same(home: CodexHome) -> None:
    """The list of archived threads asks for no preview; release 0.169 was seen to show them."""
    thread = next(each for each in home.made if each.row["archived"])
    home.set(thread, preview="")
    assert ("codex_hidden_by_preview", thread.id) not in told(audited(home.path))


def test_a_title_behind_an_image_is_no_name(home: CodexHome) -> None:
    """A legacy thread that began with an image: its title is of later words, and differs from its first message."""
    thread = home.one(mode="legacy")
    meta, *lines = home.file(thread).read_bytes().splitlines(keepends=True)
    image = {"type": "user_message", "message": "", "images": ["data:image/png;base64,AA"]}
    line = {"timestamp": json.loads(meta)["timestamp"], "type": "event_msg", "payload": image}
    home.file(thread).write_bytes(b"".join([meta, json.dumps(line).encode() + b"\n", *lines]))
    home.set(thread, first_user_message="[Image]", preview="[Image]")
    assert thread.row["title"]
    assert told(audited(home.path)) == hidden(home)


def test_findings_of_two_classes_do_not_hide_each_other(home: CodexHome) -> None:
    """A file that was moved into the archive by hand: its row has the wrong path and the wrong state."""
    thread = home.one(mode="paginated", archived=False)
    home.file(thread).rename(home.path / "archived_sessions" / home.file(thread).name)
    assert told(audited(home.path)) - hidden(home) == {
        ("codex_wrong_path", thread.id),
        ("codex_wrong_archive_state", thread.id),
    }


def test_values_of_both_sides_are_told(home: CodexHome) -> None:
    thread = home.one(mode="paginated")
    home.set(thread, model="another")
    (found,) = (each for each in audited(home.path).findings if each.class_ == "codex_differing_field")
    assert (found.field, found.file_value, found.row_value) == ("model", thread.row["model"], "another")
    assert found.path == thread.path


def test_a_thread_without_a_row_because_of_one_byte_is_told_so(home: CodexHome) -> None:
    thread = home.one(mode="legacy")
    with home.file(thread).open("ab") as file:
        file.write(b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"event_msg","payload":{"type":"x","y":"\xff"}}\n')
    home.run("DELETE FROM threads WHERE id = ?", thread.id)
    (found,) = (each for each in audited(home.path).findings if each.class_ == "codex_missing_row")
    assert "not UTF-8" in found.message


@pytest.mark.parametrize(("lost", "class_"), [(1, "codex_projection_lag"), (2, "codex_stopped_projection")])
def test_a_line_that_is_no_record_may_stand_for_one_number(home: CodexHome, lost: int, class_: str) -> None:
    """That program passes over a broken line together with the number that the line would have had, and over no other."""
    thread = home.one(mode="paginated")
    assert thread.next_ordinal is not None
    last = json.loads(home.file(thread).read_bytes().splitlines()[-1])
    with home.file(thread).open("a") as file:
        file.write('{"timestamp":"2026-01-05T09:00:00.000Z","ord\n')
        file.write(json.dumps({**last, "ordinal": thread.next_ordinal + lost}) + "\n")
    assert told(audited(home.path)) - hidden(home) == {(class_, thread.id)}


def test_a_goal_that_a_fork_took_over_is_not_its_own(home: CodexHome) -> None:
    """A copied record still names the thread that it was said in."""
    thread_id, goal = said_goal(home)
    fork = next(each for each in home.made if each.history_mode == "legacy" and each.id != thread_id)
    line = home.path.joinpath(home.one(mode="legacy").path).read_bytes().splitlines()[-1]
    text = home.file(fork).read_bytes().splitlines(keepends=True)
    home.file(fork).write_bytes(b"".join([text[0], line + b"\n", *text[1:]]))
    assert thread_id.encode() in line
    assert goal["objective"] == "all green"
    assert not {each.thread_id for each in audited(home.path).findings if "goal" in each.class_} & {fork.id, thread_id}


def test_a_rollout_that_is_being_written_is_lag(home: CodexHome) -> None:
    """Its last record is seconds old: that the row, the turns and the edge are behind is the writer's way, not a fault."""
    thread = home.one(mode="paginated")
    grown = append_turns(home.path, thread)
    now_ms = int(str(grown.row["updated_at_ms"])) + 2_000
    os.utime(home.path / "state_5.sqlite", ns=(0, 0))
    live = CodexAuditor(
        Home(str(home.path), None), options=Options(), clock=ManualClock(wall_ms=now_ms), files=Files()
    ).run()
    assert told(live) == hidden(home)
    assert {("codex_stale_row", thread.id), ("codex_projection_lag", thread.id)} <= told(audited(home.path))


def test_a_difference_that_a_second_look_does_not_find_is_no_finding(home: CodexHome) -> None:
    """The program writes the row while the rollouts are read: what was not there at first is there when it is looked for."""
    thread = home.one(mode="paginated")
    row = thread.row["model"]
    home.set(thread, model="another")

    def mended(_: object) -> None:
        home.set(thread, model=row)

    assert told(auditor(home.path).run(progress=mended)) == hidden(home)


def test_the_provider_that_the_configuration_names_decides(home: CodexHome) -> None:
    (home.path / "config.toml").write_text('model_provider = "azure"\n')
    hides = {each.thread_id for each in audited(home.path).findings if each.class_ == "codex_hidden_by_provider"}
    assert hides == {each.id for each in home.made if not str(each.row["source"]).startswith("{")}
    (home.path / "config.toml").write_text(
        'profile = "p"\nmodel_provider = "azure"\n[profiles.p]\nmodel_provider = "openai"\n'
    )
    assert told(audited(home.path)) == hidden(home)
    (home.path / "config.toml").write_text("= no toml")
    assert told(audited(home.path)) == hidden(home)


def test_databases_are_read_where_the_configuration_says(home: CodexHome, tmp_path: Path) -> None:
    elsewhere = tmp_path / "databases"
    elsewhere.mkdir()
    for path in home.path.glob("*.sqlite"):
        path.rename(elsewhere / path.name)
    assert audited(home.path).databases == []
    (home.path / "config.toml").write_text(f"sqlite_home = {json.dumps(str(elsewhere))}\n")
    assert told(audited(home.path)) == hidden(home)


def test_the_newest_shape_counts_and_columns_may_come_and_go(home: CodexHome) -> None:
    """A release to come, with columns and tables that nobody knows yet; beside it what an older one left."""
    (home.path / "state_5.sqlite").rename(home.path / "state_12.sqlite")
    home.run("ALTER TABLE threads ADD COLUMN colour TEXT DEFAULT 'red'", database="state_12.sqlite")
    home.run("CREATE TABLE dreams (id TEXT)", database="state_12.sqlite")
    home.run("DROP TABLE thread_sections", database="state_12.sqlite")
    home.run("ALTER TABLE threads DROP COLUMN approval_mode", database="state_12.sqlite")
    home.run("CREATE TABLE threads (id TEXT)", database="state_4.sqlite")
    report = audited(home.path)
    assert report.databases[0] == "state_12.sqlite"
    assert told(report) == hidden(home)


def test_a_shape_that_is_not_known_is_a_finding_and_the_others_are_compared(home: CodexHome) -> None:
    home.run("ALTER TABLE threads RENAME TO conversations")
    home.run("INSERT INTO thread_history_projection_state VALUES (?, 1, 1)", NOBODY, database="thread_history_1.sqlite")
    assert told(audited(home.path)) == {("codex_unreadable", None), ("codex_dangling_projection", NOBODY)}


def test_values_of_any_type_in_any_column_are_no_crash(home: CodexHome) -> None:
    """SQLite keeps what it is given: bytes, numbers and text that is not UTF-8 in any column but one that is checked."""
    ids = [each.id for each in home.made[:4]]
    for value, thread_id in zip((b"\xff\x00", 7, 2.5, -1), ids, strict=True):
        for column in (
            "source",
            "title",
            "preview",
            "updated_at_ms",
            "history_mode",
            "tokens_used",
            "archived",
            "name",
        ):
            home.run(f"UPDATE threads SET {column} = ? WHERE id = ?", value, thread_id)
    home.run("UPDATE threads SET title = CAST(x'ff41' AS TEXT)")
    home.run(
        "INSERT INTO threads (id, rollout_path, created_at, updated_at, source, model_provider, cwd, title,"
        " sandbox_policy, approval_mode) VALUES (NULL, '', 0, 0, '', '', '', '', '', '')"
    )
    report = audited(home.path)
    assert ("codex_bad_row", None) in told(report)
    assert not any(each.class_ == "codex_unreadable" for each in report.findings)


def why(home: CodexHome, thread_id: str):
    return explain(auditor(home.path).survey(), thread_id, Files())


def reasons(home: CodexHome, thread_id: str) -> list[tuple[str, str]]:
    return [(each.list, each.reason) for each in why(home, thread_id).reasons]


def test_why_a_thread_is_listed(home: CodexHome) -> None:
    thread = home.one(mode="paginated", archived=False)
    found = why(home, thread.id.upper())
    assert (found.listed_by_database, found.listed_by_scan, found.reasons) == (True, True, [])
    assert found.summary.startswith("It is in that program's list")
    assert found.rollouts == [thread.path]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"source": "exec"}, ("both", "source")),
        ({"model_provider": "azure"}, ("both", "provider")),
        ({"preview": ""}, ("both", "preview")),
        ({"attached_thread_parent_id": OTHER}, ("both", "attached")),
        ({"archived": 1}, ("database", "archived")),
        ({"rollout_path": "/gone"}, ("database", "no_file")),
        ({"history_mode": "future"}, ("database", "bad_row")),
    ],
)
def test_why_a_thread_is_not_listed(home: CodexHome, columns: dict[str, object], wanted: tuple[str, str]) -> None:
    thread = home.one(mode="paginated", archived=False)
    home.set(thread, **columns)
    assert reasons(home, thread.id) == [wanted]
    found = why(home, thread.id)
    assert (found.listed_by_database, found.listed_by_scan) == (False, wanted[0] == "database")
    assert found.reasons[0].message in found.summary


def test_why_a_thread_without_a_row_or_a_file_is_not_listed(home: CodexHome) -> None:
    gone, unknown = home.one(mode="legacy"), home.one(mode="paginated", archived=False)
    home.file(gone).unlink()
    home.run("DELETE FROM threads WHERE id = ?", unknown.id)
    assert reasons(home, gone.id) == [("database", "no_file"), ("scan", "no_file")]
    assert reasons(home, unknown.id) == [("database", "no_row")]


def test_why_an_archived_thread_is_not_listed(home: CodexHome) -> None:
    thread = next(each for each in home.made if each.row["archived"])
    assert ("both", "archived") in reasons(home, thread.id)


def test_why_a_file_in_the_wrong_place_is_not_listed(home: CodexHome) -> None:
    """A scan looks in folders of days; the row names the place where the file was."""
    thread = home.one(mode="paginated", archived=False)
    file = home.file(thread)
    file.rename(home.path / "sessions" / file.name)
    assert reasons(home, thread.id) == [("database", "no_file"), ("scan", "folder")]


def test_why_a_file_that_was_archived_behind_its_row_is_not_listed(home: CodexHome) -> None:
    thread = home.one(mode="paginated", archived=False)
    file = home.file(thread)
    (home.path / "archived_sessions").mkdir(exist_ok=True)
    file.rename(home.path / "archived_sessions" / file.name)
    assert reasons(home, thread.id) == [("database", "no_file"), ("scan", "archived")]


def test_why_a_file_without_its_first_record_is_not_listed(home: CodexHome) -> None:
    thread = home.one(mode="legacy", archived=False)
    home.file(thread).write_bytes(b"".join(home.file(thread).read_bytes().splitlines(keepends=True)[1:]))
    assert ("scan", "no_meta") in reasons(home, thread.id)


@pytest.mark.parametrize(
    "seed",
    [ordinal_that_comes_twice, projection_lag, no_projection, no_edge, another_parent, older_goal, goal_without_record],
)
def test_why_tells_besides_what_else_is_wrong_with_the_thread(
    home: CodexHome, seed: Callable[[CodexHome], Seeded]
) -> None:
    """Its lists show it; its turns, its place among agents or its goal are not what its rollout says."""
    class_, thread_id = seed(home)
    assert thread_id is not None
    found = why(home, thread_id)
    (finding,) = found.findings
    assert (finding.class_, finding.thread_id) == (class_, thread_id)
    assert {each.class_ for each in why(home, home.one(mode="paginated", archived=False).id).findings} <= {class_}


def test_why_tells_what_lists_show_once(home: CodexHome) -> None:
    thread = home.one(mode="paginated", archived=False)
    home.set(thread, preview="", archived=1)
    assert [each.class_ for each in why(home, thread.id).findings] == ["codex_differing_field"]


def test_why_of_nobody_is_an_error(home: CodexHome) -> None:
    with pytest.raises(ThreadNotFound):
        why(home, NOBODY)
    with pytest.raises(InvalidRequest):
        why(home, "no id")


def test_without_a_database_every_thread_lacks_it(home: CodexHome) -> None:
    (home.path / "state_5.sqlite").unlink()
    thread = home.one(mode="paginated", archived=False)
    assert reasons(home, thread.id) == [("database", "no_database")]
