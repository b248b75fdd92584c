"""Fold one stream: from a watermark, or anew, to the end of the file as it stands.

Reads blocks, skims them, decodes what somebody asked for, and applies it. Writes nothing and knows no database, so it
runs the same in this process, in a worker, and in an audit. A record that cannot be decoded or applied is set aside with
its position, bytes and reason, and the fold goes on. The unterminated tail is folded when it is a whole record; else it
is left for the next look.

Nothing here depends on how the stream is cut: pieces of any size give the same state (the first property test). With
`piece_bytes` a fold stops at the first block's end behind so many bytes: what projections emit then stays bounded, and
the watermark, which is marked as unfinished, is where the next piece begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from engine.events.kinds import above
from engine.events.record import BYTE_ORDER_MARK, Record, Rejected, decode, decode_as, kind_of, time_ms
from engine.events.skim import Hit, Skim, canonical_envelope
from engine.options import Options
from engine.projections.breath import breathe
from engine.projections.projection import Piece, Place, Projection, Stream
from engine.stores.digests import BLOCK_BYTES, Chain, tail_digest
from engine.stores.files import FileStat
from engine.stores.rollouts import TOO_LONG, Block, Source, blocks
from engine.stores.watermarks import History, Watermark, judge_history, resume_chain, unfinished

_HEAD_BYTES_MAX = 512
"""The head of a canonical line, item tag included, is always shorter than this."""


Decode = Callable[..., Record[Any]]
"""`decode_as` or `decode_plain`."""


class SetAside(Struct, frozen=True, array_like=True, gc=False):
    """A record that could not be applied. `data` is its first bytes, bounded by `set_aside_bytes_max`."""

    offset: int
    length: int
    kind: str | None
    reason: str
    data: bytes


class Folded(Struct, frozen=True, array_like=True, gc=False):
    """What a fold of one stream for one projection came to.

    `anew` tells that nothing before counted (first fold, newer version, other history): rows and set-aside records are
    replaced, not added to. `divergence` is the class of a history that is not the one followed before. `emitted` is what
    the projection made of this piece beyond its state.
    """

    path: str
    projection: str
    compressed: bool
    mark: Watermark
    anew: bool
    set_aside: list[SetAside]
    divergence: str | None
    emitted: list[tuple[Any, ...]]


class Folder:
    """Folds streams for several projections, in one pass over the bytes where they stand at the same position."""

    def __init__(
        self,
        projections: Sequence[Projection],
        options: Options,
        *,
        decode: Decode = decode_as,
        piece_bytes: int | None = None,
    ) -> None:
        self.projections = {projection.name: projection for projection in projections}
        self.options = options
        self.decode = decode
        self.piece_bytes = piece_bytes
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def fold(
        self,
        stream: Stream,
        source: Source,
        marks: Mapping[str, Watermark],
        *,
        of: Collection[str] | None = None,
        compressed: bool = False,
        end: int | None = None,
    ) -> list[Folded]:
        """Fold `source` from each projection's watermark (or anew) to its end, or to the offset `end`.

        With `of` for these projections alone. Raises OSError where the file cannot be read.
        """
        groups: dict[tuple[int, bytes, bytes] | None, list[_Fold]] = {}
        judged: dict[tuple[int, bytes, bytes], History] = {}
        for name, projection in self.projections.items():
            if of is not None and name not in of:
                continue
            mark, divergence = marks.get(name), None
            if mark is not None and mark.version != projection.version:
                mark = None
            if mark is not None:
                position = (mark.offset, mark.chain, mark.tail)
                if position not in judged:
                    judged[position] = judge_history(source, mark)
                if judged[position] is not History.SAME:
                    divergence, mark = judged[position].value, None
            if mark is not None and (_is_glued(source, mark.offset) or not _is_readable(projection, mark)):
                mark = None
            key = None if mark is None else (mark.offset, mark.chain, mark.tail)
            groups.setdefault(key, []).append(_Fold(projection, stream, mark, divergence))
        return [
            folded
            for folds in groups.values()
            for folded in _Run(self, stream, source, folds).to(end, compressed=compressed)
        ]

    def fold_part(self, stream: Stream, source: Source, start: int, state: Any) -> Folded:
        """What the one projection makes of the lines from `start` to the end, going on from a state that the caller made.

        Its mark is no place to go on from. Raises OSError.
        """
        (projection,) = self.projections.values()
        fold = _Fold(projection, stream, None, None)
        fold.state = state
        (folded,) = _Run(self, stream, source, [fold], start).to(None, compressed=False)
        return folded

    def plan_of(self, folds: Sequence[_Fold]) -> _Plan:
        """What these folds ask for; the same for every stream, so it is worked out once."""
        names = tuple(fold.projection.name for fold in folds)
        if names not in self._plans:
            always = _by_kind([fold.projection.kinds for fold in folds])
            newest = _by_kind([fold.projection.latest for fold in folds])
            skim = Skim(always, frozenset(newest) - frozenset(always))
            self._plans[names] = _Plan(skim, always, newest, sum(map(len, newest.values())), {})
        return self._plans[names]


class _Plan(NamedTuple):
    """The lines that matter, and by kind the places of the folds that asked for it."""

    skim: Skim
    always: dict[str, list[int]]
    newest: dict[str, list[int]]
    newest_wanted: int
    """How many records of kinds of which only the newest counts have their effect, at most."""
    askers: dict[tuple[bool, str], list[int]]
    """What was worked out of these, by whether it is of `always`, and kind."""


class _Fold:
    """One projection's part of a run."""

    __slots__ = ("aside", "divergence", "mark", "place", "projection", "state")

    def __init__(self, projection: Projection, stream: Stream, mark: Watermark | None, divergence: str | None) -> None:
        self.projection = projection
        self.mark = mark
        self.divergence = divergence
        # Asked for by name: a check against the protocol would cost as much as folding a small rollout.
        self.place: Callable[[Any, Place], None] | None = getattr(projection, "place", None)
        self.state = projection.start(stream) if mark is None else projection.decode(mark.state)
        self.aside: list[SetAside] = []


