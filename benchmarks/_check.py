"""Whether a ratio became worse: what was measured inside one run, against what is committed in `expected.json`.

A ratio is a speed to something that was measured in the same round (`_report.py`), so a slow or busy machine moves both
of its sides. What noise is left differs from ratio to ratio; so the median and the least of the committed rounds are kept, and
a regression is told where the median of a run is below the least by more than a fifth. What nothing is expected of is told,
too: a benchmark that is not compared must not pass for one that is well. Quick and full runs are kept apart: their sizes
differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).with_name("expected.json")
SHARE = 0.8
"""Of the least that is expected."""


def ratios_of(document: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Every ratio of a report by its full name."""
    return {
        " · ".join(filter(None, (document["benchmark"], row["group"], row["case"], name))): spread
        for row in document["rows"]
        for name, spread in row["ratios"].items()
    }


def expected_of(documents: Iterable[Mapping[str, Any]], before: Mapping[str, Any]) -> dict[str, Any]:
    """What to expect from now on: of this run, and what was expected of benchmarks that did not run."""
    expected = {mode: dict(before[mode]) for mode in ("quick", "full")}
    for document in documents:
        mode = expected[document["mode"]]
        for name in [name for name in mode if _benchmark(name) == document["benchmark"]]:
            del mode[name]
        for name, spread in ratios_of(document).items():
            mode[name] = {key: round(spread[key], 4) for key in ("median", "min")}
    return {mode: dict(sorted(of.items())) for mode, of in expected.items()}


def regressions(documents: Iterable[Mapping[str, Any]], expected: Mapping[str, Any]) -> list[str]:
    """A sentence for each ratio that is worse than expected, that is expected and was not measured, or the other way round."""
    found = []
    for document in documents:
        measured = ratios_of(document)
        wanted = {n: e for n, e in expected[document["mode"]].items() if _benchmark(n) == document["benchmark"]}
        if not wanted:
            found.append(f"{document['benchmark']}: nothing is expected of a {document['mode']} run")
            continue
        for name, spread in wanted.items():
            least = spread["min"] * SHARE
            if name not in measured:
                found.append(f"{name}: expected {spread['median']:.3g}, and it was not measured")
            elif (median := measured[name]["median"]) < least:
                found.append(f"{name}: {median:.3g}, expected {spread['median']:.3g}, at least {least:.3g}")
        found += [f"{name}: nothing is expected of it" for name in measured if name not in wanted]
    return found


def _benchmark(name: str) -> str:
    return name.partition(" · ")[0]
