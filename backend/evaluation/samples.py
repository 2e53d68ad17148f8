"""Tasks to evaluate with: what people submitted beside what was predicted, and which task to review first."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from backend.images.limits import ImageSource
from backend.labelstudio.api import LabelStudio, TaskDetails
from backend.labelstudio.config import read_config
from backend.labelstudio.shapes import DrawnRegion, read_regions
from backend.labelstudio.video_answer import rank_film
from backend.values.errors import ImageError, RemoteError, RequestError
from prompts.geometry import BoolArray, Size, check_length
from prompts.kinds import Image

log = logging.getLogger(__name__)
MOST_PIXELS = 1 << 30
"""An image of a COCO file that says to be larger is none."""
NEARLY_NOTHING = 0.0005
"""A prediction whose regions cover less of the image than this says nearly nothing."""
SAME_BITS = 4
"""Difference hashes that differ in at most so many of 64 bits show the same picture."""


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
    expected, found = _CocoFile.read(truth), _CocoFile.read(predicted)
    common = sorted(expected.images.keys() & found.images.keys())
    if not common:
        names = [repr(next(iter(file.images), "none")) for file in (expected, found)]
        raise RequestError(
            f"{truth} and {predicted} have no image in common: an image must have the same file_name in both, "
            f"not {names[0]} here and {names[1]} there"
        )
    if missing := len(expected.images) - len(common):
        log.warning("%d of %d images of %s are not in %s", missing, len(expected.images), truth, predicted)
    for name in common:
        things, crowds = expected.regions(name)
        yield Sample(name, name, "", things, found.regions(name)[0], crowds)
    for file in (expected, found):
        file.tell_left_out()


@dataclass(frozen=True, slots=True)
class _CocoFile:
    """A COCO file of instances (https://cocodataset.org/#format-data) whose masks are decoded when they are asked for, an image
    at a time. A row that cannot be used is left out and counted under its reason; it never costs the others.
    """

    path: Path
    images: Mapping[str, Size]
    labels: Mapping[Any, str]
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    left_out: Counter[str]

    @classmethod
    def read(cls, path: Path) -> _CocoFile:
        """Raises RequestError when it is no COCO file."""
        try:
            body = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(f"{path} is no COCO file of instances: {type(error).__name__}: {error}") from error
        lists = [body.get(name) if isinstance(body, dict) else None for name in ("images", "categories", "annotations")]
        rows_of = [[row for row in found if isinstance(row, dict)] for found in lists if isinstance(found, list)]
        if len(rows_of) < len(lists):
            raise RequestError(f"{path} is no COCO file of instances: it needs lists under images, categories and annotations")
        left_out: Counter[str] = Counter()
        images, categories, annotations = rows_of
        names, sizes = {}, {}
        for image in images:
            if (size := _size(image)) is None:
                left_out["image without file_name, height and width"] += 1
                continue
            names[_key(image.get("id"))], sizes[image["file_name"]] = image["file_name"], size
        rows: dict[str, list[Mapping[str, Any]]] = {name: [] for name in sizes}
        for annotation in annotations:
            if (name := names.get(_key(annotation.get("image_id")))) is None:
                left_out["annotation of an image that is not listed"] += 1
            else:
                rows[name].append(annotation)
        labels = {_key(category.get("id")): str(category.get("name")) for category in categories}
        return cls(path, sizes, labels, rows, left_out)

    def regions(self, name: str) -> tuple[list[DrawnRegion], list[DrawnRegion]]:
        """The regions of an image: those of one thing each, and crowds."""
        found: tuple[list[DrawnRegion], list[DrawnRegion]] = ([], [])
        for number, row in enumerate(self.rows[name]):
            try:
                region = self._region(row, f"{name} {row.get('id', number)}", self.images[name])
            except RequestError as error:
                self.left_out[str(error)] += 1
            else:
                found[1 if row.get("iscrowd") else 0].append(region)
        return found

    def tell_left_out(self) -> None:
        if self.left_out:
            told = ", ".join(f"{count} x {reason}" for reason, count in self.left_out.most_common(8))
            log.warning("rows of %s are left out: %s", self.path, told)

    def _region(self, row: Mapping[str, Any], name: str, size: Size) -> DrawnRegion:
        """Raises RequestError that says, in a few words, why the row is none."""
        label = self.labels.get(_key(row.get("category_id")))
        if label is None:
            raise RequestError("annotation of a category that is not listed")
        score = row.get("score", 1.0)
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise RequestError("annotation whose score is no number")
        return DrawnRegion(name, _mask(row.get("segmentation"), size), label, float(score))


def _size(image: Mapping[str, Any]) -> Size | None:
    height, width = image.get("height"), image.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and isinstance(image.get("file_name"), str)):
        return None
    return Size(height, width) if height > 0 and width > 0 and height * width <= MOST_PIXELS else None


def _key(found: Any) -> Any:
    """An id as a key; what cannot be one is none."""
    return found if isinstance(found, int | str) else None


def _mask(segmentation: Any, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a polygon list, of plain run lengths, or of compressed ones. Raises RequestError."""
    if isinstance(segmentation, list):
        segmentation = [ring for ring in segmentation if isinstance(ring, list) and len(ring) >= 6]
    if not segmentation:
        raise RequestError("annotation without a mask")
    try:
        mask: BoolArray = coco.decode(_encoded(segmentation, size.height, size.width)).astype(np.bool_)
    except Exception as error:  # whatever pycocotools trips over
        raise RequestError("annotation whose mask cannot be read") from error
    if mask.shape != (size.height, size.width):
        raise RequestError("annotation whose mask has another size than its image")
    if not mask.any():
        raise RequestError("annotation whose mask is empty")
    return mask


def _encoded(segmentation: Any, height: int, width: int) -> Any:
    """COCO's compressed run lengths of a polygon list, of plain run lengths, or of what is compressed already."""
    if isinstance(segmentation, list):
        return coco.merge(coco.frPyObjects(segmentation, height, width))
    height, width = segmentation["size"]
    if isinstance(segmentation["counts"], list):
        segmentation = coco.frPyObjects(segmentation, height, width)
    check_length(segmentation["counts"], height * width)
    return segmentation


@dataclass(frozen=True, slots=True)
class Ranked:
    """How much a prediction needs a person, in 0..1, and the reason in words."""

    uncertainty: float
    reason: str


def rank(result: Sequence[Mapping[str, Any]]) -> Ranked:
    """Rank one prediction by its regions.

    A prediction without regions, or with hardly any pixels, is wholly uncertain. Otherwise half of the uncertainty is
    that of its least certain region and half the mean of all, each ``1 - |2 score - 1|``: largest at a score of 0.5, where the
    engine cannot tell, and 0 at scores of 0 and 1.
    """
    if (film := rank_film(result)) is not None:
        return Ranked(*film)
    try:
        regions = read_regions(result)
    except RequestError as error:
        return Ranked(1.0, f"cannot be read: {error}")
    if not regions:
        return Ranked(1.0, "nothing was found")
    covered = max(_covered(regions, shape) for shape in {region.mask.shape for region in regions})
    if covered < NEARLY_NOTHING:
        return Ranked(1.0, f"nearly nothing was found: {covered:.3%} of the image")
    doubts = [1 - abs(2 * min(max(region.score, 0.0), 1.0) - 1) for region in regions]
    worst: DrawnRegion = regions[int(np.argmax(doubts))]
    return Ranked(round((max(doubts) + sum(doubts) / len(doubts)) / 2, 4), f"{worst.label} has a score of {worst.score:.2f}")


def _covered(regions: Sequence[DrawnRegion], shape: tuple[int, ...]) -> float:
    """The share of an image that its regions cover; of a task with several images, of those of one size."""
    return float(np.mean(np.logical_or.reduce([region.mask for region in regions if region.mask.shape == shape])))


def difference_hash(image: Image) -> int:
    """64 bits: where an image ``(H, W, 3)`` grows brighter from left to right (N. Krawetz, "Kind of like that", 2013)."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def duplicates(hashes: Iterable[tuple[str, int]]) -> dict[str, str]:
    """For every key whose picture was there before, the first key with that picture.

    Two hashes that differ in at most 4 of 64 bits agree wholly in one of 5 parts, so only those are compared.
    """
    parts: dict[tuple[int, int], list[tuple[str, int]]] = {}
    found: dict[str, str] = {}
    for key, value in hashes:
        places = [(part, value >> 13 * part & 0x1FFF) for part in range(SAME_BITS + 1)]
        near = (other for place in places for other in parts.get(place, ()))
        first = next((name for name, known in near if (known ^ value).bit_count() <= SAME_BITS), None)
        if first is not None:
            found[key] = first
            continue
        for place in places:
            parts.setdefault(place, []).append((key, value))
    return found


log = logging.getLogger(__name__)


UNCERTAINTY, REASON = "maskloom_uncertainty", "maskloom_reason"
"""The columns of a task's data."""


@dataclass(frozen=True, slots=True)
class RankedTask:
    """A task with its rank: its number and its data, and the number of the prediction that was looked at."""

    task: int
    data: Mapping[str, Any]
    prediction: int
    uncertainty: float
    reason: str


class Reviewing:
    """Ranks the tasks of a project that have a prediction of a model version, by default each task's newest."""

    def __init__(self, studio: LabelStudio, project_id: int, version: str | None, images: ImageSource) -> None:
        self._studio = studio
        self._project_id = project_id
        self._version = version
        self._images = images

    def ranked(self) -> list[RankedTask]:
        """Every task with a prediction; memory holds their data, and the regions of one at a time."""
        return list(self._tasks())

    def without_duplicates(self, ranked: Sequence[RankedTask]) -> list[RankedTask]:
        """A picture that came before is not worth a second look: its uncertainty is 0."""
        twins = duplicates(self._hashes(ranked))
        return [
            replace(each, uncertainty=0.0, reason=f"shows the same as task {twins[str(each.task)]}")
            if str(each.task) in twins
            else each
            for each in ranked
        ]

    def write_data(self, ranked: Sequence[RankedTask]) -> None:
        """Two more columns in the data of every task; the rest of the data stays."""
        for each in ranked:
            columns = {UNCERTAINTY: each.uncertainty, REASON: each.reason}
            self._studio.change_data(each.task, {**each.data, **columns})

    def write_scores(self, ranked: Sequence[RankedTask]) -> None:
        """The certainty, 1 - uncertainty, in place of the predictions' scores."""
        for each in ranked:
            self._studio.change_score(each.prediction, round(1 - each.uncertainty, 4))

    def _tasks(self) -> Iterator[RankedTask]:
        for listed in self._studio.list_tasks(self._project_id):
            if listed.predictions:
                task = self._studio.task(listed.id)
                mine = [p for p in task.predictions if self._version in (None, p.model_version)]
                if mine:
                    found = rank(mine[-1].result)
                    yield RankedTask(task.id, task.data, mine[-1].id, found.uncertainty, found.reason)

    def _hashes(self, ranked: Sequence[RankedTask]) -> Iterator[tuple[str, int]]:
        key = read_config(self._studio.project(self._project_id).label_config).images[0].data_key
        for each in ranked:
            try:
                image = self._images.load(str(each.data.get(key, "")), str(self._project_id), str(each.task))
            except (ImageError, RemoteError) as error:
                if isinstance(error, RemoteError) and error.status is None:  # nobody answers, not even about the next one
                    raise
                log.info("task %d is not compared with others: %s", each.task, error)
                continue
            yield str(each.task), difference_hash(image.pixels)
