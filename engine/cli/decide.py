"""What the commands that change threads do. Each answers with the thread as it is now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.cli import DONE, output
from engine.cli.asked import Asked, text
from engine.cli.commands import Answer
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.console import Console

    from engine.runtime import Engine


def rename(asked: Asked, thread_id: str, name: str | None, *, clear: bool) -> Answer:
    """Give a thread a name, or take it away."""
    if clear == (name is not None):
        raise InvalidRequest("A thread gets a name, or loses it.", hint="Give a NAME, or --clear.")
    wanted = None if name is None else text(name, "The name")
    if wanted is not None and not wanted.strip():
        raise InvalidRequest("The name is empty.", hint="Give a name, or --clear to take it away.")
    said = "has no name now" if wanted is None else f"is named {output.plain(wanted.strip())!r}"
    return _changed(asked, thread_id, said, lambda engine, id_: engine.threads.rename(id_, wanted))


def archive(asked: Asked, thread_id: str) -> Answer:
    """Move a thread into the archive."""
    return _changed(asked, thread_id, "is archived", lambda engine, id_: engine.threads.archive(id_))


def unarchive(asked: Asked, thread_id: str) -> Answer:
    """Bring a thread back."""
    return _changed(asked, thread_id, "is active", lambda engine, id_: engine.threads.unarchive(id_))


def dismiss(asked: Asked, thread_id: str) -> Answer:
    """Stop showing a thread whose rollout is gone."""
    return _changed(asked, thread_id, "is not shown any more", lambda engine, id_: engine.threads.dismiss(id_))


def fork(asked: Asked, thread_id: str, *, through_turn: str | None, before_turn: str | None) -> Answer:
    """A new thread that goes on from this one."""
    through = None if through_turn is None else text(through_turn, "--through")
    before = None if before_turn is None else text(before_turn, "--before")
    with asked.open() as engine:
        parent = text(thread_id, "The id").lower()
        with engine.threads.fork(parent, through_turn=through, before_turn=before) as child:
            child_id = child.id
        row = engine.threads.get(child_id)
    return Answer(row, DONE, _says(f"{child_id} goes on from {parent}"))


def _changed(asked: Asked, thread_id: str, said: str, change: Callable[[Engine, str], None]) -> Answer:
    with asked.open() as engine:
        known = text(thread_id, "The id")
        change(engine, known)
        row = engine.threads.get(known)
    return Answer(row, DONE, _says(f"{known.lower()} {said}"))


def _says(sentence: str) -> Callable[[Console], None]:
    return lambda console: console.print(f"{sentence}.", markup=False, highlight=False, soft_wrap=True)
