"""The order of review: which predictions a person should look at first, and why.

It is read from a project's predictions, and written where the Data Manager can sort by it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from backend.images.limits import ImageSource
from backend.labelstudio.api import LabelStudio
from backend.labelstudio.config import read_config
from backend.labelstudio.shapes import DrawnRegion, read_regions
from backend.values.errors import ImageError, RemoteError, RequestError
from prompts.kinds import Image

NEARLY_NOTHING = 0.0005
"""A prediction whose regions cover less of the image than this says nearly nothing."""
SAME_BITS = 4
"""Difference hashes that differ in at most so many of 64 bits show the same picture."""


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
