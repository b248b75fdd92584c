"""What an audit reports of side databases: damage, and where their rows are not those that the rollouts give.

A comparison is of one snapshot and of the bytes before each watermark, so other processes at work give no false alarm.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.audit.findings import ENGINE_REPAIR, REPAIR, Finding, finding
from engine.audit.parts import AuditParts
from engine.audit.store import damage_finding
from engine.audit.words import word_findings
from engine.errors import StoreCorrupt, StoreError
from engine.projections.search_index import SEARCH
from engine.projections.side import Side
from engine.projections.side_check import SideDifference, compare_side
from engine.projections.sides import OWN_PREFIX
from engine.stores.layout import parse_path

_CLASSES = {
    "state": "lying_watermark",
    "rows": "wrong_rows",
    "orphans": "wrong_rows",
    "set_aside": "wrong_set_aside",
    "failed": "unreadable",
}


def side_findings(parts: AuditParts) -> Iterator[Finding]:
    """Every difference of every side database that there is; one that cannot be read is a finding of its own."""
    for side in parts.sides:
        try:
            if parts.home.state is None:
                side.catch_up()
            if side.is_there:
                yield from _findings(parts, side)
        except StoreCorrupt as error:
            yield damage_finding(parts, side.name, error.path, [error.message], mend=_mend(side))
        except StoreError as error:
            message = f"the database of {side.name} cannot be read: {error.message}"
            yield finding("unreadable", message, path=error.path)


def _findings(parts: AuditParts, side: Side) -> Iterator[Finding]:
    database = side.database()
    said = database.integrity()
    if said != ["ok"]:
        yield damage_finding(parts, side.name, database.path, said, mend=_mend(side))
        return
    for each in compare_side(parts.side_parts, side):
        yield _finding(side, each)
    if side.name == SEARCH:
        yield from word_findings(parts.side_parts, side, parts.database)


def _mend(side: Side) -> str:
    return ENGINE_REPAIR if side.name.startswith(OWN_PREFIX) else REPAIR


def _finding(side: Side, difference: SideDifference) -> Finding:
    name = None if difference.path is None else parse_path(difference.path)
    return finding(
        _CLASSES[difference.what],
        f"{difference.projection}: {difference.message}",
        path=difference.path,
        thread_id=None if name is None else name.thread_id,
        field=f"{side.name}.{difference.table}",
        mend=None if difference.what == "failed" else _mend(side),
    )
