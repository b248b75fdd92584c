"""What a model may be given to look at memories by itself: add a note, list, read, search.

Each tool is a name, a schema and a function from arguments to an answer, so that it fits any model's API. They read the
folder of memories and nothing else: a path is relative, no component of it is a link, and a name that begins with a dot is
not there. Answers are bounded; where there is more, `next_cursor` says how to go on.

Source: codex_memories.md 1.9, 5 ("Read tools").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from engine.errors import InvalidRequest
from engine.memories.budget import cut_middle
from engine.stores.files import Files

LISTED_MAX = 2_000
FOUND_MAX = 200
READ_TOKENS_MAX = 20_000
_FILE_BYTES_MAX = 4 * 1024 * 1024
_DEEP_MAX = 32
_LINE_CHARS_MAX = 2_000

Mode = Literal["any", "all_on_same_line", "all_within_lines"]


class AddNote(Struct, forbid_unknown_fields=True):
    """Write down what the person asked to remember, to change or to forget, for the next consolidation."""

    file_name: Annotated[str, Meta(description="YYYY-MM-DDTHH-MM-SS-words-with-dashes.md")]
    text: Annotated[str, Meta(description="The note, word for word.")]


class ListFiles(Struct, forbid_unknown_fields=True):
    """List the files below a folder of the memories."""

    path: Annotated[str, Meta(description="A folder below the memories; empty for all.")] = ""
    cursor: Annotated[int, Meta(ge=0, description="next_cursor of the answer before.")] = 0
    results_max: Annotated[int, Meta(ge=1, le=LISTED_MAX)] = LISTED_MAX


class ReadFile(Struct, forbid_unknown_fields=True):
    """Read lines of one file of the memories."""

    path: str
    first_line: Annotated[int, Meta(ge=1)] = 1
    lines_max: Annotated[int, Meta(ge=1)] = 2_000
    tokens_max: Annotated[int, Meta(ge=1, le=READ_TOKENS_MAX)] = READ_TOKENS_MAX


class Search(Struct, forbid_unknown_fields=True):
    """Find lines of the memories that hold some texts: any of them, all on one line, or all within some lines."""

    queries: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
    mode: Mode = "any"
    within_lines: Annotated[int, Meta(ge=1, description="For all_within_lines.")] = 5
    case_sensitive: bool = True
    normalized: Annotated[bool, Meta(description="Compare letters and digits alone.")] = False
    path: Annotated[str, Meta(description="A file or folder below the memories; empty for all.")] = ""
    cursor: Annotated[int, Meta(ge=0)] = 0
    results_max: Annotated[int, Meta(ge=1, le=FOUND_MAX)] = FOUND_MAX


class Tool(NamedTuple):
    """One tool. `call` takes the arguments as a mapping or as JSON text; raises `InvalidRequest` for what it does not know."""

    namespace: str
    name: str
    description: str
    schema: dict[str, Any]
    call: Callable[[Mapping[str, Any] | str], dict[str, Any]]


class Reading:
    """The folder of memories as these tools see it."""

    def __init__(self, root: str, files: Files, add_note: Callable[[str, str], str]) -> None:
        self._root = root
        self._files = files
        self._add_note = add_note

    def tools(self) -> tuple[Tool, ...]:
        """All of them, the note first."""
        return (
            _tool("add_ad_hoc_note", AddNote, self.add_note),
            _tool("list", ListFiles, self.list_files),
            _tool("read", ReadFile, self.read),
            _tool("search", Search, self.search),
        )

    def add_note(self, asked: AddNote) -> dict[str, Any]:
        """Writing a note consolidates nothing; the next consolidation is told."""
        return {"path": self._add_note(asked.file_name, asked.text)}

    def list_files(self, asked: ListFiles) -> dict[str, Any]:
        """Paths and sizes, by path."""
        found = [{"path": path, "bytes": size} for path, size in self._below(asked.path)]
        return {"files": found[asked.cursor :][: asked.results_max], "next_cursor": _next(found, asked)}

    def read(self, asked: ReadFile) -> dict[str, Any]:
        """Some lines, the middle of them cut where they are too many tokens."""
        where = resolve(self._root, asked.path, self._files)
        text = (
            None if where is None or self._files.kind(where, op="memories.tools") != "file" else self._text(asked.path)
        )
        if text is None:
            raise _not_found(asked.path)
        lines = text.splitlines()
        shown = lines[asked.first_line - 1 :][: asked.lines_max]
        cut = cut_middle("\n".join(shown), asked.tokens_max)
        return {"path": asked.path, "text": cut, "first_line": asked.first_line, "lines": len(lines)}

    def search(self, asked: Search) -> dict[str, Any]:
        """Matches by path and line, each with the lines that it spans."""
        found: list[dict[str, Any]] = []
        for path, _ in self._below(asked.path):
            text = self._text(path)
            if text is None:
                continue
            lines = text.splitlines()
            for first, last in _spans(lines, asked):
                shown = "\n".join(line[:_LINE_CHARS_MAX] for line in lines[first : last + 1])
                found.append({"path": path, "first_line": first + 1, "last_line": last + 1, "text": shown})
            if len(found) > asked.cursor + asked.results_max:
                break  # enough for this page, and to know that there is another
        return {"matches": found[asked.cursor :][: asked.results_max], "next_cursor": _next(found, asked)}

    def _below(self, path: str) -> list[tuple[str, int]]:
        """The files at or below a path, by path. Raises `InvalidRequest` where it is none, or is not there."""
        where = resolve(self._root, path, self._files)
        if where is None:
            if path:
                raise _not_found(path)
            return []
        stat = self._files.stat(where, op="memories.tools")
        if stat is not None:
            return [(path, stat.size)]
        return sorted(self._walk(where, f"{path}/" if path else "", 0))

    def _walk(self, folder: str, above: str, deep: int) -> Iterator[tuple[str, int]]:
        for entry in self._files.scan(folder, op="memories.tools"):
            if entry.name.startswith(".") or not entry.name.isprintable():
                continue
            if entry.stat is not None:
                yield f"{above}{entry.name}", entry.stat.size
            elif entry.kind == "folder" and deep < _DEEP_MAX:
                yield from self._walk(f"{folder}/{entry.name}", f"{above}{entry.name}/", deep + 1)

    def _text(self, path: str) -> str | None:
        """A file's text; None for what is too large, no UTF-8, or gone."""
        data = self._files.read_all(f"{self._root}/{path}", bytes_max=_FILE_BYTES_MAX + 1, op="memories.tools")
        if data is None or len(data) > _FILE_BYTES_MAX:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return None


