"""The same home back-filled and listed by the Codex CLI and by the engine, in one run.

The Codex CLI is not part of this project: `--codex PATH` names its binary (the native one, not a wrapper script). It runs as
`app-server` on a copy of the home, offline: its model provider and every proxy are a port of the loopback where nobody
listens. Its answer to `initialize` waits for its back-fill, so the time from its start to that answer is the time of a first
start. The engine's time begins with its interpreter, too. Rounds run both in shuffled order, each from nothing; then each
is started again on what it filled, and lists. At the end every rollout must be as it was.

    python benchmarks/codex.py --codex PATH [--quick] [--files 10000] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from _homes import MB, ensure_home, make_many, say, workplace
from _machine import cores, spread
from _report import Report, Row, arguments, publish

NOBODY = "http://127.0.0.1:9"
CONFIG = f"""\
model = "none"
model_provider = "nobody"
check_for_update_on_startup = false

[model_providers.nobody]
name = "nobody"
base_url = "{NOBODY}/v1"
wire_api = "responses"

[analytics]
enabled = false
"""
KINDS = ["cli", "vscode", "exec", "appServer"]
ANSWER_S_MAX = 600
ROLLOUTS = ("sessions", "archived_sessions", "session_index.jsonl")


class CodexFailed(RuntimeError):
    """It ended, or did not answer in time."""


class AppServer:
    """A running `app-server`: asks, reads the answer to that question, ends it, and tells what it used."""

    def __init__(self, binary: str, home: str, *, answer_s_max: float = ANSWER_S_MAX) -> None:
        proxies = {
            name: NOBODY for word in ("http", "https", "all") for name in (f"{word}_proxy", f"{word}_PROXY".upper())
        }
        env = {"PATH": os.environ.get("PATH", ""), "HOME": home, "CODEX_HOME": home, **proxies}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self._answer_s_max = answer_s_max
        self._asked = 0
        self._child = subprocess.Popen(
            [binary, "app-server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=env
        )

    def ask(self, method: str, **params: Any) -> Any:
        """The result. Raises `CodexFailed`."""
        self._asked += 1
        self._send({"id": self._asked, "method": method, "params": params})
        assert self._child.stdout is not None
        timer = threading.Timer(self._answer_s_max, self._child.kill)
        timer.start()
        try:
            for line in self._child.stdout:
                message = json.loads(line)
                if message.get("id") == self._asked:
                    if "result" in message:
                        return message["result"]
                    raise CodexFailed(f"{method}: {message.get('error')}")
        finally:
            timer.cancel()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-500:]
        raise CodexFailed(
            f"{method}: it ended, or took longer than {self._answer_s_max:g} s; it said: {said or 'nothing'}"
        )

    def initialize(self) -> None:
        """What each client says first."""
        self.ask("initialize", clientInfo={"name": "benchmark", "title": None, "version": "1"})
        self._send({"method": "initialized"})

    def end(self) -> dict[str, float]:
        """Close its input, wait for its end, and tell what it used."""
        assert self._child.stdin is not None
        written = bytes_written(self._child.pid)
        self._child.stdin.close()
        timer = threading.Timer(20, self._child.kill)
        timer.start()
        _, status, usage = os.wait4(self._child.pid, 0)
        timer.cancel()
        self._child.returncode = os.waitstatus_to_exitcode(status)
        return {**used(usage), "written_mb": written / MB}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child.returncode is None:
            self._child.kill()
            self._child.wait()
        for file in (self._child.stdin, self._child.stdout, self._errors):
            if file is not None:
                file.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            return  # it ended; whoever reads the answer finds out, with what it said


def main() -> None:
    """Measure and print; with `--child`, be the engine."""
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    asked = arguments(
        __doc__,
        codex={"help": "the Codex CLI's binary", "required": True},
        files={"type": int, "help": "rollouts in the home (10,000; quick: 200)"},
        bytes={"type": int, "default": 50_000, "help": "size of each (50,000)"},
    )
    asked.files = asked.files or (200 if asked.quick else 10_000)
    with workplace(asked.folder) as folder:
        name = f"many-{asked.files}-{asked.bytes}"
        made = ensure_home(folder, name, lambda home: make_many(home, asked.files, asked.bytes))
        place = Path(tempfile.mkdtemp(prefix="codex-", dir=folder))
        try:
            report = measure(made, place, asked)
        finally:
            shutil.rmtree(place)
    publish(report, asked)


def measure(made: Path, place: Path, asked: argparse.Namespace) -> Report:
    """All rounds."""
    home = place / "home"
    for name in ROLLOUTS:
        if (made / name).is_dir():
            shutil.copytree(made / name, home / name)
        elif (made / name).exists():
            shutil.copy2(made / name, home / name)
    before = fingerprint(home)
    cases: dict[str, Callable[[], dict[str, float]]] = {
        "codex": lambda: codex_round(asked.codex, home),
        "engine, 1 process": lambda: engine_round(home, place, 0),
        f"engine, {cores()} workers": lambda: engine_round(home, place, cores()),
        f"engine, {cores()} workers, threads alone": lambda: engine_round(home, place, cores(), what="threads"),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for number in range(asked.rounds):
        say(f"codex: round {number + 1} of {asked.rounds}")
        for name in random.sample(list(cases), len(cases)):
            found[name].append(cases[name]())
    assert fingerprint(home) == before, "a rollout was changed"
    version = subprocess.run([asked.codex, "--version"], stdout=subprocess.PIPE, check=False).stdout.decode().strip()
    return Report(
        benchmark="codex",
        mode=asked.mode,
        asked={"rounds": asked.rounds, "files": asked.files, "bytes": asked.bytes},
        rows=rows_of(found, asked),
        notes=[
            "first_start_s is from the start of the process to the end of its back-fill, start_again_s on what was filled.",
            "A list is of the newest 25: `scan` looks at the files first, as the Codex CLI does by itself; `rows` asks tables.",
            "Threads that the tables list: "
            + ", ".join(f"{name} {runs[0]['threads']:,.0f}" for name, runs in found.items()),
        ],
        versions={"codex": version},
    )


def codex_round(binary: str, home: Path) -> dict[str, float]:
    """From nothing, and again."""
    for path in home.iterdir():
        if path.name not in ROLLOUTS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (home / "config.toml").write_text(CONFIG)
    begun = time.perf_counter()
    with AppServer(binary, str(home)) as server:
        server.initialize()
        first = time.perf_counter() - begun
        used_first = server.end()
    begun = time.perf_counter()
    with AppServer(binary, str(home)) as server:
        server.initialize()
        again = time.perf_counter() - begun
        page: dict[str, Any] = {"limit": 25, "sortKey": "updated_at", "modelProviders": [], "sourceKinds": KINDS}
        scan = median_ms(lambda: server.ask("thread/list", **page), 10)
        rows = median_ms(lambda: server.ask("thread/list", **page, useStateDbOnly=True), 30)
        threads = count_all(server)
        server.end()
    return {
        "first_start_s": first,
        **used_first,
        "start_again_s": again,
        "list_scan_ms": scan,
        "list_rows_ms": rows,
        "threads": threads,
    }


def count_all(server: AppServer) -> int:
    """How many threads its tables list, archived ones too."""
    count = 0
    for archived in (False, True):
        cursor = None
        while True:
            page = server.ask(
                "thread/list",
                limit=100,
                cursor=cursor,
                archived=archived,
                modelProviders=[],
                sourceKinds=KINDS,
                useStateDbOnly=True,
            )
            count += len(page["data"])
            cursor = page.get("nextCursor")
            if cursor is None:
                break
    return count


def engine_round(home: Path, place: Path, workers: int, *, what: str = "fill") -> dict[str, float]:
    """From nothing, and again; `threads` leaves out the indexes of turns and words, which the other program has not either."""
    state = tempfile.mkdtemp(dir=place)
    first, used_first, told = timed_child(what, str(home), state, str(workers))
    _, _, lists = timed_child("list", str(home), state, "0")
    shutil.rmtree(state)
    return {
        "first_start_s": first,
        **used_first,
        "written_mb": told["written"] / MB,
        "start_again_s": lists["ready_s"],
        "list_rows_ms": lists["list_ms"],
        "threads": lists["threads"],
    }


def timed_child(*what: str) -> tuple[float, dict[str, float], dict[str, float]]:
    """Seconds from its start to its end, what it and its workers used, what it told."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, "--child", *what], stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = json.loads(process.stdout.read() or "null")
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    if process.returncode or told is None:
        sys.exit(f"The engine's process ended with {process.returncode}.")
    return seconds, used(usage), told


