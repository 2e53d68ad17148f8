"""Predictions beside what people submitted for the same images, from a Label Studio project or from COCO files."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from backend.errors import RequestError
from backend.labelstudio.client import LabelStudio, TaskDetails
from backend.labelstudio.regions import DrawnRegion, read_regions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image: what people drew, what was predicted, its address, and where a person sees it."""

    key: str
    image: str
    link: str
    truth: Sequence[DrawnRegion]
    predicted: Sequence[DrawnRegion]


def newest_version(tasks: Sequence[TaskDetails]) -> str:
    """The model version of the newest prediction. Raises RequestError when there is none."""
    newest = max((p for task in tasks for p in task.predictions), key=lambda p: p.id, default=None)
    if newest is None:
        raise RequestError("there are no predictions; make some with 'maskloom prelabel' first")
    return newest.model_version


def project_samples(studio: LabelStudio, project_id: int, image_key: str, version: str | None) -> Iterator[Sample]:
    """The annotated tasks of a project that have a prediction of a model version, by default of the newest.

    Raises RequestError when there are none.
    """
    listed = [task for task in studio.list_tasks(project_id) if task.annotations and task.predictions]
    if not listed:
        raise RequestError(f"project {project_id} has no task with both a submitted annotation and a prediction")
    wanted = version or newest_version([studio.task(listed[-1].id)])
    for each in listed:
        task = studio.task(each.id)
        predicted = next((p for p in task.predictions if p.model_version == wanted), None)
        truth = next((a for a in reversed(task.annotations) if not a.get("was_cancelled")), None)
        if predicted is not None and truth is not None:
            link = f"{studio.url}/projects/{project_id}/data?task={task.id}"
            image = str(task.data.get(image_key, ""))
            yield Sample(str(task.id), image, link, _read(task.id, truth["result"]), _read(task.id, predicted.result))


def _read(task: int, result: Sequence[Mapping[str, Any]]) -> list[DrawnRegion]:
    try:
        return read_regions(result)
    except RequestError as error:
        raise RequestError(f"task {task}: {error}") from error


def coco_samples(truth: Path, predicted: Path) -> Iterator[Sample]:
    """The images of two COCO files that both have, by file name; the second one's annotations have scores."""
    expected, found = _read_coco(truth), _read_coco(predicted)
    missing = Counter(name in found for name in expected)[False]
    if missing:
        log.warning("%d of %d images of %s are not in %s", missing, len(expected), truth, predicted)
    for name in sorted(expected.keys() & found.keys()):
        yield Sample(name, name, "", expected[name], found[name])


def _read_coco(path: Path) -> dict[str, list[DrawnRegion]]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: (image["file_name"], image["height"], image["width"]) for image in body["images"]}
        labels = {category["id"]: category["name"] for category in body["categories"]}
        regions: dict[str, list[DrawnRegion]] = {name: [] for name, _, _ in names.values()}
        for row in body["annotations"]:
            name, height, width = names[row["image_id"]]
            mask = coco.decode(_encoded(row["segmentation"], height, width)).astype(bool)
            regions[name].append(DrawnRegion(str(row["id"]), mask, labels[row["category_id"]], float(row.get("score", 1.0))))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} is no COCO file of instances: {type(error).__name__}: {error}") from error
    return regions


def _encoded(segmentation: Any, height: int, width: int) -> Any:
    """COCO's compressed run lengths of a polygon list, of plain run lengths, or of what is compressed already."""
    if isinstance(segmentation, list):
        return coco.merge(coco.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco.frPyObjects(segmentation, height, width)
    return segmentation
