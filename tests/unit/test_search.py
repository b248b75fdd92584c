"""Search through the engine: what is found, in whose thread, by which filters, in which order, and how it is shown."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import engine
from engine.clock import Clock, SystemClock
from engine.errors import InvalidCursor, InvalidRequest, StoreError, ThreadNotFound
from engine.options import Options
from engine.testing import HomePlan, ManualClock, make_home
from tests.conversing import AT_MS, PARENT, THREAD, Lines, path_of
from tests.indexing import written_home
from tests.removing import CANARY, fork, holding, rollout_of, talk
from tests.searching import dump, said, side_of

EAGER = Options(scan_interval_ms=0, list_budget_ms=60_000, background_scan_s=0)
ARCHIVE = "archived_sessions"


def opened(home: Path, **how: Any) -> engine.Engine:
    home.mkdir(exist_ok=True)
    return engine.open(str(home), options=how.pop("options", EAGER), **how)


def written(home: Path, *rollouts: Lines, folder: str = "sessions/2026/01/05") -> Path:
    written_home(home, {path_of(lines.thread_id, folder=folder): lines.lines for lines in rollouts})
    return home


def spoken(mode: str, *, thread_id: str = THREAD) -> Lines:
    """A turn in which user and agent speak, in either mode."""
    lines = Lines(mode, thread_id=thread_id, cwd="/srv/app")
    if mode == "legacy":
        lines.started("t1").said("where is the green door").answered("thinking of a door", phase="commentary")
        return lines.answered("the door is behind the house").complete("t1")
    lines.started("t1").user("t1", "u1", "where is the green door").agent(
        "t1", "a0", "thinking of a door", "commentary"
    )
    return lines.agent("t1", "a1", "the door is behind the house").complete("t1")


# What is found.


@pytest.mark.parametrize("mode", ["legacy", "paginated"])
def test_what_user_and_agent_said_is_found_with_its_turn_and_its_record(tmp_path: Path, mode: str) -> None:
    lines = spoken(mode)
    with opened(written(tmp_path / "home", lines)) as e:
        page = e.search("door", sort="oldest")
        assert said(page) == ["where is the green [door]", "the [door] is behind the house"]
        assert [(hit.role, hit.turn_id, hit.thread_id) for hit in page.hits] == [
            ("user", "t1", THREAD),
            ("agent", "t1", THREAD),
        ]
        assert (page.partial, page.next_cursor) == (None, None)
        user = page.hits[0]
        with open(user.rollout_path, "rb") as file:  # type: ignore[arg-type]
            file.seek(user.offset)  # type: ignore[arg-type]
            record = json.loads(file.read(user.length))  # type: ignore[arg-type]
        assert "where is the green door" in json.dumps(record)
        assert user.at_ms == AT_MS + 2_000
        assert (user.title, user.cwd, user.archived) == ("where is the green door", "/srv/app", False)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("door green", 1),
        ("door -green", 1),
        ('"green door"', 1),
        ('"door green"', 0),
        ("gre* house", 0),
        ("hou*", 1),
        ("DOOR", 2),
        ('"the gree"', 0),
        ('"the gree"*', 1),
        ("door AND house", 0),
        ("NOT door", 0),
        ("thinking", 0),
        ("gre*en", 0),
        ('door"green door"', 1),
        ('"green door', 1),
    ],
)
def test_words_phrases_and_beginnings(tmp_path: Path, query: str, found: int) -> None:
    with opened(written(tmp_path / "home", spoken("paginated"))) as e:
        assert len(e.search(query).hits) == found


@pytest.mark.parametrize(
    ("text", "query", "shown"),
    [
        ("Der Löwenzahn blüht", "lowenzahn", "Der [Löwenzahn] blüht"),
        ("請打開那扇綠色的門", "綠色", "請打開那扇[綠色]的門"),
        ("その扉を開けて", "扉を", "その[扉を]開けて"),
        ("문을열어", "열어", "문을[열어]"),
        ("done 🎉party", "🎉", "done [🎉]party"),
        ("done 🎉party", "party", "done 🎉[party]"),
        ("tests ✓ok", "✓", "tests [✓]ok"),
        ("see config.toml:12", "config.toml", "see [config.toml]:12"),
        ("snake_case_name", "case", "snake_[case]_name"),
        ("C'est l'été", "été", "C'est l'[été]"),
        ("e\u0301te\u0301", "ete", "[e\u0301te\u0301]"),
    ],
)
def test_scripts_signs_and_accents(tmp_path: Path, text: str, query: str, shown: str) -> None:
    with opened(tmp_path / "home") as e:
        talk(e, text)
        assert said(e.search(query, roles=["user"])) == [shown]


@pytest.mark.parametrize("query", ["", " ", '"', "()*", "\0", "--", '""""', "\u0301"])
def test_a_query_without_a_word_is_refused(tmp_path: Path, query: str) -> None:
    with opened(tmp_path / "home") as e, pytest.raises(InvalidRequest, match="no word"):
        e.search(query)


