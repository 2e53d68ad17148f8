"""``maskloom demo``, which is what ``make run`` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.terminal import console


def demo(
    images: Annotated[Path | None, typer.Option(help="A folder of photos; by default those that scikit-image ships.")] = None,
    labels: Annotated[str, typer.Option(help='Label names: "cat, cup, person".')] = "",
    port: Annotated[int, typer.Option(help="Port for Label Studio.")] = 8080,
    backend_port: Annotated[int, typer.Option(help="Port for Maskloom.")] = 9090,
    home: Annotated[Path, typer.Option(help="Folder for all that is made; it can be deleted.")] = Path(".maskloom"),
) -> None:
    """Open a Label Studio with photos that already carry labelled masks, and stay until Ctrl-C."""
    from backend.demo import DEFAULT_LABELS, DemoOptions, run

    names = tuple(dict.fromkeys(filter(None, map(str.strip, labels.split(","))))) or DEFAULT_LABELS
    run(DemoOptions(home=home, images=images, labels=names, port=port, backend_port=backend_port), console)
