"""The command line: the only place that prints; one file for each command."""

from __future__ import annotations

import typer

from backend.cli import demo, evaluate, fetch, parts, prelabel, rank, segment, serve
from backend.cli.terminal import say_error
from backend.values.errors import MaskloomError

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Labelled masks from words, clicks, boxes and examples.")
for command in (demo.demo, serve.serve, segment.segment, fetch.fetch, prelabel.prelabel, parts.parts):
    cli.command()(command)
cli.command("eval")(evaluate.evaluate)
cli.command()(rank.rank)


def main() -> None:
    """The command ``maskloom``; errors of Maskloom become one line and exit code 1."""
    try:
        cli()
    except MaskloomError as error:
        say_error(error)
        raise SystemExit(1) from error
