"""The one form in which every benchmark says what it found, and the table that people read it in.

A report has rows; a row is a case, with `values` (the unit is in the name: `p99_ms`, `files_a_second`) and `ratios`. Both
are spreads: median, least and greatest of the runs. A ratio compares two things that were measured in the same round; it
is a speed, or a share, to what its name says, so that **more is better** and 1 means the same: it is what may be compared
between machines and days.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from _machine import Spread, compile_engine, machine

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case. `group` names the table that it stands in."""

    case: str
    group: str = ""
    values: Mapping[str, Spread] = field(default_factory=dict)
    ratios: Mapping[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one benchmark found. `notes` are sentences about how it was measured, and what is not in the rows."""

    benchmark: str
    mode: str
    asked: Mapping[str, Any]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As it is written to a file."""
        return {"format": FORMAT, **asdict(self), "machine": machine()}


def arguments(about: str | None, **more: Mapping[str, Any]) -> argparse.Namespace:
    """The options that every benchmark takes, and `more` of its own (an option's name to what argparse wants to know).

    What is measured is compiled then.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, how in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **how)
    parser.add_argument("--rounds", type=int, help="paired rounds (5; quick: 2)")
    parser.add_argument(
        "--folder", type=os.path.abspath, help="where homes are made and kept; else a temporary one, removed at the end"
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the rates mean less")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    asked = parser.parse_args()
    compile_engine()
    asked.rounds = asked.rounds or (2 if asked.quick else 5)
    asked.mode = "quick" if asked.quick else "full"
    return asked


def numbers(text: str) -> tuple[int, ...]:
    """`1,8`."""
    return tuple(map(int, text.split(",")))


def publish(report: Report, asked: argparse.Namespace) -> None:
    """Print it as it was asked for."""
    print(json.dumps(report.document(), indent=1) if asked.json else text_of(report.document()))


def text_of(document: Mapping[str, Any], *, markdown: bool = False) -> str:
    """A document for people: a table a group."""
    lines = [", ".join(f"{key} {value}" for key, value in document["machine"].items())]
    if document["versions"]:
        lines.append(", ".join(f"{name} {version}" for name, version in document["versions"].items()))
    lines.append(f"asked: {', '.join(f'{key} {value}' for key, value in document['asked'].items())}")
    for group, rows in _grouped(document["rows"]):
        lines += ["", *([group] if group else []), *table(rows, markdown=markdown)]
    return "\n".join([*lines, *([""] if document["notes"] else []), *document["notes"]])


def table(rows: Sequence[Mapping[str, Any]], *, markdown: bool = False) -> list[str]:
    """Lines of a table: a column for each name that some row has, in the order in which they come; `median [min–max]`."""
    names: dict[tuple[str, str], None] = {}
    for part in ("values", "ratios"):
        for row in rows:
            names.update(dict.fromkeys((part, name) for name in row[part]))
    heads = ["", *(name.replace("_", " ") for _, name in names)]
    cells = [heads] + [[row["case"], *(_cell(row[part].get(name)) for part, name in names)] for row in rows]
    if markdown:
        ruled = [cells[0], ["---"] * len(heads), *cells[1:]]
        return [f"| {' | '.join(line)} |" for line in ruled]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    return [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]


def number(value: float) -> str:
    """Three digits that count, and no more."""
    size = abs(value)
    digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:,.{digits}f}"


def _cell(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return ""
    median, least, greatest = (number(spread[key]) for key in ("median", "min", "max"))
    return median if least == greatest else f"{median} [{least}–{greatest}]"


def _grouped(rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, list[Mapping[str, Any]]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return groups.items()
