"""One stream, looked at between any changes of its file: what it gave is what a list of lines says, or a rewrite is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.options import Options
from engine.stores.files import Files
from engine.stores.followed import FollowedStream, Proof, Rewritten, end_of
from engine.stores.rollouts import Damage, Located, open_source

OPTIONS = Options(block_bytes=128, line_bytes_max=600)
FORMS = {
    "record": b'{"timestamp":"t","type":"x","payload":{}}',
    "long": b'{"timestamp":"t","type":"x","payload":{"f":"%b"}}' % (b"z" * 300),
    "too long": b"w" * 700,
    "blank": b"\r",
    "damage": b"\0\0\0",
}


class File:
    """A file that changes, and a stream that looks at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_bytes(b"")
        self.compressed = False
        self.data = b""

    def write(self, data: bytes, *, in_place: bool = True) -> None:
        self.data = data
        stored = zstandard.ZstdCompressor().compress(data) if self.compressed else data
        if in_place and not self.compressed:
            with self.path.open("r+b") as file:
                file.write(stored)
                file.truncate()
        else:
            beside = self.path.with_name("beside")
            beside.write_bytes(stored)
            beside.replace(self.path)

    def look(self, stream: FollowedStream) -> list[Any]:
        source = open_source(str(self.path), compressed=self.compressed, files=Files(), options=OPTIONS)
        try:
            return list(stream.look(source, OPTIONS))
        finally:
            source.close()

    def proves(self, stream: FollowedStream, piece: int) -> bool:
        proof = Proof(stream)
        holds = None
        while holds is None:
            source = open_source(str(self.path), compressed=self.compressed, files=Files(), options=OPTIONS)
            holds = proof.step(source, piece)
            source.close()
        return holds


def told(data: bytes, start: int = 0) -> list[int]:
    """Where the lines are of some bytes from an offset on; by the standard library alone."""
    out = []
    at = start
    for line in data[start:].split(b"\n")[:-1]:
        if line.strip():
            out.append(at)
        at += len(line) + 1
    return out


class Following(RuleBasedStateMachine):
    """Appends, torn tails, trims, changes of form, rewrites and restarts in any order."""

    @initialize(
        start=st.sampled_from(["beginning", "end"]),
        before=st.lists(st.sampled_from(sorted(FORMS)), max_size=3),
        tail=st.sampled_from([b"", b'{"timest']),
    )
    def begin(self, start: str, before: list[str], tail: bytes) -> None:
        self.file = File(Path(str(TMP)) / "stream")
        self.file.write(b"".join(FORMS[each] + b"\n" for each in before) + tail)
        self.stream = FollowedStream()
        self.given: list[int] = []
        self.start = 0
        """From where on all that stands in the file was given, or is still to come."""
        self.dirty = False
        """Whether what was given may not stand there any more."""
        if start == "end":
            source = open_source(str(self.file.path), compressed=False, files=Files(), options=OPTIONS)
            self.stream = end_of(source, OPTIONS)
            source.close()
            self.start = self.file.data.rfind(b"\n") + 1

    @rule(
        form=st.sampled_from(sorted(FORMS)),
        count=st.integers(1, 3),
        rest=st.sampled_from([b"", b'{"t', b'{"timestamp":"t","ty']),
    )
    def append(self, form: str, count: int, rest: bytes) -> None:
        whole = self.file.data[: self.file.data.rfind(b"\n") + 1]
        self.file.write(whole + (FORMS[form] + b"\n") * count + rest)

    @rule()
    def trim(self) -> None:
        self.file.write(self.file.data[: self.file.data.rfind(b"\n") + 1])

    @rule()
    def change_form(self) -> None:
        self.file.compressed = not self.file.compressed
        self.file.write(self.file.data, in_place=False)

    @rule()
    def replace_by_a_copy(self) -> None:
        self.file.write(self.file.data, in_place=False)

    @rule(in_place=st.booleans(), where=st.floats(0, 1))
    def rewrite_a_byte(self, in_place: bool, where: float) -> None:
        at = int(where * len(self.file.data))
        if self.file.data[at : at + 1] in (b"", b"\n", b"Z"):
            return
        self.file.write(self.file.data[:at] + b"Z" + self.file.data[at + 1 :], in_place=in_place)
        self.dirty = self.dirty or self.stream.base <= at < self.stream.offset

    @rule(in_place=st.booleans(), where=st.floats(0, 1))
    def cut(self, in_place: bool, where: float) -> None:
        at = int(where * len(self.file.data))
        self.file.write(self.file.data[:at], in_place=in_place)
        self.dirty = self.dirty or at < self.stream.offset

    @rule()
    def restart(self) -> None:
        old = self.stream
        proven = old.proven_ns
        self.stream = FollowedStream.resumed(old.base, old.offset, old.digest, proven)

    @rule()
    def cool(self) -> None:
        self.stream.cool()

    @rule(piece=st.sampled_from([50, 10_000]))
    def prove(self, piece: int) -> None:
        if self.stream.offset > self.stream.base and not self.file.proves(self.stream, piece):
            assert self.dirty
            self.stream.doubt()

    @rule(taken=st.one_of(st.none(), st.integers(0, 2)))
    def look(self, taken: int | None) -> None:
        """All of it, or only the first that come, as one who is stopped in between."""
        base = self.stream.base
        is_new = self.stream.offset == base
        source = open_source(str(self.file.path), compressed=self.file.compressed, files=Files(), options=OPTIONS)
        events = self.stream.look(source, OPTIONS)
        found = list(events) if taken is None else [each for _, each in zip(range(taken), events, strict=False)]
        source.close()
        if found and isinstance(found[0], Rewritten):
            assert self.dirty or (is_new and self.file.data[base - 1 : base] != b"\n")
            self.dirty, self.given, self.start = False, [], found.pop(0).offset
            assert self.start == 0 or self.file.data[self.start - 1 : self.start] == b"\n"
        elif is_new and taken is None:
            self.dirty, self.start = False, min(self.start, self.stream.base)
        assert not any(isinstance(each, Rewritten) for each in found)
        self.given += [each.offset for each in found]
        if taken is None and not self.dirty:
            assert self.given == told(self.file.data, self.start)

    @invariant()
    def what_was_given_is_a_beginning_of_what_stands_there(self) -> None:
        if hasattr(self, "file") and not self.dirty:
            expected = told(self.file.data, self.start)
            assert self.given == expected[: len(self.given)]


