"""What a projection emits beyond its state reaches its `write`, once for each piece, also through a worker's pipe."""

from __future__ import annotations

import msgspec
import pytest

from engine.clock import SystemClock
from engine.options import Options
from engine.projections.fold import Folded
from engine.projections.projection import Piece
from engine.projections.runner import Runner
from engine.stores.files import Files
from engine.stores.layout import open_home
from engine.stores.sqlite import Database
from engine.testing import rollout_lines

NAME = "sessions/2026/01/05/rollout-2026-01-05T09-00-00-01a20464-403f-7170-9722-7a9790eef98c.jsonl"


class Contexts:
    """Emits where each turn_context stands."""

    name = "contexts"
    version = 1
    kinds = frozenset({"turn_context"})
    latest: frozenset[str] = frozenset()

    def __init__(self):
        self.written = []

    def start(self, stream):
        return {"seen": 0, "new": []}

    def apply(self, state, record, kind, offset):
        state["seen"] += 1
        state["new"].append((offset, record.timestamp))
        return True

    def close_piece(self, state, piece: Piece):
        pass

    def emit(self, state):
        new, state["new"] = state["new"], []
        return new

    def encode(self, state):
        assert not state["new"], "what was emitted is not kept"
        return msgspec.json.encode(state)

    def decode(self, blob):
        return msgspec.json.decode(blob)

    def write(self, transaction, changes):
        self.written += [(change.anew, [tuple(each) for each in change.emitted]) for change in changes]

    def forget(self, transaction, paths):
        pass


@pytest.fixture
def home(tmp_path):
    (tmp_path / NAME).parent.mkdir(parents=True)
    return tmp_path


def catch_up(home, projection, through=lambda done: done):
    found = open_home(str(home), None, Files())
    database = Database.open(
        str(home / "engine"), "state", 1, migrations="state", options=Options(), clock=SystemClock(), files=Files()
    )
    try:
        runner = Runner(found, database, [projection], options=Options(), clock=SystemClock(), files=Files())
        jobs = runner.jobs(list(runner.scan()))
        runner.write([through(each) for each in runner.do(jobs)], {job.path: job for job in jobs})
    finally:
        database.close()


def expected(lines):
    found, offset = [], 0
    for line in lines:
        if b'"type":"turn_context"' in line[:120]:
            found.append((offset, line[14:38].decode()))
        offset += len(line)
    return found


def test_what_is_emitted_is_written_piece_by_piece_and_the_first_piece_says_that_it_is_anew(home):
    lines = list(rollout_lines(seed=6, mode="paginated", size=60_000))
    half = len(lines) // 2
    projection = Contexts()
    (home / NAME).write_bytes(b"".join(lines[:half]))
    catch_up(home, projection)
    (home / NAME).write_bytes(b"".join(lines))
    catch_up(home, projection)
    before = len(expected(lines[:half]))
    assert 0 < before < len(expected(lines))
    assert projection.written == [(True, expected(lines)[:before]), (False, expected(lines)[before:])]


def test_what_is_emitted_comes_through_a_workers_pipe(home):
    lines = list(rollout_lines(seed=6, mode="paginated", size=60_000))
    projection = Contexts()
    (home / NAME).write_bytes(b"".join(lines))

    def piped(done):
        sent = [msgspec.msgpack.decode(msgspec.msgpack.encode(each), type=Folded) for each in done.folded]
        return msgspec.structs.replace(done, folded=sent)

    catch_up(home, projection, piped)
    assert projection.written == [(True, expected(lines))]
