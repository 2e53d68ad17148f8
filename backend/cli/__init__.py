"""The command line: the only place that prints; one file for each command."""

from __future__ import annotations

import typer

from backend.cli.bulk import prelabel
from backend.cli.evaluate import evaluate, rank
from backend.cli.export import export
from backend.cli.memory import balance, memory, remember
from backend.cli.segment import segment
from backend.cli.serve import demo, doctor, fetch, parts, serve, warm
from backend.cli.terminal import say_error
from backend.cli.video import track, video
from backend.values.errors import MaskloomError, SetupError

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Labelled masks from words, clicks, boxes and examples.")
for command in (demo, serve, segment, track, fetch, prelabel, remember, balance, parts, doctor):
    cli.command()(command)
cli.command("eval")(evaluate)
cli.command()(rank)
cli.command()(export)
cli.command()(warm)
cli.add_typer(video, name="video")
cli.add_typer(memory, name="memory")


def main() -> None:
    """The command ``maskloom``; errors of Maskloom become one line, and exit code 2 where settings or the machine are at fault,
    else 1.
    """
    try:
        cli()
    except MaskloomError as error:
        say_error(error)
        raise SystemExit(2 if isinstance(error, SetupError) else 1) from error
