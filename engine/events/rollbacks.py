"""Where the turns of a history begin, so that a rollback takes away what it took away when it was written.

`Turns` is shown every record once, in order, with its place. A rollback of n drops the last n turns with everything
since the first of them began; the ranges that are dropped, and the places that are left of what was noted, are what
remains of it. Turns begin as the format's reducer has them: by `task_started`, or, where none is open, by what a user
said, which then begins with the model's item of it. Memory is one small entry a turn.

Source: codex_rollout.md 7.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from engine.events.kinds import ITEM_COMPLETED

CONTEXT = "turn_context"
STARTED = "event_msg.task_started"
ROLLED_BACK = "event_msg.thread_rolled_back"

Place = tuple[int, int]
"""The number of a part of a history, and a byte in it."""

SAYS = frozenset(
    {
        "event_msg.user_message",
        f"{ITEM_COMPLETED}.UserMessage",
        "response_item.agent_message",
        "inter_agent_communication",
    }
)
"""What makes a turn a user's (5.4): words that somebody typed, or another agent's; not what the program put there."""

_COMPLETE = "event_msg.task_complete"
_SAID = "event_msg.user_message"
_MESSAGE = "response_item.message"
_MARKS = frozenset({"compacted", "event_msg.context_compacted"})
_SHOWN = frozenset(
    f"event_msg.{tag}"
    for tag in (
        "agent_message agent_reasoning agent_reasoning_raw_content entered_review_mode exited_review_mode patch_apply_end "
        "mcp_tool_call_end web_search_end image_generation_end view_image_tool_call exec_command_end guardian_assessment"
    ).split()
)
"""Events that show something, and so open a turn where none is open."""


class _Turn(Struct):
    start: Place
    id: str | None
    """None for one that no `task_started` began."""
    bare: bool = True
    """Whether there is nothing in it but a mark of a compaction."""
    said: bool = False
    """Whether somebody said something in it, as it takes to be a user's turn."""
    context: Place | None = None
    """Its newest turn_context."""


class Turns:
    """The turns of a history, and what is left of it."""

    READS = frozenset({STARTED, _COMPLETE, ROLLED_BACK, _MESSAGE})
    """The kinds whose payload is looked at."""

    def __init__(self) -> None:
        self.cut: list[tuple[Place, Place]] = []
        """What was rolled back: half open ranges, in order."""
        self._turns: list[_Turn] = []
        self._current: _Turn | None = None
        self._ended: set[str] = set()
        self._said_at: Place | None = None
        """Where the model's item begins of what a user said and no event has told of yet."""
        self._context: Place | None = None
        """A turn_context that came before its turn."""

    @property
    def context(self) -> Place | None:
        """The turn_context of the newest user turn that is left."""
        return next((turn.context for turn in reversed(self._turns) if turn.said and turn.context is not None), None)

    def see(self, place: Place, kind: str, payload: Mapping[str, Any]) -> None:
        """Take in the next record."""
        if kind == STARTED:
            self._open(place, str(payload.get("turn_id")))
        elif kind == _COMPLETE:
            self._close(payload.get("turn_id"))
        elif kind == ROLLED_BACK:
            self._roll_back(place, payload.get("num_turns"))
        elif kind == _MESSAGE and payload.get("role") == "user":
            self._said_at = self._said_at or place
        elif kind == _SAID:
            self._hear(place)
        elif kind == CONTEXT:
            self._note_context(place)
        elif kind in _SHOWN or kind in _MARKS or kind.startswith(ITEM_COMPLETED):
            current = self._current or self._open(place, None)
            current.bare = current.bare and kind in _MARKS
        if kind in SAYS and self._current is not None:
            self._current.said = True

    def is_cut(self, place: Place) -> bool:
        """Whether a place was rolled back."""
        return any(start <= place < end for start, end in self.cut)

    def _open(self, place: Place, turn_id: str | None) -> _Turn:
        self._current = _Turn(place, turn_id, context=self._context)
        self._turns.append(self._current)
        self._said_at = self._context = None
        return self._current

    def _note_context(self, place: Place) -> None:
        if self._current is None:
            self._context = place
        else:
            self._current.context = place

    def _hear(self, place: Place) -> None:
        """A user's words begin a turn, but in one that `task_started` began, and in one that is bare so far."""
        current = self._current
        if current is None or (current.id is None and not current.bare):
            current = self._open(self._said_at or place, None)
        current.bare = False
        self._said_at = None

    def _close(self, turn_id: object) -> None:
        """A turn is complete; the late word of one that is over closes no other."""
        current = self._current
        if current is not None and (current.id == turn_id or turn_id not in self._ended):
            self._ended.add(str(current.id))
            self._current = None
            self._said_at = None

    def _roll_back(self, place: Place, number: object) -> None:
        self._current = self._said_at = self._context = None
        count = number if type(number) is int and number > 0 else 0
        if not count or not self._turns:
            return
        start = self._turns[-min(count, len(self._turns))].start
        del self._turns[-count:]
        self.cut = [each for each in self.cut if each[0] < start]
        self.cut.append((start, place))
