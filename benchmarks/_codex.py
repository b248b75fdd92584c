"""The Codex CLI's app-server as a benchmark asks it: offline, on a home of its own, with what it used told at its end.

Its model provider and every proxy are a port of the loopback where nobody listens.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from _homes import MB
from _machine import io
from _measure import mib

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
ANSWER_S_MAX = 600


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
        written = io(f"/proc/{self._child.pid}/io")[0]
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


def program(path: str) -> str:
    """What argparse makes of `--codex`: something that can be run."""
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path} is no program: name the Codex CLI's binary")
    return os.path.abspath(path)


def used(usage: Any) -> dict[str, float]:
    """Processor time, and the peak memory of the process or the largest of its children."""
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": mib(usage.ru_maxrss)}


def median_ms(call: Callable[[], object], times: int) -> float:
    """Of so many calls, the first not counted."""
    call()
    waits = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        waits.append((time.perf_counter() - begun) * 1000)
    return statistics.median(waits)
