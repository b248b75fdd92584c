"""One line of a stream: the envelope, its kind, and the only decoder.

A line is `{"timestamp","ordinal","type","payload"}` in that key order (`ordinal` in paginated files only), plus keys
that are kept and not known. `decode` is what every reader goes through: writer, projections, audit, list. It answers a
`Record` or raises `Rejected` with the reason and the look of the bytes; it never guesses, and one bad line never speaks
for another. A typed decode (`decode_as`) reads the same bytes once, into the struct of a kind that is folded.

A line is good when it is UTF-8, one JSON object, has a `timestamp` and a `type` that are text, a `payload` that is an
object, and an `ordinal` from 0 to 2^63 - 1 or none. JSON is as RFC 8259 has it: no NaN, no half of a surrogate pair, no
nesting beyond what the decoder's stack holds; of a key that is there twice the last counts. What a line's kind is, and
whether anybody knows it, is not the decoder's business.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Raw, Struct

from engine.events.kinds import ALIASES, ITEM_COMPLETED, TAGGED_TYPES
from engine.events.payloads import ORDINAL_MAX, TYPED

P = TypeVar("P")

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHECK_BYTES = 1024 * 1024
_GLUE = b'}{"timestamp":"'
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 24 * 60 * 60 * 1000


class Record(Struct, Generic[P]):
    """A decoded line. `timestamp` is RFC 3339 text as written, `ordinal` is None in legacy streams."""

    timestamp: str
    type: str
    payload: P
    ordinal: Annotated[int, Meta(ge=0, le=ORDINAL_MAX)] | None = None


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
    item: Raw = Raw()


_ALIASED = {f"{kind.partition('.')[0]}.{alias}": kind for kind, alias in ALIASES.items()}
_BRACE = ord("{")
_ENVELOPE: msgspec.json.Decoder[Record[Raw]] = msgspec.json.Decoder(Record[Raw])
_PLAIN: msgspec.json.Decoder[Record[dict[str, Any]]] = msgspec.json.Decoder(Record[dict[str, Any]])
_TAG = msgspec.json.Decoder(_Tag)
_ITEM_TAG = msgspec.json.Decoder(_ItemTag)
_DECODERS: dict[type[Struct], msgspec.json.Decoder[Record[Any]]] = {
    payload: msgspec.json.Decoder(Record[payload])  # type: ignore[valid-type]
    for payload in set(TYPED.values())
}
_LINES = {kind: _DECODERS[payload] for kind, payload in TYPED.items()}


def decode(line: bytes) -> Record[Raw]:
    """A line as a record with its payload raw.

    `line` comes without its newline (a trailing CR is white space). Raises `Rejected`.
    """
    if not line.isascii():
        _check_text(line)
    return _decode_envelope(line)


def _decode_envelope(line: bytes) -> Record[Raw]:
    try:
        record = _ENVELOPE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _rejected(line, error) from None
    if memoryview(record.payload)[0] != _BRACE:
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


def decode_plain(line: bytes, kind: str = "record", *, is_ascii: bool = False) -> Record[dict[str, Any]]:
    """A line as a record whose payload is the object that JSON has, with every key: for whoever reads, and folds not ours.

    Raises `Rejected`.
    """
    if not is_ascii and not line.isascii():
        _check_text(line)
    try:
        return _PLAIN.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_in_two(line, kind)


def _decode_in_two(line: bytes, kind: str) -> Record[dict[str, Any]]:
    """Envelope, then payload: tells which of them is no good, and takes the last of two payloads without reading the first."""
    record = _decode_envelope(line)
    try:
        payload = msgspec.json.decode(record.payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("foreign", f"the payload of this {kind} cannot be read: {error}") from None
    return Record(timestamp=record.timestamp, type=record.type, payload=payload, ordinal=record.ordinal)


def kind_of(record: Record[Raw]) -> str:
    """`type`, `type.tag`, or `type.tag.item_tag` of a record with a raw payload."""
    if record.type not in TAGGED_TYPES:
        return record.type
    try:
        tag = _TAG.decode(record.payload)
    except msgspec.ValidationError:
        return record.type
    kind = _tagged(record.type, tag.type)
    if kind != ITEM_COMPLETED or not bytes(tag.item):
        return kind
    try:
        return _completed(_ITEM_TAG.decode(tag.item).type)
    except msgspec.ValidationError:
        return kind


def kind_of_values(type_: str, payload: Mapping[str, Any]) -> str | None:
    """The same of a payload that is not encoded yet; None where only the encoded form tells (of an enum, say)."""
    if type_ not in TAGGED_TYPES:
        return type_
    tag = payload.get("type")
    if type(tag) is not str:
        return None
    kind = f"{type_}.{tag}"
    kind = _ALIASED.get(kind, kind)
    if kind != ITEM_COMPLETED:
        return kind
    item = payload.get("item")
    item_tag = item.get("type") if type(item) is dict else None
    return _completed(item_tag) if type(item_tag) is str else None


def kind_of_plain(type_: str, payload: Mapping[str, Any]) -> str:
    """The same of a payload that was decoded, where a value is of JSON's own types."""
    kind = kind_of_values(type_, payload)
    if kind is not None:
        return kind
    return ITEM_COMPLETED if isinstance(payload.get("type"), str) else type_


