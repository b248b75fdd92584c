"""Phase 2: what is consolidated when, what is taken, and that nothing of a person's is lost or taken for consolidated."""

from __future__ import annotations

import os
import shutil
import threading

import pytest

from engine.errors import InvalidRequest, LeaseLost, StoreUnavailable, WorkspaceForeign
from engine.memories import outputs
from engine.memories.extensions import Resource
from engine.memories.parts import CONSOLIDATE
from engine.memories.phase2 import Consolidating
from engine.projections.thread_facts import unfinished_erasures
from engine.stores.jobs import Job, Wanted
from engine.stores.workspace import changes_between
from tests.remembering import DAY_MS, HOUR_MS, Bench, put, write_both

COOLDOWN_MS = 6 * HOUR_MS


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "home")
    yield made
    made.close()


def pending(bench):
    """What differs from the baseline now."""
    workspace = Consolidating(bench.memories._parts, write_both).workspace
    return [(each.status, each.path.decode()) for each in changes_between(workspace.baseline(), workspace.look())]


def remembered(bench, count=1, **how):
    """Threads with a memory each, the older first."""
    threads = []
    for _ in range(count):
        thread = bench.thread(**how)
        bench.clock.advance(1_000)
        bench.put(thread, raw=f"raw {thread}", summary=f"sum {thread}")
        threads.append(thread)
    return threads


# When


def test_k18_a_home_without_anything_to_remember_asks_no_consolidator(bench):
    report = bench.consolidated(lambda _: pytest.fail("asked"))
    assert report.status == "nothing_to_do"
    bench.thread()
    assert bench.consolidated(lambda _: pytest.fail("asked")).status == "nothing_to_do"


def test_s1_the_folder_is_made_with_its_notes_and_s5_a_customised_instruction_stays(bench):
    bench.consolidated()
    path = bench.root / "extensions/ad_hoc/instructions.md"
    assert path.read_text().startswith("# Notes")
    path.write_text("mine")
    bench.consolidated()
    assert path.read_text() == "mine"


def test_f1_w8_memories_become_files_and_the_baseline_is_what_is_there(bench):
    (thread,) = remembered(bench)
    report = bench.consolidated()
    assert report.status == "succeeded"
    assert report.selected == 1
    assert sorted(report.taken) == ["MEMORY.md", "memory_summary.md"]
    assert f"## Thread `{thread}`" in bench.file("raw_memories.md")
    (summary,) = os.listdir(bench.root / "rollout_summaries")
    assert f"sum {thread}" in bench.file(f"rollout_summaries/{summary}")
    assert summary in bench.file("MEMORY.md")
    assert pending(bench) == []
    assert not (bench.root / "phase2_workspace_diff.md").exists()
    assert not list((bench.path / "engine/work").glob("*"))
    assert bench.memories.status().is_ready


def test_g2_me15_a_cooldown_of_six_hours_follows_a_success(bench):
    remembered(bench)
    assert bench.consolidated().status == "succeeded"
    remembered(bench)
    assert bench.consolidated().status == "cooldown"
    bench.rest(COOLDOWN_MS - 2_001)
    assert bench.consolidated().status == "cooldown"
    bench.rest(2_001)
    assert bench.consolidated().status == "succeeded"
    remembered(bench)
    assert bench.consolidated(now=True).status == "succeeded"


def test_a_clock_that_was_set_back_does_not_lengthen_the_cooldown(bench):
    remembered(bench)
    bench.consolidated()
    bench.clock.set_wall_ms(bench.clock.wall_ms() - 300 * DAY_MS)
    assert bench.consolidated().status in ("succeeded", "unchanged")


def test_k12_a_failure_pauses_whatever_is_extracted_meanwhile(bench):
    remembered(bench)
    assert bench.consolidated(lambda _: 1 / 0).reason == "ZeroDivisionError: division by zero"
    remembered(bench)
    assert bench.consolidated().status == "backoff"
    assert bench.consolidated(now=True).status == "backoff"
    bench.rest(HOUR_MS)
    assert bench.consolidated().status == "succeeded"
    assert [each["outcome"] for each in bench.outcomes() if each["type"] == "memory_consolidated"] == [
        "failed",
        "succeeded",
    ]


def test_g3_me16_any_number_of_failures_leaves_it_claimable(bench):
    remembered(bench)
    for _ in range(5):
        assert bench.consolidated(lambda _: 1 / 0).status == "failed"
        bench.rest(HOUR_MS)
    assert bench.consolidated().status == "succeeded"


def test_f9_g1_me35_me36_the_first_claim_makes_the_job_and_while_one_consolidates_nobody_else_does(bench):
    remembered(bench)
    inner = []

    def consolidate(request):
        inner.append(bench.consolidated(lambda _: pytest.fail("asked")).status)
        write_both(request)

    assert bench.consolidated(consolidate).status == "succeeded"
    assert inner == ["running"]


def test_k5_whoever_has_no_claim_touches_nothing(bench, tmp_path):
    """A run that finds another at work, or comes too soon, neither removes links, nor seeds, nor syncs."""
    remembered(bench)
    notes = bench.root / "extensions/ad_hoc/instructions.md"

    def disturb():
        notes.unlink()
        (bench.root / "link").symlink_to(tmp_path)
        put(str(bench.root), "raw_memories.md", "not as it should be")
        (bench.root / "phase2_workspace_diff.md").write_text("left by another program")

    def consolidate(request):
        disturb()
        there = tree(bench.root)
        assert bench.consolidated(lambda _: pytest.fail("asked")).status == "running"
        assert tree(bench.root) == there
        write_both(request)

    assert bench.consolidated(consolidate).status == "succeeded"
    there = tree(bench.root)
    assert bench.consolidated(lambda _: pytest.fail("asked")).status == "cooldown"
    assert tree(bench.root) == there
    remembered(bench)
    assert bench.consolidated(lambda _: 1 / 0, now=True).status == "failed"
    notes.unlink()
    (bench.root / "link").symlink_to(tmp_path)
    there = tree(bench.root)
    assert bench.consolidated(lambda _: pytest.fail("asked"), now=True).status == "backoff"
    assert tree(bench.root) == there


