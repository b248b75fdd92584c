"""Breaks one rollout of a home in one known way.

`DAMAGES` has each way by its name. All take a home, a thread (or the path of its rollout, relative to the home) and a
random number generator that picks the place; all do exactly one damage and answer `Expected`: what a reader must find
that comes upon the damaged home afresh. Its numbers are known from the damaging, not by reading. The file must be
plain; to break a compressed one, unpack it first. File times are those that the damage would leave behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import wraps
from pathlib import Path
from random import Random

import orjson

from engine.testing.homes import MadeThread, ensure_folder

NUL_TAIL_BYTES = 1_728
LONG_LINE_BYTES = 50_000_000

_QUIET_STRINGS = (b'"last_agent_message":"', b'"encrypted_content":"', b'"output":"', b'"text":"', b'"message":"')
"""Where a string begins that a thread's row does not show, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What must hold after a damage.

    `good_records` and `bad_lines` are those of the rollout that speaks for the thread (`paths[0]`); blank lines are
    neither. `paths` are all rollouts of the thread that are in the home now, by names that are a rollout's. `row` has
    the facts that changed, where the damage changed any on purpose.
    """

    listed: bool
    good_records: int
    bad_lines: int
    paths: tuple[str, ...]
    row: dict[str, object] = field(default_factory=dict)


Damage = Callable[[str | Path, MadeThread | str, Random], Expected]


class _Rollout:
    """The file under the hammer."""

    def __init__(self, home: str | Path, thread: MadeThread | str, rng: Random) -> None:
        self.rng = rng
        self.home = str(home)
        self.path = thread if isinstance(thread, str) else thread.path
        self.full = os.path.join(self.home, self.path)
        self.name = os.path.basename(self.path)
        with open(self.full, "rb") as file:
            self.lines = _split(file.read())

    def middle(self) -> int:
        """The number of a line that is neither the first nor the last."""
        if len(self.lines) < 4:
            raise ValueError(f"{self.path} has {len(self.lines)} lines; a damage in the middle needs four or more")
        return self.rng.randrange(1, len(self.lines) - 2)

    def write(self, lines: list[bytes]) -> None:
        """Put these bytes in the file's place, the inode kept."""
        with open(self.full, "r+b") as file:
            file.writelines(lines)
            file.truncate()

    def expect(self, good: int, bad: int, *, listed: bool = True) -> Expected:
        """What holds with the rollout where it was."""
        return Expected(listed, good, bad, (self.path,))

    def put(self, path: str, content: bytes) -> None:
        """Make another file in the home."""
        full = os.path.join(self.home, path)
        ensure_folder(os.path.dirname(full))
        with os.fdopen(os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)


def _damage(strike: Callable[[_Rollout], Expected]) -> Damage:
    """Let a damage be called with a home, a thread and a random number generator."""

    @wraps(strike)
    def damage(home: str | Path, thread: MadeThread | str, rng: Random) -> Expected:
        return strike(_Rollout(home, thread, rng))

    return damage


def _split(content: bytes) -> list[bytes]:
    """Lines with their newline: they end at LF alone."""
    parts = content.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


@_damage
def torn_last_line(rollout: _Rollout) -> Expected:
    """The last line ends half way: listed; one record less, one bad line (or lag); never a lost thread."""
    *lines, last = rollout.lines
    rollout.write([*lines, last[: rollout.rng.randrange(20, len(last) - 2)]])
    return rollout.expect(len(lines), 1)


@_damage
def no_final_newline(rollout: _Rollout) -> Expected:
    """The last newline is missing: listed; the last record is whole and counts, no bad line."""
    *lines, last = rollout.lines
    rollout.write([*lines, last.removesuffix(b"\n")])
    return rollout.expect(len(rollout.lines), 0)


@_damage
def garbage_line_in_the_middle(rollout: _Rollout) -> Expected:
    """A line that is not JSON: listed; all records good, one bad line."""
    return _inserted(rollout, b"not json\n", good=0, bad=1)


@_damage
def non_utf8_line(rollout: _Rollout) -> Expected:
    """A line of bytes that are not UTF-8: listed; all records good, one bad line."""
    return _inserted(rollout, b"\xff\xfe\x00junk\n", good=0, bad=1)


