"""Memories as rows: which are listed and selected, what use does to them, what is pruned; and citations."""

from __future__ import annotations

import pytest

from engine.errors import InvalidRequest, ThreadNotFound
from engine.memories.citations import parse_citations, without_citations
from tests.remembering import DAY_MS, HOUR_MS, Bench, write_both
from tests.writing import faults

MISSING = "019b8d63-3aa4-79ca-b017-baf18cb08e1b"


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "home")
    yield made
    made.close()


def remembered(bench, *names, apart_ms=1_000, **how):
    """A thread with a memory for each name, the older first."""
    threads = []
    for name in names:
        thread = bench.thread(name, **how)
        bench.put(thread, raw=f"raw {name}", summary=f"sum {name}")
        bench.clock.advance(apart_ms)
        threads.append(thread)
    return threads


def ids(found):
    return [each.thread_id for each in found]


# get, put, latest


def test_put_gives_a_memory_and_its_time_always_advances(bench):
    (thread,) = remembered(bench, "a", apart_ms=0)
    first = bench.memories.get(thread)
    assert (first.raw_memory, first.rollout_summary, first.cwd) == ("raw a", "sum a", "/srv")
    second = bench.put(thread, "other", "two")
    assert second.source_updated_at_ms == first.source_updated_at_ms + 1
    bench.clock.set_wall_ms(5)
    third = bench.put(thread, "third", "three")
    assert third.source_updated_at_ms == second.source_updated_at_ms + 1
    assert bench.memories.get(thread) == third


def test_put_wins_over_an_extraction_that_began_before_it(bench):
    thread = bench.thread()
    bench.rest()

    def extract(request):
        bench.put(thread, "given", "s")
        return {"raw_memory": "extracted", "rollout_summary": "s"}

    bench.extracted(extract=extract)
    assert bench.memories.get(thread).raw_memory == "given"


@pytest.mark.parametrize("texts", [("", "s"), ("r", " \n")])
def test_put_wants_two_texts_and_a_thread(bench, texts):
    with pytest.raises(InvalidRequest):
        bench.put(bench.thread(), *texts)
    with pytest.raises(ThreadNotFound):
        bench.put(MISSING)
    with pytest.raises(InvalidRequest):
        bench.memories.get("no id")


def test_l1_me17_me18_me19_the_latest_of_an_exact_folder_newest_first(bench):
    here = remembered(bench, "a", "b", cwd="/srv")
    remembered(bench, "c", cwd="/srv/below")
    blank = bench.thread("blank")
    bench.memories._parts.decisions.record(
        "memory_outcome",
        blank,
        generation=1,
        outcome="given",
        source_updated_at_ms=2**50,
        raw_memory=" ",
        rollout_summary="\n",
    )
    polluted = remembered(bench, "d")
    bench.memories.mark_polluted(polluted[0])
    assert ids(bench.memories.latest(cwd="/srv", limit=2)) == here[::-1]
    assert ids(bench.memories.latest(cwd="/srv", limit=1)) == here[1:]
    assert len(bench.memories.latest()) == 3
    with pytest.raises(InvalidRequest):
        bench.memories.latest(limit=-1)


# Selection


def test_l2_me20_the_selection_is_the_newest_by_ascending_id(bench):
    a, b, c = remembered(bench, "a", "b", "c")
    assert a < b < c
    assert ids(bench.memories.select(2)) == [b, c]
    assert bench.memories.select(0) == []
    assert ids(bench.memories.select(-1)) == []


def test_l4_me29_use_counts_before_age_and_recent_use_breaks_ties(bench):
    a, b, c = remembered(bench, "a", "b", "c")
    bench.memories.record_usage([a] * 5)
    bench.memories.record_usage([b])
    assert ids(bench.memories.select(1)) == [a]
    assert ids(bench.memories.select(2)) == [a, b]
    bench.clock.advance(1_000)
    bench.memories.record_usage([c] * 5)
    assert ids(bench.memories.select(1)) == [c]


def test_l5_me30_what_nobody_used_for_31_days_is_not_selected_whatever_it_counted(bench):
    often, used = remembered(bench, "often", "used")
    bench.memories.record_usage([often] * 9)
    bench.rest(29 * DAY_MS)
    (fresh,) = remembered(bench, "fresh")
    bench.memories.record_usage([used])
    bench.rest(2 * DAY_MS)
    assert ids(bench.memories.select()) == sorted([used, fresh])
    bench.rest(19 * DAY_MS)
    assert used in ids(bench.memories.select())  # its source is 50 days old, and it was used lately


