"""Doubles and made-up homes that ship with the library, for its tests and for those who build on it.

`homes` makes folders of rollouts as years of use leave them, `damage` breaks one of them in one known way, `clock` has
a clock that only a test moves. Nothing in the engine imports this but the command line's demo.
"""

from engine.testing.clock import ManualClock
from engine.testing.homes import (
    HomePlan,
    MadeThread,
    append_turns,
    make_home,
    make_rollout,
    read_lines,
    rollout_lines,
)

__all__ = [
    "HomePlan",
    "MadeThread",
    "ManualClock",
    "append_turns",
    "make_home",
    "make_rollout",
    "read_lines",
    "rollout_lines",
]
