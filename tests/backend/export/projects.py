"""A project in memory for tests of exports: tasks with annotations, as Label Studio's API gives them, and images on disk."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from backend.images.decode import decode_image
from backend.labelstudio.api import ListedTask, Project, StoredPrediction, TaskDetails
from backend.labelstudio.shapes import SHAPES
from backend.values.errors import ImageError
from backend.values.masks import RunLengths
from prompts.kinds import KeyedImage
from tests.backend.bulk.runs import drawn

HEIGHT, WIDTH = 48, 64
TAGS = {"brush": "BrushLabels", "bitmask": "BitmaskLabels", "polygon": "PolygonLabels", "vector": "VectorLabels"}
TAGS |= {"rectangle": "RectangleLabels", "ellipse": "EllipseLabels", "keypoint": "KeyPointLabels"}
LABELS = '<Label value="red"/><Label value="blue"/>'
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    + "".join(f'<{tag} name="{kind}" toName="image">{LABELS}</{tag}>' for kind, tag in TAGS.items())
    + "</View>"
)


def region(name: str, label: str, mask: np.ndarray, kind: str = "brush", **more: Any) -> dict[str, Any]:
    """A result as the page stores it, with the first value that the shape writes for a mask."""
    value = SHAPES[kind].write(RunLengths.of(mask))[0].value
    return result(name, label, kind, value, original_width=mask.shape[1], original_height=mask.shape[0], **more)


def result(name: str, label: str, kind: str, value: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    head = {"id": name, "type": f"{kind}labels", "from_name": kind, "to_name": "image"}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {**head, **size, "value": {**value, f"{kind}labels": [label]}, **more}


def annotation(number: int, *regions: Mapping[str, Any], by: int = 1, at: str = "2026-11-01T10:00:00Z", **more: Any) -> dict:
    return {"id": number, "result": list(regions), "completed_by": by, "updated_at": at, **more}


@dataclass
class ProjectDouble:
    """Project 1; ``asked`` are the tasks that were asked for in full, a list for each request."""

    config: str = CONFIG
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    asked: list[list[int]] = field(default_factory=list)
    url: str = "http://studio"

    def add(
        self, task: int, *annotations: Mapping[str, Any], image: str = "", predictions: Sequence[StoredPrediction] = ()
    ) -> None:
        self.tasks[task] = {
            "data": {"image": image or f"/data/upload/1/{task}.png"},
            "annotations": annotations,
            "predictions": tuple(predictions),
        }

    def project(self, number: int) -> Project:
        return Project(number, "double", "", self.config)

    def list_tasks(self, number: int, view: int | None = None) -> Iterator[ListedTask]:
        for task, each in self.tasks.items():
            if view is None or task % view == 0:
                submitted = [one for one in each["annotations"] if not one.get("was_cancelled")]
                yield ListedTask(task, each["data"], len(submitted), len(each["predictions"]), each.get("updated", "then"))

    def detailed_tasks(self, number: int, tasks: Sequence[int]) -> Iterator[TaskDetails]:
        self.asked.append(list(tasks))
        for task in tasks:
            if task in self.tasks and not self.tasks[task].get("deleted"):
                each = self.tasks[task]
                yield TaskDetails(task, each["data"], tuple(each["annotations"]), each["predictions"])


@dataclass
class Pictures:
    """The images of tasks by their addresses, drawn by the number in the name; those of ``gone`` cannot be had."""

    gone: frozenset[str] = frozenset()

    def read(self, url: str, project: str, task_id: str | None) -> bytes:
        if url in self.gone:
            raise ImageError(f"the image of task {task_id} cannot be had, {url}: there is no such file")
        out = io.BytesIO()
        number = int("".join(filter(str.isdigit, url.rpartition("/")[2])) or 0)
        Image.fromarray(drawn(number).image).save(out, "GIF" if url.endswith(".gif") else "PNG")
        return out.getvalue()

    def load(self, url: str, project: str, task_id: str | None) -> KeyedImage:
        return KeyedImage.of(decode_image(self.read(url, project, task_id), 1 << 30))

    def close(self) -> None:
        pass


def every_shape(count: int) -> ProjectDouble:
    """A project with a red disc and a blue square with a hole on each image, each task by another shape."""
    double = ProjectDouble()
    kinds = [kind for kind in TAGS if kind != "keypoint"]
    for task in range(1, count + 1):
        kind = kinds[task % len(kinds)]
        masks = {label: with_hole(mask) if kind in ("brush", "bitmask") else mask for label, mask in drawn(task).shapes.items()}
        double.add(task, annotation(task * 10, *(region(f"{task}{label}", label, mask, kind) for label, mask in masks.items())))
    return double


def with_hole(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    row, column = int(rows.mean()), int(columns.mean())
    found = mask.copy()
    found[row - 2 : row + 2, column - 2 : column + 2] = False
    return found
