"""The engine beside what a person would use instead, doing the same work, each durable in its own way.

`eventsourcing` (its SQLite recorder), `umadb` (its server on the loopback), `langgraph-checkpoint-sqlite`, and the SQLite
session of `openai-agents` are installed into an environment of their own, `.venv-peers`, once. What their settings are is
told below the tables. A round runs every store on every piece of work, in shuffled order; a ratio is of one round: how
much faster the engine was than that store (to the bare disk it is in `append.py`). Each store does a piece of work in the
best way that it has. Work:

    append    so many processes, each on a thread of its own, of one store; singly and in batches, acknowledged when durable
    replay    every event of every thread, decoded, in the order of its thread
    rebuild   one row a thread (title, tokens, …) from the log: the engine's is `rebuild`, the others' is written here and asks
              for the types of event that rows are made of, where a store can pass over the others
    newest    the newest 25 threads of so many

    python benchmarks/peers.py [--quick] [--events 100000,1000000] [--folder F] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from _homes import ensure_filled, say, workplace
from _machine import cores, spread
from _pool import Pool
from _report import Report, Row, arguments, numbers, publish

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / ".venv-peers"
PACKAGES = (
    "eventsourcing>=9.5,<10",
    "umadb>=0.7,<1",
    "langgraph-checkpoint-sqlite>=3,<4",
    "openai-agents>=0.24,<1",
    "orjson>=3.11,<4",
)
STORES = ("engine", "eventsourcing", "umadb", "langgraph", "openai-agents")
WITH_BYTE_CODE = ("-X", "pycache_prefix=")
"""pip compiled it beside the source; the runner's own place for it is empty, and importing would take twice as long."""
EVENTS_A_THREAD = 1_000
WORK = ["append", "replay", "rebuild", "newest"]


class Work(NamedTuple):
    """A piece of work: its table, what a store is asked, and what of the answer is its speed."""

    group: str
    ask: Callable[[str], Mapping[str, float]]
    speed: Callable[[Mapping[str, float]], float]


def main() -> None:
    """Measure and print."""
    asked = arguments(
        __doc__,
        seconds={"type": float, "help": "how long each measurement of appends takes (0.3; quick: 0.1)"},
        writers={"type": numbers, "help": "how many processes append (1,2,4,8; quick: 4)"},
        events={"type": numbers, "help": "how many are replayed and rebuilt from (100000; quick: 4000)"},
        threads={"type": int, "help": "how many of which the newest are listed (100,000; quick: 1,000)"},
        only={"type": lambda text: text.split(","), "default": WORK, "help": f"some of the work: {','.join(WORK)}"},
        env={"type": Path, "default": ENVIRONMENT, "help": "where the peers are installed (.venv-peers)"},
    )
    asked.seconds = asked.seconds or (0.1 if asked.quick else 0.3)
    asked.writers = asked.writers or ((4,) if asked.quick else (1, 2, 4, 8))
    asked.events = asked.events or ((4_000,) if asked.quick else (100_000,))
    asked.threads = asked.threads or (1_000 if asked.quick else 100_000)
    ensure_environment(asked.env)
    with workplace(asked.folder) as kept, tempfile.TemporaryDirectory(prefix="peers-", dir=kept) as folder:
        report = measure(Path(kept), folder, asked)
    publish(report, asked)


def ensure_environment(folder: Path) -> None:
    """The peers' own environment, installed by pip as the user has configured it; again when the list changes."""
    stamp, wanted = folder / "installed.txt", "\n".join(PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"installing {', '.join(PACKAGES)} into {folder} …")
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--quiet",
        "--disable-pip-version-check",
        *PACKAGES,
    ]
    if subprocess.run(pip, check=False, stdout=sys.stderr).returncode:
        sys.exit("The peers could not be installed: see what pip says above. Without them there is nothing to compare.")
    stamp.write_text(wanted)


def measure(kept: Path, folder: str, asked: argparse.Namespace) -> Report:
    """Everything, in rounds."""
    with contextlib.ExitStack() as stack:
        pools = {}
        for name in STORES:
            python = [sys.executable] if name == "engine" else [str(asked.env / "bin" / "python"), *WITH_BYTE_CODE]
            pools[name] = stack.enter_context(Pool([*python, str(HERE / "_stores.py"), name], 1))
        abouts = {name: ask(pools[name], "about", folder=fresh(folder)) for name in pools}
        works = [*appends(pools, folder, asked), *reads(pools, folder, asked), *lists(pools, kept, folder, asked)]
        works = [work for work in works if work.group.startswith(tuple(asked.only))]
        found: dict[str, dict[str, list[Mapping[str, float]]]] = {}
        for number in range(asked.rounds):
            say(f"peers: round {number + 1} of {asked.rounds}")
            for work in random.sample(works, len(works)):
                for name in random.sample(STORES, len(STORES)):
                    found.setdefault(work.group, {}).setdefault(name, []).append(work.ask(name))
    return Report(
        benchmark="peers",
        mode=asked.mode,
        asked={
            "rounds": asked.rounds,
            "seconds": asked.seconds,
            "writers": asked.writers,
            "events": asked.events,
            "threads": asked.threads,
        },
        rows=[row for work in works for row in rows_of(work, found[work.group])],
        notes=[f"{name}: {about['settings']}." for name, about in abouts.items()],
        versions={key: value for about in abouts.values() for key, value in about["versions"].items()},
    )


