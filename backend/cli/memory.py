"""The commands about what a project's annotations have taught: remember and balance."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.terminal import read_settings, say, write_text
from backend.serving.remembering import Remembered
from backend.serving.remembering import remember as remember_all
from backend.stores.balance import Balance, BalanceRow
from backend.stores.database import Database
from backend.values.errors import RequestError

TOLD_EVERY = 100
"""Tasks."""
HEAD = "week        label             suggested  accepted (95 %)     edited deleted missed  drawn   IoU seconds prompts"


def remember(
    project: Annotated[int, typer.Argument(help="The number of a Label Studio project.")],
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
) -> None:
    """Make the memory of a project what its annotations say: those from before, and those missed while the server was down."""
    from backend.assemble import label_studio, memory_bank, project_key

    settings = read_settings(url, token)
    with label_studio(settings) as studio:
        found = studio.project(project)
        memory, key = memory_bank(settings), project_key(settings, found)
        done = remember_all(studio, found, key, memory, _watch)
    print(
        f"{done.regions:,} regions of {done.annotations:,} annotations of {done.tasks:,} tasks are remembered; "
        f"{done.gone:,} annotations that are gone were forgotten"
    )
    for label, number in memory.labels(key).items():
        print(f"{number:7,}  {label}")


def balance(
    project: Annotated[int, typer.Argument(help="The number of a Label Studio project.")],
    out: Annotated[Path | None, typer.Option(help="The numbers as JSON.")] = None,
) -> None:
    """Say what people made of the suggestions, by label and week: how many were accepted as they were, and what they cost."""
    settings = read_settings()
    rows = Balance(Database(settings.database_url)).rows(str(project))
    if not rows:
        raise RequestError(
            f"nothing is known about project {project} here: the server that answers it keeps this in its database "
            "(MASKLOOM_DATABASE), and `maskloom remember` reads annotations from before"
        )
    print(
        "week        label                 suggested  accepted (95 %)   edited  deleted  missed  drawn    IoU  seconds  prompts"
    )
    for row in rows:
        print(_line(row))
    if out is not None:
        numbers = [{**asdict(row), "week": row.week.isoformat(), "accepted_share": row.accepted_share} for row in rows]
        write_text(out, json.dumps(numbers, indent=1), "--out")


def _line(row: BalanceRow) -> str:
    share = row.accepted_share
    accepted = f"{share[0]:4.0%} ({share[1]:.0%}-{share[2]:.0%})" if share else ""
    iou = "" if row.iou is None else f"{row.iou:.3f}"
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    counts = f"{row.corrected:7,} {row.rejected:8,} {row.missed:7,} {row.drawn:6,}"
    return (
        f"{row.week}  {row.label[:20]:20}  {row.suggested:9,}  {accepted:16} {counts}  {iou:>5}  {seconds:>7}  {row.prompts:7,}"
    )


def _watch(stand: Remembered) -> None:
    if stand.tasks % TOLD_EVERY == 0:
        say(f"{stand.tasks:,} tasks, {stand.regions:,} regions")
