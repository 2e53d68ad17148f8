"""Predictions beside what people submitted for the same images, from a Label Studio project or from COCO files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from backend.labelstudio.api import LabelStudio, TaskDetails
from backend.labelstudio.shapes import DrawnRegion, read_regions
from backend.values.errors import RequestError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image: what people drew, what was predicted, its address, and where a person sees it. ``crowds`` are true regions of
    many things at once, in which predictions are neither right nor wrong.
    """

    key: str
    image: str
    link: str
    truth: Sequence[DrawnRegion]
    predicted: Sequence[DrawnRegion]
    crowds: Sequence[DrawnRegion] = ()


def newest_version(tasks: Sequence[TaskDetails]) -> str:
    """The model version of the newest prediction. Raises RequestError when there is none."""
    newest = max((p for task in tasks for p in task.predictions), key=lambda p: p.id, default=None)
    if newest is None:
        raise RequestError("there are no predictions; make some with 'maskloom prelabel' first")
    return newest.model_version


def project_samples(studio: LabelStudio, project_id: int, image_key: str, version: str | None) -> Iterator[Sample]:
    """The annotated tasks of a project that have a prediction of a model version, by default of the newest; the newest of each
    is taken. A task whose regions cannot be read is told and left out.

    Raises RequestError when there are none.
    """
    listed = [task for task in studio.list_tasks(project_id) if task.annotations and task.predictions]
    if not listed:
        raise RequestError(f"project {project_id} has no task with both a submitted annotation and a prediction")
    wanted = version or newest_version([studio.task(listed[-1].id)])
    found = 0
    for task in (studio.task(each.id) for each in listed):
        predicted = next((p for p in reversed(task.predictions) if p.model_version == wanted), None)
        truth = next((a for a in reversed(task.annotations) if not a.get("was_cancelled")), None)
        if predicted is None or truth is None:
            continue
        found += 1
        link = f"{studio.url}/projects/{project_id}/data?task={task.id}"
        image = str(task.data.get(image_key, ""))
        try:
            yield Sample(str(task.id), image, link, read_regions(truth["result"]), read_regions(predicted.result))
        except RequestError as error:
            log.warning("task %d is left out: %s", task.id, error)
    if not found:
        raise RequestError(
            f"no annotated task of project {project_id} has a prediction of {wanted!r}; choose another --version"
        )


def coco_samples(truth: Path, predicted: Path) -> Iterator[Sample]:
    """The images of two COCO files that both have, by file name; the second one's annotations have scores.

    Raises RequestError when one of them is no such file, or when they have no image in common.
    """
    expected, found = _read_coco(truth), _read_coco(predicted)
    common = sorted(expected.keys() & found.keys())
    if not common:
        names = [repr(next(iter(images), "none")) for images in (expected, found)]
        raise RequestError(
            f"{truth} and {predicted} have no image in common: an image must have the same file_name in both, "
            f"not {names[0]} here and {names[1]} there"
        )
    if len(common) < len(expected):
        log.warning("%d of %d images of %s are not in %s", len(expected) - len(common), len(expected), truth, predicted)
    for name in common:
        things, crowds = expected[name]
        yield Sample(name, name, "", things, found[name][0], crowds)


def _read_coco(path: Path) -> dict[str, tuple[list[DrawnRegion], list[DrawnRegion]]]:
    """The regions of every image by its file name: those of one thing each, and crowds."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        sizes = {image["id"]: (image["file_name"], image["height"], image["width"]) for image in body["images"]}
        labels = {category["id"]: category["name"] for category in body["categories"]}
        regions: dict[str, tuple[list[DrawnRegion], list[DrawnRegion]]] = {name: ([], []) for name, _, _ in sizes.values()}
        for row in body["annotations"]:
            name, height, width = sizes[row["image_id"]]
            mask = coco.decode(_encoded(row["segmentation"], height, width)).astype(bool)
            region = DrawnRegion(str(row["id"]), mask, labels[row["category_id"]], float(row.get("score", 1.0)))
            regions[name][1 if row.get("iscrowd") else 0].append(region)
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
