"""Where a working folder stands in its git repository: commit, branch, and where it came from.

A folder outside of a repository, or one that git cannot read, has no facts; that is never an error.
"""

from __future__ import annotations

from typing import NamedTuple


class GitFacts(NamedTuple):
    """None where git does not say."""

    commit_hash: str | None
    branch: str | None
    repository_url: str | None


def git_facts(folder: str) -> GitFacts | None:
    """The facts of the repository that the folder is in, or None."""
    import pygit2  # noqa: PLC0415 - readers never need it, and it takes long to import

    try:
        where = pygit2.discover_repository(folder)
        if where is None:
            return None
        repository = pygit2.Repository(where)
        if repository.head_is_unborn:
            return GitFacts(None, None, _origin(repository))
        branch = None if repository.head_is_detached else repository.head.shorthand
        return GitFacts(str(repository.head.target), branch, _origin(repository))
    except (pygit2.GitError, KeyError, ValueError, OSError):
        return None


def _origin(repository: object) -> str | None:
    remotes = {remote.name: remote.url for remote in repository.remotes}  # type: ignore[attr-defined]
    return remotes.get("origin") or next(iter(remotes.values()), None)