def resolve(root: str, path: str, files: Files) -> str | None:
    """Where a file or folder of the memories is; None where it is not there, is a link or behind one, or has a dot before it.

    Raises `InvalidRequest` for a path that leads out of the folder. The empty path is the folder itself.
    """
    names = path.split("/") if path else []
    if any(not name or name == ".." for name in names) or any(char in path for char in "\\\0"):
        raise InvalidRequest(f"{path!r} is no path of a memory.", hint="Give one below the folder, like MEMORY.md.")
    where = root
    kind = files.kind(where, op="memories.read")
    for name in names:
        if kind != "folder" or name.startswith("."):
            return None
        where = f"{where}/{name}"
        kind = files.kind(where, op="memories.read")
    return where if kind in ("folder", "file") else None


def _tool(name: str, asked: type[Struct], call: Callable[[Any], dict[str, Any]]) -> Tool:
    def called(arguments: Mapping[str, Any] | str) -> dict[str, Any]:
        try:
            if isinstance(arguments, str):
                return call(msgspec.json.decode(arguments.encode("utf-8", "replace"), type=asked))
            return call(msgspec.convert(dict(arguments), type=asked))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise InvalidRequest(
                f"{name} was asked for what it does not know: {error}.", hint="Keep to its schema."
            ) from None

    (schema,) = msgspec.json.schema_components([asked], ref_template="#/{name}")[1].values()
    return Tool("memories", name, schema.pop("description"), schema, called)


def _next(found: Sequence[Any], asked: ListFiles | Search) -> int | None:
    end = asked.cursor + asked.results_max
    return end if len(found) > end else None


def _not_found(path: str) -> InvalidRequest:
    return InvalidRequest(f"There is no {path} among the memories.", hint="`list` tells what there is.")


def _spans(lines: Sequence[str], asked: Search) -> list[tuple[int, int]]:
    """First and last line of each match, from 0."""
    wanted = [_compared(each, asked) for each in asked.queries]
    hits = [[bool(each) and each in line for each in wanted] for line in (_compared(line, asked) for line in lines)]
    if asked.mode == "any":
        return [(number, number) for number, found in enumerate(hits) if any(found)]
    if asked.mode == "all_on_same_line":
        return [(number, number) for number, found in enumerate(hits) if all(found)]
    return _windows(hits, len(wanted), asked.within_lines)


def _windows(hits: Sequence[Sequence[bool]], count: int, within: int) -> list[tuple[int, int]]:
    """The windows of at most so many lines that hold each of the texts, and hold no smaller such window."""
    latest = [-1] * count
    found: list[tuple[int, int]] = []
    for number, line in enumerate(hits):
        for which, hit in enumerate(line):
            if hit:
                latest[which] = number
        first = min(latest)
        if any(line) and first >= 0 and number - first < within and (not found or first > found[-1][0]):
            found.append((first, number))
    return found


def _compared(text: str, asked: Search) -> str:
    text = text if asked.case_sensitive else text.casefold()
    return "".join(char for char in text if char.isalnum()) if asked.normalized else text