def test_k5_an_overtaken_owner_s_result_is_not_even_looked_at(bench, monkeypatch):
    remembered(bench)
    looked = []
    real = outputs.check
    monkeypatch.setattr(outputs, "check", lambda *arguments: (looked.append(1), real(*arguments)))

    def late(request):
        assert overtake(bench).status == "succeeded"
        os.symlink("/nowhere", f"{request.root}/link")

    assert bench.consolidated(late).status == "lost"
    assert looked == [1]  # that of the one that took over


def test_no_change_asks_no_consolidator(bench):
    remembered(bench)
    bench.consolidated()
    bench.rest(COOLDOWN_MS)
    report = bench.consolidated(lambda _: pytest.fail("asked"))
    assert report.status == "unchanged"
    assert report.changes == []


def test_usage_alone_makes_nothing_dirty_and_k4_neither_does_what_was_removed_of_the_inputs(bench):
    threads = remembered(bench, 2)

    def consolidate(request):
        write_both(request)
        shutil.rmtree(f"{request.root}/rollout_summaries")

    report = bench.consolidated(consolidate)
    assert len(report.ignored) == 2
    assert len(os.listdir(bench.root / "rollout_summaries")) == 2
    assert bench.memories.record_usage([threads[0]]) == 1
    bench.rest(COOLDOWN_MS)
    assert bench.consolidated(lambda _: pytest.fail("asked")).status == "unchanged"


def test_f2_what_is_valid_is_asked_for_again_where_it_is_missing(bench):
    remembered(bench)
    bench.consolidated()
    (bench.root / "memory_summary.md").unlink()
    bench.rest(COOLDOWN_MS)
    assert bench.consolidated().taken == ["memory_summary.md"]


# What it is told


def test_f1_the_diff_says_what_came_and_what_went(tmp_path):
    bench = Bench(tmp_path / "home", selected_max=1)
    (old,) = remembered(bench)
    bench.consolidated()
    (new,) = remembered(bench)
    told = {}

    def consolidate(request):
        with open(request.diff_path, encoding="utf-8") as file:
            told["diff"] = file.read()
        told["changes"] = request.changes
        told["memories"] = [each.thread_id for each in request.memories]
        assert not request.is_lost()
        write_both(request)

    bench.rest(COOLDOWN_MS)
    assert bench.consolidated(consolidate).status == "succeeded"
    assert [status for status, path in told["changes"] if path.startswith("rollout_summaries/")] in (
        ["A", "D"],
        ["D", "A"],
    )
    assert told["memories"] == [new]
    assert f"-sum {old}" in told["diff"]
    assert f"+sum {new}" in told["diff"]
    assert old not in bench.file("raw_memories.md")
    bench.close()


def test_f3_a5_old_resources_of_extensions_go_and_are_told(bench):
    now = bench.clock.wall_ms
    base = bench.root / "extensions/web/resources"
    for name in ("2025-12-29T09-00-00-old.md", "2025-12-29T09-00-01-young.md", "notes.md", "2025-12-01T00-00-00.txt"):
        put(str(base), name, "x")
    put(str(bench.root), "extensions/mute/resources/2025-01-01T00-00-00-a.md", "kept: nobody says how to read it")
    assert now() == 1_767_603_600_000  # 2026-01-05T09:00:00Z, seven days later to the second
    put(str(bench.root), "extensions/web/instructions.md", "read")
    report = bench.consolidated()
    assert report.resources_pruned == ["extensions/web/resources/2025-12-29T09-00-00-old.md"]
    assert report.status == "succeeded"
    assert (bench.root / "extensions/mute/resources/2025-01-01T00-00-00-a.md").exists()
    assert sorted(os.listdir(base)) == ["2025-12-01T00-00-00.txt", "2025-12-29T09-00-01-young.md", "notes.md"]


def test_r6_a_note_is_written_as_it_is_and_told_once(bench):
    path = bench.memories.add_note("remember: I like tabs", slug="tabs")
    assert bench.file(path) == "remember: I like tabs"
    seen = []

    def consolidate(request):
        seen.append([each for each in request.changes if "notes" in each[1]])
        write_both(request)

    assert bench.consolidated(consolidate).status == "succeeded"
    assert seen == [[("A", path)]]
    bench.rest(COOLDOWN_MS)
    assert bench.consolidated(consolidate).status == "unchanged"


def resource(source_id, name, content):
    return Resource(source_id=source_id, target_file_name=name, content=content)


def test_a6_an_extension_s_files_follow_its_source_and_what_others_put_there_stays(bench):
    sync = bench.memories.sync_extension
    both = [resource("1", "a.md", "one"), resource("2", "b.md", "two")]
    assert sync("web", "read it", both).written == ["a.md", "b.md"]
    put(str(bench.root), "extensions/web/resources/mine.md", "mine")
    found = sync("web", "read it", both)
    assert (found.written, found.removed, found.unchanged) == ([], [], ["a.md", "b.md"])
    found = sync("web", "read it well", [resource("2", "c.md", "two")])
    assert (found.written, found.removed) == (["c.md"], ["a.md", "b.md"])
    assert sorted(os.listdir(bench.root / "extensions/web/resources")) == ["c.md", "mine.md"]
    assert bench.file("extensions/web/instructions.md") == "read it well"
    put(str(bench.root), "extensions/web/manifest.json", "{")  # a damaged list: nothing is known to be the source's
    assert sync("web", "read it well", []).removed == []
    told = []
    bench.consolidated(lambda request: (told.extend(request.changes), write_both(request)))
    assert ("A", "extensions/web/resources/c.md") in told


