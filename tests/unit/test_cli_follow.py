"""The command that streams: a line a record, a token to go on from, Ctrl-C as its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from engine.cli import follow as cli
from engine.cli import main
from engine.testing import ManualClock
from tests.writing import opened, say

COMMAND = "import sys; from engine.cli import main; sys.exit(main())"


class Running:
    """The command, with its standard output to be read line by line."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "--home", str(home), "follow", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUTF8": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.process.communicate(timeout=60)

    def lines(self, count: int) -> list[str]:
        assert self.process.stdout is not None
        return [self.process.stdout.readline() for _ in range(count)]

    def until(self, what: str) -> list[dict[str, Any]]:
        """JSON lines up to one that is `what`."""
        found: list[dict[str, Any]] = []
        while not found or found[-1]["what"] != what:
            (line,) = self.lines(1)
            assert line, self.process.communicate()[1]
            found.append(json.loads(line))
        return found

    def stop(self) -> tuple[int, str, str]:
        """Ctrl-C; the exit code, the rest of the output, the remarks."""
        self.process.send_signal(signal.SIGINT)
        rest, remarks = self.process.communicate(timeout=60)
        return self.process.returncode, rest, remarks


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        say(thread, "hello")
    return tmp_path / "home"


def test_json_lines_are_records_and_tokens_and_a_token_goes_on_where_it_was(home: Path) -> None:
    with Running(home, "--from", "beginning", "--json") as running:
        *records, token = running.until("token")
        assert [each["ordinal"] for each in records] == list(range(8))
        assert set(records[0]) == set("what thread_id rollout_id ordinal offset timestamp kind payload".split())
        assert (records[0]["what"], records[0]["kind"], records[0]["offset"]) == ("record", "session_meta", 0)
        with opened(home) as e, e.threads.resume(records[0]["thread_id"]) as thread:
            say(thread, "more")
        more = running.until("token")
        while len([each for each in more if each["what"] == "record"]) < 7:
            more += running.until("token")
        code, rest, remarks = running.stop()
        assert (code, rest) == (130, "")
        assert remarks.startswith("Stopped. To go on from here: --from ")
    with Running(home, "--from", remarks.split()[-1], "--json") as after:
        assert [each["what"] for each in after.until("token")] == ["token"]
    with Running(home, "--from", token["token"], "--json") as again:
        assert [each for each in again.until("token") if each["what"] == "record"] == [
            each for each in more if each["what"] == "record"
        ]
        assert again.stop()[0] == 130


def test_lines_for_people_name_time_thread_ordinal_kind_and_words(home: Path, tmp_path: Path) -> None:
    (home / "sessions/2026/01/05/evil").mkdir()
    with Running(home, "--from", "beginning", "--decisions") as running:
        lines = running.lines(8)
        assert lines[3].split()[2:] == ["3", "response_item.message", "hello"]
        with opened(home) as e:
            thread_id = e.threads.list().threads[0].id
            e.threads.rename(thread_id, "a \x1b[31mname")
        (named,) = running.lines(1)
        assert named.split()[1:4] == [thread_id, "0", "home_event"]
        assert "\x1b" not in named
        code, _, remarks = running.stop()
        assert code == 130
        token = tmp_path / "token"
        token.write_text(remarks.rpartition(" ")[2])
    with Running(home, "--from", f"@{token}", "--json") as again:
        assert [each["what"] for each in again.until("token")] == ["token"]
        assert again.stop()[0] == 130


def test_what_is_wrong_is_told_in_a_line_of_its_own(home: Path) -> None:
    with Running(home, "--json") as running:
        running.until("token")
        (path,) = (home / "sessions").rglob("*.jsonl")
        with path.open("ab") as file:
            file.write(b"\0\0\n")
        told = running.until("damage")[-1]
        assert (told["offset"], told["path"]) == (path.stat().st_size, str(path.relative_to(home)))
        assert told["reason"] == "2 bytes are no record (NUL): the line is NUL bytes"
        assert running.stop()[0] == 130


def test_a_thread_that_is_not_there_yet_is_remarked(home: Path) -> None:
    missing = "01a20458-0000-7000-8000-000000000001"
    with Running(home, "--thread", missing, "--json") as running:
        running.until("token")
        code, _, remarks = running.stop()
        assert code == 130
        assert remarks.startswith(f"There is no thread {missing} yet; it is followed once there is.\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "yesterday"], "The token cannot be used"),
        (["--from", "@/nowhere"], "cannot be read"),
        (["--thread", "x"], "is not a thread id"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["--home", str(home), "follow", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_reader_that_goes_away_ends_it(home: Path) -> None:
    with Running(home, "--from", "beginning", "--json") as running:
        running.lines(1)
        assert running.process.stdout is not None
        running.process.stdout.close()
        with opened(home, ManualClock(seed=1)) as e:
            while running.process.poll() is None:
                with e.threads.create(cwd="/") as thread:
                    say(thread, "x" * 10_000)
        assert running.process.returncode == 0
        assert running.process.stderr is not None
        assert running.process.stderr.read() == ""
        running.process.stderr.close()


def test_words_are_found_wherever_a_payload_has_them() -> None:
    assert cli._words({"type": "message", "content": [{"type": "input_text", "text": "hi"}]}) == "hi"
    assert cli._words({"item": {"id": "i", "content": [{"text": "deep"}]}}) == "deep"
    assert cli._words({"type": "function_call", "name": "shell", "arguments": "{}"}) == "{}"
    assert cli._words({"number": 3}) == cli._words({"text": ["", {}]}) == ""
