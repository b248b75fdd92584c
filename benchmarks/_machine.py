"""What the numbers of a benchmark were measured on, and how a list of them is told."""

from __future__ import annotations

import compileall
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import apsw


class Spread(TypedDict):
    """Of so many runs."""

    median: float
    min: float
    max: float
    runs: int


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, object]:
    """Processor, cores, memory, load and versions; no name of the host."""
    import engine

    return {
        "processor": _first_in("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory": _first_in("/proc/meminfo", "MemTotal"),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "rolloutdb": engine.__version__,
    }


def compile_engine() -> None:
    """Leave the modules compiled, as an installer does: of a checkout every process may else compile them anew."""
    import engine

    assert engine.__file__ is not None
    compileall.compile_dir(Path(engine.__file__).parent, quiet=2)


def io(path: str = "/proc/self/io") -> tuple[int, int]:
    """Bytes that a process gave to write calls, and bytes that it caused to be written to the medium; 0 where nobody tells.

    What children wrote is in it once they were waited for.
    """
    try:
        with open(path) as file:
            found = dict(line.split(": ") for line in file)
    except OSError:
        return 0, 0
    return int(found["wchar"]), int(found["write_bytes"])


def in_turns(calls: Sequence[Callable[[], object]], times: int) -> list[list[float]]:
    """What each call took, in microseconds: so many times one after the other."""
    waits: list[list[float]] = [[] for _ in calls]
    for _ in range(times):
        for each, call in zip(waits, calls, strict=True):
            begun = time.perf_counter()
            call()
            each.append((time.perf_counter() - begun) * 1e6)
    return waits


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def _first_in(path: str, key: str) -> str | None:
    try:
        with open(path) as file:
            found = (line.partition(":")[2].strip() for line in file if line.startswith(key))
            return next(found, None)
    except OSError:
        return None
