"""Calling what the application gave us: a function or a coroutine function, with a bound on how long it may take.

A coroutine runs in one event loop for the whole run, so that its clients can be shared; a function runs in a thread of its
own. One that does not come back in time is left behind: its answer is no answer any more.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from engine.errors import AnswerUnusable

_Request = TypeVar("_Request")


class Calls:
    """Calls one function of the application's. Use it in a `with` block; safe to call from many threads."""

    def __init__(self, function: Callable[[_Request], Any], *, timeout_s: float) -> None:
        self._function: Callable[[Any], Any] = function
        self._timeout_s = timeout_s
        self._mutex = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, request: Any) -> Any:
        """What it answers. Raises what it raises, and `AnswerUnusable` where it takes too long."""
        answer: list[Any] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                found = self._function(request)
                answer.append(self._awaited(found) if inspect.isawaitable(found) else found)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the call was made
                failure.append(error)

        thread = threading.Thread(target=run, daemon=True, name="rolloutdb-memory-call")
        thread.start()
        thread.join(self._timeout_s)
        if failure:
            raise failure[0]
        if not answer:
            raise AnswerUnusable(
                f"There was no answer within {self._timeout_s:g} seconds.",
                hint="Let it answer sooner, or allow more time in MemoryOptions.",
            )
        return answer[0]

    def _awaited(self, found: Any) -> Any:
        async def wait() -> Any:
            return await asyncio.wait_for(found, self._timeout_s)

        return asyncio.run_coroutine_threadsafe(wait(), self._running_loop()).result()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._mutex:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, daemon=True, name="rolloutdb-memory-loop"
                )
                self._thread.start()
            return self._loop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all() -> None:
    """End what is left behind, so that the loop can be closed."""
    own = asyncio.current_task()
    left: list[asyncio.Task[Any]] = [task for task in asyncio.all_tasks() if task is not own]
    for task in left:
        task.cancel()
    gathered: Coroutine[Any, Any, Any] = _gather(left)
    await gathered


async def _gather(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
