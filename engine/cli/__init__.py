"""The command line: parse, call the library, print, and end with a code that says how it went.

Data goes to standard output, progress and remarks to standard error; `--json` prints one JSON document. The code is 0 when
it is done, 1 with findings, 2 for a command that cannot be meant, 3 when it failed, 130 when Ctrl-C ended it. An error is
one sentence and one thing to do, never a traceback; with `--json` it is also a document on standard output. A reader that
goes away (`| head`) is no error. Only here is the environment read, and everything slow to import is imported late.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

DONE = 0
FINDINGS = 1
USAGE = 2
FAILED = 3
INTERRUPTED = 130


class Told(int):
    """An exit code of which everything has been said."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and answer its exit code; `arguments` are those of the process where none are given."""
    if arguments is None:
        gc.set_threshold(
            100_000
        )  # in a process of ours: folds and rows make no cycles, and looking for them is a tenth of it
    given = list(sys.argv[1:] if arguments is None else arguments)
    from engine.cli import output

    output.ensure_open()
    try:
        try:
            code = _run(given)
            output.flush()
        except BrokenPipeError:
            raise
        except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - whatever it is, it ends in a sentence
            code = _fail(error, as_json="--json" in given)
            output.flush()
    except BrokenPipeError:
        output.discard()
        return DONE
    except OSError as error:
        output.discard()
        output.remark(f"error: the output cannot be written: {error.strerror}")
        return FAILED
    return code


def _run(arguments: list[str]) -> int:
    from engine.cli.app import app

    try:
        code = app(arguments, prog_name="rolloutdb", standalone_mode=False)
    except SystemExit as error:  # typer's answer to a closed pipe, and to nothing else in this mode
        raise BrokenPipeError from error
    if code == INTERRUPTED and not isinstance(code, Told):
        raise KeyboardInterrupt  # typer answers a Ctrl-C by a code in some releases, by its own exception in others
    return code if isinstance(code, int) else DONE


def _fail(error: BaseException, *, as_json: bool) -> int:
    from engine.cli import failures, output

    failure = failures.describe(error)
    if as_json:
        output.print_json({"error": failure.document})
    for line in failure.lines:
        output.remark(line)
    return failure.exit_code
