"""The commands of device keys: which keys are bound, and to whom. Keys are made and used by applications alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from engine.cli import DONE, output
from engine.cli.asked import Asked, text
from engine.cli.commands import Answer
from engine.cli.parsed import Home, Json, StateDir, command, group
from engine.errors import DeviceKeyNotFound

if TYPE_CHECKING:
    from rich.console import Console

    from engine.projections.device_keys import Binding

_KEY_CHARACTERS = 50
_KEY = "dk_tpm_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def device_keys_root(
    context: typer.Context, home: Home = None, state_dir: StateDir = None, as_json: Json = False
) -> None:
    """Show which device keys are bound to whom."""
    group(context, Asked(home, state_dir, as_json))


@command(app, "list", "rolloutdb devicekeys list", "rolloutdb devicekeys list --json | jq .device_keys")
def device_keys_list(
    asked: Asked,
) -> Answer:
    """List every binding, by key id."""
    with asked.open() as engine:
        found = engine.device_keys.bindings.list()
    document = {"device_keys": [_document(each) for each in found]}
    return Answer(document, DONE, lambda console: _show_all(console, found))


@command(app, "show", f"rolloutdb devicekeys show {_KEY} --json")
def device_keys_show(
    asked: Asked,
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, as `devicekeys list` shows it.")],
) -> Answer:
    """Show one binding, and how the key is kept."""
    with asked.open() as engine:
        found = engine.device_keys.bindings.find(text(key_id, "The key's id"))
    if found is None:
        raise DeviceKeyNotFound(
            f"The device key {key_id} is bound to no account.", hint="`rolloutdb devicekeys list` shows those that are."
        )
    document = _document(found)
    return Answer(document, DONE, lambda console: _show(console, document))


def _document(binding: Binding) -> dict[str, Any]:
    from engine.events.device_keys import protection_of

    return {**msgspec.structs.asdict(binding), "protection": protection_of(binding.key_id)}


def _show(console: Console, document: dict[str, Any]) -> None:
    for name, value in document.items():
        console.print(f"{name:<16}{_told(name, value)}", soft_wrap=True)


def _show_all(console: Console, found: list[Binding]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("key", no_wrap=True, min_width=_KEY_CHARACTERS)
    for name in ("account", "client", "bound"):
        table.add_column(name, overflow="fold")
    for each in found:
        cells = (each.key_id, each.account_user_id, each.client_id)
        table.add_row(*(output.plain(cell) for cell in cells), _told("created_at_ms", each.created_at_ms))
    console.print(table if found else "no device keys")


def _told(name: str, value: Any) -> str:
    if name.endswith("_at_ms"):
        from engine.clock import timestamp_of

        return timestamp_of(value)
    return output.plain(str(value))