@pytest.mark.parametrize(
    ("name", "resources"),
    [
        ("a/b", []),
        ("..", []),
        ("web", [resource("1", "../a.md", "x")]),
        ("web", [resource("1", "a.txt", "x")]),
        ("web", [resource("", "a.md", "x")]),
        ("web", [resource("1", "a.md", "x"), resource("1", "b.md", "x")]),
        ("web", [resource("1", "a.md", "x"), resource("2", "a.md", "x")]),
    ],
)
def test_a6_odd_names_of_an_extension_are_refused_and_nothing_is_written(bench, name, resources):
    with pytest.raises(InvalidRequest):
        bench.memories.sync_extension(name, "i", resources)
    assert not (bench.root / "extensions").exists()


# What is taken


def test_k1_an_edit_and_a_note_that_come_meanwhile_stay_and_stay_changes(bench):
    remembered(bench)
    bench.consolidated()
    before = bench.file("MEMORY.md")
    remembered(bench)

    def consolidate(request):
        write_both(request)
        put(str(bench.root), "MEMORY.md", before + "edited by hand meanwhile\n")
        put(str(bench.root), "skills/mine/SKILL.md", "mine")
        bench.memories.add_note("meanwhile", slug="late")

    report = bench.consolidated(consolidate, now=True)
    assert report.status == "succeeded"
    assert report.kept == ["MEMORY.md"]
    assert report.taken == ["memory_summary.md"]
    assert bench.file("MEMORY.md") == before + "edited by hand meanwhile\n"
    changes = {path: status for status, path in pending(bench)}
    assert changes["MEMORY.md"] == "M"
    assert changes["skills/mine/SKILL.md"] == "A"
    assert sum("notes" in path for path in changes) == 1
    assert len(changes) == 3
    told = []
    bench.rest(COOLDOWN_MS)
    bench.consolidated(lambda request: (told.extend(request.changes), write_both(request)))
    assert ("M", "MEMORY.md") in told


def test_what_somebody_deletes_meanwhile_stays_deleted(bench):
    remembered(bench)
    bench.consolidated()
    remembered(bench)

    def consolidate(request):
        write_both(request)
        (bench.root / "MEMORY.md").unlink()

    report = bench.consolidated(consolidate, now=True)
    assert report.kept == ["MEMORY.md"]
    assert not (bench.root / "MEMORY.md").exists()
    assert ("D", "MEMORY.md") in pending(bench)


def test_an_edit_made_before_is_told_and_may_be_overwritten(bench):
    remembered(bench)
    bench.consolidated()
    put(str(bench.root), "MEMORY.md", "edited by hand before\n")
    told = []

    def consolidate(request):
        told.extend(request.changes)
        with open(f"{request.root}/MEMORY.md", encoding="utf-8") as file:
            assert file.read() == "edited by hand before\n"
        put(request.root, "MEMORY.md", "both\n")

    assert bench.consolidated(consolidate, now=True).status == "succeeded"
    assert told == [("M", "MEMORY.md")]
    assert bench.file("MEMORY.md") == "both\n"
    assert pending(bench) == []


def test_skills_are_taken_with_their_modes_and_removed(bench):
    remembered(bench)

    def consolidate(request):
        write_both(request)
        put(request.root, "skills/a/SKILL.md", "how\n")
        put(request.root, "skills/a/run.sh", "#!/bin/sh\n")
        os.chmod(f"{request.root}/skills/a/run.sh", 0o755)

    bench.consolidated(consolidate)
    assert os.access(bench.root / "skills/a/run.sh", os.X_OK)
    remembered(bench)

    def remove(request):
        write_both(request)
        shutil.rmtree(f"{request.root}/skills/a")

    assert "skills/a/run.sh" in bench.consolidated(remove, now=True).taken
    assert not (bench.root / "skills").exists()
    assert pending(bench) == []


def test_nothing_but_outputs_is_taken(bench):
    remembered(bench)

    def wild(request):
        write_both(request)
        put(request.root, "raw_memories.md", "mine now")
        put(request.root, "extensions/ad_hoc/instructions.md", "obey me")
        put(request.root, "stray.md", "x")
        put(request.root, ".git/config", "x")
        put(request.root, "phase2_workspace_diff.md", "x")

    report = bench.consolidated(wild)
    assert sorted(report.ignored) == ["extensions/ad_hoc/instructions.md", "raw_memories.md", "stray.md"]
    assert bench.file("raw_memories.md").startswith("# Raw Memories")
    assert bench.file("extensions/ad_hoc/instructions.md").startswith("# Notes")
    assert not (bench.root / "stray.md").exists()
    assert pending(bench) == []


def test_secrets_in_what_was_made_are_not_taken(bench):
    remembered(bench)

    def leak(request):
        write_both(request)
        put(request.root, "MEMORY.md", "use sk-" + "a" * 30 + "\n")

    bench.consolidated(leak)
    assert bench.file("MEMORY.md") == "use [REDACTED_SECRET]\n"
    assert pending(bench) == []


def no_summary(request):
    write_both(request)
    os.unlink(f"{request.root}/memory_summary.md")


def wrong_header(request):
    write_both(request)
    put(request.root, "memory_summary.md", "v2\n")


def no_handbook(request):
    put(request.root, "memory_summary.md", "v1\n")


def a_link(request):
    write_both(request)
    os.symlink("/etc/passwd", f"{request.root}/skills")


def not_text(request):
    write_both(request)
    with open(f"{request.root}/memory_summary.md", "wb") as file:
        file.write(b"v1\n\xff")


def no_folder(request):
    shutil.rmtree(request.root)


def a_crash(request):
    put(request.root, "MEMORY.md", "half")
    raise RuntimeError("crashed")


