"""What somebody typed to search for, as the index takes it.

Words that stand apart are all to be there, in any order; words in double quotes stand next to each other; a word, or the last
of a phrase, with a `*` behind it is the beginning of a word. Nothing else has a meaning: every other sign parts words, as it
does in the texts. So there is no query that is wrong, but one without a single word, or of more than there is room for.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from engine.errors import InvalidRequest
from engine.stores.words import Words, folded

QUERY_CHARS_MAX = 1_000
PHRASES_MAX = 32

_PIECE = re.compile(r'"(?P<phrase>[^"]*)"?(?P<star>\*?)|(?P<bare>[^\s"]+)')


class Phrase(NamedTuple):
    """Words next to each other, as the index spells them; with `prefix` the last one is the beginning of a word."""

    words: tuple[str, ...]
    prefix: bool


class Sought(NamedTuple):
    """What is sought: the phrases, and the same in the language of FTS5."""

    phrases: tuple[Phrase, ...]
    match: str


def sought(query: str, words: Words) -> Sought:
    """Raises `InvalidRequest` where there is nothing to search for, or too much."""
    if len(query) > QUERY_CHARS_MAX:
        raise InvalidRequest(
            f"The query has {len(query):,} characters; {QUERY_CHARS_MAX:,} are the most.",
            hint="Search for fewer words.",
        )
    phrases: dict[Phrase, str] = {}
    for found in _PIECE.finditer(query.encode("utf-8", "replace").decode().replace("\0", " ")):
        bare = found["bare"]
        piece = found["phrase"] if bare is None else bare.rstrip("*")
        prefix = bool(found["star"]) if bare is None else bare.endswith("*")
        spelt = tuple(each.word for each in words.of(piece))
        if spelt:
            phrases[Phrase(spelt, prefix)] = f'"{folded(piece)}"{" *" if prefix else ""}'
    if not phrases:
        raise InvalidRequest(
            "There is no word to search for.",
            hint='Give words, "a phrase" in quotes, or the beginning of a word and a *.',
        )
    if len(phrases) > PHRASES_MAX:
        raise InvalidRequest(
            f"There are {len(phrases)} words and phrases; {PHRASES_MAX} are the most.", hint="Search for fewer words."
        )
    return Sought(tuple(phrases), " ".join(phrases.values()))
