"""The words of a text, as the search index has them: where each one stands, and how it is spelt there.

SQLite's own tokenizer (unicode61) splits and folds, so that what is found here is what its index holds: letters and digits
make words, case and accents do not count. It knows no words in scripts that are written without spaces and takes signs and
emoji for spaces; so `folded` sets each such character apart, as a word of its own, before a text is given to it. A run of
them in a query is then a phrase, and is found wherever it stands.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple, Self

TOKENIZER = ("unicode61", "remove_diacritics", "2")
"""As the migration of the index names it."""

_ALONE = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff"  # Japanese syllables
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
    "\uac00-\ud7af"  # Korean syllables
    "\u2600-\u27bf\U0001f000-\U0001faff"  # signs and emoji
    "]"
)
_SIGNS = range(0x2600, 0x27C0)
_EMOJI = range(0x1F000, 0x1FB00)
_SIGNS_PRIVATE = 0xE000
_EMOJI_PRIVATE = 0xF0000
"""Signs are words only by another number: one for private use, of as many bytes in UTF-8."""


class Word(NamedTuple):
    """A word: its bytes in the text's UTF-8, and how the index spells it."""

    start: int
    end: int
    word: str


def folded(text: str) -> str:
    """The text as it is given to the index, and to its queries."""
    return text if text.isascii() else _ALONE.sub(_apart, text)


class Words:
    """Takes texts apart. Used by one thread at a time."""

    def __init__(self) -> None:
        import apsw  # noqa: PLC0415 - a worker process folds texts without it

        self._for_text = apsw.FTS5_TOKENIZE_DOCUMENT
        self._connection = apsw.Connection(":memory:")
        self._tokenizer = self._connection.fts5_tokenizer(TOKENIZER[0], list(TOKENIZER[1:]))

    def of(self, text: str) -> list[Word]:
        """The words of a text, in order."""
        data = folded(text).encode("utf-8", "replace")
        found = self._tokenizer(data, self._for_text, None, include_colocated=False)
        words = [Word(*each) for each in found]
        if text.isascii():
            return words
        # Two spaces were put around each character that stands alone: places in the text have none of them before.
        added = _added(text)
        return [Word(_place(added, each.start), _place(added, each.end), each.word) for each in words]

    def close(self) -> None:
        """Give back what it holds."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _apart(found: re.Match[str]) -> str:
    character = found[0]
    number = ord(character)
    if number in _SIGNS:
        character = chr(_SIGNS_PRIVATE + number - _SIGNS.start)
    elif number in _EMOJI:
        character = chr(_EMOJI_PRIVATE + number - _EMOJI.start)
    return f" {character} "


def _added(text: str) -> list[int]:
    """Where, in the folded text's bytes, the spaces are that the text does not have."""
    places, at, before = [], 0, 0
    for found in _ALONE.finditer(text):
        before += len(text[at : found.start()].encode("utf-8", "replace"))
        width = len(found[0].encode())
        places += [before, before + 1 + width]
        before += width + 2
        at = found.end()
    return places


def _place(added: list[int], at: int) -> int:
    return at - bisect_right(added, at - 1)
