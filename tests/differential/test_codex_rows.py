"""Our rows beside those that the Codex CLI itself wrote for the same rollouts, every column of every thread.

Each difference that is allowed stands below with its reason: it is a fact that only that program's database had, or one
where the rollout says more. What is not listed must be equal, and what is listed must differ, so that the list stays true.
"""

from __future__ import annotations

import json

import msgspec
import pytest

import engine

HOMES = ["codex-0.169", "codex-0.169-zst", "codex-0.169-memories", "codex-0.130-part"]
THREADS = {"codex-0.169": 60, "codex-0.169-zst": 59, "codex-0.169-memories": 40, "codex-0.130-part": 16}
NEAR_MS = 60
"""Its rows have the time of the write to the database, ours the time that the record has, some milliseconds apart."""

COLUMNS = (
    "source thread_source originator history_mode agent_nickname agent_role agent_path model_provider model "
    "reasoning_effort cwd cli_version title preview first_user_message sandbox_policy approval_mode tokens_used memory_mode "
    "git_sha git_branch git_origin_url archived name"
).split()
TIMES = ("created_at_ms", "updated_at_ms", "recency_at_ms")

PATCHED = "01a2045c-84cb-7a10-811e-109caa031bac"
LONG = "01a2045a-6377-7642-a0d2-eeed1872ad76"
FORK = "01a2045c-b131-7973-a96a-b2e8fa3df478"
NO_TURN = "01a2045c-8523-7083-88f7-4cedd69b3495"
RENAMED_EARLY = "01a20466-3fbc-73b3-af71-258ab3504052"
WENT_ON = "01a20467-00a2-78c0-bbd5-c767addfdd8f"
REVERTED = "01a2045c-84a2-7530-887f-c2672568ef35"

ONLY_IN_ITS_DATABASE = "set by a request on a paginated thread, which that program keeps in its database alone"
CUT = "a text of more than 16 KiB is cut in our row; the rollout has it all"

OF_0_169 = {
    (PATCHED, "git_sha"): ONLY_IN_ITS_DATABASE,
    (PATCHED, "git_origin_url"): ONLY_IN_ITS_DATABASE,
    (PATCHED, "memory_mode"): ONLY_IN_ITS_DATABASE,
    (LONG, "title"): CUT,
    (LONG, "preview"): CUT,
    (LONG, "first_user_message"): CUT,
    (FORK, "preview"): "a fork by reference shows its own first words, not those that it took over",
    (
        NO_TURN,
        "sandbox_policy",
    ): "no turn was run, so no record names a policy; ours is the default, theirs the setting",
}
OF_0_130 = {
    (
        RENAMED_EARLY,
        "title",
    ): "0.130 wrote a name over the title; ours is the name, and the title is of the first words",
    ("01a20466-3f81-7722-8141-af20c2a7cc94", "name"): "0.130 has no such column; ours is from session_index.jsonl",
    (RENAMED_EARLY, "name"): "0.130 has no such column; ours is from session_index.jsonl",
}
ALLOWED = {
    "codex-0.169": OF_0_169,
    "codex-0.169-zst": OF_0_169,
    "codex-0.169-memories": OF_0_169,
    "codex-0.130-part": OF_0_130,
}

TOUCHED = "its row was touched by a request that wrote no record; the time is not in the rollout"
ALLOWED_TIMES = {
    ("01a2045a-7aa7-7682-a315-5f38f1c1066e", "updated_at_ms"): TOUCHED,
    ("01a2045a-7c52-79f0-bbd2-803b9b800c2a", "updated_at_ms"): TOUCHED,
    (FORK, "updated_at_ms"): TOUCHED,
    ("01a2045c-b215-7953-bd46-833624e5ac1a", "updated_at_ms"): TOUCHED,
    ("01a20466-676b-7440-b4d4-6ab4161b7b62", "updated_at_ms"): TOUCHED,
    (REVERTED, "created_at_ms"): "its row is as old as the revert's file; ours as old as the thread, which its id says",
}


@pytest.fixture(scope="module")
def homes(corpora, tmp_path_factory):
    """Of each home its own rows, ours and our audit, both by thread."""
    found = {}
    for name in HOMES:
        state = tmp_path_factory.mktemp(name)
        with engine.open(str(corpora / name / "home"), state_dir=str(state)) as opened:
            assert opened.backfill().failed == ()
            page = opened.threads.list(limit=0)
            assert page.partial is None
            tables = json.loads((corpora / name / "rows.json").read_text())["state_5.sqlite"]
            theirs = {row["id"]: row for row in tables["threads"]}
            found[name] = (theirs, {row.id: row for row in page.threads}, opened.audit(), tables)
    return found


@pytest.mark.parametrize("name", HOMES)
def test_both_have_the_same_threads(homes, name):
    theirs, ours, _, _ = homes[name]
    assert ours.keys() == theirs.keys()
    assert len(ours) == THREADS[name]