class _Run:
    """One pass under way, for projections that stand at the same position."""

    def __init__(self, folder: Folder, stream: Stream, source: Source, folds: Sequence[_Fold], start: int = 0) -> None:
        mark = folds[0].mark
        self._options = folder.options
        self._decode = folder.decode
        self._piece_bytes = folder.piece_bytes
        self._plan = folder.plan_of(folds)
        self._skim, self._always, self._newest = self._plan.skim, self._plan.always, self._plan.newest
        self._stream = stream
        self._source = source
        self._folds = folds
        self._offset = start if mark is None else mark.offset
        self._ordinal = None if mark is None else mark.ordinal
        self._chain = resume_chain(source, mark)
        self._passing: Chain | None = None
        self._recent = _Recent(0, b"")
        self._is_ascii = False
        self._records = 0
        self._damaged = 0
        self._first_at_ms: int | None = None
        self._last_at_ms: int | None = None

    def to(self, end: int | None, *, compressed: bool) -> list[Folded]:
        start, finished = self._offset, True
        for block in blocks(self._source, self._offset, end, self._options, wants=self._wants, passing=self._pass):
            if not block.terminated and not self._is_whole(block):
                break
            if block.passed:
                self._take_passed(block)
            else:
                self._take_lines(block)
            self._offset = block.offset + block.length
            breathe()
            if self._piece_bytes is not None and self._offset - start >= self._piece_bytes and block.terminated:
                finished = False
                break
        if self._source.broken is not None and finished:
            self._set_aside(self._folds, self._offset, b"", None, self._source.broken)
        piece = Piece(self._records, self._damaged, self._first_at_ms, self._last_at_ms)
        tail = tail_digest(self._tail())
        stat = self._source.stat if finished else unfinished(self._source.stat)
        return [self._close(fold, piece, tail, stat, compressed=compressed) for fold in self._folds]

    def _close(self, fold: _Fold, piece: Piece, tail: bytes, stat: FileStat, *, compressed: bool) -> Folded:
        fold.projection.close_piece(fold.state, piece)
        emitted = fold.projection.emit(fold.state)
        mark = Watermark(
            version=fold.projection.version,
            offset=self._offset,
            ordinal=self._ordinal,
            chain=self._chain.digest,
            tail=tail,
            stat=stat,
            state=fold.projection.encode(fold.state),
        )
        name = fold.projection.name
        return Folded(
            self._stream.path, name, compressed, mark, fold.mark is None, fold.aside, fold.divergence, emitted
        )

    def _wants(self, head: bytes) -> bool:
        """Whether a line that begins so is asked for, or can only be told by decoding it whole."""
        found = self._skim.scan(head, 0, len(head))
        return len(head) < _HEAD_BYTES_MAX or bool(found.hits or found.latest)

    def _pass(self, piece: bytes) -> None:
        """Take a piece of a line that is passed over into a digest of its own: the line may yet turn out to be torn.

        Reading it again instead would unpack a compressed rollout anew for every such line.
        """
        if self._passing is None:
            self._passing = self._chain.copy()
        self._passing.feed(piece, 0, len(piece))

    def _is_whole(self, block: Block) -> bool:
        """Whether a last line without its LF is a record all the same. One that was passed is read again, to tell."""
        if block.too_long:
            return False
        data = self._source.read_at(block.offset, block.passed) if block.passed else block.data[: block.end]
        try:
            decode(bytes(data).removeprefix(BYTE_ORDER_MARK) if block.offset == 0 else bytes(data))
        except Rejected:
            return False
        return True

    def _take_lines(self, block: Block) -> None:
        data, end = block.data, block.end
        found = self._skim.scan(data, 0, end)
        before = self._records
        self._records += found.canonical
        self._is_ascii = data.isascii()
        odd: dict[int, Record[Any]] = {}
        latest = found.latest
        for hit in found.hits:
            passed = before + hit.before + len(odd)
            if hit.kind is not None:
                self._apply(block, hit, passed)
            elif (known := self._tell(block, hit, odd)) is not None:
                self._apply(block, known, passed)
                latest = sorted([*latest, known])
        self._apply_latest(block, latest)
        self._note_times(data, end, odd)
        self._chain.feed(data, 0, end)
        self._recent = _Recent(block.offset, data)

    def _tell(self, block: Block, hit: Hit, odd: dict[int, Record[Any]]) -> Hit | None:
        """A line whose head is not canonical: decode it to learn what it is."""
        line = _line(block, hit)
        try:
            record = decode(line)
        except Rejected as rejected:
            self._damaged += 1
            self._set_aside(self._folds, block.offset + hit.start, line, None, rejected.reason)
            return None
        self._records += 1
        odd[hit.start] = record
        return hit._replace(kind=kind_of(record))

    def _apply(self, block: Block, hit: Hit, before: int) -> None:
        """Decode one record of a kind that always counts, and apply it for all who asked for it."""
        if hit.kind is None:
            return
        askers = self._askers(hit.kind, self._always)
        if not askers:
            return
        line, offset = _line(block, hit), block.offset + hit.start
        try:
            record = self._decode(line, hit.kind, is_ascii=self._is_ascii)
        except Rejected as rejected:
            self._set_aside(askers, offset, line, hit.kind, rejected.reason)
            return
        place: Place | None = None
        for fold in askers:
            if fold.place is not None:
                place = place or Place(offset, hit.end - hit.start, before)
                fold.place(fold.state, place)
            try:
                fold.projection.apply(fold.state, record, hit.kind, offset)
            except ValueError as error:
                self._set_aside([fold], offset, line, hit.kind, str(error))

    def _apply_latest(self, block: Block, hits: Sequence[Hit]) -> None:
        """Of each kind the newest record that has an effect, trying backwards.

        One that cannot be decoded is not set aside: whether it is looked at depends on the cut into pieces. A deep audit
        names it.
        """
        done: set[tuple[str, str]] = set()
        for hit in reversed(hits):
            if len(done) == self._plan.newest_wanted or hit.kind is None:
                return
            askers = self._askers(hit.kind, self._newest)
            askers = [fold for fold in askers if (fold.projection.name, hit.kind) not in done]
            if not askers:
                continue
            with contextlib.suppress(ValueError):
                record = self._decode(_line(block, hit), hit.kind, is_ascii=self._is_ascii)
                for fold in askers:
                    if fold.projection.apply(fold.state, record, hit.kind, block.offset + hit.start):
                        done.add((fold.projection.name, hit.kind))

    def _askers(self, kind: str, asked: dict[str, list[int]]) -> Sequence[_Fold]:
        """Who asked for this kind, or for one above it."""
        places = self._plan.askers.get((asked is self._always, kind))
        if places is None:
            places = sorted({place for each in (kind, *above(kind)) for place in asked.get(each, [])})
            self._plan.askers[asked is self._always, kind] = places
        return self._folds if len(places) == len(self._folds) else [self._folds[place] for place in places]

    def _note_times(self, data: bytes | bytearray, end: int, odd: dict[int, Record[Any]]) -> None:
        """The times of the first and the last record, and the last one's ordinal."""
        if self._first_at_ms is None:
            start = 0
            while start < end and self._first_at_ms is None:
                record = _envelope(data, start, odd)
                self._first_at_ms = None if record is None else time_ms(record[0])
                start = data.find(b"\n", start, end) + 1 or end
        stop = end
        while stop > 0:
            start = data.rfind(b"\n", 0, stop - 1) + 1
            record = _envelope(data, start, odd)
            at_ms = None if record is None else time_ms(record[0])
            if record is not None and at_ms is not None:
                self._last_at_ms, self._ordinal = at_ms, record[1]
                return
            stop = start

    def _take_passed(self, block: Block) -> None:
        """A long line that nobody asked for, or that is longer than any reader holds: only its head is here."""
        if block.too_long:
            self._damaged += 1
            length = block.passed - block.terminated
            self._set_aside(self._folds, block.offset, block.data, None, TOO_LONG[1], length=length)
        else:
            self._records += 1
            self._note_times(block.data, block.end, {})
        if self._passing is not None:
            self._chain, self._passing = self._passing, None
            return
        at, left = block.offset, block.passed
        while left > 0 and (data := self._source.read_at(at, min(left, 4 * BLOCK_BYTES))):
            self._chain.feed(data, 0, len(data))
            at, left = at + len(data), left - len(data)

    def _set_aside(
        self,
        folds: Sequence[_Fold],
        offset: int,
        line: bytes | bytearray,
        kind: str | None,
        reason: str,
        *,
        length: int | None = None,
    ) -> None:
        data = bytes(line[: self._options.set_aside_bytes_max])
        for fold in folds:
            fold.aside.append(SetAside(offset, len(line) if length is None else length, kind, reason, data))

    def _tail(self) -> bytes | bytearray:
        start = max(0, self._offset - BLOCK_BYTES)
        offset, data = self._recent
        if offset <= start and self._offset <= offset + len(data):
            return data[start - offset : self._offset - offset]
        return self._source.read_at(start, self._offset - start)


