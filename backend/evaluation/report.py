"""A comparison of many images, added up as they come, and its report: a page, and the same numbers as plain values.

Memory holds numbers and a few pictures, never all masks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend import pictures as pages
from backend.evaluation.metrics import (
    MOST_CLICKS,
    THRESHOLDS,
    Assumptions,
    Clicked,
    Effort,
    Pair,
    at_threshold,
    best_threshold,
    estimate,
    match,
    quality,
    simulate,
)
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


MOST_CURVES = 6
LEVELS = (0.85, 0.90)
_MEANS = ("pq", "sq", "rq", "boundary", "precision", "recall")


def numbers(found: Comparison, assumed: Assumptions) -> dict[str, Any]:
    """Everything that was measured, for another program."""
    return {
        "images": found.images,
        "all": _facts(found.pairs),
        "mean_of_labels": {name: round(mean_of_labels(found, name), 6) for name in _MEANS},
        "labels": {label: _facts(found.of(label)) for label in found.labels()},
        "clicks": {f"{level:.2f}": mean_clicks(found, level) for level in LEVELS},
        "clicked_regions": len(found.clicked),
        "effort": _effort_facts(effort_of(found, assumed)),
        "min_score": min_score_text(found),
        "unread": found.unread,
    }


def mean_of_labels(found: Comparison, name: str) -> float:
    """A figure of Quality as papers give it: its mean over the labels, however rare (Kirillov et al., section 4.1)."""
    values = [float(getattr(quality(found.of(label)), name)) for label in found.labels()]
    return sum(values) / len(values) if values else 0.0


def mean_clicks(found: Comparison, iou: float) -> float | None:
    """The mean clicks to an IoU; None when no clicks were simulated."""
    needed = [clicked.needed(iou) for clicked in found.clicked]
    return sum(needed) / len(needed) if needed else None


def effort_of(found: Comparison, assumed: Assumptions) -> Effort:
    return estimate(found.pairs, mean_clicks(found, LEVELS[0]), assumed)


def min_score_text(found: Comparison) -> str:
    """The best thresholds as ``maskloom prelabel --min-score`` takes them; none for labels that are never right."""
    best = {label: best_threshold(found.of(label)) for label in found.labels()}
    return ", ".join(f"{label}={threshold:g}" for label, (threshold, f1) in best.items() if f1 > 0)


def eval_page(found: Comparison, title: str, assumed: Assumptions) -> str:
    """The page, as HTML."""
    overall = quality(found.pairs)
    subtitle = (
        f"{found.images:,} images, {overall.matches + overall.misses:,} true regions, "
        f"{overall.matches + overall.false_alarms:,} predicted ones"
    )
    return pages.page(
        title,
        subtitle,
        [
            _quality_section(found),
            _threshold_section(found),
            _clicks_section(found),
            _effort_section(found, assumed),
            _worst_section(found),
            pages.section("Images that could not be read", *map(pages.note, found.unread)) if found.unread else "",
        ],
    )


def _quality_section(found: Comparison) -> str:
    rows = [_row(label, found.of(label)) for label in found.labels()] + [_row("all regions", found.pairs)]
    rows.append(["mean of labels", None, *(mean_of_labels(found, name) for name in _MEANS)])
    head = ["label", "true", "PQ", "SQ (mean IoU)", "RQ", "boundary F", "precision", "recall"]
    ious = pages.spread(pair.iou for pair in found.pairs if pair.is_match)
    by_label = {label: quality(found.of(label)).pq for label in found.labels()}
    return pages.section(
        "Quality",
        pages.note("A prediction and a true region of its label are the same thing when their IoU is above 0.5."),
        pages.table(head, rows),
        pages.charts(pages.bars("PQ by label", by_label), pages.histogram("IoU of matches", ious)),
    )


def _row(label: str, pairs: Sequence[Pair]) -> list[str | float | int | None]:
    q = quality(pairs)
    return [label, q.matches + q.misses, q.pq, q.sq, q.rq, q.boundary, q.precision, q.recall]


def _threshold_section(found: Comparison) -> str:
    curves: dict[str, list[tuple[float, float]]] = {}
    rows: list[list[str | float | int | None]] = []
    for label in found.labels():
        points = [at_threshold(found.of(label), threshold) for threshold in THRESHOLDS]
        curves[label] = [(q.recall, q.precision) for q in points if q.matches + q.false_alarms]
        threshold, f1 = best_threshold(found.of(label))
        q = at_threshold(found.of(label), threshold)
        rows.append([label, threshold, f1, q.precision, q.recall])
    return pages.section(
        "Thresholds",
        pages.note("The score with the best F1 for each label, from what people accepted and rejected:"),
        pages.table(["label", "least score", "F1", "precision", "recall"], rows),
        pages.note(f'maskloom prelabel ... --min-score "{min_score_text(found)}"'),
        pages.charts(pages.curves("Precision (up) over recall", dict(list(curves.items())[:MOST_CURVES]))),
    )


def _clicks_section(found: Comparison) -> str:
    if not found.clicked:
        return ""
    lines = {}
    for level in LEVELS:
        needed = [clicked.needed(level) if max(clicked.ious) >= level else None for clicked in found.clicked]
        done = [sum(each is not None and each <= n for each in needed) / len(needed) for n in range(MOST_CLICKS + 1)]
        lines[f"IoU {level:.2f}"] = [(float(n), share) for n, share in enumerate(done)]
    words = ", ".join(f"{mean_clicks(found, level):.2f} to IoU {level:.2f}" for level in LEVELS)
    return pages.section(
        "Simulated clicks",
        pages.note(
            f"Mean clicks: {words}; the largest region of {len(found.clicked)} images each. Every click goes into the middle "
            f"of the largest error, which is kinder than people are; a region that never gets there counts as {MOST_CLICKS}."
        ),
        pages.charts(pages.curves("Share of regions that are there after n clicks", lines, (float(MOST_CLICKS), 1.0))),
    )


def _effort_section(found: Comparison, assumed: Assumptions) -> str:
    effort = effort_of(found, assumed)
    return pages.section(
        "Time saved (an estimate)",
        pages.note(
            f"By hand {effort.by_hand_h:.2f} h, with these predictions {effort.with_predictions_h:.2f} h: "
            f"{effort.factor:.1f} times as fast, if:"
        ),
        "<ul>" + "".join(f"<li>{sentence}</li>" for sentence in assumed.sentences) + "</ul>",
    )


def _worst_section(found: Comparison) -> str:
    pictures = []
    for case in found.worst:
        pictures.append((case.truth, pages.link(case.sample_key, case.link), "the truth"))
        pictures.append((case.predicted, pages.link(case.sample_key, case.link), f"predicted. {case.what}"))
    return pages.section("Worst cases", pages.sheet(pictures)) if pictures else ""


def _facts(pairs: Sequence[Pair]) -> dict[str, float]:
    q = quality(pairs)
    threshold, f1 = best_threshold(pairs)
    names = ("pq", "sq", "rq", "boundary", "precision", "recall", "matches", "misses", "false_alarms")
    return {name: round(float(getattr(q, name)), 6) for name in names} | {"best_threshold": threshold, "best_f1": round(f1, 6)}


def _effort_facts(effort: Effort) -> dict[str, float]:
    return {"by_hand_h": effort.by_hand_h, "with_predictions_h": effort.with_predictions_h, "factor": effort.factor}
