"""The command line: the only place that prints; one file for each command, read when the command is given."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from backend.cli.terminal import STOPPED, say_error
from backend.values.errors import MaskloomError, SetupError

_COMMANDS = {
    "demo": "serve:demo",
    "serve": "serve:serve",
    "segment": "segment:segment",
    "track": "video:track",
    "fetch": "serve:fetch",
    "prelabel": "bulk:prelabel",
    "remember": "memory:remember",
    "train": "memory:train",
    "balance": "memory:balance",
    "parts": "serve:parts",
    "doctor": "serve:doctor",
    "eval": "evaluate:evaluate",
    "rank": "evaluate:rank",
    "export": "export:export",
    "warm": "serve:warm",
    "video": "video:video",
    "memory": "memory:memory",
}
"""Where each command is: a module of this package, and its function or its group of commands."""

_STOPPED_IN_ORDER = {"prelabel", "export", "warm"}


class Commands(TyperGroup):
    """The commands. Who gives one does not wait for the networks that the others need, nor for an error of its settings."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module, _, name = _COMMANDS.get(cmd_name, "").partition(":")
        if not module:
            return None
        found: Any = getattr(importlib.import_module(f"backend.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)


cli = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False)


@cli.callback(help="Labelled masks from words, clicks, boxes and examples.")
def _all() -> None: ...


def _stop(*_: object) -> None:
    raise SystemExit(STOPPED)


def main() -> None:
    """The command ``maskloom``; errors of Maskloom become one line, and exit code 2 where settings or the machine are at fault,
    else 1: what the command asked for, another service, a full disk.
    """
    if _STOPPED_IN_ORDER.intersection(sys.argv[1:2]):
        signal.signal(signal.SIGTERM, _stop)  # while networks are imported; later the command does it
    try:
        cli()
    except MaskloomError as error:
        say_error(error)
        raise SystemExit(2 if isinstance(error, SetupError) else 1) from error
