"""``maskloom prelabel``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.bulk.target import Target


def prelabel(
    source: Annotated[str, typer.Argument(help="A folder of images, or the number of a Label Studio project.")],
    to: Annotated[
        Target | None, typer.Option(help="Where the masks go; for a project its predictions, for a folder COCO.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file or the folder to write.")] = None,
    labels: Annotated[str, typer.Option(help="What to find, with aliases: 'cat=kitten|tabby, dog'.")] = "",
    config: Annotated[Path | None, typer.Option(help="A labelling config with the labels, for a folder.")] = None,
    min_score: Annotated[str, typer.Option(help="Least scores: '0.3' or '0.3, cat=0.6'.")] = "",
    params: Annotated[
        str, typer.Option(help='What the masks become, \'{"mode": "semantic"}\'; by default the project\'s extra parameters.')
    ] = "",
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
    view: Annotated[int | None, typer.Option(help="Only the tasks of this Data Manager view.")] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Only tasks without annotations.")] = False,
    only_missing: Annotated[bool, typer.Option("--only-missing", help="Only tasks without any prediction.")] = False,
    url_prefix: Annotated[str | None, typer.Option(help="What stands before a file's name in an import file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Work on this many images at most.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Try this many images and write the preview page alone.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an earlier run, never begin one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do anew what is done, and replace it.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images that the model gets at once.")] = 4,
    workers: Annotated[int, typer.Option(min=0, help="Processes with a model each on this machine (needs Ray).")] = 0,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, such as ray://head:10001 or auto.")] = None,
    report: Annotated[Path, typer.Option(help="The report page.")] = Path("maskloom-run.html"),
) -> None:
    """Segment all images of a folder or a project, on one machine or many; the same command goes on where it stopped."""
    from backend.bulk.order import Order
    from backend.bulk.sources import Selection
    from backend.cli.bulk import Way, run_order

    selection = Selection(view, unlabelled, only_missing)
    order = Order(source, to, out, labels, config, min_score, params, url_prefix=url_prefix, selection=selection)
    way = Way(
        url=url, token=token, limit=limit, dry_run=dry_run, sample=sample, resume=resume, force=force, batch=batch,
        workers=workers, ray=ray, report=report,
    )  # fmt: skip
    run_order(order, way)