def test_other_requests_that_cannot_be_answered(tmp_path: Path) -> None:
    with opened(written(tmp_path / "home", spoken("legacy"))) as e:
        for how in ({"limit": -1}, {"limit": 1 << 63}, {"sort": "best"}, {"roles": ["system"]}, {"since_ms": 1 << 70}):
            with pytest.raises(InvalidRequest):
                e.search("door", **how)
        for query in ("x" * 1_001, " ".join(f"w{number}" for number in range(33))):
            with pytest.raises(InvalidRequest):
                e.search(query)
        with pytest.raises(ThreadNotFound):
            e.search("door", thread_id=PARENT)
        with pytest.raises(InvalidRequest):
            e.search("door", thread_id="nobody")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = written(tmp_path_factory.mktemp("any") / "home", spoken("paginated"))
    with opened(home) as e:
        e.search("door")
        yield e


@settings(max_examples=300)
@given(
    st.lists(st.text() | st.sampled_from(['"', "*", "(", "NEAR(", "AND", ":", "^", "door", "\\", "text:"])).map("".join)
)
def test_no_query_is_a_mistake_of_syntax(searched: engine.Engine, query: str) -> None:
    with suppress(InvalidRequest):
        assert searched.search(query).partial is None


def test_roles_times_and_folders_are_filters(tmp_path: Path) -> None:
    home = written(tmp_path / "home", spoken("paginated"), spoken("legacy", thread_id=PARENT))
    with opened(home) as e:
        assert len(e.search("door").hits) == 4
        assert {hit.role for hit in e.search("door", roles=["agent"]).hits} == {"agent"}
        assert e.search("door", roles=[]).hits == []
        at = AT_MS + 2_000
        assert {hit.role for hit in e.search("door", since_ms=at, until_ms=at + 1).hits} == {"user"}
        assert {hit.role for hit in e.search("door", since_ms=at + 1).hits} == {"agent"}
        assert e.search("door", until_ms=at).hits == []
        assert len(e.search("door", cwd="/srv/app").hits) == 4
        assert len(e.search("door", cwd=["/srv/app", "/else"]).hits) == 4
        assert e.search("door", cwd="/else").hits == []
        assert {hit.thread_id for hit in e.search("door", thread_id=PARENT.upper()).hits} == {PARENT}


def test_the_best_hit_comes_first_and_of_equal_ones_the_newest(tmp_path: Path) -> None:
    lines = Lines().started("t")
    for number, text in enumerate(["door " * 3, "a door among many other words that are not it", "door " * 3]):
        lines.user("t", f"u{number}", text)
    with opened(written(tmp_path / "home", lines)) as e:
        hits = e.search("door").hits
        assert [hit.ordinal for hit in hits] == [4, 2, 3]
        assert [hit.ordinal for hit in e.search("door", sort="newest").hits] == [4, 3, 2]


# Whose it is.


def test_a_rolled_back_turn_is_not_found(tmp_path: Path) -> None:
    lines = Lines("legacy").started("t1").said("the first wish").complete("t1").started("t2").said("the second wish")
    home = tmp_path / "home"
    with opened(written(home, lines)) as e:
        assert said(e.search("wish", sort="oldest")) == ["the first [wish]", "the second [wish]"]
        lines.event("thread_rolled_back", num_turns=1).said("the third wish")
        written(home, lines)
        assert said(e.search("wish", sort="oldest")) == ["the first [wish]", "the third [wish]"]


def test_what_an_item_says_anew_takes_the_place_of_what_it_said(tmp_path: Path) -> None:
    lines = Lines().started("t").agent("t", "a", "an old answer", "commentary").agent("t", "b", "one draft")
    lines.agent("t", "a", "a new answer").agent("t", "b", "only thoughts", "commentary")
    with opened(written(tmp_path / "home", lines)) as e:
        assert said(e.search("answer")) == ["a new [answer]"]
        assert e.search("draft").hits == e.search("thoughts").hits == []


