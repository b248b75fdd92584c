"""What every test may ask for.

`corpora` is the folder of homes written by the real Codex CLI. The project's own tests do not need it; those that
compare with it skip, and say so, where it is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from engine.options import Options
from tests.truth import Guard, watch

CHECKOUT = Path(__file__).resolve().parents[1]

# Tests count calls and transactions: no engine does anything by itself, but where a test asks for it.
Options.__init__.__kwdefaults__["background_scan_s"] = 0.0
# A disk that stalls for a moment is not what most tests are about: a list that it cuts short would have no rows.
Options.__init__.__kwdefaults__["list_budget_ms"] = 2_000

# A slow machine is not a fault of the engine, so an example has no deadline; soak looks much further.
settings.register_profile("test", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("soak", settings.get_profile("test"), max_examples=5_000)
settings.load_profile(os.environ.get("ROLLOUTDB_HYPOTHESIS", "test"))


@pytest.fixture(autouse=True)
def truth_is_only_taken_away_by_name(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test is about: no rollout is removed, renamed or cut but by the operations that may."""
    guard = Guard()
    watch(guard, monkeypatch)
    yield
    assert guard.found == set()


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real homes: read from it, never write into it."""
    folder = Path(os.environ.get("ROLLOUTDB_CORPORA", str(CHECKOUT.parent / "shared" / "corpora"))).resolve()
    if not folder.is_dir():
        pytest.skip(f"no corpora at {folder}: name the folder by the environment variable ROLLOUTDB_CORPORA")
    return folder


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top of the checkout: where pyproject.toml, migrations/ and docs/ are."""
    return CHECKOUT
