"""The files that rows of memories come to: the same rows, the same bytes, under the names that the Codex CLI gives."""

from __future__ import annotations

import pytest

from engine.memories.artifacts import named, raw_memories, rollout_summary, stem, thread_of
from engine.projections.memories import Memory

ID = "0194f5a6-89ab-7cde-8123-456789abcdef"
LONG = "Unsafe Slug/With Spaces & Symbols + EXTRA_LONG_12345_67890_ABCDE_fghij_klmno"
AT_MS = 1_767_603_600_000  # 2026-01-05T09:00:00Z


def memory(thread_id=ID, **fields):
    values = {
        "raw_memory": " raw\n",
        "rollout_summary": "sum",
        "rollout_slug": None,
        "source_updated_at_ms": AT_MS,
        "generated_at_ms": 1,
        "generation": 1,
        "usage_count": 0,
        "last_usage_ms": None,
        "selected_source_updated_at_ms": None,
        "rollout_path": "/h/r.jsonl",
        "cwd": "/srv",
        "git_branch": None,
        **fields,
    }
    return Memory(thread_id=thread_id, **values)


@pytest.mark.parametrize(
    ("slug", "ending"),
    [
        (None, ""),
        ("", ""),
        ("!!!", ""),
        ("Fix Tests", "-fix_tests"),
        (LONG, "-unsafe_slug_with_spaces___symbols___extra_long_12345_67890_a"),
    ],
)
def test_a1_a_stem_is_the_time_and_a_hash_of_the_id_and_the_slug(slug, ending):
    assert stem(ID, 0, slug) == f"2025-02-11T15-35-19-jqmb{ending}"


def test_a1_an_id_without_a_time_takes_that_of_its_source():
    assert stem("0194f5a6-89ab-4cde-8123-456789abcdef", AT_MS).startswith("2026-01-05T09-00-00-jqmb")
    assert stem("not a uuid", AT_MS).startswith("2026-01-05T09-00-00-")


def test_a3_the_raw_memories_are_by_thread_id_with_their_headers_in_order():
    other = "0194f5a6-89ab-7cde-8123-000000000000"
    text = raw_memories(named([memory(), memory(other, cwd=None)])).decode()
    assert text.startswith("# Raw Memories\n\n")
    assert text.index(other) < text.index(ID)
    assert text.endswith(
        f"## Thread `{ID}`\nupdated_at: 2026-01-05T09:00:00+00:00\ncwd: /srv\nrollout_path: /h/r.jsonl\n"
        "rollout_summary_file: 2025-02-11T15-35-19-jqmb.md\n\nraw\n\n"
    )


def test_a4_a_summary_says_where_it_is_from():
    assert rollout_summary(memory(git_branch="main", cwd="/a\nb")).decode() == (
        f"thread_id: {ID}\nupdated_at: 2026-01-05T09:00:00+00:00\nrollout_path: /h/r.jsonl\ncwd: /a b\n"
        "git_branch: main\n\nsum\n"
    )
    assert thread_of(rollout_summary(memory())) == ID
    assert thread_of(b"my own notes") is None


def test_no_memories_are_said_to_be_none():
    assert raw_memories([]) == b"# Raw Memories\n\nNo memories yet.\n"


def test_k19_two_threads_of_one_stem_have_their_whole_id_in_it():
    same_second = "0194f5a6-89ac-7cde-9123-456789abcdef"
    stems = [each.stem for each in named([memory(), memory(same_second)])]
    assert stems == [f"2025-02-11T15-35-19-{ID}", f"2025-02-11T15-35-19-{same_second}"]
