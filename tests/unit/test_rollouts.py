"""Reading a rollout: the same lines from any offset, in both directions, plain or compressed, at a cost that is linear."""

from __future__ import annotations

import errno
import random
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from engine.options import Options
from engine.projections.fold import Folder
from engine.projections.registry import THREADS
from engine.projections.threads import stream_of
from engine.stores.files import Files
from engine.stores.frames import Frame, render_table
from engine.stores.rollouts import (
    Block,
    Damage,
    Located,
    blocks,
    lines_backwards,
    open_source,
    records,
    spooled,
)
from engine.stores.watermarks import chain_at
from engine.testing.files import FaultyFiles
from tests.in_memory import Bytes

GOOD = b'{"timestamp":"x","type":"a","payload":{}}'
SIZES = st.one_of(st.integers(1, 64), st.just(256 * 1024))
CONTENT = st.lists(
    st.one_of(st.sampled_from([b"", b"\r", b"a", b"\0\0", b"\xe2\x80\xa8", b"\xff", GOOD]), st.binary(max_size=90)),
    max_size=12,
).map(b"\n".join)


class Counting(Files):
    """Counts the bytes that come from disk and how often a file is wound back."""

    def __init__(self):
        self.bytes = 0
        self.seeks = 0

    def pread(self, fd, size, offset, *, op):
        data = super().pread(fd, size, offset, op=op)
        self.bytes += len(data)
        return data

    def read(self, fd, size, *, op):
        data = super().read(fd, size, op=op)
        self.bytes += len(data)
        return data

    def seek(self, fd, offset, *, op):
        self.seeks += 1
        super().seek(fd, offset, op=op)


def split(data, start=0):
    """Lines as (offset, bytes, terminated), told by Python alone."""
    found, at = [], start
    parts = data[start:].split(b"\n")
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if not last or part:
            found.append((at, part, not last))
        at += len(part) + 1
    return found


def forwards(source, start, end, options):
    found = []
    for block in blocks(source, start, end, options):
        at = 0
        while at < block.end:
            stop = block.data.find(b"\n", at, block.end)
            found.append((block.offset + at, bytes(block.data[at : stop if stop >= 0 else block.end]), stop >= 0))
            at = (stop if stop >= 0 else block.end) + 1
    return found


def written(tmp_path, data, *, compressed=False):
    path = tmp_path / "rollout"
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if compressed else data)
    return str(path)


def read(path, *, compressed, options=None, files=None):
    source = open_source(path, compressed=compressed, files=files or Files(), options=options or Options())
    try:
        return list(records(source, 0, None, options or Options())), source.broken
    finally:
        source.close()


@given(CONTENT, SIZES, st.integers(0, 20))
def test_forwards_from_any_line_gives_the_lines_that_are_there(data, block_bytes, number):
    lines = split(data)
    start = lines[number % len(lines)][0] if lines else 0
    assert forwards(Bytes(data), start, None, Options(block_bytes=block_bytes)) == split(data, start)


@given(CONTENT, SIZES, st.integers(0, 2_000))
def test_backwards_from_any_offset_gives_the_same_lines_last_first(data, block_bytes, end):
    end = min(end, len(data))
    found = list(lines_backwards(Bytes(data), end, Options(block_bytes=block_bytes)))
    assert found[::-1] == split(data[:end])


@given(CONTENT, SIZES, st.integers(0, 2_000))
def test_forwards_to_any_offset_stops_there(data, block_bytes, end):
    """A frozen end: what stands behind it is not read, and the piece of a line before it counts as unterminated."""
    end = min(end, len(data))
    assert forwards(Bytes(data), 0, end, Options(block_bytes=block_bytes)) == split(data[:end])