def child(what: str, home: str, state: str, workers: str) -> None:
    """The engine: fill everything or the threads alone from nothing, or list what was filled."""
    begun = time.perf_counter()
    import engine

    with engine.open(home, state_dir=state, options=engine.Options(background_scan_s=0)) as opened:
        if what != "list":
            report = opened.backfill("threads" if what == "threads" else None, workers=int(workers))
            assert report.status == "complete", report.status
            print(json.dumps({"written": bytes_written(os.getpid())}))
            return
        assert opened.threads.list(limit=25).threads
        ready = time.perf_counter() - begun
        while opened.threads.list(limit=25).partial is not None:
            pass
        lists = median_ms(lambda: opened.threads.list(limit=25), 30)
        threads = len(opened.threads.list(limit=0).threads)
        print(json.dumps({"ready_s": ready, "list_ms": lists, "threads": threads}))


def rows_of(found: dict[str, list[dict[str, float]]], asked: argparse.Namespace) -> list[Row]:
    """A row a case; the engine's ratios are to the Codex CLI in the same round."""
    group = f"{asked.files:,} rollouts of {asked.bytes:,} bytes"
    return [
        Row(
            group=group,
            case=name,
            values={key: spread([each[key] for each in runs]) for key in runs[0] if key != "threads"},
            ratios={} if name == "codex" else ratios_of(runs, found["codex"]),
        )
        for name, runs in found.items()
    ]


def ratios_of(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """How many times as fast, and how many times less is used."""
    names = {
        "first_start_speed": "first_start_s",
        "cpu_less": "cpu_s",
        "memory_less": "peak_mb",
        "written_less": "written_mb",
        "list_speed": "list_rows_ms",
    }
    pairs = list(zip(ours, theirs, strict=True))
    return {
        f"{name}_to_codex": spread([other[key] / one[key] for one, other in pairs])
        for name, key in names.items()
        if all(one[key] > 0 for one, _ in pairs)
    }


def used(usage: Any) -> dict[str, float]:
    """Processor time, and the peak memory of the process or the largest of its children."""
    peak = usage.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": peak}


def bytes_written(pid: int) -> int:
    """What a process and the children that it waited for gave to write calls; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/io") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("wchar"))
    except OSError:
        return 0


def median_ms(call: Callable[[], object], times: int) -> float:
    """Of so many calls, the first not counted."""
    call()
    waits = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        waits.append((time.perf_counter() - begun) * 1000)
    return statistics.median(waits)


def fingerprint(home: Path) -> list[tuple[str, int, int]]:
    """Every rollout by name, size and time."""
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in home.rglob("rollout-*"))


if __name__ == "__main__":
    main()
