"""What an agent does within a turn: commands, patches, searches, other agents, and the odd things that files contain.

Each step is a generator of lines on a `Conversation`; `STEPS` says which style knows which, and how often. A paginated
rollout gets a completed item where the others get an event or nothing. Steps look at `left()` before they print much,
so that no step overruns the size that was asked for by more than a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import orjson

from engine.testing import text
from engine.testing.conversation import FULL_TURN_BYTES, Conversation, Step, iso, sha

_LARGE_ROLLOUT_BYTES = 1_000_000
"""From here on there are images and outputs of hundreds of kilobytes, now and then."""


def think(talk: Conversation) -> Iterator[bytes]:
    """Reasoning: a summary one may read and content one may not."""
    summary = orjson.dumps(text.thought(talk.rng))
    item_id = b"rs_%d" % talk.call_number()
    if talk.paginated:
        yield talk.item(b"Reasoning", item_id, b',"summary_text":[%b],"raw_content":[]' % summary)
    else:
        yield talk.event(b"agent_reasoning", b',"text":%b' % summary)
    secret = text.opaque(talk.rng, int(_some_bytes(talk) * 0.7)).encode()
    yield talk.response(
        b"reasoning",
        item_id,
        b'"summary":[{"type":"summary_text","text":%b}],"content":null,"encrypted_content":"%b"' % (summary, secret),
    )


def comment(talk: Conversation) -> Iterator[bytes]:
    """A word between two steps."""
    yield from talk.agent_message(text.commentary(talk.rng), b"commentary")


def run(talk: Conversation) -> Iterator[bytes]:
    """A shell command and what it printed."""
    command = text.command(talk.rng)
    printed = text.output(talk.rng, _some_bytes(talk))
    number = talk.call_number()
    yield _call(talk, number, b"exec_command", orjson.dumps({"cmd": command, "yield_time_ms": 8000}))
    yield from _counted(talk)
    talk.wait(30, 9_000)
    code = 0 if talk.chance(0.85) else 1
    if talk.paginated:
        yield _command_item(talk, number, command, printed, code)
    head = f"Chunk ID: {number:06x}\nWall time: 0.0420 seconds\nProcess exited with code {code}\nOutput:\n"
    yield _output(talk, number, orjson.dumps(head + printed))


def _command_item(talk: Conversation, number: int, command: str, printed: str, code: int) -> bytes:
    return talk.item(
        b"CommandExecution",
        b"call_%d" % number,
        b',"process_id":"%d","command":["/bin/bash","-lc",%b],"cwd":%b,"parsed_cmd":[{"type":"unknown","cmd":%b}],'
        b'"source":"unified_exec_startup","status":"%b","aggregated_output":%b,"exit_code":%d,"duration":{"secs":0,"nanos":11862}'
        % (
            10_000 + number, orjson.dumps(command), orjson.dumps(f"file://{talk.settings.cwd}"), orjson.dumps(command),
            b"failed" if code else b"completed", orjson.dumps(printed), code,
        ),
    )  # fmt: skip


def patch(talk: Conversation) -> Iterator[bytes]:
    """A change to a file."""
    name, lines = text.file_name(talk.rng), text.code(talk.rng)
    added = "".join(f"+{line}\n" for line in lines.splitlines())
    number = talk.call_number()
    yield talk.response(
        b"custom_tool_call",
        b"ctc_%d" % number,
        b'"status":"completed","call_id":"call_%d","name":"apply_patch","input":%b'
        % (number, orjson.dumps(f"*** Begin Patch\n*** Add File: {name}\n{added}*** End Patch")),
    )
    yield from _counted(talk)
    done = f"Success. Updated the following files:\nA {name}\n"
    changes = orjson.dumps({f"{talk.settings.cwd}/{name}": {"type": "add", "content": lines}})
    if talk.paginated:
        body = b',"changes":%b,"status":"completed","stdout":%b,"stderr":""' % (changes, orjson.dumps(done))
        yield talk.item(b"FileChange", b"call_%d" % number, body)
    else:
        yield talk.event(
            b"patch_apply_end",
            b',"call_id":"call_%d","turn_id":"%b","stdout":%b,"stderr":"","success":true,"changes":%b,"status":"completed"'
            % (number, talk.turn_id, orjson.dumps(done), changes),
        )
    yield talk.response(
        b"custom_tool_call_output",
        talk.new_id(b"ctco_"),
        b'"call_id":"call_%d","output":%b'
        % (number, orjson.dumps(f"Exit code: 0\nWall time: 0 seconds\nOutput:\n{done}")),
        dated=True,
    )


def search_web(talk: Conversation) -> Iterator[bytes]:
    """A search that the model's provider makes."""
    words = orjson.dumps(text.query(talk.rng))
    item_id = b"ws_%d" % talk.call_number()
    action = b'{"type":"search","query":%b,"queries":[%b]}' % (words, words)
    if talk.paginated:
        yield talk.item(b"WebSearch", item_id, b',"query":%b,"action":%b' % (words, action))
    elif talk.modern:
        yield talk.event(b"web_search_end", b',"call_id":"%b","query":%b,"action":%b' % (item_id, words, action))
    yield talk.response(b"web_search_call", item_id, b'"status":"completed","action":%b' % action)


