"""Tools that a model may be given: what they find, what they refuse, and that they never leave the folder of memories."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineClosed, InvalidRequest, WorkspaceForeign
from engine.memories.tools import _windows
from tests.remembering import Bench, put


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "home", tools=True)
    yield made
    made.close()


@pytest.fixture
def call(bench):
    """Call a tool by its name."""
    tools = {each.name: each for each in bench.memories.tools()}
    return lambda name, **arguments: tools[name].call(arguments)


def write(bench, **texts):
    for name, text in texts.items():
        put(str(bench.root), f"{name.replace('__', '/')}.md", text)


def test_r5_there_are_no_tools_unless_they_are_asked_for_and_then_in_this_order(bench, tmp_path):
    assert [(each.namespace, each.name) for each in bench.memories.tools()] == [
        ("memories", "add_ad_hoc_note"),
        ("memories", "list"),
        ("memories", "read"),
        ("memories", "search"),
    ]
    other = Bench(tmp_path / "other")
    assert other.memories.tools() == ()
    other.close()


def test_each_tool_has_a_schema_that_a_model_s_api_takes(bench):
    schemas = {each.name: each.schema for each in bench.memories.tools()}
    assert all(each["type"] == "object" and each["additionalProperties"] is False for each in schemas.values())
    assert schemas["add_ad_hoc_note"]["required"] == ["file_name", "text"]
    assert schemas["search"]["properties"]["results_max"]["maximum"] == 200
    assert schemas["list"]["properties"]["results_max"]["maximum"] == 2_000
    assert schemas["read"]["properties"]["tokens_max"]["maximum"] == 20_000
    assert "$ref" not in json.dumps(schemas)
    assert all(each.description for each in bench.memories.tools())


def test_arguments_come_as_a_mapping_or_as_json(bench):
    write(bench, a="one\n")
    (tool,) = (each for each in bench.memories.tools() if each.name == "read")
    assert tool.call('{"path": "a.md"}') == tool.call({"path": "a.md"})
    for arguments in ("{", "[]", '{"path": 1}', "\ud800"):
        with pytest.raises(InvalidRequest):
            tool.call(arguments)


def test_r6_a_note_is_written_word_for_word_and_a_path_is_no_name(bench, call):
    name = "2026-01-05T09-00-00-like-tabs.md"
    assert call("add_ad_hoc_note", file_name=name, text=" tabs\n\n") == {"path": f"extensions/ad_hoc/notes/{name}"}
    assert bench.file(f"extensions/ad_hoc/notes/{name}") == " tabs\n\n"
    for file_name in ("../x.md", f"a/{name}", name, "x.md"):
        with pytest.raises(InvalidRequest):
            call("add_ad_hoc_note", file_name=file_name, text="x")
    with pytest.raises(InvalidRequest):
        call("add_ad_hoc_note", file_name="2026-01-05T09-00-00-b.md", text=" \n")


def test_a_note_is_not_put_into_a_folder_that_another_program_took_over(bench, call):
    bench.thread()
    bench.memories.put(bench.thread(), trace_summary="r", memory_summary="s")
    bench.consolidated()
    (bench.root / ".git/rolloutdb").unlink()
    with pytest.raises(WorkspaceForeign):
        call("add_ad_hoc_note", file_name="2026-01-05T09-00-00-b.md", text="x")
    with pytest.raises(WorkspaceForeign):
        bench.memories.add_note("x")


def test_files_are_listed_by_path_and_page_by_page(bench, call):
    write(bench, b="12", a__c="123", MEMORY="1")
    put(str(bench.root), ".hidden/x.md", "x")
    assert call("list") == {
        "files": [{"path": "MEMORY.md", "bytes": 1}, {"path": "a/c.md", "bytes": 3}, {"path": "b.md", "bytes": 2}],
        "next_cursor": None,
    }
    page = call("list", results_max=2)
    assert ([each["path"] for each in page["files"]], page["next_cursor"]) == (["MEMORY.md", "a/c.md"], 2)
    page = call("list", results_max=2, cursor=2)
    assert ([each["path"] for each in page["files"]], page["next_cursor"]) == (["b.md"], None)
    assert [each["path"] for each in call("list", path="a")["files"]] == ["a/c.md"]


def test_lines_of_a_file_are_read_and_its_middle_cut(bench, call):
    write(bench, a="".join(f"line {number}\n" for number in range(1, 101)))
    assert call("read", path="a.md", first_line=99) == {
        "path": "a.md",
        "text": "line 99\nline 100",
        "first_line": 99,
        "lines": 100,
    }
    assert call("read", path="a.md", first_line=3, lines_max=1)["text"] == "line 3"
    cut = call("read", path="a.md", tokens_max=20)["text"]
    assert cut.startswith("line 1\n")
    assert "tokens truncated" in cut
    for path in ("missing.md", "", "a"):
        with pytest.raises(InvalidRequest):
            call("read", path=path)
    with pytest.raises(InvalidRequest):
        call("read", path="a.md", tokens_max=20_001)


def test_r6_links_and_names_with_a_dot_are_not_there_and_no_path_leads_out(bench, call, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("needle")
    write(bench, a="needle")
    put(str(bench.root), ".git/x.md", "needle")
    os.symlink(outside, bench.root / "folder")
    os.symlink(outside / "secret.md", bench.root / "file.md")
    assert [each["path"] for each in call("list")["files"]] == ["a.md"]
    assert [each["path"] for each in call("search", queries=["needle"])["matches"]] == ["a.md"]
    for path in ("folder/secret.md", "file.md", "folder", ".git/x.md", "../outside/secret.md", "/etc/passwd", "a\\b"):
        for tool, more in (("read", {}), ("list", {}), ("search", {"queries": ["x"]})):
            with pytest.raises(InvalidRequest):
                call(tool, path=path, **more)


def test_r6_a_key_that_nobody_knows_is_refused(bench, call):
    write(bench, a="x")
    for arguments in ({"query": "x"}, {"queries": ["x"], "query": "x"}, {"queries": []}, {"queries": [""]}):
        with pytest.raises(InvalidRequest):
            call("search", **arguments)
    with pytest.raises(InvalidRequest):
        call("search", queries=["x"], mode="some")
    with pytest.raises(InvalidRequest):
        call("search", queries=["x"], mode="all_within_lines", within_lines=0)


def spans(found):
    return [(each["path"], each["first_line"], each["last_line"]) for each in found["matches"]]


def test_lines_are_found_by_any_text_or_by_all_on_one_line(bench, call):
    write(bench, b="red\ngreen red\nblue\n", a="Red\n")
    assert spans(call("search", queries=["red", "blue"])) == [("b.md", 1, 1), ("b.md", 2, 2), ("b.md", 3, 3)]
    assert spans(call("search", queries=["red", "green"], mode="all_on_same_line")) == [("b.md", 2, 2)]
    assert spans(call("search", queries=["red"], case_sensitive=False))[0] == ("a.md", 1, 1)
    assert spans(call("search", queries=["red"], path="a.md")) == []
    assert call("search", queries=["green"])["matches"][0]["text"] == "green red"


def test_normalized_texts_are_compared_by_letters_and_digits_alone(bench, call):
    write(bench, a="run the make-test, 2 times\n")
    assert spans(call("search", queries=["make test"])) == []
    assert spans(call("search", queries=["make test", "no"], normalized=True)) == [("a.md", 1, 1)]
    assert spans(call("search", queries=["--"], normalized=True)) == []  # nothing is left of it


def test_r6_the_smallest_windows_that_hold_all_texts_are_found(bench, call):
    write(bench, a="one\n\ntwo\none\n\n\n\ntwo\n")
    found = call("search", queries=["one", "two"], mode="all_within_lines", within_lines=5)
    assert spans(found) == [("a.md", 1, 3), ("a.md", 3, 4), ("a.md", 4, 8)]
    assert found["matches"][0]["text"] == "one\n\ntwo"
    found = call("search", queries=["one", "two"], mode="all_within_lines", within_lines=2)
    assert spans(found) == [("a.md", 3, 4)]


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=2), max_size=12), st.integers(1, 6))
def test_windows_are_those_that_hold_all_and_no_smaller_one(hits, within):
    every = [
        (first, last)
        for first in range(len(hits))
        for last in range(first, min(first + within, len(hits)))
        if all(any(line[which] for line in hits[first : last + 1]) for which in range(2))
    ]
    smallest = [
        (first, last)
        for first, last in every
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in every)
    ]
    assert _windows(hits, 2, within) == smallest


def test_more_matches_than_asked_for_come_page_by_page(bench, call):
    write(bench, a="x\n" * 3, b="x\n" * 3)
    page = call("search", queries=["x"], results_max=4)
    assert (spans(page)[-1], page["next_cursor"]) == (("b.md", 1, 1), 4)
    page = call("search", queries=["x"], results_max=4, cursor=4)
    assert (spans(page), page["next_cursor"]) == ([("b.md", 2, 2), ("b.md", 3, 3)], None)


def test_what_is_no_text_is_passed_over(bench, call):
    write(bench, a="x")
    (bench.root / "b.md").write_bytes(b"x\xff")
    assert spans(call("search", queries=["x"])) == [("a.md", 1, 1)]
    with pytest.raises(InvalidRequest):
        call("read", path="b.md")


def test_a_tool_of_a_closed_engine_is_refused(bench, call):
    write(bench, a="one\n")
    assert call("list")["files"]
    bench.close()
    for name, arguments in (("list", {}), ("read", {"path": "a.md"}), ("search", {"queries": ["one"]})):
        with pytest.raises(EngineClosed):
            call(name, **arguments)
