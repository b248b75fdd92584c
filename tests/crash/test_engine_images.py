"""Power cuts of the whole engine: rollouts, journal and databases in one journal of both seams, every moment of a session.

What a disk may hold then (unsynced bytes kept, lost or torn, of files and of SQLite's pages alike, names lost) is opened by
a plain engine. What was acknowledged as durable is there, decisions are there, and after a catch-up every row is what the
files give, as a new state folder beside them has it. Files of an image have the stat that the engine saw before the cut
wherever their bytes are the same, so a watermark is believed as it would be on the same disk. Engines with a bug put in on
purpose fail the same check.
"""

from __future__ import annotations

import copy
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

import engine
from engine.errors import EngineError
from engine.options import Options
from engine.projections.runner import Runner
from engine.stores import setup, watermarks
from engine.stores.files import Entry, Files, FileStat
from engine.stores.recorder import Recorder
from engine.testing import ManualClock, rollout_lines
from engine.testing.clock import MORNING_MS
from engine.testing.crash import Image
from engine.testing.tables import Row, dump
from engine.testing.vfs import CrashHome, watched
from engine.thread import Thread
from tests.writing import kind

NO_TIMER = Options(flush_delay_ms=3_600_000, scan_interval_ms=0)
"""Rows follow where the session asks; each list looks at the files."""

FOREIGN = (
    ("paginated", "sessions/2026/01/02/rollout-2026-01-02T09-00-00-{}.jsonl"),
    ("legacy", "sessions/2026/01/03/rollout-2026-01-03T09-00-00-{}.jsonl"),
)
"""Two rollouts of another program, which syncs nothing."""

ONLY_IN_ONE = {
    "fact_streams": ("stream", "followed"),
    "divergences": ("stream", "thread_id", "class", "detail"),
}
"""What a state folder saw on its way, and the stat of its own journal: a new folder has seen nothing yet."""


class Steady(Files):
    """Real files that nobody waits for, where the stat of a rollout or a journal follows from its bytes alone."""

    def sync(self, fd: int, *, op: str) -> None:
        return

    def sync_folder(self, path: str, *, op: str) -> None:
        return

    def fstat(self, fd: int, *, op: str) -> FileStat:
        found = super().fstat(fd, op=op)
        return steady(found, self.pread(fd, found.size, 0, op=op))

    def stat(self, path: str, *, op: str) -> FileStat | None:
        found = super().stat(path, op=op)
        return found if found is None or not path.endswith(".jsonl") else steady(found, Path(path).read_bytes())

    def scan(self, path: str, *, op: str) -> list[Entry]:
        return [
            entry if entry.stat is None else entry._replace(stat=self.stat(f"{path}/{entry.name}", op=op))
            for entry in super().scan(path, op=op)
        ]


class Rebooted(Steady):
    """The machine has another boot id: what was held before is nobody's."""

    def read_small(self, path: str, *, bytes_max: int, op: str) -> bytes | None:
        if path.endswith("boot_id"):
            return b"the next boot"
        return super().read_small(path, bytes_max=bytes_max, op=op)


def steady(found: FileStat, content: bytes) -> FileStat:
    if not content.startswith(b'{"timestamp"'):
        return found
    told = zlib.crc32(content)
    return FileStat(1, zlib.crc32(content.split(b"\n")[0]), found.size, told, told)


@dataclass
class Promise:
    """What had been acknowledged at one moment: by thread what its user said, its name, its mode, its folder."""

    said: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)
    archived: dict[str, bool] = field(default_factory=dict)


Bug = Callable[["Session"], None]


