"""``maskloom parts``."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def parts() -> None:
    """List the engines."""
    from backend.engines.registry import ENGINES

    table = Table("engine", "what it is", "licence")
    for preset in ENGINES.values():
        table.add_row(preset.name, preset.summary, preset.licence)
    Console().print(table)
