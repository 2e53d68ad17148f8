"""What Label Studio's webhooks tell: which regions were accepted, and which annotations and tasks are gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.labelstudio.config import LabelConfig, lookup, read_config
from backend.labelstudio.request.examples import RegionMark, examples_of
from backend.labelstudio.shapes import covers_pixels, size_of_item
from backend.labelstudio.shapes.base import mappings
from backend.values.errors import RequestError
from backend.values.session import Example

log = logging.getLogger(__name__)

Json = Mapping[str, Any]

MOST_PIXELS = 100_000_000


@dataclass(frozen=True, slots=True)
class Accepted:
    """All examples that one annotation shows now."""

    project: str
    annotation: str
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """Annotations or tasks that were deleted."""

    project: str
    annotations: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


def read_event(body: Any) -> list[Accepted | Gone]:
    """What an event means for the memory of its project; nothing for one that means nothing.

    Raises:
        ConfigError: the project's labelling config cannot be read.
    """
    if not isinstance(body, Mapping) or not isinstance(project := body.get("project"), Mapping):
        return []
    name = str(project.get("id"))
    match body.get("action"):
        case "ANNOTATION_CREATED" | "ANNOTATION_UPDATED" | "ANNOTATIONS_CREATED":
            config = read_config(str(project.get("label_config")))
            return [_accepted(name, annotation, body, config) for annotation in _each(body.get("annotation"))]
        case "ANNOTATIONS_DELETED":
            return [Gone(name, annotations=_numbers(body.get("annotations")))]
        case "TASKS_DELETED":
            return [Gone(name, tasks=_numbers(body.get("tasks")))]
        case _:
            return []


def _accepted(project: str, annotation: Json, body: Json, config: LabelConfig) -> Accepted:
    task = _task_of(annotation, _each(body.get("task")))
    blank = Example(project, str(task.get("id")), str(annotation.get("id")), "", "", None, np.zeros((1, 1), np.bool_))
    is_work = not annotation.get("was_cancelled")
    examples = tuple(_examples(annotation, task, config, blank)) if is_work else ()
    return Accepted(project, blank.annotation, examples)


def _task_of(annotation: Json, tasks: list[Json]) -> Json:
    """The task of an annotation, which holds it or names it by its number; without either the only one that came along."""
    found = annotation.get("task")
    if isinstance(found, Mapping):
        return found
    if found is None and len(tasks) == 1:
        return tasks[0]
    return next((task for task in tasks if str(task.get("id")) == str(found)), {})


def _examples(annotation: Json, task: Json, config: LabelConfig, blank: Example) -> Iterator[Example]:
    found = task.get("data")
    data = found if isinstance(found, Mapping) else {}
    config = config.for_task(data)
    for mark in (mark for image in config.images for mark in examples_of(annotation, config.labels_of(image))):
        try:
            url = _address(mark.item, config, data)
            if url and covers_pixels(mark.item):
                yield from _example(mark, url, blank)
        except RequestError as error:
            log.warning("annotation %s: a region is not remembered: %s", blank.annotation, error)


def _example(mark: RegionMark, url: str, blank: Example) -> Iterator[Example]:
    size = size_of_item(mark.item)
    if size.pixels > MOST_PIXELS:
        raise RequestError(f"the image has {size.pixels} pixels, more than {MOST_PIXELS}")
    mask = mark.mask(size)
    if mask.any():
        yield replace(blank, region=mark.short_id, image_url=url, label=mark.label, mask=mask)


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
