"""The made homes are what they say they are.

The reader below is written for this test alone, with the standard library: it derives a thread's row from its lines by
the rules of the format, and shares no code with the generator or the engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import tracemalloc
from collections import Counter, defaultdict
from datetime import datetime
from itertools import chain, pairwise, takewhile
from random import Random

import pytest

from engine.testing import HomePlan, ManualClock, append_turns, make_home, make_rollout, read_lines, rollout_lines, text
from engine.testing.homes import _conversation, _only_seat, _plan_seats
from engine.testing.steps import STRANGE_STEPS

WIDE = HomePlan(
    threads=150, seed=7, bytes_max=200_000, forks=0.2, subagents=0.2, paginated=0.5, reverted=0.04, compressed=0.06
)
STYLES = ("paginated", "legacy", "old")


@pytest.fixture(scope="module")
def wide_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("homes") / "wide"
    return home, make_home(home, WIDE)


def milliseconds(stamp):
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def records(home, thread):
    return [json.loads(line) for line in read_lines(home, thread.path)]


def read_row(lines, path):
    """The row by the rules of the format, from the lines alone."""
    first = lines[0]["payload"]
    created = milliseconds(first["timestamp"])
    if "_" in path.rpartition("/")[2]:  # a revert's file is younger than its thread, whose age is in its UUIDv7
        created = int(first["id"].replace("-", "")[:12], 16)
    row = {
        "id": first["id"],
        "created_at_ms": created,
        "recency_at_ms": created,
        "originator": first["originator"],
        "history_mode": first.get("history_mode", "legacy"),
        "forked_from_id": first.get("forked_from_id"),
        "archived": path.startswith("archived_sessions/"),
        "sandbox_policy": '{"type":"read-only"}',
        "approval_mode": "on-request",
        "tokens_used": 0,
        "memory_mode": "enabled",
    }
    for name in "model reasoning_effort title preview first_user_message git_sha git_branch git_origin_url cwd".split():
        row[name] = None
    for line in lines:
        row["updated_at_ms"] = milliseconds(line["timestamp"])
        payload, kind = line["payload"], line["type"]
        if kind == "session_meta":
            read_meta(row, payload)
        elif kind == "turn_context":
            row["cwd"] = row["cwd"] or payload["cwd"]
            row["model"], row["reasoning_effort"] = payload["model"], payload.get("effort")
            row["approval_mode"] = payload["approval_policy"]
            row["sandbox_policy"] = compact(payload.get("permission_profile", payload["sandbox_policy"]))
        elif kind == "event_msg":
            read_event(row, payload, row["updated_at_ms"])
    return row


def read_meta(row, meta):
    row["memory_mode"] = meta.get("memory_mode", row["memory_mode"])
    if meta["id"] != row["id"]:
        return
    source = meta["source"]
    spawn = source.get("subagent", {}) if isinstance(source, dict) else {}
    spawner = spawn["thread_spawn"]["parent_thread_id"] if "thread_spawn" in spawn else None
    row["source"] = source if isinstance(source, str) else compact(source)
    row["parent_thread_id"] = meta.get("parent_thread_id", spawner)
    for name in ("thread_source", "agent_nickname", "agent_role", "agent_path"):
        row[name] = meta.get(name)
    for name in ("model_provider", "cli_version", "cwd"):
        row[name] = meta[name]
    if "git" in meta:
        for column, key in (("git_sha", "commit_hash"), ("git_branch", "branch"), ("git_origin_url", "repository_url")):
            row[column] = meta["git"].get(key)


def read_event(row, event, at_ms):
    kind = event["type"]
    if kind == "task_started":
        row["recency_at_ms"] = max(at_ms, row["created_at_ms"])
    elif kind == "token_count" and event["info"]:
        row["tokens_used"] = max(event["info"]["total_token_usage"]["total_tokens"], 0)
    elif kind == "thread_goal_updated":
        row["preview"] = row["preview"] or event["goal"]["objective"]
    elif kind == "thread_settings_applied":
        now = event["thread_settings"]
        row["model"], row["reasoning_effort"] = now["model"], now.get("reasoning_effort")
        row["model_provider"], row["cwd"] = now["model_provider_id"], now["cwd"]
        row["approval_mode"], row["sandbox_policy"] = now["approval_policy"], compact(now["permission_profile"])
    elif kind == "user_message":
        read_words(row, event["message"], images=event["images"])
    elif kind == "item_completed" and event["item"]["type"] == "UserMessage":
        content = event["item"]["content"]
        said = "".join(part["text"] for part in content if part["type"] == "text")
        read_words(row, said, images=[part for part in content if part["type"] == "image"])


def read_words(row, said, *, images):
    words = said.split("## My request for Codex:", 1)[-1].strip()
    shown = words or ("[Image]" if images else None)
    row["first_user_message"] = row["first_user_message"] or shown
    row["preview"] = row["preview"] or shown
    row["title"] = row["title"] or words or None


def test_a_reader_of_its_own_derives_the_same_row_for_every_thread(wide_home):
    home, made = wide_home
    for thread in made:
        assert read_row(records(home, thread), thread.path) == thread.row, thread.path


@pytest.mark.parametrize("style", STYLES)
def test_the_row_is_right_after_every_single_line(style):
    """A rollout that is cut anywhere has a known row too."""
    for seed in range(6):
        seat = _only_seat(HomePlan(threads=1, seed=seed, bytes_min=60_000, bytes_max=60_000), style)
        talk = _conversation(HomePlan(), seat, Random(seed))
        talk.steps = STRANGE_STEPS[style]
        lines = []
        for line in chain(talk.opening(), talk.turns()):
            lines.append(json.loads(line))
            found = read_row(lines, "sessions/")
            assert found == talk.row, (seed, len(lines), lines[-1]["type"])
        assert len(lines) > 20


def test_a_copying_fork_tells_what_its_copied_lines_tell(tmp_path):
    plan = HomePlan(threads=150, seed=2, paginated=0.0, forks=0.6, bytes_min=8_000, bytes_max=40_000)
    elsewhere = grown = 0
    for thread in make_home(tmp_path, plan):
        lines = records(tmp_path, thread)
        assert read_row(lines, thread.path) == thread.row
        copied = len(lines) > 1 and lines[1]["payload"].get("id") == thread.row["forked_from_id"] is not None
        infos = [line["payload"]["info"] for line in lines if line["payload"].get("type") == "token_count"]
        totals = [info["total_token_usage"]["total_tokens"] for info in infos if info]
        assert totals == sorted(totals), "what was used is never given back"
        elsewhere += copied and lines[0]["payload"]["cwd"] != lines[1]["payload"]["cwd"]
        grown += copied and len(set(totals)) > 1
    assert elsewhere >= 5
    assert grown >= 5


@pytest.mark.parametrize(("copied", "said"), [(0, False), (5, True)])
def test_after_a_copy_a_thread_says_its_own_settings_even_where_there_is_little_room(copied, said):
    plan = HomePlan(threads=1, bytes_min=9_000, bytes_max=9_000)
    talk = _conversation(plan, _only_seat(plan, "legacy"), Random(1))
    assert len(list(talk.opening())) == 1
    talk.records += copied
    talk.bytes_wanted = talk.size + 5_000
    kinds = [json.loads(line)["payload"].get("type") for line in talk.turn()]
    assert ("thread_settings_applied" in kinds) == said


def test_what_makes_rows_hard_to_derive_does_occur(wide_home):
    home, made = wide_home
    seen = Counter()
    for thread in made:
        lines = records(home, thread)
        kinds = [(line["type"], line["payload"].get("type")) for line in lines]
        counts = [line["payload"]["info"] for line in lines if line["payload"].get("type") == "token_count"]
        metas = [line["payload"] for line in lines if line["type"] == "session_meta"]
        own = [meta for meta in metas if meta["id"] == thread.id]
        seen["last token count is null"] += bool(counts) and counts[-1] is None and thread.row["tokens_used"] > 0
        seen["a foreign session_meta"] += len(own) < len(metas)
        seen["memory mode changed"] += len({meta.get("memory_mode") for meta in own}) > 1
        seen["git changed"] += len({compact(meta.get("git")) for meta in own}) > 1
        seen["goal before message"] += thread.row["preview"] not in (None, thread.row["first_user_message"])
        seen["image alone"] += thread.row["first_user_message"] == "[Image]"
        seen["no user message"] += thread.row["first_user_message"] is None
        seen["editor's context"] += any("## My request for Codex:" in compact(line) for line in lines)
        seen["unknown kind"] += any(kind[0] == "from_the_future" for kind in kinds)
        seen["cwd moved"] += thread.row["cwd"] != metas[0]["cwd"]
        seen["no turn_context"] += not any(kind[0] == "turn_context" for kind in kinds)
        seen["aborted turn"] += ("event_msg", "turn_aborted") in kinds
        seen["large instructions"] += len((metas[0]["base_instructions"] or {}).get("text", "")) >= 10_000
        seen["spawned"] += "thread_spawn" in thread.row["source"]
    assert {name for name, count in seen.items() if not count} == set()


def tree(home):
    """Every name with the digest of its bytes, its mode and its time."""
    found = {}
    for folder, _, names in os.walk(home):
        for name in names:
            path = os.path.join(folder, name)
            status = os.stat(path)
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            found[os.path.relpath(path, home)] = (digest, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    return found


def test_the_same_plan_gives_the_same_bytes_names_and_times(tmp_path):
    plan = HomePlan(threads=25, seed=3, compressed=0.2)
    first = make_home(tmp_path / "a", plan)
    assert make_home(tmp_path / "b", plan) == first
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert make_home(tmp_path / "c", HomePlan(threads=25, seed=4, compressed=0.2)) != first


def test_another_process_with_another_hash_seed_gives_the_same_bytes(tmp_path):
    plan = HomePlan(threads=8, seed=5)
    make_home(tmp_path / "here", plan)
    command = [sys.executable, "-m", "engine.testing", str(tmp_path / "there"), "--threads", "8", "--seed", "5"]
    elsewhere = {**os.environ, "PYTHONHASHSEED": "99", "TZ": "Asia/Tokyo"}
    done = subprocess.run(command, env=elsewhere, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"8 threads, ")
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2, (
        "a folder with something in it is left alone"
    )


def test_lines_are_compact_json_in_the_usual_order_with_contiguous_ordinals_and_rising_times(wide_home):
    home, made = wide_home
    odd = 0
    for thread in made:
        first = records(home, thread)[0]
        expected = (
            first["payload"]["history_base"]["end_ordinal_exclusive"] if "history_base" in first["payload"] else 0
        )
        before, count, size = 0, 0, 0
        for line in read_lines(home, thread.path):
            assert line.endswith(b"\n")
            record = json.loads(line)
            keys = [key for key in record if key in ("timestamp", "ordinal", "type", "payload", "metadata")]
            odd += keys[0] != "timestamp"
            if keys[0] == "timestamp":
                assert keys == [key for key in ("timestamp", "ordinal", "type", "payload", "metadata") if key in record]
                assert b'": ' not in line[:60]
            assert milliseconds(record["timestamp"]) >= before
            before = milliseconds(record["timestamp"])
            assert record.get("ordinal") == (expected + count if thread.history_mode == "paginated" else None)
            count, size = count + 1, size + len(line)
        assert (count, size) == (thread.records, thread.bytes)
        assert thread.next_ordinal == (expected + count if thread.history_mode == "paginated" else None)
    assert 0 < odd < 20, "a few lines have their keys in another order"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [2_000, 9_000, 50_000, 400_000, 3_000_000])
def test_a_rollout_has_the_wanted_size_to_within_one_line(tmp_path, style, size):
    for seed in range(5):
        thread = make_rollout(tmp_path / str(seed), size=size, mode=style, seed=seed)
        assert abs(thread.bytes - size) < 1_500, (style, size, thread.bytes)
        assert os.path.getsize(tmp_path / str(seed) / thread.path) == thread.bytes


def test_sizes_are_spread_between_smallest_and_largest(wide_home):
    _, made = wide_home
    sizes = sorted(thread.bytes for thread in made if not thread.older_paths)
    assert sizes[0] < 3_000
    assert 150_000 < sizes[-1] < 202_000
    assert 12_000 < sizes[len(sizes) // 2] < 33_000, "evenly over the magnitudes: the middle is the geometric mean"


@pytest.mark.parametrize("style", STYLES)
def test_a_large_rollout_is_made_without_holding_it(style):
    for _ in rollout_lines(size=50_000, mode=style):
        pass
    tracemalloc.start()
    try:
        total = sum(len(line) for line in rollout_lines(size=40_000_000, mode=style))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert abs(total - 40_000_000) < 2_000
    assert peak < 12_000_000, "some copies of the longest line"


def test_lines_without_a_file_are_the_lines_of_the_file(tmp_path):
    for style in STYLES:
        thread = make_rollout(tmp_path / style, size=30_000, mode=style, seed=9)
        assert list(rollout_lines(seed=9, mode=style, size=30_000)) == list(read_lines(tmp_path / style, thread.path))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="paginated, legacy, old"):
        next(rollout_lines(mode="modern"))


def test_shares_are_kept_and_folders_follow_the_day(wide_home):
    home, made = wide_home
    assert len(made) == 150
    assert sum(thread.path.startswith("archived_sessions/rollout-") for thread in made) == 14, (
        "15 but for one that was reverted"
    )
    assert sum(thread.compressed for thread in made) == 9
    assert sum(bool(thread.older_paths) for thread in made) == 6
    assert sum(seat.kind == "fork" for seat in _plan_seats(WIDE)) == 30
    assert sum(seat.kind == "subagent" for seat in _plan_seats(WIDE)) == 30
    for thread in made:
        plain = home / thread.path
        assert plain.exists() != thread.compressed
        assert (home / f"{thread.path}.zst").exists() == thread.compressed
        if thread.older_paths:
            continue  # its newest file is named for the time of the revert
        stamp = datetime.fromtimestamp(
            thread.row["created_at_ms"] / 1000, tz=datetime.fromisoformat("2026-01-01T00Z").tzinfo
        )
        assert f"/rollout-{stamp:%Y-%m-%dT%H-%M-%S}-{thread.id}" in thread.path
        if thread.path.startswith("sessions/"):
            assert thread.path.startswith(f"sessions/{stamp:%Y/%m/%d}/rollout-")


def test_files_are_private_and_as_old_as_their_last_record(wide_home):
    home, made = wide_home
    for folder, _, names in os.walk(home):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        for name in names:
            assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600
    for thread in made:
        status = os.stat(f"{home / thread.path}{'.zst' if thread.compressed else ''}")
        assert status.st_mtime_ns == thread.row["updated_at_ms"] * 1_000_000


def test_a_fork_names_a_record_boundary_of_its_base_and_a_reverted_thread_its_own(wide_home):
    home, made = wide_home
    by_id = {thread.id: thread for thread in made}
    forks = reverted = 0
    for thread in made:
        base = records(home, thread)[0]["payload"].get("history_base")
        if base is None:
            continue
        if thread.older_paths:
            reverted += 1
            (path,) = thread.older_paths
            assert base["thread_id"] == thread.id != thread.rollout_id
            assert thread.path.endswith(f"-{thread.id}_{thread.rollout_id}.jsonl")
        else:
            forks += 1
            path = by_id[thread.row["forked_from_id"]].path
            assert base["thread_id"] == by_id[thread.row["forked_from_id"]].rollout_id
        content = b"".join(read_lines(home, path))
        assert content[: base["end_byte_offset"]].endswith(b"\n")
        last = json.loads(content[: base["end_byte_offset"]].splitlines()[-1])
        assert last["ordinal"] + 1 == base["end_ordinal_exclusive"]
    assert forks >= 5
    assert reverted == 6


def test_a_copying_fork_holds_its_parents_lines(wide_home):
    home, made = wide_home
    by_id = {thread.id: thread for thread in made}
    copies = 0
    for thread in made:
        parent = by_id.get(thread.row["forked_from_id"])
        if thread.history_mode == "paginated" or parent is None:
            continue
        lines, above = records(home, thread), records(home, parent)
        if lines[1]["type"] == "session_meta":
            copies += 1
            both = zip(lines[1:], above, strict=False)
            taken = sum(1 for _ in takewhile(lambda pair: pair[0]["payload"] == pair[1]["payload"], both))
            assert taken >= 4
            assert lines[taken + 1]["payload"]["type"] == "task_started", "its own first turn follows the copy"
            assert above[taken - 1]["payload"]["type"] in ("task_complete", "turn_aborted"), "a copy ends with a turn"
    assert copies >= 3


def test_inherited_context_ends_where_the_first_line_says(wide_home):
    home, made = wide_home
    by_id = {thread.id: thread for thread in made}
    inheriting = 0
    for thread in made:
        lines = records(home, thread)
        start = lines[0]["payload"].get("subagent_history_start_ordinal")
        if start is None:
            continue
        inheriting += 1
        above = [line["payload"] for line in records(home, by_id[thread.row["parent_thread_id"]])]
        assert all(line["payload"] in above for line in lines[1:start])
        assert lines[start]["payload"]["type"] in ("task_started", "thread_goal_updated")
        assert lines[start]["payload"] not in above
    assert inheriting >= 2


COMMON = """
    session_meta turn_context compacted response_item.message response_item.reasoning response_item.function_call
    response_item.function_call_output response_item.custom_tool_call response_item.custom_tool_call_output
    response_item.web_search_call event_msg.task_started event_msg.task_complete event_msg.turn_aborted
    event_msg.token_count event_msg.thread_goal_updated from_the_future event_msg.holo_preview_ready"""
MODERN = """
    world_state token_usage_record security_risk_score inter_agent_communication_metadata
    event_msg.thread_settings_applied response_item.agent_message response_item.tool_search_call
    response_item.tool_search_output response_item.additional_tools response_item.image_generation_call
    item_completed.Plan item_completed.Extension"""
LEGACY = """
    event_msg.user_message event_msg.agent_message event_msg.agent_reasoning event_msg.patch_apply_end
    event_msg.context_compacted event_msg.entered_review_mode event_msg.exited_review_mode
    event_msg.thread_rolled_back"""
ITEMS = """
    UserMessage AgentMessage Reasoning CommandExecution FileChange McpToolCall WebSearch ImageView DynamicToolCall
    CollabAgentToolCall SubAgentActivity EnteredReviewMode ExitedReviewMode ContextCompaction HookPrompt
    ImageGeneration"""


@pytest.mark.parametrize(
    ("style", "kinds"),
    [
        ("paginated", [COMMON, MODERN, " ".join(f"item_completed.{item}" for item in ITEMS.split())]),
        ("legacy", [COMMON, MODERN, LEGACY, "event_msg.web_search_end event_msg.mcp_tool_call_end"]),
        ("old", [COMMON, LEGACY, "response_item.local_shell_call response_item.ghost_snapshot"]),
    ],
)
def test_every_kind_of_a_style_occurs_and_no_kind_of_another(tmp_path, style, kinds):
    found = set()
    for seed in range(40):
        for line in rollout_lines(seed=seed, mode=style, size=400_000):
            record = json.loads(line)
            kind, sub = record["type"], record["payload"].get("type")
            name = f"{kind}.{sub}" if sub else kind
            found.add(f"item_completed.{record['payload']['item']['type']}" if sub == "item_completed" else name)
    expected = {kind for block in kinds for kind in block.split()}
    assert found - {"event_msg.agent_reasoning_section_break"} == expected


@pytest.mark.parametrize("style", STYLES)
def test_a_thread_is_gone_on_with_where_it_ended(tmp_path, style):
    thread = make_rollout(tmp_path, size=15_000, mode=style, seed=2)
    before = b"".join(read_lines(tmp_path, thread.path))
    longer = append_turns(tmp_path, append_turns(tmp_path, thread, seed=1), seed=2, size=30_000)
    content = b"".join(read_lines(tmp_path, longer.path))
    lines = [json.loads(line) for line in content.splitlines()]
    assert content.startswith(before)
    assert (len(content), len(lines)) == (longer.bytes, longer.records)
    assert len(content) > len(before) + 30_000
    assert read_row(lines, longer.path) == longer.row
    assert longer.row["updated_at_ms"] > longer.row["recency_at_ms"] > thread.row["updated_at_ms"]
    if style == "paginated":
        assert [line["ordinal"] for line in lines] == list(range(longer.next_ordinal))
    assert thread.row == make_rollout(tmp_path / "again", size=15_000, mode=style, seed=2).row, (
        "the older facts stay as they were"
    )


def test_long_texts_are_as_long_as_they_are_asked_for():
    for characters in (0, 64, 100_000, 131_072, 262_144, 900_001):
        for make in (text.output, text.manual, text.opaque):
            assert len(make(Random(1), characters)) == characters


def test_progress_is_told_thread_by_thread(tmp_path):
    told = []
    make_home(tmp_path, HomePlan(threads=6), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]


def key_orders(lines_by_style):
    """For each kind of each style, every pair of keys of its payload in the order seen, and all keys."""
    pairs, keys = defaultdict(set), defaultdict(set)
    for style, line in lines_by_style:
        record = json.loads(line)
        payload = record["payload"]
        name = (style, record["type"], payload.get("type"), (payload.get("item") or {}).get("type"))
        inner = payload.get("item", payload)
        keys[name] |= inner.keys()
        order = list(inner)
        pairs[name] |= {(one, other) for at, one in enumerate(order) for other in order[at + 1 :]}
    return pairs, keys


def test_keys_and_their_order_are_those_of_real_files(corpora):
    real = []
    for version in ("codex-0.169", "codex-0.130-part"):
        for path in sorted((corpora / version / "home").rglob("rollout-*.jsonl")):
            lines = path.read_bytes().splitlines(keepends=True)
            style = json.loads(lines[0])["payload"].get("history_mode", "old")
            real += [(style, line) for line in lines]
    made = [
        (style, line)
        for style in STYLES
        for seed in range(12)
        for line in rollout_lines(seed=seed, mode=style, size=100_000)
        if line.startswith(b'{"timestamp"')
    ]
    real_pairs, real_keys = key_orders(real)
    made_pairs, made_keys = key_orders(made)
    both = real_keys.keys() & made_keys.keys()
    assert len(both) > 40
    for name in both:
        assert made_keys[name] <= real_keys[name] | {"memory_mode", "effort", "thread_source"}, name
        for one, other in made_pairs[name]:
            assert (other, one) not in real_pairs[name] or (one, other) in real_pairs[name], (name, one, other)


def test_a_manual_clock_moves_when_it_is_moved_and_boot_time_never_back():
    clock = ManualClock(wall_ms=5_000, boot_ms=100)
    clock.sleep(0.25)
    clock.advance(50)
    assert (clock.wall_ms(), clock.boot_ms(), clock.elapsed_s(), clock.slept_s) == (5_300, 400, 0.4, [0.25])
    clock.set_wall_ms(10)
    assert (clock.wall_ms(), clock.boot_ms()) == (10, 400)
    clock.reboot()
    assert clock.boot_ms() == 0
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
    fractions = [clock.fraction() for _ in range(100)]
    assert all(0 <= fraction < 1 for fraction in fractions)
    assert all(one != other for one, other in pairwise(fractions))
    assert ManualClock(seed=3).fraction() == ManualClock(seed=3).fraction()
