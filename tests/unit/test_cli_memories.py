"""`rolloutdb memories`: what it says to people and to programs, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.cli.progress import Bar, Look
from engine.clock import SystemClock
from engine.testing import ManualClock
from tests.remembering import DAY_MS, Bench
from tests.unit.test_cli import Result


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run a command on the home, in this process."""

    def run(*arguments: object) -> Result:
        code = main(["--home", str(tmp_path / "home"), *map(str, arguments)])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def threads(tmp_path: Path) -> list[str]:
    """Two threads of yesterday and one of now, the older first."""
    now_ms = SystemClock().wall_ms()
    bench = Bench(tmp_path / "home", ManualClock(now_ms - DAY_MS))
    found = [bench.thread("please always use tabs\x1b[2J", cwd="/a"), bench.thread("fix it", cwd="/b")]
    bench.clock.advance(DAY_MS)
    found.append(bench.thread("just now"))
    bench.close()
    return found


def test_a_run_extracts_and_consolidates_without_any_model(run: Any, threads: list[str], tmp_path: Path) -> None:
    said = run("memories", "status")
    assert said.code == 0
    assert said.out.splitlines() == [
        "0 of 3 threads are covered; 0 had nothing to remember.",
        "  2 are to be extracted: `rolloutdb memories run`",
        "  1 are not idle for long enough yet",
        "Nothing was consolidated yet.",
    ]
    said = run("memories", "run")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "2 of 2 threads gave a memory, 0 had nothing to remember.",
        f"Consolidated: 2 memories, 4 changes, in {tmp_path}/home/memories.",
        "  taken MEMORY.md",
        "  taken memory_summary.md",
    ]
    said = run("memories", "run")
    assert said.out.splitlines()[1] == "The last consolidation is less than six hours ago; --now does not wait."
    assert run("memories", "run", "--now").out.splitlines()[1] == "Nothing changed, so nothing was consolidated."
    assert "2 of 3 threads are covered" in run("memories", "status").out
    handbook = run("memories", "show", "--file", "MEMORY.md").out
    assert "please always use tabs" in handbook
    assert "\x1b" not in handbook


def test_its_json_documents_have_the_words_of_the_library(run: Any, threads: list[str]) -> None:
    report = run("memories", "run", "--json").document
    assert (report["pruned"], report["extracted"]["succeeded"], report["consolidated"]["status"]) == (0, 2, "succeeded")
    status = run("memories", "status", "--json").document
    assert status["coverage"] == {
        "threads": 3,
        "current": 2,
        "empty": 0,
        "failed": 0,
        "waiting": 1,
        "too_old": 0,
        "pending": 0,
        "excluded": 0,
        "outputs": 2,
    }
    assert (status["failed"], status["is_ready"], status["partial"]) == ([], True, None)
    shown = run("memories", "show", "--json").document["memories"]
    assert sorted(each["thread_id"] for each in shown) == sorted(threads[:2])
    assert [each["cwd"] for each in run("memories", "show", "--cwd", "/b", "--json").document["memories"]] == ["/b"]


def test_one_half_of_a_run_can_be_asked_for(run: Any, threads: list[str]) -> None:
    report = run("memories", "run", "--phase", "extract", "--limit", 1, "--json").document
    assert (report["extracted"]["claimed"], report["consolidated"]) == (1, None)
    report = run("memories", "run", "--phase", "consolidate", "--json").document
    assert (report["extracted"], report["consolidated"]["selected"]) == (None, 1)


def test_usage_is_counted_by_ids_and_by_an_answer_with_citations(run: Any, threads: list[str], tmp_path: Path) -> None:
    run("memories", "run")
    assert run("memories", "usage", threads[0], threads[2]).out == "1 of 2 were counted.\n"
    cited = tmp_path / "answer.txt"
    cited.write_text(f"Yes.<oai-mem-citation><rollout_ids>\n{threads[0]}\n</rollout_ids></oai-mem-citation>")
    counted = run("memories", "usage", "--answer", cited, "--json").document
    assert counted == {"counted": 1, "thread_ids": [threads[0]]}
    memory = run("memories", "show", threads[0], "--json").document
    assert memory["usage_count"] == 2
    assert "used 2 times" in run("memories", "show", threads[0]).out
    assert f"{threads[0]}" in run("memories", "show").out