def test_an_inherited_message_is_found_once_and_by_every_thread_that_shows_it(tmp_path: Path) -> None:
    parent = Lines(thread_id=PARENT).turn("p1")
    child = Lines(ordinal=parent.ordinal, history_base=parent.base).turn("c1")
    parent.turn("p2")
    with opened(written(tmp_path / "home", parent, child)) as e:
        assert said(e.search("ask", sort="oldest")) == ["[ask] p1", "[ask] c1", "[ask] p2"]
        assert [hit.thread_id for hit in e.search("p1").hits] == [PARENT, PARENT]
        assert sorted(said(e.search("ask", thread_id=THREAD))) == ["[ask] c1", "[ask] p1"], (
            "not what came after the fork"
        )
        assert sorted(said(e.search("ask", thread_id=PARENT))) == ["[ask] p1", "[ask] p2"]


def test_what_was_reverted_is_not_found(tmp_path: Path) -> None:
    first = Lines().turn("t1")
    base = first.base
    first.turn("t2")
    second = Lines(ordinal=base["end_ordinal_exclusive"], history_base=base).turn("t3")
    home = tmp_path / "home"
    with opened(written(home, first)) as e:
        assert len(e.search("ask").hits) == 2
        later = path_of(rollout_id=PARENT).replace("09-00-00", "10-00-00")
        written_home(home, {later: second.lines})
        assert sorted(said(e.search("ask"))) == ["[ask] t1", "[ask] t3"]
        assert sorted(said(e.search("ask", thread_id=THREAD))) == ["[ask] t1", "[ask] t3"]
        (home / later).unlink()
        assert sorted(said(e.search("ask"))) == ["[ask] t1", "[ask] t2"]


def test_archived_and_compressed_rollouts_are_searched_as_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        thread_id = talk(e, "a green door", "a red door")
        e.search("door")
        e.threads.archive(thread_id)
        assert sorted(said(e.search("door", roles=["user"], archived=True))) == ["a green [door]", "a red [door]"]
        assert e.search("door", archived=False).hits == []
        assert len(e.compress(older_than_days=0).compressed) == 1
        page = e.search("door", roles=["user"])
        assert sorted(said(page)) == ["a green [door]", "a red [door]"]
        assert [hit.unreadable for hit in page.hits] == [None, None]
        e.rebuild(projection="search")
        assert e.search("door", roles=["user"]) == page


def test_names_are_found_while_they_are_the_threads_names(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        thread_id = talk(e, "hello")
        assert e.search("dandelion").hits == []
        e.threads.rename(thread_id, "About a dandelion")
        (hit,) = e.search("dandelion").hits
        assert (hit.role, hit.thread_id, hit.title, hit.offset) == ("name", thread_id, "About a dandelion", None)
        assert said(e.search("dandel*", roles=["name"], thread_id=thread_id, archived=False)) == ["About a [dandelion]"]
        assert e.search("dandelion", roles=["user"]).hits == e.search("dandelion", archived=True).hits == []
        e.threads.rename(thread_id, "About a rose")
        assert e.search("dandelion").hits == []
        assert said(e.search("rose")) == ["About a [rose]"]
    index = {"id": thread_id, "thread_name": "About a tulip", "updated_at": "2099-01-01T00:00:00Z"}
    (home / "session_index.jsonl").write_text(json.dumps(index) + "\n")
    with opened(home) as e:
        assert e.search("rose").hits == []
        assert said(e.search("tulip")) == ["About a [tulip]"]


# Pages.


@pytest.mark.parametrize("sort", ["rank", "newest", "oldest"])
def test_pages_come_to_the_whole_also_after_a_rebuild_and_a_restart(tmp_path: Path, sort: Any) -> None:
    home = tmp_path / "home"
    make_home(home, HomePlan(threads=20, seed=5, bytes_max=20_000, paginated=0.5))
    with opened(home) as e:
        names = [thread.id for thread in e.threads.list(limit=3).threads]
        for number, thread_id in enumerate(names):
            e.threads.rename(thread_id, f"the name {number}")
        whole = e.search("the", limit=0, sort=sort)
        assert len(whole.hits) > 20
        assert {hit.role for hit in whole.hits} == {"user", "agent", "name"}
        hits, cursor, kept = [], None, None
        while True:
            page = e.search("the", limit=7, sort=sort, cursor=cursor)
            hits += page.hits
            cursor = page.next_cursor
            if cursor is None:
                break
            kept = cursor if len(hits) == 14 else kept
        assert hits == whole.hits
        assert kept is not None
        e.rebuild(projection="search")
        assert e.search("the", limit=7, sort=sort, cursor=kept).hits == hits[14:21]
    (home / "engine" / "search_1.sqlite").unlink()
    with opened(home) as e:
        assert e.search("the", limit=7, sort=sort, cursor=kept).hits == hits[14:21]
        assert e.search("  THE  ", limit=7, sort=sort, cursor=kept).hits == hits[14:21], "the same search"


def test_a_cursor_of_another_search_or_of_nothing_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as e:
        thread_id = talk(e, "door one", "door two")
        cursor = e.search("door", limit=1).next_cursor
        lists = e.threads.list(limit=1).backwards_cursor
        for how in ({"roles": ["user"]}, {"sort": "newest"}, {"thread_id": thread_id}, {"cwd": "/"}, {"since_ms": 1}):
            with pytest.raises(InvalidCursor):
                e.search("door", cursor=cursor, **how)
        for other in ("", "x", lists, cursor[:-4]):  # type: ignore[index]
            with pytest.raises(InvalidCursor):
                e.search("door", cursor=other)
        with pytest.raises(InvalidCursor):
            e.search("doors", cursor=cursor)


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()], ids=["as time goes", "within one millisecond"])
def test_pages_by_time_are_exact_while_messages_come(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path / "home", clock=clock) as e:
        thread_id = talk(e, *(f"door {number}" for number in range(6)))
        page = e.search("door", roles=["user"], sort="newest", limit=2)
        assert said(page) == ["[door] 5", "[door] 4"]
        with e.threads.resume(thread_id) as thread, thread.turn() as turn:
            turn.user_message("door 6")
        page = e.search("door", roles=["user"], sort="newest", limit=2, cursor=page.next_cursor)
        assert said(page) == ["[door] 3", "[door] 2"]