@pytest.mark.parametrize(
    "error",
    [PermissionError("the sandbox is not allowed"), FileNotFoundError("no such program"), EOFError(), MemoryError("x")],
    ids=["f7 sandbox", "f8 spawn", "ended", "memory"],
)
def test_f7_f8_a_consolidator_that_cannot_be_started_pauses_and_leaves_the_outputs_as_they_were(bench, error):
    remembered(bench)
    bench.consolidated()
    before = bench.file("MEMORY.md"), bench.file("memory_summary.md")
    remembered(bench)

    def consolidate(request):
        raise error

    report = bench.consolidated(consolidate, now=True)
    assert (report.status, type(error).__name__ in report.reason) == ("failed", True)
    assert (bench.file("MEMORY.md"), bench.file("memory_summary.md")) == before
    assert bench.consolidated(now=True).status == "backoff"
    assert os.listdir(bench.path / "engine/work") == []
    bench.rest(HOUR_MS)
    assert bench.consolidated(now=True).status == "succeeded"


@pytest.mark.parametrize("made", [no_summary, wrong_header, no_handbook, a_link, not_text, no_folder, a_crash])
def test_f4_w11_k3_what_is_invalid_changes_nothing_and_pauses(bench, made):
    remembered(bench)
    report = bench.consolidated(made)
    assert report.status == "failed"
    assert not (bench.root / "MEMORY.md").exists()
    assert not (bench.root / "memory_summary.md").exists()
    assert ("A", "raw_memories.md") in pending(bench)
    assert bench.consolidated().status == "backoff"
    bench.rest(HOUR_MS)
    assert bench.consolidated().status == "succeeded"


def big(request):
    put(request.root, "MEMORY.md", "x" * 10_000 + "\n")
    put(request.root, "memory_summary.md", "v1\n")
    for number in range(6):
        put(request.root, f"skills/s{number}/SKILL.md", "how\n")


def test_k32_a_handbook_that_shrinks_to_nothing_is_not_taken_and_neither_are_deleted_skills(bench):
    threads = remembered(bench, 4)
    bench.consolidated(big)
    remembered(bench)

    def empty(request):
        put(request.root, "MEMORY.md", "x\n")

    report = bench.consolidated(empty, now=True)
    assert "would shrink from 10,001 to 2 bytes" in report.reason
    bench.rest(HOUR_MS)
    report = bench.consolidated(lambda request: shutil.rmtree(f"{request.root}/skills"), now=True)
    assert "of 6 files of skills 0 would be left" in report.reason
    assert len(bench.file("MEMORY.md")) == 10_001
    for thread in threads:
        bench.engine.threads.set_memory_mode(thread, "disabled")
    bench.rest(HOUR_MS)
    assert bench.consolidated(empty).status == "succeeded"  # most of what it was made of is to be forgotten


def test_k17_lost_rows_are_no_order_to_forget(bench):
    remembered(bench, 8)
    bench.consolidated()
    before = sorted(os.listdir(bench.root / "rollout_summaries"))
    bench.close()
    shutil.rmtree(bench.path / "engine/journal")
    for path in (bench.path / "engine").glob("*.sqlite*"):
        path.unlink()
    bench.reopen()
    report = bench.consolidated(lambda _: pytest.fail("asked"))
    assert report.status == "failed"
    assert "8 of 8 summaries" in report.reason
    assert sorted(os.listdir(bench.root / "rollout_summaries")) == before
    bench.rest(HOUR_MS)
    assert bench.consolidated(allow_mass_deletion=True).status == "succeeded"
    assert os.listdir(bench.root / "rollout_summaries") == []


def test_k31_files_of_others_among_the_summaries_stay_and_a2_old_names_go(bench):
    (thread,) = remembered(bench)
    put(str(bench.root), "rollout_summaries/my notes.md", "mine")
    for name in (f"{thread}.md", f"{thread}--old-slug.md"):
        put(str(bench.root), f"rollout_summaries/{name}", "old layout")
    bench.consolidated()
    left = os.listdir(bench.root / "rollout_summaries")
    assert len(left) == 2
    assert "my notes.md" in left
    assert not [name for name in left if name.startswith(thread)]


# Forgetting


def test_f15_when_the_last_memory_goes_the_handbook_is_left_to_the_consolidator(bench):
    """The first versions of the Codex CLI removed everything then, without asking; the later ones ask, and so is done here."""
    (thread,) = remembered(bench)
    bench.consolidated()
    bench.engine.threads.set_memory_mode(thread, "disabled")
    told = []

    def consolidate(request):
        told.extend(request.changes)
        assert request.memories == []
        with open(f"{request.root}/MEMORY.md", encoding="utf-8") as file:
            assert file.read().startswith("# Memories")
        write_both(request)

    assert bench.consolidated(consolidate).status == "succeeded"
    assert [status for status, path in told if path.startswith("rollout_summaries/")] == ["D"]
    assert bench.file("raw_memories.md") == "# Raw Memories\n\nNo memories yet.\n"
    assert os.listdir(bench.root / "rollout_summaries") == []


def test_g8_me21_me22_me23_what_is_polluted_is_forgotten_without_waiting(bench):
    keep, gone = remembered(bench, 2)
    bench.consolidated()
    assert bench.memories.mark_polluted(gone) is True
    assert bench.memories.mark_polluted(gone) is False
    assert bench.memories.status().to_forget == [gone]
    told = []
    report = bench.consolidated(lambda request: (told.extend(request.changes), write_both(request)))
    assert report.status == "succeeded"
    assert any(status == "D" and path.startswith("rollout_summaries/") for status, path in told)
    assert gone not in bench.file("raw_memories.md")
    assert keep in bench.file("raw_memories.md")
    assert bench.memories.status().to_forget == []
    assert [each.thread_id for each in bench.memories.select()] == [keep]


