"""One line of a stream: the envelope, its kind, and the only decoder.

A line is `{"timestamp","ordinal","type","payload"}` in that key order (`ordinal` in paginated files only), plus keys
that are kept and not known. `decode` is what every reader goes through: writer, projections, audit, list. It answers a
`Record` or raises `Rejected` with the reason and the look of the bytes; it never guesses, and one bad line never speaks
for another. A typed decode (`decode_as`) reads the same bytes once, into the struct of a kind that is folded.

A line is good when it is UTF-8, one JSON object, has a `timestamp` and a `type` that are text and a `payload` that is an
object. What its kind is, and whether anybody knows it, is not the decoder's business.
"""

from __future__ import annotations

import codecs
from datetime import UTC, datetime
from math import floor
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from engine.events.kinds import ALIASES, ITEM_COMPLETED, TAGGED_TYPES
from engine.events.payloads import TYPED

P = TypeVar("P")

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHECK_BYTES = 1024 * 1024
_GLUE = b'}{"timestamp":"'


class Record(Struct, Generic[P]):
    """A decoded line. `timestamp` is RFC 3339 text as written, `ordinal` is None in legacy streams."""

    timestamp: str
    type: str
    payload: P
    ordinal: int | None = None


class Rejected(ValueError):
    """These bytes are no record. `look` is one word for what they look like, `reason` a sentence."""

    def __init__(self, look: str, reason: str) -> None:
        super().__init__(reason)
        self.look = look
        self.reason = reason


class _ItemTag(Struct):
    type: str | None = None


class _Tag(Struct):
    type: str | None = None
    item: _ItemTag | None = None


_ALIASED = {f"{kind.partition('.')[0]}.{alias}": kind for kind, alias in ALIASES.items()}
_ENVELOPE: msgspec.json.Decoder[Record[Raw]] = msgspec.json.Decoder(Record[Raw])
_TAG = msgspec.json.Decoder(_Tag)
_LINES: dict[str, msgspec.json.Decoder[Record[Any]]] = {
    kind: msgspec.json.Decoder(Record[payload])  # type: ignore[valid-type]
    for kind, payload in TYPED.items()
}


def decode(line: bytes) -> Record[Raw]:
    """A line as a record with its payload raw.

    `line` comes without its newline (a trailing CR is white space). Raises `Rejected`.
    """
    _check_text(line)
    try:
        record = _ENVELOPE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _rejected(line, error) from None
    if bytes(memoryview(record.payload)[:1]) != b"{":
        raise Rejected("foreign", "the payload is not an object")
    return record


def decode_as(line: bytes, kind: str, *, is_ascii: bool = False) -> Record[Any]:
    """A line of a folded kind as a record with its typed payload; `is_ascii` spares a look at bytes already looked at.

    Fields of the wrong type are dropped one by one where the rest is whole, so that an odd setting never hides a
    thread; raises `Rejected` where nothing usable remains.
    """
    if not is_ascii:
        _check_text(line)
    decoder = _LINES.get(kind)
    if decoder is None:
        return decode(line)
    try:
        return decoder.decode(line)
    except msgspec.ValidationError:
        return _decode_leniently(line, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _rejected(line, error) from None


def kind_of(record: Record[Raw]) -> str:
    """`type`, `type.tag`, or `type.tag.item_tag` of a record with a raw payload."""
    if record.type not in TAGGED_TYPES:
        return record.type
    try:
        tag = _TAG.decode(record.payload)
    except msgspec.ValidationError:
        return record.type
    if tag.type is None:
        return record.type
    kind = f"{record.type}.{tag.type}"
    kind = _ALIASED.get(kind, kind)
    if kind == ITEM_COMPLETED and tag.item is not None and tag.item.type is not None:
        return f"{kind}.{tag.item.type}"
    return kind


def time_ms(text: str | None) -> int | None:
    """Unix milliseconds of an RFC 3339 time, or of the `YYYY-MM-DDThh-mm-ss` of file names (read as UTC)."""
    if not text:
        return None
    if len(text) == 19 and text[13] == "-" and text[16] == "-":
        text = f"{text[:13]}:{text[14:16]}:{text[17:]}"
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        # A hair is added because a float cannot hold every millisecond, and those below it would be cut to the one before.
        return floor(when.timestamp() * 1000 + 0.001)
    except (ValueError, OverflowError):
        return None


def is_glued(line: bytes) -> bool:
    """Whether a rejected line is two or more whole records without the newline between them."""
    at = line.find(_GLUE)
    if at < 0:
        return False
    start = 0
    while start < len(line):
        end = line.find(_GLUE, start)
        end = len(line) if end < 0 else end + 1
        try:
            decode(line[start:end])
        except Rejected:
            return False
        start = end
    return True


def _check_text(line: bytes) -> None:
    """The decoder passes over fields without looking at their bytes, so the text is checked first, in bounded pieces."""
    if line.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(line)
    try:
        for start in range(0, len(line), _CHECK_BYTES):
            piece = view[start : start + _CHECK_BYTES]
            decoder.decode(piece, final=start + _CHECK_BYTES >= len(line))
    except UnicodeDecodeError:
        raise Rejected("not UTF-8", "the line is not UTF-8") from None


def _rejected(line: bytes, error: Exception) -> Rejected:
    if not line.strip(b"\0 \r\t"):
        return Rejected("NUL", "the line is NUL bytes")
    if is_glued(line):
        return Rejected("glued", "whole records follow each other without a newline between them")
    if isinstance(error, msgspec.ValidationError):
        return Rejected("foreign", f"the line is JSON and no record: {error}")
    if line.startswith(b'{"timestamp":"'):
        return Rejected("torn", f"the record is cut or broken: {error}")
    return Rejected("garbage", f"the line is not JSON: {error}")


def _decode_leniently(line: bytes, kind: str) -> Record[Any]:
    record = decode(line)
    try:
        fields = msgspec.json.decode(record.payload, type=dict[str, Raw])
    except msgspec.DecodeError as error:
        raise Rejected("foreign", f"the payload cannot be read: {error}") from None
    payload = _struct_of(TYPED[kind], fields)
    return Record(timestamp=record.timestamp, type=record.type, payload=payload, ordinal=record.ordinal)


def _struct_of(wanted: type[Struct], fields: dict[str, Raw]) -> Struct:
    kept: dict[str, Any] = {}
    for field in msgspec.structs.fields(wanted):
        if field.encode_name not in fields:
            value_is_missing = True
        else:
            value_is_missing = False
            try:
                kept[field.name] = msgspec.json.decode(fields[field.encode_name], type=field.type)
            except msgspec.DecodeError:
                value_is_missing = True
        if value_is_missing and field.required:
            raise Rejected("foreign", f"the field {field.encode_name} is missing or of the wrong type")
    return wanted(**kept)
