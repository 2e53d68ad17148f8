"""A comparison of many images, added up as they come: memory holds numbers and a few pictures, never all masks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.evaluation.clicks import Clicked, simulate
from backend.evaluation.metrics import Pair, match
from backend.evaluation.samples import Sample
from backend.labelstudio.shapes import DrawnRegion
from backend.pictures import thumbnail
from backend.segmenter import Segmenter
from backend.values.errors import MaskloomError
from prompts.geometry import BoolArray
from prompts.kinds import Image

log = logging.getLogger(__name__)

WORST_KEPT = 12
ENOUGH_IOU = 0.9
LoadImage = Callable[[Sample], Image]


@dataclass(frozen=True, slots=True)
class Case:
    """An image with a poor answer: what is wrong, and stamps of the truth and of the prediction."""

    sample_key: str
    link: str
    what: str
    badness: float
    truth: bytes
    predicted: bytes


@dataclass(slots=True)
class Comparison:
    """What was found on all images so far."""

    images: int = 0
    pairs: list[Pair] = field(default_factory=list)
    worst: list[Case] = field(default_factory=list)
    clicked: list[Clicked] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def labels(self) -> list[str]:
        return sorted({pair.label for pair in self.pairs})

    def of(self, label: str) -> list[Pair]:
        return [pair for pair in self.pairs if pair.label == label]


@dataclass(frozen=True, slots=True)
class Clicking:
    """How clicks are simulated: with which segmenter, and for how many regions, one of an image."""

    segmenter: Segmenter
    regions: int


def compare(samples: Iterable[Sample], load: LoadImage, clicking: Clicking | None) -> Comparison:
    """Compare every sample. Images are loaded for clicks and for the worst cases alone; one that cannot be is noted."""
    found = Comparison()
    for sample in samples:
        pairs = match(sample.truth, sample.predicted, sample.crowds)
        found.images += 1
        found.pairs += pairs
        _note_worst(found, sample, pairs, load)
        if clicking and len(found.clicked) < clicking.regions and sample.truth:
            _click(found, sample, load, clicking.segmenter)
    return found


def badness(pairs: Sequence[Pair]) -> float:
    """How wrong the answer on an image is: 1 - IoU for each match, 1 for each miss and each false alarm."""
    return sum(1 - pair.iou for pair in pairs)


def _note_worst(found: Comparison, sample: Sample, pairs: Sequence[Pair], load: LoadImage) -> None:
    bad = badness(pairs)
    if bad < 0.1 or (len(found.worst) == WORST_KEPT and bad <= found.worst[-1].badness):
        return
    image = _load(found, sample, load)
    if image is not None:
        stamps = [thumbnail(image, _masks(regions, image)) for regions in (sample.truth, sample.predicted)]
        found.worst.append(Case(sample.key, sample.link, _in_words(pairs), bad, stamps[0], stamps[1]))
        found.worst.sort(key=lambda case: -case.badness)
        del found.worst[WORST_KEPT:]


def _click(found: Comparison, sample: Sample, load: LoadImage, segmenter: Segmenter) -> None:
    image = _load(found, sample, load)
    largest = max(sample.truth, key=lambda region: int(region.mask.sum()))
    if image is None or largest.mask.shape != image.shape[:2] or not largest.mask.any():
        return
    try:
        found.clicked.append(simulate(segmenter, image, largest.mask, ENOUGH_IOU))
    except MaskloomError as error:
        log.warning("no clicks on %s: %s", sample.key, error)


def _load(found: Comparison, sample: Sample, load: LoadImage) -> Image | None:
    try:
        return load(sample)
    except MaskloomError as error:
        if (told := f"{sample.key}: {error}") not in found.unread[-1:]:
            found.unread.append(told)
        return None


def _masks(regions: Sequence[DrawnRegion], image: Image) -> BoolArray:
    fitting = [region.mask for region in regions if region.mask.shape == image.shape[:2]]
    return np.array(fitting, np.bool_).reshape(-1, *image.shape[:2])


def _in_words(pairs: Sequence[Pair]) -> str:
    missed = [pair.label for pair in pairs if pair.row is None]
    wrong = [f"{pair.label} {pair.score:.2f}" for pair in pairs if pair.true_row is None and pair.score is not None]
    poor = [f"{pair.label} IoU {pair.iou:.2f}" for pair in pairs if pair.is_match and pair.iou < 0.85]
    parts = [("missed", missed), ("not there", wrong), ("inexact", poor)]
    return "; ".join(f"{name}: {', '.join(those[:4])}" for name, those in parts if those)
