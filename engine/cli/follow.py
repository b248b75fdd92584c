"""The command that streams: what is appended to threads, as it comes, until Ctrl-C.

Each line is sent at once. With `--json` each is a document of its own: `what` says what it is; a `token` comes whenever
all that was new was told, so that somebody who is killed in between has one that is not old. At its end the token goes
to standard error.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engine.cli import INTERRUPTED, Told, output
from engine.cli.asked import Asked, text
from engine.clock import SystemClock
from engine.errors import InvalidRequest
from engine.follow import Followed, Follower, Notice
from engine.stores.files import Files

if TYPE_CHECKING:
    from engine.runtime import Engine

_TOKEN_BYTES_MAX = 256 * 1024 * 1024
_TOKEN_EVERY_S = 1.0
_TOKEN_COST_FACTOR = 20
_WORDS_MAX = 80
_WORDS = ("message", "text", "content", "item", "output", "arguments", "name", "turn_id")
"""Where a payload has words that a person would look at, the best first."""


def follow(asked: Asked, thread_ids: Sequence[str] | None, start: str, *, decisions: bool) -> int:
    """Print what comes until Ctrl-C; the exit code."""
    wanted = [text(each, "--thread") for each in thread_ids] if thread_ids else None
    begin = _start(text(start, "--from"))
    with asked.open() as engine:
        _remark_missing(engine, wanted or ())
        with engine.follow(wanted, start=begin, decisions=decisions) as follower:
            before = signal.signal(signal.SIGINT, lambda *_: follower.close())
            try:
                _print_all(follower, as_json=asked.as_json)
            finally:
                signal.signal(signal.SIGINT, before)
            output.remark(f"Stopped. To go on from here: --from {follower.token}")
    return Told(INTERRUPTED)


def _start(start: str) -> str:
    """What to start from; a token may be in a file, since the system bounds the length of an argument."""
    if not start.startswith("@"):
        return start
    data = Files().read_all(start[1:], bytes_max=_TOKEN_BYTES_MAX, op="cli.token")
    if data is None:
        raise InvalidRequest(f"The token's file {start[1:]} cannot be read.", hint="Name a file that holds a token.")
    return data.decode("utf-8", "replace").strip()


def _remark_missing(engine: Engine, thread_ids: Sequence[str]) -> None:
    for each in thread_ids:
        if engine.threads.get(each) is None:
            output.remark(f"There is no thread {each} yet; it is followed once there is.")


def _print_all(follower: Follower, *, as_json: bool) -> None:
    clock = SystemClock()
    next_token_s = 0.0
    is_told = False
    for found in _polled(follower):
        if found is not None:
            is_told = False
            _print(found, as_json=as_json)
        elif as_json and not is_told and clock.elapsed_s() >= next_token_s:
            begun_s = clock.elapsed_s()
            output.print_json_line({"what": "token", "token": follower.token})
            now_s = clock.elapsed_s()
            next_token_s = now_s + max(_TOKEN_EVERY_S, (now_s - begun_s) * _TOKEN_COST_FACTOR)
            is_told = True


def _polled(follower: Follower) -> Iterator[Followed | Notice | None]:
    while True:
        try:
            found = follower.poll()
        except StopIteration:
            return
        yield found


def _print(found: Followed | Notice, *, as_json: bool) -> None:
    if as_json:
        output.print_json_line(_document(found))
    elif isinstance(found, Notice):
        output.remark(f"{found.what}: {found.path}: {found.reason}")
    else:
        record = found.record
        ordinal = "-" if record.ordinal is None else record.ordinal
        words = output.plain(_words(record.payload))[:_WORDS_MAX]
        output.print_line(f"{record.timestamp}  {found.thread_id or '-'}  {ordinal}  {record.kind}  {words}")


def _document(found: Followed | Notice) -> dict[str, Any]:
    if isinstance(found, Notice):
        position = found.position
        return {
            "what": found.what,
            "thread_id": found.thread_id,
            "rollout_id": found.rollout_id,
            "ordinal": None if position is None else position.ordinal,
            "offset": None if position is None else position.offset,
            "path": found.path,
            "reason": found.reason,
        }
    return {
        "what": "record",
        "thread_id": found.thread_id,
        "rollout_id": found.rollout_id,
        "ordinal": found.record.ordinal,
        "offset": found.record.offset,
        "timestamp": found.record.timestamp,
        "kind": found.record.kind,
        "payload": found.record.payload,
    }


def _words(value: Any) -> str:
    """Some words of a payload, to know it by."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return next((words for each in value if (words := _words(each))), "")
    if isinstance(value, dict):
        return next((words for name in _WORDS if (words := _words(value.get(name)))), "")
    return ""
