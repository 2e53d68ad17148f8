"""``maskloom eval``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.terminal import say


def evaluate(
    truth: Annotated[str, typer.Argument(help="The number of a Label Studio project, or a COCO file of true masks.")],
    predictions: Annotated[Path | None, typer.Option(help="A COCO file of predictions, beside a file of truth.")] = None,
    images: Annotated[Path, typer.Option(help="Where the images of COCO files lie.")] = Path(),
    version: Annotated[str | None, typer.Option(help="The model version to judge; by default the newest.")] = None,
    clicks: Annotated[int, typer.Option(min=0, help="Simulate clicks on so many regions; 0 for none.")] = 0,
    draw_seconds: Annotated[float, typer.Option(help="Seconds to draw a mask by hand.")] = 80.0,
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
    report: Annotated[Path, typer.Option(help="The report page.")] = Path("maskloom-eval.html"),
    out: Annotated[Path | None, typer.Option(help="The numbers as JSON.")] = None,
) -> None:
    """Compare predictions with what people submitted."""
    import threading

    from backend.assemble import bulk_parts
    from backend.cli.bulk import settings_of
    from backend.errors import RequestError
    from backend.evaluation.compare import Clicking, compare
    from backend.evaluation.effort import Assumptions
    from backend.evaluation.metrics import quality
    from backend.evaluation.report import eval_page, numbers
    from backend.evaluation.samples import Sample, coco_samples, project_samples
    from backend.labelstudio.config import read_config
    from prompts.kinds import Image

    of_project = truth.isdecimal()
    if not of_project and predictions is None:
        raise RequestError("a COCO file of truth needs --predictions, a COCO file of predictions")
    parts = bulk_parts(settings_of(url, token), None if of_project else images.resolve(), threading.Event())

    def samples() -> Iterator[Sample]:
        if not of_project and predictions is not None:
            return coco_samples(Path(truth), predictions)
        studio = parts.studio()
        tag = read_config(studio.project(int(truth)).label_config).images[0]
        return project_samples(studio, int(truth), tag.data_key, version)

    def load(sample: Sample) -> Image:
        address = sample.image if of_project else str((images / sample.image).resolve())
        return parts.images.load(address, truth if of_project else "", sample.key)

    found = compare(samples(), load, Clicking(parts.engine.segmenter(), clicks) if clicks else None)
    assumed = Assumptions(draw_s=draw_seconds)
    report.write_text(eval_page(found, f"Maskloom evaluation of {truth}", assumed), encoding="utf-8")
    measured = numbers(found, assumed)
    if out is not None:
        out.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    q = quality(found.pairs)
    print(f"{found.images} images  PQ {q.pq:.3f}  SQ {q.sq:.3f}  RQ {q.rq:.3f}  boundary F {q.boundary:.3f}")
    print(f'precision {q.precision:.3f}  recall {q.recall:.3f}  --min-score "{measured["min_score"]}"')
    say(f"report: {report}")
