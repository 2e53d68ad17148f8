"""The review order of a Label Studio project: read from its predictions, written where the Data Manager can sort by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.errors import ImageError
from backend.evaluation.rank import Ranked, difference_hash, duplicates, rank
from backend.labelstudio.client import LabelStudio, StoredPrediction, TaskDetails
from backend.labelstudio.config import read_config
from prompts.kinds import Image

UNCERTAINTY, REASON = "maskloom_uncertainty", "maskloom_reason"
"""The columns of a task's data."""


class ImageSource(Protocol):
    """Where the images of tasks come from."""

    def load(self, url: str, project: str, task_id: str | None) -> Image: ...


@dataclass(frozen=True, slots=True)
class RankedTask:
    """A task with its rank; ``prediction`` is the one that was looked at."""

    task: TaskDetails
    prediction: StoredPrediction
    uncertainty: float
    reason: str


class Reviewing:
    """Ranks the tasks of a project that have a prediction of a model version, by default each task's newest."""

    def __init__(self, studio: LabelStudio, project_id: int, version: str | None, images: ImageSource) -> None:
        self._studio = studio
        self._project_id = project_id
        self._version = version
        self._images = images

    def ranked(self, look_for_duplicates: bool) -> list[RankedTask]:
        """Every task with a prediction. A picture that came before is not worth a second look: its uncertainty is 0."""
        tasks = list(self._tasks())
        twins = self._twins([task for task, _, _ in tasks]) if look_for_duplicates else {}
        return [
            RankedTask(task, prediction, found.uncertainty, found.reason)
            if str(task.id) not in twins
            else RankedTask(task, prediction, 0.0, f"shows the same as task {twins[str(task.id)]}")
            for task, prediction, found in tasks
        ]

    def write_data(self, ranked: Sequence[RankedTask]) -> None:
        """Two more columns in the data of every task; the rest of the data stays."""
        for each in ranked:
            columns = {UNCERTAINTY: each.uncertainty, REASON: each.reason}
            self._studio.change_data(each.task.id, {**each.task.data, **columns})

    def write_scores(self, ranked: Sequence[RankedTask]) -> None:
        """The certainty, 1 - uncertainty, in place of the predictions' scores."""
        for each in ranked:
            self._studio.change_score(each.prediction.id, round(1 - each.uncertainty, 4))

    def _tasks(self) -> Iterator[tuple[TaskDetails, StoredPrediction, Ranked]]:
        for listed in self._studio.list_tasks(self._project_id):
            if listed.predictions:
                task = self._studio.task(listed.id)
                mine = [p for p in task.predictions if self._version in (None, p.model_version)]
                if mine:
                    yield task, mine[-1], rank(mine[-1].result)

    def _twins(self, tasks: Sequence[TaskDetails]) -> dict[str, str]:
        return duplicates(self._hashes(tasks))

    def _hashes(self, tasks: Sequence[TaskDetails]) -> Iterator[tuple[str, int]]:
        key = read_config(self._studio.project(self._project_id).label_config).images[0].data_key
        for task in tasks:
            try:
                image = self._images.load(str(task.data.get(key, "")), str(self._project_id), str(task.id))
            except ImageError:
                continue
            yield str(task.id), difference_hash(image)
