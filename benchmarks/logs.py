"""What does a log call cost, and what does the log write, in all, for what is logged?

Calls: in rounds, in shuffled order, `engine.logs.Handler` and the standard library's `logging.FileHandler` take the same
records in one process: in bursts with rests between them, as programs log, for the time of a call; and without a rest for
records a second (here a full queue may drop some, which is told).

Load: 8 processes log records beside an engine that fills the table and a reader that sleeps in a transaction all
the time. Payload is what was logged: the bytes of message, level, target, module and file of each record. What passes is the
payload of records at INFO and above, three in four. Written is what /proc/self/io says (`wchar`, and `write_bytes` beside it)
of all these processes together, segments, -wal, checkpoints and all.

    python benchmarks/logs.py [--quick] [--calls | --load] [--records N] [--processes N] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import apsw
from _homes import MB
from _machine import io, spread
from _report import Report, Row, arguments, publish

import engine
from engine.logs import Handler, belonging_to
from engine.options import Options

WORDS = "the request to the model was sent again because the answer did not come in time and so on".split()
TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
THREADS = 10
BURST, REST_S = 200, 0.005
CAPS = ("log_store_bytes_max", "log_segment_bytes_max", "wal_bytes_max")


def main() -> None:
    """Measure and print; with `--writer` or `--sleeper`, be one process of the load."""
    asked = arguments(
        __doc__,
        calls={"action": "store_true", "help": "only what a call costs"},
        load={"action": "store_true", "help": "only what is written"},
        records={"type": int, "help": "records of the load in all (400,000; quick: 20,000)"},
        processes={"type": int, "default": 8, "help": "processes that log (8)"},
        writer={"nargs": 3, "metavar": ("HOME", "NUMBER", "RECORDS"), "help": argparse.SUPPRESS},
        sleeper={"metavar": "DATABASE", "help": argparse.SUPPRESS},
    )
    if asked.writer:
        print(json.dumps(write(asked.writer[0], int(asked.writer[1]), int(asked.writer[2]))))
        return
    if asked.sleeper:
        sleep_in_a_transaction(asked.sleeper)
        return
    asked.records = asked.records or (20_000 if asked.quick else 400_000)
    rows, notes = [], []
    if not asked.load:
        rows += calls(asked.rounds, 3_000 if asked.quick else 20_000, asked.folder)
    if not asked.calls:
        row, note = load(asked.records, asked.processes, asked.folder)
        rows.append(row)
        notes.append(note)
    shown = {"rounds": asked.rounds, "records": asked.records, "processes": asked.processes}
    publish(Report(benchmark="logs", mode=asked.mode, asked=shown, rows=rows, notes=notes), asked)


# Calls


def calls(rounds: int, count: int, place: str | None) -> list[Row]:
    """Both handlers, in shuffled order within each round; the first round is left out."""
    chosen, each = random.Random(1), []
    for _ in range(rounds + 1):
        found: dict[str, dict[str, float]] = {}
        for name in chosen.sample(["engine", "file"], 2):
            found[name] = one_handler(name, count, place)
        each.append(found)
    each = each[1:]
    values = {
        name: {measure: spread([found[name][measure] for found in each]) for measure in each[0][name]}
        for name in ("engine", "file")
    }
    ratios = {
        f"speed_of_{name}_to_it": spread([found["file"][measure] / found["engine"][measure] for found in each])
        for name, measure in (("mean", "mean_us"), ("p99", "p99_us"))
    }
    ratios["speed_without_a_rest_to_it"] = spread(
        [found["engine"]["records_a_second"] / found["file"]["records_a_second"] for found in each]
    )
    return [
        Row(group="a log call", case="engine.logs.Handler", values=values["engine"]),
        Row(group="a log call", case="logging.FileHandler", values=values["file"], ratios=ratios),
    ]


def one_handler(name: str, count: int, place: str | None) -> dict[str, float]:
    """The times of calls in bursts, and records a second without a rest."""
    folder = tempfile.mkdtemp(prefix="rolloutdb-bench-", dir=place)
    handler: logging.Handler
    if name == "engine":
        handler = Handler(folder)
    else:
        handler = logging.FileHandler(f"{folder}/app.log")
        handler.setFormatter(logging.Formatter(TEXT_FORMAT))
    logger = logging.Logger("app.tools")  # noqa: LOG001 - one that nothing else has
    logger.addHandler(handler)
    clock, times = time.perf_counter, []
    try:
        with belonging_to("01a20464-403f-7170-9722-7a9790eef98c"):
            for index in range(count):
                begun = clock()
                logger.info("ran %s in %d ms: %s", "grep", index, "found 12 of 30 files that were looked at")
                times.append(clock() - begun)
                if index % BURST == BURST - 1:
                    time.sleep(REST_S)
            begun = clock()
            for index in range(count):
                logger.info("ran %s in %d ms: %s", "grep", index, "found 12 of 30 files that were looked at")
            handler.flush()
            rate = count / (clock() - begun)
        dropped = handler.counters.dropped if isinstance(handler, Handler) else 0
    finally:
        handler.close()
        shutil.rmtree(folder)
    times.sort()
    return {
        "mean_us": 1e6 * sum(times) / count,
        "p50_us": 1e6 * times[count // 2],
        "p99_us": 1e6 * times[count * 99 // 100],
        "p999_us": 1e6 * times[count * 999 // 1000],
        "records_a_second": rate,
        "dropped": dropped,
    }


# Load


def load(records: int, processes: int, place: str | None) -> tuple[Row, str]:
    """Many processes that log, one engine that fills, one reader that sleeps; then the reader goes, and the rest is filled."""
    folder, options = tempfile.mkdtemp(prefix="rolloutdb-bench-", dir=place), Options(background_scan_s=0.2)
    database = f"{folder}/engine/logs_1.sqlite"
    me = str(Path(__file__).resolve())
    try:
        first = Handler(folder)
        first.write("so that there is a table")
        first.close()
        before, begun = io_here(), time.perf_counter()
        with engine.open(folder, options=options) as e:
            e.logs.fill()
            sleeper = subprocess.Popen(
                [sys.executable, me, "--sleeper", database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert sleeper.stdout is not None
            assert sleeper.stdout.readline() == "asleep\n"
            share = records // processes
            writers = [
                subprocess.Popen(
                    [sys.executable, me, "--writer", folder, str(number), str(share)], stdout=subprocess.PIPE, text=True
                )
                for number in range(processes)
            ]
            wal_bytes = 0
            while any(each.poll() is None for each in writers):
                wal_bytes = max(wal_bytes, size(f"{database}-wal"))
                time.sleep(0.05)
            wrote = [json.loads(each.communicate()[0]) for each in writers]
            logging_s = time.perf_counter() - begun
            e.logs.fill()
            asleep = e.logs.status()
            wal_bytes = max(wal_bytes, asleep.wal_bytes)
            sleeper.communicate("")
            filling_begun = time.perf_counter()
            e.logs.fill()
            filling_s = time.perf_counter() - filling_begun
            status = e.logs.status()
            e._log_table.database().try_empty_wal()
            spent = [after - earlier for after, earlier in zip(io_here(), before, strict=True)]
    finally:
        shutil.rmtree(folder)
    total = {name: sum(each[name] for each in wrote) for name in wrote[0]}
    written = total["wchar"] + spent[0]
    storage = total["write_bytes"] + spent[1]
    values = {
        "records": share * processes,
        "records_a_second": share * processes / logging_s,
        "accepted": total["accepted"],
        "written": total["written"],
        "dropped": total["dropped"],
        "dropped_and_told": status.dropped,
        "records_followed": status.records,
        "payload_mb": total["payload"] / MB,
        "passing_mb": total["passing"] / MB,
        "segments_to_payload": total["segment_bytes"] / total["payload"],
        "written_to_passing": written / total["passing"],
        "written_to_the_medium_to_passing": storage / total["passing"],
        "table_written_to_passing": spent[0] / total["passing"],
        "wal_mb_while_asleep": wal_bytes / MB,
        "lag_mb_while_asleep": asleep.lag.bytes / MB,
        "paused": asleep.lag.paused is not None,
        "seconds_to_fill_the_rest": filling_s,
        "rows": status.rows,
        "table_mb": status.database_bytes / MB,
        "segments": status.segments,
        "segments_mb": status.bytes / MB,
        "lag_bytes": status.lag.bytes,
    }
    caps = ", ".join(f"{name} {getattr(options, name):,}" for name in CAPS)
    note = f"Filling while the reader slept: {asleep.lag.paused or 'not paused'}. Bounds: {caps}."
    return Row(
        group="many processes beside a reader that sleeps",
        case=f"{processes} processes",
        values={name: spread([value]) for name, value in values.items()},
    ), note


def write(home: str, number: int, count: int) -> dict[str, int]:
    """One process of the load."""
    chosen, before = random.Random(number), io()
    handler = Handler(home)
    logger = logging.Logger(f"app.part{number}")  # noqa: LOG001 - the same
    logger.addHandler(handler)
    payload = passing = 0
    level = logging.INFO
    heads = {name: sum(map(len, (name, logger.name, "logs", str(Path(__file__))))) for name in ("INFO", "DEBUG")}
    threads = [f"01a20464-403f-7170-9722-{number:06d}{index:06d}" for index in range(THREADS)]
    for index in range(count):
        level = logging.DEBUG if index % 4 == 3 else logging.INFO
        body = f"{index} " + " ".join(chosen.choices(WORDS, k=chosen.randint(5, 40)))
        with belonging_to(threads[index // 100 % THREADS] if index % 10 else None):
            logger.log(level, "%s", body)
        size = len(body) + heads["DEBUG" if level == logging.DEBUG else "INFO"]
        payload += size
        passing += size if level == logging.INFO else 0
        if index % BURST == BURST - 1:
            time.sleep(REST_S)
    handler.flush()
    segment_bytes = handler._writer.bytes_written
    handler.close()
    spent = [after - earlier for after, earlier in zip(io(), before, strict=True)]
    found = handler.counters
    return {
        "accepted": found.accepted,
        "written": found.written,
        "dropped": found.dropped,
        "payload": payload,
        "passing": passing,
        "segment_bytes": segment_bytes,
        "wchar": spent[0],
        "write_bytes": spent[1],
    }


def sleep_in_a_transaction(database: str) -> None:
    """Hold a snapshot until standard input ends."""
    connection = apsw.Connection(database, flags=apsw.SQLITE_OPEN_READWRITE)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM logs").fetchall()
    print("asleep", flush=True)
    sys.stdin.read()
    connection.close()


def io_here() -> tuple[int, int]:
    """The same of the threads that there are: that of a process has in it what its children wrote that have ended."""
    each = [io(str(path)) for path in Path("/proc/self/task").glob("*/io")]
    return sum(wchar for wchar, _ in each), sum(medium for _, medium in each)


def size(path: str) -> int:
    """Of a file; 0 where there is none."""
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