def test_l13_me11_an_erased_thread_is_taken_out_of_the_folder_and_its_baseline_at_once(bench):
    keep, gone = remembered(bench, 2)
    bench.memories.put(gone, trace_summary="canary-raw", memory_summary="canary-sum")

    def without_text(request):
        put(request.root, "MEMORY.md", "threads\n")
        put(request.root, "memory_summary.md", "v1\n")

    bench.consolidated(without_text)
    reach = bench.engine.threads.preview_erase(gone).memories
    assert [each.path.rpartition("/")[0] for each in reach] == ["memories/rollout_summaries", "memories"]
    assert reach[0].bytes == (bench.path / reach[0].path).stat().st_size
    assert reach[1].bytes == len(bench.file("raw_memories.md").partition(f"## Thread `{gone}`")[2]) + len(
        f"## Thread `{gone}`"
    )
    receipt = bench.engine.threads.erase(gone, grace_s=None)
    removed, size = next((each.removed, each.bytes) for each in receipt.stores if each.store == "memories")
    assert (removed, size) == (2, sum(each.bytes for each in reach))
    assert bench.engine.threads.preview_erase(keep).memories != []
    bench.close()
    import pygit2

    odb = pygit2.Odb(str(bench.root / ".git/objects"))
    assert not [oid for oid in odb if b"canary" in odb.read(oid)[1]]
    for path in bench.path.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
    bench.reopen()
    assert bench.memories.status().to_forget == [gone]
    told = []
    assert (
        bench.consolidated(lambda request: (told.extend(request.changes), without_text(request))).status == "succeeded"
    )
    assert [status for status, path in told if path.startswith("rollout_summaries/")] == ["D"]
    assert [each.thread_id for each in bench.memories.select()] == [keep]


# The folder


def test_r12_the_first_layout_is_taken_over_once_and_buckets_are_left_alone(bench):
    put(str(bench.root), "user/memory/MEMORY.md", "old handbook\n")
    put(str(bench.root), "user/memory/skills/a/SKILL.md", "old skill\n")
    put(str(bench.root), "0123456789abcdef/memory/MEMORY.md", "a bucket\n")
    told = []
    bench.consolidated(lambda request: (told.extend(request.changes), put(request.root, "memory_summary.md", "v1\n")))
    assert bench.file("MEMORY.md") == "old handbook\n"
    assert ("A", "skills/a/SKILL.md") in told
    assert not [path for _, path in told if path.startswith(("user", "0123"))]
    put(str(bench.root), "user/memory/other.md", "later\n")
    bench.rest(COOLDOWN_MS)
    bench.consolidated()
    assert not (bench.root / "other.md").exists()
    assert (bench.root / "0123456789abcdef/memory/MEMORY.md").exists()


def theirs(bench):
    """Another program keeps its memories, and a baseline of its own, in the home; all that is there."""
    put(str(bench.root), ".git/HEAD", "ref: refs/heads/master\n")
    put(str(bench.root), "MEMORY.md", "theirs")
    os.symlink("/nowhere", bench.root / "link")
    return tree(bench.root)


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


def test_where_another_program_keeps_its_memories_ours_are_beside_the_engine_s_own_files(bench):
    there = theirs(bench)
    (thread,) = remembered(bench)
    assert bench.consolidated().status == "succeeded"
    own = bench.path / "engine/memories"
    assert bench.memories.status().root == str(own)
    assert f"sum {thread}" in next((own / "rollout_summaries").iterdir()).read_text()
    assert tree(bench.root) == there
    shutil.rmtree(bench.root)  # the other program is gone: what was begun there stays there
    bench.reopen()
    assert bench.memories.status().root == str(own)
    bench.rest(COOLDOWN_MS)
    assert bench.consolidated().status == "unchanged"
    receipt = bench.engine.threads.erase(thread, grace_s=None)
    assert next(each.removed for each in receipt.stores if each.store == "memories") == 2
    bench.memories.reset()
    assert os.listdir(own) == []
    assert not (bench.path / "engine/own_memories.json").exists()


def test_a_folder_that_another_program_took_over_is_left_alone_and_the_error_says_what_to_do(bench):
    (thread,) = remembered(bench)
    bench.consolidated()
    shutil.rmtree(bench.root)
    there = theirs(bench)
    bench.reopen()
    bench.rest(COOLDOWN_MS)
    report = bench.consolidated()
    own = bench.path / "engine/memories"
    assert (report.status, f"make the folder {own}" in report.reason) == ("failed", True)
    with pytest.raises(WorkspaceForeign) as refused:
        bench.memories.reset()
    assert f"make the folder {own}" in refused.value.hint
    with pytest.raises(WorkspaceForeign):
        bench.memories.sync_extension("web", "read", [])
    assert tree(bench.root) == there
    own.mkdir()
    bench.reopen()
    bench.rest(HOUR_MS)
    report = bench.consolidated()
    assert (report.status, report.baseline) == ("succeeded", "made")
    assert thread in (own / "raw_memories.md").read_text()
    assert tree(bench.root) == there


def test_with_a_state_folder_elsewhere_memories_are_there(tmp_path):
    bench = Bench(tmp_path / "home")
    there = theirs(bench)
    bench.thread()
    bench.close()
    from tests.writing import opened

    with opened(tmp_path / "home", bench.clock, options=bench.options, state_dir=str(tmp_path / "state")) as e:
        thread = e.threads.list().threads[0].id
        e.memories.put(thread, trace_summary="r", memory_summary="s")
        assert e.memories.run(extracting=False).consolidated.status == "succeeded"
    assert (tmp_path / "state/memories/MEMORY.md").exists()
    assert tree(bench.root) == there


def test_an_erasure_reaches_the_folder_though_its_baseline_was_lost(bench):
    keep, gone = remembered(bench, 2)
    bench.consolidated()
    shutil.rmtree(bench.root / ".git")
    receipt = bench.engine.threads.erase(gone, grace_s=None)
    assert next(each.removed for each in receipt.stores if each.store == "memories") == 2
    assert gone not in bench.file("raw_memories.md")
    assert keep in bench.file("raw_memories.md")
    assert len(os.listdir(bench.root / "rollout_summaries")) == 1


