"""The review order of a Label Studio project: read from its predictions, written where the Data Manager can sort by it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.evaluation.rank import difference_hash, duplicates, rank
from backend.images import ImageSource
from backend.labelstudio.api import LabelStudio
from backend.labelstudio.config import read_config
from backend.values.errors import ImageError, RemoteError

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