def _by_kind(asked: Sequence[frozenset[str]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, kinds in enumerate(asked):
        for kind in kinds:
            found.setdefault(kind, []).append(place)
    return found


class _Recent(NamedTuple):
    offset: int
    data: bytes | bytearray


def _line(block: Block, hit: Hit) -> bytes:
    line = bytes(block.data[hit.start : hit.end])
    return line.removeprefix(BYTE_ORDER_MARK) if block.offset + hit.start == 0 else line


def _envelope(data: bytes | bytearray, start: int, odd: dict[int, Record[Any]]) -> tuple[str, int | None] | None:
    """Timestamp and ordinal of the line that begins at `start`, None where it is no record."""
    if (record := odd.get(start)) is not None:
        return record.timestamp, record.ordinal
    return canonical_envelope(data, start, len(data))


def _is_readable(projection: Projection, mark: Watermark) -> bool:
    """Whether the stored state can be gone on from; damaged bytes may make its decoder raise anything."""
    try:
        projection.decode(mark.state)
    except Exception:  # noqa: BLE001
        return False
    return True


def _is_glued(source: Source, offset: int) -> bool:
    """Whether a foreign writer went on right behind a last record that had no LF: two records are one line now."""
    around = source.read_at(offset - 1, 2) if offset > 0 else b""
    return len(around) == 2 and b"\n" not in around
