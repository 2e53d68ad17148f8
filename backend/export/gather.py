"""Reads a task of a project for an export: which annotation counts, its masks, its images, and what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.export.choice import AnnotationFilter, Pick, agreements, latest_of_each, newest
from backend.export.lines import Json, TaskLine
from backend.export.regions import ImageRegions, LeftOut, ResultReader, images_of
from backend.export.rows import FileNames, ImageRow, MaskRow
from backend.labelstudio.api import Project, TaskDetails
from backend.labelstudio.request.request import TaskImage
from backend.values.errors import MaskloomError, RequestError
from prompts.geometry import Size

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