TMP: Any = None


def test_any_changes_of_a_file_between_any_looks(tmp_path: Path) -> None:
    global TMP  # noqa: PLW0603 - a state machine is made without arguments
    TMP = tmp_path
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Following, settings=settings(max_examples=60, stateful_step_count=25))


@given(lines=st.lists(st.sampled_from(sorted(FORMS)), max_size=6), stops=st.lists(st.integers(0, 3), max_size=4))
def test_stopped_and_resumed_anywhere_each_line_is_given_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], stops: list[int]
) -> None:
    file = File(tmp_path_factory.mktemp("home") / "stream")
    file.write(b"".join(FORMS[each] + b"\n" for each in lines))
    stream = FollowedStream()
    found: list[Any] = []
    for stop in stops:
        source = open_source(str(file.path), compressed=False, files=Files(), options=OPTIONS)
        found += [each for _, each in zip(range(stop), stream.look(source, OPTIONS), strict=False)]
        source.close()
        stream = FollowedStream.resumed(stream.base, stream.offset, stream.digest, stream.proven_ns)
    found += file.look(stream)
    assert [each.offset for each in found] == told(file.data)
    kinds = {True: Located, False: Damage}
    assert [type(each) for each in found] == [
        kinds["record" in line or line == "long"] for line in lines if line != "blank"
    ]


def test_a_file_that_only_grew_is_not_read_again_and_one_that_did_anything_else_is(tmp_path: Path) -> None:
    from engine.testing.files import RecordingFiles

    file = File(tmp_path / "stream")
    file.write((FORMS["record"] + b"\n") * 100_000)
    stream = FollowedStream()
    files = RecordingFiles(Files())

    def reads() -> int:
        source = open_source(str(file.path), compressed=False, files=files, options=Options())
        files.forget()
        list(stream.look(source, Options()))
        source.close()
        return files.count("pread", op="rollout.read")

    assert reads() > 15
    file.write(file.data + FORMS["record"] + b"\n")
    assert reads() <= 6
    assert stream.proven_ns == 0
    file.write(file.data, in_place=False)
    assert reads() > 15
    assert stream.proven_ns > 0
