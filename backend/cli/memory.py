"""The commands about what a project's annotations have taught: remember."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.terminal import read_settings, say
from backend.serving.remembering import Remembered
from backend.serving.remembering import remember as remember_all

TOLD_EVERY = 100
"""Tasks."""


def remember(
    project: Annotated[int, typer.Argument(help="The number of a Label Studio project.")],
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
) -> None:
    """Make the memory of a project what its annotations say: those from before, and those missed while the server was down."""
    from backend.assemble import label_studio, memory_bank

    settings = read_settings(url, token)
    with label_studio(settings) as studio:
        found = studio.project(project)
        memory, key = memory_bank(settings), str(found.id)
        done = remember_all(studio, found, key, memory, _watch)
    print(
        f"{done.regions:,} regions of {done.annotations:,} annotations of {done.tasks:,} tasks are remembered; "
        f"{done.gone:,} annotations that are gone were forgotten"
    )
    for label, number in memory.labels(key).items():
        print(f"{number:7,}  {label}")


def _watch(stand: Remembered) -> None:
    if stand.tasks % TOLD_EVERY == 0:
        say(f"{stand.tasks:,} tasks, {stand.regions:,} regions")
