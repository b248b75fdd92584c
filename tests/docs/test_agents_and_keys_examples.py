"""The examples of docs/AGENTS.md and docs/DEVICE_KEYS.md are run, and print what they should."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import examples_of, printed_by, text_of

PRINTED = {
    "AGENTS.md": [
        "spawned 1 /root/reader",
        "spawned 1 /root/writer",
        "spawned 2 /root/writer/helper",
        "closed 2 failed ['RuntimeError: it is in the middle of something'] skipped 1",
        "still open ['/root/writer']",
        "resume 0 None",
        "resume 1 /root/reader",
        "resume 1 /root/writer",
        "resumed 3",
    ],
    "DEVICE_KEYS.md": [
        "dk_sfw_ software 91",
        'ecdsa_p256_sha256 {"domain":"codex-device-key-sign-payload/v1","pay',
        "['account-1']",
    ],
}


@pytest.mark.parametrize("page", list(PRINTED))
def test_the_example_of_the_page_prints_what_it_should(tmp_path: Path, page: str) -> None:
    (block,) = examples_of(page)
    (tmp_path / "agent-home").mkdir()
    printed = printed_by(block, tmp_path)
    assert printed == PRINTED[page]


def test_the_page_names_every_call_of_the_graph() -> None:
    from engine.agents import Agents

    text = text_of("AGENTS.md")
    calls = [name for name in vars(Agents) if not name.startswith("_")]
    assert len(calls) > 10
    assert [name for name in calls if not re.search(rf"\b{name}\(", text)] == []
