"""A fork and an erasure of its source by two engines, each inside of the other, at every file call: one sees the other.

In the end a fork that was given reads whole and the erasure was refused, or the fork was refused and nothing of it is there.
What an erasure that was cut short does about a fork, what an import does, and the lock that all of them take.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.clock import SystemClock
from engine.errors import (
    EngineError,
    RolloutUnusable,
    StoreBusy,
    StoreError,
    ThreadBusy,
    ThreadHasReaders,
    ThreadNotFound,
    TruthGone,
)
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.lineage_lock import lineage_held
from engine.testing.files import Call, FaultyFiles
from tests.removing import DAY_MS, START_MS, fork, opened, tagged, talk
from tests.writing import said

STILL = Options(busy_wait_ms=0, background_scan_s=0, flush_delay_ms=3_600_000, scan_interval_ms=3_600_000)

Outcome = Any
"""What a call returned, or the error that it raised."""


def outcome_of(call: Callable[[], object]) -> Outcome:
    try:
        return call()
    except EngineError as error:
        return error


At = Callable[[int, Call], bool]
"""Whether this is the file call, by its number and what it is, at which the other one comes between."""


class Meeting:
    """An engine at work, and another one that comes between at one of its file calls."""

    def __init__(self, home: Path, at: At) -> None:
        self._is_it = at
        self._act: Callable[[], object] | None = None
        self.inner: Outcome = None
        self._files = FaultyFiles(Files(), self._at)
        self.first = opened(home, at_ms=START_MS + DAY_MS, files=self._files, options=STILL)
        self.second = opened(home, at_ms=START_MS + 2 * DAY_MS, options=STILL)

    @property
    def met(self) -> bool:
        return self._act is None

    def _at(self, number: int, call: Call) -> None:
        if self._act is not None and self._is_it(number, call):
            act, self._act = self._act, None
            self.inner = outcome_of(act)

    def run(self, outer: Callable[[], object], inner: Callable[[], object]) -> Outcome:
        self._act = inner
        self._files.forget()
        return outcome_of(outer)

    def close(self) -> None:
        self.first.close()
        self.second.close()


def forked(e: engine.Engine, parent: str) -> str:
    with e.threads.fork(parent) as child:
        return child.id


def judge(home: Path, parent: str, child: Outcome, erased: Outcome, *, with_children: bool) -> str:
    """What became of the two; whatever it was, nothing that is there is broken."""
    with opened(home, at_ms=START_MS + 3 * DAY_MS) as e:
        there = {row.id for row in e.threads.list(limit=0).threads}
        assert [each.class_ for each in e.audit(deep=True).faults] == []
        if isinstance(child, EngineError):
            assert isinstance(child, (StoreBusy, ThreadNotFound, TruthGone)), child
            assert there <= {parent}
            if isinstance(erased, EngineError):
                assert isinstance(erased, (StoreBusy, ThreadBusy)), erased
                return "neither"
            assert there == set()
            return "erased"
        if with_children and not isinstance(erased, EngineError):
            assert (there, set(erased.thread_ids)) == (set(), {parent, child})
            return "erased with the child"
        assert isinstance(erased, (StoreBusy, ThreadBusy, ThreadHasReaders)), erased
        if isinstance(erased, ThreadHasReaders):
            assert erased.readers == [child]
        assert there == {parent, child}
        assert said(e.threads.read(child)) == ["one", "two"]
        with pytest.raises(ThreadHasReaders) as refused:
            e.threads.erase(parent, grace_s=None)
        assert refused.value.readers == [child]
        return "forked"


def meet(home: Path, outer: str, at: At, *, with_children: bool = False) -> str | None:
    """How it ended when the other came between there; None where there is no such call."""
    with opened(home) as e:
        parent = talk(e, "one", "two")
        e.threads.list()
    meeting = Meeting(home, at)
    first, second = (meeting.first, meeting.second) if outer == "fork" else (meeting.second, meeting.first)

    def forks() -> object:
        return forked(first, parent)

    def erases() -> object:
        return second.threads.erase(parent, grace_s=None, include_children=with_children)

    done = meeting.run(forks, erases) if outer == "fork" else meeting.run(erases, forks)
    inner, met = meeting.inner, meeting.met
    meeting.close()
    if not met:
        return None
    child, erased = (done, inner) if outer == "fork" else (inner, done)
    return judge(home, parent, child, erased, with_children=with_children)


@pytest.mark.parametrize(
    ("outer", "name", "op", "end"),
    [
        ("fork", "open_lock", "lineage.lock", "erased"),  # before it is the fork's turn
        ("fork", "open_read", "rollout.open", "forked"),  # from here on it is
        ("fork", "sync", "fork.sync", "forked"),
        ("fork", "link", "recorder.link", "forked"),
        ("fork", "close", "lineage.lock", "forked"),
        ("erase", "open_lock", "lineage.lock", "forked"),
        ("erase", "fstat", "lineage.lock", "erased"),
        ("erase", "write", "journal.write", "erased"),
        ("erase", "remove", "erase.remove", "erased"),
        ("erase", "close", "lineage.lock", "erased"),  # the rows are there yet, the files are gone
    ],
)
def test_of_a_fork_and_an_erasure_one_sees_the_other(tmp_path: Path, outer: str, name: str, op: str, end: str) -> None:
    """Before, an erasure between the look at the source and the file of the child left a thread that nobody could read."""
    assert meet(tmp_path / "home", outer, lambda _, call: (call.name, call.op) == (name, op)) == end


@pytest.mark.parametrize(
    ("name", "op", "end"),
    [
        ("writable", "home.writable", "erased with the child"),
        ("open_lock", "lineage.lock", "forked"),
        ("remove", "erase.remove", "erased"),
    ],
)
def test_an_erasure_takes_the_children_that_it_knew_and_no_other(tmp_path: Path, name: str, op: str, end: str) -> None:
    """It owns each of them: one that came since is not owned, and named."""
    at = lambda _, call: (call.name, call.op) == (name, op)  # noqa: E731
    assert meet(tmp_path / "home", "erase", at, with_children=True) == end


@pytest.mark.soak
@pytest.mark.parametrize(
    ("outer", "with_children", "wanted"),
    [
        ("fork", False, {"erased", "forked"}),
        ("erase", False, {"erased", "forked"}),
        ("fork", True, {"erased", "forked", "erased with the child"}),
        ("erase", True, {"erased", "forked", "erased with the child"}),
    ],
)
def test_at_every_file_call_one_of_them_sees_the_other(
    tmp_path: Path, outer: str, with_children: bool, wanted: set[str]
) -> None:
    ends = set()
    for number in itertools.count():
        end = meet(tmp_path / str(number), outer, lambda at, _, n=number: at == n, with_children=with_children)
        if end is None:
            break
        ends.add(end)
    assert ends == wanted


def cut_short(home: Path, *, include_children: bool = False) -> str:
    """A home where the erasure of a thread was announced and none of its rollouts went; its id."""
    with opened(home) as e:
        parent = talk(e, "one", "two")
    if include_children:
        with opened(home, at_ms=START_MS + DAY_MS) as e:
            assert fork(e, parent, "three") > parent  # by their ids the parent's turn would come first
    broken = FaultyFiles(Files(), lambda _, call: errno.EIO if call.op == "erase.remove" else None)
    with opened(home, files=broken) as e, pytest.raises(RolloutUnusable):
        e.threads.erase(parent, grace_s=None, include_children=include_children)
    return parent


def test_an_erasure_that_was_cut_short_waits_for_a_fork_that_was_made_since(tmp_path: Path) -> None:
    """Its rollout was there yet when the crash came. When the fork goes, it is finished."""
    home = tmp_path / "home"
    with opened(
        home, at_ms=START_MS + 2 * DAY_MS
    ) as other:  # an engine that was open all the time, and finishes nothing
        parent = cut_short(home)
        child = fork(other, parent, "three")
    for _ in range(2):
        with opened(home, at_ms=START_MS + DAY_MS) as e:
            assert said(e.threads.read(child)) == ["one", "two", "three"]
            assert [each.class_ for each in e.audit().faults] == ["unfinished"]
    with opened(home, at_ms=START_MS + DAY_MS) as e:
        e.threads.erase(child, grace_s=None)
    with opened(home, at_ms=START_MS + DAY_MS) as e:
        assert tagged(home)[-1] == ("thread_erased", parent)
        assert e.threads.list(limit=0).threads == []
        assert e.audit().findings == []


def test_of_an_erasure_that_was_cut_short_the_children_go_first(tmp_path: Path) -> None:
    """One that is in use keeps its parent, however the ids are sorted: it would be read broken meanwhile."""
    home = tmp_path / "home"
    with opened(home) as other:
        parent = cut_short(home, include_children=True)
        (child,) = {row.id for row in other.threads.list(limit=0).threads} - {parent}
        with other.threads.resume(child), opened(home, at_ms=START_MS + DAY_MS) as e:
            assert said(e.threads.read(child)) == ["one", "two", "three"]
    with opened(home, at_ms=START_MS + DAY_MS) as e:
        assert e.threads.list(limit=0).threads == []
        assert e.audit().findings == []


def test_an_import_keeps_an_erasure_from_what_its_threads_go_on_from(tmp_path: Path) -> None:
    """The base was here, so it was passed over; erased behind that, the child would have come without it."""
    home, bundle = tmp_path / "home", str(tmp_path / "threads.zip")
    with opened(home) as e:
        parent = talk(e, "one")
        child = fork(e, parent, "two")
        e.threads.export([child], bundle)
        e.threads.erase(child, grace_s=None)
    meeting = Meeting(home, lambda _, call: call.op == "import.create")
    done = meeting.run(
        lambda: meeting.first.threads.import_bundle(bundle),
        lambda: meeting.second.threads.erase(parent, grace_s=None),
    )
    meeting.close()
    assert isinstance(meeting.inner, StoreBusy)
    assert (done.imported, done.unchanged) == ([child], [parent])
    with opened(home, at_ms=START_MS + 3 * DAY_MS) as e:
        assert said(e.threads.read(child)) == ["one", "two"]


# The lock


def held(folder: Path, *, shared: bool, files: Any = None) -> contextlib.AbstractContextManager[None]:
    home = Home(str(folder), f"{folder}/engine")
    purpose = "fork" if shared else "erasure"
    return lineage_held(
        home, purpose, shared=shared, options=Options(busy_wait_ms=0), clock=SystemClock(), files=files or Files()
    )


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (True, False, "The erasure waited 0 ms for a fork, an import or an erasure that process "),
        (False, True, "The fork waited 0 ms for an erasure that process "),
        (False, False, "The erasure waited 0 ms for a fork, an import or an erasure that process "),
    ],
)
def test_who_waited_too_long_hears_for_what_and_for_whom(tmp_path: Path, first: bool, second: bool, told: str) -> None:
    with held(tmp_path, shared=first), pytest.raises(StoreBusy) as busy, held(tmp_path, shared=second):
        pass
    assert str(busy.value).startswith(told if sys.platform == "linux" else told.removesuffix("process "))
    assert busy.value.hint
    with held(tmp_path, shared=second):
        pass


def test_forks_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        parent = talk(e, "one")
    meeting = Meeting(tmp_path / "home", lambda _, call: call.op == "recorder.link")
    child = meeting.run(lambda: forked(meeting.first, parent), lambda: forked(meeting.second, parent))
    meeting.close()
    with opened(tmp_path / "home", at_ms=START_MS + 3 * DAY_MS) as e:
        assert {row.id for row in e.threads.list(limit=0).threads} == {parent, child, meeting.inner}


@pytest.mark.parametrize("op", ["unlock", "close"])
def test_a_lock_that_cannot_be_given_back_spoils_no_fork(tmp_path: Path, op: str) -> None:
    files = FaultyFiles(Files(), lambda _, call: errno.EIO if call.name == op else None)
    with held(tmp_path, shared=True, files=files):
        pass
    assert files.struck
    with held(tmp_path, shared=False):
        pass


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    files = FaultyFiles(Files(), lambda _, call: errno.EROFS if call.name == "open_lock" else None)
    with pytest.raises(StoreError) as caught, held(tmp_path, shared=True, files=files):
        pass
    assert caught.value.path == f"{tmp_path}/engine/locks/lineage.lock"
