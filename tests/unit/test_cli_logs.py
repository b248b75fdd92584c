"""`rolloutdb logs`: what it prints, which records, and what it says where something is wrong. LG-22, LG-23."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.options import Options
from engine.testing import ManualClock
from tests.log_home import Process
from tests.unit.test_cli import Result

CHECKOUT = Path(__file__).resolve().parents[2]
KEEPING = "from engine.options import Options; Options.__init__.__kwdefaults__['log_age_s_max'] = 10**10\n"
CLI = "import sys; from engine.cli import main; sys.exit(main())"
THREAD = "01a20464-403f-7170-9722-7a9790eef98c"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run a command of the log on the home, in this process."""

    def run(*arguments: object) -> Result:
        code = main(["--home", str(tmp_path), "logs", *map(str, arguments)])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    """Records of 2026-01-05; retention would take them for old, so it is off."""
    monkeypatch.setitem(Options.__init__.__kwdefaults__, "log_age_s_max", 100 * 365 * 24 * 3600)
    return Process(tmp_path, clock=ManualClock())


def test_a_tail_prints_the_newest_oldest_first_a_line_each(run: Any, process: Process) -> None:
    process.log("first", level="DEBUG")
    process.log("alpha", THREAD, target="app.tools")
    process.log("beta\n  indented\x1b[2J", level="ERROR")
    result = run("tail", "--no-follow")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        f"2026-01-05T09:00:00.000Z INFO  [{THREAD}] app.tools - alpha",
        "2026-01-05T09:00:00.000Z ERROR [-] app - beta",
        "  indented\N{REPLACEMENT CHARACTER}[2J",
    ]
    assert run("tail", "--no-follow", "--compact").out.splitlines()[0] == "09:00:00 INFO  alpha"


def test_its_json_is_a_document_a_line(run: Any, process: Process) -> None:
    process.log("alpha", THREAD, target="app.tools", module="tools", file="/src/tools.py")
    (line,) = run("tail", "--no-follow", "--json").out.splitlines()
    found = json.loads(line)
    assert found.pop("id") >= 1_767_603_600_000_000
    assert found == {
        "timestamp": "2026-01-05T09:00:00.000000Z",
        "level": "INFO",
        "target": "app.tools",
        "body": "alpha",
        "thread_id": THREAD,
        "process_uuid": process.id,
        "module": "tools",
        "file": "/src/tools.py",
        "line": 7,
        "cut": 0,
        "dropped": 0,
    }


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--level", "warn"], ["c", "d"]),
        (["--level", "WARN"], ["c", "d"]),
        (["--from", "2026-01-05T09:00:02Z", "--to", "2026-01-05T11:00:03+02:00"], ["c", "d"]),
        (["--from", "1767603602"], ["c", "d"]),
        (["--to", "1767603600.5"], ["a"]),
        (["--module", "tools", "--module", "net"], ["b", "c"]),
        (["--file", "%"], []),
        (["--file", "src/n"], ["c"]),
        (["--thread-id", THREAD.upper()], ["b"]),
        (["--thread-id", THREAD, "--threadless"], ["a", "b", "c"]),
        (["--threadless"], ["a", "c"]),
        (["--thread-id", " "], ["a", "b", "c", "d"]),
        (["--search", "c"], ["c"]),
        (["--backfill", "2"], ["c", "d"]),
        (["--backfill", "0"], []),
    ],
)
def test_its_options_say_which(run: Any, process: Process, options: list[str], found: list[str]) -> None:
    start = 1_767_603_600_000_000
    process.log("a", at_us=start)
    process.log("b", THREAD, module="my_tools", file="/src/m.py", at_us=start + 1_000_000)
    process.log("c", level="WARN", module="net", file="/src/n.py", at_us=start + 2_000_000)
    process.log("d", "other", level="CRITICAL", at_us=start + 3_000_000)
    lines = run("tail", "--no-follow", "--compact", *options).out.splitlines()
    assert [line.split()[-1] for line in lines] == found


@pytest.mark.parametrize("level", ["warning", "err", "warn,error"])
def test_lg_22_other_words_are_no_level(run: Any, level: str) -> None:
    result = run("tail", "--no-follow", "--level", level)
    assert result.code == 2
    assert "trace" in result.err


