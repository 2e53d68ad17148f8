"""What is kept of answers and of annotations beside requests: answers are recorded, and a project is remembered anew.

A recorded answer is later compared with what people submit. The memory bank of a project is made what all its annotations say,
after an outage or for old ones.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backend.background import PAUSES_S, Worker, insist
from backend.labelstudio.api import LabelStudio, Project, TaskDetails
from backend.labelstudio.config import read_config
from backend.labelstudio.events import Accepted, read_annotation
from backend.labelstudio.request.request import InteractionRequest, TaskRequest
from backend.labelstudio.shapes.base import Answer, answer_of
from backend.serving.webhooks import take
from backend.stores.answers import Answers, GivenAnswer, Kind
from backend.stores.memory import MemoryBank
from backend.values.errors import RequestError

log = logging.getLogger(__name__)

MOST_WAITING = 1_000


class Recorder:
    """Takes answers at once and keeps them when there is time; one too many is not known afterwards, and costs no time."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._is_closing = threading.Event()
        self._worker: Worker[tuple[TaskRequest, Answer]] = Worker("recording", self._keep, MOST_WAITING)
        self.record = self._worker.offer
        """Takes an answer to a request; False when too many wait."""

    def wait(self) -> None:
        """Until everything is kept."""
        self._worker.wait()

    def close(self, patience_s: float) -> None:
        """Keep what waits, and take nothing more."""
        self._is_closing.set()
        self._worker.close(patience_s)

    def _keep(self, answered: tuple[TaskRequest, Answer]) -> None:
        """Keep an answer; a failure is none."""
        task, answer = answered
        if "result" not in answer or not task.project:
            return
        is_interactive = isinstance(task, InteractionRequest)
        kind = Kind.INTERACTION if is_interactive else Kind.PREANNOTATION
        label = task.armed_label or "" if isinstance(task, InteractionRequest) else ""
        name = answer_of(str(answer["result"][0]["id"])) if answer["result"] else ""
        given = GivenAnswer(name, task.project, task.task_id, kind, label[:300], time.time(), answer)
        insist(lambda: self._answers.keep(given), PAUSES_S, self._is_closing)


@dataclass(frozen=True, slots=True)
class Remembered:
    """How many tasks had annotations, how many annotations and regions they hold, and how many remembered ones are gone."""

    tasks: int = 0
    annotations: int = 0
    regions: int = 0
    gone: int = 0


def remember(
    studio: LabelStudio, project: Project, key: str, memory: MemoryBank, watch: Callable[[Remembered], None]
) -> Remembered:
    """Read every annotation of a project and forget those that are not there; ``watch`` hears how far it is. The same again
    changes nothing. Raises RemoteError, ConfigError and StoreError.
    """
    found, seen = Remembered(), set[str]()
    for task in _annotated(studio, project.id):
        told = list(_annotations(task, project, key))
        memory.find_again(key, [each.annotation for each in told], [str(task.id)])
        for each in told:
            take(each, memory)
        seen.update(each.annotation for each in told)
        regions = sum(len(each.examples) for each in told)
        found = Remembered(found.tasks + 1, found.annotations + len(told), found.regions + regions)
        watch(found)
    return Remembered(found.tasks, found.annotations, found.regions, memory.keep_only(key, seen))


def _annotated(studio: LabelStudio, project_id: int) -> Iterator[TaskDetails]:
    """The tasks with annotations; the list is read first, as its pages move when tasks come and go."""
    for task in [task.id for task in studio.list_tasks(project_id) if task.annotations]:
        yield studio.task(task)


def _annotations(task: TaskDetails, project: Project, key: str) -> Iterator[Accepted]:
    """What the annotations of a task say; one that cannot be read costs itself."""
    config = read_config(project.label_config)
    facts = {"id": task.id, "data": task.data}
    predictions = [
        {"id": each.id, "model_version": each.model_version, "result": list(each.result)} for each in task.predictions
    ]
    for annotation in task.annotations:
        try:
            yield read_annotation(key, annotation, facts, config, predictions)
        except RequestError as error:
            log.warning("annotation %s of task %d is not remembered: %s", annotation.get("id"), task.id, error)
