"""The commands that judge a project: eval and rank."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from backend.bulk.run import BulkContext
from backend.cli.bulk import open_context
from backend.cli.terminal import read_settings, say, write_text
from backend.evaluation.metrics import Assumptions, quality
from backend.evaluation.report import Clicking, Comparison, compare, eval_page, numbers
from backend.evaluation.samples import Reviewing, Sample, coco_samples, project_samples
from backend.labelstudio.config import read_config
from backend.values.errors import RequestError
from backend.values.settings import Settings
from prompts.kinds import Image


@dataclass(frozen=True, slots=True)
class Comparing:
    """What is compared with what (see the options of ``maskloom eval``)."""

    truth: str
    predictions: Path | None
    images: Path
    version: str | None
    clicks: int

    @property
    def root(self) -> Path | None:
        """Where the images of COCO files lie; None where a project is judged."""
        return None if self.truth.isdecimal() else self.images.expanduser().resolve()


def judge(asked: Comparing, assumed: Assumptions, settings: Settings, report: Path, out: Path | None) -> None:
    """Compare predictions with the truth and write what was found. Raises RequestError when there is nothing to compare."""
    if asked.root is not None and asked.predictions is None:
        raise RequestError("a COCO file of truth needs --predictions, a COCO file of predictions")
    context = open_context(settings, asked.root)
    with closing(context.images):
        found = _compared(asked, context)
    write_text(report, eval_page(found, f"Maskloom evaluation of {asked.truth}", assumed), "--report")
    measured = numbers(found, assumed)
    if out is not None:
        write_text(out, json.dumps(measured, indent=1), "--out")
    q = quality(found.pairs)
    print(f"{found.images} images  PQ {q.pq:.3f}  SQ {q.sq:.3f}  RQ {q.rq:.3f}  boundary F {q.boundary:.3f}")
    print(f"mean of labels  PQ {measured['mean_of_labels']['pq']:.3f}")
    print(f'precision {q.precision:.3f}  recall {q.recall:.3f}  --min-score "{measured["min_score"]}"')
    say(f"report: {report}")


def _compared(asked: Comparing, context: BulkContext) -> Comparison:
    def load(sample: Sample) -> Image:
        if asked.root is not None:
            return context.images.load(str(asked.root / sample.image), "", sample.key).pixels
        return context.images.load(sample.image, asked.truth, sample.key).pixels

    clicking = Clicking(context.engine.segmenter(), asked.clicks) if asked.clicks else None
    return compare(_samples(asked, context), load, clicking)


def _samples(asked: Comparing, context: BulkContext) -> Iterator[Sample]:
    if asked.predictions is not None and asked.root is not None:
        return coco_samples(Path(asked.truth), asked.predictions)
    studio = context.studio()
    tag = read_config(studio.project(int(asked.truth)).label_config).images[0]
    return project_samples(studio, int(asked.truth), tag.data_key, asked.version)


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
    asked = Comparing(truth, predictions, images, version, clicks)
    judge(asked, Assumptions(draw_s=draw_seconds), read_settings(url, token), report, out)


class Destination(StrEnum):
    """Where the uncertainty is written."""

    DATA = "data"
    SCORE = "score"
    NOWHERE = "nowhere"


def rank(
    project: Annotated[int, typer.Argument(help="The number of a Label Studio project with predictions.")],
    to: Annotated[
        Destination,
        typer.Option(help="Write it to the tasks' data (maskloom_uncertainty, maskloom_reason) or as predictions' scores."),
    ] = Destination.NOWHERE,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Look at all images for those that come twice.")] = False,
    version: Annotated[str | None, typer.Option(help="The model version to rank; by default the newest of each task.")] = None,
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Print so many tasks.")] = 20,
) -> None:
    """Say which predictions a person should look at first, and let Label Studio sort by it."""
    context = open_context(read_settings(url, token), None)
    reviewing = Reviewing(context.studio(), project, version, context.images)
    with closing(context.images):
        found = reviewing.ranked()
        ranked = sorted(reviewing.without_duplicates(found) if duplicates else found, key=lambda each: -each.uncertainty)
    for each in ranked[:show]:
        print(f"{each.uncertainty:.3f}  task {each.task}  {each.reason}")
    match to:
        case Destination.DATA:
            reviewing.write_data(ranked)
            say("sort in the Data Manager by the column maskloom_uncertainty, descending")
        case Destination.SCORE:
            reviewing.write_scores(ranked)
            say("sort in the Data Manager by the prediction score, ascending")
        case Destination.NOWHERE:
            say("nothing was written; --to data or --to score does")