def call_mcp(talk: Conversation) -> Iterator[bytes]:
    """A tool of an MCP server."""
    number = talk.call_number()
    arguments = orjson.dumps({"query": text.query(talk.rng), "limit": 20})
    result = orjson.dumps({"content": [{"type": "text", "text": text.output(talk.rng, min(_some_bytes(talk), 4_000))}]})
    yield _call(talk, number, b"tracker__search_issues", arguments)
    yield from _counted(talk)
    if talk.paginated:
        yield talk.item(
            b"McpToolCall",
            b"call_%d" % number,
            b',"server":"tracker","tool":"search_issues","arguments":%b,"status":"completed","result":%b,"duration":{"secs":0,"nanos":9042}'
            % (arguments, result),
        )
    elif talk.modern:
        yield talk.event(
            b"mcp_tool_call_end",
            b',"call_id":"call_%d","invocation":{"server":"tracker","tool":"search_issues","arguments":%b},"duration":{"secs":0,"nanos":9042},"result":{"Ok":%b}'
            % (number, arguments, result),
        )
    yield _output(talk, number, orjson.dumps(result.decode()))


def make_plan(talk: Conversation) -> Iterator[bytes]:
    """A list of steps, and in plan mode a plan in prose."""
    number = talk.call_number()
    plan = [{"step": text.commentary(talk.rng), "status": status} for status in ("completed", "in_progress", "pending")]
    yield _call(talk, number, b"update_plan", orjson.dumps({"plan": plan}))
    yield _output(talk, number, b'"Plan updated"')
    if talk.modern and talk.chance(0.3):
        body = b',"text":%b' % orjson.dumps(text.thought(talk.rng))
        yield talk.event(
            b"item_completed",
            b',"thread_id":"%b","turn_id":"%b","item":{"type":"Plan","id":"%b"%b},"completed_at_ms":%d'
            % (talk.thread_id, talk.turn_id, talk.new_id(), body, talk.now_ms),
        )


def call_agent(talk: Conversation) -> Iterator[bytes]:
    """Another agent is started, or one that was started reports."""
    number = talk.call_number()
    child = _next_child(talk)
    task = orjson.dumps(text.prompt(talk.rng))
    yield _call(talk, number, b"spawn_agent", b'{"message":%b}' % task)
    yield from _counted(talk)
    if talk.paginated and talk.chance(0.6):
        yield talk.item(
            b"CollabAgentToolCall",
            b"call_%d" % number,
            b',"tool":"spawn_agent","status":"completed","sender_thread_id":"%b","receiver_thread_ids":["%b"],'
            b'"receiver_agents":[{"thread_id":"%b","agent_nickname":"Noether"}],"prompt":%b,"model":"gpt-5.4","reasoning_effort":"medium",'
            b'"agents_states":{"%b":"pending_init"}' % (talk.thread_id, child, child, task, child),
        )
    elif talk.paginated:
        yield talk.item(
            b"SubAgentActivity",
            b"call_%d" % number,
            b',"kind":"started","agent_thread_id":"%b","agent_path":"/root/task"' % child,
        )
    yield _output(talk, number, orjson.dumps(f'{{"agent_id":"{child.decode()}","nickname":"Noether"}}'))
    if talk.modern:
        yield talk.line(b"inter_agent_communication_metadata", b'"trigger_turn":false')
        said = orjson.dumps(f"Message Type: FINAL_ANSWER\nSender: /root/task\nPayload:\n{text.commentary(talk.rng)}")
        yield talk.response(
            b"agent_message",
            talk.new_id(b"amsg_"),
            b'"author":"/root/task","recipient":"/root","content":[{"type":"input_text","text":%b}]' % said,
            dated=True,
        )


