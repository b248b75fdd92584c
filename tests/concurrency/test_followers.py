"""Four writers, four followers, all processes; archiving, compressing and kill -9 meanwhile: every list is the log.

Two followers are killed too, and go on from the last token that they kept with what they had told. One has events, one
polls, one keeps its state elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.errors import EngineError
from engine.options import Options
from engine.stores.compression import compress
from engine.stores.files import Files
from engine.stores.layout import Home, locate
from engine.testing.homes import read_lines
from tests.writing import rollouts

CHECKOUT = Path(__file__).resolve().parents[2]

# Appends batches to threads of its own, one at a time, until the file "stop" is there.
WRITER = """
import os, random, sys
import engine
from engine.errors import EngineError
home, seed = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)
own = f"{home}.writer{seed % 4}"
known = open(own).read().split() if os.path.exists(own) else []
with engine.open(home) as e:
    print("ready", flush=True)
    number = 0
    while not os.path.exists(f"{home}.stop"):
        try:
            thread = e.threads.resume(rng.choice(known)) if known and rng.random() < 0.7 else e.threads.create(cwd="/")
        except EngineError:
            continue  # archived, or being moved
        with thread:
            for _ in range(rng.randrange(1, 12)):
                batch = [{"type": "x", "payload": {"n": number + at, "f": "x" * rng.randrange(3000)}} for at in range(3)]
                thread.append(batch, durability=rng.choice(["buffered", "durable"]))
                number += 3
            if thread.id not in known:
                known.append(thread.id)
                with open(own, "a") as file:
                    file.write(thread.id + chr(10))
"""

# Keeps what it is told, with a token behind each piece, both in one write; goes on from the last token that is there.
FOLLOWER = """
import json, os, sys, zlib
home, out, how = sys.argv[1:]
if how == "polling":
    sys.modules["watchfiles"] = None
import engine
from engine.follow import Notice
start = "beginning"
if os.path.exists(out):
    kept = open(out, "rb").read()
    os.truncate(out, kept.rfind(b"\\n") + 1)  # a kill can cut even one write
    pieces = kept[: kept.rfind(b"\\n") + 1].splitlines()
    start = json.loads(pieces[-1])["token"] if pieces else start
file = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
with engine.open(home, state_dir=f"{out}.state" if how == "elsewhere" else None) as e:
    with e.follow(start=start) as follower:
        print("ready", flush=True)
        told = []
        while True:
            found = follower.poll()
            if found is not None:
                if isinstance(found, Notice):
                    told.append(["notice", found.what, found.reason])
                else:
                    payload = json.dumps(found.record.payload, sort_keys=True).encode()
                    told.append([found.rollout_id, found.record.offset, zlib.crc32(payload)])
            if told and (found is None or len(told) >= 100):
                os.write(file, json.dumps({"told": told, "token": follower.token}).encode() + b"\\n")
                told = []
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate(timeout=60)[1]
    return process


def kill(process: subprocess.Popen[str]) -> None:
    assert process.poll() is None, process.communicate(timeout=60)[1]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def logged(home: Path) -> dict[str, list[tuple[int, int]]]:
    """What stands in the files, by the standard library alone: each rollout's records by offset and digest."""
    out: dict[str, list[tuple[int, int]]] = {}
    for path in rollouts(home):
        if "/rollout-" not in path:
            continue
        offset, found = 0, []
        for line in read_lines(home, path.removesuffix(".zst")):
            payload = json.dumps(json.loads(line)["payload"], sort_keys=True).encode()
            found.append((offset, zlib.crc32(payload)))
            offset += len(line)
        out[path.partition(".jsonl")[0][-36:]] = found
    return out


def told(out: Path) -> tuple[dict[str, list[tuple[int, int]]], list[Any]]:
    found: dict[str, list[tuple[int, int]]] = {}
    notices = []
    kept = out.read_bytes() if out.exists() else b""
    for line in kept[: kept.rfind(b"\n") + 1].splitlines():
        for first, *rest in json.loads(line)["told"]:
            if first == "notice":
                notices.append(rest)
            else:
                found.setdefault(first, []).append(tuple(rest))
    return found, notices


def keep_house(e: engine.Engine, home: Path, rng: random.Random) -> None:
    """Move or compress one rollout that nobody has open."""
    paths = [path for path in rollouts(home) if "/rollout-" in path]
    if not paths:
        return
    path = rng.choice(paths)
    thread_id = path.partition(".jsonl")[0][-36:]
    with contextlib.suppress(EngineError):
        match rng.randrange(3):
            case 0:
                e.threads.archive(thread_id)
            case 1:
                e.threads.unarchive(thread_id)
            case _:
                with e._writers._owned(thread_id, "compress"):
                    where = Home(e.home, e.state_dir)
                    found = locate(where, path.removesuffix(".zst"), Files())
                    if found is not None:
                        compress(where, found, options=Options(), files=Files())


def work(home: Path, seconds: float, rng: random.Random) -> Iterator[tuple[str, Path]]:
    """All of them at work for so long; then what each follower kept."""
    outs = {how: home.with_name(f"told-{how}") for how in ("events", "polling", "elsewhere", "killed")}
    followers = {how: start(FOLLOWER, str(home), str(out), how) for how, out in outs.items()}
    writers = [start(WRITER, str(home), str(seed)) for seed in range(4)]
    seeds = iter(range(4, 10_000))
    try:
        with engine.open(str(home)) as e:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(rng.random() * 0.1)
                keep_house(e, home, rng)
                if rng.random() < 0.15:
                    seed = next(seeds)
                    kill(writers[seed % 4])
                    writers[seed % 4] = start(WRITER, str(home), str(seed))
                if rng.random() < 0.15:
                    how = rng.choice(["killed", "polling"])
                    kill(followers[how])
                    followers[how] = start(FOLLOWER, str(home), str(outs[how]), how)
            Path(f"{home}.stop").touch()
            for writer in writers:
                assert writer.wait(120) == 0, writer.communicate()[1]
            for thread_id in {path.partition(".jsonl")[0][-36:] for path in rollouts(home) if "/rollout-" in path}:
                with contextlib.suppress(EngineError):  # what a killed writer left is trimmed by the next one
                    e.threads.unarchive(thread_id)
                    e.threads.resume(thread_id).close()
        wanted = logged(home)
        for out in outs.values():
            limit = time.monotonic() + 120
            while told(out)[0] != wanted and time.monotonic() < limit:
                time.sleep(0.2)
    finally:
        for each in [*followers.values(), *writers]:
            each.kill()
            each.communicate()
    yield from outs.items()


def check(tmp_path: Path, seconds: float, seed: int) -> None:
    home = tmp_path / "home"
    home.mkdir()
    outs = dict(work(home, seconds, random.Random(seed)))
    wanted = logged(home)
    assert sum(map(len, wanted.values())) > 100
    for how, out in outs.items():
        found, notices = told(out)
        assert notices == [], how
        assert found.keys() == wanted.keys(), how
        for rollout in wanted:
            assert found[rollout] == wanted[rollout], f"{how}: {rollout}"


def test_every_followers_list_is_the_log_whatever_is_moved_compressed_and_killed(tmp_path: Path) -> None:
    check(tmp_path, 4, 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_every_followers_list_is_the_log_for_long(tmp_path: Path, seed: int) -> None:
    check(tmp_path, 60, seed)
