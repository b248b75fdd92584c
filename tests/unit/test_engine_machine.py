"""The whole engine against a dict and some lists: any sequence of calls, with restarts that were clean or a kill.

A kill is simulated by going on with a copy of the folder as it is at that moment, which is what the kernel has of a dead
process; sometimes without any database, sometimes in the middle of a migration of the state database from an older shape.
The model imports nothing of the engine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import engine
from engine.errors import ThreadArchived, ThreadBusy
from engine.options import Options
from engine.testing import ManualClock
from engine.testing.tables import dump
from tests.older_shapes import NUMBER as MIGRATIONS
from tests.older_shapes import at_statement, to_older_shape
from tests.writing import said

OPTIONS = Options(flush_delay_ms=3_600_000, scan_interval_ms=60_000, segment_bytes_max=4_000)
WORDS = ["hello", "naïve\u2028café", "x" * 700, "{}", '"', "\U0001f600"]

NEW: dict[str, Any] = {
    "words": [],
    "turns": [],
    "ids": [],
    "name": None,
    "archived": False,
    "inherited": [],
    "mode": "paginated",
    "totals": [],
    "total": 0,
    "tokens": 0,
    "memory": "enabled",
}
"""A thread of the model: its user's words, in each turn's id, place among them, and tokens used before it. `total` is what was
used in all, `tokens` what its row shows: of a fork by reference nothing before it used any itself."""


class Session:
    """An engine in use, and beside it what must be true of it."""

    def __init__(self, seed: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machine"))
        self.home = self.folder / "home 0"
        self.home.mkdir()
        self.clock = ManualClock(seed=seed)
        self.e = engine.open(str(self.home), clock=self.clock, options=OPTIONS)
        self.model: dict[str, dict[str, Any]] = {}
        self.open: dict[str, Any] = {}
        self.restarts = 0

    # --- what an application does --------------------------------------------------------------------------------

    def create(self, number: int) -> None:
        mode = ("paginated", "legacy")[number % 2]
        thread = self.e.threads.create(cwd="/srv", history_mode=mode, durability="buffered")
        self.open[thread.id] = thread
        self.model[thread.id] = {**NEW, "mode": mode}
        self.say(thread.id, number)

    def say(self, thread_id: str, number: int) -> None:
        """A turn; one in five is aborted, one in five has tokens, one in five keyed items that come twice."""
        thread, word = self.open[thread_id], f"{number} {WORDS[number % len(WORDS)]}"
        known = self.model[thread_id]
        known["totals"] = [*known["totals"], known["total"]]
        known["turns"] = [*known["turns"], len(known["words"])]
        turn = thread.turn()
        turn.__enter__()
        known["ids"] = [*known["ids"], turn.id]
        turn.user_message(word)
        known["words"] = [*known["words"], word]
        if number % 5 == 1:
            turn.token_usage(input_tokens=number)
            known["total"] = known["tokens"] = known["total"] + number
        if number % 5 == 2:
            item = {"type": "response_item", "payload": {"type": "web_search_call", "number": number}}
            key = f"{turn.id}"
            assert [turn.append([item, item], key=key).records for _ in range(2)] == [2, 0]
        if number % 5 == 3:
            turn.tool_call("shell", {"n": number}, call_id="c")
            error = KeyError(number)
            turn.__exit__(KeyError, error, None)
        else:
            turn.__exit__(None, None, None)
        self.clock.advance(1 + number * 37 % 3_000)

    def close_thread(self, thread_id: str) -> None:
        self.open.pop(thread_id).close()

    def resume(self, thread_id: str) -> None:
        if self.model[thread_id]["archived"]:
            with pytest.raises(ThreadArchived):
                self.e.threads.resume(thread_id)
        elif thread_id in self.open:
            with pytest.raises(ThreadBusy):
                self.e.threads.resume(thread_id)
        else:
            self.open[thread_id] = self.e.threads.resume(thread_id, durability="buffered")

    def rename(self, thread_id: str, number: int) -> None:
        name = None if number % 4 == 0 else f"name {number}"
        self.e.threads.rename(thread_id, name)
        self.model[thread_id]["name"] = name

    def set_memory_mode(self, thread_id: str, number: int) -> None:
        mode = ("enabled", "disabled", "polluted")[number % 3]
        self.e.threads.set_memory_mode(thread_id, mode)
        self.model[thread_id]["memory"] = mode

    def move(self, thread_id: str, number: int) -> None:
        archived = number % 2 == 0
        call = self.e.threads.archive if archived else self.e.threads.unarchive
        if thread_id in self.open:
            with pytest.raises(ThreadBusy):
                call(thread_id)
            return
        call(thread_id)
        self.model[thread_id]["archived"] = archived

    def fork(self, thread_id: str, number: int) -> None:
        parent = self.model[thread_id]
        at = number % (len(parent["ids"]) + 1)
        latest = at == len(parent["ids"])
        child = self.e.threads.fork(thread_id, before_turn=None if latest else parent["ids"][at], durability="buffered")
        words = parent["words"] if latest else parent["words"][: parent["turns"][at]]
        total = parent["total"] if latest else parent["totals"][at]
        self.model[child.id] = {
            **NEW,
            **{name: parent[name][:at] for name in ("turns", "ids", "totals")},
            "words": words,
            "inherited": parent["ids"][:at],
            "mode": parent["mode"],
            "total": total,
            "tokens": total if parent["mode"] == "legacy" else 0,
        }
        child.close()

    # --- what happens to it --------------------------------------------------------------------------------------

    def restart(self) -> None:
        self.e.close()
        self._reopen(self.home)

    def kill(self, *, databases: bool) -> None:
        self.restarts += 1
        copy = self.folder / f"home {self.restarts}"
        ignored = ["locks", "*-shm"] if databases else ["locks", "*.sqlite*"]
        shutil.copytree(self.home, copy, ignore=shutil.ignore_patterns(*ignored))
        self.e.close()
        shutil.rmtree(self.home)
        self._reopen(copy)

    def break_off(self, thread_id: str, number: int) -> None:
        """The process is killed in the middle of a turn, with a call that has no output."""
        thread, word = self.open[thread_id], f"{number} broken off"
        known = self.model[thread_id]
        turn = thread.turn()
        turn.__enter__()
        turn.user_message(word)
        turn.tool_call("shell", {}, call_id=word)
        known["totals"] = [*known["totals"], known["total"]]
        known["turns"] = [*known["turns"], len(known["words"])]
        known["ids"] = [*known["ids"], turn.id]
        known["words"] = [*known["words"], word]
        self.kill(databases=number % 2 == 0)

    def kill_migrating(self, number: int) -> None:
        """A newer release opens what an older one left, and is killed on the way; the next start goes on from there."""
        self.e.close()
        to_older_shape(self.home / "engine", number % MIGRATIONS)
        self.restarts += 1
        copy = self.folder / f"home {self.restarts}"
        ignored = shutil.ignore_patterns("locks", "*-shm")
        with at_statement(number // MIGRATIONS % 40, lambda: shutil.copytree(self.home, copy, ignore=ignored)):
            self._reopen(self.home)
        if copy.exists():  # else the migration had fewer statements
            self.e.close()
            shutil.rmtree(self.home)
            self._reopen(copy)

    def _reopen(self, home: Path) -> None:
        self.home, self.open = home, {}
        self.e = engine.open(str(home), clock=self.clock, options=OPTIONS)

    # --- what must hold ------------------------------------------------------------------------------------------

    def check_list(self) -> None:
        page = self.e.threads.list(limit=0, counts=True)
        assert page.partial is None
        found = {row.id: (row.name, row.archived, row.memory_mode) for row in page.threads}
        assert found == {id_: (it["name"], it["archived"], it["memory"]) for id_, it in self.model.items()}
        assert page.total == len(self.model)
        assert {row.id: row.tokens_used for row in page.threads} == {
            id_: it["tokens"] for id_, it in self.model.items()
        }
        for row in page.threads:
            assert row.archived == ("/archived_sessions/" in row.rollout_path)
            assert os.path.exists(row.rollout_path)

    def check_reads(self) -> None:
        for id_, it in self.model.items():
            records = list(self.e.threads.read(id_))
            assert said(records) == it["words"]
            self.check_turns(records, it)

    def check_turns(self, records: list[Any], it: dict[str, Any]) -> None:
        """Every turn but the newest has an end, every call an answer by then; but for what a fork went on from."""
        begun: list[str] = []
        ended: list[str] = []
        unanswered: set[str] = set()
        for each in records:
            tag = each.kind.rpartition(".")[2]
            if tag == "task_started":
                assert set(begun) - set(ended) <= set(it["inherited"])
                assert not unanswered or it["inherited"]
                begun.append(each.payload["turn_id"])
            elif tag in ("task_complete", "turn_aborted"):
                ended.append(each.payload["turn_id"])
            elif tag == "function_call":
                unanswered.add(each.payload["call_id"])
            elif tag == "function_call_output":
                unanswered.discard(each.payload["call_id"])
        assert begun == it["ids"]
        assert len(ended) == len(set(ended))

    def end(self) -> None:
        """Rows are those of a fresh index of the same files, and audit has nothing to say."""
        try:
            self.check_list()
            self.check_reads()
            assert self.e.audit(deep=True).findings == []
            self.e.close()
            rows = stable(self.home)
            for path in (self.home / "engine").glob("*.sqlite*"):
                path.unlink()
            self._reopen(self.home)
            self.e.backfill()
            self.check_list()
            self.check_reads()
            self.e.close()
            assert stable(self.home) == rows
        finally:
            self.e.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def stable(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows without those that tell how they came to be."""
    found = dump(home / "engine" / "state_1.sqlite")
    return {table: rows for table, rows in found.items() if table not in ("backfill", "divergences")}


