"""Secrets in a text, by their looks: what is taken for one is replaced by `[REDACTED_SECRET]`.

Best effort and pure. It knows values by their form (keys of well-known services, bearer tokens, private key blocks, URLs
with a password) and by the name that stands before them (`OPENAI_API_KEY=…`, `"password": "…"`), plain or escaped once as
JSON is inside of JSON. It rather takes too much: what a name promises to be secret is replaced whatever it says. The name,
the separator and the quotes stay, an escape is never cut in two, and doing it twice changes nothing more.

Every pattern is anchored by a literal and decides each character once, so the time is that of the text's length.

Source: codex_memories.md 2.7, and 8 K20, K21 for what the Codex CLI's own redaction misses or breaks.
"""

from __future__ import annotations

import re

REDACTED = "[REDACTED_SECRET]"

_FORMS = (
    r"sk-[A-Za-z0-9]{20,}",  # OpenAI, first form
    r"sk-(?:proj|svcacct|admin|ant|or|lf)-[A-Za-z0-9_-]{16,}",  # keys of projects and services, Anthropic, OpenRouter
    r"[srp]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"gh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"glpat-[A-Za-z0-9_-]{20,}",  # GitLab
    r"xox[abeprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"npm_[A-Za-z0-9]{30,}",
    r"hf_[A-Za-z0-9]{30,}",
    r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",  # a JSON web token
    r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])",  # AWS
)
_KNOWN = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_FORMS)})")

_BEARER = re.compile(r"(?<![A-Za-z0-9_])bearer[ \t]+[A-Za-z0-9._~+/-]{16,}=*", re.IGNORECASE)
_BASIC = re.compile(
    r"(?<![A-Za-z0-9_])(authorization\\?[\"']?[ \t]{0,8}[:=][ \t]{0,8}\\?[\"']?basic)[ \t]+[A-Za-z0-9+/]{8,}=*",
    re.IGNORECASE,
)

_URL = re.compile(r"(?<![A-Za-z0-9])(https?://)[^\s/@\"'<>\\]+@|(://)[^\s/@:\"'<>\\]*:[^\s/@\"'<>\\]+@", re.IGNORECASE)
"""Somebody with a password, or for HTTP somebody alone, who may be a token."""

_NAMES = (
    r"(?:api|access|secret|private|signing|encryption)[_-]?key(?:[_-]?id)?|auth[_-]?key|token|secret|passw(?:or)?d"
    r"|passphrase|credentials?"
)
_SAID = r"(?:[^\s\"'\\]|\\(?![nrt\"'\\/u]))"
"""A character of a value without quotes. A backslash that escapes something ends it, so nothing is cut in two."""
_ASSIGNED = re.compile(
    rf"((?:{_NAMES})\\?[\"']?[ \t]{{0,8}}(?:=>|:=|[:=])[ \t]{{0,8}})"
    r"(?:\\\"[^\"\\\n]{8,}(?=\\\")|\"(?:[^\"\\\n]|\\.){8,}(?=\")|'(?:[^'\\\n]|\\.){8,}(?=')"
    rf"|\\?[\"']?{_SAID}{{8,}})",
    re.IGNORECASE,
)
_COOKIE = re.compile(
    r"(?<![A-Za-z0-9_])((?:set-)?cookie\\?[\"']?[ \t]{0,8}[:=][ \t]{0,8}\\?[\"']?)[^\r\n\"'\\]{8,}", re.IGNORECASE
)
_QUOTE = re.compile(r"\\?[\"']?")

_BLOCK_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_BLOCK_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")


def redact(text: str) -> str:
    """The text without what looks like a secret."""
    text = _without_blocks(text)
    text = _URL.sub(lambda found: f"{found[1] or found[2]}{REDACTED}@", text)
    text = _BEARER.sub(f"Bearer {REDACTED}", text)
    text = _BASIC.sub(rf"\1 {REDACTED}", text)
    text = _KNOWN.sub(REDACTED, text)
    text = _COOKIE.sub(rf"\1{REDACTED}", text)
    return _ASSIGNED.sub(_assigned, text)


def _assigned(found: re.Match[str]) -> str:
    """Name, separator and quote stay; the closing quote was not taken."""
    value = found[0][len(found[1]) :]
    quote = _QUOTE.match(value)
    return f"{found[1]}{quote[0] if quote else ''}{REDACTED}"


def _without_blocks(text: str) -> str:
    """Without private keys; one that is cut off goes to the end of the text."""
    parts: list[str] = []
    at = 0
    while (begin := _BLOCK_BEGIN.search(text, at)) is not None:
        parts += [text[at : begin.start()], REDACTED]
        end = _BLOCK_END.search(text, begin.end())
        if end is None:
            return "".join(parts)
        at = end.end()
    return "".join([*parts, text[at:]]) if parts else text
