"""Rectangles: smart ones are box prompts, and a mask's rectangle is its bounding box."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from backend.labelstudio.shapes.base import Json, Role, ShapeValue, area_prompt, read_number, read_value, region_id
from backend.values.masks import RunLengths
from prompts.geometry import (
    BoolArray,
    FloatArray,
    Size,
    bounding_box,
    pixels_to_percent,
    polygon_mask,
    rotated_rectangle,
)
from prompts.kinds import BoxPrompt, Prompt


@dataclass(frozen=True, slots=True)
class BoxMark:
    """A rectangle in percent of the image, turned clockwise around its top-left corner; ``id`` is the region's."""

    x: float
    y: float
    width: float
    height: float
    degrees: float
    id: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return f"a box of {self.width:.4g} x {self.height:.4g} % at {self.x:.4g} %, {self.y:.4g} %"

    def holds(self, x: float, y: float) -> bool:
        """Whether a point, in percent, lies in the upright box around the rectangle; on a wide image a turned one is judged as
        if the image were square.
        """
        x0, y0, x1, y1 = bounding_box(rotated_rectangle(self.x, self.y, self.width, self.height, self.degrees))
        return x0 <= x <= x1 and y0 <= y <= y1

    def corners(self, size: Size) -> FloatArray:
        """Its corners ``(4, 2)`` in pixels."""
        across, down = size.width / 100, size.height / 100
        return rotated_rectangle(self.x * across, self.y * down, self.width * across, self.height * down, self.degrees)

    def prompt(self, size: Size) -> BoxPrompt:
        """The upright box around the rectangle in pixels, cut at the image's edges when it crosses them.

        A turned rectangle becomes its bounding box: engines learn from upright boxes, and each box is an object of its own.
        """
        x0, y0, x1, y1 = bounding_box(self.corners(size))
        if x1 < 0 or y1 < 0 or x0 > size.width or y0 > size.height:
            return BoxPrompt((x0, y0, x1, y1))
        return BoxPrompt((max(x0, 0.0), max(y0, 0.0), min(x1, float(size.width)), min(y1, float(size.height))))


def smart(item: Json) -> BoxMark:
    """A rectangle; nothing tells a smart one from an ordinary one.

    Raises:
        RequestError: the rectangle has no usable coordinates.
    """
    value = read_value(item)
    x, y, width, height = (read_number(value, key) for key in ("x", "y", "width", "height"))
    return BoxMark(x, y, width, height, read_number(value, "rotation", 0.0), region_id(item))


def read(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a rectangle. Raises RequestError when it has no usable coordinates."""
    return polygon_mask(smart({"value": value}).corners(size), size)


def prompt(value: Json, size: Size, role: Role) -> Prompt | None:
    """A rectangle around the object is its box; otherwise what it covers counts."""
    return smart({"value": value}).prompt(size) if role is Role.FOR else area_prompt(read(value, size), role)


def write(runs: RunLengths) -> list[ShapeValue]:
    """The bounding box of a mask ``(H, W)``; nothing for an empty mask."""
    box = runs.box
    if box is None:
        return []
    (x0, y0), (x1, y1) = pixels_to_percent(np.array(box, np.float64), runs.size).tolist()
    return [ShapeValue({"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0})]