class Session:
    """Runs the script and marks what it was promised. `said` is all that was ever said, `durable` who syncs each append."""

    def __init__(self, home: Path, files: CrashHome) -> None:
        self.home = home
        self.files = files
        self.promises: list[Promise] = [Promise()]
        self.said: dict[str, list[str]] = {}
        self.durable: list[str] = []
        self.clock = ManualClock()
        self.opened: engine.Engine
        self._words = iter(f"word {number}" for number in range(1_000))

    def run(self) -> Session:
        with watched(self.files), self._open() as opened:
            self.opened = opened
            self._foreign(0)
            opened.backfill()
            first = self._create(opened, "durable")
            self._talk(first, 3)
            opened.threads.rename(first.id, "before")
            self._promise("names", first.id, "before")
            by_turn = self._create(opened, "turn")
            self._talk(by_turn, 2)
            opened.threads.list()
            buffered = self._create(opened, "buffered")
            self._talk(buffered, 4)
            self._foreign(1)
            opened.backfill()
            self._talk(buffered, 2)
            opened.threads.list()
            opened.threads.rename(first.id, "after")
            self._promise("names", first.id, "after")
            opened.threads.set_memory_mode(by_turn.id, "disabled")
            self._promise("modes", by_turn.id, "disabled")
            self._fork(opened, first)
            first.close()
            opened.threads.archive(first.id)
            self._promise("archived", first.id, value=True)
            buffered.sync()
            self._promise("said", buffered.id, list(self.said[buffered.id]))
            opened.backfill()
        return self

    def _open(self) -> engine.Engine:
        return engine.open(str(self.home), options=NO_TIMER, clock=self.clock, files=self.files)

    def _create(self, opened: engine.Engine, durability: Any) -> Thread:
        thread = opened.threads.create(cwd="/srv/app", durability=durability)
        self.said[thread.id] = []
        if durability == "durable":
            self.durable.append(thread.id)
        return thread

    def _talk(self, thread: Thread, turns: int) -> None:
        for _ in range(turns):
            self.clock.advance(7_000)
            with thread.turn() as turn:
                for _ in range(2):
                    word = next(self._words)
                    self.said[thread.id].append(word)
                    if turn.user_message(word).durability == "durable":
                        self._promise("said", thread.id, list(self.said[thread.id]))
                turn.agent_message("so it is " * 40)
                turn.token_usage(input_tokens=10, output_tokens=3)
            if thread._durability == "turn":
                self._promise("said", thread.id, list(self.said[thread.id]))

    def _fork(self, opened: engine.Engine, source: Thread) -> None:
        child = opened.threads.fork(source.id)
        self.said[child.id] = []
        self.durable.append(child.id)
        self._promise("said", child.id, [])
        self._talk(child, 1)

    def _foreign(self, number: int) -> None:
        """Another program writes a rollout, line by line, and syncs nothing."""
        mode, path = FOREIGN[number]
        lines = list(rollout_lines(seed=number, mode=mode, size=4_000))
        thread_id = json.loads(lines[0])["payload"]["id"]
        full = f"{self.home}/{path.format(thread_id)}"
        self.files.ensure_folder(full.rpartition("/")[0], op="test.foreign")
        fd = self.files.create(full, op="test.foreign")
        for line in lines:
            self.files.write(fd, line, op="test.foreign")
        self.files.close(fd, op="test.foreign")

    def _promise(self, what: str, thread_id: str, value: Any) -> None:
        now = copy.deepcopy(self.promises[-1])
        getattr(now, what)[thread_id] = value
        self.promises.append(now)
        self.files.mark(now)


class Lost(AssertionError):
    """An image did not hold what was promised."""


