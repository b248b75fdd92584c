"""What is built is what was meant: the wheel and the source archive hold all that the engine needs, and nothing else.

One wheel is built, installed with its dependencies into an environment of its own, and used from another folder, as a
user would. `xdist_group` keeps all of it in one process, so that it is built once in a run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("package")

THREAD = "01990000-0000-7000-8000-00000000c0de"
HELLO = "Where do the migrations of a wheel lie?"

NO_NETWORK = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "nodename nor servname provided",
    "Network is unreachable",
    "Connection refused",
    "Failed to establish a new connection",
)


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build(checkout, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a new environment that holds the wheel and its dependencies, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    run([sys.executable, "-m", "venv", str(folder)], folder)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode and any(sign in done.stderr for sign in NO_NETWORK):
        pytest.skip(f"pip has no network to fetch the dependencies with: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of one small thread, written down line by line."""
    home = tmp_path / "home"
    folder = home / "sessions" / "2026" / "01" / "05"
    folder.mkdir(parents=True)
    lines = [
        record(0, "session_meta", {**META, "id": THREAD, "session_id": THREAD}),
        record(1, "event_msg", {"type": "task_started", "turn_id": "turn-1"}),
        record(2, "event_msg", {"type": "item_completed", "thread_id": THREAD, "turn_id": "turn-1", "item": MESSAGE}),
    ]
    (folder / f"rollout-2026-01-05T09-00-00-{THREAD}.jsonl").write_text("".join(lines), "utf-8")
    return home


META = {
    "timestamp": "2026-01-05T09:00:00.000Z",
    "cwd": "/src/app",
    "originator": "codex_cli_rs",
    "cli_version": "0.169.0",
    "source": "cli",
    "model_provider": "openai",
    "base_instructions": None,
    "history_mode": "paginated",
}
MESSAGE = {"type": "UserMessage", "id": "item-1", "content": [{"type": "text", "text": HELLO, "text_elements": []}]}


def test_the_wheel_carries_every_migration_and_the_type_marker(checkout: Path, wheel: Path) -> None:
    sources = {
        f"engine/_migrations/{path.relative_to(checkout / 'migrations').as_posix()}": path.read_bytes()
        for path in (checkout / "migrations").rglob("*.sql")
    }
    assert sources, "the checkout has no migrations"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {name: archive.read(name) for name in names if name.endswith(".sql")} == sources
    assert "engine/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"engine", f"rolloutdb-{version(checkout)}.dist-info"}


def test_a_wheel_built_from_the_source_archive_is_the_same(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    archive = build(checkout, "sdist", tmp_path / "sdist")
    with tarfile.open(archive) as source:
        source.extractall(tmp_path, filter="data")
    top = tmp_path / f"rolloutdb-{version(checkout)}"
    assert (top / "tests" / "conftest.py").is_file()
    again = build(top, "wheel", tmp_path / "wheel")
    assert contents(again) == contents(wheel)


def test_an_installed_wheel_indexes_a_home_from_another_folder(installed: Path, home: Path, tmp_path: Path) -> None:
    command = [str(installed / "rolloutdb"), "--home", str(home), "--state-dir", str(tmp_path / "state")]
    report = json.loads(run([*command, "backfill", "--json"], tmp_path))
    assert (report["status"], report["threads"], report["failed"]) == ("complete", 1, [])
    page = json.loads(run([*command, "threads", "list", "--json"], tmp_path))
    assert [(thread["id"], thread["first_user_message"]) for thread in page["threads"]] == [(THREAD, HELLO)]
    where = run([str(installed / "python"), "-c", "import engine; print(engine.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent), f"the checkout was used instead of the wheel: {where}"


def test_the_lowest_python_is_the_same_wherever_it_is_named(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    assert project["tool"]["mypy"]["python_version"] == "3.11"
    assert "sys.version_info < (3, 11)" in (checkout / "Makefile").read_text("utf-8")


def version(checkout: Path) -> str:
    """The version in pyproject.toml."""
    return tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def build(source: Path, kind: str, folder: Path) -> Path:
    """Build `source` with the backend of pyproject.toml, which is in the dev extra, so without a network."""
    run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)], source)
    (made,) = folder.iterdir()
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of a wheel by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def record(ordinal: int, kind: str, payload: dict[str, object]) -> str:
    """One line of a paginated rollout."""
    line = {"timestamp": f"2026-01-05T09:00:0{ordinal}.000Z", "ordinal": ordinal, "type": kind, "payload": payload}
    return json.dumps(line, separators=(",", ":")) + "\n"


def run(command: list[str], folder: Path) -> str:
    """What a command prints; its own words when it fails. Nothing of this process's Python settings reaches it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=clean)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