# How it is shown.


def test_a_snippet_is_cut_around_the_most_of_what_was_sought(tmp_path: Path) -> None:
    text = "door. " + "é word 日 " * 100 + "the green door of the house " + "other words " * 50
    with opened(tmp_path / "home") as e:
        talk(e, f"context\n## My request for Codex:\n{text}")
        (hit,) = e.search("door green house", roles=["user"]).hits
        assert [hit.snippet[start:end] for start, end in hit.matches] == ["green", "door", "house"]
        whole = f"context\n## My request for Codex:\n{text}".encode()
        assert whole[hit.snippet_offset :].startswith(hit.snippet.encode())
        assert hit.is_cut
        assert len(hit.snippet.encode()) <= 220
        assert [whole[start:end] for start, end in hit.occurrences] == [b"door", b"green", b"door", b"house"]
        assert e.search("context").hits == [], "what an editor put in front is not what the user said"


def test_a_record_that_cannot_be_read_says_so_and_fails_nothing_else(tmp_path: Path) -> None:
    home = written(tmp_path / "home", spoken("paginated"))
    with opened(home, options=Options(scan_interval_ms=60_000, list_budget_ms=60_000, background_scan_s=0)) as e:
        e.search("door")
        path = home / path_of()
        path.write_bytes(path.read_bytes()[:-700])
        hits = e.search("door", sort="oldest").hits
        assert hits[0].unreadable is None
        assert hits[1].unreadable
        assert hits[1].snippet == ""


# What is not indexed yet, and what is gone.


def test_a_search_that_does_not_cover_all_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = make_home(home, HomePlan(threads=40, seed=3, bytes_max=4_000))
    hurried = Options(scan_interval_ms=0, list_budget_ms=0, background_scan_s=0)
    with opened(home, options=hurried) as e:
        page = e.search("the", limit=0)
        assert page.partial is not None
        found = e.search("the", thread_id=made[0].id)
        assert found.partial is None
        e.backfill()
    with opened(home) as e:
        whole = e.search("the", limit=0)
        assert whole.partial is None
        assert len(whole.hits) > len(page.hits)


