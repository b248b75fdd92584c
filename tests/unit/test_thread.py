"""A thread in the hand of an application: appends, settings, token totals, reading, and every way it refuses."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.errors import (
    EngineClosed,
    EngineError,
    ForeignRollout,
    ForkedEngine,
    InvalidRequest,
    KeyConflict,
    LineTooLong,
    ReadOnlyHome,
    StalePosition,
    ThreadArchived,
    ThreadBusy,
    ThreadNotFound,
    TruthGone,
)
from engine.options import Options
from engine.stores.recorder import Position
from engine.testing import HomePlan, ManualClock, make_home
from tests.own import Heads
from tests.public import parts_of, public_calls
from tests.writing import kinds, only, opened, records, rollouts, said, say

NOBODY = "019b8d63-3aa4-79ca-b017-baf18cb08e1b"
NOTE = {"type": "event_msg", "payload": {"type": "agent_reasoning", "text": "hm"}}


def note(number: int) -> dict[str, Any]:
    return {"type": "response_item", "payload": {"type": "message", "role": "assistant", "number": number}}


def numbers(path: Path) -> list[int]:
    return [record["payload"]["number"] for record in records(path) if "number" in record["payload"]]


def test_nothing_is_in_the_home_before_the_first_append_and_session_meta_is_first_then(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/srv/app", model="m") as thread:
        assert rollouts(tmp_path / "home") == []
        assert thread.position == (None, 0)
        assert list(thread.read()) == []
        answer = thread.append([note(1)])
        assert answer.position.ordinal == 1
        assert answer.records == 1
        assert kinds(only(tmp_path / "home")) == ["session_meta", "message"]


def test_a_thread_that_nobody_wrote_to_leaves_neither_file_nor_row(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        e.threads.create(cwd="/srv/app").close()
        assert rollouts(tmp_path / "home") == []
        assert e.threads.list().threads == []


def test_the_session_meta_tells_where_git_stood_at_the_first_append(tmp_path: Path) -> None:
    """The commit is made between `create` and the first append, so one that was collected earlier is not it."""
    folder = tmp_path / "code"
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", "-b", "trunk", str(folder)], check=True)
    with opened(tmp_path / "home") as e, e.threads.create(cwd=str(folder)) as thread:
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        thread.append([note(1)])
        row = e.threads.get(thread.id)
    assert records(only(tmp_path / "home"))[0]["payload"]["git"] == {"commit_hash": commit, "branch": "trunk"}
    assert row is not None
    assert (row.git_sha, row.git_branch) == (commit, "trunk")


def test_a_key_makes_an_append_idempotent_and_a_position_makes_it_exact(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        first = thread.append([note(1), note(2)], key="step-7")
        again = thread.append([note(1), note(2)], key="step-7")
        assert (first.records, again.records) == (2, 0)
        assert again.position == first.position
        with pytest.raises(KeyConflict):
            thread.append([note(1), note(3)], key="step-7")
        thread.append([note(4)], expected=first.position)
        with pytest.raises(StalePosition):
            thread.append([note(5)], expected=first.position)
        with pytest.raises(StalePosition):
            thread.append([], expected=first.position)
    assert numbers(only(tmp_path / "home")) == [1, 2, 4]


def test_items_that_a_history_mode_does_not_keep_are_left_out(tmp_path: Path) -> None:
    """A reasoning event is of the legacy mode alone; nothing else of the batch is lost with it."""
    for mode, found in (
        ("paginated", ["session_meta", "message"]),
        ("legacy", ["session_meta", "agent_reasoning", "message"]),
    ):
        home = tmp_path / mode
        with opened(home) as e, e.threads.create(cwd="/", history_mode=mode) as thread:
            assert thread.append([NOTE, note(1)]).records == len(found) - 1
        assert kinds(only(home)) == found


def test_a_legacy_thread_has_no_ordinals_also_after_it_was_resumed(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        with e.threads.create(cwd="/", history_mode="legacy") as thread:
            assert thread.append([note(1)]).position.ordinal is None
        with e.threads.resume(thread.id) as thread:
            assert thread.history_mode == "legacy"
            thread.append([note(2)])
    assert ["ordinal" in record for record in records(only(tmp_path / "home"))] == [False] * 3


def test_token_totals_go_on_after_a_resume(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        with e.threads.create(cwd="/") as thread, thread.turn() as turn:
            turn.token_usage(input_tokens=10, output_tokens=2)
            turn.token_usage(input_tokens=5, cached_input_tokens=4)
        with e.threads.resume(thread.id) as thread, thread.turn() as turn:
            thread.append(
                [{"type": "event_msg", "payload": {"type": "token_count", "info": None, "rate_limits": None}}]
            )
            turn.token_usage(output_tokens=1, reasoning_output_tokens=1)
        row = e.threads.get(thread.id)
    assert row is not None
    assert row.tokens_used == 18
    counts = [
        each["payload"] for each in records(only(tmp_path / "home")) if each["payload"].get("type") == "token_count"
    ]
    assert counts[-1]["info"]["total_token_usage"] == {
        "input_tokens": 15,
        "cached_input_tokens": 4,
        "output_tokens": 3,
        "reasoning_output_tokens": 1,
        "total_tokens": 18,
    }
    assert counts[-1]["info"]["last_token_usage"]["total_tokens"] == 1


def test_a_total_that_another_program_wrote_oddly_is_taken_as_far_as_it_is_numbers(tmp_path: Path) -> None:
    odd = {"total_tokens": 7, "input_tokens": "many", "output_tokens": {"a": 1}, "cached_input_tokens": 2.0}
    with opened(tmp_path / "home") as e:
        with e.threads.create(cwd="/") as thread:
            info = {"total_token_usage": odd, "last_token_usage": odd}
            thread.append([{"type": "event_msg", "payload": {"type": "token_count", "info": info}}])
        with e.threads.resume(thread.id) as thread, thread.turn() as turn:
            turn.token_usage(input_tokens=1)
    last = [each["payload"] for each in records(only(tmp_path / "home"))][-2]
    usage = last["info"]["total_token_usage"]
    assert (usage["total_tokens"], usage["input_tokens"], usage["output_tokens"]) == (8, 1, 0)
    assert usage["cached_input_tokens"] == 2


def test_settings_are_those_of_the_next_turn_and_of_a_thread_that_is_resumed(tmp_path: Path) -> None:
    policy = {
        "type": "workspace-write",
        "network_access": False,
        "exclude_tmpdir_env_var": True,
        "exclude_slash_tmp": False,
    }
    with opened(tmp_path / "home") as e:
        with e.threads.create(cwd="/a", model="one", model_provider="p") as thread:
            thread.settings(model="two", sandbox_policy=policy, reasoning_effort="high", cwd="/b")
            say(thread, "hello")
        with e.threads.resume(thread.id, settings={"approval_policy": "never"}) as thread:
            now = thread.current_settings
            say(thread, "again")
    assert (now["model"], now["cwd"], now["reasoning_effort"]) == ("two", "/b", "high")
    assert (now["sandbox_policy"], now["approval_policy"]) == (policy, "never")
    contexts = [each["payload"] for each in records(only(tmp_path / "home")) if each["type"] == "turn_context"]
    assert [each["model"] for each in contexts] == ["two", "two"]
    assert [each["sandbox_policy"] for each in contexts] == [policy, policy]
    assert [each["permission_profile"] for each in contexts] == [contexts[0]["permission_profile"]] * 2
    assert [each["approval_policy"] for each in contexts] == ["on-request", "never"]


def test_a_setting_that_could_not_be_written_is_not_in_force(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/", model="one") as thread:
        for wrong in ({"colour": "red"}, {"sandbox_policy": "none"}, {"cwd": "here"}, {"model": float("nan")}):
            with pytest.raises(InvalidRequest):
                thread.settings(**wrong)
        assert thread.current_settings["model"] == "one"
        assert rollouts(tmp_path / "home") == []


def test_read_gives_every_record_once_in_order_from_the_beginning_or_behind_a_position(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        middle = thread.append([note(1), note(2)]).position
        thread.append([note(3)])
        assert [(each.ordinal, each.kind) for each in thread.read()] == [
            (0, "session_meta"),
            (1, "response_item.message"),
            (2, "response_item.message"),
            (3, "response_item.message"),
        ]
        (last,) = thread.read(middle)
        assert last[:4] == (3, "2026-01-05T09:00:00.000Z", "response_item.message", note(3)["payload"])
        assert list(thread.read(thread.position)) == []
        assert list(e.threads.read(thread.id)) == list(thread.read())
        with pytest.raises(InvalidRequest):
            list(thread.read(Position(2, middle.offset - 1)))


def test_reading_and_naming_need_no_lock(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, opened(tmp_path / "home") as other:
        with e.threads.create(cwd="/") as thread:
            say(thread, "hello")
            assert said(other.threads.read(thread.id)) == ["hello"]
            other.threads.rename(thread.id, "  a name ")
            with pytest.raises(ThreadBusy) as caught:
                other.threads.resume(thread.id)
            assert caught.value.state == "alive"
        row = e.threads.get(thread.id)
        assert row is not None
        assert row.name == "a name"


def test_many_threads_of_one_process_append_to_one_thread_and_to_their_own(tmp_path: Path) -> None:
    """Batches stay whole, each writer's in its order, and the ordinals have no gap."""
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/", durability="buffered") as shared:

        def work(worker: int) -> None:
            with e.threads.create(cwd="/", durability="buffered") as own:
                for number in range(20):
                    shared.append([note(worker * 100 + number), note(worker * 100 + number)])
                    own.append([note(number)])

        workers = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(e.threads.list(limit=0).threads) == 5
        path = tmp_path / "home" / next(each for each in rollouts(tmp_path / "home") if shared.id in each)
    assert [record["ordinal"] for record in records(path)] == list(range(161))
    found = numbers(path)
    assert found[::2] == found[1::2]
    for number in range(4):
        assert [each % 100 for each in found[::2] if each // 100 == number] == list(range(20))


# --- bad input: a typed error with a hint, and nothing half written ---------------------------------------------

BAD_ITEMS: dict[str, tuple[list[Any], type[EngineError]]] = {
    "not JSON": ([{"type": "event_msg", "payload": {"type": "x", "at": object()}}], InvalidRequest),
    "not finite": ([{"type": "event_msg", "payload": {"type": "x", "at": float("nan")}}], InvalidRequest),
    "half a surrogate pair": ([{"type": "event_msg", "payload": {"type": "x", "at": "\ud800"}}], InvalidRequest),
    "no payload": ([{"type": "event_msg"}], InvalidRequest),
    "no type": ([{"payload": {}}], InvalidRequest),
    "another key": ([{"type": "event_msg", "payload": {}, "ordinal": 3}], InvalidRequest),
    "too long": ([{"type": "compacted", "payload": {"message": "x" * 3_000}}], LineTooLong),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_an_item_that_cannot_be_written_takes_its_whole_batch_along(tmp_path: Path, case: str) -> None:
    items, error = BAD_ITEMS[case]
    options = Options(flush_delay_ms=3_600_000, line_bytes_max=2_000)
    with opened(tmp_path / "home", options=options) as e, e.threads.create(cwd="/") as thread:
        with pytest.raises(error) as caught:
            thread.append([note(1), *items])
        assert caught.value.hint
        assert rollouts(tmp_path / "home") == []
        position = thread.append([note(1)]).position
        before = only(tmp_path / "home").read_bytes()
        with pytest.raises(error):
            thread.append([note(2), *items])
        assert only(tmp_path / "home").read_bytes() == before
        assert thread.append([note(3)]).position.ordinal == (position.ordinal or 0) + 1


WRONG_CREATES: dict[str, dict[str, Any]] = {
    "a relative cwd": {"cwd": "app"},
    "a cwd that is no text": {"cwd": "/\udcff"},
    "an unknown mode": {"cwd": "/", "history_mode": "new"},
    "an unknown durability": {"cwd": "/", "durability": "fast"},
    "an unknown memory mode": {"cwd": "/", "memory_mode": "on"},
    "an unknown setting": {"cwd": "/", "settings": {"colour": "red"}},
    "a source that is not JSON": {"cwd": "/", "source": {"custom": object()}},
    "a source that is a number": {"cwd": "/", "source": 5},
    "a model that is no text": {"cwd": "/", "model": 5},
    "a model of the settings that is no text": {"cwd": "/", "settings": {"model": 5}},
    "an effort that is no text": {"cwd": "/", "settings": {"reasoning_effort": 5}},
    "a provider that is no text": {"cwd": "/", "model_provider": b"p"},
    "an originator that is no text": {"cwd": "/", "originator": 7},
    "instructions that are no text": {"cwd": "/", "base_instructions": 5},
    "a thread source that is no text": {"cwd": "/", "thread_source": 5},
}


@pytest.mark.parametrize("case", WRONG_CREATES)
def test_a_thread_that_cannot_begin_leaves_nothing(tmp_path: Path, case: str) -> None:
    with opened(tmp_path / "home") as e:
        with pytest.raises(InvalidRequest) as caught:
            e.threads.create(**WRONG_CREATES[case])
        assert caught.value.hint
        assert rollouts(tmp_path / "home") == []
        assert list((tmp_path / "home" / "engine" / "locks").rglob("*.lock")) == []


WRONG_CALLS: dict[str, Callable[[engine.Engine, Any], object]] = {
    "items that are None": lambda _, thread: thread.append(None),
    "items that are a number": lambda _, thread: thread.append(5),
    "a key that is a number": lambda _, thread: thread.append([note(1)], key=5),
    "a key that is bytes": lambda _, thread: thread.append([note(1)], key=b"k"),
    "a model that is a number": lambda _, thread: thread.settings(model=5),
    "a name that is a number": lambda e, thread: e.threads.rename(thread.id, 5),
    "an id to get": lambda e, _: e.threads.get(5),
    "an id to fetch": lambda e, _: e.threads.fetch(5),
    "an id to read": lambda e, _: e.threads.read(5),
    "an id to resume": lambda e, _: e.threads.resume(None),
    "an id to fork": lambda e, _: e.threads.fork(b"x"),
    "an id to rename": lambda e, _: e.threads.rename(5, "x"),
    "an id to erase": lambda e, _: e.threads.erase(5),
    "an id to redact": lambda e, _: e.threads.redact(5, ordinal=1),
    "an id to export": lambda e, _: e.threads.export([5], "/x.zip"),
    "an id to give a goal": lambda e, _: e.goals.create(5, "x"),
    "an id of an agent": lambda e, _: e.agents.get(5),
    "an id of a memory": lambda e, _: e.memories.get(5),
    "an id to follow": lambda e, _: e.follow([5]),
    "an id to list turns of": lambda e, _: e.turns.list(5),
    "a bundle to export": lambda e, thread: e.threads.export([thread.id], 5),
    "a bundle to import": lambda e, _: e.threads.import_bundle(5),
}


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_a_value_of_another_type_is_an_invalid_request_and_changes_nothing(tmp_path: Path, case: str) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        say(thread, "hello")
        before = only(tmp_path / "home").read_bytes()
        with pytest.raises(InvalidRequest) as caught:
            WRONG_CALLS[case](e, thread)
        assert caught.value.hint
        assert only(tmp_path / "home").read_bytes() == before


def by_id(e: engine.Engine) -> dict[str, Callable[[Any], object]]:
    threads = e.threads
    return {
        "resume": threads.resume,
        "fork": threads.fork,
        "archive": threads.archive,
        "unarchive": threads.unarchive,
        "rename": lambda id_: threads.rename(id_, "x"),
        "set_memory_mode": lambda id_: threads.set_memory_mode(id_, "disabled"),
        "dismiss": threads.dismiss,
        "read": threads.read,
    }


CALLS = ["resume", "fork", "archive", "unarchive", "rename", "set_memory_mode", "dismiss", "read"]
CHANGING = CALLS[:-1]


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_thread_and_an_id_that_is_none_are_told_apart(tmp_path: Path, call: str) -> None:
    with opened(tmp_path / "home") as e, e.threads.create(cwd="/") as thread:
        say(thread, "another one is open")
        with pytest.raises(ThreadNotFound) as caught:
            by_id(e)[call](NOBODY)
        assert caught.value.hint
        for none in ("../../etc", 5):
            with pytest.raises(InvalidRequest, match="is not a thread id"):
                by_id(e)[call](none)
    assert not (tmp_path / "home" / "engine" / "journal").exists()


def test_a_closed_engine_refuses_every_call(tmp_path: Path) -> None:
    with opened(tmp_path / "home", projections=[Heads()]) as e:
        thread = e.threads.create(cwd="/")
        say(thread, "hello")
        calls = public_calls(parts_of(e, thread))
    before = only(tmp_path / "home").read_bytes()
    assert len(calls) > 90
    for name, call in calls.items():
        with pytest.raises(EngineClosed) as caught:
            pytest.fail(f"{name} answered {call()!r}")
        assert caught.value.hint
    e.close()
    assert only(tmp_path / "home").read_bytes() == before


def test_a_closed_thread_refuses_and_the_engine_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        with e.threads.create(cwd="/") as thread:
            thread.append([note(1)])
        thread.close()
        for call in (lambda: thread.append([note(2)]), thread.turn, lambda: thread.settings(model="x"), thread.sync):
            with pytest.raises(EngineClosed) as caught:
                call()
            assert caught.value.hint == "Resume it to go on."
        with e.threads.resume(thread.id) as thread:
            thread.append([note(3)])
    assert numbers(only(tmp_path / "home")) == [1, 3]


def test_a_forked_child_gets_forked_engine_from_every_call_and_the_parent_goes_on(tmp_path: Path) -> None:
    """The child ends its copy of the `with` block as well, which must not close what is the parent's."""
    with (
        opened(tmp_path / "home", projections=[Heads()]) as e,
        e.threads.create(cwd="/") as thread,
        e.threads.create(cwd="/") as other,
    ):
        say(thread, "before")
        e.threads.list()
        calls = public_calls(parts_of(e, other))
        transactions = e.counters["transactions"]
        told = tmp_path / "told"
        child = os.fork()
        if child == 0:
            try:
                told.write_text("\n".join(_not_refused(calls)) + f"\n{e.counters['transactions'] - transactions}")
            finally:
                thread.close()
                e.close()
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert told.read_text() == "\n0"
        say(thread, "after")
        assert said(thread.read()) == ["before", "after"]
        with pytest.raises(ThreadBusy):
            e.threads.resume(thread.id)
        assert e.audit().findings == []


def _not_refused(calls: Mapping[str, Callable[[], object]]) -> list[str]:
    """The calls that did anything but refuse, and what they did."""
    found = []
    for name, call in calls.items():
        try:
            found.append(f"{name}: {call()!r}")
        except ForkedEngine as error:
            found += [] if error.hint else [f"{name} says nothing to do"]
        except BaseException as error:  # noqa: BLE001 - of a child nobody would hear
            found.append(f"{name}: {error!r}")
    return found


@pytest.mark.parametrize("call", ["create", "resume", "fork", "archive", "unarchive"])
def test_a_home_that_cannot_be_written_refuses_what_changes_it_and_takes_facts_beside(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the answer of the seam stands for a read-only file system."""
    home = tmp_path / "home"
    with opened(home) as e, e.threads.create(cwd="/") as thread:
        say(thread, "hello")
    monkeypatch.setattr("engine.stores.files.Files.writable", lambda *_, **__: False)
    before = only(home).read_bytes()
    with opened(home, state_dir=str(tmp_path / "state")) as e:
        with pytest.raises(ReadOnlyHome) as caught:
            e.threads.create(cwd="/") if call == "create" else by_id(e)[call](thread.id)
        assert caught.value.hint
        e.threads.rename(thread.id, "named")
        row = e.threads.get(thread.id)
        assert row is not None
        assert row.name == "named"
    assert only(home).read_bytes() == before


@pytest.mark.parametrize("call", ["create", *[call for call in CHANGING if call != "dismiss"]])
def test_a_read_only_home_without_a_state_folder_is_read_and_never_changed(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (made, *_) = make_home(home, HomePlan(threads=3))
    monkeypatch.setattr("engine.stores.files.Files.writable", lambda *_, **__: False)
    with opened(home) as e:
        assert e.state_dir is None
        assert len(list(e.threads.read(made.id))) >= made.records
        with pytest.raises(ReadOnlyHome):
            e.threads.create(cwd="/") if call == "create" else by_id(e)[call](made.id)
    assert not (home / "engine").exists()


def test_an_archived_thread_and_a_foreign_one_are_resumed_only_when_that_was_asked_for(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=6, archived=0.2, seed=3))
    active = next(each for each in made if not each.row["archived"])
    archived = next(each for each in made if each.row["archived"])
    before = (home / active.path).read_bytes()
    with opened(home) as e:
        with pytest.raises(ThreadArchived) as refused:
            e.threads.resume(archived.id, adopt=True)
        assert f"threads unarchive {archived.id}" in refused.value.hint
        with pytest.raises(ForeignRollout) as caught:
            e.threads.resume(active.id)
        assert "adopt=True" in caught.value.hint
        assert (home / active.path).read_bytes() == before
        with e.threads.resume(active.id, adopt=True) as thread:
            assert thread.history_mode == active.history_mode
            thread.append([note(1)])
        assert (home / active.path).read_bytes().startswith(before)
        assert e.audit().findings == []


def test_a_rollout_that_was_removed_is_truth_gone_and_can_be_dismissed(tmp_path: Path) -> None:
    """A thread whose rollout is there cannot be; one that came back is shown again."""
    with opened(tmp_path / "home", options=Options(scan_interval_ms=0)) as e:
        with e.threads.create(cwd="/") as thread:
            say(thread, "hello")
            with pytest.raises(InvalidRequest, match="is there"):
                e.threads.dismiss(thread.id)
            path = only(tmp_path / "home")
            kept = path.read_bytes()
            path.unlink()
            with pytest.raises(TruthGone):
                thread.append([note(1)])
        for call in (e.threads.resume, e.threads.fork, e.threads.read, e.threads.archive):
            with pytest.raises(TruthGone):
                call(thread.id)
        assert [row.missing for row in e.threads.list().threads] == [True]
        e.threads.dismiss(thread.id)
        assert e.threads.list().threads == []
        path.write_bytes(kept)
        assert [row.id for row in e.threads.list().threads] == [thread.id]


def test_a_thread_that_is_not_indexed_yet_is_found_by_its_name(tmp_path: Path) -> None:
    """The budget of a look is nothing here, so the rows stay behind; the thread is not told to be missing."""
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=40))
    with opened(home, options=Options(list_budget_ms=0, flush_delay_ms=3_600_000)) as e:
        page = e.threads.list()
        assert (page.threads, page.partial is None) == ([], False)
        assert len(list(e.threads.read(made[-1].id))) >= made[-1].records
        e.threads.rename(made[7].id, "found")
        row = e.threads.get(made[7].id)
        assert row is not None
        assert row.name == "found"


def test_a_thread_that_another_engine_made_just_now_is_found_though_the_files_were_looked_at(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e, opened(tmp_path / "home") as other:
        assert e.threads.list().threads == []
        with other.threads.create(cwd="/") as thread:
            say(thread, "a")
            assert said(e.threads.read(thread.id)) == ["a"]
        with other.threads.create(cwd="/") as thread:
            say(thread, "b")
            row = e.threads.get(thread.id)
            assert row is not None
            assert row.first_user_message == "b"
        with other.threads.create(cwd="/") as thread:
            say(thread, "c")
            assert e.threads.fetch(thread.id).differences == []
            with pytest.raises(ThreadBusy):
                e.threads.resume(thread.id)


def test_recency_rises_with_a_turn_and_with_nothing_else(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path / "home", clock) as e, e.threads.create(cwd="/") as thread:

        def times() -> tuple[int, int]:
            row = e.threads.get(thread.id)
            assert row is not None
            return row.recency_at_ms - start, row.updated_at_ms - start

        start = clock.wall_ms()
        thread.append([note(1)])
        assert times() == (0, 0)
        clock.advance(10_000)
        thread.append([note(2)])
        thread.settings(model="x")
        thread.add_usage({"total_tokens": 1})
        assert times() == (0, 10_000)
        clock.advance(10_000)
        with thread.turn() as turn:
            clock.advance(7_000)
            turn.user_message("hello")
        assert times() == (20_000, 27_000)


def test_the_timer_brings_rows_up_to_date_without_a_query(tmp_path: Path) -> None:
    done = threading.Event()
    with opened(tmp_path / "home", options=Options(flush_delay_ms=1)) as e, e.threads.create(cwd="/") as thread:
        fold = e._runner.write

        def written(*args: Any, **kwargs: Any) -> None:
            fold(*args, **kwargs)
            done.set()

        e._runner.write = written  # type: ignore[method-assign]
        say(thread, "hello")
        assert done.wait(60)
