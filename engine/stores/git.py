"""Where a working folder stands in its git repository: commit, branch, and where it came from.

A folder outside of a repository, or one that git cannot read, has no facts; that is never an error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pygit2.repository import Repository

_SECRET = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/@\s]*:[^/@\s]*@|^(https?://)[^/@\s]*@", re.IGNORECASE)
"""A name with a password, or for HTTP a name alone, which may be a token."""


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
        repository = None if where is None else pygit2.Repository(where)
    except (pygit2.GitError, KeyError, ValueError, OSError):
        return None
    if repository is None:
        return None
    facts: list[str | None] = []
    for ask in (_commit, _branch, _origin):
        try:
            fact = ask(repository)
            (fact or "").encode()  # a name that is no UTF-8 cannot be written into a record
            facts.append(fact)
        except (pygit2.GitError, KeyError, ValueError, OSError):  # one odd name or a broken ref hides that fact alone
            facts.append(None)
    repository.free()
    return GitFacts(*facts)


def _commit(repository: Repository) -> str | None:
    return str(repository.head.target)  # an unborn branch has none, which is an error of git's like any other


def _branch(repository: Repository) -> str | None:
    if repository.head_is_unborn or repository.head_is_detached:
        return None
    return repository.head.shorthand


def _origin(repository: Repository) -> str | None:
    """Where `origin` is fetched from, else the first remote; None without any. A password in it is left out."""
    urls = {remote.name: remote.url for remote in repository.remotes}
    url = urls.get("origin") or next(iter(urls.values()), None)
    return url and _SECRET.sub(r"\1\2", url)
