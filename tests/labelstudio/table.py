"""A drawn table of shapes, projects with the configs of the gallery, and what Label Studio stores of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.labelstudio.api import LabelStudio, Project
from tests.backend.pictures import BLUE, GREEN, RED, Picture, disc, paint, square
from tests.labelstudio.annotator import mask_of
from tests.labelstudio.oracle import iou

CONFIGS = Path("docs/how-to/configs")
POINT, BOX, BRUSH, POLYGON = "KeyPointTool-dynamic", "RectangleTool-dynamic", "BrushTool", "PolygonTool"


def table() -> Picture:
    """Two red discs, a blue square and a green one, 320 x 240."""
    return paint(
        {
            "large": (disc(240, 320, 80, 90, 50), RED),
            "small": (disc(240, 320, 180, 190, 30), RED),
            "blue": (square(240, 320, 200, 30, 80), BLUE),
            "green": (square(240, 320, 60, 170, 50), GREEN),
        }
    )


def made(label_studio: LabelStudio, backend: str, config: str) -> Project:
    """A project with a config of the gallery."""
    found = label_studio.create_project(f"live {config}", (CONFIGS / f"{config}.xml").read_text("utf-8"))
    assert label_studio.attach_backend(found.id, backend, "Maskloom").state == "CO"
    return found


def stored(label_studio: LabelStudio, task: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """The label and the mask of every region of the submitted annotation that is a result."""
    (annotation,) = label_studio.task(task).annotations
    found = [region for region in annotation["result"] if region["from_name"] in ("mask", "brush")]
    labels = {r["id"]: r["value"]["labels"][0] for r in annotation["result"] if r["type"] == "labels"}
    return [(labels.get(r["id"]) or r["value"]["brushlabels"][0], mask_of(r)) for r in found if "rle" in r["value"]]


def assert_stored(label_studio: LabelStudio, task: int, *expected: tuple[str, NDArray[np.bool_]], least: float = 0.95) -> None:
    """That exactly these labels are stored, each with a mask of at least this IoU with the expected one."""
    found = stored(label_studio, task)
    assert sorted(label for label, _ in found) == sorted(label for label, _ in expected)
    for label, mask in expected:
        assert max(iou(mask, other) for its, other in found if its == label) > least, label


def shape(name: str) -> NDArray[np.bool_]:
    return table().shapes[name]
