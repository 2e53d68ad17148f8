"""Reads a task of a project for an export: which annotation counts, its masks, its images, and what is left out.

Annotations are filtered, one is chosen among those of several annotators, and how far these agree is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np

from backend.export.lines import FileNames, ImageRow, Json, LeftOut, MaskRow, TaskLine
from backend.export.regions import ImageRegions, ResultReader, images_of
from backend.labelstudio.api import Project, TaskDetails
from backend.labelstudio.request.request import TaskImage
from backend.values.errors import MaskloomError, RequestError
from backend.values.masks import Masks, Region, overlaps
from prompts.geometry import Size

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

    def refusal(self, annotation: Mapping[str, Any]) -> str:
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


def annotator_of(annotation: Mapping[str, Any]) -> int:
    """The number of whoever made an annotation; -1 when it does not tell."""
    found = annotation.get("completed_by")
    number = found.get("id") if isinstance(found, Mapping) else found
    return number if isinstance(number, int) else -1


def changed_at(annotation: Mapping[str, Any]) -> float:
    """When an annotation was last changed, in seconds since 1970; 0 when it does not tell."""
    try:
        return datetime.fromisoformat(str(annotation.get("updated_at") or annotation.get("created_at"))).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def review_of(annotation: Mapping[str, Any]) -> Review:
    """What the last review of an annotation says."""
    reviews = [each for each in annotation.get("reviews") or () if isinstance(each, Mapping)]
    if not reviews:
        return Review.UNREVIEWED
    last = max(reviews, key=lambda each: str(each.get("created_at") or each.get("id") or ""))
    return Review.ACCEPTED if last.get("accepted") else Review.REJECTED


def latest_of_each(annotations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of every annotator the annotation that was changed last, the oldest first; equal times by their numbers."""
    ordered = sorted(annotations, key=_age)
    return sorted({annotator_of(each): each for each in ordered}.values(), key=_age)


def newest(annotations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The annotation that was changed last."""
    return max(annotations, key=_age)


def _age(annotation: Mapping[str, Any]) -> tuple[float, int]:
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


ANY_VERSION = "*"


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a project is read: the tasks of a ``view``, the annotations that a filter leaves and a ``pick`` takes, regions
    with some ``labels`` (empty: all), and a prediction of a model version beside (empty: none; ``*``: the newest).
    """

    view: int | None = None
    pick: Pick = Pick.NEWEST
    least_agreement: float = 0.7
    annotations: AnnotationFilter = field(default_factory=AnnotationFilter)
    labels: frozenset[str] = frozenset()
    predictions: str = ""


@dataclass(frozen=True, slots=True)
class TaskReader:
    """Reads one task of a project. ``measure`` tells the size of an image on which nothing was drawn; ``keep`` stores the file
    of an image under the name that it returns, where the format wants files. Both raise MaskloomError when the image is gone.
    """

    project: Project
    scope: Scope
    names: FileNames
    measure: Callable[[str, int], Size]
    keep: Callable[[str, str, int, Size | None], str]
    needs_source: bool = False

    def read(self, details: TaskDetails) -> TaskLine:
        """What is exported of a task; what is wrong with it is told in its line."""
        task, left_out = details.id, list[LeftOut]()
        try:
            images = images_of(self.project.label_config, task, details.data)
            chosen, agreed = self._choose(details, images, left_out)
        except MaskloomError as error:
            return TaskLine(task, left_out=(*left_out, LeftOut(task, 0, "", str(error))))
        reader = ResultReader(task, images, self.scope.labels, left_out)
        drawn = reader.read(chosen.get("result") or (), int(chosen["id"]))
        predicted = self._predicted(details, images)
        rows = list(self._rows(task, drawn, predicted, left_out))
        source = self._source(details, chosen, reader.kept) if self.needs_source and rows else {}
        return TaskLine(task, tuple(rows), tuple(left_out), agreed, source)

    def _choose(
        self, details: TaskDetails, images: Sequence[TaskImage], left_out: list[LeftOut]
    ) -> tuple[Mapping[str, Any], float | None]:
        """The annotation that counts, and how far the annotators agree. Raises RequestError when none counts."""
        looked_at = []
        for annotation in details.annotations:
            if reason := self.scope.annotations.refusal(annotation):
                left_out.append(LeftOut(details.id, int(annotation["id"]), "", reason))
            else:
                looked_at.append(annotation)
        if self.scope.pick is Pick.GROUND_TRUTH:
            looked_at = [each for each in looked_at if each.get("ground_truth")]
        if not looked_at:
            raise RequestError("no annotation of it counts" if details.annotations else "nobody has submitted an annotation")
        if self.scope.pick is not Pick.AGREED:
            return newest(looked_at), None
        return self._most_agreed(details.id, latest_of_each(looked_at), images)

    def _most_agreed(
        self, task: int, annotations: Sequence[Mapping[str, Any]], images: Sequence[TaskImage]
    ) -> tuple[Mapping[str, Any], float]:
        if len(annotations) < 2:
            raise RequestError("only one annotator worked on it, so that nothing can be said of agreement")
        drawn = [
            [image.regions for image in ResultReader(task, images).read(each.get("result") or (), 0)] for each in annotations
        ]
        scores = agreements(drawn)
        mean = sum(scores) / len(scores)
        if mean < self.scope.least_agreement:
            raise RequestError(f"its annotators agree by {mean:.2f}, less than {self.scope.least_agreement:g}")
        return annotations[max(range(len(scores)), key=lambda row: (scores[row], row))], mean

    def _predicted(self, details: TaskDetails, images: Sequence[TaskImage]) -> list[ImageRegions]:
        version = self.scope.predictions
        made = [each for each in details.predictions if version == ANY_VERSION or (version and each.model_version == version)]
        return ResultReader(details.id, images, self.scope.labels).read(made[-1].result, 0) if made else []

    def _rows(
        self, task: int, drawn: Sequence[ImageRegions], predicted: Sequence[ImageRegions], left_out: list[LeftOut]
    ) -> Iterator[ImageRow]:
        for place, image in enumerate(drawn):
            try:
                name = self.keep(image.url, self.names.of(image.url, image.key), task, image.size)
                size = image.size or self.measure(image.url, task)
            except MaskloomError as error:
                left_out.append(LeftOut(task, 0, "", str(error)))
                continue
            beside = predicted[place].regions if predicted else ()
            found = tuple(MaskRow.of(region) for region in beside if region.runs.size == size)
            masks = tuple(map(MaskRow.of, image.regions))
            yield ImageRow(name, image.url, task, size.height, size.width, masks, found)

    def _source(self, details: TaskDetails, chosen: Mapping[str, Any], kept: set[str]) -> Json:
        """The task with the annotation that counts, without the regions that are left out, as Label Studio imports it."""
        gone = {str(each.get("id")) for each in chosen["result"] if each.get("type") != "relation"} - kept
        result = [each for each in chosen["result"] if str(each.get("id")) not in gone or "original_width" not in each]
        version = self.scope.predictions
        made = [each for each in details.predictions if version in (each.model_version, ANY_VERSION)] if version else []
        beside = [{"model_version": p.model_version, "score": p.score, "result": list(p.result)} for p in made[-1:]]
        kept_annotation = {**chosen, "result": result}
        return {"id": details.id, "data": dict(details.data), "annotations": [kept_annotation], "predictions": beside}
