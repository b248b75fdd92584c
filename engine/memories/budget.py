"""Fitting a conversation into a number of tokens, as valid JSON, its beginning and its end kept.

How many tokens a text takes is the application's to know (`Counter`); `estimate_tokens` stands in for it and rather counts
too many: text that is no plain Latin prose costs a model more than four bytes a token suggest. First long texts lose
their middle, tools' output sooner than what was said; then whole items in the middle give way to one line that says so.

Source: codex_memories.md 2.6, 8 K22.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

Counter = Callable[[str], int]
"""How many tokens a text takes."""

_TOOL_TOKENS_MAX = 2_000
_ITEM_TOKENS_MAX = 10_000
_TIGHTER = 0.8
_TRIES_MAX = 24
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output", "tool_search_output"})
_LETTERS = bytes(byte for byte in range(128) if chr(byte).isalpha() or chr(byte) in " \n")


class Fitted(NamedTuple):
    """A JSON array, and how many items are not in it."""

    text: str
    left_out: int


def estimate_tokens(text: str) -> int:
    """At least what common tokenizers need: a quarter of Latin letters, half of other ASCII, every other character."""
    ascii_ = text.encode("ascii", "ignore")
    others = len(ascii_.translate(None, _LETTERS))
    return (len(ascii_) - others + 3) // 4 + (others + 1) // 2 + len(text) - len(ascii_)


class Gathered(NamedTuple):
    """A conversation as far as it may matter: its beginning and its end, and how many items between them are not there."""

    head: list[dict[str, Any]]
    tail: list[dict[str, Any]]
    left_out: int

    @property
    def items(self) -> list[Any]:
        """All of it, with a line in the place of what is not there."""
        return [*self.head, *([gap(self.left_out)] if self.left_out else []), *self.tail]


def gather(items: Iterable[dict[str, Any]], bytes_max: int) -> Gathered:
    """The first and the last items of a conversation of any length, of about so many bytes; texts that are longer are cut."""
    head: list[dict[str, Any]] = []
    tail: deque[tuple[int, dict[str, Any]]] = deque()
    sizes = [0, 0]
    left_out = 0
    for each in items:
        item = cut_chars(each, bytes_max // 4)
        size = len(encoded(item))
        if not tail and sizes[0] + size <= bytes_max // 2:
            head.append(item)
            sizes[0] += size
            continue
        tail.append((size, item))
        sizes[1] += size
        while len(tail) > 1 and sizes[1] > bytes_max // 2:
            sizes[1] -= tail.popleft()[0]
            left_out += 1
    return Gathered(head, [item for _, item in tail], left_out)


def cut_chars(value: Any, chars_max: int) -> Any:
    """A value whose longer texts have lost their middle."""
    if isinstance(value, str) and len(value) > chars_max:
        half = chars_max // 2
        return f"{value[:half]}…{len(value) - 2 * half} chars truncated…{value[len(value) - half :]}"
    if isinstance(value, list):
        return [cut_chars(each, chars_max) for each in value]
    if isinstance(value, dict):
        return {key: cut_chars(each, chars_max) for key, each in value.items()}
    return value


def fit(items: Sequence[Any], tokens_max: int, count: Counter = estimate_tokens) -> Fitted:
    """The items as one compact JSON array that takes at most `tokens_max` tokens; at least an empty one."""
    whole = _array([encoded(item) for item in items])
    if count(whole) <= tokens_max:
        return Fitted(whole, 0)
    room = float(tokens_max)
    for _ in range(_TRIES_MAX):
        fitted = _fit(items, int(room), count)
        if count(fitted.text) <= tokens_max:
            return fitted
        room *= _TIGHTER
    return Fitted("[]", len(items))


def _fit(items: Sequence[Any], room: int, count: Counter) -> Fitted:
    texts = [encoded(_shortened(item, max(room // 4, 1), count)) for item in items]
    sizes = [count(text) + 1 for text in texts]
    if sum(sizes) <= room:
        return Fitted(_array(texts), 0)
    first = last = used = 0
    while first < len(texts) and used + sizes[first] <= room // 2:
        used += sizes[first]
        first += 1
    while last < len(texts) - first and used + sizes[-1 - last] <= room:
        used += sizes[-1 - last]
        last += 1
    left_out = len(texts) - first - last
    return Fitted(_array([*texts[:first], encoded(gap(left_out)), *(texts[-last:] if last else [])]), left_out)


def gap(count: int) -> str:
    """What stands in the place of so many items."""
    return f"… {count} items left out …"


def _shortened(item: Any, tokens_max: int, count: Counter) -> Any:
    if not isinstance(item, dict):
        return item
    limit = min(_TOOL_TOKENS_MAX if item.get("type") in _OUTPUTS else _ITEM_TOKENS_MAX, tokens_max)
    if count(encoded(item)) <= limit:
        return item
    return cut_texts(item, limit, count)


def cut_texts(value: Any, tokens_max: int, count: Counter) -> Any:
    """Every text in a value with at most so many tokens."""
    if isinstance(value, str):
        return cut_middle(value, tokens_max, count)
    if isinstance(value, list):
        return [cut_texts(each, tokens_max, count) for each in value]
    if isinstance(value, dict):
        return {key: cut_texts(each, tokens_max, count) for key, each in value.items()}
    return value


def cut_middle(text: str, tokens_max: int, count: Counter = estimate_tokens) -> str:
    """The beginning and the end of a text of more tokens than these, and between them how much is not there."""
    tokens = count(text)
    if tokens <= tokens_max:
        return text
    kept = max(len(text) * tokens_max // max(tokens, 1), 2)
    left, right = kept // 2, kept - kept // 2
    return f"{text[:left]}…{tokens - tokens_max} tokens truncated…{text[len(text) - right :]}"


def encoded(value: Any) -> str:
    """As compact JSON."""
    return msgspec.json.encode(value).decode()


def _array(texts: Sequence[str]) -> str:
    return f"[{','.join(texts)}]"
