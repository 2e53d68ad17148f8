"""What Label Studio's webhooks tell: which regions were accepted, and which annotations and tasks are gone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.labelstudio.config import LabelConfig, lookup, read_config
from backend.labelstudio.request.context import examples_of
from backend.labelstudio.shapes import RegionMark, covers_pixels, size_of_item
from backend.labelstudio.shapes.base import mappings, region_id, regions_of, saved_at, seconds_of
from backend.values.errors import RequestError
from backend.values.masks import NOTHING_DRAWN
from backend.values.session import Example, Submission, Verdict

log = logging.getLogger(__name__)

Json = Mapping[str, Any]

MOST_PIXELS = 100_000_000
MOST_PIXELS_TOGETHER = 10_000_000_000
"""Of the images of all regions of an annotation, each counted: four hundred regions of 24 megapixels."""
LONGEST_VERSION = 200
LONGEST_NAME = 50
LONGEST_S = 7 * 86_400.0
"""A longer time was not spent on one annotation."""
_VERDICTS = {"prediction": Verdict.ACCEPTED, "prediction-changed": Verdict.CORRECTED}
"""What Label Studio's page writes on regions that came from a prediction; what was suggested says it better, where it is known.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Accepted:
    """An annotation as it stands. Its examples are not compared with what was ``suggested`` yet, which is None where the event
    does not tell; ``was_derived`` from suggestions it is for certain where Label Studio says so.
    """

    submission: Submission
    suggested: tuple[Example, ...] | None = None
    was_derived: bool = False

    @property
    def project(self) -> str:
        return self.submission.project

    @property
    def annotation(self) -> str:
        return self.submission.annotation

    @property
    def examples(self) -> tuple[Example, ...]:
        return self.submission.examples


@dataclass(frozen=True, slots=True)
class Gone:
    """Annotations or tasks that were deleted."""

    project: str
    annotations: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingAsked:
    """Somebody has pressed "Start training" in a project."""

    project: str


Answered = Callable[[str, str], Sequence[Json]]
"""What we answered about a task of a project, as predictions, the newest first."""


def read_event(
    body: Any, answered: Answered = lambda project, task: (), key_of: Callable[[str], str] = str
) -> list[Accepted | Gone | TrainingAsked]:
    """What an event means for the memory of its project; nothing for one that means nothing. Where an annotation does not bring
    the prediction that was viewed, it is compared with what we ``answered``. ``key_of`` gives the key of a project by
    the name that requests have for it.

    Raises:
        ConfigError: the project's labelling config cannot be read.
    """
    if not isinstance(body, Mapping) or not isinstance(project := body.get("project"), Mapping):
        return []
    name = key_of(project_name(project))
    match body.get("action"):
        case "ANNOTATION_CREATED" | "ANNOTATION_UPDATED" | "ANNOTATIONS_CREATED":
            config = read_config(str(project.get("label_config")))
            return [_accepted(name, annotation, body, config, answered) for annotation in _each(body.get("annotation"))]
        case "ANNOTATIONS_DELETED":
            return [Gone(name, annotations=_numbers(body.get("annotations")))]
        case "TASKS_DELETED":
            return [Gone(name, tasks=_numbers(body.get("tasks")))]
        case "START_TRAINING":
            return [TrainingAsked(name)]
        case _:
            return []


def project_name(project: Json) -> str:
    """A project's name as other requests write it, ``"1.1795211212"``: its number, and the second in which it was made."""
    made_at = seconds_of(project.get("created_at"))
    return str(project.get("id")) if made_at is None else f"{project.get('id')}.{math.floor(made_at)}"


def read_annotation(project: str, annotation: Json, task: Json, config: LabelConfig, predictions: Sequence[Json]) -> Accepted:
    """What an annotation of a task shows now, and what the prediction suggested that it was made from, or else the last one."""
    number, made_at = str(annotation.get("id")), saved_at(annotation)
    blank = Example(project, str(task.get("id")), number, "", "", None, NOTHING_DRAWN, annotator=_user(annotation))
    blank = replace(blank, made_at=made_at)
    is_work = not annotation.get("was_cancelled")
    examples = tuple(_examples(annotation, task, config, blank)) if is_work else ()
    facts = (blank.annotator, "", made_at, _seconds(annotation.get("lead_time")))
    submission = Submission(project, blank.task, number, examples, *facts)
    prediction = _prediction_of(annotation, predictions)
    if prediction is None or not is_work:
        return Accepted(submission)
    blank = replace(blank, engine=str(prediction.get("model_version") or "")[:LONGEST_VERSION])
    suggested = tuple(_examples(prediction, task, config, blank))
    return Accepted(submission, suggested, annotation.get("parent_prediction") is not None)


