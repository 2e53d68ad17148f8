"""The command that looks at an installation and says what to do."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from backend.cli.terminal import read_settings

MARKS = {"ok": "[green]OK[/]  ", "advice": "[yellow]note[/]", "broken": "[red]DO[/]  "}


def doctor(
    host: Annotated[str, typer.Option(help="Address that the server listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that the server listens on.")] = 9090,
    load: Annotated[bool, typer.Option("--load/--no-load", help="Load the engine, which takes its time and memory.")] = True,
) -> None:
    """Look at engine, weights, disk, database, Label Studio: each line is OK or says what to do; exit code 1 if one must."""
    from backend.assemble import engine_handle
    from backend.doctor.findings import examine_machine, examine_port
    from backend.doctor.readiness import examine_label_studio

    settings = read_settings()
    engine = engine_handle(settings)
    if load and engine.problem is None:
        engine.try_loading()
    found = [*examine_machine(settings, engine), examine_port(host, port), *examine_label_studio(settings, port)]
    shown = Console(highlight=False, soft_wrap=True)
    for each in found:
        shown.print(f"{MARKS[each.level]} {escape(each.subject)}: {escape(' '.join(each.text.split()))}")
    raise typer.Exit(int(any(each.level == "broken" for each in found)))
