"""The commands, their options and their help. What they do is in `commands`; this module only parses and hands on.

`--home`, `--state-dir` and `--json` may stand before or after the command; the one furthest right counts.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

import engine
from engine.cli import agents, commands, decide, device_keys, foreign, goals, logs, memories, mend, remove
from engine.cli import search as searching
from engine.cli import turns as turn_pages
from engine.cli.asked import Asked
from engine.cli.commands import Answer
from engine.cli.parsed import Home, Json, StateDir, ThreadId, command
from engine.cli.parsed import asked_of as _asked
from engine.cli.parsed import epilog as _epilog
from engine.cli.parsed import group as _group
from engine.errors import InvalidRequest

Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=0, max=256, metavar="N", help="Processes that read; 0 reads in this one. Usually one a core."
    ),
]


class Sort(StrEnum):
    """What a list can be sorted by."""

    created_at = "created_at"
    updated_at = "updated_at"
    recency_at = "recency_at"


class Role(StrEnum):
    """Who said what is searched; a name is what a user called a thread."""

    user = "user"
    agent = "agent"
    name = "name"


class By(StrEnum):
    """How hits are sorted."""

    rank = "rank"
    newest = "newest"
    oldest = "oldest"


class Items(StrEnum):
    """Which items a turn is shown with."""

    none = "none"
    summary = "summary"
    full = "full"


app = typer.Typer(
    name="rolloutdb",
    add_completion=False,
    rich_markup_mode=None,  # plain help is copied more easily, and comes 50 ms sooner
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
threads = typer.Typer(rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rolloutdb {engine.__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog=_epilog(
        "rolloutdb demo",
        "rolloutdb --home ~/.codex --state-dir ~/.local/state/rolloutdb backfill",
        "rolloutdb threads list --limit 10",
        "rolloutdb audit --json",
    ),
)
def root(
    context: typer.Context,
    home: Home = None,
    state_dir: StateDir = None,
    as_json: Json = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """An exact index of agent threads, kept beside their JSONL rollouts.

    The rollouts are the truth; only the commands that change threads write to them. The index can be thrown away and
    rebuilt; `audit` says where it disagrees with the files.
    """
    _group(context, Asked(home, state_dir, as_json))


@command(app, "status", "rolloutdb status", "rolloutdb status --json | jq .lag")
def status(asked: Asked) -> Answer:
    """Tell how the home stands: threads, lag, damage, back-fill."""
    return commands.status(asked)


@command(app, "backfill", "rolloutdb backfill", "rolloutdb backfill --projection threads --json")
def backfill(
    asked: Asked,
    projection: Annotated[
        str | None, typer.Option("--projection", metavar="NAME", help="Only this one: threads, facts, turns or search.")
    ] = None,
    workers: Workers = None,
) -> Answer:
    """Index what is new or changed, threads first.

    Lists are whole when the threads are there; turns and words follow.

    It may be stopped at any time and goes on where it was; a second one joins the first and looks on.
    Findings (exit code 1) are files and folders that could not be used; each run tries them again.
    """
    return commands.backfill(asked, workers=workers, projection=projection)


@command(app, "rebuild", "rolloutdb rebuild", "rolloutdb rebuild --thread 019ddd9d-f053-7991-a505-b639f6b80c15 --json")
def rebuild(
    asked: Asked,
    projection: Annotated[
        str | None, typer.Option("--projection", metavar="NAME", help="Only this one: threads, facts, turns or search.")
    ] = None,
    thread_id: Annotated[str | None, typer.Option("--thread", metavar="ID", help="Only this thread.")] = None,
    workers: Workers = None,
) -> Answer:
    """Fold every rollout anew, thread by thread, beside readers.

    It mends every row that an audit found wrong. A damaged database is set aside, never deleted. One that was stopped
    goes on where it was; a second one joins the first. Rows that a newer rolloutdb built are left alone, unless you name
    their thread.
    """
    return commands.rebuild(asked, workers=workers, thread_id=thread_id, projection=projection)


@command(
    app,
    "audit",
    "rolloutdb audit",
    "rolloutdb audit --deep --json | jq '.findings[].class'",
    "rolloutdb audit --codex",
    "rolloutdb audit --codex --why 019ddd9d-f053-7991-a505-b639f6b80c15",
)
def audit(
    asked: Asked,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every line.")] = False,
    codex: Annotated[
        bool, typer.Option("--codex", help="Compare the Codex CLI's own databases with the files instead.")
    ] = False,
    why: Annotated[
        str | None,
        typer.Option("--why", metavar="ID", help="With --codex: tell why that program does not list this thread."),
    ] = None,
) -> Answer:
    """Compare every row with every file; change nothing.

    Any finding but mere lag, of whatever severity, makes the exit code 1. With --codex no index is needed and none is
    made: that program's databases are read without changing a byte or a file in the home, also while it runs. What each
    finding means, and what to do, is in docs/AUDIT.md. With --why it is 1 where a default list lacks the thread.
    """
    if why is not None and not codex:
        raise InvalidRequest("--why is about the Codex CLI's list.", hint="Say `audit --codex --why ID`.")
    if why is not None:
        return foreign.why(asked, why)
    if codex:
        return foreign.audit(asked, deep=deep)
    return commands.audit(asked, deep=deep)


@command(
    app,
    "repair",
    "rolloutdb repair --dry-run",
    "rolloutdb repair",
    "rolloutdb repair --dry-run --save plan.json && rolloutdb repair --plan plan.json",
)
def repair(
    asked: Asked,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    save: Annotated[
        str | None, typer.Option("--save", metavar="FILE", help="With --dry-run: keep the plan, as JSON.")
    ] = None,
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="FILE", help="Do only what this plan names and is still called for.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="No other program uses this home: files of its rollouts may be touched.")
    ] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Audit with --deep before and after.")] = False,
) -> Answer:
    """Mend what an audit finds, from the files.

    It may be stopped and repeated. No byte of a rollout changes but for a torn tail, which is cut and kept in quarantine.
    The exit code is 1 where something remains that a repair mends; what nothing can mend is told and stays.
    """
    wanted = mend.Wanted(dry_run, save, plan, offline, deep)
    return mend.repair(asked, wanted)


@command(
    app,
    "turns",
    "rolloutdb turns 019ddd9d-f053-7991-a505-b639f6b80c15",
    "rolloutdb turns 019ddd9d-f053-7991-a505-b639f6b80c15 --limit 3 --items full",
    "rolloutdb turns 019ddd9d-f053-7991-a505-b639f6b80c15 --asc --limit 0 --json | jq -r '.turns[].id'",
)
def turns(
    asked: Asked,
    thread_id: Annotated[str, typer.Argument(metavar="THREAD", help="The thread's id, as `threads list` shows it.")],
    limit: Annotated[int, typer.Option("--limit", min=0, metavar="N", help="How many turns; 0 is all.")] = 25,
    cursor: Annotated[
        str | None,
        typer.Option("--cursor", metavar="CURSOR", help="Go on from there: next_cursor or backwards_cursor of a page."),
    ] = None,
    asc: Annotated[bool, typer.Option("--asc", help="Oldest first.")] = False,
    items: Annotated[
        Items,
        typer.Option("--items", help="No items, the first user and the final agent message (summary), or all (full)."),
    ] = Items.summary,
) -> Answer:
    """Show the turns of a thread, newest first.

    Those that it was forked from are among them. A turn without an end is in_progress while somebody has the thread open
    for writing, else interrupted. It waits for no back-fill: the thread's own rollouts are indexed before the answer.
    """
    return turn_pages.list_turns(asked, thread_id, limit=limit, cursor=cursor, ascending=asc, items_view=items.value)


@command(
    app,
    "search",
    "rolloutdb search lock timeout",
    "rolloutdb search '\"write lock\" sqlit*' --role agent --since 30d",
    "rolloutdb search lock --thread 019ddd9d-f053-7991-a505-b639f6b80c15 --sort oldest",
    "rolloutdb search lock --json | jq -r '.hits[].thread_id'",
)
def search(
    asked: Asked,
    words: Annotated[
        list[str], typer.Argument(metavar="WORDS", help='Words, "phrases in quotes", beginnings of words (word*).')
    ],
    thread_id: Annotated[
        str | None, typer.Option("--thread", metavar="ID", help="Only what this thread shows.")
    ] = None,
    role: Annotated[list[Role] | None, typer.Option("--role", help="Only what they said; may be repeated.")] = None,
    cwd: Annotated[
        list[str] | None, typer.Option("--cwd", metavar="FOLDER", help="Only threads of this folder; may be repeated.")
    ] = None,
    since: searching.Since = None,
    until: searching.Until = None,
    archived: Annotated[
        bool | None, typer.Option("--archived/--active", help="Only archived threads, or only the others.")
    ] = None,
    sort: Annotated[By, typer.Option("--sort", help="The best hits first, or the newest, or the oldest.")] = By.rank,
    limit: Annotated[int, typer.Option("--limit", min=0, metavar="N", help="How many hits; 0 is all.")] = 25,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="CURSOR", help="Go on from there: next_cursor of a page.")
    ] = None,
) -> Answer:
    """Search what users and agents said, and the names of threads.

    All words are to be there, in any order; case and accents do not count, and there are no operators. Of an agent its final
    answers are searched, and messages without a phase. A message is found in the thread that holds it; with --thread, what
    the thread was forked from is searched as well.
    """
    wanted = searching.Wanted(
        words,
        thread_id,
        [each.value for each in role or []],
        cwd or [],
        since,
        until,
        archived,
        sort.value,
        limit,
        cursor,
    )
    return searching.search(asked, wanted)


@app.command(epilog=_epilog("rolloutdb demo", "rolloutdb demo --keep"))
def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the folder, to go on trying.")] = False,
    as_json: Json = False,
) -> None:
    """Show all of this on a made-up home, in some seconds.

    It indexes, lists, damages, audits and rebuilds it; works in a new temporary folder, and removes the folder at its end.
    """
    from engine.cli.demo import run

    asked = _asked(context, Asked(as_json=as_json))
    raise typer.Exit(run(as_json=asked.as_json, keep=keep))


@threads.callback(invoke_without_command=True)
def threads_root(context: typer.Context, home: Home = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """List threads, show one, or change one."""
    _group(context, Asked(home, state_dir, as_json))


@command(
    threads,
    "list",
    "rolloutdb threads list --limit 10",
    "rolloutdb threads list --cwd . --search parser",
    "rolloutdb threads list --limit 0 --json | jq -r '.threads[].title'",
)
def threads_list(
    asked: Asked,
    limit: Annotated[int, typer.Option("--limit", min=0, metavar="N", help="How many; 0 is all.")] = 25,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="CURSOR", help="Go on from there: next_cursor of a page.")
    ] = None,
    sort: Annotated[Sort, typer.Option("--sort", help="By which time.")] = Sort.updated_at,
    asc: Annotated[bool, typer.Option("--asc", help="Oldest first.")] = False,
    archived: Annotated[
        bool | None, typer.Option("--archived/--active", help="Only these; both where neither is given.")
    ] = None,
    cwd: Annotated[
        list[str] | None, typer.Option("--cwd", metavar="FOLDER", help="Begun in this folder; may be repeated.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME", help="Begun by this, as cli, vscode or subagent; may be repeated."),
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", metavar="NAME", help="Of this model provider; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME", help="Last run with this model; may be repeated.")
    ] = None,
    parent: Annotated[str | None, typer.Option("--parent", metavar="ID", help="Spawned by this thread.")] = None,
    ancestor: Annotated[
        str | None, typer.Option("--ancestor", metavar="ID", help="Spawned by this thread, or by one below it.")
    ] = None,
    preview: Annotated[
        bool | None,
        typer.Option("--with-preview/--without-preview", help="With, or without, anything to show of them."),
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Part of the title, preview, first message or name.")
    ] = None,
) -> Answer:
    """List threads, newest first, active and archived.

    It waits for no back-fill: where files are not indexed yet, a line on standard error says how many.
    """
    filters = {
        "archived": archived,
        "cwd": cwd or None,
        "source": source or None,
        "model_provider": provider or None,
        "model": model or None,
        "parent_thread_id": parent,
        "ancestor_thread_id": ancestor,
        "has_preview": preview,
        "search": search,
    }
    wanted = commands.Wanted(limit, cursor, sort.value, asc, filters)
    return commands.list_threads(asked, wanted)


@command(threads, "show", "rolloutdb threads show 019ddd9d-f053-7991-a505-b639f6b80c15 --json")
def threads_show(
    asked: Asked,
    thread_id: ThreadId,
) -> Answer:
    """Show one thread as its file has it, and where its row differs.

    The exit code is 1 where row and file differ.
    """
    return commands.show_thread(asked, thread_id)


@command(
    threads,
    "rename",
    'rolloutdb threads rename 019ddd9d-f053-7991-a505-b639f6b80c15 "the login fix"',
    "rolloutdb threads rename 019ddd9d-f053-7991-a505-b639f6b80c15 --clear",
)
def threads_rename(
    asked: Asked,
    thread_id: ThreadId,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="What it is to be called.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take the name away.")] = False,
) -> Answer:
    """Name a thread. Works for any thread, also one that is in use."""
    return decide.rename(asked, thread_id, name, clear=clear)


@command(threads, "archive", "rolloutdb threads archive 019ddd9d-f053-7991-a505-b639f6b80c15")
def threads_archive(
    asked: Asked,
    thread_id: ThreadId,
) -> Answer:
    """Move a thread's files into the archive. Refused while somebody writes to it."""
    return decide.archive(asked, thread_id)


