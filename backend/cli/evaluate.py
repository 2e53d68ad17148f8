"""``maskloom eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    truth: Annotated[str, typer.Argument(help="The number of a Label Studio project, or a COCO file of true masks.")],
    predictions: Annotated[Path | None, typer.Option(help="A COCO file of predictions, beside a file of truth.")] = None,
    images: Annotated[Path, typer.Option(help="Where the images of COCO files lie.")] = Path(),
    version: Annotated[str | None, typer.Option(help="The model version to judge; by default the newest.")] = None,
    clicks: Annotated[int, typer.Option(min=0, help="Simulate clicks on so many regions; 0 for none.")] = 0,
    draw_seconds: Annotated[float, typer.Option(min=0, help="Seconds to draw a mask by hand.")] = 80.0,
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
    report: Annotated[Path, typer.Option(help="The report page.")] = Path("maskloom-eval.html"),
    out: Annotated[Path | None, typer.Option(help="The numbers as JSON.")] = None,
) -> None:
    """Compare predictions with what people submitted."""
    from backend.cli.bulk import settings_of
    from backend.cli.judge import Trial, judge
    from backend.evaluation.effort import Assumptions

    trial = Trial(truth, predictions, images, version, clicks)
    judge(trial, Assumptions(draw_s=draw_seconds), settings_of(url, token), report, out)
