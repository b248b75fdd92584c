"""Projections of an application's own: what such a class is made of, and what keeps its faults to itself.

`Projection` is the protocol of `projection.py` with all that is the same for everybody filled in, for subclasses to
extend. Its records come with the payload as the object that JSON has. Its tables, given as SQL, lie in a database of
their own beside the engine's bookkeeping; each has a column `stream`, by which the engine removes what was written for a
stream that is gone, erased, or folded anew.

`Guarded` is what the engine runs: whatever an application's code raises becomes `ProjectionFailed` with the projection's
name, so that no call of the engine but its own query ever meets it. A ValueError in `apply` sets that record aside.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from engine.errors import EngineError, ProjectionFailed, ProjectionUnusable, StoreError
from engine.events.record import Record
from engine.projections.projection import Change, Piece, Stream
from engine.projections.registry import BUILT_IN
from engine.stores import migrate
from engine.stores.files import Files
from engine.stores.link import files_translated
from engine.stores.migrate import Migration
from engine.stores.quoting import quoted
from engine.stores.schema import tables_of
from engine.stores.sqlite import Transaction

BOOKKEEPING = "side"
"""The migrations that every side database begins with."""

STATE_BYTES_MAX = 64 * 1024

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)
_SHAPE_MAX = 999_999_999


class Projection:
    """A fold of an application's own, to be subclassed and given to `engine.open(home, projections=[…])`.

    `name` names it and its database; `kinds` are the kinds of records it is given, `latest` those of which only the newest
    with an effect counts; `schema` is the SQL of its tables. Raise `version` when the same records give other rows, and
    `shape` when the schema changes. Instances hold no state of their own between calls.
    """

    name: str = ""
    version: int = 1
    shape: int = 1
    kinds: frozenset[str] = frozenset()
    latest: frozenset[str] = frozenset()
    schema: str = ""

    def start(self, stream: Stream) -> Any:
        """The state before the first record: plain values (a dict, say), unless `encode` and `decode` are replaced."""
        return {}

    def apply(self, state: Any, record: Record[dict[str, Any]], kind: str, offset: int) -> bool:
        """Fold one record into the state; whether it had an effect. Raises ValueError to have it set aside."""
        raise NotImplementedError

    def close_piece(self, state: Any, piece: Piece) -> None:
        """Take in what a piece held, whatever the kinds, after its records were applied."""

    def emit(self, state: Any) -> list[Any]:
        """Take what this piece came to out of the state, for `write`; the state itself stays below 64 KiB."""
        return []

    def encode(self, state: Any) -> bytes:
        """The state as bytes."""
        return msgspec.msgpack.encode(state)

    def decode(self, blob: bytes) -> Any:
        """The state of those bytes."""
        return msgspec.msgpack.decode(blob)

    def write(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        """Upsert the rows of streams that moved, each with `change.stream.path` in its column `stream`.

        Of a change that is `anew` the rows of before are removed already.
        """
        raise NotImplementedError


class Guarded:
    """A projection as the engine runs it. It keeps the protocol of `projection.py`."""

    def __init__(self, own: Projection, tables: Sequence[str], more: list[Migration]) -> None:
        self.name = own.name
        self.version = own.version
        self.shape = own.shape
        self.kinds = frozenset(own.kinds)
        self.latest = frozenset(own.latest)
        self.tables = tuple(tables)
        self.more = more
        self._own = own

    def start(self, stream: Stream) -> Any:
        with self._guard("start"):
            return self._own.start(stream)

    def apply(self, state: Any, record: Record[Any], kind: str, offset: int) -> bool:
        with self._guard("apply", passing=ValueError, offset=offset):
            moved = self._own.apply(state, record, kind, offset)
        if not isinstance(moved, bool):
            raise self._failed(f"answered {moved!r} in apply, not whether the record had an effect", offset)
        return moved

    def close_piece(self, state: Any, piece: Piece) -> None:
        with self._guard("close_piece"):
            self._own.close_piece(state, piece)

    def emit(self, state: Any) -> list[Any]:
        with self._guard("emit"):
            return list(self._own.emit(state))

    def encode(self, state: Any) -> bytes:
        with self._guard("encode"):
            blob = bytes(self._own.encode(state))
        if len(blob) > STATE_BYTES_MAX:
            raise self._failed(f"has a state of {len(blob)} bytes, and at most {STATE_BYTES_MAX} are kept")
        return blob

    def decode(self, blob: bytes) -> Any:
        with self._guard("decode"):
            return self._own.decode(blob)

    def write(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        with self._guard("write"):
            self._own.write(transaction, changes)

    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        for table in self.tables:
            transaction.run(
                f"DELETE FROM {quoted(table)} WHERE stream IN (SELECT value FROM json_each(:paths))",  # noqa: S608
                {"paths": msgspec.json.encode(list(paths)).decode()},
            )

    @contextlib.contextmanager
    def _guard(
        self, step: str, *, passing: type[Exception] | tuple[()] = (), offset: int | None = None
    ) -> Iterator[None]:
        """What the code raises as `ProjectionFailed`, but for what the database itself met, and for what passes."""
        try:
            yield
        except passing:
            raise
        except EngineError as error:
            if isinstance(error, StoreError) and type(error) is not StoreError:
                raise  # a lock, a full disk, a damaged file: none of the code's doing
            raise self._failed(f"failed in {step}: {error}", offset) from error
        except Exception as error:
            raise self._failed(f"failed in {step}: {type(error).__name__}: {error}", offset) from error

    def _failed(self, what: str, offset: int | None = None) -> ProjectionFailed:
        return ProjectionFailed(
            f"The projection {self.name} {what}.",
            projection=self.name,
            hint="Mend its code; raise ValueError in apply where a record is to be set aside.",
            offset=offset,
        )


def guarded(projections: Sequence[Projection], files: Files) -> list[Guarded]:
    """The projections that an application gave, each checked. Raises `ProjectionUnusable`."""
    if not projections:
        return []
    with files_translated("open", BOOKKEEPING):
        carried = migrate.load(BOOKKEEPING, files)
    found: list[Guarded] = []
    for own in projections:
        try:
            found.append(_checked(own, carried))
        except ProjectionUnusable as error:
            name = getattr(own, "name", None) or type(own).__name__
            raise ProjectionUnusable(
                f"The projection {name} cannot be used. {error.message}", hint=error.hint
            ) from error
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ProjectionUnusable(f"Two projections are called {name}.", hint="Give each a name of its own.")
    return found


def _checked(own: Projection, carried: Sequence[Migration]) -> Guarded:
    if not isinstance(own, Projection):
        raise ProjectionUnusable("It is no engine.Projection.", hint="Give an instance of a subclass of it.")
    if not _NAME.fullmatch(own.name) or own.name in {each.name for each in BUILT_IN}:
        raise ProjectionUnusable(
            f"{own.name!r} cannot be its name.",
            hint="Use small letters, digits and _, a letter first, at most 48, and no name of the engine's own.",
        )
    if not (_is_number(own.version) and _is_number(own.shape)):
        raise ProjectionUnusable("Its version and its shape count from 1.", hint="Set both to whole numbers.")
    _check_kinds(own)
    schema = textwrap.dedent(
        own.schema.replace("\r\n", "\n")
    )  # a class that is moved to another block keeps its schema
    tables = tables_of(schema, carried)
    return Guarded(own, tables, [migrate.of_text(own.name, schema)])


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _SHAPE_MAX


def _check_kinds(own: Projection) -> None:
    asked: tuple[object, ...] = (own.kinds, own.latest)
    if any(isinstance(each, str) for each in asked) or not all((*own.kinds, *own.latest)):
        raise ProjectionUnusable("Its kinds are no set of words.", hint='Write frozenset({"turn_context"}).')
    if not own.kinds and not own.latest:
        raise ProjectionUnusable("It asks for no kind of record.", hint="Name the kinds it folds in `kinds`.")
    if both := frozenset(own.kinds) & frozenset(own.latest):
        raise ProjectionUnusable(
            f"{min(both)} is in its kinds and in its latest kinds.", hint="A kind is applied always, or as the newest."
        )
