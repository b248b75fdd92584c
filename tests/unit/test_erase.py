"""Erasing: gone from every store, with a receipt; never from under a thread that reads it; never half."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import (
    InvalidRequest,
    ReadOnlyHome,
    RolloutUnusable,
    StoreBusy,
    ThreadBusy,
    ThreadHasReaders,
    ThreadNotFound,
)
from engine.options import Options
from engine.receipts import FileReach, Reader
from engine.stores.files import Files
from engine.stores.fill import fill_lines
from engine.testing.files import Call, FaultyFiles
from tests.removing import (
    CANARY,
    DAY_MS,
    START_MS,
    fork,
    holding,
    opened,
    rollout_of,
    tagged,
    talk,
    with_canary_everywhere,
)

NOBODY = "01a20458-0000-7000-8000-00000000dead"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def ids(e) -> list[str]:
    return sorted(row.id for row in e.threads.list(limit=0).threads)


def test_no_byte_of_an_erased_thread_is_left_in_any_file(home: Path) -> None:
    """Prompt, name in the journal, name of the Codex CLI, quarantine, a database set aside, a leftover; also in free pages."""
    thread, other = with_canary_everywhere(home)
    assert len(holding(home)) >= 7
    with opened(home) as e:
        e.threads.list()
        e.threads.erase(thread, grace_s=None)
        assert holding(home) == []
        assert ids(e) == [other]
        assert e.audit().findings == []
    assert holding(home) == []


def test_what_belongs_to_others_stays_as_it_was(home: Path) -> None:
    thread, other = with_canary_everywhere(home)
    before = rollout_of(home, other).read_bytes()
    with opened(home) as e:
        e.threads.erase(thread, grace_s=None)
        assert [(row.id, row.name) for row in e.threads.list().threads] == [(other, "other name")]
    assert rollout_of(home, other).read_bytes() == before
    assert json.loads((home / "session_index.jsonl").read_bytes().split(b"\n")[0])["thread_name"] == "kept"
    assert (home / "engine/quarantine/journal-000000000000.jsonl.900.y.tail").is_file()


def test_the_journal_and_the_session_index_keep_their_length_and_their_other_lines(home: Path) -> None:
    """Offsets hold, and whoever appends meanwhile loses nothing: lines are filled over where they stand."""
    thread, other = with_canary_everywhere(home)
    index = home / "session_index.jsonl"
    size = index.stat().st_size
    with opened(home) as e:
        e.threads.erase(thread, grace_s=None)
    assert index.stat().st_size == size
    assert index.read_bytes().split(b"\n")[1].strip() == b""
    assert tagged(home) == [
        ("thread_named", other),
        ("erased", None),
        ("erase_begun", thread),
        ("thread_erased", thread),
    ]


def test_every_row_can_be_made_again_and_the_erased_thread_does_not_come_back(home: Path) -> None:
    thread, other = with_canary_everywhere(home)
    with opened(home) as e:
        e.threads.erase(thread, grace_s=None)
    for path in (home / "engine").glob("*.sqlite*"):
        path.unlink()
    with opened(home) as e:
        e.backfill()
        assert [(row.id, row.name) for row in e.threads.list().threads] == [(other, "other name")]


def test_the_receipt_tells_what_was_taken_from_each_store(home: Path) -> None:
    thread, _ = with_canary_everywhere(home)
    size = rollout_of(home, thread).stat().st_size
    with opened(home) as e:
        receipt = e.threads.erase(thread, grace_s=None)
    assert receipt.thread_ids == [thread]
    assert receipt.due_at_ms is None
    removed = {each.store: (each.removed, each.bytes) for each in receipt.stores}
    assert removed["rollouts"] == (1, size)
    assert removed["journal"][0] == 1
    assert removed["session_index.jsonl"][0] == 1
    assert removed["quarantine"][0] == 3
    assert [removed[f"state, {table}"][0] for table in ("threads", "streams", "watermarks")] == [1, 1, 1]


def test_a_preview_tells_the_reach_and_changes_nothing(home: Path) -> None:
    thread, _ = with_canary_everywhere(home)
    path = rollout_of(home, thread)
    with opened(home) as e:
        e.threads.list()
        before = {each: each.read_bytes() for each in home.rglob("*.jsonl")}
        reach = e.threads.preview_erase(thread)
        assert {each: each.read_bytes() for each in home.rglob("*.jsonl")} == before
    assert reach.thread_ids == [thread]
    assert reach.rollouts == [FileReach(str(path.relative_to(home)), path.stat().st_size)]
    assert (reach.journal_records, reach.session_index_lines) == (1, 1)
    none = dict.fromkeys(("set_aside", "goals", "divergences", "failures"), 0)
    assert reach.rows == {"threads": 1, "streams": 1, "watermarks": 1, **none}
    assert [each.path for each in reach.quarantine] == [
        "quarantine/1767603600000-0/state_1.sqlite",
        "quarantine/journal-000000000000.jsonl.700.x.tail",
        f"quarantine/{path.name}.120.1767603600000.tail",
    ]
    assert (reach.trash, reach.readers, reach.spawned) == ([], [], [])


def test_with_a_grace_time_the_rollout_waits_in_the_trash_under_its_own_path(home: Path) -> None:
    thread, _ = with_canary_everywhere(home)
    path = rollout_of(home, thread)
    content, relative = path.read_bytes(), path.relative_to(home)
    with opened(home) as e:
        receipt = e.threads.erase(thread, grace_s=3 * 86_400)
        assert len(ids(e)) == 1
    assert receipt.due_at_ms == START_MS + 3 * DAY_MS
    folder = home / "engine" / "trash" / f"{START_MS + 3 * DAY_MS}-{thread}"
    assert (folder / relative).read_bytes() == content
    assert json.loads((folder / "journal.jsonl").read_bytes())["payload"]["name"] == f"{CANARY} name"
    assert {each.partition("/")[0] + "/" + each.split("/")[1] for each in holding(home)} == {"engine/trash"}


def test_the_trash_is_emptied_by_a_start_when_it_is_due_and_not_before(home: Path) -> None:
    thread, other = with_canary_everywhere(home)
    with opened(home) as e:
        e.threads.erase(thread, grace_s=3 * 86_400)
    with opened(home, at_ms=START_MS + 3 * DAY_MS - 1) as e:
        assert holding(home) != []
    with opened(home, at_ms=START_MS + 3 * DAY_MS) as e:
        assert ids(e) == [other]
    assert holding(home) == []
    assert list((home / "engine" / "trash").iterdir()) == []


def test_what_the_journal_said_is_kept_whole_though_half_of_it_is_filled_over(home: Path) -> None:
    """The copy in the trash is made once: when the work goes on, the journal does not say all of it any more."""
    with opened(home) as e:
        thread = talk(e, "one")
        e.threads.rename(thread, "first name")
        e.threads.rename(thread, "second name")
    writes = []

    def second_write(_: int, call: Call) -> int | None:
        writes.extend([call] if call.op == "fill.write" else [])
        return errno.EIO if call.op == "fill.write" and len(writes) == 2 else None

    with opened(home, files=FaultyFiles(Files(), second_write)) as e, pytest.raises(RolloutUnusable):
        e.threads.erase(thread, grace_s=60)
    with opened(home):
        pass
    (kept,) = (home / "engine" / "trash").rglob("journal.jsonl")
    names = [json.loads(line)["payload"]["name"] for line in kept.read_bytes().splitlines()]
    assert names == ["first name", "second name"]
    assert tagged(home)[-1] == ("thread_erased", thread)


def test_what_waits_in_the_trash_can_be_moved_back(home: Path) -> None:
    thread, _ = with_canary_everywhere(home)
    relative = rollout_of(home, thread).relative_to(home)
    with opened(home) as e:
        e.threads.erase(thread, grace_s=60)
        (folder,) = (home / "engine" / "trash").iterdir()
        shutil.move(folder / relative, home / relative)
    with opened(home) as e:
        assert thread in ids(e)
        assert e.threads.fetch(thread).differences == []


def test_a_thread_erased_again_without_grace_leaves_the_trash_too(home: Path) -> None:
    thread, _ = with_canary_everywhere(home)
    path = rollout_of(home, thread)
    content = path.read_bytes()
    with opened(home) as e:
        e.threads.erase(thread, grace_s=60)
        path.write_bytes(content)
        e.backfill()
        e.threads.erase(thread, grace_s=None)
    assert holding(home) == []


def test_a_thread_that_others_go_on_from_is_not_erased_and_they_are_named(home: Path) -> None:
    with opened(home) as e:
        parent = talk(e, "one", "two")
        child = fork(e, parent, "three")
        grandchild = fork(e, child, "four")
        before = {path: path.read_bytes() for path in home.rglob("rollout-*")}
        assert e.threads.preview_erase(parent).readers == [
            Reader(each, base) for each, base in sorted([(child, parent), (grandchild, child)])
        ]
        with pytest.raises(ThreadHasReaders) as caught:
            e.threads.erase(parent, grace_s=None)
        assert caught.value.readers == sorted([child, grandchild])
        assert child in caught.value.message
        assert {path: path.read_bytes() for path in home.rglob("rollout-*")} == before
        assert ids(e) == sorted([parent, child, grandchild])


def test_children_go_along_where_that_is_asked_for(home: Path) -> None:
    with opened(home) as e:
        other = talk(e, "other")
        parent = talk(e, "one")
        child = fork(e, parent, "two")
        grandchild = fork(e, child, "three")
        receipt = e.threads.erase(parent, include_children=True, grace_s=None)
        assert sorted(receipt.thread_ids) == sorted([parent, child, grandchild])
        assert ids(e) == [other]
        assert len(list(home.rglob("rollout-*.jsonl"))) == 1
        assert e.audit().findings == []


def test_a_child_can_be_erased_and_its_parent_stays(home: Path) -> None:
    with opened(home) as e:
        parent = talk(e, "one")
        child = fork(e, parent, "two")
        e.threads.erase(child, grace_s=None)
        assert ids(e) == [parent]


def test_a_fork_that_is_not_indexed_yet_counts_too(home: Path) -> None:
    """Who reads a thread is not taken from rows that are behind."""
    with opened(home, options=Options(scan_interval_ms=3_600_000)) as e:
        parent = talk(e, "one")
        e.threads.list()
        with opened(home, at_ms=START_MS + DAY_MS) as elsewhere:
            child = fork(elsewhere, parent, "two")
        with pytest.raises(ThreadHasReaders) as caught:
            e.threads.erase(parent, grace_s=None)
        assert caught.value.readers == [child]


def test_a_fork_that_is_made_while_the_lock_is_taken_counts_too(home: Path, tmp_path: Path) -> None:
    """A fork needs no lock of its parent, so it is looked for once more when the lock is held, in the files."""
    children = []
    with opened(home) as e:
        parent = talk(e, "one")

    def forking(_: int, call: Call) -> None:
        if call.op == "lock.take" and not children:
            with opened(home, at_ms=START_MS + DAY_MS, state_dir=str(tmp_path / "rows")) as elsewhere:
                children.append(fork(elsewhere, parent, "two"))

    with opened(home, files=FaultyFiles(Files(), forking)) as e:
        with pytest.raises(ThreadHasReaders) as caught:
            e.threads.erase(parent, grace_s=None)
        assert caught.value.readers == children
        assert ids(e) == sorted([parent, *children])


def test_a_half_blanked_name_is_blanked_to_its_end(home: Path) -> None:
    """A power cut in the middle of the blanking takes the id away before the name."""
    thread, _ = with_canary_everywhere(home)
    broken = FaultyFiles(Files(), lambda _, call: errno.EIO if call.op == "fill.write" else None)
    with opened(home, files=broken) as e, pytest.raises(RolloutUnusable):
        e.threads.erase(thread, grace_s=None)
    index = home / "session_index.jsonl"
    first, second, _ = index.read_bytes().split(b"\n")
    index.write_bytes(first + b"\n" + b" " * 60 + second[60:] + b"\n")
    assert "session_index.jsonl" in holding(home)
    with opened(home):
        pass
    assert holding(home) == []


def test_a_sub_agent_that_reads_nothing_of_it_stays(home: Path) -> None:
    with opened(home) as e:
        parent = talk(e, "one")
        spawn = {"subagent": {"thread_spawn": {"parent_thread_id": parent, "depth": 1}}}
        agent = talk(e, "two", source=spawn)
        assert e.threads.preview_erase(parent).spawned == [agent]
        e.threads.erase(parent, grace_s=None)
        assert ids(e) == [agent]


def test_a_thread_in_use_is_not_erased(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        with e.threads.resume(thread), pytest.raises(ThreadBusy):
            e.threads.erase(thread, grace_s=None)
        assert ids(e) == [thread]
        assert "erase_begun" not in str(tagged(home) if (home / "engine/journal").is_dir() else [])
        e.threads.erase(thread, grace_s=None)
        assert ids(e) == []


def test_a_thread_that_the_codex_cli_is_writing_is_not_erased(home: Path) -> None:
    """That program's own lock counts too, where a home has such."""
    with opened(home) as e:
        thread = talk(e, "one")
        locks = home / "thread-writer-locks"
        locks.mkdir()
        with (locks / f"{thread}.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(ThreadBusy):
                e.threads.erase(thread, grace_s=None)
            with pytest.raises(ThreadBusy):
                e.threads.redact(thread, ordinal=1)
        assert ids(e) == [thread]


def test_a_child_in_use_keeps_its_parent(home: Path) -> None:
    with opened(home) as e:
        parent = talk(e, "one")
        child = fork(e, parent, "two")
        with e.threads.resume(child), pytest.raises(ThreadBusy):
            e.threads.erase(parent, include_children=True, grace_s=None)
        assert ids(e) == sorted([parent, child])


def test_a_compressed_and_an_archived_thread_are_erased_in_every_form(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, CANARY)
        e.threads.archive(thread)
        path = rollout_of(home, thread)
        # Both forms at once are what a crash of a compression leaves.
        Path(f"{path}.zst").write_bytes(b"not really " + CANARY.encode())
        receipt = e.threads.erase(thread, grace_s=None)
        assert receipt.stores[0].bytes > path.name.__len__()
    assert holding(home) == []
    assert list(home.rglob("rollout-*")) == []


def test_a_thread_whose_file_is_gone_can_be_erased(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, CANARY)
        e.threads.list()
    rollout_of(home, thread).unlink()
    with opened(home) as e:
        assert e.threads.get(thread).missing
        e.threads.erase(thread, grace_s=None)
        assert ids(e) == []
    assert holding(home) == []


def test_a_file_whose_name_claims_another_thread_is_erased_with_its_own(home: Path) -> None:
    """A thread's id is in its file; a copy under a foreign name belongs to the thread that it says."""
    with opened(home) as e:
        thread, other = talk(e, CANARY), talk(e, "other")
        path = rollout_of(home, thread)
        path.rename(path.with_name(path.name.replace(thread, NOBODY)))
        e.backfill()
        assert ids(e) == sorted([thread, other])
        with pytest.raises(ThreadNotFound):
            e.threads.erase(NOBODY, grace_s=None)
        e.threads.erase(thread, grace_s=None)
        assert ids(e) == [other]
    assert holding(home) == []


def test_a_state_folder_elsewhere_takes_the_trash_also_across_file_systems(tmp_path: Path) -> None:
    """Where the move crosses a file system it is a copy; the bytes arrive and the home has them no more."""
    home, state = tmp_path / "home", tmp_path / "state"
    with opened(home, state_dir=str(state)) as e:
        thread = talk(e, CANARY)
    content = rollout_of(home, thread).read_bytes()
    crossing = FaultyFiles(Files(), lambda _, call: errno.EXDEV if call.op == "trash.move" else None)
    with opened(home, state_dir=str(state), files=crossing) as e:
        e.threads.erase(thread, grace_s=60)
    assert crossing.struck != []
    (kept,) = (state / "trash").rglob("rollout-*")
    assert kept.read_bytes() == content
    assert list(home.rglob("rollout-*")) == []


def test_a_step_that_fails_is_told_and_finished_by_the_next_start(home: Path) -> None:
    thread, other = with_canary_everywhere(home)
    broken = FaultyFiles(Files(), lambda _, call: errno.EIO if call.op == "fill.write" else None)
    with opened(home, files=broken) as e, pytest.raises(RolloutUnusable):
        e.threads.erase(thread, grace_s=None)
    assert holding(home) != []
    with opened(home) as e:
        assert ids(e) == [other]
        assert holding(home) == []


def test_a_database_that_is_being_read_elsewhere_leaves_the_erasure_to_the_next_start(home: Path) -> None:
    """The rows' old pages are in the -wal as long as somebody reads them, so the erasure does not claim to be done."""
    thread, other = with_canary_everywhere(home)
    with opened(home) as reader, opened(home, options=Options(busy_wait_ms=50)) as e:
        e.threads.list()
        with reader._database.read() as transaction:
            assert transaction.row("SELECT count(*) FROM threads") is not None
            with pytest.raises(StoreBusy):
                e.threads.erase(thread, grace_s=None)
        assert tagged(home)[-1] == ("erase_begun", thread)
    with opened(home) as e:
        assert ids(e) == [other]
        assert tagged(home)[-1] == ("thread_erased", thread)
    assert holding(home) == []


def test_a_half_filled_line_of_the_journal_is_filled_to_its_end(home: Path) -> None:
    """A power cut in the middle of the filling leaves the old end of the line; the next start knows it by the new beginning."""
    thread, _ = with_canary_everywhere(home)
    (segment,) = (home / "engine" / "journal").iterdir()
    broken = FaultyFiles(Files(), lambda _, call: errno.EIO if call.op == "fill.write" else None)
    with opened(home, files=broken) as e, pytest.raises(RolloutUnusable):
        e.threads.erase(thread, grace_s=None)
    lines = segment.read_bytes().split(b"\n")
    at = next(number for number, line in enumerate(lines) if CANARY.encode() in line)
    head = lines[at][: lines[at].index(b'"payload":')] + b'"payload":{"type":"erased","redacted":true,"filler":"'
    lines[at] = (
        head + b"x" * (lines[at].index(CANARY.encode()) - len(head)) + lines[at][lines[at].index(CANARY.encode()) :]
    )
    segment.write_bytes(b"\n".join(lines))
    with opened(home):
        pass
    assert holding(home) == []
    assert ("erased", None) in tagged(home)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [("not-an-id", InvalidRequest), (NOBODY, ThreadNotFound)],
)
def test_what_is_no_thread_is_refused(home: Path, wrong: str, error: type[Exception]) -> None:
    with opened(home) as e:
        talk(e, "one")
        for call in (e.threads.erase, e.threads.preview_erase):
            with pytest.raises(error):
                call(wrong)


