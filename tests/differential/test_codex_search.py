"""What the Codex CLI wrote, searched: every message that the turns of its threads show is found by its first words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engine
from engine.events.upcast import preview_text
from engine.options import Options
from engine.stores.words import Words

OPTIONS = Options(background_scan_s=0, list_budget_ms=60_000, scan_interval_ms=0)
WORDS, LETTERS_MAX = 6, 900
HOMES_MAX = 6


def messages(turn: Any) -> list[str]:
    """What user and agent said in a turn."""
    said = []
    for item in turn.items:
        if item["type"] == "userMessage":
            said.append("".join(part.get("text") or "" for part in item["content"] if part["type"] == "text"))
        elif item["type"] == "agentMessage" and item["phase"] in (None, "final_answer"):
            said.append(item["text"])
    return said


def test_each_message_of_its_threads_is_found_by_its_first_words(corpora: Path, tmp_path: Path) -> None:
    homes = sorted({folder.parent for folder in corpora.rglob("sessions") if any(folder.rglob("rollout-*"))})
    asked = 0
    for number, home in enumerate(homes[:HOMES_MAX]):
        state = tmp_path / str(number)
        with engine.open(str(home), state_dir=str(state), options=OPTIONS) as e, Words() as words:
            for thread in e.threads.list(limit=10).threads:
                for turn in e.turns.list(thread.id, limit=5, items_view="full").turns:
                    for text in messages(turn):
                        first = [each.word for each in words.of(preview_text(text))[:WORDS]]
                        if not first or sum(map(len, first)) > LETTERS_MAX:
                            continue
                        hits = e.search(f'"{" ".join(first)}"', thread_id=thread.id, limit=0).hits
                        assert turn.id in {hit.turn_id for hit in hits}, (home, thread.id, first)
                        assert all(hit.matches and hit.unreadable is None for hit in hits)
                        asked += 1
            assert [each for each in e.audit().findings if each.class_ == "wrong_rows"] == []
    assert asked > 20