@_damage
def unknown_kind(rollout: _Rollout) -> Expected:
    """A record of a kind that nobody knows, without an ordinal: listed; one record more, no bad line."""
    line = b'{"timestamp":"2026-01-01T00:00:00.000Z","type":"from_the_future","payload":{"a":1}}\n'
    return _inserted(rollout, line, good=1, bad=0)


def _inserted(rollout: _Rollout, line: bytes, *, good: int, bad: int) -> Expected:
    at = rollout.middle()
    rollout.write([*rollout.lines[:at], line, *rollout.lines[at:]])
    return rollout.expect(len(rollout.lines) + good, bad)


@_damage
def non_utf8_byte_in_a_string(rollout: _Rollout) -> Expected:
    """Half a character inside a string: listed; only that record is set aside (one less, one bad line)."""
    _insert_in_a_string(rollout, b"\xe6\x87")
    return rollout.expect(len(rollout.lines) - 1, 1)


@_damage
def raw_u2028_in_a_string(rollout: _Rollout) -> Expected:
    """A line separator of Unicode inside a string: nothing is wrong, a line ends at LF alone."""
    _insert_in_a_string(rollout, "\u2028".encode())
    return rollout.expect(len(rollout.lines), 0)


def _insert_in_a_string(rollout: _Rollout, added: bytes) -> None:
    for opening in _QUIET_STRINGS:
        found = [number for number, line in enumerate(rollout.lines) if number and opening in line]
        if found:
            number = rollout.rng.choice(found)
            line = rollout.lines[number]
            at = line.index(opening) + len(opening)
            lines = [*rollout.lines[:number], line[:at] + added + line[at:], *rollout.lines[number + 1 :]]
            rollout.write(lines)
            return
    raise ValueError(f"{rollout.path} has no string to damage; choose a rollout with a finished turn")


@_damage
def nul_tail(rollout: _Rollout) -> Expected:
    """NULs at the end, as after a power cut: listed; all records good, one bad line."""
    rollout.write([*rollout.lines, bytes(NUL_TAIL_BYTES)])
    return rollout.expect(len(rollout.lines), 1)


@_damage
def blank_lines_and_crlf(rollout: _Rollout) -> Expected:
    """Two blank lines first, and every line ends in CR LF: nothing is wrong."""
    rollout.write([b"\n\n", *(line.removesuffix(b"\n") + b"\r\n" for line in rollout.lines)])
    return rollout.expect(len(rollout.lines), 0)


@_damage
def bom(rollout: _Rollout) -> Expected:
    """A byte order mark before the first line: listed, nothing is lost; the mark is named."""
    rollout.write([b"\xef\xbb\xbf", *rollout.lines])
    return rollout.expect(len(rollout.lines), 0)


@_damage
def empty_file(rollout: _Rollout) -> Expected:
    """Nothing is left: not listed, named by audit."""
    rollout.write([])
    return rollout.expect(0, 0, listed=False)


@_damage
def only_the_first_line(rollout: _Rollout) -> Expected:
    """A thread without a turn: listed, without a preview; one record."""
    rollout.write(rollout.lines[:1])
    return rollout.expect(1, 0)


@_damage
def first_line_missing(rollout: _Rollout) -> Expected:
    """No session_meta: listed under the id in its name, named by audit; one record less."""
    rollout.write(rollout.lines[1:])
    return rollout.expect(len(rollout.lines) - 1, 0)


@_damage
def garbage_before_the_first_line(rollout: _Rollout) -> Expected:
    """The session_meta is the second line: listed; all records good, one bad line."""
    rollout.write([b"hello\n", *rollout.lines])
    return rollout.expect(len(rollout.lines), 1)


@_damage
def a_record_twice(rollout: _Rollout) -> Expected:
    """A line is there twice: listed; one record more, no bad line, a repeated ordinal where there are ordinals."""
    at = rollout.middle()
    rollout.write([*rollout.lines[: at + 1], *rollout.lines[at:]])
    return rollout.expect(len(rollout.lines) + 1, 0)