NUMBER = st.integers(0, 999)


class EngineMachine(RuleBasedStateMachine):
    """Hypothesis chooses the calls and shortens a sequence that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session()

    def any_of(self, number: int) -> str:
        return list(self.session.model)[number % len(self.session.model)]

    def any_open(self, number: int) -> str:
        return list(self.session.open)[number % len(self.session.open)]

    @rule(number=NUMBER)
    def create(self, number: int) -> None:
        self.session.create(number)

    @precondition(lambda self: self.session.open)
    @rule(which=NUMBER, number=NUMBER)
    def say(self, which: int, number: int) -> None:
        self.session.say(self.any_open(which), number)

    @precondition(lambda self: self.session.open)
    @rule(which=NUMBER)
    def close_thread(self, which: int) -> None:
        self.session.close_thread(self.any_open(which))

    @precondition(lambda self: self.session.model)
    @rule(which=NUMBER)
    def resume(self, which: int) -> None:
        self.session.resume(self.any_of(which))

    @precondition(lambda self: self.session.model)
    @rule(which=NUMBER, number=NUMBER, what=st.sampled_from(["rename", "set_memory_mode", "move", "fork"]))
    def change(self, which: int, number: int, what: str) -> None:
        getattr(self.session, what)(self.any_of(which), number)

    @rule()
    def restart(self) -> None:
        self.session.restart()

    @rule(databases=st.booleans())
    def kill(self, databases: bool) -> None:
        self.session.kill(databases=databases)

    @precondition(lambda self: self.session.open)
    @rule(which=NUMBER, number=NUMBER)
    def break_off(self, which: int, number: int) -> None:
        self.session.break_off(self.any_open(which), number)

    @rule(number=NUMBER)
    def kill_migrating(self, number: int) -> None:
        self.session.kill_migrating(number)

    @rule()
    def read(self) -> None:
        self.session.check_reads()

    @invariant()
    def listed(self) -> None:
        self.session.check_list()

    def teardown(self) -> None:
        self.session.end()


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(settings.get_profile("test"), max_examples=25, stateful_step_count=25)


WORDS_OF_CALLS = ["say"] * 12 + ["rename", "set_memory_mode", "move", "move", "resume", "resume", "close_thread"]


def step(session: Session, random: Random) -> bool:
    """One random call, a restart or a kill about every hundred; whether there was something to call it for."""
    number, chance = random.randrange(1_000), random.random()
    if not session.model or chance < 0.02:
        session.create(number)
    elif chance < 0.03:
        session.fork(random.choice(list(session.model)), number)
    elif chance < 0.035:
        session.restart()
    elif chance < 0.04:
        session.kill(databases=number % 2 == 0)
    elif chance < 0.0425:
        session.kill_migrating(number)
    elif chance < 0.045 and session.open:
        session.break_off(random.choice(list(session.open)), number)
    else:
        return call(session, random.choice(WORDS_OF_CALLS), number, random)
    return True


def call(session: Session, what: str, number: int, random: Random) -> bool:
    choices = list(session.open if what in ("say", "close_thread") else session.model)
    if not choices:
        return False
    target = random.choice(choices)
    if what in ("resume", "close_thread"):
        getattr(session, what)(target)
    else:
        getattr(session, what)(target, number)
    return True


@pytest.mark.parametrize("operations", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_after_any_operations_every_database_can_be_deleted_and_the_rows_come_back(operations: int) -> None:
    """Random calls, with restarts and kills; then the rows of a fresh index are the same."""
    random, session = Random(operations), Session(seed=operations)
    done = 0
    for at in range(operations):
        done += step(session, random)
        if at % 50 == 0:
            session.check_list()
    assert done > operations * 0.8
    session.end()
