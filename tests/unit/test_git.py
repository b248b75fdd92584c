"""Where a folder stands in its repository, as git itself made it; no facts where there are none, never an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.stores.git import GitFacts, git_facts

CHECKOUT = Path(__file__).resolve().parents[2]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="the git program is not there")
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}
URL = "https://example.com/a/b.git"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str]:
    """A repository with one commit, and that commit as git tells it."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder, git(folder, "rev-parse", "HEAD")


@needs_git
def test_a_folder_inside_a_repository_has_its_facts(repository: tuple[Path, str]) -> None:
    folder, commit = repository
    git(folder, "remote", "add", "origin", URL)
    (folder / "a/b").mkdir(parents=True)
    assert git_facts(str(folder)) == git_facts(str(folder / "a/b")) == GitFacts(commit, "main", URL)


@needs_git
def test_no_remote_is_no_address_and_origin_comes_before_others(repository: tuple[Path, str]) -> None:
    folder, commit = repository
    assert git_facts(str(folder)) == GitFacts(commit, "main", None)
    git(folder, "remote", "add", "fork", "git@example.com:f.git")
    assert git_facts(str(folder)) == GitFacts(commit, "main", "git@example.com:f.git")
    git(folder, "remote", "add", "origin", URL)
    assert git_facts(str(folder)) == GitFacts(commit, "main", URL)


@needs_git
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@example.com/a.git", "https://example.com/a.git"),
        ("https://ghp_token@example.com/a.git", "https://example.com/a.git"),
        ("ssh://git@example.com/a.git", "ssh://git@example.com/a.git"),
        ("git@example.com:a/b@c.git", "git@example.com:a/b@c.git"),
        ("https://example.com/a@b:c.git", "https://example.com/a@b:c.git"),
        ("/srv/a.git", "/srv/a.git"),
    ],
)
def test_a_secret_in_an_address_is_left_out(repository: tuple[Path, str], url: str, shown: str) -> None:
    folder, commit = repository
    git(folder, "remote", "add", "origin", url)
    assert git_facts(str(folder)) == GitFacts(commit, "main", shown)


@needs_git
def test_a_detached_head_has_a_commit_and_no_branch(repository: tuple[Path, str]) -> None:
    folder, commit = repository
    git(folder, "checkout", "-q", "--detach")
    assert git_facts(str(folder)) == GitFacts(commit, None, None)


@needs_git
def test_an_unborn_branch_has_neither(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "remote", "add", "origin", URL)
    assert git_facts(str(tmp_path)) == GitFacts(None, None, URL)


@needs_git
def test_a_worktree_has_its_own_branch(repository: tuple[Path, str], tmp_path: Path) -> None:
    folder, commit = repository
    git(folder, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    assert git_facts(str(tmp_path / "side")) == GitFacts(commit, "side", None)
    assert git_facts(str(folder)) == GitFacts(commit, "main", None)


@needs_git
def test_a_bare_repository_has_facts(repository: tuple[Path, str], tmp_path: Path) -> None:
    folder, commit = repository
    git(tmp_path, "clone", "-q", "--bare", str(folder), "bare.git")
    assert git_facts(str(tmp_path / "bare.git")) == GitFacts(commit, "main", str(folder))


@needs_git
@pytest.mark.parametrize("branch", ["feature/a-b", "größe", "日本語", "a.b_c@d"])
def test_odd_branches_are_told_whole(repository: tuple[Path, str], branch: str) -> None:
    folder, commit = repository
    git(folder, "checkout", "-q", "-b", branch)
    assert git_facts(str(folder)) == GitFacts(commit, branch, None)


@needs_git
@pytest.mark.parametrize("name", ["with space", "日本語", "new\nline", "quote'\""])
def test_odd_folders_are_found(repository: tuple[Path, str], tmp_path: Path, name: str) -> None:
    folder, commit = repository
    folder.rename(tmp_path / name)
    assert git_facts(str(tmp_path / name)) == GitFacts(commit, "main", None)


@needs_git
def test_a_branch_that_is_not_utf8_hides_itself_alone(repository: tuple[Path, str]) -> None:
    folder, commit = repository
    git(folder, "remote", "add", "origin", URL)
    name = b"odd\xff"
    (folder / ".git/refs/heads").joinpath(os.fsdecode(name)).write_text(commit + "\n", "ascii")
    (folder / ".git/HEAD").write_bytes(b"ref: refs/heads/" + name + b"\n")
    assert git_facts(str(folder)) == GitFacts(commit, None, URL)


@needs_git
@pytest.mark.parametrize("content", [b"", b"garbage", b"ref: refs/heads/" + b"x" * 5000, b"ref: ../../etc/passwd\n"])
def test_a_broken_head_is_no_error(repository: tuple[Path, str], content: bytes) -> None:
    folder, _ = repository
    (folder / ".git/HEAD").write_bytes(content)
    found = git_facts(str(folder))
    assert found is None or found.commit_hash is None


def test_outside_of_a_repository_there_are_no_facts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "file", tmp_path / "bad\udcff"):
        assert git_facts(str(folder)) is None


def test_an_empty_git_folder_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert git_facts(str(tmp_path)) is None


def test_reading_a_home_does_not_import_git() -> None:
    script = "import sys, engine, engine.stores.git, engine.writers; sys.exit('pygit2' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, check=True)