def appends(pools: Mapping[str, Pool], folder: str, asked: argparse.Namespace) -> list[Work]:
    """Singly by each number of writers, in batches by the fewest and the most."""
    cases = [(writers, 1) for writers in asked.writers]
    if not asked.quick:
        cases += [(writers, 50) for writers in dict.fromkeys((asked.writers[0], asked.writers[-1]))]

    def work(writers: int, batch: int) -> Work:
        def run(name: str) -> Any:
            place = fresh(folder)
            answer = ask(pools[name], "append", folder=place, writers=writers, batch=batch, seconds=asked.seconds)
            shutil.rmtree(place)
            return answer

        how = "singly" if batch == 1 else f"in batches of {batch}"
        title = f"append, {writers} writer{'s' if writers > 1 else ''}, {how}"
        return Work(title, run, lambda found: found["events_a_second"])

    return [work(*case) for case in cases]


def reads(pools: Mapping[str, Pool], folder: str, asked: argparse.Namespace) -> list[Work]:
    """Stores that were filled once, read in every round."""
    works = []
    for count in asked.events if {"replay", "rebuild"} & set(asked.only) else ():
        threads = max(1, count // EVENTS_A_THREAD)
        say(f"peers: filling all with {count:,} events …")
        places = filled(pools, folder, {"threads": threads, "each": count // threads})
        expected = (threads, tokens_of(count // threads) * threads)

        def replay(name: str, places: Any = places, count: int = count) -> Any:
            answer = ask(pools[name], "replay", folder=places[name])
            assert answer["events"] == count, f"{name} has {answer['events']} events of {count}"
            return answer

        def rebuild(name: str, places: Any = places, expected: Any = expected) -> Any:
            into = fresh(folder)
            answer = ask(pools[name], "rebuild", folder=places[name], into=f"{into}/rows.db")
            assert (answer["threads"], answer["tokens"]) == expected, f"{name} has other rows: {answer}, not {expected}"
            return answer

        works.append(Work(f"replay of {count:,} events", replay, lambda found: 1 / found["seconds"]))
        works.append(Work(f"rebuild from {count:,} events", rebuild, lambda found: 1 / found["seconds"]))
    return works


def lists(pools: Mapping[str, Pool], kept: Path, folder: str, asked: argparse.Namespace) -> list[Work]:
    """The newest 25; the engine's threads are rollouts of three lines, each of the others' is one event."""
    if "newest" not in asked.only:
        return []
    home, state = ensure_filled(kept, asked.threads)
    say(f"peers: filling the others with {asked.threads:,} threads …")
    others = {name: pool for name, pool in pools.items() if name != "engine"}
    places = {"engine": str(state), **filled(others, folder, {"threads": asked.threads, "each": 1})}

    def newest(name: str) -> Any:
        return ask(pools[name], "newest", folder=places[name], home=str(home), times=10)

    return [Work(f"newest 25 of {asked.threads:,}", newest, lambda found: 1 / found["p50_us"])]


def rows_of(work: Work, found: Mapping[str, list[Mapping[str, float]]]) -> list[Row]:
    """A row a store; the ratio is how much faster the engine was in the same round."""
    rows = []
    for name in STORES:
        values = {key: spread([each[key] for each in found[name]]) for key in found[name][0] if key not in SAME}
        ratios = {}
        if name != "engine":
            both = zip(found["engine"], found[name], strict=True)
            ratios["engine_speed_to_it"] = spread([work.speed(ours) / work.speed(theirs) for ours, theirs in both])
        rows.append(Row(group=work.group, case=name, values=values, ratios=ratios))
    return rows


SAME = ("events", "threads", "tokens")
"""What an answer says to be checked, not measured."""


def tokens_of(each: int) -> int:
    """What the newest count of a thread with so many events says; see `_stores.events`."""
    newest = max((at for at in range(each) if at % 20 == 10), default=0)
    return newest * 100


def filled(pools: Mapping[str, Pool], folder: str, how: Mapping[str, Any]) -> dict[str, str]:
    """A folder a store, filled; as many at a time as there are processors."""
    places = {name: fresh(folder) for name in pools}
    with ThreadPoolExecutor(cores()) as executor:
        for _ in executor.map(lambda name: ask(pools[name], "fill", folder=places[name], **how), pools):
            pass
    return places


def fresh(folder: str) -> str:
    """A new folder."""
    return tempfile.mkdtemp(dir=folder)


def ask(pool: Pool, do: str, **how: Any) -> Any:
    """What that store's process answers."""
    return pool.ask([{"do": do, **how}])[0]


if __name__ == "__main__":
    main()