def test_l3_l7_me21_me25_the_current_ranking_decides_and_not_the_last_selection(tmp_path):
    bench = Bench(tmp_path / "home", selected_max=1)
    a, b = remembered(bench, "a", "b")
    bench.consolidated()
    assert [thread for thread, _ in bench.memories.status().consolidated.selected] == [b]
    bench.put(a, "newer", "s")
    assert ids(bench.memories.select()) == [a]
    bench.memories.mark_polluted(a)
    assert ids(bench.memories.select()) == [b]
    bench.close()


def test_l6_me31_a_newer_source_comes_before_a_newer_extraction(bench):
    old, new = bench.thread("old"), bench.thread("new")
    bench.rest()
    bench.say_more(new, "more")
    bench.rest()
    bench.extracted(exclude=[old])
    bench.clock.advance(HOUR_MS)
    bench.extracted()
    assert bench.memories.get(old).generated_at_ms > bench.memories.get(new).generated_at_ms
    assert ids(bench.memories.select(1)) == [new]


def test_archived_threads_stay_selected_and_k15_more_than_a_page_comes_at_once(bench):
    (thread,) = remembered(bench, "a")
    bench.engine.threads.archive(thread)
    found = bench.memories.select()
    assert ids(found) == [thread]
    assert found[0].rollout_path.startswith("archived_sessions/")


def test_k15_a_selection_of_more_than_512_is_one_statement(bench):
    thread = bench.thread()
    assert bench.engine.threads.get(thread) is not None  # its row is there
    with bench.engine._database.write() as transaction:
        columns = (
            "rollout_path, rollout_id, created_at_ms, updated_at_ms, recency_at_ms, source, history_mode, "
            "sandbox_policy, approval_mode, tokens_used, memory_mode, archived"
        )
        transaction.run(
            f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700) "
            f"INSERT INTO threads (id, {columns}) SELECT printf('%08d-0000-7000-8000-000000000000', i), {columns} "
            f"FROM n, threads WHERE id = '{thread}'"
        )
        now_ms = bench.clock.wall_ms()
        transaction.run(
            "INSERT INTO memory_outputs SELECT id, 1, 0, ? + rowid, 1, 'r', 's', NULL FROM threads WHERE id <> ?",
            (now_ms, thread),
        )
    with bench.engine._database.read() as transaction:
        from engine.projections.memories import select_inputs

        found = select_inputs(transaction, limit=600, unused_days=30, now_ms=now_ms)
    assert len(ids(found)) == len(set(ids(found))) == 600
    assert ids(found) == sorted(ids(found))


# Usage


def test_l10_me28_usage_counts_each_time_and_what_is_missing_not(bench):
    a, b = remembered(bench, "a", "b")
    assert bench.memories.record_usage([a, a.upper(), b, MISSING, "no id"]) == 3
    found = {each: bench.memories.get(each) for each in (a, b)}
    assert (found[a].usage_count, found[b].usage_count) == (2, 1)
    assert found[a].last_usage_ms == found[b].last_usage_ms == bench.clock.wall_ms()
    assert bench.memories.record_usage([]) == 0


def test_p4_usage_and_the_selection_survive_an_extraction(bench):
    thread = bench.thread()
    bench.rest()
    bench.run()
    bench.memories.record_usage([thread])
    bench.say_more(thread, "more")
    bench.rest()
    before = bench.memories.get(thread).selected_source_updated_at_ms
    bench.extracted()
    after = bench.memories.get(thread)
    assert after.raw_memory.startswith("raw 2")
    assert (after.usage_count, after.selected_source_updated_at_ms) == (1, before)


CITED = """Because of this.
<oai-mem-citation>
<citation_entries>
MEMORY.md:3-5|note=[why|note=[not]]
a:b.md:1-1|note=[x]
bad
MEMORY.md:x-2|note=[y]
MEMORY.md:1-2|note=[z
</citation_entries>
<rollout_ids>
{a}
not-an-id
{a}
</rollout_ids>
<thread_ids>
{b}
</thread_ids>
</oai-mem-citation> Done.<citation><thread_ids>
{b}
</thread_ids>"""


def test_r1_r2_citations_are_read_and_counted_once_each(bench):
    a, b = remembered(bench, "a", "b")
    text = CITED.format(a=a, b=b)
    found = bench.memories.record_citations(text)
    assert found.thread_ids == [a, "not-an-id", b]
    assert found.places == [("a:b.md", 1, 1, "x")]  # the first line is cut at the last mark, which leaves no range
    assert [bench.memories.get(each).usage_count for each in (a, b)] == [1, 1]
    assert without_citations(text) == "Because of this.\n Done."


