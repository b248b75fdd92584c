"""What leaves the process: JSON and text on standard output, remarks on standard error.

A rollout's text is anybody's, so what could move the cursor or reorder a line is replaced before a person sees it. A path
that is not UTF-8 is escaped, in JSON as a lone surrogate, which Python's `os.fsencode` turns back into the very bytes.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def ensure_open() -> None:
    """Give streams that came closed (`>&-`) somewhere to go, else the next file opened would take their number."""
    while (devnull := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: TID251 - no file of a home
        pass
    os.close(devnull)  # noqa: TID251 - the same
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the same


def print_json(document: Any) -> None:
    """One JSON document and a newline; indented where a person looks on."""
    import msgspec

    try:
        data = msgspec.json.encode(document)
        if sys.stdout.isatty():
            data = msgspec.json.format(data, indent=2)
        text = data.decode("utf-8")
    except UnicodeEncodeError:
        import json

        text = json.dumps(msgspec.to_builtins(document))
    _write(text + "\n")


def print_json_line(document: Any) -> None:
    """One JSON document on one line, sent at once: for commands that stream."""
    import msgspec

    _write(msgspec.json.encode(document).decode("utf-8") + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """One line of text, sent at once."""
    _write(f"{plain(text)}\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """Lines that are plain already, sent at once."""
    _write(f"{text}\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write("".join(plain(line) + "\n" for line in text.splitlines()))
    sys.stderr.flush()


def plain(text: str) -> str:
    """Text on one line, without a character that a terminal would obey."""
    shown = _SURROGATE.sub(_escaped, " ".join(text.split()))
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", shown)


def plain_lines(text: str) -> list[str]:
    """Text line by line as it was laid out, without a character that a terminal would obey; `plain` has it on one line."""
    lines = _SURROGATE.sub(_escaped, text).expandtabs(4).splitlines() or [""]
    return [_UNSAFE.sub("\N{REPLACEMENT CHARACTER}", line) for line in lines]


def flush() -> None:
    """Send what is buffered, so that a failure is met here and not at the end of the process."""
    sys.stdout.flush()


def discard() -> None:
    """Let what is still buffered go nowhere: its reader is gone, and Python would complain when it ends."""
    devnull = os.open(os.devnull, os.O_WRONLY)  # noqa: TID251 - no file of a home
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)  # noqa: TID251 - the same


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _escaped(found: re.Match[str]) -> str:
    r"""A byte that is no text, as `\xff`; any other lone surrogate by its number."""
    number = ord(found[0])
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"
