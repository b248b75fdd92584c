"""Bundles: the same bytes arrive, what is here is never changed, and nothing of a bad bundle is written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

from engine.bundle import verify_bundle
from engine.cli import main
from engine.errors import (
    BundleUnusable,
    EngineError,
    ImportCutShort,
    InvalidRequest,
    ReadOnlyHome,
    RolloutUnusable,
    SystemRefused,
    TruthGone,
)
from engine.options import Options
from engine.stores.archive_file import reading
from engine.stores.compression import compress
from engine.stores.files import Files
from engine.stores.layout import Home, locate
from engine.stores.lineage import open_rollout
from engine.testing import HomePlan, make_home
from engine.testing.files import Call, FaultyFiles
from tests.removing import DAY_MS, START_MS, fork, opened, rollout_of, tagged, talk
from tests.writing import said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "other"


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(tmp_path / "threads.zip")


def elsewhere(other: Path, **how):
    """Another home, on another day, so that its ids are its own."""
    return opened(other, at_ms=START_MS + DAY_MS, **how)


def rollouts(home: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(home)): path.read_bytes()
        for root in ("sessions", "archived_sessions")
        for path in (home / root).rglob("*")
        if path.is_file()
    }


def rows(e) -> list[tuple[object, ...]]:
    return sorted((row.id, row.title, row.name, row.archived) for row in e.threads.list(limit=0).threads)


def test_every_rollout_arrives_byte_for_byte_with_the_same_rows(home: Path, other: Path, bundle: str) -> None:
    """Both history modes, forks, reverts, damage, archived and compressed ones (which arrive as plain bytes)."""
    home.mkdir()
    make_home(home, HomePlan(threads=25, seed=5, bytes_max=20_000))
    with opened(home) as e, elsewhere(other) as f:
        e.backfill()
        report = e.threads.export(None, bundle)
        plain = {}
        with e._database.read() as transaction:
            for (path,) in list(transaction.rows("SELECT path FROM streams")):
                inside = Home(str(home), None)
                found = locate(inside, path, Files())
                with contextlib.closing(open_rollout(inside, found, Options(), Files())) as source:
                    plain[path.rpartition("/")[2]] = source.read_at(0, 1 << 30)
        done = f.threads.import_bundle(bundle)
        assert {path.rpartition("/")[2]: data for path, data in rollouts(other).items()} == plain
        assert sorted(done.imported) == sorted(thread.id for thread in report.threads)
        assert done.clashes == {}
        assert rows(f) == rows(e)
        assert [each.class_ for each in f.audit().findings if each.severity == "error"] == []


def test_what_was_decided_about_a_thread_comes_along_with_its_time(home: Path, other: Path, bundle: str) -> None:
    with opened(home) as e:
        thread, beside = talk(e, "one"), talk(e, "two")
        e.threads.rename(thread, "my name")
        e.threads.rename(beside, "not exported")
        e.threads.archive(thread)
        before = e.threads.get(thread)
        e.threads.export([thread], bundle)
    with elsewhere(other) as f:
        assert f.threads.import_bundle(bundle).journal_records == 3
        after = f.threads.get(thread)
    assert (after.name, after.archived) == ("my name", True)
    assert (after.archived_at_ms, after.archived_at_ms) == (before.archived_at_ms, START_MS)
    assert {thread_id for _, thread_id in tagged(other)} == {thread}


def test_a_second_import_changes_nothing(home: Path, other: Path, bundle: str) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        e.threads.rename(thread, "my name")
        e.threads.export(None, bundle)
    with elsewhere(other) as f:
        f.threads.import_bundle(bundle)
    before = {path: path.read_bytes() for path in other.rglob("*.jsonl")}
    with elsewhere(other) as f:
        again = f.threads.import_bundle(bundle)
    assert (again.imported, again.unchanged, again.written, again.journal_records) == ([], [thread], [], 0)
    assert {path: path.read_bytes() for path in other.rglob("*.jsonl")} == before


def test_a_dry_run_says_the_same_and_writes_nothing(home: Path, other: Path, bundle: str) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        e.threads.rename(thread, "my name")
        e.threads.export(None, bundle)
    with elsewhere(other) as f:
        planned = f.threads.import_bundle(bundle, dry_run=True)
        assert rollouts(other) == {}
        assert not (other / "engine" / "journal").exists()
        done = f.threads.import_bundle(bundle)
    assert planned.dry_run
    assert (planned.imported, planned.written, planned.bytes) == (done.imported, done.written, done.bytes)
    assert (planned.journal_records, done.journal_records) == (1, 1)


def test_the_same_threads_give_the_same_bytes(home: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    with opened(home) as e:
        one, two = talk(e, "one"), talk(e, "two")
        e.threads.export([one, two], str(first))
    with opened(home, at_ms=START_MS + DAY_MS) as e:
        e.threads.export([two, one, two], str(second))
    assert first.read_bytes() == second.read_bytes()


def test_any_zip_tool_finds_the_rollout_and_its_digest(home: Path, bundle: str) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        e.threads.export([thread], bundle)
    path = rollout_of(home, thread)
    name = str(path.relative_to(home))
    with zipfile.ZipFile(bundle) as packed:
        assert packed.read(name) == path.read_bytes()
        assert {info.date_time for info in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        manifest = json.loads(packed.read("manifest.json"))
    assert (manifest["format"], manifest["version"]) == ("rolloutdb-bundle", 1)
    (member,) = manifest["threads"][0]["rollouts"]
    assert member == {
        "path": name,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_a_fork_takes_the_rollouts_along_that_it_goes_on_from(home: Path, other: Path, bundle: str) -> None:
    with opened(home) as e:
        parent = talk(e, "one")
        e.threads.rename(parent, "the parent's name")
        child = fork(e, parent, "two")
        report = e.threads.export([child], bundle)
        expected = [each.payload for each in e.threads.read(child)]
    assert {each.id: each.is_base for each in report.threads} == {parent: True, child: False}
    with elsewhere(other) as f:
        f.threads.import_bundle(bundle)
        assert [each.payload for each in f.threads.read(child)] == expected
        assert f.threads.get(parent).name is None


def test_a_fork_can_be_exported_alone(home: Path, bundle: str) -> None:
    with opened(home) as e:
        child = fork(e, talk(e, "one"), "two")
        assert [each.id for each in e.threads.export([child], bundle, bases=False).threads] == [child]


def test_a_base_that_is_not_there_is_told(home: Path, bundle: str) -> None:
    with opened(home) as e:
        parent = talk(e, "one")
        child = fork(e, parent, "two")
        rollout_of(home, parent).unlink()
        report = e.threads.export([child], bundle)
    assert (report.missing_bases, [each.id for each in report.threads]) == ([child], [child])


def test_a_thread_that_is_here_with_other_content_is_left_alone_and_the_others_come(
    home: Path, other: Path, bundle: str
) -> None:
    with opened(home) as e:
        one, two = talk(e, "one"), talk(e, "two")
        e.threads.rename(one, "named there")
        e.threads.export(None, bundle)
    with elsewhere(other) as f:
        f.threads.import_bundle(bundle)
    changed = rollout_of(other, one)
    with changed.open("ab") as file:
        file.write(b'{"timestamp":"2026-01-06T00:00:00.000Z","type":"event_msg","payload":{"type":"x"}}\n')
    content = changed.read_bytes()
    rollout_of(other, two).unlink()
    with elsewhere(other) as f:
        done = f.threads.import_bundle(bundle)
    assert (list(done.clashes), done.imported, done.unchanged) == ([one], [two], [])
    assert changed.read_bytes() == content
    assert rollout_of(other, two).read_bytes() == rollout_of(home, two).read_bytes()


def test_a_name_given_here_since_is_not_taken_back(home: Path, other: Path, bundle: str) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        e.threads.rename(thread, "then")
        e.threads.export(None, bundle)
        e.threads.rename(thread, "now")
        assert e.threads.import_bundle(bundle).unchanged == [thread]
        assert e.threads.get(thread).name == "now"


def test_names_given_on_both_sides_are_not_mixed(home: Path, other: Path, bundle: str, tmp_path: Path) -> None:
    """The last record of a journal counts, so one from elsewhere would win though it is older: it stays outside."""
    later = str(tmp_path / "later.zip")
    with opened(home) as e, elsewhere(other) as f:
        thread = talk(e, "one")
        e.threads.rename(thread, "first")
        e.threads.export(None, bundle)
        f.threads.import_bundle(bundle)
        f.threads.rename(thread, "here")
        e.threads.rename(thread, "there")
        e.threads.export(None, later)
        assert f.threads.import_bundle(later).unchanged == [thread]
        assert f.threads.get(thread).name == "here"


def test_a_thread_that_is_here_compressed_and_archived_is_unchanged(home: Path, bundle: str) -> None:
    """The bytes count, and not the form or the folder."""
    with opened(home) as e:
        thread = talk(e, "one")
        e.threads.export(None, bundle)
        e.threads.archive(thread)
        place, path = Home(str(home), f"{home}/engine"), rollout_of(home, thread)
        compress(place, locate(place, str(path.relative_to(home)), Files()), options=Options(), files=Files())
        assert e.threads.import_bundle(bundle).unchanged == [thread]
    assert len(rollouts(home)) == 1


def test_an_import_that_was_cut_short_is_finished_by_the_next(home: Path, other: Path, bundle: str) -> None:
    """A rollout appears whole or not at all, and the names follow."""
    with opened(home) as e:
        ids = [talk(e, "one"), talk(e, "two")]
        for each in ids:
            e.threads.rename(each, "named")
        e.threads.export(None, bundle)
    for op in ("import.write", "import.sync", "import.link", "journal.write"):
        broken = FaultyFiles(Files(), lambda _, call, op=op: errno.EIO if call.op == op else None)
        with elsewhere(other, files=broken) as f, pytest.raises(EngineError):
            f.threads.import_bundle(bundle)
        assert broken.struck != []
        assert set(rollouts(other).items()) <= set(rollouts(home).items()), op
    with elsewhere(other) as f:
        f.threads.import_bundle(bundle)
        assert [row[2] for row in rows(f)] == ["named", "named"]
    assert rollouts(other) == rollouts(home)


@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, -30, -1])
def test_a_cut_bundle_is_refused_and_nothing_is_written(home: Path, other: Path, bundle: str, keep: float) -> None:
    with opened(home) as e:
        talk(e, "one")
        e.threads.export(None, bundle)
    data = Path(bundle).read_bytes()
    Path(bundle).write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with elsewhere(other) as f, pytest.raises(BundleUnusable):
        f.threads.import_bundle(bundle)
    assert rollouts(other) == {}


def test_a_bundle_with_any_byte_changed_is_refused_or_brings_the_very_same(
    home: Path, other: Path, bundle: str
) -> None:
    """A flipped byte in what no reader needs (a stored time) may pass; then everything is what it was."""
    with opened(home) as e:
        talk(e, "one")
        e.threads.export(None, bundle)
    good = Path(bundle).read_bytes()
    report = verify_bundle(bundle)
    refused = 0
    for at in range(0, len(good), 7):
        Path(bundle).write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        try:
            assert verify_bundle(bundle).threads == report.threads
        except BundleUnusable:
            refused += 1
    assert refused > len(good) // 7 * 0.8


def rewritten(bundle: str, change, extra: dict[str, bytes] | None = None) -> None:
    """The bundle with another manifest, and other members."""
    with zipfile.ZipFile(bundle) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    manifest = json.loads(members["manifest.json"])
    change(manifest, members)
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(bundle, "w") as packed:
        for name, data in {**members, **(extra or {})}.items():
            packed.writestr(name, data)


def renamed(to: str):
    def change(manifest, members) -> None:
        rollout = manifest["threads"][0]["rollouts"][0]
        members[to] = members.pop(rollout["path"])
        rollout["path"] = to

    return change


def set_to(**values):
    return lambda manifest, _: manifest["threads"][0].update(values)


def set_rollout(**values):
    return lambda manifest, _: manifest["threads"][0]["rollouts"][0].update(values)


def with_journal(payload: dict[str, str], type_: str = "home_event"):
    def change(manifest, members) -> None:
        line = json.dumps({"timestamp": "2026-01-05T09:00:00.000Z", "type": type_, "payload": payload}).encode() + b"\n"
        thread = manifest["threads"][0]
        thread.update(journal_records=1, journal_bytes=len(line), journal_sha256=hashlib.sha256(line).hexdigest())
        members[f"journal/{thread['id']}.jsonl"] = line

    return change


NAME = "rollout-2026-01-05T09-00-00-01a20458-0000-7000-8000-000000000001.jsonl"
BAD = {
    "a path that leaves the home": renamed("../../../" + NAME),
    "an absolute path": renamed("/etc/" + NAME),
    "a file that is no rollout": renamed("sessions/2026/01/05/authorized_keys"),
    "a root that is none": renamed("engine/" + NAME),
    "a compressed name": renamed(f"sessions/{NAME}.zst"),
    "a size that is too small": set_rollout(bytes=10),
    "a size that is too large": set_rollout(bytes=10**9),
    "a negative size": set_rollout(bytes=-1),
    "another digest": set_rollout(sha256="0" * 64),
    "a missing member": lambda manifest, members: members.pop(manifest["threads"][0]["rollouts"][0]["path"]),
    "an id that is none": set_to(id="../x"),
    "a thread twice": lambda manifest, _: manifest["threads"].append(manifest["threads"][0]),
    "a newer version": lambda manifest, _: manifest.update(version=2),
    "another format": lambda manifest, _: manifest.update(format="x"),
    "a manifest of another shape": lambda manifest, _: manifest.pop("threads"),
    "a decision about another thread": with_journal(
        {"type": "thread_named", "thread_id": "01a20458-0000-7000-8000-0000000000ff"}
    ),
    "a journal record of another type": with_journal({"type": "x", "thread_id": ""}, "session_meta"),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_bundle_that_was_made_to_do_harm_is_refused(
    home: Path, other: Path, bundle: str, tmp_path: Path, change
) -> None:
    with opened(home) as e:
        talk(e, "one")
        e.threads.export(None, bundle)
    rewritten(bundle, change)
    with elsewhere(other) as f:
        before = sorted(path for path in tmp_path.rglob("*") if "engine" not in path.parts)
        with pytest.raises(BundleUnusable):
            f.threads.import_bundle(bundle)
        assert sorted(path for path in tmp_path.rglob("*") if "engine" not in path.parts) == before
        assert not (other / "engine" / "journal").exists()


def test_the_bundles_that_do_harm_are_good_but_for_that(home: Path, other: Path, bundle: str) -> None:
    """A bundle that was only packed anew passes, so the ones above are refused for what was changed."""
    with opened(home) as e:
        thread = talk(e, "one")
        e.threads.export(None, bundle)
    rewritten(bundle, with_journal({"type": "thread_named", "thread_id": thread, "name": "by hand"}))
    with elsewhere(other) as f:
        assert f.threads.import_bundle(bundle).imported == [thread]
        assert f.threads.get(thread).name == "by hand"


def test_a_member_that_the_manifest_does_not_name_is_refused(home: Path, bundle: str) -> None:
    with opened(home) as e:
        talk(e, "one")
        e.threads.export(None, bundle)
    rewritten(bundle, lambda _, __: None, extra={"sessions/2026/01/05/more": b"x"})
    with pytest.raises(BundleUnusable):
        verify_bundle(bundle)


def test_no_more_of_a_member_is_taken_than_it_is_said_to_hold(tmp_path: Path) -> None:
    """A few bytes of a zip can stand for any number of zeros."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(50_000_000))
    taken: list[int] = []
    with reading(str(path), files=Files()) as found, pytest.raises(BundleUnusable):
        taken.extend(len(piece) for piece in found.pieces("zeros", 1_000_000))
    assert sum(taken) <= 1_000_000