@given(CONTENT, st.integers(1, 64), st.integers(1, 64))
def test_a_block_ends_with_a_lines_end_and_is_no_larger_than_a_block_or_a_line(data, block_bytes, line_bytes_max):
    at = 0
    found = list(blocks(Bytes(data), 0, None, Options(block_bytes=block_bytes, line_bytes_max=line_bytes_max)))
    for number, block in enumerate(found):
        assert block.offset == at
        assert block.terminated or number == len(found) - 1
        assert data[at : at + block.length].endswith(b"\n") is block.terminated
        assert block.end <= max(block_bytes, line_bytes_max + 1)
        at += block.length
    assert at == len(data)


@given(CONTENT, st.integers(1, 40), st.integers(1, 64))
def test_a_line_that_is_too_long_is_passed_in_both_directions(data, block_bytes, line_bytes_max):
    """Lines within a block may be longer than the bound of lines: they are held anyway."""
    options = Options(block_bytes=block_bytes, line_bytes_max=max(line_bytes_max, block_bytes))
    long = [offset for offset, line, _ in split(data) if len(line) > options.line_bytes_max]
    assert [block.offset for block in blocks(Bytes(data), 0, None, options) if block.too_long] == long
    back = list(lines_backwards(Bytes(data), len(data), options))
    assert [offset for offset, line, _ in back[::-1] if len(line) == 0 and offset in long] == long
    assert [line for offset, line, _ in back[::-1] if offset not in long] == [
        line for offset, line, _ in split(data) if offset not in long
    ]


@pytest.mark.parametrize("compressed", [False, True])
def test_every_line_is_a_record_or_damage_with_its_place(tmp_path, compressed):
    content = b"\n".join([GOOD, b"", b"garbage", GOOD + b"\r", b"\xff", b" \t\r", GOOD, b'{"timestamp":"'])
    found, broken = read(written(tmp_path, content, compressed=compressed), compressed=compressed)
    assert [(type(each).__name__, each.offset, each.length) for each in found] == [
        ("Located", 0, 41),
        ("Damage", 43, 7),
        ("Located", 51, 42),
        ("Damage", 94, 1),
        ("Located", 100, 41),
        ("Damage", 142, 14),
    ]
    assert [each.look for each in found if isinstance(each, Damage)] == ["garbage", "not UTF-8", "torn"]
    assert [each.terminated for each in found if isinstance(each, Damage)] == [True, True, False]
    assert broken is None


def test_a_last_record_without_its_newline_counts(tmp_path):
    """V4."""
    found, _ = read(written(tmp_path, GOOD + b"\n" + GOOD), compressed=False)
    assert [each.offset for each in found if isinstance(each, Located)] == [0, 42]


def test_a_byte_order_mark_is_passed_over_at_the_start_alone(tmp_path):
    mark = b"\xef\xbb\xbf"
    found, _ = read(written(tmp_path, mark + GOOD + b"\n" + mark + GOOD + b"\n"), compressed=False)
    assert [type(each).__name__ for each in found] == ["Located", "Damage"]
    assert found[0].length == 44


def test_a_line_separator_of_unicode_ends_no_line(tmp_path):
    line = '{"timestamp":"x","type":"a","payload":{"t":"a\u2028b\u2029c\x85d"}}'.encode()
    found, _ = read(written(tmp_path, line + b"\n"), compressed=False)
    assert [type(each).__name__ for each in found] == ["Located"]


def test_a_line_over_the_bound_is_damage_of_its_whole_length(tmp_path):
    options = Options(block_bytes=64, line_bytes_max=200)
    long = b'{"timestamp":"x","type":"a","payload":{"t":"' + b"a" * 500 + b'"}}'
    found, _ = read(written(tmp_path, GOOD + b"\n" + long + b"\n" + GOOD + b"\n"), compressed=False, options=options)
    assert [type(each).__name__ for each in found] == ["Located", "Damage", "Located"]
    assert (found[1].offset, found[1].length, found[1].look) == (42, len(long), "too long")


