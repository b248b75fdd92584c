"""Compression and back: the same bytes in another form, and at no moment none; one item costs one frame."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import EngineError, RolloutUnusable, StoreBusy
from engine.options import Options
from engine.stores import compression
from engine.stores.compression import FRAME_BYTES, compress, compress_cold, decompress, settle
from engine.stores.files import Files
from engine.stores.frames import FRAME_BYTES_MAX, FramedSource, read_table
from engine.stores.layout import Found, Home, Refused, locate, walk
from engine.stores.rollouts import CompressedSource, open_source
from engine.stores.writer_lock import acquire
from engine.testing.clock import ManualClock
from engine.testing.files import FaultyFiles, RecordingFiles, fail_once

CHECKOUT = Path(__file__).resolve().parents[2]
DAY_MS = 86_400_000
THREAD = "019b8d63-3aa4-79ca-b017-baf18cb08e1b"
PATH = f"sessions/2026/01/05/rollout-2026-01-05T09-00-00-{THREAD}.jsonl"
MTIME_NS = 1_767_603_600_123_456_789
OPTIONS = Options()
FILES = Files()


def lines(count: int, size: int = 500, seed: int = 0) -> bytes:
    noise = random.Random(seed)
    return b"".join(
        b'{"timestamp":"2026-01-05T09:00:00.000Z","ordinal":%d,"type":"t","payload":{"x":"%s"}}\n'
        % (index, noise.randbytes(size // 2).hex().encode())
        for index in range(count)
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(str(tmp_path), f"{tmp_path}/engine")


def put(home: Home, content: bytes, *, path: str = PATH, mode: int = 0o600) -> Found:
    full = Path(home.absolute(path))
    full.parent.mkdir(parents=True, exist_ok=True)
    full.write_bytes(content)
    full.chmod(mode)
    os.utime(full, ns=(MTIME_NS, MTIME_NS))
    return there(home, path)


def there(home: Home, path: str = PATH) -> Found:
    found = locate(home, path, FILES)
    assert found is not None
    return found


def plain(home: Home, path: str = PATH) -> Path:
    return Path(home.absolute(path))


def stored(home: Home, path: str = PATH) -> Path:
    return Path(home.absolute(path, compressed=True))


def unpacked(data: bytes) -> bytes:
    """As any reader of zstd streams does."""
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()


def names(home: Home) -> list[str]:
    return sorted(path.name for path in plain(home).parent.iterdir())


def squeeze(home: Home, found: Found, files=FILES) -> Found:
    return compress(home, found, options=OPTIONS, files=files)


def restore(home: Home, found: Found, files=FILES) -> Found:
    return decompress(home, found, options=OPTIONS, files=files)


CONTENTS = {
    "empty": b"",
    "one byte": b"x",
    "no last LF": b"{}\n{}",
    "small": lines(3),
    "a frame exactly": b"x" * (FRAME_BYTES - 1) + b"\n",
    "a frame and a byte": b"x" * FRAME_BYTES + b"\n",
    "many frames": lines(6000),
    "one long line": b"y" * (FRAME_BYTES_MAX + 5 * FRAME_BYTES) + b"\n" + lines(3),
    "zeros": bytes(3 * FRAME_BYTES),
    "CRLF, BOM and no UTF-8": b"\xef\xbb\xbf{}\r\n\xff\xfe\n\0\0",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_there_and_back_is_the_same_file(home: Home, content: bytes) -> None:
    found = squeeze(home, put(home, content, mode=0o440))
    assert (found.path, found.compressed) == (PATH, True)
    assert names(home) == [stored(home).name]
    data = stored(home).read_bytes()
    assert unpacked(data) == content
    assert read_table(lambda at, size: data[at : at + size], len(data)) is not None
    assert (stored(home).stat().st_mtime_ns, stored(home).stat().st_mode & 0o777) == (MTIME_NS, 0o440)
    found = restore(home, found)
    assert (found.path, found.compressed) == (PATH, False)
    assert names(home) == [plain(home).name]
    assert plain(home).read_bytes() == content
    assert (plain(home).stat().st_mtime_ns, plain(home).stat().st_mode & 0o777) == (MTIME_NS, 0o440)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the zstd program is not there")
def test_the_zstd_program_reads_and_checks_it(home: Home) -> None:
    content = lines(5000)
    squeeze(home, put(home, content))
    subprocess.run(["zstd", "-tq", stored(home)], check=True)
    assert subprocess.run(["zstd", "-dcq", stored(home)], check=True, capture_output=True).stdout == content


def test_frames_end_where_records_end_and_the_table_is_the_published_one(home: Home) -> None:
    content = lines(6000)
    squeeze(home, put(home, content))
    data = stored(home).read_bytes()
    count, descriptor, magic = struct.unpack("<IBI", data[-9:])
    assert (descriptor, magic) == (0, 0x8F92EAB1)
    table = data[-9 - 8 * count - 8 : -9]
    assert struct.unpack("<II", table[:8]) == (0x184D2A5E, 8 * count + 9)
    at = start = 0
    for compressed_size, size in struct.iter_unpack("<II", table[8:]):
        piece = unpacked(data[at : at + compressed_size])
        assert piece == content[start : start + size]
        assert piece.endswith(b"\n")
        assert FRAME_BYTES <= size < FRAME_BYTES + 700 or start + size == len(content)
        at, start = at + compressed_size, start + size
    assert (start, at) == (len(content), len(data) - len(table) - 9)
    assert count == len(content) // FRAME_BYTES + 1


def test_one_item_far_inside_costs_one_frame(home: Home) -> None:
    content = lines(12_000)
    squeeze(home, put(home, content))
    files = RecordingFiles(Files())
    source = open_source(str(stored(home)), compressed=True, files=files, options=OPTIONS)
    files.forget()
    assert source.read_at(5_000_000, 400) == content[5_000_000:5_000_400]
    assert files.count("pread") == 1
    assert files.count("read") == 0
    assert source.read_at(5_000_400, 400) == content[5_000_400:5_000_800]
    assert files.count("pread") == 1  # the same frame, held
    source.close()


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    folder = tmp_path_factory.mktemp("framed")
    home = Home(str(folder), None)
    content = lines(5000, seed=3)
    squeeze(home, put(home, content))
    return str(stored(home)), content


@settings(max_examples=60)
@given(offset=st.integers(0, 3_000_000), size=st.one_of(st.integers(0, 2000), st.integers(0, 3_000_000)))
def test_any_range_reads_as_the_plain_file(framed: tuple[str, bytes], offset: int, size: int) -> None:
    path, content = framed
    source = open_source(path, compressed=True, files=FILES, options=OPTIONS)
    assert isinstance(source, FramedSource)
    assert source.read_at(offset, size) == content[offset : offset + size]
    assert source.read_range(offset, offset + size) == content[offset : offset + size]
    assert source.broken is None
    source.close()


def foreign(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(content)


def test_a_single_frame_of_another_program_reads_and_comes_back(home: Home) -> None:
    content = lines(4000)
    put(home, b"")
    plain(home).unlink()
    stored(home).write_bytes(foreign(content))
    source = open_source(str(stored(home)), compressed=True, files=FILES, options=OPTIONS)
    assert isinstance(source, CompressedSource)
    assert source.read_at(1_900_000, 100) == content[1_900_000:1_900_100]
    source.close()
    restore(home, there(home))
    assert plain(home).read_bytes() == content


@pytest.mark.parametrize("change", ["cut footer", "cut table", "more frames", "wrong sizes", "count too large", "sum"])
def test_a_table_that_does_not_fit_is_as_if_it_were_not_there(home: Home, change: str) -> None:
    content = lines(5000)
    squeeze(home, put(home, content))
    data = stored(home).read_bytes()
    count = int.from_bytes(data[-9:-5], "little")
    table = 8 + 8 * count + 9
    changed = {
        "cut footer": data[:-1],
        "cut table": data[:-20],
        "more frames": data + foreign(b"{}\n"),
        "wrong sizes": data[: -table + 12] + (FRAME_BYTES_MAX + 1).to_bytes(4, "little") + data[-table + 16 :],
        "count too large": data[:-9] + b"\xff\xff\xff\x7f" + data[-5:],
        "sum": data[:-table] + foreign(b"") + data[-table:],
    }[change]
    source_bytes = changed
    assert read_table(lambda at, size: source_bytes[at : at + size], len(changed)) is None
    stored(home).write_bytes(changed)
    source = open_source(str(stored(home)), compressed=True, files=FILES, options=OPTIONS)
    assert isinstance(source, CompressedSource)
    assert source.read_at(0, len(content)) == content
    source.close()


def test_a_damaged_frame_is_told_and_what_is_before_it_is_read(home: Home) -> None:
    content = lines(5000)
    squeeze(home, put(home, content))
    data = bytearray(stored(home).read_bytes())
    frames = read_table(lambda at, size: bytes(data[at : at + size]), len(data))
    assert frames is not None
    data[frames[0].stored + frames[1].stored // 2] ^= 0xFF
    stored(home).write_bytes(data)
    source = open_source(str(stored(home)), compressed=True, files=FILES, options=OPTIONS)
    assert source.read_at(0, len(content)) == content[: frames[0].plain]
    assert source.broken is not None
    assert "damaged" in source.broken
    source.close()
    with pytest.raises(RolloutUnusable, match="damaged"):
        restore(home, there(home))
    assert names(home) == [stored(home).name]  # what is damaged stays as it is, and no half of it is made


def test_a_frame_that_is_larger_than_its_table_says_is_not_begun(home: Home) -> None:
    bomb = foreign(bytes(200 * 1024 * 1024))
    put(home, b"")
    plain(home).unlink()
    stored(home).write_bytes(bomb + compression.render_table([compression.Frame(len(bomb), 10)]))
    source = open_source(str(stored(home)), compressed=True, files=FILES, options=OPTIONS)
    tracemalloc.start()
    assert source.read_at(0, 10) == b""
    assert tracemalloc.get_traced_memory()[1] < 10 * 1024 * 1024
    tracemalloc.stop()
    assert source.broken is not None
    source.close()


@pytest.mark.parametrize("cut", [1, 5, 100, 5000])
def test_a_cut_compressed_rollout_is_not_brought_back(home: Home, cut: int) -> None:
    put(home, b"")
    plain(home).unlink()
    data = foreign(lines(500))
    stored(home).write_bytes(data[:-cut])
    with pytest.raises(RolloutUnusable) as raised:
        restore(home, there(home))
    assert "audit" in raised.value.hint
    assert stored(home).read_bytes() == data[:-cut]
    assert names(home) == [stored(home).name]


def test_a_name_that_is_taken_is_never_replaced(home: Home) -> None:
    found = put(home, lines(10))
    stored(home).write_bytes(foreign(b"something else\n"))
    with pytest.raises(RolloutUnusable, match="differ"):
        squeeze(home, found)
    assert unpacked(stored(home).read_bytes()) == b"something else\n"
    assert plain(home).read_bytes() == lines(10)


def test_a_name_that_is_taken_at_the_last_moment_is_never_replaced(home: Home) -> None:
    class Taken(Files):
        def link(self, source, target, *, op):
            Path(target).write_bytes(b"theirs")
            super().link(source, target, op=op)

    with pytest.raises(RolloutUnusable, match="exists"):
        squeeze(home, put(home, lines(10)), Taken())
    assert stored(home).read_bytes() == b"theirs"
    assert plain(home).read_bytes() == lines(10)


@pytest.mark.parametrize("at", ["compress.create", "compress.sync", "compress.link", "compress.sync_folder"])
def test_what_somebody_appends_meanwhile_is_kept(home: Home, at: str) -> None:
    content = lines(10)
    linked: list[str] = []

    class Meddled(Files):
        def _meddle(self, op):
            if op == at and plain(home).stat().st_size == len(content):
                with plain(home).open("ab") as file:
                    file.write(b"{}\n")

        def create(self, path, *, op):
            self._meddle(op)
            return super().create(path, op=op)

        def sync(self, fd, *, op):
            super().sync(fd, op=op)
            self._meddle(op)

        def link(self, source, target, *, op):
            linked.append(op)
            super().link(source, target, op=op)
            self._meddle(op)

        def sync_folder(self, path, *, op):
            super().sync_folder(path, op=op)
            self._meddle(op)

    with pytest.raises(RolloutUnusable, match="changed meanwhile"):
        squeeze(home, put(home, content), Meddled())
    assert plain(home).read_bytes() == content + b"{}\n"
    assert names(home) == [plain(home).name]
    assert bool(linked) == (at in ("compress.link", "compress.sync_folder"))  # else it was seen before there were two


def test_the_new_form_stays_where_the_old_one_vanished_at_the_last_moment(home: Home) -> None:
    class Gone(Files):
        def link(self, source, target, *, op):
            super().link(source, target, op=op)
            plain(home).unlink()

    with pytest.raises(RolloutUnusable):
        squeeze(home, put(home, lines(10)), Gone())
    assert unpacked(stored(home).read_bytes()) == lines(10)


def test_what_reads_back_wrong_is_not_taken(home: Home) -> None:
    class Rotten(Files):
        def write(self, fd, data, *, op):
            return super().write(fd, bytes(len(data)) if len(data) > 100 else data, op=op)

    with pytest.raises(RolloutUnusable):
        squeeze(home, put(home, lines(2000)), Rotten())
    assert names(home) == [plain(home).name]
    found = squeeze(home, there(home))
    with pytest.raises(RolloutUnusable, match="read back"):
        restore(home, found, Rotten())
    assert names(home) == [stored(home).name]


def test_the_old_form_goes_after_the_new_one_and_its_name_are_synced(home: Home) -> None:
    files = RecordingFiles(Files())
    squeeze(home, put(home, lines(10)), files)
    steps = [call.name for call in files.calls if call.name in ("sync", "link", "sync_folder", "remove")]
    assert steps[steps.index("sync") :] == ["sync", "link", "remove", "sync_folder", "remove", "sync_folder"]
    removed = files.paths("remove", op="compress.remove")
    assert removed == [str(plain(home))]


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_whatever_call_fails_one_whole_form_is_there_and_the_next_try_succeeds(
    home: Home, error: int, back: bool
) -> None:
    content = lines(200)
    surfaced: set[str] = set()
    number = 0
    while True:
        path = PATH.replace("baf18cb08e1b", f"{number:012x}")
        found = put(home, content, path=path)
        found = squeeze(home, found) if back else found
        files = FaultyFiles(Files(), fail_once(number, error))
        try:
            (restore if back else squeeze)(home, found, files)
        except RolloutUnusable:
            surfaced.update(call.op for call in files.struck)
        assert readable(home, path) == content, files.struck
        if not files.struck:
            break
        again = there(home, path)
        if again.compressed == back:
            (restore if back else squeeze)(home, again)
        settle(home, there(home, path), options=OPTIONS, files=FILES)
        assert readable(home, path) == content
        left = [name for name in names(home) if f"{number:012x}" in name]
        assert len(left) == 1, files.struck
        number += 1
    assert {"compress.create", "compress.write", "compress.sync", "compress.link", "compress.look"} <= surfaced
    assert {"rollout.open", "compress.sync_folder", "compress.remove"} <= surfaced


def readable(home: Home, path: str) -> bytes:
    """What a reader sees: the plain file, else the compressed one, whole."""
    if plain(home, path).exists():
        return plain(home, path).read_bytes()
    return unpacked(stored(home, path).read_bytes())


# Compresses, or brings back, and is killed by the kernel before the call of a given number; its parent goes on.
KILLED = """
import os, signal, sys
from engine.options import Options
from engine.stores.compression import compress, decompress, settle
from engine.stores.files import Files
from engine.stores.layout import Home, locate, walk
from engine.testing.files import FaultyFiles
home, path, back = Home(sys.argv[1], None), sys.argv[2], sys.argv[3] == "back"
forms = [home.absolute(path), home.absolute(path, compressed=True)]
options, files = Options(), Files()
way, undo = (decompress, compress) if back else (compress, decompress)
content = open(forms[0], "rb").read()
if back:
    compress(home, locate(home, path, files), options=options, files=files)