def test_a_folder_of_the_bundle_does_not_decide_where_a_rollout_goes(home: Path, other: Path, bundle: str) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
        name = rollout_of(home, thread).name
        e.threads.export(None, bundle)
    rewritten(bundle, renamed(f"sessions/../../../../tmp/{name}"))
    with elsewhere(other) as f:
        f.threads.import_bundle(bundle)
    assert list(rollouts(other)) == [f"sessions/2026/01/05/{name}"]


def test_a_file_that_is_no_bundle_is_refused(home: Path, tmp_path: Path) -> None:
    text, empty = tmp_path / "text", tmp_path / "empty.zip"
    text.write_text("hello")
    with zipfile.ZipFile(empty, "w"):
        pass
    for path in (text, empty):
        with opened(home) as e, pytest.raises(BundleUnusable):
            e.threads.import_bundle(str(path))


def test_a_bundle_that_is_not_there_or_cannot_be_read_is_told(home: Path, tmp_path: Path, bundle: str) -> None:
    with opened(home) as e:
        talk(e, "one")
        e.threads.export(None, bundle)
        with pytest.raises(BundleUnusable, match="No such file"):
            e.threads.import_bundle(f"{tmp_path}/nowhere.zip")
    for op, error in (("bundle.open", errno.EACCES), ("bundle.stat", errno.EIO), ("bundle.read", errno.EIO)):
        broken = FaultyFiles(Files(), lambda _, call, op=op, error=error: error if call.op == op else None)
        with opened(home, files=broken) as e, pytest.raises(BundleUnusable) as caught:
            e.threads.import_bundle(bundle)
        assert caught.value.path == bundle
        assert caught.value.hint


