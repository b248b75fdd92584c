"""The documents are true where a machine can tell: links, named files and tests, make targets, the README's length."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.audit.findings import CLASSES

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PATH = re.compile(r"`((?:engine|docs|migrations)/[\w./]*|tests/[\w/]+\.\w+)`")
"""Folders of tests are left out: those that are planned have no file yet, and git keeps no empty folder."""
MAKE = re.compile(r"(?:^\$ |`)make ([a-z-]+)", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text("utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_and_make_target_named_in_a_document_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    # Made when the wheel is built, so no checkout has it.
    paths = {path for path in PATH.findall(text) if not path.startswith("engine/_migrations")}
    assert sorted(path for path in paths if not (CHECKOUT / path).exists()) == []
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(MAKE.findall(text)) - targets == set()


def test_every_guarantee_names_tests_that_exist() -> None:
    text = (CHECKOUT / "docs/GUARANTEES.md").read_text("utf-8")
    promises, shown = (
        [row for row in part.splitlines() if row.startswith("| ") and not row.startswith("| ID ")]
        for part in text.split("## What tests show")
    )
    assert len(promises) > 30
    assert [row for row in shown if not TEST.search(row)] == [], "a row without a test"
    kept = [row for row in promises if " | kept" in row]
    assert [row for row in kept if not TEST.search(row) and " below |" not in row] == [], "kept, and nothing shows it"
    assert [row for row in promises if row not in kept and " | not yet" not in row and " | measured" not in row] == []
    ids = [row.split(" | ")[0] for row in shown]
    assert len(ids) == len(set(ids)), "two rows with one ID"
    named = [pair for row in (*promises, *shown) for pair in TEST.findall(row)]
    assert [f"{path}::{name}" for path, name in named if not defines(CHECKOUT / path, name)] == []


def test_every_class_of_finding_is_explained_with_its_severity() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (CHECKOUT / "docs/AUDIT.md").read_text("utf-8"), re.MULTILINE)
    assert {name: CLASSES[name][0] for name, _ in rows if name in CLASSES} == {
        name: of for name, of in rows if name in CLASSES
    }
    assert [name for name, _ in rows if name in CLASSES] == list(CLASSES)


def test_the_readme_shows_code_at_once_and_stays_short() -> None:
    lines = (CHECKOUT / "README.md").read_text("utf-8").splitlines()
    assert any(line.startswith("```") for line in lines[:15])
    assert len(lines) < 150


def defines(path: Path, name: str) -> bool:
    """Whether a test file defines this test."""
    return (
        path.is_file()
        and re.search(rf"^    def {name}\(|^def {name}\(", path.read_text("utf-8"), re.MULTILINE) is not None
    )
