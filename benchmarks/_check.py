"""Whether a ratio became worse: what was measured inside one run, against what is committed in `expected.json`.

A ratio is a speed to something that was measured in the same round (`_report.py`), so a slow or busy machine moves both
of its sides. What noise is left is large all the same; so the best round of a run is compared, and a regression is told
where even that is below the committed median by more than the tolerance. That finds what became a third as fast, not what
became a tenth slower: a quick run has two rounds, and with half as the bound a busy machine was told as a regression.
Quick and full runs are kept apart: their sizes differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).with_name("expected.json")


def ratios_of(document: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Every ratio of a report by its full name."""
    return {
        " · ".join(filter(None, (document["benchmark"], row["group"], row["case"], name))): spread
        for row in document["rows"]
        for name, spread in row["ratios"].items()
    }


def expected_of(documents: Iterable[Mapping[str, Any]], before: Mapping[str, Any]) -> dict[str, Any]:
    """What to expect from now on: the medians of this run, and what was expected of benchmarks that did not run."""
    expected = {**before, "quick": dict(before["quick"]), "full": dict(before["full"])}
    for document in documents:
        mode = expected[document["mode"]]
        for name in [name for name in mode if _benchmark(name) == document["benchmark"]]:
            del mode[name]
        mode.update({name: round(spread["median"], 4) for name, spread in ratios_of(document).items()})
    for mode in ("quick", "full"):
        expected[mode] = dict(sorted(expected[mode].items()))
    return expected


def regressions(documents: Iterable[Mapping[str, Any]], expected: Mapping[str, Any]) -> list[str]:
    """A sentence for each ratio that is worse than expected, or that is expected and was not measured."""
    found = []
    for document in documents:
        measured = ratios_of(document)
        for name, wanted in expected[document["mode"]].items():
            if _benchmark(name) != document["benchmark"]:
                continue
            if name not in measured:
                found.append(f"{name}: expected {wanted:g}, and it was not measured")
            elif measured[name]["max"] < (least := wanted * (1 - expected["tolerance"])):
                best = measured[name]["max"]
                found.append(f"{name}: {best:.3g} at best, expected {wanted:.3g}, at least {least:.3g}")
    return found


def _benchmark(name: str) -> str:
    return name.partition(" · ")[0]