class Checker:
    """Opens images of one session and holds them against what was promised."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session = session
        self._home = folder / "image"
        self._fresh = folder / "fresh"
        self.seen = {"checked": 0, "behind": 0, "quarantined": 0, "truncated": 0}

    def check(self, image: Image) -> None:
        self.check_watermarks(image)
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir()
        image.write(str(self._home))
        lost = self._check_engine()
        self._check_files()
        self._check_rows(lost)

    def check_watermarks(self, image: Image) -> None:
        """As the cut left them: no row of a thread that syncs each append knows what the file does not."""
        shutil.rmtree(self._fresh, ignore_errors=True)
        self._fresh.mkdir()
        self._image = image
        self.seen["checked"] += 1
        for stream, offset in raw_watermarks(image, self._fresh):
            self._ensure(bool(stream), "a watermark of no stream: the database is damaged")
            name = stream.rpartition("/")[2]
            size = max(
                (len(content) for path, content in image.names.items() if content and path.endswith(name)), default=0
            )
            if size < offset:
                self.seen["behind"] += 1
                durable = any(thread_id in stream for thread_id in self._session.durable)
                self._ensure(not durable, f"the row has followed {offset} bytes of {stream}, which has {size}")

    def _ensure(self, holds: bool, what: str) -> None:
        if not holds:
            raise Lost(f"{self._image.how} at step {self._image.step}: {what}")

    def _check_engine(self) -> set[str]:
        """Everything is caught up and audited; the ids of threads whose file the cut took."""
        promised, coming = self._promises()
        with self._open(None) as opened:
            self._ensure(opened.backfill().status == "complete", "the back-fill was not complete")
            self.seen["quarantined"] += opened._database.quarantined is not None
            findings = opened.audit().findings
            gone = {each.thread_id for each in findings if each.class_ == "lost_truth" and each.thread_id}
            errors = [each for each in findings if each.severity == "error" and each.class_ != "lost_truth"]
            self._ensure(not errors, f"audit: {errors}")
            behind = [each for each in findings if each.class_ == "stale_watermark"]
            self._ensure(not behind, f"audit after a back-fill: {behind}")
            rows = {row.id: row for row in opened.threads.list(limit=0).threads}
        for what, column in (("names", "name"), ("modes", "memory_mode"), ("archived", "archived")):
            for thread_id, value in getattr(promised, what).items():
                may_be = [value, getattr(coming, what).get(thread_id)]
                self._ensure(thread_id in rows, f"{thread_id} is not listed")
                found = getattr(rows[thread_id], column)
                self._ensure(found in may_be, f"{column} is {found}, {value} was acknowledged")
        self._ensure(not gone & set(promised.said), f"the files of {gone} are gone, {promised.said} was acknowledged")
        return gone

    def _check_files(self) -> None:
        """Read without the engine."""
        promised, _ = self._promises()
        for thread_id, said in promised.said.items():
            paths = [path for path in self._rollouts() if thread_id in path.name]
            self._ensure(len(paths) == 1, f"{thread_id} has the files {paths}")
            found = said_in(paths[0])
            self._ensure(found[: len(said)] == said, f"{said} was acknowledged, {found} is there")
            ever = self._session.said[thread_id]
            in_order = [word for word in ever if word in found]
            self._ensure(found == (in_order if self._image.scattered else ever[: len(found)]), f"{found} was not said")

    def _check_rows(self, lost: set[str]) -> None:
        """The state folder of the image and a new one say the same; integrity is ok."""
        state = self._home / "engine/state_1.sqlite"
        self._ensure(integrity(state) == "ok", f"integrity: {integrity(state)}")
        found = dump(state, without=ONLY_IN_ONE)
        self.seen["truncated"] += any("truncated" in str(row) for row in dump(state)["divergences"])
        if (self._home / "engine/journal").exists():
            shutil.copytree(self._home / "engine/journal", self._fresh / "state/journal")
        with self._open(str(self._fresh / "state")) as opened:
            opened.backfill()
        expected = dump(self._fresh / "state/state_1.sqlite", without=ONLY_IN_ONE)
        for table, rows in expected.items():
            kept = [row for row in found[table] if not is_of(row, lost)] if table != "facts" else found[table]
            self._ensure(kept == rows, f"{table} has\n{kept}\nthe files give\n{rows}")

    def _promises(self) -> tuple[Promise, Promise]:
        """What was acknowledged before the cut, and what was on its way."""
        at = len(self._image.marks)
        return self._session.promises[at], self._session.promises[min(at + 1, len(self._session.promises) - 1)]

    def _rollouts(self) -> list[Path]:
        roots = (self._home / "sessions", self._home / "archived_sessions")
        return [path for root in roots for path in root.rglob("rollout-*.jsonl")]

    def _open(self, state: str | None) -> engine.Engine:
        clock = ManualClock(MORNING_MS + 3_600_000)
        return engine.open(str(self._home), state_dir=state, options=NO_TIMER, clock=clock, files=Rebooted())


def is_of(row: Row, thread_ids: set[str]) -> bool:
    return any(thread_id in value for value in row if isinstance(value, str) for thread_id in thread_ids)


def said_in(path: Path) -> list[str]:
    """What the user said, by the standard library alone; lines that are no JSON are passed over."""
    words = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        payload = record["payload"]
        if kind(record) == "response_item.message" and payload["role"] == "user":
            words.append(payload["content"][0]["text"])
    return words


def integrity(path: Path) -> str:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        return "; ".join(row[0] for row in connection.execute("PRAGMA integrity_check"))
    except apsw.CorruptError as error:  # so damaged that it cannot even be looked through
        return str(error)
    finally:
        connection.close()


def raw_watermarks(image: Image, aside: Path) -> list[tuple[str, int]]:
    """Stream and offset, read from a copy; none where the database is not whole yet."""
    for name in ("state_1.sqlite", "state_1.sqlite-wal"):
        if (content := image.names.get(f"engine/{name}")) is not None:
            (aside / name).write_bytes(content)
    if not (aside / "state_1.sqlite").exists():
        return []
    connection = apsw.Connection(str(aside / "state_1.sqlite"), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        return list(connection.execute('SELECT stream, "offset" FROM watermarks'))
    except apsw.Error:
        return []
    finally:
        connection.close()


def recorded(folder: Path, files: type[CrashHome] = CrashHome, bug: Bug | None = None) -> Session:
    home = folder / "home"
    home.mkdir()
    session = Session(home, files(Steady(), str(home)))
    if bug is not None:
        bug(session)
    return session.run()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The session without a bug, of which each test takes its images."""
    return recorded(tmp_path_factory.mktemp("plain"))


