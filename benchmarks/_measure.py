"""One measurement in a process of its own, so that memory and imports of one do not colour the next.

`python _measure.py CASE HOME STATE WORKERS` prints one JSON object. Times are seconds of the wall clock. It imports next
to nothing, so that import and memory are those of what it measures.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402


def skim(home: str, state: str, workers: int) -> dict[str, object]:
    """What nothing can be faster than: open, read and skim every file, with no digest, fold or database."""
    from engine.events.skim import Skim
    from engine.options import Options
    from engine.projections.registry import THREADS

    paths = [path for path, _ in _files(home)]
    skimmer, block_bytes = Skim(THREADS.kinds, THREADS.latest), Options().block_bytes
    begun = time.perf_counter()
    read = sum(skim_file(path, skimmer, block_bytes) for path in paths)
    return {"seconds": time.perf_counter() - begun, "files": len(paths), "bytes": read}


def skim_file(path: str | os.PathLike[str], skimmer: Any, block_bytes: int) -> int:
    """Open, read and skim one; its bytes."""
    fd = os.open(path, os.O_RDONLY)
    at = 0
    while data := os.pread(fd, block_bytes, at):
        stop = data.rfind(b"\n") + 1 or len(data)
        skimmer.scan(data, 0, stop)
        at += stop
    os.close(fd)
    return at


def backfill(home: str, state: str, workers: int) -> dict[str, object]:
    """Everything from nothing: rows, watermarks and checkpoints on disk; and when the rows of threads were there."""
    import engine

    imported = time.perf_counter()
    indexes: list[float] = []

    def look(progress: Any) -> None:
        if progress.what is not None:
            indexes.append(time.perf_counter())

    with engine.open(home, state_dir=state, options=engine.Options(background_scan_s=0)) as opened:
        begun = time.perf_counter()
        report = opened.backfill(workers=workers, progress=look)
        ended = time.perf_counter()
    if report.status != "complete" or report.failed:
        raise SystemExit(f"the back-fill is {report.status}: {report.failed[:3]}")
    return {
        "seconds": ended - begun,
        "threads_seconds": indexes[0] - begun,
        "files": report.files,
        "bytes": report.bytes,
        "import_seconds": imported - STARTED,
        "open_seconds": begun - imported,
    }


def decode(home: str, state: str, workers: int) -> dict[str, object]:
    """What nothing that decodes can be faster than: read every file and decode each of its lines once."""
    from engine.events.record import Rejected
    from engine.events.record import decode as decode_line
    from engine.options import Options
    from engine.stores.files import Files
    from engine.stores.rollouts import PlainSource, blocks

    files, options = Files(), Options()
    paths = [path for path, _ in _files(home)]
    begun = time.perf_counter()
    read = 0
    for path in paths:
        with files.reading(path, op="bench") as fd:
            source = PlainSource(fd, files.fstat(fd, op="bench"), files)
            for block in blocks(source, 0, None, options):
                for line in bytes(block.data[: block.end]).split(b"\n"):
                    try:
                        decode_line(line)
                    except Rejected:
                        continue
            read += source.stat.size
    return {"seconds": time.perf_counter() - begun, "files": len(paths), "bytes": read}


def audit(home: str, state: str, workers: int) -> dict[str, object]:
    """An audit of a home whose rows are up to date; the back-fill is not in the time."""
    return _audit(home, state, deep=False)


def deep(home: str, state: str, workers: int) -> dict[str, object]:
    """The same with every line decoded."""
    return _audit(home, state, deep=True)


def _audit(home: str, state: str, *, deep: bool) -> dict[str, object]:
    import engine
    from engine.options import Options

    with engine.open(home, state_dir=state, options=Options(background_scan_s=0)) as opened:
        files = opened.backfill(workers=0).files
        begun = time.perf_counter()
        report = opened.audit(deep=deep)
        seconds = time.perf_counter() - begun
    wrong = [each for each in report.findings if each.severity == "error"]
    assert not wrong, f"nothing is wrong with this home, and the audit says {wrong[:3]}"
    return {"seconds": seconds, "files": files, "bytes": report.checked.bytes}


def rescan(home: str, state: str, workers: int) -> dict[str, object]:
    """A second back-fill finds nothing to do; beside it the bare walk with a stat a file, in turns."""
    import engine

    ours, bare = [], []
    with engine.open(home, state_dir=state, options=engine.Options(background_scan_s=0)) as opened:
        files = opened.backfill(workers=workers).files
        for _ in range(5):
            begun = time.perf_counter()
            again = opened.backfill()
            ours.append(time.perf_counter() - begun)
            assert again.files == 0, "something moved while we looked"
            begun = time.perf_counter()
            seen = sum(1 for _ in _files(home))
            bare.append(time.perf_counter() - begun)
            assert seen == files
    return {"files": files, "seconds": ours, "bare_seconds": bare}


def start_workers(home: str, state: str, workers: int) -> dict[str, object]:
    """From nothing to each worker's first answer, for a rollout of the smallest size."""
    from engine.options import Options
    from engine.projections.pool import Pool
    from engine.projections.worker import Job
    from engine.stores.layout import Home

    path, stat = min(_files(home), key=lambda found: found[1].st_size)
    job = Job(os.path.relpath(path, home), compressed=False, size=stat.st_size, marks={}, of=("threads",))
    begun = time.perf_counter()
    pool = Pool(workers, Home(home, None), Options())
    try:
        assert pool.start()
        answers = [answer for _ in range(workers) for answer in pool.run([job])]
        seconds = time.perf_counter() - begun
    finally:
        pool.close()
    assert all(answer.reason is None for answer in answers)
    return {"seconds": seconds}


def _files(folder: str):
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.name.endswith(".jsonl"):
                yield entry.path, entry.stat(follow_symlinks=False)


def peak_mb(who: int) -> float:
    """In MiB; of children that of the largest. A child's also counts what its parent held when it was started (Linux)."""
    if who == resource.RUSAGE_SELF and os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    return mib(resource.getrusage(who).ru_maxrss)


def mib(maxrss: int) -> float:
    """Of what getrusage calls `ru_maxrss`."""
    return maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure the case that is named, and say what memory it took."""
    case, home, state, workers = sys.argv[1:]
    found = globals()[case](home, state, int(workers))
    found["peak_mb"] = peak_mb(resource.RUSAGE_SELF)
    found["workers_peak_mb"] = peak_mb(resource.RUSAGE_CHILDREN)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