def test_erased_and_redacted_text_is_in_no_answer_and_in_no_byte(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        kept = talk(e, "kept words", f"{CANARY} to be redacted")
        thread_id = talk(e, f"{CANARY} prompt", "other")
        e.threads.rename(thread_id, f"the {CANARY} name")
        assert len(e.search(CANARY).hits) == 5
        assert b"7f3a" in (home / "engine" / "search_1.sqlite").read_bytes() + wal(home)
        e.threads.erase(thread_id, grace_s=None)
        assert {hit.thread_id for hit in e.search(CANARY).hits} == {kept}
        ordinals = [hit.ordinal for hit in e.search(CANARY).hits]
        for ordinal in ordinals:
            e.threads.redact(kept, ordinal=ordinal)
        assert e.search(CANARY).hits == []
        for name in ("search_1.sqlite", "search_1.sqlite-wal"):
            assert b"7f3a" not in (home / "engine" / name).read_bytes() if (home / "engine" / name).exists() else True
        assert said(e.search("kept", roles=["user"])) == ["[kept] words"]
    assert [each for each in holding(home / "engine") if "search" in each] == []


def wal(home: Path) -> bytes:
    path = home / "engine" / "search_1.sqlite-wal"
    return path.read_bytes() if path.exists() else b""


def test_what_somebody_else_erased_meanwhile_is_in_no_byte_either(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        thread_id = talk(e, f"{CANARY} prompt")
        assert len(e.search(CANARY).hits) == 2
        with opened(home) as other:
            other.threads.erase(thread_id, grace_s=None)
        assert e.search(CANARY).hits == []
        assert b"7f3a" not in (home / "engine" / "search_1.sqlite").read_bytes() + wal(home)


def test_a_fork_here_and_a_lost_index(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        parent = talk(e, "a green door")
        child = fork(e, parent, "a red door")
        before = e.search("door")
        assert len(before.hits) == 3
        assert len(e.search("door", thread_id=child).hits) == 3
    (home / "engine" / "search_1.sqlite").unlink()
    with opened(home) as e:
        assert e.search("door") == before
        assert e.audit().findings == []


def test_every_message_that_the_turns_show_is_found_and_nothing_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    plan = HomePlan(threads=14, seed=9, bytes_max=30_000, paginated=0.5, compressed=0.3)
    make_home(home, plan)
    with opened(home) as e:
        e.backfill()
        for thread in e.threads.list(limit=0).threads:
            shown = set()
            for turn in e.turns.list(thread.id, limit=0, items_view="full").turns:
                for item in turn.items:
                    if item["type"] == "userMessage":
                        shown.add(turn.id) if any("the" in words(part) for part in item["content"]) else None
                    elif item["type"] == "agentMessage" and item["phase"] in (None, "final_answer"):
                        shown.add(turn.id) if "the" in words(item) else None
            found = e.search("the", thread_id=thread.id, limit=0, roles=["user", "agent"])
            assert {hit.turn_id for hit in found.hits} == shown, thread.id
            assert all(hit.matches and hit.unreadable is None for hit in found.hits)


def words(part: Any) -> list[str]:
    from engine.stores.words import Words

    text = part.get("text") or ""
    _, mark, request = text.partition("## My request for Codex:")
    with Words() as taken:
        return [each.word for each in taken.of((request.strip() if mark else "") or text)]


def test_a_rebuild_gives_the_same_index(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home, HomePlan(threads=20, seed=11, bytes_max=40_000, paginated=0.5))
    with opened(home) as e:
        e.threads.rename(e.threads.list(limit=1).threads[0].id, "a name of the thread")
        assert e.search("the").partial is None
        before = dump(side_of(e).database())
        assert len(before["words"]) > 500
        report = e.rebuild(projection="search")
        assert (report.status, report.files > 0) == ("complete", True)
        e.search("the")  # names are followed by the next search
        assert dump(side_of(e).database()) == before
        e.rebuild()
        e.search("the")
        assert dump(side_of(e).database()) == before
        thread_id = e.threads.list(limit=1).threads[0].id
        assert e.rebuild(thread_id, "search").files == 1
        assert dump(side_of(e).database()) == before


def test_an_erased_thread_that_was_never_searched_leaves_no_name(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as e:
        e.search("x")
        thread_id = talk(e, "hello")
        e.threads.rename(thread_id, CANARY)
        (hit,) = e.search(CANARY, roles=["name"]).hits
        assert hit.thread_id == thread_id
        assert rollout_of(home, thread_id)
        e.threads.erase(thread_id, grace_s=None)
        assert e.search(CANARY).hits == []
    assert [each for each in holding(home / "engine", "7f3a") if "search" in each] == []


SPOILS = {
    "a row is missing": "DELETE FROM texts WHERE id = 1",
    "a row is wrong": "UPDATE texts SET length = length + 1 WHERE id = 1",
    "the words are missing": "DELETE FROM words WHERE rowid = 1",
    "other words": "DELETE FROM words WHERE rowid = 1; INSERT INTO words (rowid, text) VALUES (1, 'where is that green door')",
    "fewer words": "DELETE FROM words WHERE rowid = 1; INSERT INTO words (rowid, text) VALUES (1, 'where is')",
    "another type": "UPDATE words_docsize SET sz = CAST(sz AS TEXT) WHERE id = 1",
    "words of nobody": "INSERT INTO words (rowid, text) VALUES (77, 'nobody said that')",
    "more is shown": "UPDATE rollouts SET shown_end = 0",
    "another name": "UPDATE names SET name = name + 1",
    "a rollout of nobody": "INSERT INTO rollouts VALUES (99, 0, 'sessions/2026/01/05/x', 'x', 'x', NULL, NULL, 0)",
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_an_audit_names_what_is_wrong_in_the_index_and_a_rebuild_mends_it(tmp_path: Path, spoil: str) -> None:
    home = written(tmp_path / "home", spoken("paginated"))
    with opened(home) as e:
        e.threads.rename(THREAD, "a name")
        e.search("door")
        before = dump(side_of(e).database())
        assert e.audit().findings == []
        with side_of(e).database().write() as transaction:
            for statement in SPOILS[spoil].split("; "):
                transaction.run(statement)
        findings = e.audit().findings
        assert {each.class_ for each in findings} == {"wrong_rows"}
        e.rebuild(projection="search")
        assert e.audit().findings == []
        e.search("name")
        assert dump(side_of(e).database()) == before


@pytest.mark.parametrize("spoil", ["the words are missing", "other words", "fewer words"])
def test_a_repair_fills_the_whole_index_where_words_of_a_message_are_wrong(tmp_path: Path, spoil: str) -> None:
    """FTS5 keeps the words of many rollouts in one block: one was folded anew, and the block went on lacking others' words."""
    home = written(tmp_path / "home", spoken("paginated"))
    with opened(home) as e:
        e.search("door")
        before = dump(side_of(e).database())
        with side_of(e).database().write() as transaction:
            for statement in SPOILS[spoil].split("; "):
                transaction.run(statement)
        report = e.repair()
        assert [(each.step.action, each.step.target) for each in report.steps] == [
            ("replace_database", "search"),
            ("index", None),
        ]
        assert report.left == []
        assert dump(side_of(e).database()) == before


@pytest.mark.parametrize("while_open", [True, False])
@pytest.mark.parametrize("damage", ["garbage", "cut", "zeros", "removed"])
def test_a_damaged_index_is_set_aside_and_filled_again(tmp_path: Path, damage: str, while_open: bool) -> None:
    home = tmp_path / "home"
    make_home(home, HomePlan(threads=6, seed=2, bytes_max=20_000))
    path = home / "engine" / "search_1.sqlite"

    def spoil() -> None:
        data = path.read_bytes()
        path.unlink() if damage == "removed" else path.write_bytes({
            "garbage": b"no database at all" * 1_000,
            "cut": data[:20_000],
            "zeros": data[:8_192] + bytes(len(data) - 8_192),
        }[damage])  # fmt: skip

    with opened(home) as e:
        before = e.search("the", limit=0)
        assert before.hits
        if while_open:
            e.backfill()
            spoil()
            with suppress(StoreError):
                e.search("the", limit=0)
            assert e.search("the", limit=0) == before
            assert e.threads.list().threads
    if not while_open:
        spoil()
    with opened(home) as e:
        assert e.search("the", limit=0) == before
        assert [each for each in e.audit().findings if "search" in each.message] == []


def test_a_locked_index_answers_with_what_it_has_and_nothing_else_notices(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home, options=Options(scan_interval_ms=0, busy_wait_ms=300, background_scan_s=0)) as e:
        thread_id = talk(e, "a green door")
        before = e.search("door")
        connection = apsw.Connection(str(home / "engine" / "search_1.sqlite"))
        connection.execute("BEGIN IMMEDIATE")
        try:
            talk(e, "another door")
            e.threads.rename(thread_id, "a door in the name")
            page = e.search("door")
            assert page.hits == [replace(hit, title="a door in the name") for hit in before.hits]
            assert page.partial is not None
            assert len(e.threads.list().threads) == 2
        finally:
            connection.close()
        assert len(e.search("door").hits) == 5