def crash(session: Session, folder: Path, *, every: int, first: int = 0, scattered: bool = False) -> Checker:
    """Check every `every`-th image of all steps."""
    checker = Checker(session, folder)
    for number, image in enumerate(session.files.images(Random(1), scattered=scattered)):
        if number % every == first:
            checker.check(image)
    return checker


def hunt(session: Session, folder: Path, check: Callable[[Checker, Image], None] = Checker.check) -> None:
    """Check images of any moment until one is wrong; those of a tenth of the moments are in memory at a time."""
    checker = Checker(session, folder)
    for seed in range(20):
        found = list(session.files.images(Random(seed), share=0.1))
        Random(seed).shuffle(found)
        for image in found:
            check(checker, image)


def test_the_journal_of_both_seams_ends_in_what_is_on_the_disk(plain: Session) -> None:
    """Else an image would be of no disk at all. Locks and the -shm are left out: they hold nothing."""
    *_, image = (each for each in plain.files.images(Random(1)) if each.how == "kept, all names")
    there = {str(path.relative_to(plain.home)): path.read_bytes() for path in files_below(plain.home)}
    assert {path: content for path, content in image.names.items() if content is not None} == there
    databases = {"engine/state_1.sqlite", "engine/jobs_1.sqlite", "engine/history_1.sqlite", "engine/search_1.sqlite"}
    assert {path for path in there if ".sqlite" in path} == databases
    assert len(image.marks) == len(plain.promises) - 1 == 16


