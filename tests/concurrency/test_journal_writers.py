"""Many processes append to one journal: every record once, in one order, whoever is stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.clock import SystemClock
from engine.errors import ForkedEngine, StoreBusy
from engine.events.item import item_of
from engine.options import Options
from engine.stores.files import Files
from engine.stores.journal import Journal
from engine.stores.rollouts import Located

CHECKOUT = Path(__file__).resolve().parents[2]
WRITERS = 8
APPENDS = 500
linux = pytest.mark.skipif(sys.platform != "linux", reason="who holds a lock is read from /proc")

WRITER = """
import sys
from engine.clock import SystemClock
from engine.events.item import item_of
from engine.options import Options
from engine.stores.files import Files
from engine.stores.journal import Journal
state, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
class Counting(Files):
    written = synced = 0
    def write(self, fd, data, *, op):
        self.written += op == "journal.write"
        return super().write(fd, data, op=op)
    def sync(self, fd, *, op):
        self.synced += op == "journal.sync"
        super().sync(fd, op=op)
files = Counting()
options = Options(busy_wait_ms=60_000, segment_bytes_max=100_000)
journal = Journal(state, options=options, clock=SystemClock(), files=files)
print("ready", flush=True)
sys.stdin.readline()
for index in range(count):
    item = item_of({"type": "home_event", "payload": {"type": "test", "from": name, "index": index, "pad": "x" * 80}})
    [(_, ordinal)] = journal.append([item])
    if count > 10_000:
        print(ordinal, index, flush=True)
assert files.synced == files.written == count, (files.synced, files.written)
print("done", flush=True)
"""


def start(state: Path, name: str, count: int) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(state), name, str(count)],
        cwd=CHECKOUT,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def content(state: Path) -> list[dict]:
    lines = b"".join(path.read_bytes() for path in sorted((state / "journal").iterdir())).split(b"\n")
    assert lines.pop() == b""
    return [json.loads(line) for line in lines]


def here(state: Path, **options) -> Journal:
    return Journal(str(state), options=Options(**options), clock=SystemClock(), files=Files())


def mark():
    return [item_of({"type": "home_event", "payload": {"type": "test", "from": "here", "index": 0}})]


def test_eight_processes_lose_tear_and_double_nothing(tmp_path: Path) -> None:
    writers = [start(tmp_path, str(number), APPENDS) for number in range(WRITERS)]
    for writer in writers:
        tell(writer)
    seen: list[tuple[str, int]] = []
    of = here(tmp_path)
    while any(writer.poll() is None for writer in writers):
        seen = [
            (json.loads(bytes(each.record.payload))["from"], each.record.ordinal or 0)
            for segment in of.segments()
            for each in of.read(segment)
            if isinstance(each, Located)
        ]
        # A reader among the writers sees a beginning of the journal, without a gap.
        assert [ordinal for _, ordinal in seen] == list(range(len(seen)))
    results = [writer.communicate(timeout=60) for writer in writers]
    assert [out for out, _ in results] == ["done\n"] * WRITERS, results
    found = content(tmp_path)
    assert [record["ordinal"] for record in found] == list(range(WRITERS * APPENDS))
    for number in range(WRITERS):
        own = [record["payload"]["index"] for record in found if record["payload"]["from"] == str(number)]
        assert own == list(range(APPENDS))
    segments = sorted(path.name for path in (tmp_path / "journal").iterdir())
    assert len(segments) > 3
    for name in segments:
        line = (tmp_path / "journal" / name).read_bytes().split(b"\n")[0]
        assert json.loads(line)["ordinal"] == int(name.removesuffix(".jsonl"))


def test_writers_killed_in_the_middle_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: dict[int, tuple[str, int]] = {}
    for turn in range(4):
        writers = {f"{turn}-{number}": start(tmp_path, f"{turn}-{number}", 100_000) for number in range(3)}
        for writer in writers.values():
            tell(writer)
        for name, writer in writers.items():
            assert writer.stdout is not None
            for _ in range(5 + 7 * turn):
                ordinal, index = writer.stdout.readline().split()
                acknowledged[int(ordinal)] = name, int(index)
            writer.kill()
        for name, writer in writers.items():
            rest, _ = writer.communicate(timeout=60)
            for line in rest.split("\n")[:-1]:
                ordinal, index = line.split()
                acknowledged[int(ordinal)] = name, int(index)
    # What a kill between the kernel's pages would leave, as none of these kills may have hit one.
    newest = max((tmp_path / "journal").iterdir())
    with newest.open("ab") as file:
        file.write(b'{"timestamp":"2026-01')
    [(_, last)] = here(tmp_path, segment_bytes_max=100_000).append(mark())
    found = content(tmp_path)
    assert [record["ordinal"] for record in found] == list(range(last + 1))
    for ordinal, (name, index) in acknowledged.items():
        payload = found[ordinal]["payload"]
        assert (payload["from"], payload["index"]) == (name, index)
    assert b'{"timestamp":"2026-01' in [path.read_bytes() for path in (tmp_path / "quarantine").iterdir()]


HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
print("holds", flush=True)
sys.stdin.readline()
"""


@linux
def test_a_stopped_holder_is_named_and_never_taken_over(tmp_path: Path) -> None:
    of = here(tmp_path, busy_wait_ms=100)
    of.append(mark())
    pipe = subprocess.PIPE
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, f"{tmp_path}/locks/journal.lock"], stdin=pipe, stdout=pipe, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holds\n"
    holder.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
    with pytest.raises(StoreBusy) as raised:
        of.append(mark())
    assert str(raised.value.holder).startswith(f"process {holder.pid} (")
    assert str(raised.value.holder).endswith(", stopped)")
    assert raised.value.waited_ms >= 100
    assert [record["ordinal"] for record in content(tmp_path)] == [0]
    holder.kill()
    holder.communicate()
    of.append(mark())
    assert [record["ordinal"] for record in content(tmp_path)] == [0, 1]


# A thread forks while another one appends: the child must not keep the journal locked, nor use what it inherited.
FORKER = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from engine.clock import SystemClock
from engine.errors import ForkedEngine
from engine.events.item import item_of
from engine.options import Options
from engine.stores.files import Files
from engine.stores.journal import Journal
inside, forked = threading.Event(), threading.Event()
class Paused(Files):
    def sync(self, fd, *, op):
        super().sync(fd, op=op)
        inside.set()
        assert forked.wait(30)
item = item_of({"type": "home_event", "payload": {"type": "test", "from": "x", "index": 0}})
journal = Journal(sys.argv[1], options=Options(busy_wait_ms=1000), clock=SystemClock(), files=Paused())
worker = threading.Thread(target=journal.append, args=([item],))
worker.start()
assert inside.wait(30)
end = os.pipe()
child = os.fork()
if child == 0:
    os.close(end[1])
    try:
        journal.append([item])
    except ForkedEngine:
        os.read(end[0], 1)
        os._exit(0)
    os._exit(1)
forked.set()
worker.join()
journal.append([item])
os.close(end[1])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_forked_during_an_append_keeps_nothing_locked(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKER, str(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
    assert ForkedEngine.__name__ not in done.stderr
    assert [record["ordinal"] for record in content(tmp_path)] == [0, 1]
