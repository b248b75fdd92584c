"""An account's rate limits, and a run that is held back by them."""

from __future__ import annotations

import pytest

from engine.memories.guard import has_room
from tests.remembering import DAY_MS, Bench


def limits(primary=None, secondary=None, reached=None, name="codex"):
    windows = {"primary": primary, "secondary": secondary}
    return {
        "limit_id": name,
        **{
            key: None if used is None else {"used_percent": used, "window_minutes": 300}
            for key, used in windows.items()
        },
        "rate_limit_reached_type": reached,
    }


@pytest.mark.parametrize(
    ("found", "remaining", "answer"),
    [
        (limits(89.9), 10, True),  # S6
        (limits(89.9), 11, False),
        (limits(80.0, 10.0), 25, False),  # S7
        (limits(10.0, 80.0), 25, False),
        (limits(74.9, 74.9), 25, True),
        (limits(75.0, 75.0), 25, True),  # exactly as much as there should be is enough
        (limits(10.0, reached="rate_limit_reached"), 25, False),  # S8
        (limits(), 25, True),
        (None, 25, True),
        ([], 25, True),
        ("odd", 25, True),
        ({"primary": {"used_percent": "x"}}, 25, True),
        ([limits(99.0, name="other"), limits(1.0)], 25, True),
        ([limits(99.0, name="other"), limits(1.0, name="more")], 25, False),
        (limits(100.0), -5, True),
        (limits(0.1), 500, False),
    ],
)
def test_s6_s7_s8_there_is_room_while_enough_of_each_window_is_left(found, remaining, answer):
    assert has_room(found, remaining_min_percent=remaining) is answer


def test_a_run_that_is_held_back_prunes_and_asks_nobody(tmp_path):
    bench = Bench(tmp_path / "home")
    old = bench.thread()
    bench.put(old)
    bench.rest(31 * DAY_MS)
    bench.thread()
    bench.rest()
    report = bench.run(
        lambda _: pytest.fail("asked"), lambda _: pytest.fail("asked"), guard=lambda: has_room(limits(99.0))
    )
    assert (report.pruned, report.extracted, report.consolidated, report.held_back) == (1, None, None, True)
    assert not bench.root.exists()
    report = bench.run(guard=lambda: has_room(limits(5.0)))
    assert (report.extracted.succeeded, report.consolidated.status, report.held_back) == (1, "succeeded", False)
    bench.close()
