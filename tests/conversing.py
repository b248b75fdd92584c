"""Lines of rollouts, written down by hand: for tests that say record by record what a thread holds."""

from __future__ import annotations

import json

THREAD = "01a20464-403f-7170-9722-7a9790eef98c"
PARENT = "01a20460-403f-7170-9722-7a9790eef98c"
NAME = "rollout-2026-01-05T09-00-00-{}.jsonl"
AT_MS = 1_767_603_600_000
"""The time of the first record: 2026-01-05T09:00:00Z. Each record is a second later than the one before."""


def path_of(thread_id=THREAD, rollout_id=None, folder="sessions/2026/01/05"):
    return f"{folder}/{NAME.format(thread_id if rollout_id is None else f'{thread_id}_{rollout_id}')}"


class Lines:
    """A rollout as it grows; each call adds one record and answers the lines so far."""

    def __init__(self, mode="paginated", thread_id=THREAD, ordinal=0, **meta):
        self.mode = mode
        self.thread_id = thread_id
        self.lines = []
        self.ordinal = ordinal
        self.record("session_meta", {"id": thread_id, "history_mode": mode, **meta})

    def record(self, kind, payload, **more):
        second = len(self.lines)
        line = {"timestamp": f"2026-01-05T09:{second // 60:02}:{second % 60:02}.000Z"}
        if self.mode == "paginated":
            line["ordinal"] = self.ordinal
            self.ordinal += 1
        self.lines.append(
            json.dumps({**line, "type": kind, "payload": payload, **more}, separators=(",", ":")).encode()
        )
        return self

    def event(self, tag, **payload):
        return self.record("event_msg", {"type": tag, **payload})

    def started(self, turn_id, **more):
        return self.event("task_started", turn_id=turn_id, **more)

    def complete(self, turn_id, **more):
        return self.event("task_complete", turn_id=turn_id, last_agent_message=None, **more)

    def aborted(self, turn_id=None, **more):
        named = {} if turn_id is None else {"turn_id": turn_id}
        return self.event("turn_aborted", **named, reason="interrupted", **more)

    def item(self, turn_id, tag, item_id, started_at_ms=None, **fields):
        times = {"started_at_ms": started_at_ms, "completed_at_ms": started_at_ms} if started_at_ms is not None else {}
        item = {"type": tag, "id": item_id, **fields}
        return self.event("item_completed", thread_id=self.thread_id, turn_id=turn_id, item=item, **times)

    def user(self, turn_id, item_id, text="hello"):
        return self.item(turn_id, "UserMessage", item_id, content=[{"type": "text", "text": text, "text_elements": []}])

    def agent(self, turn_id, item_id, text="done", phase="final_answer"):
        said = {} if phase is None else {"phase": phase}
        return self.item(turn_id, "AgentMessage", item_id, content=[{"type": "Text", "text": text}], **said)

    def turn(self, turn_id):
        """A whole turn of a paginated rollout: asked, answered, done."""
        self.started(turn_id).user(turn_id, f"{turn_id}-u", f"ask {turn_id}")
        return self.agent(turn_id, f"{turn_id}-a", f"answer {turn_id}").complete(turn_id)

    def said(self, text="hello"):
        """What a user of a legacy thread says."""
        return self.event("user_message", message=text, images=[], local_images=[], text_elements=[])

    def answered(self, text="done", phase=None):
        return self.event("agent_message", message=text, phase=phase)

    def raw(self, line):
        """Bytes that are no record, as a line."""
        self.lines.append(line)
        return self

    @property
    def size(self):
        """Where the next line begins."""
        return sum(len(line) + 1 for line in self.lines)

    def offset(self, place):
        """Where the line of this place begins."""
        return sum(len(line) + 1 for line in self.lines[:place])

    @property
    def base(self):
        """The `history_base` of a thread that goes on from here."""
        return {"thread_id": self.thread_id, "end_ordinal_exclusive": self.ordinal, "end_byte_offset": self.size}
