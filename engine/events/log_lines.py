"""The lines of a log segment: what each means, how it is written and read. Pure; the fields of a record, and nothing of files.

A segment is one process's. Its first line names the process (`log_process`). What records share is said once a segment and
then named by a number: where in the code a record comes from, with its level (`log_site`), and the thread of an agent that it
belongs to (`log_thread`). So a record's own line (`log`) is its time, two numbers and what it says, and a segment takes
little more than the texts in it. A number is explained before it is used, in the same segment.

What a record says beyond `body_bytes_max` is cut, and `cut` tells how many bytes it had. `dropped` is in the records that tell
of records which did not come this far.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

import msgspec
import orjson
from msgspec import Struct

PROCESS = "log_process"
SITE = "log_site"
THREAD = "log_thread"
RECORD = "log"

MARKS = {SITE: b'"type":"log_site"', THREAD: b'"type":"log_thread"'}
"""By what lines that explain numbers are found without reading the others: a text in JSON cannot hold a bare quote."""

NAME_CHARS_MAX = 512
"""A target, a module, a file or a thread's id that is longer is cut."""

SEVERITIES = {"TRACE": 5, "DEBUG": 10, "INFO": 20, "WARN": 30, "WARNING": 30, "ERROR": 40, "CRITICAL": 50, "FATAL": 50}
"""Level words and how grave they are: the numbers of the standard library's `logging`."""

_TARGET_BREAKS = (".", ":", "/")
_TEXT_LENGTH = len("2026-01-05T09:00:00.000000Z")
_US_MAX = 253_402_300_799_999_999
"""The last microsecond of the year 9999, beyond which no timestamp can be written."""


class Site(Struct, frozen=True):
    """Where records come from. `severity` orders levels; `level` is the word, as it was given."""

    severity: int
    level: str
    target: str
    module: str | None
    file: str | None
    line: int | None

    @property
    def bytes(self) -> int:
        """What it adds to the estimated size of each of its records (codex_state.md 8.3)."""
        return sum(
            len(text.encode("utf-8", "replace")) for text in (self.level, self.target, self.module, self.file) if text
        )


class Payload(Struct):
    """What the lines of a segment may say; which of it is there depends on the line's type."""

    process: str | None = None
    site: int = 0
    severity: int = 0
    level: str = ""
    target: str = ""
    module: str | None = None
    file: str | None = None
    line: int | None = None
    thread: int = 0
    id: str = ""
    cut: int = 0
    dropped: int = 0
    body: str = ""


class Line(Struct):
    """One line. `timestamp` is RFC 3339 in UTC with microseconds."""

    timestamp: str
    type: str
    payload: Payload


def explained_by(said: Payload) -> Site:
    """The site that a `log_site` line tells of."""
    return Site(said.severity, said.level, said.target, said.module, said.file, said.line)


def decode(line: bytes) -> Line | None:
    """The line, or None where it is none: blank where an erasure was, torn, or foreign."""
    try:
        return _LINE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def process_line(at_us: int, process: str) -> bytes:
    """The first line of a segment."""
    return _line(at_us, PROCESS, {"process": process})


def site_line(at_us: int, number: int, site: Site) -> bytes:
    """What says which site a number stands for."""
    return _line(at_us, SITE, {"site": number, **msgspec.structs.asdict(site)})


def thread_line(at_us: int, number: int, thread_id: str) -> bytes:
    """What says which thread a number stands for."""
    return _line(at_us, THREAD, {"thread": number, "id": thread_id})


def record_line(at_us: int, site: int, thread: int, body: str, *, body_bytes_max: int, dropped: int = 0) -> bytes:
    """A record's own line; `thread` is 0 for one that belongs to none."""
    said, cut = _encoded(body, body_bytes_max)
    of_thread = b'"thread":%d,' % thread if thread else b""
    more = b'"cut":%d,' % cut if cut else b""
    if dropped:
        more += b'"dropped":%d,' % dropped
    time = text_of_us(at_us).encode()
    return b'{"timestamp":"%b","type":"log","payload":{"site":%d,%b%b"body":%b}}\n' % (
        time,
        site,
        of_thread,
        more,
        said,
    )


def text_of_us(at_us: int) -> str:
    """Unix microseconds as RFC 3339 UTC text; times that no calendar has are those of its ends."""
    seconds, micro = divmod(min(max(at_us, 0), _US_MAX), 1_000_000)
    return f"{_second(seconds)}.{micro:06d}Z"


def us_of_text(text: str) -> int:
    """Unix microseconds of a timestamp as it is written here; 0 where it is none."""
    if len(text) != _TEXT_LENGTH or text[19] != "." or not text[20:26].isdigit():
        return 0
    return _us_of_second(text[:19]) + int(text[20:26])


def named(text: str | None) -> str | None:
    """A name as it may be stored: bounded, and UTF-8."""
    if text is None:
        return None
    return text[:NAME_CHARS_MAX].encode("utf-8", "backslashreplace").decode()


def severity_of(level: str) -> int:
    """How grave a level is; of a word that nobody knows, as `INFO`."""
    return SEVERITIES.get(level.upper(), SEVERITIES["INFO"])


def is_below(target: str, prefix: str) -> bool:
    """Whether a target is this one or lies below it: `rmcp` has `rmcp.client` and `rmcp::service`, not `rmcp_client`."""
    return not prefix or target == prefix or (target.startswith(prefix) and target[len(prefix)] in _TARGET_BREAKS)


def shown(timestamp: str, level: str, body: str, cut: int) -> str:
    """The line that a feedback export has of a record: time, level, what was said, one final newline (codex_state.md 8.5)."""
    said = body.removesuffix("\n")
    mark = f" [cut: it had {cut:,} bytes]" if cut else ""
    return f"{timestamp} {level:>5} {said}{mark}\n"


def _encoded(body: str, bytes_max: int) -> tuple[bytes, int]:
    """The body as JSON has it, and the size it had where it was cut."""
    if len(body) * 4 > bytes_max:
        whole = body.encode("utf-8", "backslashreplace")
        if len(whole) > bytes_max:
            kept = whole[:bytes_max].decode("utf-8", "ignore")
            return orjson.dumps(kept), len(whole)
    try:
        return orjson.dumps(body), 0
    except orjson.JSONEncodeError:  # a lone surrogate
        return orjson.dumps(body.encode("utf-8", "backslashreplace").decode()), 0


def _line(at_us: int, kind: str, payload: dict[str, object]) -> bytes:
    line = {"timestamp": text_of_us(at_us), "type": kind, "payload": payload}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=256)
def _us_of_second(text: str) -> int:
    try:
        return int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1_000_000
    except ValueError:
        return 0


_LINE = msgspec.json.Decoder(Line)