def test_an_erasure_without_the_database_of_jobs_takes_all_else_says_so_and_is_finished_later(bench):
    """It left the folder of memories as it was, and said that all was erased."""
    keep, gone = remembered(bench, 2)
    bench.memories.put(gone, trace_summary="canary-raw", memory_summary="canary-sum")
    bench.consolidated(
        lambda request: (put(request.root, "MEMORY.md", "m"), put(request.root, "memory_summary.md", "v1"))
    )
    failing = bench.thread("x")
    bench.rest()

    def fail(request):
        raise ValueError("canary-error")

    assert bench.extracted(extract=fail, exclude=[keep, gone]).failed == [(failing, "ValueError: canary-error")]
    bench.engine.close()
    jobs = bench.path / "engine/jobs_1.sqlite"
    jobs.rename(bench.path / "engine/away")
    jobs.mkdir()  # no database can be opened there
    bench.reopen()
    assert bench.memories.status().has_jobs is False
    assert bench.memories.get(gone).raw_memory == "canary-raw"
    for thread in (gone, failing):
        with pytest.raises(StoreUnavailable, match="erased but for its row in the database of jobs"):
            bench.engine.threads.erase(thread, grace_s=None)
    assert not [path for path in holding(bench.path, b"canary") if path.name != "away"]
    with pytest.raises(StoreUnavailable):
        bench.run()
    bench.reopen()  # still not
    assert not [path for path in holding(bench.path, b"canary") if path.name != "away"]
    bench.engine.close()
    jobs.rmdir()
    (bench.path / "engine/away").rename(jobs)
    bench.reopen()
    with bench.memories._parts.jobs._database.read() as transaction:
        assert transaction.row("SELECT count(*) FROM jobs WHERE job_key IN (?, ?)", (gone, failing)) == (0,)
    with bench.engine._database.read() as transaction:
        assert unfinished_erasures(transaction) == []
    bench.engine.close()
    assert holding(bench.path, b"canary") == []
    bench.reopen()


def holding(root, word):
    """The files below a folder in which this stands."""
    return [path for path in root.rglob("*") if path.is_file() and word in path.read_bytes()]


def test_f5_a_file_in_the_folder_s_place_fails_and_pauses(bench):
    remembered(bench)
    bench.root.write_text("in its place")
    report = bench.consolidated(lambda _: pytest.fail("asked"))
    assert (report.status, "is a file" in report.reason) == ("failed", True)
    assert bench.consolidated(lambda _: pytest.fail("asked")).status == "backoff"
    assert bench.root.read_text() == "in its place"


def test_s4_extensions_that_are_a_link_are_made_a_folder_and_nothing_is_made_behind_it(bench, tmp_path):
    (tmp_path / "outside").mkdir()
    bench.root.mkdir()
    (bench.root / "extensions").symlink_to(tmp_path / "outside")
    with pytest.raises(WorkspaceForeign):
        bench.memories.add_note("x")
    remembered(bench)
    assert bench.consolidated().links_removed == 1
    assert os.listdir(tmp_path / "outside") == []
    assert not (bench.root / "extensions").is_symlink()
    assert bench.file("extensions/ad_hoc/instructions.md").startswith("# Notes")


def test_f6_a_folder_in_the_place_of_a_file_fails_and_pauses(bench):
    remembered(bench)
    (bench.root / "raw_memories.md/inside").mkdir(parents=True)
    (bench.root / "raw_memories.md/inside/kept").write_text("x")
    report = bench.consolidated(lambda _: pytest.fail("asked"))
    assert report.status == "failed"
    assert bench.consolidated().status == "backoff"
    assert (bench.root / "raw_memories.md/inside/kept").read_text() == "x"


def test_r7_r8_r10_me08_a_reset_forgets_everything_but_threads_and_modes(bench):
    threads = remembered(bench, 2)
    bench.engine.threads.set_memory_mode(threads[0], "disabled")
    bench.rest()
    bench.thread("later")
    bench.rest()
    assert bench.run().extracted.claimed == 1
    bench.memories.record_usage(threads)
    bench.memories.reset()
    assert os.listdir(bench.root) == []
    with bench.memories._parts.jobs._database.read() as transaction:
        assert transaction.row("SELECT count(*) FROM jobs WHERE kind LIKE 'memory%'") == (0,)
    for _ in range(2):
        status = bench.memories.status()
        assert status.coverage.outputs == 0
        assert status.consolidated.threads_max == 0
        assert bench.engine.threads.get(threads[0]).memory_mode == "disabled"
        bench.reopen()
    bench.rest()
    report = bench.run()
    assert report.extracted.succeeded == 2
    assert report.consolidated.status == "succeeded"


def test_k8_a_reset_overtakes_whoever_is_at_work(bench):
    remembered(bench)

    def consolidate(request):
        write_both(request)
        bench.memories.reset()

    report = bench.consolidated(consolidate)
    assert report.status == "lost"
    assert os.listdir(bench.root) == []
    assert bench.memories.status().consolidated.success_generation == 0


# Whoever is overtaken


def overtake(bench):
    """The lease lapses, and somebody else consolidates to the end."""
    bench.clock.advance(HOUR_MS)
    return bench.consolidated()


def test_f10_g4_k5_k7_an_overtaken_consolidator_harms_nothing(bench):
    remembered(bench)
    reports = []

    def late(request):
        reports.append(overtake(bench))
        put(request.root, "MEMORY.md", "late")
        put(request.root, "memory_summary.md", "v1\nlate")

    report = bench.consolidated(late)
    assert reports[0].status == "succeeded"
    assert report.status == "lost"
    assert "late" not in bench.file("MEMORY.md")
    assert pending(bench) == []
    state = bench.memories.status().consolidated
    assert state.success_generation == reports[0].generation


