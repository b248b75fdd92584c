"""What was asked for on the command line: which home, where to keep state, and how to answer."""

from __future__ import annotations

import os
from typing import NamedTuple

import engine
from engine.errors import InvalidRequest
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home, open_home

_VARIABLES = ("ROLLOUTDB_HOME", "CODEX_HOME")
_USUAL_HOME = "~/.codex"


class Asked(NamedTuple):
    """The options that every command has. None where one was not given."""

    home: str | None = None
    state_dir: str | None = None
    as_json: bool = False

    def over(self, before: Asked) -> Asked:
        """These where they are given, else those that stood further left."""
        home = before.home if self.home is None else self.home
        state_dir = before.state_dir if self.state_dir is None else self.state_dir
        return Asked(home, state_dir, self.as_json or before.as_json)

    def open(self) -> engine.Engine:
        """The home that was asked for, opened."""
        state_dir = None if self.state_dir is None else folder(self.state_dir, "--state-dir")
        # A command does what it was asked for and ends: nothing is left to do behind its back.
        return engine.open(self._home(), state_dir=state_dir, options=Options(background_scan_s=0))

    def place(self) -> Home:
        """The home that was asked for and where its own files are, for those who need nothing but one of these."""
        state_dir = None if self.state_dir is None else folder(self.state_dir, "--state-dir")
        return open_home(self._home(), state_dir, Files())

    def look(self) -> Home:
        """The home that was asked for, for those who only look: nothing is opened in it, and nothing is made."""
        return open_home(self._home(), None, Files())

    def _home(self) -> str:
        if self.home is not None:
            return folder(self.home, "--home")
        for name in _VARIABLES:
            value = os.environ.get(name)  # noqa: TID251 - the command line reads the environment, the library does not
            if value:
                return folder(value, f"${name}")
        return folder(_USUAL_HOME, "the usual home")


def folder(path: str, name: str) -> str:
    """An absolute path, `~` resolved. An empty one is most often a variable that is not set: it names no folder."""
    if not path:
        raise InvalidRequest(f"{name} is empty.", hint="Name a folder, or leave the option out.")
    return os.path.abspath(os.path.expanduser(path))


def text(value: str, name: str) -> str:
    """A value to be looked for in rows, which hold UTF-8 and nothing else."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} is not UTF-8.", hint="No row can hold such a value; give text.") from None
    return value
