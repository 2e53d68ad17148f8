"""How predictions are judged at the terminal: read, compared, written as a page and as numbers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from backend.assemble import BulkParts, bulk_parts
from backend.cli.terminal import say, write_text
from backend.evaluation.compare import Clicking, Comparison, compare
from backend.evaluation.effort import Assumptions
from backend.evaluation.metrics import quality
from backend.evaluation.report import eval_page, numbers
from backend.evaluation.samples import Sample, coco_samples, project_samples
from backend.labelstudio.config import read_config
from backend.values.errors import RequestError
from backend.values.settings import Settings
from prompts.kinds import Image


@dataclass(frozen=True, slots=True)
class Trial:
    """What is compared with what (see the options of ``maskloom eval``)."""

    truth: str
    predictions: Path | None
    images: Path
    version: str | None
    clicks: int


def judge(trial: Trial, assumed: Assumptions, settings: Settings, report: Path, out: Path | None) -> None:
    """Compare predictions with the truth and write what was found. Raises RequestError when there is nothing to compare."""
    of_project = trial.truth.isdecimal()
    if not of_project and trial.predictions is None:
        raise RequestError("a COCO file of truth needs --predictions, a COCO file of predictions")
    root = None if of_project else trial.images.expanduser().resolve()
    with closing(bulk_parts(settings, root, threading.Event())) as parts:
        found = _compared(trial, parts)
    write_text(report, eval_page(found, f"Maskloom evaluation of {trial.truth}", assumed), "--report")
    measured = numbers(found, assumed)
    if out is not None:
        write_text(out, json.dumps(measured, indent=1), "--out")
    q = quality(found.pairs)
    print(f"{found.images} images  PQ {q.pq:.3f}  SQ {q.sq:.3f}  RQ {q.rq:.3f}  boundary F {q.boundary:.3f}")
    print(f"mean of labels  PQ {measured['mean_of_labels']['pq']:.3f}")
    print(f'precision {q.precision:.3f}  recall {q.recall:.3f}  --min-score "{measured["min_score"]}"')
    say(f"report: {report}")


def _compared(trial: Trial, parts: BulkParts) -> Comparison:
    def load(sample: Sample) -> Image:
        address = str(parts.root / sample.image) if parts.root else sample.image
        return parts.images.load(address, "" if parts.root else trial.truth, sample.key)

    clicking = Clicking(parts.engine.segmenter(), trial.clicks) if trial.clicks else None
    return compare(_samples(trial, parts), load, clicking)


def _samples(trial: Trial, parts: BulkParts) -> Iterator[Sample]:
    if parts.root is not None and trial.predictions is not None:
        return coco_samples(Path(trial.truth), trial.predictions)
    studio = parts.studio()
    tag = read_config(studio.project(int(trial.truth)).label_config).images[0]
    return project_samples(studio, int(trial.truth), tag.data_key, trial.version)
