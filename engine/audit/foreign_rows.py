"""One row of the Codex CLI's `threads` beside what its rollout says, and what that program's lists make of the row.

Not every difference is one. Some facts that program keeps in its database alone: the git facts and the memory mode of a
paginated thread, any name. Some columns it fills from elsewhere: the preview of a fork is its parent's, the first words of
a reverted thread may be those that were taken back, a goal may be the preview. Those are left out. What remains must be
equal once the row is as young as the file: it is written right after each record that changes it, and touched every
five seconds by others.

Source: codex_state.md 3.3 to 3.5, codex_rollout.md 4.8 and 7.1; what lists hide was checked with answers of release 0.169.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from engine.audit.foreign_tables import TEXT_CHARS_MAX, GoalRow, Row, Tables
from engine.projections.check import Difference
from engine.projections.projection import Stream
from engine.projections.threads import ThreadState
from engine.stores.files import Files

TOUCH_MS = 10_000
"""That program touches a row every 5 s while its file grows; twice that is neither haste nor chance."""

INTERACTIVE = frozenset({"cli", "vscode", '{"custom":"atlas"}', '{"custom":"chatgpt"}'})
"""The sources that its default list shows."""

_TEXTS = ("title", "preview", "first_user_message")
_PLAIN = ("model_provider", "model", "reasoning_effort", "cli_version", "agent_nickname", "agent_role", "agent_path")
_GIT = ("git_sha", "git_branch", "git_origin_url")


class Hidden(NamedTuple):
    """A reason why a list does not show a row: the filter's word, the row's value, and a sentence."""

    filter: str
    value: str
    message: str


class RowCheck:
    """Compares the rows of one home."""

    def __init__(self, tables: Tables, files: Files) -> None:
        self._tables = tables
        self._files = files

    def differences(self, row: Row, stream: Stream, state: ThreadState, goal: GoalRow | None) -> list[Difference]:
        """The fields that differ, of those that can be compared."""
        pairs = {
            **{name: (getattr(state, name), row[name]) for name in _PLAIN if getattr(state, name) is not None},
            **self._settings(row, state),
            **_texts(row, stream, state, goal),
            **_of_legacy(row, state),
        }
        if not _is_spawned(state.source) or not _is_spawned(
            row["source"]
        ):  # its edge counts, which is looked at by itself
            pairs["source"] = (state.source, row["source"])
        return [
            Difference(name, ours, theirs)
            for name, (ours, theirs) in pairs.items()
            if name in self._tables.columns and (ours or None) != (theirs or None)
        ]

    def _settings(self, row: Row, state: ThreadState) -> dict[str, tuple[Any, Any]]:
        pairs: dict[str, tuple[Any, Any]] = {"tokens_used": (state.tokens_used, row["tokens_used"])}
        if row["history_mode"] is not None:
            pairs["history_mode"] = (state.history_mode, row["history_mode"])
        if state.approval_mode is not None:
            pairs["approval_mode"] = (state.approval_mode, row["approval_mode"])
        if state.cwd and not self._is_same_folder(state.cwd, row["cwd"]):
            pairs["cwd"] = (state.cwd, row["cwd"])
        return pairs

    def _is_same_folder(self, ours: str, theirs: object) -> bool:
        """That program tidies a path up before it stores it, which may resolve links."""
        if not isinstance(theirs, str) or not theirs:
            return False
        if os.path.normpath(ours) == os.path.normpath(theirs):
            return True
        there = self._files.identity(ours, op="foreign.cwd")
        return there is not None and there == self._files.identity(theirs, op="foreign.cwd")


def stale_ms(row: Row, state: ThreadState) -> int:
    """By how much the last record is younger than the row, in milliseconds; 0 or less where it is not."""
    updated_ms = row["updated_at_ms"]
    if not isinstance(updated_ms, int):
        updated_ms = int(row["updated_at"] or 0) * 1000 + 999
    return 0 if state.last_at_ms is None else state.last_at_ms - updated_ms


def explicit_title(row: Row) -> str | None:
    """The name of a legacy thread, which that program writes over its title."""
    title = (row["title"] or "").strip()
    return title if title and title != (row["first_user_message"] or "").strip() else None


def is_legacy(row: Row) -> bool:
    """Whether a row is of a legacy thread: releases before 0.150 know no other."""
    return row["history_mode"] in (None, "legacy")


def is_internal(source: object) -> bool:
    """Whether a source is a sub-agent's or that program's own: those are shown with their parent, or never."""
    return isinstance(source, str) and source.startswith(('{"subagent"', '{"internal"'))


def fault_of(row: Row, tables: Tables) -> str | None:
    """Why that program cannot decode a row, which fails every page of a list that the row is on; None where it can."""
    if row["history_mode"] not in (None, "legacy", "paginated"):
        return f"its history_mode is {row['history_mode']!r}"
    section = row["thread_section_id"]
    if section is not None and tables.sections is not None and section not in tables.sections:
        return f"its section {section} is not there"
    return None


def hidden_by(row: Row, tables: Tables) -> list[Hidden]:
    """The default filters that a row does not pass. Being archived is not among them: that is a list of its own."""
    found: list[Hidden] = []
    source, provider = str(row["source"]), row["model_provider"]
    if source not in INTERACTIVE:
        message = f"its source is {source}, and a list that names no sources shows those of cli and vscode"
        found.append(Hidden("source", source, message))
    if provider and provider != tables.provider:
        how = "which its configuration names" if tables.provider_is_configured else "which most threads here have"
        message = (
            f"its provider is {provider}, and a list that names no provider shows those of {tables.provider}, {how}"
        )
        found.append(Hidden("provider", str(provider), message))
    if row["attached_thread_parent_id"]:
        message = f"it is attached to thread {row['attached_thread_parent_id']} and shown with it"
        found.append(Hidden("attached", str(row["attached_thread_parent_id"]), message))
    if not (row["preview"] if "preview" in tables.columns else row["first_user_message"]) and not row["archived"]:
        found.append(
            Hidden("preview", "", "its preview is empty: no user's words were seen, and lists leave those out")
        )
    return found


def _texts(row: Row, stream: Stream, state: ThreadState, goal: GoalRow | None) -> dict[str, tuple[Any, Any]]:
    if stream.name.own_rollout_id is not None:
        return {}
    pairs = {name: (_cut(getattr(state, name)), row[name]) for name in _TEXTS}
    is_fork = state.forked_from_id is not None or state.base_rollout_id is not None
    is_goal = goal is not None and goal.objective.strip() == row["preview"]
    if (is_fork and row["preview"]) or is_goal:
        del pairs["preview"]
    if is_legacy(row) and explicit_title(row) is not None:
        del pairs["title"]  # a name, which is compared with the other names
    return pairs


def _of_legacy(row: Row, state: ThreadState) -> dict[str, tuple[Any, Any]]:
    """What a legacy thread's rollout says and a paginated one's does not. A git fact of the row may have been set there."""
    if not is_legacy(row) or state.history_mode != "legacy":
        return {}
    git = {name: (getattr(state, name), None) for name in _GIT if row[name] is None}
    return {"memory_mode": (state.memory_mode or "enabled", row["memory_mode"]), **git}


def _is_spawned(source: object) -> bool:
    return isinstance(source, str) and source.startswith('{"subagent":{"thread_spawn"')


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:TEXT_CHARS_MAX]