@command(threads, "unarchive", "rolloutdb threads unarchive 019ddd9d-f053-7991-a505-b639f6b80c15")
def threads_unarchive(
    asked: Asked,
    thread_id: ThreadId,
) -> Answer:
    """Bring a thread's files back from the archive."""
    return decide.unarchive(asked, thread_id)


@command(threads, "dismiss", "rolloutdb threads dismiss 019ddd9d-f053-7991-a505-b639f6b80c15")
def threads_dismiss(
    asked: Asked,
    thread_id: ThreadId,
) -> Answer:
    """Stop showing a thread whose rollout is gone. It is shown again when the rollout comes back."""
    return decide.dismiss(asked, thread_id)


@command(
    threads,
    "fork",
    "rolloutdb threads fork 019ddd9d-f053-7991-a505-b639f6b80c15",
    "rolloutdb threads fork 019ddd9d-f053-7991-a505-b639f6b80c15 --before 019ddda0-5b3c-7b31-8d5e-2f6d4a8f1c27",
)
def threads_fork(
    asked: Asked,
    thread_id: ThreadId,
    through: Annotated[
        str | None, typer.Option("--through", metavar="TURN", help="Go on behind this turn; else at the end.")
    ] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="TURN", help="Go on before this turn.")] = None,
) -> Answer:
    """Begin a new thread that goes on from this one, which may be in use, archived or compressed."""
    return decide.fork(asked, thread_id, through_turn=through, before_turn=before)