def test_a_name_that_is_taken_is_never_replaced_by_an_export(home: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    with opened(home) as e:
        talk(e, "one")
        with pytest.raises(InvalidRequest):
            e.threads.export(None, str(there))
    assert there.read_text() == "mine"


def test_an_export_that_fails_leaves_no_file(home: Path, bundle: str) -> None:
    with opened(home) as e:
        talk(e, "one")
    broken = FaultyFiles(Files(), lambda _, call: errno.ENOSPC if call.op == "bundle.write" else None)
    with opened(home, files=broken) as e, pytest.raises(SystemRefused, match="No space left") as caught:
        e.threads.export(None, bundle)
    assert "Make room" in caught.value.hint
    assert list(Path(bundle).parent.glob("threads*")) == []


def test_a_medium_without_links_takes_a_bundle_too(home: Path, bundle: str) -> None:
    without_links = FaultyFiles(Files(), lambda _, call: errno.EPERM if call.op == "bundle.link" else None)
    with opened(home, files=without_links) as e:
        thread = talk(e, "one")
        e.threads.export(None, bundle)
    assert [each.id for each in verify_bundle(bundle).threads] == [thread]
    assert [path.name for path in Path(bundle).parent.iterdir() if path.is_file()] == ["threads.zip"]


def test_what_cannot_be_exported_is_refused(home: Path, bundle: str) -> None:
    with opened(home) as e:
        with pytest.raises(InvalidRequest):
            e.threads.export(None, bundle)
        thread = talk(e, "one")
        with pytest.raises(InvalidRequest):
            e.threads.export(None, "not/absolute.zip")
        with pytest.raises(InvalidRequest, match="There is no folder") as caught:
            e.threads.export(None, f"{home}/nowhere/x.zip")
        assert caught.value.hint
        e.threads.list()
        rollout_of(home, thread).unlink()
        with pytest.raises(TruthGone):
            e.threads.export([thread], bundle)
    assert not Path(bundle).exists()


def test_a_thread_that_is_here_already_is_passed_over_whoever_has_it_open(home: Path, bundle: str) -> None:
    """Once a child could not come as long as its base was open, though nothing of the base was to be written."""
    with opened(home) as e:
        parent = talk(e, "one")
        child = fork(e, parent, "two")
        e.threads.export([child], bundle)
        e.threads.erase(child, grace_s=None)
        with e.threads.resume(parent):
            planned, done = e.threads.import_bundle(bundle, dry_run=True), e.threads.import_bundle(bundle)
            assert said(e.threads.read(child)) == ["one", "two"]
    assert (done.imported, done.unchanged, done.busy) == ([child], [parent], {})
    assert (planned.imported, planned.unchanged, planned.busy) == ([child], [parent], {})


def test_a_thread_that_lacks_something_and_is_open_is_told_and_the_others_come(
    home: Path, other: Path, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Waited for is nobody. What a dry run says of it is what the import does."""
    with opened(home) as e:
        one, two = talk(e, "one"), talk(e, "two")
        e.threads.export(None, bundle)
        e.threads.rename(one, "named since")
        later = f"{bundle}.later"
        e.threads.export(None, later)
    with elsewhere(other) as f:
        f.threads.import_bundle(bundle)
    rollout_of(other, two).unlink()
    with elsewhere(other) as f:
        with f.threads.resume(one):
            planned, done = f.threads.import_bundle(later, dry_run=True), f.threads.import_bundle(later)
            assert main(["--home", str(other), "threads", "import", later]) == 1
            assert f"in use: {one} (by process {os.getpid()} on " in capsys.readouterr().out
        assert done.busy == {one: f"process {os.getpid()} on {platform.node()}, to write"}
        assert (done.imported, done.unchanged, done.clashes, done.journal_records) == ([two], [], {}, 0)
        assert planned == msgspec.structs.replace(done, dry_run=True)
        again = f.threads.import_bundle(later)
        assert (again.imported, again.unchanged, again.journal_records) == ([one], [two], 1)


def test_what_came_while_an_import_waited_for_its_turn_is_seen(home: Path, other: Path, bundle: str) -> None:
    """What is missing is looked for again under the lock: somebody else may have brought it, or something else."""
    with opened(home) as e:
        thread = talk(e, "one")
        e.threads.export(None, bundle)

    def importing(_: int, call: Call) -> None:
        if call.op == "lock.take" and not rollouts(other):
            with elsewhere(other, state_dir=f"{other}-rows") as first:
                assert first.threads.import_bundle(bundle).imported == [thread]

    with elsewhere(other, files=FaultyFiles(Files(), importing)) as f:
        done = f.threads.import_bundle(bundle)
    assert (done.imported, done.unchanged, done.written) == ([], [thread], [])


def test_what_came_before_an_import_failed_is_told_and_has_rows(home: Path, other: Path, bundle: str) -> None:
    with opened(home) as e:
        one, two = sorted([talk(e, "one"), talk(e, "two")])
        e.threads.export(None, bundle)
    broken = FaultyFiles(
        Files(), lambda _, call: errno.ENOSPC if call.op == "import.create" and two in str(call.path) else None
    )
    still = Options(scan_interval_ms=3_600_000, background_scan_s=0)
    with elsewhere(other, files=broken, options=still) as f:
        f.threads.list()
        with pytest.raises(ImportCutShort, match=r"when 1 thread\(s\) had come: .* No space left") as caught:
            f.threads.import_bundle(bundle)
        assert (caught.value.imported, type(caught.value.__cause__)) == ([one], RolloutUnusable)
        assert [row.id for row in f.threads.list().threads] == [one]
    with elsewhere(other) as f:
        done = f.threads.import_bundle(bundle)
    assert (done.imported, done.unchanged) == ([two], [one])


def test_a_home_that_cannot_be_written_imports_nothing(home: Path, other: Path, bundle: str) -> None:
    class ReadOnly(Files):
        def writable(self, path: str, *, op: str) -> bool:
            return False

    with opened(home) as e:
        talk(e, "one")
        e.threads.export(None, bundle)
    with elsewhere(other, files=ReadOnly()) as f, pytest.raises(ReadOnlyHome):
        f.threads.import_bundle(bundle)
    assert rollouts(other) == {}


# The command line


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from engine.cli import main; sys.exit(main())", "--home", str(home)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_commands_carry_threads_from_home_to_home(home: Path, other: Path, bundle: str) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
    other.mkdir()
    packed = run(home, "threads", "export", thread, "--to", bundle, "--json")
    assert packed.returncode == 0, packed.stderr
    assert [each["id"] for each in json.loads(packed.stdout)["threads"]] == [thread]
    planned = run(other, "threads", "import", bundle, "--dry-run", "--json")
    assert json.loads(planned.stdout)["imported"] == [thread]
    assert rollouts(other) == {}
    assert run(other, "threads", "import", bundle).returncode == 0
    assert rollouts(other) == rollouts(home)
    with rollout_of(other, thread).open("ab") as file:
        file.write(b"\n")
    clashed = run(other, "threads", "import", bundle, "--json")
    assert (clashed.returncode, list(json.loads(clashed.stdout)["clashes"])) == (1, [thread])


def test_an_export_names_threads_or_all(home: Path, bundle: str) -> None:
    with opened(home) as e:
        thread = talk(e, "one")
    assert run(home, "threads", "export", "--to", bundle).returncode == 2
    assert run(home, "threads", "export", thread, "--all", "--to", bundle).returncode == 2
    assert run(home, "threads", "export", "--all").returncode == 2
    assert run(home, "threads", "import", bundle).returncode == 2
    assert run(home, "threads", "export", "--all", "--to", bundle).returncode == 0