def _next_child(talk: Conversation) -> bytes:
    if talk.next_child >= len(talk.habits.children):
        return talk.new_id()
    talk.next_child += 1
    return talk.habits.children[talk.next_child - 1]


def look(talk: Conversation) -> Iterator[bytes]:
    """An image is put before the model: half a megabyte in a large rollout."""
    number = talk.call_number()
    large = talk.bytes_wanted >= _LARGE_ROLLOUT_BYTES and talk.chance(0.3)
    size = min(40_000 + int(talk.rng.random() * 500_000) if large else 1_500, talk.left() // 3)
    path = orjson.dumps(f"{talk.settings.cwd}/screenshot-{number}.png")
    yield _call(talk, number, b"view_image", b'{"path":%b}' % path)
    if talk.paginated:
        yield talk.item(b"ImageView", b"call_%d" % number, b',"path":%b' % path)
    data = text.opaque(talk.rng, max(size, 64)).encode()
    yield _output(talk, number, b'[{"type":"input_image","image_url":"data:image/png;base64,%b"}]' % data)


def call_own_tool(talk: Conversation) -> Iterator[bytes]:
    """A tool that the client brought along."""
    number = talk.call_number()
    arguments = orjson.dumps({"q": text.query(talk.rng), "ratio": 0.30000000000000004})
    yield _call(talk, number, b"lookup", arguments)
    if talk.paginated:
        yield talk.item(
            b"DynamicToolCall",
            b"call_%d" % number,
            b',"tool":"lookup","arguments":%b,"status":"completed","content_items":[{"type":"inputText","text":"found"}],"success":true,"duration":{"secs":0,"nanos":1497094}'
            % arguments,
        )
    yield _output(talk, number, b'"found"')


def review(talk: Conversation) -> Iterator[bytes]:
    """Review mode is entered and left again."""
    path = f"{talk.settings.cwd}/{text.file_name(talk.rng)}"
    finding = {
        "title": "Missing check",
        "body": text.commentary(talk.rng),
        "confidence_score": 0.85,
        "priority": 1,
        "code_location": {"absolute_file_path": path, "line_range": {"start": 3, "end": 9}},
    }
    found = orjson.dumps(
        {
            "findings": [finding],
            "overall_correctness": "patch is correct",
            "overall_explanation": text.thought(talk.rng),
            "overall_confidence_score": 0.7,
        }
    )
    entered = b',"target":{"type":"uncommittedChanges"},"user_facing_hint":"current changes"'
    if talk.paginated:
        yield talk.item(b"EnteredReviewMode", talk.new_id(), entered)
        yield talk.item(b"ExitedReviewMode", talk.new_id(), b',"review_output":%b' % found)
    else:
        yield talk.event(b"entered_review_mode", entered)
        yield talk.event(b"exited_review_mode", b',"review_output":%b' % found)


def compact(talk: Conversation) -> Iterator[bytes]:
    """The model's context is replaced by a summary and the last prompts."""
    kept = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": said}]}
        for said in talk.recent[-3:]
    ]
    body = b'"message":%b,"replacement_history":%b' % (orjson.dumps(text.thought(talk.rng)), orjson.dumps(kept))
    if talk.modern:
        window = talk.new_id()
        body += b',"window_number":1,"first_window_id":"%b","previous_window_id":"%b","window_id":"%b"' % (
            window, window, talk.new_id(),
        )  # fmt: skip
    yield talk.line(b"compacted", body)
    if talk.modern:
        yield talk.world_state(full=talk.left() > FULL_TURN_BYTES * 2)
    yield talk.turn_context()
    if talk.paginated:
        yield talk.item(b"ContextCompaction", talk.new_id(), b"")
    else:
        yield talk.event(b"context_compacted", b"")