def test_a_line_of_just_the_bound_is_held():
    options = Options(block_bytes=16, line_bytes_max=41)
    data = GOOD + b"\n" + GOOD
    assert [type(each).__name__ for each in records(Bytes(data), 0, None, options)] == ["Located", "Located"]
    assert [line for _, line, _ in lines_backwards(Bytes(data), len(data), options)] == [GOOD, GOOD]
    tighter = Options(block_bytes=16, line_bytes_max=40)
    assert [type(each).__name__ for each in records(Bytes(data), 0, None, tighter)] == ["Damage", "Damage"]
    assert [line for _, line, _ in lines_backwards(Bytes(data), len(data), tighter)] == [b"", b""]


def test_a_long_line_that_nobody_wants_is_passed_over_with_its_head():
    data = GOOD + b"\n" + b"x" * 300 + b"\n" + GOOD + b"\n"
    asked = []
    found = list(blocks(Bytes(data), 0, None, Options(block_bytes=50), wants=asked.append))
    assert asked == [b"x" * 50]
    assert [(block.offset, block.length, block.passed, block.too_long) for block in found] == [
        (0, 42, 0, False),
        (42, 301, 301, False),
        (343, 42, 0, False),
    ]
    assert found[1] == Block(42, b"x" * 50, 50, terminated=True, passed=301)


def test_the_bytes_of_a_line_that_is_passed_over_go_by_once_and_in_order():
    """So that a digest of them costs no second reading, which would unpack a compressed file from its beginning."""
    data = GOOD + b"\n" + b"x" * 130 + b"\n" + GOOD + b"\n" + b"y" * 120
    pieces = []
    found = list(
        blocks(
            Bytes(data), 0, None, Options(block_bytes=50), wants=lambda head: head[:1] == b"y", passing=pieces.append
        )
    )
    assert pieces == [b"x" * 50, b"x" * 50, b"x" * 30 + b"\n"]
    assert [block.length for block in found] == [42, 131, 42, 120]


@pytest.mark.parametrize("lines", [5, 40])
def test_long_lines_that_are_passed_over_do_not_unpack_a_compressed_rollout_again(tmp_path, lines):
    """Each such line once cost a fresh start: the fold read it a second time, for its digest."""
    line = b'{"timestamp":"2026-01-05T09:00:00.000Z","type":"response_item","payload":{"t":"%b"}}\n' % (b"a" * 800_000)
    data = line * lines
    files = Counting()
    source = open_source(written(tmp_path, data, compressed=True), compressed=True, files=files, options=Options())
    stream = stream_of("sessions/rollout-2026-01-05T09-00-00-01a20464-403f-7170-9722-7a9790eef98c.jsonl")
    (folded,) = Folder([THREADS], Options()).fold(stream, source, {}, compressed=True)
    source.close()
    assert folded.mark.offset == len(data)
    assert folded.mark.chain == chain_at(Bytes(data), len(data)).digest
    assert files.seeks == 1


def test_what_is_appended_while_a_file_is_read_waits_for_the_next_look(tmp_path):
    path = written(tmp_path, GOOD + b"\n")
    source = open_source(path, compressed=False, files=Files(), options=Options())
    with open(path, "ab") as file:
        file.write(GOOD + b"\n")
    assert len(list(records(source, 0, None, Options()))) == 1
    source.close()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "link").symlink_to(written(tmp_path, GOOD))
    with pytest.raises(OSError, match="symbolic"):
        open_source(str(tmp_path / "link"), compressed=False, files=Files(), options=Options())


@pytest.mark.parametrize("form", ["plain", "frames", "one piece"])
def test_a_close_that_fails_after_all_was_read_is_no_failure_of_the_reader(tmp_path, form):
    data = GOOD + b"\n"
    squeezed = zstandard.compress(data)
    framed = squeezed + render_table([Frame(len(squeezed), len(data))])
    path = written(tmp_path, {"plain": data, "frames": framed, "one piece": squeezed}[form])
    files = FaultyFiles(Files(), lambda _, call: errno.EIO if call.name == "close" else None)
    source = open_source(path, compressed=form != "plain", files=files, options=Options())
    assert source.read_at(0, 1 << 20) == data
    source.close()
    assert [call.op for call in files.struck] == ["rollout.close"]


