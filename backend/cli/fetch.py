"""``maskloom fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.terminal import say
from backend.values.errors import SetupError


def fetch(
    engine: Annotated[str, typer.Argument(help="An engine of published models; `maskloom parts` lists them.")],
    to: Annotated[Path | None, typer.Option(help="Folder of the bundle; by default below MASKLOOM_HOME.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only compare a bundle with its manifest, without a network.")] = False,
) -> None:
    """Get the models of an engine, or go on where that broke off."""
    from backend.engines import download as hub
    from backend.engines.registry import BundlePreset, find_engine
    from backend.values.settings import Settings

    settings, preset = Settings(), find_engine(engine)
    if not isinstance(preset, BundlePreset) or preset.parts is None:
        raise SetupError(f"the engine {engine!r} has no models to fetch")
    folder = to or settings.home_folder / "engines" / engine
    if check:
        wrong = hub.verify(folder)
        if wrong:
            raise SetupError("; ".join(wrong))
        say(f"{folder} is whole")
        return
    if settings.offline:
        raise SetupError("offline mode is on (MASKLOOM_OFFLINE or HF_HUB_OFFLINE): nothing is fetched")
    say(f"licences: {preset.parts.licence}")
    token = settings.hub_token.get_secret_value() if settings.hub_token else None
    hub.fetch(preset.parts, folder, hub.Hub(settings.hub_url, token), say)
    say(f"wrote {folder}; start with MASKLOOM_ENGINE={engine}" + (f" MASKLOOM_WEIGHTS={folder}" if to else ""))
