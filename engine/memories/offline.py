"""An extractor and a consolidator without a model: rules that take what people said, what was done, and how it ended.

They make memories useful out of the box and are what the demo runs. They are deterministic, so consolidating twice changes
nothing. The handbook that they write is the part between two marks of `MEMORY.md`; what stands outside of them is kept.

What they cannot do is understand: of a conversation they keep the requests, the commands with their failures, and the last
answer; of a request the sentences that sound like a wish for later ("always", "never", "I prefer").
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from engine.clock import timestamp_of
from engine.memories import artifacts
from engine.memories.artifacts import named
from engine.memories.contract import ConsolidateRequest, Extraction, ExtractRequest
from engine.memories.folder import AD_HOC
from engine.projections.memories import Memory
from engine.stores.baseline import put_file
from engine.stores.files import Files

BEGIN, END = "<!-- rolloutdb: begin -->", "<!-- rolloutdb: end -->"
_WISH = re.compile(
    r"\b(?:always|never|prefer|please (?:use|do not|don't)|do not|don't|make sure|remember|from now on|instead of)\b",
    re.IGNORECASE,
)
_HARNESS = re.compile(r"<[a-z][a-z_-]*[ >]")
"""What a program puts into the mouth of the user stands in a tag: where it is, a goal, a command that was run."""
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_FAILED = re.compile(r"(?:exit(?:ed)?(?: with)?(?: code)?|exit_code\"?)[: ]+([1-9]\d{0,2})\b", re.IGNORECASE)
_MORE = re.compile(r"- and \d+ more")
_CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call"})
_LINE_CHARS_MAX = 240
_LISTED_MAX = 40
_WISHES_MAX = 200
_SUMMARY_BYTES_MAX = 9_000
_FILE_BYTES_MAX = 1024 * 1024


def extract(request: ExtractRequest) -> Extraction:
    """What one thread says, by rules."""
    items = [each for each in msgspec.json.decode(request.text) if isinstance(each, dict)]
    asked = [text for text in _said(items, "user") if not _HARNESS.match(text)]
    if not asked:
        return Extraction()
    answered = list(_said(items, "assistant"))
    wishes = [sentence for text in asked for sentence in _wishes(text)]
    failures = list(_failures(items))
    title = _line(asked[0])
    raw = [
        "---",
        f"description: {title}",
        f"task_outcome: {'uncertain' if failures or not answered else 'success'}",
        f"cwd: {_line(request.cwd or 'unknown')}",
        "---",
        "### Requests",
        *_bullets(asked),
    ]
    for heading, lines in (
        ("Preference signals", wishes),
        ("Commands", list(_commands(items))),
        ("Failures", failures),
        ("Last answer", answered[-1:]),
    ):
        if lines:
            raw += [f"### {heading}", *_bullets(lines)]
    summary = [f"# {title}", "", "## Requests", *_bullets(asked)]
    if answered:
        summary += ["", "## How it ended", _line(answered[-1])]
    return Extraction(
        raw_memory="\n".join(raw), rollout_summary="\n".join(summary), rollout_slug=" ".join(title.split()[:8])
    )


def consolidate(request: ConsolidateRequest) -> None:
    """The handbook and its summary, by rules, from the memories of the request and the notes in its folder."""
    files = Files()
    notes = list(_notes(request.root, files))
    wishes = list(dict.fromkeys([*notes, *(each for memory in request.memories for each in _kept_wishes(memory))]))
    path = f"{request.root}/{artifacts.HANDBOOK}"
    before = (files.read_all(path, bytes_max=_FILE_BYTES_MAX, op="memories.offline") or b"").decode("utf-8", "replace")
    _write(path, _within(before, _handbook(request.memories, wishes)), files)
    _write(f"{request.root}/{artifacts.SUMMARY}", _summary(request.memories, wishes), files)


def _said(items: Sequence[Mapping[str, Any]], role: str) -> Iterator[str]:
    for item in items:
        if item.get("type") != "message" or item.get("role") != role:
            continue
        parts = item.get("content")
        texts = (
            [str(part["text"]) for part in parts if isinstance(part, dict) and part.get("text")]
            if isinstance(parts, list)
            else []
        )
        text = "\n".join(texts).strip()
        if text:
            yield text


def _wishes(text: str) -> Iterator[str]:
    for sentence in _SENTENCE.findall(text):
        if _WISH.search(sentence):
            yield _line(sentence.strip().removeprefix("- "))


def _commands(items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for item in items:
        if item.get("type") in _CALLS:
            told = item.get("arguments") or item.get("input") or item.get("action")
            yield _line(
                f"{item.get('name') or 'shell'}: {told if isinstance(told, str) else msgspec.json.encode(told).decode()}"
            )


def _failures(items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for item in items:
        output = item.get("output")
        text = output if isinstance(output, str) else msgspec.json.encode(output).decode()
        if str(item.get("type", "")).endswith("_output") and _FAILED.search(text):
            yield _line(text)


def _bullets(lines: Sequence[str]) -> list[str]:
    shown = [f"- {_line(each)}" for each in lines[:_LISTED_MAX]]
    return [*shown, f"- and {len(lines) - _LISTED_MAX} more"] if len(lines) > _LISTED_MAX else shown


def _line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LINE_CHARS_MAX else f"{flat[: _LINE_CHARS_MAX - 1]}…"


def _notes(root: str, files: Files) -> Iterator[str]:
    folder = f"{root}/{AD_HOC}/notes"
    if files.kind(folder, op="memories.offline") != "folder":
        return
    for name in sorted(entry.name for entry in files.scan(folder, op="memories.offline") if entry.kind == "file"):
        data = files.read_all(f"{folder}/{name}", bytes_max=_FILE_BYTES_MAX, op="memories.offline")
        text = _line((data or b"").decode("utf-8", "replace"))
        if text:
            yield f"{text} [ad-hoc note]"


def _kept_wishes(memory: Memory) -> list[str]:
    """The preference signals that were extracted, whoever extracted them."""
    lines = memory.raw_memory.splitlines()
    for number, line in enumerate(lines):
        if line.strip().lower().lstrip("#").strip() == "preference signals":
            wishes = []
            for each in lines[number + 1 :]:
                if not each.startswith("- "):
                    break
                if not _MORE.fullmatch(each):
                    wishes.append(_line(each.removeprefix("- ")))
            return wishes
    return []


def _within(text: str, block: str) -> str:
    """The text with this block between the marks; where there are none, behind it."""
    begin, end = text.find(BEGIN), text.rfind(END)
    if 0 <= begin < end:
        return text[:begin] + block + text[end + len(END) :]
    return f"{text.rstrip()}\n\n{block}\n" if text.strip() else f"{block}\n"


def _handbook(memories: Sequence[Memory], wishes: Sequence[str]) -> str:
    lines = [BEGIN, "# Memories", ""]
    if wishes:
        lines += ["## User preferences", *(f"- {each}" for each in wishes[:_WISHES_MAX]), ""]
    for cwd, found in _by_folder(memories):
        lines += [f"# Task Group: {cwd}", f"scope: threads in {cwd}", f"applies_to: cwd={cwd}", ""]
        for number, (memory, name) in enumerate(found, 1):
            lines += [
                f"## Task {number}: {_title(memory)}",
                "### rollout_summary_files",
                f"- {artifacts.SUMMARIES}/{name}.md (thread_id={memory.thread_id}, updated_at={_day(memory)})",
                *_rest(memory),
                "",
            ]
    return "\n".join([*lines, END])


def _rest(memory: Memory) -> list[str]:
    """What was learned, its headings below those of the handbook."""
    lines = memory.raw_memory.strip().splitlines()
    if lines[:1] == ["---"] and "---" in lines[1:]:
        lines = lines[lines.index("---", 1) + 1 :]
    return [f"#{line}" if line.startswith("#") else line for line in lines if line not in (BEGIN, END)]


def _summary(memories: Sequence[Memory], wishes: Sequence[str]) -> str:
    head = [artifacts.SUMMARY_FIRST_LINE, "", "## User Profile", f"- {len(memories)} threads are remembered.", ""]
    preferences = ["## User preferences", *([f"- {each}" for each in wishes[:_LISTED_MAX]] or ["- none known"]), ""]
    tips = ["## General Tips", f"- Details are in {artifacts.HANDBOOK}; look there by working folder.", ""]
    lines = [*head, *preferences, *tips, "## What's in Memory"]
    size = sum(len(line.encode()) + 1 for line in lines)
    for cwd, found in _by_folder(memories):
        topics = [f"### {cwd}"]
        for memory, name in sorted(found, key=lambda each: (-each[0].source_updated_at_ms, each[0].thread_id)):
            topics.append(f"- {_day(memory)}: {_title(memory)} ({artifacts.SUMMARIES}/{name}.md)")
        for line in topics:
            size += len(line.encode()) + 1
            if size > _SUMMARY_BYTES_MAX:
                return "\n".join([*lines, f"- more is in {artifacts.HANDBOOK}", ""])
            lines.append(line)
    return "\n".join([*lines, ""])


def _by_folder(memories: Sequence[Memory]) -> list[tuple[str, list[tuple[Memory, str]]]]:
    groups: defaultdict[str, list[tuple[Memory, str]]] = defaultdict(list)
    for memory, name in named(memories):
        groups[_line(memory.cwd or "unknown")].append((memory, name))
    return sorted(groups.items())


def _title(memory: Memory) -> str:
    first = next((line for line in memory.rollout_summary.splitlines() if line.strip()), memory.thread_id)
    return _line(first.lstrip("# "))


def _day(memory: Memory) -> str:
    return timestamp_of(memory.source_updated_at_ms)[:10]


def _write(path: str, text: str, files: Files) -> None:
    files.ensure_folder(os.path.dirname(path), op="memories.offline")
    put_file(path, text.encode("utf-8", "replace"), files=files)
