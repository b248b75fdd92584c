"""The example of docs/READING.md is run, and prints what it should."""

from __future__ import annotations

from pathlib import Path

from tests.pages import examples_of, printed_by


def test_the_example_of_the_reading_page_reads_and_follows(tmp_path: Path) -> None:
    block, _ = examples_of("READING.md")
    (tmp_path / "agent-home").mkdir()
    printed = printed_by(block, tmp_path)
    assert printed == [
        "newest [15, 14, 13]",
        "older [12, 11, 10]",
        "since [13, 14, 15]",
        "context ['message', 'message', 'message'] some-model",
        "followed 20",
        "new None",
    ]


def test_the_example_of_the_search_finds_what_it_says(tmp_path: Path) -> None:
    _, block = examples_of("READING.md")
    (tmp_path / "searched-home").mkdir()
    printed = printed_by(block, tmp_path)
    assert printed == [
        "user Why does the write lock time out? ['lock']",
        "agent The second process holds the lock while it waits for the disk. ['lock']",
        "user Then give the lock back first. ['lock']",
        "phrase 1",
        "beginning 1",
        "name ['Lock time-outs']",
        "fork 3",
        "next 2 None",
    ]
