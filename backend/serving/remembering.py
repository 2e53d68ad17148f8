"""Remembering anew: the memory bank of a project is made what all its annotations say, after an outage or for old ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backend.labelstudio.api import LabelStudio, Project, TaskDetails
from backend.labelstudio.config import read_config
from backend.labelstudio.events import Accepted, read_annotation
from backend.serving.webhooks import take
from backend.stores.memory import MemoryBank
from backend.values.errors import RequestError

log = logging.getLogger(__name__)


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
