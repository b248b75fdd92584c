"""The main job on a made-up home, step by step: index, list, damage, audit, rebuild.

Every step runs what its command line would run, and shows that line. Everything happens in a new temporary folder, which
is removed at the end, also when the demo is stopped.
"""

from __future__ import annotations

import contextlib
import shutil  # noqa: TID251 - the demo removes the home that it made
import tempfile  # noqa: TID251 - and makes it where such things belong
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from engine.cli import DONE, commands, memories, output
from engine.cli.asked import Asked
from engine.clock import SystemClock
from engine.options import Options
from engine.runtime import STATE_SHAPE
from engine.stores.files import Files
from engine.stores.sqlite import Database, Transaction
from engine.testing import HomePlan, MadeThread, append_turns, make_home
from engine.testing.damage import strike

THREADS = 24
_DAYS = 20
_SEED = 7
_RECORDS_MIN = 8
_DAY_MS = 86_400_000
_LIST = commands.Wanted(6, None, "updated_at", False, {})
"""What `threads list --limit 6` asks for."""


def run(*, as_json: bool, keep: bool) -> int:
    """Show everything; the exit code is 0 unless a step fails."""
    with _folder(keep=keep) as home:
        steps = _Steps(home, as_json=as_json)
        _play(home, steps)
        steps.close(keep=keep)
    return DONE


def _play(home: str, steps: _Steps) -> None:
    asked = Asked(home=home)
    made = make_home(home, HomePlan(threads=THREADS, seed=_SEED, start=_days_ago(_DAYS), days=_DAYS - 1))
    steps.tell(f"{THREADS} threads, as an agent leaves them: JSONL rollouts in a new folder.", [home])

    steps.run(
        "Index them. The rollouts stay as they are.",
        "backfill",
        lambda: commands.backfill(asked, workers=0),
    )
    steps.run("List the newest.", "threads list --limit 6", lambda: commands.list_threads(asked, _LIST))
    steps.run("Do rows and files agree?", "audit", lambda: commands.audit(asked, deep=False))

    steps.tell(
        "Now damage two files, copy one, and tamper with the table behind the engine's back.", _damage(home, made)
    )

    steps.run("Audit says what is wrong and where.", "audit", lambda: commands.audit(asked, deep=False))
    steps.run(
        "Throw all rows away and fold the files anew.",
        "rebuild",
        lambda: commands.rebuild(asked, workers=0),
    )
    steps.run(
        "Every row is right again. What is left lies in the files, and costs nothing but itself.",
        "audit",
        lambda: commands.audit(asked, deep=False),
    )
    steps.run(
        "And the list is whole: no thread went missing.",
        "threads list --limit 6",
        lambda: commands.list_threads(asked, _LIST),
    )
    steps.run(
        "Keep what was learned in threads that are idle, by rules; with a model it would be by that.",
        "memories run",
        lambda: memories.make(asked),
    )


def _damage(home: str, made: list[MadeThread]) -> list[str]:
    """Five damages, each to a thread of its own; what was done."""
    torn, spoilt, edited, removed, copied = _victims(made)
    strike("torn-last-line", home, append_turns(home, torn), seed=_SEED)
    strike("non-utf8-byte-in-a-string", home, spoilt, seed=_SEED)
    strike("same-thread-in-two-files", home, copied, seed=_SEED)
    with _table(home) as transaction:
        transaction.run("UPDATE threads SET title = 'Somebody was here' WHERE id = :id", {"id": edited.id})
        transaction.run("DELETE FROM threads WHERE id = :id", {"id": removed.id})
    return [
        f"{torn.id}  its agent wrote on and died in the middle of a line",
        f"{spoilt.id}  a byte in one of its records is not UTF-8 any more",
        f"{copied.id}  an older copy of its file lies in the folder of another day",
        f"{edited.id}  the title in its row was edited",
        f"{removed.id}  its row was deleted",
    ]


def _victims(made: list[MadeThread]) -> list[MadeThread]:
    """Threads of one file each that nobody forked, long enough to be damaged in the middle."""
    parents = {thread.row.get(key) for thread in made for key in ("forked_from_id", "parent_thread_id")}
    fit = [
        thread
        for thread in made
        if thread.style == "paginated"
        and not thread.older_paths
        and not thread.row["archived"]
        and thread.records >= _RECORDS_MIN
        and thread.id not in parents
    ]
    return fit[-5:]


@contextlib.contextmanager
def _table(home: str) -> Iterator[Transaction]:
    """The state database, as any program with SQLite could open it."""
    database = Database.open(
        f"{home}/engine",
        "state",
        STATE_SHAPE,
        migrations="state",
        options=Options(),
        clock=SystemClock(),
        files=Files(),
    )
    try:
        with database.write() as transaction:
            yield transaction
    finally:
        database.close()


@contextlib.contextmanager
def _folder(*, keep: bool) -> Iterator[str]:
    """A new folder under the temporary one, gone afterwards unless it is to be kept."""
    folder = tempfile.mkdtemp(prefix="rolloutdb-demo-")
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _days_ago(days: int) -> str:
    at_s = (SystemClock().wall_ms() - days * _DAY_MS) / 1000
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


class _Steps:
    """Prints each step when it is done, or gathers them all into one document."""

    def __init__(self, home: str, *, as_json: bool) -> None:
        self._home = home
        self._as_json = as_json
        self._steps: list[dict[str, Any]] = []
        self._console = None if as_json else _console()

    def tell(self, what: str, details: list[str]) -> None:
        """A step that no command of ours does."""
        if self._console is not None:
            self._head(what)
            for detail in details:
                self._console.print(f"  {detail}", soft_wrap=True)
        self._steps.append({"step": what, "command": None, "exit_code": None, "answer": details})

    def run(self, what: str, command: str, work: Callable[[], commands.Answer]) -> None:
        """A step that a command does: the line a user would type, and its answer."""
        line = f"rolloutdb --home {self._home} {command}"
        if self._console is not None:
            self._head(what)
            self._console.print(f"$ {line}\n", style="bold cyan", soft_wrap=True)
        answer = work()
        self._steps.append({"step": what, "command": line, "exit_code": answer.exit_code, "answer": answer.document})
        if self._console is not None:
            answer.show(self._console)

    def close(self, *, keep: bool) -> None:
        """The end: where the folder is, and what to do next."""
        if self._console is None:
            output.print_json({"home": self._home, "kept": keep, "steps": self._steps})
            return
        left = f"The folder is still there: {self._home}" if keep else "The folder is removed."
        self._console.print(f"\n{left} On your own home:", style="bold", soft_wrap=True)
        self._console.print(
            "$ rolloutdb --state-dir ~/.local/state/rolloutdb backfill", style="bold cyan", soft_wrap=True
        )

    def _head(self, what: str) -> None:
        assert self._console is not None
        self._console.print(f"\n{len(self._steps) + 1}. {what}", style="bold")


def _console() -> Any:
    from engine.cli import tables

    return tables.console()
