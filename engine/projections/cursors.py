"""Cursors of pages: opaque text that carries a place in a list, and nothing that has to be kept anywhere."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

import msgspec
from msgspec import Struct

from engine.errors import InvalidCursor

C = TypeVar("C", bound=Struct)


def encode_cursor(cursor: Struct) -> str:
    """The text of a place."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def decode_cursor(text: str, cursor: type[C]) -> C:
    """The place that a text stands for. Raises `InvalidCursor`."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(data, type=cursor)
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        raise InvalidCursor(
            f"{text!r} is not a cursor.", hint="Use next_cursor or backwards_cursor of a page."
        ) from None
