"""Which annotation of a task counts: the filters, the choice among several annotators, and how far those agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np

from backend.values.masks import Masks, Region, overlaps

Json = Mapping[str, Any]
MATCH_IOU = 0.5
"""Above this two regions of one label are the same thing (Kirillov et al., "Panoptic Segmentation", CVPR 2019)."""


class Pick(StrEnum):
    """Which of a task's annotations is exported."""

    NEWEST = "newest"
    """The one that was changed last."""
    GROUND_TRUTH = "ground-truth"
    """The one that is marked as ground truth."""
    AGREED = "agreed"
    """Of several annotators the one that agrees best with the others, where all agree well enough."""


class Review(StrEnum):
    """What a reviewer said last; editions of Label Studio without reviews have unreviewed annotations alone."""

    UNREVIEWED = "unreviewed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class AnnotationFilter:
    """Which annotations are looked at: changed ``since`` and before ``until``, by one of the ``annotators`` (their numbers;
    None: anybody), in one of the ``reviews`` (empty: any).
    """

    since: datetime | None = None
    until: datetime | None = None
    annotators: frozenset[int] | None = None
    reviews: frozenset[Review] = frozenset()

    def refusal(self, annotation: Json) -> str:
        """Why an annotation is left out; empty for one that is looked at."""
        if annotation.get("was_cancelled"):
            return "it was skipped by its annotator"
        if self.annotators is not None and annotator_of(annotation) not in self.annotators:
            return "its annotator was not asked for"
        if self.reviews and review_of(annotation) not in self.reviews:
            return f"its review state is {review_of(annotation)}"
        changed = changed_at(annotation)
        if (self.since and changed < self.since.timestamp()) or (self.until and changed >= self.until.timestamp()):
            return "it was changed outside the dates that were asked for"
        return ""


def annotator_of(annotation: Json) -> int:
    """The number of whoever made an annotation; -1 when it does not tell."""
    found = annotation.get("completed_by")
    number = found.get("id") if isinstance(found, Mapping) else found
    return number if isinstance(number, int) else -1


def changed_at(annotation: Json) -> float:
    """When an annotation was last changed, in seconds since 1970; 0 when it does not tell."""
    try:
        return datetime.fromisoformat(str(annotation.get("updated_at") or annotation.get("created_at"))).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def review_of(annotation: Json) -> Review:
    """What the last review of an annotation says."""
    reviews = [each for each in annotation.get("reviews") or () if isinstance(each, Mapping)]
    if not reviews:
        return Review.UNREVIEWED
    last = max(reviews, key=lambda each: str(each.get("created_at") or each.get("id") or ""))
    return Review.ACCEPTED if last.get("accepted") else Review.REJECTED


def latest_of_each(annotations: Sequence[Json]) -> list[Json]:
    """Of every annotator the annotation that was changed last, the oldest first; equal times by their numbers."""
    ordered = sorted(annotations, key=_age)
    return sorted({annotator_of(each): each for each in ordered}.values(), key=_age)


def newest(annotations: Sequence[Json]) -> Json:
    """The annotation that was changed last."""
    return max(annotations, key=_age)


def _age(annotation: Json) -> tuple[float, int]:
    return changed_at(annotation), int(annotation.get("id") or 0)


def agreement(first: Sequence[Region], second: Sequence[Region]) -> float:
    """How far two annotations of one image agree: their panoptic quality, twice the sum of the matches' IoU over the number of
    regions of both; 1 when both are empty.
    """
    if not first and not second:
        return 1.0
    labels = {region.label for region in first} & {region.label for region in second}
    matched = sum(_matched(_of(first, label), _of(second, label)) for label in labels)
    return 2 * matched / (len(first) + len(second))


def _of(regions: Sequence[Region], label: str | None) -> list[Region]:
    return [region for region in regions if region.label == label]


def _matched(first: Sequence[Region], second: Sequence[Region]) -> float:
    """The sum of the IoU of regions of one label that match, the best pairs first."""
    if first[0].runs.size != second[0].runs.size:
        return 0.0
    iou, _ = overlaps(Masks(first[0].runs.size, tuple(region.runs for region in (*first, *second))))
    between, total = iou[: len(first), len(first) :].copy(), 0.0
    while between.size and between.max() > MATCH_IOU:
        row, column = np.unravel_index(int(between.argmax()), between.shape)
        total += float(between[row, column])
        between[row, :] = between[:, column] = 0
    return total


def agreements(drawn: Sequence[Sequence[Sequence[Region]]]) -> list[float]:
    """Of annotations, each the regions of every image, the mean agreement of each with the others."""

    def between(one: Sequence[Sequence[Region]], other: Sequence[Sequence[Region]]) -> float:
        return float(np.mean([agreement(a, b) for a, b in zip(one, other, strict=True)]))

    rows = [[between(one, other) for other in drawn if other is not one] for one in drawn]
    return [float(np.mean(row)) for row in rows]
