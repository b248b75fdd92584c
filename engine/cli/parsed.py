"""What the modules of commands share: the options that every command has, and what is done with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from engine.cli import USAGE, commands
from engine.cli.asked import Asked
from engine.errors import InvalidRequest

_KEY = "rolloutdb.asked"
_CODES = "Exit codes: 0 done, 1 findings, 2 usage, 3 failed, 130 stopped by Ctrl-C."

Home = Annotated[
    str | None,
    typer.Option(
        "--home", metavar="FOLDER", help="The home to work on; else $ROLLOUTDB_HOME, else $CODEX_HOME, else ~/.codex."
    ),
]
StateDir = Annotated[
    str | None,
    typer.Option("--state-dir", metavar="FOLDER", help="Keep the index there, and leave the home as it is."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ThreadId = Annotated[str, typer.Argument(metavar="ID", help="The thread's id, as `threads list` shows it.")]


def epilog(*examples: str, codes: str = _CODES) -> str:
    """The end of a command's help: examples, and what its exit codes mean."""
    lines = "\n".join(f"  {example}" for example in examples)
    return f"\b\nExamples:\n{lines}\n\n{codes}"


def command(
    app: typer.Typer, name: str, *examples: str, codes: str = _CODES
) -> Callable[[Callable[..., commands.Answer]], Callable[..., commands.Answer]]:
    """A command that also takes `--home`, `--state-dir` and `--json`; its function is given what they come to as `asked`.

    What the function answers is printed, and its code ends the process.
    """

    def take(call: Callable[..., commands.Answer]) -> Callable[..., commands.Answer]:
        def run(
            context: typer.Context, home: Home = None, state_dir: StateDir = None, as_json: Json = False, **given: Any
        ) -> None:
            asked = asked_of(context, Asked(home, state_dir, as_json))
            raise typer.Exit(commands.deliver(asked, call(asked, **given)))

        context, *everywhere, _ = inspect.signature(run, eval_str=True).parameters.values()
        own = list(inspect.signature(call, eval_str=True).parameters.values())[1:]
        keyword = [each.replace(kind=each.KEYWORD_ONLY) for each in (*own, *everywhere)]
        run.__signature__ = inspect.Signature([context, *keyword])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in (context, *keyword)}
        run.__doc__ = call.__doc__
        app.command(name, epilog=epilog(*examples, codes=codes))(run)
        return call

    return take


def asked_of(context: typer.Context, here: Asked) -> Asked:
    """What was asked for here and further left; kept for the commands to the right."""
    asked = here.over(context.meta.get(_KEY, Asked()))
    context.meta[_KEY] = asked
    return asked


def group(context: typer.Context, here: Asked) -> None:
    """A group of commands without a command: its help, and the code for a usage error."""
    asked = asked_of(context, here)
    if context.invoked_subcommand is None:
        if asked.as_json:
            hint = f"`{context.command_path} --help` lists them."
            raise InvalidRequest("No command was given.", hint=hint)
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(USAGE)
