"""What an audit reports of side databases: where their rows are not those that the rollouts give."""

from __future__ import annotations

from collections.abc import Iterator

from engine.audit.findings import REBUILD, Finding, finding
from engine.errors import StoreError
from engine.projections.side import Parts, Side
from engine.projections.side_check import SideDifference, compare_side
from engine.projections.sides import OWN_PREFIX, Sides
from engine.stores.layout import parse_path

_CLASSES = {"state": "lying_watermark", "rows": "wrong_rows", "orphans": "wrong_rows", "failed": "unreadable"}
_REBUILD = "Engine.rebuild()"
"""A command knows nothing of an application's own projections."""


def side_findings(parts: Parts, sides: Sides) -> Iterator[Finding]:
    """Every difference of every side database that there is; one that cannot be read is a finding of its own."""
    for side in sides:
        try:
            if parts.home.state is None:
                side.catch_up()
            if side.is_there:
                yield from _compared(parts, side)
        except StoreError as error:
            message = f"the database of {side.name} cannot be read: {error.message}"
            yield finding("unreadable", message, path=error.path, mend=_mend(side))


def _compared(parts: Parts, side: Side) -> Iterator[Finding]:
    for each in compare_side(parts, side):
        yield _finding(each, _mend(side))


def _mend(side: Side) -> str:
    return _REBUILD if side.name.startswith(OWN_PREFIX) else REBUILD


def _finding(difference: SideDifference, mend: str) -> Finding:
    name = None if difference.path is None else parse_path(difference.path)
    return finding(
        _CLASSES[difference.what],
        f"{difference.projection}: {difference.message}",
        path=difference.path,
        thread_id=None if name is None else name.thread_id,
        field=difference.table,
        mend=None if difference.what == "failed" else mend,
    )
