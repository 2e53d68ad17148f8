"""``maskloom rank``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from backend.cli.terminal import say


class Place(StrEnum):
    """Where the uncertainty is written."""

    DATA = "data"
    SCORE = "score"
    NOWHERE = "nowhere"


def rank(
    project: Annotated[int, typer.Argument(help="The number of a Label Studio project with predictions.")],
    to: Annotated[
        Place,
        typer.Option(help="Write it to the tasks' data (maskloom_uncertainty, maskloom_reason) or as predictions' scores."),
    ] = Place.NOWHERE,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Look at all images for those that come twice.")] = False,
    version: Annotated[str | None, typer.Option(help="The model version to rank; by default the newest of each task.")] = None,
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Print so many tasks.")] = 20,
) -> None:
    """Say which predictions a person should look at first, and let Label Studio sort by it."""
    import threading
    from contextlib import closing

    from backend.assemble import bulk_parts
    from backend.cli.bulk import settings_of
    from backend.evaluation.review import Reviewing

    parts = bulk_parts(settings_of(url, token), None, threading.Event())
    reviewing = Reviewing(parts.studio(), project, version, parts.images)
    with closing(parts):
        found = reviewing.ranked()
        ranked = sorted(reviewing.without_duplicates(found) if duplicates else found, key=lambda each: -each.uncertainty)
    for each in ranked[:show]:
        print(f"{each.uncertainty:.3f}  task {each.task}  {each.reason}")
    match to:
        case Place.DATA:
            reviewing.write_data(ranked)
            say("sort in the Data Manager by the column maskloom_uncertainty, descending")
        case Place.SCORE:
            reviewing.write_scores(ranked)
            say("sort in the Data Manager by the prediction score, ascending")
        case Place.NOWHERE:
            say("nothing was written; --to data or --to score does")
