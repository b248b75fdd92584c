"""Our lists beside those that the Codex CLI answered: the same threads in the same order, on pages of the same size.

Each difference that is allowed stands below with its reason, and docs/FORMAT.md tells of it; what is not listed must be
equal, and what is listed must differ, so that the list stays true.
"""

from __future__ import annotations

import json
from itertools import groupby

import pytest

import engine

REVERTED = "01a2045c-84a2-7530-887f-c2672568ef35"
TOUCHED = "01a2045c-b215-7953-bd46-833624e5ac1a"
ATTACHED = "01a2045c-b1d3-7522-87c0-385be0d63345"
WENT_ELSEWHERE = "01a2045a-6801-7a72-a419-b2bf3a270fa3"

ELSEWHERE = {
    ("created_at", REVERTED): "to it a thread is as old as its revert's file; ours is as old as its id says",
    ("updated_at", TOUCHED): "its row was touched by a request that wrote no record",
    ("updated_at", REVERTED): "where it scans, it takes the file of before the revert for a thread too",
}
"""Threads that stand at another place, by what is sorted by."""

TWICE = {REVERTED: "where it scans, it lists the file of before the revert and that of the revert"}
NOT_LISTED = {ATTACHED: "attached to another thread, which only its database tells; such are not in its lists"}
NOT_OF_THIS_FOLDER = {WENT_ELSEWHERE: "its scan takes the folder of the first line; a later turn was in another one"}

KINDS = {
    "cli": "cli",
    "vscode": "vscode",
    "exec": "exec",
    "appServer": "mcp",
    "subAgent": "subagent",
    "unknown": "unknown",
}
"""Its words for sources, and ours; those of the kinds of sub-agents are all in `subAgent`."""


@pytest.fixture(scope="module")
def opened(corpora, tmp_path_factory):
    home = str(corpora / "codex-0.169" / "home")
    with engine.open(home, state_dir=str(tmp_path_factory.mktemp("state"))) as e:
        assert e.backfill().failed == ()
        yield e


@pytest.fixture(scope="module")
def lists(corpora):
    """What was asked, without cursors, and the ids on each page of the answer."""
    golden = json.loads((corpora / "codex-0.169" / "golden_by_v169.json").read_text())["lists"]
    found = []
    for params, answers in groupby(golden, key=lambda each: {**each["params"], "cursor": None}):
        found.append((params, [[thread["id"] for thread in each["response"]["data"]] for each in answers]))
    assert len(found) == 27
    return found


def ours(opened, params):
    """The same question in our words, page by page. It hides active threads without a preview, and says so nowhere."""
    archived = bool(params.get("archived"))
    query = {
        "limit": params["limit"],
        "sort_key": params.get("sortKey") or "created_at",
        "sort_direction": params.get("sortDirection") or "desc",
        "archived": archived,
        "has_preview": None if archived else True,
        "source": [KINDS[kind] for kind in params.get("sourceKinds", ["cli", "vscode"]) if kind in KINDS],
        "cwd": params.get("cwd"),
    }
    rows, cursor = [], None
    while True:
        page = opened.threads.list(cursor=cursor, **query)
        assert page.partial is None
        rows += page.threads
        cursor = page.next_cursor
        if cursor is None:
            return rows


def test_every_list_has_its_threads_in_its_order(opened, lists):
    moved, twice, missing, elsewhere = set(), set(), set(), set()
    for params, pages in lists:
        every = [thread_id for page in pages for thread_id in page]
        theirs = list(dict.fromkeys(every))
        twice |= {thread_id for thread_id in theirs if every.count(thread_id) > 1}
        rows = ours(opened, params)
        if "searchTerm" in params:  # it looks in titles alone, in this case alone
            rows = [row for row in rows if params["searchTerm"] in row.title]
        mine = [row.id for row in rows]
        missing |= set(mine) - set(theirs)
        elsewhere |= set(theirs) - set(mine)
        key = params.get("sortKey") or "created_at"
        mine = [each for each in mine if each in theirs]
        theirs = [each for each in theirs if each in mine]
        still = [each for each in mine if (key, each) not in ELSEWHERE]
        assert still == [each for each in theirs if (key, each) not in ELSEWHERE], params
        for each in set(mine) - set(still):
            one = [other for other in mine if other in still or other == each]
            if one != [other for other in theirs if other in still or other == each]:
                moved.add((key, each))
    assert moved == set(ELSEWHERE)
    assert twice == set(TWICE)
    assert missing == set(NOT_LISTED)
    assert elsewhere == set(NOT_OF_THIS_FOLDER)


def test_a_list_by_recency_has_its_pages_to_the_thread(opened, lists):
    """That sort never scans: nothing of it differs but the thread that is not listed."""
    compared = 0
    for params, pages in lists:
        if params.get("sortKey") == "recency_at":
            mine = [row.id for row in ours(opened, params) if row.id not in NOT_LISTED]
            limit = params["limit"]
            assert [mine[at : at + limit] for at in range(0, len(mine), limit)] == pages
            compared += 1
    assert compared == 8
