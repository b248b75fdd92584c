"""What lines of a file give by themselves: damage, records that no fold can use, and numbers that do not follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.audit.findings import Finding, finding
from engine.audit.lines import Lines
from engine.stores.rollouts import Damage

CUT_LOOKS = ("torn", "garbage", "not UTF-8", "NUL")
"""What a last line without its LF may look like to be a cut one, which its writer's recovery takes away."""


def line_findings(
    where: dict[str, Any], lines: Lines, *, mend: str | None = None, why: str | None = None
) -> Iterator[Finding]:
    """Findings of one file; `mend` is the command that cuts its torn tail, `why` what keeps it from being cut."""
    for damage in lines.damage:
        yield _damage_finding(damage, where, mend, why)
    for bad in lines.bad_payloads:
        yield finding(
            "set_aside", f"a {bad.look} record that no fold can use: {bad.reason}", offset=bad.offset, **where
        )
    for trouble in lines.numbers:
        message = f"number {trouble.ordinal} follows {trouble.before}"
        yield finding(
            trouble.class_, message, offset=trouble.offset, field="ordinal", file_value=trouble.ordinal, **where
        )
    if lines.number_troubles > len(lines.numbers):
        message = f"{lines.number_troubles} records in all have a number that does not follow the one before"
        yield finding("ordinal_gap", message, field="ordinal", **where)
    if lines.byte_order_mark:
        yield finding("byte_order_mark", "the file begins with a byte order mark; nothing is lost", offset=0, **where)


def is_cut(damage: Damage) -> bool:
    """Whether these bytes are a tail that recovery trims."""
    return not damage.terminated and damage.look in CUT_LOOKS


def _damage_finding(damage: Damage, where: dict[str, Any], mend: str | None, why: str | None) -> Finding:
    message = f"{damage.length} bytes are no record ({damage.look}): {damage.reason}"
    value = {"bytes": damage.length, "look": damage.look, "reason": damage.reason}
    place = {**where, "offset": damage.offset, "field": "bytes", "file_value": value}
    if not is_cut(damage):
        return finding("damaged_span", message, **place)
    # NULs are what a power cut leaves, so they are damage also where a writer is at work.
    class_ = "damaged_span" if damage.look == "NUL" else "torn_tail"
    return finding(class_, message, mend=mend, why=why, **place)