def test_k7_one_that_does_not_end_is_left_behind_and_said(tmp_path):
    bench = Bench(tmp_path / "home", consolidate_timeout_s=0.05)
    remembered(bench)
    done = threading.Event()
    report = bench.consolidated(lambda _: done.wait(30))
    done.set()
    assert report.status == "failed"
    assert "no answer within 0.05 seconds" in report.reason
    assert bench.memories.status().consolidated.reason == report.reason
    bench.close()


def test_g5_g7_g9_me34_me38_the_watermark_is_that_of_the_newest_input_and_never_falls(bench):
    """Nothing is enqueued here, and the watermark decides nothing; it says how new the newest of all consolidated was."""
    old, new = remembered(bench, 2)
    newest_ms = bench.memories.get(new).source_updated_at_ms
    assert bench.memories.get(old).source_updated_at_ms < newest_ms

    def watermark():
        return bench.memories.status().consolidated.success_watermark

    def late(request):
        jobs = bench.memories._parts.global_jobs
        (running,) = jobs.running(CONSOLIDATE)
        wrong = Job(CONSOLIDATE, "global", 0, request.generation, "another token", running.attempts)
        assert not jobs.complete(wrong)
        assert watermark() == 0
        write_both(request)

    assert bench.consolidated(late).status == "succeeded"
    assert watermark() == newest_ms
    bench.memories.mark_polluted(new)
    assert bench.consolidated().selected == 1
    assert watermark() == newest_ms
    bench.memories.mark_polluted(old)
    assert bench.consolidated().selected == 0
    assert watermark() == newest_ms


def test_k6_a_heartbeat_that_fails_once_loses_nothing(tmp_path, monkeypatch):
    bench = Bench(tmp_path / "home", heartbeat_s=0.01)
    remembered(bench)
    beaten = []
    again = threading.Event()
    real = type(bench.memories._parts.global_jobs).heartbeat

    def heartbeat(self, job, progress=""):
        beaten.append(1)
        if len(beaten) == 1:
            raise StoreUnavailable("the disk is slow")
        real(self, job, progress)
        again.set()

    monkeypatch.setattr(type(bench.memories._parts.global_jobs), "heartbeat", heartbeat)

    def consolidate(request):
        assert again.wait(30)
        assert not request.is_lost()
        write_both(request)

    assert bench.consolidated(consolidate).status == "succeeded"
    bench.close()


def test_r9_ready_is_a_summary_that_is_there_and_the_most_threads_that_were_ever_in_it(bench):
    def ready():
        status = bench.memories.status()
        return status.consolidated.threads_max, status.is_ready

    threads = remembered(bench, 2)
    assert ready() == (0, False)
    bench.consolidated()
    assert ready() == (2, True)
    (bench.root / "memory_summary.md").rename(bench.root / "away")
    assert ready() == (2, False)
    (bench.root / "away").rename(bench.root / "memory_summary.md")
    bench.engine.threads.erase(threads[0], grace_s=None)
    assert bench.consolidated().selected == 1
    assert ready() == (2, True)
    bench.memories.reset()
    assert ready() == (0, False)


def test_c11_s3_s9_two_state_folders_have_memories_of_their_own(bench, tmp_path):
    """What two versions of a pipeline are to the Codex CLI: each claims the same thread, neither sees the other's folder."""
    from tests.writing import opened

    thread = bench.thread()
    bench.memories.add_note("of the first alone")
    bench.rest()
    with opened(bench.path, bench.clock, options=bench.options, state_dir=str(tmp_path / "state")) as other:
        second = []

        def consolidate(request):
            second.append(other.memories.run(bench.extract, write_both))
            write_both(request)

        first = bench.run(consolidate=consolidate)
        for report in (first, *second):
            assert (report.extracted.succeeded, report.consolidated.status) == (1, "succeeded")
        assert [each.thread_id for each in bench.asked] == [thread, thread]
        assert other.memories.status().consolidated.selected == bench.memories.status().consolidated.selected
    for root in (bench.root, tmp_path / "state/memories"):
        assert len(os.listdir(root / "rollout_summaries")) == 1
        assert (root / "extensions/ad_hoc/instructions.md").exists()
    assert len(os.listdir(bench.root / "extensions/ad_hoc/notes")) == 1
    assert not (tmp_path / "state/memories/extensions/ad_hoc/notes").exists()


def test_a_lost_lease_is_told_to_the_consolidator(tmp_path):
    bench = Bench(tmp_path / "home", heartbeat_s=0.01)
    remembered(bench)
    seen = []

    def consolidate(request):
        assert not request.is_lost()
        bench.memories._parts.global_jobs.forget(CONSOLIDATE)
        waited = threading.Event()
        for _ in range(3_000):
            if request.is_lost():
                break
            waited.wait(0.01)
        seen.append(request.is_lost())

    assert bench.consolidated(consolidate).status == "lost"
    assert seen == [True]
    bench.close()


def test_a_stopped_owner_that_wakes_between_check_and_take_is_fenced(bench, monkeypatch):
    """It holds the folder's lock while it takes; whoever took over before that made its claim and its baseline newer."""
    remembered(bench)
    real = Consolidating._checked

    def checked(self, job, prepared):
        monkeypatch.setattr(Consolidating, "_checked", real)
        answer = bench.memories._parts.global_jobs.claim(CONSOLIDATE, Wanted("global", 0))
        assert answer.why == "running"
        bench.clock.advance(HOUR_MS)
        bench.memories._parts.global_jobs.claim(CONSOLIDATE, Wanted("global", 0))
        return real(self, job, prepared)

    monkeypatch.setattr(Consolidating, "_checked", checked)
    assert bench.consolidated().status == "lost"
    assert not (bench.root / "MEMORY.md").exists()
    assert isinstance(LeaseLost("x"), Exception)


