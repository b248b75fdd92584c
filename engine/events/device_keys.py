"""What a device key signs, and how its id is read: pure rules (codex_rollout.md 9).

A key's id tells how the key is kept. What is signed is one of two payloads, of which every field is checked; what is not
known is refused, since a signature says yes to all of it. Names of fields are those of the JSON that clients send.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import orjson

from engine.errors import DeviceKeyInvalid, DevicePayloadInvalid, InvalidRequest

Protection = Literal["hardware_secure_enclave", "hardware_tpm", "os_protected_nonextractable", "software"]
Policy = Literal["hardware_only", "allow_os_protected_nonextractable", "allow_software"]

HARDWARE_ONLY: Policy = "hardware_only"
ALLOW_OS_PROTECTED: Policy = "allow_os_protected_nonextractable"
ALLOW_SOFTWARE: Policy = "allow_software"
POLICIES: tuple[Policy, ...] = get_args(Policy)

PREFIXES: Mapping[str, Protection] = {
    "dk_hse_": "hardware_secure_enclave",
    "dk_tpm_": "hardware_tpm",
    "dk_osn_": "os_protected_nonextractable",
    "dk_sfw_": "software",
}
"""How a key is kept, by the beginning of its id. The last is the engine's own: a file can be copied, and its id says so."""

_HARDWARE: frozenset[Protection] = frozenset({"hardware_secure_enclave", "hardware_tpm"})
_ALLOWED: Mapping[Policy, frozenset[Protection]] = {
    HARDWARE_ONLY: _HARDWARE,
    ALLOW_OS_PROTECTED: _HARDWARE | {"os_protected_nonextractable"},
    ALLOW_SOFTWARE: frozenset(get_args(Protection)),
}

ID_BYTES = 32
DOMAIN = "codex-device-key-sign-payload/v1"
NONCE_BYTES_MIN = 32
DIGEST_BYTES = 32
EXPIRY_S_MAX = 15 * 60
SCOPES = ["remote_control_controller_websocket"]

CONNECTION = "remoteControlClientConnection"
ENROLLMENT = "remoteControlClientEnrollment"


class Target(NamedTuple):
    """Where a signature may be used: an origin (`https://example.com`) and a path on it (`/remote/control/client`)."""

    origin: str
    path: str


class _Form(NamedTuple):
    """The fields of a payload: texts that must not be empty, the digest, the time it lapses, whether it must have scopes."""

    texts: tuple[str, ...]
    digest: str
    expires_at: str
    has_scopes: bool


_COMMON = ("accountUserId", "clientId", "targetOrigin", "targetPath", "audience")

_FORMS = {
    CONNECTION: _Form((*_COMMON, "sessionId"), "tokenSha256Base64url", "tokenExpiresAt", has_scopes=True),
    ENROLLMENT: _Form(
        (*_COMMON, "challengeId"), "deviceIdentitySha256Base64url", "challengeExpiresAt", has_scopes=False
    ),
}

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")


def is_key_id(text: object) -> bool:
    """Whether a value is the id of a device key."""
    if not isinstance(text, str):
        return False
    return any(text.startswith(prefix) for prefix in PREFIXES) and len(from_base64url(text[7:]) or b"") == ID_BYTES


def check_key_id(text: object) -> None:
    """Raises `DeviceKeyInvalid` for what is no id of a device key."""
    if not is_key_id(text):
        raise DeviceKeyInvalid(
            f"{str(text)[:80]!r} is not the id of a device key.",
            hint=f"An id is one of {', '.join(PREFIXES)} and 43 characters of base64url.",
        )


def protection_of(key_id: str) -> Protection:
    """How the key of a well-formed id is kept."""
    return PREFIXES[key_id[:7]]


def check_policy(policy: Policy) -> None:
    """Raises `InvalidRequest` for a policy that is not known."""
    if policy not in POLICIES:
        raise InvalidRequest(f"There is no policy {policy!r}.", hint=f"Use one of {', '.join(POLICIES)}.")


def is_allowed(policy: Policy, protection: Protection) -> bool:
    """Whether a policy allows keys that are kept so."""
    return protection in _ALLOWED[policy]


def check_payload(payload: Mapping[str, Any], targets: frozenset[Target], now_ms: int) -> None:
    """Raises `DevicePayloadInvalid`, which names the first field that is not right."""
    form = _FORMS.get(str(payload.get("type")))
    if form is None:
        raise _invalid("type", f"is not {CONNECTION} or {ENROLLMENT}")
    known = {"type", "nonce", "scopes", form.digest, form.expires_at, *form.texts}
    for name in payload:
        if name not in known:
            raise _invalid(str(name)[:80], "is not known, and a signature would vouch for it")
    for name in form.texts:
        if not _is_text(payload.get(name)):
            raise _invalid(name, "is not a printable text, or is empty")
    if Target(payload["targetOrigin"], payload["targetPath"]) not in targets:
        raise _invalid("targetOrigin", "with this targetPath is not among the places that signatures are for")
    if len(_decoded(payload.get("nonce"))) < NONCE_BYTES_MIN:
        raise _invalid("nonce", f"is not base64url of {NONCE_BYTES_MIN} bytes or more")
    if len(_decoded(payload.get(form.digest))) != DIGEST_BYTES:
        raise _invalid(form.digest, "is not base64url of a SHA-256 digest")
    if (form.has_scopes or "scopes" in payload) and payload.get("scopes") != SCOPES:
        raise _invalid("scopes", f"is not {SCOPES}")
    _check_expiry(form.expires_at, payload.get(form.expires_at), now_ms)


def message_of(payload: Mapping[str, Any]) -> bytes:
    """The bytes that are signed: canonical JSON, in which the domain keeps the signature from meaning anything else."""
    return orjson.dumps({"domain": DOMAIN, "payload": dict(payload)}, option=orjson.OPT_SORT_KEYS)


def to_base64url(data: bytes) -> str:
    """Base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes | None:
    """The bytes of unpadded base64 for URLs; None where it is none, or has bits that no byte is made of."""
    if not _BASE64URL.match(text):
        return None
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return None
    return data if to_base64url(data) == text else None


def _check_expiry(name: str, expires_at_s: object, now_ms: int) -> None:
    if not isinstance(expires_at_s, int) or isinstance(expires_at_s, bool):
        raise _invalid(name, "is not a whole number of seconds")
    if expires_at_s * 1000 <= now_ms:
        raise _invalid(name, "is over")
    if expires_at_s * 1000 > now_ms + EXPIRY_S_MAX * 1000:
        raise _invalid(name, f"is more than {EXPIRY_S_MAX // 60} minutes ahead")


def _decoded(value: object) -> bytes:
    return (from_base64url(value) or b"") if isinstance(value, str) else b""


def _is_text(value: object) -> bool:
    """Not blank, and nothing in it that could not be shown: what is signed must be what others read."""
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _invalid(name: str, why: str) -> DevicePayloadInvalid:
    return DevicePayloadInvalid(
        f"The payload's {name} {why}.", hint="Nothing was signed; send a payload that is right."
    )
