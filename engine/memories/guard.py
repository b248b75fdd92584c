"""Whether an account's rate limits leave room for making memories, so that they do not take what a person wants to use.

The engine knows no account; an application hands `Memories.run` a function that says whether to go on, and may answer with
`has_room` of what its client or a `token_count` record told last. Whatever is not known is no reason to stop.

Source: codex_memories.md 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REMAINING_MIN_PERCENT = 25
_LIMIT_ID = "codex"
_WINDOWS = ("primary", "secondary")


def has_room(limits: Any, *, remaining_min_percent: float = REMAINING_MIN_PERCENT) -> bool:
    """Whether as much of each window is left as there should be; exactly that much is enough.

    `limits` is one mapping or several, as `rate_limits` of a `token_count` record is: `limit_id`, `primary` and `secondary`
    with `used_percent`, `rate_limit_reached_type`. Of several the one of `codex` counts, else the first.
    """
    found = _snapshot(limits)
    if found is None:
        return True
    if found.get("rate_limit_reached_type") is not None:
        return False
    used_max = 100 - min(max(remaining_min_percent, 0), 100)
    windows = [found.get(name) for name in _WINDOWS]
    used = [each.get("used_percent") for each in windows if isinstance(each, Mapping)]
    return all(each <= used_max for each in used if isinstance(each, (int, float)))


def _snapshot(limits: Any) -> Mapping[str, Any] | None:
    if isinstance(limits, Mapping):
        return limits
    if not isinstance(limits, Sequence):
        return None
    several = [each for each in limits if isinstance(each, Mapping)]
    return next((each for each in several if each.get("limit_id") == _LIMIT_ID), next(iter(several), None))