# A crash at each step (codex_memories.md 3.7)


class Killed(BaseException):
    """The process ends here: nothing that it would still do is done."""


STEPS = {
    "1 claim": ("_prepare", "before"),
    "2 prepare": ("_synced", "before"),
    "5 sync, partly": ("put", "second"),
    "5 sync": ("copied", "before"),
    "7 diff file": ("_call", "before"),
    "8 consolidating": ("consolidator", "half"),
    "8 done": ("_checked", "before"),
    "8 failed, and not said": ("_failed", "before"),
    "plan": ("_carry_out", "before"),
    "taking": ("take", "second"),
    "taken": ("reset", "before"),
    "H6 branch moved": ("_prune", "before"),
    "H6 old objects gone": ("_save_manifest", "before"),
    "H6 baseline": ("_record", "before"),
    "H7 recorded": ("complete", "before"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_after_any_step_leaves_what_the_next_run_understands(bench, monkeypatch, step):
    old = remembered(bench, 2)
    bench.consolidated()
    new = remembered(bench, 2)
    put(str(bench.root), "MEMORY.md", bench.file("MEMORY.md") + "by hand\n")
    before = bench.file("MEMORY.md"), bench.file("memory_summary.md")
    kill_at(bench, monkeypatch, *STEPS[step])
    made = {"8 consolidating": half_then_die, "8 failed, and not said": half_then_fail}.get(step, write_both)
    with pytest.raises(Killed):
        bench.consolidated(made, now=True)
    monkeypatch.undo()
    die(bench)

    decided = step in ("plan", "taking", "taken") or step.startswith("H")
    if not decided:  # the live files are as the person left them, never half of what a consolidator did
        assert (bench.file("MEMORY.md"), bench.file("memory_summary.md")) == before
    calls = []

    def consolidate(request):
        calls.append(request.changes)
        write_both(request)

    report = bench.consolidated(consolidate, now=not decided)
    assert bool(calls) == (not decided)
    if step == "H7 recorded":
        assert report.status == "cooldown"
    else:
        assert report.status == "succeeded"
        assert report.recovered == decided
    if calls:
        assert ("M", "MEMORY.md") in calls[0]  # the edit by hand is told, not swallowed
    assert pending(bench) == []
    selected = [thread for thread, _ in bench.memories.status().consolidated.selected]
    assert selected == sorted(old + new)
    assert all(each[:19] in bench.file("MEMORY.md") for each in os.listdir(bench.root / "rollout_summaries"))
    ended = [each["generation"] for each in bench.outcomes() if each["type"] == "memory_consolidated"]
    assert len(ended) == len(set(ended)) == 2, "one record a generation"
    bench.rest(COOLDOWN_MS)
    assert bench.consolidated(lambda _: pytest.fail("asked")).status == "unchanged"
    assert os.listdir(bench.path / "engine/work") == []


def half_then_die(request):
    put(request.root, "MEMORY.md", "half an edit")
    raise Killed


def half_then_fail(request):
    put(request.root, "MEMORY.md", "half an edit")
    raise ValueError


def kill_at(bench, monkeypatch, name, how):
    if name == "consolidator":
        return
    from engine.memories import inputs, plan
    from engine.stores.baseline import Baseline
    from engine.stores.workspace import Workspace

    jobs = bench.memories._parts.global_jobs
    owners = {"complete": type(jobs), "take": plan, "copied": inputs, "_prune": Baseline}
    owners |= dict.fromkeys(("put", "reset", "_save_manifest"), Workspace)
    owner = owners.get(name, Consolidating)
    real, calls = getattr(owner, name), []

    def killed(self, *arguments, **named):
        calls.append(1)
        if name == "complete" and self is not jobs:
            return real(self, *arguments, **named)
        if how == "second" and len(calls) == 1:
            return real(self, *arguments, **named)
        raise Killed

    monkeypatch.setattr(owner, name, killed)
    monkeypatch.setattr(type(jobs), "release", lambda *_: True)  # a killed process gives nothing back


def die(bench):
    """What the killed process had claimed belongs to no living process."""
    with bench.memories._parts.global_jobs._database.write() as transaction:
        transaction.run("UPDATE jobs SET pid = 0 WHERE status = 'running'")


def test_an_edit_after_the_crash_wins_over_what_was_decided_before_it(bench, monkeypatch):
    remembered(bench)
    bench.consolidated()
    remembered(bench)
    kill_at(bench, monkeypatch, "_carry_out", "before")
    with pytest.raises(Killed):
        bench.consolidated(now=True)
    monkeypatch.undo()
    die(bench)
    put(str(bench.root), "MEMORY.md", "edited after the crash\n")
    report = bench.consolidated()
    assert (report.recovered, report.kept, report.taken) == (True, ["MEMORY.md"], ["memory_summary.md"])
    assert bench.file("MEMORY.md") == "edited after the crash\n"
    assert pending(bench) == [("M", "MEMORY.md")]


def test_l8_l9_me24_me26_me27_what_is_extracted_anew_meanwhile_is_not_selected(bench):
    keep, again = remembered(bench, 2)

    def consolidate(request):
        write_both(request)
        bench.clock.advance(1_000)
        bench.put(again, raw="newer")

    bench.consolidated(consolidate)
    assert [thread for thread, _ in bench.memories.status().consolidated.selected] == [keep]
    assert bench.memories.get(again).selected_source_updated_at_ms is None
    first = bench.memories.get(keep).selected_source_updated_at_ms
    bench.put(keep, raw="newer")
    assert bench.memories.get(keep).selected_source_updated_at_ms == first  # until the next success
    bench.consolidated(now=True)
    assert bench.memories.get(keep).selected_source_updated_at_ms > first
    assert bench.memories.get(again).selected_source_updated_at_ms is not None
