"""The parts of the benchmarks that decide what is said: ratios, the check for regressions, tables, the chart, the runner.

Nothing here looks at how long anything took.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

from engine.errors import StoreBusy

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def this_engine(monkeypatch):
    """The processes of a benchmark import the engine of this checkout, whatever is installed."""
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS.parent))


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def module(name: str) -> ModuleType:
        return __import__(name)

    yield module
    for name in [
        name for name, each in sys.modules.items() if str(BENCHMARKS) in (getattr(each, "__file__", "") or "")
    ]:
        del sys.modules[name]


def spread(median: float, least: float | None = None, greatest: float | None = None) -> dict[str, float]:
    return {"median": median, "min": least or median, "max": greatest or median, "runs": 5}


def document(ratio: dict[str, float], *, mode: str = "quick", case: str = "one") -> dict[str, object]:
    row = {"group": "g", "case": case, "values": {}, "ratios": {"speed_to_bare": ratio}}
    return {"benchmark": "append", "mode": mode, "rows": [row]}


NAME = "append · g · one · speed_to_bare"
EXPECTED = {"quick": {NAME: {"median": 0.8, "min": 0.5}}, "full": {}}


def test_a_median_a_fifth_below_the_least_that_is_expected_is_a_regression(load) -> None:
    (told,) = load("_check").regressions([document(spread(0.39, 0.2, 0.9))], EXPECTED)
    assert told == f"{NAME}: 0.39, expected 0.8, at least 0.4"


def test_one_bad_round_is_no_regression(load) -> None:
    assert load("_check").regressions([document(spread(0.41, 0.1, 0.9))], EXPECTED) == []


def test_a_ratio_that_is_expected_and_was_not_measured_is_told_and_the_other_way_round(load) -> None:
    told = load("_check").regressions([document(spread(0.9), case="another")], EXPECTED)
    assert told == [
        f"{NAME}: expected 0.8, and it was not measured",
        "append · g · another · speed_to_bare: nothing is expected of it",
    ]


def test_a_run_that_nothing_is_expected_of_does_not_pass_for_one_that_is_well(load) -> None:
    check = load("_check")
    assert check.regressions([document(spread(9.0), mode="full")], EXPECTED) == [
        "append: nothing is expected of a full run"
    ]
    other = {**document(spread(9.0)), "benchmark": "other"}
    assert check.regressions([other], EXPECTED) == ["other: nothing is expected of a quick run"]


def test_what_is_expected_is_replaced_for_the_benchmarks_that_ran_and_kept_for_the_others(load) -> None:
    one = {"median": 0.7, "min": 0.6}
    before = {"quick": {"append · g · gone · speed_to_bare": one, "audit · x": one}, "full": {"audit · y": one}}
    assert load("_check").expected_of([document(spread(0.81237, 0.5))], before) == {
        "quick": {NAME: {"median": 0.8124, "min": 0.5}, "audit · x": one},
        "full": {"audit · y": one},
    }


def test_something_is_expected_of_a_quick_run_of_every_benchmark(load) -> None:
    expected = json.loads(load("_check").EXPECTED.read_text("utf-8"))
    assert {name.partition(" · ")[0] for name in expected["quick"]} == set(load("run").BENCHMARKS)
    assert all(0 < each["min"] <= each["median"] for mode in expected.values() for each in mode.values())


def test_every_benchmark_is_run_and_codex_where_its_program_is_named(load) -> None:
    there = {path.stem for path in BENCHMARKS.glob("[a-z]*.py")}
    assert there == {*load("run").BENCHMARKS, "codex", "run"}


def test_a_table_has_a_column_for_each_name_and_says_median_least_and_greatest(load) -> None:
    rows = [
        {"case": "a", "values": {"p99_ms": spread(1234.5, 1000, 2000)}, "ratios": {}},
        {"case": "bare", "values": {}, "ratios": {"speed": spread(0.5)}},
    ]
    report = load("_report")
    assert report.table(rows) == [
        "                   p99 ms  speed",
        "a     1,234 [1,000–2,000]       ",
        "bare                        0.50",
    ]
    assert report.table(rows, markdown=True)[1:] == [
        "| --- | --- | --- |",
        "| a | 1,234 [1,000–2,000] |  |",
        "| bare |  | 0.50 |",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1_234_567, "1,234,567"), (99.96, "100.0"), (3.14159, "3.14"), (0.0456, "0.046"), (-7.5, "-7.50")],
)
def test_a_number_shows_the_digits_that_count(load, value: float, text: str) -> None:
    assert load("_report").number(value) == text


def test_a_spread_is_of_all_runs(load) -> None:
    assert load("_machine").spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "runs": 3}


def test_a_chart_is_well_formed_and_has_every_point_inside(load) -> None:
    charts = load("_chart")
    lines = [charts.Line("a < b & c", [(1, 10.0), (16, 90.0)]), charts.Line("none", [(1, 0.0), (16, 0.0)])]
    panels = [charts.Panel("events a second", "processes", lines), charts.Panel("ms", "processes", lines)]
    root = ET.fromstring(charts.chart("Title", panels))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    space = "{http://www.w3.org/2000/svg}"
    points = [(float(each.attrib["cx"]), float(each.attrib["cy"])) for each in root.iter(f"{space}circle")]
    assert len(points) == 8
    assert all(0 < x < width and 0 < y < height for x, y in points)
    assert points[1][1] < points[0][1], "more is not higher"
    texts = [each.text for each in root.iter(f"{space}text")]
    assert "a < b & c" in texts
    assert texts.count("events a second") == 1


def test_the_ticks_of_a_chart_reach_the_greatest_value(load) -> None:
    charts = load("_chart")
    assert charts._ticks(87.0) == [0, 25, 50, 75, 100]
    assert charts._ticks(0.0) == [0.0, 1.0]


def test_what_fails_in_a_child_fails_in_the_parent_with_its_words(load, tmp_path) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from _pool import serve\n"
        "serve({'double': lambda n: 2 * n, 'fail': lambda: 1 / 0})\n"
    )
    pools = load("_pool")
    with pools.Pool([sys.executable, str(script)], 2) as pool:
        assert pool.ask([{"do": "double", "n": 2}, {"do": "double", "n": 3}]) == [4, 6]
        with pytest.raises(pools.ChildFailed, match="ZeroDivisionError"):
            pool.ask([{"do": "fail"}])


def run(*what: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, what)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)


RUNNER = ("run", "_check", "_codex", "_homes", "_machine", "_measure", "_report")


def copy_runner(place: Path) -> None:
    place.mkdir(exist_ok=True)
    for name in RUNNER:
        (place / f"{name}.py").write_text((BENCHMARKS / f"{name}.py").read_text("utf-8"))


def test_the_runner_writes_one_document_and_a_regression_is_its_exit_code(tmp_path) -> None:
    """The whole way: a benchmark is run, compared with what is expected, and told where it is worse."""
    place, found = tmp_path / "benchmarks", tmp_path / "found.json"
    copy_runner(place)
    (place / "made.py").write_text(
        "from pathlib import Path\n"
        "from _machine import spread\n"
        "from _report import Report, Row, arguments, publish\n"
        "asked = arguments(None)\n"
        "assert Path(asked.folder).is_absolute()\n"
        "rows = [Row(case='it', ratios={'speed': spread([0.2, 0.3])})]\n"
        "publish(Report(benchmark='made', mode=asked.mode, asked={'rounds': asked.rounds}, rows=rows), asked)\n"
    )
    expected = '{"quick": {"made · it · speed": {"median": 0.9, "min": 0.5}}, "full": {}}'
    (place / "expected.json").write_text(expected, "utf-8")
    quick = (place / "run.py", "--quick", "--folder", "homes", "made")
    worse = run(*quick, "--check", "--out", found, cwd=tmp_path)
    assert worse.returncode == 1, worse.stderr
    assert "made · it · speed: 0.25, expected 0.9, at least 0.4" in worse.stdout
    (each,) = json.loads(found.read_text())
    assert (each["benchmark"], each["mode"], each["rows"][0]["ratios"]["speed"]["median"]) == ("made", "quick", 0.25)
    assert each["asked"]["rounds"] == 5, "two rounds are too few to compare"
    assert {"processor", "cores", "python", "sqlite", "rolloutdb"} <= set(each["machine"])
    assert run(*quick, "--expect", cwd=tmp_path).returncode == 0
    assert json.loads((place / "expected.json").read_text())["quick"] == {
        "made · it · speed": {"median": 0.25, "min": 0.2}
    }
    well = run(*quick, "--check", cwd=tmp_path)
    assert (well.returncode, "No ratio is worse than expected." in well.stdout) == (0, True)


def test_a_benchmark_that_fails_is_told_and_is_the_exit_code_and_is_not_called_well(tmp_path) -> None:
    copy_runner(tmp_path)
    (tmp_path / "made.py").write_text("raise SystemExit('no')\n")
    (tmp_path / "expected.json").write_text('{"quick": {}, "full": {}}')
    done = run(tmp_path / "run.py", "--quick", "--check", "made")
    assert (done.returncode, "failed: made" in done.stdout, "No ratio" in done.stdout) == (1, True, False)


def test_a_program_that_is_not_there_is_refused(tmp_path) -> None:
    done = run(BENCHMARKS / "run.py", "--codex", tmp_path / "nothing")
    assert (done.returncode, f"{tmp_path / 'nothing'} is no program" in done.stderr) == (2, True)


def test_a_program_that_is_named_is_measured_beside(load, monkeypatch, stand_in, tmp_path) -> None:
    runner, ran = load("run"), []
    monkeypatch.setattr(runner, "run", lambda name, _folder, asked: ran.append((name, asked.codex)))
    monkeypatch.setattr(sys, "argv", ["run.py", "--codex", str(stand_in), "--folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        runner.main()
    assert ran == [(name, str(stand_in)) for name in (*runner.BENCHMARKS, "codex")]


LADDER = [
    "every event upserted",
    "filtered",
    "light touch",
    "coalesced flush",
    "logs as segments",
    "leases in their own file",
]


def test_many_processes_on_one_home_are_measured_without_a_busy_error(tmp_path) -> None:
    chart = tmp_path / "chart.svg"
    few = ("--quick", "--rounds", 1, "--seconds", 0.05, "--processes", "1,2", "--paced", 0.1, "--long", 0.1)
    done = run(BENCHMARKS / "contention.py", *few, "--folder", tmp_path, "--json", "--chart", chart)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    groups: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in found["rows"]:
        groups.setdefault(row["group"], {})[row["case"]] = {**row["values"], **row["ratios"]}
    alone, two, long = groups["1 process for 0.05 s"], groups["2 processes for 0.05 s"], groups["2 processes for 0.1 s"]
    assert (list(alone), list(two), list(long)) == (LADDER, LADDER, [LADDER[0], LADDER[-1]])
    paced = groups["2 processes for 0.1 s, 50 events a second each"]
    assert list(paced) == [LADDER[0], LADDER[-1], "bare"]
    assert {case for case, each in paced.items() if "worst_append_beyond_bare_ms" in each} == {LADDER[0], LADDER[-1]}
    assert all(each["busy_errors"]["max"] == 0 for each in (*two.values(), *long.values()))
    assert alone["every event upserted"]["transactions_a_hundred_events"]["min"] >= 100, "one an event, at least"
    assert all(("events_a_second_with_log_rows" in each) for each in two.values())
    assert {case for case, each in two.items() if each.get("log_rows", spread(0))["min"] > 1} == set(LADDER[-2:])
    assert not any(("events_a_second_with_log_rows" in each) for each in (*alone.values(), *long.values()))
    assert found["notes"][0].startswith("Busy errors of the engine as it is: 0 (aim: none)")
    assert ET.parse(chart).getroot().tag.endswith("svg")


class Locked:
    """A worker whose home somebody else keeps."""

    threads = (1,)

    def append(self, at: int) -> None:
        raise StoreBusy("somebody keeps it", waited_ms=5_000)

    def rest(self, at: int) -> None: ...

    def settle(self) -> None: ...

    def counted(self) -> dict[str, int]:
        return {"transactions": 0, "busy_waits": 0, "flushes_failed": 1, "logs_dropped": 0}

    def close(self) -> None:
        raise StoreBusy("somebody keeps it", waited_ms=5_000)


def test_a_wait_that_ends_in_an_error_is_timed_and_told_and_is_no_append(load) -> None:
    contention, contenders = load("contention"), load("_contenders")
    contenders._open.append(Locked())
    told, closed = contenders.work(1e-9, 0), contenders.close()
    assert (told["appends"], told["errors"], closed["errors"]) == (0, ["somebody keeps it"], ["somebody keeps it"])
    (waited,) = told["append_us"]
    assert waited > 0
    each = contention.Run(contention.summary([told], [{"flushes_failed": 3}]) | {"busy_errors": 2}, told["errors"])
    assert (each.values["append_worst_ms"], each.values["flushes_failed"]) == (waited / 1000, 3)
    assert contention.notes_of({contention.Case(contention.ENGINE, 1, 1.0): [each]})[:3] == [
        "Busy errors of the engine as it is: 2 (aim: none), of all variants: 2.",
        "Flushes that failed and were left to the next: 3 and 3.",
        "1 times leases in their own file: somebody keeps it",
    ]


def test_the_engine_does_the_work_that_it_is_compared_by(load, tmp_path) -> None:
    pools, stores = load("_pool"), load("_stores")
    folders = [tmp_path / name for name in ("append", "filled")]
    for folder in folders:
        folder.mkdir()
    with pools.Pool([sys.executable, str(BENCHMARKS / "_stores.py"), "engine"], 1) as pool:
        appended = pool.ask([{"do": "append", "folder": str(folders[0]), "writers": 2, "batch": 3, "seconds": 0.05}])[0]
        assert appended["events_a_second"] > 0
        pool.ask([{"do": "fill", "folder": str(folders[1]), "threads": 3, "each": 40}])
        assert pool.ask([{"do": "replay", "folder": str(folders[1])}])[0]["events"] == 120
        rebuilt = pool.ask([{"do": "rebuild", "folder": str(folders[1]), "into": ""}])[0]
    written = stores.write_rows(
        ((f"t{thread}", event) for thread in range(3) for event in stores.events(thread, 40)), str(tmp_path / "rows.db")
    )
    assert (rebuilt["threads"], rebuilt["tokens"]) == written == (3, 9_000)


STAND_IN = """\
import json, os, sys
if sys.argv[1:] == ["--version"]:
    print("stand-in 1")
    sys.exit()