def test_the_journal_follows_a_database_that_shrinks_and_its_rollback_journal(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    files = CrashHome(Steady(), str(home))
    with watched(files):
        connection = apsw.Connection(str(home / "any.sqlite"))
        connection.execute("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(100000)); DELETE FROM t; VACUUM")
        connection.close()
    images = list(files.images(Random(1)))
    (*_, last) = (image for image in images if image.how == "kept, all names")
    assert last.names == {"any.sqlite": (home / "any.sqlite").read_bytes()}
    assert len((home / "any.sqlite").read_bytes()) == 8_192
    assert max(len(image.names.get("any.sqlite") or b"") for image in images) > 100_000
    assert any("any.sqlite-journal" in image.names for image in images)


def test_the_journal_holds_the_wal_of_a_database_in_use(plain: Session) -> None:
    sizes = [len(image.names.get("engine/state_1.sqlite-wal") or b"") for image in plain.files.images(Random(1))]
    assert max(sizes) > 100_000


def test_what_was_acknowledged_outlives_a_power_cut_and_rows_equal_the_files(plain: Session, tmp_path: Path) -> None:
    """Some hundred of some ten thousand images, which are told apart by what the disk kept."""
    seen = crash(plain, tmp_path, every=101).seen
    assert seen["checked"] > 80
    assert seen["behind"] > 20
    assert seen["truncated"] > 10


def test_whatever_the_disk_keeps_by_chance_rows_equal_the_files(plain: Session, tmp_path: Path) -> None:
    assert crash(plain, tmp_path, every=211, scattered=True).seen["checked"] > 40


@pytest.mark.soak
@pytest.mark.parametrize("first", range(8))
def test_every_image_of_a_session(plain: Session, tmp_path: Path, first: int) -> None:
    assert crash(plain, tmp_path, every=8, first=first, scattered=True).seen["checked"] > 800


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]


def test_buffered_appends_lost_under_a_watermark_that_followed_them_are_found_and_the_row_is_right(
    tmp_path: Path,
) -> None:
    """The row and its watermark were checkpointed and synced, the words were not; a list finds it, without a back-fill."""
    home = tmp_path / "home"
    home.mkdir()
    files = CrashHome(Steady(), str(home))
    with watched(files), engine.open(str(home), options=NO_TIMER, clock=ManualClock(), files=files) as opened:
        thread = opened.threads.create(cwd="/srv/app", durability="buffered")
        with thread.turn() as turn:
            turn.user_message("kept")
            turn.token_usage(input_tokens=7)
        thread.sync()
        with thread.turn() as turn:
            turn.token_usage(input_tokens=100)
        opened.threads.list()
        opened._database.checkpoint()
        files.mark("followed")
        followed = next(each for each in files.images(Random(1)) if each.marks and each.how == "lost, all names")
    followed.write(str(tmp_path / "image"))
    with engine.open(str(tmp_path / "image"), options=NO_TIMER, clock=ManualClock(), files=Rebooted()) as opened:
        (row,) = opened.threads.list().threads
        assert (row.first_user_message, row.tokens_used) == ("kept", 7)
        with opened._database.read() as transaction:
            assert list(transaction.rows("SELECT class, thread_id FROM divergences")) == [("truncated", thread.id)]
        assert opened.threads.fetch(thread.id).differences == []


@pytest.mark.parametrize("archived", [True, False])
def test_a_thread_that_moves_into_a_new_folder_is_never_without_a_name(tmp_path: Path, archived: bool) -> None:
    """Once the new folder's own name was not synced before the old name went: a power cut took the thread."""
    home = tmp_path / "home"
    home.mkdir()
    with engine.open(str(home), options=NO_TIMER, clock=ManualClock()) as opened:
        with opened.threads.create(cwd="/srv/app") as thread, thread.turn() as turn:
            turn.user_message("kept")
        if not archived:
            opened.threads.archive(thread.id)
            shutil.rmtree(home / "sessions")
    files = CrashHome(Files(), str(home))
    with engine.open(str(home), options=NO_TIMER, clock=ManualClock(), files=files) as opened:
        (opened.threads.archive if archived else opened.threads.unarchive)(thread.id)
    for image in files.images(Random(1)):
        named = [path for path in image.names if path.endswith(f"{thread.id}.jsonl")]
        assert named, f"{image.how} at step {image.step}"