def _tagged(type_: str, tag: str | None) -> str:
    if tag is None:
        return type_
    kind = f"{type_}.{tag}"
    return _ALIASED.get(kind, kind)


def _completed(item_tag: str | None) -> str:
    return ITEM_COMPLETED if item_tag is None else f"{ITEM_COMPLETED}.{item_tag}"


def time_ms(text: str | None) -> int | None:
    """Unix milliseconds of an RFC 3339 time, or of the `YYYY-MM-DDThh-mm-ss` of file names (read as UTC)."""
    if not text:
        return None
    if len(text) == 19 and text[13] == "-" and text[16] == "-":
        text = f"{text[:13]}:{text[14:16]}:{text[17:]}"
    try:
        when = datetime.fromisoformat(text)
        # Whole numbers throughout: a float of seconds cannot hold every millisecond.
        since = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)) - _EPOCH
        return since.days * _DAY_MS + since.seconds * 1000 + since.microseconds // 1000
    except (ValueError, OverflowError):
        return None


def is_utf8(data: memoryview) -> bool:
    """Whether these bytes are UTF-8, looked at in pieces, since decoded text may be four times as large."""
    try:
        if len(data) <= _CHECK_BYTES:
            str(data, "utf-8")
            return True
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(data), _CHECK_BYTES):
            decoder.decode(data[start : start + _CHECK_BYTES], final=start + _CHECK_BYTES >= len(data))
    except UnicodeDecodeError:
        return False
    return True


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
    """The decoder passes over fields without looking whether they are UTF-8, so that is done first."""
    if not line.isascii() and not is_utf8(memoryview(line)):
        raise Rejected("not UTF-8", "the line is not UTF-8")


def _rejected(line: bytes, error: Exception) -> Rejected:
    if isinstance(error, msgspec.ValidationError):
        return Rejected("foreign", f"the line is JSON and no record: {error}")
    if isinstance(error, RecursionError):
        return Rejected("too deep", "the values are nested too deep to be read")
    look, reason = _look_of(line)
    return Rejected(
        look, reason or f"{'the record is cut or broken' if look == 'torn' else 'the line is not JSON'}: {error}"
    )


def _look_of(line: bytes) -> tuple[str, str | None]:
    """What bytes that are not JSON look like."""
    if not line.strip(b"\0 \r\t"):
        return "NUL", "the line is NUL bytes"
    if is_glued(line):
        return "glued", "whole records follow each other without a newline between them"
    if line.rstrip().endswith(b"}") and _SURROGATE.search(line):
        return "surrogate", "a string holds half of a surrogate pair"
    return ("torn" if line.startswith(b'{"timestamp":"') else "garbage"), None


def _decode_leniently(line: bytes, kind: str) -> Record[Any]:
    record = decode(line)
    try:
        payload = _struct_of(TYPED[kind], record.payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Rejected("foreign", f"the payload cannot be read: {error}") from None
    return Record(timestamp=record.timestamp, type=record.type, payload=payload, ordinal=record.ordinal)


def _struct_of(wanted: type[Struct], raw: Raw) -> Struct:
    """The struct of an object of which some fields are not what they should be: those are as if they were not there."""
    fields = msgspec.json.decode(raw, type=dict[str, Raw])
    kept: dict[str, Any] = {}
    for field in msgspec.structs.fields(wanted):
        try:
            kept[field.name] = _value_of(field.type, fields[field.encode_name])
        except (KeyError, Rejected, msgspec.DecodeError):
            if field.required:
                message = f"the field {field.encode_name} is missing or of the wrong type"
                raise Rejected("foreign", message) from None
    return wanted(**kept)


def _value_of(wanted: Any, raw: Raw) -> Any:
    try:
        return msgspec.json.decode(raw, type=wanted)
    except msgspec.ValidationError:
        for choice in get_args(wanted) if isinstance(wanted, UnionType) else (wanted,):
            if get_origin(choice) is list:
                return _items_of(get_args(choice)[0], raw)
            if isinstance(choice, type) and issubclass(choice, Struct):
                return _struct_of(choice, raw)
        raise


def _items_of(wanted: Any, raw: Raw) -> list[Any]:
    """What can be read of a list."""
    found: list[Any] = []
    for item in msgspec.json.decode(raw, type=list[Raw]):
        try:
            found.append(_value_of(wanted, item))
        except (Rejected, msgspec.DecodeError):
            continue
    return found