def conversation(lines, length=900):
    return b"".join(
        b'{"timestamp":"x","type":"a","payload":{"n":%d,"t":"%b"}}\n' % (n, b"a" * length) for n in range(lines)
    )


SKIPPABLE = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00table"


def frames(data, count):
    size = len(data) // count + 1
    packer = zstandard.ZstdCompressor(write_checksum=True)
    return [packer.compress(data[at : at + size]) for at in range(0, len(data), size)]


@pytest.mark.parametrize("block_bytes", [100, 5_000, 256 * 1024])
def test_frames_are_read_as_one_stream_and_skippable_ones_are_skipped(tmp_path, block_bytes):
    data = conversation(400)
    path = tmp_path / "rollout"
    path.write_bytes(SKIPPABLE + SKIPPABLE.join(frames(data, 5)) + SKIPPABLE)
    found, broken = read(str(path), compressed=True, options=Options(block_bytes=block_bytes))
    assert [type(each).__name__ for each in found] == ["Located"] * 400
    assert broken is None


def test_frames_without_a_content_size_and_with_stored_blocks_are_whole(tmp_path):
    """As a streaming writer makes them; bytes that do not shrink are stored, and equal ones become a run."""
    noise = random.Random(1).randbytes(300_000).replace(b"\n", b"x") + b"\n" + b"\0" * 600_000
    path = tmp_path / "rollout"
    with open(path, "wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as packed:
        packed.write(noise)
    source = open_source(str(path), compressed=True, files=Files(), options=Options())
    assert source.read_at(0, 2_000_000) == noise
    assert source.broken is None
    source.close()


def test_a_cut_compressed_file_gives_what_is_there_and_says_that_it_is_cut(tmp_path):
    """The decompressor itself is silent about it: a rollout that was cut half way would read as a shorter one."""
    data = conversation(2_000)
    whole = frames(data, 3)
    path = tmp_path / "rollout"
    stored = b"".join(whole)
    for cut in (1, 4, 10, len(whole[0]) - 1, len(whole[0]) + 1, len(whole[0]) + 60, len(stored) - 1):
        path.write_bytes(stored[:cut])
        found, broken = read(str(path), compressed=True)
        assert broken is not None, cut
        assert all(isinstance(each, Located) for each in found[:-1])
    for end in (0, len(whole[0]), len(whole[0]) + len(whole[1]), len(stored)):
        path.write_bytes(stored[:end])
        assert read(str(path), compressed=True)[1] is None, end


def test_a_damaged_frame_ends_the_stream_and_is_told(tmp_path):
    data = conversation(3_000, length=300)
    first, second, third = frames(data, 3)
    damaged = bytearray(second)
    damaged[len(second) // 2] ^= 0xFF
    path = tmp_path / "rollout"
    path.write_bytes(first + bytes(damaged) + third)
    found, broken = read(str(path), compressed=True)
    assert broken is not None
    assert "damaged" in broken
    assert 900 < sum(isinstance(each, Located) for each in found) < 2_100
    path.write_bytes(b"no zstd at all")
    found, broken = read(str(path), compressed=True)
    assert found == []
    assert broken is not None


def test_a_compressed_file_may_be_read_at_any_place_in_any_order(tmp_path):
    data = conversation(700)
    path = written(tmp_path, data, compressed=True)
    source = open_source(path, compressed=True, files=Files(), options=Options(block_bytes=4096))
    for offset, size in [
        (0, 10),
        (600_000, 50),
        (599_000, 2_000),
        (5, 600_000),
        (0, 1),
        (len(data) - 3, 100),
        (10**9, 5),
    ]:
        assert source.read_at(offset, size) == data[offset : offset + size]
    source.close()


def test_a_compressed_file_is_read_backwards_from_its_plain_bytes(tmp_path):
    data = conversation(50) + b"tail"
    options = Options(block_bytes=1_000)
    files = Files()
    source = open_source(written(tmp_path, data, compressed=True), compressed=True, files=files, options=options)
    with spooled(source, files, options) as plain:
        assert plain.stat.size == len(data)
        assert list(lines_backwards(plain, len(data), options))[::-1] == split(data)
    source.close()


@pytest.mark.parametrize("length", [100, 40_000, 140_000, 1_000_000])
def test_reading_costs_at_most_twice_the_bytes_for_lines_of_any_length(tmp_path, length):
    """A line that a block cuts is read again once, with the next block; a long one is read straight on."""
    data = conversation(max(4_000_000 // length, 2), length)
    files = Counting()
    found, _ = read(written(tmp_path, data), compressed=False, files=files)
    assert len(found) == max(4_000_000 // length, 2)
    assert files.bytes <= 2 * len(data)
    source = open_source(written(tmp_path, data), compressed=False, files=files, options=Options())
    files.bytes = 0
    assert len(list(lines_backwards(source, len(data), Options()))) == len(found)
    assert files.bytes == len(data)
    source.close()


@pytest.mark.parametrize("length", [100, 140_000, 1_000_000])
def test_reading_a_compressed_file_forwards_decompresses_it_once(tmp_path, length):
    data = conversation(max(4_000_000 // length, 2), length)
    path = written(tmp_path, data, compressed=True)
    files = Counting()
    read(path, compressed=True, files=files)
    assert files.seeks == 1


def test_cost_of_one_endless_line_is_linear():
    """Blocks of 64 bytes and no LF at all: each byte is asked for once or twice, not once a block."""
    asked = []

    class Asked(Bytes):
        def read_at(self, offset, size):
            asked.append(size)
            return super().read_at(offset, size)

    data = b"x" * 100_000
    options = Options(block_bytes=64)
    assert [block.length for block in blocks(Asked(data), 0, None, options)] == [100_000]
    assert sum(asked) <= 100_000 + 3 * 64
    asked.clear()
    assert [len(line) for _, line, _ in lines_backwards(Asked(data), len(data), options)] == [100_000]
    assert sum(asked) == 100_000


@pytest.mark.parametrize("compressed", [False, True])
def test_a_line_of_50_mb_is_held_twice_at_most(tmp_path, compressed):
    """Once as it was read and once as the line that is decoded."""
    size = 50_000_000
    data = GOOD + b'\n{"timestamp":"x","type":"a","payload":{"t":"' + b"QUJD" * (size // 4) + b'"}}\n' + GOOD + b"\n"
    path = written(tmp_path, data, compressed=compressed)
    del data
    source = open_source(path, compressed=compressed, files=Files(), options=Options())
    tracemalloc.start()
    looks = [type(each).__name__ for each in records(source, 0, None, Options())]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    source.close()
    assert looks == ["Located", "Located", "Located"]
    assert peak < 2.6 * size


def test_a_line_of_50_mb_that_nobody_wants_or_that_is_too_long_is_never_held(tmp_path):
    path = written(tmp_path, b"x" * 50_000_000 + b"\n" + GOOD + b"\n")
    source = open_source(path, compressed=False, files=Files(), options=Options())
    tracemalloc.start()
    lengths = [block.length for block in blocks(source, 0, None, Options(), wants=lambda _: False)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lengths == [50_000_001, 42]
    assert peak < 3_000_000
    options = Options(line_bytes_max=1_000_000)
    tracemalloc.start()
    back = [len(line) for _, line, _ in lines_backwards(source, source.stat.size, options)]
    looks = [type(each).__name__ for each in records(source, 0, None, options)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    source.close()
    assert back == [41, 0]
    assert looks == ["Damage", "Located"]
    assert peak < 6_000_000
