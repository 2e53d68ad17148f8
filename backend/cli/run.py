"""``maskloom run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.terminal import console
from backend.demo import DEFAULT_LABELS, DemoOptions
from backend.demo import run as run_demo


def run(
    images: Annotated[Path | None, typer.Option(help="Folder of photos; without it, those that scikit-image ships.")] = None,
    labels: Annotated[str, typer.Option(help="What to find, separated by commas.")] = ", ".join(DEFAULT_LABELS),
    home: Annotated[Path, typer.Option(help="Folder for everything that is kept; it can be deleted.")] = Path(".maskloom"),
    port: Annotated[int, typer.Option(help="Port of Label Studio.")] = 8080,
    backend_port: Annotated[int, typer.Option(help="Port of Maskloom.")] = 9090,
) -> None:
    """Start a Label Studio with labelled masks in it, and Maskloom beside it; Ctrl-C ends both."""
    names = tuple(dict.fromkeys(name.strip() for name in labels.split(",") if name.strip()))
    if not names:
        raise typer.BadParameter("name at least one label", param_hint="--labels")
    run_demo(DemoOptions(home=home, images=images, labels=names, port=port, backend_port=backend_port), console)