def find_tools(talk: Conversation) -> Iterator[bytes]:
    """Tools are searched for, and some more are put before the model."""
    number = talk.call_number()
    words = orjson.dumps(text.query(talk.rng))
    yield talk.response(
        b"tool_search_call",
        b"tsc_%d" % number,
        b'"call_id":"call_%d","status":"completed","execution":"client","arguments":{"query":%b}' % (number, words),
    )
    tool = b'{"type":"function","name":"lookup","description":%b,"parameters":{"type":"object"}}' % words
    yield talk.response(
        b"tool_search_output",
        b"tso_%d" % number,
        b'"call_id":"call_%d","execution":"client","tools":[%b]' % (number, tool),
    )
    yield talk.response(b"additional_tools", talk.new_id(b"at_"), b'"role":"developer","tools":[%b]' % tool)


def draw(talk: Conversation) -> Iterator[bytes]:
    """The model makes an image."""
    item_id = b"ig_%d" % talk.call_number()
    data = text.opaque(talk.rng, max(64, min(_some_bytes(talk), talk.left() // 4))).encode()
    prompt = orjson.dumps(text.query(talk.rng))
    if talk.paginated:
        yield talk.item(
            b"ImageGeneration", item_id, b',"status":"completed","revised_prompt":%b,"result":"%b"' % (prompt, data)
        )
    yield talk.response(
        b"image_generation_call", item_id, b'"status":"completed","revised_prompt":%b,"result":"%b"' % (prompt, data)
    )


def rest(talk: Conversation) -> Iterator[bytes]:
    """The agent sleeps, and a hook has a word."""
    item = b'{"type":"Extension","id":"%b","kind":"clock.sleep","duration_ms":60000}' % talk.new_id()
    talk.wait(60_000, 61_000)
    yield talk.event(
        b"item_completed",
        b',"thread_id":"%b","turn_id":"%b","item":%b,"completed_at_ms":%d'
        % (talk.thread_id, talk.turn_id, item, talk.now_ms),
    )
    if talk.paginated:
        said = orjson.dumps(text.commentary(talk.rng))
        body = b',"fragments":[{"text":%b,"hookRunId":"run_%d"}]' % (said, talk.call_number())
        yield talk.item(b"HookPrompt", talk.new_id(), body)


def set_goal(talk: Conversation) -> Iterator[bytes]:
    """A goal is set in the middle of a conversation."""
    yield talk.goal(text.objective(talk.rng))


def look_around(talk: Conversation) -> Iterator[bytes]:
    """What changed around the model; scores with decimals."""
    if talk.chance(0.5):
        yield talk.world_state(full=False)
    else:
        scores = b'"scores":{"exfiltration":0.0125,"destruction":1e-07},"sampled_at":"%b"' % iso(talk.now_ms).encode()
        yield talk.line(b"security_risk_score", scores)


def count_only(talk: Conversation) -> Iterator[bytes]:
    """A token count by itself, in some cases without info."""
    yield talk.token_count(null=talk.chance(0.4) or talk.usage.total == 0)


def roll_back(talk: Conversation) -> Iterator[bytes]:
    """The last turn is taken back: only said, nothing is removed."""
    yield talk.event(b"thread_rolled_back", b',"num_turns":1')


def shell_item(talk: Conversation) -> Iterator[bytes]:
    """The oldest form of a command."""
    number = talk.call_number()
    action = orjson.dumps({
        "type": "exec", "command": ["bash", "-lc", text.command(talk.rng)], "timeout_ms": 10_000,
        "working_directory": talk.settings.cwd, "env": None, "user": None,
    })  # fmt: skip
    yield talk.response(
        b"local_shell_call",
        b"lsc_%d" % number,
        b'"call_id":"call_%d","status":"completed","action":%b' % (number, action),
    )
    yield _output(talk, number, orjson.dumps(text.output(talk.rng, min(_some_bytes(talk), 2_000))))


def snapshot(talk: Conversation) -> Iterator[bytes]:
    """An item of old files that readers drop without a word."""
    yield talk.response(
        b"ghost_snapshot", b"gs_1", b'"ghost_commit":{"id":"%b","parent":null}' % sha(talk.rng).encode()
    )


def strange(talk: Conversation) -> Iterator[bytes]:
    """What no reader knows yet: kinds, events, keys, and keys in an order that no writer uses today."""
    dice = int(talk.rng.random() * 4)
    if dice == 0:
        yield talk.line(b"from_the_future", b'"a":1,"b":[{"c":null}]')
    elif dice == 1:
        yield talk.event(b"holo_preview_ready", b',"depth":0.1,"panes":["left","right"]')
    elif dice == 2:
        yield talk.line(
            b"event_msg",
            b'"type":"agent_reasoning_section_break","hue":"teal"',
            b',"trace":{"span":"%x"}' % talk.rng.getrandbits(32),
        )
    else:
        yield _unusual_order(talk)


def _unusual_order(talk: Conversation) -> bytes:
    """A token count as another program might write it: other order of keys, spaces, escapes."""
    talk.now_ms += 1
    used = talk.usage
    total = (
        f'{{ "total_tokens": {used.total}, "input_tokens": {used.input}, "cached_input_tokens": {used.cached}, '
        f'"output_tokens": {used.output}, "reasoning_output_tokens": {used.reasoning} }}'
    )
    ordinal = "" if talk.ordinal is None else f', "ordinal": {talk.ordinal}'
    made = (
        f'{{"payload": {{"info": {{"total_token_usage": {total}, "last_token_usage": {total}, '
        f'"model_context_window": null}}, "rate_limits": null, "type": "token\\u005fcount"}}, '
        f'"type": "event\\u005fmsg"{ordinal}, "timestamp": "{iso(talk.now_ms)}"}}\n'
    )
    talk.row["tokens_used"] = used.total
    return talk.count(made.encode())


def _call(talk: Conversation, number: int, name: bytes, arguments: bytes) -> bytes:
    return talk.response(
        b"function_call",
        b"fc_%d" % number,
        b'"name":"%b","arguments":%b,"call_id":"call_%d"' % (name, orjson.dumps(arguments.decode()), number),
    )


def _output(talk: Conversation, number: int, output: bytes) -> bytes:
    return talk.response(
        b"function_call_output", talk.new_id(b"fco_"), b'"call_id":"call_%d","output":%b' % (number, output), dated=True
    )


def _counted(talk: Conversation) -> Iterator[bytes]:
    yield from talk.sampled()
    if talk.chance(0.7):
        yield talk.token_count(null=talk.chance(0.05))


def _some_bytes(talk: Conversation) -> int:
    """How much an output is: mostly little, at times a lot, never more than there is room for."""
    size = int(150 * 100.0 ** (talk.rng.random() ** 1.5))
    if talk.bytes_wanted >= _LARGE_ROLLOUT_BYTES and talk.chance(0.08):
        size *= 25
    return min(size, max(talk.left() // 4, 64))


_Table = tuple[tuple[Step, ...], tuple[float, ...]]


def _table(*rows: tuple[Step, float]) -> _Table:
    return tuple(step for step, _ in rows), tuple(accumulate(weight for _, weight in rows))


_COMMON = (
    (run, 40.0), (think, 16.0), (comment, 14.0), (patch, 12.0), (make_plan, 3.0), (set_goal, 0.4), (count_only, 4.0),
    (look, 1.0),
)  # fmt: skip
_MODERN = (
    *_COMMON, (search_web, 2.0), (call_mcp, 4.0), (look_around, 2.0), (review, 0.5), (compact, 0.8),
    (call_own_tool, 1.0), (find_tools, 0.6), (draw, 0.3), (rest, 0.4),
)  # fmt: skip

_ROWS: dict[str, tuple[tuple[Step, float], ...]] = {
    "paginated": (*_MODERN, (call_agent, 2.0)),
    "legacy": (*_MODERN, (call_agent, 1.0), (roll_back, 0.4)),
    "old": (
        *_COMMON, (search_web, 1.0), (compact, 0.6), (roll_back, 0.5), (shell_item, 1.0), (snapshot, 0.6),
        (review, 0.3),
    ),
}  # fmt: skip

STEPS = {style: _table(*rows) for style, rows in _ROWS.items()}
"""For each style its steps and their cumulative weights."""

STRANGE_STEPS = {style: _table(*rows, (strange, 20.0)) for style, rows in _ROWS.items()}
"""The same, with what no reader knows among them."""
