"""Redaction of what goes to a model and of what comes back.

An item of a conversation is redacted text by text, as decoded values, so it stays the JSON that it was: redacting encoded
JSON can take the backslash before a quote and leave something that no reader can decode.
"""

from __future__ import annotations

from typing import Any

from engine.events.secrets import REDACTED, redact

__all__ = ["REDACTED", "redact", "redact_values"]

_SECRET_KEYS = ("apikey", "api_key", "api-key", "token", "secret", "password", "passwd", "passphrase", "credential")
_VALUE_MIN = 8
_DEEP_MAX = 64


def redact_values(value: Any, *, deep: int = 0) -> Any:
    """A decoded JSON value with every text in it redacted; what a key calls secret is one, whatever it looks like."""
    if isinstance(value, str):
        return redact(value)
    if deep > _DEEP_MAX:
        return REDACTED
    if isinstance(value, list):
        return [redact_values(each, deep=deep + 1) for each in value]
    if isinstance(value, dict):
        return {
            redact(key): REDACTED if _is_secret(key, each) else redact_values(each, deep=deep + 1)
            for key, each in value.items()
        }
    return value


def _is_secret(key: str, value: Any) -> bool:
    return isinstance(value, str) and len(value) >= _VALUE_MIN and key.lower().endswith(_SECRET_KEYS)
