"""Writes the reference pages that are made from code: settings, the command line and the engines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import typer
from typer.main import get_command

from backend.cli import cli
from backend.engines.catalogue import ENGINES
from backend.values.settings import Settings

REFERENCE = Path(__file__).parent / "reference"


def settings_page() -> str:
    """A table of every setting with its variable, its other names and its default."""
    lines = [
        "# Settings",
        "",
        "Set as environment variables. Made from `backend/values/settings.py` by `make docs`.",
        "",
        "| variable | default | what it does |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        familiar = [str(alias) for alias in getattr(field.validation_alias, "choices", [])[1:]]
        also = f" Also read from {', '.join(f'`{alias}`' for alias in familiar)}." if familiar else ""
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `MASKLOOM_{name.upper()}` | {default} | {field.description}{also} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """The help of every command, as text."""
    group = get_command(cli)
    lines = ["# The command line", "", "Made from `backend/cli/` by `make docs`.", ""]
    assert isinstance(group, typer.core.TyperGroup)
    for name, command in sorted(_commands(group)):
        lines += [f"## maskloom {name}", "", (command.help or "").strip(), ""]
        rows = [_option_row(parameter) for parameter in command.params if parameter.name != "help"]
        lines += ["| option | what it does | default |", "|---|---|---|", *rows, ""] if rows else []
    return "\n".join(lines)


def _commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, those of groups below too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", each) for below, each in _commands(command))
        else:
            yield name, command


def _option_row(parameter: click.Parameter) -> str:
    names = ", ".join(f"`{option}`" for option in parameter.opts)
    default = "" if parameter.default in (None, ()) else f"`{parameter.default}`"
    return f"| {names} | {getattr(parameter, 'help', '') or ''} | {default} |"


def engines_page() -> str:
    """A table of the engines."""
    lines = ["# Engines", "", "Chosen with `MASKLOOM_ENGINE`. Made from `backend/engines/catalogue.py` by `make docs`.", ""]
    lines += ["| engine | what it is | memory and time | licence |", "|---|---|---|---|"]
    lines += [f"| `{recipe.name}` | {recipe.summary} | {recipe.costs} | {recipe.licence} |" for recipe in ENGINES.values()]
    return "\n".join(lines) + "\n"


PAGES = {"settings.md": settings_page, "commands.md": commands_page, "engines.md": engines_page}


def main() -> None:
    """Write every page, or with ``--check`` exit with 1 when one is out of date."""
    outdated = [name for name, page in PAGES.items() if _differs(REFERENCE / name, page())]
    if "--check" in sys.argv[1:]:
        sys.exit(f"out of date, run 'make docs': {', '.join(outdated)}" if outdated else 0)
    for name in outdated:
        (REFERENCE / name).write_text(PAGES[name](), encoding="utf-8")


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != text


if __name__ == "__main__":
    main()