def test_an_imported_thread_outlives_a_power_cut(tmp_path: Path) -> None:
    """The folders above it are as new as the file, so their names are synced too."""
    source, home, bundle = tmp_path / "source", tmp_path / "home", str(tmp_path / "bundle.zip")
    source.mkdir()
    home.mkdir()
    with engine.open(str(source), options=NO_TIMER, clock=ManualClock()) as opened:
        with opened.threads.create(cwd="/srv/app") as thread, thread.turn() as turn:
            turn.user_message("kept")
        opened.threads.export([thread.id], bundle)
    files = CrashHome(Files(), str(home))
    with engine.open(str(home), options=NO_TIMER, clock=ManualClock(), files=files) as opened:
        opened.threads.import_bundle(bundle)
        files.mark("imported")
    images = [image for image in files.images(Random(1)) if image.marks]
    assert images
    for image in images:
        named = [path for path in image.names if path.endswith(f"{thread.id}.jsonl")]
        assert named, f"{image.how} at step {image.step}"


# --- bugs put in on purpose


class NoJournalSync(CrashHome):
    """What was decided is acknowledged before it is on the medium."""

    def sync(self, fd: int, *, op: str) -> None:
        if op != "journal.sync":
            super().sync(fd, op=op)


class NoArchiveSync(CrashHome):
    """The old name goes before the new one is certain."""

    def sync_folder(self, path: str, *, op: str) -> None:
        if op != "archive.sync":
            super().sync_folder(path, op=op)


class NoRolloutSync(CrashHome):
    """Appends are acknowledged as durable and are not."""

    def sync(self, fd: int, *, op: str) -> None:
        if op != "recorder.sync":
            super().sync(fd, op=op)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (NoJournalSync, "was acknowledged"),
        (NoArchiveSync, "has 0|are gone|has the files|is not listed|archived is False"),
        (NoRolloutSync, "which has|was acknowledged|is not listed"),
    ],
)
def test_a_sync_that_is_left_out_is_caught(tmp_path: Path, files: type[CrashHome], told: str) -> None:
    with pytest.raises(Lost, match=told):
        hunt(recorded(tmp_path, files), tmp_path)


def test_rows_that_are_committed_before_the_append_is_synced_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows_first(session: Session) -> None:
        sync_to = Recorder._sync_to

        def early(recorder: Recorder, target: int, cuts: int) -> None:
            flush = session.opened._flush
            flush.note(recorder._path.removeprefix(f"{session.home}/"), {"session_meta"})
            flush.flush()
            sync_to(recorder, target, cuts)

        monkeypatch.setattr(Recorder, "_sync_to", early)

    session = recorded(tmp_path, bug=rows_first)
    monkeypatch.undo()
    with pytest.raises(Lost, match=r"the row has followed \d+ bytes"):
        hunt(session, tmp_path, Checker.check_watermarks)


def test_a_watermark_that_is_committed_before_its_rows_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_two_transactions(runner: Runner, done: Any, jobs: Any, inside: Any) -> list[str]:
        folded = [each for one in done for each in one.folded]
        with runner._database.write() as transaction:
            watermarks.advance(transaction, ((each.path, each.projection, each.mark) for each in folded))
        with runner._database.write() as transaction:
            runner._write_accepted(transaction, folded)
            if inside is not None:
                inside(transaction)
        return []

    monkeypatch.setattr(Runner, "_write_batch", in_two_transactions)
    session = recorded(tmp_path)
    monkeypatch.undo()
    with pytest.raises(Lost, match=r"missing_row|differing_field|wrong_rows|watermarks has|row of watermarks is of"):
        hunt(session, tmp_path)


def test_a_watermark_ahead_of_its_file_that_is_believed_is_caught(
    plain: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.projections.fold.judge_history", lambda _source, _mark: watermarks.History.SAME)
    with pytest.raises(Lost):
        hunt(plain, tmp_path)


def test_a_database_that_never_syncs_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint writes pages that the -wal may not hold any more: the file is damaged, or set aside for it."""
    pragmas = tuple(each.replace("synchronous = NORMAL", "synchronous = OFF") for each in setup._CONNECTION_PRAGMAS)
    assert pragmas != setup._CONNECTION_PRAGMAS
    monkeypatch.setattr(setup, "_CONNECTION_PRAGMAS", pragmas)
    session = recorded(tmp_path)
    monkeypatch.undo()
    with pytest.raises((Lost, EngineError)):
        hunt(session, tmp_path)
