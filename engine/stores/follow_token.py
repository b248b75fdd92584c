"""A follower's token: where it was in each stream, as text that may be kept anywhere and given back at any time.

Opaque to everybody else: base64url of a version, the threads that are followed, a place for each stream, and a check sum. A
stream is named by its ids, never by its path, so a token outlives moves, compression and renames.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from xxhash import xxh3_64_digest

from engine.errors import InvalidToken
from engine.stores.followed import FollowedStream

_VERSION = 1
_CHECK_BYTES = 4


_Count = Annotated[int, Meta(ge=0)]


class _Place(Struct, array_like=True):
    key: bytes
    base: _Count
    length: _Count
    """How much was given from `base` on."""
    digest: bytes
    proven_ns: int


class Token(Struct, array_like=True):
    """What a token says. `threads` None means all; `decisions` whether the journal is followed too."""

    version: int
    threads: list[str] | None
    decisions: bool
    places: list[_Place]

    def streams(self) -> dict[bytes, FollowedStream]:
        """The streams, by their keys."""
        return {
            each.key: FollowedStream.resumed(each.base, each.base + each.length, each.digest, each.proven_ns)
            for each in self.places
        }


def encode_token(threads: Iterable[str] | None, streams: Mapping[bytes, FollowedStream], *, decisions: bool) -> str:
    """The token of a follower that is there in these streams."""
    places = [
        _Place(key, each.base, each.offset - each.base, each.digest, each.proven_ns) for key, each in streams.items()
    ]
    token = Token(_VERSION, None if threads is None else sorted(threads), decisions, places)
    data = msgspec.msgpack.encode(token)
    return base64.urlsafe_b64encode(data + xxh3_64_digest(data)[:_CHECK_BYTES]).decode().rstrip("=")


def decode_token(text: str) -> Token:
    """What a token says. Raises `InvalidToken`."""
    try:
        data = base64.b64decode(text.strip() + "=" * (-len(text.strip()) % 4), altchars=b"-_", validate=True)
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if xxh3_64_digest(body)[:_CHECK_BYTES] != check:
            raise _invalid("it was cut or altered")
        token = msgspec.msgpack.decode(body, type=Token)
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        raise _invalid("it was cut or altered, or is no token") from None
    if token.version != _VERSION:
        raise _invalid("it is of another release")
    return token


def _invalid(why: str) -> InvalidToken:
    return InvalidToken(
        f"The token cannot be used: {why}.",
        hint="Give a follower's token whole, or start from `now` or the `beginning`.",
    )