_ID = "019ddd9d-f053-7991-a505-b639f6b80c15"


@command(threads, "erase", f"rolloutdb threads erase {_ID} --dry-run", f"rolloutdb threads erase {_ID} --grace 0 --yes")
def threads_erase(
    asked: Asked,
    thread_id: Annotated[str, typer.Argument(metavar="ID", help="The thread's id, as `threads list` shows it.")],
    include_children: Annotated[
        bool, typer.Option("--include-children", help="Erase the threads that go on from it as well.")
    ] = False,
    grace: Annotated[
        int,
        typer.Option(
            "--grace", min=0, max=36_500, metavar="DAYS", help="How long its files wait in the trash; 0 is not at all."
        ),
    ] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would reach, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> Answer:
    """Take a thread out of every store, with a receipt.

    Refused while others go on from it, or somebody writes to it. One that was cut short is finished by the next start.
    """
    how = {"include_children": include_children, "dry_run": dry_run, "yes": yes}
    return remove.erase(asked, thread_id, grace_days=grace, **how)


@command(threads, "redact", f"rolloutdb threads redact {_ID} --ordinal 7")
def threads_redact(
    asked: Asked,
    thread_id: Annotated[str, typer.Argument(metavar="ID", help="The thread's id, as `threads list` shows it.")],
    ordinal: Annotated[int | None, typer.Option("--ordinal", min=0, metavar="N", help="The record's ordinal.")] = None,
    offset: Annotated[
        int | None,
        typer.Option("--offset", min=0, metavar="BYTE", help="Where its line begins, for one without ordinal."),
    ] = None,
) -> Answer:
    """Replace what one record says by filler of the same length, for good."""
    return remove.redact(asked, thread_id, ordinal=ordinal, offset=offset)


@command(
    threads, "export", f"rolloutdb threads export {_ID} --to thread.zip", "rolloutdb threads export --all --to all.zip"
)
def threads_export(
    asked: Asked,
    thread_ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="One thread or more.")] = None,
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="A new file; a zip.")] = ...,  # type: ignore[assignment]
    every: Annotated[bool, typer.Option("--all", help="All threads.")] = False,
    bases: Annotated[bool, typer.Option("--bases/--no-bases", help="With the rollouts that they go on from.")] = True,
) -> Answer:
    """Pack threads into one file, with what was decided about them and a digest of each member."""
    return remove.export(asked, thread_ids, to=to, every=every, bases=bases)