number, left = 0, set()
while True:
    def fault(at, call):
        if at == number:
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        way(home, locate(home, path, files), options=options, files=FaultyFiles(files, fault))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left.add(tuple(os.path.exists(form) for form in forms))
    seen = [each for found in walk(home, files) for each in found]
    assert [each.path for each in seen] == [path], (number, seen)
    if os.path.exists(forms[0]):
        assert open(forms[0], "rb").read() == content, number
    if code == 0:
        break
    assert code == -signal.SIGKILL, code
    found = locate(home, path, files)
    if found.compressed == back:
        found = way(home, found, options=options, files=files)
    settle(home, found, options=options, files=files)
    found = locate(home, path, files)
    if found.compressed != back:
        undo(home, found, options=options, files=files)
    assert len(os.listdir(os.path.dirname(forms[0]))) == 1, (number, os.listdir(os.path.dirname(forms[0])))
    number += 1
print(number, sorted(left))
"""


@pytest.mark.parametrize("way", ["there", "back"])
def test_killed_before_any_call_one_whole_rollout_is_seen_and_the_next_try_succeeds(home: Home, way: str) -> None:
    put(home, lines(3000))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, home.path, PATH, way],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    number, _, states = done.stdout.partition(" ")
    assert int(number) > 20
    # It was killed with the old form alone, with both, and with the new one alone.
    assert states == "[(False, True), (True, False), (True, True)]\n"


def test_a_plain_file_that_goes_on_from_its_compressed_one_keeps_what_was_appended(home: Home) -> None:
    content = lines(100)
    found = put(home, content + b"{}\n")
    stored(home).write_bytes(foreign(content))
    assert settle(home, found, options=OPTIONS, files=FILES) is None
    assert names(home) == [plain(home).name]
    assert plain(home).read_bytes() == content + b"{}\n"


def test_a_cut_compressed_file_beside_a_plain_one_proves_nothing_and_stays(home: Home) -> None:
    found = put(home, lines(100))
    stored(home).write_bytes(foreign(lines(100))[:-10])
    with pytest.raises(RolloutUnusable):
        settle(home, found, options=OPTIONS, files=FILES)
    assert len(names(home)) == 2


NOW_MS = 1_767_603_600_000 + 30 * DAY_MS


def cold(home: Home, *, days: float = 7, now_ms: int = NOW_MS, clock=None):
    return compress_cold(
        home,
        older_than_days=days,
        now_ms=now_ms,
        options=Options(busy_wait_ms=20),
        clock=clock or ManualClock(),
        files=FILES,
    )


def at(path_end: str) -> str:
    return PATH.replace("baf18cb08e1b", path_end * 12)


def test_old_rollouts_active_and_archived_are_compressed_and_what_is_not_cold_is_not(home: Home) -> None:
    archived = f"archived_sessions/{PATH.rpartition('/')[2]}".replace("baf18cb08e1b", "a" * 12)
    put(home, lines(50), path=at("1"))
    put(home, lines(50), path=archived)
    put(home, lines(50).replace(b"2026-01-05T09:00:00", b"2026-02-03T09:00:00"), path=at("2"))  # spoke a day ago
    put(home, lines(50).replace(b"2026-01-05T09:00:00", b"2027-02-03T09:00:00"), path=at("3"))  # in the future
    put(home, lines(50), path=at("4"))
    os.utime(plain(home, at("4")), ns=((NOW_MS - DAY_MS) * 1_000_000,) * 2)  # was touched a day ago
    put(home, b"no record\n", path=at("5"))
    put(home, b"", path=at("6"))
    squeeze(home, put(home, lines(50), path=at("7")))
    report = cold(home)
    assert sorted(report.compressed) == sorted([at("1"), archived])
    assert report.skipped == {"not old enough": 3, "unreadable": 2, "compressed": 1}
    assert report.failed == []
    assert report.bytes_before == 2 * len(lines(50))
    assert 0 < report.bytes_after < report.bytes_before
    left = [each.path for found in walk(home, FILES) if not isinstance(found, Refused) for each in found]
    assert len(left) == 8
    assert cold(home).compressed == []


def test_the_time_of_the_last_record_is_found_behind_garbage_and_a_torn_tail(home: Home) -> None:
    put(home, lines(50) + b"garbage\n\xff\n" + b'{"timestamp":"2026')
    assert cold(home).compressed == [PATH]


def test_a_rollout_in_use_is_left_alone_also_by_the_codex_lock(home: Home) -> None:
    import fcntl

    folder = Path(home.path) / "thread-writer-locks"
    folder.mkdir()
    put(home, lines(50))
    lock = acquire(home, THREAD, "write", options=OPTIONS, clock=ManualClock(), files=FILES)
    assert (cold(home).compressed, cold(home).skipped) == ([], {"in use": 1})
    lock.release()
    fd = os.open(folder / f"{THREAD}.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert cold(home).skipped == {"in use": 1}
    os.close(fd)
    assert cold(home).compressed == [PATH]
    assert not (folder / f"{THREAD}.lock").exists()  # given back


def test_one_bad_rollout_does_not_stop_the_others(home: Home) -> None:
    put(home, lines(50), path=at("1"))
    put(home, lines(50), path=at("2"))
    stored(home, at("2")).write_bytes(foreign(b"other\n"))
    report = cold(home)
    assert report.compressed == [at("1")]
    assert [path for path, _ in report.failed] == [at("2")]
    assert acquire(home, THREAD, "test", options=OPTIONS, clock=ManualClock(), files=FILES).release() is None


def test_a_run_waits_for_the_codex_clis_maintenance_with_a_bound(home: Home) -> None:
    import fcntl

    put(home, lines(50))
    (Path(home.path) / ".tmp").mkdir()
    fd = os.open(Path(home.path) / ".tmp/rollout-maintenance.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(StoreBusy):
        cold(home)
    os.close(fd)
    assert cold(home).compressed == [PATH]


def test_a_run_that_a_crash_ended_between_the_forms_is_finished_by_the_next(home: Home) -> None:
    found = put(home, lines(50))
    squeeze(home, found)
    data = stored(home).read_bytes()
    stored(home).unlink()
    put(home, lines(50))
    stored(home).write_bytes(data)
    assert cold(home).compressed == [PATH]
    assert names(home) == [stored(home).name]


def test_a_half_written_file_that_a_crash_left_is_removed_by_the_next_run(home: Home) -> None:
    squeeze(home, put(home, lines(50)))
    for form in (plain(home), stored(home)):
        form.with_name(f".{form.name}.swap").write_bytes(b"half")
    assert cold(home).skipped == {"compressed": 1}
    assert names(home) == [stored(home).name]


def test_a_link_is_not_followed(home: Home, tmp_path: Path) -> None:
    put(home, b"")
    plain(home).unlink()
    (tmp_path / "outside").write_bytes(lines(10))
    plain(home).symlink_to(tmp_path / "outside")
    assert cold(home).compressed == []
    assert (tmp_path / "outside").read_bytes() == lines(10)


def test_records_stand_where_they_stood(home: Home) -> None:
    content = lines(5000)
    squeeze(home, put(home, content))
    source = open_source(str(stored(home)), compressed=True, files=FILES, options=OPTIONS)
    offset = 0
    for number, line in enumerate(content.split(b"\n")[:-1]):
        if number % 500 == 0:
            assert json.loads(source.read_at(offset, len(line)))["ordinal"] == number
        offset += len(line) + 1
    source.close()


def test_errors_are_of_the_engine(home: Home) -> None:
    assert issubclass(RolloutUnusable, EngineError)
    found = put(home, lines(10))
    plain(home).unlink()
    with pytest.raises(RolloutUnusable) as raised:
        squeeze(home, found)
    assert raised.value.path == PATH
    assert "nothing is lost" in raised.value.hint
