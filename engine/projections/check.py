"""Read and check: what a rollout says, folded without the database, beside what the row says.

The fold of the file up to the row's watermark must give the row, field for field; what lies beyond the watermark is lag
and no difference. Used by `fetch`, which answers from the file, and by the audit, which reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from engine.options import Options
from engine.projections.fold import Folded, Folder, SetAside
from engine.projections.goals import goal_row
from engine.projections.registry import THREADS
from engine.projections.threads import COLUMNS, ThreadState, stream_of, thread_row
from engine.stores.files import Files
from engine.stores.layout import Found, Home
from engine.stores.rollouts import Source, open_source
from engine.stores.watermarks import History, Watermark


class Difference(NamedTuple):
    """A field of which file and row say different things."""

    field: str
    file_value: Any
    row_value: Any


class AtMark(NamedTuple):
    """What the bytes before a watermark give: the row, the encoded state, the last ordinal, what was set aside.

    `goal` is the rollout's row in `goals`, None where it has none.
    """

    row: tuple[Any, ...]
    goal: tuple[Any, ...] | None
    state: bytes
    ordinal: int | None
    set_aside: list[SetAside]


class Checked(NamedTuple):
    """What a rollout says. Rows are in the order of `COLUMNS`; `set_aside` is of the whole file.

    `at_mark` is the fold up to the watermark, None where there is none; `history` tells whether the bytes before the
    watermark are those that were followed; `lag_bytes` how much lies beyond it (a torn tail is not counted).
    """

    row: tuple[Any, ...]
    state: ThreadState
    at_mark: AtMark | None
    history: History
    lag_bytes: int
    set_aside: list[SetAside]

    @property
    def same_history(self) -> bool:
        """Whether the watermark's file is the one that was followed."""
        return self.history is History.SAME


class Checker:
    """Folds rollouts of one home anew."""

    def __init__(self, home: Home, options: Options, files: Files) -> None:
        self._home = home
        self._options = options
        self._files = files
        self._folder = Folder([THREADS], options)

    def check(self, found: Found, mark: Watermark | None) -> Checked:
        """Fold a rollout from its beginning, stopping on the way at the watermark. Raises OSError."""
        stream = stream_of(found.path)
        path = self._home.absolute(found.path, compressed=found.compressed)
        source = open_source(path, compressed=found.compressed, files=self._files, options=self._options)
        try:
            if mark is None:
                (whole,) = self._folder.fold(stream, source, {})
                state = THREADS.decode(whole.mark.state)
                row = thread_row(found.path, state)
                return Checked(row, state, None, History.SAME, whole.mark.offset, whole.set_aside)
            (until,) = self._folder.fold(stream, source, {}, end=mark.offset)
            (whole,) = self._folder.fold(stream, source, {THREADS.name: until.mark})
            return _checked(found.path, until, whole, mark, _history(source, until.mark, mark))
        finally:
            source.close()


def differences(file_row: Sequence[Any], stored_row: Sequence[Any]) -> list[Difference]:
    """Field by field, in the order of `COLUMNS`."""
    return [
        Difference(field, file_value, row_value)
        for field, file_value, row_value in zip(COLUMNS, file_row, stored_row, strict=True)
        if file_value != row_value
    ]


def _history(source: Source, until: Watermark, mark: Watermark) -> History:
    """What became of the bytes that were followed; they are all read, so no digest of a part stands for them."""
    if (until.offset, until.chain, until.tail) == (mark.offset, mark.chain, mark.tail):
        return History.SAME
    is_shorter = mark.offset > 0 and not source.read_at(mark.offset - 1, 1)
    return History.TRUNCATED if is_shorter else History.REWRITTEN


def _checked(path: str, until: Folded, whole: Folded, mark: Watermark, history: History) -> Checked:
    state, then = THREADS.decode(whole.mark.state), THREADS.decode(until.mark.state)
    return Checked(
        row=thread_row(path, state),
        state=state,
        at_mark=AtMark(
            thread_row(path, then),
            goal_row(then.goal, until.emitted),
            until.mark.state,
            until.mark.ordinal,
            until.set_aside,
        ),
        history=history,
        lag_bytes=max(0, whole.mark.offset - mark.offset),
        set_aside=whole.set_aside if whole.anew else [*until.set_aside, *whole.set_aside],
    )