@command(threads, "import", "rolloutdb threads import all.zip --dry-run", "rolloutdb threads import all.zip")
def threads_import(
    asked: Asked,
    path: Annotated[str, typer.Argument(metavar="FILE", help="What `threads export` made.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it, say what would be done, change nothing.")
    ] = False,
) -> Answer:
    """Bring the threads of a bundle into this home. It may be repeated.

    Nothing that is here is changed: a thread that is here with other content is left alone, and makes the exit code 1.
    """
    return remove.import_(asked, path, dry_run=dry_run)


app.add_typer(threads, name="threads")
app.add_typer(agents.app, name="agents")
app.add_typer(device_keys.app, name="devicekeys")
app.add_typer(goals.app, name="goals")
app.add_typer(logs.app, name="logs")
app.add_typer(memories.app, name="memories")


@app.command(
    epilog=_epilog(
        "rolloutdb follow --json | jq -c 'select(.what == \"record\") | .payload'",
        f"rolloutdb follow --thread {_ID} --from beginning",
        "rolloutdb follow --from @token.txt",
    )
)
def follow(
    context: typer.Context,
    thread: Annotated[
        list[str] | None, typer.Option("--thread", metavar="ID", help="Only this thread; may be repeated.")
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="now|beginning|TOKEN",
            help="Where to begin; a token is what the command says when it is stopped, @FILE one in a file.",
        ),
    ] = "now",
    decisions: Annotated[
        bool, typer.Option("--decisions", help="Also what is decided about the threads, as names and archiving.")
    ] = False,
    home: Home = None,
    state_dir: StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")] = False,
) -> int:
    """Print what is appended to threads, as it comes.

    By whomever it is written: it needs no lock and keeps no one from writing. Ctrl-C ends it; it then says a token, to go
    on from there.
    """
    from engine.cli.follow import follow as run

    asked = _asked(context, Asked(home, state_dir, as_json))
    return run(asked, thread, start, decisions=decisions)