@_damage
def torn_then_written_again(rollout: _Rollout) -> Expected:
    """Half a record, a newline, the whole record: listed; all records good, one bad line."""
    at = rollout.middle()
    half = rollout.lines[at][: len(rollout.lines[at]) // 2] + b"\n"
    rollout.write([*rollout.lines[:at], half, *rollout.lines[at:]])
    return rollout.expect(len(rollout.lines), 1)


@_damage
def glued_records(rollout: _Rollout) -> Expected:
    """Two records on one line: listed; two records less, one bad line (that both are whole may be told)."""
    at = rollout.middle()
    rollout.write([*rollout.lines[:at], rollout.lines[at].removesuffix(b"\n"), *rollout.lines[at + 1 :]])
    return rollout.expect(len(rollout.lines) - 2, 1)


@_damage
def same_thread_in_two_files(rollout: _Rollout) -> Expected:
    """A copy without the last record in the folder of the day before: one thread in the list, both paths told."""
    day_before = date.fromisoformat(rollout.name[8:18]) - timedelta(days=1)
    copy = f"sessions/{day_before:%Y/%m/%d}/{rollout.name}"
    rollout.put(copy, b"".join(rollout.lines[:-1]))
    return Expected(listed=True, good_records=len(rollout.lines), bad_lines=0, paths=(rollout.path, copy))


@_damage
def active_and_archived(rollout: _Rollout) -> Expected:
    """The same file in both folders: one thread in the list, and the active one counts."""
    day = rollout.name[8:18].replace("-", "/")
    active, archived = f"sessions/{day}/{rollout.name}", f"archived_sessions/{rollout.name}"
    rollout.put(archived if rollout.path == active else active, b"".join(rollout.lines))
    return Expected(listed=True, good_records=len(rollout.lines), bad_lines=0, paths=(active, archived))


@_damage
def id_differs_from_the_name(rollout: _Rollout) -> Expected:
    """The file is named for another id: listed under the id inside; the name is a finding."""
    other_id = f"01a20458-0000-7000-8000-{rollout.rng.getrandbits(48):012x}"
    path = f"{os.path.dirname(rollout.path)}/{rollout.name[:28]}{other_id}.jsonl"
    os.rename(rollout.full, os.path.join(rollout.home, path))
    return Expected(listed=True, good_records=len(rollout.lines), bad_lines=0, paths=(path,))


@_damage
def odd_file_names(rollout: _Rollout) -> Expected:
    """Moved to the wrong folder; a copy of another name and a part of one remain: only the moved one is listed."""
    folder, content = os.path.dirname(rollout.path), b"".join(rollout.lines)
    moved = f"sessions/{rollout.name}"
    os.rename(rollout.full, os.path.join(rollout.home, moved))
    rollout.put(f"{folder}/notes.jsonl", content)
    rollout.put(f"{rollout.path}.tmp", content[:100])
    return Expected(listed=True, good_records=len(rollout.lines), bad_lines=0, paths=(moved,))


@_damage
def line_of_50_mb(rollout: _Rollout) -> Expected:
    """A last record of fifty megabytes, of the time of the one before: listed; one record more, no bad line."""
    last = orjson.loads(rollout.lines[-1])
    ordinal = b',"ordinal":%d' % (last["ordinal"] + 1) if "ordinal" in last else b""
    head = b'{"timestamp":"%b"%b,"type":"response_item","payload":{"type":"reasoning","summary":[],"content":null,'
    with open(rollout.full, "ab") as file:
        file.write(head % (last["timestamp"].encode(), ordinal))
        file.write(b'"encrypted_content":"%b"}}\n' % (b"QUJD" * (LONG_LINE_BYTES // 4)))
    return rollout.expect(len(rollout.lines) + 1, 0)


@_damage
def shrunk(rollout: _Rollout) -> Expected:
    """Records at the end are gone, in the same file: listed, with what is left; no bad line."""
    left = rollout.lines[: rollout.rng.randrange(1, len(rollout.lines))]
    os.truncate(rollout.full, sum(map(len, left)))
    return rollout.expect(len(left), 0)


@_damage
def rewritten_first_message(rollout: _Rollout) -> Expected:
    """The first message is another of the same length, in the same file, its time kept: listed, with the new words.

    Only the file's change time tells of it without reading. Raises ValueError where the rollout has no first message,
    or one of an image alone.
    """
    offset = 0
    for line in rollout.lines:
        old = _first_message(line)
        if old == b"":
            break
        if old is not None:
            at = offset + line.index(old)
            words = (b"rewritten " * len(old))[: len(old)].rstrip().ljust(len(old), b"!")
            _overwrite(rollout.full, at, words)
            said = words.decode()
            changed: dict[str, object] = {"first_user_message": said, "title": said}
            return Expected(True, len(rollout.lines), 0, (rollout.path,), changed)
        offset += len(line)
    raise ValueError(f"{rollout.path} has no words in a first message; choose a rollout with some")


def _first_message(line: bytes) -> bytes | None:
    """The words of a user message as they stand in its line, without the quotes."""
    if b'"user_message"' not in line and b'"UserMessage"' not in line:
        return None
    record = orjson.loads(line)
    payload = record["payload"]
    if payload.get("type") == "user_message":
        said = payload["message"]
    elif payload.get("type") == "item_completed" and payload["item"]["type"] == "UserMessage":
        said = payload["item"]["content"][0].get("text", "")
    else:
        return None
    return orjson.dumps(said)[1:-1]


def _overwrite(full: str, offset: int, content: bytes) -> None:
    before = os.stat(full)
    with open(full, "r+b") as file:
        file.seek(offset)
        file.write(content)
    os.utime(full, ns=(before.st_atime_ns, before.st_mtime_ns))


@_damage
def replaced_by_older_copy(rollout: _Rollout) -> Expected:
    """A backup from earlier took the file's place (another inode): listed, with what was there then; no bad line."""
    then = rollout.lines[: rollout.rng.randrange(1, len(rollout.lines))]
    rollout.put(f"{rollout.path}.restored", b"".join(then))
    os.utime(f"{rollout.full}.restored", ns=(0, os.stat(rollout.full).st_mtime_ns - 60_000_000_000))
    os.replace(f"{rollout.full}.restored", rollout.full)
    return rollout.expect(len(then), 0)


@_damage
def unreadable(rollout: _Rollout) -> Expected:
    """Nobody may read it (mode 000; root may still): not listed unless it was before, named, tried again later."""
    os.chmod(rollout.full, 0)
    return rollout.expect(0, 0, listed=False)


@_damage
def symlink(rollout: _Rollout) -> Expected:
    """The rollout is a link to a file beside the home: not followed, not listed, named by audit."""
    outside = os.path.join(f"{os.path.abspath(rollout.home)}-outside", rollout.name)
    ensure_folder(os.path.dirname(outside))
    os.rename(rollout.full, outside)
    os.symlink(outside, rollout.full)
    return rollout.expect(0, 0, listed=False)


DAMAGES: dict[str, Damage] = {
    "torn-last-line": torn_last_line,
    "no-final-newline": no_final_newline,
    "garbage-line-in-the-middle": garbage_line_in_the_middle,
    "non-utf8-line": non_utf8_line,
    "non-utf8-byte-in-a-string": non_utf8_byte_in_a_string,
    "nul-tail": nul_tail,
    "blank-lines-and-crlf": blank_lines_and_crlf,
    "bom": bom,
    "raw-u2028-in-a-string": raw_u2028_in_a_string,
    "empty-file": empty_file,
    "only-the-first-line": only_the_first_line,
    "first-line-missing": first_line_missing,
    "garbage-before-the-first-line": garbage_before_the_first_line,
    "a-record-twice": a_record_twice,
    "torn-then-written-again": torn_then_written_again,
    "glued-records": glued_records,
    "unknown-kind": unknown_kind,
    "same-thread-in-two-files": same_thread_in_two_files,
    "active-and-archived": active_and_archived,
    "id-differs-from-the-name": id_differs_from_the_name,
    "odd-file-names": odd_file_names,
    "line-of-50-mb": line_of_50_mb,
    "shrunk": shrunk,
    "rewritten-first-message": rewritten_first_message,
    "replaced-by-older-copy": replaced_by_older_copy,
    "unreadable": unreadable,
    "symlink": symlink,
}
"""Each damage by its name; the first 21 are those of the damaged homes that the project is tested against."""


def strike(name: str, home: str | Path, thread: MadeThread | str, *, seed: int = 0) -> Expected:
    """Do the damage of this name; the seed picks the place."""
    return DAMAGES[name](home, thread, Random(seed))