def test_a_reset_wants_to_be_confirmed_and_empties_the_folder(run: Any, threads: list[str], tmp_path: Path) -> None:
    run("memories", "run")
    refused = run("memories", "reset")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert (tmp_path / "home/memories/MEMORY.md").exists()
    assert run("memories", "reset", "--yes", "--json").document == {"reset": True}
    assert list((tmp_path / "home/memories").iterdir()) == []
    assert run("memories", "show").out == "No memories.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("usage",),
        ("usage", "x", "--answer", "y"),
        ("usage", "--answer", "/nowhere"),
        ("show", "x"),
        ("show", "01990000-0000-7000-8000-0000000000ff"),
        ("show", "--file", "../sessions"),
        ("show", "--file", "nothing.md"),
        ("show", "01990000-0000-7000-8000-0000000000ff", "--file", "MEMORY.md"),
        ("run", "--limit", -1),
        (),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(run: Any, threads: list[str], arguments: tuple[Any, ...]) -> None:
    assert run("memories", *arguments).code == 2


def test_a_failed_thread_is_a_finding_and_its_reason_is_told(
    run: Any, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Any) -> None:
        raise ValueError(f"no {request.cwd}")

    monkeypatch.setattr("engine.memories.offline.extract", fail)
    said = run("memories", "run")
    assert said.code == 1
    assert f"  {threads[0]} failed: ValueError: no /a" in said.out
    assert f"  {threads[0]} failed (try 1): ValueError: no /a" in run("memories", "status").out
    assert run("memories", "run").code == 0  # both pause now


def test_a_consolidation_that_is_refused_is_a_finding(run: Any, threads: list[str], tmp_path: Path) -> None:
    (tmp_path / "home/memories").write_text("in its place")
    said = run("memories", "run")
    assert said.code == 1
    assert f"The folder of memories {tmp_path}/home/memories is a file. Move it away." in said.out


def test_it_says_where_memories_are_where_another_program_has_the_folder(
    run: Any, threads: list[str], tmp_path: Path
) -> None:
    (tmp_path / "home/memories/.git").mkdir(parents=True)
    (tmp_path / "home/memories/.git/HEAD").write_text("ref: refs/heads/x\n")
    said = run("memories", "run")
    assert said.code == 0
    assert f"Consolidated: 2 memories, 4 changes, in {tmp_path}/home/engine/memories." in said.out


def test_without_the_database_of_jobs_a_status_is_told_and_a_run_refused(
    run: Any, threads: list[str], tmp_path: Path
) -> None:
    run("memories", "run")
    for path in (tmp_path / "home/engine").glob("jobs_1*"):
        path.unlink()
    (tmp_path / "home/engine/jobs_1.sqlite").mkdir()
    said = run("memories", "status")
    assert said.code == 0
    assert "2 of 3 threads are covered" in said.out
    assert "The database of jobs cannot be opened" in said.out
    assert threads[0] in run("memories", "show").out
    before = {path: path.read_bytes() for path in (tmp_path / "home/memories").rglob("*") if path.is_file()}
    said = run("memories", "run", "--now")
    assert said.code == 3
    assert "The database of jobs" in said.err
    assert "rolloutdb audit" in said.err
    after = {path: path.read_bytes() for path in (tmp_path / "home/memories").rglob("*") if path.is_file()}
    assert after == before


def test_a_bar_tells_how_far_a_run_is(run: Any, threads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Look]] = []

    class Recording(Bar):
        def show(self, progress: Any) -> None:
            told.append((self._name, self._looks(self._name, progress, None)))

    monkeypatch.setattr("engine.cli.progress.Bar", Recording)
    run("memories", "run")
    assert {name for name, _ in told} == {"indexing", "making memories"}
    extracting = [look for _, look in told if look.what == "making memories (extracting)"]
    assert sorted(look.done for look in extracting) == [1, 2]
    assert {(look.total, look.counts) for look in extracting if look.done == 2} <= {
        (2, f"2/2  {thread}") for thread in threads
    }
    steps = [look.counts for _, look in told if look.what == "making memories (consolidating)"]
    assert steps == ["0/4  prepare", "1/4  sync", "2/4  consolidate", "3/4  take"]