@pytest.mark.parametrize(("option", "value"), [("--from", "yesterday"), ("--to", "-1"), ("--from", "nan")])
def test_a_time_that_is_none_is_a_usage_error(run: Any, option: str, value: str) -> None:
    result = run("tail", "--no-follow", option, value)
    assert result.code == 2
    assert option in result.err


def test_lg_23_a_database_is_named_whatever_the_home_is(
    run: Any, process: Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no configuration that could be broken; the folder of the database is all that is used."""
    process.log("alpha")
    database = tmp_path / "engine/logs_1.sqlite"
    code = main(["--home", "/nowhere", "logs", "tail", "--no-follow", "--compact", "--db", str(database)])
    assert (code, capsys.readouterr().out) == (0, "09:00:00 INFO  alpha\n")


def test_lg_23_a_folder_whose_name_is_not_utf_8_is_refused_by_its_name(
    process: Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Differs: SQLite takes names in UTF-8 alone, so the table has to lie elsewhere."""
    odd = os.path.join(os.fsencode(tmp_path), b"odd\xff")
    process.log("alpha")
    os.rename(os.fsencode(tmp_path / "engine"), odd)
    code = main(["logs", "tail", "--no-follow", "--db", os.fsdecode(odd) + "/logs_1.sqlite"])
    assert code == 3
    assert "not UTF-8" in capsys.readouterr().err


def test_where_nothing_was_logged_nothing_is_printed_and_nothing_made(run: Any, tmp_path: Path) -> None:
    assert run("tail", "--no-follow") == Result(0, "", "")
    assert run("export", THREAD) == Result(0, "", "")
    assert run("status").code == 0
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_printed_as_it_is_or_put_into_a_new_file(run: Any, process: Process, tmp_path: Path) -> None:
    process.log("al\x1bpha", THREAD)
    process.log("beta")
    text = "2026-01-05T09:00:00.000000Z  INFO al\x1bpha\n2026-01-05T09:00:00.000001Z  INFO beta\n"
    target = tmp_path / "report.log"
    assert run("export", THREAD, "--json").document == {"bytes": len(text), "text": text}
    assert run("export", THREAD, "--bytes-max", 50, "--json").document["text"] == text.splitlines(keepends=True)[1]
    assert run("export", THREAD, "--to", target, "--json").document == {"path": str(target), "bytes": len(text)}
    assert run("export", THREAD, "--to", target).code == 2
    assert target.read_text("utf-8") == text
    done = subprocess.run(
        [sys.executable, "-c", KEEPING + CLI, "--home", tmp_path, "logs", "export", THREAD],
        capture_output=True,
        check=True,
        cwd=CHECKOUT,
    )
    assert (done.stdout.decode(), done.stderr) == (text, b"")


def test_a_status_tells_bytes_rows_dropped_and_segments(run: Any, process: Process, tmp_path: Path) -> None:
    process.log("alpha")
    process.log("beta", level="DEBUG")
    process.log("3 were dropped", level="WARN", dropped=3)
    found = run("status", "--json").document
    assert {name: found[name] for name in ("segments", "rows", "records", "dropped", "damaged")} == {
        "segments": 1, "rows": 2, "records": 3, "dropped": 3, "damaged": 0,
    }  # fmt: skip
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "engine/logs").rglob("*.jsonl"))
    assert found["lag"] == {"segments": 0, "bytes": 0, "paused": None}
    assert "3 followed, 2 of them have rows" in run("status").out


def test_a_tail_goes_on_until_ctrl_c(process: Process, tmp_path: Path) -> None:
    process.log("there before")
    following = subprocess.Popen(
        [sys.executable, "-c", KEEPING + CLI, "--home", tmp_path, "logs", "tail", "--compact", "--poll-ms", "20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    assert following.stdout is not None
    try:
        assert following.stdout.readline() == "09:00:00 INFO  there before\n"
        process.log("came later")
        assert following.stdout.readline() == "09:00:00 INFO  came later\n"
        (tmp_path / "engine/logs_1.sqlite").unlink()  # thrown away meanwhile: nothing is told twice, nothing is lost
        process.log("came after that")
        assert following.stdout.readline() == "09:00:00 INFO  came after that\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(60) == 130
        assert following.stderr is not None
        assert following.stderr.read() == ""
    finally:
        following.kill()
        following.communicate()