def test_a_grace_time_below_zero_is_refused(home: Path) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        with pytest.raises(InvalidRequest):
            e.threads.erase(thread, grace_s=-1)
        assert ids(e) == [thread]


def test_a_home_that_cannot_be_written_is_not_erased_from(home: Path) -> None:
    class ReadOnly(Files):
        def writable(self, path: str, *, op: str) -> bool:
            return False

    with opened(home) as e:
        thread = talk(e, "one")
    with opened(home, files=ReadOnly()) as e, pytest.raises(ReadOnlyHome):
        e.threads.erase(thread, grace_s=None)
    assert rollout_of(home, thread).is_file()


def test_lines_are_filled_over_only_where_another_is_given(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n\nthree")
    found = fill_lines(
        str(path), lambda line: b"-" * len(line) if b"t" in line else None, options=Options(), files=Files()
    )
    assert found == (2, 8)
    assert path.read_bytes() == b"one\n---\n\n-----"


# The command line


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from engine.cli import main; sys.exit(main())", "--home", str(home)]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def test_the_command_erases_only_when_it_is_told_to(home: Path) -> None:
    """Without a terminal nobody can be asked: exit 2, a hint, and nothing changed."""
    thread, other = with_canary_everywhere(home)
    asked = run(home, "threads", "erase", thread, "--grace", "0")
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    shown = run(home, "threads", "erase", thread, "--dry-run", "--json")
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["thread_ids"] == [thread]
    assert rollout_of(home, thread).is_file()
    done = run(home, "threads", "erase", thread, "--grace", "0", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["thread_ids"] == [thread]
    assert holding(home) == []
    assert [row["id"] for row in json.loads(run(home, "threads", "list", "--json").stdout)["threads"]] == [other]


def test_the_command_names_the_threads_that_are_in_the_way(home: Path) -> None:
    with opened(home) as e:
        parent = talk(e, "one")
        child = fork(e, parent, "two")
    refused = run(home, "threads", "erase", parent, "--yes", "--json")
    assert refused.returncode == 3
    assert child in json.loads(refused.stdout)["error"]["message"]
    assert run(home, "threads", "erase", parent, "--yes", "--include-children").returncode == 0
    assert list((home / "sessions").rglob("rollout-*")) == []
