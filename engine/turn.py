"""A turn being written: what the user said, what the agent said and did, and how it ended.

Used in a `with` block: entering writes that the turn began, leaving that it is complete; an exception makes it aborted and
goes on. A tool call that has no output when the turn ends gets one that says so, so the history stays well-formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from engine.errors import EngineError, InvalidRequest
from engine.events import compose
from engine.events.interrupted import NO_OUTPUT

if TYPE_CHECKING:
    from engine.stores.recorder import Appended
    from engine.thread import Thread

FINAL = "final_answer"


class Turn:
    """One turn of one thread; made by `Thread.turn()`."""

    def __init__(self, thread: Thread, turn_id: str) -> None:
        self._thread = thread
        self._last_message: str | None = None
        self._open_calls: dict[str, tuple[str, Any]] = {}
        self._started_ms = 0
        self.id = turn_id

    def user_message(self, text: str, *, images: Sequence[str] = ()) -> Appended:
        """What the user said; `images` are URLs."""
        return self._write(compose.user_message(*self._place(), self._now(), text, images))

    def agent_message(self, text: str, *, phase: str = FINAL) -> Appended:
        """What the agent said; `phase` is `final_answer` or `commentary`."""
        if phase == FINAL:
            self._last_message = text
        return self._write(compose.agent_message(*self._place(), self._now(), text, phase))

    def reasoning(self, text: str) -> Appended:
        """What the agent thought."""
        return self._write(compose.reasoning(*self._place(), self._now(), text))

    def tool_call(self, name: str, arguments: Any, *, call_id: str) -> Appended:
        """The agent calls a tool. Raises `InvalidRequest` where the turn has an open call of this id."""
        if call_id in self._open_calls:
            raise InvalidRequest(f"The call {call_id!r} is open already.", hint="Give each call an id of its own.")
        answer = self._write([compose.tool_call(name, arguments, call_id)])
        self._open_calls[call_id] = (name, arguments)
        return answer

    def tool_output(self, call_id: str, output: str, *, success: bool = True) -> Appended:
        """What the tool answered. Raises `InvalidRequest` where no call of this id is open."""
        if call_id not in self._open_calls:
            raise InvalidRequest(f"No call {call_id!r} is open in this turn.", hint="Write the tool_call first.")
        answer = self._write(self._output(call_id, output, success=success))
        del self._open_calls[call_id]
        return answer

    def token_usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_input_tokens: int = 0,
        reasoning_output_tokens: int = 0,
    ) -> Appended:
        """What the last request used; the thread's running total is kept here."""
        return self._thread.add_usage(
            {
                "input_tokens": input_tokens,
                "cached_input_tokens": cached_input_tokens,
                "output_tokens": output_tokens,
                "reasoning_output_tokens": reasoning_output_tokens,
                "total_tokens": input_tokens + output_tokens,
            }
        )

    def append(self, items: Sequence[Mapping[str, Any]], *, key: str | None = None) -> Appended:
        """Raw items, as the application has them."""
        return self._thread.append(items, key=key)

    def __enter__(self) -> Self:
        self._started_ms = self._now()
        started = compose.task_started(self.id, self._started_ms, context_window=self._thread.context_window)
        self._thread.begin_turn([started, compose.turn_context(self.id, self._thread.current_settings)])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            end = compose.task_complete(self.id, self._started_ms, self._now(), last_agent_message=self._last_message)
            self._end(end)
            return
        try:
            self._end(compose.turn_aborted(self.id, self._started_ms, self._now(), reason="interrupted"))
        except EngineError as failure:  # what the application raised is what it has to hear of
            error.add_note(f"The turn {self.id} could not be ended in its rollout: {failure}")

    def _end(self, end: compose.Raw) -> None:
        items = [item for call_id in self._open_calls for item in self._output(call_id, NO_OUTPUT, success=False)]
        self._thread.end_turn([*items, end])

    def _place(self) -> tuple[str, str, str, str]:
        return self._thread.history_mode, self._thread.id, self.id, self._thread.new_id()

    def _output(self, call_id: str, output: str, *, success: bool) -> list[compose.Raw]:
        name, arguments = self._open_calls[call_id]
        mode, thread_id, turn_id, _ = self._place()
        return compose.tool_output(
            mode, thread_id, turn_id, self._now(), name, arguments, call_id, output, success=success
        )

    def _now(self) -> int:
        return self._thread.now_ms()

    def _write(self, items: Sequence[Mapping[str, Any]]) -> Appended:
        return self._thread.append(items)