@pytest.mark.parametrize("text", ["", "no block", "<oai-mem-citation></oai-mem-citation>", "<oai-mem-cit"])
def test_r1_an_answer_without_citations_has_none(bench, text):
    assert bench.memories.record_citations(text) is None
    assert parse_citations(text) is None


# Retention


def test_l11_l12_me32_me33_stale_ones_go_stalest_first_and_selected_ones_stay(tmp_path):
    bench = Bench(tmp_path / "home", selected_max=1, pruned_max=2)
    one, two, three = remembered(bench, "one", "two", "three")
    bench.rest(10 * DAY_MS)
    (selected,) = remembered(bench, "selected")
    bench.memories.record_usage([selected] * 3)
    bench.consolidated()
    bench.rest(10 * DAY_MS)
    bench.memories.record_usage([two])
    bench.rest(11 * DAY_MS)
    (four,) = remembered(bench, "four")
    bench.rest(20 * DAY_MS)
    assert bench.memories.prune() == 2
    assert [bench.memories.get(each) is None for each in (one, two, three, four, selected)] == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert bench.memories.prune() == 1
    assert bench.memories.get(two) is None
    assert bench.memories.prune() == 0
    assert bench.memories.get(selected) is not None
    assert bench.extracted().claimed == 0  # what was pruned is not extracted again
    bench.close()


def test_what_was_pruned_and_is_learned_again_begins_to_count_anew(bench):
    (thread,) = remembered(bench, "a")
    bench.memories.record_usage([thread])
    bench.rest(40 * DAY_MS)
    assert bench.memories.prune() == 1
    bench.put(thread, "again", "s")
    found = bench.memories.get(thread)
    assert (found.usage_count, found.last_usage_ms) == (0, None)
    assert ids(bench.memories.select()) == [thread]


def test_me42_negative_options_count_as_none(tmp_path):
    bench = Bench(tmp_path / "home", idle_s=-5, unused_days=-5, age_days=1)
    bench.thread()
    assert bench.extracted().claimed == 1
    bench.clock.advance(1)
    assert bench.memories.select() == []
    bench.close()


# The whole


def test_r4_the_summary_is_what_a_session_is_shown(bench):
    assert bench.memories.summary() is None
    remembered(bench, "a")
    bench.consolidated(write_both)
    assert bench.memories.summary().startswith("v1\n")
    assert "tokens truncated" in bench.memories.summary(tokens_max=5)
    for path in ("../engine/state_1.sqlite", "/etc/passwd", "a//b"):
        with pytest.raises(InvalidRequest):
            bench.memories.read(path)
    for path in (".git/HEAD", ""):
        assert bench.memories.read(path) is None
    assert bench.memories.read("nothing.md") is None
    assert bench.memories.read("skills") is None


def test_an_audit_finds_nothing_after_all_of_it_and_a_wrong_row(bench):
    remembered(bench, "a", "b")
    bench.thread("c")
    bench.rest()
    bench.run()
    bench.memories.record_usage(ids(bench.memories.select()))
    assert faults(bench.engine) == []
    with bench.engine._database.write() as transaction:
        transaction.run("UPDATE memory_usage SET usage_count = 7")
        transaction.run("UPDATE memory_outputs SET raw_memory = 'x' WHERE raw_memory = 'raw a'")
    assert sorted(each.field for each in faults(bench.engine)) == [
        "memory_outputs.raw_memory",
        *["memory_usage.usage_count"] * 3,
    ]


@pytest.mark.parametrize(
    "name",
    [
        "2026-01-05T09-00-00-.md",
        "2026-01-05-x.md",
        "../x.md",
        "2026-01-05T09-00-00-X.md",
        "2026-01-05T09-00-00-" + "a" * 81 + ".md",
    ],
)
def test_r6_a_note_has_a_name_of_its_own(bench, name):
    from engine.memories.folder import add_note

    files = bench.memories._parts.files
    with pytest.raises(InvalidRequest):
        add_note(str(bench.root), name, "x", files=files)
    with pytest.raises(InvalidRequest):
        bench.memories.add_note(" \n")
    bench.memories.add_note("x", slug="same")
    with pytest.raises(InvalidRequest):
        bench.memories.add_note("y", slug="same")
    assert bench.file("extensions/ad_hoc/notes/2026-01-05T09-00-00-same.md") == "x"
