"""What a repair does: for every class of finding, alone and in pairs, the plan is what is done, and the audit is clean after.

Seeds are those of the audit's tests. The bytes of all files of the home's truth are compared before and after: they are the
same but for the one torn tail that a plan names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from itertools import combinations
from random import Random

import apsw
import pytest

import engine
from engine.audit import store
from engine.audit.findings import CLASSES
from engine.audit.plan import load, save
from engine.errors import InvalidRequest, ReadOnlyHome
from engine.stores.files import Files
from engine.testing import make_rollout
from engine.testing.damage import DAMAGES
from tests.seeds import (
    MENDED,
    SEEDS,
    class_of,
    damaged_span,
    differing_field,
    leftover_file,
    lost_truth,
    missing_row,
    newer_projection,
    seeded,
    seeded_open,
    stale_lock,
    torn_tail,
    unfinished,
    untouched_home,
    wrong_fact,
    wrong_stream,
)
from tests.writing import say

HOME_THREADS = len(SEEDS) + 1
FILE_GOES = ("leftover_file", "unfinished")
"""What changes which names there are: a half-written file goes, a thread moves into the archive."""


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return untouched_home(tmp_path_factory.mktemp("untouched"), HOME_THREADS)


@pytest.fixture
def broken(untouched, tmp_path):
    """Opens a home with these seeds in it, and tells what an audit must find."""
    with contextlib.ExitStack() as afterwards:

        def opened(*seeds):
            numbered = [(seed, number) for number, seed in enumerate(seeds)]
            home, expected = seeded(untouched, tmp_path / "home", numbered, afterwards)
            found = afterwards.enter_context(engine.open(str(home)))
            return home, found, expected + seeded_open(untouched, home, numbered, found)

        yield opened


def truth(home):
    """The bytes of every rollout and of the journal by name, wherever in the home they lie."""
    folders = ("sessions", "archived_sessions", "engine/journal")
    paths = [path for folder in folders for path in (home / folder).rglob("*") if path.is_file()]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}
    return {name: digest for name, digest in digests.items() if not name.startswith(".")}


def classes(findings):
    return Counter((each.class_, each.thread_id) for each in findings)


def check_repaired(home, opened, expected):
    """Plan, apply, audit clean, truth the same, a second apply does nothing."""
    before = truth(home)
    assert classes(opened.audit().findings) == expected
    planned = opened.repair(dry_run=True)
    assert (truth(home), classes(opened.audit().findings)) == (before, expected)
    assert {each.outcome for each in planned.steps} <= {"planned"}
    mended = {name for name, _ in expected} & MENDED
    assert {name for each in planned.steps for name in each.step.classes} == mended
    assert {each.class_ for each in planned.left} == {name for name, _ in expected} - MENDED - {"lag"}
    report = opened.repair(offline=True)
    assert [each.step for each in report.steps] == [each.step for each in planned.steps]
    assert {(each.outcome, each.reason) for each in report.steps} <= {("done", None)}
    left = Counter({key: count for key, count in expected.items() if key[0] not in MENDED | {"lag"}})
    assert classes(report.left) == left
    assert classes(opened.audit().faults) == left
    assert report.is_clean
    after = truth(home)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    named = {each.step.path.rpartition("/")[2] for each in report.steps if each.step.touches_truth}
    assert {name for name in changed if not is_journal_of(name, expected)} == named
    again = opened.repair(offline=True)
    assert again.steps == []
    assert truth(home) == after


def is_journal_of(name, expected):
    """A finished move is noted in the journal."""
    return name.startswith("0000") and any(each == "unfinished" for each, _ in expected)


def test_every_class_is_mended_or_says_why_not():
    assert {class_of(seed) for seed in SEEDS} >= MENDED
    assert CLASSES.keys() >= MENDED


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.__name__)
def test_a_class_alone_is_mended_and_nothing_else_changes(broken, seed):
    home, opened, expected = broken(seed)
    check_repaired(home, opened, expected)


def pairs():
    """A fixed sample: each class with two others."""
    around = [(SEEDS[number], SEEDS[(number + step) % len(SEEDS)]) for number in range(len(SEEDS)) for step in (1, 7)]
    return [pair for pair in around if pair[0] is not pair[1]]


@pytest.mark.parametrize(("one", "two"), pairs(), ids=lambda seed: seed.__name__)
def test_two_classes_are_both_mended(broken, one, two):
    home, opened, expected = broken(one, two)
    check_repaired(home, opened, expected)


@pytest.mark.soak
@pytest.mark.parametrize(("one", "two"), list(combinations(SEEDS, 2)), ids=lambda seed: seed.__name__)
def test_every_pair_of_classes_is_mended(broken, one, two):
    home, opened, expected = broken(one, two)
    check_repaired(home, opened, expected)


def test_all_classes_at_once_are_mended(broken):
    home, opened, expected = broken(*SEEDS)
    check_repaired(home, opened, expected)


def test_every_finding_names_its_command_or_says_why_there_is_none(broken):
    _, opened, _ = broken(*SEEDS)
    for each in opened.audit().findings:
        assert each.mend or ";" in each.message, each
        if each.class_ == "lost_truth":
            assert each.mend == f"rolloutdb threads dismiss {each.thread_id}"


def test_a_foreign_rollout_is_cut_only_offline(broken):
    home, opened, _ = broken(torn_tail)
    before = truth(home)
    (step,) = opened.repair(dry_run=True).steps
    assert (step.step.action, step.step.touches_truth, step.step.offline) == ("trim_tail", True, True)
    report = opened.repair()
    assert [(each.outcome, each.step) for each in report.steps] == [("skipped", step.step)]
    assert "--offline" in report.steps[0].reason
    assert not report.is_clean
    assert truth(home) == before
    assert [each.mend for each in report.left] == ["rolloutdb repair --offline"]


def test_a_torn_tail_is_kept_aside_byte_for_byte(broken):
    home, opened, _ = broken(torn_tail)
    (path,) = [step.step.path for step in opened.repair(dry_run=True).steps]
    whole = (home / path).read_bytes()
    opened.repair(offline=True)
    assert (home / path).read_bytes() == whole[: whole.rindex(b"\n") + 1]
    (aside,) = (home / "engine/quarantine").iterdir()
    assert aside.read_bytes() == whole[whole.rindex(b"\n") + 1 :]


def test_a_tail_of_ours_is_cut_without_being_asked_twice(tmp_path):
    """A crash leaves half a line in a rollout that this engine began."""
    with engine.open(str(tmp_path)) as opened, opened.threads.create(cwd="/") as thread:
        say(thread, "one")
    (path,) = (tmp_path / "sessions").rglob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"timestamp":"2026')
    with engine.open(str(tmp_path)) as opened:
        (found,) = opened.audit().findings
        assert (found.class_, found.mend) == ("torn_tail", "rolloutdb repair")
        assert [each.outcome for each in opened.repair().steps] == ["done"]
        assert opened.audit().findings == []
    assert path.read_bytes() == whole


def test_a_thread_that_somebody_has_open_is_passed_over(tmp_path):
    with engine.open(str(tmp_path)) as opened, opened.threads.create(cwd="/") as thread:
        say(thread, "one")
    (path,) = (tmp_path / "sessions").rglob("*.jsonl")
    with engine.open(str(tmp_path)) as opened:
        path.write_bytes(path.read_bytes() + b'{"timestamp":"2026')
        plan = opened.repair(dry_run=True).plan
        assert [step.action for step in plan.steps] == ["trim_tail"]
        with engine.open(str(tmp_path)) as other, other.threads.resume(thread.id) as writer:
            path.write_bytes(path.read_bytes() + b'{"timestamp":"2026')
            before = path.read_bytes()
            report = opened._repairer._carry_out(plan.steps[0], offline=False)
            assert (report.outcome, "is in use by" in report.reason) == ("skipped", True)
            assert path.read_bytes() == before
            path.write_bytes(before.removesuffix(b'{"timestamp":"2026'))
            say(writer, "two")
        assert opened.audit().findings == []


def test_damage_in_the_middle_stays_and_is_told(broken):
    home, opened, _ = broken(damaged_span)
    before = truth(home)
    report = opened.repair(offline=True)
    assert (report.steps, report.is_clean, truth(home)) == ([], True, before)
    (left,) = report.left
    assert left.mend is None
    assert "never changed" in left.message


def test_rows_of_a_newer_release_are_left_to_it(broken):
    _home, opened, _ = broken(newer_projection)
    report = opened.repair()
    assert (report.steps, [each.class_ for each in report.left]) == ([], ["newer_projection"])
    with opened._database.read() as transaction:
        assert transaction.row("SELECT count(*) FROM watermarks WHERE version = 99") == (1,)


def test_a_corrupt_database_is_set_aside_and_filled_again(broken):
    """A page of the threads table is overwritten: the check sees it, and every row comes back from the files."""
    home, opened, _ = broken(differing_field)
    opened.repair()
    rows = [(row.id, row.title, row.tokens_used) for row in opened.threads.list(limit=0).threads]
    with opened._database.read() as transaction:
        (page,) = transaction.row("SELECT rootpage FROM sqlite_schema WHERE name = 'threads_by_created'")
        (size,) = transaction.row("PRAGMA page_size")
    opened.close()
    path = home / "engine/state_1.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[: (page - 1) * size] + b"\xa5" * size + content[page * size :])
    with engine.open(str(home)) as again:
        (found,) = again.audit().findings
        assert (found.class_, found.field, found.mend) == ("damaged_database", "state", "rolloutdb repair")
        report = again.repair()
        assert [(each.step.action, each.outcome) for each in report.steps] == [
            ("replace_database", "done"),
            ("index", "done"),
        ]
        assert report.left == []
        assert [(row.id, row.title, row.tokens_used) for row in again.threads.list(limit=0).threads] == rows
    (aside,) = (home / "engine/quarantine").iterdir()
    assert (aside / "state_1.sqlite").is_file()


def test_a_missing_index_is_a_damaged_database(broken):
    _home, opened, _ = broken(leftover_file)
    with opened._database.write() as transaction:
        transaction.run("DROP INDEX streams_by_thread")
    found = next(each for each in opened.audit().findings if each.class_ == "damaged_database")
    assert "streams_by_thread is not as its migration makes it" in found.message
    assert opened.repair().left == []


def test_an_audit_compares_indexes_with_their_tables(broken):
    """An index whose entries are of another column: `quick_check` does not look, `integrity_check` does.

    The audit once ran the quick one. One flipped bit in an index then showed a thread with the row of another: that was
    told as differing fields, and each repair wrote the right row and read the wrong one again.
    """
    home, opened, _ = broken(leftover_file)
    opened.repair()
    opened.close()
    change = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = 'threads_by_created'"
    right, wrong = "created_at_ms DESC", "updated_at_ms DESC"
    for sql, values in ((change, (right, wrong)), ("REINDEX threads_by_created", ()), (change, (wrong, right))):
        with contextlib.closing(apsw.Connection(str(home / "engine/state_1.sqlite"))) as connection:
            connection.execute(sql, values)
    with engine.open(str(home)) as again:
        assert [each.class_ for each in again.audit().findings] == ["damaged_database"]
        again.repair()
        assert again.audit(deep=True).findings == []


def test_damage_that_shows_when_a_row_is_written_is_mended_by_the_same_repair(broken, monkeypatch):
    """An index without the entry that its row has, damaged after the audit looked: folding the row anew meets it.

    The repair once ended there, and each one after it as well. Names are back at once, before anybody asks for them.
    """
    home, opened, expected = broken(wrong_stream)
    ((_, thread_id),) = expected
    opened.threads.rename(thread_id, "named")
    rows = [(row.id, row.name, row.title) for row in opened.threads.list(limit=0).threads]
    opened.close()
    change = "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = 'streams_by_thread'"
    right, wrong = "(thread_id)", "(upper(thread_id))"
    for sql, values in ((change, (right, wrong)), ("REINDEX streams_by_thread", ()), (change, (wrong, right))):
        with contextlib.closing(apsw.Connection(str(home / "engine/state_1.sqlite"))) as connection:
            connection.execute("PRAGMA writable_schema = ON").fetchall()
            connection.execute(sql, values)
    with engine.open(str(home)) as again:
        monkeypatch.setattr(store, "_look", lambda *_: [])
        report = again.repair()
        assert {"replace_database", "index"} <= {each.step.action for each in report.steps if each.outcome == "done"}
        assert report.left == []
        with again._database.read() as transaction:
            assert list(transaction.rows("SELECT thread_id, name FROM facts")) == [(thread_id, "named")]
        assert [(row.id, row.name, row.title) for row in again.threads.list(limit=0).threads] == rows
        assert again.audit(deep=True).findings == []


# Plans.


def test_a_saved_plan_does_its_steps_and_no_others(broken, tmp_path):
    home, opened, _ = broken(missing_row, stale_lock, wrong_fact)
    plan = opened.repair(dry_run=True).plan
    kept = type(plan)(home=plan.home, steps=[step for step in plan.steps if step.action == "fold"])
    save(kept, str(tmp_path / "plan.json"), files=Files())
    read = load(str(tmp_path / "plan.json"), str(home), files=Files())
    assert read == kept
    report = opened.repair(plan=read)
    assert [(each.step.action, each.outcome) for each in report.steps] == [("fold", "done")]
    assert sorted(each.class_ for each in report.left) == ["stale_lock", "wrong_fact"]
    (again,) = opened.repair(plan=read).steps
    assert (again.outcome, again.reason) == ("skipped", "it is not called for any more")


def test_a_plan_that_somebody_wrote_removes_nothing(broken, tmp_path):
    """A step that no audit calls for is not done, whatever file it names."""
    home, opened, _ = broken(missing_row)
    target = home / "sessions"
    (target / "mine.txt").write_text("mine")
    plan = opened.repair(dry_run=True).plan
    text = json.dumps({
        "home": str(home),
        "steps": [
            {"action": "remove_file", "classes": ["leftover_file"], "does": "x", "path": "sessions/mine.txt"},
            {"action": "fold", "classes": ["missing_row"], "does": "x", "path": "../elsewhere"},
        ],
    })  # fmt: skip
    (tmp_path / "plan.json").write_text(text)
    report = opened.repair(plan=load(str(tmp_path / "plan.json"), str(home), files=Files()))
    assert [each.outcome for each in report.steps] == ["skipped", "skipped"]
    assert (target / "mine.txt").read_text() == "mine"
    assert opened.repair(dry_run=True).plan == plan


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"[1]", b'{"home":"/elsewhere","steps":[]}', b'{"home":"%HOME%","steps":[],"version":9}'],
)
def test_what_is_no_plan_of_this_home_is_refused(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content.replace(b"%HOME%", str(tmp_path).encode()))
    with pytest.raises(InvalidRequest):
        load(str(tmp_path / "plan.json"), str(tmp_path), files=Files())
    with pytest.raises(InvalidRequest):
        load(str(tmp_path / "none.json"), str(tmp_path), files=Files())


def test_a_home_that_cannot_be_written_is_not_repaired(tmp_path):
    class Locked(Files):
        def writable(self, path, *, op):
            return False

    make_rollout(tmp_path, size=6_000)
    with engine.open(str(tmp_path), files=Locked()) as opened, pytest.raises(ReadOnlyHome):
        opened.repair()


# Cut short.


class Stopped(BaseException):
    """As a kill would."""


STOPPING = [seed for seed in SEEDS if class_of(seed) in MENDED]


def test_a_repair_that_was_stopped_before_or_after_any_step_is_finished_by_the_next(broken):
    """Each time one step more is done, then everything stops: at the end all is as if nothing had."""
    _home, opened, expected = broken(*STOPPING)
    repairer = opened._repairer
    plain = repairer._carry_out
    done = []

    def carry_out(step, *, offline):
        if len(done) % 2:
            done.append(step)
            raise Stopped
        result = plain(step, offline=offline)
        done.append(step)
        return result

    repairer._carry_out = carry_out
    stops = 0
    while True:
        try:
            opened.repair(offline=True)
        except Stopped:
            stops += 1
            continue
        break
    assert stops > 10
    assert opened.audit().faults == []
    assert {name for name, _ in expected} == MENDED


def test_a_step_that_fails_stops_no_other_and_is_done_by_the_next(broken):
    _home, opened, _ = broken(missing_row, leftover_file, stale_lock)
    files = opened._files
    plain = files.remove

    def remove(path, *, op):
        if op == "repair.remove":
            raise PermissionError(1, "not permitted", path)
        plain(path, op=op)

    files.remove = remove
    report = opened.repair()
    assert {each.step.action: each.outcome for each in report.steps} == {
        "release_lock": "done",
        "remove_file": "failed",
        "fold": "done",
    }
    (failed,) = [each for each in report.steps if each.outcome == "failed"]
    assert "not permitted" in failed.reason
    assert not report.is_clean
    files.remove = plain
    assert opened.repair().is_clean
    assert opened.audit().findings == []


# Lost truth.


def test_lost_truth_is_told_with_what_is_known_of_it_until_it_is_dismissed(broken):
    _home, opened, _ = broken(lost_truth)
    for _ in range(2):
        (found,) = opened.repair().left
        row = opened.threads.get(found.thread_id)
        assert found.row_value["title"] == row.title
        assert found.row_value["first_user_message"] == row.first_user_message
        assert found.row_value["updated_at_ms"] == row.updated_at_ms
        assert found.row_value["size"] > 1_000
        assert row.missing
    opened.threads.dismiss(found.thread_id)
    assert opened.audit().findings == []
    opened.backfill()
    assert opened.audit().findings == []


def test_of_43_files_40_are_lost_and_none_vanishes_by_itself(tmp_path):
    (tmp_path / "home").mkdir()
    with engine.open(str(tmp_path / "home")) as opened:
        for number in range(43):
            with opened.threads.create(cwd="/", durability="buffered") as thread:
                say(thread, f"words {number}")
        opened.backfill()
        paths = sorted((tmp_path / "home/sessions").rglob("*.jsonl"))
        for path in paths[:40]:
            path.unlink()
        opened.backfill()
        opened.rebuild()
        found = opened.repair().left
        assert Counter(each.class_ for each in found) == {"lost_truth": 40}
        assert len({each.thread_id for each in found}) == 40
        assert all(each.row_value["first_user_message"].startswith("words") for each in found)
        for number, each in enumerate(found):
            opened.threads.dismiss(each.thread_id)
            if number % 10 == 0:
                assert len(opened.audit().findings) == 39 - number
        assert opened.audit().findings == []
        assert len(opened.threads.list(limit=0).threads) == 3


@pytest.mark.parametrize("way", ["import", "trash"])
def test_a_thread_that_was_erased_came_back_and_was_lost_is_shown_as_lost(tmp_path, way):
    """It once dropped out of the list: an erasure of long ago was taken for the reason why its file was gone."""
    home = tmp_path / "home"
    home.mkdir()
    with engine.open(str(home)) as opened:
        with opened.threads.create(cwd="/") as thread:
            say(thread, "precious")
        opened.threads.export([thread.id], str(tmp_path / "one.zip"))
        opened.threads.erase(thread.id, grace_s=None if way == "import" else 3600)
        if way == "import":
            assert opened.threads.import_bundle(str(tmp_path / "one.zip")).imported == [thread.id]
        else:
            (trashed,) = (home / "engine/trash").rglob("rollout-*.jsonl")
            _folder, _, rest = str(trashed.relative_to(home / "engine/trash")).partition("/")
            trashed.rename(home / rest)
        assert [row.id for row in opened.threads.list().threads] == [thread.id]
    if way == "trash":  # a start notes that it is back; an import does at once
        with engine.open(str(home)) as opened:
            assert [row.id for row in opened.threads.list().threads] == [thread.id]
    (path,) = (home / "sessions").rglob("*.jsonl")
    path.unlink()
    for _ in range(2):
        with engine.open(str(home)) as opened:
            opened.backfill()
            assert [(row.id, row.missing) for row in opened.threads.list().threads] == [(thread.id, True)]
            assert [each.class_ for each in opened.audit().findings] == ["lost_truth"]
    with engine.open(str(home)) as opened:
        opened.threads.dismiss(thread.id)
        assert opened.threads.list().threads == []


# Damaged homes.


@pytest.mark.parametrize("style", ["paginated", "legacy"])
@pytest.mark.parametrize("name", [name for name in DAMAGES if name not in ("unreadable", "line-of-50-mb", "symlink")])
def test_a_repair_leaves_a_damaged_rollout_as_it_is(tmp_path, name, style):
    """Known damage of files: nothing but a torn tail is ever cut, and that one only when it is asked for."""
    thread = make_rollout(tmp_path / "home", size=20_000, mode=style, seed=9)
    DAMAGES[name](tmp_path / "home", thread, Random(9))
    with engine.open(str(tmp_path / "home"), state_dir=str(tmp_path / "state")) as opened:
        opened.backfill()
        before = truth(tmp_path / "home")
        found = opened.audit().findings
        report = opened.repair()
        assert truth(tmp_path / "home") == before
        assert classes(report.left) == classes(found)
        report = opened.repair(offline=True)
        changed = {path for path, digest in truth(tmp_path / "home").items() if before[path] != digest}
        assert changed == ({thread.path.rpartition("/")[2]} if name in ("torn-last-line", "nul-tail") else set())
        assert report.is_clean
        assert opened.repair(offline=True).steps == []


def test_a_damaged_home_of_old_is_left_as_it_is(tmp_path, corpora):
    for case in json.loads((corpora / "damaged/expected.json").read_text()):
        home = corpora / "damaged" / case["home"]
        with engine.open(str(home), state_dir=str(tmp_path / case["case"])) as opened:
            opened.backfill()
            before = truth(home)
            found = opened.audit().findings
            report = opened.repair()
            assert truth(home) == before
            assert classes(report.left) == classes(found), case["case"]
            assert {each.outcome for each in report.steps} <= {"skipped"}


def test_unfinished_changes_are_finished(broken):
    _home, opened, expected = broken(unfinished)
    ((_, thread_id),) = expected
    opened.repair()
    assert opened.threads.get(thread_id).archived
