"""An annotator as the page speaks for them over HTTP, on two images of coloured shapes, and the shapes that are answered."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from backend.labelstudio.shapes import painted as rle
from prompts.geometry import Size
from tests.backend.pictures import BLUE, GREEN, RED, Picture, disc, paint, square

CONFIG = """<View>
  <TextArea name="prompt" toName="image"/>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Ball"/><Label value="Box"/></BrushLabels>
  <BrushLabels name="hint" toName="image"><Label value="this" maskloom="for"/><Label value="not this" maskloom="against"/>
    <Label value="like this" maskloom="reference"/><Label value="better" maskloom="refine"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Ball"/><Label value="Box"/></KeyPointLabels>
  <RectangleLabels name="rect" toName="image" smart="true" smartOnly="true"><Label value="Ball"/><Label value="Box"/>
    <Label value="like this" maskloom="reference"/></RectangleLabels>
</View>"""
HEIGHT, WIDTH = 90, 160
SHAPES = {
    "left": (disc(HEIGHT, WIDTH, 35, 45, 25), RED),
    "right": (disc(HEIGHT, WIDTH, 95, 40, 12), RED),
    "blue": (square(HEIGHT, WIDTH, 120, 30, 25), BLUE),
    "green": (square(HEIGHT, WIDTH, 75, 65, 20), GREEN),
}


def picture() -> Picture:
    return paint(SHAPES)


def with_images(folder: Path) -> Path:
    """The folder with ``a.png``, the picture, and ``b.png``, the picture mirrored."""
    Image.fromarray(picture().image).save(folder / "a.png")
    Image.fromarray(np.ascontiguousarray(picture().image[:, ::-1])).save(folder / "b.png")
    return folder


class Annotator:
    """One annotator at one task, as the page speaks for them."""

    def __init__(self, client: TestClient, image: Path | str, number: int = 1) -> None:
        self.client, self.image, self.number = client, str(image), number
        self.drawn: list[dict[str, Any]] = []
        self.has_saved = True

    def ask(self, *context: dict[str, Any], age: float = 60, config: str = CONFIG) -> list[dict[str, Any]]:
        """The regions answered to a context, while the draft of so many seconds ago, if the page has saved one, holds
        everything drawn by hand.
        """
        at = datetime.fromtimestamp(time.time() - age, UTC).isoformat()
        drafts = [{"user": "ann@example.com", "updated_at": at, "result": self.drawn}]
        task = {
            "id": self.number,
            "data": {"image": self.image},
            "annotations": [],
            "predictions": [],
            "drafts": drafts if self.has_saved else [],
        }
        body = {"tasks": [task], "project": "1.17", "label_config": config, "params": {"context": {"result": list(context)}}}
        (answer,) = self.client.post("/predict", json=body).json()["results"]
        return list(answer["result"])

    def submit(self) -> None:
        """Submit the annotation, of which Label Studio tells us."""
        annotation = {"id": self.number * 10, "task": self.number, "result": self.drawn}
        task = {"id": self.number, "data": {"image": self.image}}
        project = {"id": 1, "label_config": CONFIG}
        event = {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": project, "task": task}
        assert self.client.post("/webhook", json=event).status_code == 201


def head(kind: str, control: str, name: str) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": name, "type": kind, "from_name": control, "to_name": "image", "origin": "manual", **size}


def stroke(label: str, *path: float) -> dict[str, Any]:
    """A brush stroke along pixels, 3 pixels wide."""
    percents = [value * 100 / side for value, side in zip(path, [WIDTH, HEIGHT] * len(path), strict=False)]
    touch = {"type": "add", "relativePoints": percents, "relativeStrokeWidth": 300 / WIDTH}
    value = {"format": "rle", "touches": [touch], "brushlabels": [label]}
    return {**head("brushlabels", "hint", f"stroke{path}"), "value": value}


def click(x: float, y: float, label: str = "Ball", positive: bool = True) -> dict[str, Any]:
    value = {"x": x * 100 / WIDTH, "y": y * 100 / HEIGHT, "width": 0.2, "keypointlabels": [label]}
    return {**head("keypointlabels", "kp", f"point{x},{y}"), "value": value, "is_positive": positive}


def box(x: float, y: float, width: float, height: float, label: str = "Ball") -> dict[str, Any]:
    value = {"x": x * 100 / WIDTH, "y": y * 100 / HEIGHT, "width": width * 100 / WIDTH, "height": height * 100 / HEIGHT}
    return {**head("rectanglelabels", "rect", f"box{x},{y}"), "value": {**value, "rotation": 0, "rectanglelabels": [label]}}


def typed(line: str) -> dict[str, Any]:
    return {"value": {"text": [line]}, "id": "t", "from_name": "prompt", "to_name": "image", "type": "textarea"}


def found(regions: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The labels of the answered regions and the shape that each shows to the pixel."""
    return sorted((region["value"]["brushlabels"][0], shape_of(region)) for region in regions)


def shape_of(region: dict[str, Any]) -> str:
    mask = rle.decode(region["value"]["rle"], Size(HEIGHT, WIDTH))
    shapes = {name: shape for name, (shape, _) in SHAPES.items()} | {
        f"{n} mirrored": s[:, ::-1] for n, (s, _) in SHAPES.items()
    }
    return next((name for name, shape in shapes.items() if np.array_equal(mask, shape)), f"{mask.sum()} pixels")
