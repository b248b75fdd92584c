"""The folder of memories and its baseline: nothing pending is lost, nothing of others is touched, nothing gone is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import WorkspaceForeign, WorkspaceUnusable
from engine.options import MemoryOptions
from engine.stores.baseline import blob_id
from engine.stores.files import Files
from engine.stores.tree_diff import quoted, render
from engine.stores.workspace import Change, Workspace, changes_between
from engine.testing.clock import ManualClock
from engine.testing.files import FaultyFiles

GIT = shutil.which("git")


class Bench:
    def __init__(self, path, files=None, **options):
        self.root = path / "memories"
        self.path = path
        self.workspace = Workspace(
            str(self.root),
            manifest=str(path / "engine/memories.json"),
            hidden=lambda name: name == "hidden",
            options=MemoryOptions(**options),
            clock=ManualClock(),
            files=files or Files(),
        )

    def write(self, name, data=b"text\n"):
        path = os.fsencode(self.root) + b"/" + (name if isinstance(name, bytes) else os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)

    def ready(self):
        self.workspace.ensure_folder()
        return self.workspace.ensure()

    def changes(self):
        return changes_between(self.workspace.baseline(), self.workspace.look())

    def statuses(self):
        return [(each.status, each.path) for each in self.changes()]

    def settle(self, generation=1):
        """Take all that is there into the baseline."""
        copy = self.path / f"copy{generation}"
        self.workspace.reset(self.workspace.capture(str(copy))[0], generation)
        shutil.rmtree(copy, ignore_errors=True)

    def diff(self, bytes_max=4_194_304):
        copy = self.path / "copy"
        after, _ = self.workspace.capture(str(copy))
        shutil.rmtree(copy, ignore_errors=True)
        changes = changes_between(self.workspace.baseline(), after)
        return render(changes, self.workspace.content, bytes_max=bytes_max).decode()

    def objects(self):
        """The contents of all objects of the repository."""
        import pygit2

        odb = pygit2.Odb(str(self.root / ".git/objects"))
        return [odb.read(oid)[1] for oid in odb]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def git(bench, *arguments):
    command = ["git", "-c", "safe.directory=*", "-C", str(bench.root), *arguments]
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(bench.path)}
    return subprocess.run(command, capture_output=True, check=True, env=environment).stdout.decode("latin-1")


@pytest.mark.skipif(GIT is None, reason="there is no git program to compare with")
def test_w1_w4_a_git_program_finds_one_commit_without_a_parent_and_nothing_to_do(bench):
    bench.ready()
    bench.write("MEMORY.md")
    bench.write("skills/a/run.sh")
    os.chmod(bench.root / "skills/a/run.sh", 0o755)
    bench.write(b"odd \xff name")
    for generation in (1, 2):
        bench.settle(generation)
        assert git(bench, "rev-list", "--all", "--parents").split() == git(bench, "rev-parse", "HEAD").split()
        assert git(bench, "status", "--porcelain") == ""
        assert len(git(bench, "ls-files", "-z").split("\0")) == 4
        git(bench, "fsck", "--strict")


def test_w2_an_empty_repository_folder_and_one_of_ours_without_a_commit_are_mended(bench):
    (bench.root / ".git").mkdir(parents=True)
    assert bench.ready().how == "made"
    assert bench.statuses() == []
    (bench.root / ".git/refs/heads/main").unlink()
    assert bench.ready().how == "rebuilt"
    assert bench.statuses() == []


def test_w3_w5_added_modified_and_deleted_by_path_and_nothing_is_stored_by_looking(bench):
    bench.ready()
    for name in ("b/m", "d", "same"):
        bench.write(name)
    bench.settle()
    before = bench.objects()
    bench.write("b/m", b"other\n")
    bench.write("a", b"new\n")
    (bench.root / "d").unlink()
    assert bench.statuses() == [("A", b"a"), ("M", b"b/m"), ("D", b"d")]
    assert bench.objects() == before
    text = bench.diff()
    assert "- A a\n- M b/m\n- D d\n" in text
    assert "new file mode 100644\n--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+new\n" in text
    assert "--- a/b/m\n+++ b/b/m\n@@ -1 +1 @@\n-text\n+other\n" in text
    assert "deleted file mode 100644\n--- a/d\n+++ /dev/null\n@@ -1 +0,0 @@\n-text\n" in text


def test_w6_a_mode_alone_is_a_change(bench):
    bench.ready()
    bench.write("run.sh")
    bench.settle()
    os.chmod(bench.root / "run.sh", 0o744)
    assert bench.statuses() == [("M", b"run.sh")]
    assert "diff --git a/run.sh b/run.sh\nold mode 100644\nnew mode 100755\n```" in bench.diff()


def test_w7_w9_a_diff_is_cut_at_a_character_and_says_so(bench):
    bench.ready()
    bench.write("a", "ä".encode() * 5_000)
    for bytes_max in range(990, 1000):
        text = bench.diff(bytes_max=bytes_max)
        assert text.startswith("# Memory Workspace Diff\n")
        assert "- A a\n" in text
        assert f"\n[workspace diff truncated at {bytes_max} bytes]\n```\n" in text
        assert "\N{REPLACEMENT CHARACTER}" not in text


def test_no_change_is_said_without_a_diff(bench):
    bench.ready()
    assert bench.diff().endswith("## Status\n- none\n")


def test_what_is_gone_from_the_state_is_gone_from_the_repository(bench):
    bench.ready()
    bench.write("secret", b"canary-of-the-old-state\n")
    bench.settle(1)
    assert any(b"canary" in data for data in bench.objects())
    (bench.root / "secret").unlink()
    bench.settle(2)
    assert not any(b"canary" in data for data in bench.objects())


@pytest.mark.skipif(GIT is None, reason="there is no git program to pack with")
def test_objects_that_somebody_packed_go_as_well(bench):
    bench.ready()
    bench.write("secret", b"canary-of-the-old-state\n")
    bench.write("kept")
    bench.settle(1)
    git(bench, "gc", "-q")
    assert list((bench.root / ".git/objects/pack").glob("*.pack"))
    (bench.root / "secret").unlink()
    bench.settle(2)
    assert not any(b"canary" in data for data in bench.objects())
    assert bench.ready().how == "kept"
    assert bench.statuses() == []


@pytest.mark.parametrize("damage", ["gone", "head", "objects", "one object", "ref", "file cut"])
def test_k2_a_lost_baseline_is_rebuilt_and_what_was_pending_stays_pending(bench, damage):
    bench.ready()
    for name in ("deleted", "modified", "kept"):
        bench.write(name, name.encode() + b" before\n")
    bench.settle(7)
    (bench.root / "deleted").unlink()
    bench.write("modified", b"after\n")
    bench.write("added")
    git_folder = bench.root / ".git"
    if damage == "gone":
        shutil.rmtree(git_folder)
    elif damage == "head":
        (git_folder / "refs/heads/main").write_text("nonsense\n")
    elif damage == "ref":
        (git_folder / "refs/heads/main").write_text("0" * 40 + "\n")
    elif damage == "objects":
        shutil.rmtree(git_folder / "objects")
    else:
        oid = blob_id(b"deleted before\n")
        path = git_folder / "objects" / oid[:2] / oid[2:]
        os.chmod(path, 0o600)
        path.unlink() if damage == "one object" else (git_folder / "refs/heads/main").write_bytes(b"ab")
    ensured = bench.workspace.ensure()
    assert ensured.how == "rebuilt"
    assert bench.statuses() == [("A", b"added"), ("D", b"deleted"), ("M", b"modified")]
    assert bench.workspace.generation == 7
    assert bench.workspace.ensure().how == "kept"
    if damage in ("gone", "objects"):
        assert ensured.lost == 2
        assert "lost with the baseline" in bench.diff()
    if damage in ("head", "ref", "file cut"):
        assert ensured.lost == 0
        assert "-deleted before\n" in bench.diff()


def test_with_the_list_lost_too_everything_is_pending(bench):
    bench.ready()
    bench.write("a")
    bench.settle()
    shutil.rmtree(bench.root / ".git")
    (bench.path / "engine/memories.json").write_text("{")
    assert bench.ready().how == "made"
    assert bench.statuses() == [("A", b"a")]


@pytest.mark.parametrize("kind", ["repository", "worktree", "link"])
def test_a_repository_that_is_not_ours_is_never_touched(bench, kind):
    bench.root.mkdir()
    other = bench.path / "other"
    other.mkdir()
    (other / "HEAD").write_text("ref: refs/heads/main\n")
    if kind == "repository":
        shutil.copytree(other, bench.root / ".git")
    elif kind == "worktree":
        (bench.root / ".git").write_text(f"gitdir: {other}\n")
    else:
        (bench.root / ".git").symlink_to(other)
    (bench.root / "a link").symlink_to(other)
    before = sorted(os.listdir(bench.root)), sorted(os.listdir(other))
    for call in (bench.workspace.ensure_folder, bench.workspace.ensure):
        with pytest.raises(WorkspaceForeign):
            call()
    assert (sorted(os.listdir(bench.root)), sorted(os.listdir(other))) == before


def test_r7_a_folder_that_is_a_link_is_refused_with_its_target_intact(bench):
    target = bench.path / "target"
    target.mkdir()
    (target / "a").write_text("mine")
    bench.root.symlink_to(target)
    with pytest.raises(WorkspaceForeign):
        bench.workspace.ensure_folder()
    assert os.listdir(target) == ["a"]


def test_f5_a_file_in_the_folder_s_place_is_refused(bench):
    bench.root.write_text("x")
    with pytest.raises(WorkspaceUnusable):
        bench.workspace.ensure_folder()


def test_s4_links_are_removed_and_never_followed(bench):
    target = bench.path / "target"
    target.mkdir()
    (target / "a").write_text("mine")
    bench.write("kept")
    (bench.root / "folder").symlink_to(target)
    (bench.root / "dangling").symlink_to("/nowhere")
    (bench.root / "hidden").symlink_to(target)
    assert bench.workspace.ensure_folder() == 2
    bench.workspace.ensure()
    assert bench.statuses() == [("A", b"kept")]
    assert (target / "a").read_text() == "mine"
    assert (bench.root / "hidden").is_symlink()


def test_k30_names_of_any_bytes_and_what_is_no_file(bench):
    bench.ready()
    bench.write(b"\xff\xfe.md")
    bench.write("new\nline")
    bench.write("```")
    os.mkfifo(bench.root / "fifo")
    expected = [("A", b"```"), ("A", b"new\nline"), ("A", b"\xff\xfe.md")]
    assert bench.statuses() == expected
    text = bench.diff()
    assert '- A "\\377\\376.md"\n' in text
    assert '- A "new\\nline"\n' in text
    bench.settle()
    assert bench.ready().how == "kept"
    assert bench.statuses() == []
    shutil.rmtree(bench.root / ".git")
    bench.ready()
    assert bench.statuses() == []


def test_k30_a_file_that_vanishes_while_it_is_looked_at_was_not_there(tmp_path):
    def vanish(_, call):
        if call.op == "workspace.read" and call.name == "open_read" and str(call.path).endswith("/gone"):
            os.unlink(call.path)

    bench = Bench(tmp_path, FaultyFiles(Files(), vanish))
    bench.ready()
    bench.write("gone")
    bench.write("kept")
    assert bench.statuses() == [("A", b"kept")]


def test_a_large_file_is_known_by_its_digest(tmp_path):
    bench = Bench(tmp_path, file_bytes_max=1000)
    bench.ready()
    bench.write("large", b"x" * 1001)
    bench.write("small", b"x" * 1000)
    text = bench.diff()
    assert "A large file of 1001 bytes" in text
    bench.settle()
    assert not any(b"x" * 1001 in data for data in bench.objects())
    assert bench.statuses() == []
    bench.write("large", b"x" * 1000 + b"y")
    assert bench.statuses() == [("M", b"large")]


def test_w10_the_size_counts_nested_files_and_neither_the_baseline_nor_links(bench):
    assert bench.workspace.size() == 0
    bench.ready()
    bench.write("a", b"x" * 5)
    bench.write("b/c/d", b"x" * 7)
    bench.write("b/.git/config", b"x" * 11)
    bench.write("hidden/e", b"x" * 13)
    (bench.root / "b/up").symlink_to(bench.root)
    (bench.root / "link").symlink_to(bench.root / "a")
    bench.settle()
    assert bench.workspace.size() == 12


def test_more_files_than_memories_are_refused(tmp_path):
    bench = Bench(tmp_path, files_max=3)
    bench.ready()
    for number in range(4):
        bench.write(f"{number}")
    with pytest.raises(WorkspaceUnusable):
        bench.workspace.look()


def test_k24_no_content_closes_the_fence(bench):
    bench.ready()
    bench.write("a", b"```\n## Injected\n`````\n")
    text = bench.diff()
    fence = text.splitlines()[-1]
    assert fence == "`" * 6
    assert text.count(fence) == 2


@given(st.binary(max_size=60))
def test_a_quoted_path_is_one_line_and_tells_the_path(path):
    shown = quoted(path)
    assert len(shown.splitlines()) <= 1
    if shown.startswith('"') and path[:1] != b'"':
        unquoted = shown[1:-1].encode().decode("unicode_escape").encode("latin-1")
        escaped_only = all(byte < 0x80 for byte in shown.encode())
        assert not escaped_only or unquoted == path


FENCED = st.text(alphabet=st.sampled_from(list("`~\nab# ")), max_size=60)


@settings(max_examples=60)
@given(FENCED, FENCED)
def test_whatever_the_two_sides_say_the_last_line_alone_closes_the_fence(before, after):
    from engine.stores.baseline import Entry

    contents = {"1" * 40: before.encode(), "2" * 40: after.encode()}
    change = Change("M", b"a", Entry(0o100644, "1" * 40), Entry(0o100644, "2" * 40))
    lines = render([change], lambda entry: contents[entry.oid], bytes_max=10_000).decode().splitlines()
    opening = next(line for line in lines if line.endswith("diff") and line.startswith("`"))
    fence = opening.removesuffix("diff")
    inside = lines[lines.index(opening) + 1 : -1]
    assert lines[-1] == fence
    assert not any(fence in line for line in inside)


def test_two_who_look_at_once_see_the_same(bench):
    bench.ready()
    for number in range(50):
        bench.write(f"d{number % 5}/{number}", str(number).encode())
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(bench.workspace.look())) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert seen[0] == seen[1]
    assert len(seen[0]) == 50