def _accepted(project: str, annotation: Json, body: Json, config: LabelConfig, answered: Answered) -> Accepted:
    task, viewed = _task_of(annotation, _each(body.get("task"))), annotation.get("prediction")
    known = [viewed] if isinstance(viewed, Mapping) else []
    if _prediction_of(annotation, known) is not None:
        return read_annotation(project, annotation, task, config, known)
    unnamed = {**annotation, "parent_prediction": None}
    found = read_annotation(project, unnamed, task, config, answered(project, str(task.get("id"))))
    return replace(found, was_derived=annotation.get("parent_prediction") is not None)


def _prediction_of(annotation: Json, predictions: Sequence[Json]) -> Json | None:
    """The prediction that an annotation was made from: Label Studio names it, or keeps its regions' ids; else any."""
    known = [each for each in predictions if isinstance(each.get("result"), list)]
    named = annotation.get("parent_prediction")
    if named is not None:
        return next((each for each in known if each.get("id") == named), None)
    ids = {region_id(item) for item in regions_of(annotation)}
    return max(known, key=lambda each: len(ids & {region_id(item) for item in regions_of(each)}), default=None)


def _user(annotation: Json) -> str:
    found = annotation.get("completed_by")
    return str(found.get("id") if isinstance(found, Mapping) else found or "")[:LONGEST_NAME]


def _seconds(found: Any) -> float | None:
    is_time = isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < LONGEST_S
    return float(found) if is_time else None


def _task_of(annotation: Json, tasks: list[Json]) -> Json:
    """The task of an annotation, which holds it or names it by its number; without either the only one that came along."""
    found = annotation.get("task")
    if isinstance(found, Mapping):
        return found
    if found is None and len(tasks) == 1:
        return tasks[0]
    return next((task for task in tasks if str(task.get("id")) == str(found)), {})


def _examples(annotation: Json, task: Json, config: LabelConfig, blank: Example) -> Iterator[Example]:
    """One of each region: Label Studio stores an accepted mask a second time under a tag whose label was still selected."""
    found = task.get("data")
    data = found if isinstance(found, Mapping) else {}
    config, left = config.for_task(data), MOST_PIXELS_TOGETHER
    read: set[str] = set()
    failed: list[tuple[str, RequestError]] = []
    for mark in (mark for image in config.images for mark in examples_of(annotation, config.labels_of(image))):
        try:
            url = _address(mark.item, config, data)
            if url and covers_pixels(mark.item) and mark.id not in read:
                left -= size_of_item(mark.item).pixels
                if left < 0:
                    raise RequestError("with those before it, it is about more pixels than one annotation may be")
                yield from _example(mark, url, blank)
                read |= {mark.id} - {""}
        except RequestError as error:
            failed.append((mark.id, error))
    for reason in (reason for name, reason in failed if name not in read):
        log.warning("annotation %s: a region is not remembered: %s", blank.annotation, reason)


def _example(mark: RegionMark, url: str, blank: Example) -> Iterator[Example]:
    size, origin = size_of_item(mark.item), str(mark.item.get("origin"))
    if size.pixels > MOST_PIXELS:
        raise RequestError(f"the image has {size.pixels} pixels, more than {MOST_PIXELS}")
    runs = mark.runs(size)
    if len(runs.edges):
        verdict = _VERDICTS.get(origin, Verdict.DRAWN) if mark.label is not None else Verdict.DRAWN
        named = replace(blank, region=mark.short_id, image_url=url, label=mark.label)
        yield replace(named, runs=runs, verdict=verdict)


def _address(item: Json, config: LabelConfig, data: Json) -> str:
    """The address of the image that a region is on; empty when the task does not have it."""
    tag = config.image(item.get("to_name"))
    found = lookup(tag.source, data) if tag else None
    page = item.get("item_index") or 0
    if isinstance(found, list):
        found = found[page] if isinstance(page, int) and 0 <= page < len(found) else None
    return found if isinstance(found, str) else ""


def _each(found: Any) -> list[Json]:
    return [found] if isinstance(found, Mapping) else list(mappings(found))


def _numbers(found: Any) -> tuple[str, ...]:
    return tuple(str(each.get("id")) for each in mappings(found))