home = os.environ["CODEX_HOME"]
assert sys.argv[1:] == ["app-server"] and open(f"{home}/config.toml").read()
assert os.environ["HTTPS_PROXY"] == os.environ["http_proxy"] == "http://127.0.0.1:9"
names = [name for _, _, files in os.walk(f"{home}/sessions") for name in files]
open(f"{home}/state_5.sqlite", "w").write("rows")
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    print(json.dumps({"method": "a/notification"}))
    if asked["method"] == "fail":
        sys.exit("no such thing")
    page = [] if asked["params"].get("archived") else names
    print(json.dumps({"id": asked["id"], "result": {"data": page, "nextCursor": None}}), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path) -> Path:
    """Answers as the Codex CLI's app-server does, and does nothing else."""
    path = tmp_path / "codex"
    path.write_text(f"#!{sys.executable}\n{STAND_IN}")
    path.chmod(0o755)
    return path


def test_the_codex_cli_is_started_asked_and_ended(stand_in, tmp_path) -> None:
    few = ("--quick", "--rounds", 1, "--files", 6, "--bytes", 9_000)
    done = run(BENCHMARKS / "codex.py", "--codex", stand_in, *few, "--folder", tmp_path / "homes", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    codex, one, several, alone = found["rows"]
    assert (codex["case"], one["case"]) == ("codex", "engine, 1 process")
    assert found["versions"] == {"codex": "stand-in 1"}
    assert alone["case"].endswith("threads alone")
    assert several["ratios"]["first_start_speed_to_codex"]["median"] > 0
    assert {"first_start_s", "cpu_s", "peak_mb", "written_mb"} <= set(codex["values"])


def test_a_codex_cli_that_ends_is_told_with_what_it_said(load, stand_in, tmp_path) -> None:
    codex = load("_codex")
    (tmp_path / "sessions").mkdir()
    (tmp_path / "config.toml").write_text(codex.CONFIG)
    with codex.AppServer(str(stand_in), str(tmp_path)) as server:
        server.initialize()
        with pytest.raises(codex.CodexFailed, match=r"fail: it ended.* no such thing"):
            server.ask("fail")