@pytest.mark.parametrize("name", HOMES)
def test_an_audit_of_a_real_home_finds_nothing(homes, name):
    """The oldest one is a part of a home: some threads name parents that were left out of it."""
    found = {each.class_ for each in homes[name][2].findings}
    assert found == ({"dangling_edge"} if name == "codex-0.130-part" else set())


@pytest.mark.parametrize("name", HOMES)
def test_every_column_of_every_thread_is_equal_but_for_those_listed(homes, name):
    theirs, ours, _, _ = homes[name]
    columns = [column for column in COLUMNS if column in next(iter(theirs.values())) or column == "name"]
    differing = {
        (thread, column)
        for thread, row in theirs.items()
        for column in columns
        if not same(column, getattr(ours[thread], column), row.get(column))
    }
    if name == "codex-0.130-part":
        # Its column has the policy of the sandbox, ours the permission profile, which its rollouts have too.
        assert {thread for thread, column in differing if column == "sandbox_policy"} <= profiles(ours, theirs)
        differing = {each for each in differing if each[1] != "sandbox_policy"}
    assert differing == set(ALLOWED[name])


def same(column, ours, theirs):
    """Its database has '' where ours has nothing, and 0 or 1 for a truth value."""
    return ours == bool(theirs) if column == "archived" else (ours or None) == (theirs or None)


def profiles(ours, theirs):
    """Threads whose profile means what their sandbox policy says."""
    meaning = {'{"type":"danger-full-access"}': ['{"type":"disabled"}'], '{"type":"read-only"}': []}
    found = set()
    for thread, row in theirs.items():
        policy = json.loads(ours[thread].sandbox_policy)
        managed = row["sandbox_policy"] == '{"type":"read-only"}' and policy["type"] == "managed"
        if ours[thread].sandbox_policy in meaning[row["sandbox_policy"]] or managed:
            found.add(thread)
    return found


@pytest.mark.parametrize("name", ["codex-0.169", "codex-0.130-part"])
def test_times_are_within_milliseconds_but_for_those_listed(homes, name):
    """In the two other homes that program's database was made older by a constant; their rollouts were not."""
    theirs, ours, _, _ = homes[name]
    differing = {
        (thread, column)
        for thread, row in theirs.items()
        for column in TIMES
        if column in row and abs(getattr(ours[thread], column) - row[column]) > NEAR_MS
    }
    assert differing == {each for each in ALLOWED_TIMES if each[0] in theirs}


def test_a_touched_row_is_younger_than_its_last_record(homes):
    """What makes the listed times allowed: ours are older, as a record is that nothing was written after."""
    for name in ("codex-0.169", "codex-0.130-part"):
        theirs, ours, _, _ = homes[name]
        for thread, column in ALLOWED_TIMES:
            if thread in theirs:
                assert getattr(ours[thread], column) < theirs[thread][column]


@pytest.mark.parametrize("name", HOMES)
def test_a_long_text_of_ours_is_the_beginning_of_theirs(homes, name):
    theirs, ours, _, _ = homes[name]
    if LONG in theirs:
        for column in ("title", "preview", "first_user_message"):
            assert getattr(ours[LONG], column) == theirs[LONG][column][:16_384] != theirs[LONG][column]


@pytest.mark.parametrize("name", HOMES)
def test_a_path_is_that_of_its_row_in_the_home_as_it_is_now(homes, corpora, name):
    """A moved home lists all its threads: their rows have the place where it once was, ours are found anew."""
    theirs, ours, _, _ = homes[name]
    for thread, row in theirs.items():
        below = row["rollout_path"].removeprefix("/home/dev/src/workspaces/").partition("/")[2]
        assert ours[thread].rollout_path == f"{corpora}/{name}/home/{below}"


@pytest.mark.parametrize("name", HOMES)
def test_the_parent_of_every_spawned_agent_is_known(homes, name):
    _, ours, _, tables = homes[name]
    for edge in tables["thread_spawn_edges"]:
        assert ours[edge["child_thread_id"]].parent_thread_id == edge["parent_thread_id"]


def test_a_compressed_home_gives_the_rows_of_the_plain_one(homes):
    """All but the path, in which the home's own folder is; and one thread, which was gone on with in that home."""
    _, plain, _, _ = homes["codex-0.169"]
    _, compressed, _, _ = homes["codex-0.169-zst"]
    assert len(plain.keys() - compressed.keys()) == 1
    assert compressed[WENT_ON].updated_at_ms > plain[WENT_ON].updated_at_ms
    for thread, row in compressed.items():
        assert row.rollout_path.endswith(plain[thread].rollout_path.partition("/home/")[2])
        if thread != WENT_ON:
            assert msgspec.structs.replace(row, rollout_path="") == msgspec.structs.replace(
                plain[thread], rollout_path=""
            )
